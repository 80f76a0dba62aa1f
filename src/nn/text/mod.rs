//! Language models over packed tokens: decoders and encoders, under the tensor names of several publishers.
//!
//! [`load`] reads one from a file, [`crate::nn::Model::new`] puts it on a device, and a [`TokenBatch`] is what it reads.
//!
//! ```no_run
//! use leanvision::nn::{Hints, Model, ModelSpec, text};
//! # let runtime = leanvision::Runtime::new(&Default::default())?;
//! let (spec, weights) = text::load("stories260K.safetensors".as_ref(), &Hints::default())?;
//! let model = Model::new(&runtime, &ModelSpec::from(spec), &weights)?;
//! let batch = text::TokenBatch::of(&runtime, &[&[1, 403, 407, 261, 378]])?;
//! assert_eq!(model.token_logits(&batch)?.shape(), [5, 512]);
//! # Ok::<(), leanvision::Error>(())
//! ```

mod batch;
mod forward;
mod generate;
mod names;
mod plan;
mod read;
mod reference;
mod sample;
mod score;
mod spec;
mod summary;

pub use batch::{Text, TokenBatch};
pub use generate::Generator;
pub use names::TextFamily;
pub use plan::{NormKind, Output, Rotary, TextBlock, TextPlan, TextPool, TextQkv, TokenNorm};
pub use read::load;
pub(crate) use read::{TextReading, find};
pub use reference::reference_tokens;
pub use sample::Sampling;
pub use score::{Score, score};
pub use spec::{OutputKind, TEXT_NAMES, TextSpec};

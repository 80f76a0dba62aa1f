//! The training loop that every method shares.
//!
//! A method gives the loss of a batch of items; the [`Trainer`] draws the order of the items, steps the optimizer and the
//! average, logs without waiting for the device, writes checkpoints, and goes on from one bit for bit: everything random
//! is a function of the seed and a counter, and every sum has a fixed order, if the ops choose the
//! same variants: on a GPU that takes [`crate::runtime::Tune::Off`].

mod feed;
mod flags;
mod formed;
mod order;
mod pixels;
mod recipe;
mod resume;
mod signals;
mod state;
mod trainer;

pub use feed::Batch;
pub use flags::TrainFlags;
pub use formed::Forming;
pub use order::Order;
pub(crate) use pixels::{Pixels, RESIDENT_BYTES, scale_shift};
pub(crate) use recipe::same_config;
pub use recipe::{EmaCourse, Recipe};
pub(crate) use resume::{given, refuse_old_run, settled_before, to_value};
pub use state::State;
pub use trainer::{Outcome, Start, Trainer};

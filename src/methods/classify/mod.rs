//! Supervised classification: networks trained from scratch, published ones judged on real images.
//!
//! `train` trains any network known here, bit for bit the same each time (on a GPU with `--no-tune`), and goes on where a run was stopped. `eval` gives the top-1 and top-5 of a network's weights on a labelled set, `predict` the likeliest classes of pictures,
//! `info` what a network is and costs, without a GPU. What a file's names and shapes do not fix comes from a JSON file
//! beside it or from flags; see [`crate::nn::identify`].

mod config;
mod eval;
mod info;
mod predict;
mod train;

pub use crate::methods::NetworkFlags;
pub use config::{Augment, Command, Config, EvalConfig, InfoConfig, PredictConfig, TrainConfig};
pub use eval::{EvalReport, Evaluation};
pub use info::info;
pub use predict::{Guess, PictureClasses, PredictReport, Prediction};
pub use train::{Settled, TrainReport, TrainRun};

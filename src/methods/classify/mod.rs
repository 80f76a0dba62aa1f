//! Supervised classification: published networks judged on real images.
//!
//! `eval` gives the top-1 and top-5 of a network's weights on a labelled set, `predict` the likeliest classes of pictures,
//! `info` what a network is and costs, without a GPU. What a file's names and shapes do not fix comes from a JSON file
//! beside it or from flags; see [`crate::nn::identify`].

mod config;
mod eval;
mod info;
mod network;
mod predict;

pub use config::{Command, Config, EvalConfig, InfoConfig, NetworkFlags, PredictConfig};
pub use eval::{EvalReport, Evaluation};
pub use info::info;
pub use predict::{Guess, PictureClasses, PredictReport, Prediction};

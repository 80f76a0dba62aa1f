//! Self-supervised learning and distillation: what the features are worth.
//!
//! [`extract`] runs a network over labelled images; its [`Features`] stay on the device. [`Knn`] judges them by their
//! neighbours.

mod features;
mod knn;

pub use features::{Features, extract};
pub use knn::{Knn, PROTOCOLS, Protocol};

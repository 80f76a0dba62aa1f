//! Self-supervised learning and distillation: what the features are worth.
//!
//! [`extract`] runs a network over labelled images; its [`Features`] stay on the device. [`Knn`] judges them by their
//! neighbours. A [`Backbone`] goes into a file without its head and comes back as it was.

mod backbone;
mod features;
mod knn;

pub use backbone::{Backbone, PixelBackbone, load_backbone, save_backbone};
pub use features::{Features, extract};
pub use knn::{Knn, PROTOCOLS, Protocol};

//! The methods, one folder each.

pub mod classify;
pub mod demo;
pub mod finetune;
mod images;
mod network;
mod score;
pub mod ssl;
pub mod training;

pub use network::NetworkFlags;
pub(crate) use network::{normalization, word};

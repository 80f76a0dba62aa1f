//! The methods, one folder each.

pub mod classify;
pub mod demo;
mod images;
mod network;
pub mod ssl;
pub mod training;

pub use network::NetworkFlags;
pub(crate) use network::{normalization, word};

//! leanvision

pub mod data;
mod error;
pub mod nn;
pub mod philox;

pub use error::{Error, Result};

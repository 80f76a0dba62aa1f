//! leanvision

mod error;
pub mod data;
pub mod nn;

pub use error::{Error, Result};

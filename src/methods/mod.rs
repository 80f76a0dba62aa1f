//! The methods, one folder each.

pub mod classify;
pub mod demo;
mod images;
pub mod ssl;
pub mod training;

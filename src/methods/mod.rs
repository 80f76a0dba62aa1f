//! The methods, one folder each.

pub mod classify;
pub mod demo;
pub mod training;

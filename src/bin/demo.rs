//! A tour of the engine.

fn main() {}

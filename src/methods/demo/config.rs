//! The flags of `demo`.

use std::path::PathBuf;

use crate::report::CommonFlags;

/// A tour in well under a minute: what is here, seen at work on pictures drawn on the spot
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "demo", version)]
pub struct Config {
    /// Flags of every binary; the tour leaves its page in `out/demo` unless told otherwise.
    #[command(flatten)]
    pub common: CommonFlags,
}

impl Config {
    /// The common flags with the tour's own folder where none is given.
    #[must_use]
    pub fn common(&self) -> CommonFlags {
        let out = self.common.out.clone().unwrap_or_else(|| PathBuf::from("out/demo"));
        CommonFlags { out: Some(out), ..self.common.clone() }
    }
}

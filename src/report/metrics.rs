//! `metrics.jsonl`: one JSON object a line, as the run goes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Result};

/// The lines of a run's `metrics.jsonl`; every line is on disk before the next is made.
#[derive(Debug)]
pub struct Metrics {
    file: Option<(File, PathBuf)>,
}

impl Metrics {
    /// A new file in `folder`, or nothing at all without one.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub fn create(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Self { file: None }) };
        let path = folder.join("metrics.jsonl");
        let file = File::create(&path).map_err(|e| Error::io(&path, &e))?;
        Ok(Self { file: Some((file, path)) })
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn log(&mut self, values: &impl Serialize) -> Result<()> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_string(values).map_err(|e| Error::file(&path, e))?;
        line.push('\n');
        file.write_all(line.as_bytes()).map_err(|e| Error::io(path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn every_line_is_an_object_and_there_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(Some(folder.path())).unwrap();
        for step in 0..3 {
            metrics.log(&serde_json::json!({ "step": step, "loss": 0.5 })).unwrap();
            let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
            let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert_eq!((text.lines().count(), last["step"].as_u64()), (step + 1, Some(step as u64)));
        }
        Metrics::create(None).unwrap().log(&1).unwrap();
    }
}

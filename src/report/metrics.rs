//! `metrics.jsonl`: one JSON object a line, as the run goes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::files::write_whole;
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

    /// Goes on with the file of a run that is being resumed behind step `step`: lines of later steps are dropped, the others
    /// answered. From step 0 on, a new file.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or made.
    pub fn go_on(folder: Option<&Path>, step: u64) -> Result<(Self, Vec<Value>)> {
        let Some(path) = folder.map(|folder| folder.join("metrics.jsonl")).filter(|path| step > 0 && path.exists())
        else {
            return Ok((Self::create(folder)?, Vec::new()));
        };
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))?;
        // A line that a crash cut short is no line.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kept: Vec<Value> = lines.filter(|line| line["step"].as_u64().is_some_and(|s| s <= step)).collect();
        write_whole(&path, |file| kept.iter().try_for_each(|line| writeln!(file, "{line}")))?;
        let file = File::options().append(true).open(&path).map_err(|e| Error::io(&path, &e))?;
        Ok((Self { file: Some((file, path)) }, kept))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be written.
    pub fn log(&mut self, values: &impl Serialize) -> Result<()> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let mut line = serde_json::to_string(values).map_err(|e| Error::file(&path, e))?;
        line.push('\n');
        file.write_all(line.as_bytes()).map_err(|e| Error::Write { path: path.clone(), message: e.to_string() })
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

    #[test]
    fn a_resumed_run_keeps_the_lines_up_to_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(Some(folder.path())).unwrap();
        (1..=4).for_each(|step| metrics.log(&serde_json::json!({ "step": step })).unwrap());
        let path = folder.path().join("metrics.jsonl");
        let cut = std::fs::read_to_string(&path).unwrap() + "{\"step\":5,\"lo";
        std::fs::write(&path, cut).unwrap();
        let (mut metrics, kept) = Metrics::go_on(Some(folder.path()), 2).unwrap();
        assert_eq!(kept.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
        metrics.log(&serde_json::json!({ "step": 3 })).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        Metrics::go_on(Some(folder.path()), 0).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}

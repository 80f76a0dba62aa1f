//! What a run that goes on takes from the run before.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::state::State;
use super::trainer::Outcome;
use crate::{Error, Result};

/// The flag, else what the run before had, else the usual.
pub(crate) fn given<T: Clone>(flag: &Option<T>, before: Option<&T>, usual: impl FnOnce() -> T) -> T {
    flag.clone().or_else(|| before.cloned()).unwrap_or_else(usual)
}

/// Settings as JSON.
///
/// # Errors
/// [`Error::Input`] for what JSON cannot hold.
pub(crate) fn to_value(of: &impl Serialize) -> Result<Value> {
    serde_json::to_value(of).map_err(|e| Error::Input(format!("settings: {e}")))
}

/// The settings of the run of `command` in `folder`: its checkpoint's, or `run.json`'s where it came to none.
///
/// # Errors
/// [`Error::File`] if there is no such run.
pub(crate) fn settled_before<T: DeserializeOwned>(folder: &Path, command: &str) -> Result<T> {
    let (checkpoint, run) = (folder.join("checkpoint.safetensors"), folder.join("run.json"));
    let (path, config) = if checkpoint.exists() {
        (checkpoint.clone(), State::config(&checkpoint)?)
    } else {
        let text = std::fs::read(&run).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::file(folder, "holds no training run to go on with"),
            _ => Error::io(&run, &e),
        })?;
        let whole: Value = serde_json::from_slice(&text).map_err(|e| Error::file(&run, e))?;
        (run, whole.get("config").cloned().unwrap_or_default())
    };
    serde_json::from_value(config).map_err(|e| Error::file(path, format!("not of a run of {command}: {e}")))
}

/// An error if `out` holds a run that a new one would write over.
///
/// # Errors
/// [`Error::Input`] then.
pub(crate) fn refuse_old_run(out: Option<&Path>) -> Result<()> {
    match out.filter(|out| out.join("checkpoint.safetensors").exists()) {
        None => Ok(()),
        Some(out) => {
            let go_on = "--resume goes on with it, another --out keeps it";
            Err(Error::Input(format!("{} holds a training run: {go_on}", out.display())))
        }
    }
}

impl Outcome {
    /// Puts the curves of the run before in front: losses, and the lines that hold `key`.
    pub(crate) fn splice(&mut self, before: &[Value], key: &str) {
        let step = |line: &Value| line.get("step").and_then(Value::as_u64);
        let losses = before.iter().filter_map(|line| Some((step(line)?, line.get("loss")?.as_f64()?)));
        self.losses = losses.chain(self.losses.iter().copied()).collect();
        if self.loss_last.is_nan() {
            self.loss_last = self.losses.last().map_or(f64::NAN, |(_, loss)| *loss);
        }
        let judged = before.iter().filter(|line| line.get(key).is_some());
        let judged = judged.filter_map(|line| Some((step(line)?, line.as_object()?.clone())));
        self.evaluations = judged.chain(self.evaluations.iter().cloned()).collect();
    }
}

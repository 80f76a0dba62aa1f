//! What a run leaves behind: its folder and its final figures.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::{CommonFlags, Metrics, Page};
use crate::files::{check_writable, same_file, write_whole};
use crate::nn::Hints;
use crate::{Error, Result, Runtime};

/// A run that has a place for its results, checked before any work is done.
#[derive(Debug, Clone)]
pub struct Run {
    folder: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// An error if `--json` would replace `weights` or the JSON file beside them, which says what they leave open.
///
/// # Errors
/// [`Error::Input`] then.
pub fn keep_hints(common: &CommonFlags, weights: &Path) -> Result<()> {
    match &common.json {
        Some(json) if [weights.to_path_buf(), Hints::path(weights)].iter().any(|path| same_file(json, path)) => {
            let (json, weights) = (json.display(), weights.display());
            Err(Error::Input(format!("--json {json} would replace what belongs to {weights}; give it another name")))
        }
        _ => Ok(()),
    }
}

impl Run {
    /// The same run with its results in `folder`.
    #[must_use]
    pub fn in_folder(self, folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_path_buf).or(self.folder), ..self }
    }

    /// Makes the folder `--out` and finds out whether `--json` can be written.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be written.
    pub fn check(common: &CommonFlags) -> Result<Self> {
        if let Some(folder) = &common.out {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
            check_writable(&folder.join("run.json"))?;
        }
        if let Some(json) = &common.json {
            check_writable(json)?;
        }
        Ok(Self { folder: common.out.clone(), json: common.json.clone() })
    }

    /// [`Run::check`], then [`Run::describe`].
    ///
    /// # Errors
    /// As these.
    pub fn start(program: &str, common: &CommonFlags, config: &impl Serialize, runtime: &Runtime) -> Result<Self> {
        let run = Self::check(common)?;
        run.describe(program, common, config, runtime)?;
        Ok(run)
    }

    /// Leaves `run.json` in the folder: program, version, date, `config`, common flags, adapter.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn describe(
        &self,
        program: &str,
        common: &CommonFlags,
        config: &impl Serialize,
        runtime: &Runtime,
    ) -> Result<()> {
        self.about(program, common, config, &json!(runtime.profile()))
    }

    /// As [`Run::describe`], of a run that opens no adapter.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn describe_simulated(&self, program: &str, common: &CommonFlags, config: &impl Serialize) -> Result<()> {
        self.about(program, common, config, &Value::Null)
    }

    fn about(&self, program: &str, common: &CommonFlags, config: &impl Serialize, adapter: &Value) -> Result<()> {
        let config = serde_json::to_value(config).map_err(|e| Error::Input(format!("{program}: {e}")))?;
        let version = env!("CARGO_PKG_VERSION");
        let about = json!({
            "program": program, "version": version, "date": super::now(), "config": config, "common": common,
            "adapter": adapter,
        });
        self.write("run.json", &about)
    }

    /// Writes the final figures to `--json` and as `result.json` to the folder.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be written.
    pub fn finish(&self, result: &impl Serialize) -> Result<()> {
        let value = serde_json::to_value(result).map_err(|e| Error::Input(format!("result: {e}")))?;
        if let Some(path) = &self.json {
            write_json(path, &value)?;
        }
        self.write("result.json", &value)
    }

    /// Writes `report.html` to the folder.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn page(&self, page: &Page) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| page.write(&folder.join("report.html")))
    }

    /// Starts `metrics.jsonl` in the folder.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::create(self.folder.as_deref())
    }

    /// Writes the per-kernel times as a Chrome trace to the folder and gives the table; `None` unless `--profile`.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written, [`Error::DeviceLost`] if the device is gone.
    pub fn profile(&self, runtime: &Runtime) -> Result<Option<String>> {
        if !runtime.options().profile {
            return Ok(None);
        }
        let profile = runtime.take_profile()?;
        if let Some(folder) = &self.folder {
            let trace = profile.chrome_trace();
            write_whole(&folder.join("trace.json"), |f| write!(f, "{trace}"))?;
        }
        Ok(Some(profile.to_string()))
    }

    fn write(&self, name: &str, value: &Value) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| write_json(&folder.join(name), value))
    }
}

/// Writes a JSON value, one key a line.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    write_whole(path, |f| writeln!(f, "{value:#}"))
}

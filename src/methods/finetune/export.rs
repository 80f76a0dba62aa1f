//! Adapters for other programs: as LoRA factors, or merged into the network.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::adapted::Adapted;
use super::config::{ExportConfig, ExportKind};
use super::file::AdapterFile;
use crate::nn::Hints;
use crate::report::{bytes, write_json};
use crate::{Error, Result, Runtime};

/// What an export left behind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExportReport {
    /// What was written.
    pub kind: ExportKind,
    /// The file.
    pub file: String,
    /// Its bytes.
    pub file_bytes: u64,
}

/// Writes an adapter into `folder`.
///
/// # Errors
/// [`Error::File`] and [`Error::Input`] for everything that is wrong with the files; [`Error::Input`] for LoRA factors of a method that
/// has none.
pub fn export(runtime: &Runtime, config: &ExportConfig, folder: &Path) -> Result<ExportReport> {
    let adapted = Adapted::load(&config.base, &config.network, AdapterFile::read(&config.adapter)?)?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
    let path = match config.kind {
        ExportKind::Merged => {
            let path = folder.join("merged.safetensors");
            let plan = &adapted.base().plan;
            let metadata = BTreeMap::from([("adapter".to_string(), adapted.file().spec.method.to_string())]);
            adapted.merged(runtime)?.save(&path, &plan.params, &metadata)?;
            let hints = Hints {
                normalize: Some(adapted.normalize().to_string()),
                classes: Some(adapted.file().classes.clone()),
                ..Hints::of(&adapted.base().spec)
            };
            let value = serde_json::to_value(&hints).map_err(|e| Error::Input(format!("hints: {e}")))?;
            write_json(&Hints::path(&path), &value)?;
            path
        }
        ExportKind::Lora => return Err(Error::Input("lora".into())),
    };
    let file_bytes = std::fs::metadata(&path).map_err(|e| Error::io(&path, &e))?.len();
    Ok(ExportReport { kind: config.kind, file: path.display().to_string(), file_bytes })
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, bytes(self.file_bytes))
    }
}

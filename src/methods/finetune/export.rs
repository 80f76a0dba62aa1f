//! Adapters for other programs: as LoRA factors, or merged into the network.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::adapted::Adapted;
use super::config::{BaseBits, ExportConfig, ExportKind};
use super::file::AdapterFile;
use super::method::Method;
use super::peft::{LoraFile, LoraLayer};
use crate::nn::{Hints, ParamKind, ParamSpec, Site};
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
        ExportKind::Lora => lora(runtime, &adapted)?.save(folder)?,
    };
    let file_bytes = std::fs::metadata(&path).map_err(|e| Error::io(&path, &e))?.len();
    Ok(ExportReport { kind: config.kind, file: path.display().to_string(), file_bytes })
}

/// The adapter's factors under the names of the network's layers, those of packed layers side by side, and its whole tensors.
fn lora(runtime: &Runtime, adapted: &Adapted) -> Result<LoraFile> {
    let (layout, file) = (adapted.layout(), adapted.file());
    let sites = layout.sites();
    let fail = |why: &str| Err(Error::Input(format!("--as lora: {why}; merged is for every method")));
    if sites.is_empty() || file.spec.method == Method::Pranc {
        return fail(&format!("an adapter of method {} has no low-rank factors", file.spec.method));
    }
    let params: Vec<&ParamSpec> = adapted.base().plan.params.iter().collect();
    let of = |site: &Site| params[site.weight.index()];
    let is_linear = |site: &Site| matches!(of(site).kind, ParamKind::LinearWeight | ParamKind::TransposedWeight);
    if let Some(site) = sites.iter().find(|site| !is_linear(site)) {
        return fail(&format!("{} is no linear layer", site.name));
    }
    let factors = adapted.network(runtime, BaseBits::F32)?.factors(sites)?;
    let layers = sites.iter().zip(&factors).map(|(site, (a, b, scale))| {
        let dims = [site.n_in, a.shape()[1], site.n_out()];
        LoraLayer::from_device(&site.name, dims, &a.contiguous()?.to_vec()?, &b.contiguous()?.to_vec()?, *scale)
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let pairs: Vec<(&Site, LoraLayer)> = sites.iter().zip(layers).collect();
    let modules = pairs.chunk_by(|(a, _), (b, _)| a.weight == b.weight).map(|parts| {
        let (site, layer) = &parts[0];
        let weight = &of(site).name;
        let name = weight.strip_suffix(".weight").unwrap_or(weight);
        if let ([_], true) = (parts, site.is_whole()) {
            return Ok(LoraLayer { name: name.to_string(), ..layer.clone() });
        }
        let parts: Vec<(usize, &LoraLayer)> = parts.iter().map(|(site, layer)| (site.columns.start, layer)).collect();
        LoraLayer::packed(name, site.n_packed, &parts)
    });
    let layers = modules.collect::<Result<Vec<_>>>()?;
    let whole = layout.whole().into_iter().chain(layout.statistics()).map(|i| params[i]);
    let others = whole.map(|p| (p.name.clone(), p.shape.clone(), file.get(&p.name).unwrap_or_default().to_vec()));
    Ok(LoraFile { layers, others: others.collect(), base: Some(file.network.clone()) })
}

impl fmt::Display for ExportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, bytes(self.file_bytes))
    }
}

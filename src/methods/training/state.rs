//! What a checkpoint of a training run holds: everything that the next step depends on.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::recipe::same_config;
use crate::nn::{Checkpoint, ParamKind, ParamList, RawTensor, Weights};
use crate::ops::optim::ScaleState;
use crate::{DType, Error, Result};

const KIND: &str = "leanvision training checkpoint";
/// Changes when the meaning of a checkpoint does.
const FORMAT: &str = "1";

/// Names and device shapes of a run's tensors.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub(super) trained: Vec<(String, Vec<usize>)>,
    pub(super) buffers: Vec<(String, Vec<usize>)>,
    pub(super) n_moments: usize,
    pub(super) has_average: bool,
    pub(super) has_scale: bool,
    /// What the method keeps besides: names, types and shapes.
    pub(super) kept: Vec<(String, DType, Vec<usize>)>,
}

/// What stands in front of the names of kept tensors.
const KEPT: &str = "kept/";

impl Layout {
    /// The tensors of the file in order. They are stored as they lie on the device.
    fn params(&self) -> ParamList {
        let mut list = ParamList::default();
        let moments = (0..self.n_moments).map(|k| format!("moment{k}"));
        let groups =
            ["weight".to_string()].into_iter().chain(moments).chain(self.has_average.then(|| "average".into()));
        for group in groups {
            for (name, shape) in &self.trained {
                list.add(format!("{group}/{name}"), shape.clone(), ParamKind::Bias);
            }
        }
        for (name, shape) in &self.buffers {
            list.add(format!("buffer/{name}"), shape.clone(), ParamKind::Bias);
        }
        if self.has_scale {
            list.add("loss_scale", [4], ParamKind::Bias);
        }
        list
    }
}

/// A training run between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Loss of the first step.
    pub loss_first: f64,
    /// Sum and number of the losses that no line of metrics holds yet.
    pub open: (f64, u64),
    /// Trained parameters.
    pub weights: Vec<Vec<f32>>,
    /// The optimizer's moments, by moment.
    pub moments: Vec<Vec<Vec<f32>>>,
    /// The average of the weights.
    pub average: Option<Vec<Vec<f32>>>,
    /// What is kept but not trained, such as running statistics.
    pub buffers: Vec<Vec<f32>>,
    /// The loss scale of mixed precision.
    pub scale: Option<ScaleState>,
    /// What the method keeps besides, such as a memory bank.
    pub kept: Vec<RawTensor>,
}

impl State {
    /// The first value that is no number, with its tensor.
    pub(super) fn not_finite(&self, layout: &Layout) -> Option<String> {
        let groups = [&self.weights].into_iter().chain(&self.moments).chain(&self.average);
        let trained = groups.flat_map(|values| layout.trained.iter().zip(values));
        let mut tensors = trained.chain(layout.buffers.iter().zip(&self.buffers));
        tensors.find(|(_, values)| values.iter().any(|v| !v.is_finite())).map(|((name, _), _)| name.clone())
    }

    /// Writes it; the file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be written.
    pub(super) fn write(self, path: &Path, layout: &Layout, config: &Value) -> Result<()> {
        let metadata = BTreeMap::from([
            ("kind".to_string(), KIND.to_string()),
            ("format".into(), FORMAT.into()),
            ("version".into(), env!("CARGO_PKG_VERSION").into()),
            ("config".into(), config.to_string()),
            ("step".into(), self.step.to_string()),
            ("loss_first".into(), self.loss_first.to_bits().to_string()),
            ("open_sum".into(), self.open.0.to_bits().to_string()),
            ("open_n".into(), self.open.1.to_string()),
        ]);
        let groups = [self.weights].into_iter().chain(self.moments).chain(self.average).chain([self.buffers]);
        let groups = groups.chain(self.scale.map(|scale| vec![scale.to_array().to_vec()]));
        let list = layout.params();
        let named = |raw: RawTensor| RawTensor { name: format!("{KEPT}{}", raw.name), ..raw };
        let kept: Vec<RawTensor> = self.kept.into_iter().map(named).collect();
        Weights::new(&list, groups.flatten().collect())?.save_with(path, &list, &kept, &metadata)
    }

    /// Reads it back, if it belongs to a run with this layout and configuration.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is none of ours, of another version, truncated or with other tensors;
    /// [`Error::Input`] with every setting that differs.
    pub(super) fn read(path: &Path, layout: &Layout, config: &Value) -> Result<Self> {
        let mut checkpoint = Checkpoint::read(path)?;
        let (there, head) = head(path, checkpoint.header().metadata())?;
        same_config(&path.display().to_string(), &there, config)?;
        let kept = checkpoint.take_raw(KEPT);
        let found: Vec<_> = kept.iter().map(|raw| (raw.name.clone(), raw.dtype, raw.shape.clone())).collect();
        if found != layout.kept {
            return Err(Error::file(path, format!("keeps {found:?}, where this run keeps {:?}", layout.kept)));
        }
        let mut values = checkpoint.load(&layout.params(), "this run")?.into_inner().into_iter();
        let mut group = |n: usize| values.by_ref().take(n).collect::<Vec<_>>();
        let n = layout.trained.len();
        let state = Self {
            step: head.step,
            loss_first: head.loss_first,
            open: head.open,
            weights: group(n),
            moments: (0..layout.n_moments).map(|_| group(n)).collect(),
            average: layout.has_average.then(|| group(n)),
            buffers: group(layout.buffers.len()),
            scale: group(usize::from(layout.has_scale)).first().and_then(|values| ScaleState::from_slice(values)),
            kept,
        };
        if layout.has_scale && state.scale.is_none() {
            return Err(Error::file(path, "a checkpoint whose loss scale is damaged"));
        }
        Ok(state)
    }

    /// The configuration that a checkpoint was written with.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is none of ours, of another version or truncated.
    pub fn config(path: &Path) -> Result<Value> {
        Ok(head(path, crate::nn::Header::read(path)?.metadata())?.0)
    }
}

/// What a checkpoint says of itself.
struct Head {
    step: u64,
    loss_first: f64,
    open: (f64, u64),
}

/// Configuration and counters, if the file is one of ours.
fn head(path: &Path, metadata: &BTreeMap<String, String>) -> Result<(Value, Head)> {
    let get = |key: &str| metadata.get(key).map(String::as_str);
    if get("kind") != Some(KIND) {
        return Err(Error::file(path, "no checkpoint of a training run; weights alone do not say how to go on"));
    }
    let ours = env!("CARGO_PKG_VERSION");
    let (format, version) = (get("format").unwrap_or("?"), get("version").unwrap_or("?"));
    if format != FORMAT || version != ours {
        let there = format!("written by version {version}, format {format}");
        return Err(Error::file(path, format!("{there}; this is version {ours}, format {FORMAT}, and might differ")));
    }
    let damaged = || Error::file(path, "a checkpoint whose head is damaged");
    let number = |key: &str| get(key).and_then(|text| text.parse::<u64>().ok()).ok_or_else(damaged);
    let config = get("config").and_then(|text| serde_json::from_str(text).ok()).ok_or_else(damaged)?;
    let head = Head {
        step: number("step")?,
        loss_first: f64::from_bits(number("loss_first")?),
        open: (f64::from_bits(number("open_sum")?), number("open_n")?),
    };
    Ok((config, head))
}

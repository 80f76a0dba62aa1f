//! What features are worth while they are learned.

use serde_json::{Map, Value, json};

use super::features::{Features, extract};
use super::knn::Knn;
use super::linear::LinearReport;
use super::map::FeatureMap;
use super::memory::Memory;
use super::spread::Spread;
use crate::data::ImageSet;
use crate::methods::images::usual_batch;
use crate::methods::training::to_value;
use crate::nn::Model;
use crate::{Result, Runtime, Tensor};

/// Images that features are looked at on where none has a label.
const LOOKED_AT: usize = 2048;

/// Labelled images to judge by: a bank, and queries that are not in it.
#[derive(Debug)]
pub(super) struct Judges {
    /// `None`: the images that are learned from.
    pub(super) bank: Option<ImageSet>,
    pub(super) test: ImageSet,
}

/// Features under training, and what they are judged by.
pub(super) struct Judge<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) backbone: &'a Model,
    pub(super) memory: &'a Memory,
    pub(super) train: &'a ImageSet,
    pub(super) judges: Option<&'a Judges>,
    pub(super) scale: &'a Tensor,
    pub(super) shift: &'a Tensor,
    pub(super) seed: u64,
}

impl Judge<'_> {
    fn features(&self, set: &ImageSet, quiet: bool) -> Result<Features> {
        let activation_bytes = self.backbone.plan().summary([set.height, set.width])?.activation_bytes;
        let batch = usual_batch(self.runtime, activation_bytes).min(set.len());
        extract(self.backbone, self.runtime, set, (self.scale, self.shift), batch, quiet)
    }

    /// Features of the bank and of the queries.
    fn both(&self, quiet: bool) -> Result<Option<(Features, Features)>> {
        let Some(Judges { bank, test }) = self.judges else { return Ok(None) };
        Ok(Some((self.features(bank.as_ref().unwrap_or(self.train), quiet)?, self.features(test, quiet)?)))
    }

    /// Everything that is cheap to know, by name.
    pub(super) fn figures(&self, quiet: bool) -> Result<Map<String, Value>> {
        let mut figures = Map::new();
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                figures.insert(name.to_string(), value.into());
            }
        };
        let features = self.both(quiet)?;
        let seen = match &features {
            Some((_, test)) => test.clone(),
            None => self.features(&first(self.train)?, quiet)?,
        };
        let of_features = Spread::of(seen.values())?;
        put("spread", Some(of_features.spread));
        put("effective_rank", Some(of_features.effective_rank));
        let memory = self.memory;
        let bank = Spread::of(&memory.bank)?;
        put("bank_spread", Some(bank.spread));
        put("bank_effective_rank", Some(bank.effective_rank));
        let [all, part] = memory.neighbours()?;
        for (suffix, found) in [("", all), ("_constrained", part)] {
            put(&format!("purity{suffix}"), found.purity.map(|share| 100.0 * share));
            put(&format!("same_image{suffix}"), found.same_image.map(|share| 100.0 * share));
            put(&format!("own{suffix}"), found.own.map(|share| 100.0 * share));
            put(&format!("bank_age{suffix}"), found.age);
        }
        if let Some([all, part]) = memory.terms()? {
            put("loss_unconstrained", Some(all));
            put("loss_constrained", Some(part));
        }
        put("mean_rank_constrained", memory.mean_rank()?);
        // A teacher's features are those of a backbone, too.
        let bank_collapsed =
            if memory.spec.method.is_distilled() { bank.features_collapsed() } else { bank.collapsed() };
        let collapsed = of_features.features_collapsed() || bank_collapsed;
        figures.insert("collapsed".into(), collapsed.into());
        if collapsed {
            eprintln!(
                "warning: features collapse: spread {:.2} and {:.2}, effective rank {:.1} and {:.1} of features and bank",
                of_features.spread, bank.spread, of_features.effective_rank, bank.effective_rank
            );
        }
        if let Some((bank, test)) = &features {
            figures.insert("knn".into(), to_value(&Knn::of(bank, test)?)?);
        }
        Ok(figures)
    }

    /// Linear probes, where there are labels.
    pub(super) fn linear(&self, quiet: bool) -> Result<Option<LinearReport>> {
        let Some((bank, test)) = self.both(quiet)? else { return Ok(None) };
        LinearReport::of(&bank, &test, self.seed, quiet).map(Some)
    }

    /// Where the features of some images lie.
    pub(super) fn map(&self) -> Result<FeatureMap> {
        let set = self.judges.map_or(self.train, |judges| &judges.test);
        FeatureMap::of(&self.features(&first(set)?, true)?)
    }
}

/// The first images of a set, enough to look at.
fn first(set: &ImageSet) -> Result<ImageSet> {
    set.subset(0..LOOKED_AT.min(set.len()))
}

/// `knn` over evaluations: for each protocol the last and the best, `null` where nothing was judged.
pub(super) fn knn_by_protocol(evaluations: &[(u64, Map<String, Value>)]) -> Value {
    let mut by_protocol = Map::new();
    for (_, figures) in evaluations {
        let Some(knn) = figures.get("knn").and_then(Value::as_object) else { continue };
        for (name, value) in knn {
            let Some(value) = value.as_f64() else { continue };
            let best = by_protocol.get(name).and_then(|entry: &Value| entry["best"].as_f64()).unwrap_or(value);
            by_protocol.insert(name.clone(), json!({ "last": value, "best": best.max(value) }));
        }
    }
    if by_protocol.is_empty() { Value::Null } else { Value::Object(by_protocol) }
}

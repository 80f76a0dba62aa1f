//! Features of a network that is trained already, judged.

use std::fmt;

use serde::Serialize;

use super::backbone::{Backbone, load_backbone};
use super::config::{EvalConfig, Protocol};
use super::features::extract;
use super::knn::{Knn, PROTOCOLS};
use super::linear::LinearReport;
use super::spread::Spread;
use crate::data::{self, ImageSet, Split, Wanted};
use crate::methods::images::usual_batch;
use crate::report::bytes;
use crate::{Error, Result, Runtime};

/// An evaluation whose weights and images are read and checked; needs no device yet.
#[derive(Debug)]
pub struct Evaluation {
    backbone: Backbone,
    bank: ImageSet,
    test: ImageSet,
    protocol: Protocol,
    seed: u64,
}

/// What features came to.
#[derive(Debug, Clone, Serialize)]
pub struct EvalReport {
    /// The network.
    pub network: String,
    /// The images that are looked up, or learned from.
    pub bank: String,
    /// The images that are judged.
    pub data: String,
    /// Input normalisation.
    pub normalize: String,
    /// Length of a feature.
    pub n_features: usize,
    /// Top-1 by nearest neighbours in percent, by protocol.
    pub knn: Option<Knn>,
    /// Linear probes.
    pub linear: Option<LinearReport>,
    /// How far features are spread.
    #[serde(flatten)]
    pub spread: Spread,
    /// The adapter.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Bytes held by tensors on the device at most.
    pub peak_device_bytes: u64,
}

impl Evaluation {
    /// Reads and checks weights and images.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with the files or flags.
    pub fn prepare(config: &EvalConfig, seed: u64) -> Result<Self> {
        let backbone = load_backbone(&config.weights, &config.network)?;
        let side = Some(config.side.map_or(backbone.spec().image(), |side| side as usize));
        let open = |split, n: Option<u32>| {
            let wanted = Wanted { n: n.map(|n| n as usize), side, seed, ..Wanted::new(split) };
            data::open(&config.data, &wanted)
        };
        let (bank, test) = (open(Split::Train, config.images)?, open(Split::Test, config.test_images)?);
        for set in [&bank, &test] {
            if set.is_empty() {
                return Err(Error::Input(format!("{}: no image in it", set.name)));
            }
            backbone.fits(set)?;
        }
        super::run::need_two_halves(&bank, &test)?;
        Ok(Self { backbone, bank, test, protocol: config.protocol, seed })
    }

    /// Computes the features and judges them.
    ///
    /// # Errors
    /// As [`extract`] and what judges.
    pub fn run(&self, runtime: &Runtime, quiet: bool) -> Result<EvalReport> {
        let network = self.backbone.on(runtime)?;
        let features = |set: &ImageSet| {
            let activation_bytes = self.backbone.plan().summary([set.height, set.width])?.activation_bytes;
            let batch = usual_batch(runtime, activation_bytes).min(set.len());
            extract(network.model(), runtime, set, network.scale_shift(), batch, quiet)
        };
        let (bank, test) = (features(&self.bank)?, features(&self.test)?);
        let asked = |protocol| self.protocol == protocol || self.protocol == Protocol::All;
        let knn = asked(Protocol::Knn).then(|| Knn::of(&bank, &test)).transpose()?;
        let linear = asked(Protocol::Linear).then(|| LinearReport::of(&bank, &test, self.seed, quiet)).transpose()?;
        let profile = runtime.profile();
        let name = |set: &ImageSet| format!("{} ({})", set.name, set.source);
        Ok(EvalReport {
            network: self.backbone.spec().to_string(),
            bank: name(&self.bank),
            data: name(&self.test),
            normalize: self.backbone.normalize().to_string(),
            n_features: test.dim(),
            knn,
            linear,
            spread: Spread::of(test.values())?,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
            peak_device_bytes: runtime.memory().peak_bytes,
        })
    }
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, bank, data, n_features, spread, adapter, backend, .. } = self;
        writeln!(f, "{network}, {n_features} features")?;
        writeln!(f, "{data}, by {bank}")?;
        if let Some(Knn { uniform1, uniform20, weighted20, weighted200 }) = self.knn {
            for (protocol, top1) in PROTOCOLS.iter().zip([uniform1, uniform20, weighted20, weighted200]) {
                writeln!(f, "{protocol}: {top1:.2} %")?;
            }
        }
        if let Some(linear) = &self.linear {
            writeln!(f, "{linear}")?;
        }
        writeln!(f, "spread {:.2} of 1, effective rank {:.1}", spread.spread, spread.effective_rank)?;
        write!(f, "{} on {adapter} ({backend})", bytes(self.peak_device_bytes))
    }
}

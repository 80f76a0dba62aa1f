//! Top-1 and top-5 of a network on labelled images.

use std::fmt;

use serde::Serialize;

use super::config::EvalConfig;
use crate::data::{self, ImageSet, Split, Wanted};
use crate::methods::images::usual_batch;
use crate::methods::network::{Network, PixelNetwork};
use crate::methods::score::judge;
use crate::report::bytes;
use crate::{Error, Result, Runtime};

/// An evaluation whose weights and images are read and checked; needs no device yet.
#[derive(Debug)]
pub struct Evaluation {
    network: Network,
    set: ImageSet,
    batch: Option<usize>,
    /// Bytes of activations for one image.
    activation_bytes: u64,
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// The network.
    pub network: String,
    /// The images.
    pub data: String,
    /// Input normalisation.
    pub normalize: String,
    /// Images whose likeliest class is right, in percent.
    pub top1: f64,
    /// Images whose class is among the five likeliest, in percent.
    pub top5: f64,
    /// Number of images.
    pub n: usize,
    /// Images of one batch.
    pub batch: usize,
    /// Images per second, the first batch left out where there are more: it also compiles the kernels.
    pub images_per_s: f64,
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
        let network = Network::load(&config.weights, &config.network)?;
        network.need_head()?;
        let spec = &network.spec;
        let side = config.side.map_or(spec.image(), |side| side as usize);
        let n = config.images.map(|n| n as usize);
        let set = data::open(&config.data, &Wanted { n, side: Some(side), seed, ..Wanted::new(Split::Test) })?;
        let wrong = |what: &str, has: usize, wants: usize| {
            Err(Error::Input(format!("{}: images of {has} {what}, {spec} takes {wants}", set.name)))
        };
        if set.channels != spec.channels() {
            return wrong("channels", set.channels, spec.channels());
        }
        if set.n_classes != spec.classes() {
            return wrong("classes", set.n_classes, spec.classes());
        }
        if set.is_empty() {
            return Err(Error::Input(format!("{}: no image in it", set.name)));
        }
        let activation_bytes = spec.plan().summary([set.height, set.width])?.activation_bytes;
        Ok(Self { network, set, batch: config.batch.map(|n| n as usize), activation_bytes })
    }

    /// Images of one batch: what was asked for, else what suits the adapter.
    fn batch(&self, runtime: &Runtime) -> usize {
        self.batch.unwrap_or_else(|| usual_batch(runtime, self.activation_bytes)).min(self.set.len())
    }

    /// Runs the network over all images.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`] if a batch does not fit, [`Error::DeviceLost`].
    pub fn run(&self, runtime: &Runtime, quiet: bool) -> Result<EvalReport> {
        let classifier = PixelNetwork::new(runtime, &self.network)?;
        let batch = self.batch(runtime);
        let (score, images_per_s) = judge(runtime, &self.set, batch, quiet, &mut |images| classifier.forward(images))?;
        let profile = runtime.profile();
        Ok(EvalReport {
            network: self.network.spec.to_string(),
            data: format!("{} ({})", self.set.name, self.set.source),
            normalize: self.network.normalize.to_string(),
            top1: score.percent(score.top1),
            top5: score.percent(score.top5),
            n: score.n,
            batch,
            images_per_s,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
            peak_device_bytes: runtime.memory().peak_bytes,
        })
    }
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, data, normalize, top1, top5, n, images_per_s, adapter, backend, .. } = self;
        writeln!(f, "{network}")?;
        writeln!(f, "{data}, normalised by {normalize}")?;
        writeln!(f, "top-1 {top1:.2} %, top-5 {top5:.2} % of {n} images")?;
        let peak = bytes(self.peak_device_bytes);
        write!(f, "{images_per_s:.1} images/s in batches of {}, {peak} on {adapter} ({backend})", self.batch)
    }
}

//! Top-1 and top-5 of a network on labelled images.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::config::EvalConfig;
use crate::data::{self, ImageSet, Split, Wanted};
use crate::methods::images::{IN_FLIGHT, each_batch, usual_batch};
use crate::methods::network::{Network, PixelNetwork};
use crate::report::{Progress, bytes};
use crate::tensor::Read;
use crate::{Error, Result, Runtime, Tensor};

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

/// Counts how many images of a set a network names rightly; `logits` takes u8 images `[n, h, w, c]`, of which there are at
/// most `batch`, to `[n, classes]`. Also images per second.
pub(super) fn judge(
    runtime: &Runtime,
    set: &ImageSet,
    batch: usize,
    quiet: bool,
    logits: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<(Score, f64)> {
    let n_classes = set.n_classes;
    let mut tally = Tally {
        labels: set.labels.iter(),
        pending: VecDeque::new(),
        score: Score::default(),
        progress: Progress::new("eval", set.len() as u64, "images", quiet),
        start: Instant::now(),
        first: None,
    };
    each_batch(runtime, set, batch, &mut |images| {
        tally.pending.push_back(logits(images)?.read()?);
        // The first batch ends alone, so that the clock of the others starts with none of them begun.
        tally.drain(if tally.first.is_none() { 0 } else { IN_FLIGHT }, n_classes)
    })?;
    tally.drain(0, n_classes)?;
    let images_per_s = tally.images_per_s();
    if tally.score.not_finite > 0 {
        log::warn!("{} images have logits that are not finite; they count as wrong", tally.score.not_finite);
    }
    Ok((tally.score, images_per_s))
}

/// Logits on their way to the host, and what those that arrived came to.
struct Tally<'a> {
    labels: std::slice::Iter<'a, u32>,
    pending: VecDeque<Read<f32>>,
    score: Score,
    progress: Progress,
    start: Instant,
    /// When the first batch had arrived, and its images.
    first: Option<(Instant, usize)>,
}

impl Tally<'_> {
    /// Counts the oldest batches until at most `keep` are on their way.
    fn drain(&mut self, keep: usize, n_classes: usize) -> Result<()> {
        while self.pending.len() > keep {
            let Some(logits) = self.pending.pop_front() else { break };
            let before = self.score.n;
            for (logits, &label) in logits.wait()?.chunks_exact(n_classes).zip(self.labels.by_ref()) {
                self.score.add(logits, label as usize);
            }
            self.progress.advance((self.score.n - before) as u64);
            self.first.get_or_insert_with(|| (Instant::now(), self.score.n));
        }
        Ok(())
    }

    /// Images per second up to now, the first batch left out where there are more.
    fn images_per_s(&self) -> f64 {
        let (start, n) = match self.first {
            Some((at, n)) if n < self.score.n => (at, self.score.n - n),
            _ => (self.start, self.score.n),
        };
        n as f64 / start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// How many images were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Score {
    pub(super) n: usize,
    pub(super) top1: usize,
    pub(super) top5: usize,
    not_finite: usize,
}

impl Score {
    /// `right` of all images, in percent.
    pub(super) fn percent(&self, right: usize) -> f64 {
        100.0 * right as f64 / self.n as f64
    }

    /// Counts an image. Of equal logits the lower class goes first; logits that are not all finite are wrong.
    fn add(&mut self, logits: &[f32], label: usize) {
        self.n += 1;
        if !logits.iter().all(|l| l.is_finite()) {
            self.not_finite += 1;
            return;
        }
        let own = logits[label];
        let ahead = logits.iter().enumerate().filter(|&(class, &l)| l > own || (l == own && class < label)).count();
        self.top1 += usize::from(ahead < 1);
        self.top5 += usize::from(ahead < 5);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_count_by_the_rank_of_their_class() {
        let mut score = Score::default();
        let logits = [0.5, 3.0, 1.0, 1.0, -2.0, 0.0, 0.1];
        score.add(&logits, 1); // first
        score.add(&logits, 3); // third: 2 has the same logit and goes before
        score.add(&logits, 6); // fifth
        score.add(&logits, 5); // sixth
        score.add(&[f32::NAN, 1.0], 1);
        score.add(&[f32::INFINITY, 1.0], 0);
        assert_eq!(score, Score { n: 6, top1: 1, top5: 3, not_finite: 2 });
        let mut equal = Score::default();
        (0..3).for_each(|label| equal.add(&[7.0; 3], label));
        assert_eq!((equal.top1, equal.top5), (1, 3));
    }
}

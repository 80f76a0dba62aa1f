//! Linear probes: a linear classifier trained on frozen features.
//!
//! They run on features that were computed once. The published protocols crop and flip the training images anew in each
//! epoch, which features that are kept cannot do; figures come out somewhat lower for it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::features::Features;
use crate::methods::training::{EmaCourse, Recipe, Start, TrainFlags, Trainer};
use crate::nn::{ArenaParam, Curve, Every, Precision, Rule, Schedule};
use crate::ops::elementwise::{affine, div, mul, neg, scale_shift, sqrt};
use crate::ops::gather::index_select;
use crate::ops::matmul::linear;
use crate::ops::random::Key;
use crate::ops::{Act, reduce, softmax};
use crate::philox::stream;
use crate::reference::random;
use crate::report::Metrics;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Items of a step, as far as there are so many.
const BATCH: usize = 256;
/// Bytes of logits that are on the device at once, at most, beyond one row of them.
const LOGIT_BYTES: usize = 32 << 20;

/// How a linear classifier is trained on features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeProtocol {
    /// As in mean shift, CMSF, ISD, `CompRess` and `SimReg`: features of length 1, then `(x - mean) / sqrt(var + 1e-5)` with the
    /// statistics of the training features; SGD, rate 0.01, momentum 0.9, decay 1e-4 (on the bias, too), batches of 256, 40
    /// epochs, a tenth of the rate from epoch 15 on, a hundredth from 30 on.
    Standardized,
    /// As in lightly's benchmarks: features as they are; SGD, rate 0.1 per 256 items of a batch, momentum 0.9, no decay, batches
    /// of 256, 90 epochs, cosine by steps.
    Raw,
}

impl fmt::Display for ProbeProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standardized => "linear, standardised features, 40 epochs of steps",
            Self::Raw => "linear, raw features, 90 epochs of cosine",
        })
    }
}

impl ProbeProtocol {
    fn epochs(self) -> u64 {
        match self {
            Self::Standardized => 40,
            Self::Raw => 90,
        }
    }

    fn recipe(self, n: usize, seed: u64) -> Recipe {
        let batch = BATCH.min(n);
        let (lr, decay, curve) = match self {
            Self::Standardized => (0.01, 1e-4, Curve::Steps { milestones: vec![15, 30], gamma: 0.1 }),
            Self::Raw => (0.1 * batch as f64 / 256.0, 0.0, Curve::Cosine { last: 0.0, every: Every::Step }),
        };
        Recipe {
            steps: self.epochs() * (n / batch) as u64,
            batch,
            micro_batch: batch,
            lr,
            schedule: Schedule { curve, warmup: 0 },
            rule: Rule::Sgd { momentum: 0.9, nesterov: false },
            decay,
            clip: None,
            ema: None,
            ema_course: EmaCourse::Constant,
            precision: Precision::F32,
            seed,
        }
    }
}

/// What a linear classifier on features comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Test images whose class it names rightly, in percent, behind the last epoch.
    pub last: f64,
    /// The same behind the epoch in which it was highest: chosen on the test images, as the papers report it, and so a little
    /// too high.
    pub best_on_test: f64,
    /// That epoch, from 1; the first of equal ones.
    pub best_epoch: u64,
}

impl Probe {
    /// Trains a classifier on `train` and judges it on `test` behind each epoch. What does not fill a batch is left out of an
    /// epoch, others in each.
    ///
    /// # Errors
    /// [`Error::Shape`] if the features differ in length or classes, [`Error::Input`] if they have none; as [`Trainer::run`].
    pub fn of(protocol: ProbeProtocol, train: &Features, test: &Features, seed: u64, quiet: bool) -> Result<Self> {
        train.need_labels("probe", test)?;
        let (x, test_x) = match protocol {
            ProbeProtocol::Raw => (train.values().clone(), test.values().clone()),
            ProbeProtocol::Standardized => standardized(&train.unit()?, &test.unit()?)?,
        };
        let recipe = protocol.recipe(train.len(), seed);
        let mut trainer = trainer(x.runtime(), &recipe, train)?;
        let per_epoch = trainer.steps_per_epoch();
        let parameters = trainer.parameters()?;
        let judge = || Ok(percent(&predict(&test_x, &parameters[0], &parameters[1])?, test.labels()));
        let mut course = Vec::new();
        run(&mut trainer, &x, train.labels(), quiet, &mut |step| {
            let top1 = judge()?;
            course.push((step / per_epoch, top1));
            Ok(Map::from_iter([("top1".to_string(), Value::from(top1))]))
        })?;
        let last = judge()?;
        course.push((protocol.epochs(), last));
        let best = course.iter().fold((0, f64::NEG_INFINITY), |best, now| if now.1 > best.1 { *now } else { best });
        Ok(Self { last, best_on_test: best.1, best_epoch: best.0 })
    }
}

/// A linear classifier on features, trained with a share of the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FewLabels {
    /// Images whose label was used.
    pub n: usize,
    /// What it came to.
    #[serde(flatten)]
    pub probe: Probe,
}

impl FewLabels {
    /// [`ProbeProtocol::Standardized`] on a share of the training images of each class, rounded and at least one, drawn by
    /// `seed`. The other training images are not looked at, neither for the statistics.
    ///
    /// # Errors
    /// As [`Probe::of`].
    pub fn of(train: &Features, test: &Features, share: f64, seed: u64, quiet: bool) -> Result<Self> {
        let few = train.subset(&few_of_each(train.labels(), train.n_classes(), share, seed))?;
        let probe = Probe::of(ProbeProtocol::Standardized, &few, test, seed, quiet)?;
        Ok(Self { n: few.len(), probe })
    }
}

/// The images that keep their label.
pub(super) fn few_of_each(labels: &[u32], n_classes: usize, share: f64, seed: u64) -> Vec<u32> {
    let mut of_class = vec![Vec::new(); n_classes.max(1)];
    labels.iter().zip(0..).for_each(|(label, image)| of_class[*label as usize].push(image));
    let mut few = Vec::new();
    for (images, class) in of_class.iter().zip(0..) {
        let n = ((images.len() as f64 * share).round() as usize).max(1);
        let order = random::permutation(images.len(), Key::new(seed, stream::FEW_LABELS, class));
        few.extend(order.iter().take(n).map(|i| images[*i as usize]));
    }
    few
}

/// Rows by the statistics of the first: mean 0 and variance about 1 in each column.
fn standardized(train: &Tensor, test: &Tensor) -> Result<(Tensor, Tensor)> {
    let mean = reduce::mean(train, &[0], false)?;
    // As PyTorch's var_mean, but for a single row.
    let var = reduce::var(train, &[0], train.shape()[0] > 1, false)?;
    let one = Tensor::full(train.runtime(), &[1], 1.0, DType::F32)?;
    let scale = div(&one, &sqrt(&affine(&var, 1.0, 1e-5)?)?)?;
    let shift = neg(&mul(&mean, &scale)?)?;
    Ok((scale_shift(train, &scale, &shift)?, scale_shift(test, &scale, &shift)?))
}

/// A trainer of weight `[d, classes]` and bias `[classes]`, which start as PyTorch's do.
fn trainer(runtime: &Runtime, recipe: &Recipe, train: &Features) -> Result<Trainer> {
    let (d, n_classes) = (train.dim(), train.n_classes());
    let reach = 1.0 / (d as f64).sqrt();
    let param = |(name, shape): (&str, Vec<usize>), i: u32| {
        let drawn = random::uniform(&shape, -reach, reach, Key::new(recipe.seed, stream::INITIAL_WEIGHTS, i));
        let values = drawn.data.iter().map(|v| *v as f32).collect();
        (name.to_string(), ArenaParam { values, shape, decays: true, half: false })
    };
    let params = [("weight", vec![d, n_classes]), ("bias", vec![n_classes])];
    let trained = params.into_iter().zip(0..).map(|(named, i)| param(named, i)).collect();
    Trainer::new(runtime, recipe, Value::Null, Start { trained, ..Start::default() }, train.len(), None, false)
}

/// Trains on features `x` `[n, d]`; `evaluate` is called behind each epoch but the last.
fn run(
    trainer: &mut Trainer,
    x: &Tensor,
    labels: &[u32],
    quiet: bool,
    evaluate: &mut dyn FnMut(u64) -> Result<Map<String, Value>>,
) -> Result<()> {
    let flags = TrainFlags {
        log_every: 100,
        checkpoint_every: u64::MAX,
        eval_every: Some(trainer.steps_per_epoch()),
        ..TrainFlags::default()
    };
    let labels = Tensor::from_slice(x.runtime(), labels, &[labels.len()])?;
    let [w, bias] = trainer.leaves() else {
        return Err(Error::Failed("a probe without weight and bias".into()));
    };
    let (w, bias) = (w.clone(), bias.clone());
    let mut loss = |batch: &crate::methods::training::Batch| {
        let logits = linear(&index_select(x, 0, &batch.items)?, &w, Some(&bias), Act::None)?;
        reduce::mean_all(&softmax::cross_entropy(&logits, &index_select(&labels, 0, &batch.items)?, 0.0)?)
    };
    let mut metrics = Metrics::create(None)?;
    trainer.run(&flags, &mut metrics, quiet, &mut |_, _| Ok(()), &mut loss, evaluate).map(drop)
}

/// The likeliest class of each row of `x` `[n, d]`, for weight `[d, classes]` and bias `[classes]`.
pub(super) fn predict(x: &Tensor, w: &Tensor, bias: &Tensor) -> Result<Vec<u32>> {
    let n = x.shape()[0];
    let chunk = (LOGIT_BYTES / (4 * bias.len().max(1))).clamp(1, n.max(1));
    let mut reads = Vec::new();
    for start in (0..n).step_by(chunk) {
        let logits = linear(&x.slice(0, start..(start + chunk).min(n))?, w, Some(bias), Act::None)?;
        reads.push(reduce::argmax(&logits, &[1], false)?.read::<u32>()?);
    }
    let classes = reads.into_iter().map(|read| read.wait()).collect::<Result<Vec<_>>>()?;
    Ok(classes.concat())
}

/// How many classes are those of the labels, in percent.
pub(super) fn percent(classes: &[u32], labels: &[u32]) -> f64 {
    100.0 * classes.iter().zip(labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::ssl::tests::{features, runtime};
    use crate::methods::training::Order;

    /// What plain loops in f64 train: weight `[d][classes]` and bias, rows of features as they are.
    fn by_loops(protocol: ProbeProtocol, x: &[f32], start: Vec<f32>, of: &Features, seed: u64) -> Vec<f64> {
        let (n, d, n_classes) = (of.len(), of.dim(), of.n_classes());
        let batch = 256.min(n);
        let per_epoch = n / batch;
        let mut order = Order::new(n as u32, batch, seed);
        let mut w: Vec<f64> = start.into_iter().map(f64::from).collect();
        let mut moment = vec![0.0; w.len()];
        let (epochs, decay) = if protocol == ProbeProtocol::Raw { (90, 0.0) } else { (40, 1e-4) };
        for step in 0..epochs * per_epoch {
            let mut gradient: Vec<f64> = w.iter().map(|w| decay * w).collect();
            for item in order.items(step as u64).to_vec() {
                let row: Vec<f64> = x[item as usize * d..][..d].iter().map(|v| f64::from(*v)).chain([1.0]).collect();
                let logit = |c: usize| (0..=d).map(|i| row[i] * w[i * n_classes + c]).sum::<f64>();
                let e: Vec<f64> = (0..n_classes).map(|c| logit(c).exp()).collect();
                let sum: f64 = e.iter().sum();
                for c in 0..n_classes {
                    let d_logit = e[c] / sum - f64::from(u8::from(of.labels()[item as usize] as usize == c));
                    (0..=d).for_each(|i| gradient[i * n_classes + c] += d_logit * row[i] / batch as f64);
                }
            }
            let lr = match protocol {
                ProbeProtocol::Raw => {
                    let share = step as f64 / (epochs * per_epoch) as f64;
                    0.1 * batch as f64 / 256.0 * (1.0 + (std::f64::consts::PI * share).cos()) / 2.0
                }
                ProbeProtocol::Standardized => 0.01 * [1.0, 0.1, 0.01][step / per_epoch / 15],
            };
            for ((w, moment), gradient) in w.iter_mut().zip(&mut moment).zip(gradient) {
                *moment = 0.9 * *moment + gradient;
                *w -= lr * *moment;
            }
        }
        w
    }

    #[test]
    fn probes_take_the_steps_of_their_protocol() {
        let Some(runtime) = runtime() else { return };
        for (protocol, n) in [(ProbeProtocol::Standardized, 600), (ProbeProtocol::Raw, 300), (ProbeProtocol::Raw, 40)] {
            let of = features(&runtime, n, 5, 3, 1.5, 0);
            let mut trainer = trainer(&runtime, &protocol.recipe(n, 7), &of).unwrap();
            let values = |trainer: &Trainer| {
                let parameters = trainer.parameters().unwrap();
                parameters.iter().flat_map(|p| p.to_vec::<f32>().unwrap()).collect::<Vec<_>>()
            };
            let start = values(&trainer);
            assert!(start.iter().all(|v| v.abs() < 1.0 / 5.0_f32.sqrt()));
            let mut epochs = Vec::new();
            let per_epoch = trainer.steps_per_epoch();
            run(&mut trainer, of.values(), of.labels(), true, &mut |step| {
                epochs.push(step / per_epoch);
                Ok(Map::new())
            })
            .unwrap();
            assert_eq!(epochs, (1..protocol.epochs()).collect::<Vec<_>>());
            let got = values(&trainer);
            let want = by_loops(protocol, &of.values().to_vec::<f32>().unwrap(), start.clone(), &of, 7);
            for ((got, want), start) in got.iter().zip(&want).zip(&start) {
                assert!((f64::from(*got) - want).abs() < 2e-5, "{protocol} of {n}: {got}, {want} wanted from {start}");
            }
            let moved = got.iter().zip(&start).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(moved > 0.01, "{protocol} of {n}: moved by {moved}");
        }
    }

    #[test]
    fn columns_are_standardised_by_the_training_features() {
        let Some(runtime) = runtime() else { return };
        let upload = |v: &[f32], n: usize| Tensor::from_slice(&runtime, v, &[n, 2]).unwrap();
        // Variances 4 (over 3 less one) and 0.
        let (train, test) = (upload(&[1.0, 5.0, 3.0, 5.0, 5.0, 5.0], 3), upload(&[3.0, 5.0, 7.0, 6.0], 2));
        let (a, b) = standardized(&train, &test).unwrap();
        let want = |v: &[f64]| v.to_vec();
        let unit = 2.0 / (4.0 + 1e-5_f64).sqrt();
        for (got, want) in
            [(a, want(&[-unit, 0.0, 0.0, 0.0, unit, 0.0])), (b, want(&[0.0, 0.0, 2.0 * unit, 1.0 / 1e-5_f64.sqrt()]))]
        {
            for (got, want) in got.to_vec::<f32>().unwrap().iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 1e-5 + 1e-5 * want.abs(), "{got}, {want} wanted");
            }
        }
        let (a, _) = standardized(&upload(&[1.0, 2.0], 1), &test).unwrap();
        assert_eq!(a.to_vec::<f32>().unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn few_labels_are_a_share_of_each_class() {
        let labels: Vec<u32> = (0..1000).map(|i| if i < 940 { i % 3 } else { 4 }).collect();
        for (share, want) in [
            (0.01, [3, 3, 3, 0, 1]),
            (0.1, [31, 31, 31, 0, 6]),
            (0.05, [16, 16, 16, 0, 3]),
            (1e-9, [1, 1, 1, 0, 1]),
            (1.0, [314, 313, 313, 0, 60]),
        ] {
            let few = few_of_each(&labels, 5, share, 1);
            let mut counts = [0; 5];
            few.iter().for_each(|i| counts[labels[*i as usize] as usize] += 1);
            assert_eq!(counts, want, "{share}");
            let different: std::collections::BTreeSet<_> = few.iter().collect();
            assert_eq!(different.len(), few.len());
        }
        assert_eq!(few_of_each(&labels, 5, 0.1, 1), few_of_each(&labels, 5, 0.1, 1));
        assert_ne!(few_of_each(&labels, 5, 0.1, 1), few_of_each(&labels, 5, 0.1, 2));
    }
}

//! Pseudo-labels: a small classifier over targets, taught by the few labels that are known (CMSF semi-supervised).

use crate::methods::training::{EmaCourse, Recipe, Start, TrainFlags, Trainer};
use crate::nn::{Arena, MlpLayer, MlpSpec, Model, ModelSpec, NamedParam, Precision, Rule, Schedule, Training, initial};
use crate::ops::bank::NONE;
use crate::ops::elementwise::{cast, greater_equal, less, where_};
use crate::ops::gather::index_select;
use crate::ops::reduce::{argmax, max, mean_all};
use crate::ops::softmax::{cross_entropy, softmax};
use crate::report::Metrics;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Passes over the labelled targets of each training.
const EPOCHS: u64 = 10;
/// Its batch at most.
const BATCH: usize = 256;

/// A classifier of targets, and what is known of labels.
#[derive(Debug)]
pub(super) struct Pseudo {
    spec: ModelSpec,
    /// Over the arenas, with running statistics.
    model: Model,
    trained: Arena,
    statistics: Arena,
    /// The label of each image, u32 `[n]`, [`NONE`] for those that are not known.
    truth: Tensor,
    known: Vec<u32>,
    threshold: Tensor,
    seed: u64,
}

impl Pseudo {
    /// A classifier of targets of width `d` into `n_classes`, before any training; `known` is the label of each image or [`NONE`].
    /// Its hidden width is 2 d, as 512-1024 in the paper.
    pub(super) fn new(
        runtime: &Runtime,
        d: usize,
        n_classes: usize,
        known: Vec<u32>,
        threshold: f32,
        seed: u64,
    ) -> Result<Self> {
        let layers = vec![MlpLayer::hidden(2 * d), MlpLayer::linear(n_classes)];
        let spec = ModelSpec::Mlp(MlpSpec { n_in: d, layers });
        // Its own draws, whatever the backbone's.
        let weights = initial(&spec, seed ^ 1 << 63)?;
        let plan = spec.plan();
        let (trained, statistics) = plan.params.for_arenas(&weights);
        let arena = |named: Vec<NamedParam>| {
            Arena::new(runtime, &named.into_iter().map(|(_, param)| param).collect::<Vec<_>>(), false)
        };
        let (trained, statistics) = (arena(trained)?, arena(statistics)?);
        let model = Model::from_plan(runtime, &spec, plan, &weights)?;
        Ok(Self {
            model: model.over(&trained.tensors()?, &statistics.tensors()?)?,
            truth: Tensor::from_slice(runtime, &known, &[known.len()])?,
            threshold: Tensor::from_slice(runtime, &[threshold], &[1])?,
            spec,
            trained,
            statistics,
            known,
            seed,
        })
    }

    /// What a checkpoint keeps of it.
    pub(super) fn kept(&self) -> Vec<(String, Tensor)> {
        let named = |part: &str, arena: &Arena| {
            let flats = arena.values().into_iter().enumerate();
            flats.map(|(i, flat)| (format!("pseudo.{part}.{i}"), flat)).collect::<Vec<_>>()
        };
        [named("weights", &self.trained), named("statistics", &self.statistics)].concat()
    }

    /// Labels of targets `u` f32 `[b, d]` of the images `items` u32 `[b]`: those that are known, else what the classifier is sure
    /// of, else [`NONE`].
    pub(super) fn label(&self, u: &Tensor, items: &Tensor) -> Result<Tensor> {
        let likely = softmax(&self.model.features(u)?)?;
        let (sure, class) = (max(&likely, &[1], false)?, argmax(&likely, &[1], false)?);
        let none = Tensor::constant(u.runtime(), &[NONE])?;
        let guess = where_(&greater_equal(&sure, &self.threshold)?, &class, &none)?;
        let truth = index_select(&self.truth, 0, items)?;
        where_(&less(&truth, &none)?, &truth, &guess)
    }

    /// Goes on teaching the classifier, by the targets `pool` `[n, d]` of those of `seen` whose label is known; `step` tells its
    /// draws from those of other times.
    pub(super) fn train(&self, pool: &Tensor, seen: &[u32], step: u64) -> Result<()> {
        let label = |image: &u32| self.known.get(*image as usize).copied().filter(|label| *label != NONE);
        let (images, labels): (Vec<u32>, Vec<u32>) =
            seen.iter().filter_map(|image| Some((*image, label(image)?))).unzip();
        let n = images.len();
        // Two rows at least, for statistics.
        if n < 2 {
            return Ok(());
        }
        let runtime = pool.runtime();
        let of = |values: &[u32]| Tensor::from_slice(runtime, values, &[n]);
        let rows = cast(&index_select(pool, 0, &of(&images)?)?, DType::F32)?;
        let labels = of(&labels)?;
        let batch = BATCH.min(n);
        let recipe = Recipe {
            steps: EPOCHS * (n / batch) as u64,
            batch,
            micro_batch: batch,
            lr: 0.01,
            schedule: "constant".parse::<Schedule>()?,
            rule: Rule::Sgd { momentum: 0.9, nesterov: false },
            decay: 1e-4,
            clip: None,
            ema: None,
            ema_course: EmaCourse::Constant,
            precision: Precision::F32,
            seed: self.seed.wrapping_add(step),
        };
        let plan = self.spec.plan();
        let weights = self.model.weights()?;
        let (trained, buffers) = plan.params.for_arenas(&weights);
        let start = Start { trained, buffers, kept: Vec::new() };
        let mut trainer = Trainer::new(runtime, &recipe, serde_json::Value::Null, start, n, None, false)?;
        let model = self.model.over(trainer.leaves(), &trainer.buffers()?)?.training(Training::new(0.1, false));
        let mut loss = |batch: &crate::methods::training::Batch| {
            let x = index_select(&rows, 0, &batch.items)?;
            let labels = index_select(&labels, 0, &batch.items)?;
            mean_all(&cross_entropy(&model.features(&x)?, &labels, 0.0)?)
        };
        let flags = TrainFlags { log_every: u64::MAX, checkpoint_every: u64::MAX, ..TrainFlags::default() };
        let mut metrics = Metrics::create(None)?;
        trainer.run(&flags, &mut metrics, true, &mut |_, _| Ok(()), &mut loss, &mut |_| Ok(serde_json::Map::new()))?;
        let copy = |there: Vec<Tensor>, here: Vec<Tensor>| {
            there.iter().zip(here).try_for_each(|(there, here)| here.write_bytes(&there.to_bytes()?))
        };
        copy(trainer.parameters()?, self.trained.tensors()?)?;
        copy(trainer.buffers()?, self.statistics.tensors()?)
    }
}

/// The labels that a semi-supervised run knows: `share` of each class, at least one, drawn by `seed`; [`NONE`] elsewhere.
///
/// # Errors
/// [`Error::Input`] for a share that is not above 0 and up to 1.
pub(super) fn few_labels(labels: &[u32], n_classes: usize, share: f64, seed: u64) -> Result<Vec<u32>> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::Input(format!("--labels {share}: above 0 and up to 1 wanted")));
    }
    let mut known = vec![NONE; labels.len()];
    for image in super::probe::few_of_each(labels, n_classes, share, seed) {
        known[image as usize] = labels[image as usize];
    }
    Ok(known)
}

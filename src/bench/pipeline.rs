//! Whole methods, end to end.

use super::{Case, Level, noise, worst};
use crate::nn::{
    Arena, Model, ModelSpec, NamedParam, Optimizer, Rule, Training, initial, reference_forward, untrained,
};
use crate::ops::elementwise;
use crate::ops::reduce::{mean_all, sum_all};
use crate::ops::softmax::cross_entropy;
use crate::reference::Array;
use crate::runtime::{Repeated, Runtime};
use crate::{Result, Tensor};
use std::cell::RefCell;
use std::rc::Rc;

/// The family of these cases.
pub(super) const PIPELINE: &str = "pipeline";

/// Networks that classify, and images of a batch.
const CLASSIFY: [(&str, usize); 4] = [("resnet20", 64), ("vit_small32", 64), ("resnet18_cifar", 16), ("resnet56", 64)];

/// Networks that are trained, and images of a step.
const TRAIN: [(&str, usize); 3] = [("resnet20", 64), ("vit_small32", 64), ("resnet18_cifar", 16)];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (classified, trained) =
        if level == Level::Quick { (&CLASSIFY[..2], &TRAIN[..1]) } else { (&CLASSIFY[..], &TRAIN[..]) };
    let classify = classified.iter().map(|(arch, batch)| classify(runtime, arch, *batch));
    classify.chain(trained.iter().map(|(arch, batch)| train(runtime, arch, *batch))).collect()
}

/// A batch of images to logits, checked on its last image.
fn classify(runtime: &Runtime, arch: &str, batch: usize) -> Result<Case> {
    let spec = ModelSpec::by_name(arch)?;
    let (plan, side) = (spec.plan(), spec.image());
    let weights = untrained(&plan.params, 1)?;
    let model = Model::folded(runtime, &spec, &weights)?;
    let shape = [batch, side, side, spec.channels()];
    let (images, host) = noise(runtime, &shape, 5)?;
    let summary = plan.summary([side; 2])?;
    let bytes = summary.weight_bytes + 4 * (images.len() + batch * spec.classes()) as u64;
    let last =
        Array::new(&[1, side, side, spec.channels()], host.data[host.data.len() / batch * (batch - 1)..].to_vec());
    let n_classes = spec.classes();
    let check = move |logits: &Tensor| {
        let got = logits.slice(0, batch - 1..batch)?.to_vec::<f32>()?;
        let want = reference_forward(&plan, &weights, &last)?.data;
        let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        let errors = got.iter().zip(&want).map(|(g, w)| f64::from(*g) - w);
        Ok(if got.len() == n_classes { worst(errors) / largest } else { f64::INFINITY })
    };
    let case = Case::new("pipeline/classify", format!("{arch}, {batch} images"), move || model.forward(&images), check);
    // By the largest logit; each of some dozen layers rounds by 2^-24 over sums of some hundred terms.
    Ok(case.cost(2 * summary.multiply_adds * batch as u64, bytes).items(batch as u64, "images").tolerance(2e-5))
}

/// A network in training on one batch of noise, for benchmarks.
pub struct TrainingStep {
    network: Model,
    leaves: Vec<Tensor>,
    statistics: Vec<Tensor>,
    arena: Arena,
    optimizer: RefCell<Optimizer>,
    gradients: RefCell<Repeated<Tensor>>,
    lr: f64,
    images: Tensor,
    labels: Tensor,
}

impl TrainingStep {
    /// `spec` with weights as training starts, and `batch` images.
    ///
    /// # Errors
    /// As [`Model::new`] and [`Arena::new`].
    pub fn new(runtime: &Runtime, spec: &ModelSpec, batch: usize, rule: Rule, lr: f64) -> Result<Self> {
        let weights = initial(spec, 1)?;
        let (trained, statistics) = spec.plan().params.for_arenas(&weights);
        let values = |named: &[NamedParam]| named.iter().map(|(_, param)| param.clone()).collect::<Vec<_>>();
        let arena = Arena::new(runtime, &values(&trained), true)?;
        let statistics = Arena::new(runtime, &values(&statistics), false)?.tensors()?;
        let leaves: Vec<Tensor> = arena.tensors()?.iter().map(Tensor::require_grad).collect::<Result<_>>()?;
        let model = Model::new(runtime, spec, &weights)?.training(Training::new(0.1, false));
        let (images, _) = noise(runtime, &[batch, spec.image(), spec.image(), spec.channels()], 5)?;
        let labels: Vec<u32> = (0..batch as u32).map(|i| i * 7 % spec.classes() as u32).collect();
        Ok(Self {
            network: model.over(&leaves, &statistics)?,
            optimizer: RefCell::new(Optimizer::new(rule, 0.0, None, &arena)?),
            gradients: RefCell::default(),
            leaves,
            statistics,
            arena,
            lr,
            images,
            labels: Tensor::from_slice(runtime, &labels, &[batch])?,
        })
    }

    fn loss(&self, network: &Model) -> Result<Tensor> {
        mean_all(&cross_entropy(&network.forward(&self.images)?, &self.labels, 0.0)?)
    }

    /// Forward, backward, a step of the optimizer; the loss `[]` before it.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] if the device is gone.
    pub fn run(&self) -> Result<Tensor> {
        let gradients = || {
            let value = self.loss(&self.network)?;
            self.arena.collect(value.backward()?, &self.leaves, false)?;
            Ok(value.detach())
        };
        let value = self.gradients.borrow_mut().run(self.images.runtime(), gradients)?;
        self.optimizer.borrow_mut().step(&self.arena, self.lr)?;
        Ok(value)
    }

    /// How far the loss's change over a small step along the gradient is from what the gradient promises, relatively.
    ///
    /// # Errors
    /// As [`TrainingStep::run`].
    pub fn slope_error(&self) -> Result<f64> {
        let mut found = self.loss(&self.network)?.backward()?;
        let gradients: Vec<Tensor> = self.leaves.iter().filter_map(|leaf| found.take(leaf)).collect();
        if gradients.len() != self.leaves.len() {
            return Ok(f64::INFINITY);
        }
        let mut squares = 0.0;
        for d in &gradients {
            squares += f64::from(sum_all(&elementwise::square(d)?)?.item::<f32>()?);
        }
        // The loss changes by some thousandth of itself.
        let step = 2e-3 / squares;
        let at = |sign: f64| -> Result<f64> {
            let moved = self
                .leaves
                .iter()
                .zip(&gradients)
                .map(|(w, d)| elementwise::add(&w.detach(), &elementwise::affine(d, (sign * step) as f32, 0.0)?));
            let moved: Vec<Tensor> = moved.collect::<Result<_>>()?;
            Ok(f64::from(self.loss(&self.network.over(&moved, &self.statistics)?)?.item::<f32>()?))
        };
        Ok(((at(1.0)? - at(-1.0)?) / (2.0 * step * squares) - 1.0).abs())
    }
}

/// A training step: forward, backward, SGD with momentum. Checked by the slope of the loss along its gradient.
fn train(runtime: &Runtime, arch: &str, batch: usize) -> Result<Case> {
    let spec = ModelSpec::by_name(arch)?;
    let step = Rc::new(TrainingStep::new(runtime, &spec, batch, Rule::Sgd { momentum: 0.9, nesterov: false }, 1e-3)?);
    let summary = spec.plan().summary([spec.image(); 2])?;
    let bytes = 3 * summary.weight_bytes + 4 * step.images.len() as u64;
    let checked = Rc::clone(&step);
    let case = Case::new(
        "pipeline/train",
        format!("{arch}, {batch} images"),
        move || step.run(),
        move |_: &Tensor| checked.slope_error(),
    );
    // Two multiply-adds backward for each one forward. Of a slope of 1, curvature and the rounding of the loss leave 1 %.
    Ok(case.cost(6 * summary.multiply_adds * batch as u64, bytes).items(batch as u64, "images").tolerance(2e-2))
}

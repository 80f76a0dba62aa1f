//! Whole methods, end to end.

use super::{Case, Gate, Level, Parts, noise, worst};
use crate::nn::{
    Arena, Model, ModelSpec, NamedParam, Optimizer, Precision, Rule, Training, initial, reference_forward, untrained,
};
use crate::ops::elementwise;
use crate::ops::reduce::{mean_all, sum_all};
use crate::ops::softmax::cross_entropy;
use crate::reference::Array;
use crate::runtime::{Repeated, Runtime};
use crate::{Error, Result, Tensor};
use std::cell::RefCell;
use std::rc::Rc;

/// The family of these cases.
pub(super) const PIPELINE: &str = "pipeline";

/// Networks that classify, and images of a batch.
const CLASSIFY: [(&str, usize); 4] = [("resnet20", 64), ("vit_small32", 64), ("resnet18_cifar", 16), ("resnet56", 64)];

/// Networks that are trained, and images of a step; the last two are for GPUs, and targets of this crate are stated on them.
const TRAIN: [(&str, usize); 5] =
    [("resnet20", 64), ("vit_small32", 64), ("resnet18_cifar", 16), ("resnet18_cifar", 512), ("deit_small", 128)];

/// Steps behind the first after which the loss must have fallen.
const STEPS: usize = 5;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (classified, trained) =
        if level <= Level::Quick { (&CLASSIFY[..2], &TRAIN[..1]) } else { (&CLASSIFY[..], &TRAIN[..]) };
    let classify = classified.iter().map(|(arch, batch)| classify(runtime, arch, *batch));
    classify.chain(trained.iter().map(|(arch, batch)| train(runtime, arch, *batch))).collect()
}

/// A batch of images to logits, checked on its last image; the gate sees more of them.
fn classify(runtime: &Runtime, arch: &str, batch: usize) -> Result<Case> {
    let spec = ModelSpec::by_name(arch)?;
    let (side, channels, n_classes) = (spec.image(), spec.channels(), spec.classes());
    let summary = spec.plan().summary([side; 2])?;
    let pixels = side * side * channels;
    let bytes = summary.weight_bytes + 4 * (batch * (pixels + n_classes)) as u64;
    let (runtime, name) = (runtime.clone(), format!("{arch}, {batch} images"));
    let make = move || {
        let plan = spec.plan();
        let weights = untrained(&plan.params, 1)?;
        let model = Rc::new(Model::folded(&runtime, &spec, &weights)?);
        let (images, host) = noise(&runtime, &[batch, side, side, channels], 5)?;
        // By the largest logit.
        let error_of = Rc::new(move |logits: &Tensor, image: usize| {
            let got = logits.slice(0, image..image + 1)?.to_vec::<f32>()?;
            let pixels = host.data[image * pixels..(image + 1) * pixels].to_vec();
            let want = reference_forward(&plan, &weights, &Array::new(&[1, side, side, channels], pixels))?.data;
            let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
            let errors = got.iter().zip(&want).map(|(g, w)| f64::from(*g) - w);
            Ok::<_, Error>(if got.len() == n_classes { worst(errors) / largest } else { f64::INFINITY })
        });
        let (of_gate, gate_model, gate_images) = (Rc::clone(&error_of), Rc::clone(&model), images.clone());
        let gate = Gate::new("error of the logits of 3 images, of the largest", CLASSIFY_TOLERANCE, move || {
            let logits = gate_model.forward(&gate_images)?;
            let errors = [0, batch / 3, batch / 2].map(|image| of_gate(&logits, image));
            errors.into_iter().try_fold(0.0, |most: f64, error| Ok(worst([most, error?])))
        });
        let check = move |logits: &Tensor| error_of(logits, batch - 1);
        Ok(Parts::new(move || model.forward(&images), check).gate(gate))
    };
    let case = Case::deferred("pipeline/classify", name, make)
        .memory(summary.largest_bytes * batch as u64, bytes + summary.activation_bytes * batch as u64);
    let flops = 2 * summary.multiply_adds * batch as u64;
    Ok(case.cost(flops, bytes).items(batch as u64, "images").tolerance(CLASSIFY_TOLERANCE))
}

/// By the largest logit; each of some dozen layers rounds by 2^-24 over sums of some hundred terms.
const CLASSIFY_TOLERANCE: f64 = 2e-5;

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
            self.arena.collect(&mut value.backward()?, &self.leaves, false)?;
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

/// A training step: forward, backward and the usual optimizer. Checked by the slope of the loss along its gradient; the
/// gate is the loss after some steps on one batch.
fn train(runtime: &Runtime, arch: &str, batch: usize) -> Result<Case> {
    let spec = ModelSpec::by_name(arch)?;
    let (optimizer, rule, lr) = match &spec {
        ModelSpec::Vit(_) => ("adamw", Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: true }, 1e-3),
        _ => ("sgd", Rule::Sgd { momentum: 0.9, nesterov: false }, 0.05),
    };
    let plan = spec.plan();
    let image = [spec.image(); 2];
    let summary = plan.summary(image)?;
    let image_bytes = (4 * spec.image() * spec.image() * spec.channels()) as u64;
    let bytes = 3 * summary.weight_bytes + image_bytes * batch as u64;
    let kept = (plan.kept_bytes(image, false, Precision::F32)? + image_bytes) * batch as u64;
    let state = 4 * plan.params.n_trained() * (3 + rule.n_moments() as u64);
    let (runtime, name) = (runtime.clone(), format!("{arch}, {batch} images"));
    let make = move || {
        let step = Rc::new(TrainingStep::new(&runtime, &spec, batch, rule, lr)?);
        let (checked, learning) = (Rc::clone(&step), Rc::clone(&step));
        let gate = Gate::new(format!("loss after {STEPS} steps, of that before"), 0.95, move || {
            let before = learning.run()?.item::<f32>()?;
            for _ in 1..STEPS {
                learning.run()?;
            }
            Ok(f64::from(learning.run()?.item::<f32>()? / before))
        });
        Ok(Parts::new(move || step.run(), move |_: &Tensor| checked.slope_error()).gate(gate))
    };
    let case = Case::deferred("pipeline/train", name, make)
        .variant(optimizer)
        .memory(summary.largest_bytes * batch as u64, kept + state);
    // Two multiply-adds backward for each one forward. Of a slope of 1, curvature and the rounding of the loss leave 1 %.
    Ok(case.cost(6 * summary.multiply_adds * batch as u64, bytes).items(batch as u64, "images").tolerance(2e-2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    #[test]
    fn rows_for_gpus_are_listed_without_being_made() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let cases = cases(&runtime, Level::Full).unwrap();
        for (shape, gigabytes) in [("resnet18_cifar, 512 images", 1..8), ("deit_small, 128 images", 5..40)] {
            let case = cases.iter().find(|case| case.name == "pipeline/train" && case.shape == shape).unwrap();
            assert!(case.is_deferred() && case.flops > 1_000_000_000_000, "{shape} {}", case.flops);
            assert!(gigabytes.contains(&(case.memory.1 >> 30)), "{shape} {:?}", case.memory);
        }
        assert_eq!(runtime.memory().reserved_bytes, 0);
    }

    #[test]
    fn small_networks_pass_their_gates() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        for case in [classify(&runtime, "resnet8", 5).unwrap(), train(&runtime, "resnet8", 16).unwrap()] {
            case.verify().unwrap();
            let (what, value, bound) = case.quality().unwrap().unwrap();
            assert!(value > 0.0 && value <= bound, "{what}: {value}");
        }
    }
}

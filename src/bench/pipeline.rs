//! Whole methods, end to end.

use super::{Case, Level, noise, worst};
use crate::nn::{
    Arena, Model, ModelSpec, NamedParam, Optimizer, Rule, Training, initial, reference_forward, untrained,
};
use crate::ops::elementwise;
use crate::ops::reduce::{mean_all, sum_all};
use crate::ops::softmax::cross_entropy;
use crate::reference::Array;
use crate::runtime::Runtime;
use crate::{Result, Tensor};
use std::cell::RefCell;

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

/// A training step: forward, backward, SGD with momentum. Checked by the slope of the loss along its gradient.
fn train(runtime: &Runtime, arch: &str, batch: usize) -> Result<Case> {
    let spec = ModelSpec::by_name(arch)?;
    let (plan, side) = (spec.plan(), spec.image());
    let weights = initial(&spec, 1)?;
    let (trained, statistics) = plan.params.for_arenas(&weights);
    let values = |named: &[NamedParam]| named.iter().map(|(_, param)| param.clone()).collect::<Vec<_>>();
    let arena = Arena::new(runtime, &values(&trained), true)?;
    let statistics = Arena::new(runtime, &values(&statistics), false)?.tensors()?;
    let leaves: Vec<Tensor> = arena.tensors()?.iter().map(Tensor::require_grad).collect::<Result<_>>()?;
    let model = Model::new(runtime, &spec, &weights)?.training(Training::new(0.1, false));
    let network = model.over(&leaves, &statistics)?;
    let (images, _) = noise(runtime, &[batch, side, side, spec.channels()], 5)?;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i * 7 % spec.classes() as u32).collect();
    let labels = Tensor::from_slice(runtime, &labels, &[batch])?;
    let loss = {
        let images = images.clone();
        move |network: &Model| mean_all(&cross_entropy(&network.forward(&images)?, &labels, 0.0)?)
    };
    let check = {
        let (loss, network, leaves, statistics) = (loss.clone(), network.clone(), leaves.clone(), statistics.clone());
        move |_: &Tensor| slope_error(&loss, &network, &leaves, &statistics)
    };
    let optimizer = RefCell::new(Optimizer::new(Rule::Sgd { momentum: 0.9, nesterov: false }, 1e-4, None, &arena)?);
    let summary = plan.summary([side; 2])?;
    let bytes = 3 * summary.weight_bytes + 4 * images.len() as u64;
    let run = move || {
        let value = loss(&network)?;
        arena.collect(value.backward()?, &leaves, false)?;
        optimizer.borrow_mut().step(&arena, 1e-3)?;
        Ok(value.detach())
    };
    let case = Case::new("pipeline/train", format!("{arch}, {batch} images"), run, check);
    // Two multiply-adds backward for each one forward. The slope is measured over a step in which the loss, of some 2 and
    // known to 1e-6, changes by 1e-2.
    Ok(case.cost(6 * summary.multiply_adds * batch as u64, bytes).items(batch as u64, "images").tolerance(2e-2))
}

/// How far the loss's change over a small step along the gradient is from what the gradient promises, relatively.
fn slope_error(
    loss: &dyn Fn(&Model) -> Result<Tensor>,
    network: &Model,
    leaves: &[Tensor],
    statistics: &[Tensor],
) -> Result<f64> {
    let mut found = loss(network)?.backward()?;
    let gradients: Vec<Tensor> = leaves.iter().filter_map(|leaf| found.take(leaf)).collect();
    if gradients.len() != leaves.len() {
        return Ok(f64::INFINITY);
    }
    let mut squares = 0.0;
    for d in &gradients {
        squares += f64::from(sum_all(&elementwise::square(d)?)?.item::<f32>()?);
    }
    let step = 5e-3 / squares;
    let at = |sign: f64| -> Result<f64> {
        let moved = leaves
            .iter()
            .zip(&gradients)
            .map(|(w, d)| elementwise::add(&w.detach(), &elementwise::affine(d, (sign * step) as f32, 0.0)?));
        let moved: Vec<Tensor> = moved.collect::<Result<_>>()?;
        Ok(f64::from(loss(&network.over(&moved, statistics)?)?.item::<f32>()?))
    };
    Ok(((at(1.0)? - at(-1.0)?) / (2.0 * step * squares) - 1.0).abs())
}

//! Whole methods, end to end.

use super::{Case, Level, noise, worst};
use crate::nn::{Model, ModelSpec, reference_forward, untrained};
use crate::reference::Array;
use crate::runtime::Runtime;
use crate::{Result, Tensor};

/// The family of these cases.
pub(super) const PIPELINE: &str = "pipeline";

/// Networks that classify, and images of a batch.
const CLASSIFY: [(&str, usize); 4] = [("resnet20", 64), ("vit_small32", 64), ("resnet18_cifar", 16), ("resnet56", 64)];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let networks = if level == Level::Quick { &CLASSIFY[..2] } else { &CLASSIFY };
    networks.iter().map(|(arch, batch)| classify(runtime, arch, *batch)).collect()
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

//! Steps of self-supervised pretraining, end to end: what mean shift costs beside BYOL.

use std::rc::Rc;

use super::{Case, Gate, Level, Parts};
use crate::methods::ssl::{Method, SslStep, SslStepSpec};
use crate::nn::{ModelSpec, Precision};
use crate::runtime::Runtime;
use crate::{Result, Tensor};

/// Methods, the backbone, images of a step, entries of the bank, neighbours: those that costs are compared at. The first two for
/// a quick look.
const STEPS: [(Method, &str, usize, usize, usize); 5] = [
    (Method::Byol, "resnet18_cifar_x0.25", 128, 4096, 5),
    (Method::Msf, "resnet18_cifar_x0.25", 128, 4096, 5),
    (Method::Cmsf2q, "resnet18_cifar_x0.25", 128, 4096, 5),
    (Method::ByolSym, "resnet18_cifar_x0.25", 128, 4096, 5),
    (Method::Msf, "resnet18_cifar", 512, 16_384, 5),
];
/// Steps of the gate.
const LEARNING: usize = 8;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let steps = if level <= Level::Quick { &STEPS[..2] } else { &STEPS[..] };
    let spec =
        |&(method, arch, batch, bank, topk): &_| SslStepSpec { method, arch: String::from(arch), batch, bank, topk };
    steps.iter().map(|step| case(runtime, spec(step))).collect()
}

fn case(runtime: &Runtime, spec: SslStepSpec) -> Result<Case> {
    let backbone = ModelSpec::by_name(&spec.arch)?;
    let plan = backbone.plan();
    let side = [backbone.image(); 2];
    let summary = plan.summary(side)?;
    let views = if spec.method.is_symmetric() { 2 } else { 1 };
    let kept = views * plan.kept_bytes(side, false, Precision::F32)? * spec.batch as u64;
    let state = 4 * plan.params.n_trained() * 5;
    let name = format!("{}, {} images, bank {}", spec.arch, spec.batch, spec.bank);
    let variant = serde_json::to_value(spec.method).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default();
    // Three passes through what is trained, one through what gives targets.
    let flops = 2 * views * 4 * summary.multiply_adds * spec.batch as u64;
    let (runtime, batch) = (runtime.clone(), spec.batch);
    let make = move || {
        let step = Rc::new(SslStep::new(&runtime, &spec)?);
        let learning = Rc::clone(&step);
        let gate = Gate::new(format!("loss behind {LEARNING} steps, of that before"), 0.95, move || {
            let before = learning.run()?.item::<f32>()?;
            for _ in 1..LEARNING {
                learning.run()?;
            }
            Ok(f64::from(learning.run()?.item::<f32>()? / before))
        });
        // Untrained outputs know nothing of their targets: rows of unit length are sqrt(2) apart.
        let check = move |loss: &Tensor| Ok((f64::from(loss.item::<f32>()?) / views as f64 - 2.0).abs());
        Ok(Parts::new(move || step.run(), check).gate(gate))
    };
    let case = Case::deferred("pipeline/ssl", name, make)
        .variant(&variant)
        .memory(summary.largest_bytes * batch as u64, kept + state);
    Ok(case.cost(flops, 3 * summary.weight_bytes).items(batch as u64, "images").tolerance(0.5))
}

//! Steps of training an adapter, end to end: what bases made in the kernel cost beside LoRA's factors.

use std::rc::Rc;

use super::{Case, Gate, Level, Parts};
use crate::methods::finetune::{AdapterSpec, FinetuneStep, Method};
use crate::nn::{ModelSpec, Precision};
use crate::ops::basis::Law;
use crate::runtime::Runtime;
use crate::{Result, Tensor};

/// The network, images of a step, method, law, rank, bases of a factor, layers: the first two for a quick look.
const STEPS: [(&str, usize, Method, Law, usize, usize); 8] = [
    ("vit_small32", 32, Method::Lora, Law::Uniform8, 4, 64),
    ("vit_small32", 32, Method::Nola, Law::Uniform8, 4, 64),
    ("vit_small32", 32, Method::Nola, Law::Sign, 4, 64),
    ("vit_small32", 32, Method::Nola, Law::Onehot, 4, 64),
    ("vit_small32", 32, Method::Vera, Law::Uniform8, 256, 64),
    ("vit_small32", 32, Method::Pranc, Law::Uniform8, 4, 64),
    ("deit_base", 64, Method::Lora, Law::Uniform8, 4, 1024),
    ("deit_base", 64, Method::Nola, Law::Uniform8, 4, 1024),
];
/// Steps of the gate.
const LEARNING: usize = 12;
/// Multiply-adds of a step past which it is for [`Level::Stress`].
const LARGE: u64 = 1 << 40;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (i, &(arch, batch, method, basis, rank, k)) in STEPS.iter().enumerate() {
        let macs = ModelSpec::by_name(arch)?.plan().summary([ModelSpec::by_name(arch)?.image(); 2])?.multiply_adds;
        let large = macs * batch as u64 > LARGE && runtime.profile().is_software();
        if (level <= Level::Quick && i > 1) || (large && level < Level::Stress) {
            continue;
        }
        let alpha = if method == Method::Lora || method == Method::Nola { 8.0 } else { rank as f64 };
        let spec = AdapterSpec { method, basis, seed: 0, rank, k, alpha, targets: "mlp".into(), norms: false };
        cases.push(case(runtime, arch, batch, spec)?);
    }
    Ok(cases)
}

fn case(runtime: &Runtime, arch: &'static str, batch: usize, spec: AdapterSpec) -> Result<Case> {
    let network = ModelSpec::by_name(arch)?;
    let plan = network.plan();
    let side = [network.image(); 2];
    let summary = plan.summary(side)?;
    let kept = plan.kept_bytes(side, false, Precision::F32)? * batch as u64;
    let variant = match spec.method {
        Method::Nola | Method::Pranc => format!("{} {}", spec.method, spec.basis),
        method => method.to_string(),
    };
    let name = format!("{arch}, {batch} images, rank {}, k {}", spec.rank, spec.k);
    // Forward, and gradients of what the layers read; those of frozen weights are not taken.
    let flops = 2 * 2 * summary.multiply_adds * batch as u64;
    let runtime = runtime.clone();
    let make = move || {
        let step = Rc::new(FinetuneStep::new(&runtime, arch, &spec, batch)?);
        let learning = Rc::clone(&step);
        let gate = Gate::new(format!("loss behind {LEARNING} steps, of that before"), 0.99, move || {
            let before = learning.run()?.item::<f32>()?;
            for _ in 1..LEARNING {
                learning.run()?;
            }
            Ok(f64::from(learning.run()?.item::<f32>()? / before))
        });
        // A head of random weights tells ten classes no better than chance: ln 10.
        let check = move |loss: &Tensor| Ok((f64::from(loss.item::<f32>()?) - 10.0_f64.ln()).abs());
        Ok(Parts::new(move || step.run(), check).gate(gate))
    };
    let case = Case::deferred("pipeline/finetune", name, make)
        .variant(&variant)
        .memory(summary.largest_bytes * batch as u64, kept + 2 * summary.weight_bytes);
    Ok(case.cost(flops, 2 * summary.weight_bytes).items(batch as u64, "images").tolerance(1.0))
}

//! The gradient of a whole step's loss with respect to each kind of parameter, against differences (ssl A3).

use super::super::encoder::{EncoderSpec, unit_rows};
use super::super::loss::distance;
use super::super::method::{HeadWidths, Method};
use super::{runtime, unit};
use crate::nn::{Arena, ModelSpec, NamedParam, Training};
use crate::ops::random::{Key, normal};
use crate::reference::random;
use crate::{DType, Tensor};

#[test]
fn gradients_of_backbone_and_heads_are_slopes() {
    let Some(runtime) = runtime() else { return };
    for (method, arch) in [(Method::Msf, "resnet8_x0.25"), (Method::Simsiam, "resnet10_cifar_x0.0625")] {
        let backbone = ModelSpec::by_name(arch).unwrap();
        let n = backbone.plan().n_features();
        let heads = method.heads(n, HeadWidths { hidden: 24, out: 16 }, 0, 4);
        let spec = EncoderSpec { backbone, heads };
        let weights = spec.initial(2).unwrap();
        let (trained, buffers) = spec.for_arenas(&weights, false);
        let params = |named: &[NamedParam]| named.iter().map(|(_, param)| param.clone()).collect::<Vec<_>>();
        let arena = Arena::new(&runtime, &params(&trained), true).unwrap();
        let statistics = Arena::new(&runtime, &params(&buffers), false).unwrap().tensors().unwrap();
        let leaves: Vec<Tensor> = arena.tensors().unwrap().iter().map(|w| w.require_grad().unwrap()).collect();
        let encoder = spec.load(&runtime, &weights).unwrap();
        let encoder = encoder.over(&leaves, &statistics).unwrap().training(Training::new(0.1, false));
        let images = normal(&runtime, &[16, 16, 16, 3], 0.0, 1.0, Key::new(1, 70, 0)).unwrap();
        let mu = Tensor::from_slice(&runtime, &unit(16, 16, 9), &[16, 16]).unwrap();
        let loss = || {
            let q = unit_rows(&encoder.predict(&encoder.project(&images).unwrap()).unwrap()).unwrap();
            distance(&q, &mu).unwrap()
        };
        let value = loss();
        assert_eq!(value.dtype(), DType::F32);
        let mut found = value.backward().unwrap();
        let gradients: Vec<Vec<f32>> =
            leaves.iter().map(|leaf| found.take(leaf).unwrap().to_vec::<f32>().unwrap()).collect();
        for (i, (name, param)) in trained.iter().enumerate() {
            let size = gradients[i].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            if size < 1e-6 {
                // A norm behind it takes off what a head's bias adds.
                let last = "predictor.3.bias";
                assert!(name.ends_with("bias") && !name.starts_with("backbone") && name != last, "{name}: no gradient");
                continue;
            }
            // Along the gradient, whose slope is its length, and along a random direction, which sees what the gradient lacks.
            let random = random::normal(&[param.values.len()], 0.0, 1.0, Key::new(3, 71, i as u32)).data;
            let along: Vec<f64> = gradients[i].iter().map(|g| f64::from(*g) / size).collect();
            for (direction, tolerance) in [(along, 1e-2), (random, 2e-2)] {
                let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
                let promised: f64 = gradients[i].iter().zip(&direction).map(|(g, d)| f64::from(*g) * d / length).sum();
                let at = |step: f64| {
                    let moved = param.values.iter().zip(&direction);
                    let moved: Vec<f32> = moved.map(|(v, d)| (f64::from(*v) + step * d / length) as f32).collect();
                    leaves[i].write(&moved).unwrap();
                    f64::from(loss().item::<f32>().unwrap())
                };
                // A step that moves the loss, along the gradient, a thousand times its rounding, and past few kinks.
                let step = (1.2e-4 / size).min(5e-4);
                let measured = (at(step) - at(-step)) / (2.0 * step);
                // What the loss's rounding leaves of a slope over such a step.
                let rounding = 2.0 * f64::from(f32::EPSILON) / step;
                let off = (measured - promised).abs();
                assert!(
                    off < tolerance * size + rounding,
                    "{arch} {name}: {promised} promised, {measured} measured, of {size}"
                );
            }
            leaves[i].write(&param.values).unwrap();
        }
    }
}

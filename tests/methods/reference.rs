//! The forward pass on the CPU in f64 against logits that PyTorch computed in f64: needs no adapter.

use leanvision::Tensor;
use leanvision::nn::{Model, ModelSpec, NormPlace, VitSpec, reference_forward, untrained};
use leanvision::ops::Act;
use leanvision::reference::Array;

use crate::formula;
use crate::models::golden_logits;
use crate::support::compare::{Tolerance, compare};
use crate::support::runtime;

fn equals_golden(name: &str, arch: &str, n: usize, side: usize) {
    let spec = ModelSpec::by_name(arch).unwrap();
    let images = Array::new(&[n, side, side, 3], formula::images(n, side).into_iter().map(f64::from).collect());
    let got = reference_forward(&spec.plan(), &formula::weights(&spec), &images).unwrap();
    // Both in f64 but for the images and weights, which both round to f32, and the file's own f32.
    let want = golden_logits(name);
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    compare(&got.data, &want, Tolerance { atol: 1e-6 * largest, rtol: 0.0, allowed: 0 }).unwrap();
}

#[test]
fn reference_of_a_resnet_equals_pytorch() {
    equals_golden("resnet18_cifar_quarter", "resnet18_cifar_x0.25", 2, 32);
}

#[test]
fn reference_of_a_transformer_equals_pytorch() {
    equals_golden("vit_small32", "vit_small32", 2, 32);
}

#[test]
fn untrained_networks_agree_with_the_reference() {
    let Some(runtime) = runtime() else { return };
    let vit = VitSpec { norm: NormPlace::Post, act: Act::Relu, ..VitSpec::timm(32, 8, 24, 2, 3, 5) };
    for spec in [ModelSpec::by_name("resnet8").unwrap(), ModelSpec::Vit(Box::new(vit))] {
        let weights = untrained(&spec.plan().params, 7).unwrap();
        assert!(weights != untrained(&spec.plan().params, 8).unwrap());
        let host = formula::images(2, 32);
        let images = Tensor::from_slice(&runtime, &host, &[2, 32, 32, 3]).unwrap();
        let host = Array::new(&[2, 32, 32, 3], host.into_iter().map(f64::from).collect());
        let want = reference_forward(&spec.plan(), &weights, &host).unwrap().data;
        let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        // Activations stay near one, so that a benchmark's numbers are ordinary ones.
        assert!((0.05..50.0).contains(&largest), "{largest}");
        let logits = Model::folded(&runtime, &spec, &weights).unwrap().forward(&images).unwrap();
        let got: Vec<f64> = logits.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
        compare(&got, &want, Tolerance { atol: 1e-5 * largest, rtol: 0.0, allowed: 0 }).unwrap();
    }
}

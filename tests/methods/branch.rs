//! Branches beside frozen layers: what they add, merged and not, and weights in fewer bits below them.

use crate::support::runtime;
use leanvision::nn::{Branch, Model, ModelSpec, NormPlace, Role, Site, VitSpec, reference_forward, untrained};
use leanvision::ops::quant::{Bits, Block};
use leanvision::philox::Philox;
use leanvision::reference::Array;
use leanvision::{Runtime, Tensor};

fn drawn(runtime: &Runtime, shape: &[usize], size: f32, step: u32) -> Tensor {
    let mut draws = Philox::new(8, 800, step);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| size * (2.0 * draws.uniform_f32() - 1.0)).collect();
    Tensor::from_slice(runtime, &values, shape).unwrap()
}

fn vit(norm: NormPlace) -> ModelSpec {
    ModelSpec::Vit(Box::new(VitSpec { norm, ..VitSpec::timm(16, 4, 32, 2, 4, 5) }))
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0, |m: f32, (a, b)| {
        let d = (a - b).abs() / largest;
        if d <= m {
            m
        } else if d.is_nan() {
            f32::INFINITY
        } else {
            d
        }
    })
}

/// Branches of every kind, of which `k` has none and a packed layer others.
fn branches(runtime: &Runtime, sites: &[Site]) -> Vec<(Site, Branch)> {
    let of = |(i, site): (usize, &Site)| {
        let (n_in, n_out, step) = (site.n_in, site.n_out(), 10 * i as u32);
        let t = |shape: &[usize], j: u32| drawn(runtime, shape, 0.3, step + j);
        let branch = match site.role {
            Role::Key => return None,
            Role::Query | Role::Mlp | Role::Conv => {
                Branch::LowRank { a: t(&[n_in, 3], 0), b: t(&[3, n_out], 1), scale: 1.5 }
            }
            Role::Value => Branch::Dense(t(&[n_in, n_out], 2)),
            _ => Branch::Scaled { a: t(&[n_in, 6], 3), b: t(&[6, n_out], 4), d: t(&[6], 5), g: t(&[n_out], 6) },
        };
        Some((site.clone(), branch))
    };
    sites.iter().enumerate().filter_map(of).collect()
}

#[test]
fn branches_and_merged_weights_agree() {
    let Some(runtime) = runtime() else { return };
    for spec in [vit(NormPlace::Pre), vit(NormPlace::Post), ModelSpec::by_name("resnet8_x0.5").unwrap()] {
        let plan = spec.plan();
        let model = Model::new(&runtime, &spec, &untrained(&plan.params, 2).unwrap()).unwrap();
        let side = if spec.image_is_fixed() { spec.image() } else { 12 };
        let images = drawn(&runtime, &[3, side, side, 3], 1.0, 500);
        let adapted = model.with_branches(branches(&runtime, &plan.sites())).unwrap();
        let merged = adapted.merged().unwrap();
        assert!(adapted.has_branches() && !merged.has_branches());
        let [bare, beside, inside] =
            [&model, &adapted, &merged].map(|m| m.forward(&images).unwrap().to_vec::<f32>().unwrap());
        assert!(apart(&beside, &inside) < 1e-4, "{spec}: {} apart", apart(&beside, &inside));
        assert!(apart(&bare, &inside) > 0.01, "{spec}: branches that do nothing");
        // The merged weights are those of a network without branches.
        let weights = merged.weights().unwrap();
        let pixels = images.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
        let want = reference_forward(&plan, &weights, &Array::new(images.shape(), pixels));
        let want: Vec<f32> = want.unwrap().data.iter().map(|v| *v as f32).collect();
        assert!(apart(&inside, &want) < 1e-4, "{spec}: {} from the reference", apart(&inside, &want));
    }
}

#[test]
fn items_have_branches_of_their_own() {
    let Some(runtime) = runtime() else { return };
    let spec = vit(NormPlace::Pre);
    let plan = spec.plan();
    let model = Model::new(&runtime, &spec, &untrained(&plan.params, 3).unwrap()).unwrap();
    let images = drawn(&runtime, &[4, 16, 16, 3], 1.0, 501);
    let factors: Vec<(Site, Tensor, Tensor)> = plan
        .sites()
        .into_iter()
        .enumerate()
        .map(|(i, site)| {
            let a = drawn(&runtime, &[4, site.n_in, 2], 0.3, 2 * i as u32);
            let b = drawn(&runtime, &[4, 2, site.n_out()], 0.3, 2 * i as u32 + 1);
            (site, a, b)
        })
        .collect();
    let together =
        factors.iter().map(|(site, a, b)| (site.clone(), Branch::PerItem { a: a.clone(), b: b.clone(), scale: 0.5 }));
    let together = model.with_branches(together).unwrap();
    assert!(together.merged().is_err(), "one weight cannot hold what differs by item");
    let together = together.forward(&images).unwrap().to_vec::<f32>().unwrap();
    for item in 0..4 {
        let of = |t: &Tensor| {
            let shape = t.shape()[1..].to_vec();
            t.slice(0, item..item + 1).unwrap().reshape(&shape).unwrap().contiguous().unwrap()
        };
        let alone =
            factors.iter().map(|(site, a, b)| (site.clone(), Branch::LowRank { a: of(a), b: of(b), scale: 0.5 }));
        let image = images.slice(0, item..item + 1).unwrap();
        let alone = model.with_branches(alone).unwrap().forward(&image).unwrap().to_vec::<f32>().unwrap();
        assert!(apart(&together[5 * item..5 * item + 5], &alone) < 1e-5, "item {item}");
    }
}

#[test]
fn frozen_weights_come_in_fewer_bits() {
    let Some(runtime) = runtime() else { return };
    let spec = ModelSpec::Vit(Box::new(VitSpec::timm(16, 4, 64, 2, 4, 5)));
    let plan = spec.plan();
    let model = Model::new(&runtime, &spec, &untrained(&plan.params, 4).unwrap()).unwrap();
    let images = drawn(&runtime, &[2, 16, 16, 3], 1.0, 502);
    let of = |m: &Model| m.forward(&images).unwrap().to_vec::<f32>().unwrap();
    for (bits, most) in [(Bits::Int8, 0.02), (Bits::Int4, 0.4)] {
        let packed = model.quantized(bits, Block::Of64).unwrap();
        let adapted = packed.with_branches(branches(&runtime, &plan.sites())).unwrap();
        assert!(packed.weight_bytes() * if bits == Bits::Int8 { 3 } else { 5 } < model.weight_bytes());
        // Unpacked in the product, or before it; with an adapter or merged.
        assert!(apart(&of(&packed), &of(&packed.unpacked().unwrap())) < 1e-4);
        assert!(apart(&of(&adapted), &of(&adapted.merged().unwrap())) < 1e-4);
        let lost = apart(&of(&packed), &of(&model));
        assert!(lost > 1e-6 && lost < most, "{bits:?}: {lost} lost");
    }
}

#[test]
fn branches_that_do_not_fit_are_refused() {
    let Some(runtime) = runtime() else { return };
    let spec = vit(NormPlace::Pre);
    let plan = spec.plan();
    let model = Model::new(&runtime, &spec, &untrained(&plan.params, 5).unwrap()).unwrap();
    let site = plan.sites().remove(0);
    let branch = Branch::Dense(drawn(&runtime, &[32, 96], 1.0, 0));
    let error = model.with_branches([(site, branch)]).unwrap_err().to_string();
    assert!(error.contains("blocks.0.attn.q"), "{error}");
    let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
    let model = Model::new(&runtime, &spec, &untrained(&spec.plan().params, 5).unwrap()).unwrap();
    let site = spec.plan().sites().remove(1);
    let (a, b) = ([2, site.n_in, 1], [2, 1, site.n_out()]);
    let (a, b) = (drawn(&runtime, &a, 1.0, 0), drawn(&runtime, &b, 1.0, 1));
    let error = model.with_branches([(site, Branch::PerItem { a, b, scale: 1.0 })]).unwrap_err().to_string();
    assert!(error.contains("no linear layer"), "{error}");
}

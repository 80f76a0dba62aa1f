//! Networks of every family against logits that PyTorch computed in f64 from weights and images of a formula.

use leanvision::nn::{Model, ModelSpec, NormPlace, QkvNames, TokenPool, VitNames, VitSpec, Weights};
use leanvision::ops::Act;
use leanvision::{Runtime, Tensor};
use safetensors::tensor::SafeTensors;

use crate::formula;
use crate::support::compare::{Tolerance, compare};
use crate::support::runtime;

fn golden() -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families.safetensors");
    std::fs::read(path).expect("the golden file is part of the repository")
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
}

/// Logits that PyTorch gave for a network of the golden file.
pub fn golden_logits(name: &str) -> Vec<f64> {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    floats(file.tensor(&format!("{name}.logits")).unwrap().data())
}

fn logits(model: &Model, runtime: &Runtime, n: usize, side: usize) -> Vec<f64> {
    let images = Tensor::from_slice(runtime, &formula::images(n, side), &[n, side, side, 3]).unwrap();
    let logits = model.forward(&images).unwrap();
    assert_eq!(logits.shape(), [n, model.spec().classes()]);
    logits.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// An error of `rtol` of the largest logit passes.
fn tolerance(want: &[f64], rtol: f64) -> Tolerance {
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    Tolerance { atol: rtol * largest, rtol: 0.0, allowed: 0 }
}

#[test]
fn formula_gives_the_golden_numbers() {
    let bytes = golden();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let want = file.tensor("formula.hashes").unwrap();
    let want: Vec<u32> = want.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let ours = [0, 1, 2, 65536].into_iter().flat_map(|t| (0..8).map(move |i| formula::hash(t, i)));
    assert_eq!(ours.collect::<Vec<_>>(), want);
}

/// Logits of a family with its norms kept and folded, against the golden ones.
fn family(name: &str, arch: &str, n: usize, side: usize) {
    let Some(runtime) = runtime() else { return };
    let want = golden_logits(name);
    let spec = ModelSpec::by_name(arch).unwrap();
    let weights = formula::weights(&spec);
    let kept = Model::new(&runtime, &spec, &weights).unwrap();
    let folded = Model::folded(&runtime, &spec, &weights).unwrap();
    // Random weights give every layer's rounding (2^-24, averaging out over some thousand terms) a weight of about one,
    // and there are up to 53 layers.
    for (how, model) in [("norms kept", kept), ("norms folded", folded)] {
        let got = logits(&model, &runtime, n, side);
        match compare(&got, &want, tolerance(&want, 2e-5)) {
            Ok(error) => eprintln!("{name}, {how}: largest error {error:.1e}"),
            Err(e) => panic!("{name}, {how}: {e}"),
        }
    }
}

#[test]
fn resnet18_equals_pytorch() {
    family("resnet18", "resnet18", 2, 64);
}

#[test]
fn resnet50_equals_pytorch() {
    family("resnet50", "resnet50", 2, 64);
}

#[test]
fn resnet18_for_cifar_of_a_quarter_width_equals_pytorch() {
    family("resnet18_cifar_quarter", "resnet18_cifar_x0.25", 2, 32);
}

#[test]
fn mobilenet_v2_equals_pytorch() {
    family("mobilenet_v2", "mobilenet_v2", 2, 64);
}

#[test]
fn deit_tiny_equals_pytorch() {
    family("deit_tiny_patch16_224", "deit_tiny", 1, 224);
}

#[test]
fn vit_small32_equals_pytorch() {
    family("vit_small32", "vit_small32", 2, 32);
}

#[test]
fn norms_fold_into_layers_with_a_bias_too() {
    let Some(runtime) = runtime() else { return };
    let spec = ModelSpec::by_name("mnist_cnn").unwrap();
    let weights = formula::weights(&spec);
    let images = Tensor::from_slice(&runtime, &formula::images(3, 28)[..3 * 28 * 28], &[3, 28, 28, 1]).unwrap();
    let run = |model: Model| {
        let logits = model.forward(&images).unwrap().to_vec::<f32>().unwrap();
        (model.plan().params.len(), logits.into_iter().map(f64::from).collect::<Vec<_>>())
    };
    let (n_kept, kept) = run(Model::new(&runtime, &spec, &weights).unwrap());
    let (n_folded, folded) = run(Model::folded(&runtime, &spec, &weights).unwrap());
    // norm2 goes into fc2; norm1 stands behind a ReLU and stays.
    assert_eq!(n_kept - n_folded, 4);
    compare(&folded, &kept, tolerance(&kept, 1e-6)).unwrap();
}

/// A small transformer: 16x16 pixels, patch 4, width 24, 3 heads.
fn small_vit(depth: usize) -> VitSpec {
    VitSpec { mlp: 40, norm: NormPlace::Post, act: Act::Relu, ..VitSpec::timm(16, 4, 24, depth, 3, 5) }
}

#[test]
fn separate_q_k_v_computes_what_packed_does() {
    let Some(runtime) = runtime() else { return };
    let packed = ModelSpec::Vit(Box::new(small_vit(2)));
    let weights = formula::weights(&packed);
    let names = VitNames { qkv: QkvNames::Separate("attn.q", "attn.k", "attn.v"), ..VitNames::timm() };
    let separate = ModelSpec::Vit(Box::new(VitSpec { names, ..small_vit(2) }));
    // The three parts lie one after the other in the packed tensors, weights before biases.
    let mut split = Vec::new();
    for (param, values) in packed.plan().params.iter().zip(weights.iter()) {
        if param.name.ends_with("qkv.bias") {
            let w: Vec<f32> = split.pop().unwrap();
            for (w, b) in w.chunks(w.len() / 3).zip(values.chunks(values.len() / 3)) {
                split.extend([w.to_vec(), b.to_vec()]);
            }
        } else {
            split.push(values.clone());
        }
    }
    let split = Weights::new(&separate.plan().params, split).unwrap();
    let want = logits(&Model::new(&runtime, &packed, &weights).unwrap(), &runtime, 3, 16);
    let got = logits(&Model::new(&runtime, &separate, &split).unwrap(), &runtime, 3, 16);
    compare(&got, &want, tolerance(&want, 1e-6)).unwrap();
}

#[test]
fn mean_pooling_takes_the_patches_and_leaves_the_class_token() {
    let Some(runtime) = runtime() else { return };
    let (n, side, patch, width, classes) = (2, 16, 4, 24, 5);
    for class_token in [None, Some("cls_token")] {
        let names = VitNames { class_token, norm: Some("fc_norm"), ..VitNames::timm() };
        let spec = ModelSpec::Vit(Box::new(VitSpec { pool: TokenPool::Mean, names, ..small_vit(0) }));
        let weights = formula::weights(&spec);
        let params = spec.plan().params;
        let of = |name: &str| {
            let at = params.iter().position(|p| p.name == name).unwrap();
            weights.iter().nth(at).unwrap().iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
        };
        let (conv, conv_bias, position) = (of("patch_embed.proj.weight"), of("patch_embed.proj.bias"), of("pos_embed"));
        let (gain, bias, head, head_bias) =
            (of("fc_norm.weight"), of("fc_norm.bias"), of("head.weight"), of("head.bias"));
        let images: Vec<f64> = formula::images(n, side).into_iter().map(f64::from).collect();
        let (grid, first) = (side / patch, usize::from(class_token.is_some()));
        let mut want = Vec::new();
        for image in images.chunks(side * side * 3) {
            let mut mean = vec![0.0; width];
            for (token, o) in (0..grid * grid).flat_map(|t| (0..width).map(move |o| (t, o))) {
                let mut sum = conv_bias[o] + position[(token + first) * width + o];
                for (c, dy, dx) in (0..3 * patch * patch).map(|i| (i / 16, i / 4 % 4, i % 4)) {
                    let (y, x) = (token / grid * patch + dy, token % grid * patch + dx);
                    sum += conv[(o * 3 + c) * 16 + dy * 4 + dx] * image[(y * side + x) * 3 + c];
                }
                mean[o] += sum / (grid * grid) as f64;
            }
            let centre = mean.iter().sum::<f64>() / width as f64;
            let var = mean.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / width as f64;
            let normed: Vec<f64> =
                (0..width).map(|i| (mean[i] - centre) / (var + 1e-6).sqrt() * gain[i] + bias[i]).collect();
            want.extend(
                (0..classes)
                    .map(|k| head_bias[k] + normed.iter().zip(&head[k * width..]).map(|(x, w)| x * w).sum::<f64>()),
            );
        }
        let got = logits(&Model::new(&runtime, &spec, &weights).unwrap(), &runtime, n, side);
        compare(&got, &want, tolerance(&want, 1e-5)).unwrap();
    }
}

#[test]
fn weights_come_back_as_they_were_loaded() {
    let Some(runtime) = runtime() else { return };
    for arch in ["resnet8_x0.5", "mnist_cnn", "vit_small32"] {
        let spec = ModelSpec::by_name(arch).unwrap();
        let weights = formula::weights(&spec);
        let model = Model::new(&runtime, &spec, &weights).unwrap();
        assert!(model.weights().unwrap() == weights, "{arch}");
    }
}

#[test]
fn a_model_runs_over_other_tensors() {
    let Some(runtime) = runtime() else { return };
    let spec = ModelSpec::by_name("resnet8_x0.5").unwrap();
    let model = Model::new(&runtime, &spec, &formula::weights(&spec)).unwrap();
    // As views of one arena, each from a place where a binding may start.
    let alignment = runtime.profile().limits.offset_alignment as usize / 4;
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    for (_, tensor) in model.named_params() {
        arena.resize(arena.len().next_multiple_of(alignment), 0.0);
        places.push(arena.len());
        arena.extend(tensor.to_vec::<f32>().unwrap());
    }
    let arena = Tensor::from_slice(&runtime, &arena, &[arena.len()]).unwrap();
    let views = model
        .named_params()
        .zip(&places)
        .map(|((param, _), &at)| arena.slice(0, at..at + param.len()).unwrap().reshape(&param.device_shape()).unwrap());
    let views: Vec<Tensor> = views.collect();
    let over = model.with_params(views.clone()).unwrap();
    assert_eq!(logits(&over, &runtime, 2, 32), logits(&model, &runtime, 2, 32));
    assert!(model.with_params(views[1..].to_vec()).is_err());
}

#[test]
fn what_does_not_fit_a_model_is_an_error() {
    let Some(runtime) = runtime() else { return };
    let refuse = |arch: &str, shape: &[usize]| {
        let spec = ModelSpec::by_name(arch).unwrap();
        let model = Model::new(&runtime, &spec, &formula::weights(&spec)).unwrap();
        let images = Tensor::zeros(&runtime, shape, leanvision::DType::F32).unwrap();
        model.forward(&images).unwrap_err().to_string()
    };
    assert!(refuse("resnet8", &[1, 32, 32, 1]).contains("[n, h, w, 3] wanted"));
    assert!(refuse("resnet8", &[32, 32, 3]).contains("[n, h, w, 3] wanted"));
    assert!(refuse("vit_small32", &[1, 36, 32, 3]).contains("give 73 tokens, the weights have 65"));
    assert!(refuse("mnist_cnn", &[1, 30, 30, 1]).contains("linear"));
    let spec = ModelSpec::by_name("resnet8").unwrap();
    let other = formula::weights(&ModelSpec::by_name("resnet14").unwrap());
    assert!(Model::folded(&runtime, &spec, &other).is_err());
    let heads = ModelSpec::Vit(Box::new(VitSpec { heads: 5, ..small_vit(1) }));
    assert!(Model::new(&runtime, &heads, &formula::weights(&heads)).unwrap_err().to_string().contains("5 heads"));
}

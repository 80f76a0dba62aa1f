//! The six published networks against the logits PyTorch gives for the first 200 test images of their sets.

use std::path::{Path, PathBuf};

use leanvision::data::{self, ImageSet, Normalize, Split, Wanted};
use leanvision::nn::{Checkpoint, Hints, Model, NormPlace, identify};
use leanvision::ops::{Act, elementwise};
use leanvision::{DType, Tensor};
use safetensors::tensor::SafeTensors;

use crate::support::compare::{Tolerance, compare};
use crate::support::runtime;

const N: usize = 200;

/// The folder of real data, or one printed line.
fn real_data() -> Option<PathBuf> {
    let folder = std::env::var_os("LEANVISION_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if folder.is_none() {
        eprintln!("skipped: LEANVISION_DATA names no folder");
    }
    folder
}

fn test_images(folder: &Path, set: &str) -> ImageSet {
    data::load(&folder.join(set), &Wanted { n: Some(N), ..Wanted::new(Split::Test) }).unwrap()
}

fn network(name: &str, set: &str, hints: &Hints) {
    let (Some(folder), Some(runtime)) = (real_data(), runtime()) else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/logits.safetensors");
    let golden = std::fs::read(path).expect("the golden file is part of the repository");
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let floats = golden.tensor(&format!("{name}.logits")).unwrap();
    let want: Vec<f64> = floats.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();

    let checkpoint = Checkpoint::read(folder.join(format!("models/{name}.safetensors"))).unwrap();
    let (spec, normalize) = identify(checkpoint.header(), hints).unwrap().settled().unwrap();
    let weights = checkpoint.load(&spec.plan().params, name).unwrap();
    let model = Model::folded(&runtime, &spec, &weights).unwrap();

    let set = test_images(&folder, set);
    let labels: Vec<u8> = set.labels.iter().map(|l| *l as u8).collect();
    assert_eq!(golden.tensor(&format!("{name}.labels")).unwrap().data(), labels);
    let (mean, std) = normalize.parse::<Normalize>().unwrap().mean_std(set.channels).unwrap();
    let channels = |values: Vec<f32>| Tensor::from_slice(&runtime, &values, &[set.channels]).unwrap();
    let scale = channels(std.iter().map(|s| 1.0 / (255.0 * s)).collect());
    let shift = channels(mean.iter().zip(&std).map(|(m, s)| -m / s).collect());
    let images = Tensor::from_slice(&runtime, &set.images, &[N, set.height, set.width, set.channels]).unwrap();
    let mut got = Vec::new();
    for start in (0..N).step_by(50) {
        let images = images.slice(0, start..start + 50).unwrap();
        let images = elementwise::from_bytes(&images, &scale, &shift, DType::F32).unwrap();
        got.extend(model.forward(&images).unwrap().to_vec::<f32>().unwrap().into_iter().map(f64::from));
    }
    // Both sides are f32 and round in another order.
    let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
    let tolerance = Tolerance { atol: 1e-5 * largest, rtol: 0.0, allowed: 0 };
    match compare(&got, &want, tolerance) {
        Ok(error) => eprintln!("{name}: largest error {error:.1e}, largest logit {largest:.1}"),
        Err(e) => panic!("{name}: {e}"),
    }
    // The same number of right answers, but for images whose two largest logits are closer than that.
    let right = |logits: &[f64]| {
        let best = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        logits.chunks(10).zip(&labels).filter(|(row, label)| best(row) == usize::from(**label)).count()
    };
    let close = |row: &&[f64]| {
        let mut row = row.to_vec();
        row.sort_by(f64::total_cmp);
        row[9] - row[8] <= 2.0 * tolerance.atol
    };
    let n_close = want.chunks(10).filter(close).count();
    assert!(right(&got).abs_diff(right(&want)) <= n_close, "{} right, {} wanted", right(&got), right(&want));
}

#[test]
fn resnet20_equals_pytorch() {
    network("resnet20_cifar10", "cifar-10-batches-bin", &Hints::default());
}

#[test]
fn resnet32_equals_pytorch() {
    network("resnet32_cifar10", "cifar-10-batches-bin", &Hints::default());
}

#[test]
fn resnet56_equals_pytorch() {
    network("resnet56_cifar10", "cifar-10-batches-bin", &Hints::default());
}

#[test]
fn post_norm_vit_equals_pytorch() {
    let hints = Hints {
        heads: Some(8),
        norm: Some(NormPlace::Post),
        act: Some(Act::Relu),
        normalize: Some("cifar".into()),
        ..Hints::default()
    };
    network("vit_small_cifar10", "cifar-10-batches-bin", &hints);
}

#[test]
fn pre_norm_vit_equals_pytorch() {
    let hints = Hints {
        heads: Some(4),
        norm: Some(NormPlace::Pre),
        act: Some(Act::Gelu),
        normalize: Some("unit".into()),
        ..Hints::default()
    };
    network("vit_tiny_cifar10", "cifar-10-batches-bin", &hints);
}

#[test]
fn mnist_cnn_equals_pytorch() {
    network("mnist_cnn", "mnist", &Hints::default());
}

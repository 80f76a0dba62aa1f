//! What `ssl` reads and writes: backbones, teachers' features, features of pictures, sheets of views.

use std::path::{Path, PathBuf};

use leanvision::methods::NetworkFlags;
use leanvision::methods::classify::{
    EvalConfig, Evaluation, InfoConfig, PredictConfig, Prediction, TrainConfig, TrainRun, info,
};
use leanvision::methods::ssl::{Backbone, load_backbone, save_backbone};
use leanvision::nn::{Hints, MnistCnnSpec, Model, ModelSpec, NormPlace, VitSpec, Weights};
use leanvision::ops::Act;
use leanvision::report::CommonFlags;
use leanvision::{Runtime, Tensor, data};

use crate::formula;
use crate::support::runtime;

/// A small network of every family and the side of its images.
fn families() -> Vec<(ModelSpec, usize)> {
    let named = |name: &str| ModelSpec::by_name(name).unwrap();
    let vit =
        VitSpec { mlp: 40, norm: NormPlace::Post, act: Act::Relu, eps: 3e-5, ..VitSpec::timm(16, 4, 24, 2, 3, 5) };
    vec![
        (named("resnet8_x0.5"), 16),
        (named("resnet18_cifar_x0.125"), 16),
        (named("resnet10_x0.125"), 48),
        (named("mobilenet_v2_cifar_x0.25"), 16),
        (named("mobilenet_v2_x0.5"), 32),
        (ModelSpec::Vit(Box::new(vit)), 16),
        (ModelSpec::MnistCnn(MnistCnnSpec { image: 12, ..MnistCnnSpec::default() }), 12),
    ]
}

fn hints() -> Hints {
    Hints { normalize: Some("0.25,0.5,0.75/0.125,0.25,0.5".into()), ..Hints::default() }
}

fn grey_or(spec: &ModelSpec, hints: Hints) -> Hints {
    if spec.channels() == 1 { Hints { normalize: Some("0.5/0.25".into()), ..hints } } else { hints }
}

/// Writes the backbone of a network of random weights and reads it back.
fn written(folder: &Path, spec: &ModelSpec, weights: &Weights) -> (PathBuf, Backbone) {
    let path = folder.join("backbone.safetensors");
    save_backbone(&path, spec, weights, &grey_or(spec, hints())).unwrap();
    let backbone = load_backbone(&path, &NetworkFlags::default()).unwrap();
    (path, backbone)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_backbone_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (spec, side) in families() {
        let (weights, plan) = (formula::weights(&spec), spec.plan());
        let headless = plan.headless();
        // With the head or without, the same file comes of it.
        let (path, backbone) = written(folder.path(), &spec, &weights.first(&headless.params).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let (_, again) = written(folder.path(), &spec, &weights);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{spec}");
        for backbone in [&backbone, &again] {
            assert_eq!(backbone.plan(), &headless, "{spec}");
            let (got, want) = (backbone.weights().iter(), weights.first(&headless.params).unwrap());
            assert!(got.zip(want.iter()).all(|(a, b)| bits(a) == bits(b)), "{spec}");
            assert_eq!(backbone.n_features(), plan.n_features(), "{spec}");
            assert_eq!(backbone.normalize().to_string(), grey_or(&spec, hints()).normalize.unwrap());
            assert_eq!(backbone.spec().classes(), 0);
            assert!(backbone.spec().to_string().ends_with(", no head"), "{}", backbone.spec());
            backbone.plan().summary([side; 2]).unwrap();
        }
        // The network with its head gives the same backbone.
        plan_file(&path, &spec, &weights);
        let whole = load_backbone(&path, &NetworkFlags::default()).unwrap();
        assert_eq!((whole.plan(), whole.weights()), (backbone.plan(), backbone.weights()), "{spec}");
    }
}

/// Writes the whole network over its backbone; the JSON file stays.
fn plan_file(path: &Path, spec: &ModelSpec, weights: &Weights) {
    weights.save(path, &spec.plan().params, &std::collections::BTreeMap::new()).unwrap();
}

fn input(runtime: &Runtime, spec: &ModelSpec, n: usize, side: usize) -> Tensor {
    let channels = spec.channels();
    let values = formula::images(n, side).into_iter().take(n * side * side * channels).collect::<Vec<_>>();
    Tensor::from_slice(runtime, &values, &[n, side, side, channels]).unwrap()
}

#[test]
fn features_do_not_change_when_the_head_goes() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (spec, side) in families() {
        let weights = formula::weights(&spec);
        let (_, backbone) = written(folder.path(), &spec, &weights);
        let x = input(&runtime, &spec, 3, side);
        let headless = Model::from_plan(&runtime, &spec, backbone.plan().clone(), backbone.weights()).unwrap();
        for (how, whole, without) in [
            ("norms kept", Model::new(&runtime, &spec, &weights).unwrap(), headless),
            (
                "norms folded",
                Model::folded(&runtime, &spec, &weights).unwrap(),
                backbone.on(&runtime).unwrap().model().clone(),
            ),
        ] {
            let want = whole.features(&x).unwrap().to_vec::<f32>().unwrap();
            let got = without.forward(&x).unwrap();
            assert_eq!(got.shape(), [3, spec.plan().n_features()], "{spec}, {how}");
            assert_eq!(bits(&got.to_vec::<f32>().unwrap()), bits(&want), "{spec}, {how}");
            assert!(want.iter().all(|v| v.is_finite()) && want.iter().any(|v| *v != want[0]), "{spec}, {how}");
        }
    }
}

#[test]
fn a_file_without_a_head_is_refused_where_classes_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ModelSpec::by_name("mobilenet_v2_cifar_x0.25").unwrap();
    let (weights, _) = written(folder.path(), &spec, &formula::weights(&spec));
    let (network, side) = (NetworkFlags::default(), None);
    let eval = EvalConfig {
        weights: weights.clone(),
        network: network.clone(),
        data: "shapes".into(),
        images: Some(10),
        batch: None,
        side,
    };
    let predict =
        PredictConfig { weights: weights.clone(), network: network.clone(), side, images: vec!["none.png".into()] };
    let about = InfoConfig { weights: Some(weights.clone()), network, classes: None, side };
    let errors = [
        Evaluation::prepare(&eval, 0).unwrap_err(),
        Prediction::prepare(&predict).unwrap_err(),
        info(&about).unwrap_err(),
    ];
    for error in errors {
        let message = error.to_string();
        let said = "a MobileNetV2's backbone without the last layer: it gives 1280 features, no classes";
        assert!(
            message.starts_with(&format!("{}: {said}", weights.display())) && message.lines().count() == 1,
            "{message}"
        );
        assert!(error.is_bad_input());
    }
}

#[test]
fn a_damaged_backbone_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ModelSpec::by_name("resnet8_x0.5").unwrap();
    let (path, _) = written(folder.path(), &spec, &formula::weights(&spec));
    let load = || load_backbone(&path, &NetworkFlags::default()).unwrap_err().to_string();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    assert!(load().contains("truncated"), "{}", load());
    // A tensor that went missing with the head is no backbone.
    let headless = spec.plan().headless();
    let weights = formula::weights(&spec).first(&headless.params).unwrap();
    let fewer = Weights::new(&fewer(&headless.params), weights.iter().skip(1).cloned().collect()).unwrap();
    fewer.save(&path, &self::fewer(&headless.params), &std::collections::BTreeMap::new()).unwrap();
    assert!(load().contains("missing conv1.weight"), "{}", load());
    let error = save_backbone(&path, &spec, &fewer, &hints()).unwrap_err();
    assert!(error.to_string().starts_with("weights: "), "{error}");
}

/// All but the first tensor.
fn fewer(params: &leanvision::nn::ParamList) -> leanvision::nn::ParamList {
    let mut list = leanvision::nn::ParamList::default();
    for param in params.iter().skip(1) {
        list.add(param.name.clone(), param.shape.clone(), param.kind);
    }
    list
}

#[test]
fn supervised_training_refuses_images_without_classes() {
    let folder = tempfile::tempdir().unwrap();
    let picture = image::RgbImage::from_pixel(32, 32, image::Rgb([9; 3]));
    picture.save(folder.path().join("1.png")).unwrap();
    let set = data::load_unlabelled(folder.path(), &data::Wanted::new(data::Split::Train)).unwrap();
    let run = TrainRun::on(&TrainConfig::default(), &CommonFlags::default(), set.clone(), set);
    let message = run.unwrap_err().to_string();
    assert!(message.ends_with("images without classes), and supervised training needs classes"), "{message}");
}

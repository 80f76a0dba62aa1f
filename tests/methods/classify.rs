//! `classify eval` and `predict` as a library: figures, batches, names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use leanvision::methods::classify::{EvalConfig, Evaluation, NetworkFlags, PredictConfig, Prediction};
use leanvision::nn::ModelSpec;

use crate::formula;
use crate::support::runtime;

/// A network of random weights for 32x32 images, written to a file.
fn random_network(folder: &Path) -> PathBuf {
    let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
    let path = folder.join("w.safetensors");
    formula::weights(&spec).save(&path, &spec.plan().params, &BTreeMap::new()).unwrap();
    path
}

fn eval(weights: PathBuf, batch: Option<u32>) -> EvalConfig {
    let network = NetworkFlags::default();
    EvalConfig { weights, network, data: "shapes".into(), images: Some(100), batch, side: None }
}

#[test]
fn evaluation_does_not_hang_on_the_batch() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = random_network(folder.path());
    let report = |batch| Evaluation::prepare(&eval(weights.clone(), batch), 5).unwrap().run(&runtime, true).unwrap();
    let [one, odd, all] = [Some(1), Some(33), None].map(report);
    assert_eq!((one.batch, odd.batch, all.batch), (1, 33, 100));
    for other in [&odd, &all] {
        assert_eq!((one.n, one.top1, one.top5), (other.n, other.top1, other.top5));
    }
    assert_eq!(one.n, 100);
    assert!(one.top1 <= one.top5 && one.top5 < 100.0 && one.top5 > 20.0, "{one:?}");
    assert!(one.images_per_s > 0.0 && one.peak_device_bytes >= 100 * 32 * 32 * 3, "{one:?}");
    assert_eq!(one.backend, runtime.profile().backend);
}

#[test]
fn images_that_do_not_suit_the_network_are_refused_before_a_device_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let weights = random_network(folder.path());
    let refuse = |config: &EvalConfig| Evaluation::prepare(config, 0).unwrap_err().to_string();
    let none = folder.path().join("none").display().to_string();
    assert!(refuse(&EvalConfig { data: none, ..eval(weights.clone(), None) }).contains("no such file or folder"));
    let mut mnist = ModelSpec::by_name("mnist_cnn").unwrap();
    mnist.set_classes(7);
    let path = folder.path().join("mnist.safetensors");
    formula::weights(&mnist).save(&path, &mnist.plan().params, &BTreeMap::new()).unwrap();
    assert!(refuse(&eval(path, None)).contains("images of 3 channels, MNIST CNN [8, 16, 24], 7 classes takes 1"));
    let mut seven = ModelSpec::by_name("resnet8").unwrap();
    seven.set_classes(7);
    formula::weights(&seven).save(&weights, &seven.plan().params, &BTreeMap::new()).unwrap();
    assert!(refuse(&eval(weights, None)).contains("images of 10 classes, CIFAR ResNet-8, 7 classes takes 7"));
}

#[test]
fn pictures_get_their_likeliest_classes_with_names() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let weights = random_network(folder.path());
    let names: Vec<String> = (0..10).map(|i| format!("name {i}")).collect();
    let json = serde_json::json!({ "classes": names });
    std::fs::write(folder.path().join("w.json"), json.to_string()).unwrap();
    let pictures: Vec<PathBuf> = [(40, 32), (16, 90)]
        .into_iter()
        .map(|(width, height)| {
            let path = folder.path().join(format!("{width}.png"));
            image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 5, y as u8 * 2, 99]))
                .save(&path)
                .unwrap();
            path
        })
        .collect();
    let config = PredictConfig { weights, network: NetworkFlags::default(), side: None, images: pictures.clone() };
    let report = Prediction::prepare(&config).unwrap().run(&runtime).unwrap();
    assert_eq!(report.pictures.len(), 2);
    for (picture, path) in report.pictures.iter().zip(&pictures) {
        assert_eq!(picture.file, path.display().to_string());
        assert_eq!(picture.best.len(), 5);
        assert!(picture.best.windows(2).all(|pair| pair[0].percent >= pair[1].percent));
        assert!(picture.best.iter().all(|guess| guess.name == Some(format!("name {}", guess.class))));
    }
    let text = report.to_string();
    assert!(text.lines().nth(1).is_some_and(|line| line.contains("40.png: name ")), "{text}");
}

//! Features of self-supervised networks and what judges them.

use crate::support::runtime;
use leanvision::data::{ImageSet, Split, shapes};
use leanvision::methods::ssl::{Features, FewLabels, Knn, PROTOCOLS, Probe, ProbeProtocol, Spread, extract, ridge};
use leanvision::nn::{Model, ModelSpec, ParamKind, ParamSpec, Training, Weights, initial, untrained};
use leanvision::ops::{Act, elementwise::cast, matmul::matmul, norm::batch_norm_train};
use leanvision::philox::Philox;
use leanvision::{DType, Runtime, Tensor};

/// `n` features of length `d` around one centre per class, of any length; the same centres for every `draw`.
fn clustered(runtime: &Runtime, n: usize, d: usize, n_classes: usize, spread: f32, draw: u32) -> (Features, Vec<f32>) {
    let uniform = |step: u32, n: usize| -> Vec<f32> {
        let mut draws = Philox::new(3, 900, step);
        (0..n).map(|_| 2.0 * draws.uniform_f32() - 1.0).collect()
    };
    let centres = uniform(0, n_classes * d);
    let noise = uniform(1 + 2 * draw, n * d);
    let lengths = uniform(2 + 2 * draw, n);
    let labels: Vec<u32> = (0..n as u32).map(|i| i * 7 % n_classes as u32).collect();
    let value = |i: usize| {
        let (image, at) = (i / d, i % d);
        (1.5 + lengths[image]) * (centres[labels[image] as usize * d + at] + spread * noise[i])
    };
    let values: Vec<f32> = (0..n * d).map(value).collect();
    let tensor = Tensor::from_slice(runtime, &values, &[n, d]).unwrap();
    (Features::new(tensor, labels, n_classes).unwrap(), values)
}

/// The classes that plain loops in f64 find, by protocol.
fn by_loops(bank: &[f32], labels: &[u32], queries: &[f32], d: usize, n_classes: usize) -> [Vec<u32>; 4] {
    let unit = |rows: &[f32]| -> Vec<Vec<f64>> {
        let row = |row: &[f32]| {
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|v| f64::from(*v) / length).collect()
        };
        rows.chunks_exact(d).map(row).collect()
    };
    let (bank, queries) = (unit(bank), unit(queries));
    let mut classes: [Vec<u32>; 4] = Default::default();
    for query in &queries {
        let cosine = |row: &Vec<f64>| row.iter().zip(query).map(|(a, b)| a * b).sum::<f64>();
        let mut near: Vec<(f64, u32)> = bank.iter().map(cosine).zip(labels.iter().copied()).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (protocol, classes) in PROTOCOLS.iter().zip(&mut classes) {
            let near = &near[..protocol.k.min(near.len())];
            let votes = |class: u32| -> f64 {
                let of_class = near.iter().filter(|(_, label)| *label == class);
                of_class.map(|(cosine, _)| protocol.temperature.map_or(1.0, |t| (cosine / t).exp())).sum()
            };
            let most = (0..n_classes as u32).map(votes).fold(f64::NEG_INFINITY, f64::max);
            let winner = near.iter().map(|(_, label)| *label).find(|label| votes(*label) == most);
            classes.push(winner.unwrap());
        }
    }
    classes
}

#[test]
fn neighbours_vote_as_plain_loops_do() {
    let Some(runtime) = runtime() else { return };
    for (n, n_queries, d, spread) in [(2000, 500, 64, 2.5), (150, 40, 7, 1.5), (3, 5, 2, 1.0), (1, 1, 1, 1.0)] {
        let (bank, bank_values) = clustered(&runtime, n, d, 10, spread, 0);
        let (queries, query_values) = clustered(&runtime, n_queries, d, 10, spread, 1);
        let got = Knn::predict(&bank, &queries).unwrap();
        let want = by_loops(&bank_values, bank.labels(), &query_values, d, 10);
        assert_eq!(got, want, "{n} x {n_queries}");
        let knn = Knn::of(&bank, &queries).unwrap();
        let figures = [knn.uniform1, knn.uniform20, knn.weighted20, knn.weighted200];
        for (figure, classes) in figures.iter().zip(&want) {
            let right = classes.iter().zip(queries.labels()).filter(|(a, b)| a == b).count();
            assert_eq!(*figure, 100.0 * right as f64 / n_queries as f64);
        }
        if n == 2000 {
            // Hard enough that the protocols differ, and none is at chance.
            assert!(figures.iter().all(|figure| (20.0..98.0).contains(figure)), "{figures:?}");
            assert!((1..4).all(|i| got[i] != got[i - 1]));
        }
    }
}

#[test]
fn the_order_of_the_bank_does_not_matter() {
    let Some(runtime) = runtime() else { return };
    let (bank, _) = clustered(&runtime, 600, 32, 10, 2.0, 0);
    let (queries, _) = clustered(&runtime, 200, 32, 10, 2.0, 1);
    let shuffled: Vec<u32> = (0..600).map(|i| i * 257 % 600).collect();
    let other = bank.subset(&shuffled).unwrap();
    assert_ne!(bank.labels(), other.labels());
    assert_eq!(Knn::of(&bank, &queries).unwrap(), Knn::of(&other, &queries).unwrap());
}

#[test]
fn features_come_from_running_statistics() {
    let Some(runtime) = runtime() else { return };
    let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
    let weights = untrained(&spec.plan().params, 4).unwrap();
    let model = Model::new(&runtime, &spec, &weights).unwrap();
    let set = shapes(65, 2, Split::Test);
    let constant = |v: f32| Tensor::from_slice(&runtime, &[v; 3], &[3]).unwrap();
    let normalize = (constant(1.0 / 64.0), constant(-2.0));
    let features = |model: &Model, batch| {
        let features = extract(model, &runtime, &set, (&normalize.0, &normalize.1), batch, true).unwrap();
        assert_eq!((features.len(), features.dim()), (65, spec.plan().n_features()));
        assert_eq!((features.labels(), features.n_classes()), (set.labels.as_slice(), set.n_classes));
        features.values().to_vec::<f32>().unwrap()
    };
    let want = features(&model, 64);
    let largest = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    assert!(largest > 0.1, "{largest}");
    let training = model.training(Training::new(0.5, false));
    for (model, batch) in [(&model, 1), (&model, 7), (&model, 1000), (&training, 7), (&training, 64)] {
        let got = features(model, batch);
        assert_eq!(got.len(), want.len());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Other shapes may take other variants, which round otherwise.
        assert!(worst < 1e-5 * largest, "batches of {batch}: off by {worst}, the largest is {largest}");
    }
    assert_eq!(model.weights().unwrap(), Model::new(&runtime, &spec, &weights).unwrap().weights().unwrap());
}

#[test]
fn what_does_not_fit_is_said() {
    let Some(runtime) = runtime() else { return };
    let (bank, _) = clustered(&runtime, 20, 8, 10, 1.0, 0);
    let (queries, _) = clustered(&runtime, 20, 9, 10, 1.0, 0);
    assert!(Knn::of(&bank, &queries).unwrap_err().to_string().contains("8 numbers"));
    let (queries, _) = clustered(&runtime, 20, 8, 9, 1.0, 0);
    assert!(Knn::of(&bank, &queries).unwrap_err().to_string().contains("9 classes"));
    let (plain, _) = clustered(&runtime, 1, 8, 1, 1.0, 0);
    let plain = Features::new(plain.values().clone(), vec![0], 0).unwrap();
    assert!(Knn::of(&plain, &plain).unwrap_err().to_string().contains("with classes"));
    let values = Tensor::from_slice(&runtime, &[0.5_f32; 6], &[2, 3]).unwrap();
    assert!(Features::new(values.clone(), vec![0, 3], 3).unwrap_err().to_string().contains("label 3"));
    assert!(Features::new(values.clone(), vec![0], 3).is_err());
    assert!(Features::new(values.transpose().unwrap(), vec![0, 1], 3).is_err());
    let two = Features::new(values, vec![0, 1], 2).unwrap();
    assert!(two.subset(&[]).is_err() && two.subset(&[2]).is_err());
    assert_eq!(two.subset(&[1, 1, 0]).unwrap().labels(), [1, 1, 0]);
    // A row of zeros has no direction.
    let zeros = Tensor::from_slice(&runtime, &[0.0_f32, 0.0, 3.0, -4.0], &[2, 2]).unwrap();
    let unit = Features::new(zeros, vec![0, 1], 2).unwrap().unit().unwrap().to_vec::<f32>().unwrap();
    assert!(unit.iter().zip([0.0, 0.0, 0.6, -0.8]).all(|(a, b)| (a - b).abs() < 1e-6), "{unit:?}");
    let set = shapes(4, 2, Split::Test).take(0);
    let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
    let model = Model::new(&runtime, &spec, &untrained(&spec.plan().params, 4).unwrap()).unwrap();
    let one = Tensor::from_slice(&runtime, &[1.0_f32; 3], &[3]).unwrap();
    assert!(extract(&model, &runtime, &set, (&one, &one), 4, true).unwrap_err().to_string().contains("no image"));
    // Behind everything that takes a maximum, which may turn NaN into a number.
    let params = spec.plan().params;
    let mut values: Vec<Vec<f32>> = untrained(&params, 4).unwrap().iter().cloned().collect();
    let last = params.iter().rposition(|param| param.kind == ParamKind::NormBias).unwrap();
    values[last][3] = f32::INFINITY;
    let model = Model::new(&runtime, &spec, &Weights::new(&params, values).unwrap()).unwrap();
    let set = shapes(4, 2, Split::Test);
    assert!(extract(&model, &runtime, &set, (&one, &one), 4, true).unwrap_err().to_string().contains("no numbers"));
}

#[test]
fn probes_find_what_is_linear() {
    let Some(runtime) = runtime() else { return };
    let (train, _) = clustered(&runtime, 1000, 32, 10, 2.0, 0);
    let (test, _) = clustered(&runtime, 400, 32, 10, 2.0, 1);
    let closed = ridge(&train, &test).unwrap();
    assert!((60.0..99.0).contains(&closed), "{closed}");
    for protocol in [ProbeProtocol::Standardized, ProbeProtocol::Raw] {
        let probe = Probe::of(protocol, &train, &test, 0, true).unwrap();
        // 400 images: a standard error of 2 points.
        assert!((probe.last - closed).abs() < 6.0, "{protocol}: {probe:?}, closed form {closed}");
        assert!(probe.best_on_test >= probe.last && (1..=90).contains(&probe.best_epoch));
        assert_eq!(Probe::of(protocol, &train, &test, 0, true).unwrap(), probe);
    }
    let (near, _) = clustered(&runtime, 1000, 32, 10, 1.0, 0);
    let (near_test, _) = clustered(&runtime, 400, 32, 10, 1.0, 1);
    let few = [0.01, 0.1].map(|share| FewLabels::of(&near, &near_test, share, 0, true).unwrap());
    assert_eq!(few.map(|few| few.n), [10, 100]);
    let (one, ten) = (few[0].probe.last, few[1].probe.last);
    assert!(one > 30.0 && ten > one + 10.0 && ten < ridge(&near, &near_test).unwrap(), "{few:?}");
    // Labels that say nothing.
    let labels = (0..1000_u32).map(|i| i * i % 1009 % 10).collect();
    let noise = Features::new(train.values().clone(), labels, 10).unwrap();
    for top1 in [ridge(&noise, &test).unwrap(), Probe::of(ProbeProtocol::Raw, &noise, &test, 0, true).unwrap().last] {
        assert!(top1 < 25.0, "{top1}");
    }
    let (other, _) = clustered(&runtime, 20, 31, 10, 1.0, 0);
    assert!(ridge(&train, &other).is_err() && Probe::of(ProbeProtocol::Raw, &train, &other, 0, true).is_err());
}

/// Features of `set` in `model`, with pixels in -1..1.
fn features_of(model: &Model, runtime: &Runtime, set: &ImageSet) -> Features {
    let constant = |v: f32| Tensor::from_slice(runtime, &[v; 3], &[3]).unwrap();
    extract(model, runtime, set, (&constant(1.0 / 127.5), &constant(-1.0)), 50, true).unwrap()
}

#[test]
fn only_networks_that_collapsed_raise_the_alarm() {
    let Some(runtime) = runtime() else { return };
    let set = shapes(100, 1, Split::Train);
    for arch in ["resnet20", "resnet56", "resnet18_cifar_x0.25"] {
        let spec = ModelSpec::by_name(arch).unwrap();
        let params = spec.plan().params;
        let weights = initial(&spec, 0).unwrap();
        let model = Model::new(&runtime, &spec, &weights).unwrap();
        let features = features_of(&model, &runtime, &set);
        let spread = Spread::of(features.values()).unwrap();
        eprintln!("{arch}, untrained: {spread:?}");
        assert!(!spread.features_collapsed(), "{arch}: {spread:?}");
        // What a bank holds: behind a head, whose norm takes the batch's statistics.
        let d = features.dim();
        let matrix = |n: usize, step: u32| {
            let draws = &mut Philox::new(1, 900, step);
            let values: Vec<f32> = (0..d * n).map(|_| (2.0 * draws.uniform_f32() - 1.0) / (d as f32).sqrt()).collect();
            Tensor::from_slice(&runtime, &values, &[d, n]).unwrap()
        };
        let constant = |v: f32| Tensor::from_slice(&runtime, &vec![v; d], &[d]).unwrap();
        let hidden = matmul(features.values(), &matrix(d, 0)).unwrap();
        let hidden = batch_norm_train(&hidden, &constant(1.0), &constant(0.0), 1e-5, Act::Relu).unwrap().0;
        let targets = matmul(&hidden, &matrix(32, 1)).unwrap();
        let spread = Spread::of(&targets).unwrap();
        assert!(!spread.collapsed() && spread.spread > 0.4, "{arch}: {spread:?} behind a head");

        // A network that makes the same of every image: nothing comes through its convolutions.
        let blind = |(param, values): (&ParamSpec, &Vec<f32>)| match param.kind {
            ParamKind::ConvWeight => vec![0.0; values.len()],
            ParamKind::NormBias => vec![0.3; values.len()],
            _ => values.clone(),
        };
        let blind = Weights::new(&params, params.iter().zip(weights.iter()).map(blind).collect()).unwrap();
        let blind = features_of(&Model::new(&runtime, &spec, &blind).unwrap(), &runtime, &set);
        let spread = Spread::of(blind.values()).unwrap();
        assert!(spread.collapsed() && spread.features_collapsed(), "{arch}: {spread:?} of one output");
        assert!(blind.values().to_vec::<f32>().unwrap().iter().any(|v| *v != 0.0));
    }
}

#[test]
fn spread_is_of_rows_from_all_over() {
    let Some(runtime) = runtime() else { return };
    // The rows at the end alone differ: a look at the first 2,048 would find them equal.
    let (m, d) = (6000, 4);
    let value = |i: usize| if i < 4000 * d { 1.0 } else { ((i * i % 1013) as f32).sin() };
    let rows: Vec<f32> = (0..m * d).map(value).collect();
    let tensor = Tensor::from_slice(&runtime, &rows, &[m, d]).unwrap();
    let spread = Spread::of(&tensor).unwrap();
    assert_eq!(spread, Spread::of_rows(&rows, d));
    assert!(!spread.collapsed(), "{spread:?}");
    let first = Spread::of(&tensor.slice(0, 0..2048).unwrap()).unwrap();
    assert!(first.collapsed() && first.spread < 1e-6, "{first:?}");
    let half = Spread::of(&cast(&tensor, DType::F16).unwrap()).unwrap();
    assert!((half.spread - spread.spread).abs() < 1e-3 && (half.effective_rank - spread.effective_rank).abs() < 1e-2);
    assert!(Spread::of(&tensor.reshape(&[m * d]).unwrap()).is_err());
    let words = Tensor::from_slice(&runtime, &[1_u32; 8], &[2, 4]).unwrap();
    assert!(Spread::of(&words).is_err());
}

//! Tuning on the adapter under test: the results stay those of the plain variants, and what was found is found again.

use crate::support;
use leanvision::ops::{Act, attention, conv, matmul, norm, quant, reduce, softmax, sort, topk};
use leanvision::runtime::{Tune, TuneSource, Tuned};
use leanvision::tensor::Offsets;
use leanvision::{Result, Runtime, RuntimeOptions, Tensor};
use std::path::Path;

/// A runtime that tunes, with its findings in `folder`; `None` without an adapter.
fn tuning(folder: &Path, tune: Tune) -> Option<Runtime> {
    // Said, or refused, there.
    drop(support::runtime()?);
    let mut options = RuntimeOptions::default();
    (options.tune, options.cache_folder) = (tune, Some(folder.to_path_buf()));
    if support::simulated::chosen().is_some() {
        return None;
    }
    Some(Runtime::with_options(&support::device_choice(), options).unwrap())
}

fn tensor(runtime: &Runtime, shape: &[usize], factor: f32) -> Tensor {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i: usize| (i as f32 * factor).sin()).collect();
    Tensor::from_slice(runtime, &data, shape).unwrap()
}

/// A product's result, that of the plain variant, and what was chosen.
fn product(runtime: &Runtime) -> (Vec<f32>, Vec<f32>, Vec<Tuned>) {
    let (a, b) = (tensor(runtime, &[96, 80], 0.7), tensor(runtime, &[80, 72], 1.3));
    let got = matmul::matmul(&a, &b).unwrap().to_vec::<f32>().unwrap();
    let plain = matmul::matmul_with(matmul::Variant::Plain, &a, &b).unwrap().to_vec::<f32>().unwrap();
    (got, plain, runtime.tuning())
}

fn agrees(got: &[f32], wanted: &[f32]) -> bool {
    got.len() == wanted.len() && got.iter().zip(wanted).all(|(g, w)| (g - w).abs() < 1e-4)
}

#[test]
fn what_was_tuned_is_right_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(first) = tuning(folder.path(), Tune::Full) else { return };
    let (got, plain, tuned) = product(&first);
    assert!(agrees(&got, &plain));
    let [entry] = tuned.as_slice() else { panic!("one kind of problem, one entry: {tuned:?}") };
    assert_eq!((entry.op.as_str(), entry.source), ("matmul", TuneSource::Tuned));
    assert!(entry.bucket.starts_with("batch<=1 m<=128 n<=128 k<=128"), "{}", entry.bucket);
    assert!(entry.times.len() >= 2 && entry.times.iter().all(|(_, ms)| *ms > 0.0), "{entry:?}");
    assert!(entry.times.iter().any(|(variant, _)| *variant == entry.variant));
    assert_eq!(first.counts().dispatches, 2, "what was tried is not counted");
    // The same kind again asks nobody.
    assert_eq!(product(&first).2.len(), 1);
    drop(first);

    let Some(second) = tuning(folder.path(), Tune::Full) else { return };
    let (got, plain, found) = product(&second);
    assert!(agrees(&got, &plain));
    assert_eq!(
        found,
        [Tuned { source: TuneSource::Disk, ..entry.clone() }],
        "answered from disk, with the times of then"
    );
    drop(second);

    // Other kernels are another question.
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    let is_ours = |path: &&std::path::PathBuf| path.extension().is_some_and(|e| e == "json");
    let path = files.iter().find(is_ours).expect("the findings were kept");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for entry in json["entries"].as_object_mut().unwrap().values_mut() {
        entry["digest"] = "0".into();
    }
    std::fs::write(path, json.to_string()).unwrap();
    let Some(third) = tuning(folder.path(), Tune::Full) else { return };
    assert_eq!(product(&third).2[0].source, TuneSource::Tuned);
    drop(third);
    // As is a file that says nothing.
    std::fs::write(path, "{").unwrap();
    let Some(fourth) = tuning(folder.path(), Tune::Full) else { return };
    assert_eq!(product(&fourth).2[0].source, TuneSource::Tuned);
}

#[test]
fn nothing_is_tuned_where_it_is_off() {
    let folder = tempfile::tempdir().unwrap();
    let Some(off) = tuning(folder.path(), Tune::Off) else { return };
    assert_eq!(product(&off).2, []);
    drop(off);
    let mut guarded = support::options();
    guarded.tune = Tune::Full;
    let guarded = Runtime::with_options(&support::device_choice(), guarded).unwrap();
    assert_eq!(product(&guarded).2, []);
    let kept = std::fs::read_dir(folder.path()).unwrap();
    assert!(!kept.map(|file| file.unwrap().file_name()).any(|name| name.to_string_lossy().starts_with("tuned")));
}

#[test]
fn without_time_the_defaults_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let Some(runtime) = tuning(folder.path(), Tune::Auto) else { return };
    if runtime.profile().is_software() {
        // There the defaults were measured.
        assert_eq!(product(&runtime).2, []);
        return;
    }
    drop(runtime);
    let mut options = RuntimeOptions::default();
    options.tune = Tune::Auto;
    (options.tune_budget, options.cache_folder) = (std::time::Duration::ZERO, Some(folder.path().to_path_buf()));
    let runtime = Runtime::with_options(&support::device_choice(), options).unwrap();
    let tuned = product(&runtime).2;
    assert_eq!((tuned.len(), tuned[0].source, &tuned[0].variant), (1, TuneSource::Default, &tuned[0].default));
    assert_eq!(tuned[0].times, []);
}

/// Every op that chooses, with its gradients where these choose, and the name it asks by.
fn every_op(runtime: &Runtime) -> Vec<(&'static str, Result<Vec<f32>>)> {
    let x = |shape: &[usize], factor: f32| tensor(runtime, shape, factor);
    let ids = |ids: &Tensor| ids.to_vec::<u32>().map(|ids| ids.into_iter().map(|i| i as f32).collect::<Vec<_>>());
    let image = || x(&[2, 9, 12, 8], 0.3);
    let same = conv::Conv2d { padding: [1, 1], ..conv::Conv2d::default() };
    let gradient = |x: &Tensor, y: &Tensor| -> Result<Vec<f32>> {
        let gradients = y.backward_with(&tensor(runtime, y.shape(), 0.5))?;
        gradients.of(x).expect("x wants one").to_vec()
    };
    let wanting = |shape: &[usize], factor: f32| x(shape, factor).require_grad().unwrap();
    let row = |shape: &[usize]| wanting(shape, 0.9);
    let attended = |gradients: bool| {
        let offsets = Offsets::from_lengths(runtime, &[50, 33])?;
        let of = |factor| if gradients { wanting(&[83, 2, 32], factor) } else { x(&[83, 2, 32], factor) };
        let (q, k, v) = (of(0.1), of(0.2), of(0.4));
        let out = attention::attention(&q, &k, &v, &offsets, &attention::Attention::default())?;
        if gradients { gradient(&k, &out) } else { out.to_vec() }
    };
    vec![
        ("softmax", softmax::softmax(&x(&[40, 68], 0.9)).and_then(|y| y.to_vec())),
        ("softmax_bwd", {
            let x = row(&[40, 68]);
            softmax::softmax(&x).and_then(|y| gradient(&x, &y))
        }),
        ("cross_entropy", softmax::log_sum_exp(&x(&[40, 68], 0.9)).and_then(|y| y.to_vec())),
        ("row_norm", norm::layer_norm(&x(&[40, 68], 0.9), None, None, 1e-5).and_then(|y| y.to_vec())),
        ("row_norm_bwd", {
            let x = row(&[40, 68]);
            norm::layer_norm(&x, None, None, 1e-5).and_then(|y| gradient(&x, &y))
        }),
        ("sum", reduce::sum(&x(&[40, 68], 0.9), &[1], false).and_then(|y| y.to_vec())),
        ("max", reduce::max(&x(&[40, 68], 0.9), &[0], false).and_then(|y| y.to_vec())),
        (
            "norm_channels",
            norm::batch_norm_train(&x(&[40, 16], 0.9), &x(&[16], 0.2), &x(&[16], 0.4), 1e-5, Act::Relu)
                .and_then(|y| y.0.to_vec()),
        ),
        ("topk", topk::topk(&x(&[4, 300], 0.9), 5, true).and_then(|y| ids(&y.1))),
        ("sort", sort::argsort(&x(&[3000], 0.9), false).and_then(|y| ids(&y))),
        ("scan", sort::inclusive_scan(&x(&[3000], 0.9)).and_then(|y| y.to_vec())),
        (
            "quant::linear",
            quant::quantize(&x(&[24, 64], 0.9), quant::Bits::Int8, quant::Block::Of32)
                .and_then(|w| quant::linear(&x(&[12, 64], 0.3), &w, None, Act::None))
                .and_then(|y| y.to_vec()),
        ),
        ("quant::linear_bwd", {
            let x = wanting(&[12, 64], 0.3);
            quant::quantize(&tensor(runtime, &[24, 64], 0.9), quant::Bits::Nf4, quant::Block::Of32)
                .and_then(|w| quant::linear(&x, &w, None, Act::None))
                .and_then(|y| gradient(&x, &y))
        }),
        ("matmul", matmul::matmul(&x(&[33, 64], 0.3), &x(&[64, 48], 0.8)).and_then(|y| y.to_vec())),
        ("attention", attended(false)),
        ("attention_bwd", attended(true)),
        ("conv", conv::conv2d(&image(), &x(&[3, 3, 8, 12], 0.7), None, &same, Act::Relu).and_then(|y| y.to_vec())),
        (
            "conv_bwd_x",
            conv::input_gradient(&x(&[2, 9, 12, 12], 0.3), &x(&[3, 3, 8, 12], 0.7), [2, 9, 12, 8], &same)
                .and_then(|y| y.to_vec()),
        ),
        (
            "conv_bwd_w",
            conv::weight_gradient(&image(), &x(&[2, 9, 12, 12], 0.3), [3, 3], &same).and_then(|y| y.to_vec()),
        ),
    ]
}

#[test]
fn every_op_that_chooses_is_tried_and_right() {
    let folder = tempfile::tempdir().unwrap();
    let (Some(full), Some(off)) = (tuning(folder.path(), Tune::Full), tuning(folder.path(), Tune::Off)) else { return };
    for ((op, got), (_, wanted)) in every_op(&full).into_iter().zip(every_op(&off)) {
        let (got, wanted) = (got.unwrap(), wanted.unwrap());
        let largest = wanted.iter().fold(1.0_f32, |largest, v| largest.max(v.abs()));
        assert!(got.len() == wanted.len() && !got.is_empty(), "{op}");
        let close = got.iter().zip(&wanted).all(|(g, w)| (g - w).abs() <= 1e-4 * largest);
        assert!(close, "{op}: tuned and default differ");
        let asked: Vec<_> = full.tuning().into_iter().filter(|tuned| tuned.op == op).collect();
        assert!(!asked.is_empty(), "{op} asks nobody");
        // Some gradients have one variant without subgroups of 8.
        let single = ["attention_bwd", "conv_bwd_w"].contains(&op) && full.profile().fixed_subgroup() != Some(8);
        let least = if single { 1 } else { 2 };
        for tuned in asked {
            assert_eq!(tuned.wrong, [], "{op}");
            assert!(tuned.times.len() >= least && tuned.source == TuneSource::Tuned, "{tuned:?}");
        }
    }
    assert_eq!(off.tuning(), []);
}

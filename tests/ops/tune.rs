//! Tuning on the adapter under test: the results stay those of the plain variants, and what was found is found again.

use crate::support;
use leanvision::ops::matmul;
use leanvision::runtime::{Tune, TuneSource, Tuned};
use leanvision::{Runtime, RuntimeOptions, Tensor};
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
    assert_eq!(first.counts().0, 2, "what was tried is not counted");
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

//! Adapters on a small ViT: what training takes and leaves, and what a file holds.

use crate::support::{device_choice, options, runtime, short};
use leanvision::data::{self, ImageSet, Split, Wanted};
use leanvision::methods::NetworkFlags;
use leanvision::methods::finetune::{
    Adapted, AdapterFile, BaseBits, ExportConfig, ExportKind, FinetuneReport, FinetuneRun, LoraFile, Method, Shots,
    TrainConfig, export,
};
use leanvision::methods::training::TrainFlags;
use leanvision::nn::{Checkpoint, Hints, Model, ModelSpec, VitSpec, Weights, initial, untrained};
use leanvision::ops::basis::Law;
use leanvision::report::CommonFlags;
use leanvision::runtime::list_devices;
use leanvision::{DeviceChoice, Runtime, Tensor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A small ViT for ten classes in a file of its own, with what its names do not say beside it.
fn base(folder: &Path) -> PathBuf {
    let spec = ModelSpec::Vit(Box::new(VitSpec::timm(32, 8, 32, 2, 4, 10)));
    let path = folder.join("base.safetensors");
    let plan = spec.plan();
    untrained(&plan.params, 3).unwrap().save(&path, &plan.params, &BTreeMap::new()).unwrap();
    let hints = Hints { normalize: Some("cifar".into()), ..Hints::of(&spec) };
    std::fs::write(path.with_extension("json"), serde_json::to_vec(&hints).unwrap()).unwrap();
    path
}

fn shapes(split: Split, n: usize) -> ImageSet {
    data::open("shapes", &Wanted { n: Some(n), ..Wanted::new(split) }).unwrap()
}

fn config(base: &Path, method: Method) -> TrainConfig {
    TrainConfig {
        base: Some(base.display().to_string()),
        method: Some(method),
        rank: Some(2),
        k: Some(8),
        targets: method.has_branches().then(|| "mlp,qv".into()),
        train: TrainFlags {
            steps: Some(4),
            batch: Some(16),
            checkpoint_every: u64::MAX,
            log_every: 1,
            ..TrainFlags::default()
        },
        ..TrainConfig::default()
    }
}

fn train(runtime: &Runtime, config: &TrainConfig, out: &Path) -> FinetuneReport {
    let common = CommonFlags { out: Some(out.to_path_buf()), seed: 5, ..CommonFlags::default() };
    std::fs::create_dir_all(out).unwrap();
    let run = FinetuneRun::on(config, &common, shapes(Split::Train, 64), shapes(Split::Test, 40)).unwrap();
    run.run(runtime, true).unwrap()
}

fn images(runtime: &Runtime) -> Tensor {
    let mut draws = leanvision::philox::Philox::new(8, 801, 0);
    let values: Vec<f32> = (0..6 * 32 * 32 * 3).map(|_| 2.0 * draws.uniform_f32() - 1.0).collect();
    Tensor::from_slice(runtime, &values, &[6, 32, 32, 3]).unwrap()
}

fn logits(network: &Model, images: &Tensor) -> Vec<f32> {
    network.forward(images).unwrap().to_vec().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| {
        if d <= most {
            most
        } else if d.is_nan() {
            f32::INFINITY
        } else {
            d
        }
    })
}

fn load(base: &Path, file: &AdapterFile) -> Adapted {
    Adapted::load(&base.display().to_string(), &NetworkFlags::default(), file.clone()).unwrap()
}

#[test]
fn every_method_trains_and_its_file_gives_the_same_network() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for method in Method::ALL {
        let out = folder.path().join(method.to_string());
        let report = train(&runtime, &config(&base, method), &out);
        let losses = &report.seeds[0].outcome.losses;
        assert!(losses.len() == 4 && losses[3].1 < losses[0].1 + 0.3, "{method}: {losses:?}");
        let file = AdapterFile::read(out.join("adapter.safetensors")).unwrap();
        let adapted = load(&base, &file);
        assert_eq!(adapted.layout().n_trained(), [report.trainable_with_head, report.trainable]);
        let numbers: usize = file.tensors.iter().map(|(.., values)| values.len()).sum();
        assert_eq!(numbers as u64, report.trainable_with_head, "{method}: the file holds what is trained");
        let header = report.file_bytes - 4 * report.trainable_with_head;
        assert!(header < if file.tensors.len() < 4 { 1024 } else { 8192 }, "{method}: a header of {header} bytes");
        // Behind four steps from small numbers, a network with the adapter beside it or in its weights is one.
        let network = adapted.network(&runtime, BaseBits::F32).unwrap();
        let images = images(&runtime);
        let beside = logits(&network, &images);
        let inside = logits(&network.merged().unwrap(), &images);
        assert!(apart(&beside, &inside) < 1e-4, "{method}: {} apart when merged", apart(&beside, &inside));
        // Everything that is trained has moved, and nothing else.
        for (name, _, values) in &file.tensors {
            let began = if name.ends_with(".vera_d") { 0.1 } else { 0.0 };
            assert!(values.iter().any(|v| (v - began).abs() > 1e-6), "{method}: {name} is as it began");
        }
        if !method.has_branches() && method != Method::Linear {
            continue;
        }
        let own: Vec<&str> = file.tensors.iter().map(|(name, ..)| name.as_str()).collect();
        let checkpoint = Checkpoint::read(&base).unwrap();
        let plan = ModelSpec::Vit(Box::new(VitSpec::timm(32, 8, 32, 2, 4, 10))).plan();
        let published = checkpoint.load(&plan.params, "base").unwrap();
        for ((param, values), (name, now)) in plan.params.iter().zip(published.iter()).zip(network.named_params()) {
            assert_eq!(param.name, name.name);
            if !own.contains(&param.name.as_str()) {
                let now = param.to_published(&now.to_vec::<f32>().unwrap());
                assert!(now == *values, "{method}: {} is frozen and moved", param.name);
            }
        }
    }
}

#[test]
fn a_kept_head_begins_with_the_logits_of_the_base() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = base(folder.path());
    let spec = ModelSpec::Vit(Box::new(VitSpec::timm(32, 8, 32, 2, 4, 10)));
    let plain = Model::new(&runtime, &spec, &untrained(&spec.plan().params, 3).unwrap()).unwrap();
    let images = images(&runtime);
    for method in [Method::Nola, Method::Pranc, Method::Lora, Method::Vera] {
        let out = folder.path().join(method.to_string());
        let train_flags = TrainFlags { lr: Some(0.0), ..config(&path, method).train };
        let keep = TrainConfig { keep_head: true, train: train_flags, ..config(&path, method) };
        // As many classes as the base's.
        let common = CommonFlags { out: Some(out.clone()), ..CommonFlags::default() };
        std::fs::create_dir_all(&out).unwrap();
        let (mut a, mut b) = (shapes(Split::Train, 64), shapes(Split::Test, 40));
        for set in [&mut a, &mut b] {
            set.n_classes = 10;
            set.class_names = (0..10).map(|i| format!("class {i}")).collect();
        }
        FinetuneRun::on(&keep, &common, a, b).unwrap().run(&runtime, true).unwrap();
        let file = AdapterFile::read(out.join("adapter.safetensors")).unwrap();
        let network = load(&path, &file).network(&runtime, BaseBits::F32).unwrap();
        assert!(logits(&network, &images) == logits(&plain, &images), "{method}: not the base's bits");
    }
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for method in [Method::Nola, Method::Pranc] {
        let of = |micro_batch: usize| {
            let out = folder.path().join(format!("{method}-{micro_batch}"));
            let flags = TrainFlags {
                micro_batch: Some(micro_batch),
                // Steps that go by the gradient's size, which Adam's do not; without crops, whose draws count micro-batches.
                optimizer: Some("sgd".into()),
                lr: Some(0.2),
                ..config(&base, method).train
            };
            let augment = Some(leanvision::methods::classify::Augment::None);
            train(&runtime, &TrainConfig { train: flags, augment, ..config(&base, method) }, &out);
            AdapterFile::read(out.join("adapter.safetensors")).unwrap().get("coefficients").unwrap().to_vec()
        };
        let (whole, parts) = (of(16), of(4));
        let size = whole.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(size > 1e-4, "{method}: steps that moved nothing: {size}");
        assert!(apart(&whole, &parts) < 1e-5 * size.max(1.0), "{method}: {} of {size}", apart(&whole, &parts));
    }
}

#[test]
fn bases_are_never_in_memory() {
    if runtime().is_none() || short() {
        return;
    }
    // A guarded runtime never uses a block twice.
    let mut options = options();
    options.guard = false;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c10.safetensors");
    let spec = ModelSpec::by_name("vit_small32").unwrap();
    let plan = spec.plan();
    initial(&spec, 0).unwrap().save(&path, &plan.params, &BTreeMap::new()).unwrap();
    let hints = Hints { normalize: Some("cifar".into()), ..Hints::of(&spec) };
    std::fs::write(path.with_extension("json"), serde_json::to_vec(&hints).unwrap()).unwrap();
    let peak = |method| {
        let runtime = Runtime::with_options(&device_choice(), options.clone()).unwrap();
        let flags = TrainFlags { steps: Some(3), ..config(&path, method).train };
        let config = TrainConfig {
            rank: Some(4),
            k: Some(1024),
            targets: Some("mlp".into()),
            train: flags,
            ..config(&path, method)
        };
        train(&runtime, &config, &folder.path().join(method.to_string())).peak_device_bytes
    };
    let (nola, lora) = (peak(Method::Nola), peak(Method::Lora));
    // Stored, the bases of one layer alone would be 2 x 1024 x 4 x 480 x 4 bytes, of all twelve 94 MB.
    assert!(nola <= lora + (4 << 20), "NOLA {nola}, LoRA {lora} bytes");
}

#[test]
fn an_adapter_is_the_same_on_every_back_end() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    for basis in Law::ALL {
        let out = folder.path().join(basis.to_string());
        train(&runtime, &TrainConfig { basis: Some(basis), ..config(&base, Method::Nola) }, &out);
        let adapted = load(&base, &AdapterFile::read(out.join("adapter.safetensors")).unwrap());
        let want = logits(&adapted.network(&runtime, BaseBits::F32).unwrap(), &images(&runtime));
        for device in others() {
            let Ok(other) = Runtime::new(&device) else { continue };
            let got = logits(&adapted.network(&other, BaseBits::F32).unwrap(), &images(&other));
            assert!(apart(&got, &want) < 1e-5, "{basis} on {}: {} apart", other.profile().name, apart(&got, &want));
        }
    }
}

/// One adapter of each back end.
fn others() -> Vec<DeviceChoice> {
    let mut backends: Vec<String> = list_devices().unwrap().iter().map(|profile| profile.backend.to_string()).collect();
    backends.sort();
    backends.dedup();
    backends.iter().filter_map(|backend| backend.parse().ok()).collect()
}

#[test]
fn coefficients_come_in_few_bits() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let images = images(&runtime);
    let whole = folder.path().join("whole");
    train(&runtime, &config(&base, Method::Nola), &whole);
    let file = AdapterFile::read(whole.join("adapter.safetensors")).unwrap();
    let adapted = load(&base, &file);
    let want = logits(&adapted.network(&runtime, BaseBits::F32).unwrap(), &images);
    let mut last = 0.0;
    for bits in [8, 4, 3, 2] {
        let path = folder.path().join(format!("{bits}.safetensors"));
        AdapterFile { bits, ..file.clone() }.save(&path).unwrap();
        let read = AdapterFile::read(&path).unwrap();
        let rounded = adapted.rounded(bits).unwrap();
        assert_eq!(read.get("coefficients"), rounded.file().get("coefficients"), "{bits} bits");
        let n = file.get("coefficients").unwrap().len() as u64;
        let [full, few] = [&whole.join("adapter.safetensors"), &path].map(|p| std::fs::metadata(p).unwrap().len());
        assert!(
            full - few >= 4 * n - (n * u64::from(bits)).div_ceil(8) - 4 * n / 8 - 256,
            "{bits} bits: {few} of {full}"
        );
        let off = apart(&logits(&rounded.network(&runtime, BaseBits::F32).unwrap(), &images), &want);
        assert!(off > last, "{bits} bits are {off} off, more of them {last}");
        last = off;
        // Training that knows of the rounding gives what the file holds.
        let out = folder.path().join(format!("qat{bits}"));
        let report = train(&runtime, &TrainConfig { bits: Some(bits), qat: true, ..config(&base, Method::Nola) }, &out);
        let seed = &report.seeds[0];
        // What is judged is what the file holds: whole steps of each factor's scale.
        let read = AdapterFile::read(out.join("adapter.safetensors")).unwrap();
        assert!(seed.verdict.is_some() && seed.verdict_f32.is_none());
        for group in read.get("coefficients").unwrap().chunks(8) {
            let step = group.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / ((1 << (bits - 1)) - 1) as f32;
            assert!(step > 0.0, "{bits} bits: a factor without numbers");
            for steps in group.iter().map(|v| v / step) {
                assert!((steps - steps.round()).abs() < 1e-3, "{bits} bits: {steps} steps");
            }
        }
    }
}

#[test]
fn shots_and_seeds_are_drawn_and_counted() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let config = TrainConfig {
        shots: Some(Shots::Of(2)),
        seeds: Some(2),
        classes: Some("1-3".parse().unwrap()),
        train: TrainFlags { batch: None, steps: Some(2), ..config(&base, Method::Linear).train },
        ..config(&base, Method::Linear)
    };
    let report = train(&runtime, &config, &folder.path().join("out"));
    assert_eq!((report.n_train, report.seeds.len(), report.trainable), (6, 2, 0));
    let accuracies: Vec<f64> = report.seeds.iter().map(|seed| seed.verdict.unwrap().accuracy.unwrap()).collect();
    let mean = (accuracies[0] + accuracies[1]) / 2.0;
    assert!((report.accuracy_mean.unwrap() - mean).abs() < 1e-9);
    let std = (accuracies[0] - accuracies[1]).abs() / 2.0_f64.sqrt();
    assert!((report.accuracy_std.unwrap() - std).abs() < 1e-9);
    for seed in [5, 6] {
        assert!(folder.path().join(format!("out/seed-{seed}/adapter.safetensors")).exists());
    }
}

#[test]
fn exported_factors_give_the_same_logits() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let images = images(&runtime);
    for method in [Method::Nola, Method::Lora, Method::Vera] {
        let out = folder.path().join(method.to_string());
        // Large steps, so that the factors are no small change.
        let flags = TrainFlags { lr: Some(0.1), ..config(&base, method).train };
        train(&runtime, &TrainConfig { train: flags, ..config(&base, method) }, &out);
        let adapter = out.join("adapter.safetensors");
        let adapted = load(&base, &AdapterFile::read(&adapter).unwrap());
        let to = ExportConfig {
            base: base.display().to_string(),
            network: NetworkFlags::default(),
            adapter: adapter.clone(),
            kind: ExportKind::Lora,
        };
        let exported = out.join("peft");
        export(&runtime, &to, &exported).unwrap();
        let lora = LoraFile::read(&exported, None).unwrap();
        // Two blocks: packed queries and values, two layers of an MLP.
        let names: Vec<&str> = lora.layers.iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names[..3], ["blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"], "{method}");
        assert_eq!((names.len(), lora.layers[0].rank), (6, 2 * lora.layers[1].rank));
        // What another program does with them: the base's weights, `scale b a` added, whole tensors replaced.
        let mut spec = ModelSpec::Vit(Box::new(VitSpec::timm(32, 8, 32, 2, 4, 10)));
        let plan = spec.plan();
        let weights = Checkpoint::read(&base).unwrap().load(&plan.params, "base").unwrap();
        let frozen = Model::new(&runtime, &spec, &weights).unwrap();
        let mut values = weights.into_inner();
        for (param, values) in plan.params.iter().zip(&mut values) {
            if let Some(layer) = lora.layers.iter().find(|layer| format!("{}.weight", layer.name) == param.name) {
                for (i, value) in values.iter_mut().enumerate() {
                    let (o, x) = (i / layer.n_in, i % layer.n_in);
                    let product = |r: usize| layer.b[o * layer.rank + r] * layer.a[r * layer.n_in + x];
                    *value += layer.scale * (0..layer.rank).map(product).sum::<f32>();
                }
            }
            if let Some((.., new)) = lora.others.iter().find(|(name, ..)| *name == param.name) {
                values.clone_from(new);
            }
        }
        spec.set_classes(adapted.file().classes.len());
        let merged = Weights::new(&spec.plan().params, values).unwrap();
        let merged = Model::new(&runtime, &spec, &merged).unwrap();
        let (got, want) = (logits(&merged, &images), adapted.network(&runtime, BaseBits::F32).unwrap());
        let want = logits(&want, &images);
        assert!(apart(&got, &want) < 1e-4, "{method}: {}", apart(&got, &want));
        let features = |model: &Model| model.features(&images).unwrap().to_vec::<f32>().unwrap();
        assert!(apart(&features(&merged), &features(&frozen)) > 1e-2, "{method}: the factors are nothing");
    }
    let out = folder.path().join("pranc");
    train(&runtime, &config(&base, Method::Pranc), &out);
    let to = ExportConfig {
        base: base.display().to_string(),
        network: NetworkFlags::default(),
        adapter: out.join("adapter.safetensors"),
        kind: ExportKind::Lora,
    };
    assert!(export(&runtime, &to, &out).unwrap_err().to_string().contains("no low-rank factors"));
}

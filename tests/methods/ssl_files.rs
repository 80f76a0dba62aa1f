//! What `ssl` reads and writes: backbones, teachers' features, features of pictures, sheets of views.

use std::path::{Path, PathBuf};

use leanvision::data::{ImageSet, Split, Wanted, shapes};
use leanvision::methods::NetworkFlags;
use leanvision::methods::classify::{
    EvalConfig, Evaluation, InfoConfig, PredictConfig, Prediction, TrainConfig, TrainRun, info,
};
use leanvision::methods::ssl::{
    Backbone, EmbedConfig, Embedding, SHEET_VIEWS, Teacher, TeacherViews, load_backbone, save_backbone,
    teacher_features, views_sheet,
};
use leanvision::nn::{Hints, MnistCnnSpec, Model, ModelSpec, NormPlace, VitSpec, Weights};
use leanvision::ops::Act;
use leanvision::ops::random::Key;
use leanvision::ops::views::{Recipe, Views};
use leanvision::philox::stream;
use leanvision::report::CommonFlags;
use leanvision::{DType, Runtime, Tensor, data};

use crate::formula;
use crate::support::{device_choice, options, runtime};

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
    let set = data::load_unlabelled(folder.path(), &Wanted::new(Split::Train)).unwrap();
    let run = TrainRun::on(&TrainConfig::default(), &CommonFlags::default(), set.clone(), set);
    let message = run.unwrap_err().to_string();
    assert!(message.ends_with("images without classes), and supervised training needs classes"), "{message}");
}

/// A teacher for images of 32 pixels.
fn teacher_file(folder: &Path, name: &str, channels: usize) -> PathBuf {
    let mut spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
    spec.set_channels(channels);
    let path = folder.join(name);
    let hints = if channels == 3 { hints() } else { grey_or(&spec, hints()) };
    save_backbone(&path, &spec, &formula::weights(&spec), &hints).unwrap();
    path
}

fn teacher(path: &Path, set: &ImageSet) -> Teacher {
    Teacher::load(path, &NetworkFlags::default(), set).unwrap()
}

/// Features of the images at `ids` as the teacher's network gives them, of a view or of the images themselves.
fn direct(runtime: &Runtime, path: &Path, set: &ImageSet, view: Option<(&Recipe, Key)>) -> Vec<f32> {
    let backbone = load_backbone(path, &NetworkFlags::default()).unwrap();
    let network = backbone.on(runtime).unwrap();
    let images = Tensor::from_slice(runtime, &set.images, &[set.len(), set.height, set.width, set.channels]).unwrap();
    let Some((recipe, key)) = view else { return network.features(&images).unwrap().to_vec().unwrap() };
    let size = [set.height, set.width];
    let ids: Vec<u32> = (0..set.len() as u32).collect();
    let ids = Tensor::from_slice(runtime, &ids, &[ids.len()]).unwrap();
    let views = Views::new(runtime, recipe, size, size).unwrap();
    let (scale, shift) = network.scale_shift();
    let x = views.make(&images, &ids, None, scale, shift, key, DType::F32).unwrap();
    network.model().forward(&x).unwrap().to_vec().unwrap()
}

#[test]
fn a_teacher_sees_the_views_of_its_key_in_order() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = teacher_file(folder.path(), "w.safetensors", 3);
    let set = shapes(37, 4, Split::Train);
    let teacher = teacher(&path, &set);
    let views = TeacherViews { n: 3, recipe: Recipe::WEAK, seed: 11 };
    let got = teacher_features(&runtime, &teacher, &set, &views, None, true).unwrap();
    assert_eq!(got.shape(), [3 * 37, teacher.n_features()]);
    let got = got.to_vec::<f32>().unwrap();
    let n = 37 * teacher.n_features();
    for v in 0..3 {
        assert_eq!(views.key(v), Key::new(11, stream::VIEWS + 1, v));
        let want = direct(&runtime, &path, &set, Some((&Recipe::WEAK, views.key(v))));
        assert_eq!(bits(&got[v as usize * n..][..n]), bits(&want), "view {v}");
    }
    assert_ne!(got[..n], got[n..2 * n]);
    let plain = TeacherViews { n: 0, ..views };
    let got = teacher_features(&runtime, &teacher, &set, &plain, None, true).unwrap();
    assert_eq!(got.shape(), [37, teacher.n_features()]);
    assert_eq!(bits(&got.to_vec::<f32>().unwrap()), bits(&direct(&runtime, &path, &set, None)));
}

#[test]
fn kept_features_are_used_only_if_they_are_those() {
    let Ok(runtime) = Runtime::with_options(&device_choice(), options()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = teacher_file(folder.path(), "w.safetensors", 3);
    let (set, cache) = (shapes(20, 4, Split::Train), folder.path().join("cache"));
    let views = TeacherViews { n: 2, recipe: Recipe::WEAK, seed: 1 };
    let ask = |teacher: &Teacher, set: &ImageSet, views: &TeacherViews| {
        let before = runtime.counts().dispatches;
        let features = teacher_features(&runtime, teacher, set, views, Some(&cache), true).unwrap();
        let made = runtime.counts().dispatches > before;
        (features.to_vec::<f32>().unwrap(), made)
    };
    let first_teacher = teacher(&path, &set);
    let (first, made) = ask(&first_teacher, &set, &views);
    assert!(made);
    let file = cache.join("teacher_features.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    // What is kept is the same to the bit, and nothing is computed.
    let (again, made) = ask(&first_teacher, &set, &views);
    assert!(!made && bits(&again) == bits(&first));
    // Damage in the data, at both of its ends and in the header, a file that ends early, is empty or something else.
    let n_header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damaged = [
        flipped(n_header),
        flipped(bytes.len() - 1),
        flipped(n_header / 2),
        bytes[..bytes.len() - 1].to_vec(),
        bytes[..n_header - 9].to_vec(),
        Vec::new(),
        b"no features".to_vec(),
        std::fs::read(&path).unwrap(),
    ];
    for (i, damaged) in damaged.into_iter().enumerate() {
        std::fs::write(&file, damaged).unwrap();
        let (again, made) = ask(&first_teacher, &set, &views);
        assert!(made && bits(&again) == bits(&first), "damage {i}");
        assert!(std::fs::read(&file).unwrap() == bytes, "damage {i}: the file is whole again");
    }
    // Other inputs give other features, and the first ones do not come back from the file.
    let other_weights = {
        let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
        let mut values = formula::weights(&spec).into_inner();
        values[0][0] += 0.5;
        let path = folder.path().join("other.safetensors");
        save_backbone(&path, &spec, &Weights::new(&spec.plan().params, values).unwrap(), &hints()).unwrap();
        teacher(&path, &set)
    };
    let other_normalization = {
        let spec = ModelSpec::by_name("resnet8_x0.25").unwrap();
        let path = folder.path().join("unit.safetensors");
        let hints = Hints { normalize: Some("unit".into()), ..Hints::default() };
        save_backbone(&path, &spec, &formula::weights(&spec), &hints).unwrap();
        teacher(&path, &set)
    };
    let mut other_set = set.clone();
    other_set.images[3072..2 * 3072].iter_mut().for_each(|byte| *byte ^= 255);
    let wider = Recipe { area: [0.1, 1.0], ..Recipe::WEAK };
    let others = [
        (&first_teacher, &set, TeacherViews { seed: 2, ..views }),
        (&first_teacher, &set, TeacherViews { recipe: wider, ..views }),
        (&first_teacher, &set, TeacherViews { n: 3, ..views }),
        (&first_teacher, &set, TeacherViews { n: 0, ..views }),
        (&first_teacher, &other_set, views),
        (&other_weights, &set, views),
        (&other_normalization, &set, views),
    ];
    for (i, (teacher, set, views)) in others.into_iter().enumerate() {
        let (other, made) = ask(teacher, set, &views);
        assert!(made && bits(&other) != bits(&first), "input {i}");
        assert!(!ask(teacher, set, &views).1, "input {i} is kept in turn");
    }
    assert!(ask(&first_teacher, &set, &views).1);
    // Plain images do not hang on the seed.
    let plain = TeacherViews { n: 0, ..views };
    ask(&first_teacher, &set, &plain);
    assert!(!ask(&first_teacher, &set, &TeacherViews { seed: 9, ..plain }).1);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);
}

#[test]
fn teachers_that_do_not_fit_the_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let set = shapes(3, 4, Split::Train);
    let refuse = |path: &Path| {
        let error = Teacher::load(path, &NetworkFlags::default(), &set).unwrap_err();
        let message = error.to_string();
        assert!(error.is_bad_input() && message.lines().count() == 1, "{message}");
        message
    };
    let grey = teacher_file(folder.path(), "grey.safetensors", 1);
    let message = refuse(&grey);
    assert!(message.contains("shapes: images of 3 channels, CIFAR ResNet-8, 4 channels, no head takes 1"), "{message}");
    let (spec, _) = families().swap_remove(5);
    let (vit, _) = written(folder.path(), &spec, &formula::weights(&spec));
    let message = refuse(&vit);
    assert!(message.contains("images of 32x32 pixels") && message.ends_with("takes 16x16"), "{message}");
    assert!(message.starts_with(&format!("teacher {}", vit.display())), "{message}");
    assert!(refuse(&folder.path().join("none.safetensors")).contains("no such file"));
}

#[test]
fn fixed_views_need_all_images_on_the_device() {
    let mut small = options();
    small.default_limits = true;
    let Ok(runtime) = Runtime::with_options(&device_choice(), small) else { return };
    let limit = runtime.profile().limits.binding_bytes as usize;
    let folder = tempfile::tempdir().unwrap();
    let path = teacher_file(folder.path(), "w.safetensors", 3);
    let n = limit / 3072 + 1;
    let set = ImageSet::new("many", "made", [32, 32, 3], vec![0; n * 3072], vec![0; n], Vec::new()).unwrap();
    let views = TeacherViews { n: 1, recipe: Recipe::WEAK, seed: 0 };
    let error = teacher_features(&runtime, &teacher(&path, &set), &set, &views, None, true).unwrap_err();
    assert!(matches!(&error, leanvision::Error::Limit { limit: l, .. } if *l as usize == limit), "{error}");
}

#[test]
fn a_published_network_teaches() {
    let (Some(root), Some(runtime)) = (std::env::var_os("LEANVISION_DATA"), runtime()) else { return };
    let (path, data) =
        (Path::new(&root).join("models/resnet56_cifar10.safetensors"), Path::new(&root).join("cifar-10-batches-bin"));
    if !path.is_file() || !data.is_dir() {
        eprintln!("skipped: no resnet56_cifar10 or CIFAR-10 under LEANVISION_DATA");
        return;
    }
    let set = data::load_unlabelled(&data, &Wanted { n: Some(60), ..Wanted::new(Split::Test) }).unwrap();
    let teacher = teacher(&path, &set);
    assert_eq!((teacher.n_features(), teacher.spec().to_string().as_str()), (64, "CIFAR ResNet-56, no head"));
    let plain = TeacherViews { n: 0, recipe: Recipe::WEAK, seed: 0 };
    let features = teacher_features(&runtime, &teacher, &set, &plain, None, true).unwrap().to_vec::<f32>().unwrap();
    // The nearest other image by cosine is mostly one of the same class: nine of ten images are told apart by its head.
    let unit: Vec<Vec<f32>> = features
        .chunks_exact(64)
        .map(|row| {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(|v| v / length).collect()
        })
        .collect();
    let dot = |a: usize, b: usize| -> f32 { unit[a].iter().zip(&unit[b]).map(|(x, y)| x * y).sum() };
    let nearest = |i: usize| (0..60).filter(|j| *j != i).max_by(|a, b| dot(i, *a).total_cmp(&dot(i, *b))).unwrap();
    let right = (0..60).filter(|i| set.labels[nearest(*i)] == set.labels[*i]).count();
    assert!(right >= 45, "{right} of 60");
}

/// A folder of pictures of several sizes and kinds, in folders; their names in order.
fn pictures(folder: &Path) -> Vec<String> {
    let names = ["B.png", "a/2.jpg", "a/10.png", "a-1.webp", "z/y/1.png"];
    for (i, name) in names.iter().enumerate() {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (w, h) = (30 + 7 * i as u32, 40);
        image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8 * 5, y as u8 * 6, 50 * i as u8]))
            .save(&path)
            .unwrap();
    }
    std::fs::write(folder.join("notes.txt"), "none").unwrap();
    ["B.png", "a-1.webp", "a/10.png", "a/2.jpg", "z/y/1.png"].map(String::from).to_vec()
}

fn embed(weights: &Path, images: &Path, file: PathBuf) -> EmbedConfig {
    let (network, weights, images) = (NetworkFlags::default(), weights.to_path_buf(), images.to_path_buf());
    EmbedConfig { weights, network, images, file, side: None, batch: None, skip_bad: false }
}

/// Shape and values of a `.npy` file of f32 in rows.
fn read_npy(path: &Path) -> ([usize; 2], Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let n_header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8(bytes[10..n_header].to_vec()).unwrap();
    assert!(
        text.contains("'descr': '<f4', 'fortran_order': False") && text.ends_with('\n') && n_header % 64 == 0,
        "{text}"
    );
    let shape = text.split_once("'shape': (").unwrap().1.split_once(')').unwrap().0;
    let shape: Vec<usize> = shape.split(", ").map(|size| size.parse().unwrap()).collect();
    let values = bytes[n_header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (shape.try_into().unwrap(), values)
}

/// Shape, values and names of a safetensors file.
fn read_safetensors(path: &Path) -> (Vec<usize>, Vec<f32>, Vec<String>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let names = &metadata.metadata().as_ref().unwrap()["files"];
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["features"]);
    let features = file.tensor("features").unwrap();
    let values = features.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    (features.shape().to_vec(), values, serde_json::from_str(names).unwrap())
}

#[test]
fn embed_writes_the_features_of_every_picture_by_name() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (images, out) = (folder.path().join("images"), folder.path().join("out"));
    std::fs::create_dir_all(&out).unwrap();
    let names = pictures(&images);
    for channels in [3, 1] {
        let weights = teacher_file(folder.path(), "w.safetensors", channels);
        let backbone = load_backbone(&weights, &NetworkFlags::default()).unwrap();
        let network = backbone.on(&runtime).unwrap();
        let want: Vec<f32> = names
            .iter()
            .flat_map(|name| {
                let picture = data::read_image(&images.join(name)).unwrap().fit(32).unwrap();
                let pixels = if channels == 1 { picture.gray() } else { picture.rgb };
                let pixels = Tensor::from_slice(&runtime, &pixels, &[1, 32, 32, channels]).unwrap();
                network.features(&pixels).unwrap().to_vec::<f32>().unwrap()
            })
            .collect();
        let near = |got: &[f32]| {
            let largest = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            got.len() == want.len() && got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-5 * largest)
        };
        for batch in [None, Some(1), Some(2), Some(5), Some(9)] {
            let npy = EmbedConfig { batch, ..embed(&weights, &images, out.join("x.npy")) };
            let report = Embedding::prepare(&npy).unwrap().run(&runtime, true).unwrap();
            assert_eq!((report.n, report.n_features, report.side), (5, backbone.n_features(), 32));
            assert_eq!(report.names_file.as_deref(), Some(out.join("x.txt").as_path()));
            let (shape, values) = read_npy(&out.join("x.npy"));
            assert!(shape == [5, backbone.n_features()] && near(&values), "batch {batch:?}");
            assert_eq!(std::fs::read_to_string(out.join("x.txt")).unwrap(), names.join("\n") + "\n");

            let tensors = EmbedConfig { batch, ..embed(&weights, &images, out.join("x.safetensors")) };
            let report = Embedding::prepare(&tensors).unwrap().run(&runtime, true).unwrap();
            assert!(report.names_file.is_none() && report.skipped.is_empty());
            let (shape, again, found) = read_safetensors(&out.join("x.safetensors"));
            assert_eq!((shape.as_slice(), &found), ([5, backbone.n_features()].as_slice(), &names));
            assert_eq!(bits(&again), bits(&values));
            assert!(report.to_string().contains("5 pictures of 32x32 pixels"), "{report}");
        }
    }
    // Nothing else is left behind.
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
}

#[test]
fn embed_lists_bad_pictures_and_skips_them_only_where_asked() {
    let Some(runtime) = runtime() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (images, out) = (folder.path().join("images"), folder.path().join("out"));
    std::fs::create_dir_all(&out).unwrap();
    let mut names = pictures(&images);
    let weights = teacher_file(folder.path(), "w.safetensors", 3);
    let config = |file: &str, batch| EmbedConfig { batch, ..embed(&weights, &images, out.join(file)) };
    let whole = Embedding::prepare(&config("all.npy", None)).unwrap().run(&runtime, true).unwrap();
    let d = whole.n_features;
    let (_, all) = read_npy(&out.join("all.npy"));
    std::fs::write(images.join("B.png"), "").unwrap();
    std::fs::write(images.join("a/2.jpg"), "text").unwrap();
    for (file, batch) in [("x.npy", Some(2)), ("x.safetensors", Some(1)), ("x.safetensors", None)] {
        let error = Embedding::prepare(&config(file, batch)).unwrap().run(&runtime, true).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("2 of 5 pictures cannot be read: B.png: is empty; a/2.jpg: is no PNG"), "{message}");
        assert!(error.is_bad_input() && message.lines().count() == 1 && !out.join(file).exists());
    }
    names.retain(|name| name != "B.png" && name != "a/2.jpg");
    let want: Vec<f32> = [1, 2, 4].iter().flat_map(|i| all[i * d..][..d].to_vec()).collect();
    for batch in [None, Some(1), Some(2)] {
        let skip = |file: &str| EmbedConfig { skip_bad: true, ..config(file, batch) };
        let report = Embedding::prepare(&skip("x.npy")).unwrap().run(&runtime, true).unwrap();
        assert_eq!((report.n, report.skipped.len(), report.skipped[0].as_str()), (3, 2, "B.png: is empty"));
        assert!(report.to_string().contains("2 skipped: B.png: is empty; a/2.jpg: is no PNG"), "{report}");
        let (shape, values) = read_npy(&out.join("x.npy"));
        assert_eq!(shape, [3, d]);
        let near = |got: &[f32]| {
            got.len() == want.len() && got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0))
        };
        assert!(near(&values), "batch {batch:?}");
        assert_eq!(std::fs::read_to_string(out.join("x.txt")).unwrap(), names.join("\n") + "\n");
        Embedding::prepare(&skip("x.safetensors")).unwrap().run(&runtime, true).unwrap();
        let (shape, values, found) = read_safetensors(&out.join("x.safetensors"));
        assert!(shape == [3, d] && found == names && near(&values), "batch {batch:?}");
    }
    for name in &names {
        std::fs::write(images.join(name), "").unwrap();
    }
    let none = EmbedConfig { skip_bad: true, ..config("none.npy", None) };
    let message = Embedding::prepare(&none).unwrap().run(&runtime, true).unwrap_err().to_string();
    assert!(message.contains("5 of 5 pictures cannot be read") && !out.join("none.npy").exists(), "{message}");
}

#[test]
fn embed_refuses_bad_flags_before_a_device_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    pictures(&images);
    let weights = teacher_file(folder.path(), "w.safetensors", 3);
    let refuse = |config: &EmbedConfig, said: &str| {
        let error = Embedding::prepare(config).unwrap_err();
        let message = error.to_string();
        assert!(error.is_bad_input() && message.lines().count() == 1 && message.contains(said), "{message}");
    };
    let file = folder.path().join("x.npy");
    refuse(&embed(&weights, &images, folder.path().join("x.csv")), "features go to a .npy or a .safetensors file");
    refuse(&embed(&weights, &images, folder.path().join("no/x.npy")), "cannot be written");
    refuse(&embed(&weights, &folder.path().join("none"), file.clone()), "no such file or folder");
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refuse(&embed(&weights, &folder.path().join("empty"), file.clone()), "no PNG, JPEG or WebP file");
    refuse(&embed(&images.join("B.png"), &images, file.clone()), "safetensors");
    refuse(&embed(&weights, &images.join("B.png"), file.clone()), "wanted a folder");
    let (spec, _) = families().swap_remove(5);
    let (vit, _) = written(folder.path(), &spec, &formula::weights(&spec));
    refuse(&EmbedConfig { side: Some(32), ..embed(&vit, &images, file) }, "32");
}

#[test]
fn a_sheet_shows_the_views_of_a_run() {
    let Some(runtime) = runtime() else { return };
    let recipes = [Recipe::STRONG, Recipe::WEAK];
    let set = shapes(10, 4, Split::Train);
    let picture = views_sheet(&runtime, &set, &recipes, 5).unwrap();
    // Eight rows of an image and three views by each recipe, every pixel three wide, three between images.
    let columns = 1 + 2 * SHEET_VIEWS;
    assert_eq!((picture.width, picture.height), (columns * 99 - 3, 8 * 99 - 3));
    let tile = |row: usize, column: usize| -> Vec<u8> {
        let at = |x: usize, y: usize| ((row * 99 + 3 * y + 1) * picture.width + column * 99 + 3 * x + 1) * 3;
        (0..32 * 32).flat_map(|p| picture.rgb[at(p % 32, p / 32)..][..3].to_vec()).collect()
    };
    let images = Tensor::from_slice(&runtime, &set.images, &[10, 32, 32, 3]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[0_u32, 7], &[2]).unwrap();
    let one = Tensor::from_slice(&runtime, &[1.0_f32; 3], &[3]).unwrap();
    let zero = Tensor::from_slice(&runtime, &[0.0_f32; 3], &[3]).unwrap();
    for (i, row) in [0, 7].into_iter().enumerate() {
        assert_eq!(tile(row, 0), set.image(row).unwrap());
        for (k, recipe) in recipes.iter().enumerate() {
            let views = Views::new(&runtime, recipe, [32; 2], [32; 2]).unwrap();
            for epoch in 0..SHEET_VIEWS as u32 {
                // As a training asks for them: the epoch lies on the device.
                let counter = Tensor::from_slice(&runtime, &[epoch], &[1]).unwrap();
                let key = Key::new(5, stream::VIEWS + k as u32, 0);
                let x = views.make(&images, &ids, Some(&counter), &one, &zero, key, DType::F32).unwrap();
                let want: Vec<u8> =
                    x.to_vec::<f32>().unwrap()[i * 3072..][..3072].iter().map(|v| v.round() as u8).collect();
                assert_eq!(
                    tile(row, 1 + k * SHEET_VIEWS + epoch as usize),
                    want,
                    "row {row}, recipe {k}, epoch {epoch}"
                );
            }
        }
    }
    let few = views_sheet(&runtime, &shapes(2, 4, Split::Train), &recipes[..1], 5).unwrap();
    assert_eq!((few.width, few.height), ((1 + SHEET_VIEWS) * 99 - 3, 2 * 99 - 3));
}

#[test]
fn real_images_give_a_sheet() {
    let (Some(root), Some(runtime)) = (std::env::var_os("LEANVISION_DATA"), runtime()) else { return };
    let path = Path::new(&root).join("cifar-10-batches-bin");
    if !path.is_dir() {
        eprintln!("skipped: no cifar-10-batches-bin under LEANVISION_DATA");
        return;
    }
    let set = data::load(&path, &Wanted { n: Some(8), ..Wanted::new(Split::Test) }).unwrap();
    let picture = views_sheet(&runtime, &set, &[Recipe::STRONG, Recipe::WEAK], 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("views.png");
    picture.save(&file).unwrap();
    assert_eq!(data::read_image(&file).unwrap(), picture);
}

//! The binaries from outside: what they print, how they refuse bad input, and their exit codes.

#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/finetune.rs"]
mod finetune;
#[path = "cli/gpubench.rs"]
mod gpubench;
#[path = "cli/gpubench_reports.rs"]
mod gpubench_reports;
#[cfg(feature = "sim")]
#[path = "cli/sanitize.rs"]
mod sanitize;
#[path = "cli/ssl.rs"]
mod ssl;
#[path = "cli/train.rs"]
mod train;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

fn classify(args: &[&str]) -> std::process::Output {
    Command::new(assert_cmd::cargo::cargo_bin!("classify")).args(args).output().unwrap()
}

/// Runs and expects exit code 2, nothing on standard output and one line on standard error, which is given.
fn refused(args: &[&str]) -> String {
    refusal(&classify(args))
}

fn refusal(output: &std::process::Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!((output.stdout.len(), text.lines().count()), (0, 1), "{text}");
    assert!(text.starts_with("error: "), "{text}");
    text
}

/// Runs on the adapter under test and gives what is printed; `None`, said so, where there is none and none is required.
fn ran(command: &mut Command) -> Option<String> {
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    let output = command.args(["--device", &device]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.starts_with("error: no adapter") && std::env::var("LEANVISION_REQUIRE_GPU").as_deref() != Ok("1") {
        eprintln!("skipped: {text}");
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn printed(args: &[&str]) -> String {
    let output = classify(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A safetensors file with f32 zeros of these shapes.
fn weights(folder: &Path, name: &str, tensors: &[(&str, &[usize])]) -> PathBuf {
    let (mut header, mut start) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let end = start + 4 * shape.iter().product::<usize>();
        let info = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_string(), info);
        start = end;
    }
    let text = serde_json::Value::Object(header).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len() + start, 0);
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// An MNIST CNN for 8x8 images of one channel.
const SMALL_CNN: [(&str, &[usize]); 18] = [
    ("conv1.weight", &[2, 1, 3, 3]),
    ("conv1.bias", &[2]),
    ("conv2.weight", &[2, 2, 3, 3]),
    ("conv2.bias", &[2]),
    ("conv3.weight", &[3, 2, 3, 3]),
    ("conv3.bias", &[3]),
    ("norm1.weight", &[3]),
    ("norm1.bias", &[3]),
    ("norm1.running_mean", &[3]),
    ("norm1.running_var", &[3]),
    ("fc1.weight", &[4, 12]),
    ("fc1.bias", &[4]),
    ("fc2.weight", &[5, 4]),
    ("fc2.bias", &[5]),
    ("norm2.weight", &[5]),
    ("norm2.bias", &[5]),
    ("norm2.running_mean", &[5]),
    ("norm2.running_var", &[5]),
];

fn small_cnn(folder: &TempDir) -> String {
    weights(folder.path(), "w.safetensors", &SMALL_CNN).to_str().unwrap().to_string()
}

#[test]
fn info_needs_no_weights_and_gives_json() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("info.json");
    let text = printed(&["info", "--arch", "resnet18", "--json", json.to_str().unwrap()]);
    assert!(text.starts_with("ResNet-18, 1000 classes, images 224x224x3\n"), "{text}");
    let total = text.lines().find(|l| l.starts_with("total")).unwrap();
    assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["total", "11,689,512", "1,814,073,344"]);
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((figures["params"].as_u64(), figures["layers"].as_array().unwrap().len()), (Some(11_689_512), 23));
}

#[test]
fn info_reads_a_file_and_says_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let text = printed(&["info", "--weights", &small_cnn(&folder)]);
    assert!(text.starts_with("MNIST CNN [2, 2, 3], 5 classes, images 8x8x1\n"), "{text}");
    let vit = printed(&["info", "--arch", "vit_small32", "--classes", "3"]);
    assert!(vit.contains("heads, pre-norm, gelu, patch 4, 3 classes"), "{vit}");
}

#[test]
fn common_flags_are_answered_anywhere() {
    assert!(printed(&["--version"]).starts_with("classify 0."));
    assert!(printed(&["info", "--help"]).contains("--arch"));
    assert!(printed(&["--completions", "bash"]).contains("_classify()"));
    let after = printed(&["info", "--arch", "resnet20", "--quiet", "--seed", "3"]);
    assert_eq!(after, printed(&["--quiet", "--seed", "3", "info", "--arch", "resnet20"]));
}

#[test]
fn bad_flags_are_refused_in_one_line() {
    for (args, part) in [
        (&["info"][..], "--weights <FILE>"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["info", "--arch", "resnet20", "--device", "cuda"], "unknown device 'cuda'"),
        (&["info", "--arch", "vgg16"], "no network is called \"vgg16\""),
        (&["info", "--arch", "resnet20", "--norm", "mid"], "expected `pre` or `post`"),
        (&["info", "--arch", "resnet20", "--act", "sin"], "unknown variant `sin`"),
        (&["info", "--arch", "resnet20", "--normalize", "mid"], "wanted imagenet, cifar, unit"),
        (&["info", "--arch", "resnet20", "--heads", "3.5"], "--heads"),
        (&["info", "--arch", "resnet20", "--side", "0"], "0 is not in 1..=16384"),
        (&["info", "--arch", "deit_tiny", "--side", "64"], "gives 17 tokens, the weights have 197"),
    ] {
        let line = refused(args);
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn unwritable_results_are_found_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("out");
    for flag in ["--out", "--json"] {
        let line = refused(&["info", "--arch", "resnet20", flag, below.to_str().unwrap()]);
        assert!(line.contains("is a file") || line.contains("cannot be written"), "{line}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn broken_weights_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = small_cnn(&folder);
    let bytes = std::fs::read(&good).unwrap();
    let path = folder.path().join("broken.safetensors");
    let broken = path.to_str().unwrap();
    for (content, part) in [
        (&bytes[..bytes.len() - 4], "truncated: its tensors take"),
        (&bytes[..100], "truncated or no safetensors file"),
        (&[], "too few"),
        (&[0xff; 64], "truncated or no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "no network known here"),
    ] {
        std::fs::write(&path, content).unwrap();
        let line = refused(&["info", "--weights", broken]);
        assert!(line.contains(part) && line.contains("broken.safetensors: "), "{line}");
    }
    assert!(refused(&["info", "--weights", "no/such"]).contains("no/such: no such file or folder"));
    let resnet = refused(&["info", "--weights", &good, "--arch", "resnet20"]);
    assert!(resnet.contains("these look like an MNIST CNN's tensors (conv1.weight ...), not a ResNet's"), "{resnet}");
}

#[test]
fn all_that_does_not_fit_is_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = SMALL_CNN.to_vec();
    tensors[4].1 = &[3, 2, 3, 4];
    tensors.remove(13);
    tensors.push(("fc9.weight", &[1]));
    let path = weights(folder.path(), "w.safetensors", &tensors);
    let line = refused(&["info", "--weights", path.to_str().unwrap()]);
    for part in [
        "does not fit MNIST CNN [2, 2, 3], 5 classes (1 missing, 1 extra, 1 mis-shaped tensors): ",
        "mis-shaped conv3.weight [3, 2, 3, 4], needed [3, 2, 3, 3]",
        "missing fc2.bias [5]",
        "extra fc9.weight [1]",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_broken_json_beside_the_weights_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let weights = small_cnn(&folder);
    std::fs::write(folder.path().join("w.json"), "{\"hats\": 3}").unwrap();
    let line = refused(&["info", "--weights", &weights]);
    assert!(line.contains("w.json: unknown field `hats`"), "{line}");
}

/// Weights of a CIFAR ResNet-8 whose last layer always prefers class 3.
fn resnet8(folder: &TempDir) -> String {
    let output = printed(&["info", "--arch", "resnet8", "--json", folder.path().join("i.json").to_str().unwrap()]);
    assert!(output.starts_with("CIFAR ResNet-8"));
    let spec = leanvision::nn::ModelSpec::by_name("resnet8").unwrap();
    let params = spec.plan().params;
    let values = params.iter().map(|p| {
        let mut values = vec![if p.name.ends_with("running_var") { 1.0 } else { 0.0 }; p.len()];
        if p.name == "linear.bias" {
            values[3] = 9.0;
        }
        values
    });
    let weights = leanvision::nn::Weights::new(&params, values.collect()).unwrap();
    let path = folder.path().join("resnet8.safetensors");
    weights.save(&path, &params, &std::collections::BTreeMap::new()).unwrap();
    path.to_str().unwrap().to_string()
}

/// Whether there is an adapter; says so if not.
fn has_adapter() -> bool {
    let there = !leanvision::runtime::list_devices().unwrap().is_empty();
    if !there {
        assert!(std::env::var("LEANVISION_REQUIRE_GPU").is_err(), "no adapter");
        eprintln!("skipped: no adapter");
    }
    there
}

#[test]
fn eval_gives_the_contract_s_figures() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (weights, out) = (resnet8(&folder), folder.path().join("out"));
    let json = folder.path().join("eval.json");
    let [json_text, out_text] = [&json, &out].map(|p| p.to_str().unwrap().to_string());
    let text = printed(&[
        "eval",
        "--weights",
        &weights,
        "--data",
        "shapes",
        "--images",
        "40",
        "--json",
        &json_text,
        "--out",
        &out_text,
    ]);
    // The first forty images of `shapes` hold four of each class.
    assert!(text.contains("top-1 10.00 %"), "{text}");
    let figures: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((figures["top1"].as_f64(), figures["n"].as_u64()), (Some(10.0), Some(40)));
    for key in ["top5", "images_per_s", "peak_device_bytes"] {
        assert!(figures[key].as_f64().is_some_and(|v| v > 0.0), "{key}: {figures}");
    }
    assert!(figures["adapter"].is_string() && figures["backend"].is_string());
    assert_eq!(std::fs::read(out.join("result.json")).unwrap(), std::fs::read(&json).unwrap());
    let run: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!((run["program"].as_str(), run["config"]["images"].as_u64()), (Some("classify eval"), Some(40)));
}

#[test]
fn predict_names_five_classes_a_picture() {
    if !has_adapter() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let weights = resnet8(&folder);
    let picture = folder.path().join("a.png");
    image::RgbImage::new(50, 40).save(&picture).unwrap();
    let text = printed(&["predict", "--weights", &weights, picture.to_str().unwrap(), "--quiet"]);
    let line = text.lines().nth(1).unwrap();
    assert!(line.contains("a.png: cat 99.9 %, airplane 0.0 %"), "{line}");
    assert_eq!(line.matches('%').count(), 5);
}

#[test]
fn eval_refuses_bad_input_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let weights = resnet8(&folder);
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let vit = leanvision::nn::ModelSpec::by_name("vit_small32").unwrap().plan().params;
    let tensors: Vec<(&str, &[usize])> = vit.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
    let vit = self::weights(folder.path(), "vit.safetensors", &tensors);
    let vit = vit.to_str().unwrap();
    for (args, part) in [
        (&["--weights", &weights, "--data", "no/such"][..], "no/such: no such file or folder"),
        (&["--weights", &weights, "--data", empty], "empty"),
        (&["--weights", &weights, "--arch", "mnist_cnn"], "look like a ResNet's tensors"),
        (&["--weights", &weights, "--batch", "0"], "--batch"),
        (&["--weights", vit], "give --heads H, --normalize imagenet|cifar|unit|MEAN/STD (or a vit.json beside them)"),
        (&["--weights", vit, "--heads", "7", "--normalize", "unit"], "7 heads do not divide a width of 96"),
        (&["--weights", &weights, "--normalize", "0.5,0.5/1,1"], "2 means and 2 stds, the images have 3 channels"),
        (&["--weights", &weights, "--device", "vulkan:no such adapter"], "no such adapter"),
        (&["--weights", &weights, "--json", "no/such/file"], "no/such/file: cannot be written"),
        (&["--data", "shapes"], "--weights <FILE>"),
    ] {
        let line = refused(&[&["eval"], args].concat());
        assert!(line.contains(part), "{line}");
    }
    let not_a_picture = refused(&["predict", "--weights", &weights, vit]);
    assert!(not_a_picture.contains("vit.safetensors"), "{not_a_picture}");
}

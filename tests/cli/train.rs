//! `classify train` from outside: runs repeat and go on bit for bit, and survive what ends them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::refusal;

/// A folder with IDX files: `n` noisy pictures of 8 x 8 for each split, whose class is where the bright square lies.
fn pictures(folder: &Path, n: usize) -> String {
    for (split, seed) in [("train", 1_u32), ("t10k", 2)] {
        let mut state = seed;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let mut images = [[0, 0, 8, 3], (n as u32).to_be_bytes(), [0, 0, 0, 8], [0, 0, 0, 8]].concat();
        let mut labels = [[0, 0, 8, 1], (n as u32).to_be_bytes()].concat();
        for i in 0..n {
            let class = i % 4;
            labels.push(class as u8);
            for pixel in 0..64 {
                let bright = pixel / 32 == class / 2 && pixel % 8 / 4 == class % 2;
                images.push(noise() / 3 + if bright { 150 } else { 0 });
            }
        }
        std::fs::write(folder.join(format!("{split}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), labels).unwrap();
    }
    folder.to_str().unwrap().to_string()
}

const SMALL: &str = "--arch resnet8 --width 0.25 --batch 16 --lr 0.05 --augment crop --log-every 5";

/// `classify train` with these flags over `data`; the folder is empty or one of ours.
fn command(data: &str, flags: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("classify"));
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    command.args(["train", "--device", &device, "--data", data, "--quiet"]).args(flags.split_whitespace());
    // Runs are compared bit for bit.
    command.env("LEANVISION_TUNE", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn train(data: &str, flags: &str) -> Output {
    command(data, flags).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether there is an adapter to train on; says so where there is none and none is required.
fn ready(data: &str) -> bool {
    let output = train(data, &format!("{SMALL} --steps 1"));
    if text(&output).contains("no adapter") && std::env::var("LEANVISION_REQUIRE_GPU").as_deref() != Ok("1") {
        eprintln!("skipped: {}", text(&output));
        return false;
    }
    assert!(output.status.success(), "{}", text(&output));
    true
}

struct Place {
    folder: tempfile::TempDir,
    data: String,
}

/// Pictures and room for runs; `None` without an adapter.
fn place() -> Option<Place> {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let data = pictures(&data, 64);
    ready(&data).then_some(Place { folder, data })
}

impl Place {
    fn out(&self, name: &str) -> (PathBuf, String) {
        let path = self.folder.path().join(name);
        let flag = path.to_str().unwrap().to_string();
        (path, flag)
    }
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name} in {}: {e}", folder.display()))
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn training_repeats_and_resumes_bit_for_bit() {
    let Some(place) = place() else { return };
    let ((a, out_a), (b, out_b), (c, out_c)) = (place.out("a"), place.out("b"), place.out("c"));
    let flags = format!("{SMALL} --steps 50 --ema 0.9 --seed 3 --micro-batch 8");
    for out in [&out_a, &out_b] {
        let output = train(&place.data, &format!("{flags} --out {out} --json {out}.json"));
        assert!(output.status.success(), "{}", text(&output));
    }
    for name in ["weights.safetensors", "weights_ema.safetensors", "metrics.jsonl", "checkpoint.safetensors"] {
        assert!(read(&a, name) == read(&b, name), "{name} differs between two runs of one seed");
    }
    // The same in three calls, the second of which is told nothing but where to go on.
    let first = train(&place.data, &format!("{flags} --out {out_c} --stop-after 17"));
    assert!(first.status.success(), "{}", text(&first));
    assert_eq!(json(&c.join("result.json"))["top1"], serde_json::Value::Null);
    for stop in ["--stop-after 15", ""] {
        let binary = assert_cmd::cargo::cargo_bin!("classify");
        let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
        let args = format!("train --quiet --log-every 5 --resume {out_c} {stop}");
        let output = Command::new(binary).args(["--device", &device]).args(args.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    for name in ["weights.safetensors", "weights_ema.safetensors", "metrics.jsonl", "checkpoint.safetensors"] {
        assert!(read(&a, name) == read(&c, name), "{name} differs after 17 + 15 + 18 steps");
    }
    // Another seed gives other weights, and the figures are those of the contract.
    let (d, out_d) = place.out("d");
    assert!(train(&place.data, &format!("{SMALL} --steps 50 --seed 4 --out {out_d}")).status.success());
    assert!(read(&a, "weights.safetensors") != read(&d, "weights.safetensors"));
    let figures = json(&PathBuf::from(format!("{out_a}.json")));
    for key in ["top1", "loss_first", "loss_last", "images_per_s", "seconds", "peak_device_bytes"] {
        assert!(figures[key].is_number(), "{key}: {figures}");
    }
    assert!(figures["dispatches_per_step"].as_f64().unwrap() > 50.0, "{figures}");
    assert!(figures["host_ms_per_step"].as_f64().unwrap() > 0.0, "{figures}");
    // Where the square lies is learned in 50 steps; chance is 25 %.
    assert!(figures["top1"].as_f64().unwrap() > 90.0, "{figures}");
    assert!(figures["loss_last"].as_f64().unwrap() < 0.5 * figures["loss_first"].as_f64().unwrap(), "{figures}");
    let report = String::from_utf8(read(&a, "report.html")).unwrap();
    assert!(report.contains("<polyline") && report.contains("top-1"), "no curve in the report");
    // The weights say all that `eval` needs, and give what the run gave.
    let eval = a.join("eval.json");
    let weights = a.join("weights.safetensors");
    let args = ["eval", "--quiet", "--weights", weights.to_str().unwrap(), "--data", &place.data, "--json"];
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    let output = Command::new(assert_cmd::cargo::cargo_bin!("classify"))
        .args(args)
        .args([eval.to_str().unwrap(), "--device", &device])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(json(&eval)["top1"], figures["top1"]);
}

#[test]
fn training_in_half_precision_repeats_and_resumes_bit_for_bit() {
    let Some(place) = place() else { return };
    let ((a, out_a), (b, out_b)) = (place.out("a"), place.out("b"));
    let small = SMALL.replace("--lr 0.05", "--lr 0.01 --optimizer adamw");
    let flags = format!("{small} --steps 40 --precision f16 --ema 0.9 --clip 5 --micro-batch 8");
    let output = train(&place.data, &format!("{flags} --out {out_a} --json {out_a}.json"));
    if !output.status.success() {
        // The adapter has no f16, and nothing was begun.
        assert!(refusal(&output).contains("--precision f16 needs 16-bit floats in shaders"), "{}", text(&output));
        assert!(!a.exists(), "something was written");
        return;
    }
    assert!(train(&place.data, &format!("{flags} --out {out_b} --stop-after 13")).status.success());
    let message = refusal(&train(&place.data, &format!("--resume {out_b} --precision f32")));
    assert!(message.contains("recipe.precision \"f16\" there, \"f32\" asked for"), "{message}");
    let output = train(&place.data, &format!("--resume {out_b} --log-every 5"));
    assert!(output.status.success(), "{}", text(&output));
    for name in ["weights.safetensors", "weights_ema.safetensors", "metrics.jsonl", "checkpoint.safetensors"] {
        assert!(read(&a, name) == read(&b, name), "{name} differs after 13 + 27 steps");
    }
    let figures = json(&PathBuf::from(format!("{out_a}.json")));
    assert!(figures["top1"].as_f64().unwrap() > 80.0, "{figures}");
    // It starts at 2^16, and each skipped step halves it.
    let (scale, skipped) = (figures["loss_scale"].as_f64().unwrap(), figures["skipped_steps"].as_u64().unwrap());
    assert_eq!(scale, 65_536.0 / 2.0_f64.powi(skipped as i32), "{figures}");
    let lines = String::from_utf8(read(&a, "metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.iter().rfind(|line| line["loss"].is_number()).unwrap();
    assert_eq!((last["loss_scale"].as_f64(), last["skipped_steps"].as_u64()), (Some(scale), Some(skipped)), "{last}");
    // The weights are those of the f32 master copy.
    let (weights, eval) = (a.join("weights.safetensors"), a.join("eval.json"));
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    let args = ["eval", "--quiet", "--weights", weights.to_str().unwrap(), "--data", &place.data, "--json"];
    let output = Command::new(assert_cmd::cargo::cargo_bin!("classify"))
        .args(args)
        .args([eval.to_str().unwrap(), "--device", &device])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(json(&eval)["top1"], figures["top1"]);
}

#[test]
fn training_refuses_what_cannot_be() {
    let Some(place) = place() else { return };
    let (run, out) = place.out("run");
    let output = train(&place.data, &format!("{SMALL} --steps 4 --out {out}"));
    assert!(output.status.success(), "{}", text(&output));
    let (empty, out_empty) = place.out("empty");
    std::fs::create_dir(&empty).unwrap();
    let data = &place.data;
    let refused = |flags: &str| refusal(&train(data, flags));
    let cases = [
        ("--arch resnet8 --batch 0", "--batch 0: 1 to 64 wanted"),
        ("--arch resnet8 --batch 65", "as there are 64 items"),
        ("--arch resnet8 --steps 0", "0 steps asked for"),
        ("--arch resnet21", "no network is called"),
        ("--arch vit_small32 --width 2", "does not come in this width"),
        ("--arch vit_small32", "images of 8x8 pixels"),
        ("--arch resnet8 --batch 16 --micro-batch 5", "does not divide the batch"),
        ("--arch resnet8 --optimizer sdg", "sgd, nesterov, lars, adam or adamw wanted"),
        ("--arch resnet8 --lr nan", "--lr"),
        ("--arch resnet8 --precision f64", "f64 is neither f32 nor f16"),
        ("--arch resnet8 --momentum 1", "--momentum 1"),
        ("--arch resnet8 --schedule sine", "sine"),
        ("--arch resnet8 --label-smoothing 1", "--label-smoothing 1"),
    ];
    for (flags, want) in cases {
        let message = refused(flags);
        assert!(message.contains(want), "{flags}: {message}");
    }
    let (_, out_large) = place.out("large");
    // 2 GiB of activations in the widest layer, on adapters that bind less.
    let large = format!("--data shapes --images 8192 --arch resnet8 --width 8 --batch 8192 --out {out_large}");
    let line =
        format!("train --quiet --device {} {large}", std::env::var("LEANVISION_DEVICE").unwrap_or("auto".into()));
    let output =
        Command::new(assert_cmd::cargo::cargo_bin!("classify")).args(line.split_whitespace()).output().unwrap();
    let message = refusal(&output);
    assert!(message.contains("--micro-batch") && message.contains("4294967296 asked"), "{message}");
    assert!(!Path::new(&out_large).join("run.json").exists(), "something was written");
    assert!(refused(&format!("--out {out}")).contains("holds a training run"));
    assert!(refused(&format!("--resume {out_empty}")).contains("holds no training run"));
    let message = refused(&format!("--resume {out} --batch 8 --lr 0.5 --arch resnet14"));
    for part in ["arch \"resnet8\" there, \"resnet14\"", "recipe.batch 16 there, 8", "recipe.lr 0.05 there, 0.5"] {
        assert!(message.contains(part), "{message}");
    }
    // Checkpoints of other kinds, versions and lengths.
    let path = run.join("checkpoint.safetensors");
    let good = std::fs::read(&path).unwrap();
    let resume = format!("--resume {out}");
    std::fs::write(&path, &good[..good.len() - 100]).unwrap();
    assert!(refused(&resume).contains("truncated"));
    std::fs::copy(run.join("weights.safetensors"), &path).unwrap();
    assert!(refused(&resume).contains("no checkpoint of a training run"));
    let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    let other = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION").replace('.', "9"));
    let at = good.windows(version.len()).position(|bytes| bytes == version.as_bytes()).expect("a version");
    let changed = [&good[..at], other.as_bytes(), &good[at + version.len()..]].concat();
    std::fs::write(&path, changed).unwrap();
    assert!(refused(&resume).contains("this is version"));
    std::fs::write(&path, &good).unwrap();
    assert!(train(data, &resume).status.success(), "a run at its end has nothing to do");
}

#[test]
fn the_test_images_are_others_than_those_it_learns_from() {
    let Some(place) = place() else { return };
    let data = Path::new(&place.data);
    let copy = |what: &str| {
        std::fs::copy(data.join(format!("train-{what}")), data.join(format!("t10k-{what}"))).unwrap();
    };
    copy("images-idx3-ubyte");
    copy("labels-idx1-ubyte");
    let message = refusal(&train(&place.data, &format!("{SMALL} --steps 4")));
    assert!(message.contains("the test images are those it would learn from"), "{message}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint() {
    let Some(place) = place() else { return };
    let (run, out) = place.out("run");
    let flags = format!("{SMALL} --steps 40 --schedule step:at=2,gamma=1e38 --checkpoint-every 3 --out {out}");
    let output = train(&place.data, &flags);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the last good checkpoint is") && message.lines().count() == 1, "{message}");
    // A checkpoint takes the place of the one before only when the loss behind it is known to be a number.
    let head = String::from_utf8_lossy(&read(&run, "checkpoint.safetensors")[..3000]).into_owned();
    let number = |text: &str, before: &str| -> u64 {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    };
    let (saved, failed) = (number(&head, "\"step\":\""), number(&message, "classify train: step "));
    assert!(saved >= 6 && failed >= saved + 2, "saved behind step {saved}, failed at {failed}");
}

/// Waits until the run has written `n` lines of metrics, so that it is in the middle of its work.
fn wait_for_lines(folder: &Path, n: usize, child: &mut Child) {
    let start = Instant::now();
    loop {
        let lines = std::fs::read_to_string(folder.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        let ended = child.try_wait().unwrap();
        if lines >= n || ended.is_some() || start.elapsed() > Duration::from_secs(120) {
            assert!(lines >= n, "the run ended before it was stopped: {ended:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn kill(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn signals_end_a_run_in_good_order() {
    let Some(place) = place() else { return };
    let (whole, out_whole) = place.out("whole");
    let flags = format!("{SMALL} --steps 300");
    assert!(train(&place.data, &format!("{flags} --out {out_whole}")).status.success());
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let (run, out) = place.out(signal);
        let mut child = command(&place.data, &format!("{flags} --out {out}")).spawn().unwrap();
        wait_for_lines(&run, 3, &mut child);
        kill(&child, signal);
        let output = child.wait_with_output().unwrap();
        let message = text(&output);
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains("--resume") && message.lines().count() == 1, "{message}");
        let output = train(&place.data, &format!("--resume {out}"));
        assert!(output.status.success(), "{}", text(&output));
        assert!(read(&run, "weights.safetensors") == read(&whole, "weights.safetensors"), "{signal} changed the run");
    }
}

/// Kills a run again and again, and lets it go on each time. `LEANVISION_KILLS` says how often.
#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let Some(place) = place() else { return };
    let n_kills: u32 = std::env::var("LEANVISION_KILLS").map_or(4, |n| n.parse().unwrap());
    let (whole, out_whole) = place.out("whole");
    let flags = format!("{SMALL} --steps 400 --checkpoint-every 7");
    let start = Instant::now();
    assert!(train(&place.data, &format!("{flags} --out {out_whole}")).status.success());
    let usual = start.elapsed();
    let mut state = 12_345_u32;
    let mut killed = 0;
    for round in 0.. {
        let (run, out) = place.out(&format!("run{round}"));
        loop {
            let begun = run.join("run.json").exists();
            let flags =
                if begun { format!("--resume {out} --checkpoint-every 7") } else { format!("{flags} --out {out}") };
            let mut child = command(&place.data, &flags).spawn().unwrap();
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let after = usual.mul_f64(0.9 * f64::from(state >> 8) / f64::from(1 << 24));
            let start = Instant::now();
            while killed < n_kills && start.elapsed() < after && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            if killed < n_kills && child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                killed += 1;
                continue;
            }
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "behind {killed} kills: {}", text(&output));
            break;
        }
        assert!(read(&run, "weights.safetensors") == read(&whole, "weights.safetensors"), "behind {killed} kills");
        let left = std::fs::read_dir(&run)
            .unwrap()
            .filter(|f| f.as_ref().unwrap().path().to_string_lossy().contains("checkpoint"));
        assert_eq!(left.count(), 1, "killed writes left their files");
        if killed >= n_kills {
            break;
        }
    }
    eprintln!("killed {killed} times");
}

/// A limit on the size of files stands in for a full disk: the write fails in the middle.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_only_the_new_checkpoint() {
    let Some(place) = place() else { return };
    let (run, out) = place.out("run");
    let output = train(&place.data, &format!("{SMALL} --steps 20 --stop-after 5 --out {out}"));
    assert!(output.status.success(), "{}", text(&output));
    let before = read(&run, "checkpoint.safetensors");
    // 16 KiB hold the lines and the page, but no checkpoint.
    assert!(before.len() > 32 << 10, "{} bytes", before.len());
    let program = assert_cmd::cargo::cargo_bin!("classify");
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    let line = format!(
        "trap '' XFSZ; ulimit -f 32; exec {} train --quiet --device {device} --resume {out}",
        program.display()
    );
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let message = text(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the last good checkpoint is") && message.lines().count() == 1, "{message}");
    assert!(read(&run, "checkpoint.safetensors") == before, "the checkpoint before was touched");
    assert!(std::fs::read_dir(&run).unwrap().all(|f| !f.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
    assert!(train(&place.data, &format!("--resume {out}")).status.success());
}

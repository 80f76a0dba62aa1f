//! `ssl` from outside: runs go on bit for bit, figures are there, bad input is refused in one line.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::refusal;

/// A small backbone over procedural images, five steps an epoch.
const BARE: &str =
    "--data shapes --images 84 --test-images 40 --arch resnet8 --width 0.25 --batch 16 --log-every 5 --eval-epochs 2";
/// The same for methods with heads and a bank.
const BANKED: &str = "--data shapes --images 84 --test-images 40 --arch resnet8 --width 0.25 --batch 16 --bank 32 \
     --head-hidden 32 --head-out 16 --log-every 5 --eval-epochs 2";
/// And neighbours.
const SMALL: &str = "--data shapes --images 84 --test-images 40 --arch resnet8 --width 0.25 --batch 16 --bank 32 --topk 3 \
     --head-hidden 32 --head-out 16 --log-every 5 --eval-epochs 2";

fn command(flags: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ssl"));
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    command.args(flags.split_whitespace()).args(["--device", &device, "--quiet"]);
    // Runs are compared bit for bit.
    command.env("LEANVISION_TUNE", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ssl(flags: &str) -> Output {
    command(flags).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether there is an adapter to train on; says so where there is none and none is required.
fn ready() -> bool {
    let output = ssl(&format!("pretrain {BARE} --method byol --steps 1"));
    if text(&output).contains("no adapter") && std::env::var("LEANVISION_REQUIRE_GPU").as_deref() != Ok("1") {
        eprintln!("skipped: {}", text(&output));
        return false;
    }
    assert!(output.status.success(), "{}", text(&output));
    true
}

fn done(flags: &str) {
    let output = ssl(flags);
    assert!(output.status.success(), "{flags}: {}", text(&output));
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The lines of `metrics.jsonl`.
fn lines(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// 20 steps in one call and in three, of which the later ones are told nothing but where to go on; one stops where an evaluation
/// is due.
fn goes_on(folder: &Path, name: &str, small: &str, flags: &str) {
    let [whole, parts] = ["whole", "parts"].map(|part| folder.join(format!("{name}-{part}")));
    let (whole_flag, parts_flag) = (whole.to_str().unwrap(), parts.to_str().unwrap());
    let (sub, rest) = flags.split_once(' ').unwrap();
    done(&format!("{sub} {small} {rest} --steps 20 --seed 4 --out {whole_flag}"));
    done(&format!("{sub} {small} {rest} --steps 20 --seed 4 --out {parts_flag} --stop-after 7"));
    done(&format!("{sub} --resume {parts_flag} --log-every 5 --stop-after 3"));
    done(&format!("{sub} --resume {parts_flag} --log-every 5"));
    for file in ["checkpoint.safetensors", "weights.safetensors", "metrics.jsonl"] {
        let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
        assert!(read(&whole) == read(&parts), "{name}: {file} differs between one call and several");
    }
    let last = lines(&whole).into_iter().rfind(|line| line.get("spread").is_some()).unwrap();
    assert_eq!(last["step"], 20, "{name}");
    assert!(last["knn"]["weighted20"].as_f64().is_some_and(|v| (0.0..=100.0).contains(&v)), "{name}: {last}");
}

#[test]
fn runs_go_on_bit_for_bit() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (method, small) in [
        ("msf", SMALL),
        ("cmsf-2q", SMALL),
        ("cmsf-km --clusters 8", SMALL),
        ("cmsf-semi --labels 0.5 --threshold 0.3", SMALL),
        ("isd", BANKED),
        ("simsiam", BARE),
        ("moco-v2 --micro-batch 8 --bank-precision f32", BANKED),
    ] {
        let name = method.split_whitespace().next().unwrap();
        goes_on(folder.path(), name, small, &format!("pretrain --method {method}"));
    }
}

#[test]
fn students_go_on_bit_for_bit_and_take_what_is_kept() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let teacher = folder.path().join("teacher");
    done(&format!("pretrain {BARE} --method byol --steps 5 --out {}", teacher.display()));
    let weights = teacher.join("weights.safetensors");
    let weights = weights.display();
    let sub = format!("distill --teacher {weights}");
    for (name, rest) in [
        ("simreg", "--method simreg --teacher-views 2"),
        ("compress-1q", "--method compress-1q --bank 32 --teacher-views 2"),
        ("compress-2q", "--method compress-2q --bank 32"),
    ] {
        let [whole, parts] = ["whole", "parts"].map(|part| folder.path().join(format!("{name}-{part}")));
        let small = BARE;
        done(&format!("{sub} {small} {rest} --steps 20 --out {} --json {}.json", whole.display(), whole.display()));
        done(&format!("{sub} {small} {rest} --steps 20 --out {} --stop-after 12", parts.display()));
        done(&format!("distill --resume {} --log-every 5", parts.display()));
        for file in ["checkpoint.safetensors", "weights.safetensors", "metrics.jsonl"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{name}: {file} differs between one call and several");
        }
        let report = json(&folder.path().join(format!("{name}-whole.json")));
        assert!(report["teacher_knn"]["uniform1"].as_f64().is_some(), "{name}: {report}");
        assert_eq!(whole.join("teacher_features.safetensors").exists(), name != "compress-2q");
    }
    // What a spoilt cache costs is a line, not the run.
    let cache = folder.path().join("simreg-whole/teacher_features.safetensors");
    let mut bytes = std::fs::read(&cache).unwrap();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    std::fs::write(&cache, &bytes).unwrap();
    let again = folder.path().join("again");
    let out = again.display();
    let cached = cache.parent().unwrap().display();
    let flags = format!("{sub} {BARE} --method simreg --teacher-views 2 --steps 20 --cache {cached} --out {out}");
    let output = ssl(&flags);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("teacher_features.safetensors"), "{}", text(&output));
    let read = |folder: &Path| std::fs::read(folder.join("weights.safetensors")).unwrap();
    assert!(read(&again) == read(&folder.path().join("simreg-whole")));
}

#[test]
fn half_precision_trains_and_goes_on() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let probe = ssl(&format!("pretrain {BARE} --method byol --steps 1 --precision f16"));
    if text(&probe).contains("16-bit floats") {
        eprintln!("skipped: {}", text(&probe));
        return;
    }
    goes_on(folder.path(), "semi-f16", SMALL, "pretrain --method cmsf-semi --labels 0.5 --precision f16");
}

#[test]
fn figures_and_files_of_a_run_are_there() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (run, file) = (out.display(), folder.path().join("run.json"));
    done(&format!(
        "pretrain {SMALL} --method cmsf-2q --steps 10 --linear --show-views --out {run} --json {}",
        file.display()
    ));
    let report = json(&file);
    for key in ["loss_last", "images_per_s", "peak_device_bytes", "macs_per_image", "seconds", "purity"] {
        assert!(report[key].as_f64().is_some_and(f64::is_finite), "{key}: {report}");
    }
    for protocol in ["uniform1", "uniform20", "weighted20", "weighted200"] {
        let [last, best] = ["last", "best"].map(|which| report["knn"][protocol][which].as_f64().unwrap());
        assert!((0.0..=100.0).contains(&last) && best >= last, "{protocol}: {report}");
    }
    assert!(report["linear"]["standardized"]["last"].as_f64().is_some(), "{report}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in ["Nearest neighbours", "Linear probes", "Effective rank", "Where features lie", "Views"] {
        assert!(page.contains(part), "{part}");
    }
    assert!(out.join("views.png").exists() && out.join("run.json").exists());
    // The backbone as others find it, and judged again: the same figures as behind the last step.
    let weights = out.join("weights.safetensors");
    let again = folder.path().join("eval.json");
    let data = "--data shapes --images 84 --test-images 40";
    done(&format!("eval --weights {} {data} --protocol knn --json {}", weights.display(), again.display()));
    for protocol in ["uniform1", "uniform20"] {
        let (now, then) = (json(&again)["knn"][protocol].as_f64().unwrap(), report["knn"][protocol]["last"].as_f64());
        // Folded norms round otherwise; of 40 images one may change sides.
        assert!((now - then.unwrap()).abs() <= 2.6, "{protocol}: {now} against {then:?}");
    }
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let one_line = |flags: &str, says: &str| {
        let refusal = refusal(&ssl(flags));
        assert!(refusal.contains(says), "{flags}: {refusal}");
    };
    one_line(&format!("pretrain {BARE} --bank 40"), "multiple of the batch");
    one_line(&format!("pretrain {BANKED} --topk 33"), "1 to 32");
    one_line(&format!("pretrain {BARE} --bank 16 --topk 17"), "1 to 16");
    one_line(&format!("pretrain {SMALL} --method cmsf-km --clusters 85"), "84 images");
    one_line(&format!("pretrain {SMALL} --method cmsf-semi --labels 0"), "--labels 0");
    one_line(&format!("pretrain {BANKED} --method isd --temperature 0"), "--temperature 0");
    one_line(&format!("pretrain {SMALL} --crop-min 2"), "area");
    one_line(&format!("pretrain {BARE} --head-out 10"), "multiple of 4");
    // Flags that would do nothing.
    for (flags, says) in [
        ("--method msf --temperature 0.1", "moco-v2, isd"),
        ("--method byol --topk 3", "msf"),
        ("--method simsiam --ema 0.9", "target network"),
        ("--method simsiam --ema-course cosine", "--ema"),
        ("--method byol --bank 32", "memory bank"),
        ("--method msf --labels 0.5", "cmsf-semi"),
        ("--method msf --query-view weak --blur 0.5", "strong"),
    ] {
        one_line(&format!("pretrain {BARE} {flags}"), says);
    }
    one_line(&format!("pretrain {SMALL} --method mcof"), "mcof");
    one_line(&format!("pretrain {SMALL} --method simreg"), "simreg");
    one_line(
        &format!("distill {} ", SMALL.replace("--topk 3", "").replace("--head-hidden 32 --head-out 16", "")),
        "--teacher",
    );
    one_line("pretrain --arch resnet21 --data shapes", "resnet21");
    one_line("eval --weights nowhere.safetensors", "nowhere.safetensors");
    one_line("pretrain --resume nowhere", "nowhere");
    // Pictures without classes have no labels to learn from, and one that cannot be read is named.
    let folder = tempfile::tempdir().unwrap();
    for i in 0..4_u8 {
        let pixels = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([i * 60, (x * 30) as u8, (y * 30) as u8]));
        pixels.save(folder.path().join(format!("{i}.png"))).unwrap();
    }
    let data = folder.path().display();
    let flags = "--arch resnet8 --width 0.25 --batch 2 --bank 4 --topk 1 --side 32";
    one_line(&format!("pretrain --data {data} {flags} --method cmsf-sup --steps 1"), "no labels");
    std::fs::write(folder.path().join("bad.png"), b"not a picture").unwrap();
    one_line(&format!("pretrain --data {data} {flags} --steps 1"), "bad.png");
}

#[test]
fn a_folder_without_classes_trains_and_is_told_what_is_skipped() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for i in 0..8_u8 {
        let pixels = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([i * 30, (x * 30) as u8, (y * 30) as u8]));
        pixels.save(folder.path().join(format!("{i}.png"))).unwrap();
    }
    std::fs::write(folder.path().join("bad.png"), b"not a picture").unwrap();
    let data = folder.path().display();
    let file = folder.path().join("run.json");
    let flags = "--arch resnet8 --width 0.25 --batch 4 --bank 16 --topk 2 --side 16 --steps 3 --skip-bad";
    let output = ssl(&format!("pretrain --data {data} {flags} --method msf --json {}", file.display()));
    assert!(output.status.success(), "{}", text(&output));
    // Twice as many entries as images: older views of the same images.
    let said = text(&output);
    assert!(said.contains("bad.png") && said.contains("2.0 times"), "{said}");
    let report = json(&file);
    assert_eq!((&report["knn"], &report["purity"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert!(report["last"]["same_image"].as_f64().is_some(), "{report}");
}

#[test]
fn another_configuration_is_refused_with_every_difference() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let run = out.display();
    done(&format!("pretrain {SMALL} --method msf --steps 10 --stop-after 2 --out {run}"));
    let refused = refusal(&ssl(&format!("pretrain --resume {run} --topk 4 --lr 0.5 --bank 48")));
    for part in ["topk 3 there, 4 asked for", "bank 32 there, 48", "recipe.lr"] {
        assert!(refused.contains(part), "{refused}");
    }
    let refused = refusal(&ssl(&format!("pretrain {SMALL} --method msf --steps 10 --out {run}")));
    assert!(refused.contains("--resume"), "{refused}");
    let refused = refusal(&ssl(&format!("distill --resume {run}")));
    assert!(refused.contains("other command"), "{refused}");
}

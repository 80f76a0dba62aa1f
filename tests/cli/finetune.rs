//! `finetune` from outside: runs go on bit for bit, figures and files are there, bad input is refused in one line.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::refusal;

/// A small convolutional network on random weights, over procedural images.
const SMALL: &str = "--base resnet8 --data shapes --images 48 --test-images 20 --k 6 --rank 2 --batch 16 --log-every 1";

fn command(flags: &str) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("finetune"));
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    command.args(flags.split_whitespace()).args(["--device", &device, "--quiet"]);
    // Runs are compared bit for bit.
    command.env("LEANVISION_TUNE", "off");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finetune(flags: &str) -> Output {
    command(flags).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether there is an adapter to train on; says so where there is none and none is required.
fn ready() -> bool {
    let output = finetune(&format!("train {SMALL} --method linear --steps 1"));
    if text(&output).contains("no adapter") && std::env::var("LEANVISION_REQUIRE_GPU").as_deref() != Ok("1") {
        eprintln!("skipped: {}", text(&output));
        return false;
    }
    assert!(output.status.success(), "{}", text(&output));
    true
}

fn done(flags: &str) {
    let output = finetune(flags);
    assert!(output.status.success(), "{flags}: {}", text(&output));
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn runs_go_on_bit_for_bit() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for method in ["nola", "pranc --bits 4 --qat", "lora --micro-batch 8"] {
        let name = method.split_whitespace().next().unwrap();
        let [whole, parts] = ["whole", "parts"].map(|part| folder.path().join(format!("{name}-{part}")));
        let flags = format!("train {SMALL} --method {method} --steps 9 --seed 3");
        done(&format!("{flags} --out {}", whole.display()));
        done(&format!("{flags} --out {} --stop-after 4", parts.display()));
        done(&format!("train --resume {} --log-every 1", parts.display()));
        for file in ["checkpoint.safetensors", "adapter.safetensors", "metrics.jsonl"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{name}: {file} differs between one call and two");
        }
    }
    // Of several runs, those that are done are not done again.
    let several = folder.path().join("several");
    let flags =
        format!("train {SMALL} --method nola --steps 3 --seeds 2 --json {}", several.with_extension("json").display());
    done(&format!("{flags} --out {}", several.display()));
    let first = json(&several.with_extension("json"));
    std::fs::remove_file(several.join("seed-1/seed.json")).unwrap();
    std::fs::remove_file(several.join("seed-0/checkpoint.safetensors")).unwrap();
    done(&format!("train --resume {} --json {}", several.display(), several.with_extension("again").display()));
    let again = json(&several.with_extension("again"));
    assert_eq!((&first["accuracy_mean"], &first["accuracy_std"]), (&again["accuracy_mean"], &again["accuracy_std"]));
    let refused = refusal(&finetune(&format!("train --resume {} --k 7", several.display())));
    assert!(refused.contains("adapter.k 6 there, 7 asked for"), "{refused}");
    let refused = refusal(&finetune(&format!("{flags} --out {}", several.display())));
    assert!(refused.contains("--resume"), "{refused}");
}

#[test]
fn figures_and_files_of_a_run_are_there() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (out, file) = (folder.path().join("run"), folder.path().join("run.json"));
    done(&format!("train {SMALL} --method nola --steps 6 --out {} --json {}", out.display(), file.display()));
    let report = json(&file);
    for key in [
        "accuracy_mean",
        "accuracy_std",
        "trainable",
        "file_bytes",
        "step_ms",
        "step_ms_lora",
        "peak_device_bytes",
        "basis_draws_per_s",
    ] {
        assert!(report[key].as_f64().is_some_and(f64::is_finite), "{key}: {report}");
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("trained numbers") && page.contains("adapters in a GiB"));
    // Judged again in another process: the same figure, merged or not.
    let adapter = out.join("adapter.safetensors");
    let eval = format!("eval --base resnet8 --adapter {} --data shapes --images 20", adapter.display());
    for rest in ["", "--merged"] {
        let again = folder.path().join("eval.json");
        done(&format!("{eval} {rest} --json {}", again.display()));
        assert_eq!(json(&again)["accuracy"], report["accuracy_mean"], "{rest}");
    }
    // Merged, it is a network like any other.
    let merged = folder.path().join("merged");
    done(&format!("export --base resnet8 --adapter {} --as merged --out {}", adapter.display(), merged.display()));
    let weights = merged.join("merged.safetensors");
    let mut classify = Command::new(assert_cmd::cargo::cargo_bin!("classify"));
    let device = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    let again = folder.path().join("classify.json");
    classify.args(["eval", "--data", "shapes", "--images", "20", "--quiet", "--device", &device, "--json"]);
    let output = classify.arg(&again).arg("--weights").arg(&weights).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(json(&again)["top1"], report["accuracy_mean"]);
}

/// Pictures of two classes in folders, `n` of each.
fn pictures(folder: &Path, n: u8) -> PathBuf {
    let data = folder.join("pictures");
    for (class, shade) in [("bright", 200_u8), ("dark", 10)] {
        std::fs::create_dir_all(data.join(class)).unwrap();
        for i in 0..n {
            let pixels =
                image::RgbImage::from_fn(24, 24, |x, y| image::Rgb([shade, (x as u8).wrapping_mul(i), y as u8]));
            pixels.save(data.join(class).join(format!("{i}.png"))).unwrap();
        }
    }
    data
}

#[test]
fn a_folder_of_pictures_is_learned_with_one_command() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = pictures(folder.path(), 12);
    let (out, file) = (folder.path().join("run"), folder.path().join("run.json"));
    done(&format!(
        "train --base vit_small32 --data {} --shots 4 --steps 4 --out {} --json {}",
        data.display(),
        out.display(),
        file.display()
    ));
    let report = json(&file);
    assert_eq!((&report["n_train"], &report["n_test"]), (&8.into(), &12.into()), "half of each class is held out");
    assert!(out.join("adapter.safetensors").exists());
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let one_line = |flags: &str, says: &str| {
        let refusal = refusal(&finetune(flags));
        assert!(refusal.contains(says), "{flags}: {refusal}");
    };
    one_line("train --data shapes", "--base");
    one_line("train --base nowhere.safetensors", "nowhere.safetensors");
    one_line("train --base resnet21", "resnet21");
    for (flags, says) in [
        ("--rank 0", "--rank 0"),
        ("--k 0", "--k 0"),
        ("--bits 5", "5 bits"),
        ("--qat", "--bits"),
        ("--method lora --bits 8", "no coefficients"),
        ("--alpha 0", "--alpha 0"),
        ("--targets mlp", "layer1.*.conv1"),
        ("--classes 4-30", "classes"),
        ("--shots 1000", "to learn from"),
        ("--holdout 2", "--holdout 2"),
        ("--classes 0-3 --keep-head", "10 classes apart"),
        ("--basis gauss", "gauss"),
        ("--label-smoothing 1", "--label-smoothing 1"),
        ("--precision f16", "32 bits"),
        ("--ema 0.9", "--ema"),
        ("--method pranc --alpha 3", "--alpha"),
        ("--basis srht --k 4000", "--k 4000"),
        ("--classes 0-4294967295", "classes"),
        ("--method full --base-bits int8", "--base-bits"),
    ] {
        one_line(
            &format!(
                "train {} {flags}",
                SMALL.replace(
                    "--k 6 --rank 2",
                    if flags.contains("--k ") || flags.contains("--rank ") { "" } else { "--k 6 --rank 2" }
                )
            ),
            says,
        );
    }
    one_line("eval --base resnet8 --adapter nowhere.safetensors", "nowhere.safetensors");
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    done(&format!("train {SMALL} --method nola --steps 2 --out {}", out.display()));
    let adapter = out.join("adapter.safetensors");
    let bytes = std::fs::read(&adapter).unwrap();
    let eval = |base: &str, adapter: &Path, says: &str| {
        let flags = format!("eval --base {base} --adapter {} --data shapes --images 20", adapter.display());
        let refusal = refusal(&finetune(&flags));
        assert!(refusal.contains(says), "{says}: {refusal}");
    };
    eval("resnet14", &adapter, "another network");
    let changed = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    eval("resnet8", &changed("short.safetensors", &bytes[..bytes.len() - 40]), "truncated");
    // The last tensor's last value is no number.
    let mut spoilt = bytes.clone();
    let end = spoilt.len();
    spoilt[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    eval("resnet8", &changed("nan.safetensors", &spoilt), "no number");
    let text = |old: &str, new: &str| {
        assert_eq!(old.len(), new.len());
        let at = bytes.windows(old.len()).position(|w| w == old.as_bytes()).unwrap();
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
        bytes
    };
    eval("resnet8", &changed("newer.safetensors", &text("\"version\":\"1\"", "\"version\":\"9\"")), "format 9");
    eval("resnet8", &changed("other.safetensors", &text("\"nola", "\"cola")), "cola");
    eval("resnet8", &changed("plain.safetensors", &text("leanvision adapter", "leanvision weights")), "no adapter");
    eval("resnet8", &changed("rank.safetensors", &text("\\\"k\\\":6", "\\\"k\\\":7")), "does not fit");
}

#[test]
fn many_adapters_are_served_and_measured() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.json");
    let small = "serve-bench --batch 3 --batches 3 --k 4 --rank 2";
    done(&format!("{small} --adapters 7 --places 5 --storage int8 --json {}", file.display()));
    let report = json(&file);
    for key in ["formed_per_s", "hit_rate", "p50_ms", "p99_ms", "single_ms", "distinct_ms", "swap_ms"] {
        assert!(report[key].as_f64().is_some_and(|v| v >= 0.0), "{key}: {report}");
    }
    assert!(report["max_difference"].as_f64().unwrap() <= 1e-5 && report["pipelines_made"] == 0, "{report}");
    assert_eq!((&report["adapters"], &report["numbers"]), (&7.into(), &(12 * 2 * 4).into()));
    for (flags, part) in [
        ("--adapters 2 --places 5", "--batch 3: at most --adapters 2"),
        ("--adapters 0", "--adapters 0: 1 to"),
        ("--targets fc9", "no such layer"),
        ("--base no.safetensors", "no.safetensors"),
    ] {
        let message = refusal(&finetune(&format!("{small} {flags}")));
        assert!(message.contains(part), "{flags}: {message}");
    }
}

#[test]
fn adapters_of_other_programs_are_compressed() {
    use leanvision::methods::finetune::{LoraFile, LoraLayer};
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let values = |n: usize| (0..n).map(|i| ((i * 37 + i * i) % 23) as f32 / 11.0 - 1.0).collect();
    let (rank, n_in, n_out) = (4, 24, 40);
    let (a, b) = (values(rank * n_in), values(n_out * rank));
    let layer = LoraLayer { name: "q".into(), rank, n_in, n_out, a, b, scale: 2.0 };
    LoraFile { layers: vec![layer], ..LoraFile::default() }.save(folder.path()).unwrap();
    let file = folder.path().join("report.json");
    let of = |flags: &str| format!("compress --adapter {} {flags}", folder.path().display());
    done(&of(&format!("--k 4,16 --rank 2,4 --json {}", file.display())));
    let report = json(&file);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!((&report["numbers"], rows.len()), (&256.into(), 4 + 6 + 4));
    assert!(rows.iter().all(|row| row["error"].as_f64().is_some_and(|e| (0.0..1.2).contains(&e))), "{report}");
    for (flags, part) in [("--rank 5", "the adapter has rank 4"), ("--k 0", "--k 0: 1 to"), ("--k x", "--k")] {
        let message = refusal(&finetune(&of(flags)));
        assert!(message.contains(part), "{flags}: {message}");
    }
}

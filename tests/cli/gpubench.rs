//! `gpubench` from outside.

use assert_cmd::Command;
use serde_json::Value;

use super::refusal;

fn gpubench(args: &[&str]) -> std::process::Output {
    Command::new(assert_cmd::cargo::cargo_bin!("gpubench")).args(args).output().unwrap()
}

fn ran(args: &[&str]) -> Option<String> {
    super::ran(Command::new(assert_cmd::cargo::cargo_bin!("gpubench")).args(args))
}

#[test]
fn gpubench_refuses_bad_flags_in_one_line() {
    for (args, part) in [
        (&["run", "--device", "cuda"][..], "unknown device 'cuda'"),
        (&["run", "--suite", "slow"], "invalid value 'slow' for '--suite"),
        (&["run", "--family", "hats"], "no family is called 'hats'; there are "),
        (&["list", "--family", "hats"], "no family is called 'hats'"),
        (&["run", "--device", "auto:no such adapter"], "no adapter: looked for 'auto:no such adapter'"),
        (&["measure"], "unrecognized subcommand 'measure'"),
        (&["run", "--tune", "--no-tune"], "'--tune' cannot be used with '--no-tune'"),
        (&["--quiet"], "a command is needed: list, run, compare, report, sanitize or coverage"),
    ] {
        let line = refusal(&gpubench(args));
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn gpubench_without_an_adapter_says_how_to_get_one() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpubench"));
    let none = [("VK_ICD_FILENAMES", "/nonexistent"), ("VK_DRIVER_FILES", "/nonexistent")];
    let output = command.args(["run", "--device", "vulkan"]).envs(none).output().unwrap();
    let line = refusal(&output);
    assert!(line.contains("no adapter: looked for 'vulkan', found no adapter at all. "), "{line}");
    if cfg!(target_os = "linux") {
        assert!(line.contains("apt install mesa-vulkan-drivers"), "{line}");
    }
}

#[test]
fn gpubench_finds_unwritable_results_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("out");
    for flag in ["--out", "--json"] {
        let line = refusal(&gpubench(&["run", flag, below.to_str().unwrap()]));
        assert!(line.contains("is a file") || line.contains("cannot be written"), "{line}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn gpubench_lists_what_it_would_run() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("list.json");
    let args = ["list", "--family", "elementwise", "--json", json.to_str().unwrap()];
    let Some(text) = ran(&args) else { return };
    assert!(text.contains("elementwise/add") && text.contains("micro/fma") && !text.contains("matmul/"), "{text}");
    let list: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert!(!list["adapters"].as_array().unwrap().is_empty());
    assert!(list["families"].as_array().unwrap().contains(&Value::from("elementwise")));
    assert!(list["rows"].as_array().unwrap().iter().all(|row| row["shape"].is_string()));
}

#[test]
fn gpubench_lists_what_only_stress_runs() {
    let rows = |suite: &str| ran(&["list", "--family", "sort", "--suite", suite]);
    let (Some(full), Some(stress)) = (rows("full"), rows("stress")) else { return };
    let names = |text: &str, part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert!(stress.contains("rows of --suite stress"), "{stress}");
    // Pairs of the target, and the largest scan.
    assert_eq!((names(&full, "sort_pairs  "), names(&full, "20000000")), (names(&stress, "sort_pairs  "), 1));
    assert_eq!((names(&full, "67108864"), names(&stress, "67108864")), (0, 1));
}

#[test]
fn gpubench_report_has_its_keys_and_finite_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (json, out) = (folder.path().join("run.json"), folder.path().join("out"));
    let args = ["run", "--suite", "quick", "--family", "elementwise"];
    let files = ["--json", json.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let Some(text) = ran(&[&args[..], &files].concat()) else { return };
    assert!(text.contains("elementwise/add") && text.contains("peaks: f32 multiply-add "), "{text}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((report["schema"].as_u64(), report["suite"].as_str()), (Some(1), Some("quick")));
    assert_eq!(report["families"], serde_json::json!(["micro", "elementwise"]));
    for key in ["version", "date"] {
        assert!(report[key].is_string(), "{key}");
    }
    let adapter = &report["adapter"];
    for key in ["name", "driver", "driver_info", "backend", "kind"] {
        assert!(adapter[key].is_string(), "{key}");
    }
    for key in ["vendor", "subgroup_min", "subgroup_max"] {
        assert!(adapter[key].is_u64(), "{key}");
    }
    assert!(adapter["features"]["f16"].is_boolean() && adapter["limits"]["binding_bytes"].is_u64());
    assert!(matches!(report["conditions"]["modules"].as_str(), Some("checked" | "trusted")));
    assert!(report["tuned"].is_array(), "{report}");
    assert!(report["lost"].is_null() && report["wrong"] == serde_json::json!([]), "{report}");

    // JSON has no NaN and no infinity: one would come out as null.
    let peaks = report["peaks"].as_object().unwrap();
    for (name, value) in peaks.iter().filter(|(name, _)| !name.starts_with("fma_f16_")) {
        assert!(value.as_f64().is_some_and(|v| v > 0.0), "{name} {value}");
    }
    for name in ["fma_f16_gflops", "fma_f16_gflop_per_cpu_s"] {
        assert_eq!(peaks[name].is_f64(), adapter["features"]["f16"] == true, "{name}");
    }
    let [cold, warm] = ["cold", "warm"].map(|key| peaks[format!("compile_{key}_ms").as_str()].as_f64().unwrap());
    assert!(warm < cold, "kernels the driver knows take {warm} ms, those it does not {cold} ms");
    for key in ["fma_gflops_start", "fma_gflops_end"] {
        assert!(report["clocks"][key].as_f64().is_some_and(|v| v > 0.0), "{}", report["clocks"]);
    }
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() > 10, "{}", rows.len());
    for row in rows {
        for key in ["name", "shape", "dtype", "variant"] {
            assert!(row[key].is_string(), "{key} of {row}");
        }
        for key in ["ms_median", "ms_p10", "ms_p90", "ms_first", "cpu_ms"] {
            assert!(row[key].as_f64().is_some_and(|v| v > 0.0), "{key} of {row}");
        }
        for key in ["cpu_ms_p10", "cpu_ms_p90", "gflops", "gbps", "max_error", "tolerance"] {
            assert!(row[key].as_f64().is_some_and(|v| v >= 0.0), "{key} of {row}");
        }
        assert!(row["max_error"].as_f64() <= row["tolerance"].as_f64() && row["quality"].is_null(), "{row}");
        assert!(row["drift"].is_null() || row["drift"].as_f64().is_some_and(|v| v > 0.0), "{row}");
        assert_eq!(row["items_per_s"].is_f64(), row["item"].is_string(), "{row}");
        assert!(row["runs"].as_u64().is_some_and(|runs| runs > 0), "{row}");
        let is_micro = row["name"].as_str().unwrap().starts_with("micro/");
        assert_eq!(row["share_of_peak"].as_f64().is_some_and(|share| share > 0.0), !is_micro, "{row}");
    }

    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("elementwise/gelu") && page.contains("<rect class=\"bar\"") && !page.contains("NaN"));
    let about: Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    assert_eq!((about["program"].as_str(), about["config"]["suite"].as_str()), (Some("gpubench"), Some("quick")));
    let result: Value = serde_json::from_slice(&std::fs::read(out.join("result.json")).unwrap()).unwrap();
    assert_eq!(result, report);
}

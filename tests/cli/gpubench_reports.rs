//! `gpubench compare` and `gpubench report` from outside, on reports made by hand.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};

use super::refusal;

fn gpubench(args: &[&str], files: &[&Path]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("gpubench")).args(args).args(files).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A row whose percentiles lie `spread` of the median to either side, and that cost twice its time on the CPU.
fn row(name: &str, (gflops, gbps): (f64, f64), ms: f64, spread: f64) -> Value {
    json!({
        "name": name, "shape": "64", "dtype": "F32", "variant": "auto", "ms_median": ms, "ms_p10": ms * (1.0 - spread),
        "ms_p90": ms * (1.0 + spread), "ms_first": ms, "cpu_ms": 2.0 * ms, "gflops": gflops, "gbps": gbps,
        "items_per_s": null, "item": null, "share_of_peak": if name.starts_with("micro/") { None } else { Some(0.5) },
        "max_error": 0.0, "runs": 5,
    })
}

fn report(adapter: &str, rows: &[Value]) -> Value {
    json!({
        "schema": 1, "version": "0.1.0", "date": "2026-01-02T03:04:05Z", "suite": "quick", "families": ["micro", "matmul"],
        "adapter": {
            "name": adapter, "vendor": 1, "kind": "discrete", "driver": "drv", "driver_info": "1.0", "backend": "vulkan",
            "subgroup_min": 32, "subgroup_max": 32,
            "features": {"subgroup": true, "f16": true, "immediates": true, "timestamps": true, "pipeline_cache": true},
            "limits": {
                "buffer_bytes": 1024, "binding_bytes": 1024, "storage_buffers": 8, "workgroup_bytes": 16384,
                "workgroup_threads": 256, "workgroup_size_x": 256, "groups_per_dimension": 65535, "offset_alignment": 32,
            },
        },
        "conditions": {"modules": "checked", "share_by": "wall time", "system": "linux x86_64", "threads": 2},
        "peaks": {"fma_gflops": 100.0, "memory_gbps": 10.0, "copy_gbps": 8.0, "submit_us": 50.0},
        "rows": rows, "skipped": [], "wrong": [], "lost": null, "seconds": 1.0,
    })
}

fn write(folder: &Path, name: &str, value: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path
}

/// The baseline, and a run in which one row got slower, one faster, and two changed within their noise.
fn pair(folder: &Path) -> [PathBuf; 2] {
    let base = report(
        "First GPU",
        &[
            row("micro/fma", (100.0, 0.0), 1.0, 0.0),
            row("matmul/slower", (50.0, 2.0), 1.0, 0.01),
            row("matmul/faster", (50.0, 2.0), 4.0, 0.01),
            row("norm/noisy", (1.0, 8.0), 1.0, 0.2),
            row("norm/small", (1.0, 8.0), 1.0, 0.0),
            row("norm/base", (0.0, 8.0), 1.0, 0.0),
        ],
    );
    let mut other = report(
        "Second GPU",
        &[
            row("micro/fma", (100.0, 0.0), 1.0, 0.0),
            row("matmul/slower", (25.0, 1.0), 2.0, 0.01),
            row("matmul/faster", (100.0, 4.0), 2.0, 0.01),
            row("norm/noisy", (0.8, 6.4), 1.25, 0.1),
            row("norm/small", (1.0, 8.0), 1.04, 0.0),
            row("norm/other", (1.0, 8.0), 1.0, 0.0),
        ],
    );
    other["peaks"]["copy_gbps"] = json!(16.0);
    other["peaks"]["submit_us"] = json!(25.0);
    other["conditions"]["threads"] = json!(64);
    other["skipped"] =
        json!([{"name": "norm/base", "shape": "64", "dtype": "F32", "variant": "auto", "reason": "slow"}]);
    [write(folder, "base.json", &base), write(folder, "other.json", &other)]
}

fn compared(files: &[&Path], flags: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("compare.json");
    printed(&gpubench(&[&["compare", "--json", json.to_str().unwrap()], flags].concat(), files));
    serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap()
}

fn near(value: &Value, want: f64) {
    assert!(value.as_f64().is_some_and(|v| (v / want - 1.0).abs() < 1e-9), "{value}, not {want}");
}

#[test]
fn gpubench_compare_knows_ratios_from_noise() {
    let folder = tempfile::tempdir().unwrap();
    let [base, other] = pair(folder.path());
    let found = compared(&[&base, &other], &[]);
    let rows = found["rows"].as_array().unwrap();
    let wanted = [
        ("micro/fma", 1.0, 0.05, "same"),
        ("matmul/slower", 0.5, 0.05, "slower"),
        ("matmul/faster", 2.0, 0.05, "faster"),
        // 20 % and 10 % of noise leave a quarter more time open.
        ("norm/noisy", 0.8, 0.3, "same"),
        ("norm/small", 1.0 / 1.04, 0.05, "same"),
    ];
    assert_eq!(rows.len(), wanted.len());
    for (row, (name, speed, band, verdict)) in rows.iter().zip(wanted) {
        let cell = &row["others"][0];
        assert_eq!((row["name"].as_str(), cell["verdict"].as_str()), (Some(name), Some(verdict)), "{row}");
        near(&cell["speed"], speed);
        near(&cell["band"], band);
    }
    let means: Vec<&str> = found["means"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(means, ["micro", "matmul", "norm", "all but micro"]);
    assert_eq!(found["means"][1]["speeds"][0][0], 2);
    near(&found["means"][1]["speeds"][0][1], 1.0);
    near(&found["means"][2]["speeds"][0][1], (0.8f64 / 1.04).sqrt());
    near(&found["means"][3]["speeds"][0][1], (0.8f64 / 1.04).powf(0.25));
    let peak = |name: &str| found["peaks"].as_array().unwrap().iter().find(|peak| peak["name"] == name).unwrap();
    near(&peak("copy kernel")["speeds"][0], 2.0);
    near(&peak("submit and wait")["speeds"][0], 2.0);
    let apart = found["apart"].to_string();
    assert!(apart.contains(r#"{"missing":"not in B (skipped: slow)","rows":["norm/base 64 f32 auto"]}"#), "{apart}");
    assert!(apart.contains(r#"{"missing":"not in A","rows":["norm/other 64 f32 auto"]}"#), "{apart}");

    let text = printed(&gpubench(&["compare"], &[&base, &other]));
    assert!(text.contains("1 faster, 1 slower, 3 the same"), "{text}");
    assert!(text.contains("note: B differs in its adapter: Second GPU, where A has First GPU"), "{text}");
    assert!(
        text.contains("note: B differs in its threads: 64, where A has 2") && !text.contains("its driver"),
        "{text}"
    );
    // Wall time on the CPU is worth a word, on a GPU it is not.
    assert!(!text.contains("--by cpu"), "{text}");
    let mut software: Value = serde_json::from_slice(&std::fs::read(&base).unwrap()).unwrap();
    software["adapter"]["kind"] = json!("cpu");
    let software = write(folder.path(), "software.json", &software);
    let notes = |flags: &[&str]| compared(&[&base, &software], flags)["notes"].to_string();
    assert!(notes(&[]).contains("--by cpu does not") && !notes(&["--by", "cpu"]).contains("--by cpu"));
}

#[test]
fn gpubench_compare_takes_a_time_a_band_and_more_files() {
    let folder = tempfile::tempdir().unwrap();
    let [base, other] = pair(folder.path());
    let mut quick: Value = serde_json::from_slice(&std::fs::read(&base).unwrap()).unwrap();
    for row in quick["rows"].as_array_mut().unwrap() {
        row["cpu_ms"] = json!(row["cpu_ms"].as_f64().unwrap() / 4.0);
    }
    let quick = write(folder.path(), "quick.json", &quick);
    let by_cpu = compared(&[&base, &other, &quick], &["--by", "cpu"]);
    let slower = &by_cpu["rows"][1];
    assert_eq!(
        (slower["others"][0]["verdict"].as_str(), slower["others"][1]["verdict"].as_str()),
        (Some("slower"), Some("faster"))
    );
    near(&slower["ms"], 2.0);
    near(&slower["others"][1]["speed"], 4.0);
    // The row that only the second lacks is in the table, with a gap.
    assert_eq!(
        (by_cpu["rows"][5]["name"].as_str(), by_cpu["rows"][5]["others"][0].is_null()),
        (Some("norm/base"), true)
    );
    // A file without percentiles of the CPU time falls back on the wall time's, which are 20 % to either side here.
    near(&by_cpu["rows"][3]["others"][1]["band"], 0.4);
    let mut steady: Value = serde_json::from_slice(&std::fs::read(&base).unwrap()).unwrap();
    (steady["rows"][3]["cpu_ms_p10"], steady["rows"][3]["cpu_ms_p90"]) = (json!(1.8), json!(2.0));
    let steady = write(folder.path(), "steady.json", &steady);
    near(&compared(&[&steady, &steady], &["--by", "cpu"])["rows"][3]["others"][0]["band"], 0.1);
    let by_wall = compared(&[&base, &quick], &[]);
    assert!(by_wall["rows"].as_array().unwrap().iter().all(|row| row["others"][0]["verdict"] == "same"));
    let narrow = compared(&[&base, &other], &["--band", "1"]);
    assert_eq!(narrow["rows"][4]["others"][0]["verdict"], "slower");
}

#[test]
fn gpubench_compare_can_fail_on_what_got_slower() {
    let folder = tempfile::tempdir().unwrap();
    let [base, other] = pair(folder.path());
    let failed = gpubench(&["compare", "--fail-on-slower"], &[&base, &other]);
    assert_eq!(failed.status.code(), Some(1));
    let line = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(line, "error: 1 slower than A: matmul/slower 64 f32 auto\n");
    assert!(String::from_utf8(failed.stdout).unwrap().contains("1 faster, 1 slower"));
    // Nothing is slower than itself.
    printed(&gpubench(&["compare", "--fail-on-slower"], &[&base, &base]));

    let mut wrong: Value = serde_json::from_slice(&std::fs::read(&base).unwrap()).unwrap();
    wrong["rows"].as_array_mut().unwrap().pop();
    wrong["wrong"] =
        json!([{"name": "norm/base", "shape": "64", "dtype": "F32", "variant": "auto", "reason": "error 1"}]);
    let wrong = write(folder.path(), "wrong.json", &wrong);
    let failed = gpubench(&["compare", "--fail-on-slower"], &[&base, &wrong]);
    let line = String::from_utf8(failed.stderr).unwrap();
    assert_eq!((failed.status.code(), line.as_str()), (Some(1), "error: 1 wrong: norm/base 64 f32 auto (B)\n"));
}

#[test]
fn gpubench_refuses_files_that_are_no_reports() {
    let folder = tempfile::tempdir().unwrap();
    let good = report("GPU", &[row("matmul/a", (1.0, 1.0), 1.0, 0.0)]);
    let base = write(folder.path(), "base.json", &good);
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        write(folder.path(), name, &value)
    };
    let text = folder.path().join("text.json");
    std::fs::write(&text, "not { json").unwrap();
    let cases: [(PathBuf, &str); 9] = [
        (folder.path().join("absent.json"), "absent.json"),
        (folder.path().to_path_buf(), "folder"),
        (text, "text.json: no report of gpubench run: no JSON: expected"),
        (
            write(folder.path(), "list.json", &json!([1, 2])),
            "list.json: no report of gpubench run: peaks, rows or adapter",
        ),
        (changed("new.json", &|v| v["schema"] = json!(7)), "new.json: schema 7, but this gpubench reads schema 1"),
        (
            changed("odd.json", &|v| v["schema"] = json!("one")),
            "odd.json: no report of gpubench run: schema is no number",
        ),
        (changed("row.json", &|v| v["rows"][0]["dtype"] = json!("F33")), "unknown variant `F33`"),
        (changed("kind.json", &|v| v["adapter"]["kind"] = json!("toy")), "unknown variant `toy`"),
        (
            changed("zero.json", &|v| v["rows"][0]["ms_median"] = json!(0.0)),
            "zero.json: no report of gpubench run: matmul/a 64 has no time",
        ),
    ];
    let page = folder.path().join("page.html");
    for (file, part) in &cases {
        let line = refusal(&gpubench(&["compare"], &[&base, file]));
        assert!(line.contains(part), "{line}");
        let line = refusal(&gpubench(&["report", "--file", page.to_str().unwrap()], &[file]));
        assert!(line.contains(part), "{line}");
    }
    assert!(!page.exists());
    let line = refusal(&gpubench(&["compare"], &[&base]));
    assert!(line.contains("one file alone; give the baseline and at least one more"), "{line}");
    let line = refusal(&gpubench(&["compare"], &[]));
    assert!(line.contains("<FILE>..."), "{line}");
    for band in ["-1", "NaN"] {
        let line = refusal(&gpubench(&["compare", &format!("--band={band}")], &[&base, &base]));
        assert!(line.contains("expected 0 to 1000"), "{line}");
    }
    let line = refusal(&gpubench(&["compare", "--by", "moon"], &[&base, &base]));
    assert!(line.contains("invalid value 'moon'"), "{line}");
    let line = refusal(&gpubench(&["report", "--file", base.to_str().unwrap()], &[&base]));
    assert!(line.contains("is a file to report on"), "{line}");
    let below = base.join("page.html");
    let line = refusal(&gpubench(&["report", "--file", below.to_str().unwrap()], &[&base]));
    assert!(line.contains("cannot be written"), "{line}");
}

#[test]
fn gpubench_report_is_a_page_that_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [base, other] = pair(folder.path());
    let page = folder.path().join("page.html");
    let text = printed(&gpubench(&["report", "--file", page.to_str().unwrap()], &[&base, &other]));
    assert!(text.contains("A  First GPU") && text.contains("wrote "), "{text}");
    let html = std::fs::read_to_string(&page).unwrap();
    // Four and five rows count operations and bytes.
    assert_eq!(html.matches("<polyline class=\"dot").count(), 9);
    assert_eq!(html.matches("class=\"lines roofline\"").count(), 2);
    assert!(html.contains(
        "<title>matmul/slower 64 f32 auto: 25 GFLOP/s, 1 GB/s, 25 FLOP per byte, 2 ms, 50 % of the peak</title>"
    ));
    assert!(html.contains("<h2>A: First GPU, vulkan</h2>") && html.contains("<h2>B: Second GPU, vulkan</h2>"));
    assert!(html.contains("<td>slower</td>") && html.contains("not in B (skipped: slow): norm/base 64 f32 auto"));
    assert!(!html.contains(folder.path().to_str().unwrap()) && html.contains("A  base.json: First GPU"));
    assert!(html.contains("its threads: 64, where A has 2"));
    for reference in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "NaN"] {
        assert!(!html.contains(reference), "{reference}");
    }

    // One file alone has nothing to be compared with; its page goes to the run's folder.
    let out = folder.path().join("out");
    printed(&gpubench(&["report", "--out", out.to_str().unwrap()], &[&base]));
    let html = std::fs::read_to_string(out.join("page.html")).unwrap();
    assert_eq!(html.matches("<polyline class=\"dot").count(), 4);
    assert!(html.contains("First GPU") && !html.contains("side by side"));
    let result: Value = serde_json::from_slice(&std::fs::read(out.join("result.json")).unwrap()).unwrap();
    assert_eq!((result["page_bytes"].as_u64(), result["comparison"].is_null()), (Some(html.len() as u64), true));
}

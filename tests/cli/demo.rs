//! The tour from outside.

use assert_cmd::Command;
use serde_json::Value;

use super::{ran, refusal};

fn demo() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("demo"))
}

#[test]
fn demo_leaves_its_page_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let Some(text) = ran(demo().current_dir(folder.path()).env("LEANVISION_CACHE", folder.path().join("cache"))) else {
        return;
    };
    assert!(text.contains("40 pictures to their edges in") && text.contains("cargo run --release --bin"), "{text}");
    let out = folder.path().join("out/demo");
    assert!(text.ends_with("the page: out/demo/report.html\n"), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.matches("src=\"data:image/png;base64,").count() >= 2 && !page.contains("NaN"));
    assert!(!page.contains("http"), "the page fetches something");
    let result: Value = serde_json::from_slice(&std::fs::read(out.join("result.json")).unwrap()).unwrap();
    for key in ["edges_ms", "network_ms"] {
        assert!(result[key].as_f64().is_some_and(|ms| ms > 0.0), "{key}");
    }
    assert!(result["top1"].as_f64().is_some_and(|top1| (0.0..=100.0).contains(&top1)));
    // Chance is 50 %; 77 came out on lavapipe.
    assert!(result["training"]["top1"].as_f64().is_some_and(|top1| top1 > 60.0), "{}", result["training"]);
    let ssl = &result["ssl"];
    let [first, last] = ["loss_first", "loss_last"].map(|key| ssl[key].as_f64().unwrap_or(f64::NAN));
    // 2 before anything is learned.
    assert!((1.5..2.5).contains(&first) && last < 0.7 * first && last > 0.0, "{first} to {last}");
    assert_eq!(ssl["last"]["collapsed"], false, "{ssl}");
    assert_eq!(result["bench"]["wrong"], serde_json::json!([]));
    assert!(text.contains("Its weights are random"), "{text}");
}

#[test]
fn demo_refuses_bad_input_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (args, part) in [
        (&["--device", "cuda"][..], "unknown device 'cuda'"),
        (&["--out", file.to_str().unwrap()], "file"),
        (&["--hats"], "unexpected argument '--hats'"),
    ] {
        let line = refusal(&demo().current_dir(folder.path()).args(args).output().unwrap());
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

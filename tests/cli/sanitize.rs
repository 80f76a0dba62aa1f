//! `gpubench sanitize` from outside: faults planted in kernels, bad input, files in and out. No adapter is needed.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use super::refusal;

/// Each workgroup turns its 64 elements round; what is planted goes where the barrier stands.
const REVERSE: &str = "override SCALE: f32 = 1.0;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
var<workgroup> sh: array<f32, 64>;
@compute @workgroup_size(64)
fn reverse(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {
    sh[i] = x[id.x] * SCALE;
    workgroupBarrier();
    y[id.x] = sh[63 - i];
}
";
const INPUTS: [&str; 6] = ["--input", "x=random:128", "--input", "y=unwritten:128", "--groups", "2"];

fn sanitize(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("gpubench")).arg("sanitize").args(args).output().unwrap()
}

/// A folder with `text` as `kernel.wgsl`.
fn kernel(text: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = at(&folder, "kernel.wgsl");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

fn at(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What a run of `text` prints that must end with `code`.
fn printed(text: &str, args: &[&str], code: i32) -> String {
    let (_folder, path) = kernel(text);
    let output = sanitize(&[&[path.as_str(), "--quiet"], args].concat());
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    out
}

#[test]
fn a_clean_kernel_is_clean_and_its_result_can_be_saved() {
    let (folder, path) = kernel(REVERSE);
    let (out, found) = (at(&folder, "out"), at(&folder, "found.json"));
    let saved = format!("y={}", at(&folder, "y.npy").display());
    let files = ["--out", out.to_str().unwrap(), "--json", found.to_str().unwrap(), "--output", &saved];
    let output = sanitize(&[&[path.as_str(), "--set", "SCALE=2"], &INPUTS[..], &files].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert_eq!(told.lines().count(), 9, "{told}");
    assert!(told.starts_with("subgroups of 8, straight: ") && told.contains("subgroups of 128, random:1: "), "{told}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("kernel.wgsl: clean, 9 runs, "));

    let report = json(&found);
    assert_eq!((report["schema"].as_u64(), report["findings"].as_array().unwrap().len()), (Some(1), 0));
    let runs = report["runs"].as_array().unwrap();
    assert!(runs.len() == 9 && runs.iter().all(|run| run["operations"].as_u64().is_some_and(|n| n > 1000)));
    assert_eq!(json(&out.join("result.json")), report);
    let about = json(&out.join("run.json"));
    assert!(about["adapter"].is_null() && about["config"]["schedule"][2] == "random:1", "{about}");

    // Turned round once more, with half the scale, the same numbers come back.
    let again = format!("x={}", at(&folder, "y.npy").display());
    let back = format!("y={}", at(&folder, "back.npy").display());
    let output = sanitize(&[
        &path,
        "--set",
        "SCALE=0.25",
        "--input",
        &again,
        "--input",
        "y=unwritten:128",
        "--groups",
        "2",
        "--output",
        &back,
    ]);
    assert!(output.status.success());
    let floats = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(at(&folder, name)).unwrap();
        let data = &bytes[bytes.len() - 512..];
        assert!(bytes.starts_with(b"\x93NUMPY") && String::from_utf8_lossy(&bytes).contains("'shape': (128,), }"));
        data.chunks(4).map(|v| f32::from_le_bytes(v.try_into().unwrap())).collect()
    };
    let (y, back) = (floats("y.npy"), floats("back.npy"));
    assert!(y.iter().any(|v| v.abs() > 1.0));
    for (group, half) in y.chunks(64).zip(back.chunks(64)) {
        assert!(group.iter().rev().zip(half).all(|(a, b)| a * 0.25 == *b));
    }
}

#[test]
fn planted_faults_are_told_with_line_and_invocations() {
    let without_barrier = REVERSE.replace("    workgroupBarrier();\n", "\n");
    let divergent = REVERSE.replace("    workgroupBarrier();", "    if i < 9 { workgroupBarrier(); }");
    let uninitialised = REVERSE.replace("    sh[i] = ", "    if i < 32 { sh[i] = ").replace("SCALE;", "SCALE; }");
    let across = REVERSE.replace("y[id.x] = ", "y[i] = ");
    let half = "enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;
@compute @workgroup_size(4)
fn total(@builtin(local_invocation_index) i: u32) {
    var sum = 0h;
    for (var k = 0u; k < 4u; k++) { sum += 3e4h; }
    x[i] = sum;
}
";
    let cases: [(&str, &[&str], u32, &[&str]); 7] = [
        (
            &without_barrier,
            &INPUTS,
            9,
            &["race in workgroup memory", "at sh[63]", "against a write by invocation 63 of workgroup (0, 0, 0)"],
        ),
        (
            REVERSE,
            &[&INPUTS[..4], &["--groups", "3"]].concat(),
            7,
            &["out of bounds", "index 128 of 128", "by invocation 0 of workgroup (2, 0, 0)"],
        ),
        (half, &["--input", "x=unwritten:4"], 6, &["f16 overflow", "invocation 0 of workgroup (0, 0, 0)"]),
        (&uninitialised, &INPUTS, 9, &["read of memory nothing wrote", "sh[63]", "by invocation 0"]),
        (&divergent, &INPUTS, 8, &["barrier in divergent flow", "of workgroup (0, 0, 0)"]),
        (&across, &INPUTS, 9, &["race in storage", "of workgroup (1, 0, 0)"]),
        (REVERSE, &INPUTS[..4], 3, &["output never written", "64 of 128 numbers of y", "at y[64]"]),
    ];
    for (text, args, line, parts) in cases {
        let found = printed(text, args, 1);
        for part in parts.iter().copied().chain([format!("kernel.wgsl:{line}: ").as_str(), "in all 9 runs"]) {
            assert!(found.contains(part), "{part} is missing in:\n{found}");
        }
    }
}

#[test]
fn checks_can_be_left_out_added_and_bounded() {
    assert!(printed(REVERSE, &[&INPUTS[..4], &["--partial-outputs"]].concat(), 0).contains("clean"));
    let raced = REVERSE.replace("    workgroupBarrier();\n", "");
    printed(&raced, &[&INPUTS[..], &["--no-check", "races,unwritten"]].concat(), 0);
    let one = printed(&raced, &[&INPUTS[..], &["--subgroup", "32", "--schedule", "alone"]].concat(), 1);
    assert!(one.contains("subgroups of 32, alone") && one.contains("1 run,"), "{one}");
    let infinite = REVERSE.replace("* SCALE", "/ (SCALE - 1.0)");
    printed(&infinite, &INPUTS, 0);
    assert!(printed(&infinite, &[&INPUTS[..], &["--check", "non-finite"]].concat(), 1).contains("NaN or infinity"));
    let looped =
        REVERSE.replace("workgroupBarrier();", "workgroupBarrier(); for (var k = 0u; k < 99u; k++) { sh[i] += 1.0; }");
    printed(&looped.replace("sh[63 - i]", "sh[i]"), &INPUTS, 0);
    let bounded = [&INPUTS[..], &["--loop-limit", "50"]].concat();
    assert!(printed(&looped.replace("sh[63 - i]", "sh[i]"), &bounded, 1).contains("loop past the bound"));
    // The last writer wins, and who is last depends on the schedule.
    let last = "@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64) fn last(@builtin(local_invocation_index) i: u32) { y[0] = i; }";
    let noted = printed(last, &["--input", "y=zeros:1", "--no-check", "races"], 0);
    assert!(noted.contains("note: y differs from the first run in 1 words"), "{noted}");
}

#[test]
fn structs_and_immediates_take_values_by_position() {
    let text = "struct P { n: u32, scale: f32, by: vec3<f32>, last: i32 }
struct Q { first: i32, pairs: array<vec2<f32>> }
@group(0) @binding(0) var<uniform> p: P;
@group(0) @binding(1) var<storage, read> q: Q;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<immediate> more: vec2<f32>;
@compute @workgroup_size(1)
fn main() {
    y[0] = f32(p.n) + p.scale + p.by.z + f32(p.last) + more.y + f32(q.first) + q.pairs[1].y;
}
";
    let (folder, path) = kernel(text);
    let saved = format!("y={}", at(&folder, "y.npy").display());
    let inputs = ["p=values:7,0.5,1,2,4,-1", "q=values:-3,0,0,0,0.25", "y=unwritten:1", "more=values:0,16"];
    let inputs: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input]).collect();
    let output = sanitize(&[&[path.as_str(), "--output", &saved], &inputs[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(at(&folder, "y.npy")).unwrap();
    assert_eq!(bytes[bytes.len() - 4..], 23.75_f32.to_le_bytes());
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let (folder, path) = kernel(REVERSE);
    let write = |name: &str, text: &str| {
        let path = at(&folder, name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let two = write("two.wgsl", "@compute @workgroup_size(1) fn a() {}\n@compute @workgroup_size(1) fn b() {}");
    let none = write("none.wgsl", "fn a() {}");
    let wide = write("wide.wgsl", "override WG: u32 = 64; @compute @workgroup_size(WG) fn a() {}");
    let texture = write(
        "texture.wgsl",
        "@group(0) @binding(0) var t: texture_2d<f32>;
@compute @workgroup_size(1) fn a() { _ = textureLoad(t, vec2<u32>(), 0); }",
    );
    let bytes = write("x.npy", "no numbers");
    let good = [path.as_str(), "--input", "x=random:128"];
    for (args, part) in [
        (vec!["nothing.wgsl"], "nothing.wgsl: no such file"),
        (vec![&path, "--entry", "turn"], "kernel.wgsl: no compute entry point 'turn'; there are: reverse"),
        (vec![&two], "two.wgsl: several entry points, give --entry: a, b"),
        (vec![&none], "none.wgsl: no compute entry point"),
        (vec![&wide, "--set", "WG=2048"], "a workgroup of 2048 x 1 x 1 invocations is past WGSL's limits"),
        (vec![&wide, "--set", "WIDTH=1"], "no override constant 'WIDTH' in use; there are: WG"),
        (vec![&texture], "are not simulated"),
        (good.to_vec(), "no --input for y (f32)"),
        ([&good[..], &["--input", "z=zeros:1"]].concat(), "--input z: no such binding; there are: x (f32), y (f32)"),
        ([&good[..], &["--input", "x=zeros:1"]].concat(), "--input x: given twice"),
        ([&good[..], &["--input", "y=zeros"]].concat(), "--input y: its length is open: give a SHAPE"),
        ([&good[..], &["--input", "y=values:1,two"]].concat(), "'two' is not a number of type f32"),
        ([&good[..], &["--input", "y=ones:3"]].concat(), "no such file"),
        ([&good[..], &["--input", "y"]].concat(), "expected NAME=FILE.npy"),
        (vec![&path, "--input", &format!("x={bytes}"), "--input", "y=zeros:1"], "x.npy: not a .npy file"),
        ([&good[..], &["--input", "y=zeros:1", "--output", "x=o.npy"]].concat(), "no such output; there are: y"),
        ([&good[..], &["--groups", "1,2,3,4"]].concat(), "expected X, X,Y or X,Y,Z"),
        ([&good[..], &["--types", "f16"]].concat(), "--types is for kernels of a FAMILY"),
        ([&good[..], &["--subgroup", "24"]].concat(), "expected 4, 8, 16, 32, 64 or 128"),
        ([&good[..], &["--schedule", "sideways"]].concat(), "unknown schedule 'sideways'"),
        (vec!["hats"], "no family is called 'hats'; there are attention, "),
        (vec!["hats", "--entry", "a"], "no family is called 'hats'; there are "),
        (vec!["softmax", "--entry", "a"], "softmax: no entry point 'a'; there are: softmax_"),
        (vec!["softmax", "--groups", "2"], "--groups is for one kernel: name its --entry"),
        (
            vec!["softmax", "--entry", "softmax_rows_fwd", "--types", "u8"],
            "--types u8 is not in use; there are: f32,f32 f16,f32",
        ),
        (vec!["softmax", "--entry", "softmax_rows_fwd", "--set", "A=1"], "no override constant 'A'; there are: "),
    ] {
        let line = refusal(&sanitize(&args));
        assert!(line.contains(part), "{line}");
    }
    // naga's own message shows the line.
    let broken = write("broken.wgsl", "@compute @workgroup_size(1)\nfn a() { let x = 1u + 1i; }");
    let output = sanitize(&[&broken]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("broken.wgsl:2:") && !text.contains("error: error"), "{text}");
}

#[test]
fn a_kernel_of_the_registry_runs_with_its_types() {
    let folder = tempfile::tempdir().unwrap();
    let saved = at(&folder, "out.npy");
    let to = format!("cast_out={}", saved.display());
    // Five elements are worked off by fours: behind the last one lies padding, as in the crate's tensors.
    let inputs = ["cast_x=values:1,-2,0.5,4,65504", "cast_out=unwritten:5", "cast_params=values:2"];
    let inputs: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input]).collect();
    let kernel = ["elementwise", "--entry", "cast_fwd", "--types", "f32,f32,f16", "--output", &to];
    let output = sanitize(&[&kernel[..], &inputs].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("elementwise, cast_fwd: clean, 9 runs, "), "{text}");
    let bytes = std::fs::read(&saved).unwrap();
    let halves: Vec<u16> = bytes[bytes.len() - 10..].chunks(2).map(|v| u16::from_le_bytes([v[0], v[1]])).collect();
    assert_eq!(halves, [0x3C00, 0xC000, 0x3800, 0x4400, 0x7BFF]);
    // One vector more reaches past the padding.
    let past = [&kernel[..], &inputs[..4], &["--input", "cast_params=values:3"]].concat();
    let output = sanitize(&past);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("elementwise/cast_fwd: elementwise.wgsl:"), "{text}");
    assert!(text.contains("out of bounds: read with index 2 of 2 elements"), "{text}");
}

#[test]
fn families_run_on_simulated_devices() {
    let folder = tempfile::tempdir().unwrap();
    let found = at(&folder, "found.json");
    let flags = ["--subgroup", "8,64", "--schedule", "straight,interleaved:3", "--json", found.to_str().unwrap()];
    let output = sanitize(&[&["scatter"], &flags[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("scatter: clean, 4 runs, 8 cases, "), "{text}");
    let report = json(&found);
    assert_eq!((report["wrong"].as_array().unwrap().len(), report["cases"].as_u64()), (0, Some(8)));
    assert!(report["runs"][3]["operations"].as_u64().is_some_and(|n| n > 10_000), "{report}");
}

//! The kernels in a browser: Chromium's WebGPU compiles WGSL with a compiler of its own (Tint), which takes nothing that
//! the standard does not have, and runs it on SwiftShader.
//!
//! `LEANVISION_BROWSER` names the program; without it these tests say so and count as skipped. The page gets its work
//! from a server of the test's own on this machine, and posts its verdict there, so that nothing depends on how long the
//! browser takes.

use leanvision::ops::Act;
use leanvision::reference::elementwise::act;
use leanvision::runtime::{Kernel, Need};
use leanvision::{DType, kernels};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const PAGE: &str = include_str!("browser.html");
/// Hundreds of pipelines, the worst of which take SwiftShader seconds each, on a machine that may do other things too.
const PATIENCE: Duration = Duration::from_secs(600);
/// Optional abilities that our kernels may use and WebGPU has names for.
const FEATURES: [&str; 1] = ["subgroups"];

/// The text of `kernel` as a browser wants it. What naga takes without being told needs a line in front there.
fn text(kernel: &Kernel, types: &[DType]) -> String {
    let text = kernel.text(types, false);
    if text.contains("subgroup") { format!("enable subgroups;\n{text}") } else { text }
}

fn constants(set: &[(&'static str, u32)]) -> Value {
    set.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect::<Map<_, _>>().into()
}

/// Whether the first and the last set of each kernel will do (`LEANVISION_SHAPES=short`).
fn short() -> bool {
    std::env::var("LEANVISION_SHAPES").is_ok_and(|value| value == "short")
}

/// A browser that is gone when the test is.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        // Nothing is left to be done where it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers one request: the page, the job, or the verdict, which goes to `verdicts`.
fn serve(stream: &TcpStream, job: &str, verdicts: &mpsc::Sender<Value>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    let first = head.first().map_or("", String::as_str);
    let (kind, body) = match first {
        _ if first.starts_with("get / ") => ("text/html", PAGE),
        _ if first.starts_with("get /job ") => ("application/json", job),
        _ if first.starts_with("post /verdict ") => {
            let length = head.iter().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body)?;
            // A test that waits no longer has failed already.
            let _ = verdicts.send(serde_json::from_slice(&body)?);
            ("text/plain", "")
        }
        _ => return (&mut &*stream).write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nConnection: close\r\n");
    let mut stream = stream;
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// What the page makes of `job`; `None`, said so, where no browser is named.
fn verdict(job: &Value) -> Option<Value> {
    let Some(program) = std::env::var_os("LEANVISION_BROWSER") else {
        println!("skipped: LEANVISION_BROWSER names no Chromium; `make test-portability` looks for one");
        return None;
    };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    let address = listener.local_addr().expect("a bound port");
    let (sender, verdicts) = mpsc::channel();
    let job = job.to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (job, sender) = (job.clone(), sender.clone());
            // Browsers open connections ahead of need, so one must not wait for another.
            std::thread::spawn(move || serve(&stream, &job, &sender));
        }
    });
    let profile = tempfile::tempdir().expect("a temporary folder");
    let child = Command::new(&program)
        .args(["--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu", "--enable-features=Vulkan"])
        .args(["--use-vulkan=swiftshader", "--use-webgpu-adapter=swiftshader"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        // What it leaves behind when it is ended goes with the profile.
        .env("TMPDIR", profile.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let browser = Browser(child);
    let verdict = verdicts
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| panic!("{} gave no verdict in {} s", program.display(), PATIENCE.as_secs()));
    drop(browser);
    assert!(verdict["error"].is_null(), "{}", verdict["error"]);
    Some(verdict)
}

#[test]
fn chromium_takes_every_kernel() {
    let mut modules = Vec::new();
    let mut n_sets = 0;
    for kernel in kernels() {
        // SwiftShader has no f16.
        for types in kernel.type_sets().into_iter().filter(|types| !types.contains(&DType::F16)) {
            let set = |set: &Vec<_>| {
                let (threads, bytes) = super::footprint(kernel, &types, set);
                json!({ "constants": constants(set), "threads": threads, "bytes": bytes })
            };
            let mut sets: Vec<_> = kernel.override_sets().iter().map(set).collect();
            // The browser's compiler has seen the whole text already; what it leaves to SwiftShader takes seconds a set.
            if short() && sets.len() > 2 {
                sets.drain(1..sets.len() - 1);
            }
            // SwiftShader's subgroups have 4 invocations. Kernels for another size never run there, and the largest of them
            // take its compiler minutes and gigabytes; the browser's own compiler reads them all the same.
            if kernel.needs.iter().any(|need| matches!(need, Need::SubgroupOf(size) if *size != 4)) {
                sets.clear();
            }
            n_sets += sets.len();
            let label = format!("{} {types:?}", kernel.label());
            modules.push(json!({ "label": label, "code": text(kernel, &types), "entry": kernel.entry, "sets": sets }));
        }
    }
    let job = json!({ "features": FEATURES, "modules": modules, "launches": [] });
    let Some(verdict) = verdict(&job) else { return };
    let [made, too_large] = ["pipelines", "too_large"].map(|key| verdict[key].as_u64().unwrap_or(0) as usize);
    println!("{made} of {n_sets} pipelines on {}, {too_large} past its limits", verdict["adapter"]);
    let failures: Vec<&str> = verdict["failures"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    // Workgroups past the limits are variants for large GPUs; nearly all must have been judged.
    assert!(made + too_large == n_sets && too_large * 20 < n_sets, "{made} and {too_large} of {n_sets}");
}

/// One kernel to run in the browser: its constants, its buffers in binding order, the last being the output, its
/// parameters in words, and its number of workgroups.
struct Launch {
    entry: &'static str,
    family: &'static str,
    types: &'static [DType],
    constants: &'static [(&'static str, u32)],
    buffers: Vec<Vec<u32>>,
    params: Vec<u32>,
    groups: u32,
}

impl Launch {
    fn json(&self) -> Value {
        let kernel = kernels().into_iter().find(|k| (k.family, k.entry) == (self.family, self.entry));
        let kernel = kernel.unwrap_or_else(|| panic!("no kernel {}/{}", self.family, self.entry));
        assert_eq!(kernel.binds.len(), self.buffers.len());
        assert_eq!(kernel.params_bytes, 4 * self.params.len());
        json!({
            "code": text(kernel, self.types),
            "entry": self.entry,
            "constants": constants(self.constants),
            "buffers": self.buffers,
            "params": self.params,
            "groups": self.groups,
        })
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn chromium_computes_what_the_reference_says() {
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 6.0).collect();
    let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos() * 3.0).collect();
    let ids: Vec<u32> = (0..17).map(|i| i * 7 % 60).collect();
    let plain: &[DType] = &[DType::F32; 3];
    let gelu = Launch {
        family: "elementwise",
        entry: "unary_fwd",
        types: plain,
        constants: &[("OP", 35)],
        buffers: vec![bits(&a), vec![0; n]],
        params: vec![n as u32 / 4, 0, 0],
        groups: 4,
    };
    let add = Launch {
        family: "elementwise",
        entry: "binary_vec4_fwd",
        types: plain,
        constants: &[("OP", 0)],
        buffers: vec![bits(&a), bits(&b), vec![0; n]],
        params: vec![n as u32 / 4, n as u32 / 4, n as u32 / 4],
        groups: 4,
    };
    // Rows of 20 from 50, four vec4 lanes to a row but one; ids past 49 take the last row.
    let select = Launch {
        family: "gather",
        entry: "select_vec4_fwd",
        types: &[DType::U32],
        constants: &[],
        buffers: vec![bits(&a), ids.clone(), vec![0; 17 * 20]],
        params: vec![17, 2, 5, 0, 17, 50, 0, 5],
        groups: 2,
    };
    let job = json!({
        "features": FEATURES,
        "modules": [],
        "launches": [gelu.json(), add.json(), select.json()],
    });
    let Some(verdict) = verdict(&job) else { return };
    let outputs: Vec<Vec<f32>> = serde_json::from_value::<Vec<Vec<u32>>>(verdict["outputs"].clone())
        .expect("one list of words per launch")
        .into_iter()
        .map(|words| words.into_iter().map(f32::from_bits).collect())
        .collect();
    let [got_gelu, got_sum, got_rows] = outputs.as_slice() else { panic!("{} outputs", outputs.len()) };
    let close = |got: &[f32], want: &dyn Fn(usize) -> f64, tolerance: f64, name: &str| {
        for (i, v) in got.iter().enumerate() {
            let want = want(i);
            assert!(
                (f64::from(*v) - want).abs() <= tolerance * (1.0 + want.abs()),
                "{name} at {i}: {v}, {want} wanted"
            );
        }
    };
    assert_eq!((got_gelu.len(), got_sum.len(), got_rows.len()), (n, n, 17 * 20));
    // The error function's approximation is good to 1.5e-7, times x / 2.
    close(got_gelu, &|i| act(Act::Gelu, f64::from(a[i])), 1e-6, "gelu");
    close(got_sum, &|i| f64::from(a[i]) + f64::from(b[i]), 1e-7, "add");
    close(got_rows, &|i| f64::from(a[(ids[i / 20] as usize).min(49) * 20 + i % 20]), 0.0, "select");
}

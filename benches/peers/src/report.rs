//! The figures of a run as they are committed.

use crate::contest::{ROUNDS, Row};
use anyhow::Result;
use leanvision::Runtime;
use leanvision::runtime::DeviceProfile;
use serde::Serialize;

/// Version of a package in Cargo.lock.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = lock.split_once(&format!("name = \"{package}\"\nversion = \"")).map_or("", |(_, rest)| rest);
    entry.split_once('"').map_or("unknown", |(version, _)| version)
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    burn: String,
    candle: String,
    adapter: DeviceProfile,
    processor: String,
    threads: usize,
    /// CPU seconds of the process in a second in which no engine had work (burn's threads go on polling): part of
    /// every figure, in proportion to wall time.
    idle_cpu: f64,
    rounds: usize,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(runtime: &Runtime, rows: Vec<Row>) -> Result<Self> {
        // Threads that spin while another engine works are billed to it.
        runtime.sync()?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        let idle = cpu_time::ProcessTime::now();
        std::thread::sleep(std::time::Duration::from_secs(1));
        let idle_cpu = idle.elapsed().as_secs_f64();
        println!("\nidle: {:.1} % of a core", idle_cpu * 100.0);
        Ok(Self {
            version: version("leanvision"),
            burn: format!("{} (wgpu, WGSL, autotune, fusion)", version("burn")),
            candle: format!("{} (CPU)", version("candle-core")),
            adapter: runtime.profile().clone(),
            processor: processor(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            idle_cpu,
            rounds: ROUNDS,
            rows,
        })
    }
}

/// The processor's name and number of threads; `unknown` where the system has no `/proc/cpuinfo`.
pub(crate) fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned())
}

/// Adapter and driver as part of a file name: `llvmpipe-mesa-22.3.6`.
pub(crate) fn slug(profile: &DeviceProfile) -> String {
    let short = |text: &str| text.split(" (").next().unwrap_or_default().to_lowercase();
    let text = format!("{} {}", short(&profile.name), short(&profile.driver_info));
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

//! Timing: wall clock and CPU time of repeated runs.

use crate::Result;
use crate::runtime::Runtime;
use std::time::Instant;

/// What repeated runs took.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Timing {
    /// Median over samples, in ms of wall time per run.
    pub median_ms: f64,
    /// Tenth percentile, in ms.
    pub p10_ms: f64,
    /// Ninetieth percentile, in ms.
    pub p90_ms: f64,
    /// First run, compilation included, in ms.
    pub first_ms: f64,
    /// CPU time of this process per run, in ms: what a software adapter really costs, whatever else the machine does.
    pub cpu_ms: f64,
    /// Tenth percentile of the CPU time, in ms.
    pub cpu_p10_ms: f64,
    /// Ninetieth percentile of the CPU time, in ms.
    pub cpu_p90_ms: f64,
    /// Runs that were timed.
    pub runs: usize,
}

/// Times `run` for about `seconds` after a warm-up. A sample is a stretch of runs handed over together and waited for,
/// long enough (1 ms) that the wait does not count.
///
/// # Errors
/// What `run` returns.
pub fn measure(runtime: &Runtime, seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<Timing> {
    runtime.sync()?;
    let start = Instant::now();
    run()?;
    runtime.sync()?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    run()?;
    runtime.sync()?;
    let once = start.elapsed().as_secs_f64().max(1e-7);
    let stretch = ((1e-3 / once).ceil() as usize).clamp(1, 256);
    let fewest = if once > 0.5 { 3 } else { 5 };
    let n_samples = ((seconds / (once * stretch as f64)).ceil() as usize).clamp(fewest, 1000);
    let cpu = cpu_time::ProcessTime::now();
    let (mut samples, mut cpu_samples) = (Vec::with_capacity(n_samples), Vec::with_capacity(n_samples));
    for _ in 0..n_samples {
        let (start, cpu_start) = (Instant::now(), cpu_time::ProcessTime::now());
        for _ in 0..stretch {
            run()?;
        }
        runtime.sync()?;
        let per_run = |time: std::time::Duration| time.as_secs_f64() * 1e3 / stretch as f64;
        samples.push(per_run(start.elapsed()));
        cpu_samples.push(per_run(cpu_start.elapsed()));
    }
    let runs = n_samples * stretch;
    let cpu_ms = cpu.elapsed().as_secs_f64() * 1e3 / runs as f64;
    samples.sort_by(f64::total_cmp);
    cpu_samples.sort_by(f64::total_cmp);
    let place = |share: f64| ((n_samples - 1) as f64 * share).round() as usize;
    let (at, cpu_at) = (|share| samples[place(share)], |share| cpu_samples[place(share)]);
    Ok(Timing {
        median_ms: at(0.5),
        p10_ms: at(0.1),
        p90_ms: at(0.9),
        first_ms,
        cpu_ms,
        cpu_p10_ms: cpu_at(0.1),
        cpu_p90_ms: cpu_at(0.9),
        runs,
    })
}

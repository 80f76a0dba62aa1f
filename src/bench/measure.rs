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
    /// Median of the last quarter of the samples over that of the first: above 1 where the adapter slows down as it goes
    /// on, such as by heat. `None` below 8 samples.
    pub drift: Option<f64>,
}

/// A run longer than this many seconds, and than the time there is, is timed but once.
const LONG_RUN: f64 = 2.0;

/// Times `run` for about `seconds` after a warm-up; one that takes longer than that is its own warm-up. A sample is a stretch of runs handed over together and waited for,
/// long enough (1 ms) that the wait does not count.
///
/// # Errors
/// What `run` returns.
pub fn measure(runtime: &Runtime, seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<Timing> {
    runtime.sync()?;
    let (start, cpu) = (Instant::now(), cpu_time::ProcessTime::now());
    run()?;
    runtime.sync()?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    if first_ms > 1e3 * LONG_RUN.max(seconds) {
        let cpu_ms = cpu.elapsed().as_secs_f64() * 1e3;
        return Ok(Timing {
            median_ms: first_ms,
            p10_ms: first_ms,
            p90_ms: first_ms,
            first_ms,
            cpu_ms,
            cpu_p10_ms: cpu_ms,
            cpu_p90_ms: cpu_ms,
            runs: 1,
            drift: None,
        });
    }
    let start = Instant::now();
    run()?;
    runtime.sync()?;
    let once = start.elapsed().as_secs_f64().max(1e-7);
    let stretch = ((1e-3 / once).ceil() as usize).clamp(1, 256);
    let fewest = match once {
        _ if once > 4.0 * seconds => 2,
        _ if once > 0.5 => 3,
        _ => 5,
    };
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
    let drift = drift(&samples);
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
        drift,
    })
}

/// Median of the last quarter over that of the first; `None` where a quarter is one sample.
fn drift(samples: &[f64]) -> Option<f64> {
    let quarter = samples.len() / 4;
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_by(f64::total_cmp);
        part[part.len() / 2]
    };
    (quarter > 1).then(|| median(&samples[samples.len() - quarter..]) / median(&samples[..quarter]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, Tensor};
    use std::cell::Cell;

    #[test]
    fn drift_is_of_the_ends() {
        assert_eq!(drift(&[1.0; 7]), None);
        // An odd one out in either quarter does not count.
        assert_eq!(drift(&[2.0, 2.0, 9.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 3.0, 1.0, 3.0]), Some(1.5));
    }

    #[test]
    fn long_runs_are_timed_once() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let x = Tensor::from_slice(&runtime, &[1.0f32], &[1]).unwrap();
        let n = Cell::new(0);
        let run = |ms| {
            n.set(n.get() + 1);
            std::thread::sleep(std::time::Duration::from_millis(ms));
            x.to_vec::<f32>().map(drop)
        };
        let long = measure(&runtime, 0.1, || run(2100)).unwrap();
        assert_eq!((n.get(), long.runs, long.median_ms), (1, 1, long.first_ms));
        assert!(long.median_ms >= 2100.0);
        n.set(0);
        let short = measure(&runtime, 0.1, || run(10)).unwrap();
        assert!(short.runs >= 5 && n.get() == short.runs + 2, "{} {}", short.runs, n.get());
    }
}

//! The figures of a suite: the adapter's peaks, rows, and the share of a peak that a row reaches.

use serde::{Deserialize, Serialize};

use super::compile::N_COMPILED;
use super::micro::N_LAUNCHES;
use super::{By, Case, Timing};
use crate::tensor::DType;

/// What the adapter can do at most, measured in the same run as the rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Peaks {
    /// f32 multiply-adds from registers, in GFLOP/s.
    pub fma_gflops: f64,
    /// f16 multiply-adds from registers, in GFLOP/s; `None` without f16.
    pub fma_f16_gflops: Option<f64>,
    /// u32 multiplications and additions, in 10^9 operations per s.
    pub integer_gops: f64,
    /// Dot products of four bytes, eight operations each, in 10^9 operations per s.
    pub dot4_gops: f64,
    /// Atomic additions to words of a shared few thousand, in 10^9 per s.
    pub atomics_gops: f64,
    /// The fastest of copying, reading and writing by a kernel, in GB/s; on hardware also of the copy command, which on a
    /// software adapter is the C library's and out of any shader's reach.
    pub memory_gbps: f64,
    /// Bytes read and written by a copy kernel, in GB/s.
    pub copy_gbps: f64,
    /// Bytes read and written by the copy command, in GB/s.
    pub copy_command_gbps: f64,
    /// Bytes read, in GB/s.
    pub read_gbps: f64,
    /// Bytes written, in GB/s.
    pub write_gbps: f64,
    /// Bytes of single words read at random places, in GB/s.
    pub gather_gbps: f64,
    /// From the host to the device, in GB/s.
    pub upload_gbps: f64,
    /// From the device to the host, in GB/s.
    pub read_back_gbps: f64,
    /// An empty dispatch among others, in µs.
    pub dispatch_us: f64,
    /// A dispatch that waits for the one before it, in µs.
    pub dispatch_chain_us: f64,
    /// One dispatch handed over and waited for, in µs.
    pub submit_us: f64,
    /// A kernel whose text the adapter has never seen, from its module to its first result, in ms.
    pub compile_cold_ms: f64,
    /// The same again, with what driver and pipeline cache have kept, in ms.
    pub compile_warm_ms: f64,
    /// As `fma_gflops`, by CPU second of this process: what a software adapter is judged by.
    pub fma_gflop_per_cpu_s: f64,
    /// As `fma_f16_gflops`, by CPU second of this process.
    pub fma_f16_gflop_per_cpu_s: Option<f64>,
    /// As `memory_gbps`, by CPU second of this process.
    pub memory_gb_per_cpu_s: f64,
}

/// A figure of quality that a whole method must reach, beside its speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// What the figure is.
    pub what: String,
    /// The figure; 0 or more.
    pub value: f64,
    /// The most that passes.
    pub bound: f64,
}

/// One case, checked and timed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// `family/op`.
    pub name: String,
    /// Shape as a reader writes it.
    pub shape: String,
    /// Element type of the inputs.
    pub dtype: DType,
    /// The variant.
    pub variant: String,
    /// Median time of a run, in ms.
    pub ms_median: f64,
    /// Tenth percentile, in ms.
    pub ms_p10: f64,
    /// Ninetieth percentile, in ms.
    pub ms_p90: f64,
    /// First run, compilation included, in ms.
    pub ms_first: f64,
    /// CPU time of this process per run, in ms.
    pub cpu_ms: f64,
    /// Tenth percentile of the CPU time, in ms; `None` in older files.
    #[serde(default)]
    pub cpu_ms_p10: Option<f64>,
    /// Ninetieth percentile of the CPU time, in ms; `None` in older files.
    #[serde(default)]
    pub cpu_ms_p90: Option<f64>,
    /// Arithmetic at the median, in GFLOP/s; 0 where the row counts none.
    pub gflops: f64,
    /// Memory traffic at the median, in GB/s, counting each input and output once; 0 where the row counts none.
    pub gbps: f64,
    /// Items of work per second at the median; `None` where the row counts none.
    pub items_per_s: Option<f64>,
    /// What the items are, such as images.
    pub item: Option<String>,
    /// Share of the peak that binds, 1 for all of it: the larger of arithmetic by the rate of multiply-adds (f32; for f16
    /// rows the faster of f32 and f16) and traffic by `memory_gbps`. On a software adapter by CPU time, else by the median. `None` for the rows that set the peaks.
    pub share_of_peak: Option<f64>,
    /// Largest error of the check, in the check's unit.
    pub max_error: f64,
    /// The most that passes; `None` in older files.
    #[serde(default)]
    pub tolerance: Option<f64>,
    /// The figure that a whole method must reach besides; `None` for kernels.
    #[serde(default)]
    pub quality: Option<Quality>,
    /// Runs that were timed.
    pub runs: usize,
    /// As [`Timing::drift`].
    #[serde(default)]
    pub drift: Option<f64>,
    #[serde(skip)]
    pub(super) flops: u64,
    #[serde(skip)]
    pub(super) bytes: u64,
}

impl Row {
    pub(super) fn new(
        case: &Case,
        timing: &Timing,
        (max_error, ms_first): (f64, f64),
        quality: Option<Quality>,
    ) -> Self {
        Self {
            name: case.name.clone(),
            shape: case.shape.clone(),
            dtype: case.dtype,
            variant: case.variant.clone(),
            ms_median: timing.median_ms,
            ms_p10: timing.p10_ms,
            ms_p90: timing.p90_ms,
            ms_first,
            cpu_ms: timing.cpu_ms,
            cpu_ms_p10: Some(timing.cpu_p10_ms),
            cpu_ms_p90: Some(timing.cpu_p90_ms),
            gflops: rate(case.flops, timing.median_ms),
            gbps: rate(case.bytes, timing.median_ms),
            items_per_s: (case.items.0 > 0).then(|| 1e3 * case.items.0 as f64 / timing.median_ms),
            item: (case.items.0 > 0).then(|| case.items.1.to_string()),
            share_of_peak: None,
            max_error,
            tolerance: Some(case.tolerance),
            quality,
            runs: timing.runs,
            drift: timing.drift,
            flops: case.flops,
            bytes: case.bytes,
        }
    }

    /// The family: the name's first part.
    #[must_use]
    pub fn family(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// Time of a run, in ms.
    #[must_use]
    pub fn ms(&self, by: By) -> f64 {
        match by {
            By::Wall => self.ms_median,
            By::Cpu => self.cpu_ms,
        }
    }

    /// Arithmetic, in GFLOP per second of that time; 0 where the row counts none.
    #[must_use]
    pub fn gflops_by(&self, by: By) -> f64 {
        rate(self.flops, self.ms(by))
    }

    /// Memory traffic, in GB per second of that time; 0 where the row counts none.
    #[must_use]
    pub fn gbps_by(&self, by: By) -> f64 {
        rate(self.bytes, self.ms(by))
    }

    /// Whether the row sets a peak.
    #[must_use]
    pub fn is_micro(&self) -> bool {
        self.name.starts_with("micro/")
    }
}

/// Giga per second from a number and ms.
fn rate(amount: u64, ms: f64) -> f64 {
    if ms > 0.0 { amount as f64 / ms / 1e6 } else { 0.0 }
}

impl Peaks {
    pub(super) fn of(rows: &[Row], is_software: bool) -> Self {
        let find = |name: &str, variant: &str, dtype: DType| {
            rows.iter().find(|row| {
                row.name.strip_prefix("micro/") == Some(name) && row.variant == variant && row.dtype == dtype
            })
        };
        let word = |name, variant| find(name, variant, DType::U32);
        let gbps = |name, variant| word(name, variant).map_or(0.0, |row| row.gbps);
        let us =
            |name, variant, n: u32| word(name, variant).map_or(0.0, |row: &Row| 1e3 * row.ms_median / f64::from(n));
        let fma = find("fma", "auto", DType::F32);
        let fma_f16 = find("fma", "auto", DType::F16);
        let gops = |name, variant| word(name, variant).map_or(0.0, |row: &Row| row.gflops);
        let command = if is_software { None } else { word("copy", "command") };
        let streams = [word("copy", "kernel"), word("read", "auto"), word("write", "auto"), command];
        let fastest = |rate: fn(&Row) -> f64| streams.into_iter().flatten().map(rate).fold(0.0, f64::max);
        Self {
            fma_gflops: fma.map_or(0.0, |row| row.gflops),
            fma_f16_gflops: fma_f16.map(|row| row.gflops),
            integer_gops: gops("integer", "auto"),
            dot4_gops: gops("dot4", "4 x i8"),
            atomics_gops: gops("atomics", "add"),
            memory_gbps: fastest(|row| row.gbps),
            copy_gbps: gbps("copy", "kernel"),
            copy_command_gbps: gbps("copy", "command"),
            read_gbps: gbps("read", "auto"),
            write_gbps: gbps("write", "auto"),
            gather_gbps: gbps("gather", "auto"),
            upload_gbps: gbps("upload", "auto"),
            read_back_gbps: gbps("read_back", "auto"),
            dispatch_us: us("dispatch", "independent", N_LAUNCHES),
            dispatch_chain_us: us("dispatch", "chain", N_LAUNCHES),
            submit_us: us("submit", "wait", 1),
            compile_cold_ms: us("compile", "cold", N_COMPILED) / 1e3,
            compile_warm_ms: us("compile", "warm", N_COMPILED) / 1e3,
            fma_gflop_per_cpu_s: fma.map_or(0.0, |row| rate(row.flops, row.cpu_ms)),
            fma_f16_gflop_per_cpu_s: fma_f16.map(|row| rate(row.flops, row.cpu_ms)),
            memory_gb_per_cpu_s: fastest(|row| rate(row.bytes, row.cpu_ms)),
        }
    }

    /// Share of the peak that binds a row.
    pub(super) fn share(&self, row: &Row, by_cpu: bool) -> Option<f64> {
        let (ms, f32_rate, f16_rate, gbps) = if by_cpu {
            (row.cpu_ms, self.fma_gflop_per_cpu_s, self.fma_f16_gflop_per_cpu_s, self.memory_gb_per_cpu_s)
        } else {
            (row.ms_median, self.fma_gflops, self.fma_f16_gflops, self.memory_gbps)
        };
        // Kernels on f16 may compute in either type.
        let gflops = if row.dtype == DType::F16 { f32_rate.max(f16_rate.unwrap_or(0.0)) } else { f32_rate };
        let share = (rate(row.flops, ms) / gflops).max(rate(row.bytes, ms) / gbps);
        (!row.is_micro() && row.flops + row.bytes > 0 && share.is_finite()).then_some(share)
    }

    /// Seconds that a case takes at least; 0 as long as the peaks are unknown.
    pub(super) fn seconds(&self, case: &Case) -> f64 {
        let seconds = |amount: u64, rate: f64| if rate > 0.0 { amount as f64 / rate / 1e9 } else { 0.0 };
        let f16 = self.fma_f16_gflops.filter(|_| case.dtype == DType::F16).unwrap_or(0.0);
        seconds(case.flops, self.fma_gflops.max(f16)).max(seconds(case.bytes, self.memory_gbps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn row(name: &str, variant: &str, dtype: DType, (flops, bytes): (u64, u64), ms: f64) -> Row {
        let run = || Err(Error::Input("never run".into()));
        let case = Case::new(name, "1", run, |_| Ok(0.0)).variant(variant).dtype(dtype).cost(flops, bytes);
        let timing = Timing {
            median_ms: ms,
            p10_ms: ms,
            p90_ms: ms,
            first_ms: ms,
            cpu_ms: 2.0 * ms,
            cpu_p10_ms: ms,
            cpu_p90_ms: ms,
            runs: 1,
            drift: None,
        };
        Row::new(&case, &timing, (0.0, ms), None)
    }

    #[test]
    fn shares_are_of_the_peak_that_binds() {
        let micro = [
            row("micro/fma", "auto", DType::F32, (100_000_000, 0), 1.0),
            row("micro/copy", "kernel", DType::U32, (0, 10_000_000), 1.0),
            row("micro/copy", "command", DType::U32, (0, 20_000_000), 1.0),
            row("micro/dispatch", "independent", DType::U32, (0, 0), 0.256),
        ];
        let peaks = Peaks::of(&micro, false);
        assert_eq!((peaks.fma_gflops, peaks.memory_gbps, peaks.copy_gbps), (100.0, 20.0, 10.0));
        assert!((peaks.dispatch_us - 1.0).abs() < 1e-9 && peaks.fma_f16_gflops.is_none());
        // 50 % of the arithmetic, 25 % of the memory; then 10 % and 75 %.
        for ((flops, bytes), want) in [((50_000_000, 5_000_000), 0.5), ((10_000_000, 15_000_000), 0.75)] {
            let share = peaks.share(&row("a/b", "auto", DType::F32, (flops, bytes), 1.0), false);
            assert!((share.unwrap() - want).abs() < 1e-9, "{share:?}");
        }
        // A software adapter is judged by kernels and by CPU time, of which every row here took twice its wall time.
        let software = Peaks::of(&micro, true);
        assert_eq!(
            (software.memory_gbps, software.memory_gb_per_cpu_s, software.fma_gflop_per_cpu_s),
            (10.0, 5.0, 50.0)
        );
        let share = software.share(&row("a/b", "auto", DType::F32, (0, 5_000_000), 1.0), true);
        assert!((share.unwrap() - 0.5).abs() < 1e-9);
        // f16 rows stand beside the faster of the two rates.
        let half = |gflops: f64| Peaks { fma_f16_gflops: Some(gflops), ..peaks.clone() };
        for (dtype, f16_rate, want) in [(DType::F16, 400.0, 0.125), (DType::F16, 25.0, 0.5), (DType::F32, 400.0, 0.5)] {
            let share = half(f16_rate).share(&row("a/b", "auto", dtype, (50_000_000, 0), 1.0), false);
            assert!((share.unwrap() - want).abs() < 1e-9, "{dtype} {f16_rate} {share:?}");
        }
        assert!(peaks.share(&micro[0], false).is_none() && peaks.share(&micro[3], false).is_none());
        assert!(Peaks::default().share(&row("a/b", "auto", DType::F32, (1, 1), 1.0), false).is_none());
    }
}

//! A suite: the adapter's peaks, then every row of the families, as one report.

use std::fmt;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

use super::config::all_families;
use super::micro::{self, MICRO, N_LAUNCHES};
use super::pipeline::{self, PIPELINE};
use super::{Case, Level, SuiteFlags, Timing, kernel};
use crate::report::{Progress, Table, number};
use crate::runtime::{DeviceProfile, Runtime, list_devices};
use crate::tensor::DType;
use crate::{Error, Result};

/// Version of the report's keys; it grows when one changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// A row whose single run takes longer than this many seconds is skipped.
const LONGEST_RUN: f64 = 2.0;

/// What the adapter can do at most, measured in the same run as the rows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Peaks {
    /// f32 multiply-adds from registers, in GFLOP/s.
    pub fma_gflops: f64,
    /// f16 multiply-adds from registers, in GFLOP/s; `None` without f16.
    pub fma_f16_gflops: Option<f64>,
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
    /// As `fma_gflops`, by CPU second of this process: what a software adapter is judged by.
    pub fma_gflop_per_cpu_s: f64,
    /// As `memory_gbps`, by CPU second of this process.
    pub memory_gb_per_cpu_s: f64,
}

/// One case, checked and timed.
#[derive(Debug, Clone, Serialize)]
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
    /// Arithmetic at the median, in GFLOP/s; 0 where the row counts none.
    pub gflops: f64,
    /// Memory traffic at the median, in GB/s, counting each input and output once; 0 where the row counts none.
    pub gbps: f64,
    /// Items of work per second at the median; `None` where the row counts none.
    pub items_per_s: Option<f64>,
    /// What the items are, such as images.
    pub item: Option<&'static str>,
    /// Share of the peak that binds, 1 for all of it: the larger of arithmetic by the f32 multiply-add rate and traffic by
    /// `memory_gbps`. On a software adapter by CPU time, else by the median. `None` for the rows that set the peaks.
    pub share_of_peak: Option<f64>,
    /// Largest error of the check, in the check's unit.
    pub max_error: f64,
    /// Runs that were timed.
    pub runs: usize,
    #[serde(skip)]
    flops: u64,
    #[serde(skip)]
    bytes: u64,
}

/// A case that was not timed.
#[derive(Debug, Clone, Serialize)]
pub struct Left {
    /// `family/op`, or the family where its inputs could not be made.
    pub name: String,
    /// Shape as a reader writes it.
    pub shape: String,
    /// Element type of the inputs.
    pub dtype: Option<DType>,
    /// The variant.
    pub variant: String,
    /// Why.
    pub reason: String,
}

/// How the figures came about.
#[derive(Debug, Clone, Serialize)]
pub struct Conditions {
    /// Shaders with bounds checks and bounded loops (`checked`) or without (`trusted`).
    pub modules: &'static str,
    /// What `share_of_peak` is taken from: `CPU time` or `wall time`.
    pub share_by: &'static str,
    /// Operating system and architecture.
    pub system: String,
    /// Threads the machine runs at once.
    pub threads: usize,
}

/// What a suite found.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// Version of these keys.
    pub schema: u32,
    /// Version of the crate.
    pub version: &'static str,
    /// Start, in UTC.
    pub date: String,
    /// The suite.
    pub suite: Level,
    /// The families that were run.
    pub families: Vec<&'static str>,
    /// The adapter.
    pub adapter: DeviceProfile,
    /// How the figures came about.
    pub conditions: Conditions,
    /// The adapter's peaks.
    pub peaks: Peaks,
    /// What was timed.
    pub rows: Vec<Row>,
    /// What was left out, with the reason.
    pub skipped: Vec<Left>,
    /// What gave wrong results, or none.
    pub wrong: Vec<Left>,
    /// What the device said when it was lost; the rows before it stand.
    pub lost: Option<String>,
    /// Time of the whole suite, in s.
    pub seconds: f64,
}

/// The adapters of this machine, and the rows that a suite runs on this one: a text and the same as a JSON object.
///
/// # Errors
/// What building the inputs returns.
pub fn list(runtime: &Runtime, flags: &SuiteFlags) -> Result<(String, Value)> {
    let mut table = Table::new(&["name", "shape", "type", "variant", ">MFLOP", ">MB"]);
    let mut rows = Vec::new();
    for family in flags.families() {
        for case in build(runtime, family, flags.suite)? {
            let Case { name, shape, dtype, variant, flops, bytes, .. } = case;
            let [mflop, mb] = [flops, bytes].map(|n| if n == 0 { String::new() } else { number(n as f64 / 1e6) });
            rows.push(json!({
                "name": name, "shape": shape, "dtype": dtype, "variant": variant, "flops": flops, "bytes": bytes,
            }));
            table.row([name, shape, dtype.to_string(), variant, mflop, mb]);
        }
    }
    let devices = list_devices()?;
    let lines: String = devices.iter().map(|device| format!("  {}: {device}\n", device.kind)).collect();
    let text = format!(
        "adapters\n{lines}families\n  {}\nrows of --suite {} on {}\n{table}",
        all_families().join(", "),
        flags.suite,
        runtime.profile().name,
    );
    Ok((text, json!({ "adapters": devices, "families": all_families(), "rows": rows })))
}

fn build(runtime: &Runtime, family: &str, level: Level) -> Result<Vec<Case>> {
    match family {
        MICRO => micro::cases(runtime),
        PIPELINE => pipeline::cases(runtime, level),
        _ => kernel::cases(runtime, family, level),
    }
}

/// Runs a suite: the peaks, then the rows of each family, every one checked before it is timed.
///
/// A lost device ends the suite; what stood before stays.
///
/// # Errors
/// [`Error::Input`] for an unknown family.
pub fn run(runtime: &Runtime, flags: &SuiteFlags, quiet: bool) -> Result<BenchReport> {
    flags.check()?;
    let mut report = BenchReport::new(runtime, flags);
    let start = Instant::now();
    let families = flags.families();
    let mut progress = Progress::new("gpubench", families.len() as u64, "families", quiet);
    for family in families {
        match report.family(runtime, family, start) {
            Err(Error::DeviceLost(message)) => {
                report.lost = Some(message);
                break;
            }
            other => other?,
        }
        if family == MICRO {
            report.peaks = Peaks::of(&report.rows, runtime.profile().is_software());
        }
        progress.advance(1);
    }
    for row in &mut report.rows {
        row.share_of_peak = report.peaks.share(row, runtime.profile().is_software());
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// What became of a case.
enum Outcome {
    Timed(Box<Row>),
    Skipped(String),
    Wrong(String),
}

impl BenchReport {
    /// A report in which nothing has run yet.
    fn new(runtime: &Runtime, flags: &SuiteFlags) -> Self {
        let profile = runtime.profile();
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            date: crate::report::now(),
            suite: flags.suite,
            families: flags.families(),
            adapter: profile.clone(),
            conditions: Conditions {
                modules: if runtime.options().checked == Some(false) { "trusted" } else { "checked" },
                share_by: if profile.is_software() { "CPU time" } else { "wall time" },
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            },
            peaks: Peaks::default(),
            rows: Vec::new(),
            skipped: Vec::new(),
            wrong: Vec::new(),
            lost: None,
            seconds: 0.0,
        }
    }

    /// Runs the cases of one family.
    fn family(&mut self, runtime: &Runtime, family: &str, start: Instant) -> Result<()> {
        match build(runtime, family, self.suite) {
            Ok(cases) => self.cases(runtime, cases, start),
            Err(error) => {
                let left = |reason| Left {
                    name: family.into(),
                    shape: String::new(),
                    dtype: None,
                    variant: String::new(),
                    reason,
                };
                self.file(error, left)
            }
        }
    }

    fn cases(&mut self, runtime: &Runtime, cases: Vec<Case>, start: Instant) -> Result<()> {
        for case in cases {
            let left = |reason| Left {
                name: case.name.clone(),
                shape: case.shape.clone(),
                dtype: Some(case.dtype),
                variant: case.variant.clone(),
                reason,
            };
            let late = start.elapsed().as_secs_f64() > self.suite.seconds();
            let outcome = if late {
                Ok(Outcome::Skipped(format!("the suite's {} s were over", self.suite.seconds())))
            } else {
                self.case(runtime, &case)
            };
            match outcome {
                Ok(Outcome::Timed(row)) => self.rows.push(*row),
                Ok(Outcome::Skipped(reason)) => self.skipped.push(left(reason)),
                Ok(Outcome::Wrong(reason)) => self.wrong.push(left(reason)),
                Err(error) => self.file(error, left)?,
            }
        }
        Ok(())
    }

    /// Files an error: what the adapter cannot do is skipped, anything else is wrong; a lost device is passed on.
    fn file(&mut self, error: Error, left: impl Fn(String) -> Left) -> Result<()> {
        let reason = error.to_string();
        match error {
            Error::DeviceLost(_) => return Err(error),
            Error::Limit { .. } | Error::OutOfMemory { .. } | Error::Feature { .. } => self.skipped.push(left(reason)),
            _ => self.wrong.push(left(reason)),
        }
        Ok(())
    }

    fn case(&self, runtime: &Runtime, case: &Case) -> Result<Outcome> {
        let slow = |seconds: f64| Outcome::Skipped(format!("slow: a run takes {} s", number(seconds)));
        let at_least = self.peaks.seconds(case);
        if at_least > LONGEST_RUN {
            return Ok(Outcome::Skipped(format!("slow: a run takes {} s at the peak rates", number(at_least))));
        }
        let (error, ms_first) = case.first()?;
        if !case.allows(error) {
            return Ok(Outcome::Wrong(format!("error {error:.1e}, {:.1e} allowed", case.tolerance)));
        }
        if ms_first > 1e3 * LONGEST_RUN {
            // Compilation may have taken most of it.
            let (_, ms) = case.first()?;
            if ms > 1e3 * LONGEST_RUN {
                return Ok(slow(ms / 1e3));
            }
        }
        let timing = case.time(runtime, self.suite.row_seconds())?;
        Ok(Outcome::Timed(Box::new(Row::new(case, &timing, error, ms_first))))
    }

    /// Whether every row was right and the device is still there.
    ///
    /// # Errors
    /// [`Error::Device`] naming what was wrong, [`Error::DeviceLost`].
    pub fn verdict(&self) -> Result<()> {
        if let Some(message) = &self.lost {
            return Err(Error::DeviceLost(message.clone()));
        }
        if self.wrong.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.wrong.iter().map(|left| left.name.as_str()).collect();
        Err(Error::Device(format!("{} wrong results: {}", names.len(), names.join(", "))))
    }
}

impl Row {
    fn new(case: &Case, timing: &Timing, max_error: f64, ms_first: f64) -> Self {
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
            gflops: rate(case.flops, timing.median_ms),
            gbps: rate(case.bytes, timing.median_ms),
            items_per_s: (case.items.0 > 0).then(|| 1e3 * case.items.0 as f64 / timing.median_ms),
            item: (case.items.0 > 0).then_some(case.items.1),
            share_of_peak: None,
            max_error,
            runs: timing.runs,
            flops: case.flops,
            bytes: case.bytes,
        }
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
    fn of(rows: &[Row], is_software: bool) -> Self {
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
        let command = if is_software { None } else { word("copy", "command") };
        let streams = [word("copy", "kernel"), word("read", "auto"), word("write", "auto"), command];
        let fastest = |rate: fn(&Row) -> f64| streams.into_iter().flatten().map(rate).fold(0.0, f64::max);
        Self {
            fma_gflops: fma.map_or(0.0, |row| row.gflops),
            fma_f16_gflops: find("fma", "auto", DType::F16).map(|row| row.gflops),
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
            fma_gflop_per_cpu_s: fma.map_or(0.0, |row| rate(row.flops, row.cpu_ms)),
            memory_gb_per_cpu_s: fastest(|row| rate(row.bytes, row.cpu_ms)),
        }
    }

    /// Share of the peak that binds a row.
    fn share(&self, row: &Row, by_cpu: bool) -> Option<f64> {
        let (ms, gflops, gbps) = if by_cpu {
            (row.cpu_ms, self.fma_gflop_per_cpu_s, self.memory_gb_per_cpu_s)
        } else {
            (row.ms_median, self.fma_gflops, self.memory_gbps)
        };
        let share = (rate(row.flops, ms) / gflops).max(rate(row.bytes, ms) / gbps);
        (!row.is_micro() && row.flops + row.bytes > 0 && share.is_finite()).then_some(share)
    }

    /// Seconds that a case takes at least; 0 as long as the peaks are unknown.
    fn seconds(&self, case: &Case) -> f64 {
        let seconds = |amount: u64, rate: f64| if rate > 0.0 { amount as f64 / rate / 1e9 } else { 0.0 };
        seconds(case.flops, self.fma_gflops).max(seconds(case.bytes, self.memory_gbps))
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dtype = self.dtype.map(|dtype| dtype.to_string()).unwrap_or_default();
        let words = [&self.name, &self.shape, &dtype, &self.variant];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
        write!(f, "{}: {}", words.join(" "), self.reason)
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} modules", self.adapter, self.conditions.modules)?;
        let peaks: Vec<String> = self.peaks.list().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        writeln!(f, "peaks: {}", peaks.join(", "))?;
        write!(f, "{}", self.table(false))?;
        for (title, lefts) in [("skipped", &self.skipped), ("WRONG", &self.wrong)] {
            for left in lefts {
                write!(f, "\n{title} {left}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, Tensor};

    fn row(name: &str, variant: &str, dtype: DType, (flops, bytes): (u64, u64), ms: f64) -> Row {
        let run = || Err(Error::Input("never run".into()));
        let case = Case::new(name, "1", run, |_| Ok(0.0)).variant(variant).dtype(dtype).cost(flops, bytes);
        let timing = Timing { median_ms: ms, p10_ms: ms, p90_ms: ms, first_ms: ms, cpu_ms: 2.0 * ms, runs: 1 };
        Row::new(&case, &timing, 0.0, ms)
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
        assert!(peaks.share(&micro[0], false).is_none() && peaks.share(&micro[3], false).is_none());
        assert!(Peaks::default().share(&row("a/b", "auto", DType::F32, (1, 1), 1.0), false).is_none());
    }

    #[test]
    fn wrong_and_slow_rows_are_not_timed() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let mut report = BenchReport::new(&runtime, &SuiteFlags::default());
        report.peaks.fma_gflops = 1.0;
        let x = Tensor::from_slice(&runtime, &[1.0f32], &[1]).unwrap();
        let case = |name: &str, error: f64| {
            let x = x.clone();
            Case::new(name, "1", move || Ok(x.clone()), move |_| Ok(error)).tolerance(1e-3)
        };
        let fails = |name: &str, error: Error| Case::new(name, "1", move || Err(error.clone()), |_| Ok(0.0));
        let limit = Error::Limit { what: "bytes".into(), asked: 2, limit: 1, adapter: "a".into() };
        let refused = Error::Kernel { kernel: "k".into(), message: "no".into() };
        let cases = vec![
            case("right", 1e-3),
            case("wrong", 1.1e-3),
            case("not a number", f64::NAN),
            case("slow", 0.0).cost(3_000_000_000, 0),
            fails("too large", limit),
            fails("refused", refused),
        ];
        report.cases(&runtime, cases, Instant::now()).unwrap();
        let names = |lefts: &[Left]| lefts.iter().map(|left| left.name.clone()).collect::<Vec<_>>();
        assert_eq!(report.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["right"]);
        assert_eq!(names(&report.wrong), ["wrong", "not a number", "refused"]);
        assert_eq!(names(&report.skipped), ["slow", "too large"]);
        let verdict = report.verdict().unwrap_err();
        assert!(!verdict.is_bad_input() && verdict.to_string().contains("3 wrong results: wrong, not"), "{verdict}");
        assert!(report.to_string().contains("WRONG wrong 1 f32 auto: error 1.1e-3, 1.0e-3 allowed"), "{report}");

        let lost = vec![case("before", 0.0), fails("lost", Error::DeviceLost("gone".into())), case("after", 0.0)];
        assert!(matches!(report.cases(&runtime, lost, Instant::now()), Err(Error::DeviceLost(_))));
        assert_eq!(report.rows.len(), 2);
    }
}

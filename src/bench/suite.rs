//! A suite: the adapter's peaks, then every row of the families, as one report.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::all_families;
use super::figures::{Peaks, Quality, Row};
use super::micro::{self, MICRO};
use super::pipeline::{self, PIPELINE};
use super::{By, Case, Level, SuiteFlags, kernel};
use super::{pipeline_finetune, pipeline_ssl, pipeline_text};
use crate::report::{Progress, Table, number};
use crate::runtime::{DeviceProfile, Runtime, Tuned, list_devices};
use crate::tensor::DType;
use crate::{Error, Result};

/// Version of the report's keys; it grows when one changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// Of the longest run that is not skipped: what a row whose inputs are still to be made may take at the peak rates. No
/// kernel of that size comes closer to them than four times, so that what is made is mostly timed, too.
const DEFERRED_SHARE: f64 = 0.25;
/// A case that needs more than this is alone on the device: what the pool kept of those before it is given back.
const LARGE_BYTES: u64 = 1 << 30;

/// A case that was not timed.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conditions {
    /// Shaders with bounds checks and bounded loops (`checked`) or without (`trusted`).
    pub modules: String,
    /// What `share_of_peak` is taken from: `CPU time` or `wall time`.
    pub share_by: String,
    /// Operating system and architecture.
    pub system: String,
    /// Threads the machine runs at once.
    pub threads: usize,
}

/// Whether the adapter kept its pace: the rate of f32 multiply-adds before the rows and behind them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Clocks {
    /// Among the peaks, in GFLOP/s.
    pub fma_gflops_start: f64,
    /// After the last row, in GFLOP/s.
    pub fma_gflops_end: f64,
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fma_gflops_start: start, fma_gflops_end: end } = *self;
        let kept = 100.0 * end / start;
        write!(
            f,
            "{} GFLOP/s of f32 multiply-adds at the start, {} at the end ({kept:.0} %)",
            number(start),
            number(end)
        )
    }
}

/// What a suite found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchReport {
    /// Version of these keys.
    pub schema: u32,
    /// Version of the crate.
    pub version: String,
    /// Start, in UTC.
    pub date: String,
    /// The suite.
    pub suite: Level,
    /// The families that were run.
    pub families: Vec<String>,
    /// The adapter.
    pub adapter: DeviceProfile,
    /// How the figures came about.
    pub conditions: Conditions,
    /// The adapter's peaks.
    pub peaks: Peaks,
    /// Whether it kept its pace; `None` in older files, or if the device was lost.
    #[serde(default)]
    pub clocks: Option<Clocks>,
    /// What was timed.
    pub rows: Vec<Row>,
    /// What was left out, with the reason.
    pub skipped: Vec<Left>,
    /// What gave wrong results, or none.
    pub wrong: Vec<Left>,
    /// Which variants the rows called `auto` chose, where tuning was on.
    #[serde(default)]
    pub tuned: Vec<Tuned>,
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
        MICRO => micro::cases(runtime, level),
        PIPELINE => {
            let mut cases = pipeline::cases(runtime, level)?;
            cases.extend(pipeline_ssl::cases(runtime, level)?);
            cases.extend(pipeline_text::cases(runtime, level)?);
            cases.extend(pipeline_finetune::cases(runtime, level)?);
            Ok(cases)
        }
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
    Ok(run_cases(runtime, flags, quiet, build))
}

/// Runs what `build` makes of each family.
fn run_cases(
    runtime: &Runtime,
    flags: &SuiteFlags,
    quiet: bool,
    build: impl Fn(&Runtime, &str, Level) -> Result<Vec<Case>>,
) -> BenchReport {
    let mut report = BenchReport::new(runtime, flags);
    let start = Instant::now();
    let families = flags.families();
    let mut progress = Progress::new("gpubench", families.len() as u64, "families", quiet);
    for family in families {
        // Inputs take time, too.
        let late = start.elapsed().as_secs_f64() > flags.suite.seconds();
        let cases = if late { Ok(Vec::new()) } else { build(runtime, family, flags.suite) };
        if late {
            report.skipped.push(whole(family, format!("the suite's {} s were over", flags.suite.seconds())));
        }
        let lost = report.family(runtime, family, cases, start);
        if family == MICRO {
            report.peaks = Peaks::of(&report.rows, runtime.profile().is_software());
        }
        if let Err(message) = lost {
            report.lost = Some(message);
            break;
        }
        progress.advance(1);
    }
    if report.lost.is_none() {
        match report.clocks(runtime) {
            Ok(clocks) => report.clocks = clocks,
            Err(Error::DeviceLost(message)) => report.lost = Some(message),
            Err(error) => log::warn!("the clocks at the end: {error}"),
        }
    }
    for row in &mut report.rows {
        row.share_of_peak = report.peaks.share(row, runtime.profile().is_software());
    }
    report.tuned = runtime.tuning();
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// A family that was left out.
fn whole(family: &str, reason: String) -> Left {
    Left { name: family.into(), shape: String::new(), dtype: None, variant: String::new(), reason }
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
            version: env!("CARGO_PKG_VERSION").to_string(),
            date: crate::report::now(),
            suite: flags.suite,
            families: flags.families().into_iter().map(str::to_string).collect(),
            adapter: profile.clone(),
            conditions: Conditions {
                modules: if runtime.options().checked == Some(false) { "trusted" } else { "checked" }.to_string(),
                share_by: By::of(profile).to_string(),
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            },
            peaks: Peaks::default(),
            clocks: None,
            rows: Vec::new(),
            skipped: Vec::new(),
            wrong: Vec::new(),
            tuned: Vec::new(),
            lost: None,
            seconds: 0.0,
        }
    }

    /// Runs the cases of one family; what the device said if it was lost.
    fn family(
        &mut self,
        runtime: &Runtime,
        family: &str,
        cases: Result<Vec<Case>>,
        start: Instant,
    ) -> std::result::Result<(), String> {
        match cases {
            Ok(cases) => self.cases(runtime, cases, start),
            Err(error) => self.file(error, |reason| whole(family, reason)),
        }
    }

    fn cases(&mut self, runtime: &Runtime, cases: Vec<Case>, start: Instant) -> std::result::Result<(), String> {
        let key = |case: &Case| (case.name.clone(), case.shape.clone(), case.dtype);
        let chosen: Vec<_> = cases.iter().filter(|case| case.variant == "auto").map(key).collect();
        for case in cases {
            let left = |reason| Left {
                name: case.name.clone(),
                shape: case.shape.clone(),
                dtype: Some(case.dtype),
                variant: case.variant.clone(),
                reason,
            };
            let (elapsed, seconds) = (start.elapsed().as_secs_f64(), self.suite.seconds());
            let is_other_variant = case.variant != "auto" && chosen.contains(&key(&case));
            let outcome = if elapsed > seconds {
                Ok(Outcome::Skipped(format!("the suite's {seconds} s were over")))
            } else if is_other_variant && elapsed > self.suite.variant_seconds() {
                Ok(Outcome::Skipped(format!(
                    "what was left of the suite's {seconds} s is for variants that ops choose"
                )))
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
    fn file(&mut self, error: Error, left: impl Fn(String) -> Left) -> std::result::Result<(), String> {
        let reason = error.to_string();
        match error {
            Error::DeviceLost(message) => return Err(message),
            Error::Limit { .. } | Error::OutOfMemory { .. } | Error::Feature { .. } | Error::NoAdapter(_) => {
                self.skipped.push(left(reason));
            }
            _ => self.wrong.push(left(reason)),
        }
        Ok(())
    }

    fn case(&self, runtime: &Runtime, case: &Case) -> Result<Outcome> {
        // What an adapter can do at most is wanted from every adapter.
        let longest = if case.is_micro() { f64::INFINITY } else { self.suite.longest_run() };
        let slow = |seconds: f64| Outcome::Skipped(format!("slow: a run takes {} s", number(seconds)));
        let at_least = self.peaks.seconds(case);
        if at_least > longest * if case.is_deferred() { DEFERRED_SHARE } else { 1.0 } {
            return Ok(Outcome::Skipped(format!("slow: a run takes {} s at the peak rates", number(at_least))));
        }
        case.fits(runtime)?;
        if case.memory.1 > LARGE_BYTES {
            runtime.trim()?;
        }
        let (error, ms_first) = case.first()?;
        if !case.allows(error) {
            return Ok(Outcome::Wrong(format!("error {error:.1e}, {:.1e} allowed", case.tolerance)));
        }
        if ms_first > 1e3 * longest {
            // Compilation may have taken most of it.
            let (_, ms) = case.first()?;
            if ms > 1e3 * longest {
                return Ok(slow(ms / 1e3));
            }
        }
        let quality = case.quality()?.map(|(what, value, bound)| Quality { what: what.to_string(), value, bound });
        // Not a number is no quality.
        if let Some(Quality { what, value, bound }) = quality.as_ref().filter(|q| q.value.is_nan() || q.value > q.bound)
        {
            return Ok(Outcome::Wrong(format!("{what}: {value:.3}, at most {bound} wanted")));
        }
        let timing = case.time(runtime, self.suite.row_seconds())?;
        Ok(Outcome::Timed(Box::new(Row::new(case, &timing, (error, ms_first), quality))))
    }

    /// The rate of f32 multiply-adds once more, beside what it was at the start.
    fn clocks(&self, runtime: &Runtime) -> Result<Option<Clocks>> {
        let fma = micro::f32_rate(runtime)?;
        let timing = fma.time(runtime, self.suite.row_seconds())?;
        let [start, end] = [self.peaks.fma_gflops, fma.flops as f64 / timing.median_ms / 1e6];
        Ok((start > 0.0).then_some(Clocks { fma_gflops_start: start, fma_gflops_end: end }))
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
        if let Some(clocks) = &self.clocks {
            writeln!(f, "clocks: {clocks}")?;
        }
        write!(f, "{}", self.table(false))?;
        if let Some(table) = self.methods_table() {
            write!(f, "\n\n{table}")?;
        }
        if !self.tuned.is_empty() {
            let faster = self.tuned.iter().filter(|tuned| tuned.variant != tuned.default).count();
            write!(f, "\ntuned: {} kinds of problems, the default beaten in {faster}", self.tuned.len())?;
        }
        for (title, lefts) in [("skipped", &self.skipped), ("WRONG", &self.wrong)] {
            for left in lefts {
                write!(f, "\n{title} {left}")?;
            }
        }
        if let Some(message) = &self.lost {
            write!(f, "\nLOST {message}: the rows after it were not run")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::TuneSource;
    use crate::{DeviceChoice, Tensor};

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
        assert!(!report.to_string().contains("tuned: "), "{report}");
        let tuned = |variant: &str| Tuned {
            op: "matmul".into(),
            dtype: DType::F32,
            bucket: "m<=64".into(),
            variant: variant.into(),
            default: "Tiled64".into(),
            times: Vec::new(),
            wrong: Vec::new(),
            source: TuneSource::Disk,
        };
        report.tuned = vec![tuned("Tiled64"), tuned("Tiled128")];
        assert!(report.to_string().contains("tuned: 2 kinds of problems, the default beaten in 1\n"), "{report}");
        assert!(report.to_string().contains("WRONG wrong 1 f32 auto: error 1.1e-3, 1.0e-3 allowed"), "{report}");

        // Late in the suite the variants go first, then everything.
        let ago = |seconds| Instant::now().checked_sub(std::time::Duration::from_secs(seconds));
        for (seconds, timed) in [(31, 2), (51, 0)] {
            let Some(start) = ago(seconds) else { continue };
            let mut report = BenchReport::new(&runtime, &SuiteFlags::default());
            let named = |name: &str, variant: &str| case(name, 0.0).variant(variant);
            let cases = vec![named("a/b", "auto"), named("a/b", "tiled"), named("a/c", "tiled")];
            report.cases(&runtime, cases, start).unwrap();
            assert_eq!((report.rows.len(), report.skipped.len()), (timed, 3 - timed), "{seconds}");
        }

        let lost = vec![case("before", 0.0), fails("lost", Error::DeviceLost("gone".into())), case("after", 0.0)];
        assert_eq!(report.cases(&runtime, lost, Instant::now()), Err("gone".into()));
        assert_eq!(report.rows.len(), 2);
    }

    #[test]
    fn a_lost_device_leaves_what_was_finished() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let flags = SuiteFlags { suite: Level::Quick, family: vec!["matmul".into(), "sort".into()] };
        let planted = |runtime: &Runtime, family: &str, _: Level| -> Result<Vec<Case>> {
            let x = Tensor::from_slice(runtime, &[1.0f32], &[1])?;
            let case = |name: String, destroy: bool| {
                let x = x.clone();
                let run = move || {
                    if destroy {
                        x.runtime().device().destroy();
                    }
                    crate::ops::elementwise::add(&x, &x)
                };
                Case::new(name, "1", run, |out| Ok(f64::from(out.item::<f32>()?) - 2.0))
            };
            let named = |op: &str, destroy| case(format!("{family}/{op}"), destroy);
            Ok(vec![named("before", false), named("now", family == "matmul"), named("after", false)])
        };
        let report = run_cases(&runtime, &flags, true, planted);
        let names: Vec<&str> = report.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["micro/before", "micro/now", "micro/after", "matmul/before"]);
        assert!(report.lost.is_some() && report.clocks.is_none() && report.wrong.is_empty(), "{report}");
        let error = report.verdict().unwrap_err();
        assert!(matches!(error, Error::DeviceLost(_)) && !error.is_bad_input());
        assert!(report.to_string().contains("LOST ") && report.page().html().contains("The device was lost"));
        // What is written is read again, as far as it goes.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lost.json");
        std::fs::write(&file, serde_json::to_vec(&report).unwrap()).unwrap();
        let read = BenchReport::read(&file).unwrap();
        assert_eq!((read.rows.len(), read.lost), (4, report.lost));
    }

    #[test]
    fn methods_without_quality_are_wrong() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let x = Tensor::from_slice(&runtime, &[1.0f32], &[1]).unwrap();
        let case = |value: f64| {
            let x = x.clone();
            Case::deferred("pipeline/a", "1", move || {
                let x = x.clone();
                let gate = super::super::Gate::new("loss", 0.5, move || Ok(value));
                Ok(super::super::Parts::new(move || Ok(x.clone()), |_| Ok(0.0)).gate(gate))
            })
        };
        let mut report = BenchReport::new(&runtime, &SuiteFlags::default());
        report.cases(&runtime, [0.5, 0.6, f64::NAN].map(case).into(), Instant::now()).unwrap();
        let want = Quality { what: "loss".into(), value: 0.5, bound: 0.5 };
        assert_eq!(report.rows.iter().map(|row| row.quality.clone()).collect::<Vec<_>>(), [Some(want)]);
        let reasons: Vec<&str> = report.wrong.iter().map(|left| left.reason.as_str()).collect();
        assert_eq!(reasons, ["loss: 0.600, at most 0.5 wanted", "loss: NaN, at most 0.5 wanted"]);
        assert!(report.verdict().is_err() && report.to_string().contains("quality"));
    }

    #[test]
    fn what_is_skipped_is_never_made() {
        let options = crate::RuntimeOptions { memory_limit: Some(1 << 20), ..crate::RuntimeOptions::default() };
        let Ok(runtime) = Runtime::with_options(&DeviceChoice::default(), options) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let mut report = BenchReport::new(&runtime, &SuiteFlags { suite: Level::Full, family: Vec::new() });
        report.peaks.fma_gflops = 1.0;
        let deferred = || Case::deferred("a/b", "1", || Err(Error::Device("made".into())));
        // At the peak rates 0.4 s and 0.6 s: four times as much is the least that such a row takes.
        let cases =
            vec![deferred().cost(400_000_000, 0), deferred().cost(600_000_000, 0), deferred().memory(0, 1 << 21)];
        report.cases(&runtime, cases, Instant::now()).unwrap();
        assert_eq!(report.wrong.len(), 1);
        let reasons: Vec<&str> = report.skipped.iter().map(|left| left.reason.as_str()).collect();
        assert!(
            reasons.len() == 2 && reasons[0].starts_with("slow") && reasons[1].contains("memory limit"),
            "{reasons:?}"
        );
        // Stress has time for everything.
        report.suite = Level::Stress;
        report.cases(&runtime, vec![deferred().cost(600_000_000_000, 0)], Instant::now()).unwrap();
        assert_eq!(report.wrong.len(), 2);
    }
}

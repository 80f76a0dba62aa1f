//! A suite: the adapter's peaks, then every row of the families, as one report.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::all_families;
use super::figures::{Peaks, Row};
use super::micro::{self, MICRO};
use super::pipeline::{self, PIPELINE};
use super::{By, Case, Level, SuiteFlags, kernel};
use crate::report::{Progress, Table, number};
use crate::runtime::{DeviceProfile, Runtime, Tuned, list_devices};
use crate::tensor::DType;
use crate::{Error, Result};

/// Version of the report's keys; it grows when one changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// A row whose single run takes longer than this many seconds is skipped.
const LONGEST_RUN: f64 = 2.0;

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
    report.tuned = runtime.tuning();
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
            rows: Vec::new(),
            skipped: Vec::new(),
            wrong: Vec::new(),
            tuned: Vec::new(),
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
        if !self.tuned.is_empty() {
            let faster = self.tuned.iter().filter(|tuned| tuned.variant != tuned.default).count();
            write!(f, "\ntuned: {} kinds of problems, the default beaten in {faster}", self.tuned.len())?;
        }
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

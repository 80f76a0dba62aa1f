//! What came of a sanitizer's runs.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::SanitizeFlags;
use crate::bench::Left;
use crate::report::{grouped, number};
use crate::sim::{Finding, Schedule};
use crate::{Error, Result};

/// Version of the report's keys; it grows when one changes its meaning or goes.
const SCHEMA: u32 = 1;

/// One run: a subgroup size and a schedule.
#[derive(Debug, Clone, Serialize)]
pub struct SimulatedRun {
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// The schedule.
    pub schedule: String,
    /// Expressions and statements executed, summed over the invocations.
    pub operations: u64,
    /// Time, in s.
    pub seconds: f64,
    /// Findings of this run.
    pub findings: usize,
}

/// A fault, told once for all runs that show it.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The fault as the first of them shows it, counted over all.
    #[serde(flatten)]
    pub finding: Finding,
    /// The runs that show it.
    pub runs: Vec<String>,
}

/// An output that is not the same in every run.
#[derive(Debug, Clone, Serialize)]
pub struct Differing {
    /// The binding.
    pub name: String,
    /// 32-bit words that differ from the first run, at most.
    pub words: u64,
    /// The runs that differ from the first.
    pub runs: Vec<String>,
}

/// What the sanitizer found.
#[derive(Debug, Clone, Serialize)]
pub struct SanitizeReport {
    /// Version of these keys.
    pub schema: u32,
    /// Version of the crate.
    pub version: &'static str,
    /// Start, in UTC.
    pub date: String,
    /// The file or family.
    pub target: String,
    /// The entry point, where one was named.
    pub entry: Option<String>,
    /// The runs.
    pub runs: Vec<SimulatedRun>,
    /// Cases of a family, over all runs.
    pub cases: u64,
    /// What is wrong.
    pub findings: Vec<Found>,
    /// Cases of a family that gave wrong results or failed.
    pub wrong: Vec<Left>,
    /// Cases of a family that a simulated device cannot run.
    pub skipped: Vec<Left>,
    /// Outputs that are not the same in every run: by rounding, or by an order that a kernel must not count on.
    pub differing: Vec<Differing>,
    /// Time of all runs, in s.
    pub seconds: f64,
    #[serde(skip)]
    start: Instant,
}

fn under((subgroup, schedule): (u32, Schedule)) -> String {
    format!("subgroups of {subgroup}, {schedule}")
}

impl SanitizeReport {
    pub(super) fn new(flags: &SanitizeFlags) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            date: crate::report::now(),
            target: flags.target.clone(),
            entry: flags.entry.clone(),
            runs: Vec::new(),
            cases: 0,
            findings: Vec::new(),
            wrong: Vec::new(),
            skipped: Vec::new(),
            differing: Vec::new(),
            seconds: 0.0,
            start: Instant::now(),
        }
    }

    /// Takes what a run came to and says so on standard error, unless `quiet`.
    pub(super) fn ran(
        &mut self,
        pair: (u32, Schedule),
        operations: u64,
        seconds: f64,
        findings: Vec<Finding>,
        quiet: bool,
    ) {
        let run = SimulatedRun {
            subgroup: pair.0,
            schedule: pair.1.to_string(),
            operations,
            seconds,
            findings: findings.len(),
        };
        if !quiet {
            eprintln!("{run}");
        }
        self.runs.push(run);
        for finding in findings {
            self.add(finding, under(pair));
        }
    }

    fn add(&mut self, finding: Finding, run: String) {
        /// The variable without the element.
        fn variable(finding: &Finding) -> Option<&str> {
            finding.address.as_deref().and_then(|a| a.split(['[', '.', ' ']).next())
        }
        let same = |found: &&mut Found| {
            let known = &found.finding;
            (&known.kernel, known.check, &known.place) == (&finding.kernel, finding.check, &finding.place)
                && variable(known) == variable(&finding)
        };
        match self.findings.iter_mut().find(same) {
            Some(found) => {
                found.finding.count += finding.count;
                if !found.runs.contains(&run) {
                    found.runs.push(run);
                }
            }
            None => self.findings.push(Found { finding, runs: vec![run] }),
        }
    }

    /// Files a case: what a simulated device cannot do is skipped, anything else is wrong.
    pub(super) fn left(&mut self, error: &Error, left: Left, run: &str) {
        let reason = format!("{} ({run})", left.reason);
        let list = match error {
            Error::Limit { .. } | Error::OutOfMemory { .. } | Error::Feature { .. } => &mut self.skipped,
            _ => &mut self.wrong,
        };
        list.push(Left { reason, ..left });
    }

    /// Notes that `words` words of an output are not as in the first run.
    pub(super) fn differ(&mut self, name: &str, words: u64, pair: (u32, Schedule)) {
        if words == 0 {
            return;
        }
        match self.differing.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.words = known.words.max(words);
                known.runs.push(under(pair));
            }
            None => self.differing.push(Differing { name: name.into(), words, runs: vec![under(pair)] }),
        }
    }

    pub(super) fn finished(mut self) -> Self {
        self.seconds = self.start.elapsed().as_secs_f64();
        self
    }

    /// Whether nothing was found.
    ///
    /// # Errors
    /// [`Error::Failed`] with the number of findings and wrong results.
    pub fn verdict(&self) -> Result<()> {
        let counts = [(self.findings.len(), "finding"), (self.wrong.len(), "wrong result")];
        let told: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| plural(*n, what)).collect();
        if told.is_empty() { Ok(()) } else { Err(Error::Failed(format!("{}: {}", self.name(), told.join(", ")))) }
    }

    fn name(&self) -> String {
        self.entry.as_ref().map_or_else(|| self.target.clone(), |entry| format!("{}, {entry}", self.target))
    }
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

impl fmt::Display for SimulatedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("subgroups of {}, {}", self.subgroup, self.schedule);
        let rate = number(self.operations as f64 / self.seconds.max(1e-9) / 1e6);
        let found = plural(self.findings, "finding");
        write!(f, "{name}: {} operations, {rate} million/s, {found}", grouped(self.operations))
    }
}

impl fmt::Display for SanitizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Found { finding, runs } in &self.findings {
            let n = self.runs.len();
            let run = if runs.len() == n && n > 1 { format!("in all {n} runs") } else { runs.join("; ") };
            writeln!(f, "{}\n", Finding { run, ..finding.clone() })?;
        }
        for (title, lefts) in [("skipped", &self.skipped), ("WRONG", &self.wrong)] {
            for left in lefts {
                writeln!(f, "{title} {left}")?;
            }
        }
        for Differing { name, words, runs } in &self.differing {
            writeln!(f, "note: {name} differs from the first run in {} words, {}", grouped(*words), runs.join("; "))?;
        }
        let operations = grouped(self.runs.iter().map(|run| run.operations).sum());
        let runs = plural(self.runs.len(), "run");
        let cases = if self.cases > 0 { format!(", {} cases", grouped(self.cases)) } else { String::new() };
        let verdict = if self.verdict().is_ok() { "clean" } else { "NOT CLEAN" };
        write!(f, "{}: {verdict}, {runs}{cases}, {operations} operations, {} s", self.name(), number(self.seconds))
    }
}

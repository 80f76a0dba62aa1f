//! `gpubench coverage`: which lines and branches of the shaders a test run executed in the simulator.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::report::{Page, Table};
use crate::sim::{Coverage, Place};
use crate::{Error, Result};

/// What to count.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CoverageFlags {
    /// Files or folders that a test run wrote where `LEANVISION_COVERAGE` said
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Percentage of lines that must have run; fewer fail
    #[arg(long, value_name = "PERCENT", default_value_t = 95.0)]
    pub least: f64,
}

/// Lines that no test can execute: file, a part of the line, and why.
const EXPLAINED: &[(&str, &str, &str)] =
    &[("common/act.wgsl", "default: { return one; }", "WGSL wants a default; every activation has a case")];

/// A line that no test executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missed {
    /// The file and line.
    pub place: Place,
    /// The line's text.
    pub text: String,
    /// Why no test can execute it, where that is so.
    pub reason: Option<&'static str>,
}

/// One shader file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileCoverage {
    /// Its name under `shaders`.
    pub file: String,
    /// Lines that ran.
    pub lines_ran: usize,
    /// Lines that hold code.
    pub lines: usize,
    /// Outcomes of conditions that were seen.
    pub branches_seen: usize,
    /// Outcomes of conditions that there are.
    pub branches: usize,
}

/// What a test run executed.
#[derive(Debug, Clone, Serialize)]
pub struct CoverageReport {
    /// Percentage of lines that ran.
    pub percent: f64,
    /// Percentage of lines that must have run.
    pub least: f64,
    /// The shader files.
    pub files: Vec<FileCoverage>,
    /// The lines that did not run.
    pub missed: Vec<Missed>,
    /// Lines whose condition had one outcome only.
    pub one_sided: Vec<Missed>,
}

/// Reads what test runs wrote and counts it against all lines of all kernels.
///
/// # Errors
/// [`Error::File`] for a path that cannot be read or holds something else, [`Error::Kernel`] for a kernel that is not
/// simulated.
pub fn run(flags: &CoverageFlags) -> Result<CoverageReport> {
    if !(0.0..=100.0).contains(&flags.least) {
        return Err(Error::Input(format!("--least {}: expected 0 to 100", flags.least)));
    }
    let mut all = Coverage::default();
    for path in &flags.paths {
        for file in files_of(path)? {
            let text = std::fs::read_to_string(&file).map_err(|e| Error::io(&file, &e))?;
            let one: Coverage =
                serde_json::from_str(&text).map_err(|e| Error::file(&file, format!("no coverage: {e}")))?;
            all.merge(&one);
        }
    }
    let mut texts = BTreeMap::new();
    for kernel in crate::kernels() {
        for (name, text) in kernel.parts(&kernel.type_sets()[0], false) {
            texts.entry(name).or_insert_with(|| text.into_owned());
        }
        // A type set decides over no line, an override set may.
        for set in kernel.override_sets() {
            all.merge(&kernel.program(&kernel.type_sets()[0], &set, false)?.coverage());
        }
    }
    Ok(CoverageReport::new(&all, &texts, flags.least))
}

/// The files of a folder, or the file itself.
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, &e))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    if files.is_empty() { Err(Error::file(path, "no .json file in this folder")) } else { Ok(files) }
}

impl CoverageReport {
    fn new(all: &Coverage, texts: &BTreeMap<String, String>, least: f64) -> Self {
        let text_of = |file: &str, line: u32| {
            let line = texts.get(file).and_then(|text| text.lines().nth(line as usize - 1));
            line.unwrap_or_default().trim().to_owned()
        };
        let mut report = Self { percent: 100.0, least, files: Vec::new(), missed: Vec::new(), one_sided: Vec::new() };
        for (file, lines) in all.files() {
            let mut sum = FileCoverage { file: file.clone(), ..FileCoverage::default() };
            for (number, line) in lines {
                let place = Place { file: file.clone(), line: *number };
                let missed = || {
                    let text = text_of(file, *number);
                    let known = EXPLAINED.iter().find(|(of, part, _)| of == file && text.contains(part));
                    Missed { place: place.clone(), text, reason: known.map(|(_, _, reason)| *reason) }
                };
                sum.lines += 1;
                sum.lines_ran += usize::from(line.ran);
                if !line.ran {
                    report.missed.push(missed());
                }
                if line.branches {
                    let seen = usize::from(line.taken) + usize::from(line.passed);
                    sum.branches += 2;
                    sum.branches_seen += seen;
                    if seen == 1 {
                        report.one_sided.push(missed());
                    }
                }
            }
            report.files.push(sum);
        }
        let total = report.total();
        if total.lines > 0 {
            report.percent = 100.0 * total.lines_ran as f64 / total.lines as f64;
        }
        report
    }

    fn total(&self) -> FileCoverage {
        self.files.iter().fold(FileCoverage { file: "all".into(), ..FileCoverage::default() }, |sum, file| {
            FileCoverage {
                file: sum.file,
                lines_ran: sum.lines_ran + file.lines_ran,
                lines: sum.lines + file.lines,
                branches_seen: sum.branches_seen + file.branches_seen,
                branches: sum.branches + file.branches,
            }
        })
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["shader", ">lines", ">ran", ">share", ">branches", ">seen"]);
        for file in self.files.iter().chain([&self.total()]) {
            let share = 100.0 * file.lines_ran as f64 / file.lines.max(1) as f64;
            let [lines, ran] = [file.lines, file.lines_ran].map(|n| n.to_string());
            let [branches, seen] = [file.branches, file.branches_seen].map(|n| n.to_string());
            table.row([file.file.clone(), lines, ran, format!("{share:.1} %"), branches, seen]);
        }
        table
    }

    /// The report as a page that stands alone.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut page = Page::new("Shader coverage", &format!("{:.1} % of the lines of all kernels ran", self.percent));
        page.table(&self.table());
        for (title, lines) in
            [("Lines that no test ran", &self.missed), ("Conditions with one outcome", &self.one_sided)]
        {
            page.heading(title);
            page.list(lines.iter().map(ToString::to_string));
        }
        page
    }

    /// Whether enough ran.
    ///
    /// # Errors
    /// [`Error::Failed`] if not.
    pub fn verdict(&self) -> Result<()> {
        if self.percent >= self.least {
            return Ok(());
        }
        Err(Error::Failed(format!("{:.1} % of the shader lines ran, {} wanted", self.percent, self.least)))
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.file, self.place.line, self.text)?;
        self.reason.map_or(Ok(()), |reason| write!(f, "  ({reason})"))
    }
}

impl fmt::Display for CoverageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.table())?;
        if !self.missed.is_empty() {
            writeln!(f, "\nLines that no test ran:")?;
            self.missed.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        write!(f, "\n{:.1} % of {} lines ran.", self.percent, self.total().lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Bound, Buffer, Options, Program, Source};

    #[test]
    fn lines_and_outcomes_that_no_run_saw_are_listed() {
        let text = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {
    if x[i] > 10u {
        x[i] = 10u;
    }
    if i < 4u {
        x[i] += 1u;
    }
}";
        let program = Program::new(Source::new("k.wgsl", text), "main", &[]).unwrap();
        let report = |program: &Program| {
            let texts = [("k.wgsl".to_owned(), text.to_owned())].into();
            CoverageReport::new(&program.coverage(), &texts, 90.0)
        };
        assert_eq!(report(&program).percent, 0.0);
        let x = Buffer::new(&[0; 16]);
        program.run([1, 1, 1], &[Bound::all(&x)], &[], &Options::default()).unwrap();
        let half = report(&program);
        assert_eq!(half.missed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["k.wgsl:5: x[i] = 10u;"]);
        assert_eq!(half.one_sided.iter().map(|m| m.place.line).collect::<Vec<_>>(), [4, 7]);
        assert!(half.verdict().is_err());
        x.write(0, &[11, 0, 0, 0]);
        program.run([1, 1, 1], &[Bound::all(&x)], &[], &Options::default()).unwrap();
        let whole = report(&program);
        assert_eq!((whole.percent, whole.missed.len(), whole.one_sided.len()), (100.0, 0, 1));
        assert!(whole.verdict().is_ok());
    }
}

//! `gpubench compare`: reports of several adapters, drivers or versions, row by row beside the first of them.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{BenchReport, Row};
use crate::report::{Table, number};
use crate::runtime::DeviceProfile;
use crate::tensor::DType;
use crate::{Error, Result};

/// Which time of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Median wall time of a run
    #[default]
    Wall,
    /// CPU time of this process per run: what a software adapter costs, whatever else the machine did
    Cpu,
}

impl By {
    /// What an adapter is judged by: CPU time on a software adapter, else wall time.
    #[must_use]
    pub fn of(adapter: &DeviceProfile) -> Self {
        if adapter.is_software() { Self::Cpu } else { Self::Wall }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall time",
            Self::Cpu => "CPU time",
        })
    }
}

/// What to compare.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CompareFlags {
    /// Files that `gpubench run --json` wrote; the first is what the others are compared with
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Which time
    #[arg(long, value_enum, default_value_t, value_name = "TIME")]
    pub by: By,
    /// Percentage within which a row always counts as the same
    #[arg(long, value_name = "PERCENT", default_value_t = LEAST_BAND)]
    pub band: f64,
    /// End with 1 if a row is slower or gives wrong results
    #[arg(long)]
    pub fail_on_slower: bool,
}

/// Percentage within which two runs of the same program differ now and then.
pub(super) const LEAST_BAND: f64 = 5.0;

/// How far the rate of multiply-adds may be off at the end of a run before that is worth a note.
const PACE: f64 = 0.1;

/// Compares files.
///
/// # Errors
/// [`Error::Input`] for fewer than two files or a band that is no percentage, and as [`BenchReport::read`].
pub fn run(flags: &CompareFlags) -> Result<Comparison> {
    if flags.files.len() < 2 {
        return Err(Error::Input("compare: one file alone; give the baseline and at least one more".into()));
    }
    if !(0.0..=1000.0).contains(&flags.band) {
        return Err(Error::Input(format!("--band {}: expected 0 to 1000", flags.band)));
    }
    let reports = BenchReport::read_all(&flags.files)?;
    Ok(Comparison::new(&flags.files, &reports, flags.by, flags.band))
}

/// Whether a row changed by more than its noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// By more than the band.
    Faster,
    /// By more than the band.
    Slower,
    /// Within the band.
    Same,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same",
        })
    }
}

/// One of the files.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// `A` for the first, then `B` and so on.
    pub label: String,
    /// The file.
    pub path: PathBuf,
    /// The adapter, back end and driver.
    pub adapter: String,
    /// The suite.
    pub suite: String,
    /// Version of the crate that measured.
    pub version: String,
    /// Start, in UTC.
    pub date: String,
}

/// A row of one file, beside the baseline's.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Time of a run, in ms.
    pub ms: f64,
    /// The baseline's time over this one: above 1 is faster.
    pub speed: f64,
    /// Half the band: the speed is the same from 1 / (1 + band) to 1 + band.
    pub band: f64,
    /// Whether that is more than noise.
    pub verdict: Verdict,
}

/// A row that the baseline and at least one other file have.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedRow {
    /// `family/op`.
    pub name: String,
    /// Shape as a reader writes it.
    pub shape: String,
    /// Element type of the inputs.
    pub dtype: DType,
    /// The variant.
    pub variant: String,
    /// The baseline's time, in ms.
    pub ms: f64,
    /// The other files, in their order; `None` where one lacks the row.
    pub others: Vec<Option<Cell>>,
}

/// A figure of the baseline and of the other files.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedPeak {
    /// What it is called.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// By file; `None` where it was not measured.
    pub values: Vec<Option<f64>>,
    /// By other file, above 1 for better than the baseline.
    pub speeds: Vec<Option<f64>>,
}

/// Geometric means of a group of rows.
#[derive(Debug, Clone, Serialize)]
pub struct Mean {
    /// A family, or what else the rows have in common.
    pub name: String,
    /// By other file: rows, and the geometric mean of their speeds; `None` without rows.
    pub speeds: Vec<Option<(usize, f64)>>,
}

/// Rows that the same files lack for the same reason.
#[derive(Debug, Clone, Serialize)]
pub struct Apart {
    /// The files that lack them, each with the reason if one is known.
    pub missing: String,
    /// Name, shape, type and variant of each.
    pub rows: Vec<String>,
}

/// Reports beside the first of them.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Which time.
    pub by: By,
    /// Percentage within which a row always counts as the same.
    pub least_band: f64,
    /// The files; the first is the baseline.
    pub files: Vec<Compared>,
    /// In what the runs differ besides their figures.
    pub notes: Vec<String>,
    /// What the adapters can do at most.
    pub peaks: Vec<ComparedPeak>,
    /// By family, and all rows that set no peak.
    pub means: Vec<Mean>,
    /// The rows.
    pub rows: Vec<ComparedRow>,
    /// Rows that not every file has.
    pub apart: Vec<Apart>,
    /// Rows that the baseline timed and another file found wrong.
    pub wrong: Vec<String>,
}

/// What a row is told by.
type Key<'a> = (&'a str, &'a str, Option<DType>, &'a str);

fn key(row: &Row) -> Key<'_> {
    (&row.name, &row.shape, Some(row.dtype), &row.variant)
}

fn find<'a>(report: &'a BenchReport, wanted: Key<'_>, by: By) -> Option<&'a Row> {
    report.rows.iter().find(|row| key(row) == wanted && row.ms(by) > 0.0)
}

/// Half of what lies between the tenth and the ninetieth percentile, as a share of the time. Older files have no percentiles
/// of the CPU time; those of the wall time, which are further apart, stand in for them.
fn spread(row: &Row, by: By) -> f64 {
    let (ms, low, high) = match (by, row.cpu_ms_p10, row.cpu_ms_p90) {
        (By::Cpu, Some(low), Some(high)) => (row.cpu_ms, low, high),
        _ => (row.ms_median, row.ms_p10, row.ms_p90),
    };
    ((high - low) / 2.0 / ms).max(0.0)
}

impl Cell {
    /// Two rows differ by noise as long as their speeds do by less than both spreads together, or `least_band` percent. The
    /// sum, not its root of squares, since what disturbs one run as a whole is in neither spread.
    fn new(base: &Row, row: &Row, by: By, least_band: f64) -> Self {
        let speed = base.ms(by) / row.ms(by);
        let band = (spread(base, by) + spread(row, by)).max(least_band / 100.0);
        let verdict = if speed > 1.0 + band {
            Verdict::Faster
        } else if speed < 1.0 / (1.0 + band) {
            Verdict::Slower
        } else {
            Verdict::Same
        };
        Self { ms: row.ms(by), speed, band, verdict }
    }
}

/// `A`, `B` and so on.
pub(super) fn label(i: usize) -> String {
    u8::try_from(i).ok().filter(|i| *i < 26).map_or_else(|| format!("F{}", i + 1), |i| char::from(b'A' + i).to_string())
}

impl Comparison {
    /// Compares reports with the first; `paths` says where each is from, `least_band` is in percent.
    #[must_use]
    pub fn new(paths: &[PathBuf], reports: &[BenchReport], by: By, least_band: f64) -> Self {
        let files = paths.iter().zip(reports).enumerate().map(|(i, (path, report))| Compared {
            label: label(i),
            path: path.clone(),
            adapter: report.adapter.to_string(),
            suite: report.suite.to_string(),
            version: report.version.clone(),
            date: report.date.clone(),
        });
        let mut comparison = Self {
            by,
            least_band,
            files: files.collect(),
            notes: notes(reports, by),
            peaks: peaks(reports, by),
            means: Vec::new(),
            rows: Vec::new(),
            apart: Vec::new(),
            wrong: Vec::new(),
        };
        let Some((base, others)) = reports.split_first() else { return comparison };
        for row in base.rows.iter().filter(|row| row.ms(by) > 0.0) {
            let cell =
                |other: &BenchReport| find(other, key(row), by).map(|found| Cell::new(row, found, by, least_band));
            let others: Vec<Option<Cell>> = others.iter().map(cell).collect();
            if others.iter().any(Option::is_some) {
                comparison.rows.push(ComparedRow {
                    name: row.name.clone(),
                    shape: row.shape.clone(),
                    dtype: row.dtype,
                    variant: row.variant.clone(),
                    ms: row.ms(by),
                    others,
                });
            }
        }
        comparison.set_apart(reports);
        comparison.means = comparison.means(others.len());
        comparison
    }

    /// Lists the rows that not every file has.
    fn set_apart(&mut self, reports: &[BenchReport]) {
        let mut seen: Vec<Key<'_>> = Vec::new();
        for row in reports.iter().flat_map(|report| &report.rows) {
            let key = key(row);
            let missing: Vec<usize> =
                (0..reports.len()).filter(|i| find(&reports[*i], key, self.by).is_none()).collect();
            if missing.is_empty() || seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let timed_by_base = find(&reports[0], key, self.by).is_some();
            let reasons: Vec<String> = missing
                .iter()
                .map(|i| {
                    let report = &reports[*i];
                    let is_it = |left: &&super::Left| {
                        (left.name.as_str(), left.shape.as_str(), left.dtype, left.variant.as_str()) == key
                    };
                    if let Some(left) = report.wrong.iter().find(is_it) {
                        if timed_by_base {
                            self.wrong.push(format!("{} ({})", row.title(), label(*i)));
                        }
                        return format!("{} (wrong: {})", label(*i), left.reason);
                    }
                    let left = report.skipped.iter().find(is_it);
                    left.map_or_else(|| label(*i), |left| format!("{} (skipped: {})", label(*i), left.reason))
                })
                .collect();
            let missing = format!("not in {}", reasons.join(", "));
            match self.apart.iter_mut().find(|apart| apart.missing == missing) {
                Some(apart) => apart.rows.push(row.title()),
                None => self.apart.push(Apart { missing, rows: vec![row.title()] }),
            }
        }
    }

    fn means(&self, n_others: usize) -> Vec<Mean> {
        let family = |row: &ComparedRow| row.name.split('/').next().unwrap_or_default().to_string();
        let mut families: Vec<String> = Vec::new();
        for row in &self.rows {
            if !families.contains(&family(row)) {
                families.push(family(row));
            }
        }
        let mean = |name: &str, wanted: &dyn Fn(&ComparedRow) -> bool| {
            let speeds = (0..n_others).map(|i| {
                let cells = self.rows.iter().filter(|row| wanted(row)).filter_map(|row| row.others[i].as_ref());
                let logs: Vec<f64> = cells.map(|cell| cell.speed.ln()).collect();
                (!logs.is_empty()).then(|| (logs.len(), (logs.iter().sum::<f64>() / logs.len() as f64).exp()))
            });
            Mean { name: name.to_string(), speeds: speeds.collect() }
        };
        let mut means: Vec<Mean> = families.iter().map(|name| mean(name, &|row| family(row) == *name)).collect();
        if self.rows.iter().any(|row| family(row) != super::micro::MICRO) {
            means.push(mean("all but micro", &|row| family(row) != super::micro::MICRO));
        }
        means
    }

    /// Number of rows with a verdict, over all files but the first.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        let cells = self.rows.iter().flat_map(|row| row.others.iter().flatten());
        cells.filter(|cell| cell.verdict == verdict).count()
    }

    /// Whether no row got slower or wrong.
    ///
    /// # Errors
    /// [`Error::Failed`] naming those that did.
    pub fn verdict(&self) -> Result<()> {
        let slower = |row: &&ComparedRow| row.others.iter().flatten().any(|cell| cell.verdict == Verdict::Slower);
        let slower: Vec<String> = self
            .rows
            .iter()
            .filter(slower)
            .map(|row| format!("{} {} {} {}", row.name, row.shape, row.dtype, row.variant))
            .collect();
        let lists = [("slower than A", &slower), ("wrong", &self.wrong)];
        let lists = lists.iter().filter(|(_, names)| !names.is_empty());
        let text = |(what, names): &(&str, &Vec<String>)| format!("{} {what}: {}", names.len(), names.join(", "));
        let texts: Vec<String> = lists.map(text).collect();
        if texts.is_empty() { Ok(()) } else { Err(Error::Failed(texts.join("; "))) }
    }

    /// The rows as a table.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut heads: Vec<String> = ["name", "shape", "type", "variant", ">A ms"].map(str::to_string).into();
        for file in self.files.iter().skip(1) {
            let label = &file.label;
            heads.extend([format!(">{label} ms"), format!(">{label} speed"), ">±".into(), format!("{label} is")]);
        }
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let mut table = Table::new(&heads);
        for row in &self.rows {
            let mut cells =
                vec![row.name.clone(), row.shape.clone(), row.dtype.to_string(), row.variant.clone(), number(row.ms)];
            for cell in &row.others {
                cells.extend(cell.as_ref().map_or_else(Default::default, |cell| {
                    let band = format!("{:.0} %", 100.0 * cell.band);
                    [number(cell.ms), number(cell.speed), band, cell.verdict.to_string()]
                }));
            }
            table.row(cells);
        }
        table
    }

    /// The geometric means as a table.
    #[must_use]
    pub fn means_table(&self) -> Table {
        let labels = self.files.iter().skip(1).flat_map(|file| [">rows".into(), format!(">{} speed", file.label)]);
        let heads: Vec<String> = std::iter::once("geometric mean".to_string()).chain(labels).collect();
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for mean in &self.means {
            let speeds = mean.speeds.iter().flat_map(|speed| {
                speed.map_or_else(Default::default, |(rows, speed)| [rows.to_string(), number(speed)])
            });
            table.row(std::iter::once(mean.name.clone()).chain(speeds));
        }
        table
    }

    /// The peaks as a table.
    #[must_use]
    pub fn peaks_table(&self) -> Table {
        let speeds = self.files.iter().skip(1).map(|file| format!(">{} speed", file.label));
        let values = self.files.iter().map(|file| format!(">{}", file.label));
        let heads: Vec<String> =
            ["peak".to_string(), "unit".to_string()].into_iter().chain(values).chain(speeds).collect();
        let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
        for peak in &self.peaks {
            let figures = peak.values.iter().chain(&peak.speeds).map(|v| v.map(number).unwrap_or_default());
            table.row([peak.name, peak.unit].map(str::to_string).into_iter().chain(figures));
        }
        table
    }

    /// What the speeds and verdicts mean, in one sentence.
    #[must_use]
    pub fn rule(&self) -> String {
        format!(
            "speed: {} of A over that of the other, above 1 is faster than A; ±: the same within the half p10 to p90 spreads \
             of both together, at least {} %",
            self.by,
            number(self.least_band)
        )
    }
}

/// In what runs differ from the first besides their figures.
fn notes(reports: &[BenchReport], by: By) -> Vec<String> {
    let facts = |report: &BenchReport| {
        let (adapter, conditions) = (&report.adapter, &report.conditions);
        [
            ("adapter", adapter.name.clone()),
            ("back end", adapter.backend.to_string()),
            ("driver", format!("{} {}", adapter.driver, adapter.driver_info).trim().to_string()),
            ("host", conditions.system.clone()),
            ("threads", conditions.threads.to_string()),
            ("modules", conditions.modules.clone()),
            ("suite", report.suite.to_string()),
            ("families", report.families.join(" ")),
            ("version", report.version.clone()),
        ]
    };
    let Some((base, others)) = reports.split_first() else { return Vec::new() };
    let mut notes = Vec::new();
    for (i, other) in others.iter().enumerate() {
        for ((what, wanted), (_, got)) in facts(base).into_iter().zip(facts(other)) {
            if wanted != got {
                notes.push(format!("{} differs in its {what}: {got}, where A has {wanted}", label(i + 1)));
            }
        }
    }
    if by == By::Wall && reports.iter().any(|report| report.adapter.is_software()) {
        notes.push("wall time of a software adapter counts what else the machine did; --by cpu does not".into());
    }
    for (i, report) in reports.iter().enumerate() {
        if let Some(lost) = &report.lost {
            notes.push(format!("{} lost its device: {lost}", label(i)));
        }
        let paced = |clocks: &super::Clocks| (clocks.fma_gflops_end / clocks.fma_gflops_start - 1.0).abs() < PACE;
        if let Some(clocks) = report.clocks.filter(|clocks| !paced(clocks)) {
            notes.push(format!("{} did not keep its pace: {clocks}", label(i)));
        }
    }
    notes
}

fn peaks(reports: &[BenchReport], by: By) -> Vec<ComparedPeak> {
    let figures: Vec<_> = reports.iter().map(|report| report.peaks.figures(by)).collect();
    let Some(base) = figures.first() else { return Vec::new() };
    let measured = |value: f64| (value > 0.0).then_some(value);
    let peaks = base.iter().enumerate().map(|(k, (name, _, unit))| {
        let values: Vec<Option<f64>> = figures.iter().map(|figures| measured(figures[k].1)).collect();
        let speed = |value: &Option<f64>| {
            let (base, value) = (values[0]?, (*value)?);
            // Of a latency less is better.
            Some(if matches!(*unit, "µs" | "ms") { base / value } else { value / base })
        };
        ComparedPeak { name, unit, speeds: values.iter().skip(1).map(speed).collect(), values }
    });
    peaks.filter(|peak| peak.values.iter().any(Option::is_some)).collect()
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: &Path = &self.path;
        let Self { label, adapter, suite, version, date, .. } = self;
        write!(f, "{label}  {}: {adapter}, suite {suite}, leanvision {version}, {date}", path.display())
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.missing, self.rows.join(", "))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.iter().try_for_each(|file| writeln!(f, "{file}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        writeln!(f, "{}", self.rule())?;
        for table in [self.table(), self.means_table(), self.peaks_table()] {
            if !table.is_empty() {
                writeln!(f, "\n{table}")?;
            }
        }
        if !self.apart.is_empty() {
            writeln!(f)?;
            self.apart.iter().try_for_each(|apart| writeln!(f, "{apart}"))?;
        }
        let [faster, slower, same] = [Verdict::Faster, Verdict::Slower, Verdict::Same].map(|v| self.count(v));
        write!(f, "\n{faster} faster, {slower} slower, {same} the same")
    }
}

//! `gpubench report`: the reports of one or more runs as one page.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::compare::{self, Compared, Comparison, LEAST_BAND, label};
use super::{BenchReport, By};
use crate::report::Page;
use crate::{Error, Result};

/// What to show.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct ReportFlags {
    /// Files that `gpubench run --json` wrote; several are compared with the first
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The page; without it page.html in the folder of --out, or gpubench.html here
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Which time the files are compared by
    #[arg(long, value_enum, default_value_t, value_name = "TIME")]
    pub by: By,
}

impl ReportFlags {
    /// Where the page goes, with the run's folder.
    #[must_use]
    pub fn page_path(&self, out: Option<&Path>) -> PathBuf {
        let default = || out.map_or_else(|| "gpubench.html".into(), |out| out.join("page.html"));
        self.file.clone().unwrap_or_else(default)
    }
}

/// Reports that were read, for one page.
#[derive(Debug, Clone, Serialize)]
pub struct Reports {
    /// Where the page goes.
    pub page: PathBuf,
    /// Its size, in bytes.
    pub page_bytes: usize,
    /// The others beside the first; `None` for one file.
    pub comparison: Option<Comparison>,
    #[serde(skip)]
    files: Vec<PathBuf>,
    #[serde(skip)]
    reports: Vec<BenchReport>,
}

impl Reports {
    /// Reads the files; `page` is where their page will go.
    ///
    /// # Errors
    /// As [`BenchReport::read`]; [`Error::File`] if the page cannot be written.
    pub fn read(flags: &ReportFlags, page: PathBuf) -> Result<Self> {
        let reports = BenchReport::read_all(&flags.files)?;
        crate::files::check_writable(&page)?;
        let same = |file: &PathBuf| matches!((file.canonicalize(), page.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if flags.files.iter().any(same) {
            return Err(Error::file(&page, "is a file to report on, not a place for the page"));
        }
        let several = reports.len() > 1;
        let comparison = several.then(|| Comparison::new(&flags.files, &reports, flags.by, LEAST_BAND));
        Ok(Self { page, page_bytes: 0, comparison, files: flags.files.clone(), reports })
    }

    /// Writes the page.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be written.
    pub fn write(&mut self) -> Result<()> {
        let page = self.html();
        self.page_bytes = page.html().len();
        page.write(&self.page)
    }

    /// The page, which stands alone.
    #[must_use]
    pub fn html(&self) -> Page {
        let subtitle = match self.reports.as_slice() {
            [one] => one.adapter.to_string(),
            several => format!("{} runs side by side", several.len()),
        };
        let mut page = Page::new("gpubench", &subtitle);
        if let Some(comparison) = &self.comparison {
            summary(&mut page, comparison);
        }
        for (i, (report, path)) in self.reports.iter().zip(&self.files).enumerate() {
            if self.comparison.is_some() {
                page.heading(&format!("{}: {}, {}", label(i), report.adapter.name, report.adapter.backend));
            } else {
                page.heading("The adapter");
            }
            report.add_to(&mut page, Some(name(path)));
        }
        if let Some(comparison) = &self.comparison {
            page.heading("All rows side by side");
            page.text(&format!("{}.", comparison.rule()));
            page.table(&comparison.table());
            if !comparison.apart.is_empty() {
                let n: usize = comparison.apart.iter().map(|apart| apart.rows.len()).sum();
                page.fold(&format!("{n} rows that not every file has"), |page| {
                    page.list(comparison.apart.iter().map(ToString::to_string));
                });
            }
        }
        page
    }
}

/// The file's name, without its folder.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What the comparison comes to, without its rows.
fn summary(page: &mut Page, comparison: &Comparison) {
    // Without its folder, which says nothing to whom the page is sent.
    let bare = |file: &Compared| Compared { path: name(&file.path).into(), ..file.clone() };
    page.list(comparison.files.iter().map(|file| bare(file).to_string()));
    page.heading("Beside the first");
    let [faster, slower, same] = [compare::Verdict::Faster, compare::Verdict::Slower, compare::Verdict::Same]
        .map(|verdict| comparison.count(verdict));
    page.text(&format!("Rows by {}: {faster} faster, {slower} slower, {same} the same.", comparison.by));
    page.table(&comparison.means_table());
    page.table(&comparison.peaks_table());
    page.list(comparison.notes.iter().cloned());
}

impl fmt::Display for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, report) in self.reports.iter().enumerate() {
            writeln!(f, "{}  {}, {} rows", label(i), report.adapter, report.rows.len())?;
        }
        write!(f, "wrote {} ({})", self.page.display(), crate::report::bytes(self.page_bytes as u64))
    }
}

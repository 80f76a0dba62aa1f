//! The flags of `gpubench`; a field is a flag.

use serde::Serialize;

use super::micro::MICRO;
use super::pipeline::PIPELINE;
use super::{Level, kernel};
use crate::report::CommonFlags;
use crate::{Error, Result};

/// Speed of this machine's adapters, kernel by kernel, each checked before it is timed
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gpubench", version, arg_required_else_help = true)]
pub struct Config {
    /// Flags of every binary.
    #[command(flatten)]
    pub common: CommonFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `gpubench` does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// The adapters of this machine, and the rows that a suite runs on the chosen one
    List(SuiteFlags),
    /// Measures what the adapter can do at most, then every row of the suite
    Run(SuiteFlags),
    /// Figures of several runs beside those of the first, row by row
    ///
    /// The first file is the baseline. Rows, peaks and geometric means are compared; a row is faster or slower if its speed
    /// differs by more than the noise of both runs. Opens no adapter. Ends with 0, with 1 if --fail-on-slower is given and a row is slower, with 2
    /// if a file is no report.
    Compare(super::compare::CompareFlags),
    /// One page of one or more runs: roofline and bars for each, and all rows side by side
    ///
    /// The page stands alone. Opens no adapter.
    Report(super::ReportFlags),
    /// Runs kernels without a GPU and reports races, stray accesses and other faults
    ///
    /// A FILE.wgsl is a kernel of your own: each of its bindings, and its immediates, get an --input by the variable's name. A
    /// FAMILY with --entry is a kernel of this crate, run the same way. A FAMILY alone runs that family's ops on small shapes
    /// and checks their results; `all` stands for every family.
    ///
    /// Every pair of a subgroup size and a schedule is one run. No GPU is opened. Ends with 0 if nothing was found, 1 if
    /// something was, 2 if the input is bad.
    #[cfg(feature = "sim")]
    Sanitize(Box<super::sanitize::SanitizeFlags>),
    /// Which lines and branches of the shaders a test run executed in the simulator
    ///
    /// A test run with `LEANVISION_COVERAGE=FOLDER` writes what it saw there. Counted against all lines of all kernels; ends
    /// with 1 if fewer than --least percent of them ran.
    #[cfg(feature = "sim")]
    Coverage(super::coverage::CoverageFlags),
}

/// Which rows.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct SuiteFlags {
    /// How many shapes
    #[arg(long, value_enum, default_value_t, value_name = "SUITE")]
    pub suite: Level,
    /// Only these families (the adapter's peaks are measured in any case)
    #[arg(long, value_name = "FAMILY", num_args = 1.., value_delimiter = ',')]
    pub family: Vec<String>,
}

/// The adapter's peaks, whole methods, every family of kernels.
pub(super) fn all_families() -> Vec<&'static str> {
    [MICRO, PIPELINE].into_iter().chain(kernel::families()).collect()
}

impl SuiteFlags {
    /// Finds out whether every family exists.
    ///
    /// # Errors
    /// [`Error::Input`] with the families there are.
    pub fn check(&self) -> Result<()> {
        let all = all_families();
        match self.family.iter().find(|family| !all.contains(&family.as_str())) {
            None => Ok(()),
            Some(family) => Err(Error::Input(format!("no family is called '{family}'; there are {}", all.join(", ")))),
        }
    }

    /// The families asked for, in the suite's order; the adapter's peaks come first.
    #[must_use]
    pub fn families(&self) -> Vec<&'static str> {
        let wanted =
            |family: &&str| *family == MICRO || self.family.is_empty() || self.family.iter().any(|f| f == family);
        all_families().into_iter().filter(wanted).collect()
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tiny => "tiny",
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Stress => "stress",
        })
    }
}

impl Level {
    /// Seconds for one row.
    pub(super) fn row_seconds(self) -> f64 {
        match self {
            Self::Tiny | Self::Quick => 0.2,
            // Some five hundred rows.
            Self::Full => 0.4,
            // Clocks and temperatures take some seconds to settle.
            Self::Stress => 5.0,
        }
    }

    /// Seconds after which the rows that are left are skipped.
    pub(super) fn seconds(self) -> f64 {
        match self {
            Self::Tiny | Self::Quick => 50.0,
            Self::Full => 540.0,
            Self::Stress => f64::INFINITY,
        }
    }

    /// Seconds after which variants are skipped that the ops do not choose: what is left is for the rows that they do choose.
    pub(super) fn variant_seconds(self) -> f64 {
        0.6 * self.seconds()
    }

    /// Seconds of a single run past which a row is skipped as slow.
    pub(super) fn longest_run(self) -> f64 {
        if self == Self::Stress { f64::INFINITY } else { 2.0 }
    }
}

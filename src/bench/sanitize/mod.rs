//! `gpubench sanitize`: kernels in the simulator, under several subgroup sizes and schedules, and what is wrong with them.

mod family;
mod flags;
mod input;
mod one;
mod report;

pub use flags::{CheckName, Groups, Output, SanitizeFlags, Setting};
pub use input::{Input, Numbers};
pub use report::{Differing, Found, SanitizeReport, SimulatedRun};

use crate::Result;
use crate::sim::{Options, Schedule};

/// Runs what the flags name under each subgroup size and schedule; `seed` is that of random inputs. Says on standard error
/// how each run went, unless `quiet`.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for a module that naga refuses, an unknown entry point, family or override
/// constant, a missing or mis-shaped binding, or something that is not simulated; [`Error::File`](crate::Error::File) for a
/// file that cannot be read. What is wrong with a kernel is no error here: see [`SanitizeReport::verdict`].
pub fn run(flags: &SanitizeFlags, seed: u64, quiet: bool) -> Result<SanitizeReport> {
    flags.check()?;
    let mut report = SanitizeReport::new(flags);
    if flags.is_file() || flags.entry.is_some() {
        one::run(flags, seed, quiet, &mut report)?;
    } else {
        family::run(flags, quiet, &mut report)?;
    }
    Ok(report.finished())
}

/// The pairs of subgroup sizes and schedules.
fn pairs(flags: &SanitizeFlags) -> impl Iterator<Item = (u32, Schedule)> {
    flags.subgroup.iter().flat_map(|size| flags.schedule.iter().map(|schedule| (*size, *schedule)))
}

fn options(flags: &SanitizeFlags, (subgroup_size, schedule): (u32, Schedule)) -> Options {
    let (checks, loop_limit) = (flags.checks(), flags.loop_limit);
    Options { subgroup_size, schedule, checks, loop_limit, ..Options::default() }
}

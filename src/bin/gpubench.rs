//! Speed of this machine's adapters, kernel by kernel, and the faults of kernels, found without one.

use std::process::ExitCode;

use leanvision::bench::{self, Command, Config, ReportFlags, Reports, SuiteFlags};
use leanvision::report::{self, Run, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    match &config.command {
        None => anyhow::bail!(leanvision::Error::Input(
            "a command is needed: list, run, compare, report, sanitize or coverage".into()
        )),
        Some(Command::List(flags)) => list(config, flags),
        Some(Command::Run(flags)) => suite(config, flags),
        Some(Command::Compare(flags)) => compare(config, flags),
        Some(Command::Report(flags)) => report_page(config, flags),
        #[cfg(feature = "sim")]
        Some(Command::Sanitize(flags)) => sanitize(config, flags),
        #[cfg(feature = "sim")]
        Some(Command::Coverage(flags)) => coverage(config, flags),
    }
}

fn list(config: &Config, flags: &SuiteFlags) -> anyhow::Result<String> {
    flags.check()?;
    let run = Run::check(&config.common)?;
    let (text, figures) = bench::list(&config.common.open()?, flags)?;
    run.finish(&figures)?;
    Ok(text)
}

fn suite(config: &Config, flags: &SuiteFlags) -> anyhow::Result<String> {
    flags.check()?;
    let run = Run::check(&config.common)?;
    let runtime = config.common.open()?;
    run.describe("gpubench", &config.common, flags, &runtime)?;
    let report = bench::run(&runtime, flags, config.common.quiet)?;
    run.finish(&report)?;
    run.page(&report.page())?;
    let profile = run.profile(&runtime)?;
    let text = profile.into_iter().fold(report.to_string(), |text, table| format!("{text}\n\n{table}"));
    // A wrong row fails the run, and the figures of the others are printed all the same.
    let Err(error) = report.verdict() else { return Ok(text) };
    report::print(&text)?;
    Err(error.into())
}

fn compare(config: &Config, flags: &bench::compare::CompareFlags) -> anyhow::Result<String> {
    let run = Run::check(&config.common)?;
    let comparison = bench::compare::run(flags)?;
    run.describe_simulated("gpubench", &config.common, flags)?;
    run.finish(&comparison)?;
    let (true, Err(error)) = (flags.fail_on_slower, comparison.verdict()) else { return Ok(comparison.to_string()) };
    report::print(&comparison.to_string())?;
    Err(error.into())
}

fn report_page(config: &Config, flags: &ReportFlags) -> anyhow::Result<String> {
    let run = Run::check(&config.common)?;
    let mut reports = Reports::read(flags, flags.page_path(config.common.out.as_deref()))?;
    reports.write()?;
    run.describe_simulated("gpubench", &config.common, flags)?;
    run.finish(&reports)?;
    Ok(reports.to_string())
}

#[cfg(feature = "sim")]
fn sanitize(config: &Config, flags: &bench::sanitize::SanitizeFlags) -> anyhow::Result<String> {
    flags.check()?;
    let run = Run::check(&config.common)?;
    run.describe_simulated("gpubench", &config.common, flags)?;
    let report = bench::sanitize::run(flags, config.common.seed, config.common.quiet)?;
    run.finish(&report)?;
    let Err(error) = report.verdict() else { return Ok(report.to_string()) };
    report::print(&report.to_string())?;
    Err(error.into())
}

#[cfg(feature = "sim")]
fn coverage(config: &Config, flags: &bench::coverage::CoverageFlags) -> anyhow::Result<String> {
    let run = Run::check(&config.common)?;
    let report = bench::coverage::run(flags)?;
    run.describe_simulated("gpubench", &config.common, flags)?;
    run.finish(&report)?;
    run.page(&report.page())?;
    let Err(error) = report.verdict() else { return Ok(report.to_string()) };
    report::print(&report.to_string())?;
    Err(error.into())
}

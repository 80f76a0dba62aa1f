//! Speed of this machine's adapters, kernel by kernel.

use std::process::ExitCode;

use leanvision::bench::{self, Command, Config};
use leanvision::report::{self, Run, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    let Some(command) = &config.command else {
        anyhow::bail!(leanvision::Error::Input("a command is needed: list, run".into()))
    };
    let (Command::List(flags) | Command::Run(flags)) = command;
    flags.check()?;
    let run = Run::check(&config.common)?;
    let runtime = config.common.open()?;
    if let Command::List(_) = command {
        let (text, figures) = bench::list(&runtime, flags)?;
        run.finish(&figures)?;
        return Ok(text);
    }
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

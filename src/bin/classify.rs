//! Supervised classification: evaluate, predict, describe.

use std::process::ExitCode;

use leanvision::methods::classify::{self, Command, Config};
use leanvision::report::{Run, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    match &config.command {
        None => anyhow::bail!(leanvision::Error::Input("a command is needed: info".into())),
        Some(Command::Info(info)) => {
            let run = Run::check(&config.common)?;
            let (table, figures) = classify::info(info)?;
            run.finish(&figures)?;
            Ok(table)
        }
    }
}

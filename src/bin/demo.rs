//! A tour of the engine.

use std::process::ExitCode;

use leanvision::methods::demo::{self, Config};
use leanvision::report::{Run, print, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    let common = config.common();
    Run::check(&common)?;
    let runtime = common.open()?;
    let run = Run::start("demo", &common, &(), &runtime)?;
    let (page, figures) = demo::run(&runtime, config, print)?;
    run.finish(&figures)?;
    run.page(&page)?;
    let profile = run.profile(&runtime)?.map(|table| format!("\n{table}\n")).unwrap_or_default();
    let folder = common.out.unwrap_or_default();
    Ok(format!("{profile}\nthe page: {}", folder.join("report.html").display()))
}

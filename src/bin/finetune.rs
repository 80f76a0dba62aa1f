//! Adaptation of large networks with few numbers: train, evaluate, export.

use std::process::ExitCode;

use anyhow::Context;
use leanvision::Error;
use leanvision::methods::finetune::{Command, Config, Evaluation, FinetuneRun, compress, export, serve_bench};
use leanvision::report::{Run, keep_hints, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    let common = &config.common;
    let out = Run::check(common)?;
    let Some(command) = &config.command else {
        return Err(Error::Input("a command is needed: train, eval, export, compress or serve-bench".into()).into());
    };
    // Files and flags are judged before a device is opened.
    match command {
        Command::Train(train) => {
            let prepared = FinetuneRun::prepare(train, common)?;
            let runtime = common.open()?;
            let out = out.in_folder(prepared.folder());
            out.describe("finetune train", common, prepared.settled(), &runtime)?;
            let report = prepared.run(&runtime, common.quiet).context("finetune train")?;
            finish(&report, &report, out, &runtime)
        }
        Command::Eval(eval) => {
            keep_hints(common, &eval.adapter)?;
            let evaluation = Evaluation::prepare(eval, common.seed)?;
            let runtime = common.open()?;
            out.describe("finetune eval", common, eval, &runtime)?;
            let report = evaluation.run(&runtime, common.quiet).context("finetune eval")?;
            finish(&report, &report, out, &runtime)
        }
        Command::Export(to) => {
            let folder = common.out.as_deref().ok_or_else(|| Error::Input("export wants --out".into()))?;
            let runtime = common.open()?;
            out.describe("finetune export", common, to, &runtime)?;
            let report = export(&runtime, to, folder).context("finetune export")?;
            finish(&report, &report, out, &runtime)
        }
        Command::ServeBench(serve) => {
            let runtime = common.open()?;
            out.describe("finetune serve-bench", common, serve, &runtime)?;
            let report = serve_bench(&runtime, serve, common.seed).context("finetune serve-bench")?;
            finish(&report, &report, out, &runtime)
        }
        Command::Compress(of) => {
            let runtime = common.open()?;
            out.describe("finetune compress", common, of, &runtime)?;
            let report = compress(&runtime, of, common.seed).context("finetune compress")?;
            finish(&report, &report, out, &runtime)
        }
    }
}

fn finish(
    report: &impl serde::Serialize,
    text: &impl std::fmt::Display,
    out: Run,
    runtime: &leanvision::Runtime,
) -> anyhow::Result<String> {
    out.finish(report)?;
    let profile = out.profile(runtime)?;
    Ok(profile.map_or(text.to_string(), |table| format!("{text}\n\n{table}")))
}

//! Representation learning without labels, and distillation: pretrain, distill, evaluate, embed.

use std::process::ExitCode;

use anyhow::Context;
use leanvision::Error;
use leanvision::methods::ssl::{Command, Config, Embedding, Evaluation, SslRun};
use leanvision::report::{CommonFlags, Run, keep_hints, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    let common = &config.common;
    let out = Run::check(common)?;
    let Some(command) = &config.command else {
        return Err(Error::Input("a command is needed: pretrain, distill, eval or embed".into()).into());
    };
    // Files and flags are judged before a device is opened.
    match command {
        Command::Pretrain(pretrain) => train(&SslRun::pretrain(pretrain, common)?, common, out, "ssl pretrain"),
        Command::Distill(distill) => train(&SslRun::distill(distill, common)?, common, out, "ssl distill"),
        Command::Eval(eval) => {
            keep_hints(common, &eval.weights)?;
            let evaluation = Evaluation::prepare(eval, common.seed)?;
            let runtime = common.open()?;
            out.describe("ssl eval", common, eval, &runtime)?;
            let report = evaluation.run(&runtime, common.quiet).context("ssl eval")?;
            out.finish(&report)?;
            Ok(with_profile(report.to_string(), out.profile(&runtime)?))
        }
        Command::Embed(embed) => {
            keep_hints(common, &embed.weights)?;
            let embedding = Embedding::prepare(embed)?;
            let runtime = common.open()?;
            out.describe("ssl embed", common, embed, &runtime)?;
            let report = embedding.run(&runtime, common.quiet).context("ssl embed")?;
            out.finish(&report)?;
            Ok(with_profile(report.to_string(), out.profile(&runtime)?))
        }
    }
}

fn train(prepared: &SslRun, common: &CommonFlags, out: Run, name: &'static str) -> anyhow::Result<String> {
    let runtime = common.open()?;
    prepared.check(&runtime)?;
    let out = out.in_folder(prepared.folder());
    out.describe(name, common, prepared.settled(), &runtime)?;
    let report = prepared.run(&runtime, &out, common.quiet).context(name)?;
    out.finish(&report)?;
    Ok(with_profile(report.to_string(), out.profile(&runtime)?))
}

fn with_profile(text: String, profile: Option<String>) -> String {
    profile.map_or(text.clone(), |table| format!("{text}\n\n{table}"))
}

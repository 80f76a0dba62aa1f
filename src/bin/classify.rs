//! Supervised classification: evaluate, predict, describe.

use std::process::ExitCode;

use anyhow::Context;
use leanvision::Error;
use leanvision::methods::classify::{self, Command, Config, Evaluation, Prediction, TrainRun};
use leanvision::report::{Run, keep_hints, run_binary};

fn main() -> ExitCode {
    run_binary(|config: &Config| &config.common, run)
}

fn run(config: &Config) -> anyhow::Result<String> {
    let common = &config.common;
    let out = Run::check(common)?;
    let Some(command) = &config.command else {
        return Err(Error::Input("a command is needed: train, eval, predict or info".into()).into());
    };
    // Files and flags are judged before a device is opened.
    match command {
        Command::Eval(eval) => {
            keep_hints(common, &eval.weights)?;
            let evaluation = Evaluation::prepare(eval, common.seed)?;
            let runtime = common.open()?;
            out.describe("classify eval", common, eval, &runtime)?;
            let report = evaluation.run(&runtime, common.quiet).context("classify eval")?;
            out.finish(&report)?;
            Ok(with_profile(report.to_string(), out.profile(&runtime)?))
        }
        Command::Predict(predict) => {
            keep_hints(common, &predict.weights)?;
            let prediction = Prediction::prepare(predict)?;
            let runtime = common.open()?;
            out.describe("classify predict", common, predict, &runtime)?;
            let report = prediction.run(&runtime).context("classify predict")?;
            out.finish(&report)?;
            Ok(with_profile(report.to_string(), out.profile(&runtime)?))
        }
        Command::Train(train) => {
            let prepared = TrainRun::prepare(train, common)?;
            let runtime = common.open()?;
            prepared.check(&runtime)?;
            let out = out.in_folder(prepared.folder());
            out.describe("classify train", common, prepared.settled(), &runtime)?;
            let report = prepared.run(&runtime, train, &out, common.quiet).context("classify train")?;
            out.finish(&report)?;
            Ok(with_profile(report.to_string(), out.profile(&runtime)?))
        }
        Command::Info(info) => {
            let (table, figures) = classify::info(info)?;
            out.finish(&figures)?;
            Ok(table)
        }
    }
}

fn with_profile(text: String, profile: Option<String>) -> String {
    profile.map_or(text.clone(), |table| format!("{text}\n\n{table}"))
}

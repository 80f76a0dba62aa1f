//! The flags of every command that trains.

use std::path::PathBuf;

use serde::Serialize;

use super::recipe::EmaCourse;
use crate::nn::{Precision, Rule, SCHEDULE_FORMS, Schedule};
use crate::{Error, Result};

/// How to train. What is not given takes the method's own value, or with --resume the run's.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct TrainFlags {
    /// Optimizer steps
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub steps: Option<u64>,
    /// Passes over the data, instead of steps; fractions are fine
    #[arg(long, value_name = "N", value_parser = positive)]
    pub epochs: Option<f64>,
    /// Items of a step
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Items that go through the network at once; gradients add up to the batch's
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<usize>,
    /// Learning rate behind the warm-up
    #[arg(long, value_name = "RATE")]
    pub lr: Option<f64>,
    /// Course of the learning rate
    #[arg(long, value_name = "COURSE", help = format!("Course of the learning rate: {SCHEDULE_FORMS}"))]
    pub schedule: Option<Schedule>,
    /// Steps in which the learning rate rises to its value
    #[arg(long, value_name = "STEPS")]
    pub warmup: Option<u64>,
    /// Optimizer: sgd, nesterov, lars, adam or adamw
    #[arg(long, value_name = "NAME")]
    pub optimizer: Option<String>,
    /// Momentum of sgd, nesterov and lars
    #[arg(long, value_name = "M")]
    pub momentum: Option<f64>,
    /// Weight decay; norms and biases have none
    #[arg(long, value_name = "D")]
    pub decay: Option<f64>,
    /// Global norm past which gradients are scaled down
    #[arg(long, value_name = "NORM")]
    pub clip: Option<f64>,
    /// Momentum of an average of the weights that is kept beside them, such as 0.999: of the target network, where a method has one
    #[arg(long, value_name = "M")]
    pub ema: Option<f64>,
    /// How that momentum goes on: as it is, or by half a cosine to 1 [default: constant]
    #[arg(long, value_name = "constant|cosine")]
    pub ema_course: Option<EmaCourse>,
    /// f16: activations and weights in 16 bits, a master copy of the weights in 32, a loss scale that moves by itself
    #[arg(long, value_name = "f32|f16", value_parser = precision)]
    pub precision: Option<Precision>,
    /// Keep only the input of each block for the backward pass, and compute the rest again: less memory, more time
    #[arg(long)]
    pub recompute: bool,
    /// Steps between two lines of metrics.jsonl
    #[arg(long, value_name = "STEPS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub log_every: u64,
    /// Steps between two checkpoints
    #[arg(long, value_name = "STEPS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub checkpoint_every: u64,
    /// Steps between two evaluations; unless given, only at the end, in ssl as --eval-epochs says
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub eval_every: Option<u64>,
    /// Write a checkpoint and stop after so many steps of this call
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub stop_after: Option<u64>,
    /// Go on with the run in this folder, bit for bit (on a GPU: with --no-tune, for the whole run); flags that are given must be the run's
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let wrong = || format!("{text} is no number above 0");
    text.parse().ok().filter(|n: &f64| *n > 0.0 && n.is_finite()).ok_or_else(wrong)
}

fn precision(text: &str) -> std::result::Result<Precision, String> {
    match text {
        "f32" => Ok(Precision::F32),
        "f16" => Ok(Precision::F16),
        other => Err(format!("{other} is neither f32 nor f16")),
    }
}

impl TrainFlags {
    /// The optimizer asked for, over the method's own.
    pub(super) fn rule(&self, usual: Rule) -> Result<Rule> {
        let own = match usual {
            Rule::Sgd { momentum, .. } | Rule::Lars { momentum, .. } => momentum,
            Rule::Adam { .. } => 0.9,
        };
        let momentum = self.momentum.unwrap_or(own);
        if !(0.0..1.0).contains(&momentum) {
            return Err(Error::Input(format!("--momentum {momentum}: wanted at least 0 and below 1")));
        }
        let adam = |decoupled| Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled };
        let rule = match self.optimizer.as_deref() {
            None => match usual {
                Rule::Sgd { nesterov, .. } => Rule::Sgd { momentum, nesterov },
                Rule::Lars { trust, .. } => Rule::Lars { momentum, trust },
                adam @ Rule::Adam { .. } => adam,
            },
            Some("sgd") => Rule::Sgd { momentum, nesterov: false },
            Some("nesterov") => Rule::Sgd { momentum, nesterov: true },
            Some("lars") => Rule::Lars { momentum, trust: 0.001 },
            Some("adam") => adam(false),
            Some("adamw") => adam(true),
            Some(other) => {
                let known = "sgd, nesterov, lars, adam or adamw wanted";
                return Err(Error::Input(format!("--optimizer {other}: {known}")));
            }
        };
        match rule {
            Rule::Adam { .. } if self.momentum.is_some() => {
                Err(Error::Input("--momentum belongs to sgd, nesterov and lars; Adam has its betas".into()))
            }
            rule => Ok(rule),
        }
    }

    /// The course of the learning rate asked for, over the method's own.
    pub(super) fn schedule(&self, usual: Schedule) -> Schedule {
        let schedule = self.schedule.clone().unwrap_or(usual);
        Schedule { warmup: self.warmup.unwrap_or(schedule.warmup), ..schedule }
    }
}

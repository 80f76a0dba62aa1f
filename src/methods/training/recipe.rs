//! What fixes a training run, as it stands in its checkpoints.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::flags::TrainFlags;
use crate::nn::{Precision, Rule, Schedule};
use crate::{Error, Result};

/// A training run's settings. Two runs of one recipe on one adapter give the same bits where ops choose the same variants: see
/// [`crate::runtime::Tune`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Items of a step.
    pub batch: usize,
    /// Items that go through the network at once.
    pub micro_batch: usize,
    /// Learning rate behind the warm-up.
    pub lr: f64,
    /// Its course.
    pub schedule: Schedule,
    /// The optimizer.
    #[serde(flatten)]
    pub rule: Rule,
    /// Weight decay.
    pub decay: f64,
    /// Global norm to which gradients are clipped.
    pub clip: Option<f64>,
    /// Momentum of the average of the weights that is kept beside them.
    pub ema: Option<f64>,
    /// How that momentum goes on.
    #[serde(default)]
    pub ema_course: EmaCourse,
    /// The type of activations and their gradients, and of weights as ops read them.
    pub precision: Precision,
    /// Seed of everything random.
    pub seed: u64,
}

/// The momentum of an average over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EmaCourse {
    /// As it is.
    #[default]
    Constant,
    /// Half a cosine from its value to 1, as in BYOL (Grill et al. 2020, arXiv 2006.07733).
    Cosine,
}

impl EmaCourse {
    /// The momentum of step `step`, from 0, of `n_steps`.
    #[must_use]
    pub fn momentum(self, base: f64, step: u64, n_steps: u64) -> f64 {
        match self {
            Self::Constant => base,
            Self::Cosine => {
                let share = step as f64 / n_steps.max(1) as f64;
                1.0 - (1.0 - base) * ((std::f64::consts::PI * share).cos() + 1.0) / 2.0
            }
        }
    }
}

impl Recipe {
    /// Settles the flags over a method's own values, `usual`, for a set of `n` items. Epochs are turned into steps.
    ///
    /// # Errors
    /// [`Error::Input`] for a batch of 0 or above `n`, 0 steps, or a micro-batch that does not divide the batch.
    pub fn settle(flags: &TrainFlags, usual: Self, n: usize) -> Result<Self> {
        let wrong = |message: String| Err(Error::Input(message));
        let batch = flags.batch.unwrap_or_else(|| usual.batch.min(n.max(1)));
        if batch == 0 || batch > n {
            return wrong(format!("--batch {batch}: 1 to {n} wanted, as there are {n} items to train on"));
        }
        let per_epoch = (n / batch) as u64;
        let steps = match (flags.steps, flags.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => (epochs * per_epoch as f64).round() as u64,
            (None, None) => usual.steps,
        };
        if steps == 0 {
            return wrong("0 steps asked for, at least 1 wanted".into());
        }
        if steps > u64::from(u32::MAX) {
            return wrong(format!("{steps} steps asked for, up to {} are counted", u32::MAX));
        }
        let micro_batch = flags.micro_batch.unwrap_or(if batch == usual.batch { usual.micro_batch } else { batch });
        if micro_batch == 0 || !batch.is_multiple_of(micro_batch) {
            return wrong(format!("--micro-batch {micro_batch} does not divide the batch of {batch}"));
        }
        let rule = flags.rule(usual.rule)?;
        for (name, value, range) in [
            ("--lr", flags.lr, 0.0..1e30),
            ("--decay", flags.decay, 0.0..1e30),
            ("--clip", flags.clip, 1e-30..1e30),
            // The largest f32 below 1.
            ("--ema", flags.ema, 0.0..0.999_999_94),
        ] {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return wrong(format!("{name} {value}: wanted at least {} and below {}", range.start, range.end));
            }
        }
        if flags.ema_course.is_some() && flags.ema.or(usual.ema).is_none() {
            return wrong("--ema-course belongs to an average of the weights, which --ema asks for".into());
        }
        Ok(Self {
            steps,
            batch,
            micro_batch,
            lr: flags.lr.unwrap_or(usual.lr),
            schedule: flags.schedule(usual.schedule),
            rule,
            decay: flags.decay.unwrap_or(usual.decay),
            clip: flags.clip.or(usual.clip),
            ema: flags.ema.or(usual.ema),
            ema_course: flags.ema_course.unwrap_or(usual.ema_course),
            precision: flags.precision.unwrap_or(usual.precision),
            seed: usual.seed,
        })
    }
}

/// An error that lists every key in which what was asked for differs from what a run was started with.
///
/// # Errors
/// [`Error::Input`] if there is one.
pub(crate) fn same_config(what: &str, there: &Value, asked: &Value) -> Result<()> {
    let mut differences = Vec::new();
    compare("", there, asked, &mut differences);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Input(format!("{what} was started with other settings: {}", differences.join("; "))))
}

fn compare(path: &str, there: &Value, asked: &Value, differences: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (there, asked) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            compare(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), differences);
        }
    } else if there != asked {
        differences.push(format!("{path} {there} there, {asked} asked for"));
    }
}

#[cfg(test)]
mod tests {
    use super::same_config;
    use serde_json::json;

    #[test]
    fn every_difference_is_listed() {
        let there = json!({ "lr": 0.1, "recipe": { "batch": 128, "steps": 600 }, "old": 1 });
        let asked = json!({ "lr": 0.05, "recipe": { "batch": 64, "steps": 600 }, "new": "x" });
        let message = same_config("O", &there, &asked).unwrap_err().to_string();
        for part in
            ["lr 0.1 there, 0.05 asked for", "recipe.batch 128 there, 64", "old 1 there, null", "new null there"]
        {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains("steps"), "{message}");
        same_config("O", &there, &there).unwrap();
    }
}

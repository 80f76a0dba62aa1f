//! The learning rate over a run: constant, cosine, steps, linear, exponential, each with a linear warm-up.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What [`Schedule`] is written as, for help texts and errors.
pub const SCHEDULE_FORMS: &str = "constant; cosine, linear (final=0, every=step|epoch); exponential:gamma=0.95 \
     (every=epoch|step); step:at=82/123 (epochs, gamma=0.1); each also with warmup=STEPS, as in cosine:final=1e-5,warmup=500";

/// How often a rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// With every step; time counts from the end of the warm-up.
    Step,
    /// With every epoch; time counts from the first epoch, the warm-up included.
    Epoch,
}

/// The curve of a learning rate.
#[derive(Debug, Clone, PartialEq)]
pub enum Curve {
    /// The base rate all along.
    Constant,
    /// Half a cosine from the base rate to `last`: PyTorch's `CosineAnnealingLR` over the whole run (Loshchilov and Hutter
    /// 2017, arXiv 1608.03983, without restarts).
    Cosine {
        /// The rate behind the last step.
        last: f64,
        /// How often it moves.
        every: Every,
    },
    /// A line from the base rate to `last`: PyTorch's `LinearLR` with `start_factor` 1 over the whole run.
    Linear {
        /// The rate behind the last step.
        last: f64,
        /// How often it moves.
        every: Every,
    },
    /// `gamma` times the rate at each milestone: PyTorch's `MultiStepLR`.
    Steps {
        /// The epochs, from 0, before which the rate falls; in order.
        milestones: Vec<u64>,
        /// The factor.
        gamma: f64,
    },
    /// `gamma` times the rate each time: PyTorch's `ExponentialLR`.
    Exponential {
        /// The factor.
        gamma: f64,
        /// How often it falls.
        every: Every,
    },
}

/// A learning rate over a run: a curve behind a linear warm-up. Written as [`SCHEDULE_FORMS`] says.
///
/// ```
/// use leanvision::nn::Schedule;
/// let schedule: Schedule = "step:at=2/3,gamma=0.5".parse()?;
/// // 4 epochs of 10 steps.
/// assert_eq!([0, 19, 20, 39].map(|step| schedule.lr(1.0, step, 40, 10)), [1.0, 1.0, 0.5, 0.25]);
/// # Ok::<(), leanvision::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    /// The curve.
    pub curve: Curve,
    /// Steps of warm-up: step `t` before the last of them takes `(t + 1) / (warmup + 1)` of the base rate, as PyTorch's
    /// `LinearLR` with a `start_factor` of `1 / (warmup + 1)`, followed by the curve.
    pub warmup: u64,
}

impl Default for Schedule {
    /// A cosine to 0 without warm-up.
    fn default() -> Self {
        Self { curve: Curve::Cosine { last: 0.0, every: Every::Step }, warmup: 0 }
    }
}

impl Schedule {
    /// The rate of step `step`, from 0, in a run of `n_steps` steps with `steps_per_epoch` of them to an epoch, where
    /// `base` is the rate that the curve starts at.
    #[must_use]
    pub fn lr(&self, base: f64, step: u64, n_steps: u64, steps_per_epoch: u64) -> f64 {
        if step < self.warmup {
            return base * (step + 1) as f64 / (self.warmup as f64 + 1.0);
        }
        let per_epoch = steps_per_epoch.max(1);
        let epoch = step / per_epoch;
        // Time so far and in all.
        let time = |every| match every {
            Every::Step => (step - self.warmup, n_steps.saturating_sub(self.warmup)),
            Every::Epoch => (epoch, n_steps.div_ceil(per_epoch)),
        };
        // The share of the run that is over; past its end the rate stays.
        let share = |every| {
            let (now, all) = time(every);
            now.min(all) as f64 / all.max(1) as f64
        };
        match &self.curve {
            Curve::Constant => base,
            Curve::Cosine { last, every } => {
                last + (base - last) * (1.0 + (std::f64::consts::PI * share(*every)).cos()) / 2.0
            }
            Curve::Linear { last, every } => base + (last - base) * share(*every),
            Curve::Steps { milestones, gamma } => {
                let passed = milestones.iter().filter(|milestone| **milestone <= epoch).count();
                base * gamma.powf(passed as f64)
            }
            Curve::Exponential { gamma, every } => base * gamma.powf(time(*every).0 as f64),
        }
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Step { "step" } else { "epoch" })
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = match &self.curve {
            Curve::Constant => {
                f.write_str("constant")?;
                None
            }
            Curve::Cosine { last, every } => {
                f.write_str("cosine")?;
                Some(format!("final={last},every={every}"))
            }
            Curve::Linear { last, every } => {
                f.write_str("linear")?;
                Some(format!("final={last},every={every}"))
            }
            Curve::Steps { milestones, gamma } => {
                f.write_str("step")?;
                let epochs: Vec<String> = milestones.iter().map(u64::to_string).collect();
                Some(format!("at={},gamma={gamma}", epochs.join("/")))
            }
            Curve::Exponential { gamma, every } => {
                f.write_str("exponential")?;
                Some(format!("gamma={gamma},every={every}"))
            }
        };
        let warmup = (self.warmup > 0).then(|| format!("warmup={}", self.warmup));
        let all: Vec<String> = options.into_iter().chain(warmup).collect();
        if all.is_empty() { Ok(()) } else { write!(f, ":{}", all.join(",")) }
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

impl TryFrom<String> for Schedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = |what: String| Error::Input(format!("schedule '{text}': {what}; there are {SCHEDULE_FORMS}"));
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        let mut given = Options::default();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            given.take(option).map_err(&fail)?;
        }
        let Options { last, every, gamma, milestones, warmup } = given;
        // What a curve does not take is refused.
        let unused: &[(&str, bool)] = match name {
            "constant" => &[("final", last.is_some()), ("every", every.is_some()), ("gamma", gamma.is_some())],
            "cosine" | "linear" => &[("gamma", gamma.is_some())],
            "step" => &[("final", last.is_some()), ("every", every.is_some())],
            _ => &[("final", last.is_some())],
        };
        if let Some((option, _)) = unused.iter().find(|(_, is_given)| *is_given) {
            return Err(fail(format!("{name} takes no {option}")));
        }
        if name != "step" && milestones.is_some() {
            return Err(fail(format!("{name} takes no at")));
        }
        let final_lr = last.unwrap_or(0.0);
        let curve = match name {
            "constant" => Curve::Constant,
            "cosine" => Curve::Cosine { last: final_lr, every: every.unwrap_or(Every::Step) },
            "linear" => Curve::Linear { last: final_lr, every: every.unwrap_or(Every::Step) },
            "step" => Curve::Steps {
                milestones: milestones.ok_or_else(|| fail("at is missing".into()))?,
                gamma: gamma.unwrap_or(0.1),
            },
            "exponential" => Curve::Exponential {
                gamma: gamma.ok_or_else(|| fail("gamma is missing".into()))?,
                every: every.unwrap_or(Every::Epoch),
            },
            _ => return Err(fail(format!("no curve is called '{name}'"))),
        };
        Ok(Self { curve, warmup: warmup.unwrap_or(0) })
    }
}

/// The options of a schedule's text, as far as given.
#[derive(Default)]
struct Options {
    last: Option<f64>,
    every: Option<Every>,
    gamma: Option<f64>,
    milestones: Option<Vec<u64>>,
    warmup: Option<u64>,
}

impl Options {
    fn take(&mut self, option: &str) -> std::result::Result<(), String> {
        let (key, value) = option.split_once('=').ok_or_else(|| format!("'{option}' is no KEY=VALUE"))?;
        let wrong = |wanted: &str| format!("{key}={value}, {wanted} wanted");
        let number = || value.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
        let count = |text: &str| text.parse::<u64>().ok();
        match key {
            "final" => self.last = Some(number().ok_or_else(|| wrong("a number not below 0"))?),
            "gamma" => self.gamma = Some(number().ok_or_else(|| wrong("a number not below 0"))?),
            "warmup" => self.warmup = Some(count(value).ok_or_else(|| wrong("a number of steps"))?),
            "every" => {
                self.every = Some(match value {
                    "step" => Every::Step,
                    "epoch" => Every::Epoch,
                    _ => return Err(wrong("step or epoch")),
                });
            }
            "at" => {
                let mut epochs: Vec<u64> =
                    value.split('/').map(count).collect::<Option<_>>().ok_or_else(|| wrong("epochs as in 82/123"))?;
                epochs.sort_unstable();
                self.milestones = Some(epochs);
            }
            _ => return Err(format!("no option is called '{key}'")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    fn close(schedule: &str, base: f64, n_steps: u64, per_epoch: u64, want: &[(u64, f64)]) {
        for (step, want) in want {
            let lr = parse(schedule).lr(base, *step, n_steps, per_epoch);
            assert!((lr - want).abs() < 1e-12, "{schedule} at {step}: {lr}, {want} wanted");
        }
    }

    #[test]
    fn curves_are_those_of_pytorch() {
        close("constant", 0.3, 10, 5, &[(0, 0.3), (9, 0.3)]);
        // cos 0, 60, 90, 120, 180 degrees.
        close("cosine", 2.0, 12, 4, &[(0, 2.0), (4, 1.5), (6, 1.0), (8, 0.5), (12, 0.0), (13, 0.0)]);
        close("cosine:final=0.5", 2.5, 12, 4, &[(0, 2.5), (4, 2.0), (6, 1.5), (12, 0.5)]);
        // Three epochs: the cosine of 0, 60, 120 degrees.
        close("cosine:every=epoch", 2.0, 12, 4, &[(0, 2.0), (3, 2.0), (4, 1.5), (7, 1.5), (8, 0.5), (11, 0.5)]);
        // The last epoch is short: still three.
        close("cosine:every=epoch", 2.0, 10, 4, &[(4, 1.5), (9, 0.5)]);
        close("linear:final=1", 3.0, 8, 2, &[(0, 3.0), (4, 2.0), (7, 1.25), (8, 1.0), (100, 1.0)]);
        close("linear:every=epoch", 3.0, 9, 3, &[(2, 3.0), (3, 2.0), (8, 1.0)]);
        let milestones = [(0, 0.1), (9, 0.1), (10, 0.01), (29, 0.01), (30, 0.001), (99, 0.001)];
        close("step:at=3/1", 0.1, 100, 10, &milestones);
        close("step:at=1/1,gamma=0.5", 1.0, 100, 10, &[(9, 1.0), (10, 0.25)]);
        close("exponential:gamma=0.5", 1.0, 12, 4, &[(3, 1.0), (4, 0.5), (11, 0.25)]);
        close("exponential:gamma=0.5,every=step", 1.0, 12, 4, &[(0, 1.0), (3, 0.125)]);
    }

    #[test]
    fn a_cosine_by_epochs_is_that_of_mean_shift() {
        // lr/2 (1 + cos(pi (e - 1) / 200)) in epoch e, from 1; five steps each.
        let schedule: Schedule = "cosine:every=epoch".parse().unwrap();
        for (epoch, want) in [(1_u64, 0.05), (100, 0.025_392_682_93), (200, 3.084_187_96e-6)] {
            for step in [5 * (epoch - 1), 5 * epoch - 1] {
                let lr = schedule.lr(0.05, step, 1000, 5);
                assert!((lr - want).abs() < 1e-9, "epoch {epoch}: {lr}, {want} wanted");
            }
        }
    }

    #[test]
    fn warm_up_rises_evenly_to_the_curve() {
        let rise = [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8)];
        close("constant:warmup=4", 1.0, 20, 5, &[&rise[..], &[(4, 1.0), (19, 1.0)]].concat());
        // The curve takes the steps that are left: 12 of 16.
        close("cosine:warmup=4", 1.0, 16, 4, &[&rise[..], &[(4, 1.0), (8, 0.75), (10, 0.5), (12, 0.25)]].concat());
        close("linear:warmup=4", 1.0, 16, 4, &[&rise[..], &[(4, 1.0), (10, 0.5)]].concat());
        close("exponential:gamma=0.5,every=step,warmup=4", 1.0, 16, 4, &[&rise[..], &[(4, 1.0), (6, 0.25)]].concat());
        // Epochs count from the start.
        close("step:at=1/2,warmup=4", 1.0, 20, 5, &[&rise[..], &[(4, 1.0), (5, 0.1), (10, 0.01)]].concat());
        // Longer than the run, and runs of nothing.
        close("cosine:warmup=9", 1.0, 5, 5, &[(0, 0.1), (4, 0.5), (9, 1.0)]);
        close("cosine", 1.0, 0, 0, &[(0, 1.0)]);
        close("cosine:every=epoch", 1.0, 0, 0, &[(0, 1.0)]);
    }

    #[test]
    fn text_and_json_hold_the_whole_schedule() {
        for (short, long) in [
            ("constant", "constant"),
            ("constant:warmup=7", "constant:warmup=7"),
            ("cosine", "cosine:final=0,every=step"),
            ("cosine:warmup=5,final=1e-5", "cosine:final=0.00001,every=step,warmup=5"),
            ("linear:every=epoch", "linear:final=0,every=epoch"),
            ("step:at=123/82", "step:at=82/123,gamma=0.1"),
            ("exponential:gamma=0.9", "exponential:gamma=0.9,every=epoch"),
        ] {
            let schedule = parse(short);
            assert_eq!(schedule.to_string(), long);
            assert_eq!(parse(long), schedule);
            let json = serde_json::to_string(&schedule).unwrap();
            assert_eq!(json, format!("\"{long}\""));
            assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
        }
        assert_eq!(parse("cosine"), Schedule::default());
    }

    #[test]
    fn wrong_text_is_named() {
        for (text, part) in [
            ("", "no curve is called ''"),
            ("cosin", "no curve is called 'cosin'"),
            ("cosine:final", "no KEY=VALUE"),
            ("cosine:final=-1", "final=-1"),
            ("cosine:final=nan", "final=nan"),
            ("cosine:gamma=0.1", "takes no gamma"),
            ("cosine:at=3", "takes no at"),
            ("cosine:every=day", "step or epoch"),
            ("cosine:warmup=1.5", "a number of steps"),
            ("cosine:speed=1", "no option is called 'speed'"),
            ("constant:final=1", "takes no final"),
            ("step", "at is missing"),
            ("step:at=1/x", "epochs as in"),
            ("step:at=1,every=step", "takes no every"),
            ("exponential", "gamma is missing"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("cosine:final=1e-5"), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Schedule>("\"cosin\"").is_err());
    }
}

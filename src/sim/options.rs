//! How a kernel is run: subgroup size, schedule, checks, bounds.

use super::check::Checks;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Which invocations, subgroups and workgroups go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// By rising number.
    #[default]
    Straight,
    /// By falling number.
    Reversed,
    /// Shuffled anew at each barrier, from this seed.
    Random(u64),
}

/// In which order the parts of a grid advance. All of them are allowed to any GPU.
///
/// Parsed from `straight`, `reversed`, `random[:SEED]`, `interleaved[:SEED]` or `alone`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Order of invocations in memory operations, of subgroups between barriers, and of workgroups.
    pub order: Order,
    /// Several workgroups take turns, from barrier to barrier, instead of one after another.
    pub interleaved: bool,
    /// Invocations run to the next barrier one by one, where the kernel has no subgroup operations.
    pub alone: bool,
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, seed) = match text.split_once(':') {
            Some((name, seed)) => (name, Some(seed)),
            None => (text, None),
        };
        let bad = || {
            Error::Input(format!(
                "unknown schedule '{text}': expected straight, reversed, random[:SEED], interleaved[:SEED] or alone"
            ))
        };
        let number = seed.map_or(Ok(1), |seed| seed.parse().map_err(|_| bad()))?;
        let with = |order| Self { order, ..Self::default() };
        match (name, seed) {
            ("straight", None) => Ok(with(Order::Straight)),
            ("reversed", None) => Ok(with(Order::Reversed)),
            ("random", _) => Ok(with(Order::Random(number))),
            ("interleaved", _) => Ok(Self { interleaved: true, ..with(Order::Random(number)) }),
            ("alone", None) => Ok(Self { alone: true, ..Self::default() }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            Order::Random(seed) if self.interleaved => write!(f, "interleaved:{seed}"),
            Order::Random(seed) => write!(f, "random:{seed}"),
            _ if self.alone => f.write_str("alone"),
            Order::Straight => f.write_str("straight"),
            Order::Reversed => f.write_str("reversed"),
        }
    }
}

/// How a kernel is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Invocations of a subgroup: 4, 8, 16, 32, 64 or 128.
    pub subgroup_size: u32,
    /// Who goes first.
    pub schedule: Schedule,
    /// What is looked for.
    pub checks: Checks,
    /// Rounds that a loop may go, from entering to leaving it.
    pub loop_limit: u32,
    /// Run workgroups on all cores. Kernels with atomics, and interleaved workgroups, run on one, so that a run repeats.
    pub parallel: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            subgroup_size: 32,
            schedule: Schedule::default(),
            checks: Checks::default(),
            loop_limit: 1 << 24,
            parallel: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_written_as_they_are_read() {
        for text in ["straight", "reversed", "random:7", "interleaved:3", "alone"] {
            assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
        }
        assert_eq!("random".parse::<Schedule>().unwrap().order, Order::Random(1));
        for text in ["", "alone:1", "random:x", "sideways"] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}

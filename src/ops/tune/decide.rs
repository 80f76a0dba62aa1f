//! The decision between variants, without a device: which pass their probe, which is fastest.

use super::is_no_fault;
use crate::{Error, Result};

/// A candidate is out of the race once it is this much slower than the best.
const CLEARLY_SLOWER: f64 = 1.3;
/// The default stays unless another takes at most this share of its time.
const WORTH_IT: f64 = 0.95;
/// Measurements of a candidate; the least counts, as everything that disturbs makes it slower.
const ROUNDS: usize = 3;

/// What is asked of the candidates, which are numbers from 0 on.
pub(super) trait Trial {
    /// Why a candidate is not to be used, if so.
    fn probe(&mut self, candidate: usize) -> Result<Option<String>>;
    /// Time of a run, in ms, or a rough one as soon as it is far above `best`.
    fn time(&mut self, candidate: usize, best: f64) -> Result<f64>;
    /// Whether the time for it is over.
    fn is_over(&self) -> bool;
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decision {
    /// The candidate to use.
    pub(super) winner: usize,
    /// Candidates that ran, and their least time in ms.
    pub(super) times: Vec<(usize, f64)>,
    /// Candidates that are wrong or broken, and why.
    pub(super) excluded: Vec<(usize, String)>,
    /// Whether there was time for all.
    pub(super) finished: bool,
}

/// Decides between candidates `0..n`, of which 0 is the default.
///
/// # Errors
/// [`Error::DeviceLost`]; what else goes wrong with a candidate only leaves it out.
pub(super) fn decide(n: usize, trial: &mut impl Trial) -> Result<Decision> {
    let mut decision = Decision::default();
    let Decision { times, excluded, .. } = &mut decision;
    for candidate in 0..n {
        if trial.is_over() {
            return Ok(decision);
        }
        let timed = match trial.probe(candidate) {
            Ok(None) if trial.is_over() => return Ok(decision),
            Ok(None) => trial.time(candidate, least(times)),
            Ok(Some(reason)) => {
                excluded.push((candidate, reason));
                continue;
            }
            Err(error) => Err(error),
        };
        match timed {
            Ok(ms) => times.push((candidate, ms)),
            Err(error @ Error::DeviceLost(_)) => return Err(error),
            // It does not take this problem on this adapter.
            Err(error) if is_no_fault(&error) => {}
            Err(error) => excluded.push((candidate, error.to_string())),
        }
    }
    // In turns, so that all see the same weather.
    for _ in 1..ROUNDS {
        let best = least(times);
        let racing = times.iter().filter(|(_, ms)| *ms <= CLEARLY_SLOWER * best).count();
        for (candidate, ms) in times.iter_mut().filter(|(_, ms)| racing > 1 && *ms <= CLEARLY_SLOWER * best) {
            if trial.is_over() {
                return Ok(decision);
            }
            match trial.time(*candidate, best) {
                Ok(again) => *ms = again.min(*ms),
                Err(error @ Error::DeviceLost(_)) => return Err(error),
                // It ran before: the device is full, or so. What was measured by then stands.
                Err(_) => return Ok(decision),
            }
        }
    }
    let default = times.iter().find(|(candidate, _)| *candidate == 0).map(|(_, ms)| *ms);
    let best = least(times);
    if default.is_none_or(|ms| best < WORTH_IT * ms)
        && let Some((winner, _)) = times.iter().find(|(_, ms)| *ms == best)
    {
        decision.winner = *winner;
    }
    decision.finished = true;
    Ok(decision)
}

fn least(times: &[(usize, f64)]) -> f64 {
    times.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates with forced results.
    struct Forced {
        probes: Vec<Result<Option<String>>>,
        /// Times of each round.
        times: Vec<Vec<Result<f64>>>,
        runs: Vec<usize>,
        /// Runs after which the time is over.
        budget: usize,
    }

    impl Forced {
        fn new(times: &[&[f64]]) -> Self {
            Self {
                probes: times.iter().map(|_| Ok(None)).collect(),
                times: times.iter().map(|times| times.iter().rev().map(|ms| Ok(*ms)).collect()).collect(),
                runs: Vec::new(),
                budget: usize::MAX,
            }
        }

        fn decide(&mut self) -> Result<Decision> {
            decide(self.times.len(), self)
        }
    }

    impl Trial for Forced {
        fn probe(&mut self, candidate: usize) -> Result<Option<String>> {
            self.probes[candidate].clone()
        }

        fn time(&mut self, candidate: usize, _best: f64) -> Result<f64> {
            self.runs.push(candidate);
            // The last one is repeated.
            let times = &mut self.times[candidate];
            if times.len() > 1 { times.pop().unwrap() } else { times[0].clone() }
        }

        fn is_over(&self) -> bool {
            self.runs.len() >= self.budget
        }
    }

    fn failed() -> Error {
        Error::Kernel { kernel: "k".into(), message: "refused".into() }
    }

    #[test]
    fn the_fastest_wins_and_slow_ones_are_left_early() {
        let mut forced = Forced::new(&[&[10.0], &[20.0], &[8.0], &[9.0, 7.0, 9.0]]);
        let decision = forced.decide().unwrap();
        assert_eq!((decision.winner, decision.finished), (3, true));
        assert_eq!(decision.times, [(0, 10.0), (1, 20.0), (2, 8.0), (3, 7.0)]);
        // The second is timed once, the first not against the seven of the third round.
        assert_eq!(forced.runs, [0, 1, 2, 3, 0, 2, 3, 2, 3]);
    }

    #[test]
    fn the_default_stays_unless_it_is_beaten_by_a_margin() {
        assert_eq!(Forced::new(&[&[10.0], &[9.6]]).decide().unwrap().winner, 0);
        assert_eq!(Forced::new(&[&[10.0], &[9.4]]).decide().unwrap().winner, 1);
        assert_eq!(Forced::new(&[&[10.0]]).decide().unwrap().winner, 0);
        assert_eq!(Forced::new(&[]).decide().unwrap().winner, 0);
    }

    #[test]
    fn wrong_and_failing_candidates_are_excluded() {
        let mut forced = Forced::new(&[&[10.0], &[1.0], &[2.0], &[3.0], &[11.0]]);
        forced.probes[1] = Ok(Some("off by 1".into()));
        forced.probes[2] = Err(failed());
        forced.times[3] = vec![Err(failed())];
        forced.times.push(vec![Err(Error::argument("op", "not for this shape"))]);
        forced.probes.push(Ok(None));
        let decision = forced.decide().unwrap();
        assert_eq!((decision.winner, decision.finished), (0, true));
        assert_eq!(decision.times, [(0, 10.0), (4, 11.0)]);
        let reasons: Vec<_> = decision.excluded.iter().map(|(i, reason)| (*i, reason.as_str())).collect();
        assert_eq!(reasons, [(1, "off by 1"), (2, "kernel k: refused"), (3, "kernel k: refused")]);
        assert!(!forced.runs.contains(&1) && !forced.runs.contains(&2));
    }

    #[test]
    fn a_wrong_default_gives_way_even_to_a_slower_one() {
        let mut forced = Forced::new(&[&[1.0], &[10.0]]);
        forced.probes[0] = Ok(Some("off by 1".into()));
        assert_eq!(forced.decide().unwrap().winner, 1);
        forced.probes[1] = Ok(Some("off by 2".into()));
        assert_eq!(forced.decide().unwrap().winner, 0, "nothing left: the op says itself what is wrong");
    }

    #[test]
    fn the_budget_ends_it_with_the_default() {
        for budget in 0..6 {
            let mut forced = Forced { budget, ..Forced::new(&[&[10.0], &[9.0], &[8.0]]) };
            let decision = forced.decide().unwrap();
            assert_eq!((decision.winner, decision.finished), (0, false), "{budget}");
            assert_eq!(forced.runs.len(), budget);
        }
        assert!(Forced { budget: 9, ..Forced::new(&[&[10.0], &[9.0], &[8.0]]) }.decide().unwrap().finished);
    }

    #[test]
    fn a_lost_device_ends_it() {
        let mut forced = Forced::new(&[&[10.0], &[9.0]]);
        forced.probes[1] = Err(Error::DeviceLost("gone".into()));
        assert!(matches!(forced.decide(), Err(Error::DeviceLost(_))));
    }
}

//! One contest: the same work on all engines, checked against each other, then timed in turns.

use crate::sides::Side;
use anyhow::{Result, bail, ensure};
use cpu_time::ProcessTime;
use serde::Serialize;
use std::time::Instant;

/// Turns of each engine.
pub(crate) const ROUNDS: usize = 7;
/// CPU seconds that a turn should last.
const TURN: f64 = 0.4;

/// The same work for all engines.
pub(crate) struct Contest {
    /// What is computed, such as `softmax`.
    pub(crate) op: &'static str,
    pub(crate) shape: &'static str,
    /// Floating-point operations, bytes or images of one run.
    pub(crate) work: f64,
    /// `GFLOP`, `GB` or `images`.
    pub(crate) unit: &'static str,
    /// Largest difference between the results of the engines that passes.
    pub(crate) tolerance: f64,
    /// How many times burn's rate we want to reach.
    pub(crate) target: Option<f64>,
    /// Whether the result is a loss that must fall from the first run to the last.
    pub(crate) learns: bool,
    pub(crate) ours: Box<dyn Side>,
    pub(crate) burn: Box<dyn Side>,
    /// On the CPU, without the adapter; `None` where it has no such operation.
    pub(crate) candle: Option<Box<dyn Side>>,
}

/// What one engine took.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    /// Work per second of one core's CPU time: the median over the turns.
    pub(crate) rate: f64,
    /// CPU time of the process for one run, the wait included, in ms.
    cpu_ms: Spread,
    /// Wall time of one run, the wait included, in ms.
    wall_ms: Spread,
    /// Wall time of the first run, compilation and tuning included, in ms.
    first_ms: f64,
    /// Runs in a turn.
    runs: usize,
}

/// The outcome of a contest.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    op: &'static str,
    shape: &'static str,
    /// Unit of the rates, per CPU second.
    unit: &'static str,
    ours: Cost,
    burn: Cost,
    #[serde(skip_serializing_if = "Option::is_none")]
    candle: Option<Cost>,
    /// Our rate over burn's: that of the medians, and the least and most between turns that follow each other.
    ratio: Spread,
    /// Our rate over candle's.
    #[serde(skip_serializing_if = "Option::is_none")]
    candle_ratio: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    /// Largest difference of our result from another.
    difference: f64,
}

/// CPU and wall time of one run, in seconds, per turn.
#[derive(Default)]
struct Turns {
    cpu: Vec<f64>,
    wall: Vec<f64>,
}

impl Turns {
    fn take(&mut self, side: &mut dyn Side, runs: usize) -> Result<()> {
        let (cpu, wall) = (ProcessTime::now(), Instant::now());
        for _ in 0..runs {
            side.run()?;
        }
        self.cpu.push(cpu.elapsed().as_secs_f64() / runs as f64);
        self.wall.push(wall.elapsed().as_secs_f64() / runs as f64);
        Ok(())
    }

    fn cost(&self, work: f64, first_ms: f64, runs: usize) -> Cost {
        let cpu_ms = Spread::of(self.cpu.iter().map(|s| s * 1e3));
        let wall_ms = Spread::of(self.wall.iter().map(|s| s * 1e3));
        Cost { rate: work / cpu_ms.median, cpu_ms, wall_ms, first_ms, runs }
    }
}

/// What the turns came to.
#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one value.
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: sorted[sorted.len() / 2], least: sorted[0], most: sorted[sorted.len() - 1] }
    }
}

/// Wall time of a side's first run, in ms.
fn first(side: &mut dyn Side) -> Result<f64> {
    let start = Instant::now();
    side.run()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The runs that fill a turn, after a warm-up.
fn runs_of_turn(side: &mut dyn Side) -> Result<usize> {
    // Some kernels are tuned or compiled at the second run only.
    let mut turns = Turns::default();
    for _ in 0..3 {
        turns.take(side, 1)?;
    }
    let once = Spread::of(turns.cpu).least.max(1e-6);
    Ok(((TURN / once).ceil() as usize).clamp(1, 2000))
}

impl Contest {
    /// Work of one run in units, times the ms of a second.
    fn scale(&self) -> f64 {
        if self.unit == "images" { 1e3 * self.work } else { self.work / 1e6 }
    }

    /// Checks that all engines give the same numbers, then lets them take turns.
    pub(crate) fn run(self) -> Result<Row> {
        self.run_rounds(ROUNDS)
    }

    /// As [`Contest::run`], with this number of turns.
    pub(crate) fn run_rounds(self, rounds: usize) -> Result<Row> {
        let scale = self.scale();
        let Self { op, shape, unit, tolerance, target, learns, ours, burn, candle, .. } = self;
        let mut entrants: Vec<Entrant> =
            [Some(burn), candle, Some(ours)].into_iter().flatten().map(Entrant::new).collect();
        for entrant in &mut entrants {
            entrant.first_ms = first(&mut *entrant.side)?;
        }
        let begun = entrants.iter().map(|entrant| entrant.side.read()).collect::<Result<Vec<_>>>()?;
        let mine = begun.len() - 1;
        let differences = begun[..mine].iter().map(|theirs| difference(&begun[mine], theirs));
        let difference = differences.collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
        ensure!(difference <= tolerance, "{op} {shape}: the engines differ by {difference:e}, {tolerance:e} allowed");
        for entrant in &mut entrants {
            entrant.runs = runs_of_turn(&mut *entrant.side)?;
        }
        for _ in 0..rounds {
            for Entrant { side, turns, runs, .. } in &mut entrants {
                turns.take(&mut **side, *runs)?;
            }
        }
        if learns {
            let sum = |losses: &[f32]| losses.iter().sum::<f32>();
            for (entrant, begun) in entrants.iter().zip(&begun) {
                let last = entrant.side.read()?;
                ensure!(sum(&last) < sum(begun), "{shape}: losses from {begun:?} to {last:?}");
            }
        }
        let costs: Vec<Cost> =
            entrants.iter().map(|entrant| entrant.turns.cost(scale, entrant.first_ms, entrant.runs)).collect();
        let ratio = |theirs: usize| {
            let pairs = entrants[theirs].turns.cpu.iter().zip(&entrants[mine].turns.cpu);
            Spread {
                median: costs[mine].rate / costs[theirs].rate,
                ..Spread::of(pairs.map(|(theirs, ours)| theirs / ours))
            }
        };
        let (ratio, candle_ratio) = (ratio(0), (mine > 1).then(|| ratio(1)));
        let mut costs = costs.into_iter();
        let (Some(burn), Some(ours)) = (costs.next(), costs.next_back()) else { bail!("{op}: an engine is missing") };
        Ok(Row { op, shape, unit, ours, burn, candle: costs.next(), ratio, candle_ratio, target, difference })
    }
}

/// An engine in a contest.
struct Entrant {
    side: Box<dyn Side>,
    turns: Turns,
    first_ms: f64,
    runs: usize,
}

impl Entrant {
    fn new(side: Box<dyn Side>) -> Self {
        Self { side, turns: Turns::default(), first_ms: 0.0, runs: 1 }
    }
}

/// The largest difference between two results; infinite if one is not a number.
fn difference(a: &[f32], b: &[f32]) -> Result<f64> {
    ensure!(a.len() == b.len(), "results of {} and {} elements", a.len(), b.len());
    Ok(leanvision::bench::worst(a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b))))
}

impl Row {
    pub(crate) const HEAD: &str = "operation    shape                            ours/CPU s   burn/CPU s  ratio (turns)          \
                                   ours/wall s  burn/wall s   first, ms: ours, burn  difference  candle/CPU s  ratio";
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = match self.unit {
            "GFLOP" => "GF",
            "images" => "im",
            _ => "GB",
        };
        let wall = |cost: &Cost| cost.rate * cost.cpu_ms.median / cost.wall_ms.median;
        let Spread { median: ratio, least, most } = self.ratio;
        write!(
            f,
            "{:<12} {:<30} {:>9.2} {unit} {:>9.2} {unit} {ratio:>6.2} ({least:.2} to {most:.2}) {:>9.2} {unit} {:>9.2} {unit} \
             {:>10.0} {:>10.0} {:>11.1e}{}{}",
            self.op,
            self.shape,
            self.ours.rate,
            self.burn.rate,
            wall(&self.ours),
            wall(&self.burn),
            self.ours.first_ms,
            self.burn.first_ms,
            self.difference,
            match (&self.candle, &self.candle_ratio) {
                (Some(candle), Some(Spread { median, least, most })) => {
                    format!(" {:>10.2} {unit} {median:>6.2} ({least:.2} to {most:.2})", candle.rate)
                }
                _ => String::new(),
            },
            match self.target {
                Some(target) if ratio < target => format!("  BELOW {target}"),
                _ => String::new(),
            }
        )
    }
}

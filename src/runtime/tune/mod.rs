//! What tuning found out: which variant of an op is fastest for which problems, in memory and on disk.
//!
//! The ops ask and decide (`ops::tune`); here is what they remember, the time they may take, and the clock.

mod clock;
mod store;

pub(crate) use store::digest;

use super::profile::ProfileMark;
use super::{DeviceProfile, Runtime, RuntimeOptions};
use crate::tensor::DType;
use crate::{Error, Result};
use clock::Clock;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use store::{Found, Owner};

/// Findings are written so often at most, and when the runtime is dropped.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Whether ops try out which of their variants is fastest.
///
/// A variant computes the same up to the order of its sums, so results of two runs agree bit for bit only where both chose
/// alike: with `Off`, or with findings on disk that cover all that a run meets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tune {
    /// Every op takes the default of its adapter's class.
    Off,
    /// On GPUs, variants are tried within [`RuntimeOptions::tune_budget`], and what was found by earlier runs is used. On
    /// software adapters the defaults were measured, and are taken as they are.
    #[default]
    Auto,
    /// Everything met is tried, on every adapter, for as long as it takes.
    Full,
}

impl std::str::FromStr for Tune {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "full" => Ok(Self::Full),
            _ => Err(Error::Input(format!("unknown kind of tuning '{text}': off, auto or full wanted"))),
        }
    }
}

impl Tune {
    /// What the variable `LEANVISION_TUNE` says, else `Auto`.
    pub(super) fn from_environment() -> Self {
        if cfg!(test) {
            return Self::Off;
        }
        let Ok(text) = std::env::var("LEANVISION_TUNE") else { return Self::default() };
        text.parse().unwrap_or_else(|error| {
            log::warn!("LEANVISION_TUNE: {error}");
            Self::default()
        })
    }
}

/// Where a choice came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TuneSource {
    /// The table of defaults, as the time for tuning was over.
    Default,
    /// Tried in this process.
    Tuned,
    /// Tried by an earlier run.
    Disk,
}

/// One choice: what [`Runtime::tuning`] tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The op, such as `matmul`.
    pub op: String,
    /// Element type of its inputs.
    pub dtype: DType,
    /// The problems it holds for; sizes are rounded up to powers of two.
    pub bucket: String,
    /// What was chosen.
    pub variant: String,
    /// What the table of defaults says.
    pub default: String,
    /// What was tried, and the time of one run in ms.
    pub times: Vec<(String, f64)>,
    /// What was left out, as its result differed from the plain variant's or it failed, and how.
    #[serde(default)]
    pub wrong: Vec<(String, String)>,
    /// Where it came from.
    pub source: TuneSource,
}

/// A choice as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TuneEntry {
    /// Of the kernels that were tried; others are another question.
    pub(crate) digest: String,
    pub(crate) variant: String,
    pub(crate) default: String,
    pub(crate) times: Vec<(String, f64)>,
}

/// Whether a variant gave the plain one's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TuneProbe {
    pub(crate) digest: String,
    /// What was wrong with it.
    pub(crate) wrong: Option<String>,
}

/// A question in few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TuneKey {
    pub(crate) op: &'static str,
    pub(crate) dtype: DType,
    pub(crate) bucket: [u8; 12],
}

#[derive(Debug)]
pub(super) struct Tuner {
    active: bool,
    /// Without one, as long as it takes.
    budget: Option<Duration>,
    owner: Owner,
    path: Option<PathBuf>,
    state: Mutex<State>,
    busy: AtomicBool,
    clock: OnceLock<Option<Clock>>,
}

#[derive(Debug, Default)]
struct State {
    /// Place of the chosen variant in the list of all.
    known: HashMap<TuneKey, u8>,
    rows: Vec<Tuned>,
    /// What earlier runs found, read when first asked for.
    earlier: Option<Found>,
    /// What this process found.
    own: Found,
    unsaved: bool,
    saved: Option<Instant>,
    spent: Duration,
}

impl Tuner {
    pub(super) fn new(profile: &DeviceProfile, options: &RuntimeOptions, cache: Option<PathBuf>) -> Self {
        // Guarded runtimes are those of tests, which want the same choice in every run.
        let active = !options.guard
            && match options.tune {
                Tune::Off => false,
                Tune::Auto => !profile.is_software(),
                Tune::Full => true,
            };
        let owner = Owner::new(profile, options.checked != Some(false));
        Self {
            active,
            budget: (options.tune == Tune::Auto).then_some(options.tune_budget),
            path: cache.filter(|_| active && options.pipeline_cache).map(|folder| owner.path(&folder)),
            owner,
            state: Mutex::default(),
            busy: AtomicBool::new(false),
            clock: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_if(&self, due: impl FnOnce(&State) -> bool) {
        let Some(path) = &self.path else { return };
        let mut state = self.state();
        if state.unsaved && due(&state) {
            store::save(path, &self.owner, &state.own);
            (state.unsaved, state.saved) = (false, Some(Instant::now()));
        }
    }

    pub(super) fn save(&self) {
        self.save_if(|_| true);
    }
}

/// Tuning under way: nobody else tunes meanwhile, and what it launches is neither counted nor profiled.
pub(crate) struct Tuning<'a> {
    runtime: &'a Runtime,
    start: Instant,
    counts: super::Counts,
    profiled: Option<ProfileMark>,
}

impl Drop for Tuning<'_> {
    fn drop(&mut self) {
        let tuner = self.tuner();
        {
            let mut recorder = self.runtime.recorder();
            recorder.counts = self.counts;
            if let (Some(profiler), Some(mark)) = (recorder.profiler(), &self.profiled) {
                profiler.forget_since(mark);
            }
        }
        tuner.state().spent += self.start.elapsed();
        tuner.busy.store(false, Ordering::Release);
        tuner.save_if(|state| state.saved.is_none_or(|saved| saved.elapsed() > SAVE_EVERY));
    }
}

impl Tuning<'_> {
    fn tuner(&self) -> &Tuner {
        &self.runtime.0.tuner
    }

    /// Whether the time for tuning is over.
    pub(crate) fn is_over(&self) -> bool {
        let tuner = self.tuner();
        tuner.budget.is_some_and(|budget| tuner.state().spent + self.start.elapsed() >= budget)
    }

    /// What an earlier run chose, if its kernels were the same.
    pub(crate) fn earlier(&self, key: &str, digest: &str) -> Option<TuneEntry> {
        self.found(|found| found.entries.get(key).filter(|entry| entry.digest == digest).cloned())
    }

    /// What is known of a variant.
    pub(crate) fn probe(&self, key: &str, digest: &str) -> Option<TuneProbe> {
        self.found(|found| found.probes.get(key).filter(|probe| probe.digest == digest).cloned())
    }

    fn found<T>(&self, get: impl Fn(&Found) -> Option<T>) -> Option<T> {
        let tuner = self.tuner();
        let mut state = tuner.state();
        if let Some(own) = get(&state.own) {
            return Some(own);
        }
        let read = || tuner.path.as_ref().map(|path| store::load(path, &tuner.owner)).unwrap_or_default();
        get(state.earlier.get_or_insert_with(read))
    }

    /// Keeps what became of a variant.
    pub(crate) fn keep_probe(&self, key: String, probe: TuneProbe) {
        let mut state = self.tuner().state();
        state.own.probes.insert(key, probe);
        state.unsaved = true;
    }

    /// Keeps a choice for the next time; `entry`, and its key, also for later runs.
    pub(crate) fn settle(&self, key: TuneKey, index: u8, row: Tuned, entry: Option<(String, TuneEntry)>) {
        let mut state = self.tuner().state();
        state.known.insert(key, index);
        state.rows.push(row);
        if let Some((key, entry)) = entry {
            state.own.entries.insert(key, entry);
            state.unsaved = true;
        }
    }

    /// Time of what `run` records, in ms: by timestamps where the adapter has them, else by the wall clock, submission and
    /// wait included. On software adapters it is CPU time, which other programs do not disturb.
    pub(crate) fn time(&self, run: impl FnOnce() -> Result<()>) -> Result<f64> {
        let inner = &*self.runtime.0;
        self.runtime.sync()?;
        if inner.profile.is_software() {
            let start = cpu_time::ProcessTime::now();
            run()?;
            self.runtime.sync()?;
            return Ok(start.elapsed().as_secs_f64() * 1e3);
        }
        let clock = inner.tuner.clock.get_or_init(|| Clock::new(inner)).as_ref();
        let start = Instant::now();
        if let Some(clock) = clock {
            clock.start(self.runtime);
        }
        run()?;
        if let Some(clock) = clock {
            clock.stop(self.runtime);
        }
        self.runtime.sync()?;
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let timed = clock.map(|clock| clock.read(inner)).transpose()?;
        // Some drivers write nothing where a pass is empty, or count in another unit than they say.
        Ok(timed.filter(|ms| *ms > 0.0 && *ms <= wall).unwrap_or(wall))
    }
}

impl Runtime {
    /// Which variants were chosen for what the ops met so far, where tuning is on: one entry for each kind of problem.
    #[must_use]
    pub fn tuning(&self) -> Vec<Tuned> {
        self.0.tuner.state().rows.clone()
    }

    /// Whether ops ask what was tuned.
    pub(crate) fn tunes(&self) -> bool {
        self.0.tuner.active
    }

    /// The variant chosen before, by its place in the list of all.
    pub(crate) fn known_choice(&self, key: &TuneKey) -> Option<u8> {
        self.0.tuner.state().known.get(key).copied()
    }

    /// Starts tuning, unless it is under way or a plan is being recorded: choices within a variant being tried, and those of
    /// another thread, are the defaults.
    pub(crate) fn start_tuning(&self) -> Option<Tuning<'_>> {
        let tuner = &self.0.tuner;
        if self.is_recording_plan() || tuner.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let mut recorder = self.recorder();
        let counts = recorder.counts;
        let profiled = recorder.profiler().map(|profiler| profiler.mark());
        Some(Tuning { runtime: self, start: Instant::now(), counts, profiled })
    }
}

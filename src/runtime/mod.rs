//! The runtime: a device, its memory, its compiled kernels and what is recorded for it.
//!
//! This is the only place that names wgpu types, besides the calls for hosts that embed the engine.

mod buffer;
mod device;
mod dispatch;
mod kernel;
mod pipeline;
mod plan;
mod profile;
mod salt;
#[cfg(feature = "sim")]
mod simulated;
mod tune;

pub use buffer::{Buffer, MemoryStats, Readback};
pub use device::{
    DeviceChoice, DeviceFeatures, DeviceLimits, DeviceProfile, cooperative_features, list_devices, required_features,
    required_limits,
};
pub(crate) use dispatch::Binding;
pub use dispatch::Counts;
pub use kernel::{Bind, COOPERATIVE_BYTES, Common, INDEX, Kernel, Need};
pub use plan::{Plan, Repeated};
pub use profile::{Profile, ProfileRow, Span};
#[cfg(feature = "sim")]
pub use simulated::{CapturedLaunch, SimulatedDevice};
pub use tune::{Tune, TuneSource, Tuned};
pub(crate) use tune::{TuneEntry, TuneKey, TuneProbe, Tuning, digest};

use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Size of a kernel's parameter struct at most, in bytes: what every back end passes as immediates.
pub const PARAMS_BYTES: u32 = 64;

/// Rounds that one invocation may go in all its loops together. Mesa's software adapters end every loop past that without
/// a word, so kernels split longer walks. The round that finds a loop at its end counts, too.
pub const LOOP_ROUNDS: usize = 65_535;

/// How a runtime is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// Keep bounds checks and loop bounding in shaders. `None`: on software adapters, where they cost nothing. The
    /// default is what the variable `LEANVISION_CHECKED` says, 1 or 0, else `None`.
    pub checked: Option<bool>,
    /// Poison fresh memory and put guard words behind every tensor, for tests: see [`Runtime::damaged_guards`].
    pub guard: bool,
    /// Open the device with WebGPU's default limits and no optional feature.
    pub default_limits: bool,
    /// Time every dispatch: see [`Runtime::take_profile`].
    pub profile: bool,
    /// Bytes to take from the device at most.
    pub memory_limit: Option<u64>,
    /// Keep compiled pipelines on disk where the back end can, and what tuning found.
    pub pipeline_cache: bool,
    /// The folder of both; `None` is what the variable `LEANVISION_CACHE` says, else the platform's.
    pub cache_folder: Option<PathBuf>,
    /// Whether ops try out which of their variants is fastest. Off in guarded and simulated runtimes. The default is what
    /// the variable `LEANVISION_TUNE` says, `off`, `auto` or `full`, else [`Tune::Auto`].
    pub tune: Tune,
    /// Time that [`Tune::Auto`] takes at most, in this runtime; what does not fit takes the defaults and is tried by later
    /// runs. The default, 0.75 s, leaves a first result on a cold cache within 2 s.
    pub tune_budget: Duration,
    /// Use cooperative matrices (tensor cores) where the adapter has them; without a word more than a warning where it
    /// has none. wgpu calls them experimental: its checks do not cover them, and drivers advertise slow or wrong ones.
    /// The default is what the variable `LEANVISION_COOPERATIVE` says, 1 or 0, else off.
    pub cooperative_matrix: bool,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            checked: std::env::var("LEANVISION_CHECKED").ok().map(|value| value == "1"),
            guard: false,
            default_limits: false,
            profile: false,
            memory_limit: None,
            pipeline_cache: true,
            cache_folder: None,
            tune: Tune::from_environment(),
            tune_budget: Duration::from_millis(750),
            cooperative_matrix: std::env::var("LEANVISION_COOPERATIVE").is_ok_and(|value| value == "1"),
        }
    }
}

/// A handle to a device and everything the engine keeps for it; cheap to clone, `Send` and `Sync`.
///
/// ```no_run
/// use leanvision::{DeviceChoice, Runtime};
/// let runtime = Runtime::new(&DeviceChoice::default())?;
/// println!("{}", runtime.profile());
/// # Ok::<(), leanvision::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    profile: DeviceProfile,
    options: RuntimeOptions,
    lost: Arc<Mutex<Option<String>>>,
    pool: Mutex<buffer::Pool>,
    pipelines: pipeline::Pipelines,
    recorder: Mutex<dispatch::Recorder>,
    tuner: tune::Tuner,
    n_nodes: AtomicU64,
    /// What runs the kernels of a simulated runtime in the device's place.
    #[cfg(feature = "sim")]
    simulator: Option<simulated::Simulator>,
}

impl Runtime {
    /// Opens the adapter that `choice` names, with default options.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits, [`Error::Device`] if it gives no device.
    pub fn new(choice: &DeviceChoice) -> Result<Self> {
        Self::with_options(choice, RuntimeOptions::default())
    }

    /// Opens the adapter that `choice` names.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits, [`Error::Device`] if it gives no device.
    pub fn with_options(choice: &DeviceChoice, options: RuntimeOptions) -> Result<Self> {
        let adapter = device::choose(choice)?;
        let (device, queue) = device::open(&adapter, &options)?;
        let lost = Arc::new(Mutex::new(None));
        let state = Arc::clone(&lost);
        device.set_device_lost_callback(move |_, message| note(&state, &message));
        let state = Arc::clone(&lost);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&state, &error.to_string())));
        let cooperative = device::cooperative_sizes(&adapter);
        Ok(Self(Arc::new(Inner::new(&adapter.get_info(), device, queue, options, lost, cooperative))))
    }

    /// Adopts a device that a host owns: no handler of it is replaced and nothing of it is destroyed.
    ///
    /// Open it with [`required_features`] and [`required_limits`] to get the fast kernels; any device works. A device
    /// does not tell the sizes of its cooperative matrices, so none are used: [`Runtime::from_adapter`] does.
    #[must_use]
    pub fn from_device(
        info: &wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: RuntimeOptions,
    ) -> Self {
        Self(Arc::new(Inner::new(info, device, queue, options, Arc::default(), [false; 2])))
    }

    /// [`Runtime::from_device`] for a host that still has the adapter: where the device was opened with
    /// [`cooperative_features`], too, and [`RuntimeOptions::cooperative_matrix`] is set, cooperative matrices are used.
    #[must_use]
    pub fn from_adapter(
        adapter: &wgpu::Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: RuntimeOptions,
    ) -> Self {
        let cooperative = device::cooperative_sizes(adapter);
        Self(Arc::new(Inner::new(&adapter.get_info(), device, queue, options, Arc::default(), cooperative)))
    }

    /// The adapter, its features and limits.
    #[must_use]
    pub fn profile(&self) -> &DeviceProfile {
        &self.0.profile
    }

    /// The options in force; `checked` is never `None` here.
    #[must_use]
    pub fn options(&self) -> &RuntimeOptions {
        &self.0.options
    }

    /// The device, for hosts that share it.
    #[must_use]
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The queue, for hosts that share it.
    #[must_use]
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Whether `other` is a handle to the same device.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Hands everything recorded so far to the device, without waiting for it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn flush(&self) -> Result<()> {
        self.recorder().flush(&self.0)
    }

    /// Hands everything recorded so far to the device and waits until it is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn sync(&self) -> Result<()> {
        self.flush()?;
        self.0.wait_idle()
    }

    /// Dispatches, submissions, bind groups and pipelines so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { pipelines: self.0.pipelines.n_made(), ..self.recorder().counts }
    }

    /// Forgets every compiled kernel; those compiled from now on are others to the driver, by `salt`, with the same results.
    pub(crate) fn forget_pipelines(&self, salt: u32) {
        self.0.pipelines.forget(salt);
        self.recorder().forget_bind_groups();
    }

    /// A number for a recorded op, larger than all before it.
    pub(crate) fn next_node(&self) -> u64 {
        self.0.n_nodes.fetch_add(1, Ordering::Relaxed)
    }

    fn recorder(&self) -> MutexGuard<'_, dispatch::Recorder> {
        self.0.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn new(
        info: &wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
        mut options: RuntimeOptions,
        lost: Arc<Mutex<Option<String>>>,
        cooperative: [bool; 2],
    ) -> Self {
        let cooperative = cooperative.map(|usable| usable && options.cooperative_matrix);
        let profile = DeviceProfile::new(info, device.features(), &device.limits(), cooperative);
        options.checked.get_or_insert(profile.is_software());
        let profiler =
            (options.profile && profile.features.timestamps).then(|| profile::Profiler::new(&device, &queue));
        if options.profile && profiler.is_none() {
            log::warn!("{}: no timestamps, so nothing is profiled", profile.name);
        }
        let cache = options.cache_folder.clone().or_else(pipeline::cache_folder);
        let pipelines = pipeline::Pipelines::new(&device, info, cache.as_deref().filter(|_| options.pipeline_cache));
        let tuner = tune::Tuner::new(&profile, &options, cache);
        Self {
            device,
            queue,
            profile,
            options,
            lost,
            pool: Mutex::default(),
            pipelines,
            recorder: Mutex::new(dispatch::Recorder::new(profiler)),
            tuner,
            n_nodes: AtomicU64::new(0),
            #[cfg(feature = "sim")]
            simulator: None,
        }
    }

    fn check_lost(&self) -> Result<()> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.as_ref().map_or(Ok(()), |message| Err(Error::DeviceLost(format!("{}: {message}", self.profile.name))))
    }

    fn wait_idle(&self) -> Result<()> {
        self.wait_for(None)
    }

    fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        loop {
            let wait = wgpu::PollType::Wait {
                submission_index: submission_index.clone(),
                timeout: Some(Duration::from_secs(30)),
            };
            match self.device.poll(wait) {
                Ok(_) => return self.check_lost(),
                // Slow adapters may take longer than one slice; a lost one says so.
                Err(wgpu::PollError::Timeout) => self.check_lost()?,
                Err(error) => return Err(Error::DeviceLost(format!("{}: {error}", self.profile.name))),
            }
        }
    }

    fn poll_once(&self) {
        if let Err(error) = self.device.poll(wgpu::PollType::Poll) {
            log::debug!("poll: {error}");
        }
    }

    /// Whether a batch of this much work might keep an adapter busy for half a second, a quarter of what watchdogs allow.
    /// The rates are those of weak GPUs of each kind; software adapters have no watchdog.
    fn batch_is_long(&self, flops: u64, bytes: u64) -> bool {
        let (flop_rate, byte_rate) = match self.profile.kind {
            "discrete" => (1e12, 1e11),
            "cpu" => return false,
            _ => (1e11, 1e10),
        };
        flops as f64 / flop_rate + bytes as f64 / byte_rate > 0.5
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pipelines.save();
        self.tuner.save();
    }
}

/// Keeps the first reason; what follows is noise.
fn note(state: &Mutex<Option<String>>, message: &str) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.get_or_insert_with(|| message.lines().next().unwrap_or("no reason given").to_owned());
}

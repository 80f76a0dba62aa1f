//! What the test binaries share: the adapter under test, rows of cases, comparison.

pub mod case;
pub mod compare;
pub mod golden;
pub mod row;
pub mod simulated;

use leanvision::runtime::SimulatedDevice;
use leanvision::{DeviceChoice, Error, Runtime, RuntimeOptions};
use std::sync::{Mutex, Once};

/// Runtimes not in use, each with its device; each row takes one, so that guards and profiles of two tests never mix.
static IDLE: Mutex<Vec<(Option<SimulatedDevice>, Runtime)>> = Mutex::new(Vec::new());

/// A guarded, checked runtime on the adapter under test or on a simulated device, given back to the others when dropped.
/// What the simulator found by then fails the test.
pub struct TestRuntime {
    simulated: Option<SimulatedDevice>,
    runtime: Option<Runtime>,
}

impl TestRuntime {
    fn idle(simulated: Option<&SimulatedDevice>) -> Option<Self> {
        let mut idle = IDLE.lock().expect("no test panics while it holds the list");
        let at = idle.iter().position(|(device, _)| device.as_ref() == simulated)?;
        let (simulated, runtime) = idle.swap_remove(at);
        Some(Self { simulated, runtime: Some(runtime) })
    }

    /// Whether a case with `n` elements is small enough for the device.
    pub fn takes(&self, n: usize) -> bool {
        let most = if simulated::chosen().is_some() { limit() } else { SIMULATED_ELEMENTS };
        self.simulated.is_none() || n <= most
    }
}

/// Elements of a case on the simulated devices of the usual run, at most; `make sanitize` tries larger ones.
const SIMULATED_ELEMENTS: usize = 600;

/// Elements of a case on the device that `LEANVISION_SIM` names, at most, so that six devices take under 15 minutes.
const SANITIZED_ELEMENTS: usize = 20_000;

impl std::ops::Deref for TestRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.runtime.as_ref().expect("taken only when dropped")
    }
}

impl Drop for TestRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take()
            && !std::thread::panicking()
        {
            let findings = simulated::findings(&runtime);
            if self.simulated.is_some() {
                simulated::keep_coverage(&runtime.shader_coverage());
            }
            let idle = (self.simulated.take(), runtime);
            IDLE.lock().expect("no test panics while it holds the list").push(idle);
            assert!(findings.is_none(), "{}", findings.unwrap_or_default());
        }
    }
}

fn flag(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// The adapter that `LEANVISION_DEVICE` names, else any.
pub fn device_choice() -> DeviceChoice {
    let name = std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into());
    name.parse().unwrap_or_else(|error| panic!("LEANVISION_DEVICE: {error}"))
}

/// Options of a test's runtime: guarded and checked, with default limits where `LEANVISION_DEFAULT_LIMITS` is 1.
pub fn options() -> RuntimeOptions {
    let mut options = RuntimeOptions::default();
    options.guard = true;
    options.checked = Some(true);
    options.default_limits = flag("LEANVISION_DEFAULT_LIMITS");
    options.pipeline_cache = false;
    options
}

/// A runtime for a test, or `None`, said so, where there is no adapter and none is required. On a simulated device where
/// `LEANVISION_SIM` names one.
pub fn runtime() -> Option<TestRuntime> {
    static SAY: Once = Once::new();
    if let Some(device) = simulated::chosen() {
        let runtime = simulated::runtime(device);
        SAY.call_once(|| eprintln!("adapter: {}", runtime.profile()));
        return Some(runtime);
    }
    if let Some(idle) = TestRuntime::idle(None) {
        return Some(idle);
    }
    match Runtime::with_options(&device_choice(), options()) {
        Ok(runtime) => {
            SAY.call_once(|| eprintln!("adapter: {}", runtime.profile()));
            Some(TestRuntime { simulated: None, runtime: Some(runtime) })
        }
        Err(error @ Error::NoAdapter(_)) if !flag("LEANVISION_REQUIRE_GPU") => {
            SAY.call_once(|| eprintln!("skipped: {error}"));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether only small shapes run (`LEANVISION_SHAPES=short`), as on the slower adapters.
pub fn short() -> bool {
    std::env::var("LEANVISION_SHAPES").is_ok_and(|value| value == "short")
}

/// Elements that the tensors of a test may have at most: the simulator is slow.
pub fn limit() -> usize {
    match simulated::chosen() {
        // One invocation at a time is ten times slower.
        Some(device) if device.options.schedule.alone => SANITIZED_ELEMENTS / 10,
        Some(_) => SANITIZED_ELEMENTS,
        None => usize::MAX,
    }
}

/// The runtime of a test, if there is one, and those on the simulated devices of the usual run.
pub fn runtimes() -> Vec<TestRuntime> {
    runtime().into_iter().chain(simulated::usual()).collect()
}

/// A runtime for a test with tensors of up to `n` elements.
pub fn runtime_for(n: usize) -> Option<TestRuntime> {
    if n > limit() { None } else { runtime() }
}

/// A runtime on an adapter, for what a simulated device does not have.
pub fn adapter_runtime() -> Option<TestRuntime> {
    if simulated::chosen().is_some() { None } else { runtime() }
}

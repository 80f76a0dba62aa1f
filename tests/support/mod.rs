//! What the test binaries share: the adapter under test, rows of cases, comparison.

pub mod compare;
pub mod golden;
pub mod row;

use leanvision::{DeviceChoice, Error, Runtime, RuntimeOptions};
use std::sync::{Mutex, Once};

/// Runtimes not in use; each row takes one, so that guards and profiles of two tests never mix.
static IDLE: Mutex<Vec<Runtime>> = Mutex::new(Vec::new());

/// A guarded, checked runtime on the adapter under test, given back to the others when dropped.
pub struct TestRuntime(Option<Runtime>);

impl std::ops::Deref for TestRuntime {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for TestRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take()
            && !std::thread::panicking()
        {
            IDLE.lock().expect("no test panics while it holds the list").push(runtime);
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

/// A runtime for a test, or `None`, said so, where there is no adapter and none is required.
pub fn runtime() -> Option<TestRuntime> {
    static SAY: Once = Once::new();
    if let Some(idle) = IDLE.lock().expect("no test panics while it holds the list").pop() {
        return Some(TestRuntime(Some(idle)));
    }
    match Runtime::with_options(&device_choice(), options()) {
        Ok(runtime) => {
            SAY.call_once(|| eprintln!("adapter: {}", runtime.profile()));
            Some(TestRuntime(Some(runtime)))
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

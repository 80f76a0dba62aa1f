//! Ctrl-C and SIGTERM, noted and acted upon at the end of a step.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What the handlers share. Signals belong to the process, so this is one of a kind; it is set up when the first run starts.
struct Shared {
    /// No run is on: signals do what they always do.
    idle: Arc<AtomicBool>,
    /// The signal that came during this run, 0 before.
    seen: Arc<AtomicUsize>,
    /// One came already, by signal: the next ends the process at once.
    armed: [Arc<AtomicBool>; 2],
    /// Runs that are on, each within the one before.
    runs: AtomicUsize,
}

const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let shared =
            Shared { idle: Arc::default(), seen: Arc::default(), armed: Default::default(), runs: AtomicUsize::new(0) };
        for (signal, armed) in SIGNALS.into_iter().zip(&shared.armed) {
            // In this order: the first arrival finds its flag unset and sets it, the second ends the process.
            let handlers = [
                flag::register_conditional_default(signal, Arc::clone(&shared.idle)),
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(armed)),
                flag::register(signal, Arc::clone(armed)),
                flag::register_usize(signal, Arc::clone(&shared.seen), signal.unsigned_abs() as usize),
            ];
            // Where the system has no such signal, nothing is ever noted.
            for error in handlers.into_iter().filter_map(Result::err) {
                log::debug!("signal {signal}: {error}");
            }
        }
        shared
    })
}

/// Notes signals while it lives; a second one of the same kind ends the process at once, and afterwards signals do what they
/// do by default. A run within another, such as a probe's, leaves them to the outer one.
#[derive(Debug)]
pub(super) struct Signals {
    outermost: bool,
}

impl Signals {
    pub(super) fn watch() -> Self {
        let shared = shared();
        if shared.runs.fetch_add(1, Ordering::SeqCst) > 0 {
            return Self { outermost: false };
        }
        shared.seen.store(0, Ordering::SeqCst);
        shared.armed.iter().for_each(|armed| armed.store(false, Ordering::SeqCst));
        shared.idle.store(false, Ordering::SeqCst);
        Self { outermost: true }
    }

    /// The signal that came, as the exit code that a shell expects.
    pub(super) fn came(&self) -> Option<u8> {
        match shared().seen.load(Ordering::SeqCst) {
            0 => None,
            _ if !self.outermost => None,
            signal => Some(128 + signal as u8),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if shared().runs.fetch_sub(1, Ordering::SeqCst) == 1 {
            shared().idle.store(true, Ordering::SeqCst);
        }
    }
}

//! Ctrl-C and SIGTERM, noted and acted upon at the end of a step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

/// Notes signals while it lives; a second one of the same kind ends the process at once.
#[derive(Debug)]
pub(super) struct Signals {
    seen: Arc<AtomicUsize>,
    ids: Vec<SigId>,
}

impl Signals {
    /// Takes over both signals; where the system has none, nothing is ever noted.
    pub(super) fn watch() -> Self {
        let seen = Arc::new(AtomicUsize::new(0));
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            let armed = Arc::new(std::sync::atomic::AtomicBool::new(false));
            // In this order: the first arrival finds the flag unset and sets it, the second ends the process.
            let handlers = [
                flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed)),
                flag::register(signal, armed),
                flag::register_usize(signal, Arc::clone(&seen), signal.unsigned_abs() as usize),
            ];
            ids.extend(handlers.into_iter().flatten());
        }
        Self { seen, ids }
    }

    /// The signal that came, with the exit code that a shell expects.
    pub(super) fn came(&self) -> Option<u8> {
        match self.seen.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.ids.drain(..).for_each(|id| {
            low_level::unregister(id);
        });
    }
}

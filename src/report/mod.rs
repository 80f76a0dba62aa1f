//! What every binary shares: its common flags and exit codes, progress, and the folder that a run leaves.

mod binary;
mod progress;
mod run;

pub use binary::{CommonFlags, run_binary};
pub use progress::Progress;
pub use run::Run;

pub(crate) use crate::data::images::grouped;

/// A size in the largest unit that leaves at least 1: `44.6 MiB`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (n as f64, "bytes");
    for next in units {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "bytes" { format!("{n} bytes") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_well() {
        let bytes = [0, 1023, 1024, 46_758_048, 3 << 40].map(super::bytes);
        assert_eq!(bytes, ["0 bytes", "1023 bytes", "1.0 KiB", "44.6 MiB", "3.0 TiB"]);
    }
}

//! What every binary shares: its common flags and exit codes, progress, the folder that a run leaves and the page in it.

mod binary;
mod chart;
mod metrics;
mod page;
mod points;
mod progress;
mod roofline;
mod run;
mod scatter;
mod table;

pub use binary::{CommonFlags, print, run_binary};
pub use chart::{Bars, Lines};
pub use metrics::Metrics;
pub use page::{Page, sheet};
pub use points::Points;
pub use progress::Progress;
pub use roofline::Roofline;
pub(crate) use run::write_json;
pub use run::{Run, keep_hints};
pub use scatter::Scatter;
pub use table::Table;

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

/// A figure to three digits: `0.0123`, `1.23`, `1,234`.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || size == 0.0 {
        return format!("{value}");
    }
    if size >= 999.5 {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", grouped(size.round() as u64));
    }
    if size < 1e-4 {
        return format!("{value:.1e}");
    }
    // 9.995 has one digit in front of the point but rounds to two.
    let digits = (size * 1.0005).log10().floor() as i32;
    let text = format!("{value:.*}", (2 - digits).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// The time in UTC, to the second, as in `2026-03-01T09:30:00Z`.
#[must_use]
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_have_three_digits() {
        let text =
            [0.0, 1.0, 0.012_34, 0.1, 1.234_5, 9.996, 99.96, 100.0, 999.6, 1_234_567.8, -2.5, 3e-7].map(super::number);
        assert_eq!(
            text,
            ["0", "1", "0.0123", "0.1", "1.23", "10", "100", "100", "1,000", "1,234,568", "-2.5", "3.0e-7"]
        );
        assert_eq!(super::number(f64::NAN), "NaN");
        let now = super::now();
        assert!(now.len() == 20 && now.starts_with("20") && now.ends_with('Z'), "{now}");
    }

    #[test]
    fn sizes_read_well() {
        let bytes = [0, 1023, 1024, 46_758_048, 3 << 40].map(super::bytes);
        assert_eq!(bytes, ["0 bytes", "1023 bytes", "1.0 KiB", "44.6 MiB", "3.0 TiB"]);
    }
}

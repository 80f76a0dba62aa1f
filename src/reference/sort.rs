//! Prefix sums and sorting on the host.

use std::cmp::Ordering;

/// Sums in front of each element, or up to it.
#[must_use]
pub fn scan(x: &[f64], inclusive: bool) -> Vec<f64> {
    let mut sum = 0.0;
    let step = |v: &f64| {
        let before = sum;
        sum += v;
        if inclusive { sum } else { before }
    };
    x.iter().map(step).collect()
}

/// Order of numbers with NaN above all and zeros equal.
#[must_use]
pub fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// The indices that sort `x`, equal numbers in the order in which they came.
#[must_use]
pub fn argsort(x: &[f64], descending: bool) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..x.len()).collect();
    indices.sort_by(|&a, &b| if descending { order(x[b], x[a]) } else { order(x[a], x[b]) });
    indices
}

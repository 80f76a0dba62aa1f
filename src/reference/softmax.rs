//! Softmax and cross-entropy in f64, over the last axis.

use super::Array;

/// Each row of `x` through `f`, which fills a row of the result.
fn map_rows(x: &Array, f: impl Fn(&[f64]) -> Vec<f64>) -> Array {
    let n = x.shape.last().copied().unwrap_or(1).max(1);
    Array::new(&x.shape, x.data.chunks_exact(n).flat_map(f).collect())
}

fn log_sum_exp_of(row: &[f64]) -> f64 {
    let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + row.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
}

/// Softmax: `[.., n]` to the same shape.
#[must_use]
pub fn softmax(x: &Array) -> Array {
    map_rows(x, |row| {
        let lse = log_sum_exp_of(row);
        row.iter().map(|v| (v - lse).exp()).collect()
    })
}

/// Logarithm of the softmax: `[.., n]` to the same shape.
#[must_use]
pub fn log_softmax(x: &Array) -> Array {
    map_rows(x, |row| {
        let lse = log_sum_exp_of(row);
        row.iter().map(|v| v - lse).collect()
    })
}

/// `log sum e^x`: `[.., n]` to `[..]`.
///
/// # Panics
/// If `x` has no axis.
#[must_use]
pub fn log_sum_exp(x: &Array) -> Array {
    let (n, kept) = x.shape.split_last().expect("an axis");
    Array::new(kept, x.data.chunks_exact(*n).map(log_sum_exp_of).collect())
}

/// Cross-entropy of logits `[r, n]` against `1 - smoothing` on the label plus `smoothing / n` on every class: `[r]`.
///
/// # Panics
/// If the shapes do not fit or a label is not a class.
#[must_use]
pub fn cross_entropy(logits: &Array, labels: &[usize], smoothing: f64) -> Array {
    let n = logits.shape[1];
    let losses = logits.data.chunks_exact(n).zip(labels).map(|(row, label)| {
        let lse = log_sum_exp_of(row);
        let on_all = row.iter().map(|v| lse - v).sum::<f64>() / n as f64;
        (1.0 - smoothing) * (lse - row[*label]) + smoothing * on_all
    });
    Array::new(&[labels.len()], losses.collect())
}

/// Cross-entropy of logits `[r, n]` against distributions `[r, n]`: `[r]`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn cross_entropy_soft(logits: &Array, targets: &Array) -> Array {
    let n = logits.shape[1];
    let losses = logits.data.chunks_exact(n).zip(targets.data.chunks_exact(n)).map(|(row, targets)| {
        let lse = log_sum_exp_of(row);
        row.iter().zip(targets).map(|(v, t)| t * (lse - v)).sum()
    });
    Array::new(&logits.shape[..1], losses.collect())
}

/// Gradient of `x` through [`softmax`], from its result `out` and the gradient `d` of that, all `[.., n]`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn softmax_d_x(out: &Array, d: &Array) -> Array {
    let n = out.shape.last().copied().unwrap_or(1).max(1);
    let of_row = |(y, d): (&[f64], &[f64])| {
        let sum: f64 = y.iter().zip(d).map(|(y, d)| y * d).sum();
        y.iter().zip(d).map(|(y, d)| y * (d - sum)).collect::<Vec<_>>()
    };
    Array::new(&out.shape, out.data.chunks_exact(n).zip(d.data.chunks_exact(n)).flat_map(of_row).collect())
}

/// Gradient of the logits `[r, n]` of the sum of [`cross_entropy`].
///
/// # Panics
/// If the shapes do not fit or a label is not a class.
#[must_use]
pub fn cross_entropy_d_x(logits: &Array, labels: &[usize], smoothing: f64) -> Array {
    let n = logits.shape[1];
    let mut out = softmax(logits);
    for (row, label) in out.data.chunks_exact_mut(n).zip(labels) {
        row.iter_mut().for_each(|v| *v -= smoothing / n as f64);
        row[*label] -= 1.0 - smoothing;
    }
    out
}

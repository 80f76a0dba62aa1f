//! Reductions in f64.

use super::Array;

/// The elements over `axes` of each result through `f`, in row-major order of those axes; the axes left out of the
/// result, or of size 1 with `keep_dims`.
pub fn reduce(x: &Array, axes: &[usize], keep_dims: bool, f: impl Fn(&[f64]) -> f64) -> Array {
    let rank = x.shape.len();
    let sizes = |reduced: bool| -> Vec<usize> {
        (0..rank).map(|axis| if axes.contains(&axis) == reduced { x.shape[axis] } else { 1 }).collect()
    };
    let (kept, reduced) = (sizes(false), sizes(true));
    let mut out = Array::from_fn(&kept, |index| {
        let elements = Array::from_fn(&reduced, |inner| {
            let at: Vec<usize> = index.iter().zip(inner).map(|(i, j)| i + j).collect();
            x.at(&at)
        });
        f(&elements.data)
    });
    if !keep_dims {
        out.shape = (0..rank).filter(|axis| !axes.contains(axis)).map(|axis| x.shape[axis]).collect();
    }
    out
}

/// Sum.
#[must_use]
pub fn sum(values: &[f64]) -> f64 {
    values.iter().sum()
}

/// Mean.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    sum(values) / values.len() as f64
}

/// Mean square of the differences to the mean, or with `unbiased` their sum over the count less one.
#[must_use]
pub fn var(values: &[f64], unbiased: bool) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    squares / (values.len() as f64 - f64::from(u8::from(unbiased)))
}

/// Largest value; NaN if there is one.
#[must_use]
pub fn max(values: &[f64]) -> f64 {
    values.iter().copied().reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f64::NAN)
}

/// Smallest value; NaN if there is one.
#[must_use]
pub fn min(values: &[f64]) -> f64 {
    -max(&values.iter().map(|v| -v).collect::<Vec<_>>())
}

/// Place of the first value equal to `extreme`, or of the first NaN if it is one.
#[must_use]
pub fn place(values: &[f64], extreme: f64) -> f64 {
    values.iter().position(|v| *v == extreme || (v.is_nan() && extreme.is_nan())).map_or(f64::NAN, |i| i as f64)
}

//! Normalisation in f64.

use super::Array;

fn mean_and_var(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (mean, values.map(|v| (v - mean).powi(2)).sum::<f64>() / n)
}

/// Layer norm over the last axis: `x` `[.., n]`, `gain` and `bias` `[n]`, to the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn layer_norm(x: &Array, gain: Option<&Array>, bias: Option<&Array>, eps: f64) -> Array {
    let n = *x.shape.last().expect("an axis");
    let mut out = x.clone();
    for row in out.data.chunks_exact_mut(n.max(1)) {
        let (mean, var) = mean_and_var(row.iter().copied());
        for (c, v) in row.iter_mut().enumerate() {
            let normalised = (*v - mean) / (var + eps).sqrt();
            *v = normalised * gain.map_or(1.0, |g| g.data[c]) + bias.map_or(0.0, |b| b.data[c]);
        }
    }
    out
}

/// RMS norm over the last axis: `x` `[.., n]` and `gain` `[n]`, to the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn rms_norm(x: &Array, gain: Option<&Array>, eps: f64) -> Array {
    let n = *x.shape.last().expect("an axis");
    let mut out = x.clone();
    for row in out.data.chunks_exact_mut(n.max(1)) {
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
        for (c, v) in row.iter_mut().enumerate() {
            *v = *v / (mean_square + eps).sqrt() * gain.map_or(1.0, |g| g.data[c]);
        }
    }
    out
}

/// Group norm with channels last: `x` `[n, .., c]`, `gain` and `bias` `[c]`, to the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn group_norm(x: &Array, groups: usize, gain: &Array, bias: &Array, eps: f64) -> Array {
    let n_channels = *x.shape.last().expect("an axis");
    let per_group = n_channels / groups;
    let mut out = x.clone();
    for sample in out.data.chunks_exact_mut((x.data.len() / x.shape[0].max(1)).max(1)) {
        for group in 0..groups {
            let of_group = |i: &usize| i % n_channels / per_group == group;
            let (mean, var) = mean_and_var((0..sample.len()).filter(of_group).map(|i| sample[i]));
            for i in (0..sample.len()).filter(of_group) {
                let c = i % n_channels;
                sample[i] = (sample[i] - mean) / (var + eps).sqrt() * gain.data[c] + bias.data[c];
            }
        }
    }
    out
}

/// Batch norm by given statistics: `x` `[.., c]`, the others `[c]`, to the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn batch_norm(x: &Array, gain: &Array, bias: &Array, mean: &Array, var: &Array, eps: f64) -> Array {
    let n_channels = *x.shape.last().expect("an axis");
    let value = |(i, v): (usize, &f64)| {
        let c = i % n_channels;
        (v - mean.data[c]) / (var.data[c] + eps).sqrt() * gain.data[c] + bias.data[c]
    };
    Array::new(&x.shape, x.data.iter().enumerate().map(value).collect())
}

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

/// Means and population variances of the channels of `x` `[.., c]`: `[c]` each.
///
/// # Panics
/// If `x` has no axis or no element.
#[must_use]
pub fn channel_moments(x: &Array) -> (Array, Array) {
    let n_channels = *x.shape.last().expect("an axis");
    let of_channel = |c: usize| mean_and_var(x.data.iter().skip(c).step_by(n_channels).copied());
    let (means, vars) = (0..n_channels).map(of_channel).unzip();
    (Array::new(&[n_channels], means), Array::new(&[n_channels], vars))
}

/// Batch norm by the statistics of `x` itself: `x` `[.., c]`, `gain` and `bias` `[c]`, to the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn batch_norm_train(x: &Array, gain: &Array, bias: &Array, eps: f64) -> Array {
    let (mean, var) = channel_moments(x);
    batch_norm(x, gain, bias, &mean, &var, eps)
}

/// Gradient of `x` through [`batch_norm_train`] and a ReLU, from `d`, that of the result; all of the shape of `x`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn batch_norm_train_relu_d_x(x: &Array, gain: &Array, bias: &Array, d: &Array, eps: f64) -> Array {
    let (mean, var) = channel_moments(x);
    let n_channels = gain.data.len();
    let n = (x.data.len() / n_channels.max(1)) as f64;
    // The normalised x and the gradient before the ReLU.
    let pairs: Vec<(f64, f64)> = (x.data.iter().zip(&d.data).enumerate())
        .map(|(i, (v, d))| {
            let c = i % n_channels;
            let normalised = (v - mean.data[c]) / (var.data[c] + eps).sqrt();
            (normalised, if normalised * gain.data[c] + bias.data[c] > 0.0 { *d } else { 0.0 })
        })
        .collect();
    let mut sums = vec![(0.0, 0.0); n_channels];
    for (i, (normalised, d)) in pairs.iter().enumerate() {
        sums[i % n_channels].0 += d / n;
        sums[i % n_channels].1 += d * normalised / n;
    }
    let d_x = pairs.iter().enumerate().map(|(i, (normalised, d))| {
        let c = i % n_channels;
        gain.data[c] / (var.data[c] + eps).sqrt() * (d - sums[c].0 - normalised * sums[c].1)
    });
    Array::new(&x.shape, d_x.collect())
}

/// Gradient of `x` `[.., n]` through [`layer_norm`], from the gain `[n]` and `d`, the gradient of the result.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn layer_norm_d_x(x: &Array, gain: &Array, d: &Array, eps: f64) -> Array {
    let n = gain.data.len();
    let mut out = x.clone();
    for (row, d) in out.data.chunks_exact_mut(n).zip(d.data.chunks_exact(n)) {
        let (mean, var) = mean_and_var(row.iter().copied());
        let scale = 1.0 / (var + eps).sqrt();
        let of = |weight: &dyn Fn(f64) -> f64| {
            let terms = row.iter().zip(d).zip(&gain.data).map(|((v, d), g)| d * g * weight((v - mean) * scale));
            terms.sum::<f64>() / n as f64
        };
        let (pull, pull_x) = (of(&|_| 1.0), of(&|normalised| normalised));
        for ((v, d), g) in row.iter_mut().zip(d).zip(&gain.data) {
            *v = (d * g - pull - (*v - mean) * scale * pull_x) * scale;
        }
    }
    out
}

//! Pooling in f64.

use super::Array;
use crate::ops::conv::Conv2d;

/// Largest element of each window, images `[n, h, w, c]`; padding never wins.
///
/// # Panics
/// If the window does not fit.
#[must_use]
pub fn max_pool2d(x: &Array, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Array {
    windows(x, kernel, stride, padding, |values| {
        values.iter().copied().fold(f64::NEG_INFINITY, |best, v| if v > best || v.is_nan() { v } else { best })
    })
}

/// Mean of each window, images `[n, h, w, c]`, over the whole window or over what lies in the image.
///
/// # Panics
/// If the window does not fit.
#[must_use]
pub fn avg_pool2d(
    x: &Array,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    count_include_pad: bool,
) -> Array {
    windows(x, kernel, stride, padding, |values| {
        let count = if count_include_pad { kernel[0] * kernel[1] } else { values.len() };
        values.iter().sum::<f64>() / count as f64
    })
}

/// Mean over height and width: `[n, h, w, c]` to `[n, c]`.
#[must_use]
pub fn global_avg_pool(x: &Array) -> Array {
    let [h, w] = [x.shape[1], x.shape[2]];
    Array::from_fn(&[x.shape[0], x.shape[3]], |index| {
        let pixels = (0..h).flat_map(|y| (0..w).map(move |left| (y, left)));
        pixels.map(|(y, left)| x.at(&[index[0], y, left, index[1]])).sum::<f64>() / (h * w) as f64
    })
}

fn windows(x: &Array, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], f: impl Fn(&[f64]) -> f64) -> Array {
    let &[n, h, w, c] = x.shape.as_slice() else { panic!("x {:?} needs four axes", x.shape) };
    let conv = Conv2d { stride, padding, ..Conv2d::default() };
    let [ho, wo] = conv.out_size([h, w], kernel).unwrap_or_else(|error| panic!("{error}"));
    Array::from_fn(&[n, ho, wo, c], |index| {
        let range = |axis: usize, size: usize| {
            let start = index[axis + 1] * stride[axis];
            start.saturating_sub(padding[axis])..(start + kernel[axis]).saturating_sub(padding[axis]).min(size)
        };
        let mut values = Vec::new();
        for y in range(0, h) {
            for left in range(1, w) {
                values.push(x.at(&[index[0], y, left, index[3]]));
            }
        }
        f(&values)
    })
}

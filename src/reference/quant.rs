//! Matrices in 8 and 4 bits, in f64.

use super::Array;
use super::matmul;
use crate::ops::Act;

/// What a matrix becomes: `w ~ scale q`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The integers `[n_out, n_inner]`.
    pub integers: Array,
    /// The scales `[n_out, n_blocks]`.
    pub scales: Array,
    /// Inner indices of a block.
    pub block: usize,
}

/// The scale of a block whose largest magnitude is `largest`, with integers up to `steps`.
///
/// It is defined in f32, rounded to 15 bits: 0 below 2^-100, NaN from 2^127 on.
#[must_use]
pub fn scale(largest: f64, steps: u32) -> f64 {
    if largest.is_nan() || largest >= 2.0_f64.powi(127) {
        return f64::NAN;
    }
    if largest < 2.0_f64.powi(-100) {
        return 0.0;
    }
    let exact = (largest as f32 * (1.0 / steps as f32)).to_bits();
    f32::from_bits((exact + 0x100) & 0xffff_fe00).into()
}

/// `w` `[n_out, n_inner]`, numbers of f32, as integers up to `steps` with one scale for each `block` of a row.
///
/// # Panics
/// If `w` does not have two axes.
#[must_use]
pub fn quantize(w: &Array, steps: u32, block: usize) -> Quantized {
    let [n_out, n_inner] = w.shape[..] else { panic!("{:?} given, two axes wanted", w.shape) };
    let n_blocks = n_inner.div_ceil(block);
    let largest = |o: usize, b: usize| {
        let block = &w.data[o * n_inner + b * block..o * n_inner + n_inner.min((b + 1) * block)];
        block.iter().fold(0.0, |largest: f64, x| if x.is_nan() || x.abs() > largest { x.abs() } else { largest })
    };
    let scales = Array::from_fn(&[n_out, n_blocks], |at| scale(largest(at[0], at[1]), steps));
    let integers = Array::from_fn(&[n_out, n_inner], |at| {
        let scale = scales.at(&[at[0], at[1] / block]);
        if scale > 0.0 { (w.at(at) / scale).round_ties_even().clamp(-f64::from(steps), steps.into()) } else { 0.0 }
    });
    Quantized { integers, scales, block }
}

/// The numbers that the integers stand for, `[n_out, n_inner]`.
#[must_use]
pub fn dequantize(w: &Quantized) -> Array {
    Array::from_fn(&w.integers.shape, |at| w.integers.at(at) * w.scales.at(&[at[0], at[1] / w.block]))
}

/// `act(x w' + bias)`: `x` `[.., n_inner]`, `bias` `[n_out]`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn linear(x: &Array, w: &Quantized, bias: Option<&Array>, act: Act) -> Array {
    let w = dequantize(w);
    let turned = Array::from_fn(&[w.shape[1], w.shape[0]], |at| w.at(&[at[1], at[0]]));
    matmul::linear(x, &turned, bias, act)
}

/// The same with each row of `x` in 8 bits.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn linear_i8(x: &Array, w: &Quantized, bias: Option<&Array>, act: Act) -> Array {
    let n_inner = w.integers.shape[1];
    let n_rows = x.shape[..x.shape.len() - 1].iter().product();
    let rows = quantize(&x.reshaped(&[n_rows, n_inner]), 127, n_inner.max(1));
    linear(&dequantize(&rows).reshaped(&x.shape), w, bias, act)
}

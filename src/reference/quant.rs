//! Matrices in 8 and 4 bits, in f64.

use super::Array;
use super::matmul;
use crate::ops::Act;
use crate::ops::quant::{Bits, NF4};

/// What a matrix becomes: `w ~ scale q`.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// The multiples of the scales, integers or levels: `[n_out, n_inner]`.
    pub multiples: Array,
    /// The scales `[n_out, n_blocks]`.
    pub scales: Array,
    /// Inner indices of a block.
    pub block: usize,
    bits: Bits,
}

/// The scale of a block whose largest magnitude is `largest`.
///
/// It is defined in f32, for integers rounded to 15 bits: 0 below 2^-100, NaN from 2^127 on.
#[must_use]
pub fn scale(largest: f64, bits: Bits) -> f64 {
    if largest.is_nan() || largest >= 2.0_f64.powi(127) {
        return f64::NAN;
    }
    if largest < 2.0_f64.powi(-100) {
        return 0.0;
    }
    if bits == Bits::Nf4 {
        return largest;
    }
    let exact = (largest as f32 * (1.0 / bits.largest() as f32)).to_bits();
    f32::from_bits((exact + 0x100) & 0xffff_fe00).into()
}

/// The integer nearest to `w / scale`, ties to even, or the nearest level, which is defined by products in f32.
fn nearest(w: f64, scale: f64, bits: Bits) -> f64 {
    if bits != Bits::Nf4 {
        let largest = f64::from(bits.largest());
        return (w / scale).round_ties_even().clamp(-largest, largest);
    }
    let middle = |pair: &[f32]| ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
    let code = NF4.windows(2).filter(|pair| w as f32 > middle(pair) * scale as f32).count();
    NF4[code].into()
}

/// `w` `[n_out, n_inner]`, numbers of f32, in fewer bits with one scale for each `block` of a row.
///
/// # Panics
/// If `w` does not have two axes.
#[must_use]
pub fn quantize(w: &Array, bits: Bits, block: usize) -> Quantized {
    let [n_out, n_inner] = w.shape[..] else { panic!("{:?} given, two axes wanted", w.shape) };
    let n_blocks = n_inner.div_ceil(block);
    let largest = |o: usize, b: usize| {
        let block = &w.data[o * n_inner + b * block..o * n_inner + n_inner.min((b + 1) * block)];
        block.iter().fold(0.0, |largest: f64, x| if x.is_nan() || x.abs() > largest { x.abs() } else { largest })
    };
    let scales = Array::from_fn(&[n_out, n_blocks], |at| scale(largest(at[0], at[1]), bits));
    let multiples = Array::from_fn(&[n_out, n_inner], |at| {
        let scale = scales.at(&[at[0], at[1] / block]);
        if scale > 0.0 { nearest(w.at(at), scale, bits) } else { 0.0 }
    });
    Quantized { multiples, scales, block, bits }
}

/// The numbers that the multiples stand for, `[n_out, n_inner]`; products of levels are rounded to f32.
#[must_use]
pub fn dequantize(w: &Quantized) -> Array {
    Array::from_fn(&w.multiples.shape, |at| {
        let exact = w.multiples.at(at) * w.scales.at(&[at[0], at[1] / w.block]);
        if w.bits == Bits::Nf4 { f64::from(exact as f32) } else { exact }
    })
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
    let n_inner = w.multiples.shape[1];
    let n_rows = x.shape[..x.shape.len() - 1].iter().product();
    let rows = quantize(&x.reshaped(&[n_rows, n_inner]), Bits::Int8, n_inner.max(1));
    linear(&dequantize(&rows).reshaped(&x.shape), w, bias, act)
}

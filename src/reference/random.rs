//! Random tensors in f64, from the generator on the CPU.

use super::Array;
use crate::ops::random::Key;
use crate::philox::Philox;

/// The first `n` words of a key.
#[must_use]
pub fn bits(n: usize, key: Key) -> Vec<u32> {
    let mut draws = Philox::new(key.seed, key.stream, key.step);
    (0..n).map(|_| draws.next_u32()).collect()
}

fn units(n: usize, key: Key) -> Vec<f64> {
    let mut draws = Philox::new(key.seed, key.stream, key.step);
    (0..n).map(|_| f64::from(draws.uniform_f32())).collect()
}

/// Uniform in `[low, high)`.
#[must_use]
pub fn uniform(shape: &[usize], low: f64, high: f64, key: Key) -> Array {
    let data = units(shape.iter().product(), key).iter().map(|u| low + (high - low) * u).collect();
    Array::new(shape, data)
}

/// Normal, by Box-Muller: `u_0, u_1` give `sqrt(-2 ln(1 - u_0))` times the cosine and the sine of `2 pi u_1`.
#[must_use]
pub fn normal(shape: &[usize], mean: f64, std: f64, key: Key) -> Array {
    let n: usize = shape.iter().product();
    let mut data = Vec::with_capacity(n + 1);
    for pair in units(n.next_multiple_of(2), key).chunks_exact(2) {
        let (radius, angle) = ((-2.0 * (1.0 - pair[0]).ln()).sqrt(), std::f64::consts::TAU * pair[1]);
        data.extend([mean + std * radius * angle.cos(), mean + std * radius * angle.sin()]);
    }
    data.truncate(n);
    Array::new(shape, data)
}

/// The numbers below `n` sorted by 64 bits each: words `2 i` (high) and `2 i + 1` (low).
#[must_use]
pub fn permutation(n: usize, key: Key) -> Vec<u32> {
    let words = bits(2 * n, key);
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by_key(|&i| (words[2 * i as usize], words[2 * i as usize + 1]));
    order
}

/// 1 with probability `p`, else 0.
#[must_use]
pub fn bernoulli(shape: &[usize], p: f64, key: Key) -> Array {
    let data = units(shape.iter().product(), key).iter().map(|u| f64::from(u8::from(*u < p))).collect();
    Array::new(shape, data)
}

//! Elementwise maps in f64.

use super::Array;
use crate::ops::Act;

/// `f` of every element.
pub fn map(x: &Array, f: impl Fn(f64) -> f64) -> Array {
    Array::new(&x.shape, x.data.iter().map(|v| f(*v)).collect())
}

/// `f` of the elements of `a` and `b`, broadcast by NumPy's rule.
///
/// # Panics
/// If the shapes do not broadcast.
pub fn zip(a: &Array, b: &Array, f: impl Fn(f64, f64) -> f64) -> Array {
    let rank = a.shape.len().max(b.shape.len());
    let size = |x: &Array, axis: usize| (axis + x.shape.len()).checked_sub(rank).map_or(1, |i| x.shape[i]);
    let shape: Vec<usize> = (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (1, n) | (n, 1) => n,
            (m, n) => {
                assert_eq!(m, n, "{:?} and {:?} do not broadcast", a.shape, b.shape);
                m
            }
        })
        .collect();
    let pick = |x: &Array, index: &[usize]| {
        let own: Vec<usize> =
            index[rank - x.shape.len()..].iter().zip(&x.shape).map(|(i, n)| if *n == 1 { 0 } else { *i }).collect();
        x.at(&own)
    };
    Array::from_fn(&shape, |index| f(pick(a, index), pick(b, index)))
}

/// Error function to 1e-15, by its series below 3 and its continued fraction above.
#[must_use]
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let tail = (1..60).rev().fold(a, |tail, k| a + f64::from(k) / 2.0 / tail);
        1.0 - (-a * a).exp() / (tail * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

/// `x` through an activation.
#[must_use]
pub fn act(kind: Act, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match kind {
        Act::None => x,
        Act::Relu => x.max(0.0),
        Act::Relu6 => x.clamp(0.0, 6.0),
        Act::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Act::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
        Act::Silu => x * sigmoid(x),
        Act::Sigmoid => sigmoid(x),
        Act::Tanh => x.tanh(),
        Act::Hardswish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn erf_matches_published_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, want) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - want).abs() < 1e-10 && (erf(-x) + want).abs() < 1e-10, "{x}");
        }
        assert!((erf(2.999_999) - erf(3.000_001)).abs() < 1e-8 && (erf(3.5) - 0.999_999_256_901_6).abs() < 1e-12);
    }
}

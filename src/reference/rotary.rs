//! Rotary positions, in f64.

use super::Array;
use crate::ops::rotary::Style;

/// Pair `i` of each head turned by `position * base^(-2 i / d)`: `x` `[T, heads, d]`, one position to a token.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn rotate(x: &Array, positions: &[u32], base: f64, style: Style) -> Array {
    let [n_tokens, n_heads, d] = x.shape[..] else { panic!("{:?} given, three axes wanted", x.shape) };
    assert_eq!(positions.len(), n_tokens, "positions");
    let mut out = x.clone();
    for (t, position) in positions.iter().enumerate() {
        for (h, i) in (0..n_heads).flat_map(|h| (0..d / 2).map(move |i| (h, i))) {
            let (first, second) = match style {
                Style::Adjacent => (2 * i, 2 * i + 1),
                Style::Halves => (i, i + d / 2),
            };
            let (sine, cosine) = (f64::from(*position) * base.powf(-2.0 * i as f64 / d as f64)).sin_cos();
            let at = (t * n_heads + h) * d;
            let (a, b) = (x.data[at + first], x.data[at + second]);
            out.data[at + first] = a * cosine - b * sine;
            out.data[at + second] = a * sine + b * cosine;
        }
    }
    out
}

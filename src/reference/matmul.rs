//! Matrix products in f64.

use super::Array;
use super::elementwise::{act, map, zip};
use crate::ops::Act;

/// `a` `[.., m, k]` times `b` `[.., k, n]`, the batch axes broadcast by NumPy's rule.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn matmul(a: &Array, b: &Array) -> Array {
    let (batch_a, &[m, k]) = a.shape.split_last_chunk().expect("a has two axes");
    let (batch_b, &[k_b, n]) = b.shape.split_last_chunk().expect("b has two axes");
    assert_eq!(k, k_b, "{:?} and {:?} differ in k", a.shape, b.shape);
    // The number of each matrix among those of its operand, broadcast.
    let numbers = |batch: &[usize]| Array::new(batch, (0..batch.iter().product()).map(|i: usize| i as f64).collect());
    let (first, second) = (numbers(batch_a), numbers(batch_b));
    let (which_a, which_b) = (zip(&first, &second, |i, _| i), zip(&first, &second, |_, j| j));
    let mut data = Vec::with_capacity(which_a.data.len() * m * n);
    for (i, j) in which_a.data.iter().zip(&which_b.data) {
        let a = &a.data[*i as usize * m * k..][..m * k];
        let b = &b.data[*j as usize * k * n..][..k * n];
        for row in 0..m {
            let mut sums = vec![0.0; n];
            for l in 0..k {
                for (sum, b) in sums.iter_mut().zip(&b[l * n..][..n]) {
                    *sum += a[row * k + l] * b;
                }
            }
            data.extend(sums);
        }
    }
    Array::new(&[&which_a.shape[..], &[m, n]].concat(), data)
}

/// `act(x w + bias)`: `x` `[.., k]`, `w` `[k, n]`, `bias` `[n]`.
///
/// # Panics
/// If the shapes do not fit.
#[must_use]
pub fn linear(x: &Array, w: &Array, bias: Option<&Array>, kind: Act) -> Array {
    let (k, front) = x.shape.split_last().expect("x has an axis");
    let n_rows = front.iter().product();
    let out = matmul(&x.reshaped(&[n_rows, *k]), w);
    let out = bias.map_or(out.clone(), |bias| zip(&out, bias, |a, b| a + b));
    map(&out, |v| act(kind, v)).reshaped(&[front, &[w.shape[1]]].concat())
}

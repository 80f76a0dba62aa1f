//! The ring of a memory bank, and means over it in f64.

use super::Array;

/// The slot of row `row` of the batch `counter` of `batch` rows in a ring of `n_rows`: `(counter * batch + row) mod n_rows`.
#[must_use]
pub fn slot(counter: u32, row: usize, batch: usize, n_rows: usize) -> usize {
    ((u128::from(counter) * batch as u128 + row as u128) % n_rows as u128) as usize
}

/// The mean of `values` `[m, v]` by the softmax of the inner products of queries `[b, d]` with `keys` `[m, d]` over a
/// temperature, `[b, v]`, and the logarithm of the sum of their exponentials, `[b]`.
#[must_use]
pub fn softmax_mean(queries: &Array, keys: &Array, values: &Array, temperature: f64) -> (Array, Array) {
    let (b, d, n_cols) = (queries.shape[0], queries.shape[1], values.shape[1]);
    let (mut mean, mut lse) = (Array::new(&[b, n_cols], vec![0.0; b * n_cols]), Array::new(&[b], vec![0.0; b]));
    for i in 0..b {
        let query = &queries.data[i * d..(i + 1) * d];
        let product = |key: &[f64]| key.iter().zip(query).map(|(a, b)| a * b).sum::<f64>() / temperature;
        let z: Vec<f64> = keys.data.chunks_exact(d).map(product).collect();
        let top = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - top).exp()).sum();
        lse.data[i] = top + sum.ln();
        for (z, value) in z.iter().zip(values.data.chunks_exact(n_cols)) {
            let weight = (z - top).exp() / sum;
            mean.data[i * n_cols..].iter_mut().zip(value).for_each(|(mean, v)| *mean += weight * v);
        }
    }
    (mean, lse)
}

//! The k best of each row on the host.

use super::Array;

/// Values and indices of the `k` largest or smallest of each row, best first, ties to the lowest index, NaN above all.
///
/// # Panics
/// If the last axis is missing or shorter than `k`.
#[must_use]
pub fn topk(x: &Array, k: usize, largest: bool) -> (Array, Vec<u32>) {
    let (n, front) = x.shape.split_last().map(|(n, front)| (*n, front)).unwrap_or_else(|| panic!("x has no axis"));
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.data.chunks_exact(n.max(1)) {
        for &i in &super::sort::argsort(row, largest)[..k] {
            values.push(row[i]);
            indices.push(i as u32);
        }
    }
    (Array::new(&[front, &[k]].concat(), values), indices)
}

//! Attention in f64, one score after the other.

use super::Array;

/// Attention of packed sequences: output `[t, heads, d]` and log-sum-exp `[t, heads]` of `q [t, heads, d]` on
/// `k, v [t_k, kv_heads, d]`, for sequences of `lengths` queries and `kv_lengths` keys.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention(
    [q, k, v]: [&Array; 3],
    (lengths, kv_lengths): (&[usize], &[usize]),
    causal: bool,
    scale: f64,
) -> (Array, Array) {
    let (heads, d) = (q.shape[1], q.shape[2]);
    let shared = heads / k.shape[1].max(1);
    let mut out = Array::from_fn(&q.shape, |_| 0.0);
    let mut lse = Array::from_fn(&q.shape[..2], |_| -1e30);
    let (mut start, mut start_k) = (0, 0);
    for (n, n_k) in lengths.iter().zip(kv_lengths) {
        for (i, head) in (0..*n).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let row = |x: &Array, t: usize, head: usize| {
                let at = (t * x.shape[1] + head) * d;
                at..at + d
            };
            let seen = if causal { (*n_k).min(i + 1) } else { *n_k };
            if seen == 0 {
                continue;
            }
            let own = row(q, start + i, head);
            let score = |j: usize| {
                let key = row(k, start_k + j, head / shared);
                scale * q.data[own.clone()].iter().zip(&k.data[key]).map(|(a, b)| a * b).sum::<f64>()
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            lse.data[(start + i) * heads + head] = most + sum.ln();
            for (j, s) in scores.iter().enumerate() {
                let value = row(v, start_k + j, head / shared);
                for (o, x) in out.data[own.clone()].iter_mut().zip(&v.data[value]) {
                    *o += (s - most).exp() / sum * x;
                }
            }
        }
        start += n;
        start_k += n_k;
    }
    (out, lse)
}

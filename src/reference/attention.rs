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

/// The gradients of `q`, `k` and `v` of [`attention`], for the gradient `d_out` of its output.
///
/// # Panics
/// If the shapes do not fit.
pub fn attention_backward(
    [q, k, v]: [&Array; 3],
    d_out: &Array,
    (lengths, kv_lengths): (&[usize], &[usize]),
    causal: bool,
    scale: f64,
) -> [Array; 3] {
    let (out, lse) = attention([q, k, v], (lengths, kv_lengths), causal, scale);
    let (heads, d) = (q.shape[1], q.shape[2]);
    let shared = heads / k.shape[1].max(1);
    let [mut d_q, mut d_k, mut d_v] = [q, k, v].map(|x| Array::from_fn(&x.shape, |_| 0.0));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |to: &mut [f64], x: &[f64], w: f64| to.iter_mut().zip(x).for_each(|(to, x)| *to += w * x);
    let (mut start, mut start_k) = (0, 0);
    for (n, n_k) in lengths.iter().zip(kv_lengths) {
        for (i, head) in (0..*n).flat_map(|i| (0..heads).map(move |head| (i, head))) {
            let row = (start + i) * heads + head;
            let own = row * d..(row + 1) * d;
            let flow = dot(&d_out.data[own.clone()], &out.data[own.clone()]);
            for j in 0..if causal { (*n_k).min(i + 1) } else { *n_k } {
                let key = (start_k + j) * k.shape[1] + head / shared;
                let key = key * d..(key + 1) * d;
                let p = (scale * dot(&q.data[own.clone()], &k.data[key.clone()]) - lse.data[row]).exp();
                let d_score = scale * p * (dot(&d_out.data[own.clone()], &v.data[key.clone()]) - flow);
                add(&mut d_q.data[own.clone()], &k.data[key.clone()], d_score);
                add(&mut d_k.data[key.clone()], &q.data[own.clone()], d_score);
                add(&mut d_v.data[key], &d_out.data[own.clone()], p);
            }
        }
        start += n;
        start_k += n_k;
    }
    [d_q, d_k, d_v]
}

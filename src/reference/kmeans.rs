//! K-means in f64.

use super::{Array, random};
use crate::ops::random::Key;
use crate::philox::Philox;

/// The nearest of `centres` `[k, d]` of each row of `data` `[n, d]`, of equal ones the first.
#[must_use]
pub fn assign(data: &Array, centres: &Array) -> Vec<u32> {
    let d = data.shape[1];
    let nearest = |row: &[f64]| {
        let distance = |centre: &[f64]| row.iter().zip(centre).map(|(x, c)| (x - c) * (x - c)).sum::<f64>();
        let distances = centres.data.chunks_exact(d).map(distance).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(i, _)| i as u32)
    };
    data.data.chunks_exact(d).map(nearest).collect()
}

/// Lloyd's rounds from `k` rows at random: centres and labels. Empty clusters start anew at a row drawn by the key, element
/// `2^34 (round + 1) + cluster`.
#[must_use]
pub fn kmeans(data: &Array, k: usize, rounds: usize, key: Key) -> (Array, Vec<u32>) {
    let (n, d) = (data.shape[0], data.shape[1]);
    let row = |i: u32| &data.data[i as usize * d..(i as usize + 1) * d];
    let first = random::permutation(n, key);
    let mut centres = Array::new(&[k, d], first[..k].iter().flat_map(|i| row(*i)).copied().collect());
    for round in 0..rounds as u64 {
        let labels = assign(data, &centres);
        for (cluster, centre) in centres.data.chunks_exact_mut(d).enumerate() {
            let own: Vec<u32> = (0..n as u32).filter(|i| labels[*i as usize] as usize == cluster).collect();
            if own.is_empty() {
                let mut draws =
                    Philox::new(key.seed, key.stream, key.step).at((round + 1) * (1 << 34) + cluster as u64);
                centre.copy_from_slice(row(draws.below(n as u32)));
            } else {
                for (j, c) in centre.iter_mut().enumerate() {
                    *c = own.iter().map(|i| row(*i)[j]).sum::<f64>() / own.len() as f64;
                }
            }
        }
    }
    let labels = assign(data, &centres);
    (centres, labels)
}

use crate::bench::{Case, Level, noise, worst};
use crate::ops::kmeans::{assign, kmeans};
use crate::ops::random::Key;
use crate::runtime::Runtime;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::rc::Rc;

/// Rows, their width, clusters.
const SHAPES: &[(usize, usize, usize)] = &[(4096, 64, 128), (10_000, 128, 1000), (50_000, 128, 100)];
const ROUNDS: usize = 2;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(90, 8, 7)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for &(n, d, k) in shapes {
        let (data, host) = noise(runtime, &[n, d], 1)?;
        let host = Rc::new(host);
        let key = Key::new(1, 0, 0);
        let flops = |rounds: usize| 2 * (rounds * n * k * d) as u64;
        // How much further than the nearest centre some rows are from theirs.
        let further = move |centres: &[f32], labels: &[u32]| {
            let distance = |row: usize, c: usize| -> f64 {
                let centre = centres[c * d..][..d].iter().map(|c| f64::from(*c));
                host.data[row * d..][..d].iter().zip(centre).map(|(x, c)| (x - c) * (x - c)).sum()
            };
            let rows = (0..n).step_by((n / 40).max(1)).chain([n - 1]);
            let excess = |row: usize| {
                let least = (0..k).map(|c| distance(row, c)).fold(f64::INFINITY, f64::min);
                distance(row, labels[row] as usize) - least
            };
            worst(rows.map(excess))
        };
        let wrong = |what: &str| Error::Failed(format!("kmeans: {what}"));
        let (of_data, of_check) = (data.clone(), further.clone());
        cases.push(
            Case::new(
                "kmeans/kmeans",
                format!("{n}x{d}, k {k}, {ROUNDS} rounds"),
                {
                    let data = data.clone();
                    move || Ok(kmeans(&data, k, ROUNDS, key)?.centres)
                },
                move |out| {
                    let labels = assign(&of_data, out)?.to_vec::<u32>()?;
                    if labels.iter().any(|label| *label as usize >= k) {
                        return Err(wrong("a label is no cluster"));
                    }
                    Ok(of_check(&out.to_vec::<f32>()?, &labels))
                },
            )
            .cost(flops(ROUNDS + 1), (4 * n * d * (2 * ROUNDS + 1)) as u64)
            // Of sums of some hundred squares below 4.
            .tolerance(1e-4),
        );
        let centres = data.slice(0, 0..k)?.contiguous()?;
        let at = centres.to_vec::<f32>()?;
        cases.push(
            Case::new(
                "kmeans/assign",
                format!("{n}x{d}, k {k}"),
                move || assign(&data, &centres),
                move |out: &Tensor| Ok(further(&at, &out.to_vec::<u32>()?)),
            )
            .cost(flops(1), (4 * n * d) as u64)
            .tolerance(1e-4),
        );
    }
    Ok(cases)
}

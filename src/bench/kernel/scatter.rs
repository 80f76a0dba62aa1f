use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::scatter::scatter_add;
use crate::runtime::Runtime;
use crate::tensor::Tensor;

/// Rows, their width, rows of the sum: an embedding, positions shared by a batch, and one row for all.
const SHAPES: &[(usize, usize, usize)] =
    &[(12_608, 192, 197), (4096, 768, 4096), (65_536, 64, 65_536), (65_536, 64, 1)];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(203, 24, 17), (64, 5, 1)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for (seed, &(n, d, n_rows)) in shapes.iter().enumerate() {
        let (x, want) = noise(runtime, &[n, d], seed as u64)?;
        let picked: Vec<u32> = (0..n).map(|i| (i * 7919 + 13) as u32 % n_rows as u32).collect();
        let ids = Tensor::from_slice(runtime, &picked, &[n])?;
        cases.push(
            Case::new(
                "scatter/add",
                format!("{n}x{d} to {n_rows}"),
                move || scatter_add(&x, 0, &ids, n_rows),
                move |out| {
                    let got = out.to_vec::<f32>()?;
                    let sum = |row: usize, column: usize| -> f64 {
                        let of_row = (0..n).filter(|i| picked[*i] as usize == row);
                        of_row.map(|i| want.data[i * d + column]).sum()
                    };
                    let points = (0..50).map(|i| (i * 131 % n_rows, i * 17 % d));
                    Ok(worst(points.map(|(row, column)| f64::from(got[row * d + column]) - sum(row, column))))
                },
            )
            .cost((n * d) as u64, (4 * d * (n + n_rows) + 4 * n) as u64)
            // Sums of at most 65,536 numbers below 1 reach some hundreds.
            .tolerance(2e-3),
        );
    }
    Ok(cases)
}

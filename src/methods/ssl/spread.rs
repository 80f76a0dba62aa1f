//! Whether features have collapsed: how far they spread over the sphere, and over how many directions.

use nalgebra::DMatrix;

use crate::ops::elementwise::cast;
use crate::ops::gather::index_select;
use crate::{DType, Error, Result, Tensor};

/// Rows looked at, at most, where the covariance is `d` by `d`.
const MOST_ROWS: usize = 2048;
/// Longest features whose covariance is taken; of longer ones the products of so many rows have the same spectrum.
const MOST_SIDE: usize = 512;
/// [`Spread::collapsed`] below these. Sound training stays above 0.6 (measured on mean shift at the size of a test); 0.2 is a
/// mean cosine of 0.96 between any two rows.
const LEAST_SPREAD: f64 = 0.2;
const LEAST_RANK: f64 = 2.0;
/// [`Spread::features_collapsed`] below this. Features behind a ReLU share a large mean: untrained networks came to 0.22 to 0.60
/// with running statistics of their own, to 0.02 to 0.6 with those they start from.
const LEAST_SPREAD_OF_FEATURES: f64 = 0.01;

/// How features of length 1 spread.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Spread {
    /// Mean over the dimensions of the standard deviation, times `sqrt(d)`: 1 for features all over the sphere, 0 where all are
    /// equal (Chen and He 2021, arXiv 2011.10566, figure 2).
    pub spread: f64,
    /// Exponential of the entropy of the covariance's eigenvalues, which are made to sum to 1 (Roy and Vetterli 2007): the
    /// number of directions that the features take up, 0 where all are equal.
    pub effective_rank: f64,
}

impl Spread {
    /// Of features or rows of a memory bank, `[m, d]` of a float type, which are made to have length 1. Up to 2,048 rows are
    /// looked at, evenly spaced, or 512 where rows are longer than 512: so no effective rank passes 512. Rows of zeros count
    /// as they are; where there are fewer than two rows, nothing spreads.
    ///
    /// # Errors
    /// [`Error::Shape`] unless it has two axes, [`Error::DType`] unless it is of a float type.
    pub fn of(rows: &Tensor) -> Result<Self> {
        const OP: &str = "spread";
        let &[m, d] = rows.shape() else {
            return Err(Error::shape(OP, format!("{:?} given, [m, d] wanted", rows.shape())));
        };
        if !rows.dtype().is_float() {
            return Err(Error::dtype(OP, format!("{} given, a float type wanted", rows.dtype())));
        }
        let taken = taken(m, d);
        if taken.len() == m {
            return Ok(Self::of_rows(&cast(rows, DType::F32)?.to_vec()?, d));
        }
        let ids = Tensor::from_slice(rows.runtime(), &taken, &[taken.len()])?;
        Ok(Self::of_rows(&cast(&index_select(&rows.detach(), 0, &ids)?, DType::F32)?.to_vec()?, d))
    }

    /// As [`Spread::of`], of rows of `d` numbers on the host; what does not fill a row is left out.
    #[must_use]
    pub fn of_rows(rows: &[f32], d: usize) -> Self {
        let all: Vec<&[f32]> = if d == 0 { Vec::new() } else { rows.chunks_exact(d).collect() };
        let rows: Vec<Vec<f64>> = taken(all.len(), d).into_iter().map(|i| unit(all[i as usize])).collect();
        let m = rows.len();
        if m < 2 {
            return Self { spread: 0.0, effective_rank: 0.0 };
        }
        let mut x = DMatrix::from_fn(m, d, |i, j| rows[i][j]);
        let mut spread = 0.0;
        for mut column in x.column_iter_mut() {
            let mean = column.mean();
            column.add_scalar_mut(-mean);
            spread += (column.norm_squared() / m as f64).sqrt();
        }
        let spread = spread / (d as f64).sqrt();
        let x_t = x.transpose();
        // The eigenvalues that are not 0 are the same on either side.
        let products = if d <= m { &x_t * &x } else { &x * &x_t };
        Self { spread, effective_rank: effective_rank(&products) }
    }

    /// Whether what a head puts out, targets or rows of a memory bank, has collapsed: it spreads less than 0.2, or over less
    /// than two directions. Also of what is no number.
    #[must_use]
    pub fn collapsed(&self) -> bool {
        self.is_below(LEAST_SPREAD)
    }

    /// Whether a backbone's features have: they spread less than 0.01, or over less than two directions. Also of what is no
    /// number.
    #[must_use]
    pub fn features_collapsed(&self) -> bool {
        self.is_below(LEAST_SPREAD_OF_FEATURES)
    }

    fn is_below(&self, least: f64) -> bool {
        !(self.spread >= least && self.effective_rank >= LEAST_RANK)
    }
}

/// The rows that are looked at, of `m` of length `d`.
fn taken(m: usize, d: usize) -> Vec<u32> {
    evenly(m, if d > MOST_SIDE { MOST_SIDE } else { MOST_ROWS })
}

/// Up to `most` of `n` numbers, evenly spaced.
pub(super) fn evenly(n: usize, most: usize) -> Vec<u32> {
    let taken = n.min(most);
    (0..taken).map(|i| (i * n / taken) as u32).collect()
}

/// The row with length 1.
pub(super) fn unit(row: &[f32]) -> Vec<f64> {
    let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    row.iter().map(|v| if length == 0.0 { 0.0 } else { f64::from(*v) / length }).collect()
}

/// Exponential of the entropy of the eigenvalues, as shares of their sum.
fn effective_rank(products: &DMatrix<f64>) -> f64 {
    let trace = products.trace();
    if trace.is_nan() || trace <= 0.0 {
        return if trace == 0.0 { 0.0 } else { f64::NAN };
    }
    // Scaled first, as rounding leaves the smallest a little below 0.
    let shares = (products / trace).symmetric_eigenvalues();
    let entropy: f64 = shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.ln()).sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Philox;

    /// `n` times plus and minus the first `k` unit vectors of `d`, each of another length.
    fn axes(n: usize, k: usize, d: usize) -> Vec<f32> {
        let row = |i: usize| {
            let mut row = vec![0.0; d];
            row[i / 2 % k] = (1.0 + i as f32) * [1.0, -1.0][i % 2];
            row
        };
        (0..2 * k * n).flat_map(row).collect()
    }

    #[test]
    fn directions_are_counted_on_either_side() {
        // Fewer rows than numbers in a row, and more.
        for n in [1, 7] {
            for (k, d) in [(8, 8), (3, 8), (3, 700), (1, 8)] {
                let got = Spread::of_rows(&axes(n, k, d), d);
                let want = k as f64 / d as f64 * (d as f64 / k as f64).sqrt();
                assert!((got.spread - want).abs() < 1e-9, "{k} of {d}: {got:?}, {want} wanted");
                assert!((got.effective_rank - k as f64).abs() < 1e-6, "{k} of {d}: {got:?}");
                assert_eq!(got.collapsed(), k == 1 || d == 700);
                assert_eq!(got.features_collapsed(), k == 1);
            }
        }
        // Two directions, one with four times the variance of the other: eigenvalues 0.8 and 0.2.
        let rows: Vec<f32> = (0..10)
            .flat_map(|i| if i < 8 { [1.0 - (i % 2 * 2) as f32, 0.0] } else { [0.0, 17.0 - 2.0 * i as f32] })
            .collect();
        let want = (-0.8 * 0.8_f64.ln() - 0.2 * 0.2_f64.ln()).exp();
        assert!((Spread::of_rows(&rows, 2).effective_rank - want).abs() < 1e-9);
    }

    #[test]
    fn what_is_equal_or_no_number_has_collapsed() {
        let mut draws = Philox::new(0, 900, 0);
        let mut noise = move || 2.0 * draws.uniform_f32() - 1.0;
        let random: Vec<f32> = (0..500 * 64).map(|_| noise()).collect();
        let spread = Spread::of_rows(&random, 64);
        assert!(spread.spread > 0.98 && spread.effective_rank > 55.0 && !spread.collapsed(), "{spread:?}");
        // Nearly constant: many directions, but all of them small.
        for (size, collapsed) in [(0.0, true), (1e-3, true), (0.1, false)] {
            let rows: Vec<f32> = random.iter().enumerate().map(|(i, v)| (i % 64) as f32 / 64.0 + size * v).collect();
            let spread = Spread::of_rows(&rows, 64);
            assert!(spread.collapsed() && spread.features_collapsed() == collapsed, "{spread:?}");
        }
        for rows in [&[][..], &[1.0; 64], &[0.0; 640], &[f32::NAN; 640], &[f32::INFINITY; 640]] {
            let spread = Spread::of_rows(rows, 64);
            assert!(spread.collapsed() && spread.features_collapsed(), "{spread:?}");
        }
        assert!(Spread::of_rows(&[1.0; 8], 0).collapsed());
    }

    #[test]
    fn rows_are_taken_from_all_over() {
        assert_eq!(taken(3, 5), [0, 1, 2]);
        for (m, d, n) in [(10_000, 512, 2048), (10_000, 513, 512), (2049, 8, 2048)] {
            let taken = taken(m, d);
            assert_eq!((taken.len(), taken[0]), (n, 0));
            assert!(taken.windows(2).all(|w| w[0] < w[1]) && taken[n - 1] as usize >= m - m.div_ceil(n));
        }
    }
}

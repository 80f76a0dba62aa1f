//! A map of features in the plane.

use bhtsne::tSNE;
use nalgebra::{DMatrix, SymmetricEigen};

use super::features::Features;
use super::spread::{evenly, unit};
use crate::report::Points;
use crate::{Error, Result};

/// Features on a map at most.
const MOST: usize = 1000;
/// Principal components that neighbourhoods are looked for in.
const COMPONENTS: usize = 50;
/// Neighbours that a point cares for, where there are enough.
const PERPLEXITY: f64 = 30.0;
/// Deviation of the first component at the start: small, as in van der Maaten and Hinton's code, so that the start says in
/// which directions to go, not how far.
const START: f64 = 1e-4;
/// Steps of descent.
const STEPS: usize = 750;

/// Where features lie on a map of the plane whose distances mean something between neighbours alone.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FeatureMap {
    /// The images that are on it.
    pub images: Vec<u32>,
    /// Their classes.
    pub labels: Vec<u32>,
    /// Their places.
    pub points: Vec<[f64; 2]>,
}

impl FeatureMap {
    /// Lays out up to 1,000 features, evenly spaced over all, made to have length 1: the first 50 principal components, then
    /// t-SNE (van der Maaten and Hinton 2008) with perplexity 30, started from the first two (Kobak and Linderman 2021). The
    /// same features give the same map. Fewer than eight features stay at their principal components.
    ///
    /// # Errors
    /// [`Error::Failed`] if the features are no numbers or there is no thread to work on; as [`crate::Tensor::to_vec`].
    pub fn of(features: &Features) -> Result<Self> {
        let images = evenly(features.len(), MOST);
        let chosen = features.subset(&images)?;
        let rows = chosen.values().to_vec::<f32>()?;
        if !rows.iter().all(|v| v.is_finite()) {
            return Err(Error::Failed("a map of features that are no numbers".into()));
        }
        let components = principal(&rows, chosen.dim());
        let points = if images.len() < 8 { plane(&components) } else { neighbourhoods(&components)? };
        Ok(Self { images, labels: chosen.labels().to_vec(), points })
    }

    /// The map as a chart, for classes of these names.
    #[must_use]
    pub fn chart(&self, title: &str, class_names: &[String]) -> Points {
        let mut chart = Points::new(title);
        if class_names.is_empty() {
            chart.group("images", self.points.iter().map(|[x, y]| (*x, *y)));
        }
        for (class, name) in class_names.iter().enumerate() {
            let own = self.labels.iter().zip(&self.points).filter(|(label, _)| **label as usize == class);
            chart.group(name, own.map(|(_, [x, y])| (*x, *y)));
        }
        chart
    }
}

/// Up to [`COMPONENTS`] principal components of rows of `d` numbers that are made to have length 1: `[n][components]`, largest
/// first.
fn principal(rows: &[f32], d: usize) -> Vec<Vec<f64>> {
    let rows: Vec<Vec<f64>> = rows.chunks_exact(d).map(unit).collect();
    let n = rows.len();
    let mut x = DMatrix::from_fn(n, d, |i, j| rows[i][j]);
    for mut column in x.column_iter_mut() {
        let mean = column.mean();
        column.add_scalar_mut(-mean);
    }
    let x_t = x.transpose();
    // On the smaller side; of products between rows the eigenvectors are the components themselves, up to their size.
    let by_rows = n < d;
    let eigen = SymmetricEigen::new(if by_rows { &x * &x_t } else { &x_t * &x });
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    order.truncate(COMPONENTS);
    let vectors = eigen.eigenvectors.select_columns(&order);
    let mut components = if by_rows { vectors } else { &x * vectors };
    for (mut column, i) in components.column_iter_mut().zip(&order) {
        if by_rows {
            column.scale_mut(eigen.eigenvalues[*i].max(0.0).sqrt());
        }
        // An eigenvector has no sign of its own: the largest goes up.
        if column[column.iamax()] < 0.0 {
            column.neg_mut();
        }
    }
    components.row_iter().map(|row| row.iter().copied().collect()).collect()
}

/// The first two components.
fn plane(components: &[Vec<f64>]) -> Vec<[f64; 2]> {
    let at = |row: &Vec<f64>, i: usize| row.get(i).copied().unwrap_or(0.0);
    components.iter().map(|row| [at(row, 0), at(row, 1)]).collect()
}

/// t-SNE from the first two components.
fn neighbourhoods(components: &[Vec<f64>]) -> Result<Vec<[f64; 2]>> {
    let n = components.len();
    let start = plane(components);
    let deviation = (start.iter().map(|[x, _]| x * x).sum::<f64>() / n as f64).sqrt();
    let scale = if deviation > 0.0 { START / deviation } else { 0.0 };
    let start: Vec<f64> = start.iter().flatten().map(|v| scale * v).collect();
    let distance = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    // Sums over several threads have no fixed order, and a descent makes much of the last bit.
    let thread = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let thread = thread.map_err(|e| Error::Failed(format!("a map of features: {e}")))?;
    let places = thread.install(|| {
        let mut descent: tSNE<'_, f64, Vec<f64>> = tSNE::new(components);
        descent.perplexity(PERPLEXITY.min((n - 1) as f64 / 3.0)).epochs(STEPS).initial_embedding(start);
        descent.exact(distance).embedding()
    });
    Ok(places.chunks_exact(2).map(|p| [p[0], p[1]]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::methods::ssl::tests::{features, runtime};

    #[test]
    fn components_keep_distances_and_come_by_size() {
        // On either side: fewer rows than numbers in a row, and more.
        for (n, d) in [(6, 9), (30, 5)] {
            let rows: Vec<f32> =
                (0..n * d).map(|i| ((i * i % 101) as f32 * 0.7).sin() + if i % d == 0 { 2.0 } else { 0.0 }).collect();
            let components = principal(&rows, d);
            let units: Vec<Vec<f64>> = rows.chunks_exact(d).map(unit).collect();
            let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            for i in 0..n {
                for j in 0..n {
                    let (got, want) = (distance(&components[i], &components[j]), distance(&units[i], &units[j]));
                    assert!((got - want).abs() < 1e-9, "{i} and {j} of {n} x {d}: {got}, {want} wanted");
                }
            }
            let size = |c: usize| components.iter().map(|row| row[c] * row[c]).sum::<f64>();
            assert!((1..components[0].len()).all(|c| size(c) <= size(c - 1) + 1e-12));
            assert!((0..n).any(|i| components[i][0] == components.iter().map(|row| row[0].abs()).fold(0.0, f64::max)));
        }
    }

    #[test]
    fn classes_lie_together_and_maps_repeat() {
        let Some(runtime) = runtime() else { return };
        let of = features(&runtime, 120, 16, 3, 0.5, 0);
        let map = FeatureMap::of(&of).unwrap();
        assert_eq!(map.images, (0..120).collect::<Vec<_>>());
        assert_eq!(map.labels, of.labels());
        let nearest = |i: usize| {
            let distance = |j: usize| (0..2).map(|k| (map.points[i][k] - map.points[j][k]).powi(2)).sum::<f64>();
            (0..120).filter(|j| *j != i).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap()
        };
        let right = (0..120).filter(|i| map.labels[nearest(*i)] == map.labels[*i]).count();
        assert!(right >= 118, "{right} of 120 beside one of their class");
        let far = map.points.iter().flatten().fold(0.0, |far: f64, v| far.max(v.abs()));
        assert!(far > 1.0, "nothing moved: {far}");
        assert_eq!(FeatureMap::of(&of).unwrap(), map);
    }

    #[test]
    fn few_or_equal_features_have_a_map_too() {
        let Some(runtime) = runtime() else { return };
        for n in [1, 2, 7, 8, 9, 40] {
            for equal in [false, true] {
                let value = |i: usize| if equal { 0.5 } else { ((i * i % 17) as f32).sin() };
                let values: Vec<f32> = (0..n * 3).map(value).collect();
                let values = Tensor::from_slice(&runtime, &values, &[n, 3]).unwrap();
                let map = FeatureMap::of(&Features::new(values, vec![0; n], 1).unwrap()).unwrap();
                assert_eq!(map.points.len(), n);
                assert!(map.points.iter().flatten().all(|v| v.is_finite()), "{n}: {:?}", map.points);
            }
        }
        let values = Tensor::from_slice(&runtime, &[f32::NAN; 30], &[10, 3]).unwrap();
        assert!(FeatureMap::of(&Features::new(values, vec![0; 10], 1).unwrap()).is_err());
    }
}

//! Low-rank changes fitted by mixtures of random bases: alternating least squares, both factors' bases drawn where they are used.
//!
//! With one factor `A` held, `A B(beta)` is linear in the other one's coefficients. Their normal equations are solved by
//! conjugate gradients, whose products are one pass that forms and one that projects, for all layers at once; what lies between the
//! passes are matrices of the rank's size on the host, in f64.

use nalgebra::DMatrix;

use super::peft::LoraLayer;
use crate::ops::basis::{Law, Mixture, Slot, Tag};
use crate::{DType, Error, Result, Runtime, Tensor};

/// Rounds of both factors; more change the third digit of the error.
const ROUNDS: usize = 4;
/// Steps of conjugate gradients for a factor in a round, and before the first.
const STEPS: usize = 12;
const FIRST_STEPS: usize = 30;

/// A layer's change `p q`, with its singular values.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `[n_in, r]`, the factor of the product in it.
    p: DMatrix<f64>,
    /// `[r, n_out]`
    q: DMatrix<f64>,
    /// Left singular vectors, each times the root of its value: `[n_in, r]`.
    left: DMatrix<f64>,
    /// Singular values, falling.
    pub(super) singular: Vec<f64>,
}

impl Target {
    pub(super) fn new(layer: &LoraLayer) -> Result<Self> {
        let [a, b] = layer.to_device();
        let of =
            |rows, cols, values: &[f32]| DMatrix::from_row_iterator(rows, cols, values.iter().map(|v| f64::from(*v)));
        let p = of(layer.n_in, layer.rank, &a) * f64::from(layer.scale);
        let q = of(layer.rank, layer.n_out, &b);
        let (front, back) = (p.clone().qr(), q.transpose().qr());
        let svd = (front.r() * back.r().transpose()).svd(true, false);
        let Some(u) = svd.u else { return Err(Error::Failed(format!("{}: no singular vectors", layer.name))) };
        let mut order: Vec<usize> = (0..svd.singular_values.len()).collect();
        order.sort_by(|&i, &j| svd.singular_values[j].total_cmp(&svd.singular_values[i]));
        let singular: Vec<f64> = order.iter().map(|&i| svd.singular_values[i]).collect();
        let mut left = front.q() * u.select_columns(&order);
        left.column_iter_mut().zip(&singular).for_each(|(mut column, value)| column *= value.sqrt());
        Ok(Self { p, q, left, singular })
    }

    /// The square of its Frobenius norm.
    pub(super) fn square(&self) -> f64 {
        self.singular.iter().map(|s| s * s).sum()
    }

    /// The square of what `a b` lacks of it.
    fn lack(&self, a: &DMatrix<f64>, b: &DMatrix<f64>) -> f64 {
        let own = (a.tr_mul(a)).component_mul(&(b * b.transpose())).sum();
        let both = (a.tr_mul(&self.p)).component_mul(&(b * self.q.transpose())).sum();
        (own - 2.0 * both + self.square()).max(0.0)
    }
}

/// One factor of every layer.
struct Side {
    mixture: Mixture,
    k: usize,
    shapes: Vec<[usize; 2]>,
    coefficients: Tensor,
    formed: Tensor,
}

impl Side {
    fn new(runtime: &Runtime, (law, seed, k): (Law, u64, usize), tag: Tag, shapes: Vec<[usize; 2]>) -> Result<Self> {
        // Entries of the mixture are then about as large as coefficients.
        let scale = (1.0 / (k as f64 * law.variance(k))).sqrt() as f32;
        let mut out = 0;
        let slots: Vec<Slot> = shapes
            .iter()
            .enumerate()
            .map(|(i, [rows, cols])| {
                let len = rows * cols;
                out += len;
                Slot { len, out: out - len, first: i * k, k, layer: i as u32, tag, scale, fixed: 0.0 }
            })
            .collect();
        Ok(Self {
            mixture: Mixture::new(runtime, law, seed, &slots)?,
            k,
            coefficients: Tensor::zeros(runtime, &[shapes.len() * k], DType::F32)?,
            formed: Tensor::zeros(runtime, &[out], DType::F32)?,
            shapes,
        })
    }

    fn form(&self, coefficients: &[f64]) -> Result<Vec<DMatrix<f64>>> {
        self.coefficients.write(&coefficients.iter().map(|c| *c as f32).collect::<Vec<_>>())?;
        self.mixture.form(&self.coefficients, &self.formed)?;
        let values = self.formed.to_vec::<f32>()?;
        let mut rest = values.iter().map(|v| f64::from(*v));
        Ok(self
            .shapes
            .iter()
            .map(|[rows, cols]| DMatrix::from_row_iterator(*rows, *cols, rest.by_ref().take(rows * cols)))
            .collect())
    }

    fn project(&self, matrices: &[DMatrix<f64>]) -> Result<Vec<f64>> {
        // Row by row, as they are formed.
        let values: Vec<f32> =
            matrices.iter().flat_map(|m| m.transpose().iter().map(|v| *v as f32).collect::<Vec<_>>()).collect();
        self.formed.write(&values)?;
        self.mixture.project(&self.formed, &self.coefficients)?;
        Ok(self.coefficients.to_vec::<f32>()?.into_iter().map(f64::from).collect())
    }

    /// The coefficients whose mixtures `m` make each layer's `|operator(m)|` least, from `x` on: `operator` is half the
    /// gradient's linear part, `wanted` its constant one, both in the place of the mixtures. Layers go side by side.
    fn solve(
        &self,
        operator: impl Fn(usize, &DMatrix<f64>) -> DMatrix<f64>,
        wanted: &[DMatrix<f64>],
        x: &mut [f64],
        steps: usize,
    ) -> Result<()> {
        let apply = |c: &[f64]| {
            let formed = self.form(c)?;
            self.project(&formed.iter().enumerate().map(|(i, m)| operator(i, m)).collect::<Vec<_>>())
        };
        let inner = |a: &[f64], b: &[f64]| -> Vec<f64> {
            let pairs = a.chunks(self.k).zip(b.chunks(self.k));
            pairs.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect()
        };
        let ratio = |a: &[f64], b: &[f64]| -> Vec<f64> {
            a.iter().zip(b).map(|(a, b)| if *b > 0.0 { a / b } else { 0.0 }).collect()
        };
        let add = |y: &mut [f64], factors: &[f64], x: &[f64]| {
            let chunks = y.chunks_mut(self.k).zip(x.chunks(self.k)).zip(factors);
            chunks.for_each(|((y, x), factor)| y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x));
        };
        let mut rest = self.project(wanted)?;
        let none = vec![-1.0; self.shapes.len()];
        add(&mut rest, &none, &apply(x)?);
        let (mut way, mut square) = (rest.clone(), inner(&rest, &rest));
        let end: Vec<f64> = square.iter().map(|s| s * 1e-10).collect();
        for _ in 0..steps {
            let image = apply(&way)?;
            // Layers that are done stay where they are.
            let going: Vec<f64> = square.iter().zip(&end).map(|(s, end)| if s > end { *s } else { 0.0 }).collect();
            let step = ratio(&going, &inner(&way, &image));
            add(x, &step, &way);
            add(&mut rest, &step.iter().map(|s| -s).collect::<Vec<_>>(), &image);
            let next = inner(&rest, &rest);
            let turn = ratio(&next, &square);
            let old = std::mem::replace(&mut way, rest.clone());
            add(&mut way, &turn, &old);
            square = next;
            if square.iter().zip(&end).all(|(s, end)| s <= end) {
                break;
            }
        }
        Ok(())
    }
}

/// The squares of what products of two mixtures of `k` bases each, of this rank, lack of the targets.
///
/// # Errors
/// [`Error::Input`] for a rank past that of a target; what the passes return.
pub(super) fn nola(
    runtime: &Runtime,
    targets: &[Target],
    (law, seed, k): (Law, u64, usize),
    rank: usize,
) -> Result<Vec<f64>> {
    if let Some(target) = targets.iter().find(|target| target.left.ncols() < rank) {
        return Err(Error::Input(format!("--rank {rank}: the adapter has rank {}", target.left.ncols())));
    }
    let basis = (law, seed, k);
    let front = Side::new(runtime, basis, Tag::A, targets.iter().map(|t| [t.p.nrows(), rank]).collect())?;
    let back = Side::new(runtime, basis, Tag::B, targets.iter().map(|t| [rank, t.q.ncols()]).collect())?;
    let mut alpha = vec![0.0; targets.len() * k];
    let mut beta = alpha.clone();
    // From what comes nearest to the largest singular vectors.
    let starts: Vec<DMatrix<f64>> = targets.iter().map(|t| t.left.columns(0, rank).into_owned()).collect();
    front.solve(|_, m| m.clone(), &starts, &mut alpha, FIRST_STEPS)?;
    for _ in 0..ROUNDS {
        let a = front.form(&alpha)?;
        let grams: Vec<_> = a.iter().map(|a| a.tr_mul(a)).collect();
        let wanted: Vec<_> = targets.iter().zip(&a).map(|(t, a)| a.tr_mul(&t.p) * &t.q).collect();
        back.solve(|i, b| &grams[i] * b, &wanted, &mut beta, STEPS)?;
        let b = back.form(&beta)?;
        let grams: Vec<_> = b.iter().map(|b| b * b.transpose()).collect();
        let wanted: Vec<_> = targets.iter().zip(&b).map(|(t, b)| &t.p * (&t.q * b.transpose())).collect();
        front.solve(|i, a| a * &grams[i], &wanted, &mut alpha, STEPS)?;
    }
    let (a, b) = (front.form(&alpha)?, back.form(&beta)?);
    Ok(targets.iter().zip(a.iter().zip(&b)).map(|(target, (a, b))| target.lack(a, b)).collect())
}

/// The square of what other factors of a layer lack of it, `a` `[n_in, r]` and `b` `[r, n_out]` as they lie on a device.
pub(super) fn lack(target: &Target, layer: &LoraLayer) -> Result<f64> {
    let other = Target::new(layer)?;
    Ok(target.lack(&other.p, &other.q))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    fn layers() -> Vec<LoraLayer> {
        let values =
            |n: usize, seed: usize| (0..n).map(|i| ((i * 37 + seed * 11 + i * i) % 23) as f32 / 11.0 - 1.0).collect();
        let layer = |i: usize, n_in: usize, n_out: usize| LoraLayer {
            name: format!("l{i}"),
            rank: 3,
            n_in,
            n_out,
            a: values(3 * n_in, i),
            b: values(3 * n_out, i + 5),
            scale: 0.5 + i as f32,
        };
        vec![layer(0, 20, 31), layer(1, 24, 17)]
    }

    #[test]
    fn targets_know_their_singular_values() {
        for layer in layers() {
            let target = Target::new(&layer).unwrap();
            let whole = (&target.p * &target.q).svd(false, false).singular_values;
            let mut whole: Vec<f64> = whole.iter().copied().collect();
            whole.sort_by(|a, b| b.total_cmp(a));
            for (got, want) in target.singular.iter().zip(&whole) {
                assert!((got - want).abs() < 1e-9 * whole[0], "{:?} {whole:?}", target.singular);
            }
            assert!(lack(&target, &layer).unwrap() < 1e-9 * target.square());
            // Half of it lacks a quarter of the square.
            let half = LoraLayer { scale: layer.scale / 2.0, ..layer };
            assert!((lack(&target, &half).unwrap() / target.square() - 0.25).abs() < 1e-9);
        }
    }

    #[test]
    fn as_many_bases_as_numbers_give_the_change_itself() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let targets: Vec<Target> = layers().iter().map(|layer| Target::new(layer).unwrap()).collect();
        let error = |k: usize, rank: usize| -> Vec<f64> {
            let lacks = nola(&runtime, &targets, (Law::Uniform8, 7, k), rank).unwrap();
            lacks.iter().zip(&targets).map(|(lack, target)| (lack / target.square()).sqrt()).collect()
        };
        // Random bases of all dimensions of both factors, and some to spare so that conjugate gradients are quick.
        let whole = error(400, 3);
        assert!(whole.iter().all(|e| *e < 2e-3), "{whole:?}");
        // At rank 1 nothing is nearer than the largest singular vectors.
        let one = error(200, 1);
        for (got, target) in one.iter().zip(&targets) {
            let want = (1.0 - target.singular[0].powi(2) / target.square()).sqrt();
            assert!((got - want).abs() < 2e-3, "{one:?}, {want} wanted");
        }
        // Few of them leave most of it.
        assert!(error(4, 3).iter().all(|e| *e > 0.8 && *e <= 1.0));
        assert!(nola(&runtime, &targets, (Law::Sign, 7, 4), 4).is_err());
    }
}

//! The linear probe in closed form.

use nalgebra::DMatrix;

use super::features::Features;
use super::probe::{percent, predict};
use crate::ops::elementwise::scale_shift;
use crate::ops::gather::one_hot;
use crate::ops::{matmul, reduce};
use crate::{Error, Result, Tensor};

/// Lambda over the mean of the diagonal of the covariance.
const LAMBDA: f64 = 1e-2;
/// Share of the mean variance that is added to each variance, so that columns that hardly vary are not blown up.
const LEAST_VARIANCE: f64 = 1e-5;

/// Ridge regression of the classes on `train`, judged on `test`: images whose class it names rightly, in percent.
///
/// Features are centred and standardised by the training features, targets are 1 for the own class and 0 for the others,
/// centred; lambda is a hundredth of the covariance's mean diagonal. The products run on the device, the system is solved in
/// f64 on the host. No rate, no epochs, no order: the probe to compare two networks by.
///
/// # Errors
/// [`Error::Shape`] if the features differ in length or classes, [`Error::Input`] if they have none.
pub fn ridge(train: &Features, test: &Features) -> Result<f64> {
    Ok(percent(&classes(train, test)?, test.labels()))
}

/// The class of each test image.
fn classes(train: &Features, test: &Features) -> Result<Vec<u32>> {
    train.need_labels("ridge", test)?;
    let runtime = train.values().runtime();
    let (n, d, n_classes) = (train.len(), train.dim(), train.n_classes());
    let read = |x: Tensor| Ok(x.to_vec::<f32>()?.into_iter().map(f64::from).collect::<Vec<_>>());
    let mean = read(reduce::mean(train.values(), &[0], false)?)?;
    let var = read(reduce::var(train.values(), &[0], false, false)?)?;
    let least = LEAST_VARIANCE * var.iter().sum::<f64>() / d as f64;
    let upload = |values: Vec<f64>, shape: &[usize]| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        Tensor::from_slice(runtime, &values, shape)
    };
    // Where nothing varies at all, everything becomes 0.
    let scale: Vec<f64> = var.iter().map(|v| if least > 0.0 { 1.0 / (v + least).sqrt() } else { 0.0 }).collect();
    let shift = upload(mean.iter().zip(&scale).map(|(mean, scale)| -mean * scale).collect(), &[d])?;
    let scale = upload(scale, &[d])?;
    let x = scale_shift(train.values(), &scale, &shift)?;
    let labels = Tensor::from_slice(runtime, train.labels(), &[n])?;
    let targets = one_hot(&labels, n_classes)?;
    let x_t = x.transpose()?;
    let (gram, cross) = (matmul::matmul(&x_t, &x)?.read::<f32>()?, matmul::matmul(&x_t, &targets)?.read::<f32>()?);
    let mut gram = DMatrix::from_row_iterator(d, d, gram.wait()?.into_iter().map(f64::from));
    let cross = DMatrix::from_row_iterator(d, n_classes, cross.wait()?.into_iter().map(f64::from));
    let lambda = (LAMBDA * gram.trace() / d as f64).max(1e-9);
    (0..d).for_each(|i| gram[(i, i)] += lambda);
    let Some(cholesky) = gram.cholesky() else {
        return Err(Error::Failed("ridge: a covariance that is not positive".into()));
    };
    // Row-major, as the device has it.
    let weight = upload(cholesky.solve(&cross).transpose().as_slice().to_vec(), &[d, n_classes])?;
    let mut prior = vec![0.0; n_classes];
    train.labels().iter().for_each(|label| prior[*label as usize] += 1.0 / n as f64);
    predict(&scale_shift(test.values(), &scale, &shift)?, &weight, &upload(prior, &[n_classes])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::ssl::tests::{features, runtime};

    /// The classes that plain loops in f64 give.
    fn by_loops(train: &Features, test: &Features) -> Vec<u32> {
        let (n, d, n_classes) = (train.len(), train.dim(), train.n_classes());
        let read =
            |f: &Features| -> Vec<f64> { f.values().to_vec::<f32>().unwrap().into_iter().map(f64::from).collect() };
        let (x, test_x) = (read(train), read(test));
        let mean: Vec<f64> = (0..d).map(|j| (0..n).map(|i| x[i * d + j]).sum::<f64>() / n as f64).collect();
        let var: Vec<f64> =
            (0..d).map(|j| (0..n).map(|i| (x[i * d + j] - mean[j]).powi(2)).sum::<f64>() / n as f64).collect();
        let least = LEAST_VARIANCE * var.iter().sum::<f64>() / d as f64;
        let z = |x: &[f64], i: usize, j: usize| (x[i * d + j] - mean[j]) / (var[j] + least).sqrt();
        let target = |i: usize, c: usize| f64::from(u8::from(train.labels()[i] as usize == c));
        let prior: Vec<f64> = (0..n_classes).map(|c| (0..n).map(|i| target(i, c)).sum::<f64>() / n as f64).collect();
        let mut rows: Vec<Vec<f64>> = (0..d)
            .map(|a| {
                let gram = (0..d).map(|b| (0..n).map(|i| z(&x, i, a) * z(&x, i, b)).sum::<f64>());
                let cross =
                    (0..n_classes).map(|c| (0..n).map(|i| z(&x, i, a) * (target(i, c) - prior[c])).sum::<f64>());
                gram.chain(cross).collect()
            })
            .collect();
        let lambda = LAMBDA * (0..d).map(|j| rows[j][j]).sum::<f64>() / d as f64;
        (0..d).for_each(|j| rows[j][j] += lambda);
        for a in 0..d {
            for b in (0..d).filter(|b| *b != a) {
                let factor = rows[b][a] / rows[a][a];
                (0..d + n_classes).for_each(|k| rows[b][k] -= factor * rows[a][k]);
            }
        }
        let score =
            |i: usize, c: usize| prior[c] + (0..d).map(|j| z(&test_x, i, j) * rows[j][d + c] / rows[j][j]).sum::<f64>();
        let best =
            |i: usize| (0..n_classes as u32).max_by(|a, b| score(i, *a as usize).total_cmp(&score(i, *b as usize)));
        (0..test.len()).map(|i| best(i).unwrap()).collect()
    }

    #[test]
    fn ridge_solves_the_normal_equations() {
        let Some(runtime) = runtime() else { return };
        // Fewer images than numbers in a feature, too.
        for (n, d) in [(400, 20), (15, 40)] {
            let (train, test) = (features(&runtime, n, d, 4, 3.0, 0), features(&runtime, 200, d, 4, 3.0, 1));
            let want = by_loops(&train, &test);
            assert_eq!(classes(&train, &test).unwrap(), want, "{n} x {d}");
            let top1 = ridge(&train, &test).unwrap();
            assert_eq!(top1, percent(&want, test.labels()));
            assert!((35.0..99.0).contains(&top1), "{top1}");
        }
    }

    #[test]
    fn features_that_do_not_vary_give_the_most_frequent_class() {
        let Some(runtime) = runtime() else { return };
        let constant = |labels: Vec<u32>| {
            let values = vec![0.3; 3 * labels.len()];
            let values = Tensor::from_slice(&runtime, &values, &[labels.len(), 3]).unwrap();
            Features::new(values, labels, 4).unwrap()
        };
        let (train, test) = (constant(vec![2, 1, 2, 0]), constant(vec![0, 2]));
        assert_eq!(classes(&train, &test).unwrap(), [2, 2]);
    }
}

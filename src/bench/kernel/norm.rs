use crate::bench::{Case, Level, noise, worst};
use crate::ops::norm::{ChannelVariant, RowNorm, batch_norm, batch_norm_train_with, group_norm, row_norm_with};
use crate::ops::{Act, RowVariant};
use crate::reference::{Array, elementwise::map, norm as reference};
use crate::runtime::Runtime;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Tokens and their widths.
const SHAPES: &[(usize, usize)] = &[(788, 192), (4096, 768), (12_608, 96), (197, 384), (4096, 197)];
const IMAGES: &[&[usize]] = &[&[64, 32, 32, 16], &[64, 16, 16, 32], &[64, 8, 8, 64], &[16, 56, 56, 64]];
const EPS: f32 = 1e-5;

/// Rows 0, 1 and the last of `x`, which stand for all.
fn some_rows(x: &Array) -> Array {
    let n = x.shape[1];
    let rows = [0, 1, x.shape[0] - 1];
    Array::new(&[rows.len(), n], rows.iter().flat_map(|row| x.data[row * n..(row + 1) * n].to_vec()).collect())
}

fn host(out: &Tensor) -> Result<Array> {
    Ok(Array::new(out.shape(), out.to_vec::<f32>()?.into_iter().map(f64::from).collect()))
}

fn off(got: &Array, want: &Array) -> f64 {
    worst(got.data.iter().zip(&want.data).map(|(g, w)| g - w))
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (shapes, images) = match level {
        Level::Tiny => (&[(5, 192), (4, 1001)][..], &[&[3, 6, 6, 16][..]][..]),
        Level::Quick => (&SHAPES[..2], &IMAGES[..1]),
        Level::Full | Level::Stress => (SHAPES, IMAGES),
    };
    let mut cases = Vec::new();
    for &(n_rows, n) in shapes {
        let (x, host_x) = noise(runtime, &[n_rows, n], 1)?;
        let ((gain, host_gain), (bias, host_bias)) = (noise(runtime, &[n], 2)?, noise(runtime, &[n], 3)?);
        let want = reference::layer_norm(&some_rows(&host_x), Some(&host_gain), Some(&host_bias), f64::from(EPS));
        let chosen = RowVariant::choose(runtime.profile(), n);
        for variant in RowVariant::ALL {
            if !variant.runs_on(runtime.profile()) || (level == Level::Quick && variant != chosen) {
                continue;
            }
            let (x, gain, bias, want) = (x.clone(), gain.clone(), bias.clone(), want.clone());
            cases.push(
                Case::new(
                    "norm/layer_norm",
                    format!("{n_rows}x{n}"),
                    move || row_norm_with(Some(variant), RowNorm::Layer, &x, Some(&gain), Some(&bias), EPS),
                    move |out| Ok(off(&some_rows(&host(out)?), &want)),
                )
                .variant(variant.name())
                .cost(8 * (n_rows * n) as u64, 8 * (n_rows * n) as u64)
                .tolerance(1e-5),
            );
        }
    }
    cases.extend(row_gradients(runtime, shapes)?);
    for &shape in images {
        let c = shape[3];
        let (x, host_x) = noise(runtime, shape, 1)?;
        let n = x.len() as u64;
        let params: Vec<(Tensor, Array)> = (2..5).map(|seed| noise(runtime, &[c], seed)).collect::<Result<_>>()?;
        let var: Vec<f32> = (0..c).map(|i| 0.5 + i as f32 / c as f32).collect();
        let host_var = Array::new(&[c], var.iter().map(|v| f64::from(*v)).collect());
        let var = Tensor::from_slice(runtime, &var, &[c])?;
        let name = format!("{}x{}x{}x{c}", shape[0], shape[1], shape[2]);
        let [gain, bias, mean] = [0, 1, 2].map(|i: usize| params[i].0.clone());
        let [host_gain, host_bias, host_mean] = [0, 1, 2].map(|i: usize| params[i].1.clone());
        let want = reference::batch_norm(&host_x, &host_gain, &host_bias, &host_mean, &host_var, f64::from(EPS));
        let run = (x.clone(), gain.clone(), bias.clone());
        cases.push(
            Case::new(
                "norm/batch_norm",
                name.clone(),
                move || batch_norm(&run.0, &run.1, &run.2, &mean, &var, EPS, Act::None),
                move |out| Ok(off(&host(out)?, &want)),
            )
            .cost(2 * n, 8 * n)
            .tolerance(1e-5),
        );
        cases.extend(training(&name, (&x, &host_x), (&gain, &host_gain), (&bias, &host_bias))?);
        let want = reference::group_norm(&host_x, 8, &host_gain, &host_bias, f64::from(EPS));
        cases.push(
            Case::new(
                "norm/group_norm",
                name,
                move || group_norm(&x, 8, &gain, &bias, EPS),
                move |out| Ok(off(&host(out)?, &want)),
            )
            .cost(8 * n, 8 * n)
            .tolerance(1e-5),
        );
    }
    Ok(cases)
}

/// Layer norm forward and backward, which must read `x` three times and the gradient of the result twice.
fn row_gradients(runtime: &Runtime, shapes: &[(usize, usize)]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &(n_rows, n) in shapes {
        let (x, host_x) = noise(runtime, &[n_rows, n], 1)?;
        let ((gain, host_gain), (bias, _)) = (noise(runtime, &[n], 2)?, noise(runtime, &[n], 3)?);
        let (d, host_d) = noise(runtime, &[n_rows, n], 4)?;
        let want = reference::layer_norm_d_x(&some_rows(&host_x), &host_gain, &some_rows(&host_d), f64::from(EPS));
        let [x, gain, bias] = [x, gain, bias].map(|leaf| leaf.require_grad());
        let (x, gain, bias) = (x?, gain?, bias?);
        cases.push(
            Case::new(
                "norm/layer_norm fwd+bwd",
                format!("{n_rows}x{n}"),
                move || {
                    let out = row_norm_with(None, RowNorm::Layer, &x, Some(&gain), Some(&bias), EPS)?;
                    let mut gradients = out.backward_with(&d)?;
                    gradients.take(&x).ok_or_else(|| Error::Device("no gradient of x".into()))
                },
                move |out| Ok(off(&some_rows(&host(out)?), &want)),
            )
            .cost(30 * (n_rows * n) as u64, 28 * (n_rows * n) as u64)
            .tolerance(1e-5),
        );
    }
    Ok(cases)
}

type Both<'a> = (&'a Tensor, &'a Array);

/// Batch norm by the batch's statistics with a ReLU: the forward pass, which must read `x` twice, and both passes
/// together, of which the backward one must also read the gradient of the result twice.
fn training(name: &str, x: Both<'_>, gain: Both<'_>, bias: Both<'_>) -> Result<Vec<Case>> {
    let ((x, host_x), (gain, host_gain), (bias, host_bias)) = (x, gain, bias);
    let eps = f64::from(EPS);
    let n = x.len() as u64;
    let before = reference::batch_norm_train(host_x, host_gain, host_bias, eps);
    let want = map(&before, |v| v.max(0.0));
    let mut host_d = noise(x.runtime(), x.shape(), 7)?.1;
    // At the kink a rounding decides: no gradient there.
    host_d.data.iter_mut().zip(&before.data).filter(|(_, z)| z.abs() < 1e-5).for_each(|(d, _)| *d = 0.0);
    let data: Vec<f32> = host_d.data.iter().map(|v| *v as f32).collect();
    let d = Tensor::from_slice(x.runtime(), &data, x.shape())?;
    let want_d = reference::batch_norm_train_relu_d_x(host_x, host_gain, host_bias, &host_d, eps);
    let mut cases = Vec::new();
    let chosen = ChannelVariant::choose(x.runtime());
    let (run, want) = ((x.clone(), gain.clone(), bias.clone()), want);
    cases.push(
        Case::new(
            "norm/batch_norm_train",
            name,
            move || Ok(batch_norm_train_with(Some(chosen), &run.0, &run.1, &run.2, EPS, Act::Relu)?.0),
            move |out| Ok(off(&host(out)?, &want)),
        )
        .variant(chosen.name())
        .cost(10 * n, 12 * n)
        .tolerance(1e-5),
    );
    let run = [x, gain, bias].map(Tensor::require_grad);
    let [x, gain, bias] = run;
    let (x, gain, bias) = (x?, gain?, bias?);
    cases.push(
        Case::new(
            "norm/batch_norm_train fwd+bwd",
            name,
            move || {
                let (out, ..) = batch_norm_train_with(Some(chosen), &x, &gain, &bias, EPS, Act::Relu)?;
                let mut gradients = out.backward_with(&d)?;
                gradients.take(&x).ok_or_else(|| Error::Device("no gradient of x".into()))
            },
            move |out| Ok(off(&host(out)?, &want_d)),
        )
        .variant(chosen.name())
        .cost(30 * n, 32 * n)
        .tolerance(1e-5),
    );
    Ok(cases)
}

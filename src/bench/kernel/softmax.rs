use crate::bench::{Case, Level, noise, worst};
use crate::ops::RowVariant;
use crate::ops::softmax::{cross_entropy_with, softmax_with};
use crate::reference::{Array, softmax as reference};
use crate::runtime::Runtime;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Rows and their lengths: attention scores, a vocabulary's and a classifier's logits, one long row.
const SHAPES: &[(usize, usize)] = &[(2364, 197), (4096, 1024), (4096, 192), (65_536, 10), (1, 100_000)];
const LOSSES: &[(usize, usize)] = &[(4096, 1000), (4096, 10)];

/// Rows 0, 1 and the last of `x`, which stand for all.
fn some_rows(x: &Array) -> Array {
    let n = x.shape[1];
    let rows = [0, 1.min(x.shape[0] - 1), x.shape[0] - 1];
    Array::new(&[rows.len(), n], rows.iter().flat_map(|row| x.data[row * n..(row + 1) * n].to_vec()).collect())
}

fn host(out: &Tensor) -> Result<Array> {
    Ok(Array::new(out.shape(), out.to_vec::<f32>()?.into_iter().map(f64::from).collect()))
}

fn variants(runtime: &Runtime, level: Level, n: usize) -> Vec<RowVariant> {
    let chosen = RowVariant::choose(runtime.profile(), n);
    let wanted = |v: &RowVariant| v.runs_on(runtime.profile()) && (level != Level::Quick || *v == chosen);
    RowVariant::ALL.into_iter().filter(wanted).collect()
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (shapes, losses) = match level {
        Level::Tiny => (&[(5, 197), (3, 1001)][..], &[(6, 100)][..]),
        Level::Quick => (&SHAPES[..2], &LOSSES[..1]),
        Level::Full | Level::Stress => (SHAPES, LOSSES),
    };
    let mut cases = Vec::new();
    for &(n_rows, n) in shapes {
        let (x, host_x) = noise(runtime, &[n_rows, n], 1)?;
        let want = reference::softmax(&some_rows(&host_x));
        let (d, host_d) = noise(runtime, &[n_rows, n], 2)?;
        let want_d = reference::softmax_d_x(&want, &some_rows(&host_d));
        for variant in variants(runtime, level, n) {
            let (x, want) = (x.clone(), want.clone());
            let (d, want_d) = (d.clone(), want_d.clone());
            let leaf = x.require_grad()?;
            cases.push(
                Case::new(
                    "softmax/softmax fwd+bwd",
                    format!("{n_rows}x{n}"),
                    move || {
                        let mut gradients = softmax_with(variant, &leaf)?.backward_with(&d)?;
                        gradients.take(&leaf).ok_or_else(|| Error::Device("no gradient of x".into()))
                    },
                    move |out| {
                        let got = some_rows(&host(out)?);
                        Ok(worst(got.data.iter().zip(&want_d.data).map(|(g, w)| (g - w) * n as f64)))
                    },
                )
                .variant(variant.name())
                .cost(9 * (n_rows * n) as u64, 20 * (n_rows * n) as u64)
                .tolerance(1e-4),
            );
            cases.push(
                Case::new(
                    "softmax/softmax",
                    format!("{n_rows}x{n}"),
                    move || softmax_with(variant, &x),
                    move |out| {
                        let got = some_rows(&host(out)?);
                        Ok(worst(got.data.iter().zip(&want.data).map(|(g, w)| (g - w) * n as f64)))
                    },
                )
                .variant(variant.name())
                .cost(5 * (n_rows * n) as u64, 8 * (n_rows * n) as u64)
                .tolerance(1e-4),
            );
        }
    }
    for &(n_rows, n) in losses {
        let (logits, host_x) = noise(runtime, &[n_rows, n], 1)?;
        let labels: Vec<u32> = (0..n_rows).map(|row| (row * 7 % n) as u32).collect();
        let classes: Vec<usize> = labels.iter().map(|l| *l as usize).collect();
        let want = reference::cross_entropy(&host_x, &classes, 0.1);
        let labels = Tensor::from_slice(runtime, &labels, &[n_rows])?;
        let (leaf, of) = (logits.require_grad()?, labels.clone());
        let want_d = reference::cross_entropy_d_x(&host_x, &classes, 0.1);
        let ones = Tensor::full(runtime, &[n_rows], 1.0, leaf.dtype())?;
        cases.push(
            Case::new(
                "softmax/cross_entropy fwd+bwd",
                format!("{n_rows}x{n}"),
                move || {
                    let mut gradients = cross_entropy_with(None, &leaf, &of, 0.1)?.0.backward_with(&ones)?;
                    gradients.take(&leaf).ok_or_else(|| Error::Device("no gradient of the logits".into()))
                },
                move |out| Ok(worst(host(out)?.data.iter().zip(&want_d.data).map(|(g, w)| g - w))),
            )
            .cost(8 * (n_rows * n) as u64, 12 * (n_rows * n) as u64)
            .tolerance(1e-5),
        );
        for variant in variants(runtime, level, n) {
            let (logits, labels, want) = (logits.clone(), labels.clone(), want.clone());
            cases.push(
                Case::new(
                    "softmax/cross_entropy",
                    format!("{n_rows}x{n}"),
                    move || Ok(cross_entropy_with(Some(variant), &logits, &labels, 0.1)?.0),
                    move |out| Ok(worst(host(out)?.data.iter().zip(&want.data).map(|(g, w)| g - w))),
                )
                .variant(variant.name())
                .cost(4 * (n_rows * n) as u64, 4 * (n_rows * n) as u64)
                .tolerance(1e-4),
            );
        }
    }
    Ok(cases)
}

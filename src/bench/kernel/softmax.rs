use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::RowVariant;
use crate::ops::softmax::{cross_entropy_with, softmax_with};
use crate::reference::{Array, softmax as reference};
use crate::runtime::Runtime;
use crate::tensor::Tensor;

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
    let wanted = |v: &RowVariant| v.runs_on(runtime.profile()) && (level == Level::Full || *v == chosen);
    RowVariant::ALL.into_iter().filter(wanted).collect()
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (shapes, losses) = if level == Level::Quick { (&SHAPES[..2], &LOSSES[..1]) } else { (SHAPES, LOSSES) };
    let mut cases = Vec::new();
    for &(n_rows, n) in shapes {
        let (x, host_x) = noise(runtime, &[n_rows, n], 1)?;
        let want = reference::softmax(&some_rows(&host_x));
        for variant in variants(runtime, level, n) {
            let (x, want) = (x.clone(), want.clone());
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

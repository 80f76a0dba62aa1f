use crate::bench::{Case, Level, noise, worst};
use crate::ops::gather as g;
use crate::reference::Array;
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Largest difference over every 997th element of `out` from `want` at its index.
fn spot(out: &Tensor, want: impl Fn(&[usize]) -> f64) -> Result<f64> {
    let got: Vec<f64> = match out.dtype() {
        DType::U8 => out.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
        _ => out.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
    };
    let index = |mut linear: usize| {
        let mut index = vec![0; out.rank()];
        for (slot, n) in index.iter_mut().zip(out.shape()).rev() {
            *slot = linear % n;
            linear /= n;
        }
        index
    };
    Ok(worst((0..got.len()).step_by(997).map(|i| got[i] - want(&index(i)))))
}

/// `n` ids below `limit` in no order.
fn ids(runtime: &Runtime, n: usize, limit: usize) -> Result<(Tensor, Vec<usize>)> {
    let ids: Vec<u32> = (0..n).map(|i| (i * 7919 + 13) as u32 % limit as u32).collect();
    Ok((Tensor::from_slice(runtime, &ids, &[n])?, ids.into_iter().map(|i| i as usize).collect()))
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let shapes: &[(usize, usize, usize)] = match level {
        Level::Tiny => &[(50, 48, 90), (50, 5, 90)],
        Level::Quick => &[(4096, 768, 4096)],
        Level::Full | Level::Stress => &[(4096, 768, 4096), (65_536, 64, 65_536), (4096, 5, 65_536)],
    };
    for &(v, d, n) in shapes {
        let ((table, want), (ids, picked)) = (noise(runtime, &[v, d], 1)?, ids(runtime, n, v)?);
        cases.push(
            Case::new(
                "gather/embedding",
                format!("{v}x{d} at {n}"),
                move || g::embedding(&table, &ids),
                move |out| spot(out, |i| want.at(&[picked[i[0]], i[1]])),
            )
            .cost(0, (8 * n * d + 4 * n) as u64)
            .tolerance(0.0),
        );
    }
    // A batch of images from a data set that stays on the device.
    let (n, batch) = if level == Level::Tiny { (20, 7) } else { (10_000, 512) };
    let bytes: Vec<u8> = (0..n * 3072).map(|i| (i * 31 % 251) as u8).collect();
    let images = Tensor::from_slice(runtime, &bytes, &[n, 32, 32, 3])?;
    let (picks, picked) = ids(runtime, batch, n)?;
    cases.push(
        Case::new(
            "gather/index_select",
            format!("{n}x32x32x3 at {batch}"),
            move || g::index_select(&images, 0, &picks),
            move |out| spot(out, |i| (((picked[i[0]] * 32 + i[1]) * 32 + i[2]) * 3 + i[3]) as f64 * 31.0 % 251.0),
        )
        .dtype(DType::U8)
        .cost(0, (2 * batch * 3072) as u64)
        .tolerance(0.0),
    );
    if level == Level::Full {
        cases.extend(full(runtime)?);
    }
    Ok(cases)
}

fn full(runtime: &Runtime) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let ((a, ra), (b, rb)) = (noise(runtime, &[64, 16, 16, 96], 2)?, noise(runtime, &[64, 16, 16, 32], 3)?);
    let bytes = 8 * (a.len() + b.len()) as u64;
    cases.push(
        Case::new(
            "gather/concat",
            "64x16x16x96 + 32",
            move || g::concat(&[&a, &b], 3),
            move |out| spot(out, |i| if i[3] < 96 { ra.at(i) } else { rb.at(&[i[0], i[1], i[2], i[3] - 96]) }),
        )
        .cost(0, bytes)
        .tolerance(0.0),
    );
    // Heads before tokens, and channels before pixels.
    for (shape, axes) in [([8, 197, 12, 64], [0, 2, 1, 3]), ([8, 56, 56, 64], [0, 3, 1, 2])] {
        let (x, want) = noise(runtime, &shape, 5)?;
        let bytes = 8 * x.len() as u64;
        cases.push(
            Case::new(
                "gather/permute",
                format!("{shape:?} {axes:?}").replace(", ", "x").replace(['[', ']'], ""),
                move || x.permute(&axes)?.contiguous(),
                move |out| {
                    spot(out, |i| {
                        let mut own = [0; 4];
                        for (axis, i) in axes.iter().zip(i) {
                            own[*axis] = *i;
                        }
                        want.at(&own)
                    })
                },
            )
            .cost(0, bytes)
            .tolerance(0.0),
        );
    }
    for c in [3, 64] {
        let (x, want) = noise(runtime, &[8, 112, 112, c], 4)?;
        let n = x.len();
        let (y, r) = (x.clone(), want.clone());
        let pads = [(0, 0), (3, 3), (3, 3), (0, 0)];
        let inside = |i: usize| (3..115).contains(&i);
        cases.push(
            Case::new(
                "gather/pad",
                format!("8x112x112x{c} by 3"),
                move || g::pad(&y, &pads, 0.0),
                move |out| {
                    spot(
                        out,
                        |i| {
                            if inside(i[1]) && inside(i[2]) { r.at(&[i[0], i[1] - 3, i[2] - 3, i[3]]) } else { 0.0 }
                        },
                    )
                },
            )
            .cost(0, (4 * n + 4 * n * 118 * 118 / 112 / 112) as u64)
            .tolerance(0.0),
        );
        let (y, r) = (x.clone(), want.clone());
        cases.push(
            Case::new(
                "gather/flip",
                format!("8x112x112x{c} in x"),
                move || g::flip(&y, &[2]),
                move |out| spot(out, |i| r.at(&[i[0], i[1], 111 - i[2], i[3]])),
            )
            .cost(0, 8 * n as u64)
            .tolerance(0.0),
        );
        cases.push(
            Case::new(
                "gather/resize_bilinear",
                format!("8x112x112x{c} to 168"),
                move || g::resize_bilinear(&x, [168, 168], false),
                move |out| spot(out, |i| bilinear(&want, i)),
            )
            .cost(7 * n as u64 * 9 / 4, 4 * n as u64 * 13 / 4)
            .tolerance(1e-4),
        );
    }
    // There and back, of an image enlarged before a network sees it.
    let ((x, rx), (d_out, rd)) = (noise(runtime, &[8, 112, 112, 64], 6)?, noise(runtime, &[8, 168, 168, 64], 7)?);
    let n = x.len() as u64;
    let leaf = x.require_grad()?;
    cases.push(
        Case::new(
            "gather/resize_bilinear, back",
            "8x112x112x64 to 168",
            move || {
                let mut gradients = g::resize_bilinear(&leaf, [168, 168], false)?.backward_with(&d_out)?;
                gradients.take(&leaf).ok_or_else(|| Error::Device("no gradient came back".into()))
            },
            move |out| {
                // A transposed map has the same inner products: here 6e6 and 14e6 terms of size 1.
                let inner = |a: &[f32], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
                let there = g::resize_bilinear(&x, [168, 168], false)?.to_vec()?;
                Ok(worst([inner(&there, &rd.data) - inner(&out.to_vec()?, &rx.data)]))
            },
        )
        .cost(21 * n * 9 / 4, 8 * n * 13 / 4)
        .tolerance(0.1),
    );
    Ok(cases)
}

/// One element of `x` enlarged by 3/2.
fn bilinear(x: &Array, i: &[usize]) -> f64 {
    let source = |i: usize, n: usize| ((i as f64 + 0.5) / 1.5 - 0.5).clamp(0.0, n as f64 - 1.0);
    let (y, z) = (source(i[1], x.shape[1]), source(i[2], x.shape[2]));
    let at = |dy: usize, dx: usize| {
        let (h, w) = ((y as usize + dy).min(x.shape[1] - 1), (z as usize + dx).min(x.shape[2] - 1));
        x.at(&[i[0], h, w, i[3]])
    };
    let (b, a) = (y.fract(), z.fract());
    (1.0 - b) * ((1.0 - a) * at(0, 0) + a * at(0, 1)) + b * ((1.0 - a) * at(1, 0) + a * at(1, 1))
}

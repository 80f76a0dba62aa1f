use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::bank::{enqueue, nearest, softmax_mean};
use crate::ops::elementwise::{affine, cast};
use crate::ops::matmul::matmul;
use crate::ops::softmax::softmax;
use crate::ops::topk::topk;
use crate::reference::{self, Array};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// Queries, rows of the bank, width, neighbours.
const SHAPES: &[(usize, usize, usize, usize)] = &[(128, 4096, 128, 5), (256, 16_384, 128, 10)];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(3, 60, 8, 5)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = searches(runtime, shapes)?;
    for &(b, m, d, _) in shapes {
        for dtype in [DType::F32, DType::F16] {
            if dtype == DType::F32 || runtime.profile().features.f16 {
                cases.extend(means(runtime, [b, m, d], dtype)?);
                cases.push(ring(runtime, [b, m, d], dtype)?);
            }
        }
    }
    Ok(cases)
}

fn searches(runtime: &Runtime, shapes: &[(usize, usize, usize, usize)]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &(b, m, d, k) in shapes {
        let (q, q_host) = noise(runtime, &[b, d], 1)?;
        let (bank, host) = noise(runtime, &[m, d], 2)?;
        let host = Rc::new(host);
        let check = move |out: &Tensor| {
            // The products of the last query, best first.
            let query = &q_host.data[(b - 1) * d..];
            let products = host.data.chunks_exact(d).map(|row| row.iter().zip(query).map(|(a, b)| a * b).sum::<f64>());
            let mut products: Vec<f64> = products.collect();
            products.sort_by(|a, b| b.total_cmp(a));
            let got = out.to_vec::<f32>()?;
            Ok(worst(got[(b - 1) * k..].iter().zip(products).map(|(got, want)| f64::from(*got) - want)))
        };
        let mut add = |variant: &str, bank: Tensor, run: fn(&Tensor, &Tensor, usize) -> Result<Tensor>, tolerance| {
            let bytes = (bank.dtype().bytes() * m * d + 4 * b * d + 8 * b * k) as u64;
            let (q, dtype) = (q.clone(), bank.dtype());
            cases.push(
                Case::new("bank/nearest", format!("{b}x{m}x{d}, k {k}"), move || run(&q, &bank, k), check.clone())
                    .variant(variant)
                    .dtype(dtype)
                    .cost(2 * (b * m * d) as u64, bytes)
                    .tolerance(tolerance),
            );
        };
        // Sums of some hundred products below 1; of f16, each rounded by 2^-12.
        if runtime.profile().features.f16 {
            add("auto", cast(&bank, DType::F16)?, |q, bank, k| Ok(nearest(q, bank, k, None)?.0), 2e-2);
        }
        add("auto", bank.clone(), |q, bank, k| Ok(nearest(q, bank, k, None)?.0), 2e-4);
        add("products, topk", bank, |q, bank, k| Ok(topk(&matmul(q, &bank.transpose()?)?, k, true)?.0), 2e-4);
    }
    Ok(cases)
}

/// Of the bank by softmax, in one pass and by way of all weights.
fn means(runtime: &Runtime, [b, m, d]: [usize; 3], dtype: DType) -> Result<Vec<Case>> {
    const TEMPERATURE: f32 = 0.1;
    // Of about unit length.
    let unit = (3.0 / d as f64).sqrt() as f32;
    let scaled = |n: usize, seed, dtype| {
        let (x, _) = noise(runtime, &[n, d], seed)?;
        let x = cast(&affine(&x, unit, 0.0)?, dtype)?;
        let host = cast(&x, DType::F32)?.to_vec::<f32>()?;
        Ok::<_, crate::Error>((x, Array::new(&[n, d], host.into_iter().map(f64::from).collect())))
    };
    let ((q, q_host), (bank, host)) = (scaled(b, 1, DType::F32)?, scaled(m, 2, dtype)?);
    let host = Rc::new(host);
    let check = move |out: &Tensor| {
        let last = Array::new(&[1, d], q_host.data[(b - 1) * d..].to_vec());
        let (want, _) = reference::bank::softmax_mean(&last, &host, &host, f64::from(TEMPERATURE));
        Ok(worst(out.to_vec::<f32>()?[(b - 1) * d..].iter().zip(&want.data).map(|(got, want)| f64::from(*got) - want)))
    };
    let whole = {
        let (q, bank) = (q.clone(), bank.clone());
        move || {
            let bank = cast(&bank, DType::F32)?;
            matmul(&softmax(&matmul(&affine(&q, TEMPERATURE.recip(), 0.0)?, &bank.transpose()?)?)?, &bank)
        }
    };
    let of_bank = bank.clone();
    let made = |run: Box<dyn Fn() -> Result<Tensor>>, variant: &str| {
        Case::new("bank/softmax_mean", format!("{b}x{m}x{d}"), run, check.clone())
            .variant(variant)
            .dtype(dtype)
            .cost(4 * (b * m * d) as u64, (dtype.bytes() * m * d + 8 * b * d) as u64)
            // Exponents are off by some 1e-6.
            .tolerance(2e-5)
    };
    Ok(vec![
        made(Box::new(move || Ok(softmax_mean(&q, &of_bank, &of_bank, TEMPERATURE)?.0)), "auto"),
        made(Box::new(whole), "all weights"),
    ])
}

/// A batch into the bank.
fn ring(runtime: &Runtime, [b, m, d]: [usize; 3], dtype: DType) -> Result<Case> {
    let (rows, host) = noise(runtime, &[b, d], 1)?;
    let bank = Tensor::zeros(runtime, &[m, d], dtype)?;
    let step = Tensor::from_slice(runtime, &[7_u32], &[1])?;
    let first = reference::bank::slot(7, 0, b, m);
    let run = move || enqueue(&bank, &rows, &step).map(|()| bank.clone());
    let check = move |out: &Tensor| {
        let got = cast(&out.slice(0, first..first + b)?, DType::F32)?.to_vec::<f32>()?;
        Ok(worst(got.iter().zip(&host.data).map(|(got, want)| f64::from(*got) - want)))
    };
    let bytes = b * d * (4 + dtype.bytes());
    Ok(Case::new("bank/enqueue", format!("{b}x{d} to {m}"), run, check)
        .dtype(dtype)
        .cost(0, bytes as u64)
        .tolerance(if dtype == DType::F16 { 5e-4 } else { 0.0 }))
}

use crate::Result;
use crate::bench::{Case, Level, Parts, noise, worst};
use crate::ops::bank::{enqueue, mean_rows, nearest, random_unit, softmax_mean};
use crate::ops::elementwise::{add, affine, cast, mul};
use crate::ops::gather::{concat, index_select};
use crate::ops::matmul::matmul;
use crate::ops::random::Key;
use crate::ops::reduce::{mean, sum};
use crate::ops::softmax::softmax;
use crate::ops::topk::topk;
use crate::philox::stream;
use crate::reference::{self, Array};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// The search of MSF: queries, rows of an f16 bank, width, neighbours; and rows that the ways to compare with take at once,
/// so that adapters with small limits hold them.
const LARGE: (usize, usize, usize, usize) = (256, 131_072, 512, 10);
const LARGE_CHUNK: usize = 16_384;

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
    if level >= Level::Stress && runtime.profile().features.f16 {
        cases.extend([Way::Auto, Way::Products, Way::Targets, Way::Released].map(|way| large(runtime, way)));
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

/// Ways to the neighbours of a large bank, and to the mean product of others with them.
#[derive(Clone, Copy)]
enum Way {
    /// The search of this crate.
    Auto,
    /// Products with a chunk, the best of them, the best of those.
    Products,
    /// The search, then the mean of the rows found, and its product with the other queries.
    Targets,
    /// As the released code: distances of both kinds of queries, the least of the first, and the second where those are.
    Released,
}

fn large(runtime: &Runtime, way: Way) -> Case {
    let (b, m, d, k) = LARGE;
    let (name, variant) = match way {
        Way::Auto => ("bank/nearest", "auto"),
        Way::Products => ("bank/nearest", "products, topk"),
        Way::Targets => ("bank/target", "auto"),
        Way::Released => ("bank/target", "two distances, topk, gather"),
    };
    let runtime = runtime.clone();
    let make = move || {
        let unit = |n: usize, step| random_unit(&runtime, [n, d], DType::F32, Key::new(0, stream::INPUTS, step));
        let (u, q) = (unit(b, 1)?, unit(b, 2)?);
        let rounded = |row: &[f32]| -> Vec<f64> { row.iter().map(|v| f64::from(half::f16::from_f32(*v))).collect() };
        let last = |x: &Tensor| x.slice(0, b - 1..b)?.to_vec::<f32>();
        let (of_u, of_q) = (last(&u)?, last(&q)?);
        let product = |query: &[f32], row: &[f64]| query.iter().zip(row).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
        // The bank goes in batch by batch; the products of the last queries are kept.
        let bank = Tensor::zeros(&runtime, &[m, d], DType::F16)?;
        let mut products = Vec::with_capacity(m);
        for step in 0..(m / LARGE_CHUNK) as u32 {
            let rows = unit(LARGE_CHUNK, 3 + step)?;
            enqueue(&bank, &rows, &Tensor::from_slice(&runtime, &[step], &[1])?)?;
            for row in rows.to_vec::<f32>()?.chunks_exact(d).map(rounded) {
                products.push((product(&of_u, &row), product(&of_q, &row)));
            }
        }
        products.sort_by(|a, b| b.0.total_cmp(&a.0));
        products.truncate(k);
        let want: Vec<f64> = match way {
            Way::Auto | Way::Products => products.iter().map(|of| of.0).collect(),
            Way::Targets | Way::Released => vec![products.iter().map(|of| of.1).sum::<f64>() / k as f64],
        };
        let check = move |out: &Tensor| {
            let got = out.slice(0, b - 1..b)?.to_vec::<f32>()?;
            Ok(worst(got.iter().zip(&want).map(|(got, want)| f64::from(*got) - want)))
        };
        // Where each query's products begin in those of a chunk, and in those found in all.
        let starts =
            |n: usize| Tensor::from_slice(&runtime, &(0..b).map(|i| (i * n) as u32).collect::<Vec<_>>(), &[b, 1]);
        let (in_chunk, in_found) = (starts(LARGE_CHUNK)?, starts(m / LARGE_CHUNK * k)?);
        let run = move || match way {
            Way::Auto => Ok(nearest(&u, &bank, k, None)?.0),
            Way::Targets => {
                let (_, ids) = nearest(&u, &bank, k, None)?;
                sum(&mul(&q, &mean_rows(&bank, &ids)?)?, &[1], false)
            }
            Way::Products | Way::Released => {
                let (mut best, mut others) = (Vec::new(), Vec::new());
                for first in (0..m).step_by(LARGE_CHUNK) {
                    let part = cast(&bank.slice(0, first..first + LARGE_CHUNK)?, DType::F32)?.transpose()?;
                    let products = matmul(&u, &part)?;
                    let Way::Released = way else {
                        best.push(topk(&products, k, true)?.0);
                        continue;
                    };
                    let distances = |products: &Tensor| affine(products, -2.0, 2.0);
                    let (values, ids) = topk(&distances(&products)?, k, false)?;
                    best.push(values);
                    others.push(picked(&distances(&matmul(&q, &part)?)?, &ids, &in_chunk)?);
                }
                let joined = |parts: &[Tensor]| concat(&parts.iter().collect::<Vec<_>>(), 1);
                if let Way::Products = way {
                    return Ok(topk(&joined(&best)?, k, true)?.0);
                }
                let (_, ids) = topk(&joined(&best)?, k, false)?;
                affine(&mean(&picked(&joined(&others)?, &ids, &in_found)?, &[1], false)?, -0.5, 1.0)
            }
        };
        Ok(Parts::new(run, check))
    };
    let n_products = if let Way::Released = way { 2 } else { 1 };
    let products = 4 * (n_products * b * LARGE_CHUNK + 2 * LARGE_CHUNK * d);
    Case::deferred(name, format!("{b}x{m}x{d}, k {k}"), make)
        .variant(variant)
        .dtype(DType::F16)
        .memory((2 * m * d) as u64, (2 * m * d + 2 * products) as u64)
        // What has to be done, whatever the way.
        .cost(2 * (b * m * d) as u64, (2 * m * d + 4 * b * d) as u64)
        .tolerance(1e-5)
}

/// Elements `ids` `[b, k]` of the rows of `x` `[b, n]`, which begin at `starts` `[b, 1]`.
fn picked(x: &Tensor, ids: &Tensor, starts: &Tensor) -> Result<Tensor> {
    let flat = add(ids, starts)?.reshape(&[ids.len()])?;
    index_select(&x.reshape(&[x.len()])?, 0, &flat)?.reshape(ids.shape())
}

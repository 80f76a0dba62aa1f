use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::bank::nearest;
use crate::ops::elementwise::cast;
use crate::ops::matmul::matmul;
use crate::ops::topk::topk;
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// Queries, rows of the bank, width, neighbours.
const SHAPES: &[(usize, usize, usize, usize)] = &[(128, 4096, 128, 5), (256, 16_384, 128, 10)];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(3, 52, 8, 5)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
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

use crate::bench::{Case, Level, noise, worst};
use crate::ops::attention::{
    Attention, AttentionVariant, attention, attention_with, attention_with_lse, backward::gradients,
};
use crate::reference::{Array, attention as reference};
use crate::runtime::Runtime;
use crate::tensor::{DType, Offsets, Tensor};
use crate::{Error, Result};

/// Sequences, tokens of each, heads, width of a head, causal.
const SHAPES: &[(usize, usize, usize, usize, bool)] = &[
    (4, 197, 3, 64, false),
    (64, 65, 8, 16, false),
    (64, 65, 4, 16, false),
    (4, 1024, 3, 64, false),
    (4, 1024, 3, 64, true),
    (4, 197, 4, 32, false),
    (4, 197, 2, 128, false),
    (64, 197, 12, 64, false),
    (64, 65, 3, 32, false),
];
const TINY: &[(usize, usize, usize, usize, bool)] = &[(2, 37, 2, 16, false), (1, 40, 1, 64, true)];

/// One sequence's part of one head, as `[n, 1, d]`.
fn part(x: &Array, n: usize, sequence: usize, head: usize) -> Array {
    Array::from_fn(&[n, 1, x.shape[2]], |i| x.at(&[sequence * n + i[0], head, i[2]]))
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => TINY,
        Level::Quick => &SHAPES[..2],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for (i, &(n, len, heads, d, causal)) in shapes.iter().enumerate() {
        let inputs = (1..4).map(|seed| noise(runtime, &[n * len, heads, d], seed)).collect::<Result<Vec<_>>>()?;
        let offsets = Offsets::equal(runtime, n, len)?;
        // The last head of the last sequence stands for all.
        let [q, k, v] = [0, 1, 2].map(|i: usize| part(&inputs[i].1, len, n - 1, heads - 1));
        let scale = 4.0 / (d as f64).sqrt();
        let (want, _) = reference::attention([&q, &k, &v], (&[len], &[len]), causal, scale);
        // Two shapes show what each variant is worth.
        let runs = |variant: &&AttentionVariant| i < 2 && variant.runs_on(runtime.profile(), DType::F32, d);
        for variant in [None].into_iter().chain(AttentionVariant::ALL.iter().filter(runs).map(Some)) {
            let [q, k, v] = [0, 1, 2].map(|i: usize| inputs[i].0.clone());
            let (offsets, want) = (offsets.clone(), want.clone());
            let options = Attention { causal, scale: Some(scale as f32) };
            let pairs = if causal { len * (len + 1) / 2 } else { len * len };
            let name = if causal { "attention/causal" } else { "attention/full" };
            cases.push(
                Case::new(
                    name,
                    format!("{n}x{len}x{heads}x{d}"),
                    move || match variant {
                        None => attention(&q, &k, &v, &offsets, &options),
                        Some(&variant) => Ok(attention_with(variant, [&q, &k, &v], (&offsets, &offsets), &options)?.0),
                    },
                    move |out| {
                        let data = out.to_vec::<f32>()?.into_iter().map(f64::from).collect();
                        let got = part(&Array::new(out.shape(), data), len, n - 1, heads - 1);
                        Ok(worst(got.data.iter().zip(&want.data).map(|(g, w)| g - w)))
                    },
                )
                .variant(variant.map_or("auto", |variant| variant.name()))
                .cost((4 * n * pairs * heads * d) as u64, (16 * n * len * heads * d) as u64)
                .tolerance(1e-5),
            );
        }
    }
    for (i, &(n, len, heads, d, causal)) in shapes.iter().enumerate().filter(|(_, shape)| shape.1 < 200) {
        let inputs = (1..5).map(|seed| noise(runtime, &[n * len, heads, d], seed)).collect::<Result<Vec<_>>>()?;
        let offsets = Offsets::equal(runtime, n, len)?;
        let [q, k, v, d_out] = [0, 1, 2, 3].map(|i: usize| part(&inputs[i].1, len, n - 1, heads - 1));
        let scale = 4.0 / (d as f64).sqrt();
        let want = reference::attention_backward([&q, &k, &v], &d_out, (&[len], &[len]), causal, scale);
        let options = Attention { causal, scale: Some(scale as f32) };
        let [q, k, v, d_out] = [0, 1, 2, 3].map(|i: usize| inputs[i].0.clone());
        let (out, lse) = attention_with_lse(&q, &k, &v, &offsets, &options)?;
        let runs = |variant: &&AttentionVariant| i < 2 && variant.backward_runs_on(runtime.profile(), DType::F32, d);
        for variant in [None].into_iter().chain(AttentionVariant::ALL.iter().filter(runs).map(Some)) {
            let operands = [&q, &k, &v, &out, &lse, &d_out].map(Tensor::clone);
            let (offsets, want) = (offsets.clone(), want.clone());
            let run = move || {
                let [q, k, v, out, lse, d_out] = &operands;
                let offsets = (&offsets, &offsets);
                gradients(variant.copied(), [q, k, v], [out, lse, d_out], offsets, &options, [true; 3])
            };
            let again = run.clone();
            cases.push(
                Case::new(
                    "attention/backward",
                    format!("{n}x{len}x{heads}x{d}"),
                    move || one(run()?, 0),
                    move |_| {
                        let all = again()?;
                        let mut errors = Vec::new();
                        for (i, want) in want.iter().enumerate() {
                            let got = one(all.clone(), i)?;
                            let data = got.to_vec::<f32>()?.into_iter().map(f64::from).collect();
                            let got = part(&Array::new(got.shape(), data), len, n - 1, heads - 1);
                            errors.extend(got.data.iter().zip(&want.data).map(|(g, w)| g - w));
                        }
                        Ok(worst(errors))
                    },
                )
                .variant(variant.map_or("auto", |variant| variant.name()))
                // As is customary: the scores, what flows into them, and three gradients, each computed once.
                .cost((10 * n * len * len * heads * d) as u64, (32 * n * len * heads * d) as u64)
                .tolerance(1e-4),
            );
        }
    }
    Ok(cases)
}

/// One of the gradients.
fn one(all: [Option<Tensor>; 3], i: usize) -> Result<Tensor> {
    all.into_iter().nth(i).flatten().ok_or_else(|| Error::Device("no gradient came back".into()))
}

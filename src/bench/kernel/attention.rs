use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::attention::{Attention, AttentionVariant, attention, attention_with};
use crate::reference::{Array, attention as reference};
use crate::runtime::Runtime;
use crate::tensor::{DType, Offsets};

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
];

/// One sequence's part of one head, as `[n, 1, d]`.
fn part(x: &Array, n: usize, sequence: usize, head: usize) -> Array {
    Array::from_fn(&[n, 1, x.shape[2]], |i| x.at(&[sequence * n + i[0], head, i[2]]))
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = if level == Level::Quick { &SHAPES[..2] } else { SHAPES };
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
    Ok(cases)
}

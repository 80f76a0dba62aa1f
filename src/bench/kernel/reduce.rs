use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::reduce::{ReduceOp, ReduceVariant, argmax, reduce_with};
use crate::reference::reduce as reference;
use crate::runtime::Runtime;

/// Shapes and the axes to reduce: one long row, rows, columns, global pooling.
const SHAPES: &[(&[usize], &[usize])] = &[
    (&[1 << 24], &[0]),
    (&[4096, 1024], &[1]),
    (&[65_536, 64], &[0]),
    (&[64, 16, 16, 64], &[1, 2]),
    (&[2364, 197], &[1]),
];
const TINY: &[(&[usize], &[usize])] =
    &[(&[5001], &[0]), (&[9, 257], &[1]), (&[300, 20], &[0]), (&[3, 5, 4, 20], &[1, 2])];
const OPS: &[(ReduceOp, &str)] =
    &[(ReduceOp::Sum, "reduce/sum"), (ReduceOp::Max, "reduce/max"), (ReduceOp::Var { unbiased: false }, "reduce/var")];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (shapes, ops) = match level {
        Level::Tiny => (TINY, OPS),
        Level::Quick => (&SHAPES[1..4], &OPS[..1]),
        Level::Full | Level::Stress => (SHAPES, OPS),
    };
    let mut cases = Vec::new();
    for &(shape, axes) in shapes {
        let (x, host_x) = noise(runtime, shape, 1)?;
        let n = x.len() as u64;
        let name = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        let scale = axes.iter().map(|axis| shape[*axis]).product::<usize>() as f64;
        for &(op, label) in ops {
            let want = reference::reduce(&host_x, axes, false, |values| match op {
                // In units of the terms' total, as the sum of noise is near 0.
                ReduceOp::Sum => reference::mean(values),
                ReduceOp::Max => reference::max(values),
                _ => reference::var(values, false),
            });
            for variant in ReduceVariant::ALL {
                let subgroups = variant != ReduceVariant::Subgroup || runtime.profile().features.subgroup;
                let fits = subgroups && (level != Level::Quick || variant == ReduceVariant::Vec4);
                if !fits {
                    continue;
                }
                let (x, want) = (x.clone(), want.clone());
                let unit = if op == ReduceOp::Sum { scale } else { 1.0 };
                cases.push(
                    Case::new(
                        label,
                        format!("{name} {axes:?}"),
                        move || reduce_with(Some(variant), op, &x, axes, false),
                        move |out| {
                            let got = out.to_vec::<f32>()?;
                            Ok(worst(got.iter().zip(&want.data).map(|(g, w)| f64::from(*g) / unit - w)))
                        },
                    )
                    .variant(variant.name())
                    .cost(n, 4 * n)
                    .tolerance(1e-6),
                );
            }
        }
    }
    let n = if level == Level::Tiny { 301 } else { 65_536 };
    let (x, host_x) = noise(runtime, &[n, 10], 1)?;
    let want = reference::reduce(&host_x, &[1], false, |values| reference::place(values, reference::max(values)));
    cases.push(
        Case::new(
            "reduce/argmax",
            format!("{n}x10 [1]"),
            move || argmax(&x, &[1], false),
            move |out| Ok(worst(out.to_vec::<u32>()?.iter().zip(&want.data).map(|(g, w)| f64::from(*g) - w))),
        )
        .cost(10 * n as u64, 40 * n as u64)
        .tolerance(0.0),
    );
    Ok(cases)
}

use crate::bench::{Case, Level, noise, worst};
use crate::ops::pool::{avg_pool2d, global_avg_pool, max_pool2d};
use crate::reference::pool as reference;
use crate::runtime::Runtime;
use crate::{Result, Tensor};

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let largest = |got: &Tensor, want: &[f64]| -> Result<f64> {
        Ok(worst(got.to_vec::<f32>()?.iter().zip(want).map(|(a, b)| f64::from(*a) - b)))
    };
    let tiny = level == Level::Tiny;
    let [n, size, c] = if tiny { [2, 13, 8] } else { [8, 112, 64] };
    let shape = format!("{n}x{c}x{size}x{size} 3x3 /2");
    let (x, array) = noise(runtime, &[n, size, size, c], 1)?;
    let (n, n_out) = (x.len() as u64, (n * size.div_ceil(2).pow(2) * c) as u64);
    let want = reference::max_pool2d(&array, [3; 2], [2; 2], [1; 2]).data;
    cases.push(
        Case::new(
            "pool/max_pool2d",
            shape,
            move || max_pool2d(&x, [3; 2], [2; 2], [1; 2]),
            move |out| largest(out, &want),
        )
        .cost(9 * n_out, 4 * (n + n_out))
        .tolerance(0.0),
    );
    if level == Level::Quick {
        return Ok(cases);
    }
    let [n, size, c] = if tiny { [2, 8, 12] } else { [64, 32, 16] };
    let shape = format!("{n}x{c}x{size}x{size} 2x2 /2");
    let (x, array) = noise(runtime, &[n, size, size, c], 2)?;
    let (n, n_out) = (x.len() as u64, (n * (size / 2).pow(2) * c) as u64);
    let want = reference::avg_pool2d(&array, [2; 2], [2; 2], [0; 2], true).data;
    cases.push(
        Case::new(
            "pool/avg_pool2d",
            shape,
            move || avg_pool2d(&x, [2; 2], [2; 2], [0; 2], true),
            move |out| largest(out, &want),
        )
        .cost(4 * n_out, 4 * (n + n_out))
        .tolerance(1e-6),
    );
    let shapes = if tiny { [[3, 8, 8, 12], [1, 7, 7, 70]] } else { [[64, 8, 8, 64], [1, 7, 7, 2048]] };
    for shape in shapes {
        let (x, array) = noise(runtime, &shape, 3)?;
        let n = x.len() as u64;
        let want = reference::global_avg_pool(&array).data;
        let [images, size, _, c] = shape;
        let text = format!("{images}x{c}x{size}x{size}");
        cases.push(
            Case::new("pool/global_avg_pool", text, move || global_avg_pool(&x), move |out| largest(out, &want))
                .cost(n, 4 * (n + (images * c) as u64))
                .tolerance(1e-6),
        );
    }
    Ok(cases)
}

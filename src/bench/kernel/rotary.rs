use crate::Result;
use crate::bench::{Case, Level, noise, worst};
use crate::ops::rotary::{Style, rotate};
use crate::reference::{self, Array};
use crate::runtime::Runtime;
use crate::tensor::Tensor;

/// Tokens, heads, elements of a head: queries of a small language model, of a batch of long texts, and of one step of
/// generation.
const SHAPES: &[(usize, usize, usize)] = &[(1024, 8, 64), (8192, 16, 64), (8, 32, 128)];
/// Tokens at the front that are checked.
const CHECKED: usize = 64;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => &[(7, 3, 24)],
        Level::Quick => &SHAPES[..1],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for &(n, heads, d) in shapes {
        let (x, host) = noise(runtime, &[n, heads, d], 1)?;
        let positions: Vec<u32> = (0..n as u32).collect();
        let on = Tensor::from_slice(runtime, &positions, &[n])?;
        for (style, label) in [(Style::Adjacent, "adjacent"), (Style::Halves, "halves")] {
            let (x, on, checked) = (x.clone(), on.clone(), n.min(CHECKED));
            let front = Array::new(&[checked, heads, d], host.data[..checked * heads * d].to_vec());
            let want = reference::rotary::rotate(&front, &positions[..checked], 1e4, style);
            cases.push(
                Case::new(
                    "rotary/rotate",
                    format!("{n}x{heads}x{d}"),
                    move || rotate(&x, &on, 1e4, style),
                    move |out| {
                        let got = out.to_vec::<f32>()?;
                        Ok(worst(got.iter().zip(&want.data).map(|(g, w)| f64::from(*g) - w)))
                    },
                )
                .variant(label)
                .cost(3 * (n * heads * d) as u64, (8 * n * heads * d) as u64)
                .tolerance(1e-5),
            );
        }
    }
    Ok(cases)
}

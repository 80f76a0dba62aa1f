use crate::Result;
use crate::bench::{Case, Level, noise};
use crate::ops::topk::{TopkVariant, topk_with};
use crate::reference::Array;
use crate::reference::topk as reference;
use crate::runtime::Runtime;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes: &[(usize, usize, usize)] = match level {
        Level::Tiny => &[(3, 1501, 20), (2, 1501, 200)],
        Level::Quick => &[(256, 10_000, 20), (256, 10_000, 200)],
        Level::Full | Level::Stress => {
            &[(256, 10_000, 20), (256, 10_000, 200), (4096, 1000, 5), (1, 1 << 22, 32), (1, 1 << 22, 1024)]
        }
    };
    let mut cases = Vec::new();
    for &(rows, n, k) in shapes {
        let (x, array) = noise(runtime, &[rows, n], 9)?;
        for variant in TopkVariant::ALL {
            if matches!(variant, TopkVariant::Lists(_)) && k > 32 {
                continue;
            }
            let (x, last) = (x.clone(), Array::new(&[n], array.data[(rows - 1) * n..].to_vec()));
            cases.push(
                Case::new(
                    "topk/topk",
                    format!("{rows}x{n} k{k}"),
                    move || Ok(topk_with(variant, &x, k, true)?.1),
                    // The indices of the last row: the shifts of all rows before it have added up.
                    move |out| {
                        let want = reference::topk(&last, k, true).1;
                        let got = out.to_vec::<u32>()?;
                        Ok(got[(rows - 1) * k..].iter().zip(&want).filter(|(g, w)| g != w).count() as f64)
                    },
                )
                .cost((rows * n) as u64, 4 * (rows * n) as u64)
                .tolerance(0.0)
                .variant(match variant {
                    TopkVariant::Lists(variant) => format!("lists {variant:?}").to_lowercase(),
                    TopkVariant::Select(variant) => format!("select {variant:?}").to_lowercase(),
                }),
            );
        }
    }
    Ok(cases)
}

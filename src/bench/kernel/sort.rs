use crate::bench::{Case, Level};
use crate::ops::random::{self, Key};
use crate::ops::sort::{self, SortVariant};
use crate::reference::random as reference;
use crate::runtime::Runtime;
use crate::tensor::DType;
use crate::{Error, Result};

const KEY: Key = Key::new(4, 5, 6);

/// 0 if `got` is `want`, else the share of wrong elements.
fn wrong(got: &[u32], want: &[u32]) -> Result<f64> {
    if got.len() != want.len() {
        return Err(Error::Device(format!("{} elements, {} wanted", got.len(), want.len())));
    }
    Ok(got.iter().zip(want).filter(|(g, w)| g != w).count() as f64 / want.len() as f64)
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let sizes: &[usize] = match level {
        Level::Tiny => &[3001],
        Level::Quick => &[1 << 20],
        Level::Full | Level::Stress => &[1 << 16, 1 << 20, 1 << 22],
    };
    let mut cases = Vec::new();
    for &n in sizes {
        let x = random::bits(runtime, n, KEY)?;
        for variant in SortVariant::ALL {
            let name = format!("{variant:?}").to_lowercase();
            let input = x.clone();
            cases.push(
                Case::new(
                    "sort/sort_pairs",
                    format!("{n}"),
                    move || Ok(sort::sort_pairs_with(variant, &input, &input, 0..32)?.1),
                    move |out| {
                        let mut want = reference::bits(n, KEY);
                        want.sort_unstable();
                        wrong(&out.to_vec()?, &want)
                    },
                )
                // Keys are read twice and written once per pass of 8 bits, values read and written once.
                .cost(0, 4 * 20 * n as u64)
                .variant(name.clone()),
            );
            let input = x.clone();
            cases.push(
                Case::new(
                    "sort/exclusive_scan",
                    format!("{n}"),
                    move || sort::scan_with(variant, &input, false),
                    move |out| {
                        let mut sum = 0_u32;
                        let step = |w: u32| {
                            let before = sum;
                            sum = sum.wrapping_add(w);
                            before
                        };
                        wrong(&out.to_vec()?, &reference::bits(n, KEY).into_iter().map(step).collect::<Vec<_>>())
                    },
                )
                .cost(n as u64, 8 * n as u64)
                .variant(name),
            );
        }
    }
    Ok(cases.into_iter().map(|case| case.dtype(DType::U32).tolerance(0.0)).collect())
}

use crate::Result;
use crate::bench::{Case, Level, noise, spot};
use crate::ops::{Act, elementwise as e};
use crate::reference::elementwise::act;
use crate::runtime::Runtime;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let sizes: &[usize] = match level {
        Level::Tiny => &[1001],
        Level::Quick => &[1 << 22],
        Level::Full | Level::Stress => &[1 << 16, 1 << 24],
    };
    let mut cases = Vec::new();
    for &n in sizes {
        let ((a, ra), (b, rb)) = (noise(runtime, &[n], 1)?, noise(runtime, &[n], 2)?);
        let (x, y, rx) = (a.clone(), b.clone(), ra.clone());
        cases.push(
            Case::new(
                "elementwise/add",
                format!("{n}"),
                move || e::add(&x, &y),
                move |out| Ok(spot(&out.to_vec()?, 4096, |i| rx.data[i] + rb.data[i])),
            )
            .cost(n as u64, 12 * n as u64)
            .tolerance(1e-6),
        );
        let (x, rx) = (a.clone(), ra);
        cases.push(
            Case::new(
                "elementwise/gelu",
                format!("{n}"),
                move || e::gelu(&x),
                move |out| Ok(spot(&out.to_vec()?, 4096, |i| act(Act::Gelu, rx.data[i]))),
            )
            .cost(20 * n as u64, 8 * n as u64)
            .tolerance(1e-5),
        );
    }
    Ok(cases)
}

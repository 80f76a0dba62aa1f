use crate::Result;
use crate::bench::{Case, Level, worst};
use crate::ops::random::{self, Key};
use crate::reference::random as reference;
use crate::runtime::Runtime;
use crate::tensor::DType;

const KEY: Key = Key::new(1, 2, 3);
/// Draws at the front that are checked.
const CHECKED: usize = 65_536;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let n: usize = match level {
        Level::Tiny => 3001,
        Level::Quick => 1 << 20,
        Level::Full | Level::Stress => 1 << 24,
    };
    let largest = |got: &[f32], want: &[f64]| worst(got.iter().zip(want).map(|(g, w)| f64::from(*g) - w));
    let rt = runtime.clone();
    let bits = Case::new(
        "random/bits",
        format!("{n}"),
        move || random::bits(&rt, n, KEY),
        |out| {
            let differ = |(got, want): (&u32, &u32)| usize::from(got != want);
            let wrong: usize = out.to_vec::<u32>()?.iter().zip(&reference::bits(CHECKED, KEY)).map(differ).sum();
            Ok(wrong as f64)
        },
    );
    let rt = runtime.clone();
    let uniform = Case::new(
        "random/uniform",
        format!("{n}"),
        move || random::uniform(&rt, &[n], 0.0, 1.0, KEY),
        move |out| Ok(largest(&out.to_vec()?, &reference::uniform(&[CHECKED], 0.0, 1.0, KEY).data)),
    );
    let rt = runtime.clone();
    let normal = Case::new(
        "random/normal",
        format!("{n}"),
        move || random::normal(&rt, &[n], 0.0, 1.0, KEY),
        move |out| Ok(largest(&out.to_vec()?, &reference::normal(&[CHECKED], 0.0, 1.0, KEY).data)),
    );
    let (rt, m) = (runtime.clone(), n.min(1 << 16));
    let permutation = Case::new(
        "random/permutation",
        format!("{m}"),
        move || random::permutation(&rt, m, KEY),
        move |out| {
            let want = reference::permutation(m, KEY);
            Ok(out.to_vec::<u32>()?.iter().zip(&want).filter(|(g, w)| g != w).count() as f64)
        },
    )
    .cost(0, 8 * m as u64)
    .dtype(DType::U32)
    .tolerance(0.0);
    let cost = |case: Case, tolerance| case.cost(0, 4 * n as u64).tolerance(tolerance);
    Ok(vec![cost(bits, 0.0).dtype(DType::U32), cost(uniform, 0.0), cost(normal, 1e-5), permutation])
}

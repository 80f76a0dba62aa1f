use crate::Result;
use crate::bench::{Case, Level, noise, noise_as, spot};
use crate::ops::Act;
use crate::ops::elementwise::cast;
use crate::ops::matmul::{Variant, linear, matmul, matmul_with};
use crate::reference::Array;
use crate::reference::elementwise::act as activated;
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use std::rc::Rc;

/// `[batch, m, k]` times `[k, n]`, or times `[batch, k, n]`.
const SHAPES: &[(usize, usize, usize, usize, bool)] = &[
    (1, 512, 512, 512, false),
    (1, 1024, 1024, 1024, false),
    (4, 197, 192, 768, false),
    (4, 197, 768, 192, false),
    (4, 197, 192, 576, false),
    (1, 256, 256, 256, false),
    (1, 197, 192, 768, false),
    (12, 197, 64, 197, true),
    (1, 64, 64, 10, false),
    (1, 1000, 512, 10, false),
    (1, 1, 768, 1000, false),
    (1, 1000, 768, 1, false),
];

const TINY: &[(usize, usize, usize, usize, bool)] =
    &[(1, 37, 40, 36, false), (2, 17, 33, 50, true), (1, 1, 70, 100, false), (1, 100, 70, 1, false)];

/// Sides of square f16 products.
const HALVES: &[usize] = &[1024];

/// `a` stored `[k, m]`, times `[k, n]`, as for the gradient of a weight: k, m, n.
const GRADIENTS: &[(usize, usize, usize)] = &[(131_072, 16, 16), (65_536, 64, 64), (65_536, 144, 16), (8192, 192, 768)];

/// Element `i` of the product in row-major order.
fn element(a: &Array, b: &Array, i: usize) -> f64 {
    let [_, m, k] = a.shape[..] else { return f64::NAN };
    let n = b.shape[b.shape.len() - 1];
    let (batch, row, col) = (i / n / m, i / n % m, i % n);
    let first = if b.shape.len() == 3 { batch * k * n } else { 0 };
    (0..k).map(|l| a.data[(batch * m + row) * k + l] * b.data[first + l * n + col]).sum()
}

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = match level {
        Level::Tiny => TINY,
        Level::Quick => &SHAPES[..4],
        Level::Full | Level::Stress => SHAPES,
    };
    let mut cases = Vec::new();
    for (i, &(batch, m, k, n, b_batched)) in shapes.iter().enumerate() {
        let (a, ra) = noise(runtime, &[batch, m, k], 2 * i as u64)?;
        let b_shape = [batch, k, n];
        let (b, rb) = noise(runtime, if b_batched { &b_shape } else { &b_shape[1..] }, 2 * i as u64 + 1)?;
        let bytes = 4 * (a.len() + b.len() + batch * m * n) as u64;
        let shape = if batch == 1 { format!("{m}x{k}x{n}") } else { format!("{batch}x{m}x{k}x{n}") };
        let mut add = |variant: Option<Variant>| {
            let (a, b, ra, rb) = (a.clone(), b.clone(), ra.clone(), rb.clone());
            let run = move || match variant {
                None => matmul(&a, &b),
                Some(variant) => matmul_with(variant, &a, &b),
            };
            let check = move |out: &Tensor| Ok(spot(&out.to_vec()?, 200, |i| element(&ra, &rb, i)));
            // Sums of up to 1024 products below 1.
            let case = Case::new("matmul/matmul", shape.as_str(), run, check)
                .variant(variant.map_or_else(|| "auto".to_owned(), |v| format!("{v:?}").to_lowercase()))
                .cost(2 * (batch * m * k * n) as u64, bytes)
                .tolerance(2e-4);
            cases.push(case);
        };
        add(None);
        if level != Level::Quick {
            let fits = |v: &Variant| {
                let vector = matches!(v, Variant::Vector | Variant::VectorShared);
                v.runs_on(runtime.profile(), DType::F32) && (m == 1 || n == 1 || !vector)
            };
            Variant::ALL.iter().copied().filter(fits).for_each(|v| add(Some(v)));
        }
    }
    cases.extend(halves(runtime, level)?);
    let gradients = match level {
        Level::Tiny => &[(300, 16, 20)],
        Level::Quick => &GRADIENTS[..1],
        Level::Full | Level::Stress => GRADIENTS,
    };
    for (i, &(k, m, n)) in gradients.iter().enumerate() {
        let ((a, ra), (b, rb)) =
            (noise(runtime, &[k, m], 60 + 2 * i as u64)?, noise(runtime, &[k, n], 61 + 2 * i as u64)?);
        let want = move |i: usize| (0..k).map(|l| ra.data[l * m + i / n] * rb.data[l * n + i % n]).sum();
        let check = move |out: &Tensor| Ok(spot(&out.to_vec()?, 50, &want));
        // Partial sums of some hundreds.
        cases.push(
            Case::new("matmul/transposed a", format!("{m}x{k}x{n}"), move || matmul(&a.transpose()?, &b), check)
                .cost(2 * (m * k * n) as u64, 4 * (k * (m + n) + m * n) as u64)
                .tolerance(2e-3),
        );
    }
    for act in [Act::None, Act::Gelu] {
        let (m, k, n) = if level == Level::Tiny { (37, 48, 72) } else { (788, 192, 768) };
        let ((x, rx), (w, rw)) = (noise(runtime, &[1, m, k], 90)?, noise(runtime, &[k, n], 91)?);
        let (bias, rbias) = noise(runtime, &[n], 92)?;
        let check = move |out: &Tensor| {
            Ok(spot(&out.to_vec()?, 200, |i| activated(act, element(&rx, &rw, i) + rbias.data[i % n])))
        };
        let name = format!("matmul/linear {act:?}").to_lowercase();
        cases.push(
            Case::new(name, format!("{m}x{k}x{n}"), move || linear(&x, &w, Some(&bias), act), check)
                .cost(2 * (m * k * n) as u64, 4 * (m * k + k * n + m * n) as u64)
                .tolerance(2e-4),
        );
    }
    Ok(cases)
}

/// Products in f16, where tensor cores may do the work.
fn halves(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let profile = runtime.profile();
    let sides: &[usize] = match level {
        _ if !profile.features.f16 => &[],
        Level::Tiny => &[70],
        _ => HALVES,
    };
    let mut cases = Vec::new();
    for (i, &n) in sides.iter().enumerate() {
        let (a, ra) = noise_as(runtime, &[1, n, n], 70 + 2 * i as u64, DType::F16)?;
        let (b, rb) = noise_as(runtime, &[n, n], 71 + 2 * i as u64, DType::F16)?;
        let (ra, rb) = (Rc::new(ra), Rc::new(rb));
        let tiled = |v: &Variant| matches!(v, Variant::Tiled64 | Variant::Tiled128) && !profile.is_software();
        let fits =
            |v: &&Variant| v.runs_on(profile, DType::F16) && (tiled(v) || v.is_cooperative()) && level != Level::Quick;
        for variant in std::iter::once(None).chain(Variant::ALL.iter().filter(fits).copied().map(Some)) {
            let (a, b, ra, rb) = (a.clone(), b.clone(), ra.clone(), rb.clone());
            let run = move || match variant {
                None => matmul(&a, &b),
                Some(variant) => matmul_with(variant, &a, &b),
            };
            let check = move |out: &Tensor| Ok(spot(&cast(out, DType::F32)?.to_vec()?, 200, |i| element(&ra, &rb, i)));
            cases.push(
                Case::new("matmul/matmul", format!("{n}x{n}x{n}"), run, check)
                    .dtype(DType::F16)
                    .variant(variant.map_or_else(|| "auto".to_owned(), |v| format!("{v:?}").to_lowercase()))
                    .cost(2 * (n * n * n) as u64, 3 * 2 * (n * n) as u64)
                    // Results below 128, rounded to f16; a product left out is off by about 0.3.
                    .tolerance(0.07),
            );
        }
    }
    Ok(cases)
}

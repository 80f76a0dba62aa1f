//! Benchmarks: what an adapter can do at most, and cases over the op families, checked before they are timed.

mod case;
pub mod compare;
mod compile;
mod config;
#[cfg(feature = "sim")]
pub mod coverage;
mod field;
mod figures;
pub mod kernel;
mod measure;
mod micro;
mod page;
mod pages;
mod pipeline;
mod pipeline_finetune;
mod pipeline_ssl;
mod pipeline_text;
mod roofline;
#[cfg(feature = "sim")]
pub mod sanitize;
mod saved;
mod source;
mod suite;

pub use case::{Case, Gate, Parts};
pub use compare::By;
pub use config::{Command, Config, SuiteFlags};
pub use figures::{Peaks, Quality, Row};
pub use measure::{Timing, measure};
pub use pages::{ReportFlags, Reports};
pub use pipeline::TrainingStep;
pub use suite::{BenchReport, Clocks, Conditions, Left, SCHEMA, list, run};

use crate::ops::elementwise::cast;
use crate::reference::Array;
use crate::runtime::{Kernel, Runtime};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The kernels that only measure.
#[must_use]
pub fn kernels() -> Vec<&'static Kernel> {
    micro::KERNELS.iter().chain(source::KERNELS).collect()
}

/// How much of a suite to build; each level has what those before it have.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Shapes for the kernel simulator, every variant, some seconds per family
    #[value(skip)]
    Tiny,
    /// A few shapes per family, under a minute on a software adapter
    #[default]
    Quick,
    /// Every shape, under ten minutes on a software adapter; rows of which a run takes over 2 s are skipped
    Full,
    /// As full, with larger shapes, slow rows, and each row repeated until clocks settle; takes as long as it takes
    Stress,
}

/// The largest size among errors, infinite if one is not a number: a plain maximum would pass over it.
pub fn worst(errors: impl IntoIterator<Item = f64>) -> f64 {
    errors.into_iter().fold(0.0, |worst: f64, e| if e.is_nan() { f64::INFINITY } else { worst.max(e.abs()) })
}

/// The largest difference over about `n_points` elements, the last among them: enough to see a wrong kernel, and quick.
pub fn spot(got: &[f32], n_points: usize, want: impl Fn(usize) -> f64) -> f64 {
    // Odd, so that no power of two in a shape hides a column.
    let step = (got.len() / n_points.max(1)).max(1) | 1;
    let points = (0..got.len()).step_by(step).chain(got.len().checked_sub(1));
    worst(points.map(|i| f64::from(got[i]) - want(i)))
}

/// Pseudo-random values in -1..1 from `seed`, never zeros, as an f32 tensor and for the check.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn noise(runtime: &Runtime, shape: &[usize], seed: u64) -> Result<(Tensor, Array)> {
    let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n)
        .map(|_| {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
            (bits as f32 + 0.5) / (1 << 23) as f32 - 1.0
        })
        .collect();
    let array = Array::new(shape, data.iter().map(|v| f64::from(*v)).collect());
    Ok((Tensor::from_slice(runtime, &data, shape)?, array))
}

/// [`noise`] in f32 or f16, rounded for the check, too.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn noise_as(runtime: &Runtime, shape: &[usize], seed: u64, dtype: DType) -> Result<(Tensor, Array)> {
    let (x, mut array) = noise(runtime, shape, seed)?;
    if dtype == DType::F16 {
        array.data.iter_mut().for_each(|v| *v = half::f16::from_f64(*v).to_f64());
    }
    Ok((cast(&x, dtype)?, array))
}

/// The whole of a `harness = false` bench: times the cases of one family and prints a line each.
///
/// # Errors
/// What the cases return.
pub fn family_main(family: &str) -> Result<()> {
    use std::io::Write;
    let runtime = Runtime::new(&std::env::var("LEANVISION_DEVICE").unwrap_or_else(|_| "auto".into()).parse()?)?;
    let mut out = std::io::stdout().lock();
    let mut line = |text: String| writeln!(out, "{text}").map_err(|e| Error::Device(format!("standard output: {e}")));
    line(format!("{}", runtime.profile()))?;
    line(format!(
        "{:<34} {:<24} {:<5} {:<18} {:>10} {:>9} {:>8} {:>12} {:>11}",
        "name", "shape", "type", "variant", "ms", "GFLOP/s", "GB/s", "GFLOP/CPU s", "GB/CPU s"
    ))?;
    for case in kernel::cases(&runtime, family, Level::Full)? {
        if let Err(error) = case.fits(&runtime) {
            line(format!("{:<34} {:<24} {:<5} left out: {error}", case.name, case.shape, case.dtype.to_string()))?;
            continue;
        }
        case.verify()?;
        let t = case.time(&runtime, 0.5)?;
        line(format!(
            "{:<34} {:<24} {:<5} {:<18} {:>10.4} {:>9.2} {:>8.2} {:>12.2} {:>11.2}",
            case.name,
            case.shape,
            case.dtype.to_string(),
            case.variant,
            t.median_ms,
            case.flops as f64 / t.median_ms / 1e6,
            case.bytes as f64 / t.median_ms / 1e6,
            case.flops as f64 / t.cpu_ms / 1e6,
            case.bytes as f64 / t.cpu_ms / 1e6,
        ))?;
    }
    Ok(())
}

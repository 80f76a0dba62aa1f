//! Benchmarks: what an adapter can do at most, and cases over the op families, checked before they are timed.

pub mod compare;
mod config;
#[cfg(feature = "sim")]
pub mod coverage;
mod figures;
pub mod kernel;
mod measure;
mod micro;
mod page;
mod pages;
mod pipeline;
mod roofline;
#[cfg(feature = "sim")]
pub mod sanitize;
mod saved;
mod suite;

pub use compare::By;
pub use config::{Command, Config, SuiteFlags};
pub use figures::{Peaks, Row};
pub use measure::{Timing, measure};
pub use pages::{ReportFlags, Reports};
pub use pipeline::TrainingStep;
pub use suite::{BenchReport, Conditions, Left, SCHEMA, list, run};

use crate::reference::Array;
use crate::runtime::{Kernel, Runtime};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::time::Instant;

/// The kernels that only measure.
#[must_use]
pub fn kernels() -> Vec<&'static Kernel> {
    micro::KERNELS.iter().collect()
}

/// How much of a suite to build.
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
    /// Every shape, under ten minutes on a software adapter
    Full,
}

/// What a case runs.
type Run = Box<dyn Fn() -> Result<Tensor>>;
/// What a case checks: the largest error of a result over its tolerance's scale, or why it is wrong.
type Check = Box<dyn Fn(&Tensor) -> Result<f64>>;

/// One thing to time: an op on fixed inputs, with the check that its result must pass first.
pub struct Case {
    /// The op, as `family/op`.
    pub name: String,
    /// Shape as a reader writes it, such as `512x512x512`.
    pub shape: String,
    /// Element type of the inputs.
    pub dtype: DType,
    /// The variant, such as `plain`, `registers 8x8`, `auto`.
    pub variant: String,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Bytes that one run must move.
    pub bytes: u64,
    /// Things that one run works off, such as images, and what they are; 0 where there are none to count.
    pub items: (u64, &'static str),
    /// Largest error that passes, in the unit that `check` answers.
    pub tolerance: f64,
    run: Run,
    check: Check,
}

impl Case {
    /// A case; `check` answers the largest error of a result.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<String>,
        run: impl Fn() -> Result<Tensor> + 'static,
        check: impl Fn(&Tensor) -> Result<f64> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            dtype: DType::F32,
            variant: "auto".into(),
            flops: 0,
            bytes: 0,
            items: (0, ""),
            tolerance: 1e-4,
            run: Box::new(run),
            check: Box::new(check),
        }
    }

    /// With this cost of one run: floating-point operations, and bytes that must move.
    #[must_use]
    pub fn cost(mut self, flops: u64, bytes: u64) -> Self {
        (self.flops, self.bytes) = (flops, bytes);
        self
    }

    /// With this number of things that one run works off, such as images.
    #[must_use]
    pub fn items(mut self, n: u64, what: &'static str) -> Self {
        self.items = (n, what);
        self
    }

    /// With this element type.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// With this variant's name.
    #[must_use]
    pub fn variant(mut self, variant: impl Into<String>) -> Self {
        self.variant = variant.into();
        self
    }

    /// With this tolerance, in the unit that the check answers.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Runs once, compilation included, and checks the result: the largest error, and the run's time in ms.
    ///
    /// # Errors
    /// What the op and its check return.
    pub fn first(&self) -> Result<(f64, f64)> {
        let start = Instant::now();
        let out = (self.run)()?;
        out.runtime().sync()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(((self.check)(&out)?, ms))
    }

    /// Whether an error that [`Case::first`] answered passes.
    #[must_use]
    pub fn allows(&self, error: f64) -> bool {
        error <= self.tolerance
    }

    /// Runs once and checks the result; answers the largest error.
    ///
    /// # Errors
    /// What the op returns, or [`Error::Device`] if the result is wrong.
    pub fn verify(&self) -> Result<f64> {
        let (error, _) = self.first()?;
        if self.allows(error) {
            return Ok(error);
        }
        Err(Error::Device(format!(
            "{} {} ({}) is wrong: error {error:e}, {:e} allowed",
            self.name, self.shape, self.variant, self.tolerance
        )))
    }

    /// Times it for about `seconds`, at least 5 runs.
    ///
    /// # Errors
    /// What the op returns.
    pub fn time(&self, runtime: &Runtime, seconds: f64) -> Result<Timing> {
        measure(runtime, seconds, || (self.run)().map(drop))
    }
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

//! One thing to time: an op on fixed inputs, with the check that its result must pass first.

use std::cell::OnceCell;
use std::time::Instant;

use super::{Timing, measure};
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What a case runs.
type Run = Box<dyn Fn() -> Result<Tensor>>;
/// What a case checks: the largest error of a result over its tolerance's scale, or why it is wrong.
type Check = Box<dyn Fn(&Tensor) -> Result<f64>>;
/// What makes a case's inputs.
type Make = Box<dyn Fn() -> Result<Parts>>;

/// What a case runs and how its result is checked, over inputs that are there.
pub struct Parts {
    run: Run,
    check: Check,
    gate: Option<Gate>,
}

impl Parts {
    /// `run`, and `check`, which answers the largest error of its result.
    pub fn new(run: impl Fn() -> Result<Tensor> + 'static, check: impl Fn(&Tensor) -> Result<f64> + 'static) -> Self {
        Self { run: Box::new(run), check: Box::new(check), gate: None }
    }

    /// With a gate.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.gate = Some(gate);
        self
    }
}

/// What a whole method must reach besides passing its check: a figure of quality that stands beside its speed.
pub struct Gate {
    /// What the figure is.
    pub what: String,
    /// The most that passes.
    pub bound: f64,
    measure: Box<dyn Fn() -> Result<f64>>,
}

impl Gate {
    /// A figure called `what`, at most `bound`.
    pub fn new(what: impl Into<String>, bound: f64, measure: impl Fn() -> Result<f64> + 'static) -> Self {
        Self { what: what.into(), bound, measure: Box::new(measure) }
    }
}

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
    /// Largest error that passes, in the unit that the check answers.
    pub tolerance: f64,
    /// Device memory that it takes, in bytes: the largest tensor, and all together; 0 where nobody estimated it.
    pub memory: (u64, u64),
    parts: OnceCell<Parts>,
    make: Option<Make>,
}

impl Case {
    fn with(name: String, shape: String, parts: OnceCell<Parts>, make: Option<Make>) -> Self {
        Self {
            name,
            shape,
            dtype: DType::F32,
            variant: "auto".into(),
            flops: 0,
            bytes: 0,
            items: (0, ""),
            tolerance: 1e-4,
            memory: (0, 0),
            parts,
            make,
        }
    }

    /// A case; `check` answers the largest error of a result.
    pub fn new(
        name: impl Into<String>,
        shape: impl Into<String>,
        run: impl Fn() -> Result<Tensor> + 'static,
        check: impl Fn(&Tensor) -> Result<f64> + 'static,
    ) -> Self {
        Self::with(name.into(), shape.into(), OnceCell::from(Parts::new(run, check)), None)
    }

    /// A case whose inputs are made when it is first run: one that is left out takes no memory and no time.
    pub fn deferred(
        name: impl Into<String>,
        shape: impl Into<String>,
        make: impl Fn() -> Result<Parts> + 'static,
    ) -> Self {
        Self::with(name.into(), shape.into(), OnceCell::new(), Some(Box::new(make)))
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

    /// With this estimate of the device memory it takes, in bytes: the largest tensor, and all together.
    #[must_use]
    pub fn memory(mut self, largest: u64, all: u64) -> Self {
        self.memory = (largest, all);
        self
    }

    /// Whether it measures what the adapter can do at most.
    #[must_use]
    pub fn is_micro(&self) -> bool {
        self.name.starts_with("micro/")
    }

    /// Whether its inputs are still to be made.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.parts.get().is_none()
    }

    /// Whether the adapter has room for it, by the estimate of its memory; nothing is allocated to find out.
    ///
    /// # Errors
    /// [`Error::Limit`] with the numbers if it does not.
    pub fn fits(&self, runtime: &Runtime) -> Result<()> {
        let profile = runtime.profile();
        let refuse = |what: &str, asked, limit, adapter: &str| {
            let (what, adapter) = (what.to_string(), adapter.to_string());
            if asked <= limit { Ok(()) } else { Err(Error::Limit { what, asked, limit, adapter }) }
        };
        let (largest, all) = self.memory;
        let limit = profile.limits.binding_bytes.min(profile.limits.buffer_bytes);
        refuse("bytes of one tensor", largest, limit, &profile.name)?;
        if let Some(limit) = runtime.options().memory_limit {
            refuse("bytes of all tensors", all, limit, "the memory limit")?;
        }
        // A software adapter that asks for more than there is brings the machine down, not an error.
        match free_memory().filter(|_| profile.is_software()) {
            Some(free) => refuse("bytes of all tensors", all, free / 4 * 3, "the machine's free memory"),
            None => Ok(()),
        }
    }

    /// What it runs and how that is checked, made if they are still to be made.
    pub(super) fn into_parts(self) -> Result<Parts> {
        self.parts()?;
        self.parts.into_inner().ok_or_else(|| Error::Device(format!("{} has nothing to run", self.name)))
    }

    fn parts(&self) -> Result<&Parts> {
        if let Some(parts) = self.parts.get() {
            return Ok(parts);
        }
        let make = self.make.as_ref().ok_or_else(|| Error::Device(format!("{} has nothing to run", self.name)))?;
        let parts = make()?;
        Ok(self.parts.get_or_init(|| parts))
    }

    /// Runs once, compilation included, and checks the result: the largest error, and the run's time in ms.
    ///
    /// # Errors
    /// What the op and its check return.
    pub fn first(&self) -> Result<(f64, f64)> {
        let parts = self.parts()?;
        let start = Instant::now();
        let out = (parts.run)()?;
        out.runtime().sync()?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(((parts.check)(&out)?, ms))
    }

    /// The figure of its gate, with what it is and the most that passes; `None` without a gate.
    ///
    /// # Errors
    /// What measuring it returns.
    pub fn quality(&self) -> Result<Option<(&str, f64, f64)>> {
        let gate = self.parts()?.gate.as_ref();
        gate.map(|gate| Ok((gate.what.as_str(), (gate.measure)()?, gate.bound))).transpose()
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

    /// Times it for about `seconds`, at least 5 runs; fewer where one takes long.
    ///
    /// # Errors
    /// What the op returns.
    pub fn time(&self, runtime: &Runtime, seconds: f64) -> Result<Timing> {
        let parts = self.parts()?;
        measure(runtime, seconds, || (parts.run)().map(drop))
    }
}

/// Memory that the machine has left, in bytes, where the system tells.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RuntimeOptions;
    use crate::{DeviceChoice, Error};

    #[test]
    fn what_does_not_fit_is_told_before_anything_is_made() {
        let options = RuntimeOptions { memory_limit: Some(1 << 20), ..RuntimeOptions::default() };
        let Ok(runtime) = Runtime::with_options(&DeviceChoice::default(), options) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let never =
            || -> Case { Case::deferred("a/b", "1", || Err(Error::Input("made".into()))).memory(1 << 10, 1 << 10) };
        let case = never();
        assert!(case.is_deferred() && case.fits(&runtime).is_ok());
        assert!(case.first().unwrap_err().to_string().contains("made"));
        let reason = |case: Case| case.fits(&runtime).unwrap_err().to_string();
        let limits = &runtime.profile().limits;
        let limit = limits.binding_bytes.min(limits.buffer_bytes);
        assert!(never().memory(limit, 0).fits(&runtime).is_ok());
        assert!(reason(never().memory(limit + 1, 0)).starts_with(&format!("bytes of one tensor: {} asked", limit + 1)));
        assert!(never().memory(0, 1 << 20).fits(&runtime).is_ok());
        assert!(reason(never().memory(0, (1 << 20) + 1)).contains("the memory limit allows 1048576"));
        assert_eq!(runtime.memory().reserved_bytes, 0);
    }

    #[test]
    fn a_software_adapter_has_no_more_memory_than_the_machine() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let case = Case::deferred("a/b", "1", || Err(Error::Input("made".into()))).memory(0, 1 << 50);
        let asked_for_too_much = runtime.profile().is_software() && free_memory().is_some();
        assert_eq!(case.fits(&runtime).is_err(), asked_for_too_much);
    }
}

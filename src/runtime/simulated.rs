//! A simulated device: launches run in the kernel simulator, memory is the host's, and no GPU is needed.
//!
//! The wgpu device beneath is wgpu's back end that does nothing; it only lends the handles that a [`Runtime`] has.

use super::buffer::Buffer;
use super::dispatch::Launch;
use super::{
    DeviceFeatures, DeviceLimits, DeviceProfile, Inner, Kernel, PARAMS_BYTES, Runtime, RuntimeOptions, device, pipeline,
};
use crate::sim::{self, Access, Bound, Check, Finding, Outcome, Place, Program, Source};
use crate::tensor::DType;
use crate::{Error, Result};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const KINDS: [&str; 5] = ["cpu", "discrete", "integrated", "virtual", "other"];

/// What lies behind a tensor's last element, in bytes at even places and odd ones: kernels may compute with it, so it is a
/// number that every type converts to (1.9e4 as f32, 6.6 as f16), but far from what a test expects.
const PADDING: [u8; 2] = [0x93, 0x46];

/// What [`Runtime::simulated`] simulates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedDevice {
    /// Subgroup size, schedule and checks of every launch.
    pub options: sim::Options,
    /// `cpu`, `discrete`, `integrated`, `virtual` or `other`: ops choose the variants that adapters of this kind get.
    pub kind: &'static str,
    /// Workgroups per dimension of one dispatch; longer grids are folded.
    pub groups_per_dimension: u32,
    /// 16-bit floats in shaders and buffers.
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Immediates; without them parameters go through a uniform buffer.
    pub immediates: bool,
    /// Cooperative matrices, of both sizes.
    pub cooperative: bool,
    /// Keep every launch with its inputs for [`Runtime::take_launches`].
    pub capture: bool,
}

impl Default for SimulatedDevice {
    fn default() -> Self {
        Self {
            options: sim::Options::default(),
            kind: "cpu",
            groups_per_dimension: 65_535,
            f16: true,
            subgroups: true,
            immediates: true,
            cooperative: true,
            capture: false,
        }
    }
}

impl fmt::Display for SimulatedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "subgroups of {}, {}", self.options.subgroup_size, self.options.schedule)
    }
}

impl SimulatedDevice {
    fn check(&self) -> Result<()> {
        let size = self.options.subgroup_size;
        if !size.is_power_of_two() || !(4..=128).contains(&size) {
            return Err(Error::Input(format!("subgroups of {size}: expected 4, 8, 16, 32, 64 or 128")));
        }
        if !KINDS.contains(&self.kind) {
            return Err(Error::Input(format!("a device of kind '{}': expected {}", self.kind, KINDS.join(", "))));
        }
        if !(1..=65_535).contains(&self.groups_per_dimension) {
            let asked = self.groups_per_dimension;
            return Err(Error::Input(format!("{asked} workgroups per dimension: expected 1 to 65535")));
        }
        Ok(())
    }

    fn profile(&self) -> DeviceProfile {
        let subgroup_size = if self.subgroups { self.options.subgroup_size } else { 0 };
        DeviceProfile {
            name: format!("simulated, {self}"),
            vendor: 0,
            kind: self.kind,
            driver: env!("CARGO_PKG_NAME").into(),
            driver_info: env!("CARGO_PKG_VERSION").into(),
            backend: "simulated",
            subgroup_min: subgroup_size,
            subgroup_max: subgroup_size,
            features: DeviceFeatures {
                subgroup: self.subgroups,
                f16: self.f16,
                immediates: self.immediates,
                timestamps: false,
                pipeline_cache: false,
                cooperative_16: self.cooperative,
                cooperative_8: self.cooperative,
            },
            limits: DeviceLimits {
                buffer_bytes: 1 << 30,
                binding_bytes: 1 << 30,
                storage_buffers: 8,
                workgroup_bytes: 32 << 10,
                workgroup_threads: 1024,
                workgroup_size_x: 1024,
                groups_per_dimension: self.groups_per_dimension,
                offset_alignment: 256,
            },
        }
    }
}

/// A launch on a simulated device, kept so that it can run again: with other options, or with another kernel.
#[derive(Debug)]
pub struct CapturedLaunch {
    /// The kernel.
    pub kernel: Kernel,
    /// Element types of its aliases.
    pub types: Vec<DType>,
    /// Its override values.
    pub overrides: Vec<(&'static str, u32)>,
    /// Workgroups along x, y and z.
    pub grid: [u32; 3],
    /// The parameter struct.
    pub params: Vec<u8>,
    /// Whether the parameters went through a uniform buffer.
    pub uniform: bool,
    /// What each storage binding held before, from 0.
    pub bindings: Vec<sim::Buffer>,
}

impl CapturedLaunch {
    /// Runs `program`, which must bind what [`CapturedLaunch::kernel`] binds, on what the launch was given. Answers with
    /// what went wrong and what the bindings hold behind it.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run(&self, program: &Program, options: &sim::Options) -> Result<(Outcome, Vec<sim::Buffer>)> {
        let after: Vec<_> = self.bindings.iter().map(|before| part(&Bound::all(before))).collect();
        let bound: Vec<_> = after.iter().map(Bound::all).collect();
        let outcome = run(program, self.grid, &bound, &self.params, options)?;
        Ok((outcome, after))
    }
}

/// A copy of what is bound.
fn part(bound: &Bound<'_>) -> sim::Buffer {
    let copy = sim::Buffer::unwritten(bound.n_bytes);
    bound.buffer.copy(bound.offset, &copy, 0, bound.n_bytes);
    copy
}

/// Runs a kernel of the registry, which binds its storage buffers from 0 and its parameters, if as a uniform, behind them.
fn run(
    program: &Program,
    grid: [u32; 3],
    bindings: &[Bound<'_>],
    params: &[u8],
    options: &sim::Options,
) -> Result<Outcome> {
    let mut slot = params.to_vec();
    slot.resize(PARAMS_BYTES as usize, 0);
    let uniform = sim::Buffer::new(&slot);
    let bound = program.bindings().iter().map(|info| match info.access {
        Access::Uniform => Ok(Bound::all(&uniform)),
        _ => bindings
            .get(info.binding as usize)
            .copied()
            .ok_or_else(|| Error::Input(format!("{} is unbound", info.name))),
    });
    let bound = bound.collect::<Result<Vec<_>>>()?;
    program.run(grid, &bound, if program.immediates().is_some() { params } else { &[] }, options)
}

impl Kernel {
    /// The kernel as the simulator runs it, its findings told by `family/entry` and the lines of its files.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the parser's message and line, or with what is not simulated.
    pub fn program(&self, types: &[DType], overrides: &[(&str, u32)], uniform: bool) -> Result<Program> {
        let module = self.module(types, uniform)?;
        let known = |name: &str| module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        let constants: Vec<(&str, f64)> =
            overrides.iter().filter(|(name, _)| known(name)).map(|(name, value)| (*name, f64::from(*value))).collect();
        let parts = self.parts(types, uniform).into_iter();
        let source = parts.fold(Source::default(), |source, (name, text)| source.with(name, text));
        Program::from_module(self.label(), module, source, self.entry, &constants)
            .map_err(|e| Error::Kernel { kernel: self.label(), message: e.to_string() })
    }
}

/// The memory of a tensor on a simulated device.
#[derive(Debug)]
pub(super) struct Memory {
    bytes: sim::Buffer,
    /// The last kernel that could write it.
    writer: Mutex<String>,
}

impl Memory {
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        self.bytes.write(offset, bytes);
    }

    pub(super) fn copy(&self, offset: u64, to: &Self, to_offset: u64, n_bytes: u64) {
        self.bytes.copy(offset, &to.bytes, to_offset, n_bytes);
        let writer = lock(&self.writer).clone();
        *lock(&to.writer) = writer;
    }
}

/// What runs the kernels of a simulated runtime.
#[derive(Debug)]
pub(super) struct Simulator {
    device: SimulatedDevice,
    /// The handle that stands for the memory of every tensor.
    stand_in: wgpu::Buffer,
    /// Held while a kernel runs: launches follow one another, as in a queue.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    programs: HashMap<pipeline::Key, Arc<Program>>,
    findings: Vec<Finding>,
    launches: Vec<CapturedLaunch>,
    operations: u64,
}

impl State {
    /// One finding per kernel, check and line, with the number of times over all launches.
    fn add(&mut self, finding: Finding) {
        let same =
            |f: &&mut Finding| (&f.kernel, f.check, &f.place) == (&finding.kernel, finding.check, &finding.place);
        match self.findings.iter_mut().find(same) {
            Some(known) => known.count += finding.count,
            None => self.findings.push(finding),
        }
    }
}

impl Simulator {
    /// Memory for `n_bytes` bytes that nothing wrote, and padding behind them to `padded` that kernels may touch.
    pub(super) fn alloc(&self, runtime: &Runtime, n_bytes: u64, padded: u64) -> Buffer {
        let bytes = sim::Buffer::unwritten(padded);
        let start = n_bytes.min(padded) as usize;
        bytes.write(n_bytes, &PADDING.repeat(padded as usize / 2)[start..]);
        Buffer {
            raw: self.stand_in.clone(),
            id: runtime.pool().note(padded),
            plan: 0,
            bound_bytes: padded,
            memory: Some(Memory { bytes, writer: Mutex::default() }),
            class_bytes: padded,
            last_batch: AtomicU64::new(0),
            owner: Arc::downgrade(&runtime.0),
        }
    }

    /// Reads memory back; a finding if nothing wrote a part of it.
    pub(super) fn read(&self, memory: &Memory, offset: u64, n_bytes: u64) -> Vec<u8> {
        if let Some((first, count)) = memory.bytes.first_unwritten(offset, n_bytes) {
            let writer = lock(&memory.writer).clone();
            lock(&self.state).add(Finding {
                kernel: if writer.is_empty() { "no kernel".into() } else { writer },
                check: Check::NeverWritten,
                place: Place { file: "read-back".into(), line: 0 },
                line: 0,
                text: String::new(),
                address: Some(format!("byte {first} of {}", memory.bytes.len())),
                invocation: None,
                other: None,
                message: format!("{count} of {n_bytes} bytes that were read back hold nothing, from byte {first} on"),
                count: 1,
                run: self.device.to_string(),
            });
        }
        memory.bytes.read(offset, n_bytes)
    }

    /// Runs a launch.
    pub(super) fn launch(&self, inner: &Inner, launch: &Launch<'_>, grid: (u32, u32)) -> Result<()> {
        let kernel = launch.kernel;
        let broken = |message: String| Error::Kernel { kernel: kernel.label(), message };
        let uniform = !launch.params.is_empty() && !inner.profile.features.immediates;
        let key = pipeline::Key::new(kernel, launch.types, launch.overrides);
        let mut state = lock(&self.state);
        let program = match state.programs.get(&key) {
            Some(program) => Arc::clone(program),
            None => {
                pipeline::check(inner, kernel, launch.types, launch.overrides)?;
                let program = Arc::new(kernel.program(launch.types, launch.overrides, uniform)?);
                Arc::clone(state.programs.entry(key).or_insert(program))
            }
        };
        let memories = launch.bindings.iter().map(|binding| binding.buffer.memory.as_ref());
        let memories: Option<Vec<_>> = memories.collect();
        let memories = memories.ok_or_else(|| broken("a tensor of another device".into()))?;
        let bound: Vec<_> = memories
            .iter()
            .zip(&launch.bindings)
            .map(|(memory, binding)| Bound { buffer: &memory.bytes, offset: binding.offset, n_bytes: binding.size() })
            .collect();
        let grid = [grid.0, grid.1, 1];
        if self.device.capture {
            state.launches.push(CapturedLaunch {
                kernel: *kernel,
                types: launch.types.to_vec(),
                overrides: launch.overrides.to_vec(),
                grid,
                params: launch.params.to_vec(),
                uniform,
                bindings: bound.iter().map(part).collect(),
            });
        }
        let outcome =
            run(&program, grid, &bound, launch.params, &self.device.options).map_err(|e| broken(e.to_string()))?;
        state.operations += outcome.operations;
        for finding in outcome.findings {
            state.add(finding);
        }
        for (memory, bind) in memories.iter().zip(kernel.binds) {
            if *bind == super::Bind::Write {
                *lock(&memory.writer) = kernel.label();
            }
        }
        Ok(())
    }
}

impl Runtime {
    /// A runtime whose kernels run in the simulator, with no GPU: what they do wrong is found in
    /// [`Runtime::take_findings`].
    ///
    /// ```
    /// use leanvision::runtime::SimulatedDevice;
    /// use leanvision::{Runtime, Tensor, ops::elementwise};
    /// let runtime = Runtime::simulated(SimulatedDevice::default())?;
    /// let x = Tensor::from_slice(&runtime, &[-1.0_f32, 0.0, 2.0], &[3])?;
    /// assert_eq!(elementwise::relu(&x)?.to_vec::<f32>()?, [0.0, 0.0, 2.0]);
    /// assert!(runtime.take_findings().is_empty());
    /// # Ok::<(), leanvision::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] if `device` has an unknown kind or a size out of range.
    pub fn simulated(device: SimulatedDevice) -> Result<Self> {
        device.check()?;
        let (wgpu_device, queue) = device::open_noop()?;
        let info = wgpu_device.adapter_info();
        let options =
            RuntimeOptions { guard: true, checked: Some(true), pipeline_cache: false, ..RuntimeOptions::default() };
        let mut inner = Inner::new(&info, wgpu_device, queue, options, Arc::default(), [false; 2]);
        inner.profile = device.profile();
        let stand_in = inner.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("simulated"),
            size: 16,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        inner.simulator = Some(Simulator { device, stand_in, state: Mutex::default() });
        Ok(Self(Arc::new(inner)))
    }

    /// What went wrong in the kernels of a simulated runtime since the last call, one finding per kernel, check and line;
    /// nothing on other runtimes.
    #[must_use]
    pub fn take_findings(&self) -> Vec<Finding> {
        self.simulator_state().map(|mut state| std::mem::take(&mut state.findings)).unwrap_or_default()
    }

    /// The launches since the last call, where [`SimulatedDevice::capture`] is set.
    #[must_use]
    pub fn take_launches(&self) -> Vec<CapturedLaunch> {
        self.simulator_state().map(|mut state| std::mem::take(&mut state.launches)).unwrap_or_default()
    }

    /// Expressions and statements that all simulated launches executed, summed over the invocations.
    #[must_use]
    pub fn simulated_operations(&self) -> u64 {
        self.simulator_state().map_or(0, |state| state.operations)
    }

    /// Which lines and branches of the kernels that a simulated runtime launched ran so far; nothing on other runtimes.
    #[must_use]
    pub fn shader_coverage(&self) -> sim::Coverage {
        let mut out = sim::Coverage::default();
        if let Some(state) = self.simulator_state() {
            state.programs.values().for_each(|program| out.merge(&program.coverage()));
        }
        out
    }

    fn simulator_state(&self) -> Option<MutexGuard<'_, State>> {
        self.0.simulator.as_ref().map(|simulator| lock(&simulator.state))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Binding;
    use crate::tensor::Tensor;

    fn open(device: SimulatedDevice) -> Runtime {
        Runtime::simulated(device).unwrap()
    }

    #[test]
    fn memory_keeps_what_is_written_and_copied() {
        let runtime = open(SimulatedDevice::default());
        let x = Tensor::from_slice(&runtime, &[1_u8, 2, 3, 4, 5], &[5]).unwrap();
        assert_eq!(x.to_vec::<u8>().unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(pollster::block_on(x.read::<u8>().unwrap()).unwrap(), [1, 2, 3, 4, 5]);
        let (from, to) = (runtime.alloc(100).unwrap(), runtime.alloc(100).unwrap());
        runtime.write(&from, 0, &[7; 100]).unwrap();
        let at = |buffer: &Arc<Buffer>, offset| Binding { buffer: Arc::clone(buffer), offset };
        runtime.copy(&at(&from, 8), &at(&to, 4), 96 - 4).unwrap();
        assert_eq!(runtime.read(&to, 4, 92).unwrap().wait().unwrap(), [7; 92]);
        assert!(runtime.take_findings().is_empty());
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
        assert!(runtime.memory().used_bytes >= 216 && runtime.memory().peak_bytes >= 216);
        drop((x, from, to));
        assert_eq!((runtime.memory().used_bytes, runtime.memory().reserved_bytes), (0, 0));
    }

    #[test]
    fn a_read_back_of_what_nothing_wrote_is_found() {
        let runtime = open(SimulatedDevice::default());
        let x = Tensor::empty(&runtime, &[7], DType::F16).unwrap();
        // The padding behind the 14 bytes counts as written.
        x.to_vec::<half::f16>().unwrap();
        let findings = runtime.take_findings();
        assert_eq!((findings.len(), findings[0].check), (1, Check::NeverWritten));
        assert!(findings[0].message.starts_with("14 of 16 bytes") && findings[0].message.ends_with("from byte 0 on"));
        assert!(runtime.take_findings().is_empty());
        // A copy of nothing is nothing.
        let (from, to) = (runtime.alloc(32).unwrap(), runtime.alloc(32).unwrap());
        runtime.write(&from, 0, &[1; 8]).unwrap();
        let at = |buffer: &Arc<Buffer>| Binding { buffer: Arc::clone(buffer), offset: 0 };
        runtime.copy(&at(&from), &at(&to), 32).unwrap();
        runtime.read(&to, 0, 32).unwrap().wait().unwrap();
        assert!(runtime.take_findings()[0].message.starts_with("24 of 32 bytes"));
    }

    #[test]
    fn devices_that_cannot_be_are_refused_and_others_described() {
        let with = |size, kind, groups_per_dimension| {
            let options = sim::Options { subgroup_size: size, ..sim::Options::default() };
            Runtime::simulated(SimulatedDevice { options, kind, groups_per_dimension, ..SimulatedDevice::default() })
        };
        for refused in [with(2, "cpu", 9), with(48, "cpu", 9), with(8, "gpu", 9), with(8, "cpu", 0)] {
            assert!(matches!(refused, Err(Error::Input(_))));
        }
        let profile = with(64, "discrete", 100).unwrap().profile().clone();
        assert_eq!(profile.name, "simulated, subgroups of 64, straight");
        assert_eq!((profile.fixed_subgroup(), profile.is_software()), (Some(64), false));
        assert!(open(SimulatedDevice::default()).profile().is_software());
    }

    #[test]
    fn a_host_buffer_is_refused() {
        let runtime = open(SimulatedDevice::default());
        let raw = runtime.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 64,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        });
        assert!(matches!(Tensor::from_buffer(&runtime, raw, &[16], DType::F32), Err(Error::Feature { .. })));
    }

    #[test]
    fn launches_run_and_can_run_again() {
        let device = SimulatedDevice { capture: true, groups_per_dimension: 7, ..SimulatedDevice::default() };
        for immediates in [true, false] {
            let runtime = open(SimulatedDevice { immediates, ..device.clone() });
            let host: Vec<f32> = (0..5000).map(|i| i as f32).collect();
            let x = Tensor::from_slice(&runtime, &host, &[host.len()]).unwrap();
            let y = crate::ops::elementwise::affine(&x, 2.0, 1.0).unwrap().to_vec::<f32>().unwrap();
            assert!(y.iter().zip(&host).all(|(y, x)| *y == 2.0 * x + 1.0));
            assert!(runtime.take_findings().is_empty() && runtime.simulated_operations() > 5000);
            assert_eq!(runtime.counts().dispatches, 1);
            let launches = runtime.take_launches();
            let [launch] = &launches[..] else { panic!("{} launches", launches.len()) };
            assert!(launch.uniform != immediates && launch.grid[1] > 1, "{:?}", launch.grid);
            let program = launch.kernel.program(&launch.types, &launch.overrides, launch.uniform).unwrap();
            let (outcome, after) = launch.run(&program, &device.options).unwrap();
            assert!(outcome.findings.is_empty());
            assert_eq!(after.last().unwrap().read(0, 20_000), bytemuck::cast_slice::<f32, u8>(&y));
            assert!(launch.bindings.last().unwrap().first_unwritten(0, 20_000).is_some(), "captured before it ran");
        }
    }

    #[test]
    fn the_last_writer_is_named_and_findings_are_counted() {
        let runtime = open(SimulatedDevice::default());
        let x = Tensor::empty(&runtime, &[4], DType::F32).unwrap();
        let y = [0, 1].map(|_| crate::ops::elementwise::affine(&x, 2.0, 1.0).unwrap());
        let findings = runtime.take_findings();
        let [unwritten] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((unwritten.check, unwritten.kernel.as_str()), (Check::Unwritten, "elementwise/unary_fwd"));
        assert_eq!((unwritten.place.file.as_str(), unwritten.count % 2), ("elementwise.wgsl", 0));
        drop(y);
    }

    #[test]
    fn threads_share_one_simulated_device() {
        let runtime = open(SimulatedDevice::default());
        std::thread::scope(|scope| {
            for t in 0..4 {
                let runtime = &runtime;
                scope.spawn(move || {
                    for i in 0..20 {
                        let x = Tensor::full(runtime, &[100], (t * 100 + i) as f32, DType::F32).unwrap();
                        let y = crate::ops::elementwise::affine(&x, 1.0, 0.5).unwrap().to_vec::<f32>().unwrap();
                        assert_eq!(y, [(t * 100 + i) as f32 + 0.5; 100]);
                    }
                });
            }
        });
        assert!(runtime.take_findings().is_empty());
    }
}

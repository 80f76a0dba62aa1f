//! Recording: launches are checked, bound and collected into batches that are submitted whole.

use super::buffer::Buffer;
use super::kernel::Kernel;
use super::pipeline::Pipeline;
use super::plan::{Command, Recording};
use super::profile::Profiler;
use super::{Inner, PARAMS_BYTES, Runtime};
use crate::tensor::DType;
use crate::{Error, Result};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Dispatches of one submission at most; also the number of parameter slots.
const MAX_BATCH: u32 = 512;
const PARAMS_STRIDE: u32 = 256;
const MAX_IN_FLIGHT: usize = 3;
const MAX_BIND_GROUPS: usize = 8192;

/// A range of a buffer as a kernel sees it.
#[derive(Debug, Clone)]
pub(crate) struct Binding {
    pub(crate) buffer: Arc<Buffer>,
    /// Bytes, a multiple of the adapter's offset alignment.
    pub(crate) offset: u64,
}

impl Binding {
    pub(super) fn size(&self) -> u64 {
        self.buffer.bound_bytes - self.offset
    }
}

/// One dispatch being put together: `runtime.launch(&KERNEL).bind(..).params(..).groups(n).run()`.
#[must_use = "a launch does nothing until run"]
pub(crate) struct Launch<'a> {
    runtime: &'a Runtime,
    pub(super) kernel: &'a Kernel,
    pub(super) types: &'a [DType],
    pub(super) overrides: &'a [(&'static str, u32)],
    pub(super) bindings: Vec<Binding>,
    pub(super) params: &'a [u8],
    groups: u64,
    rounds: usize,
    flops: u64,
    bytes: u64,
}

impl Runtime {
    /// Starts a launch of `kernel`.
    pub(crate) fn launch<'a>(&'a self, kernel: &'a Kernel) -> Launch<'a> {
        Launch {
            runtime: self,
            kernel,
            types: &[DType::F32],
            overrides: &[],
            bindings: Vec::new(),
            params: &[],
            groups: 0,
            rounds: 0,
            flops: 0,
            bytes: 0,
        }
    }

    /// Records a copy of `bytes` bytes, a multiple of 4, by the adapter's copy command.
    pub(crate) fn copy(&self, from: &Binding, to: &Binding, bytes: u64) -> Result<()> {
        let inner = &*self.0;
        inner.check_lost()?;
        #[cfg(feature = "sim")]
        if let (Some(source), Some(target)) = (&from.buffer.memory, &to.buffer.memory) {
            source.copy(from.offset, target, to.offset, bytes);
            return Ok(());
        }
        let mut recorder = self.recorder();
        for binding in [from, to] {
            binding.buffer.last_batch.store(recorder.batch, Ordering::Relaxed);
        }
        if let Some(recording) = recorder.recording_here() {
            let place = |binding: &Binding| (binding.buffer.raw.clone(), binding.offset);
            let command = Command::Copy { from: place(from), to: place(to), bytes };
            recording.push(command, &[from.clone(), to.clone()]);
        }
        recorder.copy(inner, (&from.buffer.raw, from.offset), (&to.buffer.raw, to.offset), bytes)
    }
}

impl<'a> Launch<'a> {
    /// Element types for the kernel's aliases; f32 unless told.
    pub(crate) fn types(mut self, types: &'a [DType]) -> Self {
        self.types = types;
        self
    }

    /// Override values, in the order in which the kernel lists them.
    pub(crate) fn overrides(mut self, overrides: &'a [(&'static str, u32)]) -> Self {
        self.overrides = overrides;
        self
    }

    /// Buffers for the bindings, in order.
    pub(crate) fn bind(mut self, bindings: impl IntoIterator<Item = Binding>) -> Self {
        self.bindings.extend(bindings);
        self
    }

    /// The parameter struct.
    pub(crate) fn params<P: bytemuck::Pod>(mut self, params: &'a P) -> Self {
        self.params = bytemuck::bytes_of(params);
        self
    }

    /// Number of workgroups; folded over x and y past 65,535, so kernels use `group_id` or `thread_id`.
    pub(crate) fn groups(mut self, groups: u64) -> Self {
        self.groups = groups;
        self
    }

    /// Rounds that one invocation goes in all its loops together, at most, one more for each loop it leaves; said where
    /// they grow with the data. Refused
    /// on adapters that would cut them short.
    pub(crate) fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// What the launch costs: floating-point operations, and bytes that must cross memory.
    pub(crate) fn cost(mut self, flops: u64, bytes: u64) -> Self {
        self.flops = flops;
        self.bytes = bytes;
        self
    }

    /// Records the launch.
    pub(crate) fn run(self) -> Result<()> {
        let inner = &*self.runtime.0;
        if self.groups == 0 {
            return Ok(());
        }
        inner.check_lost()?;
        let limit = inner.profile.loop_rounds();
        if self.rounds > limit {
            return Err(Error::Limit {
                what: format!("loop rounds of {}", self.kernel.label()),
                asked: self.rounds as u64,
                limit: limit as u64,
                adapter: inner.profile.name.clone(),
            });
        }
        let broken = |message: String| Error::Kernel { kernel: self.kernel.label(), message };
        if self.bindings.len() != self.kernel.binds.len() || self.params.len() != self.kernel.params_bytes {
            return Err(broken(format!(
                "{} bindings and {} parameter bytes given, {} and {} wanted",
                self.bindings.len(),
                self.params.len(),
                self.kernel.binds.len(),
                self.kernel.params_bytes
            )));
        }
        let grid = fold(self.groups, inner.profile.limits.groups_per_dimension)
            .ok_or_else(|| broken(format!("{} workgroups do not fit a grid", self.groups)))?;
        #[cfg(feature = "sim")]
        if let Some(simulator) = &inner.simulator {
            self.runtime.recorder().counts.dispatches += 1;
            return simulator.launch(inner, &self, grid);
        }
        let pipeline = inner.pipelines.get(inner, self.kernel, self.types, self.overrides)?;
        self.runtime.recorder().record(inner, pipeline, &self, grid)
    }
}

/// A launch as it goes to the device.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    params: [u8; PARAMS_BYTES as usize],
    params_bytes: usize,
    grid: (u32, u32),
    flops: u64,
    bytes: u64,
}

/// Splits `groups` over x and y so that neither passes `limit` and few are left over.
fn fold(groups: u64, limit: u32) -> Option<(u32, u32)> {
    let limit = u64::from(limit);
    let y = groups.div_ceil(limit);
    let x = groups.div_ceil(y.max(1));
    (y <= limit && x * y <= u64::from(u32::MAX)).then_some((x as u32, y as u32))
}

/// What a runtime has handed to its device so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dispatches.
    pub dispatches: u64,
    /// Submissions.
    pub submits: u64,
    /// Bind groups made, each of which costs the host some microseconds; the others were used again.
    pub bind_groups: u64,
    /// Pipelines made, each of which costs the compilation of a kernel; the others were used again.
    pub pipelines: u64,
}

type BindKey = (u64, Vec<(u64, u64, u64)>);

#[derive(Debug)]
pub(super) struct Recorder {
    // Before the encoder, so that it is dropped first.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    bound_pipeline: Option<u64>,
    /// Number of the batch being recorded; buffers remember the last one that used them.
    pub(super) batch: u64,
    /// The plan being recorded.
    pub(super) recording: Option<Recording>,
    n_batch: u32,
    flops: u64,
    bytes: u64,
    bind_groups: HashMap<BindKey, wgpu::BindGroup>,
    params: Vec<u8>,
    params_buffer: Option<wgpu::Buffer>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    profiler: Option<Profiler>,
    pub(super) counts: Counts,
}

impl Recorder {
    pub(super) fn new(profiler: Option<Profiler>) -> Self {
        Self {
            pass: None,
            encoder: None,
            bound_pipeline: None,
            batch: 1,
            recording: None,
            n_batch: 0,
            flops: 0,
            bytes: 0,
            bind_groups: HashMap::new(),
            params: Vec::new(),
            params_buffer: None,
            in_flight: VecDeque::new(),
            profiler,
            counts: Counts::default(),
        }
    }

    pub(super) fn profiler(&mut self) -> Option<&mut Profiler> {
        self.profiler.as_mut()
    }

    pub(super) fn forget_bind_groups(&mut self) {
        self.bind_groups.clear();
    }

    /// The open encoder, with no pass open on it.
    pub(super) fn encoder(&mut self, inner: &Inner) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.bound_pipeline = None;
        self.open_encoder(inner)
    }

    fn open_encoder(&mut self, inner: &Inner) -> &mut wgpu::CommandEncoder {
        self.encoder
            .get_or_insert_with(|| inner.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// The plan that this thread is recording.
    pub(super) fn recording_here(&mut self) -> Option<&mut Recording> {
        self.recording.as_mut().filter(|recording| recording.is_here())
    }

    fn record(&mut self, inner: &Inner, pipeline: Arc<Pipeline>, launch: &Launch<'_>, grid: (u32, u32)) -> Result<()> {
        let bind_group = self.bind_group(inner, &pipeline, launch);
        for binding in &launch.bindings {
            binding.buffer.last_batch.store(self.batch, Ordering::Relaxed);
        }
        let mut params = [0; PARAMS_BYTES as usize];
        params[..launch.params.len()].copy_from_slice(launch.params);
        let params_bytes = launch.params.len();
        let (flops, bytes) = (launch.flops, launch.bytes);
        let dispatch = Dispatch { pipeline, bind_group, params, params_bytes, grid, flops, bytes };
        if let Some(recording) = self.recording_here() {
            recording.push(Command::Dispatch(dispatch.clone()), &launch.bindings);
        }
        self.dispatch(inner, &dispatch)
    }

    /// Encodes a dispatch; submits the batch if it is full by then.
    pub(super) fn dispatch(&mut self, inner: &Inner, dispatch: &Dispatch) -> Result<()> {
        let Dispatch { pipeline, bind_group, .. } = dispatch;
        let params = &dispatch.params[..dispatch.params_bytes];
        let uniform = !params.is_empty() && !inner.profile.features.immediates;
        if let Some(mut profiler) = self.profiler.take() {
            // Timestamps sit on pass boundaries everywhere, so each dispatch gets a pass of its own.
            self.pass = None;
            self.bound_pipeline = None;
            let writes = profiler.begin(&pipeline.label, dispatch.flops, dispatch.bytes);
            let desc = wgpu::ComputePassDescriptor { label: Some(&pipeline.label), timestamp_writes: Some(writes) };
            self.pass = Some(self.open_encoder(inner).begin_compute_pass(&desc).forget_lifetime());
            self.profiler = Some(profiler);
        }
        let offset = self.params.len() as u32;
        if uniform {
            self.params.extend_from_slice(params);
            self.params.resize((offset + PARAMS_STRIDE) as usize, 0);
        }
        if self.pass.is_none() {
            let desc = wgpu::ComputePassDescriptor::default();
            self.pass = Some(self.open_encoder(inner).begin_compute_pass(&desc).forget_lifetime());
        }
        if let Some(pass) = &mut self.pass {
            if self.bound_pipeline != Some(pipeline.id) {
                pass.set_pipeline(&pipeline.raw);
                self.bound_pipeline = Some(pipeline.id);
            }
            if uniform {
                pass.set_bind_group(0, bind_group, &[offset]);
            } else {
                pass.set_bind_group(0, bind_group, &[]);
                if !params.is_empty() {
                    pass.set_immediates(0, params);
                }
            }
            pass.dispatch_workgroups(dispatch.grid.0, dispatch.grid.1, 1);
        }
        self.n_batch += 1;
        self.counts.dispatches += 1;
        self.flops += dispatch.flops;
        self.bytes += dispatch.bytes;
        let profiler_full = self.profiler.as_ref().is_some_and(Profiler::is_full);
        if self.n_batch >= MAX_BATCH || profiler_full || inner.batch_is_long(self.flops, self.bytes) {
            self.flush(inner)?;
        }
        Ok(())
    }

    /// Encodes a copy; submits the batch if it is long by then.
    pub(super) fn copy(
        &mut self,
        inner: &Inner,
        (from, start): (&wgpu::Buffer, u64),
        (to, at): (&wgpu::Buffer, u64),
        bytes: u64,
    ) -> Result<()> {
        self.encoder(inner).copy_buffer_to_buffer(from, start, to, at, bytes);
        self.bytes += 2 * bytes;
        if inner.batch_is_long(self.flops, self.bytes) { self.flush(inner) } else { Ok(()) }
    }

    fn bind_group(&mut self, inner: &Inner, pipeline: &Pipeline, launch: &Launch<'_>) -> wgpu::BindGroup {
        let uniform = !launch.params.is_empty() && !inner.profile.features.immediates;
        if self.bind_groups.len() >= MAX_BIND_GROUPS {
            self.bind_groups.clear();
        }
        let ranges = launch.bindings.iter().map(|b| (b.buffer.id, b.offset, b.size())).collect();
        let params_buffer = uniform.then(|| {
            self.params_buffer
                .get_or_insert_with(|| {
                    inner.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some("parameters"),
                        size: u64::from(MAX_BATCH * PARAMS_STRIDE),
                        usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                        mapped_at_creation: false,
                    })
                })
                .clone()
        });
        self.bind_groups
            .entry((pipeline.id, ranges))
            .or_insert_with(|| {
                self.counts.bind_groups += 1;
                let storage = launch.bindings.iter().map(|b| wgpu::BufferBinding {
                    buffer: &b.buffer.raw,
                    offset: b.offset,
                    size: std::num::NonZeroU64::new(b.size()),
                });
                let params = params_buffer.as_ref().map(|buffer| wgpu::BufferBinding {
                    buffer,
                    offset: 0,
                    size: std::num::NonZeroU64::new(u64::from(PARAMS_BYTES)),
                });
                let entries: Vec<_> = storage
                    .chain(params)
                    .enumerate()
                    .map(|(i, range)| wgpu::BindGroupEntry {
                        binding: i as u32,
                        resource: wgpu::BindingResource::Buffer(range),
                    })
                    .collect();
                inner.device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&pipeline.label),
                    layout: &pipeline.layout,
                    entries: &entries,
                })
            })
            .clone()
    }

    /// Submits the batch if `batch` is the one being recorded, or unknown (`u64::MAX`).
    pub(super) fn flush_if_batch(&mut self, inner: &Inner, batch: u64) -> Result<()> {
        if batch >= self.batch { self.flush(inner) } else { Ok(()) }
    }

    /// Submits what was recorded and waits while too many submissions are in flight.
    pub(super) fn flush(&mut self, inner: &Inner) -> Result<()> {
        self.pass = None;
        self.bound_pipeline = None;
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        if let Some(profiler) = &mut self.profiler {
            profiler.resolve(&mut encoder);
        }
        if !self.params.is_empty() {
            if let Some(buffer) = &self.params_buffer {
                inner.queue.write_buffer(buffer, 0, &self.params);
            }
            self.params.clear();
        }
        self.in_flight.push_back(inner.queue.submit([encoder.finish()]));
        self.batch += 1;
        self.counts.submits += 1;
        self.n_batch = 0;
        (self.flops, self.bytes) = (0, 0);
        if let Some(profiler) = &mut self.profiler {
            profiler.collect(inner)?;
        }
        while self.in_flight.len() > MAX_IN_FLIGHT {
            if let Some(index) = self.in_flight.pop_front() {
                inner.wait_for(Some(index))?;
            }
        }
        inner.check_lost()
    }
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn grids_fold_past_the_limit_and_waste_less_than_a_row() {
        assert_eq!(fold(1, 65_535), Some((1, 1)));
        assert_eq!(fold(65_535, 65_535), Some((65_535, 1)));
        for n in [65_536_u64, 65_537, (1 << 20) + 1, 4_000_000_000] {
            let (x, y) = fold(n, 65_535).unwrap();
            let total = u64::from(x) * u64::from(y);
            assert!(x <= 65_535 && y <= 65_535 && total >= n && total < n + u64::from(y), "{n} {x} {y}");
        }
        assert_eq!(fold(1 << 33, 65_535), None);
    }
}

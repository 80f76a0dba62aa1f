//! Per-kernel times from timestamps around passes: a table, and a Chrome trace.

use super::{Inner, Runtime};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

const MAX_SPANS: u32 = 1024;

/// One dispatch, timed on the device.
#[derive(Debug, Clone, Serialize)]
pub struct Span {
    /// `family/entry`.
    pub kernel: String,
    /// Start, in nanoseconds of the device's clock.
    pub start_ns: f64,
    /// Duration, in nanoseconds.
    pub duration_ns: f64,
    /// Floating-point operations it did.
    pub flops: u64,
    /// Bytes it had to move.
    pub bytes: u64,
}

/// The dispatches of a profiled stretch of work.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile {
    /// Every dispatch, in the order of recording.
    pub spans: Vec<Span>,
}

/// One kernel's share of a profile.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileRow {
    /// `family/entry`.
    pub kernel: String,
    /// Number of dispatches.
    pub calls: usize,
    /// Time of all of them, in ms.
    pub ms: f64,
    /// Rate of arithmetic, in GFLOP/s.
    pub gflops: f64,
    /// Rate of memory traffic, in GB/s.
    pub gbps: f64,
}

impl Profile {
    /// The kernels, slowest first.
    #[must_use]
    pub fn rows(&self) -> Vec<ProfileRow> {
        let mut sums: HashMap<&str, (usize, f64, u64, u64)> = HashMap::new();
        for span in &self.spans {
            let sum = sums.entry(&span.kernel).or_default();
            *sum = (sum.0 + 1, sum.1 + span.duration_ns, sum.2 + span.flops, sum.3 + span.bytes);
        }
        let rate = |amount: u64, ns: f64| if ns > 0.0 { amount as f64 / ns } else { 0.0 };
        let mut rows: Vec<_> = sums
            .into_iter()
            .map(|(kernel, (calls, ns, flops, bytes))| ProfileRow {
                kernel: kernel.to_owned(),
                calls,
                ms: ns / 1e6,
                gflops: rate(flops, ns),
                gbps: rate(bytes, ns),
            })
            .collect();
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.kernel.cmp(&b.kernel)));
        rows
    }

    /// The spans in the Trace Event Format that `chrome://tracing` and Perfetto open.
    #[must_use]
    pub fn chrome_trace(&self) -> serde_json::Value {
        let origin = self.spans.iter().map(|s| s.start_ns).fold(f64::INFINITY, f64::min);
        let events: Vec<_> = self
            .spans
            .iter()
            .map(|s| {
                serde_json::json!({
                    "name": s.kernel, "cat": "kernel", "ph": "X", "pid": 1, "tid": 1,
                    "ts": (s.start_ns - origin) / 1e3, "dur": s.duration_ns / 1e3,
                    "args": { "flops": s.flops, "bytes": s.bytes },
                })
            })
            .collect();
        serde_json::json!({ "traceEvents": events, "displayTimeUnit": "ms" })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let total: f64 = rows.iter().map(|r| r.ms).sum();
        writeln!(f, "{:<36} {:>7} {:>10} {:>6} {:>9} {:>8}", "kernel", "calls", "ms", "share", "GFLOP/s", "GB/s")?;
        for r in rows {
            let share = if total > 0.0 { 100.0 * r.ms / total } else { 0.0 };
            writeln!(
                f,
                "{:<36} {:>7} {:>10.3} {:>5.1}% {:>9.2} {:>8.2}",
                r.kernel, r.calls, r.ms, share, r.gflops, r.gbps
            )?;
        }
        write!(f, "{:<36} {:>7} {total:>10.3}", "total", self.spans.len())
    }
}

#[derive(Debug)]
pub(super) struct Profiler {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    period_ns: f64,
    pending: Vec<(String, u64, u64)>,
    done: Profile,
}

/// A point in a profile.
#[derive(Debug)]
pub(super) struct ProfileMark {
    done: usize,
    pending: usize,
}

impl Profiler {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * MAX_SPANS,
        });
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: u64::from(2 * MAX_SPANS) * 8,
                usage,
                mapped_at_creation: false,
            })
        };
        Self {
            queries,
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            staging: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            period_ns: f64::from(queue.get_timestamp_period()),
            pending: Vec::new(),
            done: Profile::default(),
        }
    }

    /// What was timed so far.
    pub(super) fn mark(&self) -> ProfileMark {
        ProfileMark { done: self.done.spans.len(), pending: self.pending.len() }
    }

    /// Drops what was timed since `mark`, all of which is done.
    pub(super) fn forget_since(&mut self, mark: &ProfileMark) {
        self.done.spans.truncate(mark.done + mark.pending);
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_SPANS as usize
    }

    pub(super) fn begin(&mut self, label: &str, flops: u64, bytes: u64) -> wgpu::ComputePassTimestampWrites<'_> {
        let first = 2 * self.pending.len() as u32;
        self.pending.push((label.to_owned(), flops, bytes));
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        }
    }

    pub(super) fn resolve(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let n = 2 * self.pending.len() as u32;
        if n > 0 {
            encoder.resolve_query_set(&self.queries, 0..n, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, u64::from(n) * 8);
        }
    }

    /// Reads the times of the batch just submitted; profiling waits for every batch.
    pub(super) fn collect(&mut self, inner: &Inner) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.staging.map_async(wgpu::MapMode::Read, .., |_| ());
        inner.wait_for(None)?;
        {
            let failed = |e| Error::Device(format!("reading timestamps failed: {e}"));
            let view = self.staging.get_mapped_range(..).map_err(failed)?;
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&view[..self.pending.len() * 16]);
            for ((kernel, flops, bytes), pair) in self.pending.drain(..).zip(ticks.chunks_exact(2)) {
                self.done.spans.push(Span {
                    kernel,
                    start_ns: pair[0] as f64 * self.period_ns,
                    duration_ns: pair[1].saturating_sub(pair[0]) as f64 * self.period_ns,
                    flops,
                    bytes,
                });
            }
        }
        self.staging.unmap();
        Ok(())
    }
}

impl Runtime {
    /// What was timed since the last call; empty unless the runtime was opened with `profile`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn take_profile(&self) -> Result<Profile> {
        self.sync()?;
        Ok(self.recorder().profiler().map(|p| std::mem::take(&mut p.done)).unwrap_or_default())
    }
}

//! A stopwatch on the device: timestamps of two empty passes around a stretch of work.

use super::super::{Inner, Runtime};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Clock {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    period_ns: f64,
}

impl Clock {
    /// `None` where the adapter has no timestamps.
    pub(super) fn new(inner: &Inner) -> Option<Self> {
        let buffer = |usage| {
            inner.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("tune"),
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        inner.profile.features.timestamps.then(|| Self {
            queries: inner.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("tune"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            staging: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            period_ns: f64::from(inner.queue.get_timestamp_period()),
        })
    }

    pub(super) fn start(&self, runtime: &Runtime) {
        self.mark(runtime, 0);
    }

    pub(super) fn stop(&self, runtime: &Runtime) {
        self.mark(runtime, 1);
        let mut recorder = runtime.recorder();
        let encoder = recorder.encoder(&runtime.0);
        encoder.resolve_query_set(&self.queries, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, 16);
    }

    fn mark(&self, runtime: &Runtime, index: u32) {
        let writes = wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(index),
            end_of_pass_write_index: None,
        };
        let desc = wgpu::ComputePassDescriptor { label: Some("tune"), timestamp_writes: Some(writes) };
        drop(runtime.recorder().encoder(&runtime.0).begin_compute_pass(&desc));
    }

    /// The time between both, in ms, after all of it is done.
    pub(super) fn read(&self, inner: &Inner) -> Result<f64> {
        self.staging.map_async(wgpu::MapMode::Read, .., |_| ());
        inner.wait_for(None)?;
        let ticks: Vec<u64> = {
            let failed = |e| Error::Device(format!("reading timestamps failed: {e}"));
            let view = self.staging.get_mapped_range(..).map_err(failed)?;
            bytemuck::pod_collect_to_vec(&view[..16])
        };
        self.staging.unmap();
        Ok(ticks[1].saturating_sub(ticks[0]) as f64 * self.period_ns / 1e6)
    }
}

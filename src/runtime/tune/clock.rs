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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceChoice, Tensor, ops};
    use std::time::Instant;

    #[test]
    fn the_device_times_what_lies_between() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let Some(clock) = Clock::new(&runtime.0) else {
            eprintln!("skipped: no timestamps");
            return;
        };
        let x = Tensor::full(&runtime, &[1 << 20], 0.5, crate::DType::F32).unwrap();
        let measure = |n: usize| {
            runtime.sync().unwrap();
            let start = Instant::now();
            clock.start(&runtime);
            for _ in 0..n {
                ops::elementwise::activate(&x, ops::Act::Tanh).unwrap();
            }
            clock.stop(&runtime);
            runtime.sync().unwrap();
            let wall = start.elapsed().as_secs_f64() * 1e3;
            (clock.read(&runtime.0).unwrap(), wall)
        };
        measure(1);
        let (ms, wall) = measure(20);
        assert!(ms > 0.0 && ms <= wall, "{ms} ms of {wall}");
        let (nothing, _) = measure(0);
        assert!(nothing < ms, "{nothing} ms for nothing, {ms} ms for 20 launches");
    }
}

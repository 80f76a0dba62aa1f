//! Device memory: a pool by size class, guard words for tests, the peak counter, read-back.

use super::{Inner, Runtime};
use crate::{Error, Result};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

/// Poison of fresh memory in guarded runtimes: a quiet NaN as f32.
pub(crate) const POISON: u32 = 0x7FFA_DBAD;
const GUARD_BYTES: u64 = 64;
const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// A block of device memory that returns to its pool when the last tensor lets go of it.
#[derive(Debug)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    pub(super) id: u64,
    /// The plan while whose recording it was made; 0 for none.
    pub(super) plan: u64,
    /// Bytes a kernel may see: the request rounded up to 16, plus the guard.
    pub(super) bound_bytes: u64,
    /// The memory itself in a simulated runtime; `raw` then only stands for it.
    #[cfg(feature = "sim")]
    pub(super) memory: Option<super::simulated::Memory>,
    pub(super) class_bytes: u64,
    /// Batch of the last recorded use; a host write before that batch is submitted would overtake it.
    pub(super) last_batch: AtomicU64,
    pub(super) owner: Weak<Inner>,
}

impl Buffer {
    /// The wgpu buffer.
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    /// The last batch that uses it; `u64::MAX` where a plan wrote it, which may have been replayed since.
    fn last_batch(&self) -> u64 {
        if self.plan == 0 { self.last_batch.load(Ordering::Relaxed) } else { u64::MAX }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(inner) = self.owner.upgrade() else { return };
        if self.class_bytes == 0 {
            return; // A host's buffer.
        }
        #[cfg(feature = "sim")]
        if self.memory.is_some() {
            return inner.pool.lock().unwrap_or_else(PoisonError::into_inner).forget(self.class_bytes);
        }
        let free = Free { raw: self.raw.clone(), id: self.id, last_batch: self.last_batch() };
        inner.pool.lock().unwrap_or_else(PoisonError::into_inner).put(self.class_bytes, self.plan, free);
    }
}

#[derive(Debug)]
struct Free {
    raw: wgpu::Buffer,
    id: u64,
    last_batch: u64,
}

/// Bytes held on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryStats {
    /// Held by live tensors.
    pub used_bytes: u64,
    /// The most that was ever held by live tensors.
    pub peak_bytes: u64,
    /// Taken from the device: live, free, and kept by plans.
    pub reserved_bytes: u64,
}

/// Free blocks by size class.
type Blocks = HashMap<u64, Vec<Free>>;

#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Blocks,
    /// Free blocks of plans: while one is recorded only it takes them, afterwards no one does.
    plans: HashMap<u64, Blocks>,
    stats: MemoryStats,
    next_id: u64,
    next_plan: u64,
    /// Guarded runtimes: every block handed out, with where its guard starts.
    watched: Vec<(wgpu::Buffer, u64)>,
}

impl Pool {
    fn put(&mut self, class_bytes: u64, plan: u64, free: Free) {
        self.stats.used_bytes -= class_bytes;
        let lists = self.plans.get_mut(&plan).unwrap_or(&mut self.free);
        lists.entry(class_bytes).or_default().push(free);
    }

    /// Room for the memory of a new plan; answers its number.
    pub(super) fn open_plan(&mut self) -> u64 {
        self.next_plan += 1;
        self.plans.insert(self.next_plan, Blocks::default());
        self.next_plan
    }

    /// Gives the plan's free blocks to everyone.
    pub(super) fn close_plan(&mut self, id: u64) {
        let Some(plan) = self.plans.remove(&id) else { return };
        for (class_bytes, blocks) in plan {
            let blocks = blocks.into_iter().map(|free| Free { last_batch: u64::MAX, ..free });
            self.free.entry(class_bytes).or_default().extend(blocks);
        }
    }

    /// Counts `bytes` more in a block of memory that the pool does not keep.
    #[cfg(feature = "sim")]
    pub(super) fn note(&mut self, bytes: u64) -> u64 {
        self.next_id += 1;
        self.stats.reserved_bytes += bytes;
        self.stats.used_bytes += bytes;
        self.stats.peak_bytes = self.stats.peak_bytes.max(self.stats.used_bytes);
        self.next_id
    }

    #[cfg(feature = "sim")]
    fn forget(&mut self, bytes: u64) {
        self.stats.reserved_bytes -= bytes;
        self.stats.used_bytes -= bytes;
    }

    pub(super) fn report(&self) -> String {
        let free = self.stats.reserved_bytes - self.stats.used_bytes;
        format!(
            "{} bytes in tensors ({} at most so far), {free} bytes free in the pool",
            self.stats.used_bytes, self.stats.peak_bytes
        )
    }
}

/// Size class of a request: a multiple of an eighth of its power of two, so that at most 1/8 is wasted.
fn class_of(bytes: u64) -> u64 {
    let step = (bytes.max(256).next_power_of_two() / 16).max(256);
    bytes.max(1).div_ceil(step) * step
}

impl Runtime {
    /// Memory held on the device.
    #[must_use]
    pub fn memory(&self) -> MemoryStats {
        self.pool().stats
    }

    /// Starts counting the peak anew from what is held now.
    pub fn reset_peak_memory(&self) {
        let mut pool = self.pool();
        pool.stats.peak_bytes = pool.stats.used_bytes;
    }

    /// Gives free blocks of the pool back to the driver.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn trim(&self) -> Result<()> {
        self.sync()?;
        self.recorder().forget_bind_groups();
        let mut pool = self.pool();
        let freed: u64 = pool.free.iter().map(|(class, blocks)| class * blocks.len() as u64).sum();
        pool.free.clear();
        pool.stats.reserved_bytes -= freed;
        drop(pool);
        self.0.poll_once();
        Ok(())
    }

    pub(super) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of at least `bytes` bytes with unspecified content.
    ///
    /// # Errors
    /// [`Error::Limit`] past the adapter's binding or buffer size, [`Error::OutOfMemory`] when the device is full even
    /// after the pool was trimmed, [`Error::DeviceLost`].
    pub(crate) fn alloc(&self, bytes: u64) -> Result<Arc<Buffer>> {
        self.alloc_from(bytes, true)
    }

    /// As [`Runtime::alloc`], a block that nothing recorded so far has used: what the host writes there before a plan runs
    /// is still there whenever it is replayed.
    pub(crate) fn alloc_unused(&self, bytes: u64) -> Result<Arc<Buffer>> {
        self.alloc_from(bytes, false)
    }

    fn alloc_from(&self, bytes: u64, reuse: bool) -> Result<Arc<Buffer>> {
        self.0.check_lost()?;
        let padded = bytes.max(1).div_ceil(16) * 16;
        let bound_bytes = padded + if self.0.options.guard { GUARD_BYTES } else { 0 };
        let limits = &self.0.profile.limits;
        let limit = limits.binding_bytes.min(limits.buffer_bytes);
        if bound_bytes > limit {
            return Err(Error::Limit {
                what: "bytes of one tensor".into(),
                asked: bytes,
                limit,
                adapter: self.0.profile.name.clone(),
            });
        }
        #[cfg(feature = "sim")]
        if let Some(simulator) = &self.0.simulator {
            return Ok(Arc::new(simulator.alloc(self, bytes, padded)));
        }
        let class_bytes = class_of(bound_bytes).min(limits.buffer_bytes);
        let plan = self.recorder().recording_here().map_or(0, |recording| recording.id);
        let free = if reuse { self.take_free(class_bytes, plan) } else { None };
        let (raw, id, last_batch) = match free {
            Some(free) => (free.raw, free.id, free.last_batch),
            None => {
                let raw = match self.create(class_bytes) {
                    Err(Error::OutOfMemory { .. }) => {
                        self.trim()?;
                        self.create(class_bytes)?
                    }
                    other => other?,
                };
                let mut pool = self.pool();
                pool.next_id += 1;
                pool.stats.reserved_bytes += class_bytes;
                (raw, pool.next_id, 0)
            }
        };
        let mut pool = self.pool();
        pool.stats.used_bytes += class_bytes;
        pool.stats.peak_bytes = pool.stats.peak_bytes.max(pool.stats.used_bytes);
        let buffer = Buffer {
            raw,
            id,
            plan,
            bound_bytes,
            #[cfg(feature = "sim")]
            memory: None,
            class_bytes,
            last_batch: AtomicU64::new(last_batch),
            owner: Arc::downgrade(&self.0),
        };
        if self.0.options.guard {
            pool.watched.push((buffer.raw.clone(), padded));
            drop(pool);
            let words = vec![POISON; (bound_bytes / 4) as usize];
            self.write(&buffer, 0, bytemuck::cast_slice(&words))?;
        }
        Ok(Arc::new(buffer))
    }

    fn take_free(&self, class_bytes: u64, plan: u64) -> Option<Free> {
        // Guarded blocks are never used twice, so that a late stray write is still seen.
        if self.0.options.guard {
            return None;
        }
        let mut pool = self.pool();
        match pool.plans.get_mut(&plan) {
            Some(free) => free.get_mut(&class_bytes)?.pop(),
            None => pool.free.get_mut(&class_bytes)?.pop(),
        }
    }

    fn create(&self, class_bytes: u64) -> Result<wgpu::Buffer> {
        let full = |asked| Error::OutOfMemory { asked, report: self.pool().report() };
        if let Some(limit) = self.0.options.memory_limit
            && self.pool().stats.reserved_bytes + class_bytes > limit
        {
            return Err(full(class_bytes));
        }
        let scope = self.0.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let raw = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("pool"),
            size: class_bytes,
            usage: USAGE,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(raw),
            Some(_) => Err(full(class_bytes)),
        }
    }

    /// Writes `bytes` (a multiple of 4) at `offset` of `buffer`, before anything recorded later.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        #[cfg(feature = "sim")]
        if let Some(memory) = &buffer.memory {
            memory.write(offset, bytes);
            return Ok(());
        }
        // Queue writes run before the batch that is still being recorded.
        self.recorder().flush_if_batch(&self.0, buffer.last_batch())?;
        // In slices: wgpu stages every pending write in memory of its own.
        const SLICE: usize = 64 << 20;
        for (i, slice) in bytes.chunks(SLICE).enumerate() {
            self.0.queue.write_buffer(&buffer.raw, offset + (i * SLICE) as u64, slice);
            if bytes.len() > SLICE {
                self.0.queue.submit([]);
            }
        }
        Ok(())
    }

    /// Starts reading `bytes` bytes from `offset` (both multiples of 4) of `buffer`.
    pub(crate) fn read(&self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<Readback> {
        #[cfg(feature = "sim")]
        if let (Some(simulator), Some(memory)) = (&self.0.simulator, &buffer.memory) {
            return self.read_host(&simulator.read(memory, offset, bytes));
        }
        self.read_parts(&[(&buffer.raw, offset, bytes)])
    }

    fn read_parts(&self, parts: &[(&wgpu::Buffer, u64, u64)]) -> Result<Readback> {
        self.0.check_lost()?;
        self.refuse_in_plan("read")?;
        let bytes: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
        let staging = self.staging(bytes);
        let mut recorder = self.recorder();
        let mut at = 0;
        for &(buffer, offset, bytes) in parts {
            if bytes > 0 {
                recorder.encoder(&self.0).copy_buffer_to_buffer(buffer, offset, &staging, at, bytes);
                at += bytes;
            }
        }
        recorder.flush(&self.0)?;
        drop(recorder);
        Ok(self.map(staging, bytes))
    }

    /// Bytes that are there already, on the way of those that are not.
    #[cfg(feature = "sim")]
    fn read_host(&self, bytes: &[u8]) -> Result<Readback> {
        self.0.check_lost()?;
        let staging = self.staging(bytes.len() as u64);
        self.0.queue.write_buffer(&staging, 0, bytes);
        self.0.queue.submit([]);
        Ok(self.map(staging, bytes.len() as u64))
    }

    fn staging(&self, bytes: u64) -> wgpu::Buffer {
        self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes.max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    fn map(&self, staging: wgpu::Buffer, bytes: u64) -> Readback {
        let (tx, rx) = mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = tx.send(result.is_ok());
        });
        Readback { runtime: self.clone(), staging, bytes, rx: Mutex::new(rx) }
    }

    /// In a guarded runtime: whether any block handed out since the last call was written past its end.
    ///
    /// Answers with the number of damaged blocks; always 0 in runtimes without guards.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn damaged_guards(&self) -> Result<usize> {
        let watched = std::mem::take(&mut self.pool().watched);
        let parts: Vec<_> = watched.iter().map(|(raw, start)| (raw, *start, GUARD_BYTES)).collect();
        let bytes = self.read_parts(&parts)?.wait()?;
        let whole = |guard: &[u8]| guard.chunks_exact(4).all(|w| w == POISON.to_le_bytes());
        let damaged = bytes.chunks_exact(GUARD_BYTES as usize).filter(|guard| !whole(guard)).count();
        drop(watched);
        if self.0.options.guard {
            self.trim()?;
        }
        Ok(damaged)
    }

    /// Wraps a host's buffer, which must have usage STORAGE, and COPY_SRC if it is to be read back.
    pub(crate) fn adopt(&self, raw: wgpu::Buffer) -> Result<Arc<Buffer>> {
        #[cfg(feature = "sim")]
        if self.0.simulator.is_some() {
            return Err(Error::Feature {
                what: "a tensor over a host's buffer".into(),
                feature: "device memory".into(),
                adapter: self.0.profile.name.clone(),
            });
        }
        let mut pool = self.pool();
        pool.next_id += 1;
        let id = pool.next_id;
        let bound_bytes = raw.size();
        Ok(Arc::new(Buffer {
            raw,
            id,
            plan: 0,
            bound_bytes,
            #[cfg(feature = "sim")]
            memory: None,
            class_bytes: 0,
            last_batch: AtomicU64::new(0),
            owner: Arc::downgrade(&self.0),
        }))
    }
}

/// Bytes on their way from the device: wait for them, ask whether they are there, or `.await` them.
#[derive(Debug)]
pub struct Readback {
    runtime: Runtime,
    staging: wgpu::Buffer,
    bytes: u64,
    rx: Mutex<mpsc::Receiver<bool>>,
}

impl Readback {
    /// Blocks until the bytes are there.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Device`] if the device failed on the way.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.runtime.0.wait_idle()?;
        // Another thread's poll may have taken the news along and be about to tell it.
        let mapped = self.rx().recv_timeout(Duration::from_secs(30));
        self.finish(mapped.unwrap_or(false))
    }

    fn rx(&self) -> MutexGuard<'_, mpsc::Receiver<bool>> {
        self.rx.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, mapped: bool) -> Result<Vec<u8>> {
        self.runtime.0.check_lost()?;
        if mapped { self.copy_out() } else { Err(Error::Device("a read-back failed".into())) }
    }

    fn copy_out(&self) -> Result<Vec<u8>> {
        let view = self.staging.get_mapped_range(..).map_err(|e| Error::Device(format!("a read-back failed: {e}")))?;
        Ok(view[..self.bytes as usize].to_vec())
    }
}

impl Future for Readback {
    type Output = Result<Vec<u8>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.runtime.0.poll_once();
        let news = self.rx().try_recv();
        if news == Err(mpsc::TryRecvError::Empty) {
            // Native back ends only make progress when polled, so ask to be polled again.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.finish(news == Ok(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::class_of;

    #[test]
    fn classes_hold_the_request_and_waste_little() {
        for bytes in [1, 255, 256, 257, 4096, 5000, 1 << 20, (1 << 20) + 1, 3_000_000_001] {
            let class = class_of(bytes);
            assert!(class >= bytes && class.is_multiple_of(256), "{bytes} {class}");
            assert!(class <= 256 + bytes + bytes / 8, "{bytes} {class}");
        }
    }
}

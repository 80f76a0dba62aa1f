//! Image sets on their way through a network, batch by batch.

use crate::data::ImageSet;
use crate::{Result, Runtime, Tensor};

/// Images held on the device at once, in bytes at most.
const CHUNK_BYTES: usize = 64 << 20;
/// Bytes of activations that a batch is chosen to take at most, and its images: on a software adapter, on a GPU, which
/// needs more of them to be busy.
const BATCH: [(u64, u64); 2] = [(128 << 20, 256), (1 << 30, 1024)];
/// Batches whose results are on their way while the next are computed.
pub(crate) const IN_FLIGHT: usize = 2;

/// Images of a batch that suit the adapter, where each takes `activation_bytes`.
pub(crate) fn usual_batch(runtime: &Runtime, activation_bytes: u64) -> usize {
    let profile = runtime.profile();
    let (bytes, n) = BATCH[usize::from(!profile.is_software())];
    let fits = bytes.min(profile.limits.binding_bytes) / activation_bytes.max(1);
    fits.clamp(1, n) as usize
}

/// Gives the images of a set in order to `f`, u8 `[n, h, w, c]` with at most `batch` of them at a time.
pub(crate) fn each_batch(
    runtime: &Runtime,
    set: &ImageSet,
    batch: usize,
    f: &mut dyn FnMut(&Tensor) -> Result<()>,
) -> Result<()> {
    let (batch, image_bytes) = (batch.max(1), set.image_bytes());
    let per_chunk = (CHUNK_BYTES / image_bytes / batch).max(1) * batch;
    for pixels in set.images.chunks(per_chunk * image_bytes) {
        let n = pixels.len() / image_bytes;
        let chunk = Tensor::from_slice(runtime, pixels, &[n, set.height, set.width, set.channels])?;
        for start in (0..n).step_by(batch) {
            f(&chunk.slice(0, start..(start + batch).min(n))?)?;
        }
    }
    Ok(())
}

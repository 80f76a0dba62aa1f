//! What changes from step to step, on the device: a step is recorded once and replayed.

use std::ops::Range;

use super::recipe::Recipe;
use crate::{DType, Result, Runtime, Tensor};

/// One micro-batch. What changes from step to step lies on the device, since a step is recorded once and replayed.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The items, u32 `[b]`.
    pub items: Tensor,
    /// Counts micro-batches over the whole run, u32 `[1]`: the step of random streams.
    pub draw: Tensor,
    /// Counts epochs, u32 `[1]`.
    pub epoch: Tensor,
    /// Where the items stand in the batch of the whole step.
    pub places: Range<usize>,
}

/// Items and counts of a step's micro-batches, in one tensor that is written before each step.
#[derive(Debug)]
pub(super) struct Feed {
    words: Tensor,
    pub(super) batches: Vec<Batch>,
}

/// Words from which a view can be bound on any adapter.
const ALIGN: usize = 64;

impl Feed {
    pub(super) fn new(runtime: &Runtime, recipe: &Recipe) -> Result<Self> {
        let n_micro = recipe.batch / recipe.micro_batch;
        let row = recipe.micro_batch.next_multiple_of(ALIGN) + 2 * ALIGN;
        let words = Tensor::zeros(runtime, &[n_micro * row], DType::U32)?;
        let batch = |i: usize| {
            Ok(Batch {
                items: words.slice(0, i * row..i * row + recipe.micro_batch)?,
                draw: words.slice(0, (i + 1) * row - 2 * ALIGN..(i + 1) * row - 2 * ALIGN + 1)?,
                epoch: words.slice(0, (i + 1) * row - ALIGN..(i + 1) * row - ALIGN + 1)?,
                places: i * recipe.micro_batch..(i + 1) * recipe.micro_batch,
            })
        };
        let batches = (0..n_micro).map(batch).collect::<Result<_>>()?;
        Ok(Self { words, batches })
    }

    /// Sends the items of step `step` in epoch `epoch`.
    pub(super) fn write(&self, step: u64, epoch: u64, items: &[u32]) -> Result<()> {
        let n_micro = self.batches.len();
        let row = self.words.len() / n_micro;
        let mut words = vec![0; self.words.len()];
        for (i, (row, batch)) in words.chunks_exact_mut(row).zip(&self.batches).enumerate() {
            let items = items.get(batch.places.clone()).unwrap_or_default();
            row[..items.len()].copy_from_slice(items);
            let tail = row.len() - 2 * ALIGN;
            row[tail] = (step * n_micro as u64 + i as u64) as u32;
            row[tail + ALIGN] = epoch as u32;
        }
        self.words.write(&words)
    }
}

//! Packed token sequences: `[T, d]` tokens of several sequences end to end, and where each begins.

use super::Tensor;
use crate::Result;
use crate::runtime::Runtime;

/// Where each of `n` sequences begins in a packed `[T, d]` tensor.
///
/// A dense batch is the special case of equal lengths.
#[derive(Debug, Clone)]
pub struct Offsets {
    starts: Tensor,
    n_sequences: usize,
    n_tokens: usize,
    max_len: usize,
}

impl Offsets {
    /// Offsets of sequences of these lengths, in tokens.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn from_lengths(runtime: &Runtime, lengths: &[usize]) -> Result<Self> {
        Self::of(lengths, |starts| Tensor::from_slice(runtime, starts, &[starts.len()]))
    }

    /// Offsets of `n` sequences of `length` tokens each.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn equal(runtime: &Runtime, n: usize, length: usize) -> Result<Self> {
        Self::of(&vec![length; n], |starts| Tensor::constant(runtime, starts))
    }

    fn of(lengths: &[usize], upload: impl FnOnce(&[u32]) -> Result<Tensor>) -> Result<Self> {
        let mut starts = vec![0_u32];
        let mut total = 0;
        for length in lengths {
            total += length;
            starts.push(total as u32);
        }
        Ok(Self {
            starts: upload(&starts)?,
            n_sequences: lengths.len(),
            n_tokens: total,
            max_len: lengths.iter().copied().max().unwrap_or(0),
        })
    }

    /// Offsets that `starts`, u32 `[n + 1]`, holds or will hold, for `n_tokens` tokens in sequences of `max_len` at most.
    pub(crate) fn bounded(starts: Tensor, n_tokens: usize, max_len: usize) -> Self {
        Self { n_sequences: starts.len().saturating_sub(1), starts, n_tokens, max_len }
    }

    /// First token of each sequence and, last, the number of tokens: u32 `[n + 1]`.
    #[must_use]
    pub fn starts(&self) -> &Tensor {
        &self.starts
    }

    /// Number of sequences.
    #[must_use]
    pub fn n_sequences(&self) -> usize {
        self.n_sequences
    }

    /// Number of tokens of all sequences.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// An upper bound on the tokens of one sequence.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_len
    }
}

//! Memory that simulated kernels bind: bytes, and which of them something wrote.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// What unwritten memory holds: a quiet NaN as f32.
const POISON: u32 = 0x7FFA_DBAD;

/// A storage or uniform buffer. Its words are atomic, so that several threads can run workgroups over it.
#[derive(Debug)]
pub struct Buffer {
    words: Vec<AtomicU32>,
    /// A bit for each byte of a word: whether something wrote it.
    written: Vec<AtomicU8>,
    n_bytes: u64,
}

impl Buffer {
    /// A buffer of `n_bytes` bytes that nothing wrote.
    #[must_use]
    pub fn unwritten(n_bytes: u64) -> Self {
        let n_words = n_bytes.div_ceil(4) as usize;
        let words = std::iter::repeat_with(|| AtomicU32::new(POISON)).take(n_words).collect();
        let written = std::iter::repeat_with(|| AtomicU8::new(0)).take(n_words).collect();
        Self { words, written, n_bytes }
    }

    /// A buffer that holds `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let buffer = Self::unwritten(bytes.len() as u64);
        buffer.write(0, bytes);
        buffer
    }

    /// Its length, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.n_bytes
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }

    /// Writes `bytes` from byte `offset` on; what lies past the end is dropped.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let at = offset + i as u64;
            if at >= self.n_bytes {
                return;
            }
            let (word, shift) = ((at / 4) as usize, at % 4);
            let kept = self.words[word].load(Relaxed) & !(0xFF << (8 * shift));
            self.words[word].store(kept | (u32::from(*byte) << (8 * shift)), Relaxed);
            self.written[word].fetch_or(1 << shift, Relaxed);
        }
    }

    /// `n_bytes` bytes from byte `offset` on, or fewer at the end.
    #[must_use]
    pub fn read(&self, offset: u64, n_bytes: u64) -> Vec<u8> {
        let end = (offset + n_bytes).min(self.n_bytes);
        (offset..end).map(|at| (self.words[(at / 4) as usize].load(Relaxed) >> (8 * (at % 4))) as u8).collect()
    }

    /// Marks bytes as written without changing them.
    pub fn mark_written(&self, offset: u64, n_bytes: u64) {
        for at in offset..(offset + n_bytes).min(self.n_bytes) {
            self.written[(at / 4) as usize].fetch_or(1 << (at % 4), Relaxed);
        }
    }

    /// Copies `n_bytes` bytes to byte `to_offset` of `to`, with what is known of them.
    pub fn copy(&self, offset: u64, to: &Self, to_offset: u64, n_bytes: u64) {
        let bytes = self.read(offset, n_bytes);
        let written: Vec<bool> = (offset..offset + bytes.len() as u64).map(|at| self.is_written(at)).collect();
        to.write(to_offset, &bytes);
        for (at, _) in (to_offset..).zip(&written).filter(|(at, written)| !**written && *at < to.n_bytes) {
            to.written[(at / 4) as usize].fetch_and(!(1 << (at % 4)), Relaxed);
        }
    }

    /// The first of `n_bytes` bytes from `offset` on that nothing wrote, and how many there are.
    #[must_use]
    pub fn first_unwritten(&self, offset: u64, n_bytes: u64) -> Option<(u64, u64)> {
        let mut unwritten = (offset..(offset + n_bytes).min(self.n_bytes)).filter(|at| !self.is_written(*at));
        let first = unwritten.next()?;
        Some((first, 1 + unwritten.count() as u64))
    }

    fn is_written(&self, at: u64) -> bool {
        self.written[(at / 4) as usize].load(Relaxed) & (1 << (at % 4)) != 0
    }

    pub(super) fn words(&self) -> (&[AtomicU32], &[AtomicU8]) {
        (&self.words, &self.written)
    }
}

/// The part of a buffer that a kernel sees.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// The first byte, a multiple of 4.
    pub offset: u64,
    /// Number of bytes.
    pub n_bytes: u64,
}

impl<'a> Bound<'a> {
    /// The whole of `buffer`.
    #[must_use]
    pub fn all(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0, n_bytes: buffer.len() }
    }
}

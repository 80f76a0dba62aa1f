//! Memory while a kernel runs: who touched which word last, and what that says about races.

use super::buffer::{Bound, Buffer};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bits of a mark: the invocation's number from 1, the stretch between barriers, the operation.
const OP_BITS: u32 = 20;
const EPOCH_BITS: u32 = 16;

/// Largest number of invocations and of barriers that marks tell apart.
pub(super) const MAX_INVOCATIONS: u64 = (1 << (64 - OP_BITS - EPOCH_BITS)) - 2;
pub(super) const MAX_EPOCH: u32 = (1 << EPOCH_BITS) - 1;

/// Who touched a word: invocation, stretch between barriers, operation. 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(pub(super) u64);

impl Mark {
    pub(super) fn new(invocation: u32, epoch: u32, op: u32) -> Self {
        Self((u64::from(invocation) + 1) << (OP_BITS + EPOCH_BITS) | u64::from(epoch) << OP_BITS | u64::from(op))
    }

    pub(super) fn invocation(self) -> u32 {
        ((self.0 >> (OP_BITS + EPOCH_BITS)) as u32).wrapping_sub(1)
    }

    pub(super) fn op(self) -> u32 {
        (self.0 & ((1 << OP_BITS) - 1)) as u32
    }

    fn epoch(self) -> u64 {
        self.0 >> OP_BITS & ((1 << EPOCH_BITS) - 1)
    }

    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether nothing orders the two: other invocations, and no barrier between or one of another workgroup.
    fn apart(self, other: Self, threads: u32) -> bool {
        self.is_some()
            && self.invocation() != other.invocation()
            && (self.epoch() == other.epoch() || !self.same_group(other, threads))
    }

    fn same_group(self, other: Self, threads: u32) -> bool {
        self.invocation() / threads == other.invocation() / threads
    }
}

/// The last accesses to one cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) write: Mark,
    /// The last reader, and one more that stands apart from it: of another workgroup if there is one.
    pub(super) read: Mark,
    pub(super) other: Mark,
}

impl Cell {
    pub(super) const NEW: Self = Self { write: Mark(0), read: Mark(0), other: Mark(0) };

    /// Notes a read; answers the write it races with.
    pub(super) fn reads(&mut self, me: Mark, threads: u32) -> Option<Mark> {
        let race = self.write.apart(me, threads).then_some(self.write);
        if !self.read.is_some() || self.read.invocation() == me.invocation() {
            self.read = me;
        } else if !self.read.same_group(me, threads) {
            self.other = self.read;
            self.read = me;
        } else if self.read.epoch() == me.epoch() {
            if !self.other.is_some() || self.other.same_group(me, threads) {
                self.other = me;
            }
        } else {
            if self.other.is_some() && self.other.same_group(me, threads) {
                self.other = Mark(0);
            }
            self.read = me;
        }
        race
    }

    /// Notes a write; answers the access it races with, and whether that is a write.
    pub(super) fn writes(&mut self, me: Mark, threads: u32) -> Option<(Mark, bool)> {
        let race = if self.write.apart(me, threads) {
            Some((self.write, true))
        } else {
            [self.read, self.other].into_iter().find(|mark| mark.apart(me, threads)).map(|mark| (mark, false))
        };
        self.write = me;
        race
    }
}

/// The cells of a buffer, one for each word or half word; atomic, as several threads may run workgroups.
#[derive(Debug)]
pub(super) struct Cells(Vec<[AtomicU64; 3]>);

impl Cells {
    fn new(n: usize) -> Self {
        Self(std::iter::repeat_with(|| [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]).take(n).collect())
    }

    /// Changes a cell. Two threads may do so at once for workgroups that share the word: then marks of one may be lost, but
    /// none is made up.
    pub(super) fn with<T>(&self, at: usize, change: impl FnOnce(&mut Cell) -> Option<T>) -> Option<T> {
        let [write, read, other] = self.0.get(at)?;
        let old =
            Cell { write: Mark(write.load(Relaxed)), read: Mark(read.load(Relaxed)), other: Mark(other.load(Relaxed)) };
        let mut cell = old;
        let out = change(&mut cell);
        for (to, was, is) in
            [(write, old.write, cell.write), (read, old.read, cell.read), (other, old.other, cell.other)]
        {
            if was != is {
                to.store(is.0, Relaxed);
            }
        }
        out
    }
}

/// A buffer as the kernel sees it.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    words: &'a [AtomicU32],
    written: &'a [AtomicU8],
    pub(super) n_bytes: u64,
    /// Where it may be written and races are looked for.
    pub(super) cells: Option<Cells>,
    /// Bytes of a cell: 4, or 2 where f16 lies in it.
    pub(super) grain: u32,
}

impl<'a> Slot<'a> {
    pub(super) fn new(bound: &Bound<'a>, watched: bool, halves: bool) -> Self {
        let (words, written) = Buffer::words(bound.buffer);
        let first = (bound.offset / 4) as usize;
        let n_words = bound.n_bytes.div_ceil(4) as usize;
        let grain = if halves { 2 } else { 4 };
        Self {
            words: &words[first..first + n_words],
            written: &written[first..first + n_words],
            n_bytes: bound.n_bytes,
            cells: watched.then(|| Cells::new(n_words * 4 / grain as usize)),
            grain,
        }
    }

    /// The word at byte `at`, and whether all of it was written; nothing past the end.
    pub(super) fn word(&self, at: u64) -> Option<(u32, bool)> {
        let i = (at / 4) as usize;
        let word = self.words.get(i)?.load(Relaxed);
        (at + 4 <= self.n_bytes).then(|| (word, self.written[i].load(Relaxed) == 0xF))
    }

    /// The half word at byte `at` (a multiple of 2).
    pub(super) fn half(&self, at: u64) -> Option<(u16, bool)> {
        let i = (at / 4) as usize;
        let (shift, mask) = if at.is_multiple_of(4) { (0, 0b0011) } else { (16, 0b1100) };
        let word = self.words.get(i)?.load(Relaxed);
        (at + 2 <= self.n_bytes).then(|| ((word >> shift) as u16, self.written[i].load(Relaxed) & mask == mask))
    }

    pub(super) fn set_word(&self, at: u64, word: u32) -> Option<()> {
        let i = (at / 4) as usize;
        let to = self.words.get(i).filter(|_| at + 4 <= self.n_bytes)?;
        to.store(word, Relaxed);
        self.written[i].store(0xF, Relaxed);
        Some(())
    }

    pub(super) fn set_half(&self, at: u64, half: u16) -> Option<()> {
        let i = (at / 4) as usize;
        let to = self.words.get(i).filter(|_| at + 2 <= self.n_bytes)?;
        let (shift, mask) = if at.is_multiple_of(4) { (0, 0b0011) } else { (16, 0b1100) };
        // Workgroups on other threads may own the other half.
        let merged = |word: u32| Some(word & !(0xFFFF << shift) | u32::from(half) << shift);
        let _ = to.fetch_update(Relaxed, Relaxed, merged);
        self.written[i].fetch_or(mask, Relaxed);
        Some(())
    }

    /// The word itself, for atomics.
    pub(super) fn atomic(&self, at: u64) -> Option<(&AtomicU32, &AtomicU8)> {
        let i = (at / 4) as usize;
        let word = self.words.get(i).filter(|_| at + 4 <= self.n_bytes)?;
        Some((word, &self.written[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Invocations 0 to 3 are workgroup 0, 4 to 7 workgroup 1.
    fn mark(invocation: u32, epoch: u32) -> Mark {
        Mark::new(invocation, epoch, 7)
    }

    #[test]
    fn marks_keep_what_they_were_made_of() {
        let mark = Mark::new(5_000_000, 65_535, 1_048_575);
        assert_eq!((mark.invocation(), mark.epoch(), mark.op()), (5_000_000, 65_535, 1_048_575));
    }

    #[test]
    fn accesses_race_unless_a_barrier_or_the_same_invocation_orders_them() {
        let mut cell = Cell::NEW;
        assert_eq!(cell.writes(mark(0, 0), 4), None);
        assert_eq!(cell.reads(mark(0, 0), 4), None);
        assert_eq!(cell.reads(mark(1, 0), 4), Some(mark(0, 0)));
        assert_eq!(cell.reads(mark(1, 1), 4), None);
        // A barrier orders only its own workgroup.
        assert_eq!(cell.reads(mark(4, 1), 4), Some(mark(0, 0)));
    }

    #[test]
    fn a_write_races_with_any_reader_before_it() {
        for (readers, writer) in [
            // The second reader of a stretch, the first being the writer itself.
            (vec![mark(0, 3), mark(1, 3)], mark(0, 3)),
            (vec![mark(1, 3), mark(0, 3)], mark(0, 3)),
            // Readers of another workgroup, however long ago.
            (vec![mark(4, 0), mark(0, 1), mark(0, 2), mark(1, 2)], mark(1, 9)),
            (vec![mark(0, 0), mark(4, 0)], mark(4, 1)),
        ] {
            let mut cell = Cell::NEW;
            for reader in &readers {
                assert_eq!(cell.reads(*reader, 4), None);
            }
            let race = cell.writes(writer, 4);
            assert!(race.is_some_and(|(_, is_write)| !is_write), "{readers:?}");
        }
        let mut cell = Cell::NEW;
        for reader in [mark(0, 0), mark(1, 0), mark(2, 0)] {
            assert_eq!(cell.reads(reader, 4), None);
        }
        assert_eq!(cell.writes(mark(3, 1), 4), None);
        assert_eq!(cell.writes(mark(2, 1), 4), Some((mark(3, 1), true)));
    }
}

//! Loads, stores and atomics of a wave, and what they show.

use super::check::Check;
use super::grid::Grid;
use super::lanes::Scalar;
use super::memory::{Cell, Mark};
use super::pack::{f16_bits, f16_value};
use super::program::{OUTSIDE, Op, Pointer, Reg, Root};
use super::wave::{Wave, each_lane, is_half};
use naga::AtomicFunction;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

/// A fault as it is found, before its place is put in words.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) who: (u32, u32),
    pub(super) address: Option<String>,
    pub(super) other: Option<(String, Mark, bool)>,
    pub(super) message: String,
    pub(super) count: u64,
}

/// Address, other access and message of a fault.
pub(super) type Told = (Option<String>, Option<(String, Mark, bool)>, String);

/// What the waves of a workgroup share, and what was found.
#[derive(Debug)]
pub(super) struct Shared {
    /// Linear number of the workgroup.
    pub(super) group: u32,
    pub(super) words: Vec<u32>,
    pub(super) cells: Vec<Cell>,
    /// Barriers passed, for workgroup memory and for storage.
    pub(super) epochs: [u32; 2],
    /// The last uniform load: operation, stretch between barriers, place.
    pub(super) uniform: Option<(u32, u32, Option<u32>)>,
    pub(super) found: HashMap<(Check, u32), Raw>,
    pub(super) operations: u64,
}

impl Shared {
    pub(super) fn new(grid: &Grid<'_>) -> Self {
        let n = grid.code.n_workgroup as usize;
        let watched = grid.options.checks.races || grid.options.checks.unwritten;
        Self {
            group: 0,
            words: vec![0; n],
            cells: if watched { vec![Cell::NEW; n] } else { Vec::new() },
            epochs: [0; 2],
            uniform: None,
            found: HashMap::new(),
            operations: 0,
        }
    }

    /// For another workgroup: memory that nothing wrote.
    pub(super) fn restart(&mut self, group: u32) {
        self.group = group;
        self.words.fill(0x7FFA_DBAD);
        self.cells.fill(Cell::NEW);
        self.epochs = [0; 2];
        self.uniform = None;
    }

    pub(super) fn invocation(&self, local: u32) -> (u32, u32) {
        (self.group, local)
    }

    /// Counts a fault; the words are asked for only when it is new, or an earlier invocation's.
    pub(super) fn report(
        &mut self,
        grid: &Grid<'_>,
        check: Check,
        op: u32,
        who: (u32, u32),
        tell: impl FnOnce() -> Told,
    ) {
        if !grid.looks_for(check) {
            return;
        }
        if let Some(raw) = self.found.get_mut(&(check, op)) {
            raw.count += 1;
            return;
        }
        let (address, other, message) = tell();
        self.found.insert((check, op), Raw { who, address, other, message, count: 1 });
    }
}

/// A word of a buffer or of workgroup memory.
#[derive(Debug, Clone, Copy)]
enum Word {
    Buffer { slot: u32, at: u64, scalar: Scalar },
    Workgroup { variable: u32, at: u32 },
}

impl Wave {
    /// Where a lane's pointer leads, in bytes, components or registers; nothing outside.
    pub(super) fn place(&self, grid: &Grid<'_>, pointer: Pointer, lane: usize) -> Option<u32> {
        let dynamic = match pointer.dynamic {
            Some(reg) => self.get(grid, reg, lane),
            None => 0,
        };
        if dynamic == OUTSIDE { None } else { pointer.fixed.checked_add(dynamic) }
    }

    pub(super) fn load(
        &mut self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        out: Reg,
        from: Pointer,
        shape: u32,
    ) {
        let shape = &grid.code.shapes[shape as usize];
        let n = shape.len() as u32;
        match from.root {
            Root::Own { first, written, variable } => {
                if from.dynamic.is_none() {
                    self.copy(grid, out, first + from.fixed, n);
                } else {
                    each_lane!(self, lane, {
                        let at = self.place(grid, from, lane);
                        for i in 0..n {
                            let word = at.map_or(0, |at| self.get(grid, first + at + i, lane));
                            self.set(grid, out + i, lane, word);
                        }
                    });
                }
                if let Some(written) = written.filter(|_| grid.options.checks.unwritten) {
                    self.check_own(grid, shared, number, from, written, variable, n);
                }
            }
            Root::Workgroup(variable) => {
                each_lane!(self, lane, {
                    let at = self.place(grid, from, lane);
                    for i in 0..n {
                        let word = match at {
                            Some(at) => self.read(grid, shared, number, lane, Word::Workgroup { variable, at: at + i }),
                            None => 0,
                        };
                        self.set(grid, out + i, lane, word);
                    }
                });
            }
            Root::Buffer(slot) => {
                each_lane!(self, lane, {
                    let at = self.place(grid, from, lane);
                    for (i, (byte, scalar)) in (0..).zip(shape) {
                        let word = match at {
                            Some(at) => {
                                let at = u64::from(at) + u64::from(*byte);
                                self.read(grid, shared, number, lane, Word::Buffer { slot, at, scalar: *scalar })
                            }
                            None => 0,
                        };
                        self.set(grid, out + i, lane, word);
                    }
                });
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a load with its variable")]
    fn check_own(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        from: Pointer,
        written: Reg,
        variable: u32,
        n: u32,
    ) {
        each_lane!(self, lane, {
            let Some(at) = self.place(grid, from, lane) else { continue };
            if let Some(i) = (0..n).find(|i| self.get(grid, written + at + i, lane) == 0) {
                let who = shared.invocation(self.first + lane as u32);
                shared.report(grid, Check::Unwritten, number, who, || {
                    let address = grid.own_path(variable, at + i);
                    (Some(address), None, "a variable that was given no value".into())
                });
            }
        });
    }

    pub(super) fn store(
        &mut self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        to: Pointer,
        value: Reg,
        shape: u32,
    ) {
        let shape = &grid.code.shapes[shape as usize];
        let n = shape.len() as u32;
        match to.root {
            Root::Own { first, written, .. } => {
                if to.dynamic.is_none() {
                    self.assign(grid, first + to.fixed, value, n);
                    if let Some(written) = written {
                        let full = self.active == self.all;
                        for i in 0..n {
                            for lane in 0..grid.width {
                                if full || self.active >> lane & 1 == 1 {
                                    self.set(grid, written + to.fixed + i, lane, 1);
                                }
                            }
                        }
                    }
                    return;
                }
                each_lane!(self, lane, {
                    let Some(at) = self.place(grid, to, lane) else { continue };
                    for i in 0..n {
                        let word = self.get(grid, value + i, lane);
                        self.set(grid, first + at + i, lane, word);
                        if let Some(written) = written {
                            self.set(grid, written + at + i, lane, 1);
                        }
                    }
                });
            }
            Root::Workgroup(variable) => {
                each_lane!(self, lane, {
                    let Some(at) = self.place(grid, to, lane) else { continue };
                    for i in 0..n {
                        let word = self.get(grid, value + i, lane);
                        self.write(grid, shared, number, lane, Word::Workgroup { variable, at: at + i }, word);
                    }
                });
            }
            Root::Buffer(slot) => {
                each_lane!(self, lane, {
                    let Some(at) = self.place(grid, to, lane) else { continue };
                    for (i, (byte, scalar)) in (0..).zip(shape) {
                        let word = self.get(grid, value + i, lane);
                        let at = u64::from(at) + u64::from(*byte);
                        self.write(grid, shared, number, lane, Word::Buffer { slot, at, scalar: *scalar }, word);
                    }
                });
            }
        }
    }

    /// One word, with every check on the way.
    fn read(&self, grid: &Grid<'_>, shared: &mut Shared, number: u32, lane: usize, word: Word) -> u32 {
        let local = self.first + lane as u32;
        let (value, written) = match word {
            Word::Workgroup { variable, at } => {
                let i = (grid.code.workgroup[variable as usize].first + at) as usize;
                let Some(value) = shared.words.get(i).copied() else { return 0 };
                let written = shared.cells.get(i).is_none_or(|cell| cell.write.is_some());
                (value, written)
            }
            Word::Buffer { slot, at, scalar } => {
                let memory = &grid.slots[slot as usize];
                let found = if is_half(scalar) {
                    memory.half(at).map(|(half, written)| (f16_value(u32::from(half)).to_bits(), written))
                } else {
                    memory.word(at)
                };
                match found {
                    Some(found) => found,
                    None => {
                        self.past_the_end(grid, shared, number, local, slot, at, "read");
                        return 0;
                    }
                }
            }
        };
        if !written {
            let who = shared.invocation(local);
            shared.report(grid, Check::Unwritten, number, who, || {
                (Some(grid.path(word.into_path())), None, "nothing wrote it".into())
            });
        }
        if grid.options.checks.races
            && let Some(mark) =
                self.touch(grid, shared, number, local, word, |cell, me, threads| cell.reads(me, threads))
        {
            self.race(grid, shared, number, local, word, "read", (mark, true));
        }
        value
    }

    fn write(&self, grid: &Grid<'_>, shared: &mut Shared, number: u32, lane: usize, word: Word, value: u32) {
        let local = self.first + lane as u32;
        if grid.options.checks.races {
            let race = self.touch(grid, shared, number, local, word, |cell, me, threads| cell.writes(me, threads));
            if let Some(race) = race {
                self.race(grid, shared, number, local, word, "write", race);
            }
        }
        match word {
            Word::Workgroup { variable, at } => {
                let i = (grid.code.workgroup[variable as usize].first + at) as usize;
                if let Some(to) = shared.words.get_mut(i) {
                    *to = value;
                }
                if !grid.options.checks.races
                    && let Some(cell) = shared.cells.get_mut(i)
                {
                    cell.write = Mark::new(local, 0, number);
                }
            }
            Word::Buffer { slot, at, scalar } => {
                let memory = &grid.slots[slot as usize];
                let done = if is_half(scalar) {
                    memory.set_half(at, f16_bits(f32::from_bits(value)) as u16)
                } else {
                    memory.set_word(at, value)
                };
                if done.is_none() {
                    self.past_the_end(grid, shared, number, local, slot, at, "write");
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an access with its place")]
    fn past_the_end(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        local: u32,
        slot: u32,
        at: u64,
        does: &str,
    ) {
        let who = shared.invocation(local);
        shared.report(grid, Check::OutOfBounds, number, who, || {
            let message = format!("{does} at byte {at} of {}", grid.slots[slot as usize].n_bytes);
            (Some(grid.slot_path(slot, at)), None, message)
        });
    }

    /// Notes an access in the cells of a word; the first answer of theirs counts.
    fn touch<T>(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        local: u32,
        word: Word,
        note: impl Fn(&mut Cell, Mark, u32) -> Option<T>,
    ) -> Option<T> {
        match word {
            Word::Workgroup { variable, at } => {
                let i = (grid.code.workgroup[variable as usize].first + at) as usize;
                let me = Mark::new(local, shared.epochs[0], number);
                note(shared.cells.get_mut(i)?, me, grid.threads)
            }
            Word::Buffer { slot, at, scalar } => {
                let memory = &grid.slots[slot as usize];
                let cells = memory.cells.as_ref()?;
                let me = Mark::new(shared.group * grid.threads + local, shared.epochs[1], number);
                let first = at / u64::from(memory.grain);
                let bytes = if is_half(scalar) { 2 } else { 4 };
                let n = (bytes / u64::from(memory.grain)).max(1);
                (first..first + n).fold(None, |race, i| {
                    let here = cells.with(i as usize, |cell| note(cell, me, grid.threads));
                    race.or(here)
                })
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "two accesses with their place")]
    fn race(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        local: u32,
        word: Word,
        does: &str,
        (mark, is_write): (Mark, bool),
    ) {
        let in_workgroup = matches!(word, Word::Workgroup { .. });
        let check = if in_workgroup { Check::WorkgroupRace } else { Check::StorageRace };
        let who = shared.invocation(local);
        shared.report(grid, check, number, who, || {
            let other = if is_write { "a write" } else { "a read" };
            let message = format!("{does} with no barrier between it and {other}");
            (Some(grid.path(word.into_path())), Some((other.to_owned(), mark, in_workgroup)), message)
        });
    }

    pub(super) fn atomic(&mut self, grid: &Grid<'_>, shared: &mut Shared, number: u32, op: &Op) {
        let Op::Atomic { out, at: pointer, fun, value, compare, scalar, load } = *op else { return };
        let signed = scalar == Scalar::I32;
        each_lane!(self, lane, {
            let local = self.first + lane as u32;
            let value = self.get(grid, value, lane);
            let compare = compare.map(|reg| self.get(grid, reg, lane));
            let next = |old: u32| combine(fun, signed, old, value, compare);
            let mut old = 0;
            if let Some(place) = self.place(grid, pointer, lane) {
                let (found, unwritten) = match pointer.root {
                    Root::Workgroup(variable) => {
                        let i = (grid.code.workgroup[variable as usize].first + place) as usize;
                        let word = shared.words.get_mut(i);
                        let was = word.map(|word| std::mem::replace(word, next(*word)));
                        let mut unwritten = false;
                        if let Some(cell) = shared.cells.get_mut(i) {
                            unwritten = !cell.write.is_some();
                            if !load {
                                cell.write = Mark::new(local, shared.epochs[0], number);
                            }
                        }
                        (was, unwritten)
                    }
                    Root::Buffer(slot) => match grid.slots[slot as usize].atomic(u64::from(place)) {
                        Some((word, written)) => {
                            let was = word.fetch_update(Relaxed, Relaxed, |old| Some(next(old))).unwrap_or(0);
                            let before = if load { written.load(Relaxed) } else { written.swap(0xF, Relaxed) };
                            (Some(was), before != 0xF)
                        }
                        None => {
                            self.past_the_end(grid, shared, number, local, slot, u64::from(place), "atomic");
                            (None, false)
                        }
                    },
                    Root::Own { .. } => (None, false),
                };
                old = found.unwrap_or(0);
                // An exchange without a condition is how a value gets there first.
                if unwritten && !matches!(fun, AtomicFunction::Exchange { compare: None }) {
                    let who = shared.invocation(local);
                    shared.report(grid, Check::Unwritten, number, who, || {
                        (Some(grid.root_path(pointer.root, place)), None, "nothing wrote it".into())
                    });
                }
            }
            if let Some(out) = out {
                self.set(grid, out, lane, old);
                self.set(grid, out + 1, lane, u32::from(compare == Some(old)));
            }
        });
    }

    /// Looks whether every invocation gives the same place, as `workgroupUniformLoad` wants it.
    pub(super) fn uniform(&self, grid: &Grid<'_>, shared: &mut Shared, number: u32, from: Pointer) {
        each_lane!(self, lane, {
            let here = (number, shared.epochs[0], self.place(grid, from, lane));
            let first = *shared.uniform.get_or_insert(here);
            if (first.0, first.1) != (here.0, here.1) {
                shared.uniform = Some(here);
            } else if first.2 != here.2 {
                let who = shared.invocation(self.first + lane as u32);
                shared.report(grid, Check::DivergentBarrier, number, who, || {
                    let address = here.2.map(|at| grid.root_path(from.root, at));
                    (address, None, "workgroupUniformLoad of different places".into())
                });
            }
        });
    }

    /// An element of a matrix that lies in memory.
    pub(super) fn coop_read(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        lane: usize,
        (root, place): (Root, Option<u64>),
        scalar: Scalar,
    ) -> u32 {
        match (root, place) {
            (Root::Workgroup(variable), Some(at)) if at < u64::from(grid.code.workgroup[variable as usize].len) => {
                self.read(grid, shared, number, lane, Word::Workgroup { variable, at: at as u32 })
            }
            (Root::Buffer(slot), Some(at)) => self.read(grid, shared, number, lane, Word::Buffer { slot, at, scalar }),
            (root, place) => {
                self.coop_outside(grid, shared, number, lane, root, place, "read");
                0
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an access with its place")]
    pub(super) fn coop_write(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        lane: usize,
        (root, place): (Root, Option<u64>),
        scalar: Scalar,
        value: u32,
    ) {
        match (root, place) {
            (Root::Workgroup(variable), Some(at)) if at < u64::from(grid.code.workgroup[variable as usize].len) => {
                self.write(grid, shared, number, lane, Word::Workgroup { variable, at: at as u32 }, value);
            }
            (Root::Buffer(slot), Some(at)) => {
                self.write(grid, shared, number, lane, Word::Buffer { slot, at, scalar }, value);
            }
            (root, place) => self.coop_outside(grid, shared, number, lane, root, place, "write"),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an access with its place")]
    fn coop_outside(
        &self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        lane: usize,
        root: Root,
        place: Option<u64>,
        does: &str,
    ) {
        // A pointer that is outside from the start was told where its index was.
        let Some(at) = place else { return };
        let who = shared.invocation(self.first + lane as u32);
        shared.report(grid, Check::OutOfBounds, number, who, || {
            (Some(grid.name_of(root).to_owned()), None, format!("{does} of a matrix element at {at}"))
        });
    }
}

impl Word {
    fn into_path(self) -> (Root, u64) {
        match self {
            Self::Buffer { slot, at, .. } => (Root::Buffer(slot), at),
            Self::Workgroup { variable, at } => (Root::Workgroup(variable), u64::from(at)),
        }
    }
}

fn combine(fun: AtomicFunction, signed: bool, old: u32, value: u32, compare: Option<u32>) -> u32 {
    match fun {
        AtomicFunction::Add => old.wrapping_add(value),
        AtomicFunction::Subtract => old.wrapping_sub(value),
        AtomicFunction::And => old & value,
        AtomicFunction::ExclusiveOr => old ^ value,
        AtomicFunction::InclusiveOr => old | value,
        AtomicFunction::Min if signed => (old as i32).min(value as i32) as u32,
        AtomicFunction::Max if signed => (old as i32).max(value as i32) as u32,
        AtomicFunction::Min => old.min(value),
        AtomicFunction::Max => old.max(value),
        AtomicFunction::Exchange { .. } => match compare {
            Some(compare) if compare != old => old,
            _ => value,
        },
    }
}

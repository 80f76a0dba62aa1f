//! A grid of workgroups: who runs when, and what all of them found.

use super::access::{Raw, Shared};
use super::buffer::Bound;
use super::check::{Check, Finding, Invocation};
use super::memory::{MAX_EPOCH, Slot};
use super::options::{Options, Order};
use super::program::{Code, Name, Risk, Root, Told};
use super::types;
use super::wave::{State, Wave};
use super::{Access, Outcome};
use crate::{Error, Result};
use std::collections::HashMap;

/// Workgroups that take turns, where the schedule interleaves them.
const RESIDENT: usize = 4;

/// Invocations of a grid from which threads pay.
const PARALLEL: u64 = 4096;

/// One run of a program.
#[derive(Debug)]
pub(super) struct Grid<'a> {
    pub(super) code: &'a Code,
    pub(super) options: &'a Options,
    pub(super) slots: Vec<Slot<'a>>,
    /// Length of each open array, in elements.
    pub(super) lengths: Vec<u32>,
    /// Constants, one register for each.
    pub(super) constants: Vec<u32>,
    /// Lanes of a wave.
    pub(super) width: usize,
    /// Invocations of a workgroup.
    pub(super) threads: u32,
    groups: [u32; 3],
    label: &'a str,
}

impl<'a> Grid<'a> {
    pub(super) fn new(
        code: &'a Code,
        label: &'a str,
        groups: [u32; 3],
        bound: &[Bound<'a>],
        options: &'a Options,
    ) -> Self {
        let threads: u32 = code.workgroup_size.iter().product();
        let size = options.subgroup_size;
        let width = if options.schedule.alone && !code.uses_subgroups {
            1
        } else if code.uses_subgroups && options.schedule.order != Order::Straight {
            size
        } else {
            threads.next_power_of_two().clamp(size, 128)
        };
        let slots: Vec<Slot<'_>> = bound
            .iter()
            .enumerate()
            .map(|(i, bound)| {
                let written = code.bindings.get(i).is_some_and(|info| info.access == Access::ReadWrite);
                Slot::new(bound, written && options.checks.races, code.halves[i])
            })
            .collect();
        let length = |array: &super::program::OpenArray| {
            let bytes = slots[array.slot as usize].n_bytes.saturating_sub(u64::from(array.before));
            (bytes / u64::from(array.stride.max(1))).min(u64::from(u32::MAX)) as u32
        };
        let lengths = code.open_arrays.iter().map(length).collect();
        let width = width as usize;
        let constants = code.constants.iter().flat_map(|word| std::iter::repeat_n(*word, width)).collect();
        Self { code, options, slots, lengths, constants, width, threads, groups, label }
    }

    /// Whether a fault of this kind is reported.
    pub(super) fn looks_for(&self, check: Check) -> bool {
        let checks = &self.options.checks;
        match check {
            Check::WorkgroupRace | Check::StorageRace | Check::Alias => checks.races,
            Check::OutOfBounds | Check::SubgroupLane => checks.bounds,
            Check::Unwritten | Check::NeverWritten => checks.unwritten,
            Check::DivergentBarrier | Check::DivergentSubgroup => checks.divergence,
            Check::DivisionByZero | Check::ShiftPastWidth | Check::SignedOverflow | Check::F16Overflow => {
                checks.arithmetic
            }
            Check::NonFinite => checks.non_finite,
            Check::EndlessLoop => true,
        }
    }

    /// Whether an operation's result has to be looked at.
    pub(super) fn weighs(&self, risk: Risk) -> bool {
        match risk {
            Risk::None => false,
            Risk::Float | Risk::ToInteger => self.options.checks.non_finite,
            _ => self.options.checks.arithmetic,
        }
    }

    pub(super) fn name_of(&self, root: Root) -> &str {
        match root {
            Root::Buffer(slot) => match self.code.bindings.get(slot as usize) {
                Some(info) => &info.name,
                None => self.code.immediates.as_ref().map_or("", |(name, _)| name),
            },
            Root::Workgroup(variable) => &self.code.workgroup[variable as usize].name,
            Root::Own { variable, .. } => &self.code.own[variable as usize].name,
        }
    }

    /// An element by what it is in, and its index.
    pub(super) fn element(&self, name: Name, at: u32) -> (String, String) {
        let at = if name.signed { (at as i32).to_string() } else { at.to_string() };
        (format!("{}[{at}]", self.code.names[name.text as usize]), at)
    }

    /// What lies at a byte, component or register of a variable, in words.
    pub(super) fn root_path(&self, root: Root, at: u32) -> String {
        let name = self.name_of(root);
        let (ty, bytes) = match root {
            Root::Buffer(slot) => (self.code.slots[slot as usize], true),
            Root::Workgroup(variable) => (self.code.workgroup[variable as usize].ty, false),
            Root::Own { variable, .. } => (self.code.own[variable as usize].ty, false),
        };
        let path = self.type_path(name, ty, at, bytes);
        if bytes { format!("{path}, byte {at}") } else { path }
    }

    fn type_path(&self, name: &str, ty: naga::Handle<naga::Type>, at: u32, bytes: bool) -> String {
        self.code.resolved.as_ref().map_or_else(|| name.to_owned(), |module| types::path(module, name, ty, at, bytes))
    }

    pub(super) fn path(&self, (root, at): (Root, u64)) -> String {
        self.root_path(root, at as u32)
    }

    pub(super) fn slot_path(&self, slot: u32, at: u64) -> String {
        self.root_path(Root::Buffer(slot), at as u32)
    }

    pub(super) fn own_path(&self, variable: u32, at: u32) -> String {
        let variable = &self.code.own[variable as usize];
        self.type_path(&variable.name, variable.ty, at, false)
    }

    /// Runs every workgroup.
    pub(super) fn run(&self) -> Result<Outcome> {
        let n: u32 = self.groups.iter().product();
        let mut order: Vec<u32> = (0..n).collect();
        arrange(&mut order, self.options.schedule.order, u64::MAX);
        let options = self.options;
        let alone = !options.parallel
            || options.schedule.interleaved
            || self.code.uses_atomics
            || u64::from(n) * u64::from(self.threads) < PARALLEL;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let parts = if alone { 1 } else { cores().min(n as usize) };
        let workers: Vec<Worker> = if options.schedule.interleaved {
            vec![self.interleave(&order)?]
        } else if parts == 1 {
            vec![self.in_turn(&order)?]
        } else {
            // Threads of its own: a pool's worker that waits might take up another launch on the way.
            std::thread::scope(|scope| {
                let parts = order.chunks(order.len().div_ceil(parts));
                let threads: Vec<_> = parts.map(|part| scope.spawn(|| self.in_turn(part))).collect();
                let joined = threads.into_iter().map(|thread| thread.join());
                joined.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Result<_>>()
            })?
        };
        let operations = workers.iter().map(|worker| worker.operations).sum();
        let mut found: HashMap<(Check, u32), Raw> = HashMap::new();
        for (key, raw) in workers.into_iter().flat_map(|worker| worker.found) {
            found
                .entry(key)
                .and_modify(|old| {
                    let count = old.count + raw.count;
                    if raw.who < old.who {
                        *old = raw.clone();
                    }
                    old.count = count;
                })
                .or_insert(raw);
        }
        let mut findings: Vec<Finding> =
            found.into_iter().map(|((check, op), raw)| self.finding(check, op, raw)).collect();
        findings.sort_by(|a, b| (a.line, a.check, &a.message).cmp(&(b.line, b.check, &b.message)));
        Ok(Outcome { findings, operations })
    }

    fn in_turn(&self, order: &[u32]) -> Result<Worker> {
        let mut group = Group::new(self);
        for &number in order {
            group.start(self, number);
            while group.advance(self)? {}
        }
        Ok(group.into_worker())
    }

    fn interleave(&self, order: &[u32]) -> Result<Worker> {
        let mut waiting = order.iter();
        let mut running: Vec<Group> = Vec::new();
        let mut idle: Vec<Group> = (0..RESIDENT.min(order.len())).map(|_| Group::new(self)).collect();
        let mut random = Random::new(self.options.schedule.order, 7);
        loop {
            while let Some(mut group) = idle.pop() {
                let Some(&number) = waiting.next() else {
                    idle.push(group);
                    break;
                };
                group.start(self, number);
                running.push(group);
            }
            if running.is_empty() {
                break;
            }
            let turn = random.below(running.len());
            if !running[turn].advance(self)? {
                idle.push(running.swap_remove(turn));
            }
        }
        let mut all = Worker::default();
        for group in idle {
            let worker = group.into_worker();
            all.operations += worker.operations;
            for (key, raw) in worker.found {
                all.found.entry(key).and_modify(|old| old.count += raw.count).or_insert(raw);
            }
        }
        Ok(all)
    }

    fn invocation(&self, (group, local): (u32, u32)) -> Invocation {
        let [x, y, _] = self.groups;
        let (x, y) = (x.max(1), y.max(1));
        Invocation { group: [group % x, group / x % y, group / x / y], local }
    }

    fn finding(&self, check: Check, op: u32, raw: Raw) -> Finding {
        let line = self.code.lines[op as usize];
        let source = &self.code.source;
        let other = raw.other.map(|(what, mark, in_workgroup)| {
            let number = mark.invocation();
            let who = if in_workgroup { (raw.who.0, number) } else { (number / self.threads, number % self.threads) };
            let place = source.place(self.code.lines[mark.op() as usize]);
            (what, self.invocation(who), place)
        });
        Finding {
            kernel: self.label.to_owned(),
            check,
            place: source.place(line),
            line,
            text: source.line(line).to_owned(),
            address: raw.address,
            invocation: Some(self.invocation(raw.who)),
            other,
            message: raw.message,
            count: raw.count,
            run: format!("subgroups of {}, {}", self.options.subgroup_size, self.options.schedule),
        }
    }
}

/// What came of some workgroups.
#[derive(Debug, Default)]
struct Worker {
    found: HashMap<(Check, u32), Raw>,
    operations: u64,
}

/// A workgroup on its way.
#[derive(Debug)]
struct Group {
    waves: Vec<Wave>,
    shared: Shared,
    turns: u64,
}

impl Group {
    fn new(grid: &Grid<'_>) -> Self {
        let width = grid.width as u32;
        let waves =
            (0..grid.threads).step_by(grid.width).map(|first| Wave::new(grid, first, width.min(grid.threads - first)));
        Self { waves: waves.collect(), shared: Shared::new(grid), turns: 0 }
    }

    fn into_worker(self) -> Worker {
        Worker { found: self.shared.found, operations: self.shared.operations }
    }

    fn start(&mut self, grid: &Grid<'_>, number: u32) {
        self.shared.restart(number);
        self.turns = 0;
        let [x, y, _] = grid.groups;
        let group = [number % x, number / x % y, number / x / y];
        for wave in &mut self.waves {
            wave.restart(grid);
            for (told, reg) in &grid.code.told {
                for lane in 0..grid.width {
                    for (i, word) in (0..).zip(tell(grid, *told, group, wave.first + lane as u32)) {
                        wave.set(grid, reg + i, lane, word);
                    }
                }
            }
        }
    }

    /// Runs every wave to its next barrier; answers whether there is more to do.
    fn advance(&mut self, grid: &Grid<'_>) -> Result<bool> {
        let mut order: Vec<u32> = (0..self.waves.len() as u32).collect();
        let salt = u64::from(self.shared.group) << 20 ^ self.turns;
        arrange(&mut order, grid.options.schedule.order, salt);
        self.turns += 1;
        for i in order {
            let wave = &mut self.waves[i as usize];
            if wave.state == State::Done {
                continue;
            }
            if grid.options.schedule.order != Order::Straight {
                wave.order.sort_unstable();
                arrange(&mut wave.order, grid.options.schedule.order, salt ^ u64::from(i) << 40);
            }
            wave.run(grid, &mut self.shared);
        }
        let waiting = |wave: &Wave| match wave.state {
            State::Waiting { op, workgroup, storage } => Some((op, workgroup, storage)),
            _ => None,
        };
        let Some((op, workgroup, storage)) = self.waves.iter().find_map(waiting) else { return Ok(false) };
        // The same barrier, come to by the same calls in the same rounds of loops.
        let first = self.waves.iter().find(|wave| waiting(wave).is_some());
        let here = |wave: &Wave| {
            waiting(wave).is_some_and(|(other, ..)| other == op)
                && first.is_some_and(|first| first.path().0 == wave.path().0 && first.path().1.eq(wave.path().1))
        };
        if !self.waves.iter().all(|wave| here(wave) && wave.active == wave.all) {
            let who = first.map_or(0, |wave| wave.first + wave.active.trailing_zeros());
            let n: u32 = self.waves.iter().filter(|wave| here(wave)).map(|wave| wave.active.count_ones()).sum();
            let who = self.shared.invocation(who);
            self.shared.report(grid, Check::DivergentBarrier, op, who, || {
                (None, None, format!("{n} of {} invocations are here", grid.threads))
            });
        }
        for (epoch, passed) in self.shared.epochs.iter_mut().zip([workgroup, storage]) {
            *epoch += u32::from(passed);
            if *epoch > MAX_EPOCH {
                let message =
                    format!("{}: more than {MAX_EPOCH} barriers in a workgroup are not simulated", grid.label);
                return Err(Error::Input(message));
            }
        }
        Ok(true)
    }
}

/// A built-in value: one to three words.
fn tell(grid: &Grid<'_>, told: Told, group: [u32; 3], local: u32) -> Vec<u32> {
    let [sx, sy, sz] = grid.code.workgroup_size;
    let id = [local % sx, local / sx % sy, local / sx / sy];
    let size = grid.options.subgroup_size;
    match told {
        Told::GlobalId => (0..3).map(|i| group[i].wrapping_mul([sx, sy, sz][i]).wrapping_add(id[i])).collect(),
        Told::LocalId => id.to_vec(),
        Told::LocalIndex => vec![local],
        Told::GroupId => group.to_vec(),
        Told::GroupSize => vec![sx, sy, sz],
        Told::NumGroups => grid.groups.to_vec(),
        Told::NumSubgroups => vec![grid.threads.div_ceil(size)],
        Told::SubgroupId => vec![local / size],
        Told::SubgroupSize => vec![size],
        Told::SubgroupLane => vec![local % size],
    }
}

/// Puts things in the order of a schedule.
fn arrange<T>(items: &mut [T], order: Order, salt: u64) {
    match order {
        Order::Straight => (),
        Order::Reversed => items.reverse(),
        Order::Random(_) => {
            let mut random = Random::new(order, salt);
            for i in (1..items.len()).rev() {
                items.swap(i, random.below(i + 1));
            }
        }
    }
}

/// splitmix64, seeded by the schedule.
struct Random(u64);

impl Random {
    fn new(order: Order, salt: u64) -> Self {
        let seed = if let Order::Random(seed) = order { seed } else { 0 };
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }
}

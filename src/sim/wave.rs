//! Invocations that advance together: registers, masks, and the operations one after another.

use super::access::Shared;
use super::check::Check;
use super::grid::Grid;
use super::lanes::Scalar;
use super::program::{CONST, Function, Length, OUTSIDE, Op, PASSED, RAN, Reg, Risk, TAKEN};
use std::sync::atomic::Ordering::Relaxed;

/// What a construct knows of the invocations that left it.
#[derive(Debug, Clone, Copy, Default)]
struct Mask {
    /// Out of the construct: those of the branch already done, those that broke out or returned.
    done: u128,
    /// Still to come: those of the other branch, those that continue the loop, all that entered the switch.
    next: u128,
    rounds: u32,
}

/// Where a wave stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// At a barrier: its number in the program, and what it orders.
    Waiting {
        op: u32,
        workgroup: bool,
        storage: bool,
    },
    Done,
}

/// Up to 128 invocations of a workgroup.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) regs: Vec<u32>,
    pub(super) active: u128,
    pub(super) all: u128,
    masks: Vec<Mask>,
    calls: Vec<(u32, u32)>,
    function: u32,
    pc: u32,
    /// `local_invocation_index` of the first.
    pub(super) first: u32,
    /// In which order they touch memory.
    pub(super) order: Vec<u8>,
    pub(super) state: State,
}

/// The lanes of a mask, in order.
macro_rules! each_lane {
    ($wave:expr, $lane:ident, $body:block) => {
        for i in 0..$wave.order.len() {
            let $lane = usize::from($wave.order[i]);
            if $wave.active >> $lane & 1 == 1 $body
        }
    };
}
pub(super) use each_lane;

impl Wave {
    pub(super) fn new(grid: &Grid<'_>, first: u32, lanes: u32) -> Self {
        let all = if lanes == 128 { u128::MAX } else { (1 << lanes) - 1 };
        Self {
            regs: vec![0; grid.code.n_registers as usize * grid.width],
            active: all,
            all,
            masks: Vec::new(),
            calls: Vec::new(),
            function: grid.code.entry,
            pc: 0,
            first,
            order: (0..lanes as u8).collect(),
            state: State::Running,
        }
    }

    /// Back to the start of the kernel.
    pub(super) fn restart(&mut self, grid: &Grid<'_>) {
        self.active = self.all;
        self.masks.clear();
        self.masks.push(Mask::default());
        self.calls.clear();
        self.function = grid.code.entry;
        self.pc = 0;
        self.state = State::Running;
    }

    /// A register's value in a lane.
    #[inline(always)]
    pub(super) fn get(&self, grid: &Grid<'_>, reg: Reg, lane: usize) -> u32 {
        if reg & CONST == 0 {
            self.regs[reg as usize * grid.width + lane]
        } else {
            grid.constants[(reg & !CONST) as usize * grid.width + lane]
        }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, grid: &Grid<'_>, reg: Reg, lane: usize, word: u32) {
        self.regs[reg as usize * grid.width + lane] = word;
    }

    /// `n` registers to write and, below them or among the constants, others to read.
    fn split<'s, const N: usize>(
        &'s mut self,
        grid: &'s Grid<'_>,
        out: Reg,
        n: u32,
        from: [(Reg, u32); N],
    ) -> (&'s mut [u32], [&'s [u32]; N]) {
        let width = grid.width;
        let (low, high) = self.regs.split_at_mut(out as usize * width);
        let operands = from.map(|(reg, n)| {
            let (file, at) = if reg & CONST == 0 { (&*low, reg) } else { (&*grid.constants, reg & !CONST) };
            &file[at as usize * width..][..n as usize * width]
        });
        (&mut high[..n as usize * width], operands)
    }

    /// The lanes for which a condition holds.
    fn truths(&self, grid: &Grid<'_>, cond: Reg) -> u128 {
        let width = grid.width;
        let (file, at) = if cond & CONST == 0 { (&self.regs, cond) } else { (&grid.constants, cond & !CONST) };
        let lanes = &file[at as usize * width..][..width];
        lanes.iter().rev().fold(0, |mask, word| mask << 1 | u128::from(*word != 0))
    }

    /// Runs on to the next barrier, or to the end.
    pub(super) fn run(&mut self, grid: &Grid<'_>, shared: &mut Shared) {
        let code = grid.code;
        self.state = State::Running;
        'functions: loop {
            let Function { ops, first } = &code.functions[self.function as usize];
            loop {
                let op = &ops[self.pc as usize];
                let number = first + self.pc;
                self.pc += 1;
                if self.active != 0 {
                    shared.operations += u64::from(self.active.count_ones());
                    let seen = &code.seen[number as usize];
                    if seen.load(Relaxed) & RAN == 0 {
                        seen.fetch_or(RAN, Relaxed);
                    }
                }
                match *op {
                    Op::If { .. }
                    | Op::Else { .. }
                    | Op::EndIf
                    | Op::Loop
                    | Op::Continuing { .. }
                    | Op::BreakIf { .. }
                    | Op::Again { .. }
                    | Op::EndLoop
                    | Op::Switch
                    | Op::Case { .. }
                    | Op::EndCase
                    | Op::EndSwitch
                    | Op::Skip { .. }
                    | Op::Break { .. }
                    | Op::Continue { .. }
                    | Op::Return { .. } => self.steer(grid, shared, op, number),
                    Op::Call { function } => {
                        if self.active != 0 {
                            self.calls.push((self.function, self.pc));
                            self.masks.push(Mask::default());
                            (self.function, self.pc) = (function, 0);
                            continue 'functions;
                        }
                    }
                    Op::EndFunction => {
                        self.active |= self.masks.pop().map_or(0, |mask| mask.done);
                        match self.calls.pop() {
                            Some((function, pc)) => (self.function, self.pc) = (function, pc),
                            None => {
                                self.state = State::Done;
                                return;
                            }
                        }
                        continue 'functions;
                    }
                    Op::Barrier { workgroup, storage } => {
                        if self.active != 0 {
                            self.state = State::Waiting { op: number, workgroup, storage };
                            return;
                        }
                    }
                    Op::Load { out, from, shape } => self.load(grid, shared, number, out, from, shape),
                    Op::Store { to, value, shape } => self.store(grid, shared, number, to, value, shape),
                    Op::Atomic { .. } => self.atomic(grid, shared, number, op),
                    Op::Uniform { from } => self.uniform(grid, shared, number, from),
                    Op::CoopLoad { .. } | Op::CoopStore { .. } | Op::CoopMultiply { .. } => {
                        self.cooperate(grid, shared, number, op);
                    }
                    Op::Ballot { .. } | Op::Collect { .. } | Op::Gather { .. } => {
                        self.exchange(grid, shared, number, op);
                    }
                    _ => self.compute(grid, shared, number, op),
                }
            }
        }
    }

    /// Where it stands in calls and loops, to tell one coming past a barrier from another.
    pub(super) fn path(&self) -> (&[(u32, u32)], impl Iterator<Item = u32> + '_) {
        (&self.calls, self.masks.iter().map(|mask| mask.rounds))
    }

    /// Flow of control.
    fn steer(&mut self, grid: &Grid<'_>, shared: &mut Shared, op: &Op, number: u32) {
        let depth = self.masks.len();
        match *op {
            Op::If { cond, otherwise } => {
                let truths = self.truths(grid, cond);
                let taken = self.active & truths;
                let passed = self.active & !truths;
                note_branch(grid, number, taken != 0, passed != 0);
                self.masks.push(Mask { next: passed, ..Mask::default() });
                self.active = taken;
                if taken == 0 {
                    self.pc = otherwise;
                }
            }
            Op::Else { end } => {
                let mask = &mut self.masks[depth - 1];
                mask.done = self.active;
                self.active = mask.next;
                if self.active == 0 {
                    self.pc = end;
                }
            }
            Op::EndIf => self.active |= self.masks.pop().map_or(0, |mask| mask.done),
            Op::Loop | Op::Switch => self
                .masks
                .push(Mask { next: if matches!(op, Op::Switch) { self.active } else { 0 }, ..Mask::default() }),
            Op::Continuing { end } => {
                let mask = &mut self.masks[depth - 1];
                self.active |= std::mem::take(&mut mask.next);
                if self.active == 0 {
                    self.pc = end;
                }
            }
            Op::BreakIf { cond } => {
                let out = self.active & self.truths(grid, cond);
                note_branch(grid, number, out != 0, self.active != out);
                self.masks[depth - 1].done |= out;
                self.active &= !out;
            }
            Op::Again { to } => {
                let mask = &mut self.masks[depth - 1];
                mask.rounds += 1;
                if mask.rounds > grid.options.loop_limit && self.active != 0 {
                    let (active, limit) = (self.active, grid.options.loop_limit);
                    mask.done |= active;
                    self.active = 0;
                    let who = shared.invocation(self.first + active.trailing_zeros());
                    shared.report(grid, Check::EndlessLoop, number, who, || {
                        (None, None, format!("{limit} rounds and no end"))
                    });
                } else if self.active != 0 {
                    self.pc = to;
                }
            }
            Op::EndLoop | Op::EndSwitch => self.active = self.masks.pop().map_or(0, |mask| mask.done),
            Op::Case { selector, values, default, next } => {
                let cases = &grid.code.cases;
                let own = &cases[values.0 as usize..values.1 as usize];
                let all = default.map(|(from, to)| &cases[from as usize..to as usize]);
                let mut taken = 0;
                let entered = self.masks[depth - 1].next;
                for lane in 0..grid.width {
                    if entered >> lane & 1 == 1 {
                        let word = self.get(grid, selector, lane);
                        let here = own.contains(&word) || all.is_some_and(|all| !all.contains(&word));
                        taken |= u128::from(here) << lane;
                    }
                }
                self.active = taken;
                if taken == 0 {
                    self.pc = next;
                } else {
                    note_branch(grid, number, true, taken != entered);
                }
            }
            Op::EndCase => {
                self.masks[depth - 1].done |= self.active;
                self.active = 0;
            }
            Op::Skip { to } if self.active == 0 => self.pc = to,
            Op::Break { up } | Op::Return { up } => {
                self.masks[depth - 1 - up as usize].done |= self.active;
                self.active = 0;
            }
            Op::Continue { up } => {
                self.masks[depth - 1 - up as usize].next |= self.active;
                self.active = 0;
            }
            _ => (),
        }
    }

    /// Arithmetic, copies and offsets.
    fn compute(&mut self, grid: &Grid<'_>, shared: &mut Shared, number: u32, op: &Op) {
        let width = grid.width;
        match *op {
            Op::Lane1 { f, out, a, n, risk } => {
                let (to, [x]) = self.split(grid, out, n, [(a, n)]);
                f(to, x);
                self.weigh(grid, shared, number, risk, out, n, &[a]);
            }
            Op::Lane2 { f, out, a, b, n, risk } => {
                let (to, [x, y]) = self.split(grid, out, n, [(a, n), (b, n)]);
                f(to, x, y);
                self.weigh(grid, shared, number, risk, out, n, &[a, b]);
            }
            Op::Lane3 { f, out, a, b, c, n, risk } => {
                let (to, [x, y, z]) = self.split(grid, out, n, [(a, n), (b, n), (c, n)]);
                f(to, x, y, z);
                self.weigh(grid, shared, number, risk, out, n, &[a, b, c]);
            }
            Op::Lane4 { f, out, args, n, risk } => {
                let (to, [x, y, z, w]) = self.split(grid, out, n, args.map(|reg| (reg, n)));
                f(to, x, y, z, w);
                self.weigh(grid, shared, number, risk, out, n, &args);
            }
            Op::Whole { f, out, args, risk } => {
                let whole = &grid.code.wholes[f as usize];
                let counts = whole.arguments().map(|n| n as u32);
                let n = whole.result() as u32;
                let (to, from) = self.split(grid, out, n, [0, 1, 2].map(|i| (args[i], counts[i])));
                whole.apply(width, from, to);
                self.weigh_whole(grid, shared, number, risk, (out, n), [0, 1, 2].map(|i| (args[i], counts[i])));
            }
            Op::Copy { out, from, n } => self.copy(grid, out, from, n),
            Op::Assign { out, from, n } => self.assign(grid, out, from, n),
            Op::Spread { out, from, n } => {
                for i in 0..n {
                    self.copy(grid, out + i, from, 1);
                }
            }
            Op::Pick { out, from, index, len, n, name } => {
                each_lane!(self, lane, {
                    let at = self.get(grid, index, lane);
                    if at >= len {
                        let who = shared.invocation(self.first + lane as u32);
                        shared.report(grid, Check::OutOfBounds, number, who, || {
                            let (address, at) = grid.element(name, at);
                            (Some(address), None, format!("read with index {at} of {len} elements"))
                        });
                    }
                    for i in 0..n {
                        let word = if at < len { self.get(grid, from + at * n + i, lane) } else { 0 };
                        self.set(grid, out + i, lane, word);
                    }
                });
            }
            Op::Index { out, base, index, stride, len, write, name } => {
                let (len, open) = match len {
                    Length::Fixed(len) => (len, false),
                    Length::Open(array) => (grid.lengths[array as usize], true),
                };
                for lane in 0..width {
                    let at = self.get(grid, index, lane);
                    let base = base.map_or(0, |reg| self.get(grid, reg, lane));
                    let mut offset = OUTSIDE;
                    if at < len && base != OUTSIDE {
                        offset = base.wrapping_add(at.wrapping_mul(stride));
                    } else if at >= len && self.active >> lane & 1 == 1 {
                        let who = shared.invocation(self.first + lane as u32);
                        shared.report(grid, Check::OutOfBounds, number, who, || {
                            let does = if write { "write" } else { "read" };
                            let kind = if open { "elements bound" } else { "elements" };
                            let (address, at) = grid.element(name, at);
                            (Some(address), None, format!("{does} with index {at} of {len} {kind}"))
                        });
                    }
                    self.set(grid, out, lane, offset);
                }
            }
            Op::ArrayLength { out, array } => {
                let len = grid.lengths[array as usize];
                self.regs[out as usize * width..][..width].fill(len);
            }
            _ => (),
        }
    }

    pub(super) fn copy(&mut self, grid: &Grid<'_>, out: Reg, from: Reg, n: u32) {
        let (width, n) = (grid.width, n as usize * grid.width);
        let to = out as usize * width;
        if from & CONST == 0 {
            let from = from as usize * width;
            self.regs.copy_within(from..from + n, to);
        } else {
            let from = (from & !CONST) as usize * width;
            self.regs[to..to + n].copy_from_slice(&grid.constants[from..from + n]);
        }
    }

    pub(super) fn assign(&mut self, grid: &Grid<'_>, out: Reg, from: Reg, n: u32) {
        if self.active == self.all {
            return self.copy(grid, out, from, n);
        }
        for i in 0..n {
            for lane in 0..grid.width {
                if self.active >> lane & 1 == 1 {
                    let word = self.get(grid, from + i, lane);
                    self.set(grid, out + i, lane, word);
                }
            }
        }
    }

    /// Looks for what may go wrong in an operation whose operands all have the result's number of components.
    #[allow(clippy::too_many_arguments, reason = "an operation with its operands")]
    fn weigh(&mut self, grid: &Grid<'_>, shared: &mut Shared, number: u32, risk: Risk, out: Reg, n: u32, args: &[Reg]) {
        if !grid.weighs(risk) || self.active == 0 {
            return;
        }
        for i in 0..n {
            for lane in 0..grid.width {
                if self.active >> lane & 1 == 0 {
                    continue;
                }
                let result = self.get(grid, out + i, lane);
                let mut values = [0; 4];
                for (value, arg) in values.iter_mut().zip(args) {
                    *value = self.get(grid, arg + i, lane);
                }
                let values = &values[..args.len()];
                if let Some((check, message)) = fault(risk, result, values, grid.options.checks.non_finite) {
                    let who = shared.invocation(self.first + lane as u32);
                    shared.report(grid, check, number, who, || (None, None, message()));
                }
            }
        }
    }

    fn weigh_whole(
        &mut self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        risk: Risk,
        (out, n): (Reg, u32),
        args: [(Reg, u32); 3],
    ) {
        if !grid.weighs(risk) || self.active == 0 {
            return;
        }
        for lane in 0..grid.width {
            if self.active >> lane & 1 == 0 {
                continue;
            }
            let mut values = Vec::new();
            for (reg, n) in args {
                values.extend((0..n).map(|i| self.get(grid, reg + i, lane)));
            }
            for i in 0..n {
                let result = self.get(grid, out + i, lane);
                if let Some((check, message)) = fault(risk, result, &values, grid.options.checks.non_finite) {
                    let who = shared.invocation(self.first + lane as u32);
                    shared.report(grid, check, number, who, || (None, None, message()));
                }
            }
        }
    }
}

fn note_branch(grid: &Grid<'_>, number: u32, taken: bool, passed: bool) {
    let bits = if taken { TAKEN } else { 0 } | if passed { PASSED } else { 0 };
    let seen = &grid.code.seen[number as usize];
    if seen.load(Relaxed) & bits != bits {
        seen.fetch_or(bits, Relaxed);
    }
}

fn finite(word: u32) -> bool {
    f32::from_bits(word).is_finite()
}

/// What is wrong with a result, if anything.
fn fault(risk: Risk, result: u32, args: &[u32], non_finite: bool) -> Option<(Check, impl Fn() -> String)> {
    let check = match risk {
        Risk::None => None,
        Risk::Divide { .. } if args[1] == 0 => Some(Check::DivisionByZero),
        Risk::Divide { signed } => {
            (signed && args[0] == 1 << 31 && args[1] == u32::MAX).then_some(Check::SignedOverflow)
        }
        Risk::Shift => (args[1] >= 32).then_some(Check::ShiftPastWidth),
        Risk::Bits => {
            let [.., offset, count] = *args else { return None };
            (u64::from(offset) + u64::from(count) > 32).then_some(Check::ShiftPastWidth)
        }
        Risk::Least => (args[0] == 1 << 31).then_some(Check::SignedOverflow),
        // What an integer cannot hold is clamped; what is no number gives anything.
        Risk::ToInteger => (non_finite && !finite(args[0])).then_some(Check::NonFinite),
        Risk::Half if f32::from_bits(result).is_infinite() && args.iter().all(|word| finite(*word)) => {
            Some(Check::F16Overflow)
        }
        // On the way to NaN some step was infinite.
        Risk::Halves => (!finite(result) && args.iter().all(|word| finite(*word))).then_some(Check::F16Overflow),
        Risk::HalfOfInteger => (!finite(result)).then_some(Check::F16Overflow),
        Risk::PackedHalves => {
            let past = |word: &u32| finite(*word) && super::lanes::round_f16(f32::from_bits(*word)).is_infinite();
            args.iter().any(past).then_some(Check::F16Overflow)
        }
        Risk::Float | Risk::Half => {
            (non_finite && !finite(result) && args.iter().all(|word| finite(*word))).then_some(Check::NonFinite)
        }
    }?;
    let args = args.to_vec();
    let integers = matches!(risk, Risk::Divide { .. } | Risk::Shift | Risk::Bits | Risk::Least | Risk::HalfOfInteger);
    let signed = matches!(risk, Risk::Divide { signed: true } | Risk::Least);
    let message = move || {
        let show = |word: &u32| match (integers, signed) {
            (false, _) => f32::from_bits(*word).to_string(),
            (true, true) => (*word as i32).to_string(),
            (true, false) => word.to_string(),
        };
        let operands: Vec<String> = args.iter().map(show).collect();
        let of = operands.join(", ");
        match check {
            Check::DivisionByZero => format!("{} divided by 0", operands[0]),
            Check::ShiftPastWidth => format!("of {of}"),
            Check::F16Overflow => format!("of {of}, past 65504"),
            Check::NonFinite if risk == Risk::ToInteger => format!("an integer of {of}"),
            Check::NonFinite => format!("{} of {of}", f32::from_bits(result)),
            _ => format!("of {of}"),
        }
    };
    Some((check, message))
}

/// Whether values of this type lie in memory as two bytes.
pub(super) fn is_half(scalar: Scalar) -> bool {
    scalar == Scalar::F16
}

//! What the invocations of a subgroup do together: votes, sums, exchanges, matrices.

use super::access::Shared;
use super::check::Check;
use super::grid::Grid;
use super::lanes::{self, Scalar, round_f16};
use super::options::Order;
use super::program::{Collective, Exchange, Matrix, Op, Pointer, Root};
use super::wave::Wave;

/// Stands for a value that nobody gave: another one for each invocation and order, so that results that hang on it differ.
fn nobody(grid: &Grid<'_>, lane: usize) -> u32 {
    let order = match grid.options.schedule.order {
        Order::Straight => 0,
        Order::Reversed => 1,
        Order::Random(seed) => 2 + seed as u32,
    };
    0x7FFA_0000 | (((order.wrapping_mul(0x9E37_79B1) >> 16) ^ (lane as u32 * 257)) & 0xFFFF)
}

/// The lanes of a wave that form a subgroup, from the first on.
#[derive(Clone, Copy)]
struct Subgroup {
    base: usize,
    size: usize,
    /// Those that exist, and those that are here, from bit 0 on.
    all: u128,
    active: u128,
}

impl Subgroup {
    fn lanes(self) -> impl Iterator<Item = usize> {
        (0..self.size).filter(move |i| self.active >> i & 1 == 1).map(move |i| self.base + i)
    }

    fn has(self, lane: u32) -> bool {
        (lane as usize) < self.size && self.active >> lane & 1 == 1
    }
}

impl Wave {
    /// The subgroups with active invocations; a divergent one is told.
    fn subgroups(&self, grid: &Grid<'_>, shared: &mut Shared, number: u32) -> Vec<Subgroup> {
        let size = (grid.options.subgroup_size as usize).min(grid.width);
        let low = if size == 128 { u128::MAX } else { (1 << size) - 1 };
        let mut out = Vec::new();
        for base in (0..grid.width).step_by(size) {
            let (all, active) = (self.all >> base & low, self.active >> base & low);
            if active == 0 {
                continue;
            }
            if active != all {
                let who = shared.invocation(self.first + base as u32 + active.trailing_zeros());
                shared.report(grid, Check::DivergentSubgroup, number, who, || {
                    let (here, there) = (active.count_ones(), all.count_ones());
                    (None, None, format!("{here} of the {there} invocations of a subgroup are here"))
                });
            }
            out.push(Subgroup { base, size, all, active });
        }
        out
    }

    pub(super) fn exchange(&mut self, grid: &Grid<'_>, shared: &mut Shared, number: u32, op: &Op) {
        for subgroup in self.subgroups(grid, shared, number) {
            match *op {
                Op::Ballot { out, predicate } => {
                    let yes = |lane| predicate.is_none_or(|reg| self.get(grid, reg, lane) != 0);
                    let votes = subgroup
                        .lanes()
                        .filter(|lane| yes(*lane))
                        .fold(0_u128, |votes, lane| votes | 1 << (lane - subgroup.base));
                    for lane in subgroup.lanes() {
                        for i in 0..4 {
                            self.set(grid, out + i, lane, (votes >> (32 * i)) as u32);
                        }
                    }
                }
                Op::Collect { out, a, n, scalar, op, how } => {
                    let Some(join) = lanes::subgroup(op, scalar) else { continue };
                    for i in 0..n {
                        let mut sum = lanes::neutral(op, scalar);
                        for lane in subgroup.lanes() {
                            let value = self.get(grid, a + i, lane);
                            let before = sum;
                            sum = join(sum, value);
                            if scalar == Scalar::F16 && overflows(sum, before, value) {
                                let who = shared.invocation(self.first + lane as u32);
                                shared.report(grid, Check::F16Overflow, number, who, || {
                                    (None, None, "over the subgroup, past 65504".into())
                                });
                            }
                            let result = if how == Collective::Exclusive { before } else { sum };
                            self.set(grid, out + i, lane, result);
                        }
                        if how == Collective::Reduce {
                            for lane in subgroup.lanes() {
                                self.set(grid, out + i, lane, sum);
                            }
                        }
                    }
                }
                Op::Gather { out, a, n, how } => self.gather(grid, shared, number, subgroup, (out, a, n), how),
                _ => (),
            }
        }
    }

    fn gather(
        &mut self,
        grid: &Grid<'_>,
        shared: &mut Shared,
        number: u32,
        subgroup: Subgroup,
        (out, a, n): (u32, u32, u32),
        how: Exchange,
    ) {
        let first = subgroup.active.trailing_zeros();
        for lane in subgroup.lanes() {
            let own = (lane - subgroup.base) as u32;
            // Past the ends of a subgroup a shift gives anything, which is no fault as long as nobody uses it.
            let (from, must) = match how {
                Exchange::First => (first, true),
                Exchange::Lane(reg) => (self.get(grid, reg, subgroup.base + first as usize), true),
                Exchange::Shuffle(reg) => (self.get(grid, reg, lane), true),
                Exchange::Up(reg) => (own.wrapping_sub(self.get(grid, reg, lane)), false),
                Exchange::Down(reg) => (own.wrapping_add(self.get(grid, reg, lane)), false),
                Exchange::Xor(reg) => (own ^ self.get(grid, reg, lane), false),
                Exchange::Quad(reg) => (own / 4 * 4 + self.get(grid, reg, lane) % 4, true),
                Exchange::QuadSwap(mask) => (own ^ mask, true),
            };
            if must && !subgroup.has(from) {
                let who = shared.invocation(self.first + lane as u32);
                shared.report(grid, Check::SubgroupLane, number, who, || {
                    let exists = from < 128 && subgroup.all >> from & 1 == 1;
                    let why = if exists { "which is elsewhere" } else { "which does not exist" };
                    (None, None, format!("from invocation {from} of a subgroup of {}, {why}", subgroup.size))
                });
            }
            for i in 0..n {
                let word = if subgroup.has(from) {
                    self.get(grid, a + i, subgroup.base + from as usize)
                } else {
                    nobody(grid, lane)
                };
                self.set(grid, out + i, lane, word);
            }
        }
    }

    /// Matrices that a subgroup holds together. The simulator keeps them with its first invocation.
    pub(super) fn cooperate(&mut self, grid: &Grid<'_>, shared: &mut Shared, number: u32, op: &Op) {
        for subgroup in self.subgroups(grid, shared, number) {
            let lane = subgroup.base + subgroup.active.trailing_zeros() as usize;
            match *op {
                Op::CoopLoad { out, from, stride, shape } => {
                    let stride = self.get(grid, stride, lane);
                    for (i, place) in (0..).zip(self.elements(grid, from, stride, shape, lane)) {
                        let word = self.coop_read(grid, shared, number, lane, (from.root, place), shape.scalar);
                        for lane in subgroup.lanes() {
                            self.set(grid, out + i, lane, word);
                        }
                    }
                }
                Op::CoopStore { to, value, stride, shape } => {
                    let stride = self.get(grid, stride, lane);
                    for (i, place) in (0..).zip(self.elements(grid, to, stride, shape, lane)) {
                        let word = self.get(grid, value + i, lane);
                        self.coop_write(grid, shared, number, lane, (to.root, place), shape.scalar, word);
                    }
                }
                Op::CoopMultiply { out, a, b, c, rows, columns, inner, to } => {
                    for column in 0..columns {
                        for row in 0..rows {
                            let float = |reg: u32| f32::from_bits(self.get(grid, reg, lane));
                            let start = float(c + column * rows + row);
                            let mut sum = start;
                            for l in 0..inner {
                                sum += float(a + l * rows + row) * float(b + column * inner + l);
                            }
                            if to == Scalar::F16 {
                                let exact = sum;
                                sum = round_f16(sum);
                                if sum.is_infinite() && exact.is_finite() {
                                    let who = shared.invocation(self.first + lane as u32);
                                    shared.report(grid, Check::F16Overflow, number, who, || {
                                        (None, None, format!("element ({row}, {column}) is {exact}, past 65504"))
                                    });
                                }
                            }
                            for lane in subgroup.lanes() {
                                self.set(grid, out + column * rows + row, lane, sum.to_bits());
                            }
                        }
                    }
                }
                _ => (),
            }
        }
    }

    /// Places of a matrix's elements, column by column.
    fn elements(&self, grid: &Grid<'_>, from: Pointer, stride: u32, shape: Matrix, lane: usize) -> Vec<Option<u64>> {
        let unit = match (from.root, shape.scalar) {
            (Root::Buffer(_), Scalar::F16) => 2,
            (Root::Buffer(_), _) => 4,
            _ => 1,
        };
        let first = self.place(grid, from, lane);
        let stride = u64::from(stride) * u64::from(shape.unit);
        let mut out = Vec::new();
        for column in 0..u64::from(shape.columns) {
            for row in 0..u64::from(shape.rows) {
                let (along, across) = if shape.row_major { (column, row) } else { (row, column) };
                out.push(first.map(|first| u64::from(first) + unit * (across * stride + along)));
            }
        }
        out
    }
}

fn overflows(sum: u32, a: u32, b: u32) -> bool {
    let finite = |word: u32| f32::from_bits(word).is_finite();
    f32::from_bits(sum).is_infinite() && finite(a) && finite(b)
}

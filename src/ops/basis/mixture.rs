//! A seed's bases over the slots of a network, formed and projected.

use super::{
    BLOCK, BasisParams, FORM_FWD, HADAMARD_FWD, Law, ONEHOT_FORM_FWD, ONEHOT_PROJECT_FWD, PACK_FWD, PROJECT_FWD,
    SPREAD_FWD, SRHT_FORM_FWD, SRHT_PROJECT_FWD, SUM_FWD, Slot,
};
use crate::autograd::refuse;
use crate::ops::checks::{in_place, need_one_device, need_types};
use crate::runtime::{Binding, Kernel, Runtime};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};
use std::sync::Arc;

/// Blocks that a workgroup of the form kernel has without slices, and gradients that one packs.
const GROUP_BLOCKS: usize = 64;
/// Slices of the bases on GPUs, where slots alone have too few elements to go round.
const SLICES: usize = 16;
/// Numbers of sums over chunks at most, where chunks can be longer.
const MOST_PARTIALS: usize = 1 << 22;
/// Blocks or decks of a chunk at most: a deck takes some 20 rounds of loops, of which software adapters allow 65,535.
const MOST_CHUNK: usize = 1 << 11;
/// Sums over chunks of a coefficient at most, for the same reason.
const MOST_SUMS: usize = 1 << 15;
/// Bases of one dispatch at most, for the same reason; a multiple of 8 for each slice.
const MOST_BASES: usize = 61_440;
/// Draws of one dispatch at most on GPUs, of which a slow one does some 1e10 a second.
const MOST_DRAWS: usize = 1 << 31;

/// A seed's random bases over a list of slots; cheap to clone. It keeps tables of some 16 bytes per 1,024 elements (on GPUs
/// per 64), no basis.
#[derive(Debug, Clone)]
pub struct Mixture(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    law: Law,
    seed: u64,
    slots: Vec<Slot>,
    plan: Layout,
    tables: Tables,
}

/// How the work is laid out, in numbers of the host.
#[derive(Debug)]
struct Layout {
    /// Elements that `out` has at least, and coefficients.
    n_out: usize,
    n_coefficients: usize,
    /// Slices of the bases in a workgroup.
    split: usize,
    /// Invocations of a workgroup that projects.
    lanes: usize,
    chunk: usize,
    n_padded: usize,
    n_partials: usize,
    /// Chunks of one range of coefficients at most.
    n_sums: usize,
    /// Bits of the longest transform.
    n_bits: u32,
}

/// What the kernels read: each list of workgroups `[n, 4]`.
#[derive(Debug)]
struct Tables {
    /// `[n_slots, 3, 4]`
    slots: Tensor,
    form: Tensor,
    pack: Tensor,
    project: Tensor,
    /// First coefficient, k, first partial sum, number of sums: `[n_ranges, 4]`.
    ranges: Tensor,
    sum: Tensor,
    /// The one row of a form that has no others.
    first_row: Tensor,
}

fn words(runtime: &Runtime, rows: &[[u32; 4]]) -> Result<Tensor> {
    Tensor::constant::<u32>(runtime, rows.as_flattened())
}

/// The tensors of one form.
struct Forming {
    coefficients: Binding,
    places: Binding,
    out: Binding,
    /// Of all of its dispatches.
    params: BasisParams,
}

impl Forming {
    fn bindings(&self, tables: &Tables, values: &Binding) -> [Binding; 5] {
        [tables.form.binding(), tables.slots.binding(), values.clone(), self.places.clone(), self.out.clone()]
    }
}

/// Workgroups of a list.
fn n_groups(table: &Tensor) -> u64 {
    (table.len() / 4) as u64
}

impl Mixture {
    /// The bases that `law` and `seed` give to `slots`.
    ///
    /// # Errors
    /// [`Error::Argument`] if a slot has no element or no basis, is past what 32 bits count, overlaps another one, shares some
    /// of its coefficients with another but not all, or is scaled by what is no number. What keeping the tables takes.
    pub fn new(runtime: &Runtime, law: Law, seed: u64, slots: &[Slot]) -> Result<Self> {
        check_slots(slots)?;
        if law == Law::Srht
            && let Some(slot) = slots.iter().find(|slot| slot.k > slot.len.next_power_of_two())
        {
            let wanted = "at most as many as the next power of two of its elements wanted";
            return Err(Error::argument("mixture", format!("{} bases of {} elements, {wanted}", slot.k, slot.len)));
        }
        let software = runtime.profile().is_software();
        // Bases of a workgroup that projects.
        let lanes = if software { 8 } else { 64 };
        let bases = match law {
            Law::Uniform8 | Law::Uniform24 => 2 * lanes,
            Law::Sign => 8 * lanes,
            Law::Onehot => 4 * lanes,
            Law::Srht => 64,
        };
        let split = if software || matches!(law, Law::Onehot | Law::Srht) { 1 } else { SLICES };
        let n_blocks = |slot: &Slot| slot.len.div_ceil(BLOCK);
        let n_padded = |slot: &Slot| match law {
            Law::Srht => slot.len.next_power_of_two().div_ceil(BLOCK),
            _ => n_blocks(slot),
        };
        // What is summed over: blocks, decks, or nothing, as a transform does it.
        let n_units = |slot: &Slot| match law {
            Law::Srht => 1,
            Law::Onehot => slot.len.div_ceil(slot.k),
            _ => n_blocks(slot),
        };
        let n_bits = |slot: &Slot| match law {
            Law::Srht => slot.len.next_power_of_two().trailing_zeros(),
            _ => slot.k.next_power_of_two().trailing_zeros(),
        };
        let mut chunk = if software { 128 } else { 32 };
        let ranges = ranges(slots);
        let sums = |chunk: usize, members: &[usize]| -> usize {
            members.iter().map(|&i| n_units(&slots[i]).div_ceil(chunk)).sum()
        };
        let n_partials =
            |chunk: usize| -> usize { ranges.iter().map(|members| slots[members[0]].k * sums(chunk, members)).sum() };
        let most_sums = |chunk: usize| ranges.iter().map(|members| sums(chunk, members)).max().unwrap_or(0);
        while chunk < MOST_CHUNK && (n_partials(chunk) > MOST_PARTIALS || most_sums(chunk) > MOST_SUMS) {
            chunk *= 2;
        }
        let mut plan = Layout {
            n_out: slots.iter().map(|slot| slot.out + slot.len).max().unwrap_or(0),
            n_coefficients: slots.iter().map(|slot| slot.first + slot.k).max().unwrap_or(0),
            split,
            lanes,
            chunk,
            n_padded: 0,
            n_partials: 0,
            n_sums: most_sums(chunk),
            n_bits: slots.iter().map(n_bits).max().unwrap_or(0),
        };
        let mut rows = vec![[0; 12]; slots.len()];
        let (mut form, mut pack, mut project) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (slot, row)) in slots.iter().zip(&mut rows).enumerate() {
            let (blocks, number) = (n_blocks(slot), i as u32);
            let group = |first: usize| [number, first as u32, 0, 0];
            form.extend((0..blocks).step_by(GROUP_BLOCKS / split).map(group));
            pack.extend((0..n_padded(slot)).step_by(GROUP_BLOCKS).map(group));
            let n_chunks = n_units(slot).div_ceil(chunk);
            for chunk in 0..n_chunks as u32 {
                project.extend((0..slot.k).step_by(bases).map(|basis| [number, basis as u32, chunk, 0]));
            }
            row[..8].copy_from_slice(&[
                slot.len as u32,
                slot.out as u32,
                slot.first as u32,
                slot.k as u32,
                slot.layer,
                slot.tag.stream(),
                slot.scale.to_bits(),
                slot.fixed.to_bits(),
            ]);
            (row[8], row[9], row[11]) = (plan.n_padded as u32, n_padded(slot) as u32, n_bits(slot));
            plan.n_padded += n_padded(slot);
        }
        let (mut of_ranges, mut sum) = (Vec::new(), Vec::new());
        for (range, members) in ranges.iter().enumerate() {
            let Slot { first, k, .. } = slots[members[0]];
            of_ranges.push([first as u32, k as u32, plan.n_partials as u32, sums(chunk, members) as u32]);
            sum.extend((0..k).step_by(64).map(|i| [range as u32, i as u32, 0, 0]));
            for &member in members {
                rows[member][10] = plan.n_partials as u32;
                plan.n_partials += k * sums(chunk, &[member]);
            }
        }
        let counts = [BLOCK * plan.n_padded, plan.n_partials, 4 * form.len(), 4 * project.len()];
        if counts.iter().any(|n| u32::try_from(*n).is_err()) {
            return Err(Error::argument("mixture", format!("{} elements are more than 32 bits count", counts[0])));
        }
        let tables = Tables {
            slots: Tensor::constant::<u32>(runtime, rows.as_flattened())?,
            form: words(runtime, &form)?,
            pack: words(runtime, &pack)?,
            project: words(runtime, &project)?,
            ranges: words(runtime, &of_ranges)?,
            sum: words(runtime, &sum)?,
            first_row: Tensor::constant(runtime, &[0_u32])?,
        };
        Ok(Self(Arc::new(Inner { runtime: runtime.clone(), law, seed, slots: slots.to_vec(), plan, tables })))
    }

    /// The law of the bases.
    #[must_use]
    pub fn law(&self) -> Law {
        self.0.law
    }

    /// The seed of the bases.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// What it forms.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.0.slots
    }

    /// Numbers that one pass draws: `len k` of every slot, or `len` where the law is `onehot` or `srht`, which draw the signs and
    /// a shuffle; and `len` for each fixed basis.
    #[must_use]
    pub fn draws(&self) -> u64 {
        let each = |slot: &Slot| match self.0.law {
            Law::Onehot | Law::Srht => 1,
            _ => slot.k as u64,
        };
        let of = |slot: &Slot| slot.len as u64 * (each(slot) + u64::from(slot.fixed != 0.0));
        self.0.slots.iter().map(of).sum()
    }

    /// Forms every slot: `coefficients` f32 `[c]` to their ranges of `out` f32 `[n]`, **in place**. The rest of `out` stays.
    ///
    /// # Errors
    /// [`Error::Argument`] if a slot does not fit `coefficients` or `out`, the two share memory or a gradient is wanted;
    /// [`Error::Shape`] or [`Error::DType`] if the tensors do not fit.
    pub fn form(&self, coefficients: &Tensor, out: &Tensor) -> Result<()> {
        check("form", &[("coefficients", coefficients, "c"), ("out", out, "n")])?;
        self.form_into("form", &coefficients.unsqueeze(0)?, &self.0.tables.first_row, &out.unsqueeze(0)?)
    }

    /// Forms the slots of several sets of coefficients of the one seed, each draw serving up to four of them: row `i` of
    /// `coefficients` f32 `[m, c]` to row `places[i]` of `out` f32 `[rows, n]`, **in place**, for `places` u32 `[m]`; to no
    /// row if that is past the last. Each row gets the bits that [`Mixture::form`] gives.
    ///
    /// Which of two rows with one place stays is left open, even which of their elements.
    ///
    /// # Errors
    /// As [`Mixture::form`].
    pub fn form_rows(&self, coefficients: &Tensor, places: &Tensor, out: &Tensor) -> Result<()> {
        self.form_into("form_rows", coefficients, places, out)
    }

    fn form_into(&self, op: &'static str, coefficients: &Tensor, places: &Tensor, out: &Tensor) -> Result<()> {
        let dims = check(op, &[("coefficients", coefficients, "m c"), ("places", places, "m"), ("out", out, "r n")])?;
        self.need(op, &[coefficients, places, out], dims.get("c"), dims.get("n"))?;
        need_types(
            op,
            &[("coefficients", coefficients, DType::F32), ("places", places, DType::U32), ("out", out, DType::F32)],
        )?;
        let binding = in_place(op, "out", out, &[coefficients, places])?;
        let (coefficients, places) = (coefficients.contiguous()?, places.contiguous()?);
        let work = Forming {
            coefficients: coefficients.binding(),
            places: places.binding(),
            out: binding,
            params: BasisParams {
                n_rows: dims.get("m") as u32,
                row_coefficients: dims.get("c") as u32,
                n_places: dims.get("r") as u32,
                row_out: dims.get("n") as u32,
                ..self.params()
            },
        };
        match self.0.law {
            Law::Uniform8 | Law::Uniform24 | Law::Sign => self.form_dense(&work),
            Law::Onehot => self.form_onehot(&work),
            Law::Srht => self.form_srht(&work),
        }
    }

    fn form_dense(&self, work: &Forming) -> Result<()> {
        let Inner { runtime, law, slots, plan, tables, .. } = &*self.0;
        let n_elements = self.n_elements();
        let most_bases = slots.iter().map(|slot| slot.k).max().unwrap_or(0);
        let step = if runtime.profile().is_software() {
            MOST_BASES
        } else {
            (MOST_DRAWS / n_elements.max(1)).max(1).next_multiple_of(8 * SLICES)
        };
        let (mut row, n_rows) = (0, work.params.n_rows);
        while row < n_rows {
            // A single row that is left takes no work for others.
            let together = if n_rows - row > 1 { 4 } else { 1 };
            for first in (0..most_bases).step_by(step) {
                let bases = (most_bases - first).min(step);
                runtime
                    .launch(&FORM_FWD)
                    .overrides(&[("LAW", *law as u32), ("ROWS", together), ("SPLIT", plan.split as u32)])
                    .bind(work.bindings(tables, &work.coefficients))
                    .params(&BasisParams {
                        n_groups: n_groups(&tables.form) as u32,
                        from_basis: first as u32,
                        to_basis: (first + bases) as u32,
                        row,
                        ..work.params
                    })
                    .groups(n_groups(&tables.form))
                    .rounds(bases.div_ceil(plan.split) + SLICES + 16)
                    .cost(2 * (together as usize * n_elements * bases) as u64, (4 * n_elements) as u64)
                    .run()?;
            }
            row += together;
        }
        Ok(())
    }

    fn form_onehot(&self, work: &Forming) -> Result<()> {
        let Inner { runtime, tables, .. } = &*self.0;
        let n = self.n_elements() as u64;
        // Each row takes one round for each four elements, and shuffles go round again now and then.
        const ROWS: u32 = 4096;
        for row in (0..work.params.n_rows).step_by(ROWS as usize) {
            runtime
                .launch(&ONEHOT_FORM_FWD)
                .bind(work.bindings(tables, &work.coefficients))
                .params(&BasisParams {
                    n_groups: n_groups(&tables.form) as u32,
                    row,
                    n_rows: work.params.n_rows.min(row + ROWS),
                    ..work.params
                })
                .groups(n_groups(&tables.form))
                .rounds(4 * ROWS as usize + 1024)
                .cost(2 * n, 8 * n)
                .run()?;
        }
        Ok(())
    }

    fn form_srht(&self, work: &Forming) -> Result<()> {
        let Inner { runtime, plan, tables, .. } = &*self.0;
        let n = self.n_elements() as u64;
        for row in 0..work.params.n_rows {
            let blocks = Tensor::empty(runtime, &[plan.n_padded * BLOCK], DType::F32)?;
            let params = BasisParams { row, ..work.params };
            runtime
                .launch(&SPREAD_FWD)
                .bind([tables.pack.binding(), tables.slots.binding(), work.coefficients.clone(), blocks.binding()])
                .params(&BasisParams { n_groups: n_groups(&tables.pack) as u32, ..params })
                .groups(n_groups(&tables.pack))
                .rounds(16)
                .cost(n, 4 * n)
                .run()?;
            self.transform(&blocks)?;
            runtime
                .launch(&SRHT_FORM_FWD)
                .bind(work.bindings(tables, &blocks.binding()))
                .params(&BasisParams { n_groups: n_groups(&tables.form) as u32, ..params })
                .groups(n_groups(&tables.form))
                .rounds(64)
                .cost(2 * n, 8 * n)
                .run()?;
        }
        Ok(())
    }

    /// The Hadamard transform of each slot's padded blocks, in place.
    fn transform(&self, blocks: &Tensor) -> Result<()> {
        let Inner { runtime, plan, tables, .. } = &*self.0;
        for pass_bit in (0..plan.n_bits.max(4)).step_by(4) {
            runtime
                .launch(&HADAMARD_FWD)
                .bind([tables.pack.binding(), tables.slots.binding(), blocks.binding()])
                .params(&BasisParams { n_groups: n_groups(&tables.pack) as u32, pass_bit, ..self.params() })
                .groups(n_groups(&tables.pack))
                .cost(4 * blocks.len() as u64, 8 * blocks.len() as u64)
                .run()?;
        }
        Ok(())
    }

    /// Takes gradients back to the coefficients: of `d_out` f32 `[n]`, as [`Mixture::form`] wrote it, to `d_coefficients` f32
    /// `[c]`, **in place**. The ranges of the slots' coefficients are overwritten, the rest stays. Slots that share theirs are
    /// added up, in the order of the slots.
    ///
    /// # Errors
    /// As [`Mixture::form`].
    pub fn project(&self, d_out: &Tensor, d_coefficients: &Tensor) -> Result<()> {
        const OP: &str = "project";
        let Inner { runtime, law, plan, tables, .. } = &*self.0;
        let dims = check(OP, &[("d_out", d_out, "n"), ("d_coefficients", d_coefficients, "c")])?;
        self.need(OP, &[d_out, d_coefficients], dims.get("c"), dims.get("n"))?;
        need_types(OP, &[("d_out", d_out, DType::F32), ("d_coefficients", d_coefficients, DType::F32)])?;
        let out = in_place(OP, "d_coefficients", d_coefficients, &[d_out])?;
        let n = self.n_elements() as u64;
        let padded = Tensor::empty(runtime, &[plan.n_padded * BLOCK], DType::F32)?;
        runtime
            .launch(&PACK_FWD)
            .overrides(&[("SIGNED", u32::from(matches!(law, Law::Onehot | Law::Srht)))])
            .bind([tables.pack.binding(), tables.slots.binding(), d_out.contiguous()?.binding(), padded.binding()])
            .params(&BasisParams { n_groups: n_groups(&tables.pack) as u32, ..self.params() })
            .groups(n_groups(&tables.pack))
            .rounds(16)
            .cost(n, 8 * n)
            .run()?;
        let partials = Tensor::empty(runtime, &[plan.n_partials], DType::F32)?;
        let lanes = ("LANES", plan.lanes as u32);
        let law_lanes = [("LAW", *law as u32), lanes];
        let (kernel, overrides, rounds, flops): (&Kernel, &[_], _, _) = match law {
            Law::Uniform8 | Law::Uniform24 | Law::Sign => (&PROJECT_FWD, &law_lanes, plan.chunk + 16, 2 * self.draws()),
            Law::Onehot => (&ONEHOT_PROJECT_FWD, &law_lanes[1..], 24 * plan.chunk + 64, 2 * n),
            Law::Srht => {
                self.transform(&padded)?;
                (&SRHT_PROJECT_FWD, &[], 16, n)
            }
        };
        runtime
            .launch(kernel)
            .overrides(overrides)
            .bind([tables.project.binding(), tables.slots.binding(), padded.binding(), partials.binding()])
            .params(&BasisParams {
                n_groups: n_groups(&tables.project) as u32,
                chunk: plan.chunk as u32,
                ..self.params()
            })
            .groups(n_groups(&tables.project))
            .rounds(rounds)
            .cost(flops, 4 * n + 4 * plan.n_partials as u64)
            .run()?;
        runtime
            .launch(&SUM_FWD)
            .bind([tables.sum.binding(), tables.ranges.binding(), partials.binding(), out])
            .params(&BasisParams { n_groups: n_groups(&tables.sum) as u32, ..self.params() })
            .groups(n_groups(&tables.sum))
            .rounds(plan.n_sums + 1)
            .cost(plan.n_partials as u64, 4 * plan.n_partials as u64)
            .run()
    }

    fn n_elements(&self) -> usize {
        self.0.slots.iter().map(|slot| slot.len).sum()
    }

    fn params(&self) -> BasisParams {
        let seed = self.0.seed;
        BasisParams { key_0: seed as u32, key_1: (seed >> 32) as u32, ..BasisParams::default() }
    }

    /// An error unless the slots fit `c` coefficients and `n` elements, on the device of the bases, and no gradient is wanted.
    fn need(&self, op: &'static str, tensors: &[&Tensor], c: usize, n: usize) -> Result<()> {
        let Inner { tables, plan, .. } = &*self.0;
        refuse(op, tensors)?;
        need_one_device(op, &tables.slots, tensors.iter().copied())?;
        if c < plan.n_coefficients || n < plan.n_out {
            let wanted = format!("{} and {} wanted", plan.n_coefficients, plan.n_out);
            return Err(Error::argument(op, format!("{c} coefficients and {n} elements given, {wanted}")));
        }
        Ok(())
    }
}

/// The slots of each range of coefficients, ranges in the order of their first slot.
fn ranges(slots: &[Slot]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..slots.len()).collect();
    order.sort_by_key(|&i| slots[i].first);
    order.chunk_by(|&a, &b| slots[a].first == slots[b].first).map(<[usize]>::to_vec).collect()
}

fn check_slots(slots: &[Slot]) -> Result<()> {
    const OP: &str = "mixture";
    for (i, slot) in slots.iter().enumerate() {
        let wrong = |what: &str| Err(Error::argument(OP, format!("slot {i} {what}: {slot:?}")));
        let ends = [slot.out.checked_add(slot.len), slot.first.checked_add(slot.k)];
        if slot.len == 0 || slot.k == 0 {
            return wrong("is empty");
        }
        if ends.iter().any(|end| end.is_none_or(|end| u32::try_from(end).is_err())) {
            return wrong("is past what 32 bits count");
        }
        if !(slot.scale.is_finite() && slot.fixed.is_finite()) {
            return wrong("is not scaled by a number");
        }
    }
    let mut ordered: Vec<(usize, &Slot)> = slots.iter().enumerate().collect();
    let pair_error = |(i, _): (usize, &Slot), (j, _): (usize, &Slot), what: &str| {
        Err(Error::argument(OP, format!("slots {i} and {j} share {what}")))
    };
    ordered.sort_by_key(|(_, slot)| slot.out);
    if let Some(pair) = ordered.windows(2).find(|pair| pair[1].1.out < pair[0].1.out + pair[0].1.len) {
        return pair_error(pair[0], pair[1], "elements");
    }
    ordered.sort_by_key(|(_, slot)| (slot.first, slot.k));
    let clash =
        |(_, a): (usize, &Slot), (_, b): (usize, &Slot)| b.first < a.first + a.k && (a.first, a.k) != (b.first, b.k);
    match ordered.windows(2).find(|pair| clash(pair[0], pair[1])) {
        Some(pair) => pair_error(pair[0], pair[1], "some of their coefficients, but not all"),
        None => Ok(()),
    }
}

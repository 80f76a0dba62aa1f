//! The ring of batches that a memory bank is, what lies beside it, and a count of what its neighbours are.

use super::WG_SIZE;
use crate::autograd::refuse;
use crate::ops::checks::{in_place, need_counter, need_one_device, need_types};
use crate::ops::elementwise::{affine, cast};
use crate::ops::norm::rms_norm;
use crate::ops::random::{Key, normal};
use crate::runtime::{
    Bind::{self, Read, Write},
    Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/bank_ring.wgsl");

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RingParams {
    n: u32,
    n_batch: u32,
    n_steps: u32,
    n_vec4: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StoreParams {
    n: u32,
    n_rows: u32,
    n_vec4: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TallyParams {
    n_batch: u32,
    n_steps: u32,
    k: u32,
    n_images: u32,
}

const FLOATS: &[&[DType]] = &[&[DType::F32, DType::F16]];

const fn kernel<P: bytemuck::Pod>(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("bank_ring", entry, SOURCE, binds).params::<P>()
}

pub(super) const ENQUEUE_FWD: Kernel =
    kernel::<RingParams>("ring_enqueue_fwd", &[Read, Read, Write]).types(&["Elem"], FLOATS);
pub(super) const MARK_FWD: Kernel = kernel::<RingParams>("ring_mark_fwd", &[Read, Read, Write]);
pub(super) const STORE_FWD: Kernel =
    kernel::<StoreParams>("ring_store_fwd", &[Read, Read, Write]).types(&["Elem"], FLOATS);
pub(super) const TALLY_FWD: Kernel = kernel::<TallyParams>("ring_tally_fwd", &[Read, Read, Read, Read, Read, Write]);

/// Batches that the ring holds.
fn n_steps(op: &'static str, m: usize, b: usize) -> Result<usize> {
    if b == 0 || m == 0 || !m.is_multiple_of(b) {
        return Err(Error::argument(op, format!("a bank of {m} rows is not a multiple of the batch of {b}")));
    }
    Ok(m / b)
}

/// Rows `[b, d]` and where they go `[n, d]`: vec4 of a row.
fn row_vec4(op: &'static str, out: &Tensor, rows: &Tensor) -> Result<usize> {
    let d = check(op, &[("bank", out, "n d"), ("rows", rows, "b d")])?.get("d");
    if rows.dtype() != DType::F32 || !out.dtype().is_float() {
        let given = format!("bank {} and rows {}", out.dtype(), rows.dtype());
        return Err(Error::dtype(op, format!("{given} given, a float type and f32 wanted")));
    }
    if !d.is_multiple_of(4) {
        return Err(Error::argument(op, format!("rows of {d} elements given, a multiple of 4 wanted")));
    }
    Ok(d / 4)
}

/// Puts `rows` f32 `[b, d]`, `d` a multiple of 4, into `bank` `[m, d]`, f32 or f16, **in place**: row `i` goes to slot
/// `(counter * b + i) mod m`, without overflow of that product. `counter` u32 `[1]` is the number of the batch, which the
/// caller counts on. f16 takes the nearest number.
///
/// # Errors
/// [`Error::Argument`] if `m` is not a multiple of `b`, `d` not one of 4, the bank shares memory with the rows or a gradient
/// is wanted; [`Error::Shape`] or [`Error::DType`] if the tensors do not fit.
pub fn enqueue(bank: &Tensor, rows: &Tensor, counter: &Tensor) -> Result<()> {
    const OP: &str = "enqueue";
    refuse(OP, &[bank, rows])?;
    need_one_device(OP, bank, [rows, counter])?;
    need_counter(OP, Some(counter))?;
    let n_vec4 = row_vec4(OP, bank, rows)?;
    let b = rows.shape()[0];
    let n_steps = n_steps(OP, bank.shape()[0], b)?;
    let out = in_place(OP, "the bank", bank, &[rows, counter])?;
    let n = b * n_vec4;
    bank.runtime()
        .launch(&ENQUEUE_FWD)
        .types(&[bank.dtype()])
        .bind([rows.contiguous()?.binding(), counter.contiguous()?.binding(), out])
        .params(&RingParams { n: n as u32, n_batch: b as u32, n_steps: n_steps as u32, n_vec4: n_vec4 as u32 })
        .groups((n as u64).div_ceil(WG_SIZE))
        .cost(0, (4 * n * (4 + bank.dtype().bytes())) as u64)
        .run()
}

/// Puts `values` u32 `[b]` into `tags` u32 `[m]`, **in place**, where [`enqueue`] puts rows: entry `i` goes to
/// `(counter * b + i) mod m`.
///
/// # Errors
/// As [`enqueue`].
pub fn mark(tags: &Tensor, values: &Tensor, counter: &Tensor) -> Result<()> {
    const OP: &str = "mark";
    need_one_device(OP, tags, [values, counter])?;
    need_types(OP, &[("tags", tags, DType::U32), ("values", values, DType::U32)])?;
    need_counter(OP, Some(counter))?;
    let dims = check(OP, &[("tags", tags, "m"), ("values", values, "b")])?;
    let b = dims.get("b");
    let n_steps = n_steps(OP, dims.get("m"), b)?;
    let out = in_place(OP, "tags", tags, &[values, counter])?;
    tags.runtime()
        .launch(&MARK_FWD)
        .bind([values.contiguous()?.binding(), counter.contiguous()?.binding(), out])
        .params(&RingParams { n: b as u32, n_batch: b as u32, n_steps: n_steps as u32, n_vec4: 0 })
        .groups((b as u64).div_ceil(WG_SIZE))
        .cost(0, 8 * b as u64)
        .run()
}

/// Puts `rows` f32 `[b, d]`, `d` a multiple of 4, into `pool` `[n, d]`, f32 or f16, **in place**: row `i` goes to `ids[i]`,
/// for `ids` u32 `[b]`, or nowhere if the pool ends before that. f16 takes the nearest number.
///
/// Which of two rows with one id stays is left open, even which of their elements: the caller sees to it that ids differ.
///
/// # Errors
/// [`Error::Argument`] if `d` is not a multiple of 4, the pool shares memory with what is read or a gradient is wanted;
/// [`Error::Shape`] or [`Error::DType`] if the tensors do not fit.
pub fn store_rows(pool: &Tensor, rows: &Tensor, ids: &Tensor) -> Result<()> {
    const OP: &str = "store_rows";
    refuse(OP, &[pool, rows])?;
    need_one_device(OP, pool, [rows, ids])?;
    need_types(OP, &[("ids", ids, DType::U32)])?;
    let n_vec4 = row_vec4(OP, pool, rows)?;
    check(OP, &[("rows", rows, "b d"), ("ids", ids, "b")])?;
    let out = in_place(OP, "the pool", pool, &[rows, ids])?;
    let n = rows.len() / 4;
    pool.runtime()
        .launch(&STORE_FWD)
        .types(&[pool.dtype()])
        .bind([rows.contiguous()?.binding(), ids.contiguous()?.binding(), out])
        .params(&StoreParams { n: n as u32, n_rows: pool.shape()[0] as u32, n_vec4: n_vec4 as u32 })
        .groups((n as u64).div_ceil(WG_SIZE))
        .cost(0, (4 * n * (4 + pool.dtype().bytes())) as u64)
        .run()
}

/// A bank before the first batch: rows of unit length in random directions, `[m, d]` of `dtype`, f32 or f16. Normal numbers
/// of the key, each row over its length.
///
/// # Errors
/// [`Error::DType`] for other types, else as [`Tensor::from_slice`].
pub fn random_unit(runtime: &Runtime, [m, d]: [usize; 2], dtype: DType, key: Key) -> Result<Tensor> {
    if !dtype.is_float() {
        return Err(Error::dtype("random_unit", format!("{dtype} asked for, a float type wanted")));
    }
    let rows = rms_norm(&normal(runtime, &[m, d], 0.0, 1.0, key)?, None, 0.0)?;
    cast(&affine(&rows, (d.max(1) as f32).sqrt().recip(), 0.0)?, dtype)
}

/// What [`tally`] adds up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Neighbours that are an image's row, and not the query's own of this step.
    pub neighbours: u32,
    /// Of these, how many have the query's label.
    pub same_label: u32,
    /// Of these, how many are older views of the query's image.
    pub same_image: u32,
    /// Steps since their rows were put in, all together.
    pub age: u64,
    /// Neighbours that are the query's own row of this step.
    pub own: u32,
    /// Neighbours in slots that no image has filled yet.
    pub empty: u32,
}

impl Tally {
    /// Words of [`tally`]'s totals.
    pub const WORDS: usize = 8;

    /// From the totals.
    #[must_use]
    pub fn from_words(words: [u32; Self::WORDS]) -> Self {
        let [neighbours, same_label, same_image, age_low, own, empty, age_high, _] = words;
        let age = u64::from(age_high) << 32 | u64::from(age_low);
        Self { neighbours, same_label, same_image, age, own, empty }
    }
}

/// What the neighbours `rows` u32 `[b, k]` of a batch are, added **in place** to `totals` u32 `[8]`, which [`Tally`] reads:
/// slots of a bank whose images are `bank_ids` u32 `[m]`, found for queries of the images `ids` u32 `[b]`, with the label of
/// each image in `labels` u32 `[n_images]` ([`super::NONE`]: not known). Slots past the bank are no neighbours; a slot whose
/// image is past the last is empty. `counter` is the step whose batch was put in last, as in [`enqueue`]: its rows have age 0.
///
/// Sums are of whole numbers, so their order does not matter. Counts wrap at 2^32, so the caller starts anew before
/// `2^32 / (b k)` steps; the age has two words. One query's ages must stay below 2^32.
///
/// # Errors
/// [`Error::Argument`] if `m` is not a multiple of `b` or the totals share memory with what is read, [`Error::Shape`] or
/// [`Error::DType`] if the tensors do not fit.
pub fn tally(
    rows: &Tensor,
    bank_ids: &Tensor,
    ids: &Tensor,
    labels: &Tensor,
    counter: &Tensor,
    totals: &Tensor,
) -> Result<()> {
    const OP: &str = "tally";
    need_one_device(OP, rows, [bank_ids, ids, labels, counter, totals])?;
    let named = [("rows", rows), ("bank_ids", bank_ids), ("ids", ids), ("labels", labels), ("totals", totals)];
    need_types(OP, &named.map(|(name, tensor)| (name, tensor, DType::U32)))?;
    need_counter(OP, Some(counter))?;
    let shapes = ["b k", "m", "b", "n", "8"];
    let mut shapes = named.iter().zip(shapes).map(|((name, tensor), shape)| (*name, *tensor, shape));
    let dims = check(OP, &shapes.by_ref().collect::<Vec<_>>())?;
    let b = dims.get("b");
    let n_steps = n_steps(OP, dims.get("m"), b)?;
    let reads = [rows, bank_ids, ids, labels, counter];
    let out = in_place(OP, "totals", totals, &reads)?;
    let reads: Vec<Tensor> = reads.iter().map(|x| x.contiguous()).collect::<Result<_>>()?;
    rows.runtime()
        .launch(&TALLY_FWD)
        .bind(reads.iter().map(Tensor::binding).chain([out]))
        .params(&TallyParams {
            n_batch: b as u32,
            n_steps: n_steps as u32,
            k: dims.get("k") as u32,
            n_images: dims.get("n") as u32,
        })
        .groups((b as u64).div_ceil(WG_SIZE))
        .rounds(dims.get("k") + 1)
        .cost(0, 12 * rows.len() as u64)
        .run()
}

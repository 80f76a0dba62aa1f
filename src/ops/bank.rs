//! The nearest rows of a memory bank, and their mean, without the matrix of all products.
//!
//! The bank goes by in chunks: a product of the queries with a chunk, then lists of the best so far take in what is better.
//! So the memory beside the bank stays below [`SCRATCH_BYTES`], and the products are those of [`super::matmul`].

use super::checks::need_one_device;
use super::elementwise::cast;
use super::matmul::matmul;
use super::sort::ORDER;
use super::topk::TOP;
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{self, Read, Write},
    INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/bank.wgsl");
const WG_SIZE: u64 = 64;

/// Neighbours at most.
pub const MOST: usize = 32;
/// In a list of neighbours: there is none. As a tag of a query: every row counts.
pub const NONE: u32 = u32::MAX;
/// Bytes that a search takes beside queries, bank and result at most, for up to 8,192 queries and rows of up to 65,536
/// elements that lie side by side.
pub const SCRATCH_BYTES: usize = 8 << 20;
/// Of which products and converted rows of a chunk.
const CHUNK_BYTES: usize = 4 << 20;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SearchParams {
    n_queries: u32,
    n: u32,
    first: u32,
    has_tags: u32,
    lanes_log2: u32,
    lane_step: u32,
    round_step: u32,
    rounds: u32,
    goes_on: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct JoinParams {
    n_queries: u32,
    n_lists: u32,
    k: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MeanParams {
    n: u32,
    k: u32,
    n_vec4: u32,
    n_rows: u32,
}

const NODES: &[(&str, &[u32])] = &[("TOP_NODES", &[1, 2, 3, 4, 5, 6, 7, 8])];

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("bank", entry, SOURCE, binds).commons(&[INDEX, ORDER, TOP])
}

const SEARCH_FWD: Kernel =
    kernel("bank_search_fwd", &[Read, Read, Read, Write, Write]).params::<SearchParams>().overrides(NODES);
const JOIN_FWD: Kernel = kernel("bank_join_fwd", &[Read, Read, Write, Write]).params::<JoinParams>().overrides(NODES);
const MEAN_FWD: Kernel =
    kernel("bank_mean_fwd", &[Read, Read, Write]).params::<MeanParams>().types(&["Elem"], &[&[DType::F32, DType::F16]]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[SEARCH_FWD, JOIN_FWD, MEAN_FWD];

/// Which rows count for which query: those of the query's own tag, or all where the query's is [`NONE`].
#[derive(Debug, Clone, Copy)]
pub struct Tags<'a> {
    /// Of the queries, u32 `[b]`.
    pub queries: &'a Tensor,
    /// Of the bank's rows, u32 `[m]`.
    pub bank: &'a Tensor,
}

/// The `k` rows of `bank` `[m, d]`, f32 or f16, with the largest inner products with each of the queries f32 `[b, d]`, best
/// first, among those whose tag allows it: products f32 `[b, k]` and numbers u32 `[b, k]`. Where fewer rows count, the rest
/// are the lowest float and [`NONE`]. Of equal products the row with the lower number comes first.
///
/// An f16 row is converted whole; products are summed in f32.
///
/// # Errors
/// [`Error::Argument`] unless `1 <= k <= 32` and `m` is a multiple of 4, [`Error::Shape`] or [`Error::DType`] if the tensors do
/// not fit.
pub fn nearest(queries: &Tensor, bank: &Tensor, k: usize, tags: Option<Tags<'_>>) -> Result<(Tensor, Tensor)> {
    const OP: &str = "nearest";
    refuse(OP, &[queries, bank])?;
    let dims = check(OP, &[("queries", queries, "b d"), ("bank", bank, "m d")])?;
    need_one_device(OP, queries, [bank].into_iter().chain(tags.iter().flat_map(|t| [t.queries, t.bank])))?;
    if queries.dtype() != DType::F32 || !bank.dtype().is_float() {
        let given = format!("queries {} and bank {}", queries.dtype(), bank.dtype());
        return Err(Error::dtype(OP, format!("{given} given, f32 and a float type wanted")));
    }
    let (b, m, d) = (dims.get("b"), dims.get("m"), dims.get("d"));
    if !(1..=MOST).contains(&k) || !m.is_multiple_of(4) {
        return Err(Error::argument(OP, format!("k = {k} of {m} rows given, 1 to {MOST} of a multiple of 4 wanted")));
    }
    let tags = tags.map(|tags| tagged(OP, tags, b, m)).transpose()?;
    let runtime = queries.runtime();
    let shape = [b, k];
    let (values, rows) = (Tensor::empty(runtime, &shape, DType::F32)?, Tensor::empty(runtime, &shape, DType::U32)?);
    if b == 0 {
        return Ok((values, rows));
    }
    let nodes = k.div_ceil(4);
    let overrides = [("TOP_NODES", nodes as u32)];
    let chunk = chunk_rows(b, d, bank.dtype(), m);
    let lanes_log2 = lanes_log2(runtime, b, chunk, nodes);
    let n_lists = 1 << lanes_log2;
    let lists = || Tensor::empty(runtime, &[b, n_lists, 4 * nodes], DType::U32);
    let (keys, ids) = (lists()?, lists()?);
    let mut first = 0;
    // Without rows the lists are still to be written.
    while first < m.max(1) {
        let n = chunk.min(m - first);
        let part = bank.slice(0, first..first + n)?;
        let part = if bank.dtype() == DType::F32 { part } else { cast(&part, DType::F32)? };
        let x = matmul(queries, &part.transpose()?)?;
        let rounds = (n / 4).div_ceil(n_lists) as u32;
        // Neighbours side by side on GPUs, each lane its own run on a CPU.
        let (lane_step, round_step) = if runtime.profile().is_software() { (rounds, 1) } else { (1, n_lists as u32) };
        let (of_queries, of_bank) = tags.as_ref().map_or((&x, &x), |(queries, bank)| (queries, bank));
        runtime
            .launch(&SEARCH_FWD)
            .overrides(&overrides)
            .bind([x.binding(), of_queries.binding(), of_bank.binding(), keys.binding(), ids.binding()])
            .params(&SearchParams {
                n_queries: b as u32,
                n: n as u32,
                first: first as u32,
                has_tags: u32::from(tags.is_some()),
                lanes_log2,
                lane_step,
                round_step,
                rounds,
                goes_on: u32::from(first > 0),
            })
            .groups(((b * n_lists) as u64).div_ceil(WG_SIZE))
            .rounds(5 * rounds as usize + 1)
            .cost((b * n) as u64, 4 * (b * n) as u64)
            .run()?;
        first += n.max(1);
    }
    runtime
        .launch(&JOIN_FWD)
        .overrides(&overrides)
        .bind([keys.binding(), ids.binding(), values.binding(), rows.binding()])
        .params(&JoinParams { n_queries: b as u32, n_lists: n_lists as u32, k: k as u32 })
        .groups((b as u64).div_ceil(WG_SIZE))
        .rounds(5 * n_lists * nodes + k * (nodes + 1) + 2)
        .run()?;
    Ok((values, rows))
}

/// The tags, found to fit.
fn tagged(op: &'static str, tags: Tags<'_>, b: usize, m: usize) -> Result<(Tensor, Tensor)> {
    for (name, tensor, n) in [("queries", tags.queries, b), ("bank", tags.bank, m)] {
        if tensor.dtype() != DType::U32 || tensor.shape() != [n] {
            return Err(Error::shape(op, format!("tags of {name} {tensor:?} given, u32 [{n}] wanted")));
        }
    }
    Ok((tags.queries.contiguous()?, tags.bank.contiguous()?))
}

/// Rows of a chunk: as many as its products, and its rows where they are converted, may take.
fn chunk_rows(b: usize, d: usize, dtype: DType, m: usize) -> usize {
    let bytes = 4 * b + if dtype == DType::F32 { 0 } else { 4 * d };
    (CHUNK_BYTES / bytes.max(1) / 4 * 4).max(4).min(m)
}

/// Exponent of the lists of a query: enough to keep the adapter busy, each for eight times what it keeps.
fn lanes_log2(runtime: &Runtime, b: usize, chunk: usize, nodes: usize) -> u32 {
    let wanted = if runtime.profile().is_software() { 256 } else { 1 << 14 };
    (wanted / b).min(chunk / (32 * nodes)).clamp(1, 64).ilog2()
}

/// The mean of the rows of `bank` `[m, d]`, f32 or f16, that `rows` u32 `[b, k]` names: f32 `[b, d]`, `d` a multiple of 4. Numbers
/// past the last row, such as [`NONE`], do not count; of none at all the mean is 0.
///
/// # Errors
/// [`Error::Shape`], [`Error::DType`] or [`Error::Argument`] if the tensors do not fit.
pub fn mean_rows(bank: &Tensor, rows: &Tensor) -> Result<Tensor> {
    const OP: &str = "mean_rows";
    refuse(OP, &[bank])?;
    let dims = check(OP, &[("bank", bank, "m d"), ("rows", rows, "b k")])?;
    need_one_device(OP, bank, [rows])?;
    if !bank.dtype().is_float() || rows.dtype() != DType::U32 {
        let given = format!("bank {} and rows {}", bank.dtype(), rows.dtype());
        return Err(Error::dtype(OP, format!("{given} given, a float type and u32 wanted")));
    }
    let (m, d, b, k) = (dims.get("m"), dims.get("d"), dims.get("b"), dims.get("k"));
    if !d.is_multiple_of(4) {
        return Err(Error::argument(OP, format!("rows of {d} elements given, a multiple of 4 wanted")));
    }
    let runtime = bank.runtime();
    let out = Tensor::empty(runtime, &[b, d], DType::F32)?;
    let (bank, rows) = (bank.contiguous()?, rows.contiguous()?);
    let n = out.len() / 4;
    runtime
        .launch(&MEAN_FWD)
        .types(&[bank.dtype()])
        .bind([bank.binding(), rows.binding(), out.binding()])
        .params(&MeanParams { n: n as u32, k: k as u32, n_vec4: (d / 4) as u32, n_rows: m as u32 })
        .groups((n as u64).div_ceil(WG_SIZE))
        .rounds(k + 1)
        .cost((b * k * d) as u64, (b * k * d * bank.dtype().bytes() + 4 * b * d) as u64)
        .run()?;
    Ok(out)
}

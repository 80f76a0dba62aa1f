//! Searches: a product of the queries with a chunk of the bank, then lists of the best so far take in what is better.

use super::{CHUNK_BYTES, MOST, WG_SIZE, kernel};
use crate::autograd::refuse;
use crate::ops::Act;
use crate::ops::checks::need_one_device;
use crate::ops::elementwise::cast;
use crate::ops::gather::gather_rows;
use crate::ops::matmul::linear;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};
use std::ops::Range;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SearchParams {
    n_queries: u32,
    n: u32,
    first: u32,
    has_tags: u32,
    has_rows: u32,
    n_pool: u32,
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

const NODES: &[(&str, &[u32])] = &[("TOP_NODES", &[1, 2, 3, 4, 5, 6, 7, 8])];

pub(super) const SEARCH_FWD: Kernel =
    kernel("bank_search_fwd", &[Read, Read, Read, Read, Write, Write]).params::<SearchParams>().overrides(NODES);
pub(super) const JOIN_FWD: Kernel =
    kernel("bank_join_fwd", &[Read, Read, Write, Write]).params::<JoinParams>().overrides(NODES);

/// Which rows count for which query: those of the query's own tag, or all where the query's is [`super::NONE`].
#[derive(Debug, Clone, Copy)]
pub struct Tags<'a> {
    /// Of the queries, u32 `[b]`.
    pub queries: &'a Tensor,
    /// Of the bank's rows, u32 `[m]`.
    pub bank: &'a Tensor,
}

/// The `k` rows of `bank` `[m, d]`, f32 or f16, with the largest inner products with each of the queries f32 `[b, d]`, best
/// first, among those whose tag allows it: products f32 `[b, k]` and numbers u32 `[b, k]`. Where fewer rows count, the rest
/// are the lowest float and [`super::NONE`]. Of equal products the row with the lower number comes first.
///
/// An f16 row is converted whole; products are summed in f32.
///
/// # Errors
/// [`Error::Argument`] unless `1 <= k <= 32` and `m` is a multiple of 4, [`Error::Shape`] or [`Error::DType`] if the tensors do
/// not fit.
pub fn nearest(queries: &Tensor, bank: &Tensor, k: usize, tags: Option<Tags<'_>>) -> Result<(Tensor, Tensor)> {
    Search { op: "nearest", queries, bank, rows: None, bias: None, k, tags }.run()
}

/// [`nearest`] in a bank whose row `j` is row `rows[j]` of `pool` `[n, d]`, f32 or f16, for `rows` u32 `[m]`: the answer
/// numbers the `m` rows of the bank, as do the tags. A row that is not in the pool, such as [`super::NONE`], matches no query.
///
/// The rows are gathered chunk by chunk, so this takes no more memory than [`nearest`].
///
/// # Errors
/// As [`nearest`], and [`Error::Shape`] if there is no pool to take rows from.
pub fn nearest_among(
    queries: &Tensor,
    pool: &Tensor,
    rows: &Tensor,
    k: usize,
    tags: Option<Tags<'_>>,
) -> Result<(Tensor, Tensor)> {
    Search { op: "nearest_among", queries, bank: pool, rows: Some(rows), bias: None, k, tags }.run()
}

/// What is searched for, and where.
pub(crate) struct Search<'a> {
    pub(crate) op: &'static str,
    /// f32 `[b, d]`.
    pub(crate) queries: &'a Tensor,
    /// f32 or f16 `[n, d]`, the rows themselves unless others are named.
    pub(crate) bank: &'a Tensor,
    /// Rows of the bank, u32 `[m]`.
    pub(crate) rows: Option<&'a Tensor>,
    /// What is added to the products with a row, f32 `[m]`.
    pub(crate) bias: Option<&'a Tensor>,
    pub(crate) k: usize,
    pub(crate) tags: Option<Tags<'a>>,
}

impl Search<'_> {
    /// As [`nearest`].
    pub(crate) fn run(&self) -> Result<(Tensor, Tensor)> {
        let Self { op, queries, bank, k, .. } = *self;
        let (b, m, d) = self.check()?;
        let tags = self.tags.map(|tags| tagged(op, tags, b, m)).transpose()?;
        let rows = self.rows.map(Tensor::contiguous).transpose()?;
        let runtime = queries.runtime();
        let shape = [b, k];
        let (values, ids) = (Tensor::empty(runtime, &shape, DType::F32)?, Tensor::empty(runtime, &shape, DType::U32)?);
        if b == 0 {
            return Ok((values, ids));
        }
        let nodes = k.div_ceil(4);
        let overrides = [("TOP_NODES", nodes as u32)];
        let chunk = chunk_rows(4 * b + self.row_bytes(d), m);
        let lanes_log2 = lanes_log2(runtime, b, chunk, nodes);
        let n_lists = 1 << lanes_log2;
        let lists = || Tensor::empty(runtime, &[b, n_lists, 4 * nodes], DType::U32);
        let (list_keys, list_ids) = (lists()?, lists()?);
        let mut first = 0;
        // Without rows the lists are still to be written.
        while first < m.max(1) {
            let n = chunk.min(m - first);
            let range = first..first + n;
            let bias = self.bias.map(|bias| bias.slice(0, range.clone())).transpose()?;
            let x = linear(queries, &self.part(range)?.transpose()?, bias.as_ref(), Act::None)?;
            let rounds = (n / 4).div_ceil(n_lists) as u32;
            // Neighbours side by side on GPUs, each lane its own run on a CPU.
            let (lane_step, round_step) =
                if runtime.profile().is_software() { (rounds, 1) } else { (1, n_lists as u32) };
            let (of_queries, of_bank) = tags.as_ref().map_or((&x, &x), |(queries, bank)| (queries, bank));
            runtime
                .launch(&SEARCH_FWD)
                .overrides(&overrides)
                .bind([x.binding(), of_queries.binding(), of_bank.binding(), rows.as_ref().unwrap_or(&x).binding()])
                .bind([list_keys.binding(), list_ids.binding()])
                .params(&SearchParams {
                    n_queries: b as u32,
                    n: n as u32,
                    first: first as u32,
                    has_tags: u32::from(tags.is_some()),
                    has_rows: u32::from(rows.is_some()),
                    n_pool: bank.shape()[0] as u32,
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
            .bind([list_keys.binding(), list_ids.binding(), values.binding(), ids.binding()])
            .params(&JoinParams { n_queries: b as u32, n_lists: n_lists as u32, k: k as u32 })
            .groups((b as u64).div_ceil(WG_SIZE))
            .rounds(5 * n_lists * nodes + k * (nodes + 1) + 2)
            .run()?;
        Ok((values, ids))
    }

    /// Queries, rows and their width.
    fn check(&self) -> Result<(usize, usize, usize)> {
        let Self { op, queries, bank, k, .. } = *self;
        refuse(op, &[queries, bank])?;
        let dims = check(op, &[("queries", queries, "b d"), ("bank", bank, "n d")])?;
        let tags = self.tags.iter().flat_map(|t| [t.queries, t.bank]);
        need_one_device(op, queries, [bank].into_iter().chain(tags).chain(self.rows).chain(self.bias))?;
        if queries.dtype() != DType::F32 || !bank.dtype().is_float() {
            let given = format!("queries {} and bank {}", queries.dtype(), bank.dtype());
            return Err(Error::dtype(op, format!("{given} given, f32 and a float type wanted")));
        }
        let m = self.rows.map_or(dims.get("n"), Tensor::len);
        if let Some(rows) = self.rows.filter(|rows| rows.dtype() != DType::U32 || rows.rank() != 1) {
            return Err(Error::shape(op, format!("rows {rows:?} given, u32 [m] wanted")));
        }
        if self.rows.is_some() && dims.get("n") == 0 && m > 0 {
            return Err(Error::shape(op, format!("{m} rows asked for of a pool without any")));
        }
        if !(1..=MOST).contains(&k) || !m.is_multiple_of(4) {
            return Err(Error::argument(
                op,
                format!("k = {k} of {m} rows given, 1 to {MOST} of a multiple of 4 wanted"),
            ));
        }
        Ok((dims.get("b"), m, dims.get("d")))
    }

    /// Rows of the bank in f32.
    fn part(&self, range: Range<usize>) -> Result<Tensor> {
        let part = match self.rows {
            None => self.bank.slice(0, range)?,
            Some(_) if range.is_empty() => self.bank.slice(0, 0..0)?,
            Some(rows) => gather_rows(self.bank, &rows.slice(0, range)?)?,
        };
        if part.dtype() == DType::F32 { Ok(part) } else { cast(&part, DType::F32) }
    }

    /// Bytes that a row of a chunk takes beside the bank.
    fn row_bytes(&self, d: usize) -> usize {
        let gathered = if self.rows.is_some() { self.bank.dtype().bytes() * d } else { 0 };
        gathered + if self.bank.dtype() == DType::F32 { 0 } else { 4 * d }
    }
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

/// Rows of a chunk, each of which takes `bytes`: its products, and the row where it is converted or gathered.
pub(super) fn chunk_rows(bytes: usize, m: usize) -> usize {
    (CHUNK_BYTES / bytes.max(1) / 4 * 4).max(4).min(m)
}

/// Exponent of the lists of a query: enough to keep the adapter busy, each for eight times what it keeps.
fn lanes_log2(runtime: &Runtime, b: usize, chunk: usize, nodes: usize) -> u32 {
    let wanted = if runtime.profile().is_software() { 256 } else { 1 << 14 };
    (wanted / b).min(chunk / (32 * nodes)).clamp(1, 64).ilog2()
}

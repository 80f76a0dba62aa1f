//! Memory banks: rings of rows that training fills, the nearest of their rows, and means over them.
//!
//! [`nearest`] and [`softmax_mean`] never hold the matrix of all products. The bank goes by in chunks: a product of the queries
//! with a chunk by [`super::matmul`], then what it adds to the result so far. So the memory of a search beside the bank
//! stays below [`SCRATCH_BYTES`]; a mean takes twice its own size more, and a last chunk again where `m` is no multiple of 4.
//!
//! [`enqueue`], [`mark`], [`store_rows`] and [`tally`] **write in place**, unlike other ops: every tensor that shares the
//! memory sees it. Ops recorded before them still read the old values, ops recorded after them the new ones. Where a row goes
//! lies in tensors, so that they repeat rightly in a recorded plan.

mod blend;
mod ring;
mod search;

pub use blend::{mean_rows, softmax_mean};
pub use ring::{Tally, enqueue, mark, random_unit, store_rows, tally};
pub(crate) use search::Search;
pub use search::{Tags, nearest, nearest_among};

use super::sort::ORDER;
use super::topk::TOP;
use crate::runtime::{Bind, INDEX, Kernel};

const SOURCE: &str = include_str!("../../../shaders/bank.wgsl");
const WG_SIZE: u64 = 64;

/// Neighbours at most.
pub const MOST: usize = 32;
/// In a list of neighbours: there is none. As a tag of a query: every row counts. As a label: not known.
pub const NONE: u32 = u32::MAX;
/// Bytes that a search takes beside queries, bank and result at most, for up to 8,192 queries and rows of up to 65,536
/// elements that lie side by side.
pub const SCRATCH_BYTES: usize = 8 << 20;
/// Of which products and converted rows of a chunk.
const CHUNK_BYTES: usize = 4 << 20;

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("bank", entry, SOURCE, binds).commons(&[INDEX, ORDER, TOP])
}

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    search::SEARCH_FWD,
    search::JOIN_FWD,
    blend::MEAN_FWD,
    blend::WEIGH_ROWS_FWD,
    blend::WEIGH_GROUPS_FWD,
    blend::BLEND_FWD,
    ring::ENQUEUE_FWD,
    ring::MARK_FWD,
    ring::STORE_FWD,
    ring::TALLY_FWD,
];

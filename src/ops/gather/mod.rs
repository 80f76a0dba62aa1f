//! Copies by index (embedding, selection, concatenation, padding, reversal, one-hot) and resizing.
//!
//! Indices are u32. An index past its axis counts as the axis's last one, so that nothing outside a tensor is ever
//! read; whoever loads indices from a file checks them there.

mod pad;
mod resize;
mod rows;
mod select;

pub use pad::pad;
pub use resize::{resize_bilinear, resize_nearest};
pub(super) use rows::reordered;
pub use rows::{concat, flip, stack};
pub use select::{embedding, gather_rows, index_select, one_hot};

use crate::runtime::{
    Bind::{Read, Write},
    Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, collapse};
use crate::{Error, Result};
use pad::PadParams;
use resize::{ResizeAxisParams, ResizeParams};
use rows::RowsParams;
use select::{OneHotParams, SelectParams};

const SOURCE: &str = include_str!("../../../shaders/gather.wgsl");
const WG_SIZE: u32 = 64;
/// Units of a row that one invocation copies, about: enough to pay for finding the row.
const UNITS_PER_LANE: usize = 4;
/// Invocations that keep the cores of a software adapter busy.
const SOFTWARE_THREADS: usize = 4096;

const ALIASES: &[&str] = &["Elem"];
/// Copies do not care what the bits mean: a word, or half of one.
const UNITS: &[&[DType]] = &[&[DType::U32, DType::F16]];
const WORDS: &[&[DType]] = &[&[DType::U32]];
const FLOATS: &[&[DType]] = &[&[DType::F32, DType::F16]];
const NUMBERS: &[&[DType]] = &[&[DType::F32, DType::F16, DType::U32, DType::I32]];

const fn kernel(entry: &'static str, binds: &'static [crate::runtime::Bind], types: &'static [&[DType]]) -> Kernel {
    Kernel::new("gather", entry, SOURCE, binds).types(ALIASES, types)
}

const SELECT: &[crate::runtime::Bind] = &[Read, Read, Write];
const COPY: &[crate::runtime::Bind] = &[Read, Write];
const SELECT_FWD: Kernel = kernel("select_fwd", SELECT, UNITS).params::<SelectParams>();
const SELECT_VEC4_FWD: Kernel = kernel("select_vec4_fwd", SELECT, WORDS).params::<SelectParams>();
const SELECT_BYTES_FWD: Kernel = kernel("select_bytes_fwd", SELECT, WORDS).params::<SelectParams>();
const ROWS_FWD: Kernel = kernel("rows_fwd", COPY, UNITS).params::<RowsParams>();
const ROWS_VEC4_FWD: Kernel = kernel("rows_vec4_fwd", COPY, WORDS).params::<RowsParams>();
const ROWS_BYTES_FWD: Kernel = kernel("rows_bytes_fwd", COPY, WORDS).params::<RowsParams>();
const PAD_FWD: Kernel = kernel("pad_fwd", COPY, NUMBERS).params::<PadParams>();
const PAD_VEC4_FWD: Kernel = kernel("pad_vec4_fwd", COPY, NUMBERS).params::<PadParams>();
const PAD_BYTES_FWD: Kernel = kernel("pad_bytes_fwd", COPY, WORDS).params::<PadParams>();
const BILINEAR_FWD: Kernel = kernel("bilinear_fwd", COPY, FLOATS).params::<ResizeParams>();
const BILINEAR_VEC4_FWD: Kernel = kernel("bilinear_vec4_fwd", COPY, FLOATS).params::<ResizeParams>();
const NEAREST_FWD: Kernel = kernel("nearest_fwd", COPY, UNITS).params::<ResizeParams>();
const NEAREST_VEC4_FWD: Kernel = kernel("nearest_vec4_fwd", COPY, WORDS).params::<ResizeParams>();
const ONE_HOT_FWD: Kernel = kernel("one_hot_fwd", COPY, WORDS).params::<OneHotParams>();
const RESIZE_BWD: Kernel = kernel("resize_bwd", COPY, FLOATS).params::<ResizeAxisParams>();
const RESIZE_VEC4_BWD: Kernel = kernel("resize_vec4_bwd", COPY, FLOATS).params::<ResizeAxisParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    SELECT_FWD,
    SELECT_VEC4_FWD,
    SELECT_BYTES_FWD,
    ROWS_FWD,
    ROWS_VEC4_FWD,
    ROWS_BYTES_FWD,
    PAD_FWD,
    PAD_VEC4_FWD,
    PAD_BYTES_FWD,
    BILINEAR_FWD,
    BILINEAR_VEC4_FWD,
    NEAREST_FWD,
    NEAREST_VEC4_FWD,
    ONE_HOT_FWD,
    RESIZE_BWD,
    RESIZE_VEC4_BWD,
];

/// What a copy moves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Vec4,
    Word,
    Half,
    Byte,
}

impl Unit {
    /// The largest unit that divides every one of these lengths and starts, in elements of `dtype`.
    fn of(dtype: DType, elements: &[usize]) -> Self {
        let divides = |bytes: usize| elements.iter().all(|n| (n * dtype.bytes()).is_multiple_of(bytes));
        match dtype {
            _ if divides(16) => Self::Vec4,
            _ if divides(4) => Self::Word,
            DType::F16 => Self::Half,
            _ => Self::Byte,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Vec4 => 16,
            Self::Word => 4,
            Self::Half => 2,
            Self::Byte => 1,
        }
    }

    /// `n` elements of `dtype` counted in units.
    fn count(self, dtype: DType, n: usize) -> u32 {
        (n * dtype.bytes() / self.bytes()) as u32
    }

    /// The kernel of three and its element types.
    fn pick(self, [vec4, plain, bytes]: [&Kernel; 3]) -> (&Kernel, [DType; 1]) {
        match self {
            Self::Vec4 => (vec4, [DType::U32]),
            Self::Word => (plain, [DType::U32]),
            Self::Half => (plain, [DType::F16]),
            Self::Byte => (bytes, [DType::U32]),
        }
    }

    /// Workgroups for `n_rows` rows of `n_inner` units, and how many lanes share a row, as a power of two.
    fn grid(self, runtime: &Runtime, n_rows: usize, n_inner: u32) -> (u64, u32) {
        let most = (n_inner as usize / UNITS_PER_LANE).max(1);
        // Neighbouring lanes of a GPU fetch neighbouring units. A lane of a software adapter runs down a row of its own,
        // as its prefetcher wants: 3 to 5 times the speed on llvmpipe. There only few rows are shared, to fill the cores.
        let lanes =
            if runtime.profile().is_software() { most.min(SOFTWARE_THREADS.div_ceil(n_rows.max(1))) } else { most };
        let lanes_log2 = lanes.ilog2();
        let threads = match self {
            Self::Byte => (n_rows as u64 * u64::from(n_inner)).div_ceil(4),
            _ if n_inner == 0 => 0,
            _ => (n_rows as u64) << lanes_log2,
        };
        (threads.div_ceil(u64::from(WG_SIZE)), lanes_log2)
    }
}

/// Bytes of `n` elements.
fn size(n: usize, dtype: DType) -> u64 {
    (n * dtype.bytes()) as u64
}

fn check_ids(op: &'static str, x: Option<&Tensor>, ids: &Tensor) -> Result<()> {
    if ids.dtype() != DType::U32 {
        return Err(Error::dtype(op, format!("ids are {}, u32 wanted", ids.dtype())));
    }
    if x.is_some_and(|x| !x.runtime().same(ids.runtime())) {
        return Err(Error::argument(op, "the tensors live on different devices"));
    }
    Ok(())
}

fn check_axis(op: &'static str, x: &Tensor, axis: usize) -> Result<()> {
    if axis < x.rank() { Ok(()) } else { Err(Error::shape(op, format!("axis {axis} is not in {:?}", x.shape()))) }
}

/// The one stride that these axes of `x` have together, if they have one; 0 where they hold at most one index.
fn merged_stride(x: &Tensor, axes: std::ops::Range<usize>) -> Option<usize> {
    let (sizes, strides) = collapse(&x.shape()[axes.clone()], &[&x.strides()[axes]]);
    match sizes.len() {
        0 => Some(0),
        1 => Some(strides[0][0]),
        _ => None,
    }
}

/// Whether these axes of `x` are a row-major run without gaps.
fn is_run(x: &Tensor, axes: std::ops::Range<usize>) -> bool {
    let (sizes, strides) = collapse(&x.shape()[axes.clone()], &[&x.strides()[axes]]);
    sizes.is_empty() || (sizes.len() == 1 && strides[0][0] == 1)
}

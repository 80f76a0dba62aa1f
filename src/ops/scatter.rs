//! Sums of rows by index, the transpose of selection, without atomics: the same bits in every run.

use super::checks::{need_float, need_one_device};
use super::elementwise::minimum;
use super::gather::index_select;
use super::sort::radix_sort;
use crate::autograd::record;
use crate::runtime::{
    Bind::{self, Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/scatter.wgsl");
const WG_SIZE: u32 = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ScatterParams {
    n_units: u32,
    n_ids: u32,
    n_axis: u32,
    n_inner: u32,
    chunk_log2: u32,
}

const FLOATS: &[DType] = &[DType::F32, DType::F16];
/// Partial sums are f32.
const PARTS: &[&[DType]] = &[FLOATS, &[DType::F32]];
const SUMS: &[&[DType]] = &[FLOATS, FLOATS];

const fn kernel(entry: &'static str, binds: &'static [Bind], types: &'static [&[DType]]) -> Kernel {
    Kernel::new("scatter", entry, SOURCE, binds).types(&["Elem", "Out"], types).params::<ScatterParams>()
}

const SCATTER_STARTS_FWD: Kernel = kernel("scatter_starts_fwd", &[Read, Write], &[&[DType::U32], &[DType::U32]]);
const SCATTER_CHUNKS_FWD: Kernel = kernel("scatter_chunks_fwd", &[Read, Read, Read, Write], PARTS);
const SCATTER_CHUNKS_VEC4_FWD: Kernel = kernel("scatter_chunks_vec4_fwd", &[Read, Read, Read, Write], PARTS);
const SCATTER_FWD: Kernel = kernel("scatter_fwd", &[Read, Read, Read, Read, Write], SUMS);
const SCATTER_VEC4_FWD: Kernel = kernel("scatter_vec4_fwd", &[Read, Read, Read, Read, Write], SUMS);

/// The kernels of this family.
pub const KERNELS: &[Kernel] =
    &[SCATTER_STARTS_FWD, SCATTER_CHUNKS_FWD, SCATTER_CHUNKS_VEC4_FWD, SCATTER_FWD, SCATTER_VEC4_FWD];

/// Bytes of `n` elements.
fn size(n: usize, dtype: DType) -> u64 {
    (n * dtype.bytes()) as u64
}

/// Ids of a chunk: so many that a row that takes all of them is the sum of about as many chunks.
fn chunk_log2(n_ids: usize) -> u32 {
    n_ids.isqrt().next_power_of_two().clamp(64, 8192).ilog2()
}

/// Sums of the rows of `x` by index: `[.., m, ..]` and `ids` u32 `[m]` to `[.., n, ..]`, where row `r` of `axis` is the
/// sum of the rows of `x` whose id is `r`, in their order, or 0 without any. An id past the axis counts as its last row,
/// as in [`index_select`], whose gradient this is.
///
/// # Errors
/// [`Error::Shape`] if there is no such axis, `ids` is not `[m]`, or there are ids and no rows to add to;
/// [`Error::DType`] unless `x` is a float tensor and `ids` u32.
pub fn scatter_add(x: &Tensor, axis: usize, ids: &Tensor, n: usize) -> Result<Tensor> {
    const OP: &str = "scatter_add";
    if axis >= x.rank() {
        return Err(Error::shape(OP, format!("axis {axis} is not in {:?}", x.shape())));
    }
    if ids.shape() != [x.shape()[axis]] {
        let (ids, x) = (ids.shape(), x.shape());
        return Err(Error::shape(OP, format!("ids {ids:?} given for axis {axis} of {x:?}")));
    }
    if n == 0 && !ids.is_empty() {
        return Err(Error::shape(OP, format!("{} rows given and none to add them to", ids.len())));
    }
    need_float(OP, x)?;
    if ids.dtype() != DType::U32 {
        return Err(Error::dtype(OP, format!("ids are {}, u32 wanted", ids.dtype())));
    }
    need_one_device(OP, x, [ids])?;
    let ids = ids.detach();
    let (out, _) = scattered(&x.detach(), axis, &ids, n, x.dtype())?;
    Ok(record(OP, out, [x], move |d, _| Ok([Some(index_select(d, axis, &ids)?)])))
}

/// [`scatter_add`] of the rows of `x` `[m, d]` in f32 whatever their type, and where the rows of each sum start among all
/// in the order of their ids, u32 `[n + 1]`: how many there are is the difference to the next. The ids are below `n`.
pub(crate) fn segment_sums(x: &Tensor, ids: &Tensor, n: usize) -> Result<(Tensor, Tensor)> {
    scattered(x, 0, ids, n, DType::F32)
}

/// The ids are sorted first, so that each row of the result, of type `out_dtype`, is one sum. With the starts of the rows.
fn scattered(x: &Tensor, axis: usize, ids: &Tensor, n_axis: usize, out_dtype: DType) -> Result<(Tensor, Tensor)> {
    let (runtime, dtype) = (x.runtime(), x.dtype());
    let n_ids = ids.len();
    let mut shape = x.shape().to_vec();
    shape[axis] = n_axis;
    if x.is_empty() || n_axis == 0 {
        let starts = Tensor::zeros(runtime, &[n_axis + 1], DType::U32)?;
        return Ok((Tensor::zeros(runtime, &shape, out_dtype)?, starts));
    }
    let x = x.contiguous()?;
    let last = Tensor::constant(runtime, &[(n_axis - 1) as u32])?;
    let bits = usize::BITS - (n_axis - 1).leading_zeros();
    let keys = minimum(ids, &last)?;
    let (keys, order) = radix_sort(None, &keys, None, 0..bits.max(1), false)?;
    let n_outer: usize = shape[..axis].iter().product();
    let n_inner: usize = shape[axis + 1..].iter().product();
    let chunk_log2 = chunk_log2(n_ids);
    let groups = |n: usize| (n as u64).div_ceil(u64::from(WG_SIZE));
    let params = |n_units: usize, n_inner: usize| ScatterParams {
        n_units: n_units as u32,
        n_ids: n_ids as u32,
        n_axis: n_axis as u32,
        n_inner: n_inner as u32,
        chunk_log2,
    };
    let starts = Tensor::empty(runtime, &[n_axis + 1], DType::U32)?;
    runtime
        .launch(&SCATTER_STARTS_FWD)
        .types(&[DType::U32; 2])
        .bind([keys.binding(), starts.binding()])
        .params(&params(n_axis + 1, 1))
        .groups(groups(n_axis + 1))
        .cost(0, size(n_ids + n_axis, DType::U32))
        .run()?;
    let (rows_kernel, chunks_kernel, per_unit) = if n_inner.is_multiple_of(4) {
        (&SCATTER_VEC4_FWD, &SCATTER_CHUNKS_VEC4_FWD, 4)
    } else {
        (&SCATTER_FWD, &SCATTER_CHUNKS_FWD, 1)
    };
    let n_chunks = n_ids >> chunk_log2;
    let chunks = Tensor::empty(runtime, &[n_outer, n_chunks, n_inner], DType::F32)?;
    runtime
        .launch(chunks_kernel)
        .types(&[dtype, DType::F32])
        .bind([x.binding(), keys.binding(), order.binding(), chunks.binding()])
        .params(&params(chunks.len() / per_unit, n_inner / per_unit))
        .groups(groups(chunks.len() / per_unit))
        .rounds((1 << chunk_log2) + 1)
        .cost(0, size(n_ids, DType::U32))
        .run()?;
    let out = Tensor::empty(runtime, &shape, out_dtype)?;
    runtime
        .launch(rows_kernel)
        .types(&[dtype, out_dtype])
        .bind([x.binding(), starts.binding(), order.binding(), chunks.binding(), out.binding()])
        .params(&params(out.len() / per_unit, n_inner / per_unit))
        .groups(groups(out.len() / per_unit))
        .rounds((2 << chunk_log2) + n_chunks + 3)
        .cost(x.len() as u64, size(x.len(), dtype) + size(out.len(), out_dtype) + size(n_ids, DType::U32))
        .run()?;
    Ok((out, starts))
}

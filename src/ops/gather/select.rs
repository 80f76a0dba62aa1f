//! Selection by index, and its inverse view, the one-hot rows.

use super::{
    ONE_HOT_FWD, SELECT_BYTES_FWD, SELECT_FWD, SELECT_VEC4_FWD, Unit, WG_SIZE, check_axis, check_ids, is_run,
    merged_stride, size,
};
use crate::autograd::record;
use crate::ops::scatter::scatter_add;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct SelectParams {
    n_rows: u32,
    lanes_log2: u32,
    n_inner: u32,
    offset: u32,
    n_ids: u32,
    n_axis: u32,
    stride_outer: u32,
    stride_axis: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct OneHotParams {
    n_ids: u32,
    n_classes: u32,
}

/// `x` taken at `ids` u32 `[m]` along `axis`: `[.., n, ..]` to `[.., m, ..]`, any element type.
///
/// An id past the axis counts as its last index. A batch of u8 images `[n, h, w, c]` is taken from a data set this way.
///
/// # Errors
/// [`Error::Shape`] if there is no such axis, nothing to take from, or `ids` is not `[m]`; [`Error::DType`] unless
/// `ids` is u32.
pub fn index_select(x: &Tensor, axis: usize, ids: &Tensor) -> Result<Tensor> {
    select("index_select", x, axis, ids)
}

/// Rows of `x` `[n, ..]` at `ids` u32 `[m]`: `[m, ..]`.
///
/// # Errors
/// As [`index_select`].
pub fn gather_rows(x: &Tensor, ids: &Tensor) -> Result<Tensor> {
    select("gather_rows", x, 0, ids)
}

/// Rows of `table` `[v, d]` at `ids` u32 `[..]`: `[.., d]`.
///
/// # Errors
/// As [`index_select`], for `ids` of any shape.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    const OP: &str = "embedding";
    let &[_, d] = table.shape() else {
        return Err(Error::shape(OP, format!("table {:?} does not fit [v, d]", table.shape())));
    };
    let rows = select(OP, table, 0, &ids.reshape(&[ids.len()])?)?;
    rows.reshape(&[ids.shape(), &[d]].concat())
}

fn select(op: &'static str, x: &Tensor, axis: usize, ids: &Tensor) -> Result<Tensor> {
    let (out, ids) = selected(op, &x.detach(), axis, ids)?;
    let n_axis = x.shape()[axis];
    Ok(record(op, out, [x], move |d, _| Ok([Some(scatter_add(d, axis, &ids, n_axis)?)])))
}

/// The elements at the ids, and the ids as the kernel read them.
pub(super) fn selected(op: &'static str, x: &Tensor, axis: usize, ids: &Tensor) -> Result<(Tensor, Tensor)> {
    check_axis(op, x, axis)?;
    check_ids(op, Some(x), ids)?;
    let &[n_ids] = ids.shape() else {
        return Err(Error::shape(op, format!("ids {:?} does not fit [m]", ids.shape())));
    };
    let mut shape = x.shape().to_vec();
    let n_axis = std::mem::replace(&mut shape[axis], n_ids);
    if n_axis == 0 && n_ids > 0 {
        return Err(Error::shape(op, format!("axis {axis} of {:?} holds nothing to take", x.shape())));
    }
    let mut x = x.clone();
    if !is_run(&x, axis + 1..x.rank()) || merged_stride(&x, 0..axis).is_none() {
        x = x.contiguous()?;
    }
    let ids = ids.contiguous()?;
    let out = Tensor::empty(x.runtime(), &shape, x.dtype())?;
    let n_inner: usize = shape[axis + 1..].iter().product();
    let n_rows = shape[..axis].iter().product::<usize>() * n_ids;
    let stride_outer = merged_stride(&x, 0..axis).unwrap_or(0);
    let (binding, offset) = x.binding_from();
    let dtype = x.dtype();
    let unit = Unit::of(dtype, &[n_inner, offset as usize, stride_outer, x.strides()[axis]]);
    let n_inner = unit.count(dtype, n_inner);
    let (groups, lanes_log2) = unit.grid(x.runtime(), n_rows, n_inner);
    let (kernel, types) = unit.pick([&SELECT_VEC4_FWD, &SELECT_FWD, &SELECT_BYTES_FWD]);
    x.runtime()
        .launch(kernel)
        .types(&types)
        .bind([binding, ids.binding(), out.binding()])
        .params(&SelectParams {
            n_rows: n_rows as u32,
            lanes_log2,
            n_inner,
            offset: unit.count(dtype, offset as usize),
            n_ids: n_ids as u32,
            n_axis: n_axis as u32,
            stride_outer: unit.count(dtype, stride_outer),
            stride_axis: unit.count(dtype, x.strides()[axis]),
        })
        .groups(groups)
        .cost(0, 2 * size(out.len(), dtype) + size(n_ids, DType::U32))
        .run()?;
    Ok((out, ids))
}

/// 1 at each of `ids` u32 `[..]`, 0 elsewhere: f32 `[.., n]`. An id of `n` or more gives a row of zeros.
///
/// # Errors
/// [`Error::DType`] unless `ids` is u32.
pub fn one_hot(ids: &Tensor, n: usize) -> Result<Tensor> {
    check_ids("one_hot", None, ids)?;
    let ids = ids.contiguous()?;
    let out = Tensor::empty(ids.runtime(), &[ids.shape(), &[n]].concat(), DType::F32)?;
    ids.runtime()
        .launch(&ONE_HOT_FWD)
        .types(&[DType::U32])
        .bind([ids.binding(), out.binding()])
        .params(&OneHotParams { n_ids: ids.len() as u32, n_classes: n as u32 })
        .groups((out.len() as u64).div_ceil(4 * u64::from(WG_SIZE)))
        .cost(0, size(ids.len(), DType::U32) + size(out.len(), DType::F32))
        .run()?;
    Ok(out)
}

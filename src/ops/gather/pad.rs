//! Padding.

use super::{PAD_BYTES_FWD, PAD_FWD, PAD_VEC4_FWD, Unit, is_run, merged_stride, size};
use crate::autograd::record;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct PadParams {
    n_rows: u32,
    lanes_log2: u32,
    offset: u32,
    value: f32,
    out: [u32; 3],
    before: [u32; 3],
    sizes: [u32; 3],
    strides: [u32; 3],
}

/// `x` with `(before, after)` elements of `value` (cast to the element type) around each axis.
///
/// # Errors
/// [`Error::Shape`] unless there is one pair per axis.
pub fn pad(x: &Tensor, pads: &[(usize, usize)], value: f32) -> Result<Tensor> {
    if pads.len() != x.rank() {
        return Err(Error::shape("pad", format!("{} pairs given for {:?}", pads.len(), x.shape())));
    }
    // One dispatch pads the last three of the padded axes; more than those take another.
    let padded: Vec<usize> = (0..x.rank()).filter(|&axis| pads[axis] != (0, 0)).collect();
    let mut out = x.detach();
    for axes in padded.rchunks(3) {
        out = pad_axes(&out, axes, pads, value)?;
    }
    let ranges: Vec<_> = x.shape().iter().zip(pads).map(|(n, (before, _))| *before..before + n).collect();
    Ok(record("pad", out, [x], move |d, _| {
        let inside = |d: Tensor, (axis, range)| d.slice(axis, range);
        Ok([Some(ranges.into_iter().enumerate().try_fold(d.clone(), inside)?)])
    }))
}

/// Pads at most three axes, in ascending order.
fn pad_axes(x: &Tensor, axes: &[usize], pads: &[(usize, usize)], value: f32) -> Result<Tensor> {
    // Each padded axis with the unpadded ones behind it, and the axes before the first.
    let ends = axes[1..].iter().copied().chain([x.rank()]);
    let groups: Vec<_> = axes.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
    let merges = groups.iter().chain([&(0..axes[0])]).all(|group| merged_stride(x, group.clone()).is_some());
    let last_is_run = groups.last().is_some_and(|group| is_run(x, group.clone()));
    let x = if merges && last_is_run { x.clone() } else { x.contiguous()? };
    let mut shape = x.shape().to_vec();
    for &axis in axes {
        shape[axis] += pads[axis].0 + pads[axis].1;
    }
    let dtype = x.dtype();
    let out = Tensor::empty(x.runtime(), &shape, dtype)?;
    let (binding, offset) = x.binding_from();
    let (mut sizes, mut before, mut padded, mut strides) = ([1; 3], [0; 3], [1; 3], [0; 3]);
    let first = 3 - groups.len();
    for (slot, group) in (first..3).zip(&groups) {
        let behind: usize = shape[group.start + 1..group.end].iter().product();
        sizes[slot] = x.shape()[group.start] * behind;
        before[slot] = pads[group.start].0 * behind;
        padded[slot] = shape[group.start] * behind;
        if slot < 2 {
            strides[slot + 1] = merged_stride(&x, group.clone()).unwrap_or(0);
        }
    }
    strides[0] = merged_stride(&x, 0..axes[0]).unwrap_or(0);
    let n_rows = shape[..axes[0]].iter().product::<usize>() * padded[0] * padded[1];
    let spans = [sizes[2], before[2], padded[2], offset as usize, strides[0], strides[1], strides[2]];
    let divides = |n: usize| spans.iter().all(|span| span.is_multiple_of(n));
    // The kernel, its element type and elements of x per unit. Bytes pass as words where the value has the same bits.
    let (kernel, types, per_unit) = match dtype {
        DType::U8 if value == 0.0 && divides(16) => (&PAD_VEC4_FWD, [DType::U32], 16),
        DType::U8 if value == 0.0 && divides(4) => (&PAD_FWD, [DType::U32], 4),
        DType::U8 => (&PAD_BYTES_FWD, [DType::U32], 1),
        _ if divides(4) => (&PAD_VEC4_FWD, [dtype], 4),
        _ => (&PAD_FWD, [dtype], 1),
    };
    let count = |n: usize| (n / per_unit) as u32;
    let unit = if kernel.entry == PAD_BYTES_FWD.entry { Unit::Byte } else { Unit::Word };
    let (groups, lanes_log2) = unit.grid(x.runtime(), n_rows, count(padded[2]));
    x.runtime()
        .launch(kernel)
        .types(&types)
        .bind([binding, out.binding()])
        .params(&PadParams {
            n_rows: n_rows as u32,
            lanes_log2,
            offset: count(offset as usize),
            value: if dtype == DType::U8 { value.clamp(0.0, 255.0) } else { value },
            out: [padded[0] as u32, padded[1] as u32, count(padded[2])],
            before: [before[0] as u32, before[1] as u32, count(before[2])],
            sizes: [sizes[0] as u32, sizes[1] as u32, count(sizes[2])],
            strides: strides.map(count),
        })
        .groups(groups)
        .cost(0, size(x.len(), dtype) + size(out.len(), dtype))
        .run()?;
    Ok(out)
}

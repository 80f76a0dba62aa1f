//! Copies of whole rows: joining and reversal.

use super::{ROWS_BYTES_FWD, ROWS_FWD, ROWS_VEC4_FWD, Unit, check_axis, is_run, size};
use crate::autograd::{record, record_all};
use crate::runtime::Binding;
use crate::tensor::{DType, Tensor, collapse};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct RowsParams {
    n_rows: u32,
    lanes_log2: u32,
    n_inner: u32,
    offset: u32,
    sizes: [u32; 4],
    strides: [u32; 5],
    stride_inner: u32,
    start_out: u32,
    stride_out: u32,
}

/// Source of a row copy, in elements: rows over the first axes, whose strides may be negative, and a run or a strided
/// axis within each row.
struct Rows {
    binding: Binding,
    dtype: DType,
    offset: usize,
    sizes: Vec<usize>,
    strides: Vec<isize>,
    n_inner: usize,
    stride_inner: isize,
}

impl Rows {
    /// Copies the rows to `out`, each to `start_out` of every `stride_out` elements.
    fn copy(self, out: &Tensor, start_out: usize, stride_out: usize) -> Result<()> {
        let dtype = self.dtype;
        let mut aligned = vec![self.n_inner, self.offset, start_out, stride_out];
        aligned.extend(self.strides.iter().map(|s| s.unsigned_abs()));
        // A strided axis is copied element by element, which for bytes means byte by byte.
        if self.stride_inner != 1 {
            aligned.push(1);
        }
        let unit = Unit::of(dtype, &aligned);
        let n_rows: usize = self.sizes.iter().product();
        let n_inner = unit.count(dtype, self.n_inner);
        let covered = if unit == Unit::Byte { stride_out as u32 } else { n_inner };
        let (groups, lanes_log2) = unit.grid(out.runtime(), n_rows, covered);
        let stride = |s: isize| {
            let units = unit.count(dtype, s.unsigned_abs());
            if s < 0 { units.wrapping_neg() } else { units }
        };
        let (mut sizes, mut strides) = ([1; 4], [0; 5]);
        for (slot, n) in sizes.iter_mut().zip(self.sizes.iter().skip(1)) {
            *slot = *n as u32;
        }
        for (slot, s) in strides.iter_mut().zip(&self.strides) {
            *slot = stride(*s);
        }
        let (kernel, types) = unit.pick([&ROWS_VEC4_FWD, &ROWS_FWD, &ROWS_BYTES_FWD]);
        out.runtime()
            .launch(kernel)
            .types(&types)
            .bind([self.binding, out.binding()])
            .params(&RowsParams {
                n_rows: n_rows as u32,
                lanes_log2,
                n_inner,
                offset: unit.count(dtype, self.offset),
                sizes,
                strides,
                stride_inner: if self.stride_inner == 1 { 1 } else { stride(self.stride_inner) },
                start_out: unit.count(dtype, start_out),
                stride_out: unit.count(dtype, stride_out),
            })
            .groups(groups)
            .cost(0, 2 * size(n_rows * self.n_inner, dtype))
            .run()
    }
}

/// The tensors one after the other along `axis`: equal shapes but for that axis, any one element type.
///
/// # Errors
/// [`Error::Argument`] without tensors, [`Error::Shape`] if there is no such axis or another one differs,
/// [`Error::DType`] if the types differ.
pub fn concat(xs: &[&Tensor], axis: usize) -> Result<Tensor> {
    join("concat", xs, axis)
}

/// The tensors, all of one shape, along a new axis before `axis`: `k` times `[.., ..]` to `[.., k, ..]`.
///
/// # Errors
/// As [`concat()`].
pub fn stack(xs: &[&Tensor], axis: usize) -> Result<Tensor> {
    const OP: &str = "stack";
    if let Some(other) = xs.iter().find(|x| x.shape() != xs[0].shape()) {
        return Err(Error::shape(OP, format!("{:?} and {:?} differ", xs[0].shape(), other.shape())));
    }
    let xs = xs.iter().map(|x| x.unsqueeze(axis)).collect::<Result<Vec<_>>>()?;
    join(OP, &xs.iter().collect::<Vec<_>>(), axis)
}

fn join(op: &'static str, xs: &[&Tensor], axis: usize) -> Result<Tensor> {
    let own: Vec<Tensor> = xs.iter().map(|x| x.detach()).collect();
    let out = joined(op, &own, axis)?;
    let sizes: Vec<usize> = xs.iter().map(|x| x.shape()[axis]).collect();
    Ok(record_all(op, out, xs, move |d| {
        let mut start = 0;
        let part = |n: usize| {
            start += n;
            d.slice(axis, start - n..start).map(Some)
        };
        sizes.into_iter().map(part).collect()
    }))
}

fn joined(op: &'static str, xs: &[Tensor], axis: usize) -> Result<Tensor> {
    let Some(first) = xs.first() else {
        return Err(Error::argument(op, "no tensors given"));
    };
    check_axis(op, first, axis)?;
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for x in xs {
        if x.dtype() != first.dtype() {
            return Err(Error::dtype(op, format!("{} and {} given, one type wanted", first.dtype(), x.dtype())));
        }
        if !x.runtime().same(first.runtime()) {
            return Err(Error::argument(op, "the tensors live on different devices"));
        }
        let fits = x.rank() == first.rank() && (0..x.rank()).all(|i| i == axis || x.shape()[i] == shape[i]);
        if !fits {
            let (a, b) = (first.shape(), x.shape());
            return Err(Error::shape(op, format!("{a:?} and {b:?} differ in more than axis {axis}")));
        }
        shape[axis] += x.shape()[axis];
    }
    if let [x] = xs {
        return Ok(x.clone());
    }
    let out = Tensor::empty(first.runtime(), &shape, first.dtype())?;
    let n_inner: usize = shape[axis + 1..].iter().product();
    let mut start = 0;
    for x in xs.iter().filter(|x| !x.is_empty()) {
        // Rows over the axes before `axis`, each a run from there on.
        let x = if is_run(x, axis..x.rank()) { x.clone() } else { x.contiguous()? };
        let (mut sizes, strides) = collapse(&x.shape()[..axis], &[&x.strides()[..axis]]);
        if sizes.is_empty() {
            sizes.push(1);
        }
        if sizes.len() > 5 {
            return Err(Error::shape(op, format!("{:?} has more than five axes that do not merge", x.shape())));
        }
        let (binding, offset) = x.binding_from();
        let run = x.shape()[axis] * n_inner;
        Rows {
            binding,
            dtype: x.dtype(),
            offset: offset as usize,
            sizes,
            strides: strides[0].iter().map(|s| s.cast_signed()).collect(),
            n_inner: run,
            stride_inner: 1,
        }
        .copy(&out, start, shape[axis] * n_inner)?;
        start += run;
    }
    Ok(out)
}

/// `x` with the order of these axes reversed, any element type.
///
/// # Errors
/// [`Error::Shape`] if there is no such axis, or past six axes that do not merge.
pub fn flip(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    for &axis in axes {
        check_axis("flip", x, axis)?;
    }
    let out = reordered("flip", &x.detach(), axes)?;
    let axes = axes.to_vec();
    Ok(record("flip", out, [x], move |d, _| Ok([Some(reordered("flip", d, &axes)?)])))
}

/// A row-major copy of `x` with the order of these axes reversed.
pub(in crate::ops) fn reordered(op: &'static str, x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let out = Tensor::empty(x.runtime(), x.shape(), x.dtype())?;
    if x.is_empty() {
        return Ok(out);
    }
    let (binding, offset) = x.binding_from();
    let mut offset = offset as usize;
    let (mut sizes, mut strides): (Vec<usize>, Vec<isize>) = (Vec::new(), Vec::new());
    let mut axis = 0;
    while axis < x.rank() {
        // Neighbours merge where both are reversed or neither is.
        let flipped = axes.contains(&axis);
        let end = (axis..x.rank()).find(|i| axes.contains(i) != flipped).unwrap_or(x.rank());
        let (merged, merged_strides) = collapse(&x.shape()[axis..end], &[&x.strides()[axis..end]]);
        for (n, stride) in merged.into_iter().zip(&merged_strides[0]) {
            offset += if flipped { (n - 1) * stride } else { 0 };
            sizes.push(n);
            strides.push(if flipped { -stride.cast_signed() } else { stride.cast_signed() });
        }
        axis = end;
    }
    if sizes.len() > 6 {
        return Err(Error::shape(op, format!("{:?} has more than six axes that do not merge", x.shape())));
    }
    let (n_inner, stride_inner) = (sizes.pop().unwrap_or(1), strides.pop().unwrap_or(1));
    Rows { binding, dtype: x.dtype(), offset, sizes, strides, n_inner, stride_inner }.copy(&out, 0, n_inner)?;
    Ok(out)
}

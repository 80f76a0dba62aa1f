//! Copies by index (embedding, selection, concatenation, padding, reversal, one-hot) and resizing.
//!
//! Indices are u32. An index past its axis counts as the axis's last one, so that nothing outside a tensor is ever
//! read; whoever loads indices from a file checks them there.

use crate::runtime::{
    Bind::{Read, Write},
    Binding, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/gather.wgsl");
const WG_SIZE: u32 = 64;
/// Units of a row that one invocation copies, about: enough to pay for finding the row.
const UNITS_PER_LANE: usize = 4;
/// Invocations that keep the cores of a software adapter busy.
const SOFTWARE_THREADS: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SelectParams {
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
struct RowsParams {
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

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PadParams {
    n_rows: u32,
    lanes_log2: u32,
    offset: u32,
    value: f32,
    out: [u32; 3],
    before: [u32; 3],
    sizes: [u32; 3],
    strides: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ResizeParams {
    n_pixels: u32,
    lanes_log2: u32,
    n_channels: u32,
    h_in: u32,
    w_in: u32,
    h_out: u32,
    w_out: u32,
    scale_y: f32,
    scale_x: f32,
    centre: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct OneHotParams {
    n_ids: u32,
    n_classes: u32,
}

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
    Ok(out)
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
    let Some(&first) = xs.first() else {
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
        return Ok((*x).clone());
    }
    let out = Tensor::empty(first.runtime(), &shape, first.dtype())?;
    let n_inner: usize = shape[axis + 1..].iter().product();
    let mut start = 0;
    for x in xs.iter().filter(|x| !x.is_empty()) {
        // Rows over the axes before `axis`, each a run from there on.
        let x = if is_run(x, axis..x.rank()) { (*x).clone() } else { x.contiguous()? };
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
    reordered("flip", x, axes)
}

/// A row-major copy of `x` with the order of these axes reversed.
pub(super) fn reordered(op: &'static str, x: &Tensor, axes: &[usize]) -> Result<Tensor> {
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
    let mut x = x.clone();
    for axes in padded.rchunks(3) {
        x = pad_axes(&x, axes, pads, value)?;
    }
    Ok(x)
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

/// `x` `[n, h, w, c]` resized to `[n, ho, wo, c]`, `out` being `[ho, wo]`, each value between its four neighbours by
/// distance. Enlarging and shrinking alike look at four pixels only: there is no smoothing before shrinking.
///
/// Without `align_corners` pixels are areas, and centres map to centres; with it the outermost pixels stay the outermost.
/// Both are those of PyTorch.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and pixels, [`Error::DType`] if it is not a float tensor.
pub fn resize_bilinear(x: &Tensor, out: [usize; 2], align_corners: bool) -> Result<Tensor> {
    const OP: &str = "resize_bilinear";
    if !x.dtype().is_float() {
        return Err(Error::dtype(OP, format!("{} given, a float type wanted", x.dtype())));
    }
    let scale = |n_in: usize, n_out: usize| match (align_corners, n_out) {
        (false, _) => n_in as f32 / n_out as f32,
        (true, 0 | 1) => 0.0,
        (true, _) => (n_in - 1) as f32 / (n_out - 1) as f32,
    };
    let centre = if align_corners { 0.0 } else { 0.5 };
    let types = [x.dtype()];
    resize(OP, x, out, scale, centre, |c| {
        if c.is_multiple_of(4) { (&BILINEAR_VEC4_FWD, types, 4) } else { (&BILINEAR_FWD, types, 1) }
    })
}

/// `x` `[n, h, w, c]` of any type resized to `[n, ho, wo, c]`, `out` being `[ho, wo]`: pixel `y, x` is that of
/// `x` at `floor(y h / ho)`, `floor(x w / wo)`, as PyTorch's `nearest`.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and pixels.
pub fn resize_nearest(x: &Tensor, out: [usize; 2]) -> Result<Tensor> {
    const OP: &str = "resize_nearest";
    let dtype = x.dtype();
    let scale = |n_in: usize, n_out: usize| n_in as f32 / n_out as f32;
    let channels = x.shape().last().copied().unwrap_or(0);
    if x.rank() == 4 && x.shape()[1] * x.shape()[2] > 0 && Unit::of(dtype, &[channels]) == Unit::Byte {
        // Pixels that fill no word: one axis after the other.
        let ids = |n_in: usize, n_out: usize| {
            let nearest = |i: usize| ((i as f32 * scale(n_in, n_out)) as usize).min(n_in - 1) as u32;
            Tensor::from_slice(x.runtime(), &(0..n_out).map(nearest).collect::<Vec<_>>(), &[n_out])
        };
        let rows = select(OP, x, 1, &ids(x.shape()[1], out[0])?)?;
        return select(OP, &rows, 2, &ids(x.shape()[2], out[1])?);
    }
    resize(OP, x, out, scale, 0.0, |c| {
        let unit = Unit::of(dtype, &[c]);
        let (kernel, types) = unit.pick([&NEAREST_VEC4_FWD, &NEAREST_FWD, &NEAREST_FWD]);
        (kernel, types, unit.bytes() / dtype.bytes())
    })
}

/// A resizing kernel over the pixels of `x`; `pick` answers, for the channels, the kernel, its element type and how many
/// channels it takes at once.
fn resize(
    op: &'static str,
    x: &Tensor,
    [h_out, w_out]: [usize; 2],
    scale: impl Fn(usize, usize) -> f32,
    centre: f32,
    pick: impl Fn(usize) -> (&'static Kernel, [DType; 1], usize),
) -> Result<Tensor> {
    let &[n, h_in, w_in, c] = x.shape() else {
        return Err(Error::shape(op, format!("{:?} does not fit [n, h, w, c]", x.shape())));
    };
    let out = Tensor::empty(x.runtime(), &[n, h_out, w_out, c], x.dtype())?;
    if out.is_empty() {
        return Ok(out);
    }
    if h_in * w_in == 0 {
        return Err(Error::shape(op, format!("{:?} has no pixels", x.shape())));
    }
    if [h_in, w_in] == [h_out, w_out] {
        return x.contiguous();
    }
    let x = x.contiguous()?;
    let (kernel, types, per_unit) = pick(c);
    let n_pixels = n * h_out * w_out;
    let n_channels = (c / per_unit) as u32;
    let (groups, lanes_log2) = Unit::Word.grid(x.runtime(), n_pixels, n_channels);
    x.runtime()
        .launch(kernel)
        .types(&types)
        .bind([x.binding(), out.binding()])
        .params(&ResizeParams {
            n_pixels: n_pixels as u32,
            lanes_log2,
            n_channels,
            h_in: h_in as u32,
            w_in: w_in as u32,
            h_out: h_out as u32,
            w_out: w_out as u32,
            scale_y: scale(h_in, h_out),
            scale_x: scale(w_in, w_out),
            centre,
        })
        .groups(groups)
        .cost(7 * out.len() as u64, size(x.len(), x.dtype()) + size(out.len(), x.dtype()))
        .run()?;
    Ok(out)
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

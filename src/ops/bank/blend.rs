//! Means of a bank's rows: of those that are named, and of all by their likeness to a query.

use super::search::chunk_rows;
use super::{WG_SIZE, kernel};
use crate::autograd::refuse;
use crate::ops::checks::need_one_device;
use crate::ops::elementwise::cast;
use crate::ops::gather::pad;
use crate::ops::matmul::matmul;
use crate::ops::reduce::REDUCE;
use crate::runtime::{
    Bind::{self, Read, Write},
    INDEX, Kernel,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};
use std::sync::Arc;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MeanParams {
    n: u32,
    k: u32,
    n_vec4: u32,
    n_rows: u32,
}

pub(super) const MEAN_FWD: Kernel =
    kernel("bank_mean_fwd", &[Read, Read, Write]).params::<MeanParams>().types(&["Elem"], &[&[DType::F32, DType::F16]]);

const SOURCE: &str = include_str!("../../../shaders/bank_blend.wgsl");
/// Invocations of a workgroup that takes a query each.
const ROWS_SIZE: u64 = 8;
/// Rows of a chunk at most: two loops over a quarter of them stay within what software adapters go round.
const LONGEST_CHUNK: usize = 1 << 16;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct WeighParams {
    n_rows: u32,
    n_vec4: u32,
    n_cols: u32,
    goes_on: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BlendParams {
    n_rows: u32,
    n_cols: u32,
    goes_on: u32,
    is_last: u32,
}

const fn blend<P: bytemuck::Pod>(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("bank_blend", entry, SOURCE, binds)
        .commons(&[INDEX, REDUCE])
        .types(&["Elem", "Acc"], &[&[DType::F32], &[DType::F32]])
        .params::<P>()
}

pub(super) const WEIGH_ROWS_FWD: Kernel = blend::<WeighParams>("weigh_rows_fwd", &[Write, Write, Write]);
pub(super) const WEIGH_GROUPS_FWD: Kernel = blend::<WeighParams>("weigh_groups_fwd", &[Write, Write, Write]);
pub(super) const BLEND_FWD: Kernel = blend::<BlendParams>("blend_fwd", &[Read, Read, Write]);

/// The mean of the rows of `bank` `[m, d]`, f32 or f16, that `rows` u32 `[b, k]` names: f32 `[b, d]`, `d` a multiple of 4. Numbers
/// past the last row, such as [`super::NONE`], do not count; of none at all the mean is 0.
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

/// The mean of `values` `[m, dv]` by the softmax of the inner products of each of the queries f32 `[b, d]` with `keys`
/// `[m, d]` over a temperature, and the logarithm of the sum that it divides by: with `lse = log sum_j exp(<q, key_j> / T)`,
/// `mean = sum_j exp(<q, key_j> / T - lse) value_j`; mean f32 `[b, dv]`, lse f32 `[b]`. Keys and values are f32 or f16, and
/// may be one tensor, which is then converted once.
///
/// Where values are the keys, the mean over `T` is the gradient of lse with respect to the query. f16 is converted whole;
/// products and sums are f32. The products of a chunk of the keys are all that is kept, as in [`super::nearest`].
///
/// # Errors
/// [`Error::Argument`] unless the temperature is a positive number and there are keys, or if a gradient is wanted,
/// [`Error::Shape`] or [`Error::DType`] if the tensors do not fit.
pub fn softmax_mean(queries: &Tensor, keys: &Tensor, values: &Tensor, temperature: f32) -> Result<(Tensor, Tensor)> {
    const OP: &str = "softmax_mean";
    refuse(OP, &[queries, keys, values])?;
    let dims = check(OP, &[("queries", queries, "b d"), ("keys", keys, "m d"), ("values", values, "m v")])?;
    need_one_device(OP, queries, [keys, values])?;
    if queries.dtype() != DType::F32 || !keys.dtype().is_float() || !values.dtype().is_float() {
        let given = format!("queries {}, keys {}, values {}", queries.dtype(), keys.dtype(), values.dtype());
        return Err(Error::dtype(OP, format!("{given} given, f32 and two float types wanted")));
    }
    let (b, m, d, n_cols) = (dims.get("b"), dims.get("m"), dims.get("d"), dims.get("v"));
    let scale = temperature.recip();
    if !(temperature > 0.0 && scale.is_finite() && scale > 0.0) || m == 0 {
        let wanted = "a temperature above 0 and at least one key wanted";
        return Err(Error::argument(OP, format!("temperature {temperature} and {m} keys given, {wanted}")));
    }
    let runtime = queries.runtime();
    let (mean, lse) = (Tensor::empty(runtime, &[b, n_cols], DType::F32)?, Tensor::empty(runtime, &[b], DType::F32)?);
    if b == 0 {
        return Ok((mean, lse));
    }
    let state = Tensor::empty(runtime, &[b, 4], DType::F32)?;
    let shared = is_same(keys, values);
    let converted = |x: &Tensor, width: usize| if x.dtype() == DType::F32 { 0 } else { 4 * width };
    let bytes = 4 * b + converted(keys, d) + if shared { 0 } else { converted(values, n_cols) };
    let chunk = chunk_rows(bytes, m).min(LONGEST_CHUNK);
    let (kernel, groups) = if runtime.profile().is_software() {
        (&WEIGH_ROWS_FWD, (b as u64).div_ceil(ROWS_SIZE))
    } else {
        (&WEIGH_GROUPS_FWD, b as u64)
    };
    for first in (0..m).step_by(chunk) {
        let n = chunk.min(m - first);
        let goes_on = u32::from(first > 0);
        let keys = part(keys, first, n)?;
        let values = if shared { keys.clone() } else { part(values, first, n)? };
        let z = matmul(queries, &keys.transpose()?)?;
        let n_vec4 = n.div_ceil(4);
        runtime
            .launch(kernel)
            .types(&[DType::F32; 2])
            .bind([z.binding(), state.binding(), lse.binding()])
            .params(&WeighParams { n_rows: b as u32, n_vec4: n_vec4 as u32, n_cols: n as u32, goes_on, scale })
            .groups(groups)
            .rounds(2 * n_vec4 + 2)
            .cost(6 * (b * n) as u64, 8 * (b * n) as u64)
            .run()?;
        let sums = matmul(&z, &values)?;
        let is_last = u32::from(first + n == m);
        runtime
            .launch(&BLEND_FWD)
            .types(&[DType::F32; 2])
            .bind([sums.binding(), state.binding(), mean.binding()])
            .params(&BlendParams { n_rows: b as u32, n_cols: n_cols as u32, goes_on, is_last })
            .groups(b as u64)
            .rounds(n_cols.div_ceil(WG_SIZE as usize) + 1)
            .cost(2 * mean.len() as u64, 12 * mean.len() as u64)
            .run()?;
    }
    Ok((mean, lse))
}

/// Whether both are the same elements of the same memory.
fn is_same(a: &Tensor, b: &Tensor) -> bool {
    let place = |x: &Tensor| (x.shape().to_vec(), x.strides().to_vec(), x.offset(), x.dtype());
    place(a) == place(b) && Arc::ptr_eq(&a.binding_from().0.buffer, &b.binding_from().0.buffer)
}

/// The `n` rows from `first` on in f32, and rows of zeros up to a multiple of 4.
fn part(x: &Tensor, first: usize, n: usize) -> Result<Tensor> {
    let part = x.slice(0, first..first + n)?;
    let part = if x.dtype() == DType::F32 { part } else { cast(&part, DType::F32)? };
    let missing = n.next_multiple_of(4) - n;
    if missing == 0 { Ok(part) } else { pad(&part, &[(0, missing), (0, 0)], 0.0) }
}

//! Means of a bank's rows: of those that are named, and of all by their likeness to a query.

use super::{WG_SIZE, kernel};
use crate::autograd::refuse;
use crate::ops::checks::need_one_device;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

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

//! Softmax over the last axis, its logarithm, log-sum-exp and cross-entropy.
//!
//! All subtract the maximum of the row first, so that no finite input overflows, and take sums in f32. A row that holds
//! a NaN or +infinity comes out as NaN, as in PyTorch. An element of -infinity has probability 0; a row of nothing but
//! -infinity has no softmax: what comes out is NaN or uniform, by adapter.

use super::checks::{need_float, need_one_device};
use super::rows::{ALONE_SIZES, RowVariant, SHARED_SIZES};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/softmax.wgsl");
const COMMONS: &[Common] = &[INDEX, super::reduce::REDUCE];
const ALIASES: &[&str] = &["Elem", "Acc"];
const TYPES: &[&[DType]] = &[&[DType::F32, DType::F16], &[DType::F32]];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SoftmaxParams {
    n_rows: u32,
    n_cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LossParams {
    n_rows: u32,
    n_cols: u32,
    smoothing: f32,
}

const fn softmax_kernel(entry: &'static str) -> Kernel {
    Kernel::new("softmax", entry, SOURCE, &[Read, Write])
        .commons(COMMONS)
        .types(ALIASES, TYPES)
        .params::<SoftmaxParams>()
}

const fn loss_kernel(entry: &'static str) -> Kernel {
    Kernel::new("softmax", entry, SOURCE, &[Read, Read, Write])
        .commons(COMMONS)
        .types(ALIASES, TYPES)
        .params::<LossParams>()
}

const ALONE: &[(&str, &[u32])] = &[("WG_SIZE", ALONE_SIZES), ("OP", &[0, 1])];
const SHARED: &[(&str, &[u32])] = &[("WG_SIZE", SHARED_SIZES), ("OP", &[0, 1])];

const SOFTMAX_VEC4_FWD: Kernel = softmax_kernel("softmax_vec4_fwd").overrides(ALONE);
const SOFTMAX_ROWS_FWD: Kernel = softmax_kernel("softmax_rows_fwd").overrides(ALONE);
const SOFTMAX_GROUP_FWD: Kernel = softmax_kernel("softmax_group_fwd").overrides(SHARED);
const SOFTMAX_SUBGROUP_FWD: Kernel = softmax_kernel("softmax_subgroup_fwd").overrides(SHARED).needs(&[Need::Subgroup]);
const LOSS_ROWS_FWD: Kernel = loss_kernel("loss_rows_fwd").overrides(ALONE);
const LOSS_GROUP_FWD: Kernel = loss_kernel("loss_group_fwd").overrides(SHARED);
const LOSS_SUBGROUP_FWD: Kernel = loss_kernel("loss_subgroup_fwd").overrides(SHARED).needs(&[Need::Subgroup]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    SOFTMAX_VEC4_FWD,
    SOFTMAX_ROWS_FWD,
    SOFTMAX_GROUP_FWD,
    SOFTMAX_SUBGROUP_FWD,
    LOSS_ROWS_FWD,
    LOSS_GROUP_FWD,
    LOSS_SUBGROUP_FWD,
];

/// Rows and columns of `x` `[.., n]`.
fn rows_of(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    need_float(op, x)?;
    let dims = check(op, &[("x", x, ".. n")])?;
    Ok((dims.get(".."), dims.get("n")))
}

fn rows_like(op: &'static str, code: u32, variant: Option<RowVariant>, x: &Tensor) -> Result<Tensor> {
    let (n_rows, n_cols) = rows_of(op, x)?;
    let x = x.contiguous()?;
    let out = Tensor::empty(x.runtime(), x.shape(), x.dtype())?;
    if out.is_empty() {
        return Ok(out);
    }
    let runtime = x.runtime();
    // A row is read twice, sixteen at a time; in fours or not, one row or up to four are an invocation's.
    let alone = if n_cols.is_multiple_of(4) { n_cols / 8 + 16 } else { n_rows.min(4) * (n_cols / 8 + 16) };
    let variant = variant.unwrap_or_else(|| RowVariant::choose_within(runtime.profile(), n_cols, alone));
    let (kernel, n_threads) = match variant {
        RowVariant::Invocation if n_cols.is_multiple_of(4) => (&SOFTMAX_VEC4_FWD, n_rows),
        RowVariant::Invocation => (&SOFTMAX_ROWS_FWD, n_rows.div_ceil(4)),
        RowVariant::Group => (&SOFTMAX_GROUP_FWD, n_rows),
        RowVariant::Subgroup => (&SOFTMAX_SUBGROUP_FWD, n_rows),
    };
    let (wg_size, groups) = variant.grid(runtime, n_threads, n_cols);
    runtime
        .launch(kernel)
        .types(&[x.dtype(), DType::F32])
        .overrides(&[("WG_SIZE", wg_size), ("OP", code)])
        .bind([x.binding(), out.binding()])
        .params(&SoftmaxParams { n_rows: n_rows as u32, n_cols: n_cols as u32 })
        .groups(groups)
        .rounds(variant.rounds(n_cols, alone, 5))
        .cost(5 * x.len() as u64, 2 * (x.len() * x.dtype().bytes()) as u64)
        .run()?;
    Ok(out)
}

/// Softmax over the last axis: `[.., n]` to the same shape, each row summing to 1.
///
/// # Errors
/// [`Error::Shape`] if `x` has no axis, [`Error::DType`] if it is not a float tensor, [`Error::Limit`] on software
/// adapters for rows of more than thirteen million elements.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    rows_like("softmax", 0, None, x)
}

/// As [`softmax`], by a given variant.
///
/// # Errors
/// As [`softmax`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn softmax_with(variant: RowVariant, x: &Tensor) -> Result<Tensor> {
    rows_like("softmax", 0, Some(variant), x)
}

/// Logarithm of the softmax over the last axis, `x - log sum e^x`: `[.., n]` to the same shape.
///
/// # Errors
/// As [`softmax`].
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    rows_like("log_softmax", 1, None, x)
}

/// As [`log_softmax`], by a given variant.
///
/// # Errors
/// As [`softmax_with`].
pub fn log_softmax_with(variant: RowVariant, x: &Tensor) -> Result<Tensor> {
    rows_like("log_softmax", 1, Some(variant), x)
}

/// One number per row, or, with labels, the losses and the log-sum-exps `[2, r]`; always f32.
fn loss(
    op: &'static str,
    variant: Option<RowVariant>,
    x: &Tensor,
    labels: Option<&Tensor>,
    smoothing: f32,
) -> Result<Tensor> {
    let (n_rows, n_cols) = rows_of(op, x)?;
    if n_cols == 0 {
        return Err(Error::shape(op, format!("{:?} has rows without elements", x.shape())));
    }
    let x = x.contiguous()?;
    let runtime = x.runtime();
    let shape = if labels.is_some() { vec![2, n_rows] } else { x.shape()[..x.rank() - 1].to_vec() };
    let out = Tensor::empty(runtime, &shape, DType::F32)?;
    if out.is_empty() {
        return Ok(out);
    }
    let alone = n_cols / 16 + 8;
    let variant = variant.unwrap_or_else(|| RowVariant::choose_within(runtime.profile(), n_cols, alone));
    let kernel = match variant {
        RowVariant::Invocation => &LOSS_ROWS_FWD,
        RowVariant::Group => &LOSS_GROUP_FWD,
        RowVariant::Subgroup => &LOSS_SUBGROUP_FWD,
    };
    let (wg_size, groups) = variant.grid(runtime, n_rows, n_cols);
    runtime
        .launch(kernel)
        .types(&[x.dtype(), DType::F32])
        .overrides(&[("WG_SIZE", wg_size), ("OP", u32::from(labels.is_some()))])
        .bind([x.binding(), labels.unwrap_or(&x).binding(), out.binding()])
        .params(&LossParams { n_rows: n_rows as u32, n_cols: n_cols as u32, smoothing })
        .groups(groups)
        .rounds(variant.rounds(n_cols, alone, 1))
        .cost(4 * x.len() as u64, (x.len() * x.dtype().bytes() + 8 * n_rows) as u64)
        .run()?;
    Ok(out)
}

/// `log sum e^x` over the last axis: `[.., n]` to f32 `[..]`, n at least 1.
///
/// # Errors
/// [`Error::Shape`] if `x` has no axis or rows without elements, [`Error::DType`] if it is not a float tensor.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    loss("log_sum_exp", None, x, None, 0.0)
}

/// As [`log_sum_exp`], by a given variant.
///
/// # Errors
/// As [`log_sum_exp`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn log_sum_exp_with(variant: RowVariant, x: &Tensor) -> Result<Tensor> {
    loss("log_sum_exp", Some(variant), x, None, 0.0)
}

/// Cross-entropy of each row: logits `[r, n]` and labels u32 `[r]`, each below n, to f32 `[r]`.
///
/// The target is `1 - smoothing` on the label plus `smoothing / n` on every class, the label included; `smoothing` lies
/// in 0..=1. The probabilities are never stored. Labels are checked where they are loaded, not here: one that is too
/// large counts as the last class.
///
/// # Errors
/// [`Error::Shape`] if the sizes differ or there is no class, [`Error::DType`] unless the logits are floats and the
/// labels u32, [`Error::Argument`] if `smoothing` is out of range or the devices differ.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f32) -> Result<Tensor> {
    Ok(cross_entropy_with(None, logits, labels, smoothing)?.0)
}

/// As [`cross_entropy`], by a given variant, or the one the op would choose; also the log-sum-exp of each row `[r]`,
/// which a backward pass needs.
///
/// # Errors
/// As [`cross_entropy`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn cross_entropy_with(
    variant: Option<RowVariant>,
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f32,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "cross_entropy";
    let n_rows = check(OP, &[("logits", logits, "r n"), ("labels", labels, "r")])?.get("r");
    need_one_device(OP, logits, [labels])?;
    if labels.dtype() != DType::U32 {
        return Err(Error::dtype(OP, format!("labels are {}, u32 wanted", labels.dtype())));
    }
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::argument(OP, format!("smoothing {smoothing} given, 0 to 1 wanted")));
    }
    let both = loss(OP, variant, logits, Some(&labels.contiguous()?), smoothing)?;
    let row = |i: usize| both.slice(0, i..i + 1)?.reshape(&[n_rows]);
    Ok((row(0)?, row(1)?))
}

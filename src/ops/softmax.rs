//! Softmax over the last axis, its logarithm, log-sum-exp and cross-entropy.
//!
//! All subtract the maximum of the row first, so that no finite input overflows, and take sums in f32. A row that holds
//! a NaN or +infinity comes out as NaN, as in PyTorch. An element of -infinity has probability 0; a row of nothing but
//! -infinity has no softmax: what comes out is NaN or uniform, by adapter.

use super::checks::{need_float, need_one_device};
use super::rows::{ALONE_SIZES, RowTrial, RowVariant, SHARED_SIZES, alone_grid};
use super::tune::noise;
use super::{elementwise, reduce};
use crate::autograd::record;
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/softmax.wgsl");
const COMMONS: &[Common] = &[INDEX, reduce::REDUCE];
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

const fn softmax_bwd(entry: &'static str) -> Kernel {
    Kernel::new("softmax", entry, SOURCE, &[Read, Read, Write])
        .commons(COMMONS)
        .types(ALIASES, TYPES)
        .params::<SoftmaxParams>()
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
const SOFTMAX_VEC4_BWD: Kernel = softmax_bwd("softmax_vec4_bwd").overrides(ALONE);
const SOFTMAX_ROWS_BWD: Kernel = softmax_bwd("softmax_rows_bwd").overrides(ALONE);
const SOFTMAX_GROUP_BWD: Kernel = softmax_bwd("softmax_group_bwd").overrides(SHARED);
const LOSS_BWD: Kernel = Kernel::new("softmax", "loss_bwd", SOURCE, &[Read, Read, Read, Read, Write])
    .commons(COMMONS)
    .types(ALIASES, TYPES)
    .params::<LossParams>()
    .overrides(&[("WG_SIZE", ALONE_SIZES), ("OP", &[0, 1]), ("WHOLE", &[0, 1])]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    SOFTMAX_VEC4_FWD,
    SOFTMAX_ROWS_FWD,
    SOFTMAX_GROUP_FWD,
    SOFTMAX_SUBGROUP_FWD,
    LOSS_ROWS_FWD,
    LOSS_GROUP_FWD,
    LOSS_SUBGROUP_FWD,
    SOFTMAX_VEC4_BWD,
    SOFTMAX_ROWS_BWD,
    SOFTMAX_GROUP_BWD,
    LOSS_BWD,
];

/// Rows and columns of `x` `[.., n]`.
fn rows_of(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    need_float(op, x)?;
    let dims = check(op, &[("x", x, ".. n")])?;
    Ok((dims.get(".."), dims.get("n")))
}

fn rows_like(op: &'static str, code: u32, variant: Option<RowVariant>, x: &Tensor) -> Result<Tensor> {
    let out = mapped(op, code, variant, &x.detach())?;
    if !x.needs_grad() || out.is_empty() {
        return Ok(out);
    }
    let saved = out.clone();
    Ok(record(op, out, [x], move |d, _| Ok([Some(mapped_back(code, variant, &saved, d)?)])))
}

/// The gradient of `x` from the result and its gradient.
fn mapped_back(code: u32, variant: Option<RowVariant>, out: &Tensor, d: &Tensor) -> Result<Tensor> {
    let runtime = out.runtime();
    let d = d.contiguous()?;
    let d_x = Tensor::empty(runtime, out.shape(), out.dtype())?;
    let n_cols = out.shape()[out.rank() - 1];
    let n_rows = out.len() / n_cols;
    let alone = if n_cols.is_multiple_of(4) { 3 * n_cols / 8 + 8 } else { 2 * n_cols + 8 };
    let back = |variant, out: &Tensor, d: &Tensor| Ok(vec![mapped_back(code, Some(variant), out, d)?]);
    let trial = RowTrial {
        op: "softmax_bwd",
        dtype: out.dtype(),
        n_rows,
        n_cols,
        alone,
        exact: code,
        subgroups: false,
        kernels: KERNELS,
        run: &|variant| back(variant, out, &d),
        probe: &|variant, shape| {
            let x = noise(runtime, &shape, out.dtype())?;
            back(variant, &x, &x)
        },
    };
    let variant = variant.unwrap_or_else(|| trial.choose(runtime));
    let kernel = match variant {
        RowVariant::Invocation if n_cols.is_multiple_of(4) => &SOFTMAX_VEC4_BWD,
        RowVariant::Invocation => &SOFTMAX_ROWS_BWD,
        RowVariant::Group | RowVariant::Subgroup => &SOFTMAX_GROUP_BWD,
    };
    let (wg_size, groups) = variant.grid(runtime, n_rows, n_cols);
    runtime
        .launch(kernel)
        .types(&[out.dtype(), DType::F32])
        .overrides(&[("WG_SIZE", wg_size), ("OP", code)])
        .bind([out.binding(), d.binding(), d_x.binding()])
        .params(&SoftmaxParams { n_rows: n_rows as u32, n_cols: n_cols as u32 })
        .groups(groups)
        .rounds(variant.rounds(n_cols, alone, 8))
        .cost(4 * out.len() as u64, 3 * (out.len() * out.dtype().bytes()) as u64)
        .run()?;
    Ok(d_x)
}

fn mapped(op: &'static str, code: u32, variant: Option<RowVariant>, x: &Tensor) -> Result<Tensor> {
    let (n_rows, n_cols) = rows_of(op, x)?;
    let x = x.contiguous()?;
    let out = Tensor::empty(x.runtime(), x.shape(), x.dtype())?;
    if out.is_empty() {
        return Ok(out);
    }
    let runtime = x.runtime();
    // A row is read twice, sixteen at a time; in fours or not, one row or up to four are an invocation's.
    let alone = if n_cols.is_multiple_of(4) { n_cols / 8 + 16 } else { n_rows.min(4) * (n_cols / 8 + 16) };
    let by = |variant, x: &Tensor| Ok(vec![mapped(op, code, Some(variant), x)?]);
    let trial = RowTrial {
        op: "softmax",
        dtype: x.dtype(),
        n_rows,
        n_cols,
        alone,
        exact: code,
        subgroups: true,
        kernels: KERNELS,
        run: &|variant| by(variant, &x),
        probe: &|variant, shape| by(variant, &noise(runtime, &shape, x.dtype())?),
    };
    let variant = variant.unwrap_or_else(|| trial.choose(runtime));
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

/// As [`softmax`], forward and backward by a given variant; the backward pass takes the one for workgroups where
/// subgroups are asked for.
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

/// As [`log_softmax`], by a given variant, as [`softmax_with`].
///
/// # Errors
/// As [`softmax_with`].
pub fn log_softmax_with(variant: RowVariant, x: &Tensor) -> Result<Tensor> {
    rows_like("log_softmax", 1, Some(variant), x)
}

/// One number per row, or, with labels, the losses, the log-sum-exps and what these are the sums of, `[4, r]`; always f32.
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
    let shape = if labels.is_some() { vec![4, n_rows] } else { x.shape()[..x.rank() - 1].to_vec() };
    let out = Tensor::empty(runtime, &shape, DType::F32)?;
    if out.is_empty() {
        return Ok(out);
    }
    let alone = n_cols / 16 + 8;
    let by = |variant, x: &Tensor, labels: Option<&Tensor>| Ok(vec![loss(op, Some(variant), x, labels, smoothing)?]);
    let trial = RowTrial {
        op: "cross_entropy",
        dtype: x.dtype(),
        n_rows,
        n_cols,
        alone,
        exact: u32::from(labels.is_some()),
        subgroups: true,
        kernels: KERNELS,
        run: &|variant| by(variant, &x, labels),
        probe: &|variant, shape| {
            // Past the last class most of them, which counts as the last.
            let classes = labels.map(|_| noise(runtime, &shape[..1], DType::U32)).transpose()?;
            by(variant, &noise(runtime, &shape, x.dtype())?, classes.as_ref())
        },
    };
    let variant = variant.unwrap_or_else(|| trial.choose(runtime));
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

/// The gradient of the logits `x` from that of [`loss`], `[r]`; `out` is what it gave.
fn loss_back(x: &Tensor, labels: Option<&Tensor>, smoothing: f32, out: &Tensor, d: &Tensor) -> Result<Tensor> {
    let runtime = x.runtime();
    let d = d.contiguous()?;
    let d_x = Tensor::empty(runtime, x.shape(), x.dtype())?;
    let n_cols = x.shape()[x.rank() - 1];
    let n_rows = x.len() / n_cols;
    let (wg_size, groups) = alone_grid(runtime, x.len().div_ceil(4));
    runtime
        .launch(&LOSS_BWD)
        .types(&[x.dtype(), DType::F32])
        .overrides(&[
            ("WG_SIZE", wg_size),
            ("OP", u32::from(labels.is_some())),
            ("WHOLE", u32::from(n_cols.is_multiple_of(4))),
        ])
        .bind([x, labels.unwrap_or(x), out, &d, &d_x].map(Tensor::binding))
        .params(&LossParams { n_rows: n_rows as u32, n_cols: n_cols as u32, smoothing })
        .groups(groups)
        .cost(4 * x.len() as u64, 2 * (x.len() * x.dtype().bytes()) as u64)
        .run()?;
    Ok(d_x)
}

fn recorded_log_sum_exp(variant: Option<RowVariant>, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "log_sum_exp";
    let x_in = x.detach().contiguous()?;
    let out = loss(OP, variant, &x_in, None, 0.0)?;
    if !x.needs_grad() || out.is_empty() {
        return Ok(out);
    }
    let saved = out.clone();
    Ok(record(OP, out, [x], move |d, _| Ok([Some(loss_back(&x_in, None, 0.0, &saved, d)?)])))
}

/// `log sum e^x` over the last axis: `[.., n]` to f32 `[..]`, n at least 1.
///
/// # Errors
/// [`Error::Shape`] if `x` has no axis or rows without elements, [`Error::DType`] if it is not a float tensor.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    recorded_log_sum_exp(None, x)
}

/// As [`log_sum_exp`], by a given variant.
///
/// # Errors
/// As [`log_sum_exp`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn log_sum_exp_with(variant: RowVariant, x: &Tensor) -> Result<Tensor> {
    recorded_log_sum_exp(Some(variant), x)
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
/// without a history.
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
    let (x, labels) = (logits.detach().contiguous()?, labels.contiguous()?);
    let both = loss(OP, variant, &x, Some(&labels), smoothing)?;
    let row = |i: usize| both.slice(0, i..i + 1)?.reshape(&[n_rows]);
    let (losses, lse) = (row(0)?, row(1)?);
    if losses.is_empty() {
        return Ok((losses, lse));
    }
    let back = move |d: &Tensor, _| Ok([Some(loss_back(&x, Some(&labels), smoothing, &both, d)?)]);
    Ok((record(OP, losses, [logits], back), lse))
}

/// Cross-entropy of each row against a distribution: `-sum of targets log_softmax(logits)` for logits and targets
/// `[r, n]` of one type, to `[r]`. The targets of a row need not sum to 1; gradients flow to them, too.
///
/// # Errors
/// [`Error::Shape`] if the sizes differ, [`Error::DType`] unless both are of one float type, [`Error::Argument`] if the
/// devices differ.
pub fn cross_entropy_soft(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy_soft";
    check(OP, &[("logits", logits, "r n"), ("targets", targets, "r n")])?;
    need_one_device(OP, logits, [targets])?;
    if logits.dtype() != targets.dtype() {
        return Err(Error::dtype(OP, format!("logits are {}, targets {}", logits.dtype(), targets.dtype())));
    }
    // Not the log-sum-exp less the inner product of targets and logits: both may be large and close.
    let terms = elementwise::mul(&log_softmax(logits)?, targets)?;
    elementwise::neg(&reduce::sum(&terms, &[1], false)?)
}

//! Normalisation: layer, RMS, group and batch norm.
//!
//! Variances are population variances, from differences to the mean, so that a mean far from 0 costs no digits. A row
//! (for group norm, a sample's group) that holds a NaN or an infinity comes out as NaN, as in PyTorch. The parameters
//! are f32 or f16, all of one type, whatever the type of `x`; the arithmetic is f32.

mod backward;
pub(super) mod channels;

pub use channels::{
    ChannelVariant, batch_norm, batch_norm_train, batch_norm_train_with, group_norm, update_running_stats,
};

use backward::{NORM_GROUP_BWD, NORM_ROWS_BWD, NORM_VEC4_BWD, RowBackward};

use super::checks::{need_float, need_one_device};
use super::reduce;
use super::rows::{ALONE_SIZES, RowTrial, RowVariant, SHARED_SIZES};
use super::tune::noise;
use crate::autograd::{record, wants};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/norm.wgsl");
const COMMONS: &[Common] = &[INDEX, reduce::REDUCE];
const ALIASES: &[&str] = &["Elem", "Param", "Acc"];
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const TYPES: &[&[DType]] = &[FLOATS, FLOATS, &[DType::F32]];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct NormParams {
    n_rows: u32,
    n_cols: u32,
    eps: f32,
}

const fn norm_kernel(entry: &'static str) -> Kernel {
    Kernel::new("norm", entry, SOURCE, &[Read, Read, Read, Write])
        .commons(COMMONS)
        .types(ALIASES, TYPES)
        .params::<NormParams>()
}

const ALONE: &[(&str, &[u32])] = &[("WG_SIZE", ALONE_SIZES), ("OP", &[0, 1]), ("GAIN", &[0, 1]), ("BIAS", &[0, 1])];
const SHARED: &[(&str, &[u32])] = &[("WG_SIZE", SHARED_SIZES), ("OP", &[0, 1]), ("GAIN", &[0, 1]), ("BIAS", &[0, 1])];

const NORM_VEC4_FWD: Kernel = norm_kernel("norm_vec4_fwd").overrides(ALONE);
const NORM_ROWS_FWD: Kernel = norm_kernel("norm_rows_fwd").overrides(ALONE);
const NORM_GROUP_FWD: Kernel = norm_kernel("norm_group_fwd").overrides(SHARED);
const NORM_SUBGROUP_FWD: Kernel = norm_kernel("norm_subgroup_fwd").overrides(SHARED).needs(&[Need::Subgroup]);

/// The kernels of the norms over rows.
pub const KERNELS: &[Kernel] =
    &[NORM_VEC4_FWD, NORM_ROWS_FWD, NORM_GROUP_FWD, NORM_SUBGROUP_FWD, NORM_VEC4_BWD, NORM_ROWS_BWD, NORM_GROUP_BWD];

/// Checks devices and types of `x` and its parameters; answers the parameters' type.
fn check_params(op: &'static str, x: &Tensor, params: &[(&str, &Tensor)]) -> Result<DType> {
    need_float(op, x)?;
    need_one_device(op, x, params.iter().map(|(_, tensor)| *tensor))?;
    let Some((_, first)) = params.first() else { return Ok(DType::F32) };
    for (name, tensor) in params {
        if !tensor.dtype().is_float() || tensor.dtype() != first.dtype() {
            let wanted = "one float type for all parameters wanted";
            return Err(Error::dtype(op, format!("{name} is {}, {wanted}", tensor.dtype())));
        }
    }
    Ok(first.dtype())
}

/// An error unless `eps` is a number not below 0.
fn check_eps(op: &'static str, eps: f32) -> Result<()> {
    if eps >= 0.0 { Ok(()) } else { Err(Error::argument(op, format!("eps {eps} given, 0 or more wanted"))) }
}

/// Which norm over rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowNorm {
    /// `(x - mean) / sqrt(var + eps)`.
    Layer,
    /// `x / sqrt(mean of x^2 + eps)`.
    Rms,
}

impl RowNorm {
    fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer_norm",
            Self::Rms => "rms_norm",
        }
    }
}

/// A norm over the last axis, forward and backward by a given variant, or the one the op would choose: `x` `[.., n]`,
/// `gain` and `bias` `[n]`, to the shape of `x`.
///
/// The backward pass has no variant of its own for subgroups: it takes the one for workgroups.
///
/// # Errors
/// As [`layer_norm`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn row_norm_with(
    variant: Option<RowVariant>,
    norm: RowNorm,
    x: &Tensor,
    gain: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Tensor> {
    let (x_in, gain_in, bias_in) = (x.detach(), gain.map(Tensor::detach), bias.map(Tensor::detach));
    let out = normalised(variant, norm, &x_in, gain_in.as_ref(), bias_in.as_ref(), eps)?;
    let inputs = [x, gain.unwrap_or(x), bias.unwrap_or(x)];
    if !wants(&inputs) || out.is_empty() {
        return Ok(out);
    }
    let wanted = [gain, bias].map(|param| param.filter(|param| param.needs_grad()).map(Tensor::dtype));
    let backward = RowBackward { variant, norm, x: x_in, gain: gain_in, eps, wanted };
    Ok(record(norm.name(), out, inputs, move |d, _| backward.run(d)))
}

fn normalised(
    variant: Option<RowVariant>,
    norm: RowNorm,
    x: &Tensor,
    gain: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Tensor> {
    let op = norm.name();
    let params: Vec<(&str, &Tensor)> =
        [("gain", gain), ("bias", bias)].into_iter().filter_map(|(name, tensor)| Some((name, tensor?))).collect();
    let param_type = check_params(op, x, &params)?;
    check_eps(op, eps)?;
    let patterns: Vec<_> =
        [("x", x, ".. n")].into_iter().chain(params.iter().map(|(name, tensor)| (*name, *tensor, "n"))).collect();
    let dims = check(op, &patterns)?;
    let (n_rows, n_cols) = (dims.get(".."), dims.get("n"));
    let x = x.contiguous()?;
    let runtime = x.runtime();
    let out = Tensor::empty(runtime, x.shape(), x.dtype())?;
    if out.is_empty() {
        return Ok(out);
    }
    // Statistics once or twice, four at a time where rows are in fours, then the results.
    let readings = if norm == RowNorm::Layer { 2 } else { 1 };
    let alone = if n_cols.is_multiple_of(4) { n_cols / 2 + 32 } else { (readings + 1) * n_cols + 8 };
    let code = u32::from(norm == RowNorm::Rms) | u32::from(gain.is_some()) << 1 | u32::from(bias.is_some()) << 2;
    let trial = RowTrial {
        op: "row_norm",
        dtype: x.dtype(),
        n_rows,
        n_cols,
        alone,
        exact: code,
        subgroups: true,
        kernels: KERNELS,
        run: &|variant| Ok(vec![normalised(Some(variant), norm, &x, gain, bias, eps)?]),
        probe: &|variant, shape| {
            let x = noise(runtime, &shape, x.dtype())?;
            let param = noise(runtime, &shape[1..], param_type)?;
            let [gain, bias] = [gain, bias].map(|given| given.map(|_| &param));
            Ok(vec![normalised(Some(variant), norm, &x, gain, bias, eps)?])
        },
    };
    let variant = variant.unwrap_or_else(|| trial.choose(runtime));
    let (kernel, n_threads) = match variant {
        RowVariant::Invocation if n_cols.is_multiple_of(4) => (&NORM_VEC4_FWD, n_rows.div_ceil(4)),
        RowVariant::Invocation => (&NORM_ROWS_FWD, n_rows),
        RowVariant::Group => (&NORM_GROUP_FWD, n_rows),
        RowVariant::Subgroup => (&NORM_SUBGROUP_FWD, n_rows),
    };
    let (wg_size, groups) = variant.grid(runtime, n_threads, n_cols);
    // What is not there is never read, but something must be bound in its place.
    let bound = |param: Option<&Tensor>| param.map_or_else(|| Ok(x.clone()), Tensor::contiguous);
    let (bound_gain, bound_bias) = (bound(gain)?, bound(bias)?);
    runtime
        .launch(kernel)
        .types(&[x.dtype(), param_type, DType::F32])
        .overrides(&[
            ("WG_SIZE", wg_size),
            ("OP", u32::from(norm == RowNorm::Rms)),
            ("GAIN", u32::from(gain.is_some())),
            ("BIAS", u32::from(bias.is_some())),
        ])
        .bind([x.binding(), bound_gain.binding(), bound_bias.binding(), out.binding()])
        .params(&NormParams { n_rows: n_rows as u32, n_cols: n_cols as u32, eps })
        .groups(groups)
        .rounds(variant.rounds(n_cols, alone, 4 + readings))
        .cost(8 * x.len() as u64, 2 * (x.len() * x.dtype().bytes()) as u64)
        .run()?;
    Ok(out)
}

/// Layer norm over the last axis: `(x - mean) / sqrt(var + eps) gain + bias` for `x` `[.., n]`, `gain` and `bias` `[n]`,
/// to the shape of `x`.
///
/// # Errors
/// [`Error::Shape`] if the sizes differ, [`Error::DType`] unless all are float tensors and the parameters of one type,
/// [`Error::Argument`] if `eps` is below 0 or the devices differ, [`Error::Limit`] on software adapters for rows of more
/// than ten million elements.
pub fn layer_norm(x: &Tensor, gain: Option<&Tensor>, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    row_norm_with(None, RowNorm::Layer, x, gain, bias, eps)
}

/// RMS norm over the last axis: `x / sqrt(mean of x^2 + eps) gain` for `x` `[.., n]` and `gain` `[n]`, to the shape of
/// `x`.
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &Tensor, gain: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    row_norm_with(None, RowNorm::Rms, x, gain, None, eps)
}

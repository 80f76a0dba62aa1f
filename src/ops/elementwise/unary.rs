//! Maps of one tensor.

use super::{ALIASES, FLOATS, PLAIN, groups, kernel, size};
use crate::autograd::record;
use crate::ops::Act;
use crate::ops::checks::need_float;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const UNARY_CODES: &[u32] =
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 33, 34, 35, 36, 37, 38, 39, 40];
/// Those with a derivative that depends on the element.
const DERIVATIVE_CODES: &[u32] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 16, 17, 18, 33, 34, 35, 36, 37, 38, 39, 40];
const NEG: u32 = 0;
const AFFINE: u32 = 15;
/// Steps: their derivative is 0 wherever it exists.
const STEPS: std::ops::RangeInclusive<u32> = 10..=13;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct UnaryParams {
    n_vec4: u32,
    alpha: f32,
    beta: f32,
}

pub(super) const UNARY_FWD: Kernel = kernel("unary_fwd", &[Read, Write])
    .params::<UnaryParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", UNARY_CODES)]);
pub(super) const UNARY_BWD: Kernel = kernel("unary_bwd", &[Read, Read, Write])
    .params::<UnaryParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", DERIVATIVE_CODES)]);

/// Whether the derivative is a function of the result, which the next op keeps anyway, rather than of the argument.
fn is_by_result(code: u32) -> bool {
    matches!(code, 2 | 4 | 5 | 7 | 33 | 34 | 38 | 39)
}

fn unary(op: &'static str, code: u32, x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
    let out = map(op, code, &x.detach(), alpha, beta)?;
    if STEPS.contains(&code) || !x.needs_grad() {
        return Ok(out);
    }
    let saved = match code {
        NEG | AFFINE => None,
        _ if is_by_result(code) => Some(out.clone()),
        _ => Some(x.detach()),
    };
    Ok(record(op, out, [x], move |d, _| {
        Ok([Some(match &saved {
            None => affine(d, if code == NEG { -1.0 } else { alpha }, 0.0)?,
            Some(saved) => times_derivative(code, saved, d, alpha, beta)?,
        })])
    }))
}

/// `d f'(x)`, where `saved` is the result or the argument, as [`is_by_result`] says.
fn times_derivative(code: u32, saved: &Tensor, d: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
    let (saved, d) = (saved.contiguous()?, d.contiguous()?);
    let out = Tensor::empty(d.runtime(), d.shape(), d.dtype())?;
    let n_vec4 = d.len().div_ceil(4);
    d.runtime()
        .launch(&UNARY_BWD)
        .types(&[d.dtype(), DType::F32, DType::F32])
        .overrides(&[("OP", code)])
        .bind([saved.binding(), d.binding(), out.binding()])
        .params(&UnaryParams { n_vec4: n_vec4 as u32, alpha, beta })
        .groups(groups(n_vec4))
        .cost(2 * d.len() as u64, 3 * size(d.len(), d.dtype()))
        .run()?;
    Ok(out)
}

impl Act {
    /// Whether its derivative is a function of its result; else ops that want one keep the argument.
    pub(crate) fn is_by_result(self) -> bool {
        self == Self::None || is_by_result(32 + self.code())
    }

    /// Gradient of the argument from that of the result; `saved` is the result if [`Act::is_by_result`], else the
    /// argument.
    pub(crate) fn backward(self, saved: &Tensor, d: &Tensor) -> Result<Tensor> {
        if self == Self::None { Ok(d.clone()) } else { times_derivative(32 + self.code(), saved, d, 0.0, 0.0) }
    }
}

fn map(op: &'static str, code: u32, x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
    need_float(op, x)?;
    let x = x.contiguous()?;
    let out = Tensor::empty(x.runtime(), x.shape(), x.dtype())?;
    let n_vec4 = x.len().div_ceil(4);
    x.runtime()
        .launch(&UNARY_FWD)
        .types(&[x.dtype(), DType::F32, DType::F32])
        .overrides(&[("OP", code)])
        .bind([x.binding(), out.binding()])
        .params(&UnaryParams { n_vec4: n_vec4 as u32, alpha, beta })
        .groups(groups(n_vec4))
        .cost(x.len() as u64, 2 * size(x.len(), x.dtype()))
        .run()?;
    Ok(out)
}

macro_rules! unary_ops {
    ($($name:ident $code:literal $doc:literal),* $(,)?) => {$(
        #[doc = $doc]
        ///
        /// # Errors
        /// [`Error::DType`] if `x` is not a float tensor.
        pub fn $name(x: &Tensor) -> Result<Tensor> {
            unary(stringify!($name), $code, x, 0.0, 0.0)
        }
    )*};
}

unary_ops! {
    neg 0 "`-x`, elementwise.",
    abs 1 "`|x|`, elementwise.",
    exp 2 "`e^x`, elementwise.",
    log 3 "Natural logarithm, elementwise.",
    sqrt 4 "Square root, elementwise.",
    rsqrt 5 "`1 / sqrt(x)`, elementwise.",
    square 6 "`x^2`, elementwise.",
    recip 7 "`1 / x`, elementwise.",
    sin 8 "Sine of radians, elementwise; right to 1e-6 up to |x| of 10,000.",
    cos 9 "Cosine of radians, elementwise; right to 1e-6 up to |x| of 10,000.",
    floor 10 "Largest integer not above `x`, elementwise.",
    ceil 11 "Smallest integer not below `x`, elementwise.",
    round 12 "Nearest integer, halves to the even one, elementwise.",
    sign 13 "-1, 0 or 1, elementwise.",
    erf 14 "Error function, elementwise; absolute error below 5e-7.",
    softplus 18 "`log(1 + e^x)`, elementwise.",
    relu 33 "`max(x, 0)`, elementwise.",
    relu6 34 "`min(max(x, 0), 6)`, elementwise.",
    gelu 35 "`x/2 (1 + erf(x / sqrt 2))`, elementwise.",
    gelu_tanh 36 "GELU by its tanh approximation, elementwise.",
    silu 37 "`x sigmoid(x)`, elementwise.",
    sigmoid 38 "`1 / (1 + e^-x)`, elementwise.",
    tanh 39 "Hyperbolic tangent, elementwise.",
    hardswish 40 "`x relu6(x + 3) / 6`, elementwise.",
}

/// `x` through an activation, elementwise.
///
/// # Errors
/// [`Error::DType`] if `x` is not a float tensor.
pub fn activate(x: &Tensor, act: Act) -> Result<Tensor> {
    if act == Act::None { Ok(x.clone()) } else { unary("activate", 32 + act.code(), x, 0.0, 0.0) }
}

/// `alpha x + beta`, elementwise.
///
/// # Errors
/// [`Error::DType`] if `x` is not a float tensor.
pub fn affine(x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
    unary("affine", 15, x, alpha, beta)
}

/// `min(max(x, low), high)`, elementwise.
///
/// # Errors
/// [`Error::DType`] if `x` is not a float tensor, [`Error::Argument`] if `low > high`.
pub fn clamp(x: &Tensor, low: f32, high: f32) -> Result<Tensor> {
    if low > high {
        return Err(Error::argument("clamp", format!("low {low} is above high {high}")));
    }
    unary("clamp", 16, x, low, high)
}

/// `x` where it is positive, `slope x` elsewhere.
///
/// # Errors
/// [`Error::DType`] if `x` is not a float tensor.
pub fn leaky_relu(x: &Tensor, slope: f32) -> Result<Tensor> {
    unary("leaky_relu", 17, x, slope, 0.0)
}

//! Maps of two and three tensors, whose shapes broadcast.

use super::{ALIASES, FLOATS, NUMBERS, PLAIN, aligned, copy, groups, inner, kernel, size};
use super::{activate, affine, log, neg};
use crate::autograd::{record, sum_to, wants};
use crate::ops::checks::need_float;
use crate::ops::{Act, act};
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor, broadcast, collapse};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BinaryParams {
    n_vec4: u32,
    period_a: u32,
    period_b: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BinaryStridedParams {
    n: u32,
    offset_a: u32,
    offset_b: u32,
    sizes: [u32; 3],
    strides_a: [u32; 4],
    strides_b: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct WhereParams {
    n: u32,
    sizes: [u32; 3],
    strides_c: [u32; 4],
    strides_a: [u32; 4],
    strides_b: [u32; 4],
}

const SUB: u32 = 1;
const MUL: u32 = 2;
const DIV: u32 = 3;
const MAXIMUM: u32 = 4;
const POW: u32 = 6;
const BINARY_CODES: &[u32] = &[0, 1, 2, 3, 4, 5, 6];
pub(super) const BINARY_VEC4_FWD: Kernel = kernel("binary_vec4_fwd", &[Read, Read, Write])
    .params::<BinaryParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", BINARY_CODES), ("ACT", &[0]), ("REPEAT", &[0, 1, 2, 3])]);
pub(super) const BINARY_STRIDED_FWD: Kernel = kernel("binary_strided_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", BINARY_CODES), ("ACT", &[0])]);
pub(super) const ADD_ACT_FWD: Kernel = kernel("binary_vec4_fwd", &[Read, Read, Write])
    .params::<BinaryParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0]), ("ACT", act::CODES), ("REPEAT", &[0, 1, 2, 3])]);
pub(super) const ADD_ACT_STRIDED_FWD: Kernel = kernel("binary_strided_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0]), ("ACT", act::CODES)]);
pub(super) const COMPARE_FWD: Kernel = kernel("compare_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0, 1, 2, 3, 4, 5])]);
pub(super) const WHERE_FWD: Kernel =
    kernel("where_fwd", &[Read, Read, Read, Write]).params::<WhereParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);

fn need_same(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if !a.runtime().same(b.runtime()) {
        return Err(Error::argument(op, "the tensors live on different devices"));
    }
    if a.dtype() != b.dtype() || a.dtype() == DType::U8 {
        let wanted = "one type of f32, f16, u32, i32 wanted";
        return Err(Error::dtype(op, format!("{} and {} given, {wanted}", a.dtype(), b.dtype())));
    }
    Ok(())
}

/// Period in vec4 with which `x` repeats over `shape`, if it repeats as a whole.
fn period_vec4(x: &Tensor, shape: &[usize]) -> Option<usize> {
    let n: usize = shape.iter().product();
    let used = x.shape().iter().skip_while(|size| **size == 1).copied().collect::<Vec<_>>();
    let whole = x.is_bindable() && shape.ends_with(&used) && !used.is_empty();
    (whole && (x.len() == n || x.len().is_multiple_of(4))).then(|| x.len().div_ceil(4))
}

fn strided_params(a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<(BinaryStridedParams, [Tensor; 2])> {
    let mut operands = [a.broadcast_to(shape)?, b.broadcast_to(shape)?];
    let (mut sizes, mut strides) = collapse(shape, &[operands[0].strides(), operands[1].strides()]);
    if sizes.len() > 4 {
        operands = [copy(&operands[0], a.dtype())?, copy(&operands[1], b.dtype())?];
        (sizes, strides) = collapse(shape, &[operands[0].strides(), operands[1].strides()]);
    }
    let params = BinaryStridedParams {
        n: shape.iter().product::<usize>() as u32,
        offset_a: operands[0].binding_from().1,
        offset_b: operands[1].binding_from().1,
        sizes: inner::<4, 3>(aligned(&sizes, 1)),
        strides_a: aligned(&strides[0], 0),
        strides_b: aligned(&strides[1], 0),
    };
    Ok((params, operands))
}

fn zip(op: &'static str, code: u32, a: &Tensor, b: &Tensor, act: Act) -> Result<Tensor> {
    need_same(op, a, b)?;
    if act != Act::None {
        need_float(op, a)?;
    }
    let shape = broadcast(op, a.shape(), b.shape())?;
    let out = Tensor::empty(a.runtime(), &shape, a.dtype())?;
    let n = out.len();
    let types = [a.dtype(), DType::F32, DType::F32];
    let bytes = size(a.len() + b.len() + n, a.dtype());
    if let (Some(period_a), Some(period_b)) = (period_vec4(a, &shape), period_vec4(b, &shape)) {
        let n_vec4 = n.div_ceil(4);
        let repeat = u32::from(period_a < n_vec4) + 2 * u32::from(period_b < n_vec4);
        a.runtime()
            .launch(if act == Act::None { &BINARY_VEC4_FWD } else { &ADD_ACT_FWD })
            .types(&types)
            .overrides(&[("OP", code), ("ACT", act.code()), ("REPEAT", repeat)])
            .bind([a.binding(), b.binding(), out.binding()])
            .params(&BinaryParams { n_vec4: n_vec4 as u32, period_a: period_a as u32, period_b: period_b as u32 })
            .groups(groups(n_vec4))
            .cost(n as u64, bytes)
            .run()?;
    } else {
        let (params, [a, b]) = strided_params(a, b, &shape)?;
        a.runtime()
            .launch(if act == Act::None { &BINARY_STRIDED_FWD } else { &ADD_ACT_STRIDED_FWD })
            .types(&types)
            .overrides(&[("OP", code), ("ACT", act.code())])
            .bind([a.binding_from().0, b.binding_from().0, out.binding()])
            .params(&params)
            .groups(groups(n))
            .cost(n as u64, bytes)
            .run()?;
    }
    Ok(out)
}

fn binary(op: &'static str, code: u32, a: &Tensor, b: &Tensor, act: Act) -> Result<Tensor> {
    if wants(&[a, b]) && !act.is_by_result() {
        return activate(&binary(op, code, a, b, Act::None)?, act);
    }
    let [a_in, b_in] = [a.detach(), b.detach()];
    let out = zip(op, code, &a_in, &b_in, act)?;
    if !wants(&[a, b]) || !a.dtype().is_float() {
        return Ok(out);
    }
    let needs_out = act != Act::None || code == DIV || code == POW;
    let saved_out = needs_out.then(|| out.clone());
    let (shape_a, shape_b) = (a.shape().to_vec(), b.shape().to_vec());
    // What the derivative does not read must not be kept alive.
    let operands = (code >= MUL).then_some((a_in, b_in));
    Ok(record(op, out, [a, b], move |d, wanted| {
        let d = match &saved_out {
            Some(out) if act != Act::None => act.backward(out, d)?,
            _ => d.clone(),
        };
        let partials = [0, 1].map(|i| wanted[i].then(|| partial(code, i, operands.as_ref(), saved_out.as_ref(), &d)));
        let [d_a, d_b] = partials.map(Option::transpose);
        Ok([d_a?.map(|d| sum_to(&d, &shape_a)).transpose()?, d_b?.map(|d| sum_to(&d, &shape_b)).transpose()?])
    }))
}

/// The gradient of one operand, not yet summed over the axes along which it was repeated.
fn partial(
    code: u32,
    operand: usize,
    operands: Option<&(Tensor, Tensor)>,
    out: Option<&Tensor>,
    d: &Tensor,
) -> Result<Tensor> {
    let Some((a, b)) = operands else { return if code == SUB && operand == 1 { neg(d) } else { Ok(d.clone()) } };
    let out = out.unwrap_or(a);
    match (code, operand) {
        (MUL, 0) => mul(d, b),
        (MUL, _) => mul(d, a),
        (DIV, 0) => div(d, b),
        (DIV, _) => neg(&div(&mul(d, out)?, b)?),
        (POW, 0) => mul(d, &mul(b, &pow(a, &affine(b, 1.0, -1.0)?)?)?),
        (POW, _) => mul(d, &mul(out, &log(a)?)?),
        // The operand that wins takes all; equal ones share.
        (code, operand) => {
            let larger = (code == MAXIMUM) == (operand == 0);
            let wins = if larger { greater(a, b)? } else { less(a, b)? };
            let [zero, half] = [0.0, 0.5].map(|share| affine(d, share, 0.0));
            where_(&wins, d, &where_(&equal(a, b)?, &half?, &zero?)?)
        }
    }
}

macro_rules! binary_ops {
    ($($name:ident $code:literal $doc:literal),* $(,)?) => {$(
        #[doc = $doc]
        /// The shapes broadcast by NumPy's rule.
        ///
        /// # Errors
        /// [`Error::Shape`] if they do not broadcast, [`Error::DType`] if the types differ or are bytes.
        pub fn $name(a: &Tensor, b: &Tensor) -> Result<Tensor> {
            binary(stringify!($name), $code, a, b, Act::None)
        }
    )*};
}

binary_ops! {
    add 0 "`a + b`, elementwise.",
    sub 1 "`a - b`, elementwise.",
    mul 2 "`a b`, elementwise.",
    div 3 "`a / b`, elementwise.",
    maximum 4 "The larger of `a` and `b`, elementwise.",
    minimum 5 "The smaller of `a` and `b`, elementwise.",
    pow 6 "`a^b` for `a` above 0, elementwise.",
}

/// `act(a + b)`, elementwise: bias and activation, or residual and activation, in one dispatch. The shapes broadcast.
///
/// # Errors
/// [`Error::Shape`] if they do not broadcast, [`Error::DType`] unless both are of one float type.
pub fn add_act(a: &Tensor, b: &Tensor, act: Act) -> Result<Tensor> {
    binary("add_act", 0, a, b, act)
}

fn compare(op: &'static str, code: u32, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    need_same(op, a, b)?;
    let shape = broadcast(op, a.shape(), b.shape())?;
    let out = Tensor::empty(a.runtime(), &shape, DType::U32)?;
    let n = out.len();
    let (params, [a, b]) = strided_params(a, b, &shape)?;
    a.runtime()
        .launch(&COMPARE_FWD)
        .types(&[a.dtype(), DType::F32, DType::F32])
        .overrides(&[("OP", code)])
        .bind([a.binding_from().0, b.binding_from().0, out.binding()])
        .params(&params)
        .groups(groups(n))
        .cost(n as u64, 3 * size(n, DType::U32))
        .run()?;
    Ok(out)
}

macro_rules! compare_ops {
    ($($name:ident $code:literal $doc:literal),* $(,)?) => {$(
        #[doc = $doc]
        /// 1 where it holds, 0 elsewhere, as u32. The shapes broadcast.
        ///
        /// # Errors
        /// [`Error::Shape`] if they do not broadcast, [`Error::DType`] if the types differ or are bytes.
        pub fn $name(a: &Tensor, b: &Tensor) -> Result<Tensor> {
            compare(stringify!($name), $code, a, b)
        }
    )*};
}

compare_ops! {
    equal 0 "Whether `a == b`, elementwise.",
    not_equal 1 "Whether `a != b`, elementwise.",
    less 2 "Whether `a < b`, elementwise.",
    less_equal 3 "Whether `a <= b`, elementwise.",
    greater 4 "Whether `a > b`, elementwise.",
    greater_equal 5 "Whether `a >= b`, elementwise.",
}

/// `a` where `condition` (u32) is not 0, `b` elsewhere. The three shapes broadcast.
///
/// # Errors
/// [`Error::Shape`] if they do not broadcast, [`Error::DType`] unless `condition` is u32 and the others of one type.
pub fn where_(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "where";
    need_same(OP, a, b)?;
    if condition.dtype() != DType::U32 {
        return Err(Error::dtype(OP, format!("condition is {}, u32 wanted", condition.dtype())));
    }
    let shape = broadcast(OP, &broadcast(OP, a.shape(), b.shape())?, condition.shape())?;
    let out = select(condition, &a.detach(), &b.detach(), &shape)?;
    let (condition, shapes) = (condition.clone(), [a.shape().to_vec(), b.shape().to_vec()]);
    Ok(record(OP, out, [a, b], move |d, wanted| {
        let zero = Tensor::zeros(d.runtime(), &[1], d.dtype())?;
        let d_a = wanted[0].then(|| sum_to(&where_(&condition, d, &zero)?, &shapes[0])).transpose()?;
        let d_b = wanted[1].then(|| sum_to(&where_(&condition, &zero, d)?, &shapes[1])).transpose()?;
        Ok([d_a, d_b])
    }))
}

/// [`where_`] of operands that broadcast to `shape`.
fn select(condition: &Tensor, a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let out = Tensor::empty(a.runtime(), shape, a.dtype())?;
    let n = out.len();
    // There is no room for offsets beside three sets of strides.
    let at_start = |x: &Tensor| -> Result<Tensor> {
        let x = if x.binding_from().1 == 0 { x.clone() } else { copy(x, x.dtype())? };
        x.broadcast_to(shape)
    };
    let mut operands = [at_start(condition)?, at_start(a)?, at_start(b)?];
    let strides_of = |t: &[Tensor; 3]| collapse(shape, &[t[0].strides(), t[1].strides(), t[2].strides()]);
    let (mut sizes, mut strides) = strides_of(&operands);
    if sizes.len() > 4 {
        for operand in &mut operands {
            *operand = copy(operand, operand.dtype())?;
        }
        (sizes, strides) = strides_of(&operands);
    }
    let params = WhereParams {
        n: n as u32,
        sizes: inner::<4, 3>(aligned(&sizes, 1)),
        strides_c: aligned(&strides[0], 0),
        strides_a: aligned(&strides[1], 0),
        strides_b: aligned(&strides[2], 0),
    };
    let [condition, a, b] = &operands;
    a.runtime()
        .launch(&WHERE_FWD)
        .types(&[a.dtype(), DType::F32, DType::F32])
        .bind([condition.binding_from().0, a.binding_from().0, b.binding_from().0, out.binding()])
        .params(&params)
        .groups(groups(n))
        .cost(0, 3 * size(n, a.dtype()) + size(n, DType::U32))
        .run()?;
    Ok(out)
}

/// `x scale + shift` with both `[c]` repeating over the leading axes of `x` `[.., c]`: a batch norm whose statistics
/// are fixed.
///
/// # Errors
/// [`Error::Shape`] if they do not broadcast, [`Error::DType`] if the types differ.
pub fn scale_shift(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    add(&mul(x, scale)?, shift)
}

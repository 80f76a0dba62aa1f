//! Elementwise maps: unary, binary with broadcasting, compare, select, cast, copy, activations, fused bias and residual.

use super::act::Act;
use super::checks::need_float;
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, broadcast, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/elementwise.wgsl");
const FAMILY: &str = "elementwise";
const COMMONS: &[Common] = &[INDEX, super::act::ACT];
const WG_SIZE: u32 = 64;

const FLOATS: &[DType] = &[DType::F32, DType::F16];
const NUMBERS: &[DType] = &[DType::F32, DType::F16, DType::U32, DType::I32];
const UNARY_CODES: &[u32] =
    &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 33, 34, 35, 36, 37, 38, 39, 40];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FillParams {
    n: u32,
    bits: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CopyParams {
    n: u32,
    offset: u32,
    sizes: [u32; 5],
    strides: [u32; 6],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CastParams {
    n_vec4: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BytesParams {
    n_words: u32,
    n_channels: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ToBytesParams {
    n: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct UnaryParams {
    n_vec4: u32,
    alpha: f32,
    beta: f32,
}

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

const fn kernel(entry: &'static str, binds: &'static [crate::runtime::Bind]) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, binds).commons(COMMONS)
}

// Every alias the file uses must stand in the prelude, also for entry points that do not use it.
const ALIASES: &[&str] = &["Elem", "Src", "Dst"];
const PLAIN: &[DType] = &[DType::F32];

const FILL_FWD: Kernel = kernel("fill_fwd", &[Write]).params::<FillParams>().types(ALIASES, &[PLAIN, PLAIN, PLAIN]);
const COPY_FWD: Kernel =
    kernel("copy_fwd", &[Read, Write]).params::<CopyParams>().types(ALIASES, &[PLAIN, NUMBERS, NUMBERS]);
const CAST_FWD: Kernel =
    kernel("cast_fwd", &[Read, Write]).params::<CastParams>().types(ALIASES, &[PLAIN, NUMBERS, NUMBERS]);
const BYTES_FWD: Kernel =
    kernel("bytes_fwd", &[Read, Read, Read, Write]).params::<BytesParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);
const TO_BYTES_FWD: Kernel =
    kernel("to_bytes_fwd", &[Read, Write]).params::<ToBytesParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);
const UNARY_FWD: Kernel = kernel("unary_fwd", &[Read, Write])
    .params::<UnaryParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", UNARY_CODES)]);
const BINARY_CODES: &[u32] = &[0, 1, 2, 3, 4, 5, 6];
const BINARY_VEC4_FWD: Kernel = kernel("binary_vec4_fwd", &[Read, Read, Write])
    .params::<BinaryParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", BINARY_CODES), ("ACT", &[0]), ("REPEAT", &[0, 1, 2, 3])]);
const BINARY_STRIDED_FWD: Kernel = kernel("binary_strided_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", BINARY_CODES), ("ACT", &[0])]);
const ADD_ACT_FWD: Kernel = kernel("binary_vec4_fwd", &[Read, Read, Write])
    .params::<BinaryParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0]), ("ACT", super::act::CODES), ("REPEAT", &[0, 1, 2, 3])]);
const ADD_ACT_STRIDED_FWD: Kernel = kernel("binary_strided_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[FLOATS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0]), ("ACT", super::act::CODES)]);
const COMPARE_FWD: Kernel = kernel("compare_fwd", &[Read, Read, Write])
    .params::<BinaryStridedParams>()
    .types(ALIASES, &[NUMBERS, PLAIN, PLAIN])
    .overrides(&[("OP", &[0, 1, 2, 3, 4, 5])]);
const WHERE_FWD: Kernel =
    kernel("where_fwd", &[Read, Read, Read, Write]).params::<WhereParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    FILL_FWD,
    COPY_FWD,
    CAST_FWD,
    BYTES_FWD,
    TO_BYTES_FWD,
    UNARY_FWD,
    BINARY_VEC4_FWD,
    BINARY_STRIDED_FWD,
    ADD_ACT_FWD,
    ADD_ACT_STRIDED_FWD,
    COMPARE_FWD,
    WHERE_FWD,
];

/// Bytes of a tensor of `n` elements.
fn size(n: usize, dtype: DType) -> u64 {
    (n * dtype.bytes()) as u64
}

fn groups(n_threads: usize) -> u64 {
    (n_threads as u64).div_ceil(u64::from(WG_SIZE))
}

/// Right-aligns collapsed sizes and strides to `N` axes.
fn aligned<const N: usize>(values: &[usize], fill: u32) -> [u32; N] {
    let mut out = [fill; N];
    for (slot, value) in out.iter_mut().rev().zip(values.iter().rev()) {
        *slot = *value as u32;
    }
    out
}

fn inner<const N: usize, const M: usize>(sizes: [u32; N]) -> [u32; M] {
    let mut out = [1; M];
    out.copy_from_slice(&sizes[N - M..]);
    out
}

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

impl Tensor {
    /// A tensor of `shape` with every element `value`, cast to `dtype`.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn full(runtime: &Runtime, shape: &[usize], value: f32, dtype: DType) -> Result<Self> {
        let out = Self::empty(runtime, shape, dtype)?;
        let bits = match dtype {
            DType::F32 => value.to_bits(),
            DType::F16 => u32::from(half::f16::from_f32(value).to_bits()) * 0x1_0001,
            DType::U32 => value as u32,
            DType::I32 => (value as i32).cast_unsigned(),
            DType::U8 => u32::from(value as u8) * 0x0101_0101,
        };
        let n = (out.len() * dtype.bytes()).div_ceil(16);
        runtime
            .launch(&FILL_FWD)
            .types(&[DType::F32; 3])
            .bind([out.binding()])
            .params(&FillParams { n: n as u32, bits })
            .groups(groups(n))
            .cost(0, size(out.len(), dtype))
            .run()?;
        Ok(out)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn zeros(runtime: &Runtime, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::full(runtime, shape, 0.0, dtype)
    }

    /// The same elements in row-major order without gaps; itself if that is how they lie.
    ///
    /// # Errors
    /// [`Error::Shape`] past six axes that do not merge, else as [`Tensor::from_slice`].
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_bindable() { Ok(self.clone()) } else { copy(self, self.dtype()) }
    }

    /// The same elements under another shape: a view where the strides allow, else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", format!("{:?} cannot become {shape:?}", self.shape())));
        }
        if let Some(view) = self.reshape_view(shape) {
            return Ok(view);
        }
        let copied = copy(self, self.dtype())?;
        Ok(copied.reshape_view(shape).unwrap_or(copied))
    }
}

/// Strided copy, with a cast between 2- and 4-byte types where `dtype` is another.
fn copy(x: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "copy";
    if dtype == x.dtype() {
        return super::gather::reordered(OP, x, &[]);
    }
    let out = Tensor::empty(x.runtime(), x.shape(), dtype)?;
    let (sizes, strides) = collapse(x.shape(), &[x.strides()]);
    if sizes.len() > 6 {
        return Err(Error::shape(OP, format!("{:?} has more than six axes that do not merge", x.shape())));
    }
    let (binding, offset) = x.binding_from();
    let n = x.len();
    let params =
        CopyParams { n: n as u32, offset, sizes: inner::<6, 5>(aligned(&sizes, 1)), strides: aligned(&strides[0], 0) };
    x.runtime()
        .launch(&COPY_FWD)
        .types(&[DType::F32, x.dtype(), dtype])
        .bind([binding, out.binding()])
        .params(&params)
        .groups(groups(n))
        .cost(0, size(n, x.dtype()) + size(n, dtype))
        .run()?;
    Ok(out)
}

/// The elements as another type. To bytes they are rounded and clamped to 0..=255; to integers they are cut off.
///
/// # Errors
/// [`Error::Feature`] for f16 on an adapter without it, else as [`Tensor::from_slice`].
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let n = x.len();
    match (x.dtype(), dtype) {
        (from, to) if from == to => Ok(x.clone()),
        (DType::U8, _) => {
            let one = Tensor::full(x.runtime(), &[1], 1.0, DType::F32)?;
            let zero = Tensor::zeros(x.runtime(), &[1], DType::F32)?;
            from_bytes(x, &one, &zero, dtype)
        }
        (from, DType::U8) => {
            let x = x.contiguous()?;
            let out = Tensor::empty(x.runtime(), x.shape(), DType::U8)?;
            x.runtime()
                .launch(&TO_BYTES_FWD)
                .types(&[from, DType::F32, DType::F32])
                .bind([x.binding(), out.binding()])
                .params(&ToBytesParams { n: n as u32 })
                .groups(groups(n.div_ceil(4)))
                .cost(0, size(n, from) + n as u64)
                .run()?;
            Ok(out)
        }
        (from, to) if x.is_bindable() => {
            let out = Tensor::empty(x.runtime(), x.shape(), to)?;
            let n_vec4 = n.div_ceil(4);
            x.runtime()
                .launch(&CAST_FWD)
                .types(&[DType::F32, from, to])
                .bind([x.binding(), out.binding()])
                .params(&CastParams { n_vec4: n_vec4 as u32 })
                .groups(groups(n_vec4))
                .cost(0, size(n, from) + size(n, to))
                .run()?;
            Ok(out)
        }
        _ => copy(x, dtype),
    }
}

/// Bytes to numbers with a factor and an addend per channel, the last axis: u8 `[.., c]` to `[.., c]`,
/// `out = x * scale[c] + shift[c]`. With f32 `scale` and `shift` `[c]` (or `[1]` for all channels) this normalises
/// images.
///
/// # Errors
/// [`Error::DType`] unless `x` is u8 and the others f32, [`Error::Shape`] if their lengths do not fit.
pub fn from_bytes(x: &Tensor, scale: &Tensor, shift: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "from_bytes";
    if x.dtype() != DType::U8 || scale.dtype() != DType::F32 || shift.dtype() != DType::F32 {
        let given = format!("x {}, scale {}, shift {} given", x.dtype(), scale.dtype(), shift.dtype());
        return Err(Error::dtype(OP, format!("{given}; u8, f32, f32 wanted")));
    }
    let n_channels = scale.len();
    let last = x.shape().last().copied().unwrap_or(1);
    if scale.shape() != shift.shape() || scale.rank() != 1 || (n_channels != 1 && n_channels != last) {
        let given = format!("x {:?}, scale {:?}, shift {:?}", x.shape(), scale.shape(), shift.shape());
        return Err(Error::shape(OP, format!("{given}; scale and shift must be [c] or [1]")));
    }
    if dtype == DType::U8 {
        return Err(Error::dtype(OP, "u8 asked for, a wider type wanted"));
    }
    let (x, scale, shift) = (x.contiguous()?, scale.contiguous()?, shift.contiguous()?);
    let out = Tensor::empty(x.runtime(), x.shape(), dtype)?;
    let n_words = x.len().div_ceil(4);
    x.runtime()
        .launch(&BYTES_FWD)
        .types(&[dtype, DType::F32, DType::F32])
        .bind([x.binding(), scale.binding(), shift.binding(), out.binding()])
        .params(&BytesParams { n_words: n_words as u32, n_channels: n_channels as u32 })
        .groups(groups(n_words))
        .cost(2 * x.len() as u64, x.len() as u64 + size(x.len(), dtype))
        .run()?;
    Ok(out)
}

fn unary(op: &'static str, code: u32, x: &Tensor, alpha: f32, beta: f32) -> Result<Tensor> {
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

fn binary(op: &'static str, code: u32, a: &Tensor, b: &Tensor, act: Act) -> Result<Tensor> {
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
    let out = Tensor::empty(a.runtime(), &shape, a.dtype())?;
    let n = out.len();
    // There is no room for offsets beside three sets of strides.
    let at_start = |x: &Tensor| -> Result<Tensor> {
        let x = if x.binding_from().1 == 0 { x.clone() } else { copy(x, x.dtype())? };
        x.broadcast_to(&shape)
    };
    let mut operands = [at_start(condition)?, at_start(a)?, at_start(b)?];
    let strides_of = |t: &[Tensor; 3]| collapse(&shape, &[t[0].strides(), t[1].strides(), t[2].strides()]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_align_to_the_right() {
        assert_eq!(aligned::<4>(&[2, 3], 1), [1, 1, 2, 3]);
        assert_eq!(inner::<4, 3>([9, 1, 2, 3]), [1, 2, 3]);
    }
}

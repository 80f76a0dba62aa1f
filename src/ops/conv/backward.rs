//! Gradients of a convolution with respect to its input and its weights.

use super::{Conv2d, Problem, pair};
use crate::autograd::refuse;
use crate::ops::checks::{need_float, need_one_device};
use crate::ops::tune::defaults::{Defaults, up_to};
use crate::ops::{elementwise, matmul, reduce};
use crate::runtime::{
    Bind::{Read, Write},
    DeviceProfile, Kernel, LOOP_ROUNDS, Need,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/conv_bwd.wgsl");
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const WG_SIZE: u64 = 64;
/// Bytes of a core's cache that are safe to count on.
const CACHED: usize = 192 << 10;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ConvTurnParams {
    n_out: u32,
    kernel_w: u32,
    ci: u32,
    co: u32,
    ci_group: u32,
    co_group: u32,
    taps: u32,
    first: u32,
    step: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ConvWeaveParams {
    n_blocks: u32,
    n_lanes: u32,
    h: u32,
    w: u32,
    c: u32,
    stride: u32,
    given: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ConvBwdParams {
    n_pixels: u32,
    h: u32,
    w: u32,
    ci: u32,
    ho: u32,
    wo: u32,
    co: u32,
    ci_group: u32,
    co_group: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
    dilation: u32,
    n_parts: u32,
    part: u32,
    n_blocks: u32,
}

const fn kernel(entry: &'static str, binds: &'static [crate::runtime::Bind]) -> Kernel {
    Kernel::new("conv_bwd", entry, SOURCE, binds).types(&["Elem"], &[FLOATS])
}

const fn weight_kernel(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Write]).params::<ConvBwdParams>()
}

const ROWS: &[(&str, &[u32])] = &[("ROWS", &[9, 4])];
const TURN: Kernel = kernel("conv_turn_bwd_x", &[Read, Write]).params::<ConvTurnParams>();
const WEAVE: Kernel = kernel("conv_weave_bwd_x", &[Read, Read, Read, Read, Write]).params::<ConvWeaveParams>();
const WEAVE_VEC4: Kernel =
    kernel("conv_weave_vec4_bwd_x", &[Read, Read, Read, Read, Write]).params::<ConvWeaveParams>();
const PLAIN_BWD_X: Kernel = kernel("conv_plain_bwd_x", &[Read, Read, Write]).params::<ConvBwdParams>();
const PLAIN_BWD_W: Kernel = weight_kernel("conv_plain_bwd_w");
const SUBGROUP_BWD_W: Kernel = weight_kernel("conv_subgroup_bwd_w").overrides(ROWS).needs(&[Need::SubgroupOf(8)]);
const WINDOW3_BWD_W: Kernel =
    weight_kernel("conv_window3_bwd_w").overrides(&[("STEP_X", &[1, 2])]).needs(&[Need::SubgroupOf(8)]);
const DEPTHWISE_BWD_W: Kernel = weight_kernel("conv_depthwise_bwd_w");
const TILE_BWD_W: Kernel = weight_kernel("conv_tile_bwd_w");

/// The kernels of the gradients.
pub const KERNELS: &[Kernel] =
    &[TURN, WEAVE, WEAVE_VEC4, PLAIN_BWD_X, PLAIN_BWD_W, SUBGROUP_BWD_W, WINDOW3_BWD_W, DEPTHWISE_BWD_W, TILE_BWD_W];

/// How the gradient of the input is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InputVariant {
    /// One element per invocation, any shape: what the other is checked against.
    Plain,
    /// The forward kernels over the weights turned around, once for each remainder of rows and columns by the stride:
    /// strides of 1 and 2, where no padding passes what the window reaches over the border.
    Forward,
}

/// How the gradient of the weights is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightVariant {
    /// One weight per invocation, any shape: what the others are checked against.
    Plain,
    /// 72 or 32 taps and input channels by 16 output channels per workgroup of 8, in registers, the gradient broadcast, on
    /// adapters whose subgroups have 8 invocations; output channels of a group in fours.
    Subgroup,
    /// As `Subgroup`, for windows of 3 x 3 side by side, a stride of 1 or 2 across, and rows of outputs in fours, whose
    /// neighbours share what they read; 8 input channels per workgroup.
    Window3,
    /// One input channel per output channel, channels in fours.
    Depthwise,
    /// 64 x 64 weights per workgroup through workgroup memory, any shape: what real GPUs want.
    Tile,
    /// [`matmul::matmul`] over the pixels: 1 x 1 windows without padding or groups.
    Matmul,
}

impl InputVariant {
    /// Every variant.
    pub const ALL: &[Self] = &[Self::Plain, Self::Forward];
}

impl WeightVariant {
    /// Every variant.
    pub const ALL: &[Self] = &[Self::Plain, Self::Subgroup, Self::Window3, Self::Depthwise, Self::Tile, Self::Matmul];

    fn kernel(self) -> &'static Kernel {
        match self {
            // Its kernels are those of another family, which runs on every adapter, as plain does.
            Self::Plain | Self::Matmul => &PLAIN_BWD_W,
            Self::Subgroup => &SUBGROUP_BWD_W,
            Self::Window3 => &WINDOW3_BWD_W,
            Self::Depthwise => &DEPTHWISE_BWD_W,
            Self::Tile => &TILE_BWD_W,
        }
    }

    /// Whether it computes gradients of weights `[kh, kw, ci / groups, co]` of results `wo` pixels wide on this adapter.
    #[must_use]
    pub fn fits(self, profile: &DeviceProfile, dtype: DType, w: [usize; 4], wo: usize, conv: &Conv2d) -> bool {
        let [kh, kw, ci_group, co] = w;
        let co_group = co / conv.groups.max(1);
        let shape = match self {
            Self::Plain | Self::Tile => true,
            Self::Subgroup => co_group.is_multiple_of(4),
            Self::Window3 => {
                let side_by_side = [kh, kw] == [3; 2] && conv.dilation == [1; 2] && conv.stride[1] <= 2;
                side_by_side && ci_group > 4 && co_group.is_multiple_of(4) && wo.is_multiple_of(4)
            }
            Self::Depthwise => ci_group == 1 && co_group == 1 && co.is_multiple_of(4),
            Self::Matmul => [kh, kw] == [1; 2] && conv.padding == [0; 2] && conv.groups == 1,
        };
        shape && self.kernel().runs_on(profile, &[dtype])
    }

    pub(super) fn choose(profile: &DeviceProfile, dtype: DType, w: [usize; 4], wo: usize, conv: &Conv2d) -> Self {
        let ladder = up_to(Defaults::of(profile).conv_bwd_w, w[3] / conv.groups.max(1)).unwrap_or_default();
        ladder.iter().copied().find(|variant| variant.fits(profile, dtype, w, wo, conv)).unwrap_or(Self::Plain)
    }
}

/// The shape of a tensor with four axes.
pub(super) fn four(x: &Tensor) -> Result<[usize; 4]> {
    <[usize; 4]>::try_from(x.shape()).map_err(|_| Error::shape("conv2d", format!("{:?} has not four axes", x.shape())))
}

/// Gradient of a convolution's input, of `shape` `[n, h, w, ci]`, from that of its result `[n, ho, wo, co]` and the
/// weights `[kh, kw, ci / groups, co]`: what the backward pass computes, and a transposed convolution.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not go together, [`Error::DType`] unless both are of one float type,
/// [`Error::Limit`] as for [`super::conv2d`].
pub fn input_gradient(d_out: &Tensor, w: &Tensor, shape: [usize; 4], conv: &Conv2d) -> Result<Tensor> {
    const OP: &str = "input_gradient";
    let [d_out, w] = operands(OP, [d_out, w])?;
    check(OP, shape, four(&w)?, &d_out, conv)?;
    checked_input_gradient(&d_out, &w, shape, conv)
}

/// Gradient of the weights `[kh, kw, ci / groups, co]`, of a `kernel` of `[kh, kw]` pixels, from the input
/// `[n, h, w, ci]` and the gradient of the result `[n, ho, wo, co]`: what the backward pass computes.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not go together, [`Error::DType`] unless both are of one float type.
pub fn weight_gradient(x: &Tensor, d_out: &Tensor, kernel: [usize; 2], conv: &Conv2d) -> Result<Tensor> {
    const OP: &str = "weight_gradient";
    let [x, d_out] = operands(OP, [x, d_out])?;
    let w_shape = weight_shape(OP, &x, &d_out, kernel, conv)?;
    checked_weight_gradient(&x, &d_out, w_shape, conv)
}

/// [`input_gradient`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`input_gradient`], and [`Error::Feature`] if the variant does not take the shape.
pub fn input_gradient_with(
    variant: InputVariant,
    d_out: &Tensor,
    w: &Tensor,
    shape: [usize; 4],
    conv: &Conv2d,
) -> Result<Tensor> {
    let [d_out, w] = operands("input_gradient_with", [d_out, w])?;
    check("input_gradient_with", shape, four(&w)?, &d_out, conv)?;
    match variant {
        InputVariant::Plain => plain_input_gradient(&d_out, &w, shape, conv),
        InputVariant::Forward => match Axes::new(&d_out, &w, shape, conv)? {
            Some(axes) => input_gradient_by_forward(&axes, &d_out, &w, shape, conv),
            None => Err(unfit(&d_out, format!("the input's gradient by {variant:?} with {conv:?}"))),
        },
    }
}

/// [`weight_gradient`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`weight_gradient`], and [`Error::Feature`] if the variant does not take the shape or the adapter not the variant.
pub fn weight_gradient_with(
    variant: WeightVariant,
    x: &Tensor,
    d_out: &Tensor,
    kernel: [usize; 2],
    conv: &Conv2d,
) -> Result<Tensor> {
    const OP: &str = "weight_gradient_with";
    let [x, d_out] = operands(OP, [x, d_out])?;
    let w_shape = weight_shape(OP, &x, &d_out, kernel, conv)?;
    if !variant.fits(x.runtime().profile(), x.dtype(), w_shape, d_out.shape()[2], conv) {
        return Err(unfit(&x, format!("the weights' gradient {w_shape:?} by {variant:?}")));
    }
    weight_gradient_by(variant, &x, &d_out, w_shape, conv)
}

fn unfit(x: &Tensor, what: String) -> Error {
    Error::Feature {
        what,
        feature: "another shape or another adapter".into(),
        adapter: x.runtime().profile().name.clone(),
    }
}

fn check(op: &'static str, x: [usize; 4], w: [usize; 4], d_out: &Tensor, conv: &Conv2d) -> Result<()> {
    let ([n, h, width, ci], [kh, kw, ci_group, co]) = (x, w);
    let [ho, wo] = conv.out_size_for(op, [h, width], [kh, kw])?;
    let grouped = conv.groups > 0 && ci_group * conv.groups == ci && co.is_multiple_of(conv.groups);
    if !grouped || d_out.shape() != [n, ho, wo, co] {
        let given = format!("x {x:?}, w {w:?} and d_out {:?} given", d_out.shape());
        return Err(Error::shape(op, format!("{given} with {conv:?}")));
    }
    Ok(())
}

/// Row-major operands of one float type on one device.
fn operands(op: &'static str, [a, b]: [&Tensor; 2]) -> Result<[Tensor; 2]> {
    refuse(op, &[a, b])?;
    need_one_device(op, a, [b])?;
    need_float(op, a)?;
    if a.dtype() != b.dtype() {
        return Err(Error::dtype(op, format!("{} and {} given, one float type wanted", a.dtype(), b.dtype())));
    }
    Ok([a.contiguous()?, b.contiguous()?])
}

fn weight_shape(op: &'static str, x: &Tensor, d_out: &Tensor, kernel: [usize; 2], conv: &Conv2d) -> Result<[usize; 4]> {
    let (x, [.., co]) = (four(x)?, four(d_out)?);
    let w = [kernel[0], kernel[1], x[3] / conv.groups.max(1), co];
    check(op, x, w, d_out, conv)?;
    Ok(w)
}

fn zeros(like: &Tensor, shape: [usize; 4]) -> Result<Tensor> {
    Tensor::zeros(like.runtime(), &shape, like.dtype())
}

/// `d_x` of `shape` from row-major operands.
pub(super) fn checked_input_gradient(d_out: &Tensor, w: &Tensor, shape: [usize; 4], conv: &Conv2d) -> Result<Tensor> {
    let Some(axes) = Axes::new(d_out, w, shape, conv)? else { return plain_input_gradient(d_out, w, shape, conv) };
    match super::tuned::input(d_out, w, shape, conv) {
        InputVariant::Forward => input_gradient_by_forward(&axes, d_out, w, shape, conv),
        InputVariant::Plain => plain_input_gradient(d_out, w, shape, conv),
    }
}

fn params(x: [usize; 4], w: [usize; 4], d_out: &Tensor, conv: &Conv2d) -> Result<ConvBwdParams> {
    let ([_, h, width, ci], [kh, kw, ci_group, co], [n, ho, wo, _]) = (x, w, four(d_out)?);
    Ok(ConvBwdParams {
        n_pixels: (n * ho * wo) as u32,
        h: h as u32,
        w: width as u32,
        ci: ci as u32,
        ho: ho as u32,
        wo: wo as u32,
        co: co as u32,
        ci_group: ci_group as u32,
        co_group: (co / conv.groups) as u32,
        kernel: pair([kh, kw]),
        stride: pair(conv.stride),
        padding: pair(conv.padding),
        dilation: pair(conv.dilation),
        n_parts: 0,
        part: 0,
        n_blocks: 0,
    })
}

/// Multiplications and additions of a convolution, and of either gradient.
pub(super) fn flops(w: [usize; 4], d_out: &Tensor) -> u64 {
    let taps: usize = w[..3].iter().product();
    2 * (d_out.len() * taps) as u64
}

fn plain_input_gradient(d_out: &Tensor, w: &Tensor, shape: [usize; 4], conv: &Conv2d) -> Result<Tensor> {
    let out = Tensor::empty(d_out.runtime(), &shape, d_out.dtype())?;
    let [n, h, width, _] = shape;
    let w_shape @ [kh, kw, _, co] = four(w)?;
    let taps = kh * kw;
    let params = ConvBwdParams { n_pixels: (n * h * width) as u32, ..params(shape, w_shape, d_out, conv)? };
    let n_elements = d_out.len() + w.len() + out.len();
    d_out
        .runtime()
        .launch(&PLAIN_BWD_X)
        .types(&[d_out.dtype()])
        .bind([d_out.binding(), w.binding(), out.binding()])
        .params(&params)
        .groups((out.len() as u64).div_ceil(WG_SIZE))
        .rounds(taps * (5 + co / conv.groups))
        .cost(flops(w_shape, d_out), (n_elements * d_out.dtype().bytes()) as u64)
        .run()?;
    Ok(out)
}

/// The pixels of one axis that leave remainder `at` by the stride: a convolution of `d_out` by some of the taps.
#[derive(Debug, Clone, Copy)]
struct Remainder {
    /// How many pixels.
    size: usize,
    /// How many taps, the first of them, and from one to the next.
    taps: usize,
    first: usize,
    step: usize,
    padding: usize,
    dilation: usize,
}

impl Remainder {
    /// Of an axis of `size` pixels; `None` if it is no convolution, as its windows would start inside `d_out`.
    fn new(at: usize, size: usize, kernel: usize, conv: [usize; 3]) -> Option<Self> {
        let [stride, padding, dilation] = conv;
        // Tap r reaches pixel y from output (y + padding - r dilation) / stride, if that is whole.
        let reaches = |r: &usize| (r * dilation) % stride == (at + padding) % stride;
        let size = size.saturating_sub(at).div_ceil(stride);
        let taps = (0..kernel).filter(reaches).count();
        let Some(first) = (0..kernel).find(reaches) else {
            return Some(Self { size, taps: 0, first: 0, step: 1, padding: 0, dilation: 1 });
        };
        let step = (first + 1..kernel).find(reaches).map_or(1, |next| next - first);
        // One tap further is this many outputs back, exactly where there is a second tap.
        let dilation = (step * dilation / stride).max(1);
        // Output that the first tap comes from, less the pixel's number in its remainder.
        let start = ((at + padding) as i64 - (first * conv[2]) as i64) / stride as i64;
        // Turned around, the last tap comes first.
        let padding = ((taps - 1) * dilation) as i64 - start;
        let padding = usize::from(u16::try_from(padding).ok()?);
        let dilation = usize::from(u16::try_from(dilation).ok()?);
        Some(Self { size, taps, first, step, padding, dilation })
    }
}

/// The remainders of rows and of columns.
struct Axes([Vec<Remainder>; 2]);

impl Axes {
    /// `None` where the forward kernels cannot compute it.
    fn new(d_out: &Tensor, w: &Tensor, shape: [usize; 4], conv: &Conv2d) -> Result<Option<Self>> {
        let [kh, kw, ..] = four(w)?;
        // With nothing to sum over, the plain kernel stores zeros.
        if conv.stride.iter().any(|stride| *stride > 2) || d_out.is_empty() || shape.contains(&0) {
            return Ok(None);
        }
        let axis = |axis: usize| -> Option<Vec<Remainder>> {
            let (kernel, size) = ([kh, kw][axis], shape[1 + axis]);
            let steps = [conv.stride[axis], conv.padding[axis], conv.dilation[axis]];
            (0..conv.stride[axis]).map(|at| Remainder::new(at, size, kernel, steps)).collect()
        };
        Ok(axis(0).zip(axis(1)).map(|(rows, columns)| Self([rows, columns])))
    }
}

fn input_gradient_by_forward(
    axes: &Axes,
    d_out: &Tensor,
    w: &Tensor,
    shape: [usize; 4],
    conv: &Conv2d,
) -> Result<Tensor> {
    let Axes([rows, columns]) = axes;
    if let ([row], [column]) = (rows.as_slice(), columns.as_slice()) {
        return remainder_gradient(d_out, w, shape, conv, [*row, *column]);
    }
    let mut parts = Vec::new();
    let mut given = 0;
    for (b, row) in rows.iter().enumerate() {
        for (a, column) in columns.iter().enumerate() {
            if row.taps * column.taps * row.size * column.size > 0 {
                given |= 1 << (2 * b + a);
                parts.push((2 * b + a, remainder_gradient(d_out, w, shape, conv, [*row, *column])?));
            }
        }
    }
    weave(d_out, shape, conv, &parts, given)
}

/// The gradient of the pixels of one remainder.
fn remainder_gradient(
    d_out: &Tensor,
    w: &Tensor,
    shape: [usize; 4],
    conv: &Conv2d,
    [row, column]: [Remainder; 2],
) -> Result<Tensor> {
    let ([n, _, _, ci], [_, kw, ci_group, co]) = (shape, four(w)?);
    let co_group = co / conv.groups;
    let turned = Tensor::empty(w.runtime(), &[row.taps, column.taps, co_group, ci], w.dtype())?;
    let params = ConvTurnParams {
        n_out: turned.len() as u32,
        kernel_w: kw as u32,
        ci: ci as u32,
        co: co as u32,
        ci_group: ci_group as u32,
        co_group: co_group as u32,
        taps: pair([row.taps, column.taps]),
        first: pair([row.first, column.first]),
        step: pair([row.step, column.step]),
    };
    w.runtime()
        .launch(&TURN)
        .types(&[w.dtype()])
        .bind([w.binding(), turned.binding()])
        .params(&params)
        .groups((turned.len() as u64).div_ceil(WG_SIZE))
        .cost(0, (2 * turned.len() * w.dtype().bytes()) as u64)
        .run()?;
    let conv = Conv2d {
        stride: [1; 2],
        padding: [row.padding, column.padding],
        dilation: [row.dilation, column.dilation],
        groups: conv.groups,
    };
    let problem = Problem::bare(d_out, &turned, &conv, [n, row.size, column.size, ci])?;
    problem.run(problem.tuned())
}

/// The image of `shape` whose pixels of remainders `b` of the rows and `a` of the columns lie in part `2 b + a`.
fn weave(d_out: &Tensor, shape: [usize; 4], conv: &Conv2d, parts: &[(usize, Tensor)], given: u32) -> Result<Tensor> {
    let [n, h, w, c] = shape;
    let out = Tensor::empty(d_out.runtime(), &shape, d_out.dtype())?;
    let (kernel, c) = if c.is_multiple_of(4) { (&WEAVE_VEC4, c / 4) } else { (&WEAVE, c) };
    let n_blocks = n * h.div_ceil(conv.stride[0]) * w.div_ceil(conv.stride[1]);
    // Finding the block costs software adapters as much as a few channels.
    let n_lanes = if d_out.runtime().profile().is_software() { c.div_ceil(256) } else { c };
    let params = ConvWeaveParams {
        n_blocks: n_blocks as u32,
        n_lanes: n_lanes as u32,
        h: h as u32,
        w: w as u32,
        c: c as u32,
        stride: pair(conv.stride),
        given,
    };
    // What is absent counts as zeros, and something stands in for it.
    let part = |i: usize| parts.iter().find(|(at, _)| *at == i).map_or(d_out, |(_, part)| part).binding();
    d_out
        .runtime()
        .launch(kernel)
        .types(&[d_out.dtype()])
        .bind([part(0), part(1), part(2), part(3), out.binding()])
        .params(&params)
        .groups(((n_blocks * n_lanes) as u64).div_ceil(WG_SIZE))
        .cost(0, (2 * out.len() * out.dtype().bytes()) as u64)
        .run()?;
    Ok(out)
}

/// `d_w` of shape `w` from row-major operands.
pub(super) fn checked_weight_gradient(x: &Tensor, d_out: &Tensor, w: [usize; 4], conv: &Conv2d) -> Result<Tensor> {
    let variant = super::tuned::weights(x, d_out, w, conv);
    weight_gradient_by(variant, x, d_out, w, conv)
}

pub(super) fn weight_gradient_by(
    variant: WeightVariant,
    x: &Tensor,
    d_out: &Tensor,
    w: [usize; 4],
    conv: &Conv2d,
) -> Result<Tensor> {
    let [kh, kw, ci_group, co] = w;
    let (x_shape, [n, ho, wo, _]) = (four(x)?, four(d_out)?);
    if d_out.is_empty() || w.contains(&0) {
        return zeros(x, w);
    }
    let n_pixels = n * ho * wo;
    if variant == WeightVariant::Matmul {
        let [sh, sw] = conv.stride;
        let x = x.step(1, sh)?.step(2, sw)?.reshape(&[n_pixels, ci_group])?;
        return matmul::matmul(&x.transpose()?, &d_out.reshape(&[n_pixels, co])?)?.reshape(&w);
    }
    let runtime = x.runtime();
    let n_rows = kh * kw * ci_group;
    let groups = conv.groups;
    let rows = rows(n_rows);
    // Workgroups for each part of the pixels, and blocks of output channels among them.
    let threads = |n: usize| n.div_ceil(WG_SIZE as usize);
    let (n_blocks, n_each) = match variant {
        WeightVariant::Plain | WeightVariant::Matmul => (0, threads(n_rows * co)),
        WeightVariant::Subgroup => {
            let n_blocks = groups * (co / groups).div_ceil(16);
            (n_blocks, n_blocks * n_rows.div_ceil(8 * rows))
        }
        WeightVariant::Window3 => {
            let n_blocks = groups * (co / groups).div_ceil(16);
            (n_blocks, n_blocks * ci_group.div_ceil(8))
        }
        WeightVariant::Depthwise => (0, threads(kh.div_ceil(3) * kw.div_ceil(3) * co / 4)),
        WeightVariant::Tile => {
            let n_blocks = groups * (co / groups).div_ceil(64);
            (n_blocks, n_blocks * n_rows.div_ceil(64))
        }
    };
    let n_parts = if runtime.profile().is_software() {
        // So much work for every core, and what a part reads, again for each block of the weights, in a core's cache.
        let bytes = 4 * (x.len() + d_out.len()) / n_pixels;
        (16 / n_each).max(n_pixels * bytes / CACHED).min(n_pixels / 256)
    } else {
        (1024 / n_each).min(n_pixels / 128)
    };
    // Tiles take two rounds of loops to a pixel, and a few more.
    let n_parts = n_parts.max(n_pixels.div_ceil(LOOP_ROUNDS / 4)).max(1);
    let part = n_pixels.div_ceil(n_parts).next_multiple_of(4);
    let n_parts = n_pixels.div_ceil(part);
    let out = Tensor::empty(runtime, &[n_parts, kh, kw, ci_group, co], DType::F32)?;
    let params = ConvBwdParams {
        n_parts: n_parts as u32,
        part: part as u32,
        n_blocks: n_blocks as u32,
        ..params(x_shape, w, d_out, conv)?
    };
    let n_groups = match variant {
        WeightVariant::Plain | WeightVariant::Matmul => threads(n_parts * n_rows * co),
        WeightVariant::Depthwise => threads(n_parts * kh.div_ceil(3) * kw.div_ceil(3) * co / 4),
        _ => n_parts * n_each,
    };
    let kernel = variant.kernel();
    let overrides = match variant {
        WeightVariant::Window3 => [("STEP_X", conv.stride[1] as u32)],
        _ => [("ROWS", rows as u32)],
    };
    let bytes = (x.len() + d_out.len()) * x.dtype().bytes() + out.len() * 4;
    runtime
        .launch(kernel)
        .types(&[x.dtype()])
        .overrides(&overrides[..kernel.overrides.len()])
        .bind([x.binding(), d_out.binding(), out.binding()])
        .params(&params)
        .groups(n_groups as u64)
        .rounds(3 * part + 64)
        .cost(flops(w, d_out), bytes as u64)
        .run()?;
    if n_parts == 1 {
        return elementwise::cast(&out.reshape(&w)?, x.dtype());
    }
    reduce::sum_as(&out, &[0], x.dtype())
}

/// Rows per invocation of the register kernels: 9 share more of what they read, 4 leave fewer lanes idle.
fn rows(n_rows: usize) -> usize {
    let filled = |rows: usize| n_rows.div_ceil(8 * rows) * 8 * rows;
    if 4 * filled(9) <= 5 * filled(4) { 9 } else { 4 }
}

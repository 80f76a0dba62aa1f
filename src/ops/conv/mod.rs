//! Two-dimensional convolution of images `[n, h, w, c]`: stride, padding, dilation, groups; bias, residual and
//! activation fused.

mod backward;
mod tuned;

pub use backward::{
    InputVariant, KERNELS as BWD_KERNELS, WeightVariant, input_gradient, input_gradient_with, weight_gradient,
    weight_gradient_with,
};

use super::act::{ACT, Act};
use super::elementwise::activate;
use super::tune::defaults::{Defaults, up_to};
use super::{matmul, reduce};
use crate::autograd::{record, refuse, wants};
use crate::runtime::{
    Bind::{Read, Write},
    Common, DeviceProfile, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");
const CONV: Common = Common { name: "conv", source: include_str!("../../../shaders/common/conv.wgsl") };
const COMMONS: &[Common] = &[INDEX, ACT, CONV];
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const BIAS: u32 = 1;
const RESIDUAL: u32 = 2;
const WG_SIZE: u64 = 64;
/// Pixels, and channels at most, that one invocation computes where it computes several.
const TILE: usize = 8;
const BLOCK: usize = 16;

/// How a convolution steps over its input; pairs are height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// Zeros on each side of the image, in pixels.
    pub padding: [usize; 2],
    /// Pixels from one tap of the window to the next.
    pub dilation: [usize; 2],
    /// Channels are split into this many groups; each output channel reads those of its own group.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl Conv2d {
    /// Height and width of the output for an input of `size` and a kernel of `kernel` pixels.
    ///
    /// # Errors
    /// [`Error::Argument`] for a stride or dilation of 0 or a number past 65,535, [`Error::Shape`] if the window does
    /// not fit the padded image.
    pub fn out_size(&self, size: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        self.out_size_for("conv2d", size, kernel)
    }

    pub(crate) fn out_size_for(&self, op: &'static str, size: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        for (name, pair) in [("stride", self.stride), ("dilation", self.dilation), ("kernel", kernel)] {
            if pair.contains(&0) {
                return Err(Error::argument(op, format!("{name} {pair:?} given, at least 1 wanted")));
            }
        }
        let largest = usize::from(u16::MAX);
        if [self.stride, self.padding, self.dilation, kernel].as_flattened().iter().any(|v| *v > largest) {
            return Err(Error::argument(op, format!("{self:?} with kernel {kernel:?} passes {largest}")));
        }
        let mut out = [0; 2];
        for axis in 0..2 {
            let window = (kernel[axis] - 1) * self.dilation[axis] + 1;
            let padded = size[axis] + 2 * self.padding[axis];
            if window > padded {
                let name = ["high", "wide"][axis];
                return Err(Error::shape(
                    op,
                    format!("the window is {window} pixels {name}, the padded image only {padded}"),
                ));
            }
            out[axis] = (padded - window) / self.stride[axis] + 1;
        }
        Ok(out)
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ConvParams {
    n_pixels: u32,
    n_blocks: u32,
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
    operands: u32,
}

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("conv", entry, SOURCE, &[Read, Read, Read, Read, Write])
        .commons(COMMONS)
        .params::<ConvParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(ACTS)
}

const ALL_ACTS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];
const ACTS: &[(&str, &[u32])] = &[("ACT", ALL_ACTS)];
const CONV_PLAIN_FWD: Kernel = kernel("conv_plain_fwd");
const CONV_REGISTERS_FWD: Kernel = kernel("conv_registers_fwd");
const CONV_SUBGROUP_FWD: Kernel = kernel("conv_subgroup_fwd").needs(&[Need::SubgroupOf(8)]);
const CONV_STEM_FWD: Kernel = kernel("conv_stem_fwd").needs(&[Need::SubgroupOf(8)]);
const CONV_DEPTHWISE_FWD: Kernel = kernel("conv_depthwise_fwd");
const CONV_DEPTHWISE3_FWD: Kernel = kernel("conv_depthwise3_fwd");
const CONV_TILE_FWD: Kernel = kernel("conv_tile_fwd").overrides(&[("ACT", ALL_ACTS), ("LANES_O", &[8, 4])]);

/// On cooperative matrices of 16, tiles of 128 and of 64.
const fn coop(overrides: &'static [(&'static str, &'static [u32])]) -> Kernel {
    let source = include_str!("../../../shaders/conv_coop.wgsl");
    Kernel::new("conv_coop", "conv_coop_16_fwd", source, &[Read, Read, Read, Read, Write])
        .commons(&[INDEX, ACT, CONV, matmul::COOP])
        .params::<ConvParams>()
        .types(&["Elem"], &[&[DType::F16]])
        .overrides(overrides)
        .needs(&[Need::Cooperative(16)])
}

const COOPERATIVE_16: Kernel = coop(&[("ACT", ALL_ACTS), ("TILE", &[128])]);
const COOPERATIVE_16_SMALL: Kernel = coop(&[("ACT", ALL_ACTS), ("TILE", &[64])]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    CONV_PLAIN_FWD,
    CONV_REGISTERS_FWD,
    CONV_SUBGROUP_FWD,
    CONV_STEM_FWD,
    CONV_DEPTHWISE_FWD,
    CONV_DEPTHWISE3_FWD,
    CONV_TILE_FWD,
    COOPERATIVE_16,
    COOPERATIVE_16_SMALL,
];

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One output per invocation, any shape: what the others are checked against.
    Plain,
    /// 8 pixels x 16 channels per invocation in registers; channels of a group in fours, in and out.
    Registers,
    /// The same with weights broadcast, on adapters whose subgroups have 8 invocations.
    Subgroup,
    /// As `Subgroup`, for any number of input channels; output channels of a group in fours.
    Stem,
    /// One input channel per output channel, channels in fours.
    Depthwise,
    /// As `Depthwise`, for windows of 3 x 3 side by side: two rows of 8 pixels share what they read.
    Depthwise3,
    /// 64 x 64 outputs per workgroup through workgroup memory, any shape: what real GPUs want.
    Tile,
    /// 128 pixels x 32 channels per workgroup, any shape.
    TileNarrow,
    /// [`matmul::linear`] over the pixels: 1 x 1 windows side by side without padding, groups or residual.
    Matmul,
    /// f16, 128 pixels x 128 channels per workgroup on cooperative matrices of 16: one group, channels in fours, in and
    /// out; adapters that have them, where they are asked for.
    Cooperative16,
    /// f16, 64 pixels x 64 channels per workgroup on cooperative matrices of 16.
    Cooperative16Small,
}

impl Variant {
    /// Every variant.
    pub const ALL: &[Self] = &[
        Self::Plain,
        Self::Registers,
        Self::Subgroup,
        Self::Stem,
        Self::Depthwise,
        Self::Depthwise3,
        Self::Tile,
        Self::TileNarrow,
        Self::Matmul,
        Self::Cooperative16,
        Self::Cooperative16Small,
    ];

    fn kernel(self) -> &'static Kernel {
        match self {
            // Its kernels are those of another family, which runs on every adapter, as plain does.
            Self::Plain | Self::Matmul => &CONV_PLAIN_FWD,
            Self::Registers => &CONV_REGISTERS_FWD,
            Self::Subgroup => &CONV_SUBGROUP_FWD,
            Self::Stem => &CONV_STEM_FWD,
            Self::Depthwise => &CONV_DEPTHWISE_FWD,
            Self::Depthwise3 => &CONV_DEPTHWISE3_FWD,
            Self::Tile | Self::TileNarrow => &CONV_TILE_FWD,
            Self::Cooperative16 => &COOPERATIVE_16,
            Self::Cooperative16Small => &COOPERATIVE_16_SMALL,
        }
    }

    /// Pixels and channels of a tile on cooperative matrices.
    fn cooperative_tile(self) -> usize {
        if self == Self::Cooperative16 { 128 } else { 64 }
    }

    /// Whether it computes convolutions with weights `[kh, kw, ci / groups, co]` and no residual on this adapter.
    #[must_use]
    pub fn fits(self, profile: &DeviceProfile, dtype: DType, w: [usize; 4], conv: &Conv2d) -> bool {
        let [kh, kw, ci_group, co] = w;
        let co_group = co / conv.groups.max(1);
        let shape = match self {
            Self::Plain | Self::Tile | Self::TileNarrow => true,
            Self::Registers | Self::Subgroup => ci_group.is_multiple_of(4) && co_group.is_multiple_of(4),
            Self::Stem => co_group.is_multiple_of(4),
            Self::Depthwise => ci_group == 1 && co_group == 1 && co.is_multiple_of(4),
            Self::Depthwise3 => {
                let side_by_side = [kh, kw] == [3; 2] && conv.stride == [1; 2] && conv.dilation == [1; 2];
                Self::Depthwise.fits(profile, dtype, w, conv) && side_by_side
            }
            Self::Cooperative16 | Self::Cooperative16Small => {
                let in_fours = ci_group > 0 && ci_group.is_multiple_of(4) && co.is_multiple_of(4);
                dtype == DType::F16 && conv.groups == 1 && in_fours
            }
            Self::Matmul => [kh, kw] == [1; 2] && *conv == Conv2d { dilation: conv.dilation, ..Conv2d::default() },
        };
        shape && self.kernel().runs_on(profile, &[dtype])
    }
}

/// `act(x * w + bias)`: images `[n, h, w, ci]` and weights `[kh, kw, ci / groups, co]` to `[n, ho, wo, co]`, bias
/// `[co]`. As in PyTorch the window is not turned around, and rows and columns that no window reaches are left out.
///
/// ```no_run
/// use leanvision::ops::{Act, conv::{self, Conv2d}};
/// # use leanvision::{DType, DeviceChoice, Runtime, Tensor};
/// # let runtime = Runtime::new(&DeviceChoice::default())?;
/// let x = Tensor::zeros(&runtime, &[1, 32, 32, 3], DType::F32)?;
/// let w = Tensor::zeros(&runtime, &[3, 3, 3, 16], DType::F32)?;
/// let same = Conv2d { padding: [1, 1], ..Conv2d::default() };
/// assert_eq!(conv::conv2d(&x, &w, None, &same, Act::Relu)?.shape(), [1, 32, 32, 16]);
/// # Ok::<(), leanvision::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the shapes do not go together or the window does not fit the padded image,
/// [`Error::Argument`] for a stride, dilation or group count of 0, [`Error::DType`] unless all are of one float type,
/// [`Error::Limit`] on software adapters for windows of so many numbers that the loops over them would be cut short.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: &Conv2d, act: Act) -> Result<Tensor> {
    recorded("conv2d", x, w, bias, None, conv, act)
}

/// `act(x * w + bias + residual)`: [`conv2d`] with a tensor of the output's shape `[n, ho, wo, co]` added before the
/// activation, as at the end of a residual block.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_residual(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    residual: &Tensor,
    conv: &Conv2d,
    act: Act,
) -> Result<Tensor> {
    recorded("conv2d_residual", x, w, bias, Some(residual), conv, act)
}

fn recorded(
    op: &'static str,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    conv: &Conv2d,
    act: Act,
) -> Result<Tensor> {
    let inputs = [x, w, bias.unwrap_or(x), residual.unwrap_or(x)];
    let wanted = wants(&inputs);
    if wanted && !act.is_by_result() {
        return activate(&recorded(op, x, w, bias, residual, conv, Act::None)?, act);
    }
    let [bias_in, residual_in] = [bias, residual].map(|operand| operand.map(Tensor::detach));
    let problem = Problem::new(op, &x.detach(), &w.detach(), bias_in.as_ref(), residual_in.as_ref(), conv, act)?;
    let out = problem.run(problem.tuned())?;
    if !wanted {
        return Ok(out);
    }
    let saved_out = (act != Act::None).then(|| out.clone());
    let (x_shape, w_shape, conv) = (backward::four(x)?, backward::four(w)?, *conv);
    let [wants_bias, wants_residual] = [bias, residual].map(|operand| operand.is_some_and(Tensor::needs_grad));
    // Frozen weights need no input kept, and frozen inputs no weights.
    let (x_in, w_in) = (w.needs_grad().then_some(problem.x), x.needs_grad().then_some(problem.w));
    Ok(record(op, out, inputs, move |d, _| {
        let d = saved_out.as_ref().map_or_else(|| Ok(d.clone()), |out| act.backward(out, d))?.contiguous()?;
        let d_x = w_in.map(|w| backward::checked_input_gradient(&d, &w, x_shape, &conv)).transpose()?;
        let d_w = x_in.map(|x| backward::checked_weight_gradient(&x, &d, w_shape, &conv)).transpose()?;
        let d_bias = wants_bias.then(|| reduce::sum(&d, &[0, 1, 2], false)).transpose()?;
        Ok([d_x, d_w, d_bias, wants_residual.then_some(d)])
    }))
}

/// [`conv2d`], or [`conv2d_residual`] with a residual, by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`conv2d`], and [`Error::Feature`] if the variant does not take the shape or the adapter not the variant.
pub fn conv2d_with(
    variant: Variant,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    conv: &Conv2d,
    act: Act,
) -> Result<Tensor> {
    refuse("conv2d_with", &[x, w, bias.unwrap_or(x), residual.unwrap_or(x)])?;
    let problem = Problem::new("conv2d_with", x, w, bias, residual, conv, act)?;
    if !problem.fits(variant) {
        return Err(Error::Feature {
            what: format!("conv2d {variant:?} of x {:?} and w {:?}", x.shape(), w.shape()),
            feature: "another shape or another adapter".into(),
            adapter: x.runtime().profile().name.clone(),
        });
    }
    problem.run(variant)
}

/// Height and width in one word.
fn pair([h, w]: [usize; 2]) -> u32 {
    h as u32 | (w as u32) << 16
}

/// A checked convolution: its operands, row-major, and its sizes.
struct Problem {
    x: Tensor,
    w: Tensor,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
    conv: Conv2d,
    act: Act,
    shape: [usize; 4],
    params: ConvParams,
}

impl Problem {
    fn new(
        op: &'static str,
        x: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        conv: &Conv2d,
        act: Act,
    ) -> Result<Self> {
        let (&[n, h, width, ci], &[kh, kw, ci_group, co]) = (x.shape(), w.shape()) else {
            let given = format!("x {:?} and w {:?} given", x.shape(), w.shape());
            return Err(Error::shape(op, format!("{given}; x [n, h, w, ci] and w [kh, kw, ci / groups, co] wanted")));
        };
        for (name, operand) in [("w", Some(w)), ("bias", bias), ("residual", residual)] {
            let Some(operand) = operand else { continue };
            if !x.runtime().same(operand.runtime()) {
                return Err(Error::argument(op, format!("x and {name} live on different devices")));
            }
            if x.dtype() != operand.dtype() || !x.dtype().is_float() {
                let given = format!("x {} and {name} {} given", x.dtype(), operand.dtype());
                return Err(Error::dtype(op, format!("{given}, one float type wanted")));
            }
        }
        let groups = conv.groups;
        if groups == 0 || !ci.is_multiple_of(groups) || !co.is_multiple_of(groups) {
            return Err(Error::argument(op, format!("{groups} groups do not divide {ci} channels in, {co} out")));
        }
        if ci_group * groups != ci {
            let given = format!("x {:?} has {ci} channels and w {:?} takes {ci_group}", x.shape(), w.shape());
            return Err(Error::shape(op, format!("{given} in each of {groups} groups")));
        }
        let [ho, wo] = conv.out_size_for(op, [h, width], [kh, kw])?;
        let shape = [n, ho, wo, co];
        if let Some(bias) = bias.filter(|bias| bias.shape() != [co]) {
            return Err(Error::shape(op, format!("bias {:?} given, [{co}] wanted", bias.shape())));
        }
        if let Some(residual) = residual.filter(|residual| residual.shape() != shape) {
            return Err(Error::shape(op, format!("residual {:?} given, {shape:?} wanted", residual.shape())));
        }
        let mut problem = Self::bare(x, w, conv, shape)?;
        problem.bias = bias.map(Tensor::contiguous).transpose()?;
        problem.residual = residual.map(Tensor::contiguous).transpose()?;
        problem.params.operands = if bias.is_some() { BIAS } else { 0 } | if residual.is_some() { RESIDUAL } else { 0 };
        problem.act = act;
        Ok(problem)
    }

    /// Without bias, residual and activation, to any `shape`: windows may start or end anywhere outside the image.
    fn bare(x: &Tensor, w: &Tensor, conv: &Conv2d, shape: [usize; 4]) -> Result<Self> {
        let ([_, h, width, ci], [kh, kw, ci_group, co]) = (backward::four(x)?, backward::four(w)?);
        let [n, ho, wo, _] = shape;
        let params = ConvParams {
            n_pixels: (n * ho * wo) as u32,
            n_blocks: 0,
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
            operands: 0,
        };
        let (x, w) = (x.contiguous()?, w.contiguous()?);
        Ok(Self { x, w, bias: None, residual: None, conv: *conv, act: Act::None, shape, params })
    }

    fn fits(&self, variant: Variant) -> bool {
        let &[kh, kw, ci_group, co] = self.w.shape() else { return false };
        let same_size = self.x.shape()[1..3] == self.shape[1..3];
        if variant == Variant::Matmul && (self.residual.is_some() || !same_size) {
            return false;
        }
        variant.fits(self.x.runtime().profile(), self.x.dtype(), [kh, kw, ci_group, co], &self.conv)
    }

    /// The variant expected to be fastest, without trying.
    fn choose(&self) -> Variant {
        let channels = self.params.co_group as usize;
        let ladder = up_to(Defaults::of(self.x.runtime().profile()).conv, channels).unwrap_or_default();
        match ladder.iter().find(|variant| self.fits(**variant)) {
            Some(Variant::Tile) => self.tile(channels),
            Some(variant) => *variant,
            None => Variant::Plain,
        }
    }

    /// The tiles for `channels` of a group.
    fn tile(&self, channels: usize) -> Variant {
        // Large ones once they are enough to fill a large GPU, and not for a few channels.
        let n_tiles = u64::from(self.params.n_pixels).div_ceil(128) * channels.div_ceil(128) as u64;
        let large_from = Defaults::of(self.x.runtime().profile()).cooperative_large_from;
        let large = channels > 64 && n_tiles >= large_from;
        let cooperative = if large { Variant::Cooperative16 } else { Variant::Cooperative16Small };
        if channels >= 32 && self.fits(cooperative) {
            return cooperative;
        }
        // Half of a wide tile would compute what nobody stores.
        if channels.div_ceil(32) % 2 == 1 { Variant::TileNarrow } else { Variant::Tile }
    }

    /// Loop rounds of one invocation, at most.
    fn rounds(&self, variant: Variant) -> usize {
        let (taps, ci) = (self.w.shape()[0] * self.w.shape()[1], self.params.ci_group as usize);
        match variant {
            Variant::Plain => taps * (5 + ci),
            Variant::Registers | Variant::Subgroup => taps * (14 + ci / 4) + 64,
            Variant::Stem => taps * (14 + ci) + 64,
            Variant::Depthwise | Variant::Depthwise3 => taps * 14 + 64,
            // Steps of 16, each with that many rounds, up to 40 to stage the operands and one for each loop left.
            Variant::Tile | Variant::TileNarrow => (taps * ci).div_ceil(16) * 64 + taps + 128,
            // Panels of 32, each with up to four rounds, gone through up to four times by one or two large subgroups.
            Variant::Cooperative16 | Variant::Cooperative16Small => (taps * ci).div_ceil(32) * 16 + 128,
            Variant::Matmul => 0,
        }
    }

    fn flops(&self) -> u64 {
        let taps: usize = self.w.shape()[..3].iter().product();
        2 * (self.shape.iter().product::<usize>() * taps) as u64
    }

    fn run(&self, variant: Variant) -> Result<Tensor> {
        if variant == Variant::Matmul {
            let [n, h, w, co] = self.shape;
            let ci = self.params.ci as usize;
            let (x, weights) = (self.x.reshape(&[n * h * w, ci])?, self.w.reshape(&[ci, co])?);
            return matmul::linear(&x, &weights, self.bias.as_ref(), self.act)?.reshape(&self.shape);
        }
        let out = Tensor::empty(self.x.runtime(), &self.shape, self.x.dtype())?;
        let mut params = self.params;
        let [n, ho, wo, co] = self.shape;
        let n_pixels = n * ho * wo;
        let n_groups = self.conv.groups;
        let blocks = |size: usize| n_groups * (co / n_groups).div_ceil(size);
        let threads = |n: usize| (n as u64).div_ceil(WG_SIZE);
        // The size that kernels with two overrides are compiled for.
        let (groups, size) = match variant {
            Variant::Plain | Variant::Matmul => (threads(out.len()), 0),
            Variant::Registers | Variant::Subgroup | Variant::Stem => {
                params.n_blocks = blocks(BLOCK) as u32;
                ((n_pixels.div_ceil(8 * TILE) * blocks(BLOCK)) as u64, 0)
            }
            Variant::Depthwise => (threads(n_pixels.div_ceil(TILE) * (co / 4)), 0),
            Variant::Depthwise3 => (threads(n * ho.div_ceil(2) * wo.div_ceil(TILE) * (co / 4)), 0),
            Variant::Tile | Variant::TileNarrow => {
                let lanes_o = if variant == Variant::Tile { 8 } else { 4 };
                params.n_blocks = blocks(8 * lanes_o) as u32;
                ((n_pixels.div_ceil(512 / lanes_o) * blocks(8 * lanes_o)) as u64, lanes_o)
            }
            Variant::Cooperative16 | Variant::Cooperative16Small => {
                let tile = variant.cooperative_tile();
                params.n_blocks = blocks(tile) as u32;
                ((n_pixels.div_ceil(tile) * blocks(tile)) as u64, tile)
            }
        };
        let second = variant.kernel().overrides.get(1).map_or("", |(name, _)| *name);
        let overrides = [("ACT", self.act.code()), (second, size as u32)];
        // What is absent is never read, so the weights stand in for it.
        let [bias, residual] =
            [&self.bias, &self.residual].map(|operand| operand.as_ref().unwrap_or(&self.w).binding());
        let n_elements = self.x.len() + self.w.len() + out.len() * if self.residual.is_some() { 2 } else { 1 };
        self.x
            .runtime()
            .launch(variant.kernel())
            .types(&[self.x.dtype()])
            .overrides(&overrides[..variant.kernel().overrides.len()])
            .bind([self.x.binding(), self.w.binding(), bias, residual, out.binding()])
            .params(&params)
            .groups(groups)
            .rounds(self.rounds(variant))
            .cost(self.flops(), (n_elements * self.x.dtype().bytes()) as u64)
            .run()?;
        Ok(out)
    }
}

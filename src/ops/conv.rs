//! Two-dimensional convolution of images `[n, h, w, c]`: stride, padding, dilation, groups; bias, residual and
//! activation fused.

use super::act::{ACT, Act};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/conv.wgsl");
const COMMONS: &[Common] = &[INDEX, ACT];
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const BIAS: u32 = 1;
const RESIDUAL: u32 = 2;
const WG_SIZE: u64 = 64;

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
    act: u32,
}

const CONV_PLAIN_FWD: Kernel = Kernel::new("conv", "conv_plain_fwd", SOURCE, &[Read, Read, Read, Read, Write])
    .commons(COMMONS)
    .params::<ConvParams>()
    .types(&["Elem"], &[FLOATS]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[CONV_PLAIN_FWD];

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
/// [`Error::Argument`] for a stride, dilation or group count of 0, [`Error::DType`] unless all are of one float type.
pub fn conv2d(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: &Conv2d, act: Act) -> Result<Tensor> {
    launch(&Problem::new("conv2d", x, w, bias, None, conv, act)?)
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
    launch(&Problem::new("conv2d_residual", x, w, bias, Some(residual), conv, act)?)
}

/// A checked convolution: its operands, row-major, and its sizes.
struct Problem {
    x: Tensor,
    w: Tensor,
    bias: Option<Tensor>,
    residual: Option<Tensor>,
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
        let pair = |[h, w]: [usize; 2]| h as u32 | (w as u32) << 16;
        let bit = |there: bool, bit: u32| if there { bit } else { 0 };
        let params = ConvParams {
            n_pixels: (n * ho * wo) as u32,
            h: h as u32,
            w: width as u32,
            ci: ci as u32,
            ho: ho as u32,
            wo: wo as u32,
            co: co as u32,
            ci_group: ci_group as u32,
            co_group: (co / groups) as u32,
            kernel: pair([kh, kw]),
            stride: pair(conv.stride),
            padding: pair(conv.padding),
            dilation: pair(conv.dilation),
            operands: bit(bias.is_some(), BIAS) | bit(residual.is_some(), RESIDUAL),
            act: act.code(),
        };
        Ok(Self {
            x: x.contiguous()?,
            w: w.contiguous()?,
            bias: bias.map(Tensor::contiguous).transpose()?,
            residual: residual.map(Tensor::contiguous).transpose()?,
            shape,
            params,
        })
    }

    fn flops(&self) -> u64 {
        let taps: usize = self.w.shape()[..3].iter().product();
        2 * (self.shape.iter().product::<usize>() * taps) as u64
    }
}

fn launch(p: &Problem) -> Result<Tensor> {
    let out = Tensor::empty(p.x.runtime(), &p.shape, p.x.dtype())?;
    // What is absent is never read, so the weights stand in for it.
    let [bias, residual] = [&p.bias, &p.residual].map(|operand| operand.as_ref().unwrap_or(&p.w).binding());
    let n_elements = p.x.len() + p.w.len() + out.len() * if p.residual.is_some() { 2 } else { 1 };
    p.x.runtime()
        .launch(&CONV_PLAIN_FWD)
        .types(&[p.x.dtype()])
        .bind([p.x.binding(), p.w.binding(), bias, residual, out.binding()])
        .params(&p.params)
        .groups((out.len() as u64).div_ceil(WG_SIZE))
        .cost(p.flops(), (n_elements * p.x.dtype().bytes()) as u64)
        .run()?;
    Ok(out)
}

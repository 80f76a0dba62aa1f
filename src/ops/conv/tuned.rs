//! The choice of convolution's variants by trying.

use super::backward::{flops, four, weight_gradient_by};
use super::{BWD_KERNELS, Conv2d, InputVariant, KERNELS, Problem, Variant, WeightVariant, input_gradient_with, matmul};
use crate::Result;
use crate::ops::tune::{Question, Variants, choose, noise, rounding};
use crate::runtime::{Kernel, Runtime};
use crate::tensor::{DType, Tensor};

impl Variants for Variant {
    const ALL: &'static [Self] = Self::ALL;
}

impl Variants for InputVariant {
    const ALL: &'static [Self] = Self::ALL;
}

impl Variants for WeightVariant {
    const ALL: &'static [Self] = Self::ALL;
}

const ALL_KERNELS: &[&[Kernel]] = &[KERNELS, BWD_KERNELS, matmul::KERNELS];
/// Operations above which a plain kernel is no candidate: it would be slow to try.
const PLAIN_FLOPS: u64 = 1 << 24;

/// What decides about speed, of weights `w` and results of `n_pixels`.
fn sizes(n_pixels: usize, w: [usize; 4], conv: &Conv2d) -> [(&'static str, usize); 3] {
    [("pixels", n_pixels), ("in", w[2]), ("out", w[3] / conv.groups.max(1))]
}

fn exact(w: [usize; 4], conv: &Conv2d, act: u32, cooperative: bool) -> [(&'static str, usize); 8] {
    let [kh, kw, ci_group, co] = w;
    let fours = |n: usize| usize::from(n.is_multiple_of(4));
    [
        ("kernel", if kh == kw { kh } else { 128 + kh * kw % 128 }),
        ("stride", conv.stride[0] * conv.stride[1]),
        ("dilated", usize::from(conv.dilation != [1; 2])),
        ("groups", conv.groups.next_power_of_two().ilog2() as usize),
        ("fours_in", fours(ci_group)),
        ("fours_out", fours(co / conv.groups.max(1))),
        ("act", act as usize),
        // Another list of candidates, where they were asked for.
        ("cooperative", usize::from(cooperative)),
    ]
}

fn cooperative(runtime: &Runtime, dtype: DType) -> bool {
    dtype == DType::F16 && Variant::Cooperative16.kernel().runs_on(runtime.profile(), &[dtype])
}

/// A small convolution of the same kind: fewer channels, groups and pixels.
struct Probe {
    x: Tensor,
    w: Tensor,
    conv: Conv2d,
    /// `[n, ho, wo, co]`.
    shape: [usize; 4],
}

impl Probe {
    fn new(runtime: &Runtime, dtype: DType, w: [usize; 4], wo: usize, conv: &Conv2d) -> Result<Self> {
        let [kh, kw, ci_group, co] = w;
        let co_group = co / conv.groups.max(1);
        // As many as the kind has in fours, or as few.
        let fewer = |n: usize| {
            if n <= 40 {
                n
            } else if n.is_multiple_of(4) {
                40
            } else {
                37
            }
        };
        let (groups, ci_group, co_group) = (conv.groups.min(16), fewer(ci_group), fewer(co_group));
        let conv = Conv2d { groups, ..*conv };
        let size = |out: usize, taps: usize, axis: usize| {
            let padded = (out - 1) * conv.stride[axis] + (taps - 1) * conv.dilation[axis] + 1;
            padded.saturating_sub(2 * conv.padding[axis]).max(1)
        };
        let (h, width) = (size(5, kh, 0), size(if wo.is_multiple_of(4) { 12 } else { 11 }, kw, 1));
        let [ho, wo] = conv.out_size([h, width], [kh, kw])?;
        let x = noise(runtime, &[2, h, width, groups * ci_group], dtype)?;
        let w = noise(runtime, &[kh, kw, ci_group, groups * co_group], dtype)?;
        Ok(Self { x, w, conv, shape: [2, ho, wo, groups * co_group] })
    }
}

impl Problem {
    /// The fastest variant known.
    pub(super) fn tuned(&self) -> Variant {
        let default = self.choose();
        let (runtime, dtype) = (self.x.runtime(), self.x.dtype());
        let Ok(w) = four(&self.w) else { return default };
        let [n, ho, wo, co] = self.shape;
        if w.contains(&0) || n * ho * wo == 0 || self.x.is_empty() {
            return default;
        }
        let software = runtime.profile().is_software();
        let question = Question {
            op: "conv",
            dtype,
            sizes: &sizes(n * ho * wo, w, &self.conv),
            exact: &exact(w, &self.conv, self.act.code(), cooperative(runtime, dtype)),
            kernels: ALL_KERNELS,
            plain: Variant::Plain,
            fits: &|variant| {
                let expected = match variant {
                    Variant::Plain => self.flops() <= PLAIN_FLOPS,
                    Variant::Tile | Variant::TileNarrow => !software && co / self.conv.groups >= 4,
                    _ => true,
                };
                // Another problem of the kind may have longer loops.
                expected && self.fits(variant) && self.rounds(variant) <= runtime.profile().loop_rounds()
            },
            run: &|variant| Ok(vec![self.run(variant)?]),
            probe: &|variant| {
                let Probe { x, w, conv, shape } = Probe::new(runtime, dtype, w, wo, &self.conv)?;
                let bias = self.bias.as_ref().map(|_| noise(runtime, &shape[3..], dtype)).transpose()?;
                let residual = self.residual.as_ref().map(|_| noise(runtime, &shape, dtype)).transpose()?;
                let small = Self::new("conv2d", &x, &w, bias.as_ref(), residual.as_ref(), &conv, self.act)?;
                Ok(vec![small.run(variant)?])
            },
            tolerance: rounding(dtype),
        };
        choose(runtime, default, &question)
    }
}

/// The fastest variant known for the gradient of the input, of `shape`, where the forward kernels can compute it.
pub(super) fn input(d_out: &Tensor, w: &Tensor, shape: [usize; 4], conv: &Conv2d) -> InputVariant {
    const DEFAULT: InputVariant = InputVariant::Forward;
    let (runtime, dtype) = (d_out.runtime(), d_out.dtype());
    let (Ok(w_shape), Ok([n, ho, wo, _])) = (four(w), four(d_out)) else { return DEFAULT };
    let is_small = flops(w_shape, d_out) <= PLAIN_FLOPS;
    if !is_small || w_shape.contains(&0) || d_out.is_empty() {
        return DEFAULT;
    }
    let question = Question {
        op: "conv_bwd_x",
        dtype,
        sizes: &sizes(n * ho * wo, w_shape, conv),
        exact: &exact(w_shape, conv, 0, cooperative(runtime, dtype)),
        kernels: ALL_KERNELS,
        plain: InputVariant::Plain,
        fits: &|_| is_small,
        run: &|variant| Ok(vec![input_gradient_with(variant, d_out, w, shape, conv)?]),
        probe: &|variant| {
            let small = Probe::new(runtime, dtype, w_shape, wo, conv)?;
            let d_out = noise(runtime, &small.shape, dtype)?;
            Ok(vec![input_gradient_with(variant, &d_out, &small.w, four(&small.x)?, &small.conv)?])
        },
        tolerance: rounding(dtype),
    };
    choose(runtime, DEFAULT, &question)
}

/// The fastest variant known for the gradient of the weights, of shape `w`, from row-major operands.
pub(super) fn weights(x: &Tensor, d_out: &Tensor, w: [usize; 4], conv: &Conv2d) -> WeightVariant {
    let (runtime, dtype) = (x.runtime(), x.dtype());
    let [.., wo, _] = *d_out.shape() else { return WeightVariant::Plain };
    let default = WeightVariant::choose(runtime.profile(), dtype, w, wo, conv);
    if w.contains(&0) || d_out.is_empty() {
        return default;
    }
    let software = runtime.profile().is_software();
    let question = Question {
        op: "conv_bwd_w",
        dtype,
        sizes: &sizes(d_out.len() / w[3], w, conv),
        exact: &exact(w, conv, 0, cooperative(runtime, dtype)),
        kernels: ALL_KERNELS,
        plain: WeightVariant::Plain,
        fits: &|variant| {
            let expected = match variant {
                WeightVariant::Plain => flops(w, d_out) <= PLAIN_FLOPS,
                WeightVariant::Tile => !software,
                _ => true,
            };
            expected && variant.fits(runtime.profile(), dtype, w, wo, conv)
        },
        run: &|variant| Ok(vec![weight_gradient_by(variant, x, d_out, w, conv)?]),
        probe: &|variant| {
            let small = Probe::new(runtime, dtype, w, wo, conv)?;
            let d_out = noise(runtime, &small.shape, dtype)?;
            Ok(vec![weight_gradient_by(variant, &small.x, &d_out, four(&small.w)?, &small.conv)?])
        },
        tolerance: rounding(dtype),
    };
    choose(runtime, default, &question)
}

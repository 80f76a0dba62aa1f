//! Products with packed weights.

use super::backward::input_gradient;
use super::{
    Bits, Block, KERNELS, QUANT_DOT_FWD, QUANT_DOT_PLAIN_FWD, QUANT_PLAIN_FWD, QUANT_REGISTERS_FWD, QUANT_ROW_FWD,
    QUANT_TILED_FWD, QuantParams, Quantized, WG_SIZE, quantize, unpacked,
};
use crate::autograd::{record, refuse, wants};
use crate::ops::act::Act;
use crate::ops::checks::{need_float, need_one_device};
use crate::ops::rows::alone_grid;
use crate::ops::tune::defaults::{Defaults, up_to};
use crate::ops::tune::{Question, Variants, choose, noise, rounding};
use crate::ops::{elementwise, matmul, reduce};
use crate::runtime::DeviceProfile;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// How a product with packed weights is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One output per invocation: what the others are checked against.
    Plain,
    /// One row x 4 outputs per invocation, weights unpacked in registers: few rows. Not for [`linear_i8`].
    Row,
    /// Tiles in registers, 8 rows x 8 outputs, or x 4 for [`linear_i8`], operands straight from memory.
    Registers,
    /// 64 x 64 outputs of a workgroup of 64, weights unpacked on their way through workgroup memory: GPUs. Not for
    /// [`linear_i8`].
    Tiled,
    /// All weights unpacked to f32 first, then [`matmul::linear`]: so many rows that the pass over the weights is small
    /// beside the product. Not for [`linear_i8`].
    Unpacked,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Row, Self::Registers, Self::Tiled, Self::Unpacked];

    /// The variant for `n_rows` rows.
    #[must_use]
    pub fn choose(profile: &DeviceProfile, n_rows: usize) -> Self {
        up_to(Defaults::of(profile).quant, n_rows).unwrap_or(Self::Plain)
    }
}

/// `act(x w' + bias)` with packed weights, summed in f32: `x` `[.., n_inner]`, `bias` `[n_out]` to `[.., n_out]`.
///
/// The weights are frozen; gradients flow to `x` and `bias`.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless `x` and `bias` are of one float type,
/// [`Error::Limit`] on software adapters for few rows of more than 200,000 inner elements.
pub fn linear(x: &Tensor, w: &Quantized, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    const OP: &str = "quant::linear";
    let wanted = wants(&[x, bias.unwrap_or(x)]);
    if wanted && !act.is_by_result() {
        return elementwise::activate(&linear(x, w, bias, Act::None)?, act);
    }
    let operands = Operands::new(OP, x, w, bias, act)?;
    let variant = operands.tuned();
    let out = operands.run(variant)?;
    if !wanted {
        return Ok(out);
    }
    let saved_out = (act != Act::None).then(|| out.clone());
    let x_shape = x.shape().to_vec();
    let weights = x.needs_grad().then(|| w.clone());
    let wants_bias = bias.is_some_and(Tensor::needs_grad);
    let n_out = w.shape[0];
    Ok(record(OP, out, [x, bias.unwrap_or(x)], move |d, _| {
        let d = saved_out.as_ref().map_or_else(|| Ok(d.clone()), |out| act.backward(out, d))?;
        let rows = d.reshape(&[d.len() / n_out.max(1), n_out])?;
        let d_x = weights.map(|w| input_gradient(&rows, &w)?.reshape(&x_shape));
        let d_bias = wants_bias.then(|| reduce::sum(&rows, &[0], false));
        Ok([d_x.transpose()?, d_bias.transpose()?])
    }))
}

/// [`linear`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`linear`], and [`Error::Argument`] if a gradient is wanted.
pub fn linear_with(variant: Variant, x: &Tensor, w: &Quantized, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    const OP: &str = "quant::linear_with";
    refuse(OP, &[x, bias.unwrap_or(x)])?;
    Operands::new(OP, x, w, bias, act)?.run(variant)
}

/// `act(x w' + bias)` in integers, summed in i32 within a block: `x` `[.., n_inner]` is brought to 8 bits row by row,
/// `w` has 8 bits, `bias` `[n_out]`; to `[.., n_out]`.
///
/// An output is off from that of [`linear`] by at most `max |x_row| / 253` times the sum of the output's `|w|`, and
/// commonly by some thousandths of the outputs' spread. A row that holds NaN, an infinity or a magnitude of 2^127 and
/// more is NaN, one below 2^-100 counts as zeros.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless `x` and `bias` are of one float type,
/// [`Error::Argument`] for weights of 4 bits and if a gradient is wanted, [`Error::Limit`] on software adapters for more
/// than 100,000 inner elements.
pub fn linear_i8(x: &Tensor, w: &Quantized, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    linear_i8_with(Variant::Registers, x, w, bias, act)
}

/// [`linear_i8`] by one variant, plain or registers, for tests and benchmarks.
///
/// # Errors
/// As [`linear_i8`], and [`Error::Argument`] for another variant.
pub fn linear_i8_with(variant: Variant, x: &Tensor, w: &Quantized, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    const OP: &str = "linear_i8";
    refuse(OP, &[x, bias.unwrap_or(x)])?;
    if w.bits != Bits::Int8 {
        return Err(Error::argument(OP, format!("weights of {} bits given, 8 wanted", w.bits.count())));
    }
    Operands::new(OP, x, w, bias, act)?.run_i8(OP, variant)
}

pub(super) fn as_type(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype { Ok(x.clone()) } else { elementwise::cast(x, dtype) }
}

impl Variants for Variant {
    const ALL: &'static [Self] = &Self::ALL;
}

/// A product in the terms of the kernels.
#[derive(Clone)]
struct Operands<'a> {
    /// `[n_rows, n_inner]`, without history.
    x: Tensor,
    w: &'a Quantized,
    bias: Option<Tensor>,
    act: Act,
    n_rows: usize,
    shape: Vec<usize>,
}

impl<'a> Operands<'a> {
    fn new(op: &'static str, x: &Tensor, w: &'a Quantized, bias: Option<&Tensor>, act: Act) -> Result<Self> {
        need_float(op, x)?;
        need_one_device(op, x, [Some(&w.words), bias].into_iter().flatten())?;
        let [n_out, n_inner] = w.shape;
        let Some((_, front)) = x.shape().split_last().filter(|(last, _)| **last == n_inner) else {
            let given = format!("x {:?} and w [{n_out}, {n_inner}] given", x.shape());
            return Err(Error::shape(op, format!("{given}, [.., {n_inner}] wanted for x")));
        };
        if let Some(bias) = bias {
            if bias.shape() != [n_out] {
                let given = format!("w [{n_out}, {n_inner}] and bias {:?}", bias.shape());
                return Err(Error::shape(op, format!("{given} differ in n_out")));
            }
            if bias.dtype() != x.dtype() {
                let given = format!("x {} and bias {} given", x.dtype(), bias.dtype());
                return Err(Error::dtype(op, format!("{given}, one float type wanted")));
            }
        }
        let n_rows = front.iter().product();
        let shape = [front, &[n_out]].concat();
        let bias = bias.map(|bias| bias.detach().contiguous()).transpose()?;
        Ok(Self { x: x.detach().reshape(&[n_rows, n_inner])?, w, bias, act, n_rows, shape })
    }

    /// The fastest variant known.
    fn tuned(&self) -> Variant {
        const OP: &str = "quant::linear";
        let (runtime, dtype) = (self.w.runtime(), self.x.dtype());
        let ([n_out, n_inner], n_rows) = (self.w.shape, self.n_rows);
        let default = Variant::choose(runtime.profile(), n_rows);
        if n_rows * n_out * n_inner == 0 {
            return default;
        }
        let any = !n_inner.is_multiple_of(4) || !n_out.is_multiple_of(4);
        let question = Question {
            op: OP,
            dtype,
            sizes: &[("rows", n_rows), ("outputs", n_out), ("inner", n_inner)],
            exact: &[
                ("code", self.w.bits.code() as usize),
                ("row_scale", usize::from(self.w.block == Block::Row)),
                ("any", usize::from(any)),
                ("act", self.act.code() as usize),
            ],
            kernels: &[KERNELS, matmul::KERNELS],
            plain: Variant::Plain,
            fits: &|variant| match variant {
                // Only ever worth it where nothing else runs.
                Variant::Plain => false,
                Variant::Row => n_rows <= 64,
                Variant::Tiled => !runtime.profile().is_software(),
                Variant::Registers | Variant::Unpacked => true,
            },
            run: &|variant| Ok(vec![self.clone().run(variant)?]),
            probe: &|variant| {
                let [n_out, n_inner] = if any { [71, 131] } else { [72, 132] };
                let w = quantize(&noise(runtime, &[n_out, n_inner], DType::F32)?, self.w.bits, self.w.block)?;
                let bias = self.bias.as_ref().map(|_| noise(runtime, &[n_out], dtype)).transpose()?;
                let x = noise(runtime, &[67, n_inner], dtype)?;
                Ok(vec![Operands::new(OP, &x, &w, bias.as_ref(), self.act)?.run(variant)?])
            },
            tolerance: rounding(dtype),
        };
        choose(runtime, default, &question)
    }

    fn params(&self) -> QuantParams {
        QuantParams {
            n_rows: self.n_rows as u32,
            n_row_quads: self.n_rows.div_ceil(4) as u32,
            bias: u32::from(self.bias.is_some()),
            ..self.w.params()
        }
    }

    fn flops(&self) -> u64 {
        2 * (self.n_rows * self.w.shape[0] * self.w.shape[1]) as u64
    }

    fn run(self, variant: Variant) -> Result<Tensor> {
        let [n_out, n_inner] = self.w.shape;
        let n_quads = n_out.div_ceil(4);
        let any = u32::from(!n_inner.is_multiple_of(4) || !n_out.is_multiple_of(4));
        let runtime = self.w.runtime();
        let row_tiles = self.n_rows.div_ceil(8);
        let (kernel, n_threads, rounds) = match variant {
            Variant::Plain => (&QUANT_PLAIN_FWD, self.n_rows * n_out, n_inner + 1),
            Variant::Row => (&QUANT_ROW_FWD, self.n_rows * n_quads, self.w.rounds()),
            Variant::Registers => (&QUANT_REGISTERS_FWD, row_tiles * n_quads.div_ceil(2), self.w.rounds()),
            Variant::Tiled => {
                (&QUANT_TILED_FWD, 64 * self.n_rows.div_ceil(64) * n_quads.div_ceil(16), n_inner.div_ceil(16) * 18 + 32)
            }
            Variant::Unpacked => return self.run_unpacked(),
        };
        let x = self.x.contiguous()?;
        let out = Tensor::empty(runtime, &self.shape, x.dtype())?;
        let (size, groups) = match variant {
            Variant::Plain | Variant::Tiled => (0, (n_threads as u64).div_ceil(WG_SIZE)),
            _ => alone_grid(runtime, n_threads),
        };
        let values = [("CODE", self.w.bits.code()), ("ACT", self.act.code()), ("ANY", any), ("WG_SIZE", size)];
        let bytes = (x.len() + out.len()) * x.dtype().bytes() + self.w.bytes();
        runtime
            .launch(kernel)
            .types(&[x.dtype()])
            .overrides(&values[..kernel.overrides.len()])
            .bind([
                x.binding(),
                self.w.words.binding(),
                self.w.scales.binding(),
                // What is absent is never read, so x stands in for it.
                self.bias.as_ref().unwrap_or(&x).binding(),
                out.binding(),
            ])
            .params(&self.params())
            .groups(groups)
            .rounds(rounds)
            .cost(self.flops(), bytes as u64)
            .run()?;
        Ok(out)
    }

    fn run_unpacked(self) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| as_type(bias, DType::F32)).transpose()?;
        let x = as_type(&self.x, DType::F32)?;
        let out = matmul::linear(&x, &unpacked(self.w)?, bias.as_ref(), self.act)?;
        as_type(&out, self.x.dtype())?.reshape(&self.shape)
    }

    fn run_i8(self, op: &'static str, variant: Variant) -> Result<Tensor> {
        let [n_out, n_inner] = self.w.shape;
        let any = u32::from(!n_inner.is_multiple_of(4) || !n_out.is_multiple_of(4));
        let runtime = self.w.runtime();
        let (kernel, (size, groups)) = match variant {
            Variant::Plain => (&QUANT_DOT_PLAIN_FWD, (0, ((self.n_rows * n_out) as u64).div_ceil(WG_SIZE))),
            Variant::Registers => (&QUANT_DOT_FWD, alone_grid(runtime, self.n_rows.div_ceil(8) * n_out.div_ceil(4))),
            other => return Err(Error::argument(op, format!("{other:?} given, Plain or Registers wanted"))),
        };
        if n_inner == 0 {
            // Nothing to sum, and no block whose scale a row could have.
            return self.run(variant);
        }
        let x = quantize(&self.x, Bits::Int8, Block::Row)?;
        let out = Tensor::empty(runtime, &self.shape, self.x.dtype())?;
        let values = [("ACT", self.act.code()), ("ANY", any), ("WG_SIZE", size)];
        runtime
            .launch(kernel)
            .types(&[out.dtype()])
            .overrides(&values[..kernel.overrides.len()])
            .bind([
                x.words.binding(),
                self.w.words.binding(),
                self.w.scales.binding(),
                self.bias.as_ref().unwrap_or(&x.scales).binding(),
                out.binding(),
                x.scales.binding(),
            ])
            .params(&self.params())
            .groups(groups)
            .rounds(self.w.rounds())
            .cost(self.flops(), (x.bytes() + self.w.bytes() + out.len() * out.dtype().bytes()) as u64)
            .run()?;
        Ok(out)
    }
}

//! Weights in 8 and 4 bits: what a frozen layer needs in a quarter or an eighth of the memory, and products with them.
//!
//! ```no_run
//! use leanvision::ops::{Act, quant::{self, Bits, Block}};
//! use leanvision::{DeviceChoice, Runtime, Tensor};
//! # let runtime = Runtime::new(&DeviceChoice::default())?;
//! let w = Tensor::from_slice(&runtime, &[0.5_f32; 10 * 64], &[10, 64])?;
//! let w = quant::quantize(&w, Bits::Int4, Block::Of32)?;
//! let x = Tensor::from_slice(&runtime, &[1.0_f32; 3 * 64], &[3, 64])?;
//! assert_eq!(quant::linear(&x, &w, None, Act::None)?.shape(), [3, 10]);
//! # Ok::<(), leanvision::Error>(())
//! ```

use super::act::{ACT, Act};
use super::checks::{need_float, need_one_device};
use super::rows::{ALONE_SIZES, alone_grid};
use super::tune::defaults::{Defaults, up_to};
use super::tune::{Question, Variants, choose, noise, rounding};
use super::{elementwise, matmul, reduce};
use crate::autograd::{record, refuse, wants};
use crate::runtime::{
    Bind::{self, Read, Write},
    DeviceProfile, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/quant.wgsl");
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const WG_SIZE: u64 = 64;
/// Words whose integer products fit the sum of an i32: 65,536 products of up to 127 x 127.
const CHUNK_WORDS: usize = 16_384;

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct QuantParams {
    n_rows: u32,
    n_cols: u32,
    n_inner: u32,
    n_words: u32,
    n_quads: u32,
    n_row_quads: u32,
    block_words: u32,
    chunk_words: u32,
    bias: u32,
}

/// Override constants and the values in use.
type Overrides = &'static [(&'static str, &'static [u32])];

const BITS: (&str, &[u32]) = ("BITS", &[8, 4]);
const ACTS: (&str, &[u32]) = ("ACT", &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
const ANY: (&str, &[u32]) = ("ANY", &[0, 1]);
const SIZES: (&str, &[u32]) = ("WG_SIZE", ALONE_SIZES);

const fn kernel(entry: &'static str, binds: &'static [Bind], overrides: Overrides) -> Kernel {
    Kernel::new("quant", entry, SOURCE, binds)
        .commons(&[INDEX, ACT])
        .params::<QuantParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(overrides)
}

const OPERANDS: &[Bind] = &[Read, Read, Read, Read, Write];
const DOT_OPERANDS: &[Bind] = &[Read, Read, Read, Read, Write, Read];

const QUANT_PACK_FWD: Kernel = kernel("quant_pack_fwd", &[Read, Write, Write], &[BITS]);
const QUANT_UNPACK_FWD: Kernel =
    kernel("quant_unpack_fwd", &[Read, Read, Write], &[BITS]).types(&["Elem"], &[&[DType::F32]]);
const QUANT_PLAIN_FWD: Kernel = kernel("quant_plain_fwd", OPERANDS, &[BITS, ACTS]);
const QUANT_ROW_FWD: Kernel = kernel("quant_row_fwd", OPERANDS, &[BITS, ACTS, ANY, SIZES]);
const QUANT_REGISTERS_FWD: Kernel = kernel("quant_registers_fwd", OPERANDS, &[BITS, ACTS, ANY, SIZES]);
const QUANT_TILED_FWD: Kernel = kernel("quant_tiled_fwd", OPERANDS, &[BITS, ACTS, ANY]);
const QUANT_DOT_PLAIN_FWD: Kernel = kernel("quant_dot_plain_fwd", DOT_OPERANDS, &[ACTS]);
const QUANT_DOT_FWD: Kernel = kernel("quant_dot_fwd", DOT_OPERANDS, &[ACTS, ANY, SIZES]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    QUANT_PACK_FWD,
    QUANT_UNPACK_FWD,
    QUANT_PLAIN_FWD,
    QUANT_ROW_FWD,
    QUANT_REGISTERS_FWD,
    QUANT_TILED_FWD,
    QUANT_DOT_PLAIN_FWD,
    QUANT_DOT_FWD,
];

/// The size of an integer, in two's complement and symmetric: its smallest value stays unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bits {
    /// -127 to 127, four to a word.
    Int8,
    /// -7 to 7, eight to a word.
    Int4,
}

impl Bits {
    /// Bits of one integer.
    #[must_use]
    pub fn count(self) -> u32 {
        match self {
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Integers of one word.
    #[must_use]
    pub fn per_word(self) -> usize {
        32 / self.count() as usize
    }

    /// The largest integer in use.
    #[must_use]
    pub fn largest(self) -> u32 {
        (1 << (self.count() - 1)) - 1
    }
}

/// How many neighbours along the inner axis share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// 32 of them.
    Of32,
    /// 64 of them.
    Of64,
    /// 128 of them.
    Of128,
    /// All of an output.
    Row,
}

impl Block {
    /// Every size.
    pub const ALL: [Self; 4] = [Self::Of32, Self::Of64, Self::Of128, Self::Row];

    /// Elements of a block where outputs have `n_inner`; at least 1.
    #[must_use]
    pub fn len(self, n_inner: usize) -> usize {
        match self {
            Self::Of32 => 32,
            Self::Of64 => 64,
            Self::Of128 => 128,
            Self::Row => n_inner.max(1),
        }
    }
}

/// A weight matrix `[n_out, n_inner]`, one row per output, as integers of 8 or 4 bits with an f32 scale per block.
///
/// Weight `[o, l]` is `scale[l / block, o] * integer[o, l]`, exact in f32: scales have 15 significant bits. In memory,
/// outputs lie side by side, their number rounded up to a multiple of 4:
/// - words, u32 `[n_words, n_out rounded up]`: word `j` of output `o` holds the integers `l = j n .. (j + 1) n` (`n` is 4
///   or 8), in two's complement, the first in the lowest bits;
/// - scales, f32 `[n_blocks, n_out rounded up]`.
///
/// What lies past the last output or inner index is 0.
#[derive(Debug, Clone)]
pub struct Quantized {
    words: Tensor,
    scales: Tensor,
    shape: [usize; 2],
    bits: Bits,
    block: Block,
}

impl Quantized {
    /// Outputs and inner elements: `[n_out, n_inner]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The size of its integers.
    #[must_use]
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// How many neighbours share a scale.
    #[must_use]
    pub fn block(&self) -> Block {
        self.block
    }

    /// The integers, u32 `[n_words, n_out rounded up to 4]`, in the layout that the type describes.
    #[must_use]
    pub fn words(&self) -> &Tensor {
        &self.words
    }

    /// The scales, f32 `[n_blocks, n_out rounded up to 4]`.
    #[must_use]
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// What integers and scales take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len())
    }

    fn runtime(&self) -> &Runtime {
        self.words.runtime()
    }

    fn params(&self) -> QuantParams {
        let [n_out, n_inner] = self.shape;
        let n_words = n_inner.div_ceil(self.bits.per_word());
        let block_words = self.block.len(n_inner).div_ceil(self.bits.per_word());
        QuantParams {
            n_cols: n_out as u32,
            n_inner: n_inner as u32,
            n_words: n_words as u32,
            n_quads: n_out.div_ceil(4) as u32,
            block_words: block_words as u32,
            chunk_words: block_words.min(CHUNK_WORDS) as u32,
            ..QuantParams::default()
        }
    }

    /// Loop rounds of an invocation that goes through an output word by word.
    fn rounds(&self) -> usize {
        let p = self.params();
        (p.n_words + 2 * p.n_words.div_ceil(p.chunk_words) + 32) as usize
    }
}

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

/// A weight matrix in fewer bits: f32 or f16 `[n_out, n_inner]`, one row per output.
///
/// The scale of a block is its largest magnitude over 127 or 7, rounded to 15 significant bits so that integer times
/// scale is exact in f32; each integer is the one nearest to weight over scale, ties to even. Every adapter finds the
/// same ones. A block below 2^-100 becomes zeros, one with NaN, an infinity or a magnitude of 2^127 and more NaN.
///
/// # Errors
/// [`Error::Shape`] unless `w` has two axes, [`Error::DType`] unless it is a float tensor, [`Error::Argument`] if it
/// wants a gradient, [`Error::Limit`] on software adapters for [`Block::Row`] past 130,000 inner elements.
pub fn quantize(w: &Tensor, bits: Bits, block: Block) -> Result<Quantized> {
    const OP: &str = "quantize";
    refuse(OP, &[w])?;
    need_float(OP, w)?;
    let dims = check(OP, &[("w", w, "n_out n_inner")])?;
    let [n_out, n_inner] = [dims.get("n_out"), dims.get("n_inner")];
    let n_outputs = n_out.next_multiple_of(4);
    let n_blocks = n_inner.div_ceil(block.len(n_inner));
    let w = w.contiguous()?;
    let runtime = w.runtime();
    let out = Quantized {
        words: Tensor::empty(runtime, &[n_inner.div_ceil(bits.per_word()), n_outputs], DType::U32)?,
        scales: Tensor::empty(runtime, &[n_blocks, n_outputs], DType::F32)?,
        shape: [n_out, n_inner],
        bits,
        block,
    };
    let params = out.params();
    let words = params.block_words.min(params.n_words) as usize;
    runtime
        .launch(&QUANT_PACK_FWD)
        .types(&[w.dtype()])
        .overrides(&[("BITS", bits.count())])
        .bind([w.binding(), out.words.binding(), out.scales.binding()])
        .params(&params)
        .groups((out.scales.len() as u64).div_ceil(WG_SIZE))
        .rounds(words * (bits.per_word() / 4 + 1) + 2)
        .cost(2 * w.len() as u64, (w.len() * w.dtype().bytes() + out.bytes()) as u64)
        .run()?;
    Ok(out)
}

/// The weights that the integers stand for: f32 `[n_out, n_inner]`, a transposed view. NaN where the scale is.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn dequantize(w: &Quantized) -> Result<Tensor> {
    unpacked(w)?.transpose()
}

/// The weights as `[n_inner, n_out]`.
fn unpacked(w: &Quantized) -> Result<Tensor> {
    let [n_out, n_inner] = w.shape;
    let out = Tensor::empty(w.runtime(), &[n_inner, n_out.next_multiple_of(4)], DType::F32)?;
    w.runtime()
        .launch(&QUANT_UNPACK_FWD)
        .overrides(&[("BITS", w.bits.count())])
        .bind([w.words.binding(), w.scales.binding(), out.binding()])
        .params(&w.params())
        .groups((w.words.len() as u64 / 4).div_ceil(WG_SIZE))
        .cost(out.len() as u64, (w.bytes() + 4 * out.len()) as u64)
        .run()?;
    out.slice(1, 0..n_out)
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
        let d_x = weights.map(|w| {
            let d_x = matmul::matmul(&as_type(&rows, DType::F32)?, &dequantize(&w)?)?;
            as_type(&d_x, d.dtype())?.reshape(&x_shape)
        });
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

fn as_type(x: &Tensor, dtype: DType) -> Result<Tensor> {
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
                ("bits", self.w.bits.count() as usize),
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
        let values = [("BITS", self.w.bits.count()), ("ACT", self.act.code()), ("ANY", any), ("WG_SIZE", size)];
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

//! Weights in 8 and 4 bits: what a frozen layer needs in a quarter or an eighth of the memory, and products with them.
//! Gradients flow through the products to their inputs.
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

mod backward;
mod linear;

pub use backward::input_gradient_with;
pub use linear::{Variant, linear, linear_i8, linear_i8_with, linear_with};

use super::act::ACT;
use super::checks::need_float;
use super::rows::ALONE_SIZES;
use crate::Result;
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{self, Read, Write},
    INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use std::ops::Range;

const SOURCE: &str = include_str!("../../../shaders/quant.wgsl");
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
    first_word: u32,
}

/// Override constants and the values in use.
type Overrides = &'static [(&'static str, &'static [u32])];

const CODE: (&str, &[u32]) = ("CODE", &[0, 1, 2]);
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

const QUANT_PACK_FWD: Kernel = kernel("quant_pack_fwd", &[Read, Write, Write], &[CODE]);
const QUANT_UNPACK_FWD: Kernel =
    kernel("quant_unpack_fwd", &[Read, Read, Write], &[CODE]).types(&["Elem"], &[&[DType::F32]]);
const QUANT_PLAIN_FWD: Kernel = kernel("quant_plain_fwd", OPERANDS, &[CODE, ACTS]);
const QUANT_ROW_FWD: Kernel = kernel("quant_row_fwd", OPERANDS, &[CODE, ACTS, ANY, SIZES]);
const QUANT_REGISTERS_FWD: Kernel = kernel("quant_registers_fwd", OPERANDS, &[CODE, ACTS, ANY, SIZES]);
const QUANT_TILED_FWD: Kernel = kernel("quant_tiled_fwd", OPERANDS, &[CODE, ACTS, ANY]);
const QUANT_PLAIN_BWD_X: Kernel = kernel("quant_plain_bwd_x", &[Read, Read, Read, Write], &[CODE]);
const QUANT_REGISTERS_BWD_X: Kernel = kernel("quant_registers_bwd_x", OPERANDS, &[CODE, ANY, SIZES]);
const QUANT_TILED_BWD_X: Kernel = kernel("quant_tiled_bwd_x", OPERANDS, &[CODE, ANY]);
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
    QUANT_PLAIN_BWD_X,
    QUANT_REGISTERS_BWD_X,
    QUANT_TILED_BWD_X,
    QUANT_DOT_PLAIN_FWD,
    QUANT_DOT_FWD,
];

/// The levels of [`Bits::Nf4`], each half of the bell curve's mass in equal shares, 0 and both ends among them: the numbers of
/// `QLoRA` (Dettmers et al. 2023, arXiv 2305.14314, appendix E), exact in f32.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// What a weight becomes: a small multiple of its block's scale. Integers are in two's complement and symmetric: their
/// smallest value stays unused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bits {
    /// An integer, -127 to 127, four to a word.
    Int8,
    /// An integer, -7 to 7, eight to a word.
    Int4,
    /// `NormalFloat` of 4 bits: one of the 16 levels [`NF4`], by its number, eight to a word.
    Nf4,
}

impl Bits {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int4, Self::Nf4];

    /// Bits of one weight.
    #[must_use]
    pub fn count(self) -> u32 {
        match self {
            Self::Int8 => 8,
            Self::Int4 | Self::Nf4 => 4,
        }
    }

    /// Weights of one word.
    #[must_use]
    pub fn per_word(self) -> usize {
        32 / self.count() as usize
    }

    /// The largest multiple of a scale.
    #[must_use]
    pub fn largest(self) -> u32 {
        match self {
            Self::Int8 => 127,
            Self::Int4 => 7,
            Self::Nf4 => 1,
        }
    }

    /// Its number in the shader.
    fn code(self) -> u32 {
        match self {
            Self::Int8 => 0,
            Self::Int4 => 1,
            Self::Nf4 => 2,
        }
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

/// A weight matrix `[n_out, n_inner]`, one row per output, in 8 or 4 bits with an f32 scale per block.
///
/// Weight `[o, l]` is `scale[l / block, o]` times an integer, which is exact in f32, as scales have 15 significant bits; or
/// times a level of [`NF4`], rounded once. In memory, outputs lie side by side, their number rounded up to a multiple of 4:
/// - words, u32 `[n_words, n_out rounded up]`: word `j` of output `o` holds the weights `l = j n .. (j + 1) n` (`n` is 4
///   or 8), the first in the lowest bits, as integers in two's complement or numbers of levels;
/// - scales, f32 `[n_blocks, n_out rounded up]`.
///
/// What lies past the last output or inner index stands for 0.
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

    /// What its weights became.
    #[must_use]
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// How many neighbours share a scale.
    #[must_use]
    pub fn block(&self) -> Block {
        self.block
    }

    /// The words, u32 `[n_words, n_out rounded up to 4]`, in the layout that the type describes.
    #[must_use]
    pub fn words(&self) -> &Tensor {
        &self.words
    }

    /// The scales, f32 `[n_blocks, n_out rounded up to 4]`.
    #[must_use]
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// What words and scales take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len())
    }

    fn runtime(&self) -> &Runtime {
        self.words.runtime()
    }

    /// Words of an output.
    fn n_words(&self) -> usize {
        self.shape[1].div_ceil(self.bits.per_word())
    }

    fn params(&self) -> QuantParams {
        let [n_out, n_inner] = self.shape;
        let n_words = self.n_words();
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

/// A weight matrix in fewer bits: f32 or f16 `[n_out, n_inner]`, one row per output.
///
/// The scale of a block is its largest magnitude over 127 or 7, rounded to 15 significant bits so that integer times
/// scale is exact in f32; each integer is the one nearest to weight over scale, ties to even. For [`Bits::Nf4`] it is the
/// largest magnitude itself, and each level the nearest one: above those whose middle to the next, times the scale in f32, is
/// less than the weight. Every adapter finds the same ones. A block below 2^-100 becomes zeros, one with NaN, an
/// infinity or a magnitude of 2^127 and more NaN.
///
/// # Errors
/// [`crate::Error::Shape`] unless `w` has two axes, [`crate::Error::DType`] unless it is a float tensor, [`crate::Error::Argument`] if it
/// wants a gradient, [`crate::Error::Limit`] on software adapters for [`Block::Row`] past 130,000 inner elements.
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
        .overrides(&[("CODE", bits.code())])
        .bind([w.binding(), out.words.binding(), out.scales.binding()])
        .params(&params)
        .groups((out.scales.len() as u64).div_ceil(WG_SIZE))
        .rounds(words * (bits.per_word() / 4 + 1) + 2)
        .cost(2 * w.len() as u64, (w.len() * w.dtype().bytes() + out.bytes()) as u64)
        .run()?;
    Ok(out)
}

/// The weights that the words stand for: f32 `[n_out, n_inner]`, a transposed view. NaN where the scale is.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn dequantize(w: &Quantized) -> Result<Tensor> {
    unpacked(w)?.transpose()
}

/// The weights as `[n_inner, n_out]`.
fn unpacked(w: &Quantized) -> Result<Tensor> {
    unpacked_words(w, 0..w.n_words())
}

/// Those of some words of each output, as `[inner indices, n_out]`.
fn unpacked_words(w: &Quantized, words: Range<usize>) -> Result<Tensor> {
    let [n_out, n_inner] = w.shape;
    let per_word = w.bits.per_word();
    let n_rows = n_inner.min(words.end * per_word) - words.start * per_word;
    let n_outputs = n_out.next_multiple_of(4);
    let out = Tensor::empty(w.runtime(), &[n_rows, n_outputs], DType::F32)?;
    let params = QuantParams { n_words: words.end as u32, first_word: words.start as u32, ..w.params() };
    w.runtime()
        .launch(&QUANT_UNPACK_FWD)
        .overrides(&[("CODE", w.bits.code())])
        .bind([w.words.binding(), w.scales.binding(), out.binding()])
        .params(&params)
        .groups(((words.len() * n_outputs) as u64 / 4).div_ceil(WG_SIZE))
        .cost(out.len() as u64, (4 * words.len() * n_outputs + 4 * out.len()) as u64)
        .run()?;
    out.slice(1, 0..n_out)
}

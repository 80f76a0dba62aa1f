//! The gradient of a product's input: a product with the weights the other way round, unpacked on the way.

use super::linear::as_type;
use super::{
    KERNELS, QUANT_PLAIN_BWD_X, QUANT_REGISTERS_BWD_X, QUANT_TILED_BWD_X, QuantParams, Quantized, Variant, WG_SIZE,
    quantize, unpacked_words,
};
use crate::autograd::refuse;
use crate::ops::checks::{need_float, need_one_device};
use crate::ops::rows::alone_grid;
use crate::ops::tune::defaults::{Defaults, up_to};
use crate::ops::tune::{Question, choose, noise, rounding};
use crate::ops::{gather, matmul};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

/// Weights unpacked at a time at most, in bytes.
const UNPACKED_BYTES: usize = 8 << 20;

/// `d w`: `d` `[rows, n_out]` to `[rows, n_inner]`, without history.
pub(super) fn input_gradient(d: &Tensor, w: &Quantized) -> Result<Tensor> {
    const OP: &str = "quant::linear_bwd";
    let (runtime, dtype, n_rows) = (d.runtime(), d.dtype(), d.shape()[0]);
    let [n_out, n_inner] = w.shape;
    let default = up_to(Defaults::of(runtime.profile()).quant_bwd, n_rows).unwrap_or(Variant::Plain);
    if n_rows * n_out * n_inner == 0 {
        return run(default, d, w);
    }
    let question = Question {
        op: OP,
        dtype,
        sizes: &[("rows", n_rows), ("outputs", n_out), ("inner", n_inner)],
        exact: &[("code", w.bits.code() as usize), ("any", any(w) as usize)],
        kernels: &[KERNELS, matmul::KERNELS],
        plain: Variant::Plain,
        fits: &|variant| match variant {
            // Only ever worth it where nothing else runs.
            Variant::Plain | Variant::Row => false,
            Variant::Tiled => !runtime.profile().is_software(),
            Variant::Registers | Variant::Unpacked => true,
        },
        run: &|variant| Ok(vec![run(variant, d, w)?]),
        probe: &|variant| {
            let [n_out, n_inner] = if any(w) == 1 { [71, 131] } else { [72, 132] };
            let w = quantize(&noise(runtime, &[n_out, n_inner], DType::F32)?, w.bits, w.block)?;
            Ok(vec![run(variant, &noise(runtime, &[67, n_out], dtype)?, &w)?])
        },
        tolerance: rounding(dtype),
    };
    run(choose(runtime, default, &question), d, w)
}

/// The gradient of the input of [`super::linear`] by one variant, for tests and benchmarks: `d` `[rows, n_out]` times the
/// weights, `[rows, n_inner]`.
///
/// [`Variant::Unpacked`] unpacks 8 MiB of weights at a time at most, the others only what they have in hand.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless `d` is a float tensor, [`Error::Argument`] for
/// [`Variant::Row`] and if a gradient is wanted.
pub fn input_gradient_with(variant: Variant, d: &Tensor, w: &Quantized) -> Result<Tensor> {
    const OP: &str = "quant::input_gradient_with";
    refuse(OP, &[d])?;
    need_float(OP, d)?;
    need_one_device(OP, d, [&w.words])?;
    let n_out = check(OP, &[("d", d, "rows n_out")])?.get("n_out");
    if n_out != w.shape[0] {
        return Err(Error::shape(OP, format!("d {:?} and w {:?} differ in n_out", d.shape(), w.shape)));
    }
    run(variant, d, w)
}

/// 1 unless rows of `d` and of the result lie in fours.
fn any(w: &Quantized) -> u32 {
    u32::from(!w.shape.iter().all(|n| n.is_multiple_of(4)))
}

fn run(variant: Variant, d: &Tensor, w: &Quantized) -> Result<Tensor> {
    let ([n_out, n_inner], n_rows) = (w.shape, d.shape()[0]);
    let (kernel, n_threads, rounds) = match variant {
        Variant::Plain => (&QUANT_PLAIN_BWD_X, n_rows * n_inner, n_out + 1),
        Variant::Registers => {
            (&QUANT_REGISTERS_BWD_X, n_rows.div_ceil(8) * n_inner.div_ceil(8), n_out.div_ceil(4) + 32)
        }
        Variant::Tiled => {
            (&QUANT_TILED_BWD_X, 64 * n_rows.div_ceil(64) * n_inner.div_ceil(64), n_out.div_ceil(16) * 18 + 32)
        }
        Variant::Unpacked => return by_parts(d, w),
        Variant::Row => return Err(Error::argument("quant::input_gradient", "Row has no gradient of its own")),
    };
    let runtime = w.runtime();
    let d = d.contiguous()?;
    let out = Tensor::empty(runtime, &[n_rows, n_inner], d.dtype())?;
    let mut bindings = vec![d.binding(), w.words.binding(), w.scales.binding()];
    if variant != Variant::Plain {
        // There is no bias; what is absent is never read.
        bindings.push(d.binding());
    }
    bindings.push(out.binding());
    let (size, groups) = match variant {
        Variant::Registers => alone_grid(runtime, n_threads),
        _ => (0, (n_threads as u64).div_ceil(WG_SIZE)),
    };
    let values = [("CODE", w.bits.code()), ("ANY", any(w)), ("WG_SIZE", size)];
    let params =
        QuantParams { n_rows: n_rows as u32, n_cols: n_inner as u32, n_inner: n_out as u32, bias: 0, ..w.params() };
    runtime
        .launch(kernel)
        .types(&[d.dtype()])
        .overrides(&values[..kernel.overrides.len()])
        .bind(bindings)
        .params(&params)
        .groups(groups)
        .rounds(rounds)
        .cost(2 * (n_rows * n_out * n_inner) as u64, ((d.len() + out.len()) * d.dtype().bytes() + w.bytes()) as u64)
        .run()?;
    Ok(out)
}

/// Some inner indices at a time, so that the unpacked weights stay few.
fn by_parts(d: &Tensor, w: &Quantized) -> Result<Tensor> {
    let dtype = d.dtype();
    let d = as_type(d, DType::F32)?;
    let word_bytes = 4 * w.bits.per_word() * w.shape[0].next_multiple_of(4);
    let step = (UNPACKED_BYTES / word_bytes.max(1)).max(1);
    let parts: Vec<Tensor> = (0..w.n_words().max(1))
        .step_by(step)
        .map(|first| {
            let words = unpacked_words(w, first..(first + step).min(w.n_words()))?;
            matmul::matmul(&d, &words.transpose()?)
        })
        .collect::<Result<_>>()?;
    let whole = match parts.as_slice() {
        [part] => part.clone(),
        parts => gather::concat(&parts.iter().collect::<Vec<_>>(), 1)?,
    };
    as_type(&whole, dtype)
}

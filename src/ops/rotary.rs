//! Rotary positions: pairs of elements of queries and keys turned by angles that grow with the token's position, so that
//! their products depend on how far apart tokens are (Su et al. 2021, arXiv 2104.09864).

use super::checks::{need_float, need_one_device, need_types};
use crate::autograd::record;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/rotary.wgsl");
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const WG_SIZE: u64 = 64;
/// Invocations that keep an adapter busy: from there on each takes several heads, whose angles are the same.
const BUSY: usize = 1 << 16;
/// The same for the few cores of a software adapter.
const SOFTWARE_BUSY: usize = 4096;
/// Heads of one invocation at most.
const HEADS_EACH: usize = 1024;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RotaryParams {
    n: u32,
    n_units: u32,
    n_heads: u32,
    heads_each: u32,
    n_shares: u32,
    start: u32,
    stride_token: u32,
    stride_head: u32,
    stride_element: u32,
    back: u32,
}

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("rotary", entry, SOURCE, &[Read, Read, Read, Write])
        .types(&["Elem"], &[FLOATS])
        .params::<RotaryParams>()
        .overrides(&[("HALVES", &[0, 1])])
}

const ROTARY_PLAIN_FWD: Kernel = kernel("rotary_plain_fwd");
const ROTARY_VEC4_FWD: Kernel = kernel("rotary_vec4_fwd");

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[ROTARY_PLAIN_FWD, ROTARY_VEC4_FWD];

/// Which elements of a head make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Neighbours, `2 i` and `2 i + 1`: the paper, Llama's own code, llama2.c.
    Adjacent,
    /// `i` and `i + d / 2`: Hugging Face's and GPT-NeoX's weights.
    Halves,
}

/// Turns pair `i` of every head of every token by `position * base^(-2 i / d)` radians: `x` `[T, heads, d]`, `positions` u32
/// `[T]` to the shape and type of `x`.
///
/// Angles are exact to 2^-32 turns up to position 2^24, cosines and sines to 2e-7. `x` may be a view, such as a slice of a
/// packed projection: it is read where it lies. The gradient is turned back.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit or `d` is odd, [`Error::DType`] unless `x` is a float tensor and `positions`
/// are u32, [`Error::Argument`] unless `base` is positive and finite.
pub fn rotate(x: &Tensor, positions: &Tensor, base: f32, style: Style) -> Result<Tensor> {
    const OP: &str = "rotate";
    need_float(OP, x)?;
    need_types(OP, &[("positions", positions, DType::U32)])?;
    need_one_device(OP, x, [positions])?;
    let d = check(OP, &[("x", x, "T heads d"), ("positions", positions, "T")])?.get("d");
    if !d.is_multiple_of(2) {
        return Err(Error::shape(OP, format!("x {:?} given, an even number of elements to a head wanted", x.shape())));
    }
    if !(base > 0.0 && base.is_finite()) {
        return Err(Error::argument(OP, format!("base {base} given, a positive number wanted")));
    }
    let turn = Turn { positions: positions.contiguous()?, base, style };
    let out = turn.run(&x.detach(), false)?;
    Ok(record(OP, out, [x], move |d, _| Ok([Some(turn.run(d, true)?)])))
}

/// By how much to turn whom.
struct Turn {
    positions: Tensor,
    base: f32,
    style: Style,
}

impl Turn {
    /// `x` `[T, heads, d]` turned, `back` for the negative angles.
    fn run(&self, x: &Tensor, back: bool) -> Result<Tensor> {
        let &[n_tokens, n_heads, d] = x.shape() else {
            return Err(Error::shape("rotate", format!("{:?} given, [T, heads, d] wanted", x.shape())));
        };
        let runtime = x.runtime();
        let out = Tensor::empty(runtime, x.shape(), x.dtype())?;
        if out.is_empty() {
            return Ok(out);
        }
        let (binding, start) = x.binding_from();
        let strides = x.strides();
        let fours = d.is_multiple_of(8)
            && strides[2] == 1
            && [start as usize, strides[0], strides[1]].iter().all(|n| n.is_multiple_of(4));
        let (kernel, n_units) = if fours { (&ROTARY_VEC4_FWD, d / 8) } else { (&ROTARY_PLAIN_FWD, d / 2) };
        let busy = if runtime.profile().is_software() { SOFTWARE_BUSY } else { BUSY };
        let heads_each = (n_tokens * n_heads * n_units / busy).clamp(1, n_heads.min(HEADS_EACH));
        let n_shares = n_heads.div_ceil(heads_each);
        let n = n_tokens * n_shares * n_units;
        let params = RotaryParams {
            n: n as u32,
            n_units: n_units as u32,
            n_heads: n_heads as u32,
            heads_each: heads_each as u32,
            n_shares: n_shares as u32,
            start,
            stride_token: strides[0] as u32,
            stride_head: strides[1] as u32,
            stride_element: strides[2] as u32,
            back: u32::from(back),
        };
        let frequencies = Tensor::constant(runtime, &frequencies(self.base, d))?;
        runtime
            .launch(kernel)
            .types(&[x.dtype()])
            .overrides(&[("HALVES", u32::from(self.style == Style::Halves))])
            .bind([binding, self.positions.binding(), frequencies.binding(), out.binding()])
            .params(&params)
            .groups((n as u64).div_ceil(WG_SIZE))
            .cost(3 * out.len() as u64, (2 * out.len() * x.dtype().bytes() + 4 * (n_tokens + d)) as u64)
            .run()?;
        Ok(out)
    }
}

/// `base^(-2 i / d)` radians in units of 2^-64 turns, whole turns left out, which no whole position sees: `d / 2` high
/// words, then as many low ones.
fn frequencies(base: f32, d: usize) -> Vec<u32> {
    let word = f64::from(u32::MAX) + 1.0;
    let turns = |i: usize| (f64::from(base).powf(-2.0 * i as f64 / d as f64) / std::f64::consts::TAU).fract() * word;
    let high = (0..d / 2).map(|i| turns(i) as u32);
    high.chain((0..d / 2).map(|i| (turns(i).fract() * word) as u32)).collect()
}

//! Random tensors: bits, uniform, normal, Bernoulli, permutations, and the generator itself.
//!
//! Every element is a pure function of its [`Key`] and its index, in the layout of [`crate::philox`]: element `i` comes from
//! word `i` of the key's stream. Words, Bernoulli draws and uniform draws of `0..1` are equal bit for bit on every adapter
//! and on the CPU; other floats may differ in the last bits, as adapters may fuse a multiplication with an addition.

use crate::runtime::{
    Bind::{self, Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The generator in WGSL, for kernels that draw their own numbers.
pub(crate) const RNG: Common = Common { name: "rng", source: include_str!("../../shaders/common/rng.wgsl") };

const SOURCE: &str = include_str!("../../shaders/random.wgsl");
const WG_SIZE: u64 = 64;

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct RandomParams {
    n_vec4: u32,
    key_0: u32,
    key_1: u32,
    step: u32,
    stream: u32,
    bound: u32,
    shift: f32,
    scale: f32,
    top: f32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("random", entry, SOURCE, binds).commons(&[INDEX, RNG]).params::<RandomParams>()
}

const BITS_FWD: Kernel = kernel("bits_fwd", &[Write]);
const BERNOULLI_FWD: Kernel = kernel("bernoulli_fwd", &[Write]);
const UNIFORM_FWD: Kernel = kernel("uniform_fwd", &[Write]);
const NORMAL_FWD: Kernel = kernel("normal_fwd", &[Write]);
const LOW_WORDS_FWD: Kernel = kernel("low_words_fwd", &[Write]);
const HIGH_WORDS_FWD: Kernel = kernel("high_words_fwd", &[Read, Write]);
const PHILOX_FWD: Kernel = kernel("philox_fwd", &[Read, Write]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] =
    &[BITS_FWD, BERNOULLI_FWD, UNIFORM_FWD, NORMAL_FWD, LOW_WORDS_FWD, HIGH_WORDS_FWD, PHILOX_FWD];

/// Who draws: two keys that differ anywhere give unrelated numbers, equal keys the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The seed of the run.
    pub seed: u64,
    /// What the numbers are for; [`crate::philox::stream`] lists the numbers in use.
    pub stream: u32,
    /// Training step, epoch or image: whatever the stream repeats over.
    pub step: u32,
}

impl Key {
    /// The key of a stream of `seed` at a step.
    #[must_use]
    pub const fn new(seed: u64, stream: u32, step: u32) -> Self {
        Self { seed, stream, step }
    }

    fn params(self, n: usize) -> RandomParams {
        RandomParams {
            n_vec4: n.div_ceil(4) as u32,
            key_0: self.seed as u32,
            key_1: (self.seed >> 32) as u32,
            step: self.step,
            stream: self.stream,
            ..RandomParams::default()
        }
    }
}

fn draw(runtime: &Runtime, shape: &[usize], dtype: DType, kernel: &Kernel, params: &RandomParams) -> Result<Tensor> {
    let out = Tensor::empty(runtime, shape, dtype)?;
    let n = out.len();
    runtime
        .launch(kernel)
        .bind([out.binding()])
        .params(params)
        .groups(u64::from(params.n_vec4).div_ceil(WG_SIZE))
        .cost(0, (n * dtype.bytes()) as u64)
        .run()?;
    Ok(out)
}

fn count(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Random words: u32 `[n]`, uniform over all 32 bits.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn bits(runtime: &Runtime, n: usize, key: Key) -> Result<Tensor> {
    draw(runtime, &[n], DType::U32, &BITS_FWD, &key.params(n))
}

/// Floats uniform in `[low, high)`: f32 of `shape`, `low + (high - low) u` with `u` a multiple of 2^-24.
///
/// # Errors
/// [`Error::Argument`] unless `low < high` and both are finite, else as [`Tensor::from_slice`].
pub fn uniform(runtime: &Runtime, shape: &[usize], low: f32, high: f32, key: Key) -> Result<Tensor> {
    let scale = high - low;
    if !(low < high && scale.is_finite()) {
        return Err(Error::argument("uniform", format!("{low}..{high} given, a finite interval wanted")));
    }
    let params = RandomParams { shift: low, scale, top: high.next_down(), ..key.params(count(shape)) };
    draw(runtime, shape, DType::F32, &UNIFORM_FWD, &params)
}

/// Normally distributed floats: f32 of `shape`, by Box-Muller from the words of each pair of neighbours, so at most 5.8
/// standard deviations from the mean.
///
/// Logarithm, sine and cosine are polynomials of our own, within 1e-6 of the exact values on any adapter.
///
/// # Errors
/// [`Error::Argument`] unless `mean` and `std` are finite and `std >= 0`, else as [`Tensor::from_slice`].
pub fn normal(runtime: &Runtime, shape: &[usize], mean: f32, std: f32, key: Key) -> Result<Tensor> {
    if !(mean.is_finite() && std.is_finite() && std >= 0.0) {
        return Err(Error::argument("normal", format!("mean {mean}, std {std} given, finite and std >= 0 wanted")));
    }
    let params = RandomParams { shift: mean, scale: std, ..key.params(count(shape)) };
    draw(runtime, shape, DType::F32, &NORMAL_FWD, &params)
}

/// Ones with probability `p`, rounded up to a multiple of 2^-24, else zeros: u32 of `shape`. An element is 1 where
/// [`uniform`] of `0..1` with the same key is below `p`.
///
/// # Errors
/// [`Error::Argument`] unless `0 <= p <= 1`, else as [`Tensor::from_slice`].
pub fn bernoulli(runtime: &Runtime, shape: &[usize], p: f32, key: Key) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&p) {
        return Err(Error::argument("bernoulli", format!("p = {p} given, 0 to 1 wanted")));
    }
    let bound = (f64::from(p) * f64::from(1 << 24)).ceil() as u32;
    let params = RandomParams { bound, ..key.params(count(shape)) };
    draw(runtime, shape, DType::U32, &BERNOULLI_FWD, &params)
}

/// The whole numbers below `n` in random order: u32 `[n]`, every order equally likely but for ties of 64 bits, which
/// `n^2 / 2^65` of the draws have.
///
/// They are sorted by 64 bits each, words `2 i` and `2 i + 1` of the key, the first of them the high half.
///
/// # Errors
/// As [`Tensor::from_slice`].
pub fn permutation(runtime: &Runtime, n: usize, key: Key) -> Result<Tensor> {
    let params = key.params(n);
    let low = draw(runtime, &[n], DType::U32, &LOW_WORDS_FWD, &params)?;
    let order = super::sort::argsort(&low, false)?;
    let high = Tensor::empty(runtime, &[n], DType::U32)?;
    runtime
        .launch(&HIGH_WORDS_FWD)
        .bind([order.binding(), high.binding()])
        .params(&params)
        .groups(u64::from(params.n_vec4).div_ceil(WG_SIZE))
        .cost(0, 8 * n as u64)
        .run()?;
    Ok(super::sort::sort_pairs(&high, &order, 0..32)?.1)
}

/// The generator on counters of one's own: u32 `[n, 4]` to u32 `[n, 4]`, Philox4x32-10 under the key `seed`.
///
/// # Errors
/// [`Error::DType`] unless the counters are u32, [`Error::Shape`] unless there are four to a row.
pub fn philox(counters: &Tensor, seed: u64) -> Result<Tensor> {
    const OP: &str = "philox";
    let n = crate::tensor::check(OP, &[("counters", counters, "n 4")])?.get("n");
    if counters.dtype() != DType::U32 {
        return Err(Error::dtype(OP, format!("{} given, u32 wanted", counters.dtype())));
    }
    let counters = counters.contiguous()?;
    let out = Tensor::empty(counters.runtime(), counters.shape(), DType::U32)?;
    counters
        .runtime()
        .launch(&PHILOX_FWD)
        .bind([counters.binding(), out.binding()])
        .params(&Key::new(seed, 0, 0).params(4 * n))
        .groups((n as u64).div_ceil(WG_SIZE))
        .cost(0, 32 * n as u64)
        .run()?;
    Ok(out)
}

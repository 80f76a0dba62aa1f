//! Attention over packed sequences, without a stored score matrix.

pub(crate) mod backward;
mod tuned;

pub use backward::attention_backward_with;

use super::tune::defaults::Defaults;
use crate::autograd::{record, refuse, wants};
use crate::runtime::{
    Bind::{self, Read, Write},
    Common, DeviceProfile, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Offsets, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/attention.wgsl");
const SHARED: Common = Common { name: "attention", source: include_str!("../../../shaders/common/attention.wgsl") };
const FAMILY: &str = "attention";
const OP: &str = "attention";

/// What the scores are scaled by and which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Attention {
    /// Whether a query sees only keys up to its own place in the sequence. Queries and keys are counted from the same
    /// start, as in PyTorch: query `i` sees keys `0..=i`, also where there are more keys than queries.
    pub causal: bool,
    /// Factor of the dot products; `1 / sqrt(d)` for heads of width `d` unless given.
    pub scale: Option<f32>,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct AttentionParams {
    base_q: u32,
    token_q: u32,
    head_q: u32,
    base_k: u32,
    token_k: u32,
    head_k: u32,
    base_v: u32,
    token_v: u32,
    head_v: u32,
    n_heads: u32,
    n_shared: u32,
    n_tiles: u32,
    n_groups: u32,
    n_dims: u32,
    causal: u32,
    scale: f32,
}

impl AttentionParams {
    /// For heads of `q` on those of `k` and `v`, which are not empty.
    fn new([q, k, v]: [&Tensor; 3], n_tiles: usize, n_groups: u32, options: &Attention) -> Self {
        let (n_heads, n_dims) = (q.shape()[1], q.shape()[2]);
        let scale = options.scale.unwrap_or(1.0 / (n_dims as f32).sqrt());
        Self {
            base_q: q.binding_from().1,
            token_q: q.strides()[0] as u32,
            head_q: q.strides()[1] as u32,
            base_k: k.binding_from().1,
            token_k: k.strides()[0] as u32,
            head_k: k.strides()[1] as u32,
            base_v: v.binding_from().1,
            token_v: v.strides()[0] as u32,
            head_v: v.strides()[1] as u32,
            n_heads: n_heads as u32,
            n_shared: (n_heads / k.shape()[1]) as u32,
            n_tiles: n_tiles as u32,
            n_groups,
            n_dims: n_dims as u32,
            causal: u32::from(options.causal),
            scale: scale * std::f32::consts::LOG2_E,
        }
    }
}

const FLOATS: &[DType] = &[DType::F32, DType::F16];
const BINDS: &[Bind] = &[Read, Read, Read, Read, Read, Write, Write];

const fn kernel(entry: &'static str, overrides: &'static [(&'static str, &'static [u32])]) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, BINDS)
        .commons(&[INDEX, SHARED])
        .params::<AttentionParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(overrides)
}

const ATTENTION_PLAIN_FWD: Kernel = kernel("attention_plain_fwd", &[]);
const ATTENTION_REGISTERS_FWD: Kernel = kernel("attention_registers_fwd", &[("BLOCKS", &[1, 2, 3, 4])]);
const ATTENTION_LANES_FWD: Kernel =
    kernel("attention_lanes_fwd", &[("BLOCKS", &[1, 2, 3, 4])]).needs(&[Need::SubgroupOf(8)]);
const ATTENTION_NARROW_FWD: Kernel = kernel("attention_narrow_fwd", &[]).needs(&[Need::SubgroupOf(8)]);
const ATTENTION_TILED_FWD: Kernel =
    kernel("attention_tiled_fwd", &[("TILE_COLS", &[16, 8, 32]), ("TILE_KEYS", &[16, 32])]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] =
    &[ATTENTION_PLAIN_FWD, ATTENTION_REGISTERS_FWD, ATTENTION_LANES_FWD, ATTENTION_NARROW_FWD, ATTENTION_TILED_FWD];

/// The ways in which attention is computed; results agree up to rounding. All but the plain one take heads of a width
/// that is a multiple of 4, and copy operands whose rows do not start at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionVariant {
    /// One query per invocation; any width of a head, any strides.
    Plain,
    /// Two queries per invocation, held in registers, and no workgroup memory: software adapters.
    Registers,
    /// As `Registers`, keys and values spread over a subgroup of 8: software adapters with 256-bit vectors.
    Lanes,
    /// As `Lanes` with three queries per invocation, for heads of up to 16.
    Narrow,
    /// Tiles of 32 queries and 16 or 32 keys in workgroup memory: GPUs.
    Tiled,
}

impl AttentionVariant {
    /// Every variant.
    pub const ALL: &[Self] = &[Self::Plain, Self::Registers, Self::Lanes, Self::Narrow, Self::Tiled];

    /// A name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Registers => "registers",
            Self::Lanes => "lanes",
            Self::Narrow => "narrow",
            Self::Tiled => "tiled",
        }
    }

    /// Whether it runs on an adapter, for heads of width `n_dims` and elements of this type.
    #[must_use]
    pub fn runs_on(self, profile: &DeviceProfile, dtype: DType, n_dims: usize) -> bool {
        self.takes(n_dims)
            && self.kernel().runs_on(profile, &[dtype])
            && (self != Self::Tiled
                || Tile::new(profile, dtype, n_dims).bytes <= profile.limits.workgroup_bytes as usize)
    }

    fn pick(profile: &DeviceProfile, dtype: DType, n_keys: usize, n_dims: usize) -> Self {
        let fits = |v: &&Self| {
            v.runs_on(profile, dtype, n_dims) && v.turns(profile, dtype, n_keys, n_dims) <= profile.loop_rounds()
        };
        Defaults::of(profile).attention.iter().find(fits).copied().unwrap_or(Self::Plain)
    }

    fn takes(self, n_dims: usize) -> bool {
        let widest = match self {
            Self::Plain => return true,
            Self::Narrow => 16,
            _ => 128,
        };
        n_dims > 0 && n_dims <= widest && n_dims.is_multiple_of(4)
    }

    fn kernel(self) -> &'static Kernel {
        match self {
            Self::Plain => &ATTENTION_PLAIN_FWD,
            Self::Registers => &ATTENTION_REGISTERS_FWD,
            Self::Lanes => &ATTENTION_LANES_FWD,
            Self::Narrow => &ATTENTION_NARROW_FWD,
            Self::Tiled => &ATTENTION_TILED_FWD,
        }
    }

    fn overrides(self, tile: Tile, n_dims: usize) -> Vec<(&'static str, u32)> {
        match self {
            Self::Plain | Self::Narrow => Vec::new(),
            Self::Registers | Self::Lanes => vec![("BLOCKS", n_dims.div_ceil(32) as u32)],
            Self::Tiled => vec![("TILE_COLS", tile.cols as u32), ("TILE_KEYS", tile.keys as u32)],
        }
    }

    /// Tiles of a sequence of `n_queries`, for one head of width `n_dims`.
    fn n_tiles(self, n_queries: usize, n_dims: usize) -> usize {
        match self {
            Self::Plain => n_queries.div_ceil(64) * n_dims.div_ceil(32),
            Self::Registers | Self::Lanes => n_queries.div_ceil(16),
            Self::Narrow => n_queries.div_ceil(24),
            Self::Tiled => n_queries.div_ceil(32),
        }
    }

    /// `x [t, heads, d]`, copied only if the elements of a head do not lie side by side, or not at whole vec4.
    fn operand(self, x: &Tensor) -> Result<Tensor> {
        let whole = |n: usize| self == Self::Plain || n.is_multiple_of(4);
        let [tokens, heads, row] = [0, 1, 2].map(|axis| x.strides()[axis]);
        let side_by_side = x.shape()[2] == 1 || row == 1;
        let fits = side_by_side && whole(tokens) && whole(heads) && whole(x.offset());
        if fits { Ok(x.clone()) } else { x.contiguous() }
    }

    /// Loop turns of one invocation, the one that finds a loop at its end included; few more than there are.
    fn turns(self, profile: &DeviceProfile, dtype: DType, n_keys: usize, n_dims: usize) -> usize {
        match self {
            Self::Plain => n_keys * (4 + n_dims / 8 + n_dims % 8 + n_dims.min(32).div_ceil(4)),
            Self::Registers | Self::Lanes => n_keys + 64,
            Self::Narrow => n_keys.div_ceil(4) + 8,
            Self::Tiled => {
                let Tile { cols, keys, .. } = Tile::new(profile, dtype, n_dims);
                let copies = 2 * (keys / 8 * (2 + cols / 8) + 1);
                n_keys.div_ceil(keys) * (copies + cols + 13 + keys / 8 + cols / 8 * (keys + 2)) + 128
            }
        }
    }
}

/// Sizes of the tiled variant.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// Of a head at most, in vec4.
    cols: usize,
    /// Keys of one turn.
    keys: usize,
    /// Workgroup memory.
    bytes: usize,
}

impl Tile {
    /// The most keys that fit.
    fn new(profile: &DeviceProfile, dtype: DType, n_dims: usize) -> Self {
        let cols = if n_dims <= 32 { 8 } else { n_dims.div_ceil(64) * 16 };
        let with = |keys: usize| {
            let rows = 4 * dtype.bytes() * (32 + keys) * (cols + 1);
            Self { cols, keys, bytes: rows + 16 * 8 * keys + 16 * 64 }
        };
        let limit = profile.limits.workgroup_bytes as usize;
        if with(32).bytes <= limit { with(32) } else { with(16) }
    }
}

/// Attention within packed sequences: `q [t, heads, d]` on `k` and `v [t, kv_heads, d]` to `[t, heads, d]`.
///
/// `heads` is a multiple of `kv_heads`; consecutive heads of `q` share one of `k` and `v`. The three may be views with
/// any strides along tokens and heads, such as slices of one packed projection `[t, 3, heads, d]`; nothing is copied as
/// long as the elements of a head lie side by side.
///
/// # Errors
/// [`Error::Shape`] if the shapes or the offsets do not fit, [`Error::DType`] unless all are of one float type,
/// [`Error::Limit`] on software adapters for sequences so long, or heads so wide, that their loops would be cut short.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, offsets: &Offsets, options: &Attention) -> Result<Tensor> {
    Ok(attention_with_lse(q, k, v, offsets, options)?.0)
}

/// As [`attention`], with the logarithm of each query's sum of exponentiated scores as well: f32 `[t, heads]`, through
/// which no gradient flows.
///
/// # Errors
/// As [`attention`].
pub fn attention_with_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: &Offsets,
    options: &Attention,
) -> Result<(Tensor, Tensor)> {
    cross_attention_with_lse(q, k, v, (offsets, offsets), options)
}

/// Attention of the queries of one set of sequences on the keys of another: sequence `i` of `q [t, heads, d]`, at
/// `offsets.0`, on sequence `i` of `k` and `v [t_k, kv_heads, d]`, at `offsets.1`; else as [`attention`].
///
/// A query whose sequence has no keys gives 0.
///
/// # Errors
/// As [`attention`], and [`Error::Shape`] if the numbers of sequences differ.
pub fn cross_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: (&Offsets, &Offsets),
    options: &Attention,
) -> Result<Tensor> {
    Ok(cross_attention_with_lse(q, k, v, offsets, options)?.0)
}

/// As [`cross_attention`], with the logarithm of each query's sum of exponentiated scores as well: f32 `[t, heads]`,
/// -1e30 for a query without keys.
///
/// # Errors
/// As [`cross_attention`].
pub fn cross_attention_with_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: (&Offsets, &Offsets),
    options: &Attention,
) -> Result<(Tensor, Tensor)> {
    let n_dims = q.shape().last().copied().unwrap_or(0);
    let default = AttentionVariant::pick(q.runtime().profile(), q.dtype(), offsets.1.max_len(), n_dims);
    let qkv = [q, k, v].map(Tensor::detach);
    let variant = tuned::forward(default, qkv.each_ref(), offsets, options);
    let (out, lse) = attention_with(variant, qkv.each_ref(), offsets, options)?;
    if !wants(&[q, k, v]) {
        return Ok((out, lse));
    }
    let (options, offsets, kv_offsets) = (*options, offsets.0.clone(), offsets.1.clone());
    let (saved_out, saved_lse) = (out.clone(), lse.clone());
    let out = record(OP, out, [q, k, v], move |d, wanted| {
        backward::gradients(
            None,
            qkv.each_ref(),
            [&saved_out, &saved_lse, d],
            (&offsets, &kv_offsets),
            &options,
            wanted,
        )
    });
    Ok((out, lse))
}

/// As [`cross_attention_with_lse`] by one variant, for tests and benchmarks; `qkv` are `[q, k, v]`.
///
/// # Errors
/// As [`cross_attention`], [`Error::Argument`] if the variant does not take heads of this width, [`Error::Feature`] or
/// [`Error::Limit`] if the adapter lacks what it needs.
pub fn attention_with(
    variant: AttentionVariant,
    [q, k, v]: [&Tensor; 3],
    (offsets, kv_offsets): (&Offsets, &Offsets),
    options: &Attention,
) -> Result<(Tensor, Tensor)> {
    refuse("attention_with", &[q, k, v])?;
    let [n_heads, _, n_dims] = check_operands([q, k, v], (offsets, kv_offsets))?;
    let (runtime, dtype) = (q.runtime(), q.dtype());
    let profile = runtime.profile();
    let tile = Tile::new(profile, dtype, n_dims);
    let limit = |what: String, asked: usize, limit: usize| {
        let what = format!("{what} of attention ({})", variant.name());
        Err(Error::Limit { what, asked: asked as u64, limit: limit as u64, adapter: profile.name.clone() })
    };
    if !variant.takes(n_dims) && !q.is_empty() {
        return Err(Error::argument(OP, format!("the {} variant does not take heads of {n_dims}", variant.name())));
    }
    let turns = variant.turns(profile, dtype, kv_offsets.max_len(), n_dims);
    if turns > profile.loop_rounds() {
        let what = format!("loop turns over {} keys of width {n_dims}", kv_offsets.max_len());
        return limit(what, turns, profile.loop_rounds());
    }
    let workgroup_bytes = profile.limits.workgroup_bytes as usize;
    if variant == AttentionVariant::Tiled && tile.bytes > workgroup_bytes {
        return limit("bytes of workgroup memory".into(), tile.bytes, workgroup_bytes);
    }
    let (q, k, v) = (variant.operand(q)?, variant.operand(k)?, variant.operand(v)?);
    let out = Tensor::empty(runtime, q.shape(), dtype)?;
    let lse = Tensor::empty(runtime, &[offsets.n_tokens(), n_heads], DType::F32)?;
    if out.is_empty() {
        return Ok((out, lse));
    }
    let n_tiles = variant.n_tiles(offsets.max_len(), n_dims);
    let n_groups = offsets.n_sequences() * n_heads * n_tiles;
    let Ok(n_groups_u32) = u32::try_from(n_groups) else {
        return Err(Error::shape(OP, format!("{n_groups} tiles of queries are more than 32 bits count")));
    };
    let params = AttentionParams::new([&q, &k, &v], n_tiles, n_groups_u32, options);
    runtime
        .launch(variant.kernel())
        .types(&[dtype])
        .overrides(&variant.overrides(tile, n_dims))
        .bind([&q, &k, &v].map(|x| x.binding_from().0))
        .bind([offsets.starts().binding(), kv_offsets.starts().binding()])
        .bind([out.binding(), lse.binding()])
        .params(&params)
        .groups(n_groups as u64)
        .cost(flops(&q, kv_offsets, options.causal), bytes(&q, &k))
        .run()?;
    Ok((out, lse))
}

/// Heads of q, heads of k and v, width of a head.
fn check_operands([q, k, v]: [&Tensor; 3], (offsets, kv_offsets): (&Offsets, &Offsets)) -> Result<[usize; 3]> {
    let dims = check(OP, &[("q", q, "t heads d"), ("k", k, "t_k kv_heads d"), ("v", v, "t_k kv_heads d")])?;
    let (n_heads, n_kv_heads) = (dims.get("heads"), dims.get("kv_heads"));
    if n_kv_heads == 0 || !n_heads.is_multiple_of(n_kv_heads) {
        return Err(Error::shape(OP, format!("{n_heads} heads of q cannot share {n_kv_heads} of k and v")));
    }
    for (name, have, offsets) in [("q", dims.get("t"), offsets), ("k", dims.get("t_k"), kv_offsets)] {
        if offsets.n_tokens() != have {
            return Err(Error::shape(OP, format!("{name} has {have} tokens, its offsets {}", offsets.n_tokens())));
        }
    }
    if offsets.n_sequences() != kv_offsets.n_sequences() {
        let (have, wanted) = (offsets.n_sequences(), kv_offsets.n_sequences());
        return Err(Error::shape(OP, format!("q has {have} sequences, k and v {wanted}")));
    }
    if !q.dtype().is_float() || k.dtype() != q.dtype() || v.dtype() != q.dtype() {
        let given = format!("q {}, k {}, v {} given", q.dtype(), k.dtype(), v.dtype());
        return Err(Error::dtype(OP, format!("{given}; one float type wanted")));
    }
    if !q.runtime().same(k.runtime()) || !q.runtime().same(v.runtime()) {
        return Err(Error::argument(OP, "the tensors live on different devices"));
    }
    Ok([n_heads, n_kv_heads, dims.get("d")])
}

/// Multiply-adds of both products count 2 each; lengths are those of the longest sequence.
fn flops(q: &Tensor, kv_offsets: &Offsets, causal: bool) -> u64 {
    let full = 4 * q.len() as u64 * kv_offsets.max_len() as u64;
    if causal { full / 2 } else { full }
}

fn bytes(q: &Tensor, k: &Tensor) -> u64 {
    (2 * (q.len() + k.len()) * q.dtype().bytes()) as u64
}

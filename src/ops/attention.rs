//! Attention over packed sequences, without a stored score matrix.

use crate::runtime::{
    Bind::{self, Read, Write},
    DeviceProfile, Kernel,
};
use crate::tensor::{DType, Offsets, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/attention.wgsl");
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
    scale: f32,
}

const FLOATS: &[DType] = &[DType::F32, DType::F16];
const BINDS: &[Bind] = &[Read, Read, Read, Read, Read, Write, Write];

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, BINDS)
        .params::<AttentionParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(&[("CAUSAL", &[0, 1])])
}

const ATTENTION_PLAIN_FWD: Kernel = kernel("attention_plain_fwd");

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[ATTENTION_PLAIN_FWD];

/// The ways in which attention is computed; results agree up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionVariant {
    /// One query per invocation; any width of a head, any strides.
    Plain,
}

impl AttentionVariant {
    /// Every variant.
    pub const ALL: &[Self] = &[Self::Plain];

    /// A name for tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
        }
    }

    /// Whether it runs on an adapter, for heads of width `n_dims` and elements of this type.
    #[must_use]
    pub fn runs_on(self, profile: &DeviceProfile, dtype: DType, n_dims: usize) -> bool {
        let wide_enough = match self {
            Self::Plain => n_dims > 0,
        };
        wide_enough && self.kernel().runs_on(profile, &[dtype])
    }

    fn kernel(self) -> &'static Kernel {
        match self {
            Self::Plain => &ATTENTION_PLAIN_FWD,
        }
    }

    /// llvmpipe ends an invocation's loops, without a word, after 65,535 turns of all of them together.
    fn check_turns(self, profile: &DeviceProfile, n_keys: usize, n_dims: usize) -> Result<()> {
        let turns = match self {
            Self::Plain => n_keys * (2 + n_dims / 8 + n_dims % 8 + n_dims.min(32).div_ceil(4)),
        };
        if turns <= 65_535 || !profile.is_software() {
            return Ok(());
        }
        Err(Error::Limit {
            what: format!("loop turns of attention ({}) over {n_keys} keys of width {n_dims}", self.name()),
            asked: turns as u64,
            limit: 65_535,
            adapter: profile.name.clone(),
        })
    }

    /// Tiles of a sequence of `n_queries`, for one head of width `n_dims`.
    fn n_tiles(self, n_queries: usize, n_dims: usize) -> usize {
        match self {
            Self::Plain => n_queries.div_ceil(64) * n_dims.div_ceil(32),
        }
    }
}

/// Attention within packed sequences: `q [t, heads, d]` on `k` and `v [t, kv_heads, d]` to `[t, heads, d]`.
///
/// `heads` is a multiple of `kv_heads`; consecutive heads of `q` share one of `k` and `v`. The three may be views with
/// any strides along tokens and heads, such as slices of one packed projection `[t, 3, heads, d]`; nothing is copied as
/// long as the elements of a head lie side by side.
///
/// # Errors
/// [`Error::Shape`] if the shapes or the offsets do not fit, [`Error::DType`] unless all are of one float type.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, offsets: &Offsets, options: &Attention) -> Result<Tensor> {
    Ok(attention_with_lse(q, k, v, offsets, options)?.0)
}

/// As [`attention`], with the logarithm of each query's sum of exponentiated scores as well: f32 `[t, heads]`.
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
    attention_with(AttentionVariant::Plain, [q, k, v], offsets, options)
}

/// As [`cross_attention_with_lse`] by one variant, for tests and benchmarks; `qkv` are `[q, k, v]`.
///
/// # Errors
/// As [`cross_attention`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn attention_with(
    variant: AttentionVariant,
    [q, k, v]: [&Tensor; 3],
    (offsets, kv_offsets): (&Offsets, &Offsets),
    options: &Attention,
) -> Result<(Tensor, Tensor)> {
    let [n_heads, n_kv_heads, n_dims] = check_operands([q, k, v], (offsets, kv_offsets))?;
    let (q, k, v) = (unit_rows(q)?, unit_rows(k)?, unit_rows(v)?);
    let runtime = q.runtime();
    let out = Tensor::empty(runtime, q.shape(), q.dtype())?;
    let lse = Tensor::empty(runtime, &[offsets.n_tokens(), n_heads], DType::F32)?;
    if out.is_empty() {
        return Ok((out, lse));
    }
    variant.check_turns(runtime.profile(), kv_offsets.max_len(), n_dims)?;
    let n_tiles = variant.n_tiles(offsets.max_len(), n_dims);
    let n_groups = offsets.n_sequences() * n_heads * n_tiles;
    let Ok(n_groups_u32) = u32::try_from(n_groups) else {
        return Err(Error::shape(OP, format!("{n_groups} tiles of queries are more than 32 bits count")));
    };
    let scale = options.scale.unwrap_or(1.0 / (n_dims as f32).sqrt());
    let [at_q, at_k, at_v] = [&q, &k, &v].map(Tensor::binding_from);
    let params = AttentionParams {
        base_q: at_q.1,
        token_q: q.strides()[0] as u32,
        head_q: q.strides()[1] as u32,
        base_k: at_k.1,
        token_k: k.strides()[0] as u32,
        head_k: k.strides()[1] as u32,
        base_v: at_v.1,
        token_v: v.strides()[0] as u32,
        head_v: v.strides()[1] as u32,
        n_heads: n_heads as u32,
        n_shared: (n_heads / n_kv_heads) as u32,
        n_tiles: n_tiles as u32,
        n_groups: n_groups_u32,
        n_dims: n_dims as u32,
        scale: scale * std::f32::consts::LOG2_E,
    };
    runtime
        .launch(variant.kernel())
        .types(&[q.dtype()])
        .overrides(&[("CAUSAL", u32::from(options.causal))])
        .bind([at_q.0, at_k.0, at_v.0, offsets.starts().binding(), kv_offsets.starts().binding()])
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

/// `x`, copied only if the elements of its last axis do not lie side by side.
fn unit_rows(x: &Tensor) -> Result<Tensor> {
    if x.shape()[2] == 1 || x.strides()[2] == 1 { Ok(x.clone()) } else { x.contiguous() }
}

/// Multiply-adds of both products count 2 each; lengths are those of the longest sequence.
fn flops(q: &Tensor, kv_offsets: &Offsets, causal: bool) -> u64 {
    let full = 4 * q.len() as u64 * kv_offsets.max_len() as u64;
    if causal { full / 2 } else { full }
}

fn bytes(q: &Tensor, k: &Tensor) -> u64 {
    (2 * (q.len() + k.len()) * q.dtype().bytes()) as u64
}

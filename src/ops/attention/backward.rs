//! Gradients of attention, from the output and the log-sum-exp that the forward pass kept.

use super::{Attention, AttentionParams, AttentionVariant, FLOATS, OP, SHARED, check_operands};
use crate::ops::checks::need_one_device;
use crate::ops::tune::defaults::Defaults;
use crate::runtime::{
    Bind::{self, Read, Write},
    DeviceProfile, INDEX, Kernel, Need,
};
use crate::tensor::{DType, Offsets, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/attention_bwd.wgsl");
const STATS_SIZE: u64 = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StatsParams {
    n_rows: u32,
    n_dims: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("attention_bwd", entry, SOURCE, binds).commons(&[INDEX, SHARED]).types(&["Elem"], &[FLOATS])
}

const fn walk(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Read, Read, Read, Read, Read, Write]).params::<AttentionParams>()
}

const BLOCKS: &[(&str, &[u32])] = &[("BLOCKS", &[1, 2, 3, 4])];
const STATS: Kernel = kernel("attention_stats_bwd", &[Read, Read, Read, Write]).params::<StatsParams>();
const PLAIN_Q: Kernel = walk("attention_plain_bwd_q");
const PLAIN_KV: Kernel = walk("attention_plain_bwd_kv");
const LANES_Q: Kernel = walk("attention_lanes_bwd_q").overrides(BLOCKS).needs(&[Need::SubgroupOf(8)]);
const LANES_KV: Kernel = walk("attention_lanes_bwd_kv").overrides(BLOCKS).needs(&[Need::SubgroupOf(8)]);

const TILED_Q: Kernel = walk("attention_tiled_bwd_q").overrides(BLOCKS);
const TILED_KV: Kernel = walk("attention_tiled_bwd_kv").overrides(BLOCKS);

/// The kernels of the backward pass.
pub(crate) const KERNELS: &[Kernel] = &[STATS, PLAIN_Q, PLAIN_KV, LANES_Q, LANES_KV, TILED_Q, TILED_KV];

/// What a kernel of the backward pass gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The gradient of the queries, each walking over its keys.
    Queries,
    /// Those of keys and values, each walking over its queries.
    Keys,
}

/// Sizes that decide what a kernel does.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    n_dims: usize,
    /// Heads of q that share one of k and v.
    n_shared: usize,
    /// Of the longest sequence.
    n_queries: usize,
    n_keys: usize,
}

impl AttentionVariant {
    /// Whether its backward pass runs on an adapter, for heads of width `n_dims` and elements of this type.
    #[must_use]
    pub fn backward_runs_on(self, profile: &DeviceProfile, dtype: DType, n_dims: usize) -> bool {
        self.takes(n_dims)
            && self
                .backward_kernels()
                .is_some_and(|kernels| kernels.iter().all(|kernel| kernel.runs_on(profile, &[dtype])))
    }

    /// The kernels for queries, and for keys and values.
    fn backward_kernels(self) -> Option<[&'static Kernel; 2]> {
        match self {
            Self::Plain => Some([&PLAIN_Q, &PLAIN_KV]),
            Self::Lanes => Some([&LANES_Q, &LANES_KV]),
            Self::Tiled => Some([&TILED_Q, &TILED_KV]),
            _ => None,
        }
    }

    fn pick_backward(profile: &DeviceProfile, dtype: DType, sizes: Sizes) -> Self {
        let fits = |variant: &&Self| {
            variant.backward_runs_on(profile, dtype, sizes.n_dims)
                && [Side::Queries, Side::Keys].iter().all(|side| variant.rounds(*side, sizes) <= profile.loop_rounds())
        };
        Defaults::of(profile).attention_bwd.iter().find(fits).copied().unwrap_or(Self::Plain)
    }

    /// Tiles of the longest sequence.
    fn backward_tiles(self, side: Side, sizes: Sizes) -> usize {
        let n_rows = if side == Side::Queries { sizes.n_queries } else { sizes.n_keys };
        match self {
            Self::Plain => n_rows.div_ceil(64) * sizes.n_dims.div_ceil(32),
            Self::Tiled => n_rows.div_ceil(32),
            _ => n_rows.div_ceil(24),
        }
    }

    /// Rounds of one invocation in all its loops, the one that finds a loop at its end included; few more than there are.
    fn rounds(self, side: Side, Sizes { n_dims, n_shared, n_queries, n_keys }: Sizes) -> usize {
        let n_walked = if side == Side::Queries { n_keys } else { n_queries };
        let one = match self {
            Self::Plain => n_walked * (4 + n_dims / 8 + n_dims % 8 + n_dims.min(32).div_ceil(4)),
            Self::Tiled => {
                // Of every block, both dot products: copies and products; and the sums of one gradient, or two.
                let n_sums = if side == Side::Queries { 1 } else { 2 };
                n_walked.div_ceil(32) * (n_dims.div_ceil(32) * (2 * 15 + n_sums * 40) + 16)
            }
            _ => n_walked.div_ceil(2),
        };
        let heads = if side == Side::Queries { 1 } else { n_shared };
        heads * (one + 2) + 80
    }
}

/// The gradients of `q`, `k` and `v` by one variant, for tests and benchmarks: from `[q, k, v]`, the output and
/// log-sum-exp that [`super::cross_attention_with_lse`] gave for them, and the gradient of that output.
///
/// # Errors
/// As [`super::attention_with`].
pub fn attention_backward_with(
    variant: AttentionVariant,
    qkv: [&Tensor; 3],
    outs: [&Tensor; 3],
    offsets: (&Offsets, &Offsets),
    options: &Attention,
) -> Result<[Tensor; 3]> {
    let d = gradients(Some(variant), qkv, outs, offsets, options, [true; 3])?;
    match d {
        [Some(d_q), Some(d_k), Some(d_v)] => Ok([d_q, d_k, d_v]),
        _ => Err(Error::argument(OP, "a gradient was asked for and not computed")),
    }
}

/// The gradients that are wanted; without a variant, by the one that fits best.
pub(crate) fn gradients(
    variant: Option<AttentionVariant>,
    [q, k, v]: [&Tensor; 3],
    [out, lse, d_out]: [&Tensor; 3],
    (offsets, kv_offsets): (&Offsets, &Offsets),
    options: &Attention,
    wanted: [bool; 3],
) -> Result<[Option<Tensor>; 3]> {
    let [n_heads, n_kv_heads, n_dims] = check_operands([q, k, v], (offsets, kv_offsets))?;
    let (runtime, dtype) = (q.runtime(), q.dtype());
    for (name, x, shape, wanted) in
        [("out", out, q.shape(), dtype), ("d_out", d_out, q.shape(), dtype), ("lse", lse, &q.shape()[..2], DType::F32)]
    {
        if x.shape() != shape || x.dtype() != wanted {
            let given = format!("{name} {} {:?} given, {wanted} {shape:?} wanted", x.dtype(), x.shape());
            return Err(Error::shape(OP, given));
        }
    }
    need_one_device(OP, q, [out, lse, d_out])?;
    if q.is_empty() || k.is_empty() {
        let zeros = |i: usize, x: &Tensor| wanted[i].then(|| Tensor::zeros(runtime, x.shape(), dtype)).transpose();
        return Ok([zeros(0, q)?, zeros(1, k)?, zeros(2, v)?]);
    }
    let n_shared = n_heads / n_kv_heads;
    let sizes = Sizes { n_dims, n_shared, n_queries: offsets.max_len(), n_keys: kv_offsets.max_len() };
    let variant = variant.unwrap_or_else(|| {
        let default = AttentionVariant::pick_backward(runtime.profile(), dtype, sizes);
        super::tuned::backward(default, [q, k, v], [out, lse, d_out], (offsets, kv_offsets), options)
    });
    let Some(kernels) = variant.backward_kernels().filter(|_| variant.takes(n_dims)) else {
        let message = format!("the {} variant has no backward pass for heads of {n_dims}", variant.name());
        return Err(Error::argument(OP, message));
    };
    let (q, k, v) = (variant.operand(q)?, variant.operand(k)?, variant.operand(v)?);
    let (out, d_out, lse) = (out.contiguous()?, d_out.contiguous()?, lse.contiguous()?);
    let stats = Tensor::empty(runtime, &[offsets.n_tokens(), n_heads, 2], DType::F32)?;
    let n_rows = lse.len();
    runtime
        .launch(&STATS)
        .types(&[dtype])
        .bind([&out, &d_out, &lse, &stats].map(Tensor::binding))
        .params(&StatsParams { n_rows: n_rows as u32, n_dims: n_dims as u32 })
        .groups((n_rows as u64).div_ceil(STATS_SIZE))
        .rounds(n_dims + 1)
        .cost(2 * out.len() as u64, (2 * out.len() * dtype.bytes() + 12 * n_rows) as u64)
        .run()?;
    let run = |side: Side, to: &Tensor| -> Result<()> {
        let heads = if side == Side::Queries { n_heads } else { n_kv_heads };
        let n_tiles = variant.backward_tiles(side, sizes);
        let n_groups = offsets.n_sequences() * heads * n_tiles;
        let Ok(n_groups_u32) = u32::try_from(n_groups) else {
            return Err(Error::shape(OP, format!("{n_groups} tiles of rows are more than 32 bits count")));
        };
        let blocks = [("BLOCKS", n_dims.div_ceil(32) as u32)];
        // Three or four products where the forward pass has two.
        let products = if side == Side::Queries { 3 } else { 4 };
        let operands = 3 * q.len() + 2 * k.len() + to.len();
        runtime
            .launch(kernels[usize::from(side == Side::Keys)])
            .types(&[dtype])
            .overrides(if variant == AttentionVariant::Plain { &[] } else { &blocks })
            .bind([&q, &k, &v].map(|x| x.binding_from().0))
            .bind([d_out.binding(), stats.binding(), offsets.starts().binding(), kv_offsets.starts().binding()])
            .bind([to.binding()])
            .params(&AttentionParams::new([&q, &k, &v], n_tiles, n_groups_u32, options))
            .groups(n_groups as u64)
            .rounds(variant.rounds(side, sizes))
            .cost(products * super::flops(&q, kv_offsets, options.causal) / 2, (operands * dtype.bytes()) as u64)
            .run()
    };
    let mut gradients = [None, None, None];
    if wanted[0] {
        let d_q = Tensor::empty(runtime, q.shape(), dtype)?;
        run(Side::Queries, &d_q)?;
        gradients[0] = Some(d_q);
    }
    if wanted[1] || wanted[2] {
        let d_kv = Tensor::empty(runtime, &[kv_offsets.n_tokens(), 2, n_kv_heads, n_dims], dtype)?;
        run(Side::Keys, &d_kv)?;
        for i in [1, 2] {
            let part = || d_kv.slice(1, i - 1..i)?.reshape(k.shape());
            gradients[i] = wanted[i].then(part).transpose()?;
        }
    }
    Ok(gradients)
}

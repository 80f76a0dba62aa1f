//! The choice of attention's variants by trying.

use super::backward::{KERNELS as BWD_KERNELS, attention_backward_with};
use super::{Attention, AttentionVariant, KERNELS, attention_with, check_operands};
use crate::Result;
use crate::ops::tune::{Question, Variants, choose, noise, rounding};
use crate::runtime::Runtime;
use crate::tensor::{DType, Offsets, Tensor};

impl Variants for AttentionVariant {
    const ALL: &'static [Self] = Self::ALL;
}

/// Tokens of the sequences of a probe.
const PROBE: [usize; 3] = [45, 1, 70];

/// A small problem with the heads of another.
struct Probe {
    qkv: [Tensor; 3],
    offsets: Offsets,
}

impl Probe {
    fn new(runtime: &Runtime, dtype: DType, n_dims: usize, n_shared: usize) -> Result<Self> {
        let offsets = Offsets::from_lengths(runtime, &PROBE)?;
        let of = |heads: usize| noise(runtime, &[offsets.n_tokens(), heads, n_dims], dtype);
        Ok(Self { qkv: [of(2 * n_shared)?, of(2)?, of(2)?], offsets })
    }

    fn forward(&self, variant: AttentionVariant, options: &Attention) -> Result<[Tensor; 2]> {
        let qkv = self.qkv.each_ref();
        attention_with(variant, qkv, (&self.offsets, &self.offsets), options).map(|(out, lse)| [out, lse])
    }
}

/// What decides about speed.
type Sizes = ([(&'static str, usize); 4], [(&'static str, usize); 3]);

fn sizes([n_heads, n_kv_heads, n_dims]: [usize; 3], offsets: (&Offsets, &Offsets), options: &Attention) -> Sizes {
    let sizes = [
        ("sequences", offsets.0.n_sequences()),
        ("queries", offsets.0.max_len()),
        ("keys", offsets.1.max_len()),
        ("heads", n_heads),
    ];
    // Widths differ in what they compile to: 32 at a time, at most 128.
    let exact =
        [("width", n_dims.min(255)), ("shared", n_heads / n_kv_heads.max(1)), ("causal", usize::from(options.causal))];
    (sizes, exact)
}

/// The fastest variant known for the forward pass.
pub(super) fn forward(
    default: AttentionVariant,
    qkv: [&Tensor; 3],
    offsets: (&Offsets, &Offsets),
    options: &Attention,
) -> AttentionVariant {
    let (runtime, dtype) = (qkv[0].runtime(), qkv[0].dtype());
    if !runtime.tunes() {
        return default;
    }
    // What is wrong with the operands, the op says.
    let Ok(heads @ [n_heads, n_kv_heads, n_dims]) = check_operands(qkv, offsets) else { return default };
    if qkv.iter().any(|x| x.is_empty()) {
        return default;
    }
    let (sizes, exact) = sizes(heads, offsets, options);
    let profile = runtime.profile();
    let question = Question {
        op: "attention",
        dtype,
        sizes: &sizes,
        exact: &exact,
        kernels: &[KERNELS],
        plain: AttentionVariant::Plain,
        fits: &|variant| {
            // Only ever worth it where nothing else runs.
            variant != AttentionVariant::Plain
                && variant.runs_on(profile, dtype, n_dims)
                && variant.turns(profile, dtype, offsets.1.max_len(), n_dims) <= profile.loop_rounds()
        },
        run: &|variant| attention_with(variant, qkv, offsets, options).map(|(out, lse)| vec![out, lse]),
        probe: &|variant| {
            let probe = Probe::new(runtime, dtype, n_dims, n_heads / n_kv_heads)?;
            Ok(probe.forward(variant, options)?.to_vec())
        },
        tolerance: rounding(dtype),
    };
    choose(runtime, default, &question)
}

/// The fastest variant known for the backward pass; `outs` are the output, its log-sum-exp and its gradient.
pub(super) fn backward(
    default: AttentionVariant,
    qkv: [&Tensor; 3],
    outs: [&Tensor; 3],
    offsets: (&Offsets, &Offsets),
    options: &Attention,
) -> AttentionVariant {
    let (runtime, dtype) = (qkv[0].runtime(), qkv[0].dtype());
    if !runtime.tunes() {
        return default;
    }
    let Ok(heads @ [n_heads, n_kv_heads, n_dims]) = check_operands(qkv, offsets) else { return default };
    let (sizes, exact) = sizes(heads, offsets, options);
    let question = Question {
        op: "attention_bwd",
        dtype,
        sizes: &sizes,
        exact: &exact,
        kernels: &[KERNELS, BWD_KERNELS],
        plain: AttentionVariant::Plain,
        fits: &|variant| {
            // Only ever worth it where nothing else runs.
            variant != AttentionVariant::Plain && variant.backward_runs_on(runtime.profile(), dtype, n_dims)
        },
        run: &|variant| attention_backward_with(variant, qkv, outs, offsets, options).map(Vec::from),
        probe: &|variant| {
            let probe = Probe::new(runtime, dtype, n_dims, n_heads / n_kv_heads)?;
            let [out, lse] = probe.forward(AttentionVariant::Plain, options)?;
            let d_out = noise(runtime, out.shape(), dtype)?;
            let offsets = (&probe.offsets, &probe.offsets);
            attention_backward_with(variant, probe.qkv.each_ref(), [&out, &lse, &d_out], offsets, options)
                .map(Vec::from)
        },
        tolerance: rounding(dtype),
    };
    choose(runtime, default, &question)
}

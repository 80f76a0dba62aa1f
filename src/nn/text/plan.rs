//! A language model as data: its tensors and how they are used.

use crate::nn::param::{ParamId, ParamKind, ParamList};
use crate::nn::plan::{Linear, NormPlace};
use crate::ops::Act;
use crate::ops::rotary::Style;
use serde::{Deserialize, Serialize};

/// A language model: tokens, blocks, norm, and what reads the features.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPlan {
    /// A row for each token: `[vocab, width]`.
    pub tokens: ParamId,
    /// A row for each position: `[positions, width]`.
    pub position: Option<ParamId>,
    /// Row of the first position.
    pub first_position: usize,
    /// A row for each kind of segment: `[types, width]`.
    pub types: Option<ParamId>,
    /// Norm of the sum of these.
    pub embed_norm: Option<TokenNorm>,
    /// Blocks.
    pub blocks: Vec<TextBlock>,
    /// Values per token.
    pub width: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of the queries.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_width: usize,
    /// How queries and keys are turned by their positions.
    pub rotary: Option<Rotary>,
    /// Where the blocks' norms stand.
    pub norm_place: NormPlace,
    /// Whether a token sees only itself and those in front of it.
    pub causal: bool,
    /// Norm behind the blocks.
    pub norm: Option<TokenNorm>,
    /// Features to logits of the next token.
    pub output: Output,
    /// What a text's class is read off.
    pub pool: TextPool,
    /// A layer between the pooled token and the head.
    pub pooler: Option<Linear>,
    /// A text's features to the logits of its class.
    pub head: Option<Linear>,
}

impl TextPlan {
    /// Widths of q, k and v.
    #[must_use]
    pub fn qkv_widths(&self) -> [usize; 3] {
        [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.head_width)
    }
}

/// A block of a language model.
#[derive(Debug, Clone, PartialEq)]
pub struct TextBlock {
    /// Published prefix, `model.layers.0`.
    pub name: String,
    /// Norm of the attention branch.
    pub norm1: TokenNorm,
    /// Queries, keys and values.
    pub qkv: TextQkv,
    /// Heads back to the width.
    pub proj: Linear,
    /// Norm of the MLP branch.
    pub norm2: TokenNorm,
    /// Width to hidden, with the activation: the factor of `up`, if there is one.
    pub gate: Option<Linear>,
    /// Width to hidden, with the activation unless there is a gate.
    pub up: Linear,
    /// Hidden to width.
    pub down: Linear,
}

impl TextBlock {
    /// Its linear layers in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let qkv = match &self.qkv {
            TextQkv::Packed(layer) => std::slice::from_ref(layer),
            TextQkv::Separate(layers) => layers.as_slice(),
        };
        qkv.iter().chain([&self.proj]).chain(&self.gate).chain([&self.up, &self.down])
    }
}

/// How queries, keys and values are published.
#[derive(Debug, Clone, PartialEq)]
pub enum TextQkv {
    /// One layer: all heads of q, then of k, then of v.
    Packed(Linear),
    /// Three layers.
    Separate(Box<[Linear; 3]>),
}

/// Layer or RMS norm over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenNorm {
    /// Published name, without `.weight`.
    pub name: String,
    /// Factor `[width]`.
    pub gain: ParamId,
    /// Summand `[width]`: a layer norm; without, an RMS norm.
    pub bias: Option<ParamId>,
    /// Added to the variance, or to the mean square.
    pub eps: f32,
}

/// The two norms of language models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Layer norm with gain and bias.
    Layer,
    /// RMS norm with gain.
    Rms,
}

/// Rotary positions: pair `i` of a head of width `d` turns by `position * base^(-2 i / d)`. Su et al. 2021, arXiv
/// 2104.09864.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// Base of the angles.
    pub base: f32,
    /// Which elements of a head are a pair.
    pub style: Style,
}

/// What gives the logits of the next token.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Nothing: the model ends in features.
    None,
    /// The table of tokens once more.
    Tied,
    /// A layer of its own.
    Own(Linear),
}

/// What a text's class is read off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPool {
    /// The first token: encoders.
    First,
    /// The last token: decoders.
    Last,
    /// The mean of all tokens.
    Mean,
}

impl ParamList {
    /// A norm over `width` values.
    pub(super) fn token_norm(&mut self, name: &str, width: usize, kind: NormKind, eps: f32) -> TokenNorm {
        let gain = self.add(format!("{name}.weight"), [width], ParamKind::Gain);
        let bias = (kind == NormKind::Layer).then(|| self.add(format!("{name}.bias"), [width], ParamKind::NormBias));
        TokenNorm { name: name.to_string(), gain, bias, eps }
    }

    /// A linear layer `[n_in]` to `[n_out]`, published as `[out, in]` or transposed.
    pub(super) fn text_linear(
        &mut self,
        name: &str,
        [n_in, n_out]: [usize; 2],
        bias: bool,
        transposed: bool,
    ) -> Linear {
        let (shape, kind) = match transposed {
            true => ([n_in, n_out], ParamKind::TransposedWeight),
            false => ([n_out, n_in], ParamKind::LinearWeight),
        };
        let weight = self.add(format!("{name}.weight"), shape, kind);
        let bias = bias.then(|| self.add(format!("{name}.bias"), [n_out], ParamKind::Bias));
        Linear { name: name.to_string(), weight, bias, n_in, n_out, norm: None, act: Act::None }
    }
}

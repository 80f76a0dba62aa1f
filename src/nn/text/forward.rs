//! A language model's forward pass over packed tokens.

use super::batch::TokenBatch;
use super::plan::{Output, Rotary, TextBlock, TextPlan, TextPool, TextQkv, TokenNorm};
use crate::nn::model::Model;
use crate::nn::plan::{Body, NormPlace};
use crate::ops::attention::{self, Attention};
use crate::ops::elementwise::{add, mul};
use crate::ops::softmax::cross_entropy;
use crate::ops::{gather, matmul, norm, reduce, rotary, scatter};
use crate::tensor::Offsets;
use crate::{Error, Result, Tensor};

/// Queries `[T, heads, d]`, keys and values `[T, kv_heads, d]`, turned by their positions.
pub(super) type Qkv = [Tensor; 3];

impl Model {
    /// Features `[T, width]` of packed tokens.
    ///
    /// # Errors
    /// [`Error::Argument`] if this is no language model or its texts may not be so long, [`Error::Shape`] and
    /// [`Error::DType`] if the batch's tensors do not fit each other.
    pub fn token_features(&self, batch: &TokenBatch) -> Result<Tensor> {
        let text = self.text("token_features")?;
        if text.position.is_some() && batch.max_len() > self.most_tokens(text) {
            let (most, len) = (self.most_tokens(text), batch.max_len());
            return Err(Error::argument("token_features", format!("texts of {len} tokens, the model takes {most}")));
        }
        let mut x = self.embed_tokens(text, &batch.ids, &batch.positions, batch.types.as_ref())?;
        for layer in &text.blocks {
            let (layer, text, batch) = (layer.clone(), text.sizes(), (batch.positions.clone(), batch.offsets.clone()));
            x = self.block(&x, move |model, x| {
                model.text_block(&text, &layer, x, &batch.0, |[q, k, v]: Qkv| {
                    attend(&q, &k, &v, (&batch.1, &batch.1), text.causal)
                })
            })?;
        }
        self.last_norm(text, &x)
    }

    /// Logits of the token behind each, `[T, vocab]`, from packed tokens.
    ///
    /// # Errors
    /// As [`Model::token_features`], and [`Error::Argument`] if the model ends in features.
    pub fn token_logits(&self, batch: &TokenBatch) -> Result<Tensor> {
        self.output_logits(&self.token_features(batch)?)
    }

    /// The loss of a batch's targets in nats, `[]`: cross-entropy by their weights. [`TokenBatch::fill`] makes it a mean.
    ///
    /// # Errors
    /// As [`Model::token_logits`].
    pub fn token_loss(&self, batch: &TokenBatch) -> Result<Tensor> {
        let losses = cross_entropy(&self.token_logits(batch)?, &batch.targets, 0.0)?;
        reduce::sum_all(&mul(&losses, &batch.weights)?)
    }

    /// What a head sees of each text, `[n, width]`: the first token, the last, or the mean of all; and behind it the
    /// pooler, if there is one. Rows of empty texts have no meaning.
    ///
    /// # Errors
    /// As [`Model::token_features`].
    pub fn text_features(&self, batch: &TokenBatch) -> Result<Tensor> {
        let text = self.text("text_features")?;
        let x = self.token_features(batch)?;
        let pooled = match text.pool {
            TextPool::First => gather::gather_rows(&x, &batch.first)?,
            TextPool::Last => gather::gather_rows(&x, &batch.last)?,
            TextPool::Mean => {
                let n = batch.n_texts();
                mul(&scatter::scatter_add(&x, 0, &batch.texts, n + 1)?.slice(0, 0..n)?, &batch.shares)?
            }
        };
        text.pooler.as_ref().map_or_else(|| Ok(pooled.clone()), |pooler| self.linear(pooler, &pooled))
    }

    /// Logits of the classes of each text, `[n, classes]`.
    ///
    /// # Errors
    /// As [`Model::token_features`], and [`Error::Argument`] if the model has no such head.
    pub fn text_class_logits(&self, batch: &TokenBatch) -> Result<Tensor> {
        const OP: &str = "text_class_logits";
        match &self.text(OP)?.head {
            Some(head) => self.linear(head, &self.text_features(batch)?),
            None => Err(Error::argument(OP, "this model has no head for classes")),
        }
    }

    /// The plan of a language model.
    pub(super) fn text(&self, op: &'static str) -> Result<&TextPlan> {
        match &self.plan().body {
            Body::Text(text) => Ok(text),
            _ => Err(Error::argument(op, format!("{} reads no tokens", self.spec().kind()))),
        }
    }

    /// Tokens of a text at most, where there is a table of positions.
    pub(super) fn most_tokens(&self, text: &TextPlan) -> usize {
        let rows = text.position.map_or(usize::MAX, |id| self.param(id).shape()[0]);
        rows - text.first_position.min(rows)
    }

    /// Tokens, positions and segments looked up and summed: `[T, width]`.
    pub(super) fn embed_tokens(
        &self,
        text: &TextPlan,
        ids: &Tensor,
        positions: &Tensor,
        types: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut x = gather::embedding(self.param(text.tokens), ids)?;
        if let Some(table) = text.position {
            let table = self.param(table);
            let rows = table.slice(0, text.first_position..table.shape()[0])?;
            x = add(&x, &gather::embedding(&rows, positions)?)?;
        }
        if let Some(table) = text.types {
            let table = self.param(table);
            x = match types {
                Some(types) => add(&x, &gather::embedding(table, types)?)?,
                None => add(&x, &table.slice(0, 0..1)?)?,
            };
        }
        text.embed_norm.as_ref().map_or_else(|| Ok(x.clone()), |layer| self.token_norm(layer, &x))
    }

    /// The norm behind the blocks.
    pub(super) fn last_norm(&self, text: &TextPlan, x: &Tensor) -> Result<Tensor> {
        text.norm.as_ref().map_or_else(|| Ok(x.clone()), |layer| self.token_norm(layer, x))
    }

    /// Logits of the next token from features `[.., width]`.
    pub(super) fn output_logits(&self, x: &Tensor) -> Result<Tensor> {
        const OP: &str = "token_logits";
        let text = self.text(OP)?;
        match &text.output {
            Output::None => Err(Error::argument(OP, "this model ends in features and predicts no tokens")),
            Output::Tied => matmul::matmul(x, &self.param(text.tokens).transpose()?),
            Output::Own(layer) => self.linear(layer, x),
        }
    }

    /// A block over `[T, width]`, whose heads `attend` mixes to `[T, heads, d]`.
    pub(super) fn text_block(
        &self,
        sizes: &Sizes,
        layer: &TextBlock,
        x: &Tensor,
        positions: &Tensor,
        attend: impl Fn(Qkv) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let attention = |x: &Tensor| {
            let mixed = attend(self.heads(sizes, &layer.qkv, x, positions)?)?;
            let n_tokens = x.shape()[0];
            self.linear(&layer.proj, &mixed.reshape(&[n_tokens, sizes.heads * sizes.head_width])?)
        };
        let mlp = |x: &Tensor| {
            let up = self.linear(&layer.up, x)?;
            let hidden = match &layer.gate {
                Some(gate) => mul(&self.linear(gate, x)?, &up)?,
                None => up,
            };
            self.linear(&layer.down, &hidden)
        };
        match sizes.norm_place {
            NormPlace::Pre => {
                let x = add(x, &attention(&self.token_norm(&layer.norm1, x)?)?)?;
                add(&x, &mlp(&self.token_norm(&layer.norm2, &x)?)?)
            }
            NormPlace::Post => {
                let x = self.token_norm(&layer.norm1, &add(x, &attention(x)?)?)?;
                self.token_norm(&layer.norm2, &add(&x, &mlp(&x)?)?)
            }
        }
    }

    fn heads(&self, sizes: &Sizes, layer: &TextQkv, x: &Tensor, positions: &Tensor) -> Result<Qkv> {
        let (n_tokens, d) = (x.shape()[0], sizes.head_width);
        let heads = [sizes.heads, sizes.kv_heads, sizes.kv_heads];
        let [q, k, v] = match layer {
            // Side by side in each token, each by heads: views, no copies.
            TextQkv::Packed(layer) => self.packed(layer, x, heads.map(|n| n * d))?,
            TextQkv::Separate(layers) => {
                [self.linear(&layers[0], x)?, self.linear(&layers[1], x)?, self.linear(&layers[2], x)?]
            }
        };
        let split = |x: &Tensor, heads: usize| x.reshape(&[n_tokens, heads, d]);
        let [q, k, v] = [split(&q, heads[0])?, split(&k, heads[1])?, split(&v, heads[2])?];
        match &sizes.rotary {
            Some(Rotary { base, style }) => {
                let turn = |x: &Tensor| rotary::rotate(x, positions, *base, *style);
                Ok([turn(&q)?, turn(&k)?, v])
            }
            None => Ok([q, k, v]),
        }
    }

    fn token_norm(&self, layer: &TokenNorm, x: &Tensor) -> Result<Tensor> {
        let gain = Some(self.param(layer.gain));
        match layer.bias {
            Some(bias) => norm::layer_norm(x, gain, Some(self.param(bias)), layer.eps),
            None => norm::rms_norm(x, gain, layer.eps),
        }
    }
}

/// What a block needs of its plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    rotary: Option<Rotary>,
    norm_place: NormPlace,
    causal: bool,
}

impl TextPlan {
    pub(super) fn sizes(&self) -> Sizes {
        Sizes {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_width: self.head_width,
            rotary: self.rotary,
            norm_place: self.norm_place,
            causal: self.causal,
        }
    }
}

/// Attention of queries on keys, each within its sequence.
pub(super) fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offsets: (&Offsets, &Offsets),
    causal: bool,
) -> Result<Tensor> {
    attention::cross_attention(q, k, v, offsets, &Attention { causal, ..Attention::default() })
}

//! Language models as data: everything but their weights.

use std::fmt;

use super::names::TextFamily;
use super::plan::{NormKind, Output, Rotary, TextBlock, TextPlan, TextPool, TextQkv};
use crate::nn::param::{ParamKind, ParamList};
use crate::nn::plan::{Body, Linear, NormPlace, Plan};
use crate::ops::Act;
use crate::ops::rotary::Style;
use crate::{Error, Result};

/// A language model: a decoder, whose tokens see those in front of them, or an encoder, whose tokens see all.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSpec {
    /// Whose names the tensors have.
    pub family: TextFamily,
    /// What stands in front of most names: `model.`, `bert.`, or nothing.
    pub prefix: String,
    /// Rows of the table of tokens.
    pub vocab: usize,
    /// Tokens of a text at most: rows of the table of positions, or the context that rotary positions were trained with.
    pub positions: usize,
    /// Row of the first position: 2 in `RoBERTa`.
    pub first_position: usize,
    /// Rows of the table of segments; 0 without one.
    pub types: usize,
    /// Values per token.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; they divide those of the queries.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_width: usize,
    /// Hidden values of the MLP.
    pub mlp: usize,
    /// Activation of the MLP.
    pub act: Act,
    /// Whether the activation's result is a factor: `down(act(gate(x)) up(x))`, with `SiLU` called `SwiGLU`.
    pub gated: bool,
    /// Which norm.
    pub norm: NormKind,
    /// Where the norms stand.
    pub norm_place: NormPlace,
    /// Added to the variance, or to the mean square.
    pub eps: f32,
    /// Rotary positions, where there is no table of them.
    pub rotary: Option<Rotary>,
    /// Whether it is a decoder.
    pub causal: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the other layers of a block have a bias.
    pub bias: bool,
    /// What gives the logits of the next token.
    pub output: OutputKind,
    /// Whether a layer with tanh stands between the pooled token and a head.
    pub pooler: bool,
    /// What a text's class is read off.
    pub pool: TextPool,
    /// Classes of a text; none for a model without such a head.
    pub classes: Option<usize>,
    /// Whether the head has a bias.
    pub head_bias: bool,
}

/// What gives the logits of the next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// Nothing: the model ends in features.
    None,
    /// The table of tokens once more.
    Tied,
    /// A layer of its own, without bias.
    Own,
}

/// What [`TextSpec::by_name`] takes, for help texts and errors.
pub const TEXT_NAMES: &str = "stories260k, gpt2, gpt2-medium, gpt2-large, bert-base, minilm-l6";

impl TextSpec {
    /// GPT-2 of these sizes, heads of 64. Radford et al. 2019.
    #[must_use]
    pub fn gpt2(width: usize, depth: usize) -> Self {
        let heads = width / 64;
        Self {
            family: TextFamily::Gpt2,
            prefix: String::new(),
            vocab: 50_257,
            positions: 1024,
            first_position: 0,
            types: 0,
            width,
            depth,
            heads,
            kv_heads: heads,
            head_width: 64,
            mlp: 4 * width,
            act: Act::GeluTanh,
            gated: false,
            norm: NormKind::Layer,
            norm_place: NormPlace::Pre,
            eps: 1e-5,
            rotary: None,
            causal: true,
            qkv_bias: true,
            bias: true,
            output: OutputKind::Tied,
            pooler: false,
            pool: TextPool::Last,
            classes: None,
            head_bias: false,
        }
    }

    /// BERT of these sizes. Devlin et al. 2018, arXiv 1810.04805.
    #[must_use]
    pub fn bert(width: usize, depth: usize, heads: usize) -> Self {
        Self {
            family: TextFamily::Bert,
            vocab: 30_522,
            positions: 512,
            types: 2,
            heads,
            kv_heads: heads,
            head_width: width / heads.max(1),
            act: Act::Gelu,
            norm_place: NormPlace::Post,
            eps: 1e-12,
            causal: false,
            output: OutputKind::None,
            pooler: true,
            pool: TextPool::First,
            head_bias: true,
            ..Self::gpt2(width, depth)
        }
    }

    /// A Llama of these sizes under llama2.c's names, with `heads` of queries and of keys. Touvron et al. 2023, arXiv
    /// 2307.09288.
    #[must_use]
    pub fn llama2c(vocab: usize, width: usize, depth: usize, heads: [usize; 2], mlp: usize) -> Self {
        Self {
            family: TextFamily::Llama2c,
            vocab,
            positions: 2048,
            heads: heads[0],
            kv_heads: heads[1],
            head_width: width / heads[0].max(1),
            mlp,
            act: Act::Silu,
            gated: true,
            norm: NormKind::Rms,
            rotary: Some(Rotary { base: 1e4, style: Style::Adjacent }),
            qkv_bias: false,
            bias: false,
            ..Self::gpt2(width, depth)
        }
    }

    /// The model called `name`: [`TEXT_NAMES`]. Case does not matter, `_` stands for `-`.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of this name.
    pub fn by_name(name: &str) -> Result<Self> {
        Ok(match name.to_lowercase().replace('_', "-").as_str() {
            "stories260k" => Self { positions: 512, ..Self::llama2c(512, 64, 5, [8, 4], 172) },
            "gpt2" => Self::gpt2(768, 12),
            "gpt2-medium" => Self::gpt2(1024, 24),
            "gpt2-large" => Self::gpt2(1280, 36),
            "bert-base" => Self::bert(768, 12, 12),
            "minilm-l6" => Self::bert(384, 6, 12),
            _ => {
                return Err(Error::Input(format!("no language model is called {name:?}; there are {TEXT_NAMES}")));
            }
        })
    }

    /// An error if its sizes do not go together.
    ///
    /// # Errors
    /// [`Error::Argument`] that names the sizes.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::argument("model", message));
        let Self { heads, kv_heads, head_width, .. } = *self;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return fail(format!("{heads} heads cannot share {kv_heads} of keys and values"));
        }
        if self.rotary.is_some() && !head_width.is_multiple_of(2) {
            return fail(format!("heads of {head_width} have no pairs to turn"));
        }
        if !(self.eps >= 0.0 && self.eps < 1.0) {
            return fail(format!("eps {} of a norm is not between 0 and 1", self.eps));
        }
        Ok(())
    }

    /// A layer's whole name.
    fn name(&self, part: &str) -> String {
        format!("{}{part}", self.prefix)
    }

    /// Whether a text's token sees only itself and those in front of it, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.causal { "a decoder" } else { "an encoder" }
    }

    /// Tensors and blocks.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let (p, n, width) = (&mut params, self.family.names(), self.width);
        let weight = |part: &str| format!("{}.weight", self.name(part));
        let tokens = p.add(weight(n.tokens), [self.vocab, width], ParamKind::Table);
        let position = n.position.filter(|_| self.rotary.is_none());
        let position = position.map(|part| p.add(weight(part), [self.positions, width], ParamKind::Table));
        let types = n.types.filter(|_| self.types > 0);
        let types = types.map(|part| p.add(weight(part), [self.types, width], ParamKind::Table));
        let embed_norm = n.embed_norm.map(|part| p.token_norm(&self.name(part), width, self.norm, self.eps));
        let blocks = (0..self.depth).map(|i| self.block(p, self.name(&format!("{}{i}", n.blocks)))).collect();
        let norm = n.norm.map(|part| p.token_norm(&self.name(part), width, self.norm, self.eps));
        let output = match self.output {
            OutputKind::None => Output::None,
            OutputKind::Tied => Output::Tied,
            OutputKind::Own => Output::Own(p.text_linear(n.output, [width, self.vocab], false, false)),
        };
        let pooler_name = if self.family == TextFamily::Roberta { n.pooler.into() } else { self.name(n.pooler) };
        let pooler =
            self.pooler.then(|| Linear { act: Act::Tanh, ..p.text_linear(&pooler_name, [width, width], true, false) });
        let head = self.classes.map(|n_out| p.text_linear(n.head, [width, n_out], self.head_bias, false));
        let has_head = head.is_some();
        let body = TextPlan {
            tokens,
            position,
            first_position: self.first_position,
            types,
            embed_norm,
            blocks,
            width,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_width: self.head_width,
            rotary: self.rotary,
            norm_place: self.norm_place,
            causal: self.causal,
            norm,
            output,
            pool: self.pool,
            pooler,
            head,
        };
        Plan { params, body: Body::Text(Box::new(body)), has_head }
    }

    fn block(&self, p: &mut ParamList, name: String) -> TextBlock {
        let (n, width) = (self.family.names(), self.width);
        let inner = |part: &str| format!("{name}.{part}");
        // GPT-2's layers were published as convolutions over one token, input first.
        let transposed = self.family == TextFamily::Gpt2;
        let [q, kv] = [self.heads, self.kv_heads].map(|heads| heads * self.head_width);
        let norm1 = p.token_norm(&inner(n.norm1), width, self.norm, self.eps);
        let qkv = if let [q_name, k_name, v_name] = n.qkv {
            TextQkv::Separate(Box::new(
                [(q_name, q), (k_name, kv), (v_name, kv)]
                    .map(|(part, n_out)| p.text_linear(&inner(part), [width, n_out], self.qkv_bias, transposed)),
            ))
        } else {
            let sizes = [width, q + 2 * kv];
            TextQkv::Packed(p.text_linear(&inner(n.qkv.concat().as_str()), sizes, self.qkv_bias, transposed))
        };
        let proj = p.text_linear(&inner(n.proj), [q, width], self.bias, transposed);
        let norm2 = p.token_norm(&inner(n.norm2), width, self.norm, self.eps);
        let hidden = |p: &mut ParamList, part: &str, act: Act| Linear {
            act,
            ..p.text_linear(&inner(part), [width, self.mlp], self.bias, transposed)
        };
        let gate = self.gated.then(|| hidden(p, n.gate, self.act));
        let up = hidden(p, n.up, if self.gated { Act::None } else { self.act });
        let down = p.text_linear(&inner(n.down), [self.mlp, width], self.bias, transposed);
        TextBlock { name, norm1, qkv, proj, norm2, gate, up, down }
    }
}

impl fmt::Display for TextSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, depth, heads, kv_heads, vocab, .. } = self;
        let kind = if self.causal { "decoder" } else { "encoder" };
        write!(f, "{} {kind}, width {width}, {depth} blocks, {heads} heads", self.family.name())?;
        if kv_heads != heads {
            write!(f, " on {kv_heads}")?;
        }
        let norm = if self.norm_place == NormPlace::Pre { "pre-norm" } else { "post-norm" };
        let act = format!("{:?}", self.act).to_lowercase();
        write!(f, ", {norm}, {}{act}, {vocab} tokens", if self.gated { "gated " } else { "" })
    }
}

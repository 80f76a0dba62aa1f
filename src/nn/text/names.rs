//! The published names of language models.

/// Whose tensor names a language model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFamily {
    /// llama2.c's, which are also those of Meta's own files.
    Llama2c,
    /// Hugging Face's Llama, and what follows it.
    Llama,
    /// GPT-2.
    Gpt2,
    /// BERT.
    Bert,
    /// `RoBERTa`: BERT's blocks, with another head.
    Roberta,
}

/// Published names of the layers, without `.weight` and `.bias`; those of a block stand behind `{blocks}{index}.`. All but
/// `output` and `head`, and `RoBERTa`'s `pooler`, have the model's prefix in front.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TextNames {
    pub(super) tokens: &'static str,
    pub(super) position: Option<&'static str>,
    pub(super) types: Option<&'static str>,
    pub(super) embed_norm: Option<&'static str>,
    pub(super) blocks: &'static str,
    /// One name for a packed layer, or three.
    pub(super) qkv: &'static [&'static str],
    pub(super) proj: &'static str,
    pub(super) norm1: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) norm2: &'static str,
    pub(super) norm: Option<&'static str>,
    pub(super) output: &'static str,
    pub(super) pooler: &'static str,
    pub(super) head: &'static str,
    /// Prefixes in use.
    pub(super) prefixes: &'static [&'static str],
    /// What else such files hold and nothing here uses: prefixes, or parts behind a block's index.
    pub(super) unused: &'static [&'static str],
}

const LLAMA2C: TextNames = TextNames {
    tokens: "tok_embeddings",
    position: None,
    types: None,
    embed_norm: None,
    blocks: "layers.",
    qkv: &["attention.wq", "attention.wk", "attention.wv"],
    proj: "attention.wo",
    norm1: "attention_norm",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    norm2: "ffn_norm",
    norm: Some("norm"),
    output: "output",
    pooler: "pooler",
    head: "score",
    prefixes: &[""],
    unused: &["rope.freqs", "freqs_cos", "freqs_sin"],
};

const LLAMA: TextNames = TextNames {
    tokens: "embed_tokens",
    position: None,
    types: None,
    embed_norm: None,
    blocks: "layers.",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    proj: "self_attn.o_proj",
    norm1: "input_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    norm2: "post_attention_layernorm",
    norm: Some("norm"),
    output: "lm_head",
    pooler: "pooler",
    head: "score",
    prefixes: &["model.", ""],
    unused: &["self_attn.rotary_emb.inv_freq"],
};

const GPT2: TextNames = TextNames {
    tokens: "wte",
    position: Some("wpe"),
    types: None,
    embed_norm: None,
    blocks: "h.",
    qkv: &["attn.c_attn"],
    proj: "attn.c_proj",
    norm1: "ln_1",
    gate: "mlp.c_gate",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    norm2: "ln_2",
    norm: Some("ln_f"),
    output: "lm_head",
    pooler: "pooler",
    head: "score",
    prefixes: &["transformer.", ""],
    unused: &["attn.bias", "attn.masked_bias"],
};

const BERT: TextNames = TextNames {
    tokens: "embeddings.word_embeddings",
    position: Some("embeddings.position_embeddings"),
    types: Some("embeddings.token_type_embeddings"),
    embed_norm: Some("embeddings.LayerNorm"),
    blocks: "encoder.layer.",
    qkv: &["attention.self.query", "attention.self.key", "attention.self.value"],
    proj: "attention.output.dense",
    norm1: "attention.output.LayerNorm",
    gate: "intermediate.gate",
    up: "intermediate.dense",
    down: "output.dense",
    norm2: "output.LayerNorm",
    norm: None,
    output: "output",
    pooler: "pooler.dense",
    head: "classifier",
    prefixes: &["bert.", ""],
    unused: &["embeddings.position_ids", "cls."],
};

const ROBERTA: TextNames = TextNames {
    pooler: "classifier.dense",
    head: "classifier.out_proj",
    prefixes: &["roberta."],
    unused: &["embeddings.position_ids", "lm_head.", "pooler."],
    ..BERT
};

impl TextFamily {
    /// Every family, `RoBERTa` in front of BERT, whose blocks it has.
    pub(super) const ALL: [Self; 5] = [Self::Llama2c, Self::Llama, Self::Gpt2, Self::Roberta, Self::Bert];

    pub(super) fn names(self) -> &'static TextNames {
        match self {
            Self::Llama2c => &LLAMA2C,
            Self::Llama => &LLAMA,
            Self::Gpt2 => &GPT2,
            Self::Bert => &BERT,
            Self::Roberta => &ROBERTA,
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama2c => "llama2.c",
            Self::Llama => "Llama",
            Self::Gpt2 => "GPT-2",
            Self::Bert => "BERT",
            Self::Roberta => "RoBERTa",
        }
    }
}

impl TextNames {
    /// The index behind a block's prefix, and the rest of the name.
    fn in_block<'a>(&self, prefix: &str, name: &'a str) -> Option<&'a str> {
        let (index, rest) = name.strip_prefix(prefix)?.strip_prefix(self.blocks)?.split_once('.')?;
        index.bytes().all(|b| b.is_ascii_digit()).then_some(rest)
    }

    /// Whether a tensor is a block's attention.
    pub(super) fn is_attention(&self, prefix: &str, name: &str) -> bool {
        self.in_block(prefix, name).is_some_and(|rest| {
            self.qkv.iter().any(|part| rest.strip_prefix(part).is_some_and(|end| end == ".weight" || end == ".bias"))
        })
    }

    /// Whether a tensor is one that such files hold and nothing here uses.
    pub(super) fn is_unused(&self, prefix: &str, name: &str) -> bool {
        let bare = name.strip_prefix(prefix).unwrap_or(name);
        let inner = self.in_block(prefix, name).unwrap_or(bare);
        self.unused.iter().any(|part| match part.strip_suffix('.') {
            Some(_) => bare.starts_with(part) || name.starts_with(part),
            None => inner == *part || bare == *part,
        })
    }
}

//! Language models read off tensor names and shapes, and what stands beside them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::names::TextFamily;
use super::plan::{Rotary, TextPool};
use super::spec::{OutputKind, TextSpec};
use crate::nn::checkpoint::{Checkpoint, Header, Weights};
use crate::nn::identify::Hints;
use crate::nn::spec::ModelSpec;
use crate::ops::Act;
use crate::ops::rotary::Style;
use crate::{Error, Result};

/// A language model read off a header, and whether its heads are known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TextReading {
    /// Everything, with as few heads as fit where they are open.
    pub(crate) spec: TextSpec,
    /// Whether the number of heads is open.
    pub(crate) heads_open: bool,
}

/// A tensor name that shows a header to be a language model's, with whose names it has and the prefix.
pub(crate) fn find(header: &Header) -> Option<(TextFamily, &'static str, String)> {
    TextFamily::ALL.iter().find_map(|&family| {
        let names = family.names();
        names.prefixes.iter().find_map(|&prefix| {
            let tokens = format!("{prefix}{}.weight", names.tokens);
            let found = header.shape(&tokens).map(|_| tokens.clone());
            let found =
                found.or_else(|| header.names().find(|name| names.is_attention(prefix, name)).map(String::from))?;
            // Vision transformers of Hugging Face have blocks of the same names.
            let is_text = header.shape(&tokens).is_some() || !matches!(family, TextFamily::Bert);
            is_text.then_some((family, prefix, found))
        })
    })
}

/// What a model's authors say of it: `config.json` beside the weights, or the file's own remarks.
struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    fn beside(header: &Header) -> Result<Self> {
        let path = header.path().with_file_name("config.json");
        let remarks = header.metadata().iter();
        let mut values: Map<String, Value> =
            remarks.filter_map(|(key, value)| Some((key.clone(), Value::from(value.parse::<u64>().ok()?)))).collect();
        match std::fs::read(&path) {
            Ok(text) => {
                let own: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| Error::file(&path, e))?;
                values.extend(own);
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path, &e)),
        }
        Ok(Self { path, values })
    }

    fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::file(&self.path, message))
    }

    /// The first of these keys that has a value.
    fn get(&self, keys: &[&'static str]) -> Option<(&'static str, &Value)> {
        keys.iter().find_map(|key| Some((*key, self.values.get(*key).filter(|value| !value.is_null())?)))
    }

    fn count(&self, keys: &[&'static str]) -> Result<Option<usize>> {
        let Some((key, value)) = self.get(keys) else { return Ok(None) };
        match value.as_u64().filter(|n| (1..=1 << 24).contains(n)) {
            Some(n) => Ok(Some(n as usize)),
            None => self.fail(format!("{key} is {value}, a whole number from 1 on wanted")),
        }
    }

    fn number(&self, keys: &[&'static str]) -> Result<Option<f32>> {
        let Some((key, value)) = self.get(keys) else { return Ok(None) };
        self.as_number(key, value).map(Some)
    }

    fn as_number(&self, key: &str, value: &Value) -> Result<f32> {
        match value.as_f64().filter(|x| x.is_finite() && *x >= 0.0) {
            Some(x) => Ok(x as f32),
            None => self.fail(format!("{key} is {value}, a number wanted")),
        }
    }

    /// A value of rotary positions: in newer files they stand together, in older ones on their own.
    fn rotary(&self, key: &'static str) -> Option<&Value> {
        let together = self.get(&["rope_parameters"]).and_then(|(_, all)| all.get(key)).filter(|v| !v.is_null());
        together.or_else(|| Some(self.get(&[key])?.1))
    }

    fn act(&self) -> Result<Option<Act>> {
        let Some((key, value)) = self.get(&["hidden_act", "activation_function", "hidden_activation"]) else {
            return Ok(None);
        };
        Ok(Some(match value.as_str() {
            Some("silu" | "swish") => Act::Silu,
            Some("gelu") => Act::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Act::GeluTanh,
            Some("relu") => Act::Relu,
            _ => return self.fail(format!("{key} is {value}; silu, gelu, gelu_new and relu are known")),
        }))
    }

    /// An error for what would change the numbers and is not computed here.
    fn check_known(&self) -> Result<()> {
        if let Some((key, value)) = self.get(&["model_type"]) {
            let other = value.as_str().is_some_and(|name| name.starts_with("gemma") || name.starts_with("granite"));
            if other {
                return self
                    .fail(format!("{key} is {value}: its layers have Llama's names and compute something else"));
            }
        }
        for key in ["embedding_multiplier", "residual_multiplier", "logits_scaling"] {
            if let Some((_, value)) = self.get(&[key])
                && value.as_f64() != Some(1.0)
            {
                return self.fail(format!("{key} is {value}: only 1 is computed here"));
            }
        }
        if let Some((key, value)) = self.get(&["rope_parameters"]) {
            let kind = value.get("rope_type").or_else(|| value.get("type")).filter(|kind| !kind.is_null());
            // Some models have one set for each kind of layer.
            let is_one = value.as_object().is_some_and(|all| !all.values().any(Value::is_object));
            if !is_one || kind.is_some_and(|kind| kind != "default") {
                return self.fail(format!("{key} is {value}: only plain rotary positions are computed here"));
            }
        }
        if let Some(value) = self.rotary("partial_rotary_factor")
            && value.as_f64() != Some(1.0)
        {
            return self
                .fail(format!("partial_rotary_factor is {value}: only heads turned as a whole are computed here"));
        }
        if let Some((key, value)) = self.get(&["rope_scaling"]) {
            let plain = value.get("rope_type").or_else(|| value.get("type")).and_then(Value::as_str);
            if plain != Some("default") {
                return self.fail(format!("{key} is {value}: only plain rotary positions are computed here"));
            }
        }
        match self.get(&["position_embedding_type"]) {
            Some((key, value)) if value != "absolute" && value != "rope" => {
                self.fail(format!("{key} is {value}: only absolute and rotary positions are computed here"))
            }
            _ => Ok(()),
        }
    }
}

impl TextSpec {
    /// Reads names, sizes and classes off a header, completed by `config.json` beside the file, the file's remarks and
    /// hints; `None` if it is no language model's.
    pub(crate) fn from_header(header: &Header, hints: &Hints) -> Result<Option<TextReading>> {
        let Some((mut family, prefix, _)) = find(header) else { return Ok(None) };
        let config = Config::beside(header)?;
        config.check_known()?;
        let model_type =
            config.get(&["model_type"]).and_then(|(_, v)| v.as_str().map(String::from)).unwrap_or_default();
        if family == TextFamily::Bert && model_type.contains("roberta") {
            family = TextFamily::Roberta;
        }
        let n = family.names();
        let arch = hints.arch.as_deref().map(Self::by_name).transpose()?;
        let usual = arch.clone().unwrap_or_else(|| usual(family));
        let first = |part: &str| format!("{prefix}{}0.{part}.weight", n.blocks);
        let table = |part: Option<&str>, axis| header.vote(&[(&format!("{prefix}{}.weight", part?), axis)]);
        // Axis of a layer's inputs and outputs.
        let (n_in, n_out) = if family == TextFamily::Gpt2 { (0, 1) } else { (1, 0) };
        let names = [n.norm1, n.qkv[0], n.proj, n.up, n.norm2].map(first);
        let tokens = format!("{prefix}{}.weight", n.tokens);
        let width = header.vote(&[
            (&tokens, 1),
            (&names[0], 0),
            (&names[1], n_in),
            (&names[2], n_out),
            (&names[3], n_in),
            (&names[4], 0),
        ]);
        let width = config.count(&["hidden_size", "n_embd", "dim"])?.or(width).unwrap_or(usual.width);
        let blocks = format!("{prefix}{}", n.blocks);
        let depth = config.count(&["num_hidden_layers", "n_layer", "n_layers"])?.unwrap_or(header.depth(&blocks));
        let mlp = header.vote(&[(&names[3], n_out), (&first(n.down), n_in)]);
        let mlp = config.count(&["intermediate_size", "n_inner", "hidden_dim"])?.or(mlp).unwrap_or(4 * width);
        let vocab = config.count(&["vocab_size", "vocab"])?.or(header.vote(&[(&tokens, 0)])).unwrap_or(usual.vocab);
        let positions = config.count(&["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_len"])?;
        let positions = positions.or(table(n.position, 0)).unwrap_or(usual.positions);
        let q_width = header.vote(&[(&names[2], n_in)]).unwrap_or(width);
        let known_heads = config
            .count(&["num_attention_heads", "n_head", "n_heads"])?
            .or(hints.heads)
            .or(arch.map(|a| a.heads))
            // Every published GPT-2 has heads of 64.
            .or((family == TextFamily::Gpt2 && vocab == 50_257 && width.is_multiple_of(64)).then_some(width / 64));
        let kv_width = match n.qkv {
            [_, k, _] => header.vote(&[(&first(k), 0)]).unwrap_or(q_width),
            _ => q_width,
        };
        // Where they are open, as few as fit both widths.
        let heads = known_heads.unwrap_or_else(|| q_width / common_divisor(q_width, kv_width).max(1));
        let head_width = config.count(&["head_dim"])?.unwrap_or(q_width / heads.max(1)).max(1);
        if heads * head_width != q_width {
            let message = format!("{heads} heads of {head_width} where {} takes {q_width} values", names[2]);
            return Err(Error::file(header.path(), message));
        }
        let kv_heads = config.count(&["num_key_value_heads", "n_kv_heads"])?.unwrap_or(kv_width / head_width).max(1);
        let eps = config.number(&["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"])?;
        let base = config.rotary("rope_theta").map(|value| config.as_number("rope_theta", value)).transpose()?;
        let has = |name: &str| header.has_layer(name);
        let has_in_block = |part: &str, end: &str| {
            (0..depth.max(1)).any(|i| header.shape(&format!("{blocks}{i}.{part}.{end}")).is_some())
        };
        let tied = config.values.get("tie_word_embeddings").and_then(Value::as_bool);
        let output = match usual.output {
            OutputKind::None => OutputKind::None,
            _ if has(n.output) && tied != Some(true) => OutputKind::Own,
            _ => OutputKind::Tied,
        };
        let pooler = if family == TextFamily::Roberta { n.pooler.to_string() } else { format!("{prefix}{}", n.pooler) };
        let pad = config.values.get("pad_token_id").and_then(Value::as_u64);
        let first_position = if family == TextFamily::Roberta { pad.map_or(2, |pad| pad as usize + 1) } else { 0 };
        let spec = Self {
            family,
            prefix: prefix.to_string(),
            vocab,
            positions,
            first_position,
            types: config.count(&["type_vocab_size"])?.or(table(n.types, 0)).filter(|_| n.types.is_some()).unwrap_or(0),
            width,
            depth,
            heads,
            kv_heads,
            head_width,
            mlp,
            act: config.act()?.or(hints.act).unwrap_or(usual.act),
            gated: has_in_block(n.gate, "weight") || (usual.gated && !has_in_block(n.up, "weight")),
            norm: usual.norm,
            norm_place: usual.norm_place,
            eps: eps.or(hints.eps).unwrap_or(usual.eps),
            rotary: usual.rotary.map(|r| Rotary { base: base.unwrap_or(r.base), ..r }),
            causal: usual.causal,
            qkv_bias: usual.qkv_bias || has_in_block(n.qkv[0], "bias"),
            bias: usual.bias || has_in_block(n.proj, "bias"),
            output,
            pooler: has(&pooler),
            pool: usual.pool,
            classes: header.classes(n.head),
            head_bias: header.shape(&format!("{}.bias", n.head)).is_some() || (usual.head_bias && !has(n.head)),
        };
        Ok(Some(TextReading { spec, heads_open: known_heads.is_none() }))
    }

    /// Whether a file's tensor is one that such files hold and nothing here uses.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        let output = self.family.names().output;
        self.family.names().is_unused(&self.prefix, name)
            || (self.output == OutputKind::Tied && name.strip_prefix(output) == Some(".weight"))
    }
}

/// The largest number that divides both.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// What a family's models have where nothing says otherwise.
fn usual(family: TextFamily) -> TextSpec {
    match family {
        TextFamily::Llama2c => TextSpec::llama2c(32_000, 512, 8, [8, 8], 1376),
        TextFamily::Llama => TextSpec {
            family,
            rotary: Some(Rotary { base: 1e4, style: Style::Halves }),
            eps: 1e-6,
            ..TextSpec::llama2c(32_000, 512, 8, [8, 8], 1376)
        },
        TextFamily::Gpt2 => TextSpec::gpt2(768, 12),
        TextFamily::Bert => TextSpec::bert(768, 12, 12),
        TextFamily::Roberta => TextSpec {
            family,
            types: 1,
            eps: 1e-5,
            positions: 514,
            vocab: 50_265,
            pool: TextPool::First,
            ..TextSpec::bert(768, 12, 12)
        },
    }
}

/// Reads a language model from a safetensors file, or from a folder with one: its sizes from names and shapes, `config.json`
/// and `W.json` beside them, and `hints`.
///
/// Tensors that such files hold and nothing here uses are left out: tables of rotary angles, attention masks, heads for masked
/// tokens.
///
/// # Errors
/// [`Error::File`] if there is no such file, if it is no language model's, if weights and config do not fit each other (every
/// misfit is named), or if the heads stay open.
pub fn load(path: &Path, hints: &Hints) -> Result<(TextSpec, Weights)> {
    let path = weights_at(path)?;
    let mut checkpoint = Checkpoint::read(&path)?;
    let hints = hints.clone().or(Hints::beside(&path)?);
    let Some(reading) = TextSpec::from_header(checkpoint.header(), &hints)? else {
        let first: Vec<&str> = checkpoint.header().names().take(3).collect();
        return Err(Error::file(
            path,
            format!("no language model known here has such tensors: {} ...", first.join(", ")),
        ));
    };
    let TextReading { spec, heads_open } = reading;
    checkpoint.forget(|name| spec.ignores(name));
    let plan = spec.plan();
    let weights = checkpoint.load(&plan.params, &spec.to_string())?;
    if heads_open {
        let message = "a language model whose number of heads is nowhere: give --heads H (or a config.json beside it)";
        return Err(Error::file(path, message));
    }
    spec.check().map_err(|e| Error::file(&path, e))?;
    Ok((spec, weights))
}

/// The weights' file that a path names: itself, or the one in a folder.
fn weights_at(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let named = path.join("model.safetensors");
    if named.is_file() {
        return Ok(named);
    }
    let entries = std::fs::read_dir(path).map_err(|e| Error::io(path, &e))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::file(path, "a folder without weights, wanted model.safetensors")),
        many => Err(Error::file(path, format!("a folder with {} safetensors files: name one", many.len()))),
    }
}

impl From<TextSpec> for ModelSpec {
    fn from(spec: TextSpec) -> Self {
        Self::Text(Box::new(spec))
    }
}

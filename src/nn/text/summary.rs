//! What a language model costs for one text.

use super::plan::{Output, TextBlock, TextPlan, TokenNorm};
use crate::nn::param::ParamList;
use crate::nn::plan::Linear;
use crate::nn::summary::LayerRow;
use crate::ops::Act;

/// The layers of a language model over one text.
pub(in crate::nn) struct TextCost {
    /// The layers in order.
    pub(in crate::nn) rows: Vec<LayerRow>,
    /// Most values alive at once.
    pub(in crate::nn) peak: u64,
    /// Most values of one activation.
    pub(in crate::nn) largest: u64,
    /// Values that a backward pass needs kept, but for those of blocks.
    pub(in crate::nn) kept: u64,
    /// Of these values of one block.
    pub(in crate::nn) kept_block: u64,
    /// Values of both operands of the largest product that gives a weight's gradient.
    pub(in crate::nn) product: u64,
}

fn act_name(act: Act) -> String {
    if act == Act::None { String::new() } else { format!(", {act:?}").to_lowercase() }
}

impl TextPlan {
    /// Walks the model for one text of `n` tokens.
    pub(in crate::nn) fn cost(&self, params: &ParamList, n: usize) -> TextCost {
        let values = |id| params[id].len() as u64;
        let norm_params = |norm: &TokenNorm| values(norm.gain) + norm.bias.map_or(0, values);
        let linear_params = |l: &Linear| values(l.weight) + l.bias.map_or(0, values);
        let (width, n64) = (self.width as u64, n as u64);
        let shape = vec![n, self.width];
        let token_values = n64 * width;
        let mut rows = Vec::new();
        let mut row = |name: &str, op: String, output: Vec<usize>, params: u64, multiply_adds: u64| {
            rows.push(LayerRow { name: name.into(), op, output, params, multiply_adds });
        };
        let tables = [Some(self.tokens), self.position, self.types].into_iter().flatten().map(values).sum::<u64>();
        let op = if self.rotary.is_some() { "tokens, rotary positions" } else { "tokens and positions" };
        row("", op.into(), shape.clone(), tables + self.embed_norm.as_ref().map_or(0, norm_params), 0);
        let (q, kv) = ((self.heads * self.head_width) as u64, (self.kv_heads * self.head_width) as u64);
        let mut block = |layer: &TextBlock| {
            let norm = if layer.norm1.bias.is_some() { "layer norm" } else { "rms norm" };
            let mlp: Vec<&Linear> = layer.gate.iter().chain([&layer.up, &layer.down]).collect();
            let all: u64 = layer.linears().map(linear_params).sum();
            let of_mlp: u64 = mlp.iter().map(|l| linear_params(l)).sum();
            let macs: u64 = layer.linears().map(|l| n64 * (l.n_in * l.n_out) as u64).sum();
            let mlp_macs: u64 = mlp.iter().map(|l| n64 * (l.n_in * l.n_out) as u64).sum();
            // Each token on all tokens of the text, or on half of them.
            let scores = 2 * n64 * n64 * q / if self.causal { 2 } else { 1 };
            let kind = if self.causal { "causal attention" } else { "attention" };
            let op = format!("{kind}, {} heads, {norm}", self.heads);
            let attention = macs - mlp_macs + scores;
            row(
                &format!("{}.attention", layer.name),
                op,
                shape.clone(),
                all - of_mlp + norm_params(&layer.norm1),
                attention,
            );
            let act = layer.gate.as_ref().unwrap_or(&layer.up).act;
            let gated = if layer.gate.is_some() { "gated " } else { "" };
            let op = format!("{gated}mlp {}{}, {norm}", layer.up.n_out, act_name(act));
            row(&format!("{}.mlp", layer.name), op, shape.clone(), of_mlp + norm_params(&layer.norm2), mlp_macs);
        };
        self.blocks.iter().for_each(&mut block);
        if let Some(norm) = &self.norm {
            row(&norm.name, "norm".into(), shape.clone(), norm_params(norm), 0);
        }
        let vocab = params[self.tokens].shape[0];
        let logits = n64 * vocab as u64;
        let macs = logits * width;
        match &self.output {
            Output::None => {}
            Output::Tied => row("", "logits by the table of tokens".into(), vec![n, vocab], 0, macs),
            Output::Own(layer) => row(&layer.name, "logits".into(), vec![n, vocab], linear_params(layer), macs),
        }
        for layer in self.pooler.iter().chain(&self.head) {
            let op = format!("linear{}", act_name(layer.act));
            row(&layer.name, op, vec![layer.n_out], linear_params(layer), (layer.n_in * layer.n_out) as u64);
        }
        let hidden = n64 * self.blocks.iter().map(|b| b.up.n_out).max().unwrap_or(0) as u64;
        let gated = self.blocks.iter().any(|b| b.gate.is_some());
        let logits = if self.output == Output::None { 0 } else { logits };
        // What norms, layers and attention read: the input twice, q, k, v, the mixed heads, the sum, the hidden values with
        // what their activation read.
        let kept_block = n64 * (4 * width + 2 * q + 2 * kv) + hidden * if gated { 4 } else { 2 };
        TextCost {
            rows,
            peak: (2 * token_values + n64 * (q + 2 * kv)).max(token_values + 2 * hidden).max(token_values + logits),
            largest: hidden.max(logits).max(token_values).max(n64 * (q + 2 * kv)),
            kept: 2 * token_values + logits,
            kept_block,
            product: (token_values + hidden).max(token_values + logits),
        }
    }
}

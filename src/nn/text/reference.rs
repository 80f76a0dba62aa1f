//! A language model's forward pass once more on the CPU in f64, over plain loops.

use super::plan::{Output, Rotary, TextBlock, TextPlan, TextQkv, TokenNorm};
use crate::nn::checkpoint::Weights;
use crate::nn::plan::{Body, NormPlace, Plan};
use crate::nn::reference::Params;
use crate::ops::rotary::Style;
use crate::reference::elementwise::zip;
use crate::reference::{Array, attention, norm};
use crate::{Error, Result};

/// Features `[T, width]` and, where the model has them, logits `[T, vocab]` of packed `texts` in f64, for checks; `types`
/// are the segments of all tokens, if there are several.
///
/// # Errors
/// [`Error::Argument`] if the weights are not those of `plan`, this is no language model's, an id, a text or a segment is past
/// its table, or there is not one segment for each token.
pub fn reference_tokens(
    plan: &Plan,
    weights: &Weights,
    texts: &[&[u32]],
    types: Option<&[u32]>,
) -> Result<(Array, Option<Array>)> {
    let fail = |message: &str| Err(Error::argument("reference_tokens", message));
    let Body::Text(text) = &plan.body else { return fail("no language model's plan") };
    let params = Params::new(plan, weights)?;
    let n_rows = |id| params.of(id).shape[0];
    let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
    if texts.iter().copied().flatten().any(|id| *id as usize >= n_rows(text.tokens)) {
        return fail("an id past the vocabulary");
    }
    if text.position.is_some_and(|id| longest + text.first_position > n_rows(id)) {
        return fail("a text past the table of positions");
    }
    if let Some(types) = types {
        if types.len() != texts.iter().map(|ids| ids.len()).sum::<usize>() {
            return fail("not one segment for each token");
        }
        if text.types.is_some_and(|id| types.iter().any(|kind| *kind as usize >= n_rows(id))) {
            return fail("a segment past its table");
        }
    }
    let features = params.tokens(text, texts, types);
    let logits = match &text.output {
        Output::None => None,
        Output::Own(layer) => Some(params.linear(layer, &features)),
        Output::Tied => {
            let (table, width) = (params.of(text.tokens), text.width);
            let shape = [features.shape[0], table.shape[0]];
            let rows = features.data.chunks(width).flat_map(|x| table.data.chunks(width).map(move |w| (x, w)));
            let dots = rows.map(|(x, w)| x.iter().zip(w).map(|(x, w)| x * w).sum());
            Some(Array::new(&shape, dots.collect()))
        }
    };
    Ok((features, logits))
}

fn add(a: &Array, b: &Array) -> Array {
    zip(a, b, |a, b| a + b)
}

/// `x [T, heads, d]` turned by positions.
fn turn(x: &Array, positions: &[usize], rotary: &Rotary) -> Array {
    let d = x.shape[2];
    Array::from_fn(&x.shape, |at| {
        let &[t, head, i] = at else { return f64::NAN };
        let (pair, other, sign) = match rotary.style {
            Style::Adjacent => (i / 2, i ^ 1, if i % 2 == 0 { -1.0 } else { 1.0 }),
            Style::Halves => (i % (d / 2), (i + d / 2) % d, if i < d / 2 { -1.0 } else { 1.0 }),
        };
        let angle = positions[t] as f64 * f64::from(rotary.base).powf(-2.0 * pair as f64 / d as f64);
        x.at(&[t, head, i]) * angle.cos() + sign * x.at(&[t, head, other]) * angle.sin()
    })
}

impl Params {
    fn tokens(&self, text: &TextPlan, texts: &[&[u32]], types: Option<&[u32]>) -> Array {
        let ids: Vec<usize> = texts.iter().copied().flatten().map(|id| *id as usize).collect();
        let positions: Vec<usize> = texts.iter().flat_map(|ids| 0..ids.len()).collect();
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let mut x = Array::from_fn(&[ids.len(), text.width], |i| {
            let row = |id, row: usize| self.of(id).at(&[row, i[1]]);
            let position = text.position.map_or(0.0, |id| row(id, positions[i[0]] + text.first_position));
            let segment = text.types.map_or(0.0, |id| row(id, types.map_or(0, |types| types[i[0]] as usize)));
            row(text.tokens, ids[i[0]]) + position + segment
        });
        if let Some(layer) = &text.embed_norm {
            x = self.token_norm(layer, &x);
        }
        for layer in &text.blocks {
            x = self.text_block(text, layer, &x, &positions, &lengths);
        }
        text.norm.as_ref().map_or(x.clone(), |layer| self.token_norm(layer, &x))
    }

    fn text_block(
        &self,
        text: &TextPlan,
        layer: &TextBlock,
        x: &Array,
        positions: &[usize],
        lengths: &[usize],
    ) -> Array {
        let attend = |x: &Array| self.text_attention(text, layer, x, positions, lengths);
        let mlp = |x: &Array| {
            let up = self.linear(&layer.up, x);
            let hidden = layer.gate.as_ref().map_or(up.clone(), |gate| zip(&self.linear(gate, x), &up, |a, b| a * b));
            self.linear(&layer.down, &hidden)
        };
        match text.norm_place {
            NormPlace::Pre => {
                let x = add(x, &attend(&self.token_norm(&layer.norm1, x)));
                add(&x, &mlp(&self.token_norm(&layer.norm2, &x)))
            }
            NormPlace::Post => {
                let x = self.token_norm(&layer.norm1, &add(x, &attend(x)));
                self.token_norm(&layer.norm2, &add(&x, &mlp(&x)))
            }
        }
    }

    fn text_attention(
        &self,
        text: &TextPlan,
        layer: &TextBlock,
        x: &Array,
        positions: &[usize],
        lengths: &[usize],
    ) -> Array {
        let (n_tokens, d) = (x.shape[0], text.head_width);
        let [n_q, n_kv] = [text.heads, text.kv_heads];
        let made = match &layer.qkv {
            TextQkv::Packed(layer) => vec![self.linear(layer, x)],
            TextQkv::Separate(layers) => layers.iter().map(|layer| self.linear(layer, x)).collect(),
        };
        let part = |i: usize, start: usize, heads: usize| {
            let (of, first) = if let [packed] = &made[..] { (packed, start * d) } else { (&made[i], 0) };
            Array::from_fn(&[n_tokens, heads, d], |at| of.at(&[at[0], first + at[1] * d + at[2]]))
        };
        let (mut q, mut k, v) = (part(0, 0, n_q), part(1, n_q, n_kv), part(2, n_q + n_kv, n_kv));
        if let Some(rotary) = &text.rotary {
            (q, k) = (turn(&q, positions, rotary), turn(&k, positions, rotary));
        }
        let scale = 1.0 / (d as f64).sqrt();
        let (mixed, _) = attention::attention([&q, &k, &v], (lengths, lengths), text.causal, scale);
        self.linear(&layer.proj, &mixed.reshaped(&[n_tokens, n_q * d]))
    }

    fn token_norm(&self, layer: &TokenNorm, x: &Array) -> Array {
        let gain = Some(self.of(layer.gain));
        match layer.bias {
            Some(bias) => norm::layer_norm(x, gain, Some(self.of(bias)), layer.eps.into()),
            None => norm::rms_norm(x, gain, layer.eps.into()),
        }
    }
}

//! How well a language model predicts texts.

use super::batch::{Text, TokenBatch};
use crate::nn::model::Model;
use crate::ops::softmax::cross_entropy;
use crate::runtime::Repeated;
use crate::{Result, Runtime, Tensor};

/// What the counted tokens of texts cost a model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Minus the logarithm of the probabilities, summed.
    pub nats: f64,
    /// Tokens that were counted.
    pub tokens: u64,
}

impl Score {
    /// Of all these texts together.
    #[must_use]
    pub fn of(scores: &[Self]) -> Self {
        scores.iter().fold(Self::default(), |sum, s| Self { nats: sum.nats + s.nats, tokens: sum.tokens + s.tokens })
    }

    /// Mean of minus the logarithm of a token's probability.
    #[must_use]
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }

    /// How many tokens would be as hard to tell apart.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// Bits for each of the `n` bytes that the counted tokens stand for: what compares models of different vocabularies.
    #[must_use]
    pub fn bits_per_byte(&self, n: usize) -> f64 {
        self.nats / std::f64::consts::LN_2 / n.max(1) as f64
    }
}

/// Texts of a batch at most.
const TEXTS: usize = 64;

/// Scores each text alone, in batches of `n_tokens` tokens or of the longest text. Sums over a text are taken in f64.
///
/// # Errors
/// As [`Model::token_logits`] and [`TokenBatch::fill`].
pub fn score(runtime: &Runtime, model: &Model, texts: &[Text<'_>], n_tokens: usize) -> Result<Vec<Score>> {
    let Some(longest) = texts.iter().map(|text| text.ids.len()).max() else { return Ok(vec![]) };
    let n_tokens = n_tokens.max(longest);
    let batch = TokenBatch::new(runtime, TEXTS.min(texts.len()), n_tokens, longest)?;
    let mut losses = Repeated::<Tensor>::default();
    let mut scores = Vec::with_capacity(texts.len());
    let mut rest = texts;
    while !rest.is_empty() {
        let mut room = n_tokens;
        let fits = |text: &&Text<'_>| {
            let fits = text.ids.len() <= room;
            room -= text.ids.len().min(room);
            fits
        };
        let n = rest.iter().take(batch.n_texts()).take_while(fits).count();
        let (here, behind) = rest.split_at(n);
        rest = behind;
        batch.fill(here, None)?;
        let values =
            losses.run(runtime, || Ok(cross_entropy(&model.token_logits(&batch)?, &batch.targets, 0.0)?.detach()))?;
        let values = values.to_vec::<f32>()?;
        let mut at = 0;
        for text in here {
            let n = text.ids.len();
            // The loss of a token stands at the one in front of it.
            let counted = at + text.loss_from.clamp(1, n) - 1..at + n - 1;
            let tokens = counted.len() as u64;
            scores.push(Score { nats: values[counted].iter().map(|v| f64::from(*v)).sum(), tokens });
            at += n;
        }
    }
    Ok(scores)
}

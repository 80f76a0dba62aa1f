//! Texts as a network reads them: packed tokens in tensors whose shapes stay the same from batch to batch.

use crate::tensor::Offsets;
use crate::{Error, Result, Runtime, Tensor};

/// Packed texts for a [`crate::nn::Model`].
///
/// Shapes depend on [`TokenBatch::new`] alone, and [`TokenBatch::fill`] writes in place: what was recorded once with
/// [`Runtime::record_plan`] can be replayed on other texts. Behind the texts stands padding, in sequences of its own that no
/// text sees.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    /// Tokens: u32 `[T]`.
    pub ids: Tensor,
    /// Places in their texts: u32 `[T]`.
    pub positions: Tensor,
    /// Where texts begin, and behind them those of padding.
    pub offsets: Offsets,
    /// Segments, for models with a table of them: u32 `[T]`. Without it every token is of segment 0.
    pub types: Option<Tensor>,
    /// The token behind each: u32 `[T]`.
    pub targets: Tensor,
    /// What the prediction of each target counts in the loss: f32 `[T]`, 0 where there is none.
    pub weights: Tensor,
    /// First token of each text: u32 `[n]`.
    pub first: Tensor,
    /// Last token of each text: u32 `[n]`.
    pub last: Tensor,
    /// The text of each token: u32 `[T]`, `n` for padding.
    pub texts: Tensor,
    /// 1 over the tokens of each text: f32 `[n, 1]`.
    pub shares: Tensor,
    n_texts: usize,
    max_len: usize,
}

/// A text of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// The first token whose prediction counts; at least 1, as nothing predicts the first.
    pub loss_from: usize,
}

impl TokenBatch {
    /// Room for `n_texts` texts of `n_tokens` tokens together, none longer than `max_len`.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of them is 0, else as [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime, n_texts: usize, n_tokens: usize, max_len: usize) -> Result<Self> {
        if n_texts == 0 || n_tokens == 0 || max_len == 0 {
            let given = format!("{n_texts} texts of {n_tokens} tokens, {max_len} at most");
            return Err(Error::argument("batch", format!("{given}: nothing fits")));
        }
        let max_len = max_len.min(n_tokens);
        let n_sequences = n_texts + n_tokens.div_ceil(max_len);
        let words = |n: usize| Tensor::from_slice(runtime, &vec![0_u32; n], &[n]);
        let batch = Self {
            ids: words(n_tokens)?,
            positions: words(n_tokens)?,
            offsets: Offsets::bounded(words(n_sequences + 1)?, n_tokens, max_len),
            types: None,
            targets: words(n_tokens)?,
            weights: Tensor::from_slice(runtime, &vec![0.0_f32; n_tokens], &[n_tokens])?,
            first: words(n_texts)?,
            last: words(n_texts)?,
            texts: words(n_tokens)?,
            shares: Tensor::from_slice(runtime, &vec![0.0_f32; n_texts], &[n_texts, 1])?,
            n_texts,
            max_len,
        };
        batch.fill(&[], None)?;
        Ok(batch)
    }

    /// These texts in a batch that has just room for them, every target with weight.
    ///
    /// # Errors
    /// [`Error::Argument`] without texts or with an empty one, else as [`Tensor::from_slice`].
    pub fn of(runtime: &Runtime, texts: &[&[u32]]) -> Result<Self> {
        let n_tokens = texts.iter().map(|ids| ids.len()).sum();
        let max_len = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let batch = Self::new(runtime, texts.len(), n_tokens, max_len)?;
        let texts: Vec<Text<'_>> = texts.iter().map(|ids| Text { ids, loss_from: 1 }).collect();
        batch.fill(&texts, None)?;
        Ok(batch)
    }

    /// Texts there is room for.
    #[must_use]
    pub fn n_texts(&self) -> usize {
        self.n_texts
    }

    /// Tokens there is room for.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of one text at most.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Puts other texts in, **in place**; answers how many targets count. Each counts as 1 over `divisor`, or over their
    /// number: their loss is then a mean. Where there are fewer texts than room, the last ones are empty.
    ///
    /// # Errors
    /// [`Error::Argument`] if they are too many or too long or one is empty, [`Error::DeviceLost`].
    pub fn fill(&self, texts: &[Text<'_>], divisor: Option<usize>) -> Result<usize> {
        let n_tokens = self.n_tokens();
        let total: usize = texts.iter().map(|text| text.ids.len()).sum();
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        if texts.len() > self.n_texts || total > n_tokens || longest > self.max_len {
            let given = format!("{} texts of {total} tokens, the longest of {longest}", texts.len());
            let room = format!("room is for {} of {n_tokens}, none past {}", self.n_texts, self.max_len);
            return Err(Error::argument("batch", format!("{given}: {room}")));
        }
        if let Some(at) = texts.iter().position(|text| text.ids.is_empty()) {
            return Err(Error::argument("batch", format!("text {at} has no token")));
        }
        let (mut ids, mut positions, mut targets) = (vec![0; n_tokens], vec![0; n_tokens], vec![0; n_tokens]);
        let (mut weights, mut of) = (vec![0.0; n_tokens], vec![self.n_texts as u32; n_tokens]);
        let (mut first, mut last) = (vec![0; self.n_texts], vec![0; self.n_texts]);
        let (mut shares, mut starts) = (vec![0.0; self.n_texts], vec![0_u32]);
        let counted = |text: &Text<'_>| text.ids.len().saturating_sub(text.loss_from.max(1));
        let n_counted: usize = texts.iter().map(counted).sum();
        let weight = 1.0 / divisor.unwrap_or(n_counted).max(1) as f32;
        let mut at = 0;
        for (i, text) in texts.iter().enumerate() {
            let n = text.ids.len();
            ids[at..at + n].copy_from_slice(text.ids);
            of[at..at + n].fill(i as u32);
            for (place, position) in positions[at..at + n].iter_mut().enumerate() {
                *position = place as u32;
            }
            for target in 1..n {
                targets[at + target - 1] = text.ids[target];
                weights[at + target - 1] = if target >= text.loss_from { weight } else { 0.0 };
            }
            (first[i], last[i], shares[i]) = (at as u32, (at + n - 1) as u32, 1.0 / n as f32);
            at += n;
            starts.push(at as u32);
        }
        // Empty texts, then padding in sequences that are no longer than texts are.
        starts.resize(self.n_texts + 1, at as u32);
        while at < n_tokens {
            let end = n_tokens.min(at + self.max_len);
            for (place, position) in positions[at..end].iter_mut().enumerate() {
                *position = place as u32;
            }
            at = end;
            starts.push(at as u32);
        }
        starts.resize(self.offsets.n_sequences() + 1, n_tokens as u32);
        self.ids.write(&ids)?;
        self.positions.write(&positions)?;
        self.targets.write(&targets)?;
        self.weights.write(&weights)?;
        self.texts.write(&of)?;
        self.first.write(&first)?;
        self.last.write(&last)?;
        self.shares.write(&shares)?;
        self.offsets.starts().write(&starts)?;
        Ok(n_counted)
    }
}

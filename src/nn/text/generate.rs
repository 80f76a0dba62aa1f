//! Texts written by a decoder: keys and values of past tokens are kept, so that each new token costs one step.

use super::batch::{Text, TokenBatch};
use super::forward::attend;
use super::plan::TextPlan;
use super::sample::{Sampling, choose};
use crate::nn::model::Model;
use crate::ops::bank::{mark, store_rows};
use crate::ops::gather;
use crate::runtime::Repeated;
use crate::tensor::Offsets;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Tokens that a prefill's shapes are rounded up to.
const PREFILL_STEP: usize = 64;
/// Steps between two looks at what was written, where texts may end early.
const STEPS_BETWEEN_LOOKS: usize = 16;

/// A decoder that goes on with texts, several at once.
///
/// Each step does the same work on the same memory, so that from the second on it is replayed; what changes are a few words
/// of state on the device, and the tokens themselves, which never come to the host in between.
#[derive(Debug)]
pub struct Generator {
    runtime: Runtime,
    model: Model,
    batch: usize,
    max_len: usize,
    /// Keys and values of each block: `[batch max_len, kv_heads d]`, row `max_len i + p` of position `p` of text `i`.
    caches: Vec<[Tensor; 2]>,
    state: State,
    /// Tokens so far of each text.
    lengths: Vec<usize>,
    prefill: Option<Prefill>,
    step: Repeated<Tensor>,
    sampled: Option<(Sampling, Repeated<Tensor>)>,
}

/// What a step reads besides weights and caches.
#[derive(Debug)]
struct State {
    /// The newest token of each text, u32 `[batch]`.
    ids: Tensor,
    /// Every other part in one tensor, so that a step writes once.
    all: Tensor,
    /// Where the parts begin in it, in words.
    places: [usize; 4],
    /// Positions of the newest tokens, u32 `[batch]`.
    positions: Tensor,
    /// Their rows in the caches, u32 `[batch]`.
    rows: Tensor,
    /// One query of each text, none in the gap behind its keys.
    queries: Offsets,
    /// Keys of each text, and the gap behind them.
    keys: Offsets,
    /// `[0, 0, step, 0]` u32 `[4]`: what is added to the counters of random draws.
    draw: Tensor,
    /// 0, u32 `[1]`.
    zero: Tensor,
}

/// The beginnings of texts.
#[derive(Debug)]
struct Prefill {
    batch: TokenBatch,
    /// Rows of the caches, u32 `[T]`; past them for padding.
    rows: Tensor,
    work: Repeated<Tensor>,
}

impl State {
    fn new(runtime: &Runtime, batch: usize, max_len: usize) -> Result<Self> {
        let alignment = (runtime.profile().limits.offset_alignment as usize / 4).max(1);
        let sizes = [batch, batch, 2 * batch + 1, 4];
        let mut places = [0; 4];
        let mut n = 0;
        for (place, size) in places.iter_mut().zip(sizes) {
            *place = n;
            n = (n + size).next_multiple_of(alignment);
        }
        let all = Tensor::from_slice(runtime, &vec![0_u32; n], &[n])?;
        let part = |i: usize| all.slice(0, places[i]..places[i] + sizes[i]);
        let starts: Vec<u32> = (0..=2 * batch as u32).map(|i| i.div_ceil(2)).collect();
        let queries = Tensor::from_slice(runtime, &starts, &[starts.len()])?;
        Ok(Self {
            ids: Tensor::zeros(runtime, &[batch], DType::U32)?,
            positions: part(0)?,
            rows: part(1)?,
            queries: Offsets::bounded(queries, batch, 1),
            keys: Offsets::bounded(part(2)?, batch * max_len, max_len),
            draw: part(3)?,
            zero: Tensor::zeros(runtime, &[1], DType::U32)?,
            places,
            all,
        })
    }

    /// Writes what a step needs that puts the newest token of each text behind `lengths` others.
    fn write(&self, lengths: &[usize], max_len: usize, step: usize) -> Result<()> {
        let mut words = vec![0_u32; self.all.len()];
        let [positions, rows, keys, draw] = self.places;
        for (i, &length) in lengths.iter().enumerate() {
            words[positions + i] = length as u32;
            words[rows + i] = (i * max_len + length) as u32;
            words[keys + 2 * i] = (i * max_len) as u32;
            words[keys + 2 * i + 1] = (i * max_len + length + 1) as u32;
        }
        words[keys + 2 * lengths.len()] = (lengths.len() * max_len) as u32;
        words[draw + 2] = step as u32;
        self.all.write(&words)
    }
}

impl Generator {
    /// Room for `batch` texts of at most `max_len` tokens, what is written included.
    ///
    /// # Errors
    /// [`Error::Argument`] if the model is no decoder that predicts tokens, if `batch` or `max_len` is 0 or past the model's
    /// positions, or if its keys are no multiple of 4 wide; else as [`Tensor::from_slice`].
    pub fn new(runtime: &Runtime, model: &Model, batch: usize, max_len: usize) -> Result<Self> {
        const OP: &str = "generator";
        let text = model.text(OP)?;
        let fail = |message: String| Err(Error::argument(OP, message));
        if !text.causal || text.output == super::Output::None {
            return fail("an encoder writes no texts: a decoder is needed".into());
        }
        let most = model.most_tokens(text);
        if batch == 0 || max_len == 0 || max_len > most {
            return fail(format!("{batch} texts of {max_len} tokens; at least 1, and at most {most} tokens"));
        }
        let width = text.kv_heads * text.head_width;
        if !width.is_multiple_of(4) {
            return fail(format!("keys of {width} values, a multiple of 4 is kept"));
        }
        let rows = batch * max_len;
        let cache = || Tensor::zeros(runtime, &[rows, width], DType::F32);
        let caches = text.blocks.iter().map(|_| Ok([cache()?, cache()?])).collect::<Result<_>>()?;
        Ok(Self {
            runtime: runtime.clone(),
            model: model.evaluating(),
            batch,
            max_len,
            caches,
            state: State::new(runtime, batch, max_len)?,
            lengths: vec![0; batch],
            prefill: None,
            step: Repeated::default(),
            sampled: None,
        })
    }

    /// Tokens so far of each text.
    #[must_use]
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Begins new texts; answers the logits of what comes next, `[batch, vocab]`. Rows past the prompts have no meaning.
    ///
    /// The next call may write other logits into the same tensor: read or copy it before.
    ///
    /// # Errors
    /// [`Error::Argument`] for no prompts, more than there is room for, an empty one or one past `max_len`.
    pub fn start(&mut self, prompts: &[&[u32]]) -> Result<Tensor> {
        let total: usize = prompts.iter().map(|ids| ids.len()).sum();
        if prompts.is_empty() || prompts.len() > self.batch {
            let message = format!("{} texts, room is for {}", prompts.len(), self.batch);
            return Err(Error::argument("generator", message));
        }
        let n_tokens = total.next_multiple_of(PREFILL_STEP);
        if self.prefill.as_ref().is_none_or(|p| p.batch.n_tokens() != n_tokens) {
            let batch = TokenBatch::new(&self.runtime, self.batch, n_tokens, self.max_len)?;
            let rows = Tensor::zeros(&self.runtime, &[n_tokens], DType::U32)?;
            self.prefill = Some(Prefill { batch, rows, work: Repeated::default() });
        }
        let Some(Prefill { batch, rows, work }) = &mut self.prefill else {
            return Err(Error::argument("generator", "no room for prompts"));
        };
        let texts: Vec<Text<'_>> = prompts.iter().map(|ids| Text { ids, loss_from: 1 }).collect();
        batch.fill(&texts, None)?;
        // Padding goes nowhere: there is no such row.
        let mut places = vec![u32::MAX; n_tokens];
        let of_texts = prompts.iter().enumerate().flat_map(|(i, ids)| (0..ids.len()).map(move |p| (i, p)));
        for (place, (i, p)) in places.iter_mut().zip(of_texts) {
            *place = (i * self.max_len + p) as u32;
        }
        rows.write(&places)?;
        self.lengths.fill(0);
        self.lengths.iter_mut().zip(prompts).for_each(|(length, ids)| *length = ids.len());
        let (model, caches) = (&self.model, &self.caches);
        work.run(&self.runtime, || prefill(model, batch, rows, caches))
    }

    /// One more token of each text; answers the logits of what comes next, `[batch, vocab]`.
    ///
    /// The next call writes other logits into the same tensor: read or copy it before.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is one token for each text and room for it.
    pub fn next(&mut self, ids: &[u32]) -> Result<Tensor> {
        if ids.len() != self.batch {
            let message = format!("{} tokens for {} texts", ids.len(), self.batch);
            return Err(Error::argument("generator", message));
        }
        self.state.ids.write(ids)?;
        self.advance(0)?;
        let (model, state, caches) = (&self.model, &self.state, &self.caches);
        self.step.run(&self.runtime, || step(model, state, caches))
    }

    /// Takes the newest tokens back until no text has more than `length`.
    pub fn rewind(&mut self, length: usize) {
        self.lengths.iter_mut().for_each(|n| *n = (*n).min(length));
    }

    /// Writes the state of the next step and counts its tokens.
    fn advance(&mut self, draw: usize) -> Result<()> {
        if let Some(length) = self.lengths.iter().find(|length| **length >= self.max_len) {
            return Err(Error::argument(
                "generator",
                format!("a text of {length} tokens, room is for {}", self.max_len),
            ));
        }
        self.state.write(&self.lengths, self.max_len, draw)?;
        self.lengths.iter_mut().for_each(|length| *length += 1);
        Ok(())
    }

    /// Goes on with each of `prompts` until a token of [`Sampling::stop`], [`Sampling::max_new`] tokens or `max_len`; answers
    /// what was written, without prompt and stop.
    ///
    /// # Errors
    /// As [`Generator::start`], and [`Error::Argument`] if `sampling` makes no sense.
    pub fn generate(&mut self, prompts: &[&[u32]], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        let vocab = self.model.param(self.model.text("generator")?.tokens).shape()[0];
        sampling.check(vocab)?;
        let logits = self.start(prompts)?;
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let n_new = sampling.max_new.min(self.max_len - longest);
        let mut written = vec![Vec::new(); prompts.len()];
        if n_new == 0 {
            return Ok(written);
        }
        if self.sampled.as_ref().is_none_or(|(before, _)| before != sampling) {
            self.sampled = Some((sampling.clone(), Repeated::default()));
        }
        // The draw of a token is that of the number of tokens written before it.
        self.state.write(&self.lengths, self.max_len, 0)?;
        let first = choose(&logits, sampling, &self.state.draw)?;
        mark(&self.state.ids, &first, &self.state.zero)?;
        let mut reads = vec![first.read::<u32>()?];
        let mut is_done = vec![false; prompts.len()];
        for i in 1..=n_new {
            if i == n_new || i % STEPS_BETWEEN_LOOKS == 0 {
                for read in reads.drain(..) {
                    let ids = read.wait()?;
                    for ((text, done), id) in written.iter_mut().zip(&mut is_done).zip(ids) {
                        *done |= sampling.stop.contains(&id);
                        text.extend((!*done).then_some(id));
                    }
                }
                if i == n_new || is_done.iter().all(|done| *done) {
                    break;
                }
            }
            self.advance(i)?;
            let (model, state, caches) = (&self.model, &self.state, &self.caches);
            let Some((_, work)) = &mut self.sampled else { break };
            let ids = work.run(&self.runtime, || {
                let ids = choose(&step(model, state, caches)?, sampling, &state.draw)?;
                mark(&state.ids, &ids, &state.zero)?;
                Ok(ids)
            })?;
            reads.push(ids.read::<u32>()?);
        }
        Ok(written)
    }
}

/// Keeps keys and values `[T, kv_heads, d]` at these rows.
fn keep(cache: &[Tensor; 2], kv: [&Tensor; 2], rows: &Tensor) -> Result<()> {
    for (cache, x) in cache.iter().zip(kv) {
        store_rows(cache, &x.detach().reshape(&[x.shape()[0], cache.shape()[1]])?, rows)?;
    }
    Ok(())
}

/// Logits behind the last token of each text, `[batch, vocab]`.
fn prefill(model: &Model, batch: &TokenBatch, rows: &Tensor, caches: &[[Tensor; 2]]) -> Result<Tensor> {
    let text = model.text("generator")?;
    let sizes = text.sizes();
    let mut x = model.embed_tokens(text, &batch.ids, &batch.positions, batch.types.as_ref())?;
    for (layer, cache) in text.blocks.iter().zip(caches) {
        x = model.text_block(&sizes, layer, &x, &batch.positions, |[q, k, v]| {
            keep(cache, [&k, &v], rows)?;
            attend(&q, &k, &v, (&batch.offsets, &batch.offsets), true)
        })?;
    }
    logits(model, text, &gather::gather_rows(&x, &batch.last)?)
}

/// Logits behind the newest token of each text, `[batch, vocab]`.
fn step(model: &Model, state: &State, caches: &[[Tensor; 2]]) -> Result<Tensor> {
    let text = model.text("generator")?;
    let sizes = text.sizes();
    let mut x = model.embed_tokens(text, &state.ids, &state.positions, None)?;
    for (layer, cache) in text.blocks.iter().zip(caches) {
        x = model.text_block(&sizes, layer, &x, &state.positions, |[q, k, v]| {
            keep(cache, [&k, &v], &state.rows)?;
            let kept = |i: usize| cache[i].reshape(&[cache[i].shape()[0], text.kv_heads, text.head_width]);
            attend(&q, &kept(0)?, &kept(1)?, (&state.queries, &state.keys), false)
        })?;
    }
    logits(model, text, &x)
}

fn logits(model: &Model, text: &TextPlan, x: &Tensor) -> Result<Tensor> {
    Ok(model.output_logits(&model.last_norm(text, x)?)?.detach())
}

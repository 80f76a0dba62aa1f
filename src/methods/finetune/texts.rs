//! Texts as a task: the next token, or a text's class.

use std::path::{Path, PathBuf};

use super::shots::{Shots, choose};
use crate::data::text::{Corpus, CorpusKind, Encoding, Texts, Tokenizer};
use crate::methods::training::{Batch, Recipe};
use crate::nn::text::{Generator, Sampling, Score, Text, TextSpec, TokenBatch, score};
use crate::nn::{Model, ModelSpec};
use crate::ops::gather::index_select;
use crate::ops::{reduce, softmax};
use crate::{Error, Result, Runtime, Tensor};

/// Tokens of a batch that texts are judged in.
const JUDGED: usize = 2048;
/// Texts of a batch whose classes are judged.
const JUDGED_TEXTS: usize = 32;
/// Tokens of a sample.
const SAMPLE: usize = 96;

/// Texts to learn from and to judge by.
#[derive(Debug, Clone)]
pub(super) struct TextHalves {
    pub(super) name: String,
    pub(super) source: String,
    pub(super) train: Texts,
    pub(super) test: Texts,
    tokenizer: Tokenizer,
    /// What stands in front of the first text to judge by.
    prompt: Option<String>,
}

/// What is wanted of texts.
pub(super) struct WantedTexts<'a> {
    pub(super) data: &'a str,
    pub(super) base: &'a str,
    pub(super) tokenizer: Option<&'a Path>,
    pub(super) max_len: Option<usize>,
    pub(super) prompt: bool,
    pub(super) holdout: f64,
    pub(super) seed: u64,
    /// Texts at most, to learn from and to judge by.
    pub(super) n: [Option<usize>; 2],
}

impl TextHalves {
    /// Reads a corpus and brings it into a model's tokens.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with texts or tokenizer, or with both together.
    pub(super) fn open(spec: &TextSpec, wanted: &WantedTexts<'_>) -> Result<Self> {
        let corpus = Corpus::load(Path::new(wanted.data), wanted.seed, wanted.holdout)?;
        let tokenizer = Tokenizer::load(&tokenizer_of(wanted)?)?;
        tokenizer.check_fits(spec.vocab)?;
        let most = spec.positions.saturating_sub(spec.first_position);
        let max_len = wanted.max_len.unwrap_or(most.min(256));
        if max_len > most {
            return Err(Error::Input(format!("--max-len {max_len}: {} takes {most} tokens", spec.kind())));
        }
        if corpus.kind != CorpusKind::Labelled && !spec.causal {
            let message = format!("{}: {} predicts no next token; it learns classes", wanted.data, spec.kind());
            return Err(Error::Input(message));
        }
        let encoding = Encoding { max_len, prompt: wanted.prompt, end: false };
        let prompt = corpus.test.first().map(|record| record.prompt.clone()).filter(|p| wanted.prompt && !p.is_empty());
        let (train, test) = corpus.encode(&tokenizer, &encoding)?;
        let [train, test] = [(train, wanted.n[0]), (test, wanted.n[1])].map(|(texts, n)| first(texts, n));
        let name = Path::new(wanted.data).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if train.is_empty() || test.is_empty() {
            let (a, b) = (train.len(), test.len());
            return Err(Error::Input(format!("{name}: {a} texts to learn from, {b} to judge by; both are needed")));
        }
        Ok(Self { name, source: corpus.source, train, test, tokenizer, prompt })
    }

    /// Classes of a text, if there are any.
    pub(super) fn n_classes(&self) -> Option<usize> {
        self.train.labels.as_ref().map(|_| self.train.classes.len())
    }
}

/// An error if some classes of texts are asked for.
///
/// # Errors
/// [`Error::Input`] then.
pub(super) fn no_classes(asked: bool) -> Result<()> {
    if asked { Err(Error::Input("--classes chooses among images; texts are taken whole".into())) } else { Ok(()) }
}

/// The tokenizer asked for, or the one beside the weights.
fn tokenizer_of(wanted: &WantedTexts<'_>) -> Result<PathBuf> {
    if let Some(path) = wanted.tokenizer {
        return Ok(path.to_path_buf());
    }
    let base = Path::new(wanted.base);
    let folder = if base.is_dir() { base } else { base.parent().unwrap_or(Path::new(".")) };
    let known = ["tokenizer.json", "tok512.bin", "tokenizer.bin"].map(|name| folder.join(name));
    let found = known.into_iter().find(|path| path.exists());
    found.ok_or_else(|| Error::Input(format!("no tokenizer.json beside {}: --tokenizer names one", wanted.base)))
}

/// The first `n` texts.
fn first(texts: Texts, n: Option<usize>) -> Texts {
    match n {
        Some(n) if n < texts.len() => pick(&texts, 0..n),
        _ => texts,
    }
}

fn pick(texts: &Texts, which: impl IntoIterator<Item = usize>) -> Texts {
    let mut out = Texts { classes: texts.classes.clone(), ..Texts::default() };
    for i in which {
        out.ids.push(texts.ids[i].clone());
        out.loss_from.push(texts.loss_from[i]);
        out.bytes.push(texts.bytes[i]);
        if let Some(labels) = &texts.labels {
            out.labels.get_or_insert_default().push(labels[i]);
        }
    }
    out
}

/// So many texts of each class, drawn by the seed.
///
/// # Errors
/// [`Error::Input`] if a class has fewer, or there are no classes.
pub(super) fn draw_texts(halves: &TextHalves, shots: Shots, seed: u64) -> Result<Texts> {
    let texts = &halves.train;
    match (shots, &texts.labels) {
        (Shots::All, _) => Ok(texts.clone()),
        (Shots::Of(_), None) => Err(Error::Input(format!("--shots: {} has texts without classes", halves.name))),
        (Shots::Of(n), Some(labels)) => Ok(pick(texts, choose(&halves.name, labels, &texts.classes, n, seed)?)),
    }
}

/// Texts that a run learns from, on their way to the device batch by batch.
pub(super) struct TextTask<'a> {
    texts: &'a Texts,
    batches: Vec<TokenBatch>,
    micro_batch: usize,
    labels: Option<Tensor>,
    smoothing: f32,
}

impl<'a> TextTask<'a> {
    pub(super) fn new(runtime: &Runtime, texts: &'a Texts, recipe: &Recipe, smoothing: f64) -> Result<Self> {
        let lengths: Vec<f64> = texts.ids.iter().map(|ids| ids.len() as f64).collect();
        let longest = texts.ids.iter().map(Vec::len).max().unwrap_or(1);
        let n = recipe.micro_batch;
        // Room for all but one batch of many thousands, whose last texts are cut.
        let mean = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
        let var = lengths.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / lengths.len().max(1) as f64;
        let usual = (mean * n as f64 + 4.0 * (var * n as f64).sqrt()).ceil() as usize;
        let room = usual.clamp(longest, n * longest);
        let batch = |_| TokenBatch::new(runtime, n, room, longest);
        let labels = texts.labels.as_ref().map(|labels| Tensor::from_slice(runtime, labels, &[labels.len()]));
        Ok(Self {
            texts,
            batches: (0..recipe.batch / n).map(batch).collect::<Result<_>>()?,
            micro_batch: n,
            labels: labels.transpose()?,
            smoothing: smoothing as f32,
        })
    }

    pub(super) fn feed(&self, items: &[u32]) -> Result<()> {
        let mut filled = Vec::new();
        let mut n_counted = 0;
        for (items, batch) in items.chunks(self.micro_batch).zip(&self.batches) {
            let mut room = batch.n_tokens();
            let mut texts = Vec::new();
            for (left, &item) in items.iter().enumerate().map(|(i, item)| (items.len() - 1 - i, item)) {
                let ids = &self.texts.ids[item as usize];
                // One token at least for each of the others.
                let n = ids.len().min(room.saturating_sub(left)).max(1);
                room -= n;
                let loss_from = self.texts.loss_from[item as usize].min(n).max(1);
                n_counted += n - loss_from.min(n);
                texts.push(Text { ids: &ids[..n], loss_from });
            }
            filled.push(texts);
        }
        // Every counted token of the step counts alike, in whichever micro-batch it is.
        let divisor = n_counted.div_ceil(self.batches.len()).max(1);
        self.batches.iter().zip(&filled).try_for_each(|(batch, texts)| batch.fill(texts, Some(divisor)).map(|_| ()))
    }

    /// Mean loss `[]` of a micro-batch.
    pub(super) fn loss(&self, network: &Model, batch: &Batch) -> Result<Tensor> {
        let tokens = &self.batches[batch.places.start / self.micro_batch];
        match &self.labels {
            None => network.token_loss(tokens),
            Some(labels) => {
                let labels = index_select(labels, 0, &batch.items)?;
                let logits = network.text_class_logits(tokens)?;
                reduce::mean_all(&softmax::cross_entropy(&logits, &labels, self.smoothing)?)
            }
        }
    }
}

/// How well a model predicts texts.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Prediction {
    /// Mean of minus the logarithm of a token's probability.
    pub nats_per_token: f64,
    /// The same in bits by byte of text.
    pub bits_per_byte: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
}

/// Scores the texts that are judged by, each alone.
pub(super) fn predict(runtime: &Runtime, network: &Model, texts: &Texts) -> Result<Prediction> {
    let all: Vec<Text<'_>> =
        texts.ids.iter().zip(&texts.loss_from).map(|(ids, &loss_from)| Text { ids, loss_from }).collect();
    let total = Score::of(&score(runtime, network, &all, JUDGED)?);
    let bytes = texts.bytes.iter().sum();
    Ok(Prediction {
        nats_per_token: total.nats_per_token(),
        bits_per_byte: total.bits_per_byte(bytes),
        tokens: total.tokens,
    })
}

/// Texts whose class a network names rightly, in percent.
pub(super) fn text_accuracy(runtime: &Runtime, network: &Model, texts: &Texts) -> Result<f64> {
    let labels = texts.labels.as_deref().unwrap_or_default();
    let longest = texts.ids.iter().map(Vec::len).max().unwrap_or(1);
    let n = JUDGED_TEXTS.min(texts.len());
    let batch = TokenBatch::new(runtime, n, n * longest, longest)?;
    let mut right = 0;
    for (ids, labels) in texts.ids.chunks(n).zip(labels.chunks(n)) {
        let here: Vec<Text<'_>> = ids.iter().map(|ids| Text { ids, loss_from: ids.len() }).collect();
        batch.fill(&here, None)?;
        let logits = network.text_class_logits(&batch)?;
        let width = logits.shape()[1].max(1);
        let rows = logits.to_vec::<f32>()?;
        for (row, &label) in rows.chunks_exact(width).zip(labels) {
            let own = row[label as usize];
            let ahead = row.iter().enumerate().any(|(i, &l)| l > own || (l == own && i < label as usize));
            right += usize::from(!ahead && row.iter().all(|l| l.is_finite()));
        }
    }
    Ok(100.0 * right as f64 / texts.len().max(1) as f64)
}

/// What a model writes behind the first prompt, or behind nothing.
pub(super) fn sample(runtime: &Runtime, network: &Model, halves: &TextHalves) -> Result<String> {
    let prompt = halves.prompt.as_ref().map(|prompt| format!("{prompt}\n")).unwrap_or_default();
    let mut ids = halves.tokenizer.encode(&prompt)?;
    if prompt.is_empty() {
        ids.truncate(1);
    }
    let ModelSpec::Text(spec) = network.spec() else { return Ok(String::new()) };
    let room = spec.positions.saturating_sub(spec.first_position);
    if ids.is_empty() || ids.len() + 1 >= room {
        return Ok(String::new());
    }
    let n_new = SAMPLE.min(room - ids.len() - 1);
    let mut generator = Generator::new(runtime, network, 1, ids.len() + n_new + 1)?;
    // A text's begin stands for the end of the one before.
    let stop = halves.tokenizer.eos().into_iter().chain(halves.tokenizer.bos()).collect();
    let written = generator.generate(&[&ids], &Sampling { stop, ..Sampling::greedy(n_new) })?;
    halves.tokenizer.decode(written.first().map_or(&[], Vec::as_slice))
}

//! Corpora: texts to learn from and to judge by, recognised by what a file or folder holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::rows::{self, Rows};
use super::tokenizer::Tokenizer;
use crate::philox::{Philox, stream};
use crate::{Error, Result};

/// What a corpus is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CorpusKind {
    /// The E2E challenge: restaurants' properties and what is said of them.
    Restaurants,
    /// Texts of classes: SST-2, AG News.
    Labelled,
    /// One long text.
    Plain,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What stands in front and is not to be learnt; empty without.
    pub prompt: String,
    /// The text.
    pub text: String,
    /// Its class.
    pub label: Option<u32>,
}

/// Texts to learn from and to judge by.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    /// What it is made of.
    pub kind: CorpusKind,
    /// Where it came from and how it was divided, in a line.
    pub source: String,
    /// To learn from, in the order of the file.
    pub train: Vec<Record>,
    /// To judge by, in the order of the file.
    pub test: Vec<Record>,
    /// Names of the classes; none for texts without.
    pub classes: Vec<String>,
}

/// How texts become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    /// Tokens of a text at most; a plain text is cut into windows of so many.
    pub max_len: usize,
    /// Whether what stands in front of a text comes along, with a line break behind it.
    pub prompt: bool,
    /// Whether the id of a text's end comes behind texts without classes, so that a model learns to stop.
    pub end: bool,
}

/// Texts as tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Tokens of each, begin included.
    pub ids: Vec<Vec<u32>>,
    /// Classes, for texts of classes.
    pub labels: Option<Vec<u32>>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// The first token of each whose prediction counts: behind the prompt; past the last for texts of classes.
    pub loss_from: Vec<usize>,
    /// Bytes that the counted tokens stand for.
    pub bytes: Vec<usize>,
    /// How many texts were cut short.
    pub n_cut: usize,
}

impl Texts {
    /// Number of texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn push(&mut self, ids: Vec<u32>, loss_from: usize, bytes: usize) {
        self.ids.push(ids);
        self.loss_from.push(loss_from);
        self.bytes.push(bytes);
    }
}

impl Corpus {
    /// Reads texts from a file, or from a folder: `train.tsv` beside `dev.tsv` or `test.tsv`, or the one file with texts. Without
    /// a test half, `holdout` of the texts, chosen by `seed`, become it: of E2E by restaurant, of a plain text its end. A
    /// `holdout` of 0 leaves everything to learn from.
    ///
    /// # Errors
    /// [`Error::File`] in one line if nothing is there, a file is no text, or rows are bad: their lines are named;
    /// [`Error::Input`] unless `0 <= holdout < 1`.
    pub fn load(path: &Path, seed: u64, holdout: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&holdout) {
            return Err(Error::Input(format!("a test share of {holdout}, 0 to below 1 wanted")));
        }
        fs::metadata(path).map_err(|e| Error::io(path, &e))?;
        let (train, test) = if path.is_dir() { find(path)? } else { (path.to_path_buf(), None) };
        let Rows { kind, records, classes } = rows::read(&train)?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(test) = test else {
            let n = records.len();
            let (train_rows, test_rows) = divide(kind, records, seed, holdout);
            let what = if kind == CorpusKind::Plain { "a text".to_string() } else { format!("{n} texts") };
            let source = format!("{}: {what}, {holdout} of it to judge by, seed {seed}", name(&train));
            return Ok(Self { kind, source, train: train_rows, test: test_rows, classes });
        };
        let other = rows::read(&test)?;
        if other.kind != kind || other.classes.len() > classes.len() {
            return Err(Error::file(test, format!("does not go with {}: other columns or classes", name(&train))));
        }
        let source =
            format!("{}: {} texts, {}: {} texts", name(&train), records.len(), name(&test), other.records.len());
        Ok(Self { kind, source, train: records, test: other.records, classes })
    }

    /// Both halves as tokens.
    ///
    /// # Errors
    /// [`Error::Input`] if `max_len` leaves no room for a text, else as [`Tokenizer::encode`].
    pub fn encode(&self, tokenizer: &Tokenizer, encoding: &Encoding) -> Result<(Texts, Texts)> {
        if encoding.max_len < 2 {
            return Err(Error::Input(format!("texts of {} tokens, at least 2 are needed", encoding.max_len)));
        }
        let encode = |records: &[Record]| {
            let mut texts = Texts { classes: self.classes.clone(), ..Texts::default() };
            for record in records {
                match self.kind {
                    CorpusKind::Restaurants => told(&mut texts, record, tokenizer, encoding)?,
                    CorpusKind::Labelled => labelled(&mut texts, record, tokenizer, encoding)?,
                    CorpusKind::Plain => windows(&mut texts, record, tokenizer, encoding)?,
                }
            }
            Ok::<_, Error>(texts)
        };
        Ok((encode(&self.train)?, encode(&self.test)?))
    }
}

/// A text to predict, with or without what stands in front.
fn told(texts: &mut Texts, record: &Record, tokenizer: &Tokenizer, encoding: &Encoding) -> Result<()> {
    // Where the text's own tokens begin.
    let (mut ids, loss_from, begin) = if encoding.prompt && !record.prompt.is_empty() {
        let mut ids = tokenizer.encode(&format!("{}\n", record.prompt))?;
        // The text goes on where some tokenizers put an end.
        if ids.len() > 1 && ids.last().copied() == tokenizer.eos() {
            ids.pop();
        }
        let loss_from = ids.len();
        ids.extend(tokenizer.encode_more(&record.text)?);
        (ids, loss_from, loss_from)
    } else {
        let ids = tokenizer.encode(&record.text)?;
        let begin = usize::from(tokenizer.bos().is_some());
        (ids, 1, begin)
    };
    let n_own = ids.len().saturating_sub(begin);
    let n_kept = n_own.min(encoding.max_len.saturating_sub(begin));
    let bytes = (record.text.len() as f64 * n_kept as f64 / n_own.max(1) as f64).round() as usize;
    ids.extend(tokenizer.eos().filter(|_| encoding.end));
    texts.n_cut += usize::from(ids.len() > encoding.max_len);
    ids.truncate(encoding.max_len);
    let loss_from = loss_from.min(ids.len());
    texts.push(ids, loss_from, bytes);
    Ok(())
}

/// A text of a class: cut at its end, but for the token that the tokenizer puts there.
fn labelled(texts: &mut Texts, record: &Record, tokenizer: &Tokenizer, encoding: &Encoding) -> Result<()> {
    let mut ids = tokenizer.encode(&record.text)?;
    if ids.len() > encoding.max_len {
        texts.n_cut += 1;
        let last = ids.last().copied().filter(|last| Some(*last) == tokenizer.eos());
        ids.truncate(encoding.max_len - usize::from(last.is_some()));
        ids.extend(last);
    }
    let n = ids.len();
    texts.push(ids, n, record.text.len());
    texts.labels.get_or_insert_default().extend(record.label);
    Ok(())
}

/// A long text in windows that do not overlap, each behind the id of a text's begin.
fn windows(texts: &mut Texts, record: &Record, tokenizer: &Tokenizer, encoding: &Encoding) -> Result<()> {
    let ids = tokenizer.encode_more(&record.text)?;
    let bos = tokenizer.bos();
    let n_body = encoding.max_len - usize::from(bos.is_some());
    let per_token = record.text.len() as f64 / ids.len().max(1) as f64;
    let mut bytes_before = 0;
    for (i, window) in ids.chunks(n_body).enumerate() {
        let n_before = i * n_body + window.len();
        let bytes_here = (n_before as f64 * per_token).round() as usize;
        let window: Vec<u32> = bos.into_iter().chain(window.iter().copied()).collect();
        if window.len() > 1 {
            texts.push(window, 1, bytes_here - bytes_before);
        }
        bytes_before = bytes_here;
    }
    Ok(())
}

/// The records to learn from, and those to judge by.
fn divide(kind: CorpusKind, records: Vec<Record>, seed: u64, holdout: f64) -> (Vec<Record>, Vec<Record>) {
    if holdout == 0.0 {
        return (records, vec![]);
    }
    match kind {
        CorpusKind::Plain => records.iter().map(|record| cut(record, holdout)).unzip(),
        CorpusKind::Labelled => {
            let chosen = choose(records.len(), seed, holdout);
            let halves = records.into_iter().enumerate().partition::<Vec<_>, _>(|(i, _)| !chosen.contains(i));
            let rows = |half: Vec<(usize, Record)>| half.into_iter().map(|(_, record)| record).collect();
            (rows(halves.0), rows(halves.1))
        }
        CorpusKind::Restaurants => {
            // By the order in which they come first.
            let mut seen = BTreeSet::new();
            let order: Vec<String> =
                records.iter().map(|r| r.prompt.clone()).filter(|p| seen.insert(p.clone())).collect();
            let chosen = choose(order.len(), seed, holdout);
            let test: BTreeSet<&String> = chosen.iter().map(|i| &order[*i]).collect();
            records.into_iter().partition(|record| !test.contains(&record.prompt))
        }
    }
}

/// `share` of the numbers below `n`, at least one, by the seed.
fn choose(n: usize, seed: u64, share: f64) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut random = Philox::new(seed, stream::TEXT_SPLIT, 0);
    for last in (1..n).rev() {
        order.swap(last, random.below(last as u32 + 1) as usize);
    }
    let n_chosen = ((n as f64 * share).round() as usize).clamp(1, n.max(2) - 1);
    order.into_iter().take(n_chosen).collect()
}

/// A long text at a line break near `1 - share` of it.
fn cut(record: &Record, share: f64) -> (Record, Record) {
    let text = &record.text;
    let wanted = (text.len() as f64 * (1.0 - share)).round() as usize;
    let at = text.bytes().enumerate().skip(wanted).find(|(_, byte)| *byte == b'\n').map_or(text.len(), |(i, _)| i + 1);
    let part = |text: &str| Record { text: text.to_string(), ..record.clone() };
    (part(&text[..at]), part(&text[at..]))
}

/// The files of a folder: to learn from, and to judge by.
fn find(folder: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, &e))?;
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect();
    files.sort();
    let named = |name: &str| files.iter().find(|path| path.file_name().is_some_and(|n| n == name)).cloned();
    for end in ["tsv", "csv", "txt"] {
        if let Some(train) = named(&format!("train.{end}")) {
            let test = ["dev", "test", "val"].iter().find_map(|half| named(&format!("{half}.{end}")));
            return Ok((train, test));
        }
    }
    let of_type = |end: &str| {
        let is_text = |path: &&PathBuf| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
            path.extension().is_some_and(|e| e == end) && !matches!(stem.as_str(), "readme" | "license" | "licence")
        };
        files.iter().filter(is_text).cloned().collect::<Vec<_>>()
    };
    let found = ["csv", "tsv", "txt"].iter().map(|end| of_type(end)).find(|found| !found.is_empty());
    match found.as_deref() {
        Some([one]) => Ok((one.clone(), None)),
        Some(many) => Err(Error::file(folder, format!("a folder with {} files of texts: name one", many.len()))),
        None => Err(Error::file(folder, "a folder without texts: csv, tsv or txt files wanted")),
    }
}

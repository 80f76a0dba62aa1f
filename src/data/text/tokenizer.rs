//! Tokenizers: llama2.c's own and Hugging Face's.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::pairs::{self, Pairs};
use crate::{Error, Result};

/// Names of a text's begin in `tokenizer.json` files.
const BEGINS: [&str; 5] = ["<s>", "<|begin_of_text|>", "<bos>", "[CLS]", "<|endoftext|>"];
const ENDS: [&str; 5] = ["</s>", "<|end_of_text|>", "<eos>", "[SEP]", "<|endoftext|>"];
const UNKNOWNS: [&str; 2] = ["<unk>", "[UNK]"];
const PADS: [&str; 4] = ["<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"];

/// Texts to tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    path: PathBuf,
    kind: Kind,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    /// One more than the largest id.
    n_ids: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Pairs(Pairs),
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// Reads a tokenizer from a file, recognised by what it holds: Hugging Face's `tokenizer.json`, or llama2.c's `tokenizer.bin`.
    /// In a folder it takes `tokenizer.json`, then `tokenizer.bin`, then the one file `tok*.bin`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or if it is damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { find(path)? } else { path.to_path_buf() };
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, &e))?;
        let start = bytes.iter().find(|b| !b.is_ascii_whitespace());
        if start == Some(&b'{') {
            return Self::hugging_face(path, &bytes);
        }
        let pairs = Pairs::parse(&bytes).map_err(|message| Error::file(&path, message))?;
        let n_ids = pairs.len();
        let (bos, eos) = (Some(pairs::BEGIN), Some(pairs::END));
        Ok(Self { path, kind: Kind::Pairs(pairs), bos, eos, unk: Some(0), pad: None, n_ids })
    }

    fn hugging_face(path: PathBuf, bytes: &[u8]) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| Error::file(&path, e))?;
        // Files carry the settings of whoever saved them; lengths are the caller's business.
        inner.with_truncation(None).map_err(|e| Error::file(&path, e))?;
        inner.with_padding(None);
        let vocab: HashMap<String, u32> = inner.get_vocab(true);
        let n_ids = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let first = |names: &[&str]| names.iter().find_map(|name| vocab.get(*name).copied());
        let [bos, eos] = [BEGINS, ENDS].map(|names| first(&names));
        let (unk, pad) = (first(&UNKNOWNS), first(&PADS));
        Ok(Self { path, kind: Kind::HuggingFace(Box::new(inner)), bos, eos, unk, pad, n_ids })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of ids: one more than the largest.
    #[must_use]
    pub fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// The id in front of a text.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The id behind a text.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The id of what it does not know.
    #[must_use]
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// The id of padding; nothing here needs one.
    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// An error if it gives ids past a model's vocabulary.
    ///
    /// # Errors
    /// [`Error::File`] that names both numbers.
    pub fn check_fits(&self, vocab: usize) -> Result<()> {
        if self.n_ids <= vocab {
            return Ok(());
        }
        let largest = self.n_ids - 1;
        Err(Error::file(&self.path, format!("gives ids up to {largest}, the model's vocabulary has {vocab} tokens")))
    }

    /// Tokens of a text as a model reads it: with the id in front, and where the file asks for it the one behind.
    ///
    /// # Errors
    /// [`Error::File`] if the tokenizer fails on it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Pairs(pairs) => Ok([vec![pairs::BEGIN], pairs.encode(text)].concat()),
            Kind::HuggingFace(_) => {
                let mut ids = self.ids(text, true)?;
                if let Some(bos) = self.bos.filter(|bos| ids.first() != Some(bos)) {
                    ids.insert(0, bos);
                }
                Ok(ids)
            }
        }
    }

    /// Tokens of a text that goes on: without the ids in front and behind.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Pairs(pairs) => Ok(pairs.encode(text)),
            Kind::HuggingFace(_) => self.ids(text, false),
        }
    }

    fn ids(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Pairs(pairs) => Ok(pairs.encode(text)),
            Kind::HuggingFace(inner) => {
                let encoding = inner.encode(text, special).map_err(|e| Error::file(&self.path, e))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of tokens, special ones left out; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.kind {
            Kind::Pairs(pairs) => Ok(String::from_utf8_lossy(&pairs.decode(ids)).into_owned()),
            Kind::HuggingFace(inner) => inner.decode(ids, true).map_err(|e| Error::file(&self.path, e)),
        }
    }
}

/// The tokenizer in a folder.
fn find(folder: &Path) -> Result<PathBuf> {
    for name in ["tokenizer.json", "tokenizer.bin"] {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, &e))?;
    let is_bin = |name: &str| name.starts_with("tok") && name.ends_with(".bin");
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| is_bin(&name.to_string_lossy())))
        .collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::file(folder, "a folder without a tokenizer: tokenizer.json or tokenizer.bin wanted")),
        many => Err(Error::file(folder, format!("a folder with {} tokenizers: name one", many.len()))),
    }
}

//! Texts: tokenizers, and corpora recognised by what a file or folder holds.

mod corpus;
mod pairs;
mod rows;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use corpus::{Corpus, CorpusKind, Encoding, Record, Texts};
pub use tokenizer::Tokenizer;

//! llama2.c's tokenizer: pairs of neighbours merged by score.
//!
//! The file is the length in bytes of the longest token (i32), then for each token its score (f32), its length (i32) and its
//! bytes, little endian. Ids 0, 1 and 2 are unknown, begin and end; ids 3 to 258 are the 256 bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// The first of the 256 ids of single bytes.
const FIRST_BYTE: u32 = 3;
/// The id in front of every text.
pub(super) const BEGIN: u32 = 1;
/// The id behind a text.
pub(super) const END: u32 = 2;
/// Longest token that is read, in bytes.
const MAX_TOKEN: usize = 4096;

/// A vocabulary with scores.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    tokens: Vec<Vec<u8>>,
    scores: Vec<f32>,
    ids: HashMap<Vec<u8>, u32>,
}

/// Two neighbours that could be one token: those with the best score first, of these the leftmost.
#[derive(Debug, PartialEq)]
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    /// Ids when it was found: it is out of date when they have changed.
    ids: [u32; 2],
    merged: u32,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Pairs {
    /// Reads a vocabulary, or says what is wrong with the bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut at = 0;
        let word = |what: &str, at: &mut usize| {
            let found = bytes.get(*at..*at + 4).and_then(|b| b.try_into().ok()).ok_or(format!("ends within {what}"))?;
            *at += 4;
            Ok::<[u8; 4], String>(found)
        };
        let longest = i32::from_le_bytes(word("its first number", &mut at)?);
        let longest = usize::try_from(longest).ok().filter(|n| (1..=MAX_TOKEN).contains(n));
        let longest = longest.ok_or("is no llama2.c tokenizer: its first number is no length of a token")?;
        let (mut tokens, mut scores, mut ids) = (Vec::new(), Vec::new(), HashMap::new());
        while at < bytes.len() {
            let id = tokens.len();
            let score = f32::from_le_bytes(word(&format!("token {id}"), &mut at)?);
            let length = i32::from_le_bytes(word(&format!("token {id}"), &mut at)?);
            let fits = usize::try_from(length).ok().filter(|n| *n <= MAX_TOKEN.min(longest.max(8)));
            let length = fits.ok_or(format!("token {id} has {length} bytes, the longest {longest}"))?;
            let token = bytes.get(at..at + length).ok_or(format!("ends within token {id}"))?;
            if score.is_nan() {
                return Err(format!("the score of token {id} is no number"));
            }
            at += length;
            ids.entry(token.to_vec()).or_insert(id as u32);
            tokens.push(token.to_vec());
            scores.push(score);
        }
        if tokens.len() < FIRST_BYTE as usize + 256 {
            return Err(format!("{} tokens, where 3 and the 256 bytes are the least", tokens.len()));
        }
        Ok(Self { tokens, scores, ids })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of a text: a space in front of it, then its characters, or their bytes where they are no tokens, then pairs of
    /// neighbours merged, the best score first.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let mut ids = Vec::with_capacity(text.len() + 1);
        let mut buffer = [0; 4];
        for c in std::iter::once(' ').chain(text.chars()) {
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            match self.ids.get(bytes) {
                Some(id) => ids.push(*id),
                None => ids.extend(bytes.iter().map(|byte| FIRST_BYTE + u32::from(*byte))),
            }
        }
        self.merge(ids)
    }

    fn candidate(&self, ids: &[u32], left: usize, right: usize) -> Option<Candidate> {
        let pair = [ids[left], ids[right]];
        let joined: Vec<u8> = pair.iter().flat_map(|id| &self.tokens[*id as usize]).copied().collect();
        let merged = *self.ids.get(&joined)?;
        Some(Candidate { score: self.scores[merged as usize], left, right, ids: pair, merged })
    }

    fn merge(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let n = ids.len();
        // The place in front of and behind each; a token stands where its first part stood, and n is nowhere.
        let mut before: Vec<usize> = (0..n).map(|i| i.checked_sub(1).unwrap_or(n)).collect();
        let mut behind: Vec<usize> = (1..=n).collect();
        let mut is_gone = vec![false; n];
        let mut heap: BinaryHeap<Candidate> =
            (1..n).filter_map(|right| self.candidate(&ids, right - 1, right)).collect();
        while let Some(best) = heap.pop() {
            let Candidate { left, right, merged, .. } = best;
            if is_gone[left] || is_gone[right] || [ids[left], ids[right]] != best.ids || behind[left] != right {
                continue;
            }
            ids[left] = merged;
            is_gone[right] = true;
            let next = behind[right];
            behind[left] = next;
            if next < n {
                before[next] = left;
                heap.extend(self.candidate(&ids, left, next));
            }
            if before[left] < n {
                heap.extend(self.candidate(&ids, before[left], left));
            }
        }
        ids.into_iter().zip(is_gone).filter(|(_, gone)| !gone).map(|(id, _)| id).collect()
    }

    /// The bytes of tokens; the space in front of the first is left out, and so are begin and end.
    pub(super) fn decode(&self, ids: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut is_first = true;
        for &id in ids.iter().filter(|id| ![BEGIN, END].contains(id)) {
            let byte = id.checked_sub(FIRST_BYTE).and_then(|byte| u8::try_from(byte).ok());
            match (byte, self.tokens.get(id as usize)) {
                (Some(byte), _) => out.push(byte),
                (None, Some(token)) => {
                    out.extend_from_slice(token.strip_prefix(b" ").filter(|_| is_first).unwrap_or(token));
                }
                (None, None) => {}
            }
            is_first = false;
        }
        out
    }
}

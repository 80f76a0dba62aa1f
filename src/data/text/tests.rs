//! Tests of tokenizers and corpora.

use super::{Corpus, CorpusKind, Encoding, Tokenizer};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of real data, or one printed line.
fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("LEANVISION_DATA").map(PathBuf::from).filter(|p| p.is_dir());
    if folder.is_none() {
        eprintln!("skipped: LEANVISION_DATA names no folder");
    }
    folder
}

/// A llama2.c vocabulary: the first three ids, the bytes, and these with falling scores.
fn vocabulary(tokens: &[&str]) -> Vec<u8> {
    let specials = ["<unk>", "\n<s>\n", "\n</s>\n"].map(String::from);
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let all = specials.into_iter().chain(bytes).map(|t| (t, 0.0));
    let own = tokens.iter().enumerate().map(|(i, t)| (t.to_string(), -(i as f32)));
    let mut file = 7_i32.to_le_bytes().to_vec();
    for (token, score) in all.chain(own) {
        file.extend(f32::to_le_bytes(score));
        file.extend((token.len() as i32).to_le_bytes());
        file.extend(token.as_bytes());
    }
    file
}

fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn the_best_pair_is_merged_first() {
    // 259 on: "ab" before "bc" before " a" before "abc"; single characters last.
    let (_folder, path) = written("tok.bin", &vocabulary(&["ab", "bc", " a", "abc", "a", "b", "c", " ", "bcbc"]));
    let tokenizer = Tokenizer::load(&path).unwrap();
    let [ab, bc, abc, a, b, c, space, bcbc] = [259, 260, 262, 263, 264, 265, 266, 267];
    assert_eq!((tokenizer.n_ids(), tokenizer.bos(), tokenizer.eos()), (268, Some(1), Some(2)));
    for (text, ids) in [
        ("abc", vec![1, space, abc]),
        ("cab", vec![1, space, c, ab]),
        ("abab", vec![1, space, ab, ab]),
        ("bcbc", vec![1, space, bcbc]),
        ("aab", vec![1, 261, ab]),
        ("ba", vec![1, space, b, a]),
        // The leftmost of equals: a new line is a byte, an umlaut two of them.
        ("a\nb", vec![1, 261, 13, b]),
        ("aü", vec![1, 261, 0xc3 + 3, 0xbc + 3]),
        ("", vec![1]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(tokenizer.encode_more("bc").unwrap(), [space, bc]);
    let message = tokenizer.check_fits(200).unwrap_err().to_string();
    assert!(message.ends_with("gives ids up to 267, the model's vocabulary has 200 tokens"), "{message}");
    assert!(tokenizer.check_fits(268).is_ok());
}

#[test]
fn a_long_text_is_merged_as_by_rescanning() {
    let (_folder, path) =
        written("tok.bin", &vocabulary(&["ab", "ba", "aa", "aab", "abab", "bb", "baab", "a", "b", " ", " a"]));
    let tokenizer = Tokenizer::load(&path).unwrap();
    let mut random = crate::philox::Philox::new(3, 0, 0);
    for n in [2, 3, 5, 17, 400] {
        let text: String = (0..n).map(|_| if random.below(2) == 0 { 'a' } else { 'b' }).collect();
        // The rule itself: look at all pairs, merge the best, the leftmost of equals, and look again.
        let tokens: Vec<String> = (259..tokenizer.n_ids() as u32).map(|id| decoded(&tokenizer, id)).collect();
        let rank = |joined: &str| tokens.iter().position(|t| t == joined);
        let mut parts: Vec<String> = std::iter::once(' ').chain(text.chars()).map(String::from).collect();
        loop {
            let pair = |i: &usize| rank(&format!("{}{}", parts[*i], parts[i + 1]));
            let Some(best) = (0..parts.len() - 1).filter(|i| pair(i).is_some()).min_by_key(|i| (pair(i), *i)) else {
                break;
            };
            let right = parts.remove(best + 1);
            parts[best] += &right;
        }
        let want: Vec<u32> = parts.iter().map(|p| 259 + rank(p).unwrap() as u32).collect();
        assert_eq!(tokenizer.encode(&text).unwrap()[1..], want, "{text}");
    }
}

fn decoded(tokenizer: &Tokenizer, id: u32) -> String {
    // Behind another token, which keeps the space in front.
    tokenizer.decode(&[3 + u32::from(b'x'), id]).unwrap()[1..].to_string()
}

#[test]
fn broken_vocabularies_are_refused() {
    let whole = vocabulary(&["ab"]);
    for (bytes, part) in [
        (whole[..whole.len() - 1].to_vec(), "ends within token 259"),
        (whole[..2].to_vec(), "ends within its first number"),
        (whole[..400].to_vec(), "ends within token"),
        (vec![0; 64], "its first number is no length of a token"),
        ([7_i32.to_le_bytes().to_vec(), vec![0; 80]].concat(), "tokens, where 3 and the 256 bytes are the least"),
        ([7_i32.to_le_bytes(), [0; 4], 99_i32.to_le_bytes()].concat(), "token 0 has 99 bytes, the longest 7"),
        (b"{\"a\": 1}".to_vec(), "tok.bin: "),
    ] {
        let (_folder, path) = written("tok.bin", &bytes);
        let message = Tokenizer::load(&path).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("a folder without a tokenizer"));
}

/// A tokenizer that puts `[CLS]` in front of texts and `[SEP]` behind them.
fn enclosing() -> Tokenizer {
    let words = r#"{"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "film": 5, "bad": 6}"#;
    let special = |id: u32, name: &str| {
        format!(
            r#"{{"id": {id}, "content": "{name}", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}}"#
        )
    };
    let added = [special(2, "[CLS]"), special(3, "[SEP]")].join(", ");
    let json = format!(
        r#"{{"version": "1.0", "truncation": {{"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        "padding": null, "added_tokens": [{added}], "normalizer": {{"type": "Lowercase"}},
        "pre_tokenizer": {{"type": "Whitespace"}},
        "post_processor": {{"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}}, "decoder": null,
        "model": {{"type": "WordLevel", "vocab": {words}, "unk_token": "[UNK]"}}}}"#
    );
    let (_folder, path) = written("tokenizer.json", json.as_bytes());
    Tokenizer::load(path.parent().unwrap()).unwrap()
}

#[test]
fn hugging_faces_tokenizers_are_read() {
    let tokenizer = enclosing();
    // Not cut at the 3 tokens that whoever saved it had.
    assert_eq!(tokenizer.encode("Good film , bad").unwrap(), [2, 4, 5, 1, 6, 3]);
    assert_eq!(tokenizer.encode_more("good").unwrap(), [4]);
    assert_eq!(tokenizer.decode(&[2, 6, 5, 3]).unwrap(), "bad film");
    let ids = (tokenizer.bos(), tokenizer.eos(), tokenizer.unk(), tokenizer.pad(), tokenizer.n_ids());
    assert_eq!(ids, (Some(2), Some(3), Some(1), Some(0), 7));
}

fn plain() -> Tokenizer {
    let (_folder, path) = written("tok.bin", &vocabulary(&["a", "b", "c", " "]));
    Tokenizer::load(&path).unwrap()
}

const ENCODING: Encoding = Encoding { max_len: 64, prompt: false, end: false };

#[test]
fn rows_become_texts_or_are_named_by_line() {
    let csv = "mr,ref\nname[A],\"a b\nc\"\n\"name[B], x[y]\",b\nname[A],c\n";
    let (_folder, path) = written("any.csv", csv.as_bytes());
    let corpus = Corpus::load(&path, 1, 0.0).unwrap();
    assert_eq!((corpus.kind, corpus.train.len(), corpus.test.len()), (CorpusKind::Restaurants, 3, 0));
    assert_eq!((corpus.train[0].text.as_str(), corpus.train[1].prompt.as_str()), ("a b\nc", "name[B], x[y]"));
    let heading = |text: &str| {
        let (_folder, path) = written("any.csv", text.as_bytes());
        let corpus = Corpus::load(&path, 1, 0.0).unwrap();
        (corpus.kind, corpus.train.len(), corpus.train[0].text.clone())
    };
    assert_eq!(heading("MR,ref\nname[A],b\n"), (CorpusKind::Restaurants, 1, "b".into()));
    assert_eq!(heading("Class Index,Title,Description\n1,t,d\n"), (CorpusKind::Labelled, 1, "t d".into()));
    for (name, text, part) in [
        ("a.csv", "name,what\nx,y\n", "columns that are not known: mr,ref or class,title,description wanted"),
        ("a.csv", "mr,ref\nx,y\nx,y,z\nx,\n", "bad rows: line 3: 3 fields, mr,ref wanted; line 4: an empty ref"),
        (
            "a.tsv",
            "good\t1\nbad\nworse\tx\n\t0\n",
            "bad rows: line 2: no tab, text<TAB>class wanted; line 3: no class behind the tab; line 4: an empty text",
        ),
        (
            "a.csv",
            "\"1\",\"t\",\"d\"\n\"0\",\"t\",\"d\"\n\"2\"\n",
            "bad rows: line 2: class \"0\", a number from 1 on wanted; line 3: no text",
        ),
        ("a.csv", "mr,ref\n", "holds no text"),
        ("a.txt", "\n \n", "holds no text"),
    ] {
        let (_folder, path) = written(name, text.as_bytes());
        let message = Corpus::load(&path, 1, 0.0).unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    }
    let (_folder, path) = written("a.txt", b"ab\nc\xff");
    assert!(Corpus::load(&path, 1, 0.1).unwrap_err().to_string().contains("line 2 is no UTF-8"));
    let many = format!("mr,ref\n{}", "x,\n".repeat(20));
    let (_folder, path) = written("a.csv", many.as_bytes());
    assert!(Corpus::load(&path, 1, 0.0).unwrap_err().to_string().ends_with("; and 12 more"));
    assert!(Corpus::load(&path, 1, 1.0).unwrap_err().to_string().contains("a test share of 1"));
    assert!(Corpus::load(Path::new("/nowhere"), 1, 0.5).unwrap_err().to_string().contains("no such file"));
}

#[test]
fn texts_become_tokens() {
    let tokenizer = plain();
    let (a, b, space) = (259, 260, 262);
    let (_folder, path) = written("any.csv", b"mr,ref\na,b b\n");
    let corpus = Corpus::load(&path, 1, 0.0).unwrap();
    let with = Encoding { prompt: true, end: true, ..ENCODING };
    let (train, test) = corpus.encode(&tokenizer, &with).unwrap();
    assert_eq!(train.ids, [[1, space, a, 13, space, b, space, b, 2]]);
    assert_eq!((train.loss_from.as_slice(), train.bytes.as_slice(), train.n_cut), ([4].as_slice(), [3].as_slice(), 0));
    assert!(test.is_empty());
    let (short, _) = corpus.encode(&tokenizer, &Encoding { max_len: 6, ..with }).unwrap();
    // Two of the text's four tokens are left, of its three bytes half.
    assert_eq!((short.ids[0].len(), short.n_cut, short.bytes[0]), (6, 1, 2));
    let (none, _) = corpus.encode(&tokenizer, &Encoding { max_len: 3, ..with }).unwrap();
    assert_eq!((none.ids[0].len(), none.loss_from[0], none.bytes[0]), (3, 3, 0));
    let (bare, _) = corpus.encode(&tokenizer, &ENCODING).unwrap();
    assert_eq!((bare.ids[0].as_slice(), bare.loss_from[0]), ([1, space, b, space, b].as_slice(), 1));

    // No end between prompt and text.
    let (_folder, path) = written("any.csv", b"mr,ref\ngood,film bad\n");
    let (train, _) = Corpus::load(&path, 1, 0.0).unwrap().encode(&enclosing(), &with).unwrap();
    assert_eq!((train.ids[0].as_slice(), train.loss_from[0], train.bytes[0]), ([2, 4, 5, 6, 3].as_slice(), 2, 8));

    let (_folder, path) = written("any.tsv", b"sentence\tlabel\na b\t1\nb\t0\n");
    let (train, _) = Corpus::load(&path, 1, 0.0).unwrap().encode(&tokenizer, &ENCODING).unwrap();
    assert_eq!(train.labels, Some(vec![1, 0]));
    assert_eq!(train.classes, ["negative", "positive"]);
    assert_eq!(train.loss_from, [train.ids[0].len(), train.ids[1].len()]);

    let (_folder, path) = written("any.txt", "ab\n".repeat(40).as_bytes());
    let corpus = Corpus::load(&path, 1, 0.25).unwrap();
    assert_eq!((corpus.train[0].text.len(), corpus.test[0].text.len()), (93, 27));
    let (train, test) = corpus.encode(&tokenizer, &Encoding { max_len: 11, ..ENCODING }).unwrap();
    // 93 bytes behind a space are 94 tokens: 9 windows of 10, one of 4, each behind the begin.
    assert_eq!((train.len(), train.ids[0].len(), train.ids[9].len(), test.len()), (10, 11, 5, 3));
    assert!(train.ids.iter().all(|ids| ids[0] == 1));
    assert_eq!(train.bytes.iter().sum::<usize>(), 93);
}

#[test]
fn a_seed_divides_and_repeats() {
    let rows: String = (0..300).map(|i| format!("text {i}\t{}\n", i % 2)).collect();
    let (_folder, path) = written("any.tsv", rows.as_bytes());
    let split = |seed| {
        let corpus = Corpus::load(&path, seed, 0.2).unwrap();
        assert_eq!((corpus.train.len(), corpus.test.len()), (240, 60));
        corpus.test.into_iter().map(|r| r.text).collect::<BTreeSet<_>>()
    };
    assert_eq!(split(1), split(1));
    assert_ne!(split(1), split(2));
}

#[test]
fn the_real_corpora_are_whole() {
    let Some(data) = data() else { return };
    let text = data.join("text");
    let e2e = Corpus::load(&text.join("e2e"), 7, 0.1).unwrap();
    assert_eq!(e2e.train.len() + e2e.test.len(), 4672);
    let mrs = |half: &[super::Record]| half.iter().map(|r| r.prompt.clone()).collect::<BTreeSet<_>>();
    let (train, test) = (mrs(&e2e.train), mrs(&e2e.test));
    assert_eq!((train.len() + test.len(), test.len(), train.intersection(&test).count()), (547, 55, 0));
    let sst2 = Corpus::load(&text.join("sst2"), 0, 0.5).unwrap();
    assert_eq!((sst2.train.len(), sst2.test.len()), (6920, 872));
    assert_eq!(sst2.classes, ["negative", "positive"]);
    let news = Corpus::load(&text.join("ag_news"), 0, 0.0).unwrap();
    let per_class = (0..4).map(|c| news.train.iter().filter(|r| r.label == Some(c)).count()).collect::<Vec<_>>();
    assert_eq!(per_class, [1900; 4]);
    assert_eq!(news.classes[3], "Sci/Tech");
    let shakespeare = Corpus::load(&text.join("tinyshakespeare.txt"), 0, 0.1).unwrap();
    assert_eq!(shakespeare.train[0].text.len() + shakespeare.test[0].text.len(), 1_115_394);
    let tokenizer = Tokenizer::load(&data.join("models/tok512.bin")).unwrap();
    let ids = tokenizer.encode("Once upon a time").unwrap();
    assert_eq!(ids, [1, 403, 407, 261, 378]);
    let (train, test) = shakespeare.encode(&tokenizer, &Encoding { max_len: 256, ..ENCODING }).unwrap();
    assert_eq!(train.bytes.iter().chain(&test.bytes).sum::<usize>(), 1_115_394);
    assert!(train.ids.iter().rev().skip(1).all(|ids| ids.len() == 256));
}

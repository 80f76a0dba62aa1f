//! Rows of text files, each with its line, and everything that is wrong with them.

use std::fs;
use std::path::Path;

use super::corpus::{CorpusKind, Record};
use crate::{Error, Result};

/// Most bad rows that are named.
const MAX_NAMED: usize = 8;
/// Names of SST-2's classes.
const SENTIMENT: [&str; 2] = ["negative", "positive"];
/// Names of AG News' classes.
const NEWS: [&str; 4] = ["World", "Sports", "Business", "Sci/Tech"];

/// What a file holds.
pub(super) struct Rows {
    pub(super) kind: CorpusKind,
    pub(super) records: Vec<Record>,
    /// Names of the classes; none for texts without.
    pub(super) classes: Vec<String>,
}

/// What is wrong with rows, by line.
#[derive(Default)]
struct Bad(Vec<String>);

impl Bad {
    fn add(&mut self, line: u64, what: impl std::fmt::Display) {
        self.0.push(format!("line {line}: {what}"));
    }

    fn check(self, path: &Path) -> Result<()> {
        let n_more = self.0.len().saturating_sub(MAX_NAMED);
        if self.0.is_empty() {
            return Ok(());
        }
        let named = self.0[..self.0.len() - n_more].join("; ");
        let more = if n_more > 0 { format!("; and {n_more} more") } else { String::new() };
        Err(Error::file(path, format!("bad rows: {named}{more}")))
    }
}

/// Reads a file of texts.
pub(super) fn read(path: &Path) -> Result<Rows> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, &e))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Error::file(path, format!("line {line} is no UTF-8 text"))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let first = text.lines().find(|line| !line.trim().is_empty());
    let Some(first) = first else { return Err(Error::file(path, "holds no text")) };
    let heading = heading(first);
    if heading == ["mr", "ref"] {
        restaurants(path, text)
    } else if is_labelled_line(first) || (first.contains('\t') && text.lines().nth(1).is_some_and(is_labelled_line)) {
        labelled_lines(path, text)
    } else if is_labelled_csv(first) {
        labelled_csv(path, text, 0)
    } else if heading == ["class index", "title", "description"] {
        labelled_csv(path, text, 1)
    } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")) {
        Err(Error::file(path, "columns that are not known: mr,ref or class,title,description wanted"))
    } else {
        let record = Record { prompt: String::new(), text: text.to_string(), label: None };
        Ok(Rows { kind: CorpusKind::Plain, records: vec![record], classes: vec![] })
    }
}

fn is_labelled_line(line: &str) -> bool {
    line.rsplit_once('\t').is_some_and(|(_, label)| label.trim_end().parse::<u32>().is_ok())
}

/// The fields of a line of CSV in lower case.
fn heading(line: &str) -> Vec<String> {
    let row = reader(line).into_records().next().and_then(std::result::Result::ok).unwrap_or_default();
    row.iter().map(|field| field.trim().to_lowercase()).collect()
}

/// Whether a line is `"class","title","description"`.
fn is_labelled_csv(line: &str) -> bool {
    let mut reader = reader(line);
    let record = reader.records().next();
    record.is_some_and(|r| r.is_ok_and(|r| r.len() >= 2 && r[0].parse::<u32>().is_ok()))
}

fn reader(text: &str) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes())
}

/// Calls `take` with each row of a CSV text and its line; what it says is wrong with the row.
fn each_row(
    text: &str,
    skip: usize,
    mut take: impl FnMut(&csv::StringRecord) -> std::result::Result<(), String>,
) -> Bad {
    let mut bad = Bad::default();
    for row in reader(text).into_records().skip(skip) {
        match row.as_ref().map_err(|e| (e.position(), e.to_string())) {
            Ok(row) => {
                if let Err(what) = take(row) {
                    bad.add(row.position().map_or(0, csv::Position::line), what);
                }
            }
            Err((position, what)) => bad.add(position.map_or(0, csv::Position::line), what),
        }
    }
    bad
}

/// The E2E challenge: `mr,ref`.
fn restaurants(path: &Path, text: &str) -> Result<Rows> {
    let mut records = Vec::new();
    let bad = each_row(text, 1, |row| {
        if row.len() != 2 {
            return Err(format!("{} fields, mr,ref wanted", row.len()));
        }
        if row[1].trim().is_empty() {
            return Err("an empty ref".into());
        }
        records.push(Record { prompt: row[0].to_string(), text: row[1].to_string(), label: None });
        Ok(())
    });
    finish(path, CorpusKind::Restaurants, records, bad, vec![])
}

/// Lines `text<TAB>class`, classes from 0 on; a heading may stand in front.
fn labelled_lines(path: &Path, text: &str) -> Result<Rows> {
    let (mut bad, mut records) = (Bad::default(), Vec::new());
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || (i == 0 && !is_labelled_line(line)) {
            continue;
        }
        let line_number = i as u64 + 1;
        match line.rsplit_once('\t').map(|(text, label)| (text.trim(), label.trim().parse::<u32>())) {
            Some(("", _)) => bad.add(line_number, "an empty text"),
            Some((text, Ok(label))) if label < MAX_CLASSES => {
                records.push(Record { prompt: String::new(), text: text.to_string(), label: Some(label) });
            }
            Some(_) => bad.add(line_number, "no class behind the tab"),
            None => bad.add(line_number, "no tab, text<TAB>class wanted"),
        }
    }
    finish(path, CorpusKind::Labelled, records, bad, SENTIMENT.map(String::from).to_vec())
}

/// Largest number of classes.
const MAX_CLASSES: u32 = 10_000;

/// AG News: class from 1 on, title, description, behind `skip` rows.
fn labelled_csv(path: &Path, text: &str, skip: usize) -> Result<Rows> {
    let mut records = Vec::new();
    let bad = each_row(text, skip, |row| {
        let label = row[0].parse::<u32>().ok().filter(|label| (1..=MAX_CLASSES).contains(label));
        let label = label.ok_or_else(|| format!("class {:?}, a number from 1 on wanted", &row[0]))?;
        // Line breaks came as a backslash.
        let text = row.iter().skip(1).collect::<Vec<_>>().join(" ").replace('\\', " ");
        if text.trim().is_empty() {
            return Err("no text behind the class".into());
        }
        records.push(Record { prompt: String::new(), text, label: Some(label - 1) });
        Ok(())
    });
    finish(path, CorpusKind::Labelled, records, bad, NEWS.map(String::from).to_vec())
}

/// The rows, if none is bad; `usual` are the names of the classes where there are as many.
fn finish(path: &Path, kind: CorpusKind, records: Vec<Record>, bad: Bad, usual: Vec<String>) -> Result<Rows> {
    bad.check(path)?;
    if records.is_empty() {
        return Err(Error::file(path, "holds no text"));
    }
    let n_classes = records.iter().filter_map(|r| r.label).max().map_or(0, |label| label as usize + 1);
    let classes = if usual.len() == n_classes { usual } else { (0..n_classes).map(|i| i.to_string()).collect() };
    Ok(Rows { kind, records, classes })
}

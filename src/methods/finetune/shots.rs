//! Few-shot protocols: which images are learned from, and which are judged.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::data::{self, ImageSet, Split, Wanted};
use crate::philox::{Philox, stream};
use crate::{Error, Result};

/// Images of each class that are learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Shots {
    /// All there are.
    All,
    /// So many.
    Of(u32),
}

impl FromStr for Shots {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            n => n
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .map(Self::Of)
                .ok_or(format!("{n} is neither a number above 0 nor all")),
        }
    }
}

impl From<Shots> for String {
    fn from(shots: Shots) -> Self {
        match shots {
            Shots::All => "all".into(),
            Shots::Of(n) => n.to_string(),
        }
    }
}

impl TryFrom<String> for Shots {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

/// Classes by number: `0,3,5-9`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Classes(Vec<RangeInclusive<u32>>);

impl FromStr for Classes {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = |part: &str| format!("{part} is no class or range of classes, such as 0,3,5-9");
        let number = |part: &str, text: &str| text.trim().parse::<u32>().map_err(|_| wrong(part));
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(part, first)?, number(part, last)?);
            if first <= last { Ok(first..=last) } else { Err(wrong(part)) }
        };
        text.split(',').map(range).collect::<std::result::Result<_, _>>().map(Self)
    }
}

impl From<Classes> for String {
    fn from(classes: Classes) -> Self {
        let part = |r: &RangeInclusive<u32>| {
            if r.start() == r.end() { r.start().to_string() } else { format!("{}-{}", r.start(), r.end()) }
        };
        classes.0.iter().map(part).collect::<Vec<_>>().join(",")
    }
}

impl TryFrom<String> for Classes {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl Classes {
    /// The images of these classes, which are numbered anew in order.
    ///
    /// # Errors
    /// [`Error::Input`] for a class that the set does not have.
    pub fn of(&self, set: &ImageSet) -> Result<ImageSet> {
        if let Some(last) = self.0.iter().map(|range| range.end()).find(|last| **last as usize >= set.n_classes) {
            return Err(Error::Input(format!("--classes {last}: {} has {} classes", set.name, set.n_classes)));
        }
        let mut wanted: Vec<u32> = self.0.iter().cloned().flatten().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let place = |label: u32| wanted.binary_search(&label).ok();
        let of_these = set.subset((0..set.len()).filter(|&i| place(set.labels[i]).is_some()))?;
        let labels = of_these.labels.iter().filter_map(|&label| place(label)).map(|i| i as u32).collect();
        let names: Vec<String> = wanted.iter().map(|&class| set.class_names[class as usize].clone()).collect();
        Ok(ImageSet { labels, n_classes: names.len(), class_names: names, ..of_these })
    }
}

/// Images to learn from and to judge by.
#[derive(Debug, Clone)]
pub(super) struct Halves {
    pub(super) train: ImageSet,
    pub(super) test: ImageSet,
    /// Whether both are parts of one set, which the data do not divide themselves.
    pub(super) is_divided: bool,
}

impl Halves {
    /// Reads both; of a set that comes in one piece, a share `holdout` of each class is judged by.
    ///
    /// # Errors
    /// As [`data::open`].
    pub(super) fn open(data: &str, wanted: &Wanted, holdout: f64) -> Result<Self> {
        let of = |split| data::open(data, &Wanted { split, ..*wanted });
        let (train, test) = match (of(Split::Train), of(Split::Test)) {
            (Ok(train), Ok(test)) if train != test => return Ok(Self { train, test, is_divided: false }),
            (Ok(one), Ok(_)) => divide(&one, holdout, wanted.seed)?,
            (Err(_), Ok(one)) if !holds(data, &["train", "data_batch"]) => divide(&one, holdout, wanted.seed)?,
            (Ok(one), Err(_)) if !holds(data, &["test", "t10k", "val"]) => divide(&one, holdout, wanted.seed)?,
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        Ok(Self { train, test, is_divided: true })
    }
}

/// Whether a folder has something of such a name: a half that is there and cannot be read is no missing one.
fn holds(data: &str, words: &[&str]) -> bool {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().to_lowercase());
    names.into_iter().any(|name| words.iter().any(|word| name.contains(word)))
}

/// A set in two: of each class, a share `holdout` of the images, rounded, is in the second, drawn by the seed.
fn divide(set: &ImageSet, holdout: f64, seed: u64) -> Result<(ImageSet, ImageSet)> {
    set.need_labels("few-shot learning")?;
    let mut held = vec![false; set.len()];
    for class in 0..set.n_classes as u32 {
        let order = shuffled(&set.labels, class, Philox::new(seed, stream::HOLDOUT, class));
        let n = (order.len() as f64 * holdout).round() as usize;
        order.iter().take(n).for_each(|&i| held[i] = true);
    }
    let part = |wanted: bool| set.subset((0..set.len()).filter(|&i| held[i] == wanted));
    Ok((part(false)?, part(true)?))
}

/// The items of a class in an order by chance.
fn shuffled(labels: &[u32], class: u32, mut draws: Philox) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] == class).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, draws.below(i as u32 + 1) as usize);
    }
    order
}

/// So many items of each class of `set`, drawn by the seed, in their own order.
///
/// # Errors
/// [`Error::Input`] if a class has fewer.
pub(super) fn choose(set: &str, labels: &[u32], classes: &[String], n: u32, seed: u64) -> Result<Vec<usize>> {
    let mut chosen = Vec::new();
    for (class, name) in (0..).zip(classes) {
        let order = shuffled(labels, class, Philox::new(seed, stream::FEW_SHOTS, class));
        if order.len() < n as usize {
            let there = order.len();
            return Err(Error::Input(format!("--shots {n}: {set} has {there} of {name} to learn from")));
        }
        chosen.extend(order.into_iter().take(n as usize));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// So many images of each class, drawn by the seed.
///
/// # Errors
/// As [`choose`].
pub(super) fn draw(set: &ImageSet, shots: Shots, seed: u64) -> Result<ImageSet> {
    match shots {
        Shots::All => Ok(set.clone()),
        Shots::Of(n) => set.subset(choose(&set.name, &set.labels, &set.class_names, n, seed)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(counts: &[usize]) -> ImageSet {
        let labels: Vec<u32> = counts.iter().enumerate().flat_map(|(c, &n)| vec![c as u32; n]).collect();
        let images = (0..labels.len()).map(|i| i as u8).collect();
        let names = (0..counts.len()).map(|c| format!("c{c}")).collect();
        ImageSet::new("s", "of a test", [1, 1, 1], images, labels, names).unwrap()
    }

    #[test]
    fn classes_are_chosen_and_numbered_anew() {
        let classes: Classes = "3,0-1".parse().unwrap();
        let part = classes.of(&set(&[1, 2, 1, 2])).unwrap();
        assert_eq!(
            (part.labels.as_slice(), part.images.as_slice()),
            ([0, 1, 1, 2, 2].as_slice(), [0, 1, 2, 4, 5].as_slice())
        );
        assert_eq!(part.class_names, ["c0", "c1", "c3"]);
        assert_eq!(String::from(classes), "3,0-1");
        assert!("5-3".parse::<Classes>().is_err() && "a".parse::<Classes>().is_err() && "".parse::<Classes>().is_err());
        let error = "4".parse::<Classes>().unwrap().of(&set(&[1, 2, 1, 2])).unwrap_err().to_string();
        assert!(error.contains("has 4 classes"), "{error}");
    }

    #[test]
    fn shots_are_equally_many_of_each_class_and_go_by_the_seed() {
        let all = set(&[9, 30, 11]);
        let (a, b) = (draw(&all, Shots::Of(7), 1).unwrap(), draw(&all, Shots::Of(7), 2).unwrap());
        assert_eq!((a.class_counts(), b.class_counts()), (vec![7; 3], vec![7; 3]));
        assert!(a != b && a == draw(&all, Shots::Of(7), 1).unwrap());
        let error = draw(&all, Shots::Of(10), 1).unwrap_err().to_string();
        assert!(error.contains("has 9 of c0 to learn from"), "{error}");
        assert_eq!(draw(&all, Shots::All, 1).unwrap(), all);
        assert!("0".parse::<Shots>().is_err() && "5".parse::<Shots>() == Ok(Shots::Of(5)));
    }

    #[test]
    fn a_set_in_one_piece_is_divided_by_class() {
        let (train, test) = divide(&set(&[10, 20]), 0.3, 5).unwrap();
        assert_eq!((train.class_counts(), test.class_counts()), (vec![7, 14], vec![3, 6]));
        let mut all = [train.images, test.images].concat();
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<u8>>());
    }
}

//! CIFAR-10 and CIFAR-100 in the binary layout of their authors, and lossless sheets in place of CIFAR-10 batches.
//!
//! A record is its label bytes (CIFAR-10: the class; CIFAR-100: the coarse class, then the fine one), then 1,024 bytes of red, of
//! green and of blue, each plane row by row. A sheet is a lossless WebP picture of 32 x 32 tiles, image `i` at row `i / columns`
//! and column `i % columns`, with one byte per image in the `.labels` file beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{ImageSet, Listing, Split, Wanted, beside, counted, file_name, grouped, names, picture, read_file};
use crate::{Error, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const N_BYTES: usize = 3 * PLANE;

/// One of the two record layouts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RecordLayout {
    name: &'static str,
    title: &'static str,
    /// Number of values of each label byte; the last one is the class.
    n_values: &'static [u8],
    class_names: &'static [&'static str],
}

pub(super) static TEN: RecordLayout =
    RecordLayout { name: "cifar-10", title: "CIFAR-10", n_values: &[10], class_names: &names::CIFAR_10 };
pub(super) static HUNDRED: RecordLayout =
    RecordLayout { name: "cifar-100", title: "CIFAR-100", n_values: &[20, 100], class_names: &names::CIFAR_100 };

impl RecordLayout {
    fn record_bytes(&self) -> usize {
        self.n_values.len() + N_BYTES
    }

    fn set(&self, source: &str, batch: Batch) -> Result<ImageSet> {
        let class_names = names::owned(self.class_names);
        ImageSet::new(self.name, source, [SIDE, SIDE, 3], batch.images, batch.labels, class_names)
    }
}

/// Images `[n, 32, 32, 3]` with their classes `[n]`.
#[derive(Debug)]
pub(super) struct Batch {
    images: Vec<u8>,
    labels: Vec<u32>,
}

/// Where a batch lies.
enum Source {
    Records(PathBuf),
    Sheet(PathBuf),
}

impl Source {
    fn read(&self) -> Result<Batch> {
        match self {
            Self::Records(path) => parse(path, &read_file(path)?, &TEN),
            Self::Sheet(path) => read_sheet(path),
        }
    }
}

/// Whether a file belongs to a CIFAR-10 folder.
pub(super) fn is_batch(name: &str) -> bool {
    batch_of(name, ".bin").is_some() || batch_of(name, ".webp").is_some()
}

/// Whether a file belongs to a CIFAR-100 folder.
pub(super) fn is_hundred(name: &str) -> bool {
    matches!(name, "train.bin" | "test.bin")
}

/// `data_batch_3` of `data_batch_3.webp`.
fn batch_of<'a>(name: &'a str, extension: &str) -> Option<&'a str> {
    let stem = name.strip_suffix(extension)?;
    (stem == "test_batch" || stem.strip_prefix("data_batch_").is_some_and(|rest| !rest.is_empty())).then_some(stem)
}

/// The record layout of a file, by its name where that says it, else by its length in bytes.
pub(super) fn layout_of(name: &str, length: u64) -> Option<&'static RecordLayout> {
    let fits = |layout: &RecordLayout| length.is_multiple_of(layout.record_bytes() as u64);
    if batch_of(name, ".bin").is_some() {
        Some(&TEN)
    } else if is_hundred(name) {
        Some(&HUNDRED)
    } else {
        [&TEN, &HUNDRED].into_iter().find(|layout| fits(layout))
    }
}

/// Whether a file is a WebP picture with labels beside it.
pub(super) fn is_sheet(path: &Path, head: &[u8]) -> bool {
    head.get(8..12) == Some(b"WEBP".as_slice()) && path.with_extension("labels").is_file()
}

/// A single file of records.
pub(super) fn load_file(path: &Path, layout: &RecordLayout) -> Result<ImageSet> {
    let batch = parse(path, &read_file(path)?, layout)?;
    let source = format!("{}: {} images", file_name(path), grouped(batch.labels.len() as u64));
    layout.set(&source, batch)
}

/// A single sheet.
pub(super) fn load_sheet(path: &Path) -> Result<ImageSet> {
    let batch = read_sheet(path)?;
    let source = format!("{}: {} images", file_name(path), grouped(batch.labels.len() as u64));
    TEN.set(&source, batch)
}

/// A CIFAR-100 folder.
pub(super) fn load_hundred(folder: &Path, listing: &Listing, split: Split) -> Result<ImageSet> {
    let name = match split {
        Split::Train => "train.bin",
        Split::Test => "test.bin",
    };
    if !listing.has(name) {
        let message = format!("no {} images of CIFAR-100: wanted {name}, found {}", split.noun(), listing.summary());
        return Err(Error::file(folder, message));
    }
    let path = folder.join(name);
    let batch = parse(&path, &read_file(&path)?, &HUNDRED)?;
    let source = format!("{name}: {} {} images", grouped(batch.labels.len() as u64), split.noun());
    HUNDRED.set(&source, batch)
}

/// A CIFAR-10 folder: all batches of the split that are there, in order, sheets where there is no `.bin`.
pub(super) fn load_batches(folder: &Path, listing: &Listing, wanted: &Wanted) -> Result<ImageSet> {
    let is_wanted = |stem: &str| (stem == "test_batch") == (wanted.split == Split::Test);
    // By length of the name before the name, so that batch 10 comes after batch 9.
    let mut batches: BTreeMap<(usize, String), Source> = BTreeMap::new();
    let mut add = |names: &[String], extension: &str, source: &dyn Fn(&str) -> Source| {
        for name in names {
            if let Some(stem) = batch_of(name, extension).filter(|stem| is_wanted(stem)) {
                batches.entry((stem.len(), stem.to_string())).or_insert_with(|| source(name));
            }
        }
    };
    add(&listing.files, ".bin", &|name| Source::Records(folder.join(name)));
    add(&listing.files, ".webp", &|name| Source::Sheet(folder.join(name)));
    for place in [folder.join("cifar-10-sheets"), folder.join("..").join("cifar-10-sheets")] {
        if place.is_dir() {
            add(&Listing::read(&place)?.files, ".webp", &|name| Source::Sheet(place.join(name)));
        }
    }
    if batches.is_empty() {
        let what = match wanted.split {
            Split::Train => "data_batch_N.bin or data_batch_N.webp",
            Split::Test => "test_batch.bin",
        };
        let message =
            format!("no {} images of CIFAR-10: wanted {what}, found {}", wanted.split.noun(), listing.summary());
        return Err(Error::file(folder, message));
    }

    let sources: Vec<(String, Source)> = batches.into_iter().map(|((_, stem), source)| (stem, source)).collect();
    let mut all = Batch { images: Vec::new(), labels: Vec::new() };
    let mut n_read = 0;
    // Where few images are wanted, the batches past them are not even opened.
    let group = if wanted.n.is_some() { 1 } else { sources.len() };
    for group in sources.chunks(group) {
        let parts: Vec<Result<Batch>> = group.par_iter().map(|(_, source)| source.read()).collect();
        for part in parts {
            let part = part?;
            all.images.extend_from_slice(&part.images);
            all.labels.extend_from_slice(&part.labels);
        }
        n_read += group.len();
        if wanted.n.is_some_and(|n| all.labels.len() >= n) {
            break;
        }
    }

    let (sheets, records): (Vec<_>, Vec<_>) =
        sources[..n_read].iter().partition(|(_, source)| matches!(source, Source::Sheet(_)));
    let records = match records[..] {
        [] => None,
        [(stem, _)] => Some(stem.clone()),
        _ => Some(format!("{} batches", records.len())),
    };
    let sheets = (!sheets.is_empty()).then(|| counted(sheets.len(), "sheet"));
    let found = [records, sheets].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let source = format!("{found}: {} {} images", grouped(all.labels.len() as u64), wanted.split.noun());
    TEN.set(&source, all)
}

/// Splits records into images and classes.
pub(super) fn parse(path: &Path, bytes: &[u8], layout: &RecordLayout) -> Result<Batch> {
    let n_labels = layout.n_values.len();
    let record = layout.record_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
        let message = format!(
            "{} bytes, wanted a multiple of {} (one {} record): {} records and {} bytes more",
            grouped(bytes.len() as u64),
            grouped(record as u64),
            layout.title,
            grouped((bytes.len() / record) as u64),
            bytes.len() % record
        );
        return Err(Error::file(path, message));
    }
    let mut labels = Vec::with_capacity(bytes.len() / record);
    for (i, record) in bytes.chunks_exact(record).enumerate() {
        for (&label, &n) in record.iter().zip(layout.n_values) {
            if label >= n {
                let message = format!("record {i} has label {label}, wanted 0 to {} ({})", n - 1, layout.title);
                return Err(Error::file(path, message));
            }
        }
        labels.push(u32::from(record[n_labels - 1]));
    }
    let mut images = vec![0; labels.len() * N_BYTES];
    images.par_chunks_exact_mut(N_BYTES).zip(bytes.par_chunks_exact(record)).for_each(|(image, record)| {
        let (red, rest) = record[n_labels..].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for (pixel, ((&r, &g), &b)) in image.chunks_exact_mut(3).zip(red.iter().zip(green).zip(blue)) {
            pixel.copy_from_slice(&[r, g, b]);
        }
    });
    Ok(Batch { images, labels })
}

fn read_sheet(path: &Path) -> Result<Batch> {
    let stem = file_name(&path.with_extension(""));
    let labels_path = beside(path, &format!("{stem}.labels"));
    let labels = read_file(&labels_path)?;
    parse_sheet(path, &read_file(path)?, &labels_path, &labels)
}

/// Cuts a sheet into its tiles.
pub(super) fn parse_sheet(path: &Path, bytes: &[u8], labels_path: &Path, labels: &[u8]) -> Result<Batch> {
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| label >= TEN.n_values[0]) {
        return Err(Error::file(labels_path, format!("label {i} is {label}, wanted 0 to {}", TEN.n_values[0] - 1)));
    }
    if bytes.get(12..16) == Some(b"VP8 ".as_slice()) {
        return Err(Error::file(path, "is a lossy WebP, wanted a lossless sheet of 32x32 tiles"));
    }
    // The header is held against the labels before anything of the size that it claims is allocated.
    let (width, height) = picture::dimensions(path, bytes)?;
    let columns = width / SIDE;
    let whole_tiles = width.is_multiple_of(SIDE) && height.is_multiple_of(SIDE);
    if labels.is_empty() || !whole_tiles || columns * (height / SIDE) != labels.len() {
        let message = format!(
            "{width}x{height} pixels, wanted 32x32 tiles for the {} labels of {}",
            grouped(labels.len() as u64),
            file_name(labels_path)
        );
        return Err(Error::file(path, message));
    }
    let sheet = picture::decode(path, bytes)?;
    let mut images = vec![0; labels.len() * N_BYTES];
    images.par_chunks_exact_mut(N_BYTES).enumerate().for_each(|(i, image)| {
        let (x, y) = (i % columns * SIDE, i / columns * SIDE);
        for (row, pixels) in image.chunks_exact_mut(3 * SIDE).enumerate() {
            let start = ((y + row) * width + x) * 3;
            pixels.copy_from_slice(&sheet.rgb[start..start + 3 * SIDE]);
        }
    });
    Ok(Batch { images, labels: labels.iter().map(|&label| u32::from(label)).collect() })
}

//! Image sets held whole in memory, with classes or without, recognised by what a file or folder holds.

mod cifar;
mod folder;
mod idx;
mod names;
mod picture;
mod pictures;
mod set;
#[cfg(test)]
mod tests;
mod unlabelled;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

pub use names::CIFAR_10;
pub use picture::{Picture, read_image};
pub(crate) use pictures::{find as find_pictures, named, skip, unreadable};
pub use set::ImageSet;
pub use unlabelled::load_unlabelled;

use crate::{Error, Result};

/// Most bytes of pixels that a set may have, as all of it is held in memory.
pub const MAX_SET_BYTES: u64 = 8 << 30;

const KNOWN_FILES: &str = "a CIFAR batch (.bin), IDX images (*-images-idx3-ubyte, plain or .gz)";

/// Which half of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To judge by.
    Test,
}

impl Split {
    /// `training` or `test`, as in "50,000 training images".
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Test => "test",
        }
    }
}

/// What is wanted of a source of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The half; a single file or a folder without halves is taken whole for either.
    pub split: Split,
    /// At most so many images, the first ones; `None` for all.
    pub n: Option<usize>,
    /// Side in pixels of the squares that the pictures of class folders are made to; `None` keeps their size, which must then be
    /// one for all. Sets that come in one size keep it.
    pub side: Option<usize>,
    /// Seed of `shapes`.
    pub seed: u64,
    /// Whether pictures of a folder that cannot be read are left out ([`ImageSet::skipped`] names them); else they are an error.
    pub skip_bad: bool,
}

impl Wanted {
    /// All images of `split` in their own size; seed 0; every picture readable.
    #[must_use]
    pub fn new(split: Split) -> Self {
        Self { split, n: None, side: None, seed: 0, skip_bad: false }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self { n: Some(0), .. } => Err(Error::Input("0 images wanted, at least 1 is needed".into())),
            Self { side: Some(0), .. } => Err(Error::Input("images of 0 pixels wanted, at least 1 is needed".into())),
            _ => Ok(()),
        }
    }
}

/// Reads an image set from a folder or file, recognised by what it holds.
///
/// - CIFAR-10 and CIFAR-100 binary folders, any subset of the batches, or one `.bin` file: `[n, 32, 32, 3]`. A lossless sheet
///   `data_batch_N.webp` with `data_batch_N.labels`, beside them or in a folder `cifar-10-sheets` in or beside theirs, stands in
///   for a missing batch.
/// - IDX files, plain or gz, as MNIST has them, or one of them: `[n, height, width, 1]`.
/// - A folder of PNG, JPEG or WebP files per class, under `train/` and `test/` (or `val/`) or not: `[n, side, side, 3]`. Classes go
///   by name in byte order; images come in turns, the first of each class, then the second, so that the first `n` hold all classes.
///
/// # Errors
/// [`Error::File`], in one line, for a path that is missing, unreadable or of no known kind, for a file that is truncated, oversized
/// or broken, for labels out of range and for sets past [`MAX_SET_BYTES`]; [`Error::Input`] for `n` = 0 or `side` = 0.
pub fn load(path: &Path, wanted: &Wanted) -> Result<ImageSet> {
    wanted.check()?;
    let kind = fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    let set = if kind.is_dir() {
        load_folder(path, wanted)
    } else if kind.is_file() {
        load_file(path)
    } else {
        Err(Error::file(path, "is neither a file nor a folder"))
    }?;
    Ok(match wanted.n {
        Some(n) => set.take(n),
        None => set,
    })
}

fn load_folder(path: &Path, wanted: &Wanted) -> Result<ImageSet> {
    let listing = Listing::read(path)?;
    match recognise(path, &listing)? {
        Some(Kind::Cifar10) => cifar::load_batches(path, &listing, wanted),
        Some(Kind::Cifar100) => cifar::load_hundred(path, &listing, wanted.split),
        Some(Kind::Idx) => idx::load_folder(path, &listing, wanted.split),
        Some(Kind::Classes(layout)) => folder::load(path, &layout, wanted),
        None => Err(nothing_known(path, &listing)),
    }
}

fn load_file(path: &Path) -> Result<ImageSet> {
    let name = file_name(path);
    let mut head = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, &e))?;
    file.take(16).read_to_end(&mut head).map_err(|e| Error::io(path, &e))?;
    if head.is_empty() {
        return Err(Error::file(path, format!("is empty, wanted {KNOWN_FILES} or a folder")));
    }
    if cifar::is_sheet(path, &head) {
        return cifar::load_sheet(path);
    }
    if picture::is_picture(&head) {
        return Err(Error::file(path, "is one picture, wanted a set: a folder with one folder of pictures per class"));
    }
    if !name.ends_with(".bin") && idx::is_idx(&head) {
        return idx::load_file(path);
    }
    let length = fs::metadata(path).map_err(|e| Error::io(path, &e))?.len();
    match cifar::layout_of(&name, length) {
        Some(layout) => cifar::load_file(path, layout),
        None => Err(Error::file(path, format!("is of no known kind, wanted {KNOWN_FILES} or a folder"))),
    }
}

/// What a folder was recognised as.
enum Kind {
    Cifar10,
    Cifar100,
    Idx,
    Classes(folder::Layout),
}

fn recognise(path: &Path, listing: &Listing) -> Result<Option<Kind>> {
    let any = |test: fn(&str) -> bool| listing.files.iter().any(|name| test(name));
    Ok(if any(cifar::is_batch) {
        Some(Kind::Cifar10)
    } else if any(idx::is_images) {
        Some(Kind::Idx)
    } else if any(cifar::is_hundred) {
        Some(Kind::Cifar100)
    } else {
        folder::recognise(path, listing)?.map(Kind::Classes)
    })
}

fn nothing_known(path: &Path, listing: &Listing) -> Error {
    // A path one level too high is the usual slip: say which folder inside was meant.
    let inside: Vec<&str> = listing
        .folders
        .iter()
        .filter(|name| {
            let inner = path.join(name);
            Listing::read(&inner).is_ok_and(|listing| matches!(recognise(&inner, &listing), Ok(Some(_))))
        })
        .map(String::as_str)
        .collect();
    let hint = match inside[..] {
        [] => String::new(),
        _ => format!("; try {} in it", inside[..inside.len().min(8)].join(", ")),
    };
    let found = listing.summary();
    let wanted = format!("{KNOWN_FILES} or a folder of PNG, JPEG or WebP per class");
    Error::file(path, format!("holds no image set: found {found}; wanted {wanted}{hint}"))
}

/// Names in a folder, sorted, hidden ones left out.
struct Listing {
    folders: Vec<String>,
    files: Vec<String>,
}

impl Listing {
    fn read(path: &Path) -> Result<Self> {
        let mut listing = Self { folders: Vec::new(), files: Vec::new() };
        for entry in fs::read_dir(path).map_err(|e| Error::io(path, &e))? {
            let name = entry.map_err(|e| Error::io(path, &e))?.file_name();
            // A name that is not UTF-8 is none that a loader looks for, and no class can be shown by it.
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            // Links are followed; one that leads nowhere is left out.
            let Ok(kind) = fs::metadata(path.join(name)) else { continue };
            if kind.is_dir() {
                listing.folders.push(name.to_string());
            } else if kind.is_file() {
                listing.files.push(name.to_string());
            }
        }
        listing.folders.sort();
        listing.files.sort();
        Ok(listing)
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|name| name == file)
    }

    /// `2 folders (a, b) and 1 file (c)`.
    fn summary(&self) -> String {
        let part = |names: &[String], one: &str| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("{} ({})", counted(names.len(), one), some_of(&names))
        };
        match (&self.folders[..], &self.files[..]) {
            ([], []) => "nothing".to_string(),
            (folders, []) => part(folders, "folder"),
            ([], files) => part(files, "file"),
            (folders, files) => format!("{} and {}", part(folders, "folder"), part(files, "file")),
        }
    }
}

/// The first names, and dots where there are more.
fn some_of(names: &[&str]) -> String {
    const N_SHOWN: usize = 4;
    let shown = names[..names.len().min(N_SHOWN)].join(", ");
    if names.len() > N_SHOWN { format!("{shown}, ...") } else { shown }
}

/// `1 file`, `2 files`.
fn counted(n: usize, one: &str) -> String {
    format!("{} {one}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// Digits in groups of three: `50,000`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The file of that name in the same folder.
fn beside(path: &Path, name: &str) -> PathBuf {
    path.with_file_name(name)
}

/// All bytes of a regular file, at most [`MAX_SET_BYTES`].
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let length = fs::metadata(path).map_err(|e| Error::io(path, &e))?.len();
    if length > MAX_SET_BYTES {
        return Err(too_large(path, length));
    }
    fs::read(path).map_err(|e| Error::io(path, &e))
}

fn too_large(path: &Path, bytes: impl std::fmt::Display) -> Error {
    Error::file(path, format!("{bytes} bytes, and a set may have {} ({} GiB)", MAX_SET_BYTES, MAX_SET_BYTES >> 30))
}

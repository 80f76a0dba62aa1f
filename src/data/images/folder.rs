//! Class folders: one folder of pictures per class.

use std::fs;
use std::path::{Path, PathBuf};

use super::pictures::{find, left_out, read_all};
use super::{ImageSet, Listing, Split, Wanted, cifar, counted, file_name, grouped, picture};
use crate::{Error, Result};

const TRAIN_NAMES: [&str; 1] = ["train"];
const TEST_NAMES: [&str; 4] = ["test", "val", "valid", "validation"];

/// How a folder of pictures is laid out.
pub(super) enum Layout {
    /// Class folders under one folder per half.
    Halves { train: Option<PathBuf>, test: Option<PathBuf> },
    /// Class folders at once.
    Flat,
}

/// The layout of a folder, if there are pictures in folders in it, or in folders of its halves.
pub(super) fn recognise(path: &Path, listing: &Listing) -> Result<Option<Layout>> {
    let half = |names: &[&str]| -> Result<Option<PathBuf>> {
        for name in names {
            let half = path.join(name);
            if listing.folders.iter().any(|folder| folder == name) && has_classes(&half, &Listing::read(&half)?)? {
                return Ok(Some(half));
            }
        }
        Ok(None)
    };
    let (train, test) = (half(&TRAIN_NAMES)?, half(&TEST_NAMES)?);
    if train.is_some() || test.is_some() {
        return Ok(Some(Layout::Halves { train, test }));
    }
    // Halves with pictures but no classes in them are no classes themselves.
    let is_half = |name: &String| TRAIN_NAMES.contains(&name.as_str()) || TEST_NAMES.contains(&name.as_str());
    let flat = !listing.folders.iter().all(is_half) && has_classes(path, listing)?;
    Ok(flat.then_some(Layout::Flat))
}

fn has_classes(path: &Path, listing: &Listing) -> Result<bool> {
    for name in &listing.folders {
        let folder = path.join(name);
        let mut entries = fs::read_dir(&folder).map_err(|e| Error::io(&folder, &e))?;
        if entries.any(|entry| entry.is_ok_and(|entry| is_class_picture(&entry.file_name().to_string_lossy()))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sheets of CIFAR-10 are pictures too, but of no class.
fn is_class_picture(name: &str) -> bool {
    picture::has_picture_name(name) && !name.starts_with('.') && !cifar::is_batch(name)
}

/// Pictures of all classes of a half, made to one size.
pub(super) fn load(path: &Path, layout: &Layout, wanted: &Wanted) -> Result<ImageSet> {
    let (root, half, class_names) = match layout {
        Layout::Flat => (path, String::new(), class_names(path)?),
        Layout::Halves { train, test } => {
            let (root, other, names) = match wanted.split {
                Split::Train => (train, test, "train/"),
                Split::Test => (test, train, "test/ or val/"),
            };
            let Some(root) = root else {
                let other = other.as_deref().map(file_name).unwrap_or_default();
                let message =
                    format!("no {} images: wanted class folders under {names}, found {other}/", wanted.split.noun());
                return Err(Error::file(path, message));
            };
            // The classes are those of the training half where there is one, so that both halves number them alike.
            (root.as_path(), format!("{}/: ", file_name(root)), class_names(train.as_deref().unwrap_or(root))?)
        }
    };

    let mut n_other = 0;
    let mut pictures: Vec<Vec<PathBuf>> = vec![Vec::new(); class_names.len()];
    for name in self::class_names(root)? {
        let Some(class) = class_names.iter().position(|known| *known == name) else {
            let message =
                format!("class {name} is not among the {} of train/", counted(class_names.len(), "class folder"));
            return Err(Error::file(root, message));
        };
        let folder = root.join(&name);
        let listing = Listing::read(&folder)?;
        n_other += listing.files.len();
        pictures[class]
            .extend(listing.files.iter().filter(|name| is_class_picture(name)).map(|name| folder.join(name)));
        n_other -= pictures[class].len();
        if pictures[class].is_empty() {
            let message = format!("class folder without PNG, JPEG or WebP files: found {}", listing.summary());
            return Err(Error::file(folder, message));
        }
    }

    let (labels, files): (Vec<u32>, Vec<&Path>) = in_turns(&pictures).unzip();
    if files.is_empty() {
        return Err(Error::file(root, "no class folder with pictures"));
    }
    let pictures = read_all(root, &files, wanted)?;
    let labels: Vec<u32> = pictures.kept.iter().map(|&i| labels[i]).collect();
    let left_out = left_out(n_other, pictures.skipped.len());
    let noun = if half.is_empty() { String::new() } else { format!("{} ", wanted.split.noun()) };
    let (n, classes) = (grouped(labels.len() as u64), counted(class_names.len(), "class folder"));
    let source = format!("{half}{n} {noun}images in {classes}{left_out}");
    let name = fs::canonicalize(path).map_or_else(|_| file_name(path), |path| file_name(&path));
    let size = [pictures.height, pictures.width, 3];
    let set = ImageSet::new(&name, &source, size, pictures.rgb, labels, class_names)?;
    Ok(ImageSet { skipped: pictures.skipped, ..set })
}

impl Layout {
    /// Whether there are class folders of a half.
    pub(super) fn has(&self, split: Split) -> bool {
        match self {
            Self::Flat => true,
            Self::Halves { train, test } => if split == Split::Train { train } else { test }.is_some(),
        }
    }
}

/// The folder of a half by its name, if there are folders for both.
pub(super) fn half(listing: &Listing, split: Split) -> Option<&'static str> {
    let find = |names: &[&'static str]| names.iter().find(|name| listing.folders.iter().any(|f| f == *name)).copied();
    let (train, test) = (find(&TRAIN_NAMES)?, find(&TEST_NAMES)?);
    Some(if split == Split::Train { train } else { test })
}

/// Whether [`load`] takes every picture in the folder, or in the half that is wanted.
pub(super) fn keeps_all(path: &Path, layout: &Layout, split: Split) -> Result<bool> {
    let root = match layout {
        Layout::Flat => path,
        // A half that is not there is refused by name.
        Layout::Halves { train, test } => match if split == Split::Train { train } else { test } {
            Some(root) => root,
            None => return Ok(true),
        },
    };
    let classes = class_names(root)?;
    let mut n_taken = 0;
    for name in &classes {
        let n = Listing::read(&root.join(name))?.files.iter().filter(|name| is_class_picture(name)).count();
        if n == 0 {
            return Ok(false);
        }
        n_taken += n;
    }
    Ok(find(root)?.0.len() == n_taken)
}

fn class_names(root: &Path) -> Result<Vec<String>> {
    Ok(Listing::read(root)?.folders)
}

/// The first picture of each class, then the second of each.
fn in_turns(pictures: &[Vec<PathBuf>]) -> impl Iterator<Item = (u32, &Path)> {
    let rounds = pictures.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds).flat_map(move |i| {
        pictures.iter().zip(0u32..).filter_map(move |(class, label)| Some((label, class.get(i)?.as_path())))
    })
}

//! Class folders: one folder of pictures per class.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{ImageSet, Listing, Split, Wanted, cifar, counted, file_name, grouped, picture, read_image, too_large};
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

    let files = in_turns(&pictures, wanted.n.unwrap_or(usize::MAX));
    let n = files.len();
    let (images, height, width) = read_all(root, &files, wanted.side)?;
    let labels = files.iter().map(|&(class, _)| class).collect();
    let other = if n_other == 0 { String::new() } else { format!(", {} left out", counted(n_other, "other file")) };
    let noun = if half.is_empty() { String::new() } else { format!("{} ", wanted.split.noun()) };
    let source =
        format!("{half}{} {noun}images in {}{other}", grouped(n as u64), counted(class_names.len(), "class folder"));
    let name = fs::canonicalize(path).map_or_else(|_| file_name(path), |path| file_name(&path));
    ImageSet::new(&name, &source, [height, width, 3], images, labels, class_names)
}

fn class_names(root: &Path) -> Result<Vec<String>> {
    Ok(Listing::read(root)?.folders)
}

/// The first picture of each class, then the second of each, up to `n`.
fn in_turns(pictures: &[Vec<PathBuf>], n: usize) -> Vec<(u32, &Path)> {
    let rounds = pictures.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds)
        .flat_map(|i| {
            pictures.iter().zip(0u32..).filter_map(move |(class, label)| Some((label, class.get(i)?.as_path())))
        })
        .take(n)
        .collect()
}

/// Pixels `[n, height, width, 3]` with height and width.
fn read_all(root: &Path, files: &[(u32, &Path)], side: Option<usize>) -> Result<(Vec<u8>, usize, usize)> {
    let Some(&(_, first)) = files.first() else { return Err(Error::file(root, "no class folder with pictures")) };
    let (height, width) = match side {
        Some(side) => (side, side),
        None => read_image(first).map(|picture| (picture.height, picture.width))?,
    };
    let n_bytes = height as u128 * width as u128 * 3;
    if n_bytes * files.len() as u128 > u128::from(super::MAX_SET_BYTES) {
        let n = grouped(files.len() as u64);
        return Err(too_large(
            root,
            format!("{n} images of {height} x {width} x 3 are {}", n_bytes * files.len() as u128),
        ));
    }
    let mut images = vec![0; n_bytes as usize * files.len()];
    let outcomes: Vec<Result<()>> = images
        .par_chunks_exact_mut(n_bytes as usize)
        .zip(files)
        .map(|(pixels, &(_, path))| {
            let mut picture = read_image(path)?;
            if let Some(side) = side {
                picture = picture.fit(side)?;
            }
            if (picture.height, picture.width) != (height, width) {
                let message = format!(
                    "{}x{} pixels, and {} has {width}x{height}: give one size for all",
                    picture.width,
                    picture.height,
                    first.display()
                );
                return Err(Error::file(path, message));
            }
            pixels.copy_from_slice(&picture.rgb);
            Ok(())
        })
        .collect();
    // The first error in the order of the files, whichever thread came first.
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok((images, height, width))
}

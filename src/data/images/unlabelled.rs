//! Images without classes: all pictures in a folder, however it is divided.

use std::fs;
use std::path::{Path, PathBuf};

use super::pictures::{find, left_out, read_all};
use super::{ImageSet, Kind, Listing, Split, Wanted, file_name, folder, grouped, load, recognise};
use crate::{Error, Result};

/// How STL-10 calls the folder of its images without classes.
const NAMES: [&str; 2] = ["unlabeled", "unlabelled"];

/// Reads an image set to learn from without its classes.
///
/// - Every source that [`load`] takes, with the classes that it has. A folder of class folders is one only if every
///   picture lies directly in a class folder, so that none is lost.
/// - Any other folder with PNG, JPEG or WebP files in it or in folders in it: `[n, side, side, 3]` without classes
///   ([`ImageSet::is_labelled`]), sorted by their path in byte order. Hidden files and folders are left out.
/// - Of a folder with a folder for each half, `train` and `test` (or `val`), the half that is wanted.
/// - Of a folder with a folder `unlabeled` in it, as STL-10 has one, that one, for [`Split::Train`].
///
/// # Errors
/// As [`load`]; pictures that cannot be read are named in one line, unless [`Wanted::skip_bad`] leaves them out.
pub fn load_unlabelled(path: &Path, wanted: &Wanted) -> Result<ImageSet> {
    wanted.check()?;
    if !fs::metadata(path).map_err(|e| Error::io(path, &e))?.is_dir() {
        return load(path, wanted);
    }
    let listing = Listing::read(path)?;
    if wanted.split == Split::Train
        && let Some(name) = NAMES.iter().find(|name| listing.folders.iter().any(|folder| folder == *name))
    {
        let (files, n_other) = find(&path.join(name))?;
        if !files.is_empty() {
            return read(path, &format!("{name}/: "), &files, n_other, wanted);
        }
    }
    // Of two halves only the one that is wanted, whatever lies in it.
    let half = folder::half(&listing, wanted.split);
    match recognise(path, &listing)? {
        Some(Kind::Classes(layout)) => {
            let is_there = half.is_none() || layout.has(wanted.split);
            if is_there && folder::keeps_all(path, &layout, wanted.split)? {
                return load(path, wanted);
            }
        }
        Some(_) => return load(path, wanted),
        None => {}
    }
    let (root, part) = half.map_or((path.to_path_buf(), String::new()), |name| (path.join(name), format!("{name}/: ")));
    match find(&root)? {
        // Says what was looked for.
        (files, _) if files.is_empty() => load(path, wanted),
        (files, n_other) => read(path, &part, &files, n_other, wanted),
    }
}

fn read(path: &Path, part: &str, files: &[PathBuf], n_other: usize, wanted: &Wanted) -> Result<ImageSet> {
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let pictures = read_all(path, &files, wanted)?;
    let n = grouped(pictures.kept.len() as u64);
    let source = format!("{part}{n} images without classes{}", left_out(n_other, pictures.skipped.len()));
    let name = fs::canonicalize(path).map_or_else(|_| file_name(path), |path| file_name(&path));
    let size = [pictures.height, pictures.width, 3];
    let labels = vec![0; pictures.kept.len()];
    let set = ImageSet::new(&name, &source, size, pictures.rgb, labels, Vec::new())?;
    Ok(ImageSet { skipped: pictures.skipped, ..set })
}

//! Many pictures: found in nested folders, read side by side into one array.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{MAX_SET_BYTES, Picture, Wanted, counted, grouped, picture, read_image, too_large};
use crate::{Error, Result};

/// Most unreadable pictures that are named in one line.
const MAX_NAMED: usize = 20;

/// Pictures of one size in the order of their files.
pub(super) struct Pictures {
    /// `[n, height, width, 3]`.
    pub(super) rgb: Vec<u8>,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Which of the files they are, `[n]`.
    pub(super) kept: Vec<usize>,
    /// The files that could not be read, each with the reason.
    pub(super) skipped: Vec<String>,
}

/// Reads the first `wanted.n` of `files`, made to `wanted.side` or all of one size.
///
/// # Errors
/// [`Error::File`] if they are of different sizes or too many for memory, or if some cannot be read: all of these are named.
/// With `wanted.skip_bad` others take their places, and it is an error only if none can be read.
pub(super) fn read_all(root: &Path, files: &[&Path], wanted: &Wanted) -> Result<Pictures> {
    let n_wanted = wanted.n.unwrap_or(usize::MAX).min(files.len());
    let first = || files.iter().find_map(|path| Some((path, read_image(path).ok()?)));
    let (example, [height, width]) = match wanted.side {
        Some(side) => (None, [side; 2]),
        // Where none can be read, the size is as good as any.
        None => first().map_or((None, [1; 2]), |(path, picture)| (Some(path), [picture.height, picture.width])),
    };
    let n_bytes = height as u128 * width as u128 * 3;
    if n_bytes * n_wanted as u128 > u128::from(MAX_SET_BYTES) {
        let n = grouped(n_wanted as u64);
        let bytes = n_bytes * n_wanted as u128;
        return Err(too_large(root, format!("{n} images of {height} x {width} x 3 are {bytes}")));
    }
    let n_bytes = n_bytes as usize;
    let mut all = Pictures { rgb: Vec::new(), height, width, kept: Vec::new(), skipped: Vec::new() };
    let (mut bad, mut next) = (Vec::new(), 0);
    // One round, unless pictures that are left out make room for others.
    while all.kept.len() < n_wanted && next < files.len() {
        let (start, first) = (all.kept.len(), next);
        next = (first + n_wanted - start).min(files.len());
        all.rgb.resize((start + next - first) * n_bytes, 0);
        let sizes: Vec<Result<[usize; 2]>> = all.rgb[start * n_bytes..]
            .par_chunks_exact_mut(n_bytes)
            .zip(&files[first..next])
            .map(|(pixels, path)| {
                let picture = read_fitted(path, wanted.side)?;
                let size = [picture.height, picture.width];
                if size == [height, width] {
                    pixels.copy_from_slice(&picture.rgb);
                }
                Ok(size)
            })
            .collect();
        let mut other_size = None;
        for (i, size) in sizes.into_iter().enumerate() {
            match size {
                Ok(size) => {
                    if size != [height, width] {
                        other_size.get_or_insert((files[first + i], size));
                    }
                    let (at, to) = (start + i, all.kept.len());
                    all.rgb.copy_within(at * n_bytes..(at + 1) * n_bytes, to * n_bytes);
                    all.kept.push(first + i);
                }
                Err(error) => bad.push(error),
            }
        }
        all.rgb.truncate(all.kept.len() * n_bytes);
        if let (Some((path, [h, w])), Some(example)) = (other_size, example)
            && (wanted.skip_bad || bad.is_empty())
        {
            let like = example.display();
            let message = format!("{w}x{h} pixels, and {like} has {width}x{height}: give one size for all");
            return Err(Error::file(path, message));
        }
        if !wanted.skip_bad && !bad.is_empty() {
            return Err(unreadable(root, bad, next - first));
        }
    }
    if all.kept.is_empty() && !bad.is_empty() {
        return Err(unreadable(root, bad, files.len()));
    }
    all.skipped = skip(root, &bad);
    Ok(all)
}

/// Reads a picture, cut and resized to a square where a side is given.
fn read_fitted(path: &Path, side: Option<usize>) -> Result<Picture> {
    let picture = read_image(path)?;
    match side {
        Some(side) => picture.fit(side),
        None => Ok(picture),
    }
}

/// What is said of files that are left out, also in the log.
pub(crate) fn skip(root: &Path, bad: &[Error]) -> Vec<String> {
    let skipped: Vec<String> = bad.iter().map(|error| reason(root, error)).collect();
    if !skipped.is_empty() {
        log::warn!("{}: left out {}", root.display(), named(&skipped));
    }
    skipped
}

/// The error of `bad` among `n` pictures.
pub(crate) fn unreadable(root: &Path, mut bad: Vec<Error>, n: usize) -> Error {
    if bad.len() == 1 {
        return bad.remove(0);
    }
    let reasons: Vec<String> = bad.iter().map(|error| reason(root, error)).collect();
    let (n_bad, n) = (grouped(bad.len() as u64), grouped(n as u64));
    Error::file(root, format!("{n_bad} of {n} pictures cannot be read: {}", named(&reasons)))
}

/// The first reasons, and how many there are more.
pub(crate) fn named(reasons: &[String]) -> String {
    let shown = reasons[..reasons.len().min(MAX_NAMED)].join("; ");
    let n_more = reasons.len().saturating_sub(MAX_NAMED);
    if n_more > 0 { format!("{shown}; and {} more", grouped(n_more as u64)) } else { shown }
}

/// `folder/a.png: is empty`, the path being that below `root`.
fn reason(root: &Path, error: &Error) -> String {
    match error {
        Error::File { path, message } => format!("{}: {message}", path.strip_prefix(root).unwrap_or(path).display()),
        other => other.to_string(),
    }
}

/// All pictures in a folder and in the folders in it, sorted by their path in byte order, and how many other files there are.
/// Hidden files and folders are left out; links are followed, each folder is entered once.
///
/// # Errors
/// [`Error::File`] for a folder that cannot be read.
pub(crate) fn find(root: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let (mut pictures, mut n_other, mut seen) = (Vec::new(), 0, HashSet::new());
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let own = fs::canonicalize(&folder).map_err(|e| Error::io(&folder, &e))?;
        if !seen.insert(own) {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(|e| Error::io(&folder, &e))?;
        let names = entries.map(|entry| Ok(entry.map_err(|e| Error::io(&folder, &e))?.file_name()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        // The last is entered first: which of two links to a folder counts must not depend on the file system.
        names.sort_by(|a, b| b.cmp(a));
        for name in names {
            let path = folder.join(&name);
            // Links are followed; one that leads nowhere is left out.
            let (name, Ok(kind)) = (name.to_string_lossy(), fs::metadata(&path)) else { continue };
            match () {
                () if name.starts_with('.') => {}
                () if kind.is_dir() => folders.push(path),
                () if kind.is_file() && picture::has_picture_name(&name) => pictures.push(path),
                () => n_other += usize::from(kind.is_file()),
            }
        }
    }
    // Path's own order goes by components, not bytes.
    pictures.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok((pictures, n_other))
}

/// `3 other files left out, 1 unreadable picture left out`, each with a comma in front.
pub(super) fn left_out(n_other: usize, n_bad: usize) -> String {
    let part = |n: usize, one: &str| if n == 0 { String::new() } else { format!(", {} left out", counted(n, one)) };
    part(n_other, "other file") + &part(n_bad, "unreadable picture")
}

//! IDX files, as MNIST and Fashion-MNIST come in: a big-endian header `00 00 type rank`, one u32 per axis, then the values.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::{ImageSet, Listing, MAX_SET_BYTES, Split, beside, file_name, grouped, names, some_of, too_large};
use crate::{Error, Result};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const U8: u8 = 0x08;

/// Whether a file begins like an IDX file or a gzip stream, which may hold one.
pub(super) fn is_idx(head: &[u8]) -> bool {
    head.starts_with(&GZIP) || matches!(head, [0, 0, 0x08..=0x0e, 1..=4, ..])
}

/// Whether a file is named as the images of a set: `t10k-images-idx3-ubyte.gz`, `train-images.idx3-ubyte`.
pub(super) fn is_images(name: &str) -> bool {
    name.contains("images") && name.contains("idx3")
}

fn labels_name(images: &str) -> String {
    images.replace("images", "labels").replace("idx3", "idx1")
}

/// A folder of IDX files: the images of the split, and the labels that go with them.
pub(super) fn load_folder(folder: &Path, listing: &Listing, split: Split) -> Result<ImageSet> {
    let (words, official): (&[&str], _) = match split {
        Split::Train => (&["train", "pool"], "train-images-idx3-ubyte"),
        Split::Test => (&["t10k", "test"], "t10k-images-idx3-ubyte"),
    };
    let mut found: Vec<&str> = listing
        .files
        .iter()
        .map(String::as_str)
        .filter(|name| is_images(name) && words.iter().any(|word| name.contains(word)))
        // Of a file that is there plain and packed, the plain one.
        .filter(|name| !name.strip_suffix(".gz").is_some_and(|plain| listing.has(plain)))
        .collect();
    if let Some(&name) = found.iter().find(|name| name.starts_with(official)) {
        found = vec![name];
    }
    match found[..] {
        [name] => load_pair(&folder.join(name), Some(split)),
        [] => {
            let message = format!(
                "no {} images in IDX: wanted {official}, plain or .gz; found {}",
                split.noun(),
                listing.summary()
            );
            Err(Error::file(folder, message))
        }
        _ => Err(Error::file(
            folder,
            format!("several sets of {} images: name one of {}", split.noun(), some_of(&found)),
        )),
    }
}

/// A single IDX file, the images or the labels of a set; the other is looked for beside it.
pub(super) fn load_file(path: &Path) -> Result<ImageSet> {
    let name = file_name(path);
    if name.contains("labels") {
        let images = name.replace("labels", "images").replace("idx1", "idx3");
        return load_pair(&plain_or_packed(beside(path, &images)), None);
    }
    if !name.contains("images") {
        return Err(Error::file(path, "wanted images in the name of an IDX file, to find the labels beside it"));
    }
    load_pair(path, None)
}

/// The path itself, or with `.gz` added or taken away, whichever is there.
fn plain_or_packed(path: PathBuf) -> PathBuf {
    let name = file_name(&path);
    let other = match name.strip_suffix(".gz") {
        Some(plain) => beside(&path, plain),
        None => beside(&path, &format!("{name}.gz")),
    };
    if !path.exists() && other.exists() { other } else { path }
}

fn load_pair(images_path: &Path, split: Option<Split>) -> Result<ImageSet> {
    let labels_path = plain_or_packed(beside(images_path, &labels_name(&file_name(images_path))));
    let (axes, images) = read(images_path, 3)?;
    let (_, labels) = read(&labels_path, 1)?;
    let (n, height, width) = (axes[0], axes[1], axes[2]);
    if n != labels.len() {
        let message = format!(
            "{} labels, wanted {}, one for each image of {}",
            grouped(labels.len() as u64),
            grouped(n as u64),
            file_name(images_path)
        );
        return Err(Error::file(labels_path, message));
    }
    let (name, class_names) = classes(images_path, &labels);
    if let Some((i, label)) = labels.iter().enumerate().find(|&(_, &label)| usize::from(label) >= class_names.len()) {
        return Err(Error::file(labels_path, format!("label {i} is {label}, wanted 0 to {}", class_names.len() - 1)));
    }
    let noun = split.map_or(String::new(), |split| format!("{} ", split.noun()));
    let source = format!("{}: {} {noun}images", file_name(images_path), grouped(n as u64));
    let labels = labels.into_iter().map(u32::from).collect();
    ImageSet::new(name, &source, [height, width, 1], images, labels, class_names)
}

/// What the set is called and its classes: MNIST and its kin have ten, others as many as their largest label says.
fn classes(images_path: &Path, labels: &[u8]) -> (&'static str, Vec<String>) {
    let folder = std::path::absolute(images_path).unwrap_or_else(|_| images_path.to_path_buf());
    let folder = folder.parent().map(file_name).unwrap_or_default().to_lowercase();
    let file = file_name(images_path);
    let digits = |n: usize| (0..n).map(|i| i.to_string()).collect();
    if !["train-", "t10k-", "pool-"].iter().any(|prefix| file.starts_with(prefix)) {
        ("idx", digits(labels.iter().max().map_or(0, |&label| usize::from(label) + 1).max(10)))
    } else if folder.contains("fashion") {
        ("fashion-mnist", names::owned(&names::FASHION))
    } else {
        (if folder.contains("mnist") { "mnist" } else { "idx" }, digits(10))
    }
}

/// Axes and values of a u8 file of `rank` axes, plain or gz.
fn read(path: &Path, rank: u8) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::io(path, &e))?);
    if file.fill_buf().map_err(|e| Error::io(path, &e))?.starts_with(&GZIP) {
        parse(path, MultiGzDecoder::new(file), rank)
    } else {
        parse(path, file, rank)
    }
}

/// Axes and values from a stream, of which no more is held than really comes, whatever the header claims.
pub(super) fn parse(path: &Path, mut stream: impl Read, rank: u8) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut header = vec![0; 4 + 4 * usize::from(rank)];
    let n_header = read_up_to(path, &mut stream, &mut header)?;
    match header[..4] {
        [0, 0, U8, came] if n_header >= 4 && came == rank => (),
        [0, 0, kind, came] if n_header >= 4 => {
            let message = format!("IDX type {kind:#04x} with {came} axes, wanted 0x08 (u8) with {rank}");
            return Err(Error::file(path, message));
        }
        _ => {
            let began: Vec<String> = header[..n_header.min(4)].iter().map(|byte| format!("{byte:02x}")).collect();
            let message = format!("begins with [{}], wanted [00 00 08 {rank:02x}] as IDX has it", began.join(" "));
            return Err(Error::file(path, message));
        }
    }
    if n_header < header.len() {
        return Err(Error::file(path, format!("ends in its header, after {n_header} of {} bytes", header.len())));
    }
    let axes: Vec<u32> =
        header[4..].chunks_exact(4).map(|axis| u32::from_be_bytes([axis[0], axis[1], axis[2], axis[3]])).collect();
    let shown = axes.iter().map(|&axis| grouped(axis.into())).collect::<Vec<_>>().join(" x ");
    // Four axes of 32 bits stay within 128.
    let claimed: u128 = axes.iter().map(|&axis| u128::from(axis)).product();
    if claimed == 0 {
        return Err(Error::file(path, format!("its header says {shown}: no value at all")));
    }
    if claimed > u128::from(MAX_SET_BYTES) {
        return Err(too_large(path, format!("its header says {shown} = {claimed}")));
    }
    let claimed = claimed as u64;
    let mut values = Vec::new();
    // One byte more than claimed shows what goes on, and lets gzip check its sum at the end.
    stream.take(claimed + 1).read_to_end(&mut values).map_err(|e| broken(path, &e))?;
    let said = format!("its header says {shown} = {} bytes", grouped(claimed));
    match (values.len() as u64).cmp(&claimed) {
        std::cmp::Ordering::Less => {
            Err(Error::file(path, format!("truncated: {said}, {} came", grouped(values.len() as u64))))
        }
        std::cmp::Ordering::Greater => Err(Error::file(path, format!("oversized: {said}, more came"))),
        std::cmp::Ordering::Equal => Ok((axes.into_iter().map(|axis| axis as usize).collect(), values)),
    }
}

fn read_up_to(path: &Path, stream: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match stream.read(&mut buffer[n..]) {
            Ok(0) => break,
            Ok(came) => n += came,
            Err(e) if e.kind() == ErrorKind::Interrupted => (),
            Err(e) => return Err(broken(path, &e)),
        }
    }
    Ok(n)
}

fn broken(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => Error::file(path, "truncated: the gzip stream ends too early"),
        ErrorKind::InvalidData | ErrorKind::InvalidInput => Error::file(path, format!("broken gzip stream: {error}")),
        _ => Error::io(path, error),
    }
}

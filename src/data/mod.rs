//! Input data: image sets from files, folders or drawn on the spot, how pixels are normalised, and texts.

pub mod images;
pub mod normalize;
#[cfg_attr(
    not(any(feature = "sim", test)),
    expect(dead_code, reason = "only the sanitizer reads and writes whole arrays")
)]
pub(crate) mod npy;
pub mod shapes;
pub mod text;

use std::path::Path;

pub use images::{ImageSet, Picture, Split, Wanted, load, load_unlabelled, read_image};
pub use normalize::Normalize;
pub use shapes::shapes;

use crate::{Error, Result};

/// The images that `--data` names: a path (see [`load`]) or the word `shapes` (see [`shapes()`]).
///
/// ```
/// use leanvision::data::{self, Split, Wanted};
/// let set = data::open("shapes", &Wanted { n: Some(20), ..Wanted::new(Split::Test) })?;
/// assert_eq!((set.len(), set.height, set.width, set.channels), (20, 32, 32, 3));
/// # Ok::<(), leanvision::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] for a path that is missing, unreadable, broken or of no known kind; [`Error::Input`] for `n` = 0 or `side` = 0.
pub fn open(data: &str, wanted: &Wanted) -> Result<ImageSet> {
    if data == "shapes" { draw(wanted) } else { load(Path::new(data), wanted) }
}

/// As [`open`], for images to learn from without their classes: see [`load_unlabelled`].
///
/// # Errors
/// As [`open`].
pub fn open_unlabelled(data: &str, wanted: &Wanted) -> Result<ImageSet> {
    if data == "shapes" { draw(wanted) } else { load_unlabelled(Path::new(data), wanted) }
}

/// The procedural set.
fn draw(wanted: &Wanted) -> Result<ImageSet> {
    wanted.check()?;
    let n = wanted.n.unwrap_or(match wanted.split {
        Split::Train => shapes::N_TRAIN,
        Split::Test => shapes::N_TEST,
    });
    let bytes = (n as u64).saturating_mul(shapes::N_BYTES as u64);
    if bytes > images::MAX_SET_BYTES {
        return Err(Error::Input(format!(
            "shapes: {} images are {} GiB, and a set may have {} GiB",
            images::grouped(n as u64),
            bytes >> 30,
            images::MAX_SET_BYTES >> 30
        )));
    }
    Ok(shapes(n, wanted.seed, wanted.split))
}

/// FNV-1a of 64 bits, to pin what a set holds.
#[cfg(test)]
fn digest<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

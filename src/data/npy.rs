//! NumPy's `.npy` files: one array of numbers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use half::f16;

use crate::files::write_whole;
use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The data start at a multiple of this many bytes.
const ALIGN: usize = 64;

/// An array of numbers from a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Npy {
    /// Elements along each axis.
    pub(crate) shape: Vec<usize>,
    /// The element type as NumPy names it, such as `<f4`.
    pub(crate) dtype: String,
    /// Whether the elements are floats.
    pub(crate) float: bool,
    /// The elements in row-major order. Integers of 64 bits past 2^53 are rounded: they fit no number of a kernel anyway.
    pub(crate) values: Vec<f64>,
}

/// Reads an array of f16, f32, f64, u8, i32, u32 or i64, of either byte order.
///
/// # Errors
/// [`Error::File`] if it cannot be read, is no `.npy` file, ends early, or holds something else.
pub(crate) fn read(path: &Path) -> Result<Npy> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    parse(&bytes).map_err(|message| Error::file(path, message))
}

fn parse(bytes: &[u8]) -> std::result::Result<Npy, String> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or("not a .npy file")?;
    let (header, data) = split(bytes).ok_or("a .npy file with a bad header")?;
    let entry = |name: &str| value(header, name).ok_or_else(|| format!("a .npy file whose header has no '{name}'"));
    let (dtype, order, shape) = (entry("descr")?, entry("fortran_order")?, entry("shape")?);
    let dtype = text(dtype).ok_or("an array of records, wanted numbers")?;
    let shape = tuple(shape).ok_or("a .npy file whose header has a bad shape")?;
    let (big, kind, size) = match dtype.split_at_checked(1) {
        Some((order @ ("<" | ">" | "|" | "="), kind)) => {
            let size = match kind {
                "u1" => 1,
                "f2" => 2,
                "f4" | "u4" | "i4" => 4,
                "f8" | "i8" => 8,
                _ => 0_usize,
            };
            (order == ">", kind, size)
        }
        _ => (false, "", 0),
    };
    if size == 0 {
        return Err(format!("elements of type {dtype}, wanted f2, f4, f8, u1, u4, i4 or i8"));
    }
    let n_bytes = shape.iter().try_fold(size, |product, n| product.checked_mul(*n));
    let data = n_bytes.and_then(|n| data.get(..n));
    let data = data.ok_or_else(|| format!("the file ends before its {shape:?} elements do"))?;
    if order.starts_with("True") && shape.len() > 1 {
        return Err("columns lie together (Fortran order): save numpy.ascontiguousarray of it".into());
    }
    let number = |element: &[u8]| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(element);
        if big {
            bytes[..size].reverse();
        }
        let word = u64::from_le_bytes(bytes);
        match kind {
            "f2" => f64::from(f16::from_bits(word as u16)),
            "f4" => f64::from(f32::from_bits(word as u32)),
            "f8" => f64::from_bits(word),
            "i4" => f64::from((word as u32).cast_signed()),
            "i8" => word.cast_signed() as f64,
            _ => word as f64,
        }
    };
    let values = data.chunks_exact(size).map(number).collect();
    Ok(Npy { dtype: dtype.into(), float: kind.starts_with('f'), values, shape })
}

/// The header and the data behind it; `bytes` starts at the version.
fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = match bytes.split_at_checked(2)? {
        ([1, _], rest) => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), &rest[2..]),
        ([2 | 3, _], rest) => (u32::from_le_bytes(*rest.first_chunk()?) as usize, &rest[4..]),
        _ => return None,
    };
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// What follows a name in the header, a dictionary as Python writes it.
fn value<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    let behind = ['\'', '"'].iter().find_map(|quote| header.split_once(&format!("{quote}{name}{quote}")))?.1;
    Some(behind.trim_start().strip_prefix(':')?.trim_start())
}

/// A text in quotes.
fn text(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    value[1..].split_once(quote).map(|(text, _)| text)
}

/// Sizes in brackets.
fn tuple(value: &str) -> Option<Vec<usize>> {
    let (inside, _) = value.strip_prefix('(')?.split_once(')')?;
    let mut sizes: Vec<&str> = inside.split(',').map(str::trim).collect();
    // A comma stands behind a single size, and may behind the last.
    if sizes.last() == Some(&"") {
        sizes.pop();
    }
    sizes.into_iter().map(|size| size.parse().ok()).collect()
}

/// Everything in front of the data of an array of little-endian elements, whose type WGSL calls `name` (`f16`, `f32`, `u32` or
/// `i32`); at least `least` bytes, so that a larger array's header leaves room for it.
///
/// # Errors
/// [`Error::Input`] for more axes than a header has room for.
pub(crate) fn header(shape: &[usize], name: &str, least: usize) -> Result<Vec<u8>> {
    let descr = match name {
        "f16" => "<f2",
        "u32" => "<u4",
        "i32" => "<i4",
        _ => "<f4",
    };
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let comma = if sizes.len() == 1 { "," } else { "" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", sizes.join(", "));
    // The marks and the length come before, a line feed behind.
    let before = MAGIC.len() + 4;
    let width = (before + text.len() + 1).max(least).next_multiple_of(ALIGN) - before - 1;
    let _ = write!(text, "{:1$}", "", width - text.len());
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| Error::Input(format!(".npy: {} axes", shape.len())))?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat())
}

/// Writes `values`, whose type WGSL calls `name` (`f16`, `f32`, `u32` or `i32`).
///
/// # Errors
/// [`Error::Write`] if it cannot be written.
pub(crate) fn write(path: &Path, shape: &[usize], name: &str, values: &[f64]) -> Result<()> {
    let header = header(shape, name, 0)?;
    write_whole(path, |file| {
        file.write_all(&header)?;
        for value in values {
            match name {
                "f16" => file.write_all(&f16::from_f64(*value).to_le_bytes())?,
                "u32" => file.write_all(&(*value as u32).to_le_bytes())?,
                "i32" => file.write_all(&(*value as i32).to_le_bytes())?,
                _ => file.write_all(&(*value as f32).to_le_bytes())?,
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for (name, dtype, values) in [
            ("f32", "<f4", [-1.5, 0.0, 1e30, 3.0, f64::from(f32::MIN_POSITIVE), 7.0].map(|v| f64::from(v as f32))),
            ("f16", "<f2", [-1.5, 0.0, 65_504.0, 3.0, 0.25, 7.0]),
            ("u32", "<u4", [0.0, 1.0, 4_294_967_295.0, 3.0, 4.0, 5.0]),
            ("i32", "<i4", [0.0, -1.0, -2_147_483_648.0, 3.0, 4.0, 5.0]),
        ] {
            write(&path, &[2, 3], name, &values).unwrap();
            let npy = read(&path).unwrap();
            assert_eq!((npy.shape, npy.dtype.as_str(), npy.values), (vec![2, 3], dtype, values.to_vec()));
            assert_eq!(npy.float, name.starts_with('f'));
        }
    }

    #[test]
    fn headers_are_as_numpy_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        for (shape, wanted) in
            [(&[6][..], "'shape': (6,), }"), (&[2, 3], "'shape': (2, 3), }"), (&[], "'shape': (), }")]
        {
            let n: usize = shape.iter().product();
            write(&path, shape, "f32", &vec![0.5; n]).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert!(String::from_utf8_lossy(&bytes).contains(wanted), "{wanted}");
            assert_eq!((bytes.len(), bytes[127], usize::from(bytes[8])), (128 + 4 * n, b'\n', 118));
            assert_eq!(read(&path).unwrap().shape, shape);
        }
    }

    #[test]
    fn a_smaller_array_fits_the_header_of_a_larger_one() {
        for n in [9, 1 << 60] {
            let large = super::header(&[n; 8], "f32", 0).unwrap();
            let small = super::header(&[1, 2], "f32", large.len()).unwrap();
            assert_eq!((small.len(), small.len() % ALIGN), (large.len(), 0));
            let npy = parse(&[small.as_slice(), &[0; 8]].concat()).unwrap();
            assert_eq!((npy.shape, npy.values), (vec![1, 2], vec![0.0; 2]));
        }
        assert!(super::header(&[1; 40_000], "f32", 0).is_err());
    }

    /// A file with this header and data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    fn header(descr: &str, order: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn other_types_and_versions_are_read() {
        let one = |descr: &str, data: &[u8]| parse(&file(&header(descr, "False", "(1,)"), data)).unwrap().values;
        assert_eq!(one("<i8", &[255; 8]), [-1.0]);
        assert_eq!(one("|u1", &[255]), [255.0]);
        assert_eq!(one(">f4", &1.5_f32.to_be_bytes()), [1.5]);
        assert_eq!(one("<f8", &0.1_f64.to_le_bytes()), [0.1]);
        let text = header("<f4", "True", "(1,)").replace('\'', "\"");
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        let second = [MAGIC, &[2, 0], &length, text.as_bytes(), &2.5_f32.to_le_bytes()].concat();
        assert_eq!(parse(&second).unwrap().values, [2.5]);
    }

    #[test]
    fn bad_files_are_refused_in_one_line() {
        let good = file(&header("<f4", "False", "(1,)"), &[0; 4]);
        for (bytes, part) in [
            (b"no numbers".to_vec(), "not a .npy file"),
            (good[..7].to_vec(), "bad header"),
            (good[..9].to_vec(), "bad header"),
            (good[..40].to_vec(), "bad header"),
            (good[..good.len() - 1].to_vec(), "ends before"),
            (file("{'descr'\n", &[]), "no 'descr'"),
            (file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", &[0; 4]), "records"),
            (file(&header("<f4", "False", "(1, , 2)"), &[0; 8]), "bad shape"),
            (file(&header("<f4", "False", "(-1,)"), &[0; 8]), "bad shape"),
            (file(&header("<f4", "False", "(4294967295, 4294967296, 5)"), &[0; 4]), "ends before"),
            (file(&header("<f4", "True", "(2, 2)"), &[0; 16]), "Fortran order"),
            (file(&header("<c8", "False", "(1,)"), &[0; 8]), "wanted f2"),
            (file(&header("\u{e9}", "False", "(1,)"), &[0; 8]), "wanted f2"),
            (file(&header("", "False", "(1,)"), &[0; 8]), "wanted f2"),
        ] {
            let line = parse(&bytes).unwrap_err();
            assert!(line.contains(part) && line.lines().count() == 1, "{line}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(read(&folder.path().join("none.npy")).unwrap_err().to_string().ends_with("no such file or folder"));
    }
}

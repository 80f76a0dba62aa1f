//! NumPy's `.npy` files: one array of numbers.

use std::io::Write;
use std::path::Path;

use half::f16;
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar, WriterBuilder};

use crate::files::write_whole;
use crate::{Error, Result};

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

/// Reads an array of f16, f32, f64, u8, i32, u32 or i64.
///
/// # Errors
/// [`Error::File`] if it cannot be read, is no `.npy` file, ends early, or holds something else.
pub(crate) fn read(path: &Path) -> Result<Npy> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    let wrong = |message: String| Error::file(path, message);
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(wrong("not a .npy file".into()));
    }
    let file = NpyFile::new(&bytes[..]).map_err(|e| wrong(format!("a .npy file with a bad header: {e}")))?;
    let DType::Plain(dtype) = file.dtype() else { return Err(wrong("an array of records, wanted numbers".into())) };
    let held = file.shape().iter().try_fold(dtype.size_field(), |product, n| product.checked_mul(*n));
    if held.is_none_or(|held| held > bytes.len() as u64) {
        return Err(wrong(format!("the file ends before its {:?} elements do", file.shape())));
    }
    if file.order() == Order::Fortran && file.shape().len() > 1 {
        return Err(wrong("columns lie together (Fortran order): save numpy.ascontiguousarray of it".into()));
    }
    let shape = file.shape().iter().map(|n| *n as usize).collect();
    let (kind, size) = (dtype.type_char(), dtype.size_field());
    let values = match (kind, size) {
        (TypeChar::Float, 2) => values::<f16>(file, f64::from),
        (TypeChar::Float, 4) => values::<f32>(file, f64::from),
        (TypeChar::Float, 8) => values::<f64>(file, |v| v),
        (TypeChar::Uint, 1) => values::<u8>(file, f64::from),
        (TypeChar::Uint, 4) => values::<u32>(file, f64::from),
        (TypeChar::Int, 4) => values::<i32>(file, f64::from),
        (TypeChar::Int, 8) => values::<i64>(file, |v| v as f64),
        _ => return Err(wrong(format!("elements of type {dtype}, wanted f2, f4, f8, u1, u4, i4 or i8"))),
    };
    let values = values.map_err(|e| wrong(e.to_string()))?;
    Ok(Npy { shape, dtype: dtype.to_string(), float: kind == TypeChar::Float, values })
}

fn values<T: Deserialize>(file: NpyFile<&[u8]>, wide: impl Fn(T) -> f64) -> std::io::Result<Vec<f64>> {
    file.data::<T>().map_err(std::io::Error::other)?.map(|value| value.map(&wide)).collect()
}

/// Writes `values`, whose type WGSL calls `name` (`f16`, `f32`, `u32` or `i32`).
///
/// # Errors
/// [`Error::Write`] if it cannot be written.
pub(crate) fn write(path: &Path, shape: &[usize], name: &str, values: &[f64]) -> Result<()> {
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    write_whole(path, |file| match name {
        "f16" => write_as(file, &shape, values.iter().map(|v| f16::from_f64(*v))),
        "u32" => write_as(file, &shape, values.iter().map(|v| *v as u32)),
        "i32" => write_as(file, &shape, values.iter().map(|v| *v as i32)),
        _ => write_as(file, &shape, values.iter().map(|v| *v as f32)),
    })
}

fn write_as<T: npyz::AutoSerialize>(
    file: impl Write,
    shape: &[u64],
    values: impl Iterator<Item = T>,
) -> std::io::Result<()> {
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd()?;
    writer.extend(values)?;
    writer.finish()
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

    /// A file with this header and data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn bad_files_are_refused_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let header = |descr: &str, order: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
        };
        let good = file(&header("<i8", "False", "(1,)"), &[255; 8]);
        std::fs::write(&path, &good).unwrap();
        assert_eq!(read(&path).unwrap().values, [-1.0]);
        for (bytes, part) in [
            (b"no numbers".to_vec(), "not a .npy file"),
            (good[..9].to_vec(), "bad header"),
            (file("{'descr'\n", &[]), "bad header"),
            (file(&header("<f4", "False", "(2, 2)"), &[0; 4]), "ends before"),
            (file(&header("<f4", "False", "(4294967295, 4294967295)"), &[0; 4]), "ends before"),
            (file(&header("<f4", "True", "(2, 2)"), &[0; 16]), "Fortran order"),
            (file(&header("<c8", "False", "(1,)"), &[0; 8]), "wanted f2"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let line = read(&path).unwrap_err().to_string();
            assert!(line.contains(part) && line.lines().count() == 1, "{line}");
        }
        assert!(read(&folder.path().join("none.npy")).unwrap_err().to_string().ends_with("no such file or folder"));
    }
}

//! The loaders against files that the tests write, good and bad, and against the real data where `LEANVISION_DATA` has it.

mod bad;
mod fuzz;
mod good;
mod real;
mod unlabelled;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ImageFormat, RgbImage};

use super::*;
use crate::philox::Philox;

/// A folder that goes away with the test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.0.path().to_path_buf() } else { self.0.path().join(name) }
    }

    /// Writes a file, and the folders above it.
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, name: &str, split: Split) -> Result<ImageSet> {
        load(&self.path(name), &Wanted::new(split))
    }
}

fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut random = Philox::new(seed, 0, 0);
    (0..n).map(|_| random.next_u32() as u8).collect()
}

/// CIFAR records of noise; image `i` has class `(i + seed) % 10` and, in CIFAR-100, the coarse class before it.
fn records(n: usize, seed: u64, n_labels: usize) -> Vec<u8> {
    let pixels = noise(n * 3072, seed);
    (0..n)
        .flat_map(|i| {
            let mut record = vec![((i as u64 + seed) % 10) as u8; n_labels];
            record.extend_from_slice(&pixels[i * 3072..][..3072]);
            record
        })
        .collect()
}

/// The same images as `records(columns * rows, seed, 1)`, as a lossless sheet and its labels.
fn sheet(columns: usize, rows: usize, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let records = records(columns * rows, seed, 1);
    let mut picture = RgbImage::new(32 * columns as u32, 32 * rows as u32);
    for (i, record) in records.chunks_exact(3073).enumerate() {
        for p in 0..1024 {
            let pixel = image::Rgb([record[1 + p], record[1025 + p], record[2049 + p]]);
            picture.put_pixel((i % columns * 32 + p % 32) as u32, (i / columns * 32 + p / 32) as u32, pixel);
        }
    }
    let mut bytes = Vec::new();
    WebPEncoder::new_lossless(&mut bytes)
        .encode(&picture, picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
        .unwrap();
    (bytes, records.chunks_exact(3073).map(|record| record[0]).collect())
}

fn idx(axes: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, axes.len() as u8];
    axes.iter().for_each(|axis| bytes.extend(axis.to_be_bytes()));
    bytes.extend_from_slice(values);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A picture that is red on its left half, blue on its right one.
fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let halves = |x, _| if x < width / 2 { image::Rgb([250, 10, 10]) } else { image::Rgb([10, 10, 250]) };
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, halves).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Checks that a load failed with one line that names `path` and says each of `parts`.
#[track_caller]
fn fails<T>(result: Result<T>, path: &Path, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, wanted {parts:?}") };
    let message = error.to_string();
    assert!(matches!(error, Error::File { .. }) && error.is_bad_input(), "{error:?}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with(&format!("{}: ", path.display())), "{message}\ndoes not begin with {}", path.display());
    for part in parts {
        assert!(message.contains(part), "{message}\ndoes not say {part:?}");
    }
}

//! One picture: PNG, JPEG or WebP to 8-bit RGB.

use std::io::{Cursor, Write};
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

use super::read_file;
use crate::files::write_whole;
use crate::{Error, Result};

/// A picture, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels, `[height, width, 3]`: red, green, blue, 0..=255.
    pub rgb: Vec<u8>,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
}

/// Reads a PNG, JPEG or WebP picture of any size, told apart by what is in the file.
///
/// Grey becomes RGB, 16 bits become 8, opacity is dropped, and a camera's note of how it was held (EXIF) is obeyed.
///
/// # Errors
/// [`Error::File`] for a file that is missing, of another kind, truncated or broken, or whose pixels take more than 512 MiB.
pub fn read_image(path: &Path) -> Result<Picture> {
    decode(path, &read_file(path)?)
}

impl Picture {
    /// The centred square of the short side, resized to `[side, side, 3]` with a triangle filter; as it is where that fits already.
    ///
    /// # Errors
    /// [`Error::Input`] for a side of 0 or past 65,535 pixels.
    pub fn fit(&self, side: usize) -> Result<Self> {
        let target = u16::try_from(side).ok().filter(|&side| side > 0);
        let target = target.ok_or_else(|| Error::Input(format!("pictures {side} pixels wide, wanted 1 to 65535")))?;
        if (self.height, self.width) == (side, side) {
            return Ok(self.clone());
        }
        let short = self.height.min(self.width);
        let (x, y) = ((self.width - short) / 2, (self.height - short) / 2);
        let square: Vec<u8> =
            (y..y + short).flat_map(|row| &self.rgb[(row * self.width + x) * 3..][..short * 3]).copied().collect();
        let square = RgbImage::from_raw(short as u32, short as u32, square).ok_or_else(|| {
            Error::Input(format!("{} bytes for {}x{} pixels", self.rgb.len(), self.width, self.height))
        })?;
        let resized = imageops::resize(&square, target.into(), target.into(), FilterType::Triangle);
        Ok(Self { rgb: resized.into_raw(), height: side, width: side })
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// [`Error::Write`] if it cannot be written, [`Error::Input`] if the pixels do not fill it.
    pub fn save(&self, path: &Path) -> Result<()> {
        let png = self.png()?;
        write_whole(path, |file| file.write_all(&png))
    }

    /// The picture as PNG.
    ///
    /// # Errors
    /// [`Error::Input`] if the pixels do not fill it.
    pub(crate) fn png(&self) -> Result<Vec<u8>> {
        let wrong = |e: &str| Error::Input(format!("a picture of {}x{}: {e}", self.width, self.height));
        // The image crate takes too many pixels as well as enough.
        let fills = self.rgb.len() == self.width * self.height * 3;
        let rgb = RgbImage::from_raw(self.width as u32, self.height as u32, self.rgb.clone()).filter(|_| fills);
        let rgb = rgb.ok_or_else(|| wrong(&format!("{} bytes of pixels do not fill it", self.rgb.len())))?;
        let mut png = Cursor::new(Vec::new());
        rgb.write_to(&mut png, ImageFormat::Png).map_err(|e| wrong(&e.to_string()))?;
        Ok(png.into_inner())
    }

    /// Brightness of each pixel, `[height, width]`: 0.299 R + 0.587 G + 0.114 B, rounded.
    #[must_use]
    pub fn gray(&self) -> Vec<u8> {
        let luma = |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
        self.rgb.chunks_exact(3).map(|pixel| luma(pixel) as u8).collect()
    }
}

/// Whether a file begins like one of the formats read here.
pub(super) fn is_picture(head: &[u8]) -> bool {
    format_of(head).is_some()
}

/// Whether a name ends like one of the formats read here.
pub(super) fn has_picture_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg" | "webp"))
}

fn format_of(bytes: &[u8]) -> Option<ImageFormat> {
    let format = image::guess_format(bytes).ok()?;
    matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP).then_some(format)
}

/// Width and height that a picture's header gives, in pixels.
pub(super) fn dimensions(path: &Path, bytes: &[u8]) -> Result<(usize, usize)> {
    let (width, height) = decoder(path, bytes)?.dimensions();
    Ok((width as usize, height as usize))
}

/// Decodes a whole picture.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Picture> {
    let mut decoder = decoder(path, bytes)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::file(path, format!("{width}x{height} pixels")));
    }
    let orientation = decoder.orientation().map_err(|e| broken(path, &e))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| broken(path, &e))?;
    image.apply_orientation(orientation);
    let rgb = image.into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    Ok(Picture { rgb: rgb.into_raw(), height, width })
}

fn decoder<'a>(path: &Path, bytes: &'a [u8]) -> Result<impl ImageDecoder + 'a> {
    let format = format_of(bytes).ok_or_else(|| {
        Error::file(path, if bytes.is_empty() { "is empty" } else { "is no PNG, JPEG or WebP picture" })
    })?;
    // The JPEG decoder fills in grey where the data end too early.
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Error::file(path, "broken picture: the JPEG has no end"));
    }
    let limits = image::Limits::default();
    let most = limits.max_alloc.unwrap_or(u64::MAX);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| broken(path, &e))?;
    if decoder.total_bytes() > most {
        let (width, height) = decoder.dimensions();
        return Err(Error::file(path, format!("{width}x{height} pixels, and a picture may have {} MiB", most >> 20)));
    }
    Ok(decoder)
}

/// Whether an end-of-image marker follows the start of the first scan. Those of thumbnails stand before it.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        if marker == START_OF_SCAN {
            break;
        }
        // Any number of 0xff may stand before a marker.
        at += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    bytes.get(at..).is_some_and(|scans| scans.windows(2).any(|pair| pair == END_OF_IMAGE))
}

fn broken(path: &Path, error: &ImageError) -> Error {
    Error::file(path, format!("broken picture: {}", error.to_string().replace('\n', " ")))
}

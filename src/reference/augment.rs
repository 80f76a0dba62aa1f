//! Random changes to images, from the generator on the CPU.

use super::Array;
use crate::ops::augment::CropFlip;
use crate::philox::Philox;

/// What is done to one picture: rows and columns it is shifted by, each 0 to twice the padding, and whether it is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// First row of the crop in the padded image.
    pub dy: usize,
    /// First column of the crop in the padded image.
    pub dx: usize,
    /// Whether the crop is flipped left to right.
    pub flip: bool,
}

/// The choice for the picture at place `i` of the batch.
#[must_use]
pub fn choice(i: usize, options: &CropFlip) -> Choice {
    let key = options.key;
    let mut draws = Philox::new(key.seed, key.stream, key.step).at(4 * i as u64);
    let n_shifts = (2 * options.pad + 1) as u32;
    let (dy, dx) = (draws.below(n_shifts) as usize, draws.below(n_shifts) as usize);
    Choice { dy, dx, flip: draws.next_u32() >> 31 == 1 && options.flip }
}

/// The images of `images` `[n, h, w, c]` at `ids`, cropped, flipped and normalised by `scale` and `shift` `[c]`.
#[must_use]
pub fn crop_flip(images: &Array, ids: &[u32], scale: &[f64], shift: &[f64], options: &CropFlip) -> Array {
    let [n, h, w, c] = [0, 1, 2, 3].map(|axis| images.shape[axis]);
    let choices: Vec<Choice> = (0..ids.len()).map(|i| choice(i, options)).collect();
    Array::from_fn(&[ids.len(), h, w, c], |index| {
        let [b, y, x, channel] = [0, 1, 2, 3].map(|axis| index[axis]);
        let Choice { dy, dx, flip } = choices[b];
        let x = if flip { w - 1 - x } else { x };
        let (y, x) = ((y + dy).wrapping_sub(options.pad), (x + dx).wrapping_sub(options.pad));
        let image = (ids[b] as usize).min(n - 1);
        let byte = if y < h && x < w { images.at(&[image, y, x, channel]) } else { 0.0 };
        byte * scale[channel] + shift[channel]
    })
}

//! Random views of images, from the generator on the CPU.

use super::Array;
use crate::ops::random::Key;
use crate::ops::views::{Boxes, FLAGS, Filter, N_TRIES, Recipe, orders};
use crate::philox::Philox;

/// What is done to make one view of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Top, left, height and width of the box, in pixels.
    pub crop: [usize; 4],
    /// Whether it is flipped left to right.
    pub flip: bool,
    /// Whether colours are changed.
    pub jitter: bool,
    /// Whether colours go.
    pub grey: bool,
    /// Whether it is blurred.
    pub blur: bool,
    /// Whether light pixels are inverted.
    pub solarize: bool,
    /// The changes in order: 0 brightness, 1 contrast, 2 saturation, 3 hue.
    pub order: [usize; 4],
    /// Of brightness, contrast and saturation.
    pub factors: [f64; 3],
    /// Share of a whole turn.
    pub hue: f64,
    /// Standard deviation of the blur, in pixels.
    pub sigma: f64,
}

/// What `recipe` draws for the image `id` of `size` (height, width).
///
/// # Panics
/// If the images are too large for [`crate::ops::views::Views`].
#[must_use]
pub fn draw(recipe: &Recipe, size: [usize; 2], id: u32, key: Key) -> Draw {
    let words = |call: u64| {
        let mut draws = Philox::new(key.seed, key.stream, key.step).at(64 * u64::from(id) + 4 * call);
        [(); 4].map(|()| draws.next_u32())
    };
    let unit = |word: u32| f64::from(word >> 8) / f64::from(1 << 24);
    let high = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let (coins, others, colours) = (words(0), words(1), words(2));
    let rolled = [coins[0], coins[1], coins[2], coins[3], others[0]];
    let chances = recipe.chances();
    let [flip, jitter, grey, blur, solarize] = [0, 1, 2, 3, 4].map(|i| rolled[i] >> 8 < chances[i]);
    let boxes = Boxes::new(recipe, size).expect("images of a size that views take");
    let [least, span] = recipe.shares();
    let aspects = recipe.aspects();
    let side = |area: u32, ratio: u32| {
        let squared = ((u64::from(area) * u64::from(ratio)) >> 16) as u32;
        (squared.isqrt() + (1 << boxes.half_bits)) >> (boxes.half_bits + 1)
    };
    let tried = |i: u64| {
        let words = words(3 + i);
        let area = ((u64::from(boxes.n_pixels) * u64::from(least + high(words[0], span))) >> 24) as u32;
        let [wide, tall] = aspects[(words[1] >> 22) as usize];
        let (h, w) = (side(area, tall), side(area, wide));
        let [rows, cols] = size.map(|side| side as u32);
        let fits = (1..=rows).contains(&h) && (1..=cols).contains(&w);
        fits.then(|| [high(words[2], rows - h + 1), high(words[3], cols - w + 1), h, w])
    };
    let order = orders()[high(others[2], 24) as usize];
    let jitters = [recipe.jitter.brightness, recipe.jitter.contrast, recipe.jitter.saturation];
    let drawn = [others[3], colours[0], colours[1]];
    Draw {
        crop: (0..N_TRIES).find_map(tried).unwrap_or(boxes.middle).map(|side| side as usize),
        flip,
        jitter,
        grey,
        blur,
        solarize,
        order: [0, 1, 2, 3].map(|turn| (order >> (2 * turn) & 3) as usize),
        factors: [0, 1, 2].map(|i| 1.0 + f64::from(jitters[i]) * (2.0 * unit(drawn[i]) - 1.0)),
        hue: f64::from(recipe.jitter.hue) * (2.0 * unit(colours[2]) - 1.0),
        sigma: f64::from(recipe.sigma[0]) + f64::from(recipe.sigma[1] - recipe.sigma[0]) * unit(others[1]),
    }
}

impl Draw {
    /// The bits of the kernels' flags.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let set = [self.flip, self.jitter, self.grey, self.blur, self.solarize];
        set.iter().zip(FLAGS).filter(|(set, _)| **set).map(|(_, bit)| bit).sum()
    }

    /// The view `[side, side, 3]`, channels in 0..1, of an image `[h, w, c]` of bytes.
    #[must_use]
    pub fn apply(&self, recipe: &Recipe, image: &Array, side: [usize; 2]) -> Array {
        let mut view = self.resampled(recipe.filter, image, side);
        if self.jitter {
            for change in self.order {
                self.change(&mut view, change);
            }
        }
        if self.grey {
            for rgb in view.data.chunks_exact_mut(3) {
                let grey = luma(rgb);
                rgb.fill(grey);
            }
        }
        if self.blur {
            view = blurred(&blurred(&view, self.sigma, 1), self.sigma, 0);
        }
        if self.solarize {
            view.data.iter_mut().filter(|v| **v >= 0.5).for_each(|v| *v = 1.0 - *v);
        }
        view
    }

    fn resampled(&self, filter: Filter, image: &Array, side: [usize; 2]) -> Array {
        let [top, left, h, w] = self.crop;
        let weight = |x: f64| {
            let d = x.abs();
            match filter {
                Filter::Bilinear => (1.0 - d).max(0.0),
                Filter::Bicubic if d < 1.0 => 1.5 * d.powi(3) - 2.5 * d * d + 1.0,
                Filter::Bicubic if d < 2.0 => -0.5 * d.powi(3) + 2.5 * d * d - 4.0 * d + 2.0,
                Filter::Bicubic => 0.0,
            }
        };
        // Every pixel of the box, with its share.
        let shares = |i: usize, n_out: usize, n_in: usize| -> Vec<f64> {
            let ratio = n_in as f64 / n_out as f64;
            let centre = (i as f64 + 0.5) * ratio;
            let all: Vec<f64> = (0..n_in).map(|k| weight((k as f64 + 0.5 - centre) / ratio.max(1.0))).collect();
            let sum: f64 = all.iter().sum();
            all.into_iter().map(|w| w / sum).collect()
        };
        let c = image.shape[2];
        let rows: Vec<Vec<f64>> = (0..side[0]).map(|y| shares(y, side[0], h)).collect();
        let cols: Vec<Vec<f64>> = (0..side[1]).map(|x| shares(x, side[1], w)).collect();
        Array::from_fn(&[side[0], side[1], 3], |index| {
            let x = if self.flip { side[1] - 1 - index[1] } else { index[1] };
            let mut sum = 0.0;
            for (k, by_row) in rows[index[0]].iter().enumerate().filter(|(_, w)| **w != 0.0) {
                for (j, by_col) in cols[x].iter().enumerate().filter(|(_, w)| **w != 0.0) {
                    sum += by_row * by_col * image.at(&[top + k, left + j, index[2].min(c - 1)]);
                }
            }
            (sum / 255.0).clamp(0.0, 1.0)
        })
    }

    fn change(&self, view: &mut Array, change: usize) {
        let mean = view.data.chunks_exact(3).map(luma).sum::<f64>() / (view.data.len() / 3) as f64;
        for rgb in view.data.chunks_exact_mut(3) {
            if change == 3 {
                turn(rgb, self.hue);
                continue;
            }
            let other = [0.0, mean, luma(rgb)][change];
            let share = self.factors[change];
            rgb.iter_mut().for_each(|v| *v = (share * *v + (1.0 - share) * other).clamp(0.0, 1.0));
        }
    }
}

fn luma(rgb: &[f64]) -> f64 {
    0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
}

/// To hue, saturation and value, and back with the hue turned.
fn turn(rgb: &mut [f64], by: f64) {
    let (high, low) = (rgb.iter().copied().fold(0.0, f64::max), rgb.iter().copied().fold(1.0, f64::min));
    let chroma = high - low;
    if chroma <= 0.0 {
        return;
    }
    let sixths = if rgb[0] == high {
        (rgb[1] - rgb[2]) / chroma
    } else if rgb[1] == high {
        2.0 + (rgb[2] - rgb[0]) / chroma
    } else {
        4.0 + (rgb[0] - rgb[1]) / chroma
    };
    let hue = (sixths / 6.0 + by).rem_euclid(1.0) * 6.0;
    let (rise, fall) = (low + chroma * hue.fract(), high - chroma * hue.fract());
    let turned = match hue as usize {
        0 => [high, rise, low],
        1 => [fall, high, low],
        2 => [low, high, rise],
        3 => [low, fall, high],
        4 => [rise, low, high],
        _ => [high, low, fall],
    };
    rgb.copy_from_slice(&turned);
}

/// Along `axis`, the pixels at the edge repeated.
fn blurred(view: &Array, sigma: f64, axis: usize) -> Array {
    // As the kernels do: the radius is that of the f32.
    let radius = (3.0 * sigma as f32).ceil() as isize;
    let weights: Vec<f64> =
        (-radius..=radius).map(|d| (-0.5 * (d * d) as f64 / (sigma * sigma).max(1e-12)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    Array::from_fn(&view.shape, |index| {
        let taps = weights.iter().zip(-radius..).map(|(w, d)| {
            let mut at = index.to_vec();
            at[axis] = (index[axis] as isize + d).clamp(0, view.shape[axis] as isize - 1) as usize;
            w * view.at(&at)
        });
        taps.sum::<f64>() / sum
    })
}

/// Views of the images of `images` `[n, h, w, c]` at `ids`, normalised by `scale` and `shift` `[c]`: `[b, side, side, c]`.
#[must_use]
pub fn views(
    recipe: &Recipe,
    images: &Array,
    ids: &[u32],
    side: [usize; 2],
    (scale, shift): (&[f64], &[f64]),
    key: Key,
) -> Array {
    let [n, h, w, c] = [0, 1, 2, 3].map(|axis| images.shape[axis]);
    let mut data = Vec::new();
    for &id in ids {
        let at = (id as usize).min(n - 1) * h * w * c;
        let image = Array::new(&[h, w, c], images.data[at..at + h * w * c].to_vec());
        let view = draw(recipe, [h, w], id, key).apply(recipe, &image, side);
        for rgb in view.data.chunks_exact(3) {
            data.extend((0..c).map(|channel| 255.0 * rgb[channel] * scale[channel] + shift[channel]));
        }
    }
    Array::new(&[ids.len(), side[0], side[1], c], data)
}

//! Training images on the device.

use std::borrow::Cow;

use super::{Batch, Recipe};
use crate::data::ImageSet;
use crate::{DType, Result, Runtime, Tensor};

/// Bytes of images that are kept on the device; larger sets are sent batch by batch.
pub(crate) const RESIDENT_BYTES: usize = 1 << 30;

/// Training images: on the device as a whole, or sent batch by batch where they are too many.
pub(crate) struct Pixels<'a> {
    set: Cow<'a, ImageSet>,
    /// u8 `[n, h, w, c]`: all images, or those of a step.
    images: Tensor,
    /// Where those of a step are sent.
    sent: Option<Sent>,
}

struct Sent {
    /// The bytes of a step's images, and as many more as fill the last word.
    bytes: Tensor,
    /// The numbers of the images of a micro-batch, u32 `[b]`.
    counted: Tensor,
}

impl<'a> Pixels<'a> {
    /// Sets of `most` bytes stay on the device as a whole.
    pub(crate) fn new(runtime: &Runtime, set: Cow<'a, ImageSet>, recipe: &Recipe, most: usize) -> Result<Self> {
        let shape = |n: usize| [n, set.height, set.width, set.channels];
        if set.images.len() <= most.min(runtime.profile().limits.binding_bytes as usize) {
            let images = Tensor::from_slice(runtime, &set.images, &shape(set.len()))?;
            return Ok(Self { set, images, sent: None });
        }
        let shape = shape(recipe.batch);
        let n_bytes: usize = shape.iter().product();
        let bytes = Tensor::zeros(runtime, &[n_bytes.next_multiple_of(4)], DType::U8)?;
        let images = bytes.slice(0, 0..n_bytes)?.reshape(&shape)?;
        let counted: Vec<u32> = (0..recipe.micro_batch as u32).collect();
        let counted = Tensor::from_slice(runtime, &counted, &[counted.len()])?;
        Ok(Self { set, images, sent: Some(Sent { bytes, counted }) })
    }

    /// Whether all images are there, so that those of a batch are picked by their number.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent.is_none()
    }

    /// Sends the images of a step, unless all are there.
    pub(crate) fn send(&self, items: &[u32]) -> Result<()> {
        let Some(Sent { bytes, .. }) = &self.sent else { return Ok(()) };
        let mut pixels: Vec<u8> = items.iter().filter_map(|&i| self.set.image(i as usize)).flatten().copied().collect();
        pixels.resize(bytes.len(), 0);
        bytes.write(&pixels)
    }

    /// Images u8 `[n, h, w, c]` and which of them are wanted, u32 `[b]`.
    pub(crate) fn of(&self, batch: &Batch) -> Result<(Tensor, Tensor)> {
        match &self.sent {
            None => Ok((self.images.clone(), batch.items.clone())),
            Some(Sent { counted, .. }) => Ok((self.images.slice(0, batch.places.clone())?, counted.clone())),
        }
    }
}

/// Means and deviations `[c]` as `pixel * scale + shift` for bytes.
pub(crate) fn scale_shift(runtime: &Runtime, (mean, std): &(Vec<f32>, Vec<f32>)) -> Result<(Tensor, Tensor)> {
    let scale: Vec<f32> = std.iter().map(|std| (1.0 / (255.0 * f64::from(*std))) as f32).collect();
    let shift: Vec<f32> =
        mean.iter().zip(std).map(|(mean, std)| (-f64::from(*mean) / f64::from(*std)) as f32).collect();
    let upload = |values: &[f32]| Tensor::from_slice(runtime, values, &[values.len()]);
    Ok((upload(&scale)?, upload(&shift)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;
    use crate::Error;
    use crate::data::{self, Split, Wanted};
    use crate::nn::{Precision, Rule, Schedule};
    use crate::ops::gather::index_select;

    #[test]
    fn images_sent_step_by_step_are_those_that_are_there_as_a_whole() {
        let runtime = match Runtime::new(&DeviceChoice::default()) {
            Ok(runtime) => runtime,
            Err(Error::NoAdapter(message)) => {
                eprintln!("skipped: {message}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        // 27 bytes an image, so that a step of 6 fills no whole words.
        let wanted = Wanted { n: Some(20), side: Some(32), seed: 1, ..Wanted::new(Split::Train) };
        let mut set = data::open("shapes", &wanted).unwrap();
        let n_bytes = set.height * set.width * set.channels;
        set.images = set.images.chunks_exact(n_bytes).flat_map(|image| image[n_bytes / 2..][..27].to_vec()).collect();
        (set.height, set.width, set.channels) = (3, 3, 3);
        let recipe = Recipe {
            steps: 1,
            batch: 6,
            micro_batch: 3,
            lr: 0.1,
            schedule: Schedule::default(),
            rule: Rule::Sgd { momentum: 0.9, nesterov: false },
            decay: 0.0,
            clip: None,
            ema: None,
            ema_course: crate::methods::training::EmaCourse::Constant,
            precision: Precision::F32,
            seed: 0,
        };
        let (whole, sent) = (
            Pixels::new(&runtime, Cow::Borrowed(&set), &recipe, 1 << 30).unwrap(),
            Pixels::new(&runtime, Cow::Borrowed(&set), &recipe, 0).unwrap(),
        );
        assert!(whole.sent.is_none() && sent.sent.is_some());
        for items in [[3_u32, 19, 0, 7, 7, 2], [1, 2, 3, 4, 5, 6]] {
            for places in [0..3, 3..6] {
                let batch = Batch {
                    items: Tensor::from_slice(&runtime, &items[places.clone()], &[3]).unwrap(),
                    draw: Tensor::from_slice(&runtime, &[0_u32], &[1]).unwrap(),
                    epoch: Tensor::from_slice(&runtime, &[0_u32], &[1]).unwrap(),
                    places: places.clone(),
                };
                let picked = |pixels: &Pixels<'_>| {
                    pixels.send(&items).unwrap();
                    let (images, ids) = pixels.of(&batch).unwrap();
                    index_select(&images, 0, &ids).unwrap().to_vec::<u8>().unwrap()
                };
                let got = picked(&sent);
                assert_eq!(got, picked(&whole), "{items:?} at {places:?}");
                assert_eq!(got[..27], *set.image(items[places.start] as usize).unwrap());
            }
        }
    }
}

//! Images as a task: the loss of a batch, and the accuracy of an adapted network.

use std::borrow::Cow;

use super::shots::Halves;
use crate::data::{ImageSet, Normalize};
use crate::methods::classify::Augment;
use crate::methods::images::usual_batch;
use crate::methods::score::judge;
use crate::methods::training::{Batch, Pixels, RESIDENT_BYTES, Recipe, scale_shift};
use crate::nn::{Model, ModelSpec};
use crate::ops::augment::{CropFlip, crop_flip};
use crate::ops::elementwise::{cast, from_bytes};
use crate::ops::gather::index_select;
use crate::ops::random::Key;
use crate::ops::{reduce, softmax};
use crate::philox::stream;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Training images of one run on the device.
pub(super) struct ImageTask<'a> {
    pixels: Pixels<'a>,
    labels: Tensor,
    scale: Tensor,
    shift: Tensor,
    crop: CropFlip,
    smoothing: f32,
    dtype: DType,
}

impl<'a> ImageTask<'a> {
    pub(super) fn new(
        runtime: &Runtime,
        set: Cow<'a, ImageSet>,
        normalize: &Normalize,
        recipe: &Recipe,
        augment: Augment,
        smoothing: f64,
    ) -> Result<Self> {
        let (scale, shift) = scale_shift(runtime, &normalize.mean_std(set.channels)?)?;
        let pad = if augment == Augment::None { 0 } else { set.height.min(set.width) / 8 };
        let key = Key { seed: recipe.seed, stream: stream::CROP_FLIP, step: 0 };
        Ok(Self {
            labels: Tensor::from_slice(runtime, &set.labels, &[set.len()])?,
            pixels: Pixels::new(runtime, set, recipe, RESIDENT_BYTES)?,
            scale,
            shift,
            crop: CropFlip { pad, flip: augment == Augment::CropFlip, key },
            smoothing: smoothing as f32,
            dtype: recipe.precision.dtype(),
        })
    }

    pub(super) fn feed(&self, items: &[u32]) -> Result<()> {
        self.pixels.send(items)
    }

    /// Mean loss `[]` of a micro-batch.
    pub(super) fn loss(&self, network: &Model, batch: &Batch) -> Result<Tensor> {
        let (images, ids) = self.pixels.of(batch)?;
        let x = crop_flip(&images, &ids, Some(&batch.draw), &self.scale, &self.shift, &self.crop, self.dtype)?;
        let labels = index_select(&self.labels, 0, &batch.items)?;
        let logits = cast(&network.forward(&x)?, DType::F32)?;
        reduce::mean_all(&softmax::cross_entropy(&logits, &labels, self.smoothing)?)
    }
}

/// Images of a set that a network names rightly, in percent.
pub(super) fn accuracy(
    runtime: &Runtime,
    network: &Model,
    set: &ImageSet,
    normalize: &Normalize,
    quiet: bool,
) -> Result<f64> {
    let (scale, shift) = scale_shift(runtime, &normalize.mean_std(set.channels)?)?;
    let activation_bytes = network.spec().plan().summary([set.height, set.width])?.activation_bytes;
    let batch = usual_batch(runtime, activation_bytes).min(set.len());
    let mut logits = |images: &Tensor| network.forward(&from_bytes(images, &scale, &shift, DType::F32)?);
    let (score, _) = judge(runtime, set, batch, quiet, &mut logits)?;
    Ok(score.percent(score.top1))
}

/// Finds out whether a network can learn from images.
///
/// # Errors
/// [`Error::Input`] if there are none, without classes, of another size or of other channels.
pub(super) fn fits(spec: &ModelSpec, halves: &Halves) -> Result<()> {
    let Halves { train, test, .. } = halves;
    for set in [train, test] {
        if set.is_empty() {
            return Err(Error::Input(format!("{}: no image in it", set.name)));
        }
        set.need_labels("supervised training")?;
        if set.channels != spec.channels() {
            let (name, has, wants) = (&set.name, set.channels, spec.channels());
            return Err(Error::Input(format!("{name}: images of {has} channels, {spec} takes {wants}")));
        }
        if spec.image_is_fixed() && [set.height, set.width] != [spec.image(); 2] {
            let (h, w, want) = (set.height, set.width, spec.image());
            return Err(Error::Input(format!("{}: images of {h}x{w} pixels, {spec} takes {want}x{want}", set.name)));
        }
    }
    if train.n_classes != test.n_classes {
        let (a, b) = (train.n_classes, test.n_classes);
        return Err(Error::Input(format!("{}: {a} classes to learn from, {b} to judge by", train.name)));
    }
    spec.plan().summary([train.height, train.width]).map(|_| ())
}

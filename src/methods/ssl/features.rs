//! Features of labelled images.

use std::collections::VecDeque;

use crate::data::ImageSet;
use crate::methods::images::{IN_FLIGHT, each_batch};
use crate::nn::Model;
use crate::ops::elementwise::{cast, from_bytes};
use crate::ops::{gather, norm, reduce};
use crate::report::Progress;
use crate::tensor::Read;
use crate::{DType, Error, Result, Runtime, Tensor};

/// Added to the mean square of a row, so that a row of zeros stays one: far below what f32 resolves next to any other.
const LEAST_SQUARE: f32 = 1e-30;

/// What a network makes of labelled images, on the device.
#[derive(Debug, Clone)]
pub struct Features {
    values: Tensor,
    labels: Vec<u32>,
    n_classes: usize,
}

impl Features {
    /// Features f32 `[n, d]` of `n` images with these labels, each under `n_classes`; without classes all labels are 0.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no feature or a label for each is not there, [`Error::DType`] unless they are f32,
    /// [`Error::Input`] for a label that names no class.
    pub fn new(values: Tensor, labels: Vec<u32>, n_classes: usize) -> Result<Self> {
        const OP: &str = "features";
        if values.dtype() != DType::F32 {
            return Err(Error::dtype(OP, format!("{} given, f32 wanted", values.dtype())));
        }
        if values.rank() != 2 || values.is_empty() || values.shape()[0] != labels.len() {
            let given = format!("{:?} and {} labels given", values.shape(), labels.len());
            return Err(Error::shape(OP, format!("{given}, [n, d] and n labels wanted")));
        }
        if let Some(label) = labels.iter().find(|label| **label as usize >= n_classes.max(1)) {
            return Err(Error::Input(format!("label {label} of features, and there are {n_classes} classes")));
        }
        Ok(Self { values: values.detach(), labels, n_classes })
    }

    /// The features, f32 `[n, d]`.
    #[must_use]
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Class of each image, `[n]`; all 0 where there are no classes.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of classes; 0 without.
    #[must_use]
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Number of images, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Length of a feature, at least 1.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.values.shape()[1]
    }

    /// The features with rows of length 1, f32 `[n, d]`; rows of zeros stay so.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn unit(&self) -> Result<Tensor> {
        let d = self.dim();
        let gain = Tensor::full(self.values.runtime(), &[d], (1.0 / (d as f64).sqrt()) as f32, DType::F32)?;
        norm::rms_norm(&self.values, Some(&gain), LEAST_SQUARE)
    }

    /// Finds out whether `self` and `other` are features of one kind, with classes, as `what` needs.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ in length or number of classes, [`Error::Input`] if they have none.
    pub(super) fn need_labels(&self, what: &'static str, other: &Self) -> Result<()> {
        let kind = |of: &Self| (of.dim(), of.n_classes);
        if kind(self) != kind(other) {
            let text = |of: &Self| format!("{} numbers and {} classes", of.dim(), of.n_classes);
            return Err(Error::shape(what, format!("features of {}, and of {}", text(self), text(other))));
        }
        if self.n_classes == 0 {
            return Err(Error::Input(format!("{what} needs features of images with classes")));
        }
        Ok(())
    }

    /// The features of some of the images, in this order.
    ///
    /// # Errors
    /// [`Error::Input`] for an image that is not there, or none at all.
    pub fn subset(&self, images: &[u32]) -> Result<Self> {
        let label = |image: &u32| self.labels.get(*image as usize).copied();
        let labels: Option<Vec<u32>> = images.iter().map(label).collect();
        let Some(labels) = labels.filter(|labels| !labels.is_empty()) else {
            return Err(Error::Input(format!("{} of {} features asked for", images.len(), self.len())));
        };
        let ids = Tensor::from_slice(self.values.runtime(), images, &[images.len()])?;
        Self::new(gather::index_select(&self.values, 0, &ids)?, labels, self.n_classes)
    }
}

/// The features of all images of a set: what the last linear layer of `model` sees, or would see if it has none. Batch norms
/// take their running statistics, also in a model that is being trained; its tensors are f32. Pixels become
/// `pixel * scale + shift`, f32 `[c]` each; `batch` images go through at once.
///
/// # Errors
/// [`Error::Input`] for a set without images, [`Error::Failed`] for features that are no numbers; as [`Model::features`].
pub fn extract(
    model: &Model,
    runtime: &Runtime,
    set: &ImageSet,
    (scale, shift): (&Tensor, &Tensor),
    batch: usize,
    quiet: bool,
) -> Result<Features> {
    if set.is_empty() {
        return Err(Error::Input(format!("{}: no image in it", set.name)));
    }
    let model = model.evaluating();
    let mut progress = Progress::new("features", set.len() as u64, "images", quiet);
    let mut parts = Vec::new();
    let mut pending = VecDeque::new();
    each_batch(runtime, set, batch, &mut |images| {
        let features = model.features(&from_bytes(images, scale, shift, DType::F32)?)?.detach();
        let features = cast(&features, DType::F32)?;
        // A sum is a number if all of it is, and keeps the host from running far ahead.
        pending.push_back((images.shape()[0], reduce::sum_all(&features)?.read()?));
        parts.push(features);
        arrive(&mut pending, IN_FLIGHT, &mut progress)
    })?;
    arrive(&mut pending, 0, &mut progress)?;
    let values = gather::concat(&parts.iter().collect::<Vec<_>>(), 0)?;
    Features::new(values, set.labels.clone(), set.n_classes)
}

/// Waits for the oldest batches, each with its number of images and the sum of its features, until at most `keep` are left.
fn arrive(pending: &mut VecDeque<(usize, Read<f32>)>, keep: usize, progress: &mut Progress) -> Result<()> {
    while pending.len() > keep {
        let Some((n, sum)) = pending.pop_front() else { break };
        if !sum.wait()?.iter().all(|sum| sum.is_finite()) {
            return Err(Error::Failed("features that are no numbers".into()));
        }
        progress.advance(n as u64);
    }
    Ok(())
}

//! A network with everything that turns pixels into logits.

use std::path::Path;

use super::config::NetworkFlags;
use crate::data::Normalize;
use crate::data::images::CIFAR_10;
use crate::methods::training::scale_shift;
use crate::nn::{Checkpoint, Model, ModelSpec, Weights};
use crate::ops::elementwise::from_bytes;
use crate::{DType, Result, Runtime, Tensor};

/// A network read from a file, still on the host.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) spec: ModelSpec,
    pub(super) weights: Weights,
    pub(super) normalize: Normalize,
    /// Names of the classes, if they are known.
    pub(super) classes: Option<Vec<String>>,
    /// Mean and deviation by channel.
    mean_std: (Vec<f32>, Vec<f32>),
}

impl Network {
    /// Reads weights, and what they leave open from beside them and from `flags`.
    ///
    /// # Errors
    /// [`crate::Error::File`] and [`crate::Error::Input`] for everything that is wrong with them.
    pub(super) fn load(path: &Path, flags: &NetworkFlags) -> Result<Self> {
        let checkpoint = Checkpoint::read(path)?;
        let found = flags.identify(checkpoint.header())?;
        let classes = found.classes.clone();
        let (spec, normalize) = found.settled()?;
        // The published weights of this layout are CIFAR-10's.
        let is_cifar = matches!(&spec, ModelSpec::ResNet(s) if s.is_cifar_layout() && s.classes == CIFAR_10.len());
        let classes = classes.or_else(|| is_cifar.then(|| CIFAR_10.map(String::from).to_vec()));
        let weights = checkpoint.load(&spec.plan().params, &spec.to_string())?;
        let normalize: Normalize = normalize.parse()?;
        let mean_std = normalize.mean_std(spec.channels())?;
        Ok(Self { spec, weights, normalize, classes, mean_std })
    }
}

/// A network on a device that takes pixels.
#[derive(Debug)]
pub(super) struct Classifier {
    model: Model,
    /// `pixel * scale + shift` by channel, `[c]` each.
    scale: Tensor,
    shift: Tensor,
}

impl Classifier {
    pub(super) fn new(runtime: &Runtime, network: &Network) -> Result<Self> {
        let (scale, shift) = scale_shift(runtime, &network.mean_std)?;
        Ok(Self { model: Model::folded(runtime, &network.spec, &network.weights)?, scale, shift })
    }

    /// Logits `[n, classes]` of u8 images `[n, h, w, c]`, normalised on the device.
    pub(super) fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.model.forward(&from_bytes(images, &self.scale, &self.shift, DType::F32)?)
    }
}

//! Networks without their heads in files: what pretraining is for.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::{ImageSet, Normalize};
use crate::methods::NetworkFlags;
use crate::methods::network::{Network, PixelNetwork};
use crate::nn::{Hints, Model, ModelSpec, Plan, Weights};
use crate::{Error, Result, Runtime, Tensor};

/// A network without its head and how it wants its pixels, on the host.
#[derive(Debug, Clone)]
pub struct Backbone {
    network: Network,
}

impl Backbone {
    /// The network, of 0 classes.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.network.spec
    }

    /// Tensors and steps, without a head.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.network.plan
    }

    /// The weights of [`Backbone::plan`].
    #[must_use]
    pub fn weights(&self) -> &Weights {
        &self.network.weights
    }

    /// Input normalisation.
    #[must_use]
    pub fn normalize(&self) -> &Normalize {
        &self.network.normalize
    }

    /// Mean and standard deviation of its input by channel, `[c]` each, of pixels in 0..1.
    #[must_use]
    pub fn mean_std(&self) -> &(Vec<f32>, Vec<f32>) {
        &self.network.mean_std
    }

    /// Length of a feature.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.plan().n_features()
    }

    /// Finds out whether images of a set can be its input.
    ///
    /// # Errors
    /// [`Error::Input`] if they are of other channels, or of a size that it does not take.
    pub fn fits(&self, set: &ImageSet) -> Result<()> {
        let (spec, name) = (self.spec(), &set.name);
        if set.channels != spec.channels() {
            let (has, wants) = (set.channels, spec.channels());
            return Err(Error::Input(format!("{name}: images of {has} channels, {spec} takes {wants}")));
        }
        let (h, w, side) = (set.height, set.width, spec.image());
        if spec.image_is_fixed() && [h, w] != [side; 2] {
            return Err(Error::Input(format!("{name}: images of {h}x{w} pixels, {spec} takes {side}x{side}")));
        }
        self.plan().summary([h, w]).map(|_| ())
    }

    /// Bytes of activations for one image of `[h, w]` pixels.
    ///
    /// # Errors
    /// [`Error::Input`] if it does not take such images.
    pub fn activation_bytes(&self, image: [usize; 2]) -> Result<u64> {
        Ok(self.plan().summary(image)?.activation_bytes)
    }

    /// The backbone on a device, its batch norms folded.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn on(&self, runtime: &Runtime) -> Result<PixelBackbone> {
        Ok(PixelBackbone(PixelNetwork::new(runtime, &self.network)?))
    }
}

/// A backbone on a device that takes pixels.
#[derive(Debug, Clone)]
pub struct PixelBackbone(PixelNetwork);

impl PixelBackbone {
    /// Features `[n, d]` of u8 images `[n, h, w, c]`, normalised on the device.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        self.0.forward(images)
    }

    /// The network; it takes images that are normalised.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.0.model()
    }

    /// Normalisation of bytes, `byte * scale + shift`: f32 `[c]` each.
    #[must_use]
    pub fn scale_shift(&self) -> (&Tensor, &Tensor) {
        self.0.scale_shift()
    }
}

/// Reads a network without its head from a file that has one or has none. What names and shapes leave open comes from the JSON
/// file beside it, then from `flags`.
///
/// # Errors
/// [`Error::File`] and [`Error::Input`] for everything that is wrong with them.
pub fn load_backbone(path: &Path, flags: &NetworkFlags) -> Result<Backbone> {
    Ok(Backbone { network: Network::load(path, flags)?.headless()? })
}

/// Writes the weights of `spec` without its head under their published names, and beside them, as JSON, what these do not say:
/// the name of the network, a transformer's heads and norms, and what `hints` has, the input normalisation above all. `weights`
/// are those of the network with its head or without.
///
/// # Errors
/// [`Error::Argument`] if they are not, [`Error::Write`] if a file cannot be written.
pub fn save_backbone(path: &Path, spec: &ModelSpec, weights: &Weights, hints: &Hints) -> Result<()> {
    let plan = spec.plan().headless();
    weights.first(&plan.params)?.save(path, &plan.params, &BTreeMap::new())?;
    let hints = Hints { classes: None, ..hints.clone().or(Hints::of(spec)) };
    let value = serde_json::to_value(&hints).map_err(|e| Error::file(Hints::path(path), e))?;
    crate::report::write_json(&Hints::path(path), &value)
}

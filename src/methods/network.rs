//! A network from a file, with everything that turns pixels into what it computes.

use std::path::{Path, PathBuf};

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use crate::data::Normalize;
use crate::data::images::CIFAR_10;
use crate::methods::training::scale_shift;
use crate::nn::{Checkpoint, Header, Hints, Identified, Model, ModelSpec, NormPlace, Plan, Weights, identify};
use crate::ops::Act;
use crate::ops::elementwise::from_bytes;
use crate::{DType, Error, Result, Runtime, Tensor};

/// What the names and shapes of weights leave open.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkFlags {
    /// Name of the network, where the weights leave it open or to hold them against it: resnet20, `deit_tiny`
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Attention heads of a ViT
    #[arg(long, value_name = "H")]
    pub heads: Option<usize>,
    /// Where a ViT's norms stand: pre or post
    #[arg(long, value_name = "pre|post", value_parser = word::<NormPlace>)]
    pub norm: Option<NormPlace>,
    /// Activation of a ViT's MLP: relu, gelu ...
    #[arg(long, value_name = "relu|gelu", value_parser = word::<Act>)]
    pub act: Option<Act>,
    /// Input normalisation: imagenet, cifar, unit, or means/deviations by channel, 0.5,0.5,0.5/0.2,0.2,0.2
    #[arg(long, value_name = "imagenet|cifar|unit|MEAN/STD", value_parser = normalization)]
    pub normalize: Option<String>,
}

/// A word as the field's own type reads it.
pub(crate) fn word<T: serde::de::DeserializeOwned>(text: &str) -> std::result::Result<T, String> {
    let word: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    T::deserialize(word).map_err(|e| e.to_string())
}

/// An input normalisation, checked here and kept as text for [`Hints`].
pub(crate) fn normalization(text: &str) -> Result<String> {
    text.parse::<Normalize>().map(|n| n.to_string())
}

impl NetworkFlags {
    /// Reads a network off a header, the JSON file beside it, and these flags.
    ///
    /// # Errors
    /// As [`Hints::beside`] and [`identify`].
    pub fn identify(&self, header: &Header) -> Result<Identified> {
        let flags = Hints {
            arch: self.arch.clone(),
            heads: self.heads,
            norm: self.norm,
            act: self.act,
            normalize: self.normalize.clone(),
            ..Hints::default()
        };
        identify(header, &Hints::beside(header.path())?.or(flags))
    }
}

/// A network read from a file, still on the host.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    path: PathBuf,
    /// Of 0 classes if the file has no head.
    pub(crate) spec: ModelSpec,
    /// Without a head if the file has none.
    pub(crate) plan: Plan,
    pub(crate) weights: Weights,
    pub(crate) normalize: Normalize,
    /// Names of the classes, if they are known.
    pub(crate) classes: Option<Vec<String>>,
    /// Mean and deviation by channel.
    pub(crate) mean_std: (Vec<f32>, Vec<f32>),
}

impl Network {
    /// Reads weights, with a head or without, and what they leave open from beside them and from `flags`.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with them.
    pub(crate) fn load(path: &Path, flags: &NetworkFlags) -> Result<Self> {
        let checkpoint = Checkpoint::read(path)?;
        let found = flags.identify(checkpoint.header())?;
        let classes = found.classes.clone();
        let (spec, normalize) = found.settled()?;
        let plan = checkpoint.header().plan(&spec);
        let weights = checkpoint.load(&plan.params, &spec.to_string())?;
        let normalize: Normalize = normalize.parse()?;
        let mean_std = normalize.mean_std(spec.channels())?;
        let network = Self { path: path.to_path_buf(), spec, plan, weights, normalize, classes: None, mean_std };
        if !network.plan.has_head {
            return network.headless();
        }
        // The published weights of this layout are CIFAR-10's.
        let is_cifar =
            matches!(&network.spec, ModelSpec::ResNet(s) if s.is_cifar_layout() && s.classes == CIFAR_10.len());
        let classes = classes.or_else(|| is_cifar.then(|| CIFAR_10.map(String::from).to_vec()));
        Ok(Self { classes, ..network })
    }

    /// The same network without its head.
    ///
    /// # Errors
    /// [`Error::Argument`] if the weights are not the plan's.
    pub(crate) fn headless(self) -> Result<Self> {
        let plan = self.plan.headless();
        let (weights, mut spec) = (self.weights.first(&plan.params)?, self.spec);
        spec.set_classes(0);
        Ok(Self { spec, plan, weights, classes: None, ..self })
    }

    /// Finds out whether the network tells classes apart.
    ///
    /// # Errors
    /// [`Error::File`] if the file has no head.
    pub(crate) fn need_head(&self) -> Result<()> {
        need_head(&self.path, &self.spec, &self.plan)
    }
}

/// An error if a file that holds the tensors of `plan` has no head.
pub(crate) fn need_head(path: &Path, spec: &ModelSpec, plan: &Plan) -> Result<()> {
    if plan.has_head {
        return Ok(());
    }
    let (kind, n) = (spec.kind(), plan.n_features());
    let message =
        format!("{kind}'s backbone without the last layer: it gives {n} features, no classes; ssl eval judges them");
    Err(Error::file(path, message))
}

/// A network on a device that takes pixels.
#[derive(Debug, Clone)]
pub(crate) struct PixelNetwork {
    model: Model,
    /// `pixel * scale + shift` by channel, `[c]` each.
    scale: Tensor,
    shift: Tensor,
}

impl PixelNetwork {
    /// The network with its batch norms folded.
    pub(crate) fn new(runtime: &Runtime, network: &Network) -> Result<Self> {
        let (scale, shift) = scale_shift(runtime, &network.mean_std)?;
        let (plan, weights) = network.plan.fold(&network.weights)?;
        Ok(Self { model: Model::from_plan(runtime, &network.spec, plan, &weights)?, scale, shift })
    }

    /// Logits `[n, classes]` of u8 images `[n, h, w, c]`, normalised on the device; features `[n, d]` without a head.
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.model.forward(&from_bytes(images, &self.scale, &self.shift, DType::F32)?)
    }

    /// The network.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// Factor and summand of pixels by channel.
    pub(crate) fn scale_shift(&self) -> (&Tensor, &Tensor) {
        (&self.scale, &self.shift)
    }
}

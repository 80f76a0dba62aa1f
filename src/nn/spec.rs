//! The networks known here, by name and as data.

use std::fmt;

use super::mlp::MlpSpec;
use super::mnist_cnn::MnistCnnSpec;
use super::mobilenet::MobileNetV2Spec;
use super::plan::{NormPlace, Plan};
use super::resnet::{ResNetSpec, Stem};
use super::text::TextSpec;
use super::vit::VitSpec;
use crate::{Error, Result};

/// A network as data: everything but its weights.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelSpec {
    /// Residual network, of the CIFAR or the ImageNet kind.
    ResNet(ResNetSpec),
    /// MobileNetV2.
    MobileNetV2(MobileNetV2Spec),
    /// Vision transformer.
    Vit(Box<VitSpec>),
    /// Language model.
    Text(Box<TextSpec>),
    /// The small CNN for MNIST.
    MnistCnn(MnistCnnSpec),
    /// A perceptron over vectors, which stands for no whole network.
    Mlp(MlpSpec),
}

/// What [`ModelSpec::by_name`] takes, for help texts and errors.
pub const ARCH_NAMES: &str = "resnet20|32|44|56|110 (any 6n+2; cifar_resnet50 and so on where the depth is also one of \
     ImageNet's), resnet10|18|34|50|101|152, mobilenet_v2, each with _cifar for the 32-pixel stem; deit_tiny|small|base; \
     vit_small32; mnist_cnn; and _x0.5 behind a convolutional one for its width";

impl ModelSpec {
    /// The network called `name`, with its usual number of classes: [`ARCH_NAMES`]. Case does not matter, `-` stands for
    /// `_`, and timm's `_patch16_224` may follow.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none of this name.
    pub fn by_name(name: &str) -> Result<Self> {
        let lower = name.to_lowercase().replace('-', "_").replace("resnet_", "resnet");
        let unknown = || Error::Input(format!("no network is called {name:?}; there are {ARCH_NAMES}"));
        let (rest, width) = match lower.rsplit_once("_x") {
            Some((rest, width)) => {
                (rest, width.parse().ok().filter(|w| (0.01..=16.0).contains(w)).ok_or_else(unknown)?)
            }
            None => (lower.as_str(), 1.0),
        };
        let rest = rest.strip_suffix("_patch16_224").unwrap_or(rest);
        let (base, stem) = match rest.strip_suffix("_cifar") {
            Some(base) => (base, Stem::Cifar),
            None => (rest, Stem::ImageNet),
        };
        let depth =
            |prefix: &str| base.strip_prefix(prefix).and_then(|d| d.parse::<usize>().ok()).filter(|d| *d < 10_000);
        let cifar = |depth| ResNetSpec::cifar(depth, width).filter(|_| stem == Stem::ImageNet).map(Self::ResNet);
        let spec = if let Some(depth) = depth("cifar_resnet") {
            cifar(depth)
        } else if let Some(depth) = depth("resnet") {
            ResNetSpec::imagenet(depth, stem, width).map(Self::ResNet).or_else(|| cifar(depth))
        } else if matches!(base, "mobilenet_v2" | "mobilenetv2") {
            Some(Self::MobileNetV2(MobileNetV2Spec::new(stem, width)))
        } else if stem == Stem::ImageNet && width == 1.0 {
            match base {
                "deit_tiny" | "vit_tiny" => Some(VitSpec::timm(224, 16, 192, 12, 3, 1000)),
                "deit_small" | "vit_small" => Some(VitSpec::timm(224, 16, 384, 12, 6, 1000)),
                "deit_base" | "vit_base" => Some(VitSpec::timm(224, 16, 768, 12, 12, 1000)),
                "vit_small32" => Some(VitSpec::timm(32, 4, 96, 6, 3, 10)),
                _ => None,
            }
            .map(|s| Self::Vit(Box::new(s)))
            .or_else(|| (base == "mnist_cnn").then(|| Self::MnistCnn(MnistCnnSpec::default())))
        } else {
            None
        };
        spec.ok_or_else(unknown)
    }

    /// What [`ModelSpec::by_name`] calls a network of these layers, whatever its classes, channels and published names.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let sized = |base: String, factor: f64| if factor == 1.0 { base } else { format!("{base}_x{factor}") };
        let suffix = |stem| if stem == Stem::Cifar { "_cifar" } else { "" };
        let names = match self {
            Self::ResNet(s) if s.stages.len() == 3 => {
                ["", "cifar_"].map(|kind| sized(format!("{kind}resnet{}", s.depth()), s.width as f64 / 16.0)).to_vec()
            }
            Self::ResNet(s) => vec![sized(format!("resnet{}{}", s.depth(), suffix(s.stem)), s.width as f64 / 64.0)],
            Self::MobileNetV2(s) => vec![sized(format!("mobilenet_v2{}", suffix(s.stem)), s.first as f64 / 32.0)],
            Self::Vit(_) => ["deit_tiny", "deit_small", "deit_base", "vit_small32"].map(String::from).to_vec(),
            Self::MnistCnn(_) => vec!["mnist_cnn".into()],
            Self::Mlp(_) | Self::Text(_) => vec![],
        };
        names.into_iter().find(|name| Self::by_name(name).is_ok_and(|named| named.is_like(self)))
    }

    /// Whether two networks are of the same layers, whatever their classes, channels and published names.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ResNet(a), Self::ResNet(b)) => {
                (&a.stages, a.width, a.block, a.stem) == (&b.stages, b.width, b.block, b.stem)
            }
            (Self::MobileNetV2(a), Self::MobileNetV2(b)) => {
                (a.first, a.widths, a.last, a.stem) == (b.first, b.widths, b.last, b.stem)
            }
            (Self::Vit(a), Self::Vit(b)) => {
                let size = |s: &VitSpec| (s.grid, s.patch, s.width, s.depth, s.heads, s.mlp);
                let kind = |s: &VitSpec| (s.norm, s.act, s.pool, s.qkv_bias);
                size(a) == size(b) && kind(a) == kind(b)
            }
            (Self::MnistCnn(a), Self::MnistCnn(b)) => (a.image, a.widths, a.hidden) == (b.image, b.widths, b.hidden),
            _ => false,
        }
    }

    /// Tensors and steps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        match self {
            Self::ResNet(s) => s.plan(),
            Self::MobileNetV2(s) => s.plan(),
            Self::Vit(s) => s.plan(),
            Self::Text(s) => s.plan(),
            Self::MnistCnn(s) => s.plan(),
            Self::Mlp(s) => s.plan(),
        }
    }

    /// Number of classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        match self {
            Self::ResNet(s) => s.classes,
            Self::MobileNetV2(s) => s.classes,
            Self::Vit(s) => s.classes,
            Self::Text(s) => s.classes.unwrap_or(0),
            Self::MnistCnn(s) => s.classes,
            Self::Mlp(s) => s.n_out(),
        }
    }

    /// Sets the number of classes; 0 for a network that is used without its head.
    pub fn set_classes(&mut self, n: usize) {
        match self {
            Self::ResNet(s) => s.classes = n,
            Self::MobileNetV2(s) => s.classes = n,
            Self::Vit(s) => s.classes = n,
            Self::Text(s) => s.classes = (n > 0).then_some(n),
            Self::MnistCnn(s) => s.classes = n,
            Self::Mlp(s) => s.layers.iter_mut().next_back().into_iter().for_each(|layer| layer.n_out = n),
        }
    }

    /// Sets the channels of the image; a language model has none.
    pub fn set_channels(&mut self, n: usize) {
        match self {
            Self::ResNet(s) => s.channels = n,
            Self::MobileNetV2(s) => s.channels = n,
            Self::Vit(s) => s.channels = n,
            Self::Text(_) => {}
            Self::MnistCnn(s) => s.channels = n,
            Self::Mlp(s) => s.n_in = n,
        }
    }

    /// Channels of the image; 1 for a language model.
    #[must_use]
    pub fn channels(&self) -> usize {
        match self {
            Self::ResNet(s) => s.channels,
            Self::MobileNetV2(s) => s.channels,
            Self::Vit(s) => s.channels,
            Self::Text(_) => 1,
            Self::MnistCnn(s) => s.channels,
            Self::Mlp(s) => s.n_in,
        }
    }

    /// Side of the image in pixels: the only one where the weights fix it, else the usual one. Of a language model the tokens of a
    /// text at most.
    #[must_use]
    pub fn image(&self) -> usize {
        let usual = |stem| if stem == Stem::ImageNet { 224 } else { 32 };
        match self {
            Self::ResNet(s) => usual(s.stem),
            Self::MobileNetV2(s) => usual(s.stem),
            Self::Vit(s) => s.image(),
            Self::Text(s) => s.positions - s.first_position.min(s.positions),
            Self::MnistCnn(s) => s.image,
            Self::Mlp(_) => 1,
        }
    }

    /// Whether the weights fix the side of the image.
    #[must_use]
    pub fn image_is_fixed(&self) -> bool {
        matches!(self, Self::Vit(_) | Self::MnistCnn(_) | Self::Mlp(_))
    }

    /// The kind of network with its article, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ResNet(_) => "a ResNet",
            Self::MobileNetV2(_) => "a MobileNetV2",
            Self::Vit(_) => "a ViT",
            Self::Text(_) => "a language model",
            Self::MnistCnn(_) => "an MNIST CNN",
            Self::Mlp(_) => "an MLP",
        }
    }

    /// The input normalisation that the known weights of this kind use, in the language of `--normalize`.
    #[must_use]
    pub fn known_normalization(&self) -> Option<&'static str> {
        match self {
            // The published CIFAR-10 weights use ImageNet's figures, as do torchvision's own.
            Self::ResNet(s) => (s.is_cifar_layout() || s.stem == Stem::ImageNet).then_some("imagenet"),
            Self::MobileNetV2(s) => (s.stem == Stem::ImageNet).then_some("imagenet"),
            Self::Vit(_) | Self::Text(_) | Self::Mlp(_) => None,
            Self::MnistCnn(_) => Some("0.1307/0.3081"),
        }
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = |stem| if stem == Stem::ImageNet { "" } else { ", CIFAR stem" };
        match self {
            Self::ResNet(s) => {
                let (kind, usual) = if s.stages.len() == 3 { ("CIFAR ", 16) } else { ("", 64) };
                write!(f, "{kind}ResNet-{}", s.depth())?;
                let n_channels = format!("{} channels", s.width);
                let parts = [if s.width == usual { "" } else { &n_channels }];
                parts.iter().filter(|p| !p.is_empty()).try_for_each(|p| write!(f, ", {p}"))?;
                if s.stages.len() != 3 {
                    f.write_str(stem(s.stem))?;
                }
            }
            Self::MobileNetV2(s) => write!(f, "MobileNetV2{}", stem(s.stem))?,
            Self::Vit(s) => {
                let norm = if s.norm == NormPlace::Pre { "pre-norm" } else { "post-norm" };
                let act = format!("{:?}", s.act).to_lowercase();
                let VitSpec { width, depth, heads, patch, .. } = &**s;
                write!(f, "ViT, width {width}, {depth} blocks, {heads} heads, {norm}, {act}, patch {patch}")?;
            }
            Self::Text(s) => {
                write!(f, "{s}")?;
                return s.classes.map_or(Ok(()), |n| write!(f, ", {n} classes"));
            }
            Self::MnistCnn(s) => write!(f, "MNIST CNN {:?}", s.widths)?,
            Self::Mlp(s) => {
                let widths: Vec<_> = s.layers.iter().map(|layer| layer.n_out).collect();
                return write!(f, "MLP {} to {widths:?}", s.n_in);
            }
        }
        match self.classes() {
            0 => f.write_str(", no head"),
            n => write!(f, ", {n} classes"),
        }
    }
}

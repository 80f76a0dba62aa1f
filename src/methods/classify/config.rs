//! The flags of `classify`; a field is a flag.

use std::path::PathBuf;

use serde::Serialize;

use crate::methods::training::TrainFlags;
use crate::methods::{NetworkFlags, normalization, word};
use crate::report::CommonFlags;

/// Supervised classification: train, evaluate, predict, describe
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "classify", version, arg_required_else_help = true)]
pub struct Config {
    /// Flags of every binary.
    #[command(flatten)]
    pub common: CommonFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `classify` does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Train a network from scratch, or go on with --resume
    Train(Box<TrainConfig>),
    /// Top-1 and top-5 of a network's weights on labelled images
    Eval(EvalConfig),
    /// The five likeliest classes of pictures
    Predict(PredictConfig),
    /// Shapes, parameters, multiply-adds and memory of a network; needs no GPU
    Info(InfoConfig),
}

/// `classify info`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct InfoConfig {
    /// Weights in safetensors; only the header is read
    #[arg(long, value_name = "FILE", required_unless_present = "arch")]
    pub weights: Option<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Number of classes, where --arch stands alone
    #[arg(long, value_name = "N", conflicts_with = "weights", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub classes: Option<u32>,
    /// Side of the image in pixels, where the weights do not fix it
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
}

/// What happens to training images on their way into the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A random crop of the image padded by an eighth of its side, flipped left to right half of the time.
    CropFlip,
    /// The crop alone.
    Crop,
    /// Nothing.
    None,
}

/// `classify train`. What is not given takes the usual value, or with --resume the run's.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct TrainConfig {
    /// The network: `resnet20`, `resnet18_cifar`, `vit_small32` ... [default: resnet20]
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Factor of a convolutional network's channels [default: 1]
    #[arg(long, value_name = "W")]
    pub width: Option<f64>,
    /// Labelled images: a CIFAR folder, IDX files, a folder of pictures by class, or `shapes` [default: shapes]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// Only so many training images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Only so many test images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub test_images: Option<u32>,
    /// Side in pixels that a folder's pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
    /// Input normalisation: imagenet, cifar, unit, or means/deviations by channel
    #[arg(long, value_name = "imagenet|cifar|unit|MEAN/STD", value_parser = normalization)]
    pub normalize: Option<String>,
    /// What happens to training images: crop-flip, crop or none [default: crop-flip; crop for grey images]
    #[arg(long, value_name = "WHAT", value_parser = word::<Augment>)]
    pub augment: Option<Augment>,
    /// Share of the target that goes to all classes alike [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// The recipe.
    #[command(flatten)]
    pub train: TrainFlags,
}

/// `classify eval`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct EvalConfig {
    /// Weights in safetensors
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The network.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Labelled images: a CIFAR folder, IDX files, a folder of pictures by class, or `shapes`
    #[arg(long, value_name = "PATH", default_value = "shapes")]
    pub data: String,
    /// Only so many images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Images at a time; chosen by the network's memory unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub batch: Option<u32>,
    /// Side in pixels that a folder's pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
}

/// `classify predict`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct PredictConfig {
    /// Weights in safetensors
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The network.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Side in pixels that pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
    /// Pictures: PNG, JPEG or WebP
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
}

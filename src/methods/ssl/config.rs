//! The flags of `ssl`; a field is a flag.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::embed::EmbedConfig;
use super::method::Method;
use crate::methods::NetworkFlags;
use crate::methods::training::TrainFlags;
use crate::report::CommonFlags;

/// Representation learning without labels, and distillation into small networks
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "ssl", version, arg_required_else_help = true)]
pub struct Config {
    /// Flags of every binary.
    #[command(flatten)]
    pub common: CommonFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `ssl` does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Train a backbone without labels, or go on with --resume
    Pretrain(Box<PretrainConfig>),
    /// Teach a small network what a large one sees, or go on with --resume
    Distill(Box<DistillConfig>),
    /// Judge the features of a network: k-NN by four protocols, linear probes
    Eval(Box<EvalConfig>),
    /// Write the features of a folder of pictures
    Embed(EmbedConfig),
}

/// How strongly a view differs from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// Crop and flip.
    Weak,
    /// Also colour jitter, grey and, on large images, blur.
    Strong,
}

/// The type of a memory bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BankPrecision {
    /// 32 bits.
    F32,
    /// 16 bits; sums are of 32.
    F16,
}

/// The first layers of the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StemChoice {
    /// For images of up to 64 pixels the one that keeps their size.
    Auto,
    /// Halves images at once, twice in a ResNet.
    Imagenet,
    /// Keeps the size.
    Cifar,
}

/// What pretraining and distillation have in common. What is not given takes the method's usual value, or with --resume the run's.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct SharedFlags {
    /// The backbone: `resnet18`, `resnet10`, `resnet20`, `mobilenet_v2`, `vit_small32` ... [default: resnet18]
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Factor of a convolutional network's channels [default: 1]
    #[arg(long, value_name = "W")]
    pub width: Option<f64>,
    /// The backbone's first layers: those of large or of small images [default: auto]
    #[arg(long, value_name = "auto|imagenet|cifar")]
    pub stem: Option<StemChoice>,
    /// Images to learn from: a CIFAR folder, IDX files, a folder of pictures with classes or without, or `shapes` [default: shapes]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// Labelled images that features are judged on, where --data has none
    #[arg(long, value_name = "PATH")]
    pub eval_data: Option<String>,
    /// Only so many images to learn from, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Only so many test images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub test_images: Option<u32>,
    /// Side in pixels that a folder's pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
    /// Skip pictures that cannot be read, and list them
    #[arg(long)]
    pub skip_bad: bool,
    /// Input normalisation: imagenet, cifar, unit, or means/deviations by channel
    #[arg(long, value_name = "imagenet|cifar|unit|MEAN/STD", value_parser = crate::methods::normalization)]
    pub normalize: Option<String>,
    /// Entries of the memory bank, a multiple of the batch; about a quarter of the images unless given
    #[arg(long, value_name = "M")]
    pub bank: Option<usize>,
    /// Type of the memory bank [default: f16 where the adapter has it]
    #[arg(long, value_name = "f32|f16")]
    pub bank_precision: Option<BankPrecision>,
    /// Least share of an image that a view shows [default: 0.2]
    #[arg(long, value_name = "SHARE")]
    pub crop_min: Option<f64>,
    /// How likely a strong view is blurred [default: 0.5; 0 up to 64 pixels]
    #[arg(long, value_name = "P")]
    pub blur: Option<f64>,
    /// How likely a strong view is solarized [default: 0]
    #[arg(long, value_name = "P")]
    pub solarize: Option<f64>,
    /// Pixels between pixels by a cubic, not linearly
    #[arg(long)]
    pub bicubic: bool,
    /// Write a sheet of views into the run's folder as views.png; not remembered by --resume
    #[arg(long)]
    pub show_views: bool,
    /// Epochs between two evaluations [default: a tenth of the run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "eval_every")]
    pub eval_epochs: Option<u32>,
    /// Also train linear probes on the features at the end; not remembered by --resume
    #[arg(long)]
    pub linear: bool,
    /// As the released code has it: a course by epochs, decay on norms and biases too
    #[arg(long)]
    pub paper_exact: bool,
    /// The recipe.
    #[command(flatten)]
    pub train: TrainFlags,
}

/// `ssl pretrain`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct PretrainConfig {
    /// The method [default: msf]
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,
    /// What all trainings share.
    #[command(flatten)]
    pub shared: SharedFlags,
    /// Neighbours that a target is the mean of [default: 5; 10 by labels]
    #[arg(long, value_name = "K")]
    pub topk: Option<usize>,
    /// Clusters of cmsf-km [default: one for 25 images]
    #[arg(long, value_name = "N")]
    pub clusters: Option<usize>,
    /// Temperature: of moco-v2 [default: 0.2], of the student in isd [default: 0.1]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Temperature of the teacher in isd [default: 0.01]
    #[arg(long, value_name = "T")]
    pub teacher_temperature: Option<f64>,
    /// Share of the labels that cmsf-semi knows [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub labels: Option<f64>,
    /// Confidence from which cmsf-semi believes a pseudo-label [default: 0.85]
    #[arg(long, value_name = "P")]
    pub threshold: Option<f64>,
    /// Views that go through the trained network [default: strong]
    #[arg(long, value_name = "weak|strong")]
    pub query_view: Option<Strength>,
    /// Views that give the targets [default: weak; strong for symmetric methods and moco-v2]
    #[arg(long, value_name = "weak|strong")]
    pub target_view: Option<Strength>,
    /// Hidden width of the heads [default: by the backbone's features]
    #[arg(long, value_name = "N")]
    pub head_hidden: Option<usize>,
    /// Output width of the heads, a multiple of 4 [default: by the backbone's features]
    #[arg(long, value_name = "N")]
    pub head_out: Option<usize>,
}

/// `ssl distill`.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct DistillConfig {
    /// The method: simreg, compress-1q or compress-2q [default: simreg]
    #[arg(long, value_name = "NAME", value_parser = distillation)]
    pub method: Option<Method>,
    /// Weights of the teacher in safetensors: of a training here, or a published network
    #[arg(long, value_name = "FILE")]
    pub teacher: Option<PathBuf>,
    /// What all trainings share.
    #[command(flatten)]
    pub shared: SharedFlags,
    /// Layers of simreg's head: 1, 2 or 4 [default: 4]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Temperature of compress [default: 0.04]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Look at so many fixed views of each image, the teacher's features of which are kept on disk; 0: new ones each epoch
    /// [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub teacher_views: Option<u32>,
    /// Folder for the teacher's features [default: the run's]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

fn distillation(text: &str) -> Result<Method, String> {
    match text {
        "simreg" => Ok(Method::Simreg),
        "compress-1q" => Ok(Method::Compress1q),
        "compress-2q" => Ok(Method::Compress2q),
        other => Err(format!("{other} is none of simreg, compress-1q and compress-2q")),
    }
}

/// What features are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Nearest neighbours, by four protocols.
    Knn,
    /// Linear probes.
    Linear,
    /// Both.
    All,
}

/// `ssl eval`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct EvalConfig {
    /// Weights in safetensors, with a head or without
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// The network.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Labelled images: a CIFAR folder, IDX files, a folder of pictures by class, or `shapes`
    #[arg(long, value_name = "PATH", default_value = "shapes")]
    pub data: String,
    /// Only so many training images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Only so many test images, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub test_images: Option<u32>,
    /// Side in pixels that a folder's pictures are made to; the network's own unless given
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub side: Option<u32>,
    /// What to judge by
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Protocol::Knn)]
    pub protocol: Protocol,
}

//! The flags of `finetune`; a field is a flag.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::method::Method;
use super::server::Storage;
use super::shots::{Classes, Shots};
use crate::methods::classify::Augment;
use crate::methods::training::TrainFlags;
use crate::methods::{NetworkFlags, word};
use crate::ops::basis::Law;
use crate::ops::quant::Bits;
use crate::report::CommonFlags;

/// Adaptation of large networks with few numbers: train, evaluate, export and serve adapters
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "finetune", version, arg_required_else_help = true)]
pub struct Config {
    /// Flags of every binary.
    #[command(flatten)]
    pub common: CommonFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `finetune` does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Train an adapter for a frozen network, or go on with --resume
    Train(Box<TrainConfig>),
    /// Judge an adapter on its network
    Eval(Box<EvalConfig>),
    /// Write an adapter as LoRA factors that other programs read, or the network with it merged in
    Export(Box<ExportConfig>),
    /// Keep a trained LoRA adapter in fewer numbers, in several ways, and say what each loses
    Compress(Box<CompressConfig>),
    /// Measure how fast many adapters are served, each image of a batch with its own
    ServeBench(Box<ServeBenchConfig>),
}

/// Bits of the frozen weights, in blocks of 64 that share a scale.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BaseBits {
    /// Floats of 32 bits.
    #[default]
    F32,
    /// Whole numbers of 8 bits.
    Int8,
    /// Whole numbers of 4 bits.
    Int4,
    /// `NormalFloat4`: 16 levels that suit weights.
    Nf4,
}

impl BaseBits {
    /// What they are called by the product that unpacks them.
    pub(super) fn packed(self) -> Option<Bits> {
        match self {
            Self::F32 => None,
            Self::Int8 => Some(Bits::Int8),
            Self::Int4 => Some(Bits::Int4),
            Self::Nf4 => Some(Bits::Nf4),
        }
    }
}

/// `finetune train`. What is not given takes the usual value, or with --resume the run's.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct TrainConfig {
    /// The network to adapt: weights in safetensors; or a network's name, `resnet20`, to train on random weights that are frozen
    #[arg(long, value_name = "FILE|NAME")]
    pub base: Option<String>,
    /// What weights leave open.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// How it is adapted [default: nola]
    #[arg(long, value_name = "METHOD")]
    pub method: Option<Method>,
    /// The law of random bases: uniform8, uniform24, sign, onehot or srht [default: uniform8]
    #[arg(long, value_name = "LAW", value_parser = word::<Law>)]
    pub basis: Option<Law>,
    /// Rank of low-rank factors [default: 4; 256 for vera]
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// Random bases of each factor; of the whole network with pranc [default: 64; 1000 for pranc]
    #[arg(long, value_name = "K")]
    pub k: Option<usize>,
    /// The branch of nola or lora counts alpha / rank times [default: 8]
    #[arg(long, value_name = "ALPHA")]
    pub alpha: Option<f64>,
    /// The layers to adapt: q, k, v, qv, qkv, proj, attention, mlp, conv, all, or parts of their names, with commas between [default: qv for lora, mlp of a ViT, else all]
    #[arg(long, value_name = "LAYERS")]
    pub targets: Option<String>,
    /// Labelled images: a CIFAR folder, IDX files, a folder of pictures by class, or `shapes`; for a language model, texts: E2E, SST-2, AG News, or a plain text [default: shapes]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
    /// Tokenizer of a language model: `tokenizer.json`, or llama2.c's; the one beside the weights unless given
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a text at most [default: 256, or what the model takes]
    #[arg(long, value_name = "N")]
    pub max_len: Option<usize>,
    /// Put what a text is about in front of it, where the data say: E2E's properties
    #[arg(long)]
    pub prompt: bool,
    /// Images of each class to learn from, drawn by the seed, or all of them [default: all]
    #[arg(long, value_name = "N|all")]
    pub shots: Option<Shots>,
    /// Only these classes: 5-9, or 0,3,7
    #[arg(long, value_name = "CLASSES")]
    pub classes: Option<Classes>,
    /// Share of each class that is judged by, where the data do not say [default: 0.5]
    #[arg(long, value_name = "SHARE")]
    pub holdout: Option<f64>,
    /// Runs, each with its own seed, images and first values: --seed, the next, and so on [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub seeds: Option<u32>,
    /// Begin with the network's own head, where the classes are its own; else a new one is trained
    #[arg(long)]
    pub keep_head: bool,
    /// Bits of a coefficient in the file: 32, 8, 4, 3 or 2 [default: 32]
    #[arg(long, value_name = "BITS")]
    pub bits: Option<u32>,
    /// Train with coefficients rounded to --bits, gradients passed straight through
    #[arg(long)]
    pub qat: bool,
    /// Bits of the frozen weights [default: f32]
    #[arg(long, value_name = "f32|int8|int4|nf4")]
    pub base_bits: Option<BaseBits>,
    /// Only so many training images or texts, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Only so many test images or texts, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub test_images: Option<u32>,
    /// What happens to training images: crop-flip, crop or none [default: crop-flip; crop for grey images]
    #[arg(long, value_name = "WHAT", value_parser = word::<Augment>)]
    pub augment: Option<Augment>,
    /// Share of the target that goes to all classes alike [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub label_smoothing: Option<f64>,
    /// The recipe.
    #[command(flatten)]
    pub train: TrainFlags,
}

/// `finetune eval`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct EvalConfig {
    /// The network the adapter belongs to, as in training
    #[arg(long, value_name = "FILE|NAME")]
    pub base: String,
    /// What weights leave open.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// The adapter
    #[arg(long, value_name = "FILE")]
    pub adapter: PathBuf,
    /// Labelled images: a CIFAR folder, IDX files, a folder of pictures by class, or `shapes`; texts for a language model
    #[arg(long, value_name = "PATH", default_value = "shapes")]
    pub data: String,
    /// Tokenizer of a language model; the one beside the weights unless given
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a text at most
    #[arg(long, value_name = "N")]
    pub max_len: Option<usize>,
    /// Put what a text is about in front of it, as in training
    #[arg(long)]
    pub prompt: bool,
    /// Only these classes: 5-9, or 0,3,7
    #[arg(long, value_name = "CLASSES")]
    pub classes: Option<Classes>,
    /// Share of each class that is judged by, where the data do not say; the training's unless given
    #[arg(long, value_name = "SHARE")]
    pub holdout: Option<f64>,
    /// Only so many images or texts, the first ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub images: Option<u32>,
    /// Round the coefficients to so many bits: 8, 4, 3 or 2
    #[arg(long, value_name = "BITS")]
    pub bits: Option<u32>,
    /// Bits of the frozen weights
    #[arg(long, value_name = "f32|int8|int4|nf4", default_value = "f32")]
    pub base_bits: BaseBits,
    /// Merge the adapter into the weights first
    #[arg(long)]
    pub merged: bool,
}

/// What an adapter is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExportKind {
    /// LoRA factors in peft's files and names.
    Lora,
    /// The network's weights with the adapter merged in, under its own names.
    Merged,
}

/// `finetune export`; the folder is --out's.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct ExportConfig {
    /// The network the adapter belongs to, as in training
    #[arg(long, value_name = "FILE|NAME")]
    pub base: String,
    /// What weights leave open.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// The adapter
    #[arg(long, value_name = "FILE")]
    pub adapter: PathBuf,
    /// What it is written as: lora or merged
    #[arg(long = "as", value_name = "lora|merged")]
    pub kind: ExportKind,
}

/// `finetune compress`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CompressConfig {
    /// The adapter: a folder or file of peft's, or a file with the names of LoRA's authors
    #[arg(long, value_name = "PATH")]
    pub adapter: PathBuf,
    /// Random bases of each factor, with commas between
    #[arg(long, value_name = "K,..", value_delimiter = ',', default_value = "64,256,768,1536")]
    pub k: Vec<usize>,
    /// Ranks of the mixtures, with commas between [default: the adapter's]
    #[arg(long, value_name = "R,..", value_delimiter = ',')]
    pub rank: Vec<usize>,
    /// The law of random bases: uniform8, uniform24, sign, onehot or srht
    #[arg(long, value_name = "LAW", value_parser = word::<Law>, default_value = "uniform8")]
    pub basis: Law,
}

/// `finetune serve-bench`.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct ServeBenchConfig {
    /// The network: weights in safetensors, or a network's name
    #[arg(long, value_name = "FILE|NAME", default_value = "vit_small32")]
    pub base: String,
    /// What weights leave open.
    #[command(flatten)]
    pub network: NetworkFlags,
    /// Adapters that are resident, with random numbers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub adapters: usize,
    /// Images in a batch, each with its own adapter
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub batch: usize,
    /// Adapters whose factors are kept
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub places: usize,
    /// Batches of random adapters
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub batches: usize,
    /// How coefficients are kept: f32 or int8
    #[arg(long, value_name = "f32|int8", default_value = "f32")]
    pub storage: Storage,
    /// Bits of the frozen weights
    #[arg(long, value_name = "f32|int8|int4|nf4", default_value = "f32")]
    pub base_bits: BaseBits,
    /// The law of random bases: uniform8, uniform24, sign, onehot or srht
    #[arg(long, value_name = "LAW", value_parser = word::<Law>, default_value = "uniform8")]
    pub basis: Law,
    /// Rank of low-rank factors
    #[arg(long, value_name = "R", default_value_t = 4)]
    pub rank: usize,
    /// Random bases of each factor
    #[arg(long, value_name = "K", default_value_t = 64)]
    pub k: usize,
    /// The branch counts alpha / rank times
    #[arg(long, value_name = "ALPHA", default_value_t = 8.0)]
    pub alpha: f64,
    /// The layers to adapt, as in training
    #[arg(long, value_name = "LAYERS", default_value = "mlp")]
    pub targets: String,
}

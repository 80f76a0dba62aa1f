//! burn's ResNet-20 for 32 x 32 images, trained with SGD and momentum.

use super::{BurnStep, CLASSES, Network};
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use burn::tensor::activation::relu;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor, s};

/// Blocks of each of the three stages: 6 n + 2 layers.
const BLOCKS: usize = 3;

/// Two 3 x 3 convolutions with batch norm around a shortcut without parameters.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
    /// Channels that the shortcut gains on either side.
    widen: usize,
}

fn conv(device: &Device, channels: [usize; 2], stride: usize) -> Conv2d {
    Conv2dConfig::new(channels, [3, 3])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
        .init(device)
}

fn norm(device: &Device, channels: usize) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

impl Block {
    fn new(device: &Device, from: usize, to: usize) -> Self {
        let stride = if from == to { 1 } else { 2 };
        Self {
            conv1: conv(device, [from, to], stride),
            norm1: norm(device, to),
            conv2: conv(device, [to, to], 1),
            norm2: norm(device, to),
            widen: (to - from) / 2,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.norm1.forward(self.conv1.forward(x.clone())));
        let y = self.norm2.forward(self.conv2.forward(y));
        // Option A: every other pixel, and channels of zeros.
        let x = match self.widen {
            0 => x,
            n => x.slice(s![.., .., ..;2, ..;2]).pad([(0, 0), (n, n), (0, 0), (0, 0)], PadMode::Constant(0.0)),
        };
        relu(x + y)
    }
}

/// ResNet-20: a stem of 16 channels, three stages of 16, 32 and 64 channels, a linear layer on the means.
#[derive(Module, Debug)]
struct ResNet {
    stem: Conv2d,
    norm: BatchNorm,
    blocks: Vec<Block>,
    head: Linear,
}

impl ResNet {
    fn new(device: &Device) -> Self {
        let mut channels = 16;
        let mut blocks = Vec::new();
        for stage in [16, 32, 64] {
            for _ in 0..BLOCKS {
                blocks.push(Block::new(device, channels, stage));
                channels = stage;
            }
        }
        Self {
            stem: conv(device, [3, 16], 1),
            norm: norm(device, 16),
            blocks,
            head: LinearConfig::new(channels, CLASSES).init(device),
        }
    }
}

impl Network for ResNet {
    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        let x = relu(self.norm.forward(self.stem.forward(images)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let [n, channels, ..] = x.dims();
        self.head.forward(x.reshape([n, channels, 64]).mean_dim(2).reshape([n, channels]))
    }
}

/// A step with momentum 0.9.
pub(super) fn step(device: &Device) -> BurnStep<impl Network + use<>> {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    BurnStep::new(device, ResNet::new(device), optimizer, 0.1)
}

//! burn's ViT of one block for 32 x 32 images: 64 patches of 4 x 4, width 192, 3 heads, MLP 768, trained with Adam.

use super::{BurnStep, CLASSES, Network};
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::AdamConfig;
use burn::tensor::activation::gelu;
use burn::tensor::module::attention;
use burn::tensor::{Device, Tensor};

const PATCH: usize = 4;
const TOKENS: usize = 64;
const WIDTH: usize = 192;
const HEADS: usize = 3;
const HIDDEN: usize = 768;

/// Pre-norm, with the mean over the patches in front of the classifier.
#[derive(Module, Debug)]
struct Vit {
    patches: Conv2d,
    positions: Param<Tensor<3>>,
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    head: Linear,
}

impl Vit {
    fn new(device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let norm = || LayerNormConfig::new(WIDTH).init(device);
        Self {
            patches: Conv2dConfig::new([3, WIDTH], [PATCH, PATCH]).with_stride([PATCH, PATCH]).init(device),
            positions: Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, TOKENS, WIDTH], device),
            norm1: norm(),
            qkv: linear(WIDTH, 3 * WIDTH),
            out: linear(WIDTH, WIDTH),
            norm2: norm(),
            up: linear(WIDTH, HIDDEN),
            down: linear(HIDDEN, WIDTH),
            norm: norm(),
            head: linear(WIDTH, CLASSES),
        }
    }

    fn attention(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, ..] = x.dims();
        let qkv = self.qkv.forward(x).reshape([n, TOKENS, 3 * HEADS, WIDTH / HEADS]).swap_dims(1, 2);
        let part = |i: usize| qkv.clone().narrow(1, i * HEADS, HEADS);
        let mixed = attention(part(0), part(1), part(2), None, None, Default::default());
        self.out.forward(mixed.swap_dims(1, 2).reshape([n, TOKENS, WIDTH]))
    }
}

impl Network for Vit {
    fn logits(&self, images: Tensor<4>) -> Tensor<2> {
        let [n, ..] = images.dims();
        let x = self.patches.forward(images).reshape([n, WIDTH, TOKENS]).swap_dims(1, 2) + self.positions.val();
        let x = x.clone() + self.attention(self.norm1.forward(x));
        let x = x.clone() + self.down.forward(gelu(self.up.forward(self.norm2.forward(x))));
        self.head.forward(self.norm.forward(x).mean_dim(1).reshape([n, WIDTH]))
    }
}

/// A step with Adam's usual settings.
pub(super) fn step(device: &Device) -> BurnStep<impl Network + use<>> {
    BurnStep::new(device, Vit::new(device), AdamConfig::new().init(), 1e-3)
}

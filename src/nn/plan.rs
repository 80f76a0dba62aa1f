//! A network as data: its tensors and the steps that use them. Parameter tables, `classify info` and the forward pass
//! all walk the same plan.

use serde::{Deserialize, Serialize};

use super::param::{ParamId, ParamKind, ParamList};
use super::text::TextPlan;
use crate::ops::Act;

/// A network's tensors and steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every tensor, in the order of the layers.
    pub params: ParamList,
    /// What happens to an image or a text.
    pub body: Body,
    /// Whether the last linear layer gives logits; without, the network ends in features.
    pub has_head: bool,
}

impl Plan {
    /// The last linear layer, which gives the logits.
    #[must_use]
    pub fn head(&self) -> Option<&Linear> {
        match &self.body {
            Body::Conv(steps) => match steps.last() {
                Some(Step::Linear(head)) if self.has_head => Some(head),
                _ => None,
            },
            Body::Vit(vit) => vit.head.as_ref(),
            Body::Text(text) => text.head.as_ref(),
        }
    }

    /// The same network without its head, whose tensors are the last of the list: it ends in features.
    #[must_use]
    pub fn headless(&self) -> Self {
        let Some(head) = self.head() else { return self.clone() };
        let norm = head.norm.iter().flat_map(|norm| [norm.gain, norm.bias, norm.mean, norm.var]);
        let n_head = 1 + usize::from(head.bias.is_some()) + norm.count();
        let params = self.params.first(self.params.len() - n_head);
        let body = match &self.body {
            Body::Conv(steps) => Body::Conv(steps[..steps.len() - 1].to_vec()),
            Body::Vit(vit) => Body::Vit(Box::new(VitPlan { head: None, ..(**vit).clone() })),
            Body::Text(text) => Body::Text(Box::new(TextPlan { head: None, ..(**text).clone() })),
        };
        Self { params, body, has_head: false }
    }

    /// Length of the features that the head sees, or would see.
    #[must_use]
    pub fn n_features(&self) -> usize {
        match (self.head(), &self.body) {
            (Some(head), _) => head.n_in,
            (None, Body::Conv(steps)) => steps.iter().rev().find_map(Step::n_out).unwrap_or(0),
            (None, Body::Vit(vit)) => vit.patch.n_out,
            (None, Body::Text(text)) => text.width,
        }
    }
}

/// The kinds of network.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Steps over feature maps `[n, h, w, c]`.
    Conv(Vec<Step>),
    /// A vision transformer over tokens `[T, width]`.
    Vit(Box<VitPlan>),
    /// A language model over tokens `[T]`.
    Text(Box<TextPlan>),
}

/// A step over feature maps `[n, h, w, c]`, or vectors `[n, c]` behind [`Step::GlobalAvgPool`] and [`Step::Flatten`].
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Convolution, then batch norm if it has one, then activation.
    Conv(Conv),
    /// A batch norm that no convolution directly precedes.
    Norm(Norm),
    /// Maximum over windows.
    MaxPool(Pool),
    /// Mean over all pixels: `[n, h, w, c]` to `[n, c]`.
    GlobalAvgPool,
    /// `[n, h, w, c]` to `[n, h w c]`; the next [`Linear`]'s weight is of [`ParamKind::FlattenedWeight`].
    Flatten,
    /// Linear layer, then batch norm if it has one, then activation.
    Linear(Linear),
    /// Steps around which the input is added back.
    Residual(Residual),
}

impl Step {
    /// Output channels of a step that has weights for them.
    fn n_out(&self) -> Option<usize> {
        match self {
            Self::Conv(conv) => Some(conv.n_out),
            Self::Linear(linear) => Some(linear.n_out),
            Self::Residual(residual) => residual.body.iter().rev().find_map(Self::n_out),
            Self::Norm(_) | Self::MaxPool(_) | Self::GlobalAvgPool | Self::Flatten => None,
        }
    }
}

/// A convolution over `[n, h, w, in_channels]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Published name, without `.weight`.
    pub name: String,
    /// `[out, in / groups, kernel, kernel]` as published.
    pub weight: ParamId,
    /// `[out]`.
    pub bias: Option<ParamId>,
    /// Input channels.
    pub n_in: usize,
    /// Output channels.
    pub n_out: usize,
    /// Window side in pixels.
    pub kernel: usize,
    /// Step of the window in pixels.
    pub stride: usize,
    /// Zeros around the image in pixels.
    pub padding: usize,
    /// Groups of channels that do not mix; `n_in` of them is a depthwise convolution.
    pub groups: usize,
    /// Batch norm behind it.
    pub norm: Option<Norm>,
    /// Act behind all of it.
    pub act: Act,
}

/// Batch norm over the last axis, with running statistics of shape `[c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Published name, without `.weight`.
    pub name: String,
    /// Factor `[c]`.
    pub gain: ParamId,
    /// Summand `[c]`.
    pub bias: ParamId,
    /// Running mean `[c]`.
    pub mean: ParamId,
    /// Running variance `[c]`.
    pub var: ParamId,
    /// Added to the variance.
    pub eps: f32,
}

/// A square window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Window side in pixels.
    pub kernel: usize,
    /// Step of the window in pixels.
    pub stride: usize,
    /// Border in pixels that never wins.
    pub padding: usize,
}

/// A linear layer `[.., n_in]` to `[.., n_out]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Published name, without `.weight`.
    pub name: String,
    /// `[n_out, n_in]` as published.
    pub weight: ParamId,
    /// `[n_out]`.
    pub bias: Option<ParamId>,
    /// Input width.
    pub n_in: usize,
    /// Output width.
    pub n_out: usize,
    /// Batch norm behind it.
    pub norm: Option<Norm>,
    /// Act behind all of it.
    pub act: Act,
}

/// `act(body(x) + shortcut(x))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Residual {
    /// Published name of the block.
    pub name: String,
    /// The branch with the weights.
    pub body: Vec<Step>,
    /// The other branch.
    pub shortcut: Shortcut,
    /// Act behind the sum.
    pub act: Act,
}

/// The branch of a [`Residual`] that carries the input on.
#[derive(Debug, Clone, PartialEq)]
pub enum Shortcut {
    /// The input itself.
    Identity,
    /// Every `stride`-th pixel, with `before` zero channels in front and `after` behind.
    Pad {
        /// Step in pixels.
        stride: usize,
        /// Zero channels in front.
        before: usize,
        /// Zero channels behind.
        after: usize,
    },
    /// A strided 1x1 convolution with its norm.
    Project(Conv),
}

/// A vision transformer: patches to tokens, blocks, norm, head.
#[derive(Debug, Clone, PartialEq)]
pub struct VitPlan {
    /// Patches to tokens, `kernel == stride`.
    pub patch: Conv,
    /// `[1, 1, width]`, put in front.
    pub class_token: Option<ParamId>,
    /// `[1, tokens, width]`, class token included.
    pub position: ParamId,
    /// Encoder blocks.
    pub blocks: Vec<VitBlock>,
    /// Attention heads per block.
    pub heads: usize,
    /// Where the blocks' norms stand.
    pub norm_place: NormPlace,
    /// What the head sees.
    pub pool: TokenPool,
    /// Norm behind the blocks.
    pub norm: Option<LayerNorm>,
    /// Tokens to logits.
    pub head: Option<Linear>,
}

/// Where a transformer block's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// `x + f(norm(x))`.
    Pre,
    /// `norm(x + f(x))`.
    Post,
}

/// What a transformer's head sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPool {
    /// The class token: norm over all tokens, then the first.
    Class,
    /// The mean of the patch tokens, then the norm.
    Mean,
}

/// An encoder block.
#[derive(Debug, Clone, PartialEq)]
pub struct VitBlock {
    /// Published prefix, `blocks.0`.
    pub name: String,
    /// Norm of the attention branch.
    pub norm1: LayerNorm,
    /// Queries, keys and values.
    pub qkv: Qkv,
    /// Heads back to the width.
    pub proj: Linear,
    /// Norm of the MLP branch.
    pub norm2: LayerNorm,
    /// Width to hidden, with the activation.
    pub fc1: Linear,
    /// Hidden to width.
    pub fc2: Linear,
}

/// How queries, keys and values are published.
#[derive(Debug, Clone, PartialEq)]
pub enum Qkv {
    /// One weight `[3 width, width]`: q, k, v in this order, each by heads.
    Packed(Linear),
    /// Three weights `[width, width]`.
    Separate(Box<[Linear; 3]>),
}

/// Layer norm over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Published name, without `.weight`.
    pub name: String,
    /// Factor `[width]`.
    pub gain: ParamId,
    /// Summand `[width]`.
    pub bias: ParamId,
    /// Added to the variance.
    pub eps: f32,
}

/// Window of a convolution, for [`ParamList::conv`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) groups: usize,
}

impl Window {
    /// A window that keeps the image's size at stride 1.
    pub(crate) fn same(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: kernel / 2, groups: 1 }
    }
}

impl ParamList {
    /// A convolution without activation, its tensors added to the list.
    pub(crate) fn conv(&mut self, name: &str, n_in: usize, n_out: usize, window: Window, bias: bool) -> Conv {
        let Window { kernel, stride, padding, groups } = window;
        let shape = [n_out, n_in / groups, kernel, kernel];
        let weight = self.add(format!("{name}.weight"), shape, ParamKind::ConvWeight);
        let bias = bias.then(|| self.add(format!("{name}.bias"), [n_out], ParamKind::Bias));
        let (name, act) = (name.to_string(), Act::None);
        Conv { name, weight, bias, n_in, n_out, kernel, stride, padding, groups, norm: None, act }
    }

    /// A convolution without bias, then batch norm, then `act`.
    pub(crate) fn conv_norm(&mut self, names: [&str; 2], n: [usize; 2], window: Window, act: Act) -> Conv {
        let conv = self.conv(names[0], n[0], n[1], window, false);
        Conv { norm: Some(self.batch_norm(names[1], n[1])), act, ..conv }
    }

    /// A batch norm over `n` channels, eps 1e-5.
    pub(crate) fn batch_norm(&mut self, name: &str, n: usize) -> Norm {
        Norm {
            name: name.to_string(),
            gain: self.add(format!("{name}.weight"), [n], ParamKind::Gain),
            bias: self.add(format!("{name}.bias"), [n], ParamKind::NormBias),
            mean: self.add(format!("{name}.running_mean"), [n], ParamKind::RunningMean),
            var: self.add(format!("{name}.running_var"), [n], ParamKind::RunningVar),
            eps: 1e-5,
        }
    }

    /// A linear layer with bias and without activation.
    pub(crate) fn linear(&mut self, name: &str, n_in: usize, n_out: usize) -> Linear {
        let names = [format!("{name}.weight"), format!("{name}.bias")];
        self.linear_named(name, &names, n_in, n_out, true)
    }

    /// A linear layer whose weight and bias are published under names of their own.
    pub(crate) fn linear_named(
        &mut self,
        name: &str,
        names: &[String; 2],
        n_in: usize,
        n_out: usize,
        bias: bool,
    ) -> Linear {
        let weight = self.add(names[0].as_str(), [n_out, n_in], ParamKind::LinearWeight);
        let bias = bias.then(|| self.add(names[1].as_str(), [n_out], ParamKind::Bias));
        Linear { name: name.to_string(), weight, bias, n_in, n_out, norm: None, act: Act::None }
    }

    /// A layer norm over `width` values.
    pub(crate) fn layer_norm(&mut self, name: &str, width: usize, eps: f32) -> LayerNorm {
        let gain = self.add(format!("{name}.weight"), [width], ParamKind::Gain);
        let bias = self.add(format!("{name}.bias"), [width], ParamKind::NormBias);
        LayerNorm { name: name.to_string(), gain, bias, eps }
    }
}

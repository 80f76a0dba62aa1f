//! MobileNetV2 with torchvision's names: inverted residuals of depthwise convolutions.
//!
//! Sandler et al. 2018, arXiv 1801.04381, table 2.

use super::checkpoint::Header;
use super::param::ParamList;
use super::plan::{Body, Plan, Residual, Shortcut, Step, Window};
use super::resnet::Stem;
use crate::ops::Act;

/// Table 2: expansion, channels, blocks, stride of the first block.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// A MobileNetV2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MobileNetV2Spec {
    /// Channels of the first convolution.
    pub first: usize,
    /// Channels of the seven stages.
    pub widths: [usize; 7],
    /// Channels of the last convolution.
    pub last: usize,
    /// The ImageNet stem halves the image at the first convolution and at the second stage, the CIFAR one at neither.
    pub stem: Stem,
    /// Channels of the image.
    pub channels: usize,
    /// Number of classes.
    pub classes: usize,
}

/// The nearest multiple of 8 that is at least 8 and not below 0.9 of `channels`.
fn divisible(channels: f32) -> usize {
    let near = (((channels + 4.0) as usize) / 8 * 8).max(8);
    if (near as f32) < 0.9 * channels { near + 8 } else { near }
}

/// Index of the first block of each stage under `features`.
fn first_blocks() -> [usize; 7] {
    let mut next = 1;
    STAGES.map(|(_, _, n_blocks, _)| {
        next += n_blocks;
        next - n_blocks
    })
}

impl MobileNetV2Spec {
    /// Table 2 with every width times `width` and made divisible by 8; the last convolution never shrinks below 1280.
    /// 1000 classes behind the ImageNet stem, 10 behind the CIFAR one.
    #[must_use]
    pub fn new(stem: Stem, width: f32) -> Self {
        Self {
            first: divisible(32.0 * width),
            widths: STAGES.map(|(_, channels, _, _)| divisible(channels as f32 * width)),
            last: divisible(1280.0 * width.max(1.0)),
            stem,
            channels: 3,
            classes: if stem == Stem::ImageNet { 1000 } else { 10 },
        }
    }

    /// Reads the widths and classes off a header; the stem is in neither names nor shapes and stays as `stem` says.
    #[must_use]
    pub fn from_header(header: &Header, stem: Stem) -> Self {
        let default = Self::new(stem, 1.0);
        let mut widths = default.widths;
        for ((width, block), (expand, ..)) in widths.iter_mut().zip(first_blocks()).zip(STAGES) {
            // Each block ends in a projection and its norm; without an expansion they stand one place earlier.
            let project = if expand == 1 { 1 } else { 2 };
            let conv = format!("features.{block}.conv.{project}.weight");
            let norm = format!("features.{block}.conv.{}", project + 1);
            let (gain, bias) = (format!("{norm}.weight"), format!("{norm}.bias"));
            *width = header.vote(&[(conv.as_str(), 0), (&gain, 0), (&bias, 0)]).unwrap_or(*width);
        }
        let stem_width =
            header.vote(&[("features.0.0.weight", 0), ("features.0.1.weight", 0), ("features.0.1.bias", 0)]);
        let last = header.vote(&[("features.18.0.weight", 0), ("features.18.1.weight", 0), ("features.18.1.bias", 0)]);
        Self {
            first: stem_width.unwrap_or(default.first),
            widths,
            last: last.unwrap_or(default.last),
            stem,
            channels: header.vote(&[("features.0.0.weight", 1)]).unwrap_or(3),
            classes: header.classes("classifier.1").unwrap_or(default.classes),
        }
    }

    /// Tensors and steps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let p = &mut params;
        let halves = |stage: usize| !(self.stem == Stem::Cifar && stage <= 1);
        let stem_stride = if halves(0) { 2 } else { 1 };
        let mut steps = vec![conv(p, "features.0", 0, [self.channels, self.first], Window::same(3, stem_stride))];
        let (mut n_in, mut block) = (self.first, 1);
        for (stage, (expand, _, n_blocks, stride)) in STAGES.into_iter().enumerate() {
            for i in 0..n_blocks {
                let stride = if i == 0 && halves(stage) { stride } else { 1 };
                let name = format!("features.{block}");
                let body = inverted_residual(p, &name, [n_in, self.widths[stage]], stride, expand);
                if stride == 1 && n_in == self.widths[stage] {
                    let (shortcut, act) = (Shortcut::Identity, Act::None);
                    steps.push(Step::Residual(Residual { name, body, shortcut, act }));
                } else {
                    steps.extend(body);
                }
                n_in = self.widths[stage];
                block += 1;
            }
        }
        steps.push(conv(p, &format!("features.{block}"), 0, [n_in, self.last], Window::same(1, 1)));
        steps.push(Step::GlobalAvgPool);
        steps.push(Step::Linear(p.linear("classifier.1", self.last, self.classes)));
        Plan { params, body: Body::Conv(steps), has_head: true }
    }
}

/// Convolution `{name}.{at}`, norm `{name}.{at + 1}`, ReLU6.
fn conv(p: &mut ParamList, name: &str, at: usize, n: [usize; 2], window: Window) -> Step {
    let names = [format!("{name}.{at}"), format!("{name}.{}", at + 1)];
    Step::Conv(p.conv_norm([&names[0], &names[1]], n, window, Act::Relu6))
}

/// Expand (1x1, ReLU6), filter each channel (3x3, ReLU6), project (1x1, linear).
fn inverted_residual(p: &mut ParamList, name: &str, n: [usize; 2], stride: usize, expand: usize) -> Vec<Step> {
    let hidden = n[0] * expand;
    let mut body = Vec::new();
    if expand != 1 {
        body.push(conv(p, &format!("{name}.conv.0"), 0, [n[0], hidden], Window::same(1, 1)));
    }
    let depthwise = Window { groups: hidden, ..Window::same(3, stride) };
    body.push(conv(p, &format!("{name}.conv.{}", body.len()), 0, [hidden, hidden], depthwise));
    let names = [format!("{name}.conv.{}", body.len()), format!("{name}.conv.{}", body.len() + 1)];
    body.push(Step::Conv(p.conv_norm([&names[0], &names[1]], [hidden, n[1]], Window::same(1, 1), Act::None)));
    body
}

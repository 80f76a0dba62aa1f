//! Residual networks: CIFAR ResNets of depth 6n + 2 and ImageNet ResNets, with their published names.
//!
//! He et al. 2015, arXiv 1512.03385. The bottleneck has its stride on the 3x3 convolution (version 1.5), as the weights
//! in circulation do.

use super::checkpoint::Header;
use super::param::ParamList;
use super::plan::{Body, Plan, Pool, Residual, Shortcut, Step, Window};
use crate::ops::Act;

/// Stages read from a header: more would only overflow the widths, which double from one to the next.
const MAX_STAGES: usize = 8;

/// The first layers of a convolutional network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// Halves the image at once (and a ResNet's pools it again): for some 224 pixels a side.
    ImageNet,
    /// Keeps the image's size: for 32 pixels a side.
    Cifar,
}

/// The residual block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, the last four times as wide.
    Bottleneck,
}

impl Block {
    /// Output channels per inner channel.
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// The shortcut where a block changes the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortcutKind {
    /// No weights: every second pixel, zero channels half in front and half behind (option A).
    Pad,
    /// A strided 1x1 convolution with batch norm, published under this name (option B).
    Project(&'static str),
}

/// A ResNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResNetSpec {
    /// Blocks per stage; each stage after the first halves the image and doubles the channels.
    pub stages: Vec<usize>,
    /// Inner channels of the first stage.
    pub width: usize,
    /// The block.
    pub block: Block,
    /// The first layers.
    pub stem: Stem,
    /// The shortcut where the shape changes.
    pub shortcut: ShortcutKind,
    /// Published name of the last layer.
    pub head: &'static str,
    /// Channels of the image.
    pub channels: usize,
    /// Number of classes.
    pub classes: usize,
}

/// Width of a stage under a multiplier: rounded, at least 1.
fn scaled(channels: usize, multiplier: f32) -> usize {
    ((channels as f32 * multiplier).round() as usize).max(1)
}

impl ResNetSpec {
    /// The CIFAR ResNet of `depth` = 6n + 2 layers, 16, 32 and 64 channels times `width`, 10 classes, in the layout of
    /// its published weights; `None` for another depth.
    #[must_use]
    pub fn cifar(depth: usize, width: f32) -> Option<Self> {
        let blocks = depth.checked_sub(2).filter(|d| d % 6 == 0 && *d > 0)? / 6;
        Some(Self {
            stages: vec![blocks; 3],
            width: scaled(16, width),
            block: Block::Basic,
            stem: Stem::Cifar,
            shortcut: ShortcutKind::Pad,
            head: "linear",
            channels: 3,
            classes: 10,
        })
    }

    /// The ResNet of `depth` 10, 18, 34, 50, 101 or 152 with torchvision's names, 64 to 512 channels times `width`, 1000
    /// classes behind the ImageNet stem and 10 behind the CIFAR one; `None` for another depth.
    #[must_use]
    pub fn imagenet(depth: usize, stem: Stem, width: f32) -> Option<Self> {
        let (block, stages) = match depth {
            10 => (Block::Basic, [1, 1, 1, 1]),
            18 => (Block::Basic, [2, 2, 2, 2]),
            34 => (Block::Basic, [3, 4, 6, 3]),
            50 => (Block::Bottleneck, [3, 4, 6, 3]),
            101 => (Block::Bottleneck, [3, 4, 23, 3]),
            152 => (Block::Bottleneck, [3, 8, 36, 3]),
            _ => return None,
        };
        Some(Self {
            stages: stages.to_vec(),
            width: scaled(64, width),
            block,
            stem,
            shortcut: ShortcutKind::Project("downsample"),
            head: "fc",
            channels: 3,
            classes: if stem == Stem::ImageNet { 1000 } else { 10 },
        })
    }

    /// Reads depth, widths, stem, shortcut and classes off a header's names and shapes; what the header lacks takes
    /// the usual value, and loading says what is missing.
    #[must_use]
    pub fn from_header(header: &Header) -> Self {
        let stages: Vec<usize> = (1..=header.depth("layer").saturating_sub(1).min(MAX_STAGES))
            .map(|stage| header.depth(&format!("layer{stage}.")).max(1))
            .collect();
        let bottleneck = header.names().any(|n| n.starts_with("layer") && n.ends_with(".conv3.weight"));
        let has_stage_4 = stages.len() >= 4;
        let width = header.vote(&[
            ("layer1.0.conv1.weight", 0),
            ("layer1.0.bn1.weight", 0),
            ("layer1.0.bn1.bias", 0),
            ("layer1.0.bn1.running_mean", 0),
            ("layer1.0.conv2.weight", 1),
        ]);
        let shortcut = ["downsample", "shortcut"].into_iter().find(|s| {
            let part = format!(".{s}.");
            header.names().any(|n| n.starts_with("layer") && n.contains(&part))
        });
        let head = ["fc", "linear"].into_iter().find(|h| header.has_layer(h));
        let head = head.unwrap_or(if has_stage_4 { "fc" } else { "linear" });
        let classes = header.classes(head).unwrap_or(if has_stage_4 { 1000 } else { 10 });
        let kernel = header.vote(&[("conv1.weight", 2), ("conv1.weight", 3)]);
        Self {
            width: width.unwrap_or(if has_stage_4 { 64 } else { 16 }),
            block: if bottleneck { Block::Bottleneck } else { Block::Basic },
            stem: if kernel.map_or(classes == 1000, |k| k == 7) { Stem::ImageNet } else { Stem::Cifar },
            shortcut: shortcut.map_or(ShortcutKind::Pad, ShortcutKind::Project),
            head,
            channels: header.vote(&[("conv1.weight", 1)]).unwrap_or(3),
            classes,
            stages,
        }
    }

    /// Weighted layers on the longest path, as the networks are called.
    #[must_use]
    pub fn depth(&self) -> usize {
        let per_block = if self.block == Block::Basic { 2 } else { 3 };
        per_block * self.stages.iter().sum::<usize>() + 2
    }

    /// The three-stage layout with parameter-free shortcuts whose weights are published for CIFAR-10.
    #[must_use]
    pub fn is_cifar_layout(&self) -> bool {
        self.stages.len() == 3 && self.stem == Stem::Cifar && self.shortcut == ShortcutKind::Pad
    }

    /// Tensors and steps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let p = &mut params;
        let mut n_in = self.width;
        let window = match self.stem {
            Stem::ImageNet => Window::same(7, 2),
            Stem::Cifar => Window::same(3, 1),
        };
        let stem = p.conv_norm(["conv1", "bn1"], [self.channels, n_in], window, Act::Relu);
        let mut steps = vec![Step::Conv(stem)];
        if self.stem == Stem::ImageNet {
            steps.push(Step::MaxPool(Pool { kernel: 3, stride: 2, padding: 1 }));
        }
        for (stage, &n_blocks) in self.stages.iter().enumerate() {
            let width = self.width << stage;
            for block in 0..n_blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}", stage + 1);
                steps.push(Step::Residual(self.residual(p, name, [n_in, width], stride)));
                n_in = width * self.block.expansion();
            }
        }
        steps.push(Step::GlobalAvgPool);
        steps.push(Step::Linear(p.linear(self.head, n_in, self.classes)));
        Plan { params, body: Body::Conv(steps), has_head: true }
    }

    fn residual(&self, p: &mut ParamList, name: String, [n_in, width]: [usize; 2], stride: usize) -> Residual {
        let n_out = width * self.block.expansion();
        // kernel, output channels, stride of each convolution
        let convs: &[(usize, usize, usize)] = match self.block {
            Block::Basic => &[(3, width, stride), (3, width, 1)],
            Block::Bottleneck => &[(1, width, 1), (3, width, stride), (1, n_out, 1)],
        };
        let (mut body, mut n) = (Vec::new(), n_in);
        for (i, &(kernel, n_next, stride)) in convs.iter().enumerate() {
            let act = if i + 1 == convs.len() { Act::None } else { Act::Relu };
            let names = [format!("{name}.conv{}", i + 1), format!("{name}.bn{}", i + 1)];
            let window = Window::same(kernel, stride);
            body.push(Step::Conv(p.conv_norm([&names[0], &names[1]], [n, n_next], window, act)));
            n = n_next;
        }
        let shortcut = match self.shortcut {
            _ if stride == 1 && n_in == n_out => Shortcut::Identity,
            ShortcutKind::Pad => {
                let before = (n_out - n_in) / 2;
                Shortcut::Pad { stride, before, after: n_out - n_in - before }
            }
            ShortcutKind::Project(part) => {
                let names = [format!("{name}.{part}.0"), format!("{name}.{part}.1")];
                let window = Window::same(1, stride);
                Shortcut::Project(p.conv_norm([&names[0], &names[1]], [n_in, n_out], window, Act::None))
            }
        };
        Residual { name, body, shortcut, act: Act::Relu }
    }
}

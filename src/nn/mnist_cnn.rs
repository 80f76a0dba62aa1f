//! A small CNN for MNIST: three valid 3x3 convolutions, two linear layers, two batch norms.

use super::checkpoint::Header;
use super::param::{ParamKind, ParamList};
use super::plan::{Body, Conv, Linear, Plan, Step, Window};
use crate::ops::Act;

/// conv1, conv2, conv3 (each with bias and ReLU), `norm1`, flatten, `fc1` (ReLU), `fc2`, `norm2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MnistCnnSpec {
    /// Side of the image in pixels, at least 7.
    pub image: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Output channels of the convolutions.
    pub widths: [usize; 3],
    /// Outputs of `fc1`.
    pub hidden: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Default for MnistCnnSpec {
    fn default() -> Self {
        Self { image: 28, channels: 1, widths: [8, 16, 24], hidden: 32, classes: 10 }
    }
}

impl MnistCnnSpec {
    /// Reads the widths, the image's side and the classes off a header.
    #[must_use]
    pub fn from_header(header: &Header) -> Self {
        let default = Self::default();
        let width = |name: &str, usual: usize| {
            let names = [format!("{name}.weight"), format!("{name}.bias")];
            header.vote(&[(names[0].as_str(), 0), (&names[1], 0)]).unwrap_or(usual)
        };
        let widths = [
            width("conv1", default.widths[0]),
            width("conv2", default.widths[1]),
            width("conv3", width("norm1", default.widths[2])),
        ];
        let pixels = header.vote(&[("fc1.weight", 1)]).map(|n| n / widths[2]);
        let side = pixels.map(usize::isqrt).filter(|s| Some(s * s) == pixels && *s > 0);
        Self {
            image: side.map_or(default.image, |s| s + 6),
            channels: header.vote(&[("conv1.weight", 1)]).unwrap_or(default.channels),
            widths,
            hidden: width("fc1", default.hidden),
            classes: header.classes("fc2").unwrap_or(default.classes),
        }
    }

    /// Tensors and steps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let p = &mut params;
        let (mut steps, mut n_in) = (Vec::new(), self.channels);
        for (i, &n_out) in self.widths.iter().enumerate() {
            let window = Window { padding: 0, ..Window::same(3, 1) };
            let conv = p.conv(&format!("conv{}", i + 1), n_in, n_out, window, true);
            steps.push(Step::Conv(Conv { act: Act::Relu, ..conv }));
            n_in = n_out;
        }
        steps.push(Step::Norm(p.batch_norm("norm1", n_in)));
        steps.push(Step::Flatten);
        let side = self.image.saturating_sub(6);
        let kind = ParamKind::FlattenedWeight { channels: n_in };
        let n_flat = n_in * side * side;
        let fc1 = Linear {
            name: "fc1".into(),
            weight: p.add("fc1.weight", [self.hidden, n_flat], kind),
            bias: Some(p.add("fc1.bias", [self.hidden], ParamKind::Bias)),
            n_in: n_flat,
            n_out: self.hidden,
            norm: None,
            act: Act::Relu,
        };
        steps.push(Step::Linear(fc1));
        let fc2 = p.linear("fc2", self.hidden, self.classes);
        steps.push(Step::Linear(Linear { norm: Some(p.batch_norm("norm2", self.classes)), ..fc2 }));
        Plan { params, body: Body::Conv(steps), has_head: true }
    }
}

//! The layers of a network that an adapter can change.

use std::ops::Range;

use super::param::ParamId;
use super::plan::{Body, Conv, Linear, Plan, Qkv, Shortcut, Step, VitBlock};
use super::text::{TextBlock, TextPlan, TextQkv};

/// What a layer does in its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Queries of an attention.
    Query,
    /// Its keys.
    Key,
    /// Its values.
    Value,
    /// Its output.
    Projection,
    /// A layer of a block's MLP.
    Mlp,
    /// A convolution.
    Conv,
    /// A linear layer of a network that has no blocks, its head left out.
    Linear,
}

/// A layer that an adapter can change: a weight, or the columns of a weight that packs several layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The layer: its published name, with `q`, `k` or `v` in the place of a packed one's own: `blocks.0.attn.q`.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// The weight, on the device `[n_in, ..]` or, of a convolution, `[kh, kw, in, out]`.
    pub weight: ParamId,
    /// Its outputs among those of the weight.
    pub columns: Range<usize>,
    /// Outputs of the whole weight.
    pub n_packed: usize,
    /// Input width: of a convolution, all values under its window.
    pub n_in: usize,
}

impl Site {
    /// Output width.
    #[must_use]
    pub fn n_out(&self) -> usize {
        self.columns.len()
    }

    /// Whether it is all of its weight.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.columns.len() == self.n_packed
    }

    /// A linear layer with a weight of its own.
    pub(super) fn linear(layer: &Linear, role: Role) -> Self {
        Self {
            name: layer.name.clone(),
            role,
            weight: layer.weight,
            columns: 0..layer.n_out,
            n_packed: layer.n_out,
            n_in: layer.n_in,
        }
    }

    /// The queries, keys and values of a packed layer, of these widths; their names stand where the last part of the packed one's does.
    pub(super) fn packed(layer: &Linear, widths: [usize; 3]) -> [Self; 3] {
        let front = layer.name.rsplit_once('.').map_or("", |(front, _)| front);
        let mut start = 0;
        let parts = [("q", Role::Query), ("k", Role::Key), ("v", Role::Value)];
        std::array::from_fn(|i| {
            let columns = start..start + widths[i];
            start = columns.end;
            let name = if front.is_empty() { parts[i].0.to_string() } else { format!("{front}.{}", parts[i].0) };
            Self { name, role: parts[i].1, weight: layer.weight, columns, n_packed: layer.n_out, n_in: layer.n_in }
        })
    }
}

impl Plan {
    /// The layers that an adapter can change, in the order of the network; not its head, which is trained whole.
    #[must_use]
    pub fn sites(&self) -> Vec<Site> {
        let mut sites = Vec::new();
        match &self.body {
            Body::Conv(steps) => {
                let n = steps.len() - usize::from(self.head().is_some());
                of_steps(&steps[..n], &mut sites);
            }
            Body::Vit(vit) => vit.blocks.iter().for_each(|block| of_block(block, &mut sites)),
            Body::Text(text) => text.blocks.iter().for_each(|block| of_text_block(text, block, &mut sites)),
        }
        sites
    }
}

fn of_block(block: &VitBlock, sites: &mut Vec<Site>) {
    match &block.qkv {
        Qkv::Packed(qkv) => sites.extend(Site::packed(qkv, [qkv.n_out / 3; 3])),
        Qkv::Separate(layers) => {
            let roles = [Role::Query, Role::Key, Role::Value];
            sites.extend(layers.iter().zip(roles).map(|(layer, role)| Site::linear(layer, role)));
        }
    }
    sites.push(Site::linear(&block.proj, Role::Projection));
    sites.extend([&block.fc1, &block.fc2].map(|layer| Site::linear(layer, Role::Mlp)));
}

fn of_text_block(text: &TextPlan, block: &TextBlock, sites: &mut Vec<Site>) {
    match &block.qkv {
        TextQkv::Packed(qkv) => sites.extend(Site::packed(qkv, text.qkv_widths())),
        TextQkv::Separate(layers) => {
            let roles = [Role::Query, Role::Key, Role::Value];
            sites.extend(layers.iter().zip(roles).map(|(layer, role)| Site::linear(layer, role)));
        }
    }
    sites.push(Site::linear(&block.proj, Role::Projection));
    sites.extend(block.gate.iter().chain([&block.up, &block.down]).map(|layer| Site::linear(layer, Role::Mlp)));
}

fn of_steps(steps: &[Step], sites: &mut Vec<Site>) {
    for step in steps {
        match step {
            Step::Conv(conv) => sites.push(of_conv(conv)),
            Step::Linear(linear) => sites.push(Site::linear(linear, Role::Linear)),
            Step::Residual(residual) => {
                of_steps(&residual.body, sites);
                if let Shortcut::Project(conv) = &residual.shortcut {
                    sites.push(of_conv(conv));
                }
            }
            Step::Norm(_) | Step::MaxPool(_) | Step::GlobalAvgPool | Step::Flatten => {}
        }
    }
}

fn of_conv(conv: &Conv) -> Site {
    Site {
        name: conv.name.clone(),
        role: Role::Conv,
        weight: conv.weight,
        columns: 0..conv.n_out,
        n_packed: conv.n_out,
        n_in: conv.kernel * conv.kernel * conv.n_in / conv.groups,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::ModelSpec;

    #[test]
    fn a_vit_has_six_layers_to_a_block() {
        let plan = ModelSpec::by_name("vit_small32").unwrap().plan();
        let sites = plan.sites();
        assert_eq!(sites.len(), 36);
        let first: Vec<(&str, Role, usize, Range<usize>)> =
            sites[..6].iter().map(|s| (s.name.as_str(), s.role, s.n_in, s.columns.clone())).collect();
        let want = [
            ("blocks.0.attn.q", Role::Query, 96, 0..96),
            ("blocks.0.attn.k", Role::Key, 96, 96..192),
            ("blocks.0.attn.v", Role::Value, 96, 192..288),
            ("blocks.0.attn.proj", Role::Projection, 96, 0..96),
            ("blocks.0.mlp.fc1", Role::Mlp, 96, 0..384),
            ("blocks.0.mlp.fc2", Role::Mlp, 384, 0..96),
        ];
        assert_eq!(first, want);
        assert!(!sites[0].is_whole() && sites[3].is_whole());
        assert!(sites[..3].iter().all(|s| plan.params[s.weight].name == "blocks.0.attn.qkv.weight"));
    }

    #[test]
    fn a_resnet_has_its_convolutions() {
        let plan = ModelSpec::by_name("resnet20").unwrap().plan();
        let sites = plan.sites();
        assert_eq!(sites.len(), 19);
        for site in &sites {
            assert_eq!(plan.params[site.weight].len(), site.n_in * site.n_out(), "{}", site.name);
        }
    }
}

//! Vision transformers over square patches, under the tensor names of several publishers.
//!
//! Dosovitskiy et al. 2020, arXiv 2010.11929; DeiT: Touvron et al. 2020, arXiv 2012.12877.

use super::checkpoint::Header;
use super::param::{ParamKind, ParamList};
use super::plan::{Body, Linear, NormPlace, Plan, Qkv, TokenPool, VitBlock, VitPlan, Window};
use crate::ops::Act;

/// A vision transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct VitSpec {
    /// Patches along one side of the image.
    pub grid: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Channels of the image.
    pub channels: usize,
    /// Values per token.
    pub width: usize,
    /// Encoder blocks.
    pub depth: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Hidden values of the MLP.
    pub mlp: usize,
    /// Where the norms stand.
    pub norm: NormPlace,
    /// Act of the MLP.
    pub act: Act,
    /// Added to the variance in every layer norm.
    pub eps: f32,
    /// What the head sees.
    pub pool: TokenPool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Number of classes.
    pub classes: usize,
    /// Published names.
    pub names: VitNames,
}

/// Published names of a vision transformer's layers, without `.weight` and `.bias`; those of a block stand behind
/// `{blocks}{index}.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VitNames {
    /// Patch projection.
    pub patch: &'static str,
    /// Class token, if there is one.
    pub class_token: Option<&'static str>,
    /// Position table.
    pub position: &'static str,
    /// What stands in front of the block's index: `blocks.`, `encoder.layers.encoder_layer_`.
    pub blocks: String,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// Output of the attention.
    pub proj: &'static str,
    /// First norm.
    pub norm1: &'static str,
    /// Second norm.
    pub norm2: &'static str,
    /// First layer of the MLP.
    pub fc1: &'static str,
    /// Second layer of the MLP.
    pub fc2: &'static str,
    /// Norm behind the blocks, if there is one.
    pub norm: Option<&'static str>,
    /// The last layer.
    pub head: &'static str,
}

/// Published names of queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvNames {
    /// One layer: weight and bias, whole names.
    Packed(&'static str, &'static str),
    /// Three layers, without `.weight` and `.bias`.
    Separate(&'static str, &'static str, &'static str),
}

// The names in circulation, role by role; the first is timm's. A file may mix them.
const PATCH: [&str; 8] = [
    "patch_embed.proj",
    "patch_embedding.embed",
    "patch_embedding.proj",
    "conv_proj",
    "vit.embeddings.patch_embeddings.projection",
    "embeddings.patch_embeddings.projection",
    "patch_embedding",
    "patch_embed",
];
const CLASS_TOKEN: [&str; 4] = ["cls_token", "class_token", "vit.embeddings.cls_token", "embeddings.cls_token"];
const POSITION: [&str; 6] = [
    "pos_embed",
    "encoder.pos_embedding",
    "vit.embeddings.position_embeddings",
    "embeddings.position_embeddings",
    "pos_embedding",
    "position_embedding",
];
const QKV: [QkvNames; 12] = [
    QkvNames::Packed("attn.qkv.weight", "attn.qkv.bias"),
    QkvNames::Packed("self_attn.in_proj_weight", "self_attn.in_proj_bias"),
    QkvNames::Packed("attention.in_proj_weight", "attention.in_proj_bias"),
    QkvNames::Packed("self_attention.in_proj_weight", "self_attention.in_proj_bias"),
    QkvNames::Packed("attn.in_proj_weight", "attn.in_proj_bias"),
    QkvNames::Packed("attention.qkv.weight", "attention.qkv.bias"),
    QkvNames::Separate("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    QkvNames::Separate("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    QkvNames::Separate("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    QkvNames::Separate("attn.q", "attn.k", "attn.v"),
    QkvNames::Separate("attn.query", "attn.key", "attn.value"),
    QkvNames::Separate("attention.query", "attention.key", "attention.value"),
];
const PROJ: [&str; 8] = [
    "attn.proj",
    "self_attn.out_proj",
    "attention.out_proj",
    "self_attention.out_proj",
    "attn.out_proj",
    "attention.output.dense",
    "attention.proj",
    "attn.out",
];
const NORM1: [&str; 5] = ["norm1", "ln_1", "layernorm_before", "ln1", "layer_norm1"];
const NORM2: [&str; 5] = ["norm2", "ln_2", "layernorm_after", "ln2", "layer_norm2"];
const FC1: [&str; 5] = ["mlp.fc1", "linear1", "mlp.0", "intermediate.dense", "mlp.linear_1"];
const FC2: [&str; 6] = ["mlp.fc2", "linear2", "mlp.2", "mlp.3", "output.dense", "mlp.linear_2"];
const NORM: [&str; 8] =
    ["norm", "fc_norm", "mlp_head.0", "out_head.0", "encoder.ln", "vit.layernorm", "layernorm", "ln_f"];
const HEAD: [&str; 7] = ["head", "mlp_head.1", "out_head.1", "heads.head", "classifier", "mlp_head", "fc"];

impl VitNames {
    /// timm's and DeiT's names, q, k and v packed.
    #[must_use]
    pub fn timm() -> Self {
        Self {
            patch: PATCH[0],
            class_token: Some(CLASS_TOKEN[0]),
            position: POSITION[0],
            blocks: "blocks.".into(),
            qkv: QKV[0],
            proj: PROJ[0],
            norm1: NORM1[0],
            norm2: NORM2[0],
            fc1: FC1[0],
            fc2: FC2[0],
            norm: Some(NORM[0]),
            head: HEAD[0],
        }
    }

    /// The names a header uses, `None` if no block of it has attention under any known name.
    fn from_header(header: &Header) -> Option<Self> {
        let (blocks, qkv) = find_blocks(header)?;
        let depth = header.depth(&blocks);
        // A layer counts as there if any block has it, so that one missing tensor does not change the names.
        let in_block = |names: &[&'static str]| {
            let here = |name: &&str| (0..depth).any(|i| header.has_layer(&format!("{blocks}{i}.{name}")));
            names.iter().find(|name| here(name)).copied().unwrap_or(names[0])
        };
        let outside = |names: &[&'static str]| names.iter().find(|name| header.has_layer(name)).copied();
        let table = |names: &[&'static str]| names.iter().find(|name| header.shape(name).is_some()).copied();
        let head = outside(&HEAD).unwrap_or(HEAD[0]);
        let position = table(&POSITION).unwrap_or(POSITION[0]);
        // Positions for one token more than a square of patches tell of a class token that went missing.
        let is_square = |n: usize| n.isqrt() * n.isqrt() == n;
        let one_more = header.vote(&[(position, 1)]).is_some_and(|n| !is_square(n) && is_square(n - 1));
        let class_token = table(&CLASS_TOKEN).or(match position {
            _ if !one_more => None,
            "encoder.pos_embedding" => Some("class_token"),
            "vit.embeddings.position_embeddings" => Some("vit.embeddings.cls_token"),
            "embeddings.position_embeddings" => Some("embeddings.cls_token"),
            _ => Some(CLASS_TOKEN[0]),
        });
        Some(Self {
            patch: outside(&PATCH).unwrap_or(PATCH[0]),
            class_token,
            position,
            qkv,
            proj: in_block(&PROJ),
            norm1: in_block(&NORM1),
            norm2: in_block(&NORM2),
            fc1: in_block(&FC1),
            fc2: in_block(&FC2),
            norm: outside(&NORM),
            head,
            blocks,
        })
    }
}

/// The prefix in front of the blocks' indices, and how their attention is called.
fn find_blocks(header: &Header) -> Option<(String, QkvNames)> {
    for name in header.names() {
        for qkv in QKV {
            let parts: &[&str] = match &qkv {
                QkvNames::Packed(weight, bias) => &[weight, bias],
                QkvNames::Separate(q, k, v) => &[q, k, v],
            };
            let part = parts.iter().find_map(|part| {
                let (front, back) = name.split_once(&format!(".{part}"))?;
                (back.is_empty() || back == ".weight" || back == ".bias").then_some(front)
            });
            let Some(front) = part else { continue };
            let blocks = front.trim_end_matches(|c: char| c.is_ascii_digit());
            if blocks.len() < front.len() && blocks.ends_with(['.', '_']) {
                return Some((blocks.to_string(), qkv));
            }
        }
    }
    None
}

/// Whether a header's names are those of a vision transformer: blocks with attention, and patches, a class token or a
/// position table in front of them.
pub(crate) fn is_vit(header: &Header) -> bool {
    let in_front = PATCH.iter().any(|p| header.has_layer(p))
        || CLASS_TOKEN.iter().chain(&POSITION).any(|t| header.shape(t).is_some_and(|s| s.len() == 3));
    in_front && find_blocks(header).is_some()
}

/// What names and shapes say of a vision transformer, and what they leave open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VitReading {
    /// Everything, with heads 1, pre-norm and GELU where they are open.
    pub(crate) spec: VitSpec,
    /// Whether the names fix the norms' place and the activation. The heads are always open.
    pub(crate) fixed: bool,
}

impl VitSpec {
    /// A pre-norm GELU transformer with a class token and timm's names: `size` and `patch` in pixels, MLP of 4 widths,
    /// layer norm eps 1e-6, 3 channels.
    #[must_use]
    pub fn timm(size: usize, patch: usize, width: usize, depth: usize, heads: usize, classes: usize) -> Self {
        Self {
            grid: size / patch,
            patch,
            channels: 3,
            width,
            depth,
            heads,
            mlp: 4 * width,
            norm: NormPlace::Pre,
            act: Act::Gelu,
            eps: 1e-6,
            pool: TokenPool::Class,
            qkv_bias: true,
            classes,
            names: VitNames::timm(),
        }
    }

    /// Side of the image in pixels.
    #[must_use]
    pub fn image(&self) -> usize {
        self.grid * self.patch
    }

    /// Tokens per image, class token included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.grid * self.grid + usize::from(self.names.class_token.is_some())
    }

    /// Reads names, widths, depth, patches and classes off a header; `None` if it is no vision transformer's.
    pub(crate) fn from_header(header: &Header) -> Option<VitReading> {
        let names = VitNames::from_header(header)?;
        let depth = header.depth(&names.blocks);
        let weight = |layer: &str| format!("{layer}.weight");
        let first = |part: &str| format!("{}0.{part}", names.blocks);
        let patch = weight(names.patch);
        let (norm1, fc1) = (weight(&first(names.norm1)), weight(&first(names.fc1)));
        let width = header.vote(&[
            (names.position, 2),
            (names.class_token.unwrap_or_default(), 2),
            (patch.as_str(), 0),
            (&norm1, 0),
            (&fc1, 1),
        ]);
        let width = width.unwrap_or(192);
        let mlp = header.vote(&[(fc1.as_str(), 0), (&format!("{}.bias", first(names.fc1)), 0)]);
        let patch_side = header.vote(&[(patch.as_str(), 2), (&patch, 3)]);
        let tokens = header.vote(&[(names.position, 1)]);
        let patches = tokens.map(|t| t - usize::from(names.class_token.is_some()).min(t));
        // Where one of the two is missing, images of 32 or 224 pixels are the usual ones.
        let (grid, patch_side) = match (patches.map(usize::isqrt), patch_side) {
            (Some(grid), Some(patch)) => (grid, patch),
            (Some(grid), None) => (grid, if grid > 0 && 32 % grid == 0 { 32 / grid } else { 16 }),
            (None, Some(patch)) => (if patch <= 4 { 32 / patch } else { 224 / patch }, patch),
            (None, None) => (14, 16),
        };
        let class = names.class_token.is_some() && names.norm != Some("fc_norm");
        let qkv_bias = match names.qkv {
            QkvNames::Packed(_, bias) => {
                (0..depth).any(|i| header.shape(&format!("{}{i}.{bias}", names.blocks)).is_some())
            }
            QkvNames::Separate(q, ..) => {
                (0..depth).any(|i| header.shape(&format!("{}{i}.{q}.bias", names.blocks)).is_some())
            }
        };
        // timm, torchvision and the Hugging Face have one kind of block each; torch's encoder layer takes both norms
        // and any activation.
        let (fixed, eps) = match (names.norm1, names.qkv) {
            ("layernorm_before", _) => (true, 1e-12),
            ("ln_1", QkvNames::Packed("self_attention.in_proj_weight", _)) => (true, 1e-6),
            ("norm1", QkvNames::Packed("attn.qkv.weight", _)) if names.fc1 == "mlp.fc1" => (true, 1e-6),
            _ => (false, 1e-5),
        };
        let spec = Self {
            grid: grid.max(1),
            patch: patch_side,
            channels: header.vote(&[(patch.as_str(), 1)]).unwrap_or(3),
            width,
            depth,
            heads: 1,
            mlp: mlp.unwrap_or(4 * width),
            norm: NormPlace::Pre,
            act: Act::Gelu,
            eps,
            pool: if class { TokenPool::Class } else { TokenPool::Mean },
            qkv_bias,
            classes: header.classes(names.head).unwrap_or(1000),
            names,
        };
        Some(VitReading { spec, fixed })
    }

    /// Tensors and blocks.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let (p, n, width) = (&mut params, &self.names, self.width);
        let class_token = n.class_token.map(|name| p.add(name, [1, 1, width], ParamKind::Token));
        let position = p.add(n.position, [1, self.tokens(), width], ParamKind::Token);
        let window = Window { kernel: self.patch, stride: self.patch, padding: 0, groups: 1 };
        let patch = p.conv(n.patch, self.channels, width, window, true);
        let blocks = (0..self.depth).map(|i| self.block(p, format!("{}{i}", n.blocks))).collect();
        let norm = n.norm.map(|name| p.layer_norm(name, width, self.eps));
        let head = Some(p.linear(n.head, width, self.classes));
        let (heads, norm_place, pool) = (self.heads, self.norm, self.pool);
        let body = VitPlan { patch, class_token, position, blocks, heads, norm_place, pool, norm, head };
        Plan { params, body: Body::Vit(Box::new(body)), has_head: true }
    }

    fn block(&self, p: &mut ParamList, name: String) -> VitBlock {
        let (n, width) = (&self.names, self.width);
        let inner = |part: &str| format!("{name}.{part}");
        let norm1 = p.layer_norm(&inner(n.norm1), width, self.eps);
        let qkv = match n.qkv {
            QkvNames::Packed(weight, bias) => {
                let layer = inner(weight.trim_end_matches("weight").trim_end_matches(['.', '_']));
                let names = [inner(weight), inner(bias)];
                Qkv::Packed(p.linear_named(&layer, &names, width, 3 * width, self.qkv_bias))
            }
            QkvNames::Separate(q, k, v) => Qkv::Separate(Box::new([q, k, v].map(|part| {
                let names = [inner(&format!("{part}.weight")), inner(&format!("{part}.bias"))];
                p.linear_named(&inner(part), &names, width, width, self.qkv_bias)
            }))),
        };
        let proj = p.linear(&inner(n.proj), width, width);
        let norm2 = p.layer_norm(&inner(n.norm2), width, self.eps);
        let fc1 = Linear { act: self.act, ..p.linear(&inner(n.fc1), width, self.mlp) };
        let fc2 = p.linear(&inner(n.fc2), self.mlp, width);
        VitBlock { name, norm1, qkv, proj, norm2, fc1, fc2 }
    }
}

//! Which network a file's weights belong to: names and shapes first, then what stands beside the file or was asked for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::Header;
use super::mnist_cnn::MnistCnnSpec;
use super::mobilenet::MobileNetV2Spec;
use super::plan::{NormPlace, Plan};
use super::resnet::{ResNetSpec, Stem};
use super::spec::ModelSpec;
use super::text::{self, TextReading, TextSpec};
use super::vit::{VitSpec, is_vit};
use crate::ops::Act;
use crate::{Error, Result};

/// What names and shapes do not fix. Read from `W.json` beside `W.safetensors`, completed by flags of the same names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hints {
    /// Name of the network, as [`ModelSpec::by_name`] takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Attention heads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Where a transformer's norms stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<NormPlace>,
    /// Act of a transformer's MLP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// Added to the variance in a transformer's layer norms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f32>,
    /// Input normalisation: `imagenet`, `cifar`, `unit` or `MEAN/STD`, the means and deviations of the channels
    /// separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<String>,
    /// Names of the classes in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
}

impl Hints {
    /// What the names and shapes of `spec`'s tensors do not say, or would not without a head; no normalisation and no classes.
    #[must_use]
    pub fn of(spec: &ModelSpec) -> Self {
        let arch = spec.name();
        match spec {
            ModelSpec::Vit(vit) => Self {
                arch,
                heads: Some(vit.heads),
                norm: Some(vit.norm),
                act: Some(vit.act),
                eps: Some(vit.eps),
                ..Self::default()
            },
            ModelSpec::Text(text) => {
                Self { heads: Some(text.heads), act: Some(text.act), eps: Some(text.eps), ..Self::default() }
            }
            // Of this name the stem alone counts, so that any width may have it.
            ModelSpec::MobileNetV2(s) => {
                let usual = if s.stem == Stem::Cifar { "mobilenet_v2_cifar" } else { "mobilenet_v2" };
                Self { arch: arch.or_else(|| Some(usual.into())), ..Self::default() }
            }
            ModelSpec::ResNet(_) | ModelSpec::MnistCnn(_) | ModelSpec::Mlp(_) => Self { arch, ..Self::default() },
        }
    }

    /// The file beside weights that is asked first: the same name with `.json`.
    #[must_use]
    pub fn path(weights: &Path) -> PathBuf {
        weights.with_extension("json")
    }

    /// Reads the JSON file beside `weights`; no hints if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it is there and cannot be read, is no JSON object, or has a key that means nothing here.
    pub fn beside(weights: &Path) -> Result<Self> {
        let path = Self::path(weights);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::file(&path, e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Error::io(&path, &e)),
        }
    }

    /// These hints where they say something, else `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            arch: self.arch.or(others.arch),
            heads: self.heads.or(others.heads),
            norm: self.norm.or(others.norm),
            act: self.act.or(others.act),
            eps: self.eps.or(others.eps),
            normalize: self.normalize.or(others.normalize),
            classes: self.classes.or(others.classes),
        }
    }
}

/// A network read off a file, and what is still open.
#[derive(Debug, Clone, PartialEq)]
pub struct Identified {
    /// The network; where something is open it has one head, pre-norm, GELU, the ImageNet stem.
    pub spec: ModelSpec,
    /// Input normalisation in the language of `--normalize`, if it is known.
    pub normalize: Option<String>,
    /// Names of the classes, if the hints have them.
    pub classes: Option<Vec<String>>,
    /// What neither the file nor the hints fix: the flags that would.
    pub open: Vec<&'static str>,
    path: PathBuf,
}

impl Header {
    /// The plan of the network that was read off this header: without its head if the tensors are those of all the rest.
    #[must_use]
    pub fn plan(&self, spec: &ModelSpec) -> Plan {
        let plan = spec.plan();
        let headless = plan.headless();
        if self.compare(&headless.params, "").is_fit() { headless } else { plan }
    }
}

impl Identified {
    /// The network and its normalisation if nothing is open.
    ///
    /// # Errors
    /// [`Error::File`] that names exactly the flags to give, or if it is no network for images.
    pub fn settled(self) -> Result<(ModelSpec, String)> {
        if let ModelSpec::Text(_) = self.spec {
            let message = "these are a language model's tensors, not those of a network for images";
            return Err(Error::file(&self.path, message));
        }
        match self.normalize {
            Some(normalize) if self.open.is_empty() => Ok((self.spec, normalize)),
            _ => {
                let file = Hints::path(&self.path);
                let file = file.file_name().unwrap_or_default().to_string_lossy();
                let message = format!(
                    "{}'s weights, whose names and shapes leave something open: give {} (or a {file} beside them)",
                    self.spec.kind(),
                    self.open.join(", ")
                );
                Err(Error::file(&self.path, message))
            }
        }
    }
}

/// Flags that fix what is open.
const HEADS: &str = "--heads H";
const NORM: &str = "--norm pre|post";
const ACT: &str = "--act relu|gelu";
const NORMALIZE: &str = "--normalize imagenet|cifar|unit|MEAN/STD";
const ARCH_MOBILENET: &str = "--arch mobilenet_v2|mobilenet_v2_cifar";

/// Reads a network off tensor names, shapes and `hints`.
///
/// With an `arch` hint its widths and depth hold, and names and classes are the file's; loading then says what does not
/// fit. Without one everything is the file's.
///
/// # Errors
/// [`Error::File`] if the names are those of another kind of network than `arch`, or of none known here;
/// [`Error::Input`] if a hint has no sense.
pub fn identify(header: &Header, hints: &Hints) -> Result<Identified> {
    if let Some(Kind::Text(_)) = Kind::of(header)
        && let Some(TextReading { spec, heads_open }) = TextSpec::from_header(header, hints)?
    {
        let open = if heads_open { vec![HEADS] } else { vec![] };
        let (path, classes) = (header.path().to_path_buf(), hints.classes.clone());
        return Ok(Identified { spec: spec.into(), normalize: None, classes, open, path });
    }
    let arch = hints.arch.as_deref().map(ModelSpec::by_name).transpose()?;
    let fail = |message: String| Error::file(header.path(), message);
    let mut open = Vec::new();
    let found = Kind::of(header);
    let mut spec = match &found {
        Some(Kind::ResNet(_)) => ModelSpec::ResNet(ResNetSpec::from_header(header)),
        Some(Kind::MobileNetV2(_)) => {
            let spec = MobileNetV2Spec::from_header(header, Stem::ImageNet);
            // The weights in circulation have ImageNet's 1000 classes; the stem is in neither names nor shapes.
            if arch.is_none() && spec.classes != 1000 {
                open.push(ARCH_MOBILENET);
            }
            ModelSpec::MobileNetV2(spec)
        }
        Some(Kind::MnistCnn(_)) => ModelSpec::MnistCnn(MnistCnnSpec::from_header(header)),
        Some(Kind::Vit(_)) => match VitSpec::from_header(header) {
            Some(reading) => {
                let spec = vit(header, reading.spec, reading.fixed, arch.as_ref(), hints, &mut open)?;
                ModelSpec::Vit(Box::new(spec))
            }
            None => return Err(fail("a ViT's names, but no attention among them".into())),
        },
        Some(Kind::Text(example)) => {
            return Err(fail(format!("a language model's names, but too few of them ({example})")));
        }
        Some(Kind::Other(what, example)) => {
            let want = arch.as_ref().map_or("those of a network for images", ModelSpec::kind);
            return Err(fail(format!(
                "these look like {what} tensors ({example} ...), not {want}{}",
                possessive(want)
            )));
        }
        None => {
            let first: Vec<&str> = header.names().take(3).collect();
            let first = if first.is_empty() { "no tensors".into() } else { format!("{} ...", first.join(", ")) };
            return Err(fail(format!(
                "no network known here (ResNet, MobileNetV2, ViT, MNIST CNN) has such tensors: {first}"
            )));
        }
    };
    if let Some(arch) = arch {
        if let Some(example) = found.as_ref().and_then(Kind::example).filter(|_| arch.kind() != spec.kind()) {
            let (is, want) = (spec.kind(), arch.kind());
            return Err(fail(format!("these look like {is}'s tensors ({example} ...), not {want}'s")));
        }
        spec = adopt(arch, spec);
    }
    let normalize = hints.normalize.clone().or_else(|| spec.known_normalization().map(String::from));
    if normalize.is_none() {
        open.push(NORMALIZE);
    }
    let classes = hints.classes.clone();
    if let Some(classes) = classes.as_ref().filter(|c| c.len() != spec.classes()) {
        let path = Hints::path(header.path());
        let message = format!("{} class names for a network of {} classes", classes.len(), spec.classes());
        return Err(Error::file(path, message));
    }
    Ok(Identified { spec, normalize, classes, open, path: header.path().to_path_buf() })
}

fn possessive(want: &str) -> &'static str {
    if want.starts_with("those") { "" } else { "'s" }
}

/// Completes a transformer's reading by hints.
fn vit(
    header: &Header,
    mut spec: VitSpec,
    fixed: bool,
    arch: Option<&ModelSpec>,
    hints: &Hints,
    open: &mut Vec<&'static str>,
) -> Result<VitSpec> {
    let known = if let Some(ModelSpec::Vit(known)) = arch { Some(&**known) } else { None };
    match hints.heads.or(known.map(|k| k.heads)) {
        Some(heads) if heads > 0 && spec.width.is_multiple_of(heads) => spec.heads = heads,
        Some(heads) => {
            return Err(Error::Input(format!("{heads} heads do not divide a width of {}", spec.width)));
        }
        None => open.push(HEADS),
    }
    match hints.norm {
        Some(norm) => spec.norm = norm,
        None if fixed || known.is_some() => {}
        None => open.push(NORM),
    }
    match hints.act {
        Some(act) => spec.act = act,
        None if fixed || known.is_some() => {}
        None => open.push(ACT),
    }
    if let Some(eps) = hints.eps {
        if !(eps > 0.0 && eps < 1.0) {
            return Err(Error::Input(format!("layer norm eps {eps} is not between 0 and 1")));
        }
        spec.eps = eps;
    }
    let patches = header.vote(&[(spec.names.position, 1)]);
    let expected = spec.tokens();
    if let Some(tokens) = patches.filter(|t| *t != expected) {
        let message = format!("{} has {tokens} rows, which is no square grid of patches", spec.names.position);
        return Err(Error::file(header.path(), message));
    }
    Ok(spec)
}

/// The network `arch` under the names, classes and channels that `read` has.
fn adopt(arch: ModelSpec, read: ModelSpec) -> ModelSpec {
    match (arch, read) {
        (ModelSpec::ResNet(a), ModelSpec::ResNet(r)) => {
            // A depth of 6n + 2 may come with or without weights in its shortcuts.
            ModelSpec::ResNet(ResNetSpec {
                shortcut: r.shortcut,
                head: r.head,
                channels: r.channels,
                classes: r.classes,
                ..a
            })
        }
        (ModelSpec::MobileNetV2(a), ModelSpec::MobileNetV2(r)) => {
            let stem = a.stem;
            // Widths are read; the name tells the stem.
            ModelSpec::MobileNetV2(MobileNetV2Spec { stem, ..r })
        }
        (ModelSpec::Vit(a), ModelSpec::Vit(r)) => {
            let VitSpec { width, depth, mlp, patch, .. } = *a;
            ModelSpec::Vit(Box::new(VitSpec { width, depth, mlp, patch, ..*r }))
        }
        (_, read) => read,
    }
}

/// A file's kind, with one of its names as an example.
enum Kind {
    ResNet(String),
    MobileNetV2(String),
    Vit(String),
    MnistCnn(String),
    Text(String),
    /// A known network that is none for images, "a language model's".
    Other(&'static str, String),
}

impl Kind {
    fn of(header: &Header) -> Option<Self> {
        let find = |test: &dyn Fn(&str) -> bool| header.names().find(|n| test(n)).map(String::from);
        // A part of a model's names that tells what it is, where it is none of ours.
        let others: [(&str, &[&str]); 6] = [
            ("a LoRA adapter's", &[".lora_A", ".lora_B"]),
            ("a language model's", &["attention.wq.", "tok_embeddings", "q_proj.weight", "wte.weight", "embed_tokens"]),
            ("a text encoder's", &["word_embeddings.weight", "token_embedding"]),
            ("a radiance field's", &["layers_xyz", "fc_rgb"]),
            ("a set of Gaussian splats'", &["means", "quats"]),
            ("a VGG-like or other sequential network's", &["features.0.weight"]),
        ];
        if let Some(lora) = find(&|n| others[0].1.iter().any(|part| n.contains(part))) {
            return Some(Self::Other(others[0].0, lora));
        }
        if is_vit(header) {
            return find(&|n| n.contains("attn") || n.contains("attention")).map(Self::Vit);
        }
        if let Some((_, _, example)) = text::find(header) {
            return Some(Self::Text(example));
        }
        let numbered =
            |n: &str, prefix: &str| n.strip_prefix(prefix).is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(example) = find(&|n| numbered(n, "layer") && n.contains(".conv") && n.ends_with(".weight")) {
            return Some(Self::ResNet(example));
        }
        if let Some(example) = find(&|n| numbered(n, "features.") && n.contains(".conv.")) {
            return Some(Self::MobileNetV2(example));
        }
        let parts = ["conv1", "conv2", "conv3", "fc1", "fc2", "norm1"];
        if parts.iter().filter(|part| header.has_layer(part)).count() >= 4 {
            return find(&|n| n.starts_with("conv")).map(Self::MnistCnn);
        }
        others[1..]
            .iter()
            .find_map(|(what, parts)| Some(Self::Other(what, find(&|n| parts.iter().any(|part| n.contains(part)))?)))
    }

    fn example(&self) -> Option<&str> {
        match self {
            Self::ResNet(e) | Self::MobileNetV2(e) | Self::Vit(e) | Self::MnistCnn(e) | Self::Text(e) => Some(e),
            Self::Other(..) => None,
        }
    }
}

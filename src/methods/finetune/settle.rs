//! What a training is settled on: flags, what the run before had, the method's usual values.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::{BaseBits, TrainConfig};
use super::file::check_bits;
use super::method::{AdapterSpec, Method};
use super::shots::{Classes, Halves, Shots};
use crate::methods::NetworkFlags;
use crate::methods::classify::Augment;
use crate::methods::training::{EmaCourse, Recipe, given};
use crate::nn::{ModelSpec, Precision, Rule, Schedule};
use crate::ops::basis::Law;
use crate::{Error, Result};

/// Everything that fixes a training; a resumed run must have it in common with the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The network: a file, or a name.
    pub base: String,
    /// What its weights leave open.
    pub network: NetworkFlags,
    /// The adapter.
    pub adapter: AdapterSpec,
    /// The data.
    pub data: String,
    /// Images of each class.
    pub shots: Shots,
    /// The classes, if not all.
    pub classes: Option<Classes>,
    /// Share of each class that is judged by, where the data do not say.
    pub holdout: f64,
    /// Runs.
    pub seeds: u32,
    /// Whether the network's own head is kept.
    pub keep_head: bool,
    /// Bits of a coefficient.
    pub bits: u32,
    /// Whether training knows of them.
    pub qat: bool,
    /// Bits of the frozen weights.
    pub base_bits: BaseBits,
    /// Training images at most.
    pub images: Option<u32>,
    /// Test images at most.
    pub test_images: Option<u32>,
    /// The tokenizer, if not the one beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// Tokens of a text at most.
    pub max_len: Option<usize>,
    /// Whether what stands in front of a text comes along.
    pub prompt: bool,
    /// What happens to training images.
    pub augment: Augment,
    /// Share of the target that goes to all classes alike.
    pub label_smoothing: f64,
    /// The recipe of the first run.
    pub recipe: Recipe,
}

/// What is known before the data are read.
pub(super) struct Named {
    pub(super) base: String,
    pub(super) network: NetworkFlags,
    pub(super) data: String,
    pub(super) shots: Shots,
    pub(super) classes: Option<Classes>,
    pub(super) holdout: f64,
    pub(super) images: Option<u32>,
    pub(super) test_images: Option<u32>,
    pub(super) keep_head: bool,
    pub(super) tokenizer: Option<PathBuf>,
    pub(super) max_len: Option<usize>,
    pub(super) prompt: bool,
    pub(super) seed: u64,
}

impl Named {
    pub(super) fn new(config: &TrainConfig, before: Option<&Settled>, seed: u64) -> Result<Self> {
        let base = config.base.clone().or_else(|| before.map(|b| b.base.clone()));
        let base =
            base.ok_or_else(|| Error::Input("--base is needed: weights in a file, or a network's name".into()))?;
        let holdout = given(&config.holdout, before.map(|b| &b.holdout), || 0.5);
        if !(0.01..=0.99).contains(&holdout) {
            return Err(Error::Input(format!("--holdout {holdout}: 0.01 to 0.99 wanted")));
        }
        Ok(Self {
            base,
            network: before.map_or_else(|| config.network.clone(), |b| b.network.clone()),
            data: given(&config.data, before.map(|b| &b.data), || "shapes".into()),
            shots: given(&config.shots, before.map(|b| &b.shots), || Shots::All),
            classes: config.classes.clone().or_else(|| before.and_then(|b| b.classes.clone())),
            holdout,
            images: config.images.or(before.and_then(|b| b.images)),
            test_images: config.test_images.or(before.and_then(|b| b.test_images)),
            keep_head: config.keep_head || before.is_some_and(|b| b.keep_head),
            tokenizer: config.tokenizer.clone().or_else(|| before.and_then(|b| b.tokenizer.clone())),
            max_len: config.max_len.or(before.and_then(|b| b.max_len)),
            prompt: config.prompt || before.is_some_and(|b| b.prompt),
            seed: before.filter(|_| seed == 0).map_or(seed, |b| b.recipe.seed),
        })
    }

    /// The images that are wanted of a set.
    ///
    /// # Errors
    /// As [`Classes::of`].
    pub(super) fn cut(&self, mut halves: Halves) -> Result<Halves> {
        if let Some(classes) = &self.classes {
            halves = Halves { train: classes.of(&halves.train)?, test: classes.of(&halves.test)?, ..halves };
        }
        if let Some(n) = self.images {
            halves.train = halves.train.take(n as usize);
        }
        if let Some(n) = self.test_images {
            halves.test = halves.test.take(n as usize);
        }
        Ok(halves)
    }
}

/// What the data and the network say.
pub(super) struct Found<'a> {
    pub(super) spec: &'a ModelSpec,
    /// Whether its weights are random.
    pub(super) is_random: bool,
    /// Items to learn from in a run.
    pub(super) n: usize,
    /// Whether images are grey.
    pub(super) is_grey: bool,
    /// Whether texts are learned.
    pub(super) is_text: bool,
}

/// Settles the rest over the usual values.
pub(super) fn settle(
    config: &TrainConfig,
    named: Named,
    found: &Found<'_>,
    before: Option<&Settled>,
) -> Result<Settled> {
    let was = before.map(|b| &b.adapter);
    let method = given(&config.method, was.map(|a| &a.method), || Method::Nola);
    let usual_rank = if method == Method::Vera { 256 } else { 4 };
    let rank = given(&config.rank, was.map(|a| &a.rank), || usual_rank);
    let usual_k = if method == Method::Pranc { 1000 } else { 64 };
    let usual_alpha = if matches!(method, Method::Vera | Method::Pranc) { rank as f64 } else { 8.0 };
    let usual_targets = || usual_targets(method, found.spec).to_string();
    let adapter = AdapterSpec {
        method,
        basis: given(&config.basis, was.map(|a| &a.basis), || Law::Uniform8),
        seed: named.seed,
        rank,
        k: given(&config.k, was.map(|a| &a.k), || usual_k),
        alpha: given(&config.alpha, was.map(|a| &a.alpha), || usual_alpha),
        targets: given(&config.targets, was.map(|a| &a.targets), usual_targets),
        norms: found.is_random && found.spec.plan().sites().iter().any(|s| s.role == crate::nn::Role::Conv),
    };
    adapter.check()?;
    if config.alpha.is_some() && !matches!(method, Method::Lora | Method::Nola) {
        return Err(Error::Input(format!(
            "--alpha: the branches of {method} have no such factor; lora's and nola's have"
        )));
    }
    let bits = given(&config.bits, before.map(|b| &b.bits), || 32);
    check_bits(bits)?;
    let qat = config.qat || before.is_some_and(|b| b.qat);
    if bits < 32 && !method.has_basis() {
        return Err(Error::Input(format!("--bits {bits}: {method} has no coefficients; nola and pranc have")));
    }
    if qat && bits == 32 {
        return Err(Error::Input("--qat wants --bits 8, 4, 3 or 2, to which coefficients are rounded".into()));
    }
    let base_bits = given(&config.base_bits, before.map(|b| &b.base_bits), BaseBits::default);
    if base_bits != BaseBits::F32 && matches!(method, Method::Full) {
        return Err(Error::Input(format!("--base-bits: {method} moves every weight, so that none is frozen")));
    }
    let label_smoothing = given(&config.label_smoothing, before.map(|b| &b.label_smoothing), || 0.1);
    if !(0.0..1.0).contains(&label_smoothing) {
        return Err(Error::Input(format!("--label-smoothing {label_smoothing}: at least 0 and below 1 wanted")));
    }
    let usual_augment = if found.is_grey { Augment::Crop } else { Augment::CropFlip };
    let usual = before.map_or_else(|| usual_recipe(method, found, named.shots, config), |b| b.recipe.clone());
    let recipe = Recipe::settle(&config.train, Recipe { seed: named.seed, ..usual }, found.n)?;
    if recipe.precision == Precision::F16 && method != Method::Full {
        return Err(Error::Input(format!("--precision f16: the frozen weights of {method} are in 32 bits")));
    }
    if recipe.ema.is_some() {
        return Err(Error::Input("--ema: adapters keep no average of what is trained".into()));
    }
    let seeds = given(&config.seeds, before.map(|b| &b.seeds), || 1);
    if named.seed.checked_add(u64::from(seeds)).is_none() {
        return Err(Error::Input(format!("--seed {}: --seeds {seeds} pass the largest seed", named.seed)));
    }
    Ok(Settled {
        base: named.base,
        network: named.network,
        adapter,
        data: named.data,
        shots: named.shots,
        classes: named.classes,
        holdout: named.holdout,
        seeds,
        keep_head: named.keep_head,
        bits,
        qat,
        base_bits,
        images: named.images,
        test_images: named.test_images,
        tokenizer: named.tokenizer,
        max_len: named.max_len,
        prompt: named.prompt,
        augment: given(&config.augment, before.map(|b| &b.augment), || usual_augment),
        label_smoothing,
        recipe,
    })
}

/// What papers adapt: LoRA queries and values, the others the MLP of a ViT and all layers of a language model, as of a network without
/// blocks.
fn usual_targets(method: Method, spec: &ModelSpec) -> &'static str {
    match (spec, method) {
        (ModelSpec::Vit(_) | ModelSpec::Text(_), Method::Lora) => "qv",
        (ModelSpec::Vit(_), _) => "mlp",
        _ => "all",
    }
}

/// NOLA's recipe for few shots (section 3.3 of its paper): Adam, a cosine, 50 epochs; 5 over all images. Weights that move themselves
/// take a hundredth of its rate.
fn usual_recipe(method: Method, found: &Found<'_>, shots: Shots, config: &TrainConfig) -> Recipe {
    let usual = if shots == Shots::All && !found.is_text { 64 } else { 16 };
    let batch = config.train.batch.unwrap_or(usual).clamp(1, found.n.max(1));
    let per_epoch = (found.n / batch).max(1) as u64;
    let epochs = match shots {
        Shots::All if found.is_text => 2,
        Shots::All => 5,
        Shots::Of(_) => 50,
    };
    let lr = match method {
        Method::Full if found.is_random => 1e-3,
        Method::Full => 5e-5,
        Method::Bitfit => 1e-3,
        _ => 5e-3,
    };
    Recipe {
        steps: epochs * per_epoch,
        batch,
        micro_batch: batch,
        lr,
        schedule: Schedule::default(),
        rule: Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: false },
        decay: 0.0,
        clip: None,
        ema: None,
        ema_course: EmaCourse::Constant,
        precision: Precision::F32,
        seed: 0,
    }
}

//! What a training is settled on: flags, what the run before had, the method's usual values.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::config::{BankPrecision, DistillConfig, PretrainConfig, SharedFlags, StemChoice, Strength};
use super::method::{HeadWidths, Method};
use crate::data::{ImageSet, Normalize};
use crate::methods::training::{EmaCourse, Recipe, given};
use crate::nn::{ModelSpec, Precision, Rule, Schedule};
use crate::ops::bank::MOST;
use crate::ops::views;
use crate::{Error, Result};

/// Sides up to which images count as small: no blur, and a stem that keeps their size.
const SMALL: usize = 64;
/// Entries of a bank unless asked for: MSF's.
const USUAL_BANK: usize = 128_000;
/// Images to a cluster of cmsf-km, as 50,000 clusters are to ImageNet.
const PER_CLUSTER: usize = 25;

/// Everything that fixes a training; a resumed run must have it in common with the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// The method.
    pub method: Method,
    /// Name of the backbone.
    pub arch: String,
    /// Factor of its channels.
    pub width: f64,
    /// Its first layers.
    pub stem: StemChoice,
    /// The images.
    pub data: String,
    /// Labelled images to judge by, if others.
    pub eval_data: Option<String>,
    /// Training images at most.
    pub images: Option<u32>,
    /// Test images at most.
    pub test_images: Option<u32>,
    /// Side that pictures are made to.
    pub side: Option<u32>,
    /// Input normalisation.
    pub normalize: String,
    /// Widths of the heads.
    pub heads: HeadWidths,
    /// Neighbours.
    pub topk: usize,
    /// Entries of the bank.
    pub bank: usize,
    /// Their type; `None`: f16 where the adapter has it.
    pub bank_precision: Option<BankPrecision>,
    /// Clusters.
    pub clusters: usize,
    /// Temperature of the student.
    pub temperature: f64,
    /// Temperature of the teacher.
    pub teacher_temperature: f64,
    /// Share of labels that are known.
    pub labels: f64,
    /// Confidence of pseudo-labels.
    pub threshold: f64,
    /// Views for the trained network.
    pub query: views::Recipe,
    /// Views for the targets.
    pub target: views::Recipe,
    /// Whether the released code's choices are taken.
    pub paper_exact: bool,
    /// Whether blocks keep only their input.
    pub recompute: bool,
    /// Weights of the teacher.
    pub teacher: Option<PathBuf>,
    /// Layers of `SimReg`'s head.
    pub layers: usize,
    /// Fixed views whose teacher features are kept; 0: none.
    pub teacher_views: u32,
    /// Whether pictures that cannot be read are left out.
    pub skip_bad: bool,
    /// Steps between two evaluations.
    pub eval_every: u64,
    /// Where a teacher's features are kept, if not in the run's folder.
    pub cache: Option<PathBuf>,
    /// The recipe.
    pub recipe: Recipe,
}

/// The flags of both trainings in one form.
pub(super) struct Asked<'a> {
    pub(super) shared: &'a SharedFlags,
    method: Option<Method>,
    pretrain: Option<&'a PretrainConfig>,
    distill: Option<&'a DistillConfig>,
}

impl<'a> From<&'a PretrainConfig> for Asked<'a> {
    fn from(config: &'a PretrainConfig) -> Self {
        Self { shared: &config.shared, method: config.method, pretrain: Some(config), distill: None }
    }
}

impl<'a> From<&'a DistillConfig> for Asked<'a> {
    fn from(config: &'a DistillConfig) -> Self {
        Self { shared: &config.shared, method: config.method, pretrain: None, distill: Some(config) }
    }
}

/// What is known before images are read.
pub(super) struct Named {
    pub(super) method: Method,
    pub(super) arch: String,
    pub(super) width: f64,
    pub(super) stem: StemChoice,
    pub(super) data: String,
    pub(super) eval_data: Option<String>,
    pub(super) seed: u64,
}

impl Asked<'_> {
    /// What the flags or the run before name.
    pub(super) fn named(&self, before: Option<&Settled>, seed: u64) -> Result<Named> {
        let usual = if self.distill.is_some() { Method::Simreg } else { Method::Msf };
        let method = given(&self.method, before.map(|b| &b.method), || usual);
        if method.is_distilled() != self.distill.is_some() {
            let message = "the run to go on with is of the other command: pretrain or distill";
            return Err(Error::Input(message.into()));
        }
        Ok(Named {
            method,
            arch: given(&self.shared.arch, before.map(|b| &b.arch), || "resnet18".into()),
            width: given(&self.shared.width, before.map(|b| &b.width), || 1.0),
            stem: given(&self.shared.stem, before.map(|b| &b.stem), || StemChoice::Auto),
            data: given(&self.shared.data, before.map(|b| &b.data), || "shapes".into()),
            eval_data: self.shared.eval_data.clone().or_else(|| before.and_then(|b| b.eval_data.clone())),
            seed: before.filter(|_| seed == 0).map_or(seed, |b| b.recipe.seed),
        })
    }

    /// Everything, for a backbone and images that were read.
    ///
    /// # Errors
    /// [`Error::Input`] for whatever does not fit.
    pub(super) fn settle(
        &self,
        named: Named,
        before: Option<&Settled>,
        spec: &ModelSpec,
        train: &ImageSet,
    ) -> Result<Settled> {
        let Self { shared, .. } = self;
        let Named { method, seed, .. } = named;
        let (pretrain, distill) = (self.pretrain, self.distill);
        let n = train.len();
        let n_features = spec.plan().n_features();
        let small = train.height.max(train.width) <= SMALL;
        let widths = method.head_widths(n_features);
        let usual_heads = before.map_or(widths, |b| b.heads);
        let heads = HeadWidths {
            hidden: pretrain.and_then(|c| c.head_hidden).unwrap_or(usual_heads.hidden),
            out: pretrain.and_then(|c| c.head_out).unwrap_or(usual_heads.out),
        };
        if heads.hidden == 0 || heads.out == 0 || !heads.out.is_multiple_of(4) {
            let HeadWidths { hidden, out } = heads;
            return Err(Error::Input(format!("heads of {hidden} and {out}: above 0 and a multiple of 4 wanted")));
        }
        let paper_exact = shared.paper_exact || before.is_some_and(|b| b.paper_exact);
        let usual = before.map_or_else(|| usual_recipe(method, n, small, paper_exact, shared), |b| b.recipe.clone());
        let recipe = Recipe::settle(&shared.train, Recipe { seed, ..usual }, n)?;
        let per_epoch = (n / recipe.batch).max(1) as u64;
        let asked = shared.train.eval_every.or(shared.eval_epochs.map(|epochs| u64::from(epochs) * per_epoch));
        let tenth = || (recipe.steps / per_epoch).div_ceil(10).max(1) * per_epoch;
        let eval_every = given(&asked, before.map(|b| &b.eval_every), tenth);
        let usual_bank = || usual_bank(n, recipe.batch);
        let bank = given(&shared.bank, before.map(|b| &b.bank), usual_bank);
        let usual_topk = || if method.needs_labels() { 10 } else { 5 };
        let topk = given(&pretrain.and_then(|c| c.topk), before.map(|b| &b.topk), usual_topk);
        let topk = if method == Method::Nnbyol { 1 } else { topk };
        let clusters = pretrain.and_then(|c| c.clusters);
        let clusters = given(&clusters, before.map(|b| &b.clusters), || (n / PER_CLUSTER).max(1));
        let temperature = pretrain.and_then(|c| c.temperature).or(distill.and_then(|c| c.temperature));
        let temperature = given(&temperature, before.map(|b| &b.temperature), || match method {
            Method::MocoV2 => 0.2,
            Method::Compress1q | Method::Compress2q => 0.04,
            _ => 0.1,
        });
        let of_teacher = pretrain.and_then(|c| c.teacher_temperature);
        let of_teacher = given(&of_teacher, before.map(|b| &b.teacher_temperature), || match method {
            Method::Isd => 0.01,
            _ => temperature,
        });
        let strong = |strength| strength == Strength::Strong;
        let view = |asked: Option<Strength>, usual: bool, before: Option<&views::Recipe>| {
            let usual_view = |is_strong| recipe_of(method, is_strong, small);
            let start = match (before, asked) {
                (Some(before), None) => *before,
                _ => usual_view(asked.map_or(usual, strong)),
            };
            // Of a run before, the strength is seen by what it does.
            over(shared, start)
        };
        let query = view(pretrain.and_then(|c| c.query_view), !method.is_distilled(), before.map(|b| &b.query));
        let both = method.is_symmetric() || method == Method::MocoV2;
        let target = view(pretrain.and_then(|c| c.target_view), both, before.map(|b| &b.target));
        [query, target].iter().try_for_each(|recipe| recipe.check()).map_err(|e| Error::Input(e.to_string()))?;
        let teacher = distill.and_then(|c| c.teacher.clone()).or_else(|| before.and_then(|b| b.teacher.clone()));
        let normalize = given(&shared.normalize, before.map(|b| &b.normalize), || {
            let usual = if train.channels == 3 { "cifar" } else { "0.5/0.5" };
            let known = if spec.image() > SMALL && train.channels == 3 { "imagenet" } else { usual };
            known.into()
        });
        normalize.parse::<Normalize>()?.mean_std(train.channels)?;
        let settled = Settled {
            method,
            arch: named.arch,
            width: named.width,
            stem: named.stem,
            data: named.data,
            eval_data: named.eval_data,
            images: shared.images.or(before.and_then(|b| b.images)),
            test_images: shared.test_images.or(before.and_then(|b| b.test_images)),
            side: shared.side.or(before.and_then(|b| b.side)),
            normalize,
            heads,
            topk,
            bank,
            bank_precision: shared.bank_precision.or(before.and_then(|b| b.bank_precision)),
            clusters,
            temperature,
            teacher_temperature: of_teacher,
            labels: given(&pretrain.and_then(|c| c.labels), before.map(|b| &b.labels), || 0.1),
            threshold: given(&pretrain.and_then(|c| c.threshold), before.map(|b| &b.threshold), || 0.85),
            query,
            target,
            paper_exact,
            recompute: shared.train.recompute || before.is_some_and(|b| b.recompute),
            teacher,
            layers: given(&distill.and_then(|c| c.layers), before.map(|b| &b.layers), || 4),
            teacher_views: given(&distill.and_then(|c| c.teacher_views), before.map(|b| &b.teacher_views), || 0),
            skip_bad: shared.skip_bad || before.is_some_and(|b| b.skip_bad),
            eval_every,
            cache: distill.and_then(|c| c.cache.clone()).or_else(|| before.and_then(|b| b.cache.clone())),
            recipe,
        };
        settled.check(train)?;
        self.check(&settled)?;
        Ok(settled)
    }
}

impl Asked<'_> {
    /// An error for a flag that does nothing here.
    fn check(&self, settled: &Settled) -> Result<()> {
        let Settled { method, query, target, .. } = settled;
        let strong = [query, target].iter().any(|recipe| recipe.jitter.p > 0.0);
        let Self { shared, pretrain, distill, .. } = self;
        let of_pretrain = |asked: &dyn Fn(&PretrainConfig) -> bool| pretrain.is_some_and(asked);
        let of_distill = |asked: &dyn Fn(&DistillConfig) -> bool| distill.is_some_and(asked);
        let has_neighbours = method.has_neighbours() && *method != Method::Nnbyol;
        let is_compress = matches!(method, Method::Compress1q | Method::Compress2q);
        let has_temperature = matches!(method, Method::MocoV2 | Method::Isd) || is_compress;
        let temperature = of_pretrain(&|c| c.temperature.is_some()) || of_distill(&|c| c.temperature.is_some());
        let flags = [
            ("--topk", of_pretrain(&|c| c.topk.is_some()), has_neighbours, "msf and cmsf"),
            ("--clusters", of_pretrain(&|c| c.clusters.is_some()), *method == Method::CmsfKm, "cmsf-km"),
            ("--labels", of_pretrain(&|c| c.labels.is_some()), *method == Method::CmsfSemi, "cmsf-semi"),
            ("--threshold", of_pretrain(&|c| c.threshold.is_some()), *method == Method::CmsfSemi, "cmsf-semi"),
            ("--temperature", temperature, has_temperature, "moco-v2, isd and compress"),
            ("--teacher-temperature", of_pretrain(&|c| c.teacher_temperature.is_some()), *method == Method::Isd, "isd"),
            ("--layers", of_distill(&|c| c.layers.is_some()), *method == Method::Simreg, "simreg"),
            ("--cache", of_distill(&|c| c.cache.is_some()), settled.teacher_views > 0, "--teacher-views above 0"),
            ("--bank", shared.bank.is_some(), method.has_bank(), "methods with a memory bank"),
            ("--ema", shared.train.ema.is_some(), method.has_target(), "methods with a target network"),
            ("--blur", shared.blur.is_some(), strong, "strong views"),
            ("--solarize", shared.solarize.is_some(), strong, "strong views"),
        ];
        match flags.iter().find(|(_, given, used, _)| *given && !used) {
            None => Ok(()),
            Some((flag, _, _, owner)) => Err(Error::Input(format!("{flag} belongs to {owner}"))),
        }
    }
}

impl Settled {
    /// Whether everything fits the images.
    fn check(&self, train: &ImageSet) -> Result<()> {
        let wrong = |message: String| Err(Error::Input(message));
        let Self { method, bank, topk, clusters, recipe, .. } = self;
        let n = train.len();
        if method.has_bank() && (*bank == 0 || !bank.is_multiple_of(recipe.batch) || !bank.is_multiple_of(4)) {
            let batch = recipe.batch;
            return wrong(format!("--bank {bank}: a multiple of the batch of {batch} and of 4 wanted"));
        }
        if method.has_neighbours() && !(1..=MOST.min(*bank)).contains(topk) {
            return wrong(format!("--topk {topk}: 1 to {} wanted, with a bank of {bank}", MOST.min(*bank)));
        }
        if method.needs_labels() && !train.is_labelled() {
            return wrong(format!("{}: no labels, which this method learns from", train.name));
        }
        if *method == Method::CmsfKm && !(1..=n).contains(clusters) {
            return wrong(format!("--clusters {clusters}: 1 to {n} wanted, as there are {n} images"));
        }
        for (name, value) in [("--temperature", self.temperature), ("--teacher-temperature", self.teacher_temperature)]
        {
            if !(0.001..=100.0).contains(&value) {
                return wrong(format!("{name} {value}: 0.001 to 100 wanted"));
            }
        }
        if !(self.labels > 0.0 && self.labels <= 1.0) {
            return wrong(format!("--labels {}: above 0 and up to 1 wanted", self.labels));
        }
        if self.threshold.is_nan() || self.threshold <= 0.0 {
            return wrong(format!("--threshold {}: above 0 wanted", self.threshold));
        }
        if !matches!(self.layers, 1 | 2 | 4) {
            return wrong(format!("--layers {}: 1, 2 or 4 wanted", self.layers));
        }
        if method.is_distilled() && self.teacher.is_none() {
            return wrong("distillation needs a teacher: --teacher FILE".into());
        }
        Ok(())
    }

    /// What a user should know about the settings before hours are spent on them.
    pub(super) fn warnings(&self, n_images: usize, n_classes: usize) -> Vec<String> {
        let Self { method, bank, topk, clusters, .. } = self;
        let mut warnings = Vec::new();
        if method.has_bank() && *bank > n_images {
            let times = *bank as f64 / n_images as f64;
            warnings.push(format!(
                "a bank of {bank} holds each of {n_images} images {times:.1} times, so that most neighbours are older views of the \
                 same image"
            ));
        }
        let parts = match method {
            Method::CmsfKm => *clusters,
            Method::CmsfSup => n_classes.max(1),
            _ => 1,
        };
        if parts > 1 && bank / parts < *topk {
            warnings.push(format!(
                "a bank of {bank} holds {:.1} entries for each of {parts} parts, fewer than the {topk} neighbours asked for: means \
                 are of those there are",
                *bank as f64 / parts as f64
            ));
        }
        warnings
    }
}

/// A method's usual views.
fn recipe_of(method: Method, strong: bool, small: bool) -> views::Recipe {
    let usual = if strong { views::Recipe::STRONG } else { views::Recipe::WEAK };
    // CompRess cuts as supervised training does.
    let least = if matches!(method, Method::Compress1q | Method::Compress2q) { 0.08 } else { usual.area[0] };
    views::Recipe { area: [least, usual.area[1]], blur: if small { 0.0 } else { usual.blur }, ..usual }
}

/// Views as flags ask for them, over what they would be.
fn over(flags: &SharedFlags, usual: views::Recipe) -> views::Recipe {
    // Blur and solarisation are of strong views, which alone change colours.
    let strong = usual.jitter.p > 0.0;
    views::Recipe {
        area: [flags.crop_min.map_or(usual.area[0], |area| area as f32), usual.area[1]],
        blur: flags.blur.filter(|_| strong).map_or(usual.blur, |p| p as f32),
        solarize: flags.solarize.filter(|_| strong).map_or(usual.solarize, |p| p as f32),
        filter: if flags.bicubic { views::Filter::Bicubic } else { usual.filter },
        ..usual
    }
}

/// A quarter of the images and at most MSF's, in whole batches, at least one.
fn usual_bank(n: usize, batch: usize) -> usize {
    let unit = if batch.is_multiple_of(4) { batch } else { 4 * batch };
    (n / 4).clamp(1, USUAL_BANK).div_ceil(unit).max(1) * unit
}

/// The method's recipe: on large images that of the papers (SGD, 0.05, decay 1e-4, 200 epochs), on small ones that of the known
/// CIFAR runs (0.06 for 128 images, decay 5e-4), both with a cosine.
fn usual_recipe(method: Method, n: usize, small: bool, paper_exact: bool, flags: &SharedFlags) -> Recipe {
    let usual_batch = if small { 128 } else { 256 };
    let batch = flags.train.batch.unwrap_or(usual_batch).clamp(1, n.max(1));
    let per_epoch = (n / batch).max(1) as f64;
    let epochs = if method.is_distilled() { 130.0 } else { 200.0 };
    let steps = flags.train.steps.unwrap_or((flags.train.epochs.unwrap_or(epochs) * per_epoch).round() as u64);
    let every = if paper_exact { "epoch" } else { "step" };
    let lr = match method {
        Method::MocoV2 if !small => 0.03,
        Method::Compress1q | Method::Compress2q if !small => 0.01,
        Method::Simsiam if !small => 0.05 * batch as f64 / 256.0,
        _ if small => 0.06 * batch as f64 / 128.0,
        _ => 0.05,
    };
    let course = format!("cosine:every={every}");
    let schedule = course.parse().unwrap_or_else(|_| Schedule::default());
    Recipe {
        steps,
        batch,
        micro_batch: batch,
        lr,
        schedule,
        rule: Rule::Sgd { momentum: 0.9, nesterov: false },
        decay: if small { 5e-4 } else { 1e-4 },
        clip: None,
        ema: method.has_target().then_some(match method {
            Method::MocoV2 | Method::Compress2q if !small => 0.999,
            _ => 0.99,
        }),
        ema_course: EmaCourse::Constant,
        precision: Precision::F32,
        seed: 0,
    }
}

/// The network called `arch`, `width` times as wide, with the stem for these images.
pub(super) fn backbone(arch: &str, width: f64, stem: StemChoice, side: usize) -> Result<ModelSpec> {
    // A width in the name stands behind the stem.
    let (base, of_name) = match arch.rsplit_once("_x") {
        Some((base, factor)) if factor.parse::<f64>().is_ok() => (base, factor.parse().unwrap_or(1.0)),
        _ => (arch, 1.0),
    };
    let plain = ModelSpec::by_name(arch)?;
    let wants_cifar = match stem {
        StemChoice::Auto => side <= SMALL,
        StemChoice::Cifar => true,
        StemChoice::Imagenet => false,
    };
    let stemmed = if wants_cifar && plain.image() > SMALL && !plain.image_is_fixed() {
        format!("{base}_cifar")
    } else {
        base.to_string()
    };
    let width = width * of_name;
    let name = if width == 1.0 { stemmed } else { format!("{stemmed}_x{width}") };
    ModelSpec::by_name(&name).map_err(|_| Error::Input(format!("{arch} does not come {width} times as wide")))
}

//! Training a network on labelled images.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::config::{Augment, TrainConfig};
use crate::data::{self, ImageSet, Normalize, Split, Wanted};
use crate::methods::images::usual_batch;
use crate::methods::score::judge;
use crate::methods::training::{
    EmaCourse, Outcome, Pixels, RESIDENT_BYTES, Recipe, Start, TrainFlags, Trainer, given, refuse_old_run, scale_shift,
    settled_before, to_value,
};
use crate::nn::{Hints, Model, ModelSpec, Precision, Rule, Schedule, Training, Weights, initial};
use crate::ops::augment::{CropFlip, crop_flip};
use crate::ops::elementwise::{cast, from_bytes};
use crate::ops::gather::index_select;
use crate::ops::random::Key;
use crate::ops::{reduce, softmax};
use crate::philox::stream;
use crate::report::{CommonFlags, Lines, Metrics, Page, Run, bytes, number};
use crate::{DType, Error, Result, Runtime, Tensor};

/// Share of a batch's statistics that goes into the running ones: PyTorch's.
const STATISTICS_MOMENTUM: f32 = 0.1;

/// Everything that fixes a run of `classify train`; a resumed run must have it in common with the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settled {
    /// Name of the network.
    pub arch: String,
    /// Factor of its channels.
    pub width: f64,
    /// The images.
    pub data: String,
    /// Training images at most.
    pub images: Option<u32>,
    /// Test images at most.
    pub test_images: Option<u32>,
    /// Side that pictures are made to.
    pub side: Option<u32>,
    /// Input normalisation.
    pub normalize: String,
    /// What happens to training images.
    pub augment: Augment,
    /// Share of the target that goes to all classes alike.
    pub label_smoothing: f64,
    /// Whether blocks keep only their input.
    pub recompute: bool,
    /// The recipe.
    pub recipe: Recipe,
}

/// A training run whose flags and images are read and checked; needs no device yet.
#[derive(Debug)]
pub struct TrainRun {
    settled: Settled,
    spec: ModelSpec,
    train: ImageSet,
    test: ImageSet,
    /// Where results go.
    folder: Option<PathBuf>,
    resumed: bool,
}

/// What a training run came to.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    /// The network.
    pub network: String,
    /// The images.
    pub data: String,
    /// Test images whose likeliest class is right, in percent; absent from a run that is not at its end.
    pub top1: Option<f64>,
    /// Those whose class is among the five likeliest, in percent.
    pub top5: Option<f64>,
    /// The same for the average of the weights, if there is one.
    pub top1_ema: Option<f64>,
    /// Test images.
    pub n_test: usize,
    /// Losses, speed, memory.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Training images per second.
    pub images_per_s: f64,
    /// The adapter.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
    /// Its driver.
    pub driver: String,
}

impl TrainRun {
    /// Settles the flags, those of the run in `--resume` where they say nothing, and reads the images.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with flags, images or the run to go on with.
    pub fn prepare(config: &TrainConfig, common: &CommonFlags) -> Result<Self> {
        Self::settle(config, common, None)
    }

    /// As [`TrainRun::prepare`], on images of a program's own instead of those that `data` names: training and test set.
    ///
    /// # Errors
    /// As [`TrainRun::prepare`].
    pub fn on(config: &TrainConfig, common: &CommonFlags, train: ImageSet, test: ImageSet) -> Result<Self> {
        Self::settle(config, common, Some((train, test)))
    }

    fn settle(config: &TrainConfig, common: &CommonFlags, own: Option<(ImageSet, ImageSet)>) -> Result<Self> {
        let resume = config.train.resume.as_deref();
        let before: Option<Settled> = resume.map(|folder| settled_before(folder, "classify train")).transpose()?;
        if resume.is_none() {
            refuse_old_run(common.out.as_deref())?;
        }
        let before_ref = before.as_ref();
        let arch = given(&config.arch, before_ref.map(|b| &b.arch), || "resnet20".into());
        let width = given(&config.width, before_ref.map(|b| &b.width), || 1.0);
        let mut spec = network(&arch, width)?;
        let data = given(&config.data, before_ref.map(|b| &b.data), || "shapes".into());
        let images = config.images.or(before_ref.and_then(|b| b.images));
        let test_images = config.test_images.or(before_ref.and_then(|b| b.test_images));
        let side = config.side.or(before_ref.and_then(|b| b.side));
        let seed = before_ref.filter(|_| common.seed == 0).map_or(common.seed, |b| b.recipe.seed);
        let open = |split, n: Option<u32>| {
            let side = side.map_or(spec.image(), |side| side as usize);
            data::open(&data, &Wanted { n: n.map(|n| n as usize), side: Some(side), seed, ..Wanted::new(split) })
        };
        let (train, test) = match own {
            Some(sets) => sets,
            None => (open(Split::Train, images)?, open(Split::Test, test_images)?),
        };
        judgeable(&train, &test)?;
        spec.set_classes(train.n_classes);
        spec.set_channels(train.channels);
        if spec.image_is_fixed() && [train.height, train.width] != [spec.image(); 2] {
            let (h, w, want) = (train.height, train.width, spec.image());
            return Err(Error::Input(format!("{}: images of {h}x{w} pixels, {spec} takes {want}x{want}", train.name)));
        }
        spec.plan().summary([train.height, train.width])?;
        let normalize = given(&config.normalize, before_ref.map(|b| &b.normalize), || {
            let usual = if train.channels == 3 { "cifar" } else { "0.5/0.5" };
            let fits = |known: &&str| known.parse::<Normalize>().and_then(|n| n.mean_std(train.channels)).is_ok();
            spec.known_normalization().filter(fits).unwrap_or(usual).into()
        });
        normalize.parse::<Normalize>()?.mean_std(train.channels)?;
        let usual_augment = || if train.channels == 3 { Augment::CropFlip } else { Augment::Crop };
        let augment = given(&config.augment, before_ref.map(|b| &b.augment), usual_augment);
        let label_smoothing = given(&config.label_smoothing, before_ref.map(|b| &b.label_smoothing), || 0.0);
        if !(0.0..1.0).contains(&label_smoothing) {
            return Err(Error::Input(format!("--label-smoothing {label_smoothing}: at least 0 and below 1 wanted")));
        }
        let usual = before_ref.map_or_else(|| usual_recipe(&spec, train.len(), &config.train), |b| b.recipe.clone());
        let recipe = Recipe::settle(&config.train, Recipe { seed, ..usual }, train.len())?;
        let recompute = config.train.recompute || before_ref.is_some_and(|b| b.recompute);
        let settled = Settled {
            arch,
            width,
            data,
            images,
            test_images,
            side,
            normalize,
            augment,
            label_smoothing,
            recompute,
            recipe,
        };
        let run = Self {
            settled,
            spec,
            train,
            test,
            folder: resume.map(Path::to_path_buf).or_else(|| common.out.clone()),
            resumed: resume.is_some(),
        };
        if let (Some(before), Some(folder)) = (&before, resume) {
            run.same_as(before, folder)?;
        }
        Ok(run)
    }

    /// An error that lists what differs from the run before.
    fn same_as(&self, before: &Settled, folder: &Path) -> Result<()> {
        crate::methods::training::same_config(
            &folder.display().to_string(),
            &to_value(before)?,
            &to_value(&self.settled)?,
        )
    }

    /// What fixes the run, for `run.json`.
    #[must_use]
    pub fn settled(&self) -> &Settled {
        &self.settled
    }

    /// The folder that results go to.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What training takes on the device at least, in bytes: weights, gradients, the optimizer's state, and the activations
    /// that the backward pass needs.
    ///
    /// # Errors
    /// As [`crate::nn::Plan::summary`].
    pub fn memory_bytes(&self) -> Result<u64> {
        let plan = self.spec.plan();
        let recipe = &self.settled.recipe;
        let kept = plan.kept_bytes([self.train.height, self.train.width], self.settled.recompute, recipe.precision)?;
        let copies = 2 + recipe.rule.n_moments() as u64 + u64::from(recipe.ema.is_some());
        let half_copy = if recipe.precision == Precision::F16 { 2 * plan.params.n_trained() } else { 0 };
        let image_bytes = self.train.images.len().min(RESIDENT_BYTES) as u64;
        Ok(4 * plan.params.n_trained() * copies + half_copy + kept * recipe.micro_batch as u64 + image_bytes)
    }

    /// Whether an adapter can hold the tensors of a micro-batch, and has their type, found out before any work is done.
    ///
    /// # Errors
    /// [`Error::Limit`] if the largest passes what a kernel may bind, [`Error::Feature`] for f16 where there is none.
    pub fn check(&self, runtime: &Runtime) -> Result<()> {
        let profile = runtime.profile();
        if self.settled.recipe.precision == Precision::F16 && !profile.features.f16 {
            return Err(Error::Feature {
                what: "--precision f16".into(),
                feature: "16-bit floats in shaders".into(),
                adapter: profile.name.clone(),
            });
        }
        let summary = self.spec.plan().summary([self.train.height, self.train.width])?;
        let largest = summary.rows.iter().map(|row| row.output.iter().product::<usize>() as u64).max().unwrap_or(0);
        let batch = self.settled.recipe.micro_batch;
        let (asked, limit) = (
            self.settled.recipe.precision.dtype().bytes() as u64 * largest * batch as u64,
            profile.limits.binding_bytes.min(profile.limits.buffer_bytes),
        );
        if let Some(limit) =
            runtime.options().memory_limit.filter(|limit| self.memory_bytes().is_ok_and(|n| n > *limit))
        {
            let asked = self.memory_bytes()?;
            return Err(Error::Limit {
                what: "bytes of training".into(),
                asked,
                limit,
                adapter: "the memory limit".into(),
            });
        }
        if asked <= limit {
            return Ok(());
        }
        let what = format!("bytes of the largest tensor at {batch} images at once, which --micro-batch lowers");
        Err(Error::Limit { what, asked, limit, adapter: profile.name.clone() })
    }

    /// Trains to the end, or as far as the flags say, then judges the network on the test images.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run(&self, runtime: &Runtime, config: &TrainConfig, out: &Run, quiet: bool) -> Result<TrainReport> {
        let Settled { recipe, normalize, augment, label_smoothing, recompute, .. } = &self.settled;
        if !quiet {
            eprintln!("{}: training takes about {} on the device", self.spec, bytes(self.memory_bytes()?));
        }
        runtime.reset_peak_memory();
        let plan = self.spec.plan();
        let weights = initial(&self.spec, recipe.seed)?;
        let model = Model::new(runtime, &self.spec, &weights)?;
        let (trained, buffers) = plan.params.for_arenas(&weights);
        let start = Start { trained, buffers, kept: Vec::new() };
        let config_value = to_value(&self.settled)?;
        let n = self.train.len();
        let mut trainer = Trainer::new(runtime, recipe, config_value, start, n, self.folder(), self.resumed)?;
        if self.resumed && !quiet {
            eprintln!("going on behind step {} of {}", trainer.step(), trainer.n_steps());
        }
        let statistics = trainer.buffers()?;
        let training = Training::new(STATISTICS_MOMENTUM, *recompute);
        let network = model.over(trainer.leaves(), &statistics)?.training(training);
        let judged = model.over(&trainer.parameters()?, &statistics)?;
        let averaged = trainer.average()?.map(|average| model.over(&average, &statistics)).transpose()?;
        drop(model);

        let mean_std = normalize.parse::<Normalize>()?.mean_std(self.train.channels)?;
        let (scale, shift) = scale_shift(runtime, &mean_std)?;
        let pixels = Pixels::new(runtime, Cow::Borrowed(&self.train), recipe, RESIDENT_BYTES)?;
        let pad = if *augment == Augment::None { 0 } else { self.train.height.min(self.train.width) / 8 };
        let flip = *augment == Augment::CropFlip;
        let labels = Tensor::from_slice(runtime, &self.train.labels, &[n])?;
        let key = Key { seed: recipe.seed, stream: stream::CROP_FLIP, step: 0 };
        let dtype = recipe.precision.dtype();
        let mut loss = |batch: &crate::methods::training::Batch| {
            let (images, ids) = pixels.of(batch)?;
            let draw = Some(&batch.draw);
            let x = crop_flip(&images, &ids, draw, &scale, &shift, &CropFlip { pad, flip, key }, dtype)?;
            let labels = index_select(&labels, 0, &batch.items)?;
            let logits = cast(&network.forward(&x)?, DType::F32)?;
            let losses = softmax::cross_entropy(&logits, &labels, *label_smoothing as f32)?;
            reduce::mean_all(&losses)
        };
        let mut feed = |_, items: &[u32]| pixels.send(items);
        let activation_bytes = plan.summary([self.train.height, self.train.width])?.activation_bytes;
        let batch = usual_batch(runtime, activation_bytes).min(self.test.len());
        let score = |model: &Model, quiet: bool| {
            let mut logits = |images: &Tensor| model.forward(&from_bytes(images, &scale, &shift, DType::F32)?);
            judge(runtime, &self.test, batch, quiet, &mut logits).map(|(score, _)| score)
        };
        let mut evaluate = |_| {
            let score = score(&judged, true)?;
            Ok(Map::from_iter([("top1".to_string(), score.percent(score.top1).into())]))
        };
        let done = trainer.step();
        let (mut metrics, before) = Metrics::go_on(self.folder(), if self.resumed { done } else { 0 })?;
        let mut outcome = trainer.run(&config.train, &mut metrics, quiet, &mut feed, &mut loss, &mut evaluate)?;
        outcome.splice(&before, "top1");

        let ended = trainer.step() == trainer.n_steps();
        let final_score = ended.then(|| score(&judged, quiet)).transpose()?;
        let ema_score = averaged.as_ref().filter(|_| ended).map(|model| score(model, quiet)).transpose()?;
        let profile = runtime.profile();
        let report = TrainReport {
            network: self.spec.to_string(),
            data: format!("{} ({})", self.train.name, self.train.source),
            top1: final_score.map(|score| score.percent(score.top1)),
            top5: final_score.map(|score| score.percent(score.top5)),
            top1_ema: ema_score.map(|score| score.percent(score.top1)),
            n_test: self.test.len(),
            images_per_s: outcome.items_per_s,
            outcome,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
        };
        let known =
            before.iter().any(|line| line["step"].as_u64() == Some(trainer.step()) && line.get("top1").is_some());
        if let Some(top1) = report.top1.filter(|_| !known) {
            metrics.log(&serde_json::json!({ "step": trainer.step(), "top1": top1 }))?;
        }
        if let Some(folder) = self.folder() {
            self.save(folder, "weights", &judged.weights()?)?;
            if let Some(model) = &averaged {
                self.save(folder, "weights_ema", &model.weights()?)?;
            }
        }
        out.page(&self.page(&report))?;
        Ok(report)
    }

    /// Writes weights under their published names, and beside them what names and shapes do not say.
    fn save(&self, folder: &Path, name: &str, weights: &Weights) -> Result<()> {
        let path = folder.join(name).with_extension("safetensors");
        weights.save(&path, &self.spec.plan().params, &std::collections::BTreeMap::new())?;
        let hints = Hints {
            normalize: Some(self.settled.normalize.clone()),
            classes: Some(self.train.class_names.clone()),
            ..Hints::of(&self.spec)
        };
        crate::report::write_json(&Hints::path(&path), &to_value(&hints)?)
    }

    fn page(&self, report: &TrainReport) -> Page {
        let mut page = Page::new(&format!("classify train: {}", report.network), &report.data);
        let Settled { recipe, .. } = &self.settled;
        let outcome = &report.outcome;
        let top1 = report.top1.map_or("not judged yet".into(), |top1| format!("{top1:.2} %"));
        page.facts([
            ("top-1", format!("{top1} of {} test images", report.n_test)),
            ("steps", format!("{} of {}, batches of {}", outcome.steps, recipe.steps, recipe.batch)),
            ("loss", format!("{} at first, {} at last", number(outcome.loss_first), number(outcome.loss_last))),
            ("speed", format!("{} images/s on {}", number(report.images_per_s), report.adapter)),
            ("memory", bytes(outcome.peak_device_bytes)),
        ]);
        if let (Some(scale), Some(skipped)) = (outcome.loss_scale, outcome.skipped_steps) {
            page.facts([("loss scale", format!("{scale} at last, {skipped} steps skipped"))]);
        }
        page.heading("Loss");
        let mut lines = Lines::new("step", "training loss");
        lines.line("loss", outcome.losses.iter().map(|&(step, loss)| (step as f64, loss)));
        page.lines(&lines);
        if !outcome.evaluations.is_empty() || report.top1.is_some() {
            page.heading("Accuracy");
            let mut lines = Lines::new("step", "top-1 of the test images, %");
            let last = report.top1.map(|top1| (outcome.steps, top1));
            let judged =
                outcome.evaluations.iter().filter_map(|(step, figures)| Some((*step, figures.get("top1")?.as_f64()?)));
            let points = judged.chain(last);
            lines.line("top-1", points.map(|(step, top1)| (step as f64, top1)));
            page.lines(&lines);
        }
        page
    }
}

/// An error unless a network that learns from one set can be judged by the other.
fn judgeable(train: &ImageSet, test: &ImageSet) -> Result<()> {
    for set in [train, test] {
        if set.is_empty() {
            return Err(Error::Input(format!("{}: no image in it", set.name)));
        }
        set.need_labels("supervised training")?;
    }
    let kind = |set: &ImageSet| (set.height, set.width, set.channels, set.n_classes);
    if kind(train) != kind(test) {
        let text = |set: &ImageSet| {
            let (height, width, channels, classes) = kind(set);
            format!("{height}x{width}x{channels} in {classes} classes")
        };
        let message = format!("training images are {}, test images {}", text(train), text(test));
        return Err(Error::Input(format!("{}: {message}", train.name)));
    }
    // A source without halves is taken whole for either.
    let n = train.images.len().min(test.images.len());
    if train.images[..n] == test.images[..n] {
        let message = "the test images are those it would learn from; folders have train/ and test/";
        return Err(Error::Input(format!("{}: {message}", train.name)));
    }
    Ok(())
}

/// The network called `arch`, `width` times as wide.
fn network(arch: &str, width: f64) -> Result<ModelSpec> {
    let spec = ModelSpec::by_name(arch)?;
    if width == 1.0 {
        return Ok(spec);
    }
    ModelSpec::by_name(&format!("{arch}_x{width}"))
        .map_err(|_| Error::Input(format!("--width {width}: {spec} does not come in this width")))
}

/// The usual recipe: He et al. 2015 for convolutional networks (SGD, momentum 0.9, decay 1e-4), `DeiT`'s for transformers
/// (`AdamW`, decay 0.05, warm-up), both with a cosine over ten epochs.
fn usual_recipe(spec: &ModelSpec, n: usize, flags: &TrainFlags) -> Recipe {
    let batch = flags.batch.unwrap_or(128).clamp(1, n.max(1));
    let per_epoch = (n / batch).max(1) as f64;
    let steps = flags.steps.unwrap_or((flags.epochs.unwrap_or(10.0) * per_epoch).round() as u64);
    let recipe = Recipe {
        steps,
        batch,
        micro_batch: batch,
        lr: 0.1,
        schedule: Schedule::default(),
        rule: Rule::Sgd { momentum: 0.9, nesterov: false },
        decay: 1e-4,
        clip: None,
        ema: None,
        ema_course: EmaCourse::Constant,
        precision: Precision::F32,
        seed: 0,
    };
    match spec {
        ModelSpec::Vit(_) => Recipe {
            lr: 1e-3,
            schedule: Schedule { warmup: steps / 20, ..Schedule::default() },
            rule: Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: true },
            decay: 0.05,
            ..recipe
        },
        ModelSpec::MnistCnn(_) => Recipe { lr: 0.05, ..recipe },
        _ => recipe,
    }
}

impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { steps, loss_first, loss_last, seconds, host_ms_per_step, peak_device_bytes, .. } = &self.outcome;
        writeln!(f, "{}", self.network)?;
        writeln!(f, "{}", self.data)?;
        writeln!(f, "loss {} at first, {} behind step {steps}", number(*loss_first), number(*loss_last))?;
        if let (Some(top1), Some(top5)) = (self.top1, self.top5) {
            writeln!(f, "top-1 {top1:.2} %, top-5 {top5:.2} % of {} test images", self.n_test)?;
        }
        if let Some(top1) = self.top1_ema {
            writeln!(f, "top-1 {top1:.2} % with the average of the weights")?;
        }
        if let (Some(scale), Some(skipped)) = (self.outcome.loss_scale, self.outcome.skipped_steps) {
            writeln!(f, "mixed precision: loss scale {scale} at last, {skipped} steps skipped")?;
        }
        let (speed, peak) = (number(self.images_per_s), bytes(*peak_device_bytes));
        write!(
            f,
            "{speed} images/s, {} s in all, {} ms of host time a step, {peak} on {} ({})",
            number(*seconds),
            number(*host_ms_per_step),
            self.adapter,
            self.backend
        )
    }
}

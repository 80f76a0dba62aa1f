//! A training without labels, or from a teacher: from flags to weights.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Map;

use super::backbone::save_backbone;
use super::config::{BankPrecision, DistillConfig, PretrainConfig};
use super::encoder::{Encoder, EncoderSpec};
use super::features::extract;
use super::guide::{Guide, GuideSpec};
use super::judge::{Judge, Judges};
use super::knn::Knn;
use super::memory::{Memory, MemorySpec};
use super::method::Method;
use super::pseudo::{Pseudo, few_labels};
use super::report::{Said, SslReport, page};
use super::settle::{Asked, Settled, backbone};
use super::sheet::{SHEET_VIEWS, sheet_of};
use super::step::{BANK_STEPS, Step};
use super::teacher::{Teacher, VIEW_STREAM};
use crate::data::{self, ImageSet, Normalize, Picture, Split, Wanted};
use crate::files::check_writable;
use crate::methods::NetworkFlags;
use crate::methods::images::usual_batch;
use crate::methods::training::{
    Batch, Order, Pixels, RESIDENT_BYTES, Start, TrainFlags, Trainer, refuse_old_run, same_config, scale_shift,
    settled_before, to_value,
};
use crate::nn::{Hints, Precision, Training, Weights};
use crate::ops::random::Key;
use crate::ops::views::Views;
use crate::philox::stream;
use crate::report::{CommonFlags, Metrics, Run, bytes};
use crate::{DType, Error, Result, Runtime, Tensor};

/// Share of a batch's statistics that goes into the running ones: PyTorch's.
const STATISTICS_MOMENTUM: f32 = 0.1;
/// Entries of the bank of methods that only look at it, at least.
const LOOKED_AT: usize = 1024;

/// A training whose flags and images are read and checked; needs no device yet.
#[derive(Debug)]
pub struct SslRun {
    settled: Settled,
    spec: EncoderSpec,
    train: ImageSet,
    judges: Option<Judges>,
    /// Why there are none.
    note: Option<String>,
    teacher: Option<Teacher>,
    flags: TrainFlags,
    linear: bool,
    show_views: bool,
    folder: Option<PathBuf>,
    resumed: bool,
}

impl SslRun {
    /// Settles the flags of `ssl pretrain`, those of the run in `--resume` where they say nothing, and reads images.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with flags, images or the run to go on with.
    pub fn pretrain(config: &PretrainConfig, common: &CommonFlags) -> Result<Self> {
        Self::settle(&config.into(), common, None)
    }

    /// As [`SslRun::pretrain`], on images of a program's own instead of those that `data` names: those to learn from, and
    /// labelled ones to judge by with the former as their bank.
    ///
    /// # Errors
    /// As [`SslRun::pretrain`].
    pub fn pretrain_on(
        config: &PretrainConfig,
        common: &CommonFlags,
        train: ImageSet,
        test: Option<ImageSet>,
    ) -> Result<Self> {
        Self::settle(&config.into(), common, Some((train, test)))
    }

    /// As [`SslRun::pretrain`], for `ssl distill`.
    ///
    /// # Errors
    /// As [`SslRun::pretrain`].
    pub fn distill(config: &DistillConfig, common: &CommonFlags) -> Result<Self> {
        Self::settle(&config.into(), common, None)
    }

    fn settle(asked: &Asked<'_>, common: &CommonFlags, own: Option<(ImageSet, Option<ImageSet>)>) -> Result<Self> {
        let shared = asked.shared;
        let resume = shared.train.resume.as_deref();
        let command = "ssl pretrain or ssl distill";
        let before: Option<Settled> = resume.map(|folder| settled_before(folder, command)).transpose()?;
        let before = before.as_ref();
        if resume.is_none() {
            refuse_old_run(common.out.as_deref())?;
        }
        let named = asked.named(before, common.seed)?;
        let n = shared.images.or(before.and_then(|b| b.images)).map(|n| n as usize);
        let n_test = shared.test_images.or(before.and_then(|b| b.test_images)).map(|n| n as usize);
        // The network's usual side, for pictures that come in sizes of their own.
        let usual = backbone(&named.arch, named.width, named.stem, usize::MAX)?;
        let side = shared.side.or(before.and_then(|b| b.side)).map_or(usual.image(), |side| side as usize);
        let wanted = |split, n| Wanted {
            n,
            side: Some(side),
            seed: named.seed,
            skip_bad: shared.skip_bad || before.is_some_and(|b| b.skip_bad),
            ..Wanted::new(split)
        };
        let (train, own_test) = match own {
            Some((train, test)) => (train, Some(test)),
            None => (data::open_unlabelled(&named.data, &wanted(Split::Train, n))?, None),
        };
        if train.is_empty() {
            return Err(Error::Input(format!("{}: no image in it", train.name)));
        }
        let mut spec = backbone(&named.arch, named.width, named.stem, train.height.max(train.width))?;
        spec.set_channels(train.channels);
        if spec.image_is_fixed() && [train.height, train.width] != [spec.image(); 2] {
            let (h, w, want) = (train.height, train.width, spec.image());
            return Err(Error::Input(format!("{}: images of {h}x{w} pixels, {spec} takes {want}x{want}", train.name)));
        }
        spec.plan().summary([train.height, train.width])?;
        let mut note = None;
        let judges = match (&named.eval_data, own_test) {
            (_, Some(test)) => test.map(|test| Judges { bank: None, test }),
            (Some(eval), None) => {
                let open = |split, n| data::open(eval, &wanted(split, n));
                let (bank, test) = (open(Split::Train, None)?, open(Split::Test, n_test)?);
                need_two_halves(&bank, &test)?;
                Some(Judges { bank: Some(bank), test })
            }
            (None, None) if train.is_labelled() => match data::open(&named.data, &wanted(Split::Test, n_test)) {
                // A source without halves gives the same images again.
                Ok(test) if !same_images(&train, &test) => Some(Judges { bank: None, test }),
                Ok(_) => {
                    note = Some(format!("{} has no test images of its own, so features are not judged", train.name));
                    None
                }
                Err(error) => {
                    note = Some(format!("features are not judged: {error}"));
                    None
                }
            },
            (None, None) => {
                note = Some(format!(
                    "{}: images without classes; --eval-data names labelled ones to judge features by",
                    train.name
                ));
                None
            }
        };
        if shared.linear && judges.is_none() {
            return Err(Error::Input(
                "--linear: no labelled images to judge features by; --eval-data names some".into(),
            ));
        }
        if let Some(Judges { bank, test }) = &judges {
            bank.iter().chain([test]).try_for_each(|set| fits(&train, set))?;
        }
        let settled = asked.settle(named, before, &spec, &train)?;
        if let (Some(before), Some(folder)) = (before, resume) {
            same_config(&folder.display().to_string(), &to_value(before)?, &to_value(&settled)?)?;
        }
        let teacher =
            settled.teacher.as_deref().map(|path| Teacher::load(path, &NetworkFlags::default(), &train)).transpose()?;
        let n_teacher = teacher.as_ref().map_or(0, Teacher::n_features);
        if let Some(cache) = settled.cache.as_deref().filter(|_| settled.teacher_views > 0) {
            std::fs::create_dir_all(cache).map_err(|e| Error::io(cache, &e))?;
            check_writable(&cache.join("teacher_features.safetensors"))?;
        }
        let heads = settled.method.heads(spec.plan().n_features(), settled.heads, n_teacher, settled.layers);
        Ok(Self {
            spec: EncoderSpec { backbone: spec, heads },
            judges,
            note,
            teacher,
            flags: shared.train.clone(),
            linear: shared.linear,
            show_views: shared.show_views,
            folder: resume.map(Path::to_path_buf).or_else(|| common.out.clone()),
            resumed: resume.is_some(),
            settled,
            train,
        })
    }

    /// The images that it learns from.
    #[must_use]
    pub fn images(&self) -> &ImageSet {
        &self.train
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

    /// Multiply-adds of one image on its way through a step: trained networks count three times, forward, and backward to inputs
    /// and weights; targets once.
    ///
    /// # Errors
    /// As [`crate::nn::Plan::summary`].
    pub fn macs_per_image(&self) -> Result<u64> {
        let side = [self.train.height, self.train.width];
        let mut macs: Vec<u64> = Vec::new();
        for plan in self.spec.plans() {
            macs.push(match plan.params.iter().next() {
                Some(_) if macs.is_empty() => plan.summary(side)?.multiply_adds,
                _ => plan.params.iter().filter(|p| p.shape.len() == 2).map(|p| p.len() as u64).sum(),
            });
        }
        let (online, views) = (macs.iter().sum::<u64>(), 1 + u64::from(self.settled.method.is_symmetric()));
        // The predictor stands behind the trained network alone.
        let without = if self.spec.heads.predictor.is_some() { macs.last().copied().unwrap_or(0) } else { 0 };
        let target = if self.settled.method.has_target() { online - without } else { 0 };
        let of_teacher = match &self.teacher {
            Some(teacher) if self.settled.teacher_views == 0 => teacher.macs(side)?,
            _ => 0,
        };
        Ok(views * (3 * online + target) + of_teacher)
    }

    /// What training takes on the device at least, in bytes: weights, gradients, the optimizer's state, the average, the activations
    /// that the backward pass needs and those of a target network, views, bank and pools, images.
    ///
    /// # Errors
    /// As [`crate::nn::Plan::summary`].
    pub fn memory_bytes(&self) -> Result<u64> {
        let Settled { recipe, method, recompute, .. } = &self.settled;
        let side = [self.train.height, self.train.width];
        let n_trained: u64 = self.spec.plans().iter().map(|plan| plan.params.n_trained()).sum();
        let half = recipe.precision == Precision::F16;
        let copies = 2 + recipe.rule.n_moments() as u64 + u64::from(recipe.ema.is_some());
        let halves = if half { 2 * n_trained * (1 + u64::from(recipe.ema.is_some())) } else { 0 };
        let kept = self.spec.backbone.plan().headless().kept_bytes(side, *recompute, recipe.precision)?;
        let views = 1 + u64::from(method.is_symmetric());
        let d = self.target_width() as u64;
        let n = self.train.len() as u64;
        let pools = match method {
            Method::Cmsf2q => 2,
            Method::CmsfKm | Method::CmsfSemi => 1,
            _ => 0,
        };
        let entry = if self.settled.bank_precision == Some(BankPrecision::F32) { 4 } else { 2 };
        let rows = self.bank_rows() as u64 + pools * n;
        let of_student =
            if *method == Method::Compress2q { self.bank_rows() * self.spec.n_features() } else { 0 } as u64;
        let of_teacher = match &self.teacher {
            Some(teacher) => 4 * teacher.n_stored() + u64::from(self.settled.teacher_views) * n * 4 * d,
            None => 0,
        };
        let all = self.train.images.len();
        let images = if all <= RESIDENT_BYTES { all } else { self.train.image_bytes() * recipe.batch } as u64;
        let kept = views * kept * recipe.micro_batch as u64;
        // Two views, and one on its way; what is alive at once in a target network.
        let pixels = (side[0] * side[1] * recipe.micro_batch) as u64;
        let size = recipe.precision.dtype().bytes() as u64;
        let of_views = pixels * (16 + 2 * size * self.train.channels as u64);
        let live = self.spec.backbone.plan().summary(side)?.activation_bytes * recipe.micro_batch as u64 * size / 4;
        let of_target = if method.has_target() { live } else { 0 };
        let kept = kept + of_views + of_target;
        Ok(4 * n_trained * copies + halves + kept + entry * (rows * d + of_student) + of_teacher + images)
    }

    /// Whether an adapter can hold this, found out before any work is done.
    ///
    /// # Errors
    /// [`Error::Feature`] for f16 where there is none, [`Error::Limit`] past `memory_limit`.
    pub fn check(&self, runtime: &Runtime) -> Result<()> {
        let profile = runtime.profile();
        let f16 = profile.features.f16;
        let asked_for =
            self.settled.recipe.precision == Precision::F16 || self.settled.bank_precision == Some(BankPrecision::F16);
        if asked_for && !f16 {
            return Err(Error::Feature {
                what: "f16".into(),
                feature: "16-bit floats in shaders".into(),
                adapter: profile.name.clone(),
            });
        }
        let asked = self.memory_bytes()?;
        match runtime.options().memory_limit.filter(|limit| asked > *limit) {
            None => Ok(()),
            Some(limit) => {
                Err(Error::Limit { what: "bytes of training".into(), asked, limit, adapter: "the memory limit".into() })
            }
        }
    }

    /// Width of what is compared.
    fn target_width(&self) -> usize {
        let Settled { method, heads, .. } = &self.settled;
        match (method, &self.teacher) {
            (Method::Simreg | Method::Compress1q | Method::Compress2q, Some(teacher)) => teacher.n_features(),
            _ => self.spec.heads.projector.as_ref().map_or(heads.out, crate::nn::MlpSpec::n_out),
        }
    }

    /// Entries of the bank: those asked for, or few where they are only looked at.
    fn bank_rows(&self) -> usize {
        let Settled { method, bank, recipe, .. } = &self.settled;
        if method.has_bank() {
            return *bank;
        }
        let unit = if recipe.micro_batch.is_multiple_of(4) { recipe.micro_batch } else { 4 * recipe.micro_batch };
        LOOKED_AT.div_ceil(unit) * unit
    }

    /// Trains to the end, or as far as the flags say, judging features on the way.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run(&self, runtime: &Runtime, out: &Run, quiet: bool) -> Result<SslReport> {
        let recipe = &self.settled.recipe;
        if let Some(note) = &self.note {
            eprintln!("note: {note}");
        }
        for warning in self.settled.warnings(self.train.len(), self.train.n_classes) {
            eprintln!("warning: {warning}");
        }
        if !quiet {
            eprintln!("{}: training takes about {} on the device", self.spec.backbone, bytes(self.memory_bytes()?));
        }
        let start = Instant::now();
        runtime.reset_peak_memory();
        let n = self.train.len();
        let (mut trainer, step, judged) = self.set_up(runtime, Cow::Borrowed(&self.train), quiet)?;
        if self.resumed && !quiet {
            eprintln!("going on behind step {} of {}", trainer.step(), trainer.n_steps());
        }
        let sheet = self.show_views.then(|| self.sheet(runtime)).transpose()?;
        let judge = Judge {
            runtime,
            backbone: &judged.backbone,
            memory: &step.memory,
            train: &self.train,
            judges: self.judges.as_ref(),
            scale: &step.scale,
            shift: &step.shift,
            seed: recipe.seed,
        };
        let per_epoch = trainer.steps_per_epoch();
        let mut order = Order::new(n as u32, recipe.batch, recipe.seed);
        let mut feed = |at: u64, items: &[u32]| step.feed(at, per_epoch, &mut order, items);
        let done = trainer.step();
        let (mut metrics, before) = Metrics::go_on(self.folder(), if self.resumed { done } else { 0 })?;
        let flags = TrainFlags { eval_every: Some(self.settled.eval_every), ..self.flags.clone() };
        let mut evaluate = |_| judge.figures(true);
        let mut loss = |batch: &Batch| step.loss(batch);
        let mut outcome = trainer.run(&flags, &mut metrics, quiet, &mut feed, &mut loss, &mut evaluate)?;
        outcome.splice(&before, "spread");
        let ended = trainer.step() == trainer.n_steps();
        if ended && outcome.evaluations.last().is_none_or(|(at, _)| *at < trainer.step()) {
            let figures = judge.figures(quiet)?;
            let mut line = Map::from_iter([("step".to_string(), trainer.step().into())]);
            line.extend(figures.clone());
            metrics.log(&line)?;
            outcome.evaluations.push((trainer.step(), figures));
        }
        let teacher_knn = if ended { self.teacher_knn(runtime, quiet)? } else { None };
        let linear = (ended && self.linear).then(|| judge.linear(quiet)).transpose()?.flatten();
        let map = ended.then(|| judge.map()).transpose()?;
        if let Some(folder) = self.folder() {
            self.save(folder, &judged.backbone.weights()?)?;
        }
        outcome.seconds = start.elapsed().as_secs_f64();
        outcome.peak_device_bytes = runtime.memory().peak_bytes;
        let said = Said {
            settled: &self.settled,
            network: self.spec.backbone.to_string(),
            data: format!("{} ({})", self.train.name, self.train.source),
            n_test: self.judges.as_ref().map_or(0, |judges| judges.test.len()),
            macs_per_image: self.macs_per_image()?,
        };
        let names = self.judges.as_ref().map_or(&self.train, |judges| &judges.test).class_names.as_slice();
        let report = SslReport::new(said, runtime, outcome, linear, teacher_knn);
        out.page(&page(&report, &self.settled, sheet.as_ref(), map.as_ref(), names)?)?;
        Ok(report)
    }

    /// Networks, memory and views of a run over the images of `set`, which are the run's: the trainer, what its steps work with,
    /// and the trained network as it is judged.
    pub(super) fn set_up<'a>(
        &self,
        runtime: &Runtime,
        set: Cow<'a, ImageSet>,
        quiet: bool,
    ) -> Result<(Trainer, Step<'a>, Encoder)> {
        let Settled { recipe, method, .. } = &self.settled;
        let weights = self.spec.initial(recipe.seed)?;
        let encoder = self.spec.load(runtime, &weights)?;
        let (trained, buffers) = self.spec.for_arenas(&weights, self.settled.paper_exact);
        let memory = self.memory(runtime)?;
        let pseudo = (*method == Method::CmsfSemi).then(|| self.pseudo(runtime)).transpose()?;
        let student = (*method == Method::Compress2q).then(|| self.student_bank(runtime)).transpose()?;
        let mut kept = memory.kept();
        kept.extend(pseudo.iter().flat_map(Pseudo::kept));
        kept.extend(student.iter().map(|bank| ("student".to_string(), bank.clone())));
        let start = Start { trained, buffers, kept };
        let config = to_value(&self.settled)?;
        let trainer = Trainer::new(runtime, recipe, config, start, set.len(), self.folder(), self.resumed)?;
        let statistics = trainer.buffers()?;
        let training = Training::new(STATISTICS_MOMENTUM, self.settled.recompute);
        let target = trainer.target()?.map(|average| encoder.over(&average, &statistics)).transpose()?;
        let mean_std = self.settled.normalize.parse::<Normalize>()?.mean_std(self.train.channels)?;
        let (scale, shift) = scale_shift(runtime, &mean_std)?;
        let size = [self.train.height, self.train.width];
        let views = [self.settled.query, self.settled.target];
        let views = [Views::new(runtime, &views[0], size, size)?, Views::new(runtime, &views[1], size, size)?];
        let guide = self.teacher.as_ref().map(|teacher| self.guide(runtime, teacher, quiet)).transpose()?;
        let step = Step {
            settled: self.settled.clone(),
            online: encoder.over(trainer.leaves(), &statistics)?.training(training),
            target: target.map(|target| target.training(Training::of_target())),
            memory,
            student,
            pseudo,
            guide,
            pixels: Pixels::new(runtime, set, recipe, RESIDENT_BYTES)?,
            views,
            scale,
            shift,
        };
        let judged = encoder.over(&trainer.parameters()?, &statistics)?;
        Ok((trainer, step, judged))
    }

    /// What the teacher's own features are worth.
    fn teacher_knn(&self, runtime: &Runtime, quiet: bool) -> Result<Option<Knn>> {
        let (Some(teacher), Some(judges)) = (&self.teacher, &self.judges) else { return Ok(None) };
        let network = teacher.backbone().on(runtime)?;
        let size = [self.train.height, self.train.width];
        let activation_bytes = teacher.backbone().plan().summary(size)?.activation_bytes;
        let features = |set: &ImageSet| {
            let batch = usual_batch(runtime, activation_bytes).min(set.len());
            extract(network.model(), runtime, set, network.scale_shift(), batch, quiet)
        };
        let bank = features(judges.bank.as_ref().unwrap_or(&self.train))?;
        Knn::of(&bank, &features(&judges.test)?).map(Some)
    }

    /// A sheet of views, also in the run's folder.
    fn sheet(&self, runtime: &Runtime) -> Result<Picture> {
        let Settled { query, target, recipe, .. } = &self.settled;
        let views = [(stream::VIEWS, *query), (VIEW_STREAM, *target)];
        let sheet = if self.settled.method.is_distilled() {
            // One view for both networks, and no more of them than there are.
            let epochs = match self.settled.teacher_views {
                0 => SHEET_VIEWS as u32,
                n => n.min(SHEET_VIEWS as u32),
            };
            sheet_of(runtime, &self.train, &views[1..], epochs, recipe.seed)?
        } else {
            sheet_of(runtime, &self.train, &views, SHEET_VIEWS as u32, recipe.seed)?
        };
        if let Some(folder) = self.folder() {
            sheet.save(&folder.join("views.png"))?;
        }
        Ok(sheet)
    }

    /// The bank and what lies beside it, as a run starts.
    fn memory(&self, runtime: &Runtime) -> Result<Memory> {
        let Settled { method, recipe, topk, .. } = &self.settled;
        let spec = MemorySpec {
            method: *method,
            n_images: self.train.len(),
            m: self.bank_rows(),
            d: self.target_width(),
            batch: recipe.batch,
            micro_batch: recipe.micro_batch,
            k: *topk,
            dtype: self.bank_dtype(runtime),
            seed: recipe.seed,
        };
        Memory::new(runtime, spec, self.train.is_labelled().then_some(&self.train.labels))
    }

    fn bank_dtype(&self, runtime: &Runtime) -> DType {
        match self.settled.bank_precision {
            Some(BankPrecision::F32) => DType::F32,
            Some(BankPrecision::F16) => DType::F16,
            None if runtime.profile().features.f16 => DType::F16,
            None => DType::F32,
        }
    }

    fn student_bank(&self, runtime: &Runtime) -> Result<Tensor> {
        let size = [self.bank_rows(), self.spec.n_features()];
        let key = Key::new(self.settled.recipe.seed, stream::BANK, BANK_STEPS[1]);
        crate::ops::bank::random_unit(runtime, size, self.bank_dtype(runtime), key)
    }

    fn pseudo(&self, runtime: &Runtime) -> Result<Pseudo> {
        let Settled { recipe, labels, threshold, .. } = &self.settled;
        let known = few_labels(&self.train.labels, self.train.n_classes, *labels, recipe.seed)?;
        Pseudo::new(runtime, self.target_width(), self.train.n_classes, known, *threshold as f32, recipe.seed)
    }

    fn guide(&self, runtime: &Runtime, teacher: &Teacher, quiet: bool) -> Result<Guide> {
        let Settled { teacher_views, target, recipe, .. } = &self.settled;
        let folder = self.settled.cache.as_deref().or_else(|| self.folder());
        let spec = GuideSpec { views: *teacher_views, recipe: *target, seed: recipe.seed, batch: recipe.batch };
        Guide::new(runtime, teacher, &self.train, spec, folder, quiet)
    }

    /// Writes the backbone under its published names, and beside it what names and shapes do not say.
    fn save(&self, folder: &Path, weights: &Weights) -> Result<()> {
        let hints = Hints { normalize: Some(self.settled.normalize.clone()), ..Hints::default() };
        save_backbone(&folder.join("weights.safetensors"), &self.spec.backbone, weights, &hints)
    }
}

/// An error unless a set can be judged by another: a source without halves gives the same images twice.
pub(super) fn need_two_halves(train: &ImageSet, test: &ImageSet) -> Result<()> {
    if same_images(train, test) {
        let message = "the test images are those of the bank; folders have train/ and test/";
        return Err(Error::Input(format!("{}: {message}", train.name)));
    }
    Ok(())
}

/// Whether two sets begin with the same images.
fn same_images(a: &ImageSet, b: &ImageSet) -> bool {
    let n = a.images.len().min(b.images.len());
    a.images[..n] == b.images[..n]
}

/// An error unless the images of a set are of the size of those that are learned from.
fn fits(train: &ImageSet, set: &ImageSet) -> Result<()> {
    let size = |set: &ImageSet| [set.height, set.width, set.channels];
    if set.is_empty() || !set.is_labelled() || size(set) != size(train) {
        let ([h, w, c], [a, b, d]) = (size(train), size(set));
        let found = format!("{} images of {a}x{b}x{d}", set.len());
        return Err(Error::Input(format!("{}: {found}, labelled ones of {h}x{w}x{c} wanted to judge by", set.name)));
    }
    Ok(())
}

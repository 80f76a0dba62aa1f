//! A training: from flags to adapters.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Map;

use super::adapted::Adapted;
use super::adapter::{COEFFICIENTS, Layout};
use super::base::Base;
use super::config::TrainConfig;
use super::file::{AdapterFile, rounded};
use super::images::fits;
use super::method::{AdapterSpec, Method};
use super::report::{FinetuneReport, Said, SeedReport, page};
use super::settle::{Found, Named, Settled, settle};
use super::shots::Halves;
use super::task::{Data, Items, Task, Verdict};
use super::texts::{TextHalves, WantedTexts, no_classes, sample};
use crate::data::{ImageSet, Split, Wanted};
use crate::methods::training::{
    Recipe, Start, TrainFlags, Trainer, refuse_old_run, same_config, settled_before, to_value,
};
use crate::nn::{Model, ModelSpec, ParamSpec, Training};
use crate::ops::quant::Block;
use crate::report::{CommonFlags, Metrics, write_json};
use crate::{Error, Result, Runtime, Tensor};

/// Share of a batch's statistics that goes into the running ones: PyTorch's.
const STATISTICS_MOMENTUM: f32 = 0.1;
/// An adapter's name in a run's folder.
const ADAPTER: &str = "adapter.safetensors";
/// Rounds in which the steps of two methods are timed in turns, and steps of a round.
const TIMED: (usize, usize) = (5, 2);

/// A training whose flags and data are read and checked; needs no device yet.
#[derive(Debug)]
pub struct FinetuneRun {
    settled: Settled,
    base: Base,
    data: Data,
    flags: TrainFlags,
    folder: Option<PathBuf>,
    resumed: bool,
}

impl FinetuneRun {
    /// Settles the flags, those of the run in `--resume` where they say nothing, and reads network and data.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with them.
    pub fn prepare(config: &TrainConfig, common: &CommonFlags) -> Result<Self> {
        Self::settle(config, common, None)
    }

    /// As [`FinetuneRun::prepare`], on images of a program's own instead of those that `data` names: to learn from, and to judge by.
    ///
    /// # Errors
    /// As [`FinetuneRun::prepare`].
    pub fn on(config: &TrainConfig, common: &CommonFlags, train: ImageSet, test: ImageSet) -> Result<Self> {
        Self::settle(config, common, Some(Halves { train, test, is_divided: false }))
    }

    fn settle(config: &TrainConfig, common: &CommonFlags, own: Option<Halves>) -> Result<Self> {
        let resume = config.train.resume.as_deref();
        let before: Option<Settled> = resume.map(|folder| settled_before(folder, "finetune train")).transpose()?;
        let before = before.as_ref();
        if resume.is_none() {
            refuse_old_run(common.out.as_deref())?;
            for i in 0..u64::from(config.seeds.unwrap_or(1)) {
                let folder = |out: &PathBuf| seed_folder(out, common.seed.saturating_add(i));
                refuse_old_run(common.out.as_ref().map(folder).as_deref())?;
            }
        }
        let named = Named::new(config, before, common.seed)?;
        let base = Base::load(&named.base, &named.network, named.seed)?;
        let data = match (&base.spec, own) {
            (_, Some(halves)) => Data::Images(named.cut(halves)?),
            (ModelSpec::Text(spec), None) => {
                no_classes(named.classes.is_some())?;
                let wanted = WantedTexts {
                    data: &named.data,
                    base: &named.base,
                    tokenizer: named.tokenizer.as_deref(),
                    max_len: named.max_len,
                    prompt: named.prompt,
                    holdout: named.holdout,
                    seed: named.seed,
                    n: [named.images, named.test_images].map(|n| n.map(|n| n as usize)),
                };
                Data::Texts(TextHalves::open(spec, &wanted)?)
            }
            (spec, None) => {
                let wanted = Wanted { side: Some(spec.image()), seed: named.seed, ..Wanted::new(Split::Train) };
                Data::Images(named.cut(Halves::open(&named.data, &wanted, named.holdout)?)?)
            }
        };
        let mut is_grey = false;
        if let Data::Images(halves) = &data {
            fits(&base.spec, halves)?;
            base.normalize.mean_std(halves.train.channels)?;
            is_grey = halves.train.channels == 1;
        }
        let whole = base.with_head(data.n_classes(), named.keep_head, named.seed)?;
        let n = data.draw(named.shots, named.seed)?.len();
        let found =
            Found { spec: &base.spec, is_random: base.is_random, n, is_grey, is_text: matches!(data, Data::Texts(_)) };
        let settled = settle(config, named, &found, before)?;
        Layout::new(&settled.adapter, &whole.plan)?;
        if let (Some(before), Some(folder)) = (before, resume) {
            same_config(&folder.display().to_string(), &to_value(before)?, &to_value(&settled)?)?;
        }
        Ok(Self {
            settled,
            base,
            data,
            flags: config.train.clone(),
            folder: resume.map(Path::to_path_buf).or_else(|| common.out.clone()),
            resumed: resume.is_some(),
        })
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

    /// Trains one adapter for each seed and judges it.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    pub fn run(&self, runtime: &Runtime, quiet: bool) -> Result<FinetuneReport> {
        let start = Instant::now();
        runtime.reset_peak_memory();
        let mut seeds = Vec::new();
        for i in 0..u64::from(self.settled.seeds) {
            let seed = self.settled.recipe.seed + i;
            if !quiet && self.settled.seeds > 1 {
                eprintln!("run {} of {}: seed {seed}", i + 1, self.settled.seeds);
            }
            seeds.push(self.one(runtime, seed, quiet)?);
        }
        // Runs that were done before count, too.
        let before = seeds.iter().map(|seed| seed.outcome.peak_device_bytes).max().unwrap_or(0);
        let peak_device_bytes = runtime.memory().peak_bytes.max(before);
        let (before, sample) = self.texts(runtime)?;
        let times = self.times(runtime)?;
        let layout = Layout::new(&self.settled.adapter, &self.fresh(self.settled.recipe.seed)?.plan)?;
        let said = Said {
            settled: &self.settled,
            network: self.base.spec.to_string(),
            data: &self.data,
            n_train: self.data.draw(self.settled.shots, self.settled.recipe.seed)?.len(),
            before,
            sample,
            seconds: start.elapsed().as_secs_f64(),
            layout: &layout,
            times,
            peak_device_bytes,
        };
        let report = FinetuneReport::new(said, runtime, seeds);
        if let Some(folder) = self.folder() {
            page(&report, &self.settled).write(&folder.join("report.html"))?;
        }
        Ok(report)
    }

    /// The base with the head that training starts from.
    fn fresh(&self, seed: u64) -> Result<Base> {
        let Settled { base, network, keep_head, .. } = &self.settled;
        // Random weights follow from the adapter's seed.
        let own = if self.base.is_random { &Base::load(base, network, seed)? } else { &self.base };
        own.with_head(self.data.n_classes(), *keep_head, seed)
    }

    /// An interruption of one of several runs, with the folder that goes on with all of them.
    fn whole_run(&self, error: Error) -> Error {
        match (error, self.folder()) {
            (Error::Interrupted { code, .. }, Some(folder)) if self.settled.seeds > 1 => {
                Error::Interrupted { code, message: format!("stopped; --resume {} goes on", folder.display()) }
            }
            (error, _) => error,
        }
    }

    /// The folder of a run with this seed.
    fn seed_folder(&self, seed: u64) -> Option<PathBuf> {
        let folder = self.folder()?;
        Some(if self.settled.seeds > 1 { seed_folder(folder, seed) } else { folder.to_path_buf() })
    }

    fn one(&self, runtime: &Runtime, seed: u64, quiet: bool) -> Result<SeedReport> {
        let folder = self.seed_folder(seed);
        let known = folder.as_ref().map(|folder| folder.join("seed.json"));
        if let (true, Some(known)) = (self.resumed, &known)
            && let Ok(text) = std::fs::read(known)
        {
            return serde_json::from_slice(&text).map_err(|e| Error::file(known, e));
        }
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
        }
        let base = self.fresh(seed)?;
        let items = self.data.draw(self.settled.shots, seed)?;
        let settled = self.settled_for(seed);
        let run = One { settled: &settled, base: &base, items: &items, runtime };
        let mut trainer = run.trainer(&settled.adapter, folder.as_deref(), self.resumed)?;
        let task = run.task()?;
        let network = run.network(&trainer, true)?;
        let judged = run.network(&trainer, false)?;
        let test = |network: &Model, quiet| self.data.judge(runtime, network, &base, quiet);
        let done = trainer.step();
        let (mut metrics, before) = Metrics::go_on(folder.as_deref(), if self.resumed { done } else { 0 })?;
        let outcome = trainer.run(
            &self.flags,
            &mut metrics,
            quiet,
            &mut |_, items| task.feed(items),
            &mut |batch| task.loss(&network, batch),
            &mut |_| match to_value(&test(&judged, true)?)? {
                serde_json::Value::Object(figures) => Ok(figures),
                _ => Ok(Map::new()),
            },
        );
        let mut outcome = outcome.map_err(|error| self.whole_run(error))?;
        outcome.splice(&before, "accuracy");
        let ended = trainer.step() == trainer.n_steps();
        let layout = Layout::new(&settled.adapter, &base.plan)?;
        let file = run.file(&trainer, &layout, self.settled.recipe.seed)?;
        let mut report = SeedReport { seed, verdict: None, verdict_f32: None, file_bytes: None, outcome };
        if ended {
            let before_rounding = test(&judged, quiet)?;
            if settled.bits < 32 {
                // Training that knows of the rounding forms rounded ones.
                report.verdict_f32 = Some(before_rounding).filter(|_| !settled.qat);
                let network = Adapted::new(&base, file.rounded()?)?.network(runtime, settled.base_bits)?;
                report.verdict = Some(test(&network, quiet)?);
            } else {
                report.verdict = Some(before_rounding);
            }
        }
        if let Some(folder) = &folder {
            let path = folder.join(ADAPTER);
            file.save(&path)?;
            report.file_bytes = std::fs::metadata(&path).ok().map(|meta| meta.len());
            if let (true, true, Some(known)) = (ended, self.settled.seeds > 1, &known) {
                write_json(known, &to_value(&report)?)?;
            }
        }
        Ok(report)
    }

    /// What a language model predicts and writes without an adapter; and what it writes with the first run's.
    fn texts(&self, runtime: &Runtime) -> Result<(Option<Verdict>, Option<[String; 2]>)> {
        let Data::Texts(halves) = &self.data else { return Ok((None, None)) };
        if halves.n_classes().is_some() {
            return Ok((None, None));
        }
        let mut plain = Model::new(runtime, &self.base.spec, &self.base.weights)?;
        if let Some(bits) = self.settled.base_bits.packed() {
            plain = plain.quantized(bits, Block::Of64)?;
        }
        let before = self.data.judge(runtime, &plain, &self.base, true)?;
        let last = self.seed_folder(self.settled.recipe.seed).map(|folder| folder.join(ADAPTER));
        let Some(path) = last.filter(|path| path.exists()) else { return Ok((Some(before), None)) };
        let base = self.fresh(self.settled.recipe.seed)?;
        let adapted = Adapted::new(&base, AdapterFile::read(path)?)?.network(runtime, self.settled.base_bits)?;
        Ok((Some(before), Some([sample(runtime, &plain, halves)?, sample(runtime, &adapted, halves)?])))
    }

    fn settled_for(&self, seed: u64) -> Settled {
        let settled = self.settled.clone();
        let adapter = AdapterSpec { seed, ..settled.adapter };
        Settled { adapter, recipe: Recipe { seed, ..settled.recipe }, ..settled }
    }

    /// Milliseconds of a step, of LoRA's beside it where the method is a relative of it, and draws of a second.
    fn times(&self, runtime: &Runtime) -> Result<Times> {
        let settled = self.settled_for(self.settled.recipe.seed);
        let base = self.fresh(settled.recipe.seed)?;
        let items = self.data.draw(settled.shots, settled.recipe.seed)?;
        let run = One { settled: &settled, base: &base, items: &items, runtime };
        let lora = AdapterSpec { method: Method::Lora, alpha: 8.0, ..settled.adapter.clone() };
        let mut specs = vec![settled.adapter.clone()];
        if settled.adapter.method.has_branches() && settled.adapter.method != Method::Lora {
            specs
                .push(AdapterSpec { rank: if settled.adapter.method == Method::Nola { lora.rank } else { 4 }, ..lora });
        }
        let task = run.task()?;
        let mut steps = Vec::new();
        for spec in &specs {
            let run = One { settled: &Settled { adapter: spec.clone(), ..settled.clone() }, ..run };
            let mut trainer = run.trainer(spec, None, false)?;
            let network = run.network(&trainer, true)?;
            let mut step = move |task: &Task<'_>| {
                trainer.advance(&mut |_, items| task.feed(items), &mut |batch| task.loss(&network, batch))
            };
            // The first compiles, the second records what is repeated.
            (0..2).try_for_each(|_| step(&task).map(|_| ()))?;
            steps.push((step, Vec::new()));
        }
        runtime.sync()?;
        for _ in 0..TIMED.0 {
            for (step, times) in &mut steps {
                let start = Instant::now();
                (0..TIMED.1).try_for_each(|_| step(&task).map(|_| ()))?;
                runtime.sync()?;
                times.push(1e3 * start.elapsed().as_secs_f64() / TIMED.1 as f64);
            }
        }
        let mut medians = steps.into_iter().map(|(_, times)| median(times));
        let step_ms = medians.next();
        let step_ms_lora = if settled.adapter.method == Method::Lora { step_ms } else { medians.next() };
        Ok(Times { step_ms, step_ms_lora, basis_draws_per_s: run.draws_per_s()? })
    }
}

/// What was timed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) step_ms: Option<f64>,
    pub(super) step_ms_lora: Option<f64>,
    pub(super) basis_draws_per_s: Option<f64>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn seed_folder(out: &Path, seed: u64) -> PathBuf {
    out.join(format!("seed-{seed}"))
}

/// One run.
#[derive(Clone, Copy)]
struct One<'a> {
    settled: &'a Settled,
    base: &'a Base,
    items: &'a Items,
    runtime: &'a Runtime,
}

impl<'a> One<'a> {
    fn trainer(&self, spec: &AdapterSpec, folder: Option<&Path>, resumed: bool) -> Result<Trainer> {
        let layout = Layout::new(spec, &self.base.plan)?;
        let [trained, buffers] = layout.start(&self.base.weights)?;
        let start = Start { trained, buffers, kept: Vec::new() };
        let (config, n) = (to_value(self.settled)?, self.items.len());
        let mut trainer = Trainer::new(self.runtime, &self.settled.recipe, config, start, n, folder, resumed)?;
        if spec.method.has_basis() {
            let bits = Some(self.settled.bits).filter(|_| self.settled.qat);
            trainer.form(&layout.formed(), |trained, formed| layout.forming(self.runtime, bits, trained, formed))?;
        }
        Ok(trainer)
    }

    fn task(&self) -> Result<Task<'a>> {
        self.items.task(self.runtime, self.base, self.settled)
    }

    /// The adapted network: as it learns, or as it is judged.
    fn network(&self, trainer: &Trainer, learns: bool) -> Result<Model> {
        let layout = Layout::new(&self.settled.adapter, &self.base.plan)?;
        let mut model = Model::new(self.runtime, &self.base.spec, &self.base.weights)?;
        if let Some(bits) = self.settled.base_bits.packed() {
            model = model.quantized(bits, Block::Of64)?;
        }
        let (trained, formed) = if learns {
            (trainer.leaves().to_vec(), trainer.formed_leaves().to_vec())
        } else {
            (trainer.parameters()?, trainer.formed_tensors()?)
        };
        let frozen = layout.frozen(self.runtime)?;
        let model = layout.attach(&model, &trained, &trainer.buffers()?, &formed, frozen.as_ref())?;
        let moves = !layout.statistics().is_empty() && learns;
        Ok(if moves { model.training(Training::new(STATISTICS_MOMENTUM, false)) } else { model })
    }

    /// The adapter as it stands; `split` is the seed by which the data were divided.
    fn file(&self, trainer: &Trainer, layout: &Layout, split: u64) -> Result<AdapterFile> {
        let params: Vec<&ParamSpec> = self.base.plan.params.iter().collect();
        let values = |tensors: &[Tensor]| tensors.iter().map(Tensor::to_vec::<f32>).collect::<Result<Vec<_>>>();
        let (trained, statistics) = (values(&trainer.parameters()?)?, values(&trainer.buffers()?)?);
        let own = layout.own();
        let n_own = own.len();
        let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> =
            own.into_iter().zip(&trained).map(|((name, shape), values)| (name, shape, values.clone())).collect();
        let places = layout.whole().into_iter().chain(layout.statistics());
        for (i, values) in places.zip(trained[n_own..].iter().chain(&statistics)) {
            tensors.push((params[i].name.clone(), params[i].shape.clone(), params[i].to_published(values)));
        }
        Ok(AdapterFile {
            spec: layout.spec().clone(),
            base: self.base.digest(),
            network: self.base.spec.to_string(),
            classes: self.items.classes().to_vec(),
            normalize: self.base.normalize.to_string(),
            bits: self.settled.bits,
            split: (split, self.settled.holdout),
            tensors,
        })
    }

    /// Draws of bases in a second, formed and projected.
    fn draws_per_s(&self) -> Result<Option<f64>> {
        let spec = &self.settled.adapter;
        if !spec.method.has_basis() {
            return Ok(None);
        }
        let layout = Layout::new(spec, &self.base.plan)?;
        layout.draws_per_s(self.runtime).map(Some)
    }
}

impl AdapterFile {
    /// The same with its coefficients as its bits hold them.
    ///
    /// # Errors
    /// [`Error::Input`] for bits that there are not.
    pub fn rounded(&self) -> Result<Self> {
        let mut file = self.clone();
        for (name, _, values) in &mut file.tensors {
            if name == COEFFICIENTS {
                *values = rounded(values, self.spec.k, self.bits)?;
            }
        }
        Ok(file)
    }
}

//! The loop itself.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::feed::{Batch, Feed};
use super::flags::TrainFlags;
use super::formed::Formed;
use super::order::Order;
use super::recipe::Recipe;
use super::signals::Signals;
use super::state::{Layout, State};
use crate::nn::{Arena, Average, HalfCopy, NamedParam, Optimizer, Precision, RawTensor};
use crate::ops::elementwise::affine;
use crate::ops::optim::{LossScale, ScaleState};
use crate::report::{Metrics, Progress, number};
use crate::runtime::Repeated;
use crate::tensor::Read;
use crate::{Error, Result, Runtime, Tensor};

/// The checkpoint's name in a run's folder.
const CHECKPOINT: &str = "checkpoint.safetensors";
/// Losses on their way to the host at most.
const MAX_PENDING: u64 = 64;

/// A loss scale below this is no scale that a sound gradient needs: f16 ends at 2^16, and the loss's own gradient starts at
/// some 2^-7.
const LEAST_SCALE: f32 = 1.0 / (1 << 20) as f32;

/// Sends what a step, from 0, needs besides its items.
type FeedFn<'a> = &'a mut dyn FnMut(u64, &[u32]) -> Result<()>;
/// The mean loss of a micro-batch.
type LossFn<'a> = &'a mut dyn FnMut(&Batch) -> Result<Tensor>;
/// Figures by name of what is trained, as it stands behind so many steps.
type EvaluateFn<'a> = &'a mut dyn FnMut(u64) -> Result<Map<String, Value>>;

/// What a run starts from.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// What is trained.
    pub trained: Vec<NamedParam>,
    /// What is kept beside it in f32 and a loss may update in place, such as running statistics.
    pub buffers: Vec<NamedParam>,
    /// Tensors of the method's own that a loss updates in place, such as a memory bank; a checkpoint holds them as they are.
    pub kept: Vec<(String, Tensor)>,
}

/// What a call of [`Trainer::run`] came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Steps of the run that are done.
    pub steps: u64,
    /// Loss of the run's first step.
    pub loss_first: f64,
    /// Mean loss behind the last line of `metrics.jsonl`, or of that line.
    pub loss_last: f64,
    /// Seconds of this call, evaluations and checkpoints included.
    pub seconds: f64,
    /// Items per second of training alone; the first step, which compiles, is left out.
    pub items_per_s: f64,
    /// Dispatches of one step.
    pub dispatches_per_step: f64,
    /// CPU time that the host takes to record one step, in ms; the first step is left out.
    pub host_ms_per_step: f64,
    /// Bytes held by tensors on the device at most.
    pub peak_device_bytes: u64,
    /// The loss scale behind the last step, under mixed precision.
    pub loss_scale: Option<f32>,
    /// Steps of the whole run that changed nothing, as a gradient was no number.
    pub skipped_steps: Option<u32>,
    /// Losses over steps, as they stand in `metrics.jsonl`, those before a resume included.
    #[serde(skip)]
    pub losses: Vec<(u64, f64)>,
    /// Figures by name over steps, as they stand in `metrics.jsonl`.
    #[serde(skip)]
    pub evaluations: Vec<(u64, Map<String, Value>)>,
}

/// Everything of a training run that changes from step to step.
#[derive(Debug)]
pub struct Trainer {
    runtime: Runtime,
    recipe: Recipe,
    config: Value,
    layout: Layout,
    arena: Arena,
    /// What the loss reads under mixed precision.
    half: Option<HalfCopy>,
    leaves: Vec<Tensor>,
    buffers: Arena,
    optimizer: Optimizer,
    average: Option<Average>,
    /// The average as ops read it under mixed precision.
    average_half: Option<HalfCopy>,
    kept: Vec<(String, Tensor)>,
    order: Order,
    feed: Feed,
    gradients: Repeated<Tensor>,
    formed: Option<Formed>,
    step: u64,
    loss_first: f64,
    open: (f64, u64),
    folder: Option<PathBuf>,
}

impl Trainer {
    /// A run over `n` items that starts from these values, or from the checkpoint in `folder` with `resume`; `config` is
    /// what a resumed run must have in common with the first.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for a checkpoint that does not fit, else as [`Arena::new`].
    pub fn new(
        runtime: &Runtime,
        recipe: &Recipe,
        config: Value,
        start: Start,
        n: usize,
        folder: Option<&Path>,
        resume: bool,
    ) -> Result<Self> {
        let Start { mut trained, mut buffers, kept } = start;
        let names = |params: &[NamedParam]| params.iter().map(|(name, p)| (name.clone(), p.shape.clone())).collect();
        let layout = Layout {
            trained: names(&trained),
            buffers: names(&buffers),
            n_moments: recipe.rule.n_moments(),
            has_average: recipe.ema.is_some(),
            has_scale: recipe.precision == Precision::F16,
            kept: kept.iter().map(|(name, t)| (name.clone(), t.dtype(), t.shape().to_vec())).collect(),
        };
        if let Some(folder) = folder.filter(|_| resume) {
            crate::files::remove_leftovers(folder, CHECKPOINT);
        }
        let path = folder.map(|folder| folder.join(CHECKPOINT)).filter(|path| resume && path.exists());
        let state = path.map(|path| State::read(&path, &layout, &config)).transpose()?;
        if let Some(state) = &state {
            for (params, values) in [(&mut trained, &state.weights), (&mut buffers, &state.buffers)] {
                params.iter_mut().zip(values).for_each(|((_, param), values)| param.values.clone_from(values));
            }
            for ((_, tensor), raw) in kept.iter().zip(&state.kept) {
                tensor.write_bytes(&raw.bytes)?;
            }
        }
        let params = |named: Vec<NamedParam>| named.into_iter().map(|(_, param)| param).collect::<Vec<_>>();
        let (trained, buffers) = (params(trained), params(buffers));
        let arena = Arena::new(runtime, &trained, true)?;
        let Recipe { rule, decay, clip, .. } = *recipe;
        let optimizer = match &state {
            Some(state) => Optimizer::resume(rule, decay, clip, &arena, &state.moments, state.step)?,
            None => Optimizer::new(rule, decay, clip, &arena)?,
        };
        let (optimizer, half) = if recipe.precision == Precision::F16 {
            let scale = match state.as_ref().and_then(|state| state.scale) {
                Some(scale) => LossScale::resume(runtime, scale)?,
                None => LossScale::new(runtime)?,
            };
            (optimizer.scaled(scale), Some(HalfCopy::new(&arena.values())?))
        } else {
            (optimizer, None)
        };
        let leaves = match &half {
            Some(half) => half.tensors(&arena, &arena.values())?,
            None => arena.tensors()?,
        };
        let average = recipe.ema.map(|_| {
            let values: Vec<Vec<f32>> = trained.iter().map(|param| param.values.clone()).collect();
            let init = state.as_ref().and_then(|state| state.average.clone()).unwrap_or(values);
            Average::new(&arena, &init)
        });
        let average = average.transpose()?;
        let average_half = average.as_ref().zip(half.as_ref()).map(|(average, _)| HalfCopy::new(average.flats()));
        Ok(Self {
            leaves: leaves.iter().map(Tensor::require_grad).collect::<Result<_>>()?,
            half,
            buffers: Arena::new(runtime, &buffers, false)?,
            optimizer,
            average,
            average_half: average_half.transpose()?,
            kept,
            order: Order::new(n as u32, recipe.batch, recipe.seed),
            feed: Feed::new(runtime, recipe)?,
            gradients: Repeated::default(),
            formed: None,
            step: state.as_ref().map_or(0, |state| state.step),
            loss_first: state.as_ref().map_or(f64::NAN, |state| state.loss_first),
            open: state.as_ref().map_or((0.0, 0), |state| state.open),
            runtime: runtime.clone(),
            recipe: recipe.clone(),
            config,
            layout,
            arena,
            folder: folder.map(Path::to_path_buf),
        })
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn precision(&self) -> Precision {
        self.recipe.precision
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(super) fn formed(&self) -> Option<&Formed> {
        self.formed.as_ref()
    }

    pub(super) fn set_formed(&mut self, formed: Formed) {
        self.gradients = Repeated::default();
        self.formed = Some(formed);
    }

    /// The trained parameters as leaves for the loss, in the order in which they were given: f16 where the recipe's
    /// precision has them so. They see every step.
    #[must_use]
    pub fn leaves(&self) -> &[Tensor] {
        &self.leaves
    }

    /// The trained parameters in f32, which are evaluated and saved. They see every step.
    ///
    /// # Errors
    /// As [`Arena::tensors`].
    pub fn parameters(&self) -> Result<Vec<Tensor>> {
        self.arena.tensors()
    }

    /// The buffers, which a loss may update in place.
    ///
    /// # Errors
    /// As [`Arena::tensors`].
    pub fn buffers(&self) -> Result<Vec<Tensor>> {
        self.buffers.tensors()
    }

    /// The average of the parameters, if the recipe keeps one.
    ///
    /// # Errors
    /// As [`Arena::views`].
    pub fn average(&self) -> Result<Option<Vec<Tensor>>> {
        self.average.as_ref().map(|average| self.arena.views(average.flats())).transpose()
    }

    /// The average of the parameters as a loss reads it, in the precision of [`Trainer::leaves`]: the target network of
    /// methods that have one. It sees every step.
    ///
    /// # Errors
    /// As [`Arena::views`].
    pub fn target(&self) -> Result<Option<Vec<Tensor>>> {
        match (&self.average, &self.average_half) {
            (Some(average), Some(half)) => half.tensors(&self.arena, average.flats()).map(Some),
            _ => self.average(),
        }
    }

    /// Steps of an epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.order.steps_per_epoch()
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Steps of the whole run.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.recipe.steps
    }

    /// Trains to the end of the recipe, or as far as `flags` say. `loss` gives the mean loss `[]` of a micro-batch;
    /// `evaluate` figures of the network as it stands.
    ///
    /// `loss` is called for the first step and the second, whose work is then repeated ([`Runtime::record_plan`]): what
    /// changes from step to step must come from [`Batch`], or from tensors of the method's own, which `feed` writes before
    /// each step; it is given the step and the items of the whole batch.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C or SIGTERM, when a checkpoint is written; [`Error::Failed`] if the loss is no
    /// number any more; what `loss`, `evaluate` and the files give.
    pub fn run(
        &mut self,
        flags: &TrainFlags,
        metrics: &mut Metrics,
        quiet: bool,
        feed: FeedFn<'_>,
        loss: LossFn<'_>,
        evaluate: EvaluateFn<'_>,
    ) -> Result<Outcome> {
        // Another call may bring another loss.
        self.gradients = Repeated::default();
        let last = flags.stop_after.map_or(self.recipe.steps, |n| self.recipe.steps.min(self.step.saturating_add(n)));
        self.steps_to(last, flags, metrics, quiet, (feed, loss), evaluate).map_err(|error| self.with_checkpoint(error))
    }

    fn steps_to(
        &mut self,
        last: u64,
        flags: &TrainFlags,
        metrics: &mut Metrics,
        quiet: bool,
        (feed, loss): (FeedFn<'_>, LossFn<'_>),
        evaluate: EvaluateFn<'_>,
    ) -> Result<Outcome> {
        let signals = Signals::watch();
        let start = Instant::now();
        let mut log = Log::new(metrics, self.loss_first, self.open, flags.log_every);
        let mut progress = Progress::new("train", self.recipe.steps, "steps", quiet);
        progress.skip(self.step);
        let mut clock = Clock::default();
        let mut evaluations = Vec::new();
        // A state that is written once the next loss is known to be a number.
        let mut held: Option<State> = None;
        let first = self.step;
        // The first step compiles; where it is the only one, it is all there is to measure.
        let warm = if last - first.min(last) > 1 { first + 1 } else { first };
        while self.step < last {
            if self.step == warm {
                self.runtime.sync()?;
                clock.start(&self.runtime);
            }
            let recording = ThreadTime::now();
            let (value, lr) = self.one_step(feed, loss)?;
            self.step += 1;
            let scale = self.optimizer.scale().filter(|_| log.is_line(self.step)).map(LossScale::read).transpose()?;
            // Hands the step over, too.
            log.push(Pending { step: self.step, lr, loss: value.read()?, scale });
            clock.recorded += recording.elapsed();
            let keep = if held.is_some() { 0 } else { log.every.saturating_mul(2).min(MAX_PENDING) as usize };
            if let Some(loss) = log.drain(keep)? {
                progress.note(&format!("loss {}", number(loss)));
            }
            if let Some(state) = held.take() {
                self.write(state)?;
            }
            progress.advance(1);
            let done = self.step == last;
            let signal = signals.came();
            // Also where this call stops: what a later one finds must not depend on where that was. The end is the method's own.
            let due = flags.eval_every.is_some_and(|every| self.step.is_multiple_of(every));
            let evaluated = due && self.step < self.recipe.steps;
            if done || signal.is_some() || evaluated || self.step.is_multiple_of(flags.checkpoint_every) {
                self.runtime.sync()?;
                clock.stop();
                log.drain(0)?;
                (self.loss_first, self.open) = (log.loss_first, log.open);
                // The last step moved what they are formed of.
                self.formed.as_ref().map_or(Ok(()), |formed| formed.form(&self.arena))?;
                if evaluated {
                    let figures = evaluate(self.step)?;
                    let mut line = Map::from_iter([("step".to_string(), self.step.into())]);
                    line.extend(figures.clone());
                    log.metrics.log(&line)?;
                    evaluations.push((self.step, figures));
                }
                // Also without a folder the last state is looked at.
                if self.folder.is_some() || done {
                    let state = self.good_state()?;
                    if done || signal.is_some() {
                        self.write(state)?;
                    } else {
                        held = Some(state);
                    }
                }
                if let Some(code) = signals.came() {
                    if let Some(state) = held.take() {
                        self.write(state)?;
                    }
                    return Err(Error::Interrupted { code, message: self.stopped() });
                }
                clock.start(&self.runtime);
            }
        }
        let steps = clock.steps(self.step.saturating_sub(warm));
        let scale = self.scale()?;
        Ok(Outcome {
            steps: self.step,
            loss_first: log.loss_first,
            loss_last: if log.open.1 > 0 { log.open.0 / log.open.1 as f64 } else { log.loss_last },
            seconds: start.elapsed().as_secs_f64(),
            // Of no step there is nothing to say.
            items_per_s: if steps > 0.0 { steps * self.recipe.batch as f64 / clock.busy.as_secs_f64() } else { 0.0 },
            dispatches_per_step: clock.dispatches as f64 / steps.max(1.0),
            host_ms_per_step: clock.host_ms(steps.max(1.0)),
            peak_device_bytes: self.runtime.memory().peak_bytes,
            loss_scale: scale.map(|scale| scale.scale),
            skipped_steps: scale.map(|scale| scale.skipped),
            losses: log.lines,
            evaluations,
        })
    }

    /// Records one step: gradients of each micro-batch, the optimizer, the average. Answers the mean loss `[]` and the
    /// learning rate.
    fn one_step(&mut self, feed: FeedFn<'_>, loss: LossFn<'_>) -> Result<(Tensor, f64)> {
        let recipe = &self.recipe;
        let epoch = self.order.epoch(self.step);
        let items = self.order.items(self.step);
        self.feed.write(self.step, epoch, items)?;
        feed(self.step, items)?;
        let (arena, leaves, batches) = (&self.arena, &self.leaves, &self.feed.batches);
        let (optimizer, formed) = (&self.optimizer, self.formed.as_ref());
        let value = self.gradients.run(&self.runtime, || {
            formed.map_or(Ok(()), |formed| formed.form(arena))?;
            let value = gradients(arena, formed, optimizer, leaves, batches, loss)?;
            formed.map_or(Ok(()), |formed| formed.project(arena))?;
            Ok(value)
        })?;
        // Gradients are whole here: an exchange between devices would work on `self.arena.gradients()`.
        let lr = recipe.schedule.lr(recipe.lr, self.step, recipe.steps, self.order.steps_per_epoch());
        if !(lr as f32).is_finite() {
            return Err(Error::Failed(format!("step {}: the learning rate is {lr}", self.step + 1)));
        }
        let stepped = self.optimizer.step(&self.arena, lr)?;
        if let Some(average) = &self.average {
            let momentum = recipe.ema_course.momentum(recipe.ema.unwrap_or(1.0), self.step, recipe.steps);
            average.update(&self.arena, momentum, &stepped)?;
            self.average_half.as_ref().map_or(Ok(()), |half| half.refresh(average.flats()))?;
        }
        if let Some(half) = &self.half {
            half.refresh(&self.arena.values())?;
        }
        Ok((value, lr))
    }

    /// One step alone, neither logged nor saved: for benchmarks. `feed` and `loss` are those of [`Trainer::run`], and the same
    /// in every call. Answers the loss `[]`.
    ///
    /// # Errors
    /// What `feed` and `loss` give.
    pub fn advance(&mut self, feed: FeedFn<'_>, loss: LossFn<'_>) -> Result<Tensor> {
        let (value, _) = self.one_step(feed, loss)?;
        self.step += 1;
        Ok(value)
    }

    /// Everything that the next step depends on, read back.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn state(&self) -> Result<State> {
        Ok(State {
            step: self.step,
            loss_first: self.loss_first,
            open: self.open,
            weights: self.arena.read(&self.arena.values())?,
            moments: self.optimizer.moments().iter().map(|m| self.arena.read(m)).collect::<Result<_>>()?,
            average: self.average.as_ref().map(|average| self.arena.read(average.flats())).transpose()?,
            buffers: self.buffers.read(&self.buffers.values())?,
            scale: self.scale()?,
            kept: self.kept.iter().map(raw).collect::<Result<_>>()?,
        })
    }

    /// The loss scale, read back.
    fn scale(&self) -> Result<Option<ScaleState>> {
        let read = |scale: &LossScale| Ok(ScaleState::from_slice(&scale.read()?.wait()?));
        self.optimizer.scale().map_or(Ok(None), read)
    }

    /// The state, if all of it is numbers.
    fn good_state(&self) -> Result<State> {
        let state = self.state()?;
        match state.not_finite(&self.layout) {
            Some(name) => {
                Err(Error::Failed(format!("step {}: {name} or its moments hold values that are no numbers", self.step)))
            }
            None => Ok(state),
        }
    }

    /// Writes a checkpoint, if the run has a folder.
    fn write(&self, state: State) -> Result<()> {
        self.checkpoint().map_or(Ok(()), |path| state.write(&path, &self.layout, &self.config))
    }

    fn checkpoint(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(CHECKPOINT))
    }

    /// The error with what is left to go on from.
    fn with_checkpoint(&self, error: Error) -> Error {
        let Some(path) = self.checkpoint().filter(|path| path.exists()) else { return error };
        let rest = format!("; the last good checkpoint is {}", path.display());
        match error {
            Error::DeviceLost(message) => Error::DeviceLost(message + &rest),
            Error::OutOfMemory { asked, report } => Error::OutOfMemory { asked, report: report + &rest },
            Error::Failed(message) => Error::Failed(message + &rest),
            Error::Write { path, message } => Error::Write { path, message: message + &rest },
            other => other,
        }
    }

    fn stopped(&self) -> String {
        let done = format!("stopped after step {} of {}", self.step, self.recipe.steps);
        match (self.checkpoint(), &self.folder) {
            (Some(path), Some(folder)) => {
                format!("{done}; checkpoint in {}, --resume {} goes on", path.display(), folder.display())
            }
            _ => format!("{done}; nothing is saved without --out"),
        }
    }
}

fn raw((name, tensor): &(String, Tensor)) -> Result<RawTensor> {
    let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
    Ok(RawTensor { name: name.clone(), dtype, shape, bytes: tensor.to_bytes()? })
}

/// The gradients of all micro-batches, into the arena; answers the mean loss `[]`.
fn gradients(
    arena: &Arena,
    formed: Option<&Formed>,
    optimizer: &Optimizer,
    leaves: &[Tensor],
    batches: &[Batch],
    loss: LossFn<'_>,
) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (i, batch) in batches.iter().enumerate() {
        let value = loss(batch)?;
        let value = if batches.len() > 1 { affine(&value, 1.0 / batches.len() as f32, 0.0)? } else { value };
        let mut found = optimizer.backward(&value)?;
        if let Some(formed) = formed {
            formed.arena.collect(&mut found, &formed.leaves, i > 0)?;
        }
        arena.collect(&mut found, leaves, i > 0)?;
        let value = value.detach();
        sum = Some(match sum {
            Some(sum) => crate::ops::elementwise::add(&sum, &value)?,
            None => value,
        });
    }
    sum.ok_or_else(|| Error::Failed("a step without items".into()))
}

/// Time and dispatches of training alone.
#[derive(Default)]
struct Clock {
    running: Option<(Instant, Runtime, u64)>,
    busy: Duration,
    dispatches: u64,
    recorded: Duration,
    /// Recording time of the first step.
    first: Option<Duration>,
}

impl Clock {
    fn start(&mut self, runtime: &Runtime) {
        self.first.get_or_insert(self.recorded);
        self.running = Some((Instant::now(), runtime.clone(), runtime.counts().dispatches));
    }

    fn stop(&mut self) {
        if let Some((start, runtime, dispatches)) = self.running.take() {
            self.busy += start.elapsed();
            self.dispatches += runtime.counts().dispatches - dispatches;
        }
    }

    /// `n`, the steps that were measured.
    fn steps(&mut self, n: u64) -> f64 {
        self.stop();
        n as f64
    }

    fn host_ms(&self, steps: f64) -> f64 {
        1e3 * self.recorded.saturating_sub(self.first.unwrap_or_default()).as_secs_f64() / steps
    }
}

/// What a step leaves for the host, on its way there.
struct Pending {
    step: u64,
    lr: f64,
    loss: Read<f32>,
    /// Behind the steps that end in a line.
    scale: Option<Read<f32>>,
}

/// Losses on their way to the host, and the lines they end in.
struct Log<'a> {
    metrics: &'a mut Metrics,
    pending: VecDeque<Pending>,
    every: u64,
    /// Sum and number of the losses that no line holds yet.
    open: (f64, u64),
    loss_first: f64,
    loss_last: f64,
    lines: Vec<(u64, f64)>,
}

impl<'a> Log<'a> {
    fn new(metrics: &'a mut Metrics, loss_first: f64, open: (f64, u64), every: u64) -> Self {
        Self {
            metrics,
            pending: VecDeque::new(),
            every: every.max(1),
            open,
            loss_first,
            loss_last: f64::NAN,
            lines: Vec::new(),
        }
    }

    fn push(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// Whether a line is written behind this step.
    fn is_line(&self, step: u64) -> bool {
        step.is_multiple_of(self.every) || step == 1
    }

    /// Takes in the oldest losses until at most `keep` are on their way; answers the last line's mean. A loss is read two
    /// lines late, when the device has long been through, so that nothing waits.
    fn drain(&mut self, keep: usize) -> Result<Option<f64>> {
        let mut arrived = None;
        while self.pending.len() > keep {
            let Some(Pending { step, lr, loss, scale }) = self.pending.pop_front() else { break };
            let loss = loss.wait()?.first().copied().map_or(f64::NAN, f64::from);
            if !loss.is_finite() {
                return Err(Error::Failed(format!("step {step}: the loss is {loss}")));
            }
            if self.loss_first.is_nan() {
                self.loss_first = loss;
            }
            self.open.0 += loss;
            self.open.1 += 1;
            if self.is_line(step) {
                self.loss_last = self.open.0 / self.open.1 as f64;
                self.open = (0.0, 0);
                self.lines.push((step, self.loss_last));
                let mut line = json!({ "step": step, "loss": self.loss_last, "lr": lr });
                if let Some(scale) = scale.map(Read::wait).transpose()?.as_deref().and_then(ScaleState::from_slice) {
                    if scale.scale < LEAST_SCALE {
                        let message = format!("gradients overflow f16 even at a loss scale of {:e}", scale.scale);
                        return Err(Error::Failed(format!("step {step}: {message}")));
                    }
                    line["loss_scale"] = scale.scale.into();
                    line["skipped_steps"] = scale.skipped.into();
                }
                self.metrics.log(&line)?;
                arrived = Some(self.loss_last);
            }
        }
        Ok(arrived)
    }
}

//! A step of training alone, for benchmarks.

use std::borrow::Cow;
use std::cell::RefCell;

use super::adapter::Layout;
use super::base::Base;
use super::images::ImageTask;
use super::method::AdapterSpec;
use crate::data::{ImageSet, Split, shapes};
use crate::methods::NetworkFlags;
use crate::methods::classify::Augment;
use crate::methods::training::{EmaCourse, Recipe, Start, Trainer};
use crate::nn::{Model, Precision, Rule, Schedule};
use crate::{Result, Runtime, Tensor};

/// Batches of images that a [`FinetuneStep`] goes through.
const BATCHES: usize = 2;

/// An adapter in training on procedural images, step by step.
pub struct FinetuneStep {
    trainer: RefCell<Trainer>,
    network: Model,
    task: ImageTask<'static>,
    draws: u64,
}

impl FinetuneStep {
    /// An adapter on the network called `arch`, of random weights, in batches of `batch` images.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for names and numbers that there are not, else as [`Trainer::new`].
    pub fn new(runtime: &Runtime, arch: &str, spec: &AdapterSpec, batch: usize) -> Result<Self> {
        let base = Base::load(arch, &NetworkFlags::default(), 0)?;
        let (n, side) = (BATCHES * batch, base.spec.image());
        let set = enlarged(&shapes(n, 0, Split::Train), side)?;
        let base = base.with_head(set.n_classes, false, 0)?;
        let layout = Layout::new(spec, &base.plan)?;
        let [trained, buffers] = layout.start(&base.weights)?;
        let recipe = Recipe {
            steps: 1 << 20,
            batch,
            micro_batch: batch,
            lr: 5e-3,
            schedule: Schedule::default(),
            rule: Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: false },
            decay: 0.0,
            clip: None,
            ema: None,
            ema_course: EmaCourse::Constant,
            precision: Precision::F32,
            seed: 0,
        };
        let start = Start { trained, buffers, kept: Vec::new() };
        let mut trainer = Trainer::new(runtime, &recipe, serde_json::Value::Null, start, n, None, false)?;
        let mut draws = 0;
        if spec.method.has_basis() {
            trainer.form(&layout.formed(), |trained, formed| layout.forming(runtime, None, trained, formed))?;
            draws = layout.draws(runtime)?;
        }
        let model = Model::new(runtime, &base.spec, &base.weights)?;
        let (leaves, formed, buffers) = (trainer.leaves().to_vec(), trainer.formed_leaves(), trainer.buffers()?);
        let network = layout.attach(&model, &leaves, &buffers, formed, layout.frozen(runtime)?.as_ref())?;
        let task = ImageTask::new(runtime, Cow::Owned(set), &base.normalize, &recipe, Augment::None, 0.1)?;
        Ok(Self { trainer: RefCell::new(trainer), network, task, draws })
    }

    /// Images, network, backward and optimizer; the loss `[]` before it.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] if the device is gone.
    pub fn run(&self) -> Result<Tensor> {
        let mut trainer = self.trainer.borrow_mut();
        trainer.advance(&mut |_, items| self.task.feed(items), &mut |batch| self.task.loss(&self.network, batch))
    }

    /// Entries of random bases that a step makes.
    #[must_use]
    pub fn draws(&self) -> u64 {
        2 * self.draws
    }
}

/// The set at another size, each pixel repeated.
fn enlarged(set: &ImageSet, side: usize) -> Result<ImageSet> {
    let source = |i: usize, y: usize, x: usize| {
        ((i * set.height + y * set.height / side) * set.width + x * set.width / side) * set.channels
    };
    let mut images = Vec::with_capacity(set.len() * side * side * set.channels);
    for i in 0..set.len() {
        for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
            images.extend_from_slice(&set.images[source(i, y, x)..][..set.channels]);
        }
    }
    let (labels, names) = (set.labels.clone(), set.class_names.clone());
    ImageSet::new(&set.name, &set.source, [side, side, set.channels], images, labels, names)
}

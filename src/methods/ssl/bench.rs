//! A step of pretraining alone, for benchmarks.

use std::borrow::Cow;
use std::cell::RefCell;

use super::config::{PretrainConfig, SharedFlags};
use super::method::Method;
use super::run::SslRun;
use super::step::Step;
use crate::methods::training::{Order, TrainFlags, Trainer};
use crate::report::CommonFlags;
use crate::{Error, Result, Runtime, Tensor};

/// Batches that the bank of a [`SslStep`] holds at least, and images over those of a step.
const BATCHES: usize = 4;

/// What a step of pretraining is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct SslStepSpec {
    /// The method.
    pub method: Method,
    /// Name of the backbone, its width included.
    pub arch: String,
    /// Images of a step.
    pub batch: usize,
    /// Entries of the bank.
    pub bank: usize,
    /// Neighbours.
    pub topk: usize,
}

/// A method in training on procedural images, step by step.
pub struct SslStep {
    run: SslRun,
    trainer: RefCell<Trainer>,
    order: RefCell<Order>,
    step: Step<'static>,
}

impl SslStep {
    /// As `ssl pretrain` would start it, over four batches of images.
    ///
    /// # Errors
    /// As [`SslRun::pretrain`] and [`SslRun::run`].
    pub fn new(runtime: &Runtime, spec: &SslStepSpec) -> Result<Self> {
        let images = u32::try_from(BATCHES * spec.batch).map_err(|_| Error::argument("ssl", "a batch too large"))?;
        let config = PretrainConfig {
            method: Some(spec.method),
            topk: (spec.method.has_neighbours() && spec.method != Method::Nnbyol).then_some(spec.topk),
            shared: SharedFlags {
                arch: Some(spec.arch.clone()),
                images: Some(images),
                test_images: Some(10),
                bank: spec.method.has_bank().then_some(spec.bank),
                train: TrainFlags { batch: Some(spec.batch), steps: Some(1 << 20), ..TrainFlags::default() },
                ..SharedFlags::default()
            },
            ..PretrainConfig::default()
        };
        let run = SslRun::pretrain(&config, &CommonFlags::default())?;
        let (trainer, step, _) = run.set_up(runtime, Cow::Owned(run.images().clone()), true)?;
        let order = Order::new(images, spec.batch, 0);
        Ok(Self { run, trainer: RefCell::new(trainer), order: RefCell::new(order), step })
    }

    /// Views, both networks, search, backward, optimizer and average; the loss `[]` before it.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn run(&self) -> Result<Tensor> {
        let (mut trainer, mut order) = (self.trainer.borrow_mut(), self.order.borrow_mut());
        let per_epoch = trainer.steps_per_epoch();
        let mut feed = |at: u64, items: &[u32]| self.step.feed(at, per_epoch, &mut order, items);
        trainer.advance(&mut feed, &mut |batch| self.step.loss(batch))
    }

    /// Multiply-adds of a step, as [`SslRun::macs_per_image`] counts them.
    ///
    /// # Errors
    /// As [`SslRun::macs_per_image`].
    pub fn macs(&self) -> Result<u64> {
        Ok(self.run.macs_per_image()? * self.run.settled().recipe.batch as u64)
    }
}

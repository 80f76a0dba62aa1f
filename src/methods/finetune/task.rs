//! What is learned from and judged by, images or texts.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::base::Base;
use super::images::{ImageTask, accuracy};
use super::settle::Settled;
use super::shots::{Halves, Shots, draw};
use super::texts::{Prediction, TextHalves, TextTask, draw_texts, predict, text_accuracy};
use crate::data::ImageSet;
use crate::data::text::Texts;
use crate::methods::training::Batch;
use crate::nn::Model;
use crate::{Result, Runtime, Tensor};

/// Both halves of the data.
#[derive(Debug, Clone)]
pub(super) enum Data {
    Images(Halves),
    Texts(TextHalves),
}

/// What a run learns from.
#[derive(Debug, Clone)]
pub(super) enum Items {
    Images(ImageSet),
    Texts(Texts),
}

/// What an adapted network is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Images or texts of the test half whose class is named rightly, in percent; absent for texts without classes.
    pub accuracy: Option<f64>,
    /// How well texts without classes are predicted.
    #[serde(flatten)]
    pub prediction: Option<Prediction>,
}

impl Data {
    /// Classes; 0 for texts without.
    pub(super) fn n_classes(&self) -> usize {
        match self {
            Self::Images(halves) => halves.train.n_classes,
            Self::Texts(halves) => halves.n_classes().unwrap_or(0),
        }
    }

    /// Names of the classes; none for texts without.
    pub(super) fn classes(&self) -> &[String] {
        match self {
            Self::Images(halves) => &halves.test.class_names,
            Self::Texts(halves) if halves.n_classes().is_some() => &halves.test.classes,
            Self::Texts(_) => &[],
        }
    }

    /// Items to judge by.
    pub(super) fn n_test(&self) -> usize {
        match self {
            Self::Images(halves) => halves.test.len(),
            Self::Texts(halves) => halves.test.len(),
        }
    }

    /// What it is, in a line.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Images(Halves { train, is_divided, .. }) => {
                let divided = if *is_divided { ", divided by the holdout" } else { "" };
                format!("{} ({}{divided})", train.name, train.source)
            }
            Self::Texts(halves) => format!("{} ({})", halves.name, halves.source),
        }
    }

    /// What a run with this seed learns from.
    pub(super) fn draw(&self, shots: Shots, seed: u64) -> Result<Items> {
        Ok(match self {
            Self::Images(halves) => Items::Images(draw(&halves.train, shots, seed)?),
            Self::Texts(halves) => Items::Texts(draw_texts(halves, shots, seed)?),
        })
    }

    /// Judges a network.
    pub(super) fn judge(&self, runtime: &Runtime, network: &Model, base: &Base, quiet: bool) -> Result<Verdict> {
        Ok(match self {
            Self::Images(halves) => Verdict {
                accuracy: Some(accuracy(runtime, network, &halves.test, &base.normalize, quiet)?),
                prediction: None,
            },
            Self::Texts(halves) if halves.n_classes().is_some() => {
                Verdict { accuracy: Some(text_accuracy(runtime, network, &halves.test)?), prediction: None }
            }
            Self::Texts(halves) => {
                Verdict { accuracy: None, prediction: Some(predict(runtime, network, &halves.test)?) }
            }
        })
    }
}

impl Items {
    /// Number of items.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Images(set) => set.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Names of the classes.
    pub(super) fn classes(&self) -> &[String] {
        match self {
            Self::Images(set) => &set.class_names,
            Self::Texts(texts) if texts.labels.is_some() => &texts.classes,
            Self::Texts(_) => &[],
        }
    }

    pub(super) fn task(&self, runtime: &Runtime, base: &Base, settled: &Settled) -> Result<Task<'_>> {
        let Settled { recipe, augment, label_smoothing, .. } = settled;
        Ok(match self {
            Self::Images(set) => Task::Images(Box::new(ImageTask::new(
                runtime,
                Cow::Borrowed(set),
                &base.normalize,
                recipe,
                *augment,
                *label_smoothing,
            )?)),
            Self::Texts(texts) => Task::Texts(TextTask::new(runtime, texts, recipe, *label_smoothing)?),
        })
    }
}

/// Items on their way through a network.
pub(super) enum Task<'a> {
    Images(Box<ImageTask<'a>>),
    Texts(TextTask<'a>),
}

impl Task<'_> {
    pub(super) fn feed(&self, items: &[u32]) -> Result<()> {
        match self {
            Self::Images(task) => task.feed(items),
            Self::Texts(task) => task.feed(items),
        }
    }

    /// Mean loss `[]` of a micro-batch.
    pub(super) fn loss(&self, network: &Model, batch: &Batch) -> Result<Tensor> {
        match self {
            Self::Images(task) => task.loss(network, batch),
            Self::Texts(task) => task.loss(network, batch),
        }
    }
}

//! The teacher of a distillation, as steps ask it.

use std::path::Path;

use super::teacher::{Teacher, TeacherViews, teacher_features};
use crate::data::ImageSet;
use crate::methods::training::{Batch, scale_shift};
use crate::nn::Model;
use crate::ops::gather::gather_rows;
use crate::ops::views;
use crate::{Result, Runtime, Tensor};

/// How a teacher is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct GuideSpec {
    /// Fixed views whose features are kept; 0: none.
    pub(super) views: u32,
    /// How views are made.
    pub(super) recipe: views::Recipe,
    /// What they are drawn from.
    pub(super) seed: u64,
    /// Images of a step.
    pub(super) batch: usize,
}

/// A teacher on a device.
pub(super) struct Guide {
    model: Model,
    scale: Tensor,
    shift: Tensor,
    kept: Option<Kept>,
    n_images: usize,
}

/// Features of fixed views.
struct Kept {
    /// f32 `[views * n, d]`, the first view of every image first.
    features: Tensor,
    n_views: u64,
    /// Which of them a step needs, u32 `[batch]`.
    rows: Tensor,
    /// The view that a step makes, u32 `[1]`.
    view: Tensor,
}

impl Guide {
    /// With features of fixed views from `folder`, where they are kept, or made now.
    pub(super) fn new(
        runtime: &Runtime,
        teacher: &Teacher,
        set: &ImageSet,
        spec: GuideSpec,
        folder: Option<&Path>,
        quiet: bool,
    ) -> Result<Self> {
        let (scale, shift) = scale_shift(runtime, teacher.mean_std())?;
        let kept = if spec.views == 0 {
            None
        } else {
            let views = TeacherViews { n: spec.views, recipe: spec.recipe, seed: spec.seed };
            Some(Kept {
                features: teacher_features(runtime, teacher, set, &views, folder, quiet)?,
                n_views: u64::from(spec.views),
                rows: Tensor::from_slice(runtime, &vec![0_u32; spec.batch], &[spec.batch])?,
                view: Tensor::from_slice(runtime, &[0_u32], &[1])?,
            })
        };
        Ok(Self { model: teacher.model(runtime)?, scale, shift, kept, n_images: set.len() })
    }

    /// What a step in an epoch, from 0, needs besides its batch.
    pub(super) fn feed(&self, epoch: u64, items: &[u32]) -> Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let view = (epoch % kept.n_views) as u32;
        let rows: Vec<u32> = items.iter().map(|item| view * self.n_images as u32 + item).collect();
        kept.rows.write(&rows)?;
        kept.view.write(&[view])
    }

    /// What stands for the epoch where views are fixed.
    pub(super) fn view(&self) -> Option<&Tensor> {
        self.kept.as_ref().map(|kept| &kept.view)
    }

    /// The kept features of a batch's views, f32 `[b, d]`.
    pub(super) fn cached(&self, batch: &Batch) -> Result<Option<Tensor>> {
        let rows = |kept: &Kept| gather_rows(&kept.features, &kept.rows.slice(0, batch.places.clone())?);
        self.kept.as_ref().map(rows).transpose()
    }

    /// The teacher's features of views as it wants them: `[b, d]`.
    pub(super) fn features(&self, images: &Tensor) -> Result<Tensor> {
        self.model.features(images)
    }

    /// How it wants bytes, `[c]` each.
    pub(super) fn scale_shift(&self) -> (&Tensor, &Tensor) {
        (&self.scale, &self.shift)
    }
}

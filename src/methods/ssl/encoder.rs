//! A backbone with its heads, over one list of parameters.

use super::method::Heads;
use crate::nn::{ArenaParam, MlpSpec, Model, ModelSpec, NamedParam, Plan, Training, Weights, initial, initial_behind};
use crate::ops::elementwise::cast;
use crate::ops::norm::rms_norm;
use crate::{DType, Result, Runtime, Tensor};

/// Added to a mean square before a row is divided by its root.
const EPS: f32 = 1e-12;

/// Rows of `x` `[b, d]` at unit length, f32: what is compared.
///
/// # Errors
/// As [`rms_norm`].
pub(super) fn unit_rows(x: &Tensor) -> Result<Tensor> {
    let x = cast(x, DType::F32)?;
    let d = x.shape().last().copied().unwrap_or(1);
    let gain = Tensor::full(x.runtime(), &[d], 1.0 / (d as f32).sqrt(), DType::F32)?;
    rms_norm(&x, Some(&gain), EPS)
}

/// A backbone without its classifier, and the heads behind it, as data.
#[derive(Debug, Clone)]
pub(super) struct EncoderSpec {
    pub(super) backbone: ModelSpec,
    pub(super) heads: Heads,
}

/// The same on a device.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    pub(super) backbone: Model,
    projector: Option<Model>,
    predictor: Option<Model>,
}

impl EncoderSpec {
    /// Length of the features.
    pub(super) fn n_features(&self) -> usize {
        self.backbone.plan().n_features()
    }

    /// The parts in order: name, spec, plan.
    fn parts(&self) -> impl Iterator<Item = (&'static str, ModelSpec, Plan)> + '_ {
        let head =
            |name, mlp: &Option<MlpSpec>| mlp.as_ref().map(|mlp| (name, ModelSpec::Mlp(mlp.clone()), mlp.plan()));
        let backbone = ("backbone", self.backbone.clone(), self.backbone.plan().headless());
        let heads = [head("projector", &self.heads.projector), head("predictor", &self.heads.predictor)];
        [Some(backbone)].into_iter().chain(heads).flatten()
    }

    /// Weights of each part to start from. The backbone's are those that a training with a classifier starts from.
    pub(super) fn initial(&self, seed: u64) -> Result<Vec<Weights>> {
        let (mut first, mut all) = (0, Vec::new());
        for (name, spec, plan) in self.parts() {
            if name == "backbone" {
                all.push(initial(&spec, seed)?.first(&plan.params)?);
                first = spec.plan().params.len();
            } else {
                all.push(initial_behind(&spec, seed, first)?);
                first += plan.params.len();
            }
        }
        Ok(all)
    }

    /// What is trained and the running statistics, named by part. With `all_decay` weight decay acts on norms and biases, too.
    pub(super) fn for_arenas(&self, weights: &[Weights], all_decay: bool) -> (Vec<NamedParam>, Vec<NamedParam>) {
        let (mut trained, mut buffers) = (Vec::new(), Vec::new());
        for ((part, _, plan), weights) in self.parts().zip(weights) {
            let (of_part, kept) = plan.params.for_arenas(weights);
            let named = |(name, param): NamedParam| (format!("{part}.{name}"), param);
            let decaying =
                |(name, param): NamedParam| (name, ArenaParam { decays: param.decays || all_decay, ..param });
            trained.extend(of_part.into_iter().map(named).map(decaying));
            buffers.extend(kept.into_iter().map(named));
        }
        (trained, buffers)
    }

    /// The networks of these weights.
    pub(super) fn load(&self, runtime: &Runtime, weights: &[Weights]) -> Result<Encoder> {
        let mut models = Vec::new();
        for ((name, spec, plan), weights) in self.parts().zip(weights) {
            models.push((name, Model::from_plan(runtime, &spec, plan, weights)?));
        }
        let mut take = |wanted: &str| {
            let at = models.iter().position(|(name, _)| *name == wanted)?;
            Some(models.swap_remove(at).1)
        };
        let backbone = take("backbone").ok_or_else(|| crate::Error::argument("encoder", "no weights of a backbone"))?;
        Ok(Encoder { backbone, projector: take("projector"), predictor: take("predictor") })
    }

    /// Trained values, and values in all.
    pub(super) fn plans(&self) -> Vec<Plan> {
        self.parts().map(|(_, _, plan)| plan).collect()
    }
}

impl Encoder {
    /// The same over other tensors, in the order of [`EncoderSpec::for_arenas`].
    pub(super) fn over(&self, trained: &[Tensor], statistics: &[Tensor]) -> Result<Self> {
        let (mut trained, mut statistics) = (trained, statistics);
        let mut next = |model: &Model| {
            let n = model.plan().params.len();
            let n_trained = model.plan().params.iter().filter(|p| p.kind.is_trained()).count();
            let (of_trained, rest) = trained.split_at(n_trained.min(trained.len()));
            let (of_statistics, others) = statistics.split_at((n - n_trained).min(statistics.len()));
            (trained, statistics) = (rest, others);
            model.over(of_trained, of_statistics)
        };
        Ok(Self {
            backbone: next(&self.backbone)?,
            projector: self.projector.as_ref().map(&mut next).transpose()?,
            predictor: self.predictor.as_ref().map(&mut next).transpose()?,
        })
    }

    /// The same as it runs while it is trained.
    pub(super) fn training(&self, training: Training) -> Self {
        let over = |model: &Model| model.training(training);
        Self {
            backbone: over(&self.backbone),
            projector: self.projector.as_ref().map(over),
            predictor: self.predictor.as_ref().map(over),
        }
    }

    /// What the projector makes of images `[b, h, w, c]`: `[b, d]`.
    pub(super) fn project(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.backbone.features(images)?;
        self.projector.as_ref().map_or(Ok(x.clone()), |head| head.features(&x))
    }

    /// What the predictor makes of what the projector made, `[b, d]`.
    pub(super) fn predict(&self, x: &Tensor) -> Result<Tensor> {
        self.predictor.as_ref().map_or(Ok(x.clone()), |head| head.features(x))
    }
}

//! A network with its weights on a device.

use super::branch::Beside;
use super::checkpoint::Weights;
use super::param::{ParamId, ParamSpec};
use super::plan::{Body, Conv, Linear, Norm, Plan, Residual, Shortcut, Step};
use super::spec::ModelSpec;
use super::vit_forward;
use crate::autograd::{Pass, checkpoint};
use crate::ops::conv::{self, Conv2d};
use crate::ops::{Act, elementwise, gather, norm, pool};
use crate::{Error, Result, Runtime, Tensor};
use std::sync::Arc;

/// A network with its weights on a device; images in, logits out.
#[derive(Debug, Clone)]
pub struct Model {
    spec: ModelSpec,
    plan: Arc<Plan>,
    pub(super) params: Arc<[Tensor]>,
    /// Branches and packed weights.
    pub(super) beside: Arc<Beside>,
    training: Option<Training>,
}

/// How a network runs while it is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Training {
    /// Share of a batch's statistics that goes into the running ones.
    pub momentum: f32,
    /// Whether residual and transformer blocks keep only their input, and compute the rest again in the backward pass.
    pub recompute: bool,
    /// Whether running statistics are updated: not while a block runs again, nor by a network that only gives targets.
    update: bool,
}

impl Training {
    /// With these settings.
    #[must_use]
    pub fn new(momentum: f32, recompute: bool) -> Self {
        Self { momentum, recompute, update: true }
    }

    /// Norms by the batch's statistics, running ones left as they are: for a target network, which nobody trains.
    #[must_use]
    pub fn of_target() -> Self {
        Self { momentum: 0.0, recompute: false, update: false }
    }
}

impl Model {
    /// Loads `weights` as they are published, batch norms kept as they are, for training.
    ///
    /// # Errors
    /// [`Error::Argument`] if the weights are not those of `spec`; as [`Tensor::from_slice`] otherwise.
    pub fn new(runtime: &Runtime, spec: &ModelSpec, weights: &Weights) -> Result<Self> {
        Self::from_plan(runtime, spec, spec.plan(), weights)
    }

    /// Loads `weights` with the batch norms folded into the layers in front of them, for inference: the same logits up
    /// to rounding, in fewer dispatches.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn folded(runtime: &Runtime, spec: &ModelSpec, weights: &Weights) -> Result<Self> {
        let (plan, weights) = spec.plan().fold(weights)?;
        Self::from_plan(runtime, spec, plan, &weights)
    }

    /// Loads the `weights` of a network that was changed on the way: without its head ([`Plan::headless`]), or folded.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn from_plan(runtime: &Runtime, spec: &ModelSpec, plan: Plan, weights: &Weights) -> Result<Self> {
        weights.check(&plan.params)?;
        if let ModelSpec::Vit(vit) = spec
            && (vit.heads == 0 || !vit.width.is_multiple_of(vit.heads))
        {
            let message = format!("{} heads do not divide a width of {}", vit.heads, vit.width);
            return Err(Error::argument("model", message));
        }
        if let ModelSpec::Text(text) = spec {
            text.check()?;
        }
        let pairs = plan.params.iter().zip(weights.iter());
        let upload = |(p, w): (&ParamSpec, &Vec<f32>)| Tensor::from_slice(runtime, &p.to_device(w), &p.device_shape());
        let params = pairs.map(upload).collect::<Result<Vec<_>>>()?.into();
        Ok(Self { spec: spec.clone(), plan: plan.into(), params, beside: Arc::default(), training: None })
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Its tensors and steps as they run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every tensor in order with its name, in device layout ([`ParamSpec::device_shape`]).
    pub fn named_params(&self) -> impl Iterator<Item = (&ParamSpec, &Tensor)> {
        self.plan.params.iter().zip(self.params.iter())
    }

    /// The same network over other tensors, such as views of an arena, in the order of [`Model::named_params`].
    ///
    /// # Errors
    /// [`Error::Shape`] if their number or a shape does not fit.
    pub fn with_params(&self, params: Vec<Tensor>) -> Result<Self> {
        let want: Vec<_> = self.plan.params.iter().map(ParamSpec::device_shape).collect();
        if !params.iter().map(Tensor::shape).eq(want.iter().map(Vec::as_slice)) {
            return Err(Error::shape("model", format!("{} tensors that are not those of {}", params.len(), self.spec)));
        }
        Ok(Self { params: params.into(), ..self.clone() })
    }

    /// The same network over these tensors, with this beside them.
    pub(super) fn beside(&self, params: Arc<[Tensor]>, beside: Beside) -> Self {
        Self { params, beside: beside.into(), ..self.clone() }
    }

    /// The same network over other trained tensors and running statistics, each in the order of
    /// [`super::ParamList::for_arenas`].
    ///
    /// # Errors
    /// As [`Model::with_params`].
    pub fn over(&self, trained: &[Tensor], statistics: &[Tensor]) -> Result<Self> {
        let (mut trained, mut statistics) = (trained.iter(), statistics.iter());
        let next = |param: &ParamSpec| if param.kind.is_trained() { trained.next() } else { statistics.next() };
        self.with_params(self.plan.params.iter().map_while(next).cloned().collect())
    }

    /// The same network as it runs while it is trained: batch norms take the statistics of the batch and update the
    /// running ones in place.
    #[must_use]
    pub fn training(&self, training: Training) -> Self {
        Self { training: Some(training), ..self.clone() }
    }

    /// The same network as it is judged: batch norms take their running statistics and leave them alone.
    #[must_use]
    pub fn evaluating(&self) -> Self {
        Self { training: None, ..self.clone() }
    }

    /// A block of the network: run as it is, or with `recompute` so that only `x` is kept for the backward pass.
    pub(super) fn block<F>(&self, x: &Tensor, f: F) -> Result<Tensor>
    where
        F: Fn(&Self, &Tensor) -> Result<Tensor> + Send + 'static,
    {
        match self.training {
            Some(Training { recompute: true, .. }) => {
                let first = self.clone();
                checkpoint(x, move |x, pass| {
                    let training = Training { update: pass == Pass::First, ..Training::new(0.0, false) };
                    let momentum = first.training.map_or(0.0, |t| t.momentum);
                    f(&first.training(Training { momentum, ..training }), x)
                })
            }
            _ => f(self, x),
        }
    }

    /// Reads the weights back in published layout.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn weights(&self) -> Result<Weights> {
        let reads = self.params.iter().map(Tensor::read::<f32>).collect::<Result<Vec<_>>>()?;
        let values = reads.into_iter().zip(&self.plan.params).map(|(read, p)| Ok(p.to_published(&read.wait()?)));
        Weights::new(&self.plan.params, values.collect::<Result<_>>()?)
    }

    /// Logits `[n, classes]` of normalised images `[n, h, w, c]`; features, if the network has no head.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images are not of the network's channels or size.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let features = self.features(images)?;
        match self.plan.head() {
            Some(head) => self.linear(head, &features),
            None => Ok(features),
        }
    }

    /// What the last linear layer sees of normalised images `[n, h, w, c]`: `[n, d]`, `d` as [`Plan::n_features`] says. An MLP
    /// takes vectors `[n, n_in]`, and has no head.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let (rank, last) = (images.rank(), images.shape().last());
        let wanted = if matches!(self.spec, ModelSpec::Mlp(_)) { 2 } else { 4 };
        if let Body::Text(_) = self.plan.body {
            return Err(no_images());
        }
        if rank != wanted || last != Some(&self.spec.channels()) {
            let (shape, channels) = (images.shape(), self.spec.channels());
            return Err(Error::shape("forward", format!("images {shape:?}, [n, h, w, {channels}] wanted")));
        }
        match &self.plan.body {
            Body::Conv(steps) => {
                let n = steps.len() - usize::from(self.plan.head().is_some());
                self.steps(&steps[..n], images.clone())
            }
            Body::Vit(vit) => vit_forward::features(self, vit, images),
            Body::Text(_) => Err(no_images()),
        }
    }

    /// The tensor of a parameter.
    pub(super) fn param(&self, id: ParamId) -> &Tensor {
        &self.params[id.index()]
    }

    fn steps(&self, steps: &[Step], mut x: Tensor) -> Result<Tensor> {
        for step in steps {
            x = self.step(step, &x)?;
        }
        Ok(x)
    }

    fn step(&self, step: &Step, x: &Tensor) -> Result<Tensor> {
        match step {
            Step::Conv(conv) => self.conv(conv, x),
            Step::Norm(norm) => self.batch_norm(norm, x, Act::None),
            Step::MaxPool(p) => pool::max_pool2d(x, [p.kernel; 2], [p.stride; 2], [p.padding; 2]),
            Step::GlobalAvgPool => pool::global_avg_pool(x),
            Step::Flatten => x.reshape(&[x.shape()[0], x.shape()[1..].iter().product()]),
            Step::Linear(linear) => self.linear(linear, x),
            Step::Residual(residual) => {
                let layer = residual.clone();
                self.block(x, move |model, x| model.residual(&layer, x))
            }
        }
    }

    /// Convolution, norm and activation of a layer.
    pub(super) fn conv(&self, layer: &Conv, x: &Tensor) -> Result<Tensor> {
        let window = window(layer);
        let (weight, bias) = (self.conv_weight(layer)?, layer.bias.map(|id| self.param(id)));
        match &layer.norm {
            None => conv::conv2d(x, &weight, bias, &window, layer.act),
            Some(norm) => self.batch_norm(norm, &conv::conv2d(x, &weight, bias, &window, Act::None)?, layer.act),
        }
    }

    /// Product, norm and activation of a layer.
    pub(super) fn linear(&self, layer: &Linear, x: &Tensor) -> Result<Tensor> {
        match &layer.norm {
            None => self.product(layer, x, layer.act),
            Some(norm) => self.batch_norm(norm, &self.product(layer, x, Act::None)?, layer.act),
        }
    }

    fn batch_norm(&self, layer: &Norm, x: &Tensor, act: Act) -> Result<Tensor> {
        let [gain, bias, mean, var] = [layer.gain, layer.bias, layer.mean, layer.var].map(|id| self.param(id));
        let Some(training) = self.training else { return norm::batch_norm(x, gain, bias, mean, var, layer.eps, act) };
        let (out, batch_mean, batch_var) = norm::batch_norm_train(x, gain, bias, layer.eps, act)?;
        if training.update {
            let n = x.len() / gain.len().max(1);
            norm::update_running_stats(mean, var, &batch_mean, &batch_var, n, training.momentum)?;
        }
        Ok(out)
    }

    fn residual(&self, layer: &Residual, x: &Tensor) -> Result<Tensor> {
        let shortcut = match &layer.shortcut {
            Shortcut::Identity => x.clone(),
            &Shortcut::Pad { stride, before, after } => {
                let pixels = x.step(1, stride)?.step(2, stride)?;
                gather::pad(&pixels, &[(0, 0), (0, 0), (0, 0), (before, after)], 0.0)?
            }
            Shortcut::Project(conv) => self.conv(conv, x)?,
        };
        // The last convolution adds the shortcut in its own dispatch, unless a norm stands between.
        if let Some((Step::Conv(last), rest)) = layer.body.split_last()
            && last.norm.is_none()
            && last.act == Act::None
        {
            let y = self.steps(rest, x.clone())?;
            let (weight, bias) = (self.conv_weight(last)?, last.bias.map(|id| self.param(id)));
            return conv::conv2d_residual(&y, &weight, bias, &shortcut, &window(last), layer.act);
        }
        elementwise::add_act(&self.steps(&layer.body, x.clone())?, &shortcut, layer.act)
    }
}

/// What a language model says of images.
fn no_images() -> Error {
    Error::argument("forward", "a language model reads tokens, not images")
}

/// How a layer's convolution steps over its input.
pub(super) fn window(layer: &Conv) -> Conv2d {
    Conv2d { stride: [layer.stride; 2], padding: [layer.padding; 2], groups: layer.groups, ..Conv2d::default() }
}

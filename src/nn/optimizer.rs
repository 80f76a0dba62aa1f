//! Optimizers over an [`Arena`]: one dispatch per large buffer and step.

use serde::{Deserialize, Serialize};

use super::arena::Arena;
use crate::autograd::Gradients;
use crate::ops::optim::{self, Adam, Lars, LossScale, Sgd, Verdict};
use crate::{Error, Result, Tensor};

/// The rule that turns gradients into a step; the defaults are PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "optimizer", rename_all = "snake_case")]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Share of the last step that goes on.
        momentum: f64,
        /// Looks ahead by the momentum.
        nesterov: bool,
    },
    /// Layer-wise adaptive rates (You et al. 2017, arXiv 1708.03888).
    Lars {
        /// Share of the last step that goes on.
        momentum: f64,
        /// Factor of the ratio between a parameter's norm and its gradient's.
        trust: f64,
    },
    /// Adam (Kingma and Ba 2014, arXiv 1412.6980).
    Adam {
        /// Memory of the mean.
        beta1: f64,
        /// Memory of the mean square.
        beta2: f64,
        /// Added to the root of the mean square.
        eps: f64,
        /// Whether decay acts on the values themselves, as in `AdamW` (Loshchilov and Hutter 2017, arXiv 1711.05101).
        decoupled: bool,
    },
}

impl Rule {
    /// Tensors of an arena's size that it keeps from step to step.
    #[must_use]
    pub fn n_moments(self) -> usize {
        if matches!(self, Self::Adam { .. }) { 2 } else { 1 }
    }
}

/// An optimizer with its state.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    decay: f64,
    clip: Option<f64>,
    /// By moment, then part.
    moments: Vec<Vec<Tensor>>,
    /// Steps done.
    t: u64,
    scale: Option<LossScale>,
}

/// What a step went by, as it stands on the device.
#[derive(Debug, Clone)]
pub struct Stepped {
    /// Global norm `[1]` of the gradients before clipping, where they are clipped or scaled.
    pub norm: Option<Tensor>,
    /// The factor that the gradients took, as [`optim::sgd`] has it.
    factor: Option<Tensor>,
}

impl Optimizer {
    /// A fresh optimizer: weight decay `decay` on the parameters that decay, and gradients scaled down to a global norm of
    /// `clip` where they pass it.
    ///
    /// # Errors
    /// As [`Arena::flats`].
    pub fn new(rule: Rule, decay: f64, clip: Option<f64>, arena: &Arena) -> Result<Self> {
        let moments = (0..rule.n_moments()).map(|_| arena.flats(None)).collect::<Result<_>>()?;
        Ok(Self { rule, decay, clip, moments, t: 0, scale: None })
    }

    /// An optimizer as it was after `t` steps, with its moments by parameter.
    ///
    /// # Errors
    /// [`Error::Argument`] if the moments are not those of the rule, else as [`Arena::flats`].
    pub fn resume(
        rule: Rule,
        decay: f64,
        clip: Option<f64>,
        arena: &Arena,
        moments: &[Vec<Vec<f32>>],
        t: u64,
    ) -> Result<Self> {
        if moments.len() != rule.n_moments() {
            let message = format!("{} moments given, {} wanted", moments.len(), rule.n_moments());
            return Err(Error::argument("optimizer", message));
        }
        let moments = moments.iter().map(|values| arena.flats(Some(values))).collect::<Result<_>>()?;
        Ok(Self { rule, decay, clip, moments, t, scale: None })
    }

    /// The same for gradients that come multiplied by a loss scale.
    #[must_use]
    pub fn scaled(self, scale: LossScale) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// The loss scale, if there is one.
    #[must_use]
    pub fn scale(&self) -> Option<&LossScale> {
        self.scale.as_ref()
    }

    /// The gradients of a loss f32 `[]` as [`Optimizer::step`] wants them: times the loss scale, if there is one.
    ///
    /// # Errors
    /// As [`Tensor::backward_with`].
    pub fn backward(&self, loss: &Tensor) -> Result<Gradients> {
        match &self.scale {
            Some(scale) => loss.backward_with(&scale.seed()?),
            None => loss.backward(),
        }
    }

    /// The state: flat tensors as [`Arena::values`], by moment.
    #[must_use]
    pub fn moments(&self) -> &[Vec<Tensor>] {
        &self.moments
    }

    /// One step along the arena's gradients. With a loss scale it changes nothing if one of them is no number.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn step(&mut self, arena: &Arena, lr: f64) -> Result<Stepped> {
        let all: Vec<_> = arena.parts().map(|(_, d, slots)| (d, slots)).collect();
        let most = self.clip.map(|most| most as f32);
        let (norm, factor) = match (&self.scale, most) {
            (Some(scale), most) => {
                let Verdict { norm, factor } = scale.unscale(&all, most)?;
                (Some(norm), Some(factor))
            }
            (None, Some(most)) => {
                let (norm, factor) = optim::clip(&all, most)?;
                (Some(norm), Some(factor))
            }
            (None, None) => (None, None),
        };
        self.t += 1;
        let (lr, decay) = (lr as f32, self.decay as f32);
        for (i, (w, d, slots)) in arena.parts().enumerate() {
            let moment = |k: usize| &self.moments[k][i];
            match self.rule {
                Rule::Sgd { momentum, nesterov } => {
                    let momentum = momentum as f32;
                    optim::sgd(w, d, moment(0), slots, factor.as_ref(), &Sgd { lr, momentum, nesterov, decay })?;
                }
                Rule::Lars { momentum, trust } => {
                    let (momentum, trust) = (momentum as f32, trust as f32);
                    optim::lars(w, d, moment(0), slots, factor.as_ref(), &Lars { lr, momentum, decay, trust })?;
                }
                Rule::Adam { beta1, beta2, eps, decoupled } => {
                    let t = u32::try_from(self.t).unwrap_or(u32::MAX);
                    let [beta1, beta2, eps] = [beta1, beta2, eps].map(|value| value as f32);
                    let step = Adam { lr, beta1, beta2, eps, decay, decoupled, t };
                    optim::adam(w, d, moment(0), moment(1), slots, factor.as_ref(), &step)?;
                }
            }
        }
        Ok(Stepped { norm, factor })
    }
}

/// Moving averages of an arena's values (Polyak and Juditsky 1992).
#[derive(Debug)]
pub struct Average {
    flats: Vec<Tensor>,
}

impl Average {
    /// Starts at `init` by parameter.
    ///
    /// # Errors
    /// As [`Arena::flats`].
    pub fn new(arena: &Arena, init: &[Vec<f32>]) -> Result<Self> {
        Ok(Self { flats: arena.flats(Some(init))? })
    }

    /// Takes the arena's values in, as they are behind a step that was taken; `momentum` is the share of the old average that
    /// stays.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn update(&self, arena: &Arena, momentum: f64, step: &Stepped) -> Result<()> {
        let (momentum, factor) = (momentum as f32, step.factor.as_ref());
        self.flats.iter().zip(arena.values()).try_for_each(|(e, w)| optim::ema(e, &w, momentum, factor))
    }

    /// Flat tensors as [`Arena::values`].
    #[must_use]
    pub fn flats(&self) -> &[Tensor] {
        &self.flats
    }
}

//! Mixed precision: what a network in training keeps and computes in 16 bits.

use serde::{Deserialize, Serialize};

use super::arena::Arena;
use crate::ops::elementwise::cast_into;
use crate::{DType, Result, Tensor};

/// The element type in which a network is trained.
///
/// `F16` is mixed precision (Micikevicius et al. 2018, arXiv 1710.03740). Who keeps and computes what:
///
/// | what | type |
/// |---|---|
/// | images, activations and their gradients | f16 |
/// | weights and biases of convolutions and linear layers, tokens and positions, as ops read them; their gradients | f16 |
/// | gains and biases of norms, their gradients | f32 |
/// | statistics of norms, log-sum-exp of attention, every sum within a kernel, partial sums between two | f32 |
/// | logits behind the network, loss, its first gradient (the loss scale) | f32 |
/// | master copy of all parameters, gradients as the optimizer reads them, moments, average, running statistics | f32 |
///
/// So an op stores f16 where it stores a map, and nothing is added up in f16 but what autograd adds where a result has two
/// readers, a skip connection's gradient among them. Norms take their parameters in f32 beside f16 maps, at no cost: there are
/// few of them, and a gain near 1 would lose every step below 2^-11.
///
/// Products with long sums, as the gradients of linear layers' weights are, make f32 copies of their operands where they are
/// taken in parts: a few dispatches more, and memory for the largest of them.
///
/// Gradients are those of the loss times a [`LossScale`](crate::ops::optim::LossScale): a step whose gradients hold an
/// infinity or a NaN changes neither parameters nor moments nor average, and halves the scale. As in PyTorch, running
/// statistics move in such a step, too, and the learning rate goes by all steps, skipped ones included; Adam's bias
/// correction counts those that were taken. What is evaluated and saved is the f32 master copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    F32,
    /// Mixed precision.
    F16,
}

impl Precision {
    /// The type of images and activations.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

/// What ops read of an [`Arena`] under mixed precision: an f16 copy of its values, the f32 ones where those are wanted.
#[derive(Debug)]
pub struct HalfCopy {
    /// f16, as the arena's parts.
    flats: Vec<Tensor>,
}

impl HalfCopy {
    /// A copy of the values as they are: [`Arena::values`], or an average that lies as they do.
    ///
    /// # Errors
    /// [`crate::Error::Feature`] on an adapter without f16.
    pub fn new(values: &[Tensor]) -> Result<Self> {
        let zeros = |values: &Tensor| Tensor::zeros(values.runtime(), values.shape(), DType::F16);
        let copy = Self { flats: values.iter().map(zeros).collect::<Result<_>>()? };
        copy.refresh(values)?;
        Ok(copy)
    }

    /// Takes the values over, in place: [`HalfCopy::tensors`] see them. One dispatch per part.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] if the device is gone.
    pub fn refresh(&self, values: &[Tensor]) -> Result<()> {
        self.flats.iter().zip(values).try_for_each(|(half, values)| cast_into(values, half))
    }

    /// The parameters as views, in the order of [`Arena::tensors`]: of the copy, or of `values` where ops read f32.
    ///
    /// # Errors
    /// As [`Tensor::slice`]; none in fact.
    pub fn tensors(&self, arena: &Arena, values: &[Tensor]) -> Result<Vec<Tensor>> {
        arena.mixed_views(values, &self.flats)
    }
}

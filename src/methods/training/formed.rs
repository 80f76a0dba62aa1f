//! Tensors that a loss reads in the place of trained numbers which they are formed of.

use std::fmt::Debug;

use super::trainer::Trainer;
use crate::nn::{Arena, ArenaParam, HalfCopy, Precision};
use crate::{Result, Tensor};

/// A linear map from trained numbers to the tensors that a loss reads in their place, such as low-rank factors that are mixtures of
/// random ones.
///
/// A step forms the tensors once, sums their gradients over its micro-batches, and brings the sums back once: the map is linear, so
/// that nothing is lost.
pub trait Forming: Debug {
    /// Writes the formed tensors as they follow from the trained ones.
    ///
    /// # Errors
    /// Those of its ops.
    fn form(&self, trained: &Arena, formed: &Arena) -> Result<()>;

    /// Writes the gradients of the trained numbers that are formed of, from those of the formed tensors; the others' are there.
    ///
    /// # Errors
    /// Those of its ops.
    fn project(&self, trained: &Arena, formed: &Arena) -> Result<()>;
}

/// Formed tensors, their gradients, and the map.
#[derive(Debug)]
pub(super) struct Formed {
    pub(super) arena: Arena,
    half: Option<HalfCopy>,
    pub(super) leaves: Vec<Tensor>,
    map: Box<dyn Forming>,
}

impl Formed {
    pub(super) fn form(&self, trained: &Arena) -> Result<()> {
        self.map.form(trained, &self.arena)?;
        self.half.as_ref().map_or(Ok(()), |half| half.refresh(&self.arena.values()))
    }

    pub(super) fn project(&self, trained: &Arena) -> Result<()> {
        self.map.project(trained, &self.arena)
    }
}

impl Trainer {
    /// Has the loss read tensors that are formed of the trained ones: `map` is given where both lie. Their values are written before
    /// each step, before each evaluation and at the end of a run.
    ///
    /// # Errors
    /// As [`Arena::new`], and what `map` gives.
    pub fn form(
        &mut self,
        formed: &[ArenaParam],
        map: impl FnOnce(&Arena, &Arena) -> Result<Box<dyn Forming>>,
    ) -> Result<()> {
        let arena = Arena::new(self.runtime(), formed, true)?;
        let is_half = self.precision() == Precision::F16;
        let half = is_half.then(|| HalfCopy::new(&arena.values())).transpose()?;
        let leaves = match &half {
            Some(half) => half.tensors(&arena, &arena.values())?,
            None => arena.tensors()?,
        };
        let leaves = leaves.iter().map(Tensor::require_grad).collect::<Result<_>>()?;
        let map = map(self.arena(), &arena)?;
        let formed = Formed { arena, half, leaves, map };
        formed.form(self.arena())?;
        self.set_formed(formed);
        Ok(())
    }

    /// The formed tensors as leaves for the loss, in the order in which they were given; as [`Trainer::leaves`].
    #[must_use]
    pub fn formed_leaves(&self) -> &[Tensor] {
        self.formed().map_or(&[], |formed| &formed.leaves)
    }

    /// The formed tensors in f32, which are evaluated. They are right behind a run and in an evaluation, and a step late in a loss.
    ///
    /// # Errors
    /// As [`Arena::tensors`].
    pub fn formed_tensors(&self) -> Result<Vec<Tensor>> {
        self.formed().map_or(Ok(Vec::new()), |formed| formed.arena.tensors())
    }
}

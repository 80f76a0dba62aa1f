//! The gradients of leaves, and the sum of what flows into one node.

use crate::ops::{elementwise, gather};
use crate::tensor::node::Node;
use crate::{Result, Tensor};
use std::collections::HashMap;
use std::ops::Range;

/// The gradients that a backward pass found, by leaf.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    /// The gradient of a leaf, of its shape; `None` if the result does not depend on it.
    #[must_use]
    pub fn of(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.0.get(&leaf.node()?.id)
    }

    /// Takes the gradient of a leaf out, so that its memory can be used again soon.
    pub fn take(&mut self, leaf: &Tensor) -> Option<Tensor> {
        self.0.remove(&leaf.node()?.id)
    }

    /// Number of leaves that were reached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no leaf was reached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, id: u64, d: Tensor) {
        self.0.insert(id, d);
    }
}

/// What flowed into a node so far: a sum over its whole shape, and slices of it.
#[derive(Default)]
pub(super) struct Inflow {
    whole: Option<Tensor>,
    slices: Vec<(usize, Range<usize>, Tensor)>,
}

impl Inflow {
    pub(super) fn add(&mut self, d: Tensor) -> Result<()> {
        self.whole = Some(match self.whole.take() {
            Some(sum) => elementwise::add(&sum, &d)?,
            None => d,
        });
        Ok(())
    }

    /// A gradient of these indices of an axis. They are put together at the end: slices that tile the axis, as the
    /// packed queries, keys and values do, take one copy and no sum.
    pub(super) fn add_slice(&mut self, axis: usize, range: Range<usize>, d: Tensor) {
        self.slices.push((axis, range, d));
    }

    /// The sum, of the node's shape.
    pub(super) fn total(mut self, node: &Node) -> Result<Option<Tensor>> {
        let mut slices = std::mem::take(&mut self.slices);
        slices.sort_by_key(|(_, range, _)| range.start);
        let tiles = slices.first().is_some_and(|(axis, ..)| {
            let mut end = 0;
            slices.iter().all(|(other, range, _)| {
                let next = other == axis && range.start == end;
                end = range.end;
                next
            }) && end == node.shape[*axis]
        });
        if tiles {
            let parts: Vec<&Tensor> = slices.iter().map(|(.., d)| d).collect();
            self.add(gather::concat(&parts, slices[0].0)?)?;
        } else {
            for (axis, range, d) in slices {
                let mut pads = vec![(0, 0); node.shape.len()];
                pads[axis] = (range.start, node.shape[axis] - range.end);
                self.add(gather::pad(&d, &pads, 0.0)?)?;
            }
        }
        Ok(self.whole)
    }
}

//! The walk back over what was recorded.

use super::grads::{Gradients, Inflow};
use crate::ops::{gather, reduce};
use crate::tensor::node::{Node, Origin, View};
use crate::{Error, Result, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

impl Tensor {
    /// The gradients of this number with respect to every leaf behind it. What the ops kept is freed on the way, so a
    /// second pass over the same graph is refused.
    ///
    /// # Errors
    /// [`Error::Argument`] if it has more than one element, no leaf is behind it, or the graph was used before.
    pub fn backward(&self) -> Result<Gradients> {
        if self.len() != 1 {
            let message = format!("{:?} given, one number wanted; see backward_with", self.shape());
            return Err(Error::argument("backward", message));
        }
        self.backward_with(&Self::full(self.runtime(), self.shape(), 1.0, self.dtype())?)
    }

    /// The gradients of the inner product of this tensor with `d_out`, of its shape and type: `d_out` is what a loss
    /// computed elsewhere has as its gradient here.
    ///
    /// # Errors
    /// As [`Tensor::backward`], and [`Error::Shape`] or [`Error::DType`] if `d_out` does not fit.
    pub fn backward_with(&self, d_out: &Self) -> Result<Gradients> {
        const OP: &str = "backward";
        if d_out.shape() != self.shape() {
            return Err(Error::shape(OP, format!("d_out {:?} given, {:?} wanted", d_out.shape(), self.shape())));
        }
        if d_out.dtype() != self.dtype() {
            return Err(Error::dtype(OP, format!("d_out is {}, {} wanted", d_out.dtype(), self.dtype())));
        }
        let Some(root) = self.node() else {
            return Err(Error::argument(OP, "no leaf is behind this tensor; see require_grad"));
        };
        let mut walk = Walk { pending: BTreeMap::new(), gradients: Gradients::default() };
        walk.inflow(root).add(d_out.detach())?;
        while let Some((_, (node, inflow))) = walk.pending.pop_last() {
            if let Some(d) = inflow.total(&node)? {
                walk.visit(&node, d)?;
            }
        }
        Ok(walk.gradients)
    }
}

/// Nodes are visited by falling id: all consumers of a node have larger ids than it.
struct Walk {
    pending: BTreeMap<u64, (Arc<Node>, Inflow)>,
    gradients: Gradients,
}

fn take<T>(slot: &Mutex<Option<T>>, op: &'static str) -> Result<T> {
    let taken = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    taken.ok_or_else(|| Error::argument("backward", format!("a pass went through this {op} before and freed it")))
}

impl Walk {
    fn inflow(&mut self, node: &Arc<Node>) -> &mut Inflow {
        &mut self.pending.entry(node.id).or_insert_with(|| (Arc::clone(node), Inflow::default())).1
    }

    fn visit(&mut self, node: &Node, d: Tensor) -> Result<()> {
        match &node.origin {
            Origin::Leaf => self.gradients.insert(node.id, d),
            Origin::View(view) => {
                if let [Some(input)] = node.inputs.as_slice() {
                    self.look_back(view, input, &d)?;
                }
            }
            Origin::Op(backward) => {
                let flows = take(backward, node.op)?(&d)?;
                assert_eq!(flows.len(), node.inputs.len(), "{}: gradients for each input", node.op);
                for (input, flow) in node.inputs.iter().zip(flows) {
                    let (Some(input), Some(flow)) = (input, flow) else { continue };
                    assert_eq!(flow.shape(), input.shape, "{}: the gradient has the shape of its input", node.op);
                    assert!(!flow.needs_grad(), "{}: a gradient has no history", node.op);
                    self.inflow(input).add(flow)?;
                }
            }
            Origin::Again(again) => {
                let out = take(again, node.op)?()?;
                assert_eq!(out.shape(), node.shape, "a checkpointed function gives the same shape again");
                if let Some(root) = out.node() {
                    self.inflow(root).add(d)?;
                }
            }
        }
        Ok(())
    }

    /// Passes the gradient of a view to what it looks at.
    fn look_back(&mut self, view: &View, input: &Arc<Node>, d: &Tensor) -> Result<()> {
        let d = match view {
            View::Slice { axis, range } => {
                self.inflow(input).add_slice(*axis, range.clone(), d.clone());
                return Ok(());
            }
            View::Permute(axes) => {
                let mut inverse = vec![0; axes.len()];
                for (i, &axis) in axes.iter().enumerate() {
                    inverse[axis] = i;
                }
                d.permute(&inverse)?
            }
            View::Step { axis, step } => spread(d, *axis, *step, input.shape[*axis])?,
            View::Broadcast => sum_to(d, &input.shape)?,
            View::Reshape => d.reshape(&input.shape)?,
        };
        self.inflow(input).add(d)
    }
}

/// `d` with `step - 1` zeros behind each index of `axis`, `n` indices in all: the transpose of every `step`-th index.
fn spread(d: &Tensor, axis: usize, step: usize, n: usize) -> Result<Tensor> {
    if n == 0 || step == 1 {
        return Ok(d.clone());
    }
    let (mut wide, mut merged) = (d.shape().to_vec(), d.shape().to_vec());
    wide.insert(axis + 1, 1);
    merged[axis] *= step;
    let mut pads = vec![(0, 0); wide.len()];
    pads[axis + 1].1 = step - 1;
    let spread = gather::pad(&d.reshape(&wide)?, &pads, 0.0)?.reshape(&merged)?;
    spread.slice(axis, 0..n)
}

/// `d` summed over the axes along which a tensor of `shape` was repeated to get its shape.
pub(crate) fn sum_to(d: &Tensor, shape: &[usize]) -> Result<Tensor> {
    if d.shape() == shape {
        return Ok(d.clone());
    }
    let front = d.rank() - shape.len();
    let repeated = |axis: &usize| *axis < front || (shape[axis - front] == 1 && d.shape()[*axis] != 1);
    let axes: Vec<usize> = (0..d.rank()).filter(repeated).collect();
    reduce::sum(&d.detach(), &axes, false)?.reshape(shape)
}

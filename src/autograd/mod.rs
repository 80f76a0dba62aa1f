//! Reverse-mode gradients over recorded ops.
//!
//! An op records itself only where one of its inputs wants a gradient, so frozen parts of a network cost nothing.
//! [`Tensor::require_grad`] makes a leaf, [`Tensor::backward`] gives the [`Gradients`] of the leaves behind a number.
//! Sums are taken in a fixed order: one adapter gives the same bits each time. Gradients are not differentiable themselves.
//!
//! ```no_run
//! use leanvision::{DeviceChoice, Runtime, Tensor, ops::{elementwise, reduce}};
//! # let runtime = Runtime::new(&DeviceChoice::default())?;
//! let x = Tensor::from_slice(&runtime, &[1.0_f32, 2.0, 3.0], &[3])?.require_grad()?;
//! let loss = reduce::sum_all(&elementwise::square(&x)?)?;
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.of(&x).map(|d| d.to_vec::<f32>()).transpose()?, Some(vec![2.0, 4.0, 6.0]));
//! # Ok::<(), leanvision::Error>(())
//! ```

mod grads;
mod tape;

pub use grads::Gradients;
pub(crate) use tape::sum_to;

use crate::tensor::node::{Node, Origin};
use crate::{Error, Result, Tensor};
use std::sync::{Arc, Mutex};

/// `out` as the result of `op` over `inputs`, if one of them wants a gradient.
///
/// `backward` takes the gradient of `out` and says, in the order of the inputs, what theirs are; it is told which are
/// wanted. It must keep only what it needs, and nothing that has a history.
pub(crate) fn record<const N: usize, F>(op: &'static str, out: Tensor, inputs: [&Tensor; N], backward: F) -> Tensor
where
    F: FnOnce(&Tensor, [bool; N]) -> Result<[Option<Tensor>; N]> + Send + 'static,
{
    let wanted = inputs.map(Tensor::needs_grad);
    record_all(op, out, &inputs, move |d| Ok(backward(d, wanted)?.into()))
}

/// As [`record`], for any number of inputs.
pub(crate) fn record_all<F>(op: &'static str, out: Tensor, inputs: &[&Tensor], backward: F) -> Tensor
where
    F: FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
{
    if !wants(inputs) {
        return out;
    }
    assert!(!out.needs_grad(), "{op} records an op over inputs it did not detach");
    out.with_node(op, nodes(inputs), Origin::Op(Mutex::new(Some(Box::new(backward)))))
}

/// Whether one of them wants a gradient.
pub(crate) fn wants(inputs: &[&Tensor]) -> bool {
    inputs.iter().any(|x| x.needs_grad())
}

/// An error if a gradient is wanted through an op that has none.
pub(crate) fn refuse(op: &'static str, inputs: &[&Tensor]) -> Result<()> {
    if wants(inputs) { Err(Error::argument(op, "no gradient flows through it: detach its input")) } else { Ok(()) }
}

fn nodes(inputs: &[&Tensor]) -> Vec<Option<Arc<Node>>> {
    inputs.iter().map(|x| x.node().cloned()).collect()
}

/// Whether a checkpointed function runs for the first time or once more, in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The forward pass: side effects, such as running statistics, belong here.
    First,
    /// The backward pass computes the function again.
    Again,
}

/// `f(x)` without keeping what `f` computes in between: the backward pass runs `f` once more (activation
/// checkpointing, Chen et al. 2016, arXiv 1604.06174). Gradients also reach the leaves that `f` captures.
///
/// # Errors
/// What `f` gives.
pub fn checkpoint<F>(x: &Tensor, f: F) -> Result<Tensor>
where
    F: Fn(&Tensor, Pass) -> Result<Tensor> + Send + 'static,
{
    let out = f(x, Pass::First)?;
    if !out.needs_grad() {
        return Ok(out);
    }
    let out = out.detach();
    let input = x.clone();
    let again = move || f(&input, Pass::Again);
    // The input stands in the list so that long chains are taken apart in a loop; gradients reach it through `f`.
    let inputs = nodes(&[x]);
    Ok(out.with_node("checkpoint", inputs, Origin::Again(Mutex::new(Some(Box::new(again))))))
}

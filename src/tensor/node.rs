//! What a tensor remembers of the op that made it, where a gradient is wanted. The walk over it is in [`crate::autograd`].

use super::Tensor;
use crate::Result;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Gradients of the inputs, from the gradient of the output; `None` for inputs that want none.
pub(crate) type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

/// Computes a checkpointed output once more, with its graph.
pub(crate) type Again = Box<dyn FnOnce() -> Result<Tensor> + Send>;

/// How a node passes its gradient on.
pub(crate) enum Origin {
    /// A tensor whose gradient is wanted.
    Leaf,
    /// A view of its only input.
    View(View),
    /// The result of an op; empty once a backward pass has used it.
    Op(Mutex<Option<Backward>>),
    /// The result of a function that is run again in the backward pass, instead of keeping what it computed.
    Again(Mutex<Option<Again>>),
}

/// The ways of looking at the same elements.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum View {
    /// Axis `i` of the view is axis `axes[i]`.
    Permute(Vec<usize>),
    /// These indices of an axis.
    Slice { axis: usize, range: Range<usize> },
    /// Every `step`-th index of an axis.
    Step { axis: usize, step: usize },
    /// A larger shape.
    Broadcast,
    /// The same elements in the same order under another shape, or copied.
    Reshape,
}

/// One recorded op, or a leaf.
pub(crate) struct Node {
    /// Larger than the ids of its inputs.
    pub(crate) id: u64,
    /// The op, for messages.
    pub(crate) op: &'static str,
    /// Shape of the tensor it made.
    pub(crate) shape: Vec<usize>,
    /// The nodes of the inputs that want a gradient.
    pub(crate) inputs: Vec<Option<Arc<Node>>>,
    pub(crate) origin: Origin,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.op, self.id, self.shape)
    }
}

impl Drop for Node {
    /// Long chains are taken apart in a loop: nested drops would overflow the stack.
    fn drop(&mut self) {
        let mut rest: Vec<Arc<Node>> = Vec::new();
        release(self, &mut rest);
        while let Some(node) = rest.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                release(&mut node, &mut rest);
            }
        }
    }
}

/// Moves a node's inputs to `rest`, and drops what it keeps.
fn release(node: &mut Node, rest: &mut Vec<Arc<Node>>) {
    rest.extend(node.inputs.drain(..).flatten());
    match &mut node.origin {
        Origin::Op(backward) => drop(backward.get_mut().unwrap_or_else(PoisonError::into_inner).take()),
        Origin::Again(again) => drop(again.get_mut().unwrap_or_else(PoisonError::into_inner).take()),
        Origin::Leaf | Origin::View(_) => {}
    }
}

impl Tensor {
    /// The same elements as a leaf: a backward pass gives its gradient.
    ///
    /// # Errors
    /// [`crate::Error::DType`] if it is not a float tensor.
    pub fn require_grad(&self) -> Result<Self> {
        if !self.dtype().is_float() {
            return Err(crate::Error::dtype("require_grad", format!("{} given, a float type wanted", self.dtype())));
        }
        Ok(self.detach().with_node("leaf", Vec::new(), Origin::Leaf))
    }

    /// Whether a backward pass would reach it.
    #[must_use]
    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same elements without their history: no gradient flows through.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self { node: None, ..self.clone() }
    }

    /// The same elements as the result of an op over the inputs with these nodes.
    pub(crate) fn with_node(self, op: &'static str, inputs: Vec<Option<Arc<Node>>>, origin: Origin) -> Self {
        let node = Node { id: self.runtime.next_node(), op, shape: self.shape.clone(), inputs, origin };
        Self { node: Some(Arc::new(node)), ..self }
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The tensor as a view of `of`, whose gradient it passes on.
    pub(crate) fn viewing(self, of: &Self, view: View) -> Self {
        match &of.node {
            None => self,
            Some(node) => self.with_node("view", vec![Some(Arc::clone(node))], Origin::View(view)),
        }
    }
}

//! Checks that several families share.

use crate::tensor::Tensor;
use crate::{Error, Result};

/// An error unless `x` holds floats.
pub(crate) fn need_float(op: &'static str, x: &Tensor) -> Result<()> {
    if x.dtype().is_float() {
        Ok(())
    } else {
        Err(Error::dtype(op, format!("{} given, a float type wanted", x.dtype())))
    }
}

/// An error unless all tensors live on the device of `x`.
pub(crate) fn need_one_device<'a>(
    op: &'static str,
    x: &Tensor,
    others: impl IntoIterator<Item = &'a Tensor>,
) -> Result<()> {
    if others.into_iter().all(|other| other.runtime().same(x.runtime())) {
        Ok(())
    } else {
        Err(Error::argument(op, "the tensors live on different devices"))
    }
}

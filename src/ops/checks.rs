//! Checks that several families share.

use crate::runtime::Binding;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::sync::Arc;

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

/// An error unless each of the named tensors has its type.
pub(crate) fn need_types(op: &'static str, tensors: &[(&str, &Tensor, DType)]) -> Result<()> {
    match tensors.iter().find(|(_, tensor, wanted)| tensor.dtype() != *wanted) {
        None => Ok(()),
        Some((name, tensor, wanted)) => {
            Err(Error::dtype(op, format!("{name} hold {}, {wanted} wanted", tensor.dtype())))
        }
    }
}

/// An error unless `counter`, if there is one, is a count on the device.
pub(crate) fn need_counter(op: &'static str, counter: Option<&Tensor>) -> Result<()> {
    match counter.filter(|counter| (counter.dtype(), counter.len()) != (DType::U32, 1)) {
        None => Ok(()),
        Some(counter) => Err(Error::dtype(op, format!("the counter is {counter:?}, u32 [1] wanted"))),
    }
}

/// The memory of what an op writes in place, which is none of what it reads.
pub(crate) fn in_place(op: &'static str, name: &str, out: &Tensor, reads: &[&Tensor]) -> Result<Binding> {
    if !out.is_bindable() {
        return Err(Error::shape(
            op,
            format!("{name} {out:?} does not start its memory, so it cannot be written in place"),
        ));
    }
    let binding = out.binding();
    if reads.iter().any(|x| Arc::ptr_eq(&x.binding_from().0.buffer, &binding.buffer)) {
        return Err(Error::argument(op, format!("{name} shares memory with what is read")));
    }
    Ok(binding)
}

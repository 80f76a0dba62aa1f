//! Matrix products: batched, over any strides, with bias and activation in the same dispatch.

mod product;
mod tuned;
mod variant;

pub(super) use variant::COOP;
pub use variant::{KERNELS, Variant};

use super::act::Act;
use super::{elementwise, reduce};
use crate::autograd::{record, refuse, sum_to, wants};
use crate::tensor::Tensor;
use crate::{Error, Result};
use product::product;

/// The matrix product over the last two axes: `[.., m, k]` and `[.., k, n]` to `[.., m, n]`, summed in f32. The batch
/// axes broadcast by NumPy's rule.
///
/// Transposed views are read in place.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless both are of one float type.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "matmul";
    let [a_in, b_in] = [a.detach(), b.detach()];
    let out = product(OP, None, &a_in, &b_in, None, Act::None)?;
    Ok(record(OP, out, [a, b], move |d, [wants_a, wants_b]| {
        let d_a = wants_a.then(|| sum_to(&matmul(d, &b_in.transpose()?)?, a_in.shape())).transpose()?;
        let d_b = wants_b.then(|| weight_gradient(&a_in, d, b_in.shape())).transpose()?;
        Ok([d_a, d_b])
    }))
}

/// `a' d`, summed over the batch axes that the second operand, of `shape`, does not have.
fn weight_gradient(a: &Tensor, d: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let &[.., k] = a.shape() else { return Err(Error::shape("matmul", "a has no axis")) };
    let &[.., n] = d.shape() else { return Err(Error::shape("matmul", "d has no axis")) };
    let n_rows = a.len() / k.max(1);
    if shape.iter().product::<usize>() == k * n && d.len() == n_rows * n && k > 0 {
        // One matrix for all: the batch is more rows to sum over.
        return matmul(&a.reshape(&[n_rows, k])?.transpose()?, &d.reshape(&[n_rows, n])?)?.reshape(shape);
    }
    sum_to(&matmul(&a.transpose()?, d)?, shape)
}
/// `act(x w + bias)` in one dispatch: `x` `[.., k]`, `w` `[k, n]`, `bias` `[n]` to `[.., n]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless all are of one float type.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    let wanted = wants(&[x, w, bias.unwrap_or(x)]);
    if wanted && !act.is_by_result() {
        return elementwise::activate(&linear(x, w, bias, Act::None)?, act);
    }
    let (x_in, w_in) = (x.detach(), w.detach());
    let out = linear_as(None, &x_in, &w_in, bias.map(Tensor::detach).as_ref(), act)?;
    if !wanted {
        return Ok(out);
    }
    let saved_out = (act != Act::None).then(|| out.clone());
    let x_shape = x.shape().to_vec();
    // Frozen weights need no input kept, and frozen inputs no weights.
    let (x_in, w_in) = (w.needs_grad().then_some(x_in), x.needs_grad().then_some(w_in));
    let wants_bias = bias.is_some_and(Tensor::needs_grad);
    Ok(record("linear", out, [x, w, bias.unwrap_or(x)], move |d, _| {
        let d = saved_out.as_ref().map_or_else(|| Ok(d.clone()), |out| act.backward(out, d))?;
        let &[.., n] = d.shape() else { return Err(Error::shape("linear", "d has no axis")) };
        let rows = d.reshape(&[d.len() / n.max(1), n])?;
        let d_x = w_in.map(|w| matmul(&rows, &w.transpose()?)?.reshape(&x_shape)).transpose()?;
        let d_w = x_in.map(|x| weight_gradient(&x, &d, &[x.shape()[x.rank() - 1], n])).transpose()?;
        let d_bias = wants_bias.then(|| reduce::sum(&rows, &[0], false)).transpose()?;
        Ok([d_x, d_w, d_bias])
    }))
}

/// [`matmul`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`matmul`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn matmul_with(variant: Variant, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    refuse("matmul_with", &[a, b])?;
    product("matmul", Some(variant), a, b, None, Act::None)
}

/// [`linear`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`linear`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn linear_with(variant: Variant, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    refuse("linear_with", &[x, w, bias.unwrap_or(x)])?;
    linear_as(Some(variant), x, w, bias, act)
}

fn linear_as(variant: Option<Variant>, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    const OP: &str = "linear";
    let (Some((&k, front)), &[w_k, n]) = (x.shape().split_last(), w.shape()) else {
        return Err(Error::shape(
            OP,
            format!("x {:?} and w {:?} given, [.., k] and [k, n] wanted", x.shape(), w.shape()),
        ));
    };
    if k != w_k {
        return Err(Error::shape(OP, format!("x {:?} and w {:?} differ in k", x.shape(), w.shape())));
    }
    if let Some(bias) = bias.filter(|bias| bias.shape() != [n]) {
        return Err(Error::shape(OP, format!("w {:?} and bias {:?} differ in n", w.shape(), bias.shape())));
    }
    let shape = [front, &[n]].concat();
    // A row vector is a matrix of one row.
    let x = if front.is_empty() { x.unsqueeze(0)? } else { x.clone() };
    product(OP, variant, &x, w, bias, act)?.reshape(&shape)
}

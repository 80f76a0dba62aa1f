//! The losses: each is a value and a gradient with respect to the trained network's output, which looks at nothing else.
//!
//! With unit rows, the mean of squared distances to k neighbours is `2 - 2 <q, mean of them>`, so that BYOL, mean shift and its
//! relatives differ in the mean alone. A Kullback-Leibler divergence between similarities to a bank, and `InfoNCE`, have
//! gradients that are differences of weighted means of the bank's rows ([`softmax_mean`]): one pass over the bank gives the
//! value and the gradient, and the matrix of similarities never exists.

use crate::ops::Act;
use crate::ops::bank::softmax_mean;
use crate::ops::elementwise::{abs, activate, add, affine, exp, log, mul, neg, sub};
use crate::ops::reduce::{mean_all, sum, sum_all};
use crate::{Error, Result, Tensor};

/// `2 - 2 <q, mu>`, the mean over rows, of `q` and `mu` f32 `[b, d]`: `[]`.
pub(super) fn distance(q: &Tensor, mu: &Tensor) -> Result<Tensor> {
    agreement(q, mu, -2.0, 2.0)
}

/// `factor <q, mu> + summand`, the mean over rows: `[]`.
pub(super) fn agreement(q: &Tensor, mu: &Tensor, factor: f32, summand: f32) -> Result<Tensor> {
    let b = q.shape().first().copied().unwrap_or(1).max(1);
    affine(&sum_all(&mul(q, mu)?)?, factor / b as f32, summand)
}

/// The inner product of each row of `a` and `b` f32 `[b, d]`, times `factor`: `[b]`.
fn products(a: &Tensor, b: &Tensor, factor: f32) -> Result<Tensor> {
    affine(&sum(&mul(a, b)?, &[1], false)?, factor, 0.0)
}

/// A loss `[]` that is the mean of `value` f32 `[b]`, and whose gradient with respect to the rows of `q` is `gradient` f32 `[b, d]`
/// over `b`.
fn with_gradient(q: &Tensor, value: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let linear = agreement(q, gradient, 1.0, 0.0)?;
    add(&linear, &sub(&mean_all(value)?, &linear.detach())?)
}

/// What similarities are taken to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    /// Rows `[b, d]` of unit length.
    pub(super) rows: &'a Tensor,
    /// The bank `[m, d]`.
    pub(super) bank: &'a Tensor,
    /// What similarities are divided by.
    pub(super) temperature: f32,
}

/// `KL(p_t || p_s)` of the softmax of similarities to two banks whose entries stand for the same images (ISD, `CompRess`): the mean
/// over rows `[]`. The student's rows carry the gradient.
pub(super) fn divergence(student: Side<'_>, teacher: Side<'_>, one_bank: bool) -> Result<Tensor> {
    if !(student.temperature > 0.0 && teacher.temperature > 0.0) {
        return Err(Error::argument("divergence", "a temperature is not above 0"));
    }
    let q = student.rows.detach();
    let (mean_t, lse_t) = softmax_mean(teacher.rows, teacher.bank, student.bank, teacher.temperature)?;
    let (mean_s, lse_s) = softmax_mean(&q, student.bank, student.bank, student.temperature)?;
    // The teacher's mean similarity, for its entropy.
    let own = if one_bank {
        mean_t.clone()
    } else {
        softmax_mean(teacher.rows, teacher.bank, teacher.bank, teacher.temperature)?.0
    };
    let negative_entropy = sub(&products(teacher.rows, &own, 1.0 / teacher.temperature)?, &lse_t)?;
    let cross = sub(&products(&q, &mean_t, 1.0 / student.temperature)?, &lse_s)?;
    let value = sub(&negative_entropy, &cross)?;
    let gradient = affine(&sub(&mean_s, &mean_t)?, 1.0 / student.temperature, 0.0)?;
    with_gradient(student.rows, &value, &gradient)
}

/// `InfoNCE` of `q` with its positive `key` f32 `[b, d]` against the rows of a bank: the mean over rows `[]`.
pub(super) fn info_nce(q: &Tensor, key: &Tensor, bank: &Tensor, temperature: f32) -> Result<Tensor> {
    let fixed = q.detach();
    let (mean, lse) = softmax_mean(&fixed, bank, bank, temperature)?;
    // How far the bank is ahead of the positive.
    let ahead = sub(&lse, &products(&fixed, key, 1.0 / temperature)?)?;
    // log(1 + e^x), so that nothing overflows.
    let value = add(&activate(&ahead, Act::Relu)?, &log(&affine(&exp(&neg(&abs(&ahead)?)?)?, 1.0, 1.0)?)?)?;
    let share = activate(&ahead, Act::Sigmoid)?;
    let b = share.len();
    let gradient = mul(&affine(&sub(&mean, key)?, 1.0 / temperature, 0.0)?, &share.reshape(&[b, 1])?)?;
    with_gradient(q, &value, &gradient)
}

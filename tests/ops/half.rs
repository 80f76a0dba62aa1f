//! Gradients in f16 of what networks are made of under mixed precision, against central differences of the f64 references.

use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows};
use leanvision::ops::attention::{Attention, attention};
use leanvision::ops::conv::{Conv2d, conv2d};
use leanvision::ops::elementwise::{add, add_act, cast};
use leanvision::ops::gather::{concat, pad};
use leanvision::ops::norm::{batch_norm_train, layer_norm};
use leanvision::ops::pool::{global_avg_pool, max_pool2d};
use leanvision::ops::softmax::cross_entropy;
use leanvision::ops::{Act, matmul, reduce};
use leanvision::reference::elementwise::{act, map, zip};
use leanvision::reference::{self, Array};
use leanvision::tensor::Offsets;
use leanvision::{DType, Result, Tensor};

/// Sums are f32 and are rounded to f16 once.
fn half(row: Row, inputs: &'static [usize]) -> Row {
    row.f16(Tolerance::F16).grad(inputs, Tolerance::F32).grad_f16(Tolerance::F16)
}

/// Where a rounded result is read again: each adds half a unit in the last of 11 bits of values up to 4, to some of it.
const TWICE: Tolerance = Tolerance { atol: 4e-3, rtol: 4e-3, allowed: 0 };

/// As norms have their parameters: f32 beside an f16 map.
fn wide(x: &Tensor) -> Result<Tensor> {
    cast(x, DType::F32)
}

#[test]
fn products_have_half_gradients() {
    const SAME: Conv2d = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };
    const HALF: Conv2d = Conv2d { stride: [2, 2], ..SAME };
    const PATCHES: Conv2d = Conv2d { stride: [2, 2], padding: [0, 0], ..SAME };
    const POINT: Conv2d = Conv2d { padding: [0, 0], ..SAME };
    const THREE: &[Shapes] = &[&[&[1, 4, 5, 4], &[3, 3, 4, 8], &[8]], &[&[2, 6, 4, 8], &[3, 3, 8, 12], &[12]]];
    const TWO: &[Shapes] = &[&[&[1, 4, 6, 3], &[2, 2, 3, 8], &[8]]];
    const ONE: &[Shapes] = &[&[&[2, 4, 3, 8], &[1, 1, 8, 12], &[12]]];
    rows([(THREE, SAME), (THREE, HALF), (TWO, PATCHES), (ONE, POINT)].map(|(cases, conv)| {
        let op = move |x: &[Tensor]| conv2d(&x[0], &x[1], Some(&x[2]), &conv, Act::None);
        let want = move |x: &[Array]| reference::conv::conv2d(&x[0], &x[1], Some(&x[2]), &conv);
        half(row("conv2d", cases, -1.0..1.0, op, want), &[0, 1, 2])
    }));
    // Long sums in parts, whose partial sums are f32.
    const LINEAR: &[Shapes] = &[&[&[2, 3, 5], &[5, 7], &[7]], &[&[12, 8], &[8, 4], &[4]], &[&[3000, 1], &[1, 2], &[2]]];
    for kind in [Act::None, Act::Relu, Act::Gelu] {
        let op = move |x: &[Tensor]| matmul::linear(&x[0], &x[1], Some(&x[2]), kind);
        let want = move |x: &[Array]| reference::matmul::linear(&x[0], &x[1], Some(&x[2]), kind);
        let row =
            half(row("linear", &LINEAR[..if kind == Act::None { 3 } else { 2 }], -1.0..1.0, op, want), &[0, 1, 2]);
        rows([if kind == Act::Gelu { row.grad_f16(TWICE).f16(TWICE) } else { row }]);
    }
}

#[test]
fn norms_have_half_gradients_beside_f32_parameters() {
    const CASES: &[Shapes] = &[&[&[7, 12], &[12], &[12]], &[&[2, 3, 5, 6], &[6], &[6]]];
    for kind in [Act::None, Act::Relu] {
        let op = move |x: &[Tensor]| Ok(batch_norm_train(&x[0], &wide(&x[1])?, &wide(&x[2])?, 1e-5, kind)?.0);
        let want = move |x: &[Array]| {
            map(&reference::norm::batch_norm_train(&x[0], &x[1], &x[2], f64::from(1e-5_f32)), |v| act(kind, v))
        };
        let row = row("batch_norm_train", CASES, -2.0..2.0, op, want);
        rows([half(row, &[0, 1, 2]).grad(&[0, 1, 2], Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 })]);
    }
    let op = |x: &[Tensor]| layer_norm(&x[0], Some(&wide(&x[1])?), Some(&wide(&x[2])?), 1e-5);
    let want = |x: &[Array]| reference::norm::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), f64::from(1e-5_f32));
    rows([half(row("layer_norm", CASES, -2.0..2.0, op, want), &[0, 1, 2])
        .grad(&[0, 1, 2], Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 })]);
}

#[test]
fn attention_has_half_gradients() {
    const LENGTHS: &[usize] = &[3, 1, 5];
    const CASES: &[Shapes] = &[&[&[9, 2, 8], &[9, 2, 8], &[9, 2, 8]]];
    let op = |x: &[Tensor]| {
        let offsets = Offsets::from_lengths(x[0].runtime(), LENGTHS)?;
        attention(&x[0], &x[1], &x[2], &offsets, &Attention::default())
    };
    let want = |x: &[Array]| {
        reference::attention::attention([&x[0], &x[1], &x[2]], (LENGTHS, LENGTHS), false, 1.0 / 8.0_f64.sqrt()).0
    };
    // The backward pass reads the rounded result.
    rows([half(row("attention", CASES, -2.0..2.0, op, want), &[0, 1, 2]).grad_f16(TWICE)]);
}

#[test]
fn maps_and_sums_have_half_gradients() {
    const PAIR: &[Shapes] = &[&[&[3, 5, 4], &[3, 5, 4]]];
    const IMAGES: &[Shapes] = &[&[&[2, 4, 6, 4]], &[&[1, 5, 3, 3]]];
    let relu = |a: f64, b: f64| act(Act::Relu, a + b);
    let sum = |x: &[Array]| zip(&x[0], &x[1], |a, b| a + b);
    rows([
        half(
            row("add_act", PAIR, -2.0..2.0, |x| add_act(&x[0], &x[1], Act::Relu), move |x| zip(&x[0], &x[1], relu)),
            &[0, 1],
        ),
        // Positions, the same for each image.
        half(row("add", &[&[&[3, 5, 4], &[5, 4]]], -2.0..2.0, |x| add(&x[0], &x[1]), sum), &[0, 1]),
        half(
            row("concat", PAIR, -2.0..2.0, |x| concat(&[&x[0], &x[1]], 1), |x| reference::gather::concat(x, 1)),
            &[0, 1],
        ),
        half(
            row(
                "pad",
                IMAGES,
                -2.0..2.0,
                |x| pad(&x[0].step(1, 2)?.step(2, 2)?, &[(0, 0), (0, 0), (0, 0), (2, 3)], 0.0),
                |x| {
                    let (shape, size) = (&x[0].shape, |n: usize| n.div_ceil(2));
                    let half = [shape[0], size(shape[1]), size(shape[2]), shape[3]];
                    let steps = Array::from_fn(&half, |i| x[0].at(&[i[0], 2 * i[1], 2 * i[2], i[3]]));
                    reference::gather::pad(&steps, &[(0, 0), (0, 0), (0, 0), (2, 3)], 0.0)
                },
            ),
            &[0],
        ),
        half(
            row(
                "global_avg_pool",
                IMAGES,
                -2.0..2.0,
                |x| global_avg_pool(&x[0]),
                |x| reference::pool::global_avg_pool(&x[0]),
            ),
            &[0],
        ),
        half(
            row(
                "max_pool2d",
                IMAGES,
                -2.0..2.0,
                |x| max_pool2d(&x[0], [3, 3], [2, 2], [1, 1]),
                |x| reference::pool::max_pool2d(&x[0], [3, 3], [2, 2], [1, 1]),
            ),
            &[0],
        ),
        half(
            row(
                "mean",
                PAIR,
                -2.0..2.0,
                |x| reduce::mean(&x[0], &[1], false),
                |x| reference::reduce::reduce(&x[0], &[1], false, reference::reduce::mean),
            ),
            &[0],
        ),
    ]);
}

/// Logits in f16, the loss and its sum in f32.
#[test]
fn a_loss_in_f32_has_half_gradients() {
    const CASES: &[Shapes] = &[&[&[6, 10]], &[&[1, 3]]];
    let labels = |n: usize, classes: usize| -> Vec<u32> { (0..n).map(|i| (i * 7 % classes) as u32).collect() };
    let op = move |x: &[Tensor]| {
        let &[n, classes] = x[0].shape() else { panic!("two axes") };
        let labels = Tensor::from_slice(x[0].runtime(), &labels(n, classes), &[n])?;
        reduce::sum_all(&cross_entropy(&wide(&x[0])?, &labels, 0.1)?)
    };
    let want = move |x: &[Array]| {
        let labels: Vec<usize> = labels(x[0].shape[0], x[0].shape[1]).into_iter().map(|l| l as usize).collect();
        let losses = reference::softmax::cross_entropy(&x[0], &labels, f64::from(0.1_f32));
        Array::new(&[], vec![losses.data.iter().sum()])
    };
    // The sum of a handful of f32 losses.
    let row = row("cross_entropy", CASES, -4.0..4.0, op, want);
    rows([half(row, &[0])]);
}

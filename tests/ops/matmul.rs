use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows};
use leanvision::ops::Act;
use leanvision::ops::matmul::{self, Variant};
use leanvision::{DType, Tensor, reference};

/// Tiles are 4 to 128 wide and 4 deep.
const PAIRS: &[Shapes] = &[
    &[&[1, 1], &[1, 1]],
    &[&[0, 3], &[3, 2]],
    &[&[3, 0], &[0, 2]],
    &[&[3, 2], &[2, 0]],
    &[&[2, 3], &[3, 4]],
    &[&[7, 5], &[5, 9]],
    &[&[8, 4], &[4, 8]],
    &[&[16, 16], &[16, 64]],
    &[&[17, 12], &[12, 68]],
    &[&[15, 20], &[20, 60]],
    &[&[33, 21], &[21, 65]],
    &[&[129, 40], &[40, 132]],
    &[&[127, 33], &[33, 128]],
    &[&[64, 64], &[64, 10]],
    &[&[65, 64], &[64, 65]],
    &[&[197, 64], &[64, 197]],
    &[&[1, 300], &[300, 77]],
    &[&[77, 300], &[300, 1]],
    &[&[1, 257], &[257, 1]],
    &[&[3, 1000], &[1000, 8]],
];
const BATCHES: &[Shapes] = &[
    &[&[3, 5, 4], &[3, 4, 6]],
    &[&[3, 9, 8], &[8, 12]],
    &[&[9, 8], &[3, 8, 12]],
    &[&[2, 1, 9, 8], &[3, 8, 12]],
    &[&[2, 3, 1, 5, 4], &[3, 7, 4, 8]],
    &[&[2, 1, 3, 1, 5, 4], &[1, 2, 1, 3, 4, 5]],
    &[&[0, 5, 4], &[4, 6]],
    &[&[1, 5, 4], &[7, 4, 6]],
    &[&[6, 1, 20], &[6, 20, 33]],
    &[&[6, 33, 20], &[6, 20, 1]],
    &[&[4, 1, 24], &[24, 9]],
];

/// Sums of `k` products of numbers in -1..1: rounding grows with the size of the partial sums, about sqrt(k), and with
/// the number of additions; 1e-5 absolute covers k of 1000.
const SUMS: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5, allowed: 0 };

fn product(variant: Option<Variant>, cases: &'static [Shapes]) -> Row {
    row(
        "matmul",
        cases,
        -1.0..1.0,
        move |x| match variant {
            None => matmul::matmul(&x[0], &x[1]),
            Some(variant) => matmul::matmul_with(variant, &x[0], &x[1]),
        },
        |x| reference::matmul::matmul(&x[0], &x[1]),
    )
    .tolerance(SUMS)
    .f16(Tolerance::F16)
}

const LINEAR: &[Shapes] = &[
    &[&[5, 7], &[7, 9], &[9]],
    &[&[2, 197, 12], &[12, 36], &[36]],
    &[&[64], &[64, 10], &[10]],
    &[&[33, 64], &[64, 10], &[10]],
    &[&[1, 40], &[40, 132], &[132]],
    &[&[130, 20], &[20, 1], &[1]],
    &[&[3, 0], &[0, 5], &[5]],
    &[&[0, 4], &[4, 5], &[5]],
];

fn linear(variant: Option<Variant>, act: Act, with_bias: bool, cases: &'static [Shapes]) -> Row {
    row(
        "linear",
        cases,
        -2.0..2.0,
        move |x| {
            let bias = with_bias.then_some(&x[2]);
            match variant {
                None => matmul::linear(&x[0], &x[1], bias, act),
                Some(variant) => matmul::linear_with(variant, &x[0], &x[1], bias, act),
            }
        },
        move |x| reference::matmul::linear(&x[0], &x[1], with_bias.then_some(&x[2]), act),
    )
    .f16(Tolerance::F16)
}

const ACTS: [Act; 9] =
    [Act::None, Act::Relu, Act::Relu6, Act::Gelu, Act::GeluTanh, Act::Silu, Act::Sigmoid, Act::Tanh, Act::Hardswish];

#[test]
fn linear_matches_the_reference() {
    rows([linear(None, Act::None, false, LINEAR), linear(None, Act::Gelu, false, LINEAR)]);
    rows(ACTS.map(|act| linear(None, act, true, LINEAR)));
}

#[test]
fn wrong_operands_are_named() {
    let Some(runtime) = crate::support::runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let f32 = |shape: &[usize]| zeros(shape, DType::F32);
    let message = |result: leanvision::Result<Tensor>| result.unwrap_err().to_string();
    let (a, b) = (f32(&[4, 7]), f32(&[8, 3]));
    assert_eq!(message(matmul::matmul(&a, &b)), "matmul: a [4, 7] and b [8, 3] differ in k");
    assert_eq!(message(matmul::matmul(&a, &f32(&[7]))), "matmul: b [7] has fewer than two axes");
    assert_eq!(message(matmul::matmul(&f32(&[2, 4, 7]), &f32(&[3, 7, 3]))), "matmul: [2] and [3] do not broadcast");
    assert!(message(matmul::matmul(&a, &zeros(&[7, 3], DType::U32))).contains("f32 and u32"));
    assert_eq!(message(matmul::linear(&a, &b, None, Act::None)), "linear: x [4, 7] and w [8, 3] differ in k");
    let w = f32(&[7, 3]);
    assert_eq!(
        message(matmul::linear(&a, &w, Some(&f32(&[4])), Act::None)),
        "linear: w [7, 3] and bias [4] differ in n"
    );
    assert!(matmul::linear(&a, &f32(&[2, 7, 3]), None, Act::None).is_err());
}

#[test]
fn matmul_matches_the_reference() {
    rows([product(None, PAIRS), product(None, BATCHES)]);
}

//! Sums by index: against the reference, for few and many ids to a row, and bit for bit again.

use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows, upload, values};
use crate::support::runtime;
use leanvision::ops::elementwise::cast;
use leanvision::ops::scatter::scatter_add;
use leanvision::reference::gather as reference;
use leanvision::{DType, Result, Tensor};

fn ids(x: &Tensor) -> Result<Tensor> {
    cast(x, DType::U32)
}

/// Values and ids below `n_ids`, so that `n` rows below that see ids past them.
fn case(cases: &'static [Shapes], axis: usize, n: usize, n_ids: f64) -> Row {
    row(
        "scatter_add",
        cases,
        0.0..n_ids,
        move |x| scatter_add(&x[0], axis, &ids(&x[1])?, n),
        move |x| reference::scatter_add(&x[0], axis, &x[1], n),
    )
}

#[test]
fn sums_by_index_match_the_reference() {
    // Vec4 and single elements, one row for all ids, more rows than ids; chunks are of 64 ids at least.
    const FIRST: &[Shapes] = &[
        &[&[37, 8], &[37]],
        &[&[37, 7], &[37]],
        &[&[1, 4], &[1]],
        &[&[63, 3], &[63]],
        &[&[64, 3], &[64]],
        &[&[65, 4], &[65]],
        &[&[130, 2, 4], &[130]],
        &[&[131], &[131]],
        &[&[0, 5], &[0]],
        &[&[5, 0], &[5]],
    ];
    const LONG: &[Shapes] = &[&[&[1009, 4], &[1009]], &[&[1009, 3], &[1009]], &[&[20_000, 4], &[20_000]]];
    const MIDDLE: &[Shapes] = &[&[&[3, 200, 8], &[200]], &[&[2, 300, 3], &[300]]];
    // Sums of up to 20,000 numbers below 90, in f32: each addition is off by 2^-24 of the sum so far.
    let sums = Tolerance { atol: 1e-5, rtol: 1e-4, allowed: 0 };
    let half = Tolerance { rtol: 2e-3, ..Tolerance::F16 };
    rows([
        case(FIRST, 0, 90, 90.0).grad(&[0], Tolerance::F32).f16(half),
        case(FIRST, 0, 5, 9.0).grad(&[0], Tolerance::F32).f16(half),
        case(FIRST, 0, 1, 3.0).grad(&[0], Tolerance::F32),
        case(LONG, 0, 3, 3.0).tolerance(sums),
        case(LONG, 0, 40, 90.0).tolerance(sums),
        case(LONG, 0, 1, 3.0).tolerance(sums),
        case(MIDDLE, 1, 3, 4.0).tolerance(sums).grad(&[0], Tolerance::F32),
        case(MIDDLE, 1, 70, 80.0).tolerance(sums),
        // More workgroups than one dimension of a grid holds.
        case(&[&[&[3, 4], &[3]]], 0, 4_300_003, 4e6).no_views(),
    ]);
}

#[test]
fn sums_repeat_bit_for_bit() {
    let Some(runtime) = runtime() else { return };
    let x = upload(&runtime, &values(&[5000, 12], &(-1.0..1.0), DType::F32, 1), DType::F32).unwrap();
    let picks = upload(&runtime, &values(&[5000], &(0.0..7.0), DType::U32, 2), DType::U32).unwrap();
    let bits = || {
        let sums = scatter_add(&x, 0, &picks, 9).unwrap().to_vec::<f32>().unwrap();
        sums.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let first = bits();
    assert!((0..3).all(|_| bits() == first));
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[5, 3], DType::F32).unwrap();
    let ids = Tensor::zeros(&runtime, &[5], DType::U32).unwrap();
    let said = |result: Result<Tensor>, part: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    said(scatter_add(&x, 2, &ids, 4), "axis 2");
    said(scatter_add(&x, 1, &ids, 4), "ids [5] given for axis 1");
    said(scatter_add(&x, 0, &ids, 0), "none to add them to");
    said(scatter_add(&ids, 0, &ids, 4), "a float type");
    said(scatter_add(&x, 0, &x.slice(1, 0..1).unwrap().reshape(&[5]).unwrap(), 4), "u32 wanted");
}

use crate::support::compare::Tolerance;
use crate::support::limit;
use crate::support::row::{Row, Shapes, row, rows, upload, values};
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
    &[&[3, 1000], &[1000, 8]],
];
const VECTORS: &[Shapes] = &[
    &[&[1, 1], &[1, 1]],
    &[&[1, 300], &[300, 77]],
    &[&[77, 300], &[300, 1]],
    &[&[1, 257], &[257, 1]],
    &[&[1, 64], &[64, 1000]],
    &[&[132, 256], &[256, 1]],
    &[&[6, 1, 20], &[6, 20, 36]],
    &[&[6, 33, 20], &[6, 20, 1]],
    &[&[1, 0], &[0, 5]],
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
    &[&[4, 1, 24], &[24, 9]],
];

/// Sums of `k` products of numbers in -1..1: rounding grows with the size of the partial sums, about sqrt(k), and with
/// the number of additions; 1e-5 absolute covers k of 1000.
const SUMS: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5, allowed: 0 };

/// A row's name, which lives as long as the test run.
fn named(op: &str, variant: Option<Variant>) -> &'static str {
    let name = variant.map_or_else(|| op.to_owned(), |variant| format!("{op} {variant:?}"));
    Box::leak(name.into_boxed_str())
}

fn product(variant: Option<Variant>, cases: &'static [Shapes]) -> Row {
    row(
        named("matmul", variant),
        cases,
        -1.0..1.0,
        move |x| match variant {
            None => matmul::matmul(&x[0], &x[1]),
            Some(variant) => matmul::matmul_with(variant, &x[0], &x[1]),
        },
        |x| reference::matmul::matmul(&x[0], &x[1]),
    )
    .tolerance(SUMS)
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
        named("linear", variant),
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

/// The variants that the adapter under test has; the vector ones take one row or column only.
fn variants(vectors: bool) -> Vec<Variant> {
    let Some(runtime) = crate::support::runtime() else { return Vec::new() };
    let fits = |v: &Variant| {
        v.runs_on(runtime.profile(), DType::F32) && vectors == matches!(v, Variant::Vector | Variant::VectorShared)
    };
    Variant::ALL.iter().copied().filter(fits).collect()
}

#[test]
fn matmul_matches_the_reference() {
    rows([PAIRS, BATCHES, VECTORS].map(|cases| product(None, cases).f16(Tolerance::F16)));
}

#[test]
fn every_variant_matches_the_reference() {
    let on = |v, cases| product(Some(v), cases).f16(Tolerance::F16);
    rows(variants(false).into_iter().flat_map(|v| [on(v, PAIRS), on(v, BATCHES)]));
    rows(variants(true).into_iter().map(|v| on(v, VECTORS)));
}

#[test]
fn either_operand_may_be_transposed() {
    // Stored [k, m] and [n, k]: the transposed view, or a copy of it.
    const STORED: &[Shapes] = &[&[&[8, 36], &[24, 8]], &[&[20, 132], &[68, 20]], &[&[12, 33], &[16, 12]]];
    let flip = |x: &reference::Array| {
        reference::Array::from_fn(&[x.shape[1], x.shape[0]], |index| x.at(&[index[1], index[0]]))
    };
    let one = |variant, view_a: bool, view_b: bool| {
        let operand = |x: &Tensor, view: bool| if view { x.transpose() } else { x.transpose()?.contiguous() };
        row(
            named(&format!("matmul of views {view_a} {view_b}"), Some(variant)),
            STORED,
            -1.0..1.0,
            move |x| matmul::matmul_with(variant, &operand(&x[0], view_a)?, &operand(&x[1], view_b)?),
            move |x| reference::matmul::matmul(&flip(&x[0]), &flip(&x[1])),
        )
        .tolerance(SUMS)
        .no_views()
    };
    let views = [(true, false), (false, true), (true, true)];
    rows(variants(false).into_iter().flat_map(|v| views.map(|(a, b)| one(v, a, b))));
}

#[test]
fn grids_fold_past_65535_workgroups() {
    // One tile to a workgroup, or 16 tiles or 64 outputs; what differs in size alone folds alike.
    const TILES: &[Shapes] = &[&[&[70_000, 2, 1], &[70_000, 1, 2]]];
    const SIXTEENTHS: &[Shapes] = &[&[&[8_400_000, 1], &[1, 1]]];
    const OUTPUTS: &[Shapes] = &[&[&[1_400_000, 2], &[2, 3]]];
    const LINES: &[Shapes] = &[&[&[70_000, 1, 2], &[70_000, 2, 3]]];
    rows(variants(false).into_iter().chain(variants(true)).filter_map(|v| {
        let cases = match v {
            Variant::Plain => OUTPUTS,
            Variant::Registers8 => SIXTEENTHS,
            Variant::Subgroup8x8 | Variant::Tiled64 => TILES,
            Variant::Vector | Variant::VectorShared => LINES,
            _ => return None,
        };
        Some(product(Some(v), cases))
    }));
}

#[test]
fn infinities_and_nans_stay_in_their_rows() {
    const SPECIAL: &[f64] = &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40];
    const CASES: &[Shapes] = &[&[&[37, 9], &[9, 11]], &[&[37, 12], &[12, 36]]];
    rows(variants(false).into_iter().map(|v| product(Some(v), CASES).special(SPECIAL)));
    rows(variants(true).into_iter().map(|v| product(Some(v), &[&[&[37, 9], &[9, 1]]]).special(SPECIAL)));
}

#[test]
fn results_repeat_bit_for_bit() {
    let Some(runtime) = crate::support::runtime() else { return };
    let values =
        |shape: &[usize], seed| upload(&runtime, &values(shape, &(-1.0..1.0), DType::F32, seed), DType::F32).unwrap();
    let (a, b) = (values(&[150, 203], 1), values(&[203, 90], 2));
    for variant in variants(false) {
        let bits = || -> Vec<u32> {
            let out = matmul::matmul_with(variant, &a, &b).unwrap().to_vec::<f32>().unwrap();
            out.into_iter().map(f32::to_bits).collect()
        };
        assert!(bits() == bits(), "{variant:?}");
    }
    // A sum so long that it is taken in parts.
    if 20_000 * 16 > limit() {
        return;
    }
    let a = upload(&runtime, &self::values(&[20_000, 16], &(-1.0..1.0), DType::F32, 3), DType::F32).unwrap();
    let bits = || -> Vec<u32> {
        let out = matmul::matmul(&a.transpose().unwrap(), &a).unwrap().to_vec::<f32>().unwrap();
        out.into_iter().map(f32::to_bits).collect()
    };
    assert!(bits() == bits(), "a sum in parts");
}

#[test]
fn linear_matches_the_reference() {
    rows([linear(None, Act::None, false, LINEAR), linear(None, Act::Gelu, true, LINEAR)]);
    rows(ACTS.map(|act| linear(None, act, true, &LINEAR[..2])));
    rows(
        variants(false)
            .into_iter()
            .flat_map(|v| [linear(Some(v), Act::None, true, LINEAR), linear(Some(v), Act::Relu, true, &LINEAR[..2])]),
    );
    const LINES: &[Shapes] = &[&[&[40], &[40, 132], &[132]], &[&[131, 20], &[20, 1], &[1]]];
    rows(variants(true).into_iter().map(|v| linear(Some(v), Act::Relu, true, LINES)));
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
fn gradients_match_differences() {
    const SMALL: &[Shapes] = &[&[&[2, 3], &[3, 4]], &[&[7, 5], &[5, 9]], &[&[8, 12], &[12, 16]], &[&[1, 20], &[20, 3]]];
    const BATCHED: &[Shapes] = &[
        &[&[3, 5, 4], &[3, 4, 6]],
        &[&[3, 5, 8], &[8, 4]],
        &[&[5, 8], &[3, 8, 4]],
        &[&[2, 1, 5, 4], &[3, 4, 3]],
        &[&[3, 5, 8], &[1, 8, 4]],
    ];
    let both = |cases: &'static [Shapes]| {
        row("matmul", cases, -1.0..1.0, |x| matmul::matmul(&x[0], &x[1]), |x| reference::matmul::matmul(&x[0], &x[1]))
            .grad(&[0, 1], SUMS)
    };
    let linear = |act| {
        row(
            "linear",
            &[&[&[2, 3, 5], &[5, 7], &[7]], &[&[12, 8], &[8, 4], &[4]], &[&[5], &[5, 3], &[3]]],
            -1.0..1.0,
            move |x| matmul::linear(&x[0], &x[1], Some(&x[2]), act),
            move |x| reference::matmul::linear(&x[0], &x[1], Some(&x[2]), act),
        )
        .grad(&[0, 1, 2], Tolerance::F32)
    };
    rows([both(SMALL), both(BATCHED), linear(Act::None), linear(Act::Tanh), linear(Act::Gelu)]);
}

/// Long sums of few results: partial sums reach about 200, so each addition is off by up to 1e-5, at random over 300,000
/// of them at most; a lost part of the sum is off by whole numbers.
const LONG: Tolerance = Tolerance { atol: 3e-3, rtol: 0.0, allowed: 0 };
const LONG_F16: Tolerance = Tolerance { atol: 3e-3, rtol: 2e-3, allowed: 0 };

#[test]
fn long_sums_lose_no_part() {
    // Past what software adapters let a loop go: four at a time, with a rest, one by one, and through tiles.
    const FOURS: &[Shapes] = &[&[&[4, 280_000], &[280_000, 4]], &[&[3, 270_001], &[270_001, 2]]];
    const LINES: &[Shapes] = &[&[&[1, 300_000], &[300_000, 1]]];
    const SINGLES: &[Shapes] = &[&[&[2, 1, 2, 70_003], &[3, 70_003, 2]], &[&[2, 2, 70_000], &[2, 70_000, 3]]];
    const TILES: &[Shapes] = &[&[&[2, 56_004], &[56_004, 4]]];
    let long = |variant, cases| product(variant, cases).tolerance(LONG);
    rows([FOURS, LINES, SINGLES].map(|cases| long(None, cases).f16(LONG_F16)));
    rows(variants(false).into_iter().chain(variants(true)).map(|v| {
        long(
            Some(v),
            match v {
                Variant::Plain => SINGLES,
                Variant::Tiled64 | Variant::Tiled128 => TILES,
                Variant::Vector | Variant::VectorShared => LINES,
                _ => FOURS,
            },
        )
        .no_views()
    }));
    const BIASED: &[Shapes] = &[&[&[3, 270_000], &[270_000, 4], &[4]]];
    rows([linear(None, Act::Relu, true, BIASED).tolerance(LONG).f16(LONG_F16)]);
}

#[test]
fn long_sums_over_rows_of_both_operands() {
    // a transposed, [k, m], as for the gradient of a weight.
    const STORED: &[Shapes] =
        &[&[&[270_000, 4], &[270_000, 4]], &[&[70_000, 16], &[70_000, 16]], &[&[10_007, 33], &[10_007, 9]]];
    let flip = |x: &reference::Array| {
        reference::Array::from_fn(&[x.shape[1], x.shape[0]], |index| x.at(&[index[1], index[0]]))
    };
    rows([row(
        "matmul of a transposed",
        STORED,
        -1.0..1.0,
        |x| matmul::matmul(&x[0].transpose()?, &x[1]),
        move |x| reference::matmul::matmul(&flip(&x[0]), &x[1]),
    )
    .tolerance(LONG)
    .f16(LONG_F16)]);
}

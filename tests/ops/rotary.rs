use crate::support::compare::{Tolerance, compare};
use crate::support::row::{Row, Shapes, download, row, rows, upload, values};
use crate::support::{runtime, runtimes};
use leanvision::ops::rotary::{Style, rotate};
use leanvision::reference::rotary as reference;
use leanvision::{DType, Tensor};

const STYLES: [Style; 2] = [Style::Adjacent, Style::Halves];
/// Cosine and sine to 2e-7, products and a difference of numbers below 1.
const CLOSE: Tolerance = Tolerance { atol: 1e-6, rtol: 1e-6, allowed: 0 };

/// Spread over 0 to 8191, both ends among them.
fn positions(n: usize) -> Vec<u32> {
    (0..n as u32).map(|t| if t == 1 { 8191 } else { t.wrapping_mul(2_654_435_761) % 8192 }).collect()
}

fn rotary(style: Style, base: f32, cases: &'static [Shapes]) -> Row {
    row(
        "rotate",
        cases,
        -1.0..1.0,
        move |x| {
            let n = x[0].shape()[0];
            rotate(&x[0], &Tensor::from_slice(x[0].runtime(), &positions(n), &[n])?, base, style)
        },
        move |x| reference::rotate(&x[0], &positions(x[0].shape[0]), base.into(), style),
    )
    .tolerance(CLOSE)
}

/// Heads of fours and of other pairs; the views that the harness adds run by the plain kernel.
const CASES: &[Shapes] = &[
    &[&[1, 1, 2]],
    &[&[2, 1, 8]],
    &[&[3, 5, 6]],
    &[&[17, 3, 64]],
    &[&[7, 2, 20]],
    &[&[65, 1, 24]],
    &[&[131, 12, 48]],
    &[&[0, 3, 8]],
    &[&[5, 0, 8]],
    &[&[5, 3, 0]],
    &[&[1031, 9, 64]],
];

#[test]
fn pairs_turn_as_in_f64() {
    rows(STYLES.map(|style| rotary(style, 10_000.0, CASES).f16(Tolerance::F16)));
    // Bases of long contexts, and frequencies of a turn and more.
    rows([500_000.0, 0.01].into_iter().flat_map(|base| STYLES.map(|style| rotary(style, base, &CASES[3..6]))));
}

#[test]
fn gradients_turn_back() {
    const CASES: &[Shapes] = &[&[&[3, 2, 6]], &[&[5, 3, 8]], &[&[2, 1, 16]]];
    rows(STYLES.map(|style| rotary(style, 10_000.0, CASES).grad(&[0], Tolerance::F32).grad_f16(Tolerance::F16)));
}

#[test]
fn grids_fold_past_65535_workgroups() {
    const PAIRS: &[Shapes] = &[&[&[4_200_000, 1, 2]]];
    // As many as fit a binding of 128 MiB.
    const FOURS: &[Shapes] = &[&[&[4_194_250, 1, 8]]];
    rows([rotary(Style::Adjacent, 10_000.0, PAIRS).no_views(), rotary(Style::Halves, 10_000.0, FOURS).no_views()]);
}

#[test]
fn every_position_below_8192_and_far_ones_keep_their_digits() {
    let Some(runtime) = runtime() else { return };
    // Far positions: what f64 makes of the angle is still good to 1e-6.
    let far = [1 << 20, 123_456_789, u32::MAX].into_iter();
    let positions: Vec<u32> = (0..8192).chain(far).collect();
    let n = positions.len();
    let x = values(&[n, 1, 16], &(-1.0..1.0), DType::F32, 7);
    let on = Tensor::from_slice(&runtime, &positions, &[n]).unwrap();
    for style in STYLES {
        let got = rotate(&upload(&runtime, &x, DType::F32).unwrap(), &on, 10_000.0, style).unwrap();
        compare(&download(&got).unwrap(), &reference::rotate(&x, &positions, 1e4, style).data, CLOSE).unwrap();
    }
}

#[test]
fn queries_are_read_out_of_a_packed_projection() {
    for runtime in runtimes() {
        let (n, heads, d) = (5, 3, 8);
        let packed = values(&[n, 3 * heads * d], &(-1.0..1.0), DType::F32, 3);
        let tensor = upload(&runtime, &packed, DType::F32).unwrap();
        let positions = positions(n);
        let on = Tensor::from_slice(&runtime, &positions, &[n]).unwrap();
        for (part, style) in (0..3).flat_map(|part| STYLES.map(|style| (part, style))) {
            let width = heads * d;
            let view = tensor.slice(1, part * width..(part + 1) * width).unwrap().reshape(&[n, heads, d]).unwrap();
            let before = runtime.counts().dispatches;
            let got = rotate(&view, &on, 10_000.0, style).unwrap();
            assert_eq!(runtime.counts().dispatches, before + 1, "copied first");
            let own = leanvision::reference::Array::from_fn(&[n, heads, d], |at| {
                packed.at(&[at[0], part * width + at[1] * d + at[2]])
            });
            let want = reference::rotate(&own, &positions, 1e4, style);
            compare(&download(&got).unwrap(), &want.data, CLOSE).unwrap();
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn wrong_operands_are_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let message = |x: &[usize], t: usize, types: [DType; 2], base| {
        rotate(&zeros(x, types[0]), &zeros(&[t], types[1]), base, Style::Adjacent).unwrap_err().to_string()
    };
    let right = [DType::F32, DType::U32];
    assert!(message(&[3, 2, 7], 3, right, 1e4).contains("an even number of elements"));
    assert!(message(&[3, 2, 8], 4, right, 1e4).contains("differ in T"));
    assert!(message(&[3, 8], 3, right, 1e4).contains("does not fit [T, heads, d]"));
    assert!(message(&[3, 2, 8], 3, [DType::U32, DType::U32], 1e4).contains("a float type wanted"));
    assert!(message(&[3, 2, 8], 3, [DType::F32, DType::F32], 1e4).contains("positions hold f32, u32 wanted"));
    for base in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(message(&[3, 2, 8], 3, right, base).contains("a positive number wanted"));
    }
}

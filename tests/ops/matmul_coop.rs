//! Products on cooperative matrices. Few software adapters have any, so they run on simulated devices, whatever the adapter
//! under test is.

use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows_on};
use crate::support::short;
use leanvision::ops::Act;
use leanvision::ops::matmul::{self, Variant};
use leanvision::runtime::SimulatedDevice;
use leanvision::{DType, Runtime, Tensor, reference};

const VARIANTS: [Variant; 3] = [Variant::Cooperative16, Variant::Cooperative16Small, Variant::Cooperative8];

/// Subgroups from the smallest to the largest: more of them than blocks of a tile, as many, and fewer.
const DEVICES: [&str; 5] = [
    "4,straight,cpu",
    "8,random,discrete",
    "32,reversed,discrete",
    "64,straight,integrated",
    "128,interleaved,discrete,7",
];

/// Products of f16 in -1..1 are summed in f32, so what is off is the rounding of the result to f16: 2^-11 of it.
const ROUNDED: Tolerance = Tolerance { atol: 1e-5, rtol: 6e-4, allowed: 0 };

fn named(op: &str, variant: Variant) -> &'static str {
    Box::leak(format!("{op} {variant:?}").into_boxed_str())
}

fn product(variant: Variant, cases: &'static [Shapes]) -> Row {
    row(
        named("matmul", variant),
        cases,
        -1.0..1.0,
        move |x| matmul::matmul_with(variant, &x[0], &x[1]),
        |x| reference::matmul::matmul(&x[0], &x[1]),
    )
    .dtype(DType::F16)
    .tolerance(ROUNDED)
}

fn linear(variant: Variant, act: Act, cases: &'static [Shapes]) -> Row {
    row(
        named("linear", variant),
        cases,
        -2.0..2.0,
        move |x| matmul::linear_with(variant, &x[0], &x[1], Some(&x[2]), act),
        move |x| reference::matmul::linear(&x[0], &x[1], Some(&x[2]), act),
    )
    .dtype(DType::F16)
    .tolerance(Tolerance::F16)
}

fn on_devices(rows: impl Fn(Variant) -> Vec<Row>) {
    // Once is enough: a short run asks another adapter the same.
    if !short() {
        rows_on(&DEVICES, VARIANTS.into_iter().flat_map(rows));
    }
}

#[test]
fn products_match_the_reference() {
    // Around the matrices (8, 16), the panels (32) and the tiles (64, 128); fours and any sizes.
    const PAIRS: &[Shapes] = &[
        &[&[1, 1], &[1, 1]],
        &[&[0, 3], &[3, 2]],
        &[&[3, 0], &[0, 2]],
        &[&[3, 2], &[2, 0]],
        &[&[7, 5], &[5, 9]],
        &[&[8, 8], &[8, 8]],
        &[&[16, 16], &[16, 16]],
        &[&[17, 20], &[20, 12]],
        &[&[63, 31], &[31, 65]],
        &[&[64, 64], &[64, 64]],
        &[&[65, 36], &[36, 64]],
        &[&[67, 37], &[37, 131]],
        &[&[129, 40], &[40, 132]],
        &[&[128, 32], &[32, 128]],
    ];
    const BATCHES: &[Shapes] = &[
        &[&[3, 5, 4], &[3, 4, 6]],
        &[&[2, 1, 9, 8], &[3, 8, 12]],
        &[&[2, 3, 1, 5, 4], &[3, 7, 4, 8]],
        &[&[2, 33, 20], &[20, 36]],
        &[&[0, 5, 4], &[4, 6]],
    ];
    on_devices(|v| vec![product(v, PAIRS), product(v, BATCHES)]);
}

#[test]
fn operands_may_lie_along_either_axis() {
    // Stored [k, m] and [n, k]: the transposed view, or a copy of it.
    const STORED: &[Shapes] = &[&[&[36, 68], &[72, 36]], &[&[20, 132], &[68, 20]], &[&[12, 33], &[16, 12]]];
    let flip = |x: &reference::Array| {
        reference::Array::from_fn(&[x.shape[1], x.shape[0]], |index| x.at(&[index[1], index[0]]))
    };
    let one = |variant, view_a: bool, view_b: bool| {
        let operand = |x: &Tensor, view: bool| if view { x.transpose() } else { x.transpose()?.contiguous() };
        row(
            named(&format!("matmul of views {view_a} {view_b}"), variant),
            STORED,
            -1.0..1.0,
            move |x| matmul::matmul_with(variant, &operand(&x[0], view_a)?, &operand(&x[1], view_b)?),
            move |x| reference::matmul::matmul(&flip(&x[0]), &flip(&x[1])),
        )
        .dtype(DType::F16)
        .tolerance(ROUNDED)
    };
    on_devices(|v| [(true, false), (false, true), (true, true)].map(|(a, b)| one(v, a, b)).into());
}

#[test]
fn bias_and_activation_come_with_the_product() {
    const CASES: &[Shapes] = &[
        &[&[5, 7], &[7, 9], &[9]],
        &[&[2, 37, 12], &[12, 36], &[36]],
        &[&[70, 20], &[20, 68], &[68]],
        &[&[3, 0], &[0, 5], &[5]],
    ];
    on_devices(|v| vec![linear(v, Act::None, CASES), linear(v, Act::Gelu, CASES), linear(v, Act::Relu, &CASES[..2])]);
}

#[test]
fn infinities_and_nans_stay_in_their_rows() {
    const SPECIAL: &[f64] = &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 6e-8];
    const CASES: &[Shapes] = &[&[&[37, 9], &[9, 11]], &[&[37, 12], &[12, 36]]];
    on_devices(|v| vec![product(v, CASES).special(SPECIAL)]);
}

/// The entry points that an op launches on a simulated GPU.
fn launched(device: SimulatedDevice, op: impl Fn(&Runtime) -> leanvision::Result<Tensor>) -> Vec<&'static str> {
    let runtime = Runtime::simulated(SimulatedDevice { kind: "discrete", capture: true, ..device }).unwrap();
    op(&runtime).unwrap();
    runtime.take_launches().iter().map(|launch| launch.kernel.entry).filter(|entry| entry.contains("matmul")).collect()
}

#[test]
fn they_are_chosen_for_f16_where_the_adapter_has_them() {
    let of = |cooperative, dtype, shape: [usize; 2]| {
        launched(SimulatedDevice { cooperative, ..SimulatedDevice::default() }, move |runtime| {
            let x = Tensor::zeros(runtime, &shape, dtype)?;
            matmul::matmul(&x, &x.transpose()?)
        })
    };
    assert_eq!(of(true, DType::F16, [40, 36]), ["matmul_coop_16_fwd"]);
    assert_eq!(of(true, DType::F16, [40, 20]), ["matmul_tiled_fwd"]);
    assert_eq!(of(true, DType::F32, [40, 36]), ["matmul_tiled_fwd"]);
    assert_eq!(of(false, DType::F16, [40, 36]), ["matmul_tiled_fwd"]);
}

#[test]
fn long_sums_are_taken_in_f32_parts() {
    if short() {
        return;
    }
    // Four parts of 528 and a rest.
    const LONG: &[Shapes] = &[&[&[33, 2100], &[2100, 40], &[40]], &[&[36, 2052], &[2052, 32], &[32]]];
    rows_on(
        &["32,straight,discrete"],
        [row(
            "linear",
            LONG,
            -1.0..1.0,
            |x| matmul::linear(&x[0], &x[1], Some(&x[2]), Act::Relu),
            |x| reference::matmul::linear(&x[0], &x[1], Some(&x[2]), Act::Relu),
        )
        .dtype(DType::F16)
        // Sums of some tens: rounding to f16 and sums in f32.
        .tolerance(Tolerance { atol: 1e-4, rtol: 6e-4, allowed: 0 })],
    );
    let of = launched(SimulatedDevice::default(), |runtime| {
        let x = Tensor::zeros(runtime, &[36, 2052], DType::F16)?;
        matmul::matmul(&x, &x.transpose()?)
    });
    assert_eq!(of, ["matmul_coop_16_fwd"; 2]);
}

#[test]
fn f32_is_refused() {
    let runtime = Runtime::simulated(SimulatedDevice::default()).unwrap();
    let x = Tensor::zeros(&runtime, &[4, 4], DType::F32).unwrap();
    for variant in VARIANTS {
        assert!(!variant.runs_on(runtime.profile(), DType::F32) && variant.runs_on(runtime.profile(), DType::F16));
        let message = matmul::matmul_with(variant, &x, &x).unwrap_err().to_string();
        assert_eq!(message, format!("matmul: f32 given, f16 wanted for {variant:?}"));
    }
    let device = SimulatedDevice { cooperative: false, ..SimulatedDevice::default() };
    let without = Runtime::simulated(device).unwrap();
    assert!(VARIANTS.iter().all(|variant| !variant.runs_on(without.profile(), DType::F16)));
}

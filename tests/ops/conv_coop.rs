//! Convolutions on cooperative matrices. Few software adapters have any, so they run on simulated devices, whatever the
//! adapter under test is.

use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows_on};
use crate::support::short;
use leanvision::ops::Act;
use leanvision::ops::conv::{self, Conv2d, Variant};
use leanvision::reference::conv as reference;
use leanvision::reference::elementwise::{act, zip};
use leanvision::runtime::SimulatedDevice;
use leanvision::{DType, Runtime, Tensor};

const VARIANTS: [Variant; 2] = [Variant::Cooperative16, Variant::Cooperative16Small];

/// Subgroups from the smallest to the largest: more of them than blocks of a tile, as many, and fewer.
const DEVICES: [&str; 4] =
    ["4,straight,cpu", "32,reversed,discrete", "64,straight,integrated", "128,interleaved,discrete,3"];

const SAME: Conv2d = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };

/// Products of f16 below 1 are summed in f32, so what is off is the rounding of the result to f16: 2^-11 of it.
const ROUNDED: Tolerance = Tolerance { atol: 1e-5, rtol: 6e-4, allowed: 0 };

fn by(variant: Variant, cases: &'static [Shapes], conv: Conv2d) -> Row {
    row(
        format!("{conv:?} by {variant:?}").leak(),
        cases,
        -1.0..1.0,
        move |x| conv::conv2d_with(variant, &x[0], &x[1], x.get(2), None, &conv, Act::None),
        move |x| reference::conv2d(&x[0], &x[1], x.get(2), &conv),
    )
    .dtype(DType::F16)
    .tolerance(ROUNDED)
}

fn on_devices(rows: impl Fn(Variant) -> Vec<Row>) {
    // Once is enough: a short run asks another adapter the same.
    if !short() {
        rows_on(&DEVICES, VARIANTS.into_iter().flat_map(rows));
    }
}

#[test]
fn convolutions_match_the_reference() {
    // Less than a tile and more, of pixels and of channels; panels that end within a tap, between two, and past the last.
    const CASES: &[Shapes] = &[
        &[&[1, 1, 1, 4], &[3, 3, 4, 4], &[4]],
        &[&[2, 5, 7, 12], &[3, 3, 12, 36], &[36]],
        &[&[1, 9, 15, 4], &[3, 3, 4, 132]],
        &[&[0, 4, 4, 4], &[3, 3, 4, 8]],
        &[&[1, 4, 4, 32], &[3, 3, 32, 68], &[68]],
    ];
    const UNEVEN: &[Shapes] = &[&[&[2, 9, 10, 8], &[5, 2, 8, 20], &[20]], &[&[1, 7, 11, 16], &[2, 3, 16, 64]]];
    on_devices(|v| {
        vec![
            by(v, CASES, SAME),
            by(v, &CASES[1..3], Conv2d { stride: [2, 2], ..SAME }),
            by(v, UNEVEN, Conv2d { stride: [1, 3], padding: [2, 4], dilation: [2, 3], groups: 1 }),
        ]
    });
}

#[test]
fn bias_residual_and_activation_are_fused() {
    const CASES: &[Shapes] = &[&[&[1, 6, 13, 8], &[3, 3, 8, 68], &[68], &[1, 6, 13, 68]]];
    on_devices(|v| {
        let kinds = [Act::Relu, Act::Gelu].into_iter();
        let by = |kind| {
            row(
                format!("residual, {kind:?} by {v:?}").leak(),
                CASES,
                -1.0..1.0,
                move |x| conv::conv2d_with(v, &x[0], &x[1], Some(&x[2]), Some(&x[3]), &SAME, kind),
                move |x| zip(&reference::conv2d(&x[0], &x[1], Some(&x[2]), &SAME), &x[3], |a, b| act(kind, a + b)),
            )
            .dtype(DType::F16)
            .tolerance(Tolerance { atol: 1e-3, ..Tolerance::F16 })
        };
        kinds.map(by).collect()
    });
}

#[test]
fn padding_never_meets_infinities_of_the_border() {
    const CASES: &[Shapes] = &[&[&[1, 5, 9, 4], &[3, 3, 4, 8]]];
    on_devices(|v| vec![by(v, CASES, SAME).special(&[f64::INFINITY, f64::NAN])]);
}

#[test]
fn they_are_chosen_for_f16_where_the_adapter_has_them() {
    let launched = |cooperative, dtype, ci, co, backward: bool| -> Vec<&'static str> {
        let device = SimulatedDevice { kind: "discrete", capture: true, cooperative, ..SimulatedDevice::default() };
        let runtime = Runtime::simulated(device).unwrap();
        let zeros = |shape: &[usize]| Tensor::zeros(&runtime, shape, dtype).unwrap();
        let (x, w) = (zeros(&[1, 3, 3, ci]), zeros(&[3, 3, ci, co]));
        if backward {
            conv::input_gradient(&zeros(&[1, 3, 3, co]), &w, [1, 3, 3, ci], &SAME).unwrap();
        } else {
            conv::conv2d(&x, &w, None, &SAME, Act::None).unwrap();
        }
        let entries = runtime.take_launches().into_iter().map(|launch| launch.kernel.entry);
        entries.filter(|entry| entry.starts_with("conv") && !entry.contains("turn")).collect()
    };
    assert_eq!(launched(true, DType::F16, 4, 32, false), ["conv_coop_16_fwd"]);
    assert_eq!(launched(true, DType::F16, 3, 32, false), ["conv_tile_fwd"]);
    assert_eq!(launched(true, DType::F16, 4, 16, false), ["conv_tile_fwd"]);
    assert_eq!(launched(true, DType::F32, 4, 32, false), ["conv_tile_fwd"]);
    assert_eq!(launched(false, DType::F16, 4, 32, false), ["conv_tile_fwd"]);
    // The gradient of the input is a convolution, too.
    assert_eq!(launched(true, DType::F16, 32, 4, true), ["conv_coop_16_fwd"]);
}

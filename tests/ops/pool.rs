use crate::support::compare::{Tolerance, compare};
use crate::support::golden::{Golden, permuted};
use crate::support::row::{Shapes, download, row, rows, upload, values};
use crate::support::runtime;
use leanvision::ops::pool::{avg_pool2d, global_avg_pool, max_pool2d};
use leanvision::reference::pool as reference;
use leanvision::{DType, Error, Tensor};

const CASES: &[Shapes] = &[
    &[&[2, 7, 6, 3]],
    &[&[1, 8, 8, 4]],
    &[&[3, 13, 11, 20]],
    &[&[1, 3, 3, 1]],
    &[&[0, 4, 4, 4]],
    &[&[2, 4, 5, 0]],
    &[&[2, 9, 8, 37]],
];
/// Kernel, stride, padding.
const WINDOWS: &[[[usize; 2]; 3]] = &[
    [[2, 2], [2, 2], [0, 0]],
    [[3, 3], [2, 2], [1, 1]],
    [[3, 2], [1, 3], [1, 0]],
    [[1, 1], [2, 2], [0, 0]],
    [[3, 3], [3, 3], [0, 0]],
];

#[test]
fn max_pools_match_the_reference() {
    rows(WINDOWS.iter().map(|&[kernel, stride, padding]| {
        row(
            "max_pool2d",
            CASES,
            -9.0..-1.0,
            move |x| max_pool2d(&x[0], kernel, stride, padding),
            move |x| reference::max_pool2d(&x[0], kernel, stride, padding),
        )
        .rtol(0.0)
        .f16(Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 })
    }));
}

#[test]
fn nans_and_infinities_win_a_maximum() {
    rows(WINDOWS.iter().map(|&[kernel, stride, padding]| {
        row(
            "max_pool2d",
            CASES,
            -9.0..9.0,
            move |x| max_pool2d(&x[0], kernel, stride, padding),
            move |x| reference::max_pool2d(&x[0], kernel, stride, padding),
        )
        .rtol(0.0)
        .special(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NAN])
    }));
}

#[test]
fn average_pools_match_the_reference() {
    rows(WINDOWS.iter().flat_map(|&[kernel, stride, padding]| {
        [true, false].map(|counted| {
            row(
                if counted { "avg_pool2d, padding counts" } else { "avg_pool2d" },
                CASES,
                -9.0..9.0,
                move |x| avg_pool2d(&x[0], kernel, stride, padding, counted),
                move |x| reference::avg_pool2d(&x[0], kernel, stride, padding, counted),
            )
            .rtol(1e-5)
            .f16(Tolerance { atol: 2e-3, ..Tolerance::F16 })
        })
    }));
}

#[test]
fn whole_images_are_averaged() {
    const IMAGES: &[Shapes] = &[
        &[&[2, 8, 8, 64]],
        &[&[3, 7, 7, 5]],
        &[&[1, 1, 1, 1]],
        &[&[2, 224, 224, 3]],
        // More pixels than a loop of a software adapter goes rounds.
        &[&[1, 260, 257, 4]],
        &[&[2, 257, 260, 1]],
        &[&[0, 2, 2, 4]],
        &[&[1, 2, 3, 0]],
    ];
    rows([row(
        "global_avg_pool",
        IMAGES,
        -1.0..3.0,
        |x| global_avg_pool(&x[0]),
        |x| reference::global_avg_pool(&x[0]),
    )
    .rtol(1e-5)
    .f16(Tolerance::F16)]);
}

#[test]
fn large_windows_lose_no_pixel() {
    const LARGE: &[Shapes] = &[&[&[1, 300, 290, 4]], &[&[1, 300, 290, 1]]];
    let (kernel, stride, padding) = ([280, 270], [13, 7], [9, 3]);
    let average = |counted| {
        row(
            "avg_pool2d",
            LARGE,
            -1.0..3.0,
            move |x| avg_pool2d(&x[0], kernel, stride, padding, counted),
            move |x| reference::avg_pool2d(&x[0], kernel, stride, padding, counted),
        )
        .rtol(1e-5)
        .f16(Tolerance::F16)
    };
    let largest = row(
        "max_pool2d",
        LARGE,
        -9.0..-1.0,
        move |x| max_pool2d(&x[0], kernel, stride, padding),
        move |x| reference::max_pool2d(&x[0], kernel, stride, padding),
    );
    rows([average(true), average(false), largest.rtol(0.0)]);
}

#[test]
fn large_pools_are_folded() {
    const LARGE: &[Shapes] = &[&[&[1, 2063, 2039, 4]], &[&[1, 2063, 2039, 1]]];
    rows([row("large", LARGE, -9.0..9.0, |x| max_pool2d(&x[0], [1, 1], [1, 1], [0, 0]), |x| x[0].clone()).rtol(0.0)]);
}

#[test]
fn pools_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    let golden = Golden::open();
    for op in ["max_pool2d", "avg_pool2d", "mean"] {
        for case in golden.cases(op) {
            let x = upload(&runtime, &permuted(&case.need("x"), &[0, 2, 3, 1]), DType::F32).unwrap();
            let (kernel, stride) = (case.pair("kernel_size", 1), case.pair("stride", 1));
            let padding = case.pair("padding", 0);
            let counted = case.params["count_include_pad"].as_bool().unwrap_or(true);
            let (out, axes): (_, &[usize]) = match op {
                "max_pool2d" => (max_pool2d(&x, kernel, stride, padding), &[0, 2, 3, 1]),
                "avg_pool2d" => (avg_pool2d(&x, kernel, stride, padding, counted), &[0, 2, 3, 1]),
                _ => (global_avg_pool(&x), &[0, 1]),
            };
            let (out, want) = (out.unwrap(), permuted(&case.need("out"), axes));
            assert_eq!(out.shape(), want.shape, "{}", case.name);
            let outcome = compare(&download(&out).unwrap(), &want.data, Tolerance::F32);
            outcome.unwrap_or_else(|message| panic!("{}: {message}", case.name));
        }
    }
}

#[test]
fn wrong_pools_are_named() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[1, 4, 4, 2], DType::F32).unwrap();
    let fails = |kernel, stride, padding| max_pool2d(&x, kernel, stride, padding).unwrap_err().to_string();
    assert_eq!(fails([2, 2], [0, 2], [0, 0]), "max_pool2d: stride [0, 2] given, at least 1 wanted");
    assert_eq!(fails([0, 2], [1, 1], [0, 0]), "max_pool2d: kernel [0, 2] given, at least 1 wanted");
    assert_eq!(fails([2, 5], [1, 1], [0, 0]), "max_pool2d: the window is 5 pixels wide, the padded image only 4");
    assert_eq!(
        fails([2, 2], [1, 1], [1, 2]),
        "max_pool2d: padding [1, 2] given, at most half of the window [2, 2] wanted, so that no window is empty"
    );
    let flat = Tensor::zeros(&runtime, &[4, 4], DType::F32).unwrap();
    let error = avg_pool2d(&flat, [1, 1], [1, 1], [0, 0], true).unwrap_err();
    assert_eq!(error.to_string(), "avg_pool2d: x [4, 4] given, [n, h, w, c] wanted");
    let none = Tensor::zeros(&runtime, &[2, 0, 4, 2], DType::F32).unwrap();
    assert!(matches!(global_avg_pool(&none), Err(Error::Shape { .. })));
    let whole = Tensor::zeros(&runtime, &[1, 4, 4, 2], DType::U32).unwrap();
    assert!(matches!(global_avg_pool(&whole), Err(Error::DType { .. })));
}

/// Small enough for differences: pixels that several windows share, and pixels that none reaches.
const GRADS: &[Shapes] = &[&[&[2, 7, 6, 3]], &[&[1, 8, 8, 4]], &[&[1, 5, 9, 8]], &[&[1, 3, 3, 1]], &[&[0, 4, 4, 4]]];

#[test]
fn gradients_match_differences() {
    // No two of so few random values lie within the step of each other, so it changes no maximum.
    rows(WINDOWS.iter().map(|&[kernel, stride, padding]| {
        row(
            "max_pool2d",
            GRADS,
            -9.0..-1.0,
            move |x| max_pool2d(&x[0], kernel, stride, padding),
            move |x| reference::max_pool2d(&x[0], kernel, stride, padding),
        )
        .grad(&[0], Tolerance::F32)
    }));
    rows(WINDOWS.iter().flat_map(|&[kernel, stride, padding]| {
        [true, false].map(|counted| {
            row(
                if counted { "avg_pool2d, padding counts" } else { "avg_pool2d" },
                GRADS,
                -1.0..1.0,
                move |x| avg_pool2d(&x[0], kernel, stride, padding, counted),
                move |x| reference::avg_pool2d(&x[0], kernel, stride, padding, counted),
            )
            .grad(&[0], Tolerance::F32)
        })
    }));
    rows([row("global", GRADS, -1.0..1.0, |x| global_avg_pool(&x[0]), |x| reference::global_avg_pool(&x[0]))
        .grad(&[0], Tolerance::F32)]);
}

#[test]
fn the_first_of_equal_maxima_takes_the_gradient() {
    let Some(runtime) = runtime() else { return };
    for c in [1, 4] {
        // Rows 0 0 0, 0 5 5, 0 5 NaN: windows of 2 x 2, side by side.
        let pixels = [0.0_f32, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0, 5.0, f32::NAN];
        let data: Vec<f32> = pixels.iter().flat_map(|v| vec![*v; c]).collect();
        let x = Tensor::from_slice(&runtime, &data, &[1, 3, 3, c]).unwrap().require_grad().unwrap();
        let out = max_pool2d(&x, [2, 2], [1, 1], [0, 0]).unwrap();
        let d: Vec<f32> = [1.0_f32, 10.0, 100.0, 1000.0].iter().flat_map(|v| vec![*v; c]).collect();
        let d = Tensor::from_slice(&runtime, &d, &[1, 2, 2, c]).unwrap();
        let got = out.backward_with(&d).unwrap().take(&x).unwrap().to_vec::<f32>().unwrap();
        let want = [0.0_f32, 0.0, 0.0, 0.0, 111.0, 0.0, 0.0, 0.0, 1000.0];
        assert_eq!(got, want.iter().flat_map(|v| vec![*v; c]).collect::<Vec<f32>>());
    }
}

#[test]
fn f16_gradients_are_those_of_f32() {
    let Some(runtime) = runtime().filter(|runtime| runtime.profile().features.f16) else { return };
    // Whole numbers small enough for f16 to hold every sum.
    let x = values(&[2, 9, 8, 12], &(-4.0..4.0), DType::I32, 1);
    for [kernel, stride, padding] in WINDOWS.iter().copied() {
        let grads = [DType::F32, DType::F16].map(|dtype| {
            let x = upload(&runtime, &x, dtype).unwrap().require_grad().unwrap();
            let out = max_pool2d(&x, kernel, stride, padding).unwrap();
            let d = upload(&runtime, &values(out.shape(), &(-4.0..4.0), DType::I32, 2), dtype).unwrap();
            download(&out.backward_with(&d).unwrap().take(&x).unwrap()).unwrap()
        });
        assert_eq!(grads[0], grads[1], "{kernel:?} {stride:?} {padding:?}");
    }
}

use crate::support::compare::{Tolerance, compare};
use crate::support::golden::{Golden, permuted};
use crate::support::row::{Row, Shapes, download, row, rows, upload, values};
use crate::support::{TestRuntime, runtime, runtime_for, short};
use leanvision::ops::Act;
use leanvision::ops::conv::{Conv2d, Variant, conv2d, conv2d_residual, conv2d_with};
use leanvision::reference::Array;
use leanvision::reference::conv as reference;
use leanvision::reference::elementwise::{act, map, zip};
use leanvision::{DType, Error, Tensor};

const SAME: Conv2d = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };

/// Rows of x, w and bias for what the op chooses and for each variant that takes the shape. Sums of up to 600 products of numbers below 1: f32 keeps them to 600 half units of their
/// size, 3e-5 of 1 at the very worst.
fn conv(name: &'static str, cases: &'static [Shapes], conv: Conv2d) -> Vec<Row> {
    let by = |variant: Option<Variant>| {
        row(
            variant.map_or(name, |variant| format!("{name} by {variant:?}").leak()),
            cases,
            -1.0..1.0,
            move |x| {
                let auto = || conv2d(&x[0], &x[1], x.get(2), &conv, Act::None);
                let Some(variant) = variant else { return auto() };
                match conv2d_with(variant, &x[0], &x[1], x.get(2), None, &conv, Act::None) {
                    Err(Error::Feature { .. }) => auto(),
                    out => out,
                }
            },
            move |x| reference::conv2d(&x[0], &x[1], x.get(2), &conv),
        )
        .tolerance(Tolerance { atol: 3e-5, rtol: 1e-4, allowed: 0 })
        .f16(Tolerance::F16)
    };
    [None].into_iter().chain(Variant::ALL.iter().copied().map(Some)).map(by).collect()
}

#[test]
fn convolutions_match_the_reference() {
    const DENSE: &[Shapes] = &[
        &[&[2, 7, 6, 3], &[3, 3, 3, 4], &[4]],
        &[&[1, 8, 8, 16], &[3, 3, 16, 16], &[16]],
        &[&[3, 9, 13, 8], &[3, 3, 8, 20], &[20]],
        &[&[1, 3, 67, 4], &[3, 3, 4, 8], &[8]],
        &[&[2, 5, 5, 12], &[3, 3, 12, 36]],
        &[&[1, 1, 1, 1], &[3, 3, 1, 1], &[1]],
        &[&[1, 11, 7, 5], &[3, 3, 5, 7], &[7]],
        &[&[0, 4, 4, 4], &[3, 3, 4, 8], &[8]],
        &[&[2, 4, 4, 4], &[3, 3, 4, 0]],
        &[&[2, 4, 4, 0], &[3, 3, 0, 5], &[5]],
        &[&[1, 16, 16, 64], &[3, 3, 64, 64], &[64]],
    ];
    const STRIDED: &[Shapes] = &[
        &[&[2, 9, 8, 3], &[7, 7, 3, 16]],
        &[&[2, 16, 15, 16], &[3, 3, 16, 32], &[32]],
        &[&[1, 9, 9, 4], &[5, 3, 4, 12], &[12]],
        &[&[1, 20, 17, 1], &[5, 5, 1, 6]],
    ];
    const POINTWISE: &[Shapes] = &[
        &[&[2, 5, 7, 16], &[1, 1, 16, 24], &[24]],
        &[&[1, 4, 3, 5], &[1, 1, 5, 7], &[7]],
        &[&[3, 8, 8, 32], &[1, 1, 32, 8]],
    ];
    const PATCH: &[Shapes] = &[&[&[2, 8, 12, 3], &[4, 4, 3, 20], &[20]], &[&[1, 9, 9, 4], &[4, 4, 4, 16]]];
    let stride2 = Conv2d { stride: [2, 2], ..SAME };
    rows(
        [
            conv("3x3", DENSE, SAME),
            conv("valid", &DENSE[..5], Conv2d::default()),
            conv("stride 2", DENSE, stride2),
            conv("stem", STRIDED, Conv2d { stride: [2, 2], padding: [3, 3], ..Conv2d::default() }),
            conv("uneven", STRIDED, Conv2d { stride: [1, 3], padding: [2, 3], ..Conv2d::default() }),
            conv("dilated", STRIDED, Conv2d { stride: [2, 1], padding: [5, 4], dilation: [2, 2], groups: 1 }),
            conv("1x1", POINTWISE, Conv2d::default()),
            conv("1x1 stride 2", POINTWISE, Conv2d { stride: [2, 2], ..Conv2d::default() }),
            conv("1x1 padded", POINTWISE, SAME),
            conv("patch", PATCH, Conv2d { stride: [4, 4], ..Conv2d::default() }),
        ]
        .into_iter()
        .flatten(),
    );
}

#[test]
fn groups_match_the_reference() {
    const HALVES: &[Shapes] = &[
        &[&[2, 5, 4, 6], &[3, 3, 3, 4], &[4]],
        &[&[1, 9, 10, 16], &[3, 3, 8, 32], &[32]],
        &[&[2, 7, 7, 8], &[3, 3, 4, 24]],
    ];
    const DEPTHWISE: &[Shapes] = &[
        &[&[2, 6, 6, 12], &[3, 3, 1, 12], &[12]],
        &[&[1, 9, 17, 12], &[3, 3, 1, 12]],
        &[&[1, 8, 7, 12], &[5, 5, 1, 12], &[12]],
        &[&[1, 8, 7, 12], &[3, 3, 1, 24], &[24]],
    ];
    const ODD: &[Shapes] = &[&[&[2, 6, 6, 5], &[3, 3, 1, 5], &[5]], &[&[1, 5, 5, 5], &[3, 3, 1, 10], &[10]]];
    let depthwise = Conv2d { groups: 12, ..SAME };
    rows(
        [
            conv("2 groups", HALVES, Conv2d { groups: 2, ..SAME }),
            conv("2 groups stride 2", HALVES, Conv2d { groups: 2, stride: [2, 2], ..SAME }),
            conv("depthwise", DEPTHWISE, depthwise),
            conv("depthwise stride 2", DEPTHWISE, Conv2d { stride: [2, 2], ..depthwise }),
            conv("depthwise dilated", DEPTHWISE, Conv2d { dilation: [2, 1], padding: [2, 2], ..depthwise }),
            conv("depthwise of 5", ODD, Conv2d { groups: 5, ..SAME }),
        ]
        .into_iter()
        .flatten(),
    );
}

#[test]
fn bias_residual_and_activation_are_fused() {
    const CASES: &[Shapes] = &[
        &[&[1, 6, 5, 8], &[3, 3, 8, 12], &[12], &[1, 6, 5, 12]],
        &[&[2, 3, 3, 3], &[3, 3, 3, 5], &[5], &[2, 3, 3, 5]],
        &[&[1, 7, 5, 8], &[3, 3, 8, 20], &[20], &[1, 7, 5, 20]],
    ];
    const DEPTHWISE: &[Shapes] = &[&[&[2, 5, 9, 12], &[3, 3, 1, 12], &[12], &[2, 5, 9, 12]]];
    let by = |cases: &'static [Shapes], conv: Conv2d, variant: Option<Variant>, kind: Act| {
        row(
            format!("bias, residual, {kind:?} by {variant:?}").leak(),
            cases,
            -1.0..1.0,
            move |x| {
                let auto = || conv2d_residual(&x[0], &x[1], Some(&x[2]), &x[3], &conv, kind);
                let Some(variant) = variant else { return auto() };
                match conv2d_with(variant, &x[0], &x[1], Some(&x[2]), Some(&x[3]), &conv, kind) {
                    Err(Error::Feature { .. }) => auto(),
                    out => out,
                }
            },
            move |x| zip(&reference::conv2d(&x[0], &x[1], Some(&x[2]), &conv), &x[3], |a, b| act(kind, a + b)),
        )
        .f16(Tolerance { atol: 1e-3, ..Tolerance::F16 })
    };
    let dense = Variant::ALL.iter().map(|variant| by(CASES, SAME, Some(*variant), Act::Relu));
    let depthwise = Conv2d { groups: 12, ..SAME };
    let grouped = Variant::ALL.iter().map(|variant| by(DEPTHWISE, depthwise, Some(*variant), Act::Relu));
    rows(dense.chain(grouped));
    rows(
        [Act::Relu6, Act::Gelu, Act::GeluTanh, Act::Silu, Act::Sigmoid, Act::Tanh]
            .map(|kind| by(CASES, SAME, None, kind)),
    );
    rows([
        row(
            "residual",
            CASES,
            -1.0..1.0,
            |x| conv2d_residual(&x[0], &x[1], None, &x[3], &SAME, Act::Relu),
            |x| zip(&reference::conv2d(&x[0], &x[1], None, &SAME), &x[3], |a, b| (a + b).max(0.0)),
        ),
        row(
            "activation",
            CASES,
            -1.0..1.0,
            |x| conv2d(&x[0], &x[1], None, &SAME, Act::Hardswish),
            |x| map(&reference::conv2d(&x[0], &x[1], None, &SAME), |v| act(Act::Hardswish, v)),
        ),
    ]);
}

#[test]
fn convolutions_past_65535_groups_are_folded() {
    // 725 x 725 pixels in 8 groups of 4 channels: 65,704 workgroups of 64 pixels and one group.
    let Some(runtime) = runtime_for(4_000_000).filter(|_| !short()) else { return };
    let conv = Conv2d { groups: 8, ..Conv2d::default() };
    let (x, w) =
        (values(&[1, 725, 725, 32], &(-1.0..1.0), DType::F32, 1), values(&[1, 1, 4, 32], &(-1.0..1.0), DType::F32, 2));
    let (on_x, on_w) = (upload(&runtime, &x, DType::F32).unwrap(), upload(&runtime, &w, DType::F32).unwrap());
    for variant in Variant::ALL {
        let out = match conv2d_with(*variant, &on_x, &on_w, None, None, &conv, Act::None) {
            Err(Error::Feature { .. }) => continue,
            out => download(&out.unwrap()).unwrap(),
        };
        let (got, want): (Vec<f64>, Vec<f64>) = (0..out.len())
            .rev()
            .step_by(37)
            .map(|i| (out[i], reference::conv2d_at(&x, &w, None, &conv, &[0, i / 32 / 725, i / 32 % 725, i % 32])))
            .unzip();
        compare(&got, &want, Tolerance::F32).unwrap_or_else(|message| panic!("{variant:?}: {message}"));
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn padding_never_meets_infinities_of_the_border() {
    // Positions outside the image count as zero even where clamping would read an infinity or a NaN.
    const CASES: &[Shapes] = &[&[&[1, 5, 9, 4], &[3, 3, 4, 8]], &[&[1, 5, 9, 3], &[3, 3, 3, 5]]];
    rows(conv("special", CASES, SAME).into_iter().map(|row| row.special(&[f64::INFINITY, f64::NAN])));
}

#[test]
fn convolutions_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    for case in Golden::open().cases("conv2d") {
        let conv = Conv2d {
            stride: case.pair("stride", 1),
            padding: case.pair("padding", 0),
            dilation: case.pair("dilation", 1),
            groups: case.pair("groups", 1)[0],
        };
        let on = |array: &Array| upload(&runtime, array, DType::F32).unwrap();
        let (x, w) = (permuted(&case.need("x"), &[0, 2, 3, 1]), permuted(&case.need("w"), &[2, 3, 1, 0]));
        let bias = case.tensor("b").map(|b| on(&b));
        let (x, w) = (on(&x), on(&w));
        let want = permuted(&case.need("out"), &[0, 2, 3, 1]);
        let mut outs = vec![("chosen".to_owned(), conv2d(&x, &w, bias.as_ref(), &conv, Act::None).unwrap())];
        for variant in Variant::ALL {
            match conv2d_with(*variant, &x, &w, bias.as_ref(), None, &conv, Act::None) {
                Err(Error::Feature { .. }) => (),
                out => outs.push((format!("{variant:?}"), out.unwrap())),
            }
        }
        for (variant, out) in outs {
            assert_eq!(out.shape(), want.shape, "{} {variant}", case.name);
            let outcome = compare(&download(&out).unwrap(), &want.data, Tolerance::F32);
            outcome.unwrap_or_else(|message| panic!("{} {variant}: {message}", case.name));
        }
    }
}

#[test]
fn wrong_convolutions_are_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |runtime: &TestRuntime, shape: &[usize]| Tensor::zeros(runtime, shape, DType::F32).unwrap();
    let (x, w) = (zeros(&runtime, &[1, 4, 4, 6]), zeros(&runtime, &[3, 3, 6, 8]));
    let fails = |x: &Tensor, w: &Tensor, bias: Option<&Tensor>, conv: Conv2d| -> String {
        let error = conv2d(x, w, bias, &conv, Act::None).unwrap_err();
        assert!(error.is_bad_input(), "{error}");
        error.to_string()
    };
    let plain = Conv2d::default();
    let given = [
        (fails(&x, &w, None, Conv2d { stride: [0, 1], ..plain }), "conv2d: stride [0, 1] given, at least 1 wanted"),
        (fails(&x, &w, None, Conv2d { dilation: [1, 0], ..plain }), "conv2d: dilation [1, 0] given, at least 1 wanted"),
        (fails(&x, &w, None, Conv2d { groups: 0, ..plain }), "conv2d: 0 groups do not divide 6 channels in, 8 out"),
        (fails(&x, &w, None, Conv2d { groups: 4, ..plain }), "conv2d: 4 groups do not divide 6 channels in, 8 out"),
        (fails(&x, &w, None, Conv2d { groups: 3, ..plain }), "conv2d: 3 groups do not divide 6 channels in, 8 out"),
        (
            fails(&x, &w, None, Conv2d { groups: 2, ..plain }),
            "conv2d: x [1, 4, 4, 6] has 6 channels and w [3, 3, 6, 8] takes 6 in each of 2 groups",
        ),
        (
            fails(&x, &zeros(&runtime, &[5, 3, 6, 8]), None, plain),
            "conv2d: the window is 5 pixels high, the padded image only 4",
        ),
        (
            fails(&x, &w, None, Conv2d { dilation: [1, 2], ..plain }),
            "conv2d: the window is 5 pixels wide, the padded image only 4",
        ),
        (fails(&x, &zeros(&runtime, &[0, 3, 6, 8]), None, plain), "conv2d: kernel [0, 3] given, at least 1 wanted"),
        (fails(&x, &w, Some(&zeros(&runtime, &[6])), plain), "conv2d: bias [6] given, [8] wanted"),
        (
            fails(&x, &zeros(&runtime, &[3, 6, 8]), None, plain),
            "conv2d: x [1, 4, 4, 6] and w [3, 6, 8] given; x [n, h, w, ci] and w [kh, kw, ci / groups, co] wanted",
        ),
    ];
    for (got, want) in given {
        assert_eq!(got, want);
    }
    assert!(fails(&x, &w, None, Conv2d { padding: [70_000, 0], ..plain }).ends_with("passes 65535"));
    let residual = zeros(&runtime, &[1, 4, 4, 8]);
    let error = conv2d_residual(&x, &w, None, &residual, &plain, Act::Relu).unwrap_err();
    assert_eq!(error.to_string(), "conv2d_residual: residual [1, 4, 4, 8] given, [1, 2, 2, 8] wanted");
    let whole = Tensor::zeros(&runtime, &[3, 3, 6, 8], DType::U32).unwrap();
    assert!(matches!(conv2d(&x, &whole, None, &plain, Act::None), Err(Error::DType { .. })));
}

#[test]
fn variants_take_the_shapes_they_are_made_for() {
    let Some(runtime) = runtime() else { return };
    let takes = |variant: Variant, w: [usize; 4], conv: Conv2d| variant.fits(runtime.profile(), DType::F32, w, &conv);
    let depthwise = Conv2d { groups: 12, ..SAME };
    for variant in [Variant::Plain, Variant::Registers, Variant::Tile, Variant::TileNarrow] {
        assert!(takes(variant, [3, 3, 4, 12], SAME), "{variant:?}");
    }
    let broadcast = runtime.profile().fixed_subgroup() == Some(8);
    assert_eq!(takes(Variant::Subgroup, [3, 3, 4, 12], SAME), broadcast);
    assert_eq!(takes(Variant::Stem, [3, 3, 3, 12], SAME), broadcast);
    assert!(
        takes(Variant::Depthwise3, [3, 3, 1, 12], depthwise) && takes(Variant::Depthwise, [5, 2, 1, 12], depthwise)
    );
    assert!(!takes(Variant::Depthwise3, [3, 3, 1, 12], Conv2d { stride: [1, 2], ..depthwise }));
    assert!(takes(Variant::Matmul, [1, 1, 5, 7], Conv2d::default()) && !takes(Variant::Matmul, [1, 1, 5, 7], SAME));
    assert!(!takes(Variant::Depthwise, [3, 3, 1, 24], depthwise) && !takes(Variant::Registers, [3, 3, 6, 12], SAME));
    let (x, w) =
        (Tensor::zeros(&runtime, &[1, 4, 4, 6], DType::F32), Tensor::zeros(&runtime, &[3, 3, 6, 8], DType::F32));
    let refused = conv2d_with(Variant::Registers, &x.unwrap(), &w.unwrap(), None, None, &SAME, Act::None);
    assert!(matches!(refused, Err(Error::Feature { .. })));
}

#[test]
fn windows_too_large_for_a_loop_are_refused() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize]| Tensor::zeros(&runtime, shape, DType::F32).unwrap();
    let (x, w) = (zeros(&[1, 1, 2, 70_000]), zeros(&[1, 1, 70_000, 3]));
    let out = conv2d(&x, &w, None, &Conv2d { stride: [1, 2], ..Conv2d::default() }, Act::None);
    if runtime.profile().is_software() {
        assert!(matches!(out, Err(Error::Limit { limit: 65_535, .. })), "{out:?}");
    } else {
        assert!(out.is_ok(), "{out:?}");
    }
}

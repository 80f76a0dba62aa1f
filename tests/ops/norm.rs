use crate::support::compare::{Tolerance, compare};
use crate::support::golden::{Golden, permuted};
use crate::support::row::{Shapes, download, row, rows, upload, values};
use crate::support::runtime;
use leanvision::ops::norm::{
    ChannelVariant, RowNorm, batch_norm, batch_norm_train, batch_norm_train_with, group_norm, layer_norm, rms_norm,
    row_norm_with, update_running_stats,
};
use leanvision::ops::{Act, RowVariant};
use leanvision::reference::{Array, elementwise::act, elementwise::map, norm as reference};
use leanvision::{DType, Error, Tensor};

// Rows of every remainder by 4, fewer and more than a workgroup's invocations, numbers of rows of every remainder by 4.
const SHAPES: &[Shapes] = &[
    &[&[3, 257], &[257], &[257]],
    &[&[1, 1], &[1], &[1]],
    &[&[0, 8], &[8], &[8]],
    &[&[5, 0], &[0], &[0]],
    &[&[12], &[12], &[12]],
    &[&[2, 3, 4, 6], &[6], &[6]],
    &[&[66, 192], &[192], &[192]],
    &[&[33, 20], &[20], &[20]],
    &[&[35, 63], &[63], &[63]],
    &[&[9, 768], &[768], &[768]],
    &[&[2, 4099], &[4099], &[4099]],
];
// More rows than workgroups along one dimension of a grid: a workgroup each; 16 and 64 to a workgroup.
const FOLDED: &[Shapes] = &[&[&[65_537, 5], &[5], &[5]]];
const FOLDED_ALONE: &[Shapes] = &[&[&[1_050_000, 1], &[1], &[1]], &[&[4_200_000, 4], &[4], &[4]]];
const CHANNELS: &[Shapes] = &[
    &[&[5, 7, 6, 16], &[16], &[16], &[16], &[16]],
    &[&[1], &[1], &[1], &[1], &[1]],
    &[&[0, 4], &[4], &[4], &[4], &[4]],
    &[&[3, 0], &[0], &[0], &[0], &[0]],
    &[&[3, 4], &[4], &[4], &[4], &[4]],
    &[&[17, 3], &[3], &[3], &[3], &[3]],
    &[&[2, 63, 65, 10], &[10], &[10], &[10], &[10]],
    &[&[64, 33, 32, 20], &[20], &[20], &[20], &[20]],
    &[&[1, 2063, 2039, 1], &[1], &[1], &[1], &[1]],
];
const EPS: f32 = 1e-5;
const EPS_64: f64 = EPS as f64;

// A few roundings of numbers of the size of the row's spread, divided by it, times a gain up to 3.
const TOLERANCE: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5, allowed: 0 };

#[test]
fn row_norms_match_the_reference() {
    rows([
        row(
            "layer_norm",
            SHAPES,
            -3.0..3.0,
            |x| layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS),
            |x| reference::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS_64),
        )
        .tolerance(TOLERANCE)
        .f16(Tolerance::F16),
        row(
            "rms_norm",
            SHAPES,
            -3.0..3.0,
            |x| rms_norm(&x[0], Some(&x[1]), EPS),
            |x| reference::rms_norm(&x[0], Some(&x[1]), EPS_64),
        )
        .tolerance(TOLERANCE)
        .f16(Tolerance::F16),
    ]);
}

#[test]
fn long_rows_lose_no_element() {
    // More than one invocation of a software adapter goes rounds: one by one, and four at a time.
    const LONG: &[Shapes] = &[&[&[2, 40_001], &[40_001], &[40_001]], &[&[1, 400_000], &[400_000], &[400_000]]];
    rows([
        row(
            "layer_norm",
            LONG,
            -3.0..3.0,
            |x| layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS),
            |x| reference::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS_64),
        )
        .tolerance(TOLERANCE),
        row(
            "rms_norm",
            LONG,
            -3.0..3.0,
            |x| rms_norm(&x[0], Some(&x[1]), EPS),
            |x| reference::rms_norm(&x[0], Some(&x[1]), EPS_64),
        )
        .tolerance(TOLERANCE),
    ]);
    let Some(runtime) = runtime() else { return };
    if runtime.profile().is_software() {
        let x = Tensor::zeros(&runtime, &[1, 40_001], DType::F32).unwrap();
        let alone = row_norm_with(Some(RowVariant::Invocation), RowNorm::Rms, &x, None, None, EPS);
        assert!(matches!(alone, Err(Error::Limit { asked: 80_010, limit: 65_535, .. })), "{alone:?}");
    }
}

#[test]
fn gradients_of_row_norms_match_differences() {
    const SMALL: &[Shapes] = &[
        &[&[3, 257], &[257], &[257]],
        &[&[12], &[12], &[12]],
        &[&[2, 3, 4, 6], &[6], &[6]],
        &[&[9, 96], &[96], &[96]],
        &[&[131, 5], &[5], &[5]],
        &[&[301, 4], &[4], &[4]],
        &[&[1, 1], &[1], &[1]],
    ];
    let Some(runtime) = runtime() else { return };
    let grad = Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 };
    for variant in RowVariant::ALL.into_iter().filter(|v| v.runs_on(runtime.profile())).map(Some).chain([None]) {
        let layer = row(
            "layer_norm",
            SMALL,
            -2.0..3.0,
            move |x| row_norm_with(variant, RowNorm::Layer, &x[0], Some(&x[1]), Some(&x[2]), EPS),
            |x| reference::layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS_64),
        );
        let rms = row(
            "rms_norm",
            SMALL,
            -2.0..3.0,
            move |x| row_norm_with(variant, RowNorm::Rms, &x[0], Some(&x[1]), None, EPS),
            |x| reference::rms_norm(&x[0], Some(&x[1]), EPS_64),
        );
        let bare = row(
            "layer_norm, bare",
            SMALL,
            -2.0..3.0,
            move |x| row_norm_with(variant, RowNorm::Layer, &x[0], None, None, EPS),
            |x| reference::layer_norm(&x[0], None, None, EPS_64),
        );
        rows([layer.grad(&[0, 1, 2], grad), rms.grad(&[0, 1], grad), bare.grad(&[0], grad)]);
    }
}

#[test]
fn a_backward_pass_of_layer_norm_matches_pytorch() {
    // layer_norm(x, (4,), gain, bias, 1e-5).backward(d), in f64.
    const D_X: [f64; 8] =
        [0.98453043, -1.818086782, -1.168334782, 2.001891134, -0.029046096, -0.121702227, -0.073986099, 0.224734422];
    const D_GAIN: [f64; 4] = [3.660293691, 1.325561852, 2.854962091, -3.329365128];
    const D_BIAS: [f64; 4] = [-0.5, -1.0, 2.5, 3.25];
    let Some(runtime) = runtime() else { return };
    let upload = |data: &[f32], shape: &[usize]| Tensor::from_slice(&runtime, data, shape).unwrap();
    let x = upload(&[1001.5, 999.0, 1000.25, 998.5, -2.0, 0.5, 3.0, 1.0], &[2, 4]).require_grad().unwrap();
    let gain = upload(&[1.5, -0.5, 0.75, 2.0], &[4]).require_grad().unwrap();
    let bias = upload(&[0.25, 0.125, -1.0, 0.0], &[4]).require_grad().unwrap();
    let out = layer_norm(&x, Some(&gain), Some(&bias), 1e-5).unwrap();
    let gradients = out.backward_with(&upload(&[1.0, -2.0, 0.5, 3.0, -1.5, 1.0, 2.0, 0.25], &[2, 4])).unwrap();
    for (leaf, want) in [(&x, &D_X[..]), (&gain, &D_GAIN), (&bias, &D_BIAS)] {
        let got = download(gradients.of(leaf).unwrap()).unwrap();
        compare(&got, want, Tolerance { atol: 2e-6, rtol: 2e-6, allowed: 0 }).unwrap();
    }
}

#[test]
fn every_row_norm_variant_matches_the_reference() {
    let Some(runtime) = runtime() else { return };
    for variant in RowVariant::ALL.into_iter().filter(|variant| variant.runs_on(runtime.profile())) {
        for (norm, gain, bias) in [
            (RowNorm::Layer, true, true),
            (RowNorm::Layer, true, false),
            (RowNorm::Layer, false, true),
            (RowNorm::Layer, false, false),
            (RowNorm::Rms, true, true),
            (RowNorm::Rms, false, false),
        ] {
            let folded = if variant == RowVariant::Invocation { FOLDED_ALONE } else { FOLDED };
            let folded = if (norm, gain, bias) == (RowNorm::Layer, true, true) { folded } else { &[] };
            rows([SHAPES, folded].into_iter().map(|shapes| {
                row(
                    "row_norm",
                    shapes,
                    -3.0..3.0,
                    move |x| {
                        let (gain, bias) = (gain.then_some(&x[1]), bias.then_some(&x[2]));
                        row_norm_with(Some(variant), norm, &x[0], gain, bias, EPS)
                    },
                    move |x| {
                        let (gain, bias) = (gain.then_some(&x[1]), bias.then_some(&x[2]));
                        if norm == RowNorm::Layer {
                            return reference::layer_norm(&x[0], gain, bias, EPS_64);
                        }
                        let zeros = Array::from_fn(&x[2].shape, |_| 0.0);
                        let ones = Array::from_fn(&x[2].shape, |_| 1.0);
                        let normed = reference::rms_norm(&x[0], gain, EPS_64);
                        let bias = bias.unwrap_or(&zeros);
                        reference::batch_norm(&normed, &ones, bias, &zeros, &ones, 0.0)
                    },
                )
                .tolerance(TOLERANCE)
                .f16(Tolerance::F16)
            }));
        }
    }
}

#[test]
fn a_mean_far_from_zero_costs_no_digits() {
    let Some(runtime) = runtime() else { return };
    // Mean 1e3, deviation 1, stored exactly: errors are those of the differences, about 1e-7 of the deviation a term.
    for n in [192, 197, 768, 5000] {
        let x = map(&values(&[40, n], &(-1.732..1.732), DType::F32, 9), |v| f64::from((v + 1000.0) as f32));
        let want = reference::layer_norm(&x, None, None, EPS_64);
        let tensor = upload(&runtime, &x, DType::F32).unwrap();
        for variant in RowVariant::ALL.into_iter().filter(|variant| variant.runs_on(runtime.profile())) {
            let out = row_norm_with(Some(variant), RowNorm::Layer, &tensor, None, None, EPS).unwrap();
            let outcome =
                compare(&download(&out).unwrap(), &want.data, Tolerance { atol: 2e-6, rtol: 2e-6, allowed: 0 });
            outcome.unwrap_or_else(|message| panic!("{variant:?}, n {n}: {message}"));
        }
    }
    // Group norm keeps its means in f32, so that they are off by half a unit in the last place: 3e-5 at 1000.
    let x = map(&values(&[2, 50, 8], &(-1.732..1.732), DType::F32, 9), |v| f64::from((v + 1000.0) as f32));
    let one = Array::from_fn(&[8], |_| 1.0);
    let zero = Array::from_fn(&[8], |_| 0.0);
    let [tensor, gain, bias] = [&x, &one, &zero].map(|a| upload(&runtime, a, DType::F32).unwrap());
    let out = group_norm(&tensor, 2, &gain, &bias, EPS).unwrap();
    let want = reference::group_norm(&x, 2, &one, &zero, EPS_64);
    compare(&download(&out).unwrap(), &want.data, Tolerance { atol: 1e-4, rtol: 1e-6, allowed: 0 }).unwrap();
}

#[test]
fn constant_rows_and_outliers_stay_finite() {
    let Some(runtime) = runtime() else { return };
    let n = 64;
    let mut data = vec![7.25_f32; 3 * n];
    // An outlier in front, which the differences are taken to, and one at the end.
    data[n] = 1e6;
    data[3 * n - 1] = -1e6;
    let x = Array::new(&[3, n], data.iter().map(|v| f64::from(*v)).collect());
    let want = reference::layer_norm(&x, None, None, EPS_64);
    let tensor = Tensor::from_slice(&runtime, &data, &[3, n]).unwrap();
    for variant in RowVariant::ALL.into_iter().filter(|variant| variant.runs_on(runtime.profile())) {
        let out = row_norm_with(Some(variant), RowNorm::Layer, &tensor, None, None, EPS).unwrap();
        compare(&download(&out).unwrap(), &want.data, TOLERANCE).unwrap_or_else(|m| panic!("{variant:?}: {m}"));
    }
}

#[test]
fn rows_with_nan_or_infinity_come_out_as_nan_and_leave_their_neighbours_alone() {
    let Some(runtime) = runtime() else { return };
    for n in [3_usize, 8, 67, 300] {
        let mut data = vec![1.0_f32; 6 * n];
        data[n + n / 2] = f32::NAN;
        data[3 * n - 1] = f32::INFINITY;
        data[3 * n] = f32::NEG_INFINITY;
        let x = Tensor::from_slice(&runtime, &data, &[6, n]).unwrap();
        for variant in RowVariant::ALL.into_iter().filter(|variant| variant.runs_on(runtime.profile())) {
            let out = row_norm_with(Some(variant), RowNorm::Layer, &x, None, None, EPS).unwrap();
            for (i, row) in out.to_vec::<f32>().unwrap().chunks_exact(n).enumerate() {
                let right = |v: &f32| if (1..4).contains(&i) { v.is_nan() } else { *v == 0.0 };
                assert!(row.iter().all(right), "{variant:?}, n {n}, row {i}: {:?}", &row[..3]);
            }
        }
    }
}

const ACTS: [Act; 9] =
    [Act::None, Act::Relu, Act::Relu6, Act::Gelu, Act::GeluTanh, Act::Silu, Act::Sigmoid, Act::Tanh, Act::Hardswish];

#[test]
fn batch_norm_matches_the_reference_with_every_activation() {
    rows(ACTS.map(|kind| {
        let shapes = if kind == Act::None { CHANNELS } else { &CHANNELS[..6] };
        row(
            "batch_norm",
            shapes,
            0.1..3.0,
            move |x| batch_norm(&x[0], &x[1], &x[2], &x[3], &x[4], EPS, kind),
            move |x| {
                let out = reference::batch_norm(&x[0], &x[1], &x[2], &x[3], &x[4], EPS_64);
                map(&out, |v| act(kind, v))
            },
        )
        .f16(Tolerance { atol: 4e-3, rtol: 2e-3, allowed: 0 })
    }));
}

#[test]
fn batch_norm_train_matches_the_reference_and_its_differences() {
    // Blocks of every number of rows by 4, one and several of them, in fours of channels and without.
    const SMALL: &[Shapes] = &[
        &[&[5, 3, 3, 12], &[12], &[12]],
        &[&[2, 4], &[4], &[4]],
        &[&[17, 3], &[3], &[3]],
        &[&[193, 4], &[4], &[4]],
        &[&[2, 67, 5], &[5], &[5]],
    ];
    const LARGE: &[Shapes] = &[
        &[&[1, 4], &[4], &[4]],
        &[&[3, 37, 65, 20], &[20], &[20]],
        &[&[41_000, 10], &[10], &[10]],
        &[&[2, 4100], &[4100], &[4100]],
        &[&[1, 2063, 2039, 1], &[1], &[1]],
        &[&[1_050_000, 4], &[4], &[4]],
    ];
    let case = |variant, kind, shapes| {
        row(
            "batch_norm_train",
            shapes,
            -2.0..3.0,
            move |x| Ok(batch_norm_train_with(variant, &x[0], &x[1], &x[2], EPS, kind)?.0),
            move |x| map(&reference::batch_norm_train(&x[0], &x[1], &x[2], EPS_64), |v| act(kind, v)),
        )
        // A sum over the rows leaves a few more roundings.
        .f16(Tolerance { atol: 4e-3, rtol: 2e-3, allowed: 0 })
    };
    let kinds = [Act::None, Act::Relu, Act::Gelu, Act::Sigmoid, Act::Hardswish];
    let grad = Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 };
    rows(kinds.map(|kind| case(None, kind, SMALL).grad(&[0, 1, 2], grad)));
    rows(ChannelVariant::ALL.map(|variant| case(Some(variant), Act::None, LARGE)));
    // Enough rows for a workgroup to join their parts.
    const MANY: &[Shapes] = &[&[&[131, 5], &[5], &[5]], &[&[600, 4], &[4], &[4]], &[&[1100, 1], &[1], &[1]]];
    rows(ChannelVariant::ALL.map(|variant| case(Some(variant), Act::Relu, MANY).grad(&[0, 1, 2], grad)));
}

#[test]
fn batch_norm_has_gradients_by_constant_statistics() {
    const SMALL: &[Shapes] = &[
        &[&[2, 5, 3, 12], &[12], &[12], &[12], &[12]],
        &[&[1], &[1], &[1], &[1], &[1]],
        &[&[17, 3], &[3], &[3], &[3], &[3]],
    ];
    rows([Act::None, Act::Relu6, Act::Silu, Act::Tanh].map(|kind| {
        row(
            "batch_norm",
            SMALL,
            0.1..3.0,
            move |x| batch_norm(&x[0], &x[1], &x[2], &x[3], &x[4], EPS, kind),
            move |x| map(&reference::batch_norm(&x[0], &x[1], &x[2], &x[3], &x[4], EPS_64), |v| act(kind, v)),
        )
        .grad(&[0, 1, 2], Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 })
    }));
    let Some(runtime) = runtime() else { return };
    let c = Tensor::full(&runtime, &[3], 1.0, DType::F32).unwrap();
    let x = Tensor::full(&runtime, &[2, 3], 1.0, DType::F32).unwrap();
    let error = batch_norm(&x, &c, &c, &c, &c.require_grad().unwrap(), EPS, Act::None).unwrap_err().to_string();
    assert_eq!(error, "batch_norm: no gradient flows through it: detach its input");
}

#[test]
fn batch_statistics_keep_their_digits_far_from_zero() {
    let Some(runtime) = runtime() else { return };
    let cases = [[5003, 8], [70, 5], [40_961, 16]].map(|shape| ChannelVariant::ALL.map(|variant| (shape, variant)));
    for (shape, variant) in cases.into_iter().flatten() {
        let x = map(&values(&shape, &(-1.732..1.732), DType::F32, 9), |v| f64::from((v + 1000.0) as f32));
        let n = shape[1];
        let (gain, bias) = (Array::from_fn(&[n], |_| 1.0), Array::from_fn(&[n], |_| 0.0));
        let (want_mean, want_var) = reference::channel_moments(&x);
        let [x_in, gain_in, bias_in] = [&x, &gain, &bias].map(|a| upload(&runtime, a, DType::F32).unwrap());
        let leaf = x_in.require_grad().unwrap();
        let norm = |x: &Tensor| batch_norm_train_with(Some(variant), x, &gain_in, &bias_in, EPS, Act::None).unwrap();
        let (out, mean, var) = norm(&leaf);
        assert!(out.needs_grad() && !mean.needs_grad() && !var.needs_grad());
        let check = |got: &Tensor, want: &[f64], atol: f64| {
            compare(&download(got).unwrap(), want, Tolerance { atol, rtol: 0.0, allowed: 0 }).unwrap();
        };
        // Half a unit in the last place of 1000; the others are of size 1.
        check(&mean, &want_mean.data, 3.1e-5);
        check(&var, &want_var.data, 2e-6);
        check(&out, &reference::batch_norm_train(&x, &gain, &bias, EPS_64).data, 4e-6);
        // The same differences around 0 have the same gradient.
        let d = upload(&runtime, &values(&shape, &(-1.0..1.0), DType::F32, 3), DType::F32).unwrap();
        let near = upload(&runtime, &map(&x, |v| v - 1000.0), DType::F32).unwrap().require_grad().unwrap();
        let far_d = out.backward_with(&d).unwrap().take(&leaf).unwrap();
        let near_d = norm(&near).0.backward_with(&d).unwrap().take(&near).unwrap();
        check(&far_d, &download(&near_d).unwrap(), 4e-6);
    }
}

#[test]
fn a_training_step_of_batch_norm_matches_pytorch() {
    // x.requires_grad_(), likewise gain and bias, all in f64; then
    // out = relu(batch_norm(x, mean, var, gain, bias, training=True, momentum=0.1, eps=1e-5)); out.backward(d)
    const X: [f32; 10] = [1001.5, -2.0, 999.0, 0.5, 1000.25, 3.0, 998.5, 1.0, 1002.0, -1.5];
    const D: [f32; 10] = [1.0, -2.0, 0.5, 3.0, -1.5, 1.0, 2.0, 0.25, -0.75, 1.25];
    const OUT: [f64; 10] = [1.628523691, 0.734232719, 0.0, 0.041922811, 0.25, 0.0, 0.0, 0.0, 2.179933167, 0.595770737];
    const D_X: [f64; 10] = [
        1.38783799,
        0.55979451,
        0.266390439,
        -0.689973942,
        -1.378523691,
        0.27564931,
        0.26266472,
        0.167768219,
        -0.538369458,
        -0.313238097,
    ];
    const D_GAIN: [f64; 2] = [-0.04595079, 1.758467166];
    const D_BIAS: [f64; 2] = [-1.25, 2.25];
    const MEAN: [f64; 2] = [109.025, 0.92];
    const VAR: [f64; 2] = [3.83125, 2.2075];
    let Some(runtime) = runtime() else { return };
    let upload = |data: &[f32], shape: &[usize]| Tensor::from_slice(&runtime, data, shape).unwrap();
    let x = upload(&X, &[5, 2]).require_grad().unwrap();
    let gain = upload(&[1.5, -0.5], &[2]).require_grad().unwrap();
    let bias = upload(&[0.25, 0.125], &[2]).require_grad().unwrap();
    // Running statistics in one arena, at places where no binding starts, and each in memory of its own.
    let arena = upload(&[7.0, 10.0, 1.0, 7.0, 7.0, 4.0, 2.0, 7.0], &[8]);
    let views = [arena.slice(0, 1..3).unwrap(), arena.slice(0, 5..7).unwrap()];
    let apart = [upload(&[10.0, 1.0], &[2]), upload(&[4.0, 2.0], &[2])];
    let (out, mean, var) = batch_norm_train(&x, &gain, &bias, 1e-5, Act::Relu).unwrap();
    let close = |got: &Tensor, want: &[f64]| {
        compare(&download(got).unwrap(), want, Tolerance { atol: 2e-6, rtol: 2e-6, allowed: 0 }).unwrap();
    };
    for [running_mean, running_var] in [&views, &apart] {
        update_running_stats(running_mean, running_var, &mean, &var, 5, 0.1).unwrap();
        close(running_mean, &MEAN);
        close(running_var, &VAR);
    }
    close(&arena, &[7.0, MEAN[0], MEAN[1], 7.0, 7.0, VAR[0], VAR[1], 7.0]);
    close(&out, &OUT);
    let gradients = out.backward_with(&upload(&D, &[5, 2])).unwrap();
    close(gradients.of(&x).unwrap(), &D_X);
    close(gradients.of(&gain).unwrap(), &D_GAIN);
    close(gradients.of(&bias).unwrap(), &D_BIAS);
    // The variances first, and one element alone, whose variance has no unbiased estimate.
    let [behind, before] = &views;
    let one = upload(&[0.5, 0.25], &[2]);
    update_running_stats(before, behind, &mean, &one, 1, 1.0).unwrap();
    close(behind, &[0.5, 0.25]);
    close(before, &download(&mean).unwrap());
}

#[test]
fn running_statistics_are_not_updated_where_that_is_unsound() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let [a, b, c, d] = [0; 4].map(|_| zeros(&[4], DType::F32));
    let fails = |a: &Tensor, b: &Tensor, c: &Tensor, d: &Tensor, n, momentum: f32| {
        update_running_stats(a, b, c, d, n, momentum).unwrap_err().to_string()
    };
    let wide = zeros(&[6], DType::F32);
    let (left, right) = (wide.slice(0, 0..4).unwrap(), wide.slice(0, 2..6).unwrap());
    let shares = "update_running_stats: the running statistics share memory with each other or the batch's";
    assert_eq!(fails(&left, &right, &c, &d, 5, 0.1), shares);
    assert_eq!(fails(&a, &a, &c, &d, 5, 0.1), shares);
    assert_eq!(fails(&a, &b, &c, &a, 5, 0.1), shares);
    let columns = zeros(&[4, 2], DType::F32).slice(1, 0..1).unwrap().reshape(&[4]).unwrap();
    assert!(fails(&columns, &b, &c, &d, 5, 0.1).ends_with("cannot be updated in place"));
    assert!(fails(&a, &b, &c, &d, 0, 0.1).contains("1 or more") && fails(&a, &b, &c, &d, 5, 1.5).contains("0 to 1"));
    assert!(fails(&a, &b, &c, &zeros(&[3], DType::F32), 5, 0.1).contains("differ in c"));
    assert!(fails(&a.require_grad().unwrap(), &b, &c, &d, 5, 0.1).contains("no gradient"));
    let error = batch_norm_train(&zeros(&[0, 4], DType::F32), &a, &b, EPS, Act::None).unwrap_err().to_string();
    assert_eq!(error, "batch_norm_train: x [0, 4] has no element to take statistics of");
}

#[test]
fn group_norm_matches_the_reference() {
    const GROUPED: &[Shapes] = &[
        &[&[2, 5, 7, 12], &[12], &[12]],
        &[&[3, 12], &[12], &[12]],
        &[&[0, 4, 12], &[12], &[12]],
        &[&[1, 65, 33, 24], &[24], &[24]],
        &[&[5, 6, 18], &[18], &[18]],
    ];
    for groups in [1, 2, 3, 6] {
        rows([row(
            "group_norm",
            GROUPED,
            -3.0..3.0,
            move |x| group_norm(&x[0], groups, &x[1], &x[2], EPS),
            move |x| reference::group_norm(&x[0], groups, &x[1], &x[2], EPS_64),
        )
        .grad(&[0, 1, 2], Tolerance { atol: 4e-5, rtol: 1e-4, allowed: 0 })
        .f16(Tolerance { atol: 1e-3, rtol: 2e-3, allowed: 0 })]);
    }
}

#[test]
fn parameters_may_be_wider_than_the_input() {
    let Some(runtime) = runtime() else { return };
    if !runtime.profile().features.f16 {
        return;
    }
    let arrays = [&[6, 8][..], &[8], &[8], &[8], &[8]].map(|shape| values(shape, &(0.1..2.0), DType::F16, 4));
    let x = upload(&runtime, &arrays[0], DType::F16).unwrap();
    let [gain, bias, mean, var] = [1, 2, 3, 4].map(|i| upload(&runtime, &arrays[i], DType::F32).unwrap());
    let [_, a, b, c, d] = &arrays;
    let check = |out: Tensor, want: Array| {
        assert_eq!(out.dtype(), DType::F16);
        compare(&download(&out).unwrap(), &want.data, Tolerance { atol: 2e-3, rtol: 2e-3, allowed: 0 }).unwrap();
    };
    check(
        layer_norm(&x, Some(&gain), Some(&bias), EPS).unwrap(),
        reference::layer_norm(&arrays[0], Some(a), Some(b), EPS_64),
    );
    check(
        batch_norm(&x, &gain, &bias, &mean, &var, EPS, Act::None).unwrap(),
        reference::batch_norm(&arrays[0], a, b, c, d, EPS_64),
    );
    check(group_norm(&x, 4, &gain, &bias, EPS).unwrap(), reference::group_norm(&arrays[0], 4, a, b, EPS_64));
}

#[test]
fn norms_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    let golden = Golden::open();
    for op in ["layer_norm", "rms_norm", "group_norm", "batch_norm"] {
        for case in golden.cases(op) {
            let eps = case.params["eps"].as_f64().unwrap() as f32;
            let param = |role: &str| case.tensor(role).map(|a| upload(&runtime, &a, DType::F32).unwrap());
            let need = |role: &str| param(role).unwrap();
            let images = op == "group_norm" || op == "batch_norm";
            let last = |x: Array| if images { permuted(&x, &[0, 2, 3, 1]) } else { x };
            let x = upload(&runtime, &last(case.need("x")), DType::F32).unwrap();
            let out = match op {
                "layer_norm" => layer_norm(&x, param("w").as_ref(), param("b").as_ref(), eps),
                "rms_norm" => rms_norm(&x, param("w").as_ref(), eps),
                "group_norm" => {
                    let groups = case.params["groups"].as_u64().unwrap() as usize;
                    group_norm(&x, groups, &need("w"), &need("b"), eps)
                }
                _ => batch_norm(&x, &need("w"), &need("b"), &need("mean"), &need("var"), eps, Act::None),
            };
            let outcome = compare(&download(&out.unwrap()).unwrap(), &last(case.need("out")).data, Tolerance::F32);
            outcome.unwrap_or_else(|message| panic!("{}: {message}", case.name));
        }
    }
}

#[test]
fn wrong_norms_are_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let x = zeros(&[3, 6], DType::F32);
    let (c6, c5) = (zeros(&[6], DType::F32), zeros(&[5], DType::F32));
    let error = layer_norm(&x, Some(&c5), None, EPS).unwrap_err().to_string();
    assert_eq!(error, "layer_norm: x [3, 6] and gain [5] differ in n");
    let error = group_norm(&x, 4, &c6, &c6, EPS).unwrap_err().to_string();
    assert_eq!(error, "group_norm: 6 channels do not split into 4 groups");
    let error = rms_norm(&x, None, -1.0).unwrap_err().to_string();
    assert_eq!(error, "rms_norm: eps -1 given, 0 or more wanted");
    let error = batch_norm(&x, &c6, &c6, &zeros(&[6], DType::U32), &c6, EPS, Act::None).unwrap_err().to_string();
    assert_eq!(error, "batch_norm: mean is u32, one float type for all parameters wanted");
    assert!(group_norm(&c6, 2, &c6, &c6, EPS).is_err() && layer_norm(&x, None, None, f32::NAN).is_err());
}

use crate::support::compare::{Tolerance, compare};
use crate::support::golden::Golden;
use crate::support::row::{Shapes, download, row, rows, upload, values};
use crate::support::{limit, runtime, runtime_for, short};
use leanvision::ops::RowVariant;
use leanvision::ops::softmax::{
    cross_entropy, cross_entropy_soft, cross_entropy_with, log_softmax, log_softmax_with, log_sum_exp,
    log_sum_exp_with, softmax, softmax_with,
};
use leanvision::reference::{Array, softmax as reference};
use leanvision::{DType, Runtime, Tensor};

// Rows short and long, of every remainder by 4, fewer and more than a workgroup's invocations.
const SHAPES: &[Shapes] = &[
    &[&[3, 257]],
    &[&[1, 1]],
    &[&[0, 5]],
    &[&[5, 0]],
    &[&[7]],
    &[&[2, 3, 4, 6]],
    &[&[65, 8]],
    &[&[66, 197]],
    &[&[33, 64]],
    &[&[9, 1024]],
    &[&[2, 4099]],
    &[&[3, 2]],
    &[&[257, 3]],
    &[&[1, 100_003]],
];
// log-sum-exp needs an element in each row.
const FILLED: &[Shapes] =
    &[&[&[3, 257]], &[&[1, 1]], &[&[0, 5]], &[&[7]], &[&[2, 3, 4, 6]], &[&[66, 197]], &[&[9, 1024]]];
// More rows than workgroups along one dimension of a grid: a workgroup each; 16 and 64 to a workgroup.
const FOLDED: &[Shapes] = &[&[&[65_537, 5]]];
const FOLDED_ALONE: &[Shapes] = &[&[&[1_050_000, 4]], &[&[4_200_000, 1]]];

// Exponentials and the sum keep a few roundings each, the differences to the maximum one more of a number up to 60:
// 2^-24 60 = 4e-6 of the result.
const TOLERANCE: Tolerance = Tolerance { atol: 1e-7, rtol: 1e-5, allowed: 0 };
// Logarithms: absolute, as the result may be near 0 where the terms are 60.
const LOG: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-6, allowed: 0 };
// The same, stored with 11 bits.
const LOG_F16: Tolerance = Tolerance { atol: 2e-4, rtol: 1e-3, allowed: 0 };

fn variants(runtime: &Runtime) -> impl Iterator<Item = RowVariant> + use<> {
    let profile = runtime.profile().clone();
    RowVariant::ALL.into_iter().filter(move |variant| variant.runs_on(&profile))
}

#[test]
fn softmax_matches_the_reference() {
    rows([
        row("softmax", SHAPES, -30.0..30.0, |x| softmax(&x[0]), |x| reference::softmax(&x[0]))
            .tolerance(TOLERANCE)
            .f16(Tolerance::F16),
        row("log_softmax", SHAPES, -30.0..30.0, |x| log_softmax(&x[0]), |x| reference::log_softmax(&x[0]))
            .tolerance(LOG)
            .f16(LOG_F16),
        row("log_sum_exp", FILLED, -30.0..30.0, |x| log_sum_exp(&x[0]), |x| reference::log_sum_exp(&x[0]))
            .tolerance(LOG)
            .f16(LOG),
    ]);
}

#[test]
fn long_rows_lose_no_element() {
    // More than one invocation of a software adapter goes rounds: a row of fours, four rows of others, a sum alone.
    const LONG: &[Shapes] = &[&[&[1, 600_000]], &[&[4, 140_003]]];
    const SUMS: &[Shapes] = &[&[&[1, 1_100_003]]];
    rows([
        row("softmax", LONG, -30.0..30.0, |x| softmax(&x[0]), |x| reference::softmax(&x[0])).tolerance(TOLERANCE),
        row("log_softmax", LONG, -30.0..30.0, |x| log_softmax(&x[0]), |x| reference::log_softmax(&x[0])).tolerance(LOG),
        row("log_sum_exp", SUMS, -9.0..9.0, |x| log_sum_exp(&x[0]), |x| reference::log_sum_exp(&x[0])).tolerance(LOG),
    ]);
    let Some(runtime) = runtime_for(1_000_003) else { return };
    let x = values(SUMS[0][0], &(-9.0..9.0), DType::F32, 3);
    let labels = Tensor::from_slice(&runtime, &[1_000_001_u32], &[1]).unwrap();
    let loss = cross_entropy(&upload(&runtime, &x, DType::F32).unwrap(), &labels, 0.1).unwrap();
    let want = reference::cross_entropy(&x, &[1_000_001], 0.1);
    compare(&download(&loss).unwrap(), &want.data, Tolerance { atol: 2e-5, rtol: 1e-6, allowed: 0 }).unwrap();
}

#[test]
fn every_softmax_variant_matches_the_reference() {
    let Some(runtime) = runtime() else { return };
    for variant in variants(&runtime) {
        let folded = if variant == RowVariant::Invocation { FOLDED_ALONE } else { FOLDED };
        rows([SHAPES, folded].into_iter().map(|shapes| {
            row("softmax", shapes, -30.0..30.0, move |x| softmax_with(variant, &x[0]), |x| reference::softmax(&x[0]))
                .tolerance(TOLERANCE)
                .f16(Tolerance::F16)
        }));
        rows([FILLED, folded].into_iter().flat_map(|shapes| {
            [
                row(
                    "log_softmax",
                    shapes,
                    -30.0..30.0,
                    move |x| log_softmax_with(variant, &x[0]),
                    |x| reference::log_softmax(&x[0]),
                )
                .tolerance(LOG)
                .f16(LOG_F16),
                row(
                    "log_sum_exp",
                    shapes,
                    -30.0..30.0,
                    move |x| log_sum_exp_with(variant, &x[0]),
                    |x| reference::log_sum_exp(&x[0]),
                )
                .tolerance(LOG)
                .f16(LOG),
            ]
        }));
    }
}

// Sums over a row of terms of size 1, from exponentials with a few roundings each.
const GRAD: Tolerance = Tolerance { atol: 1e-5, rtol: 2e-5, allowed: 0 };

#[test]
fn gradients_match_differences() {
    const SMALL: &[Shapes] =
        &[&[&[3, 257]], &[&[1, 1]], &[&[7]], &[&[2, 3, 4, 6]], &[&[5, 64]], &[&[9, 100]], &[&[33, 3]], &[&[2, 300]]];
    let Some(runtime) = runtime() else { return };
    for variant in variants(&runtime) {
        rows([
            row("softmax", SMALL, -4.0..4.0, move |x| softmax_with(variant, &x[0]), |x| reference::softmax(&x[0]))
                .grad(&[0], GRAD),
            row(
                "log_softmax",
                SMALL,
                -4.0..4.0,
                move |x| log_softmax_with(variant, &x[0]),
                |x| reference::log_softmax(&x[0]),
            )
            .tolerance(LOG)
            .grad(&[0], GRAD),
        ]);
    }
    const SOFT: &[Shapes] = &[&[&[5, 10], &[5, 10]], &[&[4, 16], &[4, 16]], &[&[1, 1], &[1, 1]], &[&[0, 3], &[0, 3]]];
    rows([
        row("softmax", SMALL, -4.0..4.0, |x| softmax(&x[0]), |x| reference::softmax(&x[0])).grad(&[0], GRAD),
        row("log_sum_exp", SMALL, -4.0..4.0, |x| log_sum_exp(&x[0]), |x| reference::log_sum_exp(&x[0]))
            .grad(&[0], GRAD),
        row(
            "cross_entropy_soft",
            SOFT,
            -2.0..3.0,
            |x| cross_entropy_soft(&x[0], &x[1]),
            |x| reference::cross_entropy_soft(&x[0], &x[1]),
        )
        .grad(&[0, 1], GRAD),
    ]);
    const LABELLED: [&[Shapes]; 6] =
        [&[&[&[1, 1]]], &[&[&[5, 10]]], &[&[&[6, 64]]], &[&[&[3, 2]]], &[&[&[13, 3]]], &[&[&[2, 203]]]];
    for shapes in LABELLED {
        let [n_rows, n] = *shapes[0][0] else { unreachable!("rows of classes") };
        for smoothing in [0.0_f32, 0.1] {
            let classes = labels_of(&runtime, n_rows, n).1;
            rows([row(
                "cross_entropy",
                shapes,
                -4.0..4.0,
                move |x| cross_entropy(&x[0], &labels_of(x[0].runtime(), n_rows, n).0, smoothing),
                move |x| reference::cross_entropy(&x[0], &classes, f64::from(smoothing)),
            )
            .grad(&[0], GRAD)]);
        }
    }
}

#[test]
fn gradients_of_large_logits_stay_finite() {
    let Some(runtime) = runtime() else { return };
    // By hand: the probabilities are sigmoid(1) and sigmoid(1/2), and what is left.
    let x = table(&runtime, &[&[1000.0, 999.0, -1e30, f32::NEG_INFINITY], &[300.0, -300.0, 299.5, 0.0]]);
    let d = table(&runtime, &[&[1.0, -2.0, 0.5, 3.0], &[-0.5, 0.25, 1.5, -1.0]]);
    let s = 1.0 / (1.0 + (-1.0_f64).exp());
    let r = 1.0 / (1.0 + (-0.5_f64).exp());
    let of = |op: &dyn Fn(&Tensor) -> Tensor, d: &Tensor| {
        let leaf = x.require_grad().unwrap();
        download(op(&leaf).backward_with(d).unwrap().of(&leaf).unwrap()).unwrap()
    };
    let close = |got: &[f64], want: &[f64]| {
        compare(got, want, Tolerance { atol: 2e-6, rtol: 2e-6, allowed: 0 }).unwrap();
    };
    let inner = [s - 2.0 * (1.0 - s), -0.5 * r + 1.5 * (1.0 - r)];
    let want = [
        s * (1.0 - inner[0]),
        (1.0 - s) * (-2.0 - inner[0]),
        0.0,
        0.0,
        r * (-0.5 - inner[1]),
        0.0,
        (1.0 - r) * (1.5 - inner[1]),
        0.0,
    ];
    close(&of(&|x| softmax(x).unwrap(), &d), &want);
    let want = [1.0 - 2.5 * s, -2.0 - 2.5 * (1.0 - s), 0.5, 3.0, -0.5 - 0.25 * r, 0.25, 1.5 - 0.25 * (1.0 - r), -1.0];
    close(&of(&|x| log_softmax(x).unwrap(), &d), &want);
    let labels = Tensor::from_slice(&runtime, &[1_u32, 0], &[2]).unwrap();
    let d = d.slice(1, 0..1).unwrap().reshape(&[2]).unwrap();
    let want = [s - 0.025, 1.0 - s - 0.925, -0.025, -0.025, 0.4625 - 0.5 * r, 0.0125, 0.0125 - 0.5 * (1.0 - r), 0.0125];
    close(&of(&|x| cross_entropy(x, &labels, 0.1).unwrap(), &d), &want);
}

/// Uploads `rows` of equal length.
fn table(runtime: &Runtime, rows: &[&[f32]]) -> Tensor {
    Tensor::from_slice(runtime, &rows.concat(), &[rows.len(), rows[0].len()]).unwrap()
}

#[test]
fn large_logits_do_not_overflow() {
    let Some(runtime) = runtime() else { return };
    let rows: &[&[f32]] = &[
        &[1e30, 1e30, -1e30, 1e30, 1e30],
        &[f32::MAX, 0.0, f32::MIN, 0.0, 0.0],
        &[f32::MIN, f32::MIN, f32::MIN, f32::MIN, f32::MIN],
        &[1000.0, 999.0, -1e30, -1e30, -1e30],
        // Infinities as masks.
        &[f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY],
    ];
    let e = std::f64::consts::E;
    let want = [
        [0.25, 0.25, 0.0, 0.25, 0.25],
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.2; 5],
        [e / (e + 1.0), 1.0 / (e + 1.0), 0.0, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.5, 0.0],
    ];
    let x = table(&runtime, rows);
    for variant in variants(&runtime) {
        let out = softmax_with(variant, &x).unwrap();
        compare(&download(&out).unwrap(), want.as_flattened(), TOLERANCE)
            .unwrap_or_else(|message| panic!("{variant:?}: {message}"));
        let lse = download(&log_sum_exp_with(variant, &x).unwrap()).unwrap();
        assert!(
            (lse[3] - 1_000.313_261_687).abs() < 1e-3 && (lse[4] - 3.0 - std::f64::consts::LN_2).abs() < 1e-5,
            "{lse:?}"
        );
    }
    if runtime.profile().features.f16 {
        // 6e4 is close to the largest f16.
        let data = [6e4, 6e4, -6e4, 0.0].map(half::f16::from_f32);
        let out = softmax(&Tensor::from_slice(&runtime, &data, &[1, 4]).unwrap()).unwrap();
        assert_eq!(download(&out).unwrap(), [0.5, 0.5, 0.0, 0.0]);
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn rows_with_nan_or_infinity_come_out_as_nan_and_leave_their_neighbours_alone() {
    let Some(runtime) = runtime() else { return };
    for n in [3_usize, 8, 67, 300] {
        let mut data = vec![0.0_f32; 4 * n];
        data[n + n / 2] = f32::NAN;
        data[3 * n - 1] = f32::INFINITY;
        let x = Tensor::from_slice(&runtime, &data, &[4, n]).unwrap();
        for variant in variants(&runtime) {
            let out = softmax_with(variant, &x).unwrap().to_vec::<f32>().unwrap();
            for (i, row) in out.chunks_exact(n).enumerate() {
                let nan = i == 1 || i == 2;
                let right = |v: &f32| if nan { v.is_nan() } else { (v * n as f32 - 1.0).abs() < 1e-5 };
                assert!(row.iter().all(right), "{variant:?}, n {n}, row {i}: {:?}", &row[..3]);
            }
        }
    }
}

fn labels_of(runtime: &Runtime, n_rows: usize, n: usize) -> (Tensor, Vec<usize>) {
    let labels: Vec<usize> = (0..n_rows).map(|i| (i * 7 + i / 3) % n).collect();
    let words: Vec<u32> = labels.iter().map(|l| *l as u32).collect();
    (Tensor::from_slice(runtime, &words, &[n_rows]).unwrap(), labels)
}

#[test]
fn cross_entropy_matches_the_reference() {
    let Some(runtime) = runtime() else { return };
    for (n_rows, n) in [(1, 1), (5, 10), (64, 1000), (33, 7), (70_001, 3), (2, 50_257)] {
        if n_rows * n > if short() { 200_000 } else { limit() } {
            continue;
        }
        let x = values(&[n_rows, n], &(-20.0..20.0), DType::F16, 3);
        let (labels, classes) = labels_of(&runtime, n_rows, n);
        for dtype in [DType::F32, DType::F16] {
            if dtype == DType::F16 && !runtime.profile().features.f16 {
                continue;
            }
            let logits = upload(&runtime, &x, dtype).unwrap();
            for smoothing in [0.0, 0.1, 1.0] {
                let want = reference::cross_entropy(&x, &classes, smoothing);
                for variant in variants(&runtime).map(Some).chain([None]) {
                    let (loss, lse) = cross_entropy_with(variant, &logits, &labels, smoothing as f32).unwrap();
                    // The plain sum of a row of up to 50,257 logits of 20 is off by a few 2^-24 of their total.
                    let tolerance = Tolerance { atol: 2e-5, rtol: 1e-6, allowed: 0 };
                    compare(&download(&loss).unwrap(), &want.data, tolerance).unwrap_or_else(|message| {
                        panic!("{variant:?} [{n_rows}, {n}] {dtype} smoothing {smoothing}: {message}")
                    });
                    let want = reference::log_sum_exp(&x);
                    compare(&download(&lse).unwrap(), &want.data, LOG).unwrap();
                }
            }
        }
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn labels_past_the_last_class_read_no_stray_memory() {
    let Some(runtime) = runtime() else { return };
    let x = values(&[3, 5], &(-2.0..2.0), DType::F32, 1);
    let logits = upload(&runtime, &x, DType::F32).unwrap();
    let labels = Tensor::from_slice(&runtime, &[4_u32, 5, u32::MAX], &[3]).unwrap();
    let want = reference::cross_entropy(&x, &[4, 4, 4], 0.0);
    for variant in variants(&runtime) {
        let (loss, _) = cross_entropy_with(Some(variant), &logits, &labels, 0.0).unwrap();
        compare(&download(&loss).unwrap(), &want.data, Tolerance::F32).unwrap();
    }
}

#[test]
fn views_of_logits_and_labels_are_read_in_order() {
    let Some(runtime) = runtime() else { return };
    let x = values(&[4, 6], &(-3.0..3.0), DType::F32, 5);
    let logits = upload(&runtime, &x, DType::F32).unwrap().transpose().unwrap();
    let flipped = Array::from_fn(&[6, 4], |i| x.at(&[i[1], i[0]]));
    let labels = Tensor::from_slice(&runtime, &[9_u32, 3, 0, 1, 2, 3, 0], &[7]).unwrap().slice(0, 1..7).unwrap();
    let loss = cross_entropy(&logits, &labels, 0.1).unwrap();
    let want = reference::cross_entropy(&flipped, &[3, 0, 1, 2, 3, 0], 0.1);
    compare(&download(&loss).unwrap(), &want.data, Tolerance::F32).unwrap();
}

#[test]
fn softmax_and_losses_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    let golden = Golden::open();
    for op in ["softmax", "log_softmax", "cross_entropy"] {
        for case in golden.cases(op) {
            let x = upload(&runtime, &case.need("x"), DType::F32).unwrap();
            let out = match op {
                "softmax" => softmax(&x),
                "log_softmax" => log_softmax(&x),
                _ => {
                    let labels = upload(&runtime, &case.need("labels"), DType::U32).unwrap();
                    cross_entropy(&x, &labels, case.params["label_smoothing"].as_f64().unwrap() as f32)
                }
            };
            let outcome = compare(&download(&out.unwrap()).unwrap(), &case.need("out").data, Tolerance::F32);
            outcome.unwrap_or_else(|message| panic!("{}: {message}", case.name));
        }
    }
}

#[test]
fn wrong_losses_are_named() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[3, 5], DType::F32).unwrap();
    let labels = Tensor::zeros(&runtime, &[4], DType::U32).unwrap();
    let fails = |x: &Tensor, labels: &Tensor, smoothing| cross_entropy(x, labels, smoothing).unwrap_err().to_string();
    assert_eq!(fails(&x, &labels, 0.0), "cross_entropy: logits [3, 5] and labels [4] differ in r");
    let labels = Tensor::zeros(&runtime, &[3], DType::U32).unwrap();
    assert_eq!(fails(&x, &labels, 1.5), "cross_entropy: smoothing 1.5 given, 0 to 1 wanted");
    assert!(fails(&x, &labels, f32::NAN).contains("0 to 1 wanted"));
    let floats = Tensor::zeros(&runtime, &[3], DType::F32).unwrap();
    assert_eq!(fails(&x, &floats, 0.0), "cross_entropy: labels are f32, u32 wanted");
    let empty = Tensor::zeros(&runtime, &[3, 0], DType::F32).unwrap();
    assert_eq!(fails(&empty, &labels, 0.0), "cross_entropy: [3, 0] has rows without elements");
    assert!(softmax(&labels).is_err() && softmax(&Tensor::zeros(&runtime, &[], DType::F32).unwrap()).is_err());
}

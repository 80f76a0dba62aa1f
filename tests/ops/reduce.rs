use crate::support::compare::{Tolerance, compare};
use crate::support::golden::Golden;
use crate::support::row::{Row, Shapes, download, row, rows, upload, values};
use crate::support::{runtime, runtime_for};
use leanvision::ops::reduce::{
    ReduceOp, ReduceVariant, argmax, argmin, max, max_all, mean, mean_all, min, min_all, reduce_with, sum, sum_all, var,
};
use leanvision::reference::reduce as reference;
use leanvision::reference::{Array, elementwise::map};
use leanvision::{DType, Tensor};

const OPS: [ReduceOp; 6] = [
    ReduceOp::Sum,
    ReduceOp::Mean,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::Var { unbiased: false },
    ReduceOp::Var { unbiased: true },
];

fn of(op: ReduceOp, values: &[f64]) -> f64 {
    match op {
        ReduceOp::Sum => reference::sum(values),
        ReduceOp::Mean => reference::mean(values),
        ReduceOp::Max => reference::max(values),
        ReduceOp::Min => reference::min(values),
        ReduceOp::Var { unbiased } => reference::var(values, unbiased),
    }
}

// Shape and axes: rows, columns, both, neither; lengths about the vec4, the block of a sum, a part and a workgroup.
const CASES: &[(Shapes, &[usize])] = &[
    (&[&[3, 257]], &[1]),
    (&[&[5, 256]], &[1]),
    (&[&[2, 8192]], &[1]),
    (&[&[1, 70_003]], &[1]),
    (&[&[300, 12]], &[0]),
    (&[&[5000, 3]], &[0]),
    (&[&[9000, 8]], &[0]),
    (&[&[4, 63, 16]], &[1]),
    (&[&[2, 7, 9, 20]], &[1, 2]),
    (&[&[3, 4, 5, 6]], &[0, 2]),
    (&[&[3, 4, 5, 6]], &[1, 3]),
    (&[&[2, 3, 2, 3, 2, 3]], &[0, 2, 4]),
    (&[&[3, 4, 5]], &[0, 1, 2]),
    (&[&[3, 4, 5]], &[2, 0]),
    (&[&[4, 3, 1]], &[2]),
    (&[&[7]], &[0]),
    (&[&[2, 2]], &[]),
    (&[&[70_001, 4]], &[1]),
];
// More results than 16 to a workgroup along one dimension of a grid.
const FOLDED: (Shapes, &[usize]) = (&[&[1_050_000, 4]], &[1]);

/// A row over one case; sums are compared with the size of their terms, `scale`.
fn case(op: ReduceOp, variant: Option<ReduceVariant>, shapes: Shapes, axes: &'static [usize], keep_dims: bool) -> Row {
    let shape = shapes[0];
    let n: usize = axes.iter().map(|axis| shape[*axis]).product();
    // Elements lie in -4..5, so the terms of a sum add up to 2.6 n and their rounding, 2^-24 of each block, to little.
    let atol = match op {
        ReduceOp::Sum => 1e-6 * n as f64,
        _ => 1e-6,
    };
    let tolerance = Tolerance { atol: atol.max(1e-6), rtol: 2e-6, allowed: 0 };
    let f16 = Tolerance { atol: 2e-3 * tolerance.atol / 1e-6, rtol: 1e-3, allowed: 0 };
    let shapes: &'static [Shapes] = Box::leak(Box::new([shapes]));
    let it = row(
        op_name(op),
        shapes,
        -4.0..5.0,
        move |x| reduce_with(variant, op, &x[0], axes, keep_dims),
        move |x| reference::reduce(&x[0], axes, keep_dims, |values| of(op, values)),
    );
    // A sum of 70,003 f16 elements may pass the largest f16.
    let it = if op == ReduceOp::Sum && n > 9000 { it } else { it.f16(f16) };
    it.tolerance(tolerance)
}

fn op_name(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Mean => "mean",
        ReduceOp::Max => "max",
        ReduceOp::Min => "min",
        ReduceOp::Var { unbiased: false } => "var",
        ReduceOp::Var { unbiased: true } => "unbiased var",
    }
}

#[test]
fn reductions_match_the_reference() {
    rows([case(ReduceOp::Sum, None, FOLDED.0, FOLDED.1, false)]);
    for op in OPS {
        rows(CASES.iter().enumerate().map(|(i, (shapes, axes))| case(op, None, shapes, axes, i % 2 == 0)));
    }
}

#[test]
fn every_reduction_variant_matches_the_reference() {
    let Some(runtime) = runtime() else { return };
    for variant in ReduceVariant::ALL {
        if variant == ReduceVariant::Subgroup && !runtime.profile().features.subgroup {
            continue;
        }
        for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min, ReduceOp::Var { unbiased: false }] {
            rows(CASES.iter().map(|(shapes, axes)| case(op, Some(variant), shapes, axes, false)));
        }
        if variant == ReduceVariant::Strided {
            rows([case(ReduceOp::Max, Some(variant), FOLDED.0, FOLDED.1, false)]);
        }
    }
}

#[test]
fn integers_reduce_exactly() {
    const SHAPES: &[Shapes] = &[&[&[3, 257]], &[&[4, 64]], &[&[1, 30_001]]];
    const COLUMNS: &[Shapes] = &[&[&[257, 3]], &[&[300, 8]]];
    for variant in ReduceVariant::ALL.map(Some).into_iter().chain([None]) {
        let Some(runtime) = runtime() else { return };
        if variant == Some(ReduceVariant::Subgroup) && !runtime.profile().features.subgroup {
            continue;
        }
        for (dtype, range) in [(DType::U32, 0.0..70_000.0), (DType::I32, -60_000.0..50_000.0)] {
            for op in [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min] {
                rows([(SHAPES, &[1][..]), (COLUMNS, &[0])].map(|(shapes, axes)| {
                    row(
                        op_name(op),
                        shapes,
                        range.clone(),
                        move |x| reduce_with(variant, op, &x[0], axes, false),
                        move |x| reference::reduce(&x[0], axes, false, |values| of(op, values)),
                    )
                    .dtype(dtype)
                }));
            }
        }
    }
    // Past 24 bits, where floats would round; extremes of the types; sums wrap.
    let Some(runtime) = runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[i32::MIN, 16_777_217, i32::MAX, 2], &[4]).unwrap();
    assert_eq!(max_all(&x).unwrap().item::<i32>().unwrap(), i32::MAX);
    assert_eq!(min_all(&x).unwrap().item::<i32>().unwrap(), i32::MIN);
    assert_eq!(sum_all(&x).unwrap().item::<i32>().unwrap(), 16_777_218);
    let x = Tensor::from_slice(&runtime, &[u32::MAX, 0x7fc0_0001, 3], &[3]).unwrap();
    assert_eq!(max_all(&x).unwrap().item::<u32>().unwrap(), u32::MAX);
    assert_eq!(min_all(&x).unwrap().item::<u32>().unwrap(), 3);
    assert_eq!(sum_all(&x).unwrap().item::<u32>().unwrap(), 0x7fc0_0003);
}

#[test]
fn long_sums_keep_their_digits() {
    let n = 10_000_000;
    let Some(runtime) = runtime_for(n) else { return };
    // About 1; then a constant whose roundings all go one way.
    let near_one: Vec<f32> = (0..n).map(|i| 1.0 + ((i * 7919) % 1000) as f32 / 1000.0 - 0.4995).collect();
    for data in [near_one, vec![0.1; n]] {
        let want: f64 = data.iter().map(|v| f64::from(*v)).sum();
        for length in [n, n - 1] {
            let x = Tensor::from_slice(&runtime, &data, &[n]).unwrap().slice(0, 0..length).unwrap();
            let want = want - data[length..].iter().map(|v| f64::from(*v)).sum::<f64>();
            for variant in [None, Some(ReduceVariant::Strided), Some(ReduceVariant::Group)] {
                let sum = reduce_with(variant, ReduceOp::Sum, &x, &[0], false).unwrap().item::<f32>().unwrap();
                let error = (f64::from(sum) / want - 1.0).abs();
                assert!(error < 1e-6, "{variant:?}: {sum} for {want}, off by {error:e}");
            }
            let mean = mean_all(&x).unwrap().item::<f32>().unwrap();
            assert!((f64::from(mean) * length as f64 / want - 1.0).abs() < 1e-6, "{mean}");
        }
    }
    // Columns of the same length.
    let x = Tensor::from_slice(&runtime, &vec![0.1_f32; 8_000_000], &[1_000_000, 8]).unwrap();
    let sums = sum(&x, &[0], false).unwrap().to_vec::<f32>().unwrap();
    assert!(sums.iter().all(|v| (f64::from(*v) / (1e6 * f64::from(0.1_f32)) - 1.0).abs() < 1e-6), "{sums:?}");
}

#[test]
fn sums_repeat_bit_for_bit() {
    let Some(runtime) = runtime_for(300_001) else { return };
    let x = upload(&runtime, &values(&[300_001], &(-1.0..1.0), DType::F32, 2), DType::F32).unwrap();
    let first = sum_all(&x).unwrap().item::<f32>().unwrap();
    for _ in 0..5 {
        assert_eq!(sum_all(&x).unwrap().item::<f32>().unwrap().to_bits(), first.to_bits());
    }
}

#[test]
fn variance_far_from_zero_keeps_its_digits() {
    let Some(runtime) = runtime() else { return };
    let x = map(&values(&[3, 5000], &(-1.732..1.732), DType::F32, 7), |v| f64::from((v + 1000.0) as f32));
    let tensor = upload(&runtime, &x, DType::F32).unwrap();
    let want = reference::reduce(&x, &[1], false, |values| reference::var(values, true));
    let got = download(&var(&tensor, &[1], true, false).unwrap()).unwrap();
    compare(&got, &want.data, Tolerance { atol: 0.0, rtol: 2e-6, allowed: 0 }).unwrap();
}

const PLACES: &[Shapes] = &[&[&[3, 257]], &[&[1, 70_003]], &[&[1, 1]], &[&[300, 10]], &[&[70_001, 4]]];

#[test]
fn places_of_extremes_match_the_reference() {
    let place = |extreme: fn(&[f64]) -> f64| {
        move |x: &[Array]| reference::reduce(&x[0], &[1], false, move |v| reference::place(v, extreme(v)))
    };
    // Few distinct values, so that most extremes are ties.
    rows([
        row("argmax", PLACES, -9.0..9.0, |x| argmax(&x[0], &[1], false), place(reference::max)).rtol(0.0),
        row("argmin", PLACES, -9.0..9.0, |x| argmin(&x[0], &[1], false), place(reference::min)).rtol(0.0),
        row("argmax ties", PLACES, 0.0..4.0, |x| argmax(&x[0], &[1], false), place(reference::max)).dtype(DType::U32),
        row("argmin ties", PLACES, -4.0..4.0, |x| argmin(&x[0], &[1], false), place(reference::min)).dtype(DType::I32),
        row("argmax f16", &PLACES[..1], -9.0..9.0, |x| argmax(&x[0], &[1], false), place(reference::max))
            .dtype(DType::F16)
            .rtol(0.0),
        row(
            "argmax over several axes",
            &[&[&[3, 4, 5, 6]]],
            0.0..9.0,
            |x| argmax(&x[0], &[3, 1], true),
            |x| reference::reduce(&x[0], &[1, 3], true, |v| reference::place(v, reference::max(v))),
        )
        .dtype(DType::U32),
    ]);
}

#[test]
fn nans_and_infinities_win_and_are_found() {
    let Some(runtime) = runtime() else { return };
    let inf = f32::INFINITY;
    for n in [5_usize, 64, 1001] {
        // A plain row, one with infinities, one with NaNs of either sign.
        let mut data = vec![-1.0_f32; 3 * n];
        (data[n + 1], data[n + 3]) = (inf, -inf);
        (data[2 * n + 2], data[3 * n - 1]) = (f32::NAN, -f32::NAN);
        data[2 * n] = inf;
        let x = Tensor::from_slice(&runtime, &data, &[3, n]).unwrap();
        for view in [x.clone(), x.transpose().unwrap().contiguous().unwrap().transpose().unwrap()] {
            for variant in ReduceVariant::ALL {
                if variant == ReduceVariant::Subgroup && !runtime.profile().features.subgroup {
                    continue;
                }
                let get = |op| reduce_with(Some(variant), op, &view, &[1], false).unwrap().to_vec::<f32>().unwrap();
                let (max, min, sum) = (get(ReduceOp::Max), get(ReduceOp::Min), get(ReduceOp::Sum));
                assert!(max[0] == -1.0 && max[1] == inf && max[2].is_nan(), "{variant:?} max {max:?}");
                assert!(min[0] == -1.0 && min[1] == -inf && min[2].is_nan(), "{variant:?} min {min:?}");
                assert!(sum[0] == -(n as f32) && sum[1].is_nan() && sum[2].is_nan(), "{variant:?} sum {sum:?}");
            }
            assert_eq!(argmax(&view, &[1], false).unwrap().to_vec::<u32>().unwrap(), [0, 1, 2]);
            assert_eq!(argmin(&view, &[1], false).unwrap().to_vec::<u32>().unwrap(), [0, 3, 2]);
        }
    }
    // Columns, by vec4.
    let data: Vec<f32> = (0..32).map(|i| if i == 13 { f32::NAN } else { i as f32 }).collect();
    let x = Tensor::from_slice(&runtime, &data, &[4, 8]).unwrap();
    let top = max(&x, &[0], false).unwrap().to_vec::<f32>().unwrap();
    assert!(top[5].is_nan() && top[4] == 28.0 && top[7] == 31.0, "{top:?}");
    let low = min(&x, &[0], false).unwrap().to_vec::<f32>().unwrap();
    assert!(low[5].is_nan() && low[4] == 4.0, "{low:?}");
}

#[test]
fn reductions_of_nothing_follow_numpy() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[3, 0], DType::F32).unwrap();
    assert_eq!(sum(&x, &[1], false).unwrap().to_vec::<f32>().unwrap(), [0.0; 3]);
    assert_eq!(sum(&x, &[0], false).unwrap().shape(), [0]);
    assert!(mean(&x, &[1], false).unwrap().to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()));
    assert_eq!(max(&x, &[1], false).unwrap_err().to_string(), "max: axes [1] of [3, 0] hold no element");
    assert!(argmin(&x, &[0, 1], false).is_err() && max(&x, &[0], true).unwrap().shape() == [1, 0]);
    let one = Tensor::zeros(&runtime, &[3, 1], DType::F32).unwrap();
    assert!(var(&one, &[1], true, false).unwrap().to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()));
    assert_eq!(var(&one, &[1], false, false).unwrap().to_vec::<f32>().unwrap(), [0.0; 3]);
    // Without axes each element is its own sum.
    let scalar = Tensor::scalar(&runtime, 2.5_f32).unwrap();
    assert_eq!(sum_all(&scalar).unwrap().item::<f32>().unwrap(), 2.5);
}

#[test]
fn broadcast_axes_count_as_often_as_they_repeat() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[1.0_f32, 2.0, 3.0, 4.0], &[4]).unwrap().broadcast_to(&[5, 4]).unwrap();
    assert_eq!(sum_all(&x).unwrap().item::<f32>().unwrap(), 50.0);
    assert_eq!(sum(&x, &[0], false).unwrap().to_vec::<f32>().unwrap(), [5.0, 10.0, 15.0, 20.0]);
    assert_eq!(sum(&x, &[1], false).unwrap().to_vec::<f32>().unwrap(), [10.0; 5]);
}

#[test]
fn variances_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    for case in Golden::open().cases("var") {
        let x = upload(&runtime, &case.need("x"), DType::F32).unwrap();
        let out = var(&x, &[1], case.params["correction"] == 1, false).unwrap();
        compare(&download(&out).unwrap(), &case.need("out").data, Tolerance::F32)
            .unwrap_or_else(|message| panic!("{}: {message}", case.name));
    }
    for case in Golden::open().cases("mean") {
        let x = upload(&runtime, &case.need("x"), DType::F32).unwrap();
        let out = mean(&x, &[2, 3], false).unwrap();
        compare(&download(&out).unwrap(), &case.need("out").data, Tolerance::F32).unwrap();
    }
}

#[test]
fn wrong_axes_and_types_are_named() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::zeros(&runtime, &[2, 3], DType::U32).unwrap();
    let error = sum(&x, &[2], false).unwrap_err().to_string();
    assert_eq!(error, "sum: axes [2] given for [2, 3], each at most once wanted");
    assert!(sum(&x, &[0, 0], false).is_err() && mean(&x, &[0], false).is_err() && var(&x, &[0], false, false).is_err());
    let bytes = Tensor::zeros(&runtime, &[4], DType::U8).unwrap();
    assert_eq!(sum_all(&bytes).unwrap_err().to_string(), "sum: u8 given, f32, f16, u32 or i32 wanted");
}

#[test]
fn gradients_match_differences() {
    const SMALL: &[(Shapes, &[usize])] = &[
        (&[&[3, 57]], &[1]),
        (&[&[30, 12]], &[0]),
        (&[&[2, 7, 9, 4]], &[1, 2]),
        (&[&[3, 4, 5, 6]], &[1, 3]),
        (&[&[3, 4, 5]], &[2, 0]),
        (&[&[2, 2]], &[]),
    ];
    let with_grad = |op, (shapes, axes): (Shapes, &'static [usize]), keep_dims| {
        case(op, None, shapes, axes, keep_dims).grad(&[0], Tolerance::F32)
    };
    let ops = [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min, ReduceOp::Var { unbiased: false }];
    rows(ops.into_iter().flat_map(|op| SMALL.iter().map(move |&c| with_grad(op, c, c.1.len() == 1))));
    let unbiased = |&c: &(Shapes, &'static [usize])| with_grad(ReduceOp::Var { unbiased: true }, c, true);
    rows(SMALL.iter().filter(|(_, axes)| !axes.is_empty()).map(unbiased));
}

#[test]
fn equal_extremes_share_the_gradient() {
    let Some(runtime) = runtime() else { return };
    let x = Tensor::from_slice(&runtime, &[1.0_f32, 5.0, 5.0, 2.0], &[4]).unwrap().require_grad().unwrap();
    let gradients = max(&x, &[0], false).unwrap().backward().unwrap();
    assert_eq!(gradients.of(&x).unwrap().to_vec::<f32>().unwrap(), [0.0, 0.5, 0.5, 0.0]);
}

#[test]
fn places_at_the_end_of_long_rows_are_found() {
    // So many rows that each is one invocation's, so long that a software adapter cuts a loop over one short.
    let n = 70_001;
    let Some(runtime) = runtime_for(300 * n) else { return };
    let mut data = vec![0.0_f32; n];
    data[n - 1] = 1.0;
    let x = Tensor::from_slice(&runtime, &data, &[1, n]).unwrap().broadcast_to(&[300, n]).unwrap();
    assert_eq!(argmax(&x, &[1], false).unwrap().to_vec::<u32>().unwrap(), vec![n as u32 - 1; 300]);
}

//! Gradients of convolutions, each variant against sums in f64, and the op against differences.

use crate::support::compare::{Tolerance, compare};
use crate::support::row::{Row, Shapes, download, row, rows, upload, values};
use crate::support::{TestRuntime, runtime, runtime_for, runtimes, short};
use leanvision::ops::Act;
use leanvision::ops::conv::{
    Conv2d, InputVariant, WeightVariant, conv2d, conv2d_residual, conv2d_with, input_gradient, input_gradient_with,
    weight_gradient, weight_gradient_with,
};
use leanvision::ops::elementwise::mul;
use leanvision::reference::Array;
use leanvision::reference::conv as reference;
use leanvision::reference::elementwise::{act, map, zip};
use leanvision::{DType, Error, Result, Tensor};

const PLAIN: Conv2d = Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
const SAME: Conv2d = Conv2d { padding: [1, 1], ..PLAIN };
const HALF: Conv2d = Conv2d { stride: [2, 2], ..SAME };

/// `d_x` and `d_w`: what each product of the convolution adds to them.
fn direct(x: &Array, w: &Array, d: &Array, conv: &Conv2d) -> (Array, Array) {
    let (mut d_x, mut d_w) = (map(x, |_| 0.0), map(w, |_| 0.0));
    let (&[n, h, width, ci], &[kh, kw, ci_group, co]) = (&x.shape[..], &w.shape[..]) else { panic!("four axes") };
    let (ho, wo) = (d.shape[1], d.shape[2]);
    for (i, &value) in d.data.iter().enumerate() {
        let (o, at) = (i % co, i / co);
        let (image, y, left) = (at / wo / ho, at / wo % ho, at % wo);
        assert!(image < n);
        for (r, s) in (0..kh).flat_map(|r| (0..kw).map(move |s| (r, s))) {
            let row = (y * conv.stride[0] + r * conv.dilation[0]).checked_sub(conv.padding[0]);
            let column = (left * conv.stride[1] + s * conv.dilation[1]).checked_sub(conv.padding[1]);
            let (Some(row), Some(column)) = (row.filter(|v| *v < h), column.filter(|v| *v < width)) else { continue };
            let from = ((image * h + row) * width + column) * ci + o / (co / conv.groups) * ci_group;
            let weight = (r * kw + s) * ci_group * co + o;
            for c in 0..ci_group {
                d_x.data[from + c] += value * w.data[weight + c * co];
                d_w.data[weight + c * co] += value * x.data[from + c];
            }
        }
    }
    (d_x, d_w)
}

type Shape = [usize; 4];

/// Operands of a convolution, on the device and off it.
struct Setting {
    arrays: [Array; 3],
    tensors: [Tensor; 3],
    conv: Conv2d,
}

fn setting(runtime: &TestRuntime, x: Shape, w: Shape, conv: Conv2d, dtype: DType) -> Setting {
    let [ho, wo] = conv.out_size([x[1], x[2]], [w[0], w[1]]).unwrap();
    let shapes: [&[usize]; 3] = [&x, &w, &[x[0], ho, wo, w[3]]];
    let mut seed = 100;
    let arrays = shapes.map(|shape| {
        seed += 1;
        values(shape, &(-1.0..1.0), dtype, seed)
    });
    let tensors = arrays.each_ref().map(|array| upload(runtime, array, dtype).unwrap());
    Setting { arrays, tensors, conv }
}

impl Setting {
    /// Every variant that takes the shape, by name.
    fn input_gradients(&self) -> Vec<(String, Result<Tensor>)> {
        let [x, w, d] = &self.tensors;
        let shape = x.shape().try_into().unwrap();
        let by = |variant| {
            let out = input_gradient_with(variant, d, w, shape, &self.conv);
            (!matches!(out, Err(Error::Feature { .. }))).then(|| (format!("d_x by {variant:?}"), out))
        };
        [InputVariant::Plain, InputVariant::Forward].into_iter().filter_map(by).collect()
    }

    fn weight_gradients(&self) -> Vec<(String, Result<Tensor>)> {
        let [x, w, d] = &self.tensors;
        let by = |variant: &WeightVariant| {
            let out = weight_gradient_with(*variant, x, d, [w.shape()[0], w.shape()[1]], &self.conv);
            (!matches!(out, Err(Error::Feature { .. }))).then(|| (format!("d_w by {variant:?}"), out))
        };
        WeightVariant::ALL.iter().filter_map(by).collect()
    }

    fn check(&self, tolerance: Tolerance, failures: &mut Vec<String>) {
        let [x, w, d] = &self.arrays;
        let (d_x, d_w) = direct(x, w, d, &self.conv);
        let given = format!("{} {:?} {:?} {:?}", self.tensors[0].dtype(), x.shape, w.shape, self.conv);
        let (inputs, weights) = (self.input_gradients(), self.weight_gradients());
        for (want, outs) in [(&d_x, inputs), (&d_w, weights)] {
            for (name, out) in outs {
                let outcome = out.map_err(|e| e.to_string()).and_then(|out| {
                    assert_eq!(out.shape(), want.shape, "{name}");
                    assert_eq!(out.dtype(), self.tensors[0].dtype(), "{name}");
                    compare(&download(&out).unwrap(), &want.data, tolerance)
                });
                failures.extend(outcome.err().map(|message| format!("{name}, {given}: {message}")));
            }
        }
    }
}

fn check(runtime: &TestRuntime, cases: &[(Shape, Shape, Conv2d)]) {
    let mut failures = Vec::new();
    for &(x, w, conv) in cases {
        if !runtime.takes(x.iter().product::<usize>() + w.iter().product::<usize>()) {
            continue;
        }
        // Sums of up to 2,048 products of numbers below 1: rounding adds up to some 1e-5 of their root, 45.
        let tolerance = Tolerance { atol: 1e-4, rtol: 1e-4, allowed: 0 };
        setting(runtime, x, w, conv, DType::F32).check(tolerance, &mut failures);
        if runtime.profile().features.f16 {
            setting(runtime, x, w, conv, DType::F16).check(Tolerance::F16, &mut failures);
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn gradients_of_every_variant_are_the_direct_sums() {
    let cases: &[(Shape, Shape, Conv2d)] = &[
        ([8, 16, 16, 16], [3, 3, 16, 32], SAME),
        ([8, 16, 16, 16], [3, 3, 16, 32], HALF),
        ([2, 7, 6, 3], [3, 3, 3, 4], SAME),
        ([2, 7, 6, 3], [3, 3, 3, 4], PLAIN),
        ([3, 9, 13, 8], [3, 3, 8, 20], SAME),
        ([1, 3, 67, 4], [3, 3, 4, 8], SAME),
        ([1, 11, 7, 5], [3, 3, 5, 7], SAME),
        ([1, 1, 1, 1], [3, 3, 1, 1], SAME),
        ([2, 5, 5, 12], [3, 3, 12, 68], SAME),
        ([2, 9, 16, 12], [3, 3, 12, 20], SAME),
        ([2, 5, 10, 6], [3, 3, 6, 4], PLAIN),
        ([2, 9, 15, 20], [3, 3, 20, 36], HALF),
        ([1, 9, 17, 16], [3, 3, 8, 24], Conv2d { groups: 2, stride: [1, 2], padding: [2, 0], ..PLAIN }),
        ([2, 10, 12, 8], [3, 3, 8, 4], Conv2d { stride: [3, 1], padding: [0, 1], ..PLAIN }),
        // Strides; pixels that no window reaches.
        ([2, 9, 8, 3], [3, 3, 3, 8], HALF),
        ([2, 8, 9, 4], [3, 3, 4, 8], Conv2d { padding: [0, 0], ..HALF }),
        ([1, 9, 9, 6], [2, 2, 6, 5], Conv2d { stride: [2, 2], ..PLAIN }),
        ([2, 10, 11, 3], [7, 7, 3, 16], Conv2d { padding: [3, 3], ..HALF }),
        ([1, 11, 12, 4], [3, 3, 4, 8], Conv2d { stride: [3, 3], ..SAME }),
        ([1, 9, 14, 4], [5, 3, 4, 12], Conv2d { stride: [1, 3], padding: [2, 0], ..PLAIN }),
        ([1, 9, 14, 4], [3, 5, 4, 12], Conv2d { stride: [2, 1], padding: [0, 3], ..PLAIN }),
        ([1, 9, 14, 4], [4, 3, 4, 12], Conv2d { stride: [1, 2], ..PLAIN }),
        ([2, 8, 12, 3], [4, 4, 3, 20], Conv2d { stride: [4, 4], ..PLAIN }),
        ([1, 1, 9, 4], [1, 3, 4, 4], Conv2d { stride: [2, 2], ..PLAIN }),
        // Dilation, also of strided windows, whose taps then reach the pixels of one remainder only.
        ([2, 11, 10, 4], [3, 3, 4, 8], Conv2d { padding: [2, 2], dilation: [2, 2], ..PLAIN }),
        ([2, 11, 10, 4], [3, 3, 4, 8], Conv2d { padding: [2, 2], dilation: [2, 2], ..HALF }),
        ([2, 11, 10, 4], [3, 3, 4, 8], Conv2d { dilation: [2, 3], ..HALF }),
        ([2, 12, 14, 4], [4, 4, 4, 8], Conv2d { padding: [2, 5], dilation: [3, 3], ..HALF }),
        // Padding past what the window reaches.
        ([1, 5, 6, 4], [3, 3, 4, 8], Conv2d { padding: [3, 5], ..PLAIN }),
        ([1, 5, 6, 4], [3, 3, 4, 8], Conv2d { padding: [4, 3], ..HALF }),
        // 1 x 1.
        ([2, 5, 7, 16], [1, 1, 16, 24], PLAIN),
        ([1, 4, 3, 5], [1, 1, 5, 7], PLAIN),
        ([2, 7, 8, 8], [1, 1, 8, 12], Conv2d { stride: [2, 2], ..PLAIN }),
        ([2, 7, 8, 6], [1, 1, 6, 3], Conv2d { stride: [3, 2], ..PLAIN }),
        ([1, 5, 4, 8], [1, 1, 8, 4], SAME),
        ([1, 5, 4, 8], [1, 1, 8, 4], HALF),
        // Groups.
        ([2, 5, 4, 6], [3, 3, 3, 4], Conv2d { groups: 2, ..SAME }),
        ([1, 9, 10, 16], [3, 3, 8, 40], Conv2d { groups: 2, ..SAME }),
        ([2, 7, 7, 8], [3, 3, 4, 24], Conv2d { groups: 2, ..HALF }),
        ([2, 6, 6, 12], [3, 3, 1, 12], Conv2d { groups: 12, ..SAME }),
        ([1, 9, 17, 12], [3, 3, 1, 12], Conv2d { groups: 12, ..HALF }),
        ([1, 8, 7, 12], [5, 4, 1, 12], Conv2d { groups: 12, padding: [2, 1], ..PLAIN }),
        ([1, 8, 7, 12], [3, 3, 1, 24], Conv2d { groups: 12, ..SAME }),
        ([1, 8, 9, 12], [3, 3, 1, 12], Conv2d { groups: 12, dilation: [2, 1], padding: [2, 2], ..PLAIN }),
        ([2, 6, 6, 5], [3, 3, 1, 5], Conv2d { groups: 5, ..SAME }),
        ([1, 5, 5, 5], [3, 3, 1, 10], Conv2d { groups: 5, ..HALF }),
        // Nothing to sum, or nothing to give.
        ([0, 4, 4, 4], [3, 3, 4, 8], SAME),
        ([2, 4, 4, 4], [3, 3, 4, 0], SAME),
        ([2, 4, 4, 0], [3, 3, 0, 5], HALF),
    ];
    for runtime in runtimes() {
        check(&runtime, cases);
    }
}

#[test]
fn long_sums_are_split_and_large_grids_folded() {
    // 4.2 million pixels: more than rounds of a loop, and more than 65,535 workgroups of 64.
    let Some(runtime) = runtime_for(4_000_000).filter(|_| !short()) else { return };
    let setting = setting(&runtime, [1, 2063, 2039, 1], [1, 1, 1, 4], SAME, DType::F32);
    let [x, w, d] = &setting.arrays;
    let (d_x, d_w) = direct(x, w, d, &setting.conv);
    for (name, out) in setting.input_gradients() {
        compare(&download(&out.unwrap()).unwrap(), &d_x.data, Tolerance::F32).unwrap_or_else(|m| panic!("{name}: {m}"));
    }
    for (name, out) in setting.weight_gradients() {
        // About 700 after adding 4.2 million products of 1/3, in parts of up to 131,072: each keeps 2^-24 of some 200.
        let tolerance = Tolerance { atol: 2e-2, rtol: 1e-4, allowed: 0 };
        compare(&download(&out.unwrap()).unwrap(), &d_w.data, tolerance).unwrap_or_else(|m| panic!("{name}: {m}"));
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn padding_meets_no_infinity_of_the_border() {
    let Some(runtime) = runtime() else { return };
    for (ci, co) in [(4, 8), (3, 5)] {
        let mut setting = setting(&runtime, [1, 5, 9, ci], [3, 3, ci, co], SAME, DType::F32);
        // A pixel of the corner, where clamped positions would end: it reaches four taps only.
        setting.arrays[0].data[1] = f64::INFINITY;
        setting.tensors[0] = upload(&runtime, &setting.arrays[0], DType::F32).unwrap();
        let mut failures = Vec::new();
        setting.check(Tolerance::F32, &mut failures);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

const SUMS: Tolerance = Tolerance { atol: 3e-5, rtol: 1e-4, allowed: 0 };

fn with_bias(name: &'static str, cases: &'static [Shapes], conv: Conv2d) -> Row {
    let op = move |x: &[Tensor]| conv2d(&x[0], &x[1], Some(&x[2]), &conv, Act::None);
    row(name, cases, -1.0..1.0, op, move |x| reference::conv2d(&x[0], &x[1], Some(&x[2]), &conv))
        .tolerance(SUMS)
        .grad(&[0, 1, 2], SUMS)
}

#[test]
fn gradients_match_differences() {
    const DENSE: &[Shapes] = &[
        &[&[2, 5, 6, 4], &[3, 3, 4, 8], &[8]],
        &[&[1, 6, 5, 3], &[3, 3, 3, 5], &[5]],
        &[&[0, 4, 4, 4], &[3, 3, 4, 8], &[8]],
    ];
    const POINTWISE: &[Shapes] = &[&[&[2, 4, 5, 4], &[1, 1, 4, 8], &[8]]];
    const DEPTHWISE: &[Shapes] = &[&[&[1, 6, 7, 12], &[3, 3, 1, 12], &[12]]];
    rows([
        with_bias("3x3", DENSE, SAME),
        with_bias("valid", DENSE, PLAIN),
        with_bias("stride 2", DENSE, HALF),
        with_bias("stride 3", DENSE, Conv2d { stride: [3, 3], ..SAME }),
        with_bias("1x1", POINTWISE, PLAIN),
        with_bias("1x1 stride 2", POINTWISE, Conv2d { stride: [2, 2], ..PLAIN }),
        with_bias("depthwise", DEPTHWISE, Conv2d { groups: 12, ..SAME }),
        with_bias("depthwise stride 2", DEPTHWISE, Conv2d { groups: 12, ..HALF }),
    ]);
}

#[test]
fn gradients_of_bias_residual_and_activation_match_differences() {
    const CASES: &[Shapes] = &[&[&[1, 4, 5, 4], &[3, 3, 4, 8], &[8], &[1, 4, 5, 8]]];
    let fused = |kind: Act| {
        row(
            format!("{kind:?}").leak(),
            CASES,
            -1.0..1.0,
            move |x| conv2d_residual(&x[0], &x[1], Some(&x[2]), &x[3], &SAME, kind),
            move |x| zip(&reference::conv2d(&x[0], &x[1], Some(&x[2]), &SAME), &x[3], |a, b| act(kind, a + b)),
        )
        .tolerance(SUMS)
        .grad(&[0, 1, 2, 3], SUMS)
    };
    // A derivative is no difference where a kink lies between: none of these inputs has one within 1e-5.
    rows([Act::None, Act::Relu, Act::Gelu, Act::Tanh, Act::Silu].map(fused));
    rows([row(
        "without bias",
        CASES,
        -1.0..1.0,
        |x| conv2d_residual(&x[0], &x[1], None, &x[3], &SAME, Act::Sigmoid),
        |x| zip(&reference::conv2d(&x[0], &x[1], None, &SAME), &x[3], |a, b| act(Act::Sigmoid, a + b)),
    )
    .tolerance(SUMS)
    .grad(&[0, 1, 3], SUMS)]);
}

#[test]
fn gradients_of_chained_convolutions_have_the_same_bits_each_time() {
    let Some(runtime) = runtime() else { return };
    let Setting { tensors: [x, w, d], conv, .. } = setting(&runtime, [4, 16, 16, 16], [3, 3, 16, 16], SAME, DType::F32);
    let once = || {
        let (x, w) = (x.require_grad().unwrap(), w.require_grad().unwrap());
        let inner = conv2d(&x, &w, None, &conv, Act::Relu).unwrap();
        let out = mul(&conv2d_residual(&inner, &w, None, &x, &conv, Act::Relu).unwrap(), &inner).unwrap();
        let mut gradients = out.backward_with(&d).unwrap();
        [&x, &w].map(|leaf| gradients.take(leaf).unwrap().to_vec::<f32>().unwrap())
    };
    assert_eq!(once(), once());
}

#[test]
fn wrong_gradients_are_refused() {
    let Some(runtime) = runtime() else { return };
    let Setting { tensors: [x, w, d], conv, .. } = setting(&runtime, [1, 5, 5, 6], [3, 3, 6, 7], SAME, DType::F32);
    let by = |variant| weight_gradient_with(variant, &x, &d, [3, 3], &conv);
    assert!(matches!(by(WeightVariant::Subgroup), Err(Error::Feature { .. })));
    assert!(matches!(by(WeightVariant::Depthwise), Err(Error::Feature { .. })));
    assert!(matches!(by(WeightVariant::Matmul), Err(Error::Feature { .. })));
    let other = input_gradient_with(InputVariant::Plain, &d, &w, [1, 6, 5, 6], &conv);
    assert!(matches!(other, Err(Error::Shape { .. })));
    assert!(matches!(weight_gradient_with(WeightVariant::Plain, &x, &d, [2, 3], &conv), Err(Error::Shape { .. })));
    let strided = Conv2d { stride: [3, 3], ..SAME };
    let d = Tensor::zeros(&runtime, &[1, 2, 2, 7], DType::F32).unwrap();
    let by_forward = input_gradient_with(InputVariant::Forward, &d, &w, [1, 5, 5, 6], &strided);
    assert!(matches!(by_forward, Err(Error::Feature { .. })));
    let whole = Tensor::zeros(&runtime, d.shape(), DType::U32).unwrap();
    assert!(matches!(input_gradient(&whole, &w, [1, 5, 5, 6], &strided), Err(Error::DType { .. })));
    assert!(matches!(weight_gradient(&x, &whole, [3, 3], &strided), Err(Error::DType { .. })));
    let leaf = x.require_grad().unwrap();
    let variant = leanvision::ops::conv::Variant::Plain;
    let error = conv2d_with(variant, &leaf, &w, None, None, &conv, Act::None).unwrap_err();
    assert!(error.to_string().contains("no gradient flows"), "{error}");
}

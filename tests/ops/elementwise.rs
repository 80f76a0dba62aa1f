use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows, upload};
use leanvision::ops::{Act, elementwise as e};
use leanvision::reference::elementwise::{act, erf, map, zip};
use leanvision::{DType, Result, Tensor};

const ONE: &[Shapes] =
    &[&[&[3, 257]], &[&[]], &[&[1]], &[&[0, 3]], &[&[63]], &[&[64, 4]], &[&[65, 2, 3]], &[&[4_300_003]]];
const SMALL: &[Shapes] = &[&[&[3, 257]], &[&[1]], &[&[65, 2, 3]]];
const TWO: &[Shapes] = &[
    &[&[3, 257], &[3, 257]],
    &[&[], &[]],
    &[&[0], &[0]],
    &[&[5, 8], &[8]],
    &[&[8], &[5, 8]],
    &[&[5, 7], &[7]],
    &[&[4, 1], &[1, 3]],
    &[&[2, 3, 4, 5], &[3, 1, 5]],
    &[&[2, 1, 4, 1, 3], &[3, 1, 5, 1]],
    &[&[6, 4, 8], &[1]],
    &[&[70_001, 61], &[61]],
];

fn unary(name: &'static str, range: std::ops::Range<f64>, f: fn(&Tensor) -> Result<Tensor>, g: fn(f64) -> f64) -> Row {
    row(name, SMALL, range, move |x| f(&x[0]), move |x| map(&x[0], g)).f16(Tolerance::F16)
}

#[test]
fn unary_ops_match_the_reference() {
    // WGSL grants exp and log a few units more than rounding; 1e-5 + 1e-4 |ref| covers them in these ranges. Sine and
    // cosine are the shader's own.
    const TURN: Tolerance = Tolerance { atol: 1e-6, rtol: 0.0, allowed: 0 };
    rows([
        row("neg", ONE, -9.0..9.0, |x| e::neg(&x[0]), |x| map(&x[0], |v| -v)).rtol(0.0).f16(Tolerance::F16),
        unary("abs", -9.0..9.0, e::abs, f64::abs).rtol(0.0),
        unary("exp", -8.0..4.0, e::exp, f64::exp),
        unary("log", 1e-3..50.0, e::log, f64::ln),
        unary("sqrt", 0.0..50.0, e::sqrt, f64::sqrt),
        unary("rsqrt", 0.01..50.0, e::rsqrt, |v| 1.0 / v.sqrt()),
        unary("square", -9.0..9.0, e::square, |v| v * v).rtol(1e-6),
        unary("recip", 0.1..50.0, e::recip, f64::recip).rtol(1e-6),
        unary("sin", -3.0..3.0, e::sin, f64::sin).tolerance(TURN),
        unary("cos", -3.0..3.0, e::cos, f64::cos).tolerance(TURN),
        row("sin", SMALL, -1e4..1e4, |x| e::sin(&x[0]), |x| map(&x[0], f64::sin)).tolerance(TURN),
        row("cos", SMALL, -1e4..1e4, |x| e::cos(&x[0]), |x| map(&x[0], f64::cos)).tolerance(TURN),
        unary("floor", -9.0..9.0, e::floor, f64::floor).rtol(0.0),
        unary("ceil", -9.0..9.0, e::ceil, f64::ceil).rtol(0.0),
        unary("round", -9.0..9.0, e::round, f64::round_ties_even).rtol(0.0).special(&[0.5, 1.5, 2.5, -0.5, -1.5]),
        unary("sign", -9.0..9.0, e::sign, |v| if v == 0.0 { 0.0 } else { v.signum() }).rtol(0.0).special(&[0.0]),
        unary("erf", -5.0..5.0, e::erf, erf),
        unary("softplus", -30.0..30.0, e::softplus, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
        row("affine", SMALL, -9.0..9.0, |x| e::affine(&x[0], 2.5, -1.0), |x| map(&x[0], |v| 2.5 * v - 1.0)).rtol(1e-6),
        row("clamp", SMALL, -9.0..9.0, |x| e::clamp(&x[0], -1.0, 2.0), |x| map(&x[0], |v| v.clamp(-1.0, 2.0))),
        row(
            "leaky_relu",
            SMALL,
            -9.0..9.0,
            |x| e::leaky_relu(&x[0], 0.1),
            |x| map(&x[0], |v| if v < 0.0 { 0.1 * v } else { v }),
        ),
    ]);
}

#[test]
fn activations_match_the_reference() {
    let acts = [
        Act::None,
        Act::Relu,
        Act::Relu6,
        Act::Gelu,
        Act::GeluTanh,
        Act::Silu,
        Act::Sigmoid,
        Act::Tanh,
        Act::Hardswish,
    ];
    rows(acts.map(|kind| {
        row("activate", SMALL, -12.0..12.0, move |x| e::activate(&x[0], kind), move |x| map(&x[0], |v| act(kind, v)))
            .f16(Tolerance::F16)
            .special(&[0.0, 90.0, -90.0, 1e4, -1e4, 1e-30, -1e-30])
    }));
}

#[test]
fn infinities_and_nans_pass_through() {
    const SPECIAL: &[f64] = &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 3e38];
    rows([
        row("abs", SMALL, -9.0..9.0, |x| e::abs(&x[0]), |x| map(&x[0], f64::abs)).special(SPECIAL),
        row("affine", SMALL, -9.0..9.0, |x| e::affine(&x[0], -0.5, 1.0), |x| map(&x[0], |v| 1.0 - 0.5 * v))
            .special(SPECIAL),
    ]);
}

#[test]
fn binary_ops_match_the_reference() {
    let pair = |name, f: fn(&Tensor, &Tensor) -> Result<Tensor>, g: fn(f64, f64) -> f64| {
        row(name, TWO, 0.5..9.0, move |x| f(&x[0], &x[1]), move |x| zip(&x[0], &x[1], g)).f16(Tolerance::F16)
    };
    let whole = |name, dtype, f: fn(&Tensor, &Tensor) -> Result<Tensor>, g: fn(f64, f64) -> f64| {
        row(name, &TWO[..9], 1.0..1000.0, move |x| f(&x[0], &x[1]), move |x| zip(&x[0], &x[1], g)).dtype(dtype)
    };
    rows([
        pair("add", e::add, |a, b| a + b).rtol(1e-6),
        pair("sub", e::sub, |a, b| a - b).rtol(1e-6),
        pair("mul", e::mul, |a, b| a * b).rtol(1e-6),
        pair("div", e::div, |a, b| a / b).rtol(1e-6),
        pair("maximum", e::maximum, f64::max).rtol(0.0),
        pair("minimum", e::minimum, f64::min).rtol(0.0),
        // A smaller range, so that f16 holds the results.
        row("pow", TWO, 0.5..3.0, |x| e::pow(&x[0], &x[1]), |x| zip(&x[0], &x[1], f64::powf)).f16(Tolerance::F16),
        whole("add", DType::U32, e::add, |a, b| a + b),
        whole("sub", DType::I32, e::sub, |a, b| a - b),
        whole("mul", DType::U32, e::mul, |a, b| a * b),
        whole("div", DType::I32, e::div, |a, b| (a / b).trunc()),
        whole("maximum", DType::I32, e::maximum, f64::max),
        pair("add_act relu", |a, b| e::add_act(a, b, Act::Relu), |a, b| (a + b).max(0.0)),
        row(
            "add_act gelu",
            TWO,
            -4.0..4.0,
            |x| e::add_act(&x[0], &x[1], Act::Gelu),
            |x| zip(&x[0], &x[1], |a, b| act(Act::Gelu, a + b)),
        )
        .f16(Tolerance::F16),
    ]);
}

/// Within what the kernels' own functions are off by: 1e-5 + 1e-4 |d|, as forward.
const GRAD: Tolerance = Tolerance::F32;

#[test]
fn unary_gradients_match_differences() {
    let unary = |name, range, f: fn(&Tensor) -> Result<Tensor>, g: fn(f64) -> f64| {
        row(name, SMALL, range, move |x| f(&x[0]), move |x| map(&x[0], g)).grad(&[0], GRAD)
    };
    let acts = [Act::Relu, Act::Relu6, Act::Gelu, Act::GeluTanh, Act::Silu, Act::Sigmoid, Act::Tanh, Act::Hardswish];
    let acts = acts.map(|kind| {
        row("activate", SMALL, -9.0..9.0, move |x| e::activate(&x[0], kind), move |x| map(&x[0], |v| act(kind, v)))
            .grad(&[0], GRAD)
    });
    rows(
        [
            unary("neg", -9.0..9.0, e::neg, |v| -v),
            unary("abs", -9.0..9.0, e::abs, f64::abs),
            unary("exp", -8.0..4.0, e::exp, f64::exp),
            unary("log", 0.1..50.0, e::log, f64::ln),
            unary("sqrt", 0.1..50.0, e::sqrt, f64::sqrt),
            unary("rsqrt", 0.1..50.0, e::rsqrt, |v| 1.0 / v.sqrt()),
            unary("square", -9.0..9.0, e::square, |v| v * v),
            unary("recip", 0.1..50.0, e::recip, f64::recip),
            unary("sin", -3.0..3.0, e::sin, f64::sin),
            unary("cos", -3.0..3.0, e::cos, f64::cos),
            unary("erf", -5.0..5.0, e::erf, erf),
            unary("softplus", -30.0..30.0, e::softplus, |v| v.max(0.0) + (-v.abs()).exp().ln_1p()),
            unary("affine", -9.0..9.0, |x| e::affine(x, 2.5, -1.0), |v| 2.5 * v - 1.0),
            unary("clamp", -9.0..9.0, |x| e::clamp(x, -1.0, 2.0), |v| v.clamp(-1.0, 2.0)),
            unary("leaky_relu", -9.0..9.0, |x| e::leaky_relu(x, 0.1), |v| if v < 0.0 { 0.1 * v } else { v }),
        ]
        .into_iter()
        .chain(acts),
    );
}

#[test]
fn binary_gradients_match_differences() {
    let pair = |name, f: fn(&Tensor, &Tensor) -> Result<Tensor>, g: fn(f64, f64) -> f64| {
        row(name, TWO, 0.5..3.0, move |x| f(&x[0], &x[1]), move |x| zip(&x[0], &x[1], g)).grad(&[0, 1], GRAD)
    };
    rows([
        pair("add", e::add, |a, b| a + b),
        pair("sub", e::sub, |a, b| a - b),
        pair("mul", e::mul, |a, b| a * b),
        pair("div", e::div, |a, b| a / b),
        pair("maximum", e::maximum, f64::max),
        pair("minimum", e::minimum, f64::min),
        pair("pow", e::pow, f64::powf),
        pair("add_act relu", |a, b| e::add_act(&e::affine(a, 1.0, -3.0)?, b, Act::Relu), |a, b| (a - 3.0 + b).max(0.0)),
        pair("add_act silu", |a, b| e::add_act(a, b, Act::Silu), |a, b| act(Act::Silu, a + b)),
        row(
            "where",
            &[&[&[5, 3], &[3]]],
            -5.0..5.0,
            |x| e::where_(&e::greater(&x[0].detach(), &x[1].detach())?, &e::square(&x[0])?, &x[1]),
            |x| zip(&x[0], &x[1], |a, b| if a > b { a * a } else { b }),
        )
        .grad(&[0, 1], GRAD),
    ]);
}

#[test]
fn equal_operands_share_the_gradient_of_their_maximum() {
    let Some(runtime) = crate::support::runtime() else { return };
    let leaf = |data: &[f32]| Tensor::from_slice(&runtime, data, &[3]).unwrap().require_grad().unwrap();
    let (a, b) = (leaf(&[1.0, 2.0, 3.0]), leaf(&[1.0, 3.0, 2.0]));
    let d = Tensor::full(&runtime, &[3], 1.0, DType::F32).unwrap();
    let gradients = e::maximum(&a, &b).unwrap().backward_with(&d).unwrap();
    assert_eq!(gradients.of(&a).unwrap().to_vec::<f32>().unwrap(), [0.5, 0.0, 1.0]);
    assert_eq!(gradients.of(&b).unwrap().to_vec::<f32>().unwrap(), [0.5, 1.0, 0.0]);
}

#[test]
fn compare_and_where_match_the_reference() {
    let pair = |name, f: fn(&Tensor, &Tensor) -> Result<Tensor>, g: fn(f64, f64) -> bool| {
        row(
            name,
            &TWO[..9],
            0.0..4.0,
            move |x| f(&x[0], &x[1]),
            move |x| zip(&x[0], &x[1], |a, b| f64::from(u8::from(g(a, b)))),
        )
        .dtype(DType::I32)
    };
    rows([
        pair("equal", e::equal, |a, b| a == b),
        pair("not_equal", e::not_equal, |a, b| a != b),
        pair("less", e::less, |a, b| a < b),
        pair("less_equal", e::less_equal, |a, b| a <= b),
        pair("greater", e::greater, |a, b| a > b),
        pair("greater_equal", e::greater_equal, |a, b| a >= b),
        row(
            "where",
            &[&[&[2, 3, 4], &[3, 1], &[1]], &[&[5], &[5], &[5]], &[&[1], &[4, 1], &[3]], &[&[0], &[0], &[0]]],
            -5.0..5.0,
            |x| e::where_(&e::greater(&x[0], &Tensor::zeros(x[0].runtime(), &[], DType::F32)?)?, &x[1], &x[2]),
            |x| {
                let shape = zip(&zip(&x[0], &x[1], |_, _| 0.0), &x[2], |_, _| 0.0);
                let full = |x| zip(&shape, x, |_, v| v);
                let (c, a, b) = (full(&x[0]), full(&x[1]), full(&x[2]));
                let data =
                    c.data.iter().zip(a.data.iter().zip(&b.data)).map(|(c, (a, b))| if *c > 0.0 { *a } else { *b });
                leanvision::reference::Array::new(&c.shape, data.collect())
            },
        )
        .rtol(0.0),
    ]);
}

#[test]
fn casts_round_trip_and_bytes_are_scaled_per_channel() {
    rows([
        row("to u32", ONE, 0.0..9e6, |x| e::cast(&x[0], DType::U32), |x| map(&x[0], f64::trunc)).rtol(0.0),
        row("to i32", ONE, -9e6..9e6, |x| e::cast(&x[0], DType::I32), |x| map(&x[0], f64::trunc)).rtol(0.0),
        row("from i32", SMALL, -9e6..9e6, |x| e::cast(&x[0], DType::F32), |x| x[0].clone()).dtype(DType::I32),
        row(
            "to u8",
            ONE,
            -50.0..300.0,
            |x| e::cast(&x[0], DType::U8),
            |x| map(&x[0], |v| v.clamp(0.0, 255.0).round_ties_even()),
        )
        .rtol(0.0),
        row("from u8", ONE, 0.0..256.0, |x| e::cast(&x[0], DType::F32), |x| x[0].clone()).dtype(DType::U8),
        row("bytes copied", SMALL, 0.0..256.0, |x| x[0].contiguous(), |x| x[0].clone()).dtype(DType::U8),
        row(
            "from_bytes",
            &[&[&[5, 7, 3]], &[&[1, 3]], &[&[0, 3]]],
            0.0..256.0,
            |x| {
                let scale = Tensor::from_slice(x[0].runtime(), &[0.5_f32, 2.0, -1.0], &[3])?;
                let shift = Tensor::from_slice(x[0].runtime(), &[1.0_f32, 0.0, 7.0], &[3])?;
                e::from_bytes(&x[0], &scale, &shift, DType::F32)
            },
            |x| {
                let channel = leanvision::reference::Array::new(&[3], vec![0.0, 1.0, 2.0]);
                zip(&x[0], &channel, |v, c| v * [0.5, 2.0, -1.0][c as usize] + [1.0, 0.0, 7.0][c as usize])
            },
        )
        .dtype(DType::U8),
    ]);
}

#[test]
fn reshape_keeps_the_order_of_views() {
    rows([row(
        "reshape",
        &[&[&[4, 6, 5]], &[&[2, 60]], &[&[120]]],
        -9.0..9.0,
        |x| x[0].reshape(&[8, 15])?.contiguous(),
        |x| x[0].reshaped(&[8, 15]),
    )
    .rtol(0.0)]);
}

#[test]
fn full_fills_every_type() {
    let Some(runtime) = crate::support::runtime() else { return };
    for (dtype, n) in [(DType::F32, 5), (DType::U32, 70_000), (DType::I32, 1), (DType::U8, 7)] {
        if n > crate::support::limit() {
            continue;
        }
        let filled = Tensor::full(&runtime, &[n], 3.0, dtype).unwrap();
        assert!(crate::support::row::download(&filled).unwrap().iter().all(|v| *v == 3.0), "{dtype}");
    }
    let x = upload(&runtime, &leanvision::reference::Array::new(&[2], vec![1.0, 2.0]), DType::F32).unwrap();
    assert_eq!(
        e::add(&x, &Tensor::full(&runtime, &[2], -1.0, DType::F32).unwrap()).unwrap().to_vec::<f32>().unwrap(),
        [0.0, 1.0]
    );
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn wrong_shapes_and_types_are_named() {
    let Some(runtime) = crate::support::runtime() else { return };
    let a = Tensor::zeros(&runtime, &[2, 3], DType::F32).unwrap();
    let b = Tensor::zeros(&runtime, &[4], DType::F32).unwrap();
    let c = Tensor::zeros(&runtime, &[3], DType::U32).unwrap();
    assert_eq!(e::add(&a, &b).unwrap_err().to_string(), "add: [2, 3] and [4] do not broadcast");
    assert!(e::add(&a, &c).unwrap_err().to_string().contains("f32 and u32"));
    assert!(e::relu(&c).is_err() && e::clamp(&a, 2.0, 1.0).is_err() && a.slice(1, 2..4).is_err());
}

//! Component-wise functions at their edges, and every one of them over bit patterns that hurt.

use super::super::lanes::round_f16;
use super::super::lanes::tests::{NASTY, SCALARS, halves, one, three, two};
use super::*;
use MathFunction as Fun;

/// Every component-wise function with the number of its operands.
const FUNCTIONS: [(Fun, usize); 51] = [
    (Fun::Abs, 1),
    (Fun::Min, 2),
    (Fun::Max, 2),
    (Fun::Clamp, 3),
    (Fun::Saturate, 1),
    (Fun::Cos, 1),
    (Fun::Cosh, 1),
    (Fun::Sin, 1),
    (Fun::Sinh, 1),
    (Fun::Tan, 1),
    (Fun::Tanh, 1),
    (Fun::Acos, 1),
    (Fun::Asin, 1),
    (Fun::Atan, 1),
    (Fun::Atan2, 2),
    (Fun::Asinh, 1),
    (Fun::Acosh, 1),
    (Fun::Atanh, 1),
    (Fun::Radians, 1),
    (Fun::Degrees, 1),
    (Fun::Ceil, 1),
    (Fun::Floor, 1),
    (Fun::Round, 1),
    (Fun::Fract, 1),
    (Fun::Trunc, 1),
    (Fun::Ldexp, 2),
    (Fun::Exp, 1),
    (Fun::Exp2, 1),
    (Fun::Log, 1),
    (Fun::Log2, 1),
    (Fun::Pow, 2),
    (Fun::Sign, 1),
    (Fun::Fma, 3),
    (Fun::Mix, 3),
    (Fun::Step, 2),
    (Fun::SmoothStep, 3),
    (Fun::Sqrt, 1),
    (Fun::InverseSqrt, 1),
    (Fun::QuantizeToF16, 1),
    (Fun::CountTrailingZeros, 1),
    (Fun::CountLeadingZeros, 1),
    (Fun::CountOneBits, 1),
    (Fun::ReverseBits, 1),
    (Fun::ExtractBits, 3),
    (Fun::InsertBits, 4),
    (Fun::FirstTrailingBit, 1),
    (Fun::FirstLeadingBit, 1),
    // These mix components and are none of this file's.
    (Fun::Dot, 0),
    (Fun::Cross, 0),
    (Fun::Modf, 0),
    (Fun::Pack4xU8, 0),
];

fn int1(fun: Fun, scalar: Scalar, x: u32) -> u32 {
    one(math1(fun, scalar).unwrap_or_else(|| panic!("{fun:?} of {scalar:?} is missing")), x)
}

fn float1_of(fun: Fun, scalar: Scalar, x: f32) -> f32 {
    f32::from_bits(int1(fun, scalar, x.to_bits()))
}

fn f(fun: Fun, x: f32) -> f32 {
    float1_of(fun, Scalar::F32, x)
}

fn h(fun: Fun, x: f32) -> f32 {
    float1_of(fun, Scalar::F16, x)
}

fn f2(fun: Fun, scalar: Scalar, x: f32, y: f32) -> f32 {
    let lane = math2(fun, scalar).unwrap_or_else(|| panic!("{fun:?} of {scalar:?} is missing"));
    f32::from_bits(two(lane, x.to_bits(), y.to_bits()))
}

fn f3(fun: Fun, scalar: Scalar, x: f32, y: f32, z: f32) -> f32 {
    let lane = math3(fun, scalar).unwrap_or_else(|| panic!("{fun:?} of {scalar:?} is missing"));
    f32::from_bits(three(lane, x.to_bits(), y.to_bits(), z.to_bits()))
}

#[test]
fn integers_have_sizes_signs_and_limits() {
    let i = |fun, x: i32| int1(fun, Scalar::I32, x.cast_unsigned()).cast_signed();
    assert_eq!([i(Fun::Abs, -5), i(Fun::Abs, i32::MIN), i(Fun::Abs, 5)], [5, i32::MIN, 5]);
    assert_eq!([i(Fun::Sign, -5), i(Fun::Sign, 0), i(Fun::Sign, 9)], [-1, 0, 1]);
    assert_eq!(int1(Fun::Abs, Scalar::U32, u32::MAX), u32::MAX);
    let pick = |fun, scalar| math2(fun, scalar).map(|lane| two(lane, u32::MAX, 1));
    assert_eq!((pick(Fun::Min, Scalar::I32), pick(Fun::Max, Scalar::I32)), (Some(u32::MAX), Some(1)));
    assert_eq!((pick(Fun::Min, Scalar::U32), pick(Fun::Max, Scalar::U32)), (Some(1), Some(u32::MAX)));
    let clamp = |scalar, x| math3(Fun::Clamp, scalar).map(|lane| three(lane, x, 2, 5));
    assert_eq!((clamp(Scalar::I32, u32::MAX), clamp(Scalar::U32, u32::MAX)), (Some(2), Some(5)));
    assert_eq!((clamp(Scalar::I32, 4), clamp(Scalar::I32, 9)), (Some(4), Some(5)));
    // Crossed limits give the upper one.
    assert_eq!(math3(Fun::Clamp, Scalar::U32).map(|lane| three(lane, 3, 9, 1)), Some(1));
}

#[test]
fn bits_are_counted_and_found() {
    let u = |fun, x| int1(fun, Scalar::U32, x);
    let i = |fun, x| int1(fun, Scalar::I32, x);
    assert_eq!(
        [u(Fun::CountTrailingZeros, 0), u(Fun::CountTrailingZeros, 8), i(Fun::CountTrailingZeros, 0)],
        [32, 3, 32]
    );
    assert_eq!(
        [u(Fun::CountLeadingZeros, 0), u(Fun::CountLeadingZeros, 1), i(Fun::CountLeadingZeros, SIGN)],
        [32, 31, 0]
    );
    assert_eq!([u(Fun::CountOneBits, u32::MAX), i(Fun::CountOneBits, 0b1011)], [32, 3]);
    assert_eq!([u(Fun::ReverseBits, 1), u(Fun::ReverseBits, 0x0000_00f0)], [SIGN, 0x0f00_0000]);
    assert_eq!(
        [u(Fun::FirstTrailingBit, 0), u(Fun::FirstTrailingBit, 12), i(Fun::FirstTrailingBit, 0)],
        [u32::MAX, 2, u32::MAX]
    );
    assert_eq!(
        [u(Fun::FirstLeadingBit, 0), u(Fun::FirstLeadingBit, 1), u(Fun::FirstLeadingBit, u32::MAX)],
        [u32::MAX, 0, 31]
    );
    // i32 looks for the first bit unlike the sign: none in 0 and -1, bit 0 in -2, bit 30 in the smallest.
    assert_eq!([i(Fun::FirstLeadingBit, 0), i(Fun::FirstLeadingBit, u32::MAX)], [u32::MAX, u32::MAX]);
    assert_eq!(
        [i(Fun::FirstLeadingBit, 0xffff_fffe), i(Fun::FirstLeadingBit, SIGN), i(Fun::FirstLeadingBit, 9)],
        [0, 30, 3]
    );
}

/// The sign bit.
const SIGN: u32 = 0x8000_0000;

#[test]
fn bit_ranges_are_cut_to_the_word() {
    let extract = |scalar, x, offset, count| math3(Fun::ExtractBits, scalar).map(|lane| three(lane, x, offset, count));
    let unsigned = |x, offset, count| extract(Scalar::U32, x, offset, count);
    let signed = |x, offset, count| extract(Scalar::I32, x, offset, count);
    assert_eq!(unsigned(0xabcd_1234, 8, 8), Some(0x12));
    assert_eq!(unsigned(0xabcd_1234, 0, 32), Some(0xabcd_1234));
    assert_eq!(unsigned(0xabcd_1234, 0, 99), Some(0xabcd_1234));
    assert_eq!(unsigned(0xabcd_1234, 24, 99), Some(0xab));
    assert_eq!([unsigned(u32::MAX, 5, 0), unsigned(u32::MAX, 32, 4), unsigned(u32::MAX, u32::MAX, 1)], [Some(0); 3]);
    assert_eq!(signed(0xabcd_1234, 24, 8), Some(0xffff_ffab));
    assert_eq!(signed(0xabcd_1234, 4, 4), Some(3));
    assert_eq!(signed(0x0000_0080, 4, 4), Some(0xffff_fff8));
    assert_eq!(signed(0xabcd_1234, 0, 32), Some(0xabcd_1234));
    assert_eq!(signed(1, 0, 1), Some(u32::MAX));
    assert_eq!([signed(u32::MAX, 0, 0), signed(u32::MAX, 31, 0), signed(u32::MAX, 40, 8)], [Some(0); 3]);
    for scalar in [Scalar::I32, Scalar::U32] {
        let insert = |e, new, offset, count| {
            let mut out = [7];
            let lane = math4(Fun::InsertBits, scalar)?;
            lane(&mut out, &[e], &[new], &[offset], &[count]);
            Some(out[0])
        };
        assert_eq!(insert(0xffff_ffff, 0, 8, 8), Some(0xffff_00ff));
        assert_eq!(insert(0, 0xabcd, 4, 8), Some(0xcd0));
        assert_eq!(insert(1, 2, 0, 32), Some(2));
        assert_eq!(insert(1, 2, 0, 0), Some(1));
        assert_eq!(insert(1, 2, 32, 5), Some(1));
        assert_eq!(insert(0, u32::MAX, 28, 99), Some(0xf000_0000));
    }
}

#[test]
fn float_limits_prefer_the_number_to_the_nan() {
    for scalar in [Scalar::F32, Scalar::F16] {
        assert_eq!(f2(Fun::Min, scalar, f32::NAN, 2.0), 2.0);
        assert_eq!(f2(Fun::Max, scalar, 2.0, f32::NAN), 2.0);
        assert_eq!(f2(Fun::Max, scalar, f32::NEG_INFINITY, -2.0), -2.0);
        assert_eq!(f3(Fun::Clamp, scalar, 7.0, -1.0, 3.0), 3.0);
        assert_eq!(f3(Fun::Clamp, scalar, f32::NAN, -1.0, 3.0), -1.0);
        assert_eq!(f3(Fun::Clamp, scalar, 0.0, f32::NAN, f32::NAN), 0.0);
        let saturated = [-3.0, 0.25, 9.0, f32::NAN].map(|x| float1_of(Fun::Saturate, scalar, x));
        assert_eq!(saturated, [0.0, 0.25, 1.0, 0.0]);
        let signs = [-3.0, 0.0, 9.0, f32::NEG_INFINITY].map(|x| float1_of(Fun::Sign, scalar, x));
        assert_eq!(signs, [-1.0, 0.0, 1.0, -1.0]);
        assert_eq!((f2(Fun::Step, scalar, 1.0, 1.0), f2(Fun::Step, scalar, 1.0, 0.5)), (1.0, 0.0));
        assert_eq!(float1_of(Fun::Abs, scalar, -0.5), 0.5);
    }
}

#[test]
fn rounding_to_integers() {
    for scalar in [Scalar::F32, Scalar::F16] {
        let all = |fun| [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.75].map(|x| float1_of(fun, scalar, x));
        assert_eq!(all(Fun::Round), [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 3.0]);
        assert_eq!(all(Fun::Floor), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 2.0]);
        assert_eq!(all(Fun::Ceil), [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 3.0]);
        assert_eq!(all(Fun::Trunc), [-2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 2.0]);
        assert_eq!(all(Fun::Fract), [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.75]);
    }
    // In f16 the part of a small negative number is so near 1 that it rounds there.
    assert_eq!(h(Fun::Fract, -2.0_f32.powi(-13)), 1.0);
    assert_eq!(f(Fun::Fract, -2.0_f32.powi(-13)), 1.0 - 2.0_f32.powi(-13));
}

#[test]
fn transcendental_functions_at_known_points() {
    use std::f32::consts::{E, FRAC_PI_2, FRAC_PI_3, FRAC_PI_4, LN_2, PI, SQRT_2};
    let near = |got: f32, wanted: f32| (got - wanted).abs() <= 2e-7 * wanted.abs();
    let known = [
        (Fun::Sin, FRAC_PI_2, 1.0),
        (Fun::Cos, FRAC_PI_3, 0.5),
        (Fun::Tan, FRAC_PI_4, 1.0),
        (Fun::Asin, 1.0, FRAC_PI_2),
        (Fun::Acos, 0.5, FRAC_PI_3),
        (Fun::Atan, 1.0, FRAC_PI_4),
        (Fun::Sinh, LN_2, 0.75),
        (Fun::Cosh, LN_2, 1.25),
        (Fun::Tanh, LN_2, 0.6),
        (Fun::Asinh, 0.75, LN_2),
        (Fun::Acosh, 1.25, LN_2),
        (Fun::Atanh, 0.6, LN_2),
        (Fun::Asinh, 1e-20, 1e-20),
        (Fun::Exp, 1.0, E),
        (Fun::Exp2, 0.5, SQRT_2),
        (Fun::Log, 2.0, LN_2),
        (Fun::Log2, 8.0, 3.0),
        (Fun::Radians, 180.0, PI),
        (Fun::Degrees, PI, 180.0),
        (Fun::Sqrt, 2.0, SQRT_2),
        (Fun::InverseSqrt, 16.0, 0.25),
    ];
    for (fun, x, wanted) in known {
        assert!(near(f(fun, x), wanted), "{fun:?}({x}) = {} for {wanted}", f(fun, x));
        let half = h(fun, round_f16(x));
        assert_eq!(half, round_f16(half), "{fun:?}");
        assert!((half - wanted).abs() <= 4e-3 * wanted + 6e-8, "{fun:?}({x}) = {half} for {wanted} in f16");
    }
    for (fun, x) in
        [(Fun::Sqrt, -1.0), (Fun::Log, -1.0), (Fun::Acos, 1.5), (Fun::Asin, -2.0), (Fun::Acosh, 0.5), (Fun::Atanh, 2.0)]
    {
        assert!(f(fun, x).is_nan(), "{fun:?}({x}) = {}", f(fun, x));
    }
    assert_eq!((f(Fun::Log, 0.0), f(Fun::InverseSqrt, 0.0)), (f32::NEG_INFINITY, f32::INFINITY));
    assert_eq!((h(Fun::Exp, 11.5), f(Fun::Exp, 89.0)), (f32::INFINITY, f32::INFINITY));
    assert_eq!(h(Fun::Exp, 11.0), 59_872.0);
    assert!(near(f2(Fun::Atan2, Scalar::F32, 1.0, -1.0), 3.0 * FRAC_PI_4));
    assert_eq!(f2(Fun::Pow, Scalar::F32, 2.0, 10.0), 1024.0);
    assert_eq!(f2(Fun::Pow, Scalar::F16, 2.0, 16.0), f32::INFINITY);
    assert!(f2(Fun::Pow, Scalar::F32, -2.0, 2.0).is_nan());
}

#[test]
fn f16_roots_are_rounded_once() {
    for x in halves() {
        assert_eq!(h(Fun::Sqrt, x), Half::narrow(f64::from(x).sqrt()), "{x}");
    }
}

#[test]
fn scaling_by_powers_of_two_rounds_once() {
    let scale = |scalar, x: f32, e: i32| {
        math2(Fun::Ldexp, scalar).map(|lane| f32::from_bits(two(lane, x.to_bits(), e.cast_unsigned())))
    };
    let f32s = |x, e| scale(Scalar::F32, x, e);
    assert_eq!(f32s(1.5, 4), Some(24.0));
    assert_eq!(f32s(f32::from_bits(1), 276), Some(2.0_f32.powi(127)));
    assert_eq!(f32s(2.0_f32.powi(127), -276), Some(f32::from_bits(1)));
    assert_eq!(
        (f32s(1.0, i32::MAX), f32s(1.0, i32::MIN), f32s(0.0, i32::MAX)),
        (Some(f32::INFINITY), Some(0.0), Some(0.0))
    );
    // 1.5 units of the last place go to 2, even; in two steps they would, too, but 1.25 in one step goes to 1.
    assert_eq!(f32s(1.5, -149), Some(f32::from_bits(2)));
    assert_eq!(f32s(1.25, -149), Some(f32::from_bits(1)));
    assert_eq!(scale(Scalar::F16, 1.0, 16), Some(f32::INFINITY));
    assert_eq!(scale(Scalar::F16, 1.75, -24), Some(2.0_f32.powi(-23)));
}

#[test]
fn formulas_of_three_operands() {
    for scalar in [Scalar::F32, Scalar::F16] {
        assert_eq!(f3(Fun::Mix, scalar, 2.0, 6.0, 0.25), 3.0);
        assert_eq!(f3(Fun::Mix, scalar, 2.0, 6.0, 2.0), 10.0);
        assert_eq!(f3(Fun::SmoothStep, scalar, 0.0, 2.0, 1.0), 0.5);
        assert_eq!(f3(Fun::SmoothStep, scalar, 0.0, 4.0, 1.0), 0.15625);
        assert_eq!(f3(Fun::SmoothStep, scalar, 0.0, 4.0, 9.0), 1.0);
        assert_eq!(f3(Fun::Fma, scalar, 2.0, 3.0, 4.0), 10.0);
    }
    let (x, tiny) = (1.0 + f32::EPSILON, f32::EPSILON * f32::EPSILON);
    assert_eq!(f3(Fun::Fma, Scalar::F32, x, x, -(1.0 + 2.0 * f32::EPSILON)), tiny);
    let x = 1.0 + 2.0_f32.powi(-10);
    assert_eq!(f3(Fun::Fma, Scalar::F16, x, x, -(1.0 + 2.0_f32.powi(-9))), 2.0_f32.powi(-20));
    // Written out, 3075 rounds to 3076 before 2 is taken off; rounded once, 3073 would go to 3072.
    assert_eq!(f3(Fun::Mix, Scalar::F16, 1.0, 1025.0, 3.0), 3074.0);
    assert_eq!(f(Fun::QuantizeToF16, 0.1), 1638.0 / 16_384.0);
    assert!(math1(Fun::QuantizeToF16, Scalar::F16).is_none());
}

#[test]
fn no_bit_pattern_panics_and_f16_stays_f16() {
    let rounded = NASTY.map(|x| round_f16(f32::from_bits(x)).to_bits());
    let mut known = [[0; 5]; 5];
    for (at, scalar) in SCALARS.into_iter().enumerate() {
        let inputs = if scalar == Scalar::F16 { rounded } else { NASTY };
        let check = |fun: Fun, out: u32| {
            let stays = scalar != Scalar::F16 || round_f16(f32::from_bits(out)).to_bits() == out;
            assert!(stays, "{fun:?} gives {out:#x}, which is no f16");
        };
        for (fun, operands) in FUNCTIONS {
            let lanes = (math1(fun, scalar), math2(fun, scalar), math3(fun, scalar), math4(fun, scalar));
            let found = [lanes.0.is_some(), lanes.1.is_some(), lanes.2.is_some(), lanes.3.is_some()];
            assert!((1..=4).all(|n| !found[n - 1] || n == operands), "{fun:?} of {scalar:?} takes {found:?}");
            known[at][operands] += usize::from(found.contains(&true));
            for x in inputs {
                lanes.0.into_iter().for_each(|lane| check(fun, one(lane, x)));
                for y in NASTY {
                    lanes.1.into_iter().for_each(|lane| {
                        check(fun, two(lane, x, if fun == Fun::Ldexp { y } else { quiet(scalar, y) }));
                    });
                    for z in NASTY {
                        let (y, z) = (quiet(scalar, y), quiet(scalar, z));
                        lanes.2.into_iter().for_each(|lane| check(fun, three(lane, x, y, z)));
                        lanes.3.into_iter().for_each(|lane| {
                            let mut out = [0];
                            lane(&mut out, &[x], &[!x], &[y], &[z]);
                            check(fun, out[0]);
                        });
                    }
                }
            }
        }
    }
    // bool, i32, u32, f32, f16, by the number of operands.
    assert_eq!(known, [[0; 5], [0, 8, 2, 2, 1], [0, 7, 2, 2, 1], [0, 29, 6, 4, 0], [0, 28, 6, 4, 0]]);
}

/// `x` as a lane of `scalar`.
fn quiet(scalar: Scalar, x: u32) -> u32 {
    if scalar == Scalar::F16 { round_f16(f32::from_bits(x)).to_bits() } else { x }
}

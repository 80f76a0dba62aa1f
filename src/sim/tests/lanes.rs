//! Lane arithmetic against values known from elsewhere: the rules of WGSL, the `half` crate, exact sums in f64.

use super::*;

/// Bit patterns at the edges of every type: zeros, ones, extremes, subnormals, infinities, NaNs, f16 limits, bytes.
pub(in crate::sim) const NASTY: [u32; 30] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_fffe,
    u32::MAX,
    0x8080_8080,
    0x7f7f_7f7f,
    0x0080_0000,
    0x007f_ffff,
    0x3300_0000,
    0x3380_0000,
    0x387f_c000,
    0x3f80_0000,
    0xbf80_0000,
    0x3fc0_0000,
    0x477f_e000,
    0x477f_f000,
    0x4f00_0000,
    0xcf00_0000,
    0x7f80_0000,
    0x7fa0_0001,
];

/// Every lane type.
pub(in crate::sim) const SCALARS: [Scalar; 5] = [Scalar::Bool, Scalar::I32, Scalar::U32, Scalar::F32, Scalar::F16];

const BINARY: [BinaryOperator; 18] = [
    BinaryOperator::Add,
    BinaryOperator::Subtract,
    BinaryOperator::Multiply,
    BinaryOperator::Divide,
    BinaryOperator::Modulo,
    BinaryOperator::Equal,
    BinaryOperator::NotEqual,
    BinaryOperator::Less,
    BinaryOperator::LessEqual,
    BinaryOperator::Greater,
    BinaryOperator::GreaterEqual,
    BinaryOperator::And,
    BinaryOperator::ExclusiveOr,
    BinaryOperator::InclusiveOr,
    BinaryOperator::LogicalAnd,
    BinaryOperator::LogicalOr,
    BinaryOperator::ShiftLeft,
    BinaryOperator::ShiftRight,
];

const SUBGROUP: [SubgroupOperation; 9] = [
    SubgroupOperation::All,
    SubgroupOperation::Any,
    SubgroupOperation::Add,
    SubgroupOperation::Mul,
    SubgroupOperation::Min,
    SubgroupOperation::Max,
    SubgroupOperation::And,
    SubgroupOperation::Or,
    SubgroupOperation::Xor,
];

/// One lane of an operation of one operand.
pub(in crate::sim) fn one(lane: Lane1, x: u32) -> u32 {
    let mut out = [0xdead_beef];
    lane(&mut out, &[x]);
    out[0]
}

/// One lane of an operation of two operands.
pub(in crate::sim) fn two(lane: Lane2, x: u32, y: u32) -> u32 {
    let mut out = [0xdead_beef];
    lane(&mut out, &[x], &[y]);
    out[0]
}

/// One lane of an operation of three operands.
pub(in crate::sim) fn three(lane: Lane3, x: u32, y: u32, z: u32) -> u32 {
    let mut out = [0xdead_beef];
    lane(&mut out, &[x], &[y], &[z]);
    out[0]
}

/// Every value of f16 that is not negative and finite, as f32.
pub(in crate::sim) fn halves() -> impl Iterator<Item = f32> {
    (0..0x7c00_u16).map(|bits| half::f16::from_bits(bits).to_f32_const())
}

fn has_binary(op: BinaryOperator, scalar: Scalar) -> Lane2 {
    binary(op, scalar).unwrap_or_else(|| panic!("{op:?} of {scalar:?} is missing"))
}

fn ints(op: BinaryOperator, x: i32, y: i32) -> i32 {
    two(has_binary(op, Scalar::I32), x.cast_unsigned(), y.cast_unsigned()).cast_signed()
}

fn uints(op: BinaryOperator, x: u32, y: u32) -> u32 {
    two(has_binary(op, Scalar::U32), x, y)
}

fn floats(op: BinaryOperator, scalar: Scalar, x: f32, y: f32) -> f32 {
    f32::from_bits(two(has_binary(op, scalar), x.to_bits(), y.to_bits()))
}

#[test]
fn scalars_of_naga_that_fit_a_lane() {
    assert_eq!(Scalar::of(naga::Scalar::BOOL), Some(Scalar::Bool));
    assert_eq!(Scalar::of(naga::Scalar::I32), Some(Scalar::I32));
    assert_eq!(Scalar::of(naga::Scalar::U32), Some(Scalar::U32));
    assert_eq!(Scalar::of(naga::Scalar::F32), Some(Scalar::F32));
    assert_eq!(Scalar::of(naga::Scalar::F16), Some(Scalar::F16));
    for other in [naga::Scalar::F64, naga::Scalar::I64, naga::Scalar::U64, naga::Scalar::I16, naga::Scalar::U16] {
        assert_eq!(Scalar::of(other), None, "{other:?}");
    }
    assert_eq!(Scalar::of(naga::Scalar::ABSTRACT_INT), None);
    assert_eq!(Scalar::of(naga::Scalar::ABSTRACT_FLOAT), None);
}

#[test]
fn every_lane_of_a_register_is_written() {
    let a: Vec<u32> = (0..37).collect();
    let b: Vec<u32> = (100..137).collect();
    let mut out = vec![0; 37];
    has_binary(BinaryOperator::Add, Scalar::U32)(&mut out, &a, &b);
    assert!(out.iter().zip(0..).all(|(&x, lane)| x == 100 + 2 * lane), "{out:?}");
}

#[test]
fn integers_wrap_and_divide_without_faults() {
    use BinaryOperator as Op;
    assert_eq!(ints(Op::Add, i32::MAX, 1), i32::MIN);
    assert_eq!(ints(Op::Subtract, i32::MIN, 1), i32::MAX);
    assert_eq!(ints(Op::Multiply, 65_536, 65_537), 65_536);
    assert_eq!(ints(Op::Divide, -7, 2), -3);
    assert_eq!(ints(Op::Modulo, -7, 2), -1);
    assert_eq!(ints(Op::Modulo, 7, -2), 1);
    assert_eq!(ints(Op::Divide, -7, 0), -7);
    assert_eq!(ints(Op::Modulo, -7, 0), 0);
    assert_eq!(ints(Op::Divide, i32::MIN, -1), i32::MIN);
    assert_eq!(ints(Op::Modulo, i32::MIN, -1), 0);
    assert_eq!(uints(Op::Subtract, 0, 1), u32::MAX);
    assert_eq!(uints(Op::Divide, u32::MAX, 2), 0x7fff_ffff);
    assert_eq!(uints(Op::Modulo, u32::MAX, 10), 5);
    assert_eq!(uints(Op::Divide, 9, 0), 9);
    assert_eq!(uints(Op::Modulo, 9, 0), 0);
    let negate = |scalar, x| unary(UnaryOperator::Negate, scalar).map(|lane| one(lane, x));
    assert_eq!(negate(Scalar::I32, 0x8000_0000), Some(0x8000_0000));
    assert_eq!(negate(Scalar::I32, 5), Some((-5_i32).cast_unsigned()));
    assert_eq!(negate(Scalar::F32, 0), Some(0x8000_0000));
    assert_eq!(negate(Scalar::F16, 1.5_f32.to_bits()), Some((-1.5_f32).to_bits()));
    assert_eq!(negate(Scalar::U32, 5), None);
}

#[test]
fn signed_division_is_that_of_the_machine() {
    for (x, y) in NASTY.into_iter().flat_map(|x| NASTY.map(|y| (x.cast_signed(), y.cast_signed()))) {
        let (quotient, rest) = if y == 0 { (x, 0) } else { (x.wrapping_div(y), x.wrapping_rem(y)) };
        assert_eq!(ints(BinaryOperator::Divide, x, y), quotient, "{x} / {y}");
        assert_eq!(ints(BinaryOperator::Modulo, x, y), rest, "{x} % {y}");
    }
}

#[test]
fn shifts_count_modulo_32_and_keep_the_sign_of_i32_alone() {
    use BinaryOperator as Op;
    assert_eq!(ints(Op::ShiftRight, -8, 1), -4);
    assert_eq!(ints(Op::ShiftRight, i32::MIN, 31), -1);
    assert_eq!(ints(Op::ShiftRight, -8, 33), -4);
    assert_eq!(ints(Op::ShiftLeft, 1, 31), i32::MIN);
    assert_eq!(uints(Op::ShiftRight, 0x8000_0000, 31), 1);
    assert_eq!(uints(Op::ShiftLeft, 3, 32), 3);
    assert_eq!(uints(Op::ShiftLeft, 3, 33), 6);
}

#[test]
fn comparisons_follow_the_type() {
    use BinaryOperator as Op;
    assert_eq!(ints(Op::Less, -1, 1), 1);
    assert_eq!(uints(Op::Less, u32::MAX, 1), 0);
    assert_eq!(ints(Op::GreaterEqual, i32::MIN, i32::MAX), 0);
    assert_eq!(uints(Op::GreaterEqual, 0x8000_0000, 0x7fff_ffff), 1);
    assert_eq!((ints(Op::LessEqual, 3, 3), ints(Op::Greater, 3, 3), ints(Op::Greater, 1, -1)), (1, 0, 1));
    assert_eq!((uints(Op::LessEqual, 3, 3), uints(Op::Greater, 3, 3)), (1, 0));
    let compare = |op, x: f32, y: f32| two(has_binary(op, Scalar::F32), x.to_bits(), y.to_bits());
    assert_eq!(compare(Op::Equal, 0.0, -0.0), 1);
    assert_eq!(compare(Op::Equal, f32::NAN, f32::NAN), 0);
    assert_eq!(compare(Op::NotEqual, f32::NAN, f32::NAN), 1);
    assert_eq!(compare(Op::Less, -f32::INFINITY, f32::MIN), 1);
    for op in [Op::Less, Op::LessEqual, Op::Greater, Op::GreaterEqual] {
        assert_eq!(compare(op, f32::NAN, 1.0), 0, "{op:?}");
        assert_eq!(compare(op, 1.0, 1.0), u32::from(matches!(op, Op::LessEqual | Op::GreaterEqual)), "{op:?}");
    }
}

#[test]
fn bools_have_truth_tables() {
    use BinaryOperator as Op;
    let table = |op| [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(x, y)| two(has_binary(op, Scalar::Bool), x, y));
    assert_eq!(table(Op::And), [0, 0, 0, 1]);
    assert_eq!(table(Op::LogicalAnd), [0, 0, 0, 1]);
    assert_eq!(table(Op::InclusiveOr), [0, 1, 1, 1]);
    assert_eq!(table(Op::LogicalOr), [0, 1, 1, 1]);
    assert_eq!(table(Op::Equal), [1, 0, 0, 1]);
    assert_eq!(table(Op::NotEqual), [0, 1, 1, 0]);
    let not = unary(UnaryOperator::LogicalNot, Scalar::Bool).map(|lane| [one(lane, 0), one(lane, 1)]);
    assert_eq!(not, Some([1, 0]));
    let flip = |scalar| unary(UnaryOperator::BitwiseNot, scalar).map(|lane| one(lane, 0x0f0f_0f0f));
    assert_eq!((flip(Scalar::I32), flip(Scalar::U32), flip(Scalar::F32)), (Some(0xf0f0_f0f0), Some(0xf0f0_f0f0), None));
    assert_eq!(uints(Op::And, 0b1100, 0b1010), 0b1000);
    assert_eq!(uints(Op::InclusiveOr, 0b1100, 0b1010), 0b1110);
    assert_eq!(ints(Op::ExclusiveOr, 0b1100, 0b1010), 0b0110);
    assert_eq!([three(select(), 1, 7, 9), three(select(), 0, 7, 9)], [7, 9]);
}

#[test]
fn float_arithmetic_is_ieee_with_a_truncated_remainder() {
    use BinaryOperator as Op;
    let f32s = |op, x, y| floats(op, Scalar::F32, x, y);
    assert_eq!(f32s(Op::Add, 16_777_216.0, 1.0), 16_777_216.0);
    assert_eq!(f32s(Op::Subtract, 1.0, 3.0), -2.0);
    assert_eq!(f32s(Op::Divide, -1.0, 0.0), f32::NEG_INFINITY);
    assert!(f32s(Op::Divide, 0.0, 0.0).is_nan());
    assert_eq!(f32s(Op::Multiply, f32::MAX, 2.0), f32::INFINITY);
    assert_eq!(f32s(Op::Modulo, -7.5, 2.0), -1.5);
    assert_eq!(f32s(Op::Modulo, 7.5, -2.0), 1.5);
    assert!(f32s(Op::Modulo, 1.0, 0.0).is_nan());
    // 2^-149, the smallest there is, is not flushed.
    assert_eq!(f32s(Op::Multiply, f32::MIN_POSITIVE, 2.0_f32.powi(-23)).to_bits(), 1);
    let f16s = |op, x, y| floats(op, Scalar::F16, x, y);
    assert_eq!(f16s(Op::Add, 2048.0, 1.0), 2048.0);
    assert_eq!(f16s(Op::Add, 2048.0, 3.0), 2052.0);
    assert_eq!(f16s(Op::Add, 65_504.0, 16.0), f32::INFINITY);
    assert_eq!(f16s(Op::Add, 65_504.0, 15.0), 65_504.0);
    assert_eq!(f16s(Op::Multiply, 256.0, -256.0), f32::NEG_INFINITY);
    assert_eq!(f16s(Op::Divide, 1.0, 3.0), 1365.0 / 4096.0);
    assert_eq!(f16s(Op::Multiply, 2.0_f32.powi(-24), 0.5), 0.0);
    assert_eq!(f16s(Op::Multiply, 2.0_f32.powi(-24), 0.75), 2.0_f32.powi(-24));
}

#[test]
fn f16_arithmetic_is_the_exact_result_rounded_once() {
    use BinaryOperator as Op;
    let values: Vec<f32> = halves().step_by(61).chain([65_504.0]).collect();
    for &x in &values {
        for &y in &values {
            let exact = [(Op::Add, f64::from(x) + f64::from(y)), (Op::Subtract, f64::from(x) - f64::from(y))];
            let more = [(Op::Multiply, f64::from(x) * f64::from(y)), (Op::Divide, f64::from(x) / f64::from(y))];
            for (op, wanted) in exact.into_iter().chain(more) {
                let (got, wanted) = (floats(op, Scalar::F16, x, y), Half::narrow(wanted));
                assert!(got == wanted || got.is_nan() && wanted.is_nan(), "{op:?} {x} {y}: {got} for {wanted}");
            }
        }
    }
}

#[test]
fn round_f16_agrees_with_the_half_crate() {
    let agrees = |bits: u32| {
        let x = f32::from_bits(bits);
        let wanted = half::f16::from_f32_const(x).to_f32_const();
        assert_eq!(round_f16(x).to_bits(), wanted.to_bits(), "{bits:#x} = {x}");
    };
    (0..u32::MAX).step_by(1021).for_each(agrees);
    NASTY.into_iter().for_each(agrees);
    for pair in halves().chain([65_536.0]).collect::<Vec<_>>().windows(2) {
        let tie = f32::midpoint(pair[0], pair[1]).to_bits();
        for bits in [tie - 1, tie, tie + 1, pair[0].to_bits()] {
            agrees(bits);
            agrees(bits | SIGN);
        }
    }
    assert_eq!(round_f16(65_519.996), 65_504.0);
    assert_eq!(round_f16(65_520.0), f32::INFINITY);
}

#[test]
fn narrowing_f64_sees_past_the_digits_of_f32() {
    let values: Vec<f32> = halves().collect();
    for (at, pair) in values.windows(2).enumerate() {
        let tie = f64::midpoint(f64::from(pair[0]), f64::from(pair[1]));
        assert_eq!(Half::narrow(tie.next_down()), pair[0]);
        assert_eq!(Half::narrow(tie.next_up()), pair[1]);
        assert_eq!(Half::narrow(-tie.next_up()), -pair[1]);
        assert_eq!(Half::narrow(tie), pair[at % 2], "to the even one");
    }
    assert_eq!(Half::narrow(65_520.0_f64.next_down()), 65_504.0);
    assert_eq!(Half::narrow(65_520.0), f32::INFINITY);
    assert_eq!(Half::narrow(1e300), f32::INFINITY);
    assert_eq!(Half::narrow(-1e-300), 0.0);
    assert!(Half::narrow(f64::NAN).is_nan());
    // A product of 22 digits and a last small part: f32 would call it a tie and round to even, that is down.
    let (x, y) = (1.0 + 2.0_f32.powi(-10), 1.0 + 2.0_f32.powi(-10));
    let tie = 2.0_f32.powi(-11) - 2.0_f32.powi(-20);
    assert_eq!(Half::fused(x, y, tie), 1.0 + 2.0 * 2.0_f32.powi(-10));
    assert_eq!(Half::fused(1.0, 1.0 + 2.0_f32.powi(-10), 2.0_f32.powi(-11)), 1.0 + 2.0 * 2.0_f32.powi(-10));
}

#[test]
fn conversions_saturate_truncate_and_round() {
    use Scalar::{Bool, F16, F32, I32, U32};
    let from_float = |x: f32, from, to| one(convert(from, to), x.to_bits());
    assert_eq!(from_float(-1.9, F32, I32).cast_signed(), -1);
    assert_eq!(from_float(-0.9, F32, U32), 0);
    assert_eq!(from_float(1.9, F32, U32), 1);
    assert_eq!(from_float(1e20, F32, I32), 2_147_483_520);
    assert_eq!(from_float(f32::INFINITY, F32, U32), 4_294_967_040);
    assert_eq!(from_float(f32::NEG_INFINITY, F32, I32).cast_signed(), i32::MIN);
    assert_eq!(from_float(-5.0, F32, U32), 0);
    assert_eq!((from_float(f32::NAN, F32, I32), from_float(f32::NAN, F32, U32)), (0, 0));
    assert_eq!((from_float(f32::INFINITY, F16, I32), from_float(f32::INFINITY, F16, U32)), (65_504, 65_504));
    assert_eq!(from_float(f32::NEG_INFINITY, F16, I32).cast_signed(), -65_504);
    assert_eq!((from_float(-0.0, F32, Bool), from_float(f32::NAN, F32, Bool), from_float(0.5, F16, Bool)), (0, 1, 1));
    let to_float = |x: u32, from, to| f32::from_bits(one(convert(from, to), x));
    assert_eq!(to_float(u32::MAX, I32, F32), -1.0);
    assert_eq!(to_float(u32::MAX, U32, F32), 4_294_967_296.0);
    assert_eq!(to_float(16_777_217, U32, F32), 16_777_216.0);
    assert_eq!(to_float(2049, I32, F16), 2048.0);
    assert_eq!(to_float(65_520, U32, F16), f32::INFINITY);
    assert_eq!(to_float((-2051_i32).cast_unsigned(), I32, F16), -2052.0);
    assert_eq!((to_float(1, Bool, F32), to_float(0, Bool, F16)), (1.0, 0.0));
    assert_eq!(to_float(0.1_f32.to_bits(), F32, F16), 1638.0 / 16_384.0);
    assert_eq!(to_float(0.1_f32.to_bits(), F32, F32), 0.1);
    assert_eq!(to_float(0.5_f32.to_bits(), F16, F32), 0.5);
    assert_eq!(one(convert(I32, U32), u32::MAX), u32::MAX);
    assert_eq!(
        (one(convert(I32, Bool), 0x8000_0000), one(convert(U32, Bool), 0), one(convert(Bool, I32), 1)),
        (1, 0, 1)
    );
}

#[test]
fn nan_and_infinity_are_told_apart() {
    let is = |fun, x: f32| relational(fun, Scalar::F32).map(|lane| one(lane, x.to_bits()));
    let (nan, inf) = (RelationalFunction::IsNan, RelationalFunction::IsInf);
    assert_eq!([is(nan, -f32::NAN), is(nan, f32::INFINITY), is(nan, f32::MAX)], [Some(1), Some(0), Some(0)]);
    assert_eq!([is(inf, f32::NAN), is(inf, -f32::INFINITY), is(inf, f32::MAX)], [Some(0), Some(1), Some(0)]);
    assert!(relational(nan, Scalar::I32).is_none());
    assert!(relational(RelationalFunction::All, Scalar::Bool).is_none());
}

#[test]
fn subgroup_pairs_combine_and_have_a_neutral_element() {
    use SubgroupOperation as Op;
    let pair = |op, scalar, x, y| subgroup(op, scalar).map(|pair| pair(x, y));
    assert_eq!(pair(Op::Add, Scalar::U32, u32::MAX, 2), Some(1));
    assert_eq!(pair(Op::Mul, Scalar::I32, u32::MAX, 5), Some((-5_i32).cast_unsigned()));
    assert_eq!(pair(Op::Min, Scalar::I32, u32::MAX, 5), Some(u32::MAX));
    assert_eq!(pair(Op::Min, Scalar::U32, u32::MAX, 5), Some(5));
    assert_eq!(pair(Op::Max, Scalar::F32, f32::NAN.to_bits(), 5.0_f32.to_bits()), Some(5.0_f32.to_bits()));
    assert_eq!(pair(Op::Add, Scalar::F16, 65_504.0_f32.to_bits(), 32.0_f32.to_bits()), Some(INFINITY));
    assert_eq!(pair(Op::Mul, Scalar::F32, 3.0_f32.to_bits(), 0.5_f32.to_bits()), Some(1.5_f32.to_bits()));
    assert_eq!(pair(Op::Xor, Scalar::U32, 0b1100, 0b1010), Some(0b0110));
    assert_eq!((pair(Op::All, Scalar::Bool, 1, 0), pair(Op::Any, Scalar::Bool, 1, 0)), (Some(0), Some(1)));
    assert!(subgroup(Op::And, Scalar::F32).is_none() && subgroup(Op::Add, Scalar::Bool).is_none());
    let mut known = 0;
    for (op, scalar) in SUBGROUP.into_iter().flat_map(|op| SCALARS.map(|scalar| (op, scalar))) {
        let Some(pair) = subgroup(op, scalar) else { continue };
        known += 1;
        let values = match scalar {
            Scalar::Bool => vec![0, 1],
            Scalar::I32 | Scalar::U32 => NASTY.to_vec(),
            Scalar::F32 | Scalar::F16 => {
                [-2.5, -0.5, 0.0, 1.0, 65_504.0, f32::INFINITY, f32::NEG_INFINITY].map(f32::to_bits).to_vec()
            }
        };
        for x in values {
            assert_eq!(pair(neutral(op, scalar), x), x, "{op:?} {scalar:?} {x:#x}");
            assert_eq!(pair(x, neutral(op, scalar)), x, "{op:?} {scalar:?} {x:#x}");
        }
    }
    assert_eq!(known, 2 + 2 * 7 + 2 * 4);
}

#[test]
fn no_bit_pattern_panics_and_f16_stays_f16() {
    let rounded = NASTY.map(|x| round_f16(f32::from_bits(x)).to_bits());
    let mut counts = [0; 5];
    for (count, scalar) in counts.iter_mut().zip(SCALARS) {
        let inputs = if scalar == Scalar::F16 { rounded } else { NASTY };
        let check = |what: &dyn std::fmt::Debug, out: u32| {
            let stays = scalar != Scalar::F16 || round_f16(f32::from_bits(out)).to_bits() == out || out == 1;
            assert!(stays, "{what:?} of {scalar:?} gives {out:#x}, which is no f16");
        };
        for x in inputs {
            for op in [UnaryOperator::Negate, UnaryOperator::LogicalNot, UnaryOperator::BitwiseNot] {
                unary(op, scalar).into_iter().for_each(|lane| check(&op, one(lane, x)));
            }
            for to in SCALARS {
                let out = one(convert(scalar, to), x);
                assert!(to != Scalar::Bool || out <= 1);
                assert!(to != Scalar::F16 || round_f16(f32::from_bits(out)).to_bits() == out);
            }
            for y in inputs {
                for op in BINARY {
                    binary(op, scalar).into_iter().for_each(|lane| check(&op, two(lane, x, y)));
                }
                for op in SUBGROUP {
                    subgroup(op, scalar).into_iter().for_each(|pair| check(&op, pair(x, y)));
                }
            }
        }
        *count = BINARY.into_iter().filter(|&op| binary(op, scalar).is_some()).count();
    }
    assert_eq!(counts, [7, 16, 16, 11, 11], "operators of bool, i32, u32, f32, f16");
}

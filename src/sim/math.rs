//! WGSL's component-wise mathematical functions over registers (see [`super::lanes`] for their layout).
//!
//! A function of one rounding in f16 is computed in f32 and rounded once; one that WGSL defines by a formula (`mix`,
//! `smoothstep`) rounds after each operation, as the formula written out would.

use super::lanes::{Float, Half, Lane1, Lane2, Lane3, Lane4, Scalar, Single, float1, float2, int2, map1, map2, map3};
use naga::MathFunction;

/// A component-wise function of one operand, if WGSL has it for lanes of `scalar`.
pub(super) fn math1(fun: MathFunction, scalar: Scalar) -> Option<Lane1> {
    match scalar {
        Scalar::Bool => None,
        Scalar::I32 => int_math1(fun),
        Scalar::U32 => uint_math1(fun),
        Scalar::F32 if fun == MathFunction::QuantizeToF16 => Some(|o, a| float1::<Half>(o, a, |x| x)),
        Scalar::F32 => float_math1::<Single>(fun),
        Scalar::F16 => float_math1::<Half>(fun),
    }
}

/// Functions of one i32.
fn int_math1(fun: MathFunction) -> Option<Lane1> {
    use MathFunction as Fun;
    let lane: Lane1 = match fun {
        Fun::Abs => |o, a| map1(o, a, |x| x.cast_signed().wrapping_abs().cast_unsigned()),
        Fun::Sign => |o, a| map1(o, a, |x| x.cast_signed().signum().cast_unsigned()),
        // The highest bit that differs from the sign; all ones for 0 and -1.
        Fun::FirstLeadingBit => |o, a| map1(o, a, |x| first_leading_bit(x ^ (x.cast_signed() >> 31).cast_unsigned())),
        _ => return uint_math1(fun),
    };
    Some(lane)
}

/// Functions of one u32.
fn uint_math1(fun: MathFunction) -> Option<Lane1> {
    use MathFunction as Fun;
    let lane: Lane1 = match fun {
        Fun::Abs => |o, a| map1(o, a, |x| x),
        Fun::CountTrailingZeros => |o, a| map1(o, a, u32::trailing_zeros),
        Fun::CountLeadingZeros => |o, a| map1(o, a, u32::leading_zeros),
        Fun::CountOneBits => |o, a| map1(o, a, u32::count_ones),
        Fun::ReverseBits => |o, a| map1(o, a, u32::reverse_bits),
        Fun::FirstTrailingBit => |o, a| map1(o, a, |x| if x == 0 { u32::MAX } else { x.trailing_zeros() }),
        Fun::FirstLeadingBit => |o, a| map1(o, a, first_leading_bit),
        _ => return None,
    };
    Some(lane)
}

/// The place of the highest one, all ones where there is none.
#[inline(always)]
fn first_leading_bit(x: u32) -> u32 {
    31_u32.wrapping_sub(x.leading_zeros())
}

/// Functions of one float.
///
/// Those that only pick or cut digits are exact in f16 too and need no rounding.
fn float_math1<K: Float>(fun: MathFunction) -> Option<Lane1> {
    use MathFunction as Fun;
    let lane: Lane1 = match fun {
        Fun::Abs => |o, a| float1::<Single>(o, a, f32::abs),
        Fun::Saturate => |o, a| float1::<Single>(o, a, saturate),
        Fun::Cos => |o, a| float1::<K>(o, a, f32::cos),
        Fun::Cosh => |o, a| float1::<K>(o, a, f32::cosh),
        Fun::Sin => |o, a| float1::<K>(o, a, f32::sin),
        Fun::Sinh => |o, a| float1::<K>(o, a, f32::sinh),
        Fun::Tan => |o, a| float1::<K>(o, a, f32::tan),
        Fun::Tanh => |o, a| float1::<K>(o, a, f32::tanh),
        Fun::Acos => |o, a| float1::<K>(o, a, f32::acos),
        Fun::Asin => |o, a| float1::<K>(o, a, f32::asin),
        Fun::Atan => |o, a| float1::<K>(o, a, f32::atan),
        // Through f64: the f32 forms lose digits near 0 and overflow within the range of the result.
        Fun::Asinh => |o, a| double1::<K>(o, a, f64::asinh),
        Fun::Acosh => |o, a| double1::<K>(o, a, f64::acosh),
        Fun::Atanh => |o, a| double1::<K>(o, a, f64::atanh),
        Fun::Radians => |o, a| double1::<K>(o, a, f64::to_radians),
        Fun::Degrees => |o, a| double1::<K>(o, a, f64::to_degrees),
        Fun::Ceil => |o, a| float1::<Single>(o, a, f32::ceil),
        Fun::Floor => |o, a| float1::<Single>(o, a, f32::floor),
        Fun::Round => |o, a| float1::<Single>(o, a, f32::round_ties_even),
        Fun::Fract => |o, a| float1::<K>(o, a, |x| x - x.floor()),
        Fun::Trunc => |o, a| float1::<Single>(o, a, f32::trunc),
        Fun::Exp => |o, a| float1::<K>(o, a, f32::exp),
        Fun::Exp2 => |o, a| float1::<K>(o, a, f32::exp2),
        Fun::Log => |o, a| float1::<K>(o, a, f32::ln),
        Fun::Log2 => |o, a| float1::<K>(o, a, f32::log2),
        // Zeros and NaN stay themselves.
        Fun::Sign => |o, a| float1::<Single>(o, a, |x| if x != 0.0 { 1.0_f32.copysign(x) } else { x }),
        Fun::Sqrt => |o, a| float1::<K>(o, a, f32::sqrt),
        Fun::InverseSqrt => |o, a| float1::<K>(o, a, |x| 1.0 / x.sqrt()),
        _ => return None,
    };
    Some(lane)
}

/// `x` cut to 0 to 1, 0 for a NaN as in `min(max(x, 0), 1)`.
#[inline(always)]
fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// A float function of one operand in double precision, rounded.
#[inline(always)]
fn double1<K: Float>(out: &mut [u32], a: &[u32], f: impl Fn(f64) -> f64) {
    map1(out, a, |x| K::narrow(f(f64::from(f32::from_bits(x)))).to_bits());
}

/// A component-wise function of two operands, if WGSL has it for lanes of `scalar`, the type of the first.
///
/// The second operand of `ldexp` is i32. If one operand of `min` and `max` is NaN, the result is the other. `pow` of a
/// negative base is NaN, as its definition `exp2(y * log2(x))` has it on a GPU.
pub(super) fn math2(fun: MathFunction, scalar: Scalar) -> Option<Lane2> {
    use MathFunction as Fun;
    let lane: Lane2 = match (scalar, fun) {
        (Scalar::I32, Fun::Min) => |o, a, b| int2(o, a, b, Ord::min),
        (Scalar::I32, Fun::Max) => |o, a, b| int2(o, a, b, Ord::max),
        (Scalar::U32, Fun::Min) => |o, a, b| map2(o, a, b, Ord::min),
        (Scalar::U32, Fun::Max) => |o, a, b| map2(o, a, b, Ord::max),
        (Scalar::F32, _) => return float_math2::<Single>(fun),
        (Scalar::F16, _) => return float_math2::<Half>(fun),
        _ => return None,
    };
    Some(lane)
}

/// Functions of two floats.
fn float_math2<K: Float>(fun: MathFunction) -> Option<Lane2> {
    use MathFunction as Fun;
    let lane: Lane2 = match fun {
        Fun::Min => |o, a, b| float2::<Single>(o, a, b, f32::min),
        Fun::Max => |o, a, b| float2::<Single>(o, a, b, f32::max),
        Fun::Atan2 => |o, a, b| float2::<K>(o, a, b, f32::atan2),
        Fun::Pow => |o, a, b| float2::<K>(o, a, b, |x, y| if x < 0.0 { f32::NAN } else { x.powf(y) }),
        Fun::Step => |o, a, b| float2::<Single>(o, a, b, |edge, x| if edge <= x { 1.0 } else { 0.0 }),
        Fun::Ldexp => |o, a, b| map2(o, a, b, |x, e| K::narrow(scale(f32::from_bits(x), e.cast_signed())).to_bits()),
        _ => return None,
    };
    Some(lane)
}

/// `x * 2^exponent`, exact where f32 holds the result.
#[inline(always)]
fn scale(x: f32, exponent: i32) -> f64 {
    // 2^400 takes every f32 past the range or to 0, and no product leaves the range of f64.
    let exponent = exponent.clamp(-400, 400);
    f64::from(x) * f64::from_bits(u64::from((1023 + exponent).cast_unsigned()) << 52)
}

/// A component-wise function of three operands, if WGSL has it for lanes of `scalar`, the type of the first.
///
/// The second and third operand of `extractBits` are u32. `mix` of vectors by one scalar wants that scalar repeated.
pub(super) fn math3(fun: MathFunction, scalar: Scalar) -> Option<Lane3> {
    use MathFunction as Fun;
    let lane: Lane3 = match (scalar, fun) {
        (Scalar::I32, Fun::Clamp) => |o, a, b, c| {
            map3(o, a, b, c, |x, low, high| {
                x.cast_signed().max(low.cast_signed()).min(high.cast_signed()).cast_unsigned()
            });
        },
        (Scalar::U32, Fun::Clamp) => |o, a, b, c| map3(o, a, b, c, |x, low, high| x.max(low).min(high)),
        (Scalar::I32, Fun::ExtractBits) => |o, a, b, c| {
            map3(o, a, b, c, |x, offset, count| {
                let (offset, count) = bit_range(offset, count);
                (x.wrapping_shl(32 - count - offset).cast_signed().wrapping_shr(32 - count)).cast_unsigned()
                    & some(count)
            });
        },
        (Scalar::U32, Fun::ExtractBits) => |o, a, b, c| {
            map3(o, a, b, c, |x, offset, count| {
                let (offset, count) = bit_range(offset, count);
                x.wrapping_shr(offset) & ones(count)
            });
        },
        (Scalar::F32, _) => return float_math3::<Single>(fun),
        (Scalar::F16, _) => return float_math3::<Half>(fun),
        _ => return None,
    };
    Some(lane)
}

/// A component-wise function of four operands: `insertBits(e, new, offset, count)` of i32 and u32, the last two u32.
pub(super) fn math4(fun: MathFunction, scalar: Scalar) -> Option<Lane4> {
    match (fun, scalar) {
        (MathFunction::InsertBits, Scalar::I32 | Scalar::U32) => Some(|out, e, new, offset, count| {
            let ranges = offset.iter().zip(count);
            for (((o, &e), &new), (&offset, &count)) in out.iter_mut().zip(e).zip(new).zip(ranges) {
                let (offset, count) = bit_range(offset, count);
                let mask = ones(count).wrapping_shl(offset);
                *o = (e & !mask) | (new.wrapping_shl(offset) & mask);
            }
        }),
        _ => None,
    }
}

/// The part of a bit range that lies in 32 bits; WGSL cuts the offset first, then the count.
#[inline(always)]
fn bit_range(offset: u32, count: u32) -> (u32, u32) {
    let offset = offset.min(32);
    (offset, count.min(32 - offset))
}

/// `count` ones from bit 0 up, for at most 32.
#[inline(always)]
fn ones(count: u32) -> u32 {
    // Shifts count modulo 32, so none of them must stand for 32.
    u32::MAX.wrapping_shr(32 - count) & some(count)
}

/// All ones if `count` is not 0.
#[inline(always)]
fn some(count: u32) -> u32 {
    if count == 0 { 0 } else { u32::MAX }
}

/// Functions of three floats.
fn float_math3<K: Float>(fun: MathFunction) -> Option<Lane3> {
    use MathFunction as Fun;
    /// A float function of three operands that rounds by itself.
    #[inline(always)]
    fn float3(out: &mut [u32], a: &[u32], b: &[u32], c: &[u32], f: impl Fn(f32, f32, f32) -> f32) {
        map3(out, a, b, c, |x, y, z| f(f32::from_bits(x), f32::from_bits(y), f32::from_bits(z)).to_bits());
    }
    let lane: Lane3 = match fun {
        Fun::Clamp => |o, a, b, c| float3(o, a, b, c, |x, low, high| x.max(low).min(high)),
        Fun::Fma => |o, a, b, c| float3(o, a, b, c, K::fused),
        Fun::Mix => {
            |o, a, b, c| float3(o, a, b, c, |x, y, t| K::round(K::round(x * K::round(1.0 - t)) + K::round(y * t)))
        }
        Fun::SmoothStep => |o, a, b, c| float3(o, a, b, c, smoothstep::<K>),
        _ => return None,
    };
    Some(lane)
}

/// WGSL's formula, each step rounded.
#[inline(always)]
fn smoothstep<K: Float>(low: f32, high: f32, x: f32) -> f32 {
    let t = saturate(K::round(K::round(x - low) / K::round(high - low)));
    K::round(K::round(t * t) * K::round(3.0 - 2.0 * t))
}

#[cfg(test)]
#[path = "tests/math.rs"]
mod tests;

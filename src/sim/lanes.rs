//! Component-wise arithmetic of WGSL over registers.
//!
//! A register holds one scalar of every invocation ("lane") as 32 bits: `bool` as 0 or 1, `f16` as the bits of the f32 of
//! the same value. Each operation is a plain function over equally long slices that compilers turn into vector
//! instructions. All of them are total: idle lanes hold any bits, so nothing here panics, whatever it is given.
//! Integers wrap; f16 results are computed in f32 and rounded once, which is exact for one operation as f32 has more
//! than twice the digits of f16.

use naga::{BinaryOperator, RelationalFunction, ScalarKind, SubgroupOperation, UnaryOperator};

/// Smallest f16 without a leading zero digit, 2^-14, as f32 bits.
const MIN_NORMAL_F16: u32 = 0x3880_0000;

/// The sign bit of an f32.
const SIGN: u32 = 0x8000_0000;

/// Infinity as f32 bits.
const INFINITY: u32 = 0x7f80_0000;

/// The type of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Scalar {
    /// 0 or 1.
    Bool,
    /// Two's complement.
    I32,
    /// Unsigned.
    U32,
    /// IEEE single precision.
    F32,
    /// IEEE half precision, kept as the f32 of the same value.
    F16,
}

impl Scalar {
    /// The lane type of naga's scalar, or nothing where a lane of 32 bits does not hold it (i64, u64, f64, i16, u16,
    /// abstract numbers).
    pub(super) fn of(scalar: naga::Scalar) -> Option<Self> {
        match (scalar.kind, scalar.width) {
            (ScalarKind::Bool, _) => Some(Self::Bool),
            (ScalarKind::Sint, 4) => Some(Self::I32),
            (ScalarKind::Uint, 4) => Some(Self::U32),
            (ScalarKind::Float, 4) => Some(Self::F32),
            (ScalarKind::Float, 2) => Some(Self::F16),
            _ => None,
        }
    }
}

/// Writes an operation of one operand: out, a.
pub(super) type Lane1 = fn(&mut [u32], &[u32]);
/// Writes an operation of two operands: out, a, b.
pub(super) type Lane2 = fn(&mut [u32], &[u32], &[u32]);
/// Writes an operation of three operands: out, a, b, c.
pub(super) type Lane3 = fn(&mut [u32], &[u32], &[u32], &[u32]);
/// Writes an operation of four operands: out, a, b, c, d.
pub(super) type Lane4 = fn(&mut [u32], &[u32], &[u32], &[u32], &[u32]);

/// Applies `f` to each lane of `a`.
#[inline(always)]
pub(super) fn map1(out: &mut [u32], a: &[u32], f: impl Fn(u32) -> u32) {
    for (o, &x) in out.iter_mut().zip(a) {
        *o = f(x);
    }
}

/// Applies `f` to each pair of lanes.
#[inline(always)]
pub(super) fn map2(out: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(u32, u32) -> u32) {
    for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
        *o = f(x, y);
    }
}

/// Applies `f` to each triple of lanes.
#[inline(always)]
pub(super) fn map3(out: &mut [u32], a: &[u32], b: &[u32], c: &[u32], f: impl Fn(u32, u32, u32) -> u32) {
    for (((o, &x), &y), &z) in out.iter_mut().zip(a).zip(b).zip(c) {
        *o = f(x, y, z);
    }
}

/// How the results of a float type are rounded.
pub(super) trait Float {
    /// The nearest value of the type, ties to even.
    fn round(x: f32) -> f32;
    /// The nearest value of the type, ties to even, from double precision.
    fn narrow(x: f64) -> f32;
    /// `x * y + z` with one rounding.
    fn fused(x: f32, y: f32, z: f32) -> f32;
}

/// Arithmetic of f32.
pub(super) struct Single;

/// Arithmetic of f16.
pub(super) struct Half;

impl Float for Single {
    #[inline(always)]
    fn round(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    fn narrow(x: f64) -> f32 {
        x as f32
    }

    #[inline(always)]
    fn fused(x: f32, y: f32, z: f32) -> f32 {
        x.mul_add(y, z)
    }
}

impl Float for Half {
    #[inline(always)]
    fn round(x: f32) -> f32 {
        round_f16(x)
    }

    /// Rounds to f32 with an odd last digit first, so that the second rounding sees on which side of a tie `x` lies.
    #[inline(always)]
    fn narrow(x: f64) -> f32 {
        let near = x as f32;
        let back = f64::from(near);
        if back == x || x.is_nan() {
            return round_f16(near);
        }
        let below = if back.abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
        round_f16(f32::from_bits(below | 1))
    }

    /// In f64 the product is exact, and where the sum is not, one part is too small to move the other to a tie.
    #[inline(always)]
    fn fused(x: f32, y: f32, z: f32) -> f32 {
        Self::narrow(f64::from(x) * f64::from(y) + f64::from(z))
    }
}

/// The f16 nearest to `x`, ties to even, as an f32; past 65,519.99 it is infinite, and a NaN stays one.
#[inline(always)]
pub(super) fn round_f16(x: f32) -> f32 {
    let bits = x.to_bits();
    let size = bits & !SIGN;
    // Eleven digits stay: add half of the last one (less one, plus the digit itself: ties to even) and cut.
    let cut = (size.wrapping_add(0xfff + ((size >> 13) & 1))) & !0x1fff;
    let cut = if cut > 0x477f_e000 { INFINITY } else { cut };
    // Below 2^-14 the last digit stays at 2^-24, as in f32 between 0.5 and 1.
    let small = ((f32::from_bits(size) + 0.5) - 0.5).to_bits();
    let nan = (size | 0x0040_0000) & !0x1fff;
    let rounded = if size < MIN_NORMAL_F16 { small } else { cut };
    let rounded = if size > INFINITY { nan } else { rounded };
    f32::from_bits(rounded | (bits & SIGN))
}

/// A float operation of one operand, rounded.
#[inline(always)]
pub(super) fn float1<K: Float>(out: &mut [u32], a: &[u32], f: impl Fn(f32) -> f32) {
    map1(out, a, |x| K::round(f(f32::from_bits(x))).to_bits());
}

/// A float operation of two operands, rounded.
#[inline(always)]
pub(super) fn float2<K: Float>(out: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(f32, f32) -> f32) {
    map2(out, a, b, |x, y| K::round(f(f32::from_bits(x), f32::from_bits(y))).to_bits());
}

/// An operation of two signed operands.
#[inline(always)]
pub(super) fn int2(out: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(i32, i32) -> i32) {
    map2(out, a, b, |x, y| f(x.cast_signed(), y.cast_signed()).cast_unsigned());
}

/// `op` over lanes of `scalar`, if WGSL has it for that type.
pub(super) fn unary(op: UnaryOperator, scalar: Scalar) -> Option<Lane1> {
    use UnaryOperator as Op;
    let lane: Lane1 = match (op, scalar) {
        (Op::Negate, Scalar::I32) => |o, a| map1(o, a, u32::wrapping_neg),
        (Op::Negate, Scalar::F32 | Scalar::F16) => |o, a| map1(o, a, |x| x ^ SIGN),
        (Op::LogicalNot, Scalar::Bool) => |o, a| map1(o, a, |x| u32::from(x == 0)),
        (Op::BitwiseNot, Scalar::I32 | Scalar::U32) => |o, a| map1(o, a, |x| !x),
        _ => return None,
    };
    Some(lane)
}

/// `op` over lanes of `scalar`, if WGSL has it for that type; a comparison gives 0 or 1.
///
/// The right operand of a shift is u32 and counts modulo 32. An integer divided by 0 stays as it is with remainder 0, and
/// the smallest i32 divided by -1 stays as it is with remainder 0. The remainder of floats has the sign of the left.
pub(super) fn binary(op: BinaryOperator, scalar: Scalar) -> Option<Lane2> {
    match scalar {
        Scalar::Bool => binary_bool(op),
        Scalar::I32 => binary_i32(op),
        Scalar::U32 => binary_u32(op),
        Scalar::F32 => binary_float::<Single>(op),
        Scalar::F16 => binary_float::<Half>(op),
    }
}

/// Operators of bool.
fn binary_bool(op: BinaryOperator) -> Option<Lane2> {
    use BinaryOperator as Op;
    let lane: Lane2 = match op {
        Op::Equal => |o, a, b| map2(o, a, b, |x, y| u32::from((x != 0) == (y != 0))),
        Op::NotEqual | Op::ExclusiveOr => |o, a, b| map2(o, a, b, |x, y| u32::from((x != 0) != (y != 0))),
        Op::And | Op::LogicalAnd => |o, a, b| map2(o, a, b, |x, y| u32::from(x != 0) & u32::from(y != 0)),
        Op::InclusiveOr | Op::LogicalOr => |o, a, b| map2(o, a, b, |x, y| u32::from(x | y != 0)),
        _ => return None,
    };
    Some(lane)
}

/// Operators of i32.
fn binary_i32(op: BinaryOperator) -> Option<Lane2> {
    use BinaryOperator as Op;
    let lane: Lane2 = match op {
        // Over sizes there is no overflow to ask for: 2^31 by 1 is 2^31, the bits of the smallest i32.
        Op::Divide => |o, a, b| {
            int2(o, a, b, |x, y| {
                let size = x.unsigned_abs().checked_div(y.unsigned_abs()).unwrap_or(x.unsigned_abs()).cast_signed();
                if (x < 0) != (y < 0) { size.wrapping_neg() } else { size }
            });
        },
        Op::Modulo => |o, a, b| {
            int2(o, a, b, |x, y| {
                let size = x.unsigned_abs().checked_rem(y.unsigned_abs()).unwrap_or(0).cast_signed();
                if x < 0 { size.wrapping_neg() } else { size }
            });
        },
        Op::Less => |o, a, b| int2(o, a, b, |x, y| i32::from(x < y)),
        Op::LessEqual => |o, a, b| int2(o, a, b, |x, y| i32::from(x <= y)),
        Op::Greater => |o, a, b| int2(o, a, b, |x, y| i32::from(x > y)),
        Op::GreaterEqual => |o, a, b| int2(o, a, b, |x, y| i32::from(x >= y)),
        Op::ShiftRight => |o, a, b| int2(o, a, b, |x, y| x.wrapping_shr(y.cast_unsigned())),
        // The low 32 bits of the others do not depend on the sign.
        _ => return binary_u32(op),
    };
    Some(lane)
}

/// Operators of u32.
fn binary_u32(op: BinaryOperator) -> Option<Lane2> {
    use BinaryOperator as Op;
    let lane: Lane2 = match op {
        Op::Add => |o, a, b| map2(o, a, b, u32::wrapping_add),
        Op::Subtract => |o, a, b| map2(o, a, b, u32::wrapping_sub),
        Op::Multiply => |o, a, b| map2(o, a, b, u32::wrapping_mul),
        Op::Divide => |o, a, b| map2(o, a, b, |x, y| x.checked_div(y).unwrap_or(x)),
        Op::Modulo => |o, a, b| map2(o, a, b, |x, y| x.checked_rem(y).unwrap_or(0)),
        Op::Equal => |o, a, b| map2(o, a, b, |x, y| u32::from(x == y)),
        Op::NotEqual => |o, a, b| map2(o, a, b, |x, y| u32::from(x != y)),
        Op::Less => |o, a, b| map2(o, a, b, |x, y| u32::from(x < y)),
        Op::LessEqual => |o, a, b| map2(o, a, b, |x, y| u32::from(x <= y)),
        Op::Greater => |o, a, b| map2(o, a, b, |x, y| u32::from(x > y)),
        Op::GreaterEqual => |o, a, b| map2(o, a, b, |x, y| u32::from(x >= y)),
        Op::And => |o, a, b| map2(o, a, b, |x, y| x & y),
        Op::ExclusiveOr => |o, a, b| map2(o, a, b, |x, y| x ^ y),
        Op::InclusiveOr => |o, a, b| map2(o, a, b, |x, y| x | y),
        Op::ShiftLeft => |o, a, b| map2(o, a, b, u32::wrapping_shl),
        Op::ShiftRight => |o, a, b| map2(o, a, b, u32::wrapping_shr),
        Op::LogicalAnd | Op::LogicalOr => return None,
    };
    Some(lane)
}

/// Operators of f32 and f16.
fn binary_float<K: Float>(op: BinaryOperator) -> Option<Lane2> {
    use BinaryOperator as Op;
    /// A comparison of floats.
    #[inline(always)]
    fn compare(out: &mut [u32], a: &[u32], b: &[u32], f: impl Fn(f32, f32) -> bool) {
        map2(out, a, b, |x, y| u32::from(f(f32::from_bits(x), f32::from_bits(y))));
    }
    let lane: Lane2 = match op {
        Op::Add => |o, a, b| float2::<K>(o, a, b, |x, y| x + y),
        Op::Subtract => |o, a, b| float2::<K>(o, a, b, |x, y| x - y),
        Op::Multiply => |o, a, b| float2::<K>(o, a, b, |x, y| x * y),
        Op::Divide => |o, a, b| float2::<K>(o, a, b, |x, y| x / y),
        Op::Modulo => |o, a, b| float2::<K>(o, a, b, |x, y| x % y),
        Op::Equal => |o, a, b| compare(o, a, b, |x, y| x == y),
        Op::NotEqual => |o, a, b| compare(o, a, b, |x, y| x != y),
        Op::Less => |o, a, b| compare(o, a, b, |x, y| x < y),
        Op::LessEqual => |o, a, b| compare(o, a, b, |x, y| x <= y),
        Op::Greater => |o, a, b| compare(o, a, b, |x, y| x > y),
        Op::GreaterEqual => |o, a, b| compare(o, a, b, |x, y| x >= y),
        _ => return None,
    };
    Some(lane)
}

/// Chooses by lane, whatever the type: out = cond != 0 ? accept : reject, for operands cond, accept, reject.
pub(super) fn select() -> Lane3 {
    |o, cond, accept, reject| map3(o, cond, accept, reject, |c, x, y| if c != 0 { x } else { y })
}

/// WGSL's value conversion, naga's `As` with a width.
///
/// A float becomes the integer nearest on the way to 0 among those that both types hold: past the range it is the
/// largest such (2,147,483,520 for f32 to i32), and a NaN is 0. To f16 rounds to nearest, past its range to infinity.
pub(super) fn convert(from: Scalar, to: Scalar) -> Lane1 {
    use Scalar::{Bool, F16, F32, I32, U32};
    match (from, to) {
        (Bool, F32 | F16) => |o, a| map1(o, a, |x| if x != 0 { 1.0_f32.to_bits() } else { 0 }),
        (Bool | I32 | U32, Bool) | (Bool, I32 | U32) => |o, a| map1(o, a, |x| u32::from(x != 0)),
        (F32 | F16, Bool) => |o, a| map1(o, a, |x| u32::from(f32::from_bits(x) != 0.0)),
        (I32 | U32, I32 | U32) | (F32, F32) | (F16, F32 | F16) => |o, a| map1(o, a, |x| x),
        (I32, F32) => |o, a| map1(o, a, |x| (x.cast_signed() as f32).to_bits()),
        (U32, F32) => |o, a| map1(o, a, |x| (x as f32).to_bits()),
        // What f32 rounds here is past the range of f16 by far.
        (I32, F16) => |o, a| map1(o, a, |x| round_f16(x.cast_signed() as f32).to_bits()),
        (U32, F16) => |o, a| map1(o, a, |x| round_f16(x as f32).to_bits()),
        (F32, F16) => |o, a| float1::<Half>(o, a, |x| x),
        (F32, I32) => |o, a| map1(o, a, |x| (f32::from_bits(x) as i32).min(0x7fff_ff80).cast_unsigned()),
        (F32, U32) => |o, a| map1(o, a, |x| (f32::from_bits(x) as u32).min(0xffff_ff00)),
        (F16, I32) => |o, a| map1(o, a, |x| (f32::from_bits(x) as i32).clamp(-65_504, 65_504).cast_unsigned()),
        (F16, U32) => |o, a| map1(o, a, |x| (f32::from_bits(x) as u32).min(65_504)),
    }
}

/// `isNan` and `isInf` of a float type by lane, giving 0 or 1; `all` and `any` mix components and are no lane function.
pub(super) fn relational(fun: RelationalFunction, scalar: Scalar) -> Option<Lane1> {
    let lane: Lane1 = match (fun, scalar) {
        (RelationalFunction::IsNan, Scalar::F32 | Scalar::F16) => {
            |o, a| map1(o, a, |x| u32::from(x & !SIGN > INFINITY))
        }
        (RelationalFunction::IsInf, Scalar::F32 | Scalar::F16) => {
            |o, a| map1(o, a, |x| u32::from(x & !SIGN == INFINITY))
        }
        _ => return None,
    };
    Some(lane)
}

/// Combines two lanes of a subgroup operation, if naga has it for that type.
pub(super) fn subgroup(op: SubgroupOperation, scalar: Scalar) -> Option<fn(u32, u32) -> u32> {
    use Scalar::{Bool, F16, F32, I32, U32};
    use SubgroupOperation as Op;
    /// A float operation of two bit patterns.
    #[inline(always)]
    fn float(x: u32, y: u32, f: impl Fn(f32, f32) -> f32) -> u32 {
        f(f32::from_bits(x), f32::from_bits(y)).to_bits()
    }
    let pair: fn(u32, u32) -> u32 = match (op, scalar) {
        (Op::All, Bool) => |x, y| u32::from(x != 0) & u32::from(y != 0),
        (Op::Any, Bool) => |x, y| u32::from(x | y != 0),
        (Op::Add, I32 | U32) => u32::wrapping_add,
        (Op::Add, F32) => |x, y| float(x, y, |x, y| x + y),
        (Op::Add, F16) => |x, y| float(x, y, |x, y| round_f16(x + y)),
        (Op::Mul, I32 | U32) => u32::wrapping_mul,
        (Op::Mul, F32) => |x, y| float(x, y, |x, y| x * y),
        (Op::Mul, F16) => |x, y| float(x, y, |x, y| round_f16(x * y)),
        (Op::Min, I32) => |x, y| x.cast_signed().min(y.cast_signed()).cast_unsigned(),
        (Op::Min, U32) => |x, y| x.min(y),
        (Op::Min, F32 | F16) => |x, y| float(x, y, f32::min),
        (Op::Max, I32) => |x, y| x.cast_signed().max(y.cast_signed()).cast_unsigned(),
        (Op::Max, U32) => |x, y| x.max(y),
        (Op::Max, F32 | F16) => |x, y| float(x, y, f32::max),
        (Op::And, I32 | U32) => |x, y| x & y,
        (Op::Or, I32 | U32) => |x, y| x | y,
        (Op::Xor, I32 | U32) => |x, y| x ^ y,
        _ => return None,
    };
    Some(pair)
}

/// The value that leaves any other as it is under [`subgroup`]; 0 for a pair that naga does not have.
pub(super) fn neutral(op: SubgroupOperation, scalar: Scalar) -> u32 {
    use Scalar::{Bool, F16, F32, I32, U32};
    use SubgroupOperation as Op;
    match (op, scalar) {
        (Op::All, Bool) | (Op::Mul, I32 | U32) => 1,
        (Op::Mul, F32 | F16) => 1.0_f32.to_bits(),
        (Op::Min, I32) => i32::MAX.cast_unsigned(),
        (Op::Min, F32 | F16) => INFINITY,
        (Op::Max, I32) => i32::MIN.cast_unsigned(),
        (Op::Max, F32 | F16) => INFINITY | SIGN,
        (Op::Min | Op::And, U32) | (Op::And, I32) => u32::MAX,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "tests/lanes.rs"]
pub(super) mod tests;

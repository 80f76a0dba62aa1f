//! WGSL's functions that pack vectors into one u32 and unpack them, over registers laid out as in [`super::whole`].

use super::lanes::{Scalar, map1, round_f16};
use naga::MathFunction;

/// What a packing or unpacking function works on.
pub(super) struct Format {
    /// Whether it packs; else it unpacks.
    pub(super) packs: bool,
    /// Components of the vector, 2 or 4; component 0 is the lowest bits.
    pub(super) lanes: usize,
    /// Type of the vector.
    pub(super) scalar: Scalar,
}

impl Format {
    /// The format of `fun`, if it is one of these functions.
    pub(super) fn of(fun: MathFunction) -> Option<Self> {
        use MathFunction as Fun;
        let (packs, lanes, scalar) = match fun {
            Fun::Pack4x8snorm | Fun::Pack4x8unorm => (true, 4, Scalar::F32),
            Fun::Pack2x16snorm | Fun::Pack2x16unorm | Fun::Pack2x16float => (true, 2, Scalar::F32),
            Fun::Pack4xI8 | Fun::Pack4xI8Clamp => (true, 4, Scalar::I32),
            Fun::Pack4xU8 | Fun::Pack4xU8Clamp => (true, 4, Scalar::U32),
            Fun::Unpack4x8snorm | Fun::Unpack4x8unorm => (false, 4, Scalar::F32),
            Fun::Unpack2x16snorm | Fun::Unpack2x16unorm | Fun::Unpack2x16float => (false, 2, Scalar::F32),
            Fun::Unpack4xI8 => (false, 4, Scalar::I32),
            Fun::Unpack4xU8 => (false, 4, Scalar::U32),
            _ => return None,
        };
        Some(Self { packs, lanes, scalar })
    }
}

/// Computes a packing or unpacking function over `width` lanes; another function writes nothing.
pub(super) fn apply(fun: MathFunction, width: usize, a: &[u32], out: &mut [u32]) {
    use MathFunction as Fun;
    let signed =
        |x: f32, largest: f64| ((0.5 + largest * f64::from(x).clamp(-1.0, 1.0)).floor() as i32).cast_unsigned();
    let unsigned = |x: f32, largest: f64| (0.5 + largest * f64::from(x).clamp(0.0, 1.0)).floor() as u32;
    match fun {
        Fun::Pack4x8snorm => pack::<8>(width, a, out, |x| signed(f32::from_bits(x), 127.0)),
        Fun::Pack4x8unorm => pack::<8>(width, a, out, |x| unsigned(f32::from_bits(x), 255.0)),
        Fun::Pack2x16snorm => pack::<16>(width, a, out, |x| signed(f32::from_bits(x), 32_767.0)),
        Fun::Pack2x16unorm => pack::<16>(width, a, out, |x| unsigned(f32::from_bits(x), 65_535.0)),
        Fun::Pack2x16float => pack::<16>(width, a, out, |x| f16_bits(f32::from_bits(x))),
        Fun::Pack4xI8 | Fun::Pack4xU8 => pack::<8>(width, a, out, |x| x),
        Fun::Pack4xI8Clamp => pack::<8>(width, a, out, |x| x.cast_signed().clamp(-128, 127).cast_unsigned()),
        Fun::Pack4xU8Clamp => pack::<8>(width, a, out, |x| x.min(255)),
        Fun::Unpack4x8snorm => unpack::<8>(width, a, out, |x| (extend::<8>(x) as f32 / 127.0).max(-1.0).to_bits()),
        Fun::Unpack4x8unorm => unpack::<8>(width, a, out, |x| (x as f32 / 255.0).to_bits()),
        Fun::Unpack2x16snorm => {
            unpack::<16>(width, a, out, |x| (extend::<16>(x) as f32 / 32_767.0).max(-1.0).to_bits());
        }
        Fun::Unpack2x16unorm => unpack::<16>(width, a, out, |x| (x as f32 / 65_535.0).to_bits()),
        Fun::Unpack2x16float => unpack::<16>(width, a, out, |x| f16_value(x).to_bits()),
        Fun::Unpack4xI8 => unpack::<8>(width, a, out, |x| extend::<8>(x).cast_unsigned()),
        Fun::Unpack4xU8 => unpack::<8>(width, a, out, |x| x),
        _ => {}
    }
}

/// Puts the low `BITS` bits of each component's code into one u32.
#[inline(always)]
fn pack<const BITS: usize>(width: usize, a: &[u32], out: &mut [u32], code: impl Fn(u32) -> u32) {
    let mask = u32::MAX >> (32 - BITS);
    let out = &mut out[..width];
    out.fill(0);
    for (component, x) in a.chunks_exact(width).take(32 / BITS).enumerate() {
        for (o, &x) in out.iter_mut().zip(x) {
            *o |= (code(x) & mask) << (component * BITS);
        }
    }
}

/// Gives `BITS` bits at a time to `value`.
#[inline(always)]
fn unpack<const BITS: usize>(width: usize, a: &[u32], out: &mut [u32], value: impl Fn(u32) -> u32) {
    let mask = u32::MAX >> (32 - BITS);
    for (component, o) in out.chunks_exact_mut(width).take(32 / BITS).enumerate() {
        map1(o, a, |x| value((x >> (component * BITS)) & mask));
    }
}

/// The low `BITS` bits as a signed number.
#[inline(always)]
fn extend<const BITS: usize>(x: u32) -> i32 {
    (x << (32 - BITS)).cast_signed() >> (32 - BITS)
}

/// The 16 bits of the f16 nearest to `x`.
#[inline(always)]
pub(super) fn f16_bits(x: f32) -> u32 {
    u32::from(half::f16::from_f32_const(round_f16(x)).to_bits())
}

/// The value of the f16 with these low 16 bits.
#[inline(always)]
pub(super) fn f16_value(bits: u32) -> f32 {
    half::f16::from_bits(bits as u16).to_f32_const()
}

#[cfg(test)]
#[path = "tests/pack.rs"]
mod tests;

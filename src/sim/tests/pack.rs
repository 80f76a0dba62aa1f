//! Packing against hand-made words, the `half` crate and round trips.

use super::super::lanes::tests::{NASTY, halves};
use super::*;
use MathFunction as Fun;

/// Every packing function with the function that undoes it.
const PAIRS: [(Fun, Fun); 9] = [
    (Fun::Pack4x8snorm, Fun::Unpack4x8snorm),
    (Fun::Pack4x8unorm, Fun::Unpack4x8unorm),
    (Fun::Pack2x16snorm, Fun::Unpack2x16snorm),
    (Fun::Pack2x16unorm, Fun::Unpack2x16unorm),
    (Fun::Pack2x16float, Fun::Unpack2x16float),
    (Fun::Pack4xI8, Fun::Unpack4xI8),
    (Fun::Pack4xU8, Fun::Unpack4xU8),
    (Fun::Pack4xI8Clamp, Fun::Unpack4xI8),
    (Fun::Pack4xU8Clamp, Fun::Unpack4xU8),
];

fn packed(fun: Fun, values: &[u32]) -> u32 {
    let mut out = [0xdead_beef];
    apply(fun, 1, values, &mut out);
    out[0]
}

fn packed_floats(fun: Fun, values: &[f32]) -> u32 {
    packed(fun, &values.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
}

fn unpacked<const N: usize>(fun: Fun, word: u32) -> [u32; N] {
    let mut out = [0xdead_beef; N];
    apply(fun, 1, &[word], &mut out);
    out
}

fn unpacked_floats<const N: usize>(fun: Fun, word: u32) -> [f32; N] {
    unpacked(fun, word).map(f32::from_bits)
}

#[test]
fn norms_are_cut_and_rounded_half_up() {
    assert_eq!(packed_floats(Fun::Pack4x8unorm, &[0.0, 1.0, 0.5, 7.0]), 0xff80_ff00);
    assert_eq!(packed_floats(Fun::Pack4x8unorm, &[-1.0, f32::NAN, f32::INFINITY, 0.25]), 0x40ff_0000);
    assert_eq!(packed_floats(Fun::Pack4x8snorm, &[1.0, -1.0, -9.0, 0.5]), 0x4081_817f);
    // -63.5 + 0.5 is -63, -0.25 * 127 + 0.5 = -31.25 goes down to -32.
    assert_eq!(packed_floats(Fun::Pack4x8snorm, &[-0.5, -0.25, f32::NAN, f32::NEG_INFINITY]), 0x8100_e0c1);
    assert_eq!(packed_floats(Fun::Pack2x16unorm, &[1.0, 0.5]), 0x8000_ffff);
    assert_eq!(packed_floats(Fun::Pack2x16snorm, &[-1.0, 1.0]), 0x7fff_8001);
    assert_eq!(unpacked_floats(Fun::Unpack4x8unorm, 0xff33_0000), [0.0, 0.0, 0.2, 1.0]);
    assert_eq!(unpacked_floats(Fun::Unpack4x8snorm, 0x0081_807f), [1.0, -1.0, -1.0, 0.0]);
    assert_eq!(unpacked_floats(Fun::Unpack2x16unorm, 0xffff_3333), [0.2, 1.0]);
    assert_eq!(unpacked_floats(Fun::Unpack2x16snorm, 0x8000_7fff), [1.0, -1.0]);
}

#[test]
fn bytes_wrap_or_are_cut() {
    let signed = [200, -200_i32, -1, 127].map(i32::cast_unsigned);
    assert_eq!(packed(Fun::Pack4xI8, &signed), 0x7fff_38c8);
    assert_eq!(packed(Fun::Pack4xI8Clamp, &signed), 0x7fff_807f);
    assert_eq!(packed(Fun::Pack4xU8, &[256, 511, 1, u32::MAX]), 0xff01_ff00);
    assert_eq!(packed(Fun::Pack4xU8Clamp, &[256, 511, 1, u32::MAX]), 0xff01_ffff);
    assert_eq!(unpacked(Fun::Unpack4xI8, 0x807f_ff01), [1, -1, 127, -128].map(i32::cast_unsigned));
    assert_eq!(unpacked(Fun::Unpack4xU8, 0x807f_ff01), [1, 255, 127, 128]);
}

#[test]
fn f16_words_agree_with_the_half_crate() {
    for x in halves() {
        let bits = u32::from(half::f16::from_f32_const(x).to_bits());
        assert_eq!(packed_floats(Fun::Pack2x16float, &[x, -x]), (bits | 0x8000) << 16 | bits, "{x}");
        assert_eq!(unpacked_floats(Fun::Unpack2x16float, bits << 16 | 0x8000 | bits), [-x, x]);
    }
    assert_eq!(packed_floats(Fun::Pack2x16float, &[65_519.0, 65_520.0]), 0x7c00_7bff);
    assert_eq!(packed_floats(Fun::Pack2x16float, &[2049.0, 2051.0]), 0x6802_6800);
    assert_eq!(packed_floats(Fun::Pack2x16float, &[2.0_f32.powi(-25), f32::NEG_INFINITY]), 0xfc00_0000);
    assert!(unpacked_floats::<2>(Fun::Unpack2x16float, 0x7e00_fc01).iter().all(|x| x.is_nan()));
}

#[test]
fn packing_undoes_unpacking() {
    for (pack, unpack) in PAIRS {
        let (Some(to), Some(from)) = (Format::of(pack), Format::of(unpack)) else { panic!("{pack:?} has no format") };
        assert!(to.packs && !from.packs && to.lanes == from.lanes && to.scalar == from.scalar, "{pack:?}");
        for word in (0..u32::MAX).step_by(0x0010_1013) {
            let mut values = [0; 4];
            apply(unpack, 1, &[word], &mut values[..from.lanes]);
            let snorm_low = matches!(pack, Fun::Pack4x8snorm | Fun::Pack2x16snorm);
            let nan = pack == Fun::Pack2x16float && values.iter().any(|&x| f32::from_bits(x).is_nan());
            let back = packed(pack, &values[..to.lanes]);
            // The lowest code of snorm stands for -1 as the next one does; a NaN becomes quiet.
            let again = if snorm_low || nan { repeated(unpack, back, from.lanes) } else { back };
            let wanted = if snorm_low || nan { repeated(unpack, word, from.lanes) } else { word };
            assert_eq!(again, wanted, "{pack:?} of {word:#x}");
        }
    }
    assert!(Format::of(Fun::Dot).is_none());
}

/// A number that two words share if they unpack to the same values, all NaNs taken as one.
fn repeated(unpack: Fun, word: u32, lanes: usize) -> u32 {
    let mut values = [0; 4];
    apply(unpack, 1, &[word], &mut values[..lanes]);
    values.iter().fold(0, |sum, &x| {
        let x = if f32::from_bits(x).is_nan() { 1 } else { x };
        sum.wrapping_mul(0x0100_0193) ^ x
    })
}

#[test]
fn lanes_stay_apart_and_no_pattern_panics() {
    let width = NASTY.len();
    for (pack, unpack) in PAIRS {
        let mut values = vec![0; 4 * width];
        apply(unpack, width, &NASTY, &mut values);
        let mut words = vec![0xdead_beef; width];
        let inputs: Vec<u32> = NASTY.into_iter().cycle().skip(3).take(4 * width).collect();
        apply(pack, width, &inputs, &mut words);
        let lanes = Format::of(pack).map_or(0, |format| format.lanes);
        for lane in 0..width {
            let mut alone = [0; 4];
            apply(unpack, 1, &NASTY[lane..=lane], &mut alone[..lanes]);
            let column: Vec<u32> = (0..lanes).map(|component| values[component * width + lane]).collect();
            assert_eq!(alone[..lanes], column, "{unpack:?} in lane {lane}");
            let column: Vec<u32> = (0..lanes).map(|component| inputs[component * width + lane]).collect();
            assert_eq!(packed(pack, &column), words[lane], "{pack:?} in lane {lane}");
        }
    }
}

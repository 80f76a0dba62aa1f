//! Mixtures of random bases, entry by entry.

use crate::ops::basis::{Law, Slot};
use crate::philox::{philox4x32, stream};

fn call(seed: u64, counter: [usize; 2], layer: u32, stream: u32) -> [u32; 4] {
    let key = [seed as u32, (seed >> 32) as u32];
    philox4x32([counter[0] as u32, counter[1] as u32, layer, stream], key)
}

fn byte(words: [u32; 4], e: usize) -> u32 {
    words[e / 4 % 4] >> (8 * (e % 4)) & 255
}

fn uniform8(seed: u64, basis: usize, e: usize, layer: u32, stream: u32) -> f64 {
    (2.0 * f64::from(byte(call(seed, [e / 16, basis], layer, stream), e)) - 255.0) / 256.0
}

/// Entry `e` of basis `i` of a slot.
#[must_use]
pub fn entry(law: Law, seed: u64, slot: &Slot, i: usize, e: usize) -> f64 {
    let stream = slot.tag.stream();
    match law {
        Law::Uniform8 => uniform8(seed, i, e, slot.layer, stream),
        Law::Uniform24 => {
            let word = call(seed, [e / 4, i], slot.layer, stream)[e % 4];
            (2.0 * f64::from(word >> 8) + 1.0 - 16_777_216.0) / 16_777_216.0
        }
        Law::Sign => {
            let bits = byte(call(seed, [e / 16, i / 8], slot.layer, stream), e);
            if bits >> (i % 8) & 1 == 1 { -1.0 } else { 1.0 }
        }
        Law::Onehot => {
            let words = call(seed, [e / slot.k, 0], slot.layer, stream);
            if shuffled(e % slot.k, slot.k, words) == i { sign(seed, slot, e) } else { 0.0 }
        }
        Law::Srht => {
            let words = call(seed, [0, 0], slot.layer, stream);
            let place = shuffled(i, slot.len.next_power_of_two(), words);
            if (e & place).count_ones() % 2 == 1 { -sign(seed, slot, e) } else { sign(seed, slot, e) }
        }
    }
}

/// The random sign of element `e`.
fn sign(seed: u64, slot: &Slot, e: usize) -> f64 {
    let words = call(seed, [e / 128, 1], slot.layer, slot.tag.stream());
    if words[e / 32 % 4] >> (e % 32) & 1 == 1 { -1.0 } else { 1.0 }
}

/// Where `x` of the numbers below `n` comes to lie under the keys of a deck.
#[must_use]
pub fn shuffled(x: usize, n: usize, words: [u32; 4]) -> usize {
    let bits = n.next_power_of_two().trailing_zeros();
    let n_low = bits.div_ceil(2);
    let mut x = x as u32;
    loop {
        let (mut low, mut high) = (x & ((1 << n_low) - 1), x >> n_low);
        for round in 0..8 {
            let key = words[round % 4].wrapping_add(if round < 4 { 0 } else { 0x9e37_79b9 });
            let f = |x: u32| {
                let g = (x ^ key).wrapping_mul(0x9e37_79b1);
                let h = (g ^ g >> 15).wrapping_mul(0x85eb_ca77);
                h ^ h >> 16
            };
            if round % 2 == 0 {
                high ^= f(low) & ((1 << (bits / 2)) - 1);
            } else {
                low ^= f(high) & ((1 << n_low) - 1);
            }
        }
        x = high << n_low | low;
        if (x as usize) < n {
            return x as usize;
        }
    }
}

/// Entry `e` of the fixed basis of a slot.
#[must_use]
pub fn fixed_entry(seed: u64, slot: &Slot, e: usize) -> f64 {
    uniform8(seed, 0, e, slot.layer, stream::BASIS_FIXED)
}

/// Writes what the slots are formed to; the rest of `out` stays.
pub fn form(law: Law, seed: u64, slots: &[Slot], coefficients: &[f64], out: &mut [f64]) {
    for slot in slots {
        for e in 0..slot.len {
            let mix: f64 = (0..slot.k).map(|i| coefficients[slot.first + i] * entry(law, seed, slot, i, e)).sum();
            let fixed = f64::from(slot.fixed) * fixed_entry(seed, slot, e);
            out[slot.out + e] = f64::from(slot.scale) * (fixed + mix);
        }
    }
}

/// Writes the gradients of the slots' coefficients, summed over the slots that share them; the rest of `d_coefficients` stays.
pub fn project(law: Law, seed: u64, slots: &[Slot], d_out: &[f64], d_coefficients: &mut [f64]) {
    for slot in slots {
        d_coefficients[slot.first..][..slot.k].fill(0.0);
    }
    for slot in slots {
        for i in 0..slot.k {
            let product: f64 = (0..slot.len).map(|e| d_out[slot.out + e] * entry(law, seed, slot, i, e)).sum();
            d_coefficients[slot.first + i] += f64::from(slot.scale) * product;
        }
    }
}

/// Numbers of one group rounded to `bits`: multiples of the largest size over `2^(bits - 1) - 1`, ties to even. NaN stays, and
/// counts for nothing; a group below 1e-30 is one of zeros.
#[must_use]
pub fn rounded(x: &[f64], bits: u32) -> Vec<f64> {
    let largest = x.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()));
    let step = largest / f64::from((1 << (bits - 1)) - 1);
    let nearest = |v: f64| if largest < 1e-30 { 0.0 } else { (v / step).round_ties_even() * step };
    x.iter().map(|v| if v.is_nan() { *v } else { nearest(*v) }).collect()
}

//! Random tensors in f64, from the generator on the CPU.

use super::Array;
use crate::ops::random::Key;
use crate::philox::Philox;

/// The first `n` words of a key.
#[must_use]
pub fn bits(n: usize, key: Key) -> Vec<u32> {
    let mut draws = Philox::new(key.seed, key.stream, key.step);
    (0..n).map(|_| draws.next_u32()).collect()
}

fn units(n: usize, key: Key) -> Vec<f64> {
    let mut draws = Philox::new(key.seed, key.stream, key.step);
    (0..n).map(|_| f64::from(draws.uniform_f32())).collect()
}

/// Uniform in `[low, high)`.
#[must_use]
pub fn uniform(shape: &[usize], low: f64, high: f64, key: Key) -> Array {
    let data = units(shape.iter().product(), key).iter().map(|u| low + (high - low) * u).collect();
    Array::new(shape, data)
}

/// Normal, by Box-Muller: `u_0, u_1` give `sqrt(-2 ln(1 - u_0))` times the cosine and the sine of `2 pi u_1`.
#[must_use]
pub fn normal(shape: &[usize], mean: f64, std: f64, key: Key) -> Array {
    let n: usize = shape.iter().product();
    let mut data = Vec::with_capacity(n + 1);
    for pair in units(n.next_multiple_of(2), key).chunks_exact(2) {
        let (radius, angle) = ((-2.0 * (1.0 - pair[0]).ln()).sqrt(), std::f64::consts::TAU * pair[1]);
        data.extend([mean + std * radius * angle.cos(), mean + std * radius * angle.sin()]);
    }
    data.truncate(n);
    Array::new(shape, data)
}

/// The numbers below `n` sorted by 64 bits each: words `2 i` (high) and `2 i + 1` (low).
#[must_use]
pub fn permutation(n: usize, key: Key) -> Vec<u32> {
    let words = bits(2 * n, key);
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_by_key(|&i| (words[2 * i as usize], words[2 * i as usize + 1]));
    order
}

/// 1 with probability `p`, else 0.
#[must_use]
pub fn bernoulli(shape: &[usize], p: f64, key: Key) -> Array {
    let data = units(shape.iter().product(), key).iter().map(|u| f64::from(u8::from(*u < p))).collect();
    Array::new(shape, data)
}

/// Threefry2x32-20 of Salmon, Moraes, Dror and Shaw (SC 2011).
#[must_use]
pub fn threefry2x32(counter: [u32; 2], key: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let keys = [key[0], key[1], 0x1BD1_1BDA ^ key[0] ^ key[1]];
    let [mut a, mut b] = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for round in 0..20 {
        a = a.wrapping_add(b);
        b = b.rotate_left(ROTATIONS[round % 8]) ^ a;
        if round % 4 == 3 {
            let step = round / 4 + 1;
            a = a.wrapping_add(keys[step % 3]);
            b = b.wrapping_add(keys[(step + 1) % 3]).wrapping_add(step as u32);
        }
    }
    [a, b]
}

/// The hash of four words by Jarzynski and Olano (JCGT 2020).
#[must_use]
pub fn pcg4d(words: [u32; 4]) -> [u32; 4] {
    let mut v = words.map(|w| w.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 4]| {
        for (to, a, b) in [(0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)] {
            v[to] = v[to].wrapping_add(v[a].wrapping_mul(v[b]));
        }
    };
    mix(&mut v);
    v = v.map(|w| w ^ w >> 16);
    mix(&mut v);
    v
}

#[cfg(test)]
mod tests {
    use super::threefry2x32;

    // The known answers published with the algorithm.
    #[test]
    fn threefry_known_answers() {
        assert_eq!(threefry2x32([0; 2], [0; 2]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
    }
}

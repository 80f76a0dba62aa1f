//! Weights and images from the formula of `tests/golden/formula.py`, which says what each number is.

use leanvision::nn::{ModelSpec, Weights};

const IMAGE_TENSOR: u32 = 65536;

fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

pub fn hash(tensor: u32, i: u32) -> u32 {
    mix(i.wrapping_add(mix(tensor)))
}

/// 2 u - 1 for element `i` of a tensor, in [-1, 1).
fn signed(tensor: u32, i: usize) -> f64 {
    f64::from(hash(tensor, i as u32)) / 2f64.powi(31) - 1.0
}

fn tensor(t: u32, name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape[1..].iter().product();
    let value = |s: f64| match shape.len() {
        4 => s * (6.0 / fan_in as f64).sqrt(),
        2 => s * (3.0 / fan_in as f64).sqrt(),
        3 => s / 2.0,
        _ if name.ends_with("running_var") => 1.0 + (s + 1.0) / 4.0,
        _ if name.ends_with("running_mean") || name.ends_with("bias") => s / 10.0,
        _ => 1.0 + s / 10.0,
    };
    (0..shape.iter().product()).map(|i| value(signed(t, i)) as f32).collect()
}

/// The weights of a network, its tensors counted in the order of their names.
pub fn weights(spec: &ModelSpec) -> Weights {
    let params = spec.plan().params;
    let mut names: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    let place = |name: &str| names.binary_search(&name).expect("it is one of them") as u32;
    let values = params.iter().map(|p| tensor(place(&p.name), &p.name, &p.shape)).collect();
    Weights::new(&params, values).expect("one vector per tensor")
}

/// Images `[n, side, side, 3]`; the formula's own order is `[n, 3, side, side]`.
pub fn images(n: usize, side: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for i in 0..n {
        for (y, x) in (0..side * side).map(|p| (p / side, p % side)) {
            for c in 0..3 {
                let place = ((i * 3 + c) * side + y) * side + x;
                let k = (i + 1) as f64;
                let wave = (0.05 * k * (y + 1) as f64 + 0.11 * k * (x + 1) as f64 + 2.0 * c as f64).sin();
                out.push((signed(IMAGE_TENSOR, place) + 1.5 * wave) as f32);
            }
        }
    }
    out
}

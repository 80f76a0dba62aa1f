use crate::support::compare::{Tolerance, compare};
use crate::support::row::download;
use crate::support::{limit, runtime, short};
use leanvision::ops::random::{self, Key};
use leanvision::reference::random as reference;
use leanvision::{Result, Runtime, Tensor};

const KEY: Key = Key::new(0x0123_4567_89ab_cdef, 7, 9);
const SHAPES: &[&[usize]] = &[&[0], &[], &[1], &[3], &[255], &[256, 1], &[257], &[5, 7, 11], &[1_000_003]];

fn shapes() -> impl Iterator<Item = &'static [usize]> {
    SHAPES.iter().copied().filter(|s| s.iter().product::<usize>() <= if short() { 100_000 } else { limit() })
}

fn matches(
    name: &str,
    runtime: &Runtime,
    tolerance: Tolerance,
    op: impl Fn(&[usize]) -> Result<Tensor>,
    want: impl Fn(&[usize]) -> leanvision::reference::Array,
) {
    for shape in shapes() {
        let out = op(shape).unwrap();
        assert_eq!(out.shape(), shape, "{name}");
        if let Err(message) = compare(&download(&out).unwrap(), &want(shape).data, tolerance) {
            panic!("{name} {shape:?}: {message}");
        }
        drop(out);
        assert_eq!(runtime.damaged_guards().unwrap(), 0, "{name} {shape:?}: written past the end");
    }
}

const EXACT: Tolerance = Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 };

#[test]
fn philox_known_answers_on_the_device() {
    let Some(runtime) = runtime() else { return };
    let cases: [([u32; 4], u64, [u32; 4]); 3] = [
        ([0; 4], 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            0x299f_31d0_a409_3822,
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, seed, want) in cases {
        let counters = Tensor::from_slice(&runtime, &counter, &[1, 4]).unwrap();
        assert_eq!(random::philox(&counters, seed).unwrap().to_vec::<u32>().unwrap(), want);
    }
    // Counters that carry in every half of both products, in a view.
    let counters: Vec<u32> = (0..4 * 1001_u32).map(|i| i.wrapping_mul(0x9E37_79B9) ^ (i << 27)).collect();
    let tensor = Tensor::from_slice(&runtime, &counters, &[1001, 4]).unwrap().slice(0, 1..1001).unwrap();
    let words = random::philox(&tensor, KEY.seed).unwrap().to_vec::<u32>().unwrap();
    let key = [KEY.seed as u32, (KEY.seed >> 32) as u32];
    for (counter, words) in counters[4..].chunks_exact(4).zip(words.chunks_exact(4)) {
        assert_eq!(leanvision::philox::philox4x32(counter.try_into().unwrap(), key), words, "{counter:x?}");
    }
}

#[test]
fn words_equal_those_of_the_cpu() {
    let Some(runtime) = runtime() else { return };
    // The last one passes 65,535 workgroups.
    for n in shapes().map(|s| s.iter().product()).chain((!short()).then_some(16_777_301)).filter(|n| *n <= limit()) {
        assert!(random::bits(&runtime, n, KEY).unwrap().to_vec::<u32>().unwrap() == reference::bits(n, KEY), "{n}");
    }
    // Every field of the key reaches the generator.
    let first = |key| random::bits(&runtime, 5, key).unwrap().to_vec::<u32>().unwrap();
    for key in [Key::new(1 << 32, 0, 0), Key::new(1, 0, 0), Key::new(0, 1, 0), Key::new(0, 0, 1)] {
        assert_eq!(first(key), reference::bits(5, key));
        assert_ne!(first(key), first(Key::new(0, 0, 0)));
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn draws_match_the_reference() {
    let Some(runtime) = runtime() else { return };
    let rt = &*runtime;
    matches("unit", rt, EXACT, |s| random::uniform(rt, s, 0.0, 1.0, KEY), |s| reference::uniform(s, 0.0, 1.0, KEY));
    // One rounding each of product and sum, of numbers below 8.
    let tolerance = Tolerance { atol: 1e-6, rtol: 0.0, allowed: 0 };
    matches(
        "uniform",
        rt,
        tolerance,
        |s| random::uniform(rt, s, -3.0, 5.0, KEY),
        |s| reference::uniform(s, -3.0, 5.0, KEY),
    );
    for p in [0.0, 1.0, 0.25, 0.1] {
        matches(
            "bernoulli",
            rt,
            EXACT,
            |s| random::bernoulli(rt, s, p, KEY),
            |s| reference::bernoulli(s, f64::from(p), KEY),
        );
    }
    // Radius and direction are each good to a few units in the last place.
    let tolerance = Tolerance { atol: 1e-6, rtol: 1e-6, allowed: 0 };
    matches("normal", rt, tolerance, |s| random::normal(rt, s, 0.0, 1.0, KEY), |s| reference::normal(s, 0.0, 1.0, KEY));
    matches(
        "normal",
        rt,
        tolerance,
        |s| random::normal(rt, s, -1.0, 0.125, KEY),
        |s| reference::normal(s, -1.0, 0.125, KEY),
    );
}

#[test]
fn permutations_equal_those_of_the_cpu() {
    let Some(runtime) = runtime() else { return };
    for n in shapes().map(|s| s.iter().product::<usize>()) {
        let order = random::permutation(&runtime, n, KEY).unwrap().to_vec::<u32>().unwrap();
        assert!(order == reference::permutation(n, KEY), "{n}");
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..n as u32), "{n}");
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn permutations_are_uniform() {
    let Some(runtime) = runtime() else { return };
    // The 24 orders of 4 numbers over 720 keys: chi-square with 23 degrees of freedom, standard deviation 6.8.
    let mut counts = std::collections::HashMap::new();
    for step in 0..720 {
        let order = random::permutation(&runtime, 4, Key { step, ..KEY }).unwrap().to_vec::<u32>().unwrap();
        *counts.entry(order).or_insert(0.0) += 1.0;
    }
    let chi = counts.values().map(|c: &f64| (c - 30.0).powi(2) / 30.0).sum::<f64>();
    assert!(counts.len() == 24 && chi < 57.0, "{chi} over {} orders", counts.len());
}

#[test]
fn intervals_stay_open_above() {
    let Some(runtime) = runtime() else { return };
    // Two floats apart: the sum rounds up to 1.0000002 for a quarter of the draws.
    let (low, high) = (1.0_f32, 1.0_f32.next_up().next_up());
    let values = random::uniform(&runtime, &[4096], low, high, KEY).unwrap().to_vec::<f32>().unwrap();
    assert!(values.iter().all(|v| (low..high).contains(v)));
    assert!(values.contains(&low) && values.contains(&low.next_up()));
}

/// Sums of a sample: mean, variance, correlation of neighbours.
fn moments(x: &[f64]) -> (f64, f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let product = x.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / n;
    (mean, variance, product / variance)
}

#[test]
fn samples_have_the_moments_of_their_distribution() {
    let Some(runtime) = runtime() else { return };
    let n = if short() { 65_536 } else { 1 << 20 }.min(limit());
    // Five standard deviations of each estimate; the draws are fixed, so what passes once passes always.
    let sigma = 5.0 / (n as f64).sqrt();
    let uniform = download(&random::uniform(&runtime, &[n], 0.0, 1.0, KEY).unwrap()).unwrap();
    let (mean, variance, correlation) = moments(&uniform);
    assert!((mean - 0.5).abs() < 0.29 * sigma && (variance - 1.0 / 12.0).abs() < 0.075 * sigma, "{mean} {variance}");
    assert!(correlation.abs() < sigma, "{correlation}");

    let normal = download(&random::normal(&runtime, &[n], 0.0, 1.0, KEY).unwrap()).unwrap();
    let (mean, variance, correlation) = moments(&normal);
    assert!(mean.abs() < sigma && (variance - 1.0).abs() < 1.42 * sigma, "{mean} {variance}");
    assert!(correlation.abs() < sigma, "{correlation}");
    let skew = normal.iter().map(|v| v.powi(3)).sum::<f64>() / n as f64;
    let kurtosis = normal.iter().map(|v| v.powi(4)).sum::<f64>() / n as f64;
    assert!(skew.abs() < 3.9 * sigma && (kurtosis - 3.0).abs() < 9.8 * sigma, "{skew} {kurtosis}");
    let beyond_two = normal.iter().filter(|v| v.abs() > 2.0).count() as f64 / n as f64;
    assert!((beyond_two - 0.045_500_26).abs() < 0.21 * sigma, "{beyond_two}");

    let words = random::bits(&runtime, n, KEY).unwrap().to_vec::<u32>().unwrap();
    for shift in [0, 8, 16, 24] {
        let mut counts = [0.0_f64; 256];
        words.iter().for_each(|w| counts[(w >> shift & 255) as usize] += 1.0);
        let expected = n as f64 / 256.0;
        let chi = counts.iter().map(|c| (c - expected).powi(2) / expected).sum::<f64>();
        // 255 degrees of freedom: 255 on average, standard deviation 22.6.
        assert!((chi - 255.0).abs() < 113.0, "bits {shift}..: chi-square {chi}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f32::NAN, 1.0), (0.0, f32::INFINITY), (f32::MIN, f32::MAX)] {
        assert!(random::uniform(&runtime, &[4], low, high, KEY).is_err(), "{low}..{high}");
    }
    for p in [-0.1, 1.1, f32::NAN] {
        assert!(random::bernoulli(&runtime, &[4], p, KEY).unwrap_err().to_string().contains("0 to 1 wanted"));
    }
    assert!(random::normal(&runtime, &[4], 0.0, -1.0, KEY).is_err());
    let floats = Tensor::from_slice(&runtime, &[0.0_f32; 4], &[1, 4]).unwrap();
    assert!(random::philox(&floats, 0).is_err() && random::philox(&floats.reshape(&[2, 2]).unwrap(), 0).is_err());
}

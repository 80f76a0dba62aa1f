//! Mixtures of random bases: draws bit for bit, forms and projections against f64.

use crate::support::row::values;
use crate::support::{adapter_runtime, limit, runtimes, short};
use leanvision::ops::basis::{Law, Mixture, Rounding, Slot, Tag};
use leanvision::reference::basis as reference;
use leanvision::{DType, Runtime, Tensor};

const SEED: u64 = 0x0123_4567_89ab_cdef;
/// What a kernel must not touch.
const UNTOUCHED: f32 = 77.0;

fn slot(len: usize, k: usize) -> Slot {
    Slot { len, out: 0, first: 0, k, layer: 3, tag: Tag::A, scale: 1.0, fixed: 0.0 }
}

fn draw(n: usize, seed: u64) -> Vec<f64> {
    values(&[n], &(-1.0..1.0), DType::F32, seed).data
}

fn upload(runtime: &Runtime, data: &[f64]) -> Tensor {
    Tensor::from_slice(runtime, &data.iter().map(|v| *v as f32).collect::<Vec<_>>(), &[data.len()]).unwrap()
}

fn filled(runtime: &Runtime, n: usize) -> Tensor {
    Tensor::from_slice(runtime, &vec![UNTOUCHED; n], &[n]).unwrap()
}

/// The largest difference over the root mean square of what is wanted; NaN counts as infinite.
fn error(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|v| v * v).sum::<f64>() / want.len() as f64).sqrt();
    let far = |(got, want): (&f32, &f64)| (f64::from(*got) - want).abs() / rms.max(1e-30);
    got.iter().zip(want).map(far).fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { f64::max(worst, e) })
}

fn formed(mixture: &Mixture, runtime: &Runtime, c: &[f64], n: usize) -> Vec<f32> {
    let out = filled(runtime, n);
    mixture.form(&upload(runtime, c), &out).unwrap();
    out.to_vec().unwrap()
}

fn projected(mixture: &Mixture, runtime: &Runtime, d_out: &[f64], c: usize) -> Vec<f32> {
    let out = filled(runtime, c);
    mixture.project(&upload(runtime, d_out), &out).unwrap();
    out.to_vec().unwrap()
}

/// Slots that a network has: two layers with factors, a weight that shares its coefficients with another one's, gaps between
/// the ranges, places that are no multiple of 4, one of whose fixed basis takes part.
fn network() -> (Vec<Slot>, usize, usize) {
    let slots = vec![
        Slot { len: 37, out: 3, first: 70, k: 19, layer: 0, tag: Tag::A, scale: 0.5, fixed: 0.0 },
        Slot { len: 130, out: 41, first: 2, k: 64, layer: 0, tag: Tag::B, scale: 1.0, fixed: 0.75 },
        Slot { len: 18, out: 180, first: 70, k: 19, layer: 1, tag: Tag::A, scale: -2.0, fixed: 0.0 },
        Slot { len: 1, out: 199, first: 90, k: 1, layer: 7, tag: Tag::Dense, scale: 1.0, fixed: 0.0 },
        Slot { len: 50, out: 203, first: 2, k: 64, layer: 5, tag: Tag::Dense, scale: 0.25, fixed: -1.0 },
    ];
    (slots, 93, 257)
}

#[test]
fn entries_equal_those_of_the_cpu() {
    for runtime in runtimes() {
        let n = if limit() < usize::MAX || !runtime.takes(usize::MAX) { 100 } else { 1_000_003 };
        for law in Law::ALL {
            // Of one basis with coefficient 1; the last of several, whose others do not count; the fixed one.
            for (k, n) in [(1, n), (11, 1000.min(n))] {
                let slot = slot(n, k);
                let c: Vec<f64> = (0..k).map(|i| f64::from(u8::from(i + 1 == k))).collect();
                let got = formed(&Mixture::new(&runtime, law, SEED, &[slot]).unwrap(), &runtime, &c, n);
                let want: Vec<f32> = (0..n).map(|e| reference::entry(law, SEED, &slot, k - 1, e) as f32).collect();
                assert!(got == want, "{law}, {n} of {k}");
            }
        }
        let slot = Slot { fixed: 1.0, ..slot(n.min(1000), 1) };
        let mixture = Mixture::new(&runtime, Law::Sign, SEED, &[slot]).unwrap();
        let want: Vec<f32> = (0..slot.len).map(|e| reference::fixed_entry(SEED, &slot, e) as f32).collect();
        assert!(formed(&mixture, &runtime, &[0.0], slot.len) == want);
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn mixtures_match_the_reference() {
    for runtime in runtimes() {
        let lens: &[usize] = if short() { &[1, 17, 257] } else { &[1, 15, 16, 17, 257, 1023, 4099] };
        for law in Law::ALL {
            for &len in lens {
                for k in [1, 7, 8, 64, 1024] {
                    let is_none = (law == Law::Srht && k > len.next_power_of_two()) || len * k > 1 << 21;
                    if is_none || !runtime.takes(len * k / 16) || len * k / 16 > limit() {
                        continue;
                    }
                    let slot = Slot { scale: 1.5, fixed: 0.5, ..slot(len, k) };
                    let mixture = Mixture::new(&runtime, law, SEED, &[slot]).unwrap();
                    let (c, d_out) = (draw(k, 1), draw(len, 2));
                    let mut want = vec![0.0; len];
                    reference::form(law, SEED, &[slot], &c, &mut want);
                    let far = error(&formed(&mixture, &runtime, &c, len), &want);
                    assert!(far < 1e-5, "{law}, {len} of {k}: form is {far:e} off");
                    let mut want = vec![0.0; k];
                    reference::project(law, SEED, &[slot], &d_out, &mut want);
                    let far = error(&projected(&mixture, &runtime, &d_out, k), &want);
                    assert!(far < 1e-5, "{law}, {len} of {k}: project is {far:e} off");
                }
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn slots_keep_to_their_ranges() {
    let (slots, n_c, n) = network();
    for runtime in runtimes() {
        for law in Law::ALL {
            let mixture = Mixture::new(&runtime, law, SEED, &slots).unwrap();
            assert_eq!(mixture.slots(), slots);
            let draws = match law {
                Law::Onehot | Law::Srht => 37 + 2 * 130 + 18 + 1 + 2 * 50,
                _ => 37 * 19 + 130 * 65 + 18 * 19 + 1 + 50 * 65,
            };
            assert_eq!(mixture.draws(), draws);
            let (c, d_out) = (draw(n_c, 1), draw(n, 2));
            let mut want = vec![f64::from(UNTOUCHED); n];
            reference::form(law, SEED, &slots, &c, &mut want);
            let got = formed(&mixture, &runtime, &c, n);
            assert!(error(&got, &want) < 1e-6, "{law}: {got:?} {want:?}");
            // What is no slot's stays bit for bit.
            let free = |e: usize| !slots.iter().any(|slot| (slot.out..slot.out + slot.len).contains(&e));
            assert!((0..n).filter(|e| free(*e)).all(|e| got[e] == UNTOUCHED), "{law}");
            let mut want = vec![f64::from(UNTOUCHED); n_c];
            reference::project(law, SEED, &slots, &d_out, &mut want);
            let got = projected(&mixture, &runtime, &d_out, n_c);
            assert!(error(&got, &want) < 1e-6, "{law}: {got:?} {want:?}");
            assert!([0, 1, 66, 67, 68, 69, 89, 91, 92].iter().all(|&i| got[i] == UNTOUCHED), "{law}");
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn many_bases_and_many_chunks() {
    let Some(runtime) = adapter_runtime() else { return };
    // More bases than one dispatch of a software adapter forms; then more sums over chunks of 128 blocks than are kept, the first
    // slot's in several chunks of its own.
    let many_bases = vec![Slot { fixed: 0.5, ..slot(17, 61_440 + 7) }];
    let of = |i: usize| Slot { out: 8000 + i, layer: i as u32, ..slot(1, 131) };
    let many_chunks: Vec<Slot> = std::iter::once(slot(8000, 131)).chain((0..32_100).map(of)).collect();
    // Each of n additions rounds by up to 2^-24 of a sum that grows with its root: some sqrt(n) 2^-24 in all, below four times that
    // for the worst element. One term left out would be off by 1 / sqrt(n).
    let bound = |n: usize| f64::max(4.0 * (n as f64).sqrt() / f64::from(1 << 24), 1e-5);
    for slots in [many_bases, many_chunks] {
        let (n, k) = (slots.iter().map(|slot| slot.len).sum(), slots[0].k);
        let mixture = Mixture::new(&runtime, Law::Uniform8, SEED, &slots).unwrap();
        let (c, d_out) = (draw(k, 1), draw(n, 2));
        let mut want = vec![0.0; n];
        reference::form(Law::Uniform8, SEED, &slots, &c, &mut want);
        let far = error(&formed(&mixture, &runtime, &c, n), &want);
        assert!(far < bound(k), "{} slots: form is {far:e} off", slots.len());
        let mut want = vec![0.0; k];
        reference::project(Law::Uniform8, SEED, &slots, &d_out, &mut want);
        let far = error(&projected(&mixture, &runtime, &d_out, k), &want);
        assert!(far < bound(slots.len()), "{} slots: project is {far:e} off", slots.len());
    }
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn projecting_is_the_transpose_of_forming() {
    let Some(runtime) = adapter_runtime() else { return };
    for law in Law::ALL {
        let slots = [
            slot(3001, 300),
            Slot { out: 3001, layer: 4, scale: 0.5, ..slot(517, 300) },
            Slot { out: 4000, first: 300, tag: Tag::B, ..slot(999, 77) },
        ];
        let mixture = Mixture::new(&runtime, law, SEED, &slots).unwrap();
        let (c, d_out) = (draw(377, 5), draw(5000, 6));
        let of = |x: &[f64], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * f64::from(*y)).sum::<f64>();
        let form = formed(&mixture, &runtime, &c, 5000);
        // Elements of no slot take no part.
        let inside: Vec<f64> = d_out
            .iter()
            .enumerate()
            .map(|(e, d)| if (3518..4000).contains(&e) || e >= 4999 { 0.0 } else { *d })
            .collect();
        let (left, right) = (of(&inside, &form), of(&c, &projected(&mixture, &runtime, &d_out, 377)));
        let size =
            of(&inside.iter().map(|v| v.abs()).collect::<Vec<_>>(), &form.iter().map(|v| v.abs()).collect::<Vec<_>>());
        assert!((left - right).abs() < 1e-6 * size, "{law}: {left} {right}");
    }
}

#[test]
fn seeds_layers_and_tags_have_their_own_bases() {
    let Some(runtime) = adapter_runtime() else { return };
    let n = 4096;
    for law in Law::ALL {
        let first = |seed, layer, tag| {
            let slot = Slot { layer, tag, ..slot(n, 3) };
            formed(&Mixture::new(&runtime, law, seed, &[slot]).unwrap(), &runtime, &[0.0, 1.0, 0.0], n)
        };
        let variants = [
            first(SEED, 0, Tag::A),
            first(SEED, 1, Tag::A),
            first(SEED, 0, Tag::B),
            first(SEED, 0, Tag::Dense),
            first(SEED ^ 1, 0, Tag::A),
            first(SEED ^ 1 << 32, 0, Tag::A),
        ];
        let power = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>() / n as f64;
        // Standard deviation of a correlation: 1 / sqrt(n) = 0.016.
        for (i, x) in variants.iter().enumerate() {
            let variance = power(x, x);
            let close = (variance / law.variance(3) - 1.0).abs();
            assert!(close < 0.08, "{law} {i}: variance {variance}, {} wanted", law.variance(3));
            for y in &variants[..i] {
                let correlation = power(x, y) / variance;
                assert!(correlation.abs() < 0.08, "{law} {i}: {correlation}");
            }
        }
        assert_eq!(first(SEED, 0, Tag::A), variants[0]);
    }
}

#[test]
fn rows_equal_those_formed_alone() {
    let (slots, n_c, n) = network();
    for runtime in runtimes() {
        for law in Law::ALL {
            let mixture = Mixture::new(&runtime, law, SEED, &slots).unwrap();
            for m in [1, 3, 4, 5] {
                let c = draw(m * n_c, 9);
                // The second one goes nowhere.
                let places: Vec<u32> = [4, 9, 0, 2, 6][..m].to_vec();
                let out = filled(&runtime, 8 * n).reshape(&[8, n]).unwrap();
                let rows = upload(&runtime, &c).reshape(&[m, n_c]).unwrap();
                mixture.form_rows(&rows, &Tensor::from_slice(&runtime, &places, &[m]).unwrap(), &out).unwrap();
                let got = out.to_vec::<f32>().unwrap();
                for place in 0..8 {
                    let row = places.iter().position(|p| *p as usize == place);
                    let want = match row {
                        Some(row) => formed(&mixture, &runtime, &c[row * n_c..][..n_c], n),
                        None => vec![UNTOUCHED; n],
                    };
                    assert!(got[place * n..][..n] == want, "{law}, {m} rows, place {place}");
                }
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn a_plan_repeats_with_other_coefficients() {
    let Some(runtime) = adapter_runtime() else { return };
    let (slots, n_c, n) = network();
    for law in Law::ALL {
        let mixture = Mixture::new(&runtime, law, SEED, &slots).unwrap();
        let (c, out, d_c) = (upload(&runtime, &draw(n_c, 1)), filled(&runtime, n), filled(&runtime, n_c));
        let work = || {
            mixture.form(&c, &out)?;
            mixture.project(&out, &d_c)
        };
        let (plan, ()) = runtime.record_plan(work).unwrap();
        for round in 0..3 {
            let fresh = draw(n_c, 20 + round);
            c.write(&fresh.iter().map(|v| *v as f32).collect::<Vec<_>>()).unwrap();
            plan.replay().unwrap();
            let form = formed(&mixture, &runtime, &fresh, n);
            assert_eq!(out.to_vec::<f32>().unwrap(), form, "{law}");
            let wide: Vec<f64> = form.iter().map(|v| f64::from(*v)).collect();
            assert_eq!(d_c.to_vec::<f32>().unwrap(), projected(&mixture, &runtime, &wide, n_c), "{law}");
        }
    }
}

#[test]
fn onehot_bases_share_the_elements_evenly() {
    let Some(runtime) = adapter_runtime() else { return };
    for (len, k) in [(1000, 7), (1000, 64), (513, 512), (300, 1), (50, 77)] {
        let slot = slot(len, k);
        let mixture = Mixture::new(&runtime, Law::Onehot, SEED, &[slot]).unwrap();
        let c: Vec<f64> = (1..=k).map(|i| i as f64).collect();
        let mut counts = vec![0; k];
        let formed = formed(&mixture, &runtime, &c, len);
        for value in &formed {
            counts[value.abs() as usize - 1] += 1;
        }
        assert!(counts.iter().all(|n| *n == len / k || *n == len.div_ceil(k)), "{len} of {k}: {counts:?}");
        // Half of the signs are minus, within four standard deviations.
        let minus = formed.iter().filter(|value| **value < 0.0).count() as f64;
        assert!((minus - len as f64 / 2.0).abs() < 2.0 * (len as f64).sqrt(), "{minus} of {len}");
    }
}

#[test]
fn shuffles_are_uniform() {
    // Where the first and the last of a few numbers come to lie over many decks: chi-square with n - 1 degrees of freedom, below
    // its mean and five standard deviations.
    for n in [3, 8, 11] {
        let mut counts = vec![[0.0; 2]; n];
        for deck in 0..4000_u32 {
            let words = leanvision::philox::philox4x32([deck, 0, 0, 25], [7, 0]);
            counts[reference::shuffled(0, n, words)][0] += 1.0;
            counts[reference::shuffled(n - 1, n, words)][1] += 1.0;
        }
        let mean = 4000.0 / n as f64;
        for which in 0..2 {
            let chi: f64 = counts.iter().map(|c| (c[which] - mean).powi(2) / mean).sum();
            let bound = n as f64 + 5.0 * (2.0 * n as f64).sqrt();
            assert!(chi < bound, "{n}: chi-square {chi}, {bound} allowed: {counts:?}");
        }
    }
}

#[test]
fn numbers_round_to_a_few_bits() {
    for runtime in runtimes() {
        // Apart, out of order, one of a single number, one of zeros, one with NaN, one too small.
        let groups = [(3, 70), (100, 131), (80, 1), (90, 5), (0, 2), (240, 6), (250, 3)];
        let mut x = draw(260, 3);
        x[90..95].fill(0.0);
        x[241] = f64::NAN;
        x[250..253].fill(1e-32);
        for bits in [2, 3, 4, 8] {
            let rounding = Rounding::new(&runtime, &groups, bits).unwrap();
            let out = filled(&runtime, 260);
            rounding.run(&upload(&runtime, &x), &out).unwrap();
            let mut want = vec![f64::from(UNTOUCHED); 260];
            for (first, len) in groups {
                let rounded = reference::rounded(&x[first..first + len], bits);
                want[first..first + len].copy_from_slice(&rounded);
            }
            // No draw lies within 1e-4 of the middle of two steps.
            for (i, (got, want)) in out.to_vec::<f32>().unwrap().into_iter().zip(want).enumerate() {
                let same = if want.is_nan() { got.is_nan() } else { (f64::from(got) - want).abs() < 1e-6 };
                assert!(same, "{bits} bits, {i}: {got}, {want} wanted");
            }
        }
        let infinite = [1.0, f64::INFINITY];
        let out = filled(&runtime, 2);
        Rounding::new(&runtime, &[(0, 2)], 4).unwrap().run(&upload(&runtime, &infinite), &out).unwrap();
        assert!(out.to_vec::<f32>().unwrap().iter().all(|v| v.is_nan()));
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
    let Some(runtime) = adapter_runtime() else { return };
    assert!(Rounding::new(&runtime, &[], 5).unwrap_err().to_string().contains("5 bits given"));
    assert!(Rounding::new(&runtime, &[(4, 3), (0, 5)], 4).unwrap_err().to_string().contains("overlaps"));
    let rounding = Rounding::new(&runtime, &[(4, 3)], 4).unwrap();
    assert!(rounding.run(&filled(&runtime, 6), &filled(&runtime, 6)).unwrap_err().to_string().contains("7 wanted"));
}

#[test]
fn wrong_slots_are_named() {
    let Some(runtime) = adapter_runtime() else { return };
    let with = |slots: &[Slot]| Mixture::new(&runtime, Law::Uniform8, 1, slots).unwrap_err().to_string();
    let far = Slot { out: 10, first: 10, ..slot(10, 10) };
    assert!(with(&[slot(0, 1)]).contains("slot 0 is empty") && with(&[slot(1, 0)]).contains("slot 0 is empty"));
    assert!(with(&[slot(1, 1), Slot { out: u32::MAX as usize, ..far }]).contains("slot 1 is past"));
    assert!(with(&[Slot { scale: f32::NAN, ..far }]).contains("not scaled by a number"));
    assert!(with(&[far, Slot { out: 9, ..slot(2, 10) }]).contains("slots 1 and 0 share elements"));
    assert!(with(&[far, slot(10, 11)]).contains("share some of their coefficients"));
    assert!(with(&[far, slot(10, 10), Slot { out: 20, first: 10, ..slot(1, 4) }]).contains("share some"));
    let srht = Mixture::new(&runtime, Law::Srht, 1, &[slot(17, 33)]).unwrap_err().to_string();
    assert!(srht.contains("33 bases of 17 elements"));
    let mixture = Mixture::new(&runtime, Law::Uniform8, 1, &[far]).unwrap();
    let tensor = |n: usize| filled(&runtime, n);
    let ok = |c: usize, n: usize| {
        mixture.form(&tensor(c), &tensor(n)).is_ok() && mixture.project(&tensor(n), &tensor(c)).is_ok()
    };
    assert!(ok(20, 20) && !ok(19, 20) && !ok(20, 19));
    assert!(mixture.form(&tensor(20), &tensor(20).reshape(&[4, 5]).unwrap()).is_err());
    let c = tensor(20);
    assert!(mixture.form(&c, &c).unwrap_err().to_string().contains("shares memory"));
    assert!(mixture.form(&c.require_grad().unwrap(), &tensor(20)).is_err());
    assert!(mixture.form(&Tensor::zeros(&runtime, &[20], DType::U32).unwrap(), &tensor(20)).is_err());
    assert!("uniform9".parse::<Law>().unwrap_err().to_string().contains("uniform8"));
    assert!(Law::ALL.iter().all(|law| law.to_string().parse::<Law>().unwrap() == *law));
}

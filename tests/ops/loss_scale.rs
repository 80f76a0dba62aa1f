//! The loss scale of mixed precision: against a plain model of its rule, and that a skipped step changes no bit.

use crate::support::compare::{Tolerance, compare};
use crate::support::row::download;
use crate::support::{runtime, runtimes};
use leanvision::ops::optim::{self, Adam, Lars, LossScale, ScaleState, Sgd, Slots};
use leanvision::{DType, Runtime, Tensor};

/// PyTorch's `GradScaler`, by its documentation.
struct Model {
    state: ScaleState,
}

impl Model {
    /// A step whose gradients are numbers or not: whether it is taken.
    fn step(&mut self, good: bool) -> bool {
        let state = &mut self.state;
        if good {
            state.taken += 1;
            state.good += 1;
            if state.good == 2000 {
                state.scale *= 2.0;
                state.good = 0;
            }
        } else {
            state.scale *= 0.5;
            state.good = 0;
            state.skipped += 1;
        }
        good
    }
}

/// Elements of the gradients: two slots, of which the second is longer than a workgroup sums in a round.
const SIZES: [(usize, bool); 2] = [(70, true), (4500, false)];

fn gradients(runtime: &Runtime, slots: &Slots, value: f32, at: Option<(usize, f32)>) -> Tensor {
    let mut data = vec![0.0; slots.len()];
    for ((n, _), start) in SIZES.iter().zip(slots.offsets()) {
        data[*start..start + n].fill(value);
    }
    if let Some((at, value)) = at {
        data[at] = value;
    }
    Tensor::from_slice(runtime, &data, &[data.len()]).unwrap()
}

fn state(scale: &LossScale) -> ScaleState {
    ScaleState::from_slice(&scale.read().unwrap().wait().unwrap()).unwrap()
}

#[test]
fn the_scale_moves_as_the_plain_model_says() {
    for runtime in runtimes() {
        let slots = Slots::new(&runtime, &SIZES).unwrap();
        let n: usize = SIZES.iter().map(|(n, _)| n).sum();
        let fresh = LossScale::new(&runtime).unwrap();
        assert_eq!(state(&fresh), ScaleState { scale: 65_536.0, good: 0, skipped: 0, taken: 0 });
        // From a state near its growth, so that few steps pass through all of the rule.
        let start = ScaleState { scale: 1024.0, good: 1997, skipped: 3, taken: 5000 };
        let scale = LossScale::resume(&runtime, start).unwrap();
        let mut model = Model { state: start };
        let last = slots.offsets()[1] + SIZES[1].0 - 1;
        let faults = [f32::INFINITY, f32::NAN, f32::NEG_INFINITY, 3e19];
        // 3 good ones double it; then each fault, in the first and the last element, between good steps.
        let plan = [None; 4]
            .into_iter()
            .chain(faults.into_iter().flat_map(|fault| [None, Some((0, fault)), Some((last, fault)), None]));
        for (i, fault) in plan.enumerate() {
            let before = model.state.scale;
            assert_eq!(scale.seed().unwrap().item::<f32>().unwrap(), before);
            // Gradients of 0.5 times the scale.
            let d = gradients(&runtime, &slots, 0.5 * before, fault);
            let max_norm = [None, Some(1.0), Some(1e6)][i % 3];
            let verdict = scale.unscale(&[(&d, &slots)], max_norm).unwrap();
            let taken = model.step(fault.is_none());
            assert_eq!(state(&scale), model.state, "step {i}, {fault:?}");
            let [factor, goes, count] = verdict.factor.to_vec::<f32>().unwrap()[..] else { panic!("three numbers") };
            assert_eq!((goes, count), (f32::from(u8::from(taken)), model.state.taken as f32), "step {i}");
            if taken {
                let norm = 0.5 * (n as f64).sqrt();
                let clipped = max_norm.map_or(1.0, |most| (f64::from(most) / norm).min(1.0));
                let close = Tolerance { atol: 0.0, rtol: 3e-6, allowed: 0 };
                let got = [f64::from(verdict.norm.item::<f32>().unwrap()), f64::from(factor)];
                compare(&got, &[norm, clipped / f64::from(before)], close).unwrap_or_else(|m| panic!("step {i}: {m}"));
            } else {
                assert_eq!(factor, 0.0, "step {i}");
            }
        }
        assert_eq!(model.state.scale, 2048.0 / 256.0);
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn the_scale_stays_where_its_reciprocal_is_a_number() {
    let Some(runtime) = runtime() else { return };
    let slots = Slots::new(&runtime, &SIZES).unwrap();
    for (start, fault) in [(2.0_f32.powi(-64), Some((3, f32::NAN))), (2.0_f32.powi(64), None)] {
        let scale =
            LossScale::resume(&runtime, ScaleState { scale: start, good: 1999, skipped: 0, taken: 1999 }).unwrap();
        let d = gradients(&runtime, &slots, 1.0, fault);
        scale.unscale(&[(&d, &slots)], None).unwrap();
        assert_eq!(state(&scale).scale, start);
    }
    for values in [[0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [f32::NAN, 0.0, 0.0, 0.0]] {
        assert_eq!(ScaleState::from_slice(&values), None);
    }
    let some = ScaleState { scale: 8.0, good: 7, skipped: 5, taken: 3 };
    assert_eq!(ScaleState::from_slice(&some.to_array()), Some(some));
}

type Step = fn([&Tensor; 4], &Slots, Option<&Tensor>, u32) -> leanvision::Result<()>;

const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: true, decay: 0.1 };
const LARS: Lars = Lars { lr: 0.5, momentum: 0.9, decay: 0.01, trust: 0.02 };
const ADAM: Adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, decoupled: true, t: 1 };

const STEPS: [(&str, Step); 3] = [
    ("sgd", |[w, d, m, _], slots, factor, _| optim::sgd(w, d, m, slots, factor, &SGD)),
    ("lars", |[w, d, m, _], slots, factor, _| optim::lars(w, d, m, slots, factor, &LARS)),
    ("adamw", |[w, d, m, v], slots, factor, t| optim::adam(w, d, m, v, slots, factor, &Adam { t, ..ADAM })),
];

/// Values of a sine, so that no two elements are alike.
fn waves(runtime: &Runtime, n: usize, amplitude: f32) -> Tensor {
    let data: Vec<f32> = (0..n).map(|i| amplitude * (0.7 * i as f32).sin()).collect();
    Tensor::from_slice(runtime, &data, &[n]).unwrap()
}

#[test]
fn a_skipped_step_changes_no_bit() {
    for runtime in runtimes() {
        let slots = Slots::new(&runtime, &SIZES).unwrap();
        let n = slots.len();
        for (name, step) in STEPS {
            let (w, m, v) =
                (waves(&runtime, n, 1.0), waves(&runtime, n, 0.25), Tensor::full(&runtime, &[n], 0.5, DType::F32));
            let v = v.unwrap();
            let average = waves(&runtime, n, 2.0);
            let bits =
                || [&w, &m, &v, &average].map(|x| x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect());
            let scale = LossScale::new(&runtime).unwrap();
            for (fault, changes) in [(Some((69, f32::INFINITY)), false), (Some((130, f32::NAN)), false), (None, true)] {
                let before: [Vec<u32>; 4] = bits();
                let d = gradients(&runtime, &slots, 100.0, fault);
                let factor = scale.unscale(&[(&d, &slots)], Some(1.0)).unwrap().factor;
                step([&w, &d, &m, &v], &slots, Some(&factor), 1).unwrap();
                optim::ema(&average, &w, 0.9, Some(&factor)).unwrap();
                let after: [Vec<u32>; 4] = bits();
                // Only Adam has a second moment.
                let moved: Vec<bool> = before.iter().zip(&after).map(|(a, b)| a != b).collect();
                let want = [changes, changes, changes && name == "adamw", changes];
                assert_eq!(moved, want, "{name}, {fault:?}: values, moments, average");
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn scaled_gradients_step_as_plain_ones_do_and_adam_counts_what_was_taken() {
    for runtime in runtimes() {
        let slots = Slots::new(&runtime, &SIZES).unwrap();
        let n = slots.len();
        for (name, step) in STEPS {
            let zeros = || Tensor::zeros(&runtime, &[n], DType::F32).unwrap();
            let plain = [waves(&runtime, n, 1.0), waves(&runtime, n, 0.125), zeros(), zeros()];
            // Powers of two change no digit of a gradient.
            let scaled = [waves(&runtime, n, 1.0), waves(&runtime, n, 0.125 * 65_536.0), zeros(), zeros()];
            let bad = gradients(&runtime, &slots, f32::NAN, None);
            let scale = LossScale::new(&runtime).unwrap();
            let mut t = 0;
            for skips in [true, false, false, true, false] {
                let [w, d, m, v] = &scaled;
                if skips {
                    let factor = scale.unscale(&[(&bad, &slots)], None).unwrap().factor;
                    step([w, &bad, m, v], &slots, Some(&factor), 77).unwrap();
                    // The scale has halved: so have the gradients.
                    let halved = leanvision::ops::elementwise::affine(d, 0.5, 0.0).unwrap();
                    optim::collect(d, &[(&halved, 0)], false).unwrap();
                    continue;
                }
                t += 1;
                let factor = scale.unscale(&[(d, &slots)], None).unwrap().factor;
                step([w, d, m, v], &slots, Some(&factor), 77).unwrap();
                let [w, d, m, v] = &plain;
                step([w, d, m, v], &slots, None, t).unwrap();
            }
            // Adam's corrections are computed twice, in f64 and in f32 near its rounding.
            let close = Tolerance { atol: 2e-7, rtol: 2e-6, allowed: 0 };
            for i in [0, 2, 3] {
                let [got, want] = [&scaled[i], &plain[i]].map(|arena| download(arena).unwrap());
                compare(&got, &want, close).unwrap_or_else(|m| panic!("{name}: {m}"));
            }
        }
    }
}

/// The bias corrections of Adam by the steps that were taken, from the first to the last that f32 counts.
#[test]
fn corrections_on_the_device_are_those_of_the_host() {
    let Some(runtime) = runtime() else { return };
    let slots = Slots::new(&runtime, &[(8, true)]).unwrap();
    let ones = || Tensor::full(&runtime, &[slots.len()], 1.0, DType::F32).unwrap();
    for (beta1, beta2) in [(0.9, 0.999), (0.0, 0.5), (0.99, 0.999_99)] {
        for t in [1, 2, 4, 5, 49, 500, 693, 694, 5000, 1_000_000, 16_777_216] {
            let rule = Adam { beta1, beta2, decay: 0.0, lr: 1.0, t, ..ADAM };
            let moved = [None, Some([1.0, 1.0, t as f32])].map(|factor| {
                let (w, d, m, v) =
                    (Tensor::zeros(&runtime, &[slots.len()], DType::F32).unwrap(), ones(), ones(), ones());
                let factor = factor.map(|factor| Tensor::from_slice(&runtime, &factor, &[3]).unwrap());
                optim::adam(&w, &d, &m, &v, &slots, factor.as_ref(), &rule).unwrap();
                download(&w).unwrap()[..8].to_vec()
            });
            // Logarithm, product, exponential and difference round once each; a root halves what they leave.
            let close = Tolerance { atol: 0.0, rtol: 1e-6, allowed: 0 };
            compare(&moved[1], &moved[0], close).unwrap_or_else(|m| panic!("{beta1} {beta2} t {t}: {m}"));
        }
    }
}

#[test]
fn half_gradients_go_into_an_f32_arena() {
    for runtime in runtimes().into_iter().filter(|runtime| runtime.profile().features.f16) {
        let sizes = [63, 64, 65, 1, 0, 1009, 40_003, 7, 130, 5];
        let sizes: Vec<usize> = sizes.into_iter().filter(|n| runtime.takes(*n)).collect();
        let slots = Slots::new(&runtime, &sizes.iter().map(|n| (*n, true)).collect::<Vec<_>>()).unwrap();
        let value = |slot: usize, i: usize| half::f16::from_f32(((slot * 31 + i) as f32 * 0.37).sin() * 40_000.0);
        // Every third one is f32, as those of norms are.
        let parts: Vec<Tensor> = (sizes.iter().enumerate())
            .map(|(slot, n)| {
                let values: Vec<half::f16> = (0..*n).map(|i| value(slot, i)).collect();
                if slot % 3 == 0 {
                    let wide: Vec<f32> = values.into_iter().map(half::f16::to_f32).collect();
                    return Tensor::from_slice(&runtime, &wide, &[*n]).unwrap();
                }
                Tensor::from_slice(&runtime, &values, &[*n]).unwrap()
            })
            .collect();
        let placed: Vec<_> = parts.iter().zip(slots.offsets().iter().copied()).collect();
        let arena = Tensor::full(&runtime, &[slots.len()], f32::NAN, DType::F32).unwrap();
        for (add, times) in [(false, 1.0), (true, 2.0), (true, 3.0), (false, 1.0)] {
            optim::collect(&arena, &placed, add).unwrap();
            let got = arena.to_vec::<f32>().unwrap();
            for (slot, (n, start)) in sizes.iter().zip(slots.offsets()).enumerate() {
                let end = start + n.next_multiple_of(optim::ALIGN);
                // Sums of two and three f16 numbers are exact in f32.
                let right = (0..*n).all(|i| got[start + i] == times * value(slot, i).to_f32());
                assert!(right && got[start + n..end].iter().all(|v| *v == 0.0), "slot {slot} of {n}, add {add}");
            }
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn wrong_arguments_of_the_scale_are_named() {
    let Some(runtime) = runtime() else { return };
    let slots = Slots::new(&runtime, &SIZES).unwrap();
    let d = gradients(&runtime, &slots, 1.0, None);
    let scale = LossScale::new(&runtime).unwrap();
    assert!(scale.unscale(&[], None).is_err() && scale.unscale(&[(&d, &slots)], Some(0.0)).is_err());
    let factor = Tensor::zeros(&runtime, &[2], DType::F32).unwrap();
    let message = optim::ema(&d, &gradients(&runtime, &slots, 1.0, None), 0.9, Some(&factor)).unwrap_err().to_string();
    assert!(message.contains("[1] or [3] wanted"), "{message}");
}

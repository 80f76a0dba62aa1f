use crate::support::compare::{Tolerance, compare};
use crate::support::golden::Golden;
use crate::support::row::{download, upload_view, values};
use crate::support::{limit, runtime, runtime_for, short};
use leanvision::ops::optim::{self, ALIGN, Adam, Lars, Sgd, Slots};
use leanvision::reference::{Array, optim as reference};
use leanvision::{DType, Error, Result, Runtime, Tensor};
use reference::Param;

/// Elements of each slot, and whether it decays: one below, at and above a block, a prime, one element, none, and one past
/// the length from which a part is collected alone.
const SLOTS: &[(usize, bool)] =
    &[(63, true), (64, false), (65, true), (1, false), (0, true), (1009, true), (40_003, true), (7, true)];

const SGD: Sgd = Sgd { lr: 0.1, momentum: 0.9, nesterov: false, decay: 0.01 };
const LARS: Lars = Lars { lr: 0.5, momentum: 0.9, decay: 0.01, trust: 0.02 };
const ADAM: Adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.1, decoupled: false, t: 0 };

/// A few steps of values near 1, each with a handful of roundings of its moments and values; the root and the quotients of
/// Adam and LARS add a few units in the last place.
const CLOSE: Tolerance = Tolerance { atol: 4e-6, rtol: 4e-6, allowed: 0 };

#[derive(Clone, Copy, Debug)]
enum Rule {
    Sgd(Sgd),
    Lars(Lars),
    Adam(Adam),
}

const RULES: &[Rule] = &[
    Rule::Sgd(Sgd { momentum: 0.0, decay: 0.0, ..SGD }),
    Rule::Sgd(SGD),
    Rule::Sgd(Sgd { nesterov: true, ..SGD }),
    Rule::Lars(LARS),
    Rule::Adam(ADAM),
    Rule::Adam(Adam { decoupled: true, ..ADAM }),
];

/// The arenas of a small model, with what is true of their layout.
struct Model {
    sizes: Vec<(usize, bool)>,
    slots: Slots,
    w: Tensor,
    m: Tensor,
    v: Tensor,
}

impl Model {
    fn new(runtime: &Runtime, sizes: &[(usize, bool)], w: &[f64]) -> Result<Self> {
        let slots = Slots::new(runtime, sizes)?;
        let zeros = || Tensor::zeros(runtime, &[slots.len()], DType::F32);
        let model = Self { sizes: sizes.to_vec(), w: zeros()?, m: zeros()?, v: zeros()?, slots };
        model.collect(&model.w, w, false)?;
        Ok(model)
    }

    /// The values `w`, parameter behind parameter, into their slots.
    fn collect(&self, arena: &Tensor, w: &[f64], add: bool) -> Result<()> {
        let mut rest = w;
        let mut parts = Vec::new();
        for ((n, _), offset) in self.sizes.iter().zip(self.slots.offsets()) {
            let (own, others) = rest.split_at(*n);
            rest = others;
            let own: Vec<f32> = own.iter().map(|v| *v as f32).collect();
            parts.push((Tensor::from_slice(arena.runtime(), &own, &[*n])?, *offset));
        }
        optim::collect(arena, &parts.iter().map(|(part, offset)| (part, *offset)).collect::<Vec<_>>(), add)
    }

    /// The values of an arena, parameter behind parameter; what lies behind each must be 0.
    fn values(&self, arena: &Tensor) -> Result<Vec<f64>> {
        let all = download(arena)?;
        let mut out = Vec::new();
        for ((n, _), offset) in self.sizes.iter().zip(self.slots.offsets()) {
            let end = offset + n.next_multiple_of(ALIGN);
            out.extend(&all[*offset..offset + n]);
            assert!(all[offset + n..end].iter().all(|v| *v == 0.0), "no zeros behind the slot at {offset}");
        }
        Ok(out)
    }

    fn step(&self, rule: Rule, d: &Tensor, factor: Option<&Tensor>, t: u32) -> Result<()> {
        let Self { w, m, v, slots, .. } = self;
        match rule {
            Rule::Sgd(step) => optim::sgd(w, d, m, slots, factor, &step),
            Rule::Lars(step) => optim::lars(w, d, m, slots, factor, &step),
            Rule::Adam(step) => optim::adam(w, d, m, v, slots, factor, &Adam { t, ..step }),
        }
    }
}

fn split<'a>(sizes: &[(usize, bool)], mut all: &'a [f64]) -> Vec<&'a [f64]> {
    let next = |(n, _): &(usize, bool)| {
        let (own, rest) = all.split_at(*n);
        all = rest;
        own
    };
    sizes.iter().map(next).collect()
}

fn check(name: &str, got: &[f64], want: &[f64], tolerance: Tolerance) {
    if let Err(message) = compare(got, want, tolerance) {
        panic!("{name}: {message}");
    }
}

fn noise(n: usize, seed: u64) -> Vec<f64> {
    values(&[n], &(-1.0..1.0), DType::F32, seed).data
}

#[test]
fn steps_match_the_reference() {
    let Some(runtime) = runtime() else { return };
    let n: usize = SLOTS.iter().map(|(n, _)| n).sum();
    for rule in RULES {
        let w = noise(n, 1);
        let model = Model::new(&runtime, SLOTS, &w).unwrap();
        let d = Tensor::zeros(&runtime, &[model.slots.len()], DType::F32).unwrap();
        let mut params: Vec<Param> =
            split(SLOTS, &w).iter().zip(SLOTS).map(|(w, (_, decays))| Param::new(w.to_vec(), *decays)).collect();
        for t in 1..=8 {
            let gradient = noise(n, 10 + u64::from(t));
            model.collect(&d, &gradient, false).unwrap();
            model.step(*rule, &d, None, t).unwrap();
            for (param, d) in params.iter_mut().zip(split(SLOTS, &gradient)) {
                match rule {
                    Rule::Sgd(step) => param.sgd(d, step),
                    Rule::Lars(step) => param.lars(d, step),
                    Rule::Adam(step) => param.adam(d, &Adam { t, ..*step }),
                }
            }
            let name = format!("{rule:?} step {t}");
            let all = |pick: fn(&Param) -> &[f64]| params.iter().flat_map(pick).copied().collect::<Vec<_>>();
            check(&name, &model.values(&model.w).unwrap(), &all(|p| &p.w), CLOSE);
            check(&name, &model.values(&model.m).unwrap(), &all(|p| &p.m), CLOSE);
            check(&name, &model.values(&model.v).unwrap(), &all(|p| &p.v), CLOSE);
        }
        assert_eq!(runtime.damaged_guards().unwrap(), 0, "{rule:?}: written past the end");
    }
}

#[test]
fn steps_match_pytorch() {
    let Some(runtime) = runtime() else { return };
    let golden = Golden::open_file("optim.safetensors");
    let shared = golden.cases("none").swap_remove(0);
    let sizes: Vec<(usize, bool)> = shared.params["sizes"]
        .as_array()
        .unwrap()
        .iter()
        .zip(shared.params["decays"].as_array().unwrap())
        .map(|(n, decays)| (n.as_u64().unwrap() as usize, decays.as_bool().unwrap()))
        .collect();
    let (w, d) = (shared.need("w"), shared.need("d"));
    let n = w.data.len();
    for case in ["sgd", "adam", "adamw"].iter().flat_map(|op| golden.cases(op)) {
        let number = |name: &str| case.params[name].as_f64().unwrap_or(0.0) as f32;
        let beta = |i: usize| case.params["betas"][i].as_f64().unwrap_or(0.0) as f32;
        let (lr, decay) = (number("lr"), number("decay"));
        let rule = if case.op == "sgd" {
            let nesterov = case.params["nesterov"].as_bool().unwrap_or(false);
            Rule::Sgd(Sgd { lr, momentum: number("momentum"), nesterov, decay })
        } else {
            let decoupled = case.op == "adamw";
            Rule::Adam(Adam { lr, beta1: beta(0), beta2: beta(1), eps: number("eps"), decay, decoupled, t: 0 })
        };
        let model = Model::new(&runtime, &sizes, &w.data).unwrap();
        let arena = Tensor::zeros(&runtime, &[model.slots.len()], DType::F32).unwrap();
        let out = case.need("out");
        let mut clipped = 0;
        for (t, (d, want)) in d.data.chunks_exact(n).zip(out.data.chunks_exact(n)).enumerate() {
            model.collect(&arena, d, false).unwrap();
            let max_norm = number("max_norm");
            let factor = (max_norm > 0.0).then(|| optim::clip(&[(&arena, &model.slots)], max_norm).unwrap().1);
            clipped += factor.as_ref().map_or(0, |f| usize::from(f.item::<f32>().unwrap() < 1.0));
            model.step(rule, &arena, factor.as_ref(), t as u32 + 1).unwrap();
            check(&format!("{} step {}", case.name, t + 1), &model.values(&model.w).unwrap(), want, CLOSE);
        }
        assert!(number("max_norm") == 0.0 || (1..8).contains(&clipped), "{}: {clipped} steps clipped", case.name);
    }
}

#[test]
fn parts_are_stored_and_added() {
    let Some(runtime) = runtime() else { return };
    let n: usize = SLOTS.iter().map(|(n, _)| n).sum();
    let (a, b) = (noise(n, 1), noise(n, 2));
    let model = Model::new(&runtime, SLOTS, &a).unwrap();
    // Stored over poison: the zeros behind each part are written too.
    let arena = Tensor::full(&runtime, &[model.slots.len()], f32::NAN, DType::F32).unwrap();
    model.collect(&arena, &a, false).unwrap();
    assert_eq!(model.values(&arena).unwrap(), a);
    model.collect(&arena, &b, true).unwrap();
    let sum: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from((a + b) as f32)).collect();
    assert_eq!(model.values(&arena).unwrap(), sum);
    // Only the slots named are touched; views are made contiguous.
    let view = upload_view(&runtime, &Array::new(&[5, 13], a[..65].to_vec()), DType::F32).unwrap();
    assert!(!view.is_contiguous());
    optim::collect(&arena, &[(&view, model.slots.offsets()[2])], false).unwrap();
    let mut want = sum;
    want[127..192].copy_from_slice(&a[..65]);
    assert_eq!(model.values(&arena).unwrap(), want);
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn layouts_have_aligned_slots() {
    let Some(runtime) = runtime() else { return };
    let slots = Slots::new(&runtime, SLOTS).unwrap();
    assert_eq!(slots.offsets(), [0, 64, 128, 256, 320, 320, 1344, 41_408]);
    assert_eq!((slots.len(), slots.is_empty()), (41_472, false));
    let none = Slots::new(&runtime, &[]).unwrap();
    assert_eq!((none.len(), none.is_empty(), none.offsets().len()), (0, true, 0));
    let arenas: Vec<Tensor> = (0..4).map(|_| Tensor::zeros(&runtime, &[0], DType::F32).unwrap()).collect();
    optim::lars(&arenas[0], &arenas[1], &arenas[2], &none, None, &LARS).unwrap();
    optim::adam(&arenas[0], &arenas[1], &arenas[2], &arenas[3], &none, None, &Adam { t: 1, ..ADAM }).unwrap();
    let (norm, factor) = optim::clip(&[(&arenas[0], &none)], 1.0).unwrap();
    assert_eq!((norm.item::<f32>().unwrap(), factor.item::<f32>().unwrap()), (0.0, 1.0));
}

#[test]
fn norms_match_the_reference_over_several_arenas() {
    let Some(runtime) = runtime() else { return };
    // The long one is summed by large workgroups, and the many pass what one workgroup sums in a round.
    let long = if short() { 300_000 } else { 1_000_003 }.min(limit());
    let many = vec![(3, true); 301];
    let layouts: [&[(usize, bool)]; 3] = [SLOTS, &[(long, true), (9, false)], &many];
    let models: Vec<Model> = layouts
        .iter()
        .enumerate()
        .map(|(i, sizes)| {
            let n: usize = sizes.iter().map(|(n, _)| n).sum();
            Model::new(&runtime, sizes, &noise(n, i as u64)).unwrap()
        })
        .collect();
    let arenas: Vec<_> = models.iter().map(|model| (&model.w, &model.slots)).collect();
    let host: Vec<Vec<f64>> = models.iter().map(|model| model.values(&model.w).unwrap()).collect();
    for max_norm in [1.0, 1e6] {
        let want = reference::clip(host.iter().map(Vec::as_slice), max_norm);
        let (norm, factor) = optim::clip(&arenas, max_norm as f32).unwrap();
        let got = [norm.item::<f32>().unwrap(), factor.item::<f32>().unwrap()].map(f64::from);
        // Sums of squares in blocks: the roundings stay within a few units in the last place.
        check("clip", &got, &[want.0, want.1], Tolerance { atol: 0.0, rtol: 1e-6, allowed: 0 });
    }
    let (norm, factor) = optim::clip(&arenas[..1], f32::MAX).unwrap();
    let again = optim::clip(&arenas[..1], f32::MAX).unwrap().0;
    assert_eq!(norm.item::<f32>().unwrap().to_bits(), again.item::<f32>().unwrap().to_bits());
    assert_eq!(factor.item::<f32>().unwrap(), 1.0);
    // A NaN anywhere makes both NaN.
    let mut broken = host[0].clone();
    broken[1500] = f64::NAN;
    models[0].collect(&models[0].w, &broken, false).unwrap();
    let (norm, factor) = optim::clip(&arenas, 1.0).unwrap();
    assert!(norm.item::<f32>().unwrap().is_nan() && factor.item::<f32>().unwrap().is_nan());
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}

#[test]
fn long_slots_adapt_as_the_reference_says() {
    let Some(runtime) = runtime_for(300_071) else { return };
    let sizes = [(70, true), (300_001, true)];
    let n = 300_071;
    let (w, gradient) = (noise(n, 3), noise(n, 4));
    let model = Model::new(&runtime, &sizes, &w).unwrap();
    let d = Tensor::zeros(&runtime, &[model.slots.len()], DType::F32).unwrap();
    model.collect(&d, &gradient, false).unwrap();
    // Twice the gradient, by the factor.
    let factor = Tensor::full(&runtime, &[1], 2.0, DType::F32).unwrap();
    optim::lars(&model.w, &d, &model.m, &model.slots, Some(&factor), &LARS).unwrap();
    let mut want = Vec::new();
    for (w, d) in split(&sizes, &w).iter().zip(split(&sizes, &gradient)) {
        let mut param = Param::new(w.to_vec(), true);
        param.lars(&d.iter().map(|d| 2.0 * d).collect::<Vec<_>>(), &LARS);
        want.extend(param.w);
    }
    check("lars", &model.values(&model.w).unwrap(), &want, CLOSE);
}

#[test]
fn averages_match_the_reference() {
    let Some(runtime) = runtime() else { return };
    for n in [0, 64, 4096, 65_536 * 4 * 64 + 64] {
        if (short() && n > 100_000) || n > limit() {
            continue;
        }
        let upload = |seed| {
            let host = noise(n, seed);
            let f32s: Vec<f32> = host.iter().map(|v| *v as f32).collect();
            (Tensor::from_slice(&runtime, &f32s, &[n]).unwrap(), host)
        };
        let ((e, host_e), (w, host_w)) = (upload(1), upload(2));
        let momentum = 0.996_f32;
        optim::ema(&e, &w, momentum, None).unwrap();
        let mu = f64::from(momentum);
        let want: Vec<f64> = host_e.iter().zip(&host_w).map(|(e, w)| mu * e + (1.0 - mu) * w).collect();
        check("ema", &download(&e).unwrap(), &want, Tolerance { atol: 3e-7, rtol: 0.0, allowed: 0 });
        assert_eq!(download(&w).unwrap(), host_w);
        assert_eq!(runtime.damaged_guards().unwrap(), 0);
    }
}

#[test]
fn repeats_are_bit_equal_and_a_nan_stays_in_its_slot() {
    let Some(runtime) = runtime() else { return };
    let n: usize = SLOTS.iter().map(|(n, _)| n).sum();
    let at = 63 + 64 + 65 + 1 + 500;
    for rule in RULES {
        let run = |broken: bool| {
            let model = Model::new(&runtime, SLOTS, &noise(n, 1)).unwrap();
            let d = Tensor::zeros(&runtime, &[model.slots.len()], DType::F32).unwrap();
            for t in 1..=3 {
                let mut gradient = noise(n, 10 + u64::from(t));
                if broken {
                    gradient[at] = f64::NAN;
                }
                model.collect(&d, &gradient, false).unwrap();
                model.step(*rule, &d, None, t).unwrap();
            }
            model.values(&model.w).unwrap()
        };
        let (first, again, broken) = (run(false), run(false), run(true));
        assert!(first == again, "{rule:?}");
        let slot = 193..193 + 1009;
        for (i, (good, bad)) in first.iter().zip(&broken).enumerate() {
            if i == at {
                assert!(bad.is_nan(), "{rule:?}");
            } else if !slot.contains(&i) {
                assert!(good == bad, "{rule:?}: element {i}");
            } else {
                assert!(!bad.is_nan(), "{rule:?}: element {i}");
            }
        }
    }
}

#[test]
fn views_see_steps_and_slices_are_arenas_too() {
    let Some(runtime) = runtime() else { return };
    let model = Model::new(&runtime, &[(100, true), (64, true)], &[1.0; 164]).unwrap();
    let view = model.w.slice(0, 128..192).unwrap();
    let d = Tensor::full(&runtime, &[192], 0.5, DType::F32).unwrap();
    optim::sgd(&model.w, &d, &model.m, &model.slots, None, &Sgd { decay: 0.0, ..SGD }).unwrap();
    assert_eq!(download(&view).unwrap(), [f64::from(1.0 - 0.1_f32 * 0.5); 64]);
    // The second slot alone.
    let part = Slots::new(&runtime, &[(64, true)]).unwrap();
    let [w, d, m] = [&model.w, &d, &model.m].map(|arena| arena.slice(0, 128..192).unwrap());
    optim::sgd(&w, &d, &m, &part, None, &Sgd { momentum: 0.0, decay: 0.0, ..SGD }).unwrap();
    let all = download(&model.w).unwrap();
    assert!((all[0] - 0.95).abs() < 1e-6 && (all[128] - 0.9).abs() < 1e-6 && (all[191] - 0.9).abs() < 1e-6);
}

#[test]
fn steps_stay_in_their_arena() {
    let Some(runtime) = runtime() else { return };
    // The middle of larger tensors: arithmetic on guard words, which are NaN, would leave them as they are.
    let ones = || Tensor::full(&runtime, &[192], 1.0, DType::F32).unwrap();
    let slots = Slots::new(&runtime, &[(60, true)]).unwrap();
    let check = |name: &str, whole: &Tensor| {
        let values = download(whole).unwrap();
        assert!(values[64..124].iter().all(|v| *v != 1.0), "{name}: not all of the arena has changed");
        assert!(
            values[..64].iter().chain(&values[128..]).all(|v| *v == 1.0),
            "{name}: more than the arena has changed"
        );
    };
    for rule in RULES {
        let whole = [ones(), ones(), ones(), ones()];
        let [w, d, m, v] = whole.each_ref().map(|arena| arena.slice(0, 64..128).unwrap());
        // Halved, so that no moment stays at 1.
        let factor = Tensor::full(&runtime, &[1], 0.5, DType::F32).unwrap();
        let model = Model { sizes: vec![(60, true)], slots: slots.clone(), w, m, v };
        model.step(*rule, &d, Some(&factor), 1).unwrap();
        check("w", &whole[0]);
        if let Rule::Adam(_) = rule {
            check("v", &whole[3]);
        }
    }
    let (e, w) = (ones(), Tensor::full(&runtime, &[192], 3.0, DType::F32).unwrap());
    optim::ema(&e.slice(0, 64..128).unwrap(), &w.slice(0, 64..128).unwrap(), 0.5, None).unwrap();
    check("e", &e);
    let part = Tensor::full(&runtime, &[60], 7.0, DType::F32).unwrap();
    for add in [false, true] {
        let arena = ones();
        optim::collect(&arena.slice(0, 64..128).unwrap(), &[(&part, 0)], add).unwrap();
        check("collected", &arena);
    }
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let slots = Slots::new(&runtime, &[(64, true), (10, false)]).unwrap();
    let arena = || Tensor::zeros(&runtime, &[128], DType::F32).unwrap();
    let (w, d, m, v) = (arena(), arena(), arena(), arena());
    let short = Tensor::zeros(&runtime, &[64], DType::F32).unwrap();
    let whole = Tensor::zeros(&runtime, &[128], DType::U32).unwrap();
    let sgd = |w: &Tensor, d: &Tensor, step: Sgd| optim::sgd(w, d, &m, &slots, None, &step);
    assert!(matches!(sgd(&short, &d, SGD), Err(Error::Shape { .. })));
    assert!(matches!(sgd(&w, &whole, SGD), Err(Error::DType { .. })));
    assert!(sgd(&w, &w, SGD).unwrap_err().to_string().contains("same memory"));
    assert!(sgd(&w, &m, SGD).is_err());
    for step in [Sgd { lr: f32::NAN, ..SGD }, Sgd { momentum: 1.0, ..SGD }, Sgd { decay: -1.0, ..SGD }] {
        assert!(matches!(sgd(&w, &d, step), Err(Error::Argument { .. })), "{step:?}");
    }
    let adam = |step: Adam| optim::adam(&w, &d, &m, &v, &slots, None, &step);
    let good = Adam { t: 1, ..ADAM };
    adam(good).unwrap();
    for step in [ADAM, Adam { eps: 0.0, ..good }, Adam { beta1: 1.0, ..good }, Adam { beta2: -0.1, ..good }] {
        assert!(matches!(adam(step), Err(Error::Argument { .. })), "{step:?}");
    }
    let factor = Tensor::zeros(&runtime, &[2], DType::F32).unwrap();
    assert!(optim::sgd(&w, &d, &m, &slots, Some(&factor), &SGD).is_err());
    assert!(optim::clip(&[], 1.0).is_err());
    assert!(optim::clip(&[(&short, &slots)], 1.0).is_err() && optim::clip(&[(&w, &slots)], 0.0).is_err());
    assert!(optim::ema(&w, &w, 0.9, None).is_err() && optim::ema(&w, &d, 1.5, None).is_err());
    let part = Tensor::zeros(&runtime, &[10], DType::F32).unwrap();
    for (offsets, what) in [([0, 65], "fit"), ([0, 128], "fit"), ([64, 64], "overlap"), ([0, usize::MAX - 63], "fit")] {
        let parts = offsets.map(|offset| (&part, offset));
        assert!(optim::collect(&w, &parts, false).unwrap_err().to_string().contains(what), "{offsets:?}");
    }
    assert!(optim::collect(&w, &[(&w.slice(0, 0..64).unwrap(), 0)], true).is_err());
    assert!(matches!(optim::collect(&w, &[(&whole, 0)], true), Err(Error::DType { .. })));
}

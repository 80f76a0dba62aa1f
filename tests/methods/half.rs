//! Mixed precision: networks learn as they do in f32, and a step that overflows is as if it had not been.

use crate::support::{adapter_runtime, runtime};
use leanvision::data::images::Split;
use leanvision::data::shapes;
use leanvision::nn::{
    Arena, Average, HalfCopy, Model, ModelSpec, NamedParam, Optimizer, Precision, Rule, Training, VitSpec, initial,
};
use leanvision::ops::elementwise::{cast, from_bytes};
use leanvision::ops::optim::{LossScale, ScaleState};
use leanvision::ops::{reduce::mean_all, softmax::cross_entropy};
use leanvision::{DType, Runtime, Tensor};

/// A network that learns a few images by heart, all of them in each step.
struct Learner {
    network: Model,
    /// The same over the f32 values, by statistics of its own.
    judged: Model,
    leaves: Vec<Tensor>,
    arena: Arena,
    half: Option<HalfCopy>,
    optimizer: Optimizer,
    average: Average,
    dtype: DType,
    images: Tensor,
    labels: Tensor,
    classes: Vec<u32>,
}

const SGD: Rule = Rule::Sgd { momentum: 0.9, nesterov: false };
const ADAMW: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decoupled: true };

/// Patches of 8 pixels, so that an image has 17 tokens, of 32 values.
fn tiny_vit() -> ModelSpec {
    ModelSpec::Vit(Box::new(VitSpec::timm(32, 8, 32, 2, 2, 10)))
}

impl Learner {
    fn new(runtime: &Runtime, spec: &ModelSpec, rule: Rule, precision: Precision, scale: f32, n: usize) -> Self {
        let weights = initial(spec, 3).unwrap();
        let (trained, statistics) = spec.plan().params.for_arenas(&weights);
        let values = |named: Vec<NamedParam>| named.into_iter().map(|(_, param)| param).collect::<Vec<_>>();
        let trained = values(trained);
        let arena = Arena::new(runtime, &trained, true).unwrap();
        let statistics = Arena::new(runtime, &values(statistics), false).unwrap().tensors().unwrap();
        let optimizer = Optimizer::new(rule, 1e-4, None, &arena).unwrap();
        let state = ScaleState { scale, good: 0, skipped: 0, taken: 0 };
        let (optimizer, half) = match precision {
            Precision::F32 => (optimizer, None),
            Precision::F16 => (
                optimizer.scaled(LossScale::resume(runtime, state).unwrap()),
                Some(HalfCopy::new(&arena.values()).unwrap()),
            ),
        };
        let read = half.as_ref().map_or_else(|| arena.tensors(), |half| half.tensors(&arena, &arena.values())).unwrap();
        let leaves: Vec<Tensor> = read.iter().map(|w| w.require_grad().unwrap()).collect();
        let model = Model::new(runtime, spec, &weights).unwrap();
        let average: Vec<Vec<f32>> = trained.iter().map(|param| param.values.clone()).collect();
        let set = shapes(n, 0, Split::Train);
        let images = Tensor::from_slice(runtime, &set.images, &[n, 32, 32, 3]).unwrap();
        let [factor, shift] = [1.0 / 64.0, -2.0].map(|v| Tensor::full(runtime, &[1], v, DType::F32).unwrap());
        let training = Training::new(0.1, false);
        Self {
            network: model.over(&leaves, &statistics).unwrap().training(training),
            judged: model.over(&arena.tensors().unwrap(), &statistics).unwrap().training(training),
            average: Average::new(&arena, &average).unwrap(),
            images: from_bytes(&images, &factor, &shift, precision.dtype()).unwrap(),
            labels: Tensor::from_slice(runtime, &set.labels, &[n]).unwrap(),
            classes: set.labels,
            dtype: precision.dtype(),
            arena,
            half,
            leaves,
            optimizer,
        }
    }

    fn step(&mut self, lr: f64) -> f32 {
        let logits = self.network.forward(&self.images).unwrap();
        assert_eq!(logits.dtype(), self.dtype);
        let losses = cross_entropy(&cast(&logits, DType::F32).unwrap(), &self.labels, 0.0).unwrap();
        let loss = mean_all(&losses).unwrap();
        self.arena.collect(&mut self.optimizer.backward(&loss).unwrap(), &self.leaves, false).unwrap();
        let stepped = self.optimizer.step(&self.arena, lr).unwrap();
        self.average.update(&self.arena, 0.9, &stepped).unwrap();
        if let Some(half) = &self.half {
            half.refresh(&self.arena.values()).unwrap();
        }
        loss.item().unwrap()
    }

    /// Share of the images that the f32 network names rightly.
    fn accuracy(&self) -> f64 {
        let images = cast(&self.images, DType::F32).unwrap();
        let logits: Vec<f32> = self.judged.forward(&images).unwrap().to_vec().unwrap();
        let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let right = logits.chunks(10).zip(&self.classes).filter(|(row, class)| best(row) == **class).count();
        right as f64 / self.classes.len() as f64
    }

    /// Bits of everything that a skipped step must leave alone: values, moments, average.
    fn bits(&self) -> Vec<u32> {
        let flats = self.optimizer.moments().iter().flatten().chain(self.average.flats());
        let all = self.arena.values().into_iter().chain(flats.cloned());
        all.flat_map(|flat| flat.to_vec::<f32>().unwrap()).map(f32::to_bits).collect()
    }

    fn scale(&self) -> ScaleState {
        let values = self.optimizer.scale().unwrap().read().unwrap().wait().unwrap();
        ScaleState::from_slice(&values).unwrap()
    }
}

#[test]
fn networks_learn_in_f16_as_in_f32() {
    let Some(runtime) = adapter_runtime().filter(|runtime| runtime.profile().features.f16) else { return };
    let resnet = ModelSpec::by_name("resnet8_x0.25").unwrap();
    for (name, spec, rule, lr, steps) in
        [("resnet8_x0.25", resnet, SGD, 0.1, 40), ("a tiny ViT", tiny_vit(), ADAMW, 3e-3, 80)]
    {
        let [f32s, f16s] = [Precision::F32, Precision::F16].map(|precision| {
            let mut learner = Learner::new(&runtime, &spec, rule, precision, LossScale::START, 50);
            let losses: Vec<f32> = (0..steps).map(|_| learner.step(lr)).collect();
            if precision == Precision::F16 {
                let ScaleState { skipped, taken, .. } = learner.scale();
                eprintln!("{name}: {taken} steps taken, {skipped} skipped");
                assert!(taken + skipped == steps && skipped < 8, "{name}: {skipped} of {steps} skipped");
            }
            (learner.accuracy(), losses)
        });
        eprintln!("{name}: {:.0} % of 50 images in f32, {:.0} % in f16", 100.0 * f32s.0, 100.0 * f16s.0);
        // Chance is 10 %. Two seeds in f32 lie some 10 points apart; half precision must not be worse than that.
        assert!(f32s.0 > 0.5 && f16s.0 > f32s.0 - 0.12, "{name}: {} in f32, {} in f16", f32s.0, f16s.0);
        // The first loss has only the rounding of the forward pass in it.
        assert!((f16s.1[0] / f32s.1[0] - 1.0).abs() < 5e-3, "{name}: {} and {} at first", f32s.1[0], f16s.1[0]);
        assert!(f16s.1[0] != f32s.1[0], "{name}: no f16 in it");
    }
}

#[test]
fn a_scale_that_is_too_large_comes_down_and_changes_nothing_on_its_way() {
    let Some(runtime) = adapter_runtime().filter(|runtime| runtime.profile().features.f16) else { return };
    for (spec, rule, lr) in [(ModelSpec::by_name("resnet8_x0.25").unwrap(), SGD, 0.1), (tiny_vit(), ADAMW, 3e-3)] {
        let mut learner = Learner::new(&runtime, &spec, rule, Precision::F16, 2.0_f32.powi(30), 10);
        let start = learner.bits();
        let mut before = (learner.scale(), start.clone());
        for _ in 0..30 {
            let loss = learner.step(lr);
            assert!(loss.is_finite());
            let after = (learner.scale(), learner.bits());
            if after.0.skipped > before.0.skipped {
                assert!(before.1 == after.1, "{spec}: a skipped step changed something");
                assert_eq!(after.0.scale, 0.5 * before.0.scale);
            } else {
                assert!(before.1 != after.1 && after.0.scale == before.0.scale, "{spec}: a step without a trace");
            }
            before = after;
        }
        let ScaleState { skipped, taken, .. } = before.0;
        assert!(skipped >= 8 && taken >= 5, "{spec}: {skipped} skipped, {taken} taken");
        assert!(before.1.iter().all(|bits| f32::from_bits(*bits).is_finite()), "{spec}");
    }
}

#[test]
fn what_norms_have_stays_f32() {
    let Some(runtime) = runtime().filter(|runtime| runtime.profile().features.f16) else { return };
    for spec in [
        ModelSpec::by_name("resnet8_x0.25").unwrap(),
        tiny_vit(),
        ModelSpec::by_name("mobilenet_v2_cifar_x0.25").unwrap(),
    ] {
        let weights = initial(&spec, 1).unwrap();
        let (trained, _) = spec.plan().params.for_arenas(&weights);
        let params: Vec<_> = trained.iter().map(|(_, param)| param.clone()).collect();
        let arena = Arena::new(&runtime, &params, true).unwrap();
        let half = HalfCopy::new(&arena.values()).unwrap();
        for ((name, param), tensor) in trained.iter().zip(half.tensors(&arena, &arena.values()).unwrap()) {
            let of_norm = ["norm", "bn", "downsample.1", "shortcut.1"].iter().any(|part| name.contains(part))
                || (name.contains("features") && param.shape.len() == 1);
            assert_eq!(tensor.dtype() == DType::F32, of_norm, "{spec}: {name}");
            assert_eq!(tensor.shape(), param.shape);
            if tensor.dtype() == DType::F16 {
                let want: Vec<half::f16> = param.values.iter().map(|v| half::f16::from_f32(*v)).collect();
                assert!(tensor.to_vec::<half::f16>().unwrap() == want, "{spec}: {name}");
            }
        }
    }
}

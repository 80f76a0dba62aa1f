//! Gradients of the mixed numbers, on small networks.

use super::adapter::Layout;
use super::method::{AdapterSpec, Method};
use crate::nn::{Arena, ArenaParam, MlpLayer, MlpSpec, Model, ModelSpec, NamedParam, untrained};
use crate::ops::basis::Law;
use crate::ops::elementwise::square;
use crate::ops::random::Key;
use crate::ops::{Act, reduce};
use crate::reference::random;
use crate::{DType, DeviceChoice, Error, Runtime, Tensor};

/// A device, or nothing with one line that says why.
fn runtime() -> Option<Runtime> {
    match Runtime::new(&DeviceChoice::default()) {
        Ok(runtime) => Some(runtime),
        Err(Error::NoAdapter(message)) => {
            eprintln!("skipped: {message}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn spec(method: Method, basis: Law) -> AdapterSpec {
    AdapterSpec { method, basis, seed: 11, rank: 3, k: 20, alpha: 6.0, targets: "all".into(), norms: false }
}

fn drawn(n: usize, size: f64, step: u32) -> Vec<f32> {
    random::normal(&[n], 0.0, size, Key::new(9, 90, step)).data.into_iter().map(|v| v as f32).collect()
}

/// The mean square of what a network of two layers gives, and the gradient of its coefficients at `values`.
struct Net {
    runtime: Runtime,
    model: Model,
    layout: Layout,
    x: Tensor,
}

impl Net {
    fn new(runtime: &Runtime, spec: &AdapterSpec) -> Self {
        let layers = vec![MlpLayer { act: Act::Gelu, ..MlpLayer::linear(37) }, MlpLayer::linear(12)];
        let network = ModelSpec::Mlp(MlpSpec { n_in: 21, layers });
        let plan = network.plan();
        let model = Model::new(runtime, &network, &untrained(&plan.params, 4).unwrap()).unwrap();
        let x = Tensor::from_slice(runtime, &drawn(17 * 21, 1.0, 0), &[17, 21]).unwrap();
        Self { runtime: runtime.clone(), model, layout: Layout::new(spec, &plan).unwrap(), x }
    }

    fn arenas(&self, values: &[f32]) -> (Arena, Arena) {
        let param = ArenaParam { values: values.to_vec(), shape: vec![values.len()], decays: false, half: false };
        let trained = Arena::new(&self.runtime, &[param], true).unwrap();
        (trained, Arena::new(&self.runtime, &self.layout.formed(), true).unwrap())
    }

    fn loss(&self, formed: &[Tensor]) -> Tensor {
        let trained = [Tensor::from_slice(&self.runtime, &[0.0_f32], &[1]).unwrap()];
        let model = self.layout.attach(&self.model, &trained, &[], formed, None).unwrap();
        reduce::mean_all(&square(&model.forward(&self.x).unwrap()).unwrap()).unwrap()
    }

    fn value(&self, values: &[f32]) -> f64 {
        let (trained, formed) = self.arenas(values);
        self.layout.forming(&self.runtime, None, &trained, &formed).unwrap().form(&trained, &formed).unwrap();
        f64::from(self.loss(&formed.tensors().unwrap()).to_vec::<f32>().unwrap()[0])
    }

    fn gradient(&self, values: &[f32]) -> Vec<f32> {
        let (trained, formed) = self.arenas(values);
        let map = self.layout.forming(&self.runtime, None, &trained, &formed).unwrap();
        map.form(&trained, &formed).unwrap();
        let leaves: Vec<Tensor> = formed.tensors().unwrap().iter().map(|t| t.require_grad().unwrap()).collect();
        let mut found = self.loss(&leaves).backward().unwrap();
        formed.collect(&mut found, &leaves, false).unwrap();
        map.project(&trained, &formed).unwrap();
        trained.read(&trained.gradients()).unwrap().remove(0)
    }
}

#[test]
fn gradients_of_coefficients_are_slopes() {
    let Some(runtime) = runtime() else { return };
    for method in [Method::Nola, Method::Pranc] {
        for basis in Law::ALL {
            let net = Net::new(&runtime, &spec(method, basis));
            let n = net.layout.own()[0].1[0];
            let values = drawn(n, 0.5, 1);
            let gradient = net.gradient(&values);
            let size = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let along: Vec<f64> = gradient.iter().map(|g| f64::from(*g) / size).collect();
            let other = random::normal(&[n], 0.0, 1.0, Key::new(9, 91, 0)).data;
            for direction in [along, other] {
                let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
                let at = |h: f64| {
                    let moved = values.iter().zip(&direction).map(|(v, d)| (f64::from(*v) + h * d / length) as f32);
                    net.value(&moved.collect::<Vec<_>>())
                };
                let h = 0.02;
                let slope = (at(h) - at(-h)) / (2.0 * h);
                let want: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d / length).sum();
                assert!(
                    (slope - want).abs() <= 1e-3 * size,
                    "{method} {basis}: slope {slope}, {want} wanted of {size}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_added_before_the_first_step() {
    let Some(runtime) = runtime() else { return };
    let plan = ModelSpec::by_name("vit_small32").unwrap().plan();
    let weights = untrained(&plan.params, 1).unwrap();
    for method in [Method::Lora, Method::Vera, Method::Pranc, Method::Nola] {
        let layout = Layout::new(&AdapterSpec { targets: "qv".into(), ..spec(method, Law::Uniform8) }, &plan).unwrap();
        let [trained, statistics]: [Vec<NamedParam>; 2] = layout.start(&weights).unwrap();
        assert!(statistics.is_empty());
        let arena = Arena::new(&runtime, &trained.into_iter().map(|(_, p)| p).collect::<Vec<_>>(), true).unwrap();
        let formed = Arena::new(&runtime, &layout.formed(), true).unwrap();
        if method.has_basis() {
            layout.forming(&runtime, None, &arena, &formed).unwrap().form(&arena, &formed).unwrap();
        }
        let network = ModelSpec::by_name("vit_small32").unwrap();
        let model = Model::new(&runtime, &network, &weights).unwrap();
        let frozen = layout.frozen(&runtime).unwrap();
        let (own, formed) = (arena.tensors().unwrap(), formed.tensors().unwrap());
        let adapted = layout.attach(&model, &own, &[], &formed, frozen.as_ref()).unwrap();
        let images = Tensor::from_slice(&runtime, &drawn(2 * 32 * 32 * 3, 1.0, 5), &[2, 32, 32, 3]).unwrap();
        let [a, b] = [&model, &adapted].map(|m| m.forward(&images).unwrap().to_vec::<f32>().unwrap());
        assert!(adapted.has_branches() && a == b, "{method}: the first logits differ");
        // The first factors are there: a step moves them.
        if method == Method::Nola {
            assert!(formed[0].to_vec::<f32>().unwrap().iter().any(|v| *v != 0.0));
        }
    }
}

#[test]
fn training_for_few_bits_forms_what_the_file_will_hold() {
    let Some(runtime) = runtime() else { return };
    let net = Net::new(&runtime, &spec(Method::Nola, Law::Uniform8));
    let k = net.layout.spec().k;
    let values = drawn(net.layout.own()[0].1[0], 0.3, 2);
    let form = |values: &[f32], bits: Option<u32>| {
        let (trained, formed) = net.arenas(values);
        net.layout.forming(&runtime, bits, &trained, &formed).unwrap().form(&trained, &formed).unwrap();
        formed.read(&formed.values()).unwrap().concat()
    };
    let plain = form(&values, None);
    for bits in [2, 3, 4, 8] {
        let aware = form(&values, Some(bits));
        let stored = form(&super::file::rounded(&values, k, bits).unwrap(), None);
        assert!(aware == stored, "{bits} bits: training sees other numbers than the file holds");
        assert!(aware != plain, "{bits} bits: nothing was rounded");
    }
}

#[test]
fn files_and_kernels_round_alike_at_half_steps() {
    let Some(runtime) = runtime() else { return };
    for bits in [2, 3, 4, 8] {
        let levels = ((1 << (bits - 1)) - 1) as f32;
        // Of each group, the largest size, the middles between steps and their neighbours; one below what has a step.
        let k = 3 * 128;
        let sizes = drawn(40, 1.0, 3).into_iter().map(f32::abs).chain([1e-31, 3.0, 1e-29]);
        let values: Vec<f32> = sizes
            .flat_map(|size| {
                let middle = move |i: u32| size * (((i / 3) as f32 + 0.5) / levels).min(1.0);
                let near =
                    move |i: u32| [middle(i), middle(i).next_up(), middle(i).next_down()][i as usize % 3].min(size);
                let sign = |i: u32| if i.is_multiple_of(2) { 1.0 } else { -1.0 };
                (0..k as u32).map(move |i| if i + 1 == k as u32 { size } else { sign(i) * near(i) })
            })
            .collect();
        let groups: Vec<(usize, usize)> = (0..values.len() / k).map(|g| (g * k, k)).collect();
        let out = Tensor::zeros(&runtime, &[values.len()], DType::F32).unwrap();
        let given = Tensor::from_slice(&runtime, &values, &[values.len()]).unwrap();
        crate::ops::basis::Rounding::new(&runtime, &groups, bits).unwrap().run(&given, &out).unwrap();
        let (got, want) = (out.to_vec::<f32>().unwrap(), super::file::rounded(&values, k, bits).unwrap());
        let other = (0..got.len()).find(|&i| got[i] != want[i]);
        assert!(other.is_none(), "{bits} bits, {other:?}: {:?}", other.map(|i| (values[i], got[i], want[i])));
        assert!(got[40 * k..41 * k].iter().all(|v| *v == 0.0), "{bits} bits: no zeros");
    }
}

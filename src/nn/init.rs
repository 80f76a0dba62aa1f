//! Weights that no training made: for a look at an untrained network, and for the start of a training.

use super::checkpoint::Weights;
use super::param::{ParamKind, ParamList, ParamSpec};
use super::spec::ModelSpec;
use crate::Result;
use crate::ops::random::Key;
use crate::philox::{Philox, stream};
use crate::reference::random;

/// Random weights that keep activations near one, for demonstrations and benchmarks: uniform, of variance 2 over the inputs
/// in convolutions and 1 over the inputs in linear layers; norms near identity, but nowhere exactly 0 or 1.
///
/// # Errors
/// None for a list of parameters as networks have them.
pub fn untrained(params: &ParamList, seed: u64) -> Result<Weights> {
    let values =
        params.iter().enumerate().map(|(i, param)| values(param, &mut Philox::new(seed, stream::WEIGHTS, i as u32)));
    Weights::new(params, values.collect())
}

fn values(param: &ParamSpec, random: &mut Philox) -> Vec<f32> {
    let fan_in = param.shape.iter().skip(1).product::<usize>().max(1) as f32;
    let (middle, reach) = match param.kind {
        ParamKind::ConvWeight => (0.0, (6.0 / fan_in).sqrt()),
        ParamKind::LinearWeight | ParamKind::FlattenedWeight { .. } => (0.0, (3.0 / fan_in).sqrt()),
        ParamKind::TransposedWeight => (0.0, (3.0 / param.shape[0].max(1) as f32).sqrt()),
        ParamKind::Bias | ParamKind::NormBias | ParamKind::RunningMean => (0.0, 0.1),
        ParamKind::Gain | ParamKind::RunningVar => (1.0, 0.1),
        ParamKind::UnitGain => (1.0, 0.0),
        ParamKind::ZeroBias => (0.0, 0.0),
        ParamKind::Token | ParamKind::Table => (0.0, 0.5),
    };
    (0..param.len()).map(|_| middle + reach * (2.0 * random.uniform_f32() - 1.0)).collect()
}

/// Deviation of a ViT's weights, tokens and positions in timm and DeiT, and of a language model's in GPT-2 and BERT.
const VIT_STD: f64 = 0.02;
/// Deviation of MobileNetV2's linear weights in torchvision.
const MOBILENET_STD: f64 = 0.01;

/// Weights to start a training from, as each network's authors or its usual code draw them.
///
/// | network | convolutions | linear layers |
/// |---|---|---|
/// | ResNet | normal, variance `2 / fan_out` (He et al. 2015, arXiv 1502.01852) | PyTorch's default |
/// | MobileNetV2 | as ResNet | normal, deviation 0.01, bias 0 |
/// | ViT | PyTorch's default, the bias too | normal, deviation 0.02, bias 0 |
/// | language model | none | normal, deviation 0.02, bias 0; tables, too |
/// | MNIST CNN, MLP | PyTorch's default | PyTorch's default |
///
/// PyTorch's default is uniform within `1 / sqrt(fan_in)`, for weight and bias. Norms start as the identity, with running
/// mean 0 and variance 1. A ViT's class token and positions are drawn like its linear weights; timm and DeiT cut those at
/// 2, which is 100 deviations away. Tensor `i` of the network takes the draws of stream
/// [`stream::INITIAL_WEIGHTS`], step `i`, in published layout.
///
/// # Errors
/// None for a network whose plan can be made.
pub fn initial(spec: &ModelSpec, seed: u64) -> Result<Weights> {
    initial_behind(spec, seed, 0)
}

/// As [`initial`], for a network whose tensors follow `first` others that were drawn from the same seed.
///
/// # Errors
/// As [`initial`].
pub fn initial_behind(spec: &ModelSpec, seed: u64, first: usize) -> Result<Weights> {
    let params = spec.plan().params;
    let mut values: Vec<Vec<f32>> = Vec::with_capacity(params.len());
    let mut before = None;
    for (i, param) in params.iter().enumerate() {
        let key = Key::new(seed, stream::INITIAL_WEIGHTS, (first + i) as u32);
        values.push(start(spec, param, before).draw(param.len(), key));
        before = Some(param);
    }
    Weights::new(&params, values)
}

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Constant(f32),
    /// Mean 0, this deviation.
    Normal(f64),
    /// From minus this to this.
    Uniform(f64),
}

impl Start {
    fn draw(self, n: usize, key: Key) -> Vec<f32> {
        let drawn = match self {
            Self::Constant(value) => return vec![value; n],
            Self::Normal(std) => random::normal(&[n], 0.0, std, key),
            Self::Uniform(reach) => random::uniform(&[n], -reach, reach, key),
        };
        drawn.data.into_iter().map(|v| v as f32).collect()
    }
}

/// How `param` starts; `before` is the tensor listed before it, which for a bias is its layer's weight.
fn start(spec: &ModelSpec, param: &ParamSpec, before: Option<&ParamSpec>) -> Start {
    use ParamKind::{
        Bias, ConvWeight, FlattenedWeight, Gain, LinearWeight, NormBias, RunningMean, RunningVar, Table, Token,
        TransposedWeight, UnitGain, ZeroBias,
    };
    let default = |weight: &ParamSpec| Start::Uniform(1.0 / (fan_in(weight).max(1) as f64).sqrt());
    match param.kind {
        Gain | UnitGain | RunningVar => Start::Constant(1.0),
        NormBias | ZeroBias | RunningMean => Start::Constant(0.0),
        Token | Table | TransposedWeight => Start::Normal(VIT_STD),
        ConvWeight => match spec {
            ModelSpec::ResNet(_) | ModelSpec::MobileNetV2(_) => {
                // PyTorch counts the outputs of all groups.
                let fan_out = param.shape[0] * param.shape[2] * param.shape[3];
                Start::Normal((2.0 / fan_out.max(1) as f64).sqrt())
            }
            ModelSpec::Vit(_) | ModelSpec::Text(_) | ModelSpec::MnistCnn(_) | ModelSpec::Mlp(_) => default(param),
        },
        LinearWeight | FlattenedWeight { .. } => match spec {
            ModelSpec::ResNet(_) | ModelSpec::MnistCnn(_) | ModelSpec::Mlp(_) => default(param),
            ModelSpec::MobileNetV2(_) => Start::Normal(MOBILENET_STD),
            ModelSpec::Vit(_) | ModelSpec::Text(_) => Start::Normal(VIT_STD),
        },
        Bias => match (spec, before) {
            (ModelSpec::ResNet(_) | ModelSpec::MnistCnn(_) | ModelSpec::Mlp(_), Some(weight)) => default(weight),
            (ModelSpec::Vit(_), Some(weight)) if weight.kind == ConvWeight => default(weight),
            _ => Start::Constant(0.0),
        },
    }
}

/// Inputs that one output of a layer sums over.
fn fan_in(weight: &ParamSpec) -> usize {
    weight.shape.iter().skip(1).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The named tensors of a fresh network.
    fn fresh(name: &str, seed: u64) -> Vec<(ParamSpec, Vec<f32>)> {
        let spec = ModelSpec::by_name(name).unwrap();
        let weights = initial(&spec, seed).unwrap();
        spec.plan().params.iter().cloned().zip(weights.into_inner()).collect()
    }

    /// Mean, deviation, largest size.
    fn moments(values: &[f32]) -> (f64, f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let var = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        (mean, var.sqrt(), values.iter().fold(0.0, |largest, v| largest.max(f64::from(v.abs()))))
    }

    /// Five deviations of the estimates of a normal sample; a uniform one strays less.
    fn has_std(name: &str, values: &[f32], want: f64) {
        let (mean, std, _) = moments(values);
        let sigma = 5.0 / (values.len() as f64).sqrt();
        assert!(mean.abs() < sigma * want, "{name}: mean {mean:e} for deviation {want:e}");
        assert!((std / want - 1.0).abs() < 0.71 * sigma, "{name}: deviation {std:e}, {want:e} wanted");
    }

    fn is_normal(name: &str, values: &[f32], std: f64) {
        has_std(name, values, std);
        // 4.6 % lie past two deviations, where a uniform sample has none.
        let far = values.iter().filter(|v| f64::from(v.abs()) > 2.0 * std).count() as f64 / values.len() as f64;
        assert!(values.len() < 1000 || (0.02..0.08).contains(&far), "{name}: {far} past two deviations");
    }

    fn is_uniform(name: &str, values: &[f32], reach: f64) {
        let (_, _, largest) = moments(values);
        assert!(largest <= reach * 1.000_001, "{name}: {largest} past {reach}");
        has_std(name, values, reach / 3.0_f64.sqrt());
        assert!(values.len() < 1000 || largest > 0.99 * reach, "{name}: none near {reach}, at most {largest}");
    }

    fn is_all(name: &str, values: &[f32], want: f32) {
        assert!(values.iter().all(|v| *v == want), "{name}: not all {want}");
    }

    fn check_norms(tensors: &[(ParamSpec, Vec<f32>)]) {
        for (param, values) in tensors {
            match param.kind {
                ParamKind::Gain | ParamKind::RunningVar => is_all(&param.name, values, 1.0),
                ParamKind::NormBias | ParamKind::RunningMean => is_all(&param.name, values, 0.0),
                _ => {}
            }
        }
    }

    #[test]
    fn resnets_start_as_he_et_al_say() {
        for (network, n_features) in [("resnet20", 64), ("resnet18", 512)] {
            let tensors = fresh(network, 1);
            check_norms(&tensors);
            for (param, values) in &tensors {
                let name = &param.name;
                match param.kind {
                    ParamKind::ConvWeight => {
                        let fan_out = (param.shape[0] * param.shape[2] * param.shape[3]) as f64;
                        is_normal(name, values, (2.0 / fan_out).sqrt());
                    }
                    ParamKind::LinearWeight => is_uniform(name, values, 1.0 / f64::from(n_features).sqrt()),
                    ParamKind::Bias if values.len() == param_classes(network) => {
                        let reach = 1.0 / f64::from(n_features).sqrt();
                        assert!(moments(values).2 <= reach && moments(values).1 > 0.3 * reach, "{name}");
                    }
                    ParamKind::Bias => is_all(name, values, 0.0),
                    _ => {}
                }
            }
        }
    }

    fn param_classes(network: &str) -> usize {
        ModelSpec::by_name(network).unwrap().classes()
    }

    #[test]
    fn mobilenet_starts_as_torchvision_says() {
        let tensors = fresh("mobilenet_v2", 2);
        check_norms(&tensors);
        let mut n_depthwise = 0;
        for (param, values) in &tensors {
            let name = &param.name;
            match param.kind {
                ParamKind::ConvWeight => {
                    n_depthwise += usize::from(param.shape[1] == 1);
                    let fan_out = (param.shape[0] * param.shape[2] * param.shape[3]) as f64;
                    is_normal(name, values, (2.0 / fan_out).sqrt());
                }
                ParamKind::LinearWeight => is_normal(name, values, 0.01),
                ParamKind::Bias => is_all(name, values, 0.0),
                _ => {}
            }
        }
        assert_eq!(n_depthwise, 17);
    }

    #[test]
    fn vits_start_as_timm_says() {
        let tensors = fresh("deit_tiny", 3);
        check_norms(&tensors);
        for (param, values) in &tensors {
            let name = param.name.as_str();
            match param.kind {
                ParamKind::LinearWeight | ParamKind::Token => is_normal(name, values, 0.02),
                ParamKind::ConvWeight => is_uniform(name, values, 1.0 / 768.0_f64.sqrt()),
                ParamKind::Bias if name == "patch_embed.proj.bias" => is_uniform(name, values, 1.0 / 768.0_f64.sqrt()),
                ParamKind::Bias => is_all(name, values, 0.0),
                _ => {}
            }
        }
        assert_eq!(tensors.iter().filter(|(param, _)| param.kind == ParamKind::Token).count(), 2);
    }

    #[test]
    fn the_mnist_cnn_starts_as_pytorch_does() {
        let tensors = fresh("mnist_cnn", 4);
        check_norms(&tensors);
        for pair in tensors.windows(2) {
            let [(weight, of_weight), (bias, of_bias)] = pair else { continue };
            if bias.kind == ParamKind::Bias {
                let reach = 1.0 / (weight.shape[1..].iter().product::<usize>() as f64).sqrt();
                is_uniform(&weight.name, of_weight, reach);
                is_uniform(&bias.name, of_bias, reach);
            }
        }
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let (first, again, other) = (fresh("resnet20", 5), fresh("resnet20", 5), fresh("resnet20", 6));
        assert!(first == again);
        let drawn = |param: &ParamSpec| matches!(param.kind, ParamKind::ConvWeight | ParamKind::LinearWeight);
        for ((param, a), (_, b)) in first.iter().zip(&other) {
            assert_eq!(
                a != b,
                drawn(param) || param.name == "linear.bias" || param.name == "fc.bias",
                "{}",
                param.name
            );
        }
        // Tensors of one shape differ.
        let same: Vec<&Vec<f32>> =
            first.iter().filter(|(param, _)| param.shape == [16, 16, 3, 3]).map(|(_, values)| values).collect();
        assert!(same.len() > 2 && same.windows(2).all(|pair| pair[0] != pair[1]));
    }
}

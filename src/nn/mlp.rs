//! Multi-layer perceptrons over features: the projectors and predictors of self-supervised methods, linear probes.

use super::param::{ParamKind, ParamList};
use super::plan::{Body, Norm, Plan, Step};
use crate::ops::Act;

/// The batch norm behind a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpNorm {
    /// With a gain and a bias that are trained.
    Affine,
    /// Without.
    Plain,
}

/// A linear layer, then a batch norm if it has one, then an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpLayer {
    /// Output width.
    pub n_out: usize,
    /// Whether the linear layer has a bias.
    pub bias: bool,
    /// The batch norm.
    pub norm: Option<MlpNorm>,
    /// The activation.
    pub act: Act,
}

impl MlpLayer {
    /// A linear layer with bias, and nothing behind it.
    #[must_use]
    pub fn linear(n_out: usize) -> Self {
        Self { n_out, bias: true, norm: None, act: Act::None }
    }

    /// A linear layer with bias, batch norm and `ReLU`.
    #[must_use]
    pub fn hidden(n_out: usize) -> Self {
        Self { n_out, bias: true, norm: Some(MlpNorm::Affine), act: Act::Relu }
    }
}

/// A perceptron over vectors `[n, n_in]`. Its tensors are named as those of PyTorch's `Sequential`, which counts linear layers,
/// norms and activations alike; a plain norm's gain and bias, which are 1 and 0, have names here, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlpSpec {
    /// Input width.
    pub n_in: usize,
    /// The layers.
    pub layers: Vec<MlpLayer>,
}

impl MlpSpec {
    /// Output width.
    #[must_use]
    pub fn n_out(&self) -> usize {
        self.layers.last().map_or(self.n_in, |layer| layer.n_out)
    }

    /// Tensors and steps.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut params = ParamList::default();
        let (mut steps, mut n_in, mut place) = (Vec::new(), self.n_in, 0);
        for layer in &self.layers {
            let name = place.to_string();
            let names = [format!("{name}.weight"), format!("{name}.bias")];
            let mut linear = params.linear_named(&name, &names, n_in, layer.n_out, layer.bias);
            place += 1;
            if let Some(norm) = layer.norm {
                linear.norm = Some(match norm {
                    MlpNorm::Affine => params.batch_norm(&place.to_string(), layer.n_out),
                    MlpNorm::Plain => plain_norm(&mut params, &place.to_string(), layer.n_out),
                });
                place += 1;
            }
            place += usize::from(layer.act != Act::None);
            linear.act = layer.act;
            steps.push(Step::Linear(linear));
            n_in = layer.n_out;
        }
        Plan { params, body: Body::Conv(steps), has_head: false }
    }
}

/// A batch norm over `n` channels whose gain and bias are not trained.
fn plain_norm(params: &mut ParamList, name: &str, n: usize) -> Norm {
    Norm {
        name: name.to_string(),
        gain: params.add(format!("{name}.weight"), [n], ParamKind::UnitGain),
        bias: params.add(format!("{name}.bias"), [n], ParamKind::ZeroBias),
        mean: params.add(format!("{name}.running_mean"), [n], ParamKind::RunningMean),
        var: params.add(format!("{name}.running_var"), [n], ParamKind::RunningVar),
        eps: 1e-5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_named_as_in_a_sequential() {
        let plain = MlpLayer { n_out: 3, bias: false, norm: Some(MlpNorm::Plain), act: Act::None };
        let spec = MlpSpec { n_in: 4, layers: vec![MlpLayer::hidden(8), plain] };
        let plan = spec.plan();
        let trained: Vec<&str> = plan.params.iter().filter(|p| p.kind.is_trained()).map(|p| p.name.as_str()).collect();
        assert_eq!(trained, ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight"]);
        let kept: Vec<&str> = plan.params.iter().filter(|p| !p.kind.is_trained()).map(|p| p.name.as_str()).collect();
        let of = |i: u32| [format!("{i}.running_mean"), format!("{i}.running_var")];
        assert_eq!(kept, [of(1).to_vec(), vec!["4.weight".into(), "4.bias".into()], of(4).to_vec()].concat());
        assert_eq!((spec.n_out(), plan.params.n_trained()), (3, 4 * 8 + 8 + 16 + 24));
    }
}

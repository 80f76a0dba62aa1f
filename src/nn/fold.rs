//! Batch norms folded into the layers in front of them, for inference.

use super::checkpoint::Weights;
use super::param::{ParamId, ParamKind, ParamList};
use super::plan::{Body, Norm, Plan, Shortcut, Step};
use crate::Result;

impl Plan {
    /// The same network without the batch norms that directly follow a convolution or linear layer: their factor goes
    /// into the weight, their summand into a bias. Computed in f64, rounded once.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] if `weights` are not this plan's.
    pub fn fold(&self, weights: &Weights) -> Result<(Self, Weights)> {
        weights.check(&self.params)?;
        let mut fold = Fold { old: &self.params, weights, params: ParamList::default(), values: Vec::new() };
        let body = match &self.body {
            Body::Conv(steps) => Body::Conv(fold.steps(steps)),
            // Transformers have layer norms, which depend on the input.
            Body::Vit(_) | Body::Text(_) => return Ok((self.clone(), weights.clone())),
        };
        let weights = Weights::new(&fold.params, fold.values)?;
        Ok((Self { params: fold.params, body, has_head: self.has_head }, weights))
    }
}

struct Fold<'a> {
    old: &'a ParamList,
    weights: &'a Weights,
    params: ParamList,
    values: Vec<Vec<f32>>,
}

impl Fold<'_> {
    fn add(&mut self, name: &str, shape: &[usize], kind: ParamKind, values: Vec<f32>) -> ParamId {
        self.values.push(values);
        self.params.add(name, shape, kind)
    }

    fn keep(&mut self, id: ParamId) -> ParamId {
        let (old, weights) = (self.old, self.weights);
        let param = &old[id];
        self.add(&param.name, &param.shape, param.kind, weights[id].clone())
    }

    fn steps(&mut self, steps: &[Step]) -> Vec<Step> {
        steps
            .iter()
            .map(|step| match step.clone() {
                Step::Conv(mut conv) => {
                    let layer = (conv.weight, conv.bias, conv.norm.take());
                    (conv.weight, conv.bias) = self.layer(&conv.name, layer);
                    Step::Conv(conv)
                }
                Step::Linear(mut linear) => {
                    let layer = (linear.weight, linear.bias, linear.norm.take());
                    (linear.weight, linear.bias) = self.layer(&linear.name, layer);
                    Step::Linear(linear)
                }
                Step::Norm(norm) => Step::Norm(Norm {
                    gain: self.keep(norm.gain),
                    bias: self.keep(norm.bias),
                    mean: self.keep(norm.mean),
                    var: self.keep(norm.var),
                    ..norm
                }),
                Step::Residual(mut residual) => {
                    residual.body = self.steps(&residual.body);
                    if let Shortcut::Project(conv) = &mut residual.shortcut {
                        let layer = (conv.weight, conv.bias, conv.norm.take());
                        (conv.weight, conv.bias) = self.layer(&conv.name, layer);
                    }
                    Step::Residual(residual)
                }
                step @ (Step::MaxPool(_) | Step::GlobalAvgPool | Step::Flatten) => step,
            })
            .collect()
    }

    /// Weight and bias of a layer with its norm, if it has one, folded in.
    fn layer(
        &mut self,
        name: &str,
        (weight, bias, norm): (ParamId, Option<ParamId>, Option<Norm>),
    ) -> (ParamId, Option<ParamId>) {
        let Some(norm) = norm else {
            let weight = self.keep(weight);
            return (weight, bias.map(|bias| self.keep(bias)));
        };
        let (old, weights) = (self.old, self.weights);
        let param = &old[weight];
        let of = |id: ParamId, i: usize| f64::from(weights[id][i]);
        let n_out = param.shape[0];
        let scale: Vec<f64> =
            (0..n_out).map(|i| of(norm.gain, i) / (of(norm.var, i) + f64::from(norm.eps)).sqrt()).collect();
        // Published weights have the output axis first, so that each output's values are one run.
        let run = (param.len() / n_out).max(1);
        let values = weights[weight].iter().enumerate().map(|(i, &w)| (f64::from(w) * scale[i / run]) as f32).collect();
        let shift = |i: usize| {
            let before = bias.map_or(0.0, |bias| of(bias, i));
            ((before - of(norm.mean, i)) * scale[i] + of(norm.bias, i)) as f32
        };
        let shifts = (0..n_out).map(shift).collect();
        let weight = self.add(&param.name, &param.shape, param.kind, values);
        let bias = self.add(&format!("{name}.bias"), &[n_out], ParamKind::Bias, shifts);
        (weight, Some(bias))
    }
}

//! A network's forward pass once more on the CPU in f64, over the plain loops of [`crate::reference`].

use super::checkpoint::Weights;
use super::model::window;
use super::param::ParamId;
use super::plan::{Body, Conv, LayerNorm, Linear, Norm, NormPlace, Plan, Qkv, Residual, Shortcut, Step};
use super::plan::{TokenPool, VitBlock, VitPlan};
use crate::ops::Act;
use crate::reference::elementwise::{act, map, zip};
use crate::reference::{Array, attention, conv, matmul, norm, pool, reduce};
use crate::{Error, Result};

/// Logits `[n, classes]` of normalised images `[n, h, w, c]` in f64, for checks.
///
/// # Errors
/// [`Error::Argument`] if the weights are not those of `plan`, or it is a language model's.
///
/// # Panics
/// If the images are not of the network's channels or size.
pub fn reference_forward(plan: &Plan, weights: &Weights, images: &Array) -> Result<Array> {
    let params = Params::new(plan, weights)?;
    Ok(match &plan.body {
        Body::Conv(steps) => params.steps(steps, images),
        Body::Vit(vit) => params.vit(vit, images),
        Body::Text(_) => return Err(Error::argument("reference_forward", "a language model reads no images")),
    })
}

fn add(a: &Array, b: &Array) -> Array {
    zip(a, b, |a, b| a + b)
}

/// Every tensor in device layout.
pub(super) struct Params(Vec<Array>);

impl Params {
    pub(super) fn new(plan: &Plan, weights: &Weights) -> Result<Self> {
        weights.check(&plan.params)?;
        let array = |(p, w): (&super::ParamSpec, &Vec<f32>)| {
            Array::new(&p.device_shape(), p.to_device(w).into_iter().map(f64::from).collect())
        };
        Ok(Self(plan.params.iter().zip(weights.iter()).map(array).collect()))
    }

    pub(super) fn of(&self, id: ParamId) -> &Array {
        &self.0[id.index()]
    }

    fn steps(&self, steps: &[Step], x: &Array) -> Array {
        steps.iter().fold(x.clone(), |x, step| self.step(step, &x))
    }

    fn step(&self, step: &Step, x: &Array) -> Array {
        match step {
            Step::Conv(conv) => self.conv(conv, x),
            Step::Norm(norm) => self.batch_norm(Some(norm), x, Act::None),
            Step::MaxPool(p) => pool::max_pool2d(x, [p.kernel; 2], [p.stride; 2], [p.padding; 2]),
            Step::GlobalAvgPool => pool::global_avg_pool(x),
            Step::Flatten => x.reshaped(&[x.shape[0], x.shape[1..].iter().product()]),
            Step::Linear(linear) => self.linear(linear, x),
            Step::Residual(residual) => self.residual(residual, x),
        }
    }

    fn conv(&self, layer: &Conv, x: &Array) -> Array {
        let y = conv::conv2d(x, self.of(layer.weight), layer.bias.map(|id| self.of(id)), &window(layer));
        self.batch_norm(layer.norm.as_ref(), &y, layer.act)
    }

    pub(super) fn linear(&self, layer: &Linear, x: &Array) -> Array {
        let y = matmul::linear(x, self.of(layer.weight), layer.bias.map(|id| self.of(id)), Act::None);
        self.batch_norm(layer.norm.as_ref(), &y, layer.act)
    }

    /// Batch norm if there is one, then the activation.
    fn batch_norm(&self, layer: Option<&Norm>, x: &Array, kind: Act) -> Array {
        let normed = layer.map(|layer| {
            let [gain, bias, mean, var] = [layer.gain, layer.bias, layer.mean, layer.var].map(|id| self.of(id));
            norm::batch_norm(x, gain, bias, mean, var, layer.eps.into())
        });
        map(normed.as_ref().unwrap_or(x), |v| act(kind, v))
    }

    fn residual(&self, layer: &Residual, x: &Array) -> Array {
        let shortcut = match &layer.shortcut {
            Shortcut::Identity => x.clone(),
            &Shortcut::Pad { stride, before, after } => {
                let [n, h, w, c] = [0, 1, 2, 3].map(|axis| x.shape[axis]);
                let shape = [n, h.div_ceil(stride), w.div_ceil(stride), before + c + after];
                Array::from_fn(&shape, |i| match i[3].checked_sub(before) {
                    Some(channel) if channel < c => x.at(&[i[0], i[1] * stride, i[2] * stride, channel]),
                    _ => 0.0,
                })
            }
            Shortcut::Project(conv) => self.conv(conv, x),
        };
        zip(&self.steps(&layer.body, x), &shortcut, |a, b| act(layer.act, a + b))
    }

    fn vit(&self, vit: &VitPlan, images: &Array) -> Array {
        let patches = self.conv(&vit.patch, images);
        let (n, width) = (patches.shape[0], patches.shape[3]);
        let n_patches = patches.shape[1] * patches.shape[2];
        let first = usize::from(vit.class_token.is_some());
        let shape = [n, n_patches + first, width];
        let tokens = Array::from_fn(&shape, |i| match (i[1].checked_sub(first), vit.class_token) {
            (Some(patch), _) => patches.data[(i[0] * n_patches + patch) * width + i[2]],
            (None, token) => token.map_or(0.0, |id| self.of(id).data[i[2]]),
        });
        let x = add(&tokens, self.of(vit.position)).reshaped(&[n * shape[1], width]);
        let x = vit.blocks.iter().fold(x, |x, layer| self.block(vit, layer, &x, &vec![shape[1]; n]));
        let x = x.reshaped(&shape);
        let pooled = match vit.pool {
            TokenPool::Class => Array::from_fn(&[n, width], |i| x.at(&[i[0], 0, i[1]])),
            TokenPool::Mean => {
                let patches = Array::from_fn(&[n, n_patches, width], |i| x.at(&[i[0], first + i[1], i[2]]));
                reduce::reduce(&patches, &[1], false, |v| v.iter().sum::<f64>() / v.len() as f64)
            }
        };
        let pooled = vit.norm.as_ref().map_or(pooled.clone(), |layer| self.layer_norm(layer, &pooled));
        vit.head.as_ref().map_or(pooled.clone(), |head| self.linear(head, &pooled))
    }

    fn block(&self, vit: &VitPlan, layer: &VitBlock, x: &Array, lengths: &[usize]) -> Array {
        let attend = |x: &Array| self.attention(vit.heads, layer, x, lengths);
        let mlp = |x: &Array| self.linear(&layer.fc2, &self.linear(&layer.fc1, x));
        match vit.norm_place {
            NormPlace::Pre => {
                let x = add(x, &attend(&self.layer_norm(&layer.norm1, x)));
                add(&x, &mlp(&self.layer_norm(&layer.norm2, &x)))
            }
            NormPlace::Post => {
                let x = self.layer_norm(&layer.norm1, &add(x, &attend(x)));
                self.layer_norm(&layer.norm2, &add(&x, &mlp(&x)))
            }
        }
    }

    fn attention(&self, heads: usize, layer: &VitBlock, x: &Array, lengths: &[usize]) -> Array {
        let (n_tokens, width) = (x.shape[0], x.shape[1]);
        let d = width / heads;
        let packed = match &layer.qkv {
            Qkv::Packed(qkv) => vec![self.linear(qkv, x)],
            Qkv::Separate(layers) => layers.iter().map(|layer| self.linear(layer, x)).collect(),
        };
        let part = |i: usize| {
            let (from, first) = if let [packed] = &packed[..] { (packed, i * width) } else { (&packed[i], 0) };
            Array::from_fn(&[n_tokens, heads, d], |at| from.at(&[at[0], first + at[1] * d + at[2]]))
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let (mixed, _) = attention::attention([&q, &k, &v], (lengths, lengths), false, 1.0 / (d as f64).sqrt());
        self.linear(&layer.proj, &mixed.reshaped(&[n_tokens, width]))
    }

    fn layer_norm(&self, layer: &LayerNorm, x: &Array) -> Array {
        norm::layer_norm(x, Some(self.of(layer.gain)), Some(self.of(layer.bias)), layer.eps.into())
    }
}

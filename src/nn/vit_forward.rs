//! A vision transformer's forward pass over packed tokens.

use super::model::Model;
use super::plan::{LayerNorm, NormPlace, Qkv, TokenPool, VitBlock, VitPlan};
use crate::ops::attention::{self, Attention};
use crate::ops::elementwise::add;
use crate::ops::{gather, norm, reduce};
use crate::tensor::Offsets;
use crate::{Error, Result, Tensor};

/// What the head sees, `[n, width]`, of images `[n, h, w, c]`.
pub(super) fn features(model: &Model, vit: &VitPlan, images: &Tensor) -> Result<Tensor> {
    let n = images.shape()[0];
    let mut x = embed(model, vit, images)?;
    let &[_, n_tokens, width] = x.shape() else {
        return Err(Error::shape("vit", format!("tokens {:?}, [n, tokens, width] wanted", x.shape())));
    };
    let offsets = Offsets::equal(images.runtime(), n, n_tokens)?;
    x = x.reshape(&[n * n_tokens, width])?;
    for layer in &vit.blocks {
        let (layer, place, heads, offsets) = (layer.clone(), vit.norm_place, vit.heads, offsets.clone());
        x = model.block(&x, move |model, x| block(model, place, heads, &layer, x, &offsets))?;
    }
    let x = x.reshape(&[n, n_tokens, width])?;
    let pooled = match vit.pool {
        // A norm looks at one token at a time, so that only the class tokens need it.
        TokenPool::Class => x.slice(1, 0..1)?.reshape(&[n, width])?,
        TokenPool::Mean => {
            let first = usize::from(vit.class_token.is_some());
            reduce::mean(&x.slice(1, first..n_tokens)?, &[1], false)?
        }
    };
    vit.norm.as_ref().map_or(Ok(pooled.clone()), |layer| layer_norm(model, layer, &pooled))
}

/// Patches with class token and positions: `[n, tokens, width]`.
fn embed(model: &Model, vit: &VitPlan, images: &Tensor) -> Result<Tensor> {
    let patches = model.conv(&vit.patch, images)?;
    let &[n, rows, columns, width] = patches.shape() else {
        return Err(Error::shape("vit", format!("patches {:?}, [n, h, w, width] wanted", patches.shape())));
    };
    let patches = patches.reshape(&[n, rows * columns, width])?;
    let position = model.param(vit.position);
    let n_tokens = rows * columns + usize::from(vit.class_token.is_some());
    if position.shape()[0] != n_tokens {
        let (shape, want) = (images.shape(), position.shape()[0]);
        return Err(Error::shape("vit", format!("images {shape:?} give {n_tokens} tokens, the weights have {want}")));
    }
    let tokens = match vit.class_token {
        Some(id) => gather::concat(&[&model.param(id).broadcast_to(&[n, 1, width])?, &patches], 1)?,
        None => patches,
    };
    add(&tokens, position)
}

/// One encoder block over `[T, width]`.
fn block(
    model: &Model,
    place: NormPlace,
    heads: usize,
    layer: &VitBlock,
    x: &Tensor,
    offsets: &Offsets,
) -> Result<Tensor> {
    let attend = |x: &Tensor| attention(model, heads, layer, x, offsets);
    let mlp = |x: &Tensor| model.linear(&layer.fc2, &model.linear(&layer.fc1, x)?);
    match place {
        NormPlace::Pre => {
            let x = add(x, &attend(&layer_norm(model, &layer.norm1, x)?)?)?;
            add(&x, &mlp(&layer_norm(model, &layer.norm2, &x)?)?)
        }
        NormPlace::Post => {
            let x = layer_norm(model, &layer.norm1, &add(x, &attend(x)?)?)?;
            layer_norm(model, &layer.norm2, &add(&x, &mlp(&x)?)?)
        }
    }
}

/// Multi-head self-attention with its projections over `[T, width]`.
fn attention(model: &Model, heads: usize, layer: &VitBlock, x: &Tensor, offsets: &Offsets) -> Result<Tensor> {
    let (n_tokens, width) = (x.shape()[0], x.shape()[1]);
    let split = [n_tokens, heads, width / heads];
    let [q, k, v] = match &layer.qkv {
        Qkv::Packed(qkv) => {
            // q, k and v lie side by side in each token, each by heads: views, no copies.
            let [q, k, v] = model.packed(qkv, x, [width; 3])?;
            [q.reshape(&split)?, k.reshape(&split)?, v.reshape(&split)?]
        }
        Qkv::Separate(layers) => {
            let part = |i: usize| model.linear(&layers[i], x)?.reshape(&split);
            [part(0)?, part(1)?, part(2)?]
        }
    };
    let mixed = attention::attention(&q, &k, &v, offsets, &Attention::default())?;
    model.linear(&layer.proj, &mixed.reshape(&[n_tokens, width])?)
}

fn layer_norm(model: &Model, layer: &LayerNorm, x: &Tensor) -> Result<Tensor> {
    norm::layer_norm(x, Some(model.param(layer.gain)), Some(model.param(layer.bias)), layer.eps)
}

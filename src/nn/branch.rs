//! What stands beside a frozen network's weights: branches of adapters, weights in fewer bits.

use std::collections::HashMap;
use std::ops::Range;

use super::model::Model;
use super::param::{ParamId, ParamKind};
use super::plan::{Conv, Linear};
use super::site::Site;
use crate::ops::elementwise::{activate, add, add_act, affine, mul};
use crate::ops::matmul::{linear, matmul};
use crate::ops::quant::{self, Bits, Block, Quantized};
use crate::ops::{Act, gather};
use crate::{DType, Error, Result, Tensor};

/// What an adapter adds to a layer's output, of an input `x` `[.., n_in]`.
#[derive(Debug, Clone)]
pub enum Branch {
    /// `scale x a b` (Hu et al. 2021, arXiv 2106.09685).
    LowRank {
        /// `[n_in, r]`.
        a: Tensor,
        /// `[r, n_out]`.
        b: Tensor,
        /// Factor.
        scale: f32,
    },
    /// `g * ((d * (x a)) b)` (VeRA: Kopiczko et al. 2023, arXiv 2310.11454).
    Scaled {
        /// `[n_in, r]`.
        a: Tensor,
        /// `[r, n_out]`.
        b: Tensor,
        /// `[r]`.
        d: Tensor,
        /// `[n_out]`.
        g: Tensor,
    },
    /// `x w`.
    Dense(
        /// `[n_in, n_out]`.
        Tensor,
    ),
    /// `scale x a b` with factors of its own for each item: the rows of `x` are those of `n` items, equally many of each.
    PerItem {
        /// `[n, n_in, r]`.
        a: Tensor,
        /// `[n, r, n_out]`.
        b: Tensor,
        /// Factor.
        scale: f32,
    },
}

impl Branch {
    /// What it adds to the output of `x` `[rows, n_in]`: `[rows, n_out]`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            // The factor goes to the smaller side.
            Self::LowRank { a, b, scale } => matmul(&scaled(&matmul(x, a)?, *scale)?, b),
            Self::Scaled { a, b, d, g } => mul(&matmul(&mul(&matmul(x, a)?, d)?, b)?, g),
            Self::Dense(w) => matmul(x, w),
            Self::PerItem { a, b, scale } => {
                let (n, n_in) = (a.shape()[0], a.shape()[1]);
                let rows = x.len() / n_in.max(1);
                if n == 0 || !rows.is_multiple_of(n) {
                    let message = format!("{rows} rows, which {n} items do not share equally");
                    return Err(Error::shape("branch", message));
                }
                let inner = matmul(&x.reshape(&[n, rows / n, n_in])?, a)?;
                let out = matmul(&scaled(&inner, *scale)?, b)?;
                out.reshape(&[rows, b.shape()[2]])
            }
        }
    }

    /// The change of the weight itself, `[n_in, n_out]`; `None` where items have changes of their own.
    fn delta(&self) -> Result<Option<Tensor>> {
        Ok(Some(match self {
            Self::LowRank { a, b, scale } => scaled(&matmul(a, b)?, *scale)?,
            Self::Scaled { a, b, d, g } => mul(&matmul(&mul(a, d)?, b)?, g)?,
            Self::Dense(w) => w.clone(),
            Self::PerItem { .. } => return Ok(None),
        }))
    }

    /// Input and output width.
    fn widths(&self) -> [usize; 2] {
        match self {
            Self::LowRank { a, b, .. } | Self::Scaled { a, b, .. } => [a.shape()[0], b.shape()[1]],
            Self::Dense(w) => [w.shape()[0], w.shape()[1]],
            Self::PerItem { a, b, .. } => [a.shape()[1], b.shape()[2]],
        }
    }
}

fn scaled(x: &Tensor, scale: f32) -> Result<Tensor> {
    if scale == 1.0 { Ok(x.clone()) } else { affine(x, scale, 0.0) }
}

/// Branches and packed weights by parameter.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    branches: HashMap<usize, Vec<(Range<usize>, Branch)>>,
    packed: HashMap<usize, Quantized>,
}

/// The columns of a layer and what is added to them.
type Parts = [(Range<usize>, Branch)];

impl Beside {
    fn branches(&self, weight: ParamId) -> Option<&Parts> {
        self.branches.get(&weight.index()).map(Vec::as_slice)
    }
}

impl Model {
    /// The same network with branches beside some of its layers, in the place of those it may have had.
    ///
    /// # Errors
    /// [`Error::Shape`] if a branch does not fit its layer; [`Error::Argument`] for a branch by items at a convolution, for two at one
    /// layer, and for a layer that is not of [`super::Plan::sites`].
    pub fn with_branches(&self, branches: impl IntoIterator<Item = (Site, Branch)>) -> Result<Self> {
        let mut beside = Beside { branches: HashMap::new(), packed: self.beside.packed.clone() };
        let sites = self.plan().sites();
        for (site, branch) in branches {
            let parts = beside.branches.get(&site.weight.index());
            if !sites.contains(&site) || parts.is_some_and(|parts| parts.iter().any(|(at, _)| *at == site.columns)) {
                let message = format!("{} is no layer of the network, or has two branches", site.name);
                return Err(Error::argument("branch", message));
            }
            if branch.widths() != [site.n_in, site.n_out()] {
                let ([n_in, n_out], name) = (branch.widths(), &site.name);
                let message = format!("a branch {n_in} to {n_out} at {name}, {} to {}", site.n_in, site.n_out());
                return Err(Error::shape("branch", message));
            }
            if matches!(branch, Branch::PerItem { .. }) && !self.is_linear(site.weight) {
                return Err(Error::argument("branch", format!("{} is no linear layer", site.name)));
            }
            beside.branches.entry(site.weight.index()).or_default().push((site.columns, branch));
        }
        beside.branches.values_mut().for_each(|parts| parts.sort_by_key(|(columns, _)| columns.start));
        Ok(self.beside(self.params.clone(), beside))
    }

    /// The same network with the weights of its blocks' linear layers in fewer bits, unpacked in the products; those in 32 bits are
    /// freed with the last network that holds them. Convolutions, embeddings and the head stay as they are.
    ///
    /// # Errors
    /// As [`quant::quantize`].
    pub fn quantized(&self, bits: Bits, block: Block) -> Result<Self> {
        let mut beside = (*self.beside).clone();
        let mut params = self.params.to_vec();
        for site in self.plan().sites() {
            let i = site.weight.index();
            if !self.is_linear(site.weight) || beside.packed.contains_key(&i) {
                continue;
            }
            let weight = &params[i];
            beside.packed.insert(i, quant::quantize(&weight.transpose()?, bits, block)?);
            params[i] = Tensor::zeros(weight.runtime(), &[1, 1], DType::F32)?.broadcast_to(weight.shape())?;
        }
        Ok(self.beside(params.into(), beside))
    }

    /// The same network with the weights as its products take them, rounded to fewer bits or not, in 32 bits.
    ///
    /// # Errors
    /// As [`quant::dequantize`].
    pub fn unpacked(&self) -> Result<Self> {
        let mut params = self.params.to_vec();
        for (&i, packed) in &self.beside.packed {
            params[i] = quant::dequantize(packed)?.transpose()?.contiguous()?;
        }
        let beside = Beside { branches: self.beside.branches.clone(), packed: HashMap::new() };
        Ok(self.beside(params.into(), beside))
    }

    /// The same network with its branches added to the weights: as many products as before there were any.
    ///
    /// # Errors
    /// [`Error::Argument`] for branches by items.
    pub fn merged(&self) -> Result<Self> {
        let unpacked = self.unpacked()?;
        let mut params = unpacked.params.to_vec();
        for (&i, parts) in &self.beside.branches {
            params[i] = with_deltas(&params[i], parts)?;
        }
        Ok(self.beside(params.into(), Beside::default()))
    }

    /// The low-rank factors beside each of these layers, and what their product counts: `[n_in, r]`, `[r, n_out]`.
    ///
    /// # Errors
    /// [`Error::Argument`] for a layer without such a branch.
    pub fn factors(&self, sites: &[Site]) -> Result<Vec<(Tensor, Tensor, f32)>> {
        let of = |site: &Site| {
            let parts = self.beside.branches(site.weight).unwrap_or_default();
            match parts.iter().find(|(columns, _)| *columns == site.columns) {
                Some((_, Branch::LowRank { a, b, scale })) => Ok((a.clone(), b.clone(), *scale)),
                Some((_, Branch::Scaled { a, b, d, g })) => Ok((mul(a, d)?, mul(b, g)?, 1.0)),
                _ => Err(Error::argument("factors", format!("{} has no low-rank branch", site.name))),
            }
        };
        sites.iter().map(of).collect()
    }

    fn is_linear(&self, weight: ParamId) -> bool {
        matches!(self.plan().params[weight].kind, ParamKind::LinearWeight | ParamKind::TransposedWeight)
    }

    /// Product, branches and activation of a layer without norm.
    pub(super) fn product(&self, layer: &Linear, x: &Tensor, act: Act) -> Result<Tensor> {
        let Some(parts) = self.beside.branches(layer.weight) else { return self.bare(layer, x, act) };
        if let [(columns, Branch::Dense(delta))] = parts
            && columns.len() == layer.n_out
            && !self.beside.packed.contains_key(&layer.weight.index())
        {
            let weight = add(self.param(layer.weight), delta)?;
            return linear(x, &weight, layer.bias.map(|id| self.param(id)), act);
        }
        let y = self.bare(layer, x, Act::None)?;
        let rows = x.reshape(&[x.len() / layer.n_in.max(1), layer.n_in])?;
        if let [(columns, branch)] = parts
            && columns.len() == layer.n_out
        {
            let delta = branch.apply(&rows)?.reshape(y.shape())?;
            return add_act(&y, &delta, act);
        }
        let axis = y.rank() - 1;
        let mut pieces = Vec::new();
        let mut end = 0;
        for (columns, branch) in parts {
            if columns.start > end {
                pieces.push(y.slice(axis, end..columns.start)?);
            }
            let part = y.slice(axis, columns.clone())?;
            pieces.push(add(&part, &branch.apply(&rows)?.reshape(part.shape())?)?);
            end = columns.end;
        }
        if end < layer.n_out {
            pieces.push(y.slice(axis, end..layer.n_out)?);
        }
        let whole = gather::concat(&pieces.iter().collect::<Vec<_>>(), axis)?;
        if act == Act::None { Ok(whole) } else { activate(&whole, act) }
    }

    /// The layers that a packed one holds, of these widths: views of its output, but for those with a branch.
    pub(super) fn packed<const N: usize>(&self, layer: &Linear, x: &Tensor, widths: [usize; N]) -> Result<[Tensor; N]> {
        let y = self.bare(layer, x, layer.act)?;
        let parts = self.beside.branches(layer.weight).unwrap_or_default();
        let axis = y.rank() - 1;
        let mut out = Vec::with_capacity(N);
        let mut start = 0;
        for width in widths {
            let columns = start..start + width;
            start = columns.end;
            let part = y.slice(axis, columns.clone())?;
            out.push(match parts.iter().find(|(at, _)| *at == columns) {
                Some((_, branch)) => add(&part, &branch.apply(x)?)?,
                None => part,
            });
        }
        out.try_into().map_err(|_| Error::Failed("a packed layer without its parts".into()))
    }

    /// The product as it is without branches.
    fn bare(&self, layer: &Linear, x: &Tensor, act: Act) -> Result<Tensor> {
        let bias = layer.bias.map(|id| self.param(id));
        match self.beside.packed.get(&layer.weight.index()) {
            Some(weight) => quant::linear(x, weight, bias, act),
            None => linear(x, self.param(layer.weight), bias, act),
        }
    }

    /// The weight of a convolution, its branches added.
    pub(super) fn conv_weight(&self, layer: &Conv) -> Result<Tensor> {
        let weight = self.param(layer.weight);
        match self.beside.branches(layer.weight) {
            None => Ok(weight.clone()),
            Some(parts) => with_deltas(weight, parts),
        }
    }

    /// Whether any layer has a branch.
    #[must_use]
    pub fn has_branches(&self) -> bool {
        !self.beside.branches.is_empty()
    }

    /// What its weights take on the device, in bytes: those in fewer bits as they are packed.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        let packed = &self.beside.packed;
        let plain = self.params.iter().enumerate().filter(|(i, _)| !packed.contains_key(i));
        let plain: usize = plain.map(|(_, t)| t.len() * t.dtype().bytes()).sum();
        (plain + packed.values().map(Quantized::bytes).sum::<usize>()) as u64
    }
}

/// A weight with branches added to its columns.
fn with_deltas(weight: &Tensor, parts: &Parts) -> Result<Tensor> {
    let shape = weight.shape().to_vec();
    let n_out = shape.last().copied().unwrap_or(1);
    let flat = weight.reshape(&[weight.len() / n_out.max(1), n_out])?;
    let mut pieces = Vec::new();
    let mut end = 0;
    for (columns, branch) in parts {
        let delta = branch.delta()?.ok_or_else(|| Error::argument("merge", "items with branches of their own"))?;
        if columns.start > end {
            pieces.push(flat.slice(1, end..columns.start)?);
        }
        pieces.push(add(&flat.slice(1, columns.clone())?, &delta)?);
        end = columns.end;
    }
    if end < n_out {
        pieces.push(flat.slice(1, end..n_out)?);
    }
    let whole = if let [piece] = pieces.as_slice() {
        piece.clone()
    } else {
        gather::concat(&pieces.iter().collect::<Vec<_>>(), 1)?
    };
    whole.reshape(&shape)
}

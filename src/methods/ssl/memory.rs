//! The memory bank, what lies beside it, and the targets that it gives.

use super::loss::distance;
use super::method::Method;
use super::pseudo::Pseudo;
use super::step::BANK_STEPS;
use crate::methods::training::Batch;
use crate::ops::bank::{
    NONE, Tags, Tally, enqueue, mark, mean_rows, nearest, nearest_among, random_unit, store_rows, tally,
};
use crate::ops::elementwise::{add, affine, cast, equal, greater, square, where_};
use crate::ops::gather::{concat, gather_rows, index_select};
use crate::ops::matmul::matmul;
use crate::ops::optim::ema;
use crate::ops::random::Key;
use crate::ops::reduce::sum;
use crate::philox::stream;
use crate::{DType, Result, Runtime, Tensor};

/// A tag that no query has.
const NOBODY: u32 = NONE - 1;
/// Share of the running averages of losses that stays from step to step.
const TERM_MOMENTUM: f32 = 0.98;

/// Rows that are copied, or multiplied with a few queries, at a time.
const COPIED: usize = 1 << 14;
/// Targets whose neighbours' ranks are counted.
const RANKED: usize = 32;

/// What a memory is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemorySpec {
    pub(super) method: Method,
    /// Images that are learned from.
    pub(super) n_images: usize,
    /// Entries of the bank.
    pub(super) m: usize,
    /// Width of an entry.
    pub(super) d: usize,
    /// Images of a step.
    pub(super) batch: usize,
    /// Of a micro-batch.
    pub(super) micro_batch: usize,
    /// Neighbours.
    pub(super) k: usize,
    /// Of the bank and the pool.
    pub(super) dtype: DType,
    pub(super) seed: u64,
}

/// The bank with everything that steps leave for steps to come.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) spec: MemorySpec,
    /// Targets `[m, d]`, a ring.
    pub(super) bank: Tensor,
    /// The image of each entry, u32 `[m]`; `n_images` where there is none yet.
    pub(super) ids: Tensor,
    /// The label of each image, u32 `[n_images]`, [`NONE`] where it is not known: for diagnostics alone.
    labels: Tensor,
    is_labelled: bool,
    /// Targets of this epoch by image, `[n_images, d]`.
    pub(super) pool: Option<Tensor>,
    /// Targets of the epoch before by image (CMSF-2Q).
    before: Option<Tensor>,
    /// Images of this batch in the first epoch, u32 `[b]`, past the last image later: whose targets stand in for those of the epoch before.
    first: Option<Tensor>,
    /// The part of the bank that an image may choose from, u32 `[n_images + 1]` (CMSF-KM, CMSF-sup); the last is that of empty slots.
    parts: Option<Tensor>,
    /// The part of each entry, u32 `[m]` (CMSF semi-supervised).
    tags: Option<Tensor>,
    /// What neighbours were since they were last asked for, u32 `[8]`: among all, among a part.
    totals: [Tensor; 2],
    /// Running averages of the loss by all neighbours and by those of a part, and of 1, which tells how full they are, f32 `[4]`.
    terms: Tensor,
    one: Tensor,
    half: Tensor,
    /// Targets of the last batch f32 `[b, d]`, and its neighbours among a part u32 `[b k]`.
    last: (Tensor, Tensor),
}

/// What neighbours came to since the last evaluation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Neighbours {
    /// Share of neighbours with the image's own label, without the image itself.
    pub(super) purity: Option<f64>,
    /// Share that are older views of the same image.
    pub(super) same_image: Option<f64>,
    /// Mean age in steps.
    pub(super) age: Option<f64>,
    /// Share that are the image's own target of this step.
    pub(super) own: Option<f64>,
}

impl Memory {
    /// A memory of random unit vectors and no images; `labels` of all images, if they are known, and `parts` by image for methods
    /// that are given them.
    pub(super) fn new(runtime: &Runtime, spec: MemorySpec, labels: Option<&[u32]>) -> Result<Self> {
        let MemorySpec { method, n_images, m, d, batch, micro_batch: b, k, dtype, seed } = spec;
        let full = |n: usize, value: u32| Tensor::from_slice(runtime, &vec![value; n], &[n]);
        let is_labelled = labels.is_some();
        let unknown = vec![NONE; n_images];
        let labels = labels.unwrap_or(&unknown);
        let pooled = || Tensor::zeros(runtime, &[n_images, d], dtype);
        let parts = match method {
            // Every image and every slot in one part until there are clusters.
            Method::CmsfKm => Some(vec![0; n_images + 1]),
            Method::CmsfSup => Some([labels, &[NOBODY]].concat()),
            _ => None,
        };
        let key = Key::new(seed, stream::BANK, BANK_STEPS[0]);
        Ok(Self {
            bank: random_unit(runtime, [m, d], dtype, key)?,
            ids: full(m, n_images as u32)?,
            labels: Tensor::from_slice(runtime, labels, &[n_images])?,
            is_labelled,
            pool: matches!(method, Method::Cmsf2q | Method::CmsfKm | Method::CmsfSemi).then(pooled).transpose()?,
            before: (method == Method::Cmsf2q).then(pooled).transpose()?,
            first: (method == Method::Cmsf2q).then(|| full(batch, n_images as u32)).transpose()?,
            parts: parts.map(|parts| Tensor::from_slice(runtime, &parts, &[n_images + 1])).transpose()?,
            tags: (method == Method::CmsfSemi).then(|| full(m, NOBODY)).transpose()?,
            totals: [full(Tally::WORDS, 0)?, full(Tally::WORDS, 0)?],
            terms: Tensor::zeros(runtime, &[4], DType::F32)?,
            one: Tensor::from_slice(runtime, &[1.0_f32, 1.0], &[2])?,
            half: Tensor::from_slice(runtime, &[0.5_f32], &[1])?,
            last: (Tensor::zeros(runtime, &[b, d], DType::F32)?, full(b * k.max(1), NONE)?),
            spec,
        })
    }

    /// What a checkpoint keeps of it.
    pub(super) fn kept(&self) -> Vec<(String, Tensor)> {
        let always = [
            ("bank", Some(&self.bank)),
            ("ids", Some(&self.ids)),
            ("pool", self.pool.as_ref()),
            ("before", self.before.as_ref()),
            ("parts", self.parts.as_ref()),
            ("tags", self.tags.as_ref()),
            ("totals", Some(&self.totals[0])),
            ("totals_constrained", Some(&self.totals[1])),
            ("terms", Some(&self.terms)),
            ("last", Some(&self.last.0)),
            ("last_rows", Some(&self.last.1)),
        ];
        always.into_iter().filter_map(|(name, tensor)| Some((name.to_string(), tensor?.clone()))).collect()
    }

    /// What a step needs besides its batch: `items` of a step, from 0, with `per_epoch` of them to an epoch.
    pub(super) fn feed(&self, step: u64, per_epoch: u64, items: &[u32]) -> Result<()> {
        let (Some(pool), Some(before), Some(first)) = (&self.pool, &self.before, &self.first) else { return Ok(()) };
        if step < per_epoch {
            return first.write(items);
        }
        if step.is_multiple_of(per_epoch) {
            first.write(&vec![self.spec.n_images as u32; items.len()])?;
            copy_rows(pool, before)?;
        }
        Ok(())
    }

    /// Gives each image its part of the bank; slots without an image are in none.
    pub(super) fn set_parts(&self, parts: &[u32]) -> Result<()> {
        self.parts.as_ref().map_or(Ok(()), |tensor| tensor.write(&[parts, &[NOBODY]].concat()))
    }

    /// Puts the targets of a batch into the bank.
    pub(super) fn put(&self, u: &Tensor, batch: &Batch) -> Result<()> {
        enqueue(&self.bank, u, &batch.draw)?;
        mark(&self.ids, &batch.items, &batch.draw)
    }

    /// The target of each row: from the targets `u` f32 `[b, d]` of the average of the weights, which it puts into the bank. `q`,
    /// without a history, is what the trained network made, for the running averages of the losses.
    pub(super) fn targets(&self, u: &Tensor, q: &Tensor, pseudo: Option<&Pseudo>, batch: &Batch) -> Result<Tensor> {
        let MemorySpec { method, k, .. } = self.spec;
        if method == Method::Nnbyol {
            // Not among the neighbours itself.
            let rows = nearest(u, &self.bank, 1, None)?.1;
            let mu = mean_rows(&self.bank, &rows)?;
            self.put(u, batch)?;
            return Ok(mu);
        }
        self.put(u, batch)?;
        if !self.spec.method.has_neighbours() {
            return Ok(u.clone());
        }
        let constrained = if method.is_constrained() { Some(self.constrained(u, pseudo, batch)?) } else { None };
        let mean = |rows: &Tensor, totals: &Tensor| {
            tally(rows, &self.ids, &batch.items, &self.labels, &batch.draw, totals)?;
            mean_rows(&self.bank, rows)
        };
        let all = if method.is_unconstrained() {
            let rows = nearest(u, &self.bank, k, None)?.1;
            Some(mean(&rows, &self.totals[0])?)
        } else {
            None
        };
        let part = constrained.as_ref().map(|rows| mean(rows, &self.totals[1])).transpose()?;
        if let Some(rows) = &constrained {
            enqueue(&self.last.0, u, &batch.draw)?;
            mark(&self.last.1, &rows.reshape(&[rows.len()])?, &batch.draw)?;
        }
        match (all, part) {
            (Some(all), Some(part)) => {
                let term = |mu: &Tensor| distance(q, mu)?.reshape(&[1]);
                ema(&self.terms, &concat(&[&term(&all)?, &term(&part)?, &self.one], 0)?, TERM_MOMENTUM, None)?;
                affine(&add(&all, &part)?, 0.5, 0.0)
            }
            (Some(mu), None) | (None, Some(mu)) => Ok(mu),
            (None, None) => Ok(u.clone()),
        }
    }

    /// The neighbours among a part of the bank, u32 `[b, k]`.
    fn constrained(&self, u: &Tensor, pseudo: Option<&Pseudo>, batch: &Batch) -> Result<Tensor> {
        let (runtime, k) = (u.runtime(), self.spec.k);
        if let (Some(pool), Some(before), Some(first)) = (&self.pool, &self.before, &self.first) {
            store_rows(before, u, &first.slice(0, batch.places.clone())?)?;
            let earlier = cast(&gather_rows(before, &batch.items)?, DType::F32)?;
            // An image that its last epoch left out has no earlier target.
            let size = sum(&square(&earlier)?, &[1], true)?;
            let earlier = where_(&greater(&size, &self.half)?, &earlier, u)?;
            store_rows(pool, u, &batch.items)?;
            return Ok(nearest_among(&earlier, before, &self.ids, k, None)?.1);
        }
        if let Some(pool) = &self.pool {
            store_rows(pool, u, &batch.items)?;
        }
        if let Some(parts) = &self.parts {
            let queries = index_select(parts, 0, &batch.items)?;
            let bank = index_select(parts, 0, &self.ids)?;
            return Ok(nearest(u, &self.bank, k, Some(Tags { queries: &queries, bank: &bank }))?.1);
        }
        if let (Some(tags), Some(pseudo)) = (&self.tags, pseudo) {
            let queries = pseudo.label(u, &batch.items)?;
            let [unsure, nobody] = [NONE, NOBODY].map(|tag| Tensor::constant(runtime, &[tag]));
            mark(tags, &where_(&equal(&queries, &unsure?)?, &nobody?, &queries)?, &batch.draw)?;
            return Ok(nearest(u, &self.bank, k, Some(Tags { queries: &queries, bank: tags }))?.1);
        }
        Ok(nearest(u, &self.bank, k, None)?.1)
    }

    /// What neighbours were since the last call: among all, among a part; the counts start anew.
    pub(super) fn neighbours(&self) -> Result<[Neighbours; 2]> {
        let mut both = [Neighbours::default(); 2];
        for (out, totals) in both.iter_mut().zip(&self.totals) {
            let words = totals.to_vec::<u32>()?;
            totals.write(&[0_u32; Tally::WORDS])?;
            let Ok(words) = <[u32; Tally::WORDS]>::try_from(words) else { continue };
            let tally = Tally::from_words(words);
            let others = f64::from(tally.neighbours);
            let share = |n: f64| (others > 0.0).then(|| n / others);
            *out = Neighbours {
                purity: share(f64::from(tally.same_label)).filter(|_| self.is_labelled),
                same_image: share(f64::from(tally.same_image)),
                // Counted in micro-batches.
                age: share(tally.age as f64 * self.spec.micro_batch as f64 / self.spec.batch as f64),
                own: (others + f64::from(tally.own) > 0.0)
                    .then(|| f64::from(tally.own) / (others + f64::from(tally.own) + f64::from(tally.empty))),
            };
        }
        Ok(both)
    }

    /// Running averages of the losses by all neighbours and by those of a part, where the method has both.
    pub(super) fn terms(&self) -> Result<Option<[f64; 2]>> {
        if !(self.spec.method.is_constrained() && self.spec.method.is_unconstrained()) {
            return Ok(None);
        }
        let terms = self.terms.to_vec::<f32>()?;
        let full = f64::from(terms[2]);
        Ok((full > 0.0).then(|| [terms[0], terms[1]].map(|term| f64::from(term) / full)))
    }

    /// How many entries of the bank are nearer to a target than its neighbours among a part, on average, counted from 1: of up to 32
    /// targets of the last batch, where the method constrains neighbours.
    pub(super) fn mean_rank(&self) -> Result<Option<f64>> {
        if !self.spec.method.is_constrained() {
            return Ok(None);
        }
        let n_rows = RANKED.min(self.spec.micro_batch);
        let (queries, m) = (self.last.0.slice(0, 0..n_rows)?, self.spec.m);
        let mut similar = vec![Vec::with_capacity(m); n_rows];
        for start in (0..m).step_by(COPIED) {
            let n = COPIED.min(m - start);
            let part = cast(&self.bank.slice(0, start..start + n)?, DType::F32)?;
            let products = matmul(&queries, &part.transpose()?)?.to_vec::<f32>()?;
            similar.iter_mut().zip(products.chunks_exact(n)).for_each(|(all, part)| all.extend_from_slice(part));
        }
        let rows = self.last.1.to_vec::<u32>()?;
        let (mut sum, mut n) = (0_u64, 0_u64);
        for (similar, rows) in similar.iter().zip(rows.chunks_exact(self.spec.k.max(1))) {
            for value in rows.iter().filter_map(|row| similar.get(*row as usize)) {
                sum += 1 + similar.iter().filter(|other| *other > value).count() as u64;
                n += 1;
            }
        }
        Ok((n > 0).then(|| sum as f64 / n as f64))
    }
}

/// Takes rows over into a pool of the same size and type, part by part.
fn copy_rows(pool: &Tensor, out: &Tensor) -> Result<()> {
    let n = pool.shape()[0];
    let zero = Tensor::from_slice(pool.runtime(), &[0_u32], &[1])?;
    for start in (0..n).step_by(COPIED) {
        let rows = start..(start + COPIED).min(n);
        enqueue(&out.slice(0, rows.clone())?, &cast(&pool.slice(0, rows)?, DType::F32)?, &zero)?;
    }
    Ok(())
}

//! One step of a training: views, networks, memory, loss.

use super::encoder::{Encoder, unit_rows};
use super::guide::Guide;
use super::loss::{Side, agreement, distance, divergence, info_nce};
use super::memory::Memory;
use super::method::Method;
use super::pseudo::Pseudo;
use super::settle::Settled;
use crate::methods::training::{Batch, Order, Pixels};
use crate::ops::bank::enqueue;
use crate::ops::elementwise::add;
use crate::ops::kmeans::kmeans;
use crate::ops::random::Key;
use crate::ops::views::Views;
use crate::philox::stream;
use crate::{DType, Error, Result, Tensor};

/// Lloyd's rounds of cmsf-km.
const LLOYD: usize = 20;
/// Steps of the banks' stream: their first rows, the student's bank, then clusters by epoch.
pub(super) const BANK_STEPS: [u32; 3] = [1, 2, 3];

/// What a step works with, on the device.
pub(super) struct Step<'a> {
    pub(super) settled: Settled,
    pub(super) online: Encoder,
    pub(super) target: Option<Encoder>,
    pub(super) memory: Memory,
    /// The student's own bank (CompRess-2q).
    pub(super) student: Option<Tensor>,
    pub(super) pseudo: Option<Pseudo>,
    pub(super) guide: Option<Guide>,
    pub(super) pixels: Pixels<'a>,
    pub(super) views: [Views; 2],
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
}

impl Step<'_> {
    /// What step `at`, from 0, needs besides its batch, with `per_epoch` of them to an epoch.
    pub(super) fn feed(&self, at: u64, per_epoch: u64, order: &mut Order, items: &[u32]) -> Result<()> {
        self.pixels.send(items)?;
        self.memory.feed(at, per_epoch, items)?;
        if let Some(guide) = &self.guide {
            guide.feed(order.epoch(at), items)?;
        }
        self.between_epochs(at, per_epoch, order)
    }

    /// What happens between two epochs, and half-way: clusters, the classifier of pseudo-labels.
    fn between_epochs(&self, at: u64, per_epoch: u64, order: &mut Order) -> Result<()> {
        let Settled { method, recipe, clusters, .. } = &self.settled;
        let Some(pool) = self.memory.pool.as_ref().filter(|_| at > 0) else { return Ok(()) };
        if *method == Method::CmsfKm && at.is_multiple_of(per_epoch) {
            let key = Key::new(recipe.seed, stream::BANK, BANK_STEPS[2] + order.epoch(at) as u32);
            let found = kmeans(pool, *clusters, LLOYD, key)?;
            self.memory.set_parts(&found.labels.to_vec::<u32>()?)?;
        }
        if let Some(pseudo) = &self.pseudo
            && (at.is_multiple_of(per_epoch) || at % per_epoch == per_epoch / 2)
        {
            // Whatever the last epoch's worth of steps saw.
            let mut seen: Vec<u32> = Vec::new();
            for before in at.saturating_sub(per_epoch)..at {
                seen.extend(order.items(before));
            }
            seen.sort_unstable();
            seen.dedup();
            pseudo.train(pool, &seen, at)?;
        }
        Ok(())
    }

    /// One view of each image of a batch: of the first or the second recipe.
    fn view(&self, which: usize, batch: &Batch) -> Result<Tensor> {
        let (images, ids) = self.pixels.of(batch)?;
        // Images that are sent batch by batch are told apart by the batch, not by their number.
        let counter = if self.pixels.is_whole() { &batch.epoch } else { &batch.draw };
        let recipe = &self.settled.recipe;
        let key = Key::new(recipe.seed, stream::VIEWS + which as u32, 0);
        let dtype = recipe.precision.dtype();
        self.views[which].make(&images, &ids, Some(counter), &self.scale, &self.shift, key, dtype)
    }

    /// The mean loss of a batch, `[]`.
    pub(super) fn loss(&self, batch: &Batch) -> Result<Tensor> {
        if let Some(guide) = &self.guide {
            return self.distilled(guide, batch);
        }
        let (method, temperature) = (self.settled.method, self.settled.temperature as f32);
        let (x, y) = (self.view(0, batch)?, self.view(1, batch)?);
        if method == Method::Simsiam {
            let (z, w) = (self.online.project(&x)?, self.online.project(&y)?);
            let (p, q) = (unit_rows(&self.online.predict(&z)?)?, unit_rows(&self.online.predict(&w)?)?);
            let (z, w) = (unit_rows(&z.detach())?, unit_rows(&w.detach())?);
            self.memory.put(&w, batch)?;
            let [one, other] = [(&p, &w), (&q, &z)].map(|(p, z)| agreement(p, z, -0.5, 0.0));
            return add(&one?, &other?);
        }
        let Some(target) = &self.target else {
            return Err(Error::Failed(format!("{method:?} has no target network")));
        };
        let aim = |view: &Tensor| unit_rows(&target.project(view)?);
        let answer = |view: &Tensor| unit_rows(&self.online.predict(&self.online.project(view)?)?);
        let q = answer(&x)?;
        let u = aim(&y)?;
        match method {
            Method::Isd => {
                let (bank, of_teacher) = (&self.memory.bank, self.settled.teacher_temperature as f32);
                let student = Side { rows: &q, bank, temperature };
                let loss = divergence(student, Side { rows: &u, bank, temperature: of_teacher }, true)?;
                self.memory.put(&u, batch)?;
                Ok(loss)
            }
            Method::MocoV2 => {
                let loss = info_nce(&q, &u, &self.memory.bank, temperature)?;
                self.memory.put(&u, batch)?;
                Ok(loss)
            }
            _ => {
                let mu = self.memory.targets(&u, &q.detach(), self.pseudo.as_ref(), batch)?;
                let loss = distance(&q, &mu)?;
                if method != Method::ByolSym {
                    return Ok(loss);
                }
                let (q, u) = (answer(&y)?, aim(&x)?);
                add(&loss, &distance(&q, &u)?)
            }
        }
    }

    /// The same with a teacher: both see the same view.
    fn distilled(&self, guide: &Guide, batch: &Batch) -> Result<Tensor> {
        let (method, temperature) = (self.settled.method, self.settled.temperature as f32);
        let (images, ids) = self.pixels.of(batch)?;
        let own = if self.pixels.is_whole() { &batch.epoch } else { &batch.draw };
        let recipe = &self.settled.recipe;
        let key = Key::new(recipe.seed, stream::VIEWS + 1, 0);
        let make = |counter: &Tensor, scale: &Tensor, shift: &Tensor, dtype| {
            self.views[1].make(&images, &ids, Some(counter), scale, shift, key, dtype)
        };
        let counter = guide.view().unwrap_or(own);
        let x = make(counter, &self.scale, &self.shift, recipe.precision.dtype())?;
        let t = match guide.cached(batch)? {
            Some(rows) => unit_rows(&rows)?,
            None => {
                let (scale, shift) = guide.scale_shift();
                unit_rows(&guide.features(&make(counter, scale, shift, DType::F32)?)?)?
            }
        };
        let s = unit_rows(&self.online.predict(&self.online.project(&x)?)?)?;
        let bank = &self.memory.bank;
        let teacher = Side { rows: &t, bank, temperature };
        let loss = match (method, &self.student, &self.target) {
            (Method::Simreg, ..) => distance(&s, &t)?,
            (Method::Compress2q, Some(own), Some(target)) => {
                let loss = divergence(Side { rows: &s, bank: own, temperature }, teacher, false)?;
                let slow = unit_rows(&target.project(&x)?)?;
                enqueue(own, &slow, &batch.draw)?;
                loss
            }
            _ => divergence(Side { rows: &s, bank, temperature }, teacher, true)?,
        };
        self.memory.put(&t, batch)?;
        Ok(loss)
    }
}

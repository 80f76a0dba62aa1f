//! How many images a network names rightly.

use std::collections::VecDeque;
use std::time::Instant;

use super::images::{IN_FLIGHT, each_batch};
use crate::data::ImageSet;
use crate::report::Progress;
use crate::tensor::Read;
use crate::{Result, Runtime, Tensor};

/// Counts how many images of a set a network names rightly; `logits` takes u8 images `[n, h, w, c]`, of which there are at
/// most `batch`, to `[n, classes]`. Also images per second.
pub(crate) fn judge(
    runtime: &Runtime,
    set: &ImageSet,
    batch: usize,
    quiet: bool,
    logits: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<(Score, f64)> {
    let n_classes = set.n_classes;
    let mut tally = Tally {
        labels: set.labels.iter(),
        pending: VecDeque::new(),
        score: Score::default(),
        progress: Progress::new("eval", set.len() as u64, "images", quiet),
        start: Instant::now(),
        first: None,
    };
    each_batch(runtime, set, batch, &mut |images| {
        tally.pending.push_back(logits(images)?.read()?);
        // The first batch ends alone, so that the clock of the others starts with none of them begun.
        tally.drain(if tally.first.is_none() { 0 } else { IN_FLIGHT }, n_classes)
    })?;
    tally.drain(0, n_classes)?;
    let images_per_s = tally.images_per_s();
    if tally.score.not_finite > 0 {
        log::warn!("{} images have logits that are not finite; they count as wrong", tally.score.not_finite);
    }
    Ok((tally.score, images_per_s))
}

/// Logits on their way to the host, and what those that arrived came to.
struct Tally<'a> {
    labels: std::slice::Iter<'a, u32>,
    pending: VecDeque<Read<f32>>,
    score: Score,
    progress: Progress,
    start: Instant,
    /// When the first batch had arrived, and its images.
    first: Option<(Instant, usize)>,
}

impl Tally<'_> {
    /// Counts the oldest batches until at most `keep` are on their way.
    fn drain(&mut self, keep: usize, n_classes: usize) -> Result<()> {
        while self.pending.len() > keep {
            let Some(logits) = self.pending.pop_front() else { break };
            let before = self.score.n;
            for (logits, &label) in logits.wait()?.chunks_exact(n_classes).zip(self.labels.by_ref()) {
                self.score.add(logits, label as usize);
            }
            self.progress.advance((self.score.n - before) as u64);
            self.first.get_or_insert_with(|| (Instant::now(), self.score.n));
        }
        Ok(())
    }

    /// Images per second up to now, the first batch left out where there are more.
    fn images_per_s(&self) -> f64 {
        let (start, n) = match self.first {
            Some((at, n)) if n < self.score.n => (at, self.score.n - n),
            _ => (self.start, self.score.n),
        };
        n as f64 / start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// How many images were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) n: usize,
    pub(crate) top1: usize,
    pub(crate) top5: usize,
    not_finite: usize,
}

impl Score {
    /// `right` of all images, in percent.
    pub(crate) fn percent(&self, right: usize) -> f64 {
        100.0 * right as f64 / self.n as f64
    }

    /// Counts an image. Of equal logits the lower class goes first; logits that are not all finite are wrong.
    fn add(&mut self, logits: &[f32], label: usize) {
        self.n += 1;
        if !logits.iter().all(|l| l.is_finite()) {
            self.not_finite += 1;
            return;
        }
        let own = logits[label];
        let ahead = logits.iter().enumerate().filter(|&(class, &l)| l > own || (l == own && class < label)).count();
        self.top1 += usize::from(ahead < 1);
        self.top5 += usize::from(ahead < 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_count_by_the_rank_of_their_class() {
        let mut score = Score::default();
        let logits = [0.5, 3.0, 1.0, 1.0, -2.0, 0.0, 0.1];
        score.add(&logits, 1); // first
        score.add(&logits, 3); // third: 2 has the same logit and goes before
        score.add(&logits, 6); // fifth
        score.add(&logits, 5); // sixth
        score.add(&[f32::NAN, 1.0], 1);
        score.add(&[f32::INFINITY, 1.0], 0);
        assert_eq!(score, Score { n: 6, top1: 1, top5: 3, not_finite: 2 });
        let mut equal = Score::default();
        (0..3).for_each(|label| equal.add(&[7.0; 3], label));
        assert_eq!((equal.top1, equal.top5), (1, 3));
    }
}

//! The order in which a training run sees its items.

use crate::philox::{Philox, stream};

/// Batches of a set of `n` items, each epoch in a new order; what does not fill a batch is left out of the epoch.
#[derive(Debug, Clone)]
pub struct Order {
    n: u32,
    batch: usize,
    seed: u64,
    epoch: Option<u64>,
    items: Vec<u32>,
}

impl Order {
    /// Batches of `batch` of `n` items, `batch` in `1..=n`.
    #[must_use]
    pub fn new(n: u32, batch: usize, seed: u64) -> Self {
        Self { n, batch: batch.clamp(1, (n as usize).max(1)), seed, epoch: None, items: Vec::new() }
    }

    /// Steps of an epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        (self.n as usize / self.batch).max(1) as u64
    }

    /// The epoch that a step is in, both from 0.
    #[must_use]
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch()
    }

    /// The items of a step, counted from 0 over all epochs: a function of the seed and the step alone.
    pub fn items(&mut self, step: u64) -> &[u32] {
        let (epoch, place) = (step / self.steps_per_epoch(), (step % self.steps_per_epoch()) as usize);
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.items = (0..self.n).collect();
            // Fisher and Yates, from the back.
            let mut draws = Philox::new(self.seed, stream::ORDER, epoch as u32);
            for i in (1..self.items.len()).rev() {
                self.items.swap(i, draws.below(i as u32 + 1) as usize);
            }
        }
        &self.items[place * self.batch..(place + 1) * self.batch]
    }
}

#[cfg(test)]
mod tests {
    use super::Order;
    use std::collections::BTreeSet;

    #[test]
    fn every_epoch_is_another_order_of_all_items() {
        let mut order = Order::new(103, 10, 7);
        assert_eq!(order.steps_per_epoch(), 10);
        let mut epochs = Vec::new();
        for epoch in 0..3 {
            let items: Vec<u32> = (0..10).flat_map(|i| order.items(10 * epoch + i).to_vec()).collect();
            assert_eq!(items.iter().collect::<BTreeSet<_>>().len(), 100);
            assert!(items.iter().all(|i| *i < 103));
            epochs.push(items);
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        // From any step on, and from another seed.
        assert_eq!(Order::new(103, 10, 7).items(25), &epochs[2][50..60]);
        assert_ne!(Order::new(103, 10, 8).items(25), &epochs[2][50..60]);
    }

    #[test]
    fn each_item_comes_first_equally_often() {
        let mut counts = [0; 5];
        for epoch in 0..2000 {
            counts[Order::new(5, 5, 3).items(epoch)[0] as usize] += 1;
        }
        // 400 each, standard deviation 18.
        assert!(counts.iter().all(|n| (320..480).contains(n)), "{counts:?}");
    }
}

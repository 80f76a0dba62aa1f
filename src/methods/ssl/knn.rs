//! Classification by nearest neighbours, under the protocols that papers report.
//!
//! Figures of different protocols do not compare, so each stands with its own. All of them take features of length 1 and
//! rank by their inner product, which orders as the Euclidean distance does.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::features::Features;
use super::probe::percent;
use crate::Result;
use crate::ops::matmul::matmul;
use crate::ops::topk::topk;

/// Bytes of inner products that are on the device at once, at most, beyond one row of them.
const CHUNK_BYTES: usize = 32 << 20;
/// Chunks whose neighbours are on their way to the host while the next are found.
const IN_FLIGHT: usize = 1;

/// How neighbours vote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Protocol {
    /// Neighbours; all of a smaller bank.
    pub k: usize,
    /// With `T` a neighbour counts `exp(cosine / T)`, without every neighbour counts 1.
    pub temperature: Option<f64>,
}

/// The protocols, in the order of [`Knn`]'s fields.
///
/// - 1 and 20 neighbours that count alike: mean shift, CMSF, ISD, `CompRess`. Their code breaks ties at random; here the
///   class of the nearest neighbour among the tied ones wins, so that figures repeat.
/// - 20 weighted neighbours, T 0.07: DINO, lightly's benchmarks on ViT, solo-learn.
/// - 200 weighted neighbours, T 0.1: `InstDisc` (Wu et al. 2018, arXiv 1805.01978), the `MoCo` demo and lightly on CIFAR.
pub const PROTOCOLS: [Protocol; 4] = [
    Protocol { k: 1, temperature: None },
    Protocol { k: 20, temperature: None },
    Protocol { k: 20, temperature: Some(0.07) },
    Protocol { k: 200, temperature: Some(0.1) },
];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.temperature {
            None => write!(f, "{}-NN uniform", self.k),
            Some(t) => write!(f, "{}-NN weighted, T {t}", self.k),
        }
    }
}

/// Queries whose class their neighbours name rightly, in percent, by protocol.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Knn {
    /// The nearest neighbour.
    pub uniform1: f64,
    /// 20 neighbours that count alike.
    pub uniform20: f64,
    /// 20 neighbours, weights `exp(cosine / 0.07)`.
    pub weighted20: f64,
    /// 200 neighbours, weights `exp(cosine / 0.1)`.
    pub weighted200: f64,
}

impl Knn {
    /// Judges `queries` by their neighbours in `bank`, which holds none of them, under all of [`PROTOCOLS`] with one search. A
    /// bank of fewer features than a protocol asks for votes as a whole.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if the features differ in length or classes, [`crate::Error::Input`] if they have none.
    pub fn of(bank: &Features, queries: &Features) -> Result<Self> {
        let right = |classes: &Vec<u32>| percent(classes, queries.labels());
        let [uniform1, uniform20, weighted20, weighted200] = Self::predict(bank, queries)?.each_ref().map(right);
        Ok(Self { uniform1, uniform20, weighted20, weighted200 })
    }

    /// The class of each query under each of [`PROTOCOLS`].
    ///
    /// # Errors
    /// As [`Knn::of`].
    pub fn predict(bank: &Features, queries: &Features) -> Result<[Vec<u32>; 4]> {
        bank.need_labels("knn", queries)?;
        let k = PROTOCOLS.iter().map(|protocol| protocol.k).max().unwrap_or(1).min(bank.len());
        let (keys, rows) = (bank.unit()?.transpose()?, queries.unit()?);
        let chunk = (CHUNK_BYTES / (4 * bank.len())).clamp(1, queries.len());
        let mut votes =
            Votes { k, labels: bank.labels(), counts: vec![0.0; bank.n_classes()], classes: [const { Vec::new() }; 4] };
        let mut pending = VecDeque::new();
        for start in (0..queries.len()).step_by(chunk) {
            let part = rows.slice(0, start..(start + chunk).min(queries.len()))?;
            let (cosines, ids) = topk(&matmul(&part, &keys)?, k, true)?;
            pending.push_back((cosines.read()?, ids.read()?));
            while pending.len() > IN_FLIGHT {
                let Some((cosines, ids)) = pending.pop_front() else { break };
                votes.count(&cosines.wait()?, &ids.wait()?);
            }
        }
        for (cosines, ids) in pending {
            votes.count(&cosines.wait()?, &ids.wait()?);
        }
        Ok(votes.classes)
    }
}

/// The votes on queries one after the other.
struct Votes<'a> {
    /// Neighbours of a query.
    k: usize,
    /// Of the bank.
    labels: &'a [u32],
    /// What each class has, `[n_classes]`; zeros between two queries.
    counts: Vec<f64>,
    /// The class that won, by protocol and query.
    classes: [Vec<u32>; 4],
}

impl Votes<'_> {
    /// Takes in queries with the cosines and numbers of their neighbours, `[n, k]` each, nearest first.
    fn count(&mut self, cosines: &[f32], ids: &[u32]) {
        for (cosines, ids) in cosines.chunks_exact(self.k).zip(ids.chunks_exact(self.k)) {
            for (protocol, classes) in PROTOCOLS.iter().zip(&mut self.classes) {
                let near = || ids.iter().take(protocol.k).map(|id| self.labels[*id as usize]);
                for (class, cosine) in near().zip(cosines) {
                    // Less 1, so that no weight overflows.
                    let weight = protocol.temperature.map_or(1.0, |t| ((f64::from(*cosine) - 1.0) / t).exp());
                    self.counts[class as usize] += weight;
                }
                let mut best = (0, f64::NEG_INFINITY);
                for class in near() {
                    // Of equal classes the one that comes first has the nearest neighbour.
                    if self.counts[class as usize] > best.1 {
                        best = (class, self.counts[class as usize]);
                    }
                }
                near().for_each(|class| self.counts[class as usize] = 0.0);
                classes.push(best.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_class_of_the_nearest_neighbour() {
        // 20 neighbours, 10 of class 2 and 10 of class 0, the nearest of class 2.
        let labels: Vec<u32> = (0..20).map(|i| if i % 2 == 0 { 2 } else { 0 }).collect();
        let mut votes = Votes { k: 20, labels: &labels, counts: vec![0.0; 3], classes: [const { Vec::new() }; 4] };
        let ids: Vec<u32> = (0..20).collect();
        votes.count(&[0.5; 20], &ids);
        // The nearest is of class 0 now, and nearer than all others together under a temperature.
        let ids: Vec<u32> = (0..20).rev().collect();
        let cosines: Vec<f32> = (0..20).map(|i| if i == 0 { 1.0 } else { 0.2 }).collect();
        votes.count(&cosines, &ids);
        assert_eq!(votes.classes, [[2, 0]; 4].map(Vec::from));
        // 11 of 20 against the nearest.
        let labels: Vec<u32> = (0..20).map(|i| u32::from((1..12).contains(&i))).collect();
        let mut votes = Votes { k: 20, labels: &labels, counts: vec![0.0; 2], classes: [const { Vec::new() }; 4] };
        let ids: Vec<u32> = (0..20).collect();
        votes.count(&cosines, &ids);
        assert_eq!(votes.classes, [[0], [1], [0], [0]].map(Vec::from));
        assert!(votes.counts.iter().all(|count| *count == 0.0));
    }

    #[test]
    fn protocols_say_what_they_are() {
        let names = PROTOCOLS.map(|protocol| protocol.to_string());
        assert_eq!(names, ["1-NN uniform", "20-NN uniform", "20-NN weighted, T 0.07", "200-NN weighted, T 0.1"]);
    }
}

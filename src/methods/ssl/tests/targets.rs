//! The members of the family are one another where they should be.

use super::super::memory::{Memory, MemorySpec};
use super::super::method::Method;
use super::super::pseudo::Pseudo;
use super::{apart, batch, runtime, unit};
use crate::ops::bank::NONE;
use crate::{DType, Runtime, Tensor};

const B: usize = 8;
const D: usize = 16;
const M: usize = 32;
const N: usize = 40;

fn memory(runtime: &Runtime, method: Method, k: usize, labels: &[u32]) -> Memory {
    let spec = MemorySpec { method, n_images: N, m: M, d: D, batch: B, micro_batch: B, k, dtype: DType::F32, seed: 3 };
    Memory::new(runtime, spec, Some(labels)).unwrap()
}

/// The targets of `n_steps` batches, five of them an epoch, by step; `between` is called before each step.
fn targets(
    runtime: &Runtime,
    memory: &Memory,
    pseudo: Option<&Pseudo>,
    n_steps: u32,
    between: &dyn Fn(u32),
) -> Vec<Vec<f32>> {
    (0..n_steps)
        .map(|t| {
            let items: Vec<u32> = (0..B as u32).map(|i| (t % 5) * B as u32 + (i * 3) % B as u32).collect();
            between(t);
            memory.feed(u64::from(t), 5, &items).unwrap();
            let u = Tensor::from_slice(runtime, &unit(B, D, t), &[B, D]).unwrap();
            memory.targets(&u, &u, pseudo, &batch(runtime, &items, t, t / 5)).unwrap().to_vec().unwrap()
        })
        .collect()
}

fn compare(name: &str, got: &[Vec<f32>], want: &[Vec<f32>], first: usize) {
    for (t, (got, want)) in got.iter().zip(want).enumerate().skip(first) {
        assert!(apart(got, want) < 1e-6, "{name}, step {t}: {}", apart(got, want));
    }
}

#[test]
fn mean_shift_to_one_neighbour_is_byol() {
    let Some(runtime) = runtime() else { return };
    let labels = [0; N];
    let msf = targets(&runtime, &memory(&runtime, Method::Msf, 1, &labels), None, 8, &|_| {});
    let byol = targets(&runtime, &memory(&runtime, Method::Byol, 1, &labels), None, 8, &|_| {});
    compare("msf 1", &msf, &byol, 0);
    let wider = targets(&runtime, &memory(&runtime, Method::Msf, 3, &labels), None, 8, &|_| {});
    assert!(apart(&wider[7], &byol[7]) > 0.1);
}

#[test]
fn without_a_constraint_all_are_mean_shift() {
    let Some(runtime) = runtime() else { return };
    let labels = [0; N];
    for k in [1, 5] {
        let msf = targets(&runtime, &memory(&runtime, Method::Msf, k, &labels), None, 12, &|_| {});
        // Everything in one cluster, as before the first clusters, empty slots too.
        let km = memory(&runtime, Method::CmsfKm, k, &labels);
        compare("km", &targets(&runtime, &km, None, 12, &|_| {}), &msf, 0);
        // One cluster that is known: empty slots are in none, so once there are no more of them.
        let km = memory(&runtime, Method::CmsfKm, k, &labels);
        compare("km 1", &targets(&runtime, &km, None, 12, &|_| km.set_parts(&[7; N]).unwrap()), &msf, M / B - 1);
        // One label.
        let sup = memory(&runtime, Method::CmsfSup, k, &labels);
        compare("sup", &targets(&runtime, &sup, None, 12, &|_| {}), &msf, M / B - 1);
        // Nothing is known, and nothing is ever sure.
        let semi = memory(&runtime, Method::CmsfSemi, k, &labels);
        let pseudo = Pseudo::new(&runtime, D, 4, vec![NONE; N], 1.5, 1).unwrap();
        compare("semi", &targets(&runtime, &semi, Some(&pseudo), 12, &|_| {}), &msf, 0);
    }
}

#[test]
fn two_queries_over_the_whole_bank_are_mean_shift() {
    let Some(runtime) = runtime() else { return };
    let labels = [0; N];
    let msf = targets(&runtime, &memory(&runtime, Method::Msf, M, &labels), None, 12, &|_| {});
    let both = memory(&runtime, Method::Cmsf2q, M, &labels);
    // Empty slots are in no constraint.
    compare("2q", &targets(&runtime, &both, None, 12, &|_| {}), &msf, M / B - 1);
    // In the first epoch a target stands for that of the epoch before.
    let msf = targets(&runtime, &memory(&runtime, Method::Msf, 3, &labels), None, 12, &|_| {});
    let both = targets(&runtime, &memory(&runtime, Method::Cmsf2q, 3, &labels), None, 12, &|_| {});
    compare("2q, first epoch", &both[..5], &msf[..5], M / B - 1);
    // Later the neighbours of an earlier view are others.
    assert!(apart(&both[8], &msf[8]) > 0.05);
}

#[test]
fn labels_are_never_crossed() {
    let Some(runtime) = runtime() else { return };
    let labels: Vec<u32> = (0..N as u32).map(|i| i % 3).collect();
    for method in [Method::CmsfSup, Method::CmsfSemi] {
        let memory = memory(&runtime, method, 4, &labels);
        let pseudo = Pseudo::new(&runtime, D, 3, labels.clone(), 1.5, 1).unwrap();
        targets(&runtime, &memory, Some(&pseudo), 9, &|_| {});
        let [all, part] = memory.neighbours().unwrap();
        assert_eq!((part.purity, all.purity), (Some(1.0), None), "{method:?}");
    }
}

#[test]
fn a_target_of_its_nearest_other_is_never_itself() {
    let Some(runtime) = runtime() else { return };
    let memory = memory(&runtime, Method::Nnbyol, 1, &[0; N]);
    let found = targets(&runtime, &memory, None, 6, &|_| {});
    for (t, found) in found.iter().enumerate() {
        // By brute force over what was in the bank before.
        let mut bank = memory_before(&runtime, t);
        let u = unit(B, D, t as u32);
        for (u, got) in u.chunks_exact(D).zip(found.chunks_exact(D)) {
            let near = |row: &[f32]| row.iter().zip(u).map(|(a, b)| a * b).sum::<f32>();
            bank.sort_by(|a, b| near(b).total_cmp(&near(a)));
            assert!(apart(got, &bank[0]) < 1e-6, "step {t}");
        }
    }
}

/// The rows of a bank before step `t`.
fn memory_before(runtime: &Runtime, t: usize) -> Vec<Vec<f32>> {
    let fresh = memory(runtime, Method::Nnbyol, 1, &[0; N]);
    let mut rows: Vec<Vec<f32>> = fresh.bank.to_vec::<f32>().unwrap().chunks_exact(D).map(<[f32]>::to_vec).collect();
    for step in 0..t {
        for (i, row) in unit(B, D, step as u32).chunks_exact(D).enumerate() {
            rows[(step * B + i) % M] = row.to_vec();
        }
    }
    rows
}

#[test]
fn counts_of_neighbours_are_those_of_a_replay() {
    let Some(runtime) = runtime() else { return };
    let labels: Vec<u32> = (0..N as u32).map(|i| i * 7 % 4).collect();
    let k = 4;
    let memory = memory(&runtime, Method::Msf, k, &labels);
    targets(&runtime, &memory, None, 13, &|_| {});
    let [found, none] = memory.neighbours().unwrap();
    assert_eq!(none.purity, None);
    // The same on the host.
    let mut rows: Vec<_> = memory_before(&runtime, 0).into_iter().map(|row| (row, None::<(u32, u32)>)).collect();
    let (mut others, mut pure, mut same, mut age, mut own, mut all) = (0_u32, 0, 0, 0, 0, 0);
    for t in 0..13_u32 {
        let items: Vec<u32> = (0..B as u32).map(|i| (t % 5) * B as u32 + (i * 3) % B as u32).collect();
        let u = unit(B, D, t);
        for (i, (row, item)) in u.chunks_exact(D).zip(&items).enumerate() {
            rows[(t as usize * B + i) % M] = (row.to_vec(), Some((*item, t)));
        }
        for (i, (u, item)) in u.chunks_exact(D).zip(&items).enumerate() {
            let near = |slot: &usize| rows[*slot].0.iter().zip(u).map(|(a, b)| a * b).sum::<f32>();
            let mut slots: Vec<usize> = (0..M).collect();
            slots.sort_by(|a, b| near(b).total_cmp(&near(a)));
            for slot in &slots[..k] {
                all += 1;
                let Some((image, step)) = rows[*slot].1 else { continue };
                if *slot == (t as usize * B + i) % M {
                    own += 1;
                    continue;
                }
                others += 1;
                pure += u32::from(labels[image as usize] == labels[*item as usize]);
                same += u32::from(image == *item);
                age += t - step;
            }
        }
    }
    let share = |n: u32| Some(f64::from(n) / f64::from(others));
    assert_eq!((found.purity, found.same_image, found.age), (share(pure), share(same), share(age)));
    assert_eq!(found.own, Some(f64::from(own) / f64::from(all)));
    // Its own target comes first, always.
    assert_eq!(own, 13 * B as u32);
    // They start anew.
    assert_eq!(memory.neighbours().unwrap()[0].purity, None);
}

#[test]
fn one_neighbour_is_the_image_itself() {
    let Some(runtime) = runtime() else { return };
    let memory = memory(&runtime, Method::Msf, 1, &[0; N]);
    targets(&runtime, &memory, None, 6, &|_| {});
    let [found, _] = memory.neighbours().unwrap();
    assert_eq!((found.own, found.purity), (Some(1.0), None));
}

#[test]
fn ranks_are_counted_over_the_whole_bank() {
    let Some(runtime) = runtime() else { return };
    let labels: Vec<u32> = (0..N as u32).map(|i| i % 5).collect();
    // All neighbours allowed: ranks 1 to 5, so 3 on average. A fifth of them allowed: further away.
    let free = memory(&runtime, Method::CmsfSup, 5, &[0; N]);
    targets(&runtime, &free, None, 10, &|_| {});
    assert_eq!(free.mean_rank().unwrap(), Some(3.0));
    let bound = memory(&runtime, Method::CmsfSup, 5, &labels);
    targets(&runtime, &bound, None, 10, &|_| {});
    assert!(bound.mean_rank().unwrap().is_some_and(|rank| rank > 8.0), "{:?}", bound.mean_rank());
}

//! Losses against their definition, and their gradients against differences.

use super::super::loss::{Side, distance, divergence, info_nce};
use super::{runtime, unit};
use crate::{Runtime, Tensor};

const B: usize = 6;
const D: usize = 16;
const M: usize = 24;

fn tensor(runtime: &Runtime, rows: &[f32]) -> Tensor {
    Tensor::from_slice(runtime, rows, &[rows.len() / D, D]).unwrap()
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Log-probabilities of the rows of a bank.
fn log_softmax(q: &[f32], bank: &[f32], temperature: f64) -> Vec<f64> {
    let z: Vec<f64> = bank.chunks_exact(D).map(|row| product(q, row) / temperature).collect();
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = most + z.iter().map(|z| (z - most).exp()).sum::<f64>().ln();
    z.iter().map(|z| z - lse).collect()
}

/// A loss of the rows `q` in f64, a mean over rows of `of(row, number)`.
fn mean(q: &[f32], of: &dyn Fn(&[f32], usize) -> f64) -> f64 {
    q.chunks_exact(D).enumerate().map(|(i, row)| of(row, i)).sum::<f64>() / B as f64
}

/// Holds a loss and its gradient against the definition.
fn check(runtime: &Runtime, name: &str, loss: &dyn Fn(&Tensor) -> Tensor, of: &dyn Fn(&[f32], usize) -> f64) {
    let rows = unit(B, D, 1);
    let q = tensor(runtime, &rows).require_grad().unwrap();
    let value = loss(&q);
    let got = f64::from(value.item::<f32>().unwrap());
    let want = mean(&rows, of);
    assert!((got - want).abs() < 2e-5 * want.abs().max(1.0), "{name}: {got}, {want} wanted");
    let gradient = value.backward().unwrap().take(&q).unwrap().to_vec::<f32>().unwrap();
    let largest = gradient.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
    assert!(largest > 1e-3, "{name}: a gradient of {largest}");
    for i in (0..B * D).step_by(7) {
        // An eighth-power step in f32, exact in binary; the definition is in f64.
        let step = 1.0 / 1024.0;
        let at = |by: f32| {
            let mut rows = rows.clone();
            rows[i] += by;
            let moved = f64::from(rows[i]);
            (mean(&rows, of), moved)
        };
        let ((up, high), (down, low)) = (at(step), at(-step));
        let want = (up - down) / (high - low);
        assert!(
            (f64::from(gradient[i]) - want).abs() < 2e-3 * f64::from(largest),
            "{name}, element {i}: {}, {want} wanted",
            gradient[i]
        );
    }
}

#[test]
fn distances_to_a_mean_are_the_mean_of_distances() {
    let Some(runtime) = runtime() else { return };
    let bank = unit(3 * B, D, 2);
    let mu: Vec<f32> = bank
        .chunks_exact(3 * D)
        .flat_map(|three| (0..D).map(|j| (three[j] + three[D + j] + three[2 * D + j]) / 3.0).collect::<Vec<_>>())
        .collect();
    let mu = tensor(&runtime, &mu);
    let q = unit(B, D, 1);
    let got = f64::from(distance(&tensor(&runtime, &q), &mu).unwrap().item::<f32>().unwrap());
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let want = mean(&q, &|q, i| (0..3).map(|j| apart(q, &bank[(3 * i + j) * D..][..D])).sum::<f64>() / 3.0);
    assert!((got - want).abs() < 1e-6 * want, "{got}, {want} wanted");
    check(&runtime, "distance", &|q| distance(q, &mu).unwrap(), &|q, i| {
        let mu = (0..D).map(|j| (0..3).map(|n| f64::from(bank[(3 * i + n) * D + j])).sum::<f64>() / 3.0);
        2.0 - 2.0 * q.iter().zip(mu).map(|(q, mu)| f64::from(*q) * mu).sum::<f64>()
    });
}

#[test]
fn divergence_is_that_of_the_two_softmaxes() {
    let Some(runtime) = runtime() else { return };
    let (t, keys, others) = (unit(B, D, 3), unit(M, D, 4), unit(M, D, 5));
    for (of_student, of_teacher, one_bank) in [(0.1, 0.01, true), (0.04, 0.04, true), (0.2, 0.05, false)] {
        let own = if one_bank { &keys } else { &others };
        let (bank, student_bank, rows) = (tensor(&runtime, &keys), tensor(&runtime, own), tensor(&runtime, &t));
        let teacher = Side { rows: &rows, bank: &bank, temperature: of_teacher as f32 };
        check(
            &runtime,
            &format!("divergence at {of_student} and {of_teacher}"),
            &|q| {
                let student = Side { rows: q, bank: &student_bank, temperature: of_student as f32 };
                divergence(student, teacher, one_bank).unwrap()
            },
            &|q, i| {
                let log_p = log_softmax(&t[i * D..][..D], &keys, of_teacher);
                let log_q = log_softmax(q, own, of_student);
                log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum()
            },
        );
    }
}

#[test]
fn info_nce_is_the_cross_entropy_of_the_positive() {
    let Some(runtime) = runtime() else { return };
    let (keys, bank) = (unit(B, D, 6), unit(M, D, 7));
    for temperature in [0.005, 0.07, 0.2, 1.0] {
        let (k, b) = (tensor(&runtime, &keys), tensor(&runtime, &bank));
        check(
            &runtime,
            &format!("InfoNCE at {temperature}"),
            &|q| info_nce(q, &k, &b, temperature as f32).unwrap(),
            &|q, i| {
                let all = [&keys[i * D..][..D], &bank].concat();
                -log_softmax(q, &all, temperature)[0]
            },
        );
    }
}

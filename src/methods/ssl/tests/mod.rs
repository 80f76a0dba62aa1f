//! What the methods promise, on small numbers.

mod gradients;
mod losses;
mod targets;

use super::Features;
use crate::methods::training::Batch;
use crate::ops::random::Key;
use crate::philox::Philox;
use crate::reference::random;
use crate::{DeviceChoice, Error, Runtime, Tensor};

/// A device, or nothing with one line that says why.
pub(super) fn runtime() -> Option<Runtime> {
    match Runtime::new(&DeviceChoice::default()) {
        Ok(runtime) => Some(runtime),
        Err(Error::NoAdapter(message)) => {
            eprintln!("skipped: {message}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Rows of unit length `[n, d]` in random directions.
fn unit(n: usize, d: usize, step: u32) -> Vec<f32> {
    let drawn = random::normal(&[n, d], 0.0, 1.0, Key::new(5, 77, step));
    let length = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
    drawn
        .data
        .chunks_exact(d)
        .flat_map(|row| row.iter().map(|v| (v / length(row)) as f32).collect::<Vec<_>>())
        .collect()
}

/// A batch of these images, the `t`-th of an epoch.
fn batch(runtime: &Runtime, items: &[u32], t: u32, epoch: u32) -> Batch {
    let of = |values: &[u32]| Tensor::from_slice(runtime, values, &[values.len()]).unwrap();
    Batch { items: of(items), draw: of(&[t]), epoch: of(&[epoch]), places: 0..items.len() }
}

/// Largest difference of elements.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // A NaN is infinitely far away.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| {
        if d <= most {
            most
        } else if d.is_nan() {
            f32::INFINITY
        } else {
            d
        }
    })
}

/// `n` features of length `d`, uniform within `spread` of one centre per class; the same centres for every `draw`.
pub(super) fn features(runtime: &Runtime, n: usize, d: usize, n_classes: usize, spread: f32, draw: u32) -> Features {
    let uniform = |step: u32, n: usize| -> Vec<f32> {
        let mut draws = Philox::new(3, 900, step);
        (0..n).map(|_| 2.0 * draws.uniform_f32() - 1.0).collect()
    };
    let (centres, noise) = (uniform(0, n_classes * d), uniform(1 + draw, n * d));
    let labels: Vec<u32> = (0..n).map(|i| (i * 7 % n_classes) as u32).collect();
    let value = |i: usize| centres[labels[i / d] as usize * d + i % d] + spread * noise[i];
    let values: Vec<f32> = (0..n * d).map(value).collect();
    Features::new(Tensor::from_slice(runtime, &values, &[n, d]).unwrap(), labels, n_classes).unwrap()
}

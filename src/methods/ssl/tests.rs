//! What the unit tests here share.

use super::Features;
use crate::philox::Philox;
use crate::{DeviceChoice, Error, Runtime, Tensor};

/// A runtime, or `None`, said so, where there is no adapter.
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

//! Weights that no training made.

use super::checkpoint::Weights;
use super::param::{ParamKind, ParamList, ParamSpec};
use crate::Result;
use crate::philox::{Philox, stream};

/// Random weights that keep activations near one, for demonstrations and benchmarks: uniform, of variance 2 over the inputs
/// in convolutions and 1 over the inputs in linear layers; norms near identity, but nowhere exactly 0 or 1.
///
/// # Errors
/// None for a list of parameters as networks have them.
pub fn untrained(params: &ParamList, seed: u64) -> Result<Weights> {
    let values =
        params.iter().enumerate().map(|(i, param)| values(param, &mut Philox::new(seed, stream::WEIGHTS, i as u32)));
    Weights::new(params, values.collect())
}

fn values(param: &ParamSpec, random: &mut Philox) -> Vec<f32> {
    let fan_in = param.shape.iter().skip(1).product::<usize>().max(1) as f32;
    let (middle, reach) = match param.kind {
        ParamKind::ConvWeight => (0.0, (6.0 / fan_in).sqrt()),
        ParamKind::LinearWeight | ParamKind::FlattenedWeight { .. } => (0.0, (3.0 / fan_in).sqrt()),
        ParamKind::Bias | ParamKind::RunningMean => (0.0, 0.1),
        ParamKind::Gain | ParamKind::RunningVar => (1.0, 0.1),
        ParamKind::Token => (0.0, 0.5),
    };
    (0..param.len()).map(|_| middle + reach * (2.0 * random.uniform_f32() - 1.0)).collect()
}

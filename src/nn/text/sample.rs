//! The next token of a text, chosen on the device.

use crate::ops::elementwise::{add, affine, cast, clamp, div, log, mul};
use crate::ops::random::philox;
use crate::ops::{gather, reduce, topk};
use crate::philox::stream;
use crate::{DType, Error, Result, Tensor};

/// Lowest temperature but 0: logits over a lower one leave f32.
const MIN_TEMPERATURE: f32 = 1e-6;

/// How the next token is chosen, and when a text ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token. Else at least 1e-6.
    pub temperature: f32,
    /// Only the likeliest tokens, so many of them; 0 for all. At most 4096, or the whole vocabulary.
    pub top_k: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Tokens that are written at most.
    pub max_new: usize,
    /// Tokens that end a text.
    pub stop: Vec<u32>,
}

impl Sampling {
    /// The likeliest token each time, `max_new` of them.
    #[must_use]
    pub fn greedy(max_new: usize) -> Self {
        Self { temperature: 0.0, top_k: 0, seed: 0, max_new, stop: vec![] }
    }

    /// An error if it makes no sense for a vocabulary.
    pub(in crate::nn) fn check(&self, vocab: usize) -> Result<()> {
        let fail = |message: String| Err(Error::argument("sampling", message));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fail(format!("a temperature of {}, 0 or more wanted", self.temperature));
        }
        if self.temperature > 0.0 && self.temperature < MIN_TEMPERATURE {
            return fail(format!("a temperature of {:e}, 0 or at least {MIN_TEMPERATURE:e} wanted", self.temperature));
        }
        if self.top_k > topk::SELECT_MAX && self.top_k < vocab {
            let most = topk::SELECT_MAX;
            return fail(format!("the {} likeliest tokens, at most {most} or all {vocab} wanted", self.top_k));
        }
        if self.top_k > vocab {
            return fail(format!("the {} likeliest of {vocab} tokens", self.top_k));
        }
        Ok(())
    }
}

/// A token for each row of `logits` `[n, vocab]`: u32 `[n]`.
///
/// Sampling adds Gumbel noise `-ln(-ln u)` to the logits over the temperature and takes the largest, which draws from their
/// softmax. The uniform `u` of candidate `c` of row `r` are the words of [`stream::SAMPLE`] at element `r k + c`, `k` candidates
/// to a row, at the step that `draw`, u32 `[4]`, adds to the counters.
pub(super) fn choose(logits: &Tensor, sampling: &Sampling, draw: &Tensor) -> Result<Tensor> {
    if sampling.temperature == 0.0 || sampling.top_k == 1 {
        return reduce::argmax(logits, &[1], false);
    }
    let (n, vocab) = (logits.shape()[0], logits.shape()[1]);
    let (values, places) = match sampling.top_k {
        k if k == 0 || k == vocab => (logits.clone(), None),
        k => topk::topk(logits, k, true).map(|(values, places)| (values, Some(places)))?,
    };
    let k = values.shape()[1];
    let noise = gumbel(n * k, sampling.seed, draw)?.reshape(&[n, k])?;
    let choice = reduce::argmax(&add(&affine(&values, 1.0 / sampling.temperature, 0.0)?, &noise)?, &[1], false)?;
    let Some(places) = places else { return Ok(choice) };
    // Ids are below 2^24, so that f32 holds them.
    let picked = mul(&gather::one_hot(&choice, k)?, &cast(&places, DType::F32)?)?;
    cast(&reduce::sum(&picked, &[1], false)?, DType::U32)
}

/// Gumbel noise, f32 `[n]`.
fn gumbel(n: usize, seed: u64, draw: &Tensor) -> Result<Tensor> {
    let runtime = draw.runtime();
    let n_calls = n.div_ceil(4);
    let counters: Vec<u32> = (0..n_calls as u32).flat_map(|call| [call, 0, 0, stream::SAMPLE]).collect();
    let counters = Tensor::constant(runtime, &counters)?.reshape(&[n_calls, 4])?;
    let words = philox(&add(&counters, draw)?, seed)?.reshape(&[4 * n_calls])?.slice(0, 0..n)?;
    // The middles of 2^23 steps of 0..1, which f32 holds, so that no logarithm is that of 0 or of 1.
    let steps = cast(&div(&words, &Tensor::constant(runtime, &[512_u32])?)?, DType::F32)?;
    let uniform = affine(&steps, 1.0 / 8_388_608.0, 0.5 / 8_388_608.0)?;
    // Adapters' logarithms near 1 may err by 2^-21 and come out on the wrong side of 0.
    let waits = clamp(&affine(&log(&uniform)?, -1.0, 0.0)?, 0.5 / 8_388_608.0, f32::MAX)?;
    affine(&log(&waits)?, -1.0, 0.0)
}

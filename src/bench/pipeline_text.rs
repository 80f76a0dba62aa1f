//! Language models end to end: prompts read, and tokens written one by one.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Case, Level, Parts, worst};
use crate::nn::text::{Generator, TextSpec, TokenBatch, reference_tokens};
use crate::nn::{Model, ModelSpec, Weights, untrained};
use crate::runtime::Runtime;
use crate::{Error, Result, Tensor};

/// Models, texts of a batch, tokens of each that are there.
const SHAPES: [(&str, usize, usize); 4] =
    [("stories260k", 8, 128), ("stories260k", 64, 256), ("gpt2", 1, 128), ("gpt2", 32, 512)];

/// By the largest logit; some dozen layers round by 2^-24 over sums of some hundred terms.
const TOLERANCE: f64 = 2e-5;
/// Multiply-adds of one text that the reference in f64 may take.
const REFERENCE: u64 = 1 << 30;

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let shapes = if level <= Level::Quick { &SHAPES[..1] } else { &SHAPES[..] };
    shapes.iter().try_fold(Vec::new(), |mut cases, shape| {
        cases.push(case(runtime, *shape, Work::Prefill)?);
        cases.push(case(runtime, *shape, Work::Decode)?);
        Ok(cases)
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Work {
    Prefill,
    Decode,
}

/// A model on a device, and the texts it goes on with.
struct Bed {
    generator: RefCell<Generator>,
    model: Model,
    weights: Weights,
    texts: Vec<Vec<u32>>,
    vocab: usize,
}

impl Bed {
    fn new(runtime: &Runtime, spec: TextSpec, n: usize, length: usize) -> Result<Self> {
        let vocab = spec.vocab;
        let spec = ModelSpec::from(spec);
        let weights = untrained(&spec.plan().params, 1)?;
        let model = Model::new(runtime, &spec, &weights)?;
        let generator = Generator::new(runtime, &model, n, length + 1)?.into();
        let text = |i: usize| (0..length).map(|t| ((t * t * 31 + 17 * i) % vocab) as u32).collect();
        Ok(Self { generator, model, weights, texts: (0..n).map(text).collect(), vocab })
    }

    fn prefill(&self) -> Result<Tensor> {
        let texts: Vec<&[u32]> = self.texts.iter().map(Vec::as_slice).collect();
        self.generator.borrow_mut().start(&texts)
    }

    /// One token more, and back to where it was.
    fn decode(&self) -> Result<Tensor> {
        let mut generator = self.generator.borrow_mut();
        let length = self.texts[0].len();
        if generator.lengths()[0] == 0 {
            drop(generator);
            self.prefill()?;
            generator = self.generator.borrow_mut();
        }
        generator.rewind(length);
        generator.next(&vec![1; self.texts.len()])
    }

    /// How far the logits of the last text are from what they should be, by the largest: from the reference in f64 where that
    /// takes seconds, else from the forward pass without caches.
    fn error(&self, logits: &Tensor, work: Work, by_reference: bool) -> Result<f64> {
        let last = self.texts.len() - 1;
        let mut text = self.texts[last].clone();
        text.extend((work == Work::Decode).then_some(1));
        let want: Vec<f64> = if by_reference {
            let (_, all) = reference_tokens(self.model.plan(), &self.weights, &[&text], None)?;
            let all = all.ok_or_else(|| Error::argument("pipeline", "the model predicts no tokens"))?.data;
            all[all.len() - self.vocab..].to_vec()
        } else {
            let batch = TokenBatch::of(logits.runtime(), &[&text])?;
            let all = self.model.token_logits(&batch)?.slice(0, text.len() - 1..text.len())?;
            all.to_vec::<f32>()?.into_iter().map(f64::from).collect()
        };
        let got = logits.slice(0, last..last + 1)?.to_vec::<f32>()?;
        let largest = want.iter().fold(0.0, |m: f64, w| m.max(w.abs()));
        Ok(worst(got.iter().zip(&want).map(|(g, w)| f64::from(*g) - w)) / largest)
    }
}

fn case(runtime: &Runtime, (name, n, length): (&str, usize, usize), work: Work) -> Result<Case> {
    let spec = TextSpec::by_name(name)?;
    let plan = ModelSpec::from(spec.clone()).plan();
    let summary = plan.summary([length, 1])?;
    let token = plan.summary([1, 1])?;
    let width = (spec.kv_heads * spec.head_width) as u64;
    let kept = 2 * 4 * spec.depth as u64 * width * (n * length) as u64;
    let tokens = n as u64 * if work == Work::Prefill { length as u64 } else { 1 };
    // Logits are those of the last token alone; a new one sees all in front of it.
    let logits = (spec.vocab * spec.width) as u64;
    let scores = 2 * (length * spec.depth * spec.heads * spec.head_width) as u64;
    let macs = match work {
        Work::Prefill => summary.multiply_adds - (length as u64 - 1) * logits,
        Work::Decode => token.multiply_adds + scores,
    };
    let shape = match work {
        Work::Prefill => format!("{name}, {n} texts of {length}"),
        Work::Decode => format!("{name}, {n} texts behind {length}"),
    };
    let vocab = spec.vocab as u64;
    let by_reference = summary.multiply_adds <= REFERENCE;
    let runtime = runtime.clone();
    let make = move || {
        let bed = Rc::new(Bed::new(&runtime, spec.clone(), n, length)?);
        let checked = Rc::clone(&bed);
        let run = move || if work == Work::Prefill { bed.prefill() } else { bed.decode() };
        Ok(Parts::new(run, move |logits: &Tensor| checked.error(logits, work, by_reference)))
    };
    // The table of tokens, or the logits.
    let largest = (4 * logits).max(4 * n as u64 * vocab).max(summary.largest_bytes);
    let case = Case::deferred("pipeline/text", shape, make)
        .variant(if work == Work::Prefill { "prefill" } else { "decode" })
        .memory(largest, summary.weight_bytes + kept + summary.activation_bytes * n as u64);
    let bytes = summary.weight_bytes + kept;
    Ok(case.cost(2 * macs * n as u64, bytes).items(tokens, "tokens").tolerance(TOLERANCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    #[test]
    fn prompts_and_steps_pass_their_checks() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        for work in [Work::Prefill, Work::Decode] {
            let case = case(&runtime, ("stories260k", 3, 9), work).unwrap();
            // Three times: done, recorded, replayed.
            for _ in 0..3 {
                case.verify().unwrap();
            }
        }
        let bed = Bed::new(&runtime, TextSpec::by_name("stories260k").unwrap(), 2, 7).unwrap();
        let (prefill, decode) = (bed.prefill().unwrap(), bed.decode().unwrap());
        for by_reference in [true, false] {
            assert!(bed.error(&decode, Work::Decode, by_reference).unwrap() < TOLERANCE);
            assert!(bed.error(&prefill, Work::Decode, by_reference).unwrap() > 1e-3);
        }
    }

    #[test]
    fn rows_for_gpus_are_listed_without_being_made() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let cases = cases(&runtime, Level::Full).unwrap();
        assert_eq!(cases.len(), 8);
        let case = cases.iter().find(|case| case.shape == "gpt2, 32 texts behind 512").unwrap();
        // Two a weight and token, and attention on 512 tokens.
        assert_eq!(case.flops / 32 / 1_000_000, (2 * 123_532_032 + 2 * 2 * 512 * 12 * 768 + 2 * 12 * 768) / 1_000_000);
        assert_eq!(runtime.memory().reserved_bytes, 0);
    }
}

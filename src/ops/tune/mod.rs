//! The choice between the variants of an op: a table of defaults by class of adapter, and trying.
//!
//! An op that has variants works out its default, then asks [`choose`]. Where [`crate::runtime::Tune`] says so, the first
//! problem of a kind (sizes rounded up to powers of two) has each candidate probed, that is compared on a small fixed input
//! with the plain variant, then timed on the problem itself. A candidate that differs or fails is left out, with a
//! warning; one that is faster than the default by 5 % replaces it. What was found is kept on disk beside the compiled
//! pipelines, under a digest of the kernels' texts.

mod decide;
pub(crate) mod defaults;

use crate::runtime::{Kernel, Runtime, TuneEntry, TuneKey, TuneProbe, TuneSource, Tuned, Tuning, digest};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use decide::{Decision, Trial, decide};
use std::fmt::{Debug, Write};

/// About how long one measurement is, in ms: much longer than what it takes to read a clock.
const MEASURED_MS: f64 = 2.0;
/// A candidate is not run again if its first run takes this many times the best one's, and this many ms for compilation.
const FAR_SLOWER: f64 = 4.0;
const COMPILING_MS: f64 = 500.0;
/// Runs of one measurement at most.
const MOST_RUNS: f64 = 50.0;

/// The variants of an op.
pub(crate) trait Variants: Copy + PartialEq + Debug + 'static {
    /// Every one.
    const ALL: &'static [Self];
}

/// What an op asks.
pub(crate) struct Question<'a, V> {
    /// Its name; one for each thing that is computed.
    pub(crate) op: &'static str,
    /// Element type of the inputs.
    pub(crate) dtype: DType,
    /// Sizes that decide about speed; rounded up to powers of two.
    pub(crate) sizes: &'a [(&'static str, usize)],
    /// Small numbers that count as they are, such as those that kernels are compiled for.
    pub(crate) exact: &'a [(&'static str, usize)],
    /// The kernels of all variants.
    pub(crate) kernels: &'a [&'static [Kernel]],
    /// What the others are compared with.
    pub(crate) plain: V,
    /// Whether a variant takes this problem on this adapter, and might be the fastest.
    pub(crate) fits: &'a dyn Fn(V) -> bool,
    /// Runs the problem.
    pub(crate) run: &'a dyn Fn(V) -> Result<Vec<Tensor>>,
    /// Runs a small problem with inputs from [`noise`] that is the same every time.
    pub(crate) probe: &'a dyn Fn(V) -> Result<Vec<Tensor>>,
    /// Largest difference that passes, as a share of the largest magnitude in the plain result.
    pub(crate) tolerance: f64,
}

/// The share of a result's magnitude by which two variants may differ on a probe: some hundred roundings of f32 and what
/// the adapters' exponentials are apart, and for f16 two roundings of the result. A wrong kernel is off by far more.
pub(crate) fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        _ => 1e-4,
    }
}

/// The variant to use: `default`, or what was found to be faster.
pub(crate) fn choose<V: Variants>(runtime: &Runtime, default: V, question: &Question<'_, V>) -> V {
    if !runtime.tunes() {
        return default;
    }
    let key = question.key();
    let known = runtime.known_choice(&key).or_else(|| {
        let index = ask(&runtime.start_tuning()?, default, question, key);
        index.unwrap_or_else(|error| {
            // The op itself meets it next.
            log::debug!("{}: tuning ended: {error}", question.op);
            None
        })
    });
    // Another problem of the same kind may be none for this variant.
    let chosen = known.and_then(|index| V::ALL.get(usize::from(index)).copied());
    chosen.filter(|variant| *variant == default || (question.fits)(*variant)).unwrap_or(default)
}

fn index_of<V: Variants>(variant: V) -> Option<u8> {
    V::ALL.iter().position(|v| *v == variant).and_then(|at| u8::try_from(at).ok())
}

/// Finds the variant in what earlier runs found, else by trying.
fn ask<V: Variants>(tuning: &Tuning<'_>, default: V, question: &Question<'_, V>, key: TuneKey) -> Result<Option<u8>> {
    let name = |variant: V| format!("{variant:?}");
    let bucket = question.bucket();
    let text = format!("{} {} {bucket}", question.op, question.dtype);
    let digest = question.digest();
    let row = |variant: String, times, wrong, source| Tuned {
        op: question.op.into(),
        dtype: question.dtype,
        bucket: bucket.clone(),
        variant,
        default: name(default),
        times,
        wrong,
        source,
    };
    if let Some(entry) = tuning.earlier(&text, &digest)
        && let Some(index) = V::ALL.iter().find(|v| name(**v) == entry.variant).and_then(|v| index_of(*v))
    {
        tuning.settle(key, index, row(entry.variant, entry.times, Vec::new(), TuneSource::Disk), None);
        return Ok(Some(index));
    }
    let others = V::ALL.iter().copied().filter(|v| *v != default && (question.fits)(*v));
    let candidates: Vec<V> = std::iter::once(default).chain(others).collect();
    let mut race = Race { tuning, question, candidates: &candidates, digest: &digest, plain: None };
    let Decision { winner, times, excluded, finished } = decide(candidates.len(), &mut race)?;
    let mut wrong = Vec::new();
    for (candidate, reason) in excluded {
        log::warn!("{text}: {:?} is left out: {reason}", candidates[candidate]);
        wrong.push((name(candidates[candidate]), reason));
    }
    let winner = candidates[winner];
    let Some(index) = index_of(winner) else { return Ok(None) };
    let times: Vec<_> = times.into_iter().map(|(candidate, ms)| (name(candidates[candidate]), ms)).collect();
    let source = if finished { TuneSource::Tuned } else { TuneSource::Default };
    let entry = TuneEntry { digest, variant: name(winner), default: name(default), times: times.clone() };
    tuning.settle(key, index, row(name(winner), times, wrong, source), finished.then_some((text, entry)));
    Ok(Some(index))
}

impl<V: Variants> Question<'_, V> {
    fn key(&self) -> TuneKey {
        let mut bucket = [0; 12];
        debug_assert!(self.sizes.len() + self.exact.len() <= bucket.len(), "{}: too many numbers", self.op);
        let sizes = self.sizes.iter().map(|(_, size)| size.next_power_of_two().ilog2() as u8);
        let exact = self.exact.iter().map(|(_, value)| u8::try_from(*value).unwrap_or(u8::MAX));
        for (slot, value) in bucket.iter_mut().zip(sizes.chain(exact)) {
            *slot = value;
        }
        TuneKey { op: self.op, dtype: self.dtype, bucket }
    }

    /// The kind of problem, for a reader.
    fn bucket(&self) -> String {
        let mut text = String::new();
        for (name, size) in self.sizes {
            let _ = write!(text, "{name}<={} ", size.next_power_of_two());
        }
        for (name, value) in self.exact {
            let _ = write!(text, "{name}={value} ");
        }
        text.trim_end().to_owned()
    }

    /// Of everything that decides what the variants do.
    fn digest(&self) -> String {
        let names = format!("{:?}", V::ALL);
        let kernels = self.kernels.iter().copied().flatten();
        let texts = kernels.flat_map(|kernel| {
            let commons = kernel.commons.iter().map(|common| common.source);
            [kernel.entry, kernel.source].into_iter().chain(commons)
        });
        digest(texts.chain([env!("CARGO_PKG_VERSION"), names.as_str()]))
    }
}

/// The candidates of a question on a device.
struct Race<'a, V> {
    tuning: &'a Tuning<'a>,
    question: &'a Question<'a, V>,
    candidates: &'a [V],
    digest: &'a str,
    /// What the plain variant makes of the probe.
    plain: Option<Vec<Tensor>>,
}

impl<V: Variants> Trial for Race<'_, V> {
    fn probe(&mut self, candidate: usize) -> Result<Option<String>> {
        let Question { op, dtype, plain, probe, .. } = *self.question;
        let variant = self.candidates[candidate];
        if variant == plain {
            return Ok(None);
        }
        let mut key = format!("{op} {dtype} {variant:?}");
        self.question.exact.iter().for_each(|(name, value)| key.push_str(&format!(" {name}={value}")));
        if let Some(known) = self.tuning.probe(&key, self.digest) {
            return Ok(known.wrong);
        }
        if self.plain.is_none() {
            self.plain = Some(probe(plain).map_err(|error| match error {
                Error::DeviceLost(_) => error,
                // Nothing to compare with, so nothing is said of the variant.
                other => Error::argument(op, format!("the plain variant fails on the probe: {other}")),
            })?);
        }
        let wanted = self.plain.as_deref().unwrap_or_default();
        let compared = probe(variant).and_then(|got| difference(&got, wanted, self.question.tolerance));
        let wrong = match compared {
            Err(error) if is_no_fault(&error) => return Err(error),
            Err(error) => Some(error.to_string()),
            Ok(difference) => difference,
        };
        self.tuning.keep_probe(key, TuneProbe { digest: self.digest.to_owned(), wrong: wrong.clone() });
        Ok(wrong)
    }

    fn time(&mut self, candidate: usize, best: f64) -> Result<f64> {
        let variant = self.candidates[candidate];
        let run = self.question.run;
        // Fills the pool and the caches, and compiles what the probe did not.
        let first = self.tuning.time(|| run(variant).map(drop))?;
        if first > FAR_SLOWER * best + COMPILING_MS || self.tuning.is_over() {
            return Ok(first);
        }
        let once = self.tuning.time(|| run(variant).map(drop))?;
        let n_runs = (MEASURED_MS / once.max(1e-6)).min(MOST_RUNS) as usize;
        if n_runs < 2 {
            return Ok(once);
        }
        let all = self.tuning.time(|| (0..n_runs).try_for_each(|_| run(variant).map(drop)))?;
        Ok(once.min(all / n_runs as f64))
    }

    fn is_over(&self) -> bool {
        self.tuning.is_over()
    }
}

/// Whether an error says that a variant cannot run here, or not now, and not that it is broken.
fn is_no_fault(error: &Error) -> bool {
    matches!(
        error,
        Error::DeviceLost(_)
            | Error::OutOfMemory { .. }
            | Error::Limit { .. }
            | Error::Feature { .. }
            | Error::Argument { .. }
    )
}

/// What is wrong with results, if they differ by more than `tolerance` times the largest magnitude of those wanted.
fn difference(got: &[Tensor], wanted: &[Tensor], tolerance: f64) -> Result<Option<String>> {
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        if got.shape() != wanted.shape() || got.dtype() != wanted.dtype() {
            let [g, w] = [got, wanted].map(|x| format!("{} {:?}", x.dtype(), x.shape()));
            return Ok(Some(format!("result {i} is {g}, {w} wanted")));
        }
        let [got, wanted] = [numbers(got)?, numbers(wanted)?];
        let largest = wanted.iter().filter(|v| v.is_finite()).fold(0.0, |largest: f64, v| largest.max(v.abs()));
        // NaN fails, as it is in no probe.
        let close = |(g, w): (&f64, &f64)| g == w || (g - w).abs() <= tolerance * largest;
        let off = got.iter().zip(&wanted).position(|pair| !close(pair));
        if let Some(at) = off {
            return Ok(Some(format!("element {at} of result {i} is {:e}, {:e} wanted", got[at], wanted[at])));
        }
    }
    Ok((got.len() != wanted.len()).then(|| format!("{} results, {} wanted", got.len(), wanted.len())))
}

fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(match x.dtype() {
        DType::F32 => x.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
        DType::F16 => x.to_vec::<half::f16>()?.into_iter().map(f64::from).collect(),
        DType::U32 => x.to_vec::<u32>()?.into_iter().map(f64::from).collect(),
        DType::I32 => x.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
        DType::U8 => x.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
    })
}

/// Numbers in -1..1 that are the same every time, for probes.
pub(crate) fn noise(runtime: &Runtime, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    // Multiples of the golden ratio, spread out by a multiplication.
    let bits =
        |i: usize| (i as u32 ^ (n as u32) << 8).wrapping_mul(0x9E37_79B1).rotate_left(15).wrapping_mul(0x85EB_CA77);
    let floats = || (0..n).map(|i| (bits(i) >> 8) as f32 / (1 << 23) as f32 - 1.0);
    match dtype {
        DType::F32 => Tensor::from_slice(runtime, &floats().collect::<Vec<_>>(), shape),
        DType::F16 => Tensor::from_slice(runtime, &floats().map(half::f16::from_f32).collect::<Vec<_>>(), shape),
        DType::U32 => Tensor::from_slice(runtime, &(0..n).map(bits).collect::<Vec<_>>(), shape),
        DType::I32 => Tensor::from_slice(runtime, &(0..n).map(|i| bits(i) as i32).collect::<Vec<_>>(), shape),
        DType::U8 => Tensor::from_slice(runtime, &(0..n).map(|i| (bits(i) >> 24) as u8).collect::<Vec<_>>(), shape),
    }
}

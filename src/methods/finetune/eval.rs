//! The accuracy of an adapter.

use std::fmt;

use serde::Serialize;

use super::adapted::Adapted;
use super::config::{BaseBits, EvalConfig};
use super::file::{AdapterFile, check_bits};
use super::images::fits;
use super::shots::Halves;
use super::task::{Data, Verdict};
use super::texts::{Prediction, TextHalves, WantedTexts, no_classes};
use crate::data::{Split, Wanted};
use crate::nn::ModelSpec;
use crate::report::bytes;
use crate::{Error, Result, Runtime};

/// An evaluation whose adapter, network and images are read and checked; needs no device yet.
#[derive(Debug)]
pub struct Evaluation {
    adapted: Adapted,
    data: Data,
    bits: u32,
    base_bits: BaseBits,
    merged: bool,
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// The adapter's method.
    pub method: super::Method,
    /// The network.
    pub network: String,
    /// The images.
    pub data: String,
    /// What it is worth.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Images or texts judged by.
    pub n_test: usize,
    /// Bits of a coefficient.
    pub bits: u32,
    /// Bits of the frozen weights.
    pub base_bits: BaseBits,
    /// Bytes that the network's weights take on the device.
    pub weight_bytes: u64,
    /// Bytes held by tensors on the device at most.
    pub peak_device_bytes: u64,
    /// The adapter.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
}

impl Evaluation {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Input`] for everything that is wrong with files and flags.
    pub fn prepare(config: &EvalConfig, seed: u64) -> Result<Self> {
        let file = AdapterFile::read(&config.adapter)?;
        let adapted = Adapted::load(&config.base, &config.network, file)?;
        let bits = config.bits.unwrap_or(adapted.file().bits);
        check_bits(bits)?;
        let adapted = if bits < 32 { adapted.rounded(bits)? } else { adapted };
        if config.merged && config.base_bits != BaseBits::F32 {
            return Err(Error::Input("--merged and --base-bits: merged weights are floats".into()));
        }
        let spec = &adapted.base().spec;
        // What it did not learn from.
        let (split, share) = adapted.file().split;
        let seed = if seed == 0 { split } else { seed };
        let holdout = config.holdout.unwrap_or(share);
        let data = match spec {
            ModelSpec::Text(text) => {
                no_classes(config.classes.is_some())?;
                let wanted = WantedTexts {
                    data: &config.data,
                    base: &config.base,
                    tokenizer: config.tokenizer.as_deref(),
                    max_len: config.max_len,
                    prompt: config.prompt,
                    holdout,
                    seed,
                    n: [None, config.images.map(|n| n as usize)],
                };
                Data::Texts(TextHalves::open(text, &wanted)?)
            }
            _ => Data::Images(images(config, spec, seed, holdout)?),
        };
        let (has, wants) = (data.classes(), adapted.file().classes.as_slice());
        if has != wants {
            let message =
                format!("{}: classes {}, the adapter tells apart {}", data.describe(), named(has), named(wants));
            return Err(Error::Input(message));
        }
        Ok(Self { adapted, data, bits, base_bits: config.base_bits, merged: config.merged })
    }

    /// Judges the adapter.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn run(&self, runtime: &Runtime, quiet: bool) -> Result<EvalReport> {
        let mut network = self.adapted.network(runtime, self.base_bits)?;
        if self.merged {
            network = network.merged()?;
        }
        let verdict = self.data.judge(runtime, &network, self.adapted.base(), quiet)?;
        let profile = runtime.profile();
        Ok(EvalReport {
            method: self.adapted.file().spec.method,
            network: network.spec().to_string(),
            data: self.data.describe(),
            verdict,
            n_test: self.data.n_test(),
            bits: self.bits,
            base_bits: self.base_bits,
            weight_bytes: network.weight_bytes(),
            peak_device_bytes: runtime.memory().peak_bytes,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
        })
    }
}

/// Names of classes, the first of many.
fn named(classes: &[String]) -> String {
    let more = if classes.len() > 10 { format!(" and {} more", classes.len() - 10) } else { String::new() };
    format!("{}{more}", classes.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// The images that are wanted.
fn images(config: &EvalConfig, spec: &ModelSpec, seed: u64, holdout: f64) -> Result<Halves> {
    let wanted = Wanted { side: Some(spec.image()), seed, ..Wanted::new(Split::Test) };
    let mut halves = Halves::open(&config.data, &wanted, holdout)?;
    if let Some(classes) = &config.classes {
        halves = Halves { train: classes.of(&halves.train)?, test: classes.of(&halves.test)?, ..halves };
    }
    if let Some(n) = config.images {
        halves.test = halves.test.take(n as usize);
    }
    fits(spec, &halves)?;
    Ok(halves)
}

impl fmt::Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, adapted by {}", self.network, self.method)?;
        writeln!(f, "{}", self.data)?;
        if let Some(accuracy) = self.verdict.accuracy {
            writeln!(f, "accuracy {accuracy:.2} % of {}", self.n_test)?;
        }
        if let Some(Prediction { nats_per_token, bits_per_byte, tokens }) = self.verdict.prediction {
            writeln!(f, "{nats_per_token:.4} nats per token, {bits_per_byte:.3} bits per byte, {tokens} tokens")?;
        }
        let (weights, peak) = (bytes(self.weight_bytes), bytes(self.peak_device_bytes));
        write!(f, "{weights} of weights, {peak} at most on {} ({})", self.adapter, self.backend)
    }
}

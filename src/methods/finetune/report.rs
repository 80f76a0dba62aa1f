//! What a training came to: figures, text and page.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::adapter::Layout;
use super::method::Method;
use super::settle::Settled;
use super::task::{Data, Verdict};
use super::train::Times;
use crate::Runtime;
use crate::methods::training::Outcome;
use crate::ops::basis::Law;
use crate::report::{Lines, Page, Table, bytes, number};

/// What one run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeedReport {
    /// Its seed.
    pub seed: u64,
    /// What the adapter is worth as the file holds it; absent from a run that is not at its end.
    pub verdict: Option<Verdict>,
    /// The same before its coefficients were rounded.
    pub verdict_f32: Option<Verdict>,
    /// Bytes of the file.
    pub file_bytes: Option<u64>,
    /// Losses, speed, memory.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a training came to, over its seeds.
#[derive(Debug, Clone, Serialize)]
pub struct FinetuneReport {
    /// The method.
    pub method: Method,
    /// The law of its bases.
    pub basis: Option<Law>,
    /// Rank of its factors.
    pub rank: Option<usize>,
    /// Bases of each factor.
    pub k: Option<usize>,
    /// The adapted layers.
    pub targets: Option<String>,
    /// The network.
    pub network: String,
    /// The images.
    pub data: String,
    /// Images that a run learned from.
    pub n_train: usize,
    /// Images judged by.
    pub n_test: usize,
    /// Mean accuracy over the runs, in percent.
    pub accuracy_mean: Option<f64>,
    /// Its deviation from run to run (n - 1 in the denominator; 0 for one run).
    pub accuracy_std: Option<f64>,
    /// Mean accuracy before coefficients were rounded.
    pub accuracy_f32_mean: Option<f64>,
    /// Mean of minus the logarithm of a token's probability, for texts without classes: over the runs.
    pub nats_per_token: Option<f64>,
    /// The same in bits by byte of text.
    pub bits_per_byte: Option<f64>,
    /// Nats per token without the adapter.
    pub nats_per_token_before: Option<f64>,
    /// What the model writes without the adapter, and with the first run's.
    pub samples: Option<[String; 2]>,
    /// Trained numbers, the head left out.
    pub trainable: u64,
    /// Trained numbers, the head included.
    pub trainable_with_head: u64,
    /// Bytes of an adapter's file, head included; 0 where none was written.
    pub file_bytes: u64,
    /// Adapters in a GiB, without their heads, at the bits of the file.
    pub adapters_per_gib: Option<u64>,
    /// Milliseconds of a step, a median.
    pub step_ms: Option<f64>,
    /// Milliseconds of a step of LoRA's on the same layers and at the same rank, in turns with it; of rank 4 beside methods without such a rank.
    pub step_ms_lora: Option<f64>,
    /// Bytes held by tensors on the device at most.
    pub peak_device_bytes: u64,
    /// Entries of random bases made in a second.
    pub basis_draws_per_s: Option<f64>,
    /// Seconds of everything.
    pub seconds: f64,
    /// The runs.
    pub seeds: Vec<SeedReport>,
    /// The adapter of the machine.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
    /// Its driver.
    pub driver: String,
}

/// What a report says that the runs do not.
pub(super) struct Said<'a> {
    pub(super) settled: &'a Settled,
    pub(super) network: String,
    pub(super) data: &'a Data,
    pub(super) before: Option<Verdict>,
    pub(super) sample: Option<[String; 2]>,
    pub(super) n_train: usize,
    pub(super) seconds: f64,
    pub(super) layout: &'a Layout,
    pub(super) times: Times,
    pub(super) peak_device_bytes: u64,
}

impl FinetuneReport {
    pub(super) fn new(said: Said<'_>, runtime: &Runtime, seeds: Vec<SeedReport>) -> Self {
        let profile = runtime.profile();
        let spec = said.layout.spec();
        let of = |verdict: fn(&SeedReport) -> Option<Verdict>, figure: fn(Verdict) -> Option<f64>| {
            seeds.iter().map(|seed| verdict(seed).and_then(figure)).collect::<Option<Vec<f64>>>()
        };
        let accuracies = of(|seed| seed.verdict, |v| v.accuracy);
        let before = of(|seed| seed.verdict_f32, |v| v.accuracy);
        let nats = of(|seed| seed.verdict, |v| Some(v.prediction?.nats_per_token));
        let bits_per_byte = of(|seed| seed.verdict, |v| Some(v.prediction?.bits_per_byte));
        let [with_head, trainable] = said.layout.n_trained();
        let body_bits = said.layout.stored_bits(said.settled.bits);
        Self {
            method: spec.method,
            basis: spec.method.has_basis().then_some(spec.basis),
            rank: matches!(spec.method, Method::Lora | Method::Vera | Method::Nola).then_some(spec.rank),
            k: spec.method.has_basis().then_some(spec.k),
            targets: spec.method.has_branches().then(|| spec.targets.clone()),
            network: said.network,
            data: said.data.describe(),
            n_train: said.n_train,
            n_test: said.data.n_test(),
            accuracy_mean: accuracies.as_deref().map(mean),
            accuracy_std: accuracies.as_deref().map(deviation),
            accuracy_f32_mean: before.as_deref().map(mean),
            nats_per_token: nats.as_deref().map(mean),
            bits_per_byte: bits_per_byte.as_deref().map(mean),
            nats_per_token_before: said.before.and_then(|v| Some(v.prediction?.nats_per_token)),
            samples: said.sample,
            trainable,
            trainable_with_head: with_head,
            file_bytes: seeds.first().and_then(|seed| seed.file_bytes).unwrap_or(0),
            adapters_per_gib: (body_bits > 0).then(|| (8_u64 << 30) / body_bits),
            step_ms: said.times.step_ms,
            step_ms_lora: said.times.step_ms_lora,
            peak_device_bytes: said.peak_device_bytes,
            basis_draws_per_s: said.times.basis_draws_per_s,
            seconds: said.seconds,
            seeds,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    let m = mean(values);
    let n = values.len().max(2) - 1;
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n as f64).sqrt()
}

/// The report as a page.
pub(super) fn page(report: &FinetuneReport, settled: &Settled) -> Page {
    let mut page = Page::new(&format!("finetune {}: {}", report.method, report.network), &report.data);
    let accuracy = match (report.accuracy_mean, report.accuracy_std) {
        (Some(mean), Some(_)) if report.seeds.len() == 1 => format!("{mean:.2} %"),
        (Some(mean), Some(std)) => format!("{mean:.2} % +- {std:.2} over {} runs", report.seeds.len()),
        _ => report.nats_per_token.map_or("not at its end".into(), |nats| format!("{nats:.4} nats per token")),
    };
    let head = report.trainable_with_head - report.trainable;
    let mut facts = vec![
        ("judged", accuracy),
        ("trained numbers", format!("{} and {head} of the head", report.trainable)),
        ("file", bytes(report.file_bytes)),
        ("step", report.step_ms.map_or("-".into(), |ms| format!("{} ms on {}", number(ms), report.adapter))),
        ("memory", bytes(report.peak_device_bytes)),
    ];
    if let Some(lora) = report.step_ms_lora.filter(|_| report.method != Method::Lora) {
        facts.push(("LoRA's step", format!("{} ms", number(lora))));
    }
    if let Some(n) = report.adapters_per_gib {
        facts.push(("adapters in a GiB", number(n as f64)));
    }
    if let Some(before) = report.nats_per_token_before {
        facts.push(("without the adapter", format!("{before:.4} nats per token")));
    }
    page.facts(facts);
    if let Some([before, with]) = &report.samples {
        page.heading("What it writes");
        page.text(&format!("Without the adapter: {before}"));
        page.text(&format!("With it: {with}"));
    }
    page.heading("Runs");
    let mut table = Table::new(&["seed", "judged", "loss at first", "at last"]);
    for seed in &report.seeds {
        let figure = |verdict: Verdict| match (verdict.accuracy, verdict.prediction) {
            (Some(accuracy), _) => format!("{accuracy:.2} %"),
            (None, Some(prediction)) => format!("{:.4} nats per token", prediction.nats_per_token),
            (None, None) => "-".into(),
        };
        let accuracy = seed.verdict.map_or("-".into(), figure);
        let (first, last) = (number(seed.outcome.loss_first), number(seed.outcome.loss_last));
        table.row([seed.seed.to_string(), accuracy, first, last]);
    }
    page.table(&table);
    page.heading("Loss");
    let mut lines = Lines::new("step", "training loss");
    for seed in report.seeds.iter().take(Lines::MOST) {
        let points = seed.outcome.losses.iter().map(|&(step, loss)| (step as f64, loss));
        lines.line(&format!("seed {}", seed.seed), points);
    }
    page.lines(&lines);
    page.text(&format!(
        "{} steps in batches of {}, learning rate {}.",
        settled.recipe.steps, settled.recipe.batch, settled.recipe.lr
    ));
    page
}

impl fmt::Display for FinetuneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, adapted by {}", self.network, self.method)?;
        writeln!(f, "{}", self.data)?;
        if let (Some(mean), Some(std)) = (self.accuracy_mean, self.accuracy_std) {
            let runs = self.seeds.len();
            let spread = if runs > 1 { format!(" +- {std:.2} over {runs} runs") } else { String::new() };
            writeln!(
                f,
                "accuracy {mean:.2} %{spread}, {} images to learn from, {} to judge by",
                self.n_train, self.n_test
            )?;
        }
        if let (Some(nats), Some(bits)) = (self.nats_per_token, self.bits_per_byte) {
            write!(f, "{nats:.4} nats per token, {bits:.3} bits per byte of {} texts", self.n_test)?;
            let before = self.nats_per_token_before;
            writeln!(f, "{}", before.map_or(String::new(), |nats| format!("; {nats:.4} without the adapter")))?;
        }
        if let Some([before, with]) = &self.samples {
            writeln!(f, "it wrote: {before}\nit writes: {with}")?;
        }
        if let (Some(before), Some(_)) = (self.accuracy_f32_mean, self.accuracy_mean) {
            writeln!(f, "accuracy {before:.2} % before its coefficients were rounded")?;
        }
        let head = self.trainable_with_head - self.trainable;
        write!(f, "{} trained numbers and {head} of the head", self.trainable)?;
        if self.file_bytes > 0 {
            write!(f, ", a file of {}", bytes(self.file_bytes))?;
        }
        writeln!(f)?;
        if let Some(step) = self.step_ms {
            write!(f, "{} ms a step", number(step))?;
        }
        if let Some(lora) = self.step_ms_lora.filter(|_| self.method != Method::Lora) {
            write!(f, ", LoRA's {} ms", number(lora))?;
        }
        if let Some(draws) = self.basis_draws_per_s {
            write!(f, ", {} million basis entries a second", number(draws / 1e6))?;
        }
        write!(f, "; {} on {} ({})", bytes(self.peak_device_bytes), self.adapter, self.backend)
    }
}

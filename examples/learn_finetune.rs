//! What adapters must reach on real images and texts, hours cut to minutes: `make bench-finetune`.
//!
//! - `fewshot`: a small ViT learns classes 0 to 4 of CIFAR-10; adapters teach it classes 5 to 9 from 5 or 10 images of each. NOLA is
//!   held to LoRA of rank 1 and to a linear probe, its rounded coefficients to what they lose.
//! - `cifar100`: a published ViT, trained on CIFAR-10, learns ten classes of CIFAR-100 by each method.
//! - `texts`: a published language model of 260,032 parameters learns restaurant texts, and Shakespeare.
//! - `scratch`: ResNet-20 on random weights that are never stored, PRANC and NOLA.
//!
//! Every run leaves its folder; one that came to its end is not done again. All bounds stand in one table, met or missed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use leanvision::methods::NetworkFlags;
use leanvision::methods::finetune::{
    EvalConfig, Evaluation, ExportConfig, ExportKind, FinetuneRun, Method, Shots, TrainConfig, export,
};
use leanvision::methods::training::TrainFlags;
use leanvision::nn::NormPlace;
use leanvision::ops::Act;
use leanvision::report::{CommonFlags, Page, Scatter, Table, bytes, number, print};
use leanvision::runtime::Runtime;
use serde_json::{Map, Value, json};

/// Learning runs of finetune with bounds on what they reach
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    common: CommonFlags,
    /// Folder with cifar-10-batches-bin/, cifar-100-subset/, models/ and text/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which runs: fewshot, cifar100, texts, scratch or all
    #[arg(long, default_value = "all", value_name = "PART")]
    part: String,
    /// Runs of each few-shot setting, each with its own images and first values
    #[arg(long, default_value_t = 12, value_name = "N")]
    seeds: u32,
    /// Steps in which the small ViT learns its first five classes
    #[arg(long, default_value_t = 1500, value_name = "N")]
    base_steps: u64,
}

/// Images that few-shot runs are judged by.
const JUDGED: u32 = 1000;

/// A bound and what came out.
struct Bound {
    what: String,
    value: f64,
    least: f64,
}

/// What all parts have.
struct Bench<'a> {
    flags: &'a Flags,
    out: &'a Path,
    runtime: Runtime,
    bounds: Vec<Bound>,
    reports: Map<String, Value>,
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<bool> {
    let Some(out) = &flags.common.out else { bail!("--out has to name a folder for the runs") };
    if !["fewshot", "cifar100", "texts", "scratch", "all"].contains(&flags.part.as_str()) {
        bail!("--part {}: fewshot, cifar100, texts, scratch or all wanted", flags.part);
    }
    std::fs::create_dir_all(out)?;
    let runtime = flags.common.open()?;
    let mut bench = Bench { flags, out, runtime, bounds: Vec::new(), reports: Map::new() };
    let asked = |part: &str| flags.part == part || flags.part == "all";
    if asked("texts") {
        bench.texts()?;
    }
    if asked("cifar100") {
        bench.cifar100()?;
    }
    if asked("fewshot") {
        bench.fewshot()?;
    }
    if asked("scratch") {
        bench.scratch()?;
    }
    let mut table = Table::new(&["bound", "reached", "at least", ""]);
    for Bound { what, value, least } in &bench.bounds {
        let met = if value >= least { "met" } else { "MISSED" };
        table.row([what.clone(), format!("{value:.3}"), format!("{least:.3}"), met.into()]);
    }
    print(&table.to_string())?;
    let all = bench.bounds.iter().all(|bound| bound.value >= bound.least);
    bench.page(&table)?;
    let lines: Vec<Value> =
        (bench.bounds.iter()).map(|b| json!({ "bound": b.what, "reached": b.value, "at_least": b.least })).collect();
    let whole = json!({ "adapter": bench.runtime.profile().to_string(), "bounds": lines, "runs": bench.reports });
    std::fs::write(out.join(format!("{}.json", flags.part)), serde_json::to_vec_pretty(&whole)?)?;
    Ok(all)
}

impl Bench<'_> {
    /// A training, or what it came to before; only what a table needs of its report.
    fn train(&mut self, name: &str, config: TrainConfig) -> anyhow::Result<Value> {
        let folder = self.out.join(name);
        let known = folder.join("result.json");
        let whole: Value = if known.exists() {
            serde_json::from_slice(&std::fs::read(&known)?)?
        } else {
            std::fs::create_dir_all(&folder)?;
            let common = CommonFlags { out: Some(folder), json: None, ..self.flags.common.clone() };
            let run = FinetuneRun::prepare(&config, &common).with_context(|| name.to_string())?;
            let report = run.run(&self.runtime, true).with_context(|| name.to_string())?;
            print(&format!("{name}\n{report}\n"))?;
            let value = serde_json::to_value(&report)?;
            std::fs::write(&known, serde_json::to_vec_pretty(&value)?)?;
            value
        };
        let mut short = whole.as_object().cloned().unwrap_or_default();
        if let Some(seeds) = short.remove("seeds").and_then(|seeds| seeds.as_array().cloned()) {
            short.insert("verdicts".into(), seeds.iter().map(|seed| seed["verdict"].clone()).collect());
        }
        self.reports.insert(name.to_string(), Value::Object(short.clone()));
        Ok(Value::Object(short))
    }

    fn bound(&mut self, what: &str, value: f64, least: f64) {
        self.bounds.push(Bound { what: what.to_string(), value, least });
    }

    fn data(&self, name: &str) -> Option<String> {
        Some(self.flags.data.join(name).display().to_string())
    }

    /// All runs side by side: what they reach over the numbers they train, sizes, times.
    fn page(&self, bounds: &Table) -> anyhow::Result<()> {
        let mut page = Page::new("finetune: methods side by side", &self.runtime.profile().to_string());
        let mut table =
            Table::new(&["run", "judged", "trained", "file", "step, ms", "LoRA's step, ms", "adapters in a GiB"]);
        let mut images = Scatter::new("trained numbers, the head left out", "accuracy, %");
        let mut texts = Scatter::new("trained numbers", "nats per token");
        for (name, report) in &self.reports {
            let of = |key: &str| report[key].as_f64();
            let (Some(trained), Some(step)) = (of("trainable"), of("step_ms")) else { continue };
            let judged = match (of("accuracy_mean"), of("accuracy_std"), of("nats_per_token")) {
                (Some(mean), Some(std), _) => {
                    images.point(name, trained.max(1.0), mean);
                    format!("{mean:.2} % +- {std:.2}")
                }
                (_, _, Some(nats)) => {
                    texts.point(name, trained, nats);
                    format!("{nats:.4} nats")
                }
                _ => continue,
            };
            let text = |value: Option<f64>| value.map_or("-".into(), number);
            let file = bytes(of("file_bytes").unwrap_or(0.0) as u64);
            let (lora, per_gib) = (text(of("step_ms_lora")), text(of("adapters_per_gib")));
            table.row([name.clone(), judged, number(trained), file, number(step), lora, per_gib]);
        }
        page.heading("Accuracy over trained numbers");
        page.scatter(&images);
        page.heading("Texts");
        page.scatter(&texts);
        page.heading("Runs");
        page.table(&table);
        page.heading("Bounds");
        page.table(bounds);
        page.write(&self.out.join("report.html"))?;
        Ok(())
    }

    /// The small ViT that knows classes 0 to 4.
    fn base(&mut self) -> anyhow::Result<PathBuf> {
        let config = TrainConfig {
            base: Some("vit_small32".into()),
            method: Some(Method::Full),
            data: self.data("cifar-10-batches-bin"),
            classes: "0-4".parse().ok(),
            test_images: Some(2 * JUDGED),
            train: TrainFlags {
                steps: Some(self.flags.base_steps),
                batch: Some(64),
                lr: Some(1e-3),
                optimizer: Some("adamw".into()),
                decay: Some(0.05),
                warmup: Some(self.flags.base_steps / 20),
                checkpoint_every: 200,
                log_every: 50,
                ..TrainFlags::default()
            },
            ..TrainConfig::default()
        };
        self.train("base", config)?;
        let folder = self.out.join("base");
        let weights = folder.join("merged.safetensors");
        if !weights.exists() {
            let to = ExportConfig {
                base: "vit_small32".into(),
                network: NetworkFlags::default(),
                adapter: folder.join("adapter.safetensors"),
                kind: ExportKind::Merged,
            };
            export(&self.runtime, &to, &folder)?;
        }
        Ok(weights)
    }

    fn fewshot(&mut self) -> anyhow::Result<()> {
        let weights = self.base()?.display().to_string();
        let few = |method, shots, seeds| TrainConfig {
            base: Some(weights.clone()),
            method: Some(method),
            classes: "5-9".parse().ok(),
            shots: Some(Shots::Of(shots)),
            seeds: Some(seeds),
            test_images: Some(JUDGED),
            train: TrainFlags { log_every: 10, checkpoint_every: u64::MAX, ..TrainFlags::default() },
            ..TrainConfig::default()
        };
        let mut accuracy = Map::new();
        for shots in [5, 10] {
            for (name, method, rank, seeds) in [
                ("nola", Method::Nola, None, self.flags.seeds),
                ("lora-r1", Method::Lora, Some(1), self.flags.seeds),
                ("linear", Method::Linear, None, self.flags.seeds),
                ("bitfit", Method::Bitfit, None, self.flags.seeds.min(3)),
                ("vera", Method::Vera, None, self.flags.seeds.min(3)),
                ("lora-r4", Method::Lora, Some(4), self.flags.seeds.min(3)),
            ] {
                let data = self.data("cifar-10-batches-bin");
                let config = TrainConfig { rank, data, ..few(method, shots, seeds) };
                let report = self.train(&format!("{name}-{shots}"), config)?;
                accuracy.insert(format!("{name}-{shots}"), report["accuracy_mean"].clone());
            }
        }
        let of = |name: &str| accuracy[name].as_f64().unwrap_or(f64::NAN);
        for shots in [5, 10] {
            let [nola, lora, linear] = ["nola", "lora-r1", "linear"].map(|name| of(&format!("{name}-{shots}")));
            self.bound(&format!("NOLA, {shots} shots, over LoRA of rank 1: points"), nola - lora, -2.0);
            self.bound(&format!("NOLA, {shots} shots, over a linear probe: points"), nola - linear, 0.0);
        }
        self.rounding(&weights)?;
        let config = TrainConfig {
            data: self.data("cifar-10-batches-bin"),
            bits: Some(3),
            qat: true,
            ..few(Method::Nola, 10, self.flags.seeds)
        };
        let aware = self.train("nola-10-qat3", config)?["accuracy_mean"].as_f64().unwrap_or(f64::NAN);
        self.bound("3 bits that training knew of, 10 shots: points", aware - of("nola-10"), -1.5);
        Ok(())
    }

    /// What rounding loses that training did not know of, over all seeds.
    fn rounding(&mut self, weights: &str) -> anyhow::Result<()> {
        let mut means = Map::new();
        for bits in [32_u32, 8, 4, 3, 2] {
            let mut sum = 0.0;
            for seed in 0..u64::from(self.flags.seeds) {
                let folder = self.out.join("nola-10").join(format!("seed-{}", self.flags.common.seed + seed));
                let folder = if self.flags.seeds == 1 { self.out.join("nola-10") } else { folder };
                let config = EvalConfig {
                    base: weights.to_string(),
                    network: NetworkFlags::default(),
                    adapter: folder.join("adapter.safetensors"),
                    data: self.data("cifar-10-batches-bin").unwrap_or_default(),
                    tokenizer: None,
                    max_len: None,
                    prompt: false,
                    classes: "5-9".parse().ok(),
                    holdout: None,
                    images: Some(JUDGED),
                    bits: (bits < 32).then_some(bits),
                    base_bits: Default::default(),
                    merged: false,
                };
                let verdict = Evaluation::prepare(&config, 0)?.run(&self.runtime, true)?.verdict;
                sum += verdict.accuracy.unwrap_or(f64::NAN);
            }
            means.insert(bits.to_string(), (sum / f64::from(self.flags.seeds)).into());
        }
        let of = |bits: &str| means[bits].as_f64().unwrap_or(f64::NAN);
        let (whole, eight, four) = (of("32"), of("8"), of("4"));
        self.reports.insert("nola-10-rounded".into(), Value::Object(means));
        self.bound("8 bits, 10 shots: points", eight - whole, -0.2);
        self.bound("4 bits, 10 shots: points", four - whole, -1.0);
        Ok(())
    }

    fn cifar100(&mut self) -> anyhow::Result<()> {
        let network = NetworkFlags {
            heads: Some(8),
            norm: Some(NormPlace::Post),
            act: Some(Act::Relu),
            normalize: Some("cifar".into()),
            ..NetworkFlags::default()
        };
        for (name, method) in [
            ("nola", Method::Nola),
            ("lora", Method::Lora),
            ("vera", Method::Vera),
            ("bitfit", Method::Bitfit),
            ("linear", Method::Linear),
            ("full", Method::Full),
        ] {
            let config = TrainConfig {
                base: self.data("models/vit_small_cifar10.safetensors"),
                network: network.clone(),
                method: Some(method),
                data: self.data("cifar-100-subset"),
                classes: "0-9".parse().ok(),
                shots: Some(Shots::Of(10)),
                seeds: Some(self.flags.seeds.min(3)),
                train: TrainFlags { log_every: 10, checkpoint_every: u64::MAX, ..TrainFlags::default() },
                ..TrainConfig::default()
            };
            let report = self.train(&format!("cifar100-{name}"), config)?;
            if method == Method::Nola {
                let reached = report["accuracy_mean"].as_f64().unwrap_or(f64::NAN);
                self.bound("NOLA on ten classes of CIFAR-100, 10 shots, %", reached, 20.0);
            }
        }
        Ok(())
    }

    fn texts(&mut self) -> anyhow::Result<()> {
        for (corpus, data, max_len) in
            [("e2e", "text/e2e/devset.csv", None), ("shakespeare", "text/tinyshakespeare.txt", Some(128))]
        {
            for (name, method, rank) in
                [("nola", Method::Nola, None), ("lora-r1", Method::Lora, Some(1)), ("full", Method::Full, None)]
            {
                let config = TrainConfig {
                    base: self.data("models/stories260K.safetensors"),
                    tokenizer: Some(self.flags.data.join("models/tok512.bin")),
                    method: Some(method),
                    rank,
                    targets: method.has_branches().then(|| "all".into()),
                    data: self.data(data),
                    max_len,
                    images: Some(2000),
                    test_images: Some(500),
                    train: TrainFlags {
                        epochs: Some(2.0),
                        lr: (method == Method::Full).then_some(5e-4),
                        log_every: 10,
                        checkpoint_every: u64::MAX,
                        ..TrainFlags::default()
                    },
                    ..TrainConfig::default()
                };
                let report = self.train(&format!("{corpus}-{name}"), config)?;
                let of = |key: &str| report[key].as_f64().unwrap_or(f64::NAN);
                if method == Method::Nola {
                    let won = of("nats_per_token_before") - of("nats_per_token");
                    self.bound(
                        &format!("NOLA on {corpus}: nats per token won"),
                        won,
                        if corpus == "e2e" { 1.5 } else { 0.5 },
                    );
                }
            }
        }
        Ok(())
    }

    fn scratch(&mut self) -> anyhow::Result<()> {
        for (name, method, k, rank, steps) in [
            ("scratch-nola", Method::Nola, Some(300), Some(8), 300),
            ("scratch-pranc", Method::Pranc, Some(1000), None, 300),
            ("scratch-full", Method::Full, None, None, 300),
        ] {
            let config = TrainConfig {
                base: Some("resnet20".into()),
                method: Some(method),
                k,
                rank,
                data: self.data("cifar-10-batches-bin"),
                images: Some(10_000),
                test_images: Some(2 * JUDGED),
                train: TrainFlags { steps: Some(steps), batch: Some(64), log_every: 20, ..TrainFlags::default() },
                ..TrainConfig::default()
            };
            let report = self.train(name, config)?;
            if method != Method::Full {
                let reached = report["accuracy_mean"].as_f64().unwrap_or(f64::NAN);
                self.bound(&format!("{name}, %"), reached, 20.0);
            }
        }
        Ok(())
    }
}

//! The tour: every part of the engine at small size, on pictures drawn on the spot, as text and as one page.

mod config;

pub use config::Config;

use std::time::Instant;

use serde_json::{Value, json};

use crate::bench::{self, Level, SuiteFlags};
use crate::data::{ImageSet, Split, shapes};
use crate::methods::classify::{Augment, TrainConfig, TrainReport, TrainRun};
use crate::methods::finetune::{self, FinetuneReport, FinetuneRun, TrainConfig as FinetuneConfig};
use crate::methods::ssl::{Method, PretrainConfig, SharedFlags, SslReport, SslRun, views_sheet};
use crate::methods::training::TrainFlags;
use crate::nn::{Model, ModelSpec, untrained};
use crate::ops::conv::{Conv2d, conv2d};
use crate::ops::{Act, elementwise, views};
use crate::report::{CommonFlags, Lines, Page, Run, Table, grouped, number, sheet};
use crate::{DType, Result, Runtime, Tensor};

/// Binaries, what they do, and a line to try.
const BINARIES: [[&str; 3]; 5] = [
    [
        "classify",
        "training of networks, accuracy and guesses of trained ones; what one is and costs",
        "cargo run --release --bin classify -- train --arch resnet20 --width 0.5 --data shapes --steps 400 --batch 64 --lr 0.05 --augment none --out out/train",
    ],
    [
        "ssl",
        "representation learning without labels, distillation into small networks, features of pictures",
        SSL_COMMAND,
    ],
    [
        "finetune",
        "adaptation of frozen networks with few numbers: NOLA, PRANC, LoRA, VeRA and others",
        FINETUNE_COMMAND,
    ],
    ["gpubench", "speed of this machine, kernel by kernel", "cargo run --release --bin gpubench -- run --suite quick"],
    ["demo", "this tour", "cargo run --release"],
];

/// A line of `ssl` to try.
const SSL_COMMAND: &str = "cargo run --release --bin ssl -- pretrain --method msf --arch resnet18 --width 0.25 --data shapes --epochs 2 --show-views --out out/ssl";

/// A line of `finetune` to try.
const FINETUNE_COMMAND: &str = "cargo run --release --bin finetune -- train --base resnet20 --method nola --data shapes --epochs 10 --out out/finetune";

/// Pictures that the tour learns from without labels.
const SSL_IMAGES: usize = 600;

/// Images of the tour, and how many stand side by side.
const N_IMAGES: usize = 40;
const N_COLUMNS: usize = 10;

/// Walks through the tour; `say` gets each part's text as soon as it is known.
///
/// Answers with the page and the figures.
///
/// # Errors
/// What the parts return, and what `say` returns.
pub fn run(
    runtime: &Runtime,
    config: &Config,
    mut say: impl FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<(Page, Value)> {
    let mut page =
        Page::new("leanvision", "Computer vision that is cheap to train, store, render and trust, on any GPU.");
    let profile = runtime.profile();
    page.facts([("adapter", profile.to_string()), ("run", crate::report::now())]);

    let set = shapes(N_IMAGES, config.common.seed, Split::Test);
    page.heading("Pictures drawn on the spot");
    page.text(&format!(
        "{}, in ten classes: {}. Nothing is downloaded; every method runs on them unless --data names others.",
        set.source,
        set.class_names.join(", ")
    ));
    page.picture(&sheet(&set, N_IMAGES, N_COLUMNS, 2), "Each column holds one class.")?;

    let (edges, ms) = timed(runtime, || edges(runtime, &set))?;
    let first = format!("{N_IMAGES} pictures to their edges in {} ms, compilation included", number(ms));
    say(&first)?;
    page.heading("A first kernel");
    page.text(&format!("{first}: a 3x3 convolution to two slopes, and the length of both."));
    page.picture(&sheet(&edges, N_IMAGES, N_COLUMNS, 2), "The same pictures' edges, computed on the adapter.")?;

    let network = network(runtime, &set, config.common.seed)?;
    say(&network.text)?;
    page.heading("A network");
    page.text(&network.text);
    page.text("With a trained network's weights, classify eval gives its accuracy and classify predict its guesses:");
    page.command("cargo run --release --bin classify -- eval --weights W.safetensors --data FOLDER");

    let training = training(runtime, config)?;
    say(&training.text)?;
    page.heading("Training");
    page.text(&training.text);
    let mut lines = Lines::new("step", "training loss");
    lines.line("loss", training.report.outcome.losses.iter().map(|&(step, loss)| (step as f64, loss)));
    page.lines(&lines);
    page.command(
        "cargo run --release --bin classify -- train --arch resnet20 --width 0.5 --data shapes --steps 400 --batch 64 --lr 0.05 --augment none --out out/train",
    );

    let learned = representation(runtime, config)?;
    say(&learned.text)?;
    page.heading("Learning without labels");
    page.text(&learned.text);
    let shown = SSL_IMAGES.min(8);
    let views = views_sheet(runtime, &learned.set, &learned.recipes, config.common.seed)?;
    page.picture(&views, &format!("{shown} pictures in rows: as they are, three strong views, three weak ones."))?;
    let mut lines = Lines::new("step", "mean shift's loss");
    lines.line("loss", learned.report.outcome.losses.iter().map(|&(step, loss)| (step as f64, loss)));
    page.lines(&lines);
    page.command(SSL_COMMAND);

    let adapted = adaptation(runtime, config)?;
    say(&adapted.text)?;
    page.heading("Few numbers");
    page.text(&adapted.text);
    let mut lines = Lines::new("step", "NOLA's loss");
    let losses = adapted.report.seeds.iter().flat_map(|seed| &seed.outcome.losses);
    lines.line("loss", losses.map(|&(step, loss)| (step as f64, loss)));
    page.lines(&lines);
    page.command(FINETUNE_COMMAND);

    let flags = SuiteFlags { suite: Level::Quick, family: ["conv", "matmul"].map(Into::into).to_vec() };
    let report = bench::run(runtime, &flags, config.common.quiet)?;
    // The rows that set the peaks stand in a line of their own.
    let mut shown = report.clone();
    shown.rows.retain(|row| !row.is_micro());
    say(&format!("\n{shown}\n"))?;
    page.heading("This machine");
    page.text("Each row was checked against a plain CPU computation before it was timed.");
    page.table(&report.peaks_table());
    page.table(&shown.table(false));

    page.heading("What to run next");
    let mut table = Table::new(&["binary", "what it does", "to try it"]);
    for row in BINARIES {
        table.row(row);
    }
    say(&table.to_string())?;
    page.table(&table);
    report.verdict()?;
    let figures = json!({
        "images": N_IMAGES, "edges_ms": ms, "network": network.name, "network_ms": network.ms, "top1": network.top1,
        "training": training.report, "ssl": learned.report, "finetune": adapted.report,
        "bench": report,
    });
    Ok((page, figures))
}

/// A result and the ms until the device had it.
fn timed<T>(runtime: &Runtime, run: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let start = Instant::now();
    let result = run()?;
    runtime.sync()?;
    Ok((result, start.elapsed().as_secs_f64() * 1e3))
}

/// What a network made of the tour's images.
struct Network {
    name: String,
    text: String,
    ms: f64,
    /// Percent.
    top1: f64,
}

/// A small network that nobody trained, over all images.
fn network(runtime: &Runtime, set: &ImageSet, seed: u64) -> Result<Network> {
    let spec = ModelSpec::by_name("resnet20")?;
    let summary = spec.plan().summary([set.height, set.width])?;
    let model = Model::folded(runtime, &spec, &untrained(&spec.plan().params, seed)?)?;
    let x = pixels(runtime, set)?;
    let run = || model.forward(&elementwise::affine(&x, 4.0, -2.0)?);
    let (_, first_ms) = timed(runtime, run)?;
    let (logits, ms) = timed(runtime, run)?;
    let likeliest = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
    let logits = logits.to_vec::<f32>()?;
    let guesses = logits.chunks_exact(spec.classes()).map(likeliest);
    let right = guesses.zip(&set.labels).filter(|(guess, label)| *guess == **label as usize).count();
    let text = format!(
        "{}, {} parameters, {} M multiply-adds an image: {} pictures in {} ms ({} a second), the first time in {} ms with \
         compilation. Its weights are random: that it names {right} of {} rightly is luck, one in {}.",
        spec,
        grouped(summary.params),
        number(summary.multiply_adds as f64 / 1e6),
        set.len(),
        number(ms),
        number(1e3 * set.len() as f64 / ms),
        number(first_ms),
        set.len(),
        spec.classes(),
    );
    Ok(Network { name: spec.to_string(), text, ms, top1: 100.0 * right as f64 / set.len() as f64 })
}

/// A small network that was trained on the spot.
struct Trained {
    text: String,
    report: TrainReport,
}

/// Two classes that a small network tells apart after some seconds; all ten take minutes.
const PAIR: [usize; 2] = [0, 8];

/// Those of the first `n` images that show one of them.
fn pair(n: usize, seed: u64, split: Split) -> Result<ImageSet> {
    let all = shapes(n, seed, split);
    let class = |i: usize| PAIR.iter().position(|&class| class == all.labels[i] as usize);
    let mut set = all.subset((0..n).filter(|&i| class(i).is_some()))?;
    for label in &mut set.labels {
        *label = PAIR.iter().position(|&class| class == *label as usize).unwrap_or(0) as u32;
    }
    set.class_names = PAIR.map(|class| all.class_names[class].clone()).to_vec();
    set.n_classes = PAIR.len();
    Ok(set)
}

/// Trains for a few seconds.
fn training(runtime: &Runtime, config: &Config) -> Result<Trained> {
    let flags = TrainConfig {
        arch: Some("resnet8".into()),
        width: Some(0.5),
        augment: Some(Augment::None),
        train: TrainFlags {
            steps: Some(250),
            batch: Some(32),
            lr: Some(0.05),
            log_every: 10,
            checkpoint_every: u64::MAX,
            ..TrainFlags::default()
        },
        ..TrainConfig::default()
    };
    let nowhere = CommonFlags { out: None, json: None, ..config.common.clone() };
    let seed = config.common.seed;
    let [train, test] = [(Split::Train, 8_000), (Split::Test, 1_000)].map(|(split, n)| pair(n, seed, split));
    let (train, test) = (train?, test?);
    let names = train.class_names.join(" from ");
    let n = train.len();
    let run = TrainRun::on(&flags, &nowhere, train, test)?;
    let report = run.run(runtime, &flags, &Run::check(&nowhere)?, true)?;
    let text = format!(
        "{}, trained from nothing to tell {names} on {} pictures, for {} steps in {} s ({} pictures a second): it names {} % of \
         {} others rightly. All ten classes take some minutes.",
        report.network,
        grouped(n as u64),
        report.outcome.steps,
        number(report.outcome.seconds),
        number(report.images_per_s),
        number(report.top1.unwrap_or_default()),
        report.n_test,
    );
    Ok(Trained { text, report })
}

/// What a few seconds without labels came to.
struct Learned {
    text: String,
    set: ImageSet,
    recipes: [views::Recipe; 2],
    report: SslReport,
}

/// Mean shift for a few seconds.
fn representation(runtime: &Runtime, config: &Config) -> Result<Learned> {
    let flags = PretrainConfig {
        method: Some(Method::Msf),
        head_hidden: Some(64),
        head_out: Some(32),
        shared: SharedFlags {
            arch: Some("resnet8".into()),
            width: Some(0.5),
            bank: Some(128),
            train: TrainFlags {
                steps: Some(60),
                batch: Some(32),
                log_every: 5,
                checkpoint_every: u64::MAX,
                ..TrainFlags::default()
            },
            ..SharedFlags::default()
        },
        ..PretrainConfig::default()
    };
    let nowhere = CommonFlags { out: None, json: None, ..config.common.clone() };
    let seed = config.common.seed;
    let (set, test) = (shapes(SSL_IMAGES, seed, Split::Train), shapes(200, seed, Split::Test));
    let run = SslRun::pretrain_on(&flags, &nowhere, set.clone(), Some(test))?;
    let recipes = [run.settled().query, run.settled().target];
    let report = run.run(runtime, &Run::check(&nowhere)?, true)?;
    let figure = |name: &str| report.last.get(name).and_then(Value::as_f64).unwrap_or_default();
    let text = format!(
        "Mean shift on {SSL_IMAGES} pictures whose labels it does not see: {} steps in {} s, loss {} to {}. Targets spread over {} of \
         the sphere, where collapse would be 0, and {} % of the neighbours in the bank are of a picture's own class, where chance \
         is 10. So few seconds show how it works; what features are worth takes minutes on real images (README).",
        report.outcome.steps,
        number(report.outcome.seconds),
        number(report.outcome.loss_first),
        number(report.outcome.loss_last),
        number(figure("bank_spread")),
        number(figure("purity")),
    );
    Ok(Learned { text, set, recipes, report })
}

/// What a few numbers came to.
struct Adapted {
    text: String,
    report: FinetuneReport,
}

/// A network of random weights that nobody stores, with what some hundred numbers make of it in seconds.
fn adaptation(runtime: &Runtime, config: &Config) -> Result<Adapted> {
    let flags = FinetuneConfig {
        base: Some("resnet8".into()),
        method: Some(finetune::Method::Nola),
        k: Some(32),
        augment: Some(Augment::None),
        label_smoothing: Some(0.0),
        train: TrainFlags {
            steps: Some(100),
            batch: Some(32),
            lr: Some(0.02),
            log_every: 5,
            checkpoint_every: u64::MAX,
            ..TrainFlags::default()
        },
        ..FinetuneConfig::default()
    };
    let nowhere = CommonFlags { out: None, json: None, ..config.common.clone() };
    let seed = config.common.seed;
    let (train, test) = (pair(8_000, seed, Split::Train)?, pair(1_000, seed, Split::Test)?);
    let names = train.class_names.join(" from ");
    let report = FinetuneRun::on(&flags, &nowhere, train, test)?.run(runtime, true)?;
    let outcome = report.seeds.first().map(|seed| &seed.outcome);
    let text = format!(
        "The same task with weights that stay random: NOLA trains {} numbers, norms and head included, where the network has {}; \
         everything else follows from one seed, random bases are made in the kernel that reads them, {} million entries a second. \
         Behind {} steps in {} s it tells {names} in {} % of {} pictures.",
        grouped(report.trainable_with_head),
        grouped(ModelSpec::by_name("resnet8")?.plan().params.n_trained()),
        number(report.basis_draws_per_s.unwrap_or_default() / 1e6),
        outcome.map_or(0, |o| o.steps),
        number(outcome.map_or(0.0, |o| o.seconds)),
        number(report.accuracy_mean.unwrap_or_default()),
        report.n_test,
    );
    Ok(Adapted { text, report })
}

/// The images as numbers in 0..1, `[n, h, w, c]`.
fn pixels(runtime: &Runtime, set: &ImageSet) -> Result<Tensor> {
    let bytes = Tensor::from_slice(runtime, &set.images, &[set.len(), set.height, set.width, set.channels])?;
    let scalar = |value: f32| Tensor::from_slice(runtime, &[value], &[1]);
    elementwise::from_bytes(&bytes, &scalar(1.0 / 255.0)?, &scalar(0.0)?, DType::F32)
}

/// How steep the brightness of each image is at each pixel, as grey images.
fn edges(runtime: &Runtime, set: &ImageSet) -> Result<ImageSet> {
    let x = pixels(runtime, set)?;
    // Sobel's two filters over red, green and blue by how bright each looks: [3, 3, 3, 2].
    let sobel = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0f32]];
    let taps = (0..3).flat_map(|y| (0..3).map(move |x| (y, x)));
    let filters: Vec<f32> = taps
        .flat_map(|(y, x)| {
            [0.299, 0.587, 0.114].into_iter().flat_map(move |luma| [luma * sobel[y][x], luma * sobel[x][y]])
        })
        .collect();
    let w = Tensor::from_slice(runtime, &filters, &[3, 3, 3, 2])?;
    // Without padding: the black around an image would be its steepest edge.
    let slopes = conv2d(&x, &w, None, &Conv2d::default(), Act::None)?;
    let squares = elementwise::mul(&slopes, &slopes)?;
    let length = elementwise::sqrt(&elementwise::add(&squares.slice(3, 0..1)?, &squares.slice(3, 1..2)?)?)?;
    let images = length.to_vec::<f32>()?.iter().map(|v| (255.0 * v).min(255.0) as u8).collect();
    ImageSet::new(
        "edges",
        "edges of the tour's images",
        [set.height - 2, set.width - 2, 1],
        images,
        set.labels.clone(),
        set.class_names.clone(),
    )
}

//! What a training came to: figures, text and page.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::judge::knn_by_protocol;
use super::knn::{Knn, PROTOCOLS};
use super::linear::LinearReport;
use super::map::FeatureMap;
use super::method::Method;
use super::settle::Settled;
use crate::data::Picture;
use crate::methods::training::Outcome;
use crate::report::{Lines, Page, Table, bytes, number};
use crate::{Result, Runtime};

/// What a run of `ssl pretrain` or `ssl distill` came to.
#[derive(Debug, Clone, Serialize)]
pub struct SslReport {
    /// The method.
    pub method: Method,
    /// The backbone.
    pub network: String,
    /// The images.
    pub data: String,
    /// Labelled images that features were judged on.
    pub n_test: usize,
    /// Top-1 by nearest neighbours in percent, last and best evaluation by protocol ([`Knn`]); `null` without labels.
    pub knn: Value,
    /// The teacher's, in distillation.
    pub teacher_knn: Option<Knn>,
    /// Linear probes, with `--linear`.
    pub linear: Option<LinearReport>,
    /// Neighbours with the image's own label in percent, the image itself left out, since the evaluation before the last.
    pub purity: Option<f64>,
    /// The last evaluation whole.
    pub last: Map<String, Value>,
    /// Losses, speed, memory.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Training images per second.
    pub images_per_s: f64,
    /// Multiply-adds of an image in a step, forward and backward.
    pub macs_per_image: u64,
    /// The adapter.
    pub adapter: String,
    /// Its back end.
    pub backend: String,
    /// Its driver.
    pub driver: String,
}

/// What a report says that the outcome does not.
pub(super) struct Said<'a> {
    pub(super) settled: &'a Settled,
    pub(super) network: String,
    pub(super) data: String,
    pub(super) n_test: usize,
    pub(super) macs_per_image: u64,
}

impl SslReport {
    pub(super) fn new(
        said: Said<'_>,
        runtime: &Runtime,
        outcome: Outcome,
        linear: Option<LinearReport>,
        teacher_knn: Option<Knn>,
    ) -> Self {
        let profile = runtime.profile();
        let last = outcome.evaluations.last().map(|(_, figures)| figures.clone()).unwrap_or_default();
        let of_last = |name: &str| last.get(name).and_then(Value::as_f64);
        Self {
            method: said.settled.method,
            network: said.network,
            data: said.data,
            n_test: said.n_test,
            knn: knn_by_protocol(&outcome.evaluations),
            teacher_knn,
            linear,
            purity: of_last("purity").or_else(|| of_last("purity_constrained")),
            images_per_s: outcome.items_per_s,
            macs_per_image: said.macs_per_image,
            adapter: profile.name.clone(),
            backend: profile.backend.to_string(),
            driver: format!("{} {}", profile.driver, profile.driver_info),
            last,
            outcome,
        }
    }

    /// One line for each protocol of nearest neighbours.
    fn knn_lines(&self) -> Vec<[String; 4]> {
        let names = ["uniform1", "uniform20", "weighted20", "weighted200"];
        let of = |name: &str, which: &str| self.knn[name][which].as_f64().map_or("-".into(), |v| format!("{v:.2} %"));
        let teacher = |i: usize| {
            let knn = self.teacher_knn?;
            Some(format!("{:.2} %", [knn.uniform1, knn.uniform20, knn.weighted20, knn.weighted200][i]))
        };
        let lines = names.iter().zip(PROTOCOLS).enumerate();
        lines
            .filter(|_| !self.knn.is_null())
            .map(|(i, (name, protocol))| {
                [protocol.to_string(), of(name, "last"), of(name, "best"), teacher(i).unwrap_or_default()]
            })
            .collect()
    }
}

/// The report as a page; `views` is a sheet of views, `map` where features lie.
pub(super) fn page(
    report: &SslReport,
    settled: &Settled,
    views: Option<&Picture>,
    map: Option<&FeatureMap>,
    class_names: &[String],
) -> Result<Page> {
    let mut page = Page::new(&format!("ssl {}: {}", name(settled.method), report.network), &report.data);
    let outcome = &report.outcome;
    page.facts([
        ("steps", format!("{} of {}, batches of {}", outcome.steps, settled.recipe.steps, settled.recipe.batch)),
        ("loss", format!("{} at first, {} at last", number(outcome.loss_first), number(outcome.loss_last))),
        ("speed", format!("{} images/s on {}", number(report.images_per_s), report.adapter)),
        ("memory", bytes(outcome.peak_device_bytes)),
    ]);
    let of_last = |name: &str| report.last.get(name).and_then(Value::as_f64);
    if let (Some(spread), Some(rank)) = (of_last("spread"), of_last("effective_rank")) {
        page.facts([("features", format!("spread {spread:.2} of 1, effective rank {rank:.1}"))]);
    }
    if let Some(purity) = report.purity {
        page.facts([("neighbours", format!("{purity:.1} % of the image's own class"))]);
    }
    let knn = report.knn_lines();
    if !knn.is_empty() {
        page.heading("Nearest neighbours");
        let mut heads = vec!["protocol", "last", "best on the test images"];
        heads.extend(report.teacher_knn.map(|_| "teacher"));
        let mut table = Table::new(&heads);
        for line in &knn {
            table.row(line[..heads.len()].iter().cloned());
        }
        page.table(&table);
        page.lines(&curves(report, "top-1 of the test images, %", &|figures| {
            let knn = figures.get("knn").and_then(Value::as_object);
            knn.map(|knn| knn.iter().map(|(name, v)| (name.clone(), v.as_f64())).collect()).unwrap_or_default()
        }));
    }
    if let Some(linear) = &report.linear {
        page.heading("Linear probes");
        page.table(&linear.table());
    }
    page.heading("Loss");
    let mut lines = Lines::new("step", "training loss");
    lines.line("loss", outcome.losses.iter().map(|&(step, loss)| (step as f64, loss)));
    page.lines(&lines);
    for (title, y, names) in [
        (
            "What neighbours are",
            "% of neighbours",
            &["purity", "purity_constrained", "same_image", "same_image_constrained"][..],
        ),
        ("How far features are spread", "1: over the whole sphere", &["spread", "bank_spread"]),
        ("Effective rank", "directions", &["effective_rank", "bank_effective_rank"]),
    ] {
        let lines = curves(report, y, &|figures| {
            names.iter().map(|name| (name.replace('_', " "), figures.get(*name).and_then(Value::as_f64))).collect()
        });
        if !lines.is_empty() {
            page.heading(title);
            page.lines(&lines);
        }
    }
    if let Some(map) = map {
        page.heading("Where features lie");
        page.points(&map.chart("t-SNE", class_names));
    }
    if let Some(views) = views {
        page.heading("Views");
        let rest = if settled.method.is_distilled() {
            "views for both networks"
        } else {
            "views for the trained network, then views for the targets"
        };
        page.picture(views, &format!("An image in each row: as it is, then {rest}"))?;
    }
    Ok(page)
}

/// Figures of an evaluation, by name.
type Named = Vec<(String, Option<f64>)>;

/// Figures over steps.
fn curves(report: &SslReport, y: &str, of: &dyn Fn(&Map<String, Value>) -> Named) -> Lines {
    let mut by_name: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (step, figures) in &report.outcome.evaluations {
        for (name, value) in of(figures) {
            let Some(value) = value else { continue };
            match by_name.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push((*step as f64, value)),
                None => by_name.push((name, vec![(*step as f64, value)])),
            }
        }
    }
    let mut lines = Lines::new("step", y);
    for (name, points) in by_name {
        lines.line(&name, points);
    }
    lines
}

/// A method as flags call it.
pub(super) fn name(method: Method) -> String {
    serde_json::to_value(method).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

impl fmt::Display for SslReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { steps, loss_first, loss_last, seconds, peak_device_bytes, .. } = &self.outcome;
        writeln!(f, "{} of {}", name(self.method), self.network)?;
        writeln!(f, "{}", self.data)?;
        writeln!(f, "loss {} at first, {} behind step {steps}", number(*loss_first), number(*loss_last))?;
        for [protocol, last, best, teacher] in self.knn_lines() {
            let teacher = if teacher.is_empty() { teacher } else { format!("; the teacher's {teacher}") };
            writeln!(f, "{protocol}: {last} of {} test images, {best} at best{teacher}", self.n_test)?;
        }
        if let Some(linear) = &self.linear {
            writeln!(f, "{linear}")?;
        }
        if let Some(purity) = self.purity {
            writeln!(f, "{purity:.1} % of neighbours are of the image's own class")?;
        }
        let (speed, peak) = (number(self.images_per_s), bytes(*peak_device_bytes));
        let Self { adapter, backend, .. } = self;
        write!(f, "{speed} images/s, {} s in all, {peak} on {adapter} ({backend})", number(*seconds))
    }
}

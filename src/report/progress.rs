//! How far long work is: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of `total` items on standard error, with rate and time left; dropped quietly.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    label: String,
    unit: &'static str,
    total: u64,
    done: u64,
    skipped: u64,
    note: String,
    start: Instant,
    last_line: Instant,
}

impl Progress {
    /// Progress over `total` items called `unit`; shows nothing if `quiet`.
    #[must_use]
    pub fn new(label: &str, total: u64, unit: &'static str, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::new(total);
            let template = format!("{{msg}} {{bar:30}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.set_message(label.to_string());
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            lines: !terminal && !quiet,
            label: label.to_string(),
            unit,
            total,
            done: 0,
            skipped: 0,
            note: String::new(),
            start: now,
            last_line: now,
        }
    }

    /// `n` items were done before this run.
    pub fn skip(&mut self, n: u64) {
        self.done = n;
        self.skipped = n;
        if let Some(bar) = &self.bar {
            bar.set_position(n);
            bar.reset_eta();
        }
    }

    /// Shows `text` beside the label from now on.
    pub fn note(&mut self, text: &str) {
        self.note = format!(", {text}");
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}{}", self.label, self.note));
        }
    }

    /// `n` more items are done.
    pub fn advance(&mut self, n: u64) {
        self.done += n;
        if let Some(bar) = &self.bar {
            bar.inc(n);
        }
        if self.lines && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = (self.done - self.skipped) as f64 / self.start.elapsed().as_secs_f64();
            let left = self.total.saturating_sub(self.done) as f64 / rate;
            let Self { label, done, total, unit, note, .. } = self;
            eprintln!("{label}: {done}/{total} {unit}, {rate:.1}/s, {left:.0} s left{note}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

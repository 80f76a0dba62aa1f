//! Charts as inline SVG whose text is HTML, so that it stays readable at any width.

use std::fmt::Write;

use super::number;
use super::page::escape;

/// Horizontal bars, one under the other, each with its name and figure above it.
#[derive(Debug, Clone)]
pub struct Bars {
    full: f64,
    format: fn(f64) -> String,
    bars: Vec<(String, f64, String)>,
}

impl Bars {
    /// No bars yet; one of value `full` fills the width, unless another is longer. `format` writes a value.
    #[must_use]
    pub fn new(full: f64, format: fn(f64) -> String) -> Self {
        Self { full, format, bars: Vec::new() }
    }

    /// Adds a bar, with a note behind its figure.
    pub fn bar(&mut self, name: &str, value: f64, note: &str) {
        self.bars.push((name.to_string(), value, note.to_string()));
    }

    pub(super) fn html(&self) -> String {
        let longest = self.bars.iter().map(|bar| bar.1).fold(self.full, f64::max);
        let mut html = String::from("<div class=\"bars\">");
        for (name, value, note) in &self.bars {
            let width = 100.0 * value / longest;
            let _ = write!(
                html,
                "<div><span>{}</span><span class=\"note\">{}</span><b>{}</b>\
                 <svg width=\"100%\" height=\"10\" role=\"img\" aria-label=\"{}\"><rect class=\"track\" width=\"100%\" \
                 height=\"10\" rx=\"3\"/><rect class=\"bar\" width=\"{width:.2}%\" height=\"10\" rx=\"3\"/>",
                escape(name),
                escape(note),
                escape(&(self.format)(*value)),
                escape(&(self.format)(*value)),
            );
            if longest > self.full {
                let at = 100.0 * self.full / longest;
                let _ = write!(html, "<rect class=\"mark\" x=\"{at:.2}%\" width=\"2\" height=\"10\"/>");
            }
            html += "</svg></div>";
        }
        html + "</div>"
    }
}

/// Curves over a common axis, up to [`Lines::MOST`] of them.
#[derive(Debug, Clone)]
pub struct Lines {
    x: String,
    y: String,
    series: Vec<(String, Vec<(f64, f64)>)>,
}

impl Lines {
    /// As many as have a colour of their own.
    pub const MOST: usize = 4;

    /// No curves yet; what the axes show.
    #[must_use]
    pub fn new(x: &str, y: &str) -> Self {
        Self { x: x.to_string(), y: y.to_string(), series: Vec::new() }
    }

    /// Adds a curve through these points; those that are not finite leave a gap, and curves past [`Lines::MOST`] are dropped.
    pub fn line(&mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        if self.series.len() < Self::MOST {
            self.series.push((name.to_string(), points.into_iter().collect()));
        }
    }

    /// Whether there is no curve yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    pub(super) fn html(&self) -> String {
        let points = || self.series.iter().flat_map(|s| &s.1).filter(|(x, y)| x.is_finite() && y.is_finite());
        if points().next().is_none() {
            return "<p class=\"note\">no points yet</p>".into();
        }
        let (xs, ys) = (Axis::over(points().map(|p| p.0)), Axis::over(points().map(|p| p.1)));
        let mut svg = String::new();
        for tick in ys.ticks() {
            let y = 1000.0 * (1.0 - ys.at(tick));
            let _ = write!(svg, "<line class=\"grid\" x1=\"0\" x2=\"1000\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        }
        for (i, (_, points)) in self.series.iter().enumerate() {
            for run in points.split(|(x, y)| !(x.is_finite() && y.is_finite())).filter(|run| !run.is_empty()) {
                let path: Vec<String> = run
                    .iter()
                    .map(|(x, y)| format!("{:.1},{:.1}", 1000.0 * xs.at(*x), 1000.0 * (1.0 - ys.at(*y))))
                    .collect();
                // A single point is drawn as a dot by its round cap.
                let path = if path.len() == 1 { format!("{0} {0}", path[0]) } else { path.join(" ") };
                let _ = write!(svg, "<polyline class=\"line s{i}\" points=\"{path}\"/>");
            }
        }
        let label = |side: &str, at: f64, value: f64| {
            format!("<span style=\"{side}:{:.2}%\">{}</span>", 100.0 * at, escape(&number(value)))
        };
        let left: String = ys.ticks().into_iter().map(|v| label("bottom", ys.at(v), v)).collect();
        let below: String = xs.ticks().into_iter().map(|v| label("left", xs.at(v), v)).collect();
        let keys: String = (self.series.iter().enumerate())
            .map(|(i, (name, _))| format!("<span><i class=\"s{i}\"></i>{}</span>", escape(name)))
            .collect();
        format!(
            "<figure class=\"lines\"><figcaption><b>{}</b><span class=\"keys\">{keys}</span></figcaption>\
             <div class=\"plot\"><div class=\"left\">{left}</div><svg viewBox=\"0 0 1000 1000\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{} over {}\">{svg}</svg>\
             <div class=\"below\">{below}</div></div><div class=\"x\">{}</div></figure>",
            escape(&self.y),
            escape(&self.y),
            escape(&self.x),
            escape(&self.x),
        )
    }
}

/// An axis that ends on its first and last tick.
pub(super) struct Axis {
    first: f64,
    last: f64,
    step: f64,
}

impl Axis {
    pub(super) fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        // The largest of 1, 2, 5 times a power of ten that leaves at least four steps.
        let rough = span / 4.0;
        let ten = 10f64.powf(rough.log10().floor());
        let step = [5.0, 2.0].into_iter().map(|k| k * ten).find(|step| *step <= rough).unwrap_or(ten);
        let first = (low / step).floor() * step;
        Self { first, last: ((high / step).ceil() * step).max(first + step), step }
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let n = ((self.last - self.first) / self.step).round() as usize;
        // From whole numbers of steps, so that 0.1 + 0.2 is not 0.30000000000000004.
        let from = (self.first / self.step).round();
        (0..=n).map(|i| (from + i as f64) * self.step).collect()
    }

    /// Place on the axis, 0 to 1.
    pub(super) fn at(&self, value: f64) -> f64 {
        (value - self.first) / (self.last - self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::{Axis, Bars, Lines};

    #[test]
    fn axes_hold_every_value_between_round_ticks() {
        for (values, want) in [
            (vec![0.0, 1.0], vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (vec![3.0, 97.0], vec![0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
            (vec![5.0, 5.0], vec![5.0, 6.0]),
            (vec![-0.2, 0.1], vec![-0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1]),
        ] {
            let axis = Axis::over(values.iter().copied());
            let ticks = axis.ticks();
            assert!(
                ticks.len() == want.len() && ticks.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-9),
                "{ticks:?}"
            );
            assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(&axis.at(*v))));
        }
    }

    #[test]
    fn what_is_not_finite_leaves_a_gap() {
        let mut lines = Lines::new("step", "loss");
        lines.line("a", [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0)]);
        let html = lines.html();
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
        assert!(Lines::new("x", "y").html().contains("no points"));
    }

    #[test]
    fn bars_share_one_scale_and_names_are_text() {
        let mut bars = Bars::new(1.0, |v| format!("{v}"));
        bars.bar("<b>", 2.0, "");
        bars.bar("c", 0.5, "");
        let html = bars.html();
        assert!(html.contains("&lt;b&gt;") && html.contains("width=\"25.00%\"") && html.contains("x=\"50.00%\""));
    }
}

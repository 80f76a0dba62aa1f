//! Named points over a logarithmic axis.

use std::fmt::Write;

use super::chart::Axis;
use super::number;
use super::page::escape;

/// Named points whose first axis is logarithmic, such as accuracy over trained numbers by method.
#[derive(Debug, Clone)]
pub struct Scatter {
    x: String,
    y: String,
    points: Vec<(String, f64, f64)>,
}

/// Size of the plot, and what stands around it.
const SIZE: (f64, f64) = (1000.0, 560.0);

impl Scatter {
    /// No points yet; what the axes show.
    #[must_use]
    pub fn new(x: &str, y: &str) -> Self {
        Self { x: x.to_string(), y: y.to_string(), points: Vec::new() }
    }

    /// Adds a point; left out unless both are finite and `x` is above 0, where the axis has no place for it.
    pub fn point(&mut self, name: &str, x: f64, y: f64) {
        if x > 0.0 && x.is_finite() && y.is_finite() {
            self.points.push((name.to_string(), x, y));
        }
    }

    pub(super) fn html(&self) -> String {
        if self.points.is_empty() {
            return "<p class=\"note\">no points yet</p>".into();
        }
        let logs = || self.points.iter().map(|(_, x, _)| x.log10());
        // Whole powers of ten.
        let low = logs().fold(f64::INFINITY, f64::min).floor();
        let high = logs().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
        let ys = Axis::over(self.points.iter().map(|(.., y)| *y));
        let at = |x: f64, y: f64| (SIZE.0 * (x.log10() - low) / (high - low), SIZE.1 * (1.0 - ys.at(y)));
        let mut svg = String::new();
        for tick in ys.ticks() {
            let (_, y) = at(1.0, tick);
            let _ = write!(svg, "<line class=\"grid\" x1=\"0\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", SIZE.0);
            let _ = write!(svg, "<text x=\"-12\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 8.0, number(tick));
        }
        for power in low as i32..=high as i32 {
            let value = 10f64.powi(power);
            let (x, _) = at(value, ys.ticks()[0]);
            let _ = write!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{}\"/>", SIZE.1);
            let text = number(value);
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", SIZE.1 + 34.0);
        }
        for (i, (name, x, y)) in self.points.iter().enumerate() {
            let (x, y) = at(*x, *y);
            let _ = write!(svg, "<path class=\"point s{}\" d=\"M{x:.1} {y:.1}h0\"/>", i % 10);
            // Towards the middle, so that no name leaves the plot.
            let (side, anchor) = if x > 0.7 * SIZE.0 { (-14.0, "end") } else { (14.0, "start") };
            let (x, y) = (x + side, y + 8.0);
            let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(name));
        }
        let (x, y) = (escape(&self.x), escape(&self.y));
        format!(
            "<figure class=\"lines points scatter\"><figcaption><b>{y}</b></figcaption><svg viewBox=\"-70 -20 1090 640\" \
             role=\"img\" aria-label=\"{y} over {x}\">{svg}</svg><div class=\"x\">{x}</div></figure>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Scatter;

    #[test]
    fn the_first_axis_is_logarithmic() {
        let mut scatter = Scatter::new("trained <numbers>", "accuracy, %");
        scatter.point("a", 100.0, 10.0);
        scatter.point("b", 1000.0, 20.0);
        scatter.point("c", 10_000.0, 30.0);
        scatter.point("none", 0.0, 30.0);
        scatter.point("nan", 10.0, f64::NAN);
        let html = scatter.html();
        // Equal factors are equal distances.
        for (dot, x) in [("s0", 0), ("s1", 500), ("s2", 1000)] {
            assert!(html.contains(&format!("class=\"point {dot}\" d=\"M{x}.0 ")), "{dot}: {html}");
        }
        assert!(html.contains(">10,000</text>") && html.contains("&lt;numbers&gt;"), "{html}");
        assert!(!html.contains("none") && !html.contains("nan") && !html.contains("inf"), "{html}");
        assert!(Scatter::new("x", "y").html().contains("no points"));
    }
}

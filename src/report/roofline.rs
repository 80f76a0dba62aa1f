//! A roofline: what a machine can do at most at each arithmetic intensity, and where pieces of work stand under it.

use std::fmt::Write;

use super::number;
use super::page::escape;

/// A roof over points, both axes logarithmic: work per byte moved to the right, work per second upwards.
///
/// The roof rises with the memory's rate and ends at the arithmetic's. Its text is HTML, as in the other charts.
#[derive(Debug, Clone)]
pub struct Roofline {
    x: String,
    y: String,
    stream_unit: String,
    peak: f64,
    stream: f64,
    peaks: Vec<(String, f64)>,
    streams: Vec<(String, f64)>,
    groups: Vec<String>,
    points: Vec<Point>,
}

#[derive(Debug, Clone)]
struct Point {
    group: usize,
    x: f64,
    y: f64,
    title: String,
}

impl Roofline {
    /// As many groups as have a colour of their own.
    pub const MOST: usize = 4;

    /// No points yet. What the axes show, as in `FLOP per byte` and `GFLOP/s`, the unit of a memory rate, and the groups of
    /// points, up to [`Roofline::MOST`]. The first peak and the first stream that are added make the roof.
    #[must_use]
    pub fn new(x: &str, y: &str, stream_unit: &str, groups: &[&str]) -> Self {
        Self {
            x: x.to_string(),
            y: y.to_string(),
            stream_unit: stream_unit.to_string(),
            peak: 0.0,
            stream: 0.0,
            peaks: Vec::new(),
            streams: Vec::new(),
            groups: groups.iter().take(Self::MOST).map(ToString::to_string).collect(),
            points: Vec::new(),
        }
    }

    /// Adds the most work per second, in the unit of y; one that is not a positive number is left out.
    pub fn peak(&mut self, name: &str, rate: f64) {
        if drawn(rate) {
            self.peak = if self.peaks.is_empty() { rate } else { self.peak };
            self.peaks.push((name.to_string(), rate));
        }
    }

    /// Adds the most bytes per second: the unit of y over that of x. One that is not a positive number is left out.
    pub fn stream(&mut self, name: &str, rate: f64) {
        if drawn(rate) {
            self.stream = if self.streams.is_empty() { rate } else { self.stream };
            self.streams.push((name.to_string(), rate));
        }
    }

    /// Adds a point of a group, by its index; `title` shows where the pointer rests. A point that is not two positive
    /// numbers has no place on the axes and is left out.
    pub fn point(&mut self, group: usize, x: f64, y: f64, title: &str) {
        if drawn(x) && drawn(y) {
            let group = group.min(self.groups.len().saturating_sub(1));
            self.points.push(Point { group, x, y, title: title.to_string() });
        }
    }

    pub(super) fn html(&self) -> String {
        if self.peaks.is_empty() || self.streams.is_empty() {
            return "<p class=\"note\">no roof: the peaks were not measured</p>".into();
        }
        let highest = self.peaks.iter().map(|peak| peak.1).fold(0.0, f64::max);
        let ridge = self.peak / self.stream;
        let xs = Decades::over(self.points.iter().map(|p| p.x).chain([ridge / 4.0, 4.0 * highest / self.stream]));
        let ys = Decades::over(self.points.iter().map(|p| p.y).chain([self.peak / 100.0, 1.3 * highest]));
        let mut svg = String::new();
        let mut line = |class: &str, points: &[(f64, f64)]| {
            let at = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", 1000.0 * xs.at(*x), 1000.0 * (1.0 - ys.at(*y)));
            let points: Vec<String> = points.iter().map(at).collect();
            let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        };
        for tick in xs.ticks() {
            line("grid", &[(tick, ys.first), (tick, ys.last)]);
        }
        for tick in ys.ticks() {
            line("grid", &[(xs.first, tick), (xs.last, tick)]);
        }
        let mut names = String::new();
        let mut taken: Vec<f64> = Vec::new();
        for (i, (name, rate)) in self.peaks.iter().enumerate() {
            let path = [(ridge, self.peak), (rate / self.stream, *rate), (xs.last, *rate)];
            // A peak above the roof goes on along the memory's rate.
            line(if i == 0 { "roof" } else { "ceiling" }, if *rate > self.peak { &path } else { &path[1..] });
            let at = ys.at(*rate);
            // Two names closer than a line of text would cover each other; the lower stays with its line.
            let below = taken.iter().any(|other| (0.0..0.055).contains(&(other - at)));
            taken.push(at);
            let shift = if below { "transform:translateY(100%);" } else { "" };
            let _ = write!(
                names,
                "<span class=\"peak\" style=\"{shift}bottom:{:.2}%\">{} {} {}</span>",
                100.0 * at,
                escape(name),
                escape(&number(*rate)),
                escape(&self.y)
            );
        }
        for (i, (name, rate)) in self.streams.iter().enumerate() {
            let start = xs.first.max(ys.first / rate);
            let end = xs.last.min(self.peak / rate);
            if start >= end {
                continue;
            }
            line(if i == 0 { "roof" } else { "ceiling" }, &[(start, rate * start), (end, rate * end)]);
            // Under the line near its foot, where the line has left to the right, one name above the other.
            let height = ys.value((ys.at(rate * start) + 0.02).max(0.07 + 0.065 * i as f64));
            let _ = write!(
                names,
                "<span class=\"stream\" style=\"left:{:.2}%;bottom:{:.2}%\">{} {} {}</span>",
                100.0 * xs.at(height / rate),
                100.0 * ys.at(height),
                escape(name),
                escape(&number(*rate)),
                escape(&self.stream_unit)
            );
        }
        for point in &self.points {
            let (x, y) = (1000.0 * xs.at(point.x), 1000.0 * (1.0 - ys.at(point.y)));
            // A line of no length, drawn as a dot by its round caps: a circle would be stretched with the plot.
            let _ = write!(
                svg,
                "<polyline class=\"dot s{}\" points=\"{x:.1},{y:.1} {x:.1},{y:.1}\"><title>{}</title></polyline>",
                point.group,
                escape(&point.title)
            );
        }
        self.figure(&svg, &names, &xs, &ys)
    }

    /// The plot with its frame of text.
    fn figure(&self, svg: &str, names: &str, xs: &Decades, ys: &Decades) -> String {
        let label = |side: &str, at: f64, value: f64| {
            format!("<span style=\"{side}:{:.2}%\">{}</span>", 100.0 * at, escape(&number(value)))
        };
        let left: String = ys.ticks().into_iter().map(|v| label("bottom", ys.at(v), v)).collect();
        let below: String = xs.ticks().into_iter().map(|v| label("left", xs.at(v), v)).collect();
        let used = |group: &usize| self.points.iter().any(|point| point.group == *group);
        let keys: String = (0..self.groups.len())
            .filter(used)
            .map(|i| format!("<span><i class=\"s{i}\"></i>{}</span>", escape(&self.groups[i])))
            .collect();
        format!(
            "<figure class=\"lines roofline\"><figcaption><b>{y}</b><span class=\"keys\">{keys}</span></figcaption>\
             <div class=\"plot\"><div class=\"left\">{left}</div><svg viewBox=\"0 0 1000 1000\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{y} over {x}\">{svg}</svg>\
             <div class=\"names\">{names}</div><div class=\"below\">{below}</div></div><div class=\"x\">{x}</div></figure>",
            y = escape(&self.y),
            x = escape(&self.x),
        )
    }
}

/// Whether a number has a place on a logarithmic axis that `f64` can hold the ends of.
fn drawn(value: f64) -> bool {
    (1e-30..1e30).contains(&value)
}

/// A logarithmic axis that ends on 1, 2 or 5 times a power of ten.
struct Decades {
    first: f64,
    last: f64,
}

impl Decades {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), v| (low.min(v), high.max(v)));
        let round = |exponent: f64| [1.0, 2.0, 5.0, 10.0].map(|k| k * 10f64.powf(exponent));
        // The factors keep a value that is round itself on the axis, whatever the last bit of its logarithm.
        let below = round(low.log10().floor()).into_iter().rev().find(|v| *v <= low * (1.0 + 1e-9));
        let above = round(high.log10().floor()).into_iter().find(|v| *v >= high * (1.0 - 1e-9));
        let (first, last) = (below.unwrap_or(low), above.unwrap_or(10.0 * high));
        Self { first, last: if last > first { last } else { 10.0 * first } }
    }

    /// Powers of ten, and where there are fewer than three also 2 and 5 times those.
    fn ticks(&self) -> Vec<f64> {
        let (from, to) = (self.first.log10().floor() as i32, self.last.log10().ceil() as i32);
        let inside = |v: &f64| (self.first * 0.999..=self.last * 1.001).contains(v);
        let tens = (from..=to).map(|k| 10f64.powi(k));
        let whole: Vec<f64> = tens.clone().filter(inside).collect();
        if whole.len() > 2 {
            return whole;
        }
        tens.flat_map(|ten| [ten, 2.0 * ten, 5.0 * ten]).filter(inside).collect()
    }

    /// Place on the axis, 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value / self.first).ln() / (self.last / self.first).ln()
    }

    /// The value at a place.
    fn value(&self, at: f64) -> f64 {
        self.first * (self.last / self.first).powf(at)
    }
}

#[cfg(test)]
mod tests {
    use super::{Decades, Roofline};

    #[test]
    fn logarithmic_axes_hold_their_values_between_round_ends() {
        for (values, ends, ticks) in [
            (vec![0.3, 70.0], (0.2, 100.0), vec![1.0, 10.0, 100.0]),
            (vec![3.0, 30.0], (2.0, 50.0), vec![2.0, 5.0, 10.0, 20.0, 50.0]),
            (vec![1.0, 1.0], (1.0, 10.0), vec![1.0, 2.0, 5.0, 10.0]),
            (vec![0.001, 1000.0], (0.001, 1000.0), vec![0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]),
        ] {
            let axis = Decades::over(values.iter().copied());
            assert!((axis.first / ends.0 - 1.0).abs() < 1e-9 && (axis.last / ends.1 - 1.0).abs() < 1e-9, "{values:?}");
            let got = axis.ticks();
            let alike = got.iter().zip(&ticks).all(|(a, b)| (a / b - 1.0).abs() < 1e-9);
            assert!(got.len() == ticks.len() && alike, "{got:?}");
            assert!(values.iter().all(|v| (-1e-9..=1.0 + 1e-9).contains(&axis.at(*v))));
            assert!((axis.value(axis.at(values[0])) / values[0] - 1.0).abs() < 1e-9);
        }
    }

    /// Axes over 0.1..100 and 1..1000, so that places can be told by hand.
    fn chart() -> Roofline {
        let mut chart = Roofline::new("FLOP per byte", "GFLOP/s", "GB/s", &["a", "<b>"]);
        chart.peak("fma", 100.0);
        chart.stream("memory", 10.0);
        chart.point(0, 0.1, 1.0, "at the foot");
        chart.point(1, 100.0, 10.0, "<i>");
        chart
    }

    #[test]
    fn the_roof_bends_where_memory_and_arithmetic_meet() {
        let html = chart().html();
        // x: 0.1 to 100, y: 1 to 200; the knee at 10 FLOP per byte is two thirds along.
        let at = |y: f64| format!("{:.1}", 1000.0 * (1.0 - y.ln() / 200f64.ln()));
        let knee = format!("666.7,{}", at(100.0));
        assert!(html.contains(&format!("class=\"roof\" points=\"{knee} 1000.0,{}\"", at(100.0))), "{html}");
        assert!(html.contains(&format!("class=\"roof\" points=\"0.0,1000.0 {knee}\"")), "{html}");
        let mut higher = chart();
        higher.peak("f16", 150.0);
        let html = higher.html();
        let bend = format!("{:.1},{}", 1000.0 * 150f64.ln() / 1000f64.ln(), at(150.0));
        assert!(html.contains(&format!("class=\"ceiling\" points=\"{knee} {bend} 1000.0,{}\"", at(150.0))), "{html}");
        let html = chart().html();
        assert!(html.contains("points=\"0.0,1000.0 0.0,1000.0\"><title>at the foot</title>"), "{html}");
        assert!(html.contains("fma 100 GFLOP/s") && html.contains("memory 10 GB/s"), "{html}");
        assert!(html.contains("&lt;b&gt;") && html.contains("<title>&lt;i&gt;</title>"), "{html}");
    }

    #[test]
    fn what_has_no_logarithm_is_left_out() {
        let mut chart = chart();
        for (x, y) in [(0.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (-1.0, 1.0)] {
            chart.point(0, x, y, "nowhere");
        }
        chart.peak("none", 0.0);
        let html = chart.html();
        assert_eq!(html.matches("class=\"dot").count(), 2);
        assert!(!html.contains("nowhere") && !html.contains("NaN") && !html.contains("inf"), "{html}");
        assert!(Roofline::new("x", "y", "z", &[]).html().contains("no roof"));
        // Points without a group of theirs are drawn all the same.
        let mut bare = Roofline::new("x", "y", "z", &[]);
        bare.peak("p", 1.0);
        bare.stream("s", 1.0);
        bare.point(3, 1.0, 1.0, "t");
        assert_eq!(bare.html().matches("class=\"dot s0").count(), 1);
    }
}

//! Points in the plane, by group.

use std::fmt::Write;

use super::page::escape;

/// Points in the plane whose groups have colours, such as a map of features by class. Both axes have one scale and no unit.
#[derive(Debug, Clone)]
pub struct Points {
    title: String,
    groups: Vec<(String, Vec<(f64, f64)>)>,
}

impl Points {
    /// As many groups as have a colour of their own; the others are grey.
    pub const MOST: usize = 10;

    /// No points yet; what they are.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: title.to_string(), groups: Vec::new() }
    }

    /// Adds a group; points that are not finite are left out.
    pub fn group(&mut self, name: &str, points: impl IntoIterator<Item = (f64, f64)>) {
        let finite = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        self.groups.push((name.to_string(), finite.collect()));
    }

    pub(super) fn html(&self) -> String {
        let points = || self.groups.iter().flat_map(|(_, points)| points);
        if points().next().is_none() {
            return "<p class=\"note\">no points yet</p>".into();
        }
        let range = |axis: fn(&(f64, f64)) -> f64| {
            points().map(axis).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (xs, ys) = (range(|p| p.0), range(|p| p.1));
        let span = (xs.1 - xs.0).max(ys.1 - ys.0);
        let scale = if span > 0.0 { 1000.0 / span } else { 0.0 };
        // The middle of each axis in the middle of the square.
        let at = |v: f64, (low, high): (f64, f64)| 500.0 + scale * (v - (low + high) / 2.0);
        let mut svg = String::new();
        let mut keys = String::new();
        // Grey first, so that it lies behind.
        let (own, rest) = self.groups.split_at(self.groups.len().min(Self::MOST));
        let mut draw = |class: &str, points: &mut dyn Iterator<Item = &(f64, f64)>| {
            let mut path = String::new();
            for (x, y) in points {
                // A line of no length is drawn as a dot by its round caps.
                let _ = write!(path, "M{:.1} {:.1}h0", at(*x, xs), 1000.0 - at(*y, ys));
            }
            if !path.is_empty() {
                let _ = write!(svg, "<path class=\"point {class}\" d=\"{path}\"/>");
            }
        };
        draw("rest", &mut rest.iter().flat_map(|(_, points)| points));
        for (i, (name, points)) in own.iter().enumerate() {
            draw(&format!("s{i}"), &mut points.iter());
            let _ = write!(keys, "<span><i class=\"s{i}\"></i>{}</span>", escape(name));
        }
        if !rest.is_empty() {
            let _ = write!(keys, "<span><i class=\"rest\"></i>{} more</span>", rest.len());
        }
        let title = escape(&self.title);
        format!(
            "<figure class=\"lines points\"><figcaption><b>{title}</b><span class=\"keys\">{keys}</span></figcaption>\
             <svg viewBox=\"-10 -10 1020 1020\" role=\"img\" aria-label=\"{title}\">{svg}</svg></figure>"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Points;

    #[test]
    fn both_axes_have_one_scale() {
        let mut points = Points::new("a <map>");
        points.group("wide", [(-2.0, 1.0), (2.0, 1.0), (f64::NAN, 0.0), (0.0, f64::INFINITY)]);
        points.group("high", [(0.0, 2.0)]);
        let html = points.html();
        // The span of 4 across is 1000, so a step of 1 up is 250, about the middle of the square.
        assert!(html.contains("class=\"point s0\" d=\"M0.0 625.0h0M1000.0 625.0h0\""), "{html}");
        assert!(html.contains("class=\"point s1\" d=\"M500.0 375.0h0\""), "{html}");
        assert!(html.contains("a &lt;map&gt;") && !html.contains("NaN") && !html.contains("inf"), "{html}");
    }

    #[test]
    fn groups_past_the_colours_are_grey() {
        let mut points = Points::new("map");
        (0..13).for_each(|i| points.group(&format!("class {i}"), [(f64::from(i), 0.0)]));
        let html = points.html();
        assert_eq!(html.matches("<path").count(), Points::MOST + 1);
        assert!(html.contains("3 more") && html.contains("class 9<") && !html.contains("class 10"), "{html}");
        assert!(html.find("point rest").unwrap() < html.find("point s0").unwrap());
    }

    #[test]
    fn one_place_is_no_scale() {
        let mut points = Points::new("map");
        assert!(points.html().contains("no points"));
        points.group("a", [(3.0, 3.0), (3.0, 3.0)]);
        assert!(points.html().contains("M500.0 500.0h0"));
    }
}

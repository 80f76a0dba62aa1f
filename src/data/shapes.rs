//! `shapes`: ten classes of figures, 32 x 32 RGB, drawn on the spot from a seed.
//!
//! One figure stands on each image at a random place, size, angle, stretch and slant, in random colours that are sometimes close to
//! the ground's. Ground and figure are shaded, small marks lie around it, half of the images have something lying over the
//! figure, and there is noise. Pixels say little, edges and their arrangement say all, so that networks can be told apart on it:
//! of 1,000 test images the nearest of 5,000 training images in pixel space names 12.8 % rightly; a bare network of four
//! convolutions (16 to 64 channels) was at 71 % after 24 passes over 10,000 and still rising.
//!
//! Image `i` of a split depends on the seed and `i` alone, so a shorter set is the beginning of a longer one, and class `i % 10`
//! keeps every beginning balanced.

use rayon::prelude::*;

use super::images::{ImageSet, Split, grouped};
use crate::philox::{Philox, stream};

/// Names of the classes.
pub const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "star", "cross", "crescent", "stripes", "checker", "spiral"];
/// Training images, where no number is given.
pub const N_TRAIN: usize = 10_000;
/// Test images, where no number is given.
pub const N_TEST: usize = 2_000;
/// Bytes of one image.
pub const N_BYTES: usize = SIDE * SIDE * 3;

/// Pixels across and down.
const SIDE: usize = 32;
/// Samples across and down in one pixel where an edge may pass.
const N_SAMPLES: usize = 4;

type Rgb = [f32; 3];

/// Draws `n` images of a split, `[n, 32, 32, 3]` in 10 classes; the same for the same seed on every machine.
#[must_use]
pub fn shapes(n: usize, seed: u64, split: Split) -> ImageSet {
    let stream = match split {
        Split::Train => stream::SHAPES_TRAIN,
        Split::Test => stream::SHAPES_TEST,
    };
    let mut images = vec![0; n * N_BYTES];
    images.par_chunks_exact_mut(N_BYTES).enumerate().for_each(|(i, image)| {
        draw(i % CLASSES.len(), &mut Philox::new(seed, stream, i as u32), image);
    });
    ImageSet {
        images,
        height: SIDE,
        width: SIDE,
        channels: 3,
        labels: (0..n).map(|i| (i % CLASSES.len()) as u32).collect(),
        class_names: CLASSES.iter().map(|name| (*name).to_string()).collect(),
        n_classes: CLASSES.len(),
        skipped: Vec::new(),
        name: "shapes".to_string(),
        source: format!("shapes, seed {seed}: {} {} images", grouped(n as u64), split.noun()),
    }
}

/// One image: ground, marks, figure, cover, noise, each over the last.
fn draw(class: usize, random: &mut Philox, image: &mut [u8]) {
    let ground = colour(random);
    // One figure in four is hard to see.
    let contrast = if chance(random, 0.25) { between(random, 0.18, 0.28) } else { between(random, 0.3, 0.8) };
    let front = colour_at(random, ground, contrast);
    let ground_shade = Shade::new(random, ground, 0.3 * contrast);
    let front_shade = Shade::new(random, front, 0.3 * contrast);

    let mut canvas: Vec<Rgb> =
        (0..SIDE * SIDE).map(|i| ground_shade.at((i % SIDE) as f32, (i / SIDE) as f32)).collect();
    for _ in 0..random.below(5) {
        // Marks in the figure's colour too, so that the colour alone does not cut it out.
        let colour = if chance(random, 0.5) { front } else { colour(random) };
        Mark::small(random).paint(&mut canvas, colour);
    }
    let figure = Figure::new(random, class);
    paint(&mut canvas, figure.bounds(), |x, y| figure.covers(x, y), |x, y| front_shade.at(x, y));
    if chance(random, 0.5) {
        let colour = if chance(random, 0.5) { ground } else { colour(random) };
        Mark::over(random, &figure).paint(&mut canvas, colour);
    }

    // Up to 12 % of the range, and never so much that a faint figure drowns.
    let noise = between(random, 0.0, 0.12f32.min(0.4 * contrast));
    for (pixel, value) in image.iter_mut().zip(canvas.iter().flatten()) {
        // The sum of two uniform halves of one word: a triangle of mean 0 and standard deviation 0.41.
        let word = random.next_u32();
        let triangle = ((word & 0xffff) + (word >> 16)) as f32 / 65_536.0 - 1.0;
        *pixel = ((value + noise * triangle).clamp(0.0, 1.0) * 255.0).round() as u8;
    }
}

fn between(random: &mut Philox, low: f32, high: f32) -> f32 {
    low + (high - low) * random.uniform_f32()
}

fn chance(random: &mut Philox, share: f32) -> bool {
    random.uniform_f32() < share
}

fn colour(random: &mut Philox) -> Rgb {
    [(); 3].map(|()| between(random, 0.05, 0.95))
}

/// A colour `contrast` away from another as the eye sees it, along the grey axis if chance finds no other.
fn colour_at(random: &mut Philox, from: Rgb, contrast: f32) -> Rgb {
    // Squared differences weigh by how bright a channel looks; the weights sum to 3, so that black to white is 1.73.
    const WEIGHTS: Rgb = [0.9, 1.77, 0.33];
    for _ in 0..16 {
        let to = colour(random);
        let squared: f32 = (0..3).map(|i| WEIGHTS[i] * (from[i] - to[i]) * (from[i] - to[i])).sum();
        let scale = contrast / squared.sqrt().max(1e-3);
        let to: Rgb = std::array::from_fn(|i| from[i] + (to[i] - from[i]) * scale);
        if to.iter().all(|value| (0.0..=1.0).contains(value)) {
            return to;
        }
    }
    let towards = if from.iter().sum::<f32>() > 1.5 { -contrast } else { contrast };
    from.map(|value| (value + towards / 1.732).clamp(0.0, 1.0))
}

/// A colour that varies over the image, along a line or in clouds.
struct Shade {
    colour: Rgb,
    change: Rgb,
    kind: ShadeKind,
}

enum ShadeKind {
    /// Change per pixel across and down.
    Slope(f32, f32),
    /// Values -1..=1 on a grid of this many pixels.
    Clouds(f32, Vec<f32>),
}

/// Grid points across and down that clouds of the smallest cell need.
const N_CLOUDS: usize = 10;

impl Shade {
    /// Shades that stay within `amount` of `colour` in each channel.
    fn new(random: &mut Philox, colour: Rgb, amount: f32) -> Self {
        let change = [(); 3].map(|()| between(random, -amount, amount));
        let kind = if chance(random, 0.5) {
            let (across, down) = (between(random, -1.0, 1.0), between(random, -1.0, 1.0));
            ShadeKind::Slope(across / SIDE as f32, down / SIDE as f32)
        } else {
            let cell = between(random, 4.0, 12.0);
            ShadeKind::Clouds(cell, (0..N_CLOUDS * N_CLOUDS).map(|_| between(random, -1.0, 1.0)).collect())
        };
        Self { colour, change, kind }
    }

    fn at(&self, x: f32, y: f32) -> Rgb {
        let amount = match &self.kind {
            ShadeKind::Slope(across, down) => (x - SIDE as f32 / 2.0) * across + (y - SIDE as f32 / 2.0) * down,
            ShadeKind::Clouds(cell, grid) => {
                let (x, y) = (x / cell, y / cell);
                let (column, row) = (x as usize, y as usize);
                let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
                let (u, v) = (smooth(x.fract()), smooth(y.fract()));
                let corner = |dx: usize, dy: usize| grid[(row + dy) * N_CLOUDS + column + dx];
                let upper = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * u;
                let lower = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * u;
                upper + (lower - upper) * v
            }
        };
        std::array::from_fn(|i| self.colour[i] + self.change[i] * amount)
    }
}

/// Centre and reach of something on the image, in pixels.
type Bounds = (f32, f32, f32);

/// Lays `colour` over the canvas by the share of each pixel's samples that `covers` takes.
fn paint(canvas: &mut [Rgb], bounds: Bounds, covers: impl Fn(f32, f32) -> bool, colour: impl Fn(f32, f32) -> Rgb) {
    let (x, y, reach) = bounds;
    // A pixel whose middle is further out than this has no sample within reach.
    let far = (reach + 0.71) * (reach + 0.71);
    for (i, pixel) in canvas.iter_mut().enumerate() {
        let (left, top) = ((i % SIDE) as f32, (i / SIDE) as f32);
        let (dx, dy) = (left + 0.5 - x, top + 0.5 - y);
        if dx * dx + dy * dy > far {
            continue;
        }
        let step = 1.0 / N_SAMPLES as f32;
        let offset = |k: usize| (k as f32 + 0.5) * step;
        let n_covered = (0..N_SAMPLES * N_SAMPLES)
            .filter(|k| covers(left + offset(k % N_SAMPLES), top + offset(k / N_SAMPLES)))
            .count();
        if n_covered > 0 {
            let share = n_covered as f32 * step * step;
            let over = colour(left, top);
            *pixel = std::array::from_fn(|i| pixel[i] + (over[i] - pixel[i]) * share);
        }
    }
}

/// A dot or a bar.
struct Mark {
    x: f32,
    y: f32,
    /// Direction of the bar, of length 1.
    along: (f32, f32),
    half_length: f32,
    half_width: f32,
}

impl Mark {
    /// Something small anywhere.
    fn small(random: &mut Philox) -> Self {
        let (x, y) = (between(random, 0.0, SIDE as f32), between(random, 0.0, SIDE as f32));
        let along = direction(random);
        let half_length = if chance(random, 0.5) { 0.0 } else { between(random, 2.0, 4.0) };
        Self { x, y, along, half_length, half_width: between(random, 0.7, 1.6) }
    }

    /// A bar or a blot that hides a part of a figure, away from its middle.
    fn over(random: &mut Philox, figure: &Figure) -> Self {
        let (outward, along) = (direction(random), direction(random));
        let from_middle = figure.radius * between(random, 0.4, 0.9);
        let (half_length, half_width) = if chance(random, 0.5) {
            (SIDE as f32, between(random, 0.8, 1.6))
        } else {
            (0.0, between(random, 2.0, 4.0))
        };
        Self {
            x: figure.x + outward.0 * from_middle,
            y: figure.y + outward.1 * from_middle,
            along,
            half_length,
            half_width,
        }
    }

    fn paint(&self, canvas: &mut [Rgb], colour: Rgb) {
        let covers = |x: f32, y: f32| {
            let (dx, dy) = (x - self.x, y - self.y);
            let along = (dx * self.along.0 + dy * self.along.1).clamp(-self.half_length, self.half_length);
            let (dx, dy) = (dx - along * self.along.0, dy - along * self.along.1);
            dx * dx + dy * dy < self.half_width * self.half_width
        };
        paint(canvas, (self.x, self.y, self.half_length + self.half_width), covers, |_, _| colour);
    }
}

/// A direction of length 1, all angles alike.
fn direction(random: &mut Philox) -> (f32, f32) {
    // From a point in the disc rather than an angle: square roots round alike everywhere, sines do not.
    for _ in 0..32 {
        let (x, y) = (between(random, -1.0, 1.0), between(random, -1.0, 1.0));
        let squared = x * x + y * y;
        if (0.01..=1.0).contains(&squared) {
            let scale = squared.sqrt().recip();
            return (x * scale, y * scale);
        }
    }
    (1.0, 0.0)
}

/// A figure of one class, placed.
struct Figure {
    class: usize,
    x: f32,
    y: f32,
    /// Pixels from the middle to the outermost point before stretching.
    radius: f32,
    /// From pixels about the middle to the figure's own frame, where it lies in the unit disc; row by row.
    to_unit: [f32; 4],
    /// Proportions, 0..1, used by each class in its own way.
    style: [f32; 3],
}

impl Figure {
    fn new(random: &mut Philox, class: usize) -> Self {
        let radius = between(random, 8.0, 13.0);
        let room = SIDE as f32 / 2.0 - 0.75 * radius;
        let x = SIDE as f32 / 2.0 + between(random, -room, room);
        let y = SIDE as f32 / 2.0 + between(random, -room, room);
        let (cos, sin) = direction(random);
        let (cos_2, sin_2) = direction(random);
        let stretch = between(random, 0.72, 1.0);
        // Turn, squeeze across, turn again: any angle, with the squeeze at any angle to the figure.
        let (a, b, c, d) = (cos, sin, -sin / stretch, cos / stretch);
        let turned = [cos_2 * a + sin_2 * c, cos_2 * b + sin_2 * d, cos_2 * c - sin_2 * a, cos_2 * d - sin_2 * b];
        let to_unit = turned.map(|value| value / radius);
        let style = [(); 3].map(|()| random.uniform_f32());
        Self { class, x, y, radius, to_unit, style }
    }

    fn bounds(&self) -> Bounds {
        (self.x, self.y, self.radius)
    }

    /// Whether the figure covers a point of the image, in pixels.
    fn covers(&self, x: f32, y: f32) -> bool {
        let (dx, dy) = (x - self.x, y - self.y);
        let u = self.to_unit[0] * dx + self.to_unit[1] * dy;
        let v = self.to_unit[2] * dx + self.to_unit[3] * dy;
        let squared = u * u + v * v;
        let [a, b, c] = self.style;
        let between = |low: f32, high: f32, share: f32| low + (high - low) * share;
        if squared > 1.0 {
            return false;
        }
        match self.class {
            0 => squared < 0.9 * 0.9,
            1 => {
                let inner = between(0.45, 0.7, a);
                squared < 0.95 * 0.95 && squared > inner * inner
            }
            2 => u.abs().max(v.abs()) < 0.7,
            // Three half planes at 120 degrees.
            3 => v > -0.5 && (-0.5 * v + 0.866_025_4 * u) > -0.5 && (-0.5 * v - 0.866_025_4 * u) > -0.5,
            4 => in_star(u, v, between(0.38, 0.5, a)),
            5 => {
                let width = between(0.16, 0.28, a);
                u.abs().min(v.abs()) < width && u.abs().max(v.abs()) < 0.92
            }
            6 => {
                let (shift, hole) = (between(0.35, 0.55, a), between(0.7, 0.8, b));
                squared < 0.95 * 0.95 && (u - shift) * (u - shift) + v * v > hole * hole
            }
            7 => in_frame(u, v, c) && ((u * between(1.6, 2.2, a) + b).rem_euclid(1.0)) < 0.5,
            8 => {
                let cells = between(1.9, 2.6, a);
                let parity = (u * cells + b).floor() + (v * cells + 1.7 * b).floor();
                in_frame(u, v, c) && parity.rem_euclid(2.0) < 0.5
            }
            _ => in_spiral(u, v, squared.sqrt(), between(1.7, 2.3, a), b),
        }
    }
}

/// What stripes and checkers fill: a disc or a square.
fn in_frame(u: f32, v: f32, style: f32) -> bool {
    if style < 0.5 { u * u + v * v < 0.95 * 0.95 } else { u.abs().max(v.abs()) < 0.7 }
}

/// A star of five points at radius 1, with its notches at radius `inner`.
fn in_star(u: f32, v: f32, inner: f32) -> bool {
    // Directions of the points, 72 degrees apart, and of the notches between them.
    const POINTS: [(f32, f32); 5] = [
        (0.0, 1.0),
        (-0.951_056_5, 0.309_017),
        (-0.587_785_25, -0.809_017),
        (0.587_785_25, -0.809_017),
        (0.951_056_5, 0.309_017),
    ];
    // Fold the plane onto the wedge about the nearest point, then onto its half.
    let along_of = |(x, y): (f32, f32)| u * x + v * y;
    let (x, y) = POINTS.into_iter().max_by(|&a, &b| along_of(a).total_cmp(&along_of(b))).unwrap_or(POINTS[0]);
    let (along, across) = (u * x + v * y, (u * y - v * x).abs());
    // The edge runs from the point (1, 0) to the notch at 36 degrees.
    let (notch_along, notch_across) = (inner * 0.809_017, inner * 0.587_785_25);
    across * (1.0 - notch_along) < (1.0 - along) * notch_across
}

/// An arm that winds `turns` times around the middle, left- or right-handed by `style`.
fn in_spiral(u: f32, v: f32, radius: f32, turns: f32, style: f32) -> bool {
    let v = if style < 0.5 { v } else { -v };
    radius < 0.98 && (radius * turns - turns_at(u, v)).rem_euclid(1.0) < 0.5
}

/// The angle of a direction in turns, -0.5..=0.5, within 0.001. The system's arc tangent may round differently elsewhere.
fn turns_at(u: f32, v: f32) -> f32 {
    let (small, large) = (u.abs().min(v.abs()), u.abs().max(v.abs()));
    let t = small / large.max(f32::MIN_POSITIVE);
    // atan t is near t (pi/4 + 0.273 (1 - t)) for t in 0..=1.
    let eighth = t * (0.125 + 0.273 / std::f32::consts::TAU * (1.0 - t));
    let quarter = if v.abs() > u.abs() { 0.25 - eighth } else { eighth };
    let half = if u < 0.0 { 0.5 - quarter } else { quarter };
    if v < 0.0 { -half } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::digest;

    #[test]
    fn shapes_repeat_and_nest() {
        let long = shapes(40, 7, Split::Train);
        assert_eq!(shapes(40, 7, Split::Train), long);
        assert_eq!(shapes(25, 7, Split::Train).images, long.images[..25 * N_BYTES]);
        assert_eq!(long.class_counts(), [4; 10]);
        assert_eq!(long.image_bytes(), N_BYTES);
        assert_ne!(shapes(40, 8, Split::Train).images, long.images);
        assert_ne!(shapes(40, 7, Split::Test).images, long.images);
    }

    // Figures measured on this set stay comparable only as long as it stays what it is.
    #[test]
    fn shapes_are_pinned() {
        assert_eq!(digest(&shapes(200, 0, Split::Train).images), 9410959131447255466);
        assert_eq!(digest(&shapes(200, 1, Split::Test).images), 12233980060066375869);
    }

    #[test]
    fn shapes_defeat_nearest_neighbours() {
        let (known, asked) = (shapes(1000, 0, Split::Train), shapes(300, 0, Split::Test));
        let distance =
            |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| u32::from(a.abs_diff(b)).pow(2)).sum::<u32>();
        let n_right = (0..asked.len())
            .into_par_iter()
            .filter(|&i| {
                let near = (0..known.len()).min_by_key(|&j| distance(asked.image(i).unwrap(), known.image(j).unwrap()));
                known.labels[near.unwrap()] == asked.labels[i]
            })
            .count();
        // Chance is 30 of 300, with a standard deviation of 5.
        assert!(n_right <= 60, "{n_right} of 300");
    }

    /// A figure at the origin, one unit a pixel, unturned.
    fn upright(class: usize, style: [f32; 3]) -> Figure {
        Figure { class, x: 0.0, y: 0.0, radius: 1.0, to_unit: [1.0, 0.0, 0.0, 1.0], style }
    }

    /// Share of the square about the unit disc that a figure covers.
    fn share(figure: &Figure) -> f32 {
        let n = 400;
        let at = |k: usize| (k as f32 + 0.5) / n as f32 * 2.0 - 1.0;
        (0..n * n).filter(|&k| figure.covers(at(k % n), at(k / n))).count() as f32 / (n * n) as f32
    }

    #[test]
    fn figures_have_their_area() {
        let pi = std::f32::consts::PI;
        // A star of radius 1 and notches 0.38 is ten triangles of 0.5 x 0.38 x sin 36; the disc of 0.95 under the stripes has 2.84.
        let star = 10.0 * 0.5 * 0.38 * 0.587_785;
        let want = [
            (0, pi * 0.81),
            (1, pi * (0.9025 - 0.2025)),
            (2, 1.96),
            (3, 0.75 * 3f32.sqrt()),
            (4, star),
            (5, 4.0 * 0.16 * 0.92 * 2.0 - 4.0 * 0.16 * 0.16),
            (7, pi * 0.9025 / 2.0),
            (8, pi * 0.9025 / 2.0),
            (9, pi * 0.98 * 0.98 / 2.0),
        ];
        for (class, area) in want {
            let got = 4.0 * share(&upright(class, [0.0; 3]));
            // Stripes, squares and arms are cut by their frame where it falls.
            let tolerance = if class < 7 { 0.01 } else { 0.12 };
            assert!((got / area - 1.0).abs() < tolerance, "{}: {got}, wanted {area}", CLASSES[class]);
        }
        // What is left of a disc of 0.95 when one of 0.7 that reaches past its edge is taken out.
        let crescent = 4.0 * share(&upright(6, [0.0; 3]));
        assert!((pi * (0.9025 - 0.49)..2.0).contains(&crescent), "crescent: {crescent}");
    }

    #[test]
    fn figures_stay_in_reach_and_in_sight() {
        for i in 0..200 {
            let mut random = Philox::new(5, 0, i);
            let figure = Figure::new(&mut random, i as usize % CLASSES.len());
            let (x, y, reach) = figure.bounds();
            let at = |k: usize| k as f32 / 4.0 - 16.0;
            let covered: Vec<(f32, f32)> =
                (0..256 * 256).map(|k| (at(k % 256), at(k / 256))).filter(|&(x, y)| figure.covers(x, y)).collect();
            assert!(!covered.is_empty());
            let side = 0.0..SIDE as f32;
            let n_seen = covered.iter().filter(|(x, y)| side.contains(x) && side.contains(y)).count();
            assert!(n_seen * 2 > covered.len(), "{i}: {n_seen} of {}", covered.len());
            assert!(covered.iter().all(|(u, v)| (u - x).hypot(v - y) <= reach * 1.001), "{i}");
        }
    }

    #[test]
    fn turns_follow_the_arc_tangent() {
        for i in 0..1000 {
            let angle = (i as f32 + 0.5) / 1000.0 - 0.5;
            let (v, u) = (angle * std::f32::consts::TAU).sin_cos();
            assert!((turns_at(u, v) - angle).abs() < 1e-3, "{angle}: {}", turns_at(u, v));
        }
    }
}

//! Random views against the same draws and filters on the CPU, and the draws against their chances.

use crate::support::row::download;
use crate::support::{limit, runtime, short};
use leanvision::ops::random::Key;
use leanvision::ops::views::{Filter, Jitter, Recipe, Views};
use leanvision::philox::stream;
use leanvision::reference::{Array, views as reference};
use leanvision::{DType, Error, Runtime, Tensor};

const KEY: Key = Key::new(0x0123_4567_89ab_cdef, stream::VIEWS, 3);

/// Smooth colours with some noise, and flat patches of one colour.
fn images(runtime: &Runtime, shape: &[usize]) -> (Tensor, Array) {
    let bytes = Array::from_fn(shape, |i| {
        let wave =
            (i[1] as f64 * 0.7 + i[3] as f64 * 2.1 + i[0] as f64).sin() * (i[2] as f64 * 0.45 + i[0] as f64).cos();
        let noise = ((i[0] * 7919 + i[1] * 104_729 + i[2] * 1_299_709 + i[3] * 15_485_863) % 41) as f64;
        if i[1] % 5 == 0 { (60 * (1 + i[0] % 4)) as f64 } else { (110.0 + 90.0 * wave + noise).floor() }
    });
    let words: Vec<u8> = bytes.data.iter().map(|v| *v as u8).collect();
    (Tensor::from_slice(runtime, &words, shape).unwrap(), bytes)
}

fn floats(runtime: &Runtime, values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_slice(runtime, &values, &[values.len()]).unwrap()
}

/// The larger one; what is no number is larger than all.
fn worst(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}

/// The largest difference of views of `b` images from the reference, in bytes.
fn error(runtime: &Runtime, recipe: &Recipe, shape: [usize; 4], side: [usize; 2], b: usize, dtype: DType) -> f64 {
    let (tensor, host) = images(runtime, &shape);
    // Now and then past the last.
    let ids: Vec<u32> = (0..b as u32).map(|i| i * 7 % (shape[0] as u32 + 1)).collect();
    let c = shape[3];
    let (scale, shift): (Vec<f64>, Vec<f64>) = (0..c).map(|c| (1.0 - 0.25 * c as f64, 4.0 * c as f64)).unzip();
    let views = Views::new(runtime, recipe, [shape[1], shape[2]], side).unwrap();
    let taken = Tensor::from_slice(runtime, &ids, &[b]).unwrap();
    let out =
        views.make(&tensor, &taken, None, &floats(runtime, &scale), &floats(runtime, &shift), KEY, dtype).unwrap();
    assert_eq!((out.shape(), out.dtype()), ([b, side[0], side[1], c].as_slice(), dtype));
    let want = reference::views(recipe, &host, &ids, side, (&scale, &shift), KEY);
    let got = download(&out).unwrap();
    let worst = got.iter().zip(&want.data).map(|(got, want)| (got - want).abs()).fold(0.0, worst);
    assert_eq!(runtime.damaged_guards().unwrap(), 0, "{shape:?}: written past the end");
    worst
}

/// A recipe that does everything to every view.
const ALL: Recipe = Recipe {
    jitter: Jitter { p: 1.0, ..Recipe::STRONG.jitter },
    grey: 0.3,
    blur: 0.6,
    solarize: 0.4,
    ..Recipe::STRONG
};

#[test]
fn views_equal_those_of_the_cpu() {
    let Some(runtime) = runtime() else { return };
    let cubic = Recipe { filter: Filter::Bicubic, ..ALL };
    let hue = Recipe { jitter: Jitter { p: 1.0, hue: 0.5, saturation: 1.0, ..ALL.jitter }, ..Recipe::STRONG };
    // Enlarged and made smaller, one pixel, grey images, odd sizes, none.
    let mut cases = vec![
        (ALL, [5, 8, 8, 3], [8, 8], 30),
        (cubic, [5, 8, 8, 3], [11, 6], 30),
        (hue, [3, 9, 7, 3], [4, 4], 20),
        (Recipe::WEAK, [4, 12, 10, 3], [5, 7], 20),
        (Recipe::WEAK, [4, 23, 31, 3], [5, 4], 20),
        (cubic, [4, 23, 31, 1], [5, 4], 20),
        (ALL, [3, 5, 9, 1], [6, 6], 20),
        (ALL, [2, 1, 1, 3], [1, 1], 9),
        (ALL, [2, 1, 1, 3], [3, 2], 9),
        (ALL, [2, 4, 4, 3], [4, 4], 0),
    ];
    for sigma in [0.1, 1.0, 2.0] {
        let blurred = Recipe { blur: 1.0, sigma: [sigma; 2], grey: 0.0, solarize: 0.0, ..ALL };
        cases.push((blurred, [3, 10, 9, 3], [9, 10], 8));
    }
    if !short() && limit() > 300 * 32 * 32 * 4 {
        cases.push((ALL, [40, 32, 32, 3], [32, 32], 300));
        cases.push((Recipe::WEAK, [2, 64, 48, 3], [512, 500], 18)); // past 65,535 workgroups
    }
    for (recipe, shape, side, b) in cases {
        // A byte is 1; everything is done in f32, without rounding in between.
        let worst = error(&runtime, &recipe, shape, side, b, DType::F32);
        assert!(worst <= 2e-3, "{shape:?} to {side:?}: {worst} of a byte off, {recipe:?}");
        if runtime.profile().features.f16 {
            // Half a unit in the last of 11 bits of up to 263.
            let worst = error(&runtime, &recipe, shape, side, b, DType::F16);
            assert!(worst <= 0.13, "{shape:?} to {side:?} in f16: {worst} of a byte off");
        }
    }
}

#[test]
fn a_view_depends_on_its_image_epoch_and_key_alone() {
    let Some(runtime) = runtime() else { return };
    let (tensor, _) = images(&runtime, &[9, 8, 8, 3]);
    let views = Views::new(&runtime, &ALL, [8, 8], [8, 8]).unwrap();
    let one = floats(&runtime, &[1.0; 3]);
    let make = |ids: &[u32], epoch: Option<u32>, key: Key| {
        let ids = Tensor::from_slice(&runtime, ids, &[ids.len()]).unwrap();
        let epoch = epoch.map(|epoch| Tensor::from_slice(&runtime, &[epoch], &[1]).unwrap());
        let out = views.make(&tensor, &ids, epoch.as_ref(), &one, &one, key, DType::F32).unwrap();
        out.to_vec::<f32>().unwrap()
    };
    let n = 8 * 8 * 3;
    let all = make(&[0, 1, 2, 3, 4, 5, 6, 7, 8], None, KEY);
    let some = make(&[7, 2], None, KEY);
    assert!(some[..n] == all[7 * n..8 * n] && some[n..] == all[2 * n..3 * n], "the place in the batch matters");
    assert!(make(&[7, 2], Some(2), Key { step: 1, ..KEY }) == some, "the epoch is added to the step");
    for other in [Key { step: 4, ..KEY }, Key { stream: KEY.stream + 1, ..KEY }, Key { seed: 5, ..KEY }] {
        assert!(make(&[7, 2], None, other) != some, "{other:?} draws the same");
    }
}

#[test]
fn draws_have_their_chances() {
    let recipe = Recipe::STRONG;
    let n = 20_000;
    let draws: Vec<_> = (0..n).map(|id| reference::draw(&recipe, [320, 320], id, KEY)).collect();
    let share = |is: &dyn Fn(&reference::Draw) -> bool| draws.iter().filter(|d| is(d)).count() as f64 / f64::from(n);
    // Three standard deviations.
    let near = |name: &str, got: f64, p: f64| {
        let bound = 3.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
        assert!((got - p).abs() <= bound, "{name}: {got}, {p} wanted, within {bound}");
    };
    near("flip", share(&|d| d.flip), 0.5);
    near("jitter", share(&|d| d.jitter), 0.8);
    near("grey", share(&|d| d.grey), 0.2);
    near("blur", share(&|d| d.blur), 0.5);
    near("flip and blur", share(&|d| d.flip && d.blur), 0.25);
    near("brightness below 0.8", share(&|d| d.factors[0] < 0.8), 0.25);
    near("hue below -0.05", share(&|d| d.hue < -0.05), 0.25);
    near("sigma below 0.575", share(&|d| d.sigma < 0.575), 0.25);
    let mut orders = std::collections::HashMap::new();
    draws.iter().for_each(|d| *orders.entry(d.order).or_insert(0_u32) += 1);
    assert_eq!(orders.len(), 24);
    for (order, count) in orders {
        near(&format!("{order:?}"), f64::from(count) / f64::from(n), 1.0 / 24.0);
    }
}

#[test]
fn boxes_have_the_area_and_aspect_asked_for() {
    // Every box fits where the largest has a third of the area, so nothing is tried twice and shares are uniform.
    let recipe = Recipe { area: [0.05, 0.3], ..Recipe::WEAK };
    let n = 20_000;
    let crops: Vec<[usize; 4]> = (0..n).map(|id| reference::draw(&recipe, [400, 300], id, KEY).crop).collect();
    let uniform = |name: &str, mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let far = values.iter().enumerate().map(|(i, v)| (v - (i as f64 + 0.5) / values.len() as f64).abs());
        let far = far.fold(0.0, f64::max);
        // Kolmogorov and Smirnov's bound for p = 0.01, and half a pixel's rounding.
        assert!(far < 1.63 / (values.len() as f64).sqrt() + 0.004, "{name}: {far} from uniform");
    };
    let area = |c: &[usize; 4]| (c[2] * c[3]) as f64 / 120_000.0;
    uniform("area", crops.iter().map(|c| (area(c) - 0.05) / 0.25).collect());
    let aspect = |c: &[usize; 4]| (c[3] as f64 / c[2] as f64).ln() / (4.0_f64 / 3.0).ln();
    uniform("aspect", crops.iter().map(|c| (aspect(c) + 1.0) / 2.0).collect());
    uniform("top", crops.iter().map(|c| (c[0] as f64 + 0.5) / (400 - c[2] + 1) as f64).collect());
    uniform("left", crops.iter().map(|c| (c[1] as f64 + 0.5) / (300 - c[3] + 1) as f64).collect());
    // Where no try fits, the middle, as torchvision has it.
    let narrow = Recipe { area: [1.0, 1.0], aspect: [2.0, 2.0], ..Recipe::WEAK };
    assert_eq!(reference::draw(&narrow, [30, 20], 4, KEY).crop, [10, 0, 10, 20]);
    let thin = Recipe { area: [1.0, 1.0], aspect: [16.0, 16.0], ..Recipe::WEAK };
    assert_eq!(reference::draw(&thin, [100, 1], 4, KEY).crop, [49, 0, 1, 1]);
    assert_eq!(
        reference::draw(&Recipe { area: [1.0; 2], aspect: [1.0; 2], ..Recipe::WEAK }, [9, 9], 4, KEY).crop,
        [0, 0, 9, 9]
    );
}

#[test]
fn an_untouched_view_is_the_image() {
    let Some(runtime) = runtime() else { return };
    let (tensor, host) = images(&runtime, &[3, 7, 7, 3]);
    let same = Recipe { area: [1.0; 2], aspect: [1.0; 2], flip: 0.0, ..Recipe::WEAK };
    let views = Views::new(&runtime, &same, [7, 7], [7, 7]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[2_u32], &[1]).unwrap();
    let (one, zero) = (floats(&runtime, &[1.0; 3]), floats(&runtime, &[0.0; 3]));
    let out = download(&views.make(&tensor, &ids, None, &one, &zero, KEY, DType::F32).unwrap()).unwrap();
    let worst = out.iter().zip(&host.data[2 * 147..]).map(|(a, b)| (a - b).abs()).fold(0.0, worst);
    assert!(worst < 1e-4, "{worst}");
    // Grey of equal channels stays; hue turned by a third moves red to green.
    let red = Tensor::from_slice(&runtime, &[200_u8, 40, 40], &[1, 1, 1, 3]).unwrap();
    let zero_id = Tensor::from_slice(&runtime, &[0_u32], &[1]).unwrap();
    for id in 0..40_u32 {
        let jitter = Jitter { p: 1.0, brightness: 0.0, contrast: 0.0, saturation: 0.0, hue: 0.5 };
        let recipe = Recipe { jitter, ..same };
        let key = Key { step: id, ..KEY };
        let views = Views::new(&runtime, &recipe, [1, 1], [1, 1]).unwrap();
        let rgb = views.make(&red, &zero_id, None, &one, &zero, key, DType::F32).unwrap().to_vec::<f32>().unwrap();
        let (high, low) = (rgb.iter().copied().fold(0.0, f32::max), rgb.iter().copied().fold(255.0, f32::min));
        assert!(rgb.iter().all(|v| v.is_finite()), "{rgb:?}");
        assert!(
            (high - 200.0).abs() < 1e-2 && (low - 40.0).abs() < 1e-2,
            "a turned hue keeps light and chroma: {rgb:?}"
        );
    }
}

#[test]
fn wrong_arguments_are_named() {
    let Some(runtime) = runtime() else { return };
    let (tensor, _) = images(&runtime, &[2, 4, 4, 3]);
    let ids = Tensor::from_slice(&runtime, &[0_u32, 1], &[2]).unwrap();
    let one = floats(&runtime, &[1.0; 3]);
    let said = |result: Result<Tensor, Error>, what: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    let new = |recipe: Recipe| Views::new(&runtime, &recipe, [4, 4], [4, 4]).map(|_| one.clone());
    said(new(Recipe { blur: 1.5, ..ALL }), "blur");
    said(new(Recipe { area: [0.5, 0.2], ..ALL }), "area");
    said(new(Recipe { aspect: [0.0, 1.0], ..ALL }), "aspect");
    said(new(Recipe { jitter: Jitter { hue: 0.6, ..ALL.jitter }, ..ALL }), "hue");
    said(new(Recipe { sigma: [f32::NAN, 1.0], ..ALL }), "sigma");
    said(Views::new(&runtime, &ALL, [4, 4], [0, 4]).map(|_| one.clone()), "too small");
    let views = Views::new(&runtime, &ALL, [4, 4], [4, 4]).unwrap();
    said(views.make(&ids, &ids, None, &one, &one, KEY, DType::F32), "[n, h, w, c]");
    said(views.make(&tensor, &one, None, &one, &one, KEY, DType::F32), "u32 wanted");
    said(views.make(&tensor, &ids, Some(&ids), &one, &one, KEY, DType::F32), "u32 [1] wanted");
    said(views.make(&tensor, &ids, None, &one, &one, KEY, DType::U32), "a float type wanted");
    let small = tensor.slice(1, 0..3).unwrap();
    said(views.make(&small, &ids, None, &one, &one, KEY, DType::F32), "[n, 4, 4, 1 or 3]");
}

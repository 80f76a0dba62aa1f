//! Attention over packed sequences: every variant against the f64 reference and PyTorch's own results.

use crate::support::compare::{Tolerance, compare};
use crate::support::golden::{Golden, permuted};
use crate::support::row::{download, upload, values};
use crate::support::{TestRuntime, runtime, runtimes};
use leanvision::ops::attention::{
    Attention, AttentionVariant, attention, attention_with, attention_with_lse, cross_attention,
    cross_attention_with_lse,
};
use leanvision::reference::{self, Array};
use leanvision::tensor::Offsets;
use leanvision::{DType, Error, Runtime, Tensor};
use std::ops::Range;

/// Attention of some sequences; keys are those of the queries unless given.
struct Case {
    lengths: &'static [usize],
    kv_lengths: Option<&'static [usize]>,
    heads: [usize; 2],
    width: usize,
    causal: bool,
    scale: Option<f32>,
    /// Of q and k, and of v.
    range: [Range<f64>; 2],
    dtype: DType,
    tolerance: Tolerance,
}

/// Scores are sums of `width` products of numbers below 2, off by less than 1e-6 x 4 x width x scale; a weight is off
/// by as much relative to itself, and so is the weighted mean of values below 1.
const CASE: Case = Case {
    lengths: &[5, 0, 1, 17],
    kv_lengths: None,
    heads: [3, 3],
    width: 64,
    causal: false,
    scale: None,
    range: [-2.0..2.0, -1.0..1.0],
    dtype: DType::F32,
    tolerance: Tolerance { atol: 2e-6, rtol: 2e-5, allowed: 0 },
};

const F16: Case = Case { dtype: DType::F16, tolerance: Tolerance::F16, ..CASE };

/// How the three operands lie in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    /// Each on its own, row-major.
    Own,
    /// Slices of one `[t, 3, heads, d]`.
    Packed,
    /// Each a view with the head axis outermost, `[heads, t, d]` in memory.
    HeadsFirst,
}

fn packed(runtime: &Runtime, [q, k, v]: [&Array; 3], dtype: DType) -> leanvision::Result<[Tensor; 3]> {
    let (heads, width) = (q.shape[1], q.shape[2]);
    let all = Array::from_fn(&[q.shape[0], 3, heads, width], |i| [q, k, v][i[1]].at(&[i[0], i[2], i[3]]));
    let all = upload(runtime, &all, dtype)?;
    let part = |i: usize| all.slice(1, i..i + 1)?.reshape(&q.shape);
    Ok([part(0)?, part(1)?, part(2)?])
}

fn heads_first(runtime: &Runtime, x: &Array, dtype: DType) -> leanvision::Result<Tensor> {
    let turned = Array::from_fn(&[x.shape[1], x.shape[0], x.shape[2]], |i| x.at(&[i[1], i[0], i[2]]));
    upload(runtime, &turned, dtype)?.permute(&[1, 0, 2])
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

impl Case {
    fn n_elements(&self) -> usize {
        let tokens = |lengths: &[usize]| lengths.iter().sum::<usize>();
        let kv_lengths = self.kv_lengths.unwrap_or(self.lengths);
        (tokens(self.lengths) * self.heads[0] + 2 * tokens(kv_lengths) * self.heads[1]) * self.width
    }

    fn check(
        &self,
        runtime: &Runtime,
        variant: Option<AttentionVariant>,
        layout: Layout,
        seed: u64,
    ) -> Result<(), String> {
        let kv_lengths = self.kv_lengths.unwrap_or(self.lengths);
        let shape = |lengths: &[usize], heads| [lengths.iter().sum(), heads, self.width];
        let q = values(&shape(self.lengths, self.heads[0]), &self.range[0], self.dtype, seed);
        let k = values(&shape(kv_lengths, self.heads[1]), &self.range[0], self.dtype, seed + 1);
        let v = values(&shape(kv_lengths, self.heads[1]), &self.range[1], self.dtype, seed + 2);
        let scale = self.scale.map_or(1.0 / (self.width as f64).sqrt(), f64::from);
        let (want, want_lse) =
            reference::attention::attention([&q, &k, &v], (self.lengths, kv_lengths), self.causal, scale);

        let run = || -> leanvision::Result<_> {
            let offsets = Offsets::from_lengths(runtime, self.lengths)?;
            let kv_offsets = Offsets::from_lengths(runtime, kv_lengths)?;
            let own = |x: &Array| match layout {
                Layout::HeadsFirst => heads_first(runtime, x, self.dtype),
                _ => upload(runtime, x, self.dtype),
            };
            let [q, k, v] = match layout {
                Layout::Packed => packed(runtime, [&q, &k, &v], self.dtype)?,
                _ => [own(&q)?, own(&k)?, own(&v)?],
            };
            let options = Attention { causal: self.causal, scale: self.scale };
            let (out, lse) = match variant {
                Some(variant) => attention_with(variant, [&q, &k, &v], (&offsets, &kv_offsets), &options)?,
                None if self.kv_lengths.is_none() => attention_with_lse(&q, &k, &v, &offsets, &options)?,
                None => cross_attention_with_lse(&q, &k, &v, (&offsets, &kv_offsets), &options)?,
            };
            assert_eq!((out.shape(), out.dtype()), (q.shape(), self.dtype));
            assert_eq!((lse.shape(), lse.dtype()), (&q.shape()[..2], DType::F32));
            Ok((download(&out)?, lse.to_vec::<f32>()?))
        };
        let (out, lse) = run().map_err(|e| e.to_string())?;
        compare(&out, &want.data, self.tolerance).map_err(|e| format!("out: {e}"))?;
        let tolerance = if self.dtype == DType::F16 { Tolerance::F32 } else { self.tolerance };
        compare(&f64s(&lse), &want_lse.data, tolerance).map_err(|e| format!("lse: {e}"))?;
        match runtime.damaged_guards().map_err(|e| e.to_string())? {
            0 => Ok(()),
            n => Err(format!("{n} buffers were written past their end")),
        }
    }
}

/// Every case in every layout that it can have, by every variant that runs here.
fn check_all(cases: &[Case]) {
    for runtime in runtimes() {
        check_on(&runtime, cases);
    }
}

fn check_on(runtime: &TestRuntime, cases: &[Case]) {
    let mut failures = Vec::new();
    let runs =
        |case: &Case| runtime.takes(case.n_elements()) && (case.dtype != DType::F16 || runtime.profile().features.f16);
    for (seed, case) in cases.iter().enumerate().filter(|(_, case)| runs(case)) {
        // None is the variant that the op picks.
        for variant in AttentionVariant::ALL.iter().copied().map(Some).chain([None]) {
            if variant.is_some_and(|v| !v.runs_on(runtime.profile(), case.dtype, case.width)) {
                continue;
            }
            for layout in [Layout::Own, Layout::Packed, Layout::HeadsFirst] {
                if layout == Layout::Packed && (case.kv_lengths.is_some() || case.heads[0] != case.heads[1]) {
                    continue;
                }
                if let Err(message) = case.check(runtime, variant, layout, 100 * seed as u64) {
                    let Case { lengths, kv_lengths, heads, width, causal, dtype, .. } = case;
                    failures.push(format!(
                        "{variant:?} {layout:?} {lengths:?} on {kv_lengths:?}, heads {heads:?} of {width}, \
                         causal {causal}, {dtype}: {message}"
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures on {}\n{}", failures.len(), runtime.profile(), failures.join("\n"));
}

#[test]
fn attention_matches_the_reference_for_every_width() {
    let widths = [1, 3, 4, 8, 12, 16, 32, 36, 64, 80, 96, 100, 128, 132];
    check_all(&widths.map(|width| Case { width, ..CASE }));
    check_all(&[7, 16, 64, 80, 128].map(|width| Case { width, causal: true, lengths: &[33, 1, 8], ..CASE }));
    check_all(&[7, 12, 32, 64, 100].map(|width| Case { width, ..F16 }));
}

#[test]
fn attention_matches_the_reference_around_every_tile() {
    check_all(&[
        Case { lengths: &[], ..CASE },
        Case { lengths: &[0], ..CASE },
        Case { lengths: &[1], width: 16, ..CASE },
        Case { lengths: &[0, 0, 3, 0], width: 16, ..CASE },
        Case { lengths: &[7, 8, 9, 15, 16, 17], width: 16, ..CASE },
        Case { lengths: &[22, 23, 24, 25, 26, 47, 48, 49], width: 16, causal: true, ..CASE },
        Case { lengths: &[31, 32, 33, 63, 64, 65], width: 16, heads: [2, 2], ..CASE },
        Case { lengths: &[31, 32, 33, 63, 64, 65], width: 16, heads: [2, 2], causal: true, ..CASE },
        Case { lengths: &[127, 128, 129, 197], heads: [1, 1], ..CASE },
        Case { lengths: &[127, 128, 129, 197], heads: [1, 1], causal: true, ..CASE },
        Case { lengths: &[127, 2, 197], heads: [2, 2], causal: true, ..F16 },
        Case { lengths: &[509], heads: [1, 1], width: 32, ..CASE },
        Case { lengths: &[509], heads: [1, 1], width: 128, causal: true, ..CASE },
    ]);
}

#[test]
fn heads_of_q_share_heads_of_k_and_v() {
    check_all(&[
        Case { heads: [4, 2], width: 16, ..CASE },
        Case { heads: [6, 1], causal: true, lengths: &[40, 3], ..CASE },
        Case { heads: [4, 2], width: 7, ..CASE },
        Case { heads: [4, 4], width: 32, scale: Some(-0.25), ..CASE },
    ]);
}

#[test]
fn queries_attend_to_other_sequences() {
    const CROSS: Case = Case { lengths: &[3, 40, 0, 5], kv_lengths: Some(&[70, 1, 6, 0]), ..CASE };
    check_all(&[
        CROSS,
        Case { heads: [4, 2], width: 16, ..CROSS },
        Case { causal: true, ..CROSS },
        Case { causal: true, width: 10, ..CROSS },
        Case { lengths: &[70, 33], kv_lengths: Some(&[9, 33]), causal: true, ..CASE },
        Case { dtype: DType::F16, tolerance: Tolerance::F16, width: 32, ..CROSS },
    ]);
}

#[test]
fn scores_of_ten_thousand_keep_their_order() {
    // Products of numbers up to 40 over 64 columns reach scores beyond +-10^4. A score is then off by up to
    // 64 x 1600 x 2^-24 = 6e-3, mostly much less, and a weight by as much relative to itself, so that values below 1
    // are off by at most twice that. The log-sum-exp inherits the score's error and its own rounding at 10^4.
    const FAR: Case = Case {
        range: [-40.0..40.0, -1.0..1.0],
        scale: Some(1.0),
        tolerance: Tolerance { atol: 1.2e-2, rtol: 0.0, allowed: 0 },
        ..CASE
    };
    check_all(&[Case { lengths: &[40, 33], ..FAR }, Case { lengths: &[40, 33], causal: true, ..FAR }]);
    // One key so far above the rest that nothing else counts, first or last; the others so far below that they vanish.
    let Some(runtime) = runtime() else { return };
    for width in [16, 64, 128] {
        for (place, sign) in [(0, 1.0), (39, 1.0), (20, -1.0)] {
            let n = 40;
            let q = Array::from_fn(&[n, 1, width], |_| 100.0);
            let k = Array::from_fn(&[n, 1, width], |i| if i[0] == place { sign } else { -sign });
            let v = Array::from_fn(&[n, 1, width], |i| if i[0] == place { 3.0 } else { 5.0 });
            let [q, k, v] = [q, k, v].map(|x| upload(&runtime, &x, DType::F32).unwrap());
            let offsets = Offsets::equal(&runtime, 1, n).unwrap();
            let options = Attention { causal: false, scale: Some(100.0 / width as f32) };
            let want = if sign > 0.0 { 3.0 } else { 5.0 };
            for &variant in AttentionVariant::ALL {
                if variant.runs_on(runtime.profile(), DType::F32, width) {
                    let (out, _) = attention_with(variant, [&q, &k, &v], (&offsets, &offsets), &options).unwrap();
                    let out = out.to_vec::<f32>().unwrap();
                    assert!(out.iter().all(|o| (o - want).abs() < 1e-5), "{variant:?} {width} {place}: {}", out[0]);
                }
            }
        }
    }
}

#[test]
fn f16_near_its_largest_number_stays_finite() {
    // Dot products of 6e4 x 6e4 and sums of values near 65504 pass what f16 holds; only storage is f16.
    check_all(&[
        Case { range: [-6e4..6e4, 6e4..65504.0], scale: Some(1e-9), lengths: &[40, 3], ..F16 },
        Case { range: [-6e4..6e4, -65504.0..65504.0], scale: Some(1e-9), causal: true, ..F16 },
    ]);
}

#[test]
fn a_nan_stays_in_its_own_row_and_sequence() {
    let Some(runtime) = runtime() else { return };
    for &variant in AttentionVariant::ALL {
        for width in [16, 64] {
            if !variant.runs_on(runtime.profile(), DType::F32, width) {
                continue;
            }
            let mut q = values(&[12, 1, width], &(-1.0..1.0), DType::F32, 1);
            q.data[3 * width + 1] = f64::NAN;
            let mut k = values(&[12, 1, width], &(-1.0..1.0), DType::F32, 2);
            k.data[11 * width] = f64::NAN;
            let [q, k] = [q, k].map(|x| upload(&runtime, &x, DType::F32).unwrap());
            let offsets = Offsets::from_lengths(&runtime, &[5, 7]).unwrap();
            let options = Attention::default();
            let (out, _) = attention_with(variant, [&q, &k, &k], (&offsets, &offsets), &options).unwrap();
            let out = out.to_vec::<f32>().unwrap();
            for (row, out) in out.chunks(width).enumerate() {
                // Row 3 by its query; rows 5 to 11 by a key of their sequence.
                let n_nan = out.iter().filter(|v| v.is_nan()).count();
                let want = if row == 3 || row > 4 { width } else { 0 };
                assert_eq!(n_nan, want, "{variant:?}, width {width}, row {row}");
            }
        }
    }
}

#[test]
fn attention_reads_more_than_65535_groups() {
    // 3 x 23,000 tiles.
    let lengths: &[usize] = &[1; 23_000];
    check_all(&[Case { lengths, width: 4, ..CASE }]);
}

#[test]
fn attention_matches_pytorch() {
    let Some(runtime) = runtime() else { return };
    let golden = Golden::open();
    for case in golden.cases("attention") {
        let params = &case.params;
        let options = Attention {
            causal: params["causal"].as_bool().unwrap(),
            scale: Some(params["scale"].as_f64().unwrap() as f32),
        };
        // [batch, heads, tokens, width] there, [batch x tokens, heads, width] here.
        let [q, k, v, want] = ["q", "k", "v", "out"].map(|role| {
            let x = permuted(&case.need(role), &[0, 2, 1, 3]);
            x.reshaped(&[x.shape[0] * x.shape[1], x.shape[2], x.shape[3]])
        });
        let n = case.need("q").shape[0];
        let [offsets, kv_offsets] = [&q, &k].map(|x| Offsets::equal(&runtime, n, x.shape[0] / n).unwrap());
        let [q, k, v] = [q, k, v].map(|x| upload(&runtime, &x, DType::F32).unwrap());
        let mut results = vec![cross_attention(&q, &k, &v, (&offsets, &kv_offsets), &options).unwrap()];
        if q.shape() == k.shape() {
            results.push(attention(&q, &k, &v, &offsets, &options).unwrap());
        }
        for &variant in AttentionVariant::ALL {
            if variant.runs_on(runtime.profile(), DType::F32, q.shape()[2]) {
                let both = attention_with(variant, [&q, &k, &v], (&offsets, &kv_offsets), &options).unwrap();
                results.push(both.0);
            }
        }
        for out in results {
            compare(&download(&out).unwrap(), &want.data, CASE.tolerance)
                .unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
    }
}

#[test]
fn what_a_variant_cannot_do_is_refused() {
    let Some(runtime) = runtime() else { return };
    let offsets = Offsets::equal(&runtime, 1, 4).unwrap();
    let options = Attention::default();
    for (variant, width) in [
        (AttentionVariant::Narrow, 20),
        (AttentionVariant::Lanes, 18),
        (AttentionVariant::Registers, 132),
        (AttentionVariant::Tiled, 132),
    ] {
        let x = Tensor::zeros(&runtime, &[4, 1, width], DType::F32).unwrap();
        let error = attention_with(variant, [&x, &x, &x], (&offsets, &offsets), &options).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        assert!(!variant.runs_on(runtime.profile(), DType::F32, width));
        assert!(attention(&x, &x, &x, &offsets, &options).is_ok());
    }
    if runtime.profile().is_software() {
        // llvmpipe would end these loops early; a width that a faster variant takes has shorter ones.
        let long = Offsets::equal(&runtime, 1, 8000).unwrap();
        let x = Tensor::zeros(&runtime, &[8000, 1, 63], DType::F32).unwrap();
        let error = attention(&x, &x, &x, &long, &options).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
        // Three loops for each key, each left once.
        let (one, keys) = (Offsets::equal(&runtime, 1, 1).unwrap(), Offsets::equal(&runtime, 1, 12_000).unwrap());
        let [q, k] = [1, 12_000].map(|n| Tensor::zeros(&runtime, &[n, 1, 3], DType::F32).unwrap());
        let error = cross_attention(&q, &k, &k, (&one, &keys), &options).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error}");
    }
}

#[test]
fn operands_that_do_not_fit_are_named() {
    let Some(runtime) = runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let x = zeros(&[6, 2, 8], DType::F32);
    let offsets = Offsets::from_lengths(&runtime, &[4, 2]).unwrap();
    let options = Attention::default();
    let message = |k: &Tensor, v: &Tensor| attention(&x, k, v, &offsets, &options).unwrap_err().to_string();
    assert_eq!(message(&zeros(&[6, 2, 4], DType::F32), &x), "attention: q [6, 2, 8] and k [6, 2, 4] differ in d");
    let three = zeros(&[6, 3, 8], DType::F32);
    assert_eq!(message(&three, &three), "attention: 2 heads of q cannot share 3 of k and v");
    let none = zeros(&[6, 0, 8], DType::F32);
    assert_eq!(message(&none, &none), "attention: 2 heads of q cannot share 0 of k and v");
    let whole = zeros(&[6, 2, 8], DType::U32);
    assert_eq!(message(&whole, &x), "attention: q f32, k u32, v f32 given; one float type wanted");
    let short = Offsets::from_lengths(&runtime, &[4, 1]).unwrap();
    let error = attention(&x, &x, &x, &short, &options).unwrap_err();
    assert_eq!(error.to_string(), "attention: q has 6 tokens, its offsets 5");
    let one = Offsets::from_lengths(&runtime, &[6]).unwrap();
    let error = cross_attention(&x, &x, &x, (&offsets, &one), &options).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }));
    assert_eq!(error.to_string(), "attention: q has 2 sequences, k and v 1");
}

//! Gradients of attention: central differences for the op, the f64 reference for every variant on larger shapes.

use crate::support::compare::{Tolerance, compare};
use crate::support::row::{Row, Shapes, download, row, rows, upload, values};
use crate::support::{TestRuntime, runtime, runtimes};
use leanvision::ops::attention::{
    Attention, AttentionVariant, attention, attention_backward_with, attention_with, cross_attention,
    cross_attention_with_lse,
};
use leanvision::reference::{self, Array};
use leanvision::tensor::Offsets;
use leanvision::{DType, Error, Result, Runtime, Tensor};

/// The queries of some sequences on the keys of others.
fn differences(
    cases: &'static [Shapes],
    lengths: &'static [usize],
    kv_lengths: &'static [usize],
    options: Attention,
) -> Row {
    row(
        "attention",
        cases,
        -2.0..2.0,
        move |x| {
            let [offsets, kv_offsets] = [lengths, kv_lengths].map(|n| Offsets::from_lengths(x[0].runtime(), n));
            cross_attention(&x[0], &x[1], &x[2], (&offsets?, &kv_offsets?), &options)
        },
        move |x| {
            let scale = options.scale.map_or(1.0 / (x[0].shape[2] as f64).sqrt(), f64::from);
            reference::attention::attention([&x[0], &x[1], &x[2]], (lengths, kv_lengths), options.causal, scale).0
        },
    )
    .grad(&[0, 1, 2], Tolerance::F32)
}

#[test]
fn gradients_match_differences() {
    // Heads of the widths that variants tell apart; sequences of lengths 0 and 1 among others.
    const WIDTHS: &[Shapes] = &[
        &[&[9, 2, 3], &[9, 2, 3], &[9, 2, 3]],
        &[&[9, 2, 4], &[9, 2, 4], &[9, 2, 4]],
        &[&[9, 1, 16], &[9, 1, 16], &[9, 1, 16]],
        &[&[9, 2, 32], &[9, 2, 32], &[9, 2, 32]],
        &[&[9, 1, 64], &[9, 1, 64], &[9, 1, 64]],
    ];
    const SHARED: &[Shapes] = &[&[&[9, 4, 4], &[9, 2, 4], &[9, 2, 4]], &[&[9, 6, 3], &[9, 2, 3], &[9, 2, 3]]];
    const CROSS: &[Shapes] = &[&[&[9, 2, 4], &[20, 2, 4], &[20, 2, 4]], &[&[9, 2, 5], &[20, 2, 5], &[20, 2, 5]]];
    const ONE: &[Shapes] = &[&[&[19, 2, 8], &[19, 2, 8], &[19, 2, 8]]];
    let plain = Attention::default();
    let causal = Attention { causal: true, scale: None };
    let scaled = Attention { causal: true, scale: Some(-0.25) };
    let own = |cases, lengths, options| differences(cases, lengths, lengths, options);
    rows([
        own(WIDTHS, &[4, 0, 1, 4], plain),
        own(WIDTHS, &[4, 0, 1, 4], causal),
        own(SHARED, &[3, 6], plain),
        own(SHARED, &[9], causal),
        own(ONE, &[19], plain),
        own(ONE, &[17, 2], causal),
        differences(CROSS, &[3, 0, 5, 1], &[17, 2, 0, 1], plain),
        differences(CROSS, &[3, 0, 5, 1], &[17, 2, 0, 1], scaled),
    ]);
}

#[test]
fn gradients_of_packed_operands_match_differences() {
    let part = |x: &Array, which: usize| {
        Array::from_fn(&[x.shape[0], x.shape[2], x.shape[3]], |i| x.at(&[i[0], which, i[1], i[2]]))
    };
    rows([true, false].map(|causal| {
        row(
            "attention, packed",
            &[&[&[9, 3, 2, 8]], &[&[9, 3, 2, 3]]],
            -2.0..2.0,
            move |x| {
                let offsets = Offsets::from_lengths(x[0].runtime(), &[4, 0, 5])?;
                let part = |i: usize| {
                    let shape = [x[0].shape()[0], x[0].shape()[2], x[0].shape()[3]];
                    x[0].slice(1, i..i + 1)?.reshape(&shape)
                };
                attention(&part(0)?, &part(1)?, &part(2)?, &offsets, &Attention { causal, scale: None })
            },
            move |x| {
                let [q, k, v] = [0, 1, 2].map(|i| part(&x[0], i));
                let scale = 1.0 / (q.shape[2] as f64).sqrt();
                let lengths: &[usize] = &[4, 0, 5];
                reference::attention::attention([&q, &k, &v], (lengths, lengths), causal, scale).0
            },
        )
        .grad(&[0], Tolerance::F32)
    }));
}

/// Larger attention, by every variant.
struct Case {
    lengths: &'static [usize],
    kv_lengths: Option<&'static [usize]>,
    heads: [usize; 2],
    width: usize,
    causal: bool,
    dtype: DType,
    tolerance: Tolerance,
}

/// Sums over up to 200 queries of products below 2 x 4; a weight is off by 1e-6 x 4 x width x scale relative to itself.
const CASE: Case = Case {
    lengths: &[5, 0, 1, 17],
    kv_lengths: None,
    heads: [3, 3],
    width: 64,
    causal: false,
    dtype: DType::F32,
    tolerance: Tolerance { atol: 2e-5, rtol: 1e-4, allowed: 0 },
};
/// The output is rounded to 2^-11 of itself, and so is what is subtracted from each product.
const F16: Case = Case { dtype: DType::F16, tolerance: Tolerance { atol: 1e-2, rtol: 4e-3, allowed: 0 }, ..CASE };

impl Case {
    fn n_elements(&self) -> usize {
        let tokens = |lengths: &[usize]| lengths.iter().sum::<usize>();
        let kv_lengths = self.kv_lengths.unwrap_or(self.lengths);
        (tokens(self.lengths) * self.heads[0] + 2 * tokens(kv_lengths) * self.heads[1]) * self.width
    }

    fn check(
        &self,
        runtime: &Runtime,
        variant: AttentionVariant,
        packed: bool,
        seed: u64,
    ) -> std::result::Result<(), String> {
        let kv_lengths = self.kv_lengths.unwrap_or(self.lengths);
        let shape = |lengths: &[usize], heads| [lengths.iter().sum(), heads, self.width];
        let array = |shape: [usize; 3], i| values(&shape, &(-1.5..1.5), self.dtype, seed + i);
        let (q, d_out) = (array(shape(self.lengths, self.heads[0]), 0), array(shape(self.lengths, self.heads[0]), 3));
        let [k, v] = [1, 2].map(|i| array(shape(kv_lengths, self.heads[1]), i));
        let scale = 1.0 / (self.width as f64).sqrt();
        let lengths = (self.lengths, kv_lengths);
        let want = reference::attention::attention_backward([&q, &k, &v], &d_out, lengths, self.causal, scale);
        let run = || -> Result<_> {
            let offsets = Offsets::from_lengths(runtime, self.lengths)?;
            let kv_offsets = Offsets::from_lengths(runtime, kv_lengths)?;
            let [q, k, v] = if packed {
                let all = Array::from_fn(&[q.shape[0], 3, q.shape[1], q.shape[2]], |i| {
                    [&q, &k, &v][i[1]].at(&[i[0], i[2], i[3]])
                });
                let all = upload(runtime, &all, self.dtype)?;
                let part = |i: usize| all.slice(1, i..i + 1)?.reshape(&q.shape);
                [part(0)?, part(1)?, part(2)?]
            } else {
                let up = |x: &Array| upload(runtime, x, self.dtype);
                [up(&q)?, up(&k)?, up(&v)?]
            };
            let d_out = upload(runtime, &d_out, self.dtype)?;
            let options = Attention { causal: self.causal, scale: None };
            let offsets = (&offsets, &kv_offsets);
            let (out, lse) = cross_attention_with_lse(&q, &k, &v, offsets, &options)?;
            let d = attention_backward_with(variant, [&q, &k, &v], [&out, &lse, &d_out], offsets, &options)?;
            d.iter().map(|d| Ok((d.shape().to_vec(), download(d)?))).collect::<Result<Vec<_>>>()
        };
        let got = run().map_err(|e| e.to_string())?;
        for (name, ((shape, got), want)) in ["d_q", "d_k", "d_v"].iter().zip(got.iter().zip(&want)) {
            assert_eq!(shape, &want.shape);
            compare(got, &want.data, self.tolerance).map_err(|e| format!("{name}: {e}"))?;
        }
        match runtime.damaged_guards().map_err(|e| e.to_string())? {
            0 => Ok(()),
            n => Err(format!("{n} buffers were written past their end")),
        }
    }
}

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
        for &variant in AttentionVariant::ALL {
            if !variant.backward_runs_on(runtime.profile(), case.dtype, case.width) {
                continue;
            }
            for packed in [false, true] {
                if packed && (case.kv_lengths.is_some() || case.heads[0] != case.heads[1]) {
                    continue;
                }
                if let Err(message) = case.check(runtime, variant, packed, 100 * seed as u64) {
                    let Case { lengths, kv_lengths, heads, width, causal, dtype, .. } = case;
                    failures.push(format!(
                        "{variant:?} packed {packed} {lengths:?} on {kv_lengths:?}, heads {heads:?} of {width}, \
                         causal {causal}, {dtype}: {message}"
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} failures on {}\n{}", failures.len(), runtime.profile(), failures.join("\n"));
}

#[test]
fn every_variant_matches_the_reference_for_every_width() {
    let widths = [1, 3, 4, 8, 12, 16, 32, 36, 64, 80, 96, 100, 128, 132];
    check_all(&widths.map(|width| Case { width, ..CASE }));
    check_all(&[7, 16, 64, 80, 128].map(|width| Case { width, causal: true, lengths: &[33, 1, 8], ..CASE }));
    check_all(&[7, 12, 32, 64, 100].map(|width| Case { width, ..F16 }));
}

#[test]
fn every_variant_matches_the_reference_around_every_tile() {
    check_all(&[
        Case { lengths: &[], ..CASE },
        Case { lengths: &[0], ..CASE },
        Case { lengths: &[1], width: 16, ..CASE },
        Case { lengths: &[0, 0, 3, 0], width: 16, ..CASE },
        Case { lengths: &[7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65], width: 16, heads: [2, 2], ..CASE },
        Case { lengths: &[7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65], width: 16, causal: true, ..CASE },
        Case { lengths: &[127, 128, 129, 197], heads: [1, 1], ..CASE },
        Case { lengths: &[127, 128, 129, 197], heads: [1, 1], causal: true, ..CASE },
        Case { lengths: &[127, 2, 197], heads: [2, 2], causal: true, ..F16 },
        Case { lengths: &[65, 65, 65], width: 32, ..CASE },
    ]);
}

#[test]
fn every_variant_takes_shared_heads_and_other_sequences() {
    const CROSS: Case = Case { lengths: &[3, 40, 0, 5], kv_lengths: Some(&[70, 1, 6, 0]), ..CASE };
    check_all(&[
        Case { heads: [4, 2], width: 16, ..CASE },
        Case { heads: [6, 1], causal: true, lengths: &[40, 3], ..CASE },
        Case { heads: [4, 2], width: 7, causal: true, ..CASE },
        CROSS,
        Case { heads: [4, 2], width: 16, ..CROSS },
        Case { causal: true, ..CROSS },
        Case { causal: true, width: 10, ..CROSS },
        Case { lengths: &[70, 33], kv_lengths: Some(&[9, 33]), causal: true, ..CASE },
    ]);
}

#[test]
fn gradients_repeat_bit_for_bit() {
    let Some(runtime) = runtime() else { return };
    let offsets = Offsets::from_lengths(&runtime, &[50, 1, 14]).unwrap();
    let x = [1, 2, 3]
        .map(|seed| upload(&runtime, &values(&[65, 3, 32], &(-1.0..1.0), DType::F32, seed), DType::F32).unwrap());
    let d_out = upload(&runtime, &values(&[65, 3, 32], &(-1.0..1.0), DType::F32, 4), DType::F32).unwrap();
    let bits = || {
        let [q, k, v] = [0, 1, 2].map(|i: usize| x[i].require_grad().unwrap());
        let out = attention(&q, &k, &v, &offsets, &Attention::default()).unwrap();
        let gradients = out.backward_with(&d_out).unwrap();
        [&q, &k, &v].map(|x| {
            gradients.of(x).unwrap().to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let first = bits();
    assert!((0..3).all(|_| bits() == first));
}

#[test]
fn what_has_no_gradient_is_refused() {
    let Some(runtime) = runtime() else { return };
    let offsets = Offsets::equal(&runtime, 1, 4).unwrap();
    let options = Attention::default();
    let x = Tensor::zeros(&runtime, &[4, 1, 20], DType::F32).unwrap();
    let leaf = x.require_grad().unwrap();
    let error = attention_with(AttentionVariant::Plain, [&leaf, &x, &x], (&offsets, &offsets), &options).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    let lse = Tensor::zeros(&runtime, &[4, 1], DType::F32).unwrap();
    let back = |variant, lse: &Tensor| {
        attention_backward_with(variant, [&x, &x, &x], [&x, lse, &x], (&offsets, &offsets), &options)
    };
    let error = back(AttentionVariant::Narrow, &lse).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    let error = back(AttentionVariant::Plain, &x).unwrap_err();
    assert_eq!(error.to_string(), "attention: lse f32 [4, 1, 20] given, f32 [4, 1] wanted");
    if runtime.profile().is_software() {
        let long = Offsets::equal(&runtime, 1, 5000).unwrap();
        let x = Tensor::zeros(&runtime, &[5000, 1, 63], DType::F32).unwrap();
        let lse = Tensor::zeros(&runtime, &[5000, 1], DType::F32).unwrap();
        let error = attention_backward_with(AttentionVariant::Plain, [&x; 3], [&x, &lse, &x], (&long, &long), &options);
        assert!(matches!(error, Err(Error::Limit { .. })), "{error:?}");
    }
}

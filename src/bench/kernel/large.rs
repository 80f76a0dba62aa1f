//! Shapes for GPUs: what the targets of this crate are stated on, and the largest that occur. Their inputs are made on the
//! device when a row is run, so that one that is left out costs nothing.

use crate::bench::field::Field;
use crate::bench::{Case, Level, Parts, worst};
use crate::ops::attention::{Attention, attention, attention_with_lse, backward::gradients};
use crate::ops::conv::{Conv2d, conv2d, input_gradient, weight_gradient};
use crate::ops::matmul::{Variant, matmul, matmul_with};
use crate::ops::random::{Key, bits};
use crate::ops::{Act, bank, elementwise, gather, norm, reduce, softmax, sort, topk};
use crate::reference::{self, Array};
use crate::runtime::Runtime;
use crate::tensor::{DType, Offsets, Tensor};
use crate::{Error, Result};

/// The cases of a family that are larger than a software adapter does in a moment; in f16 where the adapter has it.
pub(super) fn cases(runtime: &Runtime, family: &str, level: Level) -> Vec<Case> {
    let floats: &[DType] = if runtime.profile().features.f16 { &[DType::F32, DType::F16] } else { &[DType::F32] };
    let each = |make: &dyn Fn(DType) -> Case| floats.iter().map(|dtype| make(*dtype)).collect::<Vec<_>>();
    let mut cases = Vec::new();
    if level >= Level::Full {
        // The shapes of the targets.
        match family {
            "matmul" => {
                cases.push(product(runtime, None, [4096; 3], DType::F32));
                cases.extend(halves(runtime, 4096));
            }
            "attention" => {
                if floats.contains(&DType::F16) {
                    cases.push(attend(runtime, [64, 197, 12, 64], DType::F16));
                }
                cases.extend(each(&|dtype| attend(runtime, [64, 1024, 12, 64], dtype)));
            }
            "sort" => cases.push(sorted_pairs(runtime, 20_000_000)),
            // A bank of MSF's size.
            "bank" => cases.extend(each(&|dtype| searched(runtime, [256, 131_072, 512], 10, dtype))),
            _ => {}
        }
    }
    if level >= Level::Stress {
        match family {
            "matmul" => {
                cases.push(product(runtime, None, [8192; 3], DType::F32));
                cases.extend(halves(runtime, 8192));
                cases.extend(each(&|dtype| product(runtime, None, [12_608, 768, 3072], dtype)));
            }
            "attention" => {
                let shapes = [[64, 197, 12, 64], [64, 1024, 12, 64]];
                cases.extend(shapes.map(|shape| attend_backward(runtime, shape)));
            }
            // Stages of ResNet-18 on 32 pixels.
            "conv" => {
                for shape in [[512, 32, 64, 3, 64, 1], [512, 16, 128, 3, 128, 1], [512, 4, 512, 3, 512, 1]] {
                    cases.extend([Pass::Forward, Pass::Input, Pass::Weights].map(|pass| conv(runtime, shape, pass)));
                }
            }
            "sort" => cases.push(scanned(runtime, 1 << 26)),
            "elementwise" => cases.push(added(runtime, 1 << 26)),
            "reduce" => cases.push(summed(runtime, 1 << 27)),
            "softmax" => cases.push(by_rows(runtime, Rows::Softmax, 65_536, 1024)),
            "norm" => cases.push(by_rows(runtime, Rows::LayerNorm, 65_536, 768)),
            "topk" => cases.push(largest_k(runtime, 1024, 65_536, 32)),
            "gather" => cases.push(gathered(runtime, 1 << 18, 256, 1 << 19)),
            _ => {}
        }
    }
    cases
}

/// A case whose tensors have these numbers of elements, inputs first, the result last.
fn case(name: &str, shape: String, dtype: DType, lens: &[usize], make: impl Fn() -> Result<Parts> + 'static) -> Case {
    // f16 inputs are f32 before they are rounded.
    let bytes = |n: usize| 4 * n as u64;
    let largest = lens.iter().map(|n| bytes(*n)).max().unwrap_or(0);
    let traffic: u64 = lens.iter().map(|n| (dtype.bytes() * n) as u64).sum();
    Case::deferred(name, shape, make)
        .dtype(dtype)
        .memory(largest, lens.iter().map(|n| bytes(*n)).sum())
        .cost(0, traffic)
}

impl Case {
    fn flops(mut self, flops: usize) -> Self {
        self.flops = flops as u64;
        self
    }
}

/// The largest error over three stretches of `out`, the first and the last among them; nothing else is read back.
fn sampled(out: &Tensor, n_points: usize, want: impl Fn(usize) -> f64) -> Result<f64> {
    let (n, width) = (out.len(), out.len().min(4096));
    let flat = out.reshape(&[n])?;
    let mut errors = Vec::new();
    for start in [0, (n - width) / 2, n - width] {
        let part = elementwise::cast(&flat.slice(0, start..start + width)?, DType::F32)?.to_vec::<f32>()?;
        // Odd, so that no power of two in a shape hides a column.
        let step = (3 * width / n_points.max(1)).max(1) | 1;
        let points = (0..width).step_by(step).chain([width - 1]);
        errors.extend(points.map(|i| f64::from(part[i]) - want(start + i)));
    }
    Ok(worst(errors))
}

/// Square products in f16 by the variants that GPUs choose among; none without f16.
fn halves(runtime: &Runtime, n: usize) -> Vec<Case> {
    let profile = runtime.profile();
    if !profile.features.f16 {
        return Vec::new();
    }
    let tiled = |v: &Variant| matches!(v, Variant::Tiled64 | Variant::Tiled128) && !profile.is_software();
    let fits = |v: &&Variant| v.runs_on(profile, DType::F16) && (tiled(v) || v.is_cooperative());
    let variants = std::iter::once(None).chain(Variant::ALL.iter().filter(fits).copied().map(Some));
    variants.map(|variant| product(runtime, variant, [n; 3], DType::F16)).collect()
}

fn product(runtime: &Runtime, variant: Option<Variant>, [m, k, n]: [usize; 3], dtype: DType) -> Case {
    let (runtime, a, b) = (runtime.clone(), Field::new(1, dtype), Field::new(2, dtype));
    let make = move || {
        let (x, y) = (a.tensor(&runtime, &[m, k])?, b.tensor(&runtime, &[k, n])?);
        let want = move |i: usize| a.values(i / n * k, k, 1).zip(b.values(i % n, k, n)).map(|(a, b)| a * b).sum();
        let run = move || match variant {
            None => matmul(&x, &y),
            Some(variant) => matmul_with(variant, &x, &y),
        };
        Ok(Parts::new(run, move |out| sampled(out, 48, want)))
    };
    // Sums of 8192 products stay below some 150: in f16 half a step of 2^-3, in f32 thousands of roundings of 2^-18.
    case("matmul/matmul", format!("{m}x{k}x{n}"), dtype, &[m * k, k * n, m * n], make)
        .flops(2 * m * k * n)
        .variant(variant.map_or_else(|| "auto".to_owned(), |v| format!("{v:?}").to_lowercase()))
        .tolerance(if dtype == DType::F16 { 0.07 } else { 2e-3 })
}

/// One head of one sequence of `x [n * len, heads, d]`, as `[len, 1, d]`: the last, which stands for all.
fn last_head(x: Field, [n, len, heads, d]: [usize; 4]) -> Array {
    let token = |i: usize| x.values((((n - 1) * len + i) * heads + heads - 1) * d, d, 1);
    Array::new(&[len, 1, d], (0..len).flat_map(token).collect())
}

/// As [`last_head`], of a result.
fn last_head_of(out: &Tensor, [n, len, heads, _]: [usize; 4]) -> Result<Vec<f32>> {
    let part = out.slice(0, (n - 1) * len..n * len)?.slice(1, heads - 1..heads)?;
    elementwise::cast(&part.contiguous()?, DType::F32)?.to_vec::<f32>()
}

fn differences(got: &[f32], want: &Array) -> impl Iterator<Item = f64> {
    got.iter().zip(&want.data).map(|(g, w)| f64::from(*g) - w)
}

fn attend(runtime: &Runtime, shape: [usize; 4], dtype: DType) -> Case {
    let [n, len, heads, d] = shape;
    let (runtime, fields) = (runtime.clone(), [1, 2, 3].map(|step| Field::new(step, dtype)));
    let scale = 4.0 / (d as f64).sqrt();
    let make = move || {
        let full = [n * len, heads, d];
        let qkv = fields.iter().map(|x| x.tensor(&runtime, &full)).collect::<Result<Vec<_>>>()?;
        let [q, k, v] = fields.map(|x| last_head(x, shape));
        let (want, _) = reference::attention::attention([&q, &k, &v], (&[len], &[len]), false, scale);
        let offsets = Offsets::equal(&runtime, n, len)?;
        let options = Attention { causal: false, scale: Some(scale as f32) };
        Ok(Parts::new(
            move || attention(&qkv[0], &qkv[1], &qkv[2], &offsets, &options),
            move |out| Ok(worst(differences(&last_head_of(out, shape)?, &want))),
        ))
    };
    case("attention/full", format!("{n}x{len}x{heads}x{d}"), dtype, &[n * len * heads * d; 4], make)
        .flops(4 * n * len * len * heads * d)
        // Means of numbers below 1, which f16 rounds by at most 2^-12.
        .tolerance(if dtype == DType::F16 { 5e-4 } else { 1e-5 })
}

fn attend_backward(runtime: &Runtime, shape: [usize; 4]) -> Case {
    let [n, len, heads, d] = shape;
    let (runtime, fields) = (runtime.clone(), [1, 2, 3, 4].map(|step| Field::new(step, DType::F32)));
    let scale = 4.0 / (d as f64).sqrt();
    let make = move || {
        let full = [n * len, heads, d];
        let inputs = fields.iter().map(|x| x.tensor(&runtime, &full)).collect::<Result<Vec<_>>>()?;
        let [q, k, v, d_out] = fields.map(|x| last_head(x, shape));
        let [want, ..] = reference::attention::attention_backward([&q, &k, &v], &d_out, (&[len], &[len]), false, scale);
        let offsets = Offsets::equal(&runtime, n, len)?;
        let options = Attention { causal: false, scale: Some(scale as f32) };
        let (out, lse) = attention_with_lse(&inputs[0], &inputs[1], &inputs[2], &offsets, &options)?;
        let run = move || {
            let [q, k, v, d_out] = [0, 1, 2, 3].map(|i: usize| &inputs[i]);
            let all = gradients(None, [q, k, v], [&out, &lse, d_out], (&offsets, &offsets), &options, [true; 3])?;
            all.into_iter().flatten().next().ok_or_else(|| Error::Device("no gradient came back".into()))
        };
        Ok(Parts::new(run, move |d_q| Ok(worst(differences(&last_head_of(d_q, shape)?, &want)))))
    };
    case("attention/backward", format!("{n}x{len}x{heads}x{d}"), DType::F32, &[n * len * heads * d; 8], make)
        .flops(10 * n * len * len * heads * d)
        .tolerance(1e-4)
}

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Input,
    Weights,
}

/// Images, size, channels in, kernel, channels out, stride.
fn conv(runtime: &Runtime, [n, size, ci, kernel, co, stride]: [usize; 6], pass: Pass) -> Case {
    let (runtime, [x, w, d]) = (runtime.clone(), [1, 2, 3].map(|step| Field::new(step, DType::F32)));
    let options = Conv2d { stride: [stride; 2], padding: [kernel / 2; 2], ..Conv2d::default() };
    let side = (size - 1) / stride + 1;
    let (len_x, len_w, len_d) = (n * size * size * ci, kernel * kernel * ci * co, n * side * side * co);
    let make = move || {
        let weights = w.array(0, &[kernel, kernel, ci, co]);
        Ok(match pass {
            Pass::Forward => {
                let (x_in, w_in) =
                    (x.tensor(&runtime, &[n, size, size, ci])?, w.tensor(&runtime, &[kernel, kernel, ci, co])?);
                let want = move |i: usize| {
                    let pixel = i / co;
                    let image = x.array(pixel / side / side * size * size * ci, &[1, size, size, ci]);
                    let index = [0, pixel / side % side, pixel % side, i % co];
                    reference::conv::conv2d_at(&image, &weights, None, &options, &index)
                };
                let run = move || conv2d(&x_in, &w_in, None, &options, Act::None);
                Parts::new(run, move |out| sampled(out, 24, &want))
            }
            Pass::Input => {
                let (d_out, w_in) =
                    (d.tensor(&runtime, &[n, side, side, co])?, w.tensor(&runtime, &[kernel, kernel, ci, co])?);
                let want = move |i: usize| {
                    let (image, rest) = (i / (size * size * ci), i % (size * size * ci));
                    let d = d.array(image * side * side * co, &[1, side, side, co]);
                    reference::conv::conv2d_bwd_x_at(&d, &weights, [size; 2], &options, rest)
                };
                let run = move || input_gradient(&d_out, &w_in, [n, size, size, ci], &options);
                Parts::new(run, move |out| sampled(out, 24, &want))
            }
            Pass::Weights => {
                let (x_in, d_out) =
                    (x.tensor(&runtime, &[n, size, size, ci])?, d.tensor(&runtime, &[n, side, side, co])?);
                let want = move |i: usize| {
                    let one = |image: usize| {
                        let x = x.array(image * size * size * ci, &[1, size, size, ci]);
                        let d = d.array(image * side * side * co, &[1, side, side, co]);
                        reference::conv::conv2d_bwd_w_at(&x, &d, [kernel; 2], &options, i)
                    };
                    (0..n).map(one).sum::<f64>()
                };
                let run = move || weight_gradient(&x_in, &d_out, [kernel; 2], &options);
                // Every image enters each element, and is drawn again for it.
                let check = move |out: &Tensor| {
                    let got = out.to_vec::<f32>()?;
                    Ok(worst([got.len() / 3, got.len() - 1].map(|i| f64::from(got[i]) - want(i))))
                };
                Parts::new(run, check)
            }
        })
    };
    let (name, lens) = match pass {
        Pass::Forward => ("conv/conv2d", [len_x, len_w, len_d]),
        Pass::Input => ("conv/input_gradient", [len_d, len_w, len_x]),
        Pass::Weights => ("conv/weight_gradient", [len_x, len_d, len_w]),
    };
    case(name, format!("{n}x{ci}x{size}x{size} {kernel}x{kernel} {co}"), DType::F32, &lens, make)
        .flops(2 * len_d * kernel * kernel * ci)
        // As for the smaller shapes; a weight's gradient sums half a million products, to some thousands.
        .tolerance(if pass == Pass::Weights { 2e-2 } else { 5e-4 })
}

const KEY: Key = Key::new(4, 5, 6);

fn sorted_pairs(runtime: &Runtime, n: usize) -> Case {
    let runtime = runtime.clone();
    let make = move || {
        let x = bits(&runtime, n, KEY)?;
        let check = move |out: &Tensor| {
            let mut want = reference::random::bits(n, KEY);
            want.sort_unstable();
            Ok(out.to_vec::<u32>()?.iter().zip(&want).filter(|(g, w)| g != w).count() as f64)
        };
        Ok(Parts::new(move || Ok(sort::sort_pairs(&x, &x, 0..32)?.1), check))
    };
    // Keys are read twice and written once per pass of 8 bits, values read and written once.
    case("sort/sort_pairs", format!("{n}"), DType::U32, &[n; 5], make)
        .cost(0, 4 * 20 * n as u64)
        .items(n as u64, "pairs")
        .tolerance(0.0)
}

fn scanned(runtime: &Runtime, n: usize) -> Case {
    let runtime = runtime.clone();
    let make = move || {
        let x = bits(&runtime, n, KEY)?;
        let check = move |out: &Tensor| {
            let total = reference::random::bits(n - 1, KEY).into_iter().fold(0_u32, u32::wrapping_add);
            let last = out.slice(0, n - 1..n)?.to_vec::<u32>()?;
            Ok(f64::from(u8::from(last != [total])))
        };
        Ok(Parts::new(move || sort::exclusive_scan(&x), check))
    };
    case("sort/exclusive_scan", format!("{n}"), DType::U32, &[n; 2], make).flops(n).tolerance(0.0)
}

fn added(runtime: &Runtime, n: usize) -> Case {
    let (runtime, [a, b]) = (runtime.clone(), [1, 2].map(|step| Field::new(step, DType::F32)));
    let make = move || {
        let (x, y) = (a.tensor(&runtime, &[n])?, b.tensor(&runtime, &[n])?);
        let want = move |i: usize| a.values(i, 1, 1).chain(b.values(i, 1, 1)).sum();
        Ok(Parts::new(move || elementwise::add(&x, &y), move |out| sampled(out, 4096, want)))
    };
    case("elementwise/add", format!("{n}"), DType::F32, &[n; 3], make).flops(n).tolerance(1e-6)
}

fn summed(runtime: &Runtime, n: usize) -> Case {
    let (runtime, x) = (runtime.clone(), Field::new(1, DType::F32));
    let make = move || {
        let input = x.tensor(&runtime, &[n])?;
        let check = move |out: &Tensor| {
            let want: f64 = x.values(0, n, 1).sum();
            Ok(worst([(f64::from(out.item::<f32>()?) - want) / n as f64]))
        };
        Ok(Parts::new(move || reduce::sum(&input, &[0], false), check))
    };
    case("reduce/sum", format!("{n} [0]"), DType::F32, &[n, 1], make).flops(n).tolerance(1e-6)
}

#[derive(Clone, Copy, PartialEq)]
enum Rows {
    Softmax,
    LayerNorm,
}

fn by_rows(runtime: &Runtime, op: Rows, n_rows: usize, n: usize) -> Case {
    let (runtime, x) = (runtime.clone(), Field::new(1, DType::F32));
    let make = move || {
        let input = x.tensor(&runtime, &[n_rows, n])?;
        let last = x.array((n_rows - 1) * n, &[1, n]);
        let want = match op {
            Rows::Softmax => reference::softmax::softmax(&last),
            Rows::LayerNorm => reference::norm::layer_norm(&last, None, None, 1e-5),
        };
        let run = move || match op {
            Rows::Softmax => softmax::softmax(&input),
            Rows::LayerNorm => norm::layer_norm(&input, None, None, 1e-5),
        };
        let unit = if op == Rows::Softmax { n as f64 } else { 1.0 };
        let check = move |out: &Tensor| {
            let got = out.slice(0, n_rows - 1..n_rows)?.to_vec::<f32>()?;
            Ok(worst(differences(&got, &want).map(|error| error * unit)))
        };
        Ok(Parts::new(run, check))
    };
    let (name, flops) = if op == Rows::Softmax { ("softmax/softmax", 5) } else { ("norm/layer_norm", 8) };
    case(name, format!("{n_rows}x{n}"), DType::F32, &[n_rows * n; 2], make).flops(flops * n_rows * n).tolerance(1e-4)
}

fn largest_k(runtime: &Runtime, n_rows: usize, n: usize, k: usize) -> Case {
    let (runtime, x) = (runtime.clone(), Field::new(1, DType::F32));
    let make = move || {
        let input = x.tensor(&runtime, &[n_rows, n])?;
        let (want, _) = reference::topk::topk(&x.array((n_rows - 1) * n, &[n]), k, true);
        let check =
            move |out: &Tensor| Ok(worst(differences(&out.slice(0, n_rows - 1..n_rows)?.to_vec::<f32>()?, &want)));
        Ok(Parts::new(move || Ok(topk::topk(&input, k, true)?.0), check))
    };
    case("topk/topk", format!("{n_rows}x{n} k{k}"), DType::F32, &[n_rows * n, n_rows * k], make)
        .flops(n_rows * n)
        .tolerance(0.0)
}

/// The nearest of `m` rows of width `d` for each of `b` queries.
fn searched(runtime: &Runtime, [b, m, d]: [usize; 3], k: usize, dtype: DType) -> Case {
    let (runtime, q, rows) = (runtime.clone(), Field::new(1, DType::F32), Field::new(2, dtype));
    let make = move || {
        let (queries, bank) = (q.tensor(&runtime, &[b, d])?, rows.tensor(&runtime, &[m, d])?);
        let query: Vec<f64> = q.values((b - 1) * d, d, 1).collect();
        let product = move |row: usize| rows.values(row * d, d, 1).zip(&query).map(|(a, b)| a * b).sum::<f64>();
        let (of_queries, of_bank) = (queries.clone(), bank.clone());
        // Of the last query: the products of the rows found, and some rows that were not, which must not be better.
        let check = move |out: &Tensor| {
            let values = out.slice(0, b - 1..b)?.to_vec::<f32>()?;
            let ids = bank::nearest(&of_queries, &of_bank, k, None)?.1.slice(0, b - 1..b)?.to_vec::<u32>()?;
            let named = ids.iter().zip(&values).map(|(id, value)| f64::from(*value) - product(*id as usize));
            let least = values.last().copied().map_or(f64::NAN, f64::from);
            let passed_over = (0..m).step_by((m / 512).max(1)).filter(|row| !ids.contains(&(*row as u32)));
            Ok(worst(named.chain(passed_over.map(|row| (product(row) - least).max(0.0)))))
        };
        Ok(Parts::new(move || Ok(bank::nearest(&queries, &bank, k, None)?.0), check))
    };
    case("bank/nearest", format!("{b}x{m}x{d}, k {k}"), dtype, &[m * d, b * d, 2 * b * k], make)
        .flops(2 * b * m * d)
        // Sums of some hundred products below 1.
        .tolerance(2e-4)
}

fn gathered(runtime: &Runtime, n_rows: usize, width: usize, n: usize) -> Case {
    let (runtime, x) = (runtime.clone(), Field::new(1, DType::F32));
    let make = move || {
        let table = x.tensor(&runtime, &[n_rows, width])?;
        let picked: Vec<u32> = (0..n).map(|i| (i * 7919 + 13) as u32 % n_rows as u32).collect();
        let ids = Tensor::from_slice(&runtime, &picked, &[n])?;
        let want = move |i: usize| x.values(picked[i / width] as usize * width + i % width, 1, 1).sum();
        Ok(Parts::new(move || gather::gather_rows(&table, &ids), move |out| sampled(out, 1024, &want)))
    };
    // Each row that is read and written, and its number.
    case("gather/rows", format!("{n} of {n_rows}x{width}"), DType::F32, &[n_rows * width, n, n * width], make)
        .cost(0, (8 * n * width + 4 * n) as u64)
        .tolerance(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    #[test]
    fn every_kind_of_large_case_is_right_on_a_small_shape() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let rt = &runtime;
        let mut cases = vec![
            product(rt, None, [70, 33, 50], DType::F32),
            attend(rt, [3, 37, 2, 16], DType::F32),
            attend_backward(rt, [3, 37, 2, 16]),
            sorted_pairs(rt, 5001),
            scanned(rt, 5001),
            added(rt, 10_001),
            summed(rt, 10_001),
            by_rows(rt, Rows::Softmax, 7, 130),
            by_rows(rt, Rows::LayerNorm, 7, 130),
            largest_k(rt, 5, 701, 20),
            gathered(rt, 31, 20, 77),
        ];
        for stride in [1, 2] {
            let passes = [Pass::Forward, Pass::Input, Pass::Weights];
            cases.extend(passes.map(|pass| conv(rt, [3, 8, 12, 3, 20, stride], pass)));
        }
        if rt.profile().features.f16 {
            cases.extend(halves(rt, 70));
            cases.push(attend(rt, [3, 37, 2, 16], DType::F16));
        }
        for case in cases {
            assert!(case.is_deferred());
            let error = case.verify().unwrap_or_else(|e| panic!("{e}"));
            // A check that compares nothing, or a result with itself, would find no error at all.
            let exact = case.tolerance == 0.0;
            assert!(exact || error > 0.0 || case.name == "elementwise/add", "{} {error}", case.name);
            let (largest, all) = case.memory;
            assert!(largest > 0 && all >= largest && case.bytes > 0, "{}", case.name);
        }
    }

    #[test]
    fn a_wrong_element_in_any_stretch_is_seen() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let host = vec![1.0_f32; 3 * 5000];
        let tensor = |host: &[f32]| Tensor::from_slice(&runtime, host, &[3, 5000]).unwrap();
        assert_eq!(sampled(&tensor(&host), 20_000, |_| 1.0).unwrap(), 0.0);
        for wrong in [0, 7500, 14_999] {
            let mut host = host.clone();
            host[wrong] = f32::NAN;
            assert_eq!(sampled(&tensor(&host), 20_000, |_| 1.0).unwrap(), f64::INFINITY, "{wrong}");
        }
    }

    #[test]
    fn the_targets_are_rows_of_full() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let titles = |level| -> Vec<String> {
            let families = ["matmul", "attention", "sort"].iter();
            let cases = families.flat_map(|family| cases(&runtime, family, level));
            cases.map(|case| format!("{} {} {}", case.name, case.shape, case.dtype)).collect()
        };
        let full = titles(Level::Full);
        for title in
            ["matmul/matmul 4096x4096x4096 f32", "attention/full 64x1024x12x64 f32", "sort/sort_pairs 20000000 u32"]
        {
            assert!(full.iter().any(|row| row == title), "{title} is not among {full:?}");
        }
        assert!(titles(Level::Quick).is_empty() && titles(Level::Stress).len() > full.len());
        assert_eq!(runtime.memory().reserved_bytes, 0);
    }
}

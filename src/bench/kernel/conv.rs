use crate::bench::{Case, Level, noise, noise_as, spot, worst};
use crate::ops::Act;
use crate::ops::conv::{Conv2d, Variant, conv2d, conv2d_with, input_gradient, weight_gradient};
use crate::ops::elementwise::cast;
use crate::reference::conv::{conv2d_at, conv2d_bwd_w_at, conv2d_bwd_x_at};
use crate::runtime::Runtime;
use crate::{DType, Result, Tensor};

/// Images, size, channels in, kernel, channels out, stride, groups.
type Shape = [usize; 7];

/// The shape that peers were measured on: ResNet-20's widest layer, to twice the channels.
const MAIN: Shape = [64, 32, 16, 3, 32, 1, 1];
/// Stems and blocks of ResNets for 32 and 224 pixels, and of MobileNetV2.
const MORE: &[Shape] = &[
    [64, 32, 3, 3, 16, 1, 1],
    [64, 32, 16, 3, 16, 1, 1],
    [64, 32, 16, 3, 32, 2, 1],
    [64, 16, 32, 3, 32, 1, 1],
    [64, 8, 64, 3, 64, 1, 1],
    [1, 224, 3, 7, 64, 2, 1],
    [1, 56, 64, 3, 64, 1, 1],
    [1, 14, 256, 3, 256, 1, 1],
    [1, 56, 64, 1, 128, 2, 1],
    [1, 56, 24, 1, 144, 1, 1],
    [64, 32, 16, 1, 16, 1, 1],
    [1, 56, 144, 3, 144, 1, 144],
    [1, 56, 144, 3, 144, 2, 144],
    [1, 14, 384, 3, 384, 1, 384],
];

/// What training ResNet-20 and ResNet-18 needs: blocks, the step to fewer pixels, projections, stems; and MobileNetV2.
const BACKWARD: &[Shape] = &[
    [64, 32, 16, 3, 16, 1, 1],
    [64, 16, 32, 3, 32, 1, 1],
    [64, 8, 64, 3, 64, 1, 1],
    [64, 32, 16, 3, 32, 2, 1],
    [64, 16, 32, 3, 64, 2, 1],
    [64, 16, 32, 1, 64, 2, 1],
    [64, 16, 32, 1, 64, 1, 1],
    [64, 32, 3, 3, 16, 1, 1],
    [4, 112, 3, 7, 64, 2, 1],
    [4, 28, 144, 3, 144, 1, 144],
    [4, 28, 144, 3, 144, 2, 144],
];

const TINY_MAIN: Shape = [2, 9, 16, 3, 32, 1, 1];
/// Stems, steps to fewer pixels, projections, channels on their own.
const TINY: &[Shape] =
    &[[1, 15, 3, 7, 16, 2, 1], [2, 8, 16, 3, 16, 2, 1], [2, 8, 16, 1, 24, 1, 1], [1, 9, 24, 3, 24, 1, 24]];

pub(super) fn cases(runtime: &Runtime, level: Level) -> Result<Vec<Case>> {
    let (main, more, backward) = match level {
        Level::Tiny => (TINY_MAIN, TINY, TINY),
        _ => (MAIN, MORE, BACKWARD),
    };
    let mut cases = vec![case(runtime, main, None, DType::F32)?];
    if runtime.profile().features.f16 {
        cases.push(case(runtime, main, None, DType::F16)?);
    }
    if level == Level::Quick {
        return Ok(cases);
    }
    for variant in [Variant::Plain, Variant::Registers, Variant::Subgroup, Variant::Stem, Variant::Tile] {
        let [_, _, ci, kernel, co, ..] = main;
        if variant.fits(runtime.profile(), DType::F32, [kernel, kernel, ci, co], &options(main)) {
            cases.push(case(runtime, main, Some(variant), DType::F32)?);
        }
    }
    for variant in [Variant::Cooperative16, Variant::Cooperative16Small] {
        let [_, _, ci, kernel, co, ..] = main;
        if variant.fits(runtime.profile(), DType::F16, [kernel, kernel, ci, co], &options(main)) {
            cases.push(case(runtime, main, Some(variant), DType::F16)?);
        }
    }
    for &shape in more {
        cases.push(case(runtime, shape, None, DType::F32)?);
    }
    for &shape in backward {
        cases.push(backward_case(runtime, shape, Operand::Input)?);
        cases.push(backward_case(runtime, shape, Operand::Weights)?);
    }
    Ok(cases)
}

fn text([n, size, ci, kernel, co, stride, groups]: Shape) -> String {
    let strided = if stride == 1 { String::new() } else { format!(" /{stride}") };
    let grouped = if groups == 1 { String::new() } else { format!(" in {groups}") };
    format!("{n}x{ci}x{size}x{size} {kernel}x{kernel}{strided} {co}{grouped}")
}

fn options([_, _, _, kernel, _, stride, groups]: Shape) -> Conv2d {
    Conv2d { stride: [stride; 2], padding: [kernel / 2; 2], groups, ..Conv2d::default() }
}

fn case(runtime: &Runtime, shape: Shape, variant: Option<Variant>, dtype: DType) -> Result<Case> {
    let [n, size, ci, kernel, co, _, groups] = shape;
    let conv = options(shape);
    let (x, x_array) = noise_as(runtime, &[n, size, size, ci], 1, dtype)?;
    let (w, w_array) = noise_as(runtime, &[kernel, kernel, ci / groups, co], 2, dtype)?;
    let (bias, bias_array) = noise_as(runtime, &[co], 3, dtype)?;
    let [side, _] = conv.out_size([size; 2], [kernel; 2])?;
    let n_out = n * side * side * co;
    let taps = w.len() / co;
    let run = move || match variant {
        None => conv2d(&x, &w, Some(&bias), &conv, Act::None),
        Some(variant) => conv2d_with(variant, &x, &w, Some(&bias), None, &conv, Act::None),
    };
    // Every 997th element: enough to see a wrong kernel, and quick.
    let check = move |out: &Tensor| {
        let got = cast(out, DType::F32)?.to_vec::<f32>()?;
        let error = |i: usize| {
            let pixel = i / co;
            let index = [pixel / side / side, pixel / side % side, pixel % side, i % co];
            f64::from(got[i]) - conv2d_at(&x_array, &w_array, Some(&bias_array), &conv, &index)
        };
        Ok(worst((0..got.len()).step_by(997).map(error)))
    };
    let bytes = (dtype.bytes() * (n * size * size * ci + w_len(shape) + n_out)) as u64;
    Ok(Case::new("conv/conv2d", text(shape), run, check)
        .cost(2 * (n_out * taps) as u64, bytes)
        .variant(variant.map_or("auto".into(), |v| format!("{v:?}").to_lowercase()))
        .dtype(dtype)
        // Sums of up to 2304 products of numbers below 1, rounded to f32 at each step; to f16 at the end, from below 128.
        .tolerance(if dtype == DType::F16 { 0.07 } else { 2e-4 }))
}

#[derive(Clone, Copy, PartialEq)]
enum Operand {
    Input,
    Weights,
}

/// The gradient of one operand, as the backward pass computes it.
fn backward_case(runtime: &Runtime, shape: Shape, operand: Operand) -> Result<Case> {
    let [n, size, ci, kernel, co, _, groups] = shape;
    let conv = options(shape);
    let [side, _] = conv.out_size([size; 2], [kernel; 2])?;
    let (x, x_array) = noise(runtime, &[n, size, size, ci], 1)?;
    let (w, w_array) = noise(runtime, &[kernel, kernel, ci / groups, co], 2)?;
    let (d, d_array) = noise(runtime, &[n, side, side, co], 3)?;
    let n_taps = w.len() / co;
    let n_out = d.len();
    let bytes = 4 * (x.len() + w.len() + d.len()) as u64;
    // The result is recorded once more for each run, which takes no time to speak of beside it.
    let run = move || match operand {
        Operand::Input => input_gradient(&d, &w, [n, size, size, ci], &conv),
        Operand::Weights => weight_gradient(&x, &d, [kernel; 2], &conv),
    };
    let check = move |out: &Tensor| {
        let got = out.to_vec::<f32>()?;
        Ok(spot(&got, 50, |i| match operand {
            Operand::Input => conv2d_bwd_x_at(&d_array, &w_array, [size; 2], &conv, i),
            Operand::Weights => conv2d_bwd_w_at(&x_array, &d_array, [kernel; 2], &conv, i),
        }))
    };
    let name = if operand == Operand::Input { "conv/input_gradient" } else { "conv/weight_gradient" };
    Ok(Case::new(name, text(shape), run, check)
        .cost(2 * (n_out * n_taps) as u64, bytes)
        // Sums of up to 65,536 products of numbers below 1, in parts: some 2^-24 of 150 at each of thousands of steps.
        .tolerance(5e-3))
}

fn w_len([_, _, ci, kernel, co, _, groups]: Shape) -> usize {
    kernel * kernel * ci / groups * co
}

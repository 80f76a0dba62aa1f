use crate::support::compare::Tolerance;
use crate::support::row::{Row, Shapes, row, rows, upload, upload_view, values};
use crate::support::{limit, runtimes};
use leanvision::ops::Act;
use leanvision::ops::quant::{self, Bits, Block, NF4, Quantized, Variant};
use leanvision::reference::{self, Array};
use leanvision::{DType, Tensor};

const BITS: [Bits; 3] = Bits::ALL;

/// As for f32 products: sums of up to 500 products of numbers in -1..1, thousands of them. The weights are exact in f32.
const SUMS: Tolerance = Tolerance { atol: 1e-5, rtol: 1e-5, allowed: 0 };

/// Integers or levels `[n_out, n_inner]` and scales `[n_out, n_blocks]` as they lie in memory; what lies past the ends must be 0.
fn contents(w: &Quantized) -> (Vec<f64>, Vec<f64>) {
    let [n_out, n_inner] = w.shape();
    let (words, scales) = (w.words().to_vec::<u32>().unwrap(), w.scales().to_vec::<f32>().unwrap());
    let n_outputs = n_out.next_multiple_of(4);
    let (per_word, bits) = (w.bits().per_word(), w.bits().count());
    assert_eq!(w.words().shape(), [n_inner.div_ceil(per_word), n_outputs]);
    assert_eq!(w.scales().shape(), [n_inner.div_ceil(w.block().len(n_inner)), n_outputs]);
    let code = |o: usize, l: usize| {
        let word = words[l / per_word * n_outputs + o];
        if w.bits() == Bits::Nf4 {
            return f64::from(NF4[(word >> (4 * (l % 8)) & 15) as usize]);
        }
        let shifted = word << (32 - bits - bits * (l % per_word) as u32);
        f64::from(shifted.cast_signed() >> (32 - bits))
    };
    for o in 0..n_outputs {
        for l in 0..n_inner.next_multiple_of(per_word) {
            assert!((o < n_out && l < n_inner) || code(o, l) == 0.0, "padding at {o}, {l}");
        }
    }
    let n_blocks = w.scales().shape()[0];
    assert!((0..n_blocks * n_outputs).all(|i| i % n_outputs < n_out || scales[i] == 0.0), "padding of the scales");
    let integers = (0..n_out * n_inner).map(|i| code(i / n_inner, i % n_inner)).collect();
    let scales = (0..n_out * n_blocks).map(|i| f64::from(scales[i % n_blocks * n_outputs + i / n_blocks])).collect();
    (integers, scales)
}

/// Bit for bit, any NaN like any other.
fn same(got: &[f64], want: &[f64]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g == w || (g.is_nan() && w.is_nan()))
}

/// `w` in every size of integers and blocks on every device, against the reference.
fn check_integers(w: &Array, dtype: DType) {
    for runtime in runtimes() {
        if w.data.len() > limit()
            || !runtime.takes(w.data.len())
            || (dtype == DType::F16 && !runtime.profile().features.f16)
        {
            continue;
        }
        for (bits, block) in BITS.into_iter().flat_map(|bits| Block::ALL.map(|block| (bits, block))) {
            let label = format!("{:?} {dtype} {bits:?} {block:?} on {}", w.shape, runtime.profile().name);
            let want = reference::quant::quantize(w, bits, block.len(w.shape[1]));
            for view in [false, true] {
                let w = if view { upload_view } else { upload }(&runtime, w, dtype).unwrap();
                let got = quant::quantize(&w, bits, block).unwrap();
                let (integers, scales) = contents(&got);
                assert!(same(&scales, &want.scales.data), "scales of {label}");
                assert!(same(&integers, &want.multiples.data), "integers of {label}");
                let back = quant::dequantize(&got).unwrap();
                assert_eq!(back.shape(), w.shape());
                let back: Vec<f64> = back.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
                assert!(same(&back, &reference::quant::dequantize(&want).data), "numbers of {label}");
            }
            assert_eq!(runtime.damaged_guards().unwrap(), 0, "{label}");
        }
    }
}

#[test]
fn integers_are_those_of_the_reference() {
    let shapes = [[1, 1], [3, 31], [5, 33], [4, 100], [2, 128], [6, 130], [33, 17], [0, 5], [3, 0], [197, 768]];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16] {
            check_integers(&values(&shape, &(-3.0..3.0), dtype, seed as u64), dtype);
        }
    }
}

#[test]
fn ties_go_to_the_even_integer() {
    // Scales are 1, then 2^-20 and 2^90: the largest magnitudes are those of the integers.
    for (largest, unit) in [127.0, 7.0].into_iter().flat_map(|l| [0, -20, 90].map(|e| (l, 2.0_f64.powi(e)))) {
        let halves = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5, 6.5, -6.5, 6.0, 0.0];
        let data = [&[largest][..], &halves, &[largest - 0.5, 0.5 - largest, -largest]].concat();
        let w = Array::new(&[1, data.len()], data.into_iter().map(|x| x * unit).collect());
        check_integers(&w, DType::F32);
        // One step of f32 to either side of a tie.
        let near = |x: f64| [f32::next_up(x as f32), f32::next_down(x as f32)];
        let beside = w.data.iter().skip(1).flat_map(|x| near(*x)).filter(|x| f64::from(x.abs()) <= largest * unit);
        let data: Vec<f64> = [w.data[0]].into_iter().chain(beside.map(f64::from)).collect();
        check_integers(&Array::new(&[1, data.len()], data), DType::F32);
    }
}

#[test]
fn levels_change_in_the_middle() {
    // Both ends, so that the scale is the unit; then each middle, one step of f32 to either side, and the levels.
    for unit in [1.0_f32, 0.37, 3.3e-20, 7e30] {
        let middles = NF4.windows(2).map(|pair| ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32 * unit);
        let beside = middles.flat_map(|x| [x, x.next_up(), x.next_down()]);
        let levels = NF4.map(|level| level * unit);
        let data: Vec<f64> = [unit, -unit].into_iter().chain(beside).chain(levels).map(f64::from).collect();
        check_integers(&Array::new(&[1, data.len()], data), DType::F32);
    }
}

#[test]
fn levels_are_those_of_qlora() {
    let published = [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ];
    assert!(NF4.iter().zip(published).all(|(got, want)| f64::from(*got) == want));
    let Some(runtime) = crate::support::runtime() else { return };
    let w = Tensor::from_slice(&runtime, &NF4, &[1, 16]).unwrap();
    let back = quant::dequantize(&quant::quantize(&w, Bits::Nf4, Block::Of64).unwrap()).unwrap();
    assert_eq!(back.to_vec::<f32>().unwrap(), NF4);
}

#[test]
fn blocks_that_have_no_scale() {
    // Four blocks of 32 in each row: numbers, then what cannot be scaled.
    let edge = |exponent: i32| 2.0_f64.powi(exponent);
    let kinds = [
        [0.0, -0.0, 0.0],
        [1e-40, 0.0, -1e-42],
        [edge(-100), 0.5 * edge(-100), 0.2 * edge(-100)],
        [f64::from(edge(-100) as f32).next_down() as f32 as f64 * (1.0 - 1e-6), 0.0, 0.0],
        [f64::from(f32::next_down(edge(127) as f32)), 1.0, -1e37],
        [edge(127), 1.0, 2.0],
        [f64::from(f32::MAX), 1.0, 2.0],
        [f64::INFINITY, 1.0, 2.0],
        [1.0, f64::NEG_INFINITY, 2.0],
        [1.0, f64::NAN, f64::INFINITY],
        [f64::NAN, f64::NAN, f64::NAN],
    ];
    let w = Array::from_fn(&[kinds.len(), 100], |at| {
        let x = if at[1] / 32 == 1 { kinds[at[0]][at[1] % 3] } else { (at[1] as f64 - 50.0) / 8.0 };
        f64::from(x as f32)
    });
    check_integers(&w, DType::F32);
    // Alone, as whole rows.
    for kind in kinds {
        check_integers(&Array::new(&[1, 3], kind.map(|x| f64::from(x as f32)).to_vec()), DType::F32);
    }
}

/// `x` `[.., n_inner]`, weights `[n_out, n_inner]`, bias `[n_out]`.
const CASES: &[Shapes] = &[
    &[&[1, 1], &[1, 1], &[1]],
    &[&[3, 31], &[5, 31], &[5]],
    &[&[9, 33], &[7, 33], &[7]],
    &[&[2, 100], &[4, 100], &[4]],
    &[&[8, 36], &[8, 36], &[8]],
    &[&[17, 64], &[12, 64], &[12]],
    &[&[2, 3, 132], &[20, 132], &[20]],
    &[&[40], &[9, 40], &[9]],
    &[&[7, 4], &[16, 4], &[16]],
    &[&[0, 5], &[3, 5], &[3]],
    &[&[3, 0], &[6, 0], &[6]],
    &[&[4, 6], &[0, 6], &[0]],
    &[&[41, 516], &[65, 516], &[65]],
    &[&[197, 192], &[100, 192], &[100]],
];
const SMALL: &[Shapes] = &[&[&[9, 33], &[7, 33], &[7]], &[&[11, 72], &[12, 72], &[12]]];

/// A row's name, which lives as long as the test run.
fn named(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

fn linear(variant: Option<Variant>, bits: Bits, block: Block, act: Act, bias: bool, cases: &'static [Shapes]) -> Row {
    row(
        named(format!("linear {variant:?} {bits:?} {block:?} {act:?} {bias}")),
        cases,
        -1.0..1.0,
        move |x| {
            let (w, bias) = (quant::quantize(&x[1], bits, block)?, bias.then_some(&x[2]));
            match variant {
                None => quant::linear(&x[0], &w, bias, act),
                Some(variant) => quant::linear_with(variant, &x[0], &w, bias, act),
            }
        },
        move |x| {
            let w = reference::quant::quantize(&x[1], bits, block.len(x[1].shape[1]));
            reference::quant::linear(&x[0], &w, bias.then_some(&x[2]), act)
        },
    )
    .tolerance(SUMS)
    .f16(Tolerance::F16)
}

fn linear_i8(variant: Option<Variant>, block: Block, act: Act, bias: bool, cases: &'static [Shapes]) -> Row {
    row(
        named(format!("linear_i8 {variant:?} {block:?} {act:?} {bias}")),
        cases,
        -1.0..1.0,
        move |x| {
            let (w, bias) = (quant::quantize(&x[1], Bits::Int8, block)?, bias.then_some(&x[2]));
            match variant {
                None => quant::linear_i8(&x[0], &w, bias, act),
                Some(variant) => quant::linear_i8_with(variant, &x[0], &w, bias, act),
            }
        },
        move |x| {
            let w = reference::quant::quantize(&x[1], Bits::Int8, block.len(x[1].shape[1]));
            reference::quant::linear_i8(&x[0], &w, bias.then_some(&x[2]), act)
        },
    )
    .tolerance(SUMS)
    .f16(Tolerance::F16)
}

const DOTS: [Option<Variant>; 3] = [None, Some(Variant::Plain), Some(Variant::Registers)];

#[test]
fn linear_matches_the_reference() {
    rows(BITS.map(|bits| linear(None, bits, Block::Of32, Act::None, true, CASES)));
}

#[test]
fn every_variant_matches_the_reference() {
    for bits in BITS {
        rows(Variant::ALL.map(|v| linear(Some(v), bits, Block::Of64, Act::None, true, CASES)));
        rows(Variant::ALL.map(|v| linear(Some(v), bits, Block::Of64, Act::Gelu, false, SMALL)));
        let blocks = [Block::Of32, Block::Of128, Block::Row];
        let cases = &CASES[5..7];
        rows(
            Variant::ALL
                .into_iter()
                .flat_map(|v| blocks.map(|block| linear(Some(v), bits, block, Act::Relu, true, cases).no_views())),
        );
    }
}

#[test]
fn integer_products_match_the_reference() {
    rows(DOTS.map(|v| linear_i8(v, Block::Of32, Act::None, true, CASES)));
    rows(DOTS.map(|v| linear_i8(v, Block::Of64, Act::Gelu, false, SMALL)));
    rows(DOTS.into_iter().flat_map(|v| {
        [Block::Of128, Block::Row].map(|block| linear_i8(v, block, Act::Relu, true, &CASES[5..7]).no_views())
    }));
}

#[test]
fn every_activation_reaches_every_kernel() {
    let acts = [Act::Relu6, Act::GeluTanh, Act::Silu, Act::Sigmoid, Act::Tanh, Act::Hardswish];
    rows(acts.into_iter().flat_map(|act| {
        [Variant::Plain, Variant::Row, Variant::Registers, Variant::Tiled]
            .map(|v| linear(Some(v), Bits::Int4, Block::Of32, act, true, SMALL))
    }));
    rows(acts.into_iter().flat_map(|act| {
        [Variant::Plain, Variant::Registers].map(|v| linear_i8(Some(v), Block::Of32, act, true, SMALL))
    }));
}

#[test]
fn nans_and_infinities_stay_in_their_rows() {
    const SPECIAL: &[f64] = &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40];
    const CASES: &[Shapes] = &[&[&[37, 9], &[11, 9], &[11]], &[&[37, 12], &[12, 12], &[12]]];
    for bits in BITS {
        rows(Variant::ALL.map(|v| linear(Some(v), bits, Block::Of32, Act::None, true, CASES).special(SPECIAL)));
    }
    rows(DOTS.map(|v| linear_i8(v, Block::Of32, Act::None, true, CASES).special(SPECIAL)));
}

#[test]
fn grids_fold_past_65535_workgroups() {
    const OUTPUTS: &[Shapes] = &[&[&[1_400_000, 1], &[3, 1], &[3]]];
    const ROWS: &[Shapes] = &[&[&[1_060_000, 1], &[1, 1], &[1]]];
    const SQUARES: &[Shapes] = &[&[&[4_200_000, 1], &[1, 1], &[1]]];
    const TILES: &[Shapes] = &[&[&[8_400_000, 1], &[1, 1], &[1]]];
    let on = |v, cases| linear(Some(v), Bits::Int8, Block::Of32, Act::None, true, cases).no_views();
    rows([
        on(Variant::Plain, OUTPUTS),
        on(Variant::Row, ROWS),
        on(Variant::Registers, TILES),
        on(Variant::Tiled, SQUARES),
    ]);
    let dots = |v, cases| linear_i8(Some(v), Block::Of32, Act::None, true, cases).no_views();
    rows([dots(Variant::Plain, OUTPUTS), dots(Variant::Registers, TILES)]);
    // Packing and unpacking: more words than 65,535 groups of 64 have invocations.
    const LONG: &[Shapes] = &[&[&[1, 1], &[4_200_000, 1], &[1]]];
    rows([row(
        "dequantize",
        LONG,
        -1.0..1.0,
        |x| quant::dequantize(&quant::quantize(&x[1], Bits::Int8, Block::Row)?),
        |x| reference::quant::dequantize(&reference::quant::quantize(&x[1], Bits::Int8, 1)),
    )
    .tolerance(Tolerance { atol: 0.0, rtol: 0.0, allowed: 0 })
    .no_views()]);
}

/// Partial sums of up to some hundreds, at random over 100,000 additions.
const LONG: Tolerance = Tolerance { atol: 3e-3, rtol: 0.0, allowed: 0 };

#[test]
fn long_sums_lose_no_part() {
    const CASES: &[Shapes] = &[&[&[3, 100_000], &[5, 100_000], &[5]], &[&[9, 65_537], &[3, 65_537], &[3]]];
    let variants = [None, Some(Variant::Row), Some(Variant::Registers), Some(Variant::Unpacked)];
    for bits in BITS {
        rows(variants.map(|v| linear(v, bits, Block::Row, Act::None, true, CASES).tolerance(LONG).no_views()));
        rows(variants.map(|v| linear(v, bits, Block::Of128, Act::None, true, CASES).tolerance(LONG).no_views()));
    }
    rows(DOTS.map(|v| linear_i8(v, Block::Row, Act::None, true, CASES).tolerance(LONG).no_views()));
    rows(DOTS.map(|v| linear_i8(v, Block::Of128, Act::None, true, CASES).tolerance(LONG).no_views()));
}

#[test]
fn gradients_match_differences() {
    const CASES: &[Shapes] = &[
        &[&[2, 3, 5], &[7, 5], &[7]],
        &[&[12, 8], &[4, 8], &[4]],
        &[&[33], &[3, 33], &[3]],
        &[&[1, 40], &[6, 40], &[6]],
    ];
    rows([Act::None, Act::Tanh, Act::Gelu].into_iter().flat_map(|act| {
        BITS.map(|bits| linear(None, bits, Block::Of32, act, true, CASES).grad(&[0, 2], Tolerance::F32))
    }));
}

/// `d` `[rows, n_out]`, weights `[n_out, n_inner]`.
const BACK: &[Shapes] = &[
    &[&[1, 1], &[1, 1]],
    &[&[3, 5], &[5, 31]],
    &[&[9, 7], &[7, 33]],
    &[&[2, 4], &[4, 100]],
    &[&[8, 8], &[8, 36]],
    &[&[17, 12], &[12, 64]],
    &[&[6, 20], &[20, 132]],
    &[&[0, 3], &[3, 5]],
    &[&[3, 0], &[0, 6]],
    &[&[4, 6], &[6, 0]],
    &[&[41, 65], &[65, 516]],
    &[&[197, 100], &[100, 192]],
];

fn input_gradient(variant: Variant, bits: Bits, block: Block, cases: &'static [Shapes]) -> Row {
    row(
        named(format!("input_gradient {variant:?} {bits:?} {block:?}")),
        cases,
        -1.0..1.0,
        move |x| quant::input_gradient_with(variant, &x[0], &quant::quantize(&x[1], bits, block)?),
        move |x| {
            let w = reference::quant::quantize(&x[1], bits, block.len(x[1].shape[1]));
            reference::matmul::matmul(&x[0], &reference::quant::dequantize(&w))
        },
    )
    .tolerance(SUMS)
    .f16(Tolerance::F16)
}

const BACKS: [Variant; 4] = [Variant::Plain, Variant::Registers, Variant::Tiled, Variant::Unpacked];

#[test]
fn every_input_gradient_matches_the_reference() {
    for bits in BITS {
        rows(BACKS.map(|v| input_gradient(v, bits, Block::Of64, BACK)));
        let blocks = [Block::Of32, Block::Of128, Block::Row];
        let cases = &BACK[5..7];
        rows(BACKS.into_iter().flat_map(|v| blocks.map(|block| input_gradient(v, bits, block, cases).no_views())));
    }
    const SPECIAL: &[f64] = &[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40];
    const CASES: &[Shapes] = &[&[&[37, 9], &[9, 11]], &[&[37, 12], &[12, 12]]];
    rows(BACKS.map(|v| input_gradient(v, Bits::Nf4, Block::Of32, CASES).special(SPECIAL)));
    // More than is unpacked at a time: 8 MiB of 1024 outputs are 2048 inner indices.
    const WIDE: &[Shapes] = &[&[&[3, 1024], &[1024, 2100]]];
    rows([Bits::Int8, Bits::Nf4].map(|bits| input_gradient(Variant::Unpacked, bits, Block::Of64, WIDE).no_views()));
}

#[test]
fn input_gradients_fold_past_65535_workgroups() {
    const OUTPUTS: &[Shapes] = &[&[&[1_400_000, 1], &[1, 3]]];
    const TILES: &[Shapes] = &[&[&[8_400_000, 1], &[1, 1]]];
    const SQUARES: &[Shapes] = &[&[&[4_200_000, 1], &[1, 1]]];
    let on = |v, cases| input_gradient(v, Bits::Nf4, Block::Of32, cases).no_views();
    rows([on(Variant::Plain, OUTPUTS), on(Variant::Registers, TILES), on(Variant::Tiled, SQUARES)]);
}

#[test]
fn input_gradients_hold_no_unpacked_matrix() {
    let Some(runtime) = crate::support::runtime() else { return };
    if limit() < 1 << 22 {
        return;
    }
    // 12 MiB in f32, of which 8 are unpacked at a time.
    let w = quant::quantize(&Tensor::full(&runtime, &[1024, 3072], 0.5, DType::F32).unwrap(), Bits::Nf4, Block::Of64);
    let (w, d) = (w.unwrap(), Tensor::full(&runtime, &[64, 1024], 1.0, DType::F32).unwrap());
    runtime.sync().unwrap();
    for (variant, most) in [(Variant::Registers, 1 << 20), (Variant::Tiled, 1 << 20), (Variant::Unpacked, 11 << 20)] {
        runtime.reset_peak_memory();
        let before = runtime.memory().used_bytes;
        let got = quant::input_gradient_with(variant, &d, &w).unwrap();
        let taken = runtime.memory().peak_bytes - before;
        assert!(taken <= most, "{variant:?} takes {taken} bytes");
        assert_eq!(got.slice(0, 0..1).unwrap().to_vec::<f32>().unwrap(), [512.0; 3072]);
    }
}

#[test]
fn rows_in_8_bits_are_off_by_no_more_than_documented() {
    let (m, k, n) = (13, 192, 24);
    let (x, w) = (values(&[m, k], &(-2.0..3.0), DType::F32, 1), values(&[n, k], &(-1.0..1.0), DType::F32, 2));
    let exact = reference::quant::quantize(&w, Bits::Int8, 64);
    let (want, w_back) = (reference::quant::linear(&x, &exact, None, Act::None), reference::quant::dequantize(&exact));
    for runtime in runtimes().into_iter().filter(|r| r.takes(m * k + n * k)) {
        let packed = quant::quantize(&upload(&runtime, &w, DType::F32).unwrap(), Bits::Int8, Block::Of64).unwrap();
        let x_on = upload(&runtime, &x, DType::F32).unwrap();
        let got = quant::linear_i8(&x_on, &packed, None, Act::None).unwrap().to_vec::<f32>().unwrap();
        for (i, (got, want)) in got.iter().zip(&want.data).enumerate() {
            let largest = x.data[i / n * k..][..k].iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let sum: f64 = w_back.data[i % n * k..][..k].iter().map(|w| w.abs()).sum();
            assert!((f64::from(*got) - want).abs() <= largest / 253.0 * sum, "output {i}: {got}, {want} wanted");
        }
    }
}

#[test]
fn a_matrix_takes_what_it_says() {
    for runtime in runtimes() {
        let w = upload(&runtime, &values(&[6, 64], &(-1.0..1.0), DType::F32, 1), DType::F32).unwrap();
        let packed = quant::quantize(&w, Bits::Int4, Block::Of32).unwrap();
        // Eight outputs of 64 x 4 bits and two scales.
        assert_eq!(packed.bytes(), 8 * (32 + 8));
        assert_eq!((packed.shape(), packed.bits(), packed.block()), ([6, 64], Bits::Int4, Block::Of32));
    }
}

#[test]
fn wrong_operands_are_named() {
    let Some(runtime) = crate::support::runtime() else { return };
    let zeros = |shape: &[usize], dtype| Tensor::zeros(&runtime, shape, dtype).unwrap();
    let f32 = |shape: &[usize]| zeros(shape, DType::F32);
    let message = |result: leanvision::Result<Tensor>| result.unwrap_err().to_string();
    let packed = |bits| quant::quantize(&f32(&[3, 7]), bits, Block::Of32).unwrap();
    let (w, w4) = (packed(Bits::Int8), packed(Bits::Int4));
    assert_eq!(
        message(quant::linear(&f32(&[2, 8]), &w, None, Act::None)),
        "quant::linear: x [2, 8] and w [3, 7] given, [.., 7] wanted for x"
    );
    assert!(quant::linear(&f32(&[]), &w, None, Act::None).is_err());
    let x = f32(&[2, 7]);
    assert_eq!(
        message(quant::linear(&x, &w, Some(&f32(&[2])), Act::None)),
        "quant::linear: w [3, 7] and bias [2] differ in n_out"
    );
    assert!(message(quant::linear(&x, &w, Some(&zeros(&[3], DType::U32)), Act::None)).contains("f32 and bias u32"));
    assert!(message(quant::linear(&zeros(&[2, 7], DType::U32), &w, None, Act::None)).contains("a float type"));
    assert_eq!(message(quant::linear_i8(&x, &w4, None, Act::None)), "linear_i8: weights of 4 bits given, 8 wanted");
    assert!(message(quant::linear_i8_with(Variant::Row, &x, &w, None, Act::None)).contains("Plain or Registers"));
    let leaf = x.require_grad().unwrap();
    assert!(message(quant::linear_i8(&leaf, &w, None, Act::None)).contains("no gradient flows through it"));
    let d = f32(&[2, 3]);
    assert!(message(quant::input_gradient_with(Variant::Row, &d, &w)).contains("no gradient of its own"));
    assert!(message(quant::input_gradient_with(Variant::Plain, &x, &w)).contains("differ in n_out"));
    assert!(message(quant::linear_with(Variant::Row, &leaf, &w, None, Act::None)).contains("no gradient"));
    assert!(quant::quantize(&leaf, Bits::Int8, Block::Row).is_err());
    assert!(quant::quantize(&f32(&[7]), Bits::Int8, Block::Row).is_err());
    assert!(quant::quantize(&zeros(&[3, 7], DType::I32), Bits::Int8, Block::Row).is_err());
}

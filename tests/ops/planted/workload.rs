//! Launches of every kernel on small odd shapes: no size is a multiple of a tile, a vec4 or a workgroup, and grids are
//! folded, so that each leaves something over.

use crate::support::row::{upload, values};
use leanvision::ops::{
    Act, RowVariant, attention as at, augment, bank, basis, conv, elementwise as e, gather as g, kmeans, matmul as mm,
    norm, optim, pool, random, reduce, rotary, scatter, softmax as s, sort, topk, views,
};
use leanvision::runtime::{CapturedLaunch, Kernel, SimulatedDevice};
use leanvision::sim::{Buffer, Checks, Options};
use leanvision::tensor::Offsets;
use leanvision::{DType, Error, Result, Runtime, Tensor};
use std::sync::LazyLock;

/// The adapters whose variants are launched: subgroup size, kind, immediates.
const DEVICES: [(u32, &str, bool); 3] = [(8, "cpu", true), (32, "discrete", false), (16, "integrated", true)];

/// A kernel of the registry: its entry point and the lists it was declared with.
pub fn name(kernel: &Kernel) -> String {
    format!("{} {:?} {:?}", kernel.label(), kernel.overrides, kernel.types)
}

/// Every launch of the workload, once each, shortest first.
pub fn launches() -> &'static [CapturedLaunch] {
    static LAUNCHES: LazyLock<Vec<CapturedLaunch>> = LazyLock::new(|| {
        let mut all: Vec<CapturedLaunch> = Vec::new();
        let mut known = std::collections::HashSet::new();
        for (subgroup_size, kind, immediates) in DEVICES {
            // The launches are checked in their own test.
            let options = Options { subgroup_size, checks: Checks::none(), ..Options::default() };
            let device = SimulatedDevice { options, kind, immediates, capture: true, ..Default::default() };
            let runtime = Runtime::simulated(device).unwrap();
            for (family, work) in FAMILIES.iter().filter(|(family, _)| all.is_empty() || !SLOW.contains(family)) {
                work(&runtime).unwrap_or_else(|error| panic!("{family}: {error}"));
            }
            let mut new = |l: &CapturedLaunch| {
                let form = (name(&l.kernel), l.types.clone(), l.overrides.clone(), l.grid, l.params.clone());
                known.insert(form)
            };
            all.extend(runtime.take_launches().into_iter().filter(&mut new));
        }
        all.extend(micro());
        let mut all: Vec<_> = all.into_iter().map(folded).collect();
        all.sort_by_key(|l| l.bindings.iter().map(Buffer::len).sum::<u64>());
        all
    });
    &LAUNCHES
}

/// Families whose ops are launched on the first device alone: every variant runs on any.
const SLOW: [&str; 2] = ["conv", "matmul"];

type Work = fn(&Runtime) -> Result<()>;

const FAMILIES: &[(&str, Work)] = &[
    ("attention", attention),
    ("augment", augment),
    ("bank", banks),
    ("basis", bases),
    ("conv", convolution),
    ("elementwise", elementwise),
    ("gather", gather),
    ("kmeans", clusters),
    ("matmul", matmul),
    ("norm", norms),
    ("optim", optimizers),
    ("pool", pools),
    ("quant", quants),
    ("random", randoms),
    ("reduce", reductions),
    ("rotary", rotations),
    ("scatter", scatters),
    ("softmax", softmaxes),
    ("sort", sorts),
    ("topk", topks),
    ("views", view),
];

/// Folds a grid of three workgroups or more so that some are left over, as a device does whose grids are small.
fn folded(mut launch: CapturedLaunch) -> CapturedLaunch {
    let n = launch.grid[0] * launch.grid[1];
    if let Some(y) = (2..n).find(|y| !n.is_multiple_of(*y)) {
        launch.grid = [n.div_ceil(y), y, 1];
    }
    launch
}

/// Nothing where the device does not have a variant, or the variant not the shape.
fn fits<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Feature { .. } | Error::Limit { .. } | Error::Argument { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn noise(runtime: &Runtime, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let range = if dtype.is_float() { 0.25..2.0 } else { 0.0..90.0 };
    let seed = shape.iter().fold(1, |seed, n| seed * 31 + *n as u64);
    upload(runtime, &values(shape, &range, dtype, seed), dtype)
}

fn floats(runtime: &Runtime, shape: &[usize]) -> Result<Tensor> {
    noise(runtime, shape, DType::F32)
}

fn words(runtime: &Runtime, n: usize) -> Result<Tensor> {
    noise(runtime, &[n], DType::U32)
}

/// An op and its backward pass over tensors of these shapes.
fn both(runtime: &Runtime, shapes: &[&[usize]], op: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<()> {
    let leaves: Vec<Tensor> =
        shapes.iter().map(|shape| floats(runtime, shape)?.require_grad()).collect::<Result<_>>()?;
    if let Some(out) = fits(op(&leaves))? {
        fits(out.backward_with(&floats(runtime, out.shape())?))?;
    }
    Ok(())
}

fn attention(runtime: &Runtime) -> Result<()> {
    for (lengths, heads, width, causal, dtype) in [
        (&[5, 0, 1, 19][..], [3, 3], 4, false, DType::F32),
        (&[5, 0, 1, 17], [2, 1], 3, true, DType::F32),
        (&[37, 3], [1, 1], 16, false, DType::F32),
        (&[71], [1, 1], 16, true, DType::F32),
        (&[9, 4], [2, 1], 36, false, DType::F32),
        (&[35], [1, 1], 80, true, DType::F32),
        (&[7, 11], [3, 1], 12, false, DType::F16),
        (&[6, 3], [2, 1], 124, true, DType::F32),
    ] {
        let n = lengths.iter().sum();
        let q = noise(runtime, &[n, heads[0], width], dtype)?;
        let [k, v] = [1, 2].map(|_| noise(runtime, &[n, heads[1], width], dtype));
        let (k, v) = (k?, v?);
        let offsets = Offsets::from_lengths(runtime, lengths)?;
        let options = at::Attention { causal, scale: None };
        for &variant in at::AttentionVariant::ALL {
            let both = (&offsets, &offsets);
            let Some((out, lse)) = fits(at::attention_with(variant, [&q, &k, &v], both, &options))? else { continue };
            if variant.backward_runs_on(runtime.profile(), dtype, width) {
                let outs = [&out, &lse, &q];
                fits(at::attention_backward_with(variant, [&q, &k, &v], outs, both, &options))?;
            }
        }
    }
    both(runtime, &[&[9, 2, 5], &[9, 2, 5], &[9, 2, 5]], |x| {
        at::attention(&x[0], &x[1], &x[2], &Offsets::from_lengths(runtime, &[4, 5])?, &at::Attention::default())
    })
}

fn augment(runtime: &Runtime) -> Result<()> {
    for (shape, batch) in [([3, 7, 5, 3], 13), ([2, 5, 3, 1], 67), ([2, 3, 3, 6], 3)] {
        let images = noise(runtime, &shape, DType::U8)?;
        let scale = floats(runtime, &[shape[3]])?;
        let options = augment::CropFlip { pad: 2, flip: true, key: random::Key::new(7, 1, 2) };
        for dtype in [DType::F32, DType::F16] {
            fits(augment::crop_flip(&images, &words(runtime, batch)?, None, &scale, &scale, &options, dtype))?;
        }
    }
    Ok(())
}

fn view(runtime: &Runtime) -> Result<()> {
    let strong = views::Recipe { solarize: 0.5, blur: 0.7, ..views::Recipe::STRONG };
    for (shape, side, batch, recipe) in [
        ([3, 7, 9, 3], [6, 5], 13, strong),
        ([2, 11, 4, 1], [13, 3], 5, views::Recipe { filter: views::Filter::Bicubic, ..strong }),
    ] {
        let images = noise(runtime, &shape, DType::U8)?;
        let scale = floats(runtime, &[shape[3]])?;
        let views = views::Views::new(runtime, &recipe, [shape[1], shape[2]], side)?;
        let key = random::Key::new(7, 8, 2);
        for dtype in [DType::F32, DType::F16] {
            fits(views.make(&images, &words(runtime, batch)?, None, &scale, &scale, key, dtype))?;
        }
    }
    Ok(())
}

fn banks(runtime: &Runtime) -> Result<()> {
    let (q, rows) = (noise(runtime, &[5, 8], DType::F32)?, noise(runtime, &[76, 8], DType::F32)?);
    let bank_tags = words(runtime, 76)?;
    let tags = bank::Tags { queries: &bank_tags.slice(0, 0..5)?, bank: &bank_tags };
    for k in [3, 7, 10, 14, 18, 22, 26, 30] {
        let (_, found) = bank::nearest(&q, &rows, k, Some(tags))?;
        bank::mean_rows(&rows, &found)?;
    }
    bank::nearest(&q, &rows, 5, None)?;
    bank::nearest_among(&q, &rows.slice(0, 0..67)?, &bank_tags, 6, None)?;
    ring(runtime)?;
    bank::softmax_mean(&q, &rows.slice(0, 0..75)?, &floats(runtime, &[75, 13])?, 0.5)?;
    bank::softmax_mean(&q, &floats(runtime, &[301, 8])?, &floats(runtime, &[301, 8])?, 0.5)?;
    let halves = e::cast(&rows, DType::F16);
    fits(halves.and_then(|rows| bank::mean_rows(&rows, &words(runtime, 6)?.reshape(&[3, 2])?))).map(drop)
}

/// Batches of 13 rows into a ring of five.
fn ring(runtime: &Runtime) -> Result<()> {
    let step = Tensor::from_slice(runtime, &[7_u32], &[1])?;
    // No id twice, the last ones past the pool.
    let ids = Tensor::from_slice(runtime, &(0..13).map(|i| 6 * i).collect::<Vec<u32>>(), &[13])?;
    let totals = words(runtime, 8)?;
    let rows = floats(runtime, &[13, 12])?;
    for dtype in [DType::F32, DType::F16] {
        let Some(bank) = fits(noise(runtime, &[65, 12], dtype))? else { continue };
        bank::enqueue(&bank, &rows, &step)?;
        bank::store_rows(&bank, &rows, &ids)?;
    }
    // Two workgroups of queries.
    let (tags, many) = (words(runtime, 150)?, words(runtime, 75)?);
    bank::mark(&tags, &many, &step)?;
    let found = words(runtime, 225)?.reshape(&[75, 3])?;
    bank::tally(&found, &tags, &many, &words(runtime, 61)?, &step, &totals)?;
    bank::random_unit(runtime, [5, 8], DType::F32, random::Key::new(1, 2, 3)).map(drop)
}

fn clusters(runtime: &Runtime) -> Result<()> {
    for dtype in [DType::F32, DType::F16] {
        let Some(data) = fits(noise(runtime, &[41, 13], dtype))? else { continue };
        kmeans::kmeans(&data, 7, 1, random::Key::new(1, 2, 3))?;
    }
    Ok(())
}

fn convolution(runtime: &Runtime) -> Result<()> {
    const PLAIN: conv::Conv2d = conv::Conv2d { stride: [1, 1], padding: [0, 0], dilation: [1, 1], groups: 1 };
    const SAME: conv::Conv2d = conv::Conv2d { padding: [1, 1], ..PLAIN };
    const HALF: conv::Conv2d = conv::Conv2d { stride: [2, 2], ..SAME };
    let cases: &[([usize; 4], [usize; 4], conv::Conv2d)] = &[
        ([2, 7, 6, 3], [3, 3, 3, 5], SAME),
        ([1, 9, 11, 4], [3, 3, 4, 20], SAME),
        ([1, 9, 11, 4], [3, 3, 4, 20], HALF),
        ([1, 5, 5, 12], [3, 3, 12, 68], SAME),
        ([2, 9, 7, 3], [3, 3, 3, 8], HALF),
        ([1, 5, 16, 12], [3, 3, 12, 20], SAME),
        ([1, 5, 15, 20], [3, 3, 20, 12], HALF),
        ([3, 5, 7, 12], [3, 3, 1, 12], conv::Conv2d { groups: 12, ..SAME }),
        ([1, 9, 17, 12], [3, 3, 1, 12], conv::Conv2d { groups: 12, ..HALF }),
        ([1, 5, 10, 16], [3, 3, 8, 40], conv::Conv2d { groups: 2, ..SAME }),
        ([2, 5, 7, 16], [1, 1, 16, 24], PLAIN),
        ([2, 7, 8, 8], [1, 1, 8, 12], conv::Conv2d { stride: [2, 2], ..PLAIN }),
        ([1, 9, 14, 4], [5, 3, 4, 12], conv::Conv2d { stride: [1, 3], padding: [2, 0], ..PLAIN }),
        ([3, 5, 9, 5], [2, 2, 5, 37], PLAIN),
    ];
    for (i, (x, w, options)) in cases.iter().enumerate() {
        for dtype in [DType::F32, DType::F16].into_iter().take(if i < 2 { 2 } else { 1 }) {
            let [ho, wo] = options.out_size([x[1], x[2]], [w[0], w[1]])?;
            let (input, weight) = (noise(runtime, x, dtype)?, noise(runtime, w, dtype)?);
            let bias = noise(runtime, &[w[3]], dtype)?;
            let d = noise(runtime, &[x[0], ho, wo, w[3]], dtype)?;
            for &variant in conv::Variant::ALL {
                fits(conv::conv2d_with(variant, &input, &weight, Some(&bias), Some(&d), options, Act::Relu))?;
                if i == 0 {
                    fits(conv::conv2d_with(variant, &input, &weight, None, None, options, Act::None))?;
                }
            }
            for variant in [conv::InputVariant::Plain, conv::InputVariant::Forward] {
                fits(conv::input_gradient_with(variant, &d, &weight, *x, options))?;
            }
            for &variant in conv::WeightVariant::ALL {
                fits(conv::weight_gradient_with(variant, &input, &d, [w[0], w[1]], options))?;
            }
        }
    }
    Ok(())
}

fn elementwise(runtime: &Runtime) -> Result<()> {
    let shape = [5, 7, 11];
    let x = floats(runtime, &shape)?;
    let half = noise(runtime, &shape, DType::F16)?;
    for x in [&x, &half] {
        fits(e::affine(x, 2.0, 1.0))?;
        fits(e::add(x, x))?;
        fits(e::add(x, &x.slice(0, 1..2)?))?;
        fits(e::add_act(x, x, Act::Gelu))?;
        fits(e::add_act(x, &x.slice(1, 1..2)?, Act::Silu))?;
        fits(e::less(x, &x.slice(1, 1..2)?))?;
        fits(x.permute(&[2, 0, 1])?.contiguous())?;
        fits(e::cast(&x.permute(&[2, 1, 0])?.step(1, 3)?, DType::F16))?;
        fits(e::cast(&x.permute(&[2, 1, 0])?.step(1, 3)?, DType::F32))?;
    }
    for dtype in [DType::F16, DType::U32, DType::I32, DType::U8] {
        fits(e::cast(&x, dtype))?;
        fits(Tensor::full(runtime, &[1003], 3.0, dtype))?;
    }
    let bytes = noise(runtime, &[37, 9, 3], DType::U8)?;
    fits(e::cast(&bytes, DType::F32))?;
    fits(bytes.transpose()?.contiguous())?;
    let scale = floats(runtime, &[3])?;
    fits(e::from_bytes(&bytes, &scale, &scale, DType::F32))?;
    fits(e::from_bytes(&bytes, &scale, &scale, DType::F16))?;
    fits(e::where_(&e::less(&x, &x)?, &x, &x.slice(1, 1..2)?))?;
    fits(e::scale_shift(&x, &floats(runtime, &[11])?, &floats(runtime, &[11])?))?;
    both(runtime, &[&shape, &[7, 1]], |x| e::add_act(&e::square(&x[0])?, &x[1], Act::Gelu))?;
    both(runtime, &[&shape, &shape], |x| e::maximum(&e::div(&x[0], &x[1])?, &x[1]))?;
    both(runtime, &[&shape], |x| e::activate(&x[0].slice(1, 2..5)?, Act::Tanh))
}

fn gather(runtime: &Runtime) -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::U8] {
        for shape in [[7, 9, 5], [7, 9, 8], [3, 101, 4], [5, 6, 3]] {
            let x = noise(runtime, &shape, dtype)?;
            for axis in 0..3 {
                fits(g::index_select(&x, axis, &words(runtime, 13)?))?;
                fits(g::concat(&[&x, &x, &x], axis))?;
                fits(g::flip(&x, &[axis]))?;
            }
            fits(g::gather_rows(&x, &words(runtime, 37)?))?;
            fits(g::pad(&x, &[(1, 0), (0, 3), (2, 1)], 1.0))?;
            fits(g::pad(&x, &[(1, 2), (2, 1), (4, 4)], 1.0))?;
        }
        for shape in [[1, 7, 5, 3], [2, 5, 6, 8]] {
            let x = noise(runtime, &shape, dtype)?;
            for out in [[9, 11], [3, 2]] {
                fits(g::resize_nearest(&x, out))?;
                if dtype.is_float() {
                    fits(g::resize_bilinear(&x, out, false))?;
                }
            }
        }
    }
    for n in [1, 3, 10] {
        fits(g::one_hot(&words(runtime, 111)?, n))?;
    }
    for shape in [[1, 7, 5, 3], [2, 5, 6, 8], [1, 9, 13, 4]] {
        both(runtime, &[&shape], |x| g::resize_bilinear(&x[0], [9, 11], true))?;
        both(runtime, &[&shape], |x| g::resize_nearest(&x[0], [4, 7]))?;
    }
    both(runtime, &[&[7, 9, 5]], |x| g::pad(&g::index_select(&x[0], 1, &words(runtime, 13)?)?, &[(1, 1); 3], 0.0))
}

fn matmul(runtime: &Runtime) -> Result<()> {
    for (a, b, bias) in [
        (&[7, 5][..], &[5, 9][..], 9),
        (&[3, 17, 12], &[12, 28], 28),
        (&[15, 20], &[20, 60], 60),
        (&[2, 17, 21], &[2, 21, 65], 65),
        (&[133, 19], &[19, 36], 36),
        (&[1, 75], &[75, 77], 77),
        (&[77, 75], &[75, 1], 1),
        (&[3, 1, 20], &[3, 20, 36], 36),
        (&[1, 77], &[77, 36], 36),
    ] {
        let once = a[0] < 16;
        for dtype in [DType::F32, DType::F16].into_iter().take(if once { 2 } else { 1 }) {
            let [a, b, bias] = [a, b, &[bias]].map(|shape| noise(runtime, shape, dtype));
            let (a, b, bias) = (a?, b?, bias?);
            let flipped = |x: &Tensor| x.transpose()?.contiguous()?.transpose();
            for &variant in mm::Variant::ALL.iter().filter(|variant| variant.runs_on(runtime.profile(), dtype)) {
                fits(mm::matmul_with(variant, &a, &b))?;
                if once {
                    fits(flipped(&a).and_then(|a| mm::matmul_with(variant, &a, &b)))?;
                    fits(flipped(&b).and_then(|b| mm::matmul_with(variant, &a, &b)))?;
                }
                if b.rank() == 2 {
                    fits(mm::linear_with(variant, &a, &b, Some(&bias), Act::Relu))?;
                }
            }
        }
    }
    // A sum so long that it is taken in parts.
    let long = floats(runtime, &[2003, 5])?;
    fits(mm::matmul(&long.transpose()?, &long))?;
    both(runtime, &[&[3, 5, 8], &[8, 7], &[7]], |x| mm::linear(&x[0], &x[1], Some(&x[2]), Act::Tanh))
}

/// The kernels that measure an adapter, launched by hand: they have no op.
fn micro() -> Vec<CapturedLaunch> {
    const WG_SIZE: u32 = 64;
    let n = 201_u32;
    let launch = |kernel: &Kernel, types: Vec<DType>| {
        // A step is one workgroup's.
        let n = if kernel.entry == "step_fwd" { 41 } else { n };
        // Words of each binding. They are a small float in f32 and in f16, and nothing that a kernel counts with.
        let n_words: &[u32] = match kernel.entry {
            "fma_fwd" if types[0] == DType::F16 => &[2 * n, 4 * n],
            "read_fwd" => &[16 * 4 * n, 4 * n],
            "write_fwd" => &[4 * n],
            "dot4_fwd" => &[n, n],
            "atomics_fwd" => &[128],
            "gather_fwd" => &[128, n],
            "step_fwd" => &[n, n],
            "empty_fwd" => &[],
            // Four bases of 201 elements, in whole blocks or vec4.
            "source_drawn_fwd" => &[4, 208],
            "source_stored_fwd" if types[0] == DType::F16 => &[4, 512, 204],
            "source_stored_fwd" => &[4, 1024, 204],
            _ => &[4 * n, 4 * n],
        };
        assert_eq!(n_words.len(), kernel.binds.len());
        let bindings = n_words.iter().map(|n| Buffer::new(&0x3C00_3C00_u32.to_le_bytes().repeat(*n as usize)));
        let bindings = bindings.collect();
        let params: &[u32] = match kernel.params_bytes {
            0 => &[],
            4 => &[n],
            8 => &[n, 127],
            16 => &[n, 4, 3, 5],
            24 => &[n, 3, 0xBF80_0000, 0x3F80_0000, 0x3F80_0000, 0],
            bytes => panic!("{}: {bytes} bytes of parameters", kernel.label()),
        };
        let params = bytemuck::cast_slice(params).to_vec();
        let grid = [n.div_ceil(WG_SIZE), 1, 1];
        CapturedLaunch { kernel: *kernel, types, overrides: Vec::new(), grid, params, uniform: false, bindings }
    };
    let each = |kernel: &'static Kernel| kernel.type_sets().into_iter().map(|types| launch(kernel, types));
    leanvision::bench::kernels().into_iter().flat_map(each).collect()
}

fn quants(runtime: &Runtime) -> Result<()> {
    use leanvision::ops::quant::{self, Bits, Block, Variant};
    for (rows, n_out, n_inner, dtype) in
        [(5, 37, 100, DType::F32), (131, 259, 31, DType::F32), (9, 36, 36, DType::F32), (67, 20, 8, DType::F16)]
    {
        for (bits, block) in [(Bits::Int8, Block::Of32), (Bits::Int4, Block::Row), (Bits::Nf4, Block::Of32)] {
            let w = quant::quantize(&noise(runtime, &[n_out, n_inner], dtype)?, bits, block)?;
            quant::dequantize(&w)?;
            let (x, bias) = (noise(runtime, &[rows, n_inner], dtype)?, noise(runtime, &[n_out], dtype)?);
            for variant in Variant::ALL {
                fits(quant::linear_with(variant, &x, &w, Some(&bias), Act::Relu))?;
                fits(quant::linear_i8_with(variant, &x, &w, Some(&bias), Act::Relu))?;
                fits(quant::input_gradient_with(variant, &noise(runtime, &[rows, n_out], dtype)?, &w))?;
            }
        }
    }
    Ok(())
}

fn rotations(runtime: &Runtime) -> Result<()> {
    for (shape, dtype) in [([13, 3, 6], DType::F32), ([29, 3, 24], DType::F32), ([11, 5, 8], DType::F16)] {
        let x = noise(runtime, &shape, dtype)?;
        let positions = words(runtime, shape[0])?;
        for style in [rotary::Style::Adjacent, rotary::Style::Halves] {
            fits(rotary::rotate(&x, &positions, 1e4, style))?;
            fits(rotary::rotate(&x.slice(2, 1..shape[2] - 1)?, &positions, 1e4, style))?;
        }
    }
    Ok(())
}

fn norms(runtime: &Runtime) -> Result<()> {
    for shape in [[3, 257], [7, 12], [35, 63], [67, 5], [101, 8]] {
        let n = [shape[1]];
        for variant in RowVariant::ALL {
            for which in [norm::RowNorm::Layer, norm::RowNorm::Rms] {
                both(runtime, &[&shape, &n, &n], |x| {
                    norm::row_norm_with(Some(variant), which, &x[0], Some(&x[1]), Some(&x[2]), 1e-5)
                })?;
            }
        }
    }
    for shape in [[5, 7, 3, 12], [3, 31, 5, 5], [2, 4, 3, 20], [1, 67, 9, 3]] {
        let c = [shape[3]];
        for variant in norm::ChannelVariant::ALL {
            both(runtime, &[&shape, &c, &c], |x| {
                Ok(norm::batch_norm_train_with(Some(variant), &x[0], &x[1], &x[2], 1e-5, Act::Relu)?.0)
            })?;
        }
        both(runtime, &[&shape, &c, &c], |x| {
            let [mean, variance] = [1, 2].map(|_| floats(runtime, &c));
            norm::batch_norm(&x[0], &x[1], &x[2], &mean?, &variance?, 1e-5, Act::Silu)
        })?;
        both(runtime, &[&shape, &c, &c], |x| norm::group_norm(&x[0], 1, &x[1], &x[2], 1e-5))?;
    }
    let [mean, variance] = [1, 2].map(|_| floats(runtime, &[67]));
    let (mean, variance) = (mean?, variance?);
    let x = floats(runtime, &[9, 67])?;
    let gain = floats(runtime, &[67])?;
    if let Some((_, batch_mean, batch_var)) = fits(norm::batch_norm_train(&x, &gain, &gain, 1e-5, Act::None))? {
        fits(norm::update_running_stats(&mean, &variance, &batch_mean, &batch_var, 9, 0.1))?;
    }
    Ok(())
}

fn bases(runtime: &Runtime) -> Result<()> {
    use basis::{Law, Mixture, Slot, Tag};
    let slot = Slot { len: 37, out: 3, first: 2, k: 19, layer: 1, tag: Tag::A, scale: 0.5, fixed: 0.5 };
    // The last slots have more than a workgroup's blocks, bases and chunks.
    let slots = [
        slot,
        Slot { out: 40, fixed: 0.0, ..slot },
        Slot { len: 1301, out: 81, first: 21, k: 3, ..slot },
        Slot { len: 18, out: 1382, first: 24, k: 131, ..slot },
    ];
    let (c, d_out) = (floats(runtime, &[155])?, floats(runtime, &[1400])?);
    for law in Law::ALL {
        // No transform has more bases than places.
        let slots = if law == Law::Srht { &slots[..3] } else { &slots };
        let mixture = Mixture::new(runtime, law, 1 << 33 | 5, slots)?;
        mixture.form(&c, &floats(runtime, &[1400])?)?;
        mixture.project(&d_out, &floats(runtime, &[155])?)?;
        for m in [2, 5] {
            // One of them goes nowhere.
            let places = Tensor::from_slice(runtime, &[2_u32, 9, 0, 1, 3][..m], &[m])?;
            mixture.form_rows(&floats(runtime, &[m, 155])?, &places, &floats(runtime, &[4, 1400])?)?;
        }
    }
    basis::Rounding::new(runtime, &[(3, 20), (23, 51), (74, 31), (105, 50)], 4)?.run(&c, &floats(runtime, &[155])?)?;
    Ok(())
}

fn optimizers(runtime: &Runtime) -> Result<()> {
    let slots = optim::Slots::new(runtime, &[(3, true), (64, false), (130, true), (1, false), (700, true)])?;
    let zeros = || Tensor::zeros(runtime, &[slots.len()], DType::F32);
    let (w, d, m, v) = (zeros()?, zeros()?, zeros()?, zeros()?);
    let parts = [3, 64, 130, 1, 700].map(|n| floats(runtime, &[n]));
    let parts: Vec<Tensor> = parts.into_iter().collect::<Result<_>>()?;
    let placed: Vec<(&Tensor, usize)> = parts.iter().zip(slots.offsets().iter().copied()).collect();
    fits(optim::collect(&w, &placed, false))?;
    fits(optim::collect(&d, &placed, true))?;
    fits(optim::collect(&d, &placed[4..], true))?;
    let clipped = fits(optim::clip(&[(&d, &slots)], 0.5))?;
    let factor = clipped.as_ref().map(|(_, factor)| factor);
    fits(optim::sgd(&w, &d, &m, &slots, factor, &optim::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, decay: 0.1 }))?;
    fits(optim::lars(&w, &d, &m, &slots, factor, &optim::Lars { lr: 0.1, momentum: 0.9, decay: 0.1, trust: 0.01 }))?;
    let adam = optim::Adam { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1, decoupled: true, t: 1 };
    fits(optim::adam(&w, &d, &m, &v, &slots, factor, &adam))?;
    fits(optim::ema(&m, &w, 0.9, None))?;
    // Mixed precision: f16 gradients, a scale with a verdict, and one that skips.
    let halves: Vec<Tensor> =
        [3, 64, 130, 1, 700].map(|n| noise(runtime, &[n], DType::F16)).into_iter().collect::<Result<_>>()?;
    let placed: Vec<(&Tensor, usize)> = halves.iter().zip(slots.offsets().iter().copied()).collect();
    fits(optim::collect(&d, &placed, false))?;
    fits(optim::collect(&d, &placed[4..], true))?;
    let scale = optim::LossScale::new(runtime)?;
    let verdict = fits(scale.unscale(&[(&d, &slots)], Some(0.5)))?;
    fits(optim::adam(&w, &d, &m, &v, &slots, verdict.as_ref().map(|verdict| &verdict.factor), &adam))?;
    let broken = Tensor::full(runtime, &[slots.len()], f32::INFINITY, DType::F32)?;
    let verdict = fits(scale.unscale(&[(&broken, &slots)], None))?;
    fits(optim::ema(&m, &w, 0.9, verdict.as_ref().map(|verdict| &verdict.factor)))?;
    Ok(())
}

fn pools(runtime: &Runtime) -> Result<()> {
    for shape in [[2, 7, 6, 3], [3, 13, 11, 20], [2, 9, 9, 8], [2, 9, 8, 37]] {
        both(runtime, &[&shape], |x| pool::max_pool2d(&x[0], [3, 3], [2, 2], [1, 1]))?;
        both(runtime, &[&shape], |x| pool::avg_pool2d(&x[0], [3, 2], [1, 3], [1, 0], true))?;
        both(runtime, &[&shape], |x| pool::global_avg_pool(&x[0]))?;
    }
    Ok(())
}

fn randoms(runtime: &Runtime) -> Result<()> {
    let key = random::Key::new(1 << 33, 2, 3);
    for n in [7, 1003] {
        fits(random::bits(runtime, n, key))?;
        fits(random::uniform(runtime, &[n], 0.0, 1.0, key))?;
        fits(random::normal(runtime, &[n], 0.0, 1.0, key))?;
        fits(random::bernoulli(runtime, &[n], 0.5, key))?;
        fits(random::permutation(runtime, n, key))?;
        fits(random::philox(&noise(runtime, &[n, 4], DType::U32)?, 5))?;
    }
    Ok(())
}

fn reductions(runtime: &Runtime) -> Result<()> {
    let cases: [(&[usize], &[usize]); 8] = [
        (&[3, 257], &[1]),
        (&[5, 260], &[1]),
        (&[300, 12], &[0]),
        (&[101, 3], &[0]),
        (&[4, 63, 16], &[1]),
        (&[3, 4, 5, 6], &[1, 3]),
        (&[67, 4], &[1]),
        (&[1, 4501], &[1]),
    ];
    for (shape, axes) in cases {
        for dtype in [DType::F32, DType::U32, DType::I32] {
            let x = noise(runtime, shape, dtype)?;
            for variant in reduce::ReduceVariant::ALL {
                for op in [reduce::ReduceOp::Sum, reduce::ReduceOp::Max] {
                    fits(reduce::reduce_with(Some(variant), op, &x, axes, false))?;
                }
            }
            fits(reduce::argmax(&x, axes, false))?;
        }
        for variant in reduce::ReduceVariant::ALL {
            let op = reduce::ReduceOp::Var { unbiased: true };
            fits(reduce::reduce_with(Some(variant), op, &floats(runtime, shape)?, axes, false))?;
        }
        both(runtime, &[shape], |x| reduce::max(&x[0], axes, false))?;
        both(runtime, &[shape], |x| reduce::var(&x[0], axes, true, false))?;
    }
    Ok(())
}

fn scatters(runtime: &Runtime) -> Result<()> {
    for (shape, axis, n) in [(&[131, 8][..], 0, 5), (&[131, 7], 0, 90), (&[1009, 3], 0, 3), (&[3, 200, 8], 1, 70)] {
        let ids = words(runtime, shape[axis])?;
        fits(scatter::scatter_add(&floats(runtime, shape)?, axis, &ids, n))?;
    }
    Ok(())
}

fn softmaxes(runtime: &Runtime) -> Result<()> {
    for shape in [[3, 257], [7, 12], [35, 63], [67, 5], [101, 8]] {
        let labels = words(runtime, shape[0])?;
        for variant in RowVariant::ALL {
            both(runtime, &[&shape], |x| s::softmax_with(variant, &x[0]))?;
            both(runtime, &[&shape], |x| s::log_softmax_with(variant, &x[0]))?;
            let x = floats(runtime, &shape)?;
            fits(s::log_sum_exp_with(variant, &x))?;
            fits(s::cross_entropy_with(Some(variant), &x, &labels, 0.1))?;
        }
        both(runtime, &[&shape], |x| s::cross_entropy(&x[0], &labels, 0.1))?;
    }
    Ok(())
}

fn sorts(runtime: &Runtime) -> Result<()> {
    // Tiles of 4,096, as many as fill the memory of their sums.
    fits(sort::scan_with(sort::SortVariant::Groups, &words(runtime, 13_001)?, false))?;
    for n in [37, 1003, 4501] {
        for variant in sort::SortVariant::ALL {
            for dtype in [DType::U32, DType::I32, DType::F32] {
                let x = noise(runtime, &[n], dtype)?;
                fits(sort::scan_with(variant, &x, n % 2 == 0))?;
                fits(sort::sort_with(variant, &x, n % 2 == 0))?;
            }
            let x = words(runtime, n)?;
            fits(sort::compact_with(variant, &x))?;
            fits(sort::sort_pairs_with(variant, &x, &x, 3..13))?;
        }
    }
    Ok(())
}

fn topks(runtime: &Runtime) -> Result<()> {
    for (shape, k) in [([3, 17], 5), ([67, 9], 3), ([5, 257], 21), ([2, 1001], 33), ([1, 5001], 7), ([37, 90], 40)] {
        let x = floats(runtime, &shape)?;
        for variant in topk::TopkVariant::ALL {
            fits(topk::topk_with(variant, &x, k, true))?;
        }
    }
    Ok(())
}

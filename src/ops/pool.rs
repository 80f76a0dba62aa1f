//! Pooling of images `[n, h, w, c]`: maximum and mean over windows, mean over whole images.

use super::conv::Conv2d;
use super::reduce;
use crate::autograd::record;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel, LOOP_ROUNDS,
};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/pool.wgsl");
const FLOATS: &[DType] = &[DType::F32, DType::F16];
const WG_SIZE: u64 = 64;
/// The maximum's number in the shader.
const MAX: u32 = 0;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PoolParams {
    n_rows: u32,
    h: u32,
    w: u32,
    c: u32,
    ho: u32,
    wo: u32,
    kernel: u32,
    stride: u32,
    padding: u32,
}

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("pool", entry, SOURCE, &[Read, Write]).types(&["Elem"], &[FLOATS])
}

const OPS: &[(&str, &[u32])] = &[("OP", &[0, 1, 2])];
const POOL_PLAIN_FWD: Kernel = kernel("pool_plain_fwd").params::<PoolParams>().overrides(OPS);
const POOL_VEC4_FWD: Kernel = kernel("pool_vec4_fwd").params::<PoolParams>().overrides(OPS);

const fn kernel_bwd(entry: &'static str) -> Kernel {
    Kernel::new("pool", entry, SOURCE, &[Read, Read, Write]).types(&["Elem"], &[FLOATS])
}

const POOL_PLAIN_BWD: Kernel = kernel_bwd("pool_plain_bwd").params::<PoolParams>().overrides(OPS);
const POOL_VEC4_BWD: Kernel = kernel_bwd("pool_vec4_bwd").params::<PoolParams>().overrides(OPS);
const POOL_INDEX_PLAIN_BWD: Kernel = kernel("pool_index_plain_bwd").params::<PoolParams>();
const POOL_INDEX_VEC4_BWD: Kernel = kernel("pool_index_vec4_bwd").params::<PoolParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] =
    &[POOL_PLAIN_FWD, POOL_VEC4_FWD, POOL_PLAIN_BWD, POOL_VEC4_BWD, POOL_INDEX_PLAIN_BWD, POOL_INDEX_VEC4_BWD];

/// Largest element of each window, per channel: `[n, h, w, c]` to `[n, ho, wo, c]`. Padding never wins, NaN does, and
/// rows and columns that no window reaches are left out. Pairs are height, width.
///
/// The gradient goes to the first of equal maxima, in row-major order.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and the window fits the padded image, [`Error::Argument`] for a stride of
/// 0 or a padding over half the window, [`Error::DType`] if `x` is not a float tensor, [`Error::Limit`] on software
/// adapters for windows more than twenty thousand pixels high.
pub fn max_pool2d(x: &Tensor, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Tensor> {
    windows("max_pool2d", MAX, x, kernel, stride, padding)
}

/// Mean of each window, per channel: `[n, h, w, c]` to `[n, ho, wo, c]`. The sum is divided by the pixels of the whole
/// window with `count_include_pad`, else by those that lie in the image. Pairs are height, width.
///
/// # Errors
/// As [`max_pool2d`].
pub fn avg_pool2d(
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    count_include_pad: bool,
) -> Result<Tensor> {
    windows("avg_pool2d", if count_include_pad { 1 } else { 2 }, x, kernel, stride, padding)
}

/// Mean over height and width: `[n, h, w, c]` to `[n, c]`.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and at least one pixel, [`Error::DType`] if it is not a float tensor.
pub fn global_avg_pool(x: &Tensor) -> Result<Tensor> {
    const OP: &str = "global_avg_pool";
    let [_, h, w, _] = image(OP, x)?;
    if h * w == 0 {
        return Err(Error::shape(OP, format!("x {:?} has no pixel to average", x.shape())));
    }
    // Blocks of pixels by themselves, then their sums: more of the adapter at work, and no loop too long.
    reduce::mean(x, &[1, 2], false)
}

fn image(op: &'static str, x: &Tensor) -> Result<[usize; 4]> {
    if !x.dtype().is_float() {
        return Err(Error::dtype(op, format!("{} given, a float type wanted", x.dtype())));
    }
    <[usize; 4]>::try_from(x.shape())
        .map_err(|_| Error::shape(op, format!("x {:?} given, [n, h, w, c] wanted", x.shape())))
}

fn windows(
    op: &'static str,
    code: u32,
    x: &Tensor,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<Tensor> {
    let [n, h, w, c] = image(op, x)?;
    let [ho, wo] = Conv2d { stride, padding, ..Conv2d::default() }.out_size_for(op, [h, w], kernel)?;
    if (0..2).any(|axis| 2 * padding[axis] > kernel[axis]) {
        let given = format!("padding {padding:?} given, at most half of the window {kernel:?}");
        return Err(Error::argument(op, format!("{given} wanted, so that no window is empty")));
    }
    let rounds = kernel[0] * (kernel[1] + 2) + 1;
    if rounds > LOOP_ROUNDS && kernel[1] > 1 {
        // Columns of the window, then its rows: the same pixels in far fewer rounds.
        let one = |x: &Tensor, along: [bool; 2]| {
            let [kernel, stride, padding] = [(kernel, 1), (stride, 1), (padding, 0)]
                .map(|(pair, none)| [0, 1].map(|i| if along[i] { pair[i] } else { none }));
            windows(op, code, x, kernel, stride, padding)
        };
        return one(&one(x, [true, false])?, [false, true]);
    }
    let (input, shape) = (x, [n, h, w, c]);
    let x = x.detach().contiguous()?;
    let out = Tensor::empty(x.runtime(), &[n, ho, wo, c], x.dtype())?;
    let pair = |[h, w]: [usize; 2]| h as u32 | (w as u32) << 16;
    let params = PoolParams {
        n_rows: (n * ho) as u32,
        h: h as u32,
        w: w as u32,
        c: c as u32,
        ho: ho as u32,
        wo: wo as u32,
        kernel: pair(kernel),
        stride: pair(stride),
        padding: pair(padding),
    };
    let (kernel_fwd, n) = if c.is_multiple_of(4) {
        (&POOL_VEC4_FWD, n * ho * wo.div_ceil(4) * (c / 4))
    } else {
        (&POOL_PLAIN_FWD, out.len())
    };
    x.runtime()
        .launch(kernel_fwd)
        .types(&[x.dtype()])
        .overrides(&[("OP", code)])
        .bind([x.binding(), out.binding()])
        .params(&params)
        .groups((n as u64).div_ceil(WG_SIZE))
        .rounds(rounds)
        .cost((out.len() * kernel[0] * kernel[1]) as u64, ((x.len() + out.len()) * x.dtype().bytes()) as u64)
        .run()?;
    // A mean needs nothing of x.
    let saved = (code == MAX && input.needs_grad()).then_some(x);
    Ok(record(op, out, [input], move |d, _| {
        let index = saved.map(|x| index(&x, &params, d, rounds)).transpose()?;
        Ok([Some(gradient(&d.contiguous()?, index.as_ref(), code, shape, params, rounds)?)])
    }))
}

/// Where the maxima stand in their images of row-major `x`, as `y w + x`: `[n, ho, wo, c]`, as `d`.
fn index(x: &Tensor, params: &PoolParams, d: &Tensor, rounds: usize) -> Result<Tensor> {
    let out = Tensor::empty(x.runtime(), d.shape(), DType::U32)?;
    let (kernel, n) = if params.c.is_multiple_of(4) {
        (&POOL_INDEX_VEC4_BWD, out.len() / 4)
    } else {
        (&POOL_INDEX_PLAIN_BWD, out.len())
    };
    x.runtime()
        .launch(kernel)
        .types(&[x.dtype()])
        .bind([x.binding(), out.binding()])
        .params(params)
        .groups((n as u64).div_ceil(WG_SIZE))
        .rounds(rounds)
        .cost(x.len() as u64, (x.len() * x.dtype().bytes() + out.len() * 4) as u64)
        .run()?;
    Ok(out)
}

/// The gradient of images of `shape` from row-major `d` of the windows.
fn gradient(
    d: &Tensor,
    index: Option<&Tensor>,
    code: u32,
    shape: [usize; 4],
    params: PoolParams,
    rounds: usize,
) -> Result<Tensor> {
    let [n, h, _, c] = shape;
    let out = Tensor::empty(d.runtime(), &shape, d.dtype())?;
    let (kernel, n_threads) =
        if c.is_multiple_of(4) { (&POOL_VEC4_BWD, out.len() / 4) } else { (&POOL_PLAIN_BWD, out.len()) };
    // What is absent is never read, so the gradient stands in for it.
    let bytes = (d.len() + out.len()) * d.dtype().bytes() + index.map_or(0, |index| index.len() * 4);
    d.runtime()
        .launch(kernel)
        .types(&[d.dtype()])
        .overrides(&[("OP", code)])
        .bind([d.binding(), index.unwrap_or(d).binding(), out.binding()])
        .params(&PoolParams { n_rows: (n * h) as u32, ..params })
        .groups((n_threads as u64).div_ceil(WG_SIZE))
        // No more windows lie over a pixel than a window has pixels.
        .rounds(rounds)
        .cost(out.len() as u64, bytes as u64)
        .run()?;
    Ok(out)
}

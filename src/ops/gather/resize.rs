//! Resizing of images, by four neighbours or the nearest.

use super::select::selected;
use super::{
    BILINEAR_FWD, BILINEAR_VEC4_FWD, NEAREST_FWD, NEAREST_VEC4_FWD, RESIZE_BWD, RESIZE_VEC4_BWD, Unit, WG_SIZE, size,
};
use crate::autograd::record;
use crate::runtime::Kernel;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct ResizeParams {
    n_pixels: u32,
    lanes_log2: u32,
    n_channels: u32,
    h_in: u32,
    w_in: u32,
    h_out: u32,
    w_out: u32,
    scale_y: f32,
    scale_x: f32,
    centre: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct ResizeAxisParams {
    n_units: u32,
    n_in: u32,
    n_out: u32,
    n_inner: u32,
    scale: f32,
    centre: f32,
    nearest: u32,
}

/// `x` `[n, h, w, c]` resized to `[n, ho, wo, c]`, `out` being `[ho, wo]`, each value between its four neighbours by
/// distance. Enlarging and shrinking alike look at four pixels only: there is no smoothing before shrinking.
///
/// Without `align_corners` pixels are areas, and centres map to centres; with it the outermost pixels stay the outermost.
/// Both are those of PyTorch.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and pixels, [`Error::DType`] if it is not a float tensor.
pub fn resize_bilinear(x: &Tensor, out: [usize; 2], align_corners: bool) -> Result<Tensor> {
    const OP: &str = "resize_bilinear";
    if !x.dtype().is_float() {
        return Err(Error::dtype(OP, format!("{} given, a float type wanted", x.dtype())));
    }
    let scale: Scale = if align_corners { corner_scale } else { area_scale };
    let centre = if align_corners { 0.0 } else { 0.5 };
    let types = [x.dtype()];
    resize(OP, x, out, Sampling { scale, centre, nearest: false }, |c| {
        if c.is_multiple_of(4) { (&BILINEAR_VEC4_FWD, types, 4) } else { (&BILINEAR_FWD, types, 1) }
    })
}

/// `x` `[n, h, w, c]` of any type resized to `[n, ho, wo, c]`, `out` being `[ho, wo]`: pixel `y, x` is that of
/// `x` at `floor(y h / ho)`, `floor(x w / wo)`, as PyTorch's `nearest`.
///
/// # Errors
/// [`Error::Shape`] unless `x` has four axes and pixels.
pub fn resize_nearest(x: &Tensor, out: [usize; 2]) -> Result<Tensor> {
    const OP: &str = "resize_nearest";
    let dtype = x.dtype();
    let scale: Scale = area_scale;
    let channels = x.shape().last().copied().unwrap_or(0);
    if x.rank() == 4 && x.shape()[1] * x.shape()[2] > 0 && Unit::of(dtype, &[channels]) == Unit::Byte {
        // Pixels that fill no word: one axis after the other.
        let ids = |n_in: usize, n_out: usize| {
            let nearest = |i: usize| ((i as f32 * scale(n_in, n_out)) as usize).min(n_in - 1) as u32;
            Tensor::constant(x.runtime(), &(0..n_out).map(nearest).collect::<Vec<_>>())
        };
        let (rows, _) = selected(OP, x, 1, &ids(x.shape()[1], out[0])?)?;
        return Ok(selected(OP, &rows, 2, &ids(x.shape()[2], out[1])?)?.0);
    }
    resize(OP, x, out, Sampling { scale, centre: 0.0, nearest: true }, |c| {
        let unit = Unit::of(dtype, &[c]);
        let (kernel, types) = unit.pick([&NEAREST_VEC4_FWD, &NEAREST_FWD, &NEAREST_FWD]);
        (kernel, types, unit.bytes() / dtype.bytes())
    })
}

/// Pixels of an axis of the input for one of the output, from both sizes.
type Scale = fn(usize, usize) -> f32;

fn area_scale(n_in: usize, n_out: usize) -> f32 {
    n_in as f32 / n_out as f32
}

fn corner_scale(n_in: usize, n_out: usize) -> f32 {
    if n_out <= 1 { 0.0 } else { (n_in - 1) as f32 / (n_out - 1) as f32 }
}

/// Where a pixel of the output looks.
#[derive(Clone, Copy)]
struct Sampling {
    scale: Scale,
    /// Of a pixel: 0.5 where pixels are areas, 0 where corners are aligned.
    centre: f32,
    nearest: bool,
}

impl Sampling {
    /// The gradient of one axis, now of `n_in` pixels, from that of the output along it: `[.., n_out, ..]` to
    /// `[.., n_in, ..]`. Both axes weigh on their own, so that one follows the other.
    fn back(self, d: &Tensor, axis: usize, n_in: usize) -> Result<Tensor> {
        let n_out = d.shape()[axis];
        if n_in == n_out {
            return Ok(d.clone());
        }
        let d = d.contiguous()?;
        let mut shape = d.shape().to_vec();
        shape[axis] = n_in;
        if d.is_empty() {
            return Tensor::zeros(d.runtime(), &shape, d.dtype());
        }
        let out = Tensor::empty(d.runtime(), &shape, d.dtype())?;
        let n_inner: usize = shape[axis + 1..].iter().product();
        let (kernel, per_unit) = if n_inner.is_multiple_of(4) { (&RESIZE_VEC4_BWD, 4) } else { (&RESIZE_BWD, 1) };
        let n_units = out.len() / per_unit;
        d.runtime()
            .launch(kernel)
            .types(&[d.dtype()])
            .bind([d.binding(), out.binding()])
            .params(&ResizeAxisParams {
                n_units: n_units as u32,
                n_in: n_in as u32,
                n_out: n_out as u32,
                n_inner: (n_inner / per_unit) as u32,
                scale: (self.scale)(n_in, n_out),
                centre: self.centre,
                nearest: u32::from(self.nearest),
            })
            .groups((n_units as u64).div_ceil(u64::from(WG_SIZE)))
            // A pixel is read by the outputs less than a pixel away, the outermost also by those beyond the edge.
            .rounds(3 * n_out.div_ceil(n_in) + 8)
            .cost(2 * d.len() as u64, size(d.len(), d.dtype()) + size(out.len(), d.dtype()))
            .run()?;
        Ok(out)
    }
}

/// A resizing kernel over the pixels of `x`; `pick` answers, for the channels, the kernel, its element type and how many
/// channels it takes at once.
fn resize(
    op: &'static str,
    x: &Tensor,
    out: [usize; 2],
    sampling: Sampling,
    pick: impl Fn(usize) -> (&'static Kernel, [DType; 1], usize),
) -> Result<Tensor> {
    let resized = resized(op, &x.detach(), out, sampling, pick)?;
    let shape = x.shape().to_vec();
    Ok(record(op, resized, [x], move |d, _| {
        if d.shape() == shape {
            return Ok([Some(d.clone())]);
        }
        let d = sampling.back(d, 2, shape[2])?;
        Ok([Some(sampling.back(&d, 1, shape[1])?)])
    }))
}

fn resized(
    op: &'static str,
    x: &Tensor,
    [h_out, w_out]: [usize; 2],
    Sampling { scale, centre, .. }: Sampling,
    pick: impl Fn(usize) -> (&'static Kernel, [DType; 1], usize),
) -> Result<Tensor> {
    let &[n, h_in, w_in, c] = x.shape() else {
        return Err(Error::shape(op, format!("{:?} does not fit [n, h, w, c]", x.shape())));
    };
    let out = Tensor::empty(x.runtime(), &[n, h_out, w_out, c], x.dtype())?;
    if out.is_empty() {
        return Ok(out);
    }
    if h_in * w_in == 0 {
        return Err(Error::shape(op, format!("{:?} has no pixels", x.shape())));
    }
    if [h_in, w_in] == [h_out, w_out] {
        return x.contiguous();
    }
    let x = x.contiguous()?;
    let (kernel, types, per_unit) = pick(c);
    let n_pixels = n * h_out * w_out;
    let n_channels = (c / per_unit) as u32;
    let (groups, lanes_log2) = Unit::Word.grid(x.runtime(), n_pixels, n_channels);
    x.runtime()
        .launch(kernel)
        .types(&types)
        .bind([x.binding(), out.binding()])
        .params(&ResizeParams {
            n_pixels: n_pixels as u32,
            lanes_log2,
            n_channels,
            h_in: h_in as u32,
            w_in: w_in as u32,
            h_out: h_out as u32,
            w_out: w_out as u32,
            scale_y: scale(h_in, h_out),
            scale_x: scale(w_in, w_out),
            centre,
        })
        .groups(groups)
        .cost(7 * out.len() as u64, size(x.len(), x.dtype()) + size(out.len(), x.dtype()))
        .run()?;
    Ok(out)
}

//! Convolution in f64.

use super::Array;
use crate::ops::conv::Conv2d;

/// Images `[n, h, w, ci]` and weights `[kh, kw, ci / groups, co]` to `[n, ho, wo, co]`, bias `[co]`.
///
/// # Panics
/// If the shapes do not go together.
#[must_use]
pub fn conv2d(x: &Array, w: &Array, bias: Option<&Array>, conv: &Conv2d) -> Array {
    let (&[n, h, width, _], &[kh, kw, _, co]) = (x.shape.as_slice(), w.shape.as_slice()) else {
        panic!("x {:?} and w {:?} need four axes", x.shape, w.shape);
    };
    let [ho, wo] = conv.out_size([h, width], [kh, kw]).unwrap_or_else(|error| panic!("{error}"));
    Array::from_fn(&[n, ho, wo, co], |index| conv2d_at(x, w, bias, conv, index))
}

/// One element of [`conv2d`], at `[n, y, x, channel]`.
///
/// # Panics
/// If the shapes do not go together.
#[must_use]
pub fn conv2d_at(x: &Array, w: &Array, bias: Option<&Array>, conv: &Conv2d, index: &[usize]) -> f64 {
    let (n, y, left, o) = (index[0], index[1], index[2], index[3]);
    let (ci_group, co_group) = (w.shape[2], w.shape[3] / conv.groups);
    assert_eq!(ci_group * conv.groups, x.shape[3], "channels of x {:?} and w {:?}", x.shape, w.shape);
    let mut sum = bias.map_or(0.0, |bias| bias.data[o]);
    for r in 0..w.shape[0] {
        for s in 0..w.shape[1] {
            let row = (y * conv.stride[0] + r * conv.dilation[0]).checked_sub(conv.padding[0]);
            let column = (left * conv.stride[1] + s * conv.dilation[1]).checked_sub(conv.padding[1]);
            let (Some(row), Some(column)) = (row, column) else { continue };
            if row >= x.shape[1] || column >= x.shape[2] {
                continue;
            }
            // [n, row, column, group's channels] and [r, s, .., o].
            let pixel = ((n * x.shape[1] + row) * x.shape[2] + column) * x.shape[3] + o / co_group * ci_group;
            let weights = w.data[(r * w.shape[1] + s) * ci_group * w.shape[3]..].iter().skip(o).step_by(w.shape[3]);
            sum += x.data[pixel..pixel + ci_group].iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
        }
    }
    sum
}

/// Element `i` of the gradient of the input, images of `size` pixels, from that of the result, `[n, ho, wo, co]`.
///
/// # Panics
/// If the shapes do not go together.
#[must_use]
pub fn conv2d_bwd_x_at(d: &Array, w: &Array, size: [usize; 2], conv: &Conv2d, i: usize) -> f64 {
    let (ci_group, co_group) = (w.shape[2], w.shape[3] / conv.groups);
    let ci = ci_group * conv.groups;
    let (c, pixel) = (i % ci, i / ci);
    let (n, y, left) = (pixel / size[1] / size[0], pixel / size[1] % size[0], pixel % size[1]);
    // The output whose window has this pixel at tap r.
    let output = |at: usize, r: usize, axis: usize| {
        let from = (at + conv.padding[axis]).checked_sub(r * conv.dilation[axis])?;
        (from % conv.stride[axis] == 0 && from / conv.stride[axis] < d.shape[1 + axis])
            .then(|| from / conv.stride[axis])
    };
    let mut sum = 0.0;
    for r in 0..w.shape[0] {
        for s in 0..w.shape[1] {
            let (Some(row), Some(column)) = (output(y, r, 0), output(left, s, 1)) else { continue };
            for o in (c / ci_group * co_group..).take(co_group) {
                sum += d.at(&[n, row, column, o]) * w.at(&[r, s, c % ci_group, o]);
            }
        }
    }
    sum
}

/// Element `i` of the gradient of weights whose kernel has this many pixels, from that of the result, `[n, ho, wo, co]`.
///
/// # Panics
/// If the shapes do not go together.
#[must_use]
pub fn conv2d_bwd_w_at(x: &Array, d: &Array, kernel: [usize; 2], conv: &Conv2d, i: usize) -> f64 {
    let (&[_, h, width, ci], &[n, ho, wo, co]) = (x.shape.as_slice(), d.shape.as_slice()) else {
        panic!("x {:?} and d {:?} need four axes", x.shape, d.shape);
    };
    let ci_group = ci / conv.groups;
    let (o, c, tap) = (i % co, i / co % ci_group, i / co / ci_group);
    let (r, s) = (tap / kernel[1], tap % kernel[1]);
    let from = o / (co / conv.groups) * ci_group + c;
    let mut sum = 0.0;
    for y in 0..ho {
        let row = (y * conv.stride[0] + r * conv.dilation[0]).checked_sub(conv.padding[0]).filter(|v| *v < h);
        for left in 0..wo {
            let column = (left * conv.stride[1] + s * conv.dilation[1]).checked_sub(conv.padding[1]);
            let (Some(row), Some(column)) = (row, column.filter(|v| *v < width)) else { continue };
            for image in 0..n {
                sum += x.at(&[image, row, column, from]) * d.at(&[image, y, left, o]);
            }
        }
    }
    sum
}

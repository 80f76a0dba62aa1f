//! Copies by index and resizing in f64.

use super::Array;

/// `x` taken at `ids` along `axis`; ids past the axis count as its last index.
#[must_use]
pub fn index_select(x: &Array, axis: usize, ids: &Array) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = ids.data.len();
    Array::from_fn(&shape, |index| {
        let mut own = index.to_vec();
        own[axis] = (ids.data[index[axis]] as usize).min(x.shape[axis] - 1);
        x.at(&own)
    })
}

/// Rows of `table` `[v, d]` at `ids` of any shape.
#[must_use]
pub fn embedding(table: &Array, ids: &Array) -> Array {
    index_select(table, 0, ids).reshaped(&[ids.shape.as_slice(), &table.shape[1..]].concat())
}

/// `n` rows along `axis`, each the sum of the rows of `x` whose id it is; ids past them count as the last.
#[must_use]
pub fn scatter_add(x: &Array, axis: usize, ids: &Array, n: usize) -> Array {
    let mut shape = x.shape.clone();
    shape[axis] = n;
    Array::from_fn(&shape, |index| {
        let mut own = index.to_vec();
        let mut sum = 0.0;
        for (i, id) in ids.data.iter().enumerate() {
            if (*id as usize).min(n - 1) == index[axis] {
                own[axis] = i;
                sum += x.at(&own);
            }
        }
        sum
    })
}

/// The arrays one after the other along `axis`.
#[must_use]
pub fn concat(xs: &[Array], axis: usize) -> Array {
    let mut shape = xs[0].shape.clone();
    shape[axis] = xs.iter().map(|x| x.shape[axis]).sum();
    Array::from_fn(&shape, |index| {
        let mut own = index.to_vec();
        let mut k = 0;
        while own[axis] >= xs[k].shape[axis] {
            own[axis] -= xs[k].shape[axis];
            k += 1;
        }
        xs[k].at(&own)
    })
}

/// The arrays along a new axis before `axis`.
#[must_use]
pub fn stack(xs: &[Array], axis: usize) -> Array {
    let mut shape = xs[0].shape.clone();
    shape.insert(axis, xs.len());
    Array::from_fn(&shape, |index| {
        let mut own = index.to_vec();
        let k = own.remove(axis);
        xs[k].at(&own)
    })
}

/// `x` with these axes reversed.
#[must_use]
pub fn flip(x: &Array, axes: &[usize]) -> Array {
    Array::from_fn(&x.shape, |index| {
        let own: Vec<usize> =
            (0..index.len()).map(|a| if axes.contains(&a) { x.shape[a] - 1 - index[a] } else { index[a] }).collect();
        x.at(&own)
    })
}

/// `x` with `(before, after)` elements of `value` around each axis.
#[must_use]
pub fn pad(x: &Array, pads: &[(usize, usize)], value: f64) -> Array {
    let shape: Vec<usize> = x.shape.iter().zip(pads).map(|(n, (before, after))| n + before + after).collect();
    Array::from_fn(&shape, |index| {
        let own: Vec<usize> = index.iter().zip(pads).map(|(i, (before, _))| i.wrapping_sub(*before)).collect();
        if own.iter().zip(&x.shape).all(|(i, n)| i < n) { x.at(&own) } else { value }
    })
}

/// `x` `[n, h, w, c]` resized to `[n, ho, wo, c]`: the hat function about each source point, summed over all pixels.
#[must_use]
pub fn resize_bilinear(x: &Array, [h_out, w_out]: [usize; 2], align_corners: bool) -> Array {
    let source = |i: usize, n_in: usize, n_out: usize| {
        let (i, n_in, n_out) = (i as f64, n_in as f64, n_out as f64);
        let at = match align_corners {
            true if n_out > 1.0 => i * (n_in - 1.0) / (n_out - 1.0),
            true => 0.0,
            false => (i + 0.5) * n_in / n_out - 0.5,
        };
        at.clamp(0.0, n_in - 1.0)
    };
    let hat = |at: f64, i: usize| (1.0 - (at - i as f64).abs()).max(0.0);
    Array::from_fn(&[x.shape[0], h_out, w_out, x.shape[3]], |index| {
        let y = source(index[1], x.shape[1], h_out);
        let x_at = source(index[2], x.shape[2], w_out);
        let mut sum = 0.0;
        for i in 0..x.shape[1] {
            for j in 0..x.shape[2] {
                let weight = hat(y, i) * hat(x_at, j);
                if weight > 0.0 {
                    sum += weight * x.at(&[index[0], i, j, index[3]]);
                }
            }
        }
        sum
    })
}

/// `x` `[n, h, w, c]` resized to `[n, ho, wo, c]` by the pixel at `floor(i n_in / n_out)`, in whole numbers.
#[must_use]
pub fn resize_nearest(x: &Array, [h_out, w_out]: [usize; 2]) -> Array {
    Array::from_fn(&[x.shape[0], h_out, w_out, x.shape[3]], |index| {
        x.at(&[index[0], index[1] * x.shape[1] / h_out, index[2] * x.shape[2] / w_out, index[3]])
    })
}

/// 1 at each of `ids`, 0 elsewhere, over a new last axis of `n`.
#[must_use]
pub fn one_hot(ids: &Array, n: usize) -> Array {
    Array::from_fn(&[ids.shape.as_slice(), &[n]].concat(), |index| {
        let (class, at) = (index[ids.shape.len()], &index[..ids.shape.len()]);
        f64::from(u8::from(ids.at(at) == class as f64))
    })
}

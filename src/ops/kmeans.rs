//! K-means clustering by Lloyd's rounds: rows to the nearest centre, centres to the mean of their rows.

use super::bank::Search;
use super::checks::need_one_device;
use super::elementwise::{affine, cast, square};
use super::gather::{concat, gather_rows, pad};
use super::random::{Key, RNG, permutation};
use super::reduce;
use super::scatter::segment_sums;
use crate::autograd::refuse;
use crate::runtime::{
    Bind::{Read, Write},
    INDEX, Kernel,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/kmeans.wgsl");
const WG_SIZE: usize = 64;
/// Rows that look for their centre at once.
const CHUNK_ROWS: usize = 2048;
/// What makes a centre that is none worse than any other: a low number whose sum with a product is finite.
const NO_CENTRE: f32 = -3e38;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CentresParams {
    n_clusters: u32,
    n_cols: u32,
    n_data: u32,
    key_0: u32,
    key_1: u32,
    step: u32,
    stream: u32,
    round: u32,
}

const CENTRES_FWD: Kernel = Kernel::new("kmeans", "kmeans_centres_fwd", SOURCE, &[Read, Read, Read, Write])
    .commons(&[INDEX, RNG])
    .types(&["Elem"], &[&[DType::F32, DType::F16]])
    .params::<CentresParams>();

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[CENTRES_FWD];

/// Clusters of rows.
#[derive(Debug, Clone)]
pub struct Clusters {
    /// The centres: f32 `[k, d]`.
    pub centres: Tensor,
    /// The nearest centre of each row: u32 `[n]`.
    pub labels: Tensor,
}

/// `k` clusters of the rows of `data` `[n, d]`, f32 or f16, under the squared Euclidean distance: Lloyd's algorithm for a
/// number of rounds, then each row's nearest centre.
///
/// The first centres are `k` different rows, the first of a [`permutation`] of the key. In each round every row goes to its
/// nearest centre, as in [`assign`], then every centre to the mean of its rows, summed in f32 in a fixed order. A centre
/// without rows becomes a row drawn at random: of round `r` and cluster `c`, by element `2^34 (r + 1) + c` of the key, as
/// [`crate::philox::Philox::below`]. In the last round, too, so that a cluster may still be empty in the end.
///
/// Equal keys give equal bits on one adapter. Nothing is read back, and beside the data it takes f32 `[k, d]` four times, the
/// labels and what sorts them, and what a search takes.
///
/// # Errors
/// [`Error::Argument`] unless `1 <= k <= n` and `d >= 1` or if a gradient is wanted, [`Error::Shape`] or [`Error::DType`] if
/// the data does not fit.
pub fn kmeans(data: &Tensor, k: usize, rounds: usize, key: Key) -> Result<Clusters> {
    const OP: &str = "kmeans";
    let (n, d) = rows(OP, data)?;
    if k == 0 || k > n || d == 0 {
        return Err(Error::argument(OP, format!("k = {k} of {n} rows of {d} given, 1 to all of them wanted")));
    }
    let runtime = data.runtime();
    let data = data.contiguous()?;
    let first = permutation(runtime, n, key)?.slice(0, 0..k)?;
    let mut centres = cast(&gather_rows(&data, &first)?, DType::F32)?;
    for round in 0..rounds {
        let (sums, starts) = segment_sums(&data, &assigned(OP, &data, &centres)?, k)?;
        let next = Tensor::empty(runtime, &[k, d], DType::F32)?;
        runtime
            .launch(&CENTRES_FWD)
            .types(&[data.dtype()])
            .bind([data.binding(), sums.binding(), starts.binding(), next.binding()])
            .params(&CentresParams {
                n_clusters: k as u32,
                n_cols: d as u32,
                n_data: n as u32,
                key_0: key.seed as u32,
                key_1: (key.seed >> 32) as u32,
                step: key.step,
                stream: key.stream,
                round: round as u32,
            })
            .groups(k as u64)
            .rounds(d.div_ceil(WG_SIZE) + 1)
            .cost((k * d) as u64, 8 * (k * d) as u64)
            .run()?;
        centres = next;
    }
    let labels = assigned(OP, &data, &centres)?;
    Ok(Clusters { centres, labels })
}

/// The nearest of `centres` f32 `[k, d]` of each row of `data` `[n, d]`, f32 or f16, under the squared Euclidean distance: u32
/// `[n]`. Of equal ones the lower number.
///
/// What is compared is `<x, c> - |c|^2 / 2` in f32, so distances closer than its rounding are as good as equal: some 1e-7 of
/// `|x| |c|`. Data far from the origin is better centred first.
///
/// # Errors
/// [`Error::Argument`] without centres or if a gradient is wanted, [`Error::Shape`] or [`Error::DType`] if the tensors do not
/// fit.
pub fn assign(data: &Tensor, centres: &Tensor) -> Result<Tensor> {
    const OP: &str = "assign";
    rows(OP, data)?;
    refuse(OP, &[centres])?;
    need_one_device(OP, data, [centres])?;
    check(OP, &[("data", data, "n d"), ("centres", centres, "k d")])?;
    if centres.dtype() != DType::F32 {
        return Err(Error::dtype(OP, format!("centres {} given, f32 wanted", centres.dtype())));
    }
    if centres.shape()[0] == 0 {
        return Err(Error::argument(OP, "no centre given"));
    }
    assigned(OP, data, centres)
}

/// Number and width of the rows of data.
fn rows(op: &'static str, data: &Tensor) -> Result<(usize, usize)> {
    refuse(op, &[data])?;
    let dims = check(op, &[("data", data, "n d")])?;
    if !data.dtype().is_float() {
        return Err(Error::dtype(op, format!("data {} given, a float type wanted", data.dtype())));
    }
    Ok((dims.get("n"), dims.get("d")))
}

fn assigned(op: &'static str, data: &Tensor, centres: &Tensor) -> Result<Tensor> {
    let (n, k) = (data.shape()[0], centres.shape()[0]);
    let bias = affine(&reduce::sum(&square(centres)?, &[1], false)?, -0.5, 0.0)?;
    // A search wants fours.
    let missing = k.next_multiple_of(4) - k;
    let (centres, bias) = if missing == 0 {
        (centres.clone(), bias)
    } else {
        (pad(centres, &[(0, missing), (0, 0)], 0.0)?, pad(&bias, &[(0, missing)], NO_CENTRE)?)
    };
    let mut labels = Vec::with_capacity(n.div_ceil(CHUNK_ROWS));
    for first in (0..n).step_by(CHUNK_ROWS) {
        let queries = data.slice(0, first..n.min(first + CHUNK_ROWS))?;
        let queries = if data.dtype() == DType::F32 { queries } else { cast(&queries, DType::F32)? };
        let search = Search { op, queries: &queries, bank: &centres, rows: None, bias: Some(&bias), k: 1, tags: None };
        labels.push(search.run()?.1);
    }
    match labels.as_slice() {
        [] => Tensor::empty(data.runtime(), &[0], DType::U32),
        [only] => only.reshape(&[n]),
        several => concat(&several.iter().collect::<Vec<_>>(), 0)?.reshape(&[n]),
    }
}

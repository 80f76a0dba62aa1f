//! Gradients of norms over rows.

use super::channels::{ChannelVariant, Grid};
use super::{ALIASES, COMMONS, FLOATS, KERNELS, NormParams, RowNorm, SOURCE};
use crate::Result;
use crate::ops::elementwise;
use crate::ops::rows::{ALONE_SIZES, RowTrial, RowVariant, SHARED_SIZES};
use crate::ops::tune::noise;
use crate::runtime::{
    Bind::{Read, Write},
    Kernel,
};
use crate::tensor::{DType, Tensor};

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new("norm", entry, SOURCE, &[Read, Read, Read, Write, Write])
        .commons(COMMONS)
        .types(ALIASES, &[FLOATS, &[DType::F32], &[DType::F32]])
        .params::<NormParams>()
        .overrides(&[("WG_SIZE", ALONE_SIZES), ("OP", &[0, 1]), ("GAIN", &[0, 1])])
}

pub(super) const NORM_VEC4_BWD: Kernel = kernel("norm_vec4_bwd");
pub(super) const NORM_ROWS_BWD: Kernel = kernel("norm_rows_bwd");
pub(super) const NORM_GROUP_BWD: Kernel =
    kernel("norm_group_bwd").overrides(&[("WG_SIZE", SHARED_SIZES), ("OP", &[0, 1]), ("GAIN", &[0, 1])]);

/// What the backward pass of a norm over rows keeps.
pub(super) struct RowBackward {
    pub(super) variant: Option<RowVariant>,
    pub(super) norm: RowNorm,
    /// `[.., n]`, with at least one element.
    pub(super) x: Tensor,
    /// `[n]`.
    pub(super) gain: Option<Tensor>,
    pub(super) eps: f32,
    /// Types of the gain and the bias, where their gradients are wanted.
    pub(super) wanted: [Option<DType>; 2],
}

impl RowBackward {
    /// Gradients of `x`, and of gain and bias where wanted.
    pub(super) fn run(&self, d: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let (x, d) = (self.x.contiguous()?, d.contiguous()?);
        let (d_x, stats) = self.d_x(self.variant, &x, self.gain.as_ref(), &d)?;
        let [gain, bias] = self.wanted;
        if gain.is_none() && bias.is_none() {
            return Ok([Some(d_x), None, None]);
        }
        let n_cols = x.shape()[x.rank() - 1];
        let grid = match self.variant {
            Some(RowVariant::Invocation) => Grid::by(ChannelVariant::Neighbours, &x, 1, n_cols),
            Some(_) => Grid::by(ChannelVariant::Interleaved, &x, 1, n_cols),
            None => Grid::new(&x, 1, n_cols),
        };
        let sums = grid.row_sums(&x, &stats, &d)?;
        let of = |i: usize, dtype: Option<DType>| {
            dtype.map(|dtype| elementwise::cast(&grid.row(&sums, i)?, dtype)).transpose()
        };
        Ok([Some(d_x), of(1, gain)?, of(0, bias)?])
    }

    /// The gradient of `x`, and what normalises each row: `[n_rows, 4]`.
    fn d_x(
        &self,
        variant: Option<RowVariant>,
        x: &Tensor,
        gain: Option<&Tensor>,
        d: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let runtime = x.runtime();
        let n_cols = x.shape()[x.rank() - 1];
        let n_rows = x.len() / n_cols;
        let d_x = Tensor::empty(runtime, x.shape(), x.dtype())?;
        let stats = Tensor::empty(runtime, &[n_rows, 4], DType::F32)?;
        // Statistics, then the sums and the results: two at a time where rows are in fours.
        let alone = if n_cols.is_multiple_of(4) { n_cols / 3 + 32 } else { 3 * n_cols + 8 };
        let by = |variant, x: &Tensor, gain: Option<&Tensor>, d: &Tensor| {
            let (d_x, stats) = self.d_x(Some(variant), x, gain, d)?;
            // The fourth number is anything.
            Ok(vec![d_x, stats.slice(1, 0..3)?])
        };
        let trial = RowTrial {
            op: "row_norm_bwd",
            dtype: x.dtype(),
            n_rows,
            n_cols,
            alone,
            exact: u32::from(self.norm == RowNorm::Rms) | u32::from(gain.is_some()) << 1,
            subgroups: false,
            kernels: KERNELS,
            run: &|variant| by(variant, x, gain, d),
            probe: &|variant, shape| {
                let x = noise(runtime, &shape, x.dtype())?;
                let gain = gain.map(|gain| noise(runtime, &shape[1..], gain.dtype())).transpose()?;
                // Not x itself, whose gradient is next to nothing.
                let d =
                    noise(runtime, &[shape[0] + 1, shape[1]], x.dtype())?.slice(0, 1..shape[0] + 1)?.contiguous()?;
                by(variant, &x, gain.as_ref(), &d)
            },
        };
        let variant = variant.unwrap_or_else(|| trial.choose(runtime));
        let kernel = match variant {
            RowVariant::Invocation if n_cols.is_multiple_of(4) => &NORM_VEC4_BWD,
            RowVariant::Invocation => &NORM_ROWS_BWD,
            RowVariant::Group | RowVariant::Subgroup => &NORM_GROUP_BWD,
        };
        let (wg_size, groups) = variant.grid(runtime, n_rows, n_cols);
        // A gain that is not there is never read, but something must be bound in its place.
        let bound_gain = match gain {
            Some(gain) => elementwise::cast(gain, DType::F32)?.contiguous()?,
            None => x.clone(),
        };
        runtime
            .launch(kernel)
            .types(&[x.dtype(), DType::F32, DType::F32])
            .overrides(&[
                ("WG_SIZE", wg_size),
                ("OP", u32::from(self.norm == RowNorm::Rms)),
                ("GAIN", u32::from(gain.is_some())),
            ])
            .bind([x, &bound_gain, d, &d_x, &stats].map(Tensor::binding))
            .params(&NormParams { n_rows: n_rows as u32, n_cols: n_cols as u32, eps: self.eps })
            .groups(groups)
            .rounds(variant.rounds(n_cols, alone, 9))
            .cost(14 * x.len() as u64, 3 * (x.len() * x.dtype().bytes()) as u64)
            .run()?;
        Ok((d_x, stats))
    }
}

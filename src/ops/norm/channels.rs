//! Norms of channels: batch norm by statistics of the batch or by running ones, and group norm.

use super::{FLOATS, check_eps, check_params};
use crate::autograd::{record, refuse};
use crate::ops::rows::{ALONE_SIZES, SHARED_SIZES, alone_grid, shared_size};
use crate::ops::tune::defaults::Defaults;
use crate::ops::tune::{Question, Variants, choose, noise, rounding};
use crate::ops::{Act, act, elementwise, reduce};
use crate::runtime::{
    Bind,
    Bind::{Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::{DType, Tensor, check};
use crate::{Error, Result};
use std::sync::Arc;

const SOURCE: &str = include_str!("../../../shaders/norm_channels.wgsl");
const COMMONS: &[Common] = &[INDEX, act::ACT, reduce::REDUCE];
const ALIASES: &[&str] = &["Elem", "Param", "Acc"];
const F32: &[DType] = &[DType::F32];
const ACTS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ChannelParams {
    n_samples: u32,
    n_rows: u32,
    n_cols: u32,
    group_size: u32,
    n_blocks: u32,
    block_step: u32,
    row_step: u32,
    rows_each: u32,
    stride_sums: u32,
    eps: f32,
    inverse_count: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RunningParams {
    n_cols: u32,
    begin: u32,
    end: u32,
    base_out_mean: u32,
    base_out_var: u32,
    base_mean: u32,
    base_var: u32,
    keep: f32,
    take: f32,
    take_var: f32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("norm_channels", entry, SOURCE, binds)
        .commons(COMMONS)
        .types(ALIASES, &[FLOATS, F32, F32])
        .params::<ChannelParams>()
        .overrides(&[("WG_SIZE", ALONE_SIZES)])
}

const fn channel_fwd(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Read, Read, Read, Write]).types(ALIASES, &[FLOATS, FLOATS, F32]).overrides(&[
        ("WG_SIZE", ALONE_SIZES),
        ("ACT", ACTS),
        ("STATS", &[0, 1]),
    ])
}

const fn channel_sums(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Read, Read, Read, Read, Write]).overrides(&[
        ("WG_SIZE", ALONE_SIZES),
        ("ACT", ACTS),
        ("STATS", &[0, 1]),
    ])
}

const fn channel_bwd(entry: &'static str) -> Kernel {
    kernel(entry, &[Read, Read, Read, Read, Read, Read, Read, Write]).overrides(&[
        ("WG_SIZE", ALONE_SIZES),
        ("ACT", ACTS),
        ("STATS", &[0, 1, 2]),
    ])
}

const CHANNEL_VEC4_FWD: Kernel = channel_fwd("channel_vec4_fwd");
const CHANNEL_FWD: Kernel = channel_fwd("channel_fwd");
const MOMENTS_VEC4_FWD: Kernel = kernel("moments_vec4_fwd", &[Read, Write]);
const MOMENTS_FWD: Kernel = kernel("moments_fwd", &[Read, Write]);
const JOIN_FWD: Kernel =
    kernel("join_fwd", &[Read, Read, Write]).overrides(&[("WG_SIZE", ALONE_SIZES), ("OP", &[MOMENTS, SUMS])]);
const JOIN_GROUP_FWD: Kernel =
    kernel("join_group_fwd", &[Read, Read, Write]).overrides(&[("WG_SIZE", SHARED_SIZES), ("OP", &[MOMENTS, SUMS])]);
const CHANNEL_SUMS_VEC4_BWD: Kernel = channel_sums("channel_sums_vec4_bwd");
const CHANNEL_SUMS_BWD: Kernel = channel_sums("channel_sums_bwd");
const CHANNEL_VEC4_BWD: Kernel = channel_bwd("channel_vec4_bwd");
const CHANNEL_BWD: Kernel = channel_bwd("channel_bwd");
const ROW_SUMS_VEC4_BWD: Kernel = kernel("row_sums_vec4_bwd", &[Read, Read, Read, Write]);
const ROW_SUMS_BWD: Kernel = kernel("row_sums_bwd", &[Read, Read, Read, Write]);
const RUNNING_FWD: Kernel =
    kernel("running_fwd", &[Read, Read, Write]).types(ALIASES, &[F32, F32, F32]).params::<RunningParams>();

/// The kernels of the norms of channels.
pub(crate) const KERNELS: &[Kernel] = &[
    CHANNEL_VEC4_FWD,
    CHANNEL_FWD,
    MOMENTS_VEC4_FWD,
    MOMENTS_FWD,
    JOIN_FWD,
    JOIN_GROUP_FWD,
    CHANNEL_SUMS_VEC4_BWD,
    CHANNEL_SUMS_BWD,
    CHANNEL_VEC4_BWD,
    CHANNEL_BWD,
    ROW_SUMS_VEC4_BWD,
    ROW_SUMS_BWD,
    RUNNING_FWD,
];

const MOMENTS: u32 = 0;
const SUMS: u32 = 1;

/// How an invocation's rows lie. The ops choose; [`batch_norm_train_with`] is for benchmarks and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelVariant {
    /// Next to each other, in few blocks: software adapters, whose cores each read a stretch of memory.
    Neighbours,
    /// Far apart, in many blocks whose sums a workgroup joins: GPUs, whose lanes read side by side.
    Interleaved,
}

impl Variants for ChannelVariant {
    const ALL: &'static [Self] = &Self::ALL;
}

impl ChannelVariant {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Neighbours, Self::Interleaved];

    /// The variant for an adapter.
    #[must_use]
    pub fn choose(runtime: &Runtime) -> Self {
        Defaults::of(runtime.profile()).channels
    }

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Neighbours => "neighbours",
            Self::Interleaved => "interleaved",
        }
    }
}

/// `[n_samples, n_rows, n_cols]`, each at least 1, as the kernels see a tensor.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    n_samples: usize,
    n_rows: usize,
    n_cols: usize,
    variant: ChannelVariant,
}

/// How the rows of each sample are shared among invocations.
#[derive(Clone, Copy)]
struct Blocks {
    n: usize,
    rows_each: usize,
}

impl Blocks {
    /// Loop rounds of an invocation that takes its rows one by one, in blocks of 64.
    fn rounds(self) -> usize {
        self.rows_each + self.rows_each / 32 + 8
    }
}

impl Grid {
    pub(super) fn new(x: &Tensor, n_samples: usize, n_cols: usize) -> Self {
        let grid = Self::by(ChannelVariant::choose(x.runtime()), x, n_samples, n_cols);
        Self { variant: grid.tuned(x), ..grid }
    }

    pub(super) fn by(variant: ChannelVariant, x: &Tensor, n_samples: usize, n_cols: usize) -> Self {
        Self { n_samples, n_rows: x.len() / n_cols / n_samples, n_cols, variant }
    }

    /// The fastest variant known, by the moments of `x`; the other passes read it in the same order.
    fn tuned(self, x: &Tensor) -> ChannelVariant {
        let (runtime, dtype) = (x.runtime(), x.dtype());
        if self.n_samples > 1 || !x.is_bindable() {
            return self.variant;
        }
        let moments = |grid: Self, x: &Tensor| {
            let sums = grid.moments(x)?;
            // What lies between one row of sums and the next is anything.
            Ok(vec![sums.slice(1, 0..grid.n_cols)?])
        };
        let question = Question {
            op: "norm_channels",
            dtype,
            sizes: &[("rows", self.n_rows), ("channels", self.n_cols)],
            exact: &[("fours", usize::from(self.is_vec4()))],
            kernels: &[KERNELS],
            plain: ChannelVariant::Neighbours,
            fits: &|_| true,
            run: &|variant| moments(Self { variant, ..self }, x),
            probe: &|variant| {
                let n_cols = if self.is_vec4() { 20 } else { 19 };
                let x = noise(runtime, &[700, n_cols], dtype)?;
                moments(Self::by(variant, &x, 1, n_cols), &x)
            },
            tolerance: rounding(dtype),
        };
        choose(runtime, self.variant, &question)
    }

    fn is_vec4(&self) -> bool {
        self.n_cols.is_multiple_of(4)
    }

    fn columns(&self) -> usize {
        if self.is_vec4() { self.n_cols / 4 } else { self.n_cols }
    }

    /// About `wanted` invocations, with at least `least` and at most `most` rows each.
    fn blocks(&self, wanted: usize, least: usize, most: usize) -> Blocks {
        let rows = self.n_rows * self.n_samples * self.columns() / wanted;
        let rows_each = rows.clamp(least, most).min(self.n_rows);
        Blocks { n: self.n_rows.div_ceil(rows_each), rows_each }
    }

    /// For maps: rows enough to pay for what an invocation reads of the channels.
    fn map_blocks(&self) -> Blocks {
        self.blocks(if self.variant == ChannelVariant::Neighbours { 1 << 12 } else { 1 << 17 }, 1, 32)
    }

    /// For sums: as few parts as keep all cores at work. There are at most 2^14, so that loops over them stay short.
    fn sum_blocks(&self) -> Blocks {
        let least = self.n_rows.div_ceil(1 << 14);
        match self.variant {
            ChannelVariant::Neighbours => self.blocks(256, least.max(64), least.max(4096)),
            ChannelVariant::Interleaved => self.blocks(1 << 16, least.max(16), least.max(4096)),
        }
    }

    /// Elements from one row of sums to the next: rows are bound on their own.
    fn stride_sums(&self, runtime: &Runtime) -> usize {
        self.n_cols.next_multiple_of((runtime.profile().limits.offset_alignment as usize / 4).max(1))
    }

    /// Size and number of workgroups for an invocation per block and column.
    fn launch_grid(&self, runtime: &Runtime, blocks: Blocks) -> (u32, u64) {
        alone_grid(runtime, self.n_samples * blocks.n * self.columns())
    }

    fn params(&self, runtime: &Runtime, blocks: Blocks, group_size: usize, eps: f32) -> ChannelParams {
        let (block_step, row_step) = match self.variant {
            ChannelVariant::Neighbours => (blocks.rows_each, 1),
            ChannelVariant::Interleaved => (1, blocks.n),
        };
        ChannelParams {
            n_samples: self.n_samples as u32,
            n_rows: self.n_rows as u32,
            n_cols: self.n_cols as u32,
            group_size: group_size as u32,
            n_blocks: blocks.n as u32,
            block_step: block_step as u32,
            row_step: row_step as u32,
            rows_each: blocks.rows_each as u32,
            stride_sums: self.stride_sums(runtime) as u32,
            eps,
            inverse_count: 1.0 / (self.n_rows * group_size) as f32,
        }
    }

    /// Joins parts `[n_samples, n_blocks, 2, n_cols]`: moments to `[1, 3, stride]`, sums to `[n_samples, 2, stride]`.
    fn join(&self, op: u32, blocks: Blocks, parts: &Tensor, x: &Tensor) -> Result<Tensor> {
        let runtime = parts.runtime();
        let n_kept = if op == MOMENTS { 3 } else { 2 };
        let out = Tensor::empty(runtime, &[self.n_samples, n_kept, self.stride_sums(runtime)], DType::F32)?;
        let n = self.n_samples * self.n_cols;
        let (kernel, (wg_size, groups)) = if self.variant == ChannelVariant::Neighbours || blocks.n <= 32 {
            (&JOIN_FWD, alone_grid(runtime, n))
        } else {
            (&JOIN_GROUP_FWD, (shared_size(blocks.n), n as u64))
        };
        runtime
            .launch(kernel)
            .types(&[x.dtype(), DType::F32, DType::F32])
            .overrides(&[("WG_SIZE", wg_size), ("OP", op)])
            .bind([parts.binding(), x.binding(), out.binding()])
            .params(&self.params(runtime, blocks, 1, 0.0))
            .groups(groups)
            .rounds(2 * blocks.n + 256)
            .cost(2 * parts.len() as u64, 4 * parts.len() as u64)
            .run()?;
        Ok(out)
    }

    /// Mean, population variance, and mean of the differences to the first row, `[3, stride]`, of contiguous `x`.
    fn moments(&self, x: &Tensor) -> Result<Tensor> {
        let runtime = x.runtime();
        let blocks = self.sum_blocks();
        let parts = Tensor::empty(runtime, &[blocks.n, 2, self.n_cols], DType::F32)?;
        let (wg_size, groups) = self.launch_grid(runtime, blocks);
        runtime
            .launch(if self.is_vec4() { &MOMENTS_VEC4_FWD } else { &MOMENTS_FWD })
            .types(&[x.dtype(), DType::F32, DType::F32])
            .overrides(&[("WG_SIZE", wg_size)])
            .bind([x.binding(), parts.binding()])
            .params(&self.params(runtime, blocks, 1, 0.0))
            .groups(groups)
            .rounds(blocks.rounds())
            .cost(6 * x.len() as u64, (x.len() * x.dtype().bytes()) as u64)
            .run()?;
        self.join(MOMENTS, blocks, &parts, x)?.reshape(&[3, self.stride_sums(runtime)])
    }

    /// Of a norm over rows: sums over the rows of `d`, and of `d` times the normalised `x`: `[2, stride]`. Each of the
    /// `stats` `[n_rows, 4]` holds the row's first element, the mean of the differences to it, and the scale.
    pub(super) fn row_sums(&self, x: &Tensor, stats: &Tensor, d: &Tensor) -> Result<Tensor> {
        let runtime = x.runtime();
        let blocks = self.sum_blocks();
        let parts = Tensor::empty(runtime, &[blocks.n, 2, self.n_cols], DType::F32)?;
        let (wg_size, groups) = self.launch_grid(runtime, blocks);
        runtime
            .launch(if self.is_vec4() { &ROW_SUMS_VEC4_BWD } else { &ROW_SUMS_BWD })
            .types(&[x.dtype(), DType::F32, DType::F32])
            .overrides(&[("WG_SIZE", wg_size)])
            .bind([x, stats, d, &parts].map(Tensor::binding))
            .params(&self.params(runtime, blocks, 1, 0.0))
            .groups(groups)
            .rounds(blocks.rounds())
            .cost(5 * x.len() as u64, 2 * (x.len() * x.dtype().bytes()) as u64)
            .run()?;
        self.join(SUMS, blocks, &parts, &parts)?.reshape(&[2, self.stride_sums(runtime)])
    }

    /// Row `i` of sums `[n, stride]`, as `[c]`.
    pub(super) fn row(&self, sums: &Tensor, i: usize) -> Result<Tensor> {
        sums.slice(0, i..i + 1)?.slice(1, 0..self.n_cols)?.reshape(&[self.n_cols])
    }
}

/// Whose statistics a norm takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stats {
    /// Numbers that do not depend on `x`.
    Given,
    /// Those of all rows; means count from the first row.
    Batch,
    /// Those of groups of neighbouring channels in each sample.
    Groups,
}

/// A norm of channels with everything but the gradient that its backward pass needs.
struct ChannelNorm {
    grid: Grid,
    group_size: usize,
    stats: Stats,
    /// Contiguous, `[n_samples, n_rows, c]` in memory order.
    x: Tensor,
    /// `[n_samples, n_groups]`.
    mean: Tensor,
    var: Tensor,
    /// `[c]`.
    gain: Tensor,
    bias: Tensor,
    eps: f32,
    act: Act,
}

impl ChannelNorm {
    fn params(&self, blocks: Blocks) -> ChannelParams {
        self.grid.params(self.x.runtime(), blocks, self.group_size, self.eps)
    }

    fn bytes(&self) -> u64 {
        (self.x.len() * self.x.dtype().bytes()) as u64
    }

    fn forward(&self) -> Result<Tensor> {
        let runtime = self.x.runtime();
        let out = Tensor::empty(runtime, self.x.shape(), self.x.dtype())?;
        let blocks = self.grid.map_blocks();
        let (wg_size, groups) = self.grid.launch_grid(runtime, blocks);
        let [gain, bias, mean, var] = [&self.gain, &self.bias, &self.mean, &self.var].map(Tensor::contiguous);
        runtime
            .launch(if self.grid.is_vec4() { &CHANNEL_VEC4_FWD } else { &CHANNEL_FWD })
            .types(&[self.x.dtype(), self.gain.dtype(), DType::F32])
            .overrides(&[
                ("WG_SIZE", wg_size),
                ("ACT", self.act.code()),
                ("STATS", u32::from(self.stats == Stats::Batch)),
            ])
            .bind([self.x.binding(), gain?.binding(), bias?.binding(), mean?.binding(), var?.binding(), out.binding()])
            .params(&self.params(blocks))
            .groups(groups)
            .cost(4 * self.x.len() as u64, 2 * self.bytes())
            .run()?;
        Ok(out)
    }

    /// Parameters and statistics as the backward kernels read them.
    fn channels(&self) -> Result<[Tensor; 4]> {
        let f32s = |x: &Tensor| elementwise::cast(x, DType::F32)?.contiguous();
        Ok([f32s(&self.gain)?, f32s(&self.bias)?, f32s(&self.mean)?, f32s(&self.var)?])
    }

    /// Sums over the rows of each sample of the gradient before the activation, and of it times the normalised `x`:
    /// `[n_samples, 2, stride]`.
    fn sums(&self, d: &Tensor) -> Result<Tensor> {
        let runtime = self.x.runtime();
        let blocks = self.grid.sum_blocks();
        let parts = Tensor::empty(runtime, &[self.grid.n_samples, blocks.n, 2, self.grid.n_cols], DType::F32)?;
        let (wg_size, groups) = self.grid.launch_grid(runtime, blocks);
        let [gain, bias, mean, var] = self.channels()?;
        runtime
            .launch(if self.grid.is_vec4() { &CHANNEL_SUMS_VEC4_BWD } else { &CHANNEL_SUMS_BWD })
            .types(&[self.x.dtype(), DType::F32, DType::F32])
            .overrides(&[
                ("WG_SIZE", wg_size),
                ("ACT", self.act.code()),
                ("STATS", u32::from(self.stats == Stats::Batch)),
            ])
            .bind([&self.x, &gain, &bias, &mean, &var, d, &parts].map(Tensor::binding))
            .params(&self.params(blocks))
            .groups(groups)
            .rounds(blocks.rounds())
            .cost(8 * self.x.len() as u64, 2 * self.bytes())
            .run()?;
        self.grid.join(SUMS, blocks, &parts, &parts)
    }

    /// Sums over a group of what [`ChannelNorm::sums`] gives, times the gain: the same shape.
    fn group_sums(&self, sums: &Tensor) -> Result<Tensor> {
        let Grid { n_samples, n_cols, .. } = self.grid;
        let n_groups = n_cols / self.group_size;
        let weighted = elementwise::mul(&sums.slice(2, 0..n_cols)?, &elementwise::cast(&self.gain, DType::F32)?)?;
        let grouped = reduce::sum(&weighted.reshape(&[n_samples, 2, n_groups, self.group_size])?, &[3], false)?;
        let stride = sums.shape()[2];
        crate::ops::gather::pad(&grouped, &[(0, 0), (0, 0), (0, stride - n_groups)], 0.0)
    }

    /// `sums` are those of channels, or of groups; for given statistics nothing is read of them.
    fn d_x(&self, d: &Tensor, sums: Option<&Tensor>) -> Result<Tensor> {
        let runtime = self.x.runtime();
        let out = Tensor::empty(runtime, self.x.shape(), self.x.dtype())?;
        let blocks = self.grid.map_blocks();
        let (wg_size, groups) = self.grid.launch_grid(runtime, blocks);
        let [gain, bias, mean, var] = self.channels()?;
        runtime
            .launch(if self.grid.is_vec4() { &CHANNEL_VEC4_BWD } else { &CHANNEL_BWD })
            .types(&[self.x.dtype(), DType::F32, DType::F32])
            .overrides(&[("WG_SIZE", wg_size), ("ACT", self.act.code()), ("STATS", self.stats as u32)])
            .bind([&self.x, &gain, &bias, &mean, &var, d, sums.unwrap_or(&mean), &out].map(Tensor::binding))
            .params(&self.params(blocks))
            .groups(groups)
            .cost(12 * self.x.len() as u64, 3 * self.bytes())
            .run()?;
        Ok(out)
    }

    /// Gradients of `x`, the gain and the bias, those that are wanted.
    fn backward(&self, d: &Tensor, wanted: [bool; 3]) -> Result<[Option<Tensor>; 3]> {
        let [wants_x, wants_gain, wants_bias] = wanted;
        let d = d.contiguous()?;
        let sums = if wants_gain || wants_bias || self.stats != Stats::Given { Some(self.sums(&d)?) } else { None };
        let d_x = match &sums {
            _ if !wants_x => None,
            Some(sums) if self.stats == Stats::Groups => Some(self.d_x(&d, Some(&self.group_sums(sums)?))?),
            sums => Some(self.d_x(&d, sums.as_ref())?),
        };
        let of_param = |i: usize, wanted: bool, param: &Tensor| {
            let Some(sums) = sums.as_ref().filter(|_| wanted) else { return Ok(None) };
            let whole = if self.grid.n_samples == 1 {
                sums.reshape(&sums.shape()[1..])?
            } else {
                // Nothing is behind the columns.
                reduce::sum(&sums.slice(2, 0..self.grid.n_cols)?, &[0], false)?
            };
            Ok(Some(elementwise::cast(&self.grid.row(&whole, i)?, param.dtype())?))
        };
        Ok([d_x, of_param(1, wants_gain, &self.gain)?, of_param(0, wants_bias, &self.bias)?])
    }

    /// Runs it, and records it over inputs with a history.
    fn run(self, op: &'static str, x: &Tensor, gain: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let out = self.forward()?;
        Ok(record(op, out, [x, gain, bias], move |d, wanted| self.backward(d, wanted)))
    }
}

/// Batch norm by running statistics, then an activation: `act((x - mean) / sqrt(var + eps) gain + bias)` for `x`
/// `[.., c]` and the others `[c]`, to the shape of `x`. One reading of `x`.
///
/// For gradients the statistics are constants.
///
/// # Errors
/// As [`super::layer_norm`], and [`Error::Argument`] if a gradient is wanted of a statistic.
pub fn batch_norm(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f32,
    act: Act,
) -> Result<Tensor> {
    const OP: &str = "batch_norm";
    refuse(OP, &[mean, var])?;
    check_params(OP, x, &[("gain", gain), ("bias", bias), ("mean", mean), ("var", var)])?;
    check_eps(OP, eps)?;
    let patterns = [("x", x, ".. c"), ("gain", gain, "c"), ("bias", bias, "c"), ("mean", mean, "c"), ("var", var, "c")];
    let n_cols = check(OP, &patterns)?.get("c");
    if x.is_empty() {
        return Tensor::empty(x.runtime(), x.shape(), x.dtype());
    }
    let x_in = x.detach().contiguous()?;
    let norm = ChannelNorm {
        grid: Grid::new(&x_in, 1, n_cols),
        group_size: 1,
        stats: Stats::Given,
        x: x_in,
        mean: mean.clone(),
        var: var.clone(),
        gain: gain.detach(),
        bias: bias.detach(),
        eps,
        act,
    };
    norm.run(OP, x, gain, bias)
}

/// Batch norm by the batch's own statistics, then an activation: `act((x - mean) / sqrt(var + eps) gain + bias)` for `x`
/// `[.., c]`, `gain` and `bias` `[c]`, to the shape of `x`, and the statistics: mean and population variance, f32 `[c]`,
/// without a history.
///
/// See [`update_running_stats`]. The backward pass keeps `x` but not the result.
///
/// # Errors
/// As [`super::layer_norm`], and [`Error::Shape`] if `x` holds no element.
pub fn batch_norm_train(
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    eps: f32,
    act: Act,
) -> Result<(Tensor, Tensor, Tensor)> {
    batch_norm_train_with(None, x, gain, bias, eps, act)
}

/// As [`batch_norm_train`], forward and backward by a given variant, or the one the op would choose.
///
/// # Errors
/// As [`batch_norm_train`].
pub fn batch_norm_train_with(
    variant: Option<ChannelVariant>,
    x: &Tensor,
    gain: &Tensor,
    bias: &Tensor,
    eps: f32,
    act: Act,
) -> Result<(Tensor, Tensor, Tensor)> {
    const OP: &str = "batch_norm_train";
    check_params(OP, x, &[("gain", gain), ("bias", bias)])?;
    check_eps(OP, eps)?;
    let n_cols = check(OP, &[("x", x, ".. c"), ("gain", gain, "c"), ("bias", bias, "c")])?.get("c");
    if x.is_empty() {
        return Err(Error::shape(OP, format!("x {:?} has no element to take statistics of", x.shape())));
    }
    let x_in = x.detach().contiguous()?;
    let grid = match variant {
        Some(variant) => Grid::by(variant, &x_in, 1, n_cols),
        None => Grid::new(&x_in, 1, n_cols),
    };
    let moments = grid.moments(&x_in)?;
    let [mean, var] = [grid.row(&moments, 0)?, grid.row(&moments, 1)?];
    let norm = ChannelNorm {
        grid,
        group_size: 1,
        stats: Stats::Batch,
        x: x_in,
        mean: grid.row(&moments, 2)?,
        var: var.clone(),
        gain: elementwise::cast(&gain.detach(), DType::F32)?,
        bias: elementwise::cast(&bias.detach(), DType::F32)?,
        eps,
        act,
    };
    Ok((norm.run(OP, x, gain, bias)?, mean, var))
}

/// Moves running statistics towards those of a batch of `n` elements per channel, in place:
/// `running_mean = (1 - momentum) running_mean + momentum mean`, and likewise the variance, with the unbiased estimate
/// `var n / (n - 1)` (for n = 1 `var` itself). All four are f32 `[c]`; the running ones are contiguous, and may be views
/// of one tensor that holds those of a whole network.
///
/// Tensors are immutable otherwise. Here it is the point that all views of the running statistics see the new numbers;
/// what was computed from the old ones before stays as it is, as launches run in order. Only a backward pass through
/// [`batch_norm`] by these statistics that is still to come would read the new ones in place of the old.
///
/// # Errors
/// [`Error::Shape`] if the sizes differ or a running one is not contiguous, [`Error::DType`] unless all are f32,
/// [`Error::Argument`] if a gradient is wanted of one, the running ones share elements with each other or memory with
/// the batch's, `momentum` is not in 0..=1, `n` is 0, or the devices differ.
pub fn update_running_stats(
    running_mean: &Tensor,
    running_var: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    n: usize,
    momentum: f32,
) -> Result<()> {
    const OP: &str = "update_running_stats";
    let named = [("running_mean", running_mean), ("running_var", running_var), ("mean", mean), ("var", var)];
    refuse(OP, &named.map(|(_, tensor)| tensor))?;
    check_params(OP, running_mean, &named)?;
    if running_mean.dtype() != DType::F32 {
        return Err(Error::dtype(OP, format!("statistics are {}, f32 wanted", running_mean.dtype())));
    }
    let n_cols = check(OP, &named.map(|(name, tensor)| (name, tensor, "c")))?.get("c");
    if !running_mean.is_contiguous() || !running_var.is_contiguous() {
        return Err(Error::shape(OP, "a running statistic is not contiguous, so it cannot be updated in place"));
    }
    if n == 0 || !(0.0..=1.0).contains(&momentum) {
        return Err(Error::argument(OP, format!("n {n} and momentum {momentum} given, 1 or more and 0 to 1 wanted")));
    }
    if n_cols == 0 {
        return Ok(());
    }
    let [(out_mean, at_mean), (out_var, at_var)] = [running_mean.binding_from(), running_var.binding_from()];
    let [(mean, base_mean), (var, base_var)] = [mean.contiguous()?.binding_from(), var.contiguous()?.binding_from()];
    let shared = Arc::ptr_eq(&out_mean.buffer, &out_var.buffer);
    let overlap = shared && running_mean.offset().abs_diff(running_var.offset()) < n_cols;
    let read_too =
        [&out_mean, &out_var].iter().any(|out| [&mean, &var].iter().any(|x| Arc::ptr_eq(&out.buffer, &x.buffer)));
    if overlap || read_too {
        return Err(Error::argument(OP, "the running statistics share memory with each other or the batch's"));
    }
    let runtime = running_mean.runtime();
    let unbiased = if n > 1 { n as f32 / (n - 1) as f32 } else { 1.0 };
    // One memory is bound once, from the first of the two on.
    let launches = if shared {
        let first = if out_mean.offset < out_var.offset { &out_mean } else { &out_var };
        let from = |offset: u64, at: u32| ((offset - first.offset) / 4) as u32 + at;
        let bases = [from(out_mean.offset, at_mean), from(out_var.offset, at_var)];
        vec![(first.clone(), bases, 0..2 * n_cols)]
    } else {
        vec![(out_mean, [at_mean, 0], 0..n_cols), (out_var, [0, at_var], n_cols..2 * n_cols)]
    };
    for (out, [base_out_mean, base_out_var], range) in launches {
        let (wg_size, groups) = alone_grid(runtime, range.len());
        runtime
            .launch(&RUNNING_FWD)
            .types(&[DType::F32; 3])
            .overrides(&[("WG_SIZE", wg_size)])
            .bind([mean.clone(), var.clone(), out])
            .params(&RunningParams {
                n_cols: n_cols as u32,
                begin: range.start as u32,
                end: range.end as u32,
                base_out_mean,
                base_out_var,
                base_mean,
                base_var,
                keep: 1.0 - momentum,
                take: momentum,
                take_var: momentum * unbiased,
            })
            .groups(groups)
            .cost(3 * range.len() as u64, 12 * range.len() as u64)
            .run()?;
    }
    Ok(())
}

/// Group norm with channels last: each sample's channels in `groups` equal groups of neighbours, each normalised over
/// all positions and channels of the group; `x` `[n, .., c]`, `gain` and `bias` `[c]`, to the shape of `x`.
///
/// # Errors
/// As [`super::layer_norm`], and [`Error::Argument`] if `groups` does not divide the channels.
pub fn group_norm(x: &Tensor, groups: usize, gain: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    const OP: &str = "group_norm";
    check_params(OP, x, &[("gain", gain), ("bias", bias)])?;
    check_eps(OP, eps)?;
    let n_cols = check(OP, &[("x", x, ".. c"), ("gain", gain, "c"), ("bias", bias, "c")])?.get("c");
    if x.rank() < 2 {
        return Err(Error::shape(OP, format!("x {:?} given, [n, .., c] wanted", x.shape())));
    }
    if groups == 0 || !n_cols.is_multiple_of(groups) {
        return Err(Error::argument(OP, format!("{n_cols} channels do not split into {groups} groups")));
    }
    if x.is_empty() {
        return Tensor::empty(x.runtime(), x.shape(), x.dtype());
    }
    let x_in = x.detach().contiguous()?;
    let grid = Grid::new(&x_in, x.shape()[0], n_cols);
    let (mean, var) = reduce::group_moments(&x_in.reshape(&[grid.n_samples, grid.n_rows, n_cols])?, groups)?;
    let norm = ChannelNorm {
        grid,
        group_size: n_cols / groups,
        stats: Stats::Groups,
        x: x_in,
        mean,
        var,
        gain: elementwise::cast(&gain.detach(), DType::F32)?,
        bias: elementwise::cast(&bias.detach(), DType::F32)?,
        eps,
        act: Act::None,
    };
    norm.run(OP, x, gain, bias)
}

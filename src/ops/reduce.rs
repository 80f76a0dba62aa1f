//! Sums, means, variances, maxima, minima and their places, over any axes.
//!
//! Results repeat bit for bit on one adapter, by one variant. Floats are summed in f32 in blocks, so that the error stays near that of
//! one rounding however long the sum; integers wrap. A NaN among the elements makes the sum, mean, variance, maximum
//! and minimum NaN and is the place of both extremes, as in PyTorch.

use super::checks::need_float;
use super::elementwise;
use super::rows::{ALONE_SIZES, SHARED_SIZES, alone_grid, shared_size};
use super::tune::defaults::Defaults;
use super::tune::{Question, Variants, choose, noise, rounding};
use crate::autograd::record;
use crate::runtime::{
    Bind,
    Bind::{Read, Write},
    Common, INDEX, Kernel, LOOP_ROUNDS, Need, Runtime,
};
use crate::tensor::{DType, Tensor, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/reduce.wgsl");

/// Reductions over a workgroup: `group_reduce(kind, ..)`, `subgroups_reduce(kind, ..)`. A family that uses them has the
/// alias `Acc` and the constant `WG_SIZE`.
pub(crate) const REDUCE: Common = Common { name: "reduce", source: include_str!("../../shaders/common/reduce.wgsl") };

/// Elements that one invocation reduces at most: what keeps the blocks of a sum, and their number, short.
const MAX_EACH: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct RowsParams {
    n_out: u32,
    n_reduced: u32,
    n_parts: u32,
    k_each: u32,
    offset: u32,
    divisor: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ColsParams {
    n_outer: u32,
    n_reduced: u32,
    n_vec4: u32,
    n_parts: u32,
    k_each: u32,
    divisor: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StridedParams {
    n_out: u32,
    n_reduced: u32,
    n_parts: u32,
    k_each: u32,
    offset: u32,
    divisor: f32,
    kept: [u32; 2],
    kept_strides: [u32; 3],
    reduced: [u32; 2],
    reduced_strides: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ArgJoinParams {
    n_out: u32,
    n_parts: u32,
}

/// One entry point for each of the accumulators.
struct ByType {
    float: Kernel,
    unsigned: Kernel,
    signed: Kernel,
}

const FLOATS: &[DType] = &[DType::F32, DType::F16];

impl ByType {
    const fn new<P: bytemuck::Pod>(entry: &'static str, binds: &'static [Bind]) -> Self {
        const ALIASES: &[&str] = &["Elem", "Acc", "Out"];
        let kernel = Kernel::new("reduce", entry, SOURCE, binds).commons(&[INDEX, REDUCE]).params::<P>();
        Self {
            float: kernel.types(ALIASES, &[FLOATS, &[DType::F32], FLOATS]),
            unsigned: kernel.types(ALIASES, &[&[DType::U32], &[DType::U32], &[DType::U32]]),
            signed: kernel.types(ALIASES, &[&[DType::I32], &[DType::I32], &[DType::I32]]),
        }
    }

    /// With these types of the elements and of the result where they are floats.
    const fn floats(mut self, types: &'static [&'static [DType]]) -> Self {
        self.float.types = types;
        self
    }

    const fn overrides(
        mut self,
        floats: &'static [(&'static str, &'static [u32])],
        integers: &'static [(&'static str, &'static [u32])],
    ) -> Self {
        self.float = self.float.overrides(floats);
        self.unsigned = self.unsigned.overrides(integers);
        self.signed = self.signed.overrides(integers);
        self
    }

    const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.float = self.float.needs(needs);
        self.unsigned = self.unsigned.needs(needs);
        self.signed = self.signed.needs(needs);
        self
    }

    const fn of(&self, dtype: DType) -> &Kernel {
        match dtype {
            DType::U32 => &self.unsigned,
            DType::I32 => &self.signed,
            _ => &self.float,
        }
    }
}

const SUM: u32 = 0;
const SQUARES: u32 = 1;
const MAX: u32 = 2;
const MIN: u32 = 3;

const ROWS: ByType = ByType::new::<RowsParams>("reduce_rows_fwd", &[Read, Read, Write]).overrides(
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, SQUARES, MAX, MIN])],
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, MAX, MIN])],
);
const COLS: ByType = ByType::new::<ColsParams>("reduce_cols_fwd", &[Read, Read, Write]).overrides(
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, SQUARES, MAX, MIN])],
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, MAX, MIN])],
);
const STRIDED: ByType = ByType::new::<StridedParams>("reduce_strided_fwd", &[Read, Read, Write]).overrides(
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, SQUARES, MAX, MIN])],
    &[("WG_SIZE", ALONE_SIZES), ("OP", &[SUM, MAX, MIN])],
);
const GROUP: ByType = ByType::new::<RowsParams>("reduce_group_fwd", &[Read, Read, Write]).overrides(
    &[("WG_SIZE", SHARED_SIZES), ("OP", &[SUM, SQUARES, MAX, MIN])],
    &[("WG_SIZE", SHARED_SIZES), ("OP", &[SUM, MAX, MIN])],
);
const SUBGROUP: ByType = ByType::new::<RowsParams>("reduce_subgroup_fwd", &[Read, Read, Write])
    .overrides(
        &[("WG_SIZE", SHARED_SIZES), ("OP", &[SUM, SQUARES, MAX, MIN])],
        &[("WG_SIZE", SHARED_SIZES), ("OP", &[SUM, MAX, MIN])],
    )
    .needs(&[Need::Subgroup]);
const ARG: ByType = ByType::new::<StridedParams>("arg_fwd", &[Read, Write, Write])
    .overrides(&[("WG_SIZE", ALONE_SIZES), ("OP", &[MAX, MIN])], &[("WG_SIZE", ALONE_SIZES), ("OP", &[MAX, MIN])])
    .floats(&[FLOATS, &[DType::F32], &[DType::F32]]);
const ARG_JOIN: ByType = ByType::new::<ArgJoinParams>("arg_join_fwd", &[Read, Read, Write])
    .overrides(&[("WG_SIZE", ALONE_SIZES), ("OP", &[MAX, MIN])], &[("WG_SIZE", ALONE_SIZES), ("OP", &[MAX, MIN])])
    .floats(&[&[DType::F32], &[DType::F32], &[DType::F32]]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    ROWS.float,
    ROWS.unsigned,
    ROWS.signed,
    COLS.float,
    COLS.unsigned,
    COLS.signed,
    STRIDED.float,
    STRIDED.unsigned,
    STRIDED.signed,
    GROUP.float,
    GROUP.unsigned,
    GROUP.signed,
    SUBGROUP.float,
    SUBGROUP.unsigned,
    SUBGROUP.signed,
    ARG.float,
    ARG.unsigned,
    ARG.signed,
    ARG_JOIN.float,
    ARG_JOIN.unsigned,
    ARG_JOIN.signed,
];

/// Who reduces. The ops choose; [`reduce_with`] is for benchmarks and tests. A variant that does not fit how the elements
/// lie gives way to [`ReduceVariant::Strided`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceVariant {
    /// One invocation per result or part of one, single elements in any order: fits everything.
    Strided,
    /// The same with loads of four: reduced axes last and a multiple of 4, or a multiple of 4 kept elements last.
    Vec4,
    /// One workgroup per result or part of one, joined by a tree in workgroup memory: reduced axes last.
    Group,
    /// The same, subgroups joined first: needs subgroup operations, of any size.
    Subgroup,
}

impl ReduceVariant {
    /// Every variant, plainest first.
    pub const ALL: [Self; 4] = [Self::Strided, Self::Vec4, Self::Group, Self::Subgroup];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Strided => "strided",
            Self::Vec4 => "vec4",
            Self::Group => "group",
            Self::Subgroup => "subgroup",
        }
    }

    fn choose(runtime: &Runtime, n_reduced: usize) -> Self {
        let profile = runtime.profile();
        if n_reduced <= Defaults::of(profile).row_alone {
            Self::Vec4
        } else if profile.features.subgroup {
            Self::Subgroup
        } else {
            Self::Group
        }
    }
}

/// A reduction to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// The sum; of nothing, 0.
    Sum,
    /// The sum over the count, for floats; of nothing, NaN.
    Mean,
    /// The largest element.
    Max,
    /// The smallest element.
    Min,
    /// The mean square of the differences to the mean, for floats.
    Var {
        /// Divided by the count less one, to estimate the variance of what the elements are a sample of; NaN of one.
        unbiased: bool,
    },
}

impl ReduceOp {
    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
            Self::Var { .. } => "var",
        }
    }
}

/// Elements as kernels see them: `[n_out, n_reduced]` over collapsed axes.
struct Layout {
    x: Tensor,
    n_out: usize,
    n_reduced: usize,
    kept: (Vec<usize>, Vec<usize>),
    reduced: (Vec<usize>, Vec<usize>),
    /// Shape of the result.
    shape: Vec<usize>,
}

impl Layout {
    fn new(op: &'static str, x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Self> {
        let wrong = axes.iter().enumerate().any(|(i, axis)| *axis >= x.rank() || axes[..i].contains(axis));
        if wrong {
            return Err(Error::shape(op, format!("axes {axes:?} given for {:?}, each at most once wanted", x.shape())));
        }
        if x.dtype() == DType::U8 {
            return Err(Error::dtype(op, "u8 given, f32, f16, u32 or i32 wanted"));
        }
        let split = |reduced: bool| (0..x.rank()).filter(move |axis| axes.contains(axis) == reduced);
        let shape = match keep_dims {
            true => (0..x.rank()).map(|axis| if axes.contains(&axis) { 1 } else { x.shape()[axis] }).collect(),
            false => split(false).map(|axis| x.shape()[axis]).collect(),
        };
        let part = |x: &Tensor, axes: &[usize]| {
            let pick = |of: &[usize]| axes.iter().map(|axis| of[*axis]).collect::<Vec<_>>();
            let (sizes, mut strides) = collapse(&pick(x.shape()), &[&pick(x.strides())]);
            (sizes, strides.swap_remove(0))
        };
        let (mut kept_axes, mut reduced_axes): (Vec<_>, Vec<_>) = (split(false).collect(), split(true).collect());
        let mut x = x.clone();
        if part(&x, &kept_axes).0.len() > 3 || part(&x, &reduced_axes).0.len() > 3 {
            x = x.permute(&[kept_axes.as_slice(), &reduced_axes].concat())?.contiguous()?;
            let n_kept = kept_axes.len();
            (kept_axes, reduced_axes) = ((0..n_kept).collect(), (n_kept..x.rank()).collect());
        }
        let count = |axes: &[usize]| axes.iter().map(|axis| x.shape()[*axis]).product();
        Ok(Self {
            n_out: count(&kept_axes),
            n_reduced: count(&reduced_axes),
            kept: part(&x, &kept_axes),
            reduced: part(&x, &reduced_axes),
            shape,
            x,
        })
    }

    /// Whether the reduced elements of a result are neighbours and the results follow each other, from the offset on.
    fn is_rows(&self) -> bool {
        let runs = |(sizes, strides): &(Vec<usize>, Vec<usize>), inner: usize| match (sizes.as_slice(), &**strides) {
            ([], _) => true,
            ([_], [stride]) => *stride == inner,
            _ => false,
        };
        runs(&self.reduced, 1) && runs(&self.kept, self.n_reduced)
    }

    /// `[outer, reduced, inner]` in memory order: outer and inner.
    fn as_cols(&self) -> Option<(usize, usize)> {
        let ([n_reduced], [stride]) = (self.reduced.0.as_slice(), self.reduced.1.as_slice()) else { return None };
        match (self.kept.0.as_slice(), self.kept.1.as_slice()) {
            ([inner], [1]) if inner == stride => Some((1, *inner)),
            ([outer, inner], [outer_stride, 1]) if inner == stride && *outer_stride == n_reduced * inner => {
                Some((*outer, *inner))
            }
            _ => None,
        }
    }

    fn params(&self, n_parts: usize, k_each: usize, divisor: f32) -> StridedParams {
        let [_, kept @ ..]: [u32; 3] = aligned(&self.kept.0, 1);
        let [_, reduced @ ..]: [u32; 3] = aligned(&self.reduced.0, 1);
        StridedParams {
            n_out: self.n_out as u32,
            n_reduced: self.n_reduced as u32,
            n_parts: n_parts as u32,
            k_each: k_each as u32,
            offset: self.x.binding_from().1,
            divisor,
            kept,
            kept_strides: aligned(&self.kept.1, 0),
            reduced,
            reduced_strides: aligned(&self.reduced.1, 0),
        }
    }
}

/// Right-aligns sizes or strides to `N` axes.
fn aligned<const N: usize>(values: &[usize], fill: u32) -> [u32; N] {
    let mut out = [fill; N];
    for (slot, value) in out.iter_mut().rev().zip(values.iter().rev()) {
        *slot = *value as u32;
    }
    out
}

/// How many parts a reduction of `n_reduced` elements is split into, and how many elements each has: enough parts for
/// all cores when each has `n_threads` at work on it, of 256 elements or more, and none longer than `max_each`.
fn split(runtime: &Runtime, n_threads: usize, n_reduced: usize, max_each: usize) -> (usize, usize) {
    let wanted = if runtime.profile().is_software() { 256 } else { 1 << 16 };
    let fair = (wanted / n_threads).min(n_reduced / 256);
    let n_parts = n_reduced.div_ceil(max_each).max(fair).max(1);
    // In whole vec4s.
    let k_each = n_reduced.div_ceil(n_parts).next_multiple_of(4);
    (n_reduced.div_ceil(k_each), k_each)
}

/// The type that elements of `dtype` are reduced in.
fn accumulator(dtype: DType) -> DType {
    if dtype.is_float() { DType::F32 } else { dtype }
}

/// What elements are reduced with.
#[derive(Clone, Copy)]
struct Pass<'a> {
    code: u32,
    /// f32, one per result, for squared differences.
    center: Option<&'a Tensor>,
    divisor: f32,
    /// Type of the result.
    out: DType,
}

/// Reduces at least one element for each of at least one result, to `[n_out]`.
fn run(variant: ReduceVariant, layout: &Layout, pass: Pass<'_>) -> Result<Tensor> {
    let (x, n_out, n_reduced) = (&layout.x, layout.n_out, layout.n_reduced);
    let runtime = x.runtime();
    let (binding, offset) = x.binding_from();
    let vec4 = variant == ReduceVariant::Vec4 && offset == 0;
    let cols = layout.as_cols().filter(|(_, inner)| vec4 && inner.is_multiple_of(4));
    let rows = layout.is_rows();
    let shared = match variant {
        ReduceVariant::Group if rows => Some(&GROUP),
        ReduceVariant::Subgroup if rows => Some(&SUBGROUP),
        _ => None,
    };
    let (n_parts, k_each) = match (shared, cols) {
        (Some(_), _) => split(runtime, n_out * shared_size(n_reduced) as usize, n_reduced, 16 * MAX_EACH),
        (None, Some(_)) => split(runtime, n_out / 4, n_reduced, MAX_EACH),
        (None, None) => split(runtime, n_out, n_reduced, MAX_EACH),
    };
    // Parts are sums that a second pass divides and stores in the type asked for.
    let (out_type, divisor) = if n_parts > 1 { (accumulator(x.dtype()), 1.0) } else { (pass.out, pass.divisor) };
    let out = Tensor::empty(runtime, &[n_out, n_parts], out_type)?;
    let rows_params = RowsParams {
        n_out: n_out as u32,
        n_reduced: n_reduced as u32,
        n_parts: n_parts as u32,
        k_each: k_each as u32,
        offset,
        divisor,
    };
    let (n_outer, inner) = cols.unwrap_or_default();
    let cols_params = ColsParams {
        n_outer: n_outer as u32,
        n_reduced: n_reduced as u32,
        n_vec4: (inner / 4) as u32,
        n_parts: n_parts as u32,
        k_each: k_each as u32,
        divisor,
    };
    let strided_params = layout.params(n_parts, k_each, divisor);
    let n_results = n_out * n_parts;
    let ((wg_size, groups), launch) = if let Some(kernels) = shared {
        let grid = (shared_size(n_reduced), n_results as u64);
        (grid, runtime.launch(kernels.of(x.dtype())).params(&rows_params))
    } else if cols.is_some() {
        (alone_grid(runtime, n_results / 4), runtime.launch(COLS.of(x.dtype())).params(&cols_params))
    } else if vec4 && rows && n_reduced.is_multiple_of(4) {
        (alone_grid(runtime, n_results), runtime.launch(ROWS.of(x.dtype())).params(&rows_params))
    } else {
        (alone_grid(runtime, n_results), runtime.launch(STRIDED.of(x.dtype())).params(&strided_params))
    };
    let center = pass.center.map_or_else(|| binding.clone(), Tensor::binding);
    launch
        .types(&[x.dtype(), accumulator(x.dtype()), out_type])
        .overrides(&[("WG_SIZE", wg_size), ("OP", pass.code)])
        .bind([binding, center, out.binding()])
        .groups(groups)
        .cost(x.len() as u64, (x.len() * x.dtype().bytes()) as u64)
        .run()?;
    if n_parts == 1 {
        return out.reshape(&[n_out]);
    }
    let parts = if cols.is_some() { out.reshape(&[n_outer, n_parts, inner])? } else { out };
    let code = if pass.code == SQUARES { SUM } else { pass.code };
    let layout = Layout::new("reduce", &parts, &[1], false)?;
    run(variant, &layout, Pass { code, center: None, ..pass })
}

/// A reduction over `axes` by a given variant, or the one the op would choose: `x` of any shape to the kept axes, the
/// reduced ones left out or, with `keep_dims`, of size 1.
///
/// # Errors
/// As [`sum`], [`mean`], [`max`], [`var`]; [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn reduce_with(
    variant: Option<ReduceVariant>,
    op: ReduceOp,
    x: &Tensor,
    axes: &[usize],
    keep_dims: bool,
) -> Result<Tensor> {
    let name = op.name();
    let x_in = x.detach();
    let out = reduced(variant, op, &x_in, axes, keep_dims)?;
    if !x.needs_grad() {
        return Ok(out);
    }
    let mut kept = x.shape().to_vec();
    axes.iter().for_each(|&axis| kept[axis] = 1);
    let shape = x.shape().to_vec();
    // Sums and means need nothing of x.
    let saved = (!matches!(op, ReduceOp::Sum | ReduceOp::Mean)).then(|| (x_in, out.clone()));
    let axes = axes.to_vec();
    Ok(record(name, out, [x], move |d, _| {
        let d = d.reshape(&kept)?;
        let n = shape.iter().product::<usize>() / d.len().max(1);
        let d = match (op, &saved) {
            (ReduceOp::Mean, _) => elementwise::affine(&d, 1.0 / n as f32, 0.0)?.broadcast_to(&shape)?,
            (ReduceOp::Var { unbiased }, Some((x, _))) => {
                let factor = 2.0 / if unbiased { n - 1 } else { n } as f32;
                let from_mean = elementwise::sub(x, &mean(x, &axes, true)?)?;
                elementwise::mul(&from_mean, &elementwise::affine(&d, factor, 0.0)?)?
            }
            // Equal extremes share.
            (ReduceOp::Max | ReduceOp::Min, Some((x, out))) => {
                let wins = elementwise::cast(&elementwise::equal(x, &out.reshape(&kept)?)?, x.dtype())?;
                elementwise::mul(&wins, &elementwise::div(&d, &sum(&wins, &axes, true)?)?)?
            }
            _ => d.broadcast_to(&shape)?,
        };
        Ok([Some(d)])
    }))
}

/// As [`sum`] without `keep_dims`, of floats to another float type in the same dispatch, and without a history.
pub(crate) fn sum_as(x: &Tensor, axes: &[usize], dtype: DType) -> Result<Tensor> {
    need_float(ReduceOp::Sum.name(), x)?;
    reduced_as(None, ReduceOp::Sum, &x.detach(), axes, false, dtype)
}

fn reduced(
    variant: Option<ReduceVariant>,
    op: ReduceOp,
    x: &Tensor,
    axes: &[usize],
    keep_dims: bool,
) -> Result<Tensor> {
    reduced_as(variant, op, x, axes, keep_dims, x.dtype())
}

/// As [`reduced`], of floats to any float type.
fn reduced_as(
    variant: Option<ReduceVariant>,
    op: ReduceOp,
    x: &Tensor,
    axes: &[usize],
    keep_dims: bool,
    dtype: DType,
) -> Result<Tensor> {
    let name = op.name();
    if matches!(op, ReduceOp::Mean | ReduceOp::Var { .. }) {
        need_float(name, x)?;
    }
    let layout = Layout::new(name, x, axes, keep_dims)?;
    let runtime = x.runtime();
    let n = layout.n_reduced;
    let least = match op {
        ReduceOp::Var { unbiased: true } => 2,
        _ => 1,
    };
    if layout.n_out == 0 {
        return Tensor::empty(runtime, &layout.shape, dtype);
    }
    if n < least {
        return match op {
            ReduceOp::Sum => Tensor::zeros(runtime, &layout.shape, dtype),
            ReduceOp::Mean | ReduceOp::Var { .. } => Tensor::full(runtime, &layout.shape, f32::NAN, dtype),
            ReduceOp::Max | ReduceOp::Min => Err(nothing(name, x, axes)),
        };
    }
    let variant = variant.unwrap_or_else(|| tuned(&layout, op, x, axes));
    let pass = |code, divisor| Pass { code, center: None, divisor, out: dtype };
    let out = match op {
        ReduceOp::Sum => run(variant, &layout, pass(SUM, 1.0))?,
        ReduceOp::Mean => run(variant, &layout, pass(SUM, n as f32))?,
        ReduceOp::Max => run(variant, &layout, pass(MAX, 1.0))?,
        ReduceOp::Min => run(variant, &layout, pass(MIN, 1.0))?,
        ReduceOp::Var { unbiased } => {
            let mean = run(variant, &layout, Pass { out: DType::F32, ..pass(SUM, n as f32) })?;
            let divisor = if unbiased { n - 1 } else { n } as f32;
            run(variant, &layout, Pass { center: Some(&mean), ..pass(SQUARES, divisor) })?
        }
    };
    out.reshape(&layout.shape)
}

/// The fastest variant known for a reduction of `x` over `axes`, of which there is at least one element each.
fn tuned(layout: &Layout, op: ReduceOp, x: &Tensor, axes: &[usize]) -> ReduceVariant {
    let (runtime, dtype, n) = (x.runtime(), x.dtype(), layout.n_reduced);
    let default = ReduceVariant::choose(runtime, n);
    if !runtime.tunes() {
        return default;
    }
    let (rows, cols) = (layout.is_rows(), layout.as_cols());
    let (lies, inner) = if rows { (0, 1) } else { (1, cols.map_or(0, |(_, inner)| inner)) };
    if inner == 0 {
        // All give way to the same one.
        return default;
    }
    let fours = if rows { n } else { inner }.is_multiple_of(4);
    let long = shared_size(n) > shared_size(0);
    let question = Question {
        op: op.name(),
        dtype,
        sizes: &[("results", layout.n_out), ("each", n), ("inner", inner)],
        exact: &[("columns", lies), ("fours", usize::from(fours)), ("long", usize::from(long))],
        kernels: &[KERNELS],
        plain: ReduceVariant::Strided,
        fits: &|variant| match variant {
            ReduceVariant::Strided => lies == 1 && fours,
            ReduceVariant::Vec4 => fours || lies == 1,
            ReduceVariant::Group => rows,
            ReduceVariant::Subgroup => rows && runtime.profile().features.subgroup,
        },
        run: &|variant| Ok(vec![reduced(Some(variant), op, x, axes, false)?]),
        probe: &|variant| {
            let each = [131, 132, 1031, 1032][2 * usize::from(long) + usize::from(fours)];
            let (shape, axis) = match (rows, fours) {
                (true, _) => ([1, 37, each], 2),
                (false, true) => ([3, 131, 12], 1),
                (false, false) => ([3, 131, 13], 1),
            };
            Ok(vec![reduced(Some(variant), op, &noise(runtime, &shape, dtype)?, &[axis], false)?])
        },
        tolerance: rounding(dtype),
    };
    choose(runtime, default, &question)
}

impl Variants for ReduceVariant {
    const ALL: &'static [Self] = &Self::ALL;
}

fn nothing(op: &'static str, x: &Tensor, axes: &[usize]) -> Error {
    Error::shape(op, format!("axes {axes:?} of {:?} hold no element", x.shape()))
}

/// Means and population variances of groups of neighbouring channels: floats `[n, rows, c]`, of which there is at least
/// one, to two f32 `[n, groups]`. Channels come first, as four of them are one load.
pub(crate) fn group_moments(x: &Tensor, groups: usize) -> Result<(Tensor, Tensor)> {
    let layout = Layout::new("group_norm", x, &[1], false)?;
    let variant = ReduceVariant::choose(x.runtime(), layout.n_reduced);
    let (n, n_channels) = (x.shape()[0], x.shape()[2]);
    let grouped = [n, groups, n_channels / groups];
    let pass = Pass { code: SUM, center: None, divisor: layout.n_reduced as f32, out: DType::F32 };
    let mean = mean(&run(variant, &layout, pass)?.reshape(&grouped)?, &[2], true)?;
    let center = mean.broadcast_to(&grouped)?.contiguous()?;
    let squares = run(variant, &layout, Pass { code: SQUARES, center: Some(&center), ..pass })?;
    Ok((mean.reshape(&[n, groups])?, self::mean(&squares.reshape(&grouped)?, &[2], false)?))
}

/// Sum over `axes`, each named once, in any order: `x` to the kept axes, the reduced ones left out or, with `keep_dims`,
/// of size 1. Integers wrap; the sum of nothing is 0.
///
/// # Errors
/// [`Error::Shape`] for an axis that does not exist or is named twice, or if the axes fall apart into more than six
/// runs; [`Error::DType`] for u8.
pub fn sum(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    reduce_with(None, ReduceOp::Sum, x, axes, keep_dims)
}

/// Mean over `axes`, as [`sum`]; the mean of nothing is NaN.
///
/// # Errors
/// As [`sum`], and [`Error::DType`] unless `x` is a float tensor.
pub fn mean(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    reduce_with(None, ReduceOp::Mean, x, axes, keep_dims)
}

/// Largest element over `axes`, as [`sum`].
///
/// # Errors
/// As [`sum`], and [`Error::Shape`] if there is no element to choose from.
pub fn max(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    reduce_with(None, ReduceOp::Max, x, axes, keep_dims)
}

/// Smallest element over `axes`, as [`sum`].
///
/// # Errors
/// As [`max`].
pub fn min(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    reduce_with(None, ReduceOp::Min, x, axes, keep_dims)
}

/// Variance over `axes`, as [`sum`]: the mean square of the differences to the mean, or with `unbiased` their sum over
/// the count less one. NaN where that count is 0.
///
/// # Errors
/// As [`mean`].
pub fn var(x: &Tensor, axes: &[usize], unbiased: bool, keep_dims: bool) -> Result<Tensor> {
    reduce_with(None, ReduceOp::Var { unbiased }, x, axes, keep_dims)
}

fn all_axes(x: &Tensor) -> Vec<usize> {
    (0..x.rank()).collect()
}

/// Sum of all elements, as a tensor without axes.
///
/// # Errors
/// As [`sum`].
pub fn sum_all(x: &Tensor) -> Result<Tensor> {
    sum(x, &all_axes(x), false)
}

/// Mean of all elements, as a tensor without axes.
///
/// # Errors
/// As [`mean`].
pub fn mean_all(x: &Tensor) -> Result<Tensor> {
    mean(x, &all_axes(x), false)
}

/// Largest of all elements, as a tensor without axes.
///
/// # Errors
/// As [`max`].
pub fn max_all(x: &Tensor) -> Result<Tensor> {
    max(x, &all_axes(x), false)
}

/// Smallest of all elements, as a tensor without axes.
///
/// # Errors
/// As [`max`].
pub fn min_all(x: &Tensor) -> Result<Tensor> {
    min(x, &all_axes(x), false)
}

fn arg(op: &'static str, code: u32, x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    let layout = Layout::new(op, x, axes, keep_dims)?;
    let runtime = x.runtime();
    let n_out = layout.n_out;
    if n_out == 0 {
        return Tensor::empty(runtime, &layout.shape, DType::U32);
    }
    if layout.n_reduced == 0 {
        return Err(nothing(op, x, axes));
    }
    let (n_parts, k_each) = split(runtime, n_out, layout.n_reduced, LOOP_ROUNDS / 2);
    let acc = accumulator(x.dtype());
    let values = Tensor::empty(runtime, &[n_out, n_parts], acc)?;
    let places = Tensor::empty(runtime, &[n_out, n_parts], DType::U32)?;
    let (wg_size, groups) = alone_grid(runtime, n_out * n_parts);
    let overrides = [("WG_SIZE", wg_size), ("OP", code)];
    runtime
        .launch(ARG.of(x.dtype()))
        .types(&[x.dtype(), acc, acc])
        .overrides(&overrides)
        .bind([layout.x.binding_from().0, values.binding(), places.binding()])
        .params(&layout.params(n_parts, k_each, 1.0))
        .groups(groups)
        .cost(x.len() as u64, (x.len() * x.dtype().bytes()) as u64)
        .run()?;
    if n_parts == 1 {
        return places.reshape(&layout.shape);
    }
    let out = Tensor::empty(runtime, &layout.shape, DType::U32)?;
    runtime
        .launch(ARG_JOIN.of(acc))
        .types(&[acc, acc, acc])
        .overrides(&overrides)
        .bind([values.binding(), places.binding(), out.binding()])
        .params(&ArgJoinParams { n_out: n_out as u32, n_parts: n_parts as u32 })
        .groups(alone_grid(runtime, n_out).1)
        .cost(0, 8 * (n_out * n_parts) as u64)
        .run()?;
    Ok(out)
}

/// Place of the largest element over `axes`, the first of equal ones: u32, counted over the reduced axes in row-major
/// order (for one axis, its index); shapes as [`sum`].
///
/// # Errors
/// As [`max`].
pub fn argmax(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    arg("argmax", MAX, x, axes, keep_dims)
}

/// Place of the smallest element over `axes`, the first of equal ones, as [`argmax`].
///
/// # Errors
/// As [`max`].
pub fn argmin(x: &Tensor, axes: &[usize], keep_dims: bool) -> Result<Tensor> {
    arg("argmin", MIN, x, axes, keep_dims)
}

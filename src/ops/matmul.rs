//! Matrix products: batched, over any strides, with bias and activation in the same dispatch.

use super::act::{ACT, Act};
use super::{elementwise, reduce};
use crate::autograd::{record, refuse, sum_to, wants};
use crate::runtime::{
    Bind::{Read, Write},
    Common, DeviceProfile, INDEX, Kernel, LOOP_ROUNDS,
};
use crate::tensor::{DType, Tensor, broadcast, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/matmul.wgsl");
const FAMILY: &str = "matmul";
const COMMONS: &[Common] = &[INDEX, ACT];
const FLOATS: &[DType] = &[DType::F32, DType::F16];

/// The layouts of the shader: four elements of `b` lie along the inner axis, of `a` along the rows; nothing is known.
const B_INNER: u32 = 1;
const A_ROWS: u32 = 2;
const ANY: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MatmulParams {
    n_batch: u32,
    n_batch_inner: u32,
    n_rows: u32,
    n_cols: u32,
    n_inner: u32,
    base_a: u32,
    base_b: u32,
    stride_a_row: u32,
    stride_a_inner: u32,
    stride_b_inner: u32,
    stride_b_col: u32,
    stride_a_batch: [u32; 2],
    stride_b_batch: [u32; 2],
    bias: u32,
}

/// Loop rounds of an invocation besides those over the inner axis, at most.
const OTHER_ROUNDS: usize = 1023;

/// Partial sums that a product is cut into for speed, at most.
const PARTIAL_SUMS: usize = 1 << 22;

/// Override constants and the values in use.
type Overrides = &'static [(&'static str, &'static [u32])];

const fn kernel(entry: &'static str, overrides: Overrides) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, &[Read, Read, Read, Write])
        .commons(COMMONS)
        .params::<MatmulParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(overrides)
}

const ALL_ACTS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];
/// Without an activation, every layout.
const PLAIN: [(&str, &[u32]); 2] = [("ACT", &[0]), ("LAYOUT", &[0, 1, 2, 3, 4])];
/// With one, fewer: the operands of other layouts are copied first.
const WITH_ACT: [(&str, &[u32]); 2] = [("ACT", super::act::CODES), ("LAYOUT", &[0, 4])];

/// A kernel without and with an activation; the sizes come behind `ACT` and `LAYOUT`.
macro_rules! pair {
    ($entry:literal $(, $name:literal = $value:literal)* $(; $need:expr)?) => {
        [
            kernel($entry, &[PLAIN[0], PLAIN[1] $(, ($name, &[$value]))*])$(.needs(&[$need]))?,
            kernel($entry, &[WITH_ACT[0], WITH_ACT[1] $(, ($name, &[$value]))*])$(.needs(&[$need]))?,
        ]
    };
}

const MATMUL_PLAIN_FWD: Kernel = kernel("matmul_plain_fwd", &[("ACT", ALL_ACTS)]);
const REGISTERS_8: [Kernel; 2] = pair!("matmul_registers_fwd", "WG_SIZE" = 16, "ROWS" = 8);
const REGISTERS_16: [Kernel; 2] = pair!("matmul_registers_fwd", "WG_SIZE" = 16, "ROWS" = 16);
const SUBGROUP_8X8: [Kernel; 2] =
    pair!("matmul_subgroup_fwd", "ROWS" = 8, "COLS" = 8; crate::runtime::Need::SubgroupOf(8));
const SUBGROUP_32X4: [Kernel; 2] =
    pair!("matmul_subgroup_fwd", "ROWS" = 32, "COLS" = 4; crate::runtime::Need::SubgroupOf(8));
const SUBGROUP_32X8: [Kernel; 2] =
    pair!("matmul_subgroup_fwd", "ROWS" = 32, "COLS" = 8; crate::runtime::Need::SubgroupOf(8));
const TILED_64: [Kernel; 2] = pair!("matmul_tiled_fwd", "TILE" = 64);
const TILED_128: [Kernel; 2] = pair!("matmul_tiled_fwd", "TILE" = 128);
const VECTOR: [Kernel; 2] = pair!("matmul_vector_fwd", "WG_SIZE" = 8, "QUADS" = 8);
const VECTOR_SHARED: [Kernel; 2] = pair!("matmul_vector_fwd", "WG_SIZE" = 128, "QUADS" = 8);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    MATMUL_PLAIN_FWD,
    REGISTERS_8[0],
    REGISTERS_8[1],
    REGISTERS_16[0],
    REGISTERS_16[1],
    SUBGROUP_8X8[0],
    SUBGROUP_8X8[1],
    SUBGROUP_32X4[0],
    SUBGROUP_32X4[1],
    SUBGROUP_32X8[0],
    SUBGROUP_32X8[1],
    TILED_64[0],
    TILED_64[1],
    TILED_128[0],
    TILED_128[1],
    VECTOR[0],
    VECTOR[1],
    VECTOR_SHARED[0],
    VECTOR_SHARED[1],
];

/// How a product is computed; tiles are rows x columns of one invocation unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One output per invocation, any strides: what the others are checked against.
    Plain,
    /// 8 x 8 in registers, operands straight from memory: software adapters.
    Registers8,
    /// 16 x 8 in registers, operands straight from memory: software adapters.
    Registers16,
    /// 8 x 8, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup8x8,
    /// 32 x 4, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup32x4,
    /// 32 x 8, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup32x8,
    /// 64 x 64 of a workgroup of 64, operands through workgroup memory: GPUs.
    Tiled64,
    /// 128 x 128 of a workgroup of 256, operands through workgroup memory: GPUs.
    Tiled128,
    /// A row times a matrix, or a matrix times a column, one invocation per 4 sums: software adapters. Refused where
    /// both `m` and `n` pass 1.
    Vector,
    /// The same with each sum shared by 16 invocations of a workgroup: GPUs.
    VectorShared,
}

impl Variant {
    /// Every variant.
    pub const ALL: &[Self] = &[
        Self::Plain,
        Self::Registers8,
        Self::Registers16,
        Self::Subgroup8x8,
        Self::Subgroup32x4,
        Self::Subgroup32x8,
        Self::Tiled64,
        Self::Tiled128,
        Self::Vector,
        Self::VectorShared,
    ];

    /// Whether an adapter has what it needs for `dtype`.
    #[must_use]
    pub fn runs_on(self, profile: &DeviceProfile, dtype: DType) -> bool {
        self.kernel(Act::None).runs_on(profile, &[dtype])
    }

    fn kernel(self, act: Act) -> &'static Kernel {
        let pair: &'static [Kernel; 2] = match self {
            Self::Plain => return &MATMUL_PLAIN_FWD,
            Self::Registers8 => &REGISTERS_8,
            Self::Registers16 => &REGISTERS_16,
            Self::Subgroup8x8 => &SUBGROUP_8X8,
            Self::Subgroup32x4 => &SUBGROUP_32X4,
            Self::Subgroup32x8 => &SUBGROUP_32X8,
            Self::Tiled64 => &TILED_64,
            Self::Tiled128 => &TILED_128,
            Self::Vector => &VECTOR,
            Self::VectorShared => &VECTOR_SHARED,
        };
        &pair[usize::from(act != Act::None)]
    }

    /// Rows and columns that one step of the grid covers.
    fn tile(self) -> (u64, u64) {
        match self {
            Self::Plain => (1, 1),
            Self::Registers8 => (8, 8),
            Self::Registers16 => (16, 8),
            Self::Subgroup8x8 => (8, 64),
            Self::Subgroup32x4 => (32, 32),
            Self::Subgroup32x8 => (32, 64),
            Self::Tiled64 => (64, 64),
            Self::Tiled128 => (128, 128),
            Self::Vector | Self::VectorShared => (1, 32),
        }
    }

    /// Rounds of an invocation's loops for 64 inner indices.
    fn rounds_of_64(self) -> usize {
        match self {
            Self::Plain => 64,
            // 16 inner indices take one round each, staging the operands up to two, and leaving each loop one more.
            Self::Tiled64 | Self::Tiled128 => 4 * (16 + 2 + 3),
            Self::VectorShared => 1,
            _ => 16,
        }
    }

    /// Workgroups for `n_batch` products of `m` x `n` outputs.
    fn groups(self, n_batch: u64, m: u64, n: u64) -> u64 {
        let (rows, cols) = self.tile();
        let (down, across) = (m.div_ceil(rows), n.div_ceil(cols));
        match self {
            Self::Plain => (n_batch * m * n).div_ceil(64),
            // Strips of at most eight tiles, equally wide.
            Self::Registers8 | Self::Registers16 => {
                let n_strips = across.div_ceil(8);
                (n_batch * down * n_strips * across.div_ceil(n_strips.max(1))).div_ceil(16)
            }
            _ => n_batch * down * across,
        }
    }
}

/// A product in the terms of the kernels: operands, output and numbers.
struct Product {
    a: Tensor,
    b: Tensor,
    bias: Option<Tensor>,
    act: Act,
    out: Tensor,
    params: MatmulParams,
}

impl Product {
    fn new(op: &'static str, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Self> {
        for other in [Some(b), bias].into_iter().flatten() {
            if !a.runtime().same(other.runtime()) {
                return Err(Error::argument(op, "the tensors live on different devices"));
            }
            if a.dtype() != other.dtype() || !a.dtype().is_float() {
                let given = format!("{} and {} given", a.dtype(), other.dtype());
                return Err(Error::dtype(op, format!("{given}, one float type wanted")));
            }
        }
        let (batch_a, &[m, k]) = split_last_two(op, "a", a)?;
        let (batch_b, &[k_b, n]) = split_last_two(op, "b", b)?;
        if k != k_b {
            return Err(Error::shape(op, format!("a {:?} and b {:?} differ in k", a.shape(), b.shape())));
        }
        let batch = broadcast(op, batch_a, batch_b)?;
        let shape = |rows: usize, cols: usize| [&batch[..], &[rows, cols]].concat();
        let out = Tensor::empty(a.runtime(), &shape(m, n), a.dtype())?;
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let (a, b) = readable(a, b, act)?;

        // One b for all: the batch of a is more rows, where its strides let it.
        let n_rows = batch.iter().product::<usize>() * m;
        let folded = if batch_b.iter().all(|&size| size == 1) { a.reshape_view(&[n_rows, k]) } else { None };
        let (mut a, mut b, batch, m) = match folded {
            Some(a) => (a, b, Vec::new(), n_rows),
            None => (a.broadcast_to(&shape(m, k))?, b.broadcast_to(&shape(k, n))?, batch, m),
        };
        let axes = batch.len();
        let merged = |a: &Tensor, b: &Tensor| collapse(&batch, &[&a.strides()[..axes], &b.strides()[..axes]]);
        let (mut sizes, mut strides) = merged(&a, &b);
        if sizes.len() > 2 {
            (a, b) = (a.contiguous()?, b.contiguous()?);
            (sizes, strides) = merged(&a, &b);
        }
        let two = |values: &[usize]| match *values {
            [outer, inner] => [outer as u32, inner as u32],
            [inner] => [0, inner as u32],
            _ => [0, 0],
        };
        let [stride_a_row, stride_a_inner] = last_strides(&a);
        let [stride_b_inner, stride_b_col] = last_strides(&b);
        let params = MatmulParams {
            n_batch: sizes.iter().product::<usize>() as u32,
            n_batch_inner: sizes.last().map_or(1, |size| *size as u32),
            n_rows: m as u32,
            n_cols: n as u32,
            n_inner: k as u32,
            base_a: a.binding_from().1,
            base_b: b.binding_from().1,
            stride_a_row: stride_a_row as u32,
            stride_a_inner: stride_a_inner as u32,
            stride_b_inner: stride_b_inner as u32,
            stride_b_col: stride_b_col as u32,
            stride_a_batch: two(&strides[0]),
            stride_b_batch: two(&strides[1]),
            bias: u32::from(bias.is_some()),
        };
        Ok(Self { a, b, bias, act, out, params })
    }

    /// The same numbers as a row times a matrix, `(A x)' = x' A'`.
    fn turned(self) -> Self {
        let p = self.params;
        let params = MatmulParams {
            n_rows: p.n_cols,
            n_cols: p.n_rows,
            base_a: p.base_b,
            base_b: p.base_a,
            stride_a_row: p.stride_b_col,
            stride_a_inner: p.stride_b_inner,
            stride_b_inner: p.stride_a_inner,
            stride_b_col: p.stride_a_row,
            stride_a_batch: p.stride_b_batch,
            stride_b_batch: p.stride_a_batch,
            bias: 2 * p.bias,
            ..p
        };
        Self { a: self.b, b: self.a, params, ..self }
    }

    /// How the kernels may read the operands.
    fn layout(&self) -> u32 {
        let p = &self.params;
        if !p.n_inner.is_multiple_of(4) || !p.n_cols.is_multiple_of(4) {
            return ANY;
        }
        let fours = |values: &[u32]| values.iter().all(|value| value.is_multiple_of(4));
        let a = if !fours(&p.stride_a_batch) || !p.base_a.is_multiple_of(4) {
            None
        } else if p.stride_a_inner == 1 && (p.stride_a_row.is_multiple_of(4) || p.n_rows == 1) {
            Some(0)
        } else {
            (p.stride_a_row == 1 && fours(&[p.stride_a_inner, p.n_rows])).then_some(A_ROWS)
        };
        let b = if !fours(&p.stride_b_batch) || !p.base_b.is_multiple_of(4) {
            None
        } else if p.stride_b_col == 1 && p.stride_b_inner.is_multiple_of(4) {
            Some(0)
        } else {
            (p.stride_b_inner == 1 && p.stride_b_col.is_multiple_of(4)).then_some(B_INNER)
        };
        match (a, b) {
            (Some(a), Some(b)) if self.act == Act::None || a + b == 0 => a + b,
            _ => ANY,
        }
    }

    fn run(self, variant: Variant) -> Result<Tensor> {
        let p = &self.params;
        if matches!(variant, Variant::Vector | Variant::VectorShared) && p.n_rows != 1 {
            if p.n_cols != 1 {
                let given = format!("{} x {} outputs given", p.n_rows, p.n_cols);
                return Err(Error::argument("matmul", format!("{given}, one row or column wanted for {variant:?}")));
            }
            return self.turned().run(variant);
        }
        let layout = self.layout();
        let Self { a, b, bias, act, out, params } = self;
        let kernel = variant.kernel(act);
        // The kernel lists one value for each size behind these two.
        let values = |(name, values): &(&'static str, &[u32])| match *name {
            "ACT" => ("ACT", act.code()),
            "LAYOUT" => ("LAYOUT", layout),
            name => (name, values[0]),
        };
        let overrides: Vec<_> = kernel.overrides.iter().map(values).collect();
        let (n_batch, m, n) = (u64::from(params.n_batch), u64::from(params.n_rows), u64::from(params.n_cols));
        let bytes = ((a.len() + b.len() + out.len()) * a.dtype().bytes()) as u64;
        a.runtime()
            .launch(kernel)
            .types(&[a.dtype()])
            .overrides(&overrides)
            .bind([
                a.binding_from().0,
                b.binding_from().0,
                bias.map_or_else(|| b.binding_from().0, |bias| bias.binding()),
                out.binding(),
            ])
            .params(&params)
            .groups(variant.groups(n_batch, m, n))
            .rounds((params.n_inner as usize).div_ceil(64) * variant.rounds_of_64() + OTHER_ROUNDS)
            .cost(2 * n_batch * m * n * u64::from(params.n_inner), bytes)
            .run()?;
        Ok(out)
    }

    /// Inner indices to sum at a time: all of them, or fewer where a loop would be too long and, for `speed`, where long
    /// panels of the operands would not stay in a cache or few results leave most of the adapter idle.
    fn part(&self, variant: Variant, speed: bool) -> usize {
        let (p, k) = (&self.params, self.params.n_inner as usize);
        let longest = (LOOP_ROUNDS - OTHER_ROUNDS) / variant.rounds_of_64() * 64;
        let n_groups = variant.groups(p.n_batch.into(), p.n_rows.into(), p.n_cols.into()).max(1) as usize;
        let n_results = p.n_batch as usize * p.n_rows as usize * p.n_cols as usize;
        let wanted = match (speed, self.a.runtime().profile().is_software()) {
            (false, _) => 1,
            // A panel of 64 columns of 1024 numbers is half of a core's cache.
            (true, true) if k >= 2048 => k.div_ceil(1024),
            (true, true) => 1,
            // Parts of 512 or more, so that the second pass stays small.
            (true, false) => (256 / n_groups).min(k / 512),
        };
        let n_parts = wanted.min(PARTIAL_SUMS / n_results.max(1)).max(k.div_ceil(longest)).max(1);
        if n_parts == 1 { k } else { k.div_ceil(n_parts).next_multiple_of(16) }
    }

    /// Partial sums over `part` inner indices each, as more matrices of a batch, then their sum in fixed order.
    fn run_in_parts(mut self, variant: Variant, part: usize) -> Result<Tensor> {
        if self.params.n_batch_inner != self.params.n_batch {
            self = self.side_by_side()?;
        }
        let Self { a, b, bias, act, out, params: p } = self;
        let (n_batch, n_results) = (p.n_batch as usize, p.n_rows as usize * p.n_cols as usize);
        let sums = |first: u32, n_parts: u32, part: u32| {
            let params = MatmulParams {
                n_batch: p.n_batch * n_parts,
                n_batch_inner: n_parts,
                n_inner: part,
                base_a: p.base_a + first * p.stride_a_inner,
                base_b: p.base_b + first * p.stride_b_inner,
                stride_a_batch: [p.stride_a_batch[1], part * p.stride_a_inner],
                stride_b_batch: [p.stride_b_batch[1], part * p.stride_b_inner],
                bias: 0,
                ..p
            };
            let out = Tensor::empty(a.runtime(), &[n_batch, n_parts as usize, n_results], a.dtype())?;
            let parts = Self { a: a.clone(), b: b.clone(), bias: None, act: Act::None, out, params }.run(variant)?;
            reduce::sum(&parts, &[1], false)
        };
        let (n_parts, part) = (p.n_inner / part as u32, part as u32);
        let mut sum = sums(0, n_parts, part)?;
        let rest = p.n_inner - n_parts * part;
        if rest > 0 {
            sum = elementwise::add(&sum, &sums(n_parts * part, 1, rest)?)?;
        }
        let sum = sum.reshape(out.shape())?;
        match bias {
            Some(bias) => elementwise::add_act(&sum, &bias, act),
            None => elementwise::activate(&sum, act),
        }
    }

    /// The same with copies of the operands whose batch is one axis.
    fn side_by_side(self) -> Result<Self> {
        let (a, b, p) = (self.a.contiguous()?, self.b.contiguous()?, self.params);
        let params = MatmulParams {
            n_batch_inner: p.n_batch,
            base_a: a.binding_from().1,
            base_b: b.binding_from().1,
            stride_a_row: p.n_inner,
            stride_a_inner: 1,
            stride_b_inner: p.n_cols,
            stride_b_col: 1,
            stride_a_batch: [0, p.n_rows * p.n_inner],
            stride_b_batch: [0, p.n_inner * p.n_cols],
            ..p
        };
        Ok(Self { a, b, params, ..self })
    }

    /// The variant expected to be fastest, without trying.
    fn choose(&self) -> Variant {
        let profile = self.a.runtime().profile();
        let (n_batch, m, n) =
            (u64::from(self.params.n_batch), u64::from(self.params.n_rows), u64::from(self.params.n_cols));
        if m == 1 || n == 1 {
            return if profile.is_software() { Variant::Vector } else { Variant::VectorShared };
        }
        if !profile.is_software() {
            // Large tiles once they are enough to fill a large GPU.
            let large = Variant::Tiled128.groups(n_batch, m, n) >= 256;
            return if large { Variant::Tiled128 } else { Variant::Tiled64 };
        }
        // Work with the tiles filled up, over GFLOP/s of one core measured on lavapipe 22.3 with full tiles.
        const RATES: &[(Variant, f64)] = &[
            (Variant::Subgroup32x8, 30.0),
            (Variant::Subgroup32x4, 23.0),
            (Variant::Subgroup8x8, 16.5),
            (Variant::Registers16, 12.0),
            (Variant::Registers8, 10.5),
        ];
        let time = |(variant, rate): &(Variant, f64)| {
            let (rows, cols) = variant.tile();
            (m.div_ceil(rows) * rows * n.div_ceil(cols) * cols) as f64 / rate
        };
        RATES
            .iter()
            .filter(|(variant, _)| variant.runs_on(profile, self.a.dtype()))
            .min_by(|a, b| time(a).total_cmp(&time(b)))
            .map_or(Variant::Plain, |(variant, _)| *variant)
    }
}

/// The batch axes of `x` and its last two.
fn split_last_two<'a>(op: &'static str, name: &str, x: &'a Tensor) -> Result<(&'a [usize], &'a [usize; 2])> {
    x.shape()
        .split_last_chunk()
        .ok_or_else(|| Error::shape(op, format!("{name} {:?} has fewer than two axes", x.shape())))
}

fn last_strides(x: &Tensor) -> [usize; 2] {
    let [.., row, col] = *x.strides() else { return [0, 0] };
    [row, col]
}

/// Copies of the operands that lie so that no kernel reads them four at a time, where a copy helps.
fn readable(a: &Tensor, b: &Tensor, act: Act) -> Result<(Tensor, Tensor)> {
    let (&[.., m, k], &[.., n]) = (a.shape(), b.shape()) else { return Ok((a.clone(), b.clone())) };
    if !k.is_multiple_of(4) || !n.is_multiple_of(4) {
        return Ok((a.clone(), b.clone()));
    }
    let fits = |x: &Tensor, rows_too: bool| {
        let [row, col] = last_strides(x);
        let in_fours = |stride: usize, size: usize| size == 1 || stride.is_multiple_of(4);
        let front = x.rank() - 2;
        let [n_rows, n_cols] = [x.shape()[front], x.shape()[front + 1]];
        let along_cols = col == 1 && in_fours(row, n_rows);
        let along_rows = rows_too && row == 1 && in_fours(col, n_cols);
        let batch = x.shape().iter().zip(x.strides()).take(front).all(|(size, stride)| in_fours(*stride, *size));
        (along_cols || along_rows) && batch && x.binding_from().1.is_multiple_of(4)
    };
    let no_act = act == Act::None;
    let a = if fits(a, no_act && m.is_multiple_of(4)) { a.clone() } else { a.contiguous()? };
    let b = if fits(b, no_act) { b.clone() } else { b.contiguous()? };
    Ok((a, b))
}
/// The matrix product over the last two axes: `[.., m, k]` and `[.., k, n]` to `[.., m, n]`, summed in f32. The batch
/// axes broadcast by NumPy's rule.
///
/// Transposed views are read in place.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless both are of one float type.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "matmul";
    let [a_in, b_in] = [a.detach(), b.detach()];
    let out = product(OP, None, &a_in, &b_in, None, Act::None)?;
    Ok(record(OP, out, [a, b], move |d, [wants_a, wants_b]| {
        let d_a = wants_a.then(|| sum_to(&matmul(d, &b_in.transpose()?)?, a_in.shape())).transpose()?;
        let d_b = wants_b.then(|| weight_gradient(&a_in, d, b_in.shape())).transpose()?;
        Ok([d_a, d_b])
    }))
}

/// `a' d`, summed over the batch axes that the second operand, of `shape`, does not have.
fn weight_gradient(a: &Tensor, d: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let &[.., k] = a.shape() else { return Err(Error::shape("matmul", "a has no axis")) };
    let &[.., n] = d.shape() else { return Err(Error::shape("matmul", "d has no axis")) };
    let n_rows = a.len() / k.max(1);
    if shape.iter().product::<usize>() == k * n && d.len() == n_rows * n && k > 0 {
        // One matrix for all: the batch is more rows to sum over.
        return matmul(&a.reshape(&[n_rows, k])?.transpose()?, &d.reshape(&[n_rows, n])?)?.reshape(shape);
    }
    sum_to(&matmul(&a.transpose()?, d)?, shape)
}

/// One dispatch, or long sums in parts.
fn product(
    op: &'static str,
    variant: Option<Variant>,
    a: &Tensor,
    b: &Tensor,
    bias: Option<&Tensor>,
    act: Act,
) -> Result<Tensor> {
    let whole = Product::new(op, a, b, bias, act)?;
    let chosen = variant.unwrap_or_else(|| whole.choose());
    let part = whole.part(chosen, variant.is_none());
    if part == whole.params.n_inner as usize {
        return whole.run(chosen);
    }
    if a.dtype() == DType::F32 {
        return whole.run_in_parts(chosen, part);
    }
    // Partial sums are f32.
    let wide = |x: &Tensor| elementwise::cast(x, DType::F32);
    let out = product(op, variant, &wide(a)?, &wide(b)?, bias.map(wide).transpose()?.as_ref(), act)?;
    elementwise::cast(&out, a.dtype())
}

/// `act(x w + bias)` in one dispatch: `x` `[.., k]`, `w` `[k, n]`, `bias` `[n]` to `[.., n]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless all are of one float type.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    let wanted = wants(&[x, w, bias.unwrap_or(x)]);
    if wanted && !act.is_by_result() {
        return elementwise::activate(&linear(x, w, bias, Act::None)?, act);
    }
    let (x_in, w_in) = (x.detach(), w.detach());
    let out = linear_as(None, &x_in, &w_in, bias.map(Tensor::detach).as_ref(), act)?;
    if !wanted {
        return Ok(out);
    }
    let saved_out = (act != Act::None).then(|| out.clone());
    let x_shape = x.shape().to_vec();
    // Frozen weights need no input kept, and frozen inputs no weights.
    let (x_in, w_in) = (w.needs_grad().then_some(x_in), x.needs_grad().then_some(w_in));
    let wants_bias = bias.is_some_and(Tensor::needs_grad);
    Ok(record("linear", out, [x, w, bias.unwrap_or(x)], move |d, _| {
        let d = saved_out.as_ref().map_or_else(|| Ok(d.clone()), |out| act.backward(out, d))?;
        let &[.., n] = d.shape() else { return Err(Error::shape("linear", "d has no axis")) };
        let rows = d.reshape(&[d.len() / n.max(1), n])?;
        let d_x = w_in.map(|w| matmul(&rows, &w.transpose()?)?.reshape(&x_shape)).transpose()?;
        let d_w = x_in.map(|x| weight_gradient(&x, &d, &[x.shape()[x.rank() - 1], n])).transpose()?;
        let d_bias = wants_bias.then(|| reduce::sum(&rows, &[0], false)).transpose()?;
        Ok([d_x, d_w, d_bias])
    }))
}

/// [`matmul`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`matmul`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn matmul_with(variant: Variant, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    refuse("matmul_with", &[a, b])?;
    product("matmul", Some(variant), a, b, None, Act::None)
}

/// [`linear`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`linear`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn linear_with(variant: Variant, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    refuse("linear_with", &[x, w, bias.unwrap_or(x)])?;
    linear_as(Some(variant), x, w, bias, act)
}

fn linear_as(variant: Option<Variant>, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    const OP: &str = "linear";
    let (Some((&k, front)), &[w_k, n]) = (x.shape().split_last(), w.shape()) else {
        return Err(Error::shape(
            OP,
            format!("x {:?} and w {:?} given, [.., k] and [k, n] wanted", x.shape(), w.shape()),
        ));
    };
    if k != w_k {
        return Err(Error::shape(OP, format!("x {:?} and w {:?} differ in k", x.shape(), w.shape())));
    }
    if let Some(bias) = bias.filter(|bias| bias.shape() != [n]) {
        return Err(Error::shape(OP, format!("w {:?} and bias {:?} differ in n", w.shape(), bias.shape())));
    }
    let shape = [front, &[n]].concat();
    // A row vector is a matrix of one row.
    let x = if front.is_empty() { x.unsqueeze(0)? } else { x.clone() };
    product(OP, variant, &x, w, bias, act)?.reshape(&shape)
}

//! A product in the terms of the kernels, and how it runs: one dispatch, or long sums in parts.

use super::super::act::Act;
use super::super::tune::defaults::Defaults;
use super::super::{elementwise, reduce};
use super::variant::{MatmulParams, Variant};
use crate::runtime::LOOP_ROUNDS;
use crate::tensor::{DType, Tensor, broadcast, collapse};
use crate::{Error, Result};

/// The layouts of the shader: four elements of `b` lie along the inner axis, of `a` along the rows; nothing is known.
pub(super) const B_INNER: u32 = 1;
pub(super) const A_ROWS: u32 = 2;
pub(super) const ANY: u32 = 4;

/// Loop rounds of an invocation besides those over the inner axis, at most.
const OTHER_ROUNDS: usize = 1023;

/// Partial sums that a product is cut into for speed, at most.
const PARTIAL_SUMS: usize = 1 << 22;

/// A product in the terms of the kernels: operands, output and numbers.
#[derive(Clone)]
pub(super) struct Product {
    pub(super) a: Tensor,
    b: Tensor,
    bias: Option<Tensor>,
    pub(super) act: Act,
    out: Tensor,
    pub(super) params: MatmulParams,
}

impl Product {
    pub(super) fn new(op: &'static str, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Self> {
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
    pub(super) fn layout(&self) -> u32 {
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

    pub(super) fn run(self, variant: Variant) -> Result<Tensor> {
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
        let types = [a.dtype(), out.dtype()];
        let bytes = ((a.len() + b.len() + out.len()) * a.dtype().bytes()) as u64;
        a.runtime()
            .launch(kernel)
            .types(if variant.is_cooperative() { &types } else { &types[..1] })
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
    pub(super) fn part(&self, variant: Variant, speed: bool) -> usize {
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

    /// Partial sums over `part` inner indices each, in f32, as more matrices of a batch, then their sum in fixed order.
    pub(super) fn run_in_parts(mut self, variant: Variant, part: usize) -> Result<Tensor> {
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
            let out = Tensor::empty(a.runtime(), &[n_batch, n_parts as usize, n_results], DType::F32)?;
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
        let sum = match bias {
            Some(bias) => elementwise::add_act(&sum, &elementwise::cast(&bias, DType::F32)?, act),
            None => elementwise::activate(&sum, act),
        };
        elementwise::cast(&sum?, out.dtype())
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
    pub(super) fn choose(&self) -> Variant {
        let profile = self.a.runtime().profile();
        let (n_batch, m, n) =
            (u64::from(self.params.n_batch), u64::from(self.params.n_rows), u64::from(self.params.n_cols));
        let defaults = Defaults::of(profile);
        if m == 1 || n == 1 {
            return defaults.matmul_vector;
        }
        if defaults.matmul_rates.is_empty() {
            let k = self.params.n_inner;
            let cooperative = |variant: Variant| {
                // Smaller ones are mostly zeros past the edges.
                m.min(n).min(k.into()) >= 32 && variant.runs_on(profile, self.a.dtype())
            };
            if cooperative(Variant::Cooperative16) {
                let large = Variant::Cooperative16.groups(n_batch, m, n) >= defaults.cooperative_large_from;
                return if large { Variant::Cooperative16 } else { Variant::Cooperative16Small };
            }
            if cooperative(Variant::Cooperative8) {
                return Variant::Cooperative8;
            }
            let large = Variant::Tiled128.groups(n_batch, m, n) >= defaults.matmul_large_from;
            return if large { Variant::Tiled128 } else { Variant::Tiled64 };
        }
        // Work with the tiles filled up.
        let time = |(variant, rate): &(Variant, f64)| {
            let (rows, cols) = variant.tile();
            (m.div_ceil(rows) * rows * n.div_ceil(cols) * cols) as f64 / rate
        };
        let rates = if self.layout() == ANY { defaults.matmul_rates_any } else { defaults.matmul_rates };
        rates
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

/// One dispatch, or long sums in parts.
pub(super) fn product(
    op: &'static str,
    variant: Option<Variant>,
    a: &Tensor,
    b: &Tensor,
    bias: Option<&Tensor>,
    act: Act,
) -> Result<Tensor> {
    let whole = Product::new(op, a, b, bias, act)?;
    let chosen = variant.unwrap_or_else(|| whole.tuned());
    if chosen.is_cooperative() && a.dtype() != DType::F16 {
        return Err(Error::dtype(op, format!("{} given, f16 wanted for {chosen:?}", a.dtype())));
    }
    let part = whole.part(chosen, variant.is_none());
    if part == whole.params.n_inner as usize {
        return whole.run(chosen);
    }
    if a.dtype() == DType::F32 || chosen.is_cooperative() {
        return whole.run_in_parts(chosen, part);
    }
    // Partial sums are f32.
    let wide = |x: &Tensor| elementwise::cast(x, DType::F32);
    let out = product(op, variant, &wide(a)?, &wide(b)?, bias.map(wide).transpose()?.as_ref(), act)?;
    elementwise::cast(&out, a.dtype())
}

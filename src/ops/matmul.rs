//! Matrix products: batched, over any strides, with bias and activation in the same dispatch.

use super::act::{ACT, Act};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel,
};
use crate::tensor::{DType, Tensor, broadcast, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../shaders/matmul.wgsl");
const FAMILY: &str = "matmul";
const COMMONS: &[Common] = &[INDEX, ACT];
const WG_SIZE: u64 = 64;
const FLOATS: &[DType] = &[DType::F32, DType::F16];

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
    has_bias: u32,
}

const fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, &[Read, Read, Read, Write])
        .commons(COMMONS)
        .params::<MatmulParams>()
        .types(&["Elem"], &[FLOATS])
}

const MATMUL_PLAIN_FWD: Kernel = kernel("matmul_plain_fwd").overrides(&[("ACT", &[0, 1, 2, 3, 4, 5, 6, 7, 8])]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[MATMUL_PLAIN_FWD];

/// How a product is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One output per invocation, any strides: what the others are checked against.
    Plain,
}

impl Variant {
    /// Every variant.
    pub const ALL: &[Self] = &[Self::Plain];
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
        let n_batch: usize = batch.iter().product();

        // One b for all: the batch of a is more rows, where its strides let it.
        let folded = if batch_b.iter().all(|&size| size == 1) { a.reshape_view(&[n_batch * m, k]) } else { None };
        let (mut a, mut b, batch, m) = match folded {
            Some(a) => (a, b.clone(), Vec::new(), n_batch * m),
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
        let (base_a, base_b) = (a.binding_from().1, b.binding_from().1);
        let last = |x: &Tensor| [x.strides()[x.rank() - 2] as u32, x.strides()[x.rank() - 1] as u32];
        let ([stride_a_row, stride_a_inner], [stride_b_inner, stride_b_col]) = (last(&a), last(&b));
        let params = MatmulParams {
            n_batch: sizes.iter().product::<usize>() as u32,
            n_batch_inner: sizes.last().map_or(1, |size| *size as u32),
            n_rows: m as u32,
            n_cols: n as u32,
            n_inner: k as u32,
            base_a,
            base_b,
            stride_a_row,
            stride_a_inner,
            stride_b_inner,
            stride_b_col,
            stride_a_batch: two(&strides[0]),
            stride_b_batch: two(&strides[1]),
            has_bias: u32::from(bias.is_some()),
        };
        Ok(Self { a, b, bias, act, out, params })
    }

    fn run(self, variant: Variant) -> Result<Tensor> {
        let Self { a, b, bias, act, out, params } = self;
        let (kernel, groups) = match variant {
            Variant::Plain => (&MATMUL_PLAIN_FWD, (out.len() as u64).div_ceil(WG_SIZE)),
        };
        let bytes = ((a.len() + b.len() + out.len()) * a.dtype().bytes()) as u64;
        a.runtime()
            .launch(kernel)
            .types(&[a.dtype()])
            .overrides(&[("ACT", act.code())])
            .bind([
                a.binding_from().0,
                b.binding_from().0,
                bias.map_or_else(|| b.binding_from().0, |bias| bias.binding()),
                out.binding(),
            ])
            .params(&params)
            .groups(groups)
            .cost(2 * out.len() as u64 * u64::from(params.n_inner), bytes)
            .run()?;
        Ok(out)
    }

    fn choose(&self) -> Variant {
        Variant::Plain
    }
}

/// The batch axes of `x` and its last two.
fn split_last_two<'a>(op: &'static str, name: &str, x: &'a Tensor) -> Result<(&'a [usize], &'a [usize; 2])> {
    x.shape()
        .split_last_chunk()
        .ok_or_else(|| Error::shape(op, format!("{name} {:?} has fewer than two axes", x.shape())))
}

/// The matrix product over the last two axes: `[.., m, k]` and `[.., k, n]` to `[.., m, n]`, summed in f32. The batch
/// axes broadcast by NumPy's rule.
///
/// Transposed views are read in place.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless both are of one float type.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let product = Product::new("matmul", a, b, None, Act::None)?;
    let variant = product.choose();
    product.run(variant)
}

/// `act(x w + bias)` in one dispatch: `x` `[.., k]`, `w` `[k, n]`, `bias` `[n]` to `[.., n]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit, [`Error::DType`] unless all are of one float type.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
    linear_as(None, x, w, bias, act)
}

/// [`matmul`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`matmul`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn matmul_with(variant: Variant, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Product::new("matmul", a, b, None, Act::None)?.run(variant)
}

/// [`linear`] by one variant, for tests and benchmarks.
///
/// # Errors
/// As [`linear`], and [`Error::Feature`] if the adapter lacks what the variant needs.
pub fn linear_with(variant: Variant, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, act: Act) -> Result<Tensor> {
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
    let product = Product::new(OP, &x, w, bias, act)?;
    let variant = variant.unwrap_or_else(|| product.choose());
    product.run(variant)?.reshape(&shape)
}

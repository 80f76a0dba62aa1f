//! Elementwise maps: unary, binary with broadcasting, compare, select, cast, copy, activations, fused bias and residual.

mod binary;
mod unary;

pub use binary::*;
pub use unary::*;

use crate::autograd::{record, refuse};
use crate::runtime::{
    Bind::{Read, Write},
    Common, INDEX, Kernel, Runtime,
};
use crate::tensor::node::View;
use crate::tensor::{DType, Tensor, collapse};
use crate::{Error, Result};

const SOURCE: &str = include_str!("../../../shaders/elementwise.wgsl");
const FAMILY: &str = "elementwise";
const COMMONS: &[Common] = &[INDEX, super::act::ACT];
const WG_SIZE: u32 = 64;

const FLOATS: &[DType] = &[DType::F32, DType::F16];
const NUMBERS: &[DType] = &[DType::F32, DType::F16, DType::U32, DType::I32];
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FillParams {
    n: u32,
    bits: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CopyParams {
    n: u32,
    offset: u32,
    sizes: [u32; 5],
    strides: [u32; 6],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CastParams {
    n_vec4: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BytesParams {
    n_words: u32,
    n_channels: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ToBytesParams {
    n: u32,
}

const fn kernel(entry: &'static str, binds: &'static [crate::runtime::Bind]) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, binds).commons(COMMONS)
}

// Every alias the file uses must stand in the prelude, also for entry points that do not use it.
const ALIASES: &[&str] = &["Elem", "Src", "Dst"];
const PLAIN: &[DType] = &[DType::F32];

const FILL_FWD: Kernel = kernel("fill_fwd", &[Write]).params::<FillParams>().types(ALIASES, &[PLAIN, PLAIN, PLAIN]);
const COPY_FWD: Kernel =
    kernel("copy_fwd", &[Read, Write]).params::<CopyParams>().types(ALIASES, &[PLAIN, NUMBERS, NUMBERS]);
const CAST_FWD: Kernel =
    kernel("cast_fwd", &[Read, Write]).params::<CastParams>().types(ALIASES, &[PLAIN, NUMBERS, NUMBERS]);
const BYTES_FWD: Kernel =
    kernel("bytes_fwd", &[Read, Read, Read, Write]).params::<BytesParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);
const TO_BYTES_FWD: Kernel =
    kernel("to_bytes_fwd", &[Read, Write]).params::<ToBytesParams>().types(ALIASES, &[NUMBERS, PLAIN, PLAIN]);
/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    FILL_FWD,
    COPY_FWD,
    CAST_FWD,
    BYTES_FWD,
    TO_BYTES_FWD,
    UNARY_FWD,
    UNARY_BWD,
    BINARY_VEC4_FWD,
    BINARY_STRIDED_FWD,
    ADD_ACT_FWD,
    ADD_ACT_STRIDED_FWD,
    COMPARE_FWD,
    WHERE_FWD,
];

/// Bytes of a tensor of `n` elements.
fn size(n: usize, dtype: DType) -> u64 {
    (n * dtype.bytes()) as u64
}

fn groups(n_threads: usize) -> u64 {
    (n_threads as u64).div_ceil(u64::from(WG_SIZE))
}

impl Tensor {
    /// A tensor of `shape` with every element `value`, cast to `dtype`.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn full(runtime: &Runtime, shape: &[usize], value: f32, dtype: DType) -> Result<Self> {
        let out = Self::empty(runtime, shape, dtype)?;
        let bits = match dtype {
            DType::F32 => value.to_bits(),
            DType::F16 => u32::from(half::f16::from_f32(value).to_bits()) * 0x1_0001,
            DType::U32 => value as u32,
            DType::I32 => (value as i32).cast_unsigned(),
            DType::U8 => u32::from(value as u8) * 0x0101_0101,
        };
        let n = (out.len() * dtype.bytes()).div_ceil(16);
        runtime
            .launch(&FILL_FWD)
            .types(&[DType::F32; 3])
            .bind([out.binding()])
            .params(&FillParams { n: n as u32, bits })
            .groups(groups(n))
            .cost(0, size(out.len(), dtype))
            .run()?;
        Ok(out)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn zeros(runtime: &Runtime, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::full(runtime, shape, 0.0, dtype)
    }

    /// The same elements in row-major order without gaps; itself if that is how they lie.
    ///
    /// # Errors
    /// [`Error::Shape`] past six axes that do not merge, else as [`Tensor::from_slice`].
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_bindable() {
            return Ok(self.clone());
        }
        Ok(copy(self, self.dtype())?.viewing(self, View::Reshape))
    }

    /// The same elements under another shape: a view where the strides allow, else a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the counts differ.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(Error::shape("reshape", format!("{:?} cannot become {shape:?}", self.shape())));
        }
        if let Some(view) = self.reshape_view(shape) {
            return Ok(view);
        }
        let copied = copy(self, self.dtype())?;
        Ok(copied.reshape_view(shape).unwrap_or(copied).viewing(self, View::Reshape))
    }
}

/// Strided copy, with a cast between 2- and 4-byte types where `dtype` is another.
fn copy(x: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "copy";
    if dtype == x.dtype() {
        return super::gather::reordered(OP, x, &[]);
    }
    let out = Tensor::empty(x.runtime(), x.shape(), dtype)?;
    let (sizes, strides) = collapse(x.shape(), &[x.strides()]);
    if sizes.len() > 6 {
        return Err(Error::shape(OP, format!("{:?} has more than six axes that do not merge", x.shape())));
    }
    let (binding, offset) = x.binding_from();
    let n = x.len();
    let params =
        CopyParams { n: n as u32, offset, sizes: inner::<6, 5>(aligned(&sizes, 1)), strides: aligned(&strides[0], 0) };
    x.runtime()
        .launch(&COPY_FWD)
        .types(&[DType::F32, x.dtype(), dtype])
        .bind([binding, out.binding()])
        .params(&params)
        .groups(groups(n))
        .cost(0, size(n, x.dtype()) + size(n, dtype))
        .run()?;
    Ok(out)
}

/// The elements as another type. To bytes they are rounded and clamped to 0..=255; to integers they are cut off.
///
/// # Errors
/// [`Error::Feature`] for f16 on an adapter without it, else as [`Tensor::from_slice`].
pub fn cast(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let out = converted(&x.detach(), dtype)?;
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    if !dtype.is_float() {
        return Ok(out);
    }
    let back = x.dtype();
    Ok(record("cast", out, [x], move |d, _| Ok([Some(cast(d, back)?)])))
}

fn converted(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let n = x.len();
    match (x.dtype(), dtype) {
        (from, to) if from == to => Ok(x.clone()),
        (DType::U8, _) => {
            let one = Tensor::full(x.runtime(), &[1], 1.0, DType::F32)?;
            let zero = Tensor::zeros(x.runtime(), &[1], DType::F32)?;
            from_bytes(x, &one, &zero, dtype)
        }
        (from, DType::U8) => {
            let x = x.contiguous()?;
            let out = Tensor::empty(x.runtime(), x.shape(), DType::U8)?;
            x.runtime()
                .launch(&TO_BYTES_FWD)
                .types(&[from, DType::F32, DType::F32])
                .bind([x.binding(), out.binding()])
                .params(&ToBytesParams { n: n as u32 })
                .groups(groups(n.div_ceil(4)))
                .cost(0, size(n, from) + n as u64)
                .run()?;
            Ok(out)
        }
        (from, to) if x.is_bindable() => {
            let out = Tensor::empty(x.runtime(), x.shape(), to)?;
            let n_vec4 = n.div_ceil(4);
            x.runtime()
                .launch(&CAST_FWD)
                .types(&[DType::F32, from, to])
                .bind([x.binding(), out.binding()])
                .params(&CastParams { n_vec4: n_vec4 as u32 })
                .groups(groups(n_vec4))
                .cost(0, size(n, from) + size(n, to))
                .run()?;
            Ok(out)
        }
        _ => copy(x, dtype),
    }
}

/// The elements of `x` as those of `out`, of another float type, **in place**: every view of `out` sees them. Both are
/// contiguous and of one shape. What lies behind the last element, up to four of them, is written, too.
///
/// # Errors
/// [`Error::Shape`] or [`Error::DType`] if they are not, [`Error::Argument`] for two devices.
pub(crate) fn cast_into(x: &Tensor, out: &Tensor) -> Result<()> {
    const OP: &str = "cast_into";
    if !x.dtype().is_float() || !out.dtype().is_float() || x.dtype() == out.dtype() {
        let given = format!("{} to {} asked for", x.dtype(), out.dtype());
        return Err(Error::dtype(OP, format!("{given}, two float types wanted")));
    }
    if x.shape() != out.shape() || !x.is_bindable() || !out.is_bindable() {
        let given = format!("x {:?} and out {:?} given", x.shape(), out.shape());
        return Err(Error::shape(OP, format!("{given}, contiguous tensors of one shape wanted")));
    }
    super::checks::need_one_device(OP, x, [out])?;
    let n_vec4 = x.len().div_ceil(4);
    x.runtime()
        .launch(&CAST_FWD)
        .types(&[DType::F32, x.dtype(), out.dtype()])
        .bind([x.binding(), out.binding()])
        .params(&CastParams { n_vec4: n_vec4 as u32 })
        .groups(groups(n_vec4))
        .cost(0, size(x.len(), x.dtype()) + size(x.len(), out.dtype()))
        .run()
}

/// Bytes to numbers with a factor and an addend per channel, the last axis: u8 `[.., c]` to `[.., c]`,
/// `out = x * scale[c] + shift[c]`. With f32 `scale` and `shift` `[c]` (or `[1]` for all channels) this normalises
/// images.
///
/// # Errors
/// [`Error::DType`] unless `x` is u8 and the others f32, [`Error::Shape`] if their lengths do not fit.
pub fn from_bytes(x: &Tensor, scale: &Tensor, shift: &Tensor, dtype: DType) -> Result<Tensor> {
    const OP: &str = "from_bytes";
    refuse(OP, &[scale, shift])?;
    if x.dtype() != DType::U8 || scale.dtype() != DType::F32 || shift.dtype() != DType::F32 {
        let given = format!("x {}, scale {}, shift {} given", x.dtype(), scale.dtype(), shift.dtype());
        return Err(Error::dtype(OP, format!("{given}; u8, f32, f32 wanted")));
    }
    let n_channels = scale.len();
    let last = x.shape().last().copied().unwrap_or(1);
    if scale.shape() != shift.shape() || scale.rank() != 1 || (n_channels != 1 && n_channels != last) {
        let given = format!("x {:?}, scale {:?}, shift {:?}", x.shape(), scale.shape(), shift.shape());
        return Err(Error::shape(OP, format!("{given}; scale and shift must be [c] or [1]")));
    }
    if dtype == DType::U8 {
        return Err(Error::dtype(OP, "u8 asked for, a wider type wanted"));
    }
    let (x, scale, shift) = (x.contiguous()?, scale.contiguous()?, shift.contiguous()?);
    let out = Tensor::empty(x.runtime(), x.shape(), dtype)?;
    let n_words = x.len().div_ceil(4);
    x.runtime()
        .launch(&BYTES_FWD)
        .types(&[dtype, DType::F32, DType::F32])
        .bind([x.binding(), scale.binding(), shift.binding(), out.binding()])
        .params(&BytesParams { n_words: n_words as u32, n_channels: n_channels as u32 })
        .groups(groups(n_words))
        .cost(2 * x.len() as u64, x.len() as u64 + size(x.len(), dtype))
        .run()?;
    Ok(out)
}

/// Right-aligns collapsed sizes and strides to `N` axes.
fn aligned<const N: usize>(values: &[usize], fill: u32) -> [u32; N] {
    let mut out = [fill; N];
    for (slot, value) in out.iter_mut().rev().zip(values.iter().rev()) {
        *slot = *value as u32;
    }
    out
}

fn inner<const N: usize, const M: usize>(sizes: [u32; N]) -> [u32; M] {
    let mut out = [1; M];
    out.copy_from_slice(&sizes[N - M..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_align_to_the_right() {
        assert_eq!(aligned::<4>(&[2, 3], 1), [1, 1, 2, 3]);
        assert_eq!(inner::<4, 3>([9, 1, 2, 3]), [1, 2, 3]);
    }
}

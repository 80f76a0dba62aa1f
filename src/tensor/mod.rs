//! Tensors: immutable values over pooled device memory, with shape, strides and element type.

mod host;
pub(crate) mod node;
mod packed;
pub mod shape;

pub use host::{Element, Read};
pub use packed::Offsets;
pub use shape::{Dims, broadcast, check, collapse, contiguous_strides};

use crate::runtime::{Binding, Buffer, Runtime};
use crate::{Error, Result};
use node::{Node, View};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float; sums are always taken in f32.
    F16,
    /// 32-bit unsigned integer.
    U32,
    /// 32-bit signed integer.
    I32,
    /// Bytes, four to a word on the device.
    U8,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// Whether it is a float type.
    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }

    /// The WGSL type that holds it; bytes lie in words.
    #[must_use]
    pub fn wgsl(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 | Self::U8 => "u32",
            Self::I32 => "i32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U8 => "u8",
        })
    }
}

/// An immutable array on a device; cheap to clone.
///
/// Views (`permute`, `slice`, `broadcast_to`, most `reshape`s) share memory and only change shape and strides.
#[derive(Clone)]
pub struct Tensor {
    runtime: Runtime,
    buffer: Arc<Buffer>,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    dtype: DType,
    /// Where it came from, if a gradient is wanted.
    node: Option<Arc<Node>>,
}

impl Tensor {
    /// A tensor with unspecified content, for an op to fill.
    pub(crate) fn empty(runtime: &Runtime, shape: &[usize], dtype: DType) -> Result<Self> {
        if dtype == DType::F16 && !runtime.profile().features.f16 {
            return Err(Error::Feature {
                what: "an f16 tensor".into(),
                feature: "16-bit floats in shaders".into(),
                adapter: runtime.profile().name.clone(),
            });
        }
        let n = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
        let Some(n) = n.filter(|n| u32::try_from(*n).is_ok()) else {
            return Err(Error::shape("tensor", format!("{shape:?} has more elements than 32 bits count")));
        };
        let buffer = runtime.alloc((n * dtype.bytes()) as u64)?;
        Ok(Self {
            runtime: runtime.clone(),
            buffer,
            strides: contiguous_strides(shape),
            shape: shape.to_vec(),
            offset: 0,
            dtype,
            node: None,
        })
    }

    /// A tensor over a host's buffer, without a copy. The buffer needs usage STORAGE, and COPY_SRC to be read back;
    /// its size must be a multiple of 16 bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] if the buffer is smaller than the shape needs, [`Error::Argument`] if its usage or size does
    /// not fit, [`Error::Feature`] on a simulated device.
    pub fn from_buffer(runtime: &Runtime, buffer: wgpu::Buffer, shape: &[usize], dtype: DType) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        if buffer.size() < bytes as u64 {
            return Err(Error::Limit {
                what: "bytes of a host's buffer".into(),
                asked: bytes as u64,
                limit: buffer.size(),
                adapter: "the buffer".into(),
            });
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) || !buffer.size().is_multiple_of(16) {
            return Err(Error::argument(
                "from_buffer",
                format!(
                    "usage {:?} and {} bytes given; STORAGE and a multiple of 16 wanted",
                    buffer.usage(),
                    buffer.size()
                ),
            ));
        }
        Ok(Self {
            runtime: runtime.clone(),
            buffer: runtime.adopt(buffer)?,
            strides: contiguous_strides(shape),
            shape: shape.to_vec(),
            offset: 0,
            dtype,
            node: None,
        })
    }

    /// The memory it lies in, for hosts that read or write it themselves; after [`Runtime::flush`], and from
    /// [`Tensor::offset`] on.
    #[must_use]
    pub fn raw_buffer(&self) -> &wgpu::Buffer {
        self.buffer.raw()
    }

    /// The runtime that holds it.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Size of each axis.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements from one index to the next, per axis; 0 along broadcast axes.
    #[must_use]
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Position of the first element in its memory, in elements.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of axes.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the elements lie in row-major order without gaps.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let expected = contiguous_strides(&self.shape);
        self.is_empty()
            || self
                .shape
                .iter()
                .zip(self.strides.iter().zip(&expected))
                .all(|(n, (have, want))| *n == 1 || have == want)
    }

    /// Whether a kernel can bind it as a plain array: contiguous, and starting where a binding may start.
    pub(crate) fn is_bindable(&self) -> bool {
        let alignment = self.runtime.profile().limits.offset_alignment as usize;
        self.is_contiguous() && (self.offset * self.dtype.bytes()).is_multiple_of(alignment)
    }

    /// The binding of a tensor that [`Tensor::is_bindable`].
    pub(crate) fn binding(&self) -> Binding {
        debug_assert!(self.is_bindable());
        self.binding_from().0
    }

    /// A binding from the nearest place at or before the first element, and the elements from there to it.
    pub(crate) fn binding_from(&self) -> (Binding, u32) {
        let alignment = self.runtime.profile().limits.offset_alignment as usize;
        let start = self.offset * self.dtype.bytes();
        let offset = start / alignment * alignment;
        let binding = Binding { buffer: Arc::clone(&self.buffer), offset: offset as u64 };
        (binding, ((start - offset) / self.dtype.bytes()) as u32)
    }

    fn view(&self, view: View, shape: Vec<usize>, strides: Vec<usize>, offset: usize) -> Self {
        Self { shape, strides, offset, ..self.detach() }.viewing(self, view)
    }

    /// The axes in another order: axis `i` of the result is axis `axes[i]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `axes` is not a permutation.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..self.rank()) {
            return Err(Error::shape("permute", format!("axes {axes:?} do not permute {:?}", self.shape)));
        }
        let shape = axes.iter().map(|&a| self.shape[a]).collect();
        let strides = axes.iter().map(|&a| self.strides[a]).collect();
        Ok(self.view(View::Permute(axes.to_vec()), shape, strides, self.offset))
    }

    /// The last two axes exchanged: `[.., m, n]` to `[.., n, m]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are fewer than two axes.
    pub fn transpose(&self) -> Result<Self> {
        let rank = self.rank();
        if rank < 2 {
            return Err(Error::shape("transpose", format!("{:?} has fewer than two axes", self.shape)));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// The indices `range` of `axis`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the axis or the range does not exist.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Self> {
        if axis >= self.rank() || range.start > range.end || range.end > self.shape[axis] {
            return Err(Error::shape("slice", format!("{range:?} of axis {axis} is not in {:?}", self.shape)));
        }
        let mut shape = self.shape.clone();
        shape[axis] = range.len();
        let offset = self.offset + range.start * self.strides[axis];
        Ok(self.view(View::Slice { axis, range }, shape, self.strides.clone(), offset))
    }

    /// Every `step`-th index of `axis`, from the first on.
    ///
    /// # Errors
    /// [`Error::Shape`] if the axis does not exist or `step` is 0.
    pub fn step(&self, axis: usize, step: usize) -> Result<Self> {
        if axis >= self.rank() || step == 0 {
            return Err(Error::shape("step", format!("every {step}-th of axis {axis} is not in {:?}", self.shape)));
        }
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        shape[axis] = shape[axis].div_ceil(step);
        strides[axis] *= step;
        Ok(self.view(View::Step { axis, step }, shape, strides, self.offset))
    }

    /// A view of a larger shape in which axes of size 1, and missing leading axes, repeat.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not broadcast.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        if broadcast("broadcast_to", &self.shape, shape)? != shape {
            return Err(Error::shape("broadcast_to", format!("{:?} does not broadcast to {shape:?}", self.shape)));
        }
        let front = shape.len() - self.rank();
        let stride = |axis: usize| match axis.checked_sub(front) {
            Some(i) if self.shape[i] == shape[axis] => self.strides[i],
            _ => 0,
        };
        Ok(self.view(View::Broadcast, shape.to_vec(), (0..shape.len()).map(stride).collect(), self.offset))
    }

    /// A new axis of size 1 before `axis`.
    ///
    /// # Errors
    /// [`Error::Shape`] if `axis` is past the last.
    pub fn unsqueeze(&self, axis: usize) -> Result<Self> {
        if axis > self.rank() {
            return Err(Error::shape("unsqueeze", format!("axis {axis} is not in {:?}", self.shape)));
        }
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        shape.insert(axis, 1);
        strides.insert(axis, 0);
        Ok(self.view(View::Reshape, shape, strides, self.offset))
    }

    /// The same elements under another shape, as a view; `None` if the strides do not allow one.
    pub(crate) fn reshape_view(&self, shape: &[usize]) -> Option<Self> {
        if self.is_contiguous() {
            return Some(self.view(View::Reshape, shape.to_vec(), contiguous_strides(shape), self.offset));
        }
        // Splitting and merging within runs that are themselves contiguous keeps a view, as for the packed q, k, v.
        let (sizes, strides) = collapse(&self.shape, &[&self.strides]);
        let mut new_strides = vec![0; shape.len()];
        let mut axis = shape.len();
        for (size, stride) in sizes.iter().zip(&strides[0]).rev() {
            let mut covered = 1;
            while covered < *size && axis > 0 {
                axis -= 1;
                new_strides[axis] = stride * covered;
                covered *= shape[axis];
            }
            if covered != *size {
                return None;
            }
        }
        Some(self.view(View::Reshape, shape.to_vec(), new_strides, self.offset))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?} {}", self.shape, self.dtype)?;
        if !self.is_contiguous() {
            write!(f, ", strides {:?}", self.strides)?;
        }
        f.write_str(")")
    }
}

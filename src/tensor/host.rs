//! Tensors from host memory and back.

use super::{DType, Tensor};
use crate::runtime::{Readback, Runtime};
use crate::{Error, Result};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A host type that a tensor's elements can be.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The element type on the device.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for u32 {
    const DTYPE: DType = DType::U32;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

/// A tensor's elements on their way to the host.
#[derive(Debug)]
pub struct Read<T> {
    inner: Readback,
    /// Where the view lies in what was read: first element, shape, strides.
    view: (usize, Vec<usize>, Vec<usize>),
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Read<T> {
    /// Blocks until the elements are there, in row-major order.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Device`] if the device failed on the way.
    pub fn wait(self) -> Result<Vec<T>> {
        Ok(pick(&self.inner.wait()?, &self.view))
    }
}

impl<T: Element> Future for Read<T> {
    type Output = Result<Vec<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.inner).poll(context);
        polled.map(|bytes| Ok(pick(&bytes?, &self.view)))
    }
}

fn pick<T: Element>(bytes: &[u8], (start, shape, strides): &(usize, Vec<usize>, Vec<usize>)) -> Vec<T> {
    let size = size_of::<T>();
    let n: usize = shape.iter().product();
    if *strides == super::contiguous_strides(shape) {
        return bytemuck::pod_collect_to_vec(&bytes[start * size..(start + n) * size]);
    }
    let all: Vec<T> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / size * size]);
    let at = |mut i: usize| {
        let mut index = *start;
        for (size, stride) in shape.iter().zip(strides).rev() {
            index += i % size * stride;
            i /= size;
        }
        all[index]
    };
    (0..n).map(at).collect()
}

impl Tensor {
    /// A tensor of `shape` holding `data` in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the count differs, [`Error::Limit`] or [`Error::OutOfMemory`] if it does not fit,
    /// [`Error::Feature`] for f16 on an adapter without it.
    pub fn from_slice<T: Element>(runtime: &Runtime, data: &[T], shape: &[usize]) -> Result<Self> {
        let n: usize = shape.iter().product();
        if n != data.len() {
            return Err(Error::shape("from_slice", format!("{} elements given for shape {shape:?}", data.len())));
        }
        runtime.refuse_in_plan("from_slice")?;
        let tensor = Self::empty(runtime, shape, T::DTYPE)?;
        tensor.upload(data)?;
        Ok(tensor)
    }

    /// As [`Tensor::from_slice`], for what an op needs and is the same at every replay of a plan.
    pub(crate) fn constant<T: Element>(runtime: &Runtime, data: &[T]) -> Result<Self> {
        let mut tensor = Self::empty(runtime, &[data.len()], T::DTYPE)?;
        if runtime.is_recording_plan() {
            // Not where an earlier command of the plan writes, as it would again before each replay gets here.
            tensor.buffer = runtime.alloc_unused(size_of_val(data) as u64)?;
            runtime.hold_in_plan(&tensor.buffer);
        }
        tensor.upload(data)?;
        Ok(tensor)
    }

    /// Replaces the elements in place, those of every tensor that shares their memory with it: `data` in row-major order.
    /// Whatever was recorded before still reads the old ones.
    ///
    /// # Errors
    /// [`Error::DType`] if `T` is not the element type, [`Error::Shape`] if the count differs, [`Error::Argument`] unless the
    /// elements lie in order without gaps and begin and end at a multiple of 4 bytes, [`Error::DeviceLost`].
    pub fn write<T: Element>(&self, data: &[T]) -> Result<()> {
        const OP: &str = "write";
        if T::DTYPE != self.dtype {
            return Err(Error::dtype(OP, format!("the tensor holds {}, not {}", self.dtype, T::DTYPE)));
        }
        if data.len() != self.len() {
            return Err(Error::shape(OP, format!("{} elements given for shape {:?}", data.len(), self.shape)));
        }
        let in_words = [self.offset, self.len()].iter().all(|n| (n * size_of::<T>()).is_multiple_of(4));
        if !self.is_contiguous() || !in_words {
            return Err(Error::argument(OP, format!("{self:?} does not lie in order, in whole words of 4 bytes")));
        }
        self.runtime.refuse_in_plan(OP)?;
        self.upload(data)
    }

    fn upload<T: Element>(&self, data: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let (start, whole) = ((self.offset * size_of::<T>()) as u64, bytes.len() / 4 * 4);
        self.runtime.write(&self.buffer, start, &bytes[..whole])?;
        if whole < bytes.len() {
            let mut word = [0; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            self.runtime.write(&self.buffer, start + whole as u64, &word)?;
        }
        Ok(())
    }

    /// A tensor without axes, holding one value.
    ///
    /// # Errors
    /// As [`Tensor::from_slice`].
    pub fn scalar<T: Element>(runtime: &Runtime, value: T) -> Result<Self> {
        Self::from_slice(runtime, &[value], &[])
    }

    /// Starts reading the elements; the device goes on meanwhile.
    ///
    /// # Errors
    /// [`Error::DType`] if `T` is not the element type, [`Error::DeviceLost`].
    pub fn read<T: Element>(&self) -> Result<Read<T>> {
        if T::DTYPE != self.dtype {
            return Err(Error::dtype("read", format!("the tensor holds {}, not {}", self.dtype, T::DTYPE)));
        }
        // From a word boundary to a word boundary; the rest is picked on the host.
        let size = size_of::<T>();
        let span = if self.is_empty() {
            0
        } else {
            1 + self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<usize>()
        };
        let first = self.offset * size / 4 * 4;
        let end = ((self.offset + span) * size).div_ceil(4) * 4;
        let bytes = if span == 0 { 0 } else { end - first };
        let inner = self.runtime.read(&self.buffer, first as u64, bytes as u64)?;
        let view = (self.offset - first / size, self.shape.clone(), self.strides.clone());
        Ok(Read { inner, view, element: PhantomData })
    }

    /// The elements in row-major order; waits for the device.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.read()?.wait()
    }

    /// The elements in row-major order as bytes, whatever their type; waits for the device.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        fn bytes<T: Element>(tensor: &Tensor) -> Result<Vec<u8>> {
            Ok(bytemuck::cast_slice(&tensor.to_vec::<T>()?).to_vec())
        }
        match self.dtype {
            DType::F32 => bytes::<f32>(self),
            DType::F16 => bytes::<half::f16>(self),
            DType::U32 => bytes::<u32>(self),
            DType::I32 => bytes::<i32>(self),
            DType::U8 => self.to_vec(),
        }
    }

    /// Replaces the elements in place by what [`Tensor::to_bytes`] gave of a tensor of the same type and shape.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        fn write<T: Element>(tensor: &Tensor, bytes: &[u8]) -> Result<()> {
            tensor.write(&bytemuck::pod_collect_to_vec::<u8, T>(bytes))
        }
        if bytes.len() != self.len() * self.dtype.bytes() {
            return Err(Error::shape("write", format!("{} bytes given for shape {:?}", bytes.len(), self.shape)));
        }
        match self.dtype {
            DType::F32 => write::<f32>(self, bytes),
            DType::F16 => write::<half::f16>(self, bytes),
            DType::U32 => write::<u32>(self, bytes),
            DType::I32 => write::<i32>(self, bytes),
            DType::U8 => self.write(bytes),
        }
    }

    /// The one element of a tensor that has just one; waits for the device.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more or none, else as [`Tensor::read`].
    pub fn item<T: Element>(&self) -> Result<T> {
        match self.to_vec()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::shape("item", format!("{:?} does not hold one element", self.shape))),
        }
    }
}

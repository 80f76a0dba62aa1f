//! The sides of a contest behind one face, so that all are run, waited for and read in the same way.

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor as BurnTensor, TensorData};
use candle_core::Tensor as CandleTensor;
use leanvision::{Runtime, Tensor};

/// One engine's side of a contest.
pub(crate) trait Side {
    /// Runs once and waits until the device is done.
    ///
    /// The result is kept until the next one is there: a lazy engine may drop work whose result nobody holds.
    fn run(&mut self) -> Result<()>;

    /// The kept result, in the element order that all sides of a contest share.
    fn read(&self) -> Result<Vec<f32>>;
}

struct Ours<F> {
    runtime: Runtime,
    op: F,
    last: Option<Tensor>,
}

impl<F: FnMut() -> leanvision::Result<Tensor>> Side for Ours<F> {
    fn run(&mut self) -> Result<()> {
        let out = (self.op)()?;
        self.runtime.sync()?;
        self.last = Some(out);
        Ok(())
    }

    fn read(&self) -> Result<Vec<f32>> {
        Ok(self.last.as_ref().context("run before read")?.to_vec()?)
    }
}

/// leanvision's side: `op` on fixed inputs.
pub(crate) fn ours(runtime: &Runtime, op: impl FnMut() -> leanvision::Result<Tensor> + 'static) -> Box<dyn Side> {
    Box::new(Ours { runtime: runtime.clone(), op, last: None })
}

struct Burn<F, const D: usize> {
    device: Device,
    op: F,
    /// Axes of burn's result in our order.
    axes: [usize; D],
    last: Option<BurnTensor<D>>,
}

impl<F: FnMut() -> BurnTensor<D>, const D: usize> Side for Burn<F, D> {
    fn run(&mut self) -> Result<()> {
        let out = (self.op)();
        self.device.sync()?;
        self.last = Some(out);
        Ok(())
    }

    fn read(&self) -> Result<Vec<f32>> {
        let last = self.last.clone().context("run before read")?;
        Ok(last.permute(self.axes).try_into_data()?.try_into_vec::<f32>()?)
    }
}

/// burn's side: `op` on fixed inputs; axis `i` of our result is axis `axes[i]` of burn's.
pub(crate) fn burn<const D: usize>(
    device: &Device,
    axes: [usize; D],
    op: impl FnMut() -> BurnTensor<D> + 'static,
) -> Box<dyn Side> {
    Box::new(Burn { device: device.clone(), op, axes, last: None })
}

/// The same numbers as a tensor of burn, row-major in burn's axis order: its axis `i` is axis `axes[i]` of `x`.
pub(crate) fn to_burn<const D: usize>(device: &Device, x: &Tensor, axes: [usize; D]) -> Result<BurnTensor<D>> {
    let x = x.permute(&axes)?;
    let shape: [usize; D] = x.shape().try_into()?;
    Ok(BurnTensor::from_data(TensorData::new(x.to_vec::<f32>()?, shape), device))
}

struct Candle<F> {
    op: F,
    /// Axes of candle's result in our order.
    axes: Vec<usize>,
    last: Option<CandleTensor>,
}

impl<F: FnMut() -> candle_core::Result<CandleTensor>> Side for Candle<F> {
    fn run(&mut self) -> Result<()> {
        // On the CPU a call returns when its result is there.
        self.last = Some((self.op)()?);
        Ok(())
    }

    fn read(&self) -> Result<Vec<f32>> {
        let last = self.last.as_ref().context("run before read")?;
        Ok(last.permute(self.axes.as_slice())?.flatten_all()?.to_vec1()?)
    }
}

/// candle's side: `op` on fixed inputs; axis `i` of our result is axis `axes[i]` of candle's.
pub(crate) fn candle(
    axes: &[usize],
    op: impl FnMut() -> candle_core::Result<CandleTensor> + 'static,
) -> Option<Box<dyn Side>> {
    Some(Box::new(Candle { op, axes: axes.to_vec(), last: None }))
}

/// The same numbers as a tensor of candle on the CPU, row-major in candle's axis order: its axis `i` is axis `axes[i]` of
/// `x`.
pub(crate) fn to_candle(x: &Tensor, axes: &[usize]) -> Result<CandleTensor> {
    let x = x.permute(axes)?;
    Ok(CandleTensor::from_vec(x.to_vec::<f32>()?, x.shape(), &candle_core::Device::Cpu)?)
}

//! Random tensors that are made on the device and known element by element on the host, for shapes of which the host
//! should not hold a copy.

use crate::Result;
use crate::ops::elementwise::cast;
use crate::ops::random::{Key, uniform};
use crate::philox::{Philox, stream};
use crate::reference::Array;
use crate::runtime::Runtime;
use crate::tensor::{DType, Tensor};

/// Numbers in -1..1, multiples of 2^-23, as f32 or rounded to f16.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    step: u32,
    dtype: DType,
}

impl Field {
    /// The numbers of `step`, each its own.
    pub(super) fn new(step: u32, dtype: DType) -> Self {
        Self { step, dtype }
    }

    /// As a tensor.
    pub(super) fn tensor(self, runtime: &Runtime, shape: &[usize]) -> Result<Tensor> {
        let x = uniform(runtime, shape, -1.0, 1.0, Key::new(0, stream::INPUTS, self.step))?;
        if self.dtype == DType::F32 { Ok(x) } else { cast(&x, self.dtype) }
    }

    /// Elements from `first` on, `n` of them, `apart` from one another.
    pub(super) fn values(self, first: usize, n: usize, apart: usize) -> impl Iterator<Item = f64> {
        let mut draws = Philox::new(0, stream::INPUTS, self.step).at(first as u64);
        (0..n).map(move |i| {
            if apart != 1 {
                draws = draws.clone().at((first + i * apart) as u64);
            }
            let value = 2.0 * draws.uniform_f32() - 1.0;
            f64::from(if self.dtype == DType::F16 { half::f16::from_f32(value).to_f32() } else { value })
        })
    }

    /// Elements from `first` on as an array of `shape`.
    pub(super) fn array(self, first: usize, shape: &[usize]) -> Array {
        Array::new(shape, self.values(first, shape.iter().product(), 1).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceChoice;

    #[test]
    fn host_and_device_know_the_same_numbers() {
        let Ok(runtime) = Runtime::new(&DeviceChoice::default()) else {
            eprintln!("skipped: no adapter");
            return;
        };
        let types = if runtime.profile().features.f16 { &[DType::F32, DType::F16][..] } else { &[DType::F32] };
        for &dtype in types {
            let field = Field::new(3, dtype);
            let x = cast(&field.tensor(&runtime, &[5, 7]).unwrap(), DType::F32).unwrap().to_vec::<f32>().unwrap();
            let x: Vec<f64> = x.into_iter().map(f64::from).collect();
            assert_eq!(field.values(0, 35, 1).collect::<Vec<_>>(), x);
            assert_eq!(field.values(2, 5, 7).collect::<Vec<_>>(), [2, 9, 16, 23, 30].map(|i: usize| x[i]));
            assert_eq!(field.array(7, &[2, 7]).data, x[7..21]);
            assert!(x.iter().any(|v| *v < -0.5) && x.iter().any(|v| *v > 0.5));
        }
    }
}

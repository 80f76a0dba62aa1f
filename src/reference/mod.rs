//! Every op once more on the CPU in f64: slow, plain loops that the kernels are checked against.
//!
//! They serve the tests, the check that each benchmark row passes before it is timed, and anyone who writes a kernel of
//! their own.

pub mod attention;
pub mod augment;
pub mod bank;
pub mod basis;
pub mod conv;
pub mod elementwise;
pub mod gather;
pub mod kmeans;
pub mod matmul;
pub mod norm;
pub mod optim;
pub mod pool;
pub mod quant;
pub mod random;
pub mod reduce;
pub mod rotary;
pub mod softmax;
pub mod sort;
pub mod topk;
pub mod views;

/// A row-major array of f64 on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Size of each axis.
    pub shape: Vec<usize>,
    /// The elements, `shape.iter().product()` of them.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of `shape`.
    ///
    /// # Panics
    /// If `data` does not fill `shape`.
    #[must_use]
    pub fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "data does not fill {shape:?}");
        Self { shape: shape.to_vec(), data }
    }

    /// An array whose element at `index` (one entry per axis) is `f(index)`.
    pub fn from_fn(shape: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let n: usize = shape.iter().product();
        let mut index = vec![0; shape.len()];
        let mut data = Vec::with_capacity(n);
        for _ in 0..n {
            data.push(f(&index));
            for axis in (0..shape.len()).rev() {
                index[axis] += 1;
                if index[axis] < shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Self { shape: shape.to_vec(), data }
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// If `index` is outside the array.
    #[must_use]
    pub fn at(&self, index: &[usize]) -> f64 {
        let linear = self.shape.iter().zip(index).fold(0, |linear, (size, i)| {
            assert!(i < size, "{index:?} is outside {:?}", self.shape);
            linear * size + i
        });
        self.data[linear]
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the counts differ.
    #[must_use]
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        Self::new(shape, self.data.clone())
    }
}

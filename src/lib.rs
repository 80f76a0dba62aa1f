//! Computer vision that is cheap to train, store, render and trust, on any GPU.
//!
//! leanvision is a tensor runtime in Rust and WGSL. It runs wherever wgpu does (Vulkan, Metal, DX12, GL), on GPUs and
//! on software adapters alike.
//!
//! ```no_run
//! use leanvision::{DeviceChoice, Runtime, Tensor, ops};
//!
//! let runtime = Runtime::new(&DeviceChoice::default())?;
//! let x = Tensor::from_slice(&runtime, &[-1.0_f32, 0.0, 2.0], &[3])?;
//! let y = ops::elementwise::relu(&x)?;
//! assert_eq!(y.to_vec::<f32>()?, [0.0, 0.0, 2.0]);
//! # Ok::<(), leanvision::Error>(())
//! ```

pub mod autograd;
pub mod bench;
pub mod data;
mod error;
mod files;
pub mod methods;
pub mod nn;
pub mod ops;
pub mod philox;
pub mod reference;
pub mod report;
pub mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
pub mod tensor;

pub use error::{Error, Result};
pub use runtime::{DeviceChoice, Runtime, RuntimeOptions};
pub use tensor::{DType, Tensor};
pub use wgpu;

/// Every kernel of the crate: those of the ops and those that measure an adapter.
#[must_use]
pub fn kernels() -> Vec<&'static runtime::Kernel> {
    ops::kernels().into_iter().chain(bench::kernels()).collect()
}

//! The ops, one file per family; each family has a shader file of the same name.
//!
//! Images are `[n, h, w, c]`, token sequences packed `[T, d]`; see [`crate::tensor::Offsets`].

pub(crate) mod act;
pub mod attention;
pub mod augment;
pub mod bank;
pub mod basis;
mod checks;
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
mod rows;
pub mod scatter;
pub mod softmax;
pub mod sort;
pub mod topk;
pub(crate) mod tune;
pub mod views;

pub use act::Act;
pub use rows::RowVariant;

use crate::runtime::Kernel;

/// Every kernel of every family.
#[must_use]
pub fn kernels() -> Vec<&'static Kernel> {
    let families: &[&'static [Kernel]] = &[
        attention::KERNELS,
        attention::backward::KERNELS,
        augment::KERNELS,
        bank::KERNELS,
        basis::KERNELS,
        conv::KERNELS,
        conv::BWD_KERNELS,
        elementwise::KERNELS,
        gather::KERNELS,
        kmeans::KERNELS,
        matmul::KERNELS,
        norm::KERNELS,
        norm::channels::KERNELS,
        optim::KERNELS,
        pool::KERNELS,
        quant::KERNELS,
        random::KERNELS,
        reduce::KERNELS,
        rotary::KERNELS,
        scatter::KERNELS,
        softmax::KERNELS,
        sort::KERNELS,
        topk::KERNELS,
        views::KERNELS,
    ];
    families.iter().copied().flatten().collect()
}

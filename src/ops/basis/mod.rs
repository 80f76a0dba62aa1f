//! Mixtures of random bases that are drawn where they are used, by their law and a seed: no basis ever lies in memory.
//!
//! [`Mixture::form`] makes tensors of coefficients, `out = scale (fixed A0 + sum_i c_i U_i)`, and [`Mixture::project`] takes
//! the gradients of the tensors back to those of the coefficients; both do all slots of all layers at once. What is drawn is
//! the same bit for bit on every adapter and on the CPU; sums differ by the rounding of f32, and are the same in every run on one
//! adapter. All of it **writes in place**, into ranges of tensors that the caller keeps.
//!
//! # Counters
//! Every number comes from [`crate::philox::philox4x32`]. The key is the seed, low word first. The counter is (call, basis,
//! layer, stream), where [`Slot::layer`] is the layer and [`Tag`] gives the stream, of [`crate::philox::stream`]. `e` counts
//! the elements of a slot, `i` its bases, `v` is a byte, `w` a word, bit 0 the lowest.
//!
//! | law | calls | value | variance |
//! |---|---|---|---|
//! | `uniform8` | call `(e / 16, i)`, byte `e % 4` of word `e / 4 % 4` | `(2 v - 255) / 256` | 1/3 |
//! | `uniform24` | call `(e / 4, i)`, word `e % 4` | `(2 (w >> 8) + 1 - 2^24) / 2^24` | 1/3 |
//! | `sign` | call `(e / 16, i / 8)`, bit `i % 8` of the byte of `uniform8` | 1 is minus | 1 |
//!
//! The fixed basis `A0` of a slot is `uniform8` of basis 0 in the stream [`crate::philox::stream::BASIS_FIXED`], whatever the
//! law.

mod mixture;

pub use mixture::Mixture;

use super::random::RNG;
use crate::philox::stream;
use crate::runtime::{
    Bind::{self, Read, Write},
    INDEX, Kernel,
};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

const SOURCE: &str = include_str!("../../../shaders/basis.wgsl");

/// Elements of a block: what one call gives of `uniform8`.
const BLOCK: usize = 16;

#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct BasisParams {
    key_0: u32,
    key_1: u32,
    n_groups: u32,
    from_basis: u32,
    to_basis: u32,
    row: u32,
    n_rows: u32,
    row_coefficients: u32,
    n_places: u32,
    row_out: u32,
    chunk_blocks: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("basis", entry, SOURCE, binds).commons(&[INDEX, RNG]).params::<BasisParams>()
}

const LAWS: (&str, &[u32]) = ("LAW", &[0, 1, 2]);

const FORM_FWD: Kernel = kernel("basis_form_fwd", &[Read, Read, Read, Read, Write]).overrides(&[
    LAWS,
    ("ROWS", &[1, 4]),
    ("SPLIT", &[1, 16]),
]);
const PACK_FWD: Kernel = kernel("basis_pack_fwd", &[Read, Read, Read, Write]).overrides(&[("SIGNED", &[0, 1])]);
const PROJECT_FWD: Kernel =
    kernel("basis_project_fwd", &[Read, Read, Read, Write]).overrides(&[LAWS, ("LANES", &[8, 64])]);
const SUM_FWD: Kernel = kernel("basis_sum_fwd", &[Read, Read, Read, Write]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[FORM_FWD, PACK_FWD, PROJECT_FWD, SUM_FWD];

/// The law that the entries of a basis follow; the module's page has each one's counters and variance.
///
/// Callers scale: entries have the variance of the law, not of the mixture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Law {
    /// Uniform in -1..1, of 8 bits
    #[default]
    Uniform8,
    /// Uniform in -1..1, of 24 bits
    Uniform24,
    /// 1 or -1
    Sign,
}

impl Law {
    /// Every law.
    pub const ALL: [Self; 3] = [Self::Uniform8, Self::Uniform24, Self::Sign];

    /// The variance of an entry of one of `k` bases.
    #[must_use]
    pub fn variance(self, _k: usize) -> f64 {
        match self {
            Self::Uniform8 => (65_536.0 - 1.0) / 65_536.0 / 3.0,
            Self::Uniform24 => 1.0 / 3.0,
            Self::Sign => 1.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Uniform8 => "uniform8",
            Self::Uniform24 => "uniform24",
            Self::Sign => "sign",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Law {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let law = Self::ALL.into_iter().find(|law| law.name() == text);
        law.ok_or_else(|| Error::Input(format!("no basis is called '{text}'; there are {}", known())))
    }
}

/// What a slot is to its layer, so that the tensors of one layer do not share bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tag {
    /// The first factor of a product.
    A,
    /// The second factor.
    B,
    /// A whole weight.
    Dense,
}

impl Tag {
    /// Its stream of [`crate::philox::stream`].
    #[must_use]
    pub fn stream(self) -> u32 {
        match self {
            Self::A => stream::BASIS_A,
            Self::B => stream::BASIS_B,
            Self::Dense => stream::BASIS_DENSE,
        }
    }
}

/// One tensor that a [`Mixture`] forms: `out[o + e] = scale (fixed A0[e] + sum_i c[first + i] U_i[e])` for `e < len`, over
/// `i < k`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slot {
    /// Elements.
    pub len: usize,
    /// Its first element among those formed.
    pub out: usize,
    /// Its first coefficient. Two slots have the same coefficients or none in common.
    pub first: usize,
    /// Number of its bases and coefficients.
    pub k: usize,
    /// Third word of the counter.
    pub layer: u32,
    /// Which tensor of the layer it is.
    pub tag: Tag,
    /// What everything is multiplied with.
    pub scale: f32,
    /// Coefficient of the fixed basis `A0`.
    pub fixed: f32,
}

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
//! | `onehot` | a shuffle of each deck of `k` elements, and signs | the sign if `shuffle(e % k) = i`, else 0 | 1/k |
//! | `srht` | a shuffle of the places below the next power of two of the slot's length, and signs | the sign times `(-1)^popcount(e & shuffle(i))` | 1 |
//!
//! Of the last two, the sign of element `e` is bit `e % 32` of word `e / 32 % 4` of call `(e / 128, 1)`, and `sign` is -1 where
//! that is 1. A shuffle of `n` numbers is a Feistel network on `b` bits, of which `2^b` is the next power of two of `n`: eight
//! rounds, in which the upper `b / 2` bits and the lower ones take turns, `upper ^= F(lower)` first, and what is not below `n` goes
//! through again. Round `r` has the key `K = w[r % 4]`, in the last four rounds plus `0x9e3779b9`, of the words `w` of call
//! `(d, 0)`: `d` is the deck, `e / k`, and 0 for `srht`. `F(x)` is the low bits of `h ^ h >> 16`, where
//! `h = (g ^ g >> 15) * 0x85ebca77` and `g = (x ^ K) * 0x9e3779b1`, in 32 bits.
//!
//! `onehot` is balanced: each coefficient has one element of each deck. Forming and projecting takes `O(len)`, and `O(len log
//! len)` for `srht`, whatever `k`; the other laws take `O(k len)`.
//!
//! The fixed basis `A0` of a slot is `uniform8` of basis 0 in the stream [`crate::philox::stream::BASIS_FIXED`], whatever the
//! law.

mod mixture;
mod rounding;

pub use mixture::Mixture;
pub use rounding::Rounding;
pub(crate) use rounding::{group_step, nearest_multiple};

use super::random::RNG;
use crate::philox::stream;
use crate::runtime::{
    Bind::{self, Read, Write},
    Common, INDEX, Kernel,
};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

const SOURCE: &str = include_str!("../../../shaders/basis.wgsl");
const SPARSE_SOURCE: &str = include_str!("../../../shaders/basis_sparse.wgsl");
/// What both have.
pub(crate) const SHARED: Common = Common { name: "basis", source: include_str!("../../../shaders/common/basis.wgsl") };

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
    chunk: u32,
    pass_bit: u32,
}

const fn kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("basis", entry, SOURCE, binds).commons(&[INDEX, RNG, SHARED]).params::<BasisParams>()
}

const fn sparse_kernel(entry: &'static str, binds: &'static [Bind]) -> Kernel {
    Kernel::new("basis_sparse", entry, SPARSE_SOURCE, binds).commons(&[INDEX, RNG, SHARED]).params::<BasisParams>()
}

const LANES: (&str, &[u32]) = ("LANES", &[8, 64]);
const LAWS: (&str, &[u32]) = ("LAW", &[0, 1, 2]);

const FORM_FWD: Kernel = kernel("basis_form_fwd", &[Read, Read, Read, Read, Write]).overrides(&[
    LAWS,
    ("ROWS", &[1, 4]),
    ("SPLIT", &[1, 16]),
]);
const PACK_FWD: Kernel = kernel("basis_pack_fwd", &[Read, Read, Read, Write]).overrides(&[("SIGNED", &[0, 1])]);
const PROJECT_FWD: Kernel = kernel("basis_project_fwd", &[Read, Read, Read, Write]).overrides(&[LAWS, LANES]);
const SUM_FWD: Kernel = kernel("basis_sum_fwd", &[Read, Read, Read, Write]);

const ONEHOT_FORM_FWD: Kernel = sparse_kernel("basis_onehot_form_fwd", &[Read, Read, Read, Read, Write]);
const ONEHOT_PROJECT_FWD: Kernel =
    sparse_kernel("basis_onehot_project_fwd", &[Read, Read, Read, Write]).overrides(&[LANES]);
const SPREAD_FWD: Kernel = sparse_kernel("basis_spread_fwd", &[Read, Read, Read, Write]);
const HADAMARD_FWD: Kernel = sparse_kernel("basis_hadamard_fwd", &[Read, Read, Write]);
const SRHT_FORM_FWD: Kernel = sparse_kernel("basis_srht_form_fwd", &[Read, Read, Read, Read, Write]);
const SRHT_PROJECT_FWD: Kernel = sparse_kernel("basis_srht_project_fwd", &[Read, Read, Read, Write]);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    FORM_FWD,
    PACK_FWD,
    PROJECT_FWD,
    SUM_FWD,
    ONEHOT_FORM_FWD,
    ONEHOT_PROJECT_FWD,
    SPREAD_FWD,
    HADAMARD_FWD,
    SRHT_FORM_FWD,
    SRHT_PROJECT_FWD,
    rounding::ROUNDING_FWD,
];

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
    /// Each element takes one coefficient, with a random sign
    Onehot,
    /// Rows of a Hadamard matrix under random signs
    Srht,
}

impl Law {
    /// Every law.
    pub const ALL: [Self; 5] = [Self::Uniform8, Self::Uniform24, Self::Sign, Self::Onehot, Self::Srht];

    /// The variance of an entry of one of `k` bases.
    #[must_use]
    pub fn variance(self, k: usize) -> f64 {
        match self {
            Self::Uniform8 => (65_536.0 - 1.0) / 65_536.0 / 3.0,
            Self::Uniform24 => 1.0 / 3.0,
            Self::Sign | Self::Srht => 1.0,
            Self::Onehot => 1.0 / k.max(1) as f64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Uniform8 => "uniform8",
            Self::Uniform24 => "uniform24",
            Self::Sign => "sign",
            Self::Onehot => "onehot",
            Self::Srht => "srht",
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

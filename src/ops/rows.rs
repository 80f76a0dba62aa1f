//! How ops over rows spread them: a row to an invocation, or a row to a workgroup.

use super::tune::defaults::Defaults;
use super::tune::{Question, Variants, choose, rounding};
use crate::Result;
use crate::runtime::{DeviceProfile, Kernel, Runtime};
use crate::tensor::{DType, Tensor};

/// Sizes in use of workgroups whose invocations work alone. Small ones give a software adapter's few cores equal shares.
pub(crate) const ALONE_SIZES: &[u32] = &[16, 64];
/// Sizes in use of workgroups that share a row.
pub(crate) const SHARED_SIZES: &[u32] = &[64, 256];

/// Who works on a row. The ops choose; the functions that take a variant are for benchmarks and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowVariant {
    /// One invocation, without workgroup memory: short rows, and software adapters, where only the number of loads counts.
    Invocation,
    /// One workgroup, joined by a tree in workgroup memory: right on every adapter.
    Group,
    /// One workgroup, its subgroups joined first: needs subgroup operations, of any size.
    Subgroup,
}

impl Variants for RowVariant {
    const ALL: &'static [Self] = &Self::ALL;
}

/// An op over rows that may be tried: see [`Question`].
pub(crate) struct RowTrial<'a> {
    pub(crate) op: &'static str,
    pub(crate) dtype: DType,
    pub(crate) n_rows: usize,
    pub(crate) n_cols: usize,
    /// Loop rounds of an invocation on its own.
    pub(crate) alone: usize,
    /// What else its kernels are compiled for.
    pub(crate) exact: u32,
    /// Whether it has a variant for subgroups; else the one for workgroups stands for both.
    pub(crate) subgroups: bool,
    pub(crate) kernels: &'static [Kernel],
    pub(crate) run: &'a dyn Fn(RowVariant) -> Result<Vec<Tensor>>,
    /// Runs this many rows of this many columns.
    pub(crate) probe: &'a dyn Fn(RowVariant, [usize; 2]) -> Result<Vec<Tensor>>,
}

impl RowTrial<'_> {
    /// The fastest variant known.
    pub(crate) fn choose(&self, runtime: &Runtime) -> RowVariant {
        let profile = runtime.profile();
        let default = match RowVariant::choose_within(profile, self.n_cols, self.alone) {
            RowVariant::Subgroup if !self.subgroups => RowVariant::Group,
            other => other,
        };
        let fours = self.n_cols.is_multiple_of(4);
        let long = shared_size(self.n_cols) > shared_size(0);
        let question = Question {
            op: self.op,
            dtype: self.dtype,
            sizes: &[("rows", self.n_rows), ("columns", self.n_cols)],
            exact: &[("fours", usize::from(fours)), ("long", usize::from(long)), ("code", self.exact as usize)],
            kernels: &[self.kernels],
            plain: RowVariant::Invocation,
            fits: &|variant| match variant {
                RowVariant::Invocation => self.alone <= profile.loop_rounds(),
                RowVariant::Group => true,
                RowVariant::Subgroup => self.subgroups && variant.runs_on(profile),
            },
            run: self.run,
            probe: &|variant| {
                (self.probe)(variant, [37, [131, 132, 1031, 1032][2 * usize::from(long) + usize::from(fours)]])
            },
            tolerance: rounding(self.dtype),
        };
        choose(runtime, default, &question)
    }
}

impl RowVariant {
    /// Every variant, plainest first.
    pub const ALL: [Self; 3] = [Self::Invocation, Self::Group, Self::Subgroup];

    /// The variant for rows of `n_cols` elements.
    #[must_use]
    pub fn choose(profile: &DeviceProfile, n_cols: usize) -> Self {
        if n_cols <= Defaults::of(profile).row_alone {
            Self::Invocation
        } else if profile.features.subgroup {
            Self::Subgroup
        } else {
            Self::Group
        }
    }

    /// The variant for rows of `n_cols` elements, where an invocation on its own would go `rounds_alone` loop rounds: long
    /// rows are shared on adapters that cut long loops short.
    pub(crate) fn choose_within(profile: &DeviceProfile, n_cols: usize, rounds_alone: usize) -> Self {
        match Self::choose(profile, n_cols) {
            Self::Invocation if rounds_alone <= profile.loop_rounds() => Self::Invocation,
            Self::Invocation if profile.features.subgroup => Self::Subgroup,
            Self::Invocation => Self::Group,
            shared => shared,
        }
    }

    /// Loop rounds of an invocation that goes `alone` rounds on its own, or reads a row of `n_cols` elements `quarters` / 4
    /// times one by one with others.
    pub(crate) fn rounds(self, n_cols: usize, alone: usize, quarters: usize) -> usize {
        match self {
            Self::Invocation => alone,
            // Joining takes a round for each subgroup, or each halving.
            Self::Group | Self::Subgroup => (quarters * n_cols).div_ceil(4 * shared_size(n_cols) as usize) + 256,
        }
    }

    /// Size and number of workgroups: invocations that work alone, or a workgroup for each of `n_threads` rows of
    /// `n_cols` elements.
    pub(crate) fn grid(self, runtime: &Runtime, n_threads: usize, n_cols: usize) -> (u32, u64) {
        match self {
            Self::Invocation => alone_grid(runtime, n_threads),
            Self::Group | Self::Subgroup => (shared_size(n_cols), n_threads as u64),
        }
    }

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invocation => "invocation",
            Self::Group => "group",
            Self::Subgroup => "subgroup",
        }
    }

    /// Whether `profile` has what it needs.
    #[must_use]
    pub fn runs_on(self, profile: &DeviceProfile) -> bool {
        self != Self::Subgroup || profile.features.subgroup
    }
}

/// Workgroups of invocations that work alone: their size and number for `n_threads` invocations.
pub(crate) fn alone_grid(runtime: &Runtime, n_threads: usize) -> (u32, u64) {
    let size = ALONE_SIZES[usize::from(!runtime.profile().is_software())];
    (size, (n_threads as u64).div_ceil(u64::from(size)))
}

/// Size of a workgroup that shares a row of `n_cols` elements: at least four for each invocation of a large one.
pub(crate) fn shared_size(n_cols: usize) -> u32 {
    SHARED_SIZES[usize::from(n_cols >= 1024)]
}

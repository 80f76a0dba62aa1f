//! What can be wrong with a kernel, and how it is told.

use super::source::Place;
use std::fmt;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Check {
    /// Two invocations of a workgroup touch a word of workgroup memory, one of them writing, with no barrier between.
    WorkgroupRace,
    /// Two invocations touch a word of a storage buffer, one of them writing, with no barrier between; across
    /// workgroups no barrier helps.
    StorageRace,
    /// An index past the end of an array, vector or buffer; also of a pointer that is only made.
    OutOfBounds,
    /// A read of workgroup memory, of a variable declared without a value, or of a buffer that nothing wrote. Variables
    /// declared within a loop are set to zero in each round, and count as written.
    Unwritten,
    /// An element of an output that no invocation wrote.
    NeverWritten,
    /// A barrier that not all invocations of the workgroup reach together, by the same calls and in the same rounds of
    /// loops; a `workgroupUniformLoad` of different places.
    DivergentBarrier,
    /// A subgroup operation that not all invocations of the subgroup reach together.
    DivergentSubgroup,
    /// A loop that goes more rounds than allowed.
    EndlessLoop,
    /// An integer divided by zero.
    DivisionByZero,
    /// A shift by the width of the type or more, or bits picked past it.
    ShiftPastWidth,
    /// A signed result that does not fit: the least number divided by -1, negated, or its absolute value. Sums and
    /// products wrap, and floats are clamped when they become integers; WGSL leaves neither open.
    SignedOverflow,
    /// A finite result that f16 cannot hold: infinite, or NaN by way of an infinite step within a product or sum.
    F16Overflow,
    /// NaN or infinity out of finite operands, or an integer made of one.
    NonFinite,
    /// A broadcast, shuffle or quad operation that reads from an invocation that does not exist or is not there. Shifts and
    /// exchanges past the ends of a subgroup give anything, which is no fault as long as nobody uses it: here another value
    /// in each order, so that results that hang on it differ from run to run.
    SubgroupLane,
    /// A buffer bound twice, once of them to be written.
    Alias,
}

impl Check {
    /// Its name in a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkgroupRace => "race in workgroup memory",
            Self::StorageRace => "race in storage",
            Self::OutOfBounds => "out of bounds",
            Self::Unwritten => "read of memory nothing wrote",
            Self::NeverWritten => "output never written",
            Self::DivergentBarrier => "barrier in divergent flow",
            Self::DivergentSubgroup => "subgroup operation in divergent flow",
            Self::EndlessLoop => "loop past the bound",
            Self::DivisionByZero => "division by zero",
            Self::ShiftPastWidth => "shift past the width",
            Self::SignedOverflow => "signed overflow",
            Self::F16Overflow => "f16 overflow",
            Self::NonFinite => "NaN or infinity from finite values",
            Self::SubgroupLane => "subgroup read of an absent invocation",
            Self::Alias => "aliased binding",
        }
    }
}

/// Which checks run. All do by default but [`Checks::non_finite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Races in workgroup memory and storage.
    pub races: bool,
    /// Accesses past the end.
    pub bounds: bool,
    /// Reads of memory nothing wrote.
    pub unwritten: bool,
    /// Barriers and subgroup operations in divergent flow.
    pub divergence: bool,
    /// Divisions by zero, wide shifts, overflow of i32 and f16.
    pub arithmetic: bool,
    /// NaN or infinity born from finite operands.
    pub non_finite: bool,
}

impl Checks {
    /// Every check.
    #[must_use]
    pub const fn all() -> Self {
        Self { races: true, bounds: true, unwritten: true, divergence: true, arithmetic: true, non_finite: true }
    }

    /// No check: the fastest way to a result. Stray reads still give 0, and stray writes nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { races: false, bounds: false, unwritten: false, divergence: false, arithmetic: false, non_finite: false }
    }
}

impl Default for Checks {
    fn default() -> Self {
        let mut checks = Self::all();
        checks.non_finite = false;
        checks
    }
}

/// An invocation of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Invocation {
    /// `workgroup_id`.
    pub group: [u32; 3],
    /// `local_invocation_index`.
    pub local: u32,
}

impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.group;
        write!(f, "invocation {} of workgroup ({x}, {y}, {z})", self.local)
    }
}

/// A fault, told once for all invocations and rounds that commit it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The kernel: the first file's name, or `family/entry` for a kernel of the registry.
    pub kernel: String,
    /// What it is.
    pub check: Check,
    /// Where the fault shows.
    pub place: Place,
    /// The line in the whole text, from 1.
    pub line: u32,
    /// That line's text.
    pub text: String,
    /// The variable, with the byte or component concerned.
    pub address: Option<String>,
    /// Who did it first.
    pub invocation: Option<Invocation>,
    /// The other access: what it did, who did it and where.
    pub other: Option<(String, Invocation, Place)>,
    /// What happened, such as the value of the index.
    pub message: String,
    /// How many times.
    pub count: u64,
    /// Subgroup size and schedule it showed under.
    pub run: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kernel != self.place.file {
            write!(f, "{}: ", self.kernel)?;
        }
        write!(f, "{}:{}: {}: {}", self.place.file, self.place.line, self.check.name(), self.message)?;
        if let Some(address) = &self.address {
            write!(f, "\n    at {address}")?;
        }
        if let Some(invocation) = &self.invocation {
            write!(f, "\n    by {invocation}")?;
        }
        if let Some((what, who, place)) = &self.other {
            write!(f, "\n    against {what} by {who}, {}:{}", place.file, place.line)?;
        }
        write!(f, "\n    | {}\n    {} times, {}", self.text, self.count, self.run)
    }
}

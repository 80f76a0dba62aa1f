//! The simulator's own code: flat lists of operations over registers, one list per function.
//!
//! A register holds one scalar of every invocation of a wave; values of several components take several registers in a
//! row. Each expression has registers of its own above those of its operands, each function instance its own frame, as WGSL
//! knows no recursion.

use super::lanes::{Lane1, Lane2, Lane3, Lane4, Scalar};
use super::whole::Whole;
use super::{BindingInfo, Source};
use naga::AtomicFunction;
use std::sync::atomic::AtomicU8;

/// The first register of a value; with [`CONST`], the first constant.
pub(super) type Reg = u32;

/// Marks registers that hold constants.
pub(super) const CONST: Reg = 1 << 31;

/// A byte offset, component or register outside of what is pointed into.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// What may go wrong in an arithmetic operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Risk {
    None,
    /// Integer division or remainder.
    Divide {
        signed: bool,
    },
    /// A shift.
    Shift,
    /// Bits from an offset on, as the last two operands.
    Bits,
    /// The least i32 negated or made positive.
    Least,
    /// A float as an integer.
    ToInteger,
    /// An f32 result.
    Float,
    /// An f16 result.
    Half,
    /// An f16 made of an integer.
    HalfOfInteger,
    /// An f16 result of several steps.
    Halves,
    /// Floats packed as f16.
    PackedHalves,
}

/// Where a pointer leads: a variable, an offset known at compile time, and one that is not.
///
/// Offsets count bytes in buffers, components in workgroup memory, registers in the invocation's own variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pointer {
    pub(super) root: Root,
    pub(super) fixed: u32,
    pub(super) dynamic: Option<Reg>,
}

/// A variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Root {
    /// A buffer, or the immediates, by slot.
    Buffer(u32),
    /// Workgroup memory, from this component on; the variable's number in [`Code::workgroup`].
    Workgroup(u32),
    /// An invocation's own variable, from this register on, with the first of the registers that say what was written.
    Own { first: Reg, written: Option<Reg>, variable: u32 },
}

/// The length of what is indexed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Length {
    Fixed(u32),
    /// Number in [`Code::open_arrays`].
    Open(u32),
}

/// What is indexed, as messages call it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    /// Number in [`Code::names`].
    pub(super) text: u32,
    /// Whether the index is an i32.
    pub(super) signed: bool,
}

/// How the invocations of a subgroup exchange values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Exchange {
    First,
    Lane(Reg),
    Shuffle(Reg),
    Up(Reg),
    Down(Reg),
    Xor(Reg),
    Quad(Reg),
    QuadSwap(u32),
}

/// A reduction or scan over a subgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collective {
    Reduce,
    Inclusive,
    Exclusive,
}

/// One operation. `n` counts registers.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Lane1 {
        f: Lane1,
        out: Reg,
        a: Reg,
        n: u32,
        risk: Risk,
    },
    Lane2 {
        f: Lane2,
        out: Reg,
        a: Reg,
        b: Reg,
        n: u32,
        risk: Risk,
    },
    Lane3 {
        f: Lane3,
        out: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        n: u32,
        risk: Risk,
    },
    Lane4 {
        f: Lane4,
        out: Reg,
        args: [Reg; 4],
        n: u32,
        risk: Risk,
    },
    /// Number in [`Code::wholes`].
    Whole {
        f: u32,
        out: Reg,
        args: [Reg; 3],
        risk: Risk,
    },
    /// All invocations, active or not.
    Copy {
        out: Reg,
        from: Reg,
        n: u32,
    },
    /// The active ones only.
    Assign {
        out: Reg,
        from: Reg,
        n: u32,
    },
    /// One register over `n`.
    Spread {
        out: Reg,
        from: Reg,
        n: u32,
    },
    /// Element `index` of a value of `len` elements of `n` registers.
    Pick {
        out: Reg,
        from: Reg,
        index: Reg,
        len: u32,
        n: u32,
        name: Name,
    },
    /// An offset: base + index * stride, or [`OUTSIDE`].
    Index {
        out: Reg,
        base: Option<Reg>,
        index: Reg,
        stride: u32,
        len: Length,
        write: bool,
        name: Name,
    },
    /// The length of an open array.
    ArrayLength {
        out: Reg,
        array: u32,
    },
    Load {
        out: Reg,
        from: Pointer,
        shape: u32,
    },
    Store {
        to: Pointer,
        value: Reg,
        shape: u32,
    },
    Atomic {
        out: Option<Reg>,
        at: Pointer,
        fun: AtomicFunction,
        value: Reg,
        compare: Option<Reg>,
        scalar: Scalar,
        /// Only reads.
        load: bool,
    },
    /// That every invocation of the workgroup gives the same place.
    Uniform {
        from: Pointer,
    },
    /// Loads, multiplies and stores of matrices that a subgroup holds together; its first invocation keeps them.
    CoopLoad {
        out: Reg,
        from: Pointer,
        stride: Reg,
        shape: Matrix,
    },
    CoopStore {
        to: Pointer,
        value: Reg,
        stride: Reg,
        shape: Matrix,
    },
    CoopMultiply {
        out: Reg,
        a: Reg,
        b: Reg,
        c: Reg,
        rows: u32,
        columns: u32,
        inner: u32,
        to: Scalar,
    },
    If {
        cond: Reg,
        otherwise: u32,
    },
    Else {
        end: u32,
    },
    EndIf,
    Loop,
    Continuing {
        end: u32,
    },
    BreakIf {
        cond: Reg,
    },
    Again {
        to: u32,
    },
    EndLoop,
    Switch,
    /// Cases `values` of [`Code::cases`], from and to; default takes what no case of the switch (`all`) names.
    Case {
        selector: Reg,
        values: (u32, u32),
        default: Option<(u32, u32)>,
        next: u32,
    },
    EndCase,
    EndSwitch,
    /// Over to `to` if no invocation is active.
    Skip {
        to: u32,
    },
    Break {
        up: u32,
    },
    Continue {
        up: u32,
    },
    Return {
        up: u32,
    },
    Call {
        function: u32,
    },
    EndFunction,
    Barrier {
        workgroup: bool,
        storage: bool,
    },
    Ballot {
        out: Reg,
        predicate: Option<Reg>,
    },
    Collect {
        out: Reg,
        a: Reg,
        n: u32,
        scalar: Scalar,
        op: naga::SubgroupOperation,
        how: Collective,
    },
    Gather {
        out: Reg,
        a: Reg,
        n: u32,
        how: Exchange,
    },
}

/// A matrix of a subgroup.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) row_major: bool,
    pub(super) scalar: Scalar,
    /// Elements that the stride counts in: those of the vector that the pointer points to, or 1.
    pub(super) unit: u32,
}

/// The components of a value in memory: byte offset and type of each.
pub(super) type Shape = Vec<(u32, Scalar)>;

/// A function instance.
#[derive(Debug, Default)]
pub(super) struct Function {
    pub(super) ops: Vec<Op>,
    /// Number of the first of them in the program.
    pub(super) first: u32,
}

/// What invocations are told at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    GlobalId,
    LocalId,
    LocalIndex,
    GroupId,
    GroupSize,
    NumGroups,
    NumSubgroups,
    SubgroupId,
    SubgroupSize,
    SubgroupLane,
}

/// An open array: slot, bytes before it, bytes of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpenArray {
    pub(super) slot: u32,
    pub(super) before: u32,
    pub(super) stride: u32,
}

/// A variable of workgroup memory or of an invocation, for messages.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) ty: naga::Handle<naga::Type>,
    /// First component in workgroup memory, first register otherwise.
    pub(super) first: u32,
    pub(super) len: u32,
}

/// A whole program.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) functions: Vec<Function>,
    pub(super) entry: u32,
    /// Line of each operation, from 1; 0 where there is none.
    pub(super) lines: Vec<u32>,
    /// What was seen of each operation: [`RAN`], [`TAKEN`], [`PASSED`].
    pub(super) seen: Vec<AtomicU8>,
    pub(super) n_registers: u32,
    pub(super) constants: Vec<u32>,
    pub(super) wholes: Vec<Whole>,
    pub(super) shapes: Vec<Shape>,
    pub(super) cases: Vec<u32>,
    pub(super) names: Vec<String>,
    pub(super) open_arrays: Vec<OpenArray>,
    pub(super) told: Vec<(Told, Reg)>,
    pub(super) workgroup_size: [u32; 3],
    pub(super) n_workgroup: u32,
    pub(super) workgroup: Vec<Variable>,
    pub(super) own: Vec<Variable>,
    /// Storage and uniform buffers by group and binding, then the immediates if there are any.
    pub(super) bindings: Vec<BindingInfo>,
    /// Type of each slot's variable.
    pub(super) slots: Vec<naga::Handle<naga::Type>>,
    /// Whether a slot holds f16, so that its cells are two bytes wide.
    pub(super) halves: Vec<bool>,
    pub(super) immediates: Option<(String, u32)>,
    pub(super) immediate_layout: super::Layout,
    pub(super) uses_subgroups: bool,
    pub(super) uses_atomics: bool,
    /// What it was made of, for messages.
    pub(super) resolved: Option<super::consts::Resolved>,
    pub(super) source: Source,
}

/// The operation ran.
pub(super) const RAN: u8 = 1;
/// A branch was taken by some invocation.
pub(super) const TAKEN: u8 = 2;
/// A branch was passed by some invocation.
pub(super) const PASSED: u8 = 4;

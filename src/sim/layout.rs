//! Where the numbers of a binding lie, so that a host can fill it without knowing the kernel's types.

use super::consts::Resolved;
use super::lanes::Scalar;
use super::program::Shape;
use super::types::{self, array_len, shape};
use super::{Access, Bound, Check, Finding, Options, Program};
use naga::{Handle, Type, TypeInner};

/// A number in memory: its first byte, and its type as WGSL names it (`f32`, `f16`, `u32` or `i32`).
pub type Field = (u64, &'static str);

/// The numbers of a binding in the order of its declaration, padding left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// The numbers before the array at the end.
    pub fields: Vec<Field>,
    /// The array at the end, where there is one.
    pub array: Option<Repeated>,
}

/// An array at the end of a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeated {
    /// Its first byte.
    pub start: u64,
    /// Bytes from an element to the next.
    pub stride: u64,
    /// Number of elements; `None` where the length is open.
    pub len: Option<u64>,
    /// The numbers of an element, their bytes from its start.
    pub fields: Vec<Field>,
}

impl Layout {
    pub(super) fn of(module: &Resolved, ty: Handle<Type>) -> Result<Self, String> {
        let inner = |ty: Handle<Type>| &module.module.types[ty].inner;
        match inner(ty) {
            TypeInner::Array { .. } => Ok(Self { fields: Vec::new(), array: Some(repeated(module, ty, 0)?) }),
            TypeInner::Struct { members, .. } => {
                let is_array = |ty| matches!(inner(ty), TypeInner::Array { .. });
                let tail = members.last().filter(|last| is_array(last.ty));
                let mut fields = Vec::new();
                for member in &members[..members.len() - usize::from(tail.is_some())] {
                    fields.extend(named(shape(module, inner(member.ty))?, member.offset));
                }
                let array = tail.map(|tail| repeated(module, tail.ty, tail.offset)).transpose()?;
                Ok(Self { fields, array })
            }
            other => Ok(Self { fields: named(shape(module, other)?, 0), array: None }),
        }
    }

    /// How many numbers it holds; `None` where the length is open.
    #[must_use]
    pub fn numbers(&self) -> Option<u64> {
        let array = self.array.as_ref().map_or(Some(0), |a| a.len.map(|len| len * a.fields.len() as u64));
        array.map(|n| n + self.fields.len() as u64)
    }

    /// Byte and type of number `n`, from 0.
    #[must_use]
    pub fn place(&self, n: u64) -> Option<Field> {
        let Some(n) = n.checked_sub(self.fields.len() as u64) else { return self.fields.get(n as usize).copied() };
        let array = self.array.as_ref().filter(|array| !array.fields.is_empty())?;
        let each = array.fields.len() as u64;
        let (offset, name) = array.fields[(n % each) as usize];
        array.len.is_none_or(|len| n / each < len).then_some((array.start + n / each * array.stride + offset, name))
    }

    /// Bytes that `n` numbers take; `None` if so many do not make whole elements.
    #[must_use]
    pub fn bytes(&self, n: u64) -> Option<u64> {
        match (&self.array, self.numbers()) {
            (_, Some(all)) if all != n => None,
            (None, _) => Some(self.fields.iter().map(|(at, name)| at + width(name)).max().unwrap_or(0)),
            (Some(array), _) => {
                let (n, each) = (n.checked_sub(self.fields.len() as u64)?, array.fields.len() as u64);
                (each > 0 && n.is_multiple_of(each)).then(|| array.start + n / each * array.stride)
            }
        }
    }

    /// How many numbers lie in `n_bytes` bytes.
    #[must_use]
    pub fn numbers_in(&self, n_bytes: u64) -> u64 {
        let Some(array) = &self.array else { return self.fields.len() as u64 };
        let len = array.len.unwrap_or_else(|| n_bytes.saturating_sub(array.start) / array.stride.max(1));
        self.fields.len() as u64 + len * array.fields.len() as u64
    }

    /// The type of all its numbers, if they have but one.
    #[must_use]
    pub fn only_type(&self) -> Option<&'static str> {
        let array = self.array.iter().flat_map(|array| &array.fields);
        let mut names = self.fields.iter().chain(array).map(|(_, name)| *name);
        let first = names.next()?;
        names.all(|name| name == first).then_some(first)
    }
}

/// Bytes of a number.
#[must_use]
fn width(name: &str) -> u64 {
    if name == "f16" { 2 } else { 4 }
}

fn named(shape: Shape, offset: u32) -> Vec<Field> {
    let name = |scalar| match scalar {
        Scalar::F32 => "f32",
        Scalar::F16 => "f16",
        Scalar::I32 => "i32",
        // Buffers hold no bool.
        Scalar::U32 | Scalar::Bool => "u32",
    };
    shape.into_iter().map(|(at, scalar)| (u64::from(offset + at), name(scalar))).collect()
}

fn repeated(module: &Resolved, ty: Handle<Type>, start: u32) -> Result<Repeated, String> {
    let TypeInner::Array { base, size, stride } = module.module.types[ty].inner else {
        return Err("not an array".into());
    };
    let fields = named(shape(module, &module.module.types[base].inner)?, 0);
    let len = array_len(module, size)?.map(u64::from);
    Ok(Repeated { start: u64::from(start), stride: u64::from(stride), len, fields })
}

impl Program {
    /// The outputs with numbers that nothing wrote, one finding for each: to be asked behind [`Program::run`] with the same
    /// buffers, of which those that the kernel should fill came from [`Buffer::unwritten`](super::Buffer::unwritten).
    #[must_use]
    pub fn never_written(&self, bound: &[Bound<'_>], options: &Options) -> Vec<Finding> {
        let path = |slot: usize, name: &str, at: u64| match &self.code.resolved {
            Some(module) => types::path(module, name, self.code.slots[slot], at as u32, true),
            None => name.to_owned(),
        };
        let outputs = self.bindings().iter().zip(bound).enumerate();
        let outputs = outputs.filter(|(_, (info, _))| info.access == Access::ReadWrite);
        let finding = |(slot, (info, bound)): (usize, (&super::BindingInfo, &Bound<'_>))| {
            let n = info.layout.numbers_in(bound.n_bytes);
            let empty = |k: &u64| {
                let (at, name) = info.layout.place(*k)?;
                bound.buffer.first_unwritten(bound.offset + at, width(name)).map(|_| at)
            };
            let mut missing = (0..n).filter_map(|k| empty(&k));
            let first = missing.next()?;
            let count = 1 + missing.count() as u64;
            let source = &self.code.source;
            Some(Finding {
                kernel: self.label.clone(),
                check: Check::NeverWritten,
                place: source.place(info.line),
                line: info.line,
                text: source.line(info.line).to_owned(),
                address: Some(path(slot, &info.name, first)),
                invocation: None,
                other: None,
                message: format!("{count} of {n} numbers of {} hold nothing, the first at byte {first}", info.name),
                count,
                run: format!("subgroups of {}, {}", options.subgroup_size, options.schedule),
            })
        };
        outputs.filter_map(finding).collect()
    }
}

//! Types of naga's IR as the simulator lays them out: registers, and bytes in buffers.

use super::consts::Resolved;
use super::lanes::Scalar;
use super::program::Shape;
use naga::{ArraySize, Handle, Type, TypeInner};

/// Values of more components than this are not held in registers.
const MAX_COMPONENTS: u32 = 1 << 14;

pub(super) fn scalar(scalar: naga::Scalar) -> Result<Scalar, String> {
    Scalar::of(scalar).ok_or_else(|| format!("scalars {scalar:?} are not simulated"))
}

/// Number of elements of an array; `None` if open.
pub(super) fn array_len(module: &Resolved, size: ArraySize) -> Result<Option<u32>, String> {
    match size {
        ArraySize::Constant(n) => Ok(Some(n.get())),
        ArraySize::Dynamic => Ok(None),
        ArraySize::Pending(handle) => match module.value(handle) {
            n @ 1..=0x7FFF_FFFF => Ok(Some(n)),
            n => Err(format!("an array of {} elements", n as i32)),
        },
    }
}

/// Number of components of a type, as registers or in workgroup memory.
pub(super) fn components(module: &Resolved, inner: &TypeInner) -> Result<u32, String> {
    Ok(match *inner {
        TypeInner::Scalar(_) | TypeInner::Atomic(_) => 1,
        TypeInner::Vector { size, .. } => size as u32,
        TypeInner::Matrix { columns, rows, .. } => columns as u32 * rows as u32,
        TypeInner::CooperativeMatrix { columns, rows, .. } => columns as u32 * rows as u32,
        TypeInner::Array { base, size, .. } => {
            let len = array_len(module, size)?.ok_or("an open array is not a value")?;
            let each = components(module, &module.module.types[base].inner)?;
            len.checked_mul(each).ok_or("an array past 2^32 components")?
        }
        TypeInner::Struct { ref members, .. } => {
            let mut sum = 0;
            for member in members {
                sum += components(module, &module.module.types[member.ty].inner)?;
            }
            sum
        }
        ref other => return Err(format!("types like {other:?} are not simulated")),
    })
}

/// Byte offset and type of each component in a buffer.
pub(super) fn shape(module: &Resolved, inner: &TypeInner) -> Result<Shape, String> {
    let n = components(module, inner)?;
    if n > MAX_COMPONENTS {
        return Err(format!("a value of {n} components is not simulated, {MAX_COMPONENTS} at most"));
    }
    let mut out = Vec::with_capacity(n as usize);
    collect(module, inner, 0, &mut out)?;
    Ok(out)
}

fn collect(module: &Resolved, inner: &TypeInner, at: u32, out: &mut Shape) -> Result<(), String> {
    match *inner {
        TypeInner::Scalar(s) | TypeInner::Atomic(s) => out.push((at, scalar(s)?)),
        TypeInner::Vector { size, scalar: s } => {
            for i in 0..size as u32 {
                out.push((at + i * u32::from(s.width), scalar(s)?));
            }
        }
        TypeInner::Matrix { columns, rows, scalar: s } => {
            for c in 0..columns as u32 {
                for r in 0..rows as u32 {
                    out.push((at + c * column_stride(rows, s) + r * u32::from(s.width), scalar(s)?));
                }
            }
        }
        TypeInner::CooperativeMatrix { columns, rows, scalar: s, .. } => {
            for i in 0..columns as u32 * rows as u32 {
                out.push((at + i * u32::from(s.width), scalar(s)?));
            }
        }
        TypeInner::Array { base, size, stride } => {
            for i in 0..array_len(module, size)?.unwrap_or(0) {
                collect(module, &module.module.types[base].inner, at + i * stride, out)?;
            }
        }
        TypeInner::Struct { ref members, .. } => {
            for member in members {
                collect(module, &module.module.types[member.ty].inner, at + member.offset, out)?;
            }
        }
        ref other => return Err(format!("types like {other:?} are not simulated")),
    }
    Ok(())
}

/// Bytes from a column of a matrix to the next.
pub(super) fn column_stride(rows: naga::VectorSize, scalar: naga::Scalar) -> u32 {
    let rows = if rows == naga::VectorSize::Bi { 2 } else { 4 };
    rows * u32::from(scalar.width)
}

/// The one scalar type in a type, if there is only one.
pub(super) fn only_scalar(module: &Resolved, inner: &TypeInner) -> Option<naga::Scalar> {
    match *inner {
        TypeInner::Scalar(s)
        | TypeInner::Atomic(s)
        | TypeInner::Vector { scalar: s, .. }
        | TypeInner::Matrix { scalar: s, .. }
        | TypeInner::CooperativeMatrix { scalar: s, .. } => Some(s),
        TypeInner::Array { base, .. } => only_scalar(module, &module.module.types[base].inner),
        TypeInner::Struct { ref members, .. } => {
            let mut all = members.iter().map(|m| only_scalar(module, &module.module.types[m.ty].inner));
            let first = all.next()??;
            all.all(|s| s == Some(first)).then_some(first)
        }
        _ => None,
    }
}

/// Whether a type holds f16.
pub(super) fn has_half(module: &Resolved, inner: &TypeInner) -> bool {
    match *inner {
        TypeInner::Array { base, .. } => has_half(module, &module.module.types[base].inner),
        TypeInner::Struct { ref members, .. } => {
            members.iter().any(|m| has_half(module, &module.module.types[m.ty].inner))
        }
        _ => inner.scalar() == Some(naga::Scalar::F16),
    }
}

/// What lies at byte or component `at` of a variable, as WGSL writes it: `x[3].y`.
pub(super) fn path(module: &Resolved, name: &str, ty: Handle<Type>, mut at: u32, bytes: bool) -> String {
    let mut out = name.to_owned();
    let mut inner = &module.module.types[ty].inner;
    let size = |inner: &TypeInner, fallback: u32| {
        if bytes { fallback } else { components(module, inner).unwrap_or(1).max(1) }
    };
    loop {
        match *inner {
            TypeInner::Array { base, stride, .. } => {
                let stride = size(&module.module.types[base].inner, stride.max(1));
                out += &format!("[{}]", at / stride);
                at %= stride;
                inner = &module.module.types[base].inner;
            }
            TypeInner::Struct { ref members, .. } => {
                let mut start = 0;
                let mut found = None;
                for member in members {
                    let n = size(&module.module.types[member.ty].inner, 0);
                    let from = if bytes { member.offset } else { start };
                    if at >= from {
                        found = Some((member, from));
                    }
                    start += n;
                }
                let Some((member, from)) = found else { return out };
                out += &format!(".{}", member.name.as_deref().unwrap_or("?"));
                at -= from;
                inner = &module.module.types[member.ty].inner;
            }
            TypeInner::Matrix { rows, scalar, .. } => {
                let stride = if bytes { column_stride(rows, scalar) } else { rows as u32 };
                let row = at % stride / if bytes { u32::from(scalar.width) } else { 1 };
                return out + &format!("[{}][{row}]", at / stride);
            }
            TypeInner::Vector { scalar, .. } => {
                let i = at / if bytes { u32::from(scalar.width) } else { 1 };
                return out + [".x", ".y", ".z", ".w"].get(i as usize).unwrap_or(&"");
            }
            _ => return out,
        }
    }
}

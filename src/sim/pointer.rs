//! Pointers, indices and members: where an expression leads, and what messages call it.

use super::compile::{Compiler, Frame, Value};
use super::lanes::Scalar;
use super::program::{Length, Name, Op, Pointer, Root};
use super::types::{array_len, column_stride, components};
use naga::{Expression, Handle, Statement, TypeInner};
use std::collections::HashSet;

/// The pointer expressions that a function writes through, with those they are made of.
pub(super) fn stored_pointers(function: &naga::Function) -> HashSet<Handle<Expression>> {
    let mut found = HashSet::new();
    collect_stored(&function.body, &mut found);
    let mut open: Vec<_> = found.iter().copied().collect();
    while let Some(handle) = open.pop() {
        if let Expression::Access { base, .. } | Expression::AccessIndex { base, .. } = function.expressions[handle]
            && found.insert(base)
        {
            open.push(base);
        }
    }
    found
}

fn collect_stored(block: &naga::Block, found: &mut HashSet<Handle<Expression>>) {
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } | Statement::Atomic { pointer, .. } => {
                found.insert(*pointer);
            }
            Statement::CooperativeStore { data, .. } => {
                found.insert(data.pointer);
            }
            Statement::Block(block) => collect_stored(block, found),
            Statement::If { accept, reject, .. } => {
                collect_stored(accept, found);
                collect_stored(reject, found);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| collect_stored(&case.body, found)),
            Statement::Loop { body, continuing, .. } => {
                collect_stored(body, found);
                collect_stored(continuing, found);
            }
            _ => (),
        }
    }
}

impl Compiler<'_> {
    /// Type of what a pointer expression points to.
    pub(super) fn pointee(&self, frame: &Frame<'_>, handle: Handle<Expression>) -> Result<TypeInner, String> {
        match *self.type_of(frame, handle) {
            TypeInner::Pointer { base, .. } => Ok(self.inner(base).clone()),
            TypeInner::ValuePointer { size: Some(size), scalar, .. } => Ok(TypeInner::Vector { size, scalar }),
            TypeInner::ValuePointer { size: None, scalar, .. } => Ok(TypeInner::Scalar(scalar)),
            ref other => Err(format!("a pointer to {other:?} is not simulated")),
        }
    }

    /// Distance of the elements of a composite type, in the unit of the memory it lies in.
    fn stride(&self, inner: &TypeInner, bytes: bool) -> Result<u32, String> {
        Ok(match *inner {
            TypeInner::Array { stride, .. } if bytes => stride,
            TypeInner::Array { base, .. } => components(self.resolved, self.inner(base))?,
            TypeInner::Matrix { rows, scalar, .. } if bytes => column_stride(rows, scalar),
            TypeInner::Matrix { rows, .. } => rows as u32,
            TypeInner::Vector { scalar, .. } if bytes => u32::from(scalar.width),
            TypeInner::Vector { .. } => 1,
            ref other => return Err(format!("an index into {other:?} is not simulated")),
        })
    }

    pub(super) fn access(
        &mut self,
        frame: &mut Frame<'_>,
        handle: Handle<Expression>,
        base: Handle<Expression>,
        index: Handle<Expression>,
    ) -> Result<Value, String> {
        let signed = self.scalar_of(frame, index)? == Scalar::I32;
        let name = self.name(frame, base, signed);
        let index = self.reg(frame, index)?;
        match self.value(frame, base)? {
            Value::Pointer(pointer) => {
                let inner = self.pointee(frame, base)?;
                let bytes = matches!(pointer.root, Root::Buffer(_));
                let stride = self.stride(&inner, bytes)?;
                let len = match (&inner, pointer.root) {
                    (TypeInner::Array { size, stride, .. }, root) => match (array_len(self.resolved, *size)?, root) {
                        (Some(n), _) => Length::Fixed(n),
                        (None, Root::Buffer(slot)) => Length::Open(self.open_array(slot, pointer.fixed, *stride)),
                        (None, _) => return Err("an open array outside of a buffer".into()),
                    },
                    (TypeInner::Vector { size, .. }, _) => Length::Fixed(*size as u32),
                    (TypeInner::Matrix { columns, .. }, _) => Length::Fixed(*columns as u32),
                    (other, _) => return Err(format!("an index into {other:?} is not simulated")),
                };
                let out = self.alloc(1)?;
                let write = frame.stored.contains(&handle);
                frame.push(Op::Index { out, base: pointer.dynamic, index, stride, len, write, name });
                Ok(Value::Pointer(Pointer { dynamic: Some(out), ..pointer }))
            }
            Value::Reg(from) => {
                let inner = self.type_of(frame, base).clone();
                let n = self.stride(&inner, false)?;
                let len = components(self.resolved, &inner)? / n.max(1);
                let out = self.alloc(n)?;
                frame.push(Op::Pick { out, from, index, len, n, name });
                Ok(Value::Reg(out))
            }
        }
    }

    /// What an expression is called: its variable, members and elements.
    fn name(&mut self, frame: &Frame<'_>, handle: Handle<Expression>, signed: bool) -> Name {
        let text = self.called(frame, handle);
        let names = &mut self.code.names;
        let text = names.iter().position(|name| *name == text).unwrap_or_else(|| {
            names.push(text);
            names.len() - 1
        }) as u32;
        Name { text, signed }
    }

    fn called(&self, frame: &Frame<'_>, handle: Handle<Expression>) -> String {
        if let Some(name) = frame.function.named_expressions.get(&handle) {
            return name.clone();
        }
        let or_value = |name: &Option<String>| name.clone().unwrap_or_else(|| "a value".into());
        match frame.function.expressions[handle] {
            Expression::GlobalVariable(variable) => or_value(&self.module.global_variables[variable].name),
            Expression::LocalVariable(variable) => or_value(&frame.function.local_variables[variable].name),
            Expression::FunctionArgument(i) => or_value(&frame.function.arguments[i as usize].name),
            Expression::Load { pointer } => self.called(frame, pointer),
            Expression::Access { base, .. } => format!("{}[..]", self.called(frame, base)),
            Expression::AccessIndex { base, index } => {
                let of = self.called(frame, base);
                let inner = match *self.type_of(frame, base) {
                    TypeInner::Pointer { base, .. } => self.inner(base),
                    ref other => other,
                };
                match inner {
                    TypeInner::Struct { members, .. } => format!("{of}.{}", or_value(&members[index as usize].name)),
                    _ => format!("{of}[{index}]"),
                }
            }
            _ => "a value".into(),
        }
    }

    pub(super) fn access_index(
        &mut self,
        frame: &mut Frame<'_>,
        handle: Handle<Expression>,
        base: Handle<Expression>,
        index: u32,
    ) -> Result<Value, String> {
        let member = |this: &Self, inner: &TypeInner, bytes: bool| -> Result<u32, String> {
            let TypeInner::Struct { members, .. } = inner else { return Ok(index * this.stride(inner, bytes)?) };
            if bytes {
                return Ok(members[index as usize].offset);
            }
            let before = members.iter().take(index as usize);
            before.map(|m| components(this.resolved, this.inner(m.ty))).sum()
        };
        match self.value(frame, base)? {
            Value::Pointer(pointer) => {
                let inner = self.pointee(frame, base)?;
                // A fixed index may be past the end of an array whose length naga did not know.
                let bytes = matches!(pointer.root, Root::Buffer(_));
                if let TypeInner::Array { size, .. } = inner {
                    let len = match (array_len(self.resolved, size)?, pointer.root) {
                        (Some(n), _) => (index >= n).then_some(Length::Fixed(n)),
                        (None, Root::Buffer(slot)) => {
                            let stride = self.stride(&inner, bytes)?;
                            Some(Length::Open(self.open_array(slot, pointer.fixed, stride)))
                        }
                        (None, _) => return Err("an open array outside of a buffer".into()),
                    };
                    if let Some(len) = len {
                        let stride = self.stride(&inner, bytes)?;
                        let name = self.name(frame, base, false);
                        let out = self.alloc(1)?;
                        let index = self.constant(vec![index]);
                        let write = frame.stored.contains(&handle);
                        frame.push(Op::Index { out, base: pointer.dynamic, index, stride, len, write, name });
                        return Ok(Value::Pointer(Pointer { dynamic: Some(out), ..pointer }));
                    }
                }
                let offset = member(self, &inner, bytes)?;
                Ok(Value::Pointer(Pointer { fixed: pointer.fixed + offset, ..pointer }))
            }
            Value::Reg(from) => {
                let inner = self.type_of(frame, base).clone();
                Ok(Value::Reg(from + member(self, &inner, false)?))
            }
        }
    }
}

//! Expressions, as operations over registers.

use super::compile::{Compiler, Frame, Value};
use super::lanes::{self, Scalar};
use super::program::{Matrix, Op, Pointer, Reg, Risk, Root};
use super::types::{self, components, scalar};
use super::whole::{Shape as Size, Whole};
use naga::{
    BinaryOperator, Expression, Handle, MathFunction, RelationalFunction, ScalarKind, TypeInner, UnaryOperator,
};

/// What keeps an expression from being evaluated anywhere: that it depends on what statements do.
fn free_operand(expression: &Expression) -> Option<&Expression> {
    let pure = matches!(
        expression,
        Expression::Compose { .. }
            | Expression::Splat { .. }
            | Expression::Swizzle { .. }
            | Expression::AccessIndex { .. }
            | Expression::Unary { .. }
            | Expression::Binary { .. }
            | Expression::Select { .. }
            | Expression::As { .. }
            | Expression::Math { .. }
    );
    (!pure).then_some(expression)
}

fn size_of(inner: &TypeInner) -> Result<Size, String> {
    Ok(match *inner {
        TypeInner::Scalar(_) => Size::SCALAR,
        TypeInner::Vector { size, .. } => Size::vector(size as usize),
        TypeInner::Matrix { columns, rows, .. } => Size::matrix(columns as usize, rows as usize),
        ref other => return Err(format!("arithmetic on {other:?} is not simulated")),
    })
}

impl<'a> Compiler<'a> {
    pub(super) fn type_of<'f>(&self, frame: &Frame<'f>, handle: Handle<Expression>) -> &'f TypeInner
    where
        'a: 'f,
    {
        frame.info[handle].ty.inner_with(&self.module.types)
    }

    /// The value of an expression that was evaluated, or needs no evaluation.
    pub(super) fn value(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>) -> Result<Value, String> {
        if let Some(value) = frame.values[handle.index()] {
            return Ok(value);
        }
        if let Some(words) = self.resolved.words(&frame.function.expressions, handle) {
            let value = Value::Reg(self.constant(words));
            frame.values[handle.index()] = Some(value);
            return Ok(value);
        }
        Ok(match frame.function.expressions[handle] {
            Expression::FunctionArgument(i) => frame.args[i as usize],
            Expression::GlobalVariable(variable) => {
                Value::Pointer(Pointer { root: self.globals[&variable], fixed: 0, dynamic: None })
            }
            Expression::LocalVariable(variable) => {
                Value::Pointer(Pointer { root: frame.locals[&variable], fixed: 0, dynamic: None })
            }
            // Expressions of override constants are not emitted.
            ref other => {
                if let Some(operand) = free_operand(other) {
                    return Err(format!("an expression is used before it is evaluated: {operand:?}"));
                }
                let value = self.evaluate(frame, handle)?;
                // Within a branch the next use may not come past here.
                if frame.starting {
                    frame.values[handle.index()] = Some(value);
                }
                value
            }
        })
    }

    pub(super) fn reg(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>) -> Result<Reg, String> {
        match self.value(frame, handle)? {
            Value::Reg(reg) => Ok(reg),
            Value::Pointer(_) => Err("a pointer where a value is wanted".into()),
        }
    }

    pub(super) fn pointer(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>) -> Result<Pointer, String> {
        match self.value(frame, handle)? {
            Value::Pointer(pointer) => Ok(pointer),
            Value::Reg(_) => Err("a value where a pointer is wanted".into()),
        }
    }

    pub(super) fn scalar_of(&self, frame: &Frame<'_>, handle: Handle<Expression>) -> Result<Scalar, String> {
        let inner = self.type_of(frame, handle);
        scalar(inner.scalar().ok_or_else(|| format!("arithmetic on {inner:?} is not simulated"))?)
    }

    /// What the stride of a cooperative load or store counts in.
    pub(super) fn matrix_unit(&self, frame: &Frame<'_>, pointer: Handle<Expression>) -> Result<u32, String> {
        match *self.type_of(frame, pointer) {
            TypeInner::Pointer { base, .. } => match *self.inner(base) {
                TypeInner::Scalar(_) => Ok(1),
                // Elements of three lie as far apart as those of four.
                TypeInner::Vector { size, .. } if size != naga::VectorSize::Tri => Ok(size as u32),
                ref other => Err(format!("a cooperative matrix in {other:?}")),
            },
            TypeInner::ValuePointer { size: None, .. } => Ok(1),
            ref other => Err(format!("a cooperative matrix at {other:?}")),
        }
    }

    fn count(&self, frame: &Frame<'_>, handle: Handle<Expression>) -> Result<u32, String> {
        components(self.resolved, self.type_of(frame, handle))
    }

    /// An operand as `n` registers; a scalar is spread.
    fn wide(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>, n: u32) -> Result<Reg, String> {
        let from = self.reg(frame, handle)?;
        if self.count(frame, handle)? == n {
            return Ok(from);
        }
        let out = self.alloc(n)?;
        frame.push(Op::Spread { out, from, n });
        Ok(out)
    }

    /// Evaluates an expression where it is emitted.
    pub(super) fn emit(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>) -> Result<(), String> {
        // The first value of a variable may have asked for it already.
        let known = frame.values[handle.index()].is_some();
        if known || self.resolved.words(&frame.function.expressions, handle).is_some() {
            return Ok(());
        }
        let value = self.evaluate(frame, handle)?;
        frame.values[handle.index()] = Some(value);
        Ok(())
    }

    fn evaluate(&mut self, frame: &mut Frame<'_>, handle: Handle<Expression>) -> Result<Value, String> {
        let function = frame.function;
        let out = match function.expressions[handle] {
            Expression::Compose { ref components, .. } => {
                let out = self.alloc(self.count(frame, handle)?)?;
                let mut at = out;
                for component in components {
                    let (from, n) = (self.reg(frame, *component)?, self.count(frame, *component)?);
                    frame.push(Op::Copy { out: at, from, n });
                    at += n;
                }
                out
            }
            Expression::Access { base, index } => return self.access(frame, handle, base, index),
            Expression::AccessIndex { base, index } => return self.access_index(frame, handle, base, index),
            Expression::Splat { size, value } => {
                let from = self.reg(frame, value)?;
                let out = self.alloc(size as u32)?;
                frame.push(Op::Spread { out, from, n: size as u32 });
                out
            }
            Expression::Swizzle { size, vector, pattern } => {
                let from = self.reg(frame, vector)?;
                let out = self.alloc(size as u32)?;
                for (i, component) in pattern.iter().take(size as usize).enumerate() {
                    frame.push(Op::Copy { out: out + i as u32, from: from + *component as u32, n: 1 });
                }
                out
            }
            Expression::Load { pointer } => {
                let from = self.pointer(frame, pointer)?;
                if let TypeInner::Atomic(s) = self.pointee(frame, pointer)? {
                    // An atomic load: no bits added.
                    let value = self.constant(vec![0]);
                    let fun = naga::AtomicFunction::InclusiveOr;
                    let out = self.alloc(2)?;
                    self.code.uses_atomics |= matches!(from.root, Root::Buffer(_));
                    let scalar = scalar(s)?;
                    frame.push(Op::Atomic { out: Some(out), at: from, fun, value, compare: None, scalar, load: true });
                    return Ok(Value::Reg(out));
                }
                let inner = self.type_of(frame, handle).clone();
                self.load(frame, from, &inner)?
            }
            Expression::Unary { op, expr } => {
                let (a, n, s) = (self.reg(frame, expr)?, self.count(frame, expr)?, self.scalar_of(frame, expr)?);
                let f = lanes::unary(op, s).ok_or_else(|| format!("{op:?} of {s:?} is not simulated"))?;
                let risk = if op == UnaryOperator::Negate && s == Scalar::I32 { Risk::Least } else { Risk::None };
                let out = self.alloc(n)?;
                frame.push(Op::Lane1 { f, out, a, n, risk });
                out
            }
            Expression::Binary { op, left, right } => self.binary(frame, op, left, right, handle)?,
            Expression::Select { condition, accept, reject } => {
                let n = self.count(frame, accept)?;
                let a = self.wide(frame, condition, n)?;
                let (b, c) = (self.reg(frame, accept)?, self.reg(frame, reject)?);
                let out = self.alloc(n)?;
                frame.push(Op::Lane3 { f: lanes::select(), out, a, b, c, n, risk: Risk::None });
                out
            }
            Expression::Relational { fun, argument } => {
                let (a, n) = (self.reg(frame, argument)?, self.count(frame, argument)?);
                if matches!(fun, RelationalFunction::All | RelationalFunction::Any) {
                    let whole = Whole::relational(fun, n as usize);
                    self.whole(frame, whole, [a; 3], 1, Risk::None, || format!("{fun:?}"))?
                } else {
                    let s = self.scalar_of(frame, argument)?;
                    let f = lanes::relational(fun, s).ok_or_else(|| format!("{fun:?} of {s:?} is not simulated"))?;
                    let out = self.alloc(n)?;
                    frame.push(Op::Lane1 { f, out, a, n, risk: Risk::None });
                    out
                }
            }
            Expression::Math { fun, arg, arg1, arg2, arg3 } => {
                self.math(frame, handle, fun, [Some(arg), arg1, arg2, arg3])?
            }
            Expression::As { expr, kind, convert } => {
                let (a, n, from) = (self.reg(frame, expr)?, self.count(frame, expr)?, self.scalar_of(frame, expr)?);
                let to = self.scalar_of(frame, handle)?;
                match convert {
                    Some(_) => {
                        let out = self.alloc(n)?;
                        let risk = match (from, to) {
                            (Scalar::F32 | Scalar::F16, Scalar::I32 | Scalar::U32) => Risk::ToInteger,
                            (Scalar::F32, Scalar::F16) => Risk::Half,
                            (Scalar::I32 | Scalar::U32, Scalar::F16) => Risk::HalfOfInteger,
                            _ => Risk::None,
                        };
                        frame.push(Op::Lane1 { f: lanes::convert(from, to), out, a, n, risk });
                        out
                    }
                    None if from == Scalar::F16 || to == Scalar::F16 => {
                        return Err(format!("bits of f16 as {kind:?} are not simulated"));
                    }
                    None if kind == ScalarKind::Bool => return Err("bits as bool are not simulated".into()),
                    None => a,
                }
            }
            Expression::ArrayLength(pointer) => {
                let at = self.pointer(frame, pointer)?;
                let TypeInner::Pointer { base, .. } = *self.type_of(frame, pointer) else {
                    return Err("the length of what is no array".into());
                };
                let (Root::Buffer(slot), TypeInner::Array { stride, .. }) = (at.root, self.inner(base)) else {
                    return Err("the length of what is no open array".into());
                };
                let array = self.open_array(slot, at.fixed, *stride);
                let out = self.alloc(1)?;
                frame.push(Op::ArrayLength { out, array });
                out
            }
            Expression::CooperativeLoad { columns, rows, ref data, .. } => {
                let from = self.pointer(frame, data.pointer)?;
                let stride = self.reg(frame, data.stride)?;
                let scalar = self.scalar_of(frame, handle)?;
                let (row_major, unit) = (data.row_major, self.matrix_unit(frame, data.pointer)?);
                let shape = Matrix { rows: rows as u32, columns: columns as u32, row_major, scalar, unit };
                let out = self.alloc(shape.rows * shape.columns)?;
                self.code.uses_subgroups = true;
                frame.push(Op::CoopLoad { out, from, stride, shape });
                out
            }
            Expression::CooperativeMultiplyAdd { a, b, c } => {
                let TypeInner::CooperativeMatrix { columns: inner, rows, .. } = *self.type_of(frame, a) else {
                    return Err("a cooperative product of what is no cooperative matrix".into());
                };
                let TypeInner::CooperativeMatrix { columns, .. } = *self.type_of(frame, b) else {
                    return Err("a cooperative product of what is no cooperative matrix".into());
                };
                let to = self.scalar_of(frame, c)?;
                let regs = [self.reg(frame, a)?, self.reg(frame, b)?, self.reg(frame, c)?];
                let (rows, columns, inner) = (rows as u32, columns as u32, inner as u32);
                let out = self.alloc(rows * columns)?;
                self.code.uses_subgroups = true;
                let [a, b, c] = regs;
                frame.push(Op::CoopMultiply { out, a, b, c, rows, columns, inner, to });
                out
            }
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::ZeroValue(_)
            | Expression::FunctionArgument(_)
            | Expression::GlobalVariable(_)
            | Expression::LocalVariable(_) => return self.value(frame, handle),
            ref other => {
                let text = format!("{other:?}");
                let name = text.split([' ', '(', '{']).next().unwrap_or_default();
                return Err(format!("{name} is not simulated"));
            }
        };
        Ok(Value::Reg(out))
    }

    fn load(&mut self, frame: &mut Frame<'_>, from: Pointer, inner: &TypeInner) -> Result<Reg, String> {
        let shape = self.shape(inner)?;
        let out = self.alloc(self.code.shapes[shape as usize].len() as u32)?;
        frame.push(Op::Load { out, from, shape });
        Ok(out)
    }

    /// Number of a type's shape.
    pub(super) fn shape(&mut self, inner: &TypeInner) -> Result<u32, String> {
        let shape = types::shape(self.resolved, inner)?;
        let shapes = &mut self.code.shapes;
        Ok(shapes.iter().position(|s| *s == shape).unwrap_or_else(|| {
            shapes.push(shape);
            shapes.len() - 1
        }) as u32)
    }

    fn whole(
        &mut self,
        frame: &mut Frame<'_>,
        whole: Option<Whole>,
        args: [Reg; 3],
        n: u32,
        risk: Risk,
        name: impl Fn() -> String,
    ) -> Result<Reg, String> {
        let whole = whole.ok_or_else(|| format!("{} is not simulated", name()))?;
        if whole.result() != n as usize {
            return Err(format!("{} gives {} components, {n} wanted", name(), whole.result()));
        }
        let out = self.alloc(n)?;
        self.code.wholes.push(whole);
        frame.push(Op::Whole { f: self.code.wholes.len() as u32 - 1, out, args, risk });
        Ok(out)
    }

    fn binary(
        &mut self,
        frame: &mut Frame<'_>,
        op: BinaryOperator,
        left: Handle<Expression>,
        right: Handle<Expression>,
        handle: Handle<Expression>,
    ) -> Result<Reg, String> {
        let s = self.scalar_of(frame, left)?;
        let (left_inner, right_inner) = (self.type_of(frame, left).clone(), self.type_of(frame, right).clone());
        let matrices =
            matches!(left_inner, TypeInner::Matrix { .. }) || matches!(right_inner, TypeInner::Matrix { .. });
        let scalars = matches!(left_inner, TypeInner::Scalar(_)) || matches!(right_inner, TypeInner::Scalar(_));
        let n = self.count(frame, handle)?;
        let risk = risk_of(s);
        if op == BinaryOperator::Multiply && matrices && !scalars {
            let args = [self.reg(frame, left)?, self.reg(frame, right)?];
            let whole = Whole::product(s, size_of(&left_inner)?, size_of(&right_inner)?);
            let risk = if risk == Risk::Half { Risk::Halves } else { risk };
            return self.whole(frame, whole, [args[0], args[1], args[1]], n, risk, || "a matrix product".into());
        }
        let f = lanes::binary(op, s).ok_or_else(|| format!("{op:?} of {s:?} is not simulated"))?;
        let risk = match (op, s) {
            (BinaryOperator::Divide | BinaryOperator::Modulo, Scalar::I32) => Risk::Divide { signed: true },
            (BinaryOperator::Divide | BinaryOperator::Modulo, Scalar::U32) => Risk::Divide { signed: false },
            (BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight, _) => Risk::Shift,
            (
                BinaryOperator::Add
                | BinaryOperator::Subtract
                | BinaryOperator::Multiply
                | BinaryOperator::Divide
                | BinaryOperator::Modulo,
                _,
            ) => risk,
            _ => Risk::None,
        };
        let a = self.wide(frame, left, n)?;
        let b = self.wide(frame, right, n)?;
        let out = self.alloc(n)?;
        frame.push(Op::Lane2 { f, out, a, b, n, risk });
        Ok(out)
    }

    fn math(
        &mut self,
        frame: &mut Frame<'_>,
        handle: Handle<Expression>,
        fun: MathFunction,
        args: [Option<Handle<Expression>>; 4],
    ) -> Result<Reg, String> {
        let given: Vec<Handle<Expression>> = args.into_iter().flatten().collect();
        let s = self.scalar_of(frame, given[0])?;
        let n = self.count(frame, handle)?;
        let n_first = self.count(frame, given[0])?;
        let unknown = || format!("{fun:?} of {s:?} is not simulated");
        let risk = match (fun, s) {
            (MathFunction::Abs, Scalar::I32) => Risk::Least,
            (MathFunction::ExtractBits | MathFunction::InsertBits, _) => Risk::Bits,
            _ => risk_of(s),
        };
        let component_wise = match given.len() {
            1 => lanes_math1(fun, s).is_some(),
            2 => super::math::math2(fun, s).is_some(),
            3 => super::math::math3(fun, s).is_some(),
            _ => super::math::math4(fun, s).is_some(),
        };
        if !component_wise {
            let size = size_of(self.type_of(frame, given[0]))?;
            let mut regs = [0; 3];
            for (reg, handle) in regs.iter_mut().zip(&given) {
                *reg = self.reg(frame, *handle)?;
            }
            for i in given.len()..3 {
                regs[i] = regs[0];
            }
            // The result may be of another type than the operands, as in packing.
            let risk = match self.type_of(frame, handle).scalar().and_then(Scalar::of) {
                _ if fun == MathFunction::Pack2x16float => Risk::PackedHalves,
                Some(Scalar::F16) => Risk::Halves,
                scalar => scalar.map_or(Risk::None, risk_of),
            };
            return self.whole(frame, Whole::math(fun, s, size), regs, n, risk, unknown);
        }
        let mut regs = Vec::new();
        for handle in &given {
            regs.push(self.wide(frame, *handle, n_first.max(n))?);
        }
        let out = self.alloc(n)?;
        frame.push(match regs[..] {
            [a] => Op::Lane1 { f: lanes_math1(fun, s).ok_or_else(unknown)?, out, a, n, risk },
            [a, b] => Op::Lane2 { f: super::math::math2(fun, s).ok_or_else(unknown)?, out, a, b, n, risk },
            [a, b, c] => Op::Lane3 { f: super::math::math3(fun, s).ok_or_else(unknown)?, out, a, b, c, n, risk },
            [a, b, c, d] => {
                let f = super::math::math4(fun, s).ok_or_else(unknown)?;
                Op::Lane4 { f, out, args: [a, b, c, d], n, risk }
            }
            _ => return Err(unknown()),
        });
        Ok(out)
    }
}

fn lanes_math1(fun: MathFunction, s: Scalar) -> Option<lanes::Lane1> {
    super::math::math1(fun, s)
}

fn risk_of(s: Scalar) -> Risk {
    match s {
        Scalar::F32 => Risk::Float,
        Scalar::F16 => Risk::Half,
        _ => Risk::None,
    }
}

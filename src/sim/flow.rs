//! Statements, as operations that keep track of which invocations are where.
//!
//! Flow is structured, so a stack of masks is enough: each construct has a frame that gathers the invocations that left
//! it early, and lets them on where they meet the others again.

use super::compile::{Compiler, Frame, Value};
use super::lanes::Scalar;
use super::program::{Collective, Exchange, Matrix, Op};
use naga::{Block, CollectiveOperation, Expression, GatherMode, Handle, Statement, SwitchCase, SwitchValue, TypeInner};

/// Whether invocations may not come out at the end of a statement.
fn may_leave(statement: &Statement) -> bool {
    match statement {
        Statement::Break | Statement::Continue | Statement::Return { .. } => true,
        Statement::Block(block) => block.iter().any(may_leave),
        Statement::If { accept, reject, .. } => accept.iter().chain(reject.iter()).any(may_leave),
        Statement::Switch { cases, .. } => cases.iter().any(|case| case.body.iter().any(may_leave)),
        Statement::Loop { body, .. } => body.iter().any(may_leave),
        _ => false,
    }
}

impl Compiler<'_> {
    pub(super) fn block(&mut self, frame: &mut Frame<'_>, block: &Block) -> Result<(), String> {
        let mut skips = Vec::new();
        for (i, (statement, span)) in block.span_iter().enumerate() {
            let line = self.line_of(*span);
            if line != 0 {
                frame.line = line;
            }
            let done = self.statement(frame, statement);
            done.map_err(|e| if e.starts_with("line ") { e } else { format!("line {}: {e}", frame.line) })?;
            if i + 1 < block.len() && may_leave(statement) {
                skips.push(frame.here());
                frame.push(Op::Skip { to: 0 });
            }
        }
        for skip in skips {
            frame.ops[skip as usize] = Op::Skip { to: frame.here() };
        }
        Ok(())
    }

    fn statement(&mut self, frame: &mut Frame<'_>, statement: &Statement) -> Result<(), String> {
        match *statement {
            Statement::Emit(ref range) => {
                for handle in range.clone() {
                    let line = self.line_of(frame.function.expressions.get_span(handle));
                    if line != 0 {
                        frame.line = line;
                    }
                    self.emit(frame, handle)?;
                }
            }
            Statement::Block(ref block) => self.block(frame, block)?,
            Statement::If { condition, ref accept, ref reject } => self.branch(frame, condition, accept, reject)?,
            Statement::Switch { selector, ref cases } => self.switch(frame, selector, cases)?,
            Statement::Loop { ref body, ref continuing, break_if } => self.looped(frame, body, continuing, break_if)?,
            Statement::Break => {
                let depth = frame.breaks.last().copied().ok_or("a break outside of a loop")?;
                frame.push(Op::Break { up: frame.depth - depth });
            }
            Statement::Continue => {
                let depth = frame.continues.last().copied().ok_or("a continue outside of a loop")?;
                frame.push(Op::Continue { up: frame.depth - depth });
            }
            Statement::Return { value } => {
                if let (Some(value), Some(out)) = (value, frame.result) {
                    let from = self.reg(frame, value)?;
                    let n = super::types::components(self.resolved, self.type_of(frame, value))?;
                    frame.push(Op::Assign { out, from, n });
                }
                frame.push(Op::Return { up: frame.depth });
            }
            Statement::ControlBarrier(barrier) => self.barrier(frame, barrier)?,
            Statement::Store { pointer, value } => {
                let to = self.pointer(frame, pointer)?;
                let value_reg = self.reg(frame, value)?;
                let inner = self.type_of(frame, value).clone();
                if let TypeInner::Atomic(_) = self.pointee(frame, pointer)? {
                    let scalar = self.scalar_of(frame, value)?;
                    let fun = naga::AtomicFunction::Exchange { compare: None };
                    self.code.uses_atomics |= matches!(to.root, super::program::Root::Buffer(_));
                    frame.push(Op::Atomic {
                        out: None,
                        at: to,
                        fun,
                        value: value_reg,
                        compare: None,
                        scalar,
                        load: false,
                    });
                    return Ok(());
                }
                let shape = self.shape(&inner)?;
                frame.push(Op::Store { to, value: value_reg, shape });
            }
            Statement::Atomic { pointer, fun, value, result } => {
                let at = self.pointer(frame, pointer)?;
                let value_reg = self.reg(frame, value)?;
                let scalar = self.scalar_of(frame, value)?;
                if !matches!(scalar, Scalar::I32 | Scalar::U32) {
                    return Err(format!("atomics on {scalar:?} are not simulated"));
                }
                let compare = match fun {
                    naga::AtomicFunction::Exchange { compare: Some(compare) } => Some(self.reg(frame, compare)?),
                    _ => None,
                };
                let out = match result {
                    Some(result) => {
                        let out = self.alloc(2)?;
                        frame.values[result.index()] = Some(Value::Reg(out));
                        Some(out)
                    }
                    None => None,
                };
                self.code.uses_atomics |= matches!(at.root, super::program::Root::Buffer(_));
                frame.push(Op::Atomic { out, at, fun, value: value_reg, compare, scalar, load: false });
            }
            Statement::WorkGroupUniformLoad { pointer, result } => {
                let from = self.pointer(frame, pointer)?;
                let inner = self.type_of(frame, result).clone();
                let shape = self.shape(&inner)?;
                let out = self.alloc(self.code.shapes[shape as usize].len() as u32)?;
                frame.push(Op::Barrier { workgroup: true, storage: false });
                frame.push(Op::Uniform { from });
                frame.push(Op::Load { out, from, shape });
                frame.push(Op::Barrier { workgroup: true, storage: false });
                frame.values[result.index()] = Some(Value::Reg(out));
            }
            Statement::Call { function, ref arguments, result } => self.call(frame, function, arguments, result)?,
            Statement::SubgroupBallot { result, predicate } => {
                self.code.uses_subgroups = true;
                let predicate = predicate.map(|p| self.reg(frame, p)).transpose()?;
                let out = self.result(frame, result, 4)?;
                frame.push(Op::Ballot { out, predicate });
            }
            Statement::SubgroupCollectiveOperation { op, collective_op, argument, result } => {
                self.code.uses_subgroups = true;
                let (a, scalar) = (self.reg(frame, argument)?, self.scalar_of(frame, argument)?);
                let n = super::types::components(self.resolved, self.type_of(frame, argument))?;
                if super::lanes::subgroup(op, scalar).is_none() {
                    return Err(format!("{op:?} of {scalar:?} over a subgroup is not simulated"));
                }
                let out = self.result(frame, result, n)?;
                let how = match collective_op {
                    CollectiveOperation::Reduce => Collective::Reduce,
                    CollectiveOperation::InclusiveScan => Collective::Inclusive,
                    CollectiveOperation::ExclusiveScan => Collective::Exclusive,
                };
                frame.push(Op::Collect { out, a, n, scalar, op, how });
            }
            Statement::SubgroupGather { mode, argument, result } => {
                self.code.uses_subgroups = true;
                let a = self.reg(frame, argument)?;
                let n = super::types::components(self.resolved, self.type_of(frame, argument))?;
                let how = match mode {
                    GatherMode::BroadcastFirst => Exchange::First,
                    GatherMode::Broadcast(lane) => Exchange::Lane(self.reg(frame, lane)?),
                    GatherMode::Shuffle(lane) => Exchange::Shuffle(self.reg(frame, lane)?),
                    GatherMode::ShuffleDown(by) => Exchange::Down(self.reg(frame, by)?),
                    GatherMode::ShuffleUp(by) => Exchange::Up(self.reg(frame, by)?),
                    GatherMode::ShuffleXor(mask) => Exchange::Xor(self.reg(frame, mask)?),
                    GatherMode::QuadBroadcast(lane) => Exchange::Quad(self.reg(frame, lane)?),
                    GatherMode::QuadSwap(direction) => Exchange::QuadSwap(direction as u32 + 1),
                };
                let out = self.result(frame, result, n)?;
                frame.push(Op::Gather { out, a, n, how });
            }
            Statement::CooperativeStore { target, ref data } => {
                self.code.uses_subgroups = true;
                let TypeInner::CooperativeMatrix { columns, rows, .. } = *self.type_of(frame, target) else {
                    return Err("a cooperative store of what is no cooperative matrix".into());
                };
                let shape = Matrix {
                    rows: rows as u32,
                    columns: columns as u32,
                    row_major: data.row_major,
                    scalar: self.scalar_of(frame, target)?,
                    unit: self.matrix_unit(frame, data.pointer)?,
                };
                let (to, value) = (self.pointer(frame, data.pointer)?, self.reg(frame, target)?);
                let stride = self.reg(frame, data.stride)?;
                frame.push(Op::CoopStore { to, value, stride, shape });
            }
            ref other => {
                let text = format!("{other:?}");
                let name = text.split([' ', '(', '{']).next().unwrap_or_default();
                return Err(format!("{name} is not simulated"));
            }
        }
        Ok(())
    }

    fn result(&mut self, frame: &mut Frame<'_>, result: Handle<Expression>, n: u32) -> Result<u32, String> {
        let out = self.alloc(n)?;
        frame.values[result.index()] = Some(Value::Reg(out));
        Ok(out)
    }

    fn barrier(&mut self, frame: &mut Frame<'_>, barrier: naga::Barrier) -> Result<(), String> {
        if barrier.intersects(naga::Barrier::SUB_GROUP | naga::Barrier::TEXTURE) {
            return Err("subgroupBarrier and textureBarrier are not simulated".into());
        }
        frame.push(Op::Barrier {
            workgroup: barrier.contains(naga::Barrier::WORK_GROUP),
            storage: barrier.contains(naga::Barrier::STORAGE),
        });
        Ok(())
    }

    fn branch(
        &mut self,
        frame: &mut Frame<'_>,
        condition: Handle<Expression>,
        accept: &Block,
        reject: &Block,
    ) -> Result<(), String> {
        let cond = self.reg(frame, condition)?;
        let line = frame.line;
        let start = frame.here();
        frame.push(Op::If { cond, otherwise: 0 });
        frame.depth += 1;
        self.block(frame, accept)?;
        let otherwise = frame.here();
        frame.line = line;
        frame.push(Op::Else { end: 0 });
        self.block(frame, reject)?;
        let end = frame.here();
        frame.line = line;
        frame.push(Op::EndIf);
        frame.depth -= 1;
        frame.ops[start as usize] = Op::If { cond, otherwise };
        frame.ops[otherwise as usize] = Op::Else { end };
        Ok(())
    }

    fn looped(
        &mut self,
        frame: &mut Frame<'_>,
        body: &Block,
        continuing: &Block,
        break_if: Option<Handle<Expression>>,
    ) -> Result<(), String> {
        let line = frame.line;
        frame.push(Op::Loop);
        frame.depth += 1;
        frame.breaks.push(frame.depth);
        frame.continues.push(frame.depth);
        let top = frame.here();
        self.block(frame, body)?;
        let middle = frame.here();
        frame.line = line;
        frame.push(Op::Continuing { end: 0 });
        self.block(frame, continuing)?;
        frame.line = line;
        if let Some(condition) = break_if {
            let cond = self.reg(frame, condition)?;
            frame.push(Op::BreakIf { cond });
        }
        frame.push(Op::Again { to: top });
        let end = frame.here();
        frame.push(Op::EndLoop);
        frame.ops[middle as usize] = Op::Continuing { end };
        frame.breaks.pop();
        frame.continues.pop();
        frame.depth -= 1;
        Ok(())
    }

    fn switch(
        &mut self,
        frame: &mut Frame<'_>,
        selector: Handle<Expression>,
        cases: &[SwitchCase],
    ) -> Result<(), String> {
        let selector = self.reg(frame, selector)?;
        let line = frame.line;
        let value = |case: &SwitchCase| match case.value {
            SwitchValue::I32(x) => Some(x as u32),
            SwitchValue::U32(x) => Some(x),
            SwitchValue::Default => None,
        };
        let all =
            (self.code.cases.len() as u32, (self.code.cases.len() + cases.iter().filter_map(value).count()) as u32);
        self.code.cases.extend(cases.iter().filter_map(value));
        frame.push(Op::Switch);
        frame.depth += 1;
        frame.breaks.push(frame.depth);
        let mut values = Vec::new();
        let mut default = false;
        for case in cases {
            values.extend(value(case));
            default |= case.value == SwitchValue::Default;
            if case.fall_through {
                if !case.body.is_empty() {
                    return Err("a case that falls through is not simulated".into());
                }
                continue;
            }
            let first = self.code.cases.len() as u32;
            self.code.cases.append(&mut values);
            let range = (first, self.code.cases.len() as u32);
            let default = std::mem::take(&mut default).then_some(all);
            let start = frame.here();
            frame.line = line;
            frame.push(Op::Case { selector, values: range, default, next: 0 });
            self.block(frame, &case.body)?;
            frame.push(Op::EndCase);
            let next = frame.here();
            frame.ops[start as usize] = Op::Case { selector, values: range, default, next };
        }
        frame.line = line;
        frame.push(Op::EndSwitch);
        frame.breaks.pop();
        frame.depth -= 1;
        Ok(())
    }

    fn call(
        &mut self,
        frame: &mut Frame<'_>,
        function: Handle<naga::Function>,
        arguments: &[Handle<Expression>],
        result: Option<Handle<Expression>>,
    ) -> Result<(), String> {
        let mut values = Vec::new();
        for argument in arguments {
            values.push(self.value(frame, *argument)?);
        }
        let pointers = values.iter().map(|v| if let Value::Pointer(p) = v { Some(*p) } else { None }).collect();
        let callee = self.callee(function, pointers)?;
        for ((value, out), argument) in values.iter().zip(&callee.args).zip(arguments) {
            if let (Value::Reg(from), Some(out)) = (value, out) {
                let n = super::types::components(self.resolved, self.type_of(frame, *argument))?;
                frame.push(Op::Copy { out: *out, from: *from, n });
            }
        }
        frame.push(Op::Call { function: callee.number });
        if let (Some(result), Some(from)) = (result, callee.result) {
            let n = super::types::components(self.resolved, self.type_of(frame, result))?;
            let out = self.result(frame, result, n)?;
            frame.push(Op::Copy { out, from, n });
        }
        Ok(())
    }
}

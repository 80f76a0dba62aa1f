//! From naga's IR to the simulator's code: variables, constants and functions.

use super::consts::Resolved;
use super::lanes::Scalar;
use super::program::{CONST, Code, Function, Op, OpenArray, Pointer, Reg, Root, Told, Variable};
use super::types::{array_len, components, has_half, only_scalar, scalar};
use super::{Access, BindingInfo, Layout, Source};
use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{AddressSpace, Binding, BuiltIn, Expression, Handle, Module, StorageAccess, Type, TypeInner};
use std::collections::HashMap;
use std::sync::atomic::AtomicU8;

/// What an expression is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Reg(Reg),
    Pointer(Pointer),
}

/// Workgroup memory that is simulated, in bytes: more than any adapter has.
const MAX_WORKGROUP_BYTES: u64 = 1 << 20;

/// Most operations of a program: their numbers fit the marks that accesses leave.
const MAX_OPS: usize = 1 << 20;

type Instance = (Handle<naga::Function>, Vec<Option<Pointer>>);

/// The state of a translation.
pub(super) struct Compiler<'a> {
    pub(super) module: &'a Module,
    pub(super) resolved: &'a Resolved,
    pub(super) info: &'a ModuleInfo,
    pub(super) code: Code,
    line_starts: Vec<u32>,
    constants: HashMap<Vec<u32>, Reg>,
    instances: HashMap<Instance, Callee>,
    pub(super) globals: HashMap<Handle<naga::GlobalVariable>, Root>,
    lines: Vec<Vec<u32>>,
}

/// A function instance as its callers see it.
#[derive(Debug, Clone)]
pub(super) struct Callee {
    pub(super) number: u32,
    pub(super) args: Vec<Option<Reg>>,
    pub(super) result: Option<Reg>,
}

/// One function instance being translated.
pub(super) struct Frame<'f> {
    pub(super) function: &'f naga::Function,
    pub(super) info: &'f FunctionInfo,
    pub(super) values: Vec<Option<Value>>,
    pub(super) args: Vec<Value>,
    pub(super) locals: HashMap<Handle<naga::LocalVariable>, Root>,
    pub(super) result: Option<Reg>,
    pub(super) ops: Vec<Op>,
    pub(super) lines: Vec<u32>,
    pub(super) line: u32,
    /// Before the first statement.
    pub(super) starting: bool,
    /// Control frames open at this point, within the function.
    pub(super) depth: u32,
    /// Depth of the constructs that `break` and `continue` leave.
    pub(super) breaks: Vec<u32>,
    pub(super) continues: Vec<u32>,
    pub(super) stored: std::collections::HashSet<Handle<Expression>>,
}

/// Translates the one entry point of `module`, which is valid and has no overrides.
pub(super) fn compile(resolved: Resolved, info: &ModuleInfo, source: Source) -> Result<Code, String> {
    let module = &resolved.module;
    let entry = module.entry_points.first().ok_or("no entry point")?.clone();
    let starts = [0].into_iter().chain(source.text().match_indices('\n').map(|(i, _)| i as u32 + 1));
    let mut compiler = Compiler {
        module,
        resolved: &resolved,
        info,
        line_starts: starts.collect(),
        constants: HashMap::new(),
        instances: HashMap::new(),
        globals: HashMap::new(),
        lines: Vec::new(),
        code: Code {
            functions: Vec::new(),
            entry: 0,
            lines: Vec::new(),
            seen: Vec::new(),
            n_registers: 0,
            constants: Vec::new(),
            wholes: Vec::new(),
            shapes: Vec::new(),
            cases: Vec::new(),
            names: Vec::new(),
            open_arrays: Vec::new(),
            told: Vec::new(),
            workgroup_size: entry.workgroup_size,
            n_workgroup: 0,
            workgroup: Vec::new(),
            own: Vec::new(),
            bindings: Vec::new(),
            slots: Vec::new(),
            halves: Vec::new(),
            immediates: None,
            immediate_layout: Layout::default(),
            uses_subgroups: false,
            uses_atomics: false,
            resolved: None,
            source,
        },
    };
    compiler.globals()?;
    compiler.entry(&entry)?;
    let (mut code, lines) = (compiler.code, compiler.lines);
    let mut first = 0;
    for (function, lines) in code.functions.iter_mut().zip(&lines) {
        function.first = first;
        first += function.ops.len() as u32;
        code.lines.extend_from_slice(lines);
    }
    if code.lines.len() >= MAX_OPS {
        return Err(format!("{} operations, {MAX_OPS} at most", code.lines.len()));
    }
    code.seen = std::iter::repeat_with(|| AtomicU8::new(0)).take(code.lines.len()).collect();
    code.resolved = Some(resolved);
    Ok(code)
}

impl<'a> Compiler<'a> {
    pub(super) fn inner(&self, ty: Handle<Type>) -> &'a TypeInner {
        &self.module.types[ty].inner
    }

    /// `n` new registers.
    pub(super) fn alloc(&mut self, n: u32) -> Result<Reg, String> {
        let first = self.code.n_registers;
        self.code.n_registers = first.checked_add(n).filter(|sum| *sum < 1 << 22).ok_or("too many registers")?;
        Ok(first)
    }

    /// Registers that always hold `words`.
    pub(super) fn constant(&mut self, words: Vec<u32>) -> Reg {
        let constants = &mut self.code.constants;
        *self.constants.entry(words).or_insert_with_key(|words| {
            let first = constants.len() as u32 | CONST;
            constants.extend_from_slice(words);
            first
        })
    }

    /// The line of a span, from 1; 0 for none.
    pub(super) fn line_of(&self, span: naga::Span) -> u32 {
        span.to_range().map_or(0, |range| self.line_starts.partition_point(|start| *start <= range.start as u32) as u32)
    }

    fn globals(&mut self) -> Result<(), String> {
        let mut bound = Vec::new();
        let mut immediates = None;
        for (handle, variable) in self.module.global_variables.iter() {
            let name = variable.name.clone().unwrap_or_default();
            let inner = self.inner(variable.ty);
            match variable.space {
                AddressSpace::Storage { .. } | AddressSpace::Uniform => {
                    let binding = variable.binding.ok_or_else(|| format!("{name} has no binding"))?;
                    bound.push((binding.group, binding.binding, handle));
                }
                AddressSpace::Immediate => immediates = Some(handle),
                AddressSpace::WorkGroup => {
                    let n = components(self.resolved, inner).map_err(|e| format!("{name}: {e}"))?;
                    let first = self.code.n_workgroup;
                    self.code.workgroup.push(Variable { name, ty: variable.ty, first, len: n });
                    self.globals.insert(handle, Root::Workgroup(self.code.workgroup.len() as u32 - 1));
                    let sum = u64::from(first) + u64::from(n);
                    if 4 * sum > MAX_WORKGROUP_BYTES {
                        let bytes = 4 * sum;
                        return Err(format!("{bytes} bytes of workgroup memory, {MAX_WORKGROUP_BYTES} at most"));
                    }
                    self.code.n_workgroup = sum as u32;
                }
                AddressSpace::Private => {
                    let root = self.own(&name, variable.ty, variable.init.is_none())?;
                    self.globals.insert(handle, root);
                }
                ref space => return Err(format!("{name}: variables in {space:?} are not simulated")),
            }
        }
        bound.sort_by_key(|(group, binding, _)| (*group, *binding));
        for (group, binding, handle) in bound {
            self.slot(handle, Some((group, binding)))?;
        }
        if let Some(handle) = immediates {
            self.slot(handle, None)?;
        }
        Ok(())
    }

    fn slot(&mut self, handle: Handle<naga::GlobalVariable>, binding: Option<(u32, u32)>) -> Result<(), String> {
        let variable = &self.module.global_variables[handle];
        let name = variable.name.clone().unwrap_or_default();
        let inner = self.inner(variable.ty);
        let bytes = inner.size(self.module.to_ctx());
        let slot = self.code.slots.len() as u32;
        self.globals.insert(handle, Root::Buffer(slot));
        self.code.slots.push(variable.ty);
        self.code.halves.push(has_half(self.resolved, inner));
        // What is too large to be told number by number can be bound all the same.
        let layout = Layout::of(self.resolved, variable.ty).unwrap_or_default();
        let Some((group, binding)) = binding else {
            self.code.immediates = Some((name, bytes));
            self.code.immediate_layout = layout;
            return Ok(());
        };
        let access = match variable.space {
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
            AddressSpace::Storage { .. } => Access::Read,
            _ => Access::Uniform,
        };
        let open = match inner {
            TypeInner::Array { size, stride, .. } => array_len(self.resolved, *size)?.is_none().then_some(*stride),
            TypeInner::Struct { members, .. } => match members.last().map(|m| self.inner(m.ty)) {
                Some(TypeInner::Array { size, stride, .. }) => {
                    array_len(self.resolved, *size)?.is_none().then_some(*stride)
                }
                _ => None,
            },
            _ => None,
        };
        let name_of = |s: naga::Scalar| match scalar(s) {
            Ok(Scalar::F32) => Some("f32"),
            Ok(Scalar::F16) => Some("f16"),
            Ok(Scalar::U32) => Some("u32"),
            Ok(Scalar::I32) => Some("i32"),
            _ => None,
        };
        let scalar = only_scalar(self.resolved, inner).and_then(name_of);
        self.code.bindings.push(BindingInfo {
            name,
            group,
            binding,
            access,
            min_bytes: u64::from(bytes),
            stride: open,
            scalar,
            layout,
            line: self.line_of(self.module.global_variables.get_span(handle)),
        });
        Ok(())
    }

    /// Registers of a variable of an invocation's own, and where nothing is in it at first, those that say what was written.
    pub(super) fn own(&mut self, name: &str, ty: Handle<Type>, watched: bool) -> Result<Root, String> {
        let n = components(self.resolved, self.inner(ty)).map_err(|e| format!("{name}: {e}"))?;
        let first = self.alloc(n)?;
        let written = if watched { Some(self.alloc(n)?) } else { None };
        self.code.own.push(Variable { name: name.into(), ty, first, len: n });
        Ok(Root::Own { first, written, variable: self.code.own.len() as u32 - 1 })
    }

    /// Number of an open array at byte `before` of a slot.
    pub(super) fn open_array(&mut self, slot: u32, before: u32, stride: u32) -> u32 {
        let array = OpenArray { slot, before, stride };
        let arrays = &mut self.code.open_arrays;
        arrays.iter().position(|a| *a == array).unwrap_or_else(|| {
            arrays.push(array);
            arrays.len() - 1
        }) as u32
    }

    fn entry(&mut self, entry: &naga::EntryPoint) -> Result<(), String> {
        let info = self.info.get_entry_point(0);
        let mut args = Vec::new();
        for argument in &entry.function.arguments {
            let n = components(self.resolved, self.inner(argument.ty))?;
            let first = self.alloc(n)?;
            args.push(Value::Reg(first));
            match (&argument.binding, self.inner(argument.ty)) {
                (Some(Binding::BuiltIn(builtin)), _) => self.tell(*builtin, first)?,
                (None, TypeInner::Struct { members, .. }) => {
                    let mut at = first;
                    for member in members {
                        let Some(Binding::BuiltIn(builtin)) = member.binding else {
                            return Err("an argument without a built-in value".into());
                        };
                        self.tell(builtin, at)?;
                        at += components(self.resolved, self.inner(member.ty))?;
                    }
                }
                _ => return Err("an argument without a built-in value".into()),
            }
        }
        let number = self.function(&entry.function, info, args, true)?.number;
        self.code.entry = number;
        Ok(())
    }

    fn tell(&mut self, builtin: BuiltIn, to: Reg) -> Result<(), String> {
        let told = match builtin {
            BuiltIn::GlobalInvocationId => Told::GlobalId,
            BuiltIn::LocalInvocationId => Told::LocalId,
            BuiltIn::LocalInvocationIndex => Told::LocalIndex,
            BuiltIn::WorkGroupId => Told::GroupId,
            BuiltIn::WorkGroupSize => Told::GroupSize,
            BuiltIn::NumWorkGroups => Told::NumGroups,
            BuiltIn::NumSubgroups => Told::NumSubgroups,
            BuiltIn::SubgroupId => Told::SubgroupId,
            BuiltIn::SubgroupSize => Told::SubgroupSize,
            BuiltIn::SubgroupInvocationId => Told::SubgroupLane,
            other => return Err(format!("built-in {other:?} is not simulated")),
        };
        self.code.uses_subgroups |=
            matches!(told, Told::NumSubgroups | Told::SubgroupId | Told::SubgroupSize | Told::SubgroupLane);
        self.code.told.push((told, to));
        Ok(())
    }

    /// The instance of a function for these pointers, translated if it is new.
    pub(super) fn callee(
        &mut self,
        handle: Handle<naga::Function>,
        pointers: Vec<Option<Pointer>>,
    ) -> Result<Callee, String> {
        let key = (handle, pointers);
        if let Some(callee) = self.instances.get(&key) {
            return Ok(callee.clone());
        }
        let function = &self.module.functions[handle];
        let mut args = Vec::new();
        for (argument, pointer) in function.arguments.iter().zip(&key.1) {
            args.push(match pointer {
                Some(pointer) => Value::Pointer(*pointer),
                None => {
                    let n = components(self.resolved, self.inner(argument.ty))?;
                    Value::Reg(self.alloc(n)?)
                }
            });
        }
        let callee = self.function(function, &self.info[handle], args, false)?;
        self.instances.insert(key, callee.clone());
        Ok(callee)
    }

    fn function(
        &mut self,
        function: &naga::Function,
        info: &FunctionInfo,
        args: Vec<Value>,
        is_entry: bool,
    ) -> Result<Callee, String> {
        let result = match &function.result {
            Some(result) => {
                let n = components(self.resolved, self.inner(result.ty))?;
                Some(self.alloc(n)?)
            }
            None => None,
        };
        let mut frame = Frame {
            function,
            info,
            values: vec![None; function.expressions.len()],
            args: args.clone(),
            locals: HashMap::new(),
            result,
            ops: Vec::new(),
            lines: Vec::new(),
            line: 0,
            starting: true,
            depth: 0,
            breaks: Vec::new(),
            continues: Vec::new(),
            stored: super::pointer::stored_pointers(function),
        };
        if is_entry {
            self.start_private(&mut frame)?;
        }
        self.start_locals(&mut frame)?;
        frame.starting = false;
        self.block(&mut frame, &function.body)?;
        frame.push(Op::EndFunction);
        // The numbers of functions called are below that of their caller.
        let number = self.code.functions.len() as u32;
        self.code.functions.push(Function { ops: frame.ops, first: 0 });
        self.lines.push(frame.lines);
        let args = args.iter().map(|arg| if let Value::Reg(reg) = arg { Some(*reg) } else { None }).collect();
        Ok(Callee { number, args, result })
    }

    fn start_private(&mut self, frame: &mut Frame<'_>) -> Result<(), String> {
        for (handle, variable) in self.module.global_variables.iter() {
            if variable.space != AddressSpace::Private {
                continue;
            }
            let words = match variable.init {
                None => None,
                Some(init) => Some(
                    self.resolved
                        .words(&self.module.global_expressions, init)
                        .ok_or("the first value of a private variable is not simulated")?,
                ),
            };
            let root = self.globals[&handle];
            self.start(frame, root, variable.ty, words)?;
        }
        Ok(())
    }

    fn start_locals(&mut self, frame: &mut Frame<'_>) -> Result<(), String> {
        for (handle, variable) in frame.function.local_variables.iter() {
            frame.line = self.line_of(frame.function.local_variables.get_span(handle));
            let name = variable.name.as_deref().unwrap_or("a variable");
            let root = self.own(name, variable.ty, variable.init.is_none())?;
            frame.locals.insert(handle, root);
            if let (Some(init), Root::Own { first, .. }) = (variable.init, root) {
                let from = self.reg(frame, init)?;
                let n = components(self.resolved, self.inner(variable.ty))?;
                frame.push(Op::Copy { out: first, from, n });
            } else {
                self.start(frame, root, variable.ty, None)?;
            }
        }
        Ok(())
    }

    /// Sets a variable to its first value, or to zeros that nothing wrote.
    fn start(
        &mut self,
        frame: &mut Frame<'_>,
        root: Root,
        ty: Handle<Type>,
        words: Option<Vec<u32>>,
    ) -> Result<(), String> {
        let Root::Own { first, written, .. } = root else { return Ok(()) };
        let n = components(self.resolved, self.inner(ty))?;
        let zero = self.constant(vec![0]);
        match words {
            Some(words) => {
                let from = self.constant(words);
                frame.push(Op::Copy { out: first, from, n });
            }
            None => frame.push(Op::Spread { out: first, from: zero, n }),
        }
        if let Some(written) = written {
            frame.push(Op::Spread { out: written, from: zero, n });
        }
        Ok(())
    }
}

impl Frame<'_> {
    pub(super) fn push(&mut self, op: Op) {
        self.ops.push(op);
        self.lines.push(self.line);
    }

    /// Number of the next operation.
    pub(super) fn here(&self) -> u32 {
        self.ops.len() as u32
    }
}

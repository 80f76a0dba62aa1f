//! Constants and override constants of a module, worked out before it is translated.

use super::lanes::{self, Lane1, Lane2, Scalar};
use super::math;
use naga::valid::ModuleInfo;
use naga::{Arena, Expression, Handle, Literal, Module, Override, TypeInner};
use std::collections::HashMap;

/// A module whose override constants have values.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) module: Module,
    /// The word of each override constant.
    overrides: HashMap<Handle<Override>, u32>,
}

impl Resolved {
    /// Gives the override constants their values: those in `given` by name or id, else their own.
    pub(super) fn new(mut module: Module, info: &ModuleInfo, given: &[(&str, f64)]) -> Result<Self, String> {
        let workgroup = module.entry_points.first().and_then(|entry| entry.workgroup_size_overrides);
        let mut overrides = HashMap::new();
        // Each refers to earlier ones only.
        for (handle, constant) in module.overrides.iter() {
            let name = constant.name.clone().or_else(|| constant.id.map(|id| id.to_string())).unwrap_or_default();
            let kind = module.types[constant.ty].inner.scalar().and_then(Scalar::of);
            let kind = kind.ok_or_else(|| format!("override {name}: its type is not simulated"))?;
            let value = given.iter().find(|(given, _)| {
                constant.name.as_deref() == Some(*given) || constant.id.is_some_and(|id| id.to_string() == *given)
            });
            let word = match (value, constant.init) {
                (Some((_, value)), _) => {
                    word_of(*value, kind).ok_or_else(|| format!("{name} = {value} is no {kind:?}"))?
                }
                (None, Some(init)) => Folder { module: &module, info, overrides: &overrides }
                    .words(init)
                    .and_then(|words| words.first().copied())
                    .ok_or_else(|| format!("the value of override {name} is not simulated"))?,
                (None, None) => return Err(format!("override {name} has no value")),
            };
            overrides.insert(handle, word);
        }
        if let Some(sizes) = workgroup {
            let folder = Folder { module: &module, info, overrides: &overrides };
            let mut resolved = [None; 3];
            for (to, handle) in resolved.iter_mut().zip(sizes) {
                *to = match handle {
                    Some(handle) => Some(
                        *folder
                            .words(handle)
                            .and_then(|w| w.first().copied())
                            .as_ref()
                            .ok_or("a workgroup size of no value")?,
                    ),
                    None => None,
                };
            }
            if let Some(entry) = module.entry_points.first_mut() {
                for (size, word) in entry.workgroup_size.iter_mut().zip(resolved) {
                    *size = word.unwrap_or(*size);
                }
            }
        }
        Ok(Self { module, overrides })
    }

    /// The value of an override constant.
    pub(super) fn value(&self, handle: Handle<Override>) -> u32 {
        self.overrides.get(&handle).copied().unwrap_or(0)
    }

    /// The words of an expression that needs no evaluation, or nothing if it does.
    pub(super) fn words(&self, arena: &Arena<Expression>, handle: Handle<Expression>) -> Option<Vec<u32>> {
        match arena[handle] {
            Expression::Literal(literal) => literal_word(literal).map(|word| vec![word]),
            Expression::Override(handle) => Some(vec![self.value(handle)]),
            Expression::Constant(constant) => {
                self.words(&self.module.global_expressions, self.module.constants[constant].init)
            }
            Expression::ZeroValue(ty) => {
                let n = super::types::components(self, &self.module.types[ty].inner).ok()?;
                Some(vec![0; n as usize])
            }
            Expression::Compose { ref components, .. } => {
                let mut words = Vec::new();
                for component in components {
                    words.extend(self.words(arena, *component)?);
                }
                Some(words)
            }
            Expression::Splat { size, value } => {
                let word = *self.words(arena, value)?.first()?;
                Some(vec![word; size as usize])
            }
            _ => None,
        }
    }
}

/// Works out scalar expressions of the module, as sizes are.
struct Folder<'a> {
    module: &'a Module,
    info: &'a ModuleInfo,
    overrides: &'a HashMap<Handle<Override>, u32>,
}

impl Folder<'_> {
    fn kind(&self, handle: Handle<Expression>) -> Option<Scalar> {
        match self.info[handle].inner_with(&self.module.types) {
            TypeInner::Scalar(scalar) => Scalar::of(*scalar),
            _ => None,
        }
    }

    fn word(&self, handle: Handle<Expression>) -> Option<u32> {
        self.words(handle)?.first().copied()
    }

    fn words(&self, handle: Handle<Expression>) -> Option<Vec<u32>> {
        let one = |f: Lane1, a: u32| {
            let mut out = [0];
            f(&mut out, &[a]);
            out[0]
        };
        let two = |f: Lane2, a: u32, b: u32| {
            let mut out = [0];
            f(&mut out, &[a], &[b]);
            out[0]
        };
        let word = match self.module.global_expressions[handle] {
            Expression::Literal(literal) => literal_word(literal)?,
            Expression::Constant(constant) => return self.words(self.module.constants[constant].init),
            Expression::Override(handle) => *self.overrides.get(&handle)?,
            Expression::ZeroValue(_) => 0,
            Expression::Unary { op, expr } => one(lanes::unary(op, self.kind(expr)?)?, self.word(expr)?),
            Expression::Binary { op, left, right } => {
                two(lanes::binary(op, self.kind(left)?)?, self.word(left)?, self.word(right)?)
            }
            Expression::Select { condition, accept, reject } => {
                self.word(if self.word(condition)? != 0 { accept } else { reject })?
            }
            Expression::As { expr, convert: Some(_), .. } => {
                one(lanes::convert(self.kind(expr)?, self.kind(handle)?), self.word(expr)?)
            }
            Expression::Math { fun, arg, arg1: None, .. } => one(math::math1(fun, self.kind(arg)?)?, self.word(arg)?),
            Expression::Math { fun, arg, arg1: Some(arg1), arg2: None, .. } => {
                two(math::math2(fun, self.kind(arg)?)?, self.word(arg)?, self.word(arg1)?)
            }
            _ => return None,
        };
        Some(vec![word])
    }
}

/// A number as a scalar holds it, if it can.
fn word_of(value: f64, kind: Scalar) -> Option<u32> {
    match kind {
        Scalar::Bool => Some(u32::from(value != 0.0)),
        Scalar::U32 => (value.fract() == 0.0 && (0.0..4_294_967_296.0).contains(&value)).then_some(value as u32),
        Scalar::I32 => (value.fract() == 0.0 && (-2_147_483_648.0..2_147_483_648.0).contains(&value))
            .then_some(value as i32 as u32),
        Scalar::F32 => Some((value as f32).to_bits()),
        Scalar::F16 => Some(lanes::round_f16(value as f32).to_bits()),
    }
}

/// A literal as a register holds it.
fn literal_word(literal: Literal) -> Option<u32> {
    Some(match literal {
        Literal::F32(x) => x.to_bits(),
        Literal::F16(x) => f32::from(x).to_bits(),
        Literal::U32(x) => x,
        Literal::I32(x) => x as u32,
        Literal::Bool(x) => u32::from(x),
        Literal::AbstractInt(x) => x as u32,
        Literal::AbstractFloat(x) => (x as f32).to_bits(),
        _ => return None,
    })
}

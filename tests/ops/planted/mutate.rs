//! Statements taken out of a kernel's module, one at a time.

use leanvision::DType;
use leanvision::runtime::Kernel;
use leanvision::sim::{Place, Program, Source};
use naga::{AddressSpace, Arena, Block, Expression, Function, Handle, Module, Span, Statement};
use std::collections::HashSet;

/// What is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A barrier.
    Barrier,
    /// `if .. { return; }`, as a whole.
    Return,
    /// The condition of `if .. { .. }` around a store to a buffer.
    Condition,
    /// A store to workgroup memory.
    SharedStore,
}

/// A statement that can be taken out, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    pub kind: Kind,
    pub place: Place,
    /// The line in the whole text.
    pub line: u32,
    /// Its number among those of its kind, counted through the functions and then the entry point.
    pub number: usize,
}

/// A kernel with its element types, as text and as a module.
pub struct Subject {
    kernel: Kernel,
    source: Source,
    module: Module,
}

impl Subject {
    pub fn new(kernel: &Kernel, types: &[DType], uniform: bool) -> Self {
        let parts = kernel.parts(types, uniform).into_iter();
        let source = parts.fold(Source::default(), |source, (name, text)| source.with(name, text));
        let module = kernel.module(types, uniform).unwrap();
        Self { kernel: *kernel, source, module }
    }

    /// With the first `from` of each edit behind `after` in its text replaced by `to`; nothing where one is missing.
    pub fn edited(
        kernel: &Kernel,
        types: &[DType],
        uniform: bool,
        after: &str,
        edits: &[(&str, &str)],
    ) -> Option<Self> {
        let subject = Self::new(kernel, types, uniform);
        let text = subject.source.text();
        let at = text.find(after)?;
        let (front, back) = text.split_at(at);
        let mut back = back.to_owned();
        for (from, to) in edits {
            if !back.contains(from) {
                return None;
            }
            back = back.replacen(from, to, 1);
        }
        let text = format!("{front}{back}");
        let mut module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        module.entry_points.retain(|e| e.name == kernel.entry);
        naga::compact::compact(&mut module, naga::compact::KeepUnused::No);
        Some(Self { kernel: *kernel, source: Source::new(kernel.label(), text), module })
    }

    /// Every site of a kind.
    pub fn sites(&self, kind: Kind) -> Vec<Site> {
        let mut sites = Vec::new();
        let mut module = self.module.clone();
        visit(&mut module, kind, &mut |_, span| {
            let line = span.location(self.source.text()).line_number;
            sites.push(Site { kind, place: self.source.place(line), line, number: sites.len() });
            None
        });
        sites
    }

    /// The text of a site's line.
    pub fn line(&self, site: &Site) -> &str {
        self.source.line(site.line)
    }

    /// The program without a site, or as it is.
    pub fn program(&self, overrides: &[(&str, u32)], without: Option<&Site>) -> Program {
        let mut module = self.module.clone();
        if let Some(site) = without {
            let mut number = 0;
            visit(&mut module, site.kind, &mut |statement, _| {
                number += 1;
                (number == site.number + 1).then(|| match statement {
                    Statement::If { accept, .. } if site.kind == Kind::Condition => accept.clone(),
                    _ => Block::new(),
                })
            });
            assert!(number > site.number, "{site:?}");
        }
        let known = |name: &str| self.module.overrides.iter().any(|(_, o)| o.name.as_deref() == Some(name));
        let constants: Vec<(&str, f64)> =
            overrides.iter().filter(|(name, _)| known(name)).map(|(name, value)| (*name, f64::from(*value))).collect();
        let label = self.kernel.label();
        Program::from_module(label, module, self.source.clone(), self.kernel.entry, &constants)
            .unwrap_or_else(|error| panic!("{without:?}: {error}"))
    }
}

/// Globals and functions of a module, to tell stores apart.
struct Names {
    storage: HashSet<Handle<naga::GlobalVariable>>,
    shared: HashSet<Handle<naga::GlobalVariable>>,
    /// Functions that store to a buffer, themselves or through others.
    storing: HashSet<Handle<Function>>,
}

impl Names {
    fn new(module: &Module) -> Self {
        let of = |wanted: fn(AddressSpace) -> bool| {
            module.global_variables.iter().filter(|(_, v)| wanted(v.space)).map(|(handle, _)| handle).collect()
        };
        let mut names = Self {
            storage: of(|space| matches!(space, AddressSpace::Storage { .. })),
            shared: of(|space| space == AddressSpace::WorkGroup),
            storing: HashSet::new(),
        };
        // Callees come first.
        for (handle, function) in module.functions.iter() {
            if names.stores(&function.body, &function.expressions) {
                names.storing.insert(handle);
            }
        }
        names
    }

    /// Whether a block stores to a buffer.
    fn stores(&self, block: &Block, expressions: &Arena<Expression>) -> bool {
        block.iter().any(|statement| match statement {
            Statement::Store { pointer, .. } => {
                root(expressions, *pointer).is_some_and(|global| self.storage.contains(&global))
            }
            Statement::Call { function, .. } => self.storing.contains(function),
            _ => blocks(statement).into_iter().any(|block| self.stores(block, expressions)),
        })
    }

    fn is(&self, kind: Kind, statement: &Statement, expressions: &Arena<Expression>) -> bool {
        match (kind, statement) {
            (Kind::Barrier, Statement::ControlBarrier(_)) => true,
            (Kind::Return, Statement::If { accept, reject, .. }) => {
                reject.is_empty() && matches!(accept[..], [Statement::Return { value: None }])
            }
            (Kind::Condition, Statement::If { condition, accept, reject }) => {
                let leaves = matches!(
                    accept.last(),
                    Some(Statement::Return { .. } | Statement::Break | Statement::Continue | Statement::Kill)
                );
                reject.is_empty() && !leaves && !fixed(expressions, *condition) && self.stores(accept, expressions)
            }
            (Kind::SharedStore, Statement::Store { pointer, .. }) => {
                root(expressions, *pointer).is_some_and(|global| self.shared.contains(&global))
            }
            _ => false,
        }
    }
}

/// The variable of the module that a pointer leads into.
fn root(expressions: &Arena<Expression>, pointer: Handle<Expression>) -> Option<Handle<naga::GlobalVariable>> {
    match expressions[pointer] {
        Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => root(expressions, base),
        Expression::GlobalVariable(global) => Some(global),
        _ => None,
    }
}

/// Whether a value is one of the override constants, so that it chooses a variant.
fn fixed(expressions: &Arena<Expression>, value: Handle<Expression>) -> bool {
    match expressions[value] {
        Expression::Literal(_) | Expression::Constant(_) | Expression::Override(_) => true,
        Expression::Unary { expr, .. } => fixed(expressions, expr),
        Expression::Binary { left, right, .. } => fixed(expressions, left) && fixed(expressions, right),
        _ => false,
    }
}

fn blocks(statement: &Statement) -> Vec<&Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter().map(|case| &case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    }
}

fn blocks_mut(statement: &mut Statement) -> Vec<&mut Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter_mut().map(|case| &mut case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    }
}

type Visitor<'a> = dyn FnMut(&Statement, Span) -> Option<Block> + 'a;

/// Shows every statement of a kind to `see`, which may answer with what takes its place.
fn visit(module: &mut Module, kind: Kind, see: &mut Visitor<'_>) {
    let names = Names::new(module);
    for (_, function) in module.functions.iter_mut() {
        walk(&mut function.body, &function.expressions, &names, kind, see);
    }
    for entry in &mut module.entry_points {
        walk(&mut entry.function.body, &entry.function.expressions, &names, kind, see);
    }
}

fn walk(block: &mut Block, expressions: &Arena<Expression>, names: &Names, kind: Kind, see: &mut Visitor<'_>) {
    let mut i = 0;
    while i < block.len() {
        let found = block.span_iter().nth(i).filter(|(statement, _)| names.is(kind, statement, expressions));
        if let Some(replacement) = found.and_then(|(statement, span)| see(statement, *span)) {
            let n = replacement.len();
            block.splice(i..=i, replacement);
            i += n;
            continue;
        }
        for inner in blocks_mut(&mut block[i]) {
            walk(inner, expressions, names, kind, see);
        }
        i += 1;
    }
}

//! Modules that no driver has seen, though they compute what they did.

use naga::{BinaryOperator, Binding, Block, BuiltIn, Expression, Literal, Module, Range, Span, Statement};

/// Makes each entry point leave at once in a workgroup that no grid has and `salt` decides: other text to a compiler and
/// to its caches, for the price of one comparison. Entry points that do not ask for their workgroup stay as they are.
pub(super) fn salt(module: &mut Module, salt: u32) {
    for entry in &mut module.entry_points {
        let function = &mut entry.function;
        let group = function
            .arguments
            .iter()
            .position(|argument| argument.binding == Some(Binding::BuiltIn(BuiltIn::WorkGroupId)));
        let Some(group) = group else { continue };
        let mut add = |expression| function.expressions.append(expression, Span::UNDEFINED);
        let base = add(Expression::FunctionArgument(group as u32));
        // Grids have at most 65,535 workgroups along an axis.
        let never = add(Expression::Literal(Literal::U32(salt | 1 << 31)));
        let left = add(Expression::AccessIndex { base, index: 0 });
        let condition = add(Expression::Binary { op: BinaryOperator::Equal, left, right: never });
        let leave = Block::from_vec(vec![Statement::Return { value: None }]);
        let head = Block::from_vec(vec![
            Statement::Emit(Range::new_from_bounds(left, condition)),
            Statement::If { condition, accept: leave, reject: Block::new() },
        ]);
        function.body.splice(0..0, head);
    }
}

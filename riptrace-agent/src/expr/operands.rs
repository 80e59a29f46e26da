//! Which names an expression speaks of.

use std::sync::Arc;

use super::ast::{Expr, ExprKind};

/// Every name in an expression that may be a variable's or a package's.
#[must_use]
pub fn names_in(expr: &Expr) -> Vec<Arc<str>> {
    let mut out = Vec::new();
    add(expr, &mut out);
    out.sort();
    out.dedup();
    out
}

fn add(expr: &Expr, out: &mut Vec<Arc<str>>) {
    match &expr.kind {
        ExprKind::Name(name) => out.push(Arc::clone(name)),
        ExprKind::Integer(_) | ExprKind::Float(_) | ExprKind::Text(_) => {}
        ExprKind::Field(inner, ..)
        | ExprKind::Dereference(inner)
        | ExprKind::Assert(inner, ..)
        | ExprKind::Unary(_, inner) => add(inner, out),
        ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => {
            add(left, out);
            add(right, out);
        }
        ExprKind::Call(function, arguments) => {
            add(function, out);
            for argument in arguments {
                add(argument, out);
            }
        }
    }
}

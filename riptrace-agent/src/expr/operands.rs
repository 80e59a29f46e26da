//! Which parts of variables an expression is computed from.

use std::sync::Arc;

use super::{
    ast::{Expr, ExprKind, Span},
    constant::Constant,
    typed::{Typed, TypedKind},
};
use crate::plan::path::{PathExpression, PathStep};

/// Every name in an expression that may be a variable's or a package's.
#[must_use]
pub fn names_in(expr: &Expr) -> Vec<Arc<str>> {
    let mut out = Vec::new();
    add(expr, &mut out);
    out.sort();
    out.dedup();
    out
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        ExprKind::Name(_) | ExprKind::Integer(_) | ExprKind::Float(_) | ExprKind::Text(_) => Vec::new(),
        ExprKind::Field(inner, ..)
        | ExprKind::Dereference(inner)
        | ExprKind::Assert(inner, ..)
        | ExprKind::Unary(_, inner) => vec![inner],
        ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => vec![left, right],
        ExprKind::Call(function, arguments) => std::iter::once(&**function).chain(arguments).collect(),
    }
}

fn add(expr: &Expr, out: &mut Vec<Arc<str>>) {
    if let ExprKind::Name(name) = &expr.kind {
        out.push(Arc::clone(name));
    }
    for child in children(expr) {
        add(child, out);
    }
}

/// The largest parts of an expression that are paths of a variable, with their places in the text. `is_variable`: whether
/// a name, followed by a field of this name if any, is a variable's.
pub fn operands(
    typed: &Typed,
    expr: &Expr,
    text: &str,
    is_variable: &dyn Fn(&str, Option<&str>) -> bool,
    out: &mut Vec<(Span, PathExpression)>,
) {
    let mut indexed = Vec::new();
    element_spans(typed, &mut indexed);
    collect(expr, text, &indexed, is_variable, out);
}

fn collect(
    expr: &Expr,
    text: &str,
    indexed: &[Span],
    is_variable: &dyn Fn(&str, Option<&str>) -> bool,
    out: &mut Vec<(Span, PathExpression)>,
) {
    if let Some((variable, steps)) = path(expr, indexed) {
        let field = match steps.first() {
            Some(PathStep::Field(name)) => Some(&**name),
            _ => None,
        };
        if is_variable(&variable, field) {
            let text = text.get(expr.span.clone()).unwrap_or_default().into();
            out.push((expr.span.clone(), PathExpression { text, variable, steps }));
            return;
        }
    }
    for child in children(expr) {
        collect(child, text, indexed, is_variable, out);
    }
}

fn path(expr: &Expr, indexed: &[Span]) -> Option<(Arc<str>, Vec<PathStep>)> {
    match &expr.kind {
        ExprKind::Name(name) => Some((Arc::clone(name), Vec::new())),
        ExprKind::Field(inner, name, _) => {
            let (variable, mut steps) = path(inner, indexed)?;
            steps.push(PathStep::Field(Arc::clone(name)));
            Some((variable, steps))
        }
        ExprKind::Dereference(inner) => {
            let (variable, mut steps) = path(inner, indexed)?;
            steps.push(PathStep::Dereference);
            Some((variable, steps))
        }
        ExprKind::Index(base, index) if indexed.contains(&expr.span) => {
            let ExprKind::Integer(number) = index.kind else { return None };
            let (variable, mut steps) = path(base, indexed)?;
            steps.push(PathStep::Index(u64::try_from(number).ok()?));
            Some((variable, steps))
        }
        _ => None,
    }
}

fn typed_children(typed: &Typed) -> Vec<&Typed> {
    match &typed.kind {
        TypedKind::Constant(_) | TypedKind::Variable(_) | TypedKind::Unresolved(_) => Vec::new(),
        TypedKind::Part(inner, _)
        | TypedKind::Dereference(inner)
        | TypedKind::Assert(inner, _)
        | TypedKind::IsType(inner, _)
        | TypedKind::Length(inner)
        | TypedKind::Capacity(inner)
        | TypedKind::Convert(inner)
        | TypedKind::Not(inner) => vec![inner],
        TypedKind::Element { base: left, index: right, .. }
        | TypedKind::MapValue { map: left, key: right, .. }
        | TypedKind::Arithmetic(_, left, right)
        | TypedKind::Compare(_, left, right)
        | TypedKind::Text(_, left, right)
        | TypedKind::And(left, right)
        | TypedKind::Or(left, right) => vec![left, right],
    }
}

/// Elements of slices and arrays by a constant.
fn element_spans(typed: &Typed, out: &mut Vec<Span>) {
    if let TypedKind::Element { base, index, .. } = &typed.kind
        && index.constant().is_some()
        && base.ty.class != super::Class::String
    {
        out.push(typed.span.clone());
    }
    for child in typed_children(typed) {
        element_spans(child, out);
    }
}

/// What the names and numbers of an expression stand for, by their places.
pub fn constants(typed: &Typed, out: &mut Vec<(Span, Constant)>) {
    if let TypedKind::Constant(constant) = &typed.kind {
        out.push((typed.span.clone(), constant.clone()));
    }
    for child in typed_children(typed) {
        constants(child, out);
    }
}

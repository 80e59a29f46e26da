//! Expressions that name a part of a variable: `o`, `o.ID`, `o.Customer.Name`, `o.Items[0].Price`, `*p`.
//!
//! [`PathExpression::parse`] reads the text; [`walk`] goes from the variable's type to the part, step by step, and says
//! which pointers lie on the way. What that costs at run time is decided in `captures`.

use std::sync::Arc;

use crate::golang::types::{Shape, TypeId, TypeSource};

/// Longest expression.
const MAX_TEXT_BYTES: usize = 1024;
/// Embedded structs within each other through which a field is promoted.
const MAX_EMBEDDING: usize = 8;

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathExpression {
    /// As it was given.
    pub text: Arc<str>,
    /// The variable.
    pub variable: Arc<str>,
    /// What is taken of it.
    pub steps: Vec<PathStep>,
}

/// One selector of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    /// `.name`.
    Field(Arc<str>),
    /// `[index]`.
    Index(u64),
    /// `*`.
    Dereference,
}

/// Why an expression names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not written as RipTrace reads expressions.
    #[error(
        "{text:?}: {problem} at column {column}; write a variable with fields and constant indexes, like o.Items[0].Price"
    )]
    Syntax {
        /// The expression.
        text: Arc<str>,
        /// Where, counted from 1.
        column: usize,
        /// What.
        problem: &'static str,
    },
    /// No variable has the name.
    #[error("{text:?}: no variable {name} here{}", nearest_clause(.nearest))]
    NoVariable {
        /// The expression.
        text: Arc<str>,
        /// The name.
        name: Arc<str>,
        /// Names that look alike, or the ones that there are.
        nearest: Vec<Arc<str>>,
    },
    /// The location's package has no such variable.
    #[error(
        "{text:?}: package {package} has no variable {name} in this program (the linker leaves out what nothing uses){}",
        nearest_clause(.nearest)
    )]
    NoPackageVariable {
        /// The expression.
        text: Arc<str>,
        /// The package's import path.
        package: Arc<str>,
        /// The name.
        name: Arc<str>,
        /// Names that look alike, or the ones that there are.
        nearest: Vec<Arc<str>>,
    },
    /// The struct has no such field.
    #[error("{text:?}: {type_name} has no field {name}{}", nearest_clause(.nearest))]
    NoField {
        /// The expression.
        text: Arc<str>,
        /// The type.
        type_name: Arc<str>,
        /// The name.
        name: Arc<str>,
        /// Names that look alike, or the ones that there are.
        nearest: Vec<Arc<str>>,
    },
    /// The operation is not one that the type has.
    #[error("{text:?}: {operation} of a {type_name} is not supported; capture the whole value instead")]
    NotPossible {
        /// The expression.
        text: Arc<str>,
        /// The type.
        type_name: Arc<str>,
        /// What was to be done.
        operation: &'static str,
    },
    /// A rule forbids to copy it.
    #[error(
        "{text:?} is redacted: a rule forbids to copy it; capture what is beside it, or except its name from the rules (allow = [..] in a --redact-file; --no-redact-defaults lifts the default rules)"
    )]
    Redacted {
        /// The expression.
        text: Arc<str>,
    },
    /// The array is shorter.
    #[error("{text:?}: index {index} is out of range: {type_name} has {len} elements")]
    OutOfRange {
        /// The expression.
        text: Arc<str>,
        /// The type.
        type_name: Arc<str>,
        /// The index.
        index: u64,
        /// Elements.
        len: u64,
    },
}

fn nearest_clause(nearest: &[Arc<str>]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; there is {}", nearest.join(", ")) }
}

impl PathExpression {
    /// Reads an expression.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let shown: Arc<str> = text.chars().take(MAX_TEXT_BYTES).collect::<String>().into();
        // What is left to read ends where this ends.
        let whole = text.trim_end();
        let fail = |rest: &str, problem| PathError::Syntax {
            text: Arc::clone(&shown),
            column: whole
                .get(..whole.len().saturating_sub(rest.len()))
                .map_or(1, |read| read.chars().count() + 1),
            problem,
        };
        if text.len() > MAX_TEXT_BYTES {
            return Err(fail(whole, "an expression this long is not read"));
        }
        let mut rest = whole.trim_start();
        let mut dereferences = 0;
        while let Some(inner) = rest.strip_prefix('*') {
            dereferences += 1;
            rest = inner.trim_start();
        }
        let (variable, mut rest) =
            identifier(rest).ok_or_else(|| fail(rest, "the name of a variable is missing"))?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('.') {
                let (name, after) =
                    identifier(inner).ok_or_else(|| fail(inner, "the name of a field is missing"))?;
                steps.push(PathStep::Field(name.into()));
                rest = after;
            } else if let Some(inner) = rest.strip_prefix('[') {
                let close = inner.find(']').ok_or_else(|| fail(rest, "the bracket is not closed"))?;
                let index = inner[..close].trim();
                let index = index.parse().map_err(|_| fail(inner, "an index must be a plain number"))?;
                steps.push(PathStep::Index(index));
                rest = &inner[close + 1..];
            } else if rest.trim_start().is_empty() {
                break;
            } else {
                return Err(fail(rest, "this is not understood"));
            }
        }
        steps.extend((0..dereferences).map(|_| PathStep::Dereference));
        Ok(Self { text: text.trim().into(), variable: variable.into(), steps })
    }
}

fn identifier(text: &str) -> Option<(&str, &str)> {
    // `~r0`: what the compiler calls a result without a name.
    let sign = usize::from(text.starts_with('~'));
    let end = text
        .char_indices()
        .skip(sign)
        .find(|&(at, c)| !(c == '_' || c.is_alphabetic() || (at > sign && c.is_numeric())))
        .map_or(text.len(), |(at, _)| at);
    (end > sign).then(|| text.split_at(end))
}

/// A part of a variable: what lies between the variable and it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Pointers on the way, outermost first.
    pub(crate) hops: Vec<WalkHop>,
    /// Bytes from the start of what the last pointer leads to (of the variable, without pointers).
    pub(crate) offset: u64,
    /// Type of the part.
    pub(crate) ty: TypeId,
}

/// A pointer on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalkHop {
    /// Where the pointer lies in what the one before leads to.
    pub(crate) word: u64,
    /// It points at a slice's elements, of which this one is taken; the slice's length lies 8 bytes behind the pointer.
    pub(crate) index: Option<u64>,
    /// What it points at; of a slice the element's type.
    pub(crate) pointee: TypeId,
}

/// Follows the steps of an expression from a variable of type `ty`.
pub(crate) fn walk(
    types: &dyn TypeSource,
    expression: &PathExpression,
    ty: TypeId,
) -> Result<Walk, PathError> {
    let mut at = Walk { hops: Vec::new(), offset: 0, ty };
    let is_redacted = |ty: TypeId| {
        if types.get(ty).shape == Shape::Redacted {
            return Err(PathError::Redacted { text: Arc::clone(&expression.text) });
        }
        Ok(())
    };
    is_redacted(ty)?;
    for step in &expression.steps {
        take(types, expression, &mut at, step)?;
        is_redacted(at.ty)?;
    }
    Ok(at)
}

/// Whether an expression takes an element of a map or a string, which no pointers and offsets lead to.
pub(crate) fn looks_up(types: &dyn TypeSource, expression: &PathExpression, ty: TypeId) -> bool {
    let mut at = Walk { hops: Vec::new(), offset: 0, ty };
    for step in &expression.steps {
        let is_index = matches!(step, PathStep::Index(_));
        if is_index && matches!(types.get(at.ty).shape, Shape::Map(_) | Shape::String) {
            return true;
        }
        // What is wrong with it is said when it is walked.
        if take(types, expression, &mut at, step).is_err() {
            return false;
        }
    }
    false
}

fn take(
    types: &dyn TypeSource,
    expression: &PathExpression,
    at: &mut Walk,
    step: &PathStep,
) -> Result<(), PathError> {
    match step {
        PathStep::Dereference => dereference(types, expression, at),
        PathStep::Field(name) => select(types, expression, at, name),
        PathStep::Index(index) => take_element(types, expression, at, *index),
    }
}

fn dereference(types: &dyn TypeSource, expression: &PathExpression, at: &mut Walk) -> Result<(), PathError> {
    let ty = types.get(at.ty);
    let Shape::Pointer { elem: Some(elem) } = ty.shape else {
        return Err(PathError::NotPossible {
            text: Arc::clone(&expression.text),
            type_name: Arc::clone(&ty.name),
            operation: "dereferencing",
        });
    };
    at.hops.push(WalkHop { word: at.offset, index: None, pointee: elem });
    at.offset = 0;
    at.ty = elem;
    Ok(())
}

fn select(
    types: &dyn TypeSource,
    expression: &PathExpression,
    at: &mut Walk,
    name: &str,
) -> Result<(), PathError> {
    if matches!(types.get(at.ty).shape, Shape::Pointer { elem: Some(_) }) {
        dereference(types, expression, at)?;
    }
    let ty = types.get(at.ty);
    let Shape::Struct { fields } = &ty.shape else {
        return Err(PathError::NotPossible {
            text: Arc::clone(&expression.text),
            type_name: Arc::clone(&ty.name),
            operation: "taking a field",
        });
    };
    // The shallowest field of the name wins (Go specification, "Selectors").
    let mut level = vec![at.clone()];
    for _ in 0..MAX_EMBEDDING {
        let mut next = Vec::new();
        for candidate in &level {
            let holder = types.get(candidate.ty);
            let Shape::Struct { fields } = &holder.shape else { continue };
            for field in fields {
                let mut found = candidate.clone();
                found.offset = found.offset.saturating_add(field.offset);
                found.ty = field.ty;
                if &*field.name == name {
                    *at = found;
                    return Ok(());
                }
                if field.embedded && next.len() < 64 {
                    if matches!(types.get(found.ty).shape, Shape::Pointer { elem: Some(_) }) {
                        dereference(types, expression, &mut found)?;
                    }
                    next.push(found);
                }
            }
        }
        level = next;
    }
    let names: Vec<_> = fields.iter().map(|field| Arc::clone(&field.name)).collect();
    Err(PathError::NoField {
        text: Arc::clone(&expression.text),
        type_name: Arc::clone(&ty.name),
        name: name.into(),
        nearest: nearest(name, names.iter()),
    })
}

fn take_element(
    types: &dyn TypeSource,
    expression: &PathExpression,
    at: &mut Walk,
    index: u64,
) -> Result<(), PathError> {
    let pointed_at = match types.get(at.ty).shape {
        Shape::Pointer { elem: Some(elem) } => Some(elem),
        _ => None,
    };
    if pointed_at.is_some_and(|elem| matches!(types.get(elem).shape, Shape::Array { .. })) {
        dereference(types, expression, at)?;
    }
    let ty = types.get(at.ty);
    match ty.shape {
        Shape::Array { elem, len } => {
            if index >= len {
                return Err(PathError::OutOfRange {
                    text: Arc::clone(&expression.text),
                    type_name: Arc::clone(&ty.name),
                    index,
                    len,
                });
            }
            at.offset = at.offset.saturating_add(index.saturating_mul(types.get(elem).bytes));
            at.ty = elem;
        }
        Shape::Slice { elem } => {
            at.hops.push(WalkHop { word: at.offset, index: Some(index), pointee: elem });
            at.offset = index.saturating_mul(types.get(elem).bytes);
            at.ty = elem;
        }
        _ => {
            return Err(PathError::NotPossible {
                text: Arc::clone(&expression.text),
                type_name: Arc::clone(&ty.name),
                operation: "taking an element",
            });
        }
    }
    Ok(())
}

/// The names that look most like `name`: up to three, or all when there are few and none looks alike.
pub(crate) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
    let mut all: Vec<(usize, &Arc<str>)> =
        names.take(100_000).map(|other| (distance(name, other, 1 + name.len() / 3), other)).collect();
    all.sort();
    all.dedup();
    let close: Vec<Arc<str>> = all
        .iter()
        .filter(|(far, _)| *far != usize::MAX)
        .take(3)
        .map(|(_, other)| Arc::clone(other))
        .collect();
    if close.is_empty() && all.len() <= 8 {
        return all.into_iter().map(|(_, other)| Arc::clone(other)).collect();
    }
    close
}

/// Edits (insert, remove, replace; letters' case counts for nothing) that turn `a` into `b`; `usize::MAX` when more than
/// `bound`.
pub(crate) fn distance(a: &str, b: &str, bound: usize) -> usize {
    if a.len().abs_diff(b.len()) > bound.saturating_mul(4) || a.len().max(b.len()) > 256 {
        return usize::MAX;
    }
    let a: Vec<char> = a.chars().flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
        if row.iter().all(|&edits| edits > bound) {
            return usize::MAX;
        }
    }
    row.last().copied().filter(|&edits| edits <= bound).unwrap_or(usize::MAX)
}

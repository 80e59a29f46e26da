//! Types: what was written becomes [`Typed`], or an error that points at the place.

use std::sync::Arc;

use super::{
    ast::{Binary, Expr, ExprKind, Span, Unary},
    classes::{Class, Ty, integer_named},
    constant::{self, Constant},
    error::{ExprError, nearest_clause},
    typed::{Arithmetic, Comparison, Dynamic, TextTest, Typed, TypedKind},
};
use crate::{
    dwarf::VisibleVariable,
    golang::{
        layout::{DynamicTarget, Target, dynamic_of},
        types::{Shape, TypeId, TypeSource},
    },
    plan::path::nearest,
};

/// Embedded structs within each other through which a field is promoted.
const MAX_EMBEDDING: usize = 8;
/// Embedded structs of one level that are searched.
const MAX_EMBEDDED: usize = 64;

/// Names beyond the variables.
pub trait Names {
    /// The value of a constant of a type, by its name, with or without the package.
    fn constant(&self, type_name: &str, name: &str) -> Option<i64>;
    /// A type by what a Go programmer calls it at the location: `*Order`, `*orders.Order`, `[]string`.
    fn type_named(&self, name: &str) -> Option<TypeId>;
    /// The value of an ordinary map at this key may not be read.
    fn forbids_key(&self, _key: &str) -> bool {
        false
    }
    /// The value of a guarded map at this key may be read.
    fn allows_key(&self, _key: &str) -> bool {
        false
    }
}

/// No constants, no types.
#[derive(Clone, Copy, Debug)]
pub struct NoNames;

impl Names for NoNames {
    fn constant(&self, _: &str, _: &str) -> Option<i64> {
        None
    }

    fn type_named(&self, _: &str) -> Option<TypeId> {
        None
    }
}

/// What an expression can speak of.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The binary's types.
    pub types: &'a dyn TypeSource,
    /// The variables. A variable of a package is called `package.Name`.
    pub variables: &'a [VisibleVariable],
    /// Constants and types.
    pub names: &'a dyn Names,
}

/// Gives every part of an expression its type.
///
/// # Errors
///
/// Says what does not fit, and where.
pub fn check(text: &str, expr: &Expr, scope: Scope<'_>) -> Result<Typed, ExprError> {
    let checker = Checker { text: Arc::from(text), scope };
    let typed = checker.expr(expr)?;
    checker.resolved(typed)
}

/// The same for a condition, which is true or false. A type test `x.(T)` is one.
///
/// # Errors
///
/// Says what does not fit, and where.
pub fn check_condition(text: &str, expr: &Expr, scope: Scope<'_>) -> Result<Typed, ExprError> {
    Checker { text: Arc::from(text), scope }.condition(expr)
}

struct Checker<'a> {
    text: Arc<str>,
    scope: Scope<'a>,
}

impl Checker<'_> {
    fn fail<T>(&self, span: &Span, message: impl Into<String>) -> Result<T, ExprError> {
        Err(ExprError::new(&self.text, span.clone(), message))
    }

    fn condition(&self, expr: &Expr) -> Result<Typed, ExprError> {
        let make = |kind| Typed { kind, ty: Ty::bool(), span: expr.span.clone() };
        match &expr.kind {
            ExprKind::Assert(value, name, span) => {
                let (value, dynamic) = self.dynamic(value, name, span)?;
                Ok(make(TypedKind::IsType(Box::new(value), dynamic)))
            }
            ExprKind::Unary(Unary::Not, inner) => Ok(make(TypedKind::Not(Box::new(self.condition(inner)?)))),
            ExprKind::Binary(operator @ (Binary::And | Binary::Or), left, right) => {
                let (left, right) = (Box::new(self.condition(left)?), Box::new(self.condition(right)?));
                Ok(make(match operator {
                    Binary::And => TypedKind::And(left, right),
                    _ => TypedKind::Or(left, right),
                }))
            }
            _ => {
                let typed = self.resolved(self.expr(expr)?)?;
                if typed.ty.class == Class::Bool {
                    return Ok(typed);
                }
                self.fail(
                    &expr.span,
                    format!(
                        "this is {}, not true or false; compare it, like x == 1 or p != nil",
                        typed.ty.shown()
                    ),
                )
            }
        }
    }

    fn resolved(&self, typed: Typed) -> Result<Typed, ExprError> {
        match &typed.kind {
            TypedKind::Unresolved(name) => self.no_variable(name, &typed.span),
            TypedKind::Constant(Constant::Nil) => self.fail(&typed.span, "nil by itself has no type"),
            _ => Ok(typed),
        }
    }

    fn no_variable<T>(&self, name: &str, span: &Span) -> Result<T, ExprError> {
        let near = nearest(name, self.scope.variables.iter().map(|variable| &variable.name));
        let is_result = |name: &str| name.starts_with('~');
        if is_result(name) && !self.scope.variables.iter().any(|known| is_result(&known.name)) {
            let said = format!("no result {name} here: results are there where calls end (--return)");
            return self.fail(span, said);
        }
        self.fail(span, format!("no variable {name} here{}", nearest_clause(&near)))
    }

    fn variable(&self, name: &str, span: &Span) -> Option<Typed> {
        let at = self.scope.variables.iter().position(|variable| &*variable.name == name)?;
        let ty = Ty::of(self.scope.types, self.scope.variables.get(at)?.ty);
        Some(Typed { kind: TypedKind::Variable(at), ty, span: span.clone() })
    }

    fn expr(&self, expr: &Expr) -> Result<Typed, ExprError> {
        let typed = self.any(expr)?;
        // A condition would tell, hit by hit, what must not be copied.
        if let Some(ty) = typed.ty.id
            && self.scope.types.get(ty).shape == Shape::Redacted
        {
            return self
                .fail(&typed.span, "this is redacted: a rule forbids to copy it, and so to compare it");
        }
        Ok(typed)
    }

    fn any(&self, expr: &Expr) -> Result<Typed, ExprError> {
        let span = &expr.span;
        let known = |constant: Constant, class: Class, name: &str| {
            Ok(Typed { kind: TypedKind::Constant(constant), ty: Ty::plain(class, name), span: span.clone() })
        };
        match &expr.kind {
            ExprKind::Name(name) => match (self.variable(name, span), &**name) {
                (Some(variable), _) => Ok(variable),
                (None, "true") => known(Constant::Bool(true), Class::Bool, "bool"),
                (None, "false") => known(Constant::Bool(false), Class::Bool, "bool"),
                (None, "nil") => known(Constant::Nil, Class::Nil, "nil"),
                _ => Ok(self.unresolved(Arc::clone(name), span)),
            },
            ExprKind::Integer(value) => known(Constant::Integer(*value), Class::UntypedInteger, "number"),
            ExprKind::Float(value) => known(Constant::Float(*value), Class::UntypedFloat, "number"),
            ExprKind::Text(bytes) => known(Constant::Text(Arc::clone(bytes)), Class::String, "string"),
            ExprKind::Field(holder, name, place) => self.field(holder, name, place, span),
            ExprKind::Index(base, index) => self.index(base, index, span),
            ExprKind::Dereference(pointer) => {
                let pointer = self.resolved(self.expr(pointer)?)?;
                self.dereference(pointer, span)
            }
            ExprKind::Assert(value, name, place) => {
                let (value, dynamic) = self.dynamic(value, name, place)?;
                let ty = Ty::of(self.scope.types, dynamic.ty);
                Ok(Typed { kind: TypedKind::Assert(Box::new(value), dynamic), ty, span: span.clone() })
            }
            ExprKind::Call(function, arguments) => self.call(function, arguments, span),
            ExprKind::Unary(operator, inner) => self.unary(*operator, inner, span),
            ExprKind::Binary(Binary::And | Binary::Or, ..) => self.condition(expr),
            ExprKind::Binary(operator, left, right) => self.binary(*operator, left, right, span),
        }
    }

    fn unresolved(&self, name: Arc<str>, span: &Span) -> Typed {
        let ty = Ty::plain(Class::Unresolved, &name);
        Typed { kind: TypedKind::Unresolved(name), ty, span: span.clone() }
    }

    fn dereference(&self, pointer: Typed, span: &Span) -> Result<Typed, ExprError> {
        let Class::Pointer { elem: Some(elem) } = pointer.ty.class else {
            return self.fail(&pointer.span, format!("{} is no pointer", pointer.ty.shown()));
        };
        let ty = Ty::of(self.scope.types, elem);
        Ok(Typed { kind: TypedKind::Dereference(Box::new(pointer)), ty, span: span.clone() })
    }

    fn field(&self, holder: &Expr, name: &Arc<str>, place: &Span, span: &Span) -> Result<Typed, ExprError> {
        // `orders.Open`: a variable or a constant of a package.
        if let ExprKind::Name(package) = &holder.kind
            && self.variable(package, &holder.span).is_none()
        {
            let full = format!("{package}.{name}");
            return Ok(self.variable(&full, span).unwrap_or_else(|| self.unresolved(full.into(), span)));
        }
        let mut holder = self.resolved(self.expr(holder)?)?;
        if matches!(holder.ty.class, Class::Pointer { elem: Some(_) }) {
            let within = holder.span.clone();
            holder = self.dereference(holder, &within)?;
        }
        if holder.ty.class != Class::Struct {
            return self.fail(place, format!("{} has no fields", holder.ty.shown()));
        }
        let type_name = Arc::clone(&holder.ty.name);
        let mut names: Vec<Arc<str>> = Vec::new();
        // The shallowest field of the name wins (Go specification, "Selectors").
        let mut level = vec![holder];
        for depth in 0..MAX_EMBEDDING {
            let mut next = Vec::new();
            for candidate in level {
                let Some(ty) = candidate.ty.id.map(|id| self.scope.types.get(id)) else { continue };
                let Shape::Struct { fields } = &ty.shape else { continue };
                for field in fields {
                    let part = || Typed {
                        kind: TypedKind::Part(Box::new(candidate.clone()), field.offset),
                        ty: Ty::of(self.scope.types, field.ty),
                        span: span.clone(),
                    };
                    if field.name == *name {
                        return Ok(part());
                    }
                    if depth == 0 {
                        names.push(Arc::clone(&field.name));
                    }
                    if field.embedded && next.len() < MAX_EMBEDDED {
                        let part = part();
                        next.push(match part.ty.class {
                            Class::Pointer { elem: Some(_) } => self.dereference(part, span)?,
                            _ => part,
                        });
                    }
                }
            }
            level = next;
        }
        let near = nearest_clause(&nearest(name, names.iter()));
        self.fail(place, format!("{type_name} has no field {name}{near}"))
    }

    fn index(&self, base: &Expr, index: &Expr, span: &Span) -> Result<Typed, ExprError> {
        let mut base = self.resolved(self.expr(base)?)?;
        if let Class::Pointer { elem: Some(elem) } = base.ty.class
            && matches!(self.scope.types.get(elem).shape, Shape::Array { .. })
        {
            let within = base.span.clone();
            base = self.dereference(base, &within)?;
        }
        let index_typed = self.expr(index)?;
        let (elem, len) = match base.ty.class {
            Class::Slice { elem } => (Ty::of(self.scope.types, elem), None),
            Class::Array { elem, len } => (Ty::of(self.scope.types, elem), Some(len)),
            Class::String => (integer_named("uint8").unwrap_or_else(Ty::int), None),
            Class::Map(layout) => return self.map_value(base, index_typed, layout, span),
            _ => return self.fail(&base.span, format!("{} has no elements", base.ty.shown())),
        };
        if base.constant().is_some() {
            return self.fail(&base.span, "a constant is not indexed");
        }
        let bytes = elem.id.map_or(1, |id| self.scope.types.get(id).bytes);
        let index =
            if index_typed.ty.is_untyped() { self.convert(index_typed, &Ty::int())? } else { index_typed };
        if !matches!(index.ty.class, Class::Integer { .. }) {
            return self.fail(&index.span, format!("an index is an integer, this is {}", index.ty.shown()));
        }
        if let Some(Constant::Integer(value)) = index.constant() {
            if *value < 0 {
                return self.fail(&index.span, format!("index {value} is negative"));
            }
            if let Some(len) = len.filter(|len| *value >= i128::from(*len)) {
                let name = &base.ty.name;
                return self
                    .fail(&index.span, format!("index {value} is out of range: {name} has {len} elements"));
            }
        }
        let kind = TypedKind::Element { base: Box::new(base), index: Box::new(index), bytes, len };
        Ok(Typed { kind, ty: elem, span: span.clone() })
    }

    fn map_value(
        &self,
        map: Typed,
        key: Typed,
        layout: crate::golang::types::MapLayout,
        span: &Span,
    ) -> Result<Typed, ExprError> {
        let key_ty = Ty::of(self.scope.types, layout.key);
        if !matches!(key_ty.class, Class::Integer { .. } | Class::String | Class::Bool) {
            return self.fail(
                span,
                format!(
                    "maps are searched by keys that are strings or integers; the keys here are {}",
                    key_ty.shown()
                ),
            );
        }
        let key = self.as_type(key, &key_ty)?;
        let text = match key.constant() {
            Some(Constant::Text(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        if text.is_some_and(|text| !layout.is_guarded && self.scope.names.forbids_key(text)) {
            return self.fail(
                span,
                "this is redacted: a rule forbids to copy what has this name, and so to compare it",
            );
        }
        if layout.is_guarded && !text.is_some_and(|text| self.scope.names.allows_key(text)) {
            return self.fail(
                span,
                "this is redacted: of a map like this one, a value is read only if its key is named here and among those \
                 that are allowed (map_keys_allow = [..] in a --redact-file)",
            );
        }
        let kind = TypedKind::MapValue { map: Box::new(map), key: Box::new(key), layout };
        Ok(Typed { kind, ty: Ty::of(self.scope.types, layout.value), span: span.clone() })
    }

    fn dynamic(&self, value: &Expr, name: &str, place: &Span) -> Result<(Typed, Dynamic), ExprError> {
        let value = self.resolved(self.expr(value)?)?;
        if !matches!(value.ty.class, Class::Interface { .. }) {
            return self.fail(&value.span, format!("{} is no interface", value.ty.shown()));
        }
        let Some(ty) = self.scope.names.type_named(name) else {
            return self.fail(
                place,
                format!("no type {name} in this program; write it with its package, like *orders.Order"),
            );
        };
        let go = self.scope.types.get(ty);
        if matches!(go.shape, Shape::Interface | Shape::EmptyInterface) {
            return self.fail(
                place,
                "whether a type implements an interface can't be told from memory; name a type",
            );
        }
        let Some(runtime_type) = go.runtime_type else {
            return self.fail(
                place,
                format!("the program never puts a {name} into an interface, as far as debug data says"),
            );
        };
        let direct = match dynamic_of(self.scope.types, ty) {
            Some(DynamicTarget::Follow(target)) => target != Target::value(ty),
            // A pointer at nothing, a func; or a value without bytes.
            Some(_) => go.bytes == 8,
            None => {
                return self.fail(place, format!("debug data does not say how an interface holds a {name}"));
            }
        };
        Ok((value, Dynamic { ty, runtime_type, direct }))
    }

    fn call(&self, function: &Expr, arguments: &[Expr], span: &Span) -> Result<Typed, ExprError> {
        let name = match &function.kind {
            ExprKind::Name(name) => name.to_string(),
            ExprKind::Field(holder, name, _) => match &holder.kind {
                ExprKind::Name(package) => format!("{package}.{name}"),
                _ => String::new(),
            },
            _ => String::new(),
        };
        let make = |kind, ty| Ok(Typed { kind, ty, span: span.clone() });
        let one = || match arguments {
            [one] => self.expr(one),
            _ => self.fail(span, format!("{name} takes one argument")),
        };
        match name.as_str() {
            "len" | "cap" => {
                let value = self.resolved(one()?)?;
                let value = match value.ty.class {
                    Class::Pointer { elem: Some(elem) }
                        if matches!(self.scope.types.get(elem).shape, Shape::Array { .. }) =>
                    {
                        self.dereference(value, span)?
                    }
                    _ => value,
                };
                match (&value.ty.class, value.constant()) {
                    (_, Some(Constant::Text(bytes))) => {
                        let length = Constant::Integer(bytes.len() as i128);
                        make(TypedKind::Constant(length), Ty::int())
                    }
                    (Class::Array { len, .. }, _) => {
                        make(TypedKind::Constant(Constant::Integer((*len).into())), Ty::int())
                    }
                    (Class::String | Class::Map(_), _) if name == "cap" => {
                        self.fail(span, format!("{} has no cap", value.ty.shown()))
                    }
                    (Class::String | Class::Map(_) | Class::Slice { .. } | Class::Chan { .. }, _) => {
                        let value = Box::new(value);
                        let kind = if name == "len" { TypedKind::Length(value) } else { TypedKind::Capacity(value) };
                        make(kind, Ty::int())
                    }
                    _ => self.fail(span, format!("{} has no {name}", value.ty.shown())),
                }
            }
            "strings.HasPrefix" | "strings.Contains" => {
                let [text, part] = arguments else {
                    return self.fail(span, format!("{name} takes two strings"));
                };
                let string = Ty::plain(Class::String, "string");
                let text = self.as_type(self.expr(text)?, &string)?;
                let part = self.as_type(self.expr(part)?, &string)?;
                let test = if name == "strings.Contains" { TextTest::Contains } else { TextTest::HasPrefix };
                make(TypedKind::Text(test, Box::new(text), Box::new(part)), Ty::bool())
            }
            other => match integer_named(other) {
                Some(ty) => {
                    let value = self.resolved(one()?)?;
                    if value.constant().is_some() {
                        return self.convert(value, &ty);
                    }
                    match value.ty.class {
                        Class::Integer { .. } => make(TypedKind::Convert(Box::new(value)), ty),
                        Class::Float { .. } => self.fail(span, "floats can be compared, not converted: the kernel has no floating point"),
                        _ => self.fail(span, format!("{} does not become an integer", value.ty.shown())),
                    }
                }
                None => self.fail(
                    &function.span,
                    "functions of the program are not called; there are len, cap, strings.HasPrefix, strings.Contains, and integer types like int64",
                ),
            },
        }
    }

    fn unary(&self, operator: Unary, inner: &Expr, span: &Span) -> Result<Typed, ExprError> {
        if operator == Unary::Not {
            let inner = Box::new(self.condition(inner)?);
            return Ok(Typed { kind: TypedKind::Not(inner), ty: Ty::bool(), span: span.clone() });
        }
        let inner = self.resolved(self.expr(inner)?)?;
        let zero = |value| Typed {
            kind: TypedKind::Constant(Constant::Integer(value)),
            ty: Ty::plain(Class::UntypedInteger, "number"),
            span: span.start..span.start,
        };
        match (operator, inner.constant()) {
            (Unary::Plus, _)
                if matches!(
                    inner.ty.class,
                    Class::Integer { .. } | Class::Float { .. } | Class::UntypedInteger | Class::UntypedFloat
                ) =>
            {
                Ok(inner)
            }
            // −x is 0 − x, also of a negative zero, which equals 0.
            (Unary::Minus, Some(Constant::Float(value))) => {
                let kind = TypedKind::Constant(Constant::Float(-value));
                Ok(Typed { kind, ty: inner.ty, span: span.clone() })
            }
            (Unary::Minus, _) => self.arithmetic(Arithmetic::Subtract, zero(0), inner, span),
            // ^x is x with every bit turned round: of an unsigned type, with all of its bits.
            (Unary::Complement, _) => {
                let ones = match inner.ty.class {
                    Class::Integer { signed: false, .. } => {
                        inner.ty.class.integer_range().map_or(-1, |(_, most)| most)
                    }
                    _ => -1,
                };
                self.arithmetic(Arithmetic::Xor, zero(ones), inner, span)
            }
            _ => self.fail(span, format!("{} has no sign", inner.ty.shown())),
        }
    }

    fn binary(&self, operator: Binary, left: &Expr, right: &Expr, span: &Span) -> Result<Typed, ExprError> {
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        let arithmetic = match operator {
            Binary::Add => Arithmetic::Add,
            Binary::Subtract => Arithmetic::Subtract,
            Binary::Multiply => Arithmetic::Multiply,
            Binary::Divide => Arithmetic::Divide,
            Binary::Remainder => Arithmetic::Remainder,
            Binary::BitAnd => Arithmetic::And,
            Binary::BitOr => Arithmetic::Or,
            Binary::BitXor => Arithmetic::Xor,
            Binary::AndNot => Arithmetic::AndNot,
            Binary::ShiftLeft => Arithmetic::ShiftLeft,
            Binary::ShiftRight => Arithmetic::ShiftRight,
            Binary::Equal => return self.compare(Comparison::Equal, operator, left, right, span),
            Binary::NotEqual => return self.compare(Comparison::NotEqual, operator, left, right, span),
            Binary::Less => return self.compare(Comparison::Less, operator, left, right, span),
            Binary::LessEqual => return self.compare(Comparison::LessEqual, operator, left, right, span),
            Binary::Greater => return self.compare(Comparison::Greater, operator, left, right, span),
            Binary::GreaterEqual => {
                return self.compare(Comparison::GreaterEqual, operator, left, right, span);
            }
            Binary::And | Binary::Or => return self.fail(span, "this is not arithmetic"),
        };
        self.arithmetic(arithmetic, left, right, span)
    }

    fn arithmetic(
        &self,
        operator: Arithmetic,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Result<Typed, ExprError> {
        let is_shift = matches!(operator, Arithmetic::ShiftLeft | Arithmetic::ShiftRight);
        let (left, right) = if is_shift {
            let uint = integer_named("uint").unwrap_or_else(Ty::int);
            let right = self.resolved(right)?;
            let right = if right.ty.is_untyped() { self.convert(right, &uint)? } else { right };
            let left = self.resolved(left)?;
            // A constant that is shifted by a variable is an int where nothing else says what it is.
            let left = if left.ty.is_untyped() && right.constant().is_none() {
                self.convert(left, &Ty::int())?
            } else {
                left
            };
            (left, right)
        } else {
            self.unify(left, right, span)?
        };
        let ty = left.ty.clone();
        let is_integer = |ty: &Ty| matches!(ty.class, Class::Integer { .. } | Class::UntypedInteger);
        match ty.class {
            Class::Float { .. } => {
                return self.fail(
                    span,
                    "floats can be compared, not calculated with: the kernel has no floating point",
                );
            }
            Class::String => return self.fail(span, "strings are not joined here; compare their parts"),
            Class::UntypedFloat if right.constant().is_some() && left.constant().is_some() => {}
            _ if is_integer(&ty) && is_integer(&right.ty) => {}
            _ => {
                return self
                    .fail(span, format!("{} and {} are no integers", left.ty.shown(), right.ty.shown()));
            }
        }
        let negative_shift = |constant: &Constant| matches!(constant, Constant::Integer(value) if *value < 0);
        if is_shift && right.constant().is_some_and(negative_shift) {
            return self.fail(&right.span, "a shift is not negative");
        }
        if matches!(operator, Arithmetic::Divide | Arithmetic::Remainder)
            && right.constant() == Some(&Constant::Integer(0))
        {
            return self.fail(&right.span, "division by zero");
        }
        let kind = match (left.constant(), right.constant()) {
            (Some(left), Some(right)) => match constant::fold(operator, left, right, &ty.class) {
                Ok(value) => TypedKind::Constant(value),
                Err(reason) => return self.fail(span, reason),
            },
            _ => TypedKind::Arithmetic(operator, Box::new(left), Box::new(right)),
        };
        Ok(Typed { kind, ty, span: span.clone() })
    }

    fn compare(
        &self,
        comparison: Comparison,
        operator: Binary,
        left: Typed,
        right: Typed,
        span: &Span,
    ) -> Result<Typed, ExprError> {
        let (left, right) = self.unify(left, right, span)?;
        let make = |kind| Ok(Typed { kind, ty: Ty::bool(), span: span.clone() });
        let is_equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let nil = |typed: &Typed| typed.constant() == Some(&Constant::Nil);
        if nil(&left) || nil(&right) {
            let (nil_side, value) = if nil(&left) { (left, right) } else { (right, left) };
            if !is_equality {
                return self
                    .fail(span, format!("nil is compared with == and !=, not with {}", operator.sign()));
            }
            if !value.ty.can_be_nil() {
                return self.fail(span, format!("{} is never nil", value.ty.shown()));
            }
            return make(TypedKind::Compare(comparison, Box::new(value), Box::new(nil_side)));
        }
        if let (Some(left), Some(right)) = (left.constant(), right.constant()) {
            let Some(holds) = constant::compare(comparison, left, right) else {
                return self.fail(span, "these can't be compared");
            };
            return make(TypedKind::Constant(Constant::Bool(holds)));
        }
        let name = left.ty.shown();
        match (&left.ty.class, is_equality) {
            (Class::Integer { .. } | Class::Float { .. } | Class::String, _)
            | (Class::Bool | Class::Pointer { .. } | Class::UnsafePointer | Class::Chan { .. }, true) => {}
            (Class::Interface { .. }, true) => {
                return self
                    .fail(span, format!("{name} is compared with nil, or tested for its type: x.(T)"));
            }
            (Class::Slice { .. } | Class::Map(_) | Class::Func, true) => {
                return self.fail(span, format!("{name} is compared with nil only"));
            }
            (Class::Struct | Class::Array { .. }, true) => {
                return self.fail(span, format!("{name} is compared part by part, like x.ID == 1"));
            }
            _ => return self.fail(span, format!("{name} has no operator {}", operator.sign())),
        }
        make(TypedKind::Compare(comparison, Box::new(left), Box::new(right)))
    }

    /// Two operands of one type: a constant takes the other's.
    fn unify(&self, left: Typed, right: Typed, span: &Span) -> Result<(Typed, Typed), ExprError> {
        if left.ty.class == Class::Unresolved && right.ty.class == Class::Unresolved {
            self.resolved(left)?;
            return self.fail(span, "these are not known");
        }
        let nil = |ty: &Ty| ty.class == Class::Nil;
        if nil(&left.ty) || nil(&right.ty) {
            if nil(&left.ty) && nil(&right.ty) {
                return self.fail(span, "nil and nil have no type");
            }
            let unknown = |typed: Typed| if nil(&typed.ty) { Ok(typed) } else { self.resolved(typed) };
            return Ok((unknown(left)?, unknown(right)?));
        }
        match (left.ty.is_untyped(), right.ty.is_untyped()) {
            (true, true) => {
                let (left, right) = (self.resolved(left)?, self.resolved(right)?);
                // An integer beside a float is a float.
                let class = match (&left.ty.class, &right.ty.class) {
                    (Class::UntypedInteger, Class::UntypedInteger) => Class::UntypedInteger,
                    _ => Class::UntypedFloat,
                };
                let ty = Ty::plain(class, "number");
                Ok((self.convert(left, &ty)?, self.convert(right, &ty)?))
            }
            (true, false) => {
                let left = self.convert(left, &right.ty)?;
                Ok((left, right))
            }
            (false, true) => {
                let right = self.convert(right, &left.ty)?;
                Ok((left, right))
            }
            (false, false) => {
                let ty = if left.constant().is_some() { right.ty.clone() } else { left.ty.clone() };
                Ok((self.as_type(left, &ty)?, self.as_type(right, &ty)?))
            }
        }
    }

    /// A value that must be of this type, as Go wants it: without conversion, unless it is a constant.
    fn as_type(&self, value: Typed, ty: &Ty) -> Result<Typed, ExprError> {
        if value.ty.is_untyped() || value.constant().is_some() {
            return self.convert(value, ty);
        }
        // Of a generic function's shape and the type itself only the class is the same; so are types without a name in
        // debug data, and pointers at what the scope knows by two entries.
        let shape = |ty: &Ty| ty.name.contains("go.shape.");
        let same = value.ty.name == ty.name
            || (value.ty.class == ty.class && (shape(&value.ty) || shape(ty)))
            || (value.ty.class == Class::String && ty.class == Class::String && ty.id.is_none());
        if same {
            return Ok(value);
        }
        let hint = match (&value.ty.class, &ty.class) {
            (Class::Integer { .. }, Class::Integer { .. }) => {
                let basic = match ty.class {
                    _ if integer_named(&ty.name).is_some() => ty.name.to_string(),
                    Class::Integer { bits, signed } => format!("{}int{bits}", if signed { "" } else { "u" }),
                    _ => String::new(),
                };
                format!("; convert one, like {basic}(x)")
            }
            _ => String::new(),
        };
        self.fail(
            &value.span,
            format!("this is {}, the other operand is {}{hint}", value.ty.shown(), ty.shown()),
        )
    }

    /// A constant (or the name of one) as a value of a type.
    fn convert(&self, value: Typed, ty: &Ty) -> Result<Typed, ExprError> {
        let span = value.span.clone();
        let found = match &value.kind {
            TypedKind::Unresolved(name) => match self.scope.names.constant(&ty.name, name) {
                Some(bits) => Constant::Integer(ty.class.wrap(bits.into())),
                None => return self.no_variable(name, &span),
            },
            TypedKind::Constant(Constant::Nil) => {
                return self.fail(&span, format!("nil is no {}", ty.shown()));
            }
            TypedKind::Constant(constant) => match constant::convert(constant, &ty.class, &ty.shown()) {
                Ok(constant) => constant,
                Err(reason) => return self.fail(&span, reason),
            },
            _ => return Ok(value),
        };
        Ok(Typed { kind: TypedKind::Constant(found), ty: ty.clone(), span })
    }
}

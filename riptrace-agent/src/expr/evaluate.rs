//! Computes an expression from the decoded values of its operands, as Go would.

use std::{borrow::Cow, cmp::Ordering, ops::Range, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use riptrace_common::wire::{
    number::Scalar,
    value::{Kind, Unavailable, Value},
};

use super::{
    ast::{Binary, Expr, ExprKind, Span, Unary},
    classes::{Class, integer_named},
    constant::Constant,
    typed::Comparison,
};

/// An expression that was checked, and what it is computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// As it was given.
    pub text: Arc<str>,
    /// What it says.
    pub expr: Expr,
    /// Its operands by their places in the text.
    pub operands: Vec<(Span, Operand)>,
    /// What its constants are.
    pub constants: Vec<(Span, Constant)>,
}

/// Where an operand's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// This one of the hit's planned variables.
    Planned(usize),
    /// This one of the values that were kept when the call began that ends here.
    Kept(usize),
    /// How long the call took that ends here, as a `time.Duration`.
    Duration,
    /// The same in nanoseconds, a number.
    DurationNs,
}

/// What expressions are computed from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The hit's planned variables. Of a call that a panic ended there are none.
    pub planned: &'a [&'a Value],
    /// What was kept when the call began; `None`: its entry was not seen.
    pub kept: Option<&'a [Value]>,
    /// How long the call took, a `time.Duration`; `None`: its entry was not seen.
    pub duration: Option<&'a Value>,
}

/// What a site's hits show.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// How many of the planned variables are shown; the others are operands.
    pub shown: usize,
    /// What is computed of them.
    pub computed: Vec<Computed>,
    /// A line of text.
    pub message: Option<Vec<OutputPiece>>,
    /// Of an entry: the planned variables that are needed again when the call ends.
    pub kept: Range<usize>,
    /// Of an entry: what is shown where its call ends without a return.
    pub at_end: Option<Arc<Outputs>>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputPiece {
    /// As it is.
    Text(String),
    /// A value.
    Value(Computed),
}

/// A value on the way.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a few at a time, never kept")]
enum Got {
    Integer(i128, Class, Arc<str>),
    Float(f64),
    Bool(bool),
    Text(Vec<u8>),
    Nil,
    Value(Value),
}

type Evaluated<T> = Result<T, Unavailable>;

impl Computed {
    /// Computes it. What an operand lacks, the result lacks.
    #[must_use]
    pub fn value(&self, given: Given<'_>) -> Value {
        let evaluation = Evaluation { computed: self, given };
        // An operand by itself is shown as it was decoded, with its type and its text.
        let value = match evaluation.operand(&self.expr.span) {
            Some(found) => found.map(Cow::into_owned),
            None => evaluation.expr(&self.expr).map(as_value),
        };
        value.unwrap_or_else(|reason| Value { unavailable: Some(reason), ..Value::default() })
    }
}

struct Evaluation<'a> {
    computed: &'a Computed,
    given: Given<'a>,
}

impl Evaluation<'_> {
    fn expr(&self, expr: &Expr) -> Evaluated<Got> {
        let at = |span: &Span| *span == expr.span;
        if let Some(found) = self.operand(&expr.span) {
            return got(&*found?);
        }
        if let Some((_, constant)) = self.computed.constants.iter().find(|(span, _)| at(span)) {
            return Ok(match constant {
                Constant::Bool(value) => Got::Bool(*value),
                Constant::Integer(value) => Got::Integer(*value, Class::UntypedInteger, "int".into()),
                Constant::Float(value) => Got::Float(*value),
                Constant::Text(bytes) => Got::Text(bytes.to_vec()),
                Constant::Nil => Got::Nil,
            });
        }
        match &expr.kind {
            ExprKind::Field(holder, name, _) => field(self.expr(holder)?, name),
            ExprKind::Dereference(inner) => pointee(self.expr(inner)?),
            ExprKind::Index(base, index) => element(self.expr(base)?, &self.expr(index)?),
            ExprKind::Assert(inner, name, _) => {
                let held = held(self.expr(inner)?).ok_or(Unavailable::Fault)?;
                if is_named(&held, name) { got(&held) } else { Err(Unavailable::Fault) }
            }
            ExprKind::Call(function, arguments) => self.call(function, arguments),
            ExprKind::Unary(Unary::Not, inner) => Ok(Got::Bool(!self.truth(inner)?)),
            ExprKind::Unary(operator, inner) => match (operator, self.expr(inner)?) {
                (Unary::Minus, Got::Integer(value, class, name)) => {
                    Ok(Got::Integer(class.wrap(-value), class, name))
                }
                (Unary::Complement, Got::Integer(value, class, name)) => {
                    Ok(Got::Integer(class.wrap(!value), class, name))
                }
                (_, got) => Ok(got),
            },
            ExprKind::Binary(Binary::And, left, right) => {
                Ok(Got::Bool(self.truth(left)? && self.truth(right)?))
            }
            ExprKind::Binary(Binary::Or, left, right) => {
                Ok(Got::Bool(self.truth(left)? || self.truth(right)?))
            }
            ExprKind::Binary(operator, left, right) => binary(*operator, self.expr(left)?, self.expr(right)?),
            _ => Err(Unavailable::BadDebugInfo),
        }
    }

    /// A condition; a type test is one.
    fn truth(&self, expr: &Expr) -> Evaluated<bool> {
        if let ExprKind::Assert(inner, name, _) = &expr.kind {
            return Ok(held(self.expr(inner)?).is_some_and(|held| is_named(&held, name)));
        }
        match self.expr(expr)? {
            Got::Bool(value) => Ok(value),
            _ => Err(Unavailable::BadDebugInfo),
        }
    }

    fn call(&self, function: &Expr, arguments: &[Expr]) -> Evaluated<Got> {
        let int = |value: u64| {
            Ok(Got::Integer(value.into(), Class::Integer { bits: 64, signed: true }, "int".into()))
        };
        let name = match &function.kind {
            ExprKind::Name(name) | ExprKind::Field(_, name, _) => &**name,
            _ => "",
        };
        match (name, arguments) {
            ("len" | "cap", [one]) => match self.operand(&one.span) {
                Some(value) => {
                    let value = &*value?;
                    let value = value.elem.as_deref().filter(|_| value.len.is_none()).unwrap_or(value);
                    let size = if name == "len" { value.len } else { value.cap.or(value.len) };
                    match (size, value.nil) {
                        (Some(size), _) => int(size),
                        (None, true) => int(0),
                        (None, false) => Err(value.unavailable.unwrap_or(Unavailable::BadDebugInfo)),
                    }
                }
                None => match self.expr(one)? {
                    Got::Text(bytes) => int(bytes.len() as u64),
                    Got::Value(Value { len: Some(len), cap, .. }) => {
                        int(if name == "len" { len } else { cap.unwrap_or(len) })
                    }
                    Got::Value(Value { nil: true, .. }) => int(0),
                    _ => Err(Unavailable::BadDebugInfo),
                },
            },
            ("HasPrefix" | "Contains", [text, part]) => {
                let (Got::Text(text), Got::Text(part)) = (self.expr(text)?, self.expr(part)?) else {
                    return Err(Unavailable::Budget);
                };
                let contains = || part.is_empty() || text.windows(part.len()).any(|window| window == part);
                Ok(Got::Bool(if name == "HasPrefix" { text.starts_with(&part) } else { contains() }))
            }
            (name, [one]) => match (integer_named(name), self.expr(one)?) {
                (Some(ty), Got::Integer(value, ..)) => {
                    Ok(Got::Integer(ty.class.wrap(value), ty.class, ty.name))
                }
                _ => Err(Unavailable::BadDebugInfo),
            },
            _ => Err(Unavailable::BadDebugInfo),
        }
    }

    /// An operand's value as it was decoded: its length is there even where its elements are not.
    fn operand(&self, at: &Span) -> Option<Evaluated<Cow<'_, Value>>> {
        let (_, operand) = self.computed.operands.iter().find(|(span, _)| span == at)?;
        let Given { planned, kept, duration } = self.given;
        let duration = duration.ok_or(Unavailable::EntryNotSeen);
        Some(match *operand {
            Operand::Planned(index) => {
                planned.get(index).map(|value| Cow::Borrowed(*value)).ok_or(Unavailable::NotInitialized)
            }
            Operand::Kept(index) => {
                kept.and_then(|kept| kept.get(index)).map(Cow::Borrowed).ok_or(Unavailable::EntryNotSeen)
            }
            Operand::Duration => duration.map(Cow::Borrowed),
            Operand::DurationNs => duration.map(|duration| Cow::Owned(in_nanoseconds(duration))),
        })
    }
}

/// A duration as a plain number.
fn in_nanoseconds(duration: &Value) -> Value {
    Value { value: duration.value.clone(), ..Value::of("int64".into(), Kind::Int64) }
}

fn got(value: &Value) -> Evaluated<Got> {
    // A pointer whose address was read can be compared, whatever became of what it points at.
    if let Some(reason) = value.unavailable
        && value.addr.is_none()
    {
        return Err(reason);
    }
    let name = || value.type_name.clone().unwrap_or_default();
    Ok(match (&value.value, value.kind) {
        (Some(Scalar::Int(number)), kind) => Got::Integer((*number).into(), class(kind), name()),
        (Some(Scalar::Uint(number)), kind) => Got::Integer((*number).into(), class(kind), name()),
        (Some(Scalar::Float(number)), _) => Got::Float(number.as_f64()),
        (Some(Scalar::Bool(truth)), _) => Got::Bool(*truth),
        (Some(Scalar::Text(text)), _) if value.truncated.is_none() => Got::Text(text.clone().into_bytes()),
        (None, Some(Kind::String)) if value.truncated.is_none() => match &value.base64 {
            Some(text) => Got::Text(BASE64.decode(text).map_err(|_| Unavailable::BadDebugInfo)?),
            None => Got::Text(Vec::new()),
        },
        _ => Got::Value(value.clone()),
    })
}

fn class(kind: Option<Kind>) -> Class {
    let (bits, signed) = match kind {
        Some(Kind::Int8) => (8, true),
        Some(Kind::Int16) => (16, true),
        Some(Kind::Int32) => (32, true),
        Some(Kind::Uint8) => (8, false),
        Some(Kind::Uint16) => (16, false),
        Some(Kind::Uint32) => (32, false),
        Some(Kind::Uint | Kind::Uint64 | Kind::Uintptr) => (64, false),
        _ => (64, true),
    };
    Class::Integer { bits, signed }
}

fn held(got: Got) -> Option<Value> {
    match got {
        Got::Value(value) if value.kind == Some(Kind::Interface) => value.elem.map(|elem| *elem),
        _ => None,
    }
}

/// Whether a value's type is what the expression calls it: a package's path may be left out, or all of it but the last part.
fn is_named(value: &Value, name: &str) -> bool {
    let full = value.type_name.as_deref().unwrap_or_default();
    let name: String = name.split_whitespace().collect();
    let (full_base, base) = (full.trim_start_matches('*'), name.trim_start_matches('*'));
    let same_stars = full.len() - full_base.len() == name.len() - base.len();
    let ends = |separator: char| full_base.strip_suffix(base).is_some_and(|rest| rest.ends_with(separator));
    same_stars && (full_base == base || ends('/') || (!base.contains('.') && ends('.')))
}

fn pointee(got_pointer: Got) -> Evaluated<Got> {
    match got_pointer {
        Got::Value(Value { elem: Some(elem), .. }) => got(&elem),
        Got::Value(Value { nil: true, .. }) => Err(Unavailable::Fault),
        Got::Value(Value { unavailable: Some(reason), .. }) => Err(reason),
        _ => Err(Unavailable::Budget),
    }
}

fn field(holder: Got, name: &str) -> Evaluated<Got> {
    let holder = match holder {
        Got::Value(Value { kind: Some(Kind::Pointer), elem: Some(elem), .. }) => *elem,
        Got::Value(Value { nil: true, .. }) => return Err(Unavailable::Fault),
        Got::Value(Value { unavailable: Some(reason), .. }) => return Err(reason),
        Got::Value(value) => value,
        _ => return Err(Unavailable::BadDebugInfo),
    };
    let mut level = vec![holder];
    for _ in 0..8 {
        let mut next = Vec::new();
        for holder in level {
            for field in holder.fields.into_iter().flatten() {
                if &*field.name == name {
                    return got(&field.value);
                }
                if field.embedded {
                    let value = field.value;
                    next.push(match value.elem {
                        Some(elem) if value.kind == Some(Kind::Pointer) => *elem,
                        _ => value,
                    });
                }
            }
        }
        level = next;
    }
    Err(Unavailable::Budget)
}

fn element(base: Got, index: &Got) -> Evaluated<Got> {
    match (base, index) {
        (Got::Value(Value { unavailable: Some(reason), .. }), _) => Err(reason),
        (Got::Text(bytes), Got::Integer(at, ..)) => {
            let byte = usize::try_from(*at).ok().and_then(|at| bytes.get(at));
            let byte = *byte.ok_or(Unavailable::Fault)?;
            Ok(Got::Integer(byte.into(), Class::Integer { bits: 8, signed: false }, "uint8".into()))
        }
        (Got::Value(map), key) if map.kind == Some(Kind::Map) => {
            for (found, value) in map.entries.iter().flatten() {
                let same = match (got(found)?, key) {
                    (Got::Integer(left, ..), Got::Integer(right, ..)) => left == *right,
                    (Got::Text(left), Got::Text(right)) => left == *right,
                    (Got::Bool(left), Got::Bool(right)) => left == *right,
                    _ => return Err(Unavailable::Budget),
                };
                if same {
                    return got(value);
                }
            }
            // Of a map that was copied whole this is Go's zero value, which only its type would tell.
            Err(if map.truncated.is_some() { Unavailable::Budget } else { Unavailable::NotInitialized })
        }
        (Got::Value(base), Got::Integer(at, ..)) => {
            let base = base.elem.as_deref().filter(|_| base.elems.is_none()).unwrap_or(&base);
            let len = base.len.unwrap_or(0);
            if *at < 0 || *at >= i128::from(len) {
                return Err(Unavailable::Fault);
            }
            let found = usize::try_from(*at).ok().and_then(|at| base.elems.as_ref()?.get(at));
            got(found.ok_or(Unavailable::Budget)?)
        }
        _ => Err(Unavailable::BadDebugInfo),
    }
}

fn binary(operator: Binary, left: Got, right: Got) -> Evaluated<Got> {
    let comparison = match operator {
        Binary::Equal => Some(Comparison::Equal),
        Binary::NotEqual => Some(Comparison::NotEqual),
        Binary::Less => Some(Comparison::Less),
        Binary::LessEqual => Some(Comparison::LessEqual),
        Binary::Greater => Some(Comparison::Greater),
        Binary::GreaterEqual => Some(Comparison::GreaterEqual),
        _ => None,
    };
    if let Some(comparison) = comparison {
        return order(&left, &right).map(|order| Got::Bool(comparison.holds(order)));
    }
    let (Got::Integer(left, left_class, left_name), Got::Integer(right, right_class, right_name)) =
        (left, right)
    else {
        return Err(Unavailable::BadDebugInfo);
    };
    let is_shift = matches!(operator, Binary::ShiftLeft | Binary::ShiftRight);
    let (class, name) = if left_class == Class::UntypedInteger && !is_shift {
        (right_class, right_name)
    } else {
        (left_class, left_name)
    };
    let value = match operator {
        Binary::Add => left.wrapping_add(right),
        Binary::Subtract => left.wrapping_sub(right),
        // Of two 64-bit integers every bit that counts is right.
        Binary::Multiply => left.wrapping_mul(right),
        Binary::Divide => left.checked_div(right).ok_or(Unavailable::Fault)?,
        Binary::Remainder => left.checked_rem(right).ok_or(Unavailable::Fault)?,
        Binary::BitAnd => left & right,
        Binary::BitOr => left | right,
        Binary::BitXor => left ^ right,
        Binary::AndNot => left & !right,
        Binary::ShiftLeft | Binary::ShiftRight if right < 0 => return Err(Unavailable::Fault),
        Binary::ShiftLeft if right >= 64 => 0,
        Binary::ShiftLeft => left.wrapping_shl(u32::try_from(right).unwrap_or(0)),
        Binary::ShiftRight => left >> u32::try_from(right).unwrap_or(127).min(127),
        _ => return Err(Unavailable::BadDebugInfo),
    };
    Ok(Got::Integer(class.wrap(value), class, name))
}

fn order(left: &Got, right: &Got) -> Evaluated<Option<Ordering>> {
    let equal = |same: bool| Some(if same { Ordering::Equal } else { Ordering::Less });
    Ok(match (left, right) {
        (Got::Integer(left, ..), Got::Integer(right, ..)) => left.partial_cmp(right),
        (Got::Text(left), Got::Text(right)) => left.partial_cmp(right),
        (Got::Bool(left), Got::Bool(right)) => equal(left == right),
        (Got::Float(left), Got::Float(right)) => left.partial_cmp(right),
        (Got::Value(value), Got::Nil) | (Got::Nil, Got::Value(value)) => equal(value.nil),
        (Got::Value(left), Got::Value(right)) => equal(left.addr == right.addr && left.nil == right.nil),
        // A string that was cut.
        _ => return Err(Unavailable::Budget),
    })
}

fn as_value(got: Got) -> Value {
    match got {
        Got::Value(value) => value,
        Got::Integer(number, class, name) => {
            let (kind, scalar) = match class {
                Class::Integer { signed: false, bits } => {
                    let kind = match bits {
                        8 => Kind::Uint8,
                        16 => Kind::Uint16,
                        32 => Kind::Uint32,
                        _ if &*name == "uint" => Kind::Uint,
                        _ => Kind::Uint64,
                    };
                    (kind, Scalar::Uint(u64::try_from(number).unwrap_or(u64::MAX)))
                }
                Class::Integer { bits, .. } => {
                    let kind = match bits {
                        8 => Kind::Int8,
                        16 => Kind::Int16,
                        32 => Kind::Int32,
                        _ if &*name == "int64" => Kind::Int64,
                        _ => Kind::Int,
                    };
                    (kind, Scalar::Int(i64::try_from(number).unwrap_or(i64::MAX)))
                }
                _ => (Kind::Int, Scalar::Int(i64::try_from(number).unwrap_or(i64::MAX))),
            };
            Value { value: Some(scalar), ..Value::of(name, kind) }
        }
        Got::Float(number) => {
            let scalar = Scalar::Float(riptrace_common::wire::number::Float::F64(number));
            Value { value: Some(scalar), ..Value::of("float64".into(), Kind::Float64) }
        }
        Got::Bool(truth) => {
            Value { value: Some(Scalar::Bool(truth)), ..Value::of("bool".into(), Kind::Bool) }
        }
        Got::Text(bytes) => {
            let mut value =
                Value { len: Some(bytes.len() as u64), ..Value::of("string".into(), Kind::String) };
            match String::from_utf8(bytes) {
                Ok(text) => value.value = Some(Scalar::Text(text)),
                Err(error) => value.base64 = Some(BASE64.encode(error.as_bytes())),
            }
            value
        }
        Got::Nil => Value { nil: true, ..Value::default() },
    }
}

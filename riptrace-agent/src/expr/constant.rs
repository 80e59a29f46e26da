//! Values that are known from the text: Go's constants, folded and converted.

use std::sync::Arc;

use super::{
    classes::Class,
    typed::{Arithmetic, Comparison},
};

/// A value that is known from the text.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are Go's")]
pub enum Constant {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Arc<[u8]>),
    Nil,
}

/// Untyped integers beyond this are refused; so no step of folding can overflow unseen.
const MAX_UNTYPED: i128 = 1 << 100;

/// What an operator gives for two constants; the error says why there is nothing.
pub(super) fn fold(
    operator: Arithmetic,
    left: &Constant,
    right: &Constant,
    class: &Class,
) -> Result<Constant, String> {
    use Arithmetic as A;
    let (Constant::Integer(left), Constant::Integer(right)) = (left, right) else {
        return match (number(left), number(right)) {
            (Some(left), Some(right)) => fold_floats(operator, left, right),
            _ => Err("this is not arithmetic on numbers".to_owned()),
        };
    };
    let (left, right) = (*left, *right);
    let shift = || u32::try_from(right).ok().filter(|by| *by <= 100).ok_or("the shift is too large");
    let value = match operator {
        A::Add => left.checked_add(right),
        A::Subtract => left.checked_sub(right),
        A::Multiply => left.checked_mul(right),
        A::Divide | A::Remainder if right == 0 => return Err("division by zero".to_owned()),
        A::Divide => left.checked_div(right),
        A::Remainder => left.checked_rem(right),
        A::And => Some(left & right),
        A::Or => Some(left | right),
        A::Xor => Some(left ^ right),
        A::AndNot => Some(left & !right),
        A::ShiftLeft => left.checked_mul(1i128.checked_shl(shift()?).unwrap_or(i128::MAX)),
        A::ShiftRight => left.checked_shr(shift()?),
    };
    let (least, most) = class.integer_range().unwrap_or((-MAX_UNTYPED, MAX_UNTYPED));
    value
        .filter(|value| (least..=most).contains(value))
        .map(Constant::Integer)
        .ok_or_else(|| "the constant overflows".to_owned())
}

fn fold_floats(operator: Arithmetic, left: f64, right: f64) -> Result<Constant, String> {
    let value = match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide if right == 0.0 => return Err("division by zero".to_owned()),
        Arithmetic::Divide => left / right,
        _ => return Err("only integers have this operator".to_owned()),
    };
    if value.is_finite() { Ok(Constant::Float(value)) } else { Err("the constant overflows".to_owned()) }
}

fn number(constant: &Constant) -> Option<f64> {
    match constant {
        #[expect(
            clippy::cast_precision_loss,
            reason = "that is what Go does with a constant that becomes a float"
        )]
        Constant::Integer(value) => Some(*value as f64),
        Constant::Float(value) => Some(*value),
        _ => None,
    }
}

/// A comparison of constants.
pub(super) fn compare(operator: Comparison, left: &Constant, right: &Constant) -> Option<bool> {
    let ordering = match (left, right) {
        (Constant::Integer(left), Constant::Integer(right)) => left.partial_cmp(right),
        (Constant::Text(left), Constant::Text(right)) => left.partial_cmp(right),
        (Constant::Bool(left), Constant::Bool(right)) => left.partial_cmp(right),
        (left, right) => number(left)?.partial_cmp(&number(right)?),
    };
    Some(operator.holds(ordering))
}

/// A constant as a value of a type; the error says why it is none.
pub(super) fn convert(constant: &Constant, class: &Class, type_name: &str) -> Result<Constant, String> {
    let whole = |value: f64| {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by the comparison")]
        (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128)
    };
    match (class, constant) {
        (Class::Integer { .. }, Constant::Integer(_) | Constant::Float(_)) => {
            let value = match constant {
                Constant::Float(value) => {
                    whole(*value).ok_or_else(|| format!("{value} is no integer, as {type_name} is"))?
                }
                Constant::Integer(value) => *value,
                _ => 0,
            };
            match class.integer_range() {
                Some((least, most)) if value < least || value > most => {
                    Err(format!("{value} does not fit into {type_name} ({least} to {most})"))
                }
                _ => Ok(Constant::Integer(value)),
            }
        }
        (Class::Float { bits }, Constant::Integer(_) | Constant::Float(_)) => {
            let value = number(constant).unwrap_or_default();
            #[expect(clippy::cast_possible_truncation, reason = "rounded as Go rounds it")]
            let value = if *bits == 32 { f64::from(value as f32) } else { value };
            if value.is_finite() {
                Ok(Constant::Float(value))
            } else {
                Err(format!("the number is too large for {type_name}"))
            }
        }
        (Class::UntypedFloat, Constant::Integer(_) | Constant::Float(_))
        | (Class::UntypedInteger, Constant::Integer(_))
        | (Class::String, Constant::Text(_))
        | (Class::Bool, Constant::Bool(_)) => Ok(constant.clone()),
        _ => Err(format!("{} is no {type_name}", shown(constant))),
    }
}

pub(super) fn shown(constant: &Constant) -> String {
    match constant {
        Constant::Bool(value) => value.to_string(),
        Constant::Integer(value) => value.to_string(),
        Constant::Float(value) => value.to_string(),
        Constant::Text(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Constant::Nil => "nil".to_owned(),
    }
}

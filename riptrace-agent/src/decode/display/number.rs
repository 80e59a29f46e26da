//! Package `math/big`.

use std::fmt::Write as _;

use riptrace_common::wire::value::Value;

use super::{boolean, elements, field, unsigned};

/// Decimal digits that one division takes out.
const DIGITS: usize = 19;
const POWER: u128 = 10_u128.pow(19);
/// Words of a number that is shown: its text has about 5,000 digits.
const MAX_WORDS: usize = 256;

pub(super) fn big(value: &Value, name: &str) -> Option<String> {
    match name {
        "math/big.Int" => int(value),
        "math/big.Rat" => {
            let (numerator, denominator) = (field(value, "a")?, field(value, "b")?);
            // A denominator without words stands for 1.
            let whole = elements(field(denominator, "abs")?)?.is_empty();
            let denominator = if whole { "1".to_owned() } else { int(denominator)? };
            Some(format!("{}/{denominator}", int(numerator)?))
        }
        _ => None,
    }
}

fn int(value: &Value) -> Option<String> {
    let negative = boolean(field(value, "neg")?)?;
    let words = elements(field(value, "abs")?)?;
    if words.len() > MAX_WORDS {
        return None;
    }
    let mut words = words.iter().map(unsigned).collect::<Option<Vec<u64>>>()?;
    let mut groups = Vec::new();
    while words.iter().any(|word| *word != 0) {
        let mut rest = 0_u128;
        for word in words.iter_mut().rev() {
            let dividend = rest << 64 | u128::from(*word);
            *word = u64::try_from(dividend / POWER).ok()?;
            rest = dividend % POWER;
        }
        groups.push(rest);
    }
    let Some(first) = groups.pop() else { return Some("0".to_owned()) };
    let mut text = format!("{}{first}", if negative { "-" } else { "" });
    for group in groups.iter().rev() {
        // Writing to a string can't fail.
        let _ = write!(text, "{group:0DIGITS$}");
    }
    Some(text)
}

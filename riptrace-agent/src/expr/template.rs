//! Messages: text with expressions in braces, `order {o.ID} of {o.Name}: {len(o.Items)}`. `{{` and `}}` are braces.

use std::sync::Arc;

use super::{
    ast::Expr,
    error::ExprError,
    parser::{MAX_TEXT_BYTES, parse},
};

/// A message as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Its pieces in order.
    pub pieces: Vec<TemplatePiece>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplatePiece {
    /// As it is.
    Text(String),
    /// The value of an expression, with its text.
    Value(Arc<str>, Expr),
}

/// Reads a message.
///
/// # Errors
///
/// Says what is not understood, and where.
pub fn parse_template(text: &str) -> Result<Template, ExprError> {
    let shown: Arc<str> = text.into();
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("a message has at most {MAX_TEXT_BYTES} bytes, this one has {}", text.len());
        return Err(ExprError::new(&text.chars().take(80).collect::<String>().into(), 0..1, message));
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        let doubled = text.get(at + c.len_utf8()..).is_some_and(|rest| rest.starts_with(c));
        match c {
            '{' | '}' if doubled => {
                plain.push(c);
                at += 2;
            }
            '}' => {
                return Err(ExprError::new(
                    &shown,
                    at..at + 1,
                    "no expression is open here; a brace is written }}",
                ));
            }
            '{' => {
                let end = closing(text, at + 1).ok_or_else(|| {
                    ExprError::new(&shown, at..at + 1, "the brace is not closed; a brace is written {{")
                })?;
                let inner = text.get(at + 1..end).unwrap_or_default();
                let expr = parse(inner).map_err(|error| {
                    let place = at + 1 + error.span.start..at + 1 + error.span.end;
                    ExprError::new(&shown, place, error.message)
                })?;
                if !plain.is_empty() {
                    pieces.push(TemplatePiece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(TemplatePiece::Value(inner.into(), expr));
                at = end + 1;
            }
            c => {
                plain.push(c);
                at += c.len_utf8();
            }
        }
    }
    if !plain.is_empty() {
        pieces.push(TemplatePiece::Text(plain));
    }
    Ok(Template { pieces })
}

/// The brace that closes an expression: the first outside of quotes.
fn closing(text: &str, from: usize) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.get(from..)?.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"' | '\''), '\\') => escaped = true,
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '}') => return Some(from + at),
            _ => {}
        }
    }
    None
}

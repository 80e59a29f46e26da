//! What is wrong with an expression, and where.

use std::{fmt, sync::Arc};

use super::ast::Span;

/// Characters of the text that are shown beside the place.
const CONTEXT_CHARS: usize = 60;

/// Why an expression can't be used. Shown with the text and the place:
///
/// ```text
/// o has no field Totl; there is Total
///     o.Totl > 100
///       ^^^^
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExprError {
    /// The expression.
    pub text: Arc<str>,
    /// Which of its bytes.
    pub span: Span,
    /// What.
    pub message: String,
}

impl ExprError {
    pub(super) fn new(text: &Arc<str>, span: Span, message: impl Into<String>) -> Self {
        Self { text: Arc::clone(text), span, message: message.into() }
    }
}

impl std::error::Error for ExprError {}

impl fmt::Display for ExprError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<(usize, char)> =
            self.text.char_indices().map(|(at, c)| (at, if c.is_control() { ' ' } else { c })).collect();
        let position = |byte: usize| shown.partition_point(|(at, _)| *at < byte);
        let (start, end) = (position(self.span.start), position(self.span.end));
        let from = start.saturating_sub(CONTEXT_CHARS);
        let to = shown.len().min(end.clamp(start, start + CONTEXT_CHARS) + CONTEXT_CHARS);
        let text: String = shown.get(from..to).unwrap_or_default().iter().map(|(_, c)| c).collect();
        let (before, after) = (if from > 0 { "…" } else { "" }, if to < shown.len() { "…" } else { "" });
        let blanks = " ".repeat(start - from + before.chars().count());
        let carets = "^".repeat(end.min(to).saturating_sub(start).max(1));
        let line = format!("    {before}{text}{after}");
        write!(formatter, "{}\n{}\n    {blanks}{carets}", self.message, line.trim_end())
    }
}

/// `; there is a, b` or nothing.
pub(super) fn nearest_clause(nearest: &[Arc<str>]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; there is {}", nearest.join(", ")) }
}

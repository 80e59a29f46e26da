//! What a hit shows beside variables: expressions that are computed from captured operands, and a message.

use std::sync::Arc;

use riptrace_common::wire::{
    event::{Hit, Role, Variable},
    number::Scalar,
    value::Value,
};

use super::{
    planning::ImageTypes,
    scope::{PackageNames, ParsedExpr, with_package},
};
use crate::{
    dwarf::{DebugInfo, VisibleVariable},
    expr::{self, Computed, OutputPiece, Outputs, Scope, Template, TemplatePiece},
    plan::path::PathExpression,
    render,
};

/// What is wanted of a hit beside paths of variables.
#[derive(Clone, Debug, Default)]
pub struct Expressions {
    /// Computed from what is captured.
    pub computed: Vec<ParsedExpr>,
    /// A line of text.
    pub message: Option<Template>,
}

impl Expressions {
    /// Nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.computed.is_empty() && self.message.is_none()
    }
}

/// The operands of the expressions, to be captured behind the captures, and what is made of them.
pub(super) fn plan(
    types: &ImageTypes,
    package: &str,
    variables: &[VisibleVariable],
    captures: usize,
    expressions: &Expressions,
) -> Result<(Vec<PathExpression>, Outputs), String> {
    let debug: &DebugInfo = types.unredacted();
    let short = package.rsplit('/').next().unwrap_or(package);
    let mut operands = Vec::new();
    let mut one = |option: &str, text: &Arc<str>, parsed: &expr::Expr| {
        let mut scoped = with_package(debug, package, &expr::names_in(parsed), variables)
            .map_err(|error| error.to_string())?;
        types.redact_variables(&mut scoped);
        let names = PackageNames { debug, package, rules: types.rules() };
        let scope = Scope { types, variables: &scoped, names: &names };
        let typed = expr::check(text, parsed, scope).map_err(|error| format!("{option}: {error}"))?;
        let is_variable = |name: &str, field: Option<&str>| {
            let is = |name: &str| scoped.iter().any(|variable| &*variable.name == name);
            is(name) || (name == short && field.is_some_and(|field| is(&format!("{name}.{field}"))))
        };
        let mut found = Vec::new();
        expr::operands(&typed, parsed, text, &is_variable, &mut found);
        let mut constants = Vec::new();
        expr::constants(&typed, &mut constants);
        let mut places = Vec::new();
        for (span, path) in found {
            let at = operands.iter().position(|known| *known == path).unwrap_or(operands.len());
            if at == operands.len() {
                operands.push(path);
            }
            places.push((span, captures + at));
        }
        Ok::<_, String>(Computed {
            text: Arc::clone(text),
            expr: parsed.clone(),
            operands: places,
            constants,
        })
    };
    let computed = expressions
        .computed
        .iter()
        .map(|parsed| one("--capture", &parsed.text, &parsed.expr))
        .collect::<Result<Vec<_>, _>>()?;
    let message = match &expressions.message {
        None => None,
        Some(template) => {
            let mut pieces = Vec::new();
            for piece in &template.pieces {
                pieces.push(match piece {
                    TemplatePiece::Text(text) => OutputPiece::Text(text.clone()),
                    TemplatePiece::Value(text, parsed) => OutputPiece::Value(one("--message", text, parsed)?),
                });
            }
            Some(pieces)
        }
    };
    Ok((operands, Outputs { shown: captures, computed, message }))
}

/// Computes the expressions of a hit and takes the operands out that were not asked for.
pub(super) fn apply(outputs: &Outputs, hit: &mut Hit) {
    let planned: Vec<&Value> = hit.variables.iter().map(|variable| &variable.value).collect();
    let computed: Vec<Variable> = outputs
        .computed
        .iter()
        .map(|one| Variable {
            name: Arc::clone(&one.text),
            role: Role::Expression,
            value: one.value(&planned),
        })
        .collect();
    let message = outputs.message.as_ref().map(|pieces| {
        let text = |piece: &OutputPiece| match piece {
            OutputPiece::Text(text) => text.clone(),
            OutputPiece::Value(computed) => plain(&computed.value(&planned)),
        };
        pieces.iter().map(text).collect::<String>()
    });
    hit.variables.truncate(outputs.shown);
    hit.variables.extend(computed);
    hit.message = message;
}

/// A value within a message: as text is written, without quotes and types where there is only one way to read it.
fn plain(value: &Value) -> String {
    if let Some(reason) = value.unavailable {
        let label = serde_json::to_value(reason).ok();
        let label = label.as_ref().and_then(|label| label.as_str()).unwrap_or("unavailable");
        return format!("<{label}>");
    }
    match (&value.value, &value.display) {
        (_, Some(display)) => display.clone(),
        (Some(Scalar::Text(text)), _) if value.truncated.is_none() => text.clone(),
        (Some(Scalar::Text(text)), _) => format!("{text}…"),
        (Some(Scalar::Int(number)), _) => number.to_string(),
        (Some(Scalar::Uint(number)), _) => number.to_string(),
        (Some(Scalar::Bool(truth)), _) => truth.to_string(),
        _ if value.nil => "nil".to_owned(),
        _ => render::text::value(value),
    }
}

//! What a hit shows beside variables: expressions that are computed from captured operands, and a message.

use std::sync::Arc;

use riptrace_common::wire::{
    event::{Hit, Role, Trigger, Variable},
    number::Scalar,
    value::{Unavailable, Value},
};

use super::{
    kept::KeptOfCalls,
    planning::ImageTypes,
    scope::{PackageNames, ParsedExpr, with_package},
};
use crate::{
    decode,
    dwarf::{DebugInfo, DwarfError, VariableLocation, VisibleVariable},
    expr::{self, Computed, Given, Operand, OutputPiece, Outputs, Scope, Template, TemplatePiece},
    plan::path::{self, PathExpression, PathStep},
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

/// How long a call took: at its end, unless a variable has the name.
const DURATION: &str = "duration";
/// The same as a number.
const DURATION_NS: &str = "duration_ns";
/// The results are numbered by their names where they have none, and may be called so where they have.
const RESULT: &str = "~r";

/// What expressions may name.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) types: &'a ImageTypes,
    pub(super) package: &'a str,
    /// The variables of the site.
    pub(super) variables: &'a [VisibleVariable],
}

impl Names<'_> {
    /// What is captured by way of pointers, and what is computed: an element of a map or a string is, although it is
    /// written as an element of a slice would be.
    pub(super) fn captures_and_expressions(
        self,
        captures: &[PathExpression],
        expressions: &Expressions,
    ) -> Result<(Vec<PathExpression>, Expressions), DwarfError> {
        let (mut paths, mut expressions) = (Vec::new(), expressions.clone());
        for capture in captures {
            let is_element = |step: &PathStep| matches!(step, PathStep::Index(_));
            let parsed = capture.steps.iter().any(is_element).then(|| ParsedExpr::parse(&capture.text));
            match parsed {
                Some(Ok(parsed)) if self.looks_up(capture)? => {
                    expressions.computed.push(parsed);
                }
                _ => paths.push(capture.clone()),
            }
        }
        Ok((paths, expressions))
    }

    fn looks_up(self, capture: &PathExpression) -> Result<bool, DwarfError> {
        let debug: &DebugInfo = self.types.unredacted();
        let named = [Arc::clone(&capture.variable)];
        let variables = with_package(debug, self.package, &named, self.variables)?;
        let of = |name: &str| variables.iter().find(|variable| &*variable.name == name);
        let mut capture = capture.clone();
        let variable = match (of(&capture.variable), capture.steps.first()) {
            (None, Some(PathStep::Field(field))) => {
                let variable = of(&format!("{}.{field}", capture.variable));
                capture.steps.remove(0);
                variable
            }
            (variable, _) => variable,
        };
        Ok(variable.is_some_and(|variable| path::looks_up(self.types, &capture, variable.ty)))
    }
}

/// What is read for expressions, and what is made of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Planned {
    /// Operands that are read with the hit.
    pub(super) operands: Vec<PathExpression>,
    /// Operands that were read when the call began.
    pub(super) kept: Vec<PathExpression>,
    pub(super) outputs: Outputs,
}

impl Names<'_> {
    /// Whether an expression tells of a call's end: it names a result, or how long the call took.
    fn is_of_end(self, results: &[Arc<str>], expr: &expr::Expr) -> bool {
        expr::names_in(expr).iter().any(|name| {
            let mut variables = self.variables.iter();
            match variables.find(|variable| variable.name == *name) {
                _ if results.contains(name) => true,
                Some(variable) => variable.role == Role::Return,
                None => name.starts_with(RESULT) || matches!(&**name, DURATION | DURATION_NS),
            }
        })
    }

    /// Of these expressions those that tell of a call's end (and its results, called so), or the others. A message that
    /// names anything of the end is the end's.
    pub(super) fn of_ends(
        self,
        results: &[Arc<str>],
        expressions: Expressions,
        of_ends: bool,
    ) -> Expressions {
        let Expressions { mut computed, message } = expressions;
        computed.retain(|parsed| self.is_of_end(results, &parsed.expr) == of_ends);
        let message = message.filter(|template| {
            let tells = |piece: &TemplatePiece| match piece {
                TemplatePiece::Text(_) => false,
                TemplatePiece::Value(_, parsed) => self.is_of_end(results, parsed),
            };
            template.pieces.iter().any(tells) == of_ends
        });
        Expressions { computed, message }
    }
}

impl Expressions {
    /// For a copy of an inlined function, of whose results without names debug data knows nothing but some of the places:
    /// what names any other is left out, and named in a message as what it is.
    pub(super) fn of_copy(mut self, results: &[VisibleVariable]) -> Self {
        let is_lost = |expr: &expr::Expr| {
            let is_known = |name: &Arc<str>| results.iter().any(|result| result.name == *name);
            expr::names_in(expr).iter().any(|name| name.starts_with(RESULT) && !is_known(name))
        };
        self.computed.retain(|parsed| !is_lost(&parsed.expr));
        for piece in self.message.iter_mut().flat_map(|template| &mut template.pieces) {
            if matches!(piece, TemplatePiece::Value(_, parsed) if is_lost(parsed)) {
                let lost = Value { unavailable: Some(Unavailable::OptimizedOut), ..Value::default() };
                *piece = TemplatePiece::Text(plain(&lost));
            }
        }
        self
    }
}

/// Plans expressions over a site's variables: their operands are to be captured behind the first `shown`.
pub(super) fn plan(names: Names<'_>, shown: usize, expressions: &Expressions) -> Result<Planned, String> {
    plan_with(names, shown, expressions, &|_| Source::Planned)
}

/// Plans expressions over a call's end: its results are read there, and are captured behind the first `shown`; what else
/// is named was read when the call began. `names`: the variables of the entry; `all`: these are all results, in order.
pub(super) fn plan_of_end(
    names: Names<'_>,
    (results, all): (&[VisibleVariable], bool),
    shown: usize,
    expressions: &Expressions,
) -> Result<Planned, String> {
    let debug: &DebugInfo = names.types.unredacted();
    let entry = names.variables.iter().filter(|variable| variable.role != Role::Return);
    let mut variables: Vec<VisibleVariable> = results.iter().chain(entry).cloned().collect();
    for (index, result) in results.iter().enumerate().filter(|_| all) {
        let name: Arc<str> = format!("{RESULT}{index}").into();
        if variables.iter().all(|known| known.name != name) {
            variables.push(VisibleVariable { name, ..result.clone() });
        }
    }
    let own = variables.len();
    let duration = ["time.Duration", "int64"].iter().find_map(|name| debug.type_named(name));
    for (name, ty) in [(DURATION, duration), (DURATION_NS, debug.type_named("int64"))] {
        let is_free = variables.iter().all(|known| &*known.name != name);
        if let Some(ty) = ty.filter(|_| is_free) {
            variables.push(VisibleVariable {
                name: name.into(),
                role: Role::Return,
                ty,
                decl_line: 0,
                location: VariableLocation::Unavailable(Unavailable::NotInitialized),
                dict_index: None,
            });
        }
    }
    let source = |name: &str| match variables.iter().position(|variable| &*variable.name == name) {
        Some(at) if at >= own && name == DURATION => Source::Is(Operand::Duration),
        Some(at) if at >= own => Source::Is(Operand::DurationNs),
        Some(at) if at < results.len() => Source::Planned,
        Some(_) if name.starts_with(RESULT) => {
            let number = name.strip_prefix(RESULT).and_then(|number| number.parse::<usize>().ok());
            let result = number.and_then(|number| results.get(number));
            result.map_or(Source::Planned, |result| Source::Called(Arc::clone(&result.name)))
        }
        _ => Source::Kept,
    };
    plan_with(Names { variables: &variables, ..names }, shown, expressions, &source)
}

/// Where an operand is read.
enum Source {
    /// With the hit.
    Planned,
    /// With the hit, and this is the variable's own name.
    Called(Arc<str>),
    /// With the call's entry.
    Kept,
    /// Nowhere: it is this.
    Is(Operand),
}

fn plan_with(
    Names { types, package, variables }: Names<'_>,
    shown: usize,
    expressions: &Expressions,
    source: &dyn Fn(&str) -> Source,
) -> Result<Planned, String> {
    let debug: &DebugInfo = types.unredacted();
    let short = package.rsplit('/').next().unwrap_or(package);
    let mut planned = Planned::default();
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
        let operands = found.into_iter().map(|(span, mut path)| {
            let operand = match source(&path.variable) {
                Source::Planned => Operand::Planned(shown + place_in(&mut planned.operands, path)),
                Source::Called(name) => {
                    path.variable = name;
                    Operand::Planned(shown + place_in(&mut planned.operands, path))
                }
                Source::Kept => Operand::Kept(place_in(&mut planned.kept, path)),
                Source::Is(operand) => operand,
            };
            (span, operand)
        });
        Ok::<_, String>(Computed {
            text: Arc::clone(text),
            expr: parsed.clone(),
            operands: operands.collect(),
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
    planned.outputs = Outputs { shown, computed, message, ..Outputs::default() };
    Ok(planned)
}

/// The place of a path among others, where it is added unless it is there.
fn place_in(paths: &mut Vec<PathExpression>, path: PathExpression) -> usize {
    let at = paths.iter().position(|known| *known == path).unwrap_or(paths.len());
    if at == paths.len() {
        paths.push(path);
    }
    at
}

/// Computes the expressions of a hit and takes the operands out that were not asked for. `kept`: what calls' ends need
/// of their entries; `bytes`: of the hit's record.
pub(super) fn apply(
    outputs: &Outputs,
    hit: &mut Hit,
    tracepoint: u32,
    bytes: usize,
    kept_of_calls: &mut KeptOfCalls,
) {
    let mut outputs = outputs;
    if matches!(hit.event, Trigger::Panic | Trigger::Goexit) {
        // The site is the entry's, where nothing of this hit was read.
        let Some(of_end) = &outputs.at_end else { return };
        outputs = of_end;
    } else if !outputs.kept.is_empty() {
        let values = hit.variables.get(outputs.kept.clone()).unwrap_or_default();
        let values = values.iter().map(|variable| variable.value.clone()).collect();
        kept_of_calls.put((tracepoint, hit.seq), values, bytes);
    }
    let kept = hit.entry_seq.and_then(|entry| kept_of_calls.take((tracepoint, entry)));
    let duration = hit.duration_ns.map(decode::duration);
    let planned: Vec<&Value> = hit.variables.iter().map(|variable| &variable.value).collect();
    let given = Given { planned: &planned, kept: kept.as_deref(), duration: duration.as_ref() };
    let computed: Vec<Variable> = outputs
        .computed
        .iter()
        .map(|one| Variable { name: Arc::clone(&one.text), role: Role::Expression, value: one.value(given) })
        .collect();
    let message = outputs.message.as_ref().map(|pieces| {
        let text = |piece: &OutputPiece| match piece {
            OutputPiece::Text(text) => text.clone(),
            OutputPiece::Value(computed) => plain(&computed.value(given)),
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

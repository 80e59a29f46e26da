//! What expressions of a location can speak of: its variables, its package's, constants and types of the binary.

use std::{collections::BTreeSet, sync::Arc};

use super::planning::ImageTypes;
use crate::{
    dwarf::{DebugInfo, DwarfError, Function, Piece, Place, VariableLocation, VisibleVariable},
    expr::{self, CompileError, Expr, ExprError, Names, Places, Scope},
    golang::types::TypeId,
    plan::{condition::Condition, sites::Site},
    redact::Rules,
};

/// Lines that are named where a variable is readable.
const MAX_READABLE_LINES: usize = 8;
/// Addresses of a function that are looked at for them.
const MAX_ADDRESSES: usize = 4096;

/// An expression with its text.
#[derive(Clone, Debug, PartialEq)]
pub struct ParsedExpr {
    /// As it was given.
    pub text: Arc<str>,
    /// What it says.
    pub expr: Expr,
}

impl ParsedExpr {
    /// Reads an expression.
    ///
    /// # Errors
    ///
    /// Says what is not understood, and where.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        Ok(Self { text: text.into(), expr: expr::parse(text)? })
    }
}

/// Names of a binary, as code of a package calls them.
pub(super) struct PackageNames<'a> {
    pub(super) debug: &'a DebugInfo,
    pub(super) package: &'a str,
    pub(super) rules: &'a Rules,
}

impl Names for PackageNames<'_> {
    fn constant(&self, type_name: &str, name: &str) -> Option<i64> {
        let full = format!("{}.{name}", self.package);
        let of_other = format!("/{name}");
        let constants = self.debug.constants_of(type_name);
        let exact = constants.iter().find(|constant| *constant.name == *full || *constant.name == *name);
        exact
            .or_else(|| {
                let with_package = name.contains('.');
                constants.iter().find(|constant| with_package && constant.name.ends_with(&of_other))
            })
            .map(|constant| constant.value)
    }

    fn forbids_key(&self, key: &str) -> bool {
        !self.rules.are_off() && self.rules.forbids_key(key)
    }

    fn allows_key(&self, key: &str) -> bool {
        self.rules.allows_key(key)
    }

    fn type_named(&self, name: &str) -> Option<TypeId> {
        let compact: String = name.split_whitespace().collect();
        let (prefix, base) = compact.split_at(compact.find(|c: char| c != '*').unwrap_or(0));
        let base = match base {
            "byte" => "uint8",
            "rune" => "int32",
            "error" | "any" => return None,
            base => base,
        };
        let candidates = [format!("{prefix}{base}"), format!("{prefix}{}.{base}", self.package)];
        for candidate in candidates {
            if let Some(id) = self.debug.type_named(&candidate) {
                return Some(id);
            }
        }
        // `orders.Order` for `example.org/shop/orders.Order`.
        let suffix = format!("/{base}");
        let stars = prefix.len();
        self.debug.runtime_types().map(|(_, id)| id).find(|id| {
            let ty = crate::golang::types::TypeSource::get(self.debug, *id);
            let rest = ty.name.trim_start_matches('*');
            ty.name.len() - rest.len() == stars && rest.ends_with(&suffix)
        })
    }
}

/// The variables that an expression may name: those of the site, and, called `package.Name`, those of its package when the
/// expression names the package and no variable has its name.
pub(super) fn with_package(
    debug: &DebugInfo,
    package: &str,
    names: &[Arc<str>],
    variables: &[VisibleVariable],
) -> Result<Vec<VisibleVariable>, DwarfError> {
    let mut out = variables.to_vec();
    let short = package.rsplit('/').next().unwrap_or(package);
    if names.iter().any(|name| **name == *short) && variables.iter().all(|known| &*known.name != short) {
        for global in debug.globals(package)? {
            let Some(name) = global.name.rsplit('.').next() else { continue };
            out.push(VisibleVariable { name: format!("{short}.{name}").into(), ..global.clone() });
        }
    }
    Ok(out)
}

/// Compiles a condition for a site. The error is a text: several sites may have several reasons.
pub(super) fn condition(
    types: &ImageTypes,
    package: &str,
    site: &Site,
    cfa_from_sp: Option<i32>,
    variables: &[VisibleVariable],
    when: &ParsedExpr,
) -> Result<Condition, String> {
    let debug: &DebugInfo = types.unredacted();
    let names = PackageNames { debug, package, rules: types.rules() };
    let named = expr::names_in(&when.expr);
    if let Some(result) = named.iter().find(|name| name.starts_with('~')) {
        return Err(format!(
            "{result} is a result, which is not there yet where a call is decided: when it begins"
        ));
    }
    let mut variables = with_package(debug, package, &named, variables).map_err(|error| error.to_string())?;
    types.redact_variables(&mut variables);
    let scope = Scope { types, variables: &variables, names: &names };
    let typed = expr::check_condition(&when.text, &when.expr, scope).map_err(|error| error.to_string())?;
    let places = Places { types, variables: &variables, cfa_from_sp };
    expr::compile(&when.text, &typed, places).map_err(|CompileError { mut error, unreadable }| {
        if let (Some(name), Some(function)) = (unreadable, &site.function) {
            error.message.push_str(&elsewhere(debug, function, site, &name));
        }
        error.to_string()
    })
}

/// Where else a variable is readable.
fn elsewhere(debug: &DebugInfo, function: &Function, site: &Site, name: &str) -> String {
    let rows = debug.rows_of(function).unwrap_or_default();
    let mut lines = BTreeSet::new();
    for row in rows.iter().filter(|row| row.is_stmt && row.file == site.location.file).take(MAX_ADDRESSES) {
        let variables = debug.variables_at(function, row.address).unwrap_or_default();
        let found = variables.iter().find(|variable| &*variable.name == name);
        if row.line != site.location.line && found.is_some_and(|variable| is_whole(&variable.location)) {
            lines.insert(row.line);
        }
    }
    let mut lines: Vec<u32> = lines.into_iter().collect();
    lines.sort_by_key(|line| line.abs_diff(site.location.line));
    lines.truncate(MAX_READABLE_LINES);
    lines.sort_unstable();
    match lines.as_slice() {
        [] => {
            "; it is readable on no other line of this function; build with -gcflags=-N to keep it".to_owned()
        }
        [line] => format!("; it is readable on line {line}"),
        lines => {
            let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
            format!("; it is readable on lines {}", lines.join(", "))
        }
    }
}

fn is_whole(location: &VariableLocation) -> bool {
    let readable = |piece: &Piece| !matches!(piece.place, Place::Missing | Place::FloatRegister(_));
    match location {
        VariableLocation::Pieces(pieces) | VariableLocation::Heap(pieces) => pieces.iter().all(readable),
        VariableLocation::Closure { .. } => true,
        VariableLocation::Unavailable(_) => false,
    }
}

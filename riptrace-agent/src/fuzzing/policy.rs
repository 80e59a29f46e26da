//! Rules of what is not copied.

use std::sync::Arc;

use riptrace_common::wire::event::Role;

use super::plan::{every_kind, planned};
use crate::{
    dwarf::{Piece, Place, VariableLocation, VisibleVariable},
    golang::table::TypeTable,
    plan::types::TypeRegistry,
    redact::{Policy, RedactedTypes, Rules, Sort, TypeName},
};

/// Patterns and names that are tried of one input: the time is the product of both.
const MOST: usize = 64;

/// The text of a policy file. Its lines are patterns, and names that the rules are asked for, as well. What the rules leave of
/// a value of every kind is planned.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let policy = Policy::parse(text).map_err(|error| error.to_string()).ok();
    let lines: Vec<String> = text.lines().take(MOST).map(str::to_owned).collect();
    let patterns: Vec<String> =
        lines.iter().filter(|line| Rules::new(false, &[(*line).clone()], None).is_ok()).cloned().collect();
    for (defaults, patterns) in [(true, patterns.as_slice()), (false, lines.as_slice())] {
        let rules = match Rules::new(defaults, patterns, policy.as_ref()) {
            Ok(rules) => Arc::new(rules),
            Err(error) => {
                drop(error.to_string());
                continue;
            }
        };
        for name in &lines {
            let of_type = TypeName::new(name);
            for sort in [Sort::Text, Sort::Harmless, Sort::Other] {
                let _ = rules.treat_variable(name, || sort);
                let _ = rules.treat_field(&of_type, name, || sort);
                let _ = rules.forbids_type(&of_type, || sort);
            }
            let _ = rules.guards_type(&of_type);
            let _ = (rules.allows_key(name), rules.forbids_key(name));
        }
        plan_what_is_left(rules, &lines);
    }
}

fn plan_what_is_left(rules: Arc<Rules>, names: &[String]) {
    let types = TypeTable::default();
    let ty = every_kind(&types);
    let types = RedactedTypes::new(types, rules);
    let whole = VariableLocation::Pieces(vec![Piece { bytes: u32::MAX, place: Place::Frame(-64) }]);
    let heap = VariableLocation::Heap(vec![Piece { bytes: 8, place: Place::Register(3) }]);
    let closure = VariableLocation::Closure { register: 1, offset: 16, by_reference: true };
    let split = VariableLocation::Pieces(
        (0..9).map(|register| Piece { bytes: 8, place: Place::Register(register) }).collect(),
    );
    let name = |at: usize| names.get(at).map_or("o", String::as_str).into();
    let mut variables: Vec<VisibleVariable> = [whole, heap, closure, split]
        .into_iter()
        .enumerate()
        .map(|(at, location)| VisibleVariable {
            name: name(at),
            role: Role::Local,
            ty,
            decl_line: 1,
            location,
            dict_index: None,
        })
        .collect();
    types.redact_variables(&mut variables);
    let _ = planned(&mut TypeRegistry::new(), &types, &variables, &[]);
}

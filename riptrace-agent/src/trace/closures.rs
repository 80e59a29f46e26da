//! What closure objects hold: as debug data says, which it does since Go 1.23 of closures that were nowhere inlined, or as
//! the closure's own code proves. Code that reads a variable from the object that the context register points at, and puts
//! it where debug data says that the captured variable is, shows at which offset it lies.

use std::collections::BTreeMap;

use riptrace_common::wire::{event::Role, value::Unavailable};

use super::Image;
use crate::{
    dwarf::{CapturedVariable, ClosureLayout, DebugInfo, Place, VariableLocation, VisibleVariable},
    plan::copies::{CapturedFrom, Copies},
};

/// Instructions of one closure at which variables are looked for.
const MAX_INSTRUCTIONS: usize = 64;

/// The layout of the objects of the closure function that is entered at this address.
pub(super) fn layout(image: &Image, debug: &DebugInfo, code_address: u64) -> Option<ClosureLayout> {
    debug.closure_type(code_address).or_else(|| proved(image, debug, code_address))
}

fn proved(image: &Image, debug: &DebugInfo, code_address: u64) -> Option<ClosureLayout> {
    let function = debug.function_at(code_address).ok()??;
    if function.entry != code_address || !function.is_go {
        return None;
    }
    let body = debug.body_of(&function).ok()?;
    let captured_at = |address: u64| {
        let mut variables = debug.variables_between(&function, body, address).unwrap_or_default();
        variables.retain(|variable| variable.role == Role::Captured);
        variables
    };
    let in_body = captured_at(body);
    if in_body.is_empty() {
        return None;
    }
    let copies = Copies::of(image, &function)?;
    // By name. `None`: more than one place.
    let mut found: BTreeMap<_, Option<CapturedVariable>> = BTreeMap::new();
    for (address, known) in copies.behind_captured(MAX_INSTRUCTIONS) {
        for variable in captured_at(address) {
            // One place for the whole function, before it was filled: right there it may be.
            let location = match &variable.location {
                VariableLocation::Unavailable(Unavailable::NotInitialized) => {
                    in_frame(&in_body, &variable.name)
                }
                location => Some(location),
            };
            let (by_address, pieces) = match location {
                Some(VariableLocation::Pieces(pieces)) => (false, pieces),
                Some(VariableLocation::Heap(pieces)) => (true, pieces),
                _ => continue,
            };
            let (offset, by_reference) = match (known.captured(pieces), by_address) {
                (Some(CapturedFrom::Value(offset)), by_address) => (offset, by_address),
                // A copy that is too large for registers is used where it lies.
                (Some(CapturedFrom::Address(offset)), true) => (offset, false),
                (Some(CapturedFrom::Address(_)), false) | (None, _) => continue,
            };
            let proved =
                CapturedVariable { name: variable.name.clone(), offset, ty: variable.ty, by_reference };
            let known = found.entry(variable.name).or_insert_with(|| Some(proved.clone()));
            if known.as_ref() != Some(&proved) {
                *known = None;
            }
        }
    }
    debug.closure_of(&function, found.into_values().flatten().collect())
}

/// The variable's location, if all of it is in the frame.
fn in_frame<'a>(variables: &'a [VisibleVariable], name: &str) -> Option<&'a VariableLocation> {
    let location = &variables.iter().find(|variable| &*variable.name == name)?.location;
    let (VariableLocation::Pieces(pieces) | VariableLocation::Heap(pieces)) = location else { return None };
    pieces.iter().all(|piece| matches!(piece.place, Place::Frame(_))).then_some(location)
}

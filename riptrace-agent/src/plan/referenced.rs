//! Which package variables a function's code names: those are captured first, since a site has room for some dozens and a
//! package may have hundreds.

use std::collections::BTreeSet;

use super::{
    code::{CodeReader, FlowGraph},
    sites::Site,
};
use crate::{
    dwarf::{Place, VariableLocation, VisibleVariable},
    golang::types::TypeSource,
};

/// Puts the variables that the site's function names in front of the others; in both parts their order stays.
pub fn referenced_first(
    code: &dyn CodeReader,
    types: &dyn TypeSource,
    site: &Site,
    globals: &mut [VisibleVariable],
) {
    let Some(function) = &site.function else { return };
    if let Ok(graph) = FlowGraph::of(code, &function.ranges, function.entry) {
        sort(&graph, types, globals);
    }
}

fn sort(graph: &FlowGraph, types: &dyn TypeSource, globals: &mut [VisibleVariable]) {
    let named: BTreeSet<u64> = (0..graph.len())
        .map(|node| graph.instruction(node))
        .filter(|instruction| instruction.is_ip_rel_memory_operand())
        .map(|instruction| instruction.ip_rel_memory_address())
        .collect();
    globals.sort_by_key(|global| {
        let bytes = types.get(global.ty).bytes;
        !address(global).is_some_and(|at| named.range(at..at.saturating_add(bytes.max(1))).next().is_some())
    });
}

fn address(global: &VisibleVariable) -> Option<u64> {
    match &global.location {
        VariableLocation::Pieces(pieces) => match pieces.as_slice() {
            [piece] => match piece.place {
                Place::Address(address) => Some(address),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use riptrace_common::wire::event::Role;

    use super::*;
    use crate::{dwarf::Piece, golang::table::TypeTable, plan::code::tests::Bytes};

    #[test]
    fn variables_that_the_code_names_come_first_and_the_rest_keeps_its_order() {
        // mov rax, [rip + 0x12] (0x1019); lea rcx, [rip + 0x2] (0x1010); ret
        let code =
            Bytes::new(0x1000, &[0x48, 0x8b, 0x05, 0x12, 0, 0, 0, 0x48, 0x8d, 0x0d, 0x02, 0, 0, 0, 0xc3]);
        let types = TypeTable::default();
        let word = types.int();
        let variable = |name: &str, at: u64| VisibleVariable {
            name: name.into(),
            role: Role::Global,
            ty: word,
            decl_line: 0,
            location: VariableLocation::Pieces(vec![Piece { bytes: 8, place: Place::Address(at) }]),
            dict_index: None,
        };
        // The second one is named in its middle.
        let mut globals = [
            variable("before", 0x1008),
            variable("part", 0x1012),
            variable("between", 0x1021),
            variable("whole", 0x1010),
        ];
        sort(&code.graph().unwrap(), &types, &mut globals);
        let names: Vec<&str> = globals.iter().map(|global| &*global.name).collect();
        assert_eq!(names, ["part", "whole", "before", "between"]);
    }
}

//! Expressions: read, checked, compiled, and executed on words and memory that the input makes up.

use riptrace_common::{
    abi::condition::{Op, TARGET_FAIL, WORDS},
    condition::{Machine, Step, step},
};

use super::plan::every_kind;
use crate::{
    dwarf::{Piece, Place, VariableLocation, VisibleVariable},
    expr::{NoNames, Places, Scope, check, check_condition, compile, names_in, parse, parse_template},
    golang::table::TypeTable,
};

/// The text of a condition and of a message, over variables of every kind.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(parse_template(text).map_err(|error| error.to_string()));
    let expr = match parse(text) {
        Ok(expr) => expr,
        Err(error) => return drop(error.to_string()),
    };
    let _ = names_in(&expr);
    let types = TypeTable::default();
    let ty = every_kind(&types);
    let node = types.pointer(ty);
    let variable = |name: &str, ty, location| VisibleVariable {
        name: name.into(),
        role: riptrace_common::wire::event::Role::Local,
        ty,
        decl_line: 1,
        location,
        dict_index: None,
    };
    let register =
        |number| VariableLocation::Pieces(vec![Piece { bytes: 8, place: Place::Register(number) }]);
    let variables = [
        variable(
            "o",
            ty,
            VariableLocation::Pieces(vec![Piece { bytes: u32::MAX, place: Place::Frame(-64) }]),
        ),
        variable("p", node, register(0)),
        variable("n", types.int(), register(3)),
        variable("h", ty, VariableLocation::Heap(vec![Piece { bytes: 8, place: Place::Register(5) }])),
    ];
    let scope = Scope { types: &types, variables: &variables, names: &NoNames };
    drop(check(text, &expr, scope).map_err(|error| error.to_string()));
    let typed = match check_condition(text, &expr, scope) {
        Ok(typed) => typed,
        Err(error) => return drop(error.to_string()),
    };
    let places = Places { types: &types, variables: &variables, cfa_from_sp: Some(0x60) };
    match compile(text, &typed, places) {
        Ok(condition) => {
            let _ = condition.listing();
            let mut machine = Words([0xc000_0000_1000; WORDS]);
            let mut at = 0;
            while let Some(op) = condition.ops.get(usize::from(at)) {
                at = match step(&mut machine, op) {
                    Step::Next => at + 1,
                    Step::Go(target) => {
                        assert!(target > at, "jumps go forward");
                        target
                    }
                };
            }
        }
        Err(error) => drop(error.to_string()),
    }
}

struct Words([u64; WORDS]);

impl Machine for Words {
    fn word(&self, index: u8) -> u64 {
        self.0[usize::from(index) % WORDS]
    }

    fn set(&mut self, index: u8, value: u64) {
        self.0[usize::from(index) % WORDS] = value;
    }

    fn read(&mut self, address: u64, _: u32) -> Option<u64> {
        (!address.is_multiple_of(5)).then_some(address.rotate_left(7))
    }

    fn strings(&mut self, op: &Op) -> u32 {
        (self.word(op.left) & 1) as u32
    }

    fn find(&mut self, op: &Op) -> Result<u64, u16> {
        if op.left.is_multiple_of(3) { Err(TARGET_FAIL) } else { Ok(self.word(op.left)) }
    }
}

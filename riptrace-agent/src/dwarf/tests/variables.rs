//! Which variables are visible where, and what is said about their places.

use riptrace_common::wire::event::Role;

use super::fixture::{Mode, Program, is_whole, line, named, program, programs};
use crate::{
    dwarf::{Place, VariableLocation, VisibleVariable},
    golang::types::TypeSource,
};

/// Name, role and type of each.
fn described(program: &Program, variables: &[VisibleVariable]) -> Vec<(String, Role, String)> {
    variables
        .iter()
        .map(|variable| {
            (variable.name.to_string(), variable.role, program.debug.get(variable.ty).name.to_string())
        })
        .collect()
}

fn expect(program: &Program, function: &str, mark: &str, expected: &[(&str, Role, &str)]) {
    let mut found = described(program, &program.visible(function, mark));
    let mut expected: Vec<_> =
        expected.iter().map(|&(name, role, ty)| (name.to_owned(), role, ty.to_owned())).collect();
    // Versions differ in the order of what one line declares and of what a closure captured.
    let locals = |(name, role, _): &(String, Role, String)| {
        (!matches!(role, Role::Argument | Role::Receiver)).then(|| name.clone())
    };
    found.sort_by_key(locals);
    expected.sort_by_key(locals);
    assert_eq!(found, expected, "{} {function} {mark}", program.name());
}

#[test]
fn unoptimised_code_shows_exactly_what_the_source_declares() {
    for program in programs().filter(|program| program.mode == Mode::Unoptimised) {
        let arguments = [
            ("t", Role::Receiver, "*main.T"),
            ("s", Role::Argument, "string"),
            ("f", Role::Argument, "float64"),
            ("e", Role::Argument, "error"),
            ("a", Role::Argument, "interface {}"),
        ];
        let results = [("n", Role::Local, "int"), ("err", Role::Local, "error")];
        let with =
            |more: &[(&'static str, Role, &'static str)]| [&arguments[..], &results[..], more].concat();
        // Not visible on its own line, visible from the next.
        expect(&program, "main.(*T).Method", "method z", &with(&[]));
        expect(&program, "main.(*T).Method", "after z", &with(&[("z", Role::Local, "int")]));
        // The inner one of a name.
        expect(&program, "main.(*T).Method", "inner z", &with(&[("z", Role::Local, "string")]));
        expect(
            &program,
            "main.(*T).Method",
            "after esc",
            &with(&[("z", Role::Local, "int"), ("esc", Role::Local, "int")]),
        );
        expect(
            &program,
            "main.T.Value",
            "value",
            &[("t", Role::Receiver, "main.T"), ("k", Role::Argument, "int")],
        );
        expect(
            &program,
            "main.shadows",
            "inner x",
            &[("v", Role::Argument, "int"), ("x", Role::Local, "string")],
        );
        expect(
            &program,
            "main.shadows",
            "outer x",
            &[("v", Role::Argument, "int"), ("x", Role::Local, "int")],
        );
        expect(
            &program,
            "main.loops",
            "in loop",
            &[
                ("items", Role::Argument, "[]string"),
                ("longest", Role::Local, "string"),
                ("i", Role::Local, "int"),
                ("item", Role::Local, "string"),
            ],
        );
        // Unnamed results are the compiler's own until return.
        expect(
            &program,
            "main.unnamed",
            "unnamed",
            &[("a", Role::Argument, "int"), ("b", Role::Local, "int")],
        );
        expect(
            &program,
            "main.floats",
            "floats",
            &[
                ("a", Role::Argument, "float64"),
                ("b", Role::Argument, "float64"),
                ("c", Role::Argument, "complex128"),
                ("d", Role::Local, "float64"),
            ],
        );
        expect(
            &program,
            "main.closures.func1",
            "in closure",
            &[
                ("q", Role::Argument, "int"),
                ("count", Role::Captured, "int"),
                ("text", Role::Captured, "string"),
                ("base", Role::Captured, "int"),
            ],
        );
        expect(
            &program,
            "main.closures",
            "after closure",
            &[
                ("base", Role::Argument, "int"),
                ("text", Role::Argument, "string"),
                ("count", Role::Local, "int"),
                ("r", Role::Local, "int"),
            ],
        );
    }
}

#[test]
fn every_variable_of_unoptimised_code_has_a_place() {
    for program in programs().filter(|program| program.mode == Mode::Unoptimised) {
        for (function, mark) in [
            ("main.(*T).Method", "after esc"),
            ("main.(*T).Method", "inner z"),
            ("main.T.Value", "value"),
            ("main.shadows", "inner x"),
            ("main.loops", "in loop"),
            ("main.floats", "floats"),
            ("main.closures", "after closure"),
            ("main.closures.func1", "in closure"),
        ] {
            for variable in program.visible(function, mark) {
                assert!(is_whole(&variable), "{} {function} {mark}: {variable:?}", program.name());
            }
        }
    }
}

#[test]
fn optimised_code_shows_the_same_names_on_lines_where_all_are_used() {
    for program in programs().filter(|program| program.mode == Mode::Optimised) {
        let visible = program.visible("main.(*T).Method", "after esc");
        for (name, role, ty) in [
            ("t", Role::Receiver, "*main.T"),
            ("s", Role::Argument, "string"),
            ("f", Role::Argument, "float64"),
            ("e", Role::Argument, "error"),
            ("a", Role::Argument, "interface {}"),
            ("z", Role::Local, "int"),
        ] {
            let variable = named(&visible, name);
            assert_eq!(variable.role, role, "{} {name}", program.name());
            assert_eq!(&*program.debug.get(variable.ty).name, ty, "{} {name}", program.name());
        }
        // Used by the line itself and behind it.
        for name in ["t", "s", "e", "a"] {
            assert!(is_whole(named(&visible, name)), "{} {:?}", program.name(), named(&visible, name));
        }
    }
}

#[test]
fn arguments_are_in_their_registers_at_entry() {
    for program in programs() {
        let function = program.function("main.(*T).Method");
        let variables = program.debug.variables_at(&function, function.entry).unwrap();
        // Integer registers of Go's ABI in order: RAX RBX RCX RDI RSI R8 R9; DWARF numbers 0 3 2 5 4 8 9.
        let registers: Vec<u16> = variables
            .iter()
            .filter(|variable| matches!(variable.role, Role::Argument | Role::Receiver))
            .filter_map(|variable| match &variable.location {
                VariableLocation::Pieces(pieces) => Some(pieces),
                _ => None,
            })
            .flatten()
            .filter_map(|piece| match piece.place {
                Place::Register(register) => Some(register),
                _ => None,
            })
            .collect();
        assert_eq!(registers, [0, 3, 2, 5, 4, 8, 9], "{}: {variables:#?}", program.name());
        let float = named(&variables, "f");
        assert!(
            matches!(&float.location, VariableLocation::Pieces(pieces) if pieces[0].place == Place::FloatRegister(17)),
            "{}: {float:?}",
            program.name()
        );
    }
}

#[test]
fn an_escaped_variable_is_found_through_its_address() {
    for program in programs() {
        let visible = program.visible("main.(*T).Method", "after esc");
        let Some(escaped) = visible.iter().find(|variable| &*variable.name == "esc") else { continue };
        assert_eq!(&*program.debug.get(escaped.ty).name, "int", "{}", program.name());
        if program.mode == Mode::Unoptimised {
            // `use` does not let its argument escape, so that it may also stay on the stack.
            assert!(is_whole(escaped), "{}: {escaped:?}", program.name());
        }
    }
}

#[test]
fn the_inlined_function_s_variables_are_shown_in_its_body_and_the_caller_s_outside() {
    for program in programs().filter(|program| program.mode == Mode::Optimised) {
        let function = program.function("main.callsSmall");
        let inside =
            program.debug.variables_at(&function, program.address(&function, line("in small"))).unwrap();
        let names: Vec<&str> = inside.iter().map(|variable| &*variable.name).collect();
        assert!(names.contains(&"a") && names.contains(&"b"), "{}: {names:?}", program.name());
        assert!(!names.contains(&"total") && !names.contains(&"n"), "{}: {names:?}", program.name());
        assert!(inside.iter().all(|variable| variable.role != Role::Receiver));
    }
}

#[test]
fn a_closure_says_what_it_captured_at_which_offset() {
    for program in programs() {
        let closure = program.function("main.closures.func1");
        let layout = program.debug.closure_type(closure.entry);
        if program.minor() < 23 {
            assert_eq!(layout, None, "{}", program.name());
            continue;
        }
        let layout = layout.unwrap_or_else(|| panic!("{}: no layout", program.name()));
        let mut names: Vec<(String, bool, String)> = layout
            .captured
            .iter()
            .map(|captured| {
                let ty = program.debug.get(captured.ty).name.to_string();
                (captured.name.to_string(), captured.by_reference, ty)
            })
            .collect();
        names.sort();
        let expected = [("base", false, "int"), ("count", true, "int"), ("text", false, "string")];
        assert_eq!(
            names,
            expected.map(|(name, by, ty)| (name.to_owned(), by, ty.to_owned())),
            "{}",
            program.name()
        );
        // Code address, *int, string, int
        assert_eq!(layout.bytes, 40, "{}: {layout:?}", program.name());
        assert_eq!(program.debug.closure_type(closure.entry + 1), None);
        assert_eq!(program.debug.closure_type(program.function("main.main").entry), None);

        let entry = program.debug.variables_at(&closure, closure.entry).unwrap();
        let count = named(&entry, "count");
        if program.mode == Mode::Optimised {
            assert!(
                matches!(count.location, VariableLocation::Closure { register: 1, by_reference: true, .. }),
                "{}: {count:?}",
                program.name()
            );
        }
    }
}

#[test]
fn a_generic_function_s_variables_say_where_their_real_type_is() {
    for program in programs() {
        let matches = program.debug.functions_matching("main.Generic[go.shape.int]").unwrap();
        let function = &matches[0].functions[0];
        let address = program.address(function, line("generic loop"));
        let variables = program.debug.variables_at(function, address).unwrap();
        let x = named(&variables, "x");
        assert!(x.dict_index.is_some(), "{}: {x:?}", program.name());
        let shape = program.debug.get(x.ty);
        assert_eq!((&*shape.name, shape.bytes), ("go.shape.int", 8), "{}", program.name());
        let n = named(&variables, "n");
        assert_eq!(n.dict_index, None);
        if program.mode == Mode::Unoptimised {
            let dictionary = program.debug.dictionary_at(function, address).unwrap();
            assert!(
                matches!(dictionary, Some(VariableLocation::Pieces(_))),
                "{}: {dictionary:?}",
                program.name()
            );
            assert!(program.debug.signature(function).unwrap().has_dictionary);
        }
        assert!(variables.iter().all(|variable| !variable.name.starts_with('.')));
    }
}

#[test]
fn a_signature_lists_parameters_and_results_in_order() {
    for program in programs() {
        let names = |name: &str| {
            let signature = program.debug.signature(&program.function(name)).unwrap();
            let list = |parameters: &[crate::dwarf::Parameter]| {
                parameters
                    .iter()
                    .map(|parameter| format!("{} {}", parameter.name, program.debug.get(parameter.ty).name))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            (list(&signature.parameters), list(&signature.results))
        };
        let (parameters, results) = names("main.(*T).Method");
        assert_eq!(
            parameters,
            "t *main.T, s string, f float64, e error, a interface {}",
            "{}",
            program.name()
        );
        assert_eq!(results, "n int, err error", "{}", program.name());
        let (parameters, results) = names("main.unnamed");
        assert_eq!(parameters, "a int", "{}", program.name());
        assert_eq!(results, "~r0 int, ~r1 error", "{}", program.name());
    }
}

#[test]
fn scope_and_place_can_be_asked_for_at_different_addresses() {
    let Some(program) = program("1.26.8", Mode::Unoptimised) else { return };
    let function = program.function("main.(*T).Method");
    let scope = program.address(&function, line("method z"));
    let place = program.address(&function, line("after esc"));
    let between = program.debug.variables_between(&function, scope, place).unwrap();
    let at = program.debug.variables_at(&function, scope).unwrap();
    assert_eq!(described(&program, &between), described(&program, &at));
}

#[test]
fn nothing_is_read_before_it_is_stored() {
    for program in programs().filter(|program| program.mode == Mode::Unoptimised) {
        // The stack slots of a closure's variables and of named results are filled behind the prologue.
        let closure = program.function("main.closures.func1");
        for variable in program.debug.variables_at(&closure, closure.entry).unwrap() {
            let expected = match variable.role {
                Role::Argument => matches!(variable.location, VariableLocation::Pieces(_)),
                _ if program.minor() < 23 => !is_whole(&variable),
                _ => matches!(variable.location, VariableLocation::Closure { .. }),
            };
            assert!(expected, "{}: {variable:?}", program.name());
        }
        let function = program.function("main.loops");
        let at_entry = program.debug.variables_at(&function, function.entry).unwrap();
        assert!(!is_whole(named(&at_entry, "longest")), "{}: {at_entry:?}", program.name());
        assert!(is_whole(named(&program.visible("main.loops", "in loop"), "longest")), "{}", program.name());
    }
}

const RANGE_AND_C: &str = r#"package main

/*
typedef struct { int a; double b; unsigned char c[4]; } cs;
static __attribute__((noinline)) int cadd(cs *s, int k) { int r = s->a + k; s->a = r; return r; }
*/
import "C"
import "fmt"

func seq(yield func(int) bool) {
	for i := 0; i < 3; i++ {
		if !yield(i) {
			return
		}
	}
}

//go:noinline
func walk(n int, s string) (total int) {
	limit := n * 2
	for v := range seq {
		total += v
		w := v + limit
		fmt.Println(v, w, s, total)
	}
	return total
}

func main() {
	var s C.cs
	s.a = 3
	x := C.int(4)
	r := C.cadd(&s, x)
	fmt.Println(r, s, x, walk(3, "x"))
}
"#;

#[test]
fn the_body_of_a_range_over_func_shows_the_enclosing_function_s_variables() {
    let Some(program) = super::fixture::other_program(Mode::Unoptimised, RANGE_AND_C) else { return };
    let body = program.function("main.walk-range1");
    let line =
        u32::try_from(RANGE_AND_C.lines().position(|line| line.contains("Println(v")).unwrap()).unwrap() + 1;
    // With C in the program the main file is a copy that the go command made; its line numbers are the source's.
    let address =
        program.debug.rows_of(&body).unwrap().into_iter().find(|row| row.line == line).unwrap().address;
    let variables = program.debug.variables_at(&body, address).unwrap();
    let mut found = described(&program, &variables);
    found.sort_by_key(|(name, ..)| name.clone());
    let expected = [
        ("limit", Role::Captured, "int"),
        ("s", Role::Captured, "string"),
        ("total", Role::Captured, "int"),
        ("v", Role::Argument, "int"),
        ("w", Role::Local, "int"),
    ];
    assert_eq!(found, expected.map(|(name, role, ty)| (name.to_owned(), role, ty.to_owned())));
    assert!(variables.iter().all(is_whole), "{variables:?}");
}

#[test]
fn c_functions_exist_without_variables_and_c_types_have_sizes() {
    let Some(program) = super::fixture::other_program(Mode::Optimised, RANGE_AND_C) else { return };
    let found = program.debug.functions_matching("cadd").unwrap();
    let function = &found[0].functions[0];
    assert!(!function.is_go);
    assert_eq!(program.debug.variables_at(function, function.entry).unwrap(), []);
    assert_eq!(program.debug.cfa_from_sp(function.entry), Some(8));
    let main = program.function("main.main");
    let s = program.debug.variables_at(&main, main.ranges[0].end - 1).unwrap();
    let ty = program.debug.get(program.debug.type_named("main._Ctype_int").unwrap());
    assert_eq!((ty.bytes, ty.kind), (4, crate::golang::types::Kind::Int32), "{s:?}");
}

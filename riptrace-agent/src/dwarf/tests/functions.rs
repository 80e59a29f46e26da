//! Files, lines, functions, inlined calls, frames.

use super::fixture::{Mode, Program, line, program, programs};
use crate::dwarf::{DebugInfo, Sections};

#[test]
fn every_line_of_the_source_with_code_has_rows_in_the_function_that_holds_it() {
    for program in programs() {
        let file = program.main_file();
        let rows = program.debug.line_rows(&file).unwrap();
        for (mark, function) in [
            ("method z", "main.(*T).Method"),
            ("after esc", "main.(*T).Method"),
            ("in loop", "main.loops"),
            ("inner x", "main.shadows"),
            ("floats", "main.floats"),
            ("recursive", "main.recursive"),
        ] {
            let here: Vec<_> = rows.iter().filter(|row| row.line == line(mark)).collect();
            assert!(!here.is_empty(), "{} {mark}", program.name());
            for row in here {
                assert!(row.address < row.end);
                let found = program.debug.function_at(row.address).unwrap().unwrap();
                assert_eq!(&*found.name, function, "{} {mark}", program.name());
                assert!(program.debug.rows_of(&found).unwrap().contains(row), "{} {mark}", program.name());
            }
        }
    }
}

#[test]
fn files_match_by_suffix_on_a_path_boundary() {
    for program in programs() {
        assert_eq!(program.debug.files_matching("main.go").len(), 1, "{}", program.name());
        assert!(program.debug.files_matching("ain.go").is_empty(), "{}", program.name());
        assert_eq!(program.debug.files_matching("fmt/print.go").len(), 1, "{}", program.name());
        assert!(program.debug.files_matching("").is_empty());
        assert!(program.debug.files().all(|file| !file.is_empty() && file != "?"), "{}", program.name());
    }
    for program in super::fixture::VERSIONS.into_iter().filter_map(|version| program(version, Mode::Trimpath))
    {
        assert_eq!(&*program.main_file(), "example.com/fixture/main.go", "{}", program.name());
        assert_eq!(program.debug.files_matching("fixture/main.go").len(), 1);
    }
}

#[test]
fn a_function_is_found_by_name_and_says_where_it_is_declared() {
    for program in programs() {
        for (name, full, declaration) in [
            ("main.(*T).Method", "main.(*T).Method", "func (t *T) Method("),
            ("main.T.Value", "main.T.Value", "func (t T) Value("),
            ("main.loops", "main.loops", "func loops("),
            ("main.recursive", "main.recursive", "func recursive("),
            ("main.main", "main.main", "func main("),
        ] {
            let function = program.function(name);
            assert_eq!(&*function.name, full);
            let expected =
                super::fixture::SOURCE.lines().position(|line| line.starts_with(declaration)).unwrap() + 1;
            assert_eq!(
                function.decl_line,
                Some(u32::try_from(expected).unwrap()),
                "{} {name}",
                program.name()
            );
            assert_eq!(function.decl_file, Some(program.main_file()), "{} {name}", program.name());
            assert_eq!(program.symbols.get(full), Some(&function.entry), "{} {name}", program.name());
            assert!(!function.trampoline_or_wrapper && function.is_go, "{} {name}", program.name());
            assert_eq!(program.debug.function_at(function.entry).unwrap().unwrap().name, function.name);
        }
        for name in ["main.nothing", "ain.loops", "loops", "", "main.", "/", "["] {
            assert!(program.debug.functions_matching(name).unwrap().is_empty(), "{} {name}", program.name());
        }
        let serve = program.debug.functions_matching("fmt.(*pp).printArg").unwrap();
        assert_eq!(serve[0].functions.len(), 1, "{}", program.name());
    }
}

#[test]
fn every_instantiation_of_a_generic_function_matches_its_name() {
    for program in programs() {
        let found = program.debug.functions_matching("main.Generic").unwrap();
        assert_eq!(found.len(), 1, "{}: {found:#?}", program.name());
        let names: Vec<&str> = found[0].functions.iter().map(|function| &*function.name).collect();
        // int, string, uint8 (Status) and pointers have a shape of their own.
        for shape in
            ["main.Generic[go.shape.int]", "main.Generic[go.shape.string]", "main.Generic[go.shape.uint8]"]
        {
            assert!(names.contains(&shape), "{}: {names:?}", program.name());
            let one = program.debug.functions_matching(shape).unwrap();
            assert_eq!(one.len(), 1, "{} {shape}: {one:#?}", program.name());
            assert_eq!(one[0].functions.len(), 1);
        }
        assert!(names.len() >= 4, "{}: {names:?}", program.name());
        let methods = program.debug.functions_matching("main.(*Stack).Push").unwrap();
        assert_eq!(methods.len(), 1, "{}", program.name());
        assert!(!methods[0].functions.is_empty() || !methods[0].inlined.is_empty());
    }
}

#[test]
fn closures_match_only_by_their_own_name() {
    for program in programs() {
        let outer = program.function("main.closures");
        let inner = program.function("main.closures.func1");
        assert_ne!(outer.entry, inner.entry);
    }
}

#[test]
fn an_inlined_call_is_found_with_its_place() {
    for program in programs() {
        let found = program.debug.functions_matching("main.small").unwrap();
        assert_eq!(found.len(), 1);
        if program.mode == Mode::Unoptimised {
            assert_eq!(found[0].functions.len(), 1);
            assert!(found[0].inlined.is_empty());
            continue;
        }
        assert!(!found[0].inlined.is_empty(), "{}", program.name());
        let (function, index) = &found[0].inlined[0];
        assert_eq!(&*function.name, "main.callsSmall");
        let instance = &function.inlined[*index];
        assert_eq!(&*instance.name, "main.small");
        assert_eq!(instance.call_line, line("calls small"), "{}", program.name());
        assert_eq!(instance.call_file, program.main_file());
        assert_eq!(instance.decl_file, Some(program.main_file()), "{}", program.name());
        assert_eq!(instance.decl_line, Some(line("in small") - 2), "{}", program.name());
        let address = program.address(function, line("in small"));
        let chain = function.inline_chain_at(address);
        assert_eq!(chain.first(), Some(index), "{}", program.name());
    }
}

#[test]
fn a_line_that_is_only_an_inlined_call_is_found_by_the_call() {
    for program in programs().filter(|program| program.mode == Mode::Optimised) {
        let calls = program.debug.calls_on_line(&program.main_file(), line("call of double")).unwrap();
        assert_eq!(calls.len(), 1, "{}: {calls:#?}", program.name());
        assert_eq!(&*calls[0].0.inlined[calls[0].1].name, "main.double");
    }
}

#[test]
fn wrappers_are_told_from_functions() {
    for program in programs() {
        // (*T).Value is made by the compiler from T.Value; String-fm is the method value.
        for name in ["main.(*T).Value", "fmt.Stringer.String-fm"] {
            for found in program.debug.functions_matching(name).unwrap() {
                for function in &found.functions {
                    assert!(function.trampoline_or_wrapper, "{} {name}: {function:?}", program.name());
                }
            }
        }
    }
}

#[test]
fn the_frame_of_every_function_is_known_at_entry_and_behind_the_prologue() {
    for program in programs() {
        for name in ["main.main", "main.(*T).Method", "main.loops", "main.recursive", "main.floats"] {
            let function = program.function(name);
            // Nothing but the return address lies between SP and CFA at entry.
            assert_eq!(program.debug.cfa_from_sp(function.entry), Some(8), "{} {name}", program.name());
            let rows = program.debug.rows_of(&function).unwrap();
            let behind = rows.iter().map(|row| program.debug.cfa_from_sp(row.address)).collect::<Vec<_>>();
            assert!(behind.iter().all(Option::is_some), "{} {name}: {behind:?}", program.name());
            assert!(behind.iter().flatten().any(|cfa| *cfa > 8), "{} {name}: {behind:?}", program.name());
        }
        assert_eq!(program.debug.cfa_from_sp(0), None);
        assert_eq!(program.debug.cfa_from_sp(u64::MAX), None);
    }
}

#[test]
fn the_index_of_one_run_serves_the_next() {
    for program in programs().take(4) {
        let kept = program.debug.index_bytes();
        let again =
            DebugInfo::load(Sections { cached_index: Some(kept.clone()), ..program.sections.clone() })
                .unwrap();
        assert!(again.index_was_cached() && !program.debug.index_was_cached());
        same(&program, &again);
        // Another program's index is not taken.
        let other = Sections {
            cached_index: Some(kept),
            debug_info: program.sections.debug_info.slice(..program.sections.debug_info.len() - 1),
            ..program.sections.clone()
        };
        assert!(!DebugInfo::load(other).unwrap().index_was_cached());
    }
}

fn same(program: &Program, again: &DebugInfo) {
    assert_eq!(program.debug.files().collect::<Vec<_>>(), again.files().collect::<Vec<_>>());
    assert_eq!(program.debug.units(), again.units());
    assert_eq!(
        program.debug.functions_matching("main.small").unwrap(),
        again.functions_matching("main.small").unwrap()
    );
}

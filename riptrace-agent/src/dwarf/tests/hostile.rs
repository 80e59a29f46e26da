//! Debug data that no compiler wrote.

use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};

use super::fixture::{Mode, program};
use crate::{
    dwarf::{DebugInfo, Sections},
    golang::types::{TypeId, TypeSource},
};

/// Asks for everything there is.
fn exercise(debug: &DebugInfo, addresses: &[u64]) {
    let _ = debug.units();
    let files: Vec<String> = debug.files().take(40).map(str::to_owned).collect();
    for file in files.iter().take(10) {
        let _ = debug.line_rows(file);
    }
    let _ = debug.calls_on_line("main.go", 10);
    for name in ["main.main", "main.(*T).Method", "main.small", "main.Generic", "fmt.Println"] {
        let Ok(found) = debug.functions_matching(name) else { continue };
        for function in found.iter().flat_map(|found| &found.functions).take(4) {
            let _ = debug.rows_of(function);
            let _ = debug.signature(function);
            for range in function.ranges.iter().take(3) {
                for address in [range.start, range.start + (range.end - range.start) / 2] {
                    let _ = debug.dictionary_at(function, address);
                    for variable in debug.variables_at(function, address).unwrap_or_default() {
                        walk(debug, variable.ty, 3);
                    }
                }
            }
        }
    }
    for &address in addresses {
        let _ = debug.cfa_from_sp(address);
        let _ = debug.closure_type(address);
        let _ = debug.by_runtime_type(address);
        if let Ok(Some(function)) = debug.function_at(address) {
            let _ = debug.variables_at(&function, address);
        }
        walk(debug, TypeId(address), 2);
    }
    for variable in debug.globals("main").unwrap_or_default() {
        walk(debug, variable.ty, 3);
    }
    let _ = debug.constants_of("main.Status");
    let _ = debug.type_named("runtime.g");
}

fn walk(debug: &DebugInfo, id: TypeId, depth: u32) {
    use crate::golang::types::Shape;
    let ty = debug.get(id);
    if depth == 0 {
        return;
    }
    match &ty.shape {
        Shape::Struct { fields } => fields.iter().take(20).for_each(|field| walk(debug, field.ty, depth - 1)),
        Shape::Slice { elem } | Shape::Array { elem, .. } | Shape::Pointer { elem: Some(elem) } => {
            walk(debug, *elem, depth - 1);
        }
        Shape::Map(layout) => walk(debug, layout.header, depth - 1),
        Shape::Chan { header, .. } => walk(debug, *header, depth - 1),
        _ => {}
    }
}

#[test]
fn damaged_sections_give_errors_never_a_panic_and_never_take_long() {
    let programs: Vec<_> =
        ["1.24.13", "1.26.8"].into_iter().filter_map(|version| program(version, Mode::Optimised)).collect();
    if programs.is_empty() {
        return;
    }
    let mut runner = TestRunner::new(ProptestConfig { cases: 48, ..ProptestConfig::default() });
    let damage = (
        0..programs.len(),
        0_usize..9,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..60),
        prop::option::of(any::<prop::sample::Index>()),
    );
    runner
        .run(&damage, |(program, section, flips, cut)| {
            let program = &programs[program];
            let mut sections = program.sections.clone();
            {
                let chosen = match section {
                    0 | 1 => &mut sections.debug_info,
                    2 => &mut sections.debug_abbrev,
                    3 => &mut sections.debug_line,
                    4 => &mut sections.debug_frame,
                    5 if !sections.debug_loc.is_empty() => &mut sections.debug_loc,
                    5 => &mut sections.debug_loclists,
                    6 if !sections.debug_ranges.is_empty() => &mut sections.debug_ranges,
                    6 => &mut sections.debug_rnglists,
                    7 => &mut sections.debug_addr,
                    _ => &mut sections.debug_line_str,
                };
                if chosen.is_empty() {
                    return Ok(());
                }
                let mut bytes = chosen.to_vec();
                for (at, value) in flips {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                if let Some(cut) = cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                *chosen = Bytes::from(bytes);
            }
            let started = Instant::now();
            if let Ok(debug) = DebugInfo::load(sections.clone()) {
                let entry = program.symbols["main.main"];
                exercise(&debug, &[0, 1, entry, entry + 40, u64::MAX, 0x1000]);
                let kept = debug.index_bytes();
                let _ = DebugInfo::load(Sections { cached_index: Some(kept), ..sections });
            }
            prop_assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_index_that_points_anywhere_is_survived() {
    // The index of one program with the sections of another one of the same lengths: all entries are wrong.
    let Some(program) = program("1.26.8", Mode::Optimised) else { return };
    let mut runner = TestRunner::new(ProptestConfig { cases: 12, ..ProptestConfig::default() });
    runner
        .run(&any::<u64>(), |seed| {
            let mut sections = program.sections.clone();
            let mut bytes = sections.debug_info.to_vec();
            // Leaves the ends alone, by which the index recognises its sections.
            let middle = 1024..bytes.len() - 1024;
            let shift = usize::try_from(seed % 1000).unwrap() + 1;
            bytes[middle].rotate_left(shift);
            sections.debug_info = Bytes::from(bytes);
            sections.cached_index = Some(program.debug.index_bytes());
            let debug = DebugInfo::load(sections).unwrap();
            prop_assert!(debug.index_was_cached());
            let entry = program.symbols["main.main"];
            exercise(&debug, &[0, entry, entry + 40, program.symbols["main.loops"]]);
            Ok(())
        })
        .unwrap();
}

#[test]
fn nothing_and_noise_are_errors() {
    assert!(DebugInfo::load(Sections::default()).is_err());
    let noise = Bytes::from(
        (0..4096_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    );
    let sections = Sections {
        debug_info: noise.clone(),
        debug_abbrev: noise.clone(),
        debug_line: noise.clone(),
        debug_frame: noise,
        ..Sections::default()
    };
    if let Ok(debug) = DebugInfo::load(sections) {
        exercise(&debug, &[0, 1, 100, 0x1000]);
    }
}

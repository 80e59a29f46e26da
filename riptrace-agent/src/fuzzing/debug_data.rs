//! DWARF: index, lines, functions, variables, types, and plans for what was found.

use bytes::Bytes;

use super::Input;
use crate::{
    dwarf::{DebugInfo, Function, Sections},
    golang::types::{TypeId, TypeSource},
    plan::{
        CaptureLimits,
        captures::{SiteContext, plan_site},
        sites::{Site, lines_with_code},
        types::TypeRegistry,
    },
};

/// Sections of an input.
pub const SECTIONS: usize = 13;

/// Lines, functions and types that an input is asked about.
const MAX_ASKED: usize = 12;

/// The sections in an input: the lengths of all of them (32 bits each), then their bytes; the last has all the rest.
/// Returns what stands in front of the first (a byte of flags, the base of runtime types), and the sections.
pub fn split(data: &[u8]) -> (&[u8], [&[u8]; SECTIONS]) {
    let mut input = Input::new(data);
    let head = input.bytes(5);
    let lengths: [usize; SECTIONS - 1] = std::array::from_fn(|_| input.u32() as usize);
    let sections = std::array::from_fn(|at| {
        let length = lengths.get(at).copied().unwrap_or(usize::MAX);
        input.bytes(length)
    });
    (head, sections)
}

/// The sections in an input. Its first byte's bits: an address that wraps around, no runtime types, load twice.
pub(super) fn sections(data: &[u8]) -> Sections {
    let (head, parts) = split(data);
    let mut head = Input::new(head);
    let flags = head.u8();
    let [
        debug_info,
        debug_abbrev,
        debug_line,
        debug_line_str,
        debug_str,
        debug_str_offsets,
        debug_addr,
        debug_loc,
        debug_loclists,
        debug_ranges,
        debug_rnglists,
        debug_frame,
        eh_frame,
    ] = parts.map(Bytes::copy_from_slice);
    Sections {
        debug_info,
        debug_abbrev,
        debug_line,
        debug_line_str,
        debug_str,
        debug_str_offsets,
        debug_addr,
        debug_loc,
        debug_loclists,
        debug_ranges,
        debug_rnglists,
        debug_frame,
        eh_frame,
        eh_frame_address: if flags & 1 == 0 { 0x50_0000 } else { u64::MAX - 16 },
        runtime_types_base: (flags & 2 == 0).then_some(u64::from(head.u32())),
        cached_index: None,
    }
}

/// The debug sections of a program.
pub fn debug_data(data: &[u8]) {
    let sections = sections(data);
    let flags = Input::new(data).u8();
    let Ok(debug) = DebugInfo::load(sections.clone()) else { return };
    ask(&debug);
    if flags & 4 != 0 {
        let cached_index = Some(debug.index_bytes());
        let again = DebugInfo::load(Sections { cached_index, ..sections });
        assert!(again.is_ok_and(|again| again.index_was_cached()), "an index fits its own sections");
    }
}

fn ask(debug: &DebugInfo) {
    let _ = debug.units();
    let mut registry = TypeRegistry::new();
    let mut functions = Vec::new();
    for file in debug.files().take(MAX_ASKED) {
        let _ = lines_with_code(debug, file);
        let _ = debug.calls_on_line(file, 10);
        for row in debug.line_rows(file).unwrap_or_default().iter().take(4) {
            functions.extend(debug.function_at(row.address).ok().flatten());
        }
    }
    for name in ["main.main", "main.T.Method", "main.(*T).Method", "main.small", "main.Generic", "main"] {
        let found = debug.functions_matching(name).unwrap_or_default();
        functions.extend(found.iter().flat_map(|found| found.functions.iter().cloned()).take(4));
        functions.extend(found.iter().flat_map(|found| &found.inlined).map(|(f, _)| f.clone()).take(4));
    }
    functions.dedup();
    for function in functions.iter().take(2 * MAX_ASKED) {
        ask_function(debug, &mut registry, function);
    }
    for variable in debug.globals("main").unwrap_or_default().iter().take(MAX_ASKED) {
        compile(debug, &mut registry, variable.ty);
    }
    for (address, ty) in debug.runtime_types().take(MAX_ASKED) {
        compile(debug, &mut registry, ty);
        let _ = registry.add_dynamic(0, debug, address);
    }
    for odd in [0, 1, 11, 0x40_1000, u64::MAX] {
        compile(debug, &mut registry, TypeId(odd));
        let _ = (debug.cfa_from_sp(odd), debug.closure_type(odd), debug.by_runtime_type(odd));
        let _ = debug.function_at(odd);
    }
    for name in ["main.Status", "runtime.g", "main.T", "int"] {
        let _ = debug.constants_of(name);
        if let Some(ty) = debug.type_named(name) {
            compile(debug, &mut registry, ty);
        }
    }
}

fn compile(debug: &DebugInfo, registry: &mut TypeRegistry, ty: TypeId) {
    use crate::golang::layout::Target;
    if let Ok(index) = registry.reserve(0, Target::value(ty)) {
        let _ = registry.compile(0, debug, &[(index, 3)], 3);
    }
}

fn ask_function(debug: &DebugInfo, registry: &mut TypeRegistry, function: &std::sync::Arc<Function>) {
    let _ = (debug.rows_of(function), debug.signature(function));
    if let Some(layout) = debug.closure_type(function.entry) {
        let _ = registry.add_closure(0, debug, function.entry, &layout);
    }
    let instances = function.inlined.iter().filter_map(|instance| instance.ranges.first());
    for range in function.ranges.iter().take(3).chain(instances.take(3)) {
        let middle = range.start + range.end.saturating_sub(range.start) / 2;
        for link_address in [range.start, middle] {
            let _ = function.inline_chain_at(link_address);
            let dictionary = debug.dictionary_at(function, link_address).ok().flatten();
            let variables = debug.variables_between(function, middle, link_address).unwrap_or_default();
            let _ = debug.variables_at(function, link_address);
            let site = Site {
                link_address,
                location: super::plan::somewhere(link_address),
                trigger: riptrace_common::wire::event::Trigger::Line,
                function: Some(std::sync::Arc::clone(function)),
                instance: None,
                scope_address: middle,
                instruction: String::new(),
                fast: false,
                entry_address: link_address,
                branch: None,
                stretch: crate::plan::fast::Stretch::default(),
                candidates: Vec::new(),
                choice: Default::default(),
            };
            let context = SiteContext {
                exact: false,
                image: 0,
                types: debug,
                site: &site,
                file_offset: 0,
                cfa_from_sp: debug.cfa_from_sp(link_address),
                dictionary: dictionary.as_ref(),
                limits: CaptureLimits::default(),
                contexts: &variables,
            };
            let _ = plan_site(registry, &context, &variables, &[]);
        }
    }
}

//! The one pass over all debug data that makes the [`Index`](super::index::Index), spread over the processors.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use gimli::AttributeValue;

use super::{
    DwarfError, Sections, files, frames,
    index::{Contents, UnitRecord},
    names,
    unit::{AbbreviationCache, PcAttributes, Slice, Unit, View, go, reference, section_offset},
};

/// A program of a million packages is no program.
const MAX_UNITS: usize = 1 << 20;

/// What one unit adds. Text offsets count from the unit's own text.
#[derive(Default)]
struct UnitContents {
    contents: Contents,
    files: Arc<[String]>,
    name: String,
    producer: String,
    line_program: Option<u32>,
    is_go: bool,
}

/// Reads all units once. A unit that is broken in the middle gives what it gave until there.
pub(crate) fn scan(sections: &Sections, abbreviations: &AbbreviationCache) -> Result<Contents, DwarfError> {
    if u32::try_from(sections.debug_info.len()).is_err() || u32::try_from(sections.debug_line.len()).is_err()
    {
        return Err(DwarfError::TooMany { what: "bytes of a debug section", limit: u32::MAX as usize });
    }
    let view = View::new(sections, abbreviations);
    let mut bounds: Vec<(u32, u32)> = Vec::new();
    let mut headers = view.dwarf.debug_info.units();
    // Damage behind some units leaves those units usable.
    while let Ok(Some(header)) = headers.next() {
        if bounds.len() >= MAX_UNITS {
            return Err(DwarfError::TooMany { what: "units", limit: MAX_UNITS });
        }
        let start = header.debug_info_offset().map_or(0, |offset| offset.0);
        let end = start + header.length_including_self();
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) {
            bounds.push((start, end));
        }
    }
    if bounds.is_empty() {
        return Err(DwarfError::NoDebugInfo);
    }
    // Largest first: the unit with all types is a third of the whole.
    let mut order: Vec<usize> = (0..bounds.len()).collect();
    order.sort_by_key(|&unit| std::cmp::Reverse(bounds[unit].1 - bounds[unit].0));
    let next = AtomicUsize::new(0);
    let files = Files::default();
    let worker = || {
        let view = View::new(sections, abbreviations);
        let mut done: Vec<(usize, UnitContents)> = Vec::new();
        while let Some(&unit) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((unit, scan_unit(&view, bounds[unit].0, &files)));
        }
        done
    };
    let threads = super::threads();
    let mut frame_table = Vec::new();
    let mut parts: Vec<(usize, UnitContents)> = Vec::with_capacity(bounds.len());
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        frame_table = frames::scan(sections);
        parts.extend(worker());
        for helper in helpers {
            parts.extend(helper.join().unwrap_or_default());
        }
    });
    parts.sort_by_key(|(unit, _)| *unit);
    Ok(merge(&bounds, parts, frame_table))
}

fn merge(bounds: &[(u32, u32)], parts: Vec<(usize, UnitContents)>, frames: Vec<(u64, u32)>) -> Contents {
    let mut all = Contents { frames, ..Contents::default() };
    let mut by_file: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    // Units that share a line program have the same rows: its files lead to the first of them.
    let mut line_programs = HashSet::new();
    for (unit, mut part) in parts {
        let (start, end) = bounds[unit];
        if part.line_program.is_some_and(|program| !line_programs.insert(program)) {
            part.files = Arc::default();
        }
        let name = put_text(&mut all.text, &part.name);
        let producer = put_text(&mut all.text, &part.producer);
        let index = u32::try_from(all.units.len()).unwrap_or(u32::MAX);
        all.units.push(UnitRecord {
            start,
            end,
            line_program: part.line_program.unwrap_or(u32::MAX),
            name,
            producer,
            is_go: part.is_go,
        });
        for file in part.files.iter() {
            let units = by_file.entry(file.clone()).or_default();
            if units.last() != Some(&index) {
                units.push(index);
            }
        }
        let Contents { functions, names, origins, runtime_types, type_names, globals, constants, .. } =
            part.contents;
        all.functions.extend(functions);
        all.names.extend(names);
        all.origins.extend(origins);
        all.runtime_types.extend(runtime_types);
        all.type_names.extend(type_names);
        all.globals.extend(globals);
        all.constants.extend(constants);
    }
    for (file, units) in by_file {
        let name = put_text(&mut all.text, &file);
        all.files.push((name, units));
    }
    all
}

fn put_text(text: &mut Vec<u8>, value: &str) -> (u32, u32) {
    let (Ok(offset), Ok(length)) = (u32::try_from(text.len()), u32::try_from(value.len())) else {
        return (0, 0);
    };
    text.extend_from_slice(value.as_bytes());
    (offset, length)
}

/// The files of line programs, by offset.
type Files = Mutex<HashMap<u32, Arc<[String]>>>;

fn files_of<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    line_program: u32,
    is_go: bool,
    known: &Files,
) -> Arc<[String]> {
    if let Ok(known) = known.lock()
        && let Some(files) = known.get(&line_program)
    {
        return Arc::clone(files);
    }
    let mut files = files::names_of(view, unit, u64::from(line_program), is_go);
    files.sort_unstable();
    files.dedup();
    let files: Arc<[String]> = Arc::from(files);
    if let Ok(mut known) = known.lock() {
        known.insert(line_program, Arc::clone(&files));
    }
    files
}

fn scan_unit(view: &View<'_>, start: u32, files: &Files) -> UnitContents {
    let mut out = UnitContents::default();
    let Ok(unit) = view.unit(u64::from(start)) else { return out };
    if let Ok(root) = unit.entry(unit.header.root_offset()) {
        for attribute in root.attrs() {
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_name, value) => {
                    out.name = view.text(&unit, value).unwrap_or_default().into_owned();
                }
                (gimli::DW_AT_producer, value) => {
                    out.producer = view.text(&unit, value).unwrap_or_default().into_owned();
                }
                (gimli::DW_AT_language, AttributeValue::Language(language)) => {
                    out.is_go = language == gimli::DW_LANG_Go;
                }
                (gimli::DW_AT_stmt_list, AttributeValue::DebugLineRef(offset)) => {
                    out.line_program = u32::try_from(offset.0).ok();
                }
                _ => {}
            }
        }
    }
    if let Some(offset) = out.line_program {
        out.files = files_of(view, &unit, offset, out.is_go, files);
    }
    // What was read until damage is kept.
    let _ = scan_entries(view, &unit, &mut out);
    out
}

fn scan_entries<'a>(view: &View<'a>, unit: &Unit<'a>, out: &mut UnitContents) -> Result<(), gimli::Error> {
    let is_go = out.is_go;
    let contents = &mut out.contents;
    let mut entries = unit.entries_raw(None)?;
    // The out-of-line function around the current entry, and the depth of its children.
    let mut function: Option<(u32, isize)> = None;
    // A function's entry has more bytes than this; most have one range.
    let mut budget = 1024 + unit.header.length_including_self() / 8;
    while !entries.is_empty() {
        let offset = entries.next_offset();
        let depth = entries.next_depth();
        let Some(abbreviation) = entries.read_abbreviation()? else {
            continue;
        };
        if function.is_some_and(|(_, inside)| depth < inside) {
            function = None;
        }
        let Ok(die) = u32::try_from(section_offset(unit, offset)) else { return Ok(()) };
        match abbreviation.tag() {
            gimli::DW_TAG_subprogram => {
                let mut pc = PcAttributes::default();
                let mut name: Option<Slice<'a>> = None;
                let mut origin = None;
                let mut declaration = false;
                for &spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(spec)?;
                    match attribute.name() {
                        gimli::DW_AT_linkage_name => {
                            name = view.dwarf.attr_string(unit, attribute.value()).ok();
                        }
                        gimli::DW_AT_name if name.is_none() => {
                            name = view.dwarf.attr_string(unit, attribute.value()).ok();
                        }
                        gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => {
                            origin = reference(unit, &attribute.value());
                        }
                        gimli::DW_AT_declaration => declaration = true,
                        other => pc.take(other, attribute.value()),
                    }
                }
                if declaration {
                    continue;
                }
                let ranges = if pc.is_some() { view.ranges(unit, &pc, &mut budget) } else { Vec::new() };
                if !ranges.is_empty() {
                    contents.functions.extend(ranges.iter().map(|range| (range.start, range.end, die)));
                    function = Some((die, depth + 1));
                }
                match (name, origin.and_then(|origin| u32::try_from(origin).ok())) {
                    (None, Some(origin)) if !ranges.is_empty() => contents.origins.push((origin, die)),
                    (Some(name), _) => contents.names.push((function_hash(name), die)),
                    _ => {}
                }
            }
            gimli::DW_TAG_inlined_subroutine if function.is_some() => {
                for &spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(spec)?;
                    if attribute.name() == gimli::DW_AT_abstract_origin
                        && let Some(origin) = reference(unit, &attribute.value())
                        && let Ok(origin) = u32::try_from(origin)
                        && let Some((function, _)) = function
                        && contents.origins.last() != Some(&(origin, function))
                    {
                        contents.origins.push((origin, function));
                    }
                }
            }
            gimli::DW_TAG_base_type
            | gimli::DW_TAG_structure_type
            | gimli::DW_TAG_array_type
            | gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_subroutine_type
            | gimli::DW_TAG_typedef
                if is_go && depth == 1 =>
            {
                for &spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(spec)?;
                    match attribute.name() {
                        gimli::DW_AT_name => {
                            if let AttributeValue::String(name) = attribute.value()
                                && let Ok(name) = std::str::from_utf8(name.slice())
                            {
                                contents.type_names.push((names::hash(name), die));
                            }
                        }
                        go::RUNTIME_TYPE => {
                            let raw = match attribute.value() {
                                AttributeValue::Addr(raw) => Some(raw),
                                value => value.udata_value(),
                            };
                            if let Some(raw) =
                                raw.and_then(|raw| u32::try_from(raw).ok()).filter(|raw| *raw != 0)
                            {
                                contents.runtime_types.push((raw, die));
                            }
                        }
                        _ => {}
                    }
                }
            }
            gimli::DW_TAG_variable if is_go && depth == 1 => {
                let mut hash = None;
                let mut located = false;
                for &spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(spec)?;
                    match attribute.name() {
                        gimli::DW_AT_name => {
                            hash = text_of(view, unit, attribute.value())
                                .map(|name| names::hash(&names::package(&name)));
                        }
                        gimli::DW_AT_location => located = true,
                        _ => {}
                    }
                }
                if let Some(hash) = hash.filter(|_| located) {
                    contents.globals.push((hash, die));
                }
            }
            gimli::DW_TAG_constant if is_go && depth == 1 => {
                for &spec in abbreviation.attributes() {
                    let attribute = entries.read_attribute(spec)?;
                    if attribute.name() == gimli::DW_AT_type
                        && let Some(ty) = reference(unit, &attribute.value())
                        && let Ok(ty) = u32::try_from(ty)
                    {
                        contents.constants.push((ty, die));
                    }
                }
            }
            _ => entries.skip_attributes(abbreviation.attributes())?,
        }
    }
    Ok(())
}

fn text_of<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    value: AttributeValue<Slice<'a>>,
) -> Option<std::borrow::Cow<'a, str>> {
    view.text(unit, value)
}

/// The key of `Table::Names`.
fn function_hash(name: Slice<'_>) -> u32 {
    let name = name.to_string_lossy();
    names::hash(names::last_segment(&names::base(&name)))
}

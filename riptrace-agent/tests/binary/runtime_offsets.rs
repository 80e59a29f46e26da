//! The table of the runtime's fields against the debug data of a program of each release.

use std::collections::HashMap;

use gimli::{AttributeValue, Dwarf, EndianSlice, LittleEndian, Unit};
use riptrace_agent::{
    binary::{DebugOptions, Executable, cache::Cache},
    golang::runtime::RuntimeOffsets,
};

use crate::build::{Builder, PLAIN, VERSIONS};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Offsets of the fields of the structs `runtime.g`, `runtime.m` and `runtime.stack`, as `g.goid`.
fn fields(executable: &Executable) -> HashMap<(String, String), u32> {
    let options = DebugOptions { cache: Cache::none(), ..DebugOptions::from_environment(None) };
    let sections = executable.debug(&options, &|_| {}).unwrap();
    let dwarf = Dwarf::load(|id| {
        let bytes: &[u8] = match id {
            gimli::SectionId::DebugInfo => &sections.debug_info,
            gimli::SectionId::DebugAbbrev => &sections.debug_abbrev,
            gimli::SectionId::DebugStr => &sections.debug_str,
            gimli::SectionId::DebugAddr => &sections.debug_addr,
            gimli::SectionId::DebugLine => &sections.debug_line,
            _ => &[],
        };
        Ok::<_, gimli::Error>(Slice::new(bytes, LittleEndian))
    })
    .unwrap();
    let mut found = HashMap::new();
    let mut units = dwarf.units();
    while let Some(header) = units.next().unwrap() {
        let unit = dwarf.unit(header).unwrap();
        let mut tree = unit.entries_tree(None).unwrap();
        let mut children = tree.root().unwrap().children();
        while let Some(child) = children.next().unwrap() {
            if child.entry().tag() != gimli::DW_TAG_structure_type {
                continue;
            }
            let name = name(&dwarf, &unit, child.entry());
            if !matches!(name.as_str(), "runtime.g" | "runtime.m" | "runtime.stack") {
                continue;
            }
            let mut members = child.children();
            while let Some(member) = members.next().unwrap() {
                let offset = member.entry().attr_value(gimli::DW_AT_data_member_location);
                let offset = offset.and_then(|value| value.udata_value()).unwrap_or_default() as u32;
                found.insert((name.clone(), self::name(&dwarf, &unit, member.entry())), offset);
            }
        }
    }
    found
}

fn name<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<Slice<'a>>,
    entry: &gimli::DebuggingInformationEntry<Slice<'a>>,
) -> String {
    let value: Option<AttributeValue<Slice<'a>>> = entry.attr_value(gimli::DW_AT_name);
    let text = value.and_then(|value| dwarf.attr_string(unit, value).ok());
    text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

#[test]
fn the_table_says_what_debug_data_says() {
    for version in VERSIONS {
        let Some(builder) = Builder::new(version) else { continue };
        let executable = Executable::open(&builder.build(&PLAIN).unwrap()).unwrap();
        let fields = fields(&executable);
        let field = |name: &str, path: &str| {
            let of = |name: &str, field: &str| fields.get(&(name.to_owned(), field.to_owned())).copied();
            match path.split_once('.') {
                Some((outer, inner)) => Some(of(name, outer)? + of("runtime.stack", inner)?),
                None => of(name, path),
            }
        };
        let truth = RuntimeOffsets::from_fields(field).unwrap();
        assert_eq!(RuntimeOffsets::of(executable.go_version().unwrap()), Some(truth), "{version}");
    }
}

//! ELF files, the runtime's line table, build info.

use std::path::Path;

use bytes::Bytes;

use super::Input;
use crate::{
    binary::{Executable, inflate::Compressed},
    golang::{
        buildinfo::BuildInfo,
        pclntab::{Context, Pclntab},
        version::GoVersion,
    },
    plan::{
        sites::{LineSource, lines_with_code},
        stripped::TableLines,
    },
};

/// Addresses that a file is asked about besides its own.
const ODD_ADDRESSES: [u64; 5] = [0, 1, 0x40_1000, u64::MAX - 7, u64::MAX];
/// Functions of a table that are looked into, each in all ways.
const MAX_FUNCTIONS: usize = 64;

/// An executable.
pub fn elf(data: &[u8]) {
    let Ok(executable) = Executable::from_bytes(&Bytes::copy_from_slice(data), Path::new("input")) else {
        return;
    };
    let elf = executable.elf();
    let mut addresses = ODD_ADDRESSES.to_vec();
    for segment in elf.segments.iter().take(16) {
        addresses.extend([segment.address, segment.address.wrapping_add(segment.file_bytes).wrapping_sub(1)]);
    }
    for section in elf.sections.iter().take(64) {
        let _ = elf.section(&section.name);
        if let Some(bytes) = elf.section_bytes(section) {
            let _ = Compressed::from_elf(&section.name, &bytes);
            let _ = Compressed::from_gnu(&section.name, &bytes);
        }
    }
    for address in addresses {
        let _ = (executable.file_offset(address), executable.link_address(address));
        let _ = (executable.read(address, 8), executable.read_only(address, 8));
        let _ = (executable.read(address, usize::MAX), executable.read_only(address, usize::MAX));
        let _ = elf.read_to_end(address);
    }
    let _ = (executable.build_id(), executable.build_info(), executable.go_version());
    let _ = (executable.is_go(), executable.is_pie(), executable.text());
    let _ = (executable.symbol("runtime.tlsg"), executable.symbol("no.such.symbol"), elf.has_symbols());
    let _ = (executable.module_data(), executable.runtime_types(), executable.tls_g_offset());
    let _ = (executable.itabs(|_| true), executable.itab_addresses());
    elf.for_each_relative_relocation(|_, _| {});
    if let Ok(table) = executable.pclntab() {
        ask(table);
    }
}

/// The runtime's line table with its inline trees: where the text starts, the release, how many bytes of inline trees,
/// these, the table.
pub fn line_table(data: &[u8]) {
    let mut input = Input::new(data);
    let text_start = match input.u8() {
        0 => 0x40_1000,
        1 => u64::MAX - 0x1000,
        _ => input.u64(),
    };
    let version = Some(input.u8()).filter(|minor| *minor > 0).map(|minor| GoVersion::go1(minor.into()));
    let length = usize::from(input.u16());
    let gofunc = Some(Bytes::copy_from_slice(input.bytes(length)));
    if let Ok(table) =
        Pclntab::parse(Bytes::copy_from_slice(input.rest), Context { text_start, gofunc, version })
    {
        ask(&table);
    }
}

fn ask(table: &Pclntab) {
    let _ = (table.len(), table.is_empty());
    for function in table.functions().take(MAX_FUNCTIONS) {
        let _ = (function.name(), function.args_bytes(), function.start_line(), function.id());
        let _ =
            (function.is_wrapper(), function.is_assembly(), function.is_top_frame(), function.writes_sp());
        let _ = function.file();
        for address in
            [function.entry, function.entry.wrapping_add(7), function.end.wrapping_sub(1), function.end]
        {
            let _ = (function.file_at(address), function.line_at(address), function.sp_delta_at(address));
            let _ = (table.line_at(address), table.frames(address));
        }
        for line in function.lines().into_iter().take(64) {
            let _ = (table.frames(line.address), function.frames(line.end));
            let _ = (function.inlined_names(line.inlined), function.inline_parent(line.inlined));
        }
    }
    for address in ODD_ADDRESSES {
        let _ = (table.function_at(address), table.frames(address));
    }
    let _ = (table.function_named("main.main"), table.inlined_matching("main.f"));
    let lines = TableLines::new(table);
    let _ = lines.files_matching("main.go");
    for file in table.files().take(8) {
        let _ = (lines.rows_of_file(file), lines_with_code(&lines, file));
    }
    for name in ["main.main", "f", "main.(*T).M"] {
        for found in lines.functions_matching(name).unwrap_or_default().iter().take(4) {
            for function in found.functions.iter().take(4) {
                let _ = (lines.rows_of(function), function.inline_chain_at(function.entry));
            }
        }
    }
}

/// The linker's note of how a program was built.
pub fn build_info(data: &[u8]) {
    let Some(info) = BuildInfo::parse(data) else { return };
    let _ = (info.version(), info.setting("-ldflags"), info.vcs_revision(), info.vcs_modified());
}

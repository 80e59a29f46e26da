//! Reading DWARF as the Go compiler and linker write it (versions 4 and 5). Pure: bytes in, data out.

pub mod variable;

use bytes::Bytes;

/// The debug sections of one binary, inflated. A section that the binary lacks is empty.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are the sections'")]
pub struct Sections {
    pub debug_info: Bytes,
    pub debug_abbrev: Bytes,
    pub debug_line: Bytes,
    pub debug_line_str: Bytes,
    pub debug_str: Bytes,
    pub debug_str_offsets: Bytes,
    pub debug_addr: Bytes,
    pub debug_loc: Bytes,
    pub debug_loclists: Bytes,
    pub debug_ranges: Bytes,
    pub debug_rnglists: Bytes,
    pub debug_frame: Bytes,
    pub eh_frame: Bytes,
    /// Link-time address of `.eh_frame`, to which its pointers are relative.
    pub eh_frame_address: u64,
    /// Link-time address of `moduledata.types`, to which `DW_AT_go_runtime_type` is relative in newer Go.
    pub runtime_types_base: Option<u64>,
    /// What `DebugInfo::index_bytes` gave for the same sections before.
    pub cached_index: Option<Bytes>,
}

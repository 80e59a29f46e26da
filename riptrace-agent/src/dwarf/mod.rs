//! Reading DWARF as the Go compiler and linker write it (versions 4 and 5). Pure: bytes in, data out.
//!
//! [`DebugInfo`] is what the rest sees: lines and functions by name or address, the variables that are visible at an
//! address and where they are, types. It is made from the inflated [`Sections`] of one binary, which `binary` hands in.

mod closures;
mod error;
mod files;
mod frames;
mod globals;
mod index;
mod line_program;
mod lines;
mod locations;
mod lookup;
mod names;
mod scan;
mod scopes;
mod types;
mod unit;
pub mod variable;
mod variables;

use std::{
    hash::RandomState,
    sync::{Arc, OnceLock, RwLock},
};

use bytes::Bytes;

pub use self::{
    closures::{CapturedVariable, ClosureLayout},
    error::DwarfError,
    globals::NamedConstant,
    lines::LineRow,
    scopes::{Function, FunctionMatch, InlinedInstance},
    variable::{DictIndex, Piece, Place, VariableLocation, VisibleVariable},
    variables::{Parameter, Signature},
};
use self::{index::Index, lines::UnitLines, scopes::Scopes, types::VariableType, unit::AbbreviationCache};
use crate::{
    bounded_cache::BoundedCache,
    golang::{
        abi_type::{AbiTypes, TypeMemory},
        types::GoType,
    },
};

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
    /// What [`DebugInfo::index_bytes`] gave for the same sections before.
    pub cached_index: Option<Bytes>,
}

/// What a cache may hold before it starts again.
const MAX_CACHED: usize = 1 << 16;
/// The same for line tables of units, some of which have a hundred thousand rows.
const MAX_CACHED_LINES: usize = 64;
/// The same for functions with all that is in them.
const MAX_CACHED_FUNCTIONS: usize = 4096;

/// A source file and its rows.
type FileRows = (Arc<str>, Arc<[LineRow]>);

/// The debug data of one binary. Reads on demand: an answer is computed from the sections and the index, and kept.
#[derive(Debug)]
pub struct DebugInfo {
    sections: Sections,
    index: Index,
    index_was_cached: bool,
    abbreviations: AbbreviationCache,
    /// By offset of the function's entry; `None`: no function.
    functions: BoundedCache<u64, Option<Arc<Scopes>>, MAX_CACHED_FUNCTIONS>,
    /// By index of the unit.
    lines: BoundedCache<u32, Arc<UnitLines>, MAX_CACHED_LINES>,
    /// The rows of the file that was asked for last: whoever asks for one line of a file asks for more of them.
    file_rows: RwLock<Option<FileRows>>,
    /// By offset of the type's entry.
    types: BoundedCache<u64, Arc<GoType>, MAX_CACHED>,
    /// By offset of what a variable or a field names as its type.
    variable_types: BoundedCache<u64, VariableType, MAX_CACHED>,
    /// Where types are that debug data leaves out.
    runtime_types: Option<Arc<dyn TypeMemory>>,
    /// By name of the type.
    constants: BoundedCache<String, Arc<[NamedConstant]>, MAX_CACHED, RandomState>,
    /// Frame descriptions of C code.
    eh_frames: OnceLock<Vec<(u64, u32)>>,
}

/// How many threads a large piece of work is spread over.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(8))
}

/// Who compiled a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// The Go compiler or Go's assembler.
    Go,
    /// A C compiler, through cgo, or anything else.
    Other,
}

/// A compile unit: a Go package, or a C file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSummary {
    /// The package's import path.
    pub name: Arc<str>,
    /// What it is written in.
    pub language: Language,
    /// Which compiler, which version.
    pub producer: Option<Arc<str>>,
}

impl DebugInfo {
    /// Takes the index of an earlier run if it fits, else scans the sections once, with as many threads as there are
    /// processors.
    pub fn load(mut sections: Sections) -> Result<Self, DwarfError> {
        if sections.debug_info.is_empty() {
            return Err(DwarfError::NoDebugInfo);
        }
        let abbreviations = AbbreviationCache::default();
        let cached = sections.cached_index.take().and_then(|bytes| Index::from_bytes(bytes, &sections));
        let index_was_cached = cached.is_some();
        let index = match cached {
            Some(index) => index,
            None => Index::new(scan::scan(&sections, &abbreviations)?, &sections),
        };
        Ok(Self {
            sections,
            index,
            index_was_cached,
            abbreviations,
            functions: BoundedCache::default(),
            lines: BoundedCache::default(),
            file_rows: RwLock::default(),
            types: BoundedCache::default(),
            variable_types: BoundedCache::default(),
            runtime_types: None,
            constants: BoundedCache::default(),
            eh_frames: OnceLock::new(),
        })
    }

    /// Takes types that debug data leaves out from what the runtime itself knows of them.
    #[must_use]
    pub fn with_runtime_types(self, memory: Arc<dyn TypeMemory>) -> Self {
        Self { runtime_types: Some(memory), ..self }
    }

    /// What the runtime knows of its types.
    pub(crate) fn abi_types(&self) -> Option<AbiTypes<'_>> {
        Some(AbiTypes::new(self.runtime_types.as_deref()?, self.sections.runtime_types_base?))
    }

    /// What makes the next [`Self::load`] of the same sections quick: to be handed in as
    /// [`Sections::cached_index`].
    pub fn index_bytes(&self) -> Bytes {
        self.index.bytes().clone()
    }

    /// Whether [`Self::load`] used [`Sections::cached_index`].
    pub fn index_was_cached(&self) -> bool {
        self.index_was_cached
    }

    /// The compile units.
    pub fn units(&self) -> Vec<UnitSummary> {
        (0..u32::try_from(self.index.unit_count()).unwrap_or(u32::MAX))
            .map_while(|unit| self.index.unit(unit))
            .map(|unit| UnitSummary {
                name: Arc::from(self.index.text(unit.name)),
                language: if unit.is_go { Language::Go } else { Language::Other },
                producer: Some(self.index.text(unit.producer))
                    .filter(|producer| !producer.is_empty())
                    .map(Arc::from),
            })
            .collect()
    }

    /// Every source file that a line table names, by name.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        (0..self.index.file_count()).map(|file| self.index.file_name(file))
    }

    /// The source files whose path is `suffix`, or, where there is none, ends with `/suffix`.
    pub fn files_matching(&self, suffix: &str) -> Vec<Arc<str>> {
        // Whoever has a whole path, asks for one line of the file after the other.
        if !self.index.units_of_file(suffix).is_empty() {
            return vec![Arc::from(suffix)];
        }
        self.files().filter(|file| names::is_path_suffix(file, suffix)).map(Arc::from).collect()
    }
}

#[cfg(test)]
mod tests;

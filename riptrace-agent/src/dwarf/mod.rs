//! Reading DWARF as the Go compiler and linker write it (versions 4 and 5). Pure: bytes in, data out.
//!
//! [`DebugInfo`] is what the rest sees: lines and functions by name or address, the variables that are visible at an
//! address and where they are, types. It is made from the inflated [`Sections`] of one binary, which `binary` hands in.

mod closures;
mod error;
mod globals;
mod lines;
mod scopes;
pub mod variable;

use std::sync::Arc;

use bytes::Bytes;

pub use self::{
    closures::{CapturedVariable, ClosureLayout},
    error::DwarfError,
    globals::NamedConstant,
    lines::LineRow,
    scopes::{Function, FunctionMatch, InlinedInstance},
    variable::{Piece, Place, VariableLocation, VisibleVariable},
};
use crate::golang::types::{GoType, Kind, Shape, TypeId, TypeSource};

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

/// The debug data of one binary. Reads on demand; every answer is computed from the sections and the index.
#[derive(Debug)]
pub struct DebugInfo {
    #[expect(dead_code, reason = "the bodies come next")]
    sections: Sections,
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
    pub fn load(sections: Sections) -> Result<Self, DwarfError> {
        if sections.debug_info.is_empty() {
            return Err(DwarfError::NoDebugInfo);
        }
        Ok(Self { sections })
    }

    /// What makes the next [`Self::load`] of the same sections quick.
    pub fn index_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Whether [`Self::load`] used [`Sections::cached_index`].
    pub fn index_was_cached(&self) -> bool {
        false
    }

    /// The compile units.
    pub fn units(&self) -> Vec<UnitSummary> {
        Vec::new()
    }

    /// Every source file that a line table names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }

    /// The source files whose path is `suffix` or ends with `/suffix`.
    pub fn files_matching(&self, suffix: &str) -> Vec<Arc<str>> {
        let _ = suffix;
        Vec::new()
    }

    /// The rows of one file (named as [`Self::files`] names it) from every unit that has it, by address.
    pub fn line_rows(&self, file: &str) -> Result<Vec<LineRow>, DwarfError> {
        let _ = file;
        Ok(Vec::new())
    }

    /// All rows inside the function's ranges, by address.
    pub fn rows_of(&self, function: &Function) -> Result<Vec<LineRow>, DwarfError> {
        let _ = function;
        Ok(Vec::new())
    }

    /// The out-of-line function whose code covers the address.
    pub fn function_at(&self, link_address: u64) -> Result<Option<Arc<Function>>, DwarfError> {
        let _ = link_address;
        Ok(None)
    }

    /// The functions that `name` stands for: `pkg.Func`, `pkg.(*T).Method`, or the same with more of the import path in
    /// front (a suffix on a `/` boundary). Instantiations of a generic function match its name without type arguments.
    pub fn functions_matching(&self, name: &str) -> Result<Vec<FunctionMatch>, DwarfError> {
        let _ = name;
        Ok(Vec::new())
    }

    /// The variables that are visible at the address, in the innermost inlined instance there: arguments first, then
    /// locals in order of declaration. Of a name that is declared several times only the innermost.
    pub fn variables_at(
        &self,
        function: &Function,
        link_address: u64,
    ) -> Result<Vec<VisibleVariable>, DwarfError> {
        let _ = (function, link_address);
        Ok(Vec::new())
    }

    /// Where the dictionary's address is: the hidden argument by which an instantiated generic function (or method)
    /// learns its real types. `None`: the function has none. See [`VisibleVariable::dict_index`].
    pub fn dictionary_at(
        &self,
        function: &Function,
        link_address: u64,
    ) -> Result<Option<VariableLocation>, DwarfError> {
        let _ = (function, link_address);
        Ok(None)
    }

    /// CFA minus SP when the instruction at the address is about to run.
    pub fn cfa_from_sp(&self, link_address: u64) -> Option<i32> {
        let _ = link_address;
        None
    }

    /// The package's variables (import path in full).
    pub fn globals(&self, package: &str) -> Result<Vec<VisibleVariable>, DwarfError> {
        let _ = package;
        Ok(Vec::new())
    }

    /// The named constants of a named type (`main.Status`), in order of declaration.
    pub fn constants_of(&self, type_name: &str) -> Arc<[NamedConstant]> {
        let _ = type_name;
        Arc::new([])
    }

    /// What the closure function that is entered at this address captured. `None`: not a closure's entry, or a Go
    /// before 1.22, which does not say.
    pub fn closure_type(&self, code_address: u64) -> Option<ClosureLayout> {
        let _ = code_address;
        None
    }

    /// The type of that name (as the linker writes it: `runtime.g`, `*main.T`), through the index.
    pub fn type_named(&self, name: &str) -> Option<TypeId> {
        let _ = name;
        None
    }
}

impl TypeSource for DebugInfo {
    fn get(&self, id: TypeId) -> Arc<GoType> {
        let _ = id;
        Arc::new(GoType {
            name: Arc::from("?"),
            bytes: 0,
            kind: Kind::Invalid,
            shape: Shape::Unknown,
            runtime_type: None,
        })
    }

    fn by_runtime_type(&self, link_address: u64) -> Option<TypeId> {
        let _ = link_address;
        None
    }
}

//! Lines and functions of a binary without debug data, from the table that Go's runtime itself needs; and what can be
//! shown there: the registers in which arguments are passed.

use std::sync::Arc;

use riptrace_common::wire::event::{Role, Trigger};

use super::Image;
use crate::{
    binary::BinaryError,
    dwarf::{DwarfError, Function, FunctionMatch, LineRow, Piece, Place, VariableLocation, VisibleVariable},
    golang::{pclntab::Pclntab, types::TypeId},
    plan::sites::{LineSource, Site},
};

/// The integer registers in which Go passes arguments, in order, by their DWARF numbers (Go's internal ABI for amd64).
const ARGUMENT_REGISTERS: [(&str, u16); 9] = [
    ("rax", 0),
    ("rbx", 3),
    ("rcx", 2),
    ("rdi", 5),
    ("rsi", 4),
    ("r8", 8),
    ("r9", 9),
    ("r10", 10),
    ("r11", 11),
];

/// The runtime's table as a source of lines.
pub(super) struct Lines<'a> {
    table: &'a Pclntab,
}

impl<'a> Lines<'a> {
    /// The table of a binary.
    ///
    /// # Errors
    ///
    /// The binary has none.
    pub(super) fn of(image: &'a Image) -> Result<Self, BinaryError> {
        image.executable.pclntab().map(|table| Self { table })
    }
}

fn function(found: &crate::golang::pclntab::Function<'_>) -> Arc<Function> {
    Arc::new(Function {
        name: Arc::from(found.name()),
        ranges: vec![found.entry..found.end],
        entry: found.entry,
        decl_file: found.file().map(Arc::from),
        decl_line: Some(found.start_line()).filter(|line| *line > 0),
        trampoline_or_wrapper: found.is_wrapper(),
        is_go: true,
        inlined: Vec::new(),
        unit: 0,
        die: 0,
        origin: None,
    })
}

fn rows<'t>(ranges: impl IntoIterator<Item = crate::golang::pclntab::LineRange<'t>>) -> Vec<LineRow> {
    ranges
        .into_iter()
        .map(|range| LineRow {
            address: range.address,
            end: range.end,
            file: Arc::from(range.file),
            line: range.line,
            // The runtime's table has no such marks; every row may begin a statement.
            is_stmt: true,
            prologue_end: false,
        })
        .collect()
}

impl LineSource for Lines<'_> {
    fn files_matching(&self, suffix: &str) -> Vec<Arc<str>> {
        self.table.files_matching(suffix).into_iter().map(Arc::from).collect()
    }

    fn file_names(&self) -> Vec<Arc<str>> {
        self.table.files().map(Arc::from).collect()
    }

    fn rows_of_file(&self, file: &str) -> Result<Vec<LineRow>, DwarfError> {
        Ok(rows(self.table.lines_of_file(file)))
    }

    fn rows_of(&self, function: &Function) -> Result<Vec<LineRow>, DwarfError> {
        Ok(self.table.function_at(function.entry).map_or_else(Vec::new, |found| rows(found.lines())))
    }

    fn function_at(&self, link_address: u64) -> Result<Option<Arc<Function>>, DwarfError> {
        Ok(self.table.function_at(link_address).as_ref().map(function))
    }

    fn functions_matching(&self, name: &str) -> Result<Vec<FunctionMatch>, DwarfError> {
        Ok(self
            .table
            .functions_matching(name)
            .iter()
            .map(|found| FunctionMatch {
                name: Arc::from(found.name()),
                functions: vec![function(found)],
                inlined: Vec::new(),
            })
            .collect())
    }
}

/// At a function's entry the argument registers, unnamed and untyped; elsewhere their contents mean nothing.
pub(super) fn argument_registers(site: &Site) -> Vec<VisibleVariable> {
    if site.trigger != Trigger::Entry {
        return Vec::new();
    }
    ARGUMENT_REGISTERS
        .iter()
        .map(|&(name, register)| VisibleVariable {
            name: Arc::from(name),
            role: Role::Register,
            ty: TypeId(0),
            decl_line: 0,
            location: VariableLocation::Pieces(vec![Piece { bytes: 8, place: Place::Register(register) }]),
            dict_index: None,
        })
        .collect()
}

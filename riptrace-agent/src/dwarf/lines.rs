//! The line table: which address belongs to which line.

use std::{ops::Range, sync::Arc};

use gimli::DebugLineOffset;

use super::{
    DwarfError, files,
    unit::{Unit, View},
};

/// A row of the line table: the addresses `address..end` belong to `line` of `file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineRow {
    /// First link-time address.
    pub address: u64,
    /// The next row's address (or the end of the sequence).
    pub end: u64,
    /// Source file, as the line table names it.
    pub file: Arc<str>,
    /// Line, from 1; 0: no line.
    pub line: u32,
    /// A recommended place for a breakpoint.
    pub is_stmt: bool,
    /// The function's prologue ends here.
    pub prologue_end: bool,
}

impl LineRow {
    /// The addresses of the row.
    pub fn range(&self) -> Range<u64> {
        self.address..self.end
    }
}

/// A row without its file's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) address: u64,
    pub(crate) end: u64,
    pub(crate) line: u32,
    /// Index into the unit's files.
    file: u32,
    is_stmt: bool,
    prologue_end: bool,
}

/// The line table of one unit.
#[derive(Debug, Default)]
pub(crate) struct UnitLines {
    /// Without empty rows, by address.
    rows: Vec<Row>,
    /// By the index that rows and attributes use.
    files: Vec<Option<Arc<str>>>,
}

impl UnitLines {
    /// Runs the unit's line program. A program that breaks off gives the rows until there.
    pub(crate) fn read(
        view: &View<'_>,
        unit: &Unit<'_>,
        line_program: u32,
        is_go: bool,
    ) -> Result<Self, DwarfError> {
        let program = view
            .dwarf
            .debug_line
            .program(DebugLineOffset(line_program as usize), unit.header.address_size(), None, None)
            .map_err(DwarfError::broken("line table"))?;
        let comp_dir = unit.comp_dir.map(|dir| dir.to_string_lossy().into_owned());
        let comp_dir = comp_dir.as_deref().filter(|_| !is_go);
        let files = files::table(view, unit, program.header(), comp_dir)
            .into_iter()
            .map(|name| name.map(Arc::from))
            .collect();
        let mut rows: Vec<Row> = Vec::new();
        // The row whose end is not known yet. At an address with several rows the last one counts.
        let mut open: Option<Row> = None;
        let mut source = program.rows();
        while let Ok(Some((_, row))) = source.next_row() {
            if let Some(mut before) = open.take() {
                before.end = row.address();
                // A linker places code that it drops at 0.
                if before.end > before.address && before.address != 0 {
                    rows.push(before);
                }
            }
            if !row.end_sequence() {
                open = Some(Row {
                    address: row.address(),
                    end: row.address(),
                    line: row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0),
                    file: u32::try_from(row.file_index()).unwrap_or(u32::MAX),
                    is_stmt: row.is_stmt(),
                    prologue_end: row.prologue_end(),
                });
            }
        }
        rows.sort_by_key(|row| row.address);
        Ok(Self { rows, files })
    }

    /// The name of a file.
    pub(crate) fn file(&self, index: u64) -> Option<&Arc<str>> {
        self.files.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// The row that covers the address.
    pub(crate) fn at(&self, address: u64) -> Option<(&Row, Option<&Arc<str>>)> {
        let at = self.rows.partition_point(|row| row.address <= address).checked_sub(1)?;
        let row = self.rows.get(at).filter(|row| address < row.end)?;
        Some((row, self.file(u64::from(row.file))))
    }

    /// All rows of one file.
    pub(crate) fn of_file(&self, file: &str) -> Vec<LineRow> {
        let wanted: Vec<bool> =
            self.files.iter().map(|name| name.as_deref().is_some_and(|name| name == file)).collect();
        self.rows
            .iter()
            .filter(|row| wanted.get(row.file as usize).copied().unwrap_or(false))
            .filter_map(|row| self.complete(row))
            .collect()
    }

    /// All rows that touch one of the ranges.
    pub(crate) fn of_ranges(&self, ranges: &[Range<u64>]) -> Vec<LineRow> {
        let mut out = Vec::new();
        for range in ranges {
            let first = self.rows.partition_point(|row| row.end <= range.start);
            out.extend(
                self.rows[first..]
                    .iter()
                    .take_while(|row| row.address < range.end)
                    .filter_map(|row| self.complete(row)),
            );
        }
        out
    }

    /// Where the prologue of the function with these ranges ends.
    pub(crate) fn prologue_end(&self, ranges: &[Range<u64>]) -> Option<u64> {
        let range = ranges.first()?;
        let first = self.rows.partition_point(|row| row.address < range.start);
        self.rows[first..]
            .iter()
            .take_while(|row| row.address < range.end)
            .find(|row| row.prologue_end)
            .map(|row| row.address)
    }

    /// A row of an unnamed file is of no use.
    fn complete(&self, row: &Row) -> Option<LineRow> {
        Some(LineRow {
            address: row.address,
            end: row.end,
            file: Arc::clone(self.file(u64::from(row.file))?),
            line: row.line,
            is_stmt: row.is_stmt,
            prologue_end: row.prologue_end,
        })
    }
}

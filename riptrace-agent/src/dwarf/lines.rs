//! The line table: which address belongs to which line.

use std::{ops::Range, sync::Arc};

use gimli::{DebugLineOffset, IncompleteLineProgram};

use super::{
    DwarfError, files,
    line_program::{self, Row},
    unit::{Slice, Unit, View},
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

/// The line table of one unit.
#[derive(Debug, Default)]
pub(crate) struct UnitLines {
    /// Without empty rows, by address.
    rows: Vec<Row>,
    /// By the index that rows and attributes use.
    files: Vec<Option<Arc<str>>>,
}

/// Opens the unit's line program.
fn open<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    line_program: u32,
) -> Result<IncompleteLineProgram<Slice<'a>>, DwarfError> {
    view.dwarf
        .debug_line
        .program(DebugLineOffset(line_program as usize), unit.header.address_size(), None, None)
        .map_err(DwarfError::broken("line table"))
}

/// The unit's files by index; the working directory counts for C only.
fn files_of<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    program: &IncompleteLineProgram<Slice<'a>>,
    is_go: bool,
) -> Vec<Option<String>> {
    let comp_dir = unit.comp_dir.map(|dir| dir.to_string_lossy().into_owned());
    let comp_dir = comp_dir.as_deref().filter(|_| !is_go);
    files::table(view, unit, program.header(), comp_dir)
}

/// The rows of one file in one unit, without reading the others'.
pub(crate) fn rows_of_file<'a>(
    view: &View<'a>,
    unit: &Unit<'a>,
    line_program: u32,
    is_go: bool,
    file: &Arc<str>,
) -> Result<Vec<LineRow>, DwarfError> {
    let program = open(view, unit, line_program)?;
    let wanted: Vec<bool> =
        files_of(view, unit, &program, is_go).iter().map(|name| name.as_deref() == Some(&**file)).collect();
    let mut out = Vec::new();
    line_program::run(
        program.header(),
        |file| wanted.get(file as usize).copied().unwrap_or(false),
        |row| {
            out.push(LineRow {
                address: row.address,
                end: row.end,
                file: Arc::clone(file),
                line: row.line,
                is_stmt: row.is_stmt,
                prologue_end: row.prologue_end,
            });
        },
    );
    Ok(out)
}

impl UnitLines {
    /// Runs the unit's line program. A program that breaks off gives the rows until there.
    pub(crate) fn read<'a>(
        view: &View<'a>,
        unit: &Unit<'a>,
        line_program: u32,
        is_go: bool,
    ) -> Result<Self, DwarfError> {
        let program = open(view, unit, line_program)?;
        let files =
            files_of(view, unit, &program, is_go).into_iter().map(|name| name.map(Arc::from)).collect();
        let mut rows: Vec<Row> = Vec::new();
        line_program::run(program.header(), |_| true, |row| rows.push(row));
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

    /// Where the prologue of the function with these ranges ends, and where its body begins: after the prologue come
    /// stores on the line of the declaration, of captured variables and of zeros into named results.
    pub(crate) fn prologue_end(&self, ranges: &[Range<u64>], decl_line: u32) -> Option<(u64, u64)> {
        let range = ranges.first()?;
        let first = self.rows.partition_point(|row| row.address < range.start);
        let inside = self.rows[first..].iter().take_while(|row| row.address < range.end);
        let mut behind = inside.skip_while(|row| !row.prologue_end);
        let end = behind.clone().next()?.address;
        let body = behind.find(|row| row.line != decl_line).map_or(range.end, |row| row.address);
        Some((end, body))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dwarf::{Sections, unit::AbbreviationCache};

    /// gimli's runner, to compare with.
    fn by_gimli(program: IncompleteLineProgram<Slice<'_>>) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut open: Option<Row> = None;
        let mut source = program.rows();
        while let Ok(Some((_, row))) = source.next_row() {
            if let Some(mut before) = open.take() {
                before.end = row.address();
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
        rows
    }

    #[test]
    fn every_line_program_gives_the_rows_that_gimli_reads() {
        for program in crate::dwarf::tests::fixture::programs() {
            let sections: &Sections = &program.sections;
            let cache = AbbreviationCache::default();
            let view = View::new(sections, &cache);
            let mut units = view.dwarf.debug_info.units();
            let mut rows = 0;
            while let Ok(Some(header)) = units.next() {
                let unit = view.unit(header.debug_info_offset().unwrap().0 as u64).unwrap();
                let root = unit.entry(unit.header.root_offset()).unwrap();
                let Some(gimli::AttributeValue::DebugLineRef(offset)) =
                    root.attr_value(gimli::DW_AT_stmt_list)
                else {
                    continue;
                };
                let offset = u32::try_from(offset.0).unwrap();
                let mut found = Vec::new();
                line_program::run(
                    open(&view, &unit, offset).unwrap().header(),
                    |_| true,
                    |row| found.push(row),
                );
                assert_eq!(found, by_gimli(open(&view, &unit, offset).unwrap()), "{}", program.name());
                rows += found.len();
            }
            assert!(rows > 10_000, "{}: {rows}", program.name());
        }
    }
}

//! The line table: which address belongs to which line.

use std::{ops::Range, sync::Arc};

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

//! The runtime's own line table, `.gopclntab`: functions, lines and inlined calls of a program, with or without DWARF.
//! Pure, lazy, without copies: nothing is decoded before it is asked for.
//!
//! Format of Go 1.18 and newer: runtime/symtab.go (`pcHeader`, `_func`, `step`), runtime/symtabinl.go, internal/abi/symtab.go.
//! Addresses are link-time addresses.

mod function;
mod names;
mod values;

use std::{
    collections::{HashMap, HashSet},
    ffi::CStr,
    ops::Range,
};

use bytes::Bytes;

use self::values::Values;
pub use self::{
    function::{Frame, Function, InlinedAt},
    names::{name_matches, path_matches, shortened},
};
use crate::golang::version::GoVersion;

/// Magic of Go 1.18 and 1.19.
const MAGIC_GO1_18: u32 = 0xffff_fff0;
/// Magic of Go 1.20 and newer.
const MAGIC_GO1_20: u32 = 0xffff_fff1;
/// `pcHeader`: magic, two zero bytes, instruction quantum 1, pointer size 8, then eight words.
const HEADER_BYTES: usize = 8 + 8 * 8;
/// Alignment at which the linker places the table.
pub const ALIGNMENT: usize = 8;

/// Why a table can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// Its magic is of no version that is known.
    #[error("line table of an unknown version (magic {magic:#x}); Go 1.18 to 1.27 are supported")]
    UnknownVersion {
        /// The magic.
        magic: u32,
    },
    /// A part lies outside of it, or functions are out of order.
    #[error("damaged line table ({what})")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
}

/// What a table does not say itself.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `runtime.text`: what function entries are counted from. Newer tables leave it out.
    pub text_start: u64,
    /// The bytes from `moduledata.gofunc` on, where inline trees are. Without them inlined calls are not told apart.
    pub gofunc: Option<Bytes>,
    /// The release of Go, by which wrappers are told.
    pub version: Option<GoVersion>,
}

/// A line table.
#[derive(Clone, Debug)]
pub struct Pclntab {
    data: Bytes,
    text_start: u64,
    functions: u32,
    names: Range<usize>,
    units: Range<usize>,
    files: Range<usize>,
    values: usize,
    table: usize,
    new_format: bool,
    wrapper_id: u8,
    gofunc: Bytes,
}

/// A run of addresses that belong to one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineRange<'a> {
    /// First address.
    pub address: u64,
    /// Address behind the last.
    pub end: u64,
    /// Source file.
    pub file: &'a str,
    /// Line.
    pub line: u32,
    /// [`Function::index`] of the function that has the code.
    pub function: u32,
    /// Index into the function's inline tree; negative: the function's own code.
    pub inlined: i32,
}

impl Pclntab {
    /// Whether these bytes begin like a table.
    pub fn looks_like(bytes: &[u8]) -> bool {
        matches!(bytes, [0xf0 | 0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8, ..])
    }

    /// The header's `textStart`; zero or meaningless where it would have needed a relocation (Go ≥ 1.26, PIE).
    pub fn header_text_start(bytes: &[u8]) -> Option<u64> {
        word(bytes, 24)
    }

    /// The header's offset of the function names, by which a moduledata is recognised.
    pub fn header_names_offset(bytes: &[u8]) -> Option<u64> {
        word(bytes, 32)
    }

    /// Checks the header and the function index. `data` begins at the header and may be longer than the table.
    pub fn parse(data: Bytes, context: Context) -> Result<Self, PclntabError> {
        let damaged = |what| PclntabError::Damaged { what };
        let magic = half(&data, 0).ok_or(damaged("no header"))?;
        if magic != MAGIC_GO1_18 && magic != MAGIC_GO1_20 {
            return Err(PclntabError::UnknownVersion { magic });
        }
        if !Self::looks_like(&data) || data.len() < HEADER_BYTES {
            return Err(damaged("header"));
        }
        let size = |at| word(&data, at).and_then(|value| usize::try_from(value).ok());
        let place =
            |at| size(at).filter(|offset| *offset <= data.len()).ok_or(damaged("an offset of the header"));
        let (names, units, files) = (place(32)?, place(40)?, place(48)?);
        let (values, table) = (place(56)?, place(64)?);
        if names > units || units > files || files > values || values > table {
            return Err(damaged("order of the parts"));
        }
        let functions =
            size(8).and_then(|functions| u32::try_from(functions).ok()).ok_or(damaged("function count"))?;
        let version = context.version;
        let this = Self {
            text_start: context.text_start,
            functions,
            names: names..units,
            units: units..files,
            files: files..values,
            values,
            table,
            new_format: magic == MAGIC_GO1_20,
            wrapper_id: wrapper_id(version),
            gofunc: context.gofunc.unwrap_or_default(),
            data,
        };
        this.check_order()?;
        Ok(this)
    }

    /// Binary search needs ascending entries; once they are known to ascend, functions are disjoint, which bounds
    /// every walk over all of them by the size of the text.
    fn check_order(&self) -> Result<(), PclntabError> {
        let index = (self.functions as usize)
            .checked_mul(8)
            .and_then(|bytes| self.table.checked_add(bytes)?.checked_add(4))
            .and_then(|end| self.data.get(self.table..end))
            .ok_or(PclntabError::Damaged { what: "function index" })?;
        let mut entries = index.chunks(8).map(|entry| half(entry, 0).unwrap_or_default());
        let mut last = entries.next().unwrap_or_default();
        for entry in entries {
            if entry < last {
                return Err(PclntabError::Damaged { what: "functions out of order" });
            }
            last = entry;
        }
        Ok(())
    }

    /// Number of functions.
    pub fn len(&self) -> usize {
        self.functions as usize
    }

    /// Whether there is no function.
    pub fn is_empty(&self) -> bool {
        self.functions == 0
    }

    /// The functions in the order of their entries.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.functions).filter_map(|index| self.function(index))
    }

    /// The function at this position.
    pub fn function(&self, index: u32) -> Option<Function<'_>> {
        if index >= self.functions {
            return None;
        }
        let at = self.table + index as usize * 8;
        let record = self.table.checked_add(half(&self.data, at + 4)? as usize)?;
        let entry = self.text_start.wrapping_add(u64::from(half(&self.data, at)?));
        let end = self.text_start.wrapping_add(u64::from(half(&self.data, at + 8)?));
        Some(Function::new(self, record, index, entry..end))
    }

    /// The function whose code contains the address.
    pub fn function_at(&self, address: u64) -> Option<Function<'_>> {
        let offset = u32::try_from(address.checked_sub(self.text_start)?).ok()?;
        let (mut low, mut high) = (0, self.functions);
        while low < high {
            let middle = low + (high - low) / 2;
            if half(&self.data, self.table + middle as usize * 8)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let function = self.function(low.checked_sub(1)?)?;
        (address < function.end).then_some(function)
    }

    /// The functions of this name: `pkg.Func`, `pkg.(*T).Method`, with as much of the import path as wanted (a suffix
    /// that begins after a `/`); `pkg.Func` also stands for its generic instantiations.
    pub fn functions_matching(&self, name: &str) -> Vec<Function<'_>> {
        self.functions().filter(|function| name_matches(function.name(), name)).collect()
    }

    /// The function of exactly this name.
    pub fn function_named(&self, name: &str) -> Option<Function<'_>> {
        self.functions().find(|function| function.name() == name)
    }

    /// File and line of an address; of the innermost inlined call there.
    pub fn line_at(&self, address: u64) -> Option<(&str, u32)> {
        let function = self.function_at(address)?;
        Some((function.file_at(address)?, function.line_at(address)?))
    }

    /// The calls that an address stands for, innermost first: inlined ones, then the function that has the code.
    ///
    /// For a return address give the address minus one.
    pub fn frames(&self, address: u64) -> Vec<Frame<'_>> {
        self.function_at(address).map(|function| function.frames(address)).unwrap_or_default()
    }

    /// Every source file that has code, in no order, each once.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.data.get(self.files.clone()).unwrap_or_default();
        files
            .split(|byte| *byte == 0)
            .filter_map(|file| std::str::from_utf8(file).ok())
            .filter(|file| !file.is_empty())
    }

    /// The files whose path ends in `suffix`, at a `/`.
    pub fn files_matching(&self, suffix: &str) -> Vec<&str> {
        self.files().filter(|file| path_matches(file, suffix)).collect()
    }

    /// The runs of addresses of a file, in address order. The file's name is as [`Self::files`] gives it.
    pub fn lines_of_file(&self, file: &str) -> Vec<LineRange<'_>> {
        let wanted: HashSet<u32> = self.file_offsets(file);
        if wanted.is_empty() {
            return Vec::new();
        }
        self.functions()
            .flat_map(|function| function.lines_where(|offset| wanted.contains(&offset)))
            .collect()
    }

    /// The functions with an inlined call of a function of this name (as in [`Self::functions_matching`]), with the
    /// address ranges of the copies.
    pub fn inlined_matching(&self, name: &str) -> Vec<(Function<'_>, Vec<Range<u64>>)> {
        let mut known: HashMap<u32, bool> = HashMap::new();
        let mut matches =
            |offset: u32| *known.entry(offset).or_insert_with(|| name_matches(self.name(offset), name));
        let mut found = Vec::new();
        for function in self.functions() {
            let ranges = function.ranges_inlining(&mut matches);
            if !ranges.is_empty() {
                found.push((function, ranges));
            }
        }
        found
    }

    /// Offsets in the file table at which `file` is spelt.
    fn file_offsets(&self, file: &str) -> HashSet<u32> {
        let files = self.data.get(self.files.clone()).unwrap_or_default();
        let mut offset = 0_u32;
        let mut found = HashSet::new();
        for candidate in files.split(|byte| *byte == 0) {
            if candidate == file.as_bytes() {
                found.insert(offset);
            }
            offset = offset.saturating_add(candidate.len() as u32 + 1);
        }
        found
    }

    fn string(&self, part: &Range<usize>, offset: u32) -> &str {
        let start = part.start.saturating_add(offset as usize);
        let bytes = self.data.get(start..part.end).unwrap_or_default();
        CStr::from_bytes_until_nul(bytes).ok().and_then(|text| text.to_str().ok()).unwrap_or_default()
    }

    fn name(&self, offset: u32) -> &str {
        self.string(&self.names, offset)
    }

    fn name_begins_with(&self, offset: u32, prefix: &[u8]) -> bool {
        let start = self.names.start.saturating_add(offset as usize);
        self.data.get(start..self.names.end).is_some_and(|names| names.starts_with(prefix))
    }

    /// The value table at an offset of the value part; 0 means that there is none.
    fn values(&self, offset: u32, start: u64, end: u64) -> Values<'_> {
        let bytes = match offset {
            0 => &[],
            offset => {
                self.data.get(self.values.saturating_add(offset as usize)..self.table).unwrap_or_default()
            }
        };
        Values::new(bytes, start, end)
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// `abi.FuncIDWrapper`, the last of the enumeration, which has grown (internal/abi/symtab.go).
fn wrapper_id(version: Option<GoVersion>) -> u8 {
    match version {
        Some(version) if version < GoVersion::go1(22) => 21,
        Some(version) if version < GoVersion::go1(25) => 22,
        _ => 23,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_with_a_good_magic_are_an_error_or_harmless(
            fields in proptest::collection::vec(0_u64..400, 8),
            body in proptest::collection::vec(any::<u8>(), 0..400),
            gofunc in proptest::collection::vec(any::<u8>(), 0..100),
            old: bool,
        ) {
            let mut bytes = vec![if old { 0xf0 } else { 0xf1 }, 0xff, 0xff, 0xff, 0, 0, 1, 8];
            bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
            // Few functions, so that some tables get past the first check.
            bytes[8] %= 4;
            bytes.extend(body);
            let context = Context { text_start: 0x1000, gofunc: Some(Bytes::from(gofunc)), version: None };
            if let Ok(table) = Pclntab::parse(Bytes::from(bytes), context) {
                for function in table.functions() {
                    let _ = (function.name(), function.args_bytes(), function.start_line(), function.is_wrapper());
                    for line in function.lines().into_iter().take(100) {
                        let _ = table.frames(line.address);
                    }
                }
                let files: Vec<&str> = table.files().collect();
                for file in files {
                    let _ = table.lines_of_file(file);
                }
                let _ = table.inlined_matching("a.b");
            }
        }
    }
}

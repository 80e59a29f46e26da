//! The runtime's own line table, `.gopclntab`: functions, lines and inlined calls of a program, with or without DWARF.
//! Pure, lazy, without copies: nothing is decoded before it is asked for.
//!
//! Format of Go 1.18 and newer: runtime/symtab.go (`pcHeader`, `_func`, `step`), runtime/symtabinl.go, internal/abi/symtab.go.
//! Addresses are link-time addresses.

use std::{borrow::Cow, collections::HashSet, ops::Range};

use bytes::Bytes;

use crate::golang::version::GoVersion;

/// Magic of Go 1.18 and 1.19.
const MAGIC_GO1_18: u32 = 0xffff_fff0;
/// Magic of Go 1.20 and newer.
const MAGIC_GO1_20: u32 = 0xffff_fff1;
/// `pcHeader`: magic, two zero bytes, instruction quantum 1, pointer size 8, then eight words.
const HEADER_BYTES: usize = 8 + 8 * 8;
/// Alignment at which the linker places the table.
pub const ALIGNMENT: usize = 8;

const PCDATA_INL_TREE_INDEX: u32 = 2;
const FUNCDATA_INL_TREE: u32 = 3;
/// `abi.ArgsSizeUnknown`.
const ARGS_UNKNOWN: i32 = i32::MIN;
/// Frames that one address is expanded to at the most; deeper inlining does not occur, a loop in a broken table might.
const MAX_INLINED: usize = 1000;

const FLAG_TOP_FRAME: u8 = 1 << 0;
const FLAG_SP_WRITE: u8 = 1 << 1;
const FLAG_ASM: u8 = 1 << 2;

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

/// A function of the table: code that lies in one piece. Inlined copies belong to the function that they are in.
#[derive(Clone, Copy, Debug)]
pub struct Function<'a> {
    tab: &'a Pclntab,
    record: usize,
    /// Position in the order of entries.
    pub index: u32,
    /// Address of the first instruction.
    pub entry: u64,
    /// Address of the next function, padding included.
    pub end: u64,
}

/// One level of an address: a function and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The function's full name, with type arguments (`main.Map[go.shape.int]`); see [`shortened`].
    pub function: &'a str,
    /// Source file; empty if unknown.
    pub file: &'a str,
    /// Line; 0 if unknown.
    pub line: u32,
    /// Line of the `func` keyword; 0 if unknown.
    pub start_line: u32,
    /// The function was inlined into the one of the next frame.
    pub inlined: bool,
    /// Code that the compiler made up (method wrappers, `defer` wrappers, hash functions), which stacks usually leave out.
    pub wrapper: bool,
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
        Some(Function {
            tab: self,
            record,
            index,
            entry: self.text_start.wrapping_add(u64::from(half(&self.data, at)?)),
            end: self.text_start.wrapping_add(u64::from(half(&self.data, at + 8)?)),
        })
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
        let mut known: HashSet<(u32, bool)> = HashSet::new();
        let mut matches = |offset: u32| -> bool {
            if known.contains(&(offset, true)) {
                return true;
            }
            if known.contains(&(offset, false)) {
                return false;
            }
            let matching = name_matches(self.name(offset), name);
            known.insert((offset, matching));
            matching
        };
        let mut found = Vec::new();
        for function in self.functions() {
            let ranges: Vec<Range<u64>> = function
                .pcdata(PCDATA_INL_TREE_INDEX)
                .filter(|(_, index)| function.inlined_chain(*index).any(|call| matches(call.name)))
                .map(|(range, _)| range)
                .collect();
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
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or_default();
        bytes.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    fn name(&self, offset: u32) -> &str {
        self.string(&self.names, offset)
    }

    /// The value table at an offset of the value part; 0 means that there is none.
    fn values(&self, offset: u32, start: u64, end: u64) -> Values<'_> {
        let bytes = match offset {
            0 => &[],
            offset => {
                self.data.get(self.values.saturating_add(offset as usize)..self.table).unwrap_or_default()
            }
        };
        Values { bytes, address: start, end, value: -1, first: true }
    }
}

impl<'a> Function<'a> {
    fn half(&self, offset: usize) -> u32 {
        half(&self.tab.data, self.record + offset).unwrap_or_default()
    }

    fn byte(&self, offset: usize) -> u8 {
        self.tab.data.get(self.record + offset).copied().unwrap_or_default()
    }

    /// Bytes of `_func` before its arrays: `startLine` came with Go 1.20.
    fn fixed_bytes(&self) -> usize {
        if self.tab.new_format { 44 } else { 40 }
    }

    /// Full name, with type arguments (`main.Map[go.shape.int]`); see [`shortened`].
    pub fn name(&self) -> &'a str {
        self.tab.name(self.half(4))
    }

    /// Bytes of the arguments and results that the caller has on the stack; `None`: unknown.
    pub fn args_bytes(&self) -> Option<u32> {
        let bytes = self.half(8) as i32;
        if bytes == ARGS_UNKNOWN { None } else { u32::try_from(bytes).ok() }
    }

    /// Line of the `func` keyword; 0 if the table does not say.
    pub fn start_line(&self) -> u32 {
        if self.tab.new_format { self.half(36) } else { 0 }
    }

    /// `abi.FuncID`; its numbers depend on the release.
    pub fn id(&self) -> u8 {
        self.byte(self.fixed_bytes() - 4)
    }

    /// Whether the compiler made it up: a method wrapper, a `defer` or `go` wrapper, a hash or equality function.
    pub fn is_wrapper(&self) -> bool {
        self.id() == self.tab.wrapper_id
    }

    /// Whether it is written in assembly.
    pub fn is_assembly(&self) -> bool {
        self.flags() & FLAG_ASM != 0
    }

    /// Whether it is where a stack begins (`runtime.goexit`, `runtime.mstart`).
    pub fn is_top_frame(&self) -> bool {
        self.flags() & FLAG_TOP_FRAME != 0
    }

    /// Whether it sets SP in a way that stacks can't be followed through.
    pub fn writes_sp(&self) -> bool {
        self.flags() & FLAG_SP_WRITE != 0
    }

    fn flags(&self) -> u8 {
        self.byte(self.fixed_bytes() - 3)
    }

    /// The file of its first instruction.
    pub fn file(&self) -> Option<&'a str> {
        self.file_at(self.entry)
    }

    /// Source file of an address.
    pub fn file_at(&self, address: u64) -> Option<&'a str> {
        let index = self.tab.values(self.half(20), self.entry, self.end).at(address)?;
        Some(self.tab.string(&self.tab.files, self.file_offset(index)?))
    }

    /// Line of an address.
    pub fn line_at(&self, address: u64) -> Option<u32> {
        let line = self.tab.values(self.half(24), self.entry, self.end).at(address)?;
        u32::try_from(line).ok()
    }

    /// SP's distance from the frame's start at an address: bytes that the function has pushed, without the return
    /// address (so CFA = SP + this + 8).
    pub fn sp_delta_at(&self, address: u64) -> Option<u32> {
        let delta = self.tab.values(self.half(16), self.entry, self.end).at(address)?;
        u32::try_from(delta).ok()
    }

    /// The calls that an address in this function stands for, innermost first.
    pub fn frames(&self, address: u64) -> Vec<Frame<'a>> {
        let mut frames = Vec::new();
        let mut address = address;
        loop {
            let file = self.file_at(address).unwrap_or_default();
            let line = self.line_at(address).unwrap_or_default();
            let index = self.pcdata(PCDATA_INL_TREE_INDEX).at(address).unwrap_or(-1);
            let Some(call) = self.inlined_call(index).filter(|_| frames.len() < MAX_INLINED) else {
                let start_line = self.start_line();
                let wrapper = self.is_wrapper();
                frames.push(Frame { function: self.name(), file, line, start_line, inlined: false, wrapper });
                return frames;
            };
            frames.push(Frame {
                function: self.tab.name(call.name),
                file,
                line,
                start_line: call.start_line,
                inlined: true,
                wrapper: call.id == self.tab.wrapper_id,
            });
            address = self.entry.wrapping_add(u64::from(call.parent_offset));
        }
    }

    /// The function's runs of addresses, line by line, in address order.
    pub fn lines(&self) -> Vec<LineRange<'a>> {
        self.lines_where(|_| true)
    }

    /// The names of the calls inlined at an inline-tree index, innermost first (as in [`LineRange::inlined`]).
    pub fn inlined_names(&self, index: i32) -> Vec<&'a str> {
        self.inlined_chain(index).map(|call| self.tab.name(call.name)).collect()
    }

    /// The inline-tree index of the call into which the one at `index` was inlined; negative: the function's own code.
    pub fn inline_parent(&self, index: i32) -> i32 {
        let call = self.inlined_call(index);
        let parent = call.map(|call| self.entry.wrapping_add(u64::from(call.parent_offset)));
        parent.and_then(|parent| self.pcdata(PCDATA_INL_TREE_INDEX).at(parent)).unwrap_or(-1)
    }

    fn lines_where(&self, wanted: impl Fn(u32) -> bool) -> Vec<LineRange<'a>> {
        let mut found = Vec::new();
        let files = self.tab.values(self.half(20), self.entry, self.end);
        let mut lines = self.tab.values(self.half(24), self.entry, self.end).peekable();
        let mut inlined = self.pcdata(PCDATA_INL_TREE_INDEX).peekable();
        for (in_file, file) in files {
            let Some(offset) = self.file_offset(file).filter(|offset| wanted(*offset)) else { continue };
            let file = self.tab.string(&self.tab.files, offset);
            let mut address = in_file.start;
            while address < in_file.end {
                while lines.next_if(|(range, _)| range.end <= address).is_some() {}
                while inlined.next_if(|(range, _)| range.end <= address).is_some() {}
                let mut end = in_file.end;
                let mut value = |run: Option<&(Range<u64>, i32)>| match run {
                    Some((range, value)) => {
                        end = end.min(range.end);
                        *value
                    }
                    None => -1,
                };
                let line = value(lines.peek());
                let inlined = value(inlined.peek());
                if let Ok(line) = u32::try_from(line) {
                    found.push(LineRange { address, end, file, line, function: self.index, inlined });
                }
                address = end;
            }
        }
        found
    }

    fn file_offset(&self, index: i32) -> Option<u32> {
        let index = usize::try_from(index).ok()?.checked_add(self.half(32) as usize)?;
        let units = self.tab.data.get(self.tab.units.clone())?;
        half(units, index.checked_mul(4)?).filter(|offset| *offset != u32::MAX)
    }

    fn pcdata(&self, table: u32) -> Values<'a> {
        let offset =
            if table < self.half(28) { self.half(self.fixed_bytes() + table as usize * 4) } else { 0 };
        self.tab.values(offset, self.entry, self.end)
    }

    /// Offset of a piece of function data from `gofunc`.
    fn funcdata(&self, table: u32) -> Option<usize> {
        if table >= u32::from(self.byte(self.fixed_bytes() - 1)) {
            return None;
        }
        let index = (self.half(28) as usize).checked_add(table as usize)?;
        let at = index.checked_mul(4)?.checked_add(self.record + self.fixed_bytes())?;
        half(&self.tab.data, at).filter(|offset| *offset != u32::MAX).map(|offset| offset as usize)
    }

    fn inlined_call(&self, index: i32) -> Option<InlinedCall> {
        let index = usize::try_from(index).ok()?;
        let tree = self.tab.gofunc.get(self.funcdata(FUNCDATA_INL_TREE)?..)?;
        // runtime.inlinedCall: since Go 1.20 (id, name, parent, start line); before (parent, id, file, line, name, parent).
        if self.tab.new_format {
            let call = tree.get(index.checked_mul(16)?..)?.get(..16)?;
            let [id, ..] = *call else { return None };
            Some(InlinedCall {
                id,
                name: half(call, 4)?,
                parent_offset: half(call, 8)?,
                start_line: half(call, 12)?,
            })
        } else {
            let call = tree.get(index.checked_mul(20)?..)?.get(..20)?;
            let [_, _, id, ..] = *call else { return None };
            Some(InlinedCall { id, name: half(call, 12)?, parent_offset: half(call, 16)?, start_line: 0 })
        }
    }

    fn inlined_chain(&self, index: i32) -> impl Iterator<Item = InlinedCall> + use<'a, '_> {
        let mut index = index;
        (0..MAX_INLINED).map_while(move |_| {
            let call = self.inlined_call(index)?;
            let parent = self.entry.wrapping_add(u64::from(call.parent_offset));
            index = self.pcdata(PCDATA_INL_TREE_INDEX).at(parent).unwrap_or(-1);
            Some(call)
        })
    }
}

struct InlinedCall {
    id: u8,
    name: u32,
    /// An address of the caller whose line is the call's, counted from the function's entry.
    parent_offset: u32,
    start_line: u32,
}

/// A table of values by address: runs of (change of the value, length), both varints (runtime/symtab.go, `step`).
struct Values<'a> {
    bytes: &'a [u8],
    address: u64,
    end: u64,
    value: i32,
    first: bool,
}

impl Values<'_> {
    /// The value at an address.
    fn at(self, address: u64) -> Option<i32> {
        for (range, value) in self {
            if address < range.end {
                return (address >= range.start).then_some(value);
            }
        }
        None
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (Range<u64>, i32);

    fn next(&mut self) -> Option<Self::Item> {
        if self.address >= self.end {
            return None;
        }
        let delta = self.varint()?;
        if delta == 0 && !self.first {
            return None;
        }
        self.first = false;
        // Zigzag: the sign is the lowest bit.
        let delta = ((delta >> 1) as i32) ^ -((delta & 1) as i32);
        self.value = self.value.wrapping_add(delta);
        let start = self.address;
        let length = self.varint()?;
        // Each run has instructions; one without would let a broken table be walked without end.
        if length == 0 {
            return None;
        }
        self.address = start.wrapping_add(u64::from(length));
        Some((start..self.address, self.value))
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

/// Whether a function's full name is meant by what a user typed.
pub fn name_matches(full: &str, typed: &str) -> bool {
    if typed.is_empty() {
        return false;
    }
    suffix_matches(full, typed)
        || (!typed.contains('[') && full.contains('[') && suffix_matches(&without_type_arguments(full), typed))
        // The linker escapes dots in the last element of an import path: `gopkg.in/yaml%2ev3.Unmarshal`.
        || (full.contains("%2e") && !typed.contains("%2e") && name_matches(&full.replace("%2e", "."), typed))
}

fn suffix_matches(full: &str, typed: &str) -> bool {
    full.strip_suffix(typed).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// `pkg.F[...]` and `pkg.(*T[go.shape.int]).M` without what is in brackets.
fn without_type_arguments(full: &str) -> String {
    let mut depth = 0_u32;
    let mut out = String::with_capacity(full.len());
    for c in full.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// A function's name as the runtime prints it: type arguments as `[...]` (runtime/symtab.go, `funcNameForPrint`).
pub fn shortened(full: &str) -> Cow<'_, str> {
    match (full.find('['), full.rfind(']')) {
        (Some(open), Some(close)) if open < close => {
            let (before, after) = (full.get(..open), full.get(close + 1..));
            Cow::Owned(format!("{}[...]{}", before.unwrap_or_default(), after.unwrap_or_default()))
        }
        _ => Cow::Borrowed(full),
    }
}

/// Whether a path ends in what a user typed, at a `/`.
pub fn path_matches(path: &str, typed: &str) -> bool {
    !typed.is_empty() && suffix_matches(path, typed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_typed_matches_from_a_slash_on() {
        for (full, typed, expected) in [
            ("main.main", "main.main", true),
            ("example.com/shop/orders.(*Store).Add", "orders.(*Store).Add", true),
            ("example.com/shop/orders.(*Store).Add", "shop/orders.(*Store).Add", true),
            ("example.com/shop/orders.(*Store).Add", "example.com/shop/orders.(*Store).Add", true),
            ("example.com/shop/reorders.Add", "orders.Add", false),
            ("example.com/shop/orders.Add", "Add", false),
            ("example.com/shop/orders.Add.func1", "orders.Add", false),
            ("main.Map[go.shape.int,go.shape.string]", "main.Map", true),
            ("main.(*List[go.shape.int]).Push", "main.(*List).Push", true),
            ("main.(*List[example.com/a.T]).Push", "main.(*List[example.com/a.T]).Push", true),
            ("main.Map[go.shape.int].func1", "main.Map", false),
            ("gopkg.in/yaml%2ev3.Unmarshal", "yaml.v3.Unmarshal", true),
            ("main.main", "", false),
        ] {
            assert_eq!(name_matches(full, typed), expected, "{full} {typed}");
        }
        for (path, typed, expected) in [
            ("/src/shop/orders.go", "orders.go", true),
            ("/src/shop/orders.go", "shop/orders.go", true),
            ("/src/shop/orders.go", "/src/shop/orders.go", true),
            ("/src/shop/reorders.go", "orders.go", false),
            ("/src/shop/orders.go", "", false),
        ] {
            assert_eq!(path_matches(path, typed), expected, "{path} {typed}");
        }
    }

    #[test]
    fn type_arguments_are_shortened_as_the_runtime_does() {
        assert_eq!(shortened("main.Map[go.shape.int].func1"), "main.Map[...].func1");
        assert_eq!(shortened("main.(*L[a[b],c]).M"), "main.(*L[...]).M");
        assert_eq!(shortened("main.main"), "main.main");
        assert_eq!(shortened("broken]["), "broken][");
    }

    #[test]
    fn a_value_table_is_runs_of_zigzag_changes() {
        // +2 for 3 bytes, -5 for 200 bytes, end.
        let bytes = [6, 3, 9, 200, 1, 0];
        let values = || Values { bytes: &bytes, address: 100, end: 10_000, value: -1, first: true };
        assert_eq!(values().collect::<Vec<_>>(), [(100..103, 2), (103..303, -3)]);
        assert_eq!(
            [99, 100, 102, 103, 302, 303].map(|at| values().at(at)),
            [None, Some(2), Some(2), Some(-3), Some(-3), None]
        );
    }

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

//! A function of the line table: its code, lines and inlined calls.

use std::{collections::HashMap, ops::Range};

use super::{LineRange, Pclntab, half, values::Values};

const PCDATA_INL_TREE_INDEX: u32 = 2;
const FUNCDATA_INL_TREE: u32 = 3;
/// `abi.ArgsSizeUnknown`.
const ARGS_UNKNOWN: i32 = i32::MIN;
/// Frames that one address is expanded to at the most; deeper inlining does not occur, a loop in a broken table might.
const MAX_INLINED: usize = 128;

const FLAG_TOP_FRAME: u8 = 1 << 0;
const FLAG_SP_WRITE: u8 = 1 << 1;
const FLAG_ASM: u8 = 1 << 2;

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

/// A call that was inlined, as the inline tree has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InlinedAt<'a> {
    /// Full name of the function that was inlined.
    pub name: &'a str,
    /// Line of its `func` keyword; 0 if unknown.
    pub start_line: u32,
    /// An address that stands for the call: its line is the call's.
    pub call_address: u64,
}

impl<'a> Function<'a> {
    /// `record` is the offset of its `_func` in the table.
    pub(super) fn new(tab: &'a Pclntab, record: usize, index: u32, code: Range<u64>) -> Self {
        Self { tab, record, index, entry: code.start, end: code.end }
    }

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

    /// Whether [`Self::name`] begins so; without looking for its end.
    pub fn name_begins_with(&self, prefix: &str) -> bool {
        self.tab.name_begins_with(self.half(4), prefix.as_bytes())
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

    /// Bytes that the caller sets aside on the stack for parameters, results, and the registers of parameters.
    pub fn argument_bytes(&self) -> u32 {
        self.half(8)
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

    /// The call at an inline-tree index.
    pub fn inlined_at(&self, index: i32) -> Option<InlinedAt<'a>> {
        self.inlined_call(index).map(|call| InlinedAt {
            name: self.tab.name(call.name),
            start_line: call.start_line,
            call_address: self.entry.wrapping_add(u64::from(call.parent_offset)),
        })
    }

    /// The inline-tree index of the call into which the one at `index` was inlined; negative: the function's own code.
    pub fn inline_parent(&self, index: i32) -> i32 {
        self.inlined_call(index).map_or(-1, |call| self.parent_of(&call))
    }

    /// The address ranges of inlined calls, at any depth, of functions that the predicate takes by name offset.
    pub(super) fn ranges_inlining(&self, mut wanted: impl FnMut(u32) -> bool) -> Vec<Range<u64>> {
        let runs: Vec<(Range<u64>, i32)> = self.pcdata(PCDATA_INL_TREE_INDEX).collect();
        let parent_of = |call: &InlinedCall| {
            let address = self.entry.wrapping_add(u64::from(call.parent_offset));
            let at = runs.partition_point(|(range, _)| range.end <= address);
            runs.get(at).filter(|(range, _)| range.contains(&address)).map_or(-1, |(_, index)| *index)
        };
        let mut is_wanted = |mut index: i32| {
            for _ in 0..MAX_INLINED {
                let Some(call) = self.inlined_call(index) else { break };
                if wanted(call.name) {
                    return true;
                }
                index = parent_of(&call);
            }
            false
        };
        // Most calls have several runs.
        let mut known: HashMap<i32, bool> = HashMap::new();
        let mut found = Vec::new();
        for (range, index) in &runs {
            if *known.entry(*index).or_insert_with(|| is_wanted(*index)) {
                found.push(range.clone());
            }
        }
        found
    }

    /// The runs of addresses whose file is wanted, by its offset in the file table.
    pub(super) fn lines_where(&self, wanted: impl Fn(u32) -> bool) -> Vec<LineRange<'a>> {
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

    fn parent_of(&self, call: &InlinedCall) -> i32 {
        let parent = self.entry.wrapping_add(u64::from(call.parent_offset));
        self.pcdata(PCDATA_INL_TREE_INDEX).at(parent).unwrap_or(-1)
    }

    fn inlined_chain(&self, index: i32) -> impl Iterator<Item = InlinedCall> + use<'a, '_> {
        let mut index = index;
        (0..MAX_INLINED).map_while(move |_| {
            let call = self.inlined_call(index)?;
            index = self.parent_of(&call);
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

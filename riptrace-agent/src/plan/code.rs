//! A function's machine code as a graph of instructions: what can run after what.
//!
//! Machine code comes through a [`CodeReader`]; `plan::sites` asks where control enters the code of a line. Hostile code
//! gives an error or a strange graph, never unbounded work.

use std::{collections::HashMap, ops::Range, sync::Arc};

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, Instruction, Mnemonic, NasmFormatter, OpKind,
    Register,
};

/// Largest function that is decoded.
const MAX_FUNCTION_BYTES: u64 = 8 << 20;
/// Most entries of a jump table.
const MAX_JUMP_TABLE: u64 = 4096;
/// How far before an indirect jump the address of its table is looked for, in instructions.
const MAX_TABLE_DISTANCE: usize = 32;

/// The bytes of a binary.
pub trait CodeReader {
    /// Machine code at a link-time address.
    fn code(&self, link_address: u64, bytes: usize) -> Option<&[u8]>;

    /// The pointer that lies at a link-time address when the program starts, as a link-time address (relocations of a
    /// position-independent executable applied).
    fn pointer(&self, link_address: u64) -> Option<u64>;

    /// Name of the function that is entered at a link-time address.
    fn function_name(&self, link_address: u64) -> Option<&str>;

    /// Names of all functions, for messages about names that don't exist.
    fn function_names(&self) -> Vec<Arc<str>>;
}

/// Why code could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The file does not hold the function's bytes.
    #[error("the executable has no code at {address:#x}, where debug data says that there is a function")]
    Missing {
        /// Link-time address.
        address: u64,
    },
    /// No instruction that the decoder knows.
    #[error("the bytes at {address:#x} are no instruction")]
    Undecodable {
        /// Link-time address.
        address: u64,
    },
    /// The function is beyond reason.
    #[error("the function at {address:#x} has {bytes} bytes of code, more than are analysed")]
    TooLarge {
        /// Link-time address.
        address: u64,
        /// Its bytes.
        bytes: u64,
    },
}

/// Index of an instruction in its function.
pub(crate) type Node = usize;

/// The instructions of a function and the edges between them.
#[derive(Clone, Debug)]
pub(crate) struct FlowGraph {
    instructions: Vec<Instruction>,
    by_address: HashMap<u64, Node>,
    successors: Vec<Vec<Node>>,
    predecessors: Vec<Vec<Node>>,
    entry: Node,
    /// Where control comes in from outside: the entry, and landing points that nothing in the function leads to.
    roots: Vec<Node>,
    reachable: Vec<bool>,
    /// It has jumps of which nobody knows where they lead.
    has_unknown_jumps: bool,
}

impl FlowGraph {
    /// Decodes a function.
    pub(crate) fn of(reader: &dyn CodeReader, ranges: &[Range<u64>], entry: u64) -> Result<Self, CodeError> {
        let mut instructions = Vec::new();
        for range in ranges {
            decode(reader, range, &mut instructions)?;
        }
        let by_address: HashMap<u64, Node> =
            instructions.iter().enumerate().map(|(node, instruction)| (instruction.ip(), node)).collect();
        let entry = *by_address.get(&entry).ok_or(CodeError::Missing { address: entry })?;
        let mut graph = Self {
            successors: vec![Vec::new(); instructions.len()],
            predecessors: Vec::new(),
            reachable: Vec::new(),
            roots: Vec::new(),
            has_unknown_jumps: false,
            instructions,
            by_address,
            entry,
        };
        graph.connect(reader);
        Ok(graph)
    }

    /// Number of instructions.
    pub(crate) fn len(&self) -> usize {
        self.instructions.len()
    }

    /// The instruction where the function is entered.
    pub(crate) fn entry(&self) -> Node {
        self.entry
    }

    /// The instruction at an address, if one begins there.
    pub(crate) fn at(&self, address: u64) -> Option<Node> {
        self.by_address.get(&address).copied()
    }

    pub(crate) fn address(&self, node: Node) -> u64 {
        self.instructions[node].ip()
    }

    pub(crate) fn instruction(&self, node: Node) -> &Instruction {
        &self.instructions[node]
    }

    pub(crate) fn successors(&self, node: Node) -> &[Node] {
        &self.successors[node]
    }

    pub(crate) fn predecessors(&self, node: Node) -> &[Node] {
        &self.predecessors[node]
    }

    pub(crate) fn is_reachable(&self, node: Node) -> bool {
        self.reachable[node]
    }

    pub(crate) fn roots(&self) -> &[Node] {
        &self.roots
    }

    /// Whether an instruction may have predecessors that are not known: an indirect jump could not be read.
    pub(crate) fn has_unknown_jumps(&self) -> bool {
        self.has_unknown_jumps
    }

    /// Whether `goal` can be reached from any of `starts` (each counts as reached) without leaving a node that `blocked`
    /// holds.
    pub(crate) fn reaches(
        &self,
        starts: impl IntoIterator<Item = Node>,
        goal: Node,
        blocked: impl Fn(Node) -> bool,
    ) -> bool {
        let mut seen = vec![false; self.len()];
        let mut work: Vec<Node> = starts.into_iter().collect();
        while let Some(node) = work.pop() {
            if node == goal {
                return true;
            }
            if !std::mem::replace(&mut seen[node], true) && !blocked(node) {
                work.extend(self.successors(node).iter().filter(|&&next| !seen[next]));
            }
        }
        false
    }

    fn connect(&mut self, reader: &dyn CodeReader) {
        let mut unresolved = Vec::new();
        for node in 0..self.len() {
            let instruction = self.instructions[node];
            let next = self.at(instruction.next_ip());
            let mut to: Vec<Node> = Vec::new();
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => {
                    to.extend(next);
                }
                FlowControl::Call => {
                    let target = instruction.near_branch_target();
                    if !reader.function_name(target).is_some_and(never_returns) {
                        to.extend(next);
                    }
                }
                FlowControl::ConditionalBranch => {
                    to.extend(next);
                    to.extend(self.at(instruction.near_branch_target()));
                }
                FlowControl::UnconditionalBranch => to.extend(self.at(instruction.near_branch_target())),
                FlowControl::IndirectBranch => match self.jump_table(reader, node) {
                    Some(targets) => to.extend(targets),
                    None => unresolved.push(node),
                },
                // A system call comes back; a breakpoint or an undefined instruction ends the path.
                FlowControl::Interrupt if instruction.mnemonic() == Mnemonic::Int => to.extend(next),
                FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => {}
            }
            to.sort_unstable();
            to.dedup();
            self.successors[node] = to;
        }
        self.link_back();
        let landings = self.landings();
        self.has_unknown_jumps = !unresolved.is_empty();
        if unresolved.is_empty() {
            self.roots = [self.entry].into_iter().chain(landings).collect();
        } else {
            // Some of these are targets of the jumps that could not be read: all of them may be.
            for node in unresolved {
                self.successors[node].clone_from(&landings);
            }
            self.link_back();
            self.roots = vec![self.entry];
        }
        self.reachable = vec![false; self.len()];
        let mut work = self.roots.clone();
        while let Some(node) = work.pop() {
            if !std::mem::replace(&mut self.reachable[node], true) {
                work.extend(&self.successors[node]);
            }
        }
    }

    fn link_back(&mut self) {
        self.predecessors = vec![Vec::new(); self.len()];
        for node in 0..self.len() {
            for &to in &self.successors[node] {
                self.predecessors[to].push(node);
            }
        }
    }

    /// Instructions without predecessors, except the entry and the padding behind calls that don't return: where a
    /// recovered panic goes on (`runtime.deferreturn`), or targets of indirect jumps.
    fn landings(&self) -> Vec<Node> {
        let mut landings = Vec::new();
        for node in 0..self.len() {
            if node == self.entry || !self.predecessors[node].is_empty() {
                continue;
            }
            let mut at = node;
            let padding = loop {
                if !is_padding(&self.instructions[at]) {
                    break false;
                }
                match self.successors[at].first() {
                    Some(&next) if self.predecessors[next] == [at] => at = next,
                    // It runs into code that others reach, or it ends.
                    _ => break true,
                }
            };
            if !padding {
                landings.push(node);
            }
        }
        landings
    }

    /// Where `jmp [base + index * 8]` goes: the table's entries, as long as they are instructions of this function.
    /// The compiler writes `LEAQ table(SB), base` in front of it (cmd/compile/internal/amd64/ssa.go, `BlockAMD64JUMPTABLE`).
    fn jump_table(&self, reader: &dyn CodeReader, jump: Node) -> Option<Vec<Node>> {
        let instruction = &self.instructions[jump];
        if instruction.op0_kind() != OpKind::Memory || instruction.memory_index_scale() != 8 {
            return None;
        }
        let base = instruction.memory_base();
        let table = if base == Register::None {
            instruction.memory_displacement64()
        } else {
            let before = self.instructions.get(jump.saturating_sub(MAX_TABLE_DISTANCE)..jump)?;
            let load = before.iter().rev().find(|other| {
                other.op0_kind() == OpKind::Register && other.op0_register() == base && writes_first(other)
            })?;
            if load.code() != Code::Lea_r64_m || !load.is_ip_rel_memory_operand() {
                return None;
            }
            load.ip_rel_memory_address().checked_add(instruction.memory_displacement64())?
        };
        let mut targets = Vec::new();
        for entry in 0..MAX_JUMP_TABLE {
            let address = table.checked_add(entry * 8)?;
            match reader.pointer(address).and_then(|target| self.at(target)) {
                Some(node) => targets.push(node),
                None => break,
            }
        }
        (!targets.is_empty()).then_some(targets)
    }
}

fn decode(reader: &dyn CodeReader, range: &Range<u64>, out: &mut Vec<Instruction>) -> Result<(), CodeError> {
    let bytes = range.end.saturating_sub(range.start);
    if bytes > MAX_FUNCTION_BYTES {
        return Err(CodeError::TooLarge { address: range.start, bytes });
    }
    let code = usize::try_from(bytes)
        .ok()
        .and_then(|bytes| reader.code(range.start, bytes))
        .ok_or(CodeError::Missing { address: range.start })?;
    let mut decoder = Decoder::with_ip(64, code, range.start, DecoderOptions::NONE);
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(CodeError::Undecodable { address: instruction.ip() });
        }
        out.push(instruction);
    }
    Ok(())
}

/// Whether the first operand is written (not compared or tested).
fn writes_first(instruction: &Instruction) -> bool {
    !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push)
}

/// Whether an instruction is what compilers and linkers fill gaps with.
fn is_padding(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Nop | Mnemonic::Int3 | Mnemonic::Ud2 => true,
        // `XCHGL AX, AX`.
        Mnemonic::Xchg => instruction.op0_register() == instruction.op1_register(),
        _ => false,
    }
}

/// Functions of the runtime that don't return to their caller (cmd/compile ends the block behind a call to them).
fn never_returns(name: &str) -> bool {
    let Some(name) = name.strip_prefix("runtime.") else { return false };
    let name = name.strip_suffix(".abi0").unwrap_or(name);
    match name {
        "gopanic" | "throw" | "fatal" | "fatalthrow" | "fatalpanic" | "goexit0" | "goexit1" | "block"
        | "sigpanic" | "unreachableMethod" | "throwinit" | "abort" | "dieFromSignal" => true,
        _ => (name.starts_with("panic") && !name.starts_with("panicCheck")) || name.starts_with("goPanic"),
    }
}

/// Whether a function is where the runtime grows a stack.
pub(crate) fn grows_stack(name: &str) -> bool {
    name.starts_with("runtime.morestack")
}

/// The instruction in words.
pub(crate) fn text_of(instruction: &Instruction) -> String {
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_uppercase_hex(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(true);
    options.set_rip_relative_addresses(true);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

/// Whether the kernel emulates the instruction under a uprobe instead of stepping over a copy of it
/// (arch/x86/kernel/uprobes.c, `branch_setup_xol_ops` and `push_setup_xol_ops`): `nop`, `push reg`, near `call`, `jmp` and
/// `jcc` with relative targets, without prefixes other than a REX in front of `push`.
pub(crate) fn is_emulated(bytes: &[u8]) -> bool {
    match bytes {
        // push r8..r15 have a REX.B prefix; the kernel knows them since 5.1 (`insn->rex_prefix`).
        [0x41, 0x50..=0x57, ..] | [0x50..=0x57, ..] => true,
        // `nop`, also with an operand-size prefix ("prefix* + nop" there).
        [0x90, ..] | [0x66, 0x90, ..] => true,
        [0xe8 | 0xe9 | 0xeb, ..] | [0x70..=0x7f, ..] | [0x0f, 0x80..=0x8f, ..] => true,
        // The kernel takes multi-byte `nop` (0f 1f) for granted only since 6.18, for the 5-byte form.
        _ => false,
    }
}

/// The bytes of an instruction.
pub(crate) fn bytes_of<'a>(reader: &'a dyn CodeReader, instruction: &Instruction) -> Option<&'a [u8]> {
    reader.code(instruction.ip(), instruction.len())
}

#[cfg(test)]
pub(crate) mod tests;

//! The straight stretch around an entry: the instructions that run exactly when the entry runs.
//!
//! Control flow comes from `plan::code`, which loads can fault from `nonnil`. Whether the values of the line's start are
//! still there is another question (`values`).

use std::collections::BTreeSet;

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
    UsedRegister,
};

use super::{
    nonnil::{NonNil, PointedAt},
    ways::{self, Ways},
};
use crate::plan::code::{CodeReader, FlowGraph, Node, bytes_of, is_emulated};

/// Most instructions that are looked at in each direction.
const MAX_STRETCH: usize = 256;
/// Most instructions of a branch's other way that are looked at.
const MAX_OTHER_WAY: usize = 1024;
/// Most loads that may fault in one stretch: each takes a site of its own.
const MAX_FAULTS: usize = 4;

/// Why a stretch ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Barrier {
    /// Control goes on, or comes from, somewhere that this was not looked at: the function's end, a limit.
    #[default]
    End,
    /// A call: what it does can be seen, and it need not come back.
    Call,
    /// A branch: what is behind it does not always run.
    Branch,
    /// Another way in: what is behind it (before it, looking backward) runs without the entry, too.
    Join,
    /// A load of which nobody can prove that it does not fault (a nil pointer's panic).
    Fault,
    /// A store that is not to the own stack frame, or not to a place that is known.
    Store,
    /// The frame is taken down, or its pointer leads to another one.
    Frame,
    /// An instruction that has effects beyond registers and memory.
    Special,
}

impl Barrier {
    /// In words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::End => "end of the code",
            Self::Call => "call",
            Self::Branch => "branch",
            Self::Join => "another way in",
            Self::Fault => "load that may fault",
            Self::Store => "store to memory",
            Self::Frame => "return",
            Self::Special => "instruction with side effects",
        }
    }
}

/// A conditional branch of which one way leads to the entry, and nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The condition code (of x86) that holds when it goes there.
    pub condition: u32,
    /// The other way never comes back and ends by a panic or the like, so that the branch runs as often as the entry
    /// but for those.
    pub other_way_ends: bool,
}

/// The instructions that run exactly when the entry runs, in the order in which they run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    pub(crate) instructions: Vec<Instruction>,
    /// For each: whether the kernel emulates it.
    pub(crate) emulated: Vec<bool>,
    /// For each: where its memory operand lies, as bytes from SP, if it is a place of the frame that is known.
    pub(crate) places: Vec<Option<i64>>,
    /// Indices of those, from the entry on, that may fault: what is behind them runs exactly when the entry runs only
    /// together with the faults.
    pub(crate) faults: Vec<usize>,
    /// Index of the entry.
    pub(crate) entry: usize,
    /// What is in the way at the front and at the end.
    pub(crate) barriers: (Barrier, Barrier),
    /// The first instruction is a conditional branch by one of whose ways control comes to the others.
    pub(crate) branch: Option<Branch>,
    /// To which parts of the frame pointers may lead that exist at the entry.
    pub(crate) pointed_at: PointedAt,
    /// What leads to the first instruction, where several ways do.
    pub(crate) ways: Ways,
}

impl Stretch {
    /// The stretch of the entry alone.
    pub(crate) fn of_one(reader: &dyn CodeReader, graph: &FlowGraph, entry: Node) -> Self {
        let instruction = *graph.instruction(entry);
        Self {
            emulated: vec![bytes_of(reader, &instruction).is_some_and(is_emulated)],
            instructions: vec![instruction],
            places: vec![None],
            ..Self::default()
        }
    }

    /// The entry and nothing else.
    #[must_use]
    pub fn entry_alone(&self) -> Self {
        Self {
            instructions: self.instructions.get(self.entry).copied().into_iter().collect(),
            emulated: self.emulated.get(self.entry).copied().into_iter().collect(),
            places: vec![None],
            ..Self::default()
        }
    }

    /// The stretch around an entry of compiled Go code.
    pub(crate) fn around(reader: &dyn CodeReader, graph: &FlowGraph, non_nil: &NonNil, entry: Node) -> Self {
        let mut walk = Walk {
            graph,
            non_nil,
            reader,
            factory: InstructionInfoFactory::new(),
            nodes: Vec::new(),
            faults: Vec::new(),
            branch: None,
        };
        let front = walk.backward(entry);
        walk.nodes.reverse();
        let index = walk.nodes.len();
        walk.nodes.push(entry);
        let ways = if front == Barrier::Join { ways::of(&mut walk) } else { Ways::default() };
        let end = walk.forward(entry);
        let places = (0..walk.nodes.len()).map(|at| walk.place(at)).collect();
        let Walk { nodes, faults, branch, .. } = walk;
        let instructions: Vec<Instruction> = nodes.iter().map(|&node| *graph.instruction(node)).collect();
        let emulated =
            instructions.iter().map(|one| bytes_of(reader, one).is_some_and(is_emulated)).collect();
        Self {
            instructions,
            emulated,
            places,
            faults,
            entry: index,
            barriers: (front, end),
            branch,
            pointed_at: non_nil.pointed_at(graph, entry),
            ways,
        }
    }
}

/// A stretch that is being walked.
pub(super) struct Walk<'a> {
    pub(super) reader: &'a dyn CodeReader,
    pub(super) graph: &'a FlowGraph,
    non_nil: &'a NonNil,
    factory: InstructionInfoFactory,
    /// In the order in which they run, once what lies before the entry is known.
    pub(super) nodes: Vec<Node>,
    faults: Vec<usize>,
    branch: Option<Branch>,
}

impl Walk<'_> {
    fn forward(&mut self, entry: Node) -> Barrier {
        let graph = self.graph;
        let mut at = entry;
        for _ in 0..MAX_STRETCH {
            let index = self.nodes.len().saturating_sub(1);
            let may_fault = match self.barrier(at, Some(index)) {
                // A string instruction has changed registers by the time it faults.
                Some(Barrier::Fault)
                    if self.faults.len() < MAX_FAULTS && !graph.instruction(at).is_string_instruction() =>
                {
                    true
                }
                Some(barrier) => return barrier,
                None => false,
            };
            let [next] = *graph.successors(at) else { return Barrier::End };
            if !is_only_way_into(graph, at, next) || self.nodes.contains(&next) {
                return if may_fault { Barrier::Fault } else { Barrier::Join };
            }
            if may_fault {
                self.faults.push(index);
            }
            self.nodes.push(next);
            at = next;
        }
        Barrier::End
    }

    /// Collects what runs before the entry, the nearest first.
    fn backward(&mut self, entry: Node) -> Barrier {
        let graph = self.graph;
        let mut at = entry;
        for _ in 0..MAX_STRETCH {
            let mut before = graph.predecessors(at).iter().copied().filter(|&node| graph.is_reachable(node));
            let (Some(previous), None) = (before.next(), before.next()) else { return Barrier::Join };
            if graph.roots().contains(&at) || previous == entry || self.nodes.contains(&previous) {
                return Barrier::Join;
            }
            if let Some(branch) = self.branch(previous, at) {
                self.branch = Some(branch);
                self.nodes.push(previous);
                return Barrier::Branch;
            }
            if let Some(barrier) = self.barrier(previous, None) {
                return barrier;
            }
            if graph.successors(previous) != [at] {
                return Barrier::Branch;
            }
            self.nodes.push(previous);
            at = previous;
        }
        Barrier::End
    }

    /// A conditional branch that the kernel emulates, seen from one of its ways.
    pub(super) fn branch(&self, node: Node, way: Node) -> Option<Branch> {
        let graph = self.graph;
        let instruction = graph.instruction(node);
        let bytes = bytes_of(self.reader, instruction).filter(|bytes| is_emulated(bytes))?;
        let code = match (instruction.flow_control(), bytes) {
            (FlowControl::ConditionalBranch, [0x0f, code, ..] | [code, ..]) => u32::from(code & 0xf),
            _ => return None,
        };
        let taken = graph.at(instruction.near_branch_target())?;
        let passed = graph.at(instruction.next_ip())?;
        if taken == passed || ![taken, passed].contains(&way) {
            return None;
        }
        let (condition, other) = if way == taken { (code, passed) } else { (code ^ 1, taken) };
        Some(Branch { condition, other_way_ends: never_comes_back(graph, node, other) })
    }

    /// What keeps the instruction from being crossed: that what is behind it runs need not mean that it ran, or it
    /// changes what can be seen. `at`: its index, where everything before it is known.
    pub(super) fn barrier(&mut self, node: Node, at: Option<usize>) -> Option<Barrier> {
        let instruction = self.graph.instruction(node);
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::UnconditionalBranch => {}
            FlowControl::Call | FlowControl::IndirectCall => return Some(Barrier::Call),
            FlowControl::ConditionalBranch | FlowControl::IndirectBranch => return Some(Barrier::Branch),
            FlowControl::Return => return Some(Barrier::Frame),
            FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => {
                return Some(Barrier::Special);
            }
        }
        let special = is_special(instruction.mnemonic());
        if instruction.is_privileged() || special || instruction.has_lock_prefix() {
            return Some(Barrier::Special);
        }
        if takes_frame_down(instruction) || moves_frame_pointer(instruction) {
            return Some(Barrier::Frame);
        }
        let in_frame = at.is_some_and(|at| self.place(at).is_some());
        let mut may_fault = false;
        for memory in self.factory.info(instruction).used_memory() {
            if in_frame && !instruction.is_string_instruction() {
                continue;
            }
            if writes(memory.access()) && !is_own_frame(memory) {
                return Some(Barrier::Store);
            }
            may_fault |= touches(memory.access()) && self.non_nil.may_fault(node, instruction, memory);
        }
        may_fault.then_some(Barrier::Fault)
    }

    /// Where the memory operand lies, as bytes from SP.
    fn place(&mut self, at: usize) -> Option<i64> {
        let graph = self.graph;
        let instruction = graph.instruction(*self.nodes.get(at)?);
        let before = self.nodes.get(..at)?.iter().rev().map(|&node| graph.instruction(node));
        place_of(&mut self.factory, instruction, before)
    }
}

/// Where the memory operand lies, as bytes from SP: it names SP, or a register into which the stretch put an address of
/// the frame. `before`: what runs before it, the nearest first.
pub(super) fn place_of<'a>(
    factory: &mut InstructionInfoFactory,
    instruction: &Instruction,
    before: impl Iterator<Item = &'a Instruction>,
) -> Option<i64> {
    if instruction.memory_index() != Register::None || instruction.is_ip_rel_memory_operand() {
        return None;
    }
    let displacement = instruction.memory_displacement64().cast_signed();
    let base = instruction.memory_base();
    if base == Register::RSP {
        return Some(displacement);
    }
    if !base.is_gpr64() {
        return None;
    }
    for earlier in before {
        let is_written = |used: &UsedRegister| {
            writes(used.access())
                && matches!(used.register().full_register(), full if full == base || full == Register::RSP)
        };
        if !factory.info(earlier).used_registers().iter().any(is_written) {
            continue;
        }
        let is_frame_address = earlier.mnemonic() == Mnemonic::Lea
            && earlier.op0_register() == base
            && earlier.memory_base() == Register::RSP
            && earlier.memory_index() == Register::None;
        return is_frame_address
            .then(|| earlier.memory_displacement64().cast_signed().checked_add(displacement))
            .flatten();
    }
    None
}

/// Whether control that goes on at `way` neither comes to `branch` again nor leaves the function: it ends in calls that
/// don't return.
fn never_comes_back(graph: &FlowGraph, branch: Node, way: Node) -> bool {
    let mut seen = BTreeSet::new();
    let mut work = vec![way];
    while let Some(node) = work.pop() {
        if node == branch || seen.len() == MAX_OTHER_WAY {
            return false;
        }
        if !seen.insert(node) {
            continue;
        }
        let leaves = match graph.instruction(node).flow_control() {
            FlowControl::Return | FlowControl::IndirectBranch => true,
            FlowControl::Call | FlowControl::Interrupt | FlowControl::Exception => false,
            _ => graph.successors(node).is_empty(),
        };
        if leaves {
            return false;
        }
        work.extend(graph.successors(node));
    }
    true
}

fn is_only_way_into(graph: &FlowGraph, from: Node, to: Node) -> bool {
    !graph.roots().contains(&to)
        && graph.predecessors(to).iter().all(|&before| before == from || !graph.is_reachable(before))
}

/// `add rsp, N`, `pop rbp`, `leave`, and whatever else changes SP outside of a prologue.
fn takes_frame_down(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Pop | Mnemonic::Leave => true,
        // `sub rsp, -128` is how 128 is added.
        Mnemonic::Sub => {
            instruction.op0_register() == Register::RSP
                && (!is_immediate(instruction.op1_kind()) || instruction.immediate(1).cast_signed() < 0)
        }
        Mnemonic::Push => instruction.op0_kind() != OpKind::Register,
        Mnemonic::Cmp | Mnemonic::Test => false,
        _ => instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP,
    }
}

/// RBP changes outside of a prologue (`mov rbp, rsp`, `lea rbp, [rsp + N]`): up to Go 1.25 a caller of `DUFFZERO` and
/// `DUFFCOPY` makes their frame record (`lea rbp, [rsp - 16]`), and the call stack can't be walked from there.
fn moves_frame_pointer(instruction: &Instruction) -> bool {
    if instruction.op0_kind() != OpKind::Register || instruction.op0_register() != Register::RBP {
        return false;
    }
    match instruction.mnemonic() {
        Mnemonic::Push | Mnemonic::Cmp | Mnemonic::Test => false,
        Mnemonic::Mov => {
            instruction.op1_kind() != OpKind::Register || instruction.op1_register() != Register::RSP
        }
        Mnemonic::Lea => {
            instruction.memory_base() != Register::RSP
                || instruction.memory_displacement64().cast_signed() < 0
        }
        _ => true,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    )
}

fn is_special(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Syscall
            | Mnemonic::Sysenter
            | Mnemonic::Cpuid
            | Mnemonic::Xgetbv
            | Mnemonic::Rdtsc
            | Mnemonic::Rdtscp
            | Mnemonic::Rdrand
            | Mnemonic::Rdseed
            | Mnemonic::Pause
            | Mnemonic::Mfence
            | Mnemonic::Lfence
            | Mnemonic::Sfence
            | Mnemonic::Popfq
    )
}

pub(super) fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

pub(super) fn touches(access: OpAccess) -> bool {
    writes(access) || matches!(access, OpAccess::Read | OpAccess::CondRead)
}

/// A place in the function's frame that the instruction names.
pub(super) fn is_own_frame(memory: &UsedMemory) -> bool {
    memory.base() == Register::RSP && memory.index() == Register::None && memory.segment() == Register::SS
}

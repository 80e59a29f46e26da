//! Which pointers can't be nil at an instruction, and so which loads can't panic.
//!
//! A load that faults panics, and what is behind it does not run. The Go compiler lets loads and stores stand for nil
//! checks where the address is a register plus less than 4096 bytes (cmd/compile/internal/ssa/nilcheck.go,
//! `nilcheckelim2`); with an index only shifts of GOAMD64=v3 do (`faultOnNilArg0` in AMD64Ops.go). Of such a load it has
//! to be proved that its pointer is not nil: that it was followed before on every path, was compared with nil, or was
//! made by the function itself. A fixed point over the function's instructions.

use std::{cell::OnceCell, collections::HashMap};

use iced_x86::{
    ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register, UsedMemory,
};

use super::{
    own_frame::{Holders, holders},
    stretch::{is_own_frame, touches, writes},
};
use crate::plan::code::{CodeReader, FlowGraph, Node};

/// Below this an access is a nil check (`minZeroPage` there).
const NIL_PAGE_BYTES: u64 = 4096;
/// Places on the stack that are followed in one function.
const MAX_SLOTS: usize = 64;
/// Instructions among which a prologue makes room for the frame.
const MAX_PROLOGUE: usize = 64;

/// What is not nil when an instruction is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// By register number.
    registers: u16,
    /// By index of the slot.
    slots: u64,
}

const NOTHING: Known = Known { registers: 0, slots: 0 };
const EVERYTHING: Known = Known { registers: u16::MAX, slots: u64::MAX };

/// The answer for every instruction of a function.
#[derive(Debug)]
pub(crate) struct NonNil {
    known: Vec<Known>,
    frame: Frame,
    /// Worked out where it is needed.
    holders: OnceCell<Vec<Holders>>,
}

impl NonNil {
    /// Works it out for compiled Go code.
    pub(crate) fn of(reader: &dyn CodeReader, graph: &FlowGraph) -> Self {
        let frame = Frame::of(graph);
        let slots = slots(graph, &frame);
        // A call leaves alone what is not handed to it.
        let kept = slots
            .iter()
            .filter(|(offset, _)| **offset >= frame.own_bytes)
            .fold(0, |kept, (_, index)| kept | 1u64 << index);
        let mut known = vec![EVERYTHING; graph.len()];
        let mut pending = vec![false; graph.len()];
        let mut work: Vec<Node> = graph.roots().to_vec();
        for &root in graph.roots() {
            known[root] = NOTHING;
            pending[root] = true;
        }
        let mut seen = pending.clone();
        let mut transfer = Transfer { reader, slots: &slots, kept, factory: InstructionInfoFactory::new() };
        while let Some(node) = work.pop() {
            pending[node] = false;
            let after = transfer.after(graph.instruction(node), known[node]);
            for &next in graph.successors(node) {
                let mut after = after;
                if let Some(register) = not_zero_on(graph, node, next) {
                    after.registers |= bit(register);
                }
                let met = Known {
                    registers: known[next].registers & after.registers,
                    slots: known[next].slots & after.slots,
                };
                if met != known[next] || !seen[next] {
                    known[next] = met;
                    seen[next] = true;
                    if !std::mem::replace(&mut pending[next], true) {
                        work.push(next);
                    }
                }
            }
        }
        Self { known, frame, holders: OnceCell::new() }
    }

    /// The places of the frame to which pointers may lead when an instruction is about to run: those whose address was
    /// taken on some way to it.
    pub(super) fn pointed_at(&self, graph: &FlowGraph, node: Node) -> PointedAt {
        let mut before = vec![false; graph.len()];
        let mut work = graph.predecessors(node).to_vec();
        while let Some(node) = work.pop() {
            if !std::mem::replace(&mut before[node], true) {
                work.extend(graph.predecessors(node).iter().filter(|&&earlier| !before[earlier]));
            }
        }
        // A recovered panic lands behind whatever ran before it.
        let landed = |&root: &Node| root != graph.entry() && (root == node || before[root]);
        let everything = graph.roots().iter().any(landed);
        let taken = self.frame.taken.iter().filter(|(at, _)| everything || before[*at]);
        let taken = taken.map(|(_, place)| *place);
        let places: Vec<i64> = taken.collect();
        let holders = (!places.is_empty()).then(|| {
            let holders = self.holders.get_or_init(|| holders(graph, &self.frame));
            holders.get(node).map(|&holders| (holders, self.frame.clone()))
        });
        PointedAt { places, own_bytes: self.frame.own_bytes, holders: holders.flatten() }
    }

    /// Whether an access of the instruction may fault, as far as can be told.
    pub(super) fn may_fault(&self, node: Node, instruction: &Instruction, memory: &UsedMemory) -> bool {
        let base = memory.base();
        match base {
            // The stack, package variables, thread-local storage, the goroutine.
            Register::RSP | Register::RIP | Register::R14 => return false,
            _ if instruction.is_ip_rel_memory_operand() => return false,
            _ if matches!(memory.segment(), Register::FS | Register::GS) => return false,
            Register::None => return memory.index() == Register::None,
            _ => {}
        }
        if memory.index() != Register::None {
            return matches!(instruction.mnemonic(), Mnemonic::Sarx | Mnemonic::Shlx | Mnemonic::Shrx);
        }
        is_nil_check(memory) && !self.known.get(node).is_some_and(|known| known.registers & bit(base) != 0)
    }
}

/// Whether the access faults if its base register is nil.
fn is_nil_check(memory: &UsedMemory) -> bool {
    memory.index() == Register::None && memory.displacement() < NIL_PAGE_BYTES
}

fn bit(register: Register) -> u16 {
    let full = register.full_register();
    if full.is_gpr64() { 1 << full.number() } else { 0 }
}

/// Parts of a frame that pointers may lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PointedAt {
    /// Where they begin, as bytes from SP.
    pub(super) places: Vec<i64>,
    pub(super) own_bytes: i64,
    holders: Option<(Holders, Frame)>,
}

impl PointedAt {
    /// Whether a value in a register (by the processor's number) may lead there.
    pub(super) fn is_held_in_register(&self, number: usize) -> bool {
        self.holders.as_ref().is_none_or(|(holders, _)| holders.in_register(number))
    }

    /// The same of a value in the frame, counted from SP.
    pub(super) fn is_held_in_frame(&self, at: i64, bytes: i64) -> bool {
        self.holders.as_ref().is_none_or(|(holders, frame)| holders.in_frame(frame, at, bytes))
    }

    /// Whether a pointer may lead to a place that ends there.
    pub(super) fn may_reach(&self, end: i64) -> bool {
        self.places.iter().any(|&place| Frame::may_reach(self.own_bytes, place, end))
    }
}

/// How a function uses its frame. Go addresses it by SP only, and SP is the same in all of a function's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Every place whose address is taken, as bytes from SP, and where.
    taken: Vec<(Node, i64)>,
    /// Bytes from SP to the end of the function's own part; behind it are its caller's arguments to it.
    pub(super) own_bytes: i64,
}

impl Frame {
    fn of(graph: &FlowGraph) -> Self {
        let sizes = (graph.entry()..graph.len()).take(MAX_PROLOGUE).map(|node| graph.instruction(node));
        let allocated = sizes
            .filter(|one| one.op0_register() == Register::RSP && one.op1_kind() != OpKind::Register)
            .find_map(|one| match one.mnemonic() {
                Mnemonic::Sub => Some(one.immediate(1).cast_signed()),
                Mnemonic::Add => one.immediate(1).cast_signed().checked_neg(),
                _ => None,
            });
        Self { taken: places_taken(graph), own_bytes: allocated.unwrap_or(0).max(0).saturating_add(8) }
    }

    /// Whether an object that begins at `taken`, whose end is not known, may reach to `end`.
    const fn may_reach(own_bytes: i64, taken: i64, end: i64) -> bool {
        taken < end && (taken == i64::MIN || taken >= own_bytes || end <= own_bytes)
    }

    /// Whether a pointer may lead to a place that ends there.
    pub(super) fn is_pointed_at(&self, end: i64) -> bool {
        self.taken.iter().any(|&(_, taken)| Self::may_reach(self.own_bytes, taken, end))
    }

    /// Whether no pointer leads to the word there.
    fn is_private(&self, offset: i64) -> bool {
        let end = offset.saturating_add(8);
        !self.is_pointed_at(end)
    }
}

/// Every place of the frame whose address is taken: the checks of a prologue look below SP, or compute in R12
/// (cmd/internal/obj/x86/obj6.go). Where it can't be told which place it is, all of them are.
fn places_taken(graph: &FlowGraph) -> Vec<(Node, i64)> {
    let mut places = Vec::new();
    for node in 0..graph.len() {
        let instruction = graph.instruction(node);
        let target = instruction.op0_register();
        let place = match instruction.mnemonic() {
            Mnemonic::Lea if target == Register::RBP => continue,
            Mnemonic::Lea => match instruction.memory_base() {
                Register::RSP => instruction.memory_displacement64().cast_signed(),
                Register::RBP => i64::MIN,
                _ if instruction.memory_index() == Register::RBP => i64::MIN,
                _ => continue,
            },
            Mnemonic::Mov
                if instruction.op1_kind() == OpKind::Register
                    && instruction.op1_register() == Register::RSP
                    && !matches!(target, Register::RBP | Register::R12) =>
            {
                i64::MIN
            }
            _ => continue,
        };
        if place == i64::MIN || place >= 0 {
            places.push((node, place));
        }
    }
    places
}

/// Displacements from SP of words that are written whole and that no pointer leads to.
fn slots(graph: &FlowGraph, frame: &Frame) -> HashMap<i64, u32> {
    let mut slots = HashMap::new();
    for node in 0..graph.len() {
        let instruction = graph.instruction(node);
        if instruction.mnemonic() != Mnemonic::Mov
            || instruction.op0_kind() != OpKind::Memory
            || instruction.memory_base() != Register::RSP
            || instruction.memory_index() != Register::None
            || instruction.memory_size().size() != 8
        {
            continue;
        }
        let offset = instruction.memory_displacement64().cast_signed();
        if offset >= 0 && slots.len() < MAX_SLOTS && frame.is_private(offset) {
            let index = u32::try_from(slots.len()).unwrap_or(0);
            slots.entry(offset).or_insert(index);
        }
    }
    slots
}

struct Transfer<'a> {
    reader: &'a dyn CodeReader,
    slots: &'a HashMap<i64, u32>,
    kept: u64,
    factory: InstructionInfoFactory,
}

impl Transfer<'_> {
    fn slot(&self, instruction: &Instruction) -> u64 {
        let of_stack = instruction.memory_base() == Register::RSP
            && instruction.memory_index() == Register::None
            && instruction.memory_size().size() == 8;
        let offset = instruction.memory_displacement64().cast_signed();
        match self.slots.get(&offset) {
            Some(index) if of_stack => 1 << index,
            _ => 0,
        }
    }

    fn after(&mut self, instruction: &Instruction, mut known: Known) -> Known {
        // A copy is as good as what it copies; that is looked at before anything is forgotten.
        let copied = self.copied(instruction, known);
        let is_call = matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        let info = self.factory.info(instruction);
        let mut followed = 0;
        for memory in info.used_memory() {
            if touches(memory.access()) && is_nil_check(memory) {
                followed |= bit(memory.base());
            }
            if writes(memory.access()) && memory.base() == Register::RSP {
                let from = memory.displacement().cast_signed();
                let bytes = i64::try_from(memory.memory_size().size()).unwrap_or(0);
                for (&offset, &index) in self.slots {
                    let overlaps = bytes == 0 || offset < from.saturating_add(bytes) && from < offset + 8;
                    if overlaps || !is_own_frame(memory) {
                        known.slots &= !(1u64 << index);
                    }
                }
            }
        }
        known.registers |= followed;
        for used in info.used_registers() {
            if writes(used.access()) {
                known.registers &= !bit(used.register());
                if used.register().full_register() == Register::RSP && !is_call {
                    known.slots = 0;
                }
            }
        }
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {
                known.registers = 0;
                known.slots &= self.kept;
                let callee = self.reader.function_name(instruction.near_branch_target());
                let is_direct = instruction.flow_control() == FlowControl::Call;
                if is_direct && callee.is_some_and(returns_pointer) {
                    known.registers |= bit(Register::RAX);
                }
            }
            _ => match copied {
                Some(Copied::Register(register)) => known.registers |= bit(register),
                Some(Copied::Slot(slot)) => known.slots |= slot,
                None => {}
            },
        }
        known
    }

    /// Where the instruction puts something that is not nil.
    fn copied(&self, instruction: &Instruction, known: Known) -> Option<Copied> {
        let target = instruction.op0_register();
        match instruction.mnemonic() {
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Register && target.is_gpr64() => {
                let good = match instruction.op1_kind() {
                    OpKind::Register => known.registers & bit(instruction.op1_register()) != 0,
                    OpKind::Memory => known.slots & self.slot(instruction) != 0,
                    _ => false,
                };
                good.then_some(Copied::Register(target))
            }
            Mnemonic::Mov
                if instruction.op0_kind() == OpKind::Memory
                    && instruction.op1_kind() == OpKind::Register
                    && known.registers & bit(instruction.op1_register()) != 0 =>
            {
                Some(Copied::Slot(self.slot(instruction)))
            }
            Mnemonic::Lea => {
                let base = instruction.memory_base();
                // The address of an element exists once its index was checked, which is never left to a fault.
                let good = matches!(base, Register::RSP | Register::RIP)
                    || instruction.memory_index() != Register::None
                    || known.registers & bit(base) != 0;
                good.then_some(Copied::Register(target))
            }
            _ => None,
        }
    }
}

enum Copied {
    Register(Register),
    Slot(u64),
}

/// Functions of the runtime whose first result is the address of something new.
fn returns_pointer(name: &str) -> bool {
    matches!(
        name,
        "runtime.newobject"
            | "runtime.mallocgc"
            | "runtime.makeslice"
            | "runtime.growslice"
            | "runtime.makechan"
    )
}

/// The register that was compared with nil and is not nil on this way: `test r, r; je` and `jne`.
fn not_zero_on(graph: &FlowGraph, branch: Node, next: Node) -> Option<Register> {
    let instruction = graph.instruction(branch);
    if instruction.flow_control() != FlowControl::ConditionalBranch {
        return None;
    }
    let [before] = *graph.predecessors(branch) else { return None };
    let test = graph.instruction(before);
    let register = test.op0_register();
    if test.mnemonic() != Mnemonic::Test
        || graph.successors(before) != [branch]
        || test.op0_kind() != OpKind::Register
        || test.op1_kind() != OpKind::Register
        || test.op1_register() != register
        || !register.is_gpr64()
    {
        return None;
    }
    let target = graph.at(instruction.near_branch_target());
    let through = graph.at(instruction.next_ip());
    let not_zero = match instruction.condition_code() {
        ConditionCode::e => through,
        ConditionCode::ne => target,
        _ => return None,
    };
    (target != through && not_zero == Some(next)).then_some(register)
}

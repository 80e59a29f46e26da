//! Which places hold the same value at an instruction, and which still hold what the function was called with.
//!
//! Debug data names one place of a variable. Where that is a floating-point register, which the kernel does not show,
//! the machine code often stored the same value in a stack slot before; and where the dictionary of a generic function
//! is not described at all, it still is what the calling convention put into a register. Both are proved by following
//! the copies that the code makes on every way to the instruction. Whatever may change a place ends what is known of it.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use self::frame::{Exposed, exposed, stack_depths, stack_step};
use super::code::{CodeReader, FlowGraph, Node, grows_stack};
use crate::dwarf::{Function, Piece, Place, VariableLocation, VisibleVariable};

/// Functions with more instructions are not followed.
const MAX_INSTRUCTIONS: usize = 100_000;
/// How often an instruction is looked at, on average, before the search gives up.
const MAX_ROUNDS: usize = 16;
/// DWARF numbers of the vector registers follow each other from here (System V ABI for x86-64, figure 3.36).
const FIRST_VECTOR_REGISTER: u16 = 17;
/// DWARF number of RDX, where a closure's context comes in.
const CONTEXT_REGISTER: u16 = 1;
const VECTOR_REGISTERS: u16 = 16;
const GENERAL_BYTES: u8 = 8;
const VECTOR_BYTES: u8 = 16;

/// What the code of a function copies where.
pub struct Copies {
    graph: FlowGraph,
    /// CFA minus SP before each instruction.
    cfa_from_sp: Vec<Option<i64>>,
    exposed: Exposed,
    /// What is known where a straight run of instructions begins.
    leaders: BTreeMap<Node, Known>,
    /// Entries of functions that grow the stack and keep the context register.
    keeps_context: BTreeSet<u64>,
}

/// What is known before one instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    held: BTreeMap<Spot, Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spot {
    /// DWARF number.
    Register(u16),
    /// Bytes from the CFA.
    Slot(i64),
}

/// The value of a place, as far as its low bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    value: ValueId,
    bytes: u8,
}

/// Two places with the same value have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueId {
    /// What this register (DWARF number) held when the function was called.
    Entry(u16),
    /// What the last execution of this instruction copied.
    Copied(Node),
    /// What the object of the closure that was called holds, from this byte on. Nothing changes it after it was made.
    Captured(u64),
    /// The address of that.
    CapturedAt(u64),
}

/// Where a variable comes from that a closure captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CapturedFrom {
    /// It was copied from this byte of the closure's object on.
    Value(u64),
    /// It is the address of this byte.
    Address(u64),
}

impl Spot {
    fn place(self) -> Place {
        match self {
            Self::Slot(at) => Place::Frame(at),
            Self::Register(number) if number < FIRST_VECTOR_REGISTER => Place::Register(number),
            Self::Register(number) => Place::FloatRegister(number),
        }
    }

    fn is_slot(self) -> bool {
        matches!(self, Self::Slot(_))
    }
}

impl Held {
    fn is_captured(&self) -> bool {
        matches!(self.value, ValueId::Captured(_) | ValueId::CapturedAt(_))
    }
}

impl Copies {
    /// Follows the code of a function. `None`: it can't be followed.
    #[must_use]
    pub fn of(reader: &dyn CodeReader, function: &Function) -> Option<Self> {
        Self::in_graph(reader, FlowGraph::of(reader, &function.ranges, function.entry).ok()?)
    }

    pub(crate) fn in_graph(reader: &dyn CodeReader, graph: FlowGraph) -> Option<Self> {
        if graph.len() > MAX_INSTRUCTIONS {
            return None;
        }
        let cfa_from_sp = stack_depths(&graph)?;
        let exposed = exposed(&graph, &cfa_from_sp);
        let targets = (0..graph.len()).map(|node| graph.instruction(node));
        let targets = targets.filter(|i| i.flow_control() == FlowControl::Call);
        let keeps_context = targets
            .map(Instruction::near_branch_target)
            .filter(|&target| {
                let name = reader.function_name(target);
                name.is_some_and(|name| grows_stack(name) && !name.contains("noctxt"))
            })
            .collect();
        let mut copies = Self { graph, cfa_from_sp, exposed, leaders: BTreeMap::new(), keeps_context };
        copies.follow()?;
        Some(copies)
    }

    /// What is known before the instruction at an address. `None`: nothing, or there is none.
    #[must_use]
    pub fn before(&self, address: u64) -> Option<Known> {
        let goal = self.graph.at(address)?;
        let mut run = vec![goal];
        let mut node = goal;
        while !self.leads(node) {
            node = *self.graph.predecessors(node).first()?;
            if run.len() > self.graph.len() {
                return None;
            }
            run.push(node);
        }
        let mut known = self.leaders.get(&node)?.clone();
        let mut infos = InstructionInfoFactory::new();
        for &node in run.iter().skip(1).rev() {
            self.step(&mut infos, &mut known, node);
        }
        Some(known)
    }

    /// What is known behind each instruction that takes something from the object of the closure that was called, or
    /// copies it on; at most so many.
    #[must_use]
    pub fn behind_captured(&self, at_most: usize) -> Vec<(u64, Known)> {
        let mut infos = InstructionInfoFactory::new();
        let mut found = Vec::new();
        for (&leader, known) in &self.leaders {
            let mut known = known.clone();
            let mut node = leader;
            while let &[next] = self.graph.successors(node) {
                let target = self.target(&known, node);
                self.step(&mut infos, &mut known, node);
                if target.is_some_and(|target| known.held.get(&target).is_some_and(Held::is_captured)) {
                    found.push((self.graph.address(next), known.clone()));
                    if found.len() == at_most {
                        return found;
                    }
                }
                if self.leads(next) {
                    break;
                }
                node = next;
            }
        }
        found
    }

    /// What an instruction copies to.
    fn target(&self, known: &Known, node: Node) -> Option<Spot> {
        let instruction = self.graph.instruction(node);
        let depth = self.cfa_from_sp.get(node).copied().flatten();
        let copy = depth.and_then(|depth| copy_of(instruction, depth)).map(|copy| copy.to);
        copy.or_else(|| Some(known.taken_from_closure(instruction)?.0))
    }

    /// Whether a straight run of instructions begins here.
    fn leads(&self, node: Node) -> bool {
        match self.graph.predecessors(node) {
            [one] => self.graph.successors(*one).len() != 1 || self.graph.roots().contains(&node),
            _ => true,
        }
    }

    fn follow(&mut self) -> Option<()> {
        let mut infos = InstructionInfoFactory::new();
        let mut work: Vec<Node> = Vec::new();
        for &root in self.graph.roots() {
            let known = if root == self.graph.entry() { Known::at_entry() } else { Known::default() };
            self.leaders.insert(root, known);
            work.push(root);
        }
        let mut left = self.graph.len().saturating_mul(MAX_ROUNDS);
        while let Some(leader) = work.pop() {
            let mut known = self.leaders.get(&leader)?.clone();
            let mut node = leader;
            loop {
                left = left.checked_sub(1)?;
                self.step(&mut infos, &mut known, node);
                match self.graph.successors(node) {
                    [next] if !self.leads(*next) => node = *next,
                    _ => break,
                }
            }
            for &next in self.graph.successors(node) {
                let met = match self.leaders.get(&next) {
                    None => known.clone(),
                    Some(before) => before.meet(&known),
                };
                if self.leaders.get(&next) != Some(&met) {
                    self.leaders.insert(next, met);
                    work.push(next);
                }
            }
        }
        Some(())
    }

    /// What is known behind an instruction.
    fn step(&self, infos: &mut InstructionInfoFactory, known: &mut Known, node: Node) {
        let instruction = self.graph.instruction(node);
        let depth = self.cfa_from_sp.get(node).copied().flatten();
        match instruction.flow_control() {
            FlowControl::Call | FlowControl::IndirectCall => {
                let kept = instruction.flow_control() == FlowControl::Call
                    && self.keeps_context.contains(&instruction.near_branch_target());
                known.held.retain(|spot, held| match *spot {
                    Spot::Register(register) => kept && register == CONTEXT_REGISTER,
                    // The frame's lower end is where the called function has its arguments and may spill them.
                    Spot::Slot(at) => at >= 0 && !self.exposed.holds(at, held.bytes),
                });
                return;
            }
            FlowControl::Interrupt | FlowControl::XbeginXabortXend | FlowControl::Exception => {
                known.held.clear();
                return;
            }
            _ => {}
        }
        let copy = depth.and_then(|depth| copy_of(instruction, depth));
        let copied = copy.map(|copy| {
            let held = known.held.get(&copy.from).copied();
            // What is not known gets a name here.
            let held = held.unwrap_or(Held { value: ValueId::Copied(node), bytes: copy.bytes });
            (copy, held)
        });
        if copy.is_some() {
            known.held.retain(|_, held| held.value != ValueId::Copied(node));
        }
        let taken = known.taken_from_closure(instruction);
        let info = infos.info(instruction);
        for memory in info.used_memory() {
            if writes(memory.access()) {
                self.wrote(known, memory, depth);
            }
        }
        for register in info.used_registers() {
            if writes(register.access())
                && let Some(number) = dwarf_number(register.register())
            {
                known.held.remove(&Spot::Register(number));
            }
        }
        // What lies below SP may be overwritten at any time: the runtime calls from there when it preempts.
        if let Some(below) = depth.and_then(|depth| depth.checked_sub(stack_step(instruction)?)) {
            known.held.retain(|spot, _| !matches!(*spot, Spot::Slot(at) if at < below.saturating_neg()));
        }
        if let Some((copy, held)) = copied {
            if held.value == ValueId::Copied(node) {
                known.held.insert(copy.from, held);
            }
            let bytes = held.bytes.min(copy.bytes);
            known.held.insert(copy.to, Held { value: held.value, bytes });
        }
        if let Some((to, held)) = taken {
            known.held.insert(to, held);
        }
    }

    /// Forgets the slots that a write may have changed.
    fn wrote(&self, known: &mut Known, memory: &UsedMemory, depth: Option<i64>) {
        if memory.base() != Register::RSP {
            known.held.retain(|spot, held| match *spot {
                Spot::Register(_) => true,
                Spot::Slot(at) => !self.exposed.holds(at, held.bytes),
            });
            return;
        }
        let start = depth.and_then(|depth| memory.displacement().cast_signed().checked_sub(depth));
        let bytes = i64::try_from(memory.memory_size().size()).unwrap_or(0);
        let end = match start {
            // An element of an array, or of unknown size.
            _ if memory.index() != Register::None || bytes == 0 => i64::MAX,
            Some(start) => start.saturating_add(bytes),
            None => i64::MAX,
        };
        let start = start.unwrap_or(i64::MIN);
        known.held.retain(|spot, held| match *spot {
            Spot::Register(_) => true,
            Spot::Slot(at) if at >= end => true,
            // The low bytes are left.
            Spot::Slot(at) => {
                let left =
                    u8::try_from(start.saturating_sub(at)).unwrap_or(if at < start { u8::MAX } else { 0 });
                held.bytes = held.bytes.min(left);
                held.bytes > 0
            }
        });
    }
}

impl Known {
    fn at_entry() -> Self {
        let general = (0..FIRST_VECTOR_REGISTER - 1).map(|register| (register, GENERAL_BYTES));
        let vector = (0..VECTOR_REGISTERS).map(|index| (FIRST_VECTOR_REGISTER + index, VECTOR_BYTES));
        let held = general
            .chain(vector)
            .map(|(register, bytes)| {
                (Spot::Register(register), Held { value: ValueId::Entry(register), bytes })
            })
            .collect();
        Self { held }
    }

    /// What holds on both ways.
    fn meet(&self, other: &Self) -> Self {
        let held = self
            .held
            .iter()
            .filter_map(|(spot, held)| {
                let there = other.held.get(spot)?;
                let bytes = held.bytes.min(there.bytes);
                (held.value == there.value).then_some((*spot, Held { bytes, ..*held }))
            })
            .collect();
        Self { held }
    }

    /// Where the low bytes of a value are that the kernel can copy.
    fn readable(&self, value: ValueId, bytes: u32) -> Option<Place> {
        // Slots are behind registers in the order, and better: one window holds many.
        self.held.iter().rev().find_map(|(spot, held)| {
            let place = match *spot {
                Spot::Slot(at) => Place::Frame(at),
                Spot::Register(register) if register < FIRST_VECTOR_REGISTER => Place::Register(register),
                Spot::Register(_) => return None,
            };
            (held.value == value && u32::from(held.bytes) >= bytes).then_some(place)
        })
    }

    /// Places that hold the same low bytes as another one, and how many.
    pub(crate) fn copies(&self) -> Vec<(Place, Place, u8)> {
        let mut firsts: Vec<(Spot, Held)> = Vec::new();
        let mut copies = Vec::new();
        for (&spot, &held) in &self.held {
            match firsts.iter().find(|(_, first)| first.value == held.value) {
                Some(&(first, of)) => {
                    copies.push((first.place(), spot.place(), held.bytes.min(of.bytes)));
                }
                None => firsts.push((spot, held)),
            }
        }
        copies
    }

    /// Where the low bytes of a vector register (DWARF number) also are.
    #[must_use]
    pub fn copy_of_vector(&self, register: u16, bytes: u32) -> Option<Place> {
        self.readable(self.held.get(&Spot::Register(register))?.value, bytes)
    }

    /// Where a register's value at the function's call is now.
    #[must_use]
    pub fn at_call(&self, register: u16) -> Option<Place> {
        self.readable(ValueId::Entry(register), GENERAL_BYTES.into())
    }

    /// What an instruction takes from the object of the closure that was called, and where it puts it.
    fn taken_from_closure(&self, instruction: &Instruction) -> Option<(Spot, Held)> {
        let loads = matches!(
            instruction.mnemonic(),
            Mnemonic::Lea
                | Mnemonic::Mov
                | Mnemonic::Movzx
                | Mnemonic::Movsx
                | Mnemonic::Movsxd
                | Mnemonic::Movd
                | Mnemonic::Movq
                | Mnemonic::Movss
                | Mnemonic::Movsd
                | Mnemonic::Movups
                | Mnemonic::Movaps
                | Mnemonic::Movupd
                | Mnemonic::Movapd
                | Mnemonic::Movdqu
                | Mnemonic::Movdqa
        );
        if !loads
            || instruction.op0_kind() != OpKind::Register
            || instruction.op1_kind() != OpKind::Memory
            || instruction.memory_index() != Register::None
            || instruction.has_segment_prefix()
        {
            return None;
        }
        let to = Spot::Register(dwarf_number(instruction.op0_register())?);
        let base = self.held.get(&Spot::Register(dwarf_number(instruction.memory_base())?))?;
        let start = match base.value {
            ValueId::Entry(CONTEXT_REGISTER) => 0,
            ValueId::CapturedAt(offset) => offset,
            _ => return None,
        };
        if base.bytes < GENERAL_BYTES {
            return None;
        }
        let offset = start.checked_add_signed(instruction.memory_displacement64().cast_signed())?;
        let held = if instruction.mnemonic() == Mnemonic::Lea {
            Held {
                value: ValueId::CapturedAt(offset),
                bytes: u8::try_from(instruction.op0_register().size()).ok()?,
            }
        } else {
            let bytes = u8::try_from(instruction.memory_size().size()).ok()?;
            Held { value: ValueId::Captured(offset), bytes }
        };
        Some((to, held))
    }

    /// Where the variable in these places comes from, if the closure that was called holds it. What is in none of the
    /// places that are known here says nothing; what says something has to agree.
    #[must_use]
    pub fn captured(&self, pieces: &[Piece]) -> Option<CapturedFrom> {
        let mut from = None;
        let mut at = 0_u64;
        for piece in pieces {
            let spot = match piece.place {
                Place::Register(register) | Place::FloatRegister(register) => Some(Spot::Register(register)),
                Place::Frame(offset) => Some(Spot::Slot(offset)),
                _ => None,
            };
            let held = spot.and_then(|spot| self.held.get(&spot));
            // A piece in memory may have been copied in several steps: its beginning says enough.
            let whole =
                |held: &&Held| spot.is_some_and(Spot::is_slot) || u32::from(held.bytes) >= piece.bytes;
            let found = match held.filter(whole).map(|held| held.value) {
                Some(ValueId::Captured(offset)) => Some(CapturedFrom::Value(offset.checked_sub(at)?)),
                Some(ValueId::CapturedAt(offset)) if at == 0 => Some(CapturedFrom::Address(offset)),
                Some(ValueId::Entry(_) | ValueId::Copied(_) | ValueId::CapturedAt(_)) => return None,
                None => None,
            };
            if let Some(found) = found {
                if from.is_some_and(|from| from != found) {
                    return None;
                }
                from = Some(found);
            }
            at = at.checked_add(u64::from(piece.bytes))?;
        }
        from
    }

    /// Replaces registers that the kernel does not show by places with the same bytes.
    pub fn settle(&self, variables: &mut [VisibleVariable]) {
        for variable in variables {
            let VariableLocation::Pieces(pieces) = &mut variable.location else { continue };
            for piece in pieces {
                if let Place::FloatRegister(register) = piece.place
                    && let Some(place) = self.copy_of_vector(register, piece.bytes)
                {
                    piece.place = place;
                }
            }
        }
    }
}

/// Whether a variable lies in a register that the kernel does not show.
#[must_use]
pub fn is_in_vector(variable: &VisibleVariable) -> bool {
    match &variable.location {
        VariableLocation::Pieces(pieces) => {
            pieces.iter().any(|piece| matches!(piece.place, Place::FloatRegister(_)))
        }
        _ => false,
    }
}

/// An instruction that copies `bytes` unchanged.
#[derive(Clone, Copy)]
struct Copy {
    from: Spot,
    to: Spot,
    bytes: u8,
}

fn copy_of(instruction: &Instruction, cfa_from_sp: i64) -> Option<Copy> {
    let bytes = match instruction.mnemonic() {
        Mnemonic::Mov => match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Register, _) => u8::try_from(instruction.op0_register().size()).ok()?,
            (_, OpKind::Register) => u8::try_from(instruction.op1_register().size()).ok()?,
            _ => return None,
        },
        Mnemonic::Movd | Mnemonic::Movss => 4,
        Mnemonic::Movq | Mnemonic::Movsd => 8,
        Mnemonic::Movups
        | Mnemonic::Movaps
        | Mnemonic::Movupd
        | Mnemonic::Movapd
        | Mnemonic::Movdqu
        | Mnemonic::Movdqa => 16,
        _ => return None,
    };
    let spot = |operand: u32| match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            // The second byte of a register is not its low byte.
            let second_byte = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
            dwarf_number(register).filter(|_| !second_byte).map(Spot::Register)
        }
        OpKind::Memory
            if instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None =>
        {
            let displacement = instruction.memory_displacement64().cast_signed();
            displacement.checked_sub(cfa_from_sp).map(Spot::Slot)
        }
        _ => None,
    };
    let (to, from) = (spot(0)?, spot(1)?);
    (to != from).then_some(Copy { from, to, bytes })
}

fn writes(access: OpAccess) -> bool {
    !matches!(access, OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
}

/// The DWARF number of the register that a register is part of.
fn dwarf_number(register: Register) -> Option<u16> {
    if register.is_vector_register() {
        let index = u16::try_from(register.number()).ok().filter(|index| *index < VECTOR_REGISTERS)?;
        return Some(FIRST_VECTOR_REGISTER + index);
    }
    Some(match register.full_register() {
        Register::RAX => 0,
        Register::RDX => 1,
        Register::RCX => 2,
        Register::RBX => 3,
        Register::RSI => 4,
        Register::RDI => 5,
        Register::RBP => 6,
        Register::RSP => 7,
        Register::R8 => 8,
        Register::R9 => 9,
        Register::R10 => 10,
        Register::R11 => 11,
        Register::R12 => 12,
        Register::R13 => 13,
        Register::R14 => 14,
        Register::R15 => 15,
        _ => return None,
    })
}

mod frame;
#[cfg(test)]
mod tests;

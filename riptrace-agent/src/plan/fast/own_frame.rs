//! Which registers and places of the frame may hold an address of the function's own frame.
//!
//! A store to the frame can be seen by who follows a pointer there. Go keeps such pointers in the frame itself and in
//! registers: never on the heap, and never in the frames of callers (cmd/compile/internal/escape: what is stored through a
//! pointer flows to the heap). So a pointer that came in with the call, or was loaded through one that did, does not lead to
//! the frame, nor does anything behind it. A fixed point over the function's instructions; whatever can't be told holds
//! an address.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::{
    nonnil::Frame,
    stretch::{touches, writes},
};
use crate::plan::code::{FlowGraph, Node};

/// Words of the function's own part of the frame, and of its caller's arguments to it, that are followed.
const OWN_WORDS: i64 = 128;
const ARGUMENT_WORDS: i64 = 64;
const WORD_BYTES: i64 = 8;
/// Writing so many bytes of a register leaves nothing of an address in it.
const WHOLE_BYTES: usize = 4;
const RBP: usize = 5;
const GENERAL: u32 = 0xffff;
/// SP and the frame pointer, which are looked at by name, and `g`.
const NEVER: u32 = 1 << 4 | 1 << 5 | 1 << 14;

/// What may hold an address of the frame when an instruction is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holders {
    /// General registers, by the processor's number, and from bit 16 on vector registers.
    registers: u32,
    /// Words of the function's own part that hold none.
    own_free: u128,
    /// The same of its arguments.
    arguments_free: u64,
    /// An address was stored by way of a pointer or handed to a call: wherever pointers lead in the frame may hold one.
    behind_pointers: bool,
    /// An address was stored in the function's own part, from where a call may be handed it.
    in_own_words: bool,
}

impl Holders {
    const AT_ENTRY: Self = Self {
        registers: 0,
        own_free: 0,
        arguments_free: u64::MAX,
        behind_pointers: false,
        in_own_words: false,
    };
    const EVERYTHING: Self = Self {
        registers: u32::MAX,
        own_free: 0,
        arguments_free: 0,
        behind_pointers: true,
        in_own_words: true,
    };

    fn meet(self, other: Self) -> Self {
        Self {
            registers: self.registers | other.registers,
            own_free: self.own_free & other.own_free,
            arguments_free: self.arguments_free & other.arguments_free,
            behind_pointers: self.behind_pointers || other.behind_pointers,
            in_own_words: self.in_own_words || other.in_own_words,
        }
    }

    /// A general register, by the processor's number.
    pub(super) fn in_register(&self, number: usize) -> bool {
        self.registers & !NEVER & 1 << number.min(31) != 0 || number == RBP
    }

    /// Bytes of the frame, counted from SP.
    pub(super) fn in_frame(&self, frame: &Frame, at: i64, bytes: i64) -> bool {
        let Some(end) = at.checked_add(bytes) else { return true };
        if self.behind_pointers && frame.is_pointed_at(end) {
            return true;
        }
        !words(at, end).all(|word| match Word::at(frame, word) {
            Some(Word::Own(bit)) => self.own_free >> bit & 1 != 0,
            Some(Word::Argument(bit)) => self.arguments_free >> bit & 1 != 0,
            None => false,
        })
    }

    fn store(&mut self, frame: &Frame, at: i64, bytes: i64, address: bool) {
        let Some(end) = at.checked_add(bytes).filter(|_| bytes > 0) else {
            *self = Self::EVERYTHING;
            return;
        };
        self.in_own_words |= address;
        for word in words(at, end) {
            let is_whole = word >= at && word.saturating_add(WORD_BYTES) <= end;
            match Word::at(frame, word) {
                Some(Word::Own(bit)) if address => self.own_free &= !(1 << bit),
                Some(Word::Own(bit)) if is_whole => self.own_free |= 1 << bit,
                Some(Word::Argument(bit)) if address => self.arguments_free &= !(1 << bit),
                Some(Word::Argument(bit)) if is_whole => self.arguments_free |= 1 << bit,
                // Words that are not followed always may hold one.
                _ => {}
            }
        }
    }
}

enum Word {
    Own(u32),
    Argument(u32),
}

impl Word {
    fn at(frame: &Frame, offset: i64) -> Option<Self> {
        let (index, limit, of) = if offset >= frame.own_bytes {
            ((offset - frame.own_bytes) / WORD_BYTES, ARGUMENT_WORDS, Self::Argument as fn(u32) -> Self)
        } else {
            (offset.checked_div(WORD_BYTES)?, OWN_WORDS, Self::Own as fn(u32) -> Self)
        };
        (offset >= 0 && index < limit).then(|| u32::try_from(index).ok().map(of)).flatten()
    }
}

/// The words that a range touches, by their first bytes.
fn words(at: i64, end: i64) -> impl Iterator<Item = i64> {
    let first = at.div_euclid(WORD_BYTES) * WORD_BYTES;
    (0..).map_while(move |index: i64| {
        first.checked_add(index.checked_mul(WORD_BYTES)?).filter(|&word| word < end)
    })
}

/// The answer for every instruction of a function.
pub(super) fn holders(graph: &FlowGraph, frame: &Frame) -> Vec<Holders> {
    let mut known: Vec<Option<Holders>> = vec![None; graph.len()];
    let mut work: Vec<Node> = Vec::new();
    for &root in graph.roots() {
        // A recovered panic lands behind whatever ran before it.
        known[root] = Some(if root == graph.entry() { Holders::AT_ENTRY } else { Holders::EVERYTHING });
        work.push(root);
    }
    let mut factory = InstructionInfoFactory::new();
    while let Some(node) = work.pop() {
        let Some(before) = known[node] else { continue };
        let after = behind(&mut factory, frame, graph.instruction(node), before);
        for &next in graph.successors(node) {
            let met = known[next].map_or(after, |other| other.meet(after));
            if known[next] != Some(met) {
                known[next] = Some(met);
                work.push(next);
            }
        }
    }
    known.into_iter().map(|one| one.unwrap_or(Holders::EVERYTHING)).collect()
}

/// Behind an instruction.
fn behind(
    factory: &mut InstructionInfoFactory,
    frame: &Frame,
    instruction: &Instruction,
    before: Holders,
) -> Holders {
    let mut after = before;
    if matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
        // It reaches the frame by what it is handed: registers, and words at the frame's lower end.
        let handed =
            before.registers & GENERAL & !NEVER != 0 || before.behind_pointers || before.in_own_words;
        // What a vector register holds behind it is a float or nothing.
        after.registers = 0;
        if handed {
            after.registers = GENERAL;
            after.own_free = 0;
            after.behind_pointers = true;
        }
        return after;
    }
    let info = factory.info(instruction);
    let clears =
        matches!(instruction.mnemonic(), Mnemonic::Xor | Mnemonic::Xorps | Mnemonic::Pxor | Mnemonic::Sub)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
    let is_store = instruction.mnemonic() != Mnemonic::Lea
        && instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Memory
        && !instruction.is_stack_instruction();
    let is_lea = instruction.mnemonic() == Mnemonic::Lea;
    let mut address = false;
    for used in info.used_registers() {
        let register = used.register().full_register();
        let is_base = [instruction.memory_base(), instruction.memory_index()]
            .iter()
            .any(|&one| one != Register::None && one.full_register() == register);
        if !touches(used.access()) || is_written_only(used.access()) || instruction.is_stack_instruction() {
            continue;
        }
        // Where something is stored is not what is stored.
        let is_stored = is_store && is_base && !is_operand(instruction, register);
        if is_stored {
            continue;
        }
        if register == Register::RSP {
            // A load from the frame is looked at below.
            address |= is_lea || !is_base || instruction.memory_index() != Register::None;
        } else {
            address |= holds(&before, register);
        }
    }
    for memory in info.used_memory() {
        let reads = touches(memory.access()) && !is_written_only(memory.access());
        if !reads || instruction.is_stack_instruction() {
            continue;
        }
        if memory.base() == Register::RSP && memory.index() == Register::None {
            let bytes = i64::try_from(memory.memory_size().size()).unwrap_or(0);
            address |= bytes == 0 || before.in_frame(frame, memory.displacement().cast_signed(), bytes);
        } else if memory.base() == Register::RSP {
            address = true;
        }
    }
    address &= !clears;
    for used in info.used_registers() {
        if !writes(used.access()) {
            continue;
        }
        let register = used.register().full_register();
        if register == Register::RSP {
            // The prologue or the end: other words have these names from here on.
            if !instruction.is_stack_instruction() {
                after.own_free = 0;
            }
            continue;
        }
        if let Some(bit) = bit(register) {
            if address {
                after.registers |= bit;
            } else if used.access() != OpAccess::CondWrite && used.register().size() >= WHOLE_BYTES {
                after.registers &= !bit;
            }
        }
    }
    for memory in info.used_memory() {
        if !writes(memory.access()) || instruction.is_stack_instruction() {
            continue;
        }
        let bytes = i64::try_from(memory.memory_size().size()).unwrap_or(0);
        if memory.base() == Register::RSP && memory.index() == Register::None {
            after.store(frame, memory.displacement().cast_signed(), bytes, address);
        } else if address || instruction.is_string_instruction() {
            after.behind_pointers = true;
            if memory.base() == Register::RSP {
                after.own_free = 0;
                after.arguments_free = 0;
            }
        }
    }
    after
}

fn is_written_only(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite)
}

/// Whether a register is an operand of its own, not only a part of an address.
fn is_operand(instruction: &Instruction, register: Register) -> bool {
    (0..instruction.op_count()).any(|operand| {
        instruction.op_kind(operand) == OpKind::Register
            && instruction.op_register(operand).full_register() == register
    })
}

fn bit(register: Register) -> Option<u32> {
    if register.is_gpr64() {
        Some(1 << register.number())
    } else if register.is_vector_register() && register.number() < 16 {
        Some(1 << (16 + register.number()))
    } else {
        None
    }
}

fn holds(before: &Holders, register: Register) -> bool {
    match bit(register) {
        _ if register == Register::RBP => true,
        Some(bit) => before.registers & bit & !NEVER != 0,
        None => register.is_vector_register(),
    }
}

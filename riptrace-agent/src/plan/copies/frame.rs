//! How deep the stack is at each instruction of a function, and which parts of its frame other code may write.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::plan::code::FlowGraph;

/// CFA minus SP where a function is entered: the return address.
const ENTRY_CFA_FROM_SP: i64 = 8;

/// The parts of the frame that other code may write, because their address was taken. Bytes from the CFA.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exposed {
    /// Of the function's own frame, everything from here on.
    frame_from: Option<i64>,
    /// Of its arguments, everything from here on.
    arguments_from: Option<i64>,
}

impl Exposed {
    fn add(&mut self, at: i64) {
        let from = if at < 0 { &mut self.frame_from } else { &mut self.arguments_from };
        *from = Some(from.map_or(at, |from| from.min(at)));
    }

    fn all() -> Self {
        Self { frame_from: Some(i64::MIN), arguments_from: Some(0) }
    }

    pub(super) fn holds(self, at: i64, bytes: u8) -> bool {
        // An object does not reach across the return address.
        let from = if at < 0 { self.frame_from } else { self.arguments_from };
        from.is_some_and(|from| at.saturating_add(i64::from(bytes)) > from)
    }
}

/// CFA minus SP before every instruction that is reached from the function's entry. `None`: it differs by the way there.
pub(super) fn stack_depths(graph: &FlowGraph) -> Option<Vec<Option<i64>>> {
    let mut depths: Vec<Option<i64>> = vec![None; graph.len()];
    let mut work = vec![(graph.entry(), ENTRY_CFA_FROM_SP)];
    while let Some((node, depth)) = work.pop() {
        let slot = depths.get_mut(node)?;
        match *slot {
            Some(known) if known == depth => continue,
            Some(_) => return None,
            None => *slot = Some(depth),
        }
        let behind = depth.checked_sub(stack_step(graph.instruction(node))?)?;
        work.extend(graph.successors(node).iter().map(|&next| (next, behind)));
    }
    Some(depths)
}

/// By how much an instruction changes SP. `None`: that can't be told.
pub(super) fn stack_step(instruction: &Instruction) -> Option<i64> {
    match instruction.flow_control() {
        // What was called has taken the return address off.
        FlowControl::Call | FlowControl::IndirectCall | FlowControl::Return => return Some(0),
        _ => {}
    }
    if instruction.is_stack_instruction() {
        let step = instruction.stack_pointer_increment();
        // `leave` takes SP from RBP.
        return (instruction.mnemonic() != Mnemonic::Leave && step != 0).then_some(i64::from(step));
    }
    let writes_sp = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::RSP;
    if !writes_sp {
        return Some(0);
    }
    match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Cmp | Mnemonic::Test, _) => Some(0),
        (Mnemonic::Sub, OpKind::Immediate8to64 | OpKind::Immediate32to64) => {
            instruction.immediate(1).cast_signed().checked_neg()
        }
        (Mnemonic::Add, OpKind::Immediate8to64 | OpKind::Immediate32to64) => {
            Some(instruction.immediate(1).cast_signed())
        }
        _ => None,
    }
}

/// The parts of the frame whose address the code takes.
pub(super) fn exposed(graph: &FlowGraph, depths: &[Option<i64>]) -> Exposed {
    let mut exposed = Exposed::default();
    for node in (0..graph.len()).filter(|&node| graph.is_reachable(node)) {
        let instruction = graph.instruction(node);
        let depth = depths.get(node).copied().flatten();
        let taken = match taken_address(instruction) {
            Taken::Nothing => continue,
            Taken::FromSp(displacement) => depth.and_then(|depth| displacement.checked_sub(depth)),
            Taken::Anything => None,
        };
        match taken {
            Some(at) => exposed.add(at),
            None => return Exposed::all(),
        }
    }
    exposed
}

enum Taken {
    Nothing,
    /// SP plus this.
    FromSp(i64),
    Anything,
}

fn taken_address(instruction: &Instruction) -> Taken {
    let register = |operand: u32| {
        (instruction.op_count() > operand && instruction.op_kind(operand) == OpKind::Register)
            .then(|| instruction.op_register(operand))
    };
    if instruction.mnemonic() == Mnemonic::Lea {
        let displacement = instruction.memory_displacement64().cast_signed();
        return match instruction.memory_base() {
            // Below SP there is nothing yet: the stack check.
            Register::RSP if displacement < 0 && instruction.memory_index() == Register::None => {
                Taken::Nothing
            }
            Register::RSP => Taken::FromSp(displacement),
            Register::RBP => Taken::Anything,
            _ if instruction.memory_index() == Register::RBP => Taken::Anything,
            _ => Taken::Nothing,
        };
    }
    if instruction.is_stack_instruction() {
        return Taken::Nothing;
    }
    // Go's code reaches its frame by SP; whatever writes by the frame pointer is something else.
    if instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Memory
        && [instruction.memory_base(), instruction.memory_index()].contains(&Register::RBP)
        && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
    {
        return Taken::Anything;
    }
    match (instruction.mnemonic(), register(0), register(1)) {
        // The frame pointer; nothing reads it as an address but frames' ends and debuggers.
        (Mnemonic::Mov, Some(Register::RBP), Some(Register::RSP)) => Taken::Nothing,
        (Mnemonic::Mov, Some(_), Some(Register::RSP)) => Taken::FromSp(0),
        (Mnemonic::Cmp | Mnemonic::Test, ..) => Taken::Nothing,
        (_, _, Some(Register::RSP)) => Taken::Anything,
        (Mnemonic::Mov, None, Some(Register::RBP)) if instruction.memory_base() == Register::RSP => {
            // Saved around a call that takes RBP as an argument.
            Taken::Nothing
        }
        (_, _, Some(Register::RBP)) => Taken::Anything,
        _ => Taken::Nothing,
    }
}

//! Random programs are walked at random: what is armed is passed exactly once for each execution of the entry, and shows
//! there what the entry shows.

use std::collections::HashMap;

use super::{branches::choose_at_branches, *};

const PROGRAMS: u64 = 6000;
const MAX_INSTRUCTIONS: u64 = 28;
const STEPS: usize = 300;
const SLOTS: u64 = 3;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }

    fn register(&mut self) -> AsmRegister64 {
        [rax, rbx, rcx, rdx][usize::try_from(self.below(4)).unwrap()]
    }
}

fn write_program(random: &mut Random, a: &mut CodeAssembler, entry: &mut CodeLabel) -> Result<(), IcedError> {
    let length = usize::try_from(4 + random.below(MAX_INSTRUCTIONS)).unwrap();
    let begin = usize::try_from(random.below(length as u64)).unwrap();
    let mut labels: Vec<CodeLabel> = (0..length).map(|_| a.create_label()).collect();
    labels[begin] = *entry;
    for at in 0..length {
        if at == begin {
            a.set_label(entry)?;
        } else {
            a.set_label(&mut labels[at])?;
        }
        let target = labels[usize::try_from(random.below(length as u64)).unwrap()];
        let slot = 8 * random.below(SLOTS);
        match random.below(16) {
            0 => a.mov(random.register(), i64::try_from(random.below(1000)).unwrap())?,
            1 | 2 => a.mov(random.register(), random.register())?,
            3 => a.inc(random.register())?,
            4 => a.nop()?,
            5 => a.mov(qword_ptr(rsp + slot), random.register())?,
            6 => a.mov(random.register(), qword_ptr(rsp + slot))?,
            7 | 8 => a.jmp(target)?,
            9 | 10 => a.je(target)?,
            11 | 12 => a.jge(target)?,
            13 => a.call(PANIC_INDEX + 1)?,
            _ => a.lea(random.register(), qword_ptr(rbx + 1))?,
        }
    }
    a.ret()
}

/// Registers and frame, where every computed value is another one.
struct Machine {
    registers: [u64; 16],
    /// By displacement from SP.
    frame: HashMap<i64, u64>,
    made: u64,
}

impl Machine {
    fn make(&mut self) -> u64 {
        self.made += 1;
        // Not a constant of the programs.
        self.made << 20
    }

    fn read(&self, place: Place) -> Option<u64> {
        match place {
            Place::Register(number) => Some(self.registers[processor_number(number).unwrap()]),
            Place::Frame(offset) => Some(self.frame.get(&(offset + CFA)).copied().unwrap_or(0)),
            Place::Constant(constant) => Some(constant),
            _ => None,
        }
    }

    fn step(&mut self, instruction: &Instruction) {
        use iced_x86::OpKind;
        if instruction.flow_control() == iced_x86::FlowControl::Call {
            self.registers = std::array::from_fn(|_| self.make());
            return;
        }
        let number = |operand: u32| instruction.op_register(operand).number();
        let displacement = instruction.memory_displacement64().cast_signed();
        let value = match (instruction.mnemonic(), instruction.op1_kind()) {
            (Mnemonic::Mov, OpKind::Register) => self.registers[number(1)],
            (Mnemonic::Mov, OpKind::Memory) => self.frame.get(&displacement).copied().unwrap_or(0),
            (Mnemonic::Mov, _) => instruction.immediate(1),
            (Mnemonic::Inc | Mnemonic::Lea, _) => self.make(),
            _ => return,
        };
        match instruction.op0_kind() {
            OpKind::Memory => drop(self.frame.insert(displacement, value)),
            _ => self.registers[number(0)] = value,
        }
    }
}

/// What each variable that is readable at the entry is now.
fn seen(machine: &Machine, variables: &[VisibleVariable], at_entry: &[VisibleVariable]) -> Vec<Option<u64>> {
    let places = |variable: &VisibleVariable| match &variable.location {
        VariableLocation::Pieces(pieces) => pieces[0].place,
        _ => Place::Missing,
    };
    let pairs = variables.iter().zip(at_entry);
    pairs.map(|(here, there)| machine.read(places(there)).and_then(|_| machine.read(places(here)))).collect()
}

/// Gives how often the entry was executed.
fn walk(random: &mut Random, chosen: &Chosen, at_entry: &[VisibleVariable]) -> usize {
    let graph = chosen.code.graph().unwrap();
    let choice = &chosen.choice;
    let entry = chosen.stretch.instructions[chosen.stretch.entry].ip();
    let comes_first = !choice.ways.is_empty() || choice.index <= choice.entry;
    let mut armed: HashMap<u64, (Option<Branch>, &[VisibleVariable])> = HashMap::new();
    for way in &choice.ways {
        assert!(armed.insert(way.candidate.link_address, (way.branch, &way.variables)).is_none());
    }
    if choice.ways.is_empty() {
        armed.insert(choice.addresses()[0], (choice.branch, &choice.variables));
    }
    let mut machine = Machine { registers: [0; 16], frame: HashMap::new(), made: 0 };
    machine.registers = std::array::from_fn(|_| machine.make());
    let mut node = graph.entry();
    let mut pending: Option<Vec<Option<u64>>> = None;
    let mut executions = 0;
    for _ in 0..STEPS {
        let instruction = graph.instruction(node);
        let address = instruction.ip();
        let target = graph.at(instruction.near_branch_target());
        let is_branch = instruction.flow_control() == iced_x86::FlowControl::ConditionalBranch;
        let is_taken = is_branch && random.below(2) == 0;
        let mut reached = |is_first: bool, values: Vec<Option<u64>>| {
            if is_first {
                assert_eq!(pending, None, "twice at {address:#x}");
                pending = Some(values);
            } else {
                assert_eq!(pending.take(), Some(values), "at {address:#x}");
            }
        };
        let hit = armed.get(&address).filter(|(branch, _)| {
            let code = u32::from(chosen.code.code[usize::try_from(address - START).unwrap()] & 0xf);
            // Short branches are the only ones in programs of this size.
            branch.is_none_or(|branch| (branch.condition == code) == is_taken)
        });
        let hit = hit.map(|(_, variables)| seen(&machine, variables, at_entry));
        let arrival = (address == entry).then(|| seen(&machine, at_entry, at_entry));
        executions += usize::from(arrival.is_some());
        let (first, second) = if comes_first { (hit, arrival) } else { (arrival, hit) };
        first.into_iter().for_each(|values| reached(true, values));
        second.into_iter().for_each(|values| reached(false, values));
        machine.step(instruction);
        let next = graph.at(instruction.next_ip());
        node = match instruction.flow_control() {
            iced_x86::FlowControl::ConditionalBranch if is_taken => target.unwrap(),
            iced_x86::FlowControl::UnconditionalBranch => target.unwrap(),
            iced_x86::FlowControl::Return => graph.entry(),
            _ => next.unwrap(),
        };
    }
    executions
}

#[test]
fn what_is_armed_is_passed_once_for_each_execution_and_shows_its_values() {
    let variables = [at("x", &[RAX]), at("y", &[RCX]), at("z", &[sp(8)])];
    let mut by_ways = [0; MAX_WAYS + 1];
    for program in 0..PROGRAMS {
        let mut random = Random(program << 32);
        let wanted = &variables[..usize::try_from(random.below(4)).unwrap()];
        let at_branches = random.below(2) == 0;
        let write = |a: &mut CodeAssembler, entry: &mut CodeLabel| write_program(&mut random, a, entry);
        let chosen = if at_branches { choose_at_branches(wanted, write) } else { choose_in(wanted, write) };
        let executions = walk(&mut random, &chosen, wanted);
        if executions > 1 {
            by_ways[chosen.choice.ways.len()] += 1;
        }
    }
    // One address where the ways part, and several, were among them.
    assert!(by_ways[1] > 5 && by_ways[2] > 50 && by_ways[3] > 5, "{by_ways:?}");
}

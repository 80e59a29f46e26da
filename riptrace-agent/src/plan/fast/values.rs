//! Which value every byte of the registers and of the frame holds, along a stretch: copies keep a value, everything else
//! makes a new one. Two places that hold the same bytes are the same value; nothing is ever guessed.

use std::{collections::HashMap, ops::Range};

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::stretch::writes;
use crate::dwarf::Place;

/// Bytes of a register that are followed.
const WORD: usize = 8;
const VECTOR: usize = 16;
/// Most bytes that one instruction copies.
type Bytes = Vec<Byte>;

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Byte {
    /// What byte `.1` of the general register held when the stretch began.
    General(u8, u8),
    /// The same of a vector register.
    Vector(u8, u8),
    /// What lay at the CFA plus this many bytes when the stretch began.
    Frame(i64),
    /// A byte of a value that was computed since; all of them are different.
    Made(u32),
    /// This number.
    Constant(u8),
}

/// Registers and frame in front of one instruction.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// By iced's number, which is the processor's.
    general: [[Byte; WORD]; 16],
    vector: [[Byte; VECTOR]; 16],
    /// By offset from the CFA: the bytes that were written.
    frame: HashMap<i64, Byte>,
    made: u32,
    /// SP, as an offset from the CFA: what lies below is nobody's.
    lowest: i64,
}

impl Values {
    /// Where a stretch begins.
    pub(super) fn initial() -> Self {
        let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        Self {
            general: std::array::from_fn(|register| {
                std::array::from_fn(|at| Byte::General(byte(register), byte(at)))
            }),
            vector: std::array::from_fn(|register| {
                std::array::from_fn(|at| Byte::Vector(byte(register), byte(at)))
            }),
            frame: HashMap::new(),
            made: 0,
            lowest: i64::MIN,
        }
    }

    /// Of two places it is known that their low bytes are the same where the stretch begins.
    pub(super) fn equate(&mut self, one: Place, other: Place, bytes: u8) {
        let length = usize::from(bytes);
        let held: Bytes = match one {
            Place::Register(number) => self.general(number).unwrap_or_default().to_vec(),
            Place::FloatRegister(number) => self.vector(number).unwrap_or_default().to_vec(),
            Place::Frame(offset) => (0..i64::from(bytes)).map(|at| self.frame(offset + at)).collect(),
            _ => return,
        };
        let held = held.get(..length.min(held.len())).unwrap_or_default();
        let register = match other {
            Place::Frame(offset) => return self.write_frame(offset, held),
            Place::Register(number) => processor_number(number)
                .and_then(|number| self.general.get_mut(number))
                .map(<[Byte; WORD]>::as_mut_slice),
            Place::FloatRegister(number) => number
                .checked_sub(FIRST_VECTOR)
                .and_then(|number| self.vector.get_mut(usize::from(number)))
                .map(<[Byte; VECTOR]>::as_mut_slice),
            _ => None,
        };
        for (old, new) in register.into_iter().flatten().zip(held) {
            *old = *new;
        }
    }

    /// In front of an instruction.
    pub(super) fn enter(&mut self, cfa_from_sp: i32) {
        self.lowest = -i64::from(cfa_from_sp);
    }

    /// The low bytes of a general register, by its DWARF number.
    pub(super) fn general(&self, dwarf: u16) -> Option<&[Byte]> {
        self.general.get(processor_number(dwarf)?).map(<[Byte; WORD]>::as_slice)
    }

    /// The low bytes of a vector register, by its DWARF number.
    pub(super) fn vector(&self, dwarf: u16) -> Option<&[Byte]> {
        let number = usize::from(dwarf.checked_sub(FIRST_VECTOR)?);
        self.vector.get(number).map(<[Byte; VECTOR]>::as_slice)
    }

    /// What lies at CFA + `offset`.
    pub(super) fn frame(&self, offset: i64) -> Byte {
        self.frame.get(&offset).copied().unwrap_or(Byte::Frame(offset))
    }

    /// The same of several bytes; `None`: they are not part of the stack (yet).
    pub(super) fn frame_bytes(&self, offset: i64, bytes: usize) -> Option<Bytes> {
        if offset < self.lowest {
            return None;
        }
        (0..i64::try_from(bytes).ok()?).map(|at| Some(self.frame(offset.checked_add(at)?))).collect()
    }

    /// Whether a part of the frame holds the same in both.
    pub(super) fn is_same_frame(&self, other: &Self, range: Range<i64>) -> bool {
        let written = self.frame.keys().chain(other.frame.keys()).filter(|&offset| range.contains(offset));
        written.into_iter().all(|&offset| self.frame(offset) == other.frame(offset))
    }

    /// Places of the frame that hold this byte.
    pub(super) fn frame_places(&self, byte: Byte) -> Vec<i64> {
        let mut places: Vec<i64> =
            self.frame.iter().filter(|(_, held)| **held == byte).map(|(offset, _)| *offset).collect();
        if let Byte::Frame(offset) = byte
            && self.frame(offset) == byte
        {
            places.push(offset);
        }
        places.sort_unstable();
        places
    }

    /// Behind the instruction. `cfa_from_sp`: in front of it; `place`: where its memory operand lies, as bytes from SP.
    pub(super) fn step(
        &mut self,
        factory: &mut InstructionInfoFactory,
        instruction: &Instruction,
        place: Option<i64>,
        cfa_from_sp: i32,
    ) {
        let cfa = i64::from(cfa_from_sp);
        let place = place.and_then(|place| place.checked_sub(cfa));
        match instruction.mnemonic() {
            Mnemonic::Nop
            | Mnemonic::Jmp
            | Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Ucomisd
            | Mnemonic::Ucomiss => {}
            Mnemonic::Push if instruction.op0_kind() == OpKind::Register => {
                let bytes = self.register(instruction.op0_register(), WORD);
                if let Some(bytes) = bytes {
                    self.write_frame(-cfa - 8, &bytes);
                } else {
                    self.by_effects(factory, instruction, place);
                }
            }
            Mnemonic::Xchg
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register()
                    && instruction.op0_register().size() == WORD => {}
            Mnemonic::Xor | Mnemonic::Xorps | Mnemonic::Pxor
                if instruction.op0_kind() == OpKind::Register
                    && instruction.op1_kind() == OpKind::Register
                    && instruction.op0_register() == instruction.op1_register() =>
            {
                let bytes = instruction.op0_register().size();
                self.write_register(instruction.op0_register(), &vec![Byte::Constant(0); bytes]);
            }
            Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movups
            | Mnemonic::Movaps
            | Mnemonic::Movupd
            | Mnemonic::Movapd
            | Mnemonic::Movdqu
            | Mnemonic::Movdqa
            | Mnemonic::Movss
            | Mnemonic::Movsd
            | Mnemonic::Movd
            | Mnemonic::Movq => self.copy(factory, instruction, place),
            _ => self.by_effects(factory, instruction, place),
        }
    }

    fn copy(&mut self, factory: &mut InstructionInfoFactory, instruction: &Instruction, place: Option<i64>) {
        let target = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        let source = match instruction.op1_kind() {
            OpKind::Register => self.register(instruction.op1_register(), instruction.op1_register().size()),
            OpKind::Memory => {
                place.and_then(|place| self.frame_bytes(place, instruction.memory_size().size()))
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {
                Some(instruction.immediate(1).to_le_bytes().map(Byte::Constant).to_vec())
            }
            _ => None,
        };
        let Some(mut bytes) = source else { return self.by_effects(factory, instruction, place) };
        let (to_register, to_vector) = match instruction.op0_kind() {
            OpKind::Register => (true, instruction.op0_register().is_xmm()),
            _ => (false, false),
        };
        let from_register = instruction.op1_kind() == OpKind::Register;
        // A scalar between two vector registers leaves the rest of the target.
        let scalar = match instruction.mnemonic() {
            Mnemonic::Movss => Some(4),
            Mnemonic::Movsd | Mnemonic::Movq => Some(8),
            Mnemonic::Movd => Some(4),
            _ => None,
        };
        if let Some(scalar) = scalar {
            let keeps_rest = to_vector
                && from_register
                && matches!(instruction.mnemonic(), Mnemonic::Movss | Mnemonic::Movsd);
            bytes.truncate(scalar);
            if keeps_rest {
                let old = self.register(instruction.op0_register(), VECTOR).unwrap_or_default();
                bytes.extend(old.into_iter().skip(scalar));
            }
        }
        if to_register {
            bytes.resize(target.max(bytes.len()), Byte::Constant(0));
            bytes.truncate(target);
            self.write_register(instruction.op0_register(), &bytes);
        } else if instruction.op0_kind() == OpKind::Memory {
            bytes.resize(target, Byte::Constant(0));
            match place {
                Some(offset) => self.write_frame(offset, &bytes),
                None => self.by_effects(factory, instruction, place),
            }
        } else {
            self.by_effects(factory, instruction, place);
        }
    }

    /// Everything that the instruction writes is new.
    fn by_effects(
        &mut self,
        factory: &mut InstructionInfoFactory,
        instruction: &Instruction,
        place: Option<i64>,
    ) {
        let info = factory.info(instruction);
        for used in info.used_registers() {
            if writes(used.access()) {
                let register = used.register().full_register();
                let bytes = self.new_bytes(VECTOR);
                if register.is_gpr64() {
                    self.general[register.number() % 16] = std::array::from_fn(|at| bytes[at]);
                } else if register.is_vector_register()
                    && let Some(vector) = self.vector.get_mut(register.number())
                {
                    *vector = std::array::from_fn(|at| bytes[at]);
                }
            }
        }
        for memory in info.used_memory() {
            if !writes(memory.access()) {
                continue;
            }
            let size = memory.memory_size().size();
            if let Some(place) = place
                && size > 0
            {
                let bytes = self.new_bytes(size);
                self.write_frame(place, &bytes);
            }
        }
    }

    fn new_bytes(&mut self, bytes: usize) -> Bytes {
        (0..bytes)
            .map(|_| {
                self.made += 1;
                Byte::Made(self.made)
            })
            .collect()
    }

    /// The low bytes of a register operand.
    fn register(&self, register: Register, bytes: usize) -> Option<Bytes> {
        let full = register.full_register();
        if is_high_byte(register) {
            return self.general.get(full.number()).map(|word| vec![word[1]]);
        }
        if full.is_gpr64() {
            return self.general.get(full.number())?.get(..bytes).map(<[Byte]>::to_vec);
        }
        if register.is_xmm() {
            return self.vector.get(register.number())?.get(..bytes.min(VECTOR)).map(<[Byte]>::to_vec);
        }
        None
    }

    fn write_register(&mut self, register: Register, bytes: &[Byte]) {
        let full = register.full_register();
        if full.is_gpr64() {
            let Some(word) = self.general.get_mut(full.number()) else { return };
            if is_high_byte(register) {
                word[1] = bytes.first().copied().unwrap_or(word[1]);
                return;
            }
            for (old, new) in word.iter_mut().zip(bytes) {
                *old = *new;
            }
            // Writing half a register clears the other half; writing less leaves the rest.
            if bytes.len() == 4 {
                word[4..].fill(Byte::Constant(0));
            }
        } else if register.is_xmm()
            && let Some(vector) = self.vector.get_mut(register.number())
        {
            for (old, new) in vector.iter_mut().zip(bytes) {
                *old = *new;
            }
        }
    }

    fn write_frame(&mut self, offset: i64, bytes: &[Byte]) {
        for (at, byte) in (0i64..).zip(bytes) {
            self.frame.insert(offset.saturating_add(at), *byte);
        }
    }
}

/// DWARF's number of XMM0.
const FIRST_VECTOR: u16 = 17;

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// The processor's number of a general register, by its DWARF number (System V ABI for x86-64, figure 3.36): DWARF counts
/// RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP.
pub(super) fn processor_number(dwarf: u16) -> Option<usize> {
    Some(match dwarf {
        0 => 0,
        1 => 2,
        2 => 1,
        3 => 3,
        4 => 6,
        5 => 7,
        6 => 5,
        7 => 4,
        8..=15 => usize::from(dwarf),
        _ => return None,
    })
}

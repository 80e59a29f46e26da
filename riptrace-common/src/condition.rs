//! Executes the ops of a condition (`abi::condition`), one at a time, over whatever has the words and the memory: the
//! kernel side, or a test.

use crate::abi::condition::{
    NOT_A_NUMBER, OP_ACCEPT, OP_ADD, OP_AND, OP_AND_NOT, OP_DIVIDE, OP_EQUAL, OP_FIND, OP_FLOAT,
    OP_FLOAT_KEY, OP_IMMEDIATE, OP_JUMP, OP_LESS, OP_LESS_EQUAL, OP_MOVE, OP_MULTIPLY, OP_NEGATE, OP_OR,
    OP_READ, OP_REMAINDER, OP_SHIFT_LEFT, OP_SHIFT_RIGHT, OP_SIGNED, OP_STORE, OP_STRING_EQUAL, OP_SUBTRACT,
    OP_XOR, OP_ZERO_IF_NIL, Op, SMALLEST_POINTER, TARGET_ACCEPT, TARGET_FAIL, WORD_BIAS,
};

/// Words and memory.
pub trait Machine {
    /// A word.
    fn word(&self, index: u8) -> u64;
    /// Changes a word.
    fn set(&mut self, index: u8, value: u64);
    /// `bytes` (1, 2, 4 or 8) bytes of the target's memory, the rest of the word zero. `None`: a fault.
    fn read(&mut self, address: u64, bytes: u32) -> Option<u64>;
    /// A comparison of strings: 1 holds, 0 does not; else a target to end with.
    fn strings(&mut self, op: &Op) -> u32;
    /// The address that `OP_FIND` gives, or a target to end with.
    fn find(&mut self, op: &Op) -> Result<u64, u16>;
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next op.
    Next,
    /// This op, or the end (`TARGET_*`).
    Go(u16),
}

/// Executes one op.
#[inline(always)]
pub fn step<M: Machine>(machine: &mut M, op: &Op) -> Step {
    let code = op.code;
    if code >= OP_STRING_EQUAL {
        let outcome = machine.strings(op);
        if outcome > 1 {
            return Step::Go(outcome as u16);
        }
        return branch(machine, op, outcome != 0);
    }
    if code == OP_JUMP {
        return Step::Go(op.target);
    }
    if code == OP_FIND {
        return match machine.find(op) {
            Ok(address) => {
                machine.set(op.destination, address);
                Step::Next
            }
            Err(target) => Step::Go(target),
        };
    }
    let signed = op.flags & OP_SIGNED != 0;
    let base = machine.word(op.left);
    if code == OP_READ {
        // What is linked at an address lies there whatever the bias is.
        if base < SMALLEST_POINTER && op.left != WORD_BIAS {
            if op.flags & OP_ZERO_IF_NIL == 0 || base != 0 {
                return Step::Go(TARGET_FAIL);
            }
            machine.set(op.destination, 0);
            return Step::Next;
        }
        return match machine.read(base.wrapping_add(op.immediate), 8 - u32::from(op.shift) / 8) {
            Some(value) => {
                machine.set(op.destination, extend(value, op.shift, signed));
                Step::Next
            }
            None => Step::Go(TARGET_FAIL),
        };
    }
    let left = extend(base, op.shift, signed);
    let right = if op.flags & OP_IMMEDIATE != 0 { op.immediate } else { machine.word(op.right) };
    if code >= OP_EQUAL {
        let holds = compare(code, op.flags, left, right);
        return branch(machine, op, holds);
    }
    let result = match code {
        OP_MOVE if op.flags & OP_IMMEDIATE != 0 => right,
        OP_MOVE => left,
        OP_ADD => left.wrapping_add(right),
        OP_SUBTRACT => left.wrapping_sub(right),
        OP_MULTIPLY => left.wrapping_mul(right),
        OP_AND => left & right,
        OP_OR => left | right,
        OP_XOR => left ^ right,
        OP_AND_NOT => left & !right,
        OP_SHIFT_LEFT => shift_left(left, right),
        OP_SHIFT_RIGHT => shift_right(left, right, signed),
        OP_FLOAT_KEY => float_key(left, op.shift),
        OP_DIVIDE | OP_REMAINDER => {
            if right == 0 {
                return Step::Go(TARGET_FAIL);
            }
            divide(left, right, signed, code == OP_REMAINDER)
        }
        _ => return Step::Go(TARGET_FAIL),
    };
    // A key is 64 bits wide, whatever the float was.
    let result = if code == OP_FLOAT_KEY { result } else { extend(result, op.shift, signed) };
    machine.set(op.destination, result);
    Step::Next
}

#[inline(always)]
fn branch<M: Machine>(machine: &mut M, op: &Op, holds: bool) -> Step {
    let holds = holds != (op.flags & OP_NEGATE != 0);
    if op.flags & OP_STORE != 0 {
        machine.set(op.destination, holds.into());
        return Step::Next;
    }
    if !holds {
        Step::Go(op.target)
    } else if op.flags & OP_ACCEPT != 0 {
        Step::Go(TARGET_ACCEPT)
    } else {
        Step::Next
    }
}

#[inline(always)]
fn compare(code: u8, flags: u8, left: u64, right: u64) -> bool {
    if flags & OP_FLOAT != 0
        && (left == NOT_A_NUMBER.cast_unsigned() || right == NOT_A_NUMBER.cast_unsigned())
    {
        return false;
    }
    // A signed order is an unsigned one with the sign bit turned round.
    let turn = if flags & OP_SIGNED != 0 { 1 << 63 } else { 0 };
    let (left, right) = (left ^ turn, right ^ turn);
    match code {
        OP_LESS => left < right,
        OP_LESS_EQUAL => left <= right,
        _ => left == right,
    }
}

/// The low `64 - shift` bits, extended.
#[inline(always)]
#[must_use]
pub fn extend(value: u64, shift: u8, signed: bool) -> u64 {
    let shift = u32::from(shift & 63);
    let high = value << shift;
    if signed { (high.cast_signed() >> shift).cast_unsigned() } else { high >> shift }
}

#[inline(always)]
fn shift_left(left: u64, right: u64) -> u64 {
    if right < 64 { left << (right & 63) } else { 0 }
}

#[inline(always)]
fn shift_right(left: u64, right: u64, signed: bool) -> u64 {
    let by = if right < 64 { right & 63 } else { 63 };
    if signed {
        (left.cast_signed() >> by).cast_unsigned()
    } else if right < 64 {
        left >> by
    } else {
        0
    }
}

/// Division of 64-bit integers by unsigned division (BPF has a signed one from Linux 6.6 on only). `right` is not zero.
#[inline(always)]
fn divide(left: u64, right: u64, signed: bool, remainder: bool) -> u64 {
    let left_negative = signed && left.cast_signed() < 0;
    let right_negative = signed && right.cast_signed() < 0;
    let numerator = if left_negative { left.wrapping_neg() } else { left };
    let denominator = if right_negative { right.wrapping_neg() } else { right };
    if denominator == 0 {
        return 0;
    }
    let (result, negative) = if remainder {
        (numerator % denominator, left_negative)
    } else {
        (numerator / denominator, left_negative != right_negative)
    };
    if negative { result.wrapping_neg() } else { result }
}

/// See `OP_FLOAT_KEY`.
#[inline(always)]
#[must_use]
pub fn float_key(bits: u64, shift: u8) -> u64 {
    // The same transformation for both widths, on a float that begins at the highest bit.
    let high = bits << (shift & 63);
    let (exponent, sign) =
        if shift == 32 { (0x7f80_0000_u64 << 32, 1 << 63) } else { (0x7ff0 << 48, 1 << 63) };
    let magnitude = high & !sign;
    if magnitude > exponent {
        return NOT_A_NUMBER.cast_unsigned();
    }
    // −0 is 0; the larger a negative float's bits, the smaller the float.
    if high & sign != 0 { magnitude.wrapping_neg() } else { magnitude }
}

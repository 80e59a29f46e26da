//! A condition as the kernel side executes it.

use riptrace_common::abi::{
    condition::{
        Block, OP_ACCEPT, OP_ADD, OP_AND, OP_AND_NOT, OP_DIVIDE, OP_EQUAL, OP_FIND, OP_FLOAT_KEY,
        OP_IMMEDIATE, OP_JUMP, OP_LESS, OP_LESS_EQUAL, OP_MOVE, OP_MULTIPLY, OP_NEGATE, OP_OR, OP_READ,
        OP_REMAINDER, OP_SHIFT_LEFT, OP_SHIFT_RIGHT, OP_SIGNED, OP_STRING_CONTAINS, OP_STRING_EQUAL,
        OP_STRING_LESS, OP_STRING_LESS_EQUAL, OP_STRING_PREFIX, OP_SUBTRACT, OP_XOR, Op, TARGET_ACCEPT,
        TARGET_FAIL, TARGET_REJECT, WORD_BIAS, WORD_SP,
    },
    program::register,
};

use super::root::general_register;

/// A compiled condition of one site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The ops; constants are named by their places in `blocks`.
    pub ops: Vec<Op>,
    /// String constants and their tables.
    pub blocks: Vec<Block>,
    /// Each operand and where it comes from, for people.
    pub operands: Vec<String>,
}

impl Condition {
    /// One that does not hold.
    #[must_use]
    pub fn never() -> Self {
        let ops = vec![Op { code: OP_JUMP, target: TARGET_REJECT, ..Op::default() }];
        Self { ops, ..Self::default() }
    }

    /// Whether the upper half of an op's immediate names a block.
    #[must_use]
    pub fn has_constant(&self, op: &Op) -> bool {
        op.code == OP_FIND
            || op.code == OP_STRING_CONTAINS
            || (op.code >= OP_STRING_EQUAL && op.flags & OP_IMMEDIATE != 0)
    }

    /// The ops in words, one a line.
    #[must_use]
    pub fn listing(&self) -> Vec<String> {
        self.ops.iter().map(|op| self.line(op)).collect()
    }

    fn line(&self, op: &Op) -> String {
        let bits = 64 - u32::from(op.shift);
        let signed = op.flags & OP_SIGNED != 0;
        let width = format!("{}{bits}", if signed { 'i' } else { 'u' });
        let left = word(op.left);
        let right = if op.flags & OP_IMMEDIATE == 0 {
            word(op.right)
        } else if self.has_constant(op) {
            self.text_constant(op)
        } else if signed {
            op.immediate.cast_signed().to_string()
        } else {
            op.immediate.to_string()
        };
        let to = word(op.destination);
        let sign = |code| match code {
            OP_ADD => "+",
            OP_SUBTRACT => "-",
            OP_MULTIPLY => "*",
            OP_DIVIDE => "/",
            OP_REMAINDER => "%",
            OP_AND => "&",
            OP_OR => "|",
            OP_XOR => "^",
            OP_AND_NOT => "&^",
            OP_SHIFT_LEFT => "<<",
            OP_SHIFT_RIGHT => ">>",
            _ => "?",
        };
        match op.code {
            OP_MOVE if op.flags & OP_IMMEDIATE != 0 => format!("{to} = {right}"),
            OP_MOVE => format!("{to} = {width} {left}"),
            OP_READ => format!("{to} = {width} at {left}{:+}", op.immediate.cast_signed()),
            OP_FLOAT_KEY => format!("{to} = order of float{bits} {left}"),
            OP_FIND => format!("{to} = address of a value in the map at {left}"),
            OP_JUMP => format!("go to {}", target(op.target)),
            OP_EQUAL.. => {
                let how = match op.code {
                    OP_LESS | OP_STRING_LESS => "<",
                    OP_LESS_EQUAL | OP_STRING_LESS_EQUAL => "<=",
                    OP_STRING_PREFIX => "has prefix",
                    OP_STRING_CONTAINS => "contains",
                    _ => "==",
                };
                let right = if op.code == OP_STRING_CONTAINS {
                    format!("a string of {} bytes", op.immediate & 0xffff_ffff)
                } else {
                    right
                };
                let kind = if op.code >= OP_STRING_EQUAL { "string".to_owned() } else { width };
                let unless = if op.flags & OP_NEGATE == 0 { "unless" } else { "if" };
                let accept = if op.flags & OP_ACCEPT == 0 { "" } else { ", else accept" };
                format!("{} {unless} {kind} {left} {how} {right}{accept}", target(op.target))
            }
            code => format!("{to} = {width} {left} {} {right}", sign(code)),
        }
    }

    fn text_constant(&self, op: &Op) -> String {
        let length = usize::try_from(op.immediate & 0xffff_ffff).unwrap_or(0);
        let first = usize::try_from(op.immediate >> 32).unwrap_or(0);
        let blocks = self.blocks.get(first..).unwrap_or_default();
        let bytes = blocks.iter().flat_map(|block| block.words).flat_map(u64::to_le_bytes);
        let bytes: Vec<u8> = bytes.take(length).collect();
        format!("{:?}", String::from_utf8_lossy(&bytes))
    }
}

fn word(index: u8) -> String {
    match index {
        WORD_SP => "sp".to_owned(),
        WORD_BIAS => "load bias".to_owned(),
        0..WORD_SP => (0..16)
            .filter_map(general_register)
            .find(|(at, _)| *at != register::RSP && *at == u32::from(index) * 8)
            .map_or_else(|| "?".to_owned(), |(_, name)| name.to_owned()),
        temporary => format!("t{}", temporary - WORD_BIAS - 1),
    }
}

fn target(target: u16) -> String {
    match target {
        TARGET_ACCEPT => "accept".to_owned(),
        TARGET_REJECT => "reject".to_owned(),
        TARGET_FAIL => "fail".to_owned(),
        op => format!("to {op}"),
    }
}

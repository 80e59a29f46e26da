//! Conditions: what a hit must fulfil before anything is captured.
//!
//! A condition is a run of [`Op`]s in the map `CONDITIONS`, executed from its first one on. Jumps go forward only, so that
//! a run ends after at most as many steps as it has ops. Ops work on [`WORDS`] words: the trapped thread's registers, the
//! image's load bias, and temporaries. A word holds an integer in 64 bits, extended by its own sign (or with zeros); so
//! comparisons and arithmetic are those of 64 bits, and a result is extended again.
//!
//! `crate::condition` executes ops; kernel side and tests share it.

/// One step of a condition. Map `CONDITIONS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// One of `OP_*`.
    pub code: u8,
    /// The word that takes the result.
    pub destination: u8,
    /// The word of the left operand; of strings, the first of two: pointer and length.
    pub left: u8,
    /// The word of the right operand, unless [`OP_IMMEDIATE`].
    pub right: u8,
    /// 64 minus the operands' width in bits: 0, 32, 48 or 56.
    pub shift: u8,
    /// `OP_SIGNED`, `OP_IMMEDIATE`, …
    pub flags: u8,
    /// The op that a branch goes to (counted from the condition's first), or one of `TARGET_*`.
    pub target: u16,
    /// The right operand; an offset; a constant's place (`block << 32 | length`).
    pub immediate: u64,
}

/// Destination: the left operand, extended to 64 bits; with [`OP_IMMEDIATE`] the immediate.
pub const OP_MOVE: u8 = 0;
/// Arithmetic: destination = left op right, in the operands' width.
pub const OP_ADD: u8 = 1;
/// See [`OP_ADD`].
pub const OP_SUBTRACT: u8 = 2;
/// See [`OP_ADD`].
pub const OP_MULTIPLY: u8 = 3;
/// Division, truncated towards zero; by zero the hit fails.
pub const OP_DIVIDE: u8 = 4;
/// The remainder has the sign of the left operand; by zero the hit fails.
pub const OP_REMAINDER: u8 = 5;
/// See [`OP_ADD`].
pub const OP_AND: u8 = 6;
/// See [`OP_ADD`].
pub const OP_OR: u8 = 7;
/// See [`OP_ADD`].
pub const OP_XOR: u8 = 8;
/// `left &^ right`.
pub const OP_AND_NOT: u8 = 9;
/// The right operand is unsigned and not bounded: from the width on nothing is left.
pub const OP_SHIFT_LEFT: u8 = 10;
/// See [`OP_SHIFT_LEFT`]; a signed left operand keeps its sign.
pub const OP_SHIFT_RIGHT: u8 = 11;
/// Destination: an integer whose signed order is that of the float in the left operand (32 or 64 bits wide);
/// [`NOT_A_NUMBER`] for a NaN.
pub const OP_FLOAT_KEY: u8 = 12;
/// Destination: the bytes at left + immediate. Left below [`SMALLEST_POINTER`] (but for [`WORD_BIAS`]), or a fault: the hit
/// fails.
pub const OP_READ: u8 = 13;
/// Goes to the target.
pub const OP_JUMP: u8 = 14;
/// Destination: the address of the value that a map (left: pointer at its header) has for a key; 0: none. The key is the
/// right operand (a string's two words, or an integer). Immediate: where the constants have the [`MapPlan`].
pub const OP_FIND: u8 = 15;

/// The first comparison. A comparison that does not hold goes to its target; with [`OP_NEGATE`] one that does.
pub const OP_EQUAL: u8 = 16;
/// Left < right.
pub const OP_LESS: u8 = 17;
/// Left ≤ right.
pub const OP_LESS_EQUAL: u8 = 18;
/// Strings are equal. With [`OP_IMMEDIATE`] the right one is a constant.
pub const OP_STRING_EQUAL: u8 = 19;
/// The left string begins with the right one.
pub const OP_STRING_PREFIX: u8 = 20;
/// The left string comes before the right one, byte by byte.
pub const OP_STRING_LESS: u8 = 21;
/// The left string comes before the right one or is equal.
pub const OP_STRING_LESS_EQUAL: u8 = 22;
/// The left string contains the constant whose table ([`CONTAINS_BLOCKS`]) the immediate names; its length is at most
/// [`MAX_CONTAINED_BYTES`].
pub const OP_STRING_CONTAINS: u8 = 23;

/// Operands and result are signed.
pub const OP_SIGNED: u8 = 1 << 0;
/// The right operand is [`Op::immediate`].
pub const OP_IMMEDIATE: u8 = 1 << 1;
/// A comparison's outcome is turned round.
pub const OP_NEGATE: u8 = 1 << 2;
/// The operands are float keys: nothing but "unequal" holds for [`NOT_A_NUMBER`].
pub const OP_FLOAT: u8 = 1 << 3;
/// A comparison that does not branch accepts the hit.
pub const OP_ACCEPT: u8 = 1 << 4;
/// `OP_READ`: zero when left is zero (a map has no such key). `OP_FIND`: nothing when the map is nil.
pub const OP_ZERO_IF_NIL: u8 = 1 << 5;
/// The comparison's outcome (0 or 1) goes to the destination; nothing branches.
pub const OP_STORE: u8 = 1 << 6;

/// The hit is captured.
pub const TARGET_ACCEPT: u16 = u16::MAX;
/// The hit is filtered.
pub const TARGET_REJECT: u16 = u16::MAX - 1;
/// The condition can't be decided: the hit failed.
pub const TARGET_FAIL: u16 = u16::MAX - 2;
/// What was needed to decide is in use by others on this CPU: the hit is dropped.
pub const TARGET_BUSY: u16 = u16::MAX - 3;

/// The float key of a NaN.
pub const NOT_A_NUMBER: i64 = i64::MIN;
/// The first page is never mapped.
pub const SMALLEST_POINTER: u64 = 4096;

/// Words of a condition.
pub const WORDS: usize = 32;
/// Words 0 to 14 are the registers R15 to RDI in the order of the register file (`program::register`).
pub const WORD_REGISTERS: usize = 15;
/// RSP.
pub const WORD_SP: u8 = 15;
/// The image's load bias.
pub const WORD_BIAS: u8 = 16;
/// The first temporary.
pub const WORD_FIRST: u8 = 17;

/// Ops of one condition.
pub const MAX_OPS: u32 = 128;
/// Entries of the map `CONDITIONS`, all conditions together.
pub const MAX_CONDITION_OPS: u32 = 16 * 1024;
/// Bytes of an entry of the map `CONSTANTS`.
pub const BLOCK_BYTES: usize = 64;
/// Entries of the map `CONSTANTS`.
pub const MAX_BLOCKS: u32 = 4 * 1024;
/// Blocks of strings that are compared. Where more would have to be looked at, the hit fails.
pub const MAX_COMPARED_BLOCKS: u32 = 16;
/// Bytes in which [`OP_STRING_CONTAINS`] looks. Not found in so many of a longer string: the hit fails.
pub const MAX_SEARCHED_BYTES: u32 = 1024;
/// Longest string that [`OP_STRING_CONTAINS`] looks for.
pub const MAX_CONTAINED_BYTES: usize = 64;
/// Blocks of the table for [`OP_STRING_CONTAINS`]: for each byte a word, whose bit n says that byte n of the string is it.
pub const CONTAINS_BLOCKS: usize = 256 * 8 / BLOCK_BYTES;
/// Groups (of 8 pairs) of a map that are looked at for a key. Not found in so many of a larger map: the hit fails.
pub const MAX_MAP_GROUPS: u32 = 64;

/// A string constant, or a part of one. Map `CONSTANTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Block {
    /// 64 bytes, padded with zeros.
    pub words: [u64; 8],
}

/// How [`OP_FIND`] reads a map. One block of the constants. Offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MapPlan {
    /// `MAP_*` bits.
    pub flags: u32,
    /// Bytes of an integer key (1 to 8), or 16: the keys are strings.
    pub key_bytes: u32,
    /// Of the first key in a group or bucket, and from one to the next.
    pub keys: u32,
    /// See `keys`.
    pub key_stride: u32,
    /// Of the first value, and from one to the next.
    pub values: u32,
    /// See `values`.
    pub value_stride: u32,
    /// Bytes of a group or bucket.
    pub group_bytes: u32,
    /// In the header: `dirPtr` (Swiss) or `buckets` (classic).
    pub groups: u32,
    /// In the header: `dirLen` or `B`.
    pub count: u32,
    /// Swiss: in a table, `groups.data`. Classic: in the header, `oldbuckets`.
    pub table_data: u32,
    /// Swiss: in a table, `groups.lengthMask`. Classic: in a bucket, `overflow`.
    pub table_mask: u32,
    /// Swiss: in a group, the control word. Classic: in a bucket, `tophash`.
    pub control: u32,
    /// With [`MAP_CONSTANT_KEY`]: bytes of the key, which the next block of the constants holds.
    pub constant_bytes: u32,
    /// Reserved, zero.
    pub reserved: [u32; 3],
}

impl MapPlan {
    /// As a block of the constants.
    #[must_use]
    pub fn block(&self) -> Block {
        let Self {
            flags,
            key_bytes,
            keys,
            key_stride,
            values,
            value_stride,
            group_bytes,
            groups,
            count,
            table_data,
            table_mask,
            control,
            constant_bytes,
            reserved: _,
        } = *self;
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        Block {
            words: [
                pair(flags, key_bytes),
                pair(keys, key_stride),
                pair(values, value_stride),
                pair(group_bytes, groups),
                pair(count, table_data),
                pair(table_mask, control),
                pair(constant_bytes, 0),
                0,
            ],
        }
    }
}

/// The map has groups (Go ≥ 1.24), else buckets.
pub const MAP_SWISS: u32 = 1 << 0;
/// The value in a group or bucket is a pointer at the value.
pub const MAP_INDIRECT_VALUE: u32 = 1 << 1;
/// The key is a string constant.
pub const MAP_CONSTANT_KEY: u32 = 1 << 2;

super::pod! { Op = 16, Block = 64, MapPlan = 64 }

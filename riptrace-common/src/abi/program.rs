//! What the kernel side is told: the maps' contents.
//!
//! A hit is captured like this. The *root chunk* is filled first: the register file, then the site's [`Window`]s
//! (runs of stack bytes, constant words) at offsets chosen when the plan was made. From then on there is one rule
//! only: chunks are scanned in the order in which they were written; for every element of a chunk, every [`Slot`] of
//! its [`Type`] is visited; a slot names a word that points somewhere, how many elements of which type are there, and
//! the copy of those is appended as a new chunk. The root chunk has a type too, whose slots name register words and
//! window words. So breadth comes first, each byte is copied once, and nothing here knows Go or DWARF.
//!
//! Offsets called *root offsets* count from the first byte of the root chunk's data.

/// One armed address. Map `SITES`, by index; the uprobe's cookie is `index | generation << 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Site {
    /// Link-time address of the armed instruction. Run-time address minus this is the image's load bias.
    pub link_address: u64,
    /// Index into `TRACEPOINTS`, `STATES` and `COUNTERS`.
    pub tracepoint: u32,
    /// Index into `IMAGES`.
    pub image: u32,
    /// `SITE_*` bits.
    pub flags: u32,
    /// A hit whose cookie carries another generation is not captured (the index was reused); it is not counted either.
    pub generation: u32,
    /// First of this site's entries in `WINDOWS`, and how many.
    pub first_window: u32,
    /// See `first_window`.
    pub windows: u32,
    /// The root chunk's type: an index into `TYPES`.
    pub root_type: u32,
    /// Bytes of the root chunk's data: [`REGISTER_BYTES`] and the windows behind it. At most `MAX_ROOT_BYTES`.
    pub root_bytes: u32,
    /// CFA (canonical frame address) minus SP at this address.
    pub cfa_from_sp: i32,
    /// The condition that hits must fulfil: `first op << 8 | ops` (`condition::Op`); 0: none. At a function's return: not 0
    /// if its entry has one, so that a call that was not decided on is filtered.
    pub condition: u32,
    /// The site's part in the calls of a function: one of `CALL_*`.
    pub call: u8,
    /// 1: a return whose entry was not seen is not captured, since what the entry would have decided is not known.
    pub needs_entry: u8,
    /// Words of the register file that are zero in the record, because they may hold what must not be copied: bit n stands
    /// for the word at root offset `8 * n`. Only of the general registers: [`CLEARABLE_REGISTERS`].
    pub cleared_registers: u16,
    /// Index into `CONTEXTS` plus one; 0: no variable of the site leads to a context.
    pub contexts_plus_one: u32,
    /// Index into `TABLES` plus one; 0: the site has no table, and its root chunk is scanned whole.
    pub table_plus_one: u32,
    /// Operations of the table; at most [`TABLE_OPS`].
    pub table_ops: u16,
    /// The first of the root type's slots that the table does not stand for; [`NO_SLOT`]: it stands for all of them (or
    /// there are none).
    pub first_walked_slot: u16,
    /// With `SITE_BEHIND_FAULT`: how far below this address the faulting instruction is that the site stands for.
    pub above_fault: i32,
    /// With `SITE_AT_BRANCH`: the condition code of x86 that must hold; see [`condition_holds`].
    pub branch_condition: u32,
}

/// The words of the register file that values of a program can be in: all but the stack pointer, the program counter and
/// what belongs to the processor. Bits as in `Site::cleared_registers`.
pub const CLEARABLE_REGISTERS: u16 = (1 << (register::ORIG_RAX / 8)) - 1;

/// The site has nothing to do with calls.
pub const CALL_NONE: u8 = 0;
/// A call begins here: once its hit is written, the call is open.
pub const CALL_ENTRY: u8 = 1;
/// A call ends here: its hit says how long the call took, if its entry's hit was written.
pub const CALL_RETURN: u8 = 2;
/// In `runtime.recovery`, where it calls `runtime.gogo` with the address of a `gobuf` at SP: every open call of the
/// goroutine whose frame lies below `gobuf.sp` ends by a panic. No hit of the tracepoint by itself: not counted.
pub const CALL_RECOVERY: u8 = 3;
/// In `runtime.Goexit`, where nothing is left to do for the goroutine: every open call of it ends. Not counted.
pub const CALL_GOEXIT: u8 = 4;

/// Calls of one set of the map `CALLS`.
pub const CALLS_PER_SET: usize = 8;

/// A call whose entry was seen and that has not ended, or the head of a goroutine's chain of such calls. Map `CALLS`
/// holds sets of [`CALLS_PER_SET`]; the hash of (process, goroutine, frame) names the set. Private to the kernel side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// 0: free; 1: being changed; else the hash of the call.
    pub owner: u64,
    /// Goroutine id.
    pub goid: u64,
    /// `g.stack.hi` minus the CFA; all ones: the head of a chain.
    pub frame: u64,
    /// When the entry's hit was done.
    pub entered_ns: u64,
    /// The entry's `record::Header::seq`.
    pub entry_seq: u64,
    /// Process.
    pub tgid: u32,
    /// Index into `TRACEPOINTS`.
    pub tracepoint: u32,
    /// The entry's site and its generation.
    pub site: u32,
    /// See `site`.
    pub generation: u32,
    /// Number of the next open call outwards in the same goroutine, plus one; in a head: of the innermost one. 0: none.
    pub outer: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// A set of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CallSet {
    /// In no order.
    pub calls: [Call; CALLS_PER_SET],
}

/// What became of a tracepoint's calls. Map `CALL_STATES`. All fields change by atomic operations only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CallState {
    /// Calls whose entry's hit was written.
    pub opened: u64,
    /// Of these, those whose end was seen.
    pub closed: u64,
    /// Of these, those that were forgotten because the table was full: their ends are `filtered`.
    pub given_up: u64,
    /// Not zero: some entry was not captured, so a return without an entry need not be one of a call that began before
    /// the tracepoint was armed.
    pub rejected: u64,
}

/// The site is armed. A cleared bit means: do nothing, count nothing.
pub const SITE_ENABLED: u32 = 1 << 0;
/// The CFA is known (`cfa_from_sp` is valid), so that a stack can be walked from it.
pub const SITE_HAS_CFA: u32 = 1 << 1;
/// Values whose type no plan names are not copied (`TYPE_UNKNOWN`): they may hold what must not be.
pub const SITE_REDACTS: u32 = 1 << 2;
/// The address is where the runtime goes on behind a fault. It is hit only if the return address at SP, which is the
/// faulting instruction's, is the one that `Site::above_fault` says.
pub const SITE_BEHIND_FAULT: u32 = 1 << 3;
/// The instruction is a conditional branch, and only one of its ways leads to the location: it is hit only if
/// `Site::branch_condition` holds. Otherwise the tracepoint's `Counters::passed` grows.
pub const SITE_AT_BRANCH: u32 = 1 << 4;
/// The site is one of those that a tracepoint has instead of its first ones since it moved (`TRACEPOINT_MOVED`).
pub const SITE_AFTER_MOVE: u32 = 1 << 5;

/// Whether a condition code holds (the low four bits of a `jcc`'s opcode: Intel SDM, volume 1, appendix B; an odd one is
/// the opposite of the even one below it), by the processor's flags.
#[inline(always)]
#[must_use]
pub const fn condition_holds(condition: u32, flags: u64) -> bool {
    let carry = flags & 1;
    let parity = flags >> 2 & 1;
    let zero = flags >> 6 & 1;
    let sign = flags >> 7 & 1;
    let overflow = flags >> 11 & 1;
    let holds = match condition >> 1 & 7 {
        0 => overflow,
        1 => carry,
        2 => zero,
        3 => carry | zero,
        4 => sign,
        5 => parity,
        6 => sign ^ overflow,
        _ => zero | (sign ^ overflow),
    };
    holds != condition as u64 & 1
}

/// A register file is this many bytes at the start of every root chunk: the words of x86-64 `pt_regs` in the kernel's
/// order, each 8 bytes.
pub const REGISTER_BYTES: u32 = 21 * 8;

/// Root offsets of the registers (x86-64 `struct pt_regs`, arch/x86/include/asm/ptrace.h).
pub mod register {
    #![expect(missing_docs, reason = "the names are the registers")]
    pub const R15: u32 = 0;
    pub const R14: u32 = 8;
    pub const R13: u32 = 16;
    pub const R12: u32 = 24;
    pub const RBP: u32 = 32;
    pub const RBX: u32 = 40;
    pub const R11: u32 = 48;
    pub const R10: u32 = 56;
    pub const R9: u32 = 64;
    pub const R8: u32 = 72;
    pub const RAX: u32 = 80;
    pub const RCX: u32 = 88;
    pub const RDX: u32 = 96;
    pub const RSI: u32 = 104;
    pub const RDI: u32 = 112;
    pub const ORIG_RAX: u32 = 120;
    pub const RIP: u32 = 128;
    pub const CS: u32 = 136;
    pub const FLAGS: u32 = 144;
    pub const RSP: u32 = 152;
    pub const SS: u32 = 160;
}

/// A run of bytes copied into the root chunk before anything is followed. Map `WINDOWS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Window {
    /// Added to the base: bytes from SP, or a link-time address.
    pub offset: i64,
    /// One of `WINDOW_*`.
    pub base: u32,
    /// Where in the root chunk the bytes go; a multiple of 8, at least [`REGISTER_BYTES`].
    pub root_offset: u32,
    /// How many bytes; at most `MAX_ROOT_BYTES`.
    pub bytes: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Copy `bytes` from SP + offset.
pub const WINDOW_STACK: u32 = 0;
/// Copy `bytes` from the image's load bias + offset (a package variable).
pub const WINDOW_IMAGE: u32 = 1;
/// Write the 8-byte address load bias + offset itself (so that a slot can follow it).
pub const WINDOW_IMAGE_ADDRESS: u32 = 2;
/// Write the 8-byte address SP + offset itself.
pub const WINDOW_STACK_ADDRESS: u32 = 3;

/// How elements of a chunk are scanned. Map `TYPES`, by index. Index 0 is the type without slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Type {
    /// Bytes of one element.
    pub bytes: u32,
    /// First of this type's entries in `SLOTS`, and how many.
    pub first_slot: u32,
    /// See `first_slot`. At most `MAX_SLOTS_PER_TYPE`.
    pub slots: u32,
    /// `TYPE_*` bits.
    pub flags: u32,
}

/// A chunk of this type is re-read after the walk; when its first `TORN_CHECK_BYTES` changed, it is marked torn.
pub const TYPE_TORN_CHECK: u32 = 1 << 0;

/// Not every byte of an element is copied: the [`Type::kept`] entries of `SLOTS` behind the type's slots say which are
/// (`Slot::count` bytes at `Slot::word`). The others are never read, and zero in the chunk.
pub const TYPE_HAS_HOLES: u32 = 1 << 1;

impl Type {
    /// How many runs of bytes are copied of an element with `TYPE_HAS_HOLES`; at most `MAX_KEPT_PER_TYPE`.
    #[inline(always)]
    #[must_use]
    pub fn kept(&self) -> u32 {
        self.flags >> 16
    }
}

/// A word that leads somewhere. Map `SLOTS`.
///
/// `word` and `count` are offsets from the start of the element (for the root type: root offsets). The slot stands for
/// `repeat` slots, each `stride` bytes further than the one before (both offsets move).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Offset of the pointer; for `ACTION_INTERFACE` and `ACTION_EMPTY_INTERFACE` of the itab or type word.
    pub word: u32,
    /// Offset of what `count_rule` needs; for the interface actions, of the data word.
    pub count: u32,
    /// Index into `TYPES` of what is pointed at (`ACTION_FOLLOW` only).
    pub target: u32,
    /// Elements that are copied at the most when `limit` is `LIMIT_FIXED`.
    pub max_count: u32,
    /// Bytes from one repetition to the next.
    pub stride: u32,
    /// Repetitions, at least 1.
    pub repeat: u32,
    /// One of `ACTION_*`.
    pub action: u8,
    /// One of `COUNT_*`.
    pub count_rule: u8,
    /// One of `LIMIT_*`.
    pub limit: u8,
    /// 1: what is found is one level deeper than the element; 0: as deep (a string's bytes, a map's buckets).
    pub deeper: u8,
    /// Offset, plus one, of the string in the element that must be one of `ALLOWED_KEYS` for the slot to be followed: the
    /// key of a map's entry. It does not move with the repetitions. 0: there is no condition.
    pub guard: u32,
}

/// Bytes of the longest key in the map `ALLOWED_KEYS`.
pub const MAX_ALLOWED_KEY_BYTES: usize = 64;

/// The name of a map's key in the map `ALLOWED_KEYS`, whose values are the keys' lengths: a hash of its first
/// [`MAX_ALLOWED_KEY_BYTES`] bytes, zeros behind its end, ASCII letters in lower case.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    let mut padded = [0u8; MAX_ALLOWED_KEY_BYTES];
    for (to, from) in padded.iter_mut().zip(key) {
        *to = *from;
    }
    let mut hash = KEY_HASH_START;
    for word in padded.as_chunks::<8>().0 {
        hash = key_hash_step(hash, u64::from_le_bytes(*word));
    }
    hash
}

/// See [`key_hash`].
pub const KEY_HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// The hash with the key's next eight bytes, the first of them lowest. See [`key_hash`].
///
/// Eight bytes at a time and without a branch: the verifier of Linux 6.1 follows both ways of each, for each byte.
#[inline(always)]
#[must_use]
pub fn key_hash_step(hash: u64, word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let without_top = word & (0x7f * EACH);
    // The top bit of a byte says that it is at least `A`, or that it is above `Z`.
    let from_a = without_top + (0x80 - b'A' as u64) * EACH;
    let above_z = without_top + (0x7f - b'Z' as u64) * EACH;
    let is_upper = (from_a ^ above_z) & !word & (0x80 * EACH);
    let mixed = (hash ^ (word | is_upper >> 2)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// See `Site::first_walked_slot`.
pub const NO_SLOT: u16 = u16::MAX;

/// What is copied for a site without scanning chunks: the simple slots of its root chunk, and those of what they lead to,
/// one operation each. Map `TABLES`. It saves the scan, no more: what it copies are the same chunks, and chunks that
/// have slots it does not stand for are scanned after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// In the order in which a scan would visit them.
    pub ops: [TableOp; TABLE_OPS],
}

/// Operations of one table.
pub const TABLE_OPS: usize = 16;

/// A slot whose chunk is known when the plan is made. Fields as in [`Slot`] and [`Type`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableOp {
    /// `Slot::word`.
    pub word: u16,
    /// `Slot::count`.
    pub count: u16,
    /// `Slot::target`.
    pub target: u32,
    /// `Type::bytes` of the target.
    pub bytes: u32,
    /// `Slot::max_count`; with another limit than `LIMIT_FIXED` the largest number.
    pub max_count: u32,
    /// Where the slot is: 0: in the root chunk, n: in the chunk of operation n - 1.
    pub from: u8,
    /// `Slot::action`: `ACTION_FOLLOW` (with `COUNT_ONE` or `COUNT_WORD`), `ACTION_INTERFACE`, `ACTION_EMPTY_INTERFACE`. If
    /// the type that an interface holds has one simple slot, that is followed at once.
    pub action: u8,
    /// `Slot::count_rule`.
    pub count_rule: u8,
    /// `Slot::limit`.
    pub limit: u8,
    /// Levels of pointers from the root to what is copied.
    pub depth: u8,
    /// `OP_*` bits.
    pub flags: u8,
    /// Reserved, zero.
    pub reserved: u16,
}

/// What the operation copies has slots that the table does not stand for: it is scanned.
pub const OP_SCAN: u8 = 1 << 0;
/// `ACTION_FOLLOW` without other bits: all that it copies is said by the operation itself.
pub const OP_PLAIN: u8 = 1 << 1;

/// Copy `count` elements of `target` from where the word points.
pub const ACTION_FOLLOW: u8 = 0;
/// Non-empty interface: word → itab, whose second word is the runtime type; look it up in `DYNAMIC`.
pub const ACTION_INTERFACE: u8 = 1;
/// `interface {}`: the word is the runtime type; look it up in `DYNAMIC`.
pub const ACTION_EMPTY_INTERFACE: u8 = 2;
/// Func value: word → closure object, whose first word is the code address; look it up in `DYNAMIC`. A closure that is
/// not found is copied as its first word alone (type `TYPE_CLOSURE_WORD`).
pub const ACTION_FUNC: u8 = 3;

/// A value of a type parameter's type: the word is the address of the function's dictionary, whose word number
/// `max_count` is the runtime type; the word at `count` leads to the value as an interface's data word does. Look the type
/// up in `DYNAMIC`.
pub const ACTION_DICTIONARY: u8 = 4;

/// Exactly one element.
pub const COUNT_ONE: u8 = 0;
/// The signed 64-bit word at `count`; less than one: nothing to follow.
pub const COUNT_WORD: u8 = 1;
/// `1 << (byte at count)` (a classic map's `B`).
pub const COUNT_POWER_OF_TWO: u8 = 2;
/// The 64-bit word at `count` plus one (a Swiss table's `lengthMask`).
pub const COUNT_MASK_PLUS_ONE: u8 = 3;
/// One if the 64-bit word at `count` is zero, else nothing (a small Swiss map: `dirLen` is 0).
pub const COUNT_ONE_IF_ZERO: u8 = 4;
/// A classic map's old buckets: `count` is `B`, the byte before it is `flags`; `1 << B` when `flags & 8` (same-size
/// growth), else `1 << (B - 1)` (runtime/map.go, `noldbuckets`).
pub const COUNT_OLD_BUCKETS: u8 = 5;

/// At most the tracepoint's `max_items` elements.
pub const LIMIT_ITEMS: u8 = 0;
/// At most the tracepoint's `max_string` elements (bytes of a string).
pub const LIMIT_STRING: u8 = 1;
/// At most the slot's `max_count` elements.
pub const LIMIT_FIXED: u8 = 2;

/// `TYPES[0]`: no slots, elements of one byte.
pub const TYPE_BYTES: u32 = 0;
/// Chunk type of a closure whose code is not in `DYNAMIC`: its first word, no slots. `TYPES[1]`.
pub const TYPE_CLOSURE_WORD: u32 = 1;
/// Chunk type of a value whose runtime type is not in `DYNAMIC`: its raw bytes, as long as `abi.Type.Size_` says. The
/// agent decodes it by its type word. `TYPES[2]`.
pub const TYPE_UNKNOWN: u32 = 2;
/// Chunk type of the type word behind an itab (8 bytes, the `*abi.Type`), so that the agent knows the dynamic type
/// without reading the process. The chunk's address is the itab's, its data the itab's second word. `TYPES[3]`.
pub const TYPE_ITAB: u32 = 3;
/// Chunk type of a span context that was found for the hit (`context::Span`), without an address. `TYPES[4]`.
pub const TYPE_SPAN: u32 = 4;
/// The first index that plans may use.
pub const TYPE_FIRST: u32 = 16;

/// Key of the map `DYNAMIC`.
///
/// An itab of the binary never changes, so that it may be a key: with it the runtime type is known without reading the
/// itab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DynamicKey {
    /// Link-time address of the `abi.Type`, of a closure's code, or of an itab.
    pub link_address: u64,
    /// Index into `IMAGES`.
    pub image: u32,
    /// One of `DYNAMIC_TYPE`, `DYNAMIC_CODE`, `DYNAMIC_ITAB`, `DYNAMIC_CONTEXT`.
    pub kind: u32,
}

/// The key is a runtime type.
pub const DYNAMIC_TYPE: u32 = 0;
/// The key is a closure's code.
pub const DYNAMIC_CODE: u32 = 1;
/// The key is an itab; the value is that of its runtime type.
pub const DYNAMIC_ITAB: u32 = 2;
/// The key is an itab of `context.Context` or a runtime type; the value says how it leads to a span (`super::context`).
pub const DYNAMIC_CONTEXT: u32 = 3;

/// Value of the map `DYNAMIC`: what the data word of an interface (or a func value) leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Dynamic {
    /// Index into `TYPES`: of the value itself when it is stored indirectly, of what the data word points at when the
    /// dynamic type is a pointer, a map or a channel; of the closure object for `DYNAMIC_CODE`.
    pub target: u32,
    /// One of `DYNAMIC_FOLLOW`, `DYNAMIC_FUNC`, `DYNAMIC_NOTHING`; with `DYNAMIC_CONTEXT` one of `context::CONTEXT_*`.
    pub how: u32,
}

/// Copy one element of `target` from where the data word points.
pub const DYNAMIC_FOLLOW: u32 = 0;
/// The data word is a func value.
pub const DYNAMIC_FUNC: u32 = 1;
/// The data word is the value (an `unsafe.Pointer`) or the value has no bytes.
pub const DYNAMIC_NOTHING: u32 = 2;

/// What holds for all sites of one tracepoint. Map `TRACEPOINTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tracepoint {
    /// `TRACEPOINT_*` bits.
    pub flags: u32,
    /// Only this process (thread group id in the initial pid namespace); 0: see `TRACEPOINT_PROCESS_SET`.
    pub tgid: u32,
    /// Hits a second of the kernel's monotonic clock; 0: no limit.
    pub rate_per_second: u32,
    /// Frames of the call stack that are recorded; 0: none.
    pub stack_frames: u32,
    /// Records in all; 0: no limit.
    pub limit: u64,
    /// Levels of pointers that are followed.
    pub max_depth: u32,
    /// Bytes of a string.
    pub max_string: u32,
    /// Elements of a slice, channel buffer, map directory.
    pub max_items: u32,
    /// Bytes of a record; at most `MAX_RECORD_BYTES`.
    pub max_bytes: u32,
    /// The tracepoint whose `State::limit_taken` counts towards `limit`, plus one; 0: its own. So that several
    /// tracepoints share one limit.
    pub limit_owner_plus_one: u32,
    /// A hit is let through when a random 32-bit number is below this; 0: every hit.
    pub sample_threshold: u32,
}

/// The tracepoint is armed.
pub const TRACEPOINT_ENABLED: u32 = 1 << 0;
/// Only processes in the map `PROCESSES`.
pub const TRACEPOINT_PROCESS_SET: u32 = 1 << 1;
/// Hits are captured by their sites' reduced plans (map `REDUCED`), without a stack.
pub const TRACEPOINT_REDUCED: u32 = 1 << 2;
/// Hits are counted and throttled, nothing else.
pub const TRACEPOINT_COUNT_ONLY: u32 = 1 << 3;
/// What would be captured is counted in `Counters::would_capture` and throttled.
pub const TRACEPOINT_DRY_RUN: u32 = 1 << 4;
/// The hits of its later sites (`SITE_AFTER_MOVE`) count, and those of its first ones do not any more.
pub const TRACEPOINT_MOVED: u32 = 1 << 5;

/// Value of the map `REDUCED` (by site index) for a site without a reduced plan, whose hits are then throttled. Other
/// values are the index of the site with the reduced plan (which is armed nowhere) plus one.
pub const NO_REDUCED_SITE: u32 = 0;

/// Key of the set `PROCESSES` (its values are one zero byte).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ProcessKey {
    /// Index into `TRACEPOINTS`.
    pub tracepoint: u32,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
}

/// What the kernel side keeps of a tracepoint across hits. Map `STATES`. All fields change by atomic operations only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// `second << 32 | hits let through in it`, where second is the kernel's monotonic clock in whole seconds.
    pub rate_window: u64,
    /// Slots of `Tracepoint::limit` that are taken. A slot whose record could not be written is given back.
    pub limit_taken: u64,
    /// The next record's `seq`.
    pub next_seq: u64,
    /// Reserved, zero.
    pub reserved: u64,
}

/// The outcomes of a tracepoint's hits. Map `COUNTERS`, per CPU. At rest
/// `hits = emitted + filtered + throttled + dropped + failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Times that an enabled site of the tracepoint was reached.
    pub hits: u64,
    /// Records handed to the ring buffer.
    pub emitted: u64,
    /// Another process than was asked for, or a condition that did not hold.
    pub filtered: u64,
    /// Past the rate or the limit.
    pub throttled: u64,
    /// No room in the ring buffer, or no free scratch buffer.
    pub dropped: u64,
    /// The capture could not be made (a map entry was missing, the root chunk could not be filled).
    pub failed: u64,
    /// Nanoseconds that the kernel side ran for this tracepoint's hits, from the moment that it decided to capture. Exact
    /// for a tracepoint's first records; of later ones every 16th is timed and counts for all 16. What
    /// a filtered or throttled hit costs is the trap alone (and 50 to 90 ns, less than measuring it would add).
    pub run_ns: u64,
    /// Throttled hits that would have been captured but for `TRACEPOINT_DRY_RUN`.
    pub would_capture: u64,
    /// Traps that were no hits: a branch was armed (`SITE_AT_BRANCH`) and went the other way.
    pub passed: u64,
}

/// How often a capture took how long: `Counters::run_ns`, hit by hit. Map `COSTS`, per CPU, by tracepoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Costs {
    /// By [`cost_bucket`].
    pub hits: [u32; COST_BUCKETS],
}

/// Buckets of [`Costs`]: four to a doubling, from 256 ns on.
pub const COST_BUCKETS: usize = 32;
/// Captures that are faster fall into the first bucket.
const COST_FIRST_NS_LOG2: u32 = 8;

/// The bucket of a duration.
#[inline(always)]
#[must_use]
pub const fn cost_bucket(ns: u64) -> usize {
    if ns < 1 << COST_FIRST_NS_LOG2 {
        return 0;
    }
    // 32 bits are 4 s: by then the bucket is the last one in any case.
    let ns = if ns > 0xffff_ffff { 0xffff_ffff } else { ns as u32 };
    let log2 = 31 - ns.leading_zeros();
    let quarter = ns >> (log2 - 2) & 3;
    let bucket = ((log2 - COST_FIRST_NS_LOG2) * 4 + quarter) as usize;
    if bucket < COST_BUCKETS { bucket } else { COST_BUCKETS - 1 }
}

/// Nanoseconds below which every duration of a bucket lies (the last bucket has no such bound; this is where the next
/// one would begin).
#[must_use]
pub const fn cost_bucket_end_ns(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    (4 + next % 4) << (COST_FIRST_NS_LOG2 as u64 - 2 + next / 4)
}

/// Where Go keeps things in one binary. Map `IMAGES`. Offsets are in bytes; [`NO_OFFSET`]: this Go has no such field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Image {
    /// `g` relative to the thread's FS base (negative).
    pub tls_g_offset: i64,
    /// `runtime.g.stack.lo`.
    pub g_stack_lo: u32,
    /// `runtime.g.stack.hi`.
    pub g_stack_hi: u32,
    /// `runtime.g.m`.
    pub g_m: u32,
    /// `runtime.g.goid`.
    pub g_goid: u32,
    /// `runtime.g.parentGoid` (Go ≥ 1.21).
    pub g_parent_goid: u32,
    /// `runtime.g.gopc`.
    pub g_gopc: u32,
    /// `runtime.m.curg`.
    pub m_curg: u32,
    /// `runtime.m.g0`.
    pub m_g0: u32,
    /// `IMAGE_*` bits.
    pub flags: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// The offsets are valid: goroutines can be named.
pub const IMAGE_HAS_RUNTIME: u32 = 1 << 0;
/// `tls_g_offset` is valid.
pub const IMAGE_HAS_TLS: u32 = 1 << 1;
/// The field does not exist in this version of Go.
pub const NO_OFFSET: u32 = u32::MAX;

super::pod! {
    Site = 72, Window = 24, Type = 16, Slot = 32, DynamicKey = 16, Dynamic = 8, Tracepoint = 48, ProcessKey = 8,
    TableOp = 24, Table = 384, State = 32, Counters = 72, Costs = 128, Image = 48, Call = 64, CallSet = 512,
    CallState = 32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every condition code against what it says of two numbers that were compared.
    #[test]
    fn conditions_hold_as_the_processor_has_them() {
        for a in i8::MIN..=i8::MAX {
            for b in i8::MIN..=i8::MAX {
                let (left, right) = (a.cast_unsigned(), b.cast_unsigned());
                let result = left.wrapping_sub(right);
                let overflow = a.checked_sub(b).is_none();
                let sign = result >= 0x80;
                let parity = result.count_ones() % 2 == 0;
                let bit = |holds: bool, at: u32| u64::from(holds) << at;
                // Bits that are always set or mean something else must not matter.
                let flags = 0x202
                    | bit(left < right, 0)
                    | bit(parity, 2)
                    | bit(result == 0, 6)
                    | bit(sign, 7)
                    | bit(overflow, 11);
                let holds = [overflow, left < right, a == b, left <= right, sign, parity, a < b, a <= b];
                for (code, holds) in (0..).step_by(2).zip(holds) {
                    assert_eq!(condition_holds(code, flags), holds, "{code} {a} {b}");
                    assert_eq!(condition_holds(code + 1, flags), !holds, "{code} {a} {b}");
                }
            }
        }
    }

    #[test]
    fn a_key_s_hash_does_not_depend_on_the_case_of_its_letters() {
        for byte in 0..=u8::MAX {
            let same = key_hash(&[byte]) == key_hash(&[byte.to_ascii_lowercase()]);
            assert!(same, "{byte}");
        }
        assert_eq!(key_hash(b"Content-TYPE"), key_hash(b"content-type"));
        assert_ne!(key_hash(b"@["), key_hash(b"`{"));
    }

    #[test]
    fn a_duration_lies_below_its_bucket_s_end_and_not_below_the_one_before() {
        for ns in (0..70_000).chain([1 << 20, u64::from(u32::MAX), u64::MAX]) {
            let bucket = cost_bucket(ns);
            assert!(bucket < COST_BUCKETS);
            assert!(bucket == COST_BUCKETS - 1 || ns < cost_bucket_end_ns(bucket), "{ns}");
            assert!(bucket == 0 || ns >= cost_bucket_end_ns(bucket - 1), "{ns}");
        }
        assert_eq!((cost_bucket(256), cost_bucket(319), cost_bucket(320)), (0, 0, 1));
        assert_eq!(cost_bucket_end_ns(COST_BUCKETS - 1), 65_536);
    }
}

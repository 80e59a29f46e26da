//! Whether a hit fulfils its site's condition. `riptrace_common::condition` executes the ops; here are its words (the
//! trapped thread's registers first), its reads of the target's memory, and what takes loops: strings and maps.

use aya_ebpf::bindings::pt_regs;
use riptrace_common::{
    abi::{
        condition::{
            BLOCK_BYTES, Block, MAX_COMPARED_BLOCKS, MAX_OPS, MAX_SEARCHED_BYTES, OP_IMMEDIATE,
            OP_STRING_CONTAINS, OP_STRING_EQUAL, OP_STRING_LESS_EQUAL, OP_STRING_PREFIX, Op,
            SMALLEST_POINTER, TARGET_BUSY, TARGET_FAIL, WORD_BIAS, WORD_REGISTERS, WORD_SP, WORDS,
        },
        program::{Site, register},
    },
    condition::{Machine, Step, step},
};

use crate::{
    find,
    maps::{CONDITIONS, CONSTANTS, CPUS, JUDGEMENTS, Judgement, MAX_SCRATCH_PER_CPU, SCRATCH_PER_CPU, Text},
    raw,
};

const WORD_MASK: i32 = WORDS as i32 - 1;
/// Of a byte, and of a word, in a block.
const BLOCK_MASK: i32 = BLOCK_BYTES as i32 - 1;
const BLOCK_WORD_MASK: i32 = 7;

/// Decides; gives one of `TARGET_*`.
///
/// Inlined: from here on calls are seven deep, and a program has eight frames.
#[inline(always)]
pub(crate) fn decide(context: *mut pt_regs, site: &Site) -> u16 {
    let Some(judgement) = acquire() else { return TARGET_BUSY };
    // SAFETY: acquired above, released below.
    unsafe {
        let words = (&raw mut (*judgement).words).cast::<u64>();
        macro_rules! registers {
            ($($index:literal)*) => {$(
                const _: () = assert!($index < WORD_REGISTERS && register::RDI as usize == (WORD_REGISTERS - 1) * 8);
                // The context has all registers; volatile, since the verifier wants constant offsets from it.
                words.add($index).write_volatile(context.cast::<u64>().add($index).read_volatile());
            )*};
        }
        registers!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
        let word = |offset: u32| context.cast::<u64>().add(offset as usize / 8).read_volatile();
        words.add(WORD_SP as usize).write_volatile(word(register::RSP));
        words.add(WORD_BIAS as usize).write_volatile(word(register::RIP).wrapping_sub(site.link_address));
        let target = riptrace_condition(judgement, site.condition >> 8, site.condition & 0xff) as u16;
        (&raw mut (*judgement).busy).write_volatile(0);
        target
    }
}

/// Executes a condition's ops.
///
/// A global function, like the others here: the verifier goes through each once, by itself, and not once for each step.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_condition(judgement: *mut Judgement, first: u32, ops: u32) -> u64 {
    let mut at = 0u32;
    for _ in 0..MAX_OPS {
        if at >= ops || judgement.is_null() {
            break;
        }
        let next = riptrace_condition_step(judgement, first.wrapping_add(at)) as u32;
        at = if next == NEXT { at + 1 } else { next };
        if at >= TARGET_BUSY.into() {
            return at.into();
        }
    }
    TARGET_FAIL.into()
}

/// What a step gives that does not branch: no target.
const NEXT: u32 = 1 << 16;

/// Executes one op; gives the op that follows, `NEXT`, or one of `TARGET_*`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_condition_step(judgement: *mut Judgement, op: u32) -> u64 {
    if judgement.is_null() {
        return TARGET_FAIL.into();
    }
    let Some(op) = CONDITIONS.get(op) else { return TARGET_FAIL.into() };
    match step(&mut Trapped { judgement }, op) {
        Step::Next => NEXT.into(),
        Step::Go(target) => target.into(),
    }
}

/// The trapped thread.
struct Trapped {
    judgement: *mut Judgement,
}

impl Trapped {
    #[inline(always)]
    fn at(&self, index: u8) -> *mut u64 {
        // SAFETY: the masked index is within the words.
        unsafe {
            let words = (&raw mut (*self.judgement).words).cast::<u64>();
            words.add(raw::mask::<WORD_MASK>(index.into()) as usize)
        }
    }
}

impl Machine for Trapped {
    #[inline(always)]
    fn word(&self, index: u8) -> u64 {
        // SAFETY: `at`'s.
        unsafe { self.at(index).read_volatile() }
    }

    #[inline(always)]
    fn set(&mut self, index: u8, value: u64) {
        // SAFETY: `at`'s.
        unsafe { self.at(index).write_volatile(value) }
    }

    #[inline(always)]
    fn read(&mut self, address: u64, bytes: u32) -> Option<u64> {
        let mut value = 0u64;
        let bytes = raw::mask::<7>(u64::from(bytes).wrapping_sub(1)) as u32 + 1;
        // SAFETY: one to eight bytes of eight on the stack.
        unsafe { raw::probe_read_user((&raw mut value).cast(), bytes, address) }.then_some(value)
    }

    #[inline(always)]
    fn strings(&mut self, op: &Op) -> u32 {
        let (left, left_length) = (self.word(op.left), self.word(op.left.wrapping_add(1)));
        if op.code == OP_STRING_CONTAINS {
            return riptrace_contains(self.judgement, left, left_length, op.immediate) as u32;
        }
        let constant = op.flags & OP_IMMEDIATE != 0;
        let (mut right, right_length) = if constant {
            (op.immediate >> 32, op.immediate & 0xffff_ffff)
        } else {
            (self.word(op.right), self.word(op.right.wrapping_add(1)))
        };
        if constant {
            right |= CONSTANT;
        }
        if op.code == OP_STRING_EQUAL && left_length != right_length {
            return 0;
        }
        let mut compared = left_length;
        if op.code == OP_STRING_PREFIX {
            if left_length < right_length {
                return 0;
            }
            compared = right_length;
        }
        let order = riptrace_compare(self.judgement, left, compared, right, right_length) as u32;
        if order > AFTER {
            return order;
        }
        if op.code <= OP_STRING_PREFIX {
            return (order == SAME).into();
        }
        let before = order == BEFORE || (order == SAME && left_length < right_length);
        let same = order == SAME && left_length == right_length;
        (before || (same && op.code == OP_STRING_LESS_EQUAL)).into()
    }

    #[inline(always)]
    fn find(&mut self, op: &Op) -> Result<u64, u16> {
        let key = Text { address: self.word(op.right), length: self.word(op.right.wrapping_add(1)) };
        // SAFETY: the caller acquired it.
        unsafe { (&raw mut (*self.judgement).search.key).write_volatile(key) };
        let found = find::riptrace_find(self.judgement, self.word(op.left), (op.immediate >> 32) as u32);
        if found & find::ENDED == 0 { Ok(found) } else { Err(found as u16) }
    }
}

/// The right string is a constant: the rest of the word is its first block. No address of a process has this bit.
pub(crate) const CONSTANT: u64 = 1 << 63;

pub(crate) const SAME: u32 = 0;
const BEFORE: u32 = 1;
pub(crate) const AFTER: u32 = 2;

/// Compares strings in the order of their bytes, padded with zeros to the same length.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn riptrace_compare(
    judgement: *mut Judgement,
    left: u64,
    left_length: u64,
    right: u64,
    right_length: u64,
) -> u64 {
    if judgement.is_null() {
        return TARGET_FAIL.into();
    }
    // SAFETY: the caller acquired it.
    unsafe {
        (&raw mut (*judgement).left_text).write_volatile(Text { address: left, length: left_length });
        (&raw mut (*judgement).right_text).write_volatile(Text { address: right, length: right_length });
    }
    for block in 0..MAX_COMPARED_BLOCKS {
        let order = riptrace_compare_block(judgement, block) as u32;
        if order != SAME {
            return if order == END { SAME.into() } else { order.into() };
        }
    }
    let seen = u64::from(MAX_COMPARED_BLOCKS) * BLOCK_BYTES as u64;
    if left_length <= seen && right_length <= seen { SAME.into() } else { TARGET_FAIL.into() }
}

/// Neither string goes on.
const END: u32 = 3;

/// Compares one block of the strings in the judgement.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_compare_block(judgement: *mut Judgement, block: u32) -> u64 {
    if judgement.is_null() || block >= MAX_COMPARED_BLOCKS {
        return TARGET_FAIL.into();
    }
    let at = u64::from(block) * BLOCK_BYTES as u64;
    // SAFETY: the caller acquired it.
    unsafe {
        let (left, right) = ((*judgement).left_text, (*judgement).right_text);
        if at >= left.length && at >= right.length {
            return END.into();
        }
        let (to_left, to_right) = (&raw mut (*judgement).left, &raw mut (*judgement).right);
        if !piece(to_left, left.address, left.length, at) {
            return TARGET_FAIL.into();
        }
        if right.address & CONSTANT == 0 {
            if !piece(to_right, right.address, right.length, at) {
                return TARGET_FAIL.into();
            }
        } else {
            let Some(constant) = CONSTANTS.get(right.address as u32 + block) else {
                return TARGET_FAIL.into();
            };
            let (from, to) = ((&raw const constant.words).cast::<u64>(), to_right.cast::<u64>());
            for word in 0..BLOCK_BYTES / 8 {
                // Behind a constant shorter than its last block are zeros.
                let inside = at + word as u64 * 8 < right.length;
                to.add(word).write_volatile(if inside { from.add(word).read_volatile() } else { 0 });
            }
        }
        for word in 0..BLOCK_BYTES / 8 {
            let left = to_left.cast::<u64>().add(word).read_volatile().swap_bytes();
            let right = to_right.cast::<u64>().add(word).read_volatile().swap_bytes();
            if left != right {
                return if left < right { BEFORE.into() } else { AFTER.into() };
            }
        }
    }
    SAME.into()
}

/// Copies the 64 bytes of a string from `at` on, as far as it has them.
#[inline(always)]
unsafe fn piece(to: *mut Block, address: u64, length: u64, at: u64) -> bool {
    // SAFETY: the caller's; at most 64 bytes are written.
    unsafe {
        for word in 0..BLOCK_BYTES / 8 {
            to.cast::<u64>().add(word).write_volatile(0);
        }
        if at >= length {
            return true;
        }
        let left = length - at;
        if address < SMALLEST_POINTER {
            return false;
        }
        if left >= BLOCK_BYTES as u64 {
            return raw::probe_read_user(to.cast(), BLOCK_BYTES as u32, address.wrapping_add(at));
        }
        raw::probe_read_user(to.cast(), raw::mask::<BLOCK_MASK>(left) as u32, address.wrapping_add(at))
    }
}

/// Looks for a constant in a string: after each byte, bit n of the state says that the n + 1 bytes up to it are the
/// constant's first ones (Baeza-Yates and Gonnet, "A new approach to text searching", 1992).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_contains(judgement: *mut Judgement, address: u64, length: u64, constant: u64) -> u64 {
    if judgement.is_null() {
        return TARGET_FAIL.into();
    }
    // SAFETY: the caller acquired it.
    unsafe {
        (&raw mut (*judgement).left_text).write_volatile(Text { address, length });
        (&raw mut (*judgement).right_text).write_volatile(Text { address: constant, length: 0 });
    }
    for block in 0..MAX_SEARCHED_BYTES / BLOCK_BYTES as u32 {
        if u64::from(block) * BLOCK_BYTES as u64 >= length {
            return 0;
        }
        let found = riptrace_contains_block(judgement, block);
        if found != 0 {
            return found;
        }
    }
    if u64::from(MAX_SEARCHED_BYTES) >= length { 0 } else { TARGET_FAIL.into() }
}

/// Looks in one block of the string; `Text::length` of the right one is the state.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_contains_block(judgement: *mut Judgement, block: u32) -> u64 {
    if judgement.is_null() {
        return TARGET_FAIL.into();
    }
    // SAFETY: the caller acquired it; a block has 64 bytes and eight words.
    unsafe {
        let (text, constant) = ((*judgement).left_text, (*judgement).right_text);
        let at = u64::from(block) * BLOCK_BYTES as u64;
        let buffer = &raw mut (*judgement).left;
        if !piece(buffer, text.address, text.length, at) {
            return TARGET_FAIL.into();
        }
        let first = (constant.address >> 32) as u32;
        let last = constant.address.wrapping_sub(1) & 63;
        let left = text.length.wrapping_sub(at);
        let mut state = constant.length;
        // A bit for each byte: a branch in the loop would double what the verifier goes through at each turn.
        let mut seen = 0;
        for byte in 0..BLOCK_BYTES {
            let value = buffer.cast::<u8>().add(byte).read_volatile();
            let Some(places) = CONSTANTS.get(first.wrapping_add(u32::from(value) >> 3)) else {
                return TARGET_FAIL.into();
            };
            let word = raw::mask::<BLOCK_WORD_MASK>(value.into()) as usize;
            let places = (&raw const places.words).cast::<u64>().add(word).read_volatile();
            state = (state << 1 | 1) & places;
            seen |= (state >> last & 1) << byte;
        }
        (&raw mut (*judgement).right_text.length).write_volatile(state);
        // Behind the string's end nothing is found: a constant may have zeros too.
        let within = if left < BLOCK_BYTES as u64 { (1 << left) - 1 } else { u64::MAX };
        u64::from(seen & within != 0)
    }
}

/// A buffer of this CPU that no other hit uses.
#[inline(always)]
fn acquire() -> Option<*mut Judgement> {
    let (cpus, buffers) = (CPUS.load(), SCRATCH_PER_CPU.load());
    let mut index = raw::cpu();
    for nested in 0..MAX_SCRATCH_PER_CPU {
        if nested >= buffers {
            break;
        }
        let judgement = JUDGEMENTS.get_ptr_mut(index)?;
        // SAFETY: a valid map value; `busy` is its first, aligned word.
        if unsafe { raw::atomic_compare_exchange(&raw mut (*judgement).busy, 0, 1) } == 0 {
            return Some(judgement);
        }
        index += cpus;
    }
    None
}

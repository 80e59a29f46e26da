//! The capture: the root chunk first, then whatever the chunks' slots lead to, breadth first.
//!
//! One interpreter serves every plan (abi/program.rs says what a plan means). It knows nothing of Go but three words:
//! an itab's type, a closure's code, and the head of `abi.Type` for values whose type no plan names.

use riptrace_common::abi::{
    limits,
    program::{
        ACTION_DICTIONARY, ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_FUNC, ACTION_INTERFACE,
        COUNT_MASK_PLUS_ONE, COUNT_OLD_BUCKETS, COUNT_ONE, COUNT_ONE_IF_ZERO, COUNT_POWER_OF_TWO, COUNT_WORD,
        DYNAMIC_CODE, DYNAMIC_FOLLOW, DYNAMIC_FUNC, DYNAMIC_TYPE, DynamicKey, LIMIT_ITEMS, LIMIT_STRING,
        SITE_HAS_CFA, Site, Slot, TYPE_CLOSURE_WORD, TYPE_ITAB, TYPE_TORN_CHECK, TYPE_UNKNOWN, Tracepoint,
        WINDOW_IMAGE, WINDOW_IMAGE_ADDRESS, WINDOW_STACK, WINDOW_STACK_ADDRESS, Window,
    },
    record::{
        CHUNK_CUT_BYTES, CHUNK_FAULT, CHUNK_TORN, Chunk, FLAG_BYTES_EXHAUSTED, FLAG_STEPS_EXHAUSTED, Header,
    },
};

use crate::{
    fetch,
    maps::{DYNAMIC, QUEUE, SLOTS, Scratch, TYPES, VISITED, Visited, WINDOWS},
    raw,
    regs::Registers,
    scratch,
};

const HEADER_BYTES: u32 = size_of::<Header>() as u32;
const CHUNK_BYTES: u32 = size_of::<Chunk>() as u32;
/// Where the root chunk's data begins in every record.
pub(crate) const ROOT_DATA: u32 = HEADER_BYTES + CHUNK_BYTES;
/// The first page is never mapped: nil, small integers in pointer words, offsets from nil.
const SMALLEST_POINTER: u64 = 4096;

/// Fills the root chunk behind the register file. 1: done, 0: the plan is broken.
///
/// A global function, like the other parts of a capture: the verifier goes through it once, by itself, and not once
/// for every state that the program can be in when it calls it. Linux 6.1 would not accept the whole otherwise.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_windows(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `windows`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        for index in 0..limits::MAX_WINDOWS_PER_SITE {
            if index >= (*walk).windows {
                break;
            }
            let Some(window): Option<&Window> = WINDOWS.get((*walk).first_window.wrapping_add(index)) else {
                return 0;
            };
            let to = u64::from(ROOT_DATA) + u64::from(window.root_offset);
            let from_stack = window.base == WINDOW_STACK || window.base == WINDOW_STACK_ADDRESS;
            let base = if from_stack { (*walk).sp } else { (*walk).bias };
            let address = base.wrapping_add(window.offset.cast_unsigned());
            if window.base == WINDOW_IMAGE_ADDRESS || window.base == WINDOW_STACK_ADDRESS {
                scratch::at(scratch, to).cast::<u64>().write_unaligned(address);
            } else if !fetch::into_record(scratch, to, window.bytes.into(), address) {
                (*walk).window_faults |= 1 << (if index < 31 { index } else { 31 });
            }
        }
    }
    1
}

/// Fills the root chunk behind the register file. False: the plan is broken.
///
/// # Safety
/// The buffer was acquired, and `begin` has run.
#[inline(always)]
pub(crate) unsafe fn windows(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's.
    unsafe { (*scratch).walk.windows == 0 || riptrace_windows(scratch) != 0 }
}

const _: () = assert!(WINDOW_STACK == 0 && WINDOW_IMAGE == 1);

/// What holds for the walk, before its first chunk.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn begin(
    scratch: *mut Scratch,
    site: &Site,
    tracepoint: &Tracepoint,
    registers: Registers,
    bias: u64,
) {
    let root_bytes = site.root_bytes.min(limits::MAX_ROOT_BYTES);
    let used = ROOT_DATA + ((root_bytes + 7) & !7);
    let stack_bytes = 8 * tracepoint.stack_frames.min(limits::MAX_STACK_FRAMES);
    let end = tracepoint.max_bytes.min(limits::MAX_RECORD_BYTES).saturating_sub(stack_bytes).max(used);
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (*walk).bias = bias;
        (*walk).sp = registers.sp;
        (*walk).bp = registers.bp;
        (*walk).ip = registers.ip;
        (*walk).cfa = if site.flags & SITE_HAS_CFA == 0 {
            0
        } else {
            registers.sp.wrapping_add(i64::from(site.cfa_from_sp).cast_unsigned())
        };
        (*walk).first_window = site.first_window;
        (*walk).windows = site.windows;
        (*walk).window_faults = 0;
        (*walk).root_type = site.root_type;
        (*walk).pending_type = 0;
        (*walk).image = site.image;
        (*walk).hit = (*walk).hit.wrapping_add(1);
        (*walk).used = used;
        (*walk).end = end;
        (*walk).flags = 0;
        (*walk).max_depth = tracepoint.max_depth;
        (*walk).max_string = tracepoint.max_string;
        (*walk).max_items = tracepoint.max_items;
        (*walk).queue_read = 0;
        (*walk).queue_write = 0;
        (*walk).torn = 0;
        (*walk).element = 0;
        (*walk).bytes = 0;
        (*walk).stack_hi = 0;
        // Padding is zero, not a remainder of another record.
        scratch::at(scratch, u64::from(ROOT_DATA + (root_bytes & !7))).cast::<u64>().write_unaligned(0);
        let chunk = scratch::at(scratch, HEADER_BYTES.into()).cast::<Chunk>();
        write_chunk(
            chunk,
            Chunk {
                address: 0,
                type_index: site.root_type,
                count: 1,
                bytes: root_bytes,
                depth: 0,
                flags: 0,
                reserved: 0,
            },
        );
    }
}

#[inline(always)]
unsafe fn write_chunk(to: *mut Chunk, chunk: Chunk) {
    // SAFETY: the caller's. Written as whole words: five narrower stores would cost five instructions.
    unsafe {
        let to = to.cast::<u64>();
        to.write_unaligned(chunk.address);
        to.add(1).write_unaligned(u64::from(chunk.type_index) | u64::from(chunk.count) << 32);
        to.add(2).write_unaligned(
            u64::from(chunk.bytes) | u64::from(chunk.depth) << 32 | u64::from(chunk.flags) << 40,
        );
    }
}

struct Context {
    scratch: *mut Scratch,
}

/// Follows everything that the root chunk leads to.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_follow(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `follow`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let Some(root) = TYPES.get((*walk).root_type) else { return 0 };
        if root.slots == 0 {
            return 0;
        }
        enqueue(scratch, HEADER_BYTES);
        // Taken back by the step that finds nothing more to do.
        (*walk).flags |= FLAG_STEPS_EXHAUSTED;
        let mut context = Context { scratch };
        raw::repeat(limits::MAX_STEPS + 1, step, &mut context);
        if (*walk).torn != 0 {
            raw::repeat(limits::MAX_TORN_CHECKS, check_torn, &mut context);
        }
    }
    0
}

/// Follows everything that the root chunk leads to.
///
/// # Safety
/// The root chunk is complete.
#[inline(always)]
pub(crate) unsafe fn follow(scratch: *mut Scratch) {
    riptrace_follow(scratch);
}

/// The chunk at this offset of the record has something to follow.
#[inline(always)]
unsafe fn enqueue(scratch: *mut Scratch, chunk: u32) {
    // SAFETY: the masked index is within the queue.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let index = raw::mask::<{ QUEUE as i32 - 1 }>((*walk).queue_write.into());
        (&raw mut (*scratch).queue).cast::<u32>().add(index as usize).write_volatile(chunk);
        (*walk).queue_write += 1;
    }
}

/// A copy that is to be appended.
#[derive(Clone, Copy)]
struct Ask {
    /// The chunk's address; 0: nothing to append.
    label: u64,
    /// Where the bytes are (an itab's type word is 8 bytes behind the itab).
    address: u64,
    type_index: u32,
    depth: u32,
    /// Elements that there are, and that are wanted.
    count: u64,
    take: u64,
}

impl Ask {
    const NOTHING: Self = Self { label: 0, address: 0, type_index: 0, depth: 0, count: 0, take: 0 };

    #[inline(always)]
    fn one(address: u64, type_index: u32, depth: u32) -> Self {
        Self { label: address, address, type_index, depth, count: 1, take: 1 }
    }
}

/// One visit of one slot. Gives 1 when there is nothing more to do.
unsafe extern "C" fn step(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `follow`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &raw mut (*scratch).walk;
        let mut ask = Ask::NOTHING;
        // An interface value whose dynamic type is known, or a func value, that this visit found.
        let mut dynamic_type = (*walk).pending_type;
        let mut dynamic_data = (*walk).pending_data;
        let mut dynamic_depth = (*walk).pending_depth;
        let mut dynamic_deeper = 1;
        let mut function = 0u64;
        let mut function_depth = 0u32;
        let mut function_may_follow = true;

        if dynamic_type != 0 {
            (*walk).pending_type = 0;
        } else {
            if (*walk).element >= (*walk).bytes && !open_next(scratch) {
                return finish(scratch);
            }
            let element = (*walk).element;
            let repetition = (*walk).repetition;
            let Some(slot) = SLOTS.get((*walk).first_slot.wrapping_add((*walk).slot)) else {
                return finish(scratch);
            };
            advance(scratch, slot);
            let base = u64::from(element) + u64::from(repetition) * u64::from(slot.stride);
            let bytes = u64::from((*walk).bytes);
            let word_at = base + u64::from(slot.word);
            // A chunk that was cut ends before its last words.
            if word_at + 8 > bytes {
                return 0;
            }
            let data = u64::from((*walk).data);
            let word = scratch::word(scratch, data + word_at);
            if word < SMALLEST_POINTER {
                return 0;
            }
            let count_at = base + u64::from(slot.count);
            let depth = (*walk).depth;
            let below_limit = depth < (*walk).max_depth;
            if slot.action == ACTION_FOLLOW {
                if slot.deeper != 0 && !below_limit {
                    return 0;
                }
                let count = elements(scratch, slot, data, count_at, bytes);
                let limit: u64 = match slot.limit {
                    LIMIT_ITEMS => (*walk).max_items.into(),
                    LIMIT_STRING => (*walk).max_string.into(),
                    _ => slot.max_count.into(),
                };
                let take = count.min(limit);
                if take == 0 {
                    return 0;
                }
                ask = Ask {
                    label: word,
                    address: word,
                    type_index: slot.target,
                    depth: depth + u32::from(slot.deeper),
                    count,
                    take,
                };
            } else if slot.action == ACTION_FUNC {
                function = word;
                function_may_follow = slot.deeper == 0 || below_limit;
                function_depth = if function_may_follow { depth + u32::from(slot.deeper) } else { depth };
            } else {
                if count_at + 8 > bytes {
                    return 0;
                }
                dynamic_data = scratch::word(scratch, data + count_at);
                dynamic_depth = depth;
                if slot.action == ACTION_EMPTY_INTERFACE {
                    dynamic_type = word;
                } else if slot.action == ACTION_DICTIONARY {
                    dynamic_type = fetch::word(word.wrapping_add(8 * u64::from(slot.max_count)));
                    dynamic_deeper = u32::from(slot.deeper);
                } else if slot.action == ACTION_INTERFACE {
                    let seen = visited(scratch, word, TYPE_ITAB);
                    if (*seen).hit == (*walk).hit
                        && (*seen).address == word
                        && (*seen).type_index == TYPE_ITAB
                    {
                        dynamic_type = (*seen).value;
                    } else {
                        (*walk).pending_data = dynamic_data;
                        (*walk).pending_depth = depth;
                        ask = Ask { address: word.wrapping_add(8), ..Ask::one(word, TYPE_ITAB, depth) };
                    }
                }
            }
        }

        // The data word of a type without bytes, or the value itself, leads nowhere.
        if dynamic_type != 0
            && dynamic_data >= SMALLEST_POINTER
            && dynamic_depth + dynamic_deeper <= (*walk).max_depth
        {
            let key = DynamicKey {
                link_address: dynamic_type.wrapping_sub((*walk).bias),
                image: (*walk).image,
                kind: DYNAMIC_TYPE,
            };
            if let Some(dynamic) = DYNAMIC.get_ptr(&key) {
                if (*dynamic).how == DYNAMIC_FOLLOW {
                    ask = Ask::one(dynamic_data, (*dynamic).target, dynamic_depth + dynamic_deeper);
                } else if (*dynamic).how == DYNAMIC_FUNC {
                    function = dynamic_data;
                    function_depth = dynamic_depth + dynamic_deeper;
                }
            } else if let Some(bytes) = indirect_bytes(scratch, dynamic_type) {
                ask = Ask {
                    count: bytes,
                    take: bytes,
                    ..Ask::one(dynamic_data, TYPE_UNKNOWN, dynamic_depth + dynamic_deeper)
                };
            }
        }

        if function != 0 {
            let code = fetch::word(function);
            let key = DynamicKey {
                link_address: code.wrapping_sub((*walk).bias),
                image: (*walk).image,
                kind: DYNAMIC_CODE,
            };
            ask = Ask::one(function, TYPE_CLOSURE_WORD, function_depth);
            if function_may_follow && let Some(dynamic) = DYNAMIC.get_ptr(&key) {
                ask.type_index = (*dynamic).target;
            }
        }

        if ask.label == 0 {
            return 0;
        }
        append(scratch, ask)
    }
}

/// Nothing is left to follow: the limit of steps was not what ended the walk.
#[inline(always)]
unsafe fn finish(scratch: *mut Scratch) -> i64 {
    // SAFETY: the caller's.
    unsafe { (*scratch).walk.flags &= !FLAG_STEPS_EXHAUSTED };
    1
}

/// Goes on with the next chunk that has slots.
#[inline(always)]
unsafe fn open_next(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        if (*walk).queue_read >= (*walk).queue_write {
            return false;
        }
        let index = raw::mask::<{ QUEUE as i32 - 1 }>((*walk).queue_read.into());
        let offset = (&raw const (*scratch).queue).cast::<u32>().add(index as usize).read_volatile();
        (*walk).queue_read += 1;
        let chunk = scratch::at(scratch, offset.into()).cast::<Chunk>();
        let Some(of) = TYPES.get((*chunk).type_index) else { return false };
        (*walk).data = offset + CHUNK_BYTES;
        (*walk).bytes = (*chunk).bytes;
        (*walk).depth = (*chunk).depth.into();
        // Without this an element of no bytes would be scanned for ever.
        (*walk).element_bytes = if of.bytes == 0 { (*chunk).bytes } else { of.bytes };
        (*walk).first_slot = of.first_slot;
        (*walk).slots = of.slots;
        (*walk).element = 0;
        (*walk).slot = 0;
        (*walk).repetition = 0;
        true
    }
}

/// Moves to the visit after this one: repetitions of the slot, then the element's other slots, then the next element.
#[inline(always)]
unsafe fn advance(scratch: *mut Scratch, slot: &Slot) {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let repetition = (*walk).repetition + 1;
        if repetition < slot.repeat {
            (*walk).repetition = repetition;
            return;
        }
        (*walk).repetition = 0;
        let next = (*walk).slot + 1;
        if next < (*walk).slots {
            (*walk).slot = next;
            return;
        }
        (*walk).slot = 0;
        (*walk).element = (*walk).element.saturating_add((*walk).element_bytes);
    }
}

/// How many elements the slot's pointer leads to, before any limit.
#[inline(always)]
unsafe fn elements(scratch: *mut Scratch, slot: &Slot, data: u64, at: u64, bytes: u64) -> u64 {
    let rule = slot.count_rule;
    if rule == COUNT_ONE {
        return 1;
    }
    // SAFETY: the caller's.
    unsafe {
        if rule == COUNT_POWER_OF_TWO || rule == COUNT_OLD_BUCKETS {
            if at + 1 > bytes || at == 0 {
                return 0;
            }
            let log2 = u64::from(scratch::byte(scratch, data + at)) & 31;
            if rule == COUNT_POWER_OF_TWO {
                return 1 << log2;
            }
            if scratch::byte(scratch, data + at - 1) & 8 != 0 {
                return 1 << log2;
            }
            return (1 << log2) >> 1;
        }
        if at + 8 > bytes {
            return 0;
        }
        let word = scratch::word(scratch, data + at);
        match rule {
            COUNT_WORD => {
                if word.cast_signed() < 1 {
                    0
                } else {
                    word
                }
            }
            COUNT_MASK_PLUS_ONE => word.wrapping_add(1),
            COUNT_ONE_IF_ZERO => u64::from(word == 0),
            _ => 0,
        }
    }
}

/// Bytes of a value behind an interface's data word, from its `abi.Type`; `None`: the data word is the value, or the
/// type can't be read. The mark of a direct value is bit 5, of `Kind_` before Go 1.26 and of `TFlag` since; neither
/// version uses the other's bit 5 (internal/abi/type.go).
#[inline(always)]
unsafe fn indirect_bytes(scratch: *mut Scratch, abi_type: u64) -> Option<u64> {
    const DIRECT: u64 = 0x20;
    // SAFETY: the caller's.
    unsafe {
        if !fetch::into_object(scratch, 24, abi_type) {
            return None;
        }
        let bytes = scratch::object_word(scratch, 0);
        // Hash (4 bytes), TFlag, Align, FieldAlign, Kind.
        let word = scratch::object_word(scratch, 16);
        let (flags, kind) = (word >> 32 & 0xff, word >> 56);
        ((flags | kind) & DIRECT == 0 && bytes != 0).then_some(bytes)
    }
}

/// The only entry of the cache that this chunk can have.
#[inline(always)]
unsafe fn visited(scratch: *mut Scratch, address: u64, type_index: u32) -> *mut Visited {
    let hash = address >> 3 ^ address >> 12 ^ u64::from(type_index).wrapping_mul(0x9e5);
    // SAFETY: the masked index is within the table.
    unsafe {
        (&raw mut (*scratch).visited)
            .cast::<Visited>()
            .add(raw::mask::<{ VISITED as i32 - 1 }>(hash) as usize)
    }
}

/// Copies and appends one chunk, unless it is there already. Gives 1 when the record is full.
#[inline(always)]
unsafe fn append(scratch: *mut Scratch, ask: Ask) -> i64 {
    let Some(of) = TYPES.get(ask.type_index) else { return 0 };
    let element_bytes = u64::from(of.bytes);
    if element_bytes == 0 {
        return 0;
    }
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let seen = visited(scratch, ask.label, ask.type_index);
        // A request for more than was copied is made again: the longer chunk counts.
        if (*seen).hit == (*walk).hit
            && (*seen).address == ask.label
            && (*seen).type_index == ask.type_index
            && (*seen).value >= ask.take
        {
            return 0;
        }

        let used = u64::from((*walk).used);
        let end = u64::from((*walk).end);
        let data = used + u64::from(CHUNK_BYTES);
        if data > end {
            (*walk).flags |= FLAG_BYTES_EXHAUSTED;
            return finish(scratch);
        }
        let room = (end - data) & !7;
        let largest = room.min(limits::MAX_CHUNK_BYTES.into());
        let mut bytes = ask.take * element_bytes;
        let mut flags = 0u8;
        if bytes > largest {
            flags = CHUNK_CUT_BYTES;
            bytes = largest / element_bytes * element_bytes;
            if bytes == 0 {
                // Not even one element fits: its beginning is better than nothing.
                bytes = largest;
            }
            if largest == room {
                (*walk).flags |= FLAG_BYTES_EXHAUSTED;
            }
        }

        if bytes != 0 {
            // Padding is zero, not a remainder of another record.
            scratch::at(scratch, data + (bytes & !7)).cast::<u64>().write_unaligned(0);
            if !fetch::into_record(scratch, data, bytes, ask.address) {
                flags |= CHUNK_FAULT;
                bytes = 0;
            }
        }
        write_chunk(
            scratch::at(scratch, used).cast(),
            Chunk {
                address: ask.label,
                type_index: ask.type_index,
                count: ask.count.min(u32::MAX.into()) as u32,
                bytes: bytes as u32,
                depth: ask.depth.min(255) as u8,
                flags,
                reserved: 0,
            },
        );
        (*walk).used = (data + ((bytes + 7) & !7)) as u32;

        (*seen).address = ask.label;
        (*seen).type_index = ask.type_index;
        (*seen).hit = (*walk).hit;
        (*seen).value = ask.take;
        if ask.type_index == TYPE_ITAB {
            // 0 when it faulted: then the interface leads nowhere.
            let abi_type = if bytes == 0 { 0 } else { scratch::word(scratch, data) };
            (*seen).value = abi_type;
            (*walk).pending_type = abi_type;
        }
        if bytes != 0 {
            if of.slots != 0 {
                enqueue(scratch, used as u32);
            }
            if of.flags & TYPE_TORN_CHECK != 0 && (*walk).torn < limits::MAX_TORN_CHECKS {
                let index = raw::mask::<{ limits::MAX_TORN_CHECKS as i32 - 1 }>((*walk).torn.into());
                (&raw mut (*scratch).torn).cast::<u32>().add(index as usize).write_volatile(used as u32);
                (*walk).torn += 1;
            }
        }
        0
    }
}

/// Reads the beginning of a remembered chunk again and marks it if that changed.
unsafe extern "C" fn check_torn(index: u64, context: *mut Context) -> i64 {
    const WORDS: u32 = limits::TORN_CHECK_BYTES / 8;
    // SAFETY: `riptrace_follow`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &raw mut (*scratch).walk;
        if index >= (*walk).torn.into() {
            return 1;
        }
        let entry = raw::mask::<{ limits::MAX_TORN_CHECKS as i32 - 1 }>(index);
        let offset = (&raw const (*scratch).torn).cast::<u32>().add(entry as usize).read_volatile();
        let chunk = scratch::at(scratch, offset.into()).cast::<Chunk>();
        let bytes = (*chunk).bytes.min(limits::TORN_CHECK_BYTES);
        if !fetch::into_object(scratch, bytes.into(), (*chunk).address) {
            (*chunk).flags |= CHUNK_TORN;
            return 0;
        }
        for word in 0..WORDS {
            // A last word that was cut is followed by padding in the chunk, and not compared.
            if word * 8 + 8 > bytes {
                break;
            }
            let then = chunk.add(1).cast::<u64>().add(word as usize).read_volatile();
            if then != scratch::object_word(scratch, word * 8) {
                (*chunk).flags |= CHUNK_TORN;
                break;
            }
        }
        0
    }
}

/// Writes the header's fields that are known last or not at all; gives the load bias.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn clear_header(scratch: *mut Scratch, registers: Registers, site: &Site) -> u64 {
    let bias = registers.ip.wrapping_sub(site.link_address);
    // SAFETY: the caller's.
    unsafe {
        let header = scratch::header(scratch);
        // Volatile: the compiler would make one call of `memset` of it, which is a loop over bytes.
        (&raw mut (*header).goid).write_volatile(0);
        (&raw mut (*header).parent_goid).write_volatile(0);
        (&raw mut (*header).frame_from_stack_hi).write_volatile(0);
        (&raw mut (*header).load_bias).write_volatile(bias);
        (&raw mut (*header).reserved).write_volatile(0);
    }
    bias
}

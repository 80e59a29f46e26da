//! The capture: the root chunk first, then whatever the chunks' slots lead to, breadth first.
//!
//! One interpreter serves every plan (abi/program.rs says what a plan means). It knows nothing of Go but three words:
//! an itab's type, a closure's code, and the head of `abi.Type` for values whose type no plan names.

use riptrace_common::abi::{
    limits,
    program::{
        ACTION_DICTIONARY, ACTION_EMPTY_INTERFACE, ACTION_FOLLOW, ACTION_FUNC, ACTION_INTERFACE,
        COUNT_MASK_PLUS_ONE, COUNT_OLD_BUCKETS, COUNT_ONE, COUNT_ONE_IF_ZERO, COUNT_POWER_OF_TWO, COUNT_WORD,
        DYNAMIC_CODE, DYNAMIC_FOLLOW, DYNAMIC_FUNC, DYNAMIC_ITAB, DYNAMIC_TYPE, DynamicKey, LIMIT_ITEMS,
        LIMIT_STRING, NO_SLOT, SITE_REDACTS, Site, Slot, TYPE_CLOSURE_WORD, TYPE_ITAB, TYPE_UNKNOWN,
    },
    record::{Chunk, FLAG_STEPS_EXHAUSTED},
};

use crate::{
    chunk::{Ask, CHUNK_BYTES, SMALLEST_POINTER, append, check_torn, visited},
    fetch,
    maps::{DYNAMIC, QUEUE, SLOTS, Scratch, TYPES},
    raw, redact,
    root::ROOT_DATA,
    scratch, table,
};

pub(crate) struct Context {
    pub(crate) scratch: *mut Scratch,
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
        // The root chunk comes first, from the first slot on that no table stood for.
        let first = (*walk).first_walked_slot;
        let done = first >= root.slots;
        if done && (*walk).queue_write == 0 {
            return 0;
        }
        (*walk).data = ROOT_DATA;
        (*walk).bytes = (*walk).root_bytes;
        (*walk).depth = 0;
        (*walk).element_bytes = (*walk).root_bytes;
        (*walk).first_slot = root.first_slot;
        (*walk).slots = root.slots;
        (*walk).element = if done { (*walk).root_bytes } else { 0 };
        (*walk).slot = first;
        (*walk).repetition = 0;
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
pub(crate) unsafe fn follow(scratch: *mut Scratch, site: &Site) {
    // SAFETY: the caller's.
    unsafe {
        let done = if site.table_plus_one == 0 {
            site.first_walked_slot == NO_SLOT
        } else {
            table::run_all(scratch)
        };
        if !done {
            riptrace_follow(scratch);
        }
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
        let mut dynamic_kind = DYNAMIC_TYPE;
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
                if !redact::is_allowed(scratch, slot, data + u64::from(element), data + bytes) {
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
                    dynamic_type = word;
                    dynamic_kind = DYNAMIC_ITAB;
                }
            }
        }

        if dynamic_type != 0 {
            // The data word of a type without bytes, or the value itself, leads nowhere.
            let leads_on =
                dynamic_data >= SMALLEST_POINTER && dynamic_depth + dynamic_deeper <= (*walk).max_depth;
            if !leads_on && dynamic_kind == DYNAMIC_TYPE {
                return 0;
            }
            let key = DynamicKey {
                link_address: dynamic_type.wrapping_sub((*walk).bias),
                image: (*walk).image,
                kind: dynamic_kind,
            };
            if let Some(dynamic) = DYNAMIC.get_ptr(&key) {
                if !leads_on {
                    return 0;
                }
                if (*dynamic).how == DYNAMIC_FOLLOW {
                    ask = Ask::one(dynamic_data, (*dynamic).target, dynamic_depth + dynamic_deeper);
                } else if (*dynamic).how == DYNAMIC_FUNC {
                    function = dynamic_data;
                    function_depth = dynamic_depth + dynamic_deeper;
                }
            } else if dynamic_kind == DYNAMIC_ITAB {
                // Made while the program runs, or not in the plan: the itab says the type, which the next step takes.
                let itab = dynamic_type;
                (*walk).pending_data = dynamic_data;
                (*walk).pending_depth = dynamic_depth;
                let seen = visited(scratch, itab, TYPE_ITAB);
                if (*seen).hit == (*walk).hit && (*seen).address == itab && (*seen).type_index == TYPE_ITAB {
                    (*walk).pending_type = (*seen).value;
                    return 0;
                }
                ask = Ask { address: itab.wrapping_add(8), ..Ask::one(itab, TYPE_ITAB, dynamic_depth) };
            } else if (*walk).site_flags & SITE_REDACTS == 0
                && let Some(bytes) = indirect_bytes(scratch, dynamic_type)
            {
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
pub(crate) unsafe fn finish(scratch: *mut Scratch) -> i64 {
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

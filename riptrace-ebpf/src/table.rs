//! The first tier of a capture: what the plan knows beforehand, copied one operation after the other.
//!
//! The chunks are those that the walk would write. What an operation finds that only the walk can follow, it leaves to
//! the walk, which skips what is copied already.

use riptrace_common::abi::{
    limits,
    program::{
        ACTION_FOLLOW, ACTION_INTERFACE, COUNT_ONE, COUNT_WORD, DYNAMIC_FOLLOW, DYNAMIC_ITAB,
        DYNAMIC_NOTHING, DYNAMIC_TYPE, DynamicKey, LIMIT_ITEMS, LIMIT_STRING, NO_SLOT, OP_HELD, OP_SCAN,
        TABLE_OPS, TYPE_HAS_HOLES, TYPE_TORN_CHECK, TableOp,
    },
    record::{CHUNK_FAULT, Chunk},
};

use crate::{
    chunk::{CHUNK_BYTES, SMALLEST_POINTER, enqueue, visited, write_chunk},
    fetch,
    maps::{DYNAMIC, PLACES, SLOTS, Scratch, TABLES, TYPES},
    raw,
    root::ROOT_DATA,
    scratch,
};

/// Objects of these types are the walk's: what is checked for change, and what is copied in parts.
const WALKED: u32 = TYPE_TORN_CHECK | TYPE_HAS_HOLES;

const _: () = assert!(PLACES > TABLE_OPS && PLACES.is_power_of_two());

/// Runs the site's table. 1: that was all; 0: the walk goes on (`Walk::first_walked_slot`, the queue).
///
/// # Safety
/// The root chunk is complete.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_table(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        if TABLES.get((*walk).table_plus_one.wrapping_sub(1)).is_none() {
            (*walk).first_walked_slot = 0;
            return 0;
        }
        *place(scratch, 0) = ROOT_DATA;
        for index in 0..TABLE_OPS as u32 {
            if index >= (*walk).table_ops {
                break;
            }
            if riptrace_table_op(scratch, index) == 0 {
                // The record is too small for it all: the walk knows what to cut. It starts anew.
                (*walk).hit = (*walk).hit.wrapping_add(1);
                (*walk).used = (*walk).root_end;
                (*walk).queue_write = 0;
                (*walk).first_walked_slot = 0;
                return 0;
            }
        }
        ((*walk).first_walked_slot == NO_SLOT.into() && (*walk).queue_write == 0).into()
    }
}

/// Runs the site's table. True: nothing is left to the walk.
///
/// # Safety
/// The root chunk is complete.
#[inline(always)]
pub(crate) unsafe fn run_all(scratch: *mut Scratch) -> bool {
    riptrace_table(scratch) != 0
}

/// What an operation copies.
#[derive(Clone, Copy)]
struct Copied {
    address: u64,
    target: u32,
    element_bytes: u32,
    count: u64,
    take: u64,
    depth: u32,
    /// The walk scans it.
    scan: bool,
    /// The only slot of the type that an interface holds, plus one; 0: it has none, or it is scanned.
    held_slot: u32,
}

/// One operation; 0: there is no room for what is to be copied.
///
/// A global function: the verifier goes through it once, and not once for each operation that a table can have, which
/// took a tenth of a second at each start.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_table_op(scratch: *mut Scratch, index: u32) -> i64 {
    if scratch.is_null() || index >= TABLE_OPS as u32 {
        return 0;
    }
    // SAFETY: not null; `riptrace_table`'s.
    unsafe {
        let Some(table) = TABLES.get((*scratch).walk.table_plus_one.wrapping_sub(1)) else { return 0 };
        run(scratch, &table.ops[index as usize], index).into()
    }
}

/// False: there is no room for what is to be copied.
#[inline(always)]
unsafe fn run(scratch: *mut Scratch, op: &TableOp, index: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        *place(scratch, index + 1) = 0;
        let from = u64::from(*place(scratch, op.from.into()));
        if from == 0 {
            return true;
        }
        let found =
            if op.action == ACTION_FOLLOW { followed(scratch, op, from) } else { held(scratch, op, from) };
        let Some(copied) = found else { return true };
        let seen = visited(scratch, copied.address, copied.target);
        if (*seen).hit == (*walk).hit
            && (*seen).address == copied.address
            && (*seen).type_index == copied.target
            && (*seen).value >= copied.take
        {
            return true;
        }
        let used = u64::from((*walk).used);
        let data = used + u64::from(CHUNK_BYTES);
        let mut bytes = copied.take * u64::from(copied.element_bytes);
        let end = data + ((bytes + 7) & !7);
        if end > (*walk).end.into() || bytes > limits::MAX_CHUNK_BYTES.into() {
            return false;
        }
        // Padding is zero, not a remainder of another record.
        raw::store_word(scratch::at(scratch, data + (bytes & !7)), 0);
        let mut flags = 0;
        if fetch::into_record(scratch, data, bytes, copied.address) {
            (*walk).used = end as u32;
            *place(scratch, index + 1) = data as u32;
            *held_slot(scratch, index + 1) = copied.held_slot;
            if copied.scan {
                enqueue(scratch, used as u32);
            }
        } else {
            flags = CHUNK_FAULT;
            bytes = 0;
            (*walk).used = data as u32;
        }
        write_chunk(
            scratch::at(scratch, used).cast(),
            Chunk {
                address: copied.address,
                type_index: copied.target,
                count: copied.count.min(u32::MAX.into()) as u32,
                bytes: bytes as u32,
                depth: copied.depth.min(255) as u8,
                flags,
                reserved: 0,
            },
        );
        (*seen).address = copied.address;
        (*seen).type_index = copied.target;
        (*seen).hit = (*walk).hit;
        (*seen).value = copied.take;
        true
    }
}

/// What the pointer of a slot leads to.
#[inline(always)]
unsafe fn followed(scratch: *mut Scratch, op: &TableOp, from: u64) -> Option<Copied> {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let mut word_at = u64::from(op.word);
        let mut count_at = u64::from(op.count);
        let mut rule = op.count_rule;
        let mut limit = op.limit;
        let mut max_count = op.max_count;
        let mut target = op.target;
        let mut element_bytes = op.bytes;
        let mut depth = u32::from(op.depth);
        let mut scan = op.flags & OP_SCAN != 0;
        if op.flags & OP_HELD != 0 {
            let slot = SLOTS.get((*held_slot(scratch, op.from.into())).wrapping_sub(1))?;
            let of = TYPES.get(slot.target)?;
            word_at = slot.word.into();
            count_at = slot.count.into();
            rule = slot.count_rule;
            limit = slot.limit;
            max_count = slot.max_count;
            target = slot.target;
            element_bytes = of.bytes;
            depth += u32::from(slot.deeper);
            scan = of.slots != 0;
        }
        let address = scratch::word(scratch, from + word_at);
        if address < SMALLEST_POINTER || depth > (*walk).max_depth || element_bytes == 0 {
            return None;
        }
        let mut count = 1;
        if rule == COUNT_WORD {
            count = scratch::word(scratch, from + count_at);
            if count.cast_signed() < 1 {
                return None;
            }
        }
        let limit = match limit {
            LIMIT_ITEMS => (*walk).max_items,
            LIMIT_STRING => (*walk).max_string,
            _ => max_count,
        };
        let take = count.min(limit.into());
        if take == 0 {
            return None;
        }
        Some(Copied { address, target, element_bytes, count, take, depth, scan, held_slot: 0 })
    }
}

/// What an interface holds, if the plan knows its type.
#[inline(always)]
unsafe fn held(scratch: *mut Scratch, op: &TableOp, from: u64) -> Option<Copied> {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let word = scratch::word(scratch, from + u64::from(op.word));
        let address = scratch::word(scratch, from + u64::from(op.count));
        let depth = u32::from(op.depth);
        if word < SMALLEST_POINTER {
            return None;
        }
        let key = DynamicKey {
            link_address: word.wrapping_sub((*walk).bias),
            image: (*walk).image,
            kind: if op.action == ACTION_INTERFACE { DYNAMIC_ITAB } else { DYNAMIC_TYPE },
        };
        let Some(dynamic) = DYNAMIC.get_ptr(&key) else { return leave(scratch, op, from) };
        if address < SMALLEST_POINTER || depth > (*walk).max_depth {
            return None;
        }
        if (*dynamic).how != DYNAMIC_FOLLOW {
            return if (*dynamic).how == DYNAMIC_NOTHING { None } else { leave(scratch, op, from) };
        }
        let target = (*dynamic).target;
        let of = TYPES.get(target)?;
        if of.flags & WALKED != 0 {
            return leave(scratch, op, from);
        }
        if of.bytes == 0 {
            return None;
        }
        let mut held_slot = 0;
        if of.slots == 1 && op.flags & OP_SCAN == 0 {
            let slot = SLOTS.get(of.first_slot)?;
            let simple = slot.action == ACTION_FOLLOW
                && slot.repeat == 1
                && slot.guard == 0
                && (slot.count_rule == COUNT_ONE || slot.count_rule == COUNT_WORD);
            // A slot that leads to what is checked for change, or too deep, is left to the walk as well.
            let plain = TYPES.get(slot.target)?.flags & WALKED == 0;
            if simple && plain {
                held_slot = of.first_slot + 1;
            }
        }
        Some(Copied {
            address,
            target,
            element_bytes: of.bytes,
            count: 1,
            take: 1,
            depth,
            scan: of.slots != 0 && held_slot == 0,
            held_slot,
        })
    }
}

/// The slot's chunk is scanned by the walk.
#[inline(always)]
unsafe fn leave(scratch: *mut Scratch, op: &TableOp, from: u64) -> Option<Copied> {
    // SAFETY: the caller's.
    unsafe {
        if op.from == 0 {
            (*scratch).walk.first_walked_slot = 0;
        } else {
            enqueue(scratch, (from as u32).wrapping_sub(CHUNK_BYTES));
        }
    }
    None
}

#[inline(always)]
unsafe fn place(scratch: *mut Scratch, index: u32) -> *mut u32 {
    // SAFETY: the masked index is within the array.
    unsafe {
        (&raw mut (*scratch).places)
            .cast::<u32>()
            .add(raw::mask::<{ PLACES as i32 - 1 }>(index.into()) as usize)
    }
}

#[inline(always)]
unsafe fn held_slot(scratch: *mut Scratch, index: u32) -> *mut u32 {
    // SAFETY: the masked index is within the array.
    unsafe {
        (&raw mut (*scratch).held_slots)
            .cast::<u32>()
            .add(raw::mask::<{ PLACES as i32 - 1 }>(index.into()) as usize)
    }
}

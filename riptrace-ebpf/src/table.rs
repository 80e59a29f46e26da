//! The first tier of a capture: what the plan knows beforehand, copied one operation after the other.
//!
//! The chunks are those that the walk would write. What an operation finds that only the walk can follow, it leaves to
//! the walk, which skips what is copied already.

use riptrace_common::abi::{
    limits,
    program::{
        ACTION_FOLLOW, ACTION_INTERFACE, COUNT_ONE, COUNT_WORD, DYNAMIC_FOLLOW, DYNAMIC_ITAB,
        DYNAMIC_NOTHING, DYNAMIC_TYPE, DynamicKey, LIMIT_FIXED, LIMIT_ITEMS, LIMIT_STRING, NO_SLOT, OP_PLAIN,
        OP_SCAN, TABLE_OPS, TYPE_HAS_HOLES, TYPE_TORN_CHECK, TableOp,
    },
    record::CHUNK_FAULT,
};

use crate::{
    chunk::{CHUNK_BYTES, SMALLEST_POINTER, enqueue, visited},
    fetch,
    maps::{DYNAMIC, KNOWN, PLACES, SLOTS, Scratch, TABLES, TYPES, UPLOADS},
    raw,
    root::ROOT_DATA,
    scratch,
};

/// Objects of these types are the walk's: what is checked for change, and what is copied in parts.
const WALKED: u32 = TYPE_TORN_CHECK | TYPE_HAS_HOLES;

const _: () = assert!(PLACES > TABLE_OPS && PLACES.is_power_of_two() && TABLE_OPS.is_power_of_two());
const _: () = assert!(COUNT_ONE == 0 && COUNT_WORD == 1 && LIMIT_ITEMS == 0 && LIMIT_STRING == 1);

/// All operations were run.
const ALL: i64 = 1;
/// `Walk::next_op` is not a plain one.
const OTHER: i64 = 2;

/// Runs the site's table. True: nothing is left to the walk.
///
/// Plain operations run in one call after the other, since a call costs a hit 10 ns; the others have a call each, since what
/// stands in the loop is verified as often as there can be operations. They are called from here and not from each
/// other: frames that are in use at the same time share 512 bytes.
///
/// # Safety
/// The root chunk is complete.
#[inline(always)]
pub(crate) unsafe fn run_all(scratch: *mut Scratch) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (*walk).next_op = 0;
        *place(scratch, 0) = ROOT_DATA;
        let mut fits = false;
        for _ in 0..=TABLE_OPS {
            let ended = riptrace_table(scratch);
            if ended != OTHER {
                fits = ended == ALL;
                break;
            }
            if riptrace_table_op(scratch) == 0 {
                break;
            }
        }
        if !fits {
            // The record is too small for it all, or there is no table: the walk knows what to do. It starts anew.
            (*walk).hit = (*walk).hit.wrapping_add(1);
            (*walk).used = (*walk).root_end;
            (*walk).queue_write = 0;
            (*walk).first_walked_slot = 0;
            return false;
        }
        (*walk).first_walked_slot == NO_SLOT.into() && (*walk).queue_write == 0
    }
}

/// Runs operations in order, up to one that is not a plain one. 0: there is no room for what is to be copied.
///
/// Global functions: the verifier goes through each once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_table(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: not null; `run_all`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let Some(table) = TABLES.get((*walk).table_plus_one.wrapping_sub(1)) else { return 0 };
        for index in 0..TABLE_OPS as u32 {
            if index >= (&raw const (*walk).table_ops).read_volatile() {
                break;
            }
            // The index counts, and not what was written there: the verifier sees that it ends.
            if index < (&raw const (*walk).next_op).read_volatile() {
                continue;
            }
            let op = &table.ops[index as usize];
            if op.flags & OP_PLAIN == 0 {
                (*walk).next_op = index;
                return OTHER;
            }
            *place(scratch, index + 1) = 0;
            let from = u64::from(*place(scratch, op.from.into()));
            if !follow(scratch, from, &Step { scan: 0, ..Step::of(op) }, index) {
                return 0;
            }
        }
    }
    ALL
}

/// Runs the operation `Walk::next_op`, of any kind. 0: there is no room for what is to be copied.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_table_op(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: not null; `run_all`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let index = (&raw const (*walk).next_op).read_volatile();
        if index >= TABLE_OPS as u32 {
            return 0;
        }
        let Some(table) = TABLES.get((*walk).table_plus_one.wrapping_sub(1)) else { return 0 };
        (*walk).next_op = index + 1;
        let op = &table.ops[index as usize];
        *place(scratch, index + 1) = 0;
        let from = u64::from(*place(scratch, op.from.into()));
        let done = if from == 0 {
            true
        } else if op.action == ACTION_FOLLOW {
            follow(scratch, from, &Step::of(op), index)
        } else {
            held(scratch, op, from, index)
        };
        done.into()
    }
}

/// What an interface holds, and what the only slot of its type leads to. False: there is no room for it.
#[inline(always)]
unsafe fn held(scratch: *mut Scratch, op: &TableOp, from: u64, index: u32) -> bool {
    // SAFETY: the caller's; the masked index is within the cache.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let word = scratch::word(scratch, from + u64::from(op.word));
        let address = scratch::word(scratch, from + u64::from(op.count));
        let depth = u32::from(op.depth);
        if word < SMALLEST_POINTER {
            return true;
        }
        let kind = if op.action == ACTION_INTERFACE { DYNAMIC_ITAB } else { DYNAMIC_TYPE };
        let link_address = word.wrapping_sub((*walk).bias);
        let known = known_at(scratch, link_address);
        if ((*known).link_address ^ link_address)
            | u64::from((*known).image ^ (*walk).image)
            | u64::from((*known).kind ^ kind)
            | ((*known).uploads ^ uploads())
            != 0
        {
            riptrace_resolve(scratch, link_address, kind);
        }
        let leads_on = address >= SMALLEST_POINTER && depth <= (*walk).max_depth;
        let how = (*known).how;
        if how == KNOWN_NOTHING || (how == KNOWN_OTHER && !leads_on) {
            return true;
        }
        if how == KNOWN_ABSENT || how == KNOWN_OTHER {
            leave(scratch, op, from);
            return true;
        }
        if !leads_on {
            return true;
        }
        let copied = Copied {
            address,
            target: (*known).target,
            element_bytes: (*known).bytes,
            count: 1,
            take: 1,
            depth: depth.into(),
        };
        let Some(data) = append(scratch, copied, (*known).scan, index) else { return false };
        if data == 0 || (*known).slot.bytes == 0 {
            return true;
        }
        let mut step = (*known).slot;
        step.depth += depth;
        // No operation has this number: none begins at what it copies.
        follow(scratch, data, &step, TABLE_OPS as u32)
    }
}

/// A slot, with all that is to be known to follow it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    word: u32,
    count: u32,
    target: u32,
    /// Of an element; 0: there is no such slot.
    bytes: u32,
    max_count: u32,
    count_rule: u32,
    limit: u32,
    depth: u32,
    /// What is found is scanned.
    scan: u32,
    padding: u32,
}

impl Step {
    #[inline(always)]
    fn of(op: &TableOp) -> Self {
        Self {
            word: op.word.into(),
            count: op.count.into(),
            target: op.target,
            bytes: op.bytes,
            max_count: op.max_count,
            count_rule: op.count_rule.into(),
            limit: op.limit.into(),
            depth: op.depth.into(),
            scan: (op.flags & OP_SCAN).into(),
            padding: 0,
        }
    }
}

/// What an interface held that was met before: an entry of `DYNAMIC`, with what its type says. To look it up each time costs
/// a hit as much as a read of the target. Entries are forgotten when the agent has written anything that they were made of.
#[repr(C)]
pub(crate) struct Known {
    link_address: u64,
    /// The entry of `UPLOADS`, read before it was looked up.
    uploads: u64,
    image: u32,
    kind: u32,
    /// One of `KNOWN_*`.
    how: u32,
    target: u32,
    bytes: u32,
    /// 1: the walk scans it.
    scan: u32,
    /// The only slot of the type, if it is simple.
    slot: Step,
}

/// Not in `DYNAMIC`, or not in a way that the table can follow.
const KNOWN_ABSENT: u32 = 0;
/// The walk follows it if there is anything to follow.
const KNOWN_OTHER: u32 = 1;
const KNOWN_NOTHING: u32 = 2;
const KNOWN_FOLLOW: u32 = 3;

#[inline(always)]
fn uploads() -> u64 {
    // SAFETY: a valid map value; the agent changes it.
    UPLOADS.get_ptr(0).map_or(0, |uploads| unsafe { uploads.read_volatile() })
}

#[inline(always)]
unsafe fn known_at(scratch: *mut Scratch, link_address: u64) -> *mut Known {
    // SAFETY: the masked index is within the cache.
    unsafe {
        let index = raw::mask::<{ KNOWN as i32 - 1 }>(link_address >> 5 ^ link_address >> 12);
        (&raw mut (*scratch).known).cast::<Known>().add(index as usize)
    }
}

/// Looks an itab or a type up, into the cache.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_resolve(scratch: *mut Scratch, link_address: u64, kind: u32) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: not null; the caller acquired it, and map values are valid.
    unsafe {
        let known = known_at(scratch, link_address);
        let image = (*scratch).walk.image;
        (*known).link_address = link_address;
        (*known).uploads = uploads();
        (*known).image = image;
        (*known).kind = kind;
        (*known).how = KNOWN_ABSENT;
        (*known).slot.bytes = 0;
        let Some(dynamic) = DYNAMIC.get_ptr(&DynamicKey { link_address, image, kind }) else {
            // It may be there the next time.
            (*known).link_address = 0;
            return 0;
        };
        if (*dynamic).how != DYNAMIC_FOLLOW {
            (*known).how = if (*dynamic).how == DYNAMIC_NOTHING { KNOWN_NOTHING } else { KNOWN_OTHER };
            return 0;
        }
        let target = (*dynamic).target;
        let Some(of) = TYPES.get(target) else { return 0 };
        if of.flags & WALKED != 0 {
            (*known).how = KNOWN_OTHER;
            return 0;
        }
        if of.bytes == 0 {
            (*known).how = KNOWN_NOTHING;
            return 0;
        }
        (*known).how = KNOWN_FOLLOW;
        (*known).target = target;
        (*known).bytes = of.bytes;
        (*known).scan = (of.slots != 0).into();
        if of.slots != 1 {
            return 0;
        }
        let Some(slot) = SLOTS.get(of.first_slot) else { return 0 };
        let Some(behind) = TYPES.get(slot.target) else { return 0 };
        let simple = slot.action == ACTION_FOLLOW
            && slot.repeat == 1
            && slot.guard == 0
            && (slot.count_rule == COUNT_ONE || slot.count_rule == COUNT_WORD);
        // A slot that leads to what is checked for change is left to the walk as well.
        if simple && behind.flags & WALKED == 0 {
            (*known).scan = 0;
            let step = &raw mut (*known).slot;
            (*step).word = slot.word;
            (*step).count = slot.count;
            (*step).target = slot.target;
            (*step).bytes = behind.bytes;
            (*step).max_count = if slot.limit == LIMIT_FIXED { slot.max_count } else { u32::MAX };
            (*step).count_rule = slot.count_rule.into();
            (*step).limit = slot.limit.into();
            (*step).depth = slot.deeper.into();
            (*step).scan = (behind.slots != 0).into();
        }
    }
    0
}

/// Follows the slot of a chunk whose data begin at `from`. False: there is no room.
///
/// Written for the verifier, which follows both ways of each branch for each operation: hardly any branch.
#[inline(always)]
unsafe fn follow(scratch: *mut Scratch, from: u64, step: &Step, index: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let address = scratch::word(scratch, from + u64::from(step.word));
        // `COUNT_ONE` is 0, `COUNT_WORD` is 1.
        let counted = u64::from(step.count_rule);
        let word = scratch::word(scratch, from + u64::from(step.count)) & counted.wrapping_neg();
        let count = raw::where_bit(word, !word) + (1 - counted);
        let limit = raw::mask::<3>(step.limit.into()) as usize;
        let limit = (&raw const (*walk).limits).cast::<u32>().add(limit).read_volatile();
        let take = raw::smaller(raw::smaller(count, limit.into()), step.max_count.into());
        // The highest bit says that there is nothing to copy.
        let nothing = from.wrapping_sub(1)
            | !address & address.wrapping_sub(SMALLEST_POINTER)
            | u64::from((*walk).max_depth).wrapping_sub(step.depth.into())
            | take.wrapping_sub(1);
        if nothing.cast_signed() < 0 {
            return true;
        }
        let copied = Copied {
            address,
            target: step.target,
            element_bytes: step.bytes,
            count,
            take,
            depth: step.depth.into(),
        };
        append(scratch, copied, step.scan, index).is_some()
    }
}

/// What is to be copied.
#[derive(Clone, Copy)]
struct Copied {
    address: u64,
    target: u32,
    element_bytes: u32,
    count: u64,
    take: u64,
    depth: u64,
}

/// Appends a chunk: where its data begin, 0 if there are none or it is there already. `None`: there is no room. `scan`:
/// not 0: the walk scans it.
#[inline(always)]
unsafe fn append(scratch: *mut Scratch, copied: Copied, scan: u32, index: u32) -> Option<u64> {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let Copied { address, target, take, .. } = copied;
        let seen = visited(scratch, address, target);
        let differs = (*seen).address ^ address
            | u64::from((*seen).type_index ^ target)
            | u64::from((*seen).hit ^ (*walk).hit);
        if differs == 0 && (*seen).value >= take {
            return Some(0);
        }
        let used = u64::from((*walk).used);
        let data = used + u64::from(CHUNK_BYTES);
        let bytes = take * u64::from(copied.element_bytes);
        let padded = (bytes + 7) & !7;
        if data + padded > (*walk).end.into() || bytes > limits::MAX_CHUNK_BYTES.into() {
            return None;
        }
        // Padding is zero, not a remainder of another record.
        raw::store_word(scratch::at(scratch, data + (bytes & !7)), 0);
        let read = fetch::try_into_record(scratch, data, bytes, address);
        let flags = u64::from(CHUNK_FAULT) & !read.or_zero(u64::MAX);
        let data = read.or_zero(data);
        (&raw mut (*walk).used).write_volatile((used + u64::from(CHUNK_BYTES) + read.or_zero(padded)) as u32);
        place(scratch, index + 1).write_volatile(data as u32);
        let chunk = scratch::at(scratch, used);
        raw::store_word(chunk, address);
        raw::store_word(chunk.add(8), u64::from(target) | raw::smaller(copied.count, u32::MAX.into()) << 32);
        raw::store_word(chunk.add(16), read.or_zero(bytes) | copied.depth << 32 | flags << 40);
        (*seen).address = address;
        (*seen).type_index = target;
        (*seen).hit = (*walk).hit;
        (*seen).value = take;
        if scan != 0 && data != 0 {
            enqueue(scratch, used as u32);
        }
        Some(data)
    }
}

/// The slot's chunk is scanned by the walk.
#[inline(always)]
unsafe fn leave(scratch: *mut Scratch, op: &TableOp, from: u64) {
    // SAFETY: the caller's.
    unsafe {
        if op.from == 0 {
            (*scratch).walk.first_walked_slot = 0;
        } else {
            enqueue(scratch, (from as u32).wrapping_sub(CHUNK_BYTES));
        }
    }
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

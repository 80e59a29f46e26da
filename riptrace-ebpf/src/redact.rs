//! What is not to leave the process: bytes within objects that are never read, and values
//! of maps whose key says that they may be secret.

use core::mem::offset_of;

use riptrace_common::abi::{
    limits,
    program::{KEY_HASH_START, MAX_ALLOWED_KEY_BYTES, Slot, Type, key_hash_step},
};

use crate::{
    fetch,
    maps::{ALLOWED_KEYS, OBJECT_BYTES, SLOTS, Scratch},
    raw, scratch,
    walk::Context,
};

/// An address that no process can read, so that a read from it only writes zeros.
const NOWHERE: u64 = 1 << 63;

/// Copies what is kept of an object with holes (`TYPE_HAS_HOLES`) to an offset of the record; the rest is zero there.
/// Gives the bytes of the copy: fewer than asked for if it would take too many reads, 0 if one of them failed.
///
/// # Safety
/// The buffer was acquired, and there is room for the bytes.
#[inline(always)]
pub(crate) unsafe fn copy_kept(scratch: *mut Scratch, of: &Type, data: u64, bytes: u64, address: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let kept = &raw mut (*scratch).kept;
        (*kept).address = address;
        (*kept).data = data as u32;
        (*kept).bytes = bytes as u32;
        (*kept).element_bytes = of.bytes;
        (*kept).first = of.first_slot.wrapping_add(of.slots);
        (*kept).count = of.kept();
        riptrace_kept(scratch) as u64
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_kept(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `copy_kept`'s.
    unsafe {
        let kept = &raw mut (*scratch).kept;
        (*kept).element = 0;
        (*kept).index = 0;
        (*kept).faulted = 0;
        fetch::into_record(scratch, (*kept).data.into(), (*kept).bytes.into(), NOWHERE);
        let mut context = Context { scratch };
        raw::repeat(limits::MAX_KEPT_READS + 1, read_next, &mut context);
        if (*kept).faulted != 0 {
            return 0;
        }
        i64::from((*kept).element.min((*kept).bytes))
    }
}

/// Reads one run of one element. Gives 1 when there is nothing more to read.
unsafe extern "C" fn read_next(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `riptrace_kept`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let kept = &raw mut (*scratch).kept;
        let all = u64::from((*kept).bytes);
        if u64::from((*kept).element) >= all || (*kept).element_bytes == 0 {
            return 1;
        }
        if (*kept).index < (*kept).count {
            let Some(run) = SLOTS.get((*kept).first.wrapping_add((*kept).index)) else {
                (*kept).faulted = 1;
                return 1;
            };
            (*kept).index += 1;
            let at = u64::from((*kept).element) + u64::from(run.word);
            if at < all {
                let bytes = u64::from(run.count).min(all - at);
                let from = (*kept).address.wrapping_add(at);
                if !fetch::into_record(scratch, u64::from((*kept).data) + at, bytes, from) {
                    (*kept).faulted = 1;
                    return 1;
                }
            }
        }
        if (*kept).index >= (*kept).count {
            (*kept).index = 0;
            (*kept).element = (*kept).element.saturating_add((*kept).element_bytes);
        }
        0
    }
}

/// Whether the slot may be followed: it has no guard, or the key that guards it is an allowed one. `element`: where in the
/// record the slot's element begins; `end`: where its chunk ends.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn is_allowed(scratch: *mut Scratch, slot: &Slot, element: u64, end: u64) -> bool {
    if slot.guard == 0 {
        return true;
    }
    let key = element + u64::from(slot.guard) - 1;
    if key + 16 > end {
        return false;
    }
    // SAFETY: the caller's.
    unsafe {
        riptrace_is_key_allowed(scratch, scratch::word(scratch, key), scratch::word(scratch, key + 8)) != 0
    }
}

const _: () = assert!(offset_of!(Scratch, object) % 8 == 0 && MAX_ALLOWED_KEY_BYTES <= OBJECT_BYTES);

/// Whether the string is one of `ALLOWED_KEYS`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_is_key_allowed(scratch: *mut Scratch, address: u64, length: u64) -> i64 {
    if scratch.is_null() || length == 0 || length > MAX_ALLOWED_KEY_BYTES as u64 {
        return 0;
    }
    let mut hash = KEY_HASH_START;
    // SAFETY: the caller acquired the buffer.
    unsafe {
        let words = (&raw mut (*scratch).object).cast::<u64>();
        for index in 0..MAX_ALLOWED_KEY_BYTES / 8 {
            words.add(index).write_volatile(0);
        }
        if !fetch::into_object(scratch, length, address) {
            return 0;
        }
        for index in 0..MAX_ALLOWED_KEY_BYTES / 8 {
            hash = key_hash_step(hash, words.add(index).read_volatile());
        }
        // SAFETY: a value that is read at once.
        ALLOWED_KEYS.get(&hash).is_some_and(|&known| u64::from(known) == length).into()
    }
}

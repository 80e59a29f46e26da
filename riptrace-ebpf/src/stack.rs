//! The call stack, by frame pointers (Go keeps them).

use riptrace_common::abi::{
    limits,
    record::{FLAG_STACK_SENT, FLAG_STACK_TRUNCATED},
    stack,
};

use crate::{
    fetch,
    maps::{SENT_STACK_SLOTS, SENT_STACKS, STACK_BYTES, Scratch},
    raw, scratch,
};

struct Context {
    scratch: *mut Scratch,
}

/// Appends at most `wanted` frames behind the chunks, or the hash of frames that were sent before. Gives the bytes of
/// either.
///
/// # Safety
/// The buffer was acquired, and the walk of the chunks is done.
#[inline(always)]
pub(crate) unsafe fn append(scratch: *mut Scratch, wanted: u32, tgid: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        (*walk).frames = 0;
        (*walk).max_frames = wanted.min(limits::MAX_STACK_FRAMES);
        (*walk).stack_hash = stack::seed(tgid);
        if wanted != 0 {
            riptrace_stack(scratch);
        }
        let frames = (*walk).frames;
        if frames < stack::MIN_HASHED_FRAMES {
            (*walk).stack_hash = 0;
            return 8 * frames;
        }
        let hash = stack::finish((*walk).stack_hash, frames);
        let sent = SENT_STACKS.get_ptr_mut(stack::slot(hash, SENT_STACK_SLOTS.load()));
        if sent.is_none_or(|sent| sent.read_volatile() != hash) {
            (*walk).stack_hash = hash;
            return 8 * frames;
        }
        (*walk).stack_hash = 0;
        (*walk).frames = 0;
        (*walk).flags |= FLAG_STACK_SENT;
        raw::store_word(scratch::at(scratch, (*walk).used.into()), hash);
        8
    }
}

/// Marks the record's stack as sent. Only now: what refers to its frames lies behind them in the ring, and frames that
/// the ring had no room for are sent again.
///
/// # Safety
/// The buffer was acquired, and its record is in the ring.
#[inline(always)]
pub(crate) unsafe fn sent(scratch: *mut Scratch) {
    // SAFETY: the caller's; map values are valid.
    unsafe {
        let hash = (&raw const (*scratch).walk.stack_hash).read_volatile();
        if hash != 0
            && let Some(sent) = SENT_STACKS.get_ptr_mut(stack::slot(hash, SENT_STACK_SLOTS.load()))
        {
            sent.write_volatile(hash);
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn riptrace_stack(scratch: *mut Scratch) -> i64 {
    if scratch.is_null() {
        return 0;
    }
    // SAFETY: `append`'s.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        push(scratch, (*walk).ip);
        let (bp, cfa) = ((*walk).bp, (*walk).cfa);
        if cfa == 0 {
            (*walk).flags |= FLAG_STACK_TRUNCATED;
            return 0;
        }
        // Nothing of the stack is copied yet. Volatile: two zeros would become a call of `memset`.
        (&raw mut (*walk).stack_begin).write_volatile(0);
        (&raw mut (*walk).stack_end).write_volatile(0);
        (*walk).frame_pointer = bp;
        // The function's own frame record lies at CFA - 16 once its prologue has run (or always, if it keeps none).
        // Until then RBP is the caller's, and the return address lies only at CFA - 8.
        if bp != cfa.wrapping_sub(16) {
            if (*walk).max_frames == 1 {
                (*walk).flags |= FLAG_STACK_TRUNCATED;
                return 0;
            }
            let return_address = fetch::word(cfa.wrapping_sub(8));
            if return_address == 0 {
                return 0;
            }
            push(scratch, return_address);
        }
        let mut context = Context { scratch };
        raw::repeat(limits::MAX_STACK_FRAMES, step, &mut context);
    }
    0
}

#[inline(always)]
unsafe fn push(scratch: *mut Scratch, address: u64) {
    // SAFETY: the caller's.
    unsafe {
        let walk = &raw mut (*scratch).walk;
        let frames = (*walk).frames;
        let offset = u64::from((*walk).used) + 8 * u64::from(frames);
        raw::store_word(scratch::at(scratch, offset), address);
        (*walk).frames = frames + 1;
        (*walk).stack_hash = stack::mix((*walk).stack_hash, address);
    }
}

/// One frame: (saved frame pointer, return address) at the frame pointer. The target's stack is copied in pieces, since
/// a read costs by the call and not by the byte.
unsafe extern "C" fn step(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `append`'s context.
    unsafe {
        let scratch = (*context).scratch;
        let walk = &raw mut (*scratch).walk;
        let (pointer, hi) = ((*walk).frame_pointer, (*walk).stack_hi);
        // The outermost frame of a goroutine has no caller; anything else that is no frame ends the walk as well.
        if pointer < 4096 || pointer & 7 != 0 || (hi != 0 && pointer.wrapping_add(16) > hi) {
            return 1;
        }
        if (*walk).frames >= (*walk).max_frames {
            (*walk).flags |= FLAG_STACK_TRUNCATED;
            return 1;
        }
        if pointer < (*walk).stack_begin || pointer.wrapping_add(16) > (*walk).stack_end {
            let piece = if hi == 0 { 16 } else { hi.wrapping_sub(pointer).min(STACK_BYTES as u64) };
            if !fetch::into_stack(scratch, piece, pointer) {
                return 1;
            }
            (*walk).stack_begin = pointer;
            (*walk).stack_end = pointer.wrapping_add(piece);
        }
        let offset = raw::mask::<{ STACK_BYTES as i32 - 8 }>(pointer.wrapping_sub((*walk).stack_begin));
        let record = (&raw mut (*scratch).stack).cast::<u8>().add(offset as usize).cast::<u64>();
        let (next, return_address) = (record.read_volatile(), record.add(1).read_volatile());
        if return_address == 0 {
            return 1;
        }
        push(scratch, return_address);
        // Frames lie at growing addresses; a loop would never end.
        if next <= pointer {
            return 1;
        }
        (*walk).frame_pointer = next;
        0
    }
}

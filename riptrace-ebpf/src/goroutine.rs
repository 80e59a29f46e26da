//! Which goroutine trapped.
//!
//! Inside Go's own calling convention R14 is `g`; in C, in assembly (ABI0) and while stacks are switched it is not, so
//! it counts only if the stack pointer lies in that `g`'s stack. Else `g` is taken from thread-local storage, under the
//! same condition.

use riptrace_common::abi::{
    program::{IMAGE_HAS_RUNTIME, Image, NO_OFFSET},
    record::{FLAG_GOROUTINE, FLAG_SYSTEM_STACK},
};

use crate::{
    fetch,
    maps::{OBJECT_BYTES, Scratch},
    regs::Registers,
    scratch,
};

/// Nothing of Go's lies below.
const SMALLEST_POINTER: u64 = 4096;

/// Fills the header's goroutine fields; gives the `FLAG_*` bits and the upper end of the stack (0: unknown).
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn identify(scratch: *mut Scratch, image: &Image, registers: Registers) -> (u32, u64) {
    if image.flags & IMAGE_HAS_RUNTIME == 0 {
        return (0, 0);
    }
    let needed = needed_bytes(image);
    if needed > OBJECT_BYTES as u64 / 2 {
        return (0, 0);
    }
    // SAFETY: the caller's.
    unsafe {
        if !is_current(scratch, image, needed, registers.r14, registers.sp)
            && !is_current(scratch, image, needed, fetch::thread_local_g(image), registers.sp)
        {
            return (0, 0);
        }
        let stack_hi = scratch::object_word(scratch, image.g_stack_hi);
        if name(scratch, image) {
            return (FLAG_GOROUTINE, stack_hi);
        }
        // goid 0: a stack of the system (g0, gsignal), which runs for the thread's current goroutine, if any.
        let m = scratch::object_word(scratch, image.g_m);
        let current = fetch::word(m.wrapping_add(image.m_curg.into()));
        if current >= SMALLEST_POINTER && fetch::into_object(scratch, needed, current) && name(scratch, image)
        {
            return (FLAG_GOROUTINE | FLAG_SYSTEM_STACK, stack_hi);
        }
        (FLAG_SYSTEM_STACK, stack_hi)
    }
}

/// Copies `g` into `Scratch::object` and says whether the thread runs on its stack.
#[inline(always)]
unsafe fn is_current(scratch: *mut Scratch, image: &Image, needed: u64, g: u64, sp: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        g >= SMALLEST_POINTER
            && fetch::into_object(scratch, needed, g)
            && sp >= scratch::object_word(scratch, image.g_stack_lo)
            && sp < scratch::object_word(scratch, image.g_stack_hi)
    }
}

/// Writes the ids of the `g` in `Scratch::object` to the header, if it has one.
#[inline(always)]
unsafe fn name(scratch: *mut Scratch, image: &Image) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let goid = scratch::object_word(scratch, image.g_goid);
        if goid == 0 {
            return false;
        }
        let header = scratch::header(scratch);
        (*header).goid = goid;
        if image.g_parent_goid != NO_OFFSET {
            (*header).parent_goid = scratch::object_word(scratch, image.g_parent_goid);
        }
        (*header).gopc = scratch::object_word(scratch, image.g_gopc);
        true
    }
}

/// Bytes of `g` up to the last field that is read. No more: what follows `g` may not be mapped.
#[inline(always)]
fn needed_bytes(image: &Image) -> u64 {
    let mut last = image.g_stack_lo.max(image.g_stack_hi).max(image.g_m).max(image.g_goid).max(image.g_gopc);
    if image.g_parent_goid != NO_OFFSET {
        last = last.max(image.g_parent_goid);
    }
    u64::from(last) + 8
}

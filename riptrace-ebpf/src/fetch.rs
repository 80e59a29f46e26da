//! Every read of the target's memory. A read never faults pages in: what is not mapped and present is a fault.

use riptrace_common::abi::program::{IMAGE_HAS_TLS, Image};

use crate::{
    maps::{Scratch, TASK_FSBASE_OFFSET},
    raw, scratch,
};

/// Lengths are below 64 KiB.
const LENGTH_MASK: i32 = 0xffff;
/// Of `Scratch::object` and `Scratch::stack`.
const OBJECT_MASK: i32 = 0x3ff;
const STACK_MASK: i32 = 0xfff;

/// Copies into the record at `offset`. On a fault the bytes there are zero.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn into_record(scratch: *mut Scratch, offset: u64, bytes: u64, address: u64) -> bool {
    // SAFETY: 64 KiB follow the masked offset, and the masked length is below that.
    unsafe {
        let destination = scratch::at(scratch, offset);
        raw::probe_read_user(destination, raw::mask::<LENGTH_MASK>(bytes) as u32, address)
    }
}

/// As `into_record`, for code that has no branch on what came of it.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn try_into_record(
    scratch: *mut Scratch,
    offset: u64,
    bytes: u64,
    address: u64,
) -> raw::Read {
    // SAFETY: as for `into_record`.
    unsafe {
        let destination = scratch::at(scratch, offset);
        raw::read_user(destination, raw::mask::<LENGTH_MASK>(bytes) as u32, address)
    }
}

/// Copies into `Scratch::object`.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn into_object(scratch: *mut Scratch, bytes: u64, address: u64) -> bool {
    // SAFETY: the masked length is below the size of `object`.
    unsafe {
        let destination = (&raw mut (*scratch).object).cast();
        raw::probe_read_user(destination, raw::mask::<OBJECT_MASK>(bytes) as u32, address)
    }
}

/// Copies into `Scratch::stack`.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn into_stack(scratch: *mut Scratch, bytes: u64, address: u64) -> bool {
    // SAFETY: the masked length is below the size of `stack`.
    unsafe {
        let destination = (&raw mut (*scratch).stack).cast();
        raw::probe_read_user(destination, raw::mask::<STACK_MASK>(bytes) as u32, address)
    }
}

/// One word; 0 when it can't be read.
#[inline(always)]
pub(crate) fn word(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: eight bytes on the stack.
    unsafe { raw::probe_read_user((&raw mut value).cast(), 8, address) };
    value
}

/// `g` from thread-local storage; 0: unknown. Go sets the FS base with `arch_prctl` or `clone`, which keep it in the
/// task as well (arch/x86/kernel/process_64.c).
#[inline(always)]
pub(crate) fn thread_local_g(image: &Image) -> u64 {
    let offset = TASK_FSBASE_OFFSET.load();
    if offset == 0 || image.flags & IMAGE_HAS_TLS == 0 {
        return 0;
    }
    let mut fsbase = 0u64;
    // SAFETY: eight bytes on the stack.
    unsafe {
        raw::probe_read_kernel((&raw mut fsbase).cast(), 8, raw::current_task().wrapping_add(offset.into()))
    };
    if fsbase == 0 {
        return 0;
    }
    word(fsbase.wrapping_add(image.tls_g_offset.cast_unsigned()))
}

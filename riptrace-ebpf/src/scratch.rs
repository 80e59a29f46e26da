//! Taking and giving back scratch buffers, and reaching into them at offsets that the verifier can bound.

use riptrace_common::abi::{limits, record::Header};

use crate::{
    maps::{CPUS, MAX_SCRATCH_PER_CPU, SCRATCH, SCRATCH_PER_CPU, Scratch},
    raw,
};

/// Offsets in a record and lengths of copies are below 64 KiB; twice that is `Scratch::record`.
const RECORD_MASK: i32 = limits::MAX_RECORD_BYTES as i32 - 1;

/// A buffer of this CPU that no other hit uses; `None`: all are in use.
///
/// A counter of nested hits would not do: on a preemptible kernel, hits of several tasks overlap on one CPU and end in
/// any order.
#[inline(always)]
pub(crate) fn acquire(cpu: u32) -> Option<*mut Scratch> {
    let (cpus, buffers) = (CPUS.load(), SCRATCH_PER_CPU.load());
    let mut index = cpu;
    for nested in 0..MAX_SCRATCH_PER_CPU {
        if nested >= buffers {
            break;
        }
        let scratch = SCRATCH.get_ptr_mut(index)?;
        // SAFETY: a valid map value; `busy` is its first, aligned word.
        if unsafe { raw::atomic_compare_exchange(&raw mut (*scratch).busy, 0, 1) } == 0 {
            return Some(scratch);
        }
        index += cpus;
    }
    None
}

/// # Safety
/// The buffer was acquired and is not used any more.
#[inline(always)]
pub(crate) unsafe fn release(scratch: *mut Scratch) {
    // SAFETY: the caller's. A plain store is enough: who takes the buffer next runs on this CPU.
    unsafe { (&raw mut (*scratch).busy).write_volatile(0) };
}

/// The header of the record under construction.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn header(scratch: *mut Scratch) -> *mut Header {
    // SAFETY: the record begins with its header and is aligned to 8 (asserted in maps.rs).
    unsafe { (&raw mut (*scratch).record).cast() }
}

/// A place in the record: `offset` modulo 64 KiB. At least 64 KiB of the buffer follow it.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn at(scratch: *mut Scratch, offset: u64) -> *mut u8 {
    // SAFETY: the masked offset is within `record`.
    unsafe { (&raw mut (*scratch).record).cast::<u8>().add(raw::mask::<RECORD_MASK>(offset) as usize) }
}

/// The word at an offset of the record.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn word(scratch: *mut Scratch, offset: u64) -> u64 {
    // SAFETY: as for `at`; the kernel's architecture allows unaligned words.
    unsafe { raw::load_word(at(scratch, offset)) }
}

/// The byte at an offset of the record.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn byte(scratch: *mut Scratch, offset: u64) -> u8 {
    // SAFETY: as for `at`.
    unsafe { at(scratch, offset).read_volatile() }
}

/// A word of `Scratch::object`; offsets beyond its first half wrap.
///
/// # Safety
/// The buffer was acquired.
#[inline(always)]
pub(crate) unsafe fn object_word(scratch: *mut Scratch, offset: u32) -> u64 {
    // SAFETY: the masked offset is within the first half of `object`.
    unsafe {
        (&raw mut (*scratch).object)
            .cast::<u8>()
            .add(raw::mask::<OBJECT_MASK>(offset.into()) as usize)
            .cast::<u64>()
            .read_volatile()
    }
}

/// Half of `OBJECT_BYTES`, in words.
const OBJECT_MASK: i32 = 0x1f8;
const _: () = assert!(OBJECT_MASK as usize + 8 <= crate::maps::OBJECT_BYTES / 2);

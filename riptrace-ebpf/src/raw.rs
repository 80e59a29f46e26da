//! Helper calls of the kernel and single instructions; nothing else calls or encodes them.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::{bindings::pt_regs, helpers::generated as helpers};

/// `BPF_RB_NO_WAKEUP`: the agent drains on a timer.
const NO_WAKEUP: u64 = 1;

/// CLOCK_MONOTONIC.
#[inline(always)]
pub(crate) fn ktime_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// Thread group id in the upper half, thread id in the lower (initial pid namespace).
#[inline(always)]
pub(crate) fn pid_tgid() -> u64 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_get_current_pid_tgid() }
}

#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_get_prandom_u32() }
}

#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_get_smp_processor_id() }
}

#[inline(always)]
pub(crate) fn attach_cookie(context: *mut pt_regs) -> u64 {
    // SAFETY: `context` is the program's own context.
    unsafe { helpers::bpf_get_attach_cookie(context.cast()) }
}

#[inline(always)]
pub(crate) fn current_task() -> u64 {
    // SAFETY: no arguments.
    unsafe { helpers::bpf_get_current_task() }
}

/// Copies from the target's memory; on a fault the destination is zeroed. True: copied.
///
/// # Safety
/// `destination` has room for `bytes`.
#[inline(always)]
pub(crate) unsafe fn probe_read_user(destination: *mut u8, bytes: u32, address: u64) -> bool {
    // SAFETY: the caller's; the verifier checks it again.
    unsafe { helpers::bpf_probe_read_user(destination.cast(), bytes, address as *const c_void) == 0 }
}

/// What a read of the target gave.
#[derive(Clone, Copy)]
pub(crate) struct Read {
    result: i64,
}

impl Read {
    /// The word if the bytes were copied, 0 if they could not be read; by arithmetic, as in `where_bit`.
    #[inline(always)]
    pub(crate) fn or_zero(self, word: u64) -> u64 {
        where_bit(word, !self.result.cast_unsigned())
    }
}

/// As `probe_read_user`.
///
/// # Safety
/// `destination` has room for `bytes`.
#[inline(always)]
pub(crate) unsafe fn read_user(destination: *mut u8, bytes: u32, address: u64) -> Read {
    // SAFETY: the caller's; the verifier checks it again.
    Read {
        result: unsafe { helpers::bpf_probe_read_user(destination.cast(), bytes, address as *const c_void) },
    }
}

/// Copies from kernel memory; on a fault the destination is zeroed. True: copied.
///
/// # Safety
/// `destination` has room for `bytes`.
#[inline(always)]
pub(crate) unsafe fn probe_read_kernel(destination: *mut u8, bytes: u32, address: u64) -> bool {
    // SAFETY: the caller's; the verifier checks it again.
    unsafe { helpers::bpf_probe_read_kernel(destination.cast(), bytes, address as *const c_void) == 0 }
}

/// Calls `body(i, context)` for i in 0..times until it gives 1.
///
/// # Safety
/// `body` is a static function of the object that takes a `u64` and `context`'s type.
#[inline(always)]
pub(crate) unsafe fn repeat<T>(times: u32, body: unsafe extern "C" fn(u64, *mut T) -> i64, context: &mut T) {
    // SAFETY: the caller's.
    unsafe { helpers::bpf_loop(times, body as *mut c_void, core::ptr::from_mut(context).cast(), 0) };
}

/// Copies a record into the ring buffer. True: there was room.
///
/// # Safety
/// `record` has `bytes` bytes.
#[inline(always)]
pub(crate) unsafe fn ring_output(ring: *mut c_void, record: *const u8, bytes: u64) -> bool {
    // SAFETY: the caller's; the verifier checks it again.
    unsafe { helpers::bpf_ringbuf_output(ring, record.cast_mut().cast(), bytes, NO_WAKEUP) == 0 }
}

/// The smaller of two numbers below 2^63, without a branch.
#[inline(always)]
pub(crate) fn smaller(one: u64, other: u64) -> u64 {
    let difference = one.wrapping_sub(other);
    other.wrapping_add(where_bit(difference, difference))
}

/// `value & MASK`, opaque to the compiler, so that what the verifier is to learn is not optimised away.
#[inline(always)]
pub(crate) fn mask<const MASK: i32>(mut value: u64) -> u64 {
    // SAFETY: one arithmetic instruction on one register.
    unsafe {
        asm!("{value} &= {mask}", value = inout(reg) value, mask = const MASK, options(pure, nomem, nostack))
    };
    value
}

/// The word if the highest bit of the other is set, else zero. Arithmetic instead of a branch, of which the verifier would
/// follow both ways.
#[inline(always)]
pub(crate) fn where_bit(mut word: u64, bits: u64) -> u64 {
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!(
            "{bits} s>>= 63",
            "{word} &= {bits}",
            word = inout(reg) word,
            bits = inout(reg) bits => _,
            options(pure, nomem, nostack)
        )
    };
    word
}

/// The word at an address that need not be aligned: one instruction, where the compiler would make one for each byte.
///
/// # Safety
/// Eight bytes can be read there.
#[inline(always)]
pub(crate) unsafe fn load_word(from: *const u8) -> u64 {
    let word;
    // SAFETY: the caller's; the verifier checks it again.
    unsafe {
        asm!("{word} = *(u64 *)({from} + 0)", word = out(reg) word, from = in(reg) from, options(nostack, readonly))
    };
    word
}

/// Writes a word to an address that need not be aligned.
///
/// # Safety
/// Eight bytes can be written there.
#[inline(always)]
pub(crate) unsafe fn store_word(to: *mut u8, word: u64) {
    // SAFETY: the caller's; the verifier checks it again.
    unsafe { asm!("*(u64 *)({to} + 0) = {word}", to = in(reg) to, word = in(reg) word, options(nostack)) };
}

/// Atomic addition without a result.
///
/// # Safety
/// `target` is valid and aligned to 8.
#[inline(always)]
pub(crate) unsafe fn atomic_add(target: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u64 *)({target} + 0) += {value}", target = in(reg) target, value = in(reg) value, options(nostack))
    };
}

/// Atomic addition without a result, to 32 bits.
///
/// # Safety
/// `target` is valid and aligned to 4.
#[inline(always)]
pub(crate) unsafe fn atomic_add_u32(target: *mut u32, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("lock *(u32 *)({target} + 0) += {value}", target = in(reg) target, value = in(reg) u64::from(value), options(nostack))
    };
}

/// Atomic addition; gives what was there before.
///
/// # Safety
/// `target` is valid and aligned to 8.
#[inline(always)]
pub(crate) unsafe fn atomic_fetch_add(target: *mut u64, mut value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({target} + 0), {value})", target = in(reg) target, value = inout(reg) value, options(nostack));
    }
    value
}

/// Atomic compare-and-exchange; gives what was there before.
///
/// # Safety
/// `target` is valid and aligned to 8.
#[inline(always)]
pub(crate) unsafe fn atomic_compare_exchange(target: *mut u64, expected: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller's. The instruction compares with and answers in r0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({target} + 0, r0, {new})",
            target = in(reg) target,
            new = in(reg) new,
            inout("r0") expected => found,
            options(nostack)
        );
    }
    found
}

//! Whether a hit is captured. Runs before any read of the target.

use riptrace_common::abi::program::{ProcessKey, State, TRACEPOINT_PROCESS_SET, Tracepoint};

use crate::{
    maps::{PROCESSES, STATES},
    raw,
};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The hit's process is one that was asked for.
#[inline(always)]
pub(crate) fn process(index: u32, tracepoint: &Tracepoint, tgid: u32) -> bool {
    if tracepoint.tgid != 0 {
        return tracepoint.tgid == tgid;
    }
    if tracepoint.flags & TRACEPOINT_PROCESS_SET == 0 {
        return true;
    }
    // SAFETY: the value is not looked at.
    unsafe { PROCESSES.get(&ProcessKey { tracepoint: index, tgid }).is_some() }
}

/// Chance lets the hit through.
#[inline(always)]
pub(crate) fn sample(threshold: u32) -> bool {
    threshold == 0 || raw::random() < threshold
}

/// The rate lets the hit through: fewer than `rate_per_second` came before it in this second of the kernel's clock.
#[inline(always)]
pub(crate) fn rate(index: u32, rate_per_second: u32, ktime_ns: u64) -> bool {
    if rate_per_second == 0 {
        return true;
    }
    let Some(state) = STATES.get_ptr_mut(index) else { return false };
    // SAFETY: a valid map value.
    let window = unsafe { &raw mut (*state).rate_window };
    let second = ktime_ns / NS_PER_SECOND;
    // Two attempts settle it: whoever loses the race to open the new second counts in it. A third is for the case that
    // yet another second began in between.
    for _attempt in 0..3 {
        // SAFETY: as above.
        let seen = unsafe { window.read_volatile() };
        if seen >> 32 >= second {
            // Past the rate nothing is written, so that a hot line's CPUs do not fight for the word.
            if seen & 0xffff_ffff >= rate_per_second.into() {
                return false;
            }
            // SAFETY: as above.
            let before = unsafe { raw::atomic_fetch_add(window, 1) };
            return before & 0xffff_ffff < rate_per_second.into();
        }
        // SAFETY: as above.
        if unsafe { raw::atomic_compare_exchange(window, seen, second << 32 | 1) } == seen {
            return true;
        }
    }
    false
}

/// Takes one of the tracepoint's records. True: there was one left.
#[inline(always)]
pub(crate) fn take_slot(index: u32, tracepoint: &Tracepoint) -> bool {
    let limit = tracepoint.limit;
    if limit == 0 {
        return true;
    }
    let Some(state) = STATES.get_ptr_mut(limit_owner(index, tracepoint)) else { return false };
    let taken = limit_taken(state);
    // SAFETY: a valid map value.
    if unsafe { taken.read_volatile() } >= limit {
        return false;
    }
    // SAFETY: as above.
    if unsafe { raw::atomic_fetch_add(taken, 1) } < limit {
        return true;
    }
    // SAFETY: as above.
    unsafe { raw::atomic_add(taken, 1u64.wrapping_neg()) };
    false
}

/// Gives a record back that could not be written.
#[inline(always)]
pub(crate) fn give_slot_back(index: u32, tracepoint: &Tracepoint) {
    if tracepoint.limit != 0
        && let Some(state) = STATES.get_ptr_mut(limit_owner(index, tracepoint))
    {
        // SAFETY: a valid map value.
        unsafe { raw::atomic_add(limit_taken(state), 1u64.wrapping_neg()) };
    }
}

#[inline(always)]
fn limit_owner(index: u32, tracepoint: &Tracepoint) -> u32 {
    match tracepoint.limit_owner_plus_one {
        0 => index,
        owner => owner - 1,
    }
}

#[inline(always)]
fn limit_taken(state: *mut State) -> *mut u64 {
    // SAFETY: the address of a field; nothing is read.
    unsafe { &raw mut (*state).limit_taken }
}

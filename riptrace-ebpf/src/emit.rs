//! Every write to the ring buffer, and all counters.
//!
//! Counters are per CPU and still added to atomically: a hit can be preempted by another task's hit on the same CPU.

use riptrace_common::abi::program::{COST_BUCKETS, Counters, cost_bucket};

use crate::{
    maps::{COSTS, COUNTERS, CPU_RECORDS, RECORDS, STATES, Scratch},
    raw, scratch,
};

/// Records are at most 64 KiB; the next power of two bounds their length for the verifier.
const LENGTH_MASK: i32 = 0x1_ffff;

/// One tracepoint's counters on this CPU.
#[derive(Clone, Copy)]
pub(crate) struct Outcomes(*mut Counters);

macro_rules! counters {
    ($($name:ident),*) => {$(
        #[inline(always)]
        pub(crate) fn $name(self) {
            // SAFETY: a valid map value.
            unsafe { raw::atomic_add(&raw mut (*self.0).$name, 1) };
        }
    )*};
}

impl Outcomes {
    #[inline(always)]
    pub(crate) fn of(tracepoint: u32) -> Option<Self> {
        COUNTERS.get_ptr_mut(tracepoint).map(Self)
    }

    counters!(hits, emitted, filtered, throttled, dropped, failed, would_capture);

    #[inline(always)]
    pub(crate) fn ran(self, tracepoint: u32, ns: u64) {
        // SAFETY: a valid map value.
        unsafe { raw::atomic_add(&raw mut (*self.0).run_ns, ns) };
        if let Some(costs) = COSTS.get_ptr_mut(tracepoint) {
            let bucket = raw::mask::<{ COST_BUCKETS as i32 - 1 }>(cost_bucket(ns) as u64);
            // SAFETY: a valid map value, and the masked index is within it.
            unsafe { raw::atomic_add_u32((&raw mut (*costs).hits).cast::<u32>().add(bucket as usize), 1) };
        }
    }
}

/// Numbers the record and hands it to the ring buffer. True: there was room.
///
/// # Safety
/// The buffer was acquired and holds a record of `bytes` bytes.
#[inline(always)]
pub(crate) unsafe fn record(scratch: *mut Scratch, tracepoint: u32, bytes: u32) -> bool {
    // SAFETY: the caller's; map values are valid.
    unsafe {
        let header = scratch::header(scratch);
        if let Some(state) = STATES.get_ptr_mut(tracepoint) {
            (*header).seq = raw::atomic_fetch_add(&raw mut (*state).next_seq, 1);
        }
        if let Some(records) = CPU_RECORDS.get_ptr_mut(0) {
            (*header).cpu_seq = raw::atomic_fetch_add(records, 1);
        }
        let length = raw::mask::<LENGTH_MASK>(bytes.into());
        raw::ring_output((&raw const RECORDS).cast_mut().cast(), header.cast(), length)
    }
}

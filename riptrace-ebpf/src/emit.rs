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

    counters!(hits, emitted, filtered, throttled, dropped, failed, would_capture, passed);

    /// A capture took this long, and so did the `times - 1` that were not timed.
    #[inline(always)]
    pub(crate) fn ran(self, tracepoint: u32, ns: u64, times: u32) {
        // SAFETY: a valid map value.
        unsafe { raw::atomic_add(&raw mut (*self.0).run_ns, ns * u64::from(times)) };
        if let Some(costs) = COSTS.get_ptr_mut(tracepoint) {
            let bucket = raw::mask::<{ COST_BUCKETS as i32 - 1 }>(cost_bucket(ns) as u64);
            // SAFETY: a valid map value, and the masked index is within it.
            unsafe {
                raw::atomic_add_u32((&raw mut (*costs).hits).cast::<u32>().add(bucket as usize), times)
            };
        }
    }
}

/// The first captures of a tracepoint are timed one by one, later ones in samples: reading the clock again costs a hit
/// more than anything else that is not a read of the target.
const TIMED_ALL: u64 = 64;
const TIMED_ONE_IN: u64 = 16;

/// How many captures the time of the one with this number stands for; 0: it is not timed.
#[inline(always)]
pub(crate) fn timed(seq: u64) -> u32 {
    if seq < TIMED_ALL {
        1
    } else if seq % TIMED_ONE_IN == 0 {
        TIMED_ONE_IN as u32
    } else {
        0
    }
}

/// What became of a record.
#[derive(Clone, Copy)]
pub(crate) struct Handed {
    /// There was room.
    pub(crate) emitted: bool,
    /// The record's number.
    pub(crate) seq: u64,
}

/// Numbers the record and hands it to the ring buffer.
///
/// # Safety
/// The buffer was acquired and holds a record of `bytes` bytes.
#[inline(always)]
pub(crate) unsafe fn record(scratch: *mut Scratch, tracepoint: u32, bytes: u32) -> Handed {
    // SAFETY: the caller's; map values are valid.
    unsafe {
        let header = scratch::header(scratch);
        let mut seq = 0;
        if let Some(state) = STATES.get_ptr_mut(tracepoint) {
            seq = raw::atomic_fetch_add(&raw mut (*state).next_seq, 1);
        }
        (*header).seq = seq;
        if let Some(records) = CPU_RECORDS.get_ptr_mut(0) {
            (*header).cpu_seq = raw::atomic_fetch_add(records, 1);
        }
        let length = raw::mask::<LENGTH_MASK>(bytes.into());
        let emitted = raw::ring_output((&raw const RECORDS).cast_mut().cast(), header.cast(), length);
        Handed { emitted, seq }
    }
}

//! Hits for tests.

use std::sync::Arc;

use riptrace_common::wire::event::Hit;

use crate::store;

/// A hit of a tracepoint on host `h`, whose clock nobody corrected: its times are its number.
pub fn hit(tracepoint: &str, seq: u64) -> Hit {
    Hit {
        session: Some(Arc::from("s_1")),
        host: Arc::from("h"),
        boot_id: Arc::from("boot"),
        time_ns: seq,
        uncertainty_ns: None,
        clock_epoch: None,
        ktime_ns: seq * 1000,
        cpu_seq: seq,
        ..store::testing::hit(tracepoint, seq)
    }
}

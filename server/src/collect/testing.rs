//! Hits for tests.

use std::sync::Arc;

use riptrace_common::wire::{
    event::{Hit, Location, Trigger},
    number::Address,
};

/// A hit of a tracepoint.
pub fn hit(tracepoint: &str, seq: u64) -> Hit {
    let text = |text: &str| -> Arc<str> { Arc::from(text) };
    Hit {
        session: Some(text("s_1")),
        tracepoint: text(tracepoint),
        seq,
        host: text("h"),
        boot_id: text("boot"),
        agent: text("a_1"),
        pid: 7,
        process_start_ns: Some(1),
        tid: 7,
        process: text("orders"),
        build_id: None,
        container: None,
        goroutine: Some(1),
        parent_goroutine: None,
        system_stack: false,
        started_at: None,
        time: String::new(),
        time_ns: seq,
        uncertainty_ns: None,
        clock_epoch: None,
        ktime_ns: seq * 1000,
        cpu: 0,
        cpu_seq: seq,
        location: Location {
            file: text("main.go"),
            line: 7,
            function: text("main.main"),
            pc: Address(0x1000),
            inlined_into: None,
        },
        event: Trigger::Line,
        duration_ns: None,
        entry_seq: None,
        variables: Vec::new(),
        trace_id: None,
        span_id: None,
        edge: None,
        message: None,
        stack: None,
        stack_truncated: false,
        stack_unavailable: false,
        order: None,
        certificate: None,
        late: false,
    }
}

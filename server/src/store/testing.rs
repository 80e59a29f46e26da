//! Hits for tests.

use std::sync::Arc;

use riptrace_common::wire::event::{Hit, Location, Trigger};

/// A hit of a tracepoint of session `s`.
pub(crate) fn hit(tracepoint: &str, seq: u64) -> Hit {
    let time_ns = 1_795_608_000_000_000_000 + seq * 1000;
    Hit {
        session: Some(Arc::from("s")),
        tracepoint: Arc::from(tracepoint),
        seq,
        host: Arc::from("node-a"),
        boot_id: Arc::from("boot-a"),
        agent: Arc::from("a_1"),
        pid: 7,
        process_start_ns: Some(70),
        tid: 8,
        process: Arc::from("orders"),
        build_id: None,
        container: None,
        goroutine: Some(18),
        parent_goroutine: None,
        system_stack: false,
        started_at: None,
        time: "2026-11-25T12:00:00.000000000Z".to_owned(),
        time_ns,
        uncertainty_ns: Some(200),
        clock_epoch: Some(1),
        ktime_ns: 1_000_000 + seq * 1000,
        cpu: 0,
        cpu_seq: seq,
        location: Location {
            file: Arc::from("/src/orders/handler.go"),
            line: 42,
            function: Arc::from("main.Place"),
            pc: serde_json::from_str("\"0x4a1b2c\"").expect("an address"),
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

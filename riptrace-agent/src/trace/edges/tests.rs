use std::collections::BTreeMap;

use riptrace_common::wire::{
    event::{Location, Variable},
    number::{Address, Scalar},
    value::Kind,
};

use super::*;

const FIRST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn built_in(id: &str) -> &'static BuiltIn {
    BUILT_INS.iter().find(|built_in| built_in.id == id).unwrap()
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::String), value: Some(Scalar::Text(text.into())), ..Value::default() }
}

fn header(entries: &[(&str, &str)]) -> Value {
    let one = |(key, value): &(&str, &str)| {
        let values = Value { kind: Some(Kind::Slice), elems: Some(vec![text(value)]), ..Value::default() };
        (text(key), values)
    };
    Value { kind: Some(Kind::Map), entries: Some(entries.iter().map(one).collect()), ..Value::default() }
}

fn hit(event: Trigger, seq: u64, variables: &[(&str, Value)]) -> Hit {
    let location = Location {
        file: "roundtrip.go".into(),
        line: 1,
        function: "f".into(),
        pc: Address(1),
        inlined_into: None,
    };
    let json = serde_json::json!({
        "tracepoint": "t", "seq": seq, "host": "h", "boot_id": "b", "agent": "a", "pid": 1, "tid": 1, "process": "p",
        "goroutine": 7, "time": "", "time_ns": 0, "ktime_ns": 0, "cpu": 0, "cpu_seq": 0, "event": event,
        "location": location, "variables": [],
    });
    let mut hit: Hit = serde_json::from_value(json).unwrap();
    hit.variables = variables
        .iter()
        .map(|(name, value)| Variable { name: (*name).into(), role: Role::Argument, value: value.clone() })
        .collect();
    hit
}

fn returned(seq: u64, entry_seq: u64, error: Value) -> Hit {
    let mut hit = hit(Trigger::Return, seq, &[("err", error)]);
    hit.variables[0].role = Role::Return;
    Hit { entry_seq: Some(entry_seq), ..hit }
}

fn nil() -> Value {
    Value { nil: true, ..Value::default() }
}

#[test]
fn a_reply_carries_what_its_request_carried() {
    let client = built_in("builtin.http.client");
    let mut edges = Edges::default();
    let mut sent =
        hit(Trigger::Entry, 4, &[("req.Header", header(&[("Accept", "*/*"), ("Traceparent", FIRST)]))]);
    assert!(edges.apply(client, 1, &mut sent, None));
    let edge = sent.edge.unwrap();
    assert_eq!((edge.direction, &*edge.traceparent, &*edge.protocol), (Direction::Send, FIRST, "http"));
    assert_eq!(sent.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert!(sent.variables.is_empty());

    assert!(!edges.apply(client, 2, &mut returned(5, 4, nil()), None), "another tracepoint's call");
    let mut reply = returned(5, 4, nil());
    assert!(edges.apply(client, 1, &mut reply, None));
    let edge = reply.edge.unwrap();
    assert_eq!((edge.direction, &*edge.traceparent), (Direction::ReplyReceive, FIRST));
    assert_eq!((sent.seq, reply.seq), (0, 1), "edges are numbered without gaps");
    assert!(!edges.apply(client, 1, &mut returned(6, 4, nil()), None), "a call returns once");
}

#[test]
fn a_call_that_failed_has_no_reply() {
    let client = built_in("builtin.http.client");
    let error = Value { kind: Some(Kind::Interface), elem: Some(Box::default()), ..Value::default() };
    let unknown = Value { unavailable: Some(riptrace_common::wire::value::Unavailable::Fault), ..nil() };
    for result in [error, unknown] {
        let mut edges = Edges::default();
        let mut sent = hit(Trigger::Entry, 0, &[("req.Header", header(&[("Traceparent", FIRST)]))]);
        assert!(edges.apply(client, 1, &mut sent, None));
        assert!(!edges.apply(client, 1, &mut returned(1, 0, result), None));
        assert!(edges.open.is_empty());
    }
}

#[test]
fn what_carries_no_trace_context_is_no_edge() {
    let server = built_in("builtin.http.server");
    let mut edges = Edges::default();
    let nothing = [
        header(&[]),
        header(&[("Traceparent", "nonsense")]),
        header(&[("traceparent", FIRST)]),
        Value { unavailable: Some(riptrace_common::wire::value::Unavailable::Redacted), ..Value::default() },
    ];
    for header in nothing {
        assert!(!edges.apply(server, 1, &mut hit(Trigger::Entry, 0, &[("req.Header", header)]), None));
    }
    for event in [Trigger::Panic, Trigger::Goexit, Trigger::Return, Trigger::Line] {
        let mut hit = hit(event, 0, &[("req.Header", header(&[("Traceparent", FIRST)]))]);
        assert!(!edges.apply(server, 1, &mut hit, None));
    }
}

#[test]
fn a_context_that_is_returned_counts_if_a_message_brought_it() {
    let span = SpanContext::parse(FIRST);
    let mut edges = Edges::default();
    assert!(edges.apply(built_in("builtin.otel.inject"), 1, &mut hit(Trigger::Entry, 0, &[]), span));
    assert!(!edges.apply(built_in("builtin.otel.inject"), 1, &mut hit(Trigger::Entry, 1, &[]), None));
    let extract = built_in("builtin.otel.extract");
    assert!(!edges.apply(extract, 2, &mut returned(1, 0, nil()), span), "a span of this process");
    assert!(!edges.apply(extract, 2, &mut hit(Trigger::Entry, 0, &[]), span));
}

#[test]
fn calls_that_never_return_are_forgotten() {
    let mut edges = Edges::default();
    for seq in 0..2 * MAX_OPEN as u64 {
        edges.opened((1, seq), FIRST.into());
    }
    assert_eq!((edges.open.len(), edges.order.len()), (MAX_OPEN, MAX_OPEN));
    edges.forget(1);
    assert!(edges.open.is_empty() && edges.order.is_empty());
}

#[test]
fn every_built_in_tracepoint_can_be_asked_for() {
    let mut ids = BTreeMap::new();
    for built_in in &BUILT_INS {
        let wanted = built_in.wanted(built_in.functions[0]);
        assert!(built_in.id.starts_with("builtin."));
        assert!(ids.insert(built_in.id, ()).is_none());
        assert_eq!(wanted.when.is_some(), matches!(built_in.carrier, Carrier::Header(_)));
        assert_eq!(wanted.returns, built_in.end.is_some());
        assert!(built_in.entry.is_some() || built_in.end.is_some());
    }
}

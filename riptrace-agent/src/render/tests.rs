//! What the terminal and the JSON stream show.

use std::sync::Arc;

use riptrace_common::wire::{
    api::{Finality, StoredHit},
    event::{
        Attached, Certificate, DetachReason, Detached, ErrorEvent, Event, Frame, Hit, Location, Role,
        SiteInfo, Stats, Trigger, Variable, VariableInfo,
    },
    number::{Address, Scalar},
    value::{Field, Kind, Limit, Truncated, Unavailable, Value},
};

use super::{
    json,
    text::{self, TextOptions},
};

fn location() -> Location {
    Location {
        file: Arc::from("/src/orders/handler.go"),
        line: 42,
        function: Arc::from("main.(*Server).Place"),
        pc: Address(0x4a_1b2c),
        inlined_into: Some(Arc::from("main.main")),
    }
}

fn string(text: &str) -> Value {
    Value {
        value: Some(Scalar::Text(text.to_owned())),
        len: Some(text.len() as u64),
        ..Value::of(Arc::from("string"), Kind::String)
    }
}

fn hit() -> Hit {
    let int = |number| Value { value: Some(Scalar::Int(number)), ..Value::of(Arc::from("int"), Kind::Int) };
    let items = Value {
        len: Some(15),
        cap: Some(16),
        elems: Some(vec![string("a"), string("bb"), string("ccc")]),
        truncated: Some(Truncated { by: Limit::MaxItems, captured: 3 }),
        ..Value::of(Arc::from("[]string"), Kind::Slice)
    };
    let field = |name: &str, value| Field { name: Arc::from(name), embedded: false, value };
    let order = Value {
        fields: Some(vec![
            field("ID", int(7)),
            field("Name", string("wid\u{1b}[31mget\u{9b}2J")),
            field("Items", items),
            field(
                "Price",
                Value::unavailable(Arc::from("float64"), Kind::Float64, Unavailable::RegisterFloat),
            ),
        ]),
        ..Value::of(Arc::from("main.Order"), Kind::Struct)
    };
    let pointer = Value {
        addr: Some(Address(0xc0_0001_2018)),
        elem: Some(Box::new(order)),
        ..Value::of(Arc::from("*main.Order"), Kind::Pointer)
    };
    let error = Value {
        elem: Some(Box::new(Value {
            display: Some("boom\n\u{1b}]0;x\u{7}".to_owned()),
            ..Value::of(Arc::from("*errors.errorString"), Kind::Pointer)
        })),
        display: Some("boom\n\u{1b}]0;x\u{7}".to_owned()),
        ..Value::of(Arc::from("error"), Kind::Interface)
    };
    let gone = Value::unavailable(Arc::from("int"), Kind::Int, Unavailable::OptimizedOut);
    let variable = |name: &str, role, value| Variable { name: Arc::from(name), role, value };
    let frame = |function: &str, line, inlined| Frame {
        function: Arc::from(function),
        file: Arc::from("/src/orders/handler.go"),
        line,
        pc: Address(0x4a_1b2c),
        inlined,
    };
    Hit {
        session: None,
        tracepoint: Arc::from("t_01"),
        seq: 17,
        host: Arc::from("node-a"),
        boot_id: Arc::from("b0071d"),
        agent: Arc::from("a_01"),
        pid: 4242,
        process_start_ns: Some(77),
        tid: 4250,
        process: Arc::from("orders"),
        build_id: None,
        container: None,
        goroutine: Some(18),
        parent_goroutine: Some(1),
        system_stack: false,
        time: "2026-11-25T12:00:00.123456789Z".to_owned(),
        time_ns: 1_795_608_000_123_456_789,
        ktime_ns: 123_456_789_012,
        cpu: 1,
        cpu_seq: 812,
        location: location(),
        event: Trigger::Line,
        duration_ns: None,
        entry_seq: None,
        message: None,
        variables: vec![
            variable("o", Role::Argument, pointer),
            variable("err", Role::Local, error),
            variable("n", Role::Local, gone),
        ],
        stack: Some(vec![frame("main.(*Server).Place", 42, true), frame("main.main", 9, false)]),
        stack_truncated: true,
        stack_unavailable: false,
        started_at: None,
        uncertainty_ns: None,
        clock_epoch: None,
        trace_id: None,
        span_id: None,
        edge: None,
        order: None,
        certificate: None,
        late: false,
    }
}

fn events() -> Vec<Event> {
    let tracepoint: Arc<str> = Arc::from("t_01");
    let variable = |name: &str, unavailable| VariableInfo {
        name: Arc::from(name),
        role: Role::Local,
        type_name: Arc::from("int"),
        place: "rax".to_owned(),
        unavailable,
    };
    vec![
        Event::Attached(Attached {
            tracepoint: Arc::clone(&tracepoint),
            requested: "handler.go:42".to_owned(),
            executable: "/usr/bin/orders".to_owned(),
            redaction: "defaults".into(),
            sites: vec![SiteInfo {
                location: location(),
                event: Trigger::Line,
                instruction: "push rbp".to_owned(),
                fast: true,
                entry: None,
                choice: Arc::from(""),
                variables: vec![
                    variable("o", None),
                    variable("err", None),
                    variable("n", Some(Unavailable::OptimizedOut)),
                ],
            }],
            warnings: vec!["line 42 has no code, line 43 is used".to_owned()],
        }),
        Event::Hit(Box::new(hit())),
        Event::Stats(Stats {
            tracepoint: Arc::clone(&tracepoint),
            hits: 10,
            emitted: 8,
            throttled: 2,
            mean_run_ns: 1_250,
            seconds: 2.5,
            ..Stats::default()
        }),
        Event::Detached(Detached { tracepoint, reason: DetachReason::Limit }),
        Event::Error(ErrorEvent { tracepoint: None, message: "can't \u{1b}c\ndo it".to_owned() }),
    ]
}

#[test]
fn events_as_text() {
    let options = TextOptions { utc_offset_seconds: 3_600, show_host: true, max_value_chars: None };
    let shown: String = events().iter().map(|event| text::event(event, &options)).collect();
    assert!(shown.chars().all(|character| character == '\n' || !character.is_control()));
    insta::assert_snapshot!(shown);
}

#[test]
fn events_as_json_lines() {
    let shown: String = events().iter().map(json::line).collect();
    assert!(shown.chars().all(|character| character == '\n' || !character.is_control()));
    for (line, event) in shown.lines().zip(events()) {
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_hit_alone_is_the_line_of_its_event() {
    assert_eq!(json::hit_line(&hit()), json::line(&Event::Hit(Box::new(hit()))));
}

/// A hit of a story, with a variable that changes and one that does not.
fn stored(
    service: &str,
    goroutine: u64,
    order: u64,
    certificate: Option<Certificate>,
    total: i64,
) -> StoredHit {
    let of = |name: &str, kind, scalar| Variable {
        name: Arc::from(name),
        role: Role::Local,
        value: Value { value: Some(scalar), ..Value::of(Arc::from("T"), kind) },
    };
    let hit = Hit {
        goroutine: Some(goroutine),
        order: Some(order),
        certificate,
        uncertainty_ns: Some(120_001),
        variables: vec![
            of("total", Kind::Int64, Scalar::Int(total)),
            of("fixed", Kind::Bool, Scalar::Bool(true)),
        ],
        stack: None,
        stack_truncated: false,
        ..hit()
    };
    StoredHit { service: service.to_owned(), finality: Finality::Final, arrival: order, hit }
}

#[test]
fn a_story_says_why_and_marks_what_changed() {
    let mut story = text::Story::default();
    let hits = [
        stored("orders", 7, 1, None, 5),
        stored("payments", 9, 2, Some(Certificate::Message), 5),
        stored("orders", 7, 3, Some(Certificate::Reply), 6),
        stored("orders", 8, 4, Some(Certificate::Ambiguous), 6),
    ];
    let shown: String = hits.iter().map(|hit| story.hit(hit, &TextOptions::default())).collect();
    insta::assert_snapshot!(shown);
}

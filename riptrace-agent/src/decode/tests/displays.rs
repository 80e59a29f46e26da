//! Texts of well-known types.

use std::sync::Arc;

use riptrace_common::{
    abi::program::TYPE_BYTES,
    wire::{
        number::{Address, Scalar},
        value::{Field, Kind, Limit, Truncated, Value},
    },
};

use super::super::{
    display::{self, Lookups},
    testing::{Bench, Binary, Capture, index, words},
};
use crate::golang::types::{GoType, Shape, TypeId};

const HEAP: u64 = 0xc000_0000_1000;
const HEAP_2: u64 = 0xc000_0000_2000;

fn int(number: i64) -> Value {
    Value { value: Some(Scalar::Int(number)), ..Value::of(Arc::from("int"), Kind::Int) }
}

fn boolean(flag: bool) -> Value {
    Value { value: Some(Scalar::Bool(flag)), ..Value::of(Arc::from("bool"), Kind::Bool) }
}

fn string(text: &str) -> Value {
    Value {
        value: Some(Scalar::Text(text.to_owned())),
        len: Some(text.len() as u64),
        ..Value::of(Arc::from("string"), Kind::String)
    }
}

fn bytes(base64: &str) -> Value {
    shown(Value { base64: Some(base64.to_owned()), ..Value::of(Arc::from("net.IP"), Kind::Slice) })
}

fn list(elems: Vec<Value>) -> Value {
    Value { elems: Some(elems), ..Value::of(Arc::from("[]T"), Kind::Slice) }
}

fn structure(name: &str, fields: Vec<(&str, Value)>) -> Value {
    let fields = fields
        .into_iter()
        .map(|(name, value)| Field { name: Arc::from(name), embedded: false, value })
        .collect();
    shown(Value { fields: Some(fields), ..Value::of(Arc::from(name), Kind::Struct) })
}

fn interface(elem: Value) -> Value {
    shown(Value { elem: Some(Box::new(elem)), ..Value::of(Arc::from("error"), Kind::Interface) })
}

fn pointer(elem: Value) -> Value {
    shown(Value {
        elem: Some(Box::new(elem)),
        addr: Some(Address(HEAP)),
        ..Value::of(Arc::from("*T"), Kind::Pointer)
    })
}

fn nil() -> Value {
    Value { nil: true, ..Value::of(Arc::from("*T"), Kind::Pointer) }
}

/// Gives the value the text that decoding gives it.
fn shown(mut value: Value) -> Value {
    let ty = GoType {
        name: value.type_name.clone().unwrap(),
        bytes: 0,
        kind: value.kind.unwrap(),
        shape: Shape::Unknown,
        runtime_type: None,
    };
    let binary = Binary::default();
    let lookups = Lookups { symbols: &binary, locations: &std::collections::HashMap::new() };
    value.display = display::of(&value, &ty, lookups);
    value
}

fn time(wall: u64, ext: i64, loc: Value) -> Value {
    structure("time.Time", vec![("wall", int(wall.cast_signed())), ("ext", int(ext)), ("loc", loc)])
}

/// A location with one zone, as `time.FixedZone` makes it, or a cut one.
fn location(cache: Value) -> Value {
    let zone = structure(
        "time.zone",
        vec![("name", string("CET")), ("offset", int(3600)), ("isDST", boolean(false))],
    );
    let transition =
        |when, index| structure("time.zoneTrans", vec![("when", int(when)), ("index", int(index))]);
    pointer(structure(
        "time.Location",
        vec![
            ("name", string("Europe/Berlin")),
            ("zone", list(vec![zone])),
            ("tx", list(vec![transition(i64::MIN, 0), transition(1_000, 0)])),
            ("extend", string("")),
            ("cacheStart", int(i64::MIN)),
            ("cacheEnd", int(if cache.nil { i64::MIN } else { i64::MAX })),
            ("cacheZone", cache),
        ],
    ))
}

#[test]
fn times_are_shown_in_their_own_zone() {
    let unix = |seconds: i64| seconds + 62_135_596_800;
    let zone = || pointer(structure("time.zone", vec![("offset", int(-16_200))]));
    let cut = || Value {
        truncated: Some(Truncated { by: Limit::MaxDepth, captured: 0 }),
        addr: Some(Address(HEAP)),
        ..Value::of(Arc::from("*time.Location"), Kind::Pointer)
    };
    // 2026-11-25T12:00:00.5Z with a monotonic reading: seconds since 1885.
    let since_1885: u64 = 1_795_608_000 + 2_682_288_000;
    let monotonic = 1 << 63 | since_1885 << 30 | 500_000_000;
    for (value, expect) in [
        (time(0, 0, nil()), "0001-01-01T00:00:00Z"),
        (time(123_456_789, unix(1_795_608_000), nil()), "2026-11-25T12:00:00.123456789Z"),
        (time(monotonic, 42, nil()), "2026-11-25T12:00:00.5Z"),
        (time(0, unix(1_795_608_000), location(zone())), "2026-11-25T07:30:00-04:30"),
        (time(0, unix(1_795_608_000), location(nil())), "2026-11-25T13:00:00+01:00"),
        (time(0, unix(0), cut()), "1970-01-01T00:00:00Z (shown in UTC: its zone was not captured)"),
    ] {
        assert_eq!(value.display.as_deref(), Some(expect));
    }
    assert_eq!(time(1 << 30 | 1_073_741_823, 0, nil()).display, None);
    let cut = structure("time.Time", vec![("wall", int(0)), ("ext", cut()), ("loc", nil())]);
    assert_eq!(cut.display, None);
}

#[test]
fn a_zone_that_was_shown_before_is_remembered() {
    let mut bench = Bench::default();
    let (int, string, word) =
        (bench.types.int(), bench.types.string(), bench.types.scalar("uint64", Kind::Uint64, 8));
    let zone = bench.types.structure("time.zone", &[("name", string), ("offset", int)]);
    let zone_pointer = bench.types.pointer(zone);
    let location = bench.types.structure(
        "time.Location",
        &[("name", string), ("cacheStart", int), ("cacheEnd", int), ("cacheZone", zone_pointer)],
    );
    let location_pointer = bench.types.pointer(location);
    let time = bench.types.structure("time.Time", &[("wall", word), ("ext", int), ("loc", location_pointer)]);
    let two = bench.types.array(2, time);
    let one = [0, 62_135_596_800, HEAP];
    let capture = Capture::of(&words(&[one, one].concat()))
        .chunk(HEAP, index(location), &words(&[0, 0, 0, 1 << 40, HEAP_2]))
        .chunk(HEAP_2, index(zone), &words(&[0, 0, 7_200]));
    assert_eq!(
        bench.text(two, &capture),
        "[2]time.Time [1970-01-01T02:00:00+02:00,1970-01-01T02:00:00+02:00]"
    );
}

#[test]
fn named_numbers_are_shown_with_their_names() {
    let mut bench = Bench::default();
    bench.binary.constants.insert("main.Status", vec![("main.StatusNew", 1), ("main.StatusPaid", 2)]);
    let status = bench.types.scalar("main.Status", Kind::Uint8, 1);
    let duration = bench.types.scalar("time.Duration", Kind::Int64, 8);
    let errno = bench.types.scalar("syscall.Errno", Kind::Uintptr, 8);
    for (ty, data, expect) in [
        (status, vec![2], "StatusPaid (2)"),
        (status, vec![9], "9"),
        (duration, words(&[1_500_000_000]), "1.5s"),
        (errno, words(&[2]), "no such file or directory"),
        (errno, words(&[4095]), "errno 4095"),
    ] {
        assert_eq!(bench.text(ty, &Capture::of(&data)), expect);
    }
}

#[test]
fn a_named_string_in_the_heap_is_no_error_text_when_it_is_cut() {
    let mut bench = Bench::default();
    bench.limits.max_string = 4;
    let string = bench.types.string();
    let error = bench.types.structure("errors.errorString", &[("s", string)]);
    let pointer = bench.types.pointer(error);
    let at = |text: &[u8], len| {
        Capture::of(&words(&[HEAP]))
            .chunk(HEAP, index(error), &words(&[HEAP_2, len]))
            .chunk(HEAP_2, TYPE_BYTES, text)
    };
    assert_eq!(bench.text(pointer, &at(b"boom", 4)), "*errors.errorString(boom)");
    assert_eq!(bench.text(pointer, &at(b"boom", 9)), r#"*errors.errorString {s: "boom"…+5 more}"#);
    assert_eq!(TypeId(0), string);
}

#[test]
fn errors_say_what_their_method_would() {
    let not_found = || interface(Value { display: Some("no such file or directory".to_owned()), ..int(2) });
    let boom = || interface(pointer(structure("errors.errorString", vec![("s", string("boom"))])));
    let address = |base64: &str, port| {
        interface(pointer(structure(
            "net.TCPAddr",
            vec![("IP", bytes(base64)), ("Port", int(port)), ("Zone", string(""))],
        )))
    };
    let cut =
        || Value { truncated: Some(Truncated { by: Limit::MaxDepth, captured: 0 }), ..Value::default() };
    for (value, expect) in [
        (
            structure(
                "io/fs.PathError",
                vec![("Op", string("open")), ("Path", string("/x")), ("Err", not_found())],
            ),
            Some("open /x: no such file or directory"),
        ),
        (
            structure(
                "io/fs.PathError",
                vec![("Op", string("open")), ("Path", string("/x")), ("Err", cut())],
            ),
            None,
        ),
        (structure("fmt.wrapError", vec![("msg", string("f: boom")), ("err", boom())]), Some("f: boom")),
        (structure("errors.joinError", vec![("errs", list(vec![boom(), boom()]))]), Some("boom\nboom")),
        (
            structure(
                "strconv.NumError",
                vec![("Func", string("Atoi")), ("Num", string("x")), ("Err", boom())],
            ),
            Some(r#"strconv.Atoi: parsing "x": boom"#),
        ),
        (
            structure(
                "net.OpError",
                vec![
                    ("Op", string("dial")),
                    ("Net", string("tcp")),
                    ("Source", nil()),
                    ("Addr", address("CgAAAQ==", 80)),
                    ("Err", boom()),
                ],
            ),
            Some("dial tcp 10.0.0.1:80: boom"),
        ),
        (
            structure(
                "net.OpError",
                vec![
                    ("Op", string("read")),
                    ("Net", string("tcp")),
                    ("Source", address("AAAAAAAAAAAAAAAAAAAAAQ==", 5)),
                    ("Addr", address("fwAAAQ==", 6)),
                    ("Err", boom()),
                ],
            ),
            Some("read tcp [::1]:5->127.0.0.1:6: boom"),
        ),
        (
            structure(
                "net.DNSError",
                vec![
                    ("Err", string("no such host")),
                    ("Name", string("x")),
                    ("Server", string("1.1.1.1:53")),
                ],
            ),
            Some("lookup x on 1.1.1.1:53: no such host"),
        ),
        (structure("context.deadlineExceededError", vec![]), Some("context deadline exceeded")),
        (structure("main.Own", vec![("s", string("boom"))]), None),
    ] {
        assert_eq!(value.display.as_deref(), expect, "{:?}", value.type_name);
    }
    assert_eq!(boom().display.as_deref(), Some("boom"));
}

#[test]
fn locks_and_atomics_show_their_state() {
    let atomic = |number| structure("sync/atomic.Int32", vec![("_", nil()), ("v", int(number))]);
    let mutex = |state| {
        let inner = structure("internal/sync.Mutex", vec![("state", int(state)), ("sema", int(0))]);
        structure("sync.Mutex", vec![("_", nil()), ("mu", inner)])
    };
    let rw = |count, wait, writer| {
        structure(
            "sync.RWMutex",
            vec![("w", mutex(writer)), ("readerCount", atomic(count)), ("readerWait", atomic(wait))],
        )
    };
    for (value, expect) in [
        (mutex(0), "unlocked"),
        (mutex(1), "locked"),
        (mutex(1 | 2 | 4 | 2 << 3), "locked, starving, 2 waiters"),
        (structure("sync.Mutex", vec![("state", int(1 | 1 << 3)), ("sema", int(0))]), "locked, 1 waiter"),
        (rw(0, 0, 0), "unlocked"),
        (rw(2, 0, 0), "read-locked by 2"),
        (rw(-(1 << 30), 0, 1), "write-locked"),
        (rw(1 - (1 << 30), 0, 1), "write-locked, 1 waiting reader"),
        (rw(2 - (1 << 30), 2, 1), "read-locked by 2, a writer waits"),
        (structure("sync.Once", vec![("done", int(1))]), "done"),
        (
            structure(
                "sync.WaitGroup",
                vec![("state", structure("sync/atomic.Uint64", vec![("v", int(2 << 32 | 1))]))],
            ),
            "counter 2, 1 waiter",
        ),
        (structure("sync/atomic.Bool", vec![("v", int(1))]), "true"),
        (atomic(-3), "-3"),
    ] {
        assert_eq!(value.display.as_deref(), Some(expect));
    }
}

#[test]
fn addresses_and_big_numbers_are_written_out() {
    let detail = |v6, zone: &str| {
        let detail = structure("net/netip.addrDetail", vec![("isV6", boolean(v6)), ("zoneV6", string(zone))]);
        structure("unique.Handle[net/netip.addrDetail]", vec![("value", pointer(detail))])
    };
    let address = |hi: i64, lo: i64, z| {
        let number = structure("net/netip.uint128", vec![("hi", int(hi)), ("lo", int(lo))]);
        structure("net/netip.Addr", vec![("addr", number), ("z", z)])
    };
    let number = |negative, words: Vec<i64>| {
        let words = list(words.into_iter().map(int).collect());
        structure("math/big.Int", vec![("neg", boolean(negative)), ("abs", words)])
    };
    let v4 = || address(0, 0xffff_0a00_0001, detail(false, ""));
    for (value, expect) in [
        (bytes("CgAAAQ=="), Some("10.0.0.1")),
        (bytes("AAAAAAAAAAAAAP//CgAAAQ=="), Some("10.0.0.1")),
        (bytes("IAENuAAAAAAAAAAAAAAAAQ=="), Some("2001:db8::1")),
        (bytes("CgAA"), None),
        (bytes(""), Some("<nil>")),
        (Value { nil: true, ..bytes("") }, Some("<nil>")),
        (v4(), Some("10.0.0.1")),
        (address(0, 0xffff_0a00_0001, detail(true, "")), Some("::ffff:10.0.0.1")),
        (address(0xfe80 << 48, 1, detail(true, "eth0")), Some("fe80::1%eth0")),
        (address(0, 0, structure("unique.Handle", vec![("value", nil())])), Some("invalid IP")),
        (structure("net/netip.AddrPort", vec![("ip", v4()), ("port", int(80))]), Some("10.0.0.1:80")),
        (structure("net/netip.Prefix", vec![("ip", v4()), ("bitsPlusOne", int(9))]), Some("10.0.0.1/8")),
        (number(false, vec![]), Some("0")),
        (number(true, vec![7]), Some("-7")),
        (number(false, vec![0, 1]), Some("18446744073709551616")),
        (number(false, vec![0, 0, 1]), Some("340282366920938463463374607431768211456")),
        (
            structure("math/big.Rat", vec![("a", number(true, vec![1])), ("b", number(false, vec![3]))]),
            Some("-1/3"),
        ),
    ] {
        assert_eq!(value.display.as_deref(), expect);
    }
    let uuid = Value {
        elems: Some((0..16).map(int).collect()),
        len: Some(16),
        ..Value::of(Arc::from("github.com/google/uuid.UUID"), Kind::Array)
    };
    assert_eq!(shown(uuid).display.as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
}

#[test]
fn contexts_show_their_chain() {
    let background = || {
        let empty = structure("context.emptyCtx", vec![]);
        interface(structure("context.backgroundCtx", vec![("emptyCtx", empty)]))
    };
    let cancel = |parent, error| structure("context.cancelCtx", vec![("Context", parent), ("err", error)]);
    let key = Value::of(Arc::from("main.key"), Kind::Int);
    let canceled =
        interface(pointer(structure("errors.errorString", vec![("s", string("context canceled"))])));
    let value = |parent| {
        interface(pointer(structure(
            "context.valueCtx",
            vec![("Context", parent), ("key", interface(key.clone())), ("val", nil())],
        )))
    };
    let timer = |parent| {
        interface(pointer(structure(
            "context.timerCtx",
            vec![("cancelCtx", cancel(parent, nil())), ("timer", nil()), ("deadline", time(0, 0, nil()))],
        )))
    };
    let cut = Value { truncated: Some(Truncated { by: Limit::MaxDepth, captured: 0 }), ..Value::default() };
    for (value, expect) in [
        (background(), "context.Background"),
        (interface(pointer(cancel(background(), nil()))), "context.Background.WithCancel"),
        (
            interface(pointer(cancel(background(), canceled))),
            "context.Background.WithCancel [context canceled]",
        ),
        (
            timer(value(background())),
            "context.Background.WithValue(main.key).WithDeadline(0001-01-01T00:00:00Z)",
        ),
        (value(cut), "….WithValue(main.key)"),
    ] {
        assert_eq!(value.display.as_deref(), Some(expect));
    }
}

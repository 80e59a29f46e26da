//! What a record holds.

use riptrace_agent::probe::Scope;
use riptrace_common::abi::{
    limits,
    program::{
        ACTION_EMPTY_INTERFACE, ACTION_FUNC, ACTION_INTERFACE, COUNT_ONE, DYNAMIC_CODE, DYNAMIC_FOLLOW,
        DYNAMIC_TYPE, Dynamic, DynamicKey, LIMIT_FIXED, Slot, TYPE_BYTES, TYPE_CLOSURE_WORD, TYPE_FIRST,
        TYPE_ITAB, TYPE_TORN_CHECK, TYPE_UNKNOWN, Tracepoint, WINDOW_IMAGE, WINDOW_IMAGE_ADDRESS,
        WINDOW_STACK, WINDOW_STACK_ADDRESS, Window, register,
    },
    record::{
        CHUNK_CUT_BYTES, CHUNK_FAULT, FLAG_BYTES_EXHAUSTED, FLAG_GOROUTINE, FLAG_STACK_TRUNCATED,
        FLAG_STEPS_EXHAUSTED, FLAG_SYSTEM_STACK, Header,
    },
};

use super::{
    record::{Record, word},
    session::{Session, TypePlan, pointer, site, slice, string, tracepoint, with_windows},
    target::{Build, Target},
};

/// One call of `call`, which reaches `function`, with these types and root slots.
fn one_hit(
    call: &str,
    function: &str,
    tracepoint: &Tracepoint,
    types: &[TypePlan],
    root_slots: Vec<Slot>,
) -> Option<(Target, Record)> {
    let mut target = Target::start(Build::Static);
    let mut session = Session::new(&target, tracepoint)?;
    session.upload(types);
    let plan = site(&target, function, root_slots);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call(call, 1, 1);
    let mut records = session.records();
    assert_eq!(session.counters().hits, 1);
    assert_eq!(records.len(), 1);
    let record = records.remove(0);
    assert_eq!(record.header.flags & !FLAG_GOROUTINE, 0, "{:x?}", record.header);
    Some((target, record))
}

#[test]
fn the_header_names_thread_goroutine_and_place() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let (sites, _) =
        session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 3, 1);
    let records = session.records();
    assert_eq!(records.len(), 3);
    for (index, record) in records.iter().enumerate() {
        let Header { site, generation, tracepoint, seq, tgid, tid, goid, parent_goid, load_bias, .. } =
            record.header;
        assert_eq!((site, generation), (sites[0].index, sites[0].generation));
        assert_eq!((tracepoint, seq, tgid), (session.tracepoint, index as u64, target.pid()));
        assert!(std::path::Path::new(&format!("/proc/{tgid}/task/{tid}")).exists());
        assert_eq!(record.header.flags, FLAG_GOROUTINE);
        assert!(goid > 1, "the call is made by a goroutine of its own");
        assert_eq!(parent_goid, 1, "which main started");
        assert_eq!(load_bias, 0);
        assert!(record.header.frame_from_stack_hi > 0 && record.header.frame_from_stack_hi < 2048);
        assert_eq!(record.register(register::RIP), target.symbol("main.Ints"));
        assert_eq!(record.register(register::RAX).cast_signed(), -5);
        assert_eq!(record.register(register::RBX) as u32, 77);
        assert_eq!(record.register(register::RCX) & 0xff, 1);
        assert_eq!(record.chunks.len(), 1);
    }
    assert!(records.windows(2).all(|pair| pair[0].header.ktime_ns < pair[1].header.ktime_ns));
    let counters = session.counters();
    assert_eq!((counters.hits, counters.emitted), (3, 3));
    assert!(counters.run_ns > 0);
}

#[test]
fn a_position_independent_executable_has_a_bias() {
    let mut target = Target::start(Build::Pie);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let address = target.symbol("main.numbers");
    let windows = vec![
        Window {
            base: WINDOW_IMAGE,
            offset: address.cast_signed(),
            root_offset: 168,
            bytes: 24,
            reserved: 0,
        },
        Window {
            base: WINDOW_IMAGE_ADDRESS,
            offset: address.cast_signed(),
            root_offset: 192,
            bytes: 8,
            reserved: 0,
        },
    ];
    let plan = with_windows(site(&target, "main.Ints", vec![]), windows);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call("Ints", 1, 1);
    let records = session.records();
    let record = &records[0];
    let bias = record.header.load_bias;
    assert_ne!(bias, 0);
    assert_eq!(record.register(register::RIP), target.symbol("main.Ints") + bias);
    assert_eq!((record.root_word(176), record.root_word(184)), (20_000, 20_000));
    assert_eq!(record.root_word(192), address + bias);
    assert_eq!(record.header.flags, FLAG_GOROUTINE);
}

#[test]
fn windows_copy_the_stack_and_a_fault_leaves_zeros() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let windows = vec![
        Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 16, reserved: 0 },
        Window { base: WINDOW_IMAGE, offset: 0x10, root_offset: 184, bytes: 64, reserved: 0 },
        Window { base: WINDOW_STACK_ADDRESS, offset: -32, root_offset: 248, bytes: 8, reserved: 0 },
    ];
    let plan = with_windows(site(&target, "main.Ints", vec![]), windows);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call("Ints", 1, 1);
    let record = &session.records()[0];
    let return_address = record.root_word(168);
    let (text, code) = target.executable.text();
    assert!((text..text + code.len() as u64).contains(&return_address), "{return_address:#x}");
    assert_eq!(record.header.window_faults, 0b010);
    assert!(record.root()[184..248].iter().all(|&byte| byte == 0));
    assert_eq!(record.root_word(248), record.register(register::RSP) - 32);
}

#[test]
fn a_string_is_copied_up_to_the_limit() {
    let slots = || vec![string(register::RAX, register::RBX)];
    let Some((_target, record)) = one_hit("Text", "main.Text", &tracepoint(), &[], slots()) else { return };
    assert_eq!(record.data(record.register(register::RAX), TYPE_BYTES), b"hello, kernel");

    let (_target, record) = one_hit("Long", "main.Text", &tracepoint(), &[], slots()).unwrap();
    let (chunk, data) = record.chunk(record.register(register::RAX), TYPE_BYTES).unwrap();
    assert_eq!((chunk.count, chunk.bytes, chunk.depth, chunk.flags), (1000, 256, 0, 0));
    assert!(data.iter().all(|&byte| byte == 0));

    let (_target, record) = one_hit("Empty", "main.Text", &tracepoint(), &[], slots()).unwrap();
    assert_eq!(record.chunks.len(), 1, "an empty string leads nowhere");
}

#[test]
fn a_slice_of_strings_leads_to_their_bytes() {
    let element = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let slots = vec![slice(register::RAX, register::RBX, TYPE_FIRST)];
    let Some((_target, record)) = one_hit("Texts", "main.Texts", &tracepoint(), &[element], slots) else {
        return;
    };
    let (chunk, elements) = record.chunk(record.register(register::RAX), TYPE_FIRST).unwrap();
    assert_eq!((chunk.count, chunk.bytes, chunk.depth), (4, 64, 1));
    let expected: [&[u8]; 4] = [b"alpha", b"", b"gamma ray", &[0xff, 0, 0xfe]];
    for (index, expected) in expected.iter().enumerate() {
        let (address, length) = (word(elements, 16 * index), word(elements, 16 * index + 8));
        assert_eq!(length, expected.len() as u64);
        if length != 0 {
            assert_eq!(&record.data(address, TYPE_BYTES), expected);
        }
    }
    assert_eq!(record.chunks.len(), 5);
}

#[test]
fn repeated_slots_stand_for_the_words_of_an_array() {
    // The same four strings, seen as one array of 64 bytes.
    let repeated = Slot { repeat: 4, stride: 16, ..string(0, 8) };
    let array = TypePlan { bytes: 64, slots: vec![repeated], ..TypePlan::default() };
    let slots = vec![pointer(register::RAX, TYPE_FIRST)];
    let Some((_target, record)) = one_hit("Texts", "main.Texts", &tracepoint(), &[array], slots) else {
        return;
    };
    let elements = record.data(record.register(register::RAX), TYPE_FIRST);
    assert_eq!(record.data(word(elements, 0), TYPE_BYTES), b"alpha");
    assert_eq!(record.data(word(elements, 32), TYPE_BYTES), b"gamma ray");
    assert_eq!(record.data(word(elements, 48), TYPE_BYTES), [0xff, 0, 0xfe]);
    assert_eq!(record.chunks.len(), 5);
}

fn node() -> TypePlan {
    TypePlan { bytes: 32, slots: vec![string(0, 8), pointer(16, TYPE_FIRST)], ..TypePlan::default() }
}

#[test]
fn pointers_lead_to_structs_as_deep_as_asked() {
    let slots = || vec![pointer(register::RAX, TYPE_FIRST)];
    let Some((target, record)) = one_hit("Pointer", "main.Pointer", &tracepoint(), &[node()], slots()) else {
        return;
    };
    let (chunk, first) = record.chunk(target.fact("first"), TYPE_FIRST).unwrap();
    assert_eq!((chunk.depth, word(first, 24)), (1, 1));
    assert_eq!(record.data(word(first, 0), TYPE_BYTES), b"first");
    let (chunk, second) = record.chunk(target.fact("second"), TYPE_FIRST).unwrap();
    assert_eq!((chunk.depth, word(second, 24)), (2, 2));
    assert_eq!(record.data(word(second, 0), TYPE_BYTES), b"second");

    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let (target, record) = one_hit("Pointer", "main.Pointer", &shallow, &[node()], slots()).unwrap();
    assert!(record.chunk(target.fact("first"), TYPE_FIRST).is_some());
    assert!(record.chunk(target.fact("second"), TYPE_FIRST).is_none(), "one level deeper than asked");
    assert_eq!(record.chunks.len(), 3, "the first node's name is no deeper than the node");
}

#[test]
fn a_cycle_is_copied_once() {
    let deep = Tracepoint { max_depth: 100, ..tracepoint() };
    let slots = vec![pointer(register::RAX, TYPE_FIRST)];
    let Some((target, record)) = one_hit("Cycle", "main.Pointer", &deep, &[node()], slots) else { return };
    assert_eq!(record.chunks.len(), 3, "root, node, name: {:#x?}", record.heads());
    assert_eq!(word(record.data(target.fact("cycle"), TYPE_FIRST), 16), target.fact("cycle"));
}

#[test]
fn a_map_header_is_checked_for_change() {
    // Go 1.24 and later: `used` is the first word of a map.
    let map = TypePlan { bytes: 48, flags: TYPE_TORN_CHECK, ..TypePlan::default() };
    let slots = vec![pointer(register::RAX, TYPE_FIRST)];
    let Some((_target, record)) = one_hit("Map", "main.Map", &tracepoint(), &[map], slots) else { return };
    let (chunk, header) = record.chunk(record.register(register::RAX), TYPE_FIRST).unwrap();
    assert_eq!((word(header, 0), chunk.flags), (3, 0));
}

pub(crate) fn interface(word: u32, data: u32, action: u8) -> Slot {
    Slot {
        word,
        count: data,
        action,
        repeat: 1,
        deeper: 1,
        count_rule: COUNT_ONE,
        limit: LIMIT_FIXED,
        max_count: 1,
        ..Slot::default()
    }
}

#[test]
fn unknown_dynamic_types_are_copied_raw_with_their_type_word() {
    let slots = vec![
        interface(register::RAX, register::RBX, ACTION_INTERFACE),
        interface(register::RCX, register::RDI, ACTION_EMPTY_INTERFACE),
    ];
    let Some((target, record)) = one_hit("Iface", "main.Iface", &tracepoint(), &[], slots) else { return };
    let itab = record.data(record.register(register::RAX), TYPE_ITAB);
    assert_eq!(word(itab, 0), target.fact("Square"));
    let (chunk, square) = record.chunk(record.register(register::RBX), TYPE_UNKNOWN).unwrap();
    assert_eq!((chunk.bytes, chunk.count, chunk.depth), (24, 24, 1));
    assert_eq!((f64::from_bits(word(square, 0)), word(square, 16)), (1.5, 6));
    assert_eq!(record.register(register::RCX), target.fact("Small"));
    let small = record.data(record.register(register::RDI), TYPE_UNKNOWN);
    assert_eq!((word(small, 0), word(small, 8)), (11, 22));

    // A nil interface leads nowhere, and a pointer in an interface of unknown type is not followed.
    let slots = vec![
        interface(register::RAX, register::RBX, ACTION_INTERFACE),
        interface(register::RCX, register::RDI, ACTION_EMPTY_INTERFACE),
    ];
    let (target, record) = one_hit("Direct", "main.Iface", &tracepoint(), &[], slots).unwrap();
    assert_eq!(record.register(register::RDI), target.fact("first"));
    assert_eq!(record.chunks.len(), 1);
}

#[test]
fn known_dynamic_types_are_followed() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let square = TypePlan { bytes: 24, slots: vec![string(8, 16)], ..TypePlan::default() };
    session.upload(&[square]);
    let key = DynamicKey { link_address: target.fact("Square"), image: session.image, kind: DYNAMIC_TYPE };
    let value = Dynamic { target: TYPE_FIRST, how: DYNAMIC_FOLLOW };
    let upload = riptrace_agent::plan::types::Upload { dynamic: vec![(key, value)], ..Default::default() };
    session.kernel.upload(&upload).unwrap();
    let slots = vec![interface(register::RAX, register::RBX, ACTION_INTERFACE)];
    let plan = site(&target, "main.Iface", slots);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call("Iface", 1, 1);
    let record = &session.records()[0];
    let square = record.data(record.register(register::RBX), TYPE_FIRST);
    assert_eq!(record.data(word(square, 8), TYPE_BYTES), b"tagged");
}

#[test]
fn a_func_value_is_its_code_or_its_closure() {
    let slots =
        || vec![Slot { word: register::RAX, action: ACTION_FUNC, repeat: 1, deeper: 1, ..Slot::default() }];
    let Some((_target, record)) = one_hit("Func", "main.Func", &tracepoint(), &[], slots()) else { return };
    let closure = record.data(record.register(register::RAX), TYPE_CLOSURE_WORD).to_vec();

    let mut target = Target::start(Build::Static);
    let mut session = Session::new(&target, &tracepoint()).unwrap();
    session.upload(&[TypePlan { bytes: 16, ..TypePlan::default() }]);
    let code = target.symbol("main.add.func1");
    assert_eq!(word(&closure, 0), code);
    let key = DynamicKey { link_address: code, image: session.image, kind: DYNAMIC_CODE };
    let value = Dynamic { target: TYPE_FIRST, how: DYNAMIC_FOLLOW };
    let upload = riptrace_agent::plan::types::Upload { dynamic: vec![(key, value)], ..Default::default() };
    session.kernel.upload(&upload).unwrap();
    session.arm(&target, &[site(&target, "main.Func", slots())], Scope::Process(target.pid()));
    target.call("Func", 1, 1);
    let record = &session.records()[0];
    let closure = record.data(record.register(register::RAX), TYPE_FIRST);
    assert_eq!((word(closure, 0), word(closure, 8)), (code, 1000), "the code and the captured variable");
}

#[test]
fn a_full_record_keeps_whole_elements_and_says_so() {
    let all = |max_bytes| Tracepoint { max_bytes, max_items: 1_000_000, ..tracepoint() };
    let element = || TypePlan { bytes: 8, ..TypePlan::default() };
    for (max_bytes, expected_bytes) in [(1024, 1024 - 128 - 24 - 168 - 24), (65_536, limits::MAX_CHUNK_BYTES)]
    {
        let mut target = Target::start(Build::Static);
        let Some(mut session) = Session::new(&target, &all(max_bytes)) else { return };
        session.upload(&[element()]);
        let slots = vec![slice(register::RAX, register::RBX, TYPE_FIRST)];
        session.arm(&target, &[site(&target, "main.Numbers", slots)], Scope::Process(target.pid()));
        target.call("Numbers", 1, 1);
        let record = &session.records()[0];
        assert!(record.header.total_bytes <= max_bytes);
        let (chunk, numbers) = record.chunk(record.register(register::RAX), TYPE_FIRST).unwrap();
        assert_eq!((chunk.bytes, chunk.count, chunk.flags), (expected_bytes, 20_000, CHUNK_CUT_BYTES));
        let exhausted = record.header.flags & FLAG_BYTES_EXHAUSTED != 0;
        assert_eq!(exhausted, max_bytes == 1024);
        for (index, number) in numbers.as_chunks::<8>().0.iter().enumerate() {
            assert_eq!(u64::from_le_bytes(*number), index as u64 * 3);
        }
    }
}

#[test]
fn too_many_steps_are_reported() {
    // 20,000 numbers, each taken for a pointer; those from 4,096 on are one page after the other of nothing.
    let mut target = Target::start(Build::Static);
    let many = Tracepoint { max_items: 1_000_000, ..tracepoint() };
    let Some(mut session) = Session::new(&target, &many) else { return };
    session.upload(&[TypePlan {
        bytes: 8,
        slots: vec![Slot { repeat: 3, ..pointer(0, TYPE_BYTES) }],
        ..TypePlan::default()
    }]);
    let slots = vec![slice(register::RAX, register::RBX, TYPE_FIRST)];
    session.arm(&target, &[site(&target, "main.Numbers", slots)], Scope::Process(target.pid()));
    target.call("Numbers", 1, 1);
    let record = &session.records()[0];
    let flags = record.header.flags & (FLAG_STEPS_EXHAUSTED | FLAG_BYTES_EXHAUSTED);
    assert_ne!(flags, 0);
    let odd: Vec<_> = record
        .chunks
        .iter()
        .skip(2)
        .map(|(chunk, _)| chunk)
        // Of the last one there may have been no room for a byte.
        .filter(|chunk| chunk.flags & (CHUNK_FAULT | CHUNK_CUT_BYTES) == 0 || chunk.bytes != 0)
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
}

#[test]
fn the_stack_is_walked_to_its_bound_or_its_end() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &Tracepoint { stack_frames: 16, ..tracepoint() }) else {
        return;
    };
    session.arm(&target, &[site(&target, "main.Leaf", vec![])], Scope::Process(target.pid()));
    target.call("Deep", 1, 1);
    target.call("Shallow", 1, 1);
    let records = session.records();
    let deep = target.symbol("main.Deep");
    assert_eq!(records[0].frames.len(), 16);
    assert_eq!(records[0].frames[0], target.symbol("main.Leaf"));
    assert!(records[0].frames[1..].iter().all(|frame| (deep..deep + 256).contains(frame)));
    assert_eq!(records[0].frames[2..].iter().collect::<std::collections::HashSet<_>>().len(), 1);
    assert_ne!(records[0].header.flags & FLAG_STACK_TRUNCATED, 0);

    // Leaf, three of Deep, the closure in `calls`, the goroutine's function, goexit.
    assert_eq!(records[1].header.flags & FLAG_STACK_TRUNCATED, 0);
    let frames = &records[1].frames;
    assert_eq!(frames.len(), 7, "{frames:#x?}");
    assert!(frames[1..4].iter().all(|frame| (deep..deep + 256).contains(frame)));
    let goexit = target.symbol("runtime.goexit.abi0");
    assert!((goexit..goexit + 16).contains(&frames[6]), "{frames:#x?}");
}

#[test]
fn code_on_a_system_stack_belongs_to_the_thread_s_goroutine_if_it_has_one() {
    // The scheduler runs on g0, with no current goroutine; malloc's slow path runs on g0 for one.
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    session.arm(&target, &[site(&target, "runtime.schedule", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 10, 4);
    let records = session.records();
    assert!(!records.is_empty());
    assert!(records.iter().all(|record| record.header.flags & FLAG_SYSTEM_STACK != 0));
}

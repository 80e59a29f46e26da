//! A table and a walk give the same records.

use riptrace_agent::{
    plan::{SitePlan, types::Upload},
    probe::{KernelOptions, Scope},
};
use riptrace_common::abi::{
    program::{
        ACTION_EMPTY_INTERFACE, ACTION_INTERFACE, DYNAMIC_FOLLOW, DYNAMIC_ITAB, DYNAMIC_TYPE, Dynamic,
        DynamicKey, Slot, TYPE_FIRST, TYPE_ITAB, TYPE_TORN_CHECK, Tracepoint, WINDOW_STACK, Window, register,
    },
    record::Chunk,
};

use super::{
    capture::interface,
    record::Record,
    session::{Session, TypePlan, pointer, site, slice, string, tracepoint, with_windows},
    target::{Build, Target},
};

const NODE: u32 = TYPE_FIRST;
const NUMBER: u32 = TYPE_FIRST + 1;
const TEXT: u32 = TYPE_FIRST + 2;
const SQUARE: u32 = TYPE_FIRST + 3;
const MAP: u32 = TYPE_FIRST + 4;
const SMALL: u32 = TYPE_FIRST + 5;
const FOUR_TEXTS: u32 = TYPE_FIRST + 6;
const WRAPPED: u32 = TYPE_FIRST + 7;

fn types() -> Vec<TypePlan> {
    let plain = |bytes| TypePlan { bytes, ..TypePlan::default() };
    vec![
        TypePlan { slots: vec![string(0, 8), pointer(16, NODE)], ..plain(32) },
        plain(8),
        TypePlan { slots: vec![string(0, 8)], ..plain(16) },
        TypePlan { slots: vec![string(8, 16)], ..plain(24) },
        TypePlan { flags: TYPE_TORN_CHECK, ..plain(48) },
        plain(16),
        TypePlan { slots: vec![Slot { repeat: 4, stride: 16, ..string(0, 8) }], ..plain(64) },
        // fmt.wrapError: a string and an error.
        TypePlan { slots: vec![string(0, 8), interface(16, 24, ACTION_INTERFACE)], ..plain(32) },
    ]
}

/// What the interfaces hold, by the names of facts and symbols. An itab that is missing here is read.
fn dynamic(target: &Target, image: u32, with_itabs: bool) -> Upload {
    let mut dynamic = Vec::new();
    for (fact, itab, index) in [
        ("Square", Some("go:itab.main.Square,main.Shape"), SQUARE),
        ("Small", None, SMALL),
        ("errorString", Some("go:itab.*errors.errorString,error"), TEXT),
        ("wrapError", Some("go:itab.*fmt.wrapError,error"), WRAPPED),
    ] {
        let value = Dynamic { target: index, how: DYNAMIC_FOLLOW };
        let key = |link_address, kind| DynamicKey { link_address, image, kind };
        dynamic.push((key(target.fact(fact), DYNAMIC_TYPE), value));
        if let Some(itab) = itab.filter(|_| with_itabs) {
            dynamic.push((key(target.symbol(itab), DYNAMIC_ITAB), value));
        }
    }
    Upload { dynamic, ..Upload::default() }
}

/// Everything but the order of chunks and the type words of itabs, which a reader finds in the file as well.
type Content = (u32, Vec<u8>, Vec<(Chunk, Vec<u8>)>, Vec<u64>);

fn content(record: &Record) -> Content {
    let mut chunks: Vec<_> =
        record.chunks[1..].iter().filter(|(chunk, _)| chunk.type_index != TYPE_ITAB).cloned().collect();
    chunks.sort_by_key(|(chunk, _)| (chunk.address, chunk.type_index, chunk.bytes));
    (record.header.flags, record.root().to_vec(), chunks, record.frames.clone())
}

fn cases(target: &Target) -> Vec<(&'static str, SitePlan)> {
    let five = vec![
        string(register::RBX, register::RCX),
        slice(register::RDI, register::RSI, NUMBER),
        pointer(register::R9, NODE),
        interface(register::R10, register::R11, ACTION_INTERFACE),
    ];
    let window = Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 64, reserved: 0 };
    let many: Vec<Slot> = (0..20).map(|_| pointer(register::R9, NODE)).collect();
    let more_than_ops = vec![
        pointer(register::R9, NODE),
        Slot { deeper: 0, ..pointer(register::R9, SMALL) },
        pointer(register::R9, TEXT),
        pointer(register::R9, SQUARE),
        pointer(register::R9, MAP),
    ];
    let shapes = vec![
        interface(register::RAX, register::RBX, ACTION_INTERFACE),
        interface(register::RCX, register::RDI, ACTION_EMPTY_INTERFACE),
    ];
    let texts = || vec![slice(register::RAX, register::RBX, TEXT), pointer(register::RAX, FOUR_TEXTS)];
    let five = || with_windows(site(target, "main.Five", five.clone()), vec![window]);
    let framed = vec![
        string(register::RAX, register::RBX),
        slice(register::RCX, register::RDI, TEXT),
        pointer(register::R8, NODE),
    ];
    vec![
        ("Five", five()),
        ("Wrapped", five()),
        ("Nils", five()),
        ("Five", site(target, "main.Five", many)),
        ("Wrapped", site(target, "main.Five", more_than_ops)),
        ("Iface", site(target, "main.Iface", shapes.clone())),
        ("Direct", site(target, "main.Iface", shapes)),
        ("Texts", site(target, "main.Texts", texts())),
        ("Framed", site(target, "main.Framed", framed)),
        ("Cycle", site(target, "main.Pointer", vec![pointer(register::RAX, NODE)])),
        ("Numbers", site(target, "main.Numbers", vec![slice(register::RAX, register::RBX, NUMBER)])),
        ("Map", site(target, "main.Map", vec![pointer(register::RAX, MAP)])),
        // Not an address of anything: 4,096 and what follows is never mapped.
        ("Ints", site(target, "main.Ints", vec![pointer(register::RSP, NODE), pointer(register::RBX, NODE)])),
        ("Ints", site(target, "main.Ints", vec![])),
    ]
}

#[test]
fn a_table_gives_what_the_walk_gives() {
    let mut target = Target::start(Build::Static);
    let mut sessions = Vec::new();
    for use_tables in [false, true] {
        let options = KernelOptions { use_tables, ..KernelOptions::default() };
        let Some(mut session) = Session::with(&options, &target, &tracepoint(), &[]) else { return };
        session.upload(&types());
        sessions.push(session);
    }
    let bounds = [(4, 65_536), (1, 65_536), (0, 65_536), (2, 640), (4, 480), (4, 1_200)];
    for with_itabs in [false, true] {
        for session in &mut sessions {
            let upload = dynamic(&target, session.image, with_itabs);
            session.kernel.upload(&upload).unwrap();
        }
        for (max_depth, max_bytes) in bounds {
            for session in &mut sessions {
                let change = |tracepoint: &mut Tracepoint| {
                    (tracepoint.max_depth, tracepoint.max_bytes) = (max_depth, max_bytes);
                };
                session.kernel.change(session.tracepoint, change).unwrap();
            }
            for (call, plan) in cases(&target) {
                let scope = Scope::Process(target.pid());
                let armed: Vec<_> = sessions
                    .iter_mut()
                    .map(|session| session.arm_in(&target.path, std::slice::from_ref(&plan), scope))
                    .collect();
                target.call(call, 1, 1);
                let mut contents = Vec::new();
                for (session, (sites, attachment)) in sessions.iter_mut().zip(armed) {
                    session.kernel.detach(attachment).unwrap();
                    session.kernel.remove_sites(&sites).unwrap();
                    let records = session.records();
                    assert_eq!(records.len(), 1, "{call}");
                    contents.push(content(&records[0]));
                }
                let (walked, tabled) = (&contents[0], &contents[1]);
                if max_bytes == 65_536 {
                    assert_eq!(walked, tabled, "{call}, depth {max_depth}, itabs {with_itabs}");
                } else {
                    // What is left out depends on the order; that something was does not.
                    assert_eq!(walked.0, tabled.0, "{call}, {max_bytes} bytes: flags");
                    assert_eq!(walked.1, tabled.1, "{call}, {max_bytes} bytes: root chunk");
                }
            }
        }
    }
}

#[test]
fn what_an_interface_holds_is_looked_up_again_after_an_upload() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    session.upload(&types());
    let plan = site(&target, "main.Five", vec![interface(register::R10, register::R11, ACTION_INTERFACE)]);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    let key = DynamicKey {
        link_address: target.symbol("go:itab.*errors.errorString,error"),
        image: session.image,
        kind: DYNAMIC_ITAB,
    };
    for index in [TEXT, SMALL, TEXT] {
        let value = Dynamic { target: index, how: DYNAMIC_FOLLOW };
        session.kernel.upload(&Upload { dynamic: vec![(key, value)], ..Upload::default() }).unwrap();
        // Twice: looked up, and remembered. A thread may change its CPU, whose memory is another.
        target.call("Five", 20, 1);
        for record in session.records() {
            let data = record.register(register::R11);
            assert!(record.chunk(data, index).is_some(), "{:#x?}", record.heads());
            // An error's text is followed, two plain words are not.
            assert_eq!(record.chunks.len(), if index == TEXT { 3 } else { 2 });
        }
    }
}

//! One hit after another on one thread: by what is captured, and by what rejects it.

use riptrace_agent::{
    plan::{SitePlan, condition::Condition},
    probe::{KernelOptions, Scope},
};
use riptrace_common::abi::{
    condition::{
        OP_ACCEPT, OP_EQUAL, OP_IMMEDIATE, OP_READ, OP_SIGNED, Op, TARGET_REJECT, WORD_FIRST, WORD_SP,
    },
    program::{CLEARABLE_REGISTERS, TYPE_FIRST, Tracepoint, WINDOW_STACK, Window, register},
};

use super::{
    super::{
        session::{pointer, site, slice, string, tracepoint, with_windows},
        target::{Build, Target},
    },
    CALLS, bare, five_locals,
    report::{Report, least, rounds},
    session,
};

/// Pointers to different objects that `main.Nodes` is called with.
const NODES: [u32; 8] = [
    register::RAX,
    register::RBX,
    register::RCX,
    register::RDI,
    register::RSI,
    register::R8,
    register::R9,
    register::R10,
];

/// A tracepoint at the entry of a function.
struct Case {
    name: &'static str,
    function: &'static str,
    tracepoint: Tracepoint,
    plan: SitePlan,
}

impl Case {
    fn new(name: &'static str, function: &'static str, tracepoint: Tracepoint, plan: SitePlan) -> Self {
        Self { name, function, tracepoint, plan }
    }
}

#[test]
#[ignore = "a measurement"]
fn cost_of_a_hit() {
    let mut target = Target::start(Build::Static);
    let (path, pid, image) = (target.path.clone(), target.pid(), target.image());
    let cases = cases(&target);
    let mut sessions = Vec::new();
    for case in &cases {
        // The program that a command would load for it.
        let options = KernelOptions {
            use_tables: !case.name.contains("walk"),
            conditions: case.plan.condition.is_some(),
            calls: false,
            ..KernelOptions::default()
        };
        let Some(session) = session(&options, &target, &case.tracepoint) else { return };
        sessions.push(session);
    }
    let mut report = Report::default();
    let mut captured: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let mut bytes = vec![0u32; cases.len()];
    let functions = ["Framed", "Five", "Nodes"];
    let offsets = functions.map(|name| site(&target, &format!("main.{name}"), vec![]).file_offset);
    let mut bare_calls = functions.map(|_| Vec::new());
    let mut empty_programs = functions.map(|_| Vec::new());
    let mut by_hand = Vec::new();
    for _ in 0..rounds(101) {
        let mut measure = |name: &str| target.call(name, CALLS, 1) as f64 / f64::from(CALLS);
        for (index, function) in functions.iter().enumerate() {
            bare_calls[index].push(measure(function));
            let link = bare::empty(&path, pid, offsets[index]).expect("an empty program");
            empty_programs[index].push(measure(function));
            drop(link);
        }
        let link = bare::straight_line(&path, pid, offsets[1], &image).expect("a program by hand");
        by_hand.push(measure("Five"));
        drop(link);
        for (index, (session, case)) in sessions.iter_mut().zip(&cases).enumerate() {
            let plans = std::slice::from_ref(&case.plan);
            let (sites, attachment) = session.arm_in(&path, plans, Scope::Process(pid));
            captured[index].push(measure(case.function));
            session.kernel.detach(attachment).expect("detached");
            session.kernel.remove_sites(&sites).expect("removed");
            // The ring has room for a round; a busy reader on the same machine would be measured as well.
            bytes[index] = session.records().last().map_or(bytes[index], |record| record.header.total_bytes);
            assert_eq!(session.counters().dropped, 0);
        }
    }
    let empty = |function: &str| format!("{function}: empty program");
    for ((function, bare), empties) in functions.iter().zip(bare_calls).zip(empty_programs) {
        report.row(&format!("{function}: no probe"), "ns", None, bare);
        report.row(&empty(function), "ns", None, empties);
    }
    let hand = "five locals: a straight-line program with the same reads";
    report.row(hand, "ns", Some(&empty("Five")), by_hand);
    let sizes: Vec<String> = cases
        .iter()
        .zip(&bytes)
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(case, bytes)| format!("{}: {bytes}", case.name))
        .collect();
    println!("bytes of a record: {}", sizes.join("; "));
    for (case, samples) in cases.iter().zip(&captured) {
        report.row(case.name, "ns", Some(&empty(case.function)), samples.clone());
        if case.name == "five locals, one level" {
            let what = "five locals beside the straight-line program";
            report.row(what, "ns", Some(hand), samples.clone());
        }
    }
    let of = |name: &str| cases.iter().position(|case| case.name == name).map(|index| &captured[index]);
    if let (Some(one), Some(all)) = (of("one pointer"), of("eight pointers to different objects")) {
        // Of the least of some rounds each, so that there is a spread.
        let reads = (NODES.len() - 1) as f64;
        let chunk = one.len().div_ceil(8).max(10);
        let each =
            one.chunks(chunk).zip(all.chunks(chunk)).map(|(one, all)| (least(all) - least(one)) / reads);
        report.row("each further read of the target's memory", "ns", None, each.collect());
    }
    report.say();
}

fn cases(target: &Target) -> Vec<Case> {
    let entry = || site(target, "main.Framed", vec![]);
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 512, reserved: 0 }];
    let followed = || {
        vec![
            string(register::RAX, register::RBX),
            slice(register::RCX, register::RDI, TYPE_FIRST),
            pointer(register::R8, TYPE_FIRST + 1),
        ]
    };
    let nodes = |count: usize| {
        let slots = NODES.iter().take(count).map(|&word| pointer(word, TYPE_FIRST + 1)).collect();
        site(target, "main.Nodes", slots)
    };
    let all = tracepoint();
    let shallow = Tracepoint { max_depth: 1, ..all };
    // What lies in the node is not followed: one read a pointer.
    let objects = Tracepoint { max_depth: 1, max_string: 0, ..all };
    let unwanted = SitePlan { condition: Some(length_is_seven()), ..entry() };
    let unwanted_word = |base, offset| SitePlan { condition: Some(word_is_another(base, offset)), ..entry() };
    let node = (register::R8 / 8) as u8;
    let with_stack = Tracepoint { stack_frames: 16, ..all };
    vec![
        Case::new("rejected: another process", "Framed", Tracepoint { tgid: 1, ..all }, entry()),
        Case::new("rejected: past the rate", "Framed", Tracepoint { rate_per_second: 1, ..all }, entry()),
        Case::new(
            "rejected: not in the sample",
            "Framed",
            Tracepoint { sample_threshold: 1, ..all },
            entry(),
        ),
        Case::new("rejected: a condition on a register", "Framed", all, unwanted),
        Case::new("rejected: a condition on a stack slot", "Framed", all, unwanted_word(WORD_SP, 0)),
        Case::new("rejected: a condition through a pointer", "Framed", all, unwanted_word(node, 8)),
        Case::new("registers", "Framed", all, entry()),
        Case::new("registers, those that may hold secrets cleared", "Framed", all, cleared(entry())),
        Case::new("registers, 512 bytes of stack", "Framed", all, with_windows(entry(), windows.clone())),
        Case::new(
            "the same, 16 frames of a repeated call stack",
            "Framed",
            with_stack,
            with_windows(entry(), windows),
        ),
        Case::new(
            "string, slice of strings, struct: one level",
            "Framed",
            shallow,
            SitePlan { root_slots: followed(), ..entry() },
        ),
        Case::new("the same, four levels", "Framed", all, SitePlan { root_slots: followed(), ..entry() }),
        Case::new("five locals, one level", "Five", shallow, five_locals(target)),
        Case::new("five locals, the other registers cleared", "Five", shallow, cleared(five_locals(target))),
        Case::new("five locals, by the walk alone", "Five", shallow, five_locals(target)),
        Case::new("one pointer", "Nodes", objects, nodes(1)),
        Case::new("eight pointers to different objects", "Nodes", objects, nodes(NODES.len())),
    ]
}

/// The plan as rules of redaction make it: what it does not need of the registers is not recorded.
fn cleared(plan: SitePlan) -> SitePlan {
    let needed = plan.root_slots.iter().flat_map(|slot| [slot.word, slot.count]);
    let needed = needed.fold(0, |needed, offset| needed | 1 << (offset / 8));
    SitePlan { cleared_registers: CLEARABLE_REGISTERS & !needed, ..plan }
}

/// `len(s) == 7`, which does not hold, of the string that `main.Framed` is called with.
fn length_is_seven() -> Condition {
    let op = Op {
        code: OP_EQUAL,
        left: (register::RBX / 8) as u8,
        flags: OP_SIGNED | OP_IMMEDIATE | OP_ACCEPT,
        target: TARGET_REJECT,
        immediate: 7,
        ..Op::default()
    };
    Condition { ops: vec![op], ..Condition::default() }
}

/// The same for a word of memory, which is not what it is compared with either.
fn word_is_another(base: u8, offset: u64) -> Condition {
    let read = Op { code: OP_READ, destination: WORD_FIRST, left: base, immediate: offset, ..Op::default() };
    let mut condition = length_is_seven();
    for op in &mut condition.ops {
        op.left = WORD_FIRST;
        op.immediate = u64::MAX - 6;
    }
    condition.ops.insert(0, read);
    condition
}

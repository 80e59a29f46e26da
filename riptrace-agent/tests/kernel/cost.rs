//! What a hit costs beside a uprobe with an empty program at the same instruction. A measurement, not a check:
//! `cargo test --release -p riptrace-agent --test kernel -- --ignored --nocapture cost`.

use riptrace_agent::{
    plan::{SitePlan, types::Upload},
    probe::{KernelOptions, Scope},
};
use riptrace_common::abi::program::{
    ACTION_INTERFACE, DYNAMIC_FOLLOW, DYNAMIC_ITAB, DYNAMIC_TYPE, Dynamic, DynamicKey, TYPE_FIRST,
    Tracepoint, WINDOW_STACK, Window, register,
};

use super::{
    capture::interface,
    session::{Session, TypePlan, pointer, site, slice, string, tracepoint, with_windows},
    target::{Build, Target},
};

/// Few enough that some rounds see no other task, even on a busy machine.
const CALLS: u32 = 4_000;
const ROUNDS: usize = 101;
/// Rows before those of the kernel side.
const BARE: usize = 5;

mod bare;

#[test]
#[ignore = "a measurement"]
fn cost_of_a_hit() {
    let mut target = Target::start(Build::Static);
    let (path, pid) = (target.path.clone(), target.pid());
    let entry = || site(&target, "main.Framed", vec![]);
    let five = five_locals(&target);
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 512, reserved: 0 }];
    let followed = vec![
        string(register::RAX, register::RBX),
        slice(register::RCX, register::RDI, TYPE_FIRST),
        pointer(register::R8, TYPE_FIRST + 1),
    ];
    let other_process = Tracepoint { tgid: 1, ..tracepoint() };
    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let with_stack = Tracepoint { stack_frames: 16, ..tracepoint() };
    let throttled = Tracepoint { rate_per_second: 1, ..tracepoint() };
    let call = |name: &str| if name.contains("five") { "Five" } else { "Framed" };
    let cases: Vec<(&str, Tracepoint, SitePlan)> = vec![
        ("five locals: 1 level", shallow, five.clone()),
        ("five locals, by the walk alone", shallow, five),
        ("other process: filtered", other_process, entry()),
        ("past the rate: throttled", throttled, entry()),
        ("registers", tracepoint(), entry()),
        ("registers, 512 bytes of stack", tracepoint(), with_windows(entry(), windows.clone())),
        ("the same, 16 frames", with_stack, with_windows(entry(), windows)),
        ("string, slice, struct: 1 level", shallow, SitePlan { root_slots: followed.clone(), ..entry() }),
        ("the same: 4 levels", tracepoint(), SitePlan { root_slots: followed, ..entry() }),
    ];
    let offset = entry().file_offset;
    let five_offset = cases[0].2.file_offset;
    let image = target.image();
    let mut sessions = Vec::new();
    for (name, tracepoint, _) in &cases {
        let options = KernelOptions { use_tables: !name.contains("walk"), ..KernelOptions::default() };
        let Some(session) = session(&options, &target, tracepoint) else { return };
        sessions.push(session);
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len() + BARE];
    let mut bytes = vec![0u32; cases.len()];
    for _ in 0..ROUNDS {
        let mut measure = |name: &str| target.call(name, CALLS, 1) as f64 / f64::from(CALLS);
        samples[0].push(measure("Framed"));
        let link = bare::empty(&path, pid, offset).expect("an empty program");
        samples[1].push(measure("Framed"));
        drop(link);
        samples[2].push(measure("Five"));
        let link = bare::empty(&path, pid, five_offset).expect("an empty program");
        samples[3].push(measure("Five"));
        drop(link);
        let link = bare::straight_line(&path, pid, five_offset, &image).expect("a program by hand");
        samples[4].push(measure("Five"));
        drop(link);
        for (index, (session, (name, _, plan))) in sessions.iter_mut().zip(&cases).enumerate() {
            let (sites, attachment) = session.arm_in(&path, std::slice::from_ref(plan), Scope::Process(pid));
            samples[BARE + index].push(measure(call(name)));
            session.kernel.detach(attachment).expect("detached");
            session.kernel.remove_sites(&sites).expect("removed");
            // The ring has room for a round; a busy reader on the same machine would be measured as well.
            bytes[index] = session.records().last().map_or(bytes[index], |record| record.header.total_bytes);
            assert_eq!(session.counters().dropped, 0);
        }
    }
    // Other load only ever adds: the least is what the code costs, the median what it cost here.
    let least: Vec<f64> =
        samples.iter().map(|samples| samples.iter().copied().fold(f64::INFINITY, f64::min)).collect();
    let medians: Vec<f64> = samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect();
    let names =
        ["no probe", "empty program", "five: no probe", "five: empty program", "five: straight-line program"]
            .into_iter()
            .chain(cases.iter().map(|(name, _, _)| *name));
    println!("{:34} {:>8} {:>6} {:>8} {:>6} {:>6}", "", "least ns", "ratio", "median", "ratio", "bytes");
    let empty = |name: &str| if name.contains("five") { 3 } else { 1 };
    for (index, name) in names.enumerate() {
        println!(
            "{name:34} {:8.0} {:6.2} {:8.0} {:6.2} {:6}",
            least[index],
            least[index] / least[empty(name)],
            medians[index],
            medians[index] / medians[empty(name)],
            index.checked_sub(BARE).map_or(0, |case| bytes[case]),
        );
    }
}

/// What happens when hits come from two threads at once, and faster than anybody reads: the ring's share.
#[test]
#[ignore = "a measurement"]
fn cost_under_load() {
    const THREADS: u32 = 2;
    const ROUNDS: usize = 31;
    /// More than the ring has room for.
    const OVERFLOW: u32 = 100_000;
    let mut target = Target::start(Build::Static);
    let (path, pid) = (target.path.clone(), target.pid());
    let five = five_locals(&target);
    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let options = KernelOptions::default();
    let Some(mut session) = session(&options, &target, &shallow) else { return };
    let mut least = [f64::INFINITY; 4];
    let mut keep = |row: usize, ns: u64, calls: u32| {
        least[row] = least[row].min(ns as f64 / f64::from(calls));
    };
    for _ in 0..ROUNDS {
        let link = bare::empty(&path, pid, five.file_offset).expect("an empty program");
        keep(0, target.call("Five", CALLS, 1), CALLS);
        keep(1, target.call("Five", CALLS, THREADS), CALLS);
        drop(link);
        let (sites, attachment) = session.arm_in(&path, std::slice::from_ref(&five), Scope::Process(pid));
        keep(2, target.call("Five", CALLS, 1), CALLS);
        session.records();
        keep(3, target.call("Five", CALLS, THREADS), CALLS);
        session.records();
        session.kernel.detach(attachment).expect("detached");
        session.kernel.remove_sites(&sites).expect("removed");
    }
    let [empty, empties, one, two] = least;
    println!("{:34} {empty:8.0} ns", "empty program, 1 thread");
    println!("{:34} {empties:8.0} ns  {:.2} of 1 thread", "empty program, 2 threads", empties / empty);
    println!("{:34} {one:8.0} ns", "five locals, 1 thread");
    println!("{:34} {two:8.0} ns  {:.2} of 1 thread", "five locals, 2 threads", two / one);
    let before = session.counters();
    session.arm_in(&path, &[five], Scope::Process(pid));
    target.call("Five", OVERFLOW, 1);
    let counters = session.counters();
    let (emitted, dropped) = (counters.emitted - before.emitted, counters.dropped - before.dropped);
    let records = session.records();
    let bytes = records.last().map_or(0, |record| record.header.total_bytes);
    println!(
        "ring of {} KiB, records of {bytes} bytes, nobody reads: {emitted} emitted, {dropped} dropped and counted",
        options.ring_bytes / 1024
    );
    println!("at 100,000 hits a second it holds {:.0} ms", emitted as f64 / 100.0);
    assert_eq!(records.len() as u64, emitted);
}

fn session(options: &KernelOptions, target: &Target, tracepoint: &Tracepoint) -> Option<Session> {
    let node =
        TypePlan { bytes: 32, slots: vec![string(0, 8), pointer(16, TYPE_FIRST + 1)], ..TypePlan::default() };
    let text = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let number = TypePlan { bytes: 8, ..TypePlan::default() };
    let mut session = Session::with(options, target, tracepoint, &[])?;
    session.upload(&[text.clone(), node, number, text]);
    session.kernel.upload(&held(target, session.image)).expect("an upload");
    Some(session)
}

/// The entry of `main.Five`: int, string, slice, pointer to a struct with a string, error.
fn five_locals(target: &Target) -> SitePlan {
    let slots = vec![
        string(register::RBX, register::RCX),
        slice(register::RDI, register::RSI, TYPE_FIRST + 2),
        pointer(register::R9, TYPE_FIRST + 1),
        interface(register::R10, register::R11, ACTION_INTERFACE),
    ];
    site(target, "main.Five", slots)
}

/// The error that `main.Five` is called with, as a plan knows it.
fn held(target: &Target, image: u32) -> Upload {
    let value = Dynamic { target: TYPE_FIRST + 3, how: DYNAMIC_FOLLOW };
    let key = |link_address, kind| DynamicKey { link_address, image, kind };
    let dynamic = vec![
        (key(target.fact("errorString"), DYNAMIC_TYPE), value),
        (key(target.symbol("go:itab.*errors.errorString,error"), DYNAMIC_ITAB), value),
    ];
    Upload { dynamic, ..Upload::default() }
}

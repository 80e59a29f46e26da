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
    let five = site(
        &target,
        "main.Five",
        vec![
            string(register::RBX, register::RCX),
            slice(register::RDI, register::RSI, TYPE_FIRST + 2),
            pointer(register::R9, TYPE_FIRST + 1),
            interface(register::R10, register::R11, ACTION_INTERFACE),
        ],
    );
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 512, reserved: 0 }];
    let followed = vec![
        string(register::RAX, register::RBX),
        slice(register::RCX, register::RDI, TYPE_FIRST),
        pointer(register::R8, TYPE_FIRST + 1),
    ];
    let node =
        TypePlan { bytes: 32, slots: vec![string(0, 8), pointer(16, TYPE_FIRST + 1)], ..TypePlan::default() };
    let element = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let number = TypePlan { bytes: 8, ..TypePlan::default() };
    let failure = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let types = [element, node, number, failure];
    let other_process = Tracepoint { tgid: 1, ..tracepoint() };
    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let with_stack = Tracepoint { stack_frames: 16, ..tracepoint() };
    let throttled = Tracepoint { rate_per_second: 1, ..tracepoint() };
    let call = |name: &str| if name.contains("five") { "Five" } else { "Framed" };
    let cases: Vec<(&str, Tracepoint, SitePlan)> = vec![
        ("five locals: 1 level", shallow, five),
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
    for (_, tracepoint, _) in &cases {
        let Some(mut session) = Session::with(&KernelOptions::default(), &target, tracepoint, &[]) else {
            return;
        };
        session.upload(&types);
        session.kernel.upload(&held(&target, session.image)).expect("an upload");
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

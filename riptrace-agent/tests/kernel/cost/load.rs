//! Hits from two threads at once, and faster than anybody reads.

use riptrace_agent::probe::{KernelOptions, Scope};
use riptrace_common::abi::program::Tracepoint;

use super::{
    super::{
        session::tracepoint,
        target::{Build, Target},
    },
    CALLS, bare, five_locals,
    report::{Report, rounds},
    session,
};

/// What happens when hits come from two threads at once, and faster than anybody reads: the ring's share.
#[test]
#[ignore = "a measurement"]
fn cost_under_load() {
    const THREADS: u32 = 2;
    /// More than the ring has room for.
    const OVERFLOW: u32 = 100_000;
    let mut target = Target::start(Build::Static);
    let (path, pid, image) = (target.path.clone(), target.pid(), target.image());
    let five = five_locals(&target);
    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let options = KernelOptions::default();
    let Some(mut session) = session(&options, &target, &shallow) else { return };
    let mut samples = [const { Vec::new() }; 6];
    let mut keep = |row: usize, ns: u64, calls: u32| samples[row].push(ns as f64 / f64::from(calls));
    for _ in 0..rounds(31) {
        let link = bare::empty(&path, pid, five.file_offset).expect("an empty program");
        keep(0, target.call("Five", CALLS, 1), CALLS);
        keep(1, target.call("Five", CALLS, THREADS), CALLS);
        drop(link);
        let link = bare::straight_line(&path, pid, five.file_offset, &image).expect("a program by hand");
        keep(4, target.call("Five", CALLS, 1), CALLS);
        keep(5, target.call("Five", CALLS, THREADS), CALLS);
        drop(link);
        let (sites, attachment) = session.arm_in(&path, std::slice::from_ref(&five), Scope::Process(pid));
        keep(2, target.call("Five", CALLS, 1), CALLS);
        session.records();
        keep(3, target.call("Five", CALLS, THREADS), CALLS);
        session.records();
        session.kernel.detach(attachment).expect("detached");
        session.kernel.remove_sites(&sites).expect("removed");
    }
    let mut report = Report::default();
    let [empty, empties, one, two, hand, hands] = samples;
    report.row("empty program, 1 thread", "ns", None, empty);
    report.row("empty program, 2 threads", "ns", Some("empty program, 1 thread"), empties);
    report.row("five locals by hand, 1 thread", "ns", None, hand);
    report.row("five locals by hand, 2 threads", "ns", Some("five locals by hand, 1 thread"), hands);
    report.row("five locals, 1 thread", "ns", None, one);
    report.row("five locals, 2 threads", "ns", Some("five locals, 1 thread"), two);
    let before = session.counters();
    session.arm_in(&path, &[five], Scope::Process(pid));
    target.call("Five", OVERFLOW, 1);
    let counters = session.counters();
    let (emitted, dropped) = (counters.emitted - before.emitted, counters.dropped - before.dropped);
    let records = session.records();
    let bytes = records.last().map_or(0, |record| record.header.total_bytes);
    assert_eq!(records.len() as u64, emitted);
    let share = dropped as f64 * 100.0 / f64::from(OVERFLOW);
    let ring = format!("five locals, a ring of {} KiB that nobody reads", options.ring_bytes / 1024);
    report.row(&format!("{ring}: size of a record"), "bytes", None, vec![f64::from(bytes)]);
    report.row(&format!("{ring}: hits that it holds"), "hits", None, vec![emitted as f64]);
    report.row(&format!("{ring}: of {OVERFLOW} hits dropped, and counted"), "%", None, vec![share]);
    report.say();
}

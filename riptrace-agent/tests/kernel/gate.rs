//! Which hits become records.

use std::time::Duration;

use riptrace_agent::probe::{KernelOptions, Scope};
use riptrace_common::abi::program::Tracepoint;

use super::{
    session::{Session, site, tracepoint},
    target::{Build, Target},
};

#[test]
fn the_limit_is_exact_across_threads() {
    let mut target = Target::start(Build::Static);
    let limited = Tracepoint { limit: 100, ..tracepoint() };
    let Some(mut session) = Session::new(&target, &limited) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 2000, 8);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.emitted, counters.throttled), (16_000, 100, 15_900));
    let mut seqs: Vec<u64> = session.records().iter().map(|record| record.header.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..100).collect::<Vec<u64>>());
}

#[test]
fn the_rate_holds_in_every_second_of_the_kernel_clock() {
    let mut target = Target::start(Build::Static);
    let rated = Tracepoint { rate_per_second: 50, ..tracepoint() };
    let Some(mut session) = Session::new(&target, &rated) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    for _ in 0..24 {
        target.call("Ints", 100, 2);
        std::thread::sleep(Duration::from_millis(100));
    }
    let counters = session.counters();
    assert_eq!(counters.hits, 4800);
    let mut seconds = std::collections::BTreeMap::new();
    for record in session.records() {
        *seconds.entry(record.header.ktime_ns / 1_000_000_000).or_insert(0) += 1;
    }
    assert!(seconds.len() >= 3, "{seconds:?}");
    assert!(seconds.values().all(|&hits| hits == 50), "{seconds:?}");
    assert_eq!(counters.emitted, seconds.values().sum::<u64>());
}

#[test]
fn other_processes_are_filtered() {
    let (mut wanted, mut other) = (Target::start(Build::Static), Target::start(Build::Static));
    let Some(mut session) = Session::new(&wanted, &tracepoint()) else { return };
    session.arm(&wanted, &[site(&wanted, "main.Ints", vec![])], Scope::AllProcesses);
    wanted.call("Ints", 5, 1);
    other.call("Ints", 7, 1);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.emitted, counters.filtered), (12, 5, 7));

    // A set of two, then everyone.
    session.kernel.set_processes(session.tracepoint, &[other.pid(), 1]).unwrap();
    wanted.call("Ints", 1, 1);
    other.call("Ints", 1, 1);
    assert_eq!(session.records().last().map(|record| record.header.tgid), Some(other.pid()));
    session.kernel.set_processes(session.tracepoint, &[]).unwrap();
    wanted.call("Ints", 1, 1);
    other.call("Ints", 1, 1);
    assert_eq!(session.records().len(), 2);
    session.counters();

    // One, then everyone again.
    session.kernel.set_processes(session.tracepoint, &[other.pid()]).unwrap();
    wanted.call("Ints", 1, 1);
    assert_eq!(session.records().len(), 0);
    session.kernel.set_processes(session.tracepoint, &[]).unwrap();
    wanted.call("Ints", 1, 1);
    assert_eq!(session.records().len(), 1);
}

#[test]
fn a_scoped_attachment_traps_in_its_process_alone() {
    for force_single_links in [false, true] {
        let (mut wanted, mut other) = (Target::start(Build::Static), Target::start(Build::Static));
        let options = KernelOptions { force_single_links, ..KernelOptions::default() };
        let Some(mut session) = Session::with(&options, &wanted, &tracepoint(), &[]) else { return };
        session.arm(&wanted, &[site(&wanted, "main.Ints", vec![])], Scope::Process(wanted.pid()));
        // Every thread of the process counts, not the first one alone.
        wanted.call("Ints", 5, 8);
        other.call("Ints", 7, 1);
        let counters = session.counters();
        assert_eq!((counters.hits, counters.emitted), (40, 40), "single links: {force_single_links}");
    }
}

#[test]
fn a_disabled_tracepoint_counts_nothing() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    session.kernel.disable(session.tracepoint).unwrap();
    target.call("Ints", 5, 1);
    assert_eq!(session.counters().hits, 0);
    session.kernel.enable(session.tracepoint).unwrap();
    target.call("Ints", 5, 1);
    assert_eq!(session.counters().emitted, 5);
}

#[test]
fn a_full_ring_drops_and_gives_the_limit_back() {
    let mut target = Target::start(Build::Static);
    let limited = Tracepoint { limit: 2000, ..tracepoint() };
    let options = KernelOptions { ring_bytes: 128 * 1024, ..KernelOptions::default() };
    let Some(mut session) = Session::with(&options, &target, &limited, &[]) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 1000, 1);
    let counters = session.counters();
    assert!(counters.dropped > 0 && counters.emitted > 0 && counters.throttled == 0, "{counters:?}");
    assert_eq!(session.kernel.state(session.tracepoint).unwrap().limit_taken, counters.emitted);
    assert_eq!(session.records().len() as u64, counters.emitted);
    target.call("Ints", 10, 1);
    assert_eq!(session.records().len(), 10, "a drained ring takes records again");
    session.counters();
}

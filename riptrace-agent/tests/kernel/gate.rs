//! Which hits become records.

use std::time::Duration;

use riptrace_agent::probe::{KernelOptions, Scope};
use riptrace_common::abi::program::{
    TRACEPOINT_COUNT_ONLY, TRACEPOINT_DRY_RUN, TRACEPOINT_ENABLED, TRACEPOINT_REDUCED, Tracepoint,
    WINDOW_STACK, Window, cost_bucket_end_ns,
};

use super::{
    session::{Session, site, tracepoint, with_windows},
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
    let [mut wanted, mut other] = Target::start_own();
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

#[test]
fn a_sample_lets_through_its_share() {
    const HITS: u32 = 40_000;
    let mut target = Target::start(Build::Static);
    let sampled = Tracepoint { sample_threshold: u32::MAX / 4, ..tracepoint() };
    let Some(mut session) = Session::new(&target, &sampled) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", HITS / 4, 4);
    let counters = session.counters();
    assert_eq!(counters.hits, u64::from(HITS));
    assert_eq!(counters.hits, counters.emitted + counters.throttled + counters.dropped);
    // Twelve standard deviations (of 87) either way: a generator that works never fails this.
    let kept = counters.emitted + counters.dropped;
    assert!((9_000..11_000).contains(&kept), "{counters:?}");
}

#[test]
fn a_tracepoint_that_only_counts_captures_nothing() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    session
        .kernel
        .change(session.tracepoint, |tracepoint| tracepoint.flags |= TRACEPOINT_COUNT_ONLY)
        .unwrap();
    target.call("Ints", 100, 2);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.throttled, counters.would_capture), (200, 200, 0));
    assert!(session.records().is_empty());
}

#[test]
fn a_dry_run_tells_what_would_be_captured() {
    let mut target = Target::start(Build::Static);
    let dry = Tracepoint { flags: TRACEPOINT_ENABLED | TRACEPOINT_DRY_RUN, limit: 3, ..tracepoint() };
    let Some(mut session) = Session::new(&target, &dry) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 100, 2);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.throttled, counters.would_capture), (200, 200, 200));
    assert!(session.records().is_empty());
}

#[test]
fn a_reduced_tracepoint_captures_by_the_sites_reduced_plans() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 64, reserved: 0 }];
    let whole = with_windows(site(&target, "main.Ints", vec![]), windows);
    let (handles, _) = session.arm(&target, &[whole], Scope::Process(target.pid()));
    let plan = site(&target, "main.Ints", vec![]);
    let reduced = session.kernel.add_sites(session.tracepoint, session.image, &[&plan]).unwrap();
    session.kernel.set_reduced(&[(handles[0], reduced[0])]).unwrap();

    target.call("Ints", 1, 1);
    session.kernel.change(session.tracepoint, |tracepoint| tracepoint.flags |= TRACEPOINT_REDUCED).unwrap();
    target.call("Ints", 1, 1);
    let records = session.records();
    let seen: Vec<_> = records
        .iter()
        .map(|record| (record.header.site, record.header.generation, record.header.seq))
        .collect();
    assert_eq!(
        seen,
        [(handles[0].index, handles[0].generation, 0), (reduced[0].index, reduced[0].generation, 1)]
    );
    assert!(records[1].header.total_bytes < records[0].header.total_bytes);
    assert_eq!(session.counters().emitted, 2);

    // Without one there is nothing to capture.
    session.kernel.remove_sites(&handles).unwrap();
    let plan = site(&target, "main.Ints", vec![]);
    session.arm(&target, &[plan], Scope::Process(target.pid()));
    target.call("Ints", 1, 1);
    assert_eq!((session.counters().emitted, session.counters().throttled), (2, 1));
}

#[test]
fn the_costs_of_captures_are_counted_by_size() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    target.call("Ints", 500, 2);
    let costs = session.kernel.costs(session.tracepoint).unwrap();
    // After the first ones, each that is timed counts for sixteen.
    assert!(costs.iter().sum::<u64>().abs_diff(1000) < 16, "{costs:?}");
    let at_least: u64 =
        costs.iter().enumerate().skip(1).map(|(n, hits)| hits * cost_bucket_end_ns(n - 1)).sum();
    assert!(at_least <= session.counters().run_ns, "{costs:?}");
}

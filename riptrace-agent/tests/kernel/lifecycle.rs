//! Arming, disarming, and what is left behind.

use std::{process::Command, time::Instant};

use riptrace_agent::probe::{KernelOptions, Scope};

use super::{
    session::{Session, kernel, site, site_at, string, tracepoint, with_windows},
    target::{Build, Target},
};
use riptrace_common::abi::program::{WINDOW_STACK, Window, register};

#[test]
fn the_verifier_is_far_from_its_bound() {
    for force_single_links in [false, true] {
        let begin = Instant::now();
        let options = KernelOptions { force_single_links, ..KernelOptions::default() };
        let Some(mut kernel) = kernel(&options) else { return };
        let loaded = begin.elapsed();
        let verified = kernel.verified_instructions();
        println!("loaded in {loaded:?}, {verified:?} instructions verified");
        assert!(verified.is_none_or(|instructions| instructions < 300_000), "{verified:?}");
    }
}

#[test]
fn single_links_give_the_same_hits() {
    let [mut target] = Target::start_own();
    let options = KernelOptions { force_single_links: true, ..KernelOptions::default() };
    let Some(mut session) = Session::with(&options, &target, &tracepoint(), &[]) else { return };
    assert!(!session.kernel.uses_multi_links());
    let plans = [
        site(&target, "main.Ints", vec![]),
        site(&target, "main.Text", vec![string(register::RAX, register::RBX)]),
    ];
    let (sites, attachment) = session.arm(&target, &plans, Scope::AllProcesses);
    target.call("Ints", 2, 1);
    target.call("Text", 1, 1);
    let seen: Vec<u32> = session.records().iter().map(|record| record.header.site).collect();
    assert_eq!(seen, [sites[0].index, sites[0].index, sites[1].index]);
    session.kernel.detach(attachment).unwrap();
    target.call("Ints", 2, 1);
    assert_eq!(session.counters().hits, 3);
}

#[test]
fn detached_sites_do_not_trap_and_their_entries_are_used_again() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let plan = site(&target, "main.Ints", vec![]);
    let (first, attachment) = session.arm(&target, std::slice::from_ref(&plan), Scope::Process(target.pid()));
    session.kernel.detach(attachment).unwrap();
    session.kernel.remove_sites(&first).unwrap();
    target.call("Ints", 3, 1);
    assert_eq!(session.counters().hits, 0);
    let (second, _) = session.arm(&target, &[plan], Scope::Process(target.pid()));
    assert_eq!(second[0].index, first[0].index);
    assert_ne!(second[0].generation, first[0].generation);
    target.call("Ints", 3, 1);
    assert_eq!(session.counters().emitted, 3);
}

#[test]
fn a_hit_with_a_stale_generation_is_ignored() {
    let mut target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let plan = site(&target, "main.Ints", vec![]);
    let (first, _still_attached) = session.arm(&target, &[plan], Scope::Process(target.pid()));
    session.kernel.remove_sites(&first).unwrap();
    let other = site(&target, "main.Text", vec![]);
    session.kernel.add_sites(session.tracepoint, session.image, &[&other]).unwrap();
    target.call("Ints", 3, 1);
    assert_eq!(session.counters().hits, 0);
}

#[test]
fn removed_tracepoints_leave_no_trace_in_the_next_one() {
    let [mut target] = Target::start_own();
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    let (_, attachment) = session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::AllProcesses);
    target.call("Ints", 3, 1);
    session.kernel.detach(attachment).unwrap();
    session.kernel.remove_tracepoint(session.tracepoint).unwrap();
    assert!(session.kernel.counters(session.tracepoint).is_err());
    let next = session.kernel.add_tracepoint(&tracepoint(), &[]).unwrap();
    assert_eq!(next, session.tracepoint);
    assert_eq!(session.counters().hits, 0);
    assert_eq!(session.kernel.state(next).unwrap().next_seq, 0);
}

#[test]
fn two_thousand_sites_arm_and_disarm_in_well_under_a_second() {
    let target = Target::start(Build::Static);
    let Some(mut session) = Session::new(&target, &tracepoint()) else { return };
    if !session.kernel.uses_multi_links() {
        return;
    }
    let (text, code) = target.executable.text();
    let mut addresses = Vec::new();
    // Function entries are instruction boundaries; the target and its runtime have enough of them.
    target.executable.elf().for_each_symbol(|name, symbol| {
        if (text..text + code.len() as u64).contains(&symbol.value)
            && symbol.bytes > 16
            && name.contains(&b'.')
        {
            addresses.push(symbol.value);
        }
        true
    });
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(2000);
    assert!(addresses.len() > 1500, "{}", addresses.len());
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 64, reserved: 0 }];
    let slots = vec![string(register::RAX, register::RBX); 8];
    let plans: Vec<_> = addresses
        .iter()
        .map(|&address| with_windows(site_at(&target, address, slots.clone()), windows.clone()))
        .collect();
    // A process that does not exist any more: nothing of the target may run into a trap in its runtime.
    let mut gone = Command::new(std::env::current_exe().unwrap())
        .arg("--list")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let (_, attachment) = session.arm(&target, &plans, Scope::Process(gone.id()));
    let armed = begin.elapsed();
    gone.wait().unwrap();
    let begin = Instant::now();
    session.kernel.detach(attachment).unwrap();
    let disarmed = begin.elapsed();
    println!("{} sites: armed in {armed:?}, disarmed in {disarmed:?}", plans.len());
    // An emulated machine (`cargo xtask kernels`) takes twenty times as long.
    let bound = if std::env::var_os("RIPTRACE_TEST_EMULATED").is_some() { 16_000 } else { 800 };
    assert!(armed.as_millis() < bound && disarmed.as_millis() < bound, "{armed:?} {disarmed:?}");
}

#[test]
fn a_killed_agent_leaves_nothing_behind() {
    const CHILD: &str = "RIPTRACE_TEST_ARM_AND_WAIT";
    if let Some(pid) = std::env::var_os(CHILD) {
        arm_and_wait(pid.to_str().and_then(|pid| pid.parse().ok()).unwrap());
    }
    let mut target = Target::start(Build::Static);
    if kernel(&KernelOptions::default()).is_none() {
        return;
    }
    let entry = target.symbol("main.Ints");
    let before = code_at(target.pid(), entry);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_killed_agent_leaves_nothing_behind", "--nocapture", "--test-threads=1"])
        .env(CHILD, target.pid().to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(|| code_at(target.pid(), entry) != before);
    target.call("Ints", 10, 1);
    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel takes links apart in the background once the last file descriptor is closed.
    wait_until(|| code_at(target.pid(), entry) == before);
    target.call("Ints", 10, 1);
}

/// The life of the agent that is killed.
fn arm_and_wait(pid: u32) -> ! {
    let path = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
    let target = Target::attached(pid, &path);
    let mut session = Session::new(&target, &tracepoint()).unwrap();
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(pid));
    loop {
        std::thread::park();
    }
}

/// Bytes of the target's code as its memory has them, traps included.
fn code_at(pid: u32, address: u64) -> [u8; 8] {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = [0; 8];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    memory.read_exact_at(&mut bytes, address).unwrap();
    bytes
}

fn wait_until(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed().as_secs() < 20, "it never came");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn what_a_command_does_not_need_is_left_out_of_its_program() {
    let mut target = Target::start(Build::Static);
    let mut verified = Vec::new();
    for (conditions, calls) in [(false, false), (true, false), (false, true), (true, true)] {
        for force_single_links in [false, true] {
            let options = KernelOptions { conditions, calls, force_single_links, ..KernelOptions::default() };
            let Some(mut session) = Session::with(&options, &target, &tracepoint(), &[target.pid()]) else {
                return;
            };
            session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
            target.call("Ints", 3, 1);
            assert_eq!(session.counters().emitted, 3, "{options:?}");
            verified.extend(session.kernel.verified_instructions());
        }
    }
    if let (Some(least), Some(most)) = (verified.first(), verified.last()) {
        assert!(least * 2 < *most, "{verified:?}");
    }
}

#[test]
fn a_trap_s_cost_can_be_measured() {
    let Some(mut kernel) = kernel(&KernelOptions::default()) else { return };
    let cost = kernel.measure_trap_cost().expect("measured");
    // A trap is two changes of privilege at least, and a call without one takes a nanosecond.
    assert!(cost.emulated_ns > 50 && cost.stepped_ns > 50, "{cost:?}");
}

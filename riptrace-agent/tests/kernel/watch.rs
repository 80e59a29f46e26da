//! Processes that begin and end, as the kernel tells of them, against processes that this test started.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
};

use riptrace_agent::probe::{
    ProbeError,
    watch::{ProcessEvent, ProcessWatch},
};

/// The smallest program that is on every machine of the tests: this one, asked for its version of nothing.
fn short() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "no test has this name", "--quiet"]).stdout(Stdio::null());
    command
}

fn watch(ring_bytes: Option<u32>) -> Option<ProcessWatch> {
    match ring_bytes.map_or_else(ProcessWatch::start, ProcessWatch::with_ring) {
        Ok(watch) => Some(watch),
        Err(error @ ProbeError::NotPermitted { .. }) if std::env::var("CI").as_deref() != Ok("true") => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "LEFT OUT, NOT TESTED: {error}");
            None
        }
        Err(error) => panic!("watching processes: {error}"),
    }
}

/// What was told of each process, execs and exits, and how many events were lost.
#[derive(Default)]
struct Told {
    of: HashMap<u32, Vec<&'static str>>,
    lost: u64,
}

impl Told {
    fn take(&mut self, watch: &mut ProcessWatch) {
        for event in watch.poll() {
            match event {
                ProcessEvent::Exec { pid, ktime_ns } => {
                    assert_ne!(ktime_ns, 0);
                    self.of.entry(pid).or_default().push("exec");
                }
                ProcessEvent::Exit { pid, .. } => self.of.entry(pid).or_default().push("exit"),
                ProcessEvent::Lost(events) => self.lost += events,
            }
        }
    }
}

#[test]
fn a_process_is_told_once_when_it_begins_and_once_when_all_its_threads_have_ended() {
    let Some(mut watch) = watch(None) else { return };
    // A shell would be a process of its own; a Go program has several threads when it ends.
    let go = super::target::Target::start(super::target::Build::Static);
    let go_pid = go.pid();
    let mut child = short().spawn().unwrap();
    let mut told = Told::default();
    child.wait().unwrap();
    drop(go);
    told.take(&mut watch);
    assert_eq!(told.lost, 0);
    assert_eq!(told.of.get(&child.id()).map(Vec::as_slice), Some(&["exec", "exit"][..]));
    assert_eq!(told.of.get(&go_pid).map(Vec::as_slice), Some(&["exec", "exit"][..]));
    assert!(
        !watch
            .poll()
            .iter()
            .any(|event| matches!(event, ProcessEvent::Exec { pid, .. } if *pid == child.id()))
    );
}

#[test]
fn the_reader_is_woken_and_needs_no_timer() {
    use std::os::fd::{AsFd as _, AsRawFd as _};

    let Some(mut watch) = watch(None) else { return };
    watch.poll();
    let raw = watch.as_fd().as_raw_fd();
    for _ in 0..3 {
        let mut child = short().spawn().unwrap();
        let mut told = Told::default();
        let mut wanted = libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 };
        while told.of.get(&child.id()).is_none_or(|events| events.len() < 2) {
            // SAFETY: one valid entry.
            let ready = unsafe { libc::poll(&raw mut wanted, 1, 60_000) };
            assert_eq!(ready, 1, "nothing came within a minute");
            told.take(&mut watch);
        }
        child.wait().unwrap();
    }
}

#[test]
fn of_a_burst_everything_is_told_or_counted_as_lost() {
    const PROCESSES: usize = 2000;
    const AT_ONCE: usize = 8;
    // The first ring has room for all, the second one for some dozens.
    for (ring_bytes, reads) in [(None, true), (Some(4096), false)] {
        let Some(mut watch) = watch(ring_bytes) else { return };
        let mut told = Told::default();
        let mut pids = Vec::with_capacity(PROCESSES);
        let processes = if reads { PROCESSES } else { PROCESSES / 10 };
        while pids.len() < processes {
            let mut children: Vec<_> = (0..AT_ONCE).map(|_| short().spawn().unwrap()).collect();
            for child in &mut children {
                child.wait().unwrap();
                pids.push(child.id());
            }
            if reads {
                told.take(&mut watch);
            }
        }
        told.take(&mut watch);
        let of_ours =
            |what| pids.iter().filter(|pid| told.of.get(pid).is_some_and(|all| all.contains(&what))).count();
        let (begun, ended) = (of_ours("exec"), of_ours("exit"));
        for pid in &pids {
            assert!(told.of.get(pid).is_none_or(|all| all.len() <= 2), "{:?}", told.of.get(pid));
        }
        if reads {
            assert_eq!((begun, ended, told.lost), (pids.len(), pids.len(), 0));
        } else {
            // Other processes of the machine may be among the lost ones.
            assert!(told.lost > 0 && begun < pids.len());
            assert!(begun as u64 + ended as u64 + told.lost >= 2 * pids.len() as u64);
        }
    }
}

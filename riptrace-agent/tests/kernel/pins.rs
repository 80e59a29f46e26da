//! Counters of a process that was killed.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use riptrace_agent::probe::{
    KernelOptions, Scope,
    pins::{self, PreviousRun},
};

use super::{
    session::{Session, site, tracepoint},
    target::{Build, Target},
};

/// Set for the process that is killed: its pins' folder.
const FOLDER: &str = "RIPTRACE_TEST_PINS";

fn folder(name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/riptrace-test-{}-{name}", std::process::id()))
}

fn traced(folder: &std::path::Path, run: &str, target: &mut Target, calls: u32) -> Option<Session> {
    let options = KernelOptions {
        pins: Some(pins::prepare(folder, run).unwrap()),
        max_tracepoints: 64,
        ..KernelOptions::default()
    };
    let mut session = Session::with(&options, target, &tracepoint(), &[])?;
    session.kernel.name_tracepoint(session.tracepoint, "t_killed").unwrap();
    let plan = site(target, "main.Ints", vec![]);
    session.arm(target, &[plan], Scope::Process(target.pid()));
    target.call("Ints", calls, 1);
    Some(session)
}

/// Runs in a process of its own, and does nothing in the usual one.
#[test]
fn a_process_that_will_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut target = Target::start(Build::Static);
    let Some(_session) = traced(folder.as_ref(), "a_killed", &mut target, 7) else { return };
    // Past the test runner, which keeps what is printed.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "counted {}", target.pid());
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn what_a_killed_process_counted_is_read_once() {
    let mut target = Target::start(Build::Static);
    if super::session::kernel(&KernelOptions::default()).is_none() {
        return;
    }
    let folder = folder("killed");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pins::a_process_that_will_be_killed", "--nocapture"])
        .env(FOLDER, &folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap());
    let counted =
        said.lines().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("counted ")?.to_owned()));
    child.kill().unwrap();
    child.wait().unwrap();
    let orphan = counted.expect("it counted before it was killed");
    let runs = pins::previous_runs(&folder).unwrap();
    Command::new("kill").arg(&orphan).status().ok();
    let [PreviousRun { run, counters: Ok(counters) }] = runs.as_slice() else { panic!("{runs:?}") };
    assert_eq!(run, "a_killed");
    let [(id, counters)] = counters.as_slice() else { panic!("{counters:?}") };
    assert_eq!((id.as_str(), counters.hits, counters.emitted), ("t_killed", 7, 7));
    assert_eq!(pins::previous_runs(&folder).unwrap(), [], "the pins are gone");
    // A process that ends by itself leaves nothing, and one that runs has its counters pinned.
    let session = traced(&folder, "a_next", &mut target, 3);
    assert!(folder.join("a_next").is_dir());
    drop(session);
    assert!(!folder.exists(), "the agent's own folder goes with the last one");
}

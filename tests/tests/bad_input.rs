//! What is wrong gets a clear error, the documented exit code, and loses nothing; nothing is left behind.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use riptrace_tests::{
    fixture::{Fixture, ProbedLine, probed_line},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running, binary, run},
};
use serde_json::Value;

#[path = "bad_input/binaries.rs"]
mod binaries;
#[path = "bad_input/many_sites.rs"]
mod many_sites;
#[path = "bad_input/values.rs"]
mod values;

const TIMEOUT: Duration = Duration::from_secs(60);

fn local() -> Version {
    Version::local().unwrap()
}

fn executable(mode: Mode) -> PathBuf {
    go::build(&local(), mode).unwrap()
}

fn line(name: &str) -> ProbedLine {
    probed_line(&local(), name).unwrap()
}

/// A fixture that executes the line `bad.tick` every millisecond once it is released.
fn ticking() -> Fixture {
    Fixture::start(&executable(Mode::Optimised), &["tick"]).unwrap()
}

/// `riptrace probe --pid PID ARGUMENTS…` to its end.
fn probe(pid: u32, arguments: &[&str]) -> Finished {
    let pid = pid.to_string();
    let mut all = vec!["probe", "--json", "--pid", &pid, "--timeout", "20s", "--budget", "0"];
    all.extend_from_slice(arguments);
    run(&all, TIMEOUT).unwrap()
}

/// A probe on `bad.tick` that has given a hit.
fn hitting(fixture: &mut Fixture, options: &[&str]) -> Running {
    let mut probe = Running::probe(fixture.pid(), &[line("bad.tick").location()], options).unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    probe.wait_hit(TIMEOUT).unwrap();
    probe
}

/// The byte that the process has at each address.
fn code_bytes(pid: u32, addresses: &[u64]) -> Vec<u8> {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let read = |address: &u64| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, *address).unwrap();
        byte[0]
    };
    addresses.iter().map(read).collect()
}

/// The armed addresses of a program that is not position-independent.
fn addresses(event: &Value) -> Vec<u64> {
    let pc =
        |site: &Value| u64::from_str_radix(site["location"]["pc"].as_str()?.strip_prefix("0x")?, 16).ok();
    event["sites"].as_array().unwrap().iter().map(|site| pc(site).unwrap()).collect()
}

const BREAKPOINT: u8 = 0xcc;

#[test]
fn a_line_without_code_names_its_neighbours() {
    if !requirements::bpf("a line without code") {
        return;
    }
    let fixture = ticking();
    let comment = line("bad.comment");
    let finished = probe(fixture.pid(), &[&comment.location()]);
    let nearest = (comment.line + 1).to_string();
    finished.expect(3, &["no code at", "nearest lines with code", &nearest]);
}

#[test]
fn an_ambiguous_file_lists_the_candidates() {
    if !requirements::bpf("an ambiguous file") {
        return;
    }
    let fixture = ticking();
    let finished = probe(fixture.pid(), &["lines.go:60"]);
    finished.expect(
        3,
        &[
            "lines.go matches 2 files",
            "fixtures/counts/lines.go",
            "fixtures/stress/lines.go",
            "longer suffix",
        ],
    );
}

#[test]
fn what_does_not_exist_is_named() {
    if !requirements::bpf("missing files and functions") {
        return;
    }
    let fixture = ticking();
    for missing in ["fixtures/bad.nothing", "nosuch.go:7", "bad/bad.go:99999", "fixtures/bad.(*none).Method"]
    {
        let finished = probe(fixture.pid(), &[missing]);
        let name = missing.split(':').next().unwrap();
        finished.expect(3, &[name]);
    }
}

#[test]
fn wrong_usage_is_told_apart() {
    for arguments in [
        &["probe", "--pid", "1", "--no-such-option", "a.go:1"][..],
        &["probe", "--pid", "1", "--limit", "many", "a.go:1"],
        &["probe", "--pid", "1", "--timeout", "soon", "a.go:1"],
        &["probe", "--pid", "one", "a.go:1"],
        &["probe", "--pid", "1"],
        &["probe", "--pid", "1", "--rate", "-1", "a.go:1"],
        &["nonsense"],
    ] {
        let finished = run(arguments, TIMEOUT).unwrap();
        assert_eq!(finished.code(), Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty());
    }
}

#[test]
fn a_process_that_is_gone_is_named() {
    if !requirements::bpf("a dead process") {
        return;
    }
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    probe(pid, &["main.go:1"]).expect(3, &[&pid.to_string()]);
}

#[test]
fn a_process_that_is_not_go_is_named() {
    if !requirements::bpf("a process that is not Go") {
        return;
    }
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let finished = probe(child.id(), &["main.go:1"]);
    child.kill().unwrap();
    child.wait().unwrap();
    finished.expect(3, &[&format!("pid {} is not a Go program", child.id())]);
}

#[test]
fn a_process_may_end_at_any_moment() {
    if !requirements::bpf("a process that ends while it is armed") {
        return;
    }
    for delay_ms in [0, 3, 10, 30, 100, 300, 1000] {
        let mut fixture = Fixture::start(&executable(Mode::Optimised), &["exit"]).unwrap();
        let running =
            Running::probe(fixture.pid(), &[line("bad.tick").location()], &["--timeout", "20s"]).unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        fixture.release().unwrap();
        let started = Instant::now();
        let finished = running.wait(TIMEOUT).unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(15),
            "it did not notice that the process ended after {delay_ms} ms; it said:\n{}{}",
            finished.stdout,
            finished.stderr
        );
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        match finished.code() {
            Some(0) => assert_eq!(finished.of_kind("hit").count(), 1),
            Some(3) => assert!(finished.stderr.contains("ended before it was armed"), "{}", finished.stderr),
            Some(4) => {}
            other => panic!("exit code {other:?} after {delay_ms} ms: {}", finished.stderr),
        }
    }
}

#[test]
fn the_end_of_the_process_ends_the_probe() {
    if !requirements::bpf("the end of the process") {
        return;
    }
    let mut fixture = ticking();
    let running = hitting(&mut fixture, &[]);
    drop(fixture.end());
    let finished = running.wait(Duration::from_secs(10)).unwrap();
    finished.expect(0, &[]);
    assert_eq!(finished.of_kind("detached").next().unwrap()["reason"], "process_exited");
}

#[test]
fn a_closed_pipe_is_no_error() {
    if !requirements::bpf("a closed pipe") {
        return;
    }
    let mut fixture = ticking();
    let mut child = Command::new(binary())
        .args([
            "probe",
            "--json",
            "--timeout",
            "30s",
            "--pid",
            &fixture.pid().to_string(),
            &line("bad.tick").location(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    fixture.release().unwrap();
    drop(stdout);
    let started = Instant::now();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.to_lowercase().contains("broken pipe"), "{stderr}");
    assert!(started.elapsed() < Duration::from_secs(10), "it went on without a reader");
}

#[test]
fn a_full_disk_ends_it_with_the_reason_and_the_counters() {
    if !requirements::bpf("a full disk") {
        return;
    }
    let mut fixture = ticking();
    let pid = fixture.pid().to_string();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let probe = Command::new(binary())
        .args(["probe", "--json", "--timeout", "20s", "--pid", &pid, &line("bad.tick").location()])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    fixture.release().unwrap();
    let output = probe.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output: No space left on device"), "{said}");
    assert!(said.contains("hits ") && said.contains("= emitted "), "{said}");
    assert!(fixture.is_running(), "the program did not survive");
}

#[test]
fn a_signal_ends_it_cleanly() {
    if !requirements::bpf("signals") {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut fixture = ticking();
        let running = hitting(&mut fixture, &[]);
        running.signal(signal).unwrap();
        let finished = running.wait(Duration::from_secs(10)).unwrap();
        finished.expect(0, &[]);
        let attached = finished.of_kind("attached").next().unwrap();
        assert!(
            !code_bytes(fixture.pid(), &addresses(attached)).contains(&BREAKPOINT),
            "a breakpoint was left"
        );
        let stats = finished.of_kind("stats").next().unwrap();
        let hits = u64::try_from(finished.of_kind("hit").count()).unwrap();
        assert_eq!(
            stats["emitted"].as_u64(),
            Some(hits),
            "not every hit that was counted was printed: {stats}"
        );
        assert_eq!(finished.of_kind("detached").count(), 1);
        assert!(fixture.is_running());
    }
}

#[test]
fn a_kill_leaves_no_breakpoint_behind() {
    if !requirements::bpf("SIGKILL") {
        return;
    }
    let mut fixture = ticking();
    let mut running = Running::probe(fixture.pid(), &[line("bad.tick").location()], &[]).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    running.wait_hit(TIMEOUT).unwrap();
    running.signal(libc::SIGSTOP).unwrap();
    let armed = sites_of(&fixture);
    assert!(!armed.is_empty(), "no breakpoint while it is armed: this test can't tell anything");
    running.signal(libc::SIGKILL).unwrap();
    drop(running.wait(TIMEOUT));
    let end = Instant::now() + Duration::from_secs(10);
    while code_bytes(fixture.pid(), &armed).contains(&BREAKPOINT) {
        assert!(Instant::now() < end, "the breakpoint is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(fixture.is_running());
}

/// Addresses of the text where the process has a breakpoint and its file has none.
fn sites_of(fixture: &Fixture) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", fixture.pid())).unwrap();
    let program = fs::read_link(format!("/proc/{}/exe", fixture.pid())).unwrap();
    let program = program.to_str().unwrap();
    let text = maps.lines().find(|line| line.contains(" r-xp ") && line.ends_with(program)).unwrap();
    let mut fields = text.split_whitespace();
    let (begin, end) = fields.next().unwrap().split_once('-').unwrap();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (begin, end, offset) = (hexadecimal(begin), hexadecimal(end), hexadecimal(fields.nth(1).unwrap()));
    let length = usize::try_from(end - begin).unwrap();
    let (mut memory, mut file) = (vec![0; length], vec![0; length]);
    fs::File::open(format!("/proc/{}/mem", fixture.pid()))
        .unwrap()
        .read_exact_at(&mut memory, begin)
        .unwrap();
    let read =
        fs::File::open(format!("/proc/{}/exe", fixture.pid())).unwrap().read_at(&mut file, offset).unwrap();
    (0..read)
        .filter(|at| memory[*at] == BREAKPOINT && file[*at] != BREAKPOINT)
        .map(|at| begin + at as u64)
        .collect()
}

#[test]
fn two_probes_on_one_line_both_hit() {
    if !requirements::bpf("two probes on one line") {
        return;
    }
    let mut fixture = ticking();
    let location = line("bad.tick").location();
    let first = hitting(&mut fixture, &[]);
    let second = Running::probe(fixture.pid(), &[location.clone(), location], &["--limit", "6"]).unwrap();
    let second = second.wait(TIMEOUT).unwrap();
    second.expect(0, &[]);
    assert_eq!(second.of_kind("hit").count(), 6);
    // The end of one leaves the other armed.
    std::thread::sleep(Duration::from_millis(300));
    let first = first.interrupt(TIMEOUT).unwrap();
    first.expect(0, &[]);
    let times =
        |finished: &Finished| finished.of_kind("hit").filter_map(|hit| hit["ktime_ns"].as_u64()).max();
    assert!(times(&first) > times(&second), "the first probe went silent when the second ended");
}

#[test]
fn the_limit_is_exact_and_a_timeout_without_hits_says_so() {
    if !requirements::bpf("limit and timeout") {
        return;
    }
    let mut fixture = ticking();
    let location = line("bad.tick").location();
    let pid = fixture.pid().to_string();
    let quiet = run(&["probe", "--json", "--pid", &pid, "--timeout", "1s", &location], TIMEOUT).unwrap();
    quiet.expect(4, &[]);
    let mut running = Running::probe(fixture.pid(), &[location], &["--limit", "7"]).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    let finished = running.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    assert_eq!(finished.of_kind("hit").count(), 7);
    assert_eq!(finished.of_kind("detached").next().unwrap()["reason"], "limit");
}

#[test]
fn a_rate_is_kept_on_a_hot_line() {
    if !requirements::bpf("a hot line") {
        return;
    }
    let mut fixture = Fixture::start(&executable(Mode::Optimised), &["hot"]).unwrap();
    let location = line("bad.hot").location();
    let mut running =
        Running::probe(fixture.pid(), &[location], &["--timeout", "3s", "--rate", "50"]).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    let finished = running.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    let hits = finished.of_kind("hit").count();
    assert!((1..=50 * 5).contains(&hits), "{hits} hits in 3 seconds at 50 a second");
    let stats = finished.of_kind("stats").last().unwrap();
    assert!(stats["throttled"].as_u64() > Some(0), "{stats}");
    let mut per_second: BTreeMap<u64, u64> = BTreeMap::new();
    for hit in finished.of_kind("hit") {
        *per_second.entry(hit["ktime_ns"].as_u64().unwrap() / 1_000_000_000).or_default() += 1;
    }
    assert!(per_second.values().all(|hits| *hits <= 50), "{per_second:?}");
}

#[test]
fn without_privileges_it_says_what_it_needs() {
    let fixture = executable(Mode::Optimised);
    let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let copied = |path: &Path| {
        // Build directories may be readable by their owner only.
        let copy = folder.path().join(path.file_name().unwrap());
        fs::copy(path, &copy).unwrap();
        copy
    };
    let (riptrace, own) = (copied(&binary()), copied(&fixture));
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]);
        command
    };
    if !nobody().arg("true").status().is_ok_and(|status| status.success()) {
        return requirements::leave_out("no privileges", "`setpriv` can't become another user here");
    }
    // A process of root, which nobody may look at, and one of nobody's own.
    let mut processes = Vec::new();
    for mut command in [Command::new(&fixture), nobody()] {
        if command.get_program() == "setpriv" {
            command.arg(&own);
        }
        let child = command.arg("tick").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        processes.push(child);
    }
    std::thread::sleep(Duration::from_millis(300));
    for process in &processes {
        let pid = process.id().to_string();
        let location = line("bad.tick").location();
        let mut command = nobody();
        command.arg(&riptrace).args(["probe", "--timeout", "5s", "--pid", &pid, &location]);
        let finished = Running::start_command(&mut command).unwrap().wait(TIMEOUT).unwrap();
        finished.expect(5, &["needs root, or CAP_"]);
    }
    for mut process in processes {
        assert!(process.try_wait().unwrap().is_none(), "the program did not survive");
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

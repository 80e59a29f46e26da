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
    let mut all = vec!["probe", "--json", "--pid", &pid, "--timeout", "20s"];
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
fn a_binary_without_dwarf_says_which_flag_removed_it() {
    if !requirements::bpf("binaries without DWARF") {
        return;
    }
    for (mode, flag) in [(Mode::NoDwarf, "-w"), (Mode::Stripped, "-s")] {
        let mut fixture = Fixture::start(&executable(mode), &["tick"]).unwrap();
        let location = line("bad.tick").location();
        let mut running = Running::probe(fixture.pid(), &[location], &["--limit", "3", "--stack"]).unwrap();
        running.wait_attached(1, TIMEOUT).unwrap();
        fixture.release().unwrap();
        let finished = running.wait(TIMEOUT).unwrap();
        finished.expect(0, &[]);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(
            said.contains(flag) && said.contains("DWARF"),
            "it did not say that {flag} removed DWARF:\n{said}"
        );
        let hit = finished.of_kind("hit").next().unwrap();
        assert_eq!(hit["location"]["function"], "fixtures/bad.tick");
        assert_eq!(hit["stack"][1]["function"], "fixtures/bad.Tick");
        assert!(hit["goroutine"].is_u64(), "{hit}");
    }
}

#[test]
fn a_binary_stripped_afterwards_still_gives_lines() {
    if !requirements::bpf("a stripped binary") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(executable(Mode::Optimised)).status();
    if !strip.is_ok_and(|status| status.success()) {
        return requirements::leave_out("a stripped binary", "there is no `strip`");
    }
    let mut fixture = Fixture::start(&stripped, &["tick"]).unwrap();
    let running = hitting(&mut fixture, &["--limit", "2"]);
    running.wait(TIMEOUT).unwrap().expect(0, &[]);
}

#[test]
fn a_truncated_executable_is_an_error_and_no_panic() {
    if !requirements::bpf("a truncated executable") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(executable(Mode::Optimised)).unwrap();
    for bytes in [0, 3, 40, 64, 500, 5000, whole.len() / 3, whole.len() * 2 / 3, whole.len() - 1000] {
        let path = folder.path().join(format!("cut-{bytes}"));
        fs::write(&path, &whole[..bytes]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let location = line("bad.tick").location();
        let path = path.to_str().unwrap();
        let finished =
            run(&["probe", "--json", "--exe", path, "--timeout", "1s", &location], TIMEOUT).unwrap();
        assert!(!finished.stderr.contains("panicked"), "{bytes} bytes: {}", finished.stderr);
        assert!(
            matches!(finished.code(), Some(3 | 4)),
            "{bytes} bytes: {:?} {}",
            finished.code(),
            finished.stderr
        );
        if bytes < 5000 {
            finished.expect(3, &["cut-"]);
        }
    }
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
    let text = maps.lines().find(|line| line.contains(" r-xp ") && line.contains("fixtures-")).unwrap();
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

#[test]
fn a_gigabyte_is_captured_up_to_the_limits() {
    if !requirements::bpf("a slice of 1 GB") {
        return;
    }
    let hit = one_hit("huge", "bad.huge");
    // Bytes are captured like a text.
    for (name, len, by) in
        [("bytes", 1 << 30, "max_string"), ("words", 1 << 27, "max_items"), ("text", 1 << 30, "max_string")]
    {
        let value = variable(&hit, name);
        assert_eq!(value["len"].as_u64(), Some(len), "{name}: {value}");
        assert_eq!(value["truncated"]["by"], by, "{name}: {value}");
    }
    assert_eq!(variable(&hit, "words")["elems"][0]["value"], 97);
    let blocks = variable(&one_hit("huge", "bad.blocks"), "blocks");
    assert_eq!(blocks["len"].as_u64(), Some(1 << 10));
    assert!(blocks.get("truncated").is_some(), "{blocks:.300}");
}

#[test]
fn a_pointer_to_nowhere_is_a_fault_of_that_value_alone() {
    if !requirements::bpf("pointers to nowhere") {
        return;
    }
    let hit = one_hit("wild", "bad.wild");
    let held = one_hit("wild", "bad.held");
    for name in ["unmapped", "strange", "m", "c", "s", "list"] {
        let value = variable(if name == "list" { &held } else { &hit }, name);
        let text = value.to_string();
        assert!(text.contains(r#""unavailable":"fault""#), "{name}: {text}");
    }
    let s = variable(&hit, "s");
    assert_eq!(s["len"], 10, "{s}");
    let holder = variable(&held, "h");
    let kept = &holder["fields"][1]["value"];
    assert_eq!((&kept["value"], kept.get("unavailable")), (&Value::from("fine"), None), "{holder}");
}

#[test]
fn a_map_that_changes_meanwhile_is_torn_or_exact() {
    if !requirements::bpf("a map that changes meanwhile") {
        return;
    }
    for version in ["1.23.12", "local"] {
        let version = if version == "local" { local() } else { Version(version.to_owned()) };
        if !version.is_available() {
            requirements::leave_out(
                "a map that changes meanwhile",
                "this version of Go can't be fetched here",
            );
            continue;
        }
        let executable = go::build(&version, Mode::Optimised).unwrap();
        let mut fixture = Fixture::start(&executable, &["racing"]).unwrap();
        let location = probed_line(&version, "bad.racing").unwrap().location();
        let options = ["--limit", "400", "--max-items", "3000", "--timeout", "30s"];
        let mut running = Running::probe(fixture.pid(), &[location], &options).unwrap();
        running.wait_attached(1, TIMEOUT).unwrap();
        fixture.release().unwrap();
        let finished = running.wait(TIMEOUT).unwrap();
        finished.expect(0, &[]);
        assert_eq!(finished.of_kind("hit").count(), 400);
        let (mut torn, mut entries) = (0, 0);
        for hit in finished.of_kind("hit") {
            for name in ["small", "large"] {
                let map = variable(hit, name);
                if map["torn"] == true {
                    torn += 1;
                    continue;
                }
                let list = map["entries"].as_array().map_or(&[][..], Vec::as_slice);
                for entry in list {
                    if entry.to_string().contains("max_bytes") {
                        continue; // The record was full.
                    }
                    let number = |value: &Value| value["value"].as_u64();
                    let (key, value) = (number(&entry[0]), number(&entry[1]));
                    // The runtime sets a key first and clears a value first: for a moment memory itself holds a zero.
                    let whole = value == Some(0) || value == key.map(|key| key * 3);
                    assert!(whole, "{name} was put together from two moments: {entry}");
                    entries += 1;
                }
                if map.get("truncated").is_none() && map.get("unavailable").is_none() {
                    assert_eq!(
                        map["len"].as_u64(),
                        Some(list.len() as u64),
                        "{name} is said to be whole: {map:.400}"
                    );
                }
            }
        }
        assert!(entries > 0, "every one of 800 maps was torn ({torn})");
    }
}

/// The first hit of a line that is executed once.
fn one_hit(fixture: &str, name: &str) -> Value {
    let mut fixture = Fixture::start(&executable(Mode::Optimised), &[fixture]).unwrap();
    let mut running = Running::probe(fixture.pid(), &[line(name).location()], &["--limit", "1"]).unwrap();
    running.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    let finished = running.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    assert!(fixture.is_running(), "the program did not survive");
    finished.of_kind("hit").next().unwrap().clone()
}

fn variable(hit: &Value, name: &str) -> Value {
    let variables = hit["variables"].as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("no {name} in {hit}"))
        ["value"]
        .clone()
}

#[test]
fn two_thousand_sites_are_armed_and_disarmed_at_once() {
    const COPIES: usize = 2000;
    if !requirements::bpf("2000 sites") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = many_copies(folder.path(), COPIES);
    let executable = go::build_in(folder.path(), &local(), Mode::Optimised).unwrap();
    let mut fixture = Fixture::start(&executable, &[]).unwrap();
    let mut probe = Running::probe(fixture.pid(), &[source], &["--rate", "10"]).unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let started = Instant::now();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    let took = started.elapsed();
    drop(fixture.end());
    finished.expect(0, &[]);
    let sites = finished.of_kind("attached").next().unwrap()["sites"].as_array().unwrap().len();
    assert!(sites >= COPIES, "{sites} sites");
    assert_eq!(finished.of_kind("stats").next().unwrap()["hits"].as_u64(), Some(COPIES as u64 * 3));
    assert!(took < Duration::from_secs(5), "disarming took {took:?}");
}

/// Writes a program in which one function is inlined so many times; says where its line is.
fn many_copies(folder: &Path, copies: usize) -> String {
    fs::write(folder.join("go.mod"), "module many\n\ngo 1.21\n").unwrap();
    let calls =
        |range: std::ops::Range<usize>| range.map(|i| format!("\tadd({})\n", i + 1)).collect::<String>();
    let mut source = String::from(
        "package main\n\nimport (\n\t\"bufio\"\n\t\"fmt\"\n\t\"os\"\n)\n\nvar sum int\n\nfunc add(n int) {\n\tsum += n * sum // probed\n}\n\n",
    );
    let line = source.lines().position(|line| line.contains("// probed")).unwrap() + 1;
    let functions = copies / 100;
    for function in 0..functions {
        let body = calls(function * 100..(function + 1) * 100);
        source += &format!("//go:noinline\nfunc f{function}() {{\n{body}}}\n\n");
    }
    let all = (0..functions).map(|function| format!("\t\tf{function}()\n")).collect::<String>();
    source += &format!(
        "func main() {{\n\tin := bufio.NewReader(os.Stdin)\n\tfmt.Println(`{{\"ready\":1}}`)\n\tin.ReadString('\\n')\n\tfor i := 0; i < 3; i++ {{\n{all}\t}}\n\tfmt.Println(`{{\"done\":true}}`)\n\tin.ReadString('\\n')\n}}\n"
    );
    fs::write(folder.join("many.go"), source).unwrap();
    format!("many.go:{line}")
}

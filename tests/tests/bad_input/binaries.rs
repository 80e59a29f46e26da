//! Programs that lack something.

use super::*;

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

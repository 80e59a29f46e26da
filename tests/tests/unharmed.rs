//! A program that drives the runtime hard computes the same with its hottest lines probed.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::time::Duration;

use riptrace_tests::{
    fixture::{Fixture, ProbedLine, Truth, probed_lines},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running},
    truth,
};

const TIMEOUT: Duration = Duration::from_secs(180);

/// The hottest functions of the fixture; stacks grow below `descend`, and `throw` is left by panics.
const FUNCTIONS: [&str; 4] = ["mix", "descend", "panics", "throw"];

/// What is probed while the program runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probed {
    Nothing,
    Lines,
    Returns,
}

fn stress(version: &Version, mode: Mode, probed: Probed) -> (Truth, Option<Finished>) {
    let executable = go::build(version, mode).unwrap();
    let mut fixture = Fixture::start(&executable, &["stress"]).unwrap();
    let probe = (probed != Probed::Nothing).then(|| {
        let mut options = truth::options("300");
        options.extend(["--stack=32"]);
        let locations: Vec<String> = if probed == Probed::Returns {
            options.push("--return");
            FUNCTIONS.iter().map(|name| format!("fixtures/stress.{name}")).collect()
        } else {
            probed_lines(version)
                .unwrap()
                .iter()
                .filter(|line| line.fixture() == "stress")
                .map(ProbedLine::location)
                .collect()
        };
        let mut probe = Running::probe(fixture.pid(), &locations, &options).unwrap();
        probe.wait_attached(locations.len(), TIMEOUT).unwrap();
        probe
    });
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.map(|probe| probe.interrupt(TIMEOUT).unwrap());
    (fixture.end().unwrap(), finished)
}

fn checksum_is_the_same(version: &Version, mode: Mode, what: Probed) {
    let title = format!("unharmed, go{} {}", version.0, mode.name());
    if !requirements::bpf(&title) {
        return;
    }
    let (alone, _) = stress(version, mode, Probed::Nothing);
    let (probed, finished) = stress(version, mode, what);
    assert_eq!(alone.results["checksum"], probed.results["checksum"], "{title}");
    let finished = finished.unwrap();
    finished.expect(0, &[]);
    for stats in finished.of_kind("stats") {
        assert_ne!(stats["hits"], 0, "{title}: {stats}");
        assert_eq!(stats["failed"], 0, "{title}: {stats}");
        assert_eq!(stats["undecodable"], 0, "{title}: {stats}");
    }
}

#[test]
fn oldest_go_computes_the_same_with_probes() {
    checksum_is_the_same(&Version("1.21.13".into()), Mode::Optimised, Probed::Lines);
}

#[test]
fn local_go_computes_the_same_with_probes() {
    checksum_is_the_same(&Version::local().unwrap(), Mode::Optimised, Probed::Lines);
}

#[test]
fn newest_go_computes_the_same_with_probes() {
    checksum_is_the_same(&Version("1.27.0".into()), Mode::Optimised, Probed::Lines);
}

#[test]
fn an_unoptimised_program_computes_the_same_with_probes() {
    checksum_is_the_same(&Version::local().unwrap(), Mode::Debug, Probed::Lines);
}

#[test]
fn oldest_go_computes_the_same_with_returns() {
    checksum_is_the_same(&Version("1.21.13".into()), Mode::Optimised, Probed::Returns);
}

#[test]
fn newest_go_computes_the_same_with_returns() {
    checksum_is_the_same(&Version("1.27.0".into()), Mode::Optimised, Probed::Returns);
}

#[test]
fn an_unoptimised_program_computes_the_same_with_returns() {
    checksum_is_the_same(&Version::local().unwrap(), Mode::Debug, Probed::Returns);
}

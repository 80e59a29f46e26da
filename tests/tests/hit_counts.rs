//! A line gives one hit each time it is executed: the fixture counts for itself, and `stats.hits` must agree exactly.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::BTreeMap, time::Duration};

use riptrace_tests::{
    fixture::{Fixture, ProbedLine, probed_lines},
    go::{self, Mode, Version},
    requirements,
    riptrace::Running,
    truth,
};

const TIMEOUT: Duration = Duration::from_secs(120);

fn counts_agree(version: &Version, mode: Mode) {
    let title = format!("hit counts, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let executable = go::build(version, mode).unwrap();
    let mut fixture = Fixture::start(&executable, &["counts"]).unwrap();
    let lines: Vec<ProbedLine> =
        probed_lines(version).unwrap().into_iter().filter(|line| line.fixture() == "counts").collect();
    let locations: Vec<String> = lines.iter().map(ProbedLine::location).collect();
    // One capture a second is enough here: a throttled hit is counted like any other.
    let mut probe = Running::probe(fixture.pid(), &locations, &truth::options("1")).unwrap();
    probe.wait_attached(locations.len(), TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    let truth = fixture.end().unwrap();

    let requested: BTreeMap<&str, &str> = finished
        .of_kind("attached")
        .filter_map(|event| Some((event["tracepoint"].as_str()?, event["requested"].as_str()?)))
        .collect();
    let mut hits: BTreeMap<&str, u64> = BTreeMap::new();
    for stats in finished.of_kind("stats") {
        let count = |key: &str| stats[key].as_u64().unwrap();
        let outcomes = ["emitted", "filtered", "throttled", "dropped", "failed"].map(count);
        assert_eq!(count("hits"), outcomes.iter().sum::<u64>(), "{stats}");
        hits.insert(requested[stats["tracepoint"].as_str().unwrap()], count("hits"));
    }
    let mut wrong = String::new();
    for line in &lines {
        let want = truth.counts[&line.name];
        let have = hits.get(line.location().as_str()).copied();
        if have != Some(want) {
            wrong += &format!("{} ({}): {have:?} hits, executed {want} times\n", line.name, line.location());
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{wrong}");
    if mode != Mode::Optimised {
        return;
    }
    // Without these the test would say nothing about branches that are armed for the lines that they lead to.
    let mut kinds = vec![("Early", "on its other way, too"), ("AfterCheck", "is a panic's")];
    // The same for several ways in; other versions of the compiler lay the code out otherwise.
    if *version == Version::local().unwrap() {
        kinds.extend([
            ("Switched", "at its 3 ways in"),
            ("Fallen", "at its 2 ways in"),
            ("Widened", "whose other way leads to the line as well"),
            ("Repeated", "at its 2 ways in"),
        ]);
    }
    for (name, kind) in kinds {
        let name = format!("counts.{name}");
        let line = lines.iter().find(|line| line.name == name).unwrap();
        let attached =
            finished.of_kind("attached").find(|event| event["requested"] == *line.location()).unwrap();
        assert!(attached["sites"].to_string().contains(kind), "{title}: {name}: {attached}");
    }
}

riptrace_tests::versions! { counts_agree:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    go1_21_debug: Version("1.21.13".into()), Debug;
    go1_24_optimised: Version("1.24.13".into()), Optimised;
    local_optimised: Version::local().unwrap(), Optimised;
    local_debug: Version::local().unwrap(), Debug;
    go1_27_optimised: Version("1.27.0".into()), Optimised;
    go1_27_debug: Version("1.27.0".into()), Debug;
    go1_27_pie: Version("1.27.0".into()), Pie;
}

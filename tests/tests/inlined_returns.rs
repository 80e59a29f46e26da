//! Calls that were inlined end as often as the program says that they were made, or their ends are refused with the reason.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::HashMap, time::Duration};

use riptrace_tests::{
    fixture::Fixture,
    go::{self, Mode, Version},
    requirements,
    riptrace::Running,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);
/// What is inlined, and what one of them calls.
const FUNCTIONS: [&str; 10] =
    ["Scale", "IsOdd", "Clamp", "Sum", "Waits", "Outer", "Held", "Failing", "Deep", "Slow"];
/// Copies whose caller recovers panics are not followed.
const REFUSED: &str = "Held";
/// Whose ends are seen in every build.
const FOLLOWED: [&str; 7] = ["IsOdd", "Clamp", "Sum", "Waits", "Outer", "Failing", "Deep"];

fn each_call_ends_once(version: &Version, mode: Mode) {
    let title = format!("returns of inlined calls, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let executable = go::build(version, mode).unwrap();
    let mut fixture = Fixture::start(&executable, &["returns"]).unwrap();
    let locations: Vec<String> = FUNCTIONS.iter().map(|name| format!("fixtures/returns.{name}")).collect();
    // Small records, so that a reader that the machine has no time for loses none of them.
    let options = ["--rate", "0", "--budget", "0", "--return", "--message", "called"];
    let mut probe = Running::probe(fixture.pid(), &locations, &options).unwrap();
    probe.wait_attached(locations.len(), TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    let truth = fixture.end().unwrap();
    finished.expect(0, &[]);
    let mut wrong: Vec<String> = Vec::new();
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut refused: HashMap<&str, String> = HashMap::new();
    for attached in finished.of_kind("attached") {
        let name = attached["requested"].as_str().unwrap().strip_prefix("fixtures/returns.").unwrap();
        names.insert(attached["tracepoint"].as_str().unwrap(), name);
        let warnings = attached["warnings"].as_array().into_iter().flatten();
        let said: Vec<&str> =
            warnings.filter_map(Value::as_str).filter(|text| text.contains("inlined at")).collect();
        if !said.is_empty() {
            refused.insert(name, said.join("; "));
        }
    }
    let mut lost = 0;
    for stats in finished.of_kind("stats") {
        let count = |key: &str| stats[key].as_u64().unwrap();
        let name = names[stats["tracepoint"].as_str().unwrap()];
        lost += count("dropped");
        // A panic's end is a hit only if the entry's record was written.
        if let Some(made) = truth.results["copies"][name].as_u64().filter(|_| name != "Failing") {
            let hits = if refused.contains_key(name) { made..=2 * made } else { 2 * made..=2 * made };
            if !hits.contains(&count("hits")) {
                wrong.push(format!("{name}: {made} calls were made: {stats}"));
            }
        }
    }
    if lost > 0 {
        // The machine had no time for the reader; what is left does not pair up.
        assert!(wrong.is_empty(), "{title}:\n{}", wrong.join("\n"));
        return;
    }
    // By goroutine: calls that are open, innermost last, with when they began.
    let mut open: HashMap<u64, Vec<(&str, u64, u64)>> = HashMap::new();
    let (mut begun, mut ended): (HashMap<&str, u64>, HashMap<&str, u64>) = Default::default();
    for hit in finished.of_kind("hit") {
        let name = names[hit["tracepoint"].as_str().unwrap()];
        let number = |key: &str| hit[key].as_u64();
        let (seq, at_ns) = (number("seq").unwrap(), number("ktime_ns").unwrap());
        let calls = open.entry(number("goroutine").unwrap()).or_default();
        if hit["event"] == "entry" {
            *begun.entry(name).or_default() += 1;
            if !refused.contains_key(name) {
                calls.push((name, seq, at_ns));
            }
            continue;
        }
        *ended.entry(name).or_default() += 1;
        if refused.contains_key(name) {
            continue;
        }
        let took = number("duration_ns").unwrap_or(u64::MAX);
        match calls.pop() {
            // From the end of the entry's hit to the beginning of this one.
            Some((innermost, entry, since_ns))
                if innermost == name && number("entry_seq") == Some(entry) && took <= at_ns - since_ns => {}
            innermost => wrong.push(format!("{innermost:?} was open when this ended: {hit:.400}")),
        }
    }
    for name in FUNCTIONS.into_iter().filter(|name| *name != "Slow") {
        let made = truth.results["copies"][name].as_u64().unwrap();
        let (begun, ended) = (begun.get(name).copied().unwrap_or(0), ended.get(name).copied().unwrap_or(0));
        match refused.get(name) {
            None if (begun, ended) != (made, made) => {
                wrong.push(format!("{name}: {begun} began, {ended} ended, {made} were made"));
            }
            Some(said) if FOLLOWED.contains(&name) => wrong.push(format!("{name}: {said}")),
            None if name == REFUSED && !mode.keeps_everything() => {
                wrong.push(format!("{name} is followed, although its caller recovers"));
            }
            Some(said) if ended > begun => wrong.push(format!("{name}: {ended} of {begun} ended; {said}")),
            _ => {}
        }
    }
    for (goroutine, calls) in open {
        if !calls.is_empty() {
            wrong.push(format!("goroutine {goroutine}: {calls:?} did not end"));
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{}", wrong.join("\n"));
}

riptrace_tests::versions! { each_call_ends_once:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    local_optimised: Version::local().unwrap(), Optimised;
    local_debug: Version::local().unwrap(), Debug;
    go1_27_optimised: Version("1.27.0".into()), Optimised;
}

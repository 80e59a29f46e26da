//! Every end of a call is seen once, whatever ends it, with the results that the program itself printed.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use riptrace_tests::{
    compare::{Comparison, Limits},
    fixture::{Fixture, Truth},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running},
    truth,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);
/// The fixture's functions whose calls it notes.
const NOTED: [&str; 16] = [
    "Fib",
    "Nested",
    "NilRecovered",
    "Load",
    "FailsRecovered",
    "Fails",
    "Repanics",
    "Rethrows",
    "Tail",
    "CallsInlined",
    "Grows",
    "Exits",
    "ExitsInPanic",
    "Works",
    "Panics",
    "Nothing",
];
/// Those whose results it prints.
const PRINTED: [&str; 11] = [
    "Every",
    "Floats",
    "Structs",
    "Arrays",
    "Blanks",
    "Deferred",
    "Recovers",
    "Pick",
    "holder.Swap",
    "(*list).Push",
    "full.Count",
];

fn probed(version: &Version, mode: Mode, options: &[&'static str]) -> (Truth, Finished) {
    let executable = go::build(version, mode).unwrap();
    let mut fixture = Fixture::start(&executable, &["returns"]).unwrap();
    let locations: Vec<String> =
        NOTED.iter().chain(&PRINTED).map(|name| format!("fixtures/returns.{name}")).collect();
    let rate = options.iter().position(|&option| option == "--rate").and_then(|at| options.get(at + 1));
    let mut all = truth::options(rate.copied().unwrap_or("0"));
    all.push("--return");
    all.extend(options.iter().filter(|&option| *option != "--rate" && Some(option) != rate));
    let mut probe = Running::probe(fixture.pid(), &locations, &all).unwrap();
    probe.wait_attached(locations.len(), TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    (fixture.end().unwrap(), finished)
}

/// `fixtures/returns.Fib` → `Fib`, by tracepoint.
fn functions(finished: &Finished) -> HashMap<String, String> {
    let attached = finished.of_kind("attached");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    attached
        .map(|event| {
            let requested = text(&event["requested"]);
            let name = requested.strip_prefix("fixtures/returns.").unwrap().to_owned();
            (text(&event["tracepoint"]), name)
        })
        .collect()
}

fn add_up(finished: &Finished) {
    for stats in finished.of_kind("stats") {
        let count = |key: &str| stats[key].as_u64().unwrap();
        let outcomes = ["emitted", "filtered", "throttled", "dropped", "failed"].map(count);
        assert_eq!(count("hits"), outcomes.iter().sum::<u64>(), "{stats}");
        assert_eq!(count("undecodable"), 0, "{stats}");
    }
}

fn ends_agree(version: &Version, mode: Mode) {
    let title = format!("returns, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let (truth, finished) = probed(version, mode, &[]);
    finished.expect(0, &[]);
    add_up(&finished);
    for stats in finished.of_kind("stats") {
        assert_eq!(
            (&stats["hits"], &stats["open_calls"]),
            (&stats["emitted"], &Value::from(0)),
            "{title}: {stats}"
        );
    }
    let functions = functions(&finished);
    let mut wrong = Vec::new();
    let mut compared: HashMap<String, usize> = HashMap::new();
    // By goroutine: the calls that are open, innermost last.
    let mut open: HashMap<u64, Vec<(String, u64)>> = HashMap::new();
    let mut ends: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for hit in finished.of_kind("hit") {
        let function = &functions[hit["tracepoint"].as_str().unwrap()];
        let goroutine = hit["goroutine"].as_u64().unwrap();
        let calls = open.entry(goroutine).or_default();
        if hit["event"] == "entry" {
            calls.push((function.clone(), hit["seq"].as_u64().unwrap()));
            continue;
        }
        let innermost = calls.pop();
        let entry = (function.clone(), hit["entry_seq"].as_u64().unwrap_or(u64::MAX));
        if innermost.as_ref() != Some(&entry) || hit["duration_ns"].as_u64().is_none() {
            wrong.push(format!("{entry:?} ended ({}) while {innermost:?} was the innermost", hit["event"]));
        }
        let results: Vec<&Value> =
            hit["variables"].as_array().into_iter().flatten().filter(|v| v["role"] == "return").collect();
        if PRINTED.contains(&function.as_str()) {
            let calls = compared.entry(function.clone()).or_default();
            compare(&truth, (function, *calls), &results, (version, mode), &mut wrong);
            *calls += 1;
            continue;
        }
        let how = match hit["event"].as_str().unwrap() {
            "return" => results
                .first()
                .and_then(|result| result["value"].get("value"))
                .map_or_else(String::new, ToString::to_string),
            other => other.to_owned(),
        };
        ends.entry(function.clone()).or_default().entry(goroutine.to_string()).or_default().push(how);
    }
    let mut expected: BTreeMap<String, BTreeMap<String, Vec<String>>> =
        serde_json::from_value(truth.results["ends"].clone()).unwrap();
    expected.insert("Nothing".into(), ends.get("Nothing").cloned().unwrap_or_default());
    for name in PRINTED {
        let (have, probe) = (compared.get(name).copied().unwrap_or(0), format!("returns.{name}"));
        let want = truth.hits.iter().filter(|hit| hit.probe == probe).count();
        if have != want {
            wrong.push(format!("{name}: {have} returns, want {want}"));
        }
    }
    for name in NOTED {
        if expected.get(name) != ends.get(name) {
            wrong.push(format!("{name}: {:.600?}\n    want {:.600?}", ends.get(name), expected.get(name)));
        }
    }
    for (goroutine, calls) in open {
        if !calls.is_empty() {
            wrong.push(format!("goroutine {goroutine}: {calls:?} did not end"));
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{}", wrong.join("\n"));
}

/// The results of a function's call with this number.
fn compare(
    truth: &Truth,
    (function, call): (&str, usize),
    results: &[&Value],
    (version, mode): (&Version, Mode),
    wrong: &mut Vec<String>,
) {
    let probe = format!("returns.{function}");
    let Some(expected) = truth.hits.iter().filter(|hit| hit.probe == probe).nth(call) else {
        wrong.push(format!("{probe}: call {call} was not made"));
        return;
    };
    let comparison = Comparison::new(Limits::default(), results.iter().map(|result| &result["value"]));
    if results.len() != expected.variables.len() {
        wrong.push(format!("{probe}: {} results", results.len()));
    }
    for (name, value) in &expected.variables {
        let Some(result) = results.iter().find(|result| result["name"] == name.as_str()) else {
            wrong.push(format!("{probe}: {name} is not there"));
            continue;
        };
        let findings = comparison.variable(&format!("{probe}:{name}"), value, &result["value"]);
        wrong.extend(findings.wrong);
        for (reason, path) in findings.labels {
            let float = probe == "returns.Floats" && reason == "register_float";
            // A dynamic type that is met for the first time.
            let unknown = reason == "unknown_type";
            // Go 1.21 describes no blank parameters, so that what lies behind them can't be found.
            let blank = probe == "returns.Blanks" && reason == "bad_debug_info" && version.minor() < 22;
            // Optimised code has often forgotten its dictionary when it returns.
            let shape = reason == "shape_type" && !mode.keeps_everything();
            if !float && !unknown && !blank && !shape {
                wrong.push(format!("{path} is {reason}"));
            }
        }
    }
}

/// What is let through is let through in pairs: a return is captured if its entry was, and only then.
fn pairs_stay_pairs(options: &[&'static str]) {
    let title = format!("returns with {options:?}");
    if !requirements::bpf(&title) {
        return;
    }
    let (_, finished) = probed(&Version::local().unwrap(), Mode::Optimised, options);
    finished.expect(0, &[]);
    add_up(&finished);
    let mut entries = HashMap::new();
    let mut ends = 0;
    for hit in finished.of_kind("hit") {
        let tracepoint = hit["tracepoint"].as_str().unwrap().to_owned();
        if hit["event"] == "entry" {
            entries.insert((tracepoint, hit["seq"].as_u64().unwrap()), hit["goroutine"].clone());
            continue;
        }
        // Each call was entered while the probe was there.
        let entry = (tracepoint, hit["entry_seq"].as_u64().unwrap());
        assert_eq!(entries.remove(&entry).as_ref(), Some(&hit["goroutine"]), "{title}: {hit}");
        ends += 1;
    }
    assert!(ends > 0, "{title}");
    assert!(entries.is_empty(), "{title}: calls without an end: {entries:?}");
    let throttled: u64 = finished.of_kind("stats").map(|stats| stats["throttled"].as_u64().unwrap()).sum();
    assert!(throttled > 0, "{title}: nothing was left out");
}

#[test]
fn a_rate_counts_entries() {
    pairs_stay_pairs(&["--rate", "3"]);
}

#[test]
fn a_sample_takes_whole_calls() {
    pairs_stay_pairs(&["--sample", "0.3"]);
}

#[test]
fn the_limit_counts_both_ends() {
    if !requirements::bpf("returns with a limit") {
        return;
    }
    let (_, finished) = probed(&Version::local().unwrap(), Mode::Optimised, &["--limit", "7"]);
    finished.expect(0, &[]);
    add_up(&finished);
    assert_eq!(finished.of_kind("hit").count(), 7);
}

riptrace_tests::versions! { ends_agree:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    go1_21_debug: Version("1.21.13".into()), Debug;
    local_optimised: Version::local().unwrap(), Optimised;
    go1_27_optimised: Version("1.27.0".into()), Optimised;
    go1_27_debug: Version("1.27.0".into()), Debug;
    go1_27_pie: Version("1.27.0".into()), Pie;
}

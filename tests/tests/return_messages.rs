//! A message that names results tells each call once, with its arguments as they were and its results as they are.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::BTreeMap, time::Duration};

use riptrace_tests::{
    fixture::{Fixture, Truth},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running, run},
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);

/// A function, what is asked of its calls, and what is wrong with what is told of them.
struct Told {
    function: &'static str,
    options: &'static [&'static str],
    check: fn(&Truth, &Finished) -> Vec<String>,
}

const TOLD: [Told; 4] = [
    Told {
        function: "Fib",
        options: &["--message", "{n}: {~r0} took {duration_ns}", "--capture", "~r0*10 - n", "--capture", "n"],
        check: |truth, finished| {
            let mut wrong = Vec::new();
            let mut results: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for hit in finished.of_kind("hit") {
                let value = |name: &str| {
                    let variables = hit["variables"].as_array().unwrap();
                    let found = variables.iter().find(|variable| variable["name"] == name);
                    found.map(|variable| variable["value"]["value"].as_i64().unwrap())
                };
                if hit["event"] == "entry" {
                    let as_it_should =
                        hit["message"].is_null() && value("n").is_some() && value("~r0*10 - n").is_none();
                    wrong.extend((!as_it_should).then(|| hit.to_string()));
                    continue;
                }
                let said = hit["message"].as_str().unwrap();
                let (n, rest) = said.split_once(": ").unwrap();
                let (result, took) = rest.split_once(" took ").unwrap();
                let (n, fib): (i64, i64) = (n.parse().unwrap(), result.parse().unwrap());
                let as_it_should = fib == fibonacci(n)
                    && took.parse().ok() == hit["duration_ns"].as_u64()
                    && value("~r0*10 - n") == Some(fib * 10 - n)
                    && value("n").is_none();
                wrong.extend((!as_it_should).then(|| hit.to_string()));
                results.entry(hit["goroutine"].to_string()).or_default().push(result.to_owned());
            }
            let printed: BTreeMap<String, Vec<String>> =
                serde_json::from_value(truth.results["ends"]["Fib"].clone()).unwrap();
            if results != printed {
                wrong.push(format!("{results:?}, want {printed:?}"));
            }
            wrong
        },
    },
    Told {
        function: "Nested",
        options: &["--message", "{n} gave {r}"],
        check: |truth, finished| {
            let mut wrong = Vec::new();
            let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for hit in finished.of_kind("hit").filter(|hit| hit["event"] != "entry") {
                let message = hit["message"].as_str().unwrap();
                let (n, result) = message.split_once(" gave ").unwrap();
                let n: i64 = n.parse().unwrap();
                // The lowest of five levels panics, and the one below those recovers.
                let expected =
                    if n % 5 == 0 { (1000 + n).to_string() } else { "<not_initialized>".to_owned() };
                wrong.extend((result != expected).then(|| hit.to_string()));
                let result = if hit["event"] == "panic" { "panic" } else { result };
                said.entry(hit["goroutine"].to_string()).or_default().push(result.to_owned());
            }
            let printed: BTreeMap<String, Vec<String>> =
                serde_json::from_value(truth.results["ends"]["Nested"].clone()).unwrap();
            if said != printed {
                wrong.push(format!("{said:?}, want {printed:?}"));
            }
            wrong
        },
    },
    Told {
        function: "Every",
        options: &["--message", "{n}: {b} {i8} {i} {s} {err} {p.Name} {xs[1]} of {len(xs)}, {~r2 / n}"],
        check: |truth, finished| {
            let printed = truth.hits.iter().filter(|hit| hit.probe == "returns.Every");
            let printed: Vec<String> = printed
                .map(|hit| {
                    let at = |name: &str, pointer: &str| match hit.variables[name].pointer(pointer).unwrap() {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    let (i8, i, s) = (at("i8", "/value"), at("i", "/value"), at("s", "/value"));
                    let n: i64 = s.strip_prefix('n').unwrap().parse().unwrap();
                    let (b, name) = (at("b", "/value"), at("p", "/elem/fields/1/value/value"));
                    let (second, len) = (at("xs", "/elems/1/value"), at("xs", "/len"));
                    let quotient = i.parse::<i64>().unwrap() / n;
                    format!("{n}: {b} {i8} {i} {s} every {name} {second} of {len}, {quotient}")
                })
                .collect();
            let of_ends = finished.of_kind("hit").filter(|hit| hit["event"] == "return");
            let said: Vec<String> =
                of_ends.map(|hit| hit["message"].as_str().unwrap_or_default().to_owned()).collect();
            if said == printed { Vec::new() } else { vec![format!("{said:?}, want {printed:?}")] }
        },
    },
    Told {
        // It names nothing of the end: the entry's.
        function: "Works",
        options: &["--message", "{w}, {n}"],
        check: |_, finished| {
            let said = |event: &'static str| {
                finished.of_kind("hit").filter(move |hit| hit["event"] == event).map(|hit| &hit["message"])
            };
            let mut calls: Vec<&str> = said("entry").map(|message| message.as_str().unwrap()).collect();
            calls.sort_unstable();
            let mut made: Vec<String> =
                (0..8).flat_map(|w| (0..60).map(move |n| format!("{w}, {n}"))).collect();
            made.sort_unstable();
            let ends = said("return").all(Value::is_null);
            if ends && calls == made { Vec::new() } else { vec![format!("{calls:?}")] }
        },
    },
];

fn fibonacci(n: i64) -> i64 {
    if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

fn calls_are_told(version: &Version, mode: Mode) {
    let title = format!("messages of returns, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let executable = go::build(version, mode).unwrap();
    let mut fixture = Fixture::start(&executable, &["returns"]).unwrap();
    let probes: Vec<Running> = TOLD
        .iter()
        .map(|told| {
            let location = format!("fixtures/returns.{}", told.function);
            let options = [&["--rate", "0", "--return"], told.options].concat();
            let mut probe = Running::probe(fixture.pid(), &[location], &options).unwrap();
            probe.wait_attached(1, TIMEOUT).unwrap();
            probe
        })
        .collect();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished: Vec<Finished> = probes.into_iter().map(|probe| probe.interrupt(TIMEOUT).unwrap()).collect();
    let truth = fixture.end().unwrap();
    let mut wrong = Vec::new();
    for (told, finished) in TOLD.iter().zip(&finished) {
        finished.expect(0, &[]);
        wrong.extend(
            (told.check)(&truth, finished).into_iter().map(|text| format!("{}: {text:.600}", told.function)),
        );
    }
    assert!(wrong.is_empty(), "{title}:\n{}", wrong.join("\n"));
}

#[test]
fn what_a_message_can_t_name_is_refused_with_the_reason() {
    if !requirements::bpf("refused messages of returns") {
        return;
    }
    let executable = go::build(&Version::local().unwrap(), Mode::Optimised).unwrap();
    let fixture = Fixture::start(&executable, &["returns"]).unwrap();
    let pid = fixture.pid().to_string();
    for (options, said) in [
        (&["--return", "--message", "{n} {~r1}"][..], "no variable ~r1 here; there is ~r0"),
        (&["--return", "--message", "{m} {~r0}"], "no variable m here"),
        (&["--return", "--message", "{~r0 == \"\"}"], "--message: "),
        (&["--message", "{~r0}"], "results are there where calls end (--return)"),
        (&["--return", "--when", "~r0 > 3"], "~r0 is a result, which is not there yet"),
    ] {
        let mut line = vec!["probe", "--pid", pid.as_str(), "fixtures/returns.Fib"];
        line.extend(options);
        run(&line, TIMEOUT).unwrap().expect(3, &[said]);
    }
}

riptrace_tests::versions! { calls_are_told:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    local_optimised: Version::local().unwrap(), Optimised;
    local_debug: Version::local().unwrap(), Debug;
}

//! The trace and span of a hit, against what OpenTelemetry's own SDK says in the traced program; the `go` statement that
//! started its goroutine.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use riptrace_tests::{
    fixture::Fixture,
    go::{self, Mode, Version},
    requirements,
    riptrace::Running,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(120);
/// Lines whose variables lead to a context. In `box` it lies behind two pointers.
const WITH_CONTEXT: [&str; 5] = ["context", "request", "box", "closure", "goroutine"];

fn source() -> PathBuf {
    go::sources().join("otel/spans.go")
}

fn line(name: &str) -> usize {
    let text = fs::read_to_string(source()).unwrap();
    let mark = format!("//line:{name}");
    1 + text.lines().position(|line| line.ends_with(&mark)).unwrap()
}

fn spans_agree(mode: Mode, options: &[&str]) {
    let title = format!("trace context, {} {options:?}", mode.name());
    if !requirements::bpf(&title) {
        return;
    }
    let executable = match go::build_in(&go::sources().join("otel"), &Version::local().unwrap(), mode) {
        Ok(executable) => executable,
        Err(error) if format!("{error:#}").contains("dial tcp") => {
            return requirements::leave_out(&title, "OpenTelemetry's modules can't be fetched here");
        }
        Err(error) => panic!("{error:#}"),
    };
    let mut fixture = Fixture::start(&executable, &["spans"]).unwrap();
    let lines: Vec<(&str, usize)> =
        WITH_CONTEXT.iter().chain(&["none"]).map(|name| (*name, line(name))).collect();
    let locations: Vec<String> = lines.iter().map(|(_, line)| format!("spans.go:{line}")).collect();
    let mut all = vec!["--rate", "0"];
    all.extend(options);
    let mut probe = Running::probe(fixture.pid(), &locations, &all).unwrap();
    probe.wait_attached(locations.len(), TIMEOUT).unwrap();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished = probe.interrupt(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    let truth = fixture.end().unwrap();

    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let spans: HashMap<(String, u64), (String, String)> = truth.results["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|seen| {
            let of = (text(seen, "line"), seen["number"].as_u64().unwrap());
            (of, (text(seen, "trace_id"), text(seen, "span_id")))
        })
        .collect();
    let mut compared: HashMap<&str, usize> = HashMap::new();
    let mut wrong = Vec::new();
    for hit in finished.of_kind("hit") {
        let at = hit["location"]["line"].as_u64().unwrap() as usize;
        let (name, _) = lines.iter().find(|(_, line)| *line == at).unwrap();
        let variables = hit["variables"].as_array().unwrap();
        let number = variables.iter().find(|variable| variable["name"] == "number").unwrap();
        let number = number["value"]["value"].as_u64().unwrap();
        if options.contains(&"--capture") {
            assert_eq!(variables.len(), 1, "what leads to the span is not shown: {hit}");
        }
        let expected = &spans[&((*name).to_owned(), number)];
        let found = (text(hit, "trace_id"), text(hit, "span_id"));
        if *expected != found {
            wrong.push(format!("{name} {number}: {found:?}, the program says {expected:?}"));
        }
        if !found.0.is_empty() {
            *compared.entry(name).or_default() += 1;
        }
        if *name == "goroutine" {
            let started = &hit["started_at"];
            assert_eq!(started["line"], line("go"), "{hit}");
            assert_eq!(started["function"], "main.spans", "{hit}");
        } else {
            assert!(hit["started_at"].is_null(), "{hit}");
        }
    }
    assert!(
        wrong.is_empty(),
        "{title}: {} of {} wrong\n{}",
        wrong.len(),
        spans.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    for name in WITH_CONTEXT {
        let with_span = spans.iter().filter(|((line, _), span)| line == name && !span.0.is_empty()).count();
        assert!(with_span > 50);
        assert_eq!(compared.get(name), Some(&with_span), "{title}: {name}");
    }
    assert_eq!(compared.get("none"), None);
}

#[test]
fn a_hit_names_the_span_of_its_context() {
    spans_agree(Mode::Optimised, &["--depth", "1", "--max-bytes", "4096"]);
}

#[test]
fn so_it_does_where_other_variables_are_captured_and_none_is_followed() {
    spans_agree(Mode::Debug, &["--capture", "number", "--depth", "0"]);
    spans_agree(Mode::Pie, &["--capture", "number"]);
}

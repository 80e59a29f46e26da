//! What a probe may cost, and what it costs.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::time::Duration;

use riptrace_tests::{
    fixture::{Fixture, probed_line},
    go::{self, Mode, Version},
    requirements,
    riptrace::{Finished, Running, run},
};

const TIMEOUT: Duration = Duration::from_secs(120);

fn fixture(argument: &str) -> Fixture {
    let executable = go::build(&Version::local().unwrap(), Mode::Optimised).unwrap();
    Fixture::start(&executable, &[argument]).unwrap()
}

fn location(line: &str) -> String {
    probed_line(&Version::local().unwrap(), line).unwrap().location()
}

fn adds_up(finished: &Finished) {
    for stats in finished.of_kind("stats") {
        let count = |key: &str| stats[key].as_u64().unwrap();
        let outcomes = ["emitted", "filtered", "throttled", "dropped", "failed"].map(count);
        assert_eq!(count("hits"), outcomes.iter().sum::<u64>(), "{stats}");
    }
}

/// A line that several goroutines execute as fast as they can.
#[test]
fn a_line_that_costs_more_than_it_may_is_disarmed() {
    if !requirements::bpf("the budget") {
        return;
    }
    let mut fixture = fixture("stress");
    let mut probe =
        Running::probe(fixture.pid(), &[location("stress.mix")], &["--budget", "0.5", "--timeout", "60s"])
            .unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    // It ends by itself, while the program goes on.
    let finished = probe.wait(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    adds_up(&finished);
    let step = finished.of_kind("budget").next().unwrap();
    assert_eq!(step["step"], "detach", "{step}");
    assert!(step["share_of_core"].as_f64().unwrap() > step["budget"].as_f64().unwrap(), "{step}");
    assert!(step["mean_cost_ns"].as_u64().unwrap() > 0, "{step}");
    assert_eq!(finished.of_kind("detached").next().unwrap()["reason"], "budget");
    fixture.wait_done(TIMEOUT).unwrap();
    assert!(fixture.end().unwrap().results["checksum"].is_string());
}

/// A branch that is hot and seldom leads to the line costs more than the line's own instruction: that is armed
/// instead, and no hit is lost or doubled on the way.
#[test]
fn a_tracepoint_leaves_a_branch_that_mostly_goes_elsewhere() {
    const SELDOM: u64 = 10_007;
    if !requirements::bpf("moving") {
        return;
    }
    for budget in ["0", "5"] {
        let mut fixture = fixture("passages");
        let options = ["--rate", "0", "--budget", budget];
        let mut probe = Running::probe(fixture.pid(), &[location("passages.Seldom")], &options).unwrap();
        probe.wait_attached(1, TIMEOUT).unwrap();
        fixture.release().unwrap();
        fixture.wait_done(TIMEOUT).unwrap();
        let finished = probe.interrupt(TIMEOUT).unwrap();
        finished.expect(0, &[]);
        adds_up(&finished);
        let truth = fixture.end().unwrap().counts["passages.Seldom"];

        let attached = finished.of_kind("attached").next().unwrap();
        assert!(attached["sites"][0]["fast"].as_bool().unwrap(), "{attached}");
        let moved: Vec<_> = finished.of_kind("moved").collect();
        let [moved] = moved[..] else { panic!("moved {} times, budget {budget}", moved.len()) };
        assert_eq!(moved["tracepoint"], attached["tracepoint"]);
        assert!(moved["passed_per_second"].as_f64() > moved["hits_per_second"].as_f64(), "{moved}");
        assert!(!moved["sites"][0]["fast"].as_bool().unwrap(), "{moved}");
        assert_eq!(finished.of_kind("budget").count(), 0, "budget {budget}");

        let stats = finished.of_kind("stats").next().unwrap();
        assert_eq!(stats["hits"], truth, "{stats}");
        assert!(stats["passed"].as_u64().unwrap() > 0, "{stats}");
        let value = |hit: &serde_json::Value| {
            let variables = hit["variables"].as_array().unwrap();
            let i = variables.iter().find(|variable| variable["name"] == "i").unwrap();
            i["value"]["value"].as_u64().or_else(|| i["value"]["value"].as_str()?.parse().ok())
        };
        let values: Vec<Option<u64>> = finished.of_kind("hit").map(value).collect();
        let expected: Vec<Option<u64>> = (0..truth).map(|index| Some(index * SELDOM)).collect();
        assert_eq!(values, expected);
        let last = finished.of_kind("hit").last().unwrap();
        assert_eq!(last["location"]["pc"], moved["sites"][0]["location"]["pc"]);
    }
}

#[test]
fn a_dry_run_prices_the_hits_and_captures_nothing() {
    if !requirements::bpf("a dry run") {
        return;
    }
    let mut fixture = fixture("tick");
    let location = location("bad.tick");
    let mut probe = Running::probe(fixture.pid(), &[location], &["--dry-run"]).unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let finished = probe.interrupt(TIMEOUT).unwrap();
    finished.expect(0, &[]);
    adds_up(&finished);
    assert_eq!(finished.of_kind("hit").count(), 0);
    let stats = finished.of_kind("stats").next().unwrap();
    assert_eq!(stats["would_capture"], stats["hits"], "{stats}");
    assert_eq!(stats["throttled"], stats["hits"], "{stats}");
    let (trap, estimated) =
        (stats["trap_ns"].as_u64().unwrap(), stats["estimated_cost_ns"].as_u64().unwrap());
    assert!(trap > 0 && estimated > trap, "{stats}");

    let pid = fixture.pid().to_string();
    let text = run(
        &["probe", "--pid", &pid, "--dry-run", "--timeout", "500ms", &self::location("bad.tick")],
        TIMEOUT,
    )
    .unwrap();
    text.expect(0, &["hits in", "would be captured at about", "of a core"]);
    assert!(text.stdout.is_empty(), "{}", text.stdout);
}

#[test]
fn half_of_the_hits_are_about_half() {
    if !requirements::bpf("a sample") {
        return;
    }
    let mut fixture = fixture("tick");
    let options = ["--sample", "0.5", "--rate", "0"];
    let mut probe = Running::probe(fixture.pid(), &[location("bad.tick")], &options).unwrap();
    probe.wait_attached(1, TIMEOUT).unwrap();
    fixture.release().unwrap();
    for _ in 0..200 {
        probe.wait_hit(TIMEOUT).unwrap();
    }
    let finished = probe.interrupt(TIMEOUT).unwrap();
    adds_up(&finished);
    let stats = finished.of_kind("stats").next().unwrap();
    let (hits, emitted) = (stats["hits"].as_u64().unwrap(), stats["emitted"].as_u64().unwrap());
    // At least 200 were captured: ten standard deviations of that many.
    assert!((hits / 4..hits * 3 / 4).contains(&emitted), "{stats}");
    assert_eq!(finished.of_kind("hit").count() as u64, emitted);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (arguments, said) in [
        (["--sample", "0"], "--dry-run counts hits"),
        (["--sample", "1.5"], "above 0 and at most 1"),
        (["--sample", "NaN"], "above 0 and at most 1"),
        (["--budget", "cheap"], "percent of one core"),
        (["--budget", "-1"], "percent of one core"),
    ] {
        let all = ["probe", "--pid", "1", &format!("{}={}", arguments[0], arguments[1]), "a.go:1"];
        run(&all, TIMEOUT).unwrap().expect(2, &[said]);
    }
    run(&["probe", "--pid", "1", "--dry-run", "--limit", "3", "a.go:1"], TIMEOUT)
        .unwrap()
        .expect(2, &["--limit"]);
}

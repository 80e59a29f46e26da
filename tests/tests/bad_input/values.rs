//! Values that are hard to read: huge, broken, changing.

use super::*;

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
        if !requirements::go("a map that changes meanwhile", &version) {
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

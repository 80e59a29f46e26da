//! `--capture EXPR` and `--message` give what the program itself printed of the same variables, computed here.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{collections::BTreeMap, time::Duration};

use riptrace_tests::{
    fixture::{Fixture, probed_line},
    go::{self, Mode, Version},
    requirements,
    riptrace::Running,
};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(120);

/// What a program printed of its variables at a line.
struct Printed<'a>(&'a BTreeMap<String, Value>);

impl Printed<'_> {
    fn at(&self, variable: &str, pointer: &str) -> &Value {
        self.0[variable].pointer(pointer).unwrap_or_else(|| panic!("{variable} has no {pointer}"))
    }

    fn int(&self, variable: &str) -> i64 {
        number(self.at(variable, "/value"))
    }

    fn len(&self, variable: &str) -> usize {
        usize::try_from(number(self.at(variable, "/len"))).unwrap()
    }

    /// What a map has for a key.
    fn entry(&self, map: &str, key: &Value) -> Value {
        let entries = self.at(map, "/entries").as_array().unwrap();
        entries.iter().find(|entry| entry[0]["value"] == *key).unwrap()[1]["value"].clone()
    }

    fn elements(&self, variable: &str) -> &[Value] {
        self.at(variable, "/elems").as_array().unwrap()
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_else(|| panic!("{value} is no number"))
}

/// What an expression gives: a value, or why Go gives none.
type Expected = fn(&Printed<'_>) -> Result<Value, &'static str>;

struct Line {
    probe: &'static str,
    captures: &'static [(&'static str, Expected)],
    message: &'static str,
    said: fn(&Printed<'_>) -> String,
}

const LINES: [Line; 5] = [
    Line {
        probe: "maps.small",
        captures: &[
            ("len(one)", |p| Ok(p.len("one").into())),
            ("one[\"one\"]", |p| Ok(p.entry("one", &json!("one")))),
            ("one[\"two\"]", |_| Err("not_initialized")),
            ("eight[4] < 0", |p| Ok((number(&p.entry("eight", &json!(4))) < 0).into())),
            ("refilled[8 + 1]", |p| Ok(p.entry("refilled", &json!(9)))),
            ("refilled[9]", |p| Ok(p.entry("refilled", &json!(9)))),
            ("refilled[9][0]", |p| Ok(p.entry("refilled", &json!(9)).as_str().unwrap().as_bytes()[0].into())),
            ("eight[1000]", |_| Err("not_initialized")),
            ("flags[true]", |p| Ok(p.entry("flags", &json!(true)))),
            ("len(none) == 0 && none == nil", |p| Ok(p.0["none"]["nil"].clone())),
        ],
        message: "{{{len(eight)}}} {one[\"one\"]}, {refilled[9]}",
        said: |p| {
            let nine = p.entry("refilled", &json!(9));
            format!("{{{}}} {}, {}", p.len("eight"), p.entry("one", &json!("one")), nine.as_str().unwrap())
        },
    },
    Line {
        probe: "maps.keys",
        captures: &[
            ("bytes[3]", |p| Ok(p.entry("bytes", &json!(3)))),
            ("bytes[2]", |_| Err("not_initialized")),
            ("words[7]", |p| Ok(p.entry("words", &json!(7)))),
            ("runes['ß']", |p| Ok(p.entry("runes", &json!(223)))),
            ("named[\"app\"][3]", |p| {
                Ok(p.entry("named", &json!("app")).as_str().unwrap().as_bytes()[3].into())
            }),
        ],
        message: "{bytes[1]}{bytes[3]} of {words[7]}",
        said: |p| {
            let byte = |key: u8| p.entry("bytes", &json!(key));
            format!("{}{} of {}", byte(1), byte(3), number(&p.entry("words", &json!(7))))
        },
    },
    Line {
        probe: "interfaces.failures",
        captures: &[
            ("pointer.(*pointerError).Code", |p| {
                Ok(p.at("pointer", "/elem/elem/fields/0/value/value").clone())
            }),
            ("pointer.(*interfaces.pointerError).Op == \"open\"", |p| {
                Ok((p.at("pointer", "/elem/elem/fields/1/value/value") == "open").into())
            }),
            ("value.(valueError).Code + 1", |p| {
                Ok((number(p.at("value", "/elem/fields/0/value/value")) + 1).into())
            }),
            ("code.(codeError)", |p| Ok(p.at("code", "/elem/value").clone())),
            ("argument.(*pointerError).Code", |_| Err("fault")),
            ("plain == nil || code == nil", |_| Ok(false.into())),
        ],
        message: "{pointer.(*pointerError).Op}: {code.(codeError)}",
        said: |p| {
            let op = p.at("pointer", "/elem/elem/fields/1/value/value").as_str().unwrap();
            format!("{op}: {}", p.at("code", "/elem/value"))
        },
    },
    Line {
        probe: "composites.slices",
        captures: &[
            ("all[len(all)-1]", |p| Ok(p.elements("all").last().unwrap()["value"].clone())),
            ("all[len(all)]", |_| Err("fault")),
            ("texts[2][1]", |p| Ok(p.elements("texts")[2]["value"].as_str().unwrap().as_bytes()[1].into())),
            ("texts[len(middle)]", |p| Ok(p.elements("texts")[p.len("middle")]["value"].clone())),
            ("cap(bounded)", |p| Ok(p.at("bounded", "/cap").clone())),
            ("rows[2][len(middle)-1].Y", |p| {
                Ok(p.at("rows", "/elems/2/elems/1/fields/1/value/value").clone())
            }),
            ("strings.HasPrefix(texts[2], \"cc\")", |p| {
                Ok(p.at("texts", "/elems/2/value").as_str().unwrap().starts_with("cc").into())
            }),
            ("len(none) + len(nothing)", |p| Ok((p.len("none") + p.len("nothing")).into())),
        ],
        message: "{len(texts)} texts, the last {texts[len(texts)-1]}",
        said: |p| {
            let last = p.elements("texts").last().unwrap()["value"].as_str().unwrap().to_owned();
            format!("{} texts, the last {last}", p.len("texts"))
        },
    },
    Line {
        probe: "arguments.many",
        captures: &[
            ("a + b*c - k", |p| Ok((p.int("a") + p.int("b") * p.int("c") - p.int("k")).into())),
            ("-k", |p| Ok((-p.int("k")).into())),
            ("-k/c", |p| Ok((-p.int("k") / p.int("c")).into())),
            ("-k%c", |p| Ok((-p.int("k") % p.int("c")).into())),
            ("l*l", |p| Ok(((p.int("l") * p.int("l")) as i8).into())),
            ("^l", |p| Ok((!p.int("l")).into())),
            ("uint8(-l)", |p| Ok((-p.int("l") as u8).into())),
            ("a << uint(l) >> 2", |p| Ok((p.int("a") << p.int("l") >> 2).into())),
            ("a < b && !(int64(l) == k)", |p| {
                Ok((p.int("a") < p.int("b") && p.int("l") != p.int("k")).into())
            }),
            ("k / (a - 1)", |p| if p.int("a") == 1 { Err("fault") } else { panic!("a is another") }),
        ],
        message: "a is {a}, {d > e}",
        said: |p| format!("a is {}, {}", p.int("a"), p.int("d") > p.int("e")),
    },
];

fn run(version: &Version, mode: Mode) {
    let title = format!("expressions, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let executable = go::build(version, mode).unwrap();
    let fixtures: Vec<&str> = LINES.iter().map(|line| line.probe.split('.').next().unwrap()).collect();
    let mut fixture = Fixture::start(&executable, &fixtures).unwrap();
    let mut probes: Vec<Running> = LINES
        .iter()
        .map(|line| {
            let mut options = vec!["--rate", "0", "--message", line.message];
            options.extend(line.captures.iter().flat_map(|(text, _)| ["--capture", text]));
            let location = probed_line(version, line.probe).unwrap().location();
            let mut probe = Running::probe(fixture.pid(), &[location], &options).unwrap();
            probe.wait_attached(1, TIMEOUT).unwrap();
            probe
        })
        .collect();
    fixture.release().unwrap();
    fixture.wait_done(TIMEOUT).unwrap();
    let finished: Vec<_> = probes.drain(..).map(|probe| probe.interrupt(TIMEOUT).unwrap()).collect();
    let truth = fixture.end().unwrap();

    let mut wrong = Vec::new();
    for (line, finished) in LINES.iter().zip(finished) {
        finished.expect(0, &[]);
        let printed: Vec<_> = truth.hits.iter().filter(|hit| hit.probe == line.probe).collect();
        let hits: Vec<_> = finished.of_kind("hit").collect();
        assert_eq!(hits.len(), printed.len(), "{title}: {}", line.probe);
        for (hit, printed) in hits.iter().zip(printed) {
            let printed = Printed(&printed.variables);
            let shown = hit["variables"].as_array().unwrap();
            assert_eq!(shown.len(), line.captures.len(), "{title}: {}", line.probe);
            for (text, expected) in line.captures {
                let variable = shown.iter().find(|variable| variable["name"] == *text).unwrap();
                let value = &variable["value"];
                let as_it_should = match expected(&printed) {
                    Ok(expected) => value["value"] == expected,
                    Err(reason) => value["unavailable"] == reason,
                };
                // Optimised code keeps not every operand, and older Go says of one or another that it does.
                let reason = value["unavailable"].as_str().unwrap_or_default();
                let lost = mode != Mode::Debug && matches!(reason, "optimized_out" | "bad_debug_info");
                if variable["role"] != "expression" || !(as_it_should || lost) {
                    wrong.push(format!("{}: {text}: {variable}; want {:?}", line.probe, expected(&printed)));
                }
            }
            let (message, said) = (hit["message"].as_str().unwrap_or_default(), (line.said)(&printed));
            if message != said && !(mode != Mode::Debug && message.contains("<optimized_out>")) {
                wrong.push(format!("{}: {message:?}; want {said:?}", line.probe));
            }
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{}", wrong.join("\n"));
}

riptrace_tests::versions! { run:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    go1_21_debug: Version("1.21.13".into()), Debug;
    local_optimised: Version::local().unwrap(), Optimised;
    local_debug: Version::local().unwrap(), Debug;
}

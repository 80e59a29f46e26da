//! What a rule forbids never leaves the process: the raw records are searched for planted secrets.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc::channel},
};

use riptrace_agent::{
    binary::{debug::DebugOptions, executable::Executable},
    plan::{CaptureLimits, path::PathExpression, sites::LocationRequest},
    probe::{Kernel, KernelOptions},
    redact::{Policy, Rules},
    trace::{
        Image, ParsedExpr, PlanFailure, PlannedLocation, Planner, ProcessScope, Request, Tracer, Wanted,
    },
};
use riptrace_common::wire::{
    event::{Event, Hit},
    value::Unavailable,
};
use riptrace_tests::{
    go::{self, Mode, Version, target_dir},
    requirements,
};

const PROGRAM: &str = include_str!("redaction/program.go.txt");
/// More than the program asks for.
const SECRETS: usize = 64;
/// Bytes of a secret that must not be found side by side.
const PART: usize = 8;
/// What is no secret and must be found, so that the records are those that were meant.
const VISIBLE: [&str; 2] = ["visible name", "visible type"];

fn program() -> PathBuf {
    let directory = target_dir().unwrap().join("redaction-program");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("main.go");
    if !fs::read_to_string(&file).is_ok_and(|old| old == PROGRAM) {
        fs::write(directory.join("go.mod"), "module redaction\n\ngo 1.21\n").unwrap();
        fs::write(&file, PROGRAM).unwrap();
    }
    directory
}

fn wanted(location: &str, returns: bool) -> Wanted {
    Wanted {
        returns,
        limits: CaptureLimits { max_depth: 6, ..CaptureLimits::default() },
        ..Wanted::at(location.parse::<LocationRequest>().unwrap())
    }
}

fn probes() -> Vec<Wanted> {
    let lines = PROGRAM.lines().zip(1..).filter(|(line, _)| line.contains("//probe:"));
    let lines = lines.map(|(_, number)| wanted(&format!("main.go:{number}"), false));
    let functions = ["main.Password", "main.issue", "main.argument"];
    lines.chain(functions.iter().map(|function| wanted(function, true))).collect()
}

fn planner(executable: &Path, rules: &Arc<Rules>) -> (Planner, riptrace_agent::trace::ImageId) {
    let mut planner = Planner::default();
    let options = DebugOptions::from_environment(None);
    let image = Image::load(Executable::open(executable).unwrap(), &options, &|_| {}).redacted(rules);
    let image = planner.add_image(image);
    (planner, image)
}

/// What a run gave.
struct Seen {
    /// The secrets by the place where they were planted.
    secrets: BTreeMap<String, Vec<Vec<u8>>>,
    records: Vec<u8>,
    each: Vec<Vec<u8>>,
    hits: Vec<Hit>,
}

impl Seen {
    /// Where the bytes of the secrets of a place are in the records, for people: record and offset in it.
    fn found(&self, place: &str) -> Vec<(usize, usize, String)> {
        let mut out = Vec::new();
        for (number, record) in self.each.iter().enumerate() {
            for secret in &self.secrets[place] {
                let part = &secret[..PART.min(secret.len())];
                for at in record
                    .windows(part.len())
                    .enumerate()
                    .filter(|(_, window)| *window == part)
                    .map(|(at, _)| at)
                {
                    let site = u32::from_le_bytes(record[8..12].try_into().unwrap());
                    out.push((number, at, format!("site {site}")));
                }
            }
        }
        out
    }

    /// The places of which some secret's bytes are in the records.
    fn leaked(&self) -> Vec<&str> {
        let parts: std::collections::HashSet<&[u8]> = self.records.windows(PART).collect();
        let is_found = |secret: &Vec<u8>| {
            secret.windows(PART.min(secret.len())).any(|part| match part.len() {
                PART => parts.contains(part),
                bytes => self.records.windows(bytes).any(|window| window == part),
            })
        };
        let places = self.secrets.iter().filter(|(_, secrets)| secrets.iter().any(is_found));
        places.map(|(place, _)| place.as_str()).collect()
    }

    fn redacted(&self) -> usize {
        self.hits
            .iter()
            .flat_map(|hit| &hit.variables)
            .filter(|variable| serde_json::to_string(&variable.value).unwrap().contains("\"redacted\""))
            .count()
    }
}

fn run(executable: &Path, rules: &Arc<Rules>) -> Seen {
    let mut child = Command::new(executable).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut planner, image) = planner(executable, rules);
    let mut planned = Vec::new();
    for wanted in probes() {
        let PlannedLocation { plans, .. } =
            planner.plan(image, &wanted).unwrap_or_else(|error| panic!("{wanted:?}: {error}"));
        planned.push((wanted, plans));
    }
    let options = KernelOptions { max_tracepoints: 64, open_calls: 64, ..KernelOptions::default() };
    let mut tracer = Tracer::start(Kernel::load(&options).unwrap(), planner).unwrap();
    let (sender, records) = channel();
    tracer.copy_records_to(sender);
    for (number, (wanted, plans)) in planned.into_iter().enumerate() {
        let scope = ProcessScope::Only(vec![child.id()]);
        let request = Request::of(number.to_string(), image, executable.to_owned(), plans, scope, wanted);
        let (_, attached) = tracer.arm(request).unwrap();
        assert_eq!(attached.redaction, *rules.description());
    }
    let mut input = child.stdin.take().unwrap();
    for number in 0..SECRETS as u64 {
        // Different in every eight bytes.
        let mut secret = String::new();
        for part in 0..3u64 {
            let _ = write!(secret, "{:016x}", (number * 3 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        writeln!(input, "{secret}").unwrap();
    }
    writeln!(input, "go").unwrap();
    let mut secrets: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut hits = Vec::new();
    let mut take = |event: Event| {
        match event {
            Event::Hit(hit) => hits.push(*hit),
            Event::Error(error) => panic!("{}", error.message),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let Some((rest, secret)) = line.rsplit_once(' ') {
            let secret = match rest.strip_prefix("number ") {
                Some("small") => {
                    let number = secret.parse::<i64>().unwrap();
                    ((number >> 20) as u32 | 1 << 31).to_le_bytes().to_vec()
                }
                Some(_) => secret.parse::<i64>().unwrap().to_le_bytes().to_vec(),
                None => secret.as_bytes().to_vec(),
            };
            secrets.entry(rest.to_owned()).or_default().push(secret);
        }
        let _ = tracer.poll(&mut take);
    }
    child.wait().unwrap();
    let _ = tracer.poll_all(&mut take);
    drop(tracer);
    let each: Vec<Vec<u8>> = records.iter().map(|record| record.to_vec()).collect();
    Seen { secrets, records: each.concat(), each, hits }
}

fn secrets_stay(version: &Version, mode: Mode) {
    let title = format!("redaction, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let executable = go::build_in(&program(), version, mode).unwrap();
    let defaults = Policy { redact: vec!["main.Sealed".to_owned()], ..Policy::default() };
    let on = run(&executable, &Arc::new(Rules::new(true, &[], Some(&defaults)).unwrap()));
    let off = run(&executable, &Arc::new(Rules::new(false, &[], None).unwrap()));
    for place in on.leaked() {
        eprintln!("{title}: {place}: {:?}", on.found(place));
    }
    assert_eq!(on.leaked(), [""; 0], "{title}: copied");
    for seen in [&on, &off] {
        for visible in VISIBLE {
            let is_there = seen.records.windows(visible.len()).any(|part| part == visible.as_bytes());
            assert!(is_there, "{title}: {visible:?} is not there");
        }
    }
    // Optimised code may keep a value nowhere that is read.
    let leaked = off.leaked();
    let missing: Vec<&str> =
        off.secrets.keys().map(String::as_str).filter(|place| !leaked.contains(place)).collect();
    if mode == Mode::Debug {
        assert_eq!(missing, [""; 0], "{title}: not copied without rules, so that nothing is shown");
    }
    assert!(leaked.len() > 10, "{title}: {leaked:?}");
    assert_eq!(off.redacted(), 0);
    assert!(on.redacted() > 15, "{title}: {} values are labelled", on.redacted());
    let shown = |seen: &Seen, name: &str| {
        let hit = seen
            .hits
            .iter()
            .find(|hit| hit.variables.iter().any(|variable| &*variable.name == name))
            .unwrap();
        hit.variables.iter().find(|variable| &*variable.name == name).unwrap().value.clone()
    };
    assert_eq!(shown(&on, "password").unavailable, Some(Unavailable::Redacted));
    for (key, value) in shown(&on, "h").entries.unwrap_or_default() {
        let key = serde_json::to_string(&key.value).unwrap();
        assert_eq!(value.unavailable.is_some(), key != "\"Content-Type\"", "{title}: {key}: {value:?}");
    }
}

riptrace_tests::versions! { secrets_stay:
    go1_21_debug: Version("1.21.13".into()), Debug;
    go1_23_optimised: Version("1.23.12".into()), Optimised;
    local_debug: Version::local().unwrap(), Debug;
    local_optimised: Version::local().unwrap(), Optimised;
}

#[test]
fn what_is_redacted_is_neither_captured_by_name_nor_compared() {
    let executable = go::build_in(&program(), &Version::local().unwrap(), Mode::Debug).unwrap();
    let refusal = |line: &str, capture: Option<&str>, when: Option<&str>| {
        let (mut planner, image) = planner(&executable, &Arc::new(Rules::new(true, &[], None).unwrap()));
        let number = PROGRAM.lines().position(|text| text.contains(&format!("//probe:{line}"))).unwrap() + 1;
        let mut wanted = wanted(&format!("main.go:{number}"), false);
        wanted.captures = capture.iter().map(|text| PathExpression::parse(text).unwrap()).collect();
        wanted.when = when.map(|text| ParsedExpr::parse(text).unwrap());
        planner.plan(image, &wanted).map(drop).map_err(|error: PlanFailure| error.to_string())
    };
    for (line, capture, when) in [
        ("field", Some("account.Password"), None),
        ("local", Some("password"), None),
        ("field", None, Some("account.SecretNumber == 1")),
        ("field", None, Some("len(account.Password) > 3")),
        ("local", None, Some("password == \"x\"")),
        ("headers", None, Some("h[\"Authorization\"][0] == \"x\"")),
        ("headers", None, Some("len(form[\"q\"]) > 0")),
    ] {
        let error = refusal(line, capture, when).expect_err(&format!("{capture:?} {when:?}"));
        assert!(error.contains("redacted"), "{error}");
    }
    assert_eq!(refusal("field", Some("account.Name"), Some("account.ID == 1")), Ok(()));
    assert_eq!(refusal("headers", None, Some("len(h[\"Content-Type\"]) > 0")), Ok(()));
}

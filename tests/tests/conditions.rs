//! A condition decides in the kernel as Go decides: a Go program evaluates the same expressions on random values and prints
//! what each gave; the hits that come through, and those that fail, must be exactly those.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::ControlFlow,
    path::PathBuf,
    process::{Command, Stdio},
};

use riptrace_agent::{
    binary::{debug::DebugOptions, executable::Executable},
    plan::{path::PathExpression, sites::LocationRequest},
    probe::{Kernel, KernelOptions},
    trace::{Image, ParsedExpr, Planner, ProcessScope, Request, Tracer, Wanted},
};
use riptrace_common::wire::{event::Event, number::Scalar};
use riptrace_tests::{
    go::{self, Mode, Version, target_dir},
    requirements,
};

/// Calls of each function.
const CALLS: usize = 400;

const PROGRAM: &str = include_str!("conditions/program.go.txt");

/// A function of the program, and the expressions that are evaluated in it. Where Go writes one in another way, that
/// stands behind ` ⇔ `.
const GROUPS: [(&str, &str); 4] = [
    ("numbers", include_str!("conditions/numbers.txt")),
    ("texts", include_str!("conditions/texts.txt")),
    ("values", include_str!("conditions/values.txt")),
    ("registers", include_str!("conditions/registers.txt")),
];

struct Expression {
    group: &'static str,
    ours: &'static str,
    go: &'static str,
}

fn expressions() -> Vec<Expression> {
    let mut out = Vec::new();
    for (group, text) in GROUPS {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (ours, go) = line.split_once(" ⇔ ").unwrap_or((line, line));
            out.push(Expression { group, ours: ours.trim(), go: go.trim() });
        }
    }
    out
}

/// Writes the program with the expressions in it; gives its directory and the lines that are probed.
fn program(expressions: &[Expression]) -> (PathBuf, BTreeMap<&'static str, usize>) {
    let mut text = PROGRAM.replace("CALLS", &CALLS.to_string());
    for (group, _) in GROUPS {
        let mut calls = String::new();
        for (number, expression) in expressions.iter().enumerate().filter(|(_, e)| e.group == group) {
            let _ = writeln!(calls, "\thold({number}, func() bool {{ return {} }})", expression.go);
        }
        text = text.replace(&format!("\t//expressions:{group}\n"), &calls);
    }
    let directory = target_dir().unwrap().join("conditions-program");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("main.go");
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        // As it was: what was built of it is still right.
    } else {
        fs::write(directory.join("go.mod"), "module conditions\n\ngo 1.21\n").unwrap();
        fs::write(&file, &text).unwrap();
    }
    let line_of =
        |group| text.lines().position(|line| line.contains(&format!("//probe:{group}"))).unwrap() + 1;
    (directory, GROUPS.map(|(group, _)| (group, line_of(group))).into())
}

fn run(version: &Version, mode: Mode) {
    let title = format!("conditions, go{} {}", version.0, mode.name());
    if !requirements::bpf_and_go(&title, version) {
        return;
    }
    let expressions = expressions();
    let (directory, lines) = program(&expressions);
    let executable = go::build_in(&directory, version, mode).unwrap();
    let mut child = Command::new(&executable).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());

    let options = KernelOptions { max_tracepoints: 1024, ring_bytes: 64 << 20, ..KernelOptions::default() };
    let mut planner = Planner::default();
    let image =
        Image::load(Executable::open(&executable).unwrap(), &DebugOptions::from_environment(None), &|_| {});
    let image = planner.add_image(image);
    let mut planned = Vec::new();
    let mut refused = String::new();
    for (number, expression) in expressions.iter().enumerate() {
        let location = format!("main.go:{}", lines[expression.group]).parse::<LocationRequest>().unwrap();
        let wanted = Wanted {
            captures: vec![PathExpression::parse("i").unwrap()],
            when: Some(ParsedExpr::parse(expression.ours).unwrap_or_else(|error| panic!("{error}"))),
            ..Wanted::at(location)
        };
        match planner.plan(image, &wanted) {
            Ok(found) => planned.push((number, wanted, found.plans)),
            Err(error) => {
                let _ = writeln!(refused, "{error}");
            }
        }
    }
    assert!(refused.is_empty(), "{title}: refused:\n{refused}");
    let mut tracer = Tracer::start(Kernel::load(&options).unwrap(), planner).unwrap();
    let mut armed = Vec::new();
    for (number, wanted, plans) in planned {
        let scope = ProcessScope::Only(vec![child.id()]);
        let request = Request::of(number.to_string(), image, executable.clone(), plans, scope, wanted);
        armed.push((number, tracer.arm(request).unwrap().0));
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();

    let mut truth: BTreeMap<usize, String> = BTreeMap::new();
    let mut seen: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    let mut take = |event: Event| {
        if let Event::Hit(hit) = event {
            let number = hit.tracepoint.parse().unwrap();
            let Some(Scalar::Int(i)) = hit.variables[0].value.value else { panic!("{hit:?}") };
            seen.entry(number).or_default().push(i);
        }
        ControlFlow::Continue(())
    };
    for line in output.lines().map_while(Result::ok) {
        let (number, results) = line.split_once(' ').unwrap();
        truth.insert(number.parse().unwrap(), results.to_owned());
        let _ = tracer.poll(&mut take);
    }
    let _ = tracer.poll_all(&mut take);
    child.wait().unwrap();

    let mut wrong = String::new();
    for (number, id) in armed {
        let stats = tracer.stats(id).unwrap();
        let results = &truth[&number];
        let count = |wanted| results.chars().filter(|result| *result == wanted).count() as u64;
        let holds = |(i, result): (usize, char)| (result == '1').then_some(i as i64);
        let want: Vec<i64> = results.chars().enumerate().filter_map(holds).collect();
        let mut have = seen.remove(&number).unwrap_or_default();
        have.sort_unstable();
        let outcomes = (stats.hits, stats.filtered, stats.failed, stats.dropped, stats.throttled);
        if have != want || outcomes != (CALLS as u64, count('0'), count('f'), 0, 0) {
            let missing: Vec<_> = want.iter().filter(|i| !have.contains(i)).take(5).collect();
            let surplus: Vec<_> = have.iter().filter(|i| !want.contains(i)).take(5).collect();
            let _ = writeln!(
                wrong,
                "{}: true {} false {} panics {}; kernel (hits, filtered, failed, dropped, throttled) {outcomes:?}; missing {missing:?} surplus {surplus:?}",
                expressions[number].ours,
                count('1'),
                count('0'),
                count('f'),
            );
        }
    }
    assert!(wrong.is_empty(), "{title}:\n{wrong}");
}

riptrace_tests::versions! { run:
    go1_21_optimised: Version("1.21.13".into()), Optimised;
    go1_23_debug: Version("1.23.12".into()), Debug;
    go1_24_optimised: Version("1.24.13".into()), Optimised;
    local_optimised: Version::local().unwrap(), Optimised;
    local_debug: Version::local().unwrap(), Debug;
    local_pie: Version::local().unwrap(), Pie;
    go1_27_optimised: Version("1.27.0".into()), Optimised;
}

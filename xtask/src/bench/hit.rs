//! What a hit costs beside a uprobe with an empty program at the same instruction. The tests `cost` of
//! `riptrace-agent/tests/kernel` measure it, since this crate may depend on none of the project's.

use std::fs;

use anyhow::{Context, Result};

use super::{Bench, Report, table::Goal};
use crate::sh;

pub(super) const SAYS: &str = "what a hit costs the target: kernel side and hand-written programs at the same instruction, \
                               in alternating rounds (the tests `cost` of riptrace-agent/tests/kernel)";

/// By the names that the tests give.
const GOALS: &[(&str, Goal)] = &[
    ("rejected: another process", Goal::Ratio(1.15)),
    ("rejected: past the rate", Goal::Ratio(1.15)),
    ("rejected: not in the sample", Goal::Ratio(1.15)),
    ("rejected: a condition on a register", Goal::Ratio(1.15)),
    ("registers", Goal::Ratio(1.6)),
    ("registers, 512 bytes of stack", Goal::Ratio(1.6)),
    ("five locals, one level", Goal::Ratio(2.4)),
    ("five locals beside the straight-line program", Goal::Ratio(1.05)),
    ("each further read of the target's memory", Goal::AtMost(95.0)),
];

pub(super) fn measure(bench: &Bench) -> Result<Report> {
    let file = bench.folder.join("cost.jsonl");
    let _ = fs::remove_file(&file);
    let mut command = sh::command("cargo");
    command
        .args(["test", "--release", "--package", "riptrace-agent", "--test", "kernel", "--"])
        .args(["--ignored", "--nocapture", "--test-threads=1", "cost"])
        .env("RIPTRACE_BENCH_JSON", &file);
    if let Some(rounds) = bench.rounds {
        command.env("RIPTRACE_BENCH_ROUNDS", rounds.to_string());
    }
    sh::run(&mut command)?;
    let mut report = Report::default();
    // Without the privilege the tests leave themselves out, loudly.
    let Ok(lines) = fs::read_to_string(&file) else {
        report.absent("the cost of a hit", &"the tests need root and BPF");
        return Ok(report);
    };
    for line in lines.lines() {
        report.samples.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
    }
    report.goals = GOALS.iter().map(|(name, goal)| ((*name).to_owned(), *goal)).collect();
    Ok(report)
}

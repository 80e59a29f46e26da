//! The command `riptrace probe` as it is, beside other ways to learn the same of the same function: bpftrace, dlv trace,
//! and a log line that was built in.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{
    Bench, Report,
    process::{Calls, Tool, wait_for_trap},
    table::Goal,
};
use crate::sh;

pub(super) const SAYS: &str = "what a call of one function costs while it is observed: `riptrace probe` (to a file, as \
                               JSON), bpftrace, dlv trace, and a log line instead; how many hits a second reach the file";

/// Few enough for the ring, so that every call is paid for in full.
const CALLS: u32 = 2_000;
/// Bursts of one run, with time to be read between them.
const BURSTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(60);
/// `dlv trace` stops the program for milliseconds at each call.
const DLV_CALLS: u32 = 100;
const DLV_RUNS: usize = 3;

const ATTACHED: &str = "\"kind\":\"attached\"";
const BARE: &str = "no probe";
const EMPTY: &str = "bpftrace, an empty program";

/// Runs of `riptrace probe`: name, function, further arguments.
const PROBES: [(&str, &str, &[&str]); 7] = [
    ("riptrace probe: one argument (--capture n)", "Five", &["--capture", "n"]),
    ("riptrace probe: all five arguments", "Five", &[]),
    ("riptrace probe: the same, --depth 1", "Five", &["--depth", "1"]),
    ("riptrace probe: the same, --depth 1 --stack", "Five", &["--depth", "1", "--stack"]),
    ("riptrace probe: rejected by --when 'n == 7'", "Five", &["--when", "n == 7"]),
    ("riptrace probe --return: single-stepped RET (Five)", "Five", &["--return", "--depth", "1"]),
    ("riptrace probe --return: emulated return site (two ints)", "Guarded", &["--return", "--depth", "1"]),
];

const GOALS: [(&str, Goal); 1] = [("riptrace probe: rejected by --when 'n == 7'", Goal::Ratio(1.15))];

pub(super) fn measure(bench: &Bench) -> Result<Report> {
    let mut report = Report::default();
    let program = bench.program("calls")?;
    let riptrace = bench.riptrace()?;
    let output = bench.folder.join("peers.out");
    let mut target = Calls::start(&program)?;
    let bpftrace = match sh::apt("bpftrace", &["bpftrace"]) {
        Ok(()) => true,
        Err(error) => {
            report.absent("bpftrace", &error);
            false
        }
    };

    // The order of the table, whatever the order in which they are measured.
    let mut bare = Vec::new();
    let mut logged = Vec::new();
    let scripts: [(&str, &str); 2] =
        [(EMPTY, "{ }"), ("bpftrace, prints one argument", "{ printf(\"%d\\n\", reg(\"ax\")); }")];
    let mut traced: Vec<Vec<f64>> = vec![Vec::new(); scripts.len()];
    let mut probed: Vec<Vec<f64>> = vec![Vec::new(); PROBES.len()];
    for _ in 0..bench.runs {
        let bare_ns = bursts(&mut target, "Five", &mut bare)?;
        bursts(&mut target, "Logged", &mut logged)?;
        for (index, (_, body)) in scripts.iter().enumerate().filter(|_| bpftrace) {
            let script = format!("uprobe:\"{}\":\"main.Five\" {body}", program.display());
            let mut command = sh::command("bpftrace");
            command.args(["-p", &target.pid(), "-e", &script]);
            let tool = Tool::start(&mut command, &output, "Attaching")?;
            wait_for_trap(&mut target, "Five", bare_ns)?;
            bursts(&mut target, "Five", traced.get_mut(index).context("a row")?)?;
            tool.end()?;
        }
        for (index, (_, function, arguments)) in PROBES.iter().enumerate() {
            let tool = probe(&riptrace, &target, function, arguments, &output)?;
            bursts(&mut target, function, probed.get_mut(index).context("a row")?)?;
            tool.end()?;
        }
    }
    let dlv = dlv(&program, &output, &mut report);

    report.row(BARE, "ns a call", None, bare);
    let against = if bpftrace { Some(EMPTY) } else { Some(BARE) };
    for ((name, _), samples) in scripts.iter().zip(traced) {
        report.row(name, "ns a call", against, samples);
    }
    for ((name, _, _), samples) in PROBES.iter().zip(probed) {
        report.row(name, "ns a call", against, samples);
    }
    report.row("a log line instead (slog to /dev/null)", "ns a call", against, logged);
    report.row("dlv trace (entry and return)", "ns a call", against, dlv);
    if bpftrace {
        report.goals = GOALS.map(|(name, goal)| (name.to_owned(), goal)).to_vec();
    }
    throughput(&riptrace, &mut target, &output, &mut report)?;
    Ok(report)
}

/// Some bursts of calls; the least that a call took.
fn bursts(target: &mut Calls, function: &str, samples: &mut Vec<f64>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..BURSTS {
        let nanoseconds = target.call(function, CALLS)?;
        samples.push(nanoseconds);
        least = least.min(nanoseconds);
        std::thread::sleep(PAUSE);
    }
    Ok(least)
}

fn probe(riptrace: &Path, target: &Calls, function: &str, arguments: &[&str], output: &Path) -> Result<Tool> {
    let mut command = Command::new(riptrace);
    command
        .args(["probe", "--json", "--rate", "0", "--budget", "0", "--pid", &target.pid()])
        .arg(format!("main.{function}"))
        .args(arguments);
    Tool::start(&mut command, output, ATTACHED)
}

/// `dlv trace` in a program of its own, which it may end.
fn dlv(program: &Path, output: &Path, report: &mut Report) -> Vec<f64> {
    let mut samples = Vec::new();
    let measured = install_dlv().and_then(|dlv| {
        for _ in 0..DLV_RUNS {
            let mut target = Calls::start(program)?;
            let bare_ns = target.call("Five", CALLS)?;
            let mut command = Command::new(&dlv);
            command.args(["trace", "--pid", &target.pid(), "main.Five"]);
            let tool = Tool::start(&mut command, output, "").context("dlv")?;
            wait_for_trap(&mut target, "Five", bare_ns)?;
            samples.push(target.call("Five", DLV_CALLS)?);
            // The program waits for its next line, which dlv may wait for in turn.
            drop(target);
            drop(tool);
        }
        Ok(())
    });
    if let Err(error) = measured {
        report.absent("dlv trace", &format!("{error:#}"));
    }
    samples
}

fn install_dlv() -> Result<PathBuf> {
    let folder = sh::tools().join("go/bin");
    let file = folder.join("dlv");
    if !file.is_file() {
        fs::create_dir_all(&folder)?;
        sh::say("installing dlv into target/tools/go/bin");
        sh::run(
            sh::command("go")
                .current_dir(std::env::temp_dir())
                .args(["install", "github.com/go-delve/delve/cmd/dlv@latest"])
                .env("GOBIN", &folder),
        )?;
    }
    Ok(file)
}

/// The closing line of a probe.
#[derive(Default, Deserialize)]
struct Stats {
    hits: u64,
    emitted: u64,
    dropped: u64,
}

/// How many hits a second reach standard output with nothing dropped, and the ring's share of the loss at full rate.
fn throughput(riptrace: &Path, target: &mut Calls, output: &Path, report: &mut Report) -> Result<()> {
    const RATES: [u64; 10] =
        [10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000, 150_000, 200_000, 300_000];
    const SPAN: Duration = Duration::from_secs(1);
    let arguments = ["--depth", "1"];
    let mut best = 0.0f64;
    for rate in RATES {
        let tool = probe(riptrace, target, "Five", &arguments, output)?;
        let made = target.pace("Five", rate, SPAN)?;
        tool.end()?;
        let stats = stats(output)?;
        if stats.dropped > 0 || stats.emitted < stats.hits {
            break;
        }
        best = best.max(made);
    }
    report.row("five arguments to a file as JSON: hits with nothing dropped", "hits/s", None, vec![best]);
    /// More than the ring has room for, without a pause.
    const FLOOD: u32 = 300_000;
    let tool = probe(riptrace, target, "Five", &arguments, output)?;
    let nanoseconds = target.call("Five", FLOOD)?;
    tool.end()?;
    let stats = stats(output)?;
    let what = "a loop that does nothing else: calls made";
    report.row(what, "hits/s", None, vec![1e9 / nanoseconds]);
    let share = stats.dropped as f64 * 100.0 / stats.hits.max(1) as f64;
    report.row("the same: hits that found the ring full (dropped, counted)", "%", None, vec![share]);
    let written =
        fs::read_to_string(output)?.lines().filter(|line| line.contains("\"kind\":\"hit\"")).count();
    report.notes.push(format!(
        "Of the loop's {} hits {} were written to the file and {} counted as dropped.",
        stats.hits, written, stats.dropped
    ));
    Ok(())
}

fn stats(output: &Path) -> Result<Stats> {
    let text = fs::read_to_string(output)?;
    let line = text.lines().rev().find(|line| line.contains("\"kind\":\"stats\""));
    line.and_then(|line| serde_json::from_str(line).ok()).with_context(|| {
        format!("the probe did not say its counters: {}", text.lines().next_back().unwrap_or_default())
    })
}

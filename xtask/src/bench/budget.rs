//! A program with all cores busy, probed on its hottest line with the default budget: what it gets done, second by second,
//! by its own counters.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Bench, Report, process::Owned, table::Goal};
use crate::sh;

pub(super) const SAYS: &str = "a program with all cores busy, probed on its hottest line with the default budget: its own \
                               calls in a second of processor time before, while and after, and what of a core it \
                               lost (the goal adds to the budget what the seconds before differ by)";

/// The default of `--budget`, in percent of one core.
const BUDGET_PERCENT: f64 = 5.0;
/// From armed to when the budget holds.
const GRACE: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);
/// How long the probe may take to be armed.
const PATIENCE: Duration = Duration::from_secs(30);
const SECONDS_BEFORE: u32 = 3;
const SECONDS_AFTER: u32 = 3;

/// The lines by their marks in `xtask/bench/busy/main.go`.
const LINES: [(&str, &str); 2] =
    [("emulated site", "//probe:emulated"), ("single-stepped site", "//probe:stepped")];

/// What the program counted, and when.
#[derive(Clone, Copy)]
struct Tick {
    at: Instant,
    calls: f64,
    cpu_seconds: f64,
}

pub(super) fn measure(bench: &Bench) -> Result<Report> {
    let program = bench.program("busy")?;
    let riptrace = bench.riptrace()?;
    let source = fs::read_to_string(sh::root().join("xtask/bench/busy/main.go"))?;
    let mut report = Report::default();
    for (name, mark) in LINES {
        let line = source.lines().position(|line| line.contains(mark)).context("the line's mark")? + 1;
        let location = format!("busy/main.go:{line}");
        let complaints = bench.folder.join("budget.err");
        let mut probe = Command::new(&riptrace);
        probe.args(["probe", "--json", &location, "--pid"]).stderr(File::create(&complaints)?);
        measure_line(&program, &mut probe, name, &mut report).with_context(|| {
            format!("{location}: {}", fs::read_to_string(&complaints).unwrap_or_default().trim())
        })?;
    }
    Ok(report)
}

/// `probe` is the command but for the process.
fn measure_line(program: &Path, probe: &mut Command, name: &str, report: &mut Report) -> Result<()> {
    let mut busy = Owned(Command::new(program).stdout(Stdio::piped()).spawn()?);
    let ticks = ticks(&mut busy)?;
    std::thread::sleep(SECOND * SECONDS_BEFORE);
    let started = Instant::now();
    let mut probe = Owned(probe.arg(busy.0.id().to_string()).stdout(Stdio::piped()).spawn()?);
    let lines = said(&mut probe)?;
    // On busy cores it takes its time to get there.
    let mut said: Vec<(Instant, String)> = Vec::new();
    let armed = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok((at, line)) if line.contains("\"kind\":\"attached\"") => break at,
            Ok(other) => said.push(other),
            Err(_) => bail!("the probe was not armed"),
        }
    };
    // One tick more than the last second needs.
    std::thread::sleep(GRACE + SECOND * SECONDS_AFTER + Duration::from_millis(100));
    let ticks: Vec<Tick> = ticks.try_iter().collect();
    probe.interrupt()?;
    drop(busy);
    said.extend(lines.try_iter());
    let at = |kind: &str| {
        let kind = format!("\"kind\":\"{kind}\"");
        said.iter().find(|(_, line)| line.contains(&kind))
    };

    // Seconds before it was started, so that its own start is not counted to either side.
    let before: Vec<f64> = (1..SECONDS_BEFORE)
        .filter_map(|n| Some(rate(&ticks, started - SECOND * n, started - SECOND * (n - 1))?.0))
        .collect();
    if before.is_empty() {
        bail!("the program counted nothing before it was probed");
    }
    let usual = before.iter().sum::<f64>() / before.len() as f64;
    let baseline = format!("{name}: before");
    let unit = "million calls a CPU second";
    let millions = |rates: &[f64]| rates.iter().map(|rate| rate / 1e6).collect::<Vec<_>>();
    report.row(&baseline, unit, None, millions(&before));
    let noise = before.iter().map(|rate| (1.0 - rate / usual).abs() * 100.0).fold(0.0, f64::max);
    report.row(&format!("{name}: spread of the seconds before"), "% of a CPU second", None, vec![noise]);
    let windows = std::iter::once(("the first 200 ms".to_owned(), armed, armed + GRACE)).chain(
        (0..SECONDS_AFTER).map(|n| {
            let from = armed + GRACE + SECOND * n;
            (format!("second {} after them", n + 1), from, from + SECOND)
        }),
    );
    for (window, from, to) in windows {
        let Some((rate, cores)) = rate(&ticks, from, to) else { continue };
        report.row(&format!("{name}: {window}"), unit, Some(&baseline), vec![rate / 1e6]);
        // Negative: noise.
        let lost_percent = (1.0 - rate / usual) * cores * 100.0;
        let lost = format!("{name}: lost in {window}");
        if from > armed {
            // What the program's own seconds differ by cannot be told from a loss.
            report.goals.push((lost.clone(), Goal::AtMost(BUDGET_PERCENT + (noise * cores).round())));
        }
        report.row(&lost, "% of a core", None, vec![lost_percent]);
    }
    if let Some((detached, _)) = at("detached") {
        let milliseconds = (*detached - armed).as_secs_f64() * 1000.0;
        report.row(
            &format!("{name}: from the `attached` line to the `detached` line"),
            "ms",
            None,
            vec![milliseconds],
        );
    }
    if let Some(stats) = at("stats").and_then(|(_, line)| serde_json::from_str::<Stats>(line).ok()) {
        let span = stats.seconds.min(1.0);
        report.row(&format!("{name}: hits"), "hits", None, vec![stats.hits as f64]);
        let what = format!("{name}: cost of all hits by the probe's account");
        report.goals.push((what.clone(), Goal::AtMost(BUDGET_PERCENT)));
        // Of the first second, whether it was armed all of it or not.
        report.row(&what, "% of a core, 1 s", None, vec![stats.share_of_core * span * 100.0]);
    }
    for step in said.iter().filter_map(|(_, line)| serde_json::from_str::<Step>(line).ok()) {
        report.notes.push(format!(
            "{name}: at {:.0} hits a second of {} ns each, {:.0} % of a core, it stepped down: `{}`.",
            step.hits_per_second,
            step.mean_cost_ns,
            step.share_of_core * 100.0,
            step.step
        ));
    }
    Ok(())
}

/// The closing line of a probe.
#[derive(Deserialize)]
struct Stats {
    hits: u64,
    share_of_core: f64,
    seconds: f64,
}

/// A line that says a step of the budget's ladder.
#[derive(Deserialize)]
struct Step {
    step: String,
    hits_per_second: f64,
    mean_cost_ns: u64,
    share_of_core: f64,
}

/// Calls a second of processor time in a span, and how many cores the program had.
fn rate(ticks: &[Tick], from: Instant, to: Instant) -> Option<(f64, f64)> {
    let first = ticks.iter().rfind(|tick| tick.at <= from)?;
    let last = ticks.iter().find(|tick| tick.at >= to)?;
    let cpu_seconds = last.cpu_seconds - first.cpu_seconds;
    (cpu_seconds > 0.0).then(|| {
        let cores = cpu_seconds / (last.at - first.at).as_secs_f64();
        ((last.calls - first.calls) / cpu_seconds, cores)
    })
}

/// The program's ticks as they come.
fn ticks(busy: &mut Owned) -> Result<Receiver<Tick>> {
    let (lines, mut first) = (lines_of(busy)?, None);
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for (at, line) in lines {
            let words: Vec<f64> =
                line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
            let [nanoseconds, calls, cpu_nanoseconds] = words[..] else { continue };
            let tick = Duration::from_nanos(nanoseconds as u64);
            // By the program's clock: a line may be read late.
            let begin: Instant = *first.get_or_insert(at - tick);
            let _ = sender.send(Tick { at: begin + tick, calls, cpu_seconds: cpu_nanoseconds / 1e9 });
        }
    });
    Ok(receiver)
}

fn said(probe: &mut Owned) -> Result<Receiver<(Instant, String)>> {
    let lines = lines_of(probe)?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for (at, line) in lines.into_iter().filter(|(_, line)| !line.contains("\"kind\":\"hit\"")) {
            let _ = sender.send((at, line));
        }
    });
    Ok(receiver)
}

fn lines_of(child: &mut Owned) -> Result<Receiver<(Instant, String)>> {
    let stdout = child.0.stdout.take().context("no output")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

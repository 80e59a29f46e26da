//! `make bench`: measures what the README and the documentation quote, and writes the figures as JSON.
//!
//! Absolute times are not stable on shared machines; medians and ratios of alternating runs are what to look at.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{build, sh};

/// What to measure.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Runs of each measurement.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Only these measurements.
    #[arg(value_enum)]
    only: Vec<Measurement>,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// The share of a program's line entries that can be armed at an instruction that the kernel emulates.
    Sites {
        /// The program's file.
        binary: PathBuf,
        /// Look at every so many-th line.
        #[arg(long, default_value_t = 1)]
        every: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measurement {
    /// Start of `riptrace probe` to armed, with a cold and a warm cache, and its peak memory.
    Armed,
    /// What a hit costs the target.
    Hit,
}

/// Programs that nobody here wrote, with a line of each.
const PROGRAMS: &[(&str, &str, Option<&str>, &str)] = &[
    ("cmd/go", "cmd-go", None, "cmd/go/main.go:100"),
    (
        "caddy 2.10.0",
        "caddy",
        Some("github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.0"),
        "caddyhttp/server.go:303",
    ),
    ("rclone 1.71.0", "rclone", Some("github.com/rclone/rclone@v1.71.0"), "rclone@v1.71.0/cmd/cmd.go:300"),
];

#[derive(Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    runs: usize,
}

impl Row {
    fn of(what: String, unit: &'static str, mut samples: Vec<f64>) -> Result<Self> {
        samples.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (samples.first(), samples.last()) else {
            bail!("{what}: nothing measured")
        };
        let median = samples.get(samples.len() / 2).copied().unwrap_or(max);
        Ok(Self { what, unit, median, min, max, runs: samples.len() })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(Task::Sites { binary, every }) = &options.task {
        // It needs the library, which this crate may not depend on.
        let mut command = sh::command("cargo");
        command.args([
            "run",
            "--release",
            "--quiet",
            "--package",
            "riptrace-agent",
            "--example",
            "sites",
            "--",
        ]);
        return sh::run(command.arg(binary).arg(every.to_string()));
    }
    let riptrace = build::release()?;
    let all = options.only.is_empty();
    let mut rows = Vec::new();
    if all || options.only.contains(&Measurement::Armed) {
        for (name, program, module, location) in PROGRAMS {
            let file = program_file(program, *module)?;
            armed(&riptrace, name, &file, location, options.runs, &mut rows)?;
        }
    }
    if all || options.only.contains(&Measurement::Hit) {
        // The measurement itself needs the library, which this crate may not depend on.
        sh::run(sh::command("cargo").args([
            "test",
            "--release",
            "--package",
            "riptrace-agent",
            "--test",
            "kernel",
            "--",
            "--ignored",
            "--nocapture",
            "cost",
            "--test-threads=1",
        ]))?;
    }
    println!("{:<48} {:>10} {:>10} {:>10}  unit", "what", "median", "min", "max");
    for row in &rows {
        println!("{:<48} {:>10.1} {:>10.1} {:>10.1}  {}", row.what, row.median, row.min, row.max, row.unit);
    }
    let file = sh::target().join("bench.json");
    fs::write(&file, serde_json::to_vec_pretty(&rows)?)?;
    sh::say(&format!("wrote {}", file.display()));
    Ok(())
}

/// The file of a program; builds it with `go install` where it is missing.
fn program_file(program: &str, module: Option<&str>) -> Result<PathBuf> {
    let Some(module) = module else {
        // The one that comes with Go is linked without debug data.
        let file = sh::tools().join("go/bin").join(program);
        if !file.is_file() {
            sh::say("building cmd/go");
            sh::run(sh::command("go").args(["build", "-o"]).arg(&file).arg("cmd/go"))?;
        }
        return Ok(file);
    };
    let folder = sh::tools().join("go/bin");
    let file = folder.join(program);
    if !file.is_file() {
        sh::say(&format!("building {module} (a minute or two)"));
        sh::run(
            sh::command("go")
                .current_dir(std::env::temp_dir())
                .args(["install", module])
                .env("GOBIN", &folder),
        )?;
    }
    Ok(file)
}

fn armed(
    riptrace: &Path,
    name: &str,
    file: &Path,
    location: &str,
    runs: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let size_mb = fs::metadata(file)?.len() / 1_000_000;
    let cache = sh::target().join("bench-cache");
    for warm in [false, true] {
        let (mut times, mut memory) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            if !warm {
                let _ = fs::remove_dir_all(&cache);
            }
            let (time, peak_kib) = start_to_armed(riptrace, file, location, &cache)?;
            times.push(time.as_secs_f64() * 1000.0);
            memory.push(peak_kib as f64 / 1024.0);
        }
        let cache_state = if warm { "warm" } else { "cold" };
        rows.push(Row::of(format!("{name} ({size_mb} MB): start to armed, {cache_state}"), "ms", times)?);
        rows.push(Row::of(format!("{name} ({size_mb} MB): peak memory, {cache_state}"), "MiB", memory)?);
    }
    let _ = fs::remove_dir_all(&cache);
    Ok(())
}

/// Starts a probe, waits until it says that it is armed, ends it. Time to armed, and peak resident KiB.
fn start_to_armed(riptrace: &Path, file: &Path, location: &str, cache: &Path) -> Result<(Duration, u64)> {
    let begin = Instant::now();
    let mut child = Command::new(riptrace)
        .args(["probe", "--json", "--exe"])
        .arg(file)
        .arg(location)
        .env("RIPTRACE_CACHE_DIR", cache)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", riptrace.display()))?;
    let stdout = child.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let armed = loop {
        match lines.next() {
            Some(line) if line.as_ref().is_ok_and(|line| line.contains("\"kind\":\"attached\"")) => {
                break begin.elapsed();
            }
            Some(_) => {}
            None => bail!("the probe of {location} ended before it was armed: {}", child.wait()?),
        }
    };
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let peak_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    sh::run(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
    child.wait()?;
    Ok((armed, peak_kib))
}

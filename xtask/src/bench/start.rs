//! Start of `riptrace probe` to its `attached` line, with a cold and a warm cache, and its peak memory.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    Bench, Report,
    table::{Goal, Samples},
};
use crate::sh;

pub(super) const SAYS: &str = "start of `riptrace probe` to its `attached` line, with an empty and with a filled cache, \
                               and the peak of resident memory";

/// A program that nobody here wrote, with a line of it.
struct Program {
    name: &'static str,
    file: &'static str,
    module: Option<&'static str>,
    location: &'static str,
    /// Milliseconds with a cold and a warm cache, MiB.
    goals: [f64; 3],
}

const PROGRAMS: [Program; 3] = [
    Program {
        name: "cmd/go",
        file: "cmd-go",
        module: None,
        location: "cmd/go/main.go:100",
        goals: [250.0, 50.0, 200.0],
    },
    Program {
        name: "caddy 2.10.0",
        file: "caddy",
        module: Some("github.com/caddyserver/caddy/v2/cmd/caddy@v2.10.0"),
        location: "caddyhttp/server.go:303",
        goals: [1000.0, 80.0, 200.0],
    },
    Program {
        name: "rclone 1.71.0",
        file: "rclone",
        module: Some("github.com/rclone/rclone@v1.71.0"),
        location: "rclone@v1.71.0/cmd/cmd.go:300",
        goals: [1000.0, 80.0, 200.0],
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Report> {
    let riptrace = bench.riptrace()?;
    let mut report = Report::default();
    for program in &PROGRAMS {
        let file = match program_file(program.file, program.module) {
            Ok(file) => file,
            Err(error) => {
                report.absent(program.name, &error);
                continue;
            }
        };
        let size_mb = fs::metadata(&file)?.len() / 1_000_000;
        let cache = bench.folder.join(CACHE);
        for warm in [false, true] {
            let (mut times, mut processor, mut memory) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..bench.runs {
                if !warm {
                    let _ = fs::remove_dir_all(&cache);
                }
                let Armed { time, processor_ms, peak_kib } =
                    start_to_armed(bench, &riptrace, &file, program.location)?;
                times.push(time.as_secs_f64() * 1000.0);
                processor.push(processor_ms);
                memory.push(peak_kib as f64 / 1024.0);
            }
            let name = format!("{} ({size_mb} MB)", program.name);
            let state = if warm { "warm" } else { "cold" };
            let [cold_goal, warm_goal, memory_goal] = program.goals;
            let goal = if warm { warm_goal } else { cold_goal };
            report.row_with_goal(format!("{name}: start to armed, {state}"), "ms", times, Goal::AtMost(goal));
            report.row(&format!("{name}: its processor time, {state}"), "ms", None, processor);
            let what = format!("{name}: peak memory, {state}");
            report.row_with_goal(what, "MiB", memory, Goal::AtMost(memory_goal));
        }
        let _ = fs::remove_dir_all(&cache);
    }
    Ok(report)
}

impl Report {
    fn row_with_goal(&mut self, what: String, unit: &str, samples: Vec<f64>, goal: Goal) {
        self.goals.push((what.clone(), goal));
        self.samples.push(Samples { what, unit: unit.to_owned(), against: None, samples });
    }
}

/// The file of `cmd/go`, with debug data (the one that comes with Go has none).
pub(super) fn cmd_go() -> Result<PathBuf> {
    program_file("cmd-go", None)
}

/// The file of a program; builds it with `go install` where it is missing.
fn program_file(program: &str, module: Option<&str>) -> Result<PathBuf> {
    let folder = sh::tools().join("go/bin");
    let file = folder.join(program);
    if file.is_file() {
        return Ok(file);
    }
    fs::create_dir_all(&folder)?;
    let Some(module) = module else {
        sh::say("building cmd/go");
        sh::run(sh::command("go").args(["build", "-o"]).arg(&file).arg("cmd/go"))?;
        return Ok(file);
    };
    sh::say(&format!("building {module} (a minute or two)"));
    sh::run(
        sh::command("go").current_dir(std::env::temp_dir()).args(["install", module]).env("GOBIN", &folder),
    )?;
    Ok(file)
}

/// The folder for the indexes, empty or filled.
const CACHE: &str = "cache";

/// What it took to be armed.
struct Armed {
    time: Duration,
    /// Of all its threads and the kernel for them; other load hardly changes it.
    processor_ms: f64,
    peak_kib: u64,
}

/// Milliseconds of the unit in which `/proc/PID/stat` counts.
const TICK_MS: f64 = 10.0;

/// Starts a probe, waits until it says that it is armed, ends it.
fn start_to_armed(bench: &Bench, riptrace: &Path, file: &Path, location: &str) -> Result<Armed> {
    let complaints = bench.folder.join("start.err");
    let stderr = File::create(&complaints)?;
    let begin = Instant::now();
    let mut child = Command::new(riptrace)
        .args(["probe", "--json", "--exe"])
        .arg(file)
        .arg(location)
        .env("RIPTRACE_CACHE_DIR", bench.folder.join(CACHE))
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("cannot start {}", riptrace.display()))?;
    let stdout = child.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let time = loop {
        match lines.next() {
            Some(line) if line.as_ref().is_ok_and(|line| line.contains("\"kind\":\"attached\"")) => {
                break begin.elapsed();
            }
            Some(_) => {}
            None => {
                let why = fs::read_to_string(&complaints).unwrap_or_default();
                bail!(
                    "the probe of {location} ended before it was armed ({}): {}",
                    child.wait()?,
                    why.trim()
                );
            }
        }
    };
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let peak_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // Behind the name, which may contain anything: state, ten numbers, user and system time.
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let ticks: f64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let processor_ms = ticks * TICK_MS;
    sh::run(Command::new("kill").args(["-INT", &child.id().to_string()]))?;
    child.wait()?;
    Ok(Armed { time, processor_ms, peak_kib })
}

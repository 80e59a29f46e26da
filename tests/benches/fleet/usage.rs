//! What processes use, as `/proc` tells; the Go program that is traced.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use riptrace_tests::go::target_dir;

/// Processor time of a process's threads that live.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Nanoseconds on a processor, nanoseconds of waiting for one, time slices.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0);
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

/// How often a process's threads gave a processor away by themselves: each of these times something woke them again.
pub(crate) fn wake_ups(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// Resident memory in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().next().context("no number")?.parse()?;
    Ok(kibibytes * 1024)
}

/// Lets a process's threads run on these processors only: a list as taskset takes it.
pub(crate) fn pin(pid: u32, processors: &str) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-a", "-c", "-p", processors, &pid.to_string()]).stdout(Stdio::null());
    ensure!(command.status().context("taskset")?.success(), "the process can't be pinned");
    Ok(())
}

/// The program `xtask/bench/calls`: makes calls as it is told.
pub(crate) struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(Self::build()?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut caller = Self { child, input, output };
        ensure!(caller.line()? == "ready", "the program is not ready");
        Ok(caller)
    }

    fn build() -> Result<PathBuf> {
        let file = target_dir()?.join("bench/calls");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/bench/calls/main.go");
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(&file).arg(source).env("GO111MODULE", "off");
        ensure!(go.env("GOFLAGS", "-buildvcs=false").status()?.success(), "{source} can't be built");
        Ok(file)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Has it done something; how many calls it made, and how long it took.
    pub(crate) fn order(&mut self, order: &str) -> Result<(u64, Duration)> {
        writeln!(self.input, "{order}")?;
        let line = self.line()?;
        let mut words = line.split(' ');
        ensure!(words.next() == Some("done"), "the program said {line:?}");
        let mut number = || words.next().and_then(|word| word.parse().ok()).context("no number");
        Ok((number()?, Duration::from_nanos(number()?)))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

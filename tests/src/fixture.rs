//! Runs the Go program of `fixtures/` and reads the lines of JSON that it prints.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    go::{Version, go_files, sources},
    output,
};

/// A line that is marked `//probe:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedLine {
    /// The name, `scalars.floats`; what is before the dot is the fixture.
    pub name: String,
    /// File as a location names it, `fixtures/scalars/scalars.go`: a suffix of the real path, with and without
    /// `-trimpath`.
    pub file: String,
    /// Line.
    pub line: u32,
}

impl ProbedLine {
    /// As `riptrace probe` takes it.
    #[must_use]
    pub fn location(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The fixture that executes it.
    #[must_use]
    pub fn fixture(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }
}

/// Every marked line of the files that this version of Go compiles.
pub fn probed_lines(version: &Version) -> Result<Vec<ProbedLine>> {
    let mut lines = Vec::new();
    for (path, text) in go_files(&sources())? {
        let needs = text.lines().next().and_then(|line| line.strip_prefix("//go:build go1."));
        if path.starts_with("truth") {
            continue; // The library speaks of marks, it has none.
        }
        if needs.is_some_and(|minor| minor.trim().parse().unwrap_or(u32::MAX) > version.minor()) {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            if let Some((_, name)) = line.split_once("//probe:") {
                lines.push(ProbedLine {
                    name: name.trim().to_owned(),
                    file: format!("fixtures/{}", path.display()),
                    line: number,
                });
            }
        }
    }
    Ok(lines)
}

/// The marked line of this name.
pub fn probed_line(version: &Version, name: &str) -> Result<ProbedLine> {
    let lines = probed_lines(version)?;
    lines.into_iter().find(|line| line.name == name).with_context(|| format!("no line is marked {name}"))
}

/// What a fixture's variables held at one execution of a marked line.
#[derive(Clone, Debug, Deserialize)]
pub struct TrueHit {
    /// Name of the line.
    pub probe: String,
    /// How often everything was run before.
    pub pass: u32,
    /// Goroutine.
    pub goroutine: u64,
    /// Values by name.
    pub variables: BTreeMap<String, Value>,
    /// Call stack, the executing function first.
    pub stack: Vec<TrueFrame>,
}

/// A frame of a true call stack.
#[derive(Clone, Debug, Deserialize)]
pub struct TrueFrame {
    /// Function as the runtime names it.
    pub function: String,
    /// Line.
    pub line: u32,
}

/// Everything that a run of a fixture printed.
#[derive(Debug, Default)]
pub struct Truth {
    /// Executions of marked lines, in the order of printing.
    pub hits: Vec<TrueHit>,
    /// How often marked lines were executed, where the program counted.
    pub counts: BTreeMap<String, u64>,
    /// Named results.
    pub results: BTreeMap<String, Value>,
}

/// A running fixture. It is killed when this is dropped.
#[derive(Debug)]
pub struct Fixture {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    truth: Truth,
}

impl Fixture {
    /// Starts it and waits until it is ready to be told to run.
    pub fn start(executable: &Path, fixtures: &[&str]) -> Result<Self> {
        let mut child = Command::new(executable)
            .args(fixtures)
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", executable.display()))?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no standard output")?;
        let lines = output::lines(output);
        let mut fixture = Self { child, input, lines, truth: Truth::default() };
        fixture.read_until("ready", Duration::from_secs(20))?;
        Ok(fixture)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to run, without waiting.
    pub fn release(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("the fixture's input is closed")?;
        input.write_all(b"go\n")?;
        Ok(())
    }

    /// Waits until everything was run and printed. The process stays until [`Fixture::end`].
    pub fn wait_done(&mut self, timeout: Duration) -> Result<()> {
        self.read_until("done", timeout)
    }

    /// Closes its input, on which it ends, waits for that, and hands over what it printed.
    pub fn end(mut self) -> Result<Truth> {
        drop(self.input.take());
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(20)) {
            self.read(&line)?;
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the fixture ended with {status}");
        Ok(std::mem::take(&mut self.truth))
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn read_until(&mut self, key: &str, timeout: Duration) -> Result<()> {
        loop {
            let line = match self.lines.recv_timeout(timeout) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the fixture printed nothing for {timeout:?}, waiting for {key}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the fixture ended ({}) before it printed {key}", self.child.wait()?)
                }
            };
            if self.read(&line)?.get(key).is_some() {
                return Ok(());
            }
        }
    }

    fn read(&mut self, line: &str) -> Result<Value> {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("the fixture printed no JSON: {line:.200}"))?;
        if value.get("probe").is_some() {
            self.truth.hits.push(serde_json::from_value(value.clone())?);
        } else if let Some(counts) = value.get("counts") {
            self.truth.counts = serde_json::from_value(counts.clone())?;
        } else if let (Some(name), Some(result)) =
            (value.get("result").and_then(Value::as_str), value.get("value"))
        {
            self.truth.results.insert(name.to_owned(), result.clone());
        }
        Ok(value)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

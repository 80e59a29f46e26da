//! The programs that are measured and the tools that look at them: started, spoken to, and ended with the benchmark.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a tool may take to get ready, and to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child that ends with its owner, however that ends.
pub(super) struct Owned(pub(super) Child);

impl Owned {
    /// As Ctrl-C would. Whether it ended by itself.
    pub(super) fn interrupt(&mut self) -> Result<bool> {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).stderr(Stdio::null()).status();
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if self.0.try_wait()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(false)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `xtask/bench/calls`: makes the calls that it is told to make.
pub(super) struct Calls {
    child: Owned,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Calls {
    pub(super) fn start(file: &Path) -> Result<Self> {
        let mut child = Command::new(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", file.display()))?;
        let stdin = child.stdin.take().context("no input")?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut calls = Self { child: Owned(child), stdin, stdout };
        match calls.line()?.trim() {
            "ready" => Ok(calls),
            other => bail!("{} said {other:?}", file.display()),
        }
    }

    pub(super) fn pid(&self) -> String {
        self.child.0.id().to_string()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line)
    }

    /// Calls made, and nanoseconds that they took.
    fn ask(&mut self, question: &str) -> Result<(u64, f64)> {
        writeln!(self.stdin, "{question}")?;
        let line = self.line()?;
        let mut words = line.split_whitespace();
        match (words.next(), words.next().map(str::parse), words.next().map(str::parse)) {
            (Some("done"), Some(Ok(calls)), Some(Ok(nanoseconds))) => Ok((calls, nanoseconds)),
            _ => bail!("the program that makes the calls said {line:?}"),
        }
    }

    /// Makes so many calls; nanoseconds of one.
    pub(super) fn call(&mut self, function: &str, count: u32) -> Result<f64> {
        let (calls, nanoseconds) = self.ask(&format!("call {function} {count}"))?;
        Ok(nanoseconds / calls.max(1) as f64)
    }

    /// Makes calls evenly for a while; calls a second that were made.
    pub(super) fn pace(&mut self, function: &str, rate: u64, span: Duration) -> Result<f64> {
        let (calls, nanoseconds) = self.ask(&format!("pace {function} {rate} {}", span.as_millis()))?;
        Ok(calls as f64 / nanoseconds * 1e9)
    }
}

/// A tool that has attached to a program.
pub(super) struct Tool {
    child: Owned,
}

impl Tool {
    /// Starts a tool whose output goes to a file, and waits until a line of that file contains `ready`.
    pub(super) fn start(command: &mut Command, output: &Path, ready: &str) -> Result<Self> {
        let file = File::create(output).with_context(|| output.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut tool = Self { child: Owned(child) };
        let begin = Instant::now();
        loop {
            let said = std::fs::read(output)?;
            if String::from_utf8_lossy(&said).contains(ready) {
                return Ok(tool);
            }
            if let Some(status) = tool.child.0.try_wait()? {
                bail!("{command:?} ended ({status}): {}", String::from_utf8_lossy(&said).trim());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{command:?} did not get ready: {}", String::from_utf8_lossy(&said).trim());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it, so that its last lines are written.
    pub(super) fn end(mut self) -> Result<()> {
        if !self.child.interrupt()? {
            bail!("a tool did not end when it was interrupted");
        }
        Ok(())
    }
}

/// Waits until a call costs clearly more than it did: the tool's trap is in place.
pub(super) fn wait_for_trap(calls: &mut Calls, function: &str, bare_ns: f64) -> Result<()> {
    const CALLS: u32 = 50;
    /// Less than any trap; more than a cache miss a call.
    const TRAP_NS: f64 = 200.0;
    let begin = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 5 {
        if begin.elapsed() > PATIENCE {
            bail!("no trap in {function} after {} s", PATIENCE.as_secs());
        }
        in_a_row = if calls.call(function, CALLS)? > bare_ns + TRAP_NS { in_a_row + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

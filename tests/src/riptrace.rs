//! Runs the real `riptrace` and reads its events.

use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use riptrace_common::wire::event::Event;
use serde_json::Value;

use crate::{go::target_dir, output};

/// Path of the product: `RIPTRACE_BIN`, or what cargo builds beside the tests.
///
/// # Panics
///
/// When it can't be built.
#[must_use]
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("RIPTRACE_BIN", "riptrace-agent", "riptrace")).clone()
}

/// Path of the server: `RIPTRACE_SERVER_BIN`, or what cargo builds beside the tests.
///
/// # Panics
///
/// When it can't be built.
#[must_use]
pub fn server_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("RIPTRACE_SERVER_BIN", "riptrace-server", "riptrace-server")).clone()
}

fn built(variable: &str, package: &str, program: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let target = target_dir().unwrap_or_else(|error| panic!("{error:#}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--bin", program, "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{program} can't be built");
    target.join("debug").join(program)
}

/// `riptrace` with these arguments, run to its end (killed after `timeout`).
pub fn run(arguments: &[&str], timeout: Duration) -> Result<Finished> {
    Running::start(arguments)?.wait(timeout)
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Every event of its standard output that is a line of JSON.
    pub events: Vec<Value>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Exit code; `None` when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The events of this kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["kind"] == kind)
    }

    /// Fails unless it ended with this exit code and said each of these on standard error.
    ///
    /// # Panics
    ///
    /// That is how it fails.
    pub fn expect(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code(), Some(code), "exit code; it said:\n{}{}", self.stdout, self.stderr);
        for text in said {
            assert!(self.stderr.contains(text), "it did not say {text:?} but:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked at"), "it panicked:\n{}", self.stderr);
    }
}

/// A running `riptrace`. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    events: Vec<Value>,
    stdout: String,
}

impl Running {
    /// Starts it.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_command(Command::new(binary()).args(arguments))
    }

    /// Starts a command that runs it in some special way.
    pub fn start_command(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", binary().display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut stderr = child.stderr.take().context("no standard error")?;
        let lines = output::lines(stdout);
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { child, lines, stderr: Some(stderr), events: Vec::new(), stdout: String::new() })
    }

    /// `riptrace probe --json` on a process. Without a budget unless the options have one: these tests want every hit of
    /// lines that are hot on purpose.
    pub fn probe(pid: u32, locations: &[String], options: &[&str]) -> Result<Self> {
        let pid = pid.to_string();
        let mut arguments = vec!["probe", "--json", "--pid", &pid];
        if !options.contains(&"--budget") {
            arguments.extend(["--budget", "0"]);
        }
        arguments.extend_from_slice(options);
        arguments.extend(locations.iter().map(String::as_str));
        Self::start(&arguments)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `count` locations are armed. Fails when it ends before, or reports an error.
    pub fn wait_attached(&mut self, count: usize, timeout: Duration) -> Result<()> {
        let mut attached = 0;
        self.wait_until(timeout, |event| {
            attached += usize::from(event["kind"] == "attached");
            attached == count
        })
        .with_context(|| format!("{attached} of {count} locations were armed"))
    }

    /// Waits for the first hit.
    pub fn wait_hit(&mut self, timeout: Duration) -> Result<()> {
        self.wait_until(timeout, |event| event["kind"] == "hit")
    }

    fn wait_until(&mut self, timeout: Duration, mut enough: impl FnMut(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(event) = self.take(&line)?
                        && enough(event)
                    {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("nothing more came within {timeout:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("riptrace ended ({status}):\n{}", self.stderr_text());
                }
            }
        }
    }

    /// Ctrl-C, then waits for the end.
    pub fn interrupt(self, timeout: Duration) -> Result<Finished> {
        self.signal(libc::SIGINT)?;
        self.wait(timeout)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send_signal(self.pid(), signal)
    }

    /// Waits for the end; kills it and fails after `timeout`.
    pub fn wait(mut self, timeout: Duration) -> Result<Finished> {
        let end = Instant::now() + timeout;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.take(&line)?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill()?;
                    bail!("riptrace did not end within {timeout:?}:\n{}", self.stderr_text());
                }
            }
        }
        // Standard output is closed; the rest is a matter of moments unless something hangs.
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < end + Duration::from_secs(2),
                "riptrace closed its output but did not end"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let stderr = self.stderr_text();
        Ok(Finished {
            status,
            events: std::mem::take(&mut self.events),
            stdout: std::mem::take(&mut self.stdout),
            stderr,
        })
    }

    fn stderr_text(&mut self) -> String {
        self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// Keeps a line; an event of it must follow the wire's types.
    fn take(&mut self, line: &str) -> Result<Option<&Value>> {
        self.stdout.push_str(line);
        self.stdout.push('\n');
        if !line.starts_with('{') {
            return Ok(None);
        }
        let event: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line:.300}"))?;
        serde_json::from_str::<Event>(line)
            .with_context(|| format!("not an event of the wire: {line:.300}"))?;
        self.events.push(event);
        Ok(self.events.last())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to one process.
pub fn send_signal(pid: u32, signal: i32) -> Result<()> {
    // SAFETY: kill takes two integers and touches no memory of ours.
    let result = unsafe { libc::kill(pid.cast_signed(), signal) };
    ensure!(result == 0, "failed to signal {pid}: {}", std::io::Error::last_os_error());
    Ok(())
}

//! Runs a real `riptrace-server` with its private broker, real agents, and the command line against them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use riptrace_agent::probe::pins;
use riptrace_common::wire::api::{SessionStatus, StoredHit};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    go::target_dir,
    output,
    riptrace::{binary, send_signal, server_binary},
};

/// How long a program may take to start, and a tracepoint to be armed, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program that is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command.stderr(file).spawn().with_context(|| format!("failed to start {command:?}"))?;
        Ok(Self { child, log: log.to_path_buf() })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send_signal(self.pid(), signal)
    }

    /// Asks it to end, and waits until it did.
    pub fn end(mut self) -> Result<()> {
        self.signal(libc::SIGTERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begin.elapsed() < PATIENCE, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills it without a word.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder for a fleet's data, logs and states; it outlives servers that are killed and started again in it.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// A new one.
    pub fn new() -> Result<Self> {
        Ok(Self(TempDir::with_prefix("riptrace-fleet-")?))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The process of a server's private broker, which outlives a server that is killed.
    #[must_use]
    pub fn broker(&self, server: &str) -> Option<u32> {
        let folder = self.path().join(server).join("nats");
        let pid: u32 = std::fs::read_to_string(folder.join("nats.pid")).ok()?.trim().parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // The number may be another process's by now.
        String::from_utf8_lossy(&arguments).contains(folder.to_str()?).then_some(pid)
    }
}

impl Folder {
    /// Starts an agent by another program, which becomes it.
    pub fn agent_by(
        &self,
        mut command: Command,
        nats: &str,
        host: &str,
        services: &[&str],
        options: &[&str],
    ) -> Result<Program> {
        command.arg(binary());
        run_agent(command, self, nats, host, services, options)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        for entry in entries {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| self.broker(name)) {
                let _ = send_signal(pid, libc::SIGKILL);
            }
            // What a killed agent left is gone once it was read.
            let _ = pins::folder_of(&entry.path()).map(|pins| pins::previous_runs(&pins));
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// The program.
    pub program: Program,
    /// Where the API is.
    pub url: String,
    /// Where the broker is.
    pub nats: String,
    lines: Receiver<String>,
}

impl Server {
    /// Starts one with a broker of its own.
    pub fn start(folder: &Folder) -> Result<Self> {
        Self::start_with(folder, "server", &[])
    }

    /// Starts one whose data are in the folder's subfolder of this name, with more options.
    pub fn start_with(folder: &Folder, name: &str, options: &[&str]) -> Result<Self> {
        let tools = target_dir()?.join("tools/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(server_binary());
        command
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path().join(name))
            .args(options)
            .env("PATH", format!("{path}:{}", tools.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut program = Program::spawn(&mut command, &folder.path().join(format!("{name}.log")))?;
        let output = program.child.stdout.take().context("no standard output")?;
        let lines = output::lines(output);
        let mut server = Self { program, url: String::new(), nats: String::new(), lines };
        let begin = Instant::now();
        while server.url.is_empty() || server.nats.is_empty() {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            let Ok(line) = server.lines.recv_timeout(left) else {
                bail!("the server did not say where it listens:\n{}", server.program.log());
            };
            for word in line.split_whitespace() {
                match word.split_once("://") {
                    Some(("http", _)) => server.url = word.to_owned(),
                    Some(("nats", _)) => server.nats = word.to_owned(),
                    _ => {}
                }
            }
        }
        Ok(server)
    }

    /// Starts an agent that looks at these services only.
    pub fn agent(&self, folder: &Folder, host: &str, services: &[&str]) -> Result<Program> {
        agent(folder, &self.nats, host, services, &[])
    }

    /// Runs `riptrace` against this server; what it printed, each line as JSON.
    pub fn ask(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = self.run(arguments)?;
        let lines = text.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line:.300}")))
            .collect()
    }

    /// Runs `riptrace` against this server; what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary());
        command.args(arguments).env("RIPTRACE_SERVER", &self.url).stdin(Stdio::null());
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        // 4: no hit yet.
        let ended_well = matches!(output.status.code(), Some(0 | 4));
        ensure!(ended_well, "riptrace {arguments:?} ended with {}: {stderr}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The one object that `riptrace` prints.
    pub fn ask_for<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?} printed {text:.300}"))
    }

    /// Waits until there are so many instances of the services.
    pub fn wait_for_services(&self, wanted: &[(&str, usize)]) -> Result<()> {
        wait(|| {
            let services = self.ask(&["services", "--json"])?;
            let instances = |name: &str| {
                let found = services.iter().find(|service| service["name"] == name);
                found.and_then(|service| service["instances"].as_array()).map_or(0, Vec::len)
            };
            Ok(wanted.iter().all(|(name, count)| instances(name) == *count).then_some(()))
        })
        .with_context(|| format!("waiting for the services {wanted:?}:\n{}", self.program.log()))
    }

    /// Makes a session with one tracepoint for each (service, location); its id, once all of them are armed on so many
    /// hosts in sum.
    pub fn session(&self, tracepoints: &[(&str, &str)], options: &[&str], armed: usize) -> Result<String> {
        let session: Value = self.ask_for(&["session", "create", "--json"])?;
        let id = session["id"].as_str().context("a session without an id")?.to_owned();
        for (service, location) in tracepoints {
            let mut arguments = vec!["session", "add", &id, service, location];
            arguments.extend_from_slice(options);
            self.run(&arguments)?;
        }
        self.wait_armed(&id, armed)?;
        Ok(id)
    }

    /// Waits until so many tracepoints of the session are armed, each counted on each host.
    pub fn wait_armed(&self, session: &str, armed: usize) -> Result<()> {
        let count = || {
            let status = self.ask_for::<Value>(&["session", "show", session, "--json"])?;
            let hosts = status["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok::<_, anyhow::Error>(hosts.iter().filter(|host| host["state"]["status"] == "armed").count())
        };
        wait(|| Ok((count()? == armed).then_some(()))).with_context(|| {
            let status = self.run(&["session", "show", session, "--json"]).unwrap_or_default();
            format!("waiting for {armed} armed tracepoints:\n{status}\n{}", self.program.log())
        })
    }

    /// The session's status.
    pub fn status(&self, session: &str) -> Result<SessionStatus> {
        self.ask_for(&["session", "show", session, "--json"])
    }

    /// The session's hits by their order, once there are at least so many and all of them are final.
    pub fn story(&self, session: &str, at_least: usize) -> Result<Vec<StoredHit>> {
        let mut last = (0, false);
        wait(|| {
            let lines = self.ask(&["story", session, "--json"])?;
            let is_final = lines.iter().all(|line| line["finality"] == "final");
            last = (lines.len(), is_final);
            Ok((is_final && lines.len() >= at_least).then_some(lines))
        })
        .with_context(|| {
            let status = self.run(&["session", "show", session, "--json"]).unwrap_or_default();
            let log = self.program.log();
            format!("{} of {at_least} hits, final: {}\n{status}\n{log}", last.0, last.1)
        })?
        .into_iter()
        .map(|line| Ok(serde_json::from_value(line)?))
        .collect()
    }
}

/// Starts an agent.
pub fn agent(
    folder: &Folder,
    nats: &str,
    host: &str,
    services: &[&str],
    options: &[&str],
) -> Result<Program> {
    run_agent(Command::new(binary()), folder, nats, host, services, options)
}

fn run_agent(
    mut command: Command,
    folder: &Folder,
    nats: &str,
    host: &str,
    services: &[&str],
    options: &[&str],
) -> Result<Program> {
    command.args(["agent", "--nats", nats, "--host-name", host, "--state"]);
    command.arg(folder.path().join(format!("state-{host}")));
    command.args(services.iter().flat_map(|service| ["--only-service", service])).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Program::spawn(&mut command, &folder.path().join(format!("agent-{host}.log")))
}

/// Asks again and again until there is an answer.
pub fn wait<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(begin.elapsed() < PATIENCE, "not within {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! A whole fleet on this machine, run from the binaries that the workspace builds: a server with its private broker,
//! agents with host names of their own, the demo's services. `make demo`, `make play` and the test with two kernels use
//! it as a user would: through the command line.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{build, sh};

/// How `riptrace` ends when there is no hit yet.
const NO_HIT: i32 = 4;
/// How long a story may take to be complete and final.
const STORY_WITHIN: Duration = Duration::from_secs(60);

/// A program that ends when this is dropped, however that comes.
pub(crate) struct Running {
    pub(crate) name: String,
    child: Child,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child =
            command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name: name.to_owned(), child })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        for _ in 0..250 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that listens.
pub(crate) struct Listening {
    pub(crate) service: Running,
    pub(crate) address: String,
}

/// Builds the demo's services; gives their folder.
pub(crate) fn build_services(folder: &Path, environment: &[(&str, &str)]) -> Result<PathBuf> {
    let folder = folder.join("services");
    fs::create_dir_all(&folder)?;
    sh::say("building the demo services");
    sh::run(
        sh::command("go")
            .current_dir(sh::root().join("demo"))
            .args(["build", "-o"])
            .arg(&folder)
            .arg("./...")
            .envs(environment.iter().copied()),
    )?;
    Ok(folder)
}

/// Starts a service and waits for the line in which it says where it listens.
pub(crate) fn start(folder: &Path, name: &'static str, arguments: &[&str]) -> Result<Listening> {
    let mut command = Command::new(folder.join(name));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut service = Running::spawn(name, &mut command)?;
    let address = said(&mut service, "listening on ")?;
    sh::say(&format!("{name} listens on {address}"));
    Ok(Listening { service, address })
}

/// Starts the load generator.
pub(crate) fn load(folder: &Path, orders: &str, arguments: &[&str]) -> Result<Running> {
    let mut command = Command::new(folder.join("load"));
    command.args(["-orders", orders]).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    Running::spawn("load", &mut command)
}

/// Places so many orders, a few each second, and waits for the answers.
pub(crate) fn place_orders(folder: &Path, orders: &str, count: u32) -> Result<()> {
    let count = count.to_string();
    let arguments = ["-orders", orders, "-count", &count, "-rate", "10"];
    sh::run(Command::new(folder.join("load")).args(arguments).stdout(Stdio::null()))
}

/// Waits for a line of the program's output that has `mark` in it; what follows the mark.
fn said(program: &mut Running, mark: &str) -> Result<String> {
    let output = program.child.stdout.take().context("the program's output is gone")?;
    let mut lines = BufReader::new(output).lines();
    let found = loop {
        let Some(line) = lines.next() else {
            bail!("{} ended before it said where it listens", program.name)
        };
        if let Some((_, rest)) = line?.split_once(mark) {
            break rest.trim().to_owned();
        }
    };
    // The pipe must be read on, or the program stops when it is full.
    std::thread::spawn(move || lines.for_each(drop));
    Ok(found)
}

/// The project's binaries.
pub(crate) struct Programs {
    pub(crate) riptrace: PathBuf,
    pub(crate) server: PathBuf,
}

impl Programs {
    /// Release builds.
    pub(crate) fn release() -> Result<Self> {
        Ok(Self { riptrace: build::release()?, server: build::release_server()? })
    }

    /// Development builds, which the tests have made already.
    pub(crate) fn debug() -> Result<Self> {
        let (riptrace, server) = build::development()?;
        Ok(Self { riptrace, server })
    }
}

/// A server with its private broker.
pub(crate) struct Fleet<'a> {
    programs: &'a Programs,
    data: PathBuf,
    _server: Running,
    pub(crate) server_url: String,
    pub(crate) nats_url: String,
}

/// A location in a service that is to be traced.
pub(crate) struct Point {
    pub(crate) service: &'static str,
    pub(crate) location: String,
    pub(crate) capture: &'static [&'static str],
}

/// A hit of a story, as `riptrace story --json` prints it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StoryHit {
    pub(crate) service: String,
    pub(crate) finality: String,
    pub(crate) hit: Hit,
}

/// What is looked at of a hit.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hit {
    pub(crate) host: String,
    #[serde(default)]
    pub(crate) trace_id: String,
    /// Why it stands behind the hit before it; absent on the first one.
    pub(crate) certificate: Option<String>,
    /// The coordinated time.
    pub(crate) time_ns: i64,
    pub(crate) uncertainty_ns: Option<i64>,
    /// The host's monotonic clock.
    pub(crate) ktime_ns: i64,
}

impl<'a> Fleet<'a> {
    /// Starts the server in an empty data folder and waits until it can be asked.
    pub(crate) fn start(programs: &'a Programs, data: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(data);
        fs::create_dir_all(data)?;
        let log = fs::File::create(data.join("server.log"))?;
        let mut command = Command::new(&programs.server);
        command
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(data.join("server"))
            .env("PATH", sh::path())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut server = Running::spawn("riptrace-server", &mut command)?;
        let output = server.child.stdout.take().context("the server's output is gone")?;
        let (mut http, mut nats) = (None, None);
        let mut lines = BufReader::new(output).lines();
        while http.is_none() || nats.is_none() {
            let Some(line) = lines.next() else {
                let mut text = String::new();
                fs::File::open(data.join("server.log"))?.read_to_string(&mut text)?;
                bail!("riptrace-server ended before it listened: {text}");
            };
            for word in line?.split_whitespace() {
                if word.starts_with("http://") {
                    http = Some(word.to_owned());
                } else if word.starts_with("nats://") {
                    nats = Some(word.to_owned());
                }
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        let fleet = Self {
            programs,
            data: data.to_path_buf(),
            _server: server,
            server_url: http.unwrap_or_default(),
            nats_url: nats.unwrap_or_default(),
        };
        sh::say(&format!("the server is at {}, its broker at {}", fleet.server_url, fleet.nats_url));
        Ok(fleet)
    }

    /// Starts an agent that looks at these services only.
    pub(crate) fn agent(&self, host: &str, services: &[&str]) -> Result<Running> {
        let log = fs::File::create(self.data.join(format!("agent-{host}.log")))?;
        let mut command = Command::new(&self.programs.riptrace);
        command.args(["agent", "--nats", &self.nats_url, "--host-name", host]);
        command.args(services.iter().flat_map(|service| ["--only-service", service]));
        // One folder each: an agent is one of a host.
        command.arg("--state").arg(self.data.join(format!("agent-{host}")));
        Running::spawn(host, command.stdout(Stdio::null()).stderr(log))
    }

    /// A `riptrace` command that talks to the server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.riptrace);
        command.args(arguments).env("RIPTRACE_SERVER", &self.server_url);
        command
    }

    /// Waits until each service has a process that can be traced.
    pub(crate) fn wait_for_services(&self, wanted: &[&str], within: Duration) -> Result<()> {
        #[derive(Deserialize)]
        struct Service {
            name: String,
        }
        let begin = Instant::now();
        loop {
            let text = sh::output(&mut self.command(&["services", "--json"]))?;
            let services: Vec<Service> = json_lines(&text)?;
            let missing: Vec<_> =
                wanted.iter().filter(|name| !services.iter().any(|service| service.name == **name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > within {
                bail!("the services {missing:?} are not there after {} s", within.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Makes a session with these tracepoints; gives its id once all of them are armed.
    pub(crate) fn session(&self, points: &[Point], within: Duration) -> Result<String> {
        #[derive(Deserialize)]
        struct Session {
            id: String,
        }
        let text = sh::output(&mut self.command(&["session", "create", "--name", "orders", "--json"]))?;
        let session: Session = serde_json::from_str(&text)?;
        for point in points {
            let mut arguments = vec!["session", "add", &session.id, point.service, &point.location];
            arguments.extend(point.capture.iter().flat_map(|name| ["--capture", name]));
            sh::run(self.command(&arguments).stdout(Stdio::null()))?;
        }
        let begin = Instant::now();
        loop {
            let text = sh::output(&mut self.command(&["session", "show", &session.id, "--json"]))?;
            let status: serde_json::Value = serde_json::from_str(&text)?;
            let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
            let armed = hosts.iter().filter(|host| host["state"]["status"] == "armed").count();
            if armed >= points.len() {
                return Ok(session.id);
            }
            if begin.elapsed() > within {
                bail!("only {armed} of {} tracepoints are armed: {status:#}", points.len());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The final hits of a session, in their order, once there are hits of so many traces' last line and no more come.
    pub(crate) fn story(&self, session: &str, traces: usize) -> Result<Vec<StoryHit>> {
        let begin = Instant::now();
        loop {
            let hits = self.hits(&[session])?;
            let is_final = hits.iter().all(|hit| hit.finality == "final");
            let ended = hits.iter().filter(|hit| hit.service == "orders").count();
            if is_final && ended >= traces {
                return Ok(hits);
            }
            if begin.elapsed() > STORY_WITHIN {
                bail!("{ended} of {traces} orders are in the story, final: {is_final}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Fleet<'_> {
    /// What `riptrace story` tells of a session or of a part of it.
    pub(crate) fn hits(&self, arguments: &[&str]) -> Result<Vec<StoryHit>> {
        let output = self.command(&["story", "--json"]).args(arguments).stderr(Stdio::inherit()).output()?;
        if !output.status.success() && output.status.code() != Some(NO_HIT) {
            bail!("riptrace story {arguments:?} failed: {}", output.status);
        }
        json_lines(&String::from_utf8_lossy(&output.stdout))
    }
}

/// The lines that the demo's sources mark, and what is worth seeing there.
pub(crate) fn marked_tracepoints() -> Result<Vec<Point>> {
    let marked = |service, file: &str, capture| {
        let line = marked_line(&sh::root().join("demo").join(file))?;
        Ok::<_, anyhow::Error>(Point { service, location: format!("{file}:{line}"), capture })
    };
    Ok(vec![
        marked("inventory", "inventory/warehouse.go", &["reservation"][..])?,
        marked("payments", "payments/ledger.go", &["charge"])?,
        marked("orders", "orders/handler.go", &["order", "remaining", "scarce", "err"])?,
    ])
}

/// The line that a source file of the demo marks.
pub(crate) fn marked_line(file: &Path) -> Result<usize> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let index = text.lines().position(|line| line.contains("// tracepoint:"));
    index.map(|index| index + 1).with_context(|| format!("{} marks no line", file.display()))
}

fn json_lines<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

//! Three services of one Go program (`services/chain`) that print each step of each request with the steps that it
//! directly follows: the true partial order, whatever the clocks say.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{OnceLock, mpsc::Receiver},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use riptrace_common::wire::{api::StoredHit, event::Hit, number::Scalar};
use serde::Deserialize;
use serde_json::Value;

use crate::{go::target_dir, output};

/// A step, as a service printed it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Step {
    /// Its name; unique in all services.
    pub name: String,
    /// The steps that it directly follows.
    pub after: Option<Vec<String>>,
    /// The request's trace id.
    pub trace: String,
    /// The request's number.
    pub work: i64,
}

/// Builds the program, once.
pub fn program() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("services/chain")
}

fn build() -> Result<PathBuf> {
    let output = target_dir()?.join("fixtures/chain");
    // Another test program may build it at the same time: each has a file of its own, and the last one stays.
    let own = output.with_extension(std::process::id().to_string());
    fs::create_dir_all(output.parent().context("a folder")?)?;
    let mut command = Command::new("go");
    command.current_dir(source()).args(["build", "-o"]).arg(&own).arg(".");
    ensure!(command.status()?.success(), "services/chain can't be built");
    fs::rename(&own, &output)?;
    Ok(output)
}

/// The location at which every step is seen, in every service.
pub fn location() -> Result<String> {
    let text = fs::read_to_string(source().join("main.go"))?;
    let line = text.lines().position(|line| line.contains("//probe:step")).context("no marked line")?;
    Ok(format!("chain/main.go:{}", line + 1))
}

/// One of the three services.
#[derive(Debug)]
pub struct Service {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Where it listens.
    pub url: String,
    steps: Vec<Step>,
}

impl Service {
    /// Starts one. `name` becomes its `OTEL_SERVICE_NAME`.
    pub fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new(program()?)
            .args(arguments)
            .env("OTEL_SERVICE_NAME", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no standard output")?;
        let lines = output::lines(output);
        let mut service = Self { child, input, lines, url: String::new(), steps: Vec::new() };
        let listening = service.read_until("listening")?;
        service.url = listening["listening"].as_str().unwrap_or_default().to_owned();
        Ok(service)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets front make its requests, and waits until they are answered.
    pub fn make_requests(&mut self) -> Result<()> {
        self.release()?;
        self.read_until("done").map(drop)
    }

    /// Lets front make its requests, without waiting.
    pub fn release(&mut self) -> Result<()> {
        Ok(self.input.as_mut().context("the service's input is closed")?.write_all(b"\n")?)
    }

    /// Waits until a line has the key.
    pub fn read_until(&mut self, key: &str) -> Result<Value> {
        loop {
            let line =
                self.lines.recv_timeout(Duration::from_secs(120)).context("the service prints nothing")?;
            let value: Value =
                serde_json::from_str(&line).with_context(|| format!("no JSON: {line:.200}"))?;
            if value.get("name").is_some() {
                self.steps.push(serde_json::from_value(value)?);
            } else if value.get(key).is_some() {
                return Ok(value);
            }
        }
    }

    /// Ends it and hands over its steps.
    pub fn end(&mut self) -> Result<Vec<Step>> {
        drop(self.input.take());
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(20)) {
            if line.contains("\"name\"") {
                self.steps.push(serde_json::from_str(&line)?);
            }
        }
        ensure!(self.child.wait()?.success(), "a service failed");
        Ok(std::mem::take(&mut self.steps))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Front, middle and back, connected.
#[derive(Debug)]
pub struct Chain {
    /// Asks both others.
    pub front: Service,
    /// Asks back.
    pub middle: Service,
    /// Asks nobody.
    pub back: Service,
    /// Released when this is dropped.
    _only: OnlyOne,
}

/// The only chain of this machine. Agents look at every process there is, and the services' names are always the same:
/// those of another test would be further instances.
#[derive(Debug)]
pub struct OnlyOne(#[expect(dead_code, reason = "open, it holds the lock")] File);

impl OnlyOne {
    /// Waits for its turn.
    pub fn wait() -> Result<Self> {
        let file = File::create(std::env::temp_dir().join("riptrace-test-chain.lock"))?;
        file.lock()?;
        Ok(Self(file))
    }
}

impl Chain {
    /// Starts all three. Front makes so many requests each time it is told to.
    pub fn start(requests: usize) -> Result<Self> {
        Self::start_as(OnlyOne::wait()?, requests)
    }

    /// The same, where it had to be the only one before.
    pub fn start_as(only: OnlyOne, requests: usize) -> Result<Self> {
        let back = Service::start("back", &["-role", "back"])?;
        let middle = Service::start("middle", &["-role", "middle", "-back", &back.url])?;
        let requests = requests.to_string();
        let arguments =
            ["-role", "front", "-middle", &middle.url, "-back", &back.url, "-requests", &requests];
        let front = Service::start("front", &arguments)?;
        Ok(Self { front, middle, back, _only: only })
    }

    /// Ends all three and hands over their steps. Another chain begins when this is dropped: agents may look at all that
    /// there is until then.
    pub fn end(&mut self) -> Result<Vec<Step>> {
        let mut steps = self.front.end()?;
        steps.extend(self.middle.end()?);
        steps.extend(self.back.end()?);
        Ok(steps)
    }
}

/// The name of the step that a hit at [`location`] saw.
pub fn step_name(hit: &Hit) -> Result<String> {
    let step =
        hit.variables.iter().find(|variable| &*variable.name == "step").context("no variable `step`")?;
    let fields = step.value.elem.as_ref().context("the step was not followed")?.fields.as_ref();
    let name = fields.and_then(|fields| fields.iter().find(|field| &*field.name == "Name"));
    match name.map(|name| &name.value.value) {
        Some(Some(Scalar::Text(text))) => Ok(text.clone()),
        other => bail!("the step's name is {other:?}"),
    }
}

/// The names of a story's steps, in its order.
pub fn step_names(story: &[StoredHit]) -> Result<Vec<String>> {
    story.iter().map(|stored| step_name(&stored.hit)).collect()
}

/// Fails unless the names are those of the steps, each once, and each stands behind all that it follows.
pub fn check_order(steps: &[Step], names: &[String]) -> Result<()> {
    let mut places = HashMap::new();
    for (place, name) in names.iter().enumerate() {
        if let Some(first) = places.insert(name.as_str(), place) {
            bail!("{name} is in the story at {first} and at {place}");
        }
    }
    ensure!(names.len() == steps.len(), "{} steps are in the story, {} were made", names.len(), steps.len());
    for step in steps {
        let place =
            places.get(step.name.as_str()).with_context(|| format!("{} is not in the story", step.name))?;
        for before in step.after.iter().flatten() {
            let earlier =
                places.get(before.as_str()).with_context(|| format!("{before} is not in the story"))?;
            ensure!(earlier < place, "{} stands before {before}, which it follows", step.name);
        }
    }
    Ok(())
}

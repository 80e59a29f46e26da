//! A real nats-server with JetStream in a folder of its own, on a port of its own, for as long as a test needs it; and the
//! fleet's messages over it, as any other client sends them.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::{
    Client,
    jetstream::{self, consumer::pull, stream},
};
use futures::StreamExt;
use riptrace_common::wire::{
    batch::{Batch, Heartbeat},
    message::{self, PageRequest, Reply},
    subject::{Endpoint, Subjects},
};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;

use crate::{go::target_dir, requirements, riptrace::send_signal};

/// How long a server may take to start or to answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program: `RIPTRACE_NATS_SERVER`, or one on `PATH`, or `target/tools/bin/nats-server`.
#[must_use]
pub fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("RIPTRACE_NATS_SERVER") {
        return Some(path.into());
    }
    let folders = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let tools = target_dir().ok().map(|target| target.join("tools/bin"));
    let candidates = folders.into_iter().flatten().chain(tools).map(|folder| folder.join("nats-server"));
    candidates.into_iter().find(|path| path.is_file())
}

/// Whether there is one. If not: says that `test` is left out, or fails under `CI=true`.
#[must_use]
pub fn is_there(test: &str) -> bool {
    if program().is_some() {
        return true;
    }
    requirements::leave_out(test, "there is no nats-server; `cargo xtask setup` installs one");
    false
}

/// A running server. It is killed when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    folder: TempDir,
    port: u16,
    /// Lines of its settings beside those that every one has.
    settings: String,
}

impl NatsServer {
    /// Starts one.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// Starts one with more lines in its settings.
    pub fn start_with(settings: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("riptrace-nats-")?;
        // Between here and the server's own bind somebody else may take the port: then another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let mut child = spawn(folder.path(), port, settings)?;
            if wait_for(&mut child, port)? {
                return Ok(Self { child, folder, port, settings: settings.to_owned() });
            }
        }
        bail!("no nats-server would start:\n{}", log(folder.path()))
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        log(self.folder.path())
    }

    /// Kills it without a word.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops or resumes it.
    pub fn signal(&self, signal: i32) -> Result<()> {
        send_signal(self.child.id(), signal)
    }

    /// Starts it again on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.folder.path(), self.port, &self.settings)?;
        ensure!(wait_for(&mut self.child, self.port)?, "nats-server does not start again:\n{}", self.log());
        Ok(())
    }

    /// A client of it.
    pub async fn connect(&self) -> Result<Peer> {
        Peer::connect(&self.url(), Subjects::default()).await
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, port: u16, settings: &str) -> Result<Child> {
    let program = program().context("there is no nats-server")?;
    let data = folder.join("data");
    let file = folder.join("nats.conf");
    let text = format!(
        "host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: {:?} }}\n{settings}\n",
        data.display().to_string()
    );
    fs::write(&file, text)?;
    let output = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    Command::new(program)
        .arg("--config")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("failed to start nats-server")
}

/// Whether it listens; false: it ended.
fn wait_for(child: &mut Child, port: u16) -> Result<bool> {
    let begin = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        ensure!(begin.elapsed() < PATIENCE, "nats-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Another program on this port would not be ours.
    Ok(child.try_wait()?.is_none())
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// A client of the fleet's protocol.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The connection.
    pub client: Client,
    /// The fleet's subjects.
    pub subjects: Subjects,
}

impl Peer {
    /// Connects.
    pub async fn connect(url: &str, subjects: Subjects) -> Result<Self> {
        Ok(Self { client: async_nats::connect(url).await?, subjects })
    }

    /// Makes the stream that keeps what agents publish, as a server does.
    pub async fn create_stream(&self) -> Result<()> {
        let config = stream::Config {
            name: self.subjects.stream_name(),
            subjects: vec![self.subjects.of_all(Endpoint::Trace), self.subjects.server_order()],
            ..stream::Config::default()
        };
        jetstream::new(self.client.clone()).create_stream(config).await?;
        Ok(())
    }

    /// The text of a reply.
    pub async fn ask_text(&self, host: &str, endpoint: Endpoint, request: Vec<u8>) -> Result<Vec<u8>> {
        let subject = self.subjects.of(host, endpoint)?;
        let reply = self.client.request(subject, request.into()).await?;
        Ok(reply.payload.to_vec())
    }

    /// Asks an agent; long replies are put together of their pages.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        host: &str,
        endpoint: Endpoint,
        request: &Q,
    ) -> Result<Result<A, message::Error>> {
        #[derive(Serialize)]
        struct More {
            page: PageRequest,
        }
        let mut text = self.ask_text(host, endpoint, message::write(request)?).await?;
        let mut whole = String::new();
        loop {
            let reply: Reply<A> = serde_json::from_slice(&text)
                .with_context(|| format!("no reply: {:.300}", String::from_utf8_lossy(&text)))?;
            if let Some(error) = reply.error {
                return Ok(Err(error));
            }
            if let Some(ok) = reply.ok {
                return Ok(Ok(ok));
            }
            let page = reply.page.context("a reply with nothing in it")?;
            whole += &page.text;
            if page.index + 1 >= page.count {
                return Ok(Ok(serde_json::from_str(&whole)?));
            }
            let more = More { page: PageRequest { id: page.id, index: page.index + 1 } };
            text = self.ask_text(host, endpoint, message::write(&more)?).await?;
        }
    }

    /// Waits until an agent answers at all.
    pub async fn wait_for_agent(&self, host: &str) -> Result<()> {
        let begin = Instant::now();
        let request = br#"{"v":1}"#.to_vec();
        while self.ask_text(host, Endpoint::ListTracepoints, request.clone()).await.is_err() {
            ensure!(begin.elapsed() < PATIENCE, "no agent answers as {host}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Heartbeats of a host from now on.
    pub async fn heartbeats(&self, host: &str) -> Result<Heartbeats> {
        let subject = self.subjects.of(host, Endpoint::Heartbeat)?;
        Ok(Heartbeats(self.client.subscribe(subject).await?))
    }

    /// Every batch that the stream holds, in its order.
    pub async fn stored(&self) -> Result<Vec<Batch>> {
        let context = jetstream::new(self.client.clone());
        let mut stream = context.get_stream(self.subjects.stream_name()).await?;
        let messages = stream.info().await?.state.messages;
        let consumer = stream.create_consumer(pull::Config::default()).await?;
        let mut batches = Vec::new();
        let mut left = messages;
        while left > 0 {
            let mut some = consumer.fetch().max_messages(usize::try_from(left.min(200))?).messages().await?;
            while let Some(stored) = some.next().await {
                let stored = stored.map_err(|error| anyhow::anyhow!("{error}"))?;
                left -= 1;
                if stored.subject.ends_with(Endpoint::Trace.suffix()) {
                    batches.push(message::read(&stored.payload)?);
                }
            }
        }
        Ok(batches)
    }
}

/// Heartbeats as they come.
#[derive(Debug)]
pub struct Heartbeats(async_nats::Subscriber);

impl Heartbeats {
    /// The next one that fits.
    pub async fn wait_for(&mut self, what: &str, fits: impl Fn(&Heartbeat) -> bool) -> Result<Heartbeat> {
        let mut last = None;
        let found = async {
            while let Some(heard) = self.0.next().await {
                let heartbeat: Heartbeat = message::read(&heard.payload)?;
                if fits(&heartbeat) {
                    return Ok(heartbeat);
                }
                last = Some(heartbeat);
            }
            bail!("the connection ended")
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => bail!("no heartbeat with {what}; the last one: {last:?}"),
        }
    }
}

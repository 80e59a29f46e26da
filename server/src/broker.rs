//! A private `nats-server` with JetStream, for who has no broker: found, started in the data folder, watched, restarted.
//!
//! It listens on the loopback address only. When this server is killed, the broker stays and goes on taking what agents
//! publish; the next server in the same data folder finds it by its pid file and takes it over.

use std::{
    ffi::{OsStr, OsString},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

/// The variable that names the program.
pub const PROGRAM_VARIABLE: &str = "RIPTRACE_NATS_SERVER";

/// Bytes of a message at the most: a hit may have 1 MiB, and a batch has at least one.
const MAX_PAYLOAD_BYTES: u64 = 8 << 20;

/// Bytes of its log file, after which a new one is begun.
const MAX_LOG_BYTES: u64 = 8 << 20;

/// How long it may take until it answers, or until it ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pauses between its restarts, doubled from the first to the last.
const RESTART_PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];

/// How often one that was taken over is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Why there is no private broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The program is nowhere.
    #[error(
        "there is no broker: nats-server was not found ({PROGRAM_VARIABLE}, PATH, tools/bin beside this program); \
         install it (2.11 or newer, https://nats.io/download), `cargo xtask setup`, or name a broker with --nats URL"
    )]
    NotFound,
    /// A file of it.
    #[error("the private broker's {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not start.
    #[error("{} does not start: {reason}; its log is {}", program.display(), log.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The port is taken.
    #[error(
        "port {port} of 127.0.0.1, which the private broker should listen on, is taken; give another --nats-port"
    )]
    Port {
        /// Which.
        port: u16,
    },
}

/// A private broker that runs.
#[derive(Debug)]
pub struct Private {
    port: u16,
    stop: watch::Sender<bool>,
    supervisor: JoinHandle<()>,
}

impl Private {
    /// Finds the program and starts it; or takes over one that an earlier server left behind.
    ///
    /// # Errors
    ///
    /// See [`BrokerError`].
    pub async fn start(data: &Path, port: Option<u16>) -> Result<Self, BrokerError> {
        let program = find(
            std::env::var_os(PROGRAM_VARIABLE),
            std::env::var_os("PATH").as_deref(),
            std::env::current_exe().ok().as_deref(),
        )
        .ok_or(BrokerError::NotFound)?;
        let files = Files::new(program, &data.join("nats"))?;
        let known = files.known_port().filter(|known| port.is_none_or(|port| port == *known));
        let left = match known {
            Some(known) if files.left_behind().is_some() && answers(known).await => Some(known),
            _ => None,
        };
        let (port, process) = match left {
            Some(port) => {
                tracing::info!(port, "took over the private broker that an earlier server left behind");
                (port, Process::TakenOver)
            }
            None => {
                files.end_left_behind().await;
                let port = choose_port(port, files.known_port())?;
                files.write_settings(port)?;
                (port, Process::Own(files.spawn(port).await?))
            }
        };
        let (stop, stopped) = watch::channel(false);
        let supervisor = tokio::spawn(supervise(files, port, process, stopped));
        Ok(Self { port, stop, supervisor })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends it in good order.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "the private broker's supervisor failed");
        }
    }
}

/// Where the program is.
fn find(variable: Option<OsString>, path: Option<&OsStr>, this: Option<&Path>) -> Option<PathBuf> {
    if let Some(given) = variable.filter(|given| !given.is_empty()) {
        return Some(PathBuf::from(given)).filter(|program| program.is_file());
    }
    let on_path = path.into_iter().flat_map(std::env::split_paths).map(|folder| folder.join("nats-server"));
    // `target/debug/riptrace-server` finds `target/tools/bin`, an installed one what stands beside it.
    let beside = this
        .into_iter()
        .flat_map(|this| this.ancestors().skip(1).take(3))
        .flat_map(|folder| [folder.join("nats-server"), folder.join("tools/bin/nats-server")]);
    on_path.chain(beside).find(|program| program.is_file())
}

fn choose_port(given: Option<u16>, known: Option<u16>) -> Result<u16, BrokerError> {
    let free = |port: u16| {
        let bound = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        bound.and_then(|listener| listener.local_addr()).map(|address| address.port())
    };
    if let Some(port) = given.filter(|port| *port != 0) {
        return free(port).map_err(|_| BrokerError::Port { port });
    }
    // Agents know the port that it had before.
    if let Some(port) = known.and_then(|known| free(known).ok()) {
        return Ok(port);
    }
    free(0).map_err(|_| BrokerError::Port { port: 0 })
}

async fn answers(port: u16) -> bool {
    let connecting = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    tokio::time::timeout(Duration::from_secs(2), connecting).await.is_ok_and(|stream| stream.is_ok())
}

/// The program and its files.
#[derive(Debug)]
struct Files {
    program: PathBuf,
    settings: PathBuf,
    pid: PathBuf,
    port: PathBuf,
    log: PathBuf,
    store: PathBuf,
}

enum Process {
    Own(Child),
    TakenOver,
}

impl Files {
    fn new(program: PathBuf, folder: &Path) -> Result<Self, BrokerError> {
        let failed = |source| BrokerError::File { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        // The path is compared with a process's arguments, which must not depend on the working folder.
        let folder = folder.canonicalize().map_err(failed)?;
        Ok(Self {
            program,
            settings: folder.join("nats.conf"),
            pid: folder.join("nats.pid"),
            port: folder.join("port"),
            log: folder.join("nats-server.log"),
            store: folder.join("jetstream"),
        })
    }

    fn known_port(&self) -> Option<u16> {
        std::fs::read_to_string(&self.port).ok()?.trim().parse().ok().filter(|port| *port != 0)
    }

    /// The pid of one that was started with these settings and still runs.
    fn left_behind(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let settings = self.settings.as_os_str().as_encoded_bytes();
        arguments.split(|byte| *byte == 0).any(|argument| argument == settings).then_some(pid)
    }

    fn write_settings(&self, port: u16) -> Result<(), BrokerError> {
        let text = settings(port, &self.pid, &self.log, &self.store);
        let write = |path: &Path, text: &str| {
            std::fs::write(path, text).map_err(|source| BrokerError::File { path: path.to_owned(), source })
        };
        write(&self.settings, &text)?;
        write(&self.port, &format!("{port}\n"))
    }

    /// Starts it and waits until it answers.
    async fn spawn(&self, port: u16) -> Result<Child, BrokerError> {
        let failed = |reason: String| BrokerError::Start {
            program: self.program.clone(),
            reason,
            log: self.log.clone(),
        };
        let mut child = Command::new(&self.program)
            .arg("-c")
            .arg(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal is for this server, which then ends the broker last.
            .process_group(0)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let begin = Instant::now();
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(failed(format!("it ended at once ({status})")));
            }
            if answers(port).await {
                return Ok(child);
            }
            if begin.elapsed() > PATIENCE {
                return Err(failed(format!(
                    "it did not listen on port {port} within {} s",
                    PATIENCE.as_secs()
                )));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks the one of the pid file to end, by the program's own means.
    async fn signal_end(&self) {
        let mut argument = OsString::from("quit=");
        argument.push(&self.pid);
        let asked = Command::new(&self.program)
            .arg("--signal")
            .arg(argument)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if let Err(error) = asked {
            tracing::warn!(%error, "the private broker could not be asked to end");
        }
    }

    async fn end_left_behind(&self) {
        if self.left_behind().is_none() {
            return;
        }
        self.signal_end().await;
        let begin = Instant::now();
        while self.left_behind().is_some() && begin.elapsed() < PATIENCE {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The broker's settings file.
fn settings(port: u16, pid: &Path, log: &Path, store: &Path) -> String {
    // NATS' format takes JSON's strings.
    let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
    format!(
        "# Written by riptrace-server at each start.\n\
         listen: \"127.0.0.1:{port}\"\n\
         server_name: \"riptrace-private\"\n\
         pid_file: {}\n\
         log_file: {}\n\
         log_size_limit: {MAX_LOG_BYTES}\n\
         max_payload: {MAX_PAYLOAD_BYTES}\n\
         jetstream {{ store_dir: {} }}\n",
        quoted(pid),
        quoted(log),
        quoted(store),
    )
}

async fn supervise(files: Files, port: u16, mut process: Process, mut stop: watch::Receiver<bool>) {
    let mut pause = RESTART_PAUSE[0];
    loop {
        let begin = Instant::now();
        tokio::select! {
            () = ended(&files, &mut process) => {}
            () = asked(&mut stop) => return end(&files, process).await,
        }
        tracing::error!(log = %files.log.display(), "the private broker ended; it is started again");
        if begin.elapsed() > RESTART_PAUSE[1] {
            pause = RESTART_PAUSE[0];
        }
        process = loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = asked(&mut stop) => return,
            }
            pause = (pause * 2).min(RESTART_PAUSE[1]);
            match files.spawn(port).await {
                Ok(child) => break Process::Own(child),
                Err(error) => tracing::error!(%error, "the private broker does not come back; trying again"),
            }
        };
    }
}

/// Waits until the server wants it to end.
async fn asked(stop: &mut watch::Receiver<bool>) {
    // An error means that the server's side is gone: then too.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn ended(files: &Files, process: &mut Process) {
    match process {
        Process::Own(child) => {
            if let Err(error) = child.wait().await {
                tracing::error!(%error, "waiting for the private broker failed");
            }
        }
        Process::TakenOver => {
            while files.left_behind().is_some() {
                sleep(LOOK).await;
            }
        }
    }
}

async fn end(files: &Files, mut process: Process) {
    files.signal_end().await;
    if tokio::time::timeout(PATIENCE, ended(files, &mut process)).await.is_ok() {
        return;
    }
    tracing::warn!("the private broker did not end by itself");
    if let Process::Own(mut child) = process
        && let Err(error) = child.kill().await
    {
        tracing::error!(%error, "the private broker could not be ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_where_it_is_told_then_on_the_path_then_beside() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let (told, on_path) = (make("told"), make("bin/nats-server"));
        let (beside, this) = (make("target/tools/bin/nats-server"), make("target/debug/riptrace-server"));
        let path = on_path.parent().map(Path::as_os_str);
        let told_text = Some(told.clone().into_os_string());
        assert_eq!(find(told_text, path, Some(&this)), Some(told));
        assert_eq!(find(None, path, Some(&this)), Some(on_path));
        assert_eq!(find(None, None, Some(&this)), Some(beside));
        assert_eq!(find(None, None, None), None);
        let wrong = Some(OsString::from("/nowhere/nats-server"));
        assert_eq!(find(wrong, None, Some(&this)), None, "what is told and wrong is not passed over");
    }

    #[test]
    fn paths_in_the_settings_are_quoted() {
        let path = Path::new("/a \"b\"/c");
        let text = settings(4222, path, path, path);
        assert!(text.contains(r#"pid_file: "/a \"b\"/c""#), "{text}");
    }
}

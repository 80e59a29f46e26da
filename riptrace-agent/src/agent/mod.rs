//! The node agent: takes tracepoints from a server over NATS, holds them on the processes of this host, and publishes what
//! they see.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`owner`] | the one thread that owns the tracer: which tracepoint is armed where, from records to batches |
//! | [`endpoints`] | requests: what is asked of the owner, of programs, of `/proc` |
//! | [`catalogue`], [`builds`] | the Go processes here; their programs, indexed off the owner's thread |
//! | `tracepoint`, [`follow`], [`options`], [`numbering`], [`batch`], [`stamp`], [`policy`] | pure: states, checks, numbers, messages |
//! | [`clock`], [`heartbeat`] | exchanges of timestamps; what the agent holds and has counted, once a second: on a thread and a connection of their own |
//! | [`processes`] | processes that begin and end, as the kernel tells |
//! | [`upkeep`] | what is done again and again and may take its time |

pub mod batch;
pub mod builds;
pub mod catalogue;
pub mod clock;
pub mod endpoints;
pub mod facts;
pub mod follow;
pub mod heartbeat;
pub mod notes;
pub mod numbering;
pub mod options;
pub mod owner;
pub mod policy;
pub mod processes;
pub mod settings;
pub mod shared;
pub mod stamp;
mod tracepoint;
pub mod upkeep;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::Client;
use riptrace_common::wire::subject::{Endpoint, SubjectError};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{
    builds::Builds,
    catalogue::Catalogue,
    endpoints::Endpoints,
    facts::Identity,
    heartbeat::Heart,
    notes::Notes,
    owner::{Owner, Surroundings},
    settings::{FINISH_WITHIN, Settings},
    shared::Shared,
    stamp::Clock,
    upkeep::Upkeep,
};
use crate::nats::{
    connection::{self, ConnectionError},
    publish::{self, Outbox},
    service,
};

/// Threads for requests and publishing; the owner and the clock have their own.
const WORKER_THREADS: usize = 2;
/// Threads that read `/proc` and look into programs.
const MAX_BLOCKING_THREADS: usize = 8;
/// How often the outbox is looked at when the agent ends.
const FINISH_POLL: Duration = Duration::from_millis(10);
/// The exit code of a second signal, as `riptrace probe` has it.
const SECOND_SIGNAL: i32 = 130;

/// Why an agent can't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host's name can't be part of a subject.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The broker's settings make no sense.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The state folder can't be used.
    #[error("cannot use the state folder {}: {source}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system refused threads or signals.
    #[error("the agent can't start: {0}")]
    System(#[from] io::Error),
    /// The client refused.
    #[error("the agent can't answer requests: {0}")]
    Service(async_nats::Error),
}

/// Runs until SIGTERM or SIGINT; everything is removed then.
///
/// # Errors
///
/// The settings make no sense, or the system refuses threads. A broker that can't be reached is no error.
pub fn run(settings: &Settings) -> Result<(), AgentError> {
    let identity = Identity::read(settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("riptrace-io")
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(settings, &identity));
    // What still reads a program is not waited for.
    runtime.shutdown_background();
    result
}

async fn serve(settings: &Settings, identity: &Identity) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let host = identity.host.host.as_str();
    let agent = identity.host.agent.clone();
    let notes = Notes::open(settings.state.as_deref(), &agent)
        .map_err(|source| AgentError::State { path: settings.state.clone().unwrap_or_default(), source })?;
    let notes = Arc::new(notes);
    let subject = |endpoint| settings.subjects.of(host, endpoint);
    let name = format!("riptrace-agent {host}");

    let (connected_sender, connected) = watch::channel(false);
    let client = connection::connect(&settings.nats, &name, connected_sender).await?;
    let clock = Arc::new(Clock::default());
    let vital = vital_runtime()?;
    let (vital_client, vital_connected) = connect_vital(&vital, settings, host).await?;
    keep_clock(&vital, vital_client.clone(), settings, identity, Arc::clone(&clock))?;

    let (shared, commands) = Shared::new();
    let (outbox, queue) = Outbox::new(settings.queue_bytes);
    let runtime = Handle::current();
    let told = Arc::clone(&shared);
    let builds =
        Builds::new(runtime, catalogue::cache_of(settings), Arc::clone(&settings.redaction), move || {
            told.tell(|news| news.indexed = true);
        });
    let catalogue = Arc::new(Mutex::new(Catalogue::new(settings)));
    let around = Surroundings {
        shared: Arc::clone(&shared),
        builds: Arc::clone(&builds),
        outbox: Arc::clone(&outbox),
        clock,
        notes: Arc::clone(&notes),
    };
    let owner = Owner::new(settings, identity, around);
    let owner = std::thread::Builder::new()
        .name(String::from("riptrace-owner"))
        .spawn(move || owner.run(&commands))?;

    tokio::spawn(publish::run(
        Arc::clone(&outbox),
        queue,
        client.clone(),
        subject(Endpoint::Trace)?,
        connected.clone(),
    ));
    let endpoints = Endpoints::new(
        settings,
        identity,
        client.clone(),
        Arc::clone(&shared),
        Arc::clone(&catalogue),
        Arc::clone(&builds),
    );
    let metadata = HashMap::from([
        (String::from("host"), host.to_owned()),
        (String::from("agent"), agent.to_string()),
        (String::from("clock_subject"), subject(Endpoint::ClockSync)?),
        (String::from("trace_subject"), subject(Endpoint::Trace)?),
    ]);
    let answered: Vec<Endpoint> =
        Endpoint::REQUESTS.into_iter().filter(|endpoint| *endpoint != Endpoint::ClockSync).collect();
    let _service = service::serve(
        &client,
        &settings.subjects,
        host,
        agent.as_str(),
        metadata,
        &answered,
        Arc::clone(&endpoints) as _,
    )
    .await
    .map_err(AgentError::Service)?;
    let told = Arc::clone(&endpoints);
    tokio::spawn(async move {
        if let Err(error) = processes::watch(told).await {
            tracing::warn!(%error, "the kernel does not tell of processes that begin; they are looked for instead");
        }
    });
    let previous_run = notes.previous().pop();
    let heart = Heart::new(
        identity,
        vital_client,
        subject(Endpoint::Heartbeat)?,
        Arc::clone(&shared),
        Arc::clone(&outbox),
        Arc::clone(&endpoints),
        vital_connected,
    )
    .telling_of(previous_run);
    let heart = Arc::new(heart);
    vital.spawn(Arc::clone(&heart).beat());
    let upkeep = Arc::new(Upkeep { endpoints, shared, outbox, notes });
    let keeping = tokio::spawn(Arc::clone(&upkeep).run());
    tracing::info!(host, %agent, "serving");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The kernel removes every trap with the process.
        std::process::exit(SECOND_SIGNAL);
    });
    keeping.abort();
    finish(&heart, &upkeep, owner).await;
    Ok(())
}

/// A thread of its own for what must not wait for anything else that the agent does: without it the server takes the agent for
/// silent, and its clock for worse than it is.
fn vital_runtime() -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name(String::from("riptrace-vital"))
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// A connection that is kept there: what is sent on it is not behind batches.
async fn connect_vital(
    vital: &Handle,
    settings: &Settings,
    host: &str,
) -> Result<(Client, watch::Receiver<bool>), AgentError> {
    let (nats, name) = (settings.nats.clone(), format!("riptrace-agent {host} clock"));
    let (sender, connected) = watch::channel(false);
    let connecting = vital.spawn(async move { connection::connect(&nats, &name, sender).await });
    Ok((connecting.await.map_err(io::Error::other)??, connected))
}

/// Exchanges of timestamps are answered there.
fn keep_clock(
    vital: &Handle,
    client: Client,
    settings: &Settings,
    identity: &Identity,
    clock: Arc<Clock>,
) -> Result<(), AgentError> {
    let subject = settings.subjects.of(&identity.host.host, Endpoint::ClockSync)?;
    let (agent, boot_id) = (identity.host.agent.clone(), identity.host.boot_id.clone());
    vital.spawn(async move {
        if let Err(error) = clock::answer(client, subject, agent, boot_id, clock).await {
            tracing::error!(%error, "exchanges of timestamps are not answered any more");
        }
    });
    Ok(())
}

/// Removes everything, sends what was recorded, and says goodbye.
async fn finish(heart: &Heart, upkeep: &Arc<Upkeep>, owner: std::thread::JoinHandle<()>) {
    let deadline = tokio::time::Instant::now() + FINISH_WITHIN;
    let shared = heart.shared();
    let stopped = tokio::task::spawn_blocking(move || {
        shared.stop();
        owner.join().is_ok()
    });
    match tokio::time::timeout_at(deadline, stopped).await {
        Ok(Ok(true)) => {}
        _ => tracing::error!("the tracer did not end as it should; the kernel removes what is left"),
    }
    while heart.waiting_batches() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(FINISH_POLL).await;
    }
    let lost = heart.waiting_hits();
    if lost > 0 {
        tracing::warn!(hits = lost, "the broker did not take all hits before the end");
    }
    let goodbye = async {
        // What the broker did not take is told of by the next run.
        upkeep.note(heart.waiting_batches() == 0).await;
        heart.end().await;
        heart.flush().await;
    };
    if tokio::time::timeout_at(deadline, goodbye).await.is_err() {
        tracing::debug!("the last heartbeat was not sent");
    }
}

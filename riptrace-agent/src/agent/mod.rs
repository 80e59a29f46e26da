//! The node agent: takes tracepoints from a server over NATS, holds them on the processes of this host, and publishes what
//! they see.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`owner`] | the one thread that owns the tracer: which tracepoint is armed where, from records to batches |
//! | [`endpoints`] | requests: what is asked of the owner, of programs, of `/proc` |
//! | [`catalogue`], [`builds`] | the Go processes here; their programs, indexed off the owner's thread |
//! | `tracepoint`, [`follow`], [`options`], [`numbering`], [`batch`], [`stamp`], [`policy`] | pure: states, checks, numbers, messages |
//! | [`clock`] | exchanges of timestamps, on a thread and a connection of their own |
//! | [`processes`] | processes that begin and end, as the kernel tells |
//! | [`heartbeat`] | what the agent holds and has counted, once a second |

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

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use riptrace_common::wire::subject::{Endpoint, SubjectError};
use tokio::{
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
};
use crate::nats::{
    connection::{self, ConnectionError},
    publish::{self, Outbox},
    service,
};

/// Threads for requests and publishing; the owner and the clock have their own.
const WORKER_THREADS: usize = 2;
/// Threads that read programs and `/proc`.
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
    keep_clock(settings, identity, Arc::clone(&clock))?;

    let (shared, commands) = Shared::new();
    let (outbox, queue) = Outbox::new(settings.queue_bytes);
    let runtime = tokio::runtime::Handle::current();
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
    let heart = Heart::new(
        identity,
        client.clone(),
        subject(Endpoint::Heartbeat)?,
        shared,
        outbox,
        endpoints,
        connected,
    )
    .remembering(notes);
    let heart = Arc::new(heart);
    let beating = tokio::spawn(Arc::clone(&heart).beat());
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
    beating.abort();
    finish(&heart, owner).await;
    Ok(())
}

/// Exchanges of timestamps are answered on a thread of their own.
fn keep_clock(settings: &Settings, identity: &Identity, clock: Arc<Clock>) -> Result<(), AgentError> {
    let host = identity.host.host.clone();
    let subject = settings.subjects.of(&host, Endpoint::ClockSync)?;
    let nats = settings.nats.clone();
    let (agent, boot_id) = (identity.host.agent.clone(), identity.host.boot_id.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(String::from("riptrace-clock")).spawn(move || {
        let answering = async {
            let name = format!("riptrace-agent {host} clock");
            let client = connection::connect(&nats, &name, watch::channel(false).0).await?;
            clock::answer(client, subject, agent, boot_id, clock).await
        };
        if let Err(error) = runtime.block_on(answering) {
            tracing::error!(%error, "exchanges of timestamps are not answered any more");
        }
    })?;
    Ok(())
}

/// Removes everything, sends what was recorded, and says goodbye.
async fn finish(heart: &Heart, owner: std::thread::JoinHandle<()>) {
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
        heart.end().await;
        heart.flush().await;
    };
    if tokio::time::timeout_at(deadline, goodbye).await.is_err() {
        tracing::debug!("the last heartbeat was not sent");
    }
}

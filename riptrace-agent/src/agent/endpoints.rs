//! Requests: what is asked of the owner, of programs and of `/proc`.

mod programs;
mod source;
mod tracepoints;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_nats::Client;
use bytes::Bytes;
use futures::future::BoxFuture;
use riptrace_common::wire::{
    control::ListTracepoints,
    message::{Error, ErrorCode},
    profile::{HostFacts, Profile, ProfileRequest},
    subject::Endpoint,
};

use super::{
    builds::Builds,
    catalogue::{Catalogue, Snapshot},
    facts::Identity,
    policy::Policy,
    processes::Heard,
    settings::Settings,
    shared::Shared,
};
use crate::{
    nats::service::{Answers, Desk, error_text},
    probe::watch::ProcessEvent,
};

/// Answers requests.
#[derive(Debug)]
pub struct Endpoints {
    desk: Desk,
    facts: HostFacts,
    shared: Arc<Shared>,
    /// Held while files are read: only threads that may wait for them take it.
    catalogue: Arc<Mutex<Catalogue>>,
    /// [`Catalogue::revision`], for who may not wait.
    profile_revision: AtomicU64,
    builds: Arc<Builds>,
    policy: Arc<Policy>,
    serves_sources: bool,
    /// The kernel tells of processes that begin and end.
    is_told: AtomicBool,
}

impl Endpoints {
    /// Of this agent.
    #[must_use]
    pub fn new(
        settings: &Settings,
        identity: &Identity,
        client: Client,
        shared: Arc<Shared>,
        catalogue: Arc<Mutex<Catalogue>>,
        builds: Arc<Builds>,
    ) -> Arc<Self> {
        let desk = Desk::new(client, identity.host.agent.as_str());
        Arc::new(Self {
            desk,
            facts: identity.host.clone(),
            shared,
            catalogue,
            profile_revision: AtomicU64::new(0),
            builds,
            policy: Arc::new(settings.policy.clone()),
            serves_sources: settings.serve_sources,
            is_told: AtomicBool::new(false),
        })
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes of the processes. It never waits for who looks at them.
    #[must_use]
    pub fn profile_revision(&self) -> u64 {
        self.profile_revision.load(Ordering::Acquire)
    }

    /// Tells the owner and the next heartbeat that there are other processes.
    fn publish(&self, catalogue: &Catalogue) {
        let snapshot = catalogue.snapshot();
        // Whoever is told looks at it.
        self.profile_revision.store(catalogue.revision(), Ordering::Release);
        self.shared.tell(|news| news.processes = Some(snapshot));
    }

    /// Forgets programs that nobody asked for in a while.
    pub fn forget_unused(&self) {
        self.builds.forget_unused();
    }

    /// From now on the kernel tells of processes that begin and end.
    pub fn is_told_of_processes(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Whether `/proc` has to be looked at again and again.
    #[must_use]
    pub fn has_to_look(&self) -> bool {
        !self.is_told.load(Ordering::Relaxed)
    }

    /// Takes what the kernel told of processes.
    pub async fn heard(self: &Arc<Self>, events: Vec<ProcessEvent>) {
        let this = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || {
            let heard = Heard::of(&events);
            let mut catalogue = this.catalogue();
            let changed = catalogue.hear(&heard) | (heard.look_at_all && catalogue.scan());
            if changed {
                this.publish(&catalogue);
            }
        });
        if let Err(error) = taken.await {
            tracing::error!(%error, "what the kernel told of processes was not taken");
        }
    }

    /// Looks at all processes, and tells the owner if there are others than before.
    pub async fn look_for_processes(self: &Arc<Self>) -> Snapshot {
        self.look().await.0
    }

    /// The same, and how many could not be looked at.
    async fn look(self: &Arc<Self>) -> (Snapshot, u64) {
        let this = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let mut catalogue = this.catalogue();
            if catalogue.scan() {
                this.publish(&catalogue);
            }
            (catalogue.snapshot(), catalogue.unreadable())
        });
        looked.await.unwrap_or_else(|error| {
            tracing::error!(%error, "processes were not looked for");
            (Snapshot::from([]), 0)
        })
    }

    async fn profile(self: Arc<Self>, ProfileRequest {}: ProfileRequest) -> Result<Profile, Error> {
        let (snapshot, unreadable) = self.look().await;
        Ok(Profile {
            host: self.facts.clone(),
            processes: snapshot.iter().map(|known| known.facts.clone()).collect(),
            unreadable,
        })
    }
}

impl Answers for Endpoints {
    fn answer(self: Arc<Self>, endpoint: Endpoint, request: Bytes) -> BoxFuture<'static, Vec<u8>> {
        Box::pin(async move {
            let desk = &self.desk;
            let this = || Arc::clone(&self);
            match endpoint {
                Endpoint::ProfileGet => desk.handle(&request, |body| this().profile(body)).await,
                Endpoint::CreateTracepoint => desk.handle(&request, |body| this().create(body)).await,
                Endpoint::RemoveTracepoint => desk.handle(&request, |body| this().remove(body)).await,
                Endpoint::ListTracepoints => {
                    desk.handle(&request, |ListTracepoints { owner }| this().list(owner)).await
                }
                Endpoint::Attach => desk.handle(&request, |body| this().attach(body)).await,
                Endpoint::Detach => desk.handle(&request, |body| this().detach(body)).await,
                Endpoint::Lines => desk.handle(&request, |body| this().lines(body)).await,
                Endpoint::Functions => desk.handle(&request, |body| this().functions(body)).await,
                Endpoint::Explain => desk.handle(&request, |body| this().explain(body)).await,
                Endpoint::Source => desk.handle(&request, |body| this().source(body)).await,
                Endpoint::ClockSync | Endpoint::Trace | Endpoint::Heartbeat => {
                    let text = format!("{} is not answered here", endpoint.suffix());
                    error_text(Error::new(ErrorCode::Failed, text))
                }
            }
        })
    }
}

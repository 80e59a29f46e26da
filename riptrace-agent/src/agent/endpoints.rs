//! Requests: what is asked of the owner, of programs and of `/proc`.

mod tracepoints;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    settings::Settings,
    shared::Shared,
};
use crate::nats::service::{Answers, Desk};

/// Answers requests.
#[derive(Debug)]
pub struct Endpoints {
    desk: Desk,
    facts: HostFacts,
    shared: Arc<Shared>,
    catalogue: Arc<Mutex<Catalogue>>,
    builds: Arc<Builds>,
}

impl Endpoints {
    /// Of this agent.
    #[must_use]
    pub fn new(
        _settings: &Settings,
        identity: &Identity,
        client: Client,
        shared: Arc<Shared>,
        catalogue: Arc<Mutex<Catalogue>>,
        builds: Arc<Builds>,
    ) -> Arc<Self> {
        let desk = Desk::new(client, identity.host.agent.as_str());
        Arc::new(Self { desk, facts: identity.host.clone(), shared, catalogue, builds })
    }

    fn catalogue(&self) -> MutexGuard<'_, Catalogue> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts changes of the processes.
    #[must_use]
    pub fn profile_revision(&self) -> u64 {
        self.catalogue().revision()
    }

    /// Forgets programs that nobody asked for in a while.
    pub fn forget_unused(&self) {
        self.builds.forget_unused();
    }

    /// Looks at all processes, and tells the owner if there are others than before.
    pub async fn look_for_processes(self: &Arc<Self>) -> Snapshot {
        let this = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            let mut catalogue = this.catalogue();
            if catalogue.scan() {
                let snapshot = catalogue.snapshot();
                this.shared.tell(|news| news.processes = Some(snapshot));
            }
            catalogue.snapshot()
        });
        looked.await.unwrap_or_else(|_| self.catalogue().snapshot())
    }

    async fn profile(self: Arc<Self>, ProfileRequest {}: ProfileRequest) -> Result<Profile, Error> {
        let snapshot = self.look_for_processes().await;
        Ok(Profile {
            host: self.facts.clone(),
            processes: snapshot.iter().map(|known| known.facts.clone()).collect(),
            unreadable: self.catalogue().unreadable(),
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
                other => {
                    let text = format!("{} is not answered here", other.suffix());
                    let refuse =
                        |_: ProfileRequest| async { Err::<Profile, _>(Error::new(ErrorCode::Failed, text)) };
                    desk.handle(&request, refuse).await
                }
            }
        })
    }
}

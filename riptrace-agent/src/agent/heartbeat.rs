//! What the agent holds and has counted, once a second, less often while there is nothing to tell. Sent from the thread that
//! answers exchanges of timestamps, on its connection: an agent that reads files, or whose batches are under way, is not
//! silent. Nothing here waits for a file, or for a lock that is held while one is read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use riptrace_common::wire::{
    batch::{HEARTBEAT_MS, Heartbeat, IDLE_HEARTBEAT_MS, Losses, PreviousRun},
    message,
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    endpoints::Endpoints,
    facts::{Identity, own_usage},
    shared::Shared,
};
use crate::{nats::publish::Outbox, trace::host};

/// Between two heartbeats at least.
const INTERVAL: Duration = Duration::from_millis(HEARTBEAT_MS as u64);

/// Sends heartbeats.
#[derive(Debug)]
pub struct Heart {
    identity: Identity,
    client: Client,
    subject: String,
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    endpoints: Arc<Endpoints>,
    connected: watch::Receiver<bool>,
    /// The last heartbeat.
    last: Mutex<Option<Heartbeat>>,
    /// Whether there will be no more. Held while one is made and sent, so that none comes behind the last.
    ended: AsyncMutex<bool>,
    /// The last run, if it ended without a word.
    previous_run: Option<PreviousRun>,
}

impl Heart {
    /// Of this agent.
    #[must_use]
    pub fn new(
        identity: &Identity,
        client: Client,
        subject: String,
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        endpoints: Arc<Endpoints>,
        connected: watch::Receiver<bool>,
    ) -> Self {
        let identity = identity.clone();
        Self {
            identity,
            client,
            subject,
            shared,
            outbox,
            endpoints,
            connected,
            last: Mutex::default(),
            ended: AsyncMutex::new(false),
            previous_run: None,
        }
    }

    /// The same, which tells of the run before this one.
    #[must_use]
    pub fn telling_of(self, previous_run: Option<PreviousRun>) -> Self {
        // Batches tell of its tracepoints.
        let previous_run = previous_run.map(|run| PreviousRun { tracepoints: Vec::new(), ..run });
        Self { previous_run, ..self }
    }

    /// Beats until the last one was sent.
    pub async fn beat(self: Arc<Self>) {
        let mut connected = self.connected.clone();
        loop {
            let begin = Instant::now();
            let Some(next_ms) = self.beat_once(false).await else { return };
            if next_ms > HEARTBEAT_MS {
                tokio::select! {
                    () = sleep(Duration::from_millis(next_ms.into())) => {}
                    () = self.shared.changed() => {}
                    Ok(()) = connected.changed() => {}
                }
            }
            sleep_until(begin + INTERVAL).await;
        }
    }

    /// Sends the last heartbeat: nothing is open any more.
    pub async fn end(&self) {
        self.beat_once(true).await;
    }

    /// One heartbeat. Within how many milliseconds the next one has to come; `None`: the last one was sent.
    async fn beat_once(&self, is_last: bool) -> Option<u32> {
        let mut ended = self.ended.lock().await;
        if *ended {
            return None;
        }
        *ended = is_last;
        let heartbeat = self.heartbeat();
        self.send(&heartbeat).await;
        let next_ms = heartbeat.next_ms;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat);
        Some(next_ms)
    }

    /// None while there is no broker.
    async fn send(&self, heartbeat: &Heartbeat) {
        if !*self.connected.borrow() {
            return;
        }
        match message::write(heartbeat) {
            Ok(text) => {
                if let Err(error) = self.client.publish(self.subject.clone(), text.into()).await {
                    tracing::debug!(%error, "a heartbeat was not sent");
                }
            }
            Err(error) => tracing::error!(%error, "a heartbeat has no JSON form"),
        }
    }

    /// Waits until what was sent is on its way.
    pub async fn flush(&self) {
        if let Err(error) = self.client.flush().await {
            tracing::debug!(%error, "the connection could not be flushed");
        }
    }

    /// Both ways to the owner.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Batches that wait for the broker.
    #[must_use]
    pub fn waiting_batches(&self) -> u64 {
        self.outbox.standing().batches
    }

    /// Hits in them.
    #[must_use]
    pub fn waiting_hits(&self) -> u64 {
        self.outbox.standing().queued
    }

    fn heartbeat(&self) -> Heartbeat {
        // The time is taken before it is asked whether anything is armed: what is armed later is hit later.
        let ktime_ns = host::monotonic_ns();
        let totals = self.shared.totals().clone();
        if totals.is_idle {
            self.outbox.pushed_until(ktime_ns);
        }
        let standing = self.outbox.standing();
        let (cpu_ns, resident_bytes) = own_usage();
        let facts = &self.identity.host;
        let is_quiet = totals.is_idle && totals.held == 0 && standing.queued == 0;
        let mut heartbeat = Heartbeat {
            host: facts.host.clone(),
            agent: facts.agent.clone(),
            agent_version: facts.agent_version.clone(),
            boot_id: facts.boot_id.clone(),
            ktime_ns,
            next_ms: HEARTBEAT_MS,
            complete_until_ktime_ns: standing.complete_until_ktime_ns,
            acknowledged_seq: standing.acknowledged_seq,
            generations: totals.generations,
            state_revision: totals.state_revision,
            profile_revision: self.endpoints.profile_revision(),
            hits: totals.hits,
            emitted: totals.emitted,
            published: standing.published,
            losses: Losses {
                ring_full: totals.losses.ring_full,
                queue_full: standing.losses.queue_full,
                refused: standing.losses.refused,
                undecodable: totals.losses.undecodable,
                ..Losses::default()
            },
            queued: standing.queued,
            cpu_ns,
            resident_bytes,
            previous_run: self.previous_run.clone(),
        };
        // The last counts have to be told before heartbeats come less often.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if is_quiet && last.as_ref().is_some_and(|last| counts_the_same(last, &heartbeat)) {
            heartbeat.next_ms = IDLE_HEARTBEAT_MS;
        }
        heartbeat
    }
}

/// Whether nothing was counted between two heartbeats. Other changes do not wait for the next one.
fn counts_the_same(one: &Heartbeat, other: &Heartbeat) -> bool {
    let counted =
        |of: &Heartbeat| (of.hits, of.emitted, of.published, of.losses.total(), of.acknowledged_seq);
    counted(one) == counted(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::{
            builds::Builds,
            catalogue::{Catalogue, cache_of},
            settings::Settings,
        },
        nats::connection::{self, ConnectionSettings},
    };

    #[test]
    fn a_heartbeat_does_not_wait_for_who_looks_at_processes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nobody = ConnectionSettings {
            urls: vec!["nats://127.0.0.1:1".to_owned()],
            ..ConnectionSettings::default()
        };
        let (sender, connected) = watch::channel(false);
        let client = runtime.block_on(connection::connect(&nobody, "test", sender)).unwrap();
        let settings = Settings { nats: nobody, ..Settings::default() };
        let identity = Identity::read(&settings);
        let (shared, _commands) = Shared::new();
        let (outbox, _queue) = Outbox::new(settings.queue_bytes);
        let builds = Builds::new(
            runtime.handle().clone(),
            cache_of(&settings),
            Arc::clone(&settings.redaction),
            || {},
        );
        let catalogue = Arc::new(Mutex::new(Catalogue::new(&settings)));
        let endpoints = Endpoints::new(
            &settings,
            &identity,
            client.clone(),
            Arc::clone(&shared),
            Arc::clone(&catalogue),
            builds,
        );
        let heart =
            Heart::new(&identity, client, "heartbeat".to_owned(), shared, outbox, endpoints, connected);
        // Whoever looks at processes holds this while files are read. A heartbeat that took it would never be made here.
        let looking = catalogue.lock().unwrap();
        assert_eq!(heart.heartbeat().profile_revision, 0);
        drop(looking);
    }
}

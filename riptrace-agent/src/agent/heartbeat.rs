//! What the agent holds and has counted, once a second, less often while there is nothing to tell; and what is done as
//! often: looking for new processes, forgetting programs.

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
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    endpoints::Endpoints,
    facts::{Identity, own_usage},
    notes::Notes,
    shared::Shared,
};
use crate::{nats::publish::Outbox, trace::host};

/// Between two heartbeats at least.
const INTERVAL: Duration = Duration::from_millis(HEARTBEAT_MS as u64);
/// The same while there is nothing to tell. While no tracepoint waits for processes, they are looked for as often, and
/// programs are forgotten as often.
const IDLE_INTERVAL: Duration = Duration::from_millis(IDLE_HEARTBEAT_MS as u64);

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
    notes: Option<Arc<Notes>>,
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
            notes: None,
            previous_run: None,
        }
    }

    /// The same, which notes how far this run gets, and tells of the last one.
    #[must_use]
    pub fn remembering(self, notes: Arc<Notes>) -> Self {
        // Batches tell of its tracepoints.
        let previous_run = notes.previous().pop().map(|run| PreviousRun { tracepoints: Vec::new(), ..run });
        Self { notes: Some(notes), previous_run, ..self }
    }

    /// Beats until it is dropped.
    pub async fn beat(self: Arc<Self>) {
        let mut connected = self.connected.clone();
        let mut looked: Option<Instant> = None;
        loop {
            let begin = Instant::now();
            let is_due = looked.is_none_or(|at| begin - at >= IDLE_INTERVAL);
            if self.endpoints.has_to_look() && (is_due || self.shared.totals().held > 0) {
                self.endpoints.look_for_processes().await;
            }
            if is_due {
                looked = Some(begin);
                self.endpoints.forget_unused();
            }
            let next_ms = self.beat_once().await;
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

    /// The last heartbeat: nothing is open any more.
    pub async fn end(&self) {
        let heartbeat = self.heartbeat();
        // What the broker did not take is told of by the next run.
        self.note(&heartbeat, self.waiting_batches() == 0);
        self.send(&heartbeat).await;
    }

    /// One heartbeat; none while there is no broker. Within how many milliseconds the next one has to come.
    async fn beat_once(&self) -> u32 {
        let heartbeat = self.heartbeat();
        self.note(&heartbeat, false);
        self.send(&heartbeat).await;
        let next_ms = heartbeat.next_ms;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat);
        next_ms
    }

    fn note(&self, heartbeat: &Heartbeat, ended: bool) {
        let Some(notes) = &self.notes else { return };
        notes.acknowledged(heartbeat.acknowledged_seq);
        notes.update(|note| note.ended = ended);
        // The file is small, and in memory until the system writes it.
        notes.save();
    }

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

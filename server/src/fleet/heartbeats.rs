//! Takes heartbeats, and asks for the profiles of hosts that are new or changed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::StreamExt;
use riptrace_common::{
    id::AgentId,
    wire::{
        batch::Heartbeat,
        message,
        profile::{Profile, ProfileRequest},
        subject::{Endpoint, Parsed},
    },
};
use tokio::sync::{Semaphore, mpsc};

use super::{Fleet, State, hosts::Run};
use crate::watermark::Progress;

/// Profiles that are asked for at once.
const PROFILES_AT_ONCE: usize = 16;

/// Pause before heartbeats are subscribed to again.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes heartbeats, for ever. Those whose counters of losses matter to the index are handed on.
pub async fn listen(fleet: Arc<Fleet>, heard: mpsc::Sender<Heartbeat>) {
    let profiles = Arc::new(Semaphore::new(PROFILES_AT_ONCE));
    loop {
        if let Err(error) = listen_once(&fleet, &heard, &profiles).await {
            tracing::warn!(%error, "heartbeats can't be heard; trying again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen_once(
    fleet: &Arc<Fleet>,
    heard: &mpsc::Sender<Heartbeat>,
    profiles: &Arc<Semaphore>,
) -> anyhow::Result<()> {
    let nats = fleet.nats()?;
    let mut heartbeats = nats.client.subscribe(nats.subjects.of_all(Endpoint::Heartbeat)).await?;
    while let Some(message) = heartbeats.next().await {
        let Some(Parsed::Agent { host, .. }) = nats.subjects.parse(&message.subject) else { continue };
        let heartbeat = match message::read::<Heartbeat>(&message.payload) {
            Ok(heartbeat) if heartbeat.host == host => heartbeat,
            Ok(heartbeat) => {
                fleet.malformed(&format!(
                    "a heartbeat of {:?} came under the name of {host:?}",
                    heartbeat.host
                ));
                continue;
            }
            Err(error) => {
                fleet.malformed(&format!("a heartbeat of {host:?}: {error}"));
                continue;
            }
        };
        // The index needs the last one only; when it is behind, the next one will do.
        drop(heard.try_send(heartbeat.clone()));
        let revision = heartbeat.profile_revision;
        let now = fleet.now();
        let wants_profile = {
            let mut state = fleet.state();
            let before = state.hosts.get(&host).and_then(|entry| entry.run()).map(state_of);
            let is_news = before != Some((heartbeat.agent.clone(), heartbeat.state_revision));
            if let Err(problem) = state.hosts.heartbeat(heartbeat, now) {
                drop(state);
                fleet.malformed(&problem);
                continue;
            }
            if is_news {
                state.stale(&host);
                fleet.wake.notify_one();
            }
            state.hosts.wants_profile(&host, now)
        };
        if wants_profile {
            let (fleet, profiles) = (Arc::clone(fleet), Arc::clone(profiles));
            tokio::spawn(async move {
                let Ok(_permit) = profiles.acquire().await else { return };
                let asked =
                    fleet.request::<_, Profile>(&host, Endpoint::ProfileGet, &ProfileRequest {}).await;
                let result = asked.map_err(|error| format!("its profile is not known: {error}"));
                fleet.state().hosts.profile(&host, revision, result);
                fleet.wake.notify_one();
            });
        }
    }
    anyhow::bail!("the subscription ended")
}

fn state_of(run: &Run) -> (AgentId, u64) {
    (run.heartbeat.agent.clone(), run.heartbeat.state_revision)
}

impl Fleet {
    /// How many agents' runs were heard of so far: another number means other hosts to exchange timestamps with.
    #[must_use]
    pub fn runs_heard_of(&self) -> u64 {
        self.state().hosts.runs()
    }

    /// Hosts that are alive, each with its boot id.
    #[must_use]
    pub fn clock_hosts(&self) -> Vec<(String, String)> {
        let now = self.now();
        let state = self.state();
        let alive = state.hosts.iter().filter_map(|(host, entry)| {
            let run = entry.run().filter(|run| run.is_alive(now))?;
            Some((host.clone(), run.heartbeat.boot_id.clone()))
        });
        alive.collect()
    }

    /// The last epoch of each clock that is known, by boot id.
    #[must_use]
    pub fn clock_epochs(&self) -> HashMap<String, u64> {
        let state = self.state();
        state.clocks.hosts.iter().map(|clock| (clock.boot_id.clone(), clock.assigned.epoch)).collect()
    }

    /// How far each agent is.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        let state = self.state();
        let runs = state.hosts.iter().flat_map(|(host, entry)| {
            let is_current = |run: &Run| entry.run().is_some_and(|current| std::ptr::eq(current, run));
            // What was sent there may be armed before a heartbeat says so.
            let is_armed = state.reports.get(host).is_some_and(|report| !report.states.is_empty());
            entry.runs().map(move |run| Progress {
                agent: run.heartbeat.agent.clone(),
                boot_id: run.heartbeat.boot_id.clone(),
                first: run.first,
                last: run.last,
                silence_ns: run.silence_ns(),
                complete_until_ktime_ns: run.heartbeat.complete_until_ktime_ns,
                is_tracing: run.is_tracing() || (is_armed && is_current(run)),
            })
        });
        runs.collect()
    }

    /// Forgets hosts that were not heard of for a long time, and what they said.
    pub fn forget_hosts(&self) {
        let now = self.now();
        let mut state = self.state();
        let State { hosts, reports, .. } = &mut *state;
        hosts.forget(now);
        reports.retain(|host, _| hosts.get(host).is_some());
    }

    /// Counts and reports a message that could not be used.
    pub fn malformed(&self, what: &str) {
        let count = {
            let mut state = self.state();
            state.malformed += 1;
            state.malformed
        };
        // Each power of two: a sender of nonsense must not fill the log.
        if count.is_power_of_two() {
            tracing::warn!(count, what, "a message is not taken");
        }
    }

    /// Messages that could not be used so far.
    #[must_use]
    pub fn malformed_count(&self) -> u64 {
        self.state().malformed
    }
}

//! What an agent publishes: batches of events, and heartbeats.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::{Event, Stats};
use crate::id::{AgentId, Owner, SessionId};

/// Bytes of a batch at the most. An event that is longer by itself is a batch by itself.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;

/// What happened on a host ([`super::subject::Endpoint::Trace`]). Its `Nats-Msg-Id` is [`Batch::message_id`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Batch {
    /// The host.
    pub host: String,
    /// This run of the agent.
    pub agent: AgentId,
    /// Which clock `complete_until_ktime_ns` and the hits' `ktime_ns` are of.
    pub boot_id: String,
    /// Counts the batches of this run from 1: a gap is a loss.
    pub seq: u64,
    /// The events; hits by the kernel's time.
    pub events: Vec<Event>,
}

impl Batch {
    /// What the broker recognises a repeated batch by.
    #[must_use]
    pub fn message_id(&self) -> String {
        format!("{}:{}", self.agent, self.seq)
    }
}

/// [`Heartbeat::next_ms`] while there is something to tell, and where it is missing.
pub const HEARTBEAT_MS: u32 = 1_000;
/// The same while nothing is held, waits or changes.
pub const IDLE_HEARTBEAT_MS: u32 = 5_000;

fn heartbeat_ms() -> u32 {
    HEARTBEAT_MS
}

/// Liveness of an agent, once a second, less often while there is nothing to tell
/// ([`super::subject::Endpoint::Heartbeat`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// The host.
    pub host: String,
    /// This run of the agent.
    pub agent: AgentId,
    /// The agent's version.
    #[serde(default)]
    pub agent_version: String,
    /// Which clock its times are of.
    pub boot_id: String,
    /// The kernel's monotonic clock when this was made.
    pub ktime_ns: u64,
    /// The next one comes within so many milliseconds; at once when something changes.
    #[serde(default = "heartbeat_ms")]
    pub next_ms: u32,
    /// Everything that was recorded before this kernel time is in the stream (acknowledged), or counted as lost.
    pub complete_until_ktime_ns: u64,
    /// The last batch that the broker acknowledged.
    #[serde(default)]
    pub acknowledged_seq: u64,
    /// What it holds, for each owner: [`super::control::generation`] of ids and revisions.
    #[serde(default)]
    pub generations: Vec<OwnerGeneration>,
    /// Counts Go processes that started or ended: another number means another profile.
    #[serde(default)]
    pub profile_revision: u64,
    /// Counts changes of what became of tracepoints: another number means another list.
    #[serde(default)]
    pub state_revision: u64,
    /// Hits of all tracepoints of this run so far.
    #[serde(default)]
    pub hits: u64,
    /// Of these, those that were handed over as records: `published` + `queued` + those lost behind the kernel + the few that
    /// are on their way through the agent.
    #[serde(default)]
    pub emitted: u64,
    /// Of these, those in batches that were acknowledged.
    #[serde(default)]
    pub published: u64,
    /// Of these, those that were lost between the kernel and the broker, and why.
    #[serde(default)]
    pub losses: Losses,
    /// Hits that wait for the broker.
    #[serde(default)]
    pub queued: u64,
    /// Processor time of this run, nanoseconds.
    #[serde(default)]
    pub cpu_ns: u64,
    /// Resident memory, bytes.
    #[serde(default)]
    pub resident_bytes: u64,
    /// A run that ended without a word: what it had counted and nobody got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_run: Option<PreviousRun>,
}

/// What an owner's tracepoints on a host are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnerGeneration {
    /// Whose.
    pub owner: Owner,
    /// Their number as a set.
    pub generation: u64,
}

/// Hits that did not reach the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Losses {
    /// No room in the kernel's ring.
    pub ring_full: u64,
    /// No room in the queue while the broker was away or slow.
    pub queue_full: u64,
    /// The broker refused them (no space).
    pub refused: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Nobody knows where: an agent that was killed, messages that the stream let go before they were read.
    #[serde(default)]
    pub unknown: u64,
}

impl Losses {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { ring_full, queue_full, refused, undecodable, unknown } = self;
        [ring_full, queue_full, refused, undecodable, unknown]
            .into_iter()
            .fold(0, |sum, part| sum.saturating_add(*part))
    }
}

/// What a run of the agent left that ended without a word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreviousRun {
    /// The run.
    pub agent: AgentId,
    /// Hits of those of its tracepoints whose last counters may not be in the stream.
    pub hits: u64,
    /// Of these, those that were handed over as records.
    pub emitted: u64,
    /// These are the kernel's own counters, which outlived the run. False: they are what the run had noted last, and it may have
    /// counted more after that.
    #[serde(default)]
    pub exact: bool,
    /// The last counters of each of these tracepoints. Only in batches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tracepoints: Vec<PreviousTracepoint>,
}

/// A tracepoint of a run that ended without a word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreviousTracepoint {
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Its last counters.
    pub stats: Stats,
}

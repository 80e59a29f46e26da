//! The server's HTTP API: what the page, the command line and other programs get and send.
//!
//! Errors are a [`super::message::Error`] as the body, with a fitting status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    batch::Losses,
    clock::Assigned,
    control::{Origin, Target, TraceOptions, TracepointState},
    event::Hit,
    profile::{GoProcess, HostFacts},
};
use crate::id::{AgentId, SessionId, TracepointId};

/// The path below which everything but `/metrics`, `/healthz` and `/readyz` is.
pub const API_PATH: &str = "/api/v1";

/// A host as the server sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Facts, as its agent tells them.
    pub facts: HostFacts,
    /// Whether it was heard of lately.
    pub status: HostStatus,
    /// Nanoseconds since 1970 of the last heartbeat.
    pub last_seen_ns: u64,
    /// Go processes.
    pub processes: u32,
    /// Tracepoints that it holds.
    pub tracepoints: u32,
    /// Hits of its agent's run so far.
    pub hits: u64,
    /// Those that did not get into the stream.
    pub losses: Losses,
    /// Share of one core that its agent took over the last seconds.
    pub agent_share_of_core: f64,
    /// Resident memory of its agent, bytes.
    pub agent_resident_bytes: u64,
    /// Its clock; absent until enough was exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Assigned>,
    /// What is wrong with it: two agents with one name, a version that is not spoken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether a host is heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// Heartbeats come.
    Alive,
    /// None came for longer than a heartbeat should take.
    Silent,
}

/// A service: processes that are instances of the same thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its instances.
    pub instances: Vec<Instance>,
}

/// A process of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its host.
    pub host: String,
    /// The process.
    pub process: GoProcess,
}

/// Asks for a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewSession {
    /// What people call it; the server makes one up otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its tracepoints; more can be added later.
    #[serde(default)]
    pub tracepoints: Vec<NewTracepoint>,
    /// Seconds until it stops by itself; 0: an hour.
    #[serde(default)]
    pub ttl_seconds: u64,
}

/// Asks for a tracepoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NewTracepoint {
    /// Where.
    #[serde(default)]
    pub select: Selector,
    /// The location.
    pub location: String,
    /// What is captured.
    #[serde(default)]
    pub options: TraceOptions,
}

/// On which hosts and processes. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Selector {
    /// One host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Hosts with this label, `name=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Which processes there.
    #[serde(flatten)]
    pub target: Target,
}

/// Changes a tracepoint; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeTracepoint {
    /// Armed or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Selector>,
    /// The location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What is captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<TraceOptions>,
}

/// A session. This is also what the servers keep of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What people call it.
    pub name: String,
    /// Whether its tracepoints are to be armed.
    pub state: SessionState,
    /// When it was made, nanoseconds since 1970.
    pub created_ns: u64,
    /// When it stops by itself.
    pub expires_ns: u64,
    /// Who made it.
    pub created_by: String,
    /// Its tracepoints.
    pub tracepoints: Vec<SessionTracepoint>,
}

/// Whether a session's tracepoints are to be armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// They are.
    Running,
    /// They are not; the hits stay.
    Stopped,
}

/// A tracepoint of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionTracepoint {
    /// Its id.
    pub id: TracepointId,
    /// Counts changes.
    pub revision: u64,
    /// Whether it is to be armed.
    pub enabled: bool,
    /// Where.
    pub select: Selector,
    /// The location.
    pub location: String,
    /// What is captured.
    pub options: TraceOptions,
    /// The build for which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A session with what became of its tracepoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionStatus {
    /// What is wanted.
    pub session: Session,
    /// What is there.
    pub hosts: Vec<HostTracepoint>,
    /// Hits that are stored.
    pub stored: u64,
    /// Hits that were counted by a kernel and are not stored, by where they were lost.
    #[serde(default)]
    pub losses: Losses,
    /// Runs of agents that ended without a word: what they lost after their last counters is not known, and not among
    /// `losses`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unaccounted: Vec<AgentId>,
    /// Up to which coordinated time the order is final.
    pub watermark_ns: u64,
    /// Edges that contradict others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
}

/// A tracepoint on a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostTracepoint {
    /// The host.
    pub host: String,
    /// The agent's run.
    pub agent: AgentId,
    /// The tracepoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracepoint: Option<TracepointId>,
    /// What it says; absent: it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TracepointState>,
    /// Why it did not take the tracepoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HitQuery {
    /// Behind this one: `HitPage::next`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most this many; the server has a bound of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Of a service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Of a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Of a file, by the end of its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Of a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Of a tracepoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracepoint: Option<String>,
    /// Of a goroutine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goroutine: Option<u64>,
    /// Of a trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// With a variable whose path is this (`order.Items[0].SKU`)…
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// …and whose value is this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// With these words among names and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Hits by their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HitPage {
    /// The hits.
    pub hits: Vec<StoredHit>,
    /// Where the next page begins; absent: this was the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Up to which coordinated time the order is final.
    pub watermark_ns: u64,
    /// The cursor of live hits from which everything is told that this answer does not know yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
}

/// A hit as the server keeps it. Its certificate is about the hit before it in the same answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StoredHit {
    /// The service.
    pub service: String,
    /// Whether its place is final.
    pub finality: Finality,
    /// Its place among arrivals: live hits resume behind it.
    pub arrival: u64,
    /// The hit.
    pub hit: Hit,
}

/// Whether a hit's place in the order may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finality {
    /// It may.
    Provisional,
    /// It does not.
    Final,
}

/// A server-sent event of live hits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Live {
    /// A hit came; its place is provisional.
    Hit(Box<StoredHit>),
    /// A hit's place is final now.
    Final(Box<StoredHit>),
    /// The order is final up to here.
    Watermark {
        /// Coordinated time.
        watermark_ns: u64,
    },
    /// A tracepoint's state changed on a host.
    State(Box<HostTracepoint>),
    /// The reader was too slow for what is not stored: changes of states that it was not told of. Hits are never missed.
    Missed {
        /// How many.
        events: u64,
    },
    /// The session stopped; nothing comes after it.
    Stopped,
}

/// What the kill switch removes: tracepoints of a session, of a host, or all there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// Of a session, which is stopped.
    Session(SessionId),
    /// Of a host, whoever set them.
    Host(String),
    /// Of every host, whoever set them; every session is stopped.
    All,
}

/// What the kill switch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Killed {
    /// Sessions that were stopped.
    pub sessions: Vec<SessionId>,
    /// Hosts that confirmed.
    pub hosts: Vec<String>,
    /// Hosts that did not answer; they are told when they are heard of again.
    pub unreachable: Vec<String>,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Counts entries.
    pub seq: u64,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Who.
    pub who: String,
    /// What: `session.create`, `tracepoint.add`, `kill`.
    pub action: String,
    /// On what.
    pub subject: String,
    /// The request.
    pub detail: serde_json::Value,
    /// From where: the address of who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Why it was not done; absent: it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Asks a host that has what is selected: one of [`super::control`]'s requests with where to ask. The request's own
/// `target` is the selection's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Ask_{Request}")]
pub struct Ask<Request> {
    /// Where.
    #[serde(default)]
    pub select: Selector,
    /// What.
    #[serde(flatten)]
    pub request: Request,
}

/// The clocks as the server knows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockState {
    /// Each host's.
    pub hosts: Vec<super::clock::DomainClock>,
    /// Up to which coordinated time the order is final.
    pub watermark_ns: u64,
    /// Agents that are not waited for.
    pub silent: Vec<AgentId>,
}

/// The first line of an exported session; one [`StoredHit`] a line follows, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvidenceHeader {
    /// `riptrace-evidence`.
    pub format: String,
    /// Version of the format.
    pub version: u32,
    /// When it was made, nanoseconds since 1970.
    pub exported_ns: u64,
    /// The session with the states of its tracepoints.
    pub status: SessionStatus,
    /// The clocks.
    pub clocks: ClockState,
    /// Hits that follow.
    pub hits: u64,
}

//! What the order needs to know of a hit.

use std::sync::Arc;

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::event::{Edge, Hit},
};
use serde::{Deserialize, Serialize};

/// Names a hit for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HitKey {
    /// The run of the agent.
    pub agent: AgentId,
    /// The tracepoint.
    pub tracepoint: TracepointId,
    /// Place among the tracepoint's hits of this run.
    pub seq: u64,
}

impl std::fmt::Display for HitKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}/{}", self.agent, self.tracepoint, self.seq)
    }
}

/// A process on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, on the kernel's boot clock; tells processes with the same id apart.
    pub start_ns: Option<u64>,
}

/// What the order needs to know of a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HitMeta {
    /// Its name.
    pub key: HitKey,
    /// Names the kernel's clock.
    pub boot_id: Arc<str>,
    /// The kernel's clock at the hit.
    pub ktime_ns: u64,
    /// The CPU.
    pub cpu: u32,
    /// Records of this CPU before this one.
    pub cpu_seq: u64,
    /// The process.
    pub process: Process,
    /// The goroutine.
    pub goroutine: Option<u64>,
    /// The goroutine that created it.
    pub parent_goroutine: Option<u64>,
    /// The goroutine that is created here: only where the moment of a `go` statement is seen itself.
    pub starts_goroutine: Option<u64>,
    /// A message leaves or enters the process here.
    pub edge: Option<Edge>,
    /// The session, if it belongs to one.
    pub session: Option<SessionId>,
    /// The stream's sequence number of the message that brought it. Hits of one batch have the same.
    pub arrival: u64,
}

impl HitMeta {
    /// Of a hit as it came.
    #[must_use]
    pub fn of(hit: &Hit, arrival: u64) -> Self {
        Self {
            key: HitKey {
                agent: AgentId(Arc::clone(&hit.agent)),
                tracepoint: TracepointId(Arc::clone(&hit.tracepoint)),
                seq: hit.seq,
            },
            boot_id: Arc::clone(&hit.boot_id),
            ktime_ns: hit.ktime_ns,
            cpu: hit.cpu,
            cpu_seq: hit.cpu_seq,
            process: Process { pid: hit.pid, start_ns: hit.process_start_ns },
            goroutine: hit.goroutine,
            parent_goroutine: hit.parent_goroutine,
            starts_goroutine: None,
            edge: hit.edge.clone(),
            session: hit.session.clone().map(SessionId),
            arrival,
        }
    }

    pub(super) fn position(&self) -> Position {
        let Self { key, ktime_ns, cpu, cpu_seq, .. } = self;
        let mut hash = StableHash::new();
        hash.bytes(key.agent.as_str().as_bytes());
        hash.bytes(key.tracepoint.as_str().as_bytes());
        hash.number(key.seq);
        Position { moment: Moment { ktime_ns: *ktime_ns, cpu: *cpu, cpu_seq: *cpu_seq }, tie: hash.finish() }
    }

    /// The process's number among all processes of the fleet.
    pub(super) fn process_id(&self, domain: DomainId) -> u64 {
        let mut hash = StableHash::new();
        hash.number(domain.0);
        hash.number(u64::from(self.process.pid));
        hash.number(self.process.start_ns.unwrap_or(u64::MAX));
        hash.finish()
    }
}

/// A kernel's clock, in short: a hash of the boot id, the same on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainId(pub u64);

impl DomainId {
    /// Of a boot id.
    #[must_use]
    pub fn of(boot_id: &str) -> Self {
        let mut hash = StableHash::new();
        hash.bytes(boot_id.as_bytes());
        Self(hash.finish())
    }
}

/// A moment of a kernel's clock: where a hit stands among the hits of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "(u64, u32, u64)", from = "(u64, u32, u64)")]
pub struct Moment {
    /// The kernel's clock, nanoseconds.
    pub ktime_ns: u64,
    /// The CPU.
    pub cpu: u32,
    /// Records of this CPU before.
    pub cpu_seq: u64,
}

impl Moment {
    /// Whether the kernel's clock proves that this was before. Two CPUs that read the same nanosecond prove nothing.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        self.ktime_ns < other.ktime_ns
            || (self.ktime_ns == other.ktime_ns && self.cpu == other.cpu && self.cpu_seq < other.cpu_seq)
    }

    /// The same, or [`Moment::precedes`].
    #[must_use]
    pub fn precedes_or_is(&self, other: &Self) -> bool {
        self == other || self.precedes(other)
    }
}

impl From<Moment> for (u64, u32, u64) {
    fn from(moment: Moment) -> Self {
        (moment.ktime_ns, moment.cpu, moment.cpu_seq)
    }
}

impl From<(u64, u32, u64)> for Moment {
    fn from((ktime_ns, cpu, cpu_seq): (u64, u32, u64)) -> Self {
        Self { ktime_ns, cpu, cpu_seq }
    }
}

/// A hit's place among its host's: no two have the same (agents of one host count CPUs' records each for itself).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    pub moment: Moment,
    /// A hash of the hit's key.
    pub tie: u64,
}

/// A hash by words (splitmix64 for each): the same on every machine and version, which the standard
/// library's hashers do not promise.
struct StableHash(u64);

impl StableHash {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        // The length first, so that two texts don't read as one.
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
    }

    fn number(&mut self, number: u64) {
        self.word(number);
    }

    /// A word at a time, mixed: text of 36 characters is hashed for each hit.
    fn word(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    }

    const fn finish(&self) -> u64 {
        mix(self.0)
    }
}

const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

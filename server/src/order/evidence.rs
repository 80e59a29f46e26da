//! What is kept with a placed hit, so that any two hits can be asked why one stands before the other.

use std::sync::Arc;

use riptrace_common::wire::event::Certificate;
use serde::{Deserialize, Serialize};

use super::{
    frontier::{Bound, Carrier},
    hit::{DomainId, Moment},
};

/// What [`certify`] needs of a hit. Kept with it; serialises to some tens of bytes and [`super::FRONTIER_BOUNDS`] times that
/// at the most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The clock of its host's kernel.
    #[serde(rename = "d")]
    pub domain: DomainId,
    /// When, by that clock.
    #[serde(rename = "k")]
    pub moment: Moment,
    /// Its process among all of the fleet.
    #[serde(rename = "p")]
    pub process: u64,
    /// Its goroutine.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub goroutine: Option<u64>,
    /// Its goroutine's start, if the start itself was seen.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// The last message of a process on the same host that its goroutine got before.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    /// Between which coordinated times it happened, if its clock was known.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// What happened on other hosts before, as far as messages prove it.
    #[serde(rename = "f", default = "nothing", skip_serializing_if = "<[Bound]>::is_empty")]
    pub frontier: Arc<[Bound]>,
}

fn nothing() -> Arc<[Bound]> {
    Arc::from([])
}

/// When and where a goroutine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The goroutine that did.
    pub by_goroutine: u64,
    /// When.
    pub at: Moment,
}

/// A message between two processes of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The sender.
    pub process: u64,
    /// Its goroutine.
    pub goroutine: u64,
    /// When it was sent.
    pub sent: Moment,
    /// Which way.
    pub by: Carrier,
}

/// Coordinated times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, u64, u64)", from = "(u64, u64, u64)")]
pub struct Interval {
    /// The estimate.
    pub time_ns: u64,
    /// How far off it may be.
    pub uncertainty_ns: u64,
    /// Which server's clock: counts the servers that held the lease. Times of different ones can't be compared.
    pub timeline: u64,
}

impl From<Interval> for (u64, u64, u64) {
    fn from(interval: Interval) -> Self {
        (interval.time_ns, interval.uncertainty_ns, interval.timeline)
    }
}

impl From<(u64, u64, u64)> for Interval {
    fn from((time_ns, uncertainty_ns, timeline): (u64, u64, u64)) -> Self {
        Self { time_ns, uncertainty_ns, timeline }
    }
}

impl Interval {
    /// The earliest time that it can have been.
    #[must_use]
    pub fn earliest_ns(&self) -> u64 {
        self.time_ns.saturating_sub(self.uncertainty_ns)
    }

    /// The latest.
    #[must_use]
    pub fn latest_ns(&self) -> u64 {
        self.time_ns.saturating_add(self.uncertainty_ns)
    }

    /// Whether it ended before the other one began.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.latest_ns() < other.earliest_ns()
    }
}

/// Why `a` stands before `b`: the strongest reason that the two hits' own evidence gives. [`Certificate::Ambiguous`] where
/// nothing proves it, and also where `a` was after `b`.
#[must_use]
pub fn certify(a: &Evidence, b: &Evidence) -> Certificate {
    if a.domain == b.domain {
        return on_one_host(a, b);
    }
    if let Some(bound) = b.frontier.iter().find(|bound| bound.domain == a.domain)
        && a.moment.precedes_or_is(&bound.until)
    {
        return bound.by.certificate();
    }
    match (&a.interval, &b.interval) {
        (Some(a), Some(b)) if a.precedes(b) => Certificate::Clock,
        _ => Certificate::Ambiguous,
    }
}

fn on_one_host(a: &Evidence, b: &Evidence) -> Certificate {
    if !a.moment.precedes(&b.moment) {
        return Certificate::Ambiguous;
    }
    if a.process == b.process && a.goroutine.is_some() && a.goroutine == b.goroutine {
        return Certificate::SameGoroutine;
    }
    if let Some(started) = b.started
        && a.process == b.process
        && a.goroutine == Some(started.by_goroutine)
        && a.moment.precedes_or_is(&started.at)
    {
        return Certificate::GoroutineStart;
    }
    if let Some(received) = b.received
        && (a.process, a.goroutine) == (received.process, Some(received.goroutine))
        && a.moment.precedes_or_is(&received.sent)
    {
        return received.by.certificate();
    }
    Certificate::SameHost
}

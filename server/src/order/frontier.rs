//! What is known to have happened on other hosts before a hit: for each of them the last moment, and what brought word.

use std::sync::Arc;

use riptrace_common::wire::event::Certificate;
use serde::{Deserialize, Serialize};

use super::hit::{DomainId, Moment};

/// Hosts in a frontier at the most; of more, those with the latest bounds are kept. What is dropped makes a certificate
/// weaker (`clock` or `ambiguous`), never wrong.
pub const FRONTIER_BOUNDS: usize = 24;

/// What brought word from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Carrier {
    /// A message.
    #[serde(rename = "m")]
    Message,
    /// The answer to one.
    #[serde(rename = "r")]
    Reply,
}

impl Carrier {
    pub(super) fn certificate(self) -> Certificate {
        match self {
            Self::Message => Certificate::Message,
            Self::Reply => Certificate::Reply,
        }
    }
}

/// Everything on a host up to a moment precedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, u64, u32, u64, Carrier)", from = "(u64, u64, u32, u64, Carrier)")]
pub struct Bound {
    /// The host's clock.
    pub domain: DomainId,
    /// The moment: a message left then.
    pub until: Moment,
    /// What left.
    pub by: Carrier,
}

impl From<Bound> for (u64, u64, u32, u64, Carrier) {
    fn from(Bound { domain, until, by }: Bound) -> Self {
        (domain.0, until.ktime_ns, until.cpu, until.cpu_seq, by)
    }
}

impl From<(u64, u64, u32, u64, Carrier)> for Bound {
    fn from((domain, ktime_ns, cpu, cpu_seq, by): (u64, u64, u32, u64, Carrier)) -> Self {
        Self { domain: DomainId(domain), until: Moment { ktime_ns, cpu, cpu_seq }, by }
    }
}

/// Bounds by their domain, each domain once. Hits between two messages share one.
pub(super) type Frontier = Arc<[Bound]>;

/// What a receiver learns of a sender: the sender's frontier, and the sender's own host up to the send.
pub(super) fn learned(frontier: &[Bound], own: Bound) -> Vec<Bound> {
    let mut bounds: Vec<Bound> =
        frontier.iter().copied().filter(|bound| bound.domain != own.domain).collect();
    let at = bounds.partition_point(|bound| bound.domain < own.domain);
    bounds.insert(at, own);
    bounds
}

/// What is known in both: of each host in both the earlier bound. For a message that came from one of two senders.
pub(super) fn intersection(left: &[Bound], right: &[Bound]) -> Vec<Bound> {
    left.iter()
        .filter_map(|bound| {
            let other = &right[right.binary_search_by_key(&bound.domain, |bound| bound.domain).ok()?];
            Some(if bound.until <= other.until { *bound } else { *other })
        })
        .collect()
}

/// What is known in either: of each host the later bound; nothing of the host `own`, whose clock says all. `time_of` says
/// which bounds are the latest when there are too many.
pub(super) fn union(
    left: &[Bound],
    right: &[Bound],
    own: DomainId,
    time_of: impl Fn(&Bound) -> u64,
) -> Vec<Bound> {
    let mut bounds = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let next = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => left.next(),
            (None, Some(_)) => right.next(),
            (Some(a), Some(b)) => match a.domain.cmp(&b.domain) {
                std::cmp::Ordering::Less => left.next(),
                std::cmp::Ordering::Greater => right.next(),
                std::cmp::Ordering::Equal => {
                    let (a, b) = (left.next(), right.next());
                    if a.map(|bound| bound.until) >= b.map(|bound| bound.until) { a } else { b }
                }
            },
        };
        bounds.extend(next.filter(|bound| bound.domain != own).copied());
    }
    if bounds.len() > FRONTIER_BOUNDS {
        // The latest stay, in the order of their hosts.
        let mut times: Vec<(u64, DomainId)> =
            bounds.iter().map(|bound| (time_of(bound), bound.domain)).collect();
        let surplus = times.len() - FRONTIER_BOUNDS;
        let (_, first_kept, _) = times.select_nth_unstable(surplus);
        let first_kept = *first_kept;
        bounds.retain(|bound| (time_of(bound), bound.domain) >= first_kept);
    }
    bounds
}

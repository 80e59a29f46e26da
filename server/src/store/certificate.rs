//! Why one hit stands before another one, from what was kept with them.

use riptrace_common::wire::event::{Certificate, Hit};

use crate::order::{Evidence, certify};

/// Hits in an order, each with its evidence (none: its place is not final): says of each why it stands behind the one
/// before it.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    before: Option<(Hit, Option<Evidence>)>,
}

impl Chain {
    /// A chain behind a hit.
    pub(crate) fn behind(hit: Hit, evidence: Option<Evidence>) -> Self {
        Self { before: Some((hit, evidence)) }
    }

    /// Gives the next hit its certificate.
    pub(crate) fn link(&mut self, hit: &mut Hit, evidence: Option<Evidence>) {
        hit.certificate =
            self.before.as_ref().map(|(before, before_evidence)| match (before_evidence, &evidence) {
                (Some(a), Some(b)) => certify(a, b),
                _ => by_clocks(before, hit),
            });
        self.before = Some((hit.clone(), evidence));
    }
}

/// Why a hit stands before another one, as far as their own clocks say.
fn by_clocks(one: &Hit, other: &Hit) -> Certificate {
    if one.boot_id != other.boot_id {
        let latest = one.time_ns.saturating_add(one.uncertainty_ns.unwrap_or(u64::MAX));
        let earliest = other.time_ns.saturating_sub(other.uncertainty_ns.unwrap_or(u64::MAX));
        return if latest < earliest { Certificate::Clock } else { Certificate::Ambiguous };
    }
    let moment = |hit: &Hit| (hit.ktime_ns, hit.cpu_seq);
    if moment(one) >= moment(other) {
        return Certificate::Ambiguous;
    }
    let is_same_process = (one.pid, one.process_start_ns) == (other.pid, other.process_start_ns);
    if is_same_process && one.goroutine.is_some() && one.goroutine == other.goroutine {
        return Certificate::SameGoroutine;
    }
    Certificate::SameHost
}

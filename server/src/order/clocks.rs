//! The clocks and the watermark, as the marks in the stream say them.

use std::collections::HashMap;

use riptrace_common::wire::clock::{Assigned, OrderMark};
use serde::{Deserialize, Serialize};

use super::{evidence::Interval, hit::DomainId};

/// Epochs of one clock that are kept: hits wait for a mark or two, not for more steps than this.
const EPOCHS: usize = 4;

/// Servers that lost the lease and are remembered, so that a last mark of theirs does not turn the clocks back.
const FORMER: usize = 16;

/// What the marks say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Clocks {
    /// Who holds the lease, and its last mark.
    holder: Option<(String, u64)>,
    /// Who held it before, and their last marks.
    former: Vec<(String, u64)>,
    /// Counts changes of holder: each has a clock of its own.
    timeline: u64,
    watermark_ns: u64,
    domains: HashMap<DomainId, Vec<Epoch>>,
}

/// A clock's epoch: from its first estimate to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Epoch {
    first_ktime_ns: u64,
    assigned: Assigned,
}

impl Clocks {
    /// Takes a mark over; false: it is a repeated one, or of a server that lost the lease.
    pub fn accept(&mut self, mark: &OrderMark, max_domains: usize) -> bool {
        let follows = match &mut self.holder {
            Some((server, seq)) if *server == mark.server && mark.seq >= *seq => {
                if mark.seq == *seq {
                    return false;
                }
                *seq = mark.seq;
                true
            }
            _ => false,
        };
        if !follows {
            if self.former.iter().any(|(server, last)| *server == mark.server && mark.seq > *last) {
                return false;
            }
            self.former.retain(|(server, _)| *server != mark.server);
            if let Some(holder) = self.holder.replace((mark.server.clone(), mark.seq))
                && holder.0 != mark.server
            {
                self.former.push(holder);
            }
            if self.former.len() > FORMER {
                self.former.remove(0);
            }
            self.timeline += 1;
            self.watermark_ns = 0;
            self.domains.clear();
        }
        self.watermark_ns = self.watermark_ns.max(mark.watermark_ns);
        for clock in mark.clocks.iter().take(max_domains) {
            self.update(DomainId::of(&clock.boot_id), clock.assigned);
        }
        if self.domains.len() > max_domains {
            let kept: std::collections::HashSet<DomainId> =
                mark.clocks.iter().take(max_domains).map(|clock| DomainId::of(&clock.boot_id)).collect();
            self.domains.retain(|domain, _| kept.contains(domain));
        }
        true
    }

    fn update(&mut self, domain: DomainId, assigned: Assigned) {
        let epochs = self.domains.entry(domain).or_default();
        match epochs.last_mut() {
            // Two agents of a host: what is known better or later of the same epoch.
            Some(last) if last.assigned.epoch == assigned.epoch => {
                if assigned.at_ktime_ns >= last.assigned.at_ktime_ns {
                    last.assigned = assigned;
                }
            }
            // Of an epoch that is over. (Counted anew from less, it is a new one: its estimate is younger.)
            Some(last)
                if last.assigned.epoch > assigned.epoch
                    && last.assigned.at_ktime_ns >= assigned.at_ktime_ns => {}
            _ => {
                if epochs.len() >= EPOCHS {
                    epochs.remove(0);
                }
                epochs.push(Epoch { first_ktime_ns: assigned.at_ktime_ns, assigned });
            }
        }
    }

    /// Between which coordinated times a moment was; `None`: the clock is not known.
    pub fn interval(&self, domain: DomainId, ktime_ns: u64) -> Option<Interval> {
        let epochs = self.domains.get(&domain)?;
        let at = epochs.iter().rposition(|epoch| epoch.first_ktime_ns <= ktime_ns).unwrap_or(0);
        let (time_ns, uncertainty_ns) = epochs.get(at)?.assigned.time_of(ktime_ns);
        let interval = Interval { time_ns, uncertainty_ns, timeline: self.timeline };
        // Behind the last estimate of an epoch that ended, before the first of the next: the clock stepped somewhere here.
        match epochs.get(at + 1) {
            Some(next) if epochs[at].assigned.at_ktime_ns < ktime_ns => {
                let (time_ns, uncertainty_ns) = next.assigned.time_of(ktime_ns);
                Some(hull(interval, Interval { time_ns, uncertainty_ns, ..interval }))
            }
            _ => Some(interval),
        }
    }

    pub fn watermark_ns(&self) -> u64 {
        self.watermark_ns
    }

    pub fn raise_watermark(&mut self, watermark_ns: u64) {
        self.watermark_ns = self.watermark_ns.max(watermark_ns);
    }
}

/// The interval that holds both.
fn hull(a: Interval, b: Interval) -> Interval {
    let (earliest, latest) = (a.earliest_ns().min(b.earliest_ns()), a.latest_ns().max(b.latest_ns()));
    let half = (latest - earliest).div_ceil(2);
    Interval { time_ns: earliest + (latest - earliest) / 2, uncertainty_ns: half, ..a }
}

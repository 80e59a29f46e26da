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
    /// Of hosts that this holder has not told of, what the one before told: they may have died in between.
    #[serde(default)]
    left: HashMap<DomainId, Vec<Epoch>>,
    /// What turns times of the holder before into this one's, as the first host says whose clock both told.
    #[serde(default)]
    shift: Option<Shift>,
}

/// How far apart the clocks of two holders are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shift {
    ns: i64,
    uncertainty_ns: u64,
    /// When they were compared, by the clock of the one before.
    at_ns: u64,
}

impl Shift {
    fn apply(&self, interval: Interval) -> Interval {
        let age_ns = u128::from(interval.time_ns.abs_diff(self.at_ns));
        let drift_ns = u64::try_from(age_ns * HOLDERS_DRIFT_PPB / 1_000_000_000).unwrap_or(u64::MAX);
        let uncertainty_ns =
            interval.uncertainty_ns.saturating_add(self.uncertainty_ns).saturating_add(drift_ns);
        Interval { time_ns: interval.time_ns.saturating_add_signed(self.ns), uncertainty_ns, ..interval }
    }
}

/// How much two holders' clocks drift against each other: each at the most 200 ppm against that of a host.
const HOLDERS_DRIFT_PPB: u128 = 400_000;

/// Marks timelines of times that were turned into another holder's. They are for the order only: should the host by which
/// the holders were compared have been suspended in between, they are wrong, so nothing is proven by them.
const TURNED: u64 = 1 << 52;

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
            self.leave();
        }
        self.watermark_ns = self.watermark_ns.max(mark.watermark_ns);
        if self.shift.is_none() {
            self.shift = self.compare(mark);
        }
        for clock in mark.clocks.iter().take(max_domains) {
            let domain = DomainId::of(&clock.boot_id);
            self.left.remove(&domain);
            self.update(domain, clock.assigned);
        }
        if self.domains.len() > max_domains {
            let kept: std::collections::HashSet<DomainId> =
                mark.clocks.iter().take(max_domains).map(|clock| DomainId::of(&clock.boot_id)).collect();
            self.domains.retain(|domain, _| kept.contains(domain));
        }
        true
    }

    /// What is known is by the clock of a holder that is gone. What was left over from the one before that is forgotten, unless
    /// both could be compared.
    fn leave(&mut self) {
        let shift = self.shift.take();
        let before = std::mem::take(&mut self.left);
        self.left = std::mem::take(&mut self.domains);
        let Some(shift) = shift else { return };
        for (domain, mut epochs) in before {
            for Epoch { assigned, .. } in &mut epochs {
                let (time_ns, uncertainty_ns) = assigned.time_of(assigned.at_ktime_ns);
                let turned = shift.apply(Interval { time_ns, uncertainty_ns, timeline: 0 });
                assigned.offset_ns = assigned.offset_ns.saturating_add(shift.ns);
                assigned.uncertainty_ns = turned.uncertainty_ns;
                let growth_ppb = u128::from(assigned.growth_ppb) + HOLDERS_DRIFT_PPB;
                assigned.growth_ppb = growth_ppb.try_into().unwrap_or(assigned.growth_ppb);
            }
            self.left.entry(domain).or_insert(epochs);
        }
    }

    /// Compares the holder's clock with that of the one before, by the host that says it most exactly.
    fn compare(&self, mark: &OrderMark) -> Option<Shift> {
        let shifts = mark.clocks.iter().filter_map(|clock| {
            let at_ktime_ns = clock.assigned.at_ktime_ns;
            let before = interval(self.left.get(&DomainId::of(&clock.boot_id))?, at_ktime_ns, 0)?;
            let (now_ns, uncertainty_ns) = clock.assigned.time_of(at_ktime_ns);
            Some(Shift {
                ns: i64::try_from(i128::from(now_ns) - i128::from(before.time_ns)).ok()?,
                uncertainty_ns: uncertainty_ns.saturating_add(before.uncertainty_ns),
                at_ns: before.time_ns,
            })
        });
        shifts.min_by_key(|shift| (shift.uncertainty_ns, shift.at_ns, shift.ns))
    }

    /// The coordinated time of a moment. Where its clock is not known, `unknown_ns`, or what the holder before would say if
    /// that is less: it orders those among each other of which nothing better is known.
    pub fn time_or_guess_ns(&self, domain: DomainId, ktime_ns: u64, unknown_ns: u64) -> u64 {
        if let Some(interval) = self.interval(domain, ktime_ns) {
            return interval.time_ns;
        }
        let guess = self.left.get(&domain).and_then(|epochs| interval(epochs, ktime_ns, 0));
        guess.map_or(unknown_ns, |guess| guess.time_ns.min(unknown_ns))
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
        if let Some(epochs) = self.domains.get(&domain) {
            return interval(epochs, ktime_ns, self.timeline);
        }
        let shift = self.shift?;
        Some(shift.apply(interval(self.left.get(&domain)?, ktime_ns, self.timeline | TURNED)?))
    }

    pub fn watermark_ns(&self) -> u64 {
        self.watermark_ns
    }

    pub fn raise_watermark(&mut self, watermark_ns: u64) {
        self.watermark_ns = self.watermark_ns.max(watermark_ns);
    }
}

/// Between which times of a clock's epochs a moment was.
fn interval(epochs: &[Epoch], ktime_ns: u64, timeline: u64) -> Option<Interval> {
    let at = epochs.iter().rposition(|epoch| epoch.first_ktime_ns <= ktime_ns).unwrap_or(0);
    let (time_ns, uncertainty_ns) = epochs.get(at)?.assigned.time_of(ktime_ns);
    let interval = Interval { time_ns, uncertainty_ns, timeline };
    // Behind the last estimate of an epoch that ended, before the first of the next: the clock stepped somewhere here.
    match epochs.get(at + 1) {
        Some(next) if epochs[at].assigned.at_ktime_ns < ktime_ns => {
            let (time_ns, uncertainty_ns) = next.assigned.time_of(ktime_ns);
            Some(hull(interval, Interval { time_ns, uncertainty_ns, ..interval }))
        }
        _ => Some(interval),
    }
}

/// The interval that holds both.
fn hull(a: Interval, b: Interval) -> Interval {
    let (earliest, latest) = (a.earliest_ns().min(b.earliest_ns()), a.latest_ns().max(b.latest_ns()));
    let half = (latest - earliest).div_ceil(2);
    Interval { time_ns: earliest + (latest - earliest) / 2, uncertainty_ns: half, ..a }
}

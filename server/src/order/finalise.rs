//! What a mark makes final: all hits that were before the watermark for sure, and what has to stand before those.

use std::collections::HashSet;

use super::{
    hit::DomainId,
    merge::{Contradiction, Lane, Merged, Pending, Slot, merge},
    sequencer::{Domain, Finalized, Sequencer},
};

/// An active host: its hits are to be placed.
pub(super) type Active = (DomainId, Domain);

impl Sequencer {
    /// Places what is before the watermark.
    pub(super) fn finalise(&mut self, arrival: u64) -> Finalized {
        let mut active = self.take_active();
        let watermark_ns = self.clocks.watermark_ns();
        let mut required = Vec::with_capacity(active.len());
        for (id, domain) in &mut active {
            let Some(last) = domain.pending.last() else { continue };
            if self.clocks.interval(*id, last.meta.ktime_ns).is_none() {
                domain.marks_without_clock += 1;
                let waited = domain.marks_without_clock > self.limits.marks_without_clock;
                required.push(if waited { domain.pending.len() } else { late(&domain.pending) });
                continue;
            }
            domain.marks_without_clock = 0;
            required.push(self.before(*id, &domain.pending, watermark_ns));
        }
        self.place_all(active, &required, watermark_ns, arrival)
    }

    /// Places the earlier half of what is pending.
    pub(super) fn finalise_early(&mut self, arrival: u64) -> Finalized {
        let active = self.take_active();
        let latest = |id: DomainId, hit: &Pending| {
            self.clocks.interval(id, hit.meta.ktime_ns).map_or(0, |interval| interval.latest_ns())
        };
        let mut times: Vec<u64> = active
            .iter()
            .flat_map(|(id, domain)| domain.pending.iter().map(|hit| latest(*id, hit)))
            .collect();
        let middle = times.len() / 2;
        let cutoff_ns =
            if times.is_empty() { 0 } else { times.select_nth_unstable(middle).1.saturating_add(1) };
        let mut required: Vec<usize> =
            active.iter().map(|(id, domain)| self.before(*id, &domain.pending, cutoff_ns)).collect();
        if required.iter().all(|count| *count == 0) {
            required = active.iter().map(|(_, domain)| domain.pending.len()).collect();
        }
        self.clocks.raise_watermark(cutoff_ns);
        let mut finalized = self.place_all(active, &required, cutoff_ns, arrival);
        finalized.early = finalized.placed.len();
        finalized.contradictions.push(format!(
            "more than {} hits waited for a mark: the earlier {} are final before the watermark, what is still to come may be late",
            self.limits.pending, finalized.early,
        ));
        finalized
    }

    /// Takes out the hosts that have something pending, by their id, their hits by position.
    fn take_active(&mut self) -> Vec<Active> {
        let mut ids: Vec<DomainId> =
            self.domains.iter().filter(|(_, domain)| !domain.pending.is_empty()).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let mut active: Vec<Active> =
            ids.into_iter().filter_map(|id| Some((id, self.domains.remove(&id)?))).collect();
        for (id, domain) in &mut active {
            let before = domain.pending.len();
            domain.sort();
            self.pending -= before - domain.pending.len();
            // Agents for which nobody waits bring sends whose receives have their place already.
            for hit in domain.pending.iter_mut().filter(|hit| !hit.late) {
                let Some(edge) = &hit.meta.edge else { continue };
                let sent = self.clocks.interval(*id, hit.meta.ktime_ns);
                hit.late = self.messages.is_behind_its_receive(edge, sent);
            }
            // What is before a late hit on its host is late as well.
            let late = late(&domain.pending);
            domain.pending[..late].iter_mut().for_each(|hit| hit.late = true);
        }
        active
    }

    /// How many of a host's hits were before a coordinated time for sure: up to the last one whose own interval says so, as
    /// what is before that on its host was before it. A hit whose clock is not known is taken to have been.
    fn before(&self, id: DomainId, hits: &[Pending], time_ns: u64) -> usize {
        let certain = hits.iter().rposition(|hit| {
            let interval = self.clocks.interval(id, hit.meta.ktime_ns);
            interval.is_none_or(|interval| interval.latest_ns() < time_ns)
        });
        certain.map_or(0, |last| last + 1).max(late(hits))
    }

    fn place_all(
        &mut self,
        mut active: Vec<Active>,
        required: &[usize],
        unknown_ns: u64,
        arrival: u64,
    ) -> Finalized {
        let lanes: Vec<Lane<'_>> = active
            .iter()
            .zip(required)
            .map(|((id, domain), required)| Lane {
                domain: *id,
                hits: &domain.pending,
                required: *required,
                unknown_ns,
            })
            .collect();
        let Merged { order, taken, mut contradictions } = merge(&lanes, &self.clocks, &self.messages);
        contradictions
            .sort_by_key(|found| (lanes[found.receive.lane].domain, found.receive.index, found.circle));
        let mut finalized = Finalized {
            placed: Vec::with_capacity(order.len()),
            contradictions: self.told(&lanes, &contradictions),
            early: 0,
            watermark_ns: self.clocks.watermark_ns(),
        };
        let ignored: HashSet<Slot> =
            contradictions.iter().filter(|found| found.ignored).map(|found| found.receive).collect();
        let uppers = self.upper_bounds(&active, &order);
        let mut hits: Vec<std::vec::IntoIter<Pending>> = active
            .iter_mut()
            .zip(&taken)
            .map(|((_, domain), taken)| {
                let rest = domain.pending.split_off(*taken);
                std::mem::replace(&mut domain.pending, rest).into_iter()
            })
            .collect();
        for slot in order {
            let Some(hit) = hits[slot.lane].next() else { continue };
            let (id, domain) = &mut active[slot.lane];
            let is_ignored = !ignored.is_empty() && ignored.contains(&slot);
            let upper = if hit.late { uppers.get(&slot).copied() } else { None };
            self.pending -= 1;
            self.place(*id, &mut domain.placed, hit, (is_ignored, upper), unknown_ns, &mut finalized);
        }
        self.domains.extend(active);
        self.forget();
        self.position = self.position.max(arrival);
        finalized
    }

    /// Lets go of what is beyond the limits.
    fn forget(&mut self) {
        let before_ns = self.last_place_ns.saturating_sub(self.limits.message_ns);
        self.messages.forget(self.limits.messages, before_ns);
        if self.domains.len() > self.limits.domains {
            let mut idle: Vec<(u64, DomainId)> = self
                .domains
                .iter()
                .filter(|(_, domain)| domain.pending.is_empty())
                .map(|(id, domain)| (domain.placed.last_rank, *id))
                .collect();
            idle.sort_unstable();
            for (_, id) in idle.into_iter().take(self.domains.len() - self.limits.domains) {
                self.domains.remove(&id);
            }
        }
    }

    fn told(&self, lanes: &[Lane<'_>], contradictions: &[Contradiction]) -> Vec<String> {
        let limit = self.limits.contradictions;
        let mut told: Vec<String> =
            contradictions.iter().take(limit).map(|found| tell(lanes, found)).collect();
        if contradictions.len() > limit {
            told.push(format!("{} more messages contradict others", contradictions.len() - limit));
        }
        told
    }
}

/// How many hits at a host's front are late; what is late waits for nothing.
fn late(hits: &[Pending]) -> usize {
    hits.iter().rposition(|hit| hit.late).map_or(0, |last| last + 1)
}

fn tell(lanes: &[Lane<'_>], found: &Contradiction) -> String {
    let receive = &lanes[found.receive.lane].hits[found.receive.index];
    let send = lanes.iter().find(|lane| lane.domain == found.send.domain).and_then(|lane| {
        let index = lane.hits.binary_search_by_key(&found.send.position, |hit| hit.position).ok()?;
        Some(lane.hits[index].meta.key.to_string())
    });
    let send = send.unwrap_or_else(|| "?".to_owned());
    let traceparent = receive.meta.edge.as_ref().map_or("?", |edge| &*edge.traceparent);
    let by_ns = found.by_ns;
    let receive = &receive.meta.key;
    let outcome = if found.ignored { "it is ignored" } else { "the message counts" };
    if found.circle == 0 {
        return format!(
            "message {traceparent}: by the clocks it was sent ({send}) {by_ns} ns after it was received ({receive}); {outcome}"
        );
    }
    format!(
        "message {traceparent}: sent at {send}, received at {receive}, contradicts other messages (a circle of {} hosts, {by_ns} ns by the clocks); {outcome}",
        found.circle
    )
}

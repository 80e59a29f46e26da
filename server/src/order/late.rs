//! Where a late hit stands among those that have their places.

use std::collections::HashMap;

use super::{
    finalise::Active,
    hit::HitKey,
    merge::Slot,
    message::{At, MessageKey},
    sequencer::{Finalized, Sequencer},
    sort_key::SortKey,
};

impl Sequencer {
    /// Before which key each late hit has to stand: that of the next hit of its host, of the receives of what it sends, and
    /// whatever bounds the late hits that are behind it. Told for all of them before the first is placed.
    pub(super) fn upper_bounds(&self, active: &[Active], order: &[Slot]) -> HashMap<Slot, SortKey> {
        let mut bounds = HashMap::new();
        let mut of_lane: Vec<Option<SortKey>> = vec![None; active.len()];
        let mut of_send: HashMap<At, SortKey> = HashMap::new();
        if !active.iter().any(|(_, domain)| domain.pending.first().is_some_and(|hit| hit.late)) {
            return bounds;
        }
        for slot in order.iter().rev() {
            let (id, domain) = &active[slot.lane];
            let hit = &domain.pending[slot.index];
            if !hit.late {
                continue;
            }
            let at = At { domain: *id, position: hit.position };
            let message = hit.meta.edge.as_ref().map(MessageKey::of);
            let found = message.as_ref().and_then(|(key, sends)| Some((self.messages.get(key)?, *sends)));
            let remembered = &domain.placed.remembered;
            let behind = remembered.partition_point(|other| other.position < hit.position);
            let mut upper = least(of_lane[slot.lane], remembered.get(behind).map(|next| next.sort_key));
            if let Some((message, true)) = found {
                upper = least(upper, of_send.get(&at).copied());
                let sent = self.clocks.interval(*id, hit.position.moment.ktime_ns);
                upper = least(upper, message.first_receive(sent));
            }
            let Some(upper) = upper else { continue };
            if let Some((message, false)) = found
                && let [source] = message.sources(at).as_slice()
            {
                let known = of_send.entry(source.at).or_insert(upper);
                *known = upper.min(*known);
            }
            of_lane[slot.lane] = Some(upper);
            bounds.insert(*slot, upper);
        }
        bounds
    }

    /// The place of the send behind which a receive has to stand.
    pub(super) fn sent_key(&self, message: Option<&(MessageKey, bool)>, at: At) -> Option<SortKey> {
        let (key, false) = message? else { return None };
        let message = self.messages.get(key)?;
        message.sources(at).into_iter().filter_map(|send| Some(send.placed.as_ref()?.0)).min()
    }

    /// A late hit's key: at its time, if that is between the bounds.
    pub(super) fn late_key(
        &self,
        key: &HitKey,
        lower: Option<SortKey>,
        upper: Option<SortKey>,
        time_ns: u64,
        finalized: &mut Finalized,
    ) -> SortKey {
        let (sort_key, fits) = SortKey::between(lower, upper, time_ns, self.rank);
        if !fits && finalized.contradictions.len() < self.limits.contradictions {
            finalized.contradictions.push(format!(
                "{key} came late, and what is before it was made final behind what is after it; it stands behind the first",
            ));
        }
        sort_key
    }
}

/// The lesser one, where there is one.
fn least(a: Option<SortKey>, b: Option<SortKey>) -> Option<SortKey> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

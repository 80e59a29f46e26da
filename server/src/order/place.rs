//! Gives one hit its place: number, sort key, evidence, certificate; and learns what it tells of others.

use std::sync::Arc;

use super::{
    evidence::{Evidence, Received, Started, certify},
    frontier::{Bound, Frontier, intersection, learned, union},
    hit::{DomainId, HitMeta, Moment},
    merge::Pending,
    message::{At, MessageKey, Send},
    sequencer::{Finalized, Placed, PlacedDomain, Remembered, Sequencer},
    sort_key::SortKey,
};

impl Sequencer {
    /// Gives a hit its place. Whether what it receives is to be ignored was found out before; also, of a late hit, before
    /// which key it has to stand.
    pub(super) fn place(
        &mut self,
        id: DomainId,
        domain: &mut PlacedDomain,
        hit: Pending,
        (message_is_ignored, upper): (bool, Option<SortKey>),
        unknown_ns: u64,
        finalized: &mut Finalized,
    ) {
        let Pending { position, meta, late } = hit;
        let at = At { domain: id, position };
        let moment = position.moment;
        let process = meta.process_id(id);
        let message = meta.edge.as_ref().map(MessageKey::of);
        // A hit before others of its host that have their place knows only what was known at its own.
        let inserted = domain.last.is_some_and(|last| position < last);
        let behind = domain.remembered.partition_point(|other| other.position < position);
        let before = behind.checked_sub(1).map(|index| &domain.remembered[index]);
        let mut frontier: Frontier = match (inserted, before) {
            (true, Some(before)) => Arc::clone(&before.frontier),
            (false, _) if domain.frontier.is_some() => domain.frontier.clone().unwrap_or_else(nothing),
            _ => nothing(),
        };
        if let Some((key, false)) = &message
            && !message_is_ignored
            && let Some(found) = self.messages.get(key).map(|message| message.sources(at))
        {
            if let Some(news) = told(&found, key) {
                frontier = self.merged(&frontier, &news, id);
                let now = domain.frontier.clone().unwrap_or_else(nothing);
                domain.frontier =
                    Some(if inserted { self.merged(&now, &news, id) } else { Arc::clone(&frontier) });
            }
            let received = on_this_host(&found, key, id);
            if let (Some(received), Some(goroutine)) = (received, meta.goroutine) {
                self.goroutines.learn((process, goroutine), self.limits.goroutines, |facts| {
                    facts.received = Some((moment, received));
                });
            }
        }
        if let (Some(child), Some(by_goroutine)) = (meta.starts_goroutine, meta.goroutine) {
            self.goroutines.learn((process, child), self.limits.goroutines, |facts| {
                facts.started = Some(Started { by_goroutine, at: moment });
            });
        }
        let interval = self.clocks.interval(id, moment.ktime_ns);
        let time_ns = self.clocks.time_or_guess_ns(id, moment.ktime_ns, unknown_ns);
        self.rank += 1;
        let sort_key = if late {
            let lower = before.map(|before| before.sort_key).max(self.sent_key(message.as_ref(), at));
            let key = self.late_key(&meta.key, lower, upper, time_ns, finalized);
            // What is placed in time is behind all that is late and placed before it.
            self.last_place_ns = self.last_place_ns.max(key.place_ns);
            key
        } else {
            self.last_place_ns = time_ns.max(self.last_place_ns.saturating_add(1));
            SortKey { place_ns: self.last_place_ns, fraction: 0, rank: self.rank }
        };
        domain.last = domain.last.max(Some(position));
        domain.last_rank = self.rank;
        domain.remembered.insert(behind, Remembered { position, sort_key, frontier: Arc::clone(&frontier) });
        if domain.remembered.len() > self.limits.remembered {
            domain.remembered.pop_front();
        }
        if let Some((key, _)) = message {
            self.messages.placed(key, at, sort_key, &frontier, interval);
        }
        let (started, received) = self.facts(process, &meta, moment);
        let goroutine = meta.goroutine;
        let evidence =
            Evidence { domain: id, moment, process, goroutine, started, received, interval, frontier };
        self.number(meta, evidence, sort_key, late, finalized);
    }

    /// Gives the hit its number in its session.
    fn number(
        &mut self,
        meta: HitMeta,
        evidence: Evidence,
        sort_key: SortKey,
        late: bool,
        finalized: &mut Finalized,
    ) {
        let HitMeta { key, session, arrival, .. } = meta;
        let room = self.sessions.len() < self.limits.sessions;
        let counted = match &session {
            None => None,
            Some(session) if room || self.sessions.contains_key(session) => {
                Some(self.sessions.entry(session.clone()).or_default())
            }
            Some(session) => {
                if finalized.contradictions.len() < self.limits.contradictions {
                    finalized.contradictions.push(format!(
                        "session {session} is one too many ({} are counted): hits of it have no number",
                        self.limits.sessions
                    ));
                }
                None
            }
        };
        let (order, certificate) = match counted {
            None => (None, None),
            Some(counted) => {
                counted.count += 1;
                let certificate =
                    counted.last.as_ref().filter(|_| !late).map(|last| certify(last, &evidence));
                if !late {
                    counted.last = Some(evidence.clone());
                }
                (Some(counted.count), certificate)
            }
        };
        finalized.placed.push(Placed { key, session, order, sort_key, certificate, late, arrival, evidence });
    }

    fn facts(&self, process: u64, meta: &HitMeta, moment: Moment) -> (Option<Started>, Option<Received>) {
        let facts = meta.goroutine.and_then(|goroutine| self.goroutines.get((process, goroutine)));
        let Some(facts) = facts else { return (None, None) };
        let received = facts.received.filter(|(since, _)| since.precedes_or_is(&moment));
        (facts.started.filter(|started| started.at.precedes(&moment)), received.map(|(_, received)| received))
    }

    fn merged(&self, known: &Frontier, news: &[Bound], own: DomainId) -> Frontier {
        let time_of = |bound: &Bound| {
            self.clocks.interval(bound.domain, bound.until.ktime_ns).map_or(0, |interval| interval.time_ns)
        };
        Arc::from(union(known, news, own, time_of))
    }
}

fn nothing() -> Frontier {
    Arc::from([])
}

/// What a receive tells of other hosts: what is certain whichever send it came from.
fn told(sources: &[&Send], key: &MessageKey) -> Option<Vec<Bound>> {
    let known = |send: &&Send| match &send.placed {
        Some((_, frontier)) => learned(frontier, send.bound(key.carrier)),
        None => vec![send.bound(key.carrier)],
    };
    let (first, others) = sources.split_first()?;
    Some(others.iter().fold(known(first), |certain, send| intersection(&certain, &known(send))))
}

/// The message of the receiver's own host that a receive ends, if it came from there: of several, the first.
fn on_this_host(sources: &[&Send], key: &MessageKey, id: DomainId) -> Option<Received> {
    let first = sources.first()?;
    if sources.iter().any(|send| send.at.domain != id) {
        return None;
    }
    Some(Received {
        process: first.process,
        goroutine: first.goroutine?,
        sent: first.at.position.moment,
        by: key.carrier,
    })
}

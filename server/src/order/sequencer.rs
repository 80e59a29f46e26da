//! What is fed the stream and gives back the order.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
};

use riptrace_common::{
    id::SessionId,
    wire::{clock::OrderMark, event::Certificate},
};
use serde::{Deserialize, Serialize};

use super::{
    clocks::Clocks,
    evidence::{Evidence, Interval},
    frontier::Frontier,
    goroutine::{Facts, GoroutineId, Goroutines},
    hit::{DomainId, HitKey, HitMeta, Position},
    merge::{Lane, Pending, merge},
    message::{At, Message, MessageKey, Messages, Send},
    sort_key::SortKey,
};

/// How much a [`Sequencer`] keeps at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hits that wait for a mark. Of more, the earlier half is made final before the watermark, which is reported.
    pub pending: usize,
    /// Hosts. Of more, those that have nothing pending are forgotten, those with the oldest hits first.
    pub domains: usize,
    /// Sides of messages that were placed, kept for sides that are still to come.
    pub messages: usize,
    /// For how long they are kept, in coordinated time.
    pub message_ns: u64,
    /// Goroutines of which the start or a message is known.
    pub goroutines: usize,
    /// Sessions that are counted. Hits of more get no order number, which is reported.
    pub sessions: usize,
    /// Placed hits of each host that a late hit finds its place among.
    pub remembered: usize,
    /// Marks for which a hit waits for its host's clock to become known.
    pub marks_without_clock: u32,
    /// Contradictions that are told in words at a time; of more, their number.
    pub contradictions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 500_000,
            domains: 16_384,
            messages: 131_072,
            message_ns: 60_000_000_000,
            goroutines: 65_536,
            sessions: 65_536,
            remembered: 512,
            marks_without_clock: 25,
            contradictions: 64,
        }
    }
}

/// A hit that has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The hit.
    pub key: HitKey,
    /// Its session.
    pub session: Option<SessionId>,
    /// Counts the session's hits from 1, without a gap, as they become final; it never changes. A late hit's number is
    /// behind those that were final before it: its place is its sort key's. `None`: it belongs to no session.
    pub order: Option<u64>,
    /// Its place among all hits of the fleet, late ones too. Read hits in this order.
    pub sort_key: SortKey,
    /// Why it stands behind the hit of its session that has the number before it. `None`: there is none, or it is late;
    /// [`super::certify`] says it for the neighbours that a reader sees.
    pub certificate: Option<Certificate>,
    /// It came when what is behind it was final already.
    pub late: bool,
    /// Of [`HitMeta::arrival`].
    pub arrival: u64,
    /// To be kept with the hit.
    pub evidence: Evidence,
}

/// What became final.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finalized {
    /// The hits, in their order (late ones have sort keys of before).
    pub placed: Vec<Placed>,
    /// Messages that contradict each other or the clocks, and what else is not as it should be; for people.
    pub contradictions: Vec<String>,
    /// Hits that became final before the watermark because too many were pending.
    pub early: usize,
    /// Up to which coordinated time the order is final.
    pub watermark_ns: u64,
}

/// A pending hit and what is known of its place so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisional {
    /// The hit.
    pub key: HitKey,
    /// Its session.
    pub session: Option<SessionId>,
    /// Of [`HitMeta::arrival`].
    pub arrival: u64,
    /// When it was, if its clock is known.
    pub interval: Option<Interval>,
    /// It will be late.
    pub late: bool,
}

/// A host.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    pub pending: Vec<Pending>,
    /// `pending` is by position.
    pub sorted: bool,
    pub marks_without_clock: u32,
    pub placed: PlacedDomain,
}

/// What is kept of a host's placed hits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PlacedDomain {
    pub last: Option<Position>,
    pub last_rank: u64,
    /// What is known on this host of others, now.
    pub frontier: Option<Frontier>,
    /// The last ones by their position.
    pub remembered: VecDeque<Remembered>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub position: Position,
    pub sort_key: SortKey,
    pub frontier: Frontier,
}

/// A session's hits so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Counted {
    pub count: u64,
    pub last: Option<Evidence>,
}

/// Puts hits in order. Fed the stream in its order.
#[derive(Clone, Debug, Default)]
pub struct Sequencer {
    pub(super) limits: Limits,
    pub(super) clocks: Clocks,
    pub(super) domains: HashMap<DomainId, Domain>,
    pub(super) messages: Messages,
    pub(super) goroutines: Goroutines,
    pub(super) sessions: HashMap<SessionId, Counted>,
    pub(super) pending: usize,
    pub(super) rank: u64,
    pub(super) last_place_ns: u64,
    /// Where in the stream hits were last made final.
    pub(super) position: u64,
    /// What came up to here was read before, by the sequencer that made the checkpoint from which this one goes on.
    replay_until: Option<u64>,
}

/// What a [`Sequencer`] is besides its pending hits, which are in the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The stream's sequence number from which it must be read again.
    pub floor: u64,
    position: u64,
    rank: u64,
    last_place_ns: u64,
    clocks: Clocks,
    domains: Vec<(DomainId, u32, PlacedDomain)>,
    messages: Vec<(MessageKey, Message)>,
    goroutines: Vec<(GoroutineId, Facts)>,
    sessions: Vec<(SessionId, Counted)>,
}

impl Sequencer {
    /// An empty one, for the beginning of the stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Goes on from a checkpoint. Then feed it the stream from [`Checkpoint::floor`] on; what the checkpoint knows already
    /// is recognised.
    #[must_use]
    pub fn resume(checkpoint: Checkpoint, limits: Limits) -> Self {
        let Checkpoint {
            floor: _,
            position,
            rank,
            last_place_ns,
            clocks,
            domains,
            messages,
            goroutines,
            sessions,
        } = checkpoint;
        let domain = |(id, marks_without_clock, placed)| {
            (id, Domain { pending: Vec::new(), sorted: true, marks_without_clock, placed })
        };
        Self {
            limits,
            clocks,
            domains: domains.into_iter().map(domain).collect(),
            messages: Messages::of(messages),
            goroutines: Goroutines::of(goroutines),
            sessions: sessions.into_iter().collect(),
            pending: 0,
            rank,
            last_place_ns,
            position,
            replay_until: Some(position),
        }
    }

    /// What is to be kept with the hits that the last [`Sequencer::mark`] made final, in one transaction with them, so that
    /// another process can go on from there. It is as large as its limits say, some megabytes when many messages are
    /// under way: once in some seconds is enough, what was made final since comes out the same again.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let mut domains: Vec<_> = self
            .domains
            .iter()
            .filter(|(_, domain)| domain.placed.last.is_some() || domain.marks_without_clock > 0)
            .map(|(id, domain)| (*id, domain.marks_without_clock, domain.placed.clone()))
            .collect();
        domains.sort_unstable_by_key(|(id, ..)| *id);
        let mut sessions: Vec<_> =
            self.sessions.iter().map(|(id, counted)| (id.clone(), counted.clone())).collect();
        sessions.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Checkpoint {
            floor: self.resume_floor(),
            position: self.position,
            rank: self.rank,
            last_place_ns: self.last_place_ns,
            clocks: self.clocks.clone(),
            domains,
            messages: self.messages.saved(),
            goroutines: self.goroutines.saved(),
            sessions,
        }
    }

    /// The stream's sequence number from which a server that goes on from a checkpoint made now must read again: that of the
    /// first message with a hit that is pending.
    #[must_use]
    pub fn resume_floor(&self) -> u64 {
        let pending = self.domains.values().flat_map(|domain| &domain.pending).map(|hit| hit.meta.arrival);
        pending.min().unwrap_or(self.position).min(self.position)
    }

    /// Hits that wait for a mark.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Up to which coordinated time the order is final.
    #[must_use]
    pub fn watermark_ns(&self) -> u64 {
        self.clocks.watermark_ns()
    }

    /// Takes a hit. It gives something back only when too many are pending.
    #[must_use = "hits may have become final"]
    pub fn hit(&mut self, meta: HitMeta) -> Option<Finalized> {
        let id = DomainId::of(&meta.boot_id);
        let position = meta.position();
        let arrival = meta.arrival;
        let replayed = self.replayed(arrival);
        let domain = self.domains.entry(id).or_default();
        let last = domain.placed.last;
        if replayed && last.is_some_and(|last| position <= last) {
            return None;
        }
        if last.is_some_and(|last| position <= last) && domain.placed.holds(position) {
            return None;
        }
        let watermark_ns = self.clocks.watermark_ns();
        let late = !replayed
            && (last.is_some_and(|last| position < last)
                || self
                    .clocks
                    .interval(id, meta.ktime_ns)
                    .is_some_and(|interval| interval.latest_ns() < watermark_ns));
        if let Some(edge) = &meta.edge {
            let (key, sends) = MessageKey::of(edge);
            let at = At { domain: id, position };
            if sends {
                let process = meta.process_id(id);
                let unicast = matches!(&*edge.protocol, "http" | "grpc");
                let goroutine = meta.goroutine;
                self.messages.sent(key, Send { at, process, goroutine, unicast, placed: None });
            } else {
                self.messages.received(key, at);
            }
        }
        domain.sorted &= domain.pending.last().is_none_or(|last| last.position < position);
        domain.pending.push(Pending { position, meta, late });
        self.pending += 1;
        (self.pending > self.limits.pending).then(|| self.finalise_early(arrival))
    }

    /// Takes a mark and gives back what is final by it. `arrival` is its sequence number in the stream.
    ///
    /// Marks of one holder of the lease have rising numbers; another `server`, or a lesser number, is a holder with a clock of
    /// its own. A server that starts anew must be told from its former run: by its name, or by beginning with 1 again.
    pub fn mark(&mut self, mark: &OrderMark, arrival: u64) -> Finalized {
        if self.replayed(arrival) || !self.clocks.accept(mark, self.limits.domains) {
            return Finalized { watermark_ns: self.clocks.watermark_ns(), ..Finalized::default() };
        }
        self.finalise(arrival)
    }

    fn replayed(&self, arrival: u64) -> bool {
        self.replay_until.is_some_and(|until| arrival <= until)
    }

    /// All pending hits, in the order that they have as far as is known now. What comes may still stand between them.
    #[must_use]
    pub fn provisional(&self) -> Vec<Provisional> {
        let mut hits: Vec<(DomainId, Cow<'_, [Pending]>)> = self
            .domains
            .iter()
            .filter(|(_, domain)| !domain.pending.is_empty())
            .map(|(id, domain)| (*id, domain.sorted_pending()))
            .collect();
        hits.sort_unstable_by_key(|(id, _)| *id);
        let unknown_ns = self.clocks.watermark_ns();
        let lanes: Vec<Lane<'_>> = hits
            .iter()
            .map(|(id, hits)| Lane { domain: *id, hits, required: hits.len(), unknown_ns })
            .collect();
        let merged = merge(&lanes, &self.clocks, &self.messages);
        let provisional = |slot: super::merge::Slot| {
            let lane = &lanes[slot.lane];
            let Pending { meta, late, .. } = &lane.hits[slot.index];
            Provisional {
                key: meta.key.clone(),
                session: meta.session.clone(),
                arrival: meta.arrival,
                interval: self.clocks.interval(lane.domain, meta.ktime_ns),
                late: *late,
            }
        };
        merged.order.into_iter().map(provisional).collect()
    }

    /// Forgets a session that was deleted; hits that it still gets are counted from 1 again.
    pub fn forget_session(&mut self, session: &SessionId) {
        self.sessions.remove(session);
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self { pending: Vec::new(), sorted: true, marks_without_clock: 0, placed: PlacedDomain::default() }
    }
}

impl Domain {
    /// By position, each hit once.
    pub fn sort(&mut self) {
        if !std::mem::replace(&mut self.sorted, true) {
            self.pending.sort_by_key(|hit| hit.position);
            self.pending.dedup_by_key(|hit| hit.position);
        }
    }

    fn sorted_pending(&self) -> Cow<'_, [Pending]> {
        if self.sorted {
            return Cow::Borrowed(&self.pending);
        }
        let mut sorted = self.clone();
        sorted.sort();
        Cow::Owned(sorted.pending)
    }
}

impl PlacedDomain {
    /// Whether the hit at a position is known to be placed.
    fn holds(&self, position: Position) -> bool {
        self.remembered.binary_search_by_key(&position, |hit| hit.position).is_ok()
    }
}

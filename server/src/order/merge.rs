//! In which order pending hits are placed: Kahn's algorithm over the hosts. Of each host only its first hit can be next;
//! a receive waits until one of the sends it may have come from was placed; of those that can be next the one with the
//! least corrected time is. If none can be, the messages contradict each other: one is ignored, and reported.
//!
//! The result depends on the hits, their clocks and their messages only, not on any order they are given in.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use super::{
    clocks::Clocks,
    evidence::Interval,
    frontier::Carrier,
    hit::{DomainId, HitMeta, Position},
    message::{At, MessageKey, Messages, ruled_out},
};

/// Hosts of a circle that is found as soon as it closes; a longer one is found when nothing else can be placed.
const CIRCLE: usize = 64;

/// A hit that waits for its place.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub position: Position,
    pub meta: HitMeta,
    /// It came behind the watermark.
    pub late: bool,
}

/// A host's pending hits, by their position, and how many of them are to be placed.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    pub domain: DomainId,
    pub hits: &'a [Pending],
    pub required: usize,
    /// When a hit of a clock that is not known is taken to have happened.
    pub unknown_ns: u64,
}

/// A hit among the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Slot {
    pub lane: usize,
    pub index: usize,
}

/// In which order the required hits are placed.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub order: Vec<Slot>,
    /// How many of each lane; at least what was required, and what had to come before that.
    pub taken: Vec<usize>,
    pub contradictions: Vec<Contradiction>,
}

/// A message that can't be true beside the others, or beside the clocks.
#[derive(Debug)]
pub(super) struct Contradiction {
    pub receive: Slot,
    pub send: At,
    /// The hosts of a circle of messages; none: it is the clocks that say otherwise.
    pub circle: usize,
    /// How much later the send is than the receive by the corrected times.
    pub by_ns: i128,
    /// It has no say in the order.
    pub ignored: bool,
}

/// Where a receive may have come from.
#[derive(Debug, Default)]
struct Sources {
    index: usize,
    /// One of them was placed before.
    satisfied: bool,
    pending: Vec<Slot>,
}

struct Merge<'a> {
    lanes: &'a [Lane<'a>],
    lane_of: HashMap<DomainId, usize>,
    clocks: &'a Clocks,
    messages: &'a Messages,
    taken: Vec<usize>,
    /// Of each lane the receives that have pending sources, by index.
    sources: Vec<Vec<Sources>>,
    /// Of each lane the first of `sources` that was not passed.
    cursor: Vec<usize>,
    next: Vec<usize>,
    waiting: HashMap<Slot, Vec<usize>>,
    parked: Vec<bool>,
    ready: BinaryHeap<Reverse<(u64, DomainId, Position, usize)>>,
    merged: Merged,
}

/// Puts the required hits of all lanes into their order.
pub(super) fn merge(lanes: &[Lane<'_>], clocks: &Clocks, messages: &Messages) -> Merged {
    let mut merge = Merge {
        lanes,
        lane_of: lanes.iter().enumerate().map(|(lane, hits)| (hits.domain, lane)).collect(),
        clocks,
        messages,
        taken: vec![0; lanes.len()],
        sources: (0..lanes.len()).map(|_| Vec::new()).collect(),
        cursor: vec![0; lanes.len()],
        next: vec![0; lanes.len()],
        waiting: HashMap::new(),
        parked: vec![false; lanes.len()],
        ready: BinaryHeap::new(),
        merged: Merged::default(),
    };
    merge.require();
    merge.run();
    Merged { taken: merge.taken, ..merge.merged }
}

impl Merge<'_> {
    /// Takes from each lane what is required, and with it, of each message among it, a send and all that is before that.
    fn require(&mut self) {
        let mut work: Vec<(usize, usize)> =
            self.lanes.iter().enumerate().map(|(lane, hits)| (lane, hits.required)).collect();
        while let Some((lane, until)) = work.pop() {
            for index in self.taken[lane]..until {
                let Some(sources) = self.sources_of(Slot { lane, index }) else { continue };
                if !sources.satisfied
                    && let Some(first) = sources.pending.first()
                    && self.taken[first.lane] <= first.index
                {
                    work.push((first.lane, first.index + 1));
                }
                self.sources[lane].push(sources);
            }
            self.taken[lane] = self.taken[lane].max(until);
        }
    }

    /// The pending sources of a receive, the earliest by the clocks first.
    fn sources_of(&mut self, slot: Slot) -> Option<Sources> {
        let lane = &self.lanes[slot.lane];
        let hit = &lane.hits[slot.index];
        let (key, false) = MessageKey::of(hit.meta.edge.as_ref()?) else { return None };
        let found = self.messages.get(&key)?.sources(At { domain: lane.domain, position: hit.position });
        let mut sources = Sources { index: slot.index, ..Sources::default() };
        for send in &found {
            // Its own host's clock has ordered it already.
            sources.satisfied |= send.placed.is_some() || send.at.domain == lane.domain;
            let Some(&from) = self.lane_of.get(&send.at.domain) else { continue };
            if send.placed.is_none()
                && let Ok(index) =
                    self.lanes[from].hits.binary_search_by_key(&send.at.position, |hit| hit.position)
            {
                sources.pending.push(Slot { lane: from, index });
            }
        }
        if sources.pending.is_empty() {
            return None;
        }
        sources.pending.sort_by_cached_key(|send| self.sort(*send));
        let received = self.interval(slot);
        let first = sources.pending[0];
        if !sources.satisfied && ruled_out(self.interval(first), received) {
            // Nothing arrives before it leaves: what the clocks say is wrong, or the text was used before. But an answer may
            // begin to leave before it is recorded that it does (a body that is streamed).
            let ignored = key.carrier == Carrier::Reply;
            let send = At {
                domain: self.lanes[first.lane].domain,
                position: self.lanes[first.lane].hits[first.index].position,
            };
            let by_ns = i128::from(self.sort(first).0) - i128::from(self.sort(slot).0);
            self.merged.contradictions.push(Contradiction { receive: slot, send, circle: 0, by_ns, ignored });
            if ignored {
                return None;
            }
        }
        Some(sources)
    }

    fn run(&mut self) {
        let total: usize = self.taken.iter().sum();
        self.merged.order.reserve(total);
        for lane in 0..self.lanes.len() {
            self.offer(lane);
        }
        while self.merged.order.len() < total {
            let Some(Reverse((.., lane))) = self.ready.pop() else {
                if self.break_circle() {
                    continue;
                }
                debug_assert!(false, "a lane that is not parked has its first hit ready");
                break;
            };
            let placed = Slot { lane, index: self.next[lane] };
            self.merged.order.push(placed);
            self.next[lane] += 1;
            let woken = if self.waiting.is_empty() { None } else { self.waiting.remove(&placed) };
            let mut woken = woken.unwrap_or_default();
            // All of them first: none that could go on may look as if it waited.
            woken.retain(|lane| std::mem::take(&mut self.parked[*lane]));
            self.offer(lane);
            for lane in woken {
                self.offer(lane);
            }
        }
    }

    /// Lets a lane's first hit be next, unless it is a receive that has to wait.
    fn offer(&mut self, lane: usize) {
        let index = self.next[lane];
        if index >= self.taken[lane] {
            return;
        }
        let cursor = &mut self.cursor[lane];
        while self.sources[lane].get(*cursor).is_some_and(|sources| sources.index < index) {
            *cursor += 1;
        }
        if let Some(sources) = self.sources[lane].get(*cursor)
            && sources.index == index
            && !sources.satisfied
            && !sources.pending.iter().any(|send| send.index < self.next[send.lane])
        {
            self.parked[lane] = true;
            for send in &sources.pending {
                self.waiting.entry(*send).or_default().push(lane);
            }
            if let Some(circle) = self.closes_circle(lane) {
                self.ignore_worst(&circle);
            }
            return;
        }
        let (time_ns, domain, position) = self.sort(Slot { lane, index });
        self.ready.push(Reverse((time_ns, domain, position, lane)));
    }

    /// The circle that a lane closes by waiting, if every lane of it waits for one send only: then no other hit can open it,
    /// and the hits of other hosts need not come first.
    fn closes_circle(&self, lane: usize) -> Option<Vec<usize>> {
        let mut circle = vec![lane];
        while circle.len() <= CIRCLE {
            let at = circle[circle.len() - 1];
            let from = self.waits_for(at)?;
            let alone =
                self.sources[at].get(self.cursor[at]).is_some_and(|sources| sources.pending.len() == 1);
            if !alone || !self.parked[from.lane] {
                return None;
            }
            if from.lane == lane {
                return Some(circle);
            }
            circle.push(from.lane);
        }
        None
    }

    /// Every lane waits for another: somewhere they wait in a circle. False: none waits.
    fn break_circle(&mut self) -> bool {
        let waiting = (0..self.lanes.len()).filter(|lane| self.parked[*lane]);
        let Some(start) = waiting.min_by_key(|lane| self.sort(self.head(*lane))) else { return false };
        let mut path = vec![start];
        let circle = loop {
            let lane = path[path.len() - 1];
            let Some(from) = self.waits_for(lane) else { break vec![lane] };
            if let Some(first) = path.iter().position(|seen| *seen == from.lane) {
                break path.split_off(first);
            }
            path.push(from.lane);
        };
        self.ignore_worst(&circle);
        true
    }

    /// Of a circle's messages, ignores the one that contradicts the clocks most.
    fn ignore_worst(&mut self, circle: &[usize]) {
        let contradiction = |lane: usize| {
            let received = self.sort(self.head(lane)).0;
            let sent = self.waits_for(lane).map_or(received, |send| self.sort(send).0);
            i128::from(sent) - i128::from(received)
        };
        let worst = circle
            .iter()
            .copied()
            .max_by_key(|lane| (contradiction(*lane), Reverse(self.sort(self.head(*lane)))));
        let Some(lane) = worst else { return };
        let by_ns = contradiction(lane);
        if let Some(send) = self.waits_for(lane) {
            let from = &self.lanes[send.lane];
            let send = At { domain: from.domain, position: from.hits[send.index].position };
            let receive = self.head(lane);
            self.merged.contradictions.push(Contradiction {
                receive,
                send,
                circle: circle.len(),
                by_ns,
                ignored: true,
            });
        }
        let cursor = self.cursor[lane];
        self.sources[lane][cursor].satisfied = true;
        self.parked[lane] = false;
        self.offer(lane);
    }

    fn head(&self, lane: usize) -> Slot {
        Slot { lane, index: self.next[lane] }
    }

    /// The send for which a parked lane waits.
    fn waits_for(&self, lane: usize) -> Option<Slot> {
        let sources = self.sources[lane].get(self.cursor[lane])?;
        sources.pending.iter().copied().find(|send| send.index < self.taken[send.lane])
    }

    fn interval(&self, slot: Slot) -> Option<Interval> {
        let lane = &self.lanes[slot.lane];
        self.clocks.interval(lane.domain, lane.hits[slot.index].position.moment.ktime_ns)
    }

    fn sort(&self, slot: Slot) -> (u64, DomainId, Position) {
        let lane = &self.lanes[slot.lane];
        let position = lane.hits[slot.index].position;
        let time_ns = self.clocks.time_or_guess_ns(lane.domain, position.moment.ktime_ns, lane.unknown_ns);
        (time_ns, lane.domain, position)
    }
}

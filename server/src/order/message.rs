//! Messages: which sends and receives carry the same `traceparent`, and which sends a receive may have come from.
//!
//! Usually there is one of each. A `traceparent` can be used more often: one span that sends several messages, a message
//! with many receivers, a service that passes on what it got. Then what is certain is that a receive is behind one of the
//! sends that are possible; the order needs no more, and a certificate claims no more.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use riptrace_common::wire::event::{Direction, Edge};
use serde::{Deserialize, Serialize};

use super::{
    evidence::Interval,
    frontier::{Bound, Carrier, Frontier},
    hit::{DomainId, Position},
    sort_key::SortKey,
};

/// Sends, and receives, of one `traceparent` that are told apart.
const MAX_ENDPOINTS: usize = 16;

/// Which message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct MessageKey {
    pub traceparent: Arc<str>,
    pub carrier: Carrier,
}

impl MessageKey {
    /// Of an edge, and whether it is the sending side.
    pub fn of(edge: &Edge) -> (Self, bool) {
        let (carrier, sends) = match edge.direction {
            Direction::Send => (Carrier::Message, true),
            Direction::Receive => (Carrier::Message, false),
            Direction::ReplySend => (Carrier::Reply, true),
            Direction::ReplyReceive => (Carrier::Reply, false),
        };
        (Self { traceparent: Arc::clone(&edge.traceparent), carrier }, sends)
    }
}

/// Where a hit stands on its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct At {
    pub domain: DomainId,
    pub position: Position,
}

/// A message leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Send {
    pub at: At,
    pub process: u64,
    pub goroutine: Option<u64>,
    /// It has one receiver at the most.
    pub unicast: bool,
    /// Where it was placed, and what was known to precede it.
    pub placed: Option<(SortKey, Frontier)>,
}

impl Send {
    pub fn bound(&self, by: Carrier) -> Bound {
        Bound { domain: self.at.domain, until: self.at.position.moment, by }
    }
}

/// A message enters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Receive {
    pub at: At,
    /// Where it was placed, and when it was.
    pub placed: Option<(SortKey, Option<Interval>)>,
}

/// All that is known of one message. What is in it at a mark does not depend on the order in which its sides came.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Message {
    /// The sends; when there were more than [`MAX_ENDPOINTS`], of each host the first.
    pub sends: Vec<Send>,
    /// The receives; none when there were more than [`MAX_ENDPOINTS`].
    pub receives: Vec<Receive>,
    /// There were more sends.
    many_sends: bool,
    /// There were more receives.
    many_receives: bool,
    /// Sends of more than [`MAX_ENDPOINTS`] hosts: this is no message's name, it orders nothing.
    overused: bool,
    /// The side that was placed last.
    last: Option<SortKey>,
}

impl Message {
    /// The sends from which a receive may have come, by their place; empty: none was seen.
    pub fn sources(&self, receive: At) -> Vec<&Send> {
        let possible = self.possible(receive);
        if possible.len() < 2
            || self.many_sends
            || self.many_receives
            || !self.sends.iter().all(|send| send.unicast)
        {
            return possible;
        }
        // Each send has one receiver: those that must belong to another receive are out. A receive that can come from one send
        // only takes it; that may leave another with one.
        let mut open: Vec<(At, Vec<&Send>)> =
            self.receives.iter().map(|other| (other.at, self.possible(other.at))).collect();
        open.sort_unstable_by_key(|(at, _)| *at);
        while let Some(sure) = open.iter().position(|(_, possible)| possible.len() == 1) {
            let (at, taken) = open.remove(sure);
            if at == receive {
                return taken;
            }
            for (_, possible) in &mut open {
                // What would be left with none was counted wrong (a send was not seen): it keeps what it has.
                if possible.len() > 1 {
                    possible.retain(|send| send.at != taken[0].at);
                }
            }
        }
        open.into_iter().find(|(at, _)| *at == receive).map_or(possible, |(_, possible)| possible)
    }

    /// All but those behind it on its own host.
    fn possible(&self, receive: At) -> Vec<&Send> {
        let mut sends: Vec<&Send> = self
            .sends
            .iter()
            .filter(|send| send.at.domain != receive.domain || send.at.position < receive.position)
            .collect();
        sends.sort_unstable_by_key(|send| send.at);
        sends
    }

    /// The place of the first receive of the only send. Where there are other sends it may have been one of those; and
    /// where the clocks rule it out it was one that was not seen, or the answer began to leave before it was recorded.
    pub fn first_receive(&self, sent: Option<Interval>) -> Option<SortKey> {
        if self.sends.len() != 1 {
            return None;
        }
        let placed = self.receives.iter().filter_map(|receive| receive.placed.as_ref());
        let possible = placed.filter(|(_, received)| !ruled_out(sent, *received));
        possible.map(|(sort_key, _)| *sort_key).min()
    }

    /// Every send has its receive, and nothing more is to come.
    fn is_complete(&self) -> bool {
        self.sends.len() == self.receives.len()
            && !(self.many_sends || self.many_receives)
            && self.sends.iter().all(|send| send.unicast)
            && self.is_settled()
    }

    fn is_settled(&self) -> bool {
        self.sends.iter().all(|send| send.placed.is_some())
            && self.receives.iter().all(|receive| receive.placed.is_some())
    }

    fn send(&mut self, send: Send) {
        if self.overused || self.sends.iter().any(|known| known.at == send.at) {
            return;
        }
        self.sends.push(send);
        if self.many_sends || self.sends.len() > MAX_ENDPOINTS {
            // Whatever send of a host the true one was, it was not before the host's first.
            self.many_sends = true;
            self.sends.sort_unstable_by_key(|send| send.at);
            self.sends.dedup_by_key(|send| send.at.domain);
            if self.sends.len() > MAX_ENDPOINTS {
                self.overused = true;
                self.sends.clear();
            }
        }
    }

    fn receive(&mut self, at: At) {
        if self.many_receives || self.receives.iter().any(|known| known.at == at) {
            return;
        }
        self.receives.push(Receive { at, placed: None });
        if self.receives.len() > MAX_ENDPOINTS {
            self.many_receives = true;
            self.receives.clear();
        }
    }
}

/// Whether the clocks say that something was received before it was sent.
pub(super) fn ruled_out(sent: Option<Interval>, received: Option<Interval>) -> bool {
    matches!((sent, received), (Some(sent), Some(received)) if received.precedes(&sent))
}

/// Messages by their key: those with a side that is pending, and of the others those placed last.
#[derive(Clone, Debug, Default)]
pub(super) struct Messages {
    by_key: HashMap<MessageKey, Message>,
    /// Settled sides by when they were placed; only a message's last entry counts.
    placed: VecDeque<(SortKey, MessageKey)>,
}

impl Messages {
    pub fn get(&self, key: &MessageKey) -> Option<&Message> {
        self.by_key.get(key)
    }

    pub fn sent(&mut self, key: MessageKey, send: Send) {
        self.by_key.entry(key).or_default().send(send);
    }

    /// Whether what an edge sends was received by a hit that has its place: the edge's hit comes too late.
    pub fn is_behind_its_receive(&self, edge: &Edge, sent: Option<Interval>) -> bool {
        let (key, true) = MessageKey::of(edge) else { return false };
        self.by_key.get(&key).is_some_and(|message| message.first_receive(sent).is_some())
    }

    pub fn received(&mut self, key: MessageKey, at: At) {
        self.by_key.entry(key).or_default().receive(at);
    }

    /// A side of a message was placed.
    pub fn placed(
        &mut self,
        key: MessageKey,
        at: At,
        sort_key: SortKey,
        frontier: &Frontier,
        interval: Option<Interval>,
    ) {
        let Some(message) = self.by_key.get_mut(&key) else { return };
        message.last = Some(sort_key);
        for send in message.sends.iter_mut().filter(|send| send.at == at) {
            send.placed = Some((sort_key, Arc::clone(frontier)));
        }
        for receive in message.receives.iter_mut().filter(|receive| receive.at == at) {
            receive.placed = Some((sort_key, interval));
        }
        if message.is_complete() {
            self.by_key.remove(&key);
        } else {
            self.placed.push_back((sort_key, key));
        }
    }

    /// Forgets settled messages, those placed first before others, while there are more than `limit` sides of them or they
    /// were placed before `before_ns`.
    pub fn forget(&mut self, limit: usize, before_ns: u64) {
        while self.placed.len() > limit
            || self.placed.front().is_some_and(|(placed, _)| placed.place_ns < before_ns)
        {
            let Some((placed, key)) = self.placed.pop_front() else { break };
            if self
                .by_key
                .get(&key)
                .is_some_and(|message| message.last == Some(placed) && message.is_settled())
            {
                self.by_key.remove(&key);
            }
        }
    }

    /// The placed sides.
    pub fn saved(&self) -> Vec<(MessageKey, Message)> {
        let mut saved: Vec<(MessageKey, Message)> = self
            .by_key
            .iter()
            .map(|(key, message)| {
                let mut message = message.clone();
                message.sends.retain(|send| send.placed.is_some());
                message.receives.retain(|receive| receive.placed.is_some());
                (key.clone(), message)
            })
            .filter(|(_, message)| message.last.is_some())
            .collect();
        saved.sort_unstable_by_key(|(_, message)| message.last.map(|placed| placed.rank));
        saved
    }

    pub fn of(saved: Vec<(MessageKey, Message)>) -> Self {
        let placed = saved.iter().filter_map(|(key, message)| Some((message.last?, key.clone()))).collect();
        Self { by_key: saved.into_iter().collect(), placed }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }
}

//! `seq` of a tracepoint's hits: dense for each (agent, tracepoint), though the kernel side counts for each build that the
//! tracepoint is armed on, and though a tracepoint may be removed and asked for again. Pure.

use std::collections::{HashMap, VecDeque};

use riptrace_common::{id::TracepointId, wire::event::Stats};

use crate::fast_map::FastMap;

/// Entries of calls that are remembered, so that their ends can name them: as many as can be open.
const MAX_ENTRIES: usize = 64 * 1024;
/// Tracepoints that are gone and whose numbers are remembered.
const MAX_GONE: usize = 20_000;

/// Names an armed place: one tracepoint on one build.
pub type Place = u64;

/// The numbers of one tracepoint's hits.
#[derive(Clone, Debug, Default)]
pub struct Numbering {
    next: u64,
    /// Numbers of the entries of calls, by what the kernel side calls them.
    entries: FastMap<(Place, u64), u64>,
    order: VecDeque<(Place, u64)>,
}

impl Numbering {
    /// Goes on from here.
    #[must_use]
    pub fn from(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// The number of the next hit.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Gives a hit its number.
    pub fn take(&mut self) -> u64 {
        let seq = self.next;
        self.next += 1;
        seq
    }

    /// A record is lost: a number is left out, so that it shows.
    pub fn skip(&mut self) {
        self.next += 1;
    }

    /// Remembers the entry of a call.
    pub fn remember(&mut self, place: Place, kernel_seq: u64, seq: u64) {
        if self.order.len() >= MAX_ENTRIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.entries.insert((place, kernel_seq), seq);
        self.order.push_back((place, kernel_seq));
    }

    /// The number of a call's entry.
    #[must_use]
    pub fn entry(&self, place: Place, kernel_seq: u64) -> Option<u64> {
        self.entries.get(&(place, kernel_seq)).copied()
    }
}

/// Numbers and counters of tracepoints that are gone: should one be asked for again, it goes on where it ended.
#[derive(Debug, Default)]
pub struct Gone {
    next: HashMap<TracepointId, (u64, Stats)>,
    /// The highest number of those that were forgotten.
    floor: u64,
}

impl Gone {
    /// A tracepoint is removed.
    pub fn remember(&mut self, id: TracepointId, numbering: &Numbering, stats: Stats) {
        if self.next.len() >= MAX_GONE {
            self.floor = self.next.values().map(|(next, _)| *next).fold(self.floor, u64::max);
            self.next.clear();
        }
        if numbering.next() > 0 || stats.hits > 0 {
            self.next.insert(id, (numbering.next(), stats));
        }
    }

    /// A tracepoint is asked for.
    pub fn recall(&mut self, id: &TracepointId) -> (Numbering, Stats) {
        let (next, stats) = self.next.remove(id).unwrap_or_else(|| (self.floor, Stats::default()));
        (Numbering::from(next), stats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_when_a_tracepoint_comes_back() {
        let mut gone = Gone::default();
        let id = TracepointId::from("t");
        let (mut numbering, _) = gone.recall(&id);
        assert_eq!((numbering.take(), numbering.take()), (0, 1));
        numbering.skip();
        gone.remember(id.clone(), &numbering, Stats { hits: 3, ..Stats::default() });
        let (mut numbering, stats) = gone.recall(&id);
        assert_eq!((numbering.take(), stats.hits), (3, 3));
        assert_eq!(gone.recall(&TracepointId::from("other")).0.take(), 0);
    }

    #[test]
    fn a_call_s_end_names_its_entry() {
        let mut numbering = Numbering::default();
        numbering.remember(1, 7, 100);
        numbering.remember(2, 7, 101);
        assert_eq!(numbering.entry(1, 7), Some(100));
        assert_eq!(numbering.entry(2, 7), Some(101));
        assert_eq!(numbering.entry(3, 7), None);
        for seq in 0..MAX_ENTRIES as u64 {
            numbering.remember(3, seq, seq);
        }
        assert_eq!(numbering.entry(1, 7), None, "the oldest made room");
        assert_eq!(numbering.entries.len(), MAX_ENTRIES);
    }
}

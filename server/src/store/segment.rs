//! A segment: a stretch of a session's order. Each entry names a hit by its arrival and holds, in columns, what hits are
//! filtered by, so that most of what is not asked for is never unpacked.

use std::{collections::HashMap, sync::Arc};

use super::{
    StoreError, block, bloom,
    hash::{hash, pair},
    varint::{Reader, write, write_signed},
};
use crate::order::{Evidence, Interval, Moment};

/// Entries of a segment; one that late hits made twice as long is cut in two.
pub(crate) const MAX_ENTRIES: usize = 256;
/// Columns that are written as differences.
const COLUMNS: usize = 22;

/// A hit's place, and what it is filtered by. Names are numbers of [`super::names::Names`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its place in the order of the whole stream.
    pub(crate) place: Place,
    /// Its number in the session.
    pub(crate) order: u64,
    /// It came when the order around it was final.
    pub(crate) late: bool,
    pub(crate) arrival: u64,
    pub(crate) time_ns: u64,
    pub(crate) tracepoint: u32,
    pub(crate) host: u32,
    pub(crate) service: u32,
    pub(crate) file: u32,
    pub(crate) line: u32,
    pub(crate) goroutine: Option<u64>,
    /// The trace id as a number; 0: none.
    pub(crate) trace: u128,
    /// Which of the segment's bases its evidence is made of, and what is its own of it.
    pub(crate) base: u32,
    pub(crate) moment: Moment,
    pub(crate) interval: Option<Interval>,
}

/// A place in the order of the whole stream, as [`crate::order`] gives it: larger is later, and no two are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(pub(crate) u64, pub(crate) u64, pub(crate) u64);

impl Place {
    /// Bytes that sort like the places.
    pub(crate) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.1.to_be_bytes());
        bytes[16..].copy_from_slice(&self.2.to_be_bytes());
        bytes
    }

    /// Of [`Place::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; 24]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte));
        Self(word(0), word(8), word(16))
    }
}

/// The number by which a trace is known: its 32 hexadecimal digits, or a hash of what is no such thing.
pub(crate) fn trace_number(trace_id: &str) -> u128 {
    let number =
        Some(trace_id).filter(|text| text.len() == 32).and_then(|text| u128::from_str_radix(text, 16).ok());
    number.filter(|number| *number != 0).unwrap_or_else(|| {
        let half = hash(trace_id.as_bytes());
        (u128::from(half) << 64) | u128::from(pair(half, 1))
    })
}

/// The key of a trace in a segment's filter.
pub(crate) fn trace_key(trace: u128) -> u64 {
    pair((trace >> 64) as u64, trace as u64)
}

/// The key of a goroutine in a segment's filter.
pub(crate) fn goroutine_key(goroutine: u64) -> u64 {
    pair(2, goroutine)
}

/// Tells bases apart, mostly.
fn base_key(evidence: &Evidence) -> u64 {
    let Evidence { domain, process, started, received, frontier, .. } = evidence;
    let started = started.map_or(0, |started| pair(started.by_goroutine, started.at.ktime_ns));
    let received = received.map_or(0, |received| pair(received.process, received.sent.ktime_ns));
    let own = pair(pair(domain.0, *process), pair(started, received));
    frontier.iter().fold(own, |key, bound| pair(key, pair(bound.domain.0, bound.until.ktime_ns)))
}

/// Entries, by their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) entries: Vec<Entry>,
    /// What the evidence of many entries has in common: all but moment, interval and goroutine. Each once.
    bases: Vec<Evidence>,
    /// The last base with a key.
    known: HashMap<u64, u32>,
}

impl Segment {
    /// Sets an entry's evidence.
    pub(crate) fn set_evidence(&mut self, entry: &mut Entry, evidence: &Evidence) {
        entry.moment = evidence.moment;
        entry.interval = evidence.interval;
        entry.base = self.base(evidence);
    }

    /// An entry's evidence.
    pub(crate) fn evidence(&self, entry: &Entry) -> Option<Evidence> {
        let base = self.bases.get(entry.base as usize)?.clone();
        Some(Evidence { moment: entry.moment, interval: entry.interval, goroutine: entry.goroutine, ..base })
    }

    fn base(&mut self, evidence: &Evidence) -> u32 {
        let is_same = |base: &Evidence| {
            let Evidence {
                domain,
                moment: _,
                process,
                goroutine: _,
                started,
                received,
                interval: _,
                frontier,
            } = base;
            (*domain, *process) == (evidence.domain, evidence.process)
                && (started, received) == (&evidence.started, &evidence.received)
                && (Arc::ptr_eq(frontier, &evidence.frontier) || *frontier == evidence.frontier)
        };
        let is_at = |number: &u32| self.bases.get(*number as usize).is_some_and(is_same);
        if let Some(last) = self.entries.last().map(|last| last.base).filter(is_at) {
            return last;
        }
        let key = base_key(evidence);
        if let Some(known) = self.known.get(&key).copied().filter(is_at) {
            return known;
        }
        let number = self.bases.len() as u32;
        self.bases.push(Evidence {
            moment: Moment::default(),
            interval: None,
            goroutine: None,
            ..evidence.clone()
        });
        self.known.insert(key, number);
        number
    }

    /// Puts an entry behind all others.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Puts a late entry where its place is. False: it is there already.
    pub(crate) fn insert(&mut self, entry: Entry) -> bool {
        let Err(at) = self.entries.binary_search_by_key(&entry.place, |other| other.place) else {
            return false;
        };
        self.entries.insert(at, entry);
        true
    }

    /// What a segment is found by: the place of its first entry.
    pub(crate) fn first(&self) -> Place {
        self.entries.first().map(|first| first.place).unwrap_or_default()
    }

    /// Cuts off the second half of a segment that is too long.
    pub(crate) fn split(&mut self) -> Option<Self> {
        if self.entries.len() <= 2 * MAX_ENTRIES {
            return None;
        }
        let behind = self.entries.split_off(self.entries.len() / 2);
        let before = std::mem::take(&mut self.entries);
        let whole = std::mem::take(self);
        let half = |entries: Vec<Entry>| {
            let mut segment = Self::default();
            for mut entry in entries {
                if let Some(evidence) = whole.evidence(&entry) {
                    segment.set_evidence(&mut entry, &evidence);
                }
                segment.entries.push(entry);
            }
            segment
        };
        *self = half(before);
        Some(half(behind))
    }

    pub(crate) fn oldest(&self) -> u64 {
        self.entries.iter().map(|entry| entry.arrival).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn newest(&self) -> u64 {
        self.entries.iter().map(|entry| entry.arrival).max().unwrap_or(0)
    }

    /// The filter of its traces and goroutines.
    pub(crate) fn keys(&self) -> Vec<u8> {
        let mut keys: Vec<u64> = Vec::with_capacity(self.entries.len() / 4);
        for entry in &self.entries {
            keys.extend(entry.goroutine.map(goroutine_key));
            keys.extend((entry.trace != 0).then(|| trace_key(entry.trace)));
        }
        keys.sort_unstable();
        keys.dedup();
        bloom::build(keys.into_iter())
    }

    pub(crate) fn pack(&self, compressor: &mut block::Compressor) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::with_capacity(self.entries.len() * 24);
        write(&mut out, self.entries.len() as u64);
        let mut deltas = |column: &dyn Fn(&Entry) -> u64| {
            let mut last = 0_u64;
            for entry in &self.entries {
                let value = column(entry);
                write_signed(&mut out, value.wrapping_sub(last) as i64);
                last = value;
            }
        };
        deltas(&|entry| entry.place.0);
        deltas(&|entry| entry.place.1);
        deltas(&|entry| entry.place.2);
        deltas(&|entry| entry.order);
        deltas(&|entry| u64::from(entry.late));
        deltas(&|entry| entry.arrival);
        deltas(&|entry| entry.time_ns);
        deltas(&|entry| u64::from(entry.tracepoint));
        deltas(&|entry| u64::from(entry.host));
        deltas(&|entry| u64::from(entry.service));
        deltas(&|entry| u64::from(entry.file));
        deltas(&|entry| u64::from(entry.line));
        deltas(&|entry| u64::from(entry.goroutine.is_some()));
        deltas(&|entry| entry.goroutine.unwrap_or(0));
        deltas(&|entry| u64::from(entry.base));
        deltas(&|entry| entry.moment.ktime_ns);
        deltas(&|entry| u64::from(entry.moment.cpu));
        deltas(&|entry| entry.moment.cpu_seq);
        deltas(&|entry| u64::from(entry.interval.is_some()));
        deltas(&|entry| entry.interval.map_or(0, |interval| interval.time_ns));
        deltas(&|entry| entry.interval.map_or(0, |interval| interval.uncertainty_ns));
        deltas(&|entry| entry.interval.map_or(0, |interval| interval.timeline));
        // Traces are random: the same one has the same bytes, which is all that can be saved.
        let mut traces: Vec<u128> = Vec::new();
        for entry in &self.entries {
            let at = traces.iter().rposition(|trace| *trace == entry.trace).unwrap_or_else(|| {
                traces.push(entry.trace);
                traces.len() - 1
            });
            write(&mut out, at as u64);
        }
        write(&mut out, traces.len() as u64);
        traces.iter().for_each(|trace| out.extend_from_slice(&trace.to_le_bytes()));
        serde_json::to_writer(&mut out, &self.bases)?;
        compressor.pack(&out)
    }

    pub(crate) fn unpack(packed: &[u8]) -> Result<Self, StoreError> {
        Self::of_plain(&block::unpack(packed)?)
            .ok_or(StoreError::Corrupt { what: "a segment whose columns do not fit" })
    }

    fn of_plain(plain: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(plain);
        let count = reader.count()?;
        let mut columns = [const { Vec::new() }; COLUMNS];
        for column in &mut columns {
            let mut last = 0_u64;
            for _ in 0..count {
                last = last.wrapping_add(reader.i64()? as u64);
                column.push(last);
            }
        }
        let indices = (0..count).map(|_| reader.u64()).collect::<Option<Vec<_>>>()?;
        let mut traces = Vec::new();
        for _ in 0..reader.count()? {
            traces.push(u128::from_le_bytes(reader.bytes(16)?.try_into().ok()?));
        }
        let bases: Vec<Evidence> = serde_json::from_slice(reader.rest()).ok()?;
        let mut entries = Vec::with_capacity(count);
        for at in 0..count {
            let number = |column: usize| u32::try_from(columns[column][at]).ok();
            entries.push(Entry {
                place: Place(columns[0][at], columns[1][at], columns[2][at]),
                order: columns[3][at],
                late: columns[4][at] != 0,
                arrival: columns[5][at],
                time_ns: columns[6][at],
                tracepoint: number(7)?,
                host: number(8)?,
                service: number(9)?,
                file: number(10)?,
                line: number(11)?,
                goroutine: (columns[12][at] != 0).then_some(columns[13][at]),
                base: number(14)?,
                moment: Moment { ktime_ns: columns[15][at], cpu: number(16)?, cpu_seq: columns[17][at] },
                interval: (columns[18][at] != 0).then_some(Interval {
                    time_ns: columns[19][at],
                    uncertainty_ns: columns[20][at],
                    timeline: columns[21][at],
                }),
                trace: *traces.get(usize::try_from(indices[at]).ok()?)?,
            });
        }
        let known = (0..).zip(&bases).map(|(number, base)| (base_key(base), number)).collect();
        Some(Self { entries, bases, known })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::order::DomainId;

    fn entry(order: u64, arrival: u64) -> Entry {
        Entry {
            place: Place(order * 1000, 0, order),
            order,
            late: false,
            arrival,
            time_ns: 1_795_608_000_000_000_000 + order * 1000,
            tracepoint: 3,
            host: 1,
            service: 2,
            file: 9,
            line: 42,
            goroutine: Some(order % 5),
            trace: u128::from(order % 3),
            ..Entry::default()
        }
    }

    fn evidence(base: u64, ktime_ns: u64) -> Evidence {
        Evidence {
            domain: DomainId(base),
            moment: Moment { ktime_ns, cpu: 1, cpu_seq: ktime_ns },
            process: 7,
            goroutine: Some(3),
            started: None,
            received: None,
            interval: Some(Interval { time_ns: ktime_ns + 5, uncertainty_ns: 10, timeline: 1 }),
            frontier: Arc::from([]),
        }
    }

    fn with_evidence(segment: &mut Segment, mut entry: Entry, base: u64) -> Entry {
        let evidence = evidence(base, entry.order);
        segment.set_evidence(&mut entry, &evidence);
        entry
    }

    #[test]
    fn entries_come_back_and_take_little_room() {
        let mut segment = Segment::default();
        for n in 0..MAX_ENTRIES as u64 {
            let entry = with_evidence(&mut segment, entry(n, 4096 * 7 + n), n / 100);
            segment.push(entry);
        }
        assert_eq!(segment.bases.len(), 3);
        let packed = segment.pack(&mut block::Compressor::new().unwrap()).unwrap();
        assert!(packed.len() < 8 * MAX_ENTRIES, "{} bytes", packed.len());
        let unpacked = Segment::unpack(&packed).unwrap();
        assert_eq!(unpacked, segment);
        for entry in &unpacked.entries {
            let expect = Evidence { goroutine: entry.goroutine, ..evidence(entry.order / 100, entry.order) };
            assert_eq!(unpacked.evidence(entry), Some(expect));
        }
        assert!(bloom::may_have(&segment.keys(), trace_key(2)));
        assert!(bloom::may_have(&segment.keys(), goroutine_key(4)));
        assert!(!bloom::may_have(&segment.keys(), goroutine_key(5)));
    }

    #[test]
    fn a_late_entry_stands_at_its_place() {
        let mut segment = Segment::default();
        for n in 0..3 {
            segment.entries.push(entry(n, n));
        }
        for (arrival, time) in [(10, 1030), (11, 1020), (11, 1020)] {
            segment.insert(Entry { late: true, place: Place(time, 1, arrival), ..entry(1, arrival) });
        }
        let arrivals: Vec<u64> = segment.entries.iter().map(|entry| entry.arrival).collect();
        assert_eq!(arrivals, [0, 1, 11, 10, 2]);
    }

    #[test]
    fn a_segment_that_late_entries_made_long_is_cut_and_nothing_is_lost() {
        let mut segment = Segment::default();
        let first = with_evidence(&mut segment, entry(1, 1), 1000);
        segment.push(first);
        for n in 0..2 * MAX_ENTRIES as u64 {
            let entry = with_evidence(&mut segment, entry(1, 10 + n), n / 300);
            segment.insert(Entry { late: true, place: Place(1000, n, 7), ..entry });
        }
        let whole = segment.clone();
        let behind = segment.split().unwrap();
        assert!(segment.first() < behind.first());
        let all = |segment: &Segment| -> Vec<_> {
            segment.entries.iter().map(|entry| (entry.arrival, segment.evidence(entry).unwrap())).collect()
        };
        assert_eq!([all(&segment), all(&behind)].concat(), all(&whole));
        assert_eq!(segment.split(), None);
    }

    #[test]
    fn a_trace_is_its_digits_or_a_hash() {
        assert_eq!(trace_number("0000000000000000000000000000002a"), 42);
        assert_ne!(trace_number("x"), trace_number("y"));
        assert_ne!(trace_number(""), 0);
        assert_ne!(trace_number("00000000000000000000000000000000"), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = Segment::of_plain(&bytes);
            let _ = Segment::unpack(&bytes);
        }
    }
}

//! From messages of the stream to hits in the store with their places: the one thread that writes.
//!
//! Everything that is kept follows from the stream, so a server that was killed reads again what it had not written, from
//! the last snapshot of the order's state on; what is stored already is recognised.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::Arc,
    time::{Duration, Instant},
};

use riptrace_common::{
    id::{AgentId, TracepointId},
    wire::{
        batch::{Batch, Heartbeat, PreviousRun, PreviousTracepoint},
        clock::OrderMark,
        event::{Attached, Detached, Event},
        subject::Subjects,
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Fetched,
    decode::{Decoded, decode},
    trace_ids::TraceIds,
};
use crate::{
    fleet::Fleet,
    order::{Checkpoint, Finalized, HitMeta, Limits, Sequencer},
    store::{self, HostStats, Incoming, Placement, Store, StoreError, Stream, Taken, Turn},
};

/// A snapshot of the order's state is written so often: so much is read again after a crash.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(5);

/// Less often where it takes long: at the most this part of the time is spent on it, but one is written so often.
const SNAPSHOT_SHARE: u32 = 20;
const MAX_SNAPSHOT_PERIOD: Duration = Duration::from_secs(60);

/// zstd's level: the state is text in which much repeats.
const SNAPSHOT_LEVEL: i32 = 1;

/// Bytes of text that a snapshot has at the most. One of the busiest fleet that was simulated has 148 MB.
const MAX_SNAPSHOT_BYTES: u64 = 2 << 30;

/// A commit that failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);

/// Bits of an arrival that count within a message.
const ARRIVALS_PER_MESSAGE: u64 = store::MAX_HITS_PER_BATCH as u64;

/// What is kept beside the hits.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    order: Checkpoint,
    trace_ids: TraceIds,
    /// The last message that `trace_ids` has seen.
    position: u64,
    contradictions: Vec<String>,
}

impl Snapshot {
    fn pack(&self) -> io::Result<Vec<u8>> {
        let mut packed = zstd::stream::Encoder::new(Vec::new(), SNAPSHOT_LEVEL)?;
        serde_json::to_writer(&mut packed, self)?;
        packed.finish()
    }

    fn unpack(packed: &[u8]) -> io::Result<Self> {
        let mut text = Vec::new();
        zstd::stream::Decoder::new(packed)?.take(MAX_SNAPSHOT_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

fn turn(
    host: &Arc<str>,
    agent: &AgentId,
    tracepoint: Arc<str>,
    (batch, index): (u64, usize),
    is_end: bool,
) -> Turn {
    let at = store::arrival(batch, index);
    Turn { host: Arc::clone(host), agent: agent.clone(), tracepoint, at, is_end }
}

/// What an [`Indexer`] works on.
pub struct Indexer {
    fleet: Arc<Fleet>,
    store: Store,
    subjects: Subjects,
    sequencer: Sequencer,
    trace_ids: TraceIds,
    /// Messages up to here told `trace_ids` what they had to tell, before the snapshot was made.
    known_until: u64,
    /// The last message that was taken.
    position: u64,
    stream: Option<Stream>,
    contradictions: Contradictions,
    uncommitted: bool,
    /// When the next one is due.
    snapshot_at: Instant,
    told_watermark_ns: u64,
}

/// The last contradictions; of all, their number.
#[derive(Debug, Default)]
struct Contradictions {
    last: Vec<String>,
}

impl Contradictions {
    const KEPT: usize = 64;

    fn add(&mut self, news: Vec<String>) {
        for text in news {
            tracing::warn!(text, "the order has a contradiction");
            self.last.push(text);
        }
        let over = self.last.len().saturating_sub(Self::KEPT);
        self.last.drain(..over);
    }
}

impl Indexer {
    /// Goes on where the store was left. Read the stream from [`Indexer::next`] on.
    ///
    /// # Errors
    ///
    /// The store can't be read.
    pub fn resume(fleet: Arc<Fleet>, store: Store, subjects: Subjects) -> Result<Self, StoreError> {
        let resume = store.resume()?;
        let snapshot = resume.snapshot.as_deref().map(Snapshot::unpack);
        let snapshot = match snapshot {
            None => None,
            Some(Ok(snapshot)) => Some(snapshot),
            Some(Err(error)) => {
                // Of an older version: the stream has everything that the state was made of, as far back as it goes.
                tracing::warn!(%error, "the order's state can't be read; it is made anew from the stream");
                None
            }
        };
        let mut indexer = Self {
            fleet,
            store,
            subjects,
            sequencer: Sequencer::new(Limits::default()),
            trace_ids: TraceIds::default(),
            known_until: 0,
            position: 0,
            stream: resume.stream,
            contradictions: Contradictions::default(),
            uncommitted: false,
            snapshot_at: Instant::now() + SNAPSHOT_PERIOD,
            told_watermark_ns: 0,
        };
        if let Some(Snapshot { order, trace_ids, position, contradictions }) = snapshot {
            // The message at the floor is read again: part of it may be pending.
            indexer.position = (order.floor / ARRIVALS_PER_MESSAGE).saturating_sub(1);
            indexer.sequencer = Sequencer::resume(order, Limits::default());
            indexer.trace_ids = trace_ids;
            indexer.known_until = position;
            indexer.fleet.set_contradictions(contradictions.clone());
            indexer.contradictions.last = contradictions;
        }
        // Of a stream that is gone nothing can be read again.
        indexer.take_unplaced(indexer.base())?;
        Ok(indexer)
    }

    /// The sequence of the stream's message that is to be read next.
    #[must_use]
    pub fn next(&self) -> u64 {
        (self.position + 1).saturating_sub(self.base()).max(1)
    }

    /// When the stream was made that was read so far, if that is known.
    #[must_use]
    pub fn stream(&self) -> Option<i64> {
        self.stream.map(|stream| stream.created_ns)
    }

    fn base(&self) -> u64 {
        self.stream.map_or(0, |stream| stream.base)
    }

    /// What comes from here on is of this stream; `anew`: it is another one than before, read from its beginning. False: it
    /// was asked to stop.
    pub fn begin(&mut self, created_ns: i64, anew: bool, stop: &watch::Receiver<bool>) -> bool {
        let mut base = self.base();
        if anew {
            base = self.position.max(self.known_until).max(self.store.totals().position);
            if let Err(error) = self.take_unplaced(base) {
                tracing::warn!(%error, "hits of the stream before have no final place");
            }
            self.position = base;
        }
        let stream = Stream { created_ns, base };
        self.stream = Some(stream);
        // Kept before anything of it is: what is read twice is known by its number.
        while let Err(error) = self.store.keep_stream(stream) {
            self.fleet.set_problem("store", Some(error.to_string()));
            if *stop.borrow() || stop.has_changed().is_err() {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        true
    }

    /// Has the hits ordered that are in the store and have no place, behind what was taken up to a message.
    fn take_unplaced(&mut self, until: u64) -> Result<(), StoreError> {
        if until <= self.position {
            return Ok(());
        }
        for (arrival, hit) in self.store.unplaced(self.position, until)? {
            if let Some(early) = self.sequencer.hit(HitMeta::of(&hit, arrival)) {
                self.place(early);
            }
        }
        Ok(())
    }

    /// Takes a message.
    pub fn take(&mut self, fetched: &Fetched) {
        let number = self.base() + fetched.stream_seq;
        if number <= self.position {
            return;
        }
        match decode(&self.subjects, &fetched.subject, &fetched.payload) {
            Ok(Decoded::Batch(batch)) => self.batch(number, *batch),
            Ok(Decoded::Mark(mark)) => self.mark(number, &mark),
            Err(problem) => {
                self.fleet.malformed(&format!("message {} of the stream: {problem}", fetched.stream_seq));
            }
        }
        self.position = number;
        self.uncommitted = true;
    }

    fn batch(&mut self, stream_seq: u64, batch: Batch) {
        let Batch { host, agent, boot_id: _, seq, events } = batch;
        self.store.batches([(&agent, host.as_str(), seq)]);
        let host: Arc<str> = host.into();
        let mut incoming = Vec::with_capacity(events.len());
        let mut stats = Vec::new();
        let mut turns = Vec::new();
        let mut services = HashMap::new();
        let mut is_news = false;
        for (index, event) in events.into_iter().enumerate() {
            match event {
                Event::Hit(mut hit) => {
                    if stream_seq > self.known_until {
                        self.trace_ids.take(&mut hit);
                    }
                    let service = services
                        .entry((hit.pid, hit.process_start_ns, Arc::clone(&hit.tracepoint)))
                        .or_insert_with(|| Arc::<str>::from(self.fleet.service_of(&hit)));
                    incoming.push(Incoming { stream_seq, index, service: Arc::clone(service), hit: *hit });
                }
                Event::Stats(told) => {
                    let session = self.fleet.session_of(&TracepointId(Arc::clone(&told.tracepoint)));
                    stats.push(HostStats {
                        host: Arc::clone(&host),
                        agent: agent.clone(),
                        session,
                        stats: told,
                    });
                }
                Event::Attached(Attached { tracepoint, .. }) => {
                    is_news = true;
                    turns.push(turn(&host, &agent, tracepoint, (seq, index), false));
                }
                Event::Detached(Detached { tracepoint, .. }) => {
                    is_news = true;
                    turns.push(turn(&host, &agent, tracepoint, (seq, index), true));
                }
                Event::PreviousRun(run) => self.previous_run(&host, run, &mut stats, &mut turns),
                Event::Budget(_) | Event::Moved(_) | Event::Error(_) => is_news = true,
                Event::Unknown => {}
            }
        }
        for (incoming, taken) in incoming.iter().zip(self.store.ingest(&incoming)) {
            let (Taken::New(arrival) | Taken::Replayed(arrival)) = taken else { continue };
            if let Some(early) = self.sequencer.hit(HitMeta::of(&incoming.hit, arrival)) {
                self.place(early);
            }
        }
        self.store.stats(&stats);
        self.store.turns(&turns);
        if is_news {
            self.fleet.report_is_stale(&host);
        }
    }

    /// An agent accounts for the run before its own.
    fn previous_run(
        &self,
        host: &Arc<str>,
        run: PreviousRun,
        stats: &mut Vec<HostStats>,
        turns: &mut Vec<Turn>,
    ) {
        let PreviousRun { agent, exact, tracepoints, .. } = run;
        if self.store.host_of(&agent).is_some_and(|known| known != *host) {
            self.fleet.malformed(&format!("{host:?} told of a run of another host's agent, {agent}"));
            return;
        }
        for PreviousTracepoint { session, stats: told } in tracepoints {
            let tracepoint = Arc::clone(&told.tracepoint);
            let session = session.or_else(|| self.fleet.session_of(&TracepointId(Arc::clone(&tracepoint))));
            stats.push(HostStats { host: Arc::clone(host), agent: agent.clone(), session, stats: told });
            if exact {
                let host = Arc::clone(host);
                turns.push(Turn { host, agent: agent.clone(), tracepoint, at: Turn::LAST, is_end: true });
            }
        }
    }

    fn mark(&mut self, stream_seq: u64, mark: &OrderMark) {
        self.store.mark(mark);
        let finalized = self.sequencer.mark(mark, store::arrival(stream_seq, 0));
        self.place(finalized);
        self.fleet.take_mark(mark);
    }

    fn place(&mut self, finalized: Finalized) {
        let Finalized { placed, contradictions, early, watermark_ns: _ } = finalized;
        if early > 0 {
            tracing::warn!(early, "hits became final before the watermark: too many were waiting");
        }
        if !contradictions.is_empty() {
            self.contradictions.add(contradictions);
            self.fleet.set_contradictions(self.contradictions.last.clone());
        }
        let placements: Vec<Placement> = placed
            .into_iter()
            .filter_map(|placed| {
                // What belongs to no session is not numbered, and not stored.
                let order = placed.order?;
                Some(Placement {
                    arrival: placed.arrival,
                    order,
                    place: placed.sort_key.into(),
                    late: placed.late,
                    evidence: placed.evidence,
                })
            })
            .collect();
        self.store.place(&placements);
    }

    /// Notes what an agent says of its losses.
    pub fn heard(&mut self, heartbeat: &Heartbeat) {
        self.store.heard([heartbeat]);
        self.uncommitted = true;
    }

    /// Writes what was taken. When it can't (the disk is full), it waits and tries again; meanwhile nothing more is taken, and
    /// the stream keeps it. False: it was asked to stop.
    pub fn commit(&mut self, stop: &watch::Receiver<bool>) -> bool {
        if !self.uncommitted {
            return true;
        }
        let begin = Instant::now();
        if begin < self.snapshot_at {
            return self.write(None, stop);
        }
        let snapshot = self.snapshot();
        let written = self.write(snapshot.as_deref(), stop);
        self.snapshot_at =
            Instant::now() + (begin.elapsed() * SNAPSHOT_SHARE).clamp(SNAPSHOT_PERIOD, MAX_SNAPSHOT_PERIOD);
        written
    }

    /// Writes everything, and a snapshot.
    pub fn close(&mut self, stop: &watch::Receiver<bool>) {
        let snapshot = self.snapshot();
        self.write(snapshot.as_deref(), stop);
    }

    fn write(&mut self, snapshot: Option<&[u8]>, stop: &watch::Receiver<bool>) -> bool {
        while let Err(error) = self.store.commit(self.position, snapshot) {
            self.fleet.set_problem("store", Some(error.to_string()));
            if *stop.borrow() || stop.has_changed().is_err() {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        self.fleet.set_problem("store", None);
        self.uncommitted = false;
        let watermark_ns = self.sequencer.watermark_ns();
        if watermark_ns != self.told_watermark_ns {
            self.told_watermark_ns = watermark_ns;
            self.fleet.tell_watermark(watermark_ns);
        }
        true
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        let snapshot = Snapshot {
            order: self.sequencer.checkpoint(),
            trace_ids: self.trace_ids.clone(),
            position: self.position.max(self.known_until),
            contradictions: self.contradictions.last.clone(),
        };
        snapshot
            .pack()
            .inspect_err(|error| tracing::error!(%error, "the order's state can't be written"))
            .ok()
    }
}

#[cfg(test)]
#[path = "indexer_tests.rs"]
mod tests;

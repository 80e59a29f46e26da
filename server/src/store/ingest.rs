//! What comes from the stream is put together in memory, until a commit writes it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use riptrace_common::{
    id::AgentId,
    wire::{
        batch::Heartbeat,
        clock::OrderMark,
        event::{Hit, Stats},
    },
};
use rusqlite::Connection;

use super::{
    HostStats, Incoming, Placement, SessionRow, Store, Taken, Turn, arrival,
    block::{Builder, Compressor},
    hash::Done,
    names::{Latest, Names},
    seen::Seen,
    segment::{Entry, MAX_ENTRIES, Place, Segment, trace_number},
    terms::Terms,
};
use crate::order::Evidence;

/// The writer's side of a store: its connection, and what is not in the file yet.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) connection: Connection,
    pub(super) compressor: Compressor,
    pub(super) full_text: bool,
    pub(super) names: Names,
    /// Of the names, those that are in the file.
    pub(super) names_saved: usize,
    pub(super) sessions: HashMap<u32, Session>,
    pub(super) runs: HashMap<(u32, u32), Run>,
    pub(super) agents: HashMap<u32, Agent>,
    /// The session of each hit that is not placed.
    pub(super) unplaced: HashMap<u64, u32, std::hash::BuildHasherDefault<Done>>,
    /// The largest stream sequence of which a hit is in the file: what comes up to it came before.
    pub(super) known_until: u64,
    /// The largest of which a hit came.
    pub(super) reached: u64,
    pub(super) watermark_ns: u64,
    pub(super) foreign: u64,
    pub(super) duplicates: u64,
    pub(super) out_of_sequence: u64,
    latest: LatestNames,
}

#[derive(Debug, Default)]
struct LatestNames {
    session: Latest,
    agent: Latest,
    tracepoint: Latest,
    host: Latest,
    service: Latest,
    file: Latest,
}

/// A session as it is written.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(super) row: SessionRow,
    /// The block that is not full.
    pub(super) open: Open,
    /// Blocks that are full and not in the file.
    pub(super) full: Vec<Open>,
    /// The segment that is not full; `None`: it is to be looked for in the file.
    pub(super) tail: Option<Segment>,
    pub(super) tail_changed: bool,
    /// Segments that are full and not in the file as they are.
    pub(super) full_segments: Vec<Segment>,
    /// Late hits that are to be put among segments of the file.
    pub(super) late: Vec<(Entry, Evidence)>,
    /// Places of late hits since the last commit, as they were placed.
    pub(super) late_places: Vec<Place>,
    /// Hits that readers don't know of.
    pub(super) fresh: BTreeMap<u64, Entry>,
    /// Hits that readers take for provisional and that are placed.
    pub(super) placed: Vec<u64>,
    /// What readers know of provisional hits.
    pub(super) published: Arc<BTreeMap<u64, Entry>>,
    pub(super) last_arrival: u64,
    pub(super) changed: bool,
}

/// A block as it is put together.
#[derive(Debug, Default)]
pub(crate) struct Open {
    pub(super) builder: Builder,
    pub(super) terms: Terms,
    /// The rows in the file that hold parts of it.
    pub(super) pieces: Vec<i64>,
}

/// A tracepoint of an agent's run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(super) host: u32,
    pub(super) session: Option<u32>,
    pub(super) seen: Seen,
    pub(super) duplicates: u64,
    pub(super) stats: Option<String>,
    /// Where in the run's batches it was last said that the tracepoint is armed.
    pub(super) opened: u64,
    /// Where it was last said that it is not any more, so that its counters are the last ones.
    pub(super) closed: u64,
    pub(super) changed: bool,
}

/// An agent's run.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(super) host: u32,
    pub(super) batches: Seen,
    pub(super) heartbeat: Option<String>,
    pub(super) changed: bool,
}

impl Open {
    fn new(with_words: bool) -> Self {
        Self { terms: Terms::new(with_words), ..Self::default() }
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, compressor: Compressor, full_text: bool) -> Self {
        Self {
            connection,
            compressor,
            full_text,
            names: Names::default(),
            names_saved: 0,
            sessions: HashMap::new(),
            runs: HashMap::new(),
            agents: HashMap::new(),
            unplaced: HashMap::default(),
            known_until: 0,
            reached: 0,
            watermark_ns: 0,
            foreign: 0,
            duplicates: 0,
            out_of_sequence: 0,
            latest: LatestNames::default(),
        }
    }

    pub(super) fn session(&mut self, number: u32) -> &mut Session {
        let full_text = self.full_text;
        self.sessions
            .entry(number)
            .or_insert_with(|| Session { open: Open::new(full_text), ..Session::default() })
    }

    pub(super) fn run(&mut self, agent: u32, tracepoint: u32, host: u32) -> &mut Run {
        self.runs.entry((agent, tracepoint)).or_insert_with(|| Run {
            host,
            session: None,
            seen: Seen::default(),
            duplicates: 0,
            stats: None,
            opened: 0,
            closed: 0,
            changed: true,
        })
    }

    fn agent(&mut self, agent: &AgentId, host: &str) -> &mut Agent {
        let agent = self.latest.agent.number(&mut self.names, agent.as_str());
        let host = self.latest.host.number(&mut self.names, host);
        self.agents.entry(agent).or_insert_with(|| Agent {
            host,
            batches: Seen::default(),
            heartbeat: None,
            changed: true,
        })
    }

    fn take(&mut self, incoming: &Incoming) -> Taken {
        let Incoming { stream_seq, index, service, hit } = incoming;
        let at = arrival(*stream_seq, *index);
        let names = &mut self.names;
        let latest = &mut self.latest;
        let agent = latest.agent.number(names, &hit.agent);
        let tracepoint = latest.tracepoint.number(names, &hit.tracepoint);
        let host = latest.host.number(names, &hit.host);
        let session = hit.session.as_ref().map(|session| latest.session.number(names, session));
        let run = self.run(agent, tracepoint, host);
        run.session = run.session.or(session);
        let is_new = run.seen.insert(hit.seq);
        run.changed = true;
        if !is_new {
            if *stream_seq <= self.known_until && self.is_stored(session, at) {
                return Taken::Replayed(at);
            }
            self.run(agent, tracepoint, host).duplicates += 1;
            self.duplicates += 1;
            return Taken::Duplicate;
        }
        let Some(session_number) = session else {
            self.foreign += 1;
            return Taken::New(at);
        };
        let entry = Entry {
            arrival: at,
            time_ns: hit.time_ns,
            tracepoint,
            host,
            service: self.latest.service.number(&mut self.names, service),
            file: self.latest.file.number(&mut self.names, &hit.location.file),
            line: hit.location.line,
            goroutine: hit.goroutine,
            trace: hit.trace_id.as_deref().map_or(0, trace_number),
            ..Entry::default()
        };
        self.reached = self.reached.max(*stream_seq);
        if self.session(session_number).add(entry, hit) {
            self.unplaced.insert(at, session_number);
        } else {
            self.out_of_sequence += 1;
        }
        Taken::New(at)
    }

    /// Whether a hit that came before is in the store.
    fn is_stored(&self, session: Option<u32>, at: u64) -> bool {
        if self.unplaced.contains_key(&at) {
            return true;
        }
        let Some(session) = session else { return true };
        let sql = "SELECT 1 FROM blocks WHERE session = ?1 AND first <= ?2 AND last >= ?2";
        let found =
            self.connection.prepare_cached(sql).and_then(|mut query| query.exists((session, at as i64)));
        found.unwrap_or(true)
    }

    fn place(&mut self, placement: &Placement) {
        let Some(number) = self.unplaced.remove(&placement.arrival) else { return };
        let Some(mut session) = self.sessions.remove(&number) else { return };
        session.place(placement, || self.load_tail(number));
        self.sessions.insert(number, session);
    }

    /// The last segment of a session, if more entries fit into it.
    fn load_tail(&self, session: u32) -> Option<Segment> {
        let sql = "SELECT data FROM segments WHERE session = ? ORDER BY first DESC LIMIT 1";
        let packed = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut query| query.query_row([session], |row| row.get::<_, Vec<u8>>(0)))
            .ok()?;
        Segment::unpack(&packed).ok().filter(|segment| segment.entries.len() < MAX_ENTRIES)
    }
}

impl Session {
    /// Adds a hit. Whether there is room for it in the sequence of arrivals (a hit that is older than others of its session
    /// can only come from a broken stream).
    fn add(&mut self, entry: Entry, hit: &Hit) -> bool {
        if entry.arrival <= self.last_arrival {
            return false;
        }
        self.last_arrival = entry.arrival;
        self.changed = true;
        self.row.stored += 1;
        self.open.builder.push(entry.arrival, entry.service, |text| {
            // What a hit is made of has a JSON form, and memory takes all of it.
            let _ = serde_json::to_writer(text, hit);
        });
        self.open.terms.add(hit);
        if self.open.builder.is_full() {
            let next = Open::new(self.open.terms.has_words());
            self.full.push(std::mem::replace(&mut self.open, next));
        }
        self.fresh.insert(entry.arrival, entry);
        true
    }

    fn place(&mut self, placement: &Placement, load_tail: impl FnOnce() -> Option<Segment>) {
        let entry = match self.fresh.remove(&placement.arrival) {
            Some(entry) => entry,
            None => match self.published.get(&placement.arrival) {
                Some(entry) => {
                    self.placed.push(placement.arrival);
                    *entry
                }
                None => return,
            },
        };
        self.changed = true;
        let (place_ns, fraction, rank) = placement.place;
        let mut entry = Entry {
            place: Place(place_ns, fraction, rank),
            order: placement.order,
            late: placement.late,
            ..entry
        };
        let tail = self.tail.get_or_insert_with(|| load_tail().unwrap_or_default());
        self.row.placed += 1;
        if placement.late {
            self.row.late += 1;
            self.late_places.push(entry.place);
            let is_in_tail = !tail.entries.is_empty() && tail.first() <= entry.place;
            if !is_in_tail {
                self.late.push((entry, placement.evidence.clone()));
                return;
            }
            tail.set_evidence(&mut entry, &placement.evidence);
            tail.insert(entry);
        } else {
            tail.set_evidence(&mut entry, &placement.evidence);
            tail.push(entry);
        }
        self.tail_changed = true;
        if tail.entries.len() >= MAX_ENTRIES {
            self.full_segments.push(std::mem::take(tail));
            self.tail_changed = false;
        }
    }
}

impl Store {
    /// Takes hits from the stream, in its sequence. They are in the file after the next commit.
    pub fn ingest(&self, incoming: &[Incoming]) -> Vec<Taken> {
        let mut writer = self.writer();
        incoming.iter().map(|incoming| writer.take(incoming)).collect()
    }

    /// Gives hits their final places. Unknown ones, and those that have one, are left alone.
    pub fn place(&self, placements: &[Placement]) {
        let mut writer = self.writer();
        placements.iter().for_each(|placement| writer.place(placement));
    }

    /// Notes that batches came: their agents, hosts and numbers.
    pub fn batches<'a>(&self, batches: impl IntoIterator<Item = (&'a AgentId, &'a str, u64)>) {
        let mut writer = self.writer();
        for (agent, host, seq) in batches {
            let agent = writer.agent(agent, host);
            agent.changed |= agent.batches.insert(seq);
        }
    }

    /// Notes the last counters of tracepoints.
    pub fn stats(&self, stats: &[HostStats]) {
        let mut writer = self.writer();
        for HostStats { host, agent, session, stats } in stats {
            let names = &mut writer.names;
            let agent = names.number(agent.as_str());
            let tracepoint = names.number(&stats.tracepoint);
            let host = names.number(host);
            let session = session.as_ref().map(|session| names.number(session.as_str()));
            let run = writer.run(agent, tracepoint, host);
            run.session = run.session.or(session);
            run.changed = true;
            // Batches that were repeated come late: counters only grow.
            let known = run.stats.as_deref().and_then(|text| serde_json::from_str::<Stats>(text).ok());
            if known.is_none_or(|known| known.hits <= stats.hits) {
                run.stats = serde_json::to_string(stats).ok();
            }
        }
    }

    /// Notes that tracepoints were armed or disarmed. Of a run that nobody accounts for, what was armed is open for ever.
    pub fn turns(&self, turns: &[Turn]) {
        let mut writer = self.writer();
        for Turn { host, agent, tracepoint, at, is_end } in turns {
            let names = &mut writer.names;
            let (agent, tracepoint) = (names.number(agent.as_str()), names.number(tracepoint));
            let host = names.number(host);
            let run = writer.run(agent, tracepoint, host);
            let of = if *is_end { &mut run.closed } else { &mut run.opened };
            *of = (*of).max(*at);
            run.changed = true;
        }
    }

    /// The host of an agent's run, if anything of it came.
    #[must_use]
    pub fn host_of(&self, agent: &AgentId) -> Option<Arc<str>> {
        let writer = self.writer();
        let known = writer.agents.get(&writer.names.find(agent.as_str())?)?;
        Some(writer.names.text(known.host))
    }

    /// Notes the last heartbeats of agents, with their losses.
    pub fn heard<'a>(&self, heartbeats: impl IntoIterator<Item = &'a Heartbeat>) {
        let mut writer = self.writer();
        for heartbeat in heartbeats {
            let agent = writer.agent(&heartbeat.agent, &heartbeat.host);
            agent.heartbeat = serde_json::to_string(heartbeat).ok();
            agent.changed = true;
        }
    }

    /// Notes what a mark says of the order.
    pub fn mark(&self, mark: &OrderMark) {
        let mut writer = self.writer();
        writer.watermark_ns = writer.watermark_ns.max(mark.watermark_ns);
    }
}

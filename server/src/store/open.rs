//! Opening a store: what is in memory of it is read from the file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, RwLock},
};

use riptrace_common::wire::event::Hit;
use rusqlite::{Connection, OptionalExtension, types::FromSql};
use tokio::sync::watch;

use super::{
    Options, Parts, Resume, SessionRow, Shared, Store, StoreError, Stream, arrival,
    block::{Block, Compressor},
    commit::{FOREIGN, POSITION, REACHED, SNAPSHOT, STREAM_BASE, STREAM_CREATED, WATERMARK, used_bytes},
    ingest::{Agent, Run, Writer},
    reader::Pool,
    schema,
    seen::Seen,
    segment::{Entry, Segment, trace_number},
};

pub(crate) fn open(path: &Path, options: Options) -> Result<Store, StoreError> {
    let cannot = |source| StoreError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(cannot)?;
    schema::prepare(&mut connection, options.full_text).map_err(|error| match error {
        StoreError::Sqlite(source) => cannot(source),
        other => other,
    })?;
    if let Some(pages) = options.max_pages {
        connection.pragma_update(None, "max_page_count", pages)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    let mut writer = Writer::new(connection, Compressor::new()?, options.full_text);
    let mut shared = Shared::default();
    load(&mut writer, &mut shared)?;
    Ok(Store(Arc::new(Parts {
        path: path.to_owned(),
        options,
        writer: Mutex::new(writer),
        shared: RwLock::new(shared),
        readers: Pool::new(path),
        changed: watch::channel(0).0,
    })))
}

impl Store {
    /// Where to go on: what was given to the last commit with a snapshot.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn resume(&self) -> Result<Resume, StoreError> {
        let connection = self.0.readers.get()?;
        let position: Option<i64> = get(&connection, POSITION)?;
        let (created_ns, base): (Option<i64>, Option<i64>) =
            (get(&connection, STREAM_CREATED)?, get(&connection, STREAM_BASE)?);
        let stream = created_ns.zip(base).map(|(created_ns, base)| Stream { created_ns, base: base as u64 });
        Ok(Resume { position: position.unwrap_or(0) as u64, snapshot: get(&connection, SNAPSHOT)?, stream })
    }
}

impl Store {
    /// Hits that have no place, of the messages behind `after` up to `until`, as the file has them.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn unplaced(&self, after: u64, until: u64) -> Result<Vec<(u64, Hit)>, StoreError> {
        let wanted = arrival(after + 1, 0)..arrival(until + 1, 0);
        let (connection, provisional) = {
            let shared = self.shared();
            (self.0.readers.get()?, shared.provisional.clone())
        };
        let mut hits = Vec::new();
        for (session, entries) in provisional {
            let mut arrivals = entries.range(wanted.clone()).map(|(arrival, _)| *arrival).peekable();
            let Some(first) = arrivals.peek().copied() else { continue };
            let mut query = connection.prepare("SELECT data FROM blocks WHERE session = ? AND last >= ?")?;
            let mut rows = query.query((session, first as i64))?;
            let wanted: HashSet<u64> = arrivals.collect();
            while let Some(row) = rows.next()? {
                let block = Block::unpack(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
                for arrival in block.arrivals().filter(|arrival| wanted.contains(arrival)) {
                    if let Some((_, text)) = block.get(arrival) {
                        hits.push((arrival, serde_json::from_slice(text)?));
                    }
                }
            }
        }
        hits.sort_unstable_by_key(|(arrival, _)| *arrival);
        hits.dedup_by_key(|(arrival, _)| *arrival);
        Ok(hits)
    }
}

fn get<T: FromSql>(connection: &Connection, key: &str) -> Result<Option<T>, rusqlite::Error> {
    connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0)).optional()
}

fn load(writer: &mut Writer, shared: &mut Shared) -> Result<(), StoreError> {
    let number = |key| get::<i64>(&writer.connection, key).map(|value| value.unwrap_or(0) as u64);
    let (reached, watermark_ns, foreign) = (number(REACHED)?, number(WATERMARK)?, number(FOREIGN)?);
    (writer.known_until, writer.reached, writer.foreign) = (reached, reached, foreign);
    (writer.watermark_ns, shared.watermark_ns) = (watermark_ns, watermark_ns);
    load_names(writer, shared)?;
    let runs = load_runs(&writer.connection)?;
    writer.duplicates = runs.values().map(|run| run.duplicates).sum();
    writer.runs = runs;
    writer.agents = load_agents(&writer.connection)?;
    for (number, row, unplaced_from) in load_sessions(&writer.connection)? {
        let provisional = Arc::new(load_provisional(writer, number, unplaced_from)?);
        let last: Option<i64> = writer.connection.query_row(
            "SELECT max(last) FROM blocks WHERE session = ?",
            [number],
            |row| row.get(0),
        )?;
        writer.unplaced.extend(provisional.keys().map(|arrival| (*arrival, number)));
        let session = writer.session(number);
        session.row = row;
        session.published = Arc::clone(&provisional);
        session.last_arrival = last.unwrap_or(0) as u64;
        shared.sessions.insert(number, row);
        shared.provisional.insert(number, provisional);
    }
    let totals = &mut shared.totals;
    totals.stored = shared.sessions.values().map(|row| row.stored).sum();
    totals.expired = shared.sessions.values().map(|row| row.expired).sum();
    totals.provisional = shared.provisional.values().map(|hits| hits.len() as u64).sum();
    totals.duplicates = writer.duplicates;
    totals.foreign = foreign;
    totals.position = reached;
    totals.bytes = used_bytes(&writer.connection)?;
    Ok(())
}

fn load_names(writer: &mut Writer, shared: &mut Shared) -> Result<(), StoreError> {
    let mut query = writer.connection.prepare("SELECT id, text FROM names ORDER BY id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, text): (u32, String) = (row.get(0)?, row.get(1)?);
        if writer.names.number(&text) != id || shared.names.number(&text) != id {
            return Err(StoreError::Corrupt { what: "names with numbers that are not theirs" });
        }
    }
    writer.names_saved = writer.names.all().len();
    Ok(())
}

fn load_runs(connection: &Connection) -> Result<HashMap<(u32, u32), Run>, StoreError> {
    let sql =
        "SELECT agent, tracepoint, host, session, seen, duplicates, stats, opened, closed FROM tracepoints";
    let mut query = connection.prepare(sql)?;
    let mut rows = query.query([])?;
    let mut runs = HashMap::new();
    while let Some(row) = rows.next()? {
        let seen = Seen::from_bytes(row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?)
            .ok_or(StoreError::Corrupt { what: "a tracepoint whose numbers can't be read" })?;
        let run = Run {
            host: row.get(2)?,
            session: row.get(3)?,
            seen,
            duplicates: row.get::<_, i64>(5)? as u64,
            stats: row.get(6)?,
            opened: row.get::<_, i64>(7)? as u64,
            closed: row.get::<_, i64>(8)? as u64,
            changed: false,
        };
        runs.insert((row.get(0)?, row.get(1)?), run);
    }
    Ok(runs)
}

fn load_agents(connection: &Connection) -> Result<HashMap<u32, Agent>, StoreError> {
    let mut query = connection.prepare("SELECT agent, host, batches, heartbeat FROM agents")?;
    let mut rows = query.query([])?;
    let mut agents = HashMap::new();
    while let Some(row) = rows.next()? {
        let batches = Seen::from_bytes(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)
            .ok_or(StoreError::Corrupt { what: "an agent whose batches can't be read" })?;
        let agent = Agent { host: row.get(1)?, batches, heartbeat: row.get(3)?, changed: false };
        agents.insert(row.get(0)?, agent);
    }
    Ok(agents)
}

fn load_sessions(connection: &Connection) -> Result<Vec<(u32, SessionRow, i64)>, StoreError> {
    let sql = "SELECT id, placed, stored, late, expired, unplaced_from FROM sessions";
    let mut query = connection.prepare(sql)?;
    let rows = query.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(|value| value as u64);
        let session =
            SessionRow { placed: number(1)?, stored: number(2)?, late: number(3)?, expired: number(4)? };
        Ok((row.get(0)?, session, row.get(5)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The hits of a session that had no place yet.
fn load_provisional(
    writer: &mut Writer,
    session: u32,
    unplaced_from: i64,
) -> Result<BTreeMap<u64, Entry>, StoreError> {
    let mut provisional = BTreeMap::new();
    if unplaced_from == i64::MAX {
        return Ok(provisional);
    }
    let Writer { connection, names, .. } = writer;
    let mut placed = HashSet::new();
    let mut query = connection.prepare("SELECT data FROM segments WHERE session = ? AND newest >= ?")?;
    let mut rows = query.query((session, unplaced_from))?;
    while let Some(row) = rows.next()? {
        let segment = Segment::unpack(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        placed.extend(segment.entries.iter().map(|entry| entry.arrival));
    }
    let mut query = connection.prepare("SELECT data FROM blocks WHERE session = ? AND last >= ?")?;
    let mut rows = query.query((session, unplaced_from))?;
    while let Some(row) = rows.next()? {
        let block = Block::unpack(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        for arrival in block.arrivals() {
            if (arrival as i64) < unplaced_from || placed.contains(&arrival) {
                continue;
            }
            let Some((service, text)) = block.get(arrival) else { continue };
            let hit: Hit = serde_json::from_slice(text)?;
            let entry = Entry {
                arrival,
                time_ns: hit.time_ns,
                tracepoint: names.number(&hit.tracepoint),
                host: names.number(&hit.host),
                service,
                file: names.number(&hit.location.file),
                line: hit.location.line,
                goroutine: hit.goroutine,
                trace: hit.trace_id.as_deref().map_or(0, trace_number),
                ..Entry::default()
            };
            provisional.insert(arrival, entry);
        }
    }
    Ok(provisional)
}

//! One transaction writes all that came since the last one.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    Shared, Store, StoreError, Stream,
    block::Compressor,
    bloom,
    ingest::{Open, Session, Writer},
    segment::{Entry, Segment},
};
use crate::order::Evidence;

/// The keys of `meta`.
pub(crate) const POSITION: &str = "position";
pub(crate) const SNAPSHOT: &str = "snapshot";
pub(crate) const REACHED: &str = "reached";
pub(crate) const WATERMARK: &str = "watermark";
pub(crate) const FOREIGN: &str = "foreign";
pub(crate) const STREAM_CREATED: &str = "stream_created";
pub(crate) const STREAM_BASE: &str = "stream_base";

impl Store {
    /// Writes what came since the last commit, all of it or nothing. `position` is the stream sequence up to which that is;
    /// with a snapshot of the order's state there, it is where [`Store::resume`] goes on.
    ///
    /// # Errors
    ///
    /// The disk is full, or the file can't be written. Nothing is lost: the next commit writes it.
    pub fn commit(&self, position: u64, snapshot: Option<&[u8]>) -> Result<(), StoreError> {
        let mut guard = self.writer();
        let writer = &mut *guard;
        let written = write(writer, self, position, snapshot).map_err(|error| self.explain(error));
        let mut shared = self.shared_mut();
        match &written {
            Ok(_) => {
                shared.totals.commits += 1;
                shared.totals.position = position;
                shared.totals.problem = None;
            }
            Err(error) => shared.totals.problem = Some(error.to_string()),
        }
        shared.totals.duplicates = writer.duplicates;
        shared.totals.foreign = writer.foreign;
        shared.totals.out_of_sequence = writer.out_of_sequence;
        drop(shared);
        drop(guard);
        self.0.changed.send_modify(|commits| *commits += 1);
        written
    }

    /// Writes which stream is read from now on.
    ///
    /// # Errors
    ///
    /// The disk is full, or the file can't be written.
    pub fn keep_stream(&self, stream: Stream) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let written = (|| {
            let transaction = writer.connection.transaction()?;
            set(&transaction, STREAM_CREATED, stream.created_ns)?;
            set(&transaction, STREAM_BASE, stream.base as i64)?;
            Ok(transaction.commit()?)
        })();
        written.map_err(|error| self.explain(error))
    }

    /// Says that the disk is full where that is the reason.
    pub(super) fn explain(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
                StoreError::Full { path: self.0.path.clone() }
            }
            other => other,
        }
    }
}

fn write(
    writer: &mut Writer,
    store: &Store,
    position: u64,
    snapshot: Option<&[u8]>,
) -> Result<(), StoreError> {
    let Writer { connection, compressor, names, sessions, runs, agents, .. } = writer;
    let transaction = connection.transaction()?;
    for (number, text) in names.all().iter().enumerate().skip(writer.names_saved) {
        let sql = "INSERT OR REPLACE INTO names (id, text) VALUES (?, ?)";
        transaction.prepare_cached(sql)?.execute(params![number as i64, &**text])?;
    }
    let mut pieces = Vec::new();
    for (number, session) in sessions.iter_mut().filter(|(_, session)| session.changed) {
        let piece = write_session(&transaction, compressor, *number, session, writer.full_text)?;
        pieces.extend(piece.map(|piece| (*number, piece)));
    }
    for ((agent, tracepoint), run) in runs.iter().filter(|(_, run)| run.changed) {
        let sql =
            "INSERT OR REPLACE INTO tracepoints (agent, tracepoint, host, session, seen, duplicates, stats, opened, closed)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        transaction.prepare_cached(sql)?.execute(params![
            agent,
            tracepoint,
            run.host,
            run.session,
            run.seen.to_bytes(),
            run.duplicates as i64,
            run.stats,
            run.opened as i64,
            run.closed as i64,
        ])?;
    }
    for (number, agent) in agents.iter().filter(|(_, agent)| agent.changed) {
        let sql = "INSERT OR REPLACE INTO agents (agent, host, batches, heartbeat) VALUES (?, ?, ?, ?)";
        let row = params![number, agent.host, agent.batches.to_bytes(), agent.heartbeat];
        transaction.prepare_cached(sql)?.execute(row)?;
    }
    let reached = writer.reached.max(position);
    set(&transaction, REACHED, reached as i64)?;
    set(&transaction, WATERMARK, writer.watermark_ns as i64)?;
    set(&transaction, FOREIGN, writer.foreign as i64)?;
    if let Some(snapshot) = snapshot {
        set(&transaction, POSITION, position as i64)?;
        set(&transaction, SNAPSHOT, snapshot)?;
    }
    // Readers take what is in memory and begin to read the file under this lock: they see both as they were before, or
    // both as they are behind it.
    let mut shared = store.shared_mut();
    transaction.commit()?;
    writer.known_until = reached;
    writer.names_saved = writer.names.all().len();
    for (number, piece) in pieces {
        if let Some(session) = writer.sessions.get_mut(&number) {
            session.open.pieces.push(piece);
        }
    }
    publish(writer, &mut shared)?;
    Ok(())
}

pub(super) fn set(
    connection: &Connection,
    key: &str,
    value: impl rusqlite::ToSql,
) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)";
    connection.prepare_cached(sql)?.execute(params![key, value]).map(drop)
}

/// What is written is known to readers, and forgotten here.
fn publish(writer: &mut Writer, shared: &mut Shared) -> Result<(), StoreError> {
    for name in &writer.names.all()[shared.names.all().len()..] {
        shared.names.number(name);
    }
    for (number, session) in writer.sessions.iter_mut().filter(|(_, session)| session.changed) {
        session.changed = false;
        session.full.clear();
        session.full_segments.clear();
        session.late.clear();
        session.late_places.clear();
        session.tail_changed = false;
        session.open.builder.set_mark();
        // No second owner, so that nothing is copied unless somebody reads right now.
        shared.provisional.remove(number);
        let provisional = Arc::make_mut(&mut session.published);
        for placed in session.placed.drain(..) {
            provisional.remove(&placed);
        }
        provisional.append(&mut session.fresh);
        shared.provisional.insert(*number, Arc::clone(&session.published));
        shared.sessions.insert(*number, session.row);
    }
    for run in writer.runs.values_mut() {
        run.changed = false;
    }
    for agent in writer.agents.values_mut() {
        agent.changed = false;
    }
    shared.watermark_ns = writer.watermark_ns;
    let totals = &mut shared.totals;
    totals.stored = shared.sessions.values().map(|row| row.stored).sum();
    totals.expired = shared.sessions.values().map(|row| row.expired).sum();
    totals.provisional = shared.provisional.values().map(|hits| hits.len() as u64).sum();
    totals.bytes = used_bytes(&writer.connection)?;
    Ok(())
}

/// Bytes of the file's pages that hold something.
pub(super) fn used_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok((pages * pragma("page_size")?).max(0) as u64)
}

/// Writes a session; gives the row of the block that is not full, if it grew.
fn write_session(
    transaction: &Transaction<'_>,
    compressor: &mut Compressor,
    number: u32,
    session: &mut Session,
    full_text: bool,
) -> Result<Option<i64>, StoreError> {
    let now_ns = now_ns();
    for full in &session.full {
        for piece in &full.pieces {
            transaction.prepare_cached("DELETE FROM blocks WHERE id = ?")?.execute([piece])?;
        }
        let data = full.builder.pack(compressor)?;
        let has_all_words = full_text && !full.terms.too_long_texts;
        let row = (full.builder.first, full.builder.hits, data);
        let id = insert_block(transaction, number, row, full, has_all_words, now_ns)?;
        if has_all_words {
            let sql = "INSERT INTO words (rowid, block) VALUES (?, ?)";
            transaction.prepare_cached(sql)?.execute(params![id, full.terms.words])?;
        }
    }
    let piece = match session.open.builder.pack_new(compressor)? {
        Some(row) => Some(insert_block(transaction, number, row, &session.open, false, now_ns)?),
        None => None,
    };
    for segment in &session.full_segments {
        write_segment(transaction, compressor, number, segment)?;
    }
    if session.tail_changed
        && let Some(tail) = &session.tail
    {
        write_segment(transaction, compressor, number, tail)?;
    }
    write_late(transaction, compressor, number, &session.late)?;
    let first_late = session.row.late - session.late_places.len() as u64;
    for (late, place) in (first_late..).zip(&session.late_places) {
        let sql = "INSERT OR REPLACE INTO lates (session, number, place) VALUES (?, ?, ?)";
        transaction.prepare_cached(sql)?.execute(params![number, late as i64, place.to_bytes()])?;
    }
    let placed: HashSet<u64> = session.placed.iter().copied().collect();
    let unplaced_from = session
        .published
        .keys()
        .find(|arrival| !placed.contains(arrival))
        .into_iter()
        .chain(session.fresh.keys().next())
        .min()
        .map_or(i64::MAX, |arrival| *arrival as i64);
    let sql = "INSERT OR REPLACE INTO sessions (id, placed, stored, late, expired, unplaced_from)
               VALUES (?, ?, ?, ?, ?, ?)";
    let row = session.row;
    transaction.prepare_cached(sql)?.execute(params![
        number,
        row.placed as i64,
        row.stored as i64,
        row.late as i64,
        row.expired as i64,
        unplaced_from,
    ])?;
    Ok(piece)
}

fn insert_block(
    transaction: &Transaction<'_>,
    session: u32,
    (first, hits, data): (u64, usize, Vec<u8>),
    open: &Open,
    indexed: bool,
    now_ns: u64,
) -> Result<i64, StoreError> {
    let keys = (!open.terms.too_many_values).then(|| bloom::build(open.terms.keys.iter().copied()));
    let sql = "INSERT INTO blocks (session, first, last, hits, indexed, written_ns, keys, data)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    transaction.prepare_cached(sql)?.execute(params![
        session,
        first as i64,
        open.builder.last() as i64,
        hits as i64,
        indexed,
        now_ns as i64,
        keys,
        data,
    ])?;
    Ok(transaction.last_insert_rowid())
}

/// Writes a segment, over the one with its key if there is one.
fn write_segment(
    transaction: &Transaction<'_>,
    compressor: &mut Compressor,
    session: u32,
    segment: &Segment,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO segments (session, first, entries, oldest, newest, keys, data)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
               ON CONFLICT (session, first) DO UPDATE SET
                   entries = ?3, oldest = ?4, newest = ?5, keys = ?6, data = ?7";
    transaction.prepare_cached(sql)?.execute(params![
        session,
        segment.first().to_bytes(),
        segment.entries.len() as i64,
        segment.oldest() as i64,
        segment.newest() as i64,
        segment.keys(),
        segment.pack(compressor)?,
    ])?;
    Ok(())
}

/// Puts late hits among the segments of the file.
fn write_late(
    transaction: &Transaction<'_>,
    compressor: &mut Compressor,
    session: u32,
    late: &[(Entry, Evidence)],
) -> Result<(), StoreError> {
    let mut late: Vec<_> = late.iter().collect();
    late.sort_by_key(|(entry, _)| entry.place);
    let mut rest = late.as_slice();
    while let Some((first, _)) = rest.first() {
        let sql =
            "SELECT id, data FROM segments WHERE session = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1";
        let row = transaction
            .prepare_cached(sql)?
            .query_row((session, first.place.to_bytes()), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
            })
            .optional()?;
        // Without one, it stands before all others: in a segment of its own.
        let mut segment = Segment::default();
        if let Some((_, data)) = &row {
            segment = Segment::unpack(data)?;
        }
        let sql = "SELECT first FROM segments WHERE session = ?1 AND first > ?2 ORDER BY first LIMIT 1";
        let next: Option<[u8; 24]> = transaction
            .prepare_cached(sql)?
            .query_row((session, first.place.to_bytes()), |row| row.get(0))
            .optional()?;
        let fits = |entry: &Entry| next.is_none_or(|next| entry.place.to_bytes() < next);
        // The first one fits: it is what the segment was found by.
        let count = rest.iter().take_while(|(entry, _)| fits(entry)).count().max(1);
        for (entry, evidence) in &rest[..count] {
            let mut entry = *entry;
            segment.set_evidence(&mut entry, evidence);
            segment.insert(entry);
        }
        rest = &rest[count..];
        let mut parts = vec![segment];
        while let Some(behind) = parts.last_mut().and_then(Segment::split) {
            parts.push(behind);
        }
        for part in &parts {
            write_segment(transaction, compressor, session, part)?;
        }
    }
    Ok(())
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

//! What is removed: sessions that are deleted, and the oldest hits when they are too old or the file is too large.

use rusqlite::params;

use riptrace_common::id::SessionId;

use super::{
    Store, StoreError,
    commit::{now_ns, used_bytes},
    segment::Segment,
};

/// Blocks that are removed in one transaction, so that ingest does not wait for long.
const BLOCKS_AT_ONCE: u32 = 64;
/// Of the bytes that the file may have, how much is left when the oldest hits are removed: not each commit is to remove
/// some.
const KEEP_PERCENT: u64 = 95;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Hits.
    pub hits: u64,
    /// Blocks of them.
    pub blocks: u64,
}

impl Store {
    /// Removes what is older or more than the options say. To be called now and then.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn retain(&self) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        if let Some(max_age) = self.options().max_age {
            let oldest = now_ns().saturating_sub(u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX));
            while self.remove_oldest(oldest as i64, &mut removed)? {}
        }
        if let Some(max_bytes) = self.options().max_bytes
            && self.totals().bytes > max_bytes
        {
            let keep = max_bytes / 100 * KEEP_PERCENT;
            while self.totals().bytes > keep && self.remove_oldest(i64::MAX, &mut removed)? {}
        }
        Ok(removed)
    }

    /// Removes some of the oldest blocks that were written before. Whether there were any.
    fn remove_oldest(&self, before_ns: i64, removed: &mut Removed) -> Result<bool, StoreError> {
        let mut guard = self.writer();
        let writer = &mut *guard;
        // What is still put together is not in question: its pieces would be missing under it.
        let open: std::collections::HashSet<i64> =
            writer.sessions.values().flat_map(|session| session.open.pieces.iter().copied()).collect();
        let transaction = writer.connection.transaction()?;
        let sql = "SELECT id, session, hits, last, written_ns FROM blocks ORDER BY id LIMIT ?";
        let blocks: Vec<(i64, u32, i64, i64, i64)> = transaction
            .prepare_cached(sql)?
            .query_map([BLOCKS_AT_ONCE + open.len() as u32], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut rows = std::collections::HashMap::new();
        let mut count = 0;
        for (id, session, hits, last, written_ns) in blocks {
            if written_ns >= before_ns || open.contains(&id) {
                continue;
            }
            transaction.prepare_cached("DELETE FROM blocks WHERE id = ?")?.execute([id])?;
            if writer.full_text {
                transaction.prepare_cached("DELETE FROM words WHERE rowid = ?")?.execute([id])?;
            }
            let sql = "DELETE FROM segments WHERE session = ? AND newest <= ?";
            transaction.prepare_cached(sql)?.execute((session, last))?;
            *rows.entry(session).or_insert(0) += hits as u64;
            removed.hits += hits as u64;
            removed.blocks += 1;
            count += 1;
        }
        for (session, hits) in &rows {
            let sql = "UPDATE sessions SET expired = expired + ? WHERE id = ?";
            transaction.prepare_cached(sql)?.execute(params![*hits as i64, session])?;
        }
        let mut shared = self.shared_mut();
        transaction.commit()?;
        for (number, hits) in rows {
            if let Some(session) = writer.sessions.get_mut(&number) {
                session.row.expired += hits;
                // The tail may have been among the segments that were removed: it is written again as it is.
                session.tail_changed |= session.tail.as_ref().is_some_and(|tail| !tail.entries.is_empty());
            }
            if let Some(row) = shared.sessions.get_mut(&number) {
                row.expired += hits;
            }
        }
        shared.totals.expired = shared.sessions.values().map(|row| row.expired).sum();
        shared.totals.bytes = used_bytes(&writer.connection)?;
        Ok(count > 0)
    }

    /// Removes all hits of a session. Those that still come of it are stored.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn delete_session(&self, session: &SessionId) -> Result<(), StoreError> {
        let mut guard = self.writer();
        let writer = &mut *guard;
        let Some(number) = writer.names.find(session.as_str()) else { return Ok(()) };
        let transaction = writer.connection.transaction()?;
        if writer.full_text {
            let sql =
                "DELETE FROM words WHERE rowid IN (SELECT id FROM blocks WHERE session = ? AND indexed)";
            transaction.prepare_cached(sql)?.execute([number])?;
        }
        for table in ["blocks", "segments", "lates"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE session = ?"), [number])?;
        }
        transaction.execute("DELETE FROM sessions WHERE id = ?", [number])?;
        let mut shared = self.shared_mut();
        transaction.commit()?;
        shared.provisional.remove(&number);
        shared.sessions.remove(&number);
        if let Some(old) = writer.sessions.remove(&number) {
            // Arrivals go on, so that what is read from the stream once more is not taken for new.
            let new = writer.session(number);
            new.last_arrival = old.last_arrival;
            new.tail = Some(Segment::default());
        }
        writer.unplaced.retain(|_, session| *session != number);
        shared.totals.stored = shared.sessions.values().map(|row| row.stored).sum();
        shared.totals.provisional = shared.provisional.values().map(|hits| hits.len() as u64).sum();
        shared.totals.bytes = used_bytes(&writer.connection)?;
        Ok(())
    }
}

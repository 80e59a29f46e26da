//! The tables. `user_version` says which of the steps a file has been through.

use rusqlite::Connection;

use super::StoreError;

/// Each step takes a file from the version before to its own. A step that was released is never changed.
const STEPS: &[&str] = &["
    -- Single values: where in the stream the file is, the order's state there.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
    -- Every name that is a number elsewhere.
    CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
    -- id is the number of the session's name. `placed` is how many of its hits have their place.
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, placed INTEGER NOT NULL, stored INTEGER NOT NULL, late INTEGER NOT NULL,
        expired INTEGER NOT NULL, unplaced_from INTEGER NOT NULL);
    -- The hits, compressed together, by their arrival. `keys` is a Bloom filter of paths and values (NULL: not all of
    -- them); `indexed`: its words are in `words` under the same id.
    CREATE TABLE blocks (
        id INTEGER PRIMARY KEY, session INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        hits INTEGER NOT NULL, indexed INTEGER NOT NULL, written_ns INTEGER NOT NULL, keys BLOB, data BLOB NOT NULL);
    CREATE UNIQUE INDEX blocks_by_arrival ON blocks (session, first);
    -- The order: `first` is the place of the first entry, as bytes that sort. `oldest` and `newest` are arrivals.
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY, session INTEGER NOT NULL, first BLOB NOT NULL, entries INTEGER NOT NULL,
        oldest INTEGER NOT NULL, newest INTEGER NOT NULL, keys BLOB NOT NULL, data BLOB NOT NULL);
    CREATE UNIQUE INDEX segments_by_place ON segments (session, first);
    -- Late hits in the order in which they were placed.
    CREATE TABLE lates (
        session INTEGER NOT NULL, number INTEGER NOT NULL, place BLOB NOT NULL, PRIMARY KEY (session, number))
        WITHOUT ROWID;
    -- What is known of each tracepoint of each agent's run.
    CREATE TABLE tracepoints (
        agent INTEGER NOT NULL, tracepoint INTEGER NOT NULL, host INTEGER NOT NULL, session INTEGER,
        seen BLOB NOT NULL, duplicates INTEGER NOT NULL, stats TEXT, PRIMARY KEY (agent, tracepoint)) WITHOUT ROWID;
    -- What is known of each agent's run.
    CREATE TABLE agents (
        agent INTEGER PRIMARY KEY, host INTEGER NOT NULL, batches BLOB NOT NULL, heartbeat TEXT);
", "
    -- Where in the run's batches it was said that the tracepoint is armed, and that it is not any more.
    ALTER TABLE tracepoints ADD COLUMN opened INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE tracepoints ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
"];

/// Words of blocks, without the text itself. `detail=none`: only which block has a word.
const FULL_TEXT: &str = "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    block, content='', contentless_delete=1, detail=none, tokenize='ascii')";

/// Bytes of a page of the file. Blocks are some ten kilobytes: small pages would make long chains of them.
const PAGE_BYTES: u32 = 8192;
/// Pages of the write-ahead log after which it is written back.
const CHECKPOINT_PAGES: u32 = 2000;
/// Bytes to which the write-ahead log is cut once it was larger.
const WAL_BYTES: u32 = 64 * 1024 * 1024;
/// Kilobytes of pages that the writer keeps.
const WRITER_CACHE_KIB: i32 = 32 * 1024;

/// Prepares the writer's connection and the tables.
pub(crate) fn prepare(connection: &mut Connection, full_text: bool) -> Result<(), StoreError> {
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Unfit {
            what: format!("the file can't have a write-ahead log (it has {mode:?})"),
        });
    }
    // Safe against a killed process; after a power cut the last commits may be missing, and come again from the stream.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = STEPS.get(version as usize..) else {
        return Err(StoreError::Unfit {
            what: format!("the file has version {version} and this program knows up to {}", STEPS.len()),
        });
    };
    for (step, version) in steps.iter().zip(version + 1..) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    if full_text {
        connection.execute_batch(FULL_TEXT)?;
    }
    Ok(())
}

//! Where a server keeps the hits of its sessions: one SQLite file that can be made anew from the stream.
//!
//! Hits come in the stream's sequence ([`Store::ingest`]) and are kept in blocks by their arrival, compressed together.
//! The order is decided later ([`Store::place`]): segments list a session's hits in their order, with what they are
//! filtered by. Nothing is moved or written twice for it. What is not placed yet is kept in memory too, and is shown
//! behind the rest, by time.
//!
//! One thread calls [`Store::ingest`], [`Store::place`] and their like, which change memory only, and then
//! [`Store::commit`], which writes all of it in one transaction. Any thread may read; a reader sees whole commits.

mod block;
mod bloom;
mod certificate;
mod commit;
mod export;
mod hash;
mod ingest;
mod live;
mod names;
mod open;
mod query;
mod reader;
mod retention;
mod schema;
mod seen;
mod segment;
mod status;
mod terms;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod varint;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{
        batch::Heartbeat,
        event::{Hit, Stats},
    },
};
use tokio::sync::watch;

use crate::order::Evidence;

pub use commit::now_ns;
pub use live::{Cursor, LiveEvents};
pub use query::{MAX_PAGE_HITS, MAX_SCANNED_ENTRIES};
pub use retention::Removed;

/// Hits of one batch that have names; a batch within its size has fewer.
pub const MAX_HITS_PER_BATCH: usize = 1 << ARRIVAL_INDEX_BITS;
const ARRIVAL_INDEX_BITS: u32 = 12;

/// Names the event at an index of the batch with a stream sequence: the same on every server and in every rebuild, and
/// exact in every JSON reader.
#[must_use]
pub fn arrival(stream_seq: u64, index: usize) -> u64 {
    (stream_seq << ARRIVAL_INDEX_BITS) | (index.min(MAX_HITS_PER_BATCH - 1) as u64)
}

/// How a store is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Words among names and values are indexed. Without it they can be searched for as well, only slower.
    pub full_text: bool,
    /// Hits that came longer ago are removed.
    pub max_age: Option<Duration>,
    /// The oldest hits are removed when the file is larger.
    pub max_bytes: Option<u64>,
    /// Pages that the file may have; past it the disk is "full". For tests.
    pub max_pages: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { full_text: true, max_age: None, max_bytes: None, max_pages: None }
    }
}

/// Why the store can't do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Nothing is lost: what was not written is written by the next commit that can be.
    #[error(
        "no space for {path}: free some, or let the server keep less (--keep-bytes, --keep-days); hits wait in the stream"
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be opened.
    #[error("cannot open the store {path}: {source}; delete the file to have it made anew from the stream")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The file is not one of this program.
    #[error("cannot use the store: {what}; delete the file to have it made anew from the stream")]
    Unfit {
        /// What is wrong.
        what: String,
    },
    /// What is in the file makes no sense.
    #[error("the store has {what}; delete the file to have it made anew from the stream")]
    Corrupt {
        /// What.
        what: &'static str,
    },
    /// A hit that can't be read or written.
    #[error("cannot read a stored hit: {0}")]
    Hit(#[from] serde_json::Error),
    /// Compression failed.
    #[error("cannot compress or unpack a block: {0}")]
    Compression(std::io::Error),
    /// A page was asked for with a cursor that is none.
    #[error("{cursor:?} is no place to go on from; give the `next` of a page or the id of an event")]
    Cursor {
        /// What was given.
        cursor: String,
    },
    /// Anything else.
    #[error("the store failed: {0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The stream sequence at which the snapshot was made; what follows it is to be read again.
    pub position: u64,
    /// The order's state there; `None`: there never was one, begin at the stream's beginning.
    pub snapshot: Option<Vec<u8>>,
    /// Which stream that is; `None`: the file is of an older version.
    pub stream: Option<Stream>,
}

/// Which stream is read. Should it be deleted and made anew, its messages are numbered from 1 again; here they go on behind
/// those of the one before, so that what is in the file stays, and stands before what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// When the broker made it, in nanoseconds since 1970: no other stream of this name has the same.
    pub created_ns: i64,
    /// What its messages' numbers are counted from.
    pub base: u64,
}

/// A hit from the stream.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The sequence of its message.
    pub stream_seq: u64,
    /// Its place among the message's events.
    pub index: usize,
    /// The service of its process.
    pub service: Arc<str>,
    /// The hit.
    pub hit: Hit,
}

/// What became of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new; this is its arrival. (One that can't be stored, because its message is older than what is stored, is counted
    /// in [`Totals::out_of_sequence`].)
    New(u64),
    /// It was read from the same message before. It has its place, or will have it by the same arrival.
    Replayed(u64),
    /// It is there, from another message.
    Duplicate,
}

/// A place in the order that does not change any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which hit.
    pub arrival: u64,
    /// Its number in its session: from 1, as places became final.
    pub order: u64,
    /// Its place among all hits of the stream (`SortKey`); ascending from one placement to the next, late ones apart.
    pub place: (u64, u64, u64),
    /// It came when the order around its place was final.
    pub late: bool,
    /// Why it stands where it stands.
    pub evidence: Evidence,
}

/// The last counters of a tracepoint.
#[derive(Clone, Debug, PartialEq)]
pub struct HostStats {
    /// The host.
    pub host: Arc<str>,
    /// The run of its agent.
    pub agent: AgentId,
    /// The session, where it is known.
    pub session: Option<SessionId>,
    /// The counters; `tracepoint` says whose.
    pub stats: Stats,
}

/// A tracepoint was armed or disarmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The host.
    pub host: Arc<str>,
    /// The run of its agent.
    pub agent: AgentId,
    /// Which.
    pub tracepoint: Arc<str>,
    /// Where in the run's batches it was said: [`arrival`] of the batch's number.
    pub at: u64,
    /// It was disarmed: the counters that are known are the last ones.
    pub is_end: bool,
}

impl Turn {
    /// Behind every batch.
    pub const LAST: u64 = i64::MAX as u64;
}

/// What is stored of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Hits that were stored.
    pub stored: u64,
    /// Of these, those that retention removed.
    pub expired: u64,
    /// Of these, those whose place is final.
    pub placed: u64,
    /// Of these, those that came late.
    pub late: u64,
    /// Its tracepoints on each host.
    pub tracepoints: Vec<TracepointCounts>,
}

/// What is stored of a tracepoint of one agent's run.
#[derive(Clone, Debug, PartialEq)]
pub struct TracepointCounts {
    /// The host.
    pub host: Arc<str>,
    /// The agent's run.
    pub agent: AgentId,
    /// The tracepoint.
    pub tracepoint: TracepointId,
    /// Hits that came.
    pub stored: u64,
    /// Numbers of hits that did not come: lost on the way, or still to come.
    pub missing: u64,
    /// Hits that came once more.
    pub duplicates: u64,
    /// The last counters, if any came.
    pub stats: Option<Stats>,
    /// There will be no others: it was disarmed, or the run after it accounted for it.
    pub is_closed: bool,
}

/// What is known of an agent's run.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentCounts {
    /// The agent's run.
    pub agent: AgentId,
    /// The host.
    pub host: Arc<str>,
    /// Batches that came.
    pub batches: u64,
    /// Numbers of batches that did not come.
    pub batches_missing: u64,
    /// The last heartbeat, if any came.
    pub heartbeat: Option<Heartbeat>,
}

/// What the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Hits that were stored since the file was made.
    pub stored: u64,
    /// Hits that came once more.
    pub duplicates: u64,
    /// Hits without a session: another client's.
    pub foreign: u64,
    /// Hits since the start that were not stored because their message was older than what is stored: the stream is another
    /// one than the file was made from.
    pub out_of_sequence: u64,
    /// Hits whose place is not final.
    pub provisional: u64,
    /// Hits that retention removed.
    pub expired: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Bytes of the file that are in use.
    pub bytes: u64,
    /// The stream sequence up to which everything is in the file.
    pub position: u64,
    /// Why the last commit failed, if it did.
    pub problem: Option<String>,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    path: PathBuf,
    options: Options,
    writer: Mutex<ingest::Writer>,
    shared: RwLock<Shared>,
    readers: reader::Pool,
    changed: watch::Sender<u64>,
}

/// What readers need besides the file: written together with it.
#[derive(Debug, Default)]
struct Shared {
    names: names::Names,
    /// Of each session, the hits that are not placed, by their arrival.
    provisional: HashMap<u32, Arc<BTreeMap<u64, segment::Entry>>>,
    /// What the file has of each session.
    sessions: HashMap<u32, SessionRow>,
    totals: Totals,
    watermark_ns: u64,
}

/// A session's row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SessionRow {
    /// Hits whose place is final.
    placed: u64,
    stored: u64,
    late: u64,
    expired: u64,
}

impl Store {
    /// Opens a store, or makes one.
    ///
    /// # Errors
    ///
    /// The file can't be opened, or it is not a store of this program.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        open::open(path, options)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// How it is kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Counts commits: who reads live hits waits for it.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// What the store says of itself.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared().totals.clone()
    }

    /// Up to which coordinated time the order is final.
    #[must_use]
    pub fn watermark_ns(&self) -> u64 {
        self.shared().watermark_ns
    }

    // A panic while one of the locks was held left nothing half done that a later commit would not write whole: memory is
    // changed by complete steps, and the file by transactions.
    fn writer(&self) -> MutexGuard<'_, ingest::Writer> {
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> std::sync::RwLockReadGuard<'_, Shared> {
        self.0.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a commit holds while it writes.
    #[cfg(test)]
    pub(crate) fn committing(&self) -> impl Drop + '_ {
        self.shared_mut()
    }

    fn shared_mut(&self) -> std::sync::RwLockWriteGuard<'_, Shared> {
        self.0.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

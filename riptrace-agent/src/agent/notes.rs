//! What the next run is to know of this one, should it end without a word: which tracepoints it held, and what they had
//! counted. One small file in the state folder, written when something was armed or disarmed, and with heartbeats; the counters
//! of what is armed are pinned in the kernel ([`pins`]). The next run puts both together and publishes the account.

mod account;

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use riptrace_common::{
    id::{AgentId, SessionId, TracepointId},
    wire::{batch::PreviousRun, event::Stats},
};
use serde::{Deserialize, Serialize};

use super::numbering::Place;
use crate::probe::pins::{self, Pins};

const FILE: &str = "run.json";
/// Held by the agent that uses the folder.
const LOCK: &str = "lock";
/// Runs that ended without a word and of which nobody was told yet; earlier ones are forgotten.
const MAX_PREVIOUS: usize = 16;

/// What a run leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The run.
    pub agent: AgentId,
    /// It ended with a word: everything that it counted is in the stream.
    pub ended: bool,
    /// Every tracepoint, but those whose last counters are in the stream.
    #[serde(default)]
    pub tracepoints: BTreeMap<TracepointId, Noted>,
    /// Which tracepoint each armed place is of.
    #[serde(default)]
    pub places: BTreeMap<Place, TracepointId>,
    /// What is to be told of earlier runs.
    #[serde(default)]
    pub previous: Vec<PreviousRun>,
}

/// A tracepoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noted {
    /// Its session.
    pub session: Option<SessionId>,
    /// What it counted on places where it is not armed any more.
    pub past: Stats,
    /// What it had counted when that was last looked at, everywhere.
    pub last: Stats,
    /// It is gone; this batch has its last counters.
    pub final_batch: Option<u64>,
}

/// The notes of this run.
#[derive(Debug)]
pub struct Notes {
    files: Option<Files>,
    note: Mutex<Note>,
    /// The last batch that tells of earlier runs; 0: they are not told of yet.
    previous_in: AtomicU64,
}

#[derive(Debug)]
struct Files {
    path: PathBuf,
    pins: PathBuf,
    /// What was written last.
    written: Mutex<Option<Note>>,
    /// Nobody else uses the folder as long as this is open.
    _lock: File,
}

impl Notes {
    /// Opens the folder for a run, and takes what earlier runs left there. Without a folder, and where another agent uses
    /// it, nothing is noted.
    ///
    /// # Errors
    ///
    /// The folder can't be used.
    pub fn open(folder: Option<&Path>, agent: &AgentId) -> io::Result<Self> {
        let note = Note {
            agent: agent.clone(),
            ended: false,
            tracepoints: BTreeMap::new(),
            places: BTreeMap::new(),
            previous: Vec::new(),
        };
        let alone = |note| Ok(Self { files: None, note: Mutex::new(note), previous_in: AtomicU64::new(0) });
        let Some(folder) = folder else { return alone(note) };
        fs::create_dir_all(folder)?;
        let lock = File::options().create(true).append(true).open(folder.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                tracing::warn!(
                    folder = %folder.display(),
                    "another agent uses the state folder: give each its own --state; should this one be killed, what \
                     it counted is not known"
                );
                return alone(note);
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let path = folder.join(FILE);
        let pins = pins::folder_of(folder)?;
        let left = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let note = Note { previous: left.map(|left| accounts(left, &pins)).unwrap_or_default(), ..note };
        let this = Self {
            files: Some(Files { path, pins, written: Mutex::default(), _lock: lock }),
            note: Mutex::new(note),
            previous_in: AtomicU64::new(0),
        };
        // What was read of the earlier runs is only here now.
        this.save();
        Ok(this)
    }

    /// What earlier runs left, and nobody was told of yet.
    #[must_use]
    pub fn previous(&self) -> Vec<PreviousRun> {
        self.note().previous.clone()
    }

    /// They are told of in batches up to this one.
    pub fn told_of_previous(&self, batch: u64) {
        self.previous_in.store(batch, Ordering::Relaxed);
    }

    /// Where this run's counters are to be pinned. `None`: they can't be, and it is said why.
    #[must_use]
    pub fn pins(&self) -> Option<Pins> {
        let files = self.files.as_ref()?;
        let run = self.note().agent.clone();
        pins::prepare(&files.pins, run.as_str()).inspect_err(|error| warn_of_pins(error)).ok()
    }

    /// Notes something; it is in the file after the next [`Notes::save`].
    pub fn update(&self, change: impl FnOnce(&mut Note)) {
        change(&mut self.note());
    }

    /// The stream has every batch up to this one: what was told in them need not be told again.
    pub fn acknowledged(&self, batch: u64) {
        let mut note = self.note();
        if (1..=batch).contains(&self.previous_in.load(Ordering::Relaxed)) {
            note.previous.clear();
        }
        note.tracepoints.retain(|_, noted| noted.final_batch.is_none_or(|last| last > batch));
    }

    /// Writes the file, if there is something new.
    pub fn save(&self) {
        let Some(files) = &self.files else { return };
        // Held while the file is written, so that an older note never replaces a newer one.
        let mut written = files.written.lock().unwrap_or_else(PoisonError::into_inner);
        let note = self.note().clone();
        if written.as_ref() == Some(&note) {
            return;
        }
        if let Err(error) = replace(&files.path, &note) {
            tracing::warn!(path = %files.path.display(), %error, "cannot note what this run counted");
        }
        *written = Some(note);
    }

    fn note(&self) -> MutexGuard<'_, Note> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once more at each start of the kernel side that a killed agent could not account for itself.
pub fn warn_of_pins(error: &dyn std::error::Error) {
    let reason = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    tracing::warn!(
        "counters are not pinned ({error}{reason}): should this agent be killed, what it counted is not known"
    );
}

/// What is to be told of the run that left this note, and of those before it.
fn accounts(left: Note, pins: &Path) -> Vec<PreviousRun> {
    let pinned = match pins::previous_runs(pins) {
        Ok(runs) => runs,
        Err(error) => {
            tracing::warn!(%error, "the counters of the last run can't be read");
            Vec::new()
        }
    };
    let counters = pinned.into_iter().find(|run| run.run == left.agent.as_str()).map(|run| run.counters);
    let counters = counters.and_then(|counters| {
        counters
            .inspect_err(|reason| tracing::warn!(reason, "the counters of the last run can't be read"))
            .ok()
    });
    let account = account::account(&left, counters.as_deref());
    let mut previous = left.previous;
    if let Some(account) = account {
        tracing::warn!(
            run = %account.agent, hits = account.hits, exact = account.exact, "the last run ended without a word"
        );
        previous.push(account);
    }
    let surplus = previous.len().saturating_sub(MAX_PREVIOUS);
    previous.drain(..surplus);
    previous
}

/// A reader finds the old note or the new one, whole.
fn replace(path: &Path, note: &Note) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(note)?)?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(hits: u64) -> Stats {
        Stats { hits, emitted: hits, ..Stats::default() }
    }

    fn open(folder: &Path, run: &str) -> Notes {
        Notes::open(Some(folder), &AgentId::from(run)).unwrap()
    }

    fn told(notes: &Notes) -> Vec<(String, u64, bool)> {
        let previous = notes.previous();
        previous.iter().map(|run| (run.agent.to_string(), run.hits, run.exact)).collect()
    }

    fn hold(notes: &Notes, hits: u64, places: &[Place]) {
        notes.update(|note| {
            let noted = Noted { past: stats(hits), last: stats(hits), ..Noted::default() };
            note.tracepoints.insert(TracepointId::from("t"), noted);
            note.places = places.iter().map(|place| (*place, TracepointId::from("t"))).collect();
        });
        notes.save();
    }

    #[test]
    fn a_run_that_ended_without_a_word_is_told_of_until_somebody_heard_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), "a_1");
        assert_eq!(told(&first), []);
        hold(&first, 9, &[]);
        drop(first);
        let second = open(folder.path(), "a_2");
        assert_eq!(told(&second), [("a_1".to_owned(), 9, true)], "nothing was armed");
        hold(&second, 5, &[7]);
        drop(second);
        let third = open(folder.path(), "a_3");
        let both = [("a_1".to_owned(), 9, true), ("a_2".to_owned(), 5, false)];
        assert_eq!(told(&third), both, "what is armed counts on, and nothing is pinned here");
        third.acknowledged(7);
        third.told_of_previous(2);
        third.acknowledged(1);
        assert_eq!(told(&third), both);
        third.acknowledged(2);
        hold(&third, 5, &[]);
        third.update(|note| note.ended = true);
        third.save();
        drop(third);
        let fourth = open(folder.path(), "a_4");
        assert_eq!(told(&fourth), []);
        drop(fourth);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(told(&open(folder.path(), "a_5")), []);
        assert_eq!(told(&Notes::open(None, &AgentId::from("a_6")).unwrap()), []);
    }

    #[test]
    fn a_tracepoint_is_forgotten_when_its_end_was_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let notes = open(folder.path(), "a_1");
        hold(&notes, 9, &[]);
        notes.update(|note| {
            note.tracepoints.get_mut(&TracepointId::from("t")).unwrap().final_batch = Some(3);
        });
        notes.acknowledged(2);
        assert_eq!(notes.note().tracepoints.len(), 1);
        notes.acknowledged(3);
        assert_eq!(notes.note().tracepoints.len(), 0);
    }

    #[test]
    fn a_folder_that_another_agent_uses_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path(), "a_1");
        hold(&first, 9, &[]);
        let other = open(folder.path(), "a_2");
        assert_eq!((told(&other), other.pins()), (Vec::new(), None));
        hold(&other, 5, &[]);
        drop((first, other));
        assert_eq!(told(&open(folder.path(), "a_3")), [("a_1".to_owned(), 9, true)]);
    }
}

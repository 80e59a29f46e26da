//! What the next run is to know of this one: how far it got, should it end without a word. One small file in the state
//! folder, written with heartbeats when something changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use riptrace_common::{id::AgentId, wire::batch::PreviousRun};
use serde::{Deserialize, Serialize};

const FILE: &str = "run.json";

/// How far a run got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The run.
    pub agent: AgentId,
    /// Hits that the kernel counted.
    pub hits: u64,
    /// Of these, those that were handed over as records.
    pub emitted: u64,
    /// Of these, those that the broker acknowledged.
    pub published: u64,
    /// It ended with a word: nothing is open.
    pub ended: bool,
}

/// The file.
#[derive(Debug, Default)]
pub struct Notes {
    path: Option<PathBuf>,
    last: Mutex<Option<Note>>,
}

impl Notes {
    /// Opens the folder, and tells of the run before, if it ended without a word. Without a folder nothing is noted.
    ///
    /// # Errors
    ///
    /// The folder can't be made.
    pub fn open(folder: Option<&Path>) -> io::Result<(Self, Option<PreviousRun>)> {
        let Some(folder) = folder else { return Ok((Self::default(), None)) };
        fs::create_dir_all(folder)?;
        let path = folder.join(FILE);
        let previous = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let previous = previous.filter(|note| !note.ended && note.hits > 0).map(|note| PreviousRun {
            agent: note.agent,
            hits: note.hits,
            emitted: note.emitted,
            published: Some(note.published),
        });
        Ok((Self { path: Some(path), last: Mutex::default() }, previous))
    }

    /// Notes how far this run got.
    pub fn write(&self, note: Note) {
        let Some(path) = &self.path else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(&note) {
            return;
        }
        if let Err(error) = replace(path, &note) {
            tracing::warn!(path = %path.display(), %error, "cannot note how far this run got");
        }
        *last = Some(note);
    }
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

    #[test]
    fn a_run_that_ended_without_a_word_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Notes::open(Some(folder.path())).unwrap();
        let (notes, previous) = open();
        assert_eq!(previous, None);
        let note = Note { agent: "a_1".into(), hits: 9, emitted: 8, published: 7, ended: false };
        notes.write(note.clone());
        let told = PreviousRun { agent: "a_1".into(), hits: 9, emitted: 8, published: Some(7) };
        assert_eq!(open().1, Some(told));
        notes.write(Note { ended: true, ..note });
        assert_eq!(open().1, None);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(open().1, None);
        assert_eq!(Notes::open(None).unwrap().1, None);
    }
}

//! The audit log: who had what traced, and when. A file of JSON lines that is only ever appended to, apart from the store,
//! which can be made anew.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use riptrace_common::wire::api::AuditEntry;

use crate::store::now_ns;

/// Entries of one answer at the most.
pub const MAX_ENTRIES: usize = 1000;
/// Bytes of a request that are kept in an entry; a longer one is left out, and that is said.
const MAX_DETAIL_BYTES: usize = 64 * 1024;

/// Why the log can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} the audit log {path}: {source}; nothing is changed while changes can't be written down"
)]
pub struct AuditError {
    what: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: Mutex<Tail>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    /// The number of the next entry.
    next: u64,
    /// Entries that could not be written.
    waiting: Vec<u8>,
}

/// What happened, without number and time.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Who.
    pub who: String,
    /// What.
    pub action: &'static str,
    /// On what.
    pub subject: String,
    /// The request.
    pub detail: serde_json::Value,
    /// From where.
    pub peer: Option<String>,
    /// Why it was not done.
    pub error: Option<String>,
}

impl Log {
    /// Opens a log, or makes one.
    ///
    /// # Errors
    ///
    /// The file can't be opened or read.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let fail = |what| move |source| AuditError { what, path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().create(true).append(true).read(true).open(path).map_err(fail("open"))?;
        let mut next = 1;
        for line in BufReader::new(&file).split(b'\n') {
            next = number_of(&line.map_err(fail("read"))?).map_or(next, |seq| seq + 1);
        }
        let mut waiting = Vec::new();
        // A line that was cut off by a crash stays, and stays by itself.
        let length = file.seek(SeekFrom::End(0)).map_err(fail("read"))?;
        if length > 0 && !ends_with_newline(&mut file).map_err(fail("read"))? {
            waiting.push(b'\n');
        }
        Ok(Self { path: path.to_owned(), file: Mutex::new(Tail { file, next, waiting }) })
    }

    /// Whether what happened can be written down. While it can't, nothing is to be changed.
    ///
    /// # Errors
    ///
    /// It can't.
    pub fn ready(&self) -> Result<(), AuditError> {
        self.flush(&mut self.tail())
    }

    /// Writes down what happened. What can't be written now is written before anything else is changed.
    ///
    /// # Errors
    ///
    /// It could not be written yet.
    pub fn append(&self, happened: Happened) -> Result<(), AuditError> {
        let mut tail = self.tail();
        let Happened { who, action, subject, mut detail, peer, error } = happened;
        let length = detail.to_string().len();
        if length > MAX_DETAIL_BYTES {
            detail = serde_json::json!({ "left_out_bytes": length });
        }
        let entry = AuditEntry {
            seq: tail.next,
            time_ns: now_ns(),
            who,
            action: action.to_owned(),
            subject,
            detail,
            peer,
            error,
        };
        tail.next += 1;
        if serde_json::to_writer(&mut tail.waiting, &entry).is_ok() {
            tail.waiting.push(b'\n');
        }
        self.flush(&mut tail)
    }

    /// The entries behind a number, the oldest first; the first [`MAX_ENTRIES`] of them.
    ///
    /// # Errors
    ///
    /// The file can't be read.
    pub fn entries(&self, after: u64) -> Result<Vec<AuditEntry>, AuditError> {
        let fail = |source| AuditError { what: "read", path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(fail)?;
        let mut entries = Vec::new();
        for line in BufReader::new(file).split(b'\n') {
            let line = line.map_err(fail)?;
            if number_of(&line).is_some_and(|seq| seq > after)
                && let Ok(entry) = serde_json::from_slice(&line)
            {
                entries.push(entry);
                if entries.len() == MAX_ENTRIES {
                    break;
                }
            }
        }
        Ok(entries)
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, tail: &mut Tail) -> Result<(), AuditError> {
        if tail.waiting.is_empty() {
            return Ok(());
        }
        let Tail { file, waiting, .. } = tail;
        let written = file.write_all(waiting).and_then(|()| file.sync_data());
        written.map_err(|source| AuditError { what: "write", path: self.path.clone(), source })?;
        waiting.clear();
        Ok(())
    }
}

fn number_of(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Number {
        seq: u64,
    }
    serde_json::from_slice::<Number>(line).ok().map(|number| number.seq)
}

fn ends_with_newline(file: &mut File) -> std::io::Result<bool> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    std::io::Read::read_exact(file, &mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(subject: &str) -> Happened {
        Happened {
            who: "local".to_owned(),
            action: "kill",
            subject: subject.to_owned(),
            ..Happened::default()
        }
    }

    #[test]
    fn entries_are_numbered_over_restarts_and_a_torn_line_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = Log::open(&path).unwrap();
        log.append(happened("a")).unwrap();
        log.append(happened("b")).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seq\":3,\"time").unwrap();
        let log = Log::open(&path).unwrap();
        log.append(happened("c")).unwrap();
        let entries = log.entries(0).unwrap();
        let found: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.subject.as_str())).collect();
        assert_eq!(found, [(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(log.entries(2).unwrap().len(), 1);
        let long = Happened { detail: "x".repeat(MAX_DETAIL_BYTES).into(), ..happened("d") };
        log.append(long).unwrap();
        assert!(log.entries(3).unwrap()[0].detail.get("left_out_bytes").is_some());
    }
}

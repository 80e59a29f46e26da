//! The evidence file: a session as one file, whoever made it. JSON lines: an [`EvidenceHeader`], then as many
//! [`StoredHit`]s as it says, in their order.

use std::{
    fmt,
    io::{self, BufRead, Read as _},
};

use super::api::{EvidenceHeader, StoredHit};

/// `EvidenceHeader::format`.
pub const FORMAT: &str = "riptrace-evidence";
/// `EvidenceHeader::version`.
pub const EVIDENCE_VERSION: u32 = 1;
/// Bytes of one line at the most.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Why a file can't be read as evidence.
#[derive(Debug)]
pub enum EvidenceError {
    /// It can't be read.
    Read(io::Error),
    /// It is something else.
    NotEvidence,
    /// A later version's.
    Version(u32),
    /// A line that makes no sense.
    Line {
        /// Which, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// It ends before its last hit.
    CutOff {
        /// Hits that should be there.
        hits: u64,
        /// Hits that are.
        found: u64,
    },
}

impl fmt::Display for EvidenceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(formatter, "cannot be read: {error}"),
            Self::NotEvidence => {
                write!(formatter, "is no evidence file; make one with `riptrace session export SESSION`")
            }
            Self::Version(version) => write!(
                formatter,
                "is an evidence file of version {version}; this riptrace reads {EVIDENCE_VERSION}: use a newer one"
            ),
            Self::Line { line, reason } => write!(formatter, "is damaged at line {line}: {reason}"),
            Self::CutOff { hits, found } => {
                write!(formatter, "is cut off: {found} of {hits} hits are in it; export it again")
            }
        }
    }
}

impl std::error::Error for EvidenceError {}

/// An evidence file that is being read.
#[derive(Debug)]
pub struct Evidence<R> {
    header: EvidenceHeader,
    lines: R,
    found: u64,
    ended: bool,
}

impl<R: BufRead> Evidence<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// It is no evidence file, or one of a later version.
    pub fn open(mut lines: R) -> Result<Self, EvidenceError> {
        let text = line(&mut lines, 1)?.ok_or(EvidenceError::NotEvidence)?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| EvidenceError::NotEvidence)?;
        if value["format"] != FORMAT {
            return Err(EvidenceError::NotEvidence);
        }
        match value["version"].as_u64().and_then(|version| u32::try_from(version).ok()) {
            Some(EVIDENCE_VERSION) => {}
            Some(other) => return Err(EvidenceError::Version(other)),
            None => return Err(EvidenceError::NotEvidence),
        }
        let header = serde_json::from_value(value);
        let header = header.map_err(|error| EvidenceError::Line { line: 1, reason: error.to_string() })?;
        Ok(Self { header, lines, found: 0, ended: false })
    }

    /// What it is of.
    #[must_use]
    pub fn header(&self) -> &EvidenceHeader {
        &self.header
    }

    fn next_hit(&mut self) -> Result<Option<StoredHit>, EvidenceError> {
        let number = self.found + 2;
        let Some(text) = line(&mut self.lines, number)? else {
            let hits = self.header.hits;
            return if self.found == hits {
                Ok(None)
            } else {
                Err(EvidenceError::CutOff { hits, found: self.found })
            };
        };
        let broken = |reason: String| EvidenceError::Line { line: number, reason };
        if self.found == self.header.hits {
            return Err(broken(String::from("more hits than its header says")));
        }
        let hit = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
        self.found += 1;
        Ok(Some(hit))
    }
}

impl<R: BufRead> Iterator for Evidence<R> {
    type Item = Result<StoredHit, EvidenceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_hit().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A line; `None`: the file's end.
fn line(lines: &mut impl BufRead, number: u64) -> Result<Option<String>, EvidenceError> {
    let mut text = String::new();
    let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut text);
    match read {
        Ok(0) => Ok(None),
        Ok(_) if text.len() as u64 == MAX_LINE_BYTES => {
            Err(EvidenceError::Line { line: number, reason: format!("longer than {MAX_LINE_BYTES} bytes") })
        }
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(EvidenceError::NotEvidence),
        Err(error) => Err(EvidenceError::Read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::SessionId,
        wire::api::{ClockState, Session, SessionState, SessionStatus},
    };

    fn header(hits: u64) -> String {
        let session = Session {
            id: SessionId::from("s_1"),
            name: "orders".to_owned(),
            state: SessionState::Stopped,
            created_ns: 1,
            expires_ns: 2,
            created_by: "local".to_owned(),
            tracepoints: Vec::new(),
        };
        let status = SessionStatus {
            session,
            hosts: Vec::new(),
            stored: hits,
            losses: super::super::batch::Losses::default(),
            unaccounted: Vec::new(),
            watermark_ns: 0,
            contradictions: Vec::new(),
        };
        let header = EvidenceHeader {
            format: FORMAT.to_owned(),
            version: EVIDENCE_VERSION,
            exported_ns: 3,
            status,
            clocks: ClockState::default(),
            hits,
        };
        serde_json::to_string(&header).unwrap()
    }

    fn read(text: &str) -> Result<u64, String> {
        let mut evidence = Evidence::open(text.as_bytes()).map_err(|error| error.to_string())?;
        evidence.try_fold(0, |sum, hit| hit.map(|_| sum + 1)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        assert_eq!(read(&header(0)), Ok(0));
        for other in ["", "{}", "PK\u{3}\u{4}", "[]", r#"{"format":"riptrace-evidence"}"#] {
            assert!(read(other).unwrap_err().contains("is no evidence file"), "{other}");
        }
        assert!(
            read(&header(0).replace("\"version\":1", "\"version\":9")).unwrap_err().contains("version 9")
        );
        assert!(read(&header(2)).unwrap_err().contains("0 of 2 hits"));
        assert!(read(&format!("{}\n{{}}\n", header(1))).unwrap_err().contains("damaged at line 2"));
        assert!(read(&format!("{}\n{{}}\n", header(0))).unwrap_err().contains("more hits"));
    }
}

//! Standard output, whose reader may go away at any time.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use serde::Serialize;

/// Writes to standard error. That nobody reads it is no reason to end: the kernel's counters and the exit code are still
/// to be had.
pub fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether the reader is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// It is.
    There,
    /// It closed the pipe: a normal end, not an error.
    Gone,
}

/// Buffered standard output. A closed pipe is told, not failed.
#[derive(Debug)]
pub struct Output {
    writer: BufWriter<Stdout>,
    reader: Reader,
}

impl Default for Output {
    fn default() -> Self {
        Self { writer: BufWriter::with_capacity(1 << 16, io::stdout()), reader: Reader::There }
    }
}

impl Output {
    /// Writes a text and a line's end.
    ///
    /// # Errors
    ///
    /// Any error of the output but a closed pipe.
    pub fn line(&mut self, text: &str) -> io::Result<Reader> {
        self.attempt(|writer| {
            writer.write_all(text.as_bytes())?;
            writer.write_all(b"\n")
        })
    }

    /// Writes a value as one line of JSON.
    ///
    /// # Errors
    ///
    /// As [`Output::line`], and a value that has no JSON.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<Reader> {
        self.line(&serde_json::to_string(value)?)
    }

    /// Hands what was written to the reader.
    ///
    /// # Errors
    ///
    /// Any error of the output but a closed pipe.
    pub fn flush(&mut self) -> io::Result<Reader> {
        self.attempt(Write::flush)
    }

    fn attempt(
        &mut self,
        write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>,
    ) -> io::Result<Reader> {
        if self.reader == Reader::There {
            match write(&mut self.writer) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.reader = Reader::Gone,
                other => other?,
            }
        }
        Ok(self.reader)
    }
}

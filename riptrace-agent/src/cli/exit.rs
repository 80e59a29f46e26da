//! How `riptrace` ends.

use std::fmt;

/// The exit codes of every command. They are part of the command line's contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// At least one hit, or ended as asked.
    Ok = 0,
    /// Anything unforeseen.
    Failure = 1,
    /// Wrong usage.
    Usage = 2,
    /// The location or the target can't be bound.
    Unbound = 3,
    /// Ended without a hit.
    NoHit = 4,
    /// Missing privilege or kernel feature.
    Unable = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: what was asked, why it failed, what to do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The text for the user.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// The location or the target can't be bound.
    pub fn unbound(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unbound, message)
    }

    /// A missing privilege or kernel feature.
    pub fn unable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unable, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failure, error)
    }
}

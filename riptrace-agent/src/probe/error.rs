//! Why the kernel side could not be loaded, told something, or attached.

use std::{io, path::PathBuf};

/// An error of this module. The texts fit behind "failed to …: " and say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// Not allowed to use BPF.
    #[error("{operation} is not permitted: {missing}; see `riptrace doctor`")]
    NotPermitted {
        /// What was tried.
        operation: String,
        /// What is missing, and how to get it.
        missing: String,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// The kernel is too old or built without something.
    #[error(
        "the kernel ({release}) lacks {feature}; RipTrace needs Linux 6.1 or newer; see `riptrace doctor`"
    )]
    Unsupported {
        /// `uname -r`.
        release: String,
        /// What it lacks.
        feature: String,
    },
    /// The object in this binary was built from other sources.
    #[error(
        "the kernel side speaks ABI version {found}, the agent {expected}; rebuild RipTrace from one source tree"
    )]
    AbiVersion {
        /// The object's.
        found: u32,
        /// `riptrace_common::abi::ABI_VERSION`.
        expected: u32,
    },
    /// This binary was built with `RIPTRACE_SKIP_EBPF=1`.
    #[error(
        "this binary was built without the kernel side (RIPTRACE_SKIP_EBPF=1); rebuild RipTrace without that"
    )]
    NoObject,
    /// The object in this binary is damaged.
    #[error("the kernel side in this binary is unreadable ({reason}); rebuild RipTrace")]
    BadObject {
        /// What is wrong with it.
        reason: String,
    },
    /// An option has a value that can't work.
    #[error("{option} is {value}, but {rule}")]
    BadOption {
        /// Which.
        option: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// The verifier or the map allocator said no.
    #[error("the kernel ({release}) refused {what}: {reason}")]
    Refused {
        /// `uname -r`.
        release: String,
        /// Program or map.
        what: String,
        /// The kernel's words, with the verifier's last lines.
        reason: String,
    },
    /// A map is full.
    #[error("no room for {wanted} more {what}: {capacity} are the limit; remove tracepoints first")]
    Full {
        /// What there is no room for.
        what: &'static str,
        /// How many were wanted.
        wanted: u32,
        /// How many there can be.
        capacity: u32,
    },
    /// Something that a plan asks for is beyond a limit of the kernel side.
    #[error("the plan of the site at {link_address:#x} has {found} {what}, the limit is {limit}")]
    PlanTooLarge {
        /// Which site.
        link_address: u64,
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An index that was never handed out, or was given back.
    #[error("there is no {what} with index {index}")]
    Unknown {
        /// What the index is of.
        what: &'static str,
        /// The index.
        index: u64,
    },
    /// A map could not be read or written.
    #[error("{operation} of the map {map} failed")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// Which map.
        map: &'static str,
        /// The system's own error.
        #[source]
        source: io::Error,
    },
    /// The traps could not be set.
    #[error("could not attach to {points} places in {}: {reason}", file.display())]
    Attach {
        /// The executable.
        file: PathBuf,
        /// How many places.
        points: usize,
        /// Why, with what to do where it is known.
        reason: String,
    },
    /// The counters could not be pinned.
    #[error(transparent)]
    Pins(#[from] super::pins::PinsError),
    /// The ring buffer was handed out before.
    #[error("the ring buffer already has a reader")]
    RingTaken,
}

impl ProbeError {
    /// Whether a privilege or a kernel feature is missing, as opposed to anything that a user can get wrong.
    pub fn is_missing_ability(&self) -> bool {
        matches!(self, Self::NotPermitted { .. } | Self::Unsupported { .. } | Self::Refused { .. })
    }
}

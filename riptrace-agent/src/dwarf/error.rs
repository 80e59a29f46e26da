//! What can be wrong with debug data.

/// Debug data that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DwarfError {
    /// There is none.
    #[error(
        "the binary has no .debug_info: it was built with -ldflags=-w or -s, or stripped; rebuild without, or give the separate debug file"
    )]
    NoDebugInfo,
    /// A section contradicts itself.
    #[error("debug data is broken ({what}): {source}")]
    Broken {
        /// What was being read.
        what: &'static str,
        /// What the reader met.
        source: gimli::Error,
    },
    /// An offset leads nowhere.
    #[error("debug data is broken ({what}): offset {offset:#x} is outside of its section")]
    BadOffset {
        /// What was being read.
        what: &'static str,
        /// The offset.
        offset: u64,
    },
    /// More of something than any compiler writes.
    #[error("debug data is broken ({what}): more than {limit} of them")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are read.
        limit: usize,
    },
}

impl DwarfError {
    /// For `map_err`: what was being read when gimli failed.
    pub(crate) fn broken(what: &'static str) -> impl Fn(gimli::Error) -> Self {
        move |source| Self::Broken { what, source }
    }
}

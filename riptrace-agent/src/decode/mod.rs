//! From a record of the ring buffer to a [`Hit`]. Pure: bytes and lookups in, data out.
//!
//! A record holds a root chunk (registers, stack windows) and chunks of memory, each with the address it was copied
//! from. Decoding walks a variable's Go type over these bytes; whatever it needs and does not find gets a label that
//! says why. Nothing is read from the process, nothing is guessed.
//!
//! * [`record`]: the record's parts, from arbitrary bytes.
//! * `memory`: which bytes of the target the record holds.
//! * `root`: a variable's own bytes, piece by piece.
//! * `value`, `interface`, `map`, `chan`: one Go kind after the other.
//! * `display`: the text that a Go developer expects for well-known types.
//! * [`trace_context`]: the span that a hit belongs to.
//! * `budget`: how large a hit may become.

mod budget;
mod chan;
mod display;
mod hit;
mod interface;
mod map;
mod memory;
pub mod record;
mod root;
mod symbols;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod time;
pub mod trace_context;
mod value;

use std::sync::Arc;

use riptrace_common::wire::event::Hit;

pub(crate) use self::display::duration;
pub use self::{
    record::RecordError,
    symbols::{FunctionName, Symbols, TypeIndex},
};
use crate::{
    golang::types::TypeSource,
    plan::{CaptureLimits, SitePlan},
    redact::Rules,
};

/// What decoding needs to know beside the record.
#[derive(Clone, Copy)]
pub struct DecodeContext<'a> {
    /// The plan of the site that the record names.
    pub plan: &'a SitePlan,
    /// The binary's types.
    pub types: &'a dyn TypeSource,
    /// Which index the kernel side knows a type by.
    pub registry: &'a dyn TypeIndex,
    /// Index of the binary among the kernel side's images.
    pub image: u32,
    /// Functions, lines and read-only bytes of the binary.
    pub symbols: &'a dyn Symbols,
    /// The tracepoint's limits.
    pub limits: CaptureLimits,
    /// The tracepoint.
    pub tracepoint_id: &'a Arc<str>,
    /// The machine.
    pub host: &'a HostFacts,
    /// The process.
    pub process: &'a ProcessFacts,
    /// The stack's frames, if the record only names them and they are known.
    pub sent_stack: Option<&'a [u64]>,
    /// Rules of what is not shown.
    pub redaction: Option<&'a Rules>,
}

/// The machine and the agent's run, as every hit repeats them.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Host name.
    pub host: Arc<str>,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Arc<str>,
    /// This run of the agent or of `riptrace probe`.
    pub agent: Arc<str>,
    /// The session, in a fleet.
    pub session: Option<Arc<str>>,
    /// The host's real-time clock minus its monotonic clock, in nanoseconds.
    pub realtime_minus_monotonic_ns: i64,
}

/// The process that made the hit.
#[derive(Clone, Debug)]
pub struct ProcessFacts {
    /// Process id, as the agent sees it.
    pub pid: u32,
    /// Its start on the kernel's boot clock, in nanoseconds.
    pub start_ns: Option<u64>,
    /// Its name, as `riptrace ps` prints it.
    pub name: Arc<str>,
    /// Build id of its executable.
    pub build_id: Option<Arc<str>>,
    /// Its container.
    pub container: Option<Arc<str>>,
}

/// A hit, and what was missing to show it whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The hit.
    pub hit: Hit,
    /// The span whose ids it names.
    pub span: Option<trace_context::SpanContext>,
    /// Link-time addresses of runtime types that the kernel side did not know. Once they are added to its map
    /// `DYNAMIC`, later hits show their values whole. An address may lie outside the binary's types (a type made by
    /// package `reflect`): such a one can't be added.
    pub unknown_types: Vec<u64>,
    /// Link-time addresses of closures' code that the kernel side did not know.
    pub unknown_code: Vec<u64>,
}

/// Why a record could not be decoded. Values that can't be shown are no errors: they are labelled in the hit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record itself is broken.
    #[error("the kernel side's record can't be read: {0}")]
    Record(#[from] RecordError),
    /// The record is longer or shorter than the site's plan makes it.
    #[error(
        "the record's root chunk has {found} bytes where the site's plan has {planned}: it was captured by another plan; detach and attach again"
    )]
    OtherPlan {
        /// Bytes in the record.
        found: usize,
        /// Bytes in the plan.
        planned: u32,
    },
}

/// Decodes one record. Never panics; time and memory are bounded by the record's size, the plan, and 1 MiB of JSON.
pub fn decode(record: &[u8], context: &DecodeContext<'_>) -> Result<Decoded, DecodeError> {
    hit::decode(record, context)
}

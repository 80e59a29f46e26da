//! The span (W3C Trace Context) that a hit belongs to: how the kernel side finds it in the program's contexts.
//!
//! Go's contexts are a chain: each holds an interface with the one before. The site's plan says where chains begin
//! ([`ContextPlan`]); the map `DYNAMIC` says, under the kind [`super::program::DYNAMIC_CONTEXT`], how each type of context
//! leads on ([`CONTEXT_PARENT`], [`CONTEXT_VALUE`]) and which values are spans. What is found is the last chunk of the
//! record, of type [`super::program::TYPE_SPAN`]. A type that is not in the map ends the chain.

/// Where a site's chains of contexts begin. Map `CONTEXTS`; `Site::contexts_plus_one` names the entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ContextPlan {
    /// The first of them that leads to a span counts.
    pub roots: [ContextRoot; CONTEXT_ROOTS],
}

/// Where an interface `context.Context` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ContextRoot {
    /// Root offset of its first word, or, with hops, of the pointer that leads to it.
    pub word: u32,
    /// Without hops: root offset of its second word.
    pub data: u32,
    /// Pointers that are followed to it: at most [`CONTEXT_HOPS`]. [`NO_CONTEXT`]: there is no such chain.
    pub hops: u32,
    /// Bytes from where a pointer leads to the next pointer, the last one to the interface.
    pub offsets: [u32; CONTEXT_HOPS],
}

/// `ContextRoot::hops` of an entry that is not used.
pub const NO_CONTEXT: u32 = u32::MAX;
/// Variables of a site that are looked at.
pub const CONTEXT_ROOTS: usize = 4;
/// Pointers between the root chunk and a context.
pub const CONTEXT_HOPS: usize = 3;
/// Contexts that are looked at for one hit, of all chains.
pub const MAX_CONTEXT_LINKS: u32 = 64;
/// Sites with such a plan.
pub const MAX_CONTEXT_PLANS: u32 = 2 * 1024;

/// `Dynamic::how`: the context's parent is the interface at offset `target` of it.
pub const CONTEXT_PARENT: u32 = 16;
/// The same, and behind the parent there are a key and a value, both `any`.
pub const CONTEXT_VALUE: u32 = 17;
/// A type of keys under which spans are kept.
pub const CONTEXT_KEY: u32 = 18;
/// A type of spans: the span context ([`Span`]) lies at offset `target` of what the data word leads to.
pub const CONTEXT_SPAN: u32 = 19;

/// What is copied of a `go.opentelemetry.io/otel/trace.SpanContext`, in its own layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// Trace id.
    pub trace_id: [u8; 16],
    /// Span id.
    pub span_id: [u8; 8],
    /// Trace flags, and padding.
    pub flags: [u8; 8],
    /// Trace state: a slice.
    pub state: [u64; 3],
    /// Whether the span is one of another process, and padding.
    pub remote: [u8; 8],
}

super::pod! { ContextPlan = 96, ContextRoot = 24, Span = 64 }

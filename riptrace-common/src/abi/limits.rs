//! Bounds that the kernel side enforces and the agent plans for.

/// Largest record, header and stack included. `--max-bytes` can lower it for a tracepoint, never raise it.
pub const MAX_RECORD_BYTES: u32 = 64 * 1024;
/// Largest single copy from the target (one object, one run of elements, one string).
pub const MAX_CHUNK_BYTES: u32 = 32 * 1024;
/// Largest root chunk: the register file, the stack windows and the constant words of one site.
pub const MAX_ROOT_BYTES: u32 = 16 * 1024;
/// Windows (runs of bytes copied into the root chunk) of one site.
pub const MAX_WINDOWS_PER_SITE: u32 = 64;
/// Slots of one type; a type that leads to more is followed only through its first ones, which the plan reports.
pub const MAX_SLOTS_PER_TYPE: u32 = 512;
/// Runs of bytes that are copied of a type with holes.
pub const MAX_KEPT_PER_TYPE: u32 = 128;
/// Reads that one chunk with holes may take; it is cut behind the last whole element.
pub const MAX_KEPT_READS: u32 = 1024;
/// Keys of maps whose values are followed although other keys' are not.
pub const MAX_ALLOWED_KEYS: u32 = 4096;
/// Work items (slot visits) of one hit. Past it the record carries `record::FLAG_STEPS_EXHAUSTED`.
pub const MAX_STEPS: u32 = 8 * 1024;
/// Frames of one call stack.
pub const MAX_STACK_FRAMES: u32 = 64;
/// Call stacks that are known to have been sent; with fewer (the agent's choice), and in any case when two fall together,
/// the one that was sent last.
pub const MAX_SENT_STACKS: u32 = 16 * 1024;
/// Chunks of one hit that are re-read after the walk to find torn maps.
pub const MAX_TORN_CHECKS: u32 = 16;
/// Bytes of such a chunk that are compared.
pub const TORN_CHECK_BYTES: u32 = 48;

/// Entries of the map of sites. A cookie's low half is an index into it.
pub const MAX_SITES: u32 = 16 * 1024;
/// Entries of the map of tracepoints, of their states and of their counters.
pub const MAX_TRACEPOINTS: u32 = 4 * 1024;
/// Entries of the map of windows, all sites together.
pub const MAX_WINDOWS: u32 = 64 * 1024;
/// Entries of the map of types, all plans together.
pub const MAX_TYPES: u32 = 64 * 1024;
/// Entries of the map of slots, all types together.
pub const MAX_SLOTS: u32 = 256 * 1024;
/// Entries of the map of tables. A site that finds none free is scanned.
pub const MAX_TABLES: u32 = 2 * 1024;
/// Indexes of types from here on are for root chunks (one for each site); those below are the agent's type registry's.
pub const FIRST_ROOT_TYPE: u32 = MAX_TYPES - MAX_SITES;
/// Indexes of slots from here on are for root chunks.
pub const FIRST_ROOT_SLOT: u32 = MAX_SLOTS / 4 * 3;
/// Entries of the map from runtime type (or closure code) addresses to types.
pub const MAX_DYNAMIC_TYPES: u32 = 128 * 1024;
/// Entries of the map of images (binaries).
pub const MAX_IMAGES: u32 = 1024;
/// Entries of the set of (tracepoint, process) pairs.
pub const MAX_PROCESSES: u32 = 16 * 1024;
/// Open calls that can be paired with their ends, all tracepoints together; with fewer (the agent's choice), and in any
/// case when they fall together, the oldest are given up.
pub const MAX_OPEN_CALLS: u32 = 64 * 1024;
/// Calls that one panic, or one end of a goroutine, can close.
pub const MAX_UNWOUND_CALLS: u32 = 16 * 1024;

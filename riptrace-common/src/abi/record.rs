//! What one hit looks like in the ring buffer.
//!
//! ```text
//! Header | Chunk (root) | root data, padded to 8 | Chunk | data, padded to 8 | … | stack frames (8 bytes each), or one hash
//! ```
//!
//! The record is exactly [`Header::total_bytes`] long. Chunks lie between the header and [`Header::stack_offset`].

/// First bytes of every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`super::ABI_VERSION`].
    pub abi_version: u32,
    /// Bytes of the whole record.
    pub total_bytes: u32,
    /// Index of the site.
    pub site: u32,
    /// Generation of the site's entry, as in the cookie.
    pub generation: u32,
    /// Index of the tracepoint.
    pub tracepoint: u32,
    /// `FLAG_*` bits.
    pub flags: u32,
    /// Offset of the first stack frame from the start of the record.
    pub stack_offset: u32,
    /// Recorded stack frames: run-time program counters, the hit's own first. Return addresses behind it.
    /// 0 with `FLAG_STACK_SENT`: there are 8 bytes, the stack's hash.
    pub stack_frames: u32,
    /// Place among this tracepoint's records: dense, so that a gap is a loss.
    pub seq: u64,
    /// `bpf_ktime_get_ns` (CLOCK_MONOTONIC) when the hit began.
    pub ktime_ns: u64,
    /// Thread group id of the initial pid namespace.
    pub tgid: u32,
    /// Thread id of the initial pid namespace.
    pub tid: u32,
    /// CPU that ran the hit.
    pub cpu: u32,
    /// Bit n: the site's window n could not be read and is zero here (windows past 31 share bit 31).
    pub window_faults: u32,
    /// Records written by this CPU before this one.
    pub cpu_seq: u64,
    /// Goroutine id; valid with `FLAG_GOROUTINE`.
    pub goid: u64,
    /// Goroutine id of the creator; 0: unknown.
    pub parent_goid: u64,
    /// `g.stack.hi` minus the frame address (CFA); valid with `FLAG_GOROUTINE` and without `FLAG_SYSTEM_STACK`.
    pub frame_from_stack_hi: u64,
    /// Run-time address minus link-time address of the image.
    pub load_bias: u64,
    /// How long the call took that ends here; valid with `FLAG_CALL_SEEN`.
    pub duration_ns: u64,
    /// `seq` of the call's entry; valid with `FLAG_CALL_SEEN`.
    pub entry_seq: u64,
    /// Run-time return address of the `go` statement that made the goroutine; 0: unknown.
    pub gopc: u64,
}

/// `goid` is valid.
pub const FLAG_GOROUTINE: u32 = 1 << 0;
/// The hit was on a system stack (g0 or gsignal); `goid` is the user goroutine that the thread runs for.
pub const FLAG_SYSTEM_STACK: u32 = 1 << 1;
/// `max_bytes` was reached: something was left out or cut.
pub const FLAG_BYTES_EXHAUSTED: u32 = 1 << 2;
/// `MAX_STEPS` was reached: something was left out.
pub const FLAG_STEPS_EXHAUSTED: u32 = 1 << 3;
/// The stack goes on behind its last recorded frame.
pub const FLAG_STACK_TRUNCATED: u32 = 1 << 4;
/// The stack's frames are in an earlier record of the ring; here is their hash (`super::stack`).
pub const FLAG_STACK_SENT: u32 = 1 << 5;

/// A call ends here whose entry was recorded.
pub const FLAG_CALL_SEEN: u32 = 1 << 8;
/// The call ended because a panic passed through it. The record names the entry's site and holds no variables: its
/// root chunk is empty.
pub const FLAG_PANIC: u32 = 1 << 9;
/// The same, because its goroutine ended by `runtime.Goexit`.
pub const FLAG_GOEXIT: u32 = 1 << 10;

/// In front of every chunk's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chunk {
    /// Run-time address of the first byte; 0 for the root chunk.
    pub address: u64,
    /// Index of the elements' type.
    pub type_index: u32,
    /// Elements that were there, before any limit (saturated at `u32::MAX`).
    pub count: u32,
    /// Bytes of data that follow, before padding to 8. Whole elements unless cut by `MAX_CHUNK_BYTES` or `max_bytes`.
    pub bytes: u32,
    /// Levels of pointers from the root.
    pub depth: u8,
    /// `CHUNK_*` bits.
    pub flags: u8,
    /// Reserved, zero.
    pub reserved: u16,
}

/// The bytes could not be read; `bytes` is 0.
pub const CHUNK_FAULT: u8 = 1 << 0;
/// The object changed while the hit was captured.
pub const CHUNK_TORN: u8 = 1 << 1;
/// Fewer elements than the limits allow were copied, because the record was full.
pub const CHUNK_CUT_BYTES: u8 = 1 << 2;

super::pod! { Header = 128, Chunk = 24 }

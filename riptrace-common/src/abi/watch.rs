//! What the kernel side tells of processes: written by the object `riptrace-watch`, read by `probe::watch`.

/// One record of the ring buffer `EVENTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProcessRecord {
    /// One of `PROCESS_*`.
    pub kind: u32,
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// CLOCK_MONOTONIC.
    pub ktime_ns: u64,
}

/// The process executes another program from now on.
pub const PROCESS_EXEC: u32 = 1;
/// The last thread of the process ends.
pub const PROCESS_EXIT: u32 = 2;

super::pod! { ProcessRecord = 16 }

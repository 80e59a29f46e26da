//! What every hit says about the machine and this run; the host's clocks.

use std::{
    fs, process,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::decode::HostFacts;

/// Reads the facts; what can't be read is `unknown`.
#[must_use]
pub fn facts() -> HostFacts {
    let read = |path: &str| {
        fs::read_to_string(path).map_or_else(|_| Arc::from("unknown"), |text| Arc::from(text.trim()))
    };
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    HostFacts {
        host: read("/proc/sys/kernel/hostname"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        // Unique on this machine for as long as it is up: a pid is not used twice in a microsecond.
        agent: Arc::from(format!("a_{started:x}{:x}", process::id())),
        session: None,
        realtime_minus_monotonic_ns: realtime_minus_monotonic_ns(),
    }
}

/// The clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(clock_ns(libc::CLOCK_MONOTONIC)).unwrap_or(0)
}

/// The host's real-time clock minus its monotonic clock. Between the two readings lies less than a microsecond, unless
/// this thread is preempted there; the closest of three pairs is taken.
#[must_use]
pub fn realtime_minus_monotonic_ns() -> i64 {
    minus_monotonic_ns(libc::CLOCK_REALTIME)
}

/// The boot clock minus the monotonic clock: how long the machine was suspended.
#[must_use]
pub fn boottime_minus_monotonic_ns() -> i64 {
    minus_monotonic_ns(libc::CLOCK_BOOTTIME)
}

fn minus_monotonic_ns(clock: libc::clockid_t) -> i64 {
    (0..3)
        .map(|_| {
            let before = clock_ns(libc::CLOCK_MONOTONIC);
            let other = clock_ns(clock);
            let after = clock_ns(libc::CLOCK_MONOTONIC);
            (after - before, other - (before + (after - before) / 2))
        })
        .min()
        .map_or(0, |(_, difference)| difference)
}

/// Seconds east of UTC of this machine's local time, now.
#[must_use]
pub fn utc_offset_seconds() -> i32 {
    let now = clock_ns(libc::CLOCK_REALTIME) / 1_000_000_000;
    // SAFETY: an all-zero `tm` is valid (its pointer may be null), and both places live through the call.
    let offset = unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut local);
        local.tm_gmtoff
    };
    i32::try_from(offset).unwrap_or(0)
}

fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result, and both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// How much nicer than the rest work in the background is (sched(7)).
const BACKGROUND_NICENESS: libc::c_int = 5;

/// Leaves the processor to the machine's other threads: for work that takes much of it and that nobody waits for by the
/// millisecond. Holds for this thread and those that it starts.
pub fn lower_priority() {
    // SAFETY: changes a scheduler's number of the calling thread (on Linux, 0 is the thread).
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BACKGROUND_NICENESS) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "the priority can't be lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_turns_monotonic_time_into_real_time() {
        let real = i64::try_from(monotonic_ns()).unwrap() + realtime_minus_monotonic_ns();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        assert!((i128::from(real) - i128::try_from(now).unwrap()).abs() < 1_000_000_000);
    }
}

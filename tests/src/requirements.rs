//! What the machine must offer. A test that has to be left out says so loudly; with `CI=true` it fails instead.

use std::io::Write as _;

use crate::go::Version;

/// Capability numbers of `linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Whether probes can be armed here. If not: says that `test` is left out, or fails under `CI=true`.
#[must_use]
pub fn bpf(test: &str) -> bool {
    let capabilities = effective_capabilities();
    let has = |capability: u32| capabilities >> capability & 1 == 1;
    if has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON) {
        return true;
    }
    leave_out(test, "it arms probes, which needs root, or CAP_BPF and CAP_PERFMON");
    false
}

/// The same of programs of this version of Go, which has to be here or to be fetched.
#[must_use]
pub fn bpf_and_go(test: &str, version: &Version) -> bool {
    bpf(test) && go(test, version)
}

/// Whether programs can be built by this version of Go. If not: as [`bpf`].
#[must_use]
pub fn go(test: &str, version: &Version) -> bool {
    let is_available = version.is_available();
    if !is_available {
        leave_out(test, "this version of Go can't be fetched here");
    }
    is_available
}

/// Says on standard error that a test is left out, past the capturing of output by the test runner.
///
/// # Panics
///
/// Under `CI=true`: there nothing may be left out.
pub fn leave_out(test: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} can't run: {why}");
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "\n*** LEFT OUT: {test}: {why}\n");
}

fn effective_capabilities() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}

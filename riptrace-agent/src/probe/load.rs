//! The kernel side's object: checked, sized for this machine, handed to the kernel.

use std::{borrow::Cow, io};

use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, maps::MapError, programs::ProgramError};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use riptrace_common::abi::{self, limits, program::CALLS_PER_SET};

use super::{KernelOptions, error::ProbeError, features};

/// Built by `build.rs` from `riptrace-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/riptrace-ebpf.o"));

/// The program for links with one place each, and the one for links with many.
/// The program that does what is asked for, and no more.
pub(super) fn program_name(multi: bool, options: &KernelOptions) -> &'static str {
    match (multi, options.conditions, options.calls) {
        (false, false, false) => "riptrace_single",
        (false, true, false) => "riptrace_single_conditions",
        (false, false, true) => "riptrace_single_calls",
        (false, true, true) => "riptrace_single_all",
        (true, false, false) => "riptrace_multi",
        (true, true, false) => "riptrace_multi_conditions",
        (true, false, true) => "riptrace_multi_calls",
        (true, true, true) => "riptrace_multi_all",
    }
}

/// Parses the object and creates its maps. The programs are not loaded yet.
pub(super) fn object(options: &KernelOptions) -> Result<Ebpf, ProbeError> {
    check_options(options)?;
    check_abi_version(OBJECT)?;
    raise_memlock_limit();
    let cpus = features::possible_cpus().map_err(|source| ProbeError::Map {
        operation: "sizing",
        map: "SCRATCH",
        source,
    })?;
    let scratch_per_cpu = options.scratch_per_cpu;
    let call_sets = options.open_calls / CALLS_PER_SET as u32;
    // Without the offset, code that runs outside Go's calling convention has no goroutine; nothing else changes.
    let fsbase_offset = options.task_fsbase_offset.or_else(features::task_fsbase_offset).unwrap_or(0);
    let mut loader = EbpfLoader::new();
    for map in PER_TRACEPOINT {
        loader.map_max_entries(map, options.max_tracepoints);
    }
    loader.map_max_entries("NAMES", if options.pins.is_some() { options.max_tracepoints } else { 1 });
    loader
        .override_global("CPUS", &cpus, true)
        .override_global("SCRATCH_PER_CPU", &scratch_per_cpu, true)
        .override_global("CALL_SETS", &call_sets, true)
        .override_global("SENT_STACK_SLOTS", &options.sent_stacks, true)
        .override_global("TASK_FSBASE_OFFSET", &fsbase_offset, true)
        .map_max_entries("SCRATCH", cpus.saturating_mul(scratch_per_cpu))
        .map_max_entries("JUDGEMENTS", cpus.saturating_mul(scratch_per_cpu))
        .map_max_entries("RECORDS", options.ring_bytes)
        .map_max_entries("CALLS", call_sets)
        .map_max_entries("SENT_STACKS", options.sent_stacks)
        .verifier_log_level(options.verifier_log)
        .load(OBJECT)
        .map_err(|error| refused("the maps", error))
}

/// The maps that tracepoints index.
const PER_TRACEPOINT: [&str; 5] = ["TRACEPOINTS", "STATES", "COUNTERS", "COSTS", "CALL_STATES"];

fn check_options(options: &KernelOptions) -> Result<(), ProbeError> {
    let bad = |option, value: u32, rule| Err(ProbeError::BadOption { option, value: value.into(), rule });
    if !options.ring_bytes.is_power_of_two() || options.ring_bytes < 2 * limits::MAX_RECORD_BYTES {
        return bad(
            "ring_bytes",
            options.ring_bytes,
            "it must be a power of two and hold two of the largest records",
        );
    }
    if !(1..=MAX_SCRATCH_PER_CPU).contains(&options.scratch_per_cpu) {
        return bad("scratch_per_cpu", options.scratch_per_cpu, "it must be from 1 to 8");
    }
    if !(1..=limits::MAX_TRACEPOINTS).contains(&options.max_tracepoints) {
        return bad("max_tracepoints", options.max_tracepoints, "it must be from 1 to 4096");
    }
    if !options.open_calls.is_power_of_two()
        || !(CALLS_PER_SET as u32..=limits::MAX_OPEN_CALLS).contains(&options.open_calls)
    {
        return bad("open_calls", options.open_calls, "it must be a power of two from 8 to 65536");
    }
    if !options.sent_stacks.is_power_of_two() || options.sent_stacks > limits::MAX_SENT_STACKS {
        return bad("sent_stacks", options.sent_stacks, "it must be a power of two from 1 to 16384");
    }
    Ok(())
}

/// The kernel side tries at most this many (`riptrace-ebpf`, maps.rs).
const MAX_SCRATCH_PER_CPU: u32 = 8;

/// The object carries the version it was compiled with in its read-only data.
pub(super) fn check_abi_version(bytes: &[u8]) -> Result<(), ProbeError> {
    let bad = |reason: String| ProbeError::BadObject { reason };
    if bytes.is_empty() {
        return Err(ProbeError::NoObject);
    }
    let file = object::File::parse(bytes).map_err(|error| bad(error.to_string()))?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("ABI_VERSION"))
        .ok_or_else(|| bad(String::from("it has no ABI_VERSION")))?;
    let found = symbol
        .section_index()
        .and_then(|index| file.section_by_index(index).ok())
        .and_then(|section| section.data_range(symbol.address(), 4).ok().flatten())
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes)
        .ok_or_else(|| bad(String::from("its ABI_VERSION has no value")))?;
    if found == abi::ABI_VERSION {
        Ok(())
    } else {
        Err(ProbeError::AbiVersion { found, expected: abi::ABI_VERSION })
    }
}

/// Before Linux 5.11 maps counted against RLIMIT_MEMLOCK; some distributions' 6.1 still do in a container. Failure
/// shows up as a map that can't be created, with its own message.
pub(super) fn raise_memlock_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a valid `rlimit` that the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "could not raise RLIMIT_MEMLOCK");
    }
}

/// Hands a program over, and again when the verifier was interrupted: it gives up with EAGAIN as soon as a signal waits for
/// the thread (kernel/bpf/verifier.c, `do_check`; libbpf repeats it, too). Signals are for other threads meanwhile, or wait:
/// a process whose children end by the hundred gets one every millisecond.
pub(super) fn until_decided(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const ATTEMPTS: usize = 5;
    let _blocked = SignalsBlocked::new();
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            decided => return decided,
        }
    }
    load()
}

/// While it lives, this thread gets no signals.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> Self {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: both have room for a set, of which every bit pattern is valid; the second one is written.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self { before: before.assume_init() }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was in force before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

/// Tells "not permitted" from "not possible".
pub(super) fn refused(what: &str, error: impl Into<EbpfError>) -> ProbeError {
    let (reason, source): (Cow<'_, str>, Option<io::Error>) = match error.into() {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            (format!("creating the map {name}: {io_error}").into(), Some(io_error))
        }
        EbpfError::ProgramError(ProgramError::LoadError { io_error, verifier_log }) => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(24)..].join("\n");
            (format!("{io_error}\n{tail}").into(), Some(io_error))
        }
        other => (other.to_string().into(), None),
    };
    match source {
        Some(source) if source.raw_os_error() == Some(libc::EPERM) => {
            not_permitted(&format!("loading {what}"), source)
        }
        _ => ProbeError::Refused {
            release: features::kernel_release(),
            what: what.to_owned(),
            reason: reason.into_owned(),
        },
    }
}

/// Says which privilege is missing, or what else forbids it.
pub(super) fn not_permitted(operation: &str, source: io::Error) -> ProbeError {
    let missing = features::missing_capabilities();
    let missing = if missing.is_empty() {
        String::from(
            "the system forbids it although this process has the capabilities (lockdown, seccomp or a security module)",
        )
    } else {
        format!(
            "needs root, or CAP_BPF + CAP_PERFMON + CAP_SYS_PTRACE; this process lacks {}",
            missing.join(" + ")
        )
    };
    ProbeError::NotPermitted { operation: operation.to_owned(), missing, source }
}

/// The verifier's words are needed only when it refuses; its statistics cost nothing.
pub(super) const DEFAULT_VERIFIER_LOG: VerifierLogLevel =
    VerifierLogLevel::DEBUG.union(VerifierLogLevel::STATS);

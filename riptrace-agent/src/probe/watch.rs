//! Which processes of this machine begin another program and which end, as the kernel sees it: nobody polls `/proc`.
//!
//! An object of its own (`riptrace-ebpf/src/watch.rs`) writes to a ring buffer of its own; a reader waits on
//! [`ProcessWatch::as_fd`] and then calls [`ProcessWatch::poll`].

use std::{
    collections::VecDeque,
    fs,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::RawTracePoint,
};
use riptrace_common::abi::watch::{PROCESS_EXEC, PROCESS_EXIT, ProcessRecord};

use super::{bad_map, btf, error::ProbeError, features, load, map_error, take};

/// Built by `build.rs` from `riptrace-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/riptrace-watch.o"));

/// Room for 10,000 events: what a machine does in the seconds that a busy reader may take. The kernel maps it twice.
const RING_BYTES: u32 = 256 * 1024;

/// What became of a process. Ids are those of the initial pid namespace, times those of the kernel's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It executes another program from now on: `/proc/PID/exe` is that already.
    Exec {
        /// Process id.
        pid: u32,
        /// When.
        ktime_ns: u64,
    },
    /// Its last thread ends. `/proc/PID` stays until its parent has taken notice.
    Exit {
        /// Process id.
        pid: u32,
        /// When.
        ktime_ns: u64,
    },
    /// So many events were lost since the last call: look at `/proc` to know what runs.
    Lost(u64),
}

/// The programs and their ring buffer. Dropping it detaches and unloads them.
pub struct ProcessWatch {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    /// Of `lost`, what was told.
    lost_told: u64,
    /// Where the kernel may tell of an exit several times.
    exits: Option<RecentExits>,
    /// Holds the programs.
    _ebpf: Ebpf,
}

impl std::fmt::Debug for ProcessWatch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProcessWatch").field("lost_told", &self.lost_told).finish_non_exhaustive()
    }
}

impl ProcessWatch {
    /// Loads the programs and attaches them. What happens from the return on is told; look at `/proc` after it, not
    /// before.
    ///
    /// # Errors
    ///
    /// As [`super::Kernel::load`].
    pub fn start() -> Result<Self, ProbeError> {
        Self::with_ring(RING_BYTES)
    }

    /// The same with another size of the ring buffer, a power of two not less than a page.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn with_ring(ring_bytes: u32) -> Result<Self, ProbeError> {
        load::check_abi_version(OBJECT)?;
        load::raise_memlock_limit();
        let (mut ebpf, told_once) = match load_and_attach(ring_bytes, ExitProgram::GroupDead)? {
            Some(ebpf) => (ebpf, true),
            // The tracepoint of this kernel has one argument only.
            None => (
                load_and_attach(ring_bytes, ExitProgram::LiveThreads)?.ok_or_else(|| {
                    ProbeError::Unsupported {
                        release: features::kernel_release(),
                        feature: String::from("the tracepoint sched_process_exit"),
                    }
                })?,
                false,
            ),
        };
        Ok(Self {
            ring: take(&mut ebpf, "EVENTS")?.try_into().map_err(|error| bad_map("EVENTS", &error))?,
            lost: take(&mut ebpf, "LOST")?.try_into().map_err(|error| bad_map("LOST", &error))?,
            lost_told: 0,
            exits: (!told_once).then(RecentExits::default),
            _ebpf: ebpf,
        })
    }

    /// Takes what happened since the last call, oldest first. Never waits.
    ///
    /// # Errors
    ///
    /// The number of lost events can't be read. Nothing is taken then.
    pub fn try_poll(&mut self) -> Result<Vec<ProcessEvent>, ProbeError> {
        // Before the events are taken: what is lost from now on comes after those that there was room for.
        let lost: u64 = self
            .lost
            .get(&0, 0)
            .map_err(|error| map_error("reading", "LOST", &error))?
            .iter()
            .copied()
            .fold(0, u64::wrapping_add);
        let mut events = Vec::new();
        while let Some(record) = self.ring.next() {
            events.extend(event(&record).filter(|event| match (&mut self.exits, event) {
                (Some(exits), &ProcessEvent::Exit { pid, ktime_ns }) => exits.is_new(pid, ktime_ns),
                _ => true,
            }));
        }
        if lost != self.lost_told {
            events.push(ProcessEvent::Lost(lost.wrapping_sub(self.lost_told)));
            self.lost_told = lost;
        }
        Ok(events)
    }

    /// As [`Self::try_poll`]; if the number of lost events can't be read, some are said to be lost.
    pub fn poll(&mut self) -> Vec<ProcessEvent> {
        self.try_poll().unwrap_or_else(|error| {
            tracing::warn!(%error, "whether events of processes were lost is not known");
            vec![ProcessEvent::Lost(1)]
        })
    }
}

/// Readable when there are events.
impl AsFd for ProcessWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// How the last thread of a process is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExitProgram {
    /// By an argument of the tracepoint (since Linux 6.16).
    GroupDead,
    /// By the number of threads that are left.
    LiveThreads,
}

/// `None`: this kernel's tracepoint has not the arguments that the program reads.
fn load_and_attach(ring_bytes: u32, exit: ExitProgram) -> Result<Option<Ebpf>, ProbeError> {
    let live = match exit {
        ExitProgram::GroupDead => None,
        ExitProgram::LiveThreads => live_threads_offsets(),
    };
    let (signal_offset, live_offset) = live.unwrap_or_default();
    let mut ebpf = EbpfLoader::new()
        .override_global("TASK_SIGNAL_OFFSET", &signal_offset, true)
        .override_global("SIGNAL_LIVE_OFFSET", &live_offset, true)
        .map_max_entries("EVENTS", ring_bytes)
        .verifier_log_level(load::DEFAULT_VERIFIER_LOG)
        .load(OBJECT)
        .map_err(|error| load::refused("the maps that watch processes", error))?;
    let name = match exit {
        ExitProgram::GroupDead => "riptrace_exit_group_dead",
        ExitProgram::LiveThreads => "riptrace_exit",
    };
    if let Err(error) = attach(&mut ebpf, name, "sched_process_exit")? {
        if exit == ExitProgram::GroupDead && error.raw_os_error() == Some(libc::EINVAL) {
            return Ok(None);
        }
        return Err(refused("sched_process_exit", error));
    }
    attach(&mut ebpf, "riptrace_exec", "sched_process_exec")?
        .map_err(|error| refused("sched_process_exec", error))?;
    Ok(Some(ebpf))
}

/// The inner error is the kernel's, when it attaches.
fn attach(
    ebpf: &mut Ebpf,
    program: &str,
    tracepoint: &str,
) -> Result<Result<(), std::io::Error>, ProbeError> {
    use aya::programs::ProgramError;
    let program: &mut RawTracePoint = ebpf
        .program_mut(program)
        .ok_or_else(|| ProbeError::BadObject { reason: format!("it has no program {program}") })?
        .try_into()
        .map_err(|error: ProgramError| ProbeError::BadObject { reason: error.to_string() })?;
    load::until_decided(|| program.load())
        .map_err(|error| load::refused("the program that watches processes", error))?;
    match program.attach(tracepoint) {
        Ok(_) => Ok(Ok(())),
        Err(ProgramError::SyscallError(error)) => Ok(Err(error.io_error)),
        Err(error) => Err(load::refused("the program that watches processes", error)),
    }
}

fn refused(tracepoint: &str, source: std::io::Error) -> ProbeError {
    let what = format!("attaching to the tracepoint {tracepoint}");
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => load::not_permitted(&what, source),
        _ => ProbeError::Refused { release: features::kernel_release(), what, reason: source.to_string() },
    }
}

/// Where the kernel counts the threads of a process that have not ended: offsets of `task_struct.signal` and
/// `signal_struct.live`.
fn live_threads_offsets() -> Option<(u32, u32)> {
    let types = fs::read(features::KERNEL_BTF).ok()?;
    Some((
        btf::member_offset(&types, "task_struct", "signal")?,
        btf::member_offset(&types, "signal_struct", "live")?,
    ))
}

fn event(record: &[u8]) -> Option<ProcessEvent> {
    let word = |at: usize| Some(u32::from_le_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let pid = word(std::mem::offset_of!(ProcessRecord, tgid))?;
    let at = std::mem::offset_of!(ProcessRecord, ktime_ns);
    let ktime_ns = u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?);
    match word(std::mem::offset_of!(ProcessRecord, kind))? {
        PROCESS_EXEC => Some(ProcessEvent::Exec { pid, ktime_ns }),
        PROCESS_EXIT => Some(ProcessEvent::Exit { pid, ktime_ns }),
        _ => None,
    }
}

/// Tells apart the threads of one process that end at the same time and each see that none is left.
#[derive(Debug, Default)]
struct RecentExits {
    latest: VecDeque<(u32, u64)>,
}

impl RecentExits {
    /// Exits of one process within this time are one. An id is given to another process only after all others were.
    const SAME_NS: u64 = 1_000_000_000;
    /// Exits that are looked back at.
    const KEPT: usize = 1024;

    fn is_new(&mut self, pid: u32, ktime_ns: u64) -> bool {
        while self.latest.front().is_some_and(|&(_, then)| ktime_ns.saturating_sub(then) > Self::SAME_NS) {
            self.latest.pop_front();
        }
        if self.latest.iter().rev().any(|&(known, _)| known == pid) {
            return false;
        }
        if self.latest.len() == Self::KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back((pid, ktime_ns));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_end_together_are_one_exit() {
        let mut exits = RecentExits::default();
        let told: Vec<bool> = [(7, 0), (7, 10), (8, 20), (7, 30), (8, 900_000_000), (7, 1_000_000_001)]
            .map(|(pid, ktime_ns)| exits.is_new(pid, ktime_ns))
            .into();
        assert_eq!(told, [true, false, true, false, false, true]);
        for pid in 0..5000 {
            exits.is_new(pid, 2_000_000_000);
        }
        assert_eq!(exits.latest.len(), RecentExits::KEPT);
    }

    #[test]
    fn records_that_are_cut_or_unknown_give_nothing() {
        let mut bytes = vec![2, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(event(&bytes), Some(ProcessEvent::Exit { pid: 9, ktime_ns: 5 }));
        assert_eq!(event(&bytes[..15]), None);
        bytes[0] = 3;
        assert_eq!(event(&bytes), None);
    }
}

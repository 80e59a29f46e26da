//! What the agent says of its host and of itself: from `/proc` and `uname`.

use std::{fs, num::NonZero};

use riptrace_common::{id::AgentId, wire::profile};

use super::settings::Settings;
use crate::{decode::HostFacts, probe::Features, trace::host};

/// Who this agent is: fixed for a run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Facts that every hit carries.
    pub hit: HostFacts,
    /// Facts of the profile.
    pub host: profile::HostFacts,
}

impl Identity {
    /// Reads the facts.
    #[must_use]
    pub fn read(settings: &Settings) -> Self {
        let mut hit = host::facts();
        if let Some(name) = &settings.host_name {
            hit.host = name.as_str().into();
        }
        let host = profile::HostFacts {
            host: hit.host.to_string(),
            agent: AgentId(hit.agent.clone()),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: hit.boot_id.to_string(),
            kernel: read("/proc/sys/kernel/osrelease"),
            architecture: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |cpus| u32::try_from(NonZero::get(cpus)).unwrap_or(u32::MAX)),
            memory_bytes: memory_bytes(&read("/proc/meminfo")).unwrap_or(0),
            uprobe_multi: Features::has_uprobe_multi(),
            labels: settings.labels.clone(),
        };
        Self { hit, host }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// `MemTotal` of `/proc/meminfo` (proc_meminfo(5)), in bytes.
fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What this process used so far: processor time in nanoseconds, resident memory in bytes.
#[must_use]
pub fn own_usage() -> (u64, u64) {
    // sched/proc: time on the processor in nanoseconds is the first number of each thread's schedstat; the sum over
    // threads that ended is only in stat, in ticks.
    let cpu_ns =
        cpu_ticks(&read("/proc/self/stat")).map_or(0, |ticks| ticks * crate::binary::process::ns_per_tick());
    (cpu_ns, resident_bytes(&read("/proc/self/status")).unwrap_or(0))
}

/// Fields 14 and 15 of `/proc/self/stat` (proc_pid_stat(5)): user and system time in ticks.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// `VmRSS` of `/proc/self/status` (proc_pid_status(5)), in bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_own_files_are_read() {
        assert_eq!(memory_bytes("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let stat = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 9 0 12345";
        assert_eq!(cpu_ticks(stat), Some(11));
        let (_, resident) = own_usage();
        assert!(resident > 0);
    }
}

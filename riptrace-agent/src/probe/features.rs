//! What this kernel, this process and this machine offer: for `riptrace doctor`, and to choose how to attach.
//! From `/proc`, `/sys` and a few trial system calls that change nothing.

use std::{fs, io};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, UProbeMultiFeature},
};

use super::btf;

/// What was found. A feature whose test was not permitted is [`Feature::Unknown`].
#[derive(Clone, Debug)]
pub struct Features {
    /// `uname -r`.
    pub kernel_release: String,
    /// Links with many places (Linux 6.6).
    pub uprobe_multi: Feature,
    /// Such links can be limited to one process (the filter was wrong up to 6.9.8 and is in some later 6.8 kernels).
    pub uprobe_multi_process_scope: Feature,
    /// Single links carry a cookie (Linux 5.15).
    pub cookies: Feature,
    /// `bpf_loop` (Linux 5.17).
    pub bpf_loop: Feature,
    /// BPF ring buffers (Linux 5.8).
    pub ring_buffer: Feature,
    /// Reading kernel memory (refused by lockdown in confidentiality mode).
    pub read_kernel: Feature,
    /// Type data of the kernel.
    pub btf: Feature,
    /// Offset of `task_struct.thread.fsbase`, which names goroutines in C and assembly code.
    pub task_fsbase_offset: Option<u32>,
    /// Capabilities that matter here and whether this process has them.
    pub capabilities: Vec<(&'static str, bool)>,
    /// `/sys/kernel/security/lockdown`: the mode in force.
    pub lockdown: Option<String>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
    /// CPUs that can ever be present.
    pub possible_cpus: u32,
}

/// The result of one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// There.
    Yes,
    /// Not there.
    No,
    /// Could not be found out, and why.
    Unknown(String),
}

impl Feature {
    /// There, or likely so: what could not be tested is tried.
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }

    fn from<E: std::fmt::Display>(result: Result<bool, E>) -> Self {
        match result {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// Bits of `CapEff` (include/uapi/linux/capability.h).
const CAPABILITIES: [(&str, u32); 6] = [
    ("CAP_BPF", 39),
    ("CAP_PERFMON", 38),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_DAC_READ_SEARCH", 2),
];

impl Features {
    /// Runs every test.
    pub fn detect() -> Self {
        let helper = |helper| Feature::from(aya::sys::is_helper_supported(ProgramType::KProbe, helper));
        Self {
            kernel_release: kernel_release(),
            uprobe_multi: uprobe_multi(),
            uprobe_multi_process_scope: uprobe_multi_process_scope(),
            cookies: helper(BpfHelper::BPF_FUNC_get_attach_cookie),
            bpf_loop: helper(BpfHelper::BPF_FUNC_loop),
            ring_buffer: Feature::from(aya::sys::is_map_supported(MapType::RingBuf)),
            read_kernel: helper(BpfHelper::BPF_FUNC_probe_read_kernel),
            btf: Feature::from(fs::exists(KERNEL_BTF)),
            task_fsbase_offset: task_fsbase_offset(),
            capabilities: capabilities(),
            lockdown: lockdown(),
            perf_event_paranoid: read_number("/proc/sys/kernel/perf_event_paranoid"),
            possible_cpus: possible_cpus().unwrap_or(1),
        }
    }
}

pub(super) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

pub(super) fn uprobe_multi() -> Feature {
    Feature::from(aya::sys::is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation))
}

pub(super) fn uprobe_multi_process_scope() -> Feature {
    Feature::from(aya::sys::is_uprobe_multi_supported(UProbeMultiFeature::ProcessScopedPidFilter))
}

/// Offset of `thread.fsbase` in `struct task_struct`: where a task keeps its FS base, on which Go's thread-local storage
/// hangs. `None`: the kernel has no type data.
pub fn task_fsbase_offset() -> Option<u32> {
    btf::member_offset(&fs::read(KERNEL_BTF).ok()?, "task_struct", "thread.fsbase")
}

/// The number of CPUs that per-CPU maps have room for.
pub(super) fn possible_cpus() -> io::Result<u32> {
    aya::util::nr_cpus()
        .map(u32::from)
        .map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
}

pub(super) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| String::from("unknown"), |text| text.trim().to_owned())
}

fn capabilities() -> Vec<(&'static str, bool)> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES.iter().map(|&(name, bit)| (name, effective >> bit & 1 == 1)).collect()
}

impl Features {
    /// Whether links can have many places.
    #[must_use]
    pub fn has_uprobe_multi() -> bool {
        uprobe_multi().is_yes()
    }

    /// The capabilities that are missing for loading and attaching; with CAP_SYS_ADMIN nothing is missing.
    #[must_use]
    pub fn missing_capabilities() -> Vec<&'static str> {
        missing_capabilities()
    }
}

/// The capabilities without which loading or attaching fails, of those that this process lacks. With CAP_SYS_ADMIN
/// nothing is missing.
pub(super) fn missing_capabilities() -> Vec<&'static str> {
    let capabilities = capabilities();
    if capabilities.contains(&("CAP_SYS_ADMIN", true)) {
        return Vec::new();
    }
    capabilities
        .iter()
        .filter(|&&(name, has)| !has && matches!(name, "CAP_BPF" | "CAP_PERFMON" | "CAP_SYS_PTRACE"))
        .map(|&(name, _)| name)
        .collect()
}

fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let mode = text.split_once('[')?.1.split_once(']')?.0;
    Some(mode.to_owned())
}

fn read_number(path: &str) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

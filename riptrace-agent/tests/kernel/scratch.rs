//! What happens when every scratch buffer is in use, as when hits of several tasks overlap on one CPU.

use std::{fs, io, os::fd::RawFd};

use riptrace_agent::probe::{Kernel, KernelOptions, Scope};
use riptrace_common::abi::program::Tracepoint;

use super::{
    session::{Session, site, tracepoint},
    target::{Build, Target},
};

/// Unlike any other test's, so that the map is known by its size.
const BUFFERS: u32 = 3;
/// A scratch buffer is larger than any other map's values.
const MIN_VALUE_BYTES: u64 = 65_536;
/// `bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;

/// The beginning of `union bpf_attr` for operations on one entry.
#[repr(C)]
struct EntryAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The descriptor of the map of scratch buffers, the bytes of one and how many there are: by what the kernel says of this
/// process's descriptors.
fn scratch_map() -> (RawFd, usize, u32) {
    let buffers = u64::from(BUFFERS * Kernel::features().possible_cpus);
    let found = fs::read_dir("/proc/self/fd").unwrap().flatten().find_map(|entry| {
        let descriptor = entry.file_name().to_str()?.to_owned();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).ok()?;
        let field = |name: &str| -> Option<u64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")?.trim().parse().ok())
        };
        let (bytes, entries) = (field("value_size")?, field("max_entries")?);
        (bytes >= MIN_VALUE_BYTES && entries == buffers).then_some((
            descriptor.parse().ok()?,
            usize::try_from(bytes).ok()?,
            u32::try_from(entries).ok()?,
        ))
    });
    found.expect("the map of scratch buffers")
}

/// Writes every buffer's first word, which says whether a hit uses it.
fn set_busy(busy: u64) {
    let (descriptor, bytes, entries) = scratch_map();
    let mut value = vec![0_u8; bytes.next_multiple_of(8)];
    value[..8].copy_from_slice(&busy.to_ne_bytes());
    for key in 0..entries {
        let attr = EntryAttr {
            map_fd: descriptor.cast_unsigned(),
            padding: 0,
            key: (&raw const key) as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `attr` is a fully initialised prefix of `union bpf_attr`; key and value are as long as the map's.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &raw const attr, size_of::<EntryAttr>())
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

#[test]
fn a_hit_without_a_buffer_is_dropped_and_counted_and_costs_no_slot_of_the_limit() {
    let mut target = Target::start(Build::Static);
    let options = KernelOptions { scratch_per_cpu: BUFFERS, ..KernelOptions::default() };
    let limited = Tracepoint { limit: 5, ..tracepoint() };
    let Some(mut session) = Session::with(&options, &target, &limited, &[target.pid()]) else { return };
    session.arm(&target, &[site(&target, "main.Ints", vec![])], Scope::Process(target.pid()));
    set_busy(1);
    target.call("Ints", 10, 2);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.dropped, counters.emitted), (20, 20, 0));
    set_busy(0);
    target.call("Ints", 10, 2);
    let counters = session.counters();
    assert_eq!((counters.hits, counters.dropped, counters.emitted, counters.throttled), (40, 20, 5, 15));
    let mut seqs: Vec<u64> = session.records().iter().map(|record| record.header.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (0..5).collect::<Vec<u64>>(), "what was dropped took no number");
}

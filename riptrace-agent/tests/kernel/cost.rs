//! What a hit costs beside a uprobe with an empty program at the same instruction. A measurement, not a check:
//! `cargo test --release -p riptrace-agent --test kernel -- --ignored --nocapture cost`.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use riptrace_agent::{
    plan::SitePlan,
    probe::{KernelOptions, Scope},
};
use riptrace_common::abi::program::{TYPE_FIRST, Tracepoint, WINDOW_STACK, Window, register};

use super::{
    session::{Session, TypePlan, pointer, site, slice, string, tracepoint, with_windows},
    target::{Build, Target},
};

/// Few enough that some rounds see no other task, even on a busy machine.
const CALLS: u32 = 4_000;
const ROUNDS: usize = 101;

#[test]
#[ignore = "a measurement"]
fn cost_of_a_hit() {
    let mut target = Target::start(Build::Static);
    let (path, pid) = (target.path.clone(), target.pid());
    let entry = || site(&target, "main.Framed", vec![]);
    let windows = vec![Window { base: WINDOW_STACK, offset: 0, root_offset: 168, bytes: 512, reserved: 0 }];
    let followed = vec![
        string(register::RAX, register::RBX),
        slice(register::RCX, register::RDI, TYPE_FIRST),
        pointer(register::R8, TYPE_FIRST + 1),
    ];
    let node =
        TypePlan { bytes: 32, slots: vec![string(0, 8), pointer(16, TYPE_FIRST + 1)], ..TypePlan::default() };
    let element = TypePlan { bytes: 16, slots: vec![string(0, 8)], ..TypePlan::default() };
    let types = [element, node];
    let other_process = Tracepoint { tgid: 1, ..tracepoint() };
    let shallow = Tracepoint { max_depth: 1, ..tracepoint() };
    let with_stack = Tracepoint { stack_frames: 16, ..tracepoint() };
    let throttled = Tracepoint { rate_per_second: 1, ..tracepoint() };
    let cases: Vec<(&str, Tracepoint, SitePlan)> = vec![
        ("other process: filtered", other_process, entry()),
        ("past the rate: throttled", throttled, entry()),
        ("registers", tracepoint(), entry()),
        ("registers, 512 bytes of stack", tracepoint(), with_windows(entry(), windows.clone())),
        ("the same, 16 frames", with_stack, with_windows(entry(), windows)),
        ("string, slice, struct: 1 level", shallow, SitePlan { root_slots: followed.clone(), ..entry() }),
        ("the same: 4 levels", tracepoint(), SitePlan { root_slots: followed, ..entry() }),
    ];
    let offset = entry().file_offset;
    let mut sessions = Vec::new();
    for (_, tracepoint, _) in &cases {
        let Some(mut session) = Session::with(&KernelOptions::default(), &target, tracepoint, &[]) else {
            return;
        };
        session.upload(&types);
        sessions.push(session);
    }
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len() + 2];
    let mut bytes = vec![0u32; cases.len()];
    for _ in 0..ROUNDS {
        let mut measure = || target.call("Framed", CALLS, 1) as f64 / f64::from(CALLS);
        samples[0].push(measure());
        let link = empty_uprobe(&path, pid, offset).expect("an empty program");
        samples[1].push(measure());
        drop(link);
        for (index, (session, (_, _, plan))) in sessions.iter_mut().zip(&cases).enumerate() {
            let (sites, attachment) = session.arm_in(&path, std::slice::from_ref(plan), Scope::Process(pid));
            samples[2 + index].push(measure());
            session.kernel.detach(attachment).expect("detached");
            session.kernel.remove_sites(&sites).expect("removed");
            // The ring has room for a round; a busy reader on the same machine would be measured as well.
            bytes[index] = session.records().last().map_or(bytes[index], |record| record.header.total_bytes);
            assert_eq!(session.counters().dropped, 0);
        }
    }
    // Other load only ever adds: the least is what the code costs, the median what it cost here.
    let least: Vec<f64> =
        samples.iter().map(|samples| samples.iter().copied().fold(f64::INFINITY, f64::min)).collect();
    let medians: Vec<f64> = samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect();
    let names = ["no probe", "empty program"].into_iter().chain(cases.iter().map(|(name, _, _)| *name));
    println!("{:34} {:>8} {:>6} {:>8} {:>6} {:>6}", "", "least ns", "ratio", "median", "ratio", "bytes");
    for (index, name) in names.enumerate() {
        println!(
            "{name:34} {:8.0} {:6.2} {:8.0} {:6.2} {:6}",
            least[index],
            least[index] / least[1],
            medians[index],
            medians[index] / medians[1],
            index.checked_sub(2).map_or(0, |case| bytes[case]),
        );
    }
}

/// A link that runs `return 0` at a file offset of the target, by the system calls alone.
fn empty_uprobe(path: &Path, pid: u32, offset: u64) -> io::Result<(OwnedFd, OwnedFd)> {
    const PROG_LOAD: libc::c_long = 5;
    const LINK_CREATE: libc::c_long = 28;
    const KPROBE: u32 = 2;
    const TRACE_UPROBE_MULTI: u32 = 48;
    // r0 = 0; exit
    let program: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    let mut load = [0u64; 16];
    load[0] = u64::from(KPROBE) | 2 << 32;
    load[1] = program.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    // expected_attach_type lies at byte 68.
    load[8] = u64::from(TRACE_UPROBE_MULTI) << 32;
    let program = bpf(PROG_LOAD, &load)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut link = [0u64; 8];
    link[0] = program.as_raw_fd() as u64;
    link[1] = TRACE_UPROBE_MULTI.into();
    link[2] = path.as_ptr() as u64;
    link[3] = (&raw const offset) as u64;
    link[6] = 1;
    link[7] = pid.into();
    Ok((bpf(LINK_CREATE, &link)?, program))
}

fn bpf(command: libc::c_long, attr: &[u64]) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is an initialised prefix of `union bpf_attr`; what it points at outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system call made this file descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

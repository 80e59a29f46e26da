//! What a hit costs beside a uprobe with an empty program at the same instruction. A measurement, not a check:
//! `cargo test --release -p riptrace-agent --test kernel -- --ignored --nocapture cost`.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    os::unix::ffi::OsStrExt as _,
};

use riptrace_agent::{plan::SitePlan, probe::Scope};
use riptrace_common::abi::program::{
    TRACEPOINT_ENABLED, TYPE_FIRST, Tracepoint, WINDOW_STACK, Window, register,
};

use super::{
    session::{Session, TypePlan, pointer, site, slice, string, tracepoint, with_windows},
    target::{Build, Target},
};

const CALLS: u32 = 100_000;
const ROUNDS: usize = 15;

#[test]
#[ignore = "a measurement"]
fn cost_of_a_hit() {
    let mut target = Target::start(Build::Static);
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
        ("the same, 16 frames", with_stack, with_windows(entry(), windows.clone())),
        ("string, slice, struct: 1 level", shallow, SitePlan { root_slots: followed.clone(), ..entry() }),
        ("the same: 4 levels", tracepoint(), SitePlan { root_slots: followed, ..entry() }),
    ];
    let offset = entry().file_offset;
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len() + 2];
    let mut bytes = vec![0u32; cases.len()];
    for _ in 0..ROUNDS {
        samples[0].push(target.call("Framed", CALLS, 1) as f64 / f64::from(CALLS));
        let link = empty_uprobe(&target, offset).expect("an empty program");
        samples[1].push(target.call("Framed", CALLS, 1) as f64 / f64::from(CALLS));
        drop(link);
        for (index, (_, tracepoint, plan)) in cases.iter().enumerate() {
            let Some(mut session) = Session::with(&Default::default(), &target, tracepoint, &[]) else {
                return;
            };
            session.upload(&types);
            session.arm(&target, std::slice::from_ref(plan), Scope::Process(target.pid()));
            // The ring has room for all of them; a busy reader on the same machine would be measured as well.
            let calls = if tracepoint.flags & TRACEPOINT_ENABLED != 0 { CALLS / 20 } else { CALLS };
            samples[2 + index].push(target.call("Framed", calls, 1) as f64 / f64::from(calls));
            bytes[index] = session.records().last().map_or(0, |record| record.header.total_bytes);
            assert_eq!(session.counters().dropped, 0);
        }
    }
    let medians: Vec<f64> = samples
        .iter_mut()
        .map(|samples| {
            samples.sort_by(f64::total_cmp);
            samples[samples.len() / 2]
        })
        .collect();
    println!("{:34} {:>8} {:>6} {:>7}", "", "ns", "ratio", "bytes");
    println!("{:34} {:8.0}", "no probe", medians[0]);
    println!("{:34} {:8.0} {:6.2}", "empty program", medians[1], 1.0);
    for ((name, _, _), (median, bytes)) in cases.iter().zip(medians[2..].iter().zip(&bytes)) {
        println!("{name:34} {median:8.0} {:6.2} {bytes:7}", median / medians[1]);
    }
}

/// A link that runs `return 0` at a file offset of the target, by the system calls alone.
fn empty_uprobe(target: &Target, offset: u64) -> io::Result<(OwnedFd, OwnedFd)> {
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
    let path = CString::new(target.path.as_os_str().as_bytes())?;
    let mut link = [0u64; 8];
    link[0] = program.as_raw_fd() as u64;
    link[1] = TRACE_UPROBE_MULTI.into();
    link[2] = path.as_ptr() as u64;
    link[3] = (&raw const offset) as u64;
    link[6] = 1;
    link[7] = target.pid().into();
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

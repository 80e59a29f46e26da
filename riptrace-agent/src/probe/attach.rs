//! Setting and removing traps.
//!
//! Many places of one file go into one `uprobe_multi` link (Linux 6.6): 500 places attach in a millisecond and detach
//! in 26, where single links take 99 ms and 54 s, since every single link waits for its own grace period. On older
//! kernels, or when asked to, each place gets a link of its own. Nothing is pinned: when the process dies, its file
//! descriptors close and the kernel removes every trap.

use std::{error::Error, io, num::NonZeroU32, path::Path};

use aya::{
    Ebpf,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLinkId, UProbeScope},
    },
};

use super::{SiteHandle, error::ProbeError, load};

/// Which processes trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every process that maps the file, those that start later included.
    AllProcesses,
    /// One process (its id as this process sees it); others do not trap at all.
    Process(u32),
}

/// The links of one call of `attach`.
#[derive(Debug)]
pub(super) struct Attachment {
    program: &'static str,
    link: UProbeLinkId,
}

/// Attaches all places or none.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    program_name: &'static str,
    file: &Path,
    points: &[(u64, SiteHandle)],
    scope: Scope,
) -> Result<Attachment, ProbeError> {
    let failed = |reason: String| ProbeError::Attach { file: file.to_owned(), points: points.len(), reason };
    let scope = match scope {
        Scope::AllProcesses => UProbeScope::AllProcesses,
        Scope::Process(pid) => match NonZeroU32::new(pid) {
            Some(pid) => UProbeScope::OneProcess(pid),
            None => return Err(failed(String::from("0 is no process"))),
        },
    };
    let attach_points = points.iter().map(|&(offset, site)| UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(offset),
        cookie: Some(site.cookie()),
    });
    let link = program(ebpf, program_name)?.attach(attach_points, absolute(file).as_path(), scope).map_err(
        |error| match os_error(&error) {
            Some(code) if code == libc::EPERM || code == libc::EACCES => {
                load::not_permitted("attaching", io::Error::from_raw_os_error(code))
            }
            Some(code) => failed(format!("{}{}", chain(&error), hint(code))),
            None => failed(chain(&error)),
        },
    )?;
    Ok(Attachment { program: program_name, link })
}

/// Removes the traps. When it returns, no hit of them is running any more.
pub(super) fn detach(ebpf: &mut Ebpf, attachment: Attachment) -> Result<(), ProbeError> {
    program(ebpf, attachment.program)?.detach(attachment.link).map_err(|error| ProbeError::Refused {
        release: super::features::kernel_release(),
        what: String::from("detaching"),
        reason: chain(&error),
    })
}

/// One of the two programs of the object.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, ProbeError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| ProbeError::BadObject { reason: format!("it has no program {name}") })
}

/// aya looks a bare file name up among the process's libraries; a path with a slash it leaves alone.
fn absolute(file: &Path) -> std::path::PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

fn os_error(error: &ProgramError) -> Option<i32> {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = error.source();
    }
    text
}

/// The kernel's own "not supported" (include/linux/errno.h), which escapes from the probing of instructions.
const ENOTSUPP: i32 = 524;

fn hint(code: i32) -> &'static str {
    match code {
        libc::ESRCH => " (the process has ended)",
        libc::EINVAL => " (the file offset is beyond the file, or not in an executable file)",
        libc::ENOENT => " (the file is gone; for a container use /proc/PID/root/… or /proc/PID/exe)",
        libc::EMFILE => " (raise the limit of open files: `ulimit -n`)",
        ENOTSUPP | libc::EOPNOTSUPP => " (an instruction there can't be probed)",
        _ => "",
    }
}

//! Running processes, by `/proc`: which are Go programs, what they are called, where their file is, where it is loaded.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::binary::{
    container::container_of,
    executable::{BinaryError, Executable, permission_hint},
};

/// Bytes of a thread's name that the kernel keeps (`TASK_COMM_LEN` without the zero byte).
const COMM_BYTES: usize = 15;
/// Files that a process has loaded and that are looked at.
const MAX_LOADED_FILES: usize = 256;
const DELETED_SUFFIX: &[u8] = b" (deleted)";

/// Entries of a process's auxiliary vector (linux/auxvec.h).
const AT_NULL: u64 = 0;
const AT_ENTRY: u64 = 9;

/// Why a process can't be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no such process.
    #[error("no process {pid}")]
    NotRunning {
        /// The process.
        pid: u32,
    },
    /// It ended after it was found.
    #[error("process {pid} ended before it was armed")]
    Ended {
        /// The process.
        pid: u32,
    },
    /// It runs something else.
    #[error("pid {pid} is not a Go program")]
    NotGo {
        /// The process.
        pid: u32,
    },
    /// `/proc` does not let us.
    #[error("cannot read {}: {source}{}", path.display(), permission_hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The address at which a position-independent program is loaded is not to be found.
    #[error("process {pid} does not run {}", path.display())]
    OtherProgram {
        /// The process.
        pid: u32,
        /// The program that was asked about.
        path: PathBuf,
    },
    /// Its program can't be read.
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

/// Whether this program runs with root's user id.
#[must_use]
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A process. Its facts are those of the moment at which it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id (thread group id), as this `/proc` counts.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// When it started, nanoseconds of the boot clock, to 10 ms; with the pid it names the process for ever.
    pub start_ns: u64,
    /// The executable's base name; or the name that the process (or a link it was started by) gave itself, where that
    /// is another one.
    pub name: String,
    /// The executable's path in the process's own view; for people, not for opening.
    pub exe: PathBuf,
    /// The file was deleted, or replaced by another, after the process started.
    pub deleted: bool,
    /// The command line.
    pub command_line: Vec<String>,
    /// The container that it is in.
    pub container: Option<String>,
    /// Where the same file is found in our own view of the file system, if it is.
    visible_at: Option<PathBuf>,
}

/// The Go processes that can be looked at, in the order of their pids, each with its program. Programs that many
/// processes run are opened once. What may not be read is left out; the second result says how many those are.
pub fn all_go() -> io::Result<(Vec<(Process, Executable)>, usize)> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    let mut opened: HashMap<(u64, u64), Option<Executable>> = HashMap::new();
    let mut found = Vec::new();
    let mut unreadable = 0;
    for pid in pids {
        let exe = exe_link(pid);
        let metadata = match fs::metadata(&exe) {
            Ok(metadata) => metadata,
            Err(error) => {
                unreadable += usize::from(error.kind() == io::ErrorKind::PermissionDenied);
                continue;
            }
        };
        let file = (metadata.dev(), metadata.ino());
        if opened.get(&file).is_some_and(Option::is_none) {
            continue;
        }
        // A process that ends meanwhile is no error here.
        let Ok(process) = Process::open(pid) else { continue };
        let program = opened
            .entry(file)
            .or_insert_with(|| Executable::open_as(&exe, &process.exe).ok().filter(Executable::is_go));
        if let Some(program) = program {
            found.push((process, program.clone()));
        }
    }
    Ok((found, unreadable))
}

impl Process {
    /// The facts of one process. Cheap: no program is opened.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let directory = directory(pid);
        let stat_path = directory.join("stat");
        let stat = read(&stat_path, pid)?;
        let (comm, parent, start_ns) = parse_stat(&stat).ok_or_else(|| ProcessError::Read {
            path: stat_path,
            source: io::Error::other("not in the form that is known"),
        })?;
        let link = exe_link(pid);
        let target = fs::read_link(&link).map_err(|source| not_found_is_gone(pid, &link, source))?;
        let metadata = fs::metadata(&link).map_err(|source| not_found_is_gone(pid, &link, source))?;
        let same_file = |path: &Path| {
            fs::metadata(path).is_ok_and(|at| (at.dev(), at.ino()) == (metadata.dev(), metadata.ino()))
        };
        let marked = target.as_os_str().as_bytes().strip_suffix(DELETED_SUFFIX);
        let (exe, deleted) = match marked {
            // A file may really be called so.
            Some(path) if !same_file(&target) => (PathBuf::from(std::ffi::OsStr::from_bytes(path)), true),
            _ => (target, false),
        };
        let command_line = read(&directory.join("cmdline"), pid)?;
        let cgroups = fs::read_to_string(directory.join("cgroup")).unwrap_or_default();
        Ok(Self {
            pid,
            parent,
            start_ns,
            name: name(&exe, &comm),
            visible_at: (!deleted && same_file(&exe)).then(|| exe.clone()),
            exe,
            deleted,
            command_line: command_line
                .split(|byte| *byte == 0)
                .filter(|argument| !argument.is_empty())
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect(),
            container: container_of(&cgroups).map(str::to_owned),
        })
    }

    /// The file to attach uprobes to. Any path to the inode will do; of a file in a container, or one that was deleted
    /// or replaced, `/proc/PID/exe` is the only one, and works as long as the process lives.
    pub fn attach_path(&self) -> PathBuf {
        self.visible_at.clone().unwrap_or_else(|| exe_link(self.pid))
    }

    /// Where the program's file is, seen from here, so that debug files beside it are found; `None` if it was deleted.
    pub fn found_at(&self) -> Option<PathBuf> {
        let in_container = || {
            let path = directory(self.pid).join("root").join(self.exe.strip_prefix("/").ok()?);
            path.exists().then_some(path)
        };
        if self.deleted { None } else { self.visible_at.clone().or_else(in_container) }
    }

    /// Files with Go code, other than its program, that it has loaded: plugins, and C libraries written in Go.
    pub fn loaded_go_files(&self) -> Vec<PathBuf> {
        let maps = fs::read_to_string(directory(self.pid).join("maps")).unwrap_or_default();
        let mut files: Vec<&str> = maps.lines().filter_map(executable_file).collect();
        files.sort_unstable();
        files.dedup();
        let seen_by_it = directory(self.pid).join("root");
        let is_go = |file: &&str| {
            let path = seen_by_it.join(file.trim_start_matches('/'));
            Executable::open(&path).is_ok_and(|file| file.is_go())
        };
        let others = files.into_iter().filter(|file| Path::new(file) != self.exe).take(MAX_LOADED_FILES);
        others.filter(is_go).map(PathBuf::from).collect()
    }

    /// Opens the program that it runs; an error if it is not a Go program.
    pub fn executable(&self) -> Result<Executable, ProcessError> {
        let link = exe_link(self.pid);
        let program = match Executable::open_as(&link, &self.exe) {
            Ok(program) if program.is_go() => program,
            Ok(_) | Err(BinaryError::Elf { .. }) => return Err(ProcessError::NotGo { pid: self.pid }),
            Err(error) if self.has_ended() => {
                tracing::debug!(%error, "process ended");
                return Err(ProcessError::Ended { pid: self.pid });
            }
            Err(error) => return Err(error.into()),
        };
        // The pid may have passed to another process between the two looks.
        if self.has_ended() { Err(ProcessError::Ended { pid: self.pid }) } else { Ok(program) }
    }

    /// Whether this very process is gone (its pid may be another's by now), or only waits for its parent to notice.
    pub fn has_ended(&self) -> bool {
        if is_ending(self.pid) {
            return true;
        }
        let now = fs::read(directory(self.pid).join("stat")).ok();
        now.as_deref().and_then(parse_stat).is_none_or(|(_, _, start_ns)| start_ns != self.start_ns)
    }
}

/// What is added to link-time addresses of a program in a process; 0 unless it is position-independent.
pub fn load_bias(pid: u32, program: &Executable) -> Result<u64, ProcessError> {
    if !program.is_pie() {
        return Ok(0);
    }
    let path = directory(pid).join("auxv");
    let vector = read(&path, pid)?;
    // The kernel says where it put the entry point (fs/binfmt_elf.c, `create_elf_tables`).
    vector
        .as_chunks::<16>()
        .0
        .iter()
        .filter_map(|entry| match entry.as_chunks().0 {
            [kind, value] => Some((u64::from_le_bytes(*kind), u64::from_le_bytes(*value))),
            _ => None,
        })
        .take_while(|(kind, _)| *kind != AT_NULL)
        .find(|(kind, _)| *kind == AT_ENTRY)
        .map(|(_, entry)| entry.wrapping_sub(program.elf().entry))
        .filter(|bias| bias % 4096 == 0)
        .ok_or_else(|| ProcessError::OtherProgram { pid, path: program.path().to_owned() })
}

/// The file of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is mapped to be executed.
fn executable_file(line: &str) -> Option<&str> {
    let mut fields = line.splitn(6, ' ');
    let permissions = fields.nth(1)?;
    let file = fields.nth(3)?.trim_start();
    (permissions.contains('x') && file.starts_with('/')).then_some(file)
}

fn directory(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

fn exe_link(pid: u32) -> PathBuf {
    directory(pid).join("exe")
}

fn read(path: &Path, pid: u32) -> Result<Vec<u8>, ProcessError> {
    fs::read(path).map_err(|source| not_found_is_gone(pid, path, source))
}

fn not_found_is_gone(pid: u32, path: &Path, source: io::Error) -> ProcessError {
    let gone = source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ESRCH);
    if gone && !directory(pid).exists() {
        return ProcessError::NotRunning { pid };
    }
    if gone && path.ends_with("exe") {
        // A process that is ending runs no program any more (and may not be in its last state yet), a kernel thread never
        // did.
        return if is_kernel_thread(pid) { ProcessError::NotGo { pid } } else { ProcessError::Ended { pid } };
    }
    ProcessError::Read { path: path.to_owned(), source }
}

/// Whether it is a thread of the kernel: `PF_KTHREAD` (include/linux/sched.h) in its flags (proc_pid_stat(5), field 9).
fn is_kernel_thread(pid: u32) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let stat = fs::read_to_string(directory(pid).join("stat")).unwrap_or_default();
    let flags =
        stat.rsplit_once(')').and_then(|(_, after)| after.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// Whether the process has ended and only waits for its parent to notice (state `Z` or `X`, proc_pid_stat(5), field 3).
/// A first thread that ended before the others is in that state too.
fn is_ending(pid: u32) -> bool {
    let stat = fs::read(directory(pid).join("stat")).unwrap_or_default();
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    match state {
        None => true,
        Some(b'Z' | b'X') => {
            fs::read_dir(directory(pid).join("task")).map_or(0, |threads| threads.flatten().take(2).count())
                < 2
        }
        Some(_) => false,
    }
}

/// Name, parent and start time of `/proc/PID/stat` (proc_pid_stat(5), fields 2, 4 and 22).
fn parse_stat(stat: &[u8]) -> Option<(String, u32, u64)> {
    let stat = String::from_utf8_lossy(stat);
    // The name may have spaces and parentheses of its own.
    let (before, after) = stat.rsplit_once(')')?;
    let comm = before.split_once('(')?.1.to_owned();
    let mut fields = after.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let ticks: u64 = fields.nth(17)?.parse().ok()?;
    Some((comm, parent, ticks.checked_mul(ns_per_tick())?))
}

/// Nanoseconds of a tick, the unit of times in `/proc/PID/stat`.
pub(crate) fn ns_per_tick() -> u64 {
    // SAFETY: the call has no preconditions.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks_per_second)
        .ok()
        .and_then(|ticks| 1_000_000_000_u64.checked_div(ticks))
        .unwrap_or(10_000_000)
}

/// The executable's base name; the thread name where it isn't its beginning (a process that named itself, or a link to
/// a program with many names), unless the kernel made it up because the file was run by descriptor.
fn name(exe: &Path, comm: &str) -> String {
    let base = exe.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let shown = base.as_bytes().get(..COMM_BYTES.min(base.len())).unwrap_or_default();
    let made_up = comm.is_empty() || comm == "exe" || comm.bytes().all(|byte| byte.is_ascii_digit());
    if base.is_empty() || (comm.as_bytes() != shown && !made_up) { comm.to_owned() } else { base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_anything() {
        let stat = |comm: &str| {
            format!(
                "42 ({comm}) S 7 42 42 0 -1 4194560 1 0 0 0 5 6 0 0 20 0 9 0 12345 1000 200 18446744073709551615"
            )
        };
        for comm in ["orders", "a b", "a) S 1 (b", "", "(("] {
            let (name, parent, start_ns) = parse_stat(stat(comm).as_bytes()).unwrap();
            assert_eq!((name.as_str(), parent, start_ns), (comm, 7, 12345 * ns_per_tick()));
        }
        for broken in ["", "42", "42 (x", "42 (x) S", "42 (x) S seven"] {
            assert_eq!(parse_stat(broken.as_bytes()), None);
        }
    }

    #[test]
    fn files_that_are_mapped_to_be_executed_are_told_from_the_rest() {
        for (line, expected) in [
            (
                "7f1c-7f2d r-xp 00001000 fe:00 1234                       /srv/my plugin.so",
                Some("/srv/my plugin.so"),
            ),
            ("7f1c-7f2d r--p 00001000 fe:00 1234                       /srv/data", None),
            ("7f1c-7f2d r-xp 00000000 00:00 0                          [vdso]", None),
            ("7f1c-7f2d rwxp 00000000 00:00 0 ", None),
            ("", None),
        ] {
            assert_eq!(executable_file(line), expected, "{line}");
        }
    }

    #[test]
    fn a_process_is_called_by_its_file_unless_it_chose_another_name() {
        for (exe, comm, expected) in [
            ("/srv/orders", "orders", "orders"),
            ("/srv/orders-service-with-a-long-name", "orders-service-", "orders-service-with-a-long-name"),
            ("/usr/bin/multi-call", "tool", "tool"),
            ("/srv/orders", "orders: worker", "orders: worker"),
            // Run by descriptor.
            ("/srv/orders", "exe", "orders"),
            ("/srv/orders", "6", "orders"),
            ("/srv/orders", "", "orders"),
            ("/", "orders", "orders"),
        ] {
            assert_eq!(name(Path::new(exe), comm), expected, "{exe} {comm}");
        }
    }
}
